//! What production does to a platform that is split over processes, on the real engines.

mod kafka_away;
mod outage;
mod postgres_away;
mod redis_away;
mod topic_anew;
