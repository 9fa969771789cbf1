//! Where the engine's log records go: the `logger` option (PSR-3 object or callable), else PHP's
//! error log.

use std::ffi::CString;

use ext_php_rs::types::{ZendHashTable, Zval};
use lifeline_engine::bridge::{LogLevel, LogRecord};
use lifeline_engine::printable::printable;

use crate::callable::PhpCb;
use crate::exceptions::Pending;
use crate::shim;

/// The `logger` option: something to call with level, message and context.
#[derive(Debug)]
pub(crate) struct Logger(PhpCb);

impl Logger {
    /// A callable, or an object with PSR-3's `log()`. Err says what is missing.
    pub(crate) fn new(value: &Zval) -> Result<Self, String> {
        let value = value.dereference();
        if value.is_object() {
            let mut method = ZendHashTable::new();
            let pushed = method.push(value.shallow_clone()).and_then(|()| method.push("log"));
            if pushed.is_ok() {
                let mut pair = Zval::new();
                pair.set_hashtable(method);
                if let Ok(callable) = PhpCb::new(&pair) {
                    return Ok(Self(callable));
                }
            }
        }
        PhpCb::new(value).map(Self).map_err(|why| format!("neither a PSR-3 logger nor a callable ({why})"))
    }

    /// For the collector.
    pub(crate) fn zval(&self) -> &Zval {
        self.0.zval()
    }

    /// Calls it; Err leaves the logger's exception pending.
    pub(crate) fn log(&self, record: &LogRecord) -> Result<(), Pending> {
        let mut context = ZendHashTable::new();
        for (key, value) in &record.context {
            // Fails only for keys with a NUL byte, which ours are without.
            let _ = context.insert(&**key, printable(value).as_ref());
        }
        let mut arguments = [Zval::new(), Zval::new(), Zval::new()];
        let _ = arguments[0].set_string(level_name(record.level), false);
        let _ = arguments[1].set_string(&printable(&record.message), false);
        arguments[2].set_hashtable(context);
        self.0.call(&mut arguments).map(drop)
    }
}

/// One line in PHP's error log.
pub(crate) fn to_error_log(record: &LogRecord) {
    use std::fmt::Write as _;
    let mut line = format!("lifeline {}: {}", level_name(record.level), printable(&record.message));
    for (key, value) in &record.context {
        // Writing to a String does not fail.
        let _ = write!(line, " {key}={}", printable(value));
    }
    let line = CString::new(line).unwrap_or_default();
    // SAFETY: NUL-terminated.
    unsafe { shim::lifeline_log(line.as_ptr()) };
}

/// PSR-3's name of a level.
pub(crate) fn level_name(level: LogLevel) -> &'static str {
    match level {
        LogLevel::Debug => "debug",
        LogLevel::Info => "info",
        LogLevel::Notice => "notice",
        LogLevel::Warning => "warning",
        LogLevel::Error => "error",
        LogLevel::Critical => "critical",
        LogLevel::Alert => "alert",
        LogLevel::Emergency => "emergency",
    }
}
