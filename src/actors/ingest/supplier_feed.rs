//! One actor per supplier: maintains the connection, decodes its frames, and sends the result to
//! the bus publisher.
//!
//! While the bus is full the feed reads nothing, so TCP applies backpressure to the supplier and
//! nothing is dropped. Frames that arrive while a publish is in flight are published as one batch:
//! one round trip to the bus per frame would limit a fast supplier. If round trips are slow, a
//! dense stream gathers for a moment before the next one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use actix::prelude::*;
use bytes::Bytes;
use log::{info, warn};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::messages::{LeaveSupplier, Publish};
use crate::bus::BusError;
use crate::config::endpoint::Endpoint;
use crate::config::settings::SupplierSettings;
use crate::domain::dead_letter::DeadLetter;
use crate::domain::odds::plausible::Plausibility;
use crate::domain::odds::status::MarketStatus;
use crate::domain::odds::update::OddsUpdate;
use crate::domain::timestamp::Timestamp;
use crate::runtime::backoff::{Backoff, BackoffPolicy};
use crate::supplier::frame_batch::{self, FrameBatch, batches};
use crate::supplier::transport::{self, Connection, Inbound, Outbound, TransportError};
use crate::supplier::{Decoded, Decoder, FrameFault, Refused};
use crate::telemetry::log_limit::FaultLog;
use crate::telemetry::metrics::IngestMetrics;

/// Minimum time between two log lines about rejected frames. The next line reports how many were
/// suppressed.
const REFUSAL_LOG_INTERVAL: Duration = Duration::from_secs(60);
/// Number of deadline checks per ping interval or read timeout, whichever is shorter.
const CHECKS_PER_TIMEOUT: u32 = 4;
/// A stream is dense if this many frames arrive during one round trip to the bus.
const DENSE_BATCH: usize = 20;

/// The connection state of a supplier, for the readiness check.
#[derive(Debug)]
pub struct SupplierConnection {
    /// The supplier's address, without credentials.
    pub supplier: String,
    connected: AtomicBool,
}

impl SupplierConnection {
    /// Whether the supplier is connected and alive.
    pub fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }
}

/// The actor of one supplier.
pub struct SupplierFeed {
    endpoint: Endpoint,
    settings: SupplierSettings,
    decoder: Box<dyn Decoder>,
    publisher: Recipient<Publish>,
    dead_letters: Recipient<Publish>,
    /// How long a dense stream gathers before the next publish.
    gathering: Duration,
    status: Arc<SupplierConnection>,
    backoff: Backoff,
    link: Option<Link>,
    /// When the supplier last sent anything readable, on this connection or an earlier one.
    last_live: Instant,
    /// Whether the markets have been suspended since then.
    is_marked_stale: bool,
    /// Rejected updates that could concern any market: when the first arrived, and the count.
    unnamed: Option<(Instant, u64)>,
    /// The part of that count whose markets have been suspended.
    unnamed_handled: u64,
    /// Whether the feed has never been connected.
    is_new: bool,
    log: FaultLog,
    refusal_logged: Option<Instant>,
    refusals_suppressed: u64,
    /// The content of the current frames, to be published as one batch.
    gathered: Publish,
    metrics: IngestMetrics,
}

/// An open connection.
struct Link {
    since: Instant,
    stream: SpawnHandle,
    outbound: mpsc::Sender<Outbound>,
    last_heard: Instant,
    last_ping: Instant,
}

impl SupplierFeed {
    /// Reads `endpoint`, sends updates to `publisher` and undecodable frames to `dead_letters`.
    /// There are two recipients, so that a full one blocks only the feeds that need it.
    pub fn new(
        endpoint: Endpoint,
        settings: SupplierSettings,
        publisher: Recipient<Publish>,
        dead_letters: Recipient<Publish>,
        gathering: Duration,
        metrics: IngestMetrics,
    ) -> SupplierFeed {
        let policy = BackoffPolicy {
            first: settings.supplier_reconnect_min,
            most: settings.supplier_reconnect_max,
        };
        // Random, so that two feeds whose suppliers fail at the same time do not retry in step.
        let seed = fastrand::u64(..);
        SupplierFeed {
            decoder: endpoint.decoder(&settings),
            status: Arc::new(SupplierConnection {
                supplier: endpoint.to_string(),
                connected: AtomicBool::new(false),
            }),
            endpoint,
            settings,
            publisher,
            dead_letters,
            gathering,
            backoff: Backoff::new(policy, seed),
            link: None,
            last_live: Instant::now(),
            is_marked_stale: false,
            unnamed: None,
            unnamed_handled: 0,
            is_new: true,
            log: FaultLog::new(),
            refusal_logged: None,
            refusals_suppressed: 0,
            gathered: Publish::default(),
            metrics,
        }
    }

