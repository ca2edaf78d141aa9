//! Names of hosts that say what they mean: an international name has one ASCII form (RFC 5891 §4), and one that is not
//! what it would be written as again can be another host to the next reader.

use countersign_gate::Destination;

/// Whether every `xn--` label of the host is the form that its letters have.
pub(crate) fn is_plain(destination: &Destination) -> bool {
    let host = destination.host();
    if !host.split('.').any(|label| label.starts_with("xn--")) {
        return true;
    }
    let (letters, read) = idna::domain_to_unicode(host);
    read.is_ok() && idna::domain_to_ascii(&letters).is_ok_and(|again| again == host)
}

#[cfg(test)]
mod tests {
    use countersign_gate::Scheme;

    use super::*;

    #[test]
    fn n_8_an_international_name_is_what_its_letters_are_written_as() {
        let plain = |host: &str| {
            is_plain(&Destination::parse(Scheme::Https, host, Some(443)).expect("a name"))
        };
        for host in ["api.github.com", "xn--pi-8kc.github.com", "xn--tda.example", "a.xn--p1ai"] {
            assert!(plain(host), "{host}");
        }
        // No punycode, too large a number, and letters that are mapped to others: É, a wide a, Ⅳ, ſ, a wide H.
        for host in [
            "xn--a.example",
            "xn--zz9999999999.example",
            "xn--dca.example",
            "xn--mi7c.example",
            "xn--t4g.example",
            "xn--kha.example",
            "xn--gitub-4k33a.com",
        ] {
            assert!(!plain(host), "{host}");
        }
    }
}
