//! Where tokens are had: an address that can be read in one way.

use countersign_gate::{Destination, Scheme};

/// `https://host[:port]/path`, and nothing behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) destination: Destination,
    pub(crate) path: String,
}

impl Target {
    /// # Errors
    /// What is wrong with it, to be read after "an address" or the like.
    pub(crate) fn parse(url: &str) -> Result<Self, String> {
        let (scheme, rest) = match url.split_once("://") {
            Some(("https", rest)) => (Scheme::Https, rest),
            Some(("http", rest)) => (Scheme::Http, rest),
            _ => return Err("that does not begin with https://".into()),
        };
        let (authority, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, "/"),
        };
        let port = if scheme == Scheme::Https { 443 } else { 80 };
        let destination = Destination::parse(scheme, authority, Some(port))
            .map_err(|why| format!("whose host is {why}"))?;
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/".contains(&b);
        let dotted = path.split('/').any(|segment| segment == "." || segment == "..");
        if path.len() > 1024 || !path.bytes().all(plain) || path.contains("//") || dotted {
            return Err(
                "whose path can be read in two ways, or that has a query or a fragment".into()
            );
        }
        Ok(Self { destination, path: path.to_owned() })
    }

    pub(crate) fn url(&self) -> String {
        let scheme = self.destination.scheme().as_str();
        format!("{scheme}://{}{}", self.destination.authority(), self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_one_spelling() {
        for (written, read) in [
            ("https://Auth.Example.com/token", "https://auth.example.com/token"),
            ("https://auth.example.com.:443/a/b", "https://auth.example.com/a/b"),
            ("https://auth.example.com", "https://auth.example.com/"),
            ("http://127.0.0.1:8080/t", "http://127.0.0.1:8080/t"),
            ("https://[::1]:9/t", "https://[::1]:9/t"),
        ] {
            assert_eq!(Target::parse(written).map(|it| it.url()).as_deref(), Ok(read));
        }
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_none() {
        for url in [
            "",
            "auth.example.com/token",
            "ftp://auth.example.com/",
            "HTTPS//x",
            "https://user@auth.example.com/",
            "https://auth.example.com/token?a=b",
            "https://auth.example.com/token#f",
            "https://auth.example.com/a/../b",
            "https://auth.example.com//b",
            "https://auth.example.com/%74oken",
            "https://auth.example.com/a b",
            "https://2130706433/",
            "https://auth.example.com:0/",
            "https://аuth.example.com/",
        ] {
            assert!(Target::parse(url).is_err(), "{url}");
        }
    }
}
