//! The subprotocol `lifeline.v1`: sessions that survive their connections.
//!
//! `docs/protocol.md` is the specification. [`wire`] turns WebSocket messages into frames and back.
//! The rules are in parts that a driver may lock one by one:
//!
//! - [`ring`]: what a session keeps to send again; [`log`]: what a channel keeps;
//! - [`inbox`]: which items of a client's outbox were received and handled, process-wide;
//! - [`session`]: a session on the server: tokens, the connection that has it, what goes out next;
//! - [`server`]: these together, one machine for all connections of a server;
//! - [`client`]: the other role; its items are in an outbox of the driver's choice;
//! - [`ack`]: when an acknowledgement is due.

pub mod ack;
pub mod client;
pub mod inbox;
pub mod log;
pub mod ring;
pub mod server;
pub mod session;
pub mod value;
pub mod wire;

pub use value::{ChannelName, InvalidValue, Key, Position, Secret, ShortId, Token};
pub use wire::Violation;
