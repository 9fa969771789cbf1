//! `WsMessage`: a message with what is known of it, and the means to finish with it later.

use std::cell::Cell;
use std::rc::Rc;

use ext_php_rs::convert::IntoZval;
use ext_php_rs::exception::PhpResult;
use ext_php_rs::flags::ClassFlags;
use ext_php_rs::prelude::*;
use ext_php_rs::types::{ZendClassObject, Zval};
use lifeline_engine::bridge::{ConnId, Delivery, EndpointId, MessageInfo, Verdict};

use crate::classes::{self, mask};
use crate::convert::{StringZval, boolean, int, null, text};
use crate::dispatcher::{Serial, dispatcher};
use crate::exceptions::error;

/// One handling of one message: when it ends, its bytes are credited to the peer and the
/// connection's next event comes.
#[derive(Debug)]
pub(crate) struct Turn {
    serial: Rc<Serial>,
    conn: ConnId,
    bytes: usize,
    /// What `lifeline.v1` wants to be told of the end.
    delivery: Option<(EndpointId, Delivery)>,
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
        Rc::new(Self { serial, conn, bytes, delivery, deferred: Cell::new(false), over: Cell::new(false) })
    }

    /// The handler has returned. Does not end a turn that was deferred.
    pub(crate) fn returned(&self) {
        if !self.deferred.get() {
            self.end();
        }
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
            && turn.deferred.get()
        {
            turn.end();
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

    /// Ends what defer() began. Does nothing otherwise.
    pub fn ack(&self) {
        if let Some(turn) = &self.turn
            && turn.deferred.get()
        {
            turn.end();
        }
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
    let values = [
        data.shallow_clone(),
        boolean(binary),
        optional(info.and_then(|info| info.id.as_deref())),
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
