//! One actor per supplier: maintains the connection, decodes its frames, and sends the result to
//! the bus publisher.
//!
//! While the bus is full the feed reads nothing, so TCP applies backpressure to the supplier and
//! nothing is dropped. Several batches are on their way to the bus at a time. Frames that arrive
//! together are published as one batch, and a dense stream gathers for a moment before the next
//! one: a request to the bus per frame would limit a fast supplier.

mod bus_recipients;
mod connection_status;
mod frames;
mod publish_plan;
mod reconnects;
mod refusal_log;
mod repetitions;
mod source_clocks;
mod sources;
mod store_checks;
mod stored_markets;
mod timers;

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use log::{info, warn};
use tokio::sync::mpsc;
use tokio::time::Instant;

use self::bus_recipients::BusRecipients;
pub(crate) use self::bus_recipients::FeedPublishers;
pub(crate) use self::connection_status::SupplierConnection;
use self::publish_plan::{PublishPlan, gathering_after};
use self::reconnects::Reconnects;
use self::refusal_log::RefusalLog;
pub(crate) use self::sources::SourceEdges;
use self::sources::{Cause, FeedSources};
use self::timers::{FeedTimers, Timeouts};
use super::messages::{LeaveSupplier, Publish};
use crate::config::endpoint::Endpoint;
use crate::config::settings::SupplierSettings;
use crate::domain::odds::update::OddsUpdate;
use crate::runtime::backoff::BackoffPolicy;
use crate::supplier::frame_batch::{FrameBatch, batches};
use crate::supplier::transport::{self, Connection, Outbound, TransportError};
use crate::supplier::{Decoder, MarketRevision};
use crate::telemetry::log_limit::FaultLog;
use crate::telemetry::metrics::IngestMetrics;

/// Number of deadline checks per ping interval or read timeout, whichever is shorter.
const CHECKS_PER_TIMEOUT: u32 = 4;
/// The actor of one supplier.
pub(crate) struct SupplierFeed {
    endpoint: Endpoint,
    settings: SupplierSettings,
    decoder: Box<dyn Decoder>,
    bus: BusRecipients,
    /// How long a dense stream gathers before the next publish.
    gathering: Duration,
    status: Arc<SupplierConnection>,
    reconnects: Reconnects,
    timers: FeedTimers,
    link: Option<Link>,
    /// Whether the feed has never been connected.
    is_new: bool,
    log: FaultLog,
    refusal_log: RefusalLog,
    sources: FeedSources,
    /// The content of the current frames, to be published as one batch.
    gathered: Publish,
    metrics: IngestMetrics,
}

/// An open connection.
struct Link {
    stream: SpawnHandle,
    outbound: mpsc::Sender<Outbound>,
}

impl SupplierFeed {
    /// Reads `endpoint`, and sends its content to the publishers.
    pub(crate) fn new(
        endpoint: Endpoint,
        settings: SupplierSettings,
        publishers: FeedPublishers,
        gathering: Duration,
        sources: SourceEdges,
        metrics: IngestMetrics,
    ) -> SupplierFeed {
        let policy = BackoffPolicy {
            first: settings.supplier_reconnect_min,
            most: settings.supplier_reconnect_max,
        };
        let is_native = matches!(endpoint, Endpoint::Native(_));
        let timeouts = Timeouts {
            stale_after: settings.supplier_stale_after,
            read_timeout: settings.supplier_read_timeout,
            ping_interval: is_native.then_some(settings.supplier_ping_interval),
        };
        // Random, so that two feeds whose suppliers fail at the same time do not retry in step.
        let seed = fastrand::u64(..);
        SupplierFeed {
            decoder: endpoint.decoder(&settings),
            status: SupplierConnection::new(endpoint.to_string()),
            endpoint,
            settings,
            bus: BusRecipients::new(publishers, metrics.publisher_depth.clone()),
            gathering,
            reconnects: Reconnects::new(policy, seed),
            timers: FeedTimers::new(timeouts, Instant::now()),
            link: None,
            is_new: true,
            log: FaultLog::new(),
            refusal_log: RefusalLog::default(),
            sources: FeedSources::new(sources, timeouts.stale_after),
            gathered: Publish::default(),
            metrics,
        }
    }

    /// The connection state of the supplier, readable from other threads.
    pub(crate) fn status(&self) -> Arc<SupplierConnection> {
        self.status.clone()
    }

    fn connect(&mut self, context: &mut Context<Self>) {
        let endpoint = self.endpoint.clone();
        let settings = self.settings.clone();
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
        self.status.set_connected(true);
        let stream = context.add_stream(batches(connection.inbound));
        self.open_link(stream, connection.outbound);
        let greetings = self.decoder.on_connected();
        self.send_all(greetings, context);
    }

    fn open_link(&mut self, stream: SpawnHandle, outbound: mpsc::Sender<Outbound>) {
        let now = Instant::now();
        self.timers.connected(now);
        self.reconnects.connected(now);
        self.link = Some(Link { stream, outbound });
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
        self.timers.disconnected();
        self.reconnects.disconnected(Instant::now());
        self.metrics.suppliers_connected.dec();
        self.status.set_connected(false);
        self.decoder
            .record_loss(reason == TransportError::FrameTooLarge(0).reason());
        self.suspend_unconfirmed(Cause::Loss(reason));
        self.schedule_reconnect(reason, cause, context);
    }

