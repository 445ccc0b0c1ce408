//! One client's playback of a recording: which message is next, when it is due, and its text.
//! Independent of the clock: the current time is passed in.

use std::collections::{HashSet, VecDeque};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Speed;
use super::recording::{MarketStep, Recording, Step};

/// A client's subscription.
#[derive(Debug, Default)]
pub(crate) struct Subscription {
    /// The request id, repeated in every message.
    pub id: i64,
    /// The markets, or `None` for all.
    pub markets: Option<HashSet<String>>,
    /// Interval of the heartbeats while nothing changes.
    pub heartbeat: Duration,
    /// Whether large messages are split into segments.
    pub segmented: bool,
    /// The position to resume from: `initialClk` and `clk` of an earlier subscription.
    pub clocks: Option<(String, String)>,
}

/// Maximum size of a segment, unless a single market is larger.
const SEGMENT_BYTES: usize = 64 * 1024;

/// The clocks were not issued for this recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct InvalidClock;

/// A position between two messages: the number of completed rounds, and of completed steps in the
/// current round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Position {
    round: u64,
    step: usize,
}

/// One recorded step as part of a message.
struct Part<'a> {
    pt: i64,
    round: u64,
    step: &'a Step,
}

/// A client's playback of a recording.
#[derive(Debug)]
pub(crate) struct Playback {
    recording: Arc<Recording>,
    speed: Speed,
    looping: bool,
    subscription: Subscription,
    /// Messages to send first: an image, or the remaining segments of a message.
    pending: VecDeque<String>,
    /// Whether the next message is marked as resumed.
    resumes: bool,
    position: Position,
    started: Instant,
    /// The recording time at the start of this playback.
    base_ms: u64,
    last_sent: Instant,
    last_pt: i64,
}

impl Playback {
    /// Starts at the beginning with an image, or resumes after the subscription's clocks.
    pub(crate) fn start(
        recording: Arc<Recording>,
        speed: Speed,
        looping: bool,
        subscription: Subscription,
        now: Instant,
    ) -> Result<Playback, InvalidClock> {
        let resumed = subscription
            .clocks
            .as_ref()
            .map(|clocks| resume(&recording, clocks))
            .transpose()?;
        let mut playback = Playback {
            last_pt: recording.steps.first().map_or(0, |step| step.pt),
            recording,
            speed,
            // Enabled below if the client wants any message; otherwise the search for the next one
            // would never end.
            looping: false,
            subscription,
            pending: VecDeque::new(),
            resumes: resumed.is_some(),
            position: resumed.unwrap_or(Position { round: 0, step: 0 }),
            started: now,
            base_ms: 0,
            last_sent: now,
        };
        playback.looping = looping
            && playback
                .recording
                .steps
                .iter()
                .any(|step| playback.wants(step));
        if resumed.is_none() {
            playback.open_with_image();
        } else if let Some(next) = playback.skip_unwanted() {
            playback.base_ms = playback.virtual_ms(next);
        } else {
            playback.resumes = false;
            let nothing = playback.envelope(playback.last_pt, Some("RESUB_DELTA"), None, true);
            playback.pending.push_back(nothing + "}");
        }
        Ok(playback)
    }

    /// The next message, if one is due.
    pub(crate) fn next_message(&mut self, now: Instant) -> Option<String> {
        if let Some(message) = self.pending.pop_front() {
            self.last_sent = now;
            return Some(message);
        }
        let next = self.skip_unwanted()?;
        if self.due(next) > now {
            return None;
        }
        let recording = self.recording.clone();
        let step = recording.steps.get(next.step)?;
        self.position = Position {
            step: next.step + 1,
            ..next
        };
        self.last_sent = now;
        self.last_pt = self.pt(step, next.round);
        let ct = std::mem::take(&mut self.resumes).then_some("RESUB_DELTA");
        self.push(
            &[Part {
                pt: self.last_pt,
                round: next.round,
                step,
            }],
            ct,
        );
        self.pending.pop_front()
    }

    /// A heartbeat, if nothing was sent within the heartbeat interval.
    pub(crate) fn heartbeat(&mut self, now: Instant) -> Option<String> {
        if self.heartbeat_due() > now {
            return None;
        }
        self.last_sent = now;
        Some(self.envelope(self.last_pt, Some("HEARTBEAT"), None, true) + "}")
    }

    /// When the next message or heartbeat may be due.
    pub(crate) fn wakes_at(&mut self) -> Instant {
        if !self.pending.is_empty() {
            return self.started;
        }
        let heartbeat = self.heartbeat_due();
        self.skip_unwanted()
            .map_or(heartbeat, |next| self.due(next).min(heartbeat))
    }

    /// Queues the first message of every file as one image.
    fn open_with_image(&mut self) {
        let recording = self.recording.clone();
        let heads = recording
            .steps
            .iter()
            .take(recording.heads)
            .filter(|step| self.wants(step));
        let heads: Vec<_> = heads
            .map(|step| Part {
                pt: step.pt,
                round: 0,
                step,
            })
            .collect();
        self.position.step = recording.heads;
        self.last_pt = heads.last().map_or(self.last_pt, |head| head.pt);
        self.push(&heads, Some("SUB_IMAGE"));
    }

