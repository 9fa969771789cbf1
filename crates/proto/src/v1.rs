//! The subprotocol `lifeline.v1`: sessions that survive their connections.
//!
//! `docs/protocol.md` is the specification. [`wire`] turns WebSocket messages into frames and back.
//! The rules are in parts that a driver may lock one by one:
//!
//! - [`ring`]: what a session keeps to send again; [`log`]: what a channel keeps;
//! - [`inbox`]: which items of a client's outbox were received and handled, process-wide;
//! - [`data`]: the application's values of a session;
//! - [`document`]: a map of JSON values on a channel, and a client's replica of it;
//! - [`session`]: a session on the server: tokens, the connection that has it, what goes out next;
//! - [`server`]: these together, one machine for all connections of a server;
//! - [`client`]: the other role; its items are in an outbox of the driver's choice;
//! - [`records`]: what a store says of a server that has ended;
//! - [`ack`]: when an acknowledgement is due.
//!
//! Both ends in one thread:
//!
//! ```
//! use bytes::Bytes;
//! use lifeline_proto::Time;
//! use lifeline_proto::v1::client::{Client, ClientConfig, Event};
//! use lifeline_proto::v1::server::{LinkId, Output, Server, ServerConfig};
//! use lifeline_proto::v1::wire::OutboxRange;
//! use lifeline_proto::v1::{Key, Violation};
//! use rand::{SeedableRng, rngs::StdRng};
//!
//! let (now, link) = (Time::ZERO, LinkId(1));
//! let mut server = Server::new(ServerConfig::default(), StdRng::from_os_rng());
//! let mut client = Client::new(ClientConfig::default(), 7);
//!
//! // The WebSocket is open.
//! server.handle_connected(now, link);
//! let outbox = OutboxRange { id: Key::random(&mut StdRng::from_os_rng()), generation: 1, first: 1, next: 2 };
//! client.handle_connected(None, Some(outbox));
//! let mut acknowledged = 0;
//! while acknowledged < 1 {
//!     while let Some(message) = client.poll_transmit(now) {
//!         server.handle_message(now, link, &message.data, message.binary);
//!     }
//!     while let Some(output) = server.poll_output() {
//!         match output {
//!             Output::Transmit { link } => {
//!                 while let Some(outgoing) = server.poll_transmit(now, link) {
//!                     let message = outgoing.encode();
//!                     client.handle_message(now, &message.data, message.binary)?;
//!                 }
//!             }
//!             Output::Deliver { outbox, delivery, .. } => {
//!                 server.handle_start(&outbox, delivery.id);
//!                 assert_eq!(delivery.data, "hello");
//!                 server.handle_done(now, &outbox, delivery.id);
//!                 server.handle_batch_end();
//!             }
//!             _ => {}
//!         }
//!     }
//!     while let Some(event) = client.poll_event() {
//!         match event {
//!             Event::Welcomed(_) => assert!(client.room(5) && client.send(1, Bytes::from_static(b"hello"), false)),
//!             Event::Acknowledged { sequence } => acknowledged = sequence,
//!             _ => {}
//!         }
//!     }
//! }
//! # Ok::<_, Violation>(())
//! ```

pub mod ack;
pub mod client;
pub mod data;
pub mod document;
pub mod inbox;
pub mod log;
pub mod records;
pub mod ring;
pub mod server;
pub mod session;
mod table;
pub mod value;
pub mod wire;

pub use value::{ChannelName, InvalidValue, Key, Position, Secret, ShortId, Token};
pub use wire::Violation;
