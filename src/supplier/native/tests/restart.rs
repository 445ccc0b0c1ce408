//! What an earlier process left in the database, and what the source sends after that.

use super::*;
use crate::supplier::AddedMarkets;

/// The state of a market in the database.
fn row(update: &OddsUpdate, status: MarketStatus) -> OddsUpdate {
    OddsUpdate {
        status,
        ..update.clone()
    }
}

/// A market with a suspension of ours in the database.
fn suspended_by_us(update: &OddsUpdate) -> OddsUpdate {
    OddsUpdate {
        revision: next_revision(update.revision),
        ..row(update, SUSPENDED)
    }
}

/// The source sends an unchanged market, before or after the database is read.
#[test]
fn unchanged_market_opens_after_our_suspension() {
    let sent = market("a", 10);
    let stored = suspended_by_us(&sent);
    let mut decoder = NativeDecoder::default();
    decoder.on_connected();
    assert_eq!(
        decoder.add_stored(vec![stored.clone()]),
        AddedMarkets::default()
    );
    let opened = read(&mut decoder, &sent);
    assert_eq!(
        (opened.status, opened.revision),
        (OPEN, next_revision(stored.revision))
    );

    let mut decoder = NativeDecoder::default();
    decoder.on_connected();
    assert_eq!(read(&mut decoder, &sent), sent);
    let added = decoder.add_stored(vec![stored.clone()]);
    assert_eq!(
        added,
        AddedMarkets {
            unsent: 0,
            updates: vec![opened]
        }
    );
    assert_eq!(
        decoder.add_stored(vec![stored]),
        AddedMarkets::default(),
        "once"
    );
}

#[test]
fn suspension_of_the_source_is_kept() {
    let stored = row(&market("a", 10), SUSPENDED);
    let mut decoder = NativeDecoder::default();
    decoder.on_connected();
    decoder.add_stored(vec![stored.clone()]);
    let late = decoder
        .on_frame(market("a", 9).to_json().as_bytes())
        .unwrap();
    assert_eq!(
        (late.late, late.updates[0].revision),
        (1, market("a", 9).revision)
    );
    assert!(decoder.on_stale().is_empty(), "it is not open");
    // It was sent before the database was read.
    let mut decoder = NativeDecoder::default();
    decoder.on_connected();
    read(&mut decoder, &market("a", 9));
    assert_eq!(decoder.add_stored(vec![stored]), AddedMarkets::default());
    assert!(decoder.on_stale().is_empty(), "it is not open");
    assert_eq!(read(&mut decoder, &market("a", 11)), market("a", 11));
}

/// Another connection sends it.
#[test]
fn forgotten_market_is_not_suspended() {
    let mut decoder = NativeDecoder::default();
    decoder.on_connected();
    read(&mut decoder, &market("sent", 10));
    decoder.add_stored(vec![market("a", 10), market("b", 10)]);
    decoder.forget_stored(&|market| market.market.name.as_str() != "b");
    assert_eq!(
        statuses(&decoder.suspend_unconfirmed(&|_| false)),
        [("b", SUSPENDED)]
    );
    assert_eq!(
        statuses(&decoder.on_stale()),
        [("sent", SUSPENDED)],
        "what the source has sent is not forgotten"
    );
}

