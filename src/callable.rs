//! PHP callables: resolved once, called many times, with only the arguments that they declare.

use std::cell::RefCell;
use std::ffi::{CString, c_char};
use std::mem::MaybeUninit;
use std::ptr;
use std::rc::Rc;

use ext_php_rs::convert::FromZval;
use ext_php_rs::exception::PhpResult;
use ext_php_rs::ffi;
use ext_php_rs::flags::DataType;
use ext_php_rs::types::Zval;

use crate::exceptions::{Pending, pending, type_error};
use crate::shim;

/// The function is made for one call (`__call`, `__callStatic`); it cannot be kept.
const CALL_VIA_TRAMPOLINE: u32 = 1 << 18;
const VARIADIC: u32 = 1 << 14;

/// A callable of the user's. Lives on the PHP thread and not past the request.
pub(crate) struct PhpCb {
    callable: Zval,
    resolved: ffi::_zend_fcall_info_cache,
    /// `resolved` may be used again.
    kept: bool,
    /// How many arguments it wants.
    wanted: u32,
    required: u32,
}

impl std::fmt::Debug for PhpCb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PhpCb").field("kept", &self.kept).field("wanted", &self.wanted).finish_non_exhaustive()
    }
}

impl PhpCb {
    /// Resolves `callable` in the scope of the running method's caller. Err says why it cannot be
    /// called.
    pub(crate) fn new(callable: &Zval) -> Result<Self, String> {
        let callable = callable.dereference().shallow_clone();
        let resolved = resolve(&callable)?;
        // SAFETY: a resolved callable has a function.
        let (flags, arguments, required) = unsafe {
            let common = &(*resolved.function_handler).common;
            (common.fn_flags, common.num_args, common.required_num_args)
        };
        let kept = flags & CALL_VIA_TRAMPOLINE == 0;
        let wanted = if flags & (VARIADIC | CALL_VIA_TRAMPOLINE) == 0 { arguments } else { u32::MAX };
        if !kept {
            release(resolved);
        }
        Ok(Self { callable, resolved, kept, wanted, required })
    }

    /// How many of the arguments on offer the callable declares; the rest need not be built.
    #[inline]
    pub(crate) fn wanted(&self) -> usize {
        self.wanted as usize
    }

    /// How many arguments the callable cannot do without.
    #[inline]
    pub(crate) fn required(&self) -> usize {
        if self.kept { self.required as usize } else { 0 }
    }

    /// The value that was given, for the collector.
    pub(crate) fn zval(&self) -> &Zval {
        &self.callable
    }

    /// Calls it. Hold no borrow or guard across this: the callee may call back into the same
    /// objects, suspend the fiber, or leave by longjmp (fatal error).
    #[inline]
    pub(crate) fn call(&self, arguments: &mut [Zval]) -> Result<Zval, Pending> {
        let mut result = Zval::new();
        let resolved = if self.kept {
            (self.resolved.function_handler, self.resolved.object, self.resolved.called_scope)
        } else {
            let Ok(fresh) = resolve(&self.callable) else {
                return Err(crate::exceptions::error("the callback can no longer be called").into());
            };
            (fresh.function_handler, fresh.object, fresh.called_scope)
        };
        // SAFETY: function, object and scope belong together and are kept alive by `self.callable`;
        // a trampoline is consumed by the call.
        unsafe {
            ffi::zend_call_known_function(
                resolved.0,
                resolved.1,
                resolved.2,
                &raw mut result,
                arguments.len() as u32,
                arguments.as_mut_ptr(),
                ptr::null_mut(),
            );
        }
        pending()?;
        Ok(result)
    }
}

fn resolve(callable: &Zval) -> Result<ffi::_zend_fcall_info_cache, String> {
    let mut resolved = MaybeUninit::<ffi::_zend_fcall_info_cache>::zeroed();
    let mut error: *mut c_char = ptr::null_mut();
    // SAFETY: all pointers are valid for the call; the cache is plain data, valid when zeroed.
    unsafe {
        let callable = ptr::from_ref(callable).cast_mut();
        if ffi::zend_is_callable_ex(
            callable,
            ptr::null_mut(),
            0,
            ptr::null_mut(),
            resolved.as_mut_ptr(),
            &raw mut error,
        ) {
            if !error.is_null() {
                efree(error);
            }
            return Ok(resolved.assume_init());
        }
        if error.is_null() {
            return Err("no array or string given".into());
        }
        let text = std::ffi::CStr::from_ptr(error).to_string_lossy().into_owned();
        efree(error);
        Err(text)
    }
}

unsafe fn efree(pointer: *mut c_char) {
    // SAFETY: the caller passes what Zend's allocator gave.
    unsafe { ext_php_rs::alloc::efree(pointer.cast()) };
}

fn release(mut resolved: ffi::_zend_fcall_info_cache) {
    // SAFETY: frees the trampoline's function, once.
    unsafe { shim::lifeline_release_callable(&raw mut resolved) };
}

/// A `callable` argument.
#[derive(Debug)]
pub(crate) struct Callback(pub(crate) PhpCb);

impl<'a> FromZval<'a> for Callback {
    const TYPE: DataType = DataType::Callable;

    fn from_zval(zval: &'a Zval) -> Option<Self> {
        match PhpCb::new(zval) {
            Ok(callable) => Some(Self(callable)),
            Err(why) => {
                let why = CString::new(why.replace('\0', "\\0")).unwrap_or_default();
                // SAFETY: `zval` is an argument of the running method.
                unsafe { shim::lifeline_argument_not_callable(ptr::from_ref(zval).cast_mut(), why.as_ptr()) };
                None
            }
        }
    }
}

/// The callbacks of one object, by number.
#[derive(Debug)]
pub(crate) struct Callbacks<const N: usize>([RefCell<Option<Rc<PhpCb>>>; N]);

impl<const N: usize> Default for Callbacks<N> {
    fn default() -> Self {
        Self([const { RefCell::new(None) }; N])
    }
}

impl<const N: usize> Callbacks<N> {
    /// Replaces callback `index`, which `method` passes at most `offered` arguments.
    pub(crate) fn set(&self, index: usize, callback: Callback, method: &str, offered: usize) -> PhpResult<()> {
        let required = callback.0.required();
        if required > offered {
            return Err(type_error(format!(
                "{method}: the callback requires {required} arguments, but is passed {offered} at most"
            )));
        }
        // The old one is released after the borrow: that may run PHP code.
        let _old = self.0[index].replace(Some(Rc::new(callback.0)));
        Ok(())
    }

    /// Callback `index`, to be called with nothing borrowed.
    #[inline]
    pub(crate) fn get(&self, index: usize) -> Option<Rc<PhpCb>> {
        self.0[index].borrow().clone()
    }

    pub(crate) fn is_set(&self, index: usize) -> bool {
        self.0[index].borrow().is_some()
    }

    /// Releases all.
    pub(crate) fn clear(&self) {
        for callback in &self.0 {
            let _old = callback.take();
        }
    }

    /// For the collector.
    pub(crate) fn visit(&self, see: &mut dyn FnMut(&Zval)) {
        for callback in &self.0 {
            if let Ok(callback) = callback.try_borrow()
                && let Some(callback) = &*callback
            {
                see(callback.zval());
            }
        }
    }
}
