//! What production does to a platform that is split over processes, on the real engines.

mod believed;
mod damaged;
mod flood;
mod fresh;
mod groups;
mod kafka_away;
mod killed;
mod money;
mod outage;
mod outcome;
mod postgres_away;
mod redis_away;
mod replayed;
mod stopped;
mod topic_anew;
mod witness;
mod wrong;
