//! Selects the source of each market: reads the updates of all suppliers, and publishes those that
//! are shown to the odds topic, which every book and the store read.
//!
//! Only what the odds topic has accepted is committed. [`SourceSelection`] decides; the consumer
//! loads what was published before, and carries out the decisions.

mod latest_reports;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use log::{info, warn};
use parking_lot::Mutex;

pub(crate) use self::latest_reports::LatestReports;
use super::batches_in_flight::oldest_of;
use super::dead_letters::DeadLetters;
use super::update_reader::{ReadBatch, UpdateReader, begin_process};
use crate::actors::consumers::BatchError;
use crate::actors::consumers::{BatchConsumer, BatchHandler};
use crate::actors::consumers::{ConsumerSettings, GroupReader};
use crate::actors::odds::book_source::{BookSource, ReplayBoundary};
use crate::actors::odds::update_records::with_records;
use crate::bus::trace_header::begin_send;
use crate::bus::update_header::{HANDED_OVER, UNCONFIRMED};
use crate::bus::{NewRecord, Record, Subscription, Topic};
use crate::domain::ids::EventId;
use crate::domain::odds::failover::{
    Effect, FailoverRules, PublishedStates, SourceSelection, SourceUpdate, Standing,
};
use crate::domain::odds::plausible::record_age;
use crate::domain::odds::update::PositionedUpdate;
use crate::domain::timestamp::Timestamp;
use crate::domain::trace_parent::TraceParent;
use crate::runtime::backlog::Backlog;
use crate::runtime::drain::DrainableTask;
use crate::runtime::liveness::LivenessProbe;
use crate::telemetry::log_limit::FaultLog;
use crate::telemetry::metrics::ProcessorMetrics;
use crate::telemetry::trace::Span;

/// How long after the start a source that was not heard yet is not taken for lost.
const GRACE: Duration = Duration::from_secs(5);
/// Maximum number of records per publish call.
const CHUNK: usize = 500;
/// Maximum number of records that are held until the published state of their market is loaded. With
/// more, nothing is read until some are loaded.
const MAX_HELD: usize = 10_000;
/// How often failed loads are repeated while other records wait.
const RETRY_INTERVAL: Duration = Duration::from_secs(2);
/// Maximum number of events whose load is repeated at once.
const MAX_RETRIES: usize = 500;
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
    /// What is reported about the sources.
    pub reports: Arc<LatestReports>,
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
    /// The topic that it reads.
    topic: String,
    edges: SelectorEdges,
    dead_letters: DeadLetters,
    reader: UpdateReader,
    selection: Mutex<SourceSelection>,
    /// What follows from held records whose markets were loaded.
    loaded: Mutex<Vec<Effect>>,
    idle_limit: Duration,
    next_sweep: Mutex<Instant>,
    next_retry: Mutex<Instant>,
    load_log: FaultLog,
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
        let mut selection = SourceSelection::new(rules.failover, GRACE, now);
        if !subscription.is_durable() {
            selection = selection.on_memory_bus();
        }
        let selector = SourceSelector {
            topic: settings.topic.clone(),
            dead_letters: DeadLetters::new(letters, &settings, &*subscription, &metrics),
            reader: UpdateReader::new(settings.limits, "selector", metrics.refused.clone()),
            selection: Mutex::new(selection),
            loaded: Mutex::default(),
            idle_limit: rules.idle_limit,
            next_sweep: Mutex::new(now + SWEEP_INTERVAL),
            next_retry: Mutex::new(now),
            load_log: FaultLog::new(),
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
        let ReadBatch { mut updates, bad } = self.reader.read(batch, Timestamp::now());
        self.reader.count(&bad);
        let mut spans = begin_process(&mut updates, &self.topic);
        self.load(&updates).await;
        let mut effects = std::mem::take(&mut *self.loaded.lock());
        let (now, clock) = (Instant::now(), Timestamp::now());
        let mut selection = self.selection.lock();
        let reports = self.edges.reports.get();
        effects.extend(selection.observe(&reports, batch.is_empty(), now, clock));
        let untraced = |effect| (effect, None);
        let mut effects: Vec<_> = effects.into_iter().map(untraced).collect();
        for (trace, heard) in heard(batch, updates, false) {
            let received = selection.receive(heard, now);
            effects.extend(received.into_iter().map(|effect| (effect, trace)));
        }
        self.sweep(&mut selection, now);
        drop(selection);
        let mut records = Vec::with_capacity(effects.len());
        for (effect, trace) in effects {
            if let Some(mut record) = self.record_of(effect) {
                if trace.is_some() {
                    spans.push(begin_send(trace, self.edges.odds.name(), &mut record));
                }
                records.push(record);
            }
        }
        Decided {
            records,
            letters: self.dead_letters.of(&bad),
            spans,
        }
    }

    /// Loads the published states of the markets that are not known yet: those of these updates, and
    /// those whose records are held. Keeps what follows from the latter for the next decision.
    async fn load(&self, updates: &[PositionedUpdate]) {
        let mut unknown = BTreeSet::new();
        {
            let selection = self.selection.lock();
            if updates.is_empty() || self.is_retry_due() {
                let held = selection.held_events().take(MAX_RETRIES);
                unknown.extend(held.map(|(event, partition)| (event.clone(), partition)));
            }
            let wanted = updates
                .iter()
                .filter(|positioned| selection.needs(&positioned.update))
                .map(|positioned| (positioned.update.event_id.clone(), positioned.partition));
            unknown.extend(wanted);
        }
        let loads = unknown
            .iter()
            .map(|(event, partition)| self.load_event(event, *partition));
        let effects = join_all(loads).await;
        self.loaded.lock().extend(effects.into_iter().flatten());
    }

    /// Whether loads that failed are repeated although other records wait: a database that hangs
    /// holds them up.
    fn is_retry_due(&self) -> bool {
        let now = Instant::now();
        let mut next = self.next_retry.lock();
        let is_due = now >= *next;
        if is_due {
            *next = now + RETRY_INTERVAL;
        }
        is_due
    }

    /// A cache or a store that is away may hold the latest state of a market: what they do not show
    /// stays unknown.
    async fn load_event(&self, event: &EventId, partition: u32) -> Vec<Effect> {
        let nothing = ReplayBoundary::NOTHING;
        let loaded = self.edges.published.load_for_start(event, nothing).await;
        if !loaded.is_cache_read {
            return Vec::new();
        }
        let states = loaded.states.iter();
        let published = PublishedStates {
            updates: states.map(|state| Arc::new(state.update.clone())).collect(),
            is_complete: loaded.is_complete,
        };
        let (now, clock) = (Instant::now(), Timestamp::now());
        let mut selection = self.selection.lock();
        selection.load(event, partition, published, now, clock)
    }

    /// Fails while too many records are held.
    async fn check_room(&self) -> Result<(), BatchError> {
        let has_room = || self.selection.lock().held() < MAX_HELD;
        if has_room() {
            return Ok(());
        }
        self.load(&[]).await;
        if has_room() {
            return Ok(());
        }
        let reason =
            format!("the published states of the markets of {MAX_HELD} records cannot be loaded");
        Err(BatchError::new("load", reason))
    }

    /// Reports the records that are held.
    fn report_held(&self) {
        let held = self.selection.lock().held();
        self.metrics.failover_held.set(held as i64);
        if held == 0 {
            if self.load_log.recovered() {
                info!("the published states of all markets are loaded");
            }
        } else if let Some(repeated) = self.load_log.failed("load") {
            warn!(held, repeated; "the published state of markets cannot be loaded: their updates are held until it is");
        }
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
            Effect::Publish(update) => {
                return Some(NewRecord::of_event(&update.event_id, update.to_json()));
            }
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
        self.publish_records(&mut decided.records).await?;
        let letters = decided.letters.clone();
        self.dead_letters.publish(letters).await?;
        decided.letters.clear();
        decided.spans.clear();
        Ok(())
    }

    /// Publishes records to the odds topic, and removes those that it has accepted.
    async fn publish_records(&self, records: &mut Vec<NewRecord>) -> Result<(), BatchError> {
        let odds = &self.edges.odds;
        while !records.is_empty() {
            let count = records.len().min(CHUNK);
            let published = odds.publish(records[..count].to_vec()).await;
            published
                .map_err(|error| BatchError::new("publish", format!("{}: {error}", odds.name())))?;
            records.drain(..count);
        }
        Ok(())
    }
}

