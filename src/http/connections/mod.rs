//! Deadlines and limits of a server thread's connections.
//!
//! Each connection records which phase it is in. One sweep per thread checks all of them twice a
//! second and ends those that keep the server waiting for too long, so no request or session needs
//! a timer or reads the clock.

mod ended;
mod limits;
mod message_deadline;
mod state;
mod table;

pub(crate) use self::ended::Ended;
pub(crate) use self::limits::ConnectionLimits;
pub(crate) use self::message_deadline::MessageDeadline;
pub(super) use self::state::Phase;
pub(crate) use self::table::{Connection, Connections};
