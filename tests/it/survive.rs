//! Failures of production against a platform split over processes, on the real engines.

mod believed;
mod bettors;
mod damaged;
mod failover;
mod flood;
mod followed;
mod fresh;
mod groups;
mod kafka_away;
mod killed;
mod lost_source;
mod misconfiguration;
mod money;
mod outage;
mod outcome;
mod postgres_away;
mod ready;
mod redis_away;
mod replayed;
mod resumed;
mod rolling;
mod settlement;
mod stopped;
mod topic_recreated;
mod witness;
