//! Where the file is.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::StoreError;

/// Reads the forms that a file is given in: a path, or a path behind `sqlite://`, `sqlite:` or
/// `file:`.
pub(super) fn path_of(address: &str) -> Result<&str, StoreError> {
    let schemes = ["sqlite://", "sqlite:", "file://", "file:"];
    let behind_scheme = schemes
        .iter()
        .find_map(|scheme| address.strip_prefix(scheme));
    let path = behind_scheme.unwrap_or(address);
    if let Some((scheme, _)) = path.split_once("://") {
        // Never the address as a whole: another engine's may hold a password.
        return Err(not_a_file(&format!(
            "`{scheme}://` is another kind of database"
        )));
    }
    if path.is_empty() || path.ends_with('/') {
        return Err(not_a_file("the address names no file"));
    }
    if path == ":memory:" {
        return Err(not_a_file(
            "`:memory:` would be a database of its own for each connection",
        ));
    }
    if behind_scheme.is_some() && path.contains('?') {
        return Err(not_a_file("options behind `?` are not taken"));
    }
    Ok(path)
}

/// Makes the directory that the file lies in.
pub(super) fn make_directory(path: &str) -> Result<(), StoreError> {
    let Some(directory) = Path::new(path)
        .parent()
        .filter(|directory| !directory.as_os_str().is_empty())
    else {
        return Ok(());
    };
    std::fs::create_dir_all(directory).map_err(|error| {
        StoreError::Unavailable(format!(
            "cannot make the directory {}: {error}",
            directory.display()
        ))
    })
}

/// Makes the file, where it is missing, for its owner alone: users' money is in it. SQLite makes
/// its own files beside it with the same permissions, and takes an empty one for a new database. A
/// file that is there keeps its permissions.
pub(super) fn make_private(path: &str) {
    // It is there, or cannot be made: SQLite says what is wrong then.
    let _ = private().create_new(true).open(path);
}

/// Opens files for writing; makes those that are missing for their owner alone.
pub(super) fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).truncate(false).mode(0o600);
    options
}

fn not_a_file(why: &str) -> StoreError {
    StoreError::Unavailable(format!(
        "{why}; an SQLite file is wanted, as data/sports-bet.db or sqlite://data/sports-bet.db"
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
    fn the_forms_of_a_path(#[case] address: &str, #[case] path: &str) {
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
    fn what_names_no_file_is_refused_without_its_password(#[case] address: &str) {
        let error = path_of(address).unwrap_err().to_string();
        assert!(
            error.contains("an SQLite file is wanted") && !error.contains("hunter2"),
            "{error}"
        );
    }
}
