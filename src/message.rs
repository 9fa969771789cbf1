//! `WsMessage`: a message with what is known of it, and the means to finish with it later.

use std::cell::Cell;
use std::rc::Rc;

use ext_php_rs::convert::IntoZval;
use ext_php_rs::exception::PhpResult;
use ext_php_rs::flags::ClassFlags;
use ext_php_rs::prelude::*;
use ext_php_rs::types::{ZendClassObject, Zval};
use lifeline_engine::bridge::{ConnId, Delivery, EndpointId, Event, Failure, FailureKind, MessageInfo, Verdict};

use crate::argument::{PhpBool, PhpBytes, PhpInt};
use crate::classes::{self, mask};
use crate::connection::utf8;
use crate::convert::{StringZval, boolean, int, null, text};
use crate::dispatcher::{Serial, dispatcher};
use crate::exceptions::{argument_value_error, error};
use crate::failure::REASON;
use crate::lifecycle::worker_is_ending;

/// One handling of one message: when it ends, its bytes are credited to the peer and the
/// connection's next event comes.
#[derive(Debug)]
pub(crate) struct Turn {
    serial: Rc<Serial>,
    conn: ConnId,
    bytes: usize,
    /// What `lifeline.v1` wants to be told of the end.
    delivery: Option<(EndpointId, Delivery)>,
    /// It ends by ack() or reject() alone (option `ack`).
    manual: bool,
    deferred: Cell<bool>,
    over: Cell<bool>,
}

impl Turn {
    pub(crate) fn new(
        serial: &Rc<Serial>,
        conn: ConnId,
        bytes: usize,
        delivery: Option<(EndpointId, Delivery)>,
    ) -> Rc<Self> {
        let serial = Rc::clone(serial);
        let (deferred, over) = (Cell::new(false), Cell::new(false));
        Rc::new(Self { serial, conn, bytes, delivery, manual: false, deferred, over })
    }

    /// An item's, which ends only when the handler says so.
    pub(crate) fn manual(
        serial: &Rc<Serial>,
        conn: ConnId,
        bytes: usize,
        delivery: Option<(EndpointId, Delivery)>,
    ) -> Rc<Self> {
        let serial = Rc::clone(serial);
        let (deferred, over) = (Cell::new(false), Cell::new(false));
        Rc::new(Self { serial, conn, bytes, delivery, manual: true, deferred, over })
    }

    /// The handler has returned. Does not end a turn that was deferred, or is ended by hand.
    pub(crate) fn returned(&self) {
        if !self.deferred.get() && !self.manual {
            self.end();
        }
    }

    /// Nobody can end the turn any more. Whether an item was handled, nobody knows: it comes again.
    pub(crate) fn abandon(&self) {
        if self.over.get() {
            return;
        }
        if worker_is_ending() {
            return self.forget();
        }
        let Some((endpoint, Delivery::Item { outbox, id })) = &self.delivery else { return self.end() };
        let message = format!("message {outbox}:{} was dropped without ack() or reject()", id.sequence);
        let failure = Box::new(Failure { kind: FailureKind::Application, message, code: 0 });
        let event = Event::Failure { endpoint: *endpoint, conn: Some(self.conn), failure };
        self.end_with(Verdict::Failed);
        dispatcher().requeue([event].into());
    }

    /// Nobody is told how it ends.
    pub(crate) fn forget(&self) {
        self.over.set(true);
    }

    /// Nothing that is said of it matters any more.
    pub(crate) fn is_over(&self) -> bool {
        self.over.get()
    }

    /// It is an item of a client's outbox.
    pub(crate) fn is_item(&self) -> bool {
        matches!(self.delivery, Some((_, Delivery::Item { .. })))
    }

    /// Ends the turn: all is well.
    fn end(&self) {
        self.end_with(Verdict::Done);
    }

    /// Ends the turn whatever was said before.
    pub(crate) fn end_with(&self, verdict: Verdict) {
        if self.over.replace(true) {
            return;
        }
        dispatcher().consume(self.conn, self.bytes);
        if let Some((endpoint, delivery)) = &self.delivery {
            dispatcher().verdict(*endpoint, delivery.clone(), verdict);
        }
        if self.deferred.get() {
            self.serial.acknowledge();
        }
    }

