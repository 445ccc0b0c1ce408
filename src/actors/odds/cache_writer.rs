//! Writes changes to the cache, one pipeline in flight. While the cache keeps up, every change is
//! written and published in order. While it is down or far behind, only the latest state of each
//! market is kept for it, so memory is bounded by the number of markets and the live path never
//! waits.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use actix::prelude::*;
use log::{debug, info, warn};
use tokio::sync::oneshot;

use super::messages::{BookChanged, FlushCache};
use crate::cache::{CacheError, Change, OddsCache};
use crate::domain::ids::{EventId, MarketKey};
use crate::domain::odds::book::MarketState;
use crate::runtime::backoff::{Backoff, BackoffPolicy};
use crate::runtime::health::HealthCell;
use crate::store::Store;
use crate::store::blocking::blocking;
use crate::telemetry::log_limit::FaultLog;
use crate::telemetry::metrics::ProcessorMetrics;

/// Maximum number of states in one pipeline.
const MAX_PIPELINE: usize = 1_000;
/// Maximum number of pending changes that are kept one by one. Above it, only the latest change of
/// each market is kept.
const MAX_PENDING: usize = 20_000;
/// Delays between attempts while the cache is down, before jitter, which at most doubles them:
/// clients get current prices soon after its return.
const RETRY: BackoffPolicy = BackoffPolicy {
    first: Duration::from_millis(50),
    most: Duration::from_millis(400),
};
/// Interval between checks of the cache while nothing changes.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Checks after which a damaged entry that no other processor has repaired is rewritten from the
/// database, although no book of this process holds its event.
const CHECKS_BEFORE_STORE: u32 = 5;
/// Interval between removals of states that no book holds any more.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);

/// Writes the changes of the books to the cache.
pub struct CacheWriter {
    cache: Arc<dyn OddsCache>,
    /// Changes received since the current round started. The next round takes all of them.
    pending: Vec<Change>,
    /// The unwritten rest of the current round, in reverse order.
    round: Vec<Change>,
    /// Number of rounds started.
    begun: u64,
    in_flight: bool,
    /// Number of pending changes after the last conflation.
    conflated: usize,
    /// Callers that wait for a round, with its number.
    waiting: Vec<(u64, oneshot::Sender<()>)>,
    /// The written states, for as long as a book holds them: a cache that was down may come back
    /// empty.
    written: HashMap<(EventId, MarketKey), Weak<MarketState>>,
    /// The connection of the last write.
    connection: u64,
    /// The source of states that no book holds.
    store: Option<Arc<dyn Store>>,
    /// Damaged events that no book of this process holds, with the number of consecutive checks
    /// that found them.
    unheld: HashMap<EventId, u32>,
    backoff: Backoff,
    log: FaultLog,
    health: Arc<HealthCell>,
    metrics: ProcessorMetrics,
}

impl CacheWriter {
    /// Creates a writer to `cache`.
    pub fn new(cache: Arc<dyn OddsCache>, metrics: ProcessorMetrics) -> CacheWriter {
        CacheWriter {
            cache,
            pending: Vec::new(),
            round: Vec::new(),
            begun: 0,
            in_flight: false,
            conflated: 0,
            waiting: Vec::new(),
            written: HashMap::new(),
            connection: 0,
            store: None,
            unheld: HashMap::new(),
            backoff: Backoff::new(RETRY, 0),
            log: FaultLog::new(),
            health: Arc::default(),
            metrics,
        }
    }

    /// Repairs damaged entries from `store` if no processor holds a book of their event.
    pub fn repairing_from(self, store: Arc<dyn Store>) -> CacheWriter {
        CacheWriter {
            store: Some(store),
            ..self
        }
    }

    /// The result of the last write: a cache may answer pings and still reject writes.
    pub fn health(&self) -> Arc<HealthCell> {
        self.health.clone()
    }

    /// Keeps only the latest change of each market, ordered by sequence number.
    fn conflate(&mut self) {
        let mut latest: HashMap<(EventId, MarketKey), Change> = HashMap::new();
        for change in std::mem::take(&mut self.pending) {
            match latest.entry(key_of(&change.state)) {
                Entry::Vacant(place) => _ = place.insert(change),
                Entry::Occupied(mut held) => {
                    if held.get().state.seq < change.state.seq {
                        held.insert(change);
                    }
                    held.get_mut().conflated = true;
                }
            }
        }
        let mut latest: Vec<_> = latest.into_values().collect();
        latest.sort_unstable_by_key(|change| change.state.seq);
        self.conflated = latest.len();
        self.pending = latest;
    }

    fn report_pending(&self) {
        self.metrics
            .cache_pending
            .set((self.pending.len() + self.round.len()) as i64);
    }

    /// Starts a round with all pending changes.
    fn begin_round(&mut self) {
        self.begun += 1;
        self.round = std::mem::take(&mut self.pending);
        self.round.reverse();
        self.conflated = 0;
    }

