//! A statement as a request, so that whatever is done with requests is done with it: its text exactly as it will be sent,
//! its values, and what they are read in. And back: what was released to the message that is sent.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use countersign_gate::{Outbound, Payload};
use countersign_sql::Effect;
use serde::{Deserialize, Serialize};

use super::message::Value;

/// Whether statements are within a transaction, as the server said last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Transaction {
    #[default]
    Idle,
    Open,
    Failed,
}

impl Transaction {
    /// From ReadyForQuery.
    pub(crate) fn of(status: u8) -> Option<Self> {
        match status {
            b'I' => Some(Self::Idle),
            b'T' => Some(Self::Open),
            b'E' => Some(Self::Failed),
            _ => None,
        }
    }

    pub(crate) fn status(self) -> u8 {
        match self {
            Self::Idle => b'I',
            Self::Open => b'T',
            Self::Failed => b'E',
        }
    }
}

/// What the server reports of itself that changes what a statement means, where it is not as it usually is.
pub(crate) type Settings = BTreeMap<String, String>;

/// The settings that count, and what they usually are.
const USUAL: [(&str, &str); 2] =
    [("search_path", "\"$user\", public"), ("standard_conforming_strings", "on")];

/// Takes in what a server reported.
pub(crate) fn reported(settings: &mut Settings, name: &str, value: &str) {
    let Some((_, usual)) = USUAL.iter().find(|(known, _)| *known == name) else { return };
    if value == *usual {
        settings.remove(name);
    } else {
        settings.insert(name.to_owned(), value.to_owned());
    }
}

/// The body of a statement's request. Keys are written in this order.
#[derive(Serialize)]
#[serde(rename_all = "lowercase", tag = "protocol")]
enum Asked<'a> {
    Simple {
        statement: &'a str,
        transaction: Transaction,
        #[serde(skip_serializing_if = "Settings::is_empty")]
        settings: &'a Settings,
    },
    Extended {
        statement: &'a str,
        parameters: Vec<Parameter>,
        transaction: Transaction,
        #[serde(skip_serializing_if = "Settings::is_empty")]
        settings: &'a Settings,
    },
}

/// The same, as far as it is sent.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase", tag = "protocol")]
enum Told {
    Simple { statement: String },
    Extended { parameters: Vec<Parameter> },
}

/// A value and the object id of its type: 0 where the server is to find that out.
#[derive(Serialize, Deserialize)]
struct Parameter {
    #[serde(rename = "type")]
    kind: u32,
    #[serde(flatten)]
    value: Written,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Written {
    Binary { format: Binary, base64: String },
    Text { format: Text, value: String },
    Null { null: bool },
}

#[derive(Serialize, Deserialize)]
enum Binary {
    #[serde(rename = "binary")]
    Binary,
}

#[derive(Serialize, Deserialize)]
enum Text {
    #[serde(rename = "text")]
    Text,
}

/// What is asked about a Query.
pub(crate) fn simple(text: &str, transaction: Transaction, settings: &Settings) -> Bytes {
    written(&Asked::Simple { statement: text, transaction, settings })
}

/// What is asked about a statement with its values; `types` may be fewer than these.
pub(crate) fn extended(
    text: &str,
    types: &[u32],
    values: &[Value],
    transaction: Transaction,
    settings: &Settings,
) -> Bytes {
    let parameter = |(index, value): (usize, &Value)| Parameter {
        kind: types.get(index).copied().unwrap_or(0),
        value: match value {
            Value::Binary(bytes) => {
                Written::Binary { format: Binary::Binary, base64: STANDARD.encode(bytes) }
            }
            Value::Null => Written::Null { null: true },
            Value::Text(text) => Written::Text { format: Text::Text, value: text.clone() },
        },
    };
    let parameters = values.iter().enumerate().map(parameter).collect();
    written(&Asked::Extended { statement: text, parameters, transaction, settings })
}

fn written(asked: &Asked<'_>) -> Bytes {
    // Text, numbers and lists of them: there is nothing in it that JSON cannot say.
    serde_json::to_vec(asked).unwrap_or_default().into()
}

/// What of a released request is sent.
pub(crate) enum Released {
    /// The text of a Query.
    Query(String),
    /// The values of a Bind.
    Values(Vec<Value>),
}

/// From what came out of the gate to what is sent: nothing else is.
///
/// # Errors
/// For what is no statement's request.
pub(crate) fn released(outbound: Outbound) -> Result<Released, &'static str> {
    const NONE: &str = "what was released is no statement";
    let Payload::Whole(body) = outbound.into_parts().payload else { return Err(NONE) };
    let value = |parameter: Parameter| match parameter.value {
        Written::Binary { base64, .. } => {
            STANDARD.decode(base64).map(|bytes| Value::Binary(bytes.into())).map_err(|_| NONE)
        }
        Written::Null { .. } => Ok(Value::Null),
        Written::Text { value, .. } => Ok(Value::Text(value)),
    };
    match serde_json::from_slice(&body).map_err(|_| NONE)? {
        Told::Simple { statement } => Ok(Released::Query(statement)),
        Told::Extended { parameters } => {
            parameters.into_iter().map(value).collect::<Result<_, _>>().map(Released::Values)
        }
    }
}

