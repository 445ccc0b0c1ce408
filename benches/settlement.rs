//! Settlement of a market with 100,000 open bets on Kafka, Redis and PostgreSQL: from the result, which
//! a supplier sends, until the last bet is paid, by the role `settlement` in a process of its own. The
//! baseline writes the same rows with one SQL statement for 500 bets, on one connection; it publishes
//! nothing. Then the time of `POST /bets` while a market is settled, and what the indexes for
//! settlement cost those who place bets.
//!
//! Run with `scripts/engines with cargo bench --bench settlement`. Settings: `BENCH_BETS` of a market,
//! `BENCH_USERS`, `BENCH_ROUNDS`, `BENCH_CLIENTS`, `BENCH_BET_RATE`, `BENCH_SECONDS` per run of bets,
//! `BENCH_WARM_UP` (seconds before the first run: see `latency`), and every setting of the server under
//! its own name.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use diesel::connection::{Connection as _, SimpleConnection};
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Text};
use sports_bet_platform::domain::timestamp::Timestamp;

use support::database::{Number, connect, number, until_decided, until_number};
use support::engines::Folder;
use support::http::Connection;
use support::load::{Answers, Running, ask_all, bet, during, uniform};
use support::server::Server;
use support::supplier::{Feed, Supplier, update};
use support::table::{Row, median, print};
use support::{Outcome, machine, need_engines, setting, until};

const ROLES: &str = "simulator,ingest,processor,odds,bets,confirmation";
/// Number of bets that one statement of the baseline settles.
const BASELINE_BATCH: i64 = 500;
/// How long a market may take.
const SETTLEMENT_LIMIT: Duration = Duration::from_secs(600);

const USERS: &str = include_str!("settlement/users.sql");
const BETS: &str = include_str!("settlement/bets.sql");
const BASELINE: &str = include_str!("settlement/baseline.sql");
/// The indexes on `bets` that settlement needs, with the statements that create them.
const INDEXES: [(&str, &str); 3] = [
    (
        "bets_open_of_market",
        include_str!("../migrations/postgres/2026-11-29-200100_open_bets_of_market/up.sql"),
    ),
    (
        "bets_settled_of_market",
        include_str!("../migrations/postgres/2026-11-29-200200_settled_bets_of_market/up.sql"),
    ),
    (
        "bets_held",
        include_str!("../migrations/postgres/2026-11-29-200300_held_bets/up.sql"),
    ),
];

fn main() -> Outcome<()> {
    need_engines("settlement")?;
    let mut bench = Bench::start()?;
    let mut rows = Vec::new();
    // In a process of its own, for its memory.
    let settler = Server::start(
        "settlement",
        &bench.folder,
        &[("SETTLEMENT_SOURCES", "bench")],
        None,
    )?;
    machine::unpin()?;
    settler.until_ready()?;
    rows.extend(bench.speed_rows(&settler)?);
    rows.push(bench.placing_row()?);
    drop(settler);
    rows.extend(bench.index_rows()?);
    rows.push(support::ledger::row(&bench.folder)?);
    print("settlement", &rows)
}

/// The platform without `settlement`, and its database.
struct Bench {
    folder: Folder,
    platform: Server,
    feed: Feed,
    database: PgConnection,
    /// The number of markets so far.
    markets: u64,
    bets: u64,
    users: u64,
    rounds: u64,
    clients: usize,
    /// The time of a run of bets.
    time: Duration,
}

impl Bench {
    fn start() -> Outcome<Bench> {
        let folder = Folder::on_real_engines();
        // The simulator confirms bets; the bench supplies prices and results.
        let supplier = Supplier::listen()?;
        let platform = Server::start(ROLES, &folder, &[("SUPPLIER_URLS", &supplier.url()?)], None)?;
        machine::unpin()?;
        let mut feed = supplier.accept()?;
        platform.until_ready()?;
        feed.send([update("MATCH_001", "1x2", 1, Timestamp::now())])?;
        let mut bench = Bench {
            database: connect(&folder)?,
            folder,
            platform,
            feed,
            markets: 0,
            bets: setting("BENCH_BETS", 100_000)?,
            users: setting("BENCH_USERS", 20_000)?,
            rounds: setting("BENCH_ROUNDS", 3)?,
            clients: usize::try_from(setting("BENCH_CLIENTS", 16)?)?,
            time: Duration::from_secs(setting("BENCH_SECONDS", 3)?),
        };
        diesel::sql_query(USERS)
            .bind::<BigInt, _>(bench.users.cast_signed())
            .execute(&mut bench.database)?;
        // Empty tables are left out: their plans would be cached.
        let analyze = "ANALYZE wallets, ledger_transfers";
        bench.database.batch_execute(analyze)?;
        let address = bench.platform.bets()?;
        until("a bet is accepted", || {
            Ok(Connection::open(address)?.post(&bet(1)).ok())
        })?;
        let warm_up = Duration::from_secs(setting("BENCH_WARM_UP", 20)?);
        bench.place(during(warm_up), None)?;
        Ok(bench)
    }

