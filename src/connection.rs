//! `WsConnection`: one connection of a `WsServer`, the same object for the connection's life.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use ext_php_rs::convert::IntoZval;
use ext_php_rs::exception::PhpResult;
use ext_php_rs::flags::ClassFlags;
use ext_php_rs::prelude::*;
use ext_php_rs::types::{ZendClassObject, Zval};
use lifeline_engine::bridge::{Command, CommandError, ConnId, OpenInfo, Reply, Sent, Stats};
use lifeline_engine::close;
use lifeline_engine::http::RequestHead;

use crate::argument::{PhpBool, PhpBytes, PhpInt};
use crate::classes::{self, mask};
use crate::convert::{ArrayZval, RequestZval, boolean, int, null, text};
use crate::dispatcher::{Serial, dispatcher};
use crate::exceptions::{argument_value_error, error, exception};
use crate::lifecycle::{generation, inherited, query, send_now, submit, with_bridge};
use crate::request;
use crate::session;

/// Index of `$session` among the declared properties.
const SESSION: usize = 5;
/// The same of `$user`.
const USER: usize = 6;
/// Messages from this length on are not worth a copy to be sent together with others.
const LONG: usize = 32 * 1024;

/// What server and object share of a connection.
#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) id: ConnId,
    pub(crate) serial: Rc<Serial>,
    generation: u32,
    /// False once `Close` was delivered or the server is gone.
    open: Cell<bool>,
    request: Option<Arc<RequestHead>>,
    /// Its session, which may outlive it.
    session: Option<Rc<session::Shared>>,
}

impl Conn {
    /// A connection with its object; `session` is its session and the WsSession for it.
    pub(crate) fn new(id: ConnId, info: &OpenInfo, session: Option<(Rc<session::Shared>, Zval)>) -> (Rc<Self>, Zval) {
        let (session, object_of_session) =
            session.map_or_else(|| (None, null()), |(shared, object)| (Some(shared), object));
        let conn = Rc::new(Self {
            id,
            serial: Rc::default(),
            generation: generation(),
            open: Cell::new(true),
            request: info.request.clone(),
            session,
        });
        let mut object = ZendClassObject::new(WsConnection { conn: Rc::clone(&conn) });
        let values = [
            int(id.0.cast_signed()),
            text(info.remote()),
            text(info.request.as_ref().map_or("", |request| request.path())),
            text(&info.protocol),
            boolean(info.resumed),
            object_of_session,
            info.user
                .as_deref()
                .or_else(|| info.session.as_ref().and_then(|session| session.user.as_deref()))
                .map_or_else(null, text),
        ];
        for (index, value) in values.into_iter().enumerate() {
            classes::init_property(&mut object.std, index, value);
        }
        let mut zval = Zval::new();
        // Does not fail for an object.
        let _ = object.set_zval(&mut zval, false);
        (conn, zval)
    }

    /// `Close` is being delivered, or the server is gone.
    pub(crate) fn closed(&self) {
        self.open.set(false);
    }

    pub(crate) fn is_open(&self) -> bool {
        self.open.get()
    }

    /// Throws in a process that inherited the object; false: closed.
    fn usable(&self) -> PhpResult<bool> {
        if self.generation != generation() {
            return Err(inherited("WsConnection"));
        }
        Ok(self.open.get())
    }

    /// Sends to the session, for when the client comes back; false: it has none, or it has ended.
    fn send_later(&self, data: Bytes, binary: bool) -> PhpResult<bool> {
        let Some(session) = self.session.as_deref() else { return Ok(false) };
        let command = Command::SessionSend { server: session.server, session: session.id.clone(), data, binary };
        Ok(matches!(submit(command)?, Reply::Sequence(1..)))
    }

    /// Gives a command that does nothing on a closed connection.
    fn tell(&self, command: Command) -> PhpResult<()> {
        if self.usable()? {
            submit(command)?;
        }
        Ok(())
    }
}

/// One connection of a WsServer.
#[php_class]
#[php(flags = ClassFlags::Final.union(ClassFlags::NoDynamicProperties))]
#[derive(Debug)]
pub(crate) struct WsConnection {
    conn: Rc<Conn>,
}

#[php_impl]
impl WsConnection {
    #[php(vis = "private")]
    pub fn __construct() -> PhpResult<Self> {
        Err(error("a WsConnection is made by WsServer"))
    }

    /// Gives the connection a user, for sendToUser() and the like; sets $user.
    pub fn bind(self_: &mut ZendClassObject<Self>, user: PhpBytes) -> PhpResult<()> {
        let name = utf8(1, user)?;
        if name.is_empty() {
            return Err(argument_value_error(1, "must not be empty"));
        }
        self_.conn.tell(Command::Bind { conn: self_.conn.id, user: name.into() })?;
        classes::init_property(&mut self_.std, USER, text(name));
        session::bind(classes::property(&mut self_.std, SESSION), name);
        Ok(())
    }

