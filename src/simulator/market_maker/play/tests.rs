use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::config::settings::SimulatedMarket;
use crate::domain::ids::{MarketKey, Source};
use crate::domain::odds::price::Price;
use crate::domain::settlement::effective::{Decision, Leg, LegState, SettlementRules};
use crate::domain::settlement::market_results::{Inserted, MarketResults};
use crate::domain::settlement::record::{Outcome, Settlement, VoidFactor, Won};
use crate::domain::settlement::trust::TrustedSources;
use crate::simulator::market_maker::SOURCE;
use crate::simulator::score::Side;

const ALL: [SimulatedMarket; 3] = [
    SimulatedMarket::OneXTwo,
    SimulatedMarket::TotalGoals,
    SimulatedMarket::BothTeamsToScore,
];
/// The markets of a fixture.
const MARKETS: usize = 5;
const PLAY: Duration = Duration::from_secs(60);
/// Milliseconds from the start of a round to the final whistle.
const WHISTLE: i64 = 96_000;

fn schedule() -> Schedule {
    Schedule::new(PLAY).unwrap()
}

fn round_millis() -> i64 {
    schedule().round_length().as_millis() as i64
}

/// Milliseconds after the start of a round of the first fixture.
fn at(millis: i64) -> Timestamp {
    let any = Timestamp::from_millis(1_762_722_465_000).unwrap();
    let start = schedule().times_at(0, any).start;
    Timestamp::from_micros(start.micros() + millis * 1_000).unwrap()
}

fn maker(fixtures: usize, seed: u64, millis: i64) -> MarketMaker {
    MarketMaker::new(fixtures, &ALL, seed, at(millis)).with_matches(schedule(), seed)
}

fn current(maker: &MarketMaker, fixture: usize) -> &Match {
    &maker.matches.as_ref().unwrap().matches[fixture]
}

/// What a maker sends from `from` until `to`, with one step of a market every 100 ms.
fn run(maker: &mut MarketMaker, from: i64, to: i64) -> Vec<Change> {
    let mut changes = Vec::new();
    for millis in (from..to).step_by(100) {
        changes.extend(maker.play(at(millis), 1_000));
        let moved = maker.advance(at(millis));
        changes
            .extend(moved.map(|index| Change::Market(index, maker.markets[index].latest.clone())));
    }
    changes
}

/// The first seed whose first round of the first fixture ends in such a way.
fn seed_with(is_wanted: impl Fn(&Round) -> bool) -> u64 {
    (0..2_000)
        .find(|seed| is_wanted(&current(&maker(1, *seed, 0), 0).round))
        .unwrap()
}

fn updates(changes: &[Change]) -> impl Iterator<Item = &OddsUpdate> {
    changes.iter().filter_map(|change| match change {
        Change::Market(_, update) => Some(update),
        Change::Result(_) => None,
    })
}

fn records(changes: &[Change]) -> impl Iterator<Item = &ResultRecord> {
    changes.iter().filter_map(|change| match change {
        Change::Result(record) => Some(record),
        Change::Market(..) => None,
    })
}

fn settlement(record: &ResultRecord) -> Option<&Settlement> {
    match &record.content {
        RecordContent::Settlement(settlement) => Some(settlement),
        _ => None,
    }
}

fn is_decision(record: &ResultRecord) -> bool {
    let decided = |one: &Settlement| {
        one.selections
            .iter()
            .all(|one| one.outcome != Outcome::Undecided)
    };
    settlement(record).is_some_and(decided)
        || matches!(record.content, RecordContent::Cancel { .. })
}

/// The outcome of each selection, in the order of the ids.
fn outcomes(record: &ResultRecord) -> Vec<(String, Outcome)> {
    let selections = &settlement(record).unwrap().selections;
    selections
        .iter()
        .map(|one| (one.id.to_string(), one.outcome))
        .collect()
}

