//! The matches: kick-off, goals, the final whistle, results, and the next round.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;

use fastrand::Rng;

use super::{MarketMaker, QuotedMarket};
use crate::domain::odds::status::{MarketStatus, SelectionStatus};
use crate::domain::odds::update::{OddsUpdate, Revision};
use crate::domain::settlement::record::{RecordContent, ResultRecord};
use crate::domain::timestamp::Timestamp;
use crate::simulator::results::{self, MarketResult};
use crate::simulator::round::{Ending, Round, Step};
use crate::simulator::schedule::Schedule;
use crate::simulator::score::Score;
use crate::simulator::walk::{Situation, Truth};

/// What a match has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// The state of the market with this index.
    Market(usize, OddsUpdate),
    /// What is known about the results of a market.
    Result(ResultRecord),
}

/// The matches of all fixtures.
pub(super) struct Matches {
    schedule: Schedule,
    seed: u64,
    /// By fixture.
    matches: Vec<Match>,
    /// When each match has its next step. A match has one entry.
    due: BinaryHeap<Reverse<(Timestamp, usize)>>,
}

/// The match of a fixture.
struct Match {
    round: Round,
    /// The fixture's markets.
    markets: Range<usize>,
    /// The records of the round before, which has the latest result, and those of this one.
    records: [Vec<ResultRecord>; 2],
}

impl MarketMaker {
    /// Plays matches from now on: each is where it is by the clock.
    pub(crate) fn with_matches(mut self, schedule: Schedule, seed: u64) -> MarketMaker {
        let mut matches = Matches {
            schedule,
            seed,
            matches: Vec::new(),
            due: BinaryHeap::new(),
        };
        for fixture in 0..self.truths.len() {
            matches.join(fixture, &mut self);
        }
        self.matches = Some(matches);
        self
    }

    /// What the matches have changed until now: about `most` changes, and the rest with the next
    /// calls.
    pub(crate) fn play(&mut self, now: Timestamp, most: usize) -> Vec<Change> {
        self.clock = self.clock.max(now);
        let mut changes = Vec::new();
        let Some(mut matches) = self.matches.take() else {
            return changes;
        };
        while changes.len() < most
            && let Some(fixture) = matches.pop_due(self.clock)
        {
            matches.take_step(fixture, self, &mut changes);
        }
        self.matches = Some(matches);
        changes
    }

    /// When a match changes next.
    pub(crate) fn next_step_at(&self) -> Option<Timestamp> {
        let next = self.matches.as_ref()?.due.peek();
        next.map(|Reverse((time, _))| *time)
    }

    /// The records of each fixture's latest result, and those of the round that has started since.
    pub(crate) fn recent_results(&self) -> impl Iterator<Item = &ResultRecord> {
        let matches = self.matches.iter().flat_map(|matches| &matches.matches);
        matches.flat_map(|one| one.records.iter().flatten())
    }

    /// Changes the markets of a fixture, each with a version of its own.
    fn change(
        &mut self,
        markets: Range<usize>,
        mut change: impl FnMut(&mut QuotedMarket, &mut Truth, &mut Rng),
    ) -> Vec<Change> {
        let mut changes = Vec::with_capacity(markets.len());
        for index in markets {
            let Some(market) = self.markets.get_mut(index) else {
                break;
            };
            let Some(truth) = self.truths.get_mut(market.event) else {
                break;
            };
            market.revise(self.clock);
            change(market, truth, &mut self.random);
            changes.push(Change::Market(index, market.latest.clone()));
        }
        changes
    }
}

impl Matches {
    /// How the match of a fixture stands.
    pub(super) fn situation(&self, fixture: usize, now: Timestamp) -> Situation {
        let found = self.matches.get(fixture);
        found.map_or(Situation::BEFORE, |one| one.round.situation(now))
    }

