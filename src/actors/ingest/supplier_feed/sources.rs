//! What a feed does about its sources: it reports their states, and suspends the open markets that
//! no source confirms.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use log::{info, warn};
use tokio::time::Instant;

use super::SupplierFeed;
use super::repetitions::Repetitions;
use super::source_clocks::SourceClocks;
use super::store_checks::{CheckId, StoreChecks};
use super::stored_markets::{MAX_MARKETS, StoredMarkets};
use crate::actors::ingest::local_feeds::{LocalFeed, LocalFeeds};
use crate::actors::ingest::messages::{HeardSource, SourcesHeard};
use crate::actors::ingest::other_reporters::OtherReporters;
use crate::bus::BusError;
use crate::bus::group_path::GroupPath;
use crate::domain::ids::Source;
use crate::domain::odds::source_status::SourceState;
use crate::domain::odds::status::MarketStatus;
use crate::domain::odds::update::OddsUpdate;
use crate::domain::timestamp::Timestamp;
use crate::store::blocking::blocking;
use crate::store::{Store, StoreError};
use crate::supplier::FrameSource;
use crate::telemetry::log_limit::{FaultLog, LogLimit};

/// How long a supplier may take to send what was missed.
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(30);
/// How often unchanged states are passed on, so that they do not expire.
const REPORT_INTERVAL: Duration = Duration::from_millis(500);

/// What a feed needs for its sources.
#[derive(Clone)]
pub(crate) struct SourceEdges {
    /// Receives the states of the sources.
    pub reporter: Recipient<SourcesHeard>,
    /// What other processes report.
    pub others: Arc<OtherReporters>,
    /// The feeds of this process.
    pub local: Arc<LocalFeeds>,
    /// The database with the markets that an earlier process has left, if this process has one.
    pub store: Option<Arc<dyn Store>>,
    /// The way of an update to the database.
    pub store_path: GroupPath,
}

/// The sources of a feed.
pub(super) struct FeedSources {
    edges: SourceEdges,
    /// Identifies this feed, in this start of the process.
    reporter: Arc<str>,
    /// This feed among those of the process.
    local: LocalFeed,
    pub(super) checks: StoreChecks,
    /// Whether checks wait until the store path has stored what the bus holds.
    awaits_path: bool,
    clocks: SourceClocks,
    repetitions: Repetitions,
    /// What was last reported.
    reported: Vec<(Source, SourceState)>,
    /// When the supplier was last live.
    live_at: Timestamp,
    report_at: Instant,
    recovering_since: Option<Instant>,
    store_log: FaultLog,
}

impl FeedSources {
    /// A source with a clock of its own is stale after a silence of `stale_after`.
    pub(super) fn new(edges: SourceEdges, stale_after: Duration) -> FeedSources {
        let reporter = edges.others.new_reporter();
        FeedSources {
            checks: StoreChecks::new(edges.store.is_some()),
            awaits_path: false,
            local: edges.local.join(reporter.clone()),
            clocks: SourceClocks::new(stale_after),
            repetitions: Repetitions::new(stale_after),
            reporter,
            edges,
            reported: Vec::new(),
            live_at: Timestamp::now(),
            report_at: Instant::now(),
            recovering_since: None,
            store_log: FaultLog::new(),
        }
    }

    /// Whether open markets of the source are left alone for now: another process has it live, or
    /// that is not known, or the source still may send them. What is suspended in a process that
    /// hears no reports would be published once it is connected again: such a process decides when
    /// it hears reports again.
    fn is_spared(&self, source: &Source, now: Instant) -> bool {
        let others = &self.edges.others;
        self.checks.is_in_grace(source, now)
            || !others.is_decided(source, now.into_std())
            || others.is_isolated(now.into_std())
            || others.is_live_elsewhere(source, now.into_std())
    }

    /// Records that no market of a source is open that it does not confirm, except spared ones. As
    /// long as it is not known what other processes report, all are spared.
    fn record_suspended(&mut self, now: Instant) {
        let others = &self.edges.others;
        if !others.is_isolated(now.into_std()) {
            let is_decided = |source: &Source| others.is_decided(source, now.into_std());
            self.checks.suspended(&is_decided, now);
        }
    }

    /// Records the updates of the feed's supplier. They matter only where stored markets are read.
    pub(super) fn record_sent(&self, updates: &[OddsUpdate]) {
        if self.edges.store.is_some() {
            self.local.sent(updates);
        }
    }

    /// Excludes time that the feed spent waiting for the bus from the silence of the sources.
    pub(super) fn exclude_wait(&mut self, wait: Duration) {
        self.clocks.exclude_wait(wait);
    }

    fn is_pending(&self, source: &Source, now: Instant) -> bool {
        self.checks.is_pending(source) || !self.edges.others.is_decided(source, now.into_std())
    }
}

