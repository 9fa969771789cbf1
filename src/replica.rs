//! `WsReplica`: a server's document, as a client follows and edits it.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak};

use bytes::Bytes;
use ext_php_rs::convert::IntoZval;
use ext_php_rs::exception::PhpResult;
use ext_php_rs::flags::ClassFlags;
use ext_php_rs::prelude::*;
use ext_php_rs::types::{ZendClassObject, ZendHashTable, Zval};
use lifeline_engine::bridge::{Command, DocumentChange, DocumentConflict, DocumentInfo, EndpointId, Reply};

use crate::argument::PhpBytes;
use crate::callable::{Callback, Callbacks, PhpCb};
use crate::classes::{self, mask};
use crate::client::Core;
use crate::convert::{MixedZval, This, boolean, entries, int, key_text, null, text};
use crate::document::{all, key_of};
use crate::exceptions::{Pending, error, exception, type_error, value_error};
use crate::lifecycle::{query, submit};
use crate::options::kind;
use crate::session::{decode, encode};

/// Numbers of the callbacks.
const MERGE: usize = 0;
const CHANGE: usize = 1;
const CONFLICT: usize = 2;

/// How often one conflict is merged anew because the server's value has changed while PHP merged.
const ATTEMPTS: usize = 5;

/// What becomes of an edit that is in conflict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Policy {
    ServerWins,
    ClientWins,
    Merge,
}

/// What object and client share of a document.
#[derive(Debug)]
pub(crate) struct Shared {
    client: Weak<Core>,
    channel: Box<str>,
    policy: Cell<Policy>,
    callbacks: Callbacks<3>,
}

/// The documents of one client, with their objects.
pub(crate) type Replicas = RefCell<HashMap<Box<str>, (Rc<Shared>, Zval)>>;

impl Shared {
    /// Follows the document of the channel.
    pub(crate) fn open(
        client: &Rc<Core>,
        channel: &str,
        options: Option<&ZendHashTable>,
    ) -> PhpResult<(Rc<Self>, Zval)> {
        let shared = Rc::new(Self {
            client: Rc::downgrade(client),
            channel: channel.into(),
            policy: Cell::new(Policy::ServerWins),
            callbacks: Callbacks::default(),
        });
        shared.configure(client, options)?;
        let mut object = ZendClassObject::new(WsReplica { shared: Rc::clone(&shared) });
        classes::init_property(&mut object.std, 0, text(channel));
        let mut zval = Zval::new();
        // Does not fail for an object.
        let _ = object.set_zval(&mut zval, false);
        Ok((shared, zval))
    }

    /// Sets what `options` has.
    pub(crate) fn configure(&self, client: &Rc<Core>, options: Option<&ZendHashTable>) -> PhpResult<()> {
        let mut policy = self.policy.get();
        for (key, value) in options.into_iter().flat_map(entries) {
            let name = key_text(&key);
            if name != "conflict" {
                return Err(value_error(format!(
                    "WsClient::document(): unknown option '{}', known is conflict",
                    name.escape_debug()
                )));
            }
            let value = value.dereference();
            policy = match value.zend_str().map(ext_php_rs::types::ZendStr::as_bytes) {
                Some(b"serverWins") => Policy::ServerWins,
                Some(b"clientWins") => Policy::ClientWins,
                _ => {
                    let callback = PhpCb::new(value).map_err(|_| {
                        type_error(format!(
                            "WsClient::document(): option 'conflict' must be 'serverWins', 'clientWins' or a callable, {} given",
                            kind(value)
                        ))
                    })?;
                    self.callbacks.set(MERGE, Callback(callback), "WsClient::document(): option 'conflict'", 3)?;
                    Policy::Merge
                }
            };
        }
        let client = client.endpoint()?;
        let asks = policy != Policy::ServerWins;
        submit(Command::FollowDocument { client, channel: self.channel.clone(), asks })?;
        self.policy.set(policy);
        Ok(())
    }

