//! Buffers of long messages, for the next ones: to get one fresh from the system, page by page, costs more
//! than to read a message into it.

use std::sync::Mutex;

use bytes::Bytes;

/// Capacities that are kept.
const LEAST: usize = 32 * 1024;
const MOST: usize = 128 * 1024;
/// Buffers that are kept, 4 MiB at most.
const KEPT: usize = 32;

/// Never waited for: a process that was forked while another thread had it would wait for ever.
static POOL: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

/// The message is no longer needed: keeps its buffer, if that is worth it and nobody else has it.
pub fn recycle(data: Bytes) {
    if data.len() < LEAST || data.len() > MOST || !data.is_unique() {
        return;
    }
    let buffer = Vec::from(data);
    if buffer.capacity() > MOST {
        return;
    }
    if let Ok(mut pool) = POOL.try_lock()
        && pool.len() < KEPT
    {
        pool.push(buffer);
    }
}

/// A buffer with room for `size` bytes at least; what is in it is to be overwritten. None: there is no such.
pub(crate) fn take(size: usize) -> Option<Vec<u8>> {
    if !(LEAST..=MOST).contains(&size) {
        return None;
    }
    let mut pool = POOL.try_lock().ok()?;
    let index = pool.iter().rposition(|buffer| buffer.capacity() >= size)?;
    Some(pool.swap_remove(index))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_that_is_held_is_done_without() {
        let held = POOL.lock();
        recycle(Bytes::from(vec![0; LEAST]));
        assert!(take(LEAST).is_none());
        drop(held);
    }
}
