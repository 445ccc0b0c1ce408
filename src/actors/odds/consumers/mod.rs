//! Consumers of the bus on the odds pipeline: each reads one topic as one consumer group, and
//! commits a batch when the work on it is done. A failed batch is retried until it succeeds: the
//! lag of the group grows, but nothing is lost or skipped.

mod batch_consumer;
mod batch_retry;
mod batches_in_flight;
pub(crate) mod dead_letter_consumer;
mod dead_letters;
mod flush_progress;
mod group_reader;
pub(crate) mod live_consumer;
mod shutdown_policy;
pub(crate) mod source_selector;
pub(crate) mod store_consumer;
#[cfg(test)]
mod testing;
pub(crate) mod topic_follower;
mod update_reader;

pub(crate) use self::group_reader::ConsumerSettings;
