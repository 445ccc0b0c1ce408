//! Selects the source of each market: reads the updates of all suppliers, and publishes those that
//! are shown to the odds topic, which every book and the store read.
//!
//! Only what the odds topic has accepted is committed. [`SourceSelection`] decides; the consumer
//! loads what was published before, and carries out the decisions.

mod reported_sources;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use parking_lot::Mutex;

pub(crate) use self::reported_sources::ReportedSources;
use super::batch_consumer::{BatchConsumer, BatchHandler};
use super::batch_retry::BatchError;
use super::batches_in_flight::oldest_of;
use super::dead_letters::DeadLetters;
use super::group_reader::{ConsumerSettings, GroupReader};
use super::update_reader::{ReadBatch, UpdateReader};
use crate::actors::odds::book_source::{BookSource, ReplayBoundary};
use crate::bus::update_header::{HANDED_OVER, UNVOUCHED};
use crate::bus::{NewRecord, Record, Subscription, Topic};
use crate::domain::ids::EventId;
use crate::domain::odds::failover::{
    Effect, FailoverRules, SourceSelection, SourceUpdate, Standing,
};
use crate::domain::odds::update::{OddsUpdate, PositionedUpdate};
use crate::domain::timestamp::Timestamp;
use crate::runtime::backlog::Backlog;
use crate::runtime::drain::DrainableTask;
use crate::runtime::liveness::LivenessProbe;
use crate::telemetry::metrics::ProcessorMetrics;

/// How long after the start a source that was not heard yet is not taken for lost.
const GRACE: Duration = Duration::from_secs(5);
/// Maximum number of records per publish call.
const CHUNK: usize = 500;
/// How often events that are over or idle are dropped.
const SWEEP_INTERVAL: Duration = Duration::from_secs(10);

/// What a selector works with.
pub(crate) struct SelectorEdges {
    /// The topic of the selected updates.
    pub odds: Arc<dyn Topic>,
    /// The topic of unreadable records.
    pub dead_letters: Arc<dyn Topic>,
    /// Loads what was published before.
    pub published: BookSource,
    /// The states of the sources.
    pub sources: Arc<ReportedSources>,
}

/// When a selector changes the owner of a market, and how long it remembers one.
pub(crate) struct SelectorRules {
    /// When a market changes its owner.
    pub failover: FailoverRules,
    /// How long an event without a record is remembered.
    pub idle_limit: Duration,
}

/// Selects the source of each market.
pub(crate) struct SourceSelector {
    edges: SelectorEdges,
    dead_letters: DeadLetters,
    reader: UpdateReader,
    selection: Mutex<SourceSelection>,
    idle_limit: Duration,
    next_sweep: Mutex<Instant>,
    life: Arc<LivenessProbe>,
    backlog: Arc<Backlog>,
    metrics: ProcessorMetrics,
}

impl SourceSelector {
    /// Selects from the records of `subscription`. Returns the actor, and its signs of life.
    pub(crate) fn task(
        settings: ConsumerSettings,
        subscription: Box<dyn Subscription>,
        rules: SelectorRules,
        edges: SelectorEdges,
        metrics: ProcessorMetrics,
    ) -> (DrainableTask, (Arc<LivenessProbe>, Arc<Backlog>)) {
        let now = Instant::now();
        let letters = edges.dead_letters.clone();
        let selector = SourceSelector {
            dead_letters: DeadLetters::new(letters, &settings, &*subscription, &metrics),
            reader: UpdateReader::new(settings.limits, "selector", metrics.refused.clone()),
            selection: Mutex::new(SourceSelection::new(rules.failover, GRACE, now)),
            idle_limit: rules.idle_limit,
            next_sweep: Mutex::new(now + SWEEP_INTERVAL),
            edges,
            life: Arc::new(LivenessProbe::new()),
            backlog: Arc::default(),
            metrics: metrics.clone(),
        };
        let signs = (selector.life.clone(), selector.backlog.clone());
        let reader = GroupReader::new(settings, subscription, "selector", &metrics.bus_lag);
        let task = BatchConsumer::new(reader, selector, metrics.errors).into_task();
        (task, signs)
    }

    /// Decides about a batch. Called once for each batch, because it changes the selection.
    async fn decide(&self, batch: &[Record]) -> Decided {
        let ReadBatch { updates, bad } = self.reader.read(batch, Timestamp::now());
        self.reader.count(&bad);
        self.load(&updates).await;
        let now = Instant::now();
        let mut selection = self.selection.lock();
        let mut effects = selection.observe(&self.edges.sources.get(), now);
        for heard in heard(batch, updates) {
            effects.extend(selection.receive(heard, now));
        }
        self.sweep(&mut selection, now);
        drop(selection);
        Decided {
            records: effects
                .into_iter()
                .filter_map(|effect| self.record_of(effect))
                .collect(),
            letters: self.dead_letters.of(&bad),
        }
    }

