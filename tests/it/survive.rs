//! What production does to a platform that is split over processes, on the real engines.

mod groups;
mod killed;
mod outcome;
mod stopped;
mod witness;