    fn defer(&self) {
        if !self.over.get() && !self.deferred.replace(true) {
            self.serial.defer();
        }
    }
}

/// A message as `onMessage` gets it.
#[php_class]
#[php(flags = ClassFlags::Final.union(ClassFlags::NoDynamicProperties))]
#[derive(Debug)]
pub(crate) struct WsMessage {
    /// None: it came without a handler, there is nothing to put off.
    turn: Option<Rc<Turn>>,
    data: Zval,
}

impl Drop for WsMessage {
    fn drop(&mut self) {
        // A deferral that nobody can end any more would hold up the connection for ever.
        if let Some(turn) = &self.turn
            && (turn.deferred.get() || turn.manual)
        {
            turn.abandon();
        }
    }
}

#[php_impl]
impl WsMessage {
    #[php(vis = "private")]
    pub fn __construct() -> PhpResult<Self> {
        Err(error("a WsMessage is made by WsServer and WsClient"))
    }

    /// The handler goes on after it has returned (coroutine, promise): the connection's next event
    /// comes after ack().
    pub fn defer(&self) {
        if let Some(turn) = &self.turn {
            turn.defer();
        }
    }

    /// Ends what defer() began, and acknowledges the message to a client that waits for it.
    pub fn ack(&self) {
        if let Some(turn) = &self.turn
            && (turn.deferred.get() || turn.is_item())
        {
            turn.end();
        }
    }

    /// Refuses the message. The client is told for good, or unless $permanent sends it again later.
    #[php(defaults(reason = PhpBytes::EMPTY, code = 0, permanent = true))]
    pub fn reject(&self, reason: PhpBytes, code: PhpInt, permanent: PhpBool) -> PhpResult<()> {
        let reason = utf8(1, reason)?;
        if reason.len() > REASON {
            return Err(argument_value_error(1, &format!("must be at most {REASON} bytes, {} given", reason.len())));
        }
        let Ok(code) = i32::try_from(code.0) else {
            return Err(argument_value_error(
                2,
                &format!("must be between -2147483648 and 2147483647, {} given", code.0),
            ));
        };
        if let Some(turn) = &self.turn
            && (turn.deferred.get() || turn.is_item())
        {
            turn.end_with(Verdict::Rejected { code, reason: reason.to_owned(), permanent: permanent.0 });
        }
        Ok(())
    }

    /// The data.
    pub fn __to_string(&self) -> StringZval {
        StringZval(self.data.shallow_clone())
    }
}

/// Registers the class; only in MINIT.
pub(crate) fn register() -> ext_php_rs::error::Result<()> {
    let class = classes::register::<WsMessage>(&[])?;
    classes::readonly(class, c"data", mask::STRING);
    classes::readonly(class, c"binary", mask::BOOL);
    classes::readonly(class, c"id", mask::STRING | mask::NULL);
    classes::readonly(class, c"channel", mask::STRING | mask::NULL);
    classes::readonly(class, c"sequence", mask::LONG | mask::NULL);
    Ok(())
}

/// A `WsMessage` object that shares the string `data`.
pub(crate) fn build(data: &Zval, binary: bool, info: Option<&MessageInfo>, turn: Option<Rc<Turn>>) -> Zval {
    let mut object = ZendClassObject::new(WsMessage { turn, data: data.shallow_clone() });
    let optional = |value: Option<&str>| value.map_or_else(null, text);
    // An item is told by its outbox and its number there.
    let key = match info.and_then(|info| info.delivery.as_ref()) {
        Some(Delivery::Item { outbox, id }) => Some(format!("{outbox}:{}", id.sequence)),
        _ => None,
    };
    let values = [
        data.shallow_clone(),
        boolean(binary),
        optional(key.as_deref().or_else(|| info.and_then(|info| info.id.as_deref()))),
        optional(info.and_then(|info| info.channel.as_deref())),
        info.map_or_else(null, |info| int(info.sequence.cast_signed())),
    ];
    for (index, value) in values.into_iter().enumerate() {
        classes::init_property(&mut object.std, index, value);
    }
    let mut zval = Zval::new();
    // Does not fail for an object.
    let _ = object.set_zval(&mut zval, false);
    zval
}
