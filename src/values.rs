//! Enums and value objects.

use ext_php_rs::convert::IntoZval;
use ext_php_rs::exception::PhpResult;
use ext_php_rs::flags::ClassFlags;
use ext_php_rs::prelude::*;
use ext_php_rs::types::{ZendClassObject, Zval};
use lifeline_engine::bridge::{GapInfo, State, Transition};
use lifeline_engine::close;

use crate::classes::{self, mask};
use crate::convert::{int, null, text};
use crate::exceptions::error;

/// State of a client. See the table of states in the guide.
#[php_enum]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WsState {
    #[php(value = "disconnected")]
    Disconnected,
    #[php(value = "connecting")]
    Connecting,
    #[php(value = "connected")]
    Connected,
    #[php(value = "reconnecting")]
    Reconnecting,
    #[php(value = "closed")]
    Closed,
}

impl From<State> for WsState {
    fn from(state: State) -> Self {
        match state {
            State::Disconnected => Self::Disconnected,
            State::Connecting => Self::Connecting,
            State::Connected => Self::Connected,
            State::Reconnecting => Self::Reconnecting,
            State::Closed => Self::Closed,
        }
    }
}

/// A client's change of state.
#[php_class]
#[php(flags = ClassFlags::Final.union(ClassFlags::NoDynamicProperties))]
#[derive(Debug)]
pub(crate) struct WsTransition;

#[php_impl]
impl WsTransition {
    #[php(vis = "private")]
    pub fn __construct() -> PhpResult<Self> {
        Err(error("WsTransition is made by lifeline"))
    }
}

/// A transition as PHP sees it.
pub(crate) fn transition(transition: &Transition) -> PhpResult<Zval> {
    let values = [
        WsState::from(transition.from).into_zval(false)?,
        WsState::from(transition.to).into_zval(false)?,
        i64::from(transition.code).into_zval(false)?,
        transition.reason.as_str().into_zval(false)?,
        i64::from(transition.attempt).into_zval(false)?,
        transition.delay.map(|delay| delay.as_secs_f64()).into_zval(false)?,
    ];
    let mut object = ZendClassObject::new(WsTransition);
    for (index, value) in values.into_iter().enumerate() {
        classes::init_property(&mut object.std, index, value);
    }
    Ok(object.into_zval(false)?)
}

/// Messages that will not come.
#[php_class]
#[php(flags = ClassFlags::Final.union(ClassFlags::NoDynamicProperties))]
#[derive(Debug)]
pub(crate) struct WsGap;

#[php_impl]
impl WsGap {
    #[php(vis = "private")]
    pub fn __construct() -> PhpResult<Self> {
        Err(error("WsGap is made by lifeline"))
    }
}

/// A gap as PHP sees it.
pub(crate) fn gap(gap: &GapInfo) -> PhpResult<Zval> {
    let values = [
        gap.channel.as_deref().map_or_else(null, text),
        int(gap.from.cast_signed()),
        gap.to.map_or_else(null, |to| int(to.cast_signed())),
        text(&gap.why),
    ];
    let mut object = ZendClassObject::new(WsGap);
    for (index, value) in values.into_iter().enumerate() {
        classes::init_property(&mut object.std, index, value);
    }
    Ok(object.into_zval(false)?)
}

/// Close codes: RFC 6455 section 7.4.1, the IANA registry, and lifeline's own.
#[php_class]
#[php(flags = ClassFlags::Final.union(ClassFlags::NoDynamicProperties))]
#[derive(Debug)]
pub(crate) struct WsClose;

#[php_impl]
impl WsClose {
    pub const NORMAL: i64 = close::NORMAL as i64;
    pub const GOING_AWAY: i64 = close::GOING_AWAY as i64;
    pub const PROTOCOL_ERROR: i64 = close::PROTOCOL_ERROR as i64;
    pub const UNSUPPORTED_DATA: i64 = close::UNSUPPORTED_DATA as i64;
    pub const NO_STATUS: i64 = close::NO_STATUS as i64;
    pub const ABNORMAL: i64 = close::ABNORMAL as i64;
    pub const INVALID_PAYLOAD: i64 = close::INVALID_PAYLOAD as i64;
    pub const POLICY_VIOLATION: i64 = close::POLICY_VIOLATION as i64;
    pub const MESSAGE_TOO_BIG: i64 = close::MESSAGE_TOO_BIG as i64;
    pub const MANDATORY_EXTENSION: i64 = close::MANDATORY_EXTENSION as i64;
    pub const INTERNAL_ERROR: i64 = close::INTERNAL_ERROR as i64;
    pub const SERVICE_RESTART: i64 = close::SERVICE_RESTART as i64;
    pub const TRY_AGAIN_LATER: i64 = close::TRY_AGAIN_LATER as i64;
    pub const BAD_GATEWAY: i64 = close::BAD_GATEWAY as i64;
    pub const TLS_HANDSHAKE: i64 = close::TLS_HANDSHAKE as i64;
    pub const SHUTDOWN: i64 = close::SHUTDOWN as i64;
    pub const NO_PONG: i64 = close::NO_PONG as i64;
    pub const SLOW_CONSUMER: i64 = close::SLOW_CONSUMER as i64;
    pub const TOKEN_EXPIRED: i64 = close::TOKEN_EXPIRED as i64;
    pub const STATE_INVALID: i64 = close::STATE_INVALID as i64;
    pub const RATE_LIMITED: i64 = close::RATE_LIMITED as i64;
    pub const IDLE: i64 = close::IDLE as i64;
    pub const UNAUTHORIZED: i64 = close::UNAUTHORIZED as i64;
    pub const BAD_PROTOCOL: i64 = close::BAD_PROTOCOL as i64;
    pub const SUPERSEDED: i64 = close::SUPERSEDED as i64;
    pub const BANNED: i64 = close::BANNED as i64;
    pub const TOO_BIG: i64 = close::TOO_BIG as i64;
    pub const UNSUPPORTED_VERSION: i64 = close::UNSUPPORTED_VERSION as i64;

    #[php(vis = "private")]
    pub fn __construct() -> PhpResult<Self> {
        Err(error("WsClose holds constants"))
    }
}

/// Adds the enum to the module.
pub(crate) fn register_enum(module: ModuleBuilder) -> ModuleBuilder {
    module.enumeration::<WsState>()
}

/// Registers the classes; only in MINIT.
pub(crate) fn register() -> ext_php_rs::error::Result<()> {
    classes::register::<WsClose>(&[])?;
    let gap = classes::register::<WsGap>(&[])?;
    classes::readonly(gap, c"channel", mask::STRING | mask::NULL);
    classes::readonly(gap, c"from", mask::LONG);
    classes::readonly(gap, c"to", mask::LONG | mask::NULL);
    classes::readonly(gap, c"why", mask::STRING);
    let transition = classes::register::<WsTransition>(&[])?;
    classes::readonly_object(transition, c"from", c"WsState", 0);
    classes::readonly_object(transition, c"to", c"WsState", 0);
    classes::readonly(transition, c"code", mask::LONG);
    classes::readonly(transition, c"reason", mask::STRING);
    classes::readonly(transition, c"attempt", mask::LONG);
    classes::readonly(transition, c"delay", mask::DOUBLE | mask::NULL);
    Ok(())
}