    /// Puts a fixture into the round that it is in by the clock. If the pause at its start is not over,
    /// the markets are open at once.
    fn join(&mut self, fixture: usize, maker: &mut MarketMaker) {
        let start = maker.markets.partition_point(|one| one.event < fixture);
        let end = maker.markets.partition_point(|one| one.event <= fixture);
        let markets = start..end;
        let (mut round, records) = self.start_round(fixture, markets.clone(), maker);
        let mut status = MarketStatus::Open;
        while let Some(step) = round.step(maker.clock.max(round.times.opening)) {
            status = match step {
                Step::Open | Step::KickOff | Step::Resume => MarketStatus::Open,
                Step::Goal(_) => MarketStatus::Suspended,
                _ => MarketStatus::Closed,
            };
        }
        let (situation, times) = (round.situation(maker.clock), round.times);
        let is_in_play = times.kick_off <= maker.clock;
        for market in maker.markets.get_mut(markets.clone()).into_iter().flatten() {
            market.latest.start_time = Some(times.kick_off);
            market.latest.in_play = is_in_play;
            market.latest.status = status;
            if let Some(truth) = maker.truths.get(market.event) {
                market.set_prices(truth, situation);
            }
        }
        let next = round.next_at().map(|time| Reverse((time, fixture)));
        self.due.extend(next);
        self.matches.push(Match {
            round,
            markets,
            records: [Vec::new(), records],
        });
    }

    /// Draws the round that a fixture is in by the clock, and opens it for bets. A round has the same
    /// goals and the same ending in every process with this seed.
    fn start_round(
        &self,
        fixture: usize,
        markets: Range<usize>,
        maker: &mut MarketMaker,
    ) -> (Round, Vec<ResultRecord>) {
        let times = self.schedule.times_at(fixture, maker.clock);
        let mut random = Rng::with_seed(self.seed);
        for part in [fixture as u64, times.start.micros().unsigned_abs()] {
            random = Rng::with_seed(random.u64(..) ^ part);
        }
        let goals = maker.truths.get(fixture).map(Truth::usual_goals);
        let goals = goals.unwrap_or_default();
        let round = Round::draw(&self.schedule, times, goals, markets.len(), &mut random);
        let clock = maker.clock;
        let markets = maker.markets.get_mut(markets).into_iter().flatten();
        let records = markets.map(|market| {
            let content = results::opening(&market.latest, &times);
            market.record(content, clock)
        });
        (round, records.collect())
    }

    fn pop_due(&mut self, now: Timestamp) -> Option<usize> {
        let Reverse((time, fixture)) = *self.due.peek()?;
        (time <= now).then(|| {
            self.due.pop();
            fixture
        })
    }

    fn take_step(&mut self, fixture: usize, maker: &mut MarketMaker, changes: &mut Vec<Change>) {
        let Some(current) = self.matches.get_mut(fixture) else {
            return;
        };
        changes.extend(current.take_step(maker));
        if current.round.next_at().is_none() {
            let markets = current.markets.clone();
            let (round, opening) = self.start_round(fixture, markets, maker);
            changes.extend(opening.iter().cloned().map(Change::Result));
            if let Some(current) = self.matches.get_mut(fixture) {
                current.round = round;
                current.records.swap(0, 1);
                current.records[1] = opening;
            }
        }
        if let Some(next) = self
            .matches
            .get(fixture)
            .and_then(|one| one.round.next_at())
        {
            self.due.push(Reverse((next, fixture)));
        }
    }
}

