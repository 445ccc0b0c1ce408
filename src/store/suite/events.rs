//! Checks of the list of events: its content and its filters.

use pretty_assertions::assert_eq;
use strum::VariantArray;

use super::*;
use crate::domain::odds::status::{EventStatus, MarketStatus};
use crate::store::events::StatusFilter;

fn with_details(sport: Option<&str>, start: Option<i64>, update: OddsUpdate) -> OddsUpdate {
    OddsUpdate {
        sport: sport.map(Into::into),
        start_time: start.and_then(Timestamp::from_millis),
        ..update
    }
}

pub(crate) fn event_details_are_kept(store: &dyn Store) {
    let write = |position, updates: Vec<OddsUpdate>| {
        store.write_updates(&positioned(position, updates)).unwrap()
    };
    let details = || {
        let events = listed(store, EventQuery::default());
        (
            events[0].sport.clone(),
            events[0].start_time.map(|time| time.micros() / 1_000),
        )
    };
    write(0, vec![update(1, 1, 1)]);
    assert_eq!(details(), (None, None));
    write(
        1,
        vec![
            with_details(Some("tennis"), Some(7), update(1, 2, 1)),
            update(1, 3, 1),
        ],
    );
    assert_eq!(
        details(),
        (Some("tennis".to_owned()), Some(7)),
        "a later update without details keeps them"
    );
    write(3, vec![update(1, 4, 1)]);
    write(4, vec![market_update("MATCH_001", "btts", None, 5, 1)]);
    assert_eq!(
        details(),
        (Some("tennis".to_owned()), Some(7)),
        "so do a later batch and another market"
    );
    write(
        5,
        vec![with_details(
            None,
            Some(8),
            market_update("MATCH_001", "btts", None, 6, 1),
        )],
    );
    assert_eq!(
        details(),
        (Some("tennis".to_owned()), Some(8)),
        "the market that reported it last"
    );
    write(
        6,
        vec![with_details(Some("soccer"), Some(9), update(1, 2, 9))],
    );
    assert_eq!(
        details(),
        (Some("tennis".to_owned()), Some(8)),
        "a late update is only history"
    );
    assert_eq!(states(store, "MATCH_001").len(), 2);
}

const SIDES: [(&str, &str); 4] = [
    ("São Paulo", "Grêmio"),
    ("a.b*c?", "[x]^"),
    ("50% (a|b)", "back\\slash {2}"),
    ("Ølve", ""),
];
const PARTS: [&str; 14] = [
    "são",
    "SÃO P",
    "grêmio",
    "*",
    "?",
    "[X]",
    "a.b",
    "aXb",
    "%",
    "\\S",
    "(A|B)",
    "{2}",
    "øLV",
    "paulo\u{a0}",
];
const SPORTS: [&str; 2] = ["soccer", "horse racing"];

/// Event, market, status, in play, teams, sport, start.
type Report = (u8, u8, usize, bool, usize, Option<usize>, Option<i64>);

fn reports() -> impl Strategy<Value = Vec<Report>> {
    let sport = proptest::option::weighted(0.4, 0usize..2);
    let start = proptest::option::weighted(0.4, 0i64..6);
    let one = (
        0u8..4,
        0u8..3,
        0usize..5,
        any::<bool>(),
        0usize..4,
        sport,
        start,
    );
    proptest::collection::vec(one, 1..30)
}

fn filters() -> impl Strategy<Value = EventQuery> {
    let often_none = |most| proptest::option::weighted(0.3, 0..most);
    let status = prop_oneof![
        Just(StatusFilter::NotEnded),
        Just(StatusFilter::All),
        (0usize..3).prop_map(|place| StatusFilter::Only(EventStatus::VARIANTS[place])),
    ];
    let in_play = proptest::option::weighted(0.3, any::<bool>());
    let times = (often_none(7), often_none(7));
    (
        status,
        in_play,
        often_none(2),
        times,
        often_none(PARTS.len() as i64),
        1usize..12,
    )
        .prop_map(
            |(status, in_play, sport, (from, to), part, limit)| EventQuery {
                after: None,
                limit,
                status,
                in_play,
                sport: sport.map(|sport| SPORTS[sport as usize].to_uppercase().parse().unwrap()),
                from: from.and_then(Timestamp::from_millis),
                to: to.and_then(Timestamp::from_millis),
                name: part.map(|part| PARTS[part as usize].parse().unwrap()),
            },
        )
}

