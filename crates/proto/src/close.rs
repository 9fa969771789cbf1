//! Close codes: RFC 6455 section 7.4, the IANA registry, and lifeline's own.

/// The purpose was fulfilled.
pub const NORMAL: u16 = 1000;
/// The endpoint goes away.
pub const GOING_AWAY: u16 = 1001;
pub const PROTOCOL_ERROR: u16 = 1002;
/// A type of data that the endpoint cannot accept.
pub const UNSUPPORTED_DATA: u16 = 1003;
/// Reported when the close frame had no code; never on the wire.
pub const NO_STATUS: u16 = 1005;
/// Reported when the connection ended without a close frame; never on the wire.
pub const ABNORMAL: u16 = 1006;
/// Data that does not match its type, e.g. text that is not UTF-8.
pub const INVALID_PAYLOAD: u16 = 1007;
pub const POLICY_VIOLATION: u16 = 1008;
pub const MESSAGE_TOO_BIG: u16 = 1009;
/// The server did not negotiate an extension that the client needs.
pub const MANDATORY_EXTENSION: u16 = 1010;
pub const INTERNAL_ERROR: u16 = 1011;
pub const SERVICE_RESTART: u16 = 1012;
pub const TRY_AGAIN_LATER: u16 = 1013;
pub const BAD_GATEWAY: u16 = 1014;
/// Reported when TLS failed; never on the wire.
pub const TLS_HANDSHAKE: u16 = 1015;

/// The server shuts down; reconnect.
pub const SHUTDOWN: u16 = 4000;
/// The peer was found dead; reported, never on the wire.
pub const NO_PONG: u16 = 4001;
/// The peer reads too slowly.
pub const SLOW_CONSUMER: u16 = 4002;
pub const TOKEN_EXPIRED: u16 = 4003;
/// The peers disagree about the session.
pub const STATE_INVALID: u16 = 4004;
/// Too many messages or bytes a second.
pub const RATE_LIMITED: u16 = 4005;
/// Nothing was said for long; come back when there is something to say.
pub const IDLE: u16 = 4006;
/// From here on a client does not come back.
pub const UNAUTHORIZED: u16 = 4500;
pub const BAD_PROTOCOL: u16 = 4501;
/// The session is used from another connection.
pub const SUPERSEDED: u16 = 4502;
pub const BANNED: u16 = 4503;
pub const TOO_BIG: u16 = 4504;
pub const UNSUPPORTED_VERSION: u16 = 4505;

/// Longest reason in bytes: a control frame holds 125, two are the code (RFC 6455 section 5.5).
pub const MAX_REASON: usize = 123;

/// Whether `code` may stand in a close frame: 1000–1003, 1007–1014, 3000–4999. Received ones are held
/// to the same rule.
#[must_use]
pub const fn is_valid_to_send(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

/// What a peer that does not speak `lifeline.v1` is told in place of one of lifeline's codes; other
/// codes, also an application's own from 3000 up, stay as they are.
#[must_use]
pub const fn to_plain(code: u16) -> u16 {
    match code {
        SHUTDOWN | NO_PONG | IDLE => GOING_AWAY,
        SLOW_CONSUMER | RATE_LIMITED => TRY_AGAIN_LATER,
        TOKEN_EXPIRED | UNAUTHORIZED | SUPERSEDED | BANNED => POLICY_VIOLATION,
        STATE_INVALID | BAD_PROTOCOL | UNSUPPORTED_VERSION => PROTOCOL_ERROR,
        TOO_BIG => MESSAGE_TOO_BIG,
        other => other,
    }
}

/// A few words for people, for when nobody gave a reason; empty for codes without a meaning here.
#[must_use]
pub const fn default_reason(code: u16) -> &'static str {
    match code {
        NORMAL => "normal closure",
        GOING_AWAY => "going away",
        PROTOCOL_ERROR => "protocol error",
        UNSUPPORTED_DATA => "unsupported data",
        NO_STATUS => "no status received",
        ABNORMAL => "connection lost",
        INVALID_PAYLOAD => "invalid payload",
        POLICY_VIOLATION => "policy violation",
        MESSAGE_TOO_BIG | TOO_BIG => "message too big",
        MANDATORY_EXTENSION => "mandatory extension missing",
        INTERNAL_ERROR => "internal error",
        SERVICE_RESTART => "service restart",
        TRY_AGAIN_LATER => "try again later",
        BAD_GATEWAY => "bad gateway",
        TLS_HANDSHAKE => "TLS handshake failed",
        SHUTDOWN => "server shutdown",
        NO_PONG => "no answer to heartbeat",
        SLOW_CONSUMER => "reading too slowly",
        TOKEN_EXPIRED => "token expired",
        STATE_INVALID => "session state invalid",
        RATE_LIMITED => "rate limit exceeded",
        IDLE => "idle for too long",
        UNAUTHORIZED => "unauthorized",
        BAD_PROTOCOL => "bad protocol",
        SUPERSEDED => "superseded by another connection",
        BANNED => "banned",
        UNSUPPORTED_VERSION => "unsupported version",
        _ => "",
    }
}

/// `reason` cut to at most [`MAX_REASON`] bytes at a character boundary.
#[must_use]
pub fn truncate_reason(reason: &str) -> &str {
    let mut end = reason.len().min(MAX_REASON);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    &reason[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_on_the_wire() {
        for code in [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999] {
            assert!(is_valid_to_send(code), "{code}");
        }
        for code in [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535] {
            assert!(!is_valid_to_send(code), "{code}");
        }
    }

    #[test]
    fn plain_peers_see_only_registered_codes_of_lifeline() {
        let known = (4000..=4999).filter(|&code| !default_reason(code).is_empty());
        let mut count = 0;
        for code in known {
            count += 1;
            let plain = to_plain(code);
            assert!((1000..=1014).contains(&plain) && is_valid_to_send(plain), "{code}");
        }
        assert_eq!(count, 13);
        assert_eq!(to_plain(SHUTDOWN), 1001);
        assert_eq!(to_plain(SLOW_CONSUMER), 1013);
        assert_eq!(to_plain(RATE_LIMITED), 1013);
        assert_eq!(to_plain(TOKEN_EXPIRED), 1008);
        assert_eq!(to_plain(UNAUTHORIZED), 1008);
        assert_eq!(to_plain(BANNED), 1008);
        assert_eq!(to_plain(TOO_BIG), 1009);
        assert_eq!(to_plain(IDLE), 1001);
        assert_eq!(to_plain(4100), 4100);
        assert_eq!(to_plain(NORMAL), NORMAL);
    }

    #[test]
    fn reasons_fit_a_control_frame() {
        assert_eq!(truncate_reason("short"), "short");
        assert_eq!(truncate_reason(&"x".repeat(200)).len(), 123);
        assert_eq!(truncate_reason(&"é".repeat(100)).len(), 122);
        for code in 0..=u16::MAX {
            assert!(default_reason(code).len() <= MAX_REASON);
        }
    }
}
