//! One actor a supplier: keeps the connection, reads its frames, and hands what they hold to the
//! bus publisher.
//!
//! While the bus is full the feed reads nothing, so that the supplier is held back by TCP and
//! nothing is dropped. What came in while it waited is handed over together: a way to the bus and
//! back for each frame would be the limit of a fast supplier. Where that way is long, a dense
//! stream is given a moment to gather before the next one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use actix::prelude::*;
use bytes::Bytes;
use log::{info, warn};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::actors::ingest::messages::{LeaveSupplier, Publish};
use crate::bus::BusError;
use crate::config::endpoint::Endpoint;
use crate::config::settings::SupplierSettings;
use crate::domain::dead_letter::DeadLetter;
use crate::domain::odds::plausible::Plausibility;
use crate::domain::timestamp::Timestamp;
use crate::runtime::backoff::{Backoff, BackoffPolicy};
use crate::supplier::frame_batch::{self, FrameBatch, batches};
use crate::supplier::transport::{self, Connection, Inbound, Outbound, TransportError};
use crate::supplier::{Decoded, Decoder, FrameFault, Refused};
use crate::telemetry::log_limit::FaultLog;
use crate::telemetry::metrics::IngestMetrics;

/// A refused frame is logged at most this often, with how many were held back.
const REFUSAL_LOG_INTERVAL: Duration = Duration::from_secs(60);
/// The feed looks at its deadlines this often within a ping interval or a read timeout.
const CHECKS_PER_TIMEOUT: u32 = 4;
/// A stream is dense when so many frames come in during one way to the bus and back.
const DENSE: usize = 20;

/// Whether a supplier is connected, for readiness.
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
    /// How long a dense stream gathers before the next way to the bus.
    gathering: Duration,
    status: Arc<SupplierConnection>,
    backoff: Backoff,
    link: Option<Link>,
    /// When the supplier last said anything, on this connection or one before.
    last_word: Instant,
    /// Whether its markets have been suspended since.
    told_stale: bool,
    /// Refused updates that may have been about any market: since when, and how many.
    unnamed: Option<(Instant, u64)>,
    /// How many of them have had their markets suspended.
    unnamed_handled: u64,
    /// Whether it was never connected.
    is_new: bool,
    log: FaultLog,
    refusal_logged: Option<Instant>,
    refusals_held_back: u64,
    /// What the frames at hand held, to be published together.
    gathered: Publish,
    metrics: IngestMetrics,
}

/// A connection that stands.
struct Link {
    since: Instant,
    stream: SpawnHandle,
    outbound: mpsc::Sender<Outbound>,
    last_heard: Instant,
    last_ping: Instant,
}

