//! Faults caused by operating a database: defaults that change the meaning of statements, a
//! switch-over, a pooler, few connections.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use pretty_assertions::assert_eq;

use super::support::{Database, OwnServer, Relay, execute, wait_until};
use diesel::connection::SimpleConnection;

use super::*;
use crate::store::money::{DecisionStore, LedgerAudit, WalletStore};
use crate::store::money_suite::{balances, bet, bet_id, confirmed, notice, order, place_bet};

/// Deposits by many clients at once into one wallet; returns every failure.
fn deposit_at_once(store: &PgStore, clients: usize, each: usize) -> Vec<String> {
    let deposits = |client: usize| {
        let deposit = move |n: usize| store.deposit(&order("A", 1, &format!("{client} {n}")));
        (0..each)
            .filter_map(move |n| deposit(n).err())
            .map(|error| error.to_string())
            .collect::<Vec<_>>()
    };
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..clients)
            .map(|client| scope.spawn(move || deposits(client)))
            .collect();
        clients
            .into_iter()
            .flat_map(|client| client.join().unwrap())
            .collect()
    })
}

#[rstest]
#[case("default_transaction_isolation = 'repeatable read'")]
#[case("default_transaction_isolation = 'serializable'")]
#[case("default_transaction_isolation = 'serializable', default_transaction_deferrable = on")]
#[case("statement_timeout = '15ms'")]
#[case("lock_timeout = '1ms'")]
#[ignore = "needs the real engines: make test"]
fn database_defaults_change_nothing(#[case] defaults: &str) {
    let (store, database) = Database::migrated();
    drop(store);
    for default in defaults.split(", ") {
        execute(
            &mut database.connection(),
            &format!("ALTER DATABASE {} SET {default}", database.name),
        );
    }
    let store = PgStore::open(
        &database.address(),
        &PgOptions {
            money: 16,
            ..PgOptions::default()
        },
    )
    .unwrap();
    assert_eq!(deposit_at_once(&store, 16, 25), Vec::<String>::new());
    assert_eq!(balances(&store, "A"), (400, 0));
    store
        .write_updates(&positioned(0, [update(1, 1, 1)]))
        .unwrap();
}

/// The old server is replaced by a standby at the same address. Connections to it stay open but are
/// useless.
#[test]
#[ignore = "needs the real engines: make test"]
fn switch_over_leaves_no_useless_connection() {
    let old = OwnServer::start();
    let new = old.standby();
    let relay = Relay::to(old.port());
    let store = PgStore::open(&old.address_by(relay.port()), &PgOptions::default()).unwrap();
    store.migrate().unwrap();
    store.deposit(&order("A", 5, "before")).unwrap();
    wait_until("the standby has the deposit", || new.has_deposits(1));
    // The old primary stops, and returns as a standby at the well-known address.
    old.stop("fast");
    new.promote();
    old.follow(&new);
    wait_until("the store recognises the standby", || {
        let refused = store.deposit(&order("A", 5, "meanwhile"));
        refused.is_err_and(|error| error.to_string().contains("only reads"))
    });
    let unready = store.ping().unwrap_err().to_string();
    assert!(unready.contains("only reads"), "{unready}");
    // The address now leads to the new primary; connections to the old one stay open.
    relay.lead_to(new.port());
    wait_until("it is ready", || store.ping().is_ok());
    store.deposit(&order("A", 5, "after")).unwrap();
    assert_eq!(deposit_at_once(&store, 8, 4), Vec::<String>::new());
    assert_eq!(balances(&store, "A"), (42, 0));
}

/// Sessions that were opened for writing become read-only.
#[test]
#[ignore = "needs the real engines: make test"]
fn sessions_that_became_read_only_are_dropped() {
    let (store, database) = Database::migrated();
    store.deposit(&order("A", 1, "first")).unwrap();
    let only_read = "SET default_transaction_read_only = on";
    store
        .money
        .as_ref()
        .unwrap()
        .run(|connection| Ok(connection.batch_execute(only_read)?))
        .unwrap();
    store.deposit(&order("A", 1, "second")).unwrap();
    store.ping().unwrap();
    drop(database);
}

/// Many threads request connections; the server grants five.
#[test]
#[ignore = "needs the real engines: make test"]
fn five_connections_serve_everybody() {
    let (store, database) = Database::migrated();
    drop(store);
    let role = role_without_rights(&database);
    let grants = format!(
        "GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}; GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {role};
        ALTER ROLE {role} CONNECTION LIMIT 5"
    );
    execute(&mut database.connection(), &grants);
    let options = PgOptions {
        readers: 20,
        money: 20,
        ..PgOptions::default()
    };
    let store = PgStore::open(&database.address_as(&role, "secret"), &options).unwrap();
    store.migrate().unwrap();
    let failures = std::thread::scope(|scope| {
        let reading = scope.spawn(|| {
            (0..200)
                .filter_map(|_| store.load_event(&update(1, 1, 1).event_id).err())
                .collect::<Vec<_>>()
        });
        let writing = scope.spawn(|| {
            let write = |n| store.write_updates(&positioned(n, [update(1, n as i64 + 1, 1)]));
            (0..50).filter_map(|n| write(n).err()).collect::<Vec<_>>()
        });
        let ready = scope.spawn(|| {
            (0..50)
                .filter_map(|_| store.ping().err())
                .collect::<Vec<_>>()
        });
        let mut failures = deposit_at_once(&store, 50, 3);
        let others = [reading, writing, ready]
            .into_iter()
            .flat_map(|other| other.join().unwrap());
        failures.extend(others.map(|error| error.to_string()));
        failures
    });
    assert_eq!(failures, Vec::<String>::new());
    assert_eq!(balances(&store, "A"), (150, 0));
}