    fn flush(&mut self, context: &mut Context<Self>) {
        if self.in_flight {
            return;
        }
        if self.round.is_empty() {
            if self.pending.is_empty() {
                // Everything is written, so no caller has to wait.
                self.answer(u64::MAX);
                if self.backoff.failures() > 0 {
                    self.check(context);
                }
                return;
            }
            let ended = self.begun;
            self.answer(ended);
            self.begin_round();
        }
        self.in_flight = true;
        let changes = self
            .round
            .split_off(self.round.len().saturating_sub(MAX_PIPELINE));
        let changes: Vec<_> = changes.into_iter().rev().collect();
        let writing = self.cache.write_changes(changes.clone()).into_actor(self);
        context.spawn(writing.map(move |written, writer, context| {
            writer.in_flight = false;
            match written {
                Ok(removed) => writer.took(changes, &removed, context),
                Err(error) => writer.failed(changes, &error, context),
            }
            writer.report_pending();
        }));
    }

    /// Checks the cache while there is nothing to write. Without this, an outage that emptied the
    /// cache would be noticed only at the next change, and unchanged markets would be missing until
    /// then.
    fn check(&mut self, context: &mut Context<Self>) {
        if self.in_flight {
            return;
        }
        self.in_flight = true;
        let checking = self.cache.damaged().into_actor(self);
        context.spawn(checking.map(|answer, writer, context| {
            writer.in_flight = false;
            match answer {
                Ok(damaged) => writer.repair(damaged, context),
                Err(error) => writer.failed(Vec::new(), &error, context),
            }
            writer.report_pending();
        }));
    }

    /// Rewrites the entries of damaged events: at once for events that books of this process hold;
    /// for the others from the database, if no other processor has rewritten them for some checks.
    fn repair(&mut self, damaged: Vec<EventId>, context: &mut Context<Self>) {
        let is_held = |event_id: &EventId| {
            self.written
                .iter()
                .any(|((held, _), state)| held == event_id && state.strong_count() > 0)
        };
        let (held, unheld): (Vec<_>, Vec<_>) = damaged.into_iter().partition(is_held);
        let count = |event_id: EventId| {
            let checks = self.unheld.get(&event_id).map_or(1, |checks| checks + 1);
            (event_id, checks)
        };
        self.unheld = unheld.into_iter().map(count).collect();
        // If the repair fails, the next attempt follows after as many checks.
        let due: Vec<EventId> = self
            .unheld
            .extract_if(|_, checks| *checks > CHECKS_BEFORE_STORE)
            .map(|(event_id, _)| event_id)
            .collect();
        if held.is_empty() && due.is_empty() {
            return self.took(Vec::new(), &[], context);
        }
        self.in_flight = true;
        let (cache, store) = (self.cache.clone(), self.store.clone());
        let removing = async move {
            let mut stored = Vec::new();
            for (event_id, states) in load(store, due).await {
                if is_damaged(&*cache, &event_id).await {
                    stored.push((event_id, states));
                }
            }
            let removed: Vec<_> = held
                .into_iter()
                .chain(stored.iter().map(|(event_id, _)| event_id.clone()))
                .collect();
            cache
                .remove(removed.clone())
                .await
                .map(|()| (removed, stored))
        };
        context.spawn(removing.into_actor(self).map(|removed, writer, context| {
            writer.in_flight = false;
            match removed {
                Ok((removed, stored)) => {
                    let states = stored.into_iter().flat_map(|(_, states)| states);
                    writer.pending.extend(states.map(|state| Change {
                        state,
                        conflated: true,
                    }));
                    writer.took(Vec::new(), &removed, context);
                }
                Err(error) => writer.failed(Vec::new(), &error, context),
            }
            writer.report_pending();
        }));
    }

    /// Queues the written states of events whose entry was removed.
    fn write_again(&mut self, removed: &[EventId]) {
        if removed.is_empty() {
            return;
        }
        let held = self
            .written
            .iter()
            .filter(|((event_id, _), _)| removed.contains(event_id));
        let held = held.filter_map(|(_, state)| {
            Some(Change {
                state: state.upgrade()?,
                conflated: true,
            })
        });
        self.pending.extend(held);
        self.conflate();
    }

    fn took(&mut self, changes: Vec<Change>, removed: &[EventId], context: &mut Context<Self>) {
        self.metrics.cache_sets.inc_by(changes.len() as u64);
        // Another user of the cache may have detected the loss and opened the new connection.
        let connection = self.cache.connection();
        let before = std::mem::replace(&mut self.connection, connection);
        // The first connection is not a reconnect: nothing was written before, and pending changes
        // are published one by one.
        let is_reconnect = before != 0 && before != connection;
        if self.backoff.failures() > 0 || is_reconnect {
            if self.log.recovered() {
                info!("cache recovered");
            }
            self.health.record_success();
            self.backoff.reset();
            // The cache may have come back empty.
            let fresh: HashSet<_> = changes.iter().map(|change| key_of(&change.state)).collect();
            let held = self.written.iter().filter(|(key, _)| !fresh.contains(key));
            let held = held.filter_map(|(_, state)| {
                Some(Change {
                    state: state.upgrade()?,
                    conflated: true,
                })
            });
            self.pending.extend(held);
            self.conflate();
        }
        self.written.extend(
            changes
                .iter()
                .map(|change| (key_of(&change.state), Arc::downgrade(&change.state))),
        );
        self.write_again(removed);
        self.flush(context);
    }

