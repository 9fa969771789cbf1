//! How the application's thread and the I/O threads hand work to each other: few atomics, whose order decides
//! whether a wake can be lost.
//!
//! - [`Bell`]: who has put an event into the queue wakes the application where it sleeps, by one of two means.
//! - [`Seat`]: one of two threads does the first I/O thread's work, never both, never neither.
//! - [`Mark`]: whoever is first to put something somewhere sees to it that it is fetched, the others leave it at that.
//!
//! Each is generic over its atomics, so that a model checker runs this very code in every order of steps that
//! the memory model allows (`tests/model.rs`). Descriptors, wakers, clocks and queues stay with the caller.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod atomics;
mod bell;
mod mark;
mod seat;

pub use atomics::{Atomics, Flag, Number, Std};
pub use bell::{Bell, Ring};
pub use mark::Mark;
pub use seat::Seat;
