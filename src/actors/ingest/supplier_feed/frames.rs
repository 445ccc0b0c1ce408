//! What a feed does with what it receives.

use actix::prelude::*;
use bytes::Bytes;
use log::warn;
use tokio::time::Instant;

use super::SupplierFeed;
use crate::actors::ingest::messages::Publish;
use crate::domain::dead_letter::DeadLetter;
use crate::domain::odds::plausible::Plausibility;
use crate::domain::timestamp::Timestamp;
use crate::domain::trace_parent::TraceParent;
use crate::supplier::transport::{Inbound, TransportError};
use crate::supplier::{Decoded, FrameFault, MarketRevision, Refused};
use crate::telemetry::trace;

impl SupplierFeed {
    pub(super) fn on_item(
        &mut self,
        item: Result<Inbound, TransportError>,
        context: &mut Context<Self>,
    ) {
        match item {
            Ok(Inbound::Frame(frame)) => {
                self.timers.received(Instant::now());
                self.on_frame(frame, context);
            }
            Ok(Inbound::Alive) => {
                let now = Instant::now();
                self.timers.received(now);
                self.on_reply(now);
            }
            Err(error) => self.disconnect(error.reason(), &error, context),
        }
    }

    /// A supplier without changes is alive as long as it replies, unless what it sends cannot be
    /// read.
    fn on_reply(&mut self, now: Instant) {
        if !self.timers.is_blind() {
            let was_stale = self.timers.live(now);
            self.on_live(was_stale);
        }
    }

    /// If the frame may have concerned any market, starts the period in which each open market must
    /// be updated again.
    fn record_unnamed_refusals(&mut self) {
        self.timers
            .unnamed_refusals(self.decoder.unnamed_refusals(), Instant::now());
    }

    pub(super) fn suspend_after_refusals(&mut self, refusals: u64) {
        let suspended = self.decoder.suspend_after_refusals(refusals);
        if !suspended.is_empty() {
            self.metrics
                .suspended_as_stale
                .inc_by(suspended.len() as u64);
            warn!(supplier = self.status.supplier.as_str(), markets = suspended.len(); "markets suspended: an update without an event could not be decoded, and these were not updated for {:?}", self.settings.supplier_stale_after);
            // A selector takes it for a suspension by the source: a rejected update may be one.
            self.gathered.updates.extend(suspended);
        }
        self.record_unnamed_refusals();
    }

    fn on_frame(&mut self, frame: Bytes, context: &mut Context<Self>) {
        self.metrics.frames.inc();
        let limits = Plausibility::within(self.settings.supplier_max_clock_skew);
        let received = Timestamp::now();
        self.decoder.refuse_after(limits.latest(received));
        match self.decoder.on_frame(&frame) {
            Ok(decoded) => {
                self.judge(&decoded);
                self.record_unnamed_refusals();
                self.gathered.traced.extend(sampled(&decoded, received));
                self.gather(decoded, frame, context);
            }
            Err(FrameFault::Unreadable { reason, detail }) => {
                let refused = vec![Refused {
                    reason,
                    detail: detail.clone(),
                }];
                let decoded = Decoded {
                    refused,
                    ..Decoded::default()
                };
                self.gather(decoded, frame, context);
                // A delta stream has a gap now; the next connection starts with a full image.
                self.disconnect("unreadable", &detail, context);
            }
            Err(FrameFault::Refused { reason, detail }) => {
                self.disconnect(reason, &detail, context)
            }
        }
    }

    /// Judges from the content of a frame whether the supplier's prices are live.
    fn judge(&mut self, decoded: &Decoded) {
        let now = Instant::now();
        if decoded.is_unreadable {
            self.timers.unreadable();
        } else if decoded.refused.is_empty() {
            let was_stale = self.timers.live(now);
            self.on_live(was_stale);
        } else {
            self.on_reply(now);
        }
        if let Some(from) = &decoded.heard {
            self.on_heard(from, now);
        }
        self.metrics.late.inc_by(decoded.late);
        if decoded.is_recovered {
            self.metrics
                .recoveries
                .with_label_values(&["finished"])
                .inc();
        }
    }

    fn gather(&mut self, decoded: Decoded, frame: Bytes, context: &mut Context<Self>) {
        let Decoded {
            updates,
            send,
            refused,
            handed_over,
            results,
            refused_results,
            ..
        } = decoded;
        self.send_all(send, context);
        let letters = |refused: &[Refused]| {
            let letters = refused.iter();
            letters.map(|one| self.dead_letter(one, &frame)).collect()
        };
        let dead_letters = letters(&refused);
        let result_dead_letters = letters(&refused_results);
        self.sources.record_sent(&updates);
        self.gathered.extend(Publish {
            updates,
            dead_letters,
            results,
            result_dead_letters,
            handed_over,
            unconfirmed: Vec::new(),
            traced: Vec::new(),
        });
        for refused in [refused, refused_results] {
            if let Some(first) = refused.first() {
                self.log_refusal(first, refused.len() as u64);
            }
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
        let Some(held_back) = self.refusal_log.record(count, Instant::now()) else {
            return;
        };
        warn!(supplier = self.status.supplier.as_str(), reason = refused.reason, held_back; "frame refused and sent to dead letters: {}", refused.detail);
    }
}

/// Begins the trace of a frame's first update, if one is due. Its span lasts from the arrival of the
/// frame until it is decoded.
fn sampled(decoded: &Decoded, received: Timestamp) -> Option<(MarketRevision, TraceParent)> {
    let update = decoded.updates.first()?;
    let span = trace::sample_odds("receive odds", received)?;
    let span = span.with_market(&update.event_id, &update.market);
    Some((MarketRevision::of(update), span.context()?))
}
