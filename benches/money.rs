//! Wallet and bet throughput on Kafka, Redis and PostgreSQL with all roles in one process: requests
//! per second with 16 clients, and the time until a bet is decided by a supplier that answers at
//! once. The baseline is `pgbench` calling the same database functions directly; for bets it passes
//! one bet per call, whereas the platform batches concurrent bets. PostgreSQL, Kafka, the platform
//! and its clients share the machine; `pgbench` runs beside PostgreSQL alone.
//!
//! Run with `scripts/engines with cargo bench --bench money`. Settings: `BENCH_CLIENTS`,
//! `BENCH_USERS`, `BENCH_SECONDS` per run, `BENCH_ROUNDS`, `BENCH_BET_RATE`, `BENCH_WARM_UP`
//! (seconds before the first run: see `latency`), and every setting of the server under its own
//! name.

mod support;

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use diesel::prelude::*;
use diesel::sql_types::{BigInt, Double};
use sports_bet_platform::domain::access::Scope;
use sports_bet_platform::domain::timestamp::Timestamp;

use support::database::{Number, connect, number, until_decided};
use support::engines::Folder;
use support::http::{Connection, Post};
use support::load::{Answers, Pick, Step, ask_all, bet, during, uniform};
use support::server::Server;
use support::supplier::{Supplier, update};
use support::table::{Row, median, print};
use support::{Outcome, machine, need_engines, setting, tokens, until};

const ROLES: &str = "simulator,ingest,processor,odds,wallet,bets,confirmation";
/// Exponent of the skewed distribution: the first user receives about an eighth of all requests.
const SKEW: f64 = 1.1;
/// The users who have a token.
const TOKENS: u64 = 500;

fn main() -> Outcome<()> {
    need_engines("money")?;
    let pgbench = pgbench()?;
    let clients = usize::try_from(setting("BENCH_CLIENTS", 16)?)?;
    let users = setting("BENCH_USERS", 10_000)?;
    let folder = Folder::on_real_engines();
    // The simulator confirms bets, but the bench supplies the prices: the simulator suspends its
    // own markets from time to time.
    let supplier = Supplier::listen()?;
    let server = Server::start(ROLES, &folder, &[("SUPPLIER_URLS", &supplier.url()?)], None)?;
    machine::unpin()?;
    let mut feed = supplier.accept()?;
    server.until_ready()?;
    feed.send([update("MATCH_001", "1x2", 1, Timestamp::now())])?;
    let mut database = connect(&folder)?;
    fill_wallets(&mut database, users)?;
    let bets = server.bets()?;
    until("a bet is accepted", || {
        Ok(Connection::open(bets)?.post(&bet(1)).ok())
    })?;

    let mut rows = Vec::new();
    rows.extend(bet_rows(
        &server,
        &folder,
        &pgbench,
        &mut database,
        clients,
        users,
    )?);
    for load in [Load::uniform(users), Load::skewed(users), Load::one()] {
        rows.push(wallet_row(&server, &folder, &pgbench, clients, &load)?);
    }
    rows.push(token_row(&folder, &mut database, clients)?);
    rows.push(support::ledger::row(&folder)?);
    print("money", &rows)
}

/// Gives every user more money than they can lose here.
fn fill_wallets(database: &mut PgConnection, users: u64) -> Outcome<()> {
    let statement = "SELECT count(*) AS number FROM generate_series(1, $1) AS user_number, LATERAL
        wallet_move('user-' || user_number, 'deposit', 1000000000000, 'first', gen_random_uuid(), now())";
    let done = diesel::sql_query(statement)
        .bind::<BigInt, _>(i64::try_from(users)?)
        .get_result::<Number>(database)?;
    // Empty tables are left out: their plans would be cached.
    diesel::sql_query("ANALYZE wallets, ledger_transfers").execute(database)?;
    if done.number == i64::try_from(users)? {
        Ok(())
    } else {
        Err("not every wallet was filled".into())
    }
}

/// The outcome of the placed bets.
struct Placed {
    answers: Answers,
    decided: Decisions,
    own_share: f64,
    machine_share: f64,
}

fn place(
    server: &Server,
    database: &mut PgConnection,
    clients: usize,
    users: u64,
    time: Duration,
    pause: Option<Duration>,
) -> Outcome<Placed> {
    let began = Instant::now();
    let before = latest_bet(database)?;
    let busy = machine::busy()?;
    let cpu = server.cpu()?;
    let step: Step = Arc::new(move |user| vec![bet(user)]);
    let answers = ask_all(
        server.bets()?,
        clients,
        during(time),
        pause,
        step,
        uniform(users),
    )?;
    let elapsed = began.elapsed().as_secs_f64();
    let own_share = (server.cpu()? - cpu).as_secs_f64() / elapsed;
    let machine_share = (machine::busy()? - busy).as_secs_f64() / elapsed / machine::cores() as f64;
    Ok(Placed {
        answers,
        decided: Decisions::since(before, database)?,
        own_share,
        machine_share,
    })
}