/// What the score makes of a market.
fn expected(maker: &MarketMaker, market: &MarketKey, score: Score) -> Vec<(String, Outcome)> {
    let market = maker
        .markets
        .iter()
        .find(|one| one.latest.market == *market)
        .unwrap();
    let ids = market
        .latest
        .selections
        .iter()
        .map(|one| one.id.to_string());
    let outcomes = market.question.answers(score).into_iter().map(|won| {
        let void = VoidFactor::NONE;
        if won {
            Outcome::Won(Won::WHOLE)
        } else {
            Outcome::Lost { void }
        }
    });
    let mut expected: Vec<_> = ids.zip(outcomes).collect();
    expected.sort();
    expected
}

#[test]
fn matches_off_change_nothing() {
    let mut maker = MarketMaker::new(2, &ALL, 1, at(0));
    assert_eq!(maker.play(at(1_000_000), 1_000), []);
    assert_eq!(maker.next_step_at(), None);
    assert_eq!(maker.recent_results().count(), 0);
    assert_eq!(Schedule::new(Duration::ZERO), None);
}

#[test]
fn round_goes_from_open_to_settled_and_again() {
    let seed = seed_with(|round| round.ending == Ending::Score);
    let mut maker = maker(1, seed, 0);
    let times = current(&maker, 0).round.times;
    let changes = run(&mut maker, 0, round_millis() + 20_000);
    let states = |index: usize| {
        let of_market = changes.iter().filter_map(move |change| match change {
            Change::Market(of, update) if *of == index => Some((update.status, update.in_play)),
            _ => None,
        });
        let mut states: Vec<_> = of_market.collect();
        states.retain(|(status, _)| *status != MarketStatus::Suspended);
        states.dedup();
        states
    };
    for index in 0..MARKETS {
        assert_eq!(
            states(index),
            [
                (MarketStatus::Open, false),
                (MarketStatus::Open, true),
                (MarketStatus::Closed, true),
                (MarketStatus::Settled, true),
                (MarketStatus::Open, false),
            ]
        );
    }
    for update in updates(&changes) {
        let time = update.revision.updated_at;
        let kick_off = if time < times.end {
            times.kick_off
        } else {
            times.kick_off.later_by(schedule().round_length())
        };
        if !update.status.has_ended() {
            assert_eq!(update.start_time, Some(kick_off));
        }
        assert!(update.in_play || time < times.kick_off || time > times.end);
    }
}

/// The records say first that the bets of a round are open, then what has become of them, and the
/// states of the markets follow.
#[test]
fn result_comes_after_whistle_and_before_settled_state() {
    let seed = seed_with(|round| round.ending == Ending::Score);
    let mut maker = maker(1, seed, 0);
    let round = current(&maker, 0).round.clone();
    assert_eq!(maker.recent_results().count(), MARKETS);
    assert!(maker.recent_results().all(|one| !is_decision(one)));
    let changes = run(&mut maker, 0, round_millis() + 1_000);
    let decided = changes
        .iter()
        .position(|one| matches!(one, Change::Result(_)))
        .unwrap();
    let closed: Vec<_> = updates(&changes[..decided])
        .filter(|one| one.status == MarketStatus::Closed)
        .collect();
    assert_eq!(closed.len(), MARKETS);
    let bets_until = closed[0].revision.updated_at;
    assert!(bets_until >= round.times.whistle && bets_until < round.times.end);
    let (results, rest) = changes[decided..].split_at(MARKETS);
    for record in records(results) {
        let settlement = settlement(record).unwrap();
        assert_eq!(
            (settlement.bets_from, settlement.bets_until),
            (Some(round.times.start), Some(bets_until))
        );
        assert_eq!(record.source.as_str(), SOURCE);
    }
    let (states, rest) = rest.split_at(MARKETS);
    assert!(updates(states).all(|one| one.status == MarketStatus::Settled));
    let opening: Vec<_> = records(&rest[..MARKETS]).collect();
    assert_eq!(opening.len(), MARKETS);
    for record in opening {
        assert_eq!(record.content.bets_from(), Some(round.times.end));
        assert!(!is_decision(record));
    }
    let recent: Vec<_> = maker.recent_results().collect();
    assert_eq!(
        recent.len(),
        3 * MARKETS,
        "both rounds are opened, one is decided"
    );
    assert_eq!(
        recent.iter().filter(|one| is_decision(one)).count(),
        MARKETS
    );
}