/// What only a later update may end is not ended by the last one after a restart.
#[test]
fn doubt_and_bet_stop_outlast_restart() {
    let sent = market("a", 10);
    let unreadable = json(&sent, r#""status":"open""#, r#""status":"halted""#);
    let at = serde_json::to_string(&sent.revision.updated_at).unwrap();
    let stop =
        format!(r#"{{"type":"bet_stop","event_id":"MATCH_001","updated_at":{at},"version":1}}"#);
    for frame in [unreadable, stop] {
        let mut earlier = NativeDecoder::default();
        read(&mut earlier, &sent);
        let suspended = earlier.on_frame(frame.as_bytes()).unwrap().updates;
        assert_eq!(statuses(&suspended), [("a", SUSPENDED)], "{frame}");
        let mut decoder = NativeDecoder::default();
        decoder.add_stored(suspended.clone());
        assert_eq!(read(&mut decoder, &sent), sent, "it opens nothing: {frame}");
        // The clock of the source may be coarse.
        let mut next = sent.clone();
        next.revision.version += 1;
        assert!(
            read(&mut decoder, &next).revision > suspended[0].revision,
            "{frame}"
        );
    }
}

/// A market that was heard before the database was read is suspended with a revision after the
/// stored one.
#[test]
fn later_suspension_follows_stored_revision() {
    let sent = market("a", 10);
    let mut stored = sent.clone();
    stored.revision = next_revision(next_revision(stored.revision));
    let mut decoder = NativeDecoder::default();
    decoder.on_connected();
    read(&mut decoder, &sent);
    assert_eq!(
        decoder.add_stored(vec![stored.clone()]),
        AddedMarkets::default()
    );
    let suspended = decoder.on_stale();
    assert!(suspended[0].revision > stored.revision);
    let opened = decoder.on_resumed();
    assert!(opened[0].revision > suspended[0].revision);
}

/// A selector publishes the market with revisions that are not the source's.
#[test]
fn selected_source_is_judged_by_its_own_revisions() {
    let mut decoder = NativeDecoder::new(false, true);
    decoder.on_connected();
    let stored = [market("quiet", 500), row(&market("a", 500), SUSPENDED)];
    assert_eq!(decoder.add_stored(stored.to_vec()).unsent, 1);
    assert_eq!(
        statuses(&decoder.suspend_unconfirmed(&|_| false)),
        [("quiet", SUSPENDED)]
    );
    for name in ["quiet", "a"] {
        let sent = decoder
            .on_frame(market(name, 10).to_json().as_bytes())
            .unwrap();
        assert_eq!((sent.late, &sent.updates[..]), (0, &[market(name, 10)][..]));
    }
    assert_eq!(decoder.add_stored(stored.to_vec()), AddedMarkets::default());
    assert_eq!(decoder.on_stale().len(), 2);
    let opened = decoder.on_resumed();
    assert!(
        opened
            .iter()
            .all(|update| update.revision == market("a", 10).revision),
        "as the source has sent it: {opened:?}"
    );
    decoder.on_stale();
    decoder.on_connected();
    assert_eq!(read(&mut decoder, &market("a", 10)), market("a", 10));
}

/// A step of the property below.
#[derive(Clone, Copy, Debug)]
enum Life {
    /// The source opens or suspends a market.
    Set(usize, bool),
    Silence,
    Resume,
    /// A new connection; the source sends every market.
    Reconnect,
    /// A new process reads the database before it has received this many markets of the source.
    Restart(usize),
}

const NAMES: [&str; 3] = ["a", "b", "c"];

/// The source, and what readers see.
struct World {
    decoder: NativeDecoder,
    book: Book,
    position: u64,
    time: i64,
    source: Vec<OddsUpdate>,
}

impl World {
    fn publish(&mut self, updates: Vec<OddsUpdate>) {
        for update in updates {
            self.position += 1;
            let _ = self.book.apply(update, self.position);
        }
    }

    fn send(&mut self, update: &OddsUpdate) {
        let updates = self.decoder.on_frame(update.to_json().as_bytes()).unwrap();
        self.publish(updates.updates);
    }

    fn rows(&self) -> Vec<OddsUpdate> {
        let states = self.book.snapshot().markets;
        states.iter().map(|state| state.update.clone()).collect()
    }

    fn step(&mut self, step: Life) {
        match step {
            Life::Set(index, is_open) => {
                self.time += 1;
                let status = if is_open { OPEN } else { SUSPENDED };
                let update = row(&market(NAMES[index], self.time), status);
                self.source.retain(|one| one.market != update.market);
                self.source.push(update.clone());
                self.send(&update);
            }
            Life::Silence => {
                let suspended = self.decoder.on_stale();
                self.publish(suspended);
            }
            Life::Resume => {
                let opened = self.decoder.on_resumed();
                self.publish(opened);
            }
            Life::Reconnect => {
                self.decoder.on_connected();
                self.send_all(usize::MAX);
            }
            Life::Restart(before) => {
                self.decoder = NativeDecoder::default();
                self.decoder.on_connected();
                self.send_all(before);
            }
        }
    }

    /// Sends all markets; the database is read before the one with this index.
    fn send_all(&mut self, read_before: usize) {
        let source = self.source.clone();
        for (index, update) in source.iter().enumerate() {
            if index == read_before {
                self.read_rows();
            }
            self.send(update);
        }
        if read_before >= source.len() && read_before != usize::MAX {
            self.read_rows();
        }
        let suspended = self.decoder.suspend_unconfirmed(&|_| false);
        self.publish(suspended);
    }

    fn read_rows(&mut self) {
        let rows = self.rows();
        let added = self.decoder.add_stored(rows);
        self.publish(added.updates);
    }
}

proptest::proptest! {
    /// When a source has sent all of its markets after any history of silences and restarts, readers
    /// see what it has sent.
    #[test]
    fn readers_see_the_source_after_restart(
        steps in proptest::collection::vec(proptest::prop_oneof![
            4 => (0_usize..3, proptest::bool::ANY).prop_map(|(index, open)| Life::Set(index, open)),
            1 => proptest::strategy::Just(Life::Silence),
            1 => proptest::strategy::Just(Life::Resume),
            1 => proptest::strategy::Just(Life::Reconnect),
            1 => (0_usize..4).prop_map(Life::Restart),
        ], 1..40)
    ) {
        let mut world = World {
            decoder: NativeDecoder::default(),
            book: Book::new(EventId::new("MATCH_001").unwrap()),
            position: 0,
            time: 10,
            source: Vec::new(),
        };
        world.decoder.on_connected();
        for step in steps {
            world.step(step);
            if matches!(step, Life::Reconnect | Life::Restart(_)) {
                let shown = world.rows();
                proptest::prop_assert_eq!(statuses(&shown), statuses(&world.source), "{:?}", step);
            }
        }
    }
}