/// Bets as fast as the clients can place them, and at a rate that leaves headroom.
fn bet_rows(
    server: &Server,
    folder: &Folder,
    pgbench: &PathBuf,
    database: &mut PgConnection,
    clients: usize,
    users: u64,
) -> Outcome<Vec<Row>> {
    let seconds = setting("BENCH_SECONDS", 3)?;
    let rounds = setting("BENCH_ROUNDS", 3)?;
    let rate = setting("BENCH_BET_RATE", 500)?;
    let time = Duration::from_secs(seconds);
    place(
        server,
        database,
        clients,
        users,
        Duration::from_secs(setting("BENCH_WARM_UP", 20)?),
        None,
    )?;
    let mut runs = Vec::new();
    let mut alone = Vec::new();
    for _ in 0..rounds {
        runs.push(place(server, database, clients, users, time, None)?);
        let script = bet_script(users);
        alone.push(run_pgbench(
            pgbench,
            folder,
            clients,
            seconds,
            &[("bet", script)],
        )?);
        // These rows must not be published; their long lease identifies them.
        diesel::sql_query("DELETE FROM outbox WHERE leased_until > now() + interval '30 min'")
            .execute(database)?;
    }
    let pause = Duration::from_secs_f64(clients as f64 / rate as f64);
    let calm = [place(
        server,
        database,
        clients,
        users,
        time * 2,
        Some(pause),
    )?];
    let of =
        |runs: &[Placed], figure: fn(&Placed) -> f64| median(runs.iter().map(figure).collect());
    let busy = |runs: &[Placed]| {
        let own = of(runs, |run| run.own_share);
        let all = of(runs, |run| run.machine_share);
        format!(
            "all cores {:.0} % busy, the platform took {:.0} % of one",
            all * 100.0,
            own * 100.0
        )
    };
    let answered = |name: String, runs: &[Placed]| {
        let p50 = of(runs, |run| run.answers.milliseconds(0.5));
        Row::new(name, of(runs, |run| run.answers.milliseconds(0.99)), "ms")
            .at_most(25.0)
            .remark(format!("p50 {p50:.1} ms"))
    };
    let ended = |name: String, runs: &[Placed]| {
        let p50 = of(runs, |run| run.decided.p50);
        let (all, late) = runs.iter().fold((0, 0), |sum, run| {
            (sum.0 + run.decided.all, sum.1 + run.decided.late)
        });
        let remark = format!("p50 {p50:.1} ms; {late} of {all} by the deadline");
        Row::new(name, of(runs, |run| run.decided.p99), "ms")
            .at_most(100.0)
            .remark(remark)
    };
    let full = format!("POST /bets, {clients} clients in a closed loop");
    let placed = Row::new(
        format!("{full}, middle of {rounds} pairs"),
        of(&runs, |run| run.answers.rate),
        "bets/s",
    );
    Ok(vec![
        placed
            .beside("the same functions by pgbench, a bet a call", median(alone))
            .itself_at_least(1_800.0)
            .remark("the original: 18")
            .remark(busy(&runs)),
        answered(format!("{full}, p99"), &runs),
        ended("from placed to final at that rate, p99".to_owned(), &runs),
        answered(format!("POST /bets, {rate} a second, p99"), &calm).remark(busy(&calm)),
        ended("from placed to final at that rate, p99".to_owned(), &calm),
    ])
}

/// The role `bets` in two processes of its own on the platform of the other rows: one checks the
/// token of each bet, the other checks nothing.
fn token_row(folder: &Folder, database: &mut PgConnection, clients: usize) -> Outcome<Row> {
    let time = Duration::from_secs(setting("BENCH_SECONDS", 3)?);
    let rounds = setting("BENCH_ROUNDS", 3)?;
    let start = |variables| Server::start("bets", folder, variables, None);
    let (open, checking) = (start(&[])?, start(&tokens::SETTINGS)?);
    machine::unpin()?;
    let key = tokens::shared_key()?;
    let token = |user| tokens::sign(&key, &format!("user-{user}"), &[Scope::BetsWrite]);
    let tokens: Vec<Arc<str>> = (1..=TOKENS)
        .map(|user| Ok(token(user)?.into()))
        .collect::<Outcome<_>>()?;
    let without: Step = Arc::new(|user| vec![bet(user)]);
    let with: Step = Arc::new(move |user| {
        let token = tokens.get(user as usize - 1).cloned();
        vec![Post { token, ..bet(user) }]
    });
    let mut sides = [(&open, without, Vec::new()), (&checking, with, Vec::new())];
    for (server, step, _) in &sides {
        server.until_ready()?;
        let address = server.bets()?;
        until("a bet is accepted", || {
            let post = step(1).pop().ok_or("no bet")?;
            Ok(Connection::open(address)?.post(&post).ok())
        })?;
        ask_all(
            address,
            clients,
            during(time),
            None,
            step.clone(),
            uniform(TOKENS),
        )?;
    }
    for _ in 0..rounds {
        for (server, step, rates) in &mut sides {
            let before = latest_bet(database)?;
            let pick = uniform(TOKENS);
            rates.push(
                ask_all(
                    server.bets()?,
                    clients,
                    during(time),
                    None,
                    step.clone(),
                    pick,
                )?
                .rate,
            );
            Decisions::since(before, database)?;
        }
    }
    let [(.., open), (.., checking)] = sides;
    let name =
        format!("POST /bets with a token (HS256), {clients} clients, middle of {rounds} pairs");
    Ok(Row::new(name, median(checking), "bets/s")
        .beside("AUTH=off", median(open))
        .at_least(0.95)
        .remark(format!("bets in a process of its own; {TOKENS} users")))
}