/// The expected summary of an event, from all reports in order.
fn expected(event: &str, number: u8, reports: &[Report]) -> Option<EventSummary> {
    let mut markets = BTreeMap::new();
    let of_event = || reports.iter().filter(|one| one.0 == number);
    markets.extend(of_event().map(|one| (one.1, (MarketStatus::VARIANTS[one.2], one.3))));
    let (_, _, _, _, sides, _, _) = of_event().next_back()?;
    let is_finished = |status| !matches!(status, MarketStatus::Open | MarketStatus::Suspended);
    let status = if markets.values().all(|(status, _)| is_finished(*status)) {
        EventStatus::Ended
    } else if markets.values().any(|(_, in_play)| *in_play) {
        EventStatus::Live
    } else {
        EventStatus::Upcoming
    };
    // The last report of the detail by the market that changed last, among the markets that ever
    // reported it.
    let last = |has_detail: fn(&Report) -> bool| {
        let reporting: BTreeSet<_> = of_event()
            .filter(|one| has_detail(one))
            .map(|one| one.1)
            .collect();
        let market = of_event().rfind(|one| reporting.contains(&one.1))?.1;
        of_event()
            .rfind(|one| one.1 == market && has_detail(one))
            .copied()
    };
    Some(EventSummary {
        event_id: EventId::new(&format!("{event}_{number}")).unwrap(),
        home_team: SIDES[*sides].0.to_owned(),
        away_team: SIDES[*sides].1.to_owned(),
        sport: last(|one| one.5.is_some())
            .and_then(|one| one.5)
            .map(|sport| SPORTS[sport].to_owned()),
        start_time: last(|one| one.6.is_some())
            .and_then(|one| one.6)
            .and_then(Timestamp::from_millis),
        status,
        open_markets: markets
            .values()
            .filter(|(status, _)| *status == MarketStatus::Open)
            .count() as u64,
    })
}

fn passes(event: &EventSummary, query: &EventQuery) -> bool {
    let by_status = match query.status {
        StatusFilter::NotEnded => event.status != EventStatus::Ended,
        StatusFilter::All => true,
        StatusFilter::Only(status) => event.status == status,
    };
    let part = query.name.as_ref().map(|name| name.as_str().to_lowercase());
    by_status
        && query
            .in_play
            .is_none_or(|wanted| wanted == (event.status == EventStatus::Live))
        && (query.sport.is_none() || event.sport.as_deref() == Some(query.sport_or_empty()))
        && query
            .from
            .is_none_or(|from| event.start_time.is_some_and(|start| start >= from))
        && query
            .to
            .is_none_or(|to| event.start_time.is_some_and(|start| start < to))
        && part.is_none_or(|part| {
            [&event.home_team, &event.away_team]
                .iter()
                .any(|side| side.to_lowercase().contains(&part))
        })
}

pub(crate) fn filters_agree_with_the_model(store: &dyn Store) {
    let sizes = proptest::collection::vec(1usize..9, 1..4);
    let known = std::cell::RefCell::new(BTreeMap::new());
    for_all(
        (reports(), sizes, proptest::collection::vec(filters(), 8)),
        |event, (reports, sizes, filters)| {
            let made = |(time, one): (usize, &Report)| {
                let (number, market, status, in_play, sides, sport, start) = *one;
                let made = market_update(
                    &format!("{event}_{number}"),
                    ["1x2", "btts", "zz"][usize::from(market)],
                    None,
                    time as i64,
                    1,
                );
                let update = OddsUpdate {
                    status: MarketStatus::VARIANTS[status],
                    in_play,
                    home_team: SIDES[sides].0.to_owned(),
                    away_team: SIDES[sides].1.to_owned(),
                    ..made
                };
                with_details(sport.map(|sport| SPORTS[sport]), start, update)
            };
            write_in_batches(
                store,
                &positioned(0, reports.iter().enumerate().map(made)),
                &sizes,
            );
            let summaries = (0..4).filter_map(|number| expected(event, number, &reports));
            known
                .borrow_mut()
                .extend(summaries.map(|summary| (summary.event_id.to_string(), summary)));
            for query in filters {
                let wanted: Vec<_> = known
                    .borrow()
                    .values()
                    .filter(|event| passes(event, &query))
                    .cloned()
                    .collect();
                prop_assert_eq!(listed(store, query.clone()), wanted, "{:?}", query);
            }
            Ok(())
        },
    );
}