    /// Makes a market with this number of open bets, and returns its event.
    fn add_market(&mut self, bets: u64) -> Outcome<String> {
        self.markets += 1;
        let event = format!("SETTLED_{:03}", self.markets);
        let made = diesel::sql_query(BETS)
            .bind::<Text, _>(&event)
            .bind::<BigInt, _>(bets.cast_signed())
            .bind::<BigInt, _>(self.users.cast_signed())
            .get_result::<Number>(&mut self.database)?;
        if made.number != bets.cast_signed() {
            return Err(format!("{} bets instead of {bets}", made.number).into());
        }
        self.database.batch_execute("VACUUM ANALYZE")?;
        Ok(event)
    }

    /// Settles a market by a result of the supplier, and returns how long it took.
    fn settle(&mut self, event: &str) -> Outcome<Duration> {
        let began = Instant::now();
        self.feed.send([result(event)])?;
        let settled = format!(
            "SELECT count(*) AS number FROM market_settlements
            WHERE event_id = '{event}' AND settled_generation = generation"
        );
        let what = "the market is settled";
        until_number(what, SETTLEMENT_LIMIT, &mut self.database, (&settled, 1))?;
        Ok(began.elapsed())
    }

    /// Waits until the outbox is empty.
    fn until_published(&mut self) -> Outcome<()> {
        let waiting = "SELECT count(*) AS number FROM outbox";
        let what = "the outbox is empty";
        until_number(what, SETTLEMENT_LIMIT, &mut self.database, (waiting, 0))
    }

    /// Settles a market by set-based statements, and returns how long it took.
    fn settle_by_sql(&mut self, event: &str) -> Outcome<Duration> {
        let began = Instant::now();
        loop {
            let settled = diesel::sql_query(BASELINE)
                .bind::<Text, _>(event)
                .bind::<BigInt, _>(BASELINE_BATCH)
                .get_result::<Number>(&mut self.database)?;
            if settled.number == 0 {
                break;
            }
        }
        let took = began.elapsed();
        self.store_settled(event)?;
        // No process publishes these rows. Their long lease identifies them.
        diesel::sql_query("DELETE FROM outbox WHERE leased_until > now() + interval '30 min'")
            .execute(&mut self.database)?;
        Ok(took)
    }

