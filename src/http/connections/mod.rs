//! Deadlines and limits of a server thread's connections.
//!
//! Each connection records which phase it is in. One sweep per thread checks all of them twice a
//! second and ends those that keep the server waiting for too long, so no request or session needs
//! a timer or reads the clock.

mod connection;
mod ended;
mod limits;
mod message_deadline;
mod state;
mod table;

pub use self::connection::Connection;
pub use self::ended::Ended;
pub use self::limits::ConnectionLimits;
pub use self::message_deadline::MessageDeadline;
pub(super) use self::state::Phase;
pub use self::table::Connections;
