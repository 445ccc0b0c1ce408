//! What production does to a platform that is split over processes, on the real engines.

mod replayed;
mod wrong;
