//! How a secret, or a yes, comes in: from a file, a pipe, or a terminal that does not echo it. Never from the command
//! line.

use std::io::{IsTerminal as _, Read as _, Write as _};
use std::path::Path;

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use crate::failure::Failure;

/// No secret that we take is larger.
const LIMIT: u64 = 64 * 1024;

/// Reads `what` from the file, else from standard input (asking, when that is a terminal). One line break at its end
/// is not part of it.
///
/// # Errors
/// When it cannot be read, is empty, or is larger than 64 KiB.
pub(crate) fn read(file: Option<&Path>, what: &str) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let mut secret = Zeroizing::new(Vec::with_capacity(1024));
    match file {
        Some(path) if path.as_os_str() != "-" => {
            let open = std::fs::File::open(path);
            let read = open.and_then(|file| file.take(LIMIT + 1).read_to_end(&mut secret));
            read.map_err(|error| {
                Failure::Refused(format!("{what} cannot be read from {}: {error}", path.display()))
            })?;
        }
        _ if std::io::stdin().is_terminal() => secret = typed(what)?,
        _ => {
            let read = std::io::stdin().lock().take(LIMIT + 1).read_to_end(&mut secret);
            read.map_err(|error| {
                Failure::Refused(format!("{what} cannot be read from standard input: {error}"))
            })?;
        }
    }
    if secret.len() as u64 > LIMIT {
        return Err(Failure::Refused(format!(
            "{what} is larger than {LIMIT} bytes: is this the right file?"
        )));
    }
    if secret.last() == Some(&b'\n') {
        secret.pop();
        if secret.last() == Some(&b'\r') {
            secret.pop();
        }
    }
    if secret.is_empty() {
        return Err(Failure::Usage(format!(
            "{what} is empty: pipe it in, or name a file that holds it"
        )));
    }
    Ok(secret)
}

/// As [`read`], for what is to be known from now on: typed twice, when it is typed.
///
/// # Errors
/// Those of [`read`], and when it was not the same both times.
pub(crate) fn read_new(file: Option<&Path>, what: &str) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let secret = read(file, what)?;
    if file.is_none_or(|path| path.as_os_str() == "-") && std::io::stdin().is_terminal() {
        let again = read(None, &format!("{what} once more"))?;
        if *again != *secret {
            return Err(Failure::Usage(format!("{what} was not the same both times")));
        }
    }
    Ok(secret)
}

/// As [`read`] from standard input, but nothing may be the answer.
///
/// # Errors
/// When it cannot be read, or is too large.
pub(crate) fn read_any(what: &str) -> Result<Option<Zeroizing<Vec<u8>>>, Failure> {
    match read(None, what) {
        Ok(secret) => Ok(Some(secret)),
        Err(Failure::Usage(_)) => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// Whether somebody can be asked.
pub(crate) fn can_ask() -> bool {
    std::io::stdin().is_terminal()
}

/// Asks, on a terminal, and takes nothing but a yes for one.
///
/// # Errors
/// When the terminal cannot be read.
pub(crate) fn confirmed(question: &str) -> Result<bool, Failure> {
    eprint!("{question} [y/N] ");
    let _ = std::io::stderr().flush();
    let mut answer = String::new();
    std::io::stdin()
        .read_line(&mut answer)
        .map_err(|error| Failure::Refused(format!("the terminal cannot be read: {error}")))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// As [`read`], for what has to be text on one line, such as a token.
pub(crate) fn read_word(file: Option<&Path>, what: &str) -> Result<Zeroizing<String>, Failure> {
    word(&read(file, what)?, what)
}

/// Text without spaces or controls.
///
/// # Errors
/// When it is something else; the text itself is not repeated.
pub(crate) fn word(secret: &[u8], what: &str) -> Result<Zeroizing<String>, Failure> {
    match std::str::from_utf8(secret).map(str::trim) {
        Ok(word) if !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_graphic()) => {
            Ok(Zeroizing::new(word.to_owned()))
        }
        _ => Err(Failure::Usage(format!("{what} has to be one word of plain ASCII"))),
    }
}

fn typed(what: &str) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let failed = |error: std::io::Error| {
        Failure::Refused(format!("{what} cannot be read from the terminal: {error}"))
    };
    eprint!("{what} (not shown): ");
    let _ = std::io::stderr().flush();
    let silence = Silence::begin().map_err(failed)?;
    let mut line = Zeroizing::new(String::with_capacity(1024));
    std::io::stdin().read_line(&mut line).map_err(failed)?;
    drop(silence);
    Ok(Zeroizing::new(line.as_bytes().to_vec()))
}

/// While it lives, the terminal does not echo.
struct Silence(Termios);

impl Silence {
    fn begin() -> std::io::Result<Self> {
        let before = tcgetattr(std::io::stdin())?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        silent.local_modes.insert(LocalModes::ECHONL);
        tcsetattr(std::io::stdin(), OptionalActions::Flush, &silent)?;
        Ok(Self(before))
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.0);
    }
}
