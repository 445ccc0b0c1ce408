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

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use criterion::Criterion;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519};
use serde_json::{Value, json};
use sports_bet_platform::access::key_set::KeySet;
use sports_bet_platform::access::key_source::KeySource;
use sports_bet_platform::access::signing::SigningKey;
use sports_bet_platform::access::token::TokenVerifier;
use sports_bet_platform::domain::access::Scope;
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
use support::{Outcome, machine, setting, supplier, tokens};

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

/// Name and description of what is counted by the second.
const VERIFICATIONS: [(&str, &str); 3] = [
    ("verify_hs256", "verify a token, HS256"),
    ("verify_es256", "verify a token, ES256"),
    ("verify_eddsa", "verify a token, EdDSA"),
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
    verify(&mut criterion)?;
    criterion.final_summary();
    let parts = PARTS
        .iter()
        .filter_map(|(name, what)| row(&folder, name, what).ok());
    let verifications = VERIFICATIONS
        .iter()
        .filter_map(|(name, what)| verification_row(&folder, name, what).ok());
    print("pure", &parts.chain(verifications).collect::<Vec<_>>())
}

/// Criterion's result, if this benchmark was run.
struct Estimate {
    /// Nanoseconds.
    median: f64,
    /// The deviation from the median, as text.
    deviation: String,
}

impl Estimate {
    fn of(folder: &Path, name: &str) -> Outcome<Estimate> {
        let text = std::fs::read_to_string(folder.join(name).join("new/estimates.json"))?;
        let estimates: Value = serde_json::from_str(&text)?;
        let figure = |name: &str| {
            estimates[name]["point_estimate"]
                .as_f64()
                .ok_or("no estimate")
        };
        let median = figure("median")?;
        let deviation = figure("median_abs_dev")?;
        Ok(Estimate {
            median,
            deviation: format!("± {:.0} %", deviation / median * 100.0),
        })
    }
}

fn verification_row(folder: &Path, name: &str, what: &str) -> Outcome<Row> {
    let Estimate { median, deviation } = Estimate::of(folder, name)?;
    Ok(Row::new(what, 1e9 / median, "tokens/s")
        .remark(format!("{:.1} µs each", median / 1_000.0))
        .remark(deviation))
}

fn row(folder: &Path, name: &str, what: &str) -> Outcome<Row> {
    let Estimate { median, deviation } = Estimate::of(folder, name)?;
    let each = format!("{:.1} ns a recipient", median / RECIPIENTS as f64);
    Ok(Row::new(what, median / 1_000.0, "µs")
        .remark(deviation)
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

/// Verifies a token as a server does, which remembers no token that it has verified.
fn verify(criterion: &mut Criterion) -> Outcome<()> {
    let p256 = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let ed25519 = KeyPair::generate_for(&PKCS_ED25519)?;
    let base64 = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
    // The raw key is an uncompressed point: its mark and two coordinates.
    let (x, y) = p256.public_key_raw()[1..].split_at(32);
    let keys = json!({"keys": [
        {"kty": "oct", "k": base64(tokens::SECRET.as_bytes())},
        {"kty": "EC", "crv": "P-256", "kid": "es256", "x": base64(x), "y": base64(y)},
        {"kty": "OKP", "crv": "Ed25519", "kid": "eddsa", "x": base64(ed25519.public_key_raw())},
    ]});
    let keys = KeySet::of_jwks(keys.to_string().as_bytes())?;
    let verifier = TokenVerifier::new(vec![KeySource::new(KeySource::FILE, keys)], None, None);
    let of_pair = |pair: &KeyPair, kid| {
        SigningKey::of_pkcs8(&pair.serialize_der(), Some(kid)).ok_or("not a private key")
    };
    let signing = [
        ("verify_hs256", tokens::shared_key()?),
        ("verify_es256", of_pair(&p256, "es256")?),
        ("verify_eddsa", of_pair(&ed25519, "eddsa")?),
    ];
    for (name, key) in signing {
        let token = tokens::sign(&key, "user-1", &[Scope::BetsRead, Scope::BetsWrite])?;
        let now = Timestamp::now();
        verifier.verify(&token, now)?;
        criterion.bench_function(name, |bencher| {
            bencher.iter(|| verifier.verify(black_box(&token), now).is_ok());
        });
    }
    Ok(())
}
