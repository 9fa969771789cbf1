//! The exception classes, and the bridge from the engine's failures to them.
//!
//! They are plain classes: a `#[php_class]` would take over object creation, and with it file, line,
//! trace and the constructors of users' subclasses.

use std::ffi::CString;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use ext_php_rs::builders::ClassBuilder;
use ext_php_rs::exception::PhpException;
use ext_php_rs::zend::{ClassEntry, ce};
use lifeline_engine::bridge::{CommandError, Failure, FailureKind};
use lifeline_engine::printable::printable;

use crate::shim;

/// An exception class of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    Base,
    Connect,
    Protocol,
    Overflow,
    Timeout,
    Storage,
    Conflict,
}

const NAMES: [&str; 7] = [
    "WsException",
    "WsConnectException",
    "WsProtocolException",
    "WsOverflowException",
    "WsTimeoutException",
    "WsStorageException",
    "WsConflictException",
];

// Stored again at every MINIT: a SAPI may shut the module down and start it again.
static ENTRIES: [AtomicPtr<ClassEntry>; 7] = [const { AtomicPtr::new(ptr::null_mut()) }; 7];

impl Class {
    /// The registered class.
    pub(crate) fn entry(self) -> &'static ClassEntry {
        let entry = ENTRIES[self as usize].load(Ordering::Acquire);
        // SAFETY: registered at MINIT, before any code of ours that throws can run, and alive until
        // the module shuts down.
        unsafe { &*entry }
    }

    /// An exception of this class.
    pub(crate) fn exception(self, message: impl AsRef<str>, code: i32) -> PhpException {
        made(message, code, self.entry())
    }
}

/// Messages end up in logs, and may hold what a peer has sent.
fn made(message: impl AsRef<str>, code: i32, class: &'static ClassEntry) -> PhpException {
    PhpException::new(printable(message.as_ref()).into_owned(), code, class)
}

/// `WsException` without a code.
pub(crate) fn exception(message: impl AsRef<str>) -> PhpException {
    Class::Base.exception(message, 0)
}

/// PHP's own `Error`: the program is wrong, not the world.
pub(crate) fn error(message: impl AsRef<str>) -> PhpException {
    made(message, 0, ce::error())
}

/// PHP's own `ValueError`.
pub(crate) fn value_error(message: impl AsRef<str>) -> PhpException {
    made(message, 0, ce::value_error())
}

/// PHP's own `TypeError`.
pub(crate) fn type_error(message: impl AsRef<str>) -> PhpException {
    made(message, 0, ce::type_error())
}

/// "`method`(): Argument #`number` ($`name`) `message`" as a `ValueError`, the way Zend words it.
pub(crate) fn argument_value_error(number: u32, message: &str) -> PhpException {
    let text = CString::new(message.replace('\0', "\\0")).unwrap_or_default();
    // SAFETY: called inside a method of ours; `text` is NUL-terminated.
    unsafe { shim::lifeline_argument_value_error(number, text.as_ptr()) };
    // The exception is pending now; throwing this one does nothing then.
    value_error(message)
}

/// As [`argument_value_error`], a `TypeError`.
pub(crate) fn argument_type_error(number: u32, message: &str) -> PhpException {
    let text = CString::new(message.replace('\0', "\\0")).unwrap_or_default();
    // SAFETY: as above.
    unsafe { shim::lifeline_argument_type_error(number, text.as_ptr()) };
    type_error(message)
}

/// The exception for a command that the engine refused.
pub(crate) fn from_command(error: CommandError) -> PhpException {
    let class = match error {
        CommandError::Invalid(message) => return value_error(message),
        CommandError::Start(_) => Class::Connect,
        CommandError::Overflow(_) => Class::Overflow,
        CommandError::Storage(_) => Class::Storage,
        CommandError::Gone(_) | CommandError::Limit(_) => Class::Base,
    };
    class.exception(error.to_string(), 0)
}

/// The exception for what went wrong in the engine.
pub(crate) fn from_failure(failure: &Failure) -> PhpException {
    let class = match failure.kind {
        FailureKind::Connect => Class::Connect,
        FailureKind::Protocol => Class::Protocol,
        FailureKind::Timeout => Class::Timeout,
        FailureKind::Storage => Class::Storage,
        FailureKind::Limit | FailureKind::Link | FailureKind::Application => Class::Base,
    };
    class.exception(&failure.message, i32::from(failure.code))
}

/// Registers the classes; only in MINIT.
pub(crate) fn register() -> ext_php_rs::error::Result<()> {
    const CLASSES: [Class; 7] = [
        Class::Base,
        Class::Connect,
        Class::Protocol,
        Class::Overflow,
        Class::Timeout,
        Class::Storage,
        Class::Conflict,
    ];
    for class in CLASSES {
        let parent: fn() -> &'static ClassEntry = match class {
            // SAFETY: SPL is always compiled in and registered before extensions.
            Class::Base => || unsafe { &*shim::lifeline_runtime_exception() },
            _ => || Class::Base.entry(),
        };
        let store: fn(&'static mut ClassEntry, ext_php_rs::args::ArgInfoTables) = match class {
            Class::Base => |entry, _| ENTRIES[0].store(entry, Ordering::Release),
            Class::Connect => |entry, _| ENTRIES[1].store(entry, Ordering::Release),
            Class::Protocol => |entry, _| ENTRIES[2].store(entry, Ordering::Release),
            Class::Overflow => |entry, _| ENTRIES[3].store(entry, Ordering::Release),
            Class::Timeout => |entry, _| ENTRIES[4].store(entry, Ordering::Release),
            Class::Storage => |entry, _| ENTRIES[5].store(entry, Ordering::Release),
            Class::Conflict => |entry, _| ENTRIES[6].store(entry, Ordering::Release),
        };
        ClassBuilder::new(NAMES[class as usize])
            .extends((parent, "\\RuntimeException"))
            .registration(store)
            .register()?;
    }
    // SAFETY: in MINIT, with a registered parent.
    if unsafe { shim::lifeline_register_reject(ptr::from_ref(Class::Base.entry()).cast_mut()) } {
        Ok(())
    } else {
        Err(ext_php_rs::error::Error::InvalidPointer)
    }
}

/// Marks that an exception is pending in the engine: return at once, to let it travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pending;

impl From<Pending> for PhpException {
    fn from(_: Pending) -> Self {
        // Throwing while another is pending does nothing, so its text is never seen.
        error("an exception is pending")
    }
}

impl From<PhpException> for Pending {
    fn from(exception: PhpException) -> Self {
        exception.throw();
        Self
    }
}

/// Err when an exception is pending.
pub(crate) fn pending() -> Result<(), Pending> {
    // SAFETY: reads one field of the executor's globals.
    if unsafe { shim::lifeline_has_exception() } { Err(Pending) } else { Ok(()) }
}