impl SupplierFeed {
    /// Reads `endpoint`, hands updates to `publisher`, and what cannot be read to `dead_letters`:
    /// two ways, so that a full one holds up only the feeds that need it.
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
        // Two feeds that lose their suppliers in one moment must not come back in step.
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
            last_word: Instant::now(),
            told_stale: false,
            unnamed: None,
            unnamed_handled: 0,
            is_new: true,
            log: FaultLog::new(),
            refusal_logged: None,
            refusals_held_back: 0,
            gathered: Publish::default(),
            metrics,
        }
    }

    /// Tells from outside whether the supplier is connected.
    pub fn status(&self) -> Arc<SupplierConnection> {
        self.status.clone()
    }

    fn connect(&mut self, context: &mut Context<Self>) {
        let (endpoint, settings) = (self.endpoint.clone(), self.settings.clone());
        let connecting = async move { transport::connect(&endpoint, &settings).await };
        context.spawn(connecting.into_actor(self).map(
            |connected, feed, context| match connected {
                Ok(connection) => feed.take_up(connection, context),
                Err(error) => feed.try_again(error.reason(), &error, context),
            },
        ));
    }

    fn take_up(&mut self, connection: Connection, context: &mut Context<Self>) {
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

    /// Gives the connection up and tries again later.
    fn lose(
        &mut self,
        reason: &'static str,
        cause: &dyn std::fmt::Display,
        context: &mut Context<Self>,
    ) {
        let Some(link) = self.link.take() else { return };
        context.cancel_future(link.stream);
        if link.since.elapsed() > self.settings.supplier_reconnect_max {
            // It worked for a while, if quietly: this is a new row of failures.
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
        self.try_again(reason, cause, context);
    }

    /// The bus did not take what a frame held, but the decoder counts it as told.
    fn lose_unpublished(&mut self, cause: &dyn std::fmt::Display, context: &mut Context<Self>) {
        self.gathered.updates.extend(self.decoder.on_unpublished());
        self.lose("bus", cause, context);
    }

    fn try_again(
        &mut self,
        reason: &'static str,
        cause: &dyn std::fmt::Display,
        context: &mut Context<Self>,
    ) {
        self.metrics.disconnects.with_label_values(&[reason]).inc();
        let delay = self.backoff.next_delay();
        let supplier = self.status.supplier.as_str();
        // A supplier that accepts and hangs up does so again and again.
        if let Some(repeated) = self.log.failed(reason) {
            let failures = self.backoff.failures();
            warn!(supplier, reason, failures, repeated; "supplier not connected, next try in {delay:?}: {cause}");
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
            self.lose("write", &error, context);
        }
    }

    /// The connection carries something.
    fn heard(&mut self) {
        if let Some(link) = &mut self.link {
            link.last_heard = Instant::now();
        }
    }

    /// The supplier said something that could be read, or answered: its prices are live.
    fn take_for_live(&mut self) {
        self.last_word = Instant::now();
        self.told_stale = false;
    }

    /// A wait that was ours is not the supplier's silence.
    fn forgive(&mut self, wait: Duration) {
        self.last_word += wait;
        if let Some(link) = &mut self.link {
            link.last_heard += wait;
        }
    }

    fn look_at_deadlines(&mut self, context: &mut Context<Self>) {
        let now = Instant::now();
        if !self.told_stale
            && now.duration_since(self.last_word) >= self.settings.supplier_stale_after
        {
            self.told_stale = true;
            self.suspend_markets(context);
        }
        if let Some((since, refusals)) = self.unnamed
            && now.duration_since(since) >= self.settings.supplier_stale_after
        {
            self.suspend_unconfirmed(refusals);
        }
        let Some(link) = &mut self.link else { return };
        if now.duration_since(link.last_heard) >= self.settings.supplier_read_timeout {
            let cause = format!("nothing came for {:?}", self.settings.supplier_read_timeout);
            return self.lose("silent", &cause, context);
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
                self.heard();
                self.on_frame(frame, context);
            }
            Ok(Inbound::Alive) => {
                // A supplier with nothing to say is not gone while it answers.
                self.heard();
                self.take_for_live();
            }
            Err(error) => self.lose(error.reason(), &error, context),
        }
    }

    /// Starts the time within which each open market must be heard of again, if the frame may have
    /// been about any.
    fn note_unnamed(&mut self) {
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
            warn!(supplier = self.status.supplier.as_str(), markets = suspended.len(); "markets suspended: an update that names no event could not be read, and nothing came about them for {:?}", self.settings.supplier_stale_after);
            self.gathered.updates.extend(suspended);
        }
        self.note_unnamed();
    }

    fn on_frame(&mut self, frame: Bytes, context: &mut Context<Self>) {
        self.metrics.frames.inc();
        let limits = Plausibility::within(self.settings.supplier_max_clock_skew);
        self.decoder.refuse_after(limits.latest(Timestamp::now()));
        match self.decoder.on_frame(&frame) {
            Ok(decoded) => {
                self.take_for_live();
                self.note_unnamed();
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
                // A stream of differences has a gap now; the next connection begins with a whole
                // image.
                self.lose("unreadable", &detail, context);
            }
            Err(FrameFault::Refused { reason, detail }) => self.lose(reason, &detail, context),
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

    /// How long the next frames gather behind so many that came in together. One after the other
    /// they wait for nothing, and neither does a backlog: no more than those could be taken
    /// together.
    fn gathering_after(&self, frames: usize) -> Duration {
        if (DENSE..frame_batch::MAX_FRAMES).contains(&frames) {
            self.gathering
        } else {
            Duration::ZERO
        }
    }

    /// The supplier's prices must not look live any more.
    fn suspend_markets(&mut self, context: &mut Context<Self>) {
        let suspended = self.decoder.on_stale();
        if suspended.is_empty() {
            return;
        }
        let supplier = self.status.supplier.as_str();
        warn!(supplier, markets = suspended.len(); "markets suspended: nothing came for {:?}", self.settings.supplier_stale_after);
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

    /// Hands a message over, and waits for the answer and so much longer.
    fn publish(&mut self, message: Publish, gathering: Duration, context: &mut Context<Self>) {
        let Publish {
            updates,
            dead_letters,
        } = message;
        if updates.is_empty() && dead_letters.is_empty() {
            return;
        }
        let is_good = dead_letters.is_empty();
        let keeping = self.hand_over(
            &self.dead_letters,
            Publish {
                updates: Vec::new(),
                dead_letters,
            },
        );
        let publishing = self.hand_over(
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
        let asked = Instant::now();
        // Pauses the stream too: nothing is read while the bus is full.
        context.wait(
            publishing
                .into_actor(self)
                .map(move |published, feed, context| {
                    feed.forgive(asked.elapsed());
                    match published {
                        // Only now: what the bus refuses for good must not have the supplier come
                        // back without a pause.
                        Ok(()) if is_good => feed.backoff.reset(),
                        Ok(()) => {}
                        Err(error) => feed.lose_unpublished(&error, context),
                    }
                }),
        );
    }

    /// Sends a message unless there is nothing in it. Whoever takes it counts it down.
    fn hand_over(
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
            self.refusals_held_back += count;
            return;
        }
        self.refusal_logged = Some(now);
        let held_back = std::mem::take(&mut self.refusals_held_back);
        warn!(supplier = self.status.supplier.as_str(), reason = refused.reason, held_back; "frame refused and kept as a dead letter: {}", refused.detail);
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
            feed.look_at_deadlines(context);
            feed.publish_gathered(Duration::ZERO, context);
        });
    }
}

