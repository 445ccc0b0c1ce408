//! The pure functions in isolation: the cost per update of each.
//!
//! Run with `cargo bench --bench pure`. Criterion measures the time and its variance; the table
//! shows its medians.

mod support;

use std::cell::Cell;
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::Criterion;
use sports_bet_platform::domain::ids::EventId;
use sports_bet_platform::domain::odds::book::{Book, MarketState};
use sports_bet_platform::domain::odds::update::OddsUpdate;
use sports_bet_platform::domain::streaming::fanout::{
    Delivery, DeliverySink, Fanout, PushError, SessionId,
};
use sports_bet_platform::domain::streaming::protocol::UpdateFrame;
use sports_bet_platform::domain::timestamp::Timestamp;
use sports_bet_platform::supplier::Decoder;
use sports_bet_platform::supplier::native::NativeDecoder;

use support::table::{Row, print};
use support::{Outcome, machine, setting, supplier};

const EVENT: &str = "MATCH_001";
const RECIPIENTS: u64 = 1_000;

/// Name and description.
const PARTS: [(&str, &str); 6] = [
    (
        "decode_frame",
        "decode a supplier's frame, and keep track of its market",
    ),
    ("decode_record", "decode a record of the bus"),
    ("encode_record", "encode a record of the bus"),
    ("book_apply", "apply an update to a book of 16 markets"),
    ("encode_frame", "encode a client's frame"),
    ("publish", "publish a frame to 1,000 recipients"),
];

fn main() -> Outcome<()> {
    machine::pin(machine::server_core())?;
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("criterion");
    let seconds = Duration::from_secs(setting("BENCH_SECONDS", 2)?);
    let mut criterion = Criterion::default()
        .output_directory(&folder)
        .sample_size(30)
        .warm_up_time(seconds / 4)
        .measurement_time(seconds)
        .configure_from_args();
    decode(&mut criterion)?;
    apply(&mut criterion)?;
    encode(&mut criterion)?;
    publish(&mut criterion)?;
    criterion.final_summary();
    let rows: Vec<Row> = PARTS
        .iter()
        .filter_map(|(name, what)| row(&folder, name, what).ok())
        .collect();
    print("pure", &rows)
}

/// Criterion's result, if this benchmark was run.
fn row(folder: &Path, name: &str, what: &str) -> Outcome<Row> {
    let text = std::fs::read_to_string(folder.join(name).join("new/estimates.json"))?;
    let estimates: serde_json::Value = serde_json::from_str(&text)?;
    let figure = |name: &str| {
        estimates[name]["point_estimate"]
            .as_f64()
            .ok_or("no estimate")
    };
    let median = figure("median")?;
    let deviation = figure("median_abs_dev")?;
    let remark = format!("± {:.0} %", deviation / median * 100.0);
    let each = format!("{:.1} ns a recipient", median / RECIPIENTS as f64);
    Ok(Row::new(what, median / 1_000.0, "µs")
        .remark(remark)
        .remark(if name == "publish" { &each } else { "" }))
}

/// A supplier's frame for a version of a market; later versions have later times.
fn frame(market: &str, version: u64) -> Outcome<String> {
    let at = Timestamp::from_micros(1_762_722_465_000_000 + version as i64).ok_or("no time")?;
    Ok(supplier::update(EVENT, market, version, at))
}

fn updates(markets: usize, versions: u64) -> Outcome<Vec<OddsUpdate>> {
    let mut updates = Vec::new();
    for version in 1..=versions {
        for market in 0..markets {
            updates.push(OddsUpdate::from_json(
                frame(&format!("market_{market:02}"), version)?.as_bytes(),
            )?);
        }
    }
    Ok(updates)
}

fn decode(criterion: &mut Criterion) -> Outcome<()> {
    let frames = (1..=1_000)
        .map(|version| frame("1x2", version))
        .collect::<Outcome<Vec<_>>>()?;
    criterion.bench_function("decode_frame", |bencher| {
        let mut decoder = NativeDecoder::default();
        let mut frames = frames.iter().cycle();
        // A repeated frame would be stale: decoded all the same, but not tracked. So each round
        // starts with a new tracker.
        let mut left = 0;
        bencher.iter(|| {
            if left == 0 {
                (decoder, left) = (NativeDecoder::default(), 1_000);
            }
            left -= 1;
            frames
                .next()
                .map(|frame| decoder.on_frame(black_box(frame.as_bytes())).is_ok())
        });
    });
    let record = OddsUpdate::from_json(frame("1x2", 1)?.as_bytes())?.to_json();
    criterion.bench_function("decode_record", |bencher| {
        bencher.iter(|| OddsUpdate::from_json(black_box(record.as_bytes())));
    });
    Ok(())
}

fn apply(criterion: &mut Criterion) -> Outcome<()> {
    let event = EventId::new(EVENT)?;
    let updates = updates(16, 64)?;
    // Applies all updates once to an empty book. The time is per update.
    criterion.bench_function("book_apply", |bencher| {
        bencher.iter_custom(|iterations| {
            let mut took = Duration::ZERO;
            for _ in 0..iterations.div_ceil(updates.len() as u64) {
                let mut book = Book::new(event.clone());
                let given = updates.clone();
                let began = Instant::now();
                for (position, update) in given.into_iter().enumerate() {
                    let _ = black_box(book.apply(update, position as u64));
                }
                took += began.elapsed();
            }
            let done = iterations.div_ceil(updates.len() as u64) * updates.len() as u64;
            took.mul_f64(iterations as f64 / done as f64)
        });
    });
    Ok(())
}

fn encode(criterion: &mut Criterion) -> Outcome<()> {
    let state = Arc::new(MarketState {
        update: OddsUpdate::from_json(frame("1x2", 1)?.as_bytes())?,
        seq: 17,
    });
    criterion.bench_function("encode_record", |bencher| {
        bencher.iter(|| black_box(&state.update).to_json())
    });
    criterion.bench_function("encode_frame", |bencher| {
        bencher.iter(|| UpdateFrame::new(black_box(&state)))
    });
    Ok(())
}

/// Accepts everything and discards it.
struct Sink(Cell<usize>);

impl DeliverySink for Sink {
    fn push(&self, delivery: Delivery) -> Result<(), PushError> {
        self.0.set(self.0.get() + delivery.frames().len());
        Ok(())
    }
}

fn publish(criterion: &mut Criterion) -> Outcome<()> {
    let event = EventId::new(EVENT)?;
    let mut fanout = Fanout::default();
    for id in 0..RECIPIENTS {
        fanout.connect(SessionId(id), Sink(Cell::new(0)));
        fanout.subscribe(SessionId(id), &event, None);
    }
    let state = Arc::new(MarketState {
        update: OddsUpdate::from_json(frame("1x2", 1)?.as_bytes())?,
        seq: 17,
    });
    let delivery = Delivery::of(vec![Arc::new(UpdateFrame::new(&state))], false);
    let now = Instant::now();
    criterion.bench_function("publish", |bencher| {
        bencher.iter(|| fanout.publish(&event, &delivery, now))
    });
    Ok(())
}