    pub(crate) fn visit(&self, see: &mut dyn FnMut(&Zval)) {
        self.callbacks.visit(see);
    }

    pub(crate) fn clear(&self) {
        self.callbacks.clear();
    }

    /// There is something new: runs the callbacks for it; returns how many.
    pub(crate) fn tell(&self, core: &Rc<Core>, client: EndpointId) -> Result<usize, Pending> {
        let mut ran = 0;
        let command = Command::TakeConflicts { client, channel: self.channel.clone() };
        let conflicts = match query(command) {
            Ok(Reply::Conflicts(conflicts)) => conflicts,
            _ => Vec::new(),
        };
        for conflict in conflicts {
            let resolved = self.resolve(core, client, &conflict);
            if resolved.is_err() {
                core.tell_failed()?;
            }
            let resolution = resolved.unwrap_or("server");
            if let Some(callback) = self.callbacks.get(CONFLICT) {
                let mut arguments = [
                    text(&conflict.key),
                    value(conflict.mine.as_ref()),
                    value(conflict.theirs.as_ref()),
                    text(resolution),
                    text(&conflict.reason),
                ];
                ran += core.call_for(&callback, &mut arguments)?;
            }
        }
        let command = Command::TakeReplicaChanges { client, channel: self.channel.clone() };
        let changes = match query(command) {
            Ok(Reply::Changes(changes)) => changes,
            _ => Vec::new(),
        };
        for DocumentChange { key, value: json, version, .. } in changes {
            let Some(callback) = self.callbacks.get(CHANGE) else { break };
            let deleted = boolean(json.is_none());
            let mut arguments = [text(&key), value(json.as_ref()), int(version.cast_signed()), deleted];
            ran += core.call_for(&callback, &mut arguments)?;
        }
        Ok(ran)
    }

    /// What became of a conflict.
    fn resolve(
        &self,
        core: &Rc<Core>,
        client: EndpointId,
        conflict: &DocumentConflict,
    ) -> Result<&'static str, Pending> {
        if conflict.code != i32::from(CONFLICT_CODE) {
            return Ok("refused");
        }
        if !conflict.asked {
            return Ok("server");
        }
        for _ in 0..ATTEMPTS {
            // What the server has now: since the conflict was found, that may have changed, or the key was edited again.
            let key = Some(conflict.key.clone());
            let Ok(Reply::Document(Some(info))) =
                query(Command::Replica { client, channel: self.channel.clone(), key })
            else {
                return Ok("server");
            };
            if info.edited {
                return Ok("edited");
            }
            let entry = info.entries.into_iter().next();
            let version = entry.as_ref().map_or(0, |entry| entry.version);
            let mine = match (self.policy.get(), self.callbacks.get(MERGE)) {
                (Policy::ClientWins, _) => conflict.mine.clone(),
                (Policy::Merge, Some(callback)) => {
                    let theirs = value(entry.as_ref().map(|entry| &entry.value));
                    let mut arguments = [text(&conflict.key), value(conflict.mine.as_ref()), theirs];
                    let wanted = callback.wanted().min(arguments.len());
                    let merged = callback.call(&mut arguments[..wanted])?;
                    if merged.dereference().is_null() {
                        return Ok("server");
                    }
                    Some(encode(merged.dereference(), "the merged value").map_err(Pending::from)?)
                }
                _ => return Ok("server"),
            };
            let made = core.offer(|client| self.command(client, &conflict.key, mine.clone(), Some(version)));
            if made.map_err(Pending::from)?.0 > 0 {
                return Ok(if self.policy.get() == Policy::Merge { "merged" } else { "client" });
            }
        }
        Ok("server")
    }

    fn command(&self, client: EndpointId, key: &str, value: Option<Bytes>, on: Option<u64>) -> Command {
        Command::EditReplica { client, channel: self.channel.clone(), key: key.into(), value, on }
    }

    fn core(&self) -> PhpResult<Rc<Core>> {
        self.client.upgrade().ok_or_else(|| exception("the WsClient is closed"))
    }

    fn info(&self, key: Option<&str>) -> PhpResult<DocumentInfo> {
        let client = self.core()?.endpoint()?;
        match query(Command::Replica { client, channel: self.channel.clone(), key: key.map(Box::from) })? {
            Reply::Document(Some(info)) => Ok(*info),
            _ => Err(exception("the WsClient is closed")),
        }
    }

    fn edit(&self, key: PhpBytes, value: Option<&Bytes>) -> PhpResult<i64> {
        let key = key_of(key)?;
        let (_, sequence) = self.core()?.offer(|client| self.command(client, key, value.cloned(), None))?;
        Ok(sequence.cast_signed())
    }
}

