//! `WsDocument`: a map of JSON values on a channel, which a server shares with its clients.
#![expect(non_snake_case, reason = "names of parameters in PHP")]

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use ext_php_rs::convert::IntoZval;
use ext_php_rs::exception::PhpResult;
use ext_php_rs::flags::ClassFlags;
use ext_php_rs::prelude::*;
use ext_php_rs::types::{ZendClassObject, ZendHashTable, Zval};
use lifeline_engine::bridge::{Bounds, Command, DocumentChange, DocumentInfo, EditInfo, EndpointId, Reply, Write};

use crate::argument::{PhpBytes, PhpInt};
use crate::callable::{Callback, Callbacks, PhpCb};
use crate::classes::{self, mask};
use crate::connection::utf8;
use crate::convert::{MixedZval, This, boolean, entries, int, key_text, null, text};
use crate::exceptions::{Class, argument_value_error, error, exception, type_error, value_error};
use crate::lifecycle::{generation, inherited, query, submit};
use crate::options::kind;
use crate::session::{decode, encode};

/// Keys that a document may be given room for.
const MAX_KEYS: i64 = 1_000_000;

/// Numbers of the callbacks.
const WRITE: usize = 0;
const CHANGE: usize = 1;

/// What object and server share of a document.
#[derive(Debug)]
pub(crate) struct Shared {
    server: EndpointId,
    channel: Box<str>,
    generation: u32,
    bounds: Cell<Bounds>,
    write: Cell<Write>,
    callbacks: Callbacks<2>,
    over: Cell<bool>,
}

/// A document with its object.
pub(crate) type Seen = (Rc<Shared>, Zval);

impl Shared {
    /// Opens the channel's document; `longest` bytes fit into a message.
    pub(crate) fn open(
        server: EndpointId,
        channel: &str,
        options: Option<&ZendHashTable>,
        longest: usize,
    ) -> PhpResult<Seen> {
        let bounds = Bounds { bytes: Bounds::default().bytes.min(longest), ..Bounds::default() };
        let shared = Rc::new(Self {
            server,
            channel: channel.into(),
            generation: generation(),
            bounds: Cell::new(bounds),
            write: Cell::new(Write::Subscribers),
            callbacks: Callbacks::default(),
            over: Cell::new(false),
        });
        shared.configure(options, longest)?;
        let mut object = ZendClassObject::new(WsDocument { shared: Rc::clone(&shared) });
        classes::init_property(&mut object.std, 0, text(channel));
        let mut zval = Zval::new();
        // Does not fail for an object.
        let _ = object.set_zval(&mut zval, false);
        Ok((shared, zval))
    }

    /// Sets the rules that `options` has; others stay.
    pub(crate) fn configure(&self, options: Option<&ZendHashTable>, longest: usize) -> PhpResult<()> {
        let (mut bounds, mut write, mut callback) = (self.bounds.get(), self.write.get(), None);
        for (key, value) in options.into_iter().flat_map(entries) {
            let value = value.dereference();
            match key_text(&key).as_str() {
                "keys" => bounds.keys = size("keys", value, MAX_KEYS)?,
                "bytes" => bounds.bytes = size("bytes", value, i64::try_from(longest).unwrap_or(i64::MAX))?,
                "write" => (write, callback) = rule(value)?,
                unknown => {
                    return Err(value_error(format!(
                        "WsServer::document(): unknown option '{}', known are bytes, keys, write",
                        unknown.escape_debug()
                    )));
                }
            }
        }
        self.bounds.set(bounds);
        self.write.set(write);
        if let Some(callback) = callback {
            self.callbacks.set(WRITE, Callback(callback), "WsServer::document(): option 'write'", 5)?;
        }
        self.tell()
    }

    /// The engine learns the rules.
    fn tell(&self) -> PhpResult<()> {
        let (server, channel) = (self.server, self.channel.clone());
        let watch = self.callbacks.is_set(CHANGE);
        let (bounds, write) = (self.bounds.get(), self.write.get());
        submit(Command::OpenDocument { server, channel, bounds, write, watch }).map(drop)
    }

