//! Decides what of a batch goes where, and what follows if the bus rejects it.

use std::time::Duration;

use crate::actors::ingest::messages::Publish;
use crate::domain::odds::status::MarketStatus;
use crate::supplier::frame_batch;

/// A stream is dense if this many frames arrive during one round trip to the bus.
pub(super) const DENSE_BATCH: usize = 20;

/// One batch on its way to the bus, as one message for each receiver.
#[derive(Debug)]
pub(super) struct Batch {
    /// The frames that could not be decoded.
    pub dead_letters: Publish,
    /// Results, and the frames whose results could not be decoded.
    pub results: Publish,
    /// The updates, in order.
    pub updates: Publish,
}

/// What of a batch goes where.
#[derive(Debug)]
pub(super) struct PublishPlan {
    /// The messages.
    pub batch: Batch,
    /// Whether every frame could be decoded.
    pub is_readable: bool,
    /// What to publish again if the bus rejects the batch: results, and the updates that do not open
    /// a market. The supplier does not repeat them, and decoders do not track closed markets.
    pub repeat_if_refused: Publish,
}

impl PublishPlan {
    /// Plans how to publish `content`. `None` if it is empty.
    pub(super) fn new(content: Publish) -> Option<PublishPlan> {
        if content.is_empty() {
            return None;
        }
        let Publish {
            updates,
            dead_letters,
            results,
            result_dead_letters,
            handed_over,
            unconfirmed,
            traced,
        } = content;
        let unopened: Vec<_> = updates
            .iter()
            .filter(|update| update.status != MarketStatus::Open)
            .cloned()
            .collect();
        let repeat_if_refused = Publish {
            updates: unopened,
            results: results.clone(),
            handed_over: handed_over.clone(),
            unconfirmed: unconfirmed.clone(),
            ..Publish::default()
        };
        Some(PublishPlan {
            is_readable: dead_letters.is_empty(),
            repeat_if_refused,
            batch: Batch {
                dead_letters: Publish {
                    dead_letters,
                    ..Publish::default()
                },
                results: Publish {
                    results,
                    result_dead_letters,
                    ..Publish::default()
                },
                updates: Publish {
                    updates,
                    handed_over,
                    unconfirmed,
                    traced,
                    ..Publish::default()
                },
            },
        })
    }
}

/// How long to gather after a batch of `frames`: `gathering` for a dense stream. Small batches are
/// not delayed, and neither are full ones, which a backlog causes: they cannot grow further.
pub(super) fn gathering_after(frames: usize, gathering: Duration) -> Duration {
    if (DENSE_BATCH..frame_batch::MAX_FRAMES).contains(&frames) {
        gathering
    } else {
        Duration::ZERO
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::domain::dead_letter::DeadLetter;
    use crate::domain::odds::update::OddsUpdate;
    use crate::domain::odds::update::testing::update;
    use crate::domain::settlement::testing::home;
    use crate::domain::timestamp::Timestamp;

    fn dead_letter() -> DeadLetter {
        DeadLetter {
            received_at: Timestamp::now(),
            origin: "ws://supplier".to_owned(),
            reason: "malformed".to_owned(),
            detail: "malformed message".to_owned(),
            raw: Bytes::from_static(b"{"),
        }
    }

    #[test]
    fn empty_batch_is_not_published() {
        assert!(PublishPlan::new(Publish::default()).is_none());
    }

    #[test]
    fn only_dense_batches_are_followed_by_gathering() {
        let gathering = Duration::from_millis(10);
        for (frames, expected) in [
            (0, Duration::ZERO),
            (DENSE_BATCH - 1, Duration::ZERO),
            (DENSE_BATCH, gathering),
            (frame_batch::MAX_FRAMES - 1, gathering),
            (frame_batch::MAX_FRAMES, Duration::ZERO),
        ] {
            assert_eq!(gathering_after(frames, gathering), expected, "{frames}");
        }
    }

    proptest! {
        /// All content is published in order, and nothing that is repeated opens a market.
        #[test]
        fn plan_keeps_content_and_repeats_no_opening(
            statuses in proptest::collection::vec(0_usize..5, 0..20),
            unreadable in 0_usize..3,
            results in 0_usize..3,
        ) {
            let updates: Vec<OddsUpdate> = (1..)
                .zip(&statuses)
                .map(|(version, status)| OddsUpdate {
                    status: [
                        MarketStatus::Open,
                        MarketStatus::Suspended,
                        MarketStatus::Closed,
                        MarketStatus::Settled,
                        MarketStatus::Cancelled,
                    ][*status],
                    ..update(1, 1, version)
                })
                .collect();
            let dead_letters = vec![dead_letter(); unreadable];
            let results = vec![home(60, 1, "won"); results];
            let content = Publish {
                updates: updates.clone(),
                dead_letters,
                results: results.clone(),
                result_dead_letters: vec![dead_letter(); results.len()],
                ..Publish::default()
            };
            let Some(plan) = PublishPlan::new(content) else {
                prop_assert!(updates.is_empty() && unreadable == 0 && results.is_empty());
                return Ok(());
            };
            let batch = &plan.batch;
            prop_assert_eq!(&batch.updates.updates, &updates);
            prop_assert_eq!(batch.dead_letters.dead_letters.len(), unreadable);
            prop_assert_eq!(&batch.results.results, &results);
            prop_assert_eq!(batch.results.result_dead_letters.len(), results.len());
            prop_assert!(batch.updates.dead_letters.is_empty() && batch.updates.results.is_empty());
            prop_assert!(batch.dead_letters.updates.is_empty() && batch.dead_letters.results.is_empty());
            prop_assert!(batch.results.updates.is_empty() && batch.results.dead_letters.is_empty());
            prop_assert_eq!(&plan.repeat_if_refused.results, &results);
            prop_assert_eq!(plan.is_readable, unreadable == 0);
            let mut expected = updates;
            expected.retain(|update| update.status != MarketStatus::Open);
            prop_assert_eq!(plan.repeat_if_refused.updates, expected);
        }
    }
}