/// What is to be published for a batch.
#[derive(Debug)]
struct Decided {
    /// For the odds topic, in order.
    records: Vec<NewRecord>,
    letters: Vec<NewRecord>,
    /// The spans of the traced records, which end when these are published.
    spans: Vec<Span>,
}

/// Completed steps of a batch.
#[derive(Debug, Default)]
pub(in crate::actors) struct SelectorProgress {
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
            self.check_room().await?;
            progress.decided = Some(self.decide(batch).await);
        }
        if let Some(decided) = &mut progress.decided {
            self.publish(decided).await?;
        }
        self.report_held();
        self.backlog.set(None);
        Ok(())
    }

    /// Other processes assume that what follows from a committed record is published.
    fn may_commit(&self) -> bool {
        self.selection.lock().is_decided()
    }

    async fn replay(&self, batch: &[Record]) {
        self.life.touch();
        // Bad records were counted and kept when they were read first.
        let ReadBatch { updates, .. } = self.reader.read(batch, Timestamp::now());
        self.load(&updates).await;
        let now = Instant::now();
        let mut selection = self.selection.lock();
        for (_, heard) in heard(batch, updates, true) {
            // Nothing is published for it.
            let _ = selection.receive(heard, now);
        }
    }

    fn forget(&self, partitions: &[u32]) {
        self.selection.lock().forget(partitions);
    }
}

/// The updates of a batch as their sources sent them, with their spans.
fn heard(
    batch: &[Record],
    updates: Vec<PositionedUpdate>,
    is_replayed: bool,
) -> impl Iterator<Item = (Option<TraceParent>, SourceUpdate)> {
    with_records(batch, updates).map(move |(record, positioned)| {
        let (published_at, heard_at) = published(record);
        let update = SourceUpdate {
            update: Arc::new(positioned.update),
            partition: record.partition,
            published_at,
            heard_at,
            standing: standing(record),
            is_replayed,
        };
        (positioned.trace, update)
    })
}

/// When a record was published: by the clock of the bus, and by the one of this process. The current
/// time if it has no usable timestamp.
fn published(record: &Record) -> (Timestamp, Instant) {
    let (now, clock) = (Instant::now(), Timestamp::now());
    let stamp = record.published_at;
    let known = stamp.and_then(|at| Some((at, now.checked_sub(record_age(at, clock)?)?)));
    known.unwrap_or((clock, now))
}

fn standing(record: &Record) -> Standing {
    let has = |header| record.header(header) == Some("1");
    if has(HANDED_OVER) {
        Standing::HandedOver
    } else if has(UNCONFIRMED) {
        Standing::Unconfirmed
    } else {
        Standing::Current
    }
}

#[cfg(test)]
mod tests;