    /// The connection state of the supplier, readable from other threads.
    pub fn status(&self) -> Arc<SupplierConnection> {
        self.status.clone()
    }

    fn connect(&mut self, context: &mut Context<Self>) {
        let (endpoint, settings) = (self.endpoint.clone(), self.settings.clone());
        let connecting = async move { transport::connect(&endpoint, &settings).await };
        context.spawn(connecting.into_actor(self).map(
            |connected, feed, context| match connected {
                Ok(connection) => feed.attach(connection, context),
                Err(error) => feed.schedule_reconnect(error.reason(), &error, context),
            },
        ));
    }

    fn attach(&mut self, connection: Connection, context: &mut Context<Self>) {
        if self.log.recovered() || std::mem::take(&mut self.is_new) {
            info!(supplier = self.status.supplier.as_str(); "supplier connected");
        }
        self.metrics.connects.inc();
        self.metrics.suppliers_connected.inc();
        self.status.connected.store(true, Ordering::Relaxed);
        let now = Instant::now();
        let stream = context.add_stream(batches(connection.inbound));
        self.link = Some(Link {
            since: now,
            stream,
            outbound: connection.outbound,
            last_heard: now,
            last_ping: now,
        });
        let greetings = self.decoder.on_connected();
        self.send_all(greetings, context);
    }

    /// Drops the connection and schedules a reconnect.
    fn disconnect(
        &mut self,
        reason: &'static str,
        cause: &dyn std::fmt::Display,
        context: &mut Context<Self>,
    ) {
        let Some(link) = self.link.take() else { return };
        context.cancel_future(link.stream);
        if link.since.elapsed() > self.settings.supplier_reconnect_max {
            // The connection lasted, even if it was quiet: start a new sequence of failures.
            self.backoff.reset();
        }
        self.metrics.suppliers_connected.dec();
        self.status.connected.store(false, Ordering::Relaxed);
        let suspended = self
            .decoder
            .on_lost(reason == TransportError::FrameTooLarge(0).reason());
        if !suspended.is_empty() {
            self.metrics
                .suspended_after_loss
                .inc_by(suspended.len() as u64);
            warn!(supplier = self.status.supplier.as_str(), reason, markets = suspended.len(); "markets suspended: changes are missing");
            self.gathered.updates.extend(suspended);
        }
        self.schedule_reconnect(reason, cause, context);
    }

    /// Disconnects after a failed publish: the decoder assumes that the lost updates were
    /// published.
    fn disconnect_unpublished(
        &mut self,
        cause: &dyn std::fmt::Display,
        context: &mut Context<Self>,
    ) {
        self.gathered.updates.extend(self.decoder.on_unpublished());
        self.disconnect("bus", cause, context);
    }

    fn schedule_reconnect(
        &mut self,
        reason: &'static str,
        cause: &dyn std::fmt::Display,
        context: &mut Context<Self>,
    ) {
        self.metrics.disconnects.with_label_values(&[reason]).inc();
        let delay = self.backoff.next_delay();
        let supplier = self.status.supplier.as_str();
        // A supplier that accepts and closes connections would fill the log.
        if let Some(repeated) = self.log.failed(reason) {
            let failures = self.backoff.failures();
            warn!(supplier, reason, failures, repeated; "supplier not connected, retrying in {delay:?}: {cause}");
        }
        context.run_later(delay, |feed, context| feed.connect(context));
    }

    fn send_all(&mut self, texts: Vec<String>, context: &mut Context<Self>) {
        for text in texts {
            self.send(Outbound::Text(text), context);
        }
    }

    fn send(&mut self, message: Outbound, context: &mut Context<Self>) {
        let Some(link) = &self.link else { return };
        if let Err(error) = link.outbound.try_send(message) {
            self.disconnect("write", &error, context);
        }
    }

    /// Records that the connection carries data.
    fn record_activity(&mut self) {
        if let Some(link) = &mut self.link {
            link.last_heard = Instant::now();
        }
    }

    /// Records that the supplier sent something readable or replied: its prices are live.
    fn mark_live(&mut self) {
        self.last_live = Instant::now();
        self.is_marked_stale = false;
    }

    /// Excludes time that the feed spent waiting for the bus from the supplier's silence.
    fn exclude_wait(&mut self, wait: Duration) {
        self.last_live += wait;
        if let Some((since, _)) = &mut self.unnamed {
            *since += wait;
        }
        if let Some(link) = &mut self.link {
            link.last_heard += wait;
        }
    }

