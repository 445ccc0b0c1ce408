//! Databases and servers for the tests.

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use diesel::connection::SimpleConnection;
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::Text;
use secrecy::{ExposeSecret, SecretString};
use tempfile::TempDir;

use crate::store::Store;
use crate::store::postgres::{PgOptions, PgStore};

/// Waits for a condition.
pub(super) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < until, "still waiting: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub(super) fn execute(connection: &mut PgConnection, sql: &str) {
    connection.batch_execute(sql).unwrap();
}

/// The first column of a query's result, as texts.
pub(super) fn column(connection: &mut PgConnection, sql: &str) -> Vec<String> {
    #[derive(QueryableByName)]
    struct Row {
        #[diesel(sql_type = Text)]
        text: String,
    }
    let sql = match sql.strip_prefix("EXPLAIN ") {
        // The rows of EXPLAIN cannot be used in a subquery.
        Some(_) => {
            execute(
                connection,
                "CREATE OR REPLACE FUNCTION pg_temp.plan(sql text) RETURNS SETOF text AS
                $$ BEGIN RETURN QUERY EXECUTE sql; END $$ LANGUAGE plpgsql",
            );
            format!("SELECT pg_temp.plan($sql${sql}$sql$) AS text")
        }
        None => format!("SELECT text FROM ({sql}) AS asked (text)"),
    };
    diesel::sql_query(sql)
        .load::<Row>(connection)
        .unwrap()
        .into_iter()
        .map(|row| row.text)
        .collect()
}

/// The server's address, as a URL without a query.
fn server() -> url::Url {
    let lacking = "DATABASE_URL must be the URL of a PostgreSQL server: run `make test`, or `eval \"$(scripts/engines env)\"`";
    let address = std::env::var("DATABASE_URL").expect(lacking);
    assert!(address.starts_with("postgres"), "{lacking}");
    url::Url::parse(&address).expect(lacking)
}

/// A database for one test, dropped at its end.
pub(super) struct Database {
    pub name: String,
}

impl Database {
    pub(super) fn new() -> Database {
        Database::with("ENCODING 'UTF8' TEMPLATE template0")
    }

    pub(super) fn with(options: &str) -> Database {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let unique = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap()
            .as_micros();
        let name = format!(
            "test_{}_{}_{unique}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::SeqCst)
        );
        execute(
            &mut connect(server().as_str()),
            &format!("CREATE DATABASE {name} {options}"),
        );
        Database { name }
    }

    pub(super) fn migrated() -> (PgStore, Database) {
        let database = Database::new();
        let store = database.store();
        store.migrate().unwrap();
        (store, database)
    }

    /// The address through another port of this machine.
    pub(super) fn address_by(&self, port: u16) -> String {
        let mut url = self.url();
        url.set_host(Some("127.0.0.1")).unwrap();
        url.set_port(Some(port)).unwrap();
        url.into()
    }

    pub(super) fn url(&self) -> url::Url {
        let mut url = server();
        url.set_path(&self.name);
        url
    }

    pub(super) fn address(&self) -> SecretString {
        String::from(self.url()).into()
    }

    pub(super) fn address_as(&self, user: &str, password: &str) -> SecretString {
        let mut url = self.url();
        url.set_username(user).unwrap();
        url.set_password(Some(password)).unwrap();
        String::from(url).into()
    }

    pub(super) fn store(&self) -> PgStore {
        PgStore::open(&self.address(), &PgOptions::default()).unwrap()
    }

    /// A connection in addition to the store's.
    pub(super) fn connection(&self) -> PgConnection {
        connect(self.url().as_str())
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let roles = format!(
            "SELECT rolname::text FROM pg_roles WHERE rolname = '{}_role'",
            self.name
        );
        let mut connection = connect(server().as_str());
        execute(
            &mut connection,
            &format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name),
        );
        for role in column(&mut connection, &roles) {
            execute(&mut connection, &format!("DROP ROLE {role}"));
        }
    }
}

fn connect(url: &str) -> PgConnection {
    PgConnection::establish(url)
        .unwrap_or_else(|error| panic!("no PostgreSQL at DATABASE_URL: {error}"))
}

/// Creates a login role with the password `secret` that can read and write existing tables but
/// cannot create any.
pub(super) fn role_without_rights(database: &Database) -> String {
    let role = format!("{}_role", database.name);
    let mut connection = database.connection();
    execute(
        &mut connection,
        &format!(
            "CREATE ROLE {role} LOGIN PASSWORD 'secret';
         REVOKE CREATE ON SCHEMA public FROM PUBLIC;
         ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO {role};"
        ),
    );
    role
}

/// A server for one test, which the test may stop. Needs the programs of the server, found by
/// `pg_config`, in the usual places of Debian, or in `PG_BIN`.
pub(super) struct OwnServer {
    directory: TempDir,
    port: u16,
}

impl OwnServer {
    fn prepare() -> OwnServer {
        let directory = tempfile::Builder::new().prefix("pg-").tempdir().unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let server = OwnServer { directory, port };
        if is_root() {
            // PostgreSQL does not run as root.
            let owned = Command::new("chown")
                .arg("postgres")
                .arg(server.directory.path())
                .status()
                .unwrap();
            assert!(owned.success());
        }
        server
    }

    pub(super) fn start() -> OwnServer {
        let server = OwnServer::prepare();
        std::fs::write(server.directory.path().join("password"), "secret").unwrap();
        open_to_all(&server.directory.path().join("password"));
        let data = server.data();
        let password = format!(
            "--pwfile={}",
            server.directory.path().join("password").display()
        );
        server.program(
            "initdb",
            &[
                "-D",
                &data,
                "-U",
                "odds",
                "-A",
                "scram-sha-256",
                &password,
                "-E",
                "UTF8",
                "--locale=C",
                "-N",
            ],
        );
        server.start_again();
        server
    }