/// `N.code` of a conflict.
const CONFLICT_CODE: i16 = 409;

/// A value of JSON; null where there is none.
fn value(json: Option<&Bytes>) -> Zval {
    json.map_or_else(null, |json| decode(json))
}

/// A server's document, as a client follows and edits it.
#[php_class]
#[php(flags = ClassFlags::Final.union(ClassFlags::NoDynamicProperties))]
#[derive(Debug)]
pub(crate) struct WsReplica {
    shared: Rc<Shared>,
}

#[php_impl]
impl WsReplica {
    #[php(vis = "private")]
    pub fn __construct() -> PhpResult<Self> {
        Err(error("a WsReplica is made by WsClient::document()"))
    }

    /// The value of a key with our own edits, null where there is none; without a key, all of them.
    pub fn get(&self, key: Option<PhpBytes>) -> PhpResult<MixedZval> {
        if let Some(key) = key {
            let info = self.shared.info(Some(key_of(key)?))?;
            return Ok(MixedZval(value(info.entries.first().map(|entry| &entry.value))));
        }
        Ok(MixedZval(all(&self.shared.info(None)?)))
    }

    /// Sets a key: here at once, and at the server unless it has something newer. The edit's number in the outbox.
    pub fn set(&self, key: PhpBytes, value: &Zval) -> PhpResult<i64> {
        let json = encode(value.dereference(), "the value")?;
        self.shared.edit(key, Some(&json))
    }

    /// Removes a key, likewise.
    pub fn delete(&self, key: PhpBytes) -> PhpResult<i64> {
        self.shared.edit(key, None)
    }

    /// The version that the server confirmed last of a key, 0 where there is none; without a key, the document's.
    pub fn version(&self, key: Option<PhpBytes>) -> PhpResult<i64> {
        let Some(key) = key else { return Ok(self.shared.info(Some(""))?.version.cast_signed()) };
        let info = self.shared.info(Some(key_of(key)?))?;
        Ok(info.entries.first().map_or(0, |entry| entry.version.cast_signed()))
    }

    /// fn (string $key, mixed $value, int $version, bool $deleted): a key has another value than by our own edits.
    pub fn on_change(&self, callback: Callback) -> PhpResult<This> {
        self.shared.callbacks.set(CHANGE, callback, "WsReplica::onChange()", 4)?;
        Ok(This)
    }

    /// fn (string $key, mixed $mine, mixed $theirs, string $resolution, string $reason): an edit was not applied.
    pub fn on_conflict(&self, callback: Callback) -> PhpResult<This> {
        self.shared.callbacks.set(CONFLICT, callback, "WsReplica::onConflict()", 5)?;
        Ok(This)
    }
}

/// Registers the class; only in MINIT.
pub(crate) fn register() -> ext_php_rs::error::Result<()> {
    let class = classes::register::<WsReplica>(&[])?;
    classes::readonly(class, c"channel", mask::STRING);
    classes::set_type(class, c"onchange", 0, mask::STATIC);
    classes::set_type(class, c"onconflict", 0, mask::STATIC);
    Ok(())
}
