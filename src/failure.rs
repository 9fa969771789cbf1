//! Exceptions that callbacks throw, taken out of the engine's hands and put back.

use std::ffi::CString;

use ext_php_rs::types::{ZendObject, ZendStr, Zval};
use lifeline_engine::bridge::Verdict;

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

/// What a `WsReject` says.
#[derive(Debug)]
pub(crate) struct Rejection {
    pub(crate) code: i64,
    pub(crate) reason: String,
    pub(crate) permanent: bool,
}

/// Takes the pending exception if it is a `WsReject`.
pub(crate) fn take_rejection() -> Option<Rejection> {
    let (mut reason, mut code, mut permanent) = (Zval::new(), 0, true);
    // SAFETY: reads and clears the executor's exception; the reason's reference goes to `reason`.
    if !unsafe { shim::lifeline_take_reject(&raw mut reason, &raw mut code, &raw mut permanent) } {
        return None;
    }
    let reason = reason.zend_str().map_or_else(String::new, |text| String::from_utf8_lossy(text.as_bytes()).into());
    Some(Rejection { code, reason, permanent })
}

impl Rejection {
    /// For the client whose message it was.
    pub(crate) fn verdict(self) -> Verdict {
        let code = i32::try_from(self.code).unwrap_or(if self.code < 0 { i32::MIN } else { i32::MAX });
        Verdict::Rejected { code, reason: shortened(self.reason), permanent: self.permanent }
    }
}

/// At most 1000 bytes of it: what is told goes into a control frame.
fn shortened(mut reason: String) -> String {
    let mut end = reason.len().min(REASON);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    reason.truncate(end);
    reason
}

/// Bytes of a refusal's reason.
pub(crate) const REASON: usize = 1000;

impl Caught {
    /// As an argument.
    pub(crate) fn zval(&self) -> Zval {
        self.0.shallow_clone()
    }

    /// Takes a string out of the arguments in its trace, and in those of the exceptions before it, as if each
    /// parameter that it was given to were a `#[SensitiveParameter]`.
    pub(crate) fn hide(&mut self, secret: &[u8]) {
        let Some(object) = self.0.object_mut() else { return };
        let object: *mut ZendObject = object;
        let mut secret = ZendStr::new(secret, false);
        // SAFETY: the object lives as long as `self`, the string as long as the call.
        unsafe { shim::lifeline_hide_in_trace(object, &raw mut *secret) };
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
