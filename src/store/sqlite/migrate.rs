//! Bringing the tables to this version.

use std::time::Duration;

use diesel::sqlite::SqliteConnection;
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};

use super::StoreError;
use super::connections::Connections;
use super::error::{Failure, meaning, meaning_of_text};

/// The migrations in this binary.
pub(super) const MIGRATIONS: EmbeddedMigrations = embed_migrations!("migrations/sqlite");

/// How often a lock that others hold is tried; each try waits for the busy timeout.
const TRIES: usize = 10;
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(50);

/// Runs what has not run yet, all of it or nothing. `diesel_migrations` takes no lock of its own:
/// here whoever comes first holds the write lock through all of them, and whoever comes later finds
/// nothing left to do.
pub(super) fn run(connections: &Connections) -> Result<(), StoreError> {
    let mut tries = 1;
    loop {
        match connections.write(pending) {
            Err(error) if error.is_lock_timeout() && tries < TRIES => {
                tries += 1;
                std::thread::sleep(PAUSE);
            }
            outcome => return outcome,
        }
    }
}

fn pending(connection: &mut SqliteConnection) -> Result<(), Failure> {
    let ran = connection
        .run_pending_migrations(MIGRATIONS)
        .map_err(failure)?;
    for version in ran {
        log::debug!("database: migration {version} done");
    }
    Ok(())
}

fn failure(error: Box<dyn std::error::Error + Send + Sync>) -> Failure {
    let error = match error.downcast::<diesel::result::Error>() {
        Ok(database) => meaning(*database),
        Err(other) => meaning_of_text(other.to_string()),
    };
    Failure::Store(match error {
        StoreError::Refused(text) => StoreError::Refused(format!("a migration: {text}")),
        other => other,
    })
}