    /// Queues one message for these steps, in segments if it is large and the client accepts
    /// segments.
    fn push(&mut self, parts: &[Part<'_>], ct: Option<&str>) {
        let segments = self.segments(parts);
        let last = segments.len().saturating_sub(1);
        for (index, (part, changes)) in segments.iter().enumerate() {
            let segment = match index {
                _ if last == 0 => None,
                0 => Some("SEG_START"),
                index if index == last => Some("SEG_END"),
                _ => Some("SEG"),
            };
            let status = part.and_then(|part| part.step.status);
            let pt = part.map_or(self.last_pt, |part| part.pt);
            let message = self.message((pt, status, changes), ct, segment, index == last);
            self.pending.push_back(message);
        }
    }

    /// The changes of each segment; a single segment if the client does not accept segments.
    fn segments<'a>(&self, parts: &'a [Part<'a>]) -> Vec<(Option<&'a Part<'a>>, String)> {
        let mut segments: Vec<(Option<&Part<'_>>, String)> = Vec::new();
        for part in parts {
            let mut starts = self.subscription.segmented || segments.is_empty();
            let mut markets = part
                .step
                .markets
                .iter()
                .filter(|market| self.wants_market(&market.id))
                .peekable();
            if starts && markets.peek().is_none() {
                segments.push((Some(part), String::new()));
            }
            for market in markets {
                let changes = self.change(market, part.round);
                let full = |text: &String| {
                    self.subscription.segmented && text.len() + changes.len() > SEGMENT_BYTES
                };
                match segments.last_mut() {
                    Some((_, text)) if !starts && !full(text) => {
                        text.push_str(if text.is_empty() { "" } else { "," });
                        text.push_str(&changes);
                    }
                    _ => segments.push((Some(part), changes)),
                }
                starts = false;
            }
        }
        if segments.is_empty() {
            segments.push((None, String::new()));
        }
        segments
    }

    fn change(&self, market: &MarketStep, round: u64) -> String {
        let mut json = String::with_capacity(market.json.len());
        self.recording.write(market, round, &mut json);
        json
    }

    fn heartbeat_due(&self) -> Instant {
        self.last_sent + self.subscription.heartbeat
    }

    fn wants(&self, step: &Step) -> bool {
        step.status.is_some()
            || step
                .markets
                .iter()
                .any(|market| self.wants_market(&market.id))
    }

    fn wants_market(&self, id: &str) -> bool {
        self.subscription
            .markets
            .as_ref()
            .is_none_or(|markets| markets.contains(id))
    }

    /// The next step that the client wants; `None` at the end.
    fn skip_unwanted(&mut self) -> Option<Position> {
        loop {
            match self.recording.steps.get(self.position.step) {
                Some(step) if self.wants(step) => return Some(self.position),
                Some(_) => self.position.step += 1,
                None if self.looping => {
                    self.position = Position {
                        round: self.position.round + 1,
                        step: 0,
                    }
                }
                None => return None,
            }
        }
    }

    /// The recording time of a step, including earlier rounds.
    fn virtual_ms(&self, position: Position) -> u64 {
        let offset = self
            .recording
            .steps
            .get(position.step)
            .map_or(0, |step| step.offset_ms);
        position
            .round
            .saturating_mul(self.recording.period_ms)
            .saturating_add(offset)
    }

    fn due(&self, position: Position) -> Instant {
        let Speed::Times(times) = self.speed else {
            return self.started;
        };
        let millis = self.virtual_ms(position).saturating_sub(self.base_ms);
        let wait = Duration::try_from_secs_f64(millis as f64 / 1_000.0 / times).ok();
        // The wait overflows the clock; the heartbeats come first anyway.
        wait.and_then(|wait| self.started.checked_add(wait))
            .unwrap_or(self.heartbeat_due())
    }

    fn pt(&self, step: &Step, round: u64) -> i64 {
        let shift = round.saturating_mul(self.recording.period_ms);
        step.pt
            .saturating_add(i64::try_from(shift).unwrap_or(i64::MAX))
    }

    /// Formats a message. The image of a subscription without changes has no `mc`.
    fn message(
        &self,
        (pt, status, changes): (i64, Option<i64>, &str),
        ct: Option<&str>,
        segment: Option<&str>,
        last: bool,
    ) -> String {
        let mut json = self.envelope(pt, ct, segment, last);
        if let Some(status) = status {
            // Writing to a string cannot fail.
            let _ = write!(json, ",\"status\":{status}");
        }
        if ct != Some("SUB_IMAGE") || !changes.is_empty() {
            json.push_str(",\"mc\":[");
            json.push_str(changes);
            json.push(']');
        }
        json.push('}');
        json
    }

    /// The fields before the changes. `clocks` adds the position after the message.
    fn envelope(&self, pt: i64, ct: Option<&str>, segment: Option<&str>, clocks: bool) -> String {
        let mut json = format!(
            "{{\"op\":\"mcm\",\"id\":{},\"pt\":{pt}",
            self.subscription.id
        );
        if clocks && matches!(ct, Some("SUB_IMAGE" | "RESUB_DELTA")) {
            let _ = write!(json, ",\"initialClk\":\"{}\"", initial_clk(&self.recording));
        }
        if clocks {
            let _ = write!(
                json,
                ",\"clk\":\"{}.{}\"",
                self.position.round, self.position.step
            );
        }
        if let Some(ct) = ct {
            let _ = write!(json, ",\"ct\":\"{ct}\"");
        }
        if let Some(segment) = segment {
            let _ = write!(json, ",\"segmentType\":\"{segment}\"");
        }
        json
    }
}

fn initial_clk(recording: &Recording) -> String {
    format!("replay-{:016x}", recording.fingerprint)
}

fn resume(
    recording: &Recording,
    (initial, clk): &(String, String),
) -> Result<Position, InvalidClock> {
    let (round, step) = clk.split_once('.').ok_or(InvalidClock)?;
    let position = Position {
        round: round.parse().map_err(|_| InvalidClock)?,
        step: step.parse().map_err(|_| InvalidClock)?,
    };
    let known = *initial == initial_clk(recording)
        && position.step <= recording.steps.len()
        && position.round < u64::MAX;
    if known {
        Ok(position)
    } else {
        Err(InvalidClock)
    }
}
