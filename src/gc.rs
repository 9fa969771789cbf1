//! Lets PHP's cycle collector see the values that Rust structs hold: `fn () use ($server)` given to
//! `$server` is a cycle.

use std::ffi::c_int;
use std::ptr;

use ext_php_rs::class::RegisteredClass;
use ext_php_rs::types::{ZendClassObject, ZendHashTable, ZendObject, Zval};
use ext_php_rs::zend::ZendObjectHandlers;

/// Implemented by classes that hold zvals outside of property slots.
pub(crate) trait Visit {
    /// Shows each zval that this object owns a reference to. Must not call into PHP. What is
    /// borrowed right now may be left out: then nothing is collected this time.
    fn visit(&self, see: &mut dyn FnMut(&Zval));
}

#[repr(C)]
struct GcBuffer {
    cur: *mut Zval,
    end: *mut Zval,
    start: *mut Zval,
}

unsafe extern "C" {
    fn zend_get_gc_buffer_create() -> *mut GcBuffer;
    fn zend_get_gc_buffer_grow(buffer: *mut GcBuffer);
}

/// Replaces the class' `get_gc` in place: objects are recognised by the address of their handlers,
/// so a changed copy would not do. Only in MINIT.
pub(crate) fn patch<T: RegisteredClass + Visit>() {
    let handlers = ptr::from_ref(T::get_metadata().handlers()).cast_mut();
    // SAFETY: the table lives in a cell of our own, and MINIT runs on one thread, before any object
    // of the class exists.
    unsafe { (*handlers).get_gc = Some(get_gc::<T>) };
}

/// The class' handlers, to be changed in MINIT.
pub(crate) fn handlers<T: RegisteredClass>() -> *mut ZendObjectHandlers {
    ptr::from_ref(T::get_metadata().handlers()).cast_mut()
}

unsafe extern "C" fn get_gc<T: RegisteredClass + Visit>(
    object: *mut ZendObject,
    table: *mut *mut Zval,
    count: *mut c_int,
) -> *mut ZendHashTable {
    // SAFETY: Zend calls this with a live object of the class and valid out-pointers. The buffer is
    // Zend's own; entries are bitwise copies without a reference, as it demands.
    unsafe {
        let buffer = zend_get_gc_buffer_create();
        let mut add = |value: &Zval| {
            // Z_REFCOUNTED
            if value.u1.v.type_flags != 0 {
                if (*buffer).cur == (*buffer).end {
                    zend_get_gc_buffer_grow(buffer);
                }
                ptr::copy_nonoverlapping(value, (*buffer).cur, 1);
                (*buffer).cur = (*buffer).cur.add(1);
            }
        };
        if (*object).properties.is_null() {
            let slots = (*object).properties_table.as_ptr();
            for index in 0..(*(*object).ce).default_properties_count {
                add(&*slots.add(index as usize));
            }
        }
        if let Some(class_object) = ZendClassObject::<T>::from_zend_obj(&*object) {
            class_object.visit(&mut add);
        }
        *table = (*buffer).start;
        *count = (*buffer).cur.offset_from((*buffer).start) as c_int;
        (*object).properties
    }
}
