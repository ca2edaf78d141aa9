//! Names of types.

use crate::lexis::Kind;
use crate::reader::{Read, Reader};
use crate::words;

impl Reader<'_, '_, '_> {
    /// A type's name, with what belongs to it.
    pub(crate) fn type_name(&mut self) -> Read {
        self.takes("setof");
        let Some(token) = self.peek() else { return self.wrong("a type is missing") };
        let word = if token.kind == Kind::Word { token.text.as_ref() } else { "" };
        match word {
            "int" | "integer" | "smallint" | "bigint" | "real" | "boolean" | "json" => self.skip(),
            "float" | "dec" | "decimal" | "numeric" | "varchar" => {
                self.skip();
                self.modifiers()?;
            }
            "double" if self.sees_all(&["double", "precision"]) => self.at += 2,
            "bit" | "character" | "char" | "nchar" => {
                self.skip();
                self.takes("varying");
                self.modifiers()?;
            }
            "national" => {
                self.skip();
                if !self.takes_any(&["char", "character"]) {
                    return self.wrong("NATIONAL is not before CHARACTER");
                }
                self.takes("varying");
                self.modifiers()?;
            }
            "time" | "timestamp" => {
                self.skip();
                self.modifiers()?;
                if !self.takes_all(&["with", "time", "zone"]) {
                    self.takes_all(&["without", "time", "zone"]);
                }
            }
            "interval" => {
                self.skip();
                self.modifiers()?;
                self.interval_fields()?;
            }
            _ => {
                self.qualified(words::names_functions)?;
                self.modifiers()?;
            }
        }
        if self.takes("array") {
            if self.takes_mark("[") {
                self.needs_kind(Kind::Number)?;
                self.needs_mark("]")?;
            }
            return Ok(());
        }
        while self.takes_mark("[") {
            if !self.sees_mark("]") {
                self.needs_kind(Kind::Number)?;
            }
            self.needs_mark("]")?;
        }
        Ok(())
    }

    pub(crate) fn modifiers(&mut self) -> Read {
        if self.sees_mark("(") {
            self.brackets(Self::values)?;
        }
        Ok(())
    }

    pub(crate) fn interval_fields(&mut self) -> Read {
        const FIELDS: [&str; 6] = ["year", "month", "day", "hour", "minute", "second"];
        if self.takes_any(&FIELDS) {
            self.modifiers()?;
            if self.takes("to") {
                if !self.takes_any(&FIELDS) {
                    return self.wrong("an interval has fields that are not known");
                }
                self.modifiers()?;
            }
        }
        Ok(())
    }
}