/// Why open markets are suspended.
#[derive(Clone, Copy)]
pub(super) enum Cause {
    /// A connection ended amid a message.
    Loss(&'static str),
    /// Any other: silence, a recovery without end, or the start of this process.
    Unconfirmed,
}

impl SupplierFeed {
    /// Records that the supplier is live, and opens what was suspended only because it was silent.
    pub(super) fn on_live(&mut self, was_stale: bool) {
        self.sources.live_at = Timestamp::now();
        if was_stale {
            let opened = self.decoder.on_resumed();
            self.open_again(opened);
        }
    }

    /// Records which source a frame comes from.
    pub(super) fn on_heard(&mut self, from: &FrameSource, now: Instant) {
        let clock = self.sources.live_at;
        if let Some(source) = self.sources.clocks.heard(from, now, clock) {
            let opened = self.decoder.on_source_resumed(source);
            self.open_again(opened);
        }
    }

    fn open_again(&mut self, opened: Vec<OddsUpdate>) {
        if !opened.is_empty() {
            info!(supplier = self.status.supplier.as_str(), markets = opened.len(); "markets opened again: their source was silent, but its connection lost nothing");
            self.gathered.updates.extend(opened);
        }
    }

    /// Judges the sources with a clock of their own.
    pub(super) fn check_source_clocks(&mut self, now: Instant) {
        for source in self.sources.clocks.become_stale(now) {
            self.decoder.record_source_silence(&source);
        }
    }

    /// Whether the source, or its whole connection, is silent for too long.
    fn is_silent(&self, source: &Source) -> bool {
        self.timers.is_stale() || self.sources.clocks.is_stale(source)
    }

    /// Suspends the open markets that no source confirms.
    pub(super) fn suspend_unconfirmed(&mut self, cause: Cause) {
        let now = Instant::now();
        let sources = &self.sources;
        self.decoder
            .forget_stored(&|market| sources.local.is_held_by_another(market));
        let suspended = self
            .decoder
            .suspend_unconfirmed(&|source| sources.is_spared(source, now));
        if !suspended.is_empty() {
            self.log_suspended(cause, &suspended);
            self.gather_unconfirmed(suspended);
        }
        self.sources.record_suspended(now);
    }

    fn log_suspended(&self, cause: Cause, suspended: &[OddsUpdate]) {
        let supplier = self.status.supplier.as_str();
        let metrics = &self.metrics;
        let markets = suspended.len();
        if let Cause::Loss(reason) = cause {
            metrics.suspended_after_loss.inc_by(markets as u64);
            warn!(supplier, reason, markets; "markets suspended: changes are missing");
            return;
        }
        let silent = suspended
            .iter()
            .filter(|update| self.is_silent(&update.source));
        let stale = silent.count();
        if stale > 0 {
            metrics.suspended_as_stale.inc_by(stale as u64);
            warn!(supplier, markets = stale; "markets suspended: nothing readable received from their source for {:?}", self.settings.supplier_stale_after);
        }
        let unsent = markets - stale;
        if unsent > 0 {
            metrics.suspended_unsent.inc_by(unsent as u64);
            warn!(supplier, markets = unsent; "markets suspended: the supplier has not sent them since it was connected");
        }
    }

    /// Follows the states of the sources: checks new ones, ends a recovery that takes too long, and
    /// reports every source.
    pub(super) fn watch_sources(&mut self, context: &mut Context<Self>) {
        let now = Instant::now();
        let heard = self.decoder.sources();
        self.limit_recovery(&heard, now);
        let checked: Vec<_> = heard
            .iter()
            .filter(|(_, state)| *state != SourceState::Recovering)
            .map(|(source, _)| source.clone())
            .collect();
        self.sources.checks.heard(&checked, now);
        self.check_stores(now, context);
        let states = heard
            .into_iter()
            .map(|(source, state)| self.state_of(source, state, now))
            .collect();
        self.report(states, now);
    }

    fn state_of(&self, source: Source, decoded: SourceState, now: Instant) -> HeardSource {
        let is_recovering = decoded == SourceState::Live && self.sources.is_pending(&source, now);
        let state = if self.is_silent(&source) {
            SourceState::Stale
        } else if is_recovering {
            SourceState::Recovering
        } else {
            decoded
        };
        let at = self.sources.clocks.heard_at(&source);
        HeardSource {
            source,
            state,
            at: at.unwrap_or(self.sources.live_at),
        }
    }

    fn report(&mut self, sources: Vec<HeardSource>, now: Instant) {
        if sources.is_empty() {
            return;
        }
        let states: Vec<_> = sources
            .iter()
            .map(|heard| (heard.source.clone(), heard.state))
            .collect();
        let is_changed = states != self.sources.reported;
        if !is_changed && now < self.sources.report_at {
            return;
        }
        let message = SourcesHeard {
            reporter: self.sources.reporter.clone(),
            sources,
        };
        // A full mailbox is no fault: the next check reports again.
        if self.sources.edges.reporter.try_send(message).is_err() {
            return;
        }
        if is_changed {
            self.log_states(&states);
        }
        self.sources.report_at = now + REPORT_INTERVAL;
        self.repeat_confirmed(&states, now);
        self.sources.reported = states;
    }