    /// Disconnects after a failed publish: the decoder assumes that the lost updates were
    /// published.
    fn disconnect_unpublished(
        &mut self,
        cause: &dyn std::fmt::Display,
        context: &mut Context<Self>,
    ) {
        let suspended = self.decoder.on_unpublished();
        self.gather_unconfirmed(suspended);
        self.disconnect("bus", cause, context);
    }

    /// Gathers the suspensions of markets that no source confirms.
    fn gather_unconfirmed(&mut self, suspended: Vec<OddsUpdate>) {
        let unconfirmed = suspended.iter().map(MarketRevision::of);
        self.gathered.unconfirmed.extend(unconfirmed);
        self.gathered.updates.extend(suspended);
    }

    fn schedule_reconnect(
        &mut self,
        reason: &'static str,
        cause: &dyn std::fmt::Display,
        context: &mut Context<Self>,
    ) {
        self.metrics.disconnects.with_label_values(&[reason]).inc();
        let delay = self.reconnects.next_delay();
        let supplier = self.status.supplier.as_str();
        // A supplier that accepts and closes connections would fill the log.
        if let Some(repeated) = self.log.failed(reason) {
            let failures = self.reconnects.failures();
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

    fn check_deadlines(&mut self, context: &mut Context<Self>) {
        let now = Instant::now();
        if self.timers.become_stale(now) {
            self.decoder.record_silence();
        }
        self.check_source_clocks(now);
        self.suspend_unconfirmed(Cause::Unconfirmed);
        if let Some(refusals) = self.timers.end_unnamed_period(now) {
            self.suspend_after_refusals(refusals);
        }
        if self.timers.is_silent(now) {
            let cause = format!(
                "nothing received for {:?}",
                self.settings.supplier_read_timeout
            );
            return self.disconnect("silent", &cause, context);
        }
        if self.timers.ping_due(now) {
            self.send(Outbound::Ping, context);
        }
    }

    fn publish_gathered(&mut self, gathering: Duration, context: &mut Context<Self>) {
        let gathered = std::mem::take(&mut self.gathered);
        self.publish(gathered, gathering, context);
    }

    /// Publishes a message; reads nothing until another one may be sent and `gathering` has passed.
    fn publish(&mut self, message: Publish, gathering: Duration, context: &mut Context<Self>) {
        let checked = self.sources.checks.publishing();
        let Some(plan) = PublishPlan::new(message) else {
            return self.sources.checks.published(&checked);
        };
        let is_readable = plan.is_readable;
        let repeat_if_refused = plan.repeat_if_refused;
        let publishing = self.bus.send(plan.batch);
        context.spawn(
            publishing
                .into_actor(self)
                .map(move |published, feed, context| match published {
                    Ok(()) => {
                        feed.reconnects.published(is_readable);
                        feed.sources.checks.published(&checked);
                        feed.watch_sources(context);
                    }
                    Err(error) => {
                        feed.sources.checks.refused(&checked);
                        feed.gathered.extend(repeat_if_refused);
                        feed.disconnect_unpublished(&error, context);
                    }
                }),
        );
        let room = self.bus.room();
        let waiting = async move {
            tokio::time::sleep(gathering).await;
            room.await;
        };
        if gathering.is_zero() && self.bus.has_room() {
            return;
        }
        let started = Instant::now();
        // Pauses the stream as well: nothing is read while the bus is full.
        context.wait(waiting.into_actor(self).map(move |(), feed, _| {
            feed.timers.exclude_wait(started.elapsed());
            feed.sources.exclude_wait(started.elapsed());
        }));
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
            feed.watch_sources(context);
            feed.publish_gathered(Duration::ZERO, context);
        });
    }
}

impl StreamHandler<FrameBatch> for SupplierFeed {
    fn handle(&mut self, items: FrameBatch, context: &mut Context<Self>) {
        let gathering = gathering_after(items.len(), self.gathering);
        for item in items {
            // The next connection repeats everything after the frame that ended this one.
            if self.link.is_none() {
                break;
            }
            self.on_item(item, context);
        }
        self.watch_sources(context);
        self.publish_gathered(gathering, context);
    }

    // The default stops the actor; a feed reconnects instead.
    fn finished(&mut self, context: &mut Context<Self>) {
        self.disconnect("closed", &"the supplier closed the connection", context);
        self.publish_gathered(Duration::ZERO, context);
    }
}

impl Handler<LeaveSupplier> for SupplierFeed {
    // Atomic: nothing more is published until then, also not by a timer.
    type Result = AtomicResponse<Self, ()>;

    fn handle(&mut self, _: LeaveSupplier, context: &mut Context<Self>) -> Self::Result {
        if let Some(link) = self.link.take() {
            context.cancel_future(link.stream);
            self.metrics.suppliers_connected.dec();
        }
        self.status.set_connected(false);
        let publishing = self.bus.all_published().into_actor(self);
        AtomicResponse::new(Box::pin(publishing.map(|(), _, context| context.stop())))
    }
}

#[cfg(test)]
mod tests;