fn bet_script(users: u64) -> String {
    let bet = "(lpad(to_hex(:high::bigint), 16, '0') || lpad(to_hex(:low::bigint), 16, '0'))::uuid";
    let payload = r#"'{"betId":"0193a1f0-0000-7000-8000-000000000000","userId":"user-1","eventId":"MATCH_001","market":"1x2","selection":"home","stakeCents":100,"oddValue":1.5}'"#;
    format!(
        "\\set user random(1, {users})
\\set high random(1, 9000000000000000000)
\\set low random(1, 9000000000000000000)
SELECT place, outcome, bet, price, balance, refused, record FROM bets_place(true, ARRAY[{bet}], ARRAY['user-' || :user],
    '{{MATCH_001}}', '{{1x2}}', ARRAY[''], '{{home}}', '{{100}}', '{{1500}}', ARRAY[now() + interval '10 s'],
    ARRAY[gen_random_uuid()], '{{NULL}}', '{{NULL}}', ARRAY[{payload}], ARRAY[now() + interval '1 h'], ARRAY[now()]);
SELECT place, outcome, status, record FROM bets_decide(true, ARRAY[{bet}], '{{CONFIRMED}}', '{{NULL}}', '{{SUP-1}}', '{{f}}',
    ARRAY[{payload}], ARRAY[now() + interval '1 h'], ARRAY[now()]);
"
    )
}

fn latest_bet(database: &mut PgConnection) -> Outcome<i64> {
    let query = "SELECT COALESCE(max(extract(epoch FROM placed_at) * 1000000), 0)::bigint AS number FROM bets";
    number(database, query)
}

/// How the bets were decided.
#[derive(QueryableByName)]
struct Decisions {
    #[diesel(sql_type = BigInt)]
    all: i64,
    #[diesel(sql_type = BigInt)]
    late: i64,
    #[diesel(sql_type = Double)]
    p50: f64,
    #[diesel(sql_type = Double)]
    p99: f64,
}

impl Decisions {
    /// Waits until all bets placed after this time are decided.
    fn since(micros: i64, database: &mut PgConnection) -> Outcome<Decisions> {
        until_decided(database)?;
        let query = "WITH decided AS (
                SELECT extract(epoch FROM decided_at - placed_at)::float8 * 1000 AS took, reason FROM bets
                WHERE extract(epoch FROM placed_at) * 1000000 > $1
            )
            SELECT count(*) AS all, count(*) FILTER (WHERE reason = 'SUPPLIER_TIMEOUT') AS late,
                percentile_disc(0.5) WITHIN GROUP (ORDER BY took) AS p50,
                percentile_disc(0.99) WITHIN GROUP (ORDER BY took) AS p99
            FROM decided";
        Ok(diesel::sql_query(query)
            .bind::<BigInt, _>(micros)
            .get_result(database)?)
    }
}

/// The distribution of users, here and in `pgbench`.
struct Load {
    name: &'static str,
    pick: Pick,
    /// The same distribution as a `pgbench` expression.
    expression: String,
}

impl Load {
    fn uniform(users: u64) -> Load {
        Load {
            name: "uniform",
            pick: uniform(users),
            expression: format!("random(1, {users})"),
        }
    }

    fn skewed(users: u64) -> Load {
        let mut sum = 0.0;
        let sums: Vec<f64> = (1..=users)
            .map(|user| {
                sum += (user as f64).powf(-SKEW);
                sum
            })
            .collect();
        let pick = move || 1 + sums.partition_point(|limit| *limit < fastrand::f64() * sum) as u64;
        let expression = format!("random_zipfian(1, {users}, {SKEW})");
        Load {
            name: "skewed",
            pick: Arc::new(pick),
            expression,
        }
    }