    fn failed(
        &mut self,
        changes: Vec<Change>,
        error: &dyn std::fmt::Display,
        context: &mut Context<Self>,
    ) {
        self.metrics.errors.with_label_values(&["cache"]).inc();
        self.health.record_failure(error);
        // The write failed: requeue the rest of this round before newer changes, and move its
        // waiters to the next round.
        let left = std::mem::take(&mut self.round);
        let since = std::mem::take(&mut self.pending);
        self.pending = changes
            .into_iter()
            .chain(left.into_iter().rev())
            .chain(since)
            .collect();
        self.conflate();
        self.waiting
            .iter_mut()
            .for_each(|(round, _)| *round = self.begun + 1);
        if self.backoff.failures() == 0
            && let Some(repeated) = self.log.failed(&error.to_string())
        {
            warn!(repeated; "cache failed, keeping only the latest state of each market until it recovers: {error}");
        }
        self.in_flight = true;
        context.run_later(self.backoff.next_delay(), |writer, context| {
            writer.in_flight = false;
            writer.conflate();
            writer.flush(context);
        });
    }

    /// Replies to the callers that wait for a round up to this one.
    fn answer(&mut self, ended: u64) {
        for (_, waiting) in self.waiting.extract_if(.., |(round, _)| *round <= ended) {
            // The caller may be gone.
            let _ = waiting.send(());
        }
    }
}

/// Loads the states of these events from the database, without the events that cannot be read now.
async fn load(
    store: Option<Arc<dyn Store>>,
    events: Vec<EventId>,
) -> Vec<(EventId, Vec<Arc<MarketState>>)> {
    let Some(store) = store.filter(|_| !events.is_empty()) else {
        return Vec::new();
    };
    let loading = blocking(move || {
        let load = |event_id: EventId| match store.load_event(&event_id) {
            Ok(states) => Some((event_id, states)),
            Err(error) => {
                debug!(event = event_id.as_str(); "repair of damaged cache entry postponed: {error}");
                None
            }
        };
        Ok(events.into_iter().filter_map(load).collect())
    });
    loading.await.unwrap_or_else(|error| {
        debug!("repair of damaged cache entries postponed: {error}");
        Vec::new()
    })
}

/// Whether an entry is damaged now. Another processor may have written it since it was reported, and
/// a newer state must not be removed.
async fn is_damaged(cache: &dyn OddsCache, event_id: &EventId) -> bool {
    matches!(
        cache.read_book(event_id).await,
        Err(CacheError::Damaged { .. })
    )
}

fn key_of(state: &Arc<MarketState>) -> (EventId, MarketKey) {
    (state.update.event_id.clone(), state.update.market.clone())
}

impl Actor for CacheWriter {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        context.run_interval(CHECK_INTERVAL, |writer, context| writer.check(context));
        context.run_interval(SWEEP_INTERVAL, |writer, _| {
            writer.written.retain(|_, state| state.strong_count() > 0);
        });
    }
}

impl Handler<BookChanged> for CacheWriter {
    type Result = ();

    fn handle(&mut self, changed: BookChanged, context: &mut Context<Self>) {
        self.metrics
            .mailbox_depth
            .with_label_values(&["cache_writer"])
            .dec();
        let conflated = changed.conflated;
        self.pending
            .extend(changed.states.iter().map(|state| Change {
                state: state.clone(),
                conflated,
            }));
        // While the cache is down, conflate only when the number of changes has doubled, not for
        // each one.
        if self.pending.len() > MAX_PENDING && self.pending.len() > 2 * self.conflated {
            self.conflate();
        }
        self.flush(context);
        self.report_pending();
    }
}

impl Handler<FlushCache> for CacheWriter {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: FlushCache, context: &mut Context<Self>) -> Self::Result {
        let (done, waiting) = oneshot::channel();
        // The next round writes the pending changes. If there are none, the current round is the
        // last one to wait for.
        let round = self.begun + u64::from(!self.pending.is_empty());
        self.waiting.push((round, done));
        self.flush(context);
        Box::pin(async move {
            if waiting.await.is_err() {
                // The writer stops before it is done. It sends no reply, so the caller gets an
                // error from the mailbox.
                std::future::pending::<()>().await;
            }
        })
    }
}

#[cfg(test)]
mod tests;
