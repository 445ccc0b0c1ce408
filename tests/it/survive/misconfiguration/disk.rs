//! A full disk.

use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use super::Workload;
use super::expect_unavailable::ExpectUnavailable;
use crate::support::{Database, original_frame};

/// A small in-memory disk with a tablespace on it, if the machine lets the test mount one.
struct SmallDisk {
    directory: TempDir,
    name: String,
}

impl SmallDisk {
    fn mount(name: &str) -> Option<SmallDisk> {
        // PostgreSQL's user must be able to enter it.
        let directory = tempfile::Builder::new()
            .prefix("small-disk")
            .permissions(open())
            .tempdir_in("/tmp")
            .ok()?;
        let disk = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=16m,mode=755", "tmpfs"])
            .arg(directory.path())
            .output();
        if !disk.ok()?.status.success() {
            return None;
        }
        let disk = SmallDisk {
            directory,
            name: format!("{name}_disk"),
        };
        std::fs::create_dir(disk.folder()).unwrap();
        let given = Command::new("chown")
            .arg("postgres:")
            .arg(disk.folder())
            .status()
            .unwrap();
        given.success().then_some(disk)
    }

    fn folder(&self) -> PathBuf {
        self.directory.path().join("tables")
    }

    fn ballast(&self) -> PathBuf {
        self.directory.path().join("ballast")
    }

    /// Moves the processor's tables to the disk, and fills it up.
    fn fill(&self, database: &Database) {
        let name = &self.name;
        let folder = self.folder();
        database.execute(&format!(
            "CREATE TABLESPACE {name} LOCATION '{}'",
            folder.display()
        ));
        for table in ["odds_history", "odds_current"] {
            database.execute(&format!("ALTER TABLE {table} SET TABLESPACE {name}"));
        }
        let mut ballast = std::fs::File::create(self.ballast()).unwrap();
        while std::io::Write::write_all(&mut ballast, &[1; 4096]).is_ok() {}
    }

    fn make_room(&self) {
        std::fs::remove_file(self.ballast()).unwrap();
    }

    fn remove(&self, database: &Database) {
        for table in ["odds_history", "odds_current"] {
            database.execute(&format!("ALTER TABLE {table} SET TABLESPACE pg_default"));
        }
        database.execute(&format!("DROP TABLESPACE {}", self.name));
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount")
            .arg("-l")
            .arg(self.directory.path())
            .status();
    }
}

fn open() -> std::fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(0o755)
}

/// Raises PostgreSQL's disk-full error, for machines on which no disk can be filled.
const SAYS_FULL: &str = "
    CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        RAISE 'could not extend file \"base/5/16396\": No space left on device' USING ERRCODE = 'disk_full',
            HINT = 'Check free disk space.';
    END $$;
    CREATE TRIGGER full_disk BEFORE INSERT ON odds_history FOR EACH STATEMENT EXECUTE FUNCTION full_disk()";

#[ignore = "needs the real engines: make test"]
#[actix_web::test]
async fn database_disk_is_full() {
    let workload = Workload::new(&[]).await;
    let processor = workload.cluster.start("processor").await;
    workload.until_done().await;
    let database = workload.database();
    let disk = SmallDisk::mount(&workload.topic.name);
    match &disk {
        Some(disk) => disk.fill(&database),
        None => database.execute(SAYS_FULL),
    }
    println!("a real full disk: {}", disk.is_some());
    // More rows than fit into the free space of the tables' last pages.
    let more = |number: usize| {
        let event = format!("EVENT_{:03}", number % 200);
        let frame = original_frame(&event, "2026-01-01T00:00:01Z", number as i64);
        (event.into_bytes(), frame.into_bytes())
    };
    workload.topic.publish((0..2_000).map(more).collect()).await;

    let full = &["No space left on device"];
    let unavailable = ExpectUnavailable {
        role: "processor",
        check: "database",
        says: full,
        logs: full,
    };
    unavailable.assert_waits_idle(&processor).await;
    match &disk {
        Some(disk) => disk.make_room(),
        None => database.execute("DROP TRIGGER full_disk ON odds_history"),
    }
    unavailable.assert_recovers(&processor).await;
    workload
        .topic
        .until_done(workload.cluster.folder.sandbox().store_group())
        .await;
    assert_eq!(
        database.number("SELECT count(*) AS number FROM odds_history"),
        2_200
    );
    drop(processor);
    if let Some(disk) = disk {
        disk.remove(&database);
    }
}
