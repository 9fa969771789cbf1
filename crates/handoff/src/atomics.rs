//! What the hand-overs are made of.

use std::fmt::Debug;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};

/// A family of atomics with its fence: the standard library's, or a model checker's.
pub trait Atomics: Debug {
    /// An atomic truth value.
    type Flag: Flag;
    /// An atomic number.
    type Number: Number;
    /// See [`std::sync::atomic::fence`].
    fn fence(order: Ordering);
}

/// See [`AtomicBool`].
pub trait Flag: Debug {
    /// With this value.
    fn new(value: bool) -> Self;
    /// See [`AtomicBool::load`].
    fn load(&self, order: Ordering) -> bool;
    /// See [`AtomicBool::store`].
    fn store(&self, value: bool, order: Ordering);
    /// See [`AtomicBool::swap`].
    fn swap(&self, value: bool, order: Ordering) -> bool;
}

/// See [`AtomicU64`].
pub trait Number: Debug {
    /// With this value.
    fn new(value: u64) -> Self;
    /// See [`AtomicU64::load`].
    fn load(&self, order: Ordering) -> u64;
    /// See [`AtomicU64::store`].
    fn store(&self, value: u64, order: Ordering);
    /// See [`AtomicU64::fetch_add`].
    fn fetch_add(&self, value: u64, order: Ordering) -> u64;
    /// See [`AtomicU64::compare_exchange`]; true when it was exchanged.
    fn exchange(&self, from: u64, to: u64, success: Ordering, failure: Ordering) -> bool;
}

/// The standard library's.
#[derive(Debug, Clone, Copy)]
pub struct Std;

impl Atomics for Std {
    type Flag = AtomicBool;
    type Number = AtomicU64;

    #[inline]
    fn fence(order: Ordering) {
        fence(order);
    }
}

impl Flag for AtomicBool {
    fn new(value: bool) -> Self {
        Self::new(value)
    }

    #[inline]
    fn load(&self, order: Ordering) -> bool {
        self.load(order)
    }

    #[inline]
    fn store(&self, value: bool, order: Ordering) {
        self.store(value, order);
    }

    #[inline]
    fn swap(&self, value: bool, order: Ordering) -> bool {
        self.swap(value, order)
    }
}

impl Number for AtomicU64 {
    fn new(value: u64) -> Self {
        Self::new(value)
    }

    #[inline]
    fn load(&self, order: Ordering) -> u64 {
        self.load(order)
    }

    #[inline]
    fn store(&self, value: u64, order: Ordering) {
        self.store(value, order);
    }

    #[inline]
    fn fetch_add(&self, value: u64, order: Ordering) -> u64 {
        self.fetch_add(value, order)
    }

    #[inline]
    fn exchange(&self, from: u64, to: u64, success: Ordering, failure: Ordering) -> bool {
        self.compare_exchange(from, to, success, failure).is_ok()
    }
}
