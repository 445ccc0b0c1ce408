//! The platform as a whole: the same builder that `serve` uses, or the real binary, over real sockets.

mod betfair;
mod clients;
mod pipeline;
mod process;
mod rest;
mod stale;
mod support;