    /// Queues a message. False: the connection is closed and has no session that goes on, or its send buffer
    /// is full and send.policy dropped the message.
    #[php(defaults(binary = false))]
    pub fn send(&self, data: PhpBytes, binary: PhpBool) -> PhpResult<bool> {
        let open = self.conn.usable()?;
        if !open && self.conn.session.is_none() {
            return Ok(false);
        }
        check_payload(1, data, binary)?;
        if !open {
            return self.conn.send_later(Bytes::copy_from_slice(data.0), binary.0);
        }
        if data.0.len() >= LONG && send_now(self.conn.id, data.0, binary.0) {
            return Ok(true);
        }
        let command = Command::Send { conn: self.conn.id, data: Bytes::copy_from_slice(data.0), binary: binary.0 };
        match submit(command)? {
            // It has ended, which PHP has not been told yet.
            Reply::Sent(Sent::Closed) => self.conn.send_later(Bytes::copy_from_slice(data.0), binary.0),
            reply => Ok(matches!(reply, Reply::Sent(Sent::Queued))),
        }
    }

    /// Sends what is queued, then closes.
    #[php(defaults(code = 1000, reason = PhpBytes::EMPTY))]
    pub fn close(&self, code: PhpInt, reason: PhpBytes) -> PhpResult<()> {
        let code = close_code(1, code)?;
        let reason = close_reason(2, reason)?;
        self.conn.tell(Command::Close { conn: self.conn.id, code, reason })
    }

    /// Drops the socket now; what is queued is lost. onClose gets 1006.
    pub fn abort(&self) -> PhpResult<()> {
        self.conn.tell(Command::Abort { conn: self.conn.id })
    }

    /// Sends a ping, beside the heartbeats.
    #[php(defaults(payload = PhpBytes::EMPTY))]
    pub fn ping(&self, payload: PhpBytes) -> PhpResult<()> {
        if payload.0.len() > 125 {
            return Err(argument_value_error(1, &format!("must be at most 125 bytes, {} given", payload.0.len())));
        }
        self.conn.tell(Command::Ping { conn: self.conn.id, payload: Bytes::copy_from_slice(payload.0) })
    }

    /// Makes it a member of the channel.
    pub fn subscribe(&self, channel: PhpBytes) -> PhpResult<()> {
        let channel = channel_name(1, channel)?.into();
        self.conn.tell(Command::Subscribe { conn: self.conn.id, channel })
    }

    /// Ends its membership of the channel.
    pub fn unsubscribe(&self, channel: PhpBytes) -> PhpResult<()> {
        let channel = channel_name(1, channel)?.into();
        self.conn.tell(Command::Unsubscribe { conn: self.conn.id, channel })
    }

    /// The channels it is a member of.
    pub fn channels(&self) -> PhpResult<ArrayZval> {
        let names = if self.conn.usable()? {
            match query(Command::ChannelsOf { conn: self.conn.id })? {
                Reply::Names(names) => names,
                _ => Vec::new(),
            }
        } else {
            Vec::new()
        };
        Ok(ArrayZval(crate::convert::names(&names)))
    }

    /// Neither closed nor closing.
    pub fn is_open(&self) -> PhpResult<bool> {
        Ok(self.conn.usable()? && matches!(query(Command::IsOpen { conn: self.conn.id })?, Reply::Flag(true)))
    }

    /// Bytes queued and not yet given to the kernel.
    pub fn buffered_bytes(&self) -> PhpResult<i64> {
        if !self.conn.usable()? {
            return Ok(0);
        }
        match query(Command::BufferedBytes { conn: self.conn.id })? {
            Reply::Count(count) => Ok(i64::try_from(count).unwrap_or(i64::MAX)),
            _ => Ok(0),
        }
    }

    /// Smoothed round-trip time in seconds; null until the first answered ping.
    pub fn rtt(&self) -> PhpResult<Option<f64>> {
        if !self.conn.usable()? {
            return Ok(None);
        }
        match query(Command::RoundTrip { conn: self.conn.id })? {
            Reply::Time(time) => Ok(time.map(|time| time.as_secs_f64())),
            _ => Ok(None),
        }
    }

    /// Counters; empty when closed.
    pub fn stats(&self) -> PhpResult<ArrayZval> {
        let stats = if self.conn.usable()? {
            match query(Command::ConnStats { conn: self.conn.id })? {
                Reply::Stats(stats) => stats,
                _ => Stats::default(),
            }
        } else {
            Stats::default()
        };
        Ok(ArrayZval(crate::convert::stats(&stats)))
    }

