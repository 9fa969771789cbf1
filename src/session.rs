//! `WsSession`: what a server keeps of a client over its connections, and the application's values in it.
#![expect(non_snake_case, reason = "names of parameters in PHP")]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::c_char;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use ext_php_rs::convert::IntoZval;
use ext_php_rs::exception::PhpResult;
use ext_php_rs::flags::ClassFlags;
use ext_php_rs::prelude::*;
use ext_php_rs::types::{ZendClassObject, ZendHashTable, Zval};
use ext_php_rs::zend::ce;
use lifeline_engine::bridge::{Change, Command, EndpointId, Reply, SessionData, SessionInfo};

use crate::argument::{PhpBool, PhpBytes, PhpInt};
use crate::callable::Callback;
use crate::classes::{self, mask};
use crate::connection::{payload, utf8};
use crate::convert::{ArrayZval, MixedZval, int, list, null, text};
use crate::exceptions::{error, exception, pending, type_error, value_error};
use crate::lifecycle::{generation, inherited, query, submit};
use crate::shim;

/// Index of `$version` among the declared properties.
const VERSION: usize = 1;
/// The same of `$user` and `$claims`.
const USER: usize = 2;
const CLAIMS: usize = 3;
/// How often `update()` begins anew because somebody else was faster.
const ATTEMPTS: usize = 100;

/// What object, server and connections share of a session.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) server: EndpointId,
    generation: u32,
    pub(crate) id: Arc<str>,
    /// The values that it had at its end.
    ended: RefCell<Option<Box<SessionData>>>,
}

impl Shared {
    /// A session with its object.
    pub(crate) fn new(server: EndpointId, info: &SessionInfo) -> (Rc<Self>, Zval) {
        let shared = Rc::new(Self { server, generation: generation(), id: info.id.clone(), ended: RefCell::new(None) });
        let mut object = ZendClassObject::new(WsSession { shared: Rc::clone(&shared) });
        let values = [text(&info.id), int(0), null(), list([])];
        for (index, value) in values.into_iter().enumerate() {
            classes::init_property(&mut object.std, index, value);
        }
        let mut zval = Zval::new();
        // Does not fail for an object.
        let _ = object.set_zval(&mut zval, false);
        refresh(&mut zval, info);
        (shared, zval)
    }

    /// It has ended, with these values.
    pub(crate) fn end(&self, data: SessionData) {
        self.ended.replace(Some(Box::new(data)));
    }

    fn usable(&self) -> PhpResult<()> {
        if self.generation == generation() { Ok(()) } else { Err(inherited("WsSession")) }
    }

    /// The values it has or had.
    fn data(&self) -> PhpResult<SessionData> {
        self.usable()?;
        if let Some(data) = &*self.ended.borrow() {
            return Ok((**data).clone());
        }
        let command = Command::Session { server: self.server, session: self.id.clone() };
        match query(command)? {
            Reply::Session(Some(info)) => Ok(info.data),
            _ => Ok(SessionData::default()),
        }
    }

    /// Returns the version that it made; None: `if_version` was not the present one.
    fn change(&self, change: Change, if_version: Option<u64>) -> PhpResult<Option<u64>> {
        self.usable()?;
        let gone = || exception(format!("session {} has ended", self.id));
        if self.ended.borrow().is_some() {
            return Err(gone());
        }
        let command = Command::SessionChange { server: self.server, session: self.id.clone(), change, if_version };
        match query(command)? {
            Reply::Version(None) if if_version.is_none() => Err(gone()),
            Reply::Version(version) => Ok(version),
            _ => Ok(None),
        }
    }
}

/// Brings an object's properties up to what the engine knows.
pub(crate) fn refresh(object: &mut Zval, info: &SessionInfo) {
    let Some(object) = object.object_mut() else { return };
    classes::init_property(object, VERSION, int(info.data.version().cast_signed()));
    classes::init_property(object, USER, info.user.as_deref().map_or_else(null, text));
    let claims = if info.claims.is_empty() { list([]) } else { decode(&info.claims) };
    classes::init_property(object, CLAIMS, if claims.is_array() { claims } else { list([]) });
}

