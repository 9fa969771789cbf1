//! A client's life: which state it is in, when it dials, when it gives up.

/// See the design's table of states; PHP sees it as `WsState`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    Disconnected,
    Connecting,
    Connected,
    Reconnecting,
    Closed,
}