    /// A selector has discarded what a source sent before it was lost, so it gets the confirmed open
    /// markets again. Other readers have kept them.
    fn repeat_confirmed(&mut self, states: &[(Source, SourceState)], now: Instant) {
        if !self.settings.has_priority() {
            return;
        }
        for source in self.sources.repetitions.due(states, now) {
            let confirmed = self.decoder.confirmed_open(&source);
            self.gathered.updates.extend(confirmed);
        }
    }

    fn log_states(&self, states: &[(Source, SourceState)]) {
        static LOG: LogLimit = LogLimit::every(Duration::from_secs(10));
        for (source, state) in states {
            let is_new = !self.sources.reported.contains(&(source.clone(), *state));
            let repeated = is_new.then(|| LOG.check(state.into())).flatten();
            if let Some(repeated) = repeated {
                let supplier = self.status.supplier.as_str();
                info!(supplier, source = source.as_str(), repeated; "source is {state}");
            }
        }
    }

    fn limit_recovery(&mut self, heard: &[(Source, SourceState)], now: Instant) {
        let is_recovering = self.link.is_some()
            && heard
                .iter()
                .any(|(_, state)| *state == SourceState::Recovering);
        if !is_recovering {
            self.sources.recovering_since = None;
            return;
        }
        let since = *self.sources.recovering_since.get_or_insert(now);
        if now.duration_since(since) < RECOVERY_TIMEOUT {
            return;
        }
        self.sources.recovering_since = None;
        if self.decoder.give_up_recovery() {
            self.metrics
                .recoveries
                .with_label_values(&["given_up"])
                .inc();
            warn!(supplier = self.status.supplier.as_str(); "the supplier has not sent what was missed within {RECOVERY_TIMEOUT:?}; markets that it does not send again are suspended");
            self.suspend_unconfirmed(Cause::Unconfirmed);
        }
    }

    /// Starts the checks that are due. The database is read once the store path has stored what the
    /// bus holds; otherwise a market that an earlier process has published may be missing. All due
    /// checks share one wait for that, and those that become due meanwhile share the next one.
    fn check_stores(&mut self, now: Instant, context: &mut Context<Self>) {
        if self.sources.awaits_path {
            return;
        }
        let due = self.sources.checks.due(now);
        if due.is_empty() {
            return;
        }
        self.sources.awaits_path = true;
        let path = self.sources.edges.store_path.clone();
        let passing = async move { path.passed().await };
        context.spawn(passing.into_actor(self).map(move |passed, feed, context| {
            feed.sources.awaits_path = false;
            for check in due {
                feed.read_store(check, passed.clone(), context);
            }
            feed.watch_sources(context);
        }));
    }

    /// Reads the unfinished markets of a source from the database, if the store path has `passed`.
    fn read_store(
        &mut self,
        check: CheckId,
        passed: Result<(), BusError>,
        context: &mut Context<Self>,
    ) {
        let Some(store) = self.sources.edges.store.clone() else {
            return;
        };
        let source = check.source.clone();
        let reading = async move {
            passed.map_err(|error| StoreError::Unavailable(error.to_string()))?;
            blocking(move || StoredMarkets::read(&*store, &source, MAX_MARKETS)).await
        };
        context.spawn(reading.into_actor(self).map(move |read, feed, context| {
            feed.on_stored(&check, read);
            feed.suspend_unconfirmed(Cause::Unconfirmed);
            feed.watch_sources(context);
            feed.publish_gathered(Duration::ZERO, context);
        }));
    }

    fn on_stored(&mut self, check: &CheckId, read: Result<StoredMarkets, StoreError>) {
        // The source has vanished in the meantime: if it returns, it is read again.
        if !self.sources.checks.is_reading(check) {
            return;
        }
        let now = Instant::now();
        let source = &check.source;
        match read {
            Ok(stored) => {
                self.log_truncation(source, &stored.truncated);
                let local = &self.sources.local;
                let mut markets = stored.markets;
                markets.retain(|market| {
                    market.status != MarketStatus::Open || !local.is_held_by_another(market)
                });
                let added = self.decoder.add_stored(markets);
                self.sources.checks.succeeded(check, added.unsent, now);
                self.gathered.updates.extend(added.updates);
                if self.sources.store_log.recovered() {
                    info!("the stored markets of the source {source} are read again");
                }
            }
            Err(failure) => {
                self.metrics.store_checks_failed.inc();
                self.sources.checks.failed(check, now);
                if let Some(repeated) = self.sources.store_log.failed("read") {
                    warn!(repeated; "cannot read the stored markets of the source {source}, which are shown as stale until then: {failure}");
                }
            }
        }
    }

    fn log_truncation(&self, source: &Source, truncated: &[MarketStatus]) {
        static LOG: LogLimit = LogLimit::every(Duration::from_secs(60));
        for status in truncated {
            self.metrics.store_checks_truncated.inc();
            if let Some(repeated) = LOG.check(status.as_str()) {
                warn!(source = source.as_str(), repeated; "only the first {MAX_MARKETS} {status} markets of the source are read from the database; the others are not checked");
            }
        }
    }
}