    /// The server has ended, and the document with it.
    pub(crate) fn end(&self) {
        self.over.set(true);
        self.callbacks.clear();
    }

    pub(crate) fn visit(&self, see: &mut dyn FnMut(&Zval)) {
        self.callbacks.visit(see);
    }

    /// The callback that decides on edits.
    pub(crate) fn write_callback(&self) -> Option<Rc<PhpCb>> {
        self.callbacks.get(WRITE)
    }

    pub(crate) fn change_callback(&self) -> Option<Rc<PhpCb>> {
        self.callbacks.get(CHANGE)
    }

    /// The arguments of the callback that decides on an edit.
    pub(crate) fn edit_arguments(&self, connection: &Zval, edit: &EditInfo) -> PhpResult<[Zval; 5]> {
        let value = edit.value.as_ref().map_or_else(null, |value| decode(value));
        let version = self.info(Some(&edit.key))?.entries.first().map_or(0, |entry| entry.version);
        let deletion = boolean(edit.value.is_none());
        Ok([connection.shallow_clone(), text(&edit.key), value, int(version.cast_signed()), deletion])
    }

    /// What clients have changed.
    pub(crate) fn take_changes(&self) -> Vec<DocumentChange> {
        let command = Command::TakeChanges { server: self.server, channel: self.channel.clone() };
        match query(command) {
            Ok(Reply::Changes(changes)) => changes,
            _ => Vec::new(),
        }
    }

    fn usable(&self) -> PhpResult<()> {
        if self.generation != generation() {
            return Err(inherited("WsDocument"));
        }
        if self.over.get() {
            return Err(exception(format!("the server of document '{}' has ended", self.channel)));
        }
        Ok(())
    }

    fn info(&self, key: Option<&str>) -> PhpResult<DocumentInfo> {
        self.usable()?;
        let key = key.map(Box::from);
        match query(Command::Document { server: self.server, channel: self.channel.clone(), key })? {
            Reply::Document(Some(info)) => Ok(*info),
            _ => Err(exception(format!("the server of document '{}' has ended", self.channel))),
        }
    }

    /// Sets a key or removes it; returns the version.
    fn change(&self, key: PhpBytes, value: Option<bytes::Bytes>, if_version: Option<PhpInt>) -> PhpResult<i64> {
        self.usable()?;
        let key = key_of(key)?;
        let if_version = match if_version {
            Some(PhpInt(version)) => Some(
                u64::try_from(version)
                    .map_err(|_| value_error(format!("$ifVersion must be 0 or more, {version} given")))?,
            ),
            None => None,
        };
        let (server, channel) = (self.server, self.channel.clone());
        let command = Command::ChangeDocument { server, channel, key: key.into(), value, if_version };
        if let Reply::Version(Some(version)) = submit(command)? {
            return Ok(version.cast_signed());
        }
        let version = self.info(Some(key))?.entries.first().map_or(0, |entry| entry.version);
        let wanted = if_version.unwrap_or(0);
        let message = format!("document '{}': '{key}' has version {version}, not {wanted} (0: none)", self.channel);
        Err(Class::Conflict.exception(message, 0))
    }
}

/// All values by key.
pub(crate) fn all(info: &DocumentInfo) -> Zval {
    let mut table = ZendHashTable::new();
    for entry in &info.entries {
        // Fails only when memory does.
        let _ = table.insert(&*entry.key, decode(&entry.value));
    }
    let mut zval = Zval::new();
    zval.set_hashtable(table);
    zval
}

/// A key of a document.
pub(crate) fn key_of(key: PhpBytes<'_>) -> PhpResult<&str> {
    let key = utf8(1, key)?;
    if key.is_empty() || key.len() > 255 {
        return Err(argument_value_error(1, "must be 1 to 255 bytes of UTF-8"));
    }
    Ok(key)
}

