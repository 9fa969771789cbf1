//! PHP arrays of options as the engine's typed configuration. The rules are the engine's
//! (`lifeline_engine::options`); here values are only carried over, and the logger is found.

use ext_php_rs::exception::{PhpException, PhpResult};
use ext_php_rs::types::{ZendHashTable, Zval};
use lifeline_engine::config::{ClientConfig, ServerConfig};
use lifeline_engine::options::{self, OptionError, Role, Value};

use crate::convert::entries;
use crate::exceptions::{type_error, value_error};
use crate::logger::Logger;

/// What the arguments of `new WsServer` mean.
#[derive(Debug)]
pub(crate) struct ServerOptions {
    pub(crate) config: ServerConfig,
    /// None: PHP's error log.
    pub(crate) logger: Option<Logger>,
}

/// What the arguments of `new WsClient` mean.
#[derive(Debug)]
pub(crate) struct ClientOptions {
    pub(crate) config: ClientConfig,
    /// None: PHP's error log.
    pub(crate) logger: Option<Logger>,
}

/// Checks the arguments of `new WsServer`.
pub(crate) fn server(listen: &Zval, options: &Zval) -> PhpResult<ServerOptions> {
    let config = options::server(&value(listen), &value(options)).map_err(throw)?;
    Ok(ServerOptions { config, logger: logger(Role::Server, options.dereference().array())? })
}

/// Checks the arguments of `new WsClient`.
pub(crate) fn client(url: &Zval, options: Option<&ZendHashTable>) -> PhpResult<ClientOptions> {
    let tree = options.map_or_else(|| Value::List(Vec::new()), |options| array(options, DEPTH));
    let config = options::client(&value(url), &tree).map_err(throw)?;
    Ok(ClientOptions { config, logger: logger(Role::Client, options)? })
}

/// An array of header names to values, as for the option `connect.headers`. `place` begins the error.
pub(crate) fn headers(given: &Zval, place: &str) -> PhpResult<Vec<(String, String)>> {
    options::headers(&value(given), place).map_err(throw)
}

fn throw(error: OptionError) -> PhpException {
    match error {
        OptionError::Type(message) => type_error(message),
        OptionError::Value(message) => value_error(message),
    }
}

fn logger(role: Role, options: Option<&ZendHashTable>) -> PhpResult<Option<Logger>> {
    let given = options.and_then(|options| options.get("logger"));
    let Some(given) = given.map(Zval::dereference).filter(|given| !given.is_null()) else { return Ok(None) };
    Logger::new(given).map(Some).map_err(|_| {
        type_error(format!(
            "{}: option 'logger' must be a PSR-3 logger (an object with a public method log), a callable or null, \
             {} given",
            role.class(),
            kind(given)
        ))
    })
}

/// Options are not deeper than this; what is deeper (a reference to itself) is no option.
const DEPTH: usize = 6;

fn value(zval: &Zval) -> Value {
    tree(zval, DEPTH)
}

fn tree(zval: &Zval, depth: usize) -> Value {
    let zval = zval.dereference();
    if zval.is_null() {
        Value::Null
    } else if let Some(flag) = zval.bool() {
        Value::Bool(flag)
    } else if let Some(int) = zval.long() {
        Value::Int(int)
    } else if let Some(float) = zval.double() {
        Value::Float(float)
    } else if let Some(text) = zval.zend_str() {
        Value::Text(text.as_bytes().to_vec())
    } else if let Some(given) = zval.array() {
        if depth == 0 { Value::Other("array (nested too deep)".into()) } else { array(given, depth) }
    } else {
        Value::Other(kind(zval))
    }
}

fn array(array: &ZendHashTable, depth: usize) -> Value {
    if entries(array).zip(0..).all(|((key, _), index)| key.long() == Some(index)) {
        return Value::List(entries(array).map(|(_, item)| tree(item, depth - 1)).collect());
    }
    let mut named = Vec::with_capacity(array.len());
    for (key, item) in entries(array) {
        let name = match key.zend_str() {
            Some(name) => name.as_bytes().to_vec(),
            None => key.long().unwrap_or_default().to_string().into_bytes(),
        };
        named.push((name, tree(item, depth - 1)));
    }
    Value::Map(named)
}

/// The type as `get_debug_type()` names it.
pub(crate) fn kind(zval: &Zval) -> String {
    match zval.object() {
        Some(object) => {
            let name = object.get_class_name().unwrap_or_else(|_| "object".into());
            // An anonymous class's goes on with where it was declared.
            name.split('\0').next().unwrap_or_default().to_owned()
        }
        None if zval.is_array() => "array".into(),
        None if zval.is_string() => "string".into(),
        None if zval.is_long() => "int".into(),
        None if zval.is_double() => "float".into(),
        None if zval.is_bool() => "bool".into(),
        None if zval.is_null() => "null".into(),
        None => "resource".into(),
    }
}
