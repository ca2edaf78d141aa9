//! The fields of spans as the JSON that log lines carry, written straight down. Every request has a span, and most are
//! on no line: the library's own way makes a map of them first, and another one for each field that comes later.

use std::fmt;

use tracing::field::{Field, Visit};
use tracing::span::Record;
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::FormattedFields;
use tracing_subscriber::fmt::format::{FormatFields, Writer};

pub(super) struct Fields;

impl<'writer> FormatFields<'writer> for Fields {
    fn format_fields<R: RecordFields>(
        &self,
        mut writer: Writer<'writer>,
        fields: R,
    ) -> fmt::Result {
        writer.write_char('{')?;
        members(&mut writer, true, |members| fields.record(members))?;
        writer.write_char('}')
    }

    fn add_fields(
        &self,
        current: &'writer mut FormattedFields<Self>,
        fields: &Record<'_>,
    ) -> fmt::Result {
        let text = &mut current.fields;
        if text.pop().is_none() {
            text.push('{');
        }
        let none = text.as_str() == "{";
        members(text, none, |members| fields.record(members))?;
        text.push('}');
        Ok(())
    }
}

fn members(
    out: &mut dyn fmt::Write,
    first: bool,
    record: impl FnOnce(&mut Members<'_>),
) -> fmt::Result {
    let mut members = Members { out, first, result: Ok(()) };
    record(&mut members);
    members.result
}

/// Writes the members of an object.
struct Members<'a> {
    out: &'a mut dyn fmt::Write,
    first: bool,
    result: fmt::Result,
}

impl Members<'_> {
    fn member(&mut self, field: &Field, value: impl FnOnce(&mut dyn fmt::Write) -> fmt::Result) {
        let written = self.result.and_then(|()| {
            if !std::mem::take(&mut self.first) {
                self.out.write_char(',')?;
            }
            let name = field.name();
            text(self.out, name.strip_prefix("r#").unwrap_or(name))?;
            self.out.write_char(':')?;
            value(self.out)
        });
        self.result = written;
    }
}

impl Visit for Members<'_> {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.member(field, |out| {
            if value.is_finite() { write!(out, "{value:?}") } else { out.write_str("null") }
        });
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.member(field, |out| write!(out, "{value}"));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.member(field, |out| write!(out, "{value}"));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.member(field, |out| write!(out, "{value}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.member(field, |out| text(out, value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.member(field, |out| text(out, &format!("{value:?}")));
    }
}

/// A string (RFC 8259 §7).
fn text(out: &mut dyn fmt::Write, value: &str) -> fmt::Result {
    out.write_char('"')?;
    let mut rest = value;
    while let Some(at) = rest.find(|c: char| matches!(c, '"' | '\\' | '\0'..='\x1f')) {
        let (plain, after) = rest.split_at(at);
        out.write_str(plain)?;
        // All of these are one byte.
        match after.as_bytes()[0] {
            byte @ (b'"' | b'\\') => write!(out, "\\{}", char::from(byte))?,
            byte => write!(out, "\\u{byte:04x}")?,
        }
        rest = &after[1..];
    }
    out.write_str(rest)?;
    out.write_char('"')
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use tracing::field::Empty;
    use tracing_subscriber::fmt::MakeWriter;
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("lines").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Lines {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    /// What the line of an event says that happens while `run` is in its span.
    fn line(run: impl FnOnce()) -> serde_json::Value {
        let lines = Lines::default();
        let layer = tracing_subscriber::fmt::layer()
            .json()
            .flatten_event(true)
            .fmt_fields(Fields)
            .with_writer(lines.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), run);
        let bytes = lines.0.lock().expect("lines").clone();
        serde_json::from_slice(&bytes).expect("one line of JSON")
    }

    #[test]
    fn a_line_has_the_fields_of_its_spans_as_they_were_given() {
        const HOST: &str = "a\"b\\c\n\u{1}\u{e9}\u{1f600}";
        let line = line(|| {
            let span = tracing::info_span!(
                "request",
                agent = "robot",
                host = Empty,
                count = 7_u64,
                less = -7_i64,
                share = 0.5,
                whole = 2.0,
                never = f64::NAN,
                yes = true,
                what = ?Some("x\"y"),
                r#type = "t",
            );
            span.record("host", HOST);
            span.record("count", 8_u64);
            let _in = span.enter();
            tracing::info!(code = 1, "said");
        });
        let span = &line["span"];
        assert_eq!(span["name"], "request");
        assert_eq!(span["agent"], "robot");
        assert_eq!(span["host"], HOST);
        assert_eq!(span["count"], 8, "the last that was recorded");
        assert_eq!(span["less"], -7);
        assert_eq!(span["share"], 0.5);
        assert_eq!(span["whole"], 2.0);
        assert!(span["never"].is_null());
        assert_eq!(span["yes"], true);
        assert_eq!(span["what"], "Some(\"x\\\"y\")");
        assert_eq!(span["type"], "t");
        assert_eq!(&line["spans"][0], span);
        assert_eq!((&line["code"], &line["message"]), (&1.into(), &"said".into()));
    }

    #[test]
    fn a_span_without_fields_is_on_the_line_and_takes_fields_later() {
        let bare = line(|| {
            let _in = tracing::info_span!("bare").entered();
            tracing::info!("said");
        });
        assert_eq!(bare["span"], serde_json::json!({ "name": "bare" }));
        let late = line(|| {
            let span = tracing::info_span!("late", host = Empty);
            span.record("host", "x");
            let _in = span.enter();
            tracing::info!("said");
        });
        assert_eq!(late["span"], serde_json::json!({ "name": "late", "host": "x" }));
    }
}