/// A connection's session, if it has one, has got a user.
pub(crate) fn bind(session: &mut Zval, user: &str) {
    if let Some(session) = session.object_mut() {
        classes::init_property(session, USER, text(user));
    }
}

/// A PHP value as JSON text.
pub(crate) fn encode(value: &Zval, what: &str) -> PhpResult<Bytes> {
    let mut json = Zval::new();
    // SAFETY: `value` is alive and not changed; the text's reference goes to `json`.
    if unsafe { shim::lifeline_json_encode(std::ptr::from_ref(value).cast_mut(), &raw mut json) }
        && let Some(json) = json.zend_str()
    {
        return Ok(Bytes::copy_from_slice(json.as_bytes()));
    }
    pending()?;
    Err(value_error(format!("{what} cannot be written as JSON (a resource, invalid UTF-8, INF, NAN, or too deep)")))
}

/// The value of a JSON text of ours.
pub(crate) fn decode(json: &[u8]) -> Zval {
    let mut value = Zval::new();
    value.set_null();
    // SAFETY: the text is alive for the call; the value's reference goes to `value`.
    unsafe { shim::lifeline_json_decode(json.as_ptr().cast::<c_char>(), json.len(), &raw mut value) };
    value
}

fn array_of(data: &SessionData) -> Zval {
    let mut table = ZendHashTable::new();
    for (name, json) in data.values() {
        // Fails only when memory does.
        let _ = table.insert(&**name, decode(json));
    }
    let mut zval = Zval::new();
    zval.set_hashtable(table);
    zval
}

fn values_of(array: &ZendHashTable) -> PhpResult<BTreeMap<Box<str>, Bytes>> {
    let mut values = BTreeMap::new();
    let mut entries = array.iter();
    while let Some((key, value)) = entries.next_zval() {
        let name: Box<str> = match key.zend_str() {
            Some(name) => name_of(name.as_bytes())?,
            None => key.long().unwrap_or_default().to_string().into(),
        };
        let json = encode(value.dereference(), &format!("'{name}'"))?;
        values.insert(name, json);
    }
    Ok(values)
}

fn name_of(bytes: &[u8]) -> PhpResult<Box<str>> {
    let name = std::str::from_utf8(bytes).map_err(|_| value_error("a name in a WsSession must be valid UTF-8"))?;
    Ok(name.into())
}

/// The name in `$session[$offset]`.
fn offset_name(offset: &Zval) -> PhpResult<Box<str>> {
    let offset = offset.dereference();
    if let Some(name) = offset.zend_str() {
        return name_of(name.as_bytes());
    }
    match offset.long() {
        Some(number) => Ok(number.to_string().into()),
        None => Err(type_error(format!("a WsSession's values have names, {} given", crate::options::kind(offset)))),
    }
}

/// What a server keeps of a client over its connections.
#[php_class]
#[php(flags = ClassFlags::Final.union(ClassFlags::NoDynamicProperties))]
#[php(implements(ce = ce::arrayaccess, stub = "\\ArrayAccess"))]
#[derive(Debug)]
pub(crate) struct WsSession {
    shared: Rc<Shared>,
}

/// Carries out a change and shows its version.
fn apply(object: &mut ZendClassObject<WsSession>, change: Change, if_version: Option<u64>) -> PhpResult<bool> {
    let shared = Rc::clone(&object.shared);
    let Some(version) = shared.change(change, if_version)? else { return Ok(false) };
    classes::init_property(&mut object.std, VERSION, int(version.cast_signed()));
    Ok(true)
}

#[php_impl]
impl WsSession {
    #[php(vis = "private")]
    pub fn __construct() -> PhpResult<Self> {
        Err(error("a WsSession is made by WsServer"))
    }

    /// The value of that name, or $default.
    pub fn get(&self, k: PhpBytes, default: Option<&Zval>) -> PhpResult<MixedZval> {
        let name = utf8(1, k)?;
        let data = self.shared.data()?;
        Ok(MixedZval(match data.value(name) {
            Some(json) => decode(json),
            None => default.map_or_else(null, |value| value.dereference().shallow_clone()),
        }))
    }

