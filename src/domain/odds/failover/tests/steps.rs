//! Random steps of sources.

use std::ops::Range;

use proptest::prelude::*;

use super::*;

/// A source in a random sequence of steps.
#[derive(Clone, Copy, Debug)]
pub(super) enum Sender {
    A,
    B,
    C,
}

pub(super) const SENDERS: [Sender; 3] = [Sender::A, Sender::B, Sender::C];

impl Sender {
    pub(super) fn name(self) -> &'static str {
        ["a", "b", "c"][self as usize]
    }
}

pub(super) fn any_sender() -> impl Strategy<Value = Sender> + Clone {
    proptest::sample::select(&SENDERS[..])
}

/// What happens to a source.
#[derive(Clone, Debug)]
pub(super) enum SourceStep {
    /// It sends a new update, a repetition or a late one: ahead of its clock by so many seconds.
    Update {
        from: Sender,
        ahead: i64,
        standing: Standing,
    },
    /// `ingest` suspends its last state.
    Suspend(Sender),
    /// It repeats its last state, or `ingest` confirms it.
    Repeat(Sender),
    State(Sender, SourceState),
    /// The reports about it do not arrive.
    Silence(Sender),
}

impl SourceStep {
    /// The record of this step. `time` is the second of an update that is ahead of the source's clock
    /// by so much; `log` has what was sent before.
    pub(super) fn record(
        &self,
        log: &[SourceUpdate],
        time: impl FnOnce(Sender, i64) -> i64,
    ) -> Option<(OddsUpdate, Standing)> {
        match *self {
            SourceStep::Update {
                from,
                ahead,
                standing,
            } => Some((sent_at(from, time(from, ahead)), standing)),
            SourceStep::Suspend(from) => {
                let last = last_sent(log, from)?;
                let is_open = last.status == MarketStatus::Open;
                is_open.then(|| (suspended(last), Standing::Unconfirmed))
            }
            SourceStep::Repeat(from) => Some((last_sent(log, from)?, Standing::Current)),
            SourceStep::State(..) | SourceStep::Silence(_) => None,
        }
    }
}

pub(super) fn any_source_step(ahead: Range<i64>) -> impl Strategy<Value = SourceStep> {
    let from = any_sender();
    let standing = prop_oneof![
        6 => Just(Standing::Current),
        1 => Just(Standing::HandedOver),
    ];
    let state = prop_oneof![
        1 => Just(SourceState::Stale),
        1 => Just(SourceState::Recovering),
        2 => Just(SourceState::Live),
    ];
    prop_oneof![
        8 => (from.clone(), ahead, standing)
            .prop_map(|(from, ahead, standing)| SourceStep::Update { from, ahead, standing }),
        2 => (from.clone(), state).prop_map(|(from, state)| SourceStep::State(from, state)),
        1 => from.clone().prop_map(SourceStep::Suspend),
        1 => from.clone().prop_map(SourceStep::Repeat),
        1 => from.prop_map(SourceStep::Silence),
    ]
}

/// An update at this second. The same revision always has the same status.
pub(super) fn sent_at(from: Sender, time: i64) -> OddsUpdate {
    let update = update_of(from.name(), time);
    if time % 2 == 0 {
        update
    } else {
        suspended(update)
    }
}

/// The last state that a source itself has sent.
pub(super) fn last_sent(log: &[SourceUpdate], from: Sender) -> Option<OddsUpdate> {
    let sent = log.iter().filter(|heard| {
        heard.standing != Standing::Unconfirmed && heard.update.source.as_str() == from.name()
    });
    let last = sent.max_by_key(|heard| heard.update.revision)?;
    Some((*last.update).clone())
}