/// A goal suspends all markets of the event, and those of no other; then the prices have moved.
#[test]
fn goal_suspends_event_and_moves_prices() {
    let price = |maker: &MarketMaker, id| maker.markets[0].latest.price_of(id).unwrap();
    let mut goals = 0;
    for seed in 0..20 {
        let mut maker = maker(2, seed, 0);
        let mut before_goal = None;
        for millis in (0..round_millis()).step_by(100) {
            let before = current(&maker, 0).round.score;
            let (home, away) = (price(&maker, "home"), price(&maker, "away"));
            let other_due = current(&maker, 1).round.next_at();
            let changes = maker.play(at(millis), 1_000);
            let after = current(&maker, 0).round.score;
            let is_first = |update: &&OddsUpdate| update.event_id.as_str() == "MATCH_001";
            if after != before {
                let suspended: Vec<_> = updates(&changes).filter(is_first).collect();
                assert_eq!(suspended.len(), MARKETS);
                for update in suspended {
                    assert_eq!(
                        (update.status, update.in_play),
                        (MarketStatus::Suspended, true)
                    );
                }
                assert!(!maker.markets[0].is_traded());
                let is_other_due = other_due <= Some(at(millis));
                assert!(is_other_due || updates(&changes).all(|one| is_first(&one)));
                let is_home_goal = after == before.after_goal(Side::Home);
                before_goal = (is_home_goal && before.home.abs_diff(before.away) < 2)
                    .then_some((after, home, away));
            }
            if let Some((score, home, away)) = before_goal
                && maker.markets[0].is_traded()
            {
                assert_eq!(score, after);
                assert!(price(&maker, "home") < home && price(&maker, "away") > away);
                before_goal = None;
                goals += 1;
            }
            maker.advance(at(millis));
        }
    }
    assert!(goals > 8, "{goals} goals");
}

/// What is decided has the lowest price, and its opposite the highest.
#[test]
fn decided_outcome_is_priced_as_certain() {
    let mut decided = 0;
    for seed in 0..10 {
        let mut maker = maker(1, seed, 0);
        for millis in (0..round_millis()).step_by(100) {
            maker.play(at(millis), 1_000);
            maker.advance(at(millis));
            let score = current(&maker, 0).round.score;
            let open = maker
                .markets
                .iter()
                .filter(|one| one.latest.status == MarketStatus::Open);
            for market in open.filter(|one| one.latest.market.name.as_str() == "total_goals") {
                let line = market.latest.market.line.unwrap().thousandths();
                if i64::from(score.home + score.away) * 1_000 > i64::from(line) {
                    decided += 1;
                    assert_eq!(market.latest.price_of("over"), Some(Price::MIN));
                    assert_eq!(market.latest.price_of("under"), Some(Price::MAX));
                }
            }
        }
        // In the last moment the leader has all but won.
        let round = &current(&maker, 0).round;
        let (score, closed) = (round.score, &maker.markets[0].latest);
        if score.home > score.away + 1 {
            assert!(
                closed.price_of("home").unwrap() < "1.2".parse().unwrap(),
                "{}",
                closed.to_json()
            );
        }
    }
    assert!(decided > 100, "{decided}");
}

#[test]
fn every_ending_occurs() {
    let mut endings = BTreeMap::<&str, u32>::new();
    let maker = maker(1_000, 3, 0);
    for fixture in 0..1_000 {
        let ending = match current(&maker, fixture).round.ending {
            Ending::Score => "score",
            Ending::Corrected {
                is_rolled_back: true,
            } => "rolled back",
            Ending::Corrected {
                is_rolled_back: false,
            } => "corrected",
            Ending::Void => "void",
            Ending::MarketVoid(place) => {
                assert!(place < MARKETS);
                "market void"
            }
        };
        *endings.entry(ending).or_default() += 1;
    }
    assert!(endings["score"] > 800);
    for ending in ["rolled back", "corrected", "void", "market void"] {
        assert!((10..60).contains(&endings[ending]), "{endings:?}");
    }
}

