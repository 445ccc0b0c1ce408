//! The address of the database file.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::StoreError;

/// Parses the accepted forms of a file: a path, optionally prefixed by `sqlite://`, `sqlite:`,
/// `file://` or `file:`.
pub(super) fn path_of(address: &str) -> Result<&str, StoreError> {
    let schemes = ["sqlite://", "sqlite:", "file://", "file:"];
    let after_scheme = schemes
        .iter()
        .find_map(|scheme| address.strip_prefix(scheme));
    let path = after_scheme.unwrap_or(address);
    if let Some((scheme, _)) = path.split_once("://") {
        // Never repeats the whole address: that of another engine may contain a password.
        return Err(not_a_file(&format!(
            "`{scheme}://` is another kind of database"
        )));
    }
    if path.is_empty() || path.ends_with('/') {
        return Err(not_a_file("the address names no file"));
    }
    if path == ":memory:" {
        return Err(not_a_file(
            "`:memory:` would be a separate database for each connection",
        ));
    }
    if after_scheme.is_some() && path.contains('?') {
        return Err(not_a_file("options after `?` are not supported"));
    }
    Ok(path)
}

/// Creates the directory of the file.
pub(super) fn create_directory(path: &str) -> Result<(), StoreError> {
    let Some(directory) = Path::new(path)
        .parent()
        .filter(|directory| !directory.as_os_str().is_empty())
    else {
        return Ok(());
    };
    std::fs::create_dir_all(directory).map_err(|error| {
        StoreError::Unavailable(format!(
            "cannot create the directory {}: {error}",
            directory.display()
        ))
    })
}

/// Creates a missing file, accessible only to its owner because it holds users' money. SQLite gives
/// its files beside it the same permissions, and treats an empty file as a new database. An
/// existing file keeps its permissions.
pub(super) fn restrict_access(path: &str) {
    // If the file exists or cannot be created, opening it reports the problem.
    let _ = private().create_new(true).open(path);
}

/// Opens files for writing; creates missing ones accessible only to their owner.
pub(super) fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).truncate(false).mode(0o600);
    options
}

fn not_a_file(why: &str) -> StoreError {
    StoreError::Unavailable(format!(
        "{why}; expected an SQLite file, such as data/sports-bet.db or sqlite://data/sports-bet.db"
    ))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("data/sports-bet.db", "data/sports-bet.db")]
    #[case("sqlite://data/x.db", "data/x.db")]
    #[case("sqlite:data/x.db", "data/x.db")]
    #[case("sqlite:///var/lib/x.db", "/var/lib/x.db")]
    #[case("file:data/x.db", "data/x.db")]
    #[case("file:///var/lib/x.db", "/var/lib/x.db")]
    #[case("x.db", "x.db")]
    #[case("why?.db", "why?.db")]
    fn accepted_forms_give_the_path(#[case] address: &str, #[case] path: &str) {
        assert_eq!(path_of(address), Ok(path));
    }

    #[rstest]
    #[case("")]
    #[case("sqlite://")]
    #[case("data/")]
    #[case(":memory:")]
    #[case("sqlite::memory:")]
    #[case("sqlite://x.db?mode=ro")]
    #[case("postgres://user:hunter2@host/odds")]
    fn invalid_address_is_rejected_without_password(#[case] address: &str) {
        let error = path_of(address).unwrap_err().to_string();
        assert!(
            error.contains("expected an SQLite file") && !error.contains("hunter2"),
            "{error}"
        );
    }
}
