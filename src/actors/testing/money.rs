//! An in-memory money store: bets, outbox and cancels, without wallets.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use bytes::Bytes;
use parking_lot::Mutex;

use crate::actors::bets::decision::{BetDecisions, DeciderSettings};
use crate::actors::bets::messages::{CancelsWait, PublishOutbox};
use crate::domain::bets::bet::{Bet, BetId, BetOutcome, BetStatus};
use crate::domain::timestamp::Timestamp;
use crate::runtime::clock::Clock;
use crate::store::StoreError;
use crate::store::money::{
    BetReader, Cancel, CancelQueue, DecideBet, Decided, DecisionStore, OutboxDepth, OutboxMessage,
    OutboxRow, OutboxStore, OutboxTopic,
};
use crate::store::request_batcher::ConcurrencyLimit;
use crate::store::user_turns::UserTurns;
use crate::telemetry::metrics::ConfirmationMetrics;

#[derive(Default)]
struct State {
    bets: BTreeMap<BetId, Bet>,
    /// By row id: the row, when it was written, and when its lease expires.
    outbox: BTreeMap<i64, (OutboxRow, Timestamp, Timestamp)>,
    written: i64,
    /// When the cancel is due, and how many attempts were made.
    cancels: BTreeMap<BetId, (Timestamp, u32)>,
    is_away: bool,
    refuses: Option<BetId>,
    is_unreadable: Option<BetId>,
    decisions: usize,
}

/// The store. It can be made unavailable.
#[derive(Default)]
pub(crate) struct FakeMoney(Mutex<State>);

impl FakeMoney {
    fn with<T>(
        &self,
        work: impl FnOnce(&mut State) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut state = self.0.lock();
        if state.is_away {
            Err(StoreError::Unavailable("away".to_owned()))
        } else {
            work(&mut state)
        }
    }

    pub(crate) fn place(&self, bet: Bet) -> BetId {
        let id = bet.id;
        self.0.lock().bets.insert(id, bet);
        id
    }

    pub(crate) fn get(&self, id: BetId) -> Bet {
        self.0.lock().bets[&id].clone()
    }

    pub(crate) fn status(&self, id: BetId) -> BetStatus {
        self.get(id).status
    }

    pub(crate) fn go_away(&self) {
        self.0.lock().is_away = true;
    }

    pub(crate) fn come_back(&self) {
        self.0.lock().is_away = false;
    }

    /// Makes decisions of this bet fail.
    pub(crate) fn refuse_to_decide(&self, bet: Option<BetId>) {
        self.0.lock().refuses = bet;
    }

    /// Makes the row of this bet unreadable.
    pub(crate) fn make_unreadable(&self, bet: BetId) {
        self.0.lock().is_unreadable = Some(bet);
    }

    pub(crate) fn open_cancel(&self, bet: BetId, at: Timestamp) {
        self.0.lock().cancels.insert(bet, (at, 0));
    }

    /// Number of attempts to write a decision.
    pub(crate) fn decisions(&self) -> usize {
        self.0.lock().decisions
    }

    pub(crate) fn write_outbox(
        &self,
        topic: OutboxTopic,
        payload: &str,
        at: Timestamp,
        leased_until: Timestamp,
    ) -> OutboxRow {
        self.0.lock().write_outbox(
            topic,
            format!("key of {payload}"),
            payload,
            at,
            leased_until,
        )
    }

    pub(crate) fn key_of(&self, payload: &str) -> Bytes {
        Bytes::from(format!("key of {payload}"))
    }
}

impl State {
    fn write_outbox(
        &mut self,
        topic: OutboxTopic,
        key: String,
        payload: &str,
        at: Timestamp,
        leased_until: Timestamp,
    ) -> OutboxRow {
        self.written += 1;
        let row = OutboxRow {
            trace: None,
            id: self.written,
            topic,
            key,
            payload: payload.to_owned(),
        };
        self.outbox.insert(row.id, (row.clone(), at, leased_until));
        row
    }
}

impl BetReader for FakeMoney {
    fn bet(&self, id: BetId) -> Result<Option<Bet>, StoreError> {
        self.with(|state| match state.is_unreadable == Some(id) {
            true => Err(StoreError::Unreadable("this bet".to_owned())),
            false => Ok(state.bets.get(&id).cloned()),
        })
    }

    fn bets_by_id(&self, ids: &[BetId]) -> Result<Vec<Option<Bet>>, StoreError> {
        ids.iter().map(|id| self.bet(*id)).collect()
    }
}

impl DecisionStore for FakeMoney {
    fn decide_bet(
        &self,
        id: BetId,
        outcome: &BetOutcome,
        notice: &OutboxMessage,
        at: Timestamp,
    ) -> Result<Decided, StoreError> {
        self.0.lock().decisions += 1;
        self.with(|state| {
            if state.refuses == Some(id) {
                return Err(StoreError::Refused("this bet".to_owned()));
            }
            let Some(bet) = state.bets.get_mut(&id) else {
                return Ok(Decided::Unknown);
            };
            if bet.status != BetStatus::Pending {
                return Ok(Decided::Before(bet.status));
            }
            bet.status = outcome.status();
            bet.reason = outcome.reason().map(str::to_owned);
            bet.provider_ref = outcome.provider_ref().map(str::to_owned);
            bet.decided_at = Some(at);
            if *outcome == BetOutcome::TimedOut {
                state.cancels.insert(id, (at, 0));
            }
            let topic = OutboxTopic::Confirmed;
            let row = state.write_outbox(
                topic,
                id.to_string(),
                &notice.payload,
                at,
                notice.leased_until,
            );
            Ok(Decided::Now { outbox: row.id })
        })
    }

