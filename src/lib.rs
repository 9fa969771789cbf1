//! lifeline: WebSocket connections that stay alive, for PHP.
//!
//! This crate is the PHP face of `lifeline-engine`: it registers, converts, throws and dispatches, and
//! is the only code that touches Zend.

mod argument;
mod callable;
mod classes;
mod client;
mod connection;
mod convert;
mod dispatcher;
mod document;
mod exceptions;
mod failure;
mod gc;
mod lifecycle;
mod logger;
mod message;
mod options;
mod replica;
mod request;
mod server;
mod session;
mod shim;
mod signals;
mod stream;
mod supervision;
mod timers;
mod values;

use std::ffi::{c_char, c_int};
use std::panic::catch_unwind;

use ext_php_rs::flags::IniEntryPermission;
use ext_php_rs::prelude::*;
use ext_php_rs::zend::{IniEntryDef, IniEntryDefs, ModuleEntry};
use ext_php_rs::{info_table_end, info_table_row, info_table_start};

const SUCCESS: c_int = 0;
const FAILURE: c_int = -1;

/// `lifeline.io_threads`: I/O threads where the option `ioThreads` does not say; 0: min(cores, 4).
static INI: IniEntryDefs<2> =
    IniEntryDefs::new([IniEntryDef::new(c"lifeline.io_threads", c"0", IniEntryPermission::All), IniEntryDef::end()]);

unsafe extern "C" {
    fn zend_ini_long(name: *const c_char, length: usize, orig: c_int) -> i64;
    fn zend_unregister_ini_entries(module_number: c_int);
    fn display_ini_entries(module: *mut ModuleEntry);
}

/// `lifeline.io_threads`.
fn ini_io_threads() -> usize {
    let name = c"lifeline.io_threads";
    // SAFETY: the entry is registered at MINIT.
    let value = unsafe { zend_ini_long(name.as_ptr(), name.count_bytes(), 0) };
    usize::try_from(value).unwrap_or(0).min(64)
}

extern "C" fn module_startup(_type: c_int, module_number: c_int) -> c_int {
    let started = catch_unwind(|| {
        IniEntryDef::register(INI.as_slice(), module_number);
        lifecycle::module_startup();
        supervision::module_startup();
        dispatcher::observe_fibers();
        register_classes().is_ok()
    });
    if started.unwrap_or(false) { SUCCESS } else { FAILURE }
}

fn register_classes() -> ext_php_rs::error::Result<()> {
    exceptions::register()?;
    values::register()?;
    request::register()?;
    message::register()?;
    session::register()?;
    document::register()?;
    replica::register()?;
    connection::register()?;
    server::register()?;
    client::register()
}

unsafe extern "C" fn module_shutdown(_type: c_int, module_number: c_int) -> c_int {
    // SAFETY: undoes what module_startup has registered.
    unsafe { zend_unregister_ini_entries(module_number) };
    SUCCESS
}

extern "C" fn request_startup(_type: c_int, _module_number: c_int) -> c_int {
    if catch_unwind(lifecycle::request_startup).is_ok() { SUCCESS } else { FAILURE }
}

extern "C" fn request_shutdown(_type: c_int, _module_number: c_int) -> c_int {
    if catch_unwind(lifecycle::request_shutdown).is_ok() { SUCCESS } else { FAILURE }
}

extern "C" fn module_info(module: *mut ModuleEntry) {
    info_table_start!();
    info_table_row!("lifeline", "enabled");
    info_table_row!("version", env!("CARGO_PKG_VERSION"));
    info_table_row!("protocols", "RFC 6455 (ws, wss, unix)");
    info_table_row!("TLS", "rustls");
    info_table_row!("compression", "permessage-deflate (RFC 7692)");
    info_table_end!();
    // SAFETY: Zend passes its own entry of this module.
    unsafe { display_ini_entries(module) };
}

#[php_module]
#[php(startup = "module_startup")]
pub fn get_module(module: ModuleBuilder) -> ModuleBuilder {
    values::register_enum(module)
        .name("lifeline")
        .info_function(module_info)
        .shutdown_function(module_shutdown)
        .request_startup_function(request_startup)
        .request_shutdown_function(request_shutdown)
}