    /// Loads what was published of the events that are not known yet.
    async fn load(&self, updates: &[PositionedUpdate]) {
        let mut unknown = BTreeSet::new();
        {
            let selection = self.selection.lock();
            let wanted = updates
                .iter()
                .filter(|positioned| selection.needs(&positioned.update.event_id))
                .map(|positioned| (positioned.update.event_id.clone(), positioned.partition));
            unknown.extend(wanted);
        }
        join_all(
            unknown
                .iter()
                .map(|(event, partition)| self.load_event(event, *partition)),
        )
        .await;
    }

    async fn load_event(&self, event: &EventId, partition: u32) {
        let nothing = ReplayBoundary::NOTHING;
        // Like a book, it continues without a cache or a database that is down.
        let loaded = self.edges.published.load_for_start(event, nothing).await;
        let published = loaded
            .states
            .iter()
            .map(|state| Arc::new(state.update.clone()));
        let (now, clock) = (Instant::now(), Timestamp::now());
        let mut selection = self.selection.lock();
        selection.load(event, partition, published, now, clock);
    }

    fn sweep(&self, selection: &mut SourceSelection, now: Instant) {
        let mut next = self.next_sweep.lock();
        if now >= *next {
            *next = now + SWEEP_INTERVAL;
            selection.sweep(self.idle_limit, now);
        }
        self.metrics
            .failover_markets
            .set(selection.markets() as i64);
    }

    /// Counts an effect, and returns the record to publish.
    fn record_of(&self, effect: Effect) -> Option<NewRecord> {
        let metrics = &self.metrics;
        let (counter, label) = match effect {
            Effect::Publish(update) => return Some(record_of(&update)),
            Effect::Withdrawn => {
                metrics.failover_withdrawn.inc();
                return None;
            }
            Effect::Moved(cause) => (&metrics.failovers, cause.as_str()),
            Effect::Refused(why) => (&metrics.failovers_refused, why.reason()),
            Effect::Dropped(why) => (&metrics.failover_dropped, why.reason()),
        };
        counter.with_label_values(&[label]).inc();
        None
    }

    async fn publish(&self, decided: &mut Decided) -> Result<(), BatchError> {
        while !decided.records.is_empty() {
            let count = decided.records.len().min(CHUNK);
            let chunk = decided.records[..count].to_vec();
            let odds = &self.edges.odds;
            odds.publish(chunk)
                .await
                .map_err(|error| BatchError::new("publish", format!("{}: {error}", odds.name())))?;
            decided.records.drain(..count);
        }
        let letters = decided.letters.clone();
        self.dead_letters.publish(letters).await?;
        decided.letters.clear();
        Ok(())
    }
}

/// What is to be published for a batch.
#[derive(Debug)]
struct Decided {
    /// For the odds topic, in order.
    records: Vec<NewRecord>,
    letters: Vec<NewRecord>,
}

/// Completed steps of a batch.
#[derive(Debug, Default)]
pub(super) struct SelectorProgress {
    decided: Option<Decided>,
}

impl BatchHandler for SourceSelector {
    type Progress = SelectorProgress;

    const WORKS_WHILE_IDLE: bool = true;

    async fn attempt(
        &self,
        batch: &[Record],
        progress: &mut SelectorProgress,
    ) -> Result<(), BatchError> {
        self.life.touch();
        let oldest = (!batch.is_empty()).then(|| oldest_of(batch));
        self.backlog.set(oldest);
        if progress.decided.is_none() {
            progress.decided = Some(self.decide(batch).await);
        }
        if let Some(decided) = &mut progress.decided {
            self.publish(decided).await?;
        }
        self.backlog.set(None);
        Ok(())
    }

    async fn replay(&self, batch: &[Record]) {
        self.life.touch();
        // Bad records were counted and kept when they were read first.
        let ReadBatch { updates, .. } = self.reader.read(batch, Timestamp::now());
        self.load(&updates).await;
        let now = Instant::now();
        let mut selection = self.selection.lock();
        for heard in heard(batch, updates) {
            selection.replay(heard, now);
        }
    }

    fn forget(&self, partitions: &[u32]) {
        self.selection.lock().forget(partitions);
    }
}

/// The updates of a batch as the words of their sources.
fn heard(batch: &[Record], updates: Vec<PositionedUpdate>) -> impl Iterator<Item = SourceUpdate> {
    let mut records = batch.iter();
    updates.into_iter().filter_map(move |positioned| {
        // Both are in bus order, and records without an update are left out.
        let place = (positioned.partition, positioned.position);
        let record = records.find(|record| (record.partition, record.offset) == place)?;
        Some(SourceUpdate {
            update: Arc::new(positioned.update),
            heard_at: oldest_of(std::slice::from_ref(record)),
            standing: standing(record),
        })
    })
}

fn standing(record: &Record) -> Standing {
    let has = |header| record.header(header) == Some("1");
    if has(HANDED_OVER) {
        Standing::HandedOver
    } else if has(UNVOUCHED) {
        Standing::Unvouched
    } else {
        Standing::Current
    }
}

fn record_of(update: &OddsUpdate) -> NewRecord {
    NewRecord {
        key: Bytes::copy_from_slice(update.event_id.as_str().as_bytes()),
        payload: update.to_json().into(),
        headers: Vec::new(),
    }
}

#[cfg(test)]
mod tests;
