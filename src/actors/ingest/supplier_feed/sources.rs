//! What a feed does about its sources: it reports their states, and suspends the open markets that
//! nobody vouches for.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use log::{info, warn};
use tokio::time::Instant;

use super::SupplierFeed;
use super::store_checks::StoreChecks;
use crate::actors::ingest::messages::SourcesHeard;
use crate::actors::ingest::other_reporters::OtherReporters;
use crate::domain::ids::Source;
use crate::domain::odds::source_status::SourceState;
use crate::domain::odds::update::OddsUpdate;
use crate::domain::timestamp::Timestamp;
use crate::store::blocking::blocking;
use crate::store::{OpenMarketsQuery, Store, StoreError};
use crate::supplier::MarketRevision;
use crate::telemetry::log_limit::{FaultLog, LogLimit};

/// How long a supplier may take to send what was missed.
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(30);
/// How often unchanged states are passed on, so that they do not expire.
const REPORT_INTERVAL: Duration = Duration::from_millis(500);
/// Markets per read of the database.
const PAGE: usize = 1_000;
/// The maximum number of open markets of a source that are read.
const MAX_MARKETS: usize = 100_000;

/// What a feed needs for its sources.
#[derive(Clone)]
pub(crate) struct SourceEdges {
    /// Receives the states of the sources.
    pub reporter: Recipient<SourcesHeard>,
    /// What other feeds and processes report.
    pub others: Arc<OtherReporters>,
    /// The database with the markets that an earlier process left open, if this process has one.
    pub store: Option<Arc<dyn Store>>,
}

/// The sources of a feed.
pub(super) struct FeedSources {
    edges: SourceEdges,
    /// Identifies this feed, in this start of the process.
    reporter: Arc<str>,
    checks: StoreChecks,
    /// What was last reported.
    reported: Vec<(Source, SourceState)>,
    /// Until when the supplier has vouched for its prices.
    vouched_at: Timestamp,
    report_at: Instant,
    recovering_since: Option<Instant>,
    store_log: FaultLog,
}

impl FeedSources {
    pub(super) fn new(edges: SourceEdges) -> FeedSources {
        FeedSources {
            checks: StoreChecks::new(edges.store.is_some()),
            reporter: edges.others.new_reporter(),
            edges,
            reported: Vec::new(),
            vouched_at: Timestamp::now(),
            report_at: Instant::now(),
            recovering_since: None,
            store_log: FaultLog::new(),
        }
    }

    /// Whether open markets of the source are left alone for now: another process has it live, or
    /// that is not known, or the source still may send them. What is suspended in a process that
    /// hears no reports would be published once it is connected again. A feed that is not silent
    /// leaves alone what another feed of this process may hear.
    fn is_spared(&self, source: &Source, is_silent: bool, now: Instant) -> bool {
        let others = &self.edges.others;
        self.checks.is_in_grace(source, now)
            || !others.is_decided(source, now.into_std())
            || others.is_isolated(now.into_std())
            || (!is_silent && others.is_shared(source))
            || others.is_live_elsewhere(source, now.into_std())
    }

    fn is_pending(&self, source: &Source, now: Instant) -> bool {
        self.checks.is_pending(source, now) || !self.edges.others.is_decided(source, now.into_std())
    }
}

/// Why open markets are suspended.
#[derive(Clone, Copy)]
pub(super) enum Cause {
    /// A connection ended amid a message.
    Loss(&'static str),
    /// Any other: silence, a recovery without end, or the start of this process.
    Unvouched,
}

impl SupplierFeed {
    /// Records that the supplier vouches for its prices, and opens what was suspended only because
    /// it was silent.
    pub(super) fn on_live(&mut self, was_stale: bool) {
        self.sources.vouched_at = Timestamp::now();
        if !was_stale {
            return;
        }
        let opened = self.decoder.on_resumed();
        if !opened.is_empty() {
            info!(supplier = self.status.supplier.as_str(), markets = opened.len(); "markets opened again: the supplier was silent, but its connection lost nothing");
            self.gathered.updates.extend(opened);
        }
    }

    /// Suspends the open markets that nobody vouches for.
    pub(super) fn suspend_unvouched(&mut self, cause: Cause) {
        let now = Instant::now();
        let sources = &self.sources;
        let is_silent = self.timers.is_stale();
        let suspended = self
            .decoder
            .suspend_unvouched(&|source| sources.is_spared(source, is_silent, now));
        if suspended.is_empty() {
            return;
        }
        self.log_suspended(cause, suspended.len());
        let unvouched = suspended.iter().map(MarketRevision::of);
        self.gathered.unvouched.extend(unvouched);
        self.gathered.updates.extend(suspended);
    }

