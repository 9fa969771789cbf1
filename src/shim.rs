//! Declarations of `shim.c`.

use std::ffi::{c_char, c_int, c_void};

use ext_php_rs::types::{ZendObject, ZendStr, Zval};
use ext_php_rs::zend::ClassEntry;

unsafe extern "C" {
    pub(crate) fn lifeline_has_exception() -> bool;
    pub(crate) fn lifeline_exception_is_exit() -> bool;
    pub(crate) fn lifeline_is_ending() -> bool;
    pub(crate) fn lifeline_take_exception(into: *mut Zval) -> bool;
    pub(crate) fn lifeline_throw(exception: *mut ZendObject);
    pub(crate) fn lifeline_warn(context: *const c_char, exception: *mut ZendObject);
    pub(crate) fn lifeline_warn_unhandled(context: *const c_char, exception: *mut ZendObject);
    pub(crate) fn lifeline_log(message: *const c_char);
    pub(crate) fn lifeline_interrupted() -> bool;
    pub(crate) fn lifeline_serve_interrupts();
    pub(crate) fn lifeline_dispatch_signals() -> bool;
    pub(crate) fn lifeline_stream(fd: c_int, result: *mut Zval) -> bool;
    pub(crate) fn lifeline_argument_int(argument: *mut Zval, value: *mut i64) -> bool;
    pub(crate) fn lifeline_argument_float(argument: *mut Zval, value: *mut f64) -> bool;
    pub(crate) fn lifeline_argument_bool(argument: *mut Zval, value: *mut bool) -> bool;
    pub(crate) fn lifeline_argument_string(argument: *mut Zval, value: *mut *mut ZendStr) -> bool;
    pub(crate) fn lifeline_argument_array(argument: *mut Zval) -> bool;
    pub(crate) fn lifeline_argument_not_callable(argument: *mut Zval, why: *const c_char);
    pub(crate) fn lifeline_argument_value_error(number: u32, message: *const c_char);
    pub(crate) fn lifeline_argument_type_error(number: u32, message: *const c_char);
    pub(crate) fn lifeline_declare_property(
        ce: *mut ClassEntry,
        name: *const c_char,
        mask: u32,
        class_name: *const c_char,
        flags: c_int,
        null_default: bool,
    );
    pub(crate) fn lifeline_set_type(ce: *mut ClassEntry, method: *const c_char, argument: u32, mask: u32);
    pub(crate) fn lifeline_set_sensitive(ce: *mut ClassEntry, method: *const c_char, argument: u32);
    pub(crate) fn lifeline_hide_in_trace(exception: *mut ZendObject, secret: *mut ZendStr);
    pub(crate) fn lifeline_sapi_serves_requests() -> bool;
    pub(crate) fn lifeline_sapi_name() -> *const c_char;
    pub(crate) fn lifeline_script_is_stdin() -> bool;
    pub(crate) fn lifeline_fatal_error(length: *mut usize, file: *mut *const c_char, line: *mut u32) -> *const c_char;
    pub(crate) fn lifeline_observe_fibers(switched: unsafe extern "C" fn(*mut c_void, *mut c_void));
    pub(crate) fn lifeline_module_loaded(name: *const c_char) -> bool;
    pub(crate) fn lifeline_runtime_exception() -> *mut ClassEntry;
    pub(crate) fn lifeline_register_reject(parent: *mut ClassEntry) -> bool;
    pub(crate) fn lifeline_take_reject(reason: *mut Zval, code: *mut i64, permanent: *mut bool) -> bool;
    pub(crate) fn lifeline_json_encode(value: *mut Zval, into: *mut Zval) -> bool;
    pub(crate) fn lifeline_json_decode(text: *const c_char, length: usize, into: *mut Zval) -> bool;
    pub(crate) fn lifeline_result_is_unused() -> bool;
    pub(crate) fn lifeline_this() -> *mut ZendObject;
    pub(crate) fn lifeline_release_callable(resolved: *mut ext_php_rs::ffi::_zend_fcall_info_cache);
    pub(crate) fn lifeline_at_fork(before: extern "C" fn(), child: extern "C" fn()) -> c_int;
    pub(crate) fn lifeline_block_signals();
    pub(crate) fn lifeline_with_signals_blocked(make: unsafe extern "C" fn(*mut c_void), context: *mut c_void);
    pub(crate) fn lifeline_signal_descriptor() -> c_int;
    pub(crate) fn lifeline_hold_signals() -> bool;
    pub(crate) fn lifeline_release_signals();
    pub(crate) fn lifeline_wait(fd: c_int, nanoseconds: i64, busy: bool) -> c_int;
    pub(crate) fn lifeline_watch_signals(gateway: bool);
    pub(crate) fn lifeline_restore_signals();
    pub(crate) fn lifeline_wake_by_signal(timer: c_int);
    pub(crate) fn lifeline_take_signals(stops: *mut c_int, reload: *mut bool) -> bool;
    pub(crate) fn lifeline_parse_query(query: *const c_char, length: usize, result: *mut Zval);
    pub(crate) fn lifeline_set_default(ce: *mut ClassEntry, method: *const c_char, argument: u32, text: *const c_char);
}