    /// The request that opened it.
    pub fn handshake(&self) -> PhpResult<RequestZval> {
        match &self.conn.request {
            Some(request) => Ok(RequestZval(request::build(request))),
            None => Err(exception(format!("connection {} has no request", self.conn.id.0))),
        }
    }

    /// Turns a log of everything on the wire on or off (log level debug).
    pub fn trace(&self, on: PhpBool) -> PhpResult<()> {
        self.conn.tell(Command::Trace { conn: self.conn.id, on: on.0 })
    }
}

/// Registers class and interface; only in MINIT.
pub(crate) fn register() -> ext_php_rs::error::Result<()> {
    classes::register_interface::<WsConnection>("WsConnectionInterface", &INTERFACE)?;
    let class = classes::register::<WsConnection>(&[(|| INTERFACE.entry(), "WsConnectionInterface")])?;
    classes::readonly(class, c"id", mask::LONG);
    classes::readonly(class, c"remoteAddress", mask::STRING);
    classes::readonly(class, c"path", mask::STRING);
    classes::readonly(class, c"protocol", mask::STRING);
    classes::readonly(class, c"resumed", mask::BOOL);
    classes::readonly_object(class, c"session", c"WsSession", mask::NULL);
    classes::readonly(class, c"user", mask::STRING | mask::NULL);
    classes::mixed(class, c"data");
    Ok(())
}

static INTERFACE: classes::Entry = classes::Entry::new();

/// A connection's id out of a value: an object of the class, or a number.
pub(crate) fn id_of(value: &Zval) -> Option<ConnId> {
    let value = value.dereference();
    if let Some(id) = value.long() {
        return Some(ConnId(id.cast_unsigned()));
    }
    let object = ZendClassObject::<WsConnection>::from_zend_obj(value.object()?)?;
    Some(object.conn.id)
}

/// Text must be UTF-8, or the peer would have to close the connection.
pub(crate) fn utf8(number: u32, value: PhpBytes<'_>) -> PhpResult<&str> {
    std::str::from_utf8(value.0).map_err(|_| argument_value_error(number, "must be valid UTF-8"))
}

/// The data of a message; any bytes where it is binary.
pub(crate) fn payload(number: u32, data: PhpBytes, binary: PhpBool) -> PhpResult<Bytes> {
    check_payload(number, data, binary)?;
    Ok(Bytes::copy_from_slice(data.0))
}

/// Whether a message may have these bytes.
pub(crate) fn is_payload(data: &[u8], binary: PhpBool) -> bool {
    binary.0 || simdutf8::basic::from_utf8(data).is_ok()
}

fn check_payload(number: u32, data: PhpBytes, binary: PhpBool) -> PhpResult<()> {
    if !is_payload(data.0, binary) {
        return Err(argument_value_error(number, "must be valid UTF-8 unless $binary is true"));
    }
    Ok(())
}

/// RFC 6455 section 7.4: what an application may send.
pub(crate) fn close_code(number: u32, code: PhpInt) -> PhpResult<u16> {
    match u16::try_from(code.0) {
        Ok(code) if close::is_valid_to_send(code) => Ok(code),
        _ => Err(argument_value_error(
            number,
            &format!("must be a close code that may be sent: 1000-1003, 1007-1014 or 3000-4999, {} given", code.0),
        )),
    }
}

/// A close frame carries 125 bytes, two of them the code.
pub(crate) fn close_reason(number: u32, reason: PhpBytes) -> PhpResult<String> {
    let text = utf8(number, reason)?;
    if text.len() > 123 {
        return Err(argument_value_error(number, &format!("must be at most 123 bytes, {} given", text.len())));
    }
    Ok(text.to_owned())
}

/// 1 to 255 bytes of UTF-8 without control characters.
pub(crate) fn channel_name(number: u32, channel: PhpBytes<'_>) -> PhpResult<&str> {
    match std::str::from_utf8(channel.0) {
        Ok(name) if (1..=255).contains(&name.len()) && !name.chars().any(char::is_control) => Ok(name),
        _ => Err(argument_value_error(number, "must be 1 to 255 bytes of UTF-8 without control characters")),
    }
}

/// Closes a connection from inside; a connection that is gone does not mind.
pub(crate) fn close_quietly(conn: ConnId, code: u16, reason: &str) {
    let command = Command::Close { conn, code, reason: reason.to_owned() };
    let _: Option<Result<Reply, CommandError>> = with_bridge(|bridge| bridge.submit(command));
    dispatcher().submitted();
}