    fn decide_bets(&self, decisions: &[DecideBet]) -> Result<Vec<Option<Decided>>, StoreError> {
        let decide = |decision: &DecideBet| {
            self.decide_bet(
                decision.bet_id,
                &decision.outcome,
                &decision.notice,
                decision.at,
            )
        };
        decisions
            .iter()
            .map(|decision| decide(decision).map(Some))
            .collect()
    }

    fn overdue_bets(&self, at: Timestamp, limit: usize) -> Result<Vec<Bet>, StoreError> {
        self.with(|state| {
            let is_overdue = |bet: &&Bet| bet.status == BetStatus::Pending && bet.decide_by < at;
            Ok(state
                .bets
                .values()
                .filter(is_overdue)
                .take(limit)
                .cloned()
                .collect())
        })
    }
}

impl OutboxStore for FakeMoney {
    fn take_outbox(
        &self,
        at: Timestamp,
        leased_until: Timestamp,
        limit: usize,
    ) -> Result<Vec<OutboxRow>, StoreError> {
        self.with(|state| {
            let free = state
                .outbox
                .values_mut()
                .filter(|(_, _, until)| *until <= at)
                .take(limit);
            Ok(free
                .map(|(row, _, until)| (*until = leased_until, row.clone()).1)
                .collect())
        })
    }

    fn published(&self, rows: &[i64]) -> Result<(), StoreError> {
        self.with(|state| {
            rows.iter().for_each(|id| drop(state.outbox.remove(id)));
            Ok(())
        })
    }

    fn outbox_depth(&self) -> Result<OutboxDepth, StoreError> {
        self.with(|state| {
            let oldest = state.outbox.values().map(|(_, at, _)| *at).min();
            Ok(OutboxDepth {
                rows: state.outbox.len() as u64,
                oldest,
            })
        })
    }
}

impl CancelQueue for FakeMoney {
    fn take_cancels(
        &self,
        at: Timestamp,
        next_attempt_at: Timestamp,
        limit: usize,
    ) -> Result<Vec<Cancel>, StoreError> {
        self.with(|state| {
            let due = state
                .cancels
                .iter_mut()
                .filter(|(_, (next, _))| *next <= at)
                .take(limit);
            Ok(due
                .map(|(bet_id, (next, attempts))| {
                    *next = next_attempt_at;
                    *attempts += 1;
                    Cancel {
                        bet_id: *bet_id,
                        attempts: *attempts - 1,
                    }
                })
                .collect())
        })
    }

    fn cancelled(&self, bet_id: BetId, _: Timestamp) -> Result<(), StoreError> {
        self.with(|state| {
            state.cancels.remove(&bet_id);
            Ok(())
        })
    }

    fn open_cancels(&self) -> Result<u64, StoreError> {
        self.with(|state| Ok(state.cancels.len() as u64))
    }
}

/// Messages that the relay and the canceller would have received.
#[derive(Default)]
struct Recorded {
    rows: Vec<OutboxRow>,
    cancels: usize,
}

struct Probe(Arc<Mutex<Recorded>>);

impl Actor for Probe {
    type Context = Context<Self>;
}

impl Handler<PublishOutbox> for Probe {
    type Result = ();

    fn handle(&mut self, rows: PublishOutbox, _: &mut Context<Self>) {
        self.0.lock().rows.extend(rows.0);
    }
}

impl Handler<CancelsWait> for Probe {
    type Result = ();

    fn handle(&mut self, _: CancelsWait, _: &mut Context<Self>) {
        self.0.lock().cancels += 1;
    }
}

/// Replaces the relay and the canceller, and records their messages.
pub(crate) struct ProbeEdges {
    recorded: Arc<Mutex<Recorded>>,
    probe: Addr<Probe>,
}

impl ProbeEdges {
    pub(crate) fn new() -> ProbeEdges {
        let recorded: Arc<Mutex<Recorded>> = Arc::default();
        ProbeEdges {
            recorded: recorded.clone(),
            probe: Probe(recorded).start(),
        }
    }

    pub(crate) fn decider(
        &self,
        store: &Arc<FakeMoney>,
        clock: &Clock,
        metrics: &ConfirmationMetrics,
    ) -> BetDecisions {
        let settings = DeciderSettings {
            turns: ConcurrencyLimit::new(2),
            max_batch: 16,
            users: UserTurns::new(4),
            lease: Duration::from_secs(30),
        };
        BetDecisions::new(
            settings,
            store.clone(),
            self.probe.clone().recipient(),
            self.probe.clone().recipient(),
            clock.clone(),
            metrics.clone(),
        )
    }

    pub(crate) fn rows(&self) -> Vec<OutboxRow> {
        self.recorded.lock().rows.clone()
    }

    pub(crate) fn cancel_messages(&self) -> usize {
        self.recorded.lock().cancels
    }
}
