//! Consumers of the bus that read one topic as one consumer group. They work on one batch at a time,
//! and commit it when the work is done. A failed batch is retried until it succeeds: the lag of the
//! group grows, but nothing is lost or skipped.

mod batch_consumer;
mod batch_retry;
mod dead_letters;
mod group_reader;
mod shutdown_policy;

pub(in crate::actors) use self::batch_consumer::{BatchConsumer, BatchHandler};
pub(in crate::actors) use self::batch_retry::{BatchError, BatchRetry};
pub(in crate::actors) use self::dead_letters::publish_dead_letters;
pub(crate) use self::group_reader::ConsumerSettings;
#[cfg(test)]
pub(in crate::actors) use self::group_reader::IDLE_POLL;
pub(in crate::actors) use self::group_reader::{GroupReader, task_of};
pub(in crate::actors) use self::shutdown_policy::LAST_WORK;
