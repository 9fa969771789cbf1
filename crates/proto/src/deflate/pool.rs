//! Codecs without context, shared by the connections of a thread: to make one costs more than a message.

use std::cell::RefCell;

use super::{Deflater, Inflater};

/// Codecs kept a thread: of compressors one for each kind in use, which are few.
const DEFLATERS: usize = 4;
const INFLATERS: usize = 2;

thread_local! {
    /// The one used last is the last.
    static FREE_DEFLATERS: RefCell<Vec<Deflater>> = const { RefCell::new(Vec::new()) };
    static FREE_INFLATERS: RefCell<Vec<Inflater>> = const { RefCell::new(Vec::new()) };
}

/// Compresses messages that stand alone, with a compressor of this thread.
pub fn with_deflater<T>(level: u8, window_bits: u8, work: impl FnOnce(&mut Deflater) -> T) -> T {
    let mut deflater = FREE_DEFLATERS
        .with_borrow_mut(|free| {
            let at = free.iter().rposition(|deflater| deflater.is_of(level, window_bits))?;
            Some(free.remove(at))
        })
        .unwrap_or_else(|| Deflater::new(level, window_bits));
    let result = work(&mut deflater);
    deflater.reset();
    FREE_DEFLATERS.with_borrow_mut(|free| {
        if free.len() == DEFLATERS {
            free.remove(0);
        }
        free.push(deflater);
    });
    result
}

/// One that has seen nothing.
pub(crate) fn take_inflater() -> Inflater {
    FREE_INFLATERS.with_borrow_mut(Vec::pop).unwrap_or_default()
}

/// It has to have been reset.
pub(crate) fn put_inflater(inflater: Inflater) {
    FREE_INFLATERS.with_borrow_mut(|free| {
        if free.len() < INFLATERS {
            free.push(inflater);
        }
    });
}
