use super::*;
use crate::domain::ids::{EventId, SelectionId};
use crate::domain::odds::hold::HoldScope;
use crate::domain::odds::update::testing::update;

fn state() -> Arc<MarketState> {
    let update = update(1, 1, 1);
    Arc::new(MarketState { update, seq: 7 })
}

fn source(state: SourceState) -> Restrictions {
    let status = SourceStatus { state, at: None };
    Restrictions {
        sources: [(Source::new("test").unwrap(), status)].into(),
        ..Restrictions::default()
    }
}

fn hold(scope: HoldScope) -> Restrictions {
    let hold = Hold {
        id: 1,
        scope,
        until: None,
    };
    Restrictions {
        holds: vec![hold],
        ..Restrictions::default()
    }
}

#[test]
fn only_live_sources_are_trusted() {
    let state = state();
    for (restrictions, expected) in [
        (Restrictions::default(), None),
        (source(SourceState::Live), None),
        (source(SourceState::Stale), Some(Restriction::Stale)),
        (source(SourceState::Recovering), Some(Restriction::Stale)),
        (
            Restrictions {
                unreported_from: state.seq,
                ..Restrictions::default()
            },
            None,
        ),
        (
            Restrictions {
                unreported_from: state.seq + 1,
                ..Restrictions::default()
            },
            Some(Restriction::Stale),
        ),
    ] {
        assert_eq!(restrictions.on_market(&state), expected);
        let shown = restrictions.shown(&state).update.status;
        let suspended = expected.is_some();
        assert_eq!(shown == MarketStatus::Suspended, suspended);
    }
}

#[test]
fn holds_suspend_what_they_cover() {
    let state = state();
    let event = state.update.event_id.clone();
    let market = state.update.market.clone();
    let other = EventId::new("other").unwrap();
    for (scope, expected) in [
        (HoldScope::All, true),
        (HoldScope::Source(state.update.source.clone()), true),
        (HoldScope::Source(Source::new("other").unwrap()), false),
        (HoldScope::Event(event.clone()), true),
        (HoldScope::Event(other.clone()), false),
        (HoldScope::Market(event.clone(), market.clone()), true),
        (HoldScope::Market(other, market.clone()), false),
    ] {
        let restrictions = hold(scope);
        let restriction = restrictions.on_market(&state);
        assert_eq!(restriction, expected.then_some(Restriction::Held));
    }
    let home = SelectionId::new("home").unwrap();
    let restrictions = hold(HoldScope::Selection(event, market, home));
    let shown = restrictions.shown(&state);
    assert_eq!(restrictions.on_market(&state), None);
    assert_eq!(shown.update.status, MarketStatus::Open);
    let statuses: Vec<_> = shown.update.selections.iter().map(|it| it.status).collect();
    assert_eq!(
        statuses,
        [
            SelectionStatus::Suspended,
            SelectionStatus::Active,
            SelectionStatus::Active
        ]
    );
    assert_eq!(shown.seq, state.seq);
}

#[test]
fn expired_hold_is_not_in_force() {
    let at = |micros| Timestamp::from_micros(micros).unwrap();
    let hold = Hold {
        id: 1,
        scope: HoldScope::All,
        until: Some(at(10)),
    };
    assert!(hold.is_in_force(at(9)) && !hold.is_in_force(at(10)));
}

#[test]
fn replacing_restrictions_invalidates_stamps() {
    let current = CurrentRestrictions::default();
    let stamp = current.stamp();
    assert!(stamp.is_current());
    let earlier = current.set(source(SourceState::Stale));
    assert_eq!(*earlier, Restrictions::default());
    assert!(!stamp.is_current());
    let expected = Restrictions {
        version: 1,
        ..source(SourceState::Stale)
    };
    assert_eq!(*current.get(), expected);
    current.set(Restrictions::clone(&current.get()));
    assert_eq!(current.get().version, 1, "nothing is shown in another way");
    current.set(Restrictions::default());
    assert_eq!(current.get().version, 2);
}

/// The time until which a live source has confirmed its data advances every second. What was
/// prepared from the restrictions stays valid.
#[test]
fn sign_of_life_keeps_stamps_valid() {
    let at = |state, micros| {
        let at = Timestamp::from_micros(micros);
        let status = SourceStatus { state, at };
        Restrictions {
            sources: [(Source::new("test").unwrap(), status)].into(),
            ..Restrictions::default()
        }
    };
    let current = CurrentRestrictions::default();
    current.set(at(SourceState::Live, 1));
    let stamp = current.stamp();
    current.set(at(SourceState::Live, 2));
    assert!(stamp.is_current());
    current.set(at(SourceState::Stale, 2));
    let stamp = current.stamp();
    current.set(at(SourceState::Stale, 3));
    assert!(!stamp.is_current(), "the time of a lost source is shown");
}