fn size(name: &str, value: &Zval, most: i64) -> PhpResult<usize> {
    let place = format!("WsServer::document(): option '{name}' must be");
    let Some(number) = value.long() else {
        return Err(type_error(format!("{place} an int, {} given", kind(value))));
    };
    if !(1..=most).contains(&number) {
        return Err(value_error(format!("{place} 1 to {most}, {number} given")));
    }
    Ok(usize::try_from(number).unwrap_or(usize::MAX))
}

/// The option `write`.
fn rule(value: &Zval) -> PhpResult<(Write, Option<PhpCb>)> {
    match value.bool() {
        Some(true) => Ok((Write::Subscribers, None)),
        Some(false) => Ok((Write::Nobody, None)),
        None => match PhpCb::new(value) {
            Ok(callback) => Ok((Write::Ask, Some(callback))),
            Err(_) => Err(type_error(format!(
                "WsServer::document(): option 'write' must be a bool or a callable, {} given",
                kind(value)
            ))),
        },
    }
}

/// A map of JSON values that a server shares with the clients of a channel.
#[php_class]
#[php(flags = ClassFlags::Final.union(ClassFlags::NoDynamicProperties))]
#[derive(Debug)]
pub(crate) struct WsDocument {
    shared: Rc<Shared>,
}

#[php_impl]
impl WsDocument {
    #[php(vis = "private")]
    pub fn __construct() -> PhpResult<Self> {
        Err(error("a WsDocument is made by WsServer::document()"))
    }

    /// The value of a key, null where there is none; without a key, all of them.
    pub fn get(&self, key: Option<PhpBytes>) -> PhpResult<MixedZval> {
        if let Some(key) = key {
            let info = self.shared.info(Some(key_of(key)?))?;
            return Ok(MixedZval(info.entries.first().map_or_else(null, |entry| decode(&entry.value))));
        }
        Ok(MixedZval(all(&self.shared.info(None)?)))
    }

    /// Sets a key; its new version.
    pub fn set(&self, key: PhpBytes, value: &Zval, ifVersion: Option<PhpInt>) -> PhpResult<i64> {
        let json = encode(value.dereference(), "the value")?;
        self.shared.change(key, Some(json), ifVersion)
    }

    /// Removes a key; the document's new version.
    pub fn delete(&self, key: PhpBytes, ifVersion: Option<PhpInt>) -> PhpResult<i64> {
        self.shared.change(key, None, ifVersion)
    }

    /// The version of a key, 0 where there is none; without a key, the document's.
    pub fn version(&self, key: Option<PhpBytes>) -> PhpResult<i64> {
        let info = match key {
            Some(key) => {
                let info = self.shared.info(Some(key_of(key)?))?;
                return Ok(info.entries.first().map_or(0, |entry| entry.version.cast_signed()));
            }
            // Its version alone.
            None => self.shared.info(Some("\u{0}"))?,
        };
        Ok(info.version.cast_signed())
    }

    /// fn (string $key, mixed $value, int $version, ?WsConnection $by, bool $deleted): a client has changed a key.
    pub fn on_change(&self, callback: Callback) -> PhpResult<This> {
        self.shared.usable()?;
        self.shared.callbacks.set(CHANGE, callback, "WsDocument::onChange()", 5)?;
        self.shared.tell()?;
        Ok(This)
    }
}

/// The arguments of `onChange`.
pub(crate) fn change_arguments(change: &DocumentChange, by: Zval) -> [Zval; 5] {
    let value = change.value.as_ref().map_or_else(null, |value| decode(value));
    let (version, deleted) = (int(change.version.cast_signed()), boolean(change.value.is_none()));
    [text(&change.key), value, version, by, deleted]
}

/// The documents that PHP has opened.
pub(crate) type Documents = RefCell<std::collections::HashMap<Box<str>, Seen>>;

/// Registers the class; only in MINIT.
pub(crate) fn register() -> ext_php_rs::error::Result<()> {
    let class = classes::register::<WsDocument>(&[])?;
    classes::readonly(class, c"channel", mask::STRING);
    classes::set_type(class, c"onchange", 0, mask::STATIC);
    Ok(())
}