/// The states of the first market of a seed's first round from its result on, with its records.
fn after_whistle(seed: u64) -> (MarketMaker, Round, Vec<Change>) {
    let mut maker = maker(1, seed, 0);
    run(&mut maker, 0, round_millis() - 200);
    let round = current(&maker, 0).round.clone();
    let changes = run(&mut maker, round_millis() - 200, round_millis() + 5_900);
    (maker, round, changes)
}

#[test]
fn wrong_result_is_corrected() {
    for is_rolled_back in [false, true] {
        let ending = Ending::Corrected { is_rolled_back };
        let (maker, round, changes) = after_whistle(seed_with(|round| round.ending == ending));
        let mut kinds = Vec::new();
        let mut decided = Vec::new();
        for record in records(&changes).filter(|one| one.market.name.as_str() == "1x2") {
            kinds.push(record.content.kind().to_string());
            if is_decision(record) {
                decided.push(outcomes(record));
            }
        }
        let mut sequence = vec!["settlement", "settlement", "settlement"];
        if is_rolled_back {
            sequence.insert(1, "rollback_settlement");
        }
        assert_eq!(kinds, sequence, "the last one opens the next round");
        let market = &maker.markets[0].latest.market;
        let wrong = round.score.with_disallowed_goal();
        assert_eq!(
            decided,
            [
                expected(&maker, market, wrong),
                expected(&maker, market, round.score)
            ]
        );
        let states: Vec<_> = updates(&changes)
            .filter(|one| one.market == *market)
            .map(|one| one.status)
            .collect();
        let (settled, closed) = (MarketStatus::Settled, MarketStatus::Closed);
        let shown = if is_rolled_back {
            vec![settled, closed, settled]
        } else {
            vec![settled, settled]
        };
        assert_eq!(states, shown);
    }
}

#[test]
fn void_match_cancels_bets_of_its_round() {
    let (_, round, changes) = after_whistle(seed_with(|round| round.ending == Ending::Void));
    let cancelled: Vec<_> = records(&changes).filter(|one| is_decision(one)).collect();
    assert_eq!(cancelled.len(), MARKETS);
    for record in cancelled {
        let RecordContent::Cancel { window, reason } = &record.content else {
            panic!("{record:?}");
        };
        assert_eq!(reason.as_str(), "cancelled_event");
        let before = |time: Timestamp| time.earlier_by(Duration::from_micros(1));
        assert!(window.contains(round.times.start) && window.contains(before(round.times.end)));
        assert!(!window.contains(before(round.times.start)) && !window.contains(round.times.end));
    }
    let states: Vec<_> = updates(&changes).collect();
    assert_eq!(states.len(), MARKETS);
    for update in states {
        assert_eq!(update.status, MarketStatus::Cancelled);
        assert!(
            update
                .selections
                .iter()
                .all(|one| one.status == SelectionStatus::Void)
        );
    }
}

#[test]
fn void_market_is_void_alone() {
    let (maker, round, changes) =
        after_whistle(seed_with(|round| round.ending == Ending::MarketVoid(1)));
    for (index, record) in records(&changes).filter(|one| is_decision(one)).enumerate() {
        let void = |(id, _)| (id, Outcome::Void { removal: None });
        let expected = expected(&maker, &record.market, round.score);
        let expected = if index == 1 {
            expected.into_iter().map(void).collect()
        } else {
            expected
        };
        assert_eq!(outcomes(record), expected);
    }
    let states: Vec<_> = updates(&changes).map(|one| one.status).collect();
    let (settled, cancelled) = (MarketStatus::Settled, MarketStatus::Cancelled);
    assert_eq!(states, [settled, cancelled, settled, settled, settled]);
}

