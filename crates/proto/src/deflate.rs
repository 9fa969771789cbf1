//! permessage-deflate (RFC 7692): what is agreed in the handshake, and the two codecs.
//!
//! - [`negotiate`]: offers and responses of `Sec-WebSocket-Extensions`;
//! - [`Deflater`] and [`Inflater`]: payloads of whole messages in, of frames out, and back;
//! - [`with_deflater`]: compressors that know nothing between messages, shared by the connections of a thread.

mod codec;
pub mod negotiate;
mod pool;

pub use codec::{Deflater, INFLATER_SIZE, InflateError, Inflater, Output, compressor_size};
pub use negotiate::{Agreement, EXTENSION, Side};
pub use pool::with_deflater;
pub(crate) use pool::{put_inflater, take_inflater};

/// The smallest window that the compressor can do (RFC 7692 knows 8, raw zlib does not), and the largest there is.
pub const LEAST_WINDOW_BITS: u8 = 9;
pub const MOST_WINDOW_BITS: u8 = 15;

/// How messages are compressed, where the peer agrees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeflateConfig {
    /// 1 (fast) to 9 (small).
    pub level: u8,
    /// Both directions keep their window from message to message: smaller messages at much more memory.
    pub context_takeover: bool,
    /// Base-2 logarithm of the largest window, 9 to 15, both ways.
    pub window_bits: u8,
    /// Shorter messages are sent as they are. Bytes.
    pub threshold: usize,
}

impl Default for DeflateConfig {
    fn default() -> Self {
        Self { level: 2, context_takeover: false, window_bits: MOST_WINDOW_BITS, threshold: 1024 }
    }
}

#[cfg(test)]
mod tests;
