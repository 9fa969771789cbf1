//! A client's unsent and unacknowledged messages, in memory, in order.

use std::time::Duration;

/// What happens to a message that finds the outbox full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OverflowPolicy {
    /// The call fails.
    #[default]
    Error,
    /// The caller waits for room.
    Block,
    DropOldest,
    DropNewest,
}

/// The options `outbox.*` of the memory outbox.
#[derive(Clone, Debug, PartialEq)]
pub struct OutboxConfig {
    /// Messages.
    pub limit: usize,
    /// Bytes of payload.
    pub bytes: usize,
    pub overflow: OverflowPolicy,
    /// How long `block` waits; `None`: until there is room.
    pub block_timeout: Option<Duration>,
    /// Default time to live; `None`: for ever.
    pub ttl: Option<Duration>,
}

impl Default for OutboxConfig {
    fn default() -> Self {
        Self {
            limit: 10_000,
            bytes: 16 * 1024 * 1024,
            overflow: OverflowPolicy::Error,
            block_timeout: None,
            ttl: Some(Duration::from_secs(300)),
        }
    }
}