/// A process that was away for several rounds ends the one that it was in, and joins the current one.
#[test]
fn stall_ends_round_and_skips_missed_ones() {
    let seed = seed_with(|round| round.ending == Ending::Score);
    let mut maker = maker(1, seed, 0);
    let start = current(&maker, 0).round.times.start;
    run(&mut maker, 0, 50_000);
    let late = 7 * round_millis() + 50_000;
    let changes = maker.play(at(late), 1_000);
    let rounds: BTreeSet<_> = records(&changes)
        .map(|one| one.content.bets_from().unwrap())
        .collect();
    let current_start = schedule().times_at(0, at(late)).start;
    assert_eq!(rounds, BTreeSet::from([start, current_start]));
    assert!(
        records(&changes).all(|one| is_decision(one) == (one.content.bets_from() == Some(start)))
    );
    assert!(maker.markets[0].latest.in_play);
    // It does not send all at once.
    let mut again = self::maker(20, 1, 0);
    let pieces: Vec<_> = std::iter::from_fn(|| {
        let piece = again.play(at(late), 30);
        (!piece.is_empty()).then_some(piece)
    })
    .collect();
    assert!(pieces.len() > 5 && pieces.iter().all(|piece| piece.len() < 30 + 4 * MARKETS));
}

/// A process that starts during a match continues it: its markets and their prices are those of the
/// match, and its result settles the bets placed before the start.
#[test]
fn restarted_simulator_continues_round() {
    for (seed, other) in [(5, 5), (5, 6)] {
        let mut first = maker(2, seed, 0);
        run(&mut first, 0, 80_000);
        let mut second = maker(2, other, 80_000);
        let [one, two] = [&first, &second].map(|maker| current(maker, 0).round.clone());
        assert_eq!(one.times, two.times);
        assert!(second.markets[0].latest.in_play);
        if seed == other {
            assert_eq!(one.score, two.score);
            assert_eq!(
                first.markets[0].latest.status.has_ended(),
                second.markets[0].latest.status.has_ended()
            );
        }
        let opened: Vec<_> = first.recent_results().cloned().collect();
        let changes = run(&mut second, 80_000, round_millis() + 5_900);
        let market = &second.markets[0];
        let is_of_market = |record: &&ResultRecord| {
            record.event_id == market.latest.event_id && record.market == market.latest.market
        };
        let all = opened.iter().chain(records(&changes)).filter(is_of_market);
        let state = Bet::at(20_000).state(&all.cloned().collect::<Vec<_>>(), market);
        assert_ne!(state, LegState::Open);
    }
}

#[test]
fn start_shows_where_matches_are() {
    let at_millis = |millis| {
        let maker = maker(1, 8, millis);
        let latest = maker.markets[0].latest.clone();
        (latest.status.has_ended(), latest.in_play)
    };
    assert_eq!(at_millis(100), (false, false), "the pause is over at once");
    assert_eq!(at_millis(20_000), (false, false));
    assert_eq!(at_millis(60_000), (false, true));
    assert_eq!(at_millis(96_500), (true, true));
    let mut maker = maker(1, 8, 100);
    let opened = run(&mut maker, 100, 7_000);
    assert!(updates(&opened).all(|one| !one.status.has_ended()));
}

/// A bet on the first selection of a market.
struct Bet(Timestamp);

impl Bet {
    fn at(millis: i64) -> Bet {
        Bet(at(millis))
    }

    fn state(&self, records: &[ResultRecord], market: &QuotedMarket) -> LegState {
        let mut results = MarketResults::default();
        for record in records {
            assert_ne!(results.insert(record.clone()), Inserted::Conflict);
        }
        let rules = SettlementRules {
            sources: TrustedSources::new([Source::new(SOURCE).unwrap()]),
            ..SettlementRules::default()
        };
        let leg = Leg {
            market: &market.latest.market.name,
            selection: &market.latest.selections[0].id,
            placed_at: self.0,
        };
        results.state_of(&leg, &rules)
    }
}

/// How a round has ended.
struct Ended {
    start: Timestamp,
    score: Score,
    ending: Ending,
}

