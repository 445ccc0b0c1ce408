//! Published states that cannot be loaded, or only in part.

use super::*;

fn unloaded() -> Rig {
    let mut rig = Rig::unloaded(Instant::now(), EARLY.parse().unwrap());
    rig.report("a", SourceState::Live);
    rig.report("b", SourceState::Live);
    rig.wait(60);
    rig
}

/// What was published is unknown, so neither an owner nor a status may follow from the records.
#[test]
fn records_are_held_until_load() {
    let mut rig = unloaded();
    rig.read(update_of("b", 1));
    rig.read(update_of("a", 2));
    rig.load(&[], false);
    rig.wait(60);
    assert_eq!(rig.effects, []);
    assert_eq!(rig.selection.held(), 2);
    let closed = OddsUpdate {
        status: MarketStatus::Closed,
        ..update_of("a", 3)
    };
    rig.load(&[Arc::new(closed)], true);
    assert_eq!(rig.selection.held(), 0);
    rig.wait(60);
    assert_eq!(rig.published.len(), 1, "an ended market is not reopened");
}

#[test]
fn held_records_are_published_in_order() {
    let mut rig = unloaded();
    for time in 1..4 {
        rig.read(update_of("a", time));
    }
    rig.load(&[], true);
    let expected: Vec<_> = (1..4).map(|time| Arc::new(update_of("a", time))).collect();
    assert_eq!(rig.published, expected);
}

/// Of an incomplete load each state is known, and the others are not.
#[test]
fn incomplete_load_holds_other_markets() {
    let mut rig = unloaded();
    let mut other = update_of("a", 2);
    other.market.name = "btts".parse().unwrap();
    rig.load(&[Arc::new(update_of("a", 1))], false);
    rig.read(other.clone());
    rig.read(update_of("a", 3));
    assert_eq!(rig.shown(), open(&update_of("a", 3)));
    assert_eq!(rig.selection.held(), 1);
    let held: Vec<_> = rig.selection.held_events().collect();
    assert_eq!(held, [(&other.event_id, 0)]);
}

#[test]
fn held_records_of_revoked_partitions_are_dropped() {
    let mut rig = unloaded();
    rig.read(update_of("a", 1));
    rig.selection.forget(&[1]);
    assert_eq!(rig.selection.held(), 1);
    rig.selection.forget(&[0]);
    assert_eq!(rig.selection.held(), 0);
}