    /// Sets a value, any that JSON has. False: $ifVersion is not the session's version, nothing was changed.
    pub fn set(self_: &mut ZendClassObject<Self>, k: PhpBytes, v: &Zval, ifVersion: Option<PhpInt>) -> PhpResult<bool> {
        let name = utf8(1, k)?;
        let json = encode(v.dereference(), "the value")?;
        // A negative one is no version.
        let if_version = ifVersion.map(|version| u64::try_from(version.0).unwrap_or(u64::MAX));
        apply(self_, Change::Set(name.into(), json), if_version)
    }

    /// Removes a value.
    pub fn delete(self_: &mut ZendClassObject<Self>, k: PhpBytes) -> PhpResult<()> {
        let name = utf8(1, k)?;
        apply(self_, Change::Delete(name.into()), None).map(drop)
    }

    /// All values.
    pub fn all(&self) -> PhpResult<ArrayZval> {
        Ok(ArrayZval(array_of(&self.shared.data()?)))
    }

    /// Gives all values to $f and sets what it returns in their place; calls it again when somebody else has changed
    /// them meanwhile. Returns what was set.
    pub fn update(self_: &mut ZendClassObject<Self>, f: Callback) -> PhpResult<ArrayZval> {
        let Callback(f) = f;
        for _ in 0..ATTEMPTS {
            let shared = Rc::clone(&self_.shared);
            let data = shared.data()?;
            let result = f.call(&mut [array_of(&data)])?;
            let Some(table) = result.dereference().array() else {
                return Err(type_error(format!(
                    "the callback of WsSession::update() must return an array, {} returned",
                    crate::options::kind(result.dereference())
                )));
            };
            if apply(self_, Change::Replace(values_of(table)?), Some(data.version()))? {
                return Ok(ArrayZval(array_of(&shared.data()?)));
            }
        }
        Err(exception(format!("session {}: {ATTEMPTS} updates in a row met another change", self_.shared.id)))
    }

    /// Sends to the client, now or when it comes back; the message's number in the session's stream.
    #[php(defaults(binary = false))]
    pub fn send(&self, data: PhpBytes, binary: PhpBool) -> PhpResult<i64> {
        self.shared.usable()?;
        let data = payload(1, data, binary)?;
        let shared = &self.shared;
        let command =
            Command::SessionSend { server: shared.server, session: shared.id.clone(), data, binary: binary.0 };
        match submit(command)? {
            Reply::Sequence(sequence) if sequence > 0 => Ok(sequence.cast_signed()),
            _ => Err(exception(format!("session {} has ended", shared.id))),
        }
    }

    /// A connection has it.
    pub fn is_online(&self) -> PhpResult<bool> {
        self.shared.usable()?;
        let command = Command::SessionOnline { server: self.shared.server, session: self.shared.id.clone() };
        Ok(matches!(query(command)?, Reply::Flag(true)))
    }

    /// isset($session[$offset])
    pub fn offset_exists(&self, offset: &Zval) -> PhpResult<bool> {
        let name = offset_name(offset)?;
        Ok(self.shared.data()?.value(&name).is_some_and(|json| json != "null"))
    }

    /// $session[$offset]
    pub fn offset_get(&self, offset: &Zval) -> PhpResult<MixedZval> {
        let name = offset_name(offset)?;
        Ok(MixedZval(self.shared.data()?.value(&name).map_or_else(null, |json| decode(json))))
    }

    /// $session[$offset] = $value
    pub fn offset_set(self_: &mut ZendClassObject<Self>, offset: &Zval, value: &Zval) -> PhpResult<()> {
        let name = offset_name(offset)?;
        let json = encode(value.dereference(), "the value")?;
        apply(self_, Change::Set(name, json), None).map(drop)
    }

    /// unset($session[$offset])
    pub fn offset_unset(self_: &mut ZendClassObject<Self>, offset: &Zval) -> PhpResult<()> {
        let name = offset_name(offset)?;
        apply(self_, Change::Delete(name), None).map(drop)
    }
}

/// Registers the class; only in MINIT.
pub(crate) fn register() -> ext_php_rs::error::Result<()> {
    let class = classes::register::<WsSession>(&[])?;
    classes::readonly(class, c"id", mask::STRING);
    classes::readonly(class, c"version", mask::LONG);
    classes::readonly(class, c"user", mask::STRING | mask::NULL);
    classes::readonly(class, c"claims", mask::ARRAY);
    Ok(())
}