/// What a text may do to those that come after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Aftermath {
    /// It may change how they are read, so that nothing is judged while it is under way.
    pub(crate) unsettles: bool,
    /// It may give the name of a prepared statement to another one.
    pub(crate) renames: bool,
}

impl Aftermath {
    /// Of this text; the worst of one that is not understood.
    pub(crate) fn of(text: &str) -> Self {
        let Ok(statements) = countersign_sql::read(text) else {
            return Self { unsettles: true, renames: true };
        };
        let dangerous = statements.effect() >= Effect::Danger;
        let has = |kinds: &[&str]| statements.iter().any(|it| kinds.contains(&it.kind));
        Self {
            unsettles: dangerous || has(&["set", "discard"]),
            renames: dangerous || has(&["prepare"]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(body: &Bytes) -> &str {
        std::str::from_utf8(body).expect("JSON")
    }

    #[test]
    fn a_statement_is_written_as_agreed_and_in_this_order() {
        let mut settings = Settings::new();
        let body = simple("select 'é' -- \"\n", Transaction::Idle, &settings);
        assert_eq!(
            text(&body),
            r#"{"protocol":"simple","statement":"select 'é' -- \"\n","transaction":"idle"}"#
        );
        reported(&mut settings, "standard_conforming_strings", "off");
        reported(&mut settings, "application_name", "psql");
        let values =
            [Value::Text("a".into()), Value::Binary(Bytes::from_static(b"\0\xff")), Value::Null];
        let body = extended("select $1", &[25], &values, Transaction::Open, &settings);
        assert_eq!(
            text(&body),
            concat!(
                r#"{"protocol":"extended","statement":"select $1","parameters":["#,
                r#"{"type":25,"format":"text","value":"a"},{"type":0,"format":"binary","base64":"AP8="},"#,
                r#"{"type":0,"null":true}],"transaction":"open","#,
                r#""settings":{"standard_conforming_strings":"off"}}"#
            )
        );
        reported(&mut settings, "standard_conforming_strings", "on");
        assert!(settings.is_empty());
    }

    #[test]
    fn what_may_change_what_follows_is_known_and_so_is_what_may_not() {
        let of = |text| {
            let Aftermath { unsettles, renames } = Aftermath::of(text);
            (unsettles, renames)
        };
        for text in
            ["select 1", "begin", "insert into t values (1)", "drop table t", "deallocate s"]
        {
            assert_eq!(of(text), (false, false), "{text}");
        }
        assert_eq!(of("set statement_timeout = 1"), (true, false));
        for text in ["prepare s as delete from t", "do $$begin end$$", "select f()", "select '"] {
            assert!(of(text).1, "{text}");
        }
        assert!(of("select set_config('client_encoding', 'SJIS', false)").0);
    }
}
