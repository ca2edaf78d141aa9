//! What a connection begins with (PostgreSQL's manual, "Start-up"): requests for encryption, a request to cancel, or who
//! connects and to which database. Only what is known to be harmless goes on to the server.

use std::io;

use bytes::BufMut as _;
use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::message::{Fields, Malformed, put_text, write};

/// What a connection begins with.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum First {
    Cancel(CancelRequest),
    /// GSSAPI encryption, which is not spoken here.
    Gss,
    Startup(Startup),
    Tls,
}

/// What was given to an agent to cancel its statements with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct CancelRequest {
    pub(crate) process: i32,
    pub(crate) secret: i32,
}

/// Who connects, and what they asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Startup {
    pub(crate) user: String,
    pub(crate) database: String,
    /// As they go on to the server.
    pub(crate) parameters: Vec<(String, String)>,
    /// Of the protocol, that are not spoken here: they are said to be none.
    pub(crate) unknown_options: Vec<String>,
    /// A later minor version was asked for than is spoken here.
    pub(crate) later: bool,
}

/// Why a startup message is not followed, with its SQLSTATE.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) code: &'static str,
    pub(crate) why: String,
}

/// As PostgreSQL itself has it.
const LONGEST: usize = 10_000;
const TLS: i32 = 80_877_103;
const GSS: i32 = 80_877_104;
const CANCEL: i32 = 80_877_102;
/// Of names, as PostgreSQL cuts them.
const NAME_BYTES: usize = 63;
const VALUE_BYTES: usize = 256;

/// What goes on as it is. `search_path` does not: what a name means would then be up to the agent.
const PASSED_ON: [&str; 5] =
    ["application_name", "DateStyle", "extra_float_digits", "IntervalStyle", "TimeZone"];

/// Reads exactly the next packet, and not a byte more: what comes behind it in the clear is never taken for something
/// that came encrypted.
///
/// # Errors
/// A length that lies, and what breaks off.
pub(crate) async fn read<S>(stream: &mut S) -> io::Result<Vec<u8>>
where
    S: AsyncRead + Unpin,
{
    let length = stream.read_i32().await?;
    let length = usize::try_from(length).unwrap_or(0);
    if !(8..=LONGEST).contains(&length) {
        return Err(io::Error::other("what came is not the beginning of a Postgres connection"));
    }
    let mut packet = vec![0; length - 4];
    stream.read_exact(&mut packet).await?;
    Ok(packet)
}

/// What the packet says.
///
/// # Errors
/// What is not well-formed, and what is asked for that is not followed.
pub(crate) fn parse(packet: &[u8]) -> Result<First, Refused> {
    let mut fields = Fields(packet);
    let malformed = |Malformed(what)| Refused { code: "08P01", why: format!("there is {what}") };
    let code = fields.i32().map_err(malformed)?;
    let first = match code {
        TLS => First::Tls,
        GSS => First::Gss,
        CANCEL => {
            let process = fields.i32().map_err(malformed)?;
            let secret = fields.i32().map_err(malformed)?;
            First::Cancel(CancelRequest { process, secret })
        }
        version if version >> 16 == 3 => {
            let mut asked = Vec::new();
            loop {
                let name = fields.text().map_err(malformed)?;
                if name.is_empty() {
                    break;
                }
                asked.push((name, fields.text().map_err(malformed)?));
            }
            First::Startup(startup(asked, version & 0xffff > 0)?)
        }
        _ => {
            let why = "only version 3 of the protocol is spoken here".into();
            return Err(Refused { code: "0A000", why });
        }
    };
    fields.end().map_err(malformed)?;
    Ok(first)
}

fn startup(asked: Vec<(String, String)>, later: bool) -> Result<Startup, Refused> {
    let refused = |code, why: String| Err(Refused { code, why });
    let (mut user, mut database) = (None, None);
    let (mut parameters, mut unknown_options) = (Vec::<(String, String)>::new(), Vec::new());
    for (name, value) in asked {
        let passed = PASSED_ON.iter().find(|known| known.eq_ignore_ascii_case(&name));
        let twice = match name.as_str() {
            "user" => user.replace(value).is_some(),
            "database" => database.replace(value).is_some(),
            // What is sent on is always UTF-8, and the client is told so.
            "client_encoding" => {
                let spelled: String = value.chars().filter(char::is_ascii_alphanumeric).collect();
                if !["utf8", "unicode", "sqlascii"].contains(&spelled.to_lowercase().as_str()) {
                    let why = format!("client_encoding is {value:?}: only UTF8 is spoken here");
                    return refused("0A000", why);
                }
                false
            }
            "replication" if ["false", "off", "no", "0"].contains(&value.as_str()) => false,
            "replication" => {
                return refused("0A000", "replication does not go through this gateway".into());
            }
            "options" if value.is_empty() => false,
            "options" => {
                let why = "options are not passed on: they could set anything; have an administrator set them for the role (ALTER ROLE … SET)";
                return refused("0A000", why.into());
            }
            option if option.starts_with("_pq_.") => {
                unknown_options.push(name);
                false
            }
            _ => {
                let Some(passed) = passed else {
                    let why = format!(
                        "{name:?} is not passed on: only {} are; have an administrator set it for the role (ALTER ROLE … SET)",
                        PASSED_ON.join(", ")
                    );
                    return refused("0A000", why);
                };
                if value.len() > VALUE_BYTES || value.chars().any(char::is_control) {
                    return refused(
                        "22023",
                        format!(
                            "{name} has a value that is too long, or has a control character in it"
                        ),
                    );
                }
                let twice = parameters.iter().any(|(known, _)| known == passed);
                parameters.push(((*passed).to_owned(), value));
                twice
            }
        };
        if twice {
            return refused("08P01", "there is a parameter twice".into());
        }
    }
    let user = user.filter(|user| !user.is_empty());
    let Some(user) = user else { return refused("28000", "no user is named".into()) };
    let database = database.filter(|database| !database.is_empty()).unwrap_or_else(|| user.clone());
    if database.len() > NAME_BYTES || [".", ".."].contains(&database.as_str()) {
        return refused("3D000", "the database's name is none".into());
    }
    parameters.push(("client_encoding".into(), "UTF8".into()));
    Ok(Startup { user, database, parameters, unknown_options, later })
}