    /// Stores the result by which the baseline settled a market, so that it is not settled again.
    fn store_settled(&mut self, event: &str) -> Outcome<()> {
        let stored = self.database.transaction(|database| {
            let store = "SELECT result_store($1, '1x2', '', 'bench', 'settlement', now(), 1,
                sha256(convert_to($2, 'UTF8')), $2, now())";
            diesel::sql_query(store)
                .bind::<Text, _>(event)
                .bind::<Text, _>(result(event))
                .execute(database)?;
            let finish =
                "UPDATE market_settlements SET settled_generation = generation WHERE event_id = $1";
            diesel::sql_query(finish)
                .bind::<Text, _>(event)
                .execute(database)
        });
        stored
            .map(drop)
            .map_err(|error: diesel::result::Error| error.into())
    }

    fn speed_rows(&mut self, settler: &Server) -> Outcome<Vec<Row>> {
        let (bets, rounds) = (self.bets, self.rounds);
        // Also warms it up.
        let small = self.add_market(bets / 10)?;
        self.settle(&small)?;
        self.until_published()?;
        let peak_of_small = machine::memory(&settler.id(), "VmHWM")?;
        let rate = |took: Duration| bets as f64 / took.as_secs_f64();
        let (mut ours, mut published, mut baseline) = (Vec::new(), Vec::new(), Vec::new());
        let (mut own_cpu, mut busy) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            let [event, copy] = [self.add_market(bets)?, self.add_market(bets)?];
            let (cpu, all) = (settler.cpu()?, machine::busy()?);
            let began = Instant::now();
            let took = self.settle(&event)?;
            own_cpu.push((settler.cpu()? - cpu).as_secs_f64() / took.as_secs_f64());
            let cores = machine::cores() as f64;
            busy.push((machine::busy()? - all).as_secs_f64() / took.as_secs_f64() / cores);
            ours.push(rate(took));
            self.until_published()?;
            published.push(rate(began.elapsed()));
            baseline.push(rate(self.settle_by_sql(&copy)?));
        }
        let peak = machine::memory(&settler.id(), "VmHWM")?;
        let statement = format!("one statement for {BASELINE_BATCH} bets");
        let share = |shares| median(shares) * 100.0;
        Ok(vec![
            Row::new(
                format!("{bets} bets of one market, from the result to the last payment, middle of {rounds} pairs"),
                median(ours),
                "bets/s",
            )
            .beside(&statement, median(baseline.clone()))
            .at_least(0.4)
            .remark(format!(
                "CPU of the settling process {:.0} % of a core, all cores {:.0} % busy",
                share(own_cpu),
                share(busy)
            )),
            Row::new("until the last `bet_settled` is on Kafka", median(published), "bets/s")
                .beside(statement, median(baseline)),
            Row::new("peak RSS of the settling process", peak / 1_024.0, "MiB")
                .beside(
                    format!("a market of {} bets", bets / 10),
                    peak_of_small / 1_024.0,
                )
                .at_most(1.5),
        ])
    }

    /// Places bets while this holds, and waits until they are decided.
    fn place(&mut self, running: Running, pause: Option<Duration>) -> Outcome<Answers> {
        let step = Arc::new(|user| vec![bet(user)]);
        let address = self.platform.bets()?;
        let pick = uniform(self.users);
        let answers = ask_all(address, self.clients, running, pause, step, pick)?;
        until_decided(&mut self.database)?;
        Ok(answers)
    }

    /// The time of an answer beside a settlement.
    fn placing_row(&mut self) -> Outcome<Row> {
        let rate = setting("BENCH_BET_RATE", 500)?;
        let pause = Some(Duration::from_secs_f64(self.clients as f64 / rate as f64));
        let (mut beside, mut alone) = (Vec::new(), Vec::new());
        let mut settled = Vec::new();
        for _ in 0..self.rounds {
            let event = self.add_market(self.bets)?;
            alone.push(self.place(during(self.time * 2), pause)?.milliseconds(0.99));
            let is_settling = Arc::new(AtomicBool::new(true));
            let goes_on = is_settling.clone();
            let (address, clients) = (self.platform.bets()?, self.clients);
            let pick = uniform(self.users);
            let placing = std::thread::spawn(move || {
                let running: Running = Arc::new(move || goes_on.load(Ordering::Relaxed));
                let step = Arc::new(|user| vec![bet(user)]);
                ask_all(address, clients, running, pause, step, pick)
            });
            let took = self.settle(&event);
            is_settling.store(false, Ordering::Relaxed);
            let answers = placing.join().map_err(|_| "a client panicked")??;
            settled.push(self.bets as f64 / took?.as_secs_f64());
            beside.push(answers.milliseconds(0.99));
            until_decided(&mut self.database)?;
            self.until_published()?;
        }
        let (bets, rounds) = (self.bets, self.rounds);
        let name = format!(
            "POST /bets, {rate} a second, p99 while {bets} bets are settled, middle of {rounds} pairs"
        );
        Ok(Row::new(name, median(beside), "ms")
            .beside("nothing settled", median(alone))
            .at_most(2.0)
            .remark(format!(
                "{:.0} bets/s are settled meanwhile",
                median(settled)
            )))
    }

    /// Placing bets with and without the indexes that settlement needs.
    fn index_rows(&mut self) -> Outcome<Vec<Row>> {
        let rounds = self.rounds.max(5);
        let (mut with, mut without) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            with.push(self.place(during(self.time), None)?);
            for (name, _) in INDEXES {
                self.database.batch_execute(&format!("DROP INDEX {name}"))?;
            }
            without.push(self.place(during(self.time), None)?);
            for (_, create) in INDEXES {
                self.database.batch_execute(create)?;
            }
        }
        let of = |runs: &[Answers], figure: fn(&Answers) -> f64| {
            median(runs.iter().map(figure).collect())
        };
        let [rate, p99]: [fn(&Answers) -> f64; 2] = [|run| run.rate, |run| run.milliseconds(0.99)];
        let name = format!(
            "POST /bets, {} clients in a closed loop, with the indexes for settlement, middle of {rounds} pairs",
            self.clients
        );
        let all = number(&mut self.database, "SELECT count(*) AS number FROM bets")?;
        Ok(vec![
            Row::new(&name, of(&with, rate), "bets/s")
                .beside("without them", of(&without, rate))
                .at_least(0.95)
                .remark(format!("{all} bets in the table")),
            Row::new(format!("{name}, p99"), of(&with, p99), "ms")
                .beside("without them", of(&without, p99)),
        ])
    }
}

/// The supplier's result: half of the bets have won.
fn result(event: &str) -> String {
    let at = Timestamp::now();
    format!(
        r#"{{"type":"settlement","event_id":"{event}","market":"1x2","selections":[{{"id":"home","result":"won"}},{{"id":"away","result":"lost"}}],"updated_at":"{at}","source":"bench","version":1}}"#
    )
}
