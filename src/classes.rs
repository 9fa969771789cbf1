//! Registration of the classes, in an order and with types that ext-php-rs' module macro cannot
//! express: real typed properties, `static` and union types, interfaces with the classes' signatures.

use std::ffi::{CStr, CString, c_int};
use std::mem;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Mutex, PoisonError};

use ext_php_rs::args::ArgInfo;
use ext_php_rs::builders::ClassBuilder;
use ext_php_rs::class::{ClassEntryInfo, RegisteredClass};
use ext_php_rs::error::{Error, Result};
use ext_php_rs::flags::MethodFlags;
use ext_php_rs::types::ZendStr;
use ext_php_rs::zend::{ClassEntry, FunctionEntry};

use crate::shim;

/// Zend's type masks.
pub(crate) mod mask {
    pub(crate) const NULL: u32 = 1 << 1;
    pub(crate) const BOOL: u32 = 1 << 2 | 1 << 3;
    pub(crate) const LONG: u32 = 1 << 4;
    pub(crate) const DOUBLE: u32 = 1 << 5;
    pub(crate) const STRING: u32 = 1 << 6;
    pub(crate) const ARRAY: u32 = 1 << 7;
    pub(crate) const STATIC: u32 = 1 << 15;
    pub(crate) const ANY: u32 = 0x3fe;
}

const PUBLIC: c_int = 1;
const READONLY: c_int = 1 << 7;

/// Registers `T` with `interfaces`; its class entry.
pub(crate) fn register<T: RegisteredClass>(interfaces: &[ClassEntryInfo]) -> Result<*mut ClassEntry> {
    let mut builder = ClassBuilder::new(T::CLASS_NAME);
    for (method, flags) in T::method_builders() {
        builder = builder.method(method, flags);
    }
    for interface in T::IMPLEMENTS.iter().chain(interfaces) {
        builder = builder.implements(*interface);
    }
    for (name, value, docs, flags) in T::constants() {
        builder = builder.dyn_constant(*name, *value, docs, *flags)?;
    }
    builder
        .flags(T::FLAGS)
        .object_override::<T>()
        .registration(|entry, arg_info| {
            T::get_metadata().set_ce(entry);
            T::get_metadata().set_arg_info(arg_info);
        })
        .register()?;
    Ok(ptr::from_ref(T::get_metadata().ce()).cast_mut())
}

/// Holds a class entry that no Rust type stands for. Stored again at every MINIT: a SAPI may shut
/// the module down and start it again.
pub(crate) struct Entry {
    class: AtomicPtr<ClassEntry>,
    /// The methods' signatures, which the engine goes on referring to.
    signatures: Mutex<Vec<Signature>>,
}

struct Signature {
    #[expect(dead_code, reason = "held for the engine")]
    arguments: Box<[ArgInfo]>,
}

// SAFETY: written in MINIT, which runs on one thread, and only read by the engine.
unsafe impl Send for Signature {}

impl Entry {
    pub(crate) const fn new() -> Self {
        Self { class: AtomicPtr::new(ptr::null_mut()), signatures: Mutex::new(Vec::new()) }
    }

    /// The registered class.
    pub(crate) fn entry(&self) -> &'static ClassEntry {
        // SAFETY: stored at MINIT before anything refers to it, and alive until the module shuts down.
        unsafe { &*self.class.load(Ordering::Acquire) }
    }
}

