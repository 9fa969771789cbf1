//! Exceptions that callbacks throw, taken out of the engine's hands and put back.

use std::ffi::CString;

use ext_php_rs::types::{ZendObject, Zval};

use crate::exceptions::{Pending, pending};
use crate::shim;

/// An exception that was taken from the engine. `exit()` never becomes one.
#[derive(Debug)]
pub(crate) struct Caught(Zval);

/// Takes the pending exception. Err: it is `exit()` or a fiber's destruction, or there is none after
/// all; return at once.
pub(crate) fn take() -> Result<Caught, Pending> {
    let mut exception = Zval::new();
    // SAFETY: reads and clears the executor's exception; its reference goes to `exception`.
    unsafe {
        if shim::lifeline_exception_is_exit() || !shim::lifeline_take_exception(&raw mut exception) {
            return Err(Pending);
        }
    }
    Ok(Caught(exception))
}

impl Caught {
    /// As an argument.
    pub(crate) fn zval(&self) -> Zval {
        self.0.shallow_clone()
    }

    /// Puts it back.
    pub(crate) fn rethrow(self) -> Pending {
        let mut zval = std::mem::ManuallyDrop::new(self.0);
        if let Some(object) = zval.object_mut() {
            // SAFETY: the reference that `zval` held goes to the engine.
            unsafe { shim::lifeline_throw(object) };
        }
        Pending
    }

    /// Reports it as E_WARNING with its trace. An error handler that throws does not get its way:
    /// then the report is made without it. Err: the handler called `exit()`.
    pub(crate) fn warn(mut self, context: &str) -> Result<(), Pending> {
        let context = CString::new(context).unwrap_or_default();
        let Some(object) = self.0.object_mut() else { return Ok(()) };
        let object: *mut ZendObject = object;
        // SAFETY: the object lives as long as `self`.
        unsafe { shim::lifeline_warn(context.as_ptr(), object) };
        if pending().is_err() {
            drop(take()?);
            // SAFETY: as above.
            unsafe { shim::lifeline_warn_unhandled(context.as_ptr(), object) };
        }
        Ok(())
    }
}

/// An exception of ours as an object, not thrown.
pub(crate) fn object(exception: ext_php_rs::exception::PhpException) -> Option<Caught> {
    exception.throw();
    take().ok()
}