    fn one() -> Load {
        Load {
            name: "one hot wallet",
            pick: Arc::new(|| 1),
            expression: "1".to_owned(),
        }
    }

    fn script(&self, end: &str) -> String {
        format!(
            "\\set user {}
\\set reference random(1, 9000000000000000000)
SELECT outcome, reservation, status, created, settled
FROM wallet_reserve('user-' || :user, 100, 'bench-' || :reference, gen_random_uuid(), NULL, now());
SELECT outcome, reservation, amount, status, created, settled
FROM wallet_settle('user-' || :user, 'bench-' || :reference, '{end}', NULL, now());
",
            self.expression
        )
    }
}

/// Reserve, then commit or refund: over REST, and by `pgbench`.
fn wallet_row(
    server: &Server,
    folder: &Folder,
    pgbench: &PathBuf,
    clients: usize,
    load: &Load,
) -> Outcome<Row> {
    let seconds = setting("BENCH_SECONDS", 3)?;
    let rounds = setting("BENCH_ROUNDS", 3)?;
    let step: Step = Arc::new(|user| {
        let reference = fastrand::u64(..);
        let end = if reference.is_multiple_of(2) {
            "/wallet/commit"
        } else {
            "/wallet/refund"
        };
        let order = format!(
            r#"{{"userId":"user-{user}","amount_cents":100,"external_ref":"rest-{reference}"}}"#
        );
        vec![
            Post::new("/wallet/reserve", order.clone()),
            Post::new(end, order),
        ]
    });
    let mut ours = Vec::new();
    let mut alone = Vec::new();
    let mut p99s = Vec::new();
    let mut busy = Vec::new();
    for _ in 0..rounds {
        let before = machine::busy()?;
        let began = Instant::now();
        let time = Duration::from_secs(seconds);
        let answers = ask_all(
            server.wallet()?,
            clients,
            during(time),
            None,
            step.clone(),
            load.pick.clone(),
        )?;
        busy.push(
            (machine::busy()? - before).as_secs_f64()
                / began.elapsed().as_secs_f64()
                / machine::cores() as f64,
        );
        ours.push(answers.rate);
        p99s.push(answers.milliseconds(0.99));
        let scripts = ["commit", "refund"].map(|end| (end, load.script(end)));
        // Each transaction of the script contains two operations.
        alone.push(2.0 * run_pgbench(pgbench, folder, clients, seconds, &scripts)?);
    }
    let name = format!(
        "reserve, commit, refund: {}, {clients} clients, middle of {rounds} pairs",
        load.name
    );
    let busy = median(busy) * 100.0;
    let p99 = median(p99s);
    let remark = format!("p99 {p99:.1} ms; all cores {busy:.0} % busy");
    Ok(Row::new(name, median(ours), "requests/s")
        .beside("pgbench", median(alone))
        .at_least(0.5)
        .remark(remark))
}

/// Runs of one of the scripts per second.
fn run_pgbench(
    program: &PathBuf,
    folder: &Folder,
    clients: usize,
    seconds: u64,
    scripts: &[(&str, String)],
) -> Outcome<f64> {
    let url = folder
        .sandbox()
        .value("DATABASE_URL")
        .ok_or("no database")?;
    let mut command = Command::new(program);
    command.args([
        "-n",
        "-M",
        "prepared",
        "-j",
        "2",
        "-c",
        &clients.to_string(),
        "-T",
        &seconds.to_string(),
    ]);
    for (name, script) in scripts {
        let file = folder.path().join(format!("{name}.sql"));
        std::fs::write(&file, script)?;
        command.arg("-f").arg(file);
    }
    let output = command.arg(url).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    let rate = text.lines().find_map(|line| {
        line.strip_prefix("tps = ")?
            .split(' ')
            .next()?
            .parse::<f64>()
            .ok()
    });
    let has_failures = text
        .lines()
        .any(|line| line.starts_with("number of failed") && !line.contains(": 0 "));
    match rate.filter(|_| output.status.success() && !has_failures) {
        Some(rate) => Ok(rate),
        None => Err(format!("pgbench failed: {text}{errors}").into()),
    }
}

/// Locates `pgbench`: it is in PostgreSQL's own directory, which is on the path only if a package
/// manager put it there.
fn pgbench() -> Outcome<PathBuf> {
    let folder = Command::new("pg_config").arg("--bindir").output();
    let folder = folder
        .map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
        .unwrap_or_default();
    let candidates = [
        PathBuf::from(folder).join("pgbench"),
        PathBuf::from("pgbench"),
    ];
    let works = |program: &PathBuf| {
        Command::new(program)
            .arg("--version")
            .output()
            .is_ok_and(|output| output.status.success())
    };
    let found = candidates.into_iter().find(works);
    found.ok_or_else(|| {
        "pgbench is neither in `pg_config --bindir` nor on the path: install PostgreSQL's programs".into()
    })
}