/// PgBouncer in transaction mode, stopped at the end of the test.
struct Pooler {
    child: Child,
    port: u16,
    _directory: tempfile::TempDir,
}

impl Pooler {
    fn start(to: &url::Url, settings: &str) -> Pooler {
        let program = [
            "/usr/sbin/pgbouncer",
            "/usr/bin/pgbouncer",
            "/usr/local/bin/pgbouncer",
        ];
        let program = program
            .into_iter()
            .find(|path| Path::new(path).exists())
            .expect("pgbouncer is missing: install it");
        let directory = tempfile::Builder::new()
            .prefix("pgbouncer-")
            .tempdir()
            .unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let user = to.username();
        let password = to.password().unwrap_or_default();
        let host = to.host_str().unwrap();
        let config = format!(
            "[databases]
* = host={host} port={}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = plain
auth_file = {}
pool_mode = transaction
default_pool_size = 3
{settings}
",
            to.port().unwrap(),
            directory.path().join("users").display()
        );
        std::fs::write(
            directory.path().join("users"),
            format!("\"{user}\" \"{password}\"\n"),
        )
        .unwrap();
        std::fs::write(directory.path().join("ini"), config).unwrap();
        let mut command = super::support::as_unprivileged(Path::new(program), directory.path());
        let log = std::fs::File::create(directory.path().join("log")).unwrap();
        let child = command
            .arg(directory.path().join("ini"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let pooler = Pooler {
            child,
            port,
            _directory: directory,
        };
        wait_until("the pooler answers", || {
            std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        pooler
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        // Via `kill`, because the child may be a wrapper (`runuser`) that forwards the signal to
        // PgBouncer, or PgBouncer itself.
        let id = self.child.id().to_string();
        let _ = Command::new("kill").arg("-TERM").arg(id).status();
        let _ = self.child.wait();
    }
}

/// One pooler rejects our marker, the other ignores it.
#[rstest]
#[case("")]
#[case("ignore_startup_parameters = options,extra_float_digits")]
#[ignore = "needs the real engines: make test"]
fn pooler_in_transaction_mode_works(#[case] settings: &str) {
    let database = Database::new();
    execute(
        &mut database.connection(),
        &format!(
            "ALTER DATABASE {} SET default_transaction_isolation = 'repeatable read'",
            database.name
        ),
    );
    let mut address = database.url();
    let pooler = Pooler::start(&address, settings);
    address.set_host(Some("127.0.0.1")).unwrap();
    address.set_port(Some(pooler.port)).unwrap();
    let store = PgStore::open(
        &String::from(address.clone()).into(),
        &PgOptions {
            money: 16,
            ..PgOptions::default()
        },
    );
    let store = store.unwrap();
    // An index is not built through the pooler. The error says what to do.
    let refused = store.migrate().unwrap_err().to_string();
    assert!(
        refused.contains("run `sports-bet migrate` with the address of the server itself"),
        "{refused}"
    );
    database.store().migrate().unwrap();
    store.migrate().unwrap();
    store.ping().unwrap();
    let reader = PgStore::reader(&String::from(address).into(), &PgOptions::default()).unwrap();
    reader.ping().unwrap();
    assert_eq!(deposit_at_once(&store, 16, 25), Vec::<String>::new());
    assert_eq!(balances(&store, "A"), (400, 0));
    store
        .write_updates(&positioned(0, [update(1, 1, 1)]))
        .unwrap();
    assert_eq!(states(&reader, "MATCH_001"), states(&store, "MATCH_001"));
    place_bet(&store, &bet("A", bet_id(1), 10), None, &notice("")).unwrap();
    store
        .decide_bet(bet_id(1), &confirmed(), &notice(""), Timestamp::now())
        .unwrap();
    assert_eq!(
        store
            .verify(Timestamp::now(), Duration::from_secs(60))
            .unwrap()
            .violations(),
        0
    );
    // No session setting leaks into the pooler's server connections, where other programs would see
    // it.
    let lock_timeout = "SELECT current_setting('lock_timeout') AS text";
    let mut other = PgConnection::establish(&database.address_by(pooler.port)).unwrap();
    // Within a transaction the pooler keeps to one connection.
    execute(&mut other, "BEGIN");
    let texts = super::support::column(&mut other, lock_timeout);
    assert_eq!(texts, ["0"]);
}