    fn log_suspended(&self, cause: Cause, markets: usize) {
        let supplier = self.status.supplier.as_str();
        let metrics = &self.metrics;
        match cause {
            Cause::Loss(reason) => {
                metrics.suspended_after_loss.inc_by(markets as u64);
                warn!(supplier, reason, markets; "markets suspended: changes are missing");
            }
            Cause::Unvouched if self.timers.is_stale() => {
                metrics.suspended_as_stale.inc_by(markets as u64);
                warn!(supplier, markets; "markets suspended: nothing readable received for {:?}", self.settings.supplier_stale_after);
            }
            Cause::Unvouched => {
                metrics.suspended_unsent.inc_by(markets as u64);
                warn!(supplier, markets; "markets suspended: the supplier has not sent them since it was connected");
            }
        }
    }

    /// Follows the states of the sources: checks new ones, ends a recovery that takes too long, and
    /// reports every source.
    pub(super) fn watch_sources(&mut self, context: &mut Context<Self>) {
        let now = Instant::now();
        let heard = self.decoder.sources();
        for (source, _) in &heard {
            self.sources
                .edges
                .others
                .heard_by(&self.sources.reporter, source);
        }
        self.limit_recovery(&heard, now);
        let checked: Vec<_> = heard
            .iter()
            .filter(|(_, state)| *state != SourceState::Recovering)
            .map(|(source, _)| source.clone())
            .collect();
        self.sources.checks.heard(&checked, now);
        for source in self.sources.checks.due(now) {
            self.read_store(source, context);
        }
        let states = heard
            .into_iter()
            .map(|(source, state)| self.state_of(source, state, now))
            .collect();
        self.report(states, now);
    }

    fn state_of(
        &self,
        source: Source,
        decoded: SourceState,
        now: Instant,
    ) -> (Source, SourceState) {
        let is_recovering = decoded == SourceState::Live && self.sources.is_pending(&source, now);
        let state = if self.timers.is_stale() {
            SourceState::Stale
        } else if is_recovering {
            SourceState::Recovering
        } else {
            decoded
        };
        (source, state)
    }

    fn report(&mut self, states: Vec<(Source, SourceState)>, now: Instant) {
        if states.is_empty() {
            return;
        }
        let is_changed = states != self.sources.reported;
        if !is_changed && now < self.sources.report_at {
            return;
        }
        let message = SourcesHeard {
            reporter: self.sources.reporter.clone(),
            sources: states.clone(),
            at: self.sources.vouched_at,
        };
        // A full mailbox is no fault: the next check reports again.
        if self.sources.edges.reporter.try_send(message).is_err() {
            return;
        }
        if is_changed {
            self.log_states(&states);
        }
        self.sources.report_at = now + REPORT_INTERVAL;
        self.sources.reported = states;
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
            self.suspend_unvouched(Cause::Unvouched);
        }
    }

    /// Reads the open markets of a source from the database.
    fn read_store(&mut self, source: Source, context: &mut Context<Self>) {
        let Some(store) = self.sources.edges.store.clone() else {
            return;
        };
        let of = source.clone();
        let reading = blocking(move || open_markets(&*store, &of));
        context.spawn(reading.into_actor(self).map(move |read, feed, context| {
            feed.on_stored(&source, read);
            feed.suspend_unvouched(Cause::Unvouched);
            feed.watch_sources(context);
            feed.publish_gathered(Duration::ZERO, context);
        }));
    }

    fn on_stored(&mut self, source: &Source, read: Result<Vec<OddsUpdate>, StoreError>) {
        let now = Instant::now();
        match read {
            Ok(stored) => {
                let is_shared = self.sources.edges.others.is_shared(source);
                let new = if is_shared {
                    0
                } else {
                    self.decoder.add_stored(stored)
                };
                self.sources.checks.succeeded(source, new, now);
                if self.sources.store_log.recovered() {
                    info!("the open markets of the source {source} are read again");
                }
            }
            Err(failure) => {
                self.metrics.store_checks_failed.inc();
                self.sources.checks.failed(source, now);
                if let Some(repeated) = self.sources.store_log.failed("read") {
                    warn!(repeated; "cannot read the open markets of the source {source}, which are shown as stale until then: {failure}");
                }
            }
        }
    }
}

/// The open markets of a source.
fn open_markets(store: &dyn Store, source: &Source) -> Result<Vec<OddsUpdate>, StoreError> {
    let mut query = OpenMarketsQuery {
        source: source.clone(),
        after: None,
        limit: PAGE,
    };
    let mut markets: Vec<OddsUpdate> = Vec::new();
    while markets.len() < MAX_MARKETS {
        let page = store.open_markets(&query)?;
        let Some(last) = page.last() else { break };
        query.after = Some((last.event_id.clone(), last.market.clone()));
        markets.extend(page);
    }
    Ok(markets)
}
