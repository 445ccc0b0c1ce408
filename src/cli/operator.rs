//! What commands of operators take: who acts, why, until when, and which rights. And what they
//! write.

use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;

use strum::IntoEnumIterator;

use crate::domain::access::Scope;
use crate::domain::timestamp::Timestamp;

/// The settings of the database, which these commands use.
pub(super) const DATABASE: [&str; 2] = ["database_url", "postgres_dsn"];
/// Maximum length of a reason or a name, in bytes.
const MAX_TEXT: usize = 500;

/// The name of the user of the operating system, or the number if the environment does not name
/// the user, as in a container.
pub(super) fn system_user() -> String {
    let named = ["USER", "LOGNAME"].into_iter().find_map(|variable| {
        let name = std::env::var(variable).ok()?;
        one_line(&name).ok()
    });
    named.unwrap_or_else(|| match std::fs::metadata("/proc/self") {
        Ok(process) => format!("uid {}", process.uid()),
        Err(_) => "unknown".to_owned(),
    })
}

/// The result of writing. A closed pipe is not an error: the reader needs no more.
pub(in crate::cli) fn written(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// Parses a reason or a name.
pub(super) fn one_line(given: &str) -> Result<String, String> {
    let text = given.trim();
    if text.is_empty() || text.len() > MAX_TEXT || text.chars().any(char::is_control) {
        return Err(format!("one line of text, at most {MAX_TEXT} bytes"));
    }
    Ok(text.to_owned())
}

/// Parses a time in the future.
pub(super) fn future(given: &str) -> Result<Timestamp, String> {
    let time = given.parse().ok();
    time.filter(|time| *time > Timestamp::now())
        .ok_or_else(|| "a time in the future, like 2027-01-31T18:00:00Z".to_owned())
}

/// Parses a right.
pub(super) fn scope(given: &str) -> Result<Scope, String> {
    given.trim().parse().map_err(|_| {
        let names: Vec<_> = Scope::iter().map(Scope::as_str).collect();
        format!("one of {}", names.join(", "))
    })
}