impl Startup {
    /// Says that of the protocol no more is spoken here than version 3.0, where more was asked for.
    pub(crate) fn put_negotiation(&self, out: &mut BytesMut) {
        if !self.later && self.unknown_options.is_empty() {
            return;
        }
        write(out, b'v', |out| {
            out.put_i32(3 << 16);
            out.put_i32(i32::try_from(self.unknown_options.len()).unwrap_or(i32::MAX));
            self.unknown_options.iter().for_each(|name| put_text(out, name));
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(version: i32, pairs: &[(&str, &str)]) -> Vec<u8> {
        let mut packet = BytesMut::new();
        packet.put_i32(version);
        for (name, value) in pairs {
            put_text(&mut packet, name);
            put_text(&mut packet, value);
        }
        packet.put_u8(0);
        packet.to_vec()
    }

    fn started(pairs: &[(&str, &str)]) -> Result<Startup, Refused> {
        match parse(&packet(3 << 16, pairs))? {
            First::Startup(startup) => Ok(startup),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_harmless_goes_on_in_utf_8_and_nothing_else_does() {
        let startup = started(&[
            ("user", "robot"),
            ("database", "app"),
            ("application_name", "psql"),
            ("timezone", "UTC"),
            ("client_encoding", "'utf-8'"),
            ("replication", "false"),
        ])
        .expect("it is followed");
        assert_eq!((startup.user.as_str(), startup.database.as_str()), ("robot", "app"));
        let parameters: Vec<_> = startup
            .parameters
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        assert_eq!(
            parameters,
            [("application_name", "psql"), ("TimeZone", "UTC"), ("client_encoding", "UTF8")]
        );
        for (name, value) in [
            ("options", "-c session_replication_role=replica"),
            ("replication", "database"),
            ("replication", "true"),
            ("client_encoding", "SJIS"),
            ("search_path", "evil"),
            ("session_preload_libraries", "evil"),
            ("user", "another"),
        ] {
            assert!(started(&[("user", "robot"), (name, value)]).is_err(), "{name}={value}");
        }
        assert_eq!(started(&[("user", "robot")]).expect("followed").database, "robot");
        assert!(started(&[("database", "app")]).is_err());
        assert!(started(&[("user", "robot"), ("database", "..")]).is_err());
    }

    #[test]
    fn what_does_not_end_where_it_should_is_refused() {
        let whole = packet(3 << 16, &[("user", "robot")]);
        assert!(parse(&whole).is_ok());
        assert!(parse(&whole[..whole.len() - 1]).is_err());
        assert!(parse(&[&whole[..], b"x"].concat()).is_err());
        assert!(parse(&packet(2 << 16, &[("user", "robot")])).is_err());
        assert_eq!(parse(&TLS.to_be_bytes()), Ok(First::Tls));
        assert_eq!(parse(&GSS.to_be_bytes()), Ok(First::Gss));
        assert!(parse(&[&TLS.to_be_bytes()[..], b"x"].concat()).is_err());
        assert!(parse(&[&CANCEL.to_be_bytes()[..], &[0; 7]].concat()).is_err());
    }

    #[test]
    fn a_later_version_is_talked_down_to_this_one() {
        let First::Startup(startup) =
            parse(&packet(3 << 16 | 2, &[("user", "robot"), ("_pq_.x", "1")])).expect("followed")
        else {
            panic!("a startup message");
        };
        let mut out = BytesMut::new();
        startup.put_negotiation(&mut out);
        assert_eq!(&out[..], b"v\0\0\0\x13\0\x03\0\0\0\0\0\x01_pq_.x\0");
        out.clear();
        started(&[("user", "robot")]).expect("followed").put_negotiation(&mut out);
        assert!(out.is_empty());
    }

    #[tokio::test]
    async fn no_more_is_read_than_the_packet_and_a_length_that_lies_ends_it() {
        let mut bytes: &[u8] = b"\0\0\0\x08\x04\xd2\x16\x2fmore";
        assert_eq!(read(&mut bytes).await.expect("a packet"), TLS.to_be_bytes());
        assert_eq!(bytes, b"more");
        for length in [0i32, 7, -1, i32::MIN, i32::MAX, 10_001] {
            let packet = [&length.to_be_bytes()[..], &[0; 64]].concat();
            assert!(read(&mut &packet[..]).await.is_err(), "{length}");
        }
    }
}