/// Registers an interface named `name` with the public instance methods of `T`, constructor left out.
pub(crate) fn register_interface<T: RegisteredClass>(name: &str, store: &Entry) -> Result<*mut ClassEntry> {
    let mut entries = Vec::new();
    let mut signatures = store.signatures.lock().unwrap_or_else(PoisonError::into_inner);
    for (method, flags) in T::method_builders() {
        if flags.intersects(MethodFlags::Private | MethodFlags::Protected | MethodFlags::Static) {
            continue;
        }
        let (mut entry, arguments): (FunctionEntry, Box<[ArgInfo]>) = method.build()?;
        signatures.push(Signature { arguments });
        entry.handler = None;
        entry.flags = (MethodFlags::Public | MethodFlags::Abstract).bits();
        entries.push(entry);
    }
    entries.push(FunctionEntry::end());
    let entries = entries.into_boxed_slice();
    // SAFETY: an all-zero class entry is the state that Zend's own INIT_CLASS_ENTRY starts from; the
    // functions' names were made by `CString::into_raw` in `FunctionBuilder::build`.
    unsafe {
        let mut entry: ClassEntry = mem::zeroed();
        entry.name = ZendStr::new_interned(name, true).into_raw();
        entry.info.internal.builtin_functions = entries.as_ptr();
        let registered = ext_php_rs::ffi::zend_register_internal_interface(&raw mut entry);
        if registered.is_null() {
            return Err(Error::InvalidPointer);
        }
        (*registered).info.internal.builtin_functions = ptr::null();
        // The engine has interned the names and read the table for the last time.
        for entry in &entries {
            if !entry.fname.is_null() {
                drop(CString::from_raw(entry.fname.cast_mut()));
            }
        }
        store.class.store(registered, Ordering::Release);
        Ok(registered)
    }
}

/// Declares `public readonly TYPE $name`.
pub(crate) fn readonly(class: *mut ClassEntry, name: &CStr, types: u32) {
    // SAFETY: in MINIT, on a class that was just registered.
    unsafe { shim::lifeline_declare_property(class, name.as_ptr(), types, ptr::null(), PUBLIC | READONLY, false) };
}

/// Declares `public readonly CLASS $name`, nullable with `mask::NULL`.
pub(crate) fn readonly_object(class: *mut ClassEntry, name: &CStr, of: &CStr, types: u32) {
    // SAFETY: as above.
    unsafe { shim::lifeline_declare_property(class, name.as_ptr(), types, of.as_ptr(), PUBLIC | READONLY, false) };
}

/// Declares `public mixed $name = null`.
pub(crate) fn mixed(class: *mut ClassEntry, name: &CStr) {
    // SAFETY: as above.
    unsafe { shim::lifeline_declare_property(class, name.as_ptr(), mask::ANY, ptr::null(), PUBLIC, true) };
}

/// Sets a type in a method's signature; argument 0 is the return type.
pub(crate) fn set_type(class: *mut ClassEntry, method: &CStr, argument: u32, types: u32) {
    // SAFETY: as above.
    unsafe { shim::lifeline_set_type(class, method.as_ptr(), argument, types) };
}

/// `#[SensitiveParameter]` on a parameter, counted from 1.
pub(crate) fn set_sensitive(class: *mut ClassEntry, method: &CStr, argument: u32) {
    // SAFETY: as above.
    unsafe { shim::lifeline_set_sensitive(class, method.as_ptr(), argument) };
}

/// Sets the text of a parameter's default.
pub(crate) fn set_default(class: *mut ClassEntry, method: &'static CStr, argument: u32, text: &'static CStr) {
    // SAFETY: as above; both texts are static.
    unsafe { shim::lifeline_set_default(class, method.as_ptr(), argument, text.as_ptr()) };
}

/// Writes a declared property of a new object, in order of declaration, past `readonly`.
pub(crate) fn init_property(object: &mut ext_php_rs::types::ZendObject, index: usize, value: ext_php_rs::types::Zval) {
    // SAFETY: the caller passes an object of a class of ours with more than `index` declared
    // properties; the slot's old value (undefined, null or one of ours) is dropped.
    unsafe { *object.properties_table.as_mut_ptr().add(index) = value };
}

/// A declared property of an object, in order of declaration.
pub(crate) fn property(object: &mut ext_php_rs::types::ZendObject, index: usize) -> &mut ext_php_rs::types::Zval {
    // SAFETY: as above.
    unsafe { &mut *object.properties_table.as_mut_ptr().add(index) }
}
