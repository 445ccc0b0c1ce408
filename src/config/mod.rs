//! Configuration: the command line over the environment over defaults.

pub mod settings;