    pub(super) fn address(&self) -> SecretString {
        self.address_by(self.port)
    }

    /// The address through another port.
    pub(super) fn address_by(&self, port: u16) -> SecretString {
        format!("host=127.0.0.1 port={port} user=odds password=secret dbname=postgres").into()
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// Starts a standby of this server.
    pub(super) fn standby(&self) -> OwnServer {
        let standby = OwnServer::prepare();
        let to = self.replication();
        standby.program(
            "pg_basebackup",
            &[
                "-d",
                &to,
                "-D",
                &standby.data(),
                "-R",
                "-X",
                "stream",
                "-c",
                "fast",
            ],
        );
        standby.start_again();
        standby
    }

    /// Promotes a standby to primary.
    pub(super) fn promote(&self) {
        self.program("pg_ctl", &["-D", &self.data(), "-w", "promote"]);
    }

    /// Starts a stopped server as a standby of another.
    pub(super) fn follow(&self, primary: &OwnServer) {
        use std::io::Write;
        let data = PathBuf::from(self.data());
        std::fs::write(data.join("standby.signal"), "").unwrap();
        open_to_all(&data.join("standby.signal"));
        let mut settings = std::fs::OpenOptions::new()
            .append(true)
            .open(data.join("postgresql.auto.conf"))
            .unwrap();
        writeln!(settings, "primary_conninfo = '{}'", primary.replication()).unwrap();
        self.start_again();
    }

    fn replication(&self) -> String {
        format!(
            "host=127.0.0.1 port={} user=odds password=secret",
            self.port
        )
    }

    /// Whether this number of deposits has arrived.
    pub(super) fn has_deposits(&self, count: usize) -> bool {
        let mut connection = connect(self.address().expose_secret());
        column(
            &mut connection,
            "SELECT count(*)::text FROM ledger_transfers",
        ) == [count.to_string()]
    }

    pub(super) fn start_again(&self) {
        let log = self.directory.path().join("data/log").display().to_string();
        let options = format!(
            "-p {} -c listen_addresses=127.0.0.1 -c unix_socket_directories=",
            self.port
        );
        self.program(
            "pg_ctl",
            &[
                "-D",
                &self.data(),
                "-l",
                &log,
                "-o",
                &options,
                "-w",
                "start",
            ],
        );
    }

    pub(super) fn stop(&self, mode: &str) {
        self.program("pg_ctl", &["-D", &self.data(), "-m", mode, "-w", "stop"]);
    }

    fn data(&self) -> String {
        self.directory.path().join("data").display().to_string()
    }

    fn program(&self, name: &str, arguments: &[&str]) {
        let program = programs(name).join(name);
        let mut command = unprivileged(&program);
        let output_path = self.directory.path().with_extension(name);
        let output = std::fs::File::create(&output_path).unwrap();
        // A file, not a pipe: the server inherits it and would keep a pipe open.
        let status = command
            .args(arguments)
            .current_dir("/")
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .status()
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let text = std::fs::read_to_string(&output_path).unwrap_or_default();
        let _ = std::fs::remove_file(&output_path);
        assert!(status.success(), "{name}: {text}");
    }
}

impl Drop for OwnServer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ =
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.stop("immediate")));
        } else {
            self.stop("immediate");
        }
    }
}

/// A command that does not run as root.
fn unprivileged(program: &Path) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("runuser");
    command.args(["-u", "postgres", "--"]).arg(program);
    command
}

/// The same, with `folder` owned by the unprivileged user.
pub(super) fn as_unprivileged(program: &Path, folder: &Path) -> Command {
    if is_root() {
        assert!(
            Command::new("chown")
                .arg("-R")
                .arg("postgres")
                .arg(folder)
                .status()
                .unwrap()
                .success()
        );
    }
    let mut command = unprivileged(program);
    command.current_dir("/");
    command
}

/// A local port that forwards to another, changeable port. Open connections stay as they are.
pub(super) struct Relay {
    port: u16,
    to: Arc<AtomicU16>,
}

impl Relay {
    pub(super) fn to(port: u16) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let relay = Relay {
            port: listener.local_addr().unwrap().port(),
            to: Arc::new(port.into()),
        };
        let to = relay.to.clone();
        std::thread::spawn(move || {
            for inside in listener.incoming() {
                let (Ok(inside), to) = (inside, to.load(Ordering::SeqCst)) else {
                    return;
                };
                let Ok(outside) = TcpStream::connect(("127.0.0.1", to)) else {
                    continue;
                };
                for (mut from, mut to) in [
                    (inside.try_clone().unwrap(), outside.try_clone().unwrap()),
                    (outside, inside),
                ] {
                    std::thread::spawn(move || {
                        let _ = std::io::copy(&mut from, &mut to);
                        let _ = to.shutdown(std::net::Shutdown::Both);
                    });
                }
            }
        });
        relay
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// Sets the target of new connections.
    pub(super) fn lead_to(&self, port: u16) {
        self.to.store(port, Ordering::SeqCst);
    }
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").unwrap().uid() == 0
}

fn open_to_all(path: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644)).unwrap();
}

/// The folder that contains a program of the server.
fn programs(name: &str) -> PathBuf {
    if let Some(given) = std::env::var_os("PG_BIN") {
        return given.into();
    }
    let has_them = |folder: &PathBuf| folder.join(name).exists();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let debian = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten();
    let mut folders = std::env::split_paths(&path).chain(debian.map(|one| one.path().join("bin")));
    folders.find(has_them).unwrap_or_else(|| {
        panic!("{name} is missing: install the PostgreSQL server, or set PG_BIN to its folder")
    })
}