    fn check_deadlines(&mut self, context: &mut Context<Self>) {
        let now = Instant::now();
        if !self.is_marked_stale
            && now.duration_since(self.last_live) >= self.settings.supplier_stale_after
        {
            self.is_marked_stale = true;
            self.suspend_markets(context);
        }
        if let Some((since, refusals)) = self.unnamed
            && now.duration_since(since) >= self.settings.supplier_stale_after
        {
            self.suspend_unconfirmed(refusals);
        }
        let Some(link) = &mut self.link else { return };
        if now.duration_since(link.last_heard) >= self.settings.supplier_read_timeout {
            let cause = format!(
                "nothing received for {:?}",
                self.settings.supplier_read_timeout
            );
            return self.disconnect("silent", &cause, context);
        }
        let is_native = matches!(self.endpoint, Endpoint::Native(_));
        if is_native && now.duration_since(link.last_ping) >= self.settings.supplier_ping_interval {
            link.last_ping = now;
            self.send(Outbound::Ping, context);
        }
    }

    fn on_item(&mut self, item: Result<Inbound, TransportError>, context: &mut Context<Self>) {
        match item {
            Ok(Inbound::Frame(frame)) => {
                self.record_activity();
                self.on_frame(frame, context);
            }
            Ok(Inbound::Alive) => {
                // A supplier without news is alive as long as it replies.
                self.record_activity();
                self.mark_live();
            }
            Err(error) => self.disconnect(error.reason(), &error, context),
        }
    }

    /// If the frame may have concerned any market, starts the period in which each open market must
    /// be updated again.
    fn start_unnamed_timer(&mut self) {
        let refusals = self.decoder.unnamed_refusals();
        if self.unnamed.is_none() && refusals > self.unnamed_handled {
            self.unnamed = Some((Instant::now(), refusals));
        }
    }

    fn suspend_unconfirmed(&mut self, refusals: u64) {
        self.unnamed = None;
        self.unnamed_handled = refusals;
        let suspended = self.decoder.suspend_unconfirmed(refusals);
        if !suspended.is_empty() {
            self.metrics
                .suspended_as_stale
                .inc_by(suspended.len() as u64);
            warn!(supplier = self.status.supplier.as_str(), markets = suspended.len(); "markets suspended: an update without an event could not be decoded, and these were not updated for {:?}", self.settings.supplier_stale_after);
            self.gathered.updates.extend(suspended);
        }
        self.start_unnamed_timer();
    }

    fn on_frame(&mut self, frame: Bytes, context: &mut Context<Self>) {
        self.metrics.frames.inc();
        let limits = Plausibility::within(self.settings.supplier_max_clock_skew);
        self.decoder.refuse_after(limits.latest(Timestamp::now()));
        match self.decoder.on_frame(&frame) {
            Ok(decoded) => {
                self.mark_live();
                self.start_unnamed_timer();
                self.gather(decoded, frame, context);
            }
            Err(FrameFault::Unreadable { reason, detail }) => {
                let refused = vec![Refused {
                    reason,
                    detail: detail.clone(),
                }];
                self.gather(
                    Decoded {
                        refused,
                        ..Decoded::default()
                    },
                    frame,
                    context,
                );
                // A delta stream has a gap now; the next connection starts with a full image.
                self.disconnect("unreadable", &detail, context);
            }
            Err(FrameFault::Refused { reason, detail }) => {
                self.disconnect(reason, &detail, context)
            }
        }
    }

    fn gather(&mut self, decoded: Decoded, frame: Bytes, context: &mut Context<Self>) {
        let Decoded {
            updates,
            send,
            refused,
        } = decoded;
        self.send_all(send, context);
        let dead_letters: Vec<_> = refused
            .iter()
            .map(|refused| self.dead_letter(refused, &frame))
            .collect();
        self.gathered.updates.extend(updates);
        self.gathered.dead_letters.extend(dead_letters);
        if let Some(first) = refused.first() {
            self.log_refusal(first, refused.len() as u64);
        }
    }

    /// How long to gather after a batch of `frames`. Small batches are not delayed, and neither are
    /// full ones, which a backlog causes: they cannot grow further.
    fn gathering_after(&self, frames: usize) -> Duration {
        if (DENSE_BATCH..frame_batch::MAX_FRAMES).contains(&frames) {
            self.gathering
        } else {
            Duration::ZERO
        }
    }

    /// Suspends the supplier's markets, so that stale prices do not look live.
    fn suspend_markets(&mut self, context: &mut Context<Self>) {
        let suspended = self.decoder.on_stale();
        if suspended.is_empty() {
            return;
        }
        let supplier = self.status.supplier.as_str();
        warn!(supplier, markets = suspended.len(); "markets suspended: nothing received for {:?}", self.settings.supplier_stale_after);
        self.metrics
            .suspended_as_stale
            .inc_by(suspended.len() as u64);
        self.publish(
            Publish {
                updates: suspended,
                dead_letters: Vec::new(),
            },
            Duration::ZERO,
            context,
        );
    }

    fn publish_gathered(&mut self, gathering: Duration, context: &mut Context<Self>) {
        let gathered = std::mem::take(&mut self.gathered);
        self.publish(gathered, gathering, context);
    }

