//! What is being waited for: one line on a terminal, nothing in a pipe.

use std::io::{IsTerminal as _, Write as _};

use crate::print::visible;

/// A line on stderr that says what goes on; it is gone when this is dropped.
pub(crate) struct Progress {
    terminal: bool,
    said: String,
}

impl Progress {
    pub(crate) fn begin() -> Self {
        Self { terminal: std::io::stderr().is_terminal(), said: String::new() }
    }

    pub(crate) fn say(&mut self, what: &str) {
        if self.terminal && self.said != what {
            what.clone_into(&mut self.said);
            eprint!("\r\x1b[K{}", visible(what));
            let _ = std::io::stderr().flush();
        }
    }

    /// So many bytes are there.
    pub(crate) fn say_bytes(&mut self, what: &str, bytes: u64) {
        self.say(&format!("{what}: {} MiB", bytes / (1024 * 1024)));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.terminal && !self.said.is_empty() {
            eprint!("\r\x1b[K");
            let _ = std::io::stderr().flush();
        }
    }
}
