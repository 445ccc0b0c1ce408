//! Migrates the schema to this version.

use std::time::Duration;

use diesel::sqlite::SqliteConnection;
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};

use super::StoreError;
use super::connections::Connections;
use super::error::ERRORS;
use crate::store::failure::Failure;

/// The migrations embedded in this binary.
pub(super) const MIGRATIONS: EmbeddedMigrations = embed_migrations!("migrations/sqlite");

/// Maximum number of attempts to get the write lock; each waits for the busy timeout.
const MAX_ATTEMPTS: usize = 10;
/// Pause between two attempts.
const RETRY_DELAY: Duration = Duration::from_millis(50);

/// Runs the pending migrations, all or none. `diesel_migrations` takes no lock itself, so the first
/// process holds the write lock throughout, and later ones find nothing to do.
pub(super) fn run(connections: &Connections) -> Result<(), StoreError> {
    let mut attempt = 1;
    loop {
        match connections.write(pending) {
            Err(error) if error.is_lock_timeout() && attempt < MAX_ATTEMPTS => {
                attempt += 1;
                std::thread::sleep(RETRY_DELAY);
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
        log::debug!("database migration {version} applied");
    }
    Ok(())
}

fn failure(error: Box<dyn std::error::Error + Send + Sync>) -> Failure {
    let error = match error.downcast::<diesel::result::Error>() {
        Ok(database) => ERRORS.error(*database),
        Err(other) => ERRORS.text(other.to_string()),
    };
    Failure::Store(match error {
        StoreError::Refused(text) => StoreError::Refused(format!("migration failed: {text}")),
        other => other,
    })
}