fn expected_state(maker: &MarketMaker, index: usize, ended: &Ended) -> LegState {
    let void = LegState::Decided(Decision::Void);
    match ended.ending {
        Ending::MarketVoid(place) if place == index => void,
        _ if maker.markets[index].question.answers(ended.score)[0] => {
            LegState::Decided(Decision::Won {
                won: Won::WHOLE,
                reduced: None,
            })
        }
        _ => LegState::Decided(Decision::Lost {
            void: VoidFactor::NONE,
        }),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// A bet is open until the result of its own round is known, gets the result that follows from the
    /// score, and keeps it for ever. Nothing of another round changes it.
    #[test]
    fn bet_has_result_of_its_round(seed in any::<u64>()) {
        let mut maker = maker(1, seed, 0);
        let mut all: Vec<ResultRecord> = maker.recent_results().cloned().collect();
        let mut ended: Vec<Ended> = Vec::new();
        let mut bets: Vec<(usize, Bet)> = Vec::new();
        let mut known = vec![all.len()];
        for round in 0..4 {
            // A bet before the match, one in it, and one after the final whistle.
            for millis in [10_000, 70_000, WHISTLE + 500] {
                bets.push((round, Bet::at(round as i64 * round_millis() + millis)));
            }
            let from = round as i64 * round_millis() + if round == 0 { 0 } else { 5_900 };
            let to = (round as i64 + 1) * round_millis();
            run(&mut maker, from, to - 200);
            let current = current(&maker, 0).round.clone();
            ended.push(Ended { start: current.times.start, score: current.score, ending: current.ending });
            let changes = run(&mut maker, to - 200, to + 5_900);
            all.extend(records(&changes).cloned());
            known.push(all.len());
        }
        for (index, market) in maker.markets.iter().enumerate() {
            for (round, bet) in &bets {
                let states = |until: usize| {
                    let of_market = all[..until].iter().filter(|one| one.market == market.latest.market);
                    bet.state(&of_market.cloned().collect::<Vec<_>>(), market)
                };
                for before in &known[..=*round] {
                    let is_open = states(*before) == LegState::Open;
                    prop_assert!(is_open, "round {round} before its result: {:?}", states(*before));
                }
                let ended = &ended[*round];
                let is_late = ended.start.later_by(Duration::from_millis(WHISTLE as u64)) < bet.0;
                let expected = match ended.ending {
                    Ending::Void => LegState::Cancelled,
                    _ if is_late => LegState::LateBet,
                    _ => expected_state(&maker, index, ended),
                };
                for after in &known[*round + 1..] {
                    prop_assert_eq!(&states(*after), &expected, "round {} from {}", round, ended.start);
                }
            }
        }
    }

    /// Every frame is valid, whatever happens, and no version of a market is skipped.
    #[test]
    fn frames_are_valid_and_versions_complete(seed in any::<u64>(), start in 0_i64..97_000) {
        let mut maker = maker(3, seed, start);
        let mut versions: BTreeMap<usize, Revision> =
            maker.markets.iter().map(|one| one.latest.revision).enumerate().collect();
        let mut results: BTreeMap<String, Revision> = BTreeMap::new();
        for change in run(&mut maker, start, start + round_millis() + 10_000) {
            match change {
                Change::Market(index, update) => {
                    prop_assert_eq!(&OddsUpdate::from_json(update.to_json().as_bytes()).unwrap(), &update);
                    prop_assert!(update.selections.iter().all(|one| one.price.is_some()));
                    let before = versions.insert(index, update.revision).unwrap();
                    prop_assert!(update.revision > before);
                    prop_assert_eq!(update.revision.version, before.version + 1);
                }
                Change::Result(record) => {
                    prop_assert_eq!(&ResultRecord::from_json(record.to_json().as_bytes()).unwrap(), &record);
                    let key = format!("{} {}", record.event_id, record.market);
                    let before = results.insert(key, record.revision);
                    prop_assert!(before < Some(record.revision));
                }
            }
        }
    }

    #[test]
    fn same_seed_and_times_give_same_matches(seed in any::<u64>()) {
        let walk = || run(&mut maker(2, seed, 0), 0, 120_000);
        prop_assert_eq!(walk(), walk());
    }
}
