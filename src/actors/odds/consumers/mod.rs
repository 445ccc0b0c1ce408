//! Consumers of the bus on the odds pipeline.

mod batches_in_flight;
pub(crate) mod dead_letter_consumer;
mod dead_letters;
mod flush_progress;
pub(crate) mod live_consumer;
pub(crate) mod source_selector;
mod state_saver;
pub(crate) mod store_consumer;
#[cfg(test)]
mod testing;
pub(crate) mod topic_follower;
mod update_reader;