impl Match {
    /// What the step changes that is due.
    fn take_step(&mut self, maker: &mut MarketMaker) -> Vec<Change> {
        let Some(step) = self.round.step(maker.clock) else {
            return Vec::new();
        };
        let markets = self.markets.clone();
        let situation = self.round.situation(maker.clock);
        let kick_off = self.round.times.kick_off;
        match step {
            Step::Open => maker.change(markets, |market, truth, random| {
                market.latest.start_time = Some(kick_off);
                market.latest.in_play = false;
                market.open(truth, situation, random);
            }),
            Step::KickOff => maker.change(markets, |market, _, _| market.latest.in_play = true),
            Step::Goal(_) => maker.change(markets, |market, _, _| {
                market.set_status(MarketStatus::Suspended);
            }),
            Step::Resume => maker.change(markets, |market, truth, random| {
                market.open(truth, situation, random);
            }),
            Step::Whistle => maker.change(markets, |market, _, _| {
                market.set_status(MarketStatus::Closed);
            }),
            Step::Publish => self.publish(self.round.published_score(), maker),
            Step::RollBack => self.roll_back(maker),
            Step::Correct => self.publish(self.round.score, maker),
        }
    }

    /// Publishes the results by this score: first the records, then the states of the markets.
    fn publish(&mut self, score: Score, maker: &mut MarketMaker) -> Vec<Change> {
        let Round {
            times,
            ending,
            closed_at,
            ..
        } = self.round;
        let start = self.markets.start;
        let result = |index: usize, market: &QuotedMarket| match ending {
            Ending::Void => MarketResult::Void,
            Ending::MarketVoid(place) if start + place == index => MarketResult::Void,
            _ => MarketResult::Decided(market.question.answers(score)),
        };
        let closed_at = closed_at.unwrap_or(times.whistle);
        let mut changes = self.record(maker, |index, market| match ending {
            Ending::Void => results::cancellation(&times),
            _ => {
                let result = result(index, market);
                Some(results::result(&market.latest, &result, &times, closed_at))
            }
        });
        let mut indexes = self.markets.clone();
        changes.extend(maker.change(self.markets.clone(), |market, _, _| {
            let result = result(indexes.next().unwrap_or_default(), market);
            results::show(&mut market.latest, &result);
        }));
        changes
    }

    fn roll_back(&mut self, maker: &mut MarketMaker) -> Vec<Change> {
        let times = self.round.times;
        let mut changes = self.record(maker, |_, _| Some(results::rollback(&times)));
        changes.extend(maker.change(self.markets.clone(), |market, _, _| {
            market.activate();
            market.set_status(MarketStatus::Closed);
        }));
        changes
    }

    /// Adds a record of each market.
    fn record(
        &mut self,
        maker: &mut MarketMaker,
        content: impl Fn(usize, &QuotedMarket) -> Option<RecordContent>,
    ) -> Vec<Change> {
        let clock = maker.clock;
        let markets = maker.markets.get_mut(self.markets.clone());
        let numbered = self.markets.clone().zip(markets.into_iter().flatten());
        let records = numbered.filter_map(|(index, market)| {
            let content = content(index, market)?;
            Some(market.record(content, clock))
        });
        let records: Vec<_> = records.collect();
        self.records[1].extend(records.iter().cloned());
        records.into_iter().map(Change::Result).collect()
    }
}

impl QuotedMarket {
    fn open(&mut self, truth: &mut Truth, situation: Situation, random: &mut Rng) {
        self.activate();
        self.set_status(MarketStatus::Open);
        self.reprice(truth, situation, random, 1.0);
    }

    /// Sets its status, which no random reopening changes.
    fn set_status(&mut self, status: MarketStatus) {
        self.latest.status = status;
        self.reopens_in = None;
    }

    fn activate(&mut self) {
        for selection in &mut self.latest.selections {
            selection.status = SelectionStatus::Active;
        }
    }

    /// A record with a version of its own. Records have other versions than updates: consumers see no
    /// gap in either.
    fn record(&mut self, content: RecordContent, now: Timestamp) -> ResultRecord {
        self.records += 1;
        ResultRecord {
            event_id: self.latest.event_id.clone(),
            market: self.latest.market.clone(),
            revision: Revision {
                updated_at: now,
                version: self.records,
            },
            source: self.latest.source.clone(),
            note: None,
            content,
        }
    }
}

#[cfg(test)]
mod tests;