    /// Publishes a message; reads nothing until the reply has arrived and `gathering` has passed.
    fn publish(&mut self, message: Publish, gathering: Duration, context: &mut Context<Self>) {
        let Publish {
            updates,
            dead_letters,
        } = message;
        if updates.is_empty() && dead_letters.is_empty() {
            return;
        }
        let is_good = dead_letters.is_empty();
        // The supplier does not repeat a suspension, and decoders do not track closed markets.
        let not_open: Vec<OddsUpdate> = updates
            .iter()
            .filter(|update| update.status != MarketStatus::Open)
            .cloned()
            .collect();
        let keeping = self.publish_part(
            &self.dead_letters,
            Publish {
                updates: Vec::new(),
                dead_letters,
            },
        );
        let publishing = self.publish_part(
            &self.publisher,
            Publish {
                updates,
                dead_letters: Vec::new(),
            },
        );
        let publishing = async move {
            let published = keeping.await.and(publishing.await);
            if !gathering.is_zero() {
                tokio::time::sleep(gathering).await;
            }
            published
        };
        let started = Instant::now();
        // Pauses the stream as well: nothing is read while the bus is full.
        context.wait(
            publishing
                .into_actor(self)
                .map(move |published, feed, context| {
                    feed.exclude_wait(started.elapsed());
                    match published {
                        // Reset only now: if the bus rejects updates permanently, the supplier must
                        // not be reconnected without delay.
                        Ok(()) if is_good => feed.backoff.reset(),
                        Ok(()) => {}
                        Err(error) => {
                            feed.gathered.updates.extend(not_open);
                            feed.disconnect_unpublished(&error, context);
                        }
                    }
                }),
        );
    }

    /// Sends a message unless it is empty. The receiver decrements `publisher_depth`.
    fn publish_part(
        &self,
        to: &Recipient<Publish>,
        message: Publish,
    ) -> impl Future<Output = Result<(), BusError>> + use<> {
        let is_empty = message.updates.is_empty() && message.dead_letters.is_empty();
        let depth = self.metrics.publisher_depth.clone();
        let sending = (!is_empty).then(|| {
            depth.inc();
            to.send(message)
        });
        async move {
            let Some(sending) = sending else {
                return Ok(());
            };
            sending.await.unwrap_or_else(|error| {
                depth.dec();
                Err(BusError::Unreachable(error.to_string()))
            })
        }
    }

    fn dead_letter(&self, refused: &Refused, frame: &Bytes) -> DeadLetter {
        self.metrics
            .refused
            .with_label_values(&[refused.reason])
            .inc();
        DeadLetter {
            received_at: Timestamp::now(),
            origin: self.status.supplier.clone(),
            reason: refused.reason.to_owned(),
            detail: refused.detail.clone(),
            raw: frame.clone(),
        }
    }

    fn log_refusal(&mut self, refused: &Refused, count: u64) {
        let now = Instant::now();
        if self
            .refusal_logged
            .is_some_and(|last| now.duration_since(last) < REFUSAL_LOG_INTERVAL)
        {
            self.refusals_suppressed += count;
            return;
        }
        self.refusal_logged = Some(now);
        let held_back = std::mem::take(&mut self.refusals_suppressed);
        warn!(supplier = self.status.supplier.as_str(), reason = refused.reason, held_back; "frame refused and sent to dead letters: {}", refused.detail);
    }
}

impl Actor for SupplierFeed {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        self.connect(context);
        let shortest = self
            .settings
            .supplier_ping_interval
            .min(self.settings.supplier_read_timeout);
        context.run_interval(shortest / CHECKS_PER_TIMEOUT, |feed, context| {
            feed.check_deadlines(context);
            feed.publish_gathered(Duration::ZERO, context);
        });
    }
}

impl StreamHandler<FrameBatch> for SupplierFeed {
    fn handle(&mut self, items: FrameBatch, context: &mut Context<Self>) {
        let gathering = self.gathering_after(items.len());
        for item in items {
            // The next connection repeats everything after the frame that ended this one.
            if self.link.is_none() {
                break;
            }
            self.on_item(item, context);
        }
        self.publish_gathered(gathering, context);
    }

    // The default stops the actor; a feed reconnects instead.
    fn finished(&mut self, context: &mut Context<Self>) {
        self.disconnect("closed", &"the supplier closed the connection", context);
        self.publish_gathered(Duration::ZERO, context);
    }
}

impl Handler<LeaveSupplier> for SupplierFeed {
    type Result = ();

    fn handle(&mut self, _: LeaveSupplier, context: &mut Context<Self>) {
        if self.link.take().is_some() {
            self.metrics.suppliers_connected.dec();
        }
        self.status.connected.store(false, Ordering::Relaxed);
        context.stop();
    }
}

#[cfg(test)]
mod tests;