impl StreamHandler<FrameBatch> for SupplierFeed {
    fn handle(&mut self, items: FrameBatch, context: &mut Context<Self>) {
        let gathering = self.gathering_after(items.len());
        for item in items {
            // What came behind the frame that ended the connection is told again by the next one.
            if self.link.is_none() {
                break;
            }
            self.on_item(item, context);
        }
        self.publish_gathered(gathering, context);
    }

    // The default would stop the actor; a feed connects again.
    fn finished(&mut self, context: &mut Context<Self>) {
        self.lose("closed", &"the supplier closed the connection", context);
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
mod tests {
    use clap::Parser;

    use super::*;
    use crate::domain::odds::update::testing::*;

    #[derive(Parser)]
    struct Settings {
        #[command(flatten)]
        suppliers: SupplierSettings,
    }

    /// Notes when it was handed how many updates.
    struct Publisher(mpsc::UnboundedSender<(Instant, usize)>);

    impl Actor for Publisher {
        type Context = Context<Self>;
    }

    impl Handler<Publish> for Publisher {
        type Result = Result<(), BusError>;

        fn handle(&mut self, message: Publish, _: &mut Context<Self>) -> Self::Result {
            self.0
                .send((Instant::now(), message.updates.len()))
                .unwrap();
            Ok(())
        }
    }

    /// A feed that reads so many frames at a time, and what it hands over.
    fn reading(gathering: Duration, rows: &[usize]) -> mpsc::UnboundedReceiver<(Instant, usize)> {
        let (told, handed_over) = mpsc::unbounded_channel();
        let publisher = Publisher(told).start().recipient();
        let settings = Settings::parse_from(["test"]).suppliers;
        let endpoint = "ws://127.0.0.1:9/ws".parse().unwrap();
        let metrics = IngestMetrics::new().unwrap();
        let mut versions = 1..;
        let mut frame = || {
            let update = update(1, 1, versions.next().unwrap());
            Ok(Inbound::Frame(update.to_json().into()))
        };
        let rows: Vec<FrameBatch> = rows
            .iter()
            .map(|row| (0..*row).map(|_| frame()).collect())
            .collect();
        SupplierFeed::create(|context| {
            let mut feed = SupplierFeed::new(
                endpoint,
                settings,
                publisher.clone(),
                publisher,
                gathering,
                metrics,
            );
            let stream = context.add_stream(futures_util::stream::iter(rows));
            let (now, (outbound, _)) = (Instant::now(), mpsc::channel(1));
            feed.link = Some(Link {
                since: now,
                stream,
                outbound,
                last_heard: now,
                last_ping: now,
            });
            feed
        });
        handed_over
    }

    #[actix_web::test]
    async fn a_dense_stream_gathers_before_it_is_published_again() {
        let gathering = Duration::from_millis(200);
        let mut handed_over = reading(gathering, &[DENSE, 1]);
        let (first, updates) = handed_over.recv().await.unwrap();
        assert_eq!(updates, DENSE);
        let (second, updates) = handed_over.recv().await.unwrap();
        assert_eq!(updates, 1);
        assert!(second - first >= gathering, "{:?}", second - first);
    }

    #[actix_web::test]
    async fn a_quiet_stream_and_a_backlog_wait_for_nothing() {
        let rows = [1, DENSE - 1, frame_batch::MAX_FRAMES, 1];
        let mut handed_over = reading(Duration::from_secs(3_600), &rows);
        for row in rows {
            let next = tokio::time::timeout(Duration::from_secs(20), handed_over.recv()).await;
            assert_eq!(next.unwrap().unwrap().1, row);
        }
    }
}
