//! Work shared out over the threads of candle's barrier pool.
//!
//! The pool serves one caller at a time (others wait their turn), so that several tensor-parallel
//! ranks may call from threads of their own; a kernel must not call it again from inside.

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use candle_core::utils::barrier_pool;

/// Below this many multiply-adds or bytes moved, waking the pool costs more than it saves.
const WORTH_SHARING: usize = 1 << 15;

/// Runs `f` over all of `0..items`, on all threads if `cost` (elements touched or multiply-adds,
/// all items together) is worth it. Ranges are handed out as threads become free.
pub(super) fn share(items: usize, cost: usize, f: impl Fn(Range<usize>) + Sync) {
    if items > 1 && cost >= WORTH_SHARING {
        barrier_pool().execute_chunked(items, f);
    } else if items > 0 {
        f(0..items);
    }
}

/// [`share`] where long ranges are worth having and all threads had better end together: each thread first goes over a range
/// of its own, the same in every call, and then takes its part of what is left, so that ranges are single items at the end.
pub(super) fn share_guided(items: usize, cost: usize, f: impl Fn(Range<usize>) + Sync) {
    if items <= 1 || cost < WORTH_SHARING {
        if items > 0 {
            f(0..items);
        }
        return;
    }
    let threads = threads();
    // Every range that is taken costs a cache line from another thread's cache, and streams of memory that begin anew.
    let own = items * 7 / 8 / threads;
    let next = AtomicUsize::new(own * threads);
    // candle's pool calls this once for every number below `threads`: what a thread writes rests on it.
    barrier_pool().execute(|thread| {
        debug_assert!(thread < threads);
        if own > 0 {
            f(thread * own..(thread + 1) * own);
        }
        let take = |start: usize| {
            let left = items.checked_sub(start).filter(|left| *left > 0)?;
            Some(start + left.div_ceil(threads + 1))
        };
        while let Ok(start) = next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take) {
            f(start..take(start).unwrap_or(items));
        }
    });
}

/// Threads that take part in [`share`].
pub(super) fn threads() -> usize {
    barrier_pool().n_workers() + 1
}

/// A buffer that several threads write at places that do not overlap.
pub(super) struct Disjoint<'a> {
    start: *mut f32,
    len: usize,
    owner: PhantomData<&'a mut [f32]>,
}

// SAFETY: the buffer is borrowed mutably for 'a, and `slice` and `ptr` leave it to their callers
// that no two threads touch the same element.
unsafe impl Sync for Disjoint<'_> {}

impl<'a> Disjoint<'a> {
    pub(super) fn new(buffer: &'a mut [f32]) -> Self {
        Self {
            start: buffer.as_mut_ptr(),
            len: buffer.len(),
            owner: PhantomData,
        }
    }

    /// # Safety
    /// No other live slice of this buffer overlaps `range`.
    #[inline(always)]
    #[allow(clippy::mut_from_ref)]
    pub(super) unsafe fn slice(&self, range: Range<usize>) -> &mut [f32] {
        assert!(range.start <= range.end && range.end <= self.len);
        // SAFETY: inside the buffer by the assertion; exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }

    /// Where element `index` lies.
    ///
    /// # Safety
    /// `index` is inside the buffer, and no live slice holds what is accessed through the pointer.
    #[inline(always)]
    pub(super) unsafe fn at(&self, index: usize) -> *mut f32 {
        debug_assert!(index < self.len);
        // SAFETY: inside the buffer by the caller's promise.
        unsafe { self.start.add(index) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    #[test]
    fn guided_ranges_hold_every_item_once() {
        for items in [0, 1, 2, 3, 24, 100, 1_001] {
            for cost in [1, WORTH_SHARING] {
                let held: Vec<AtomicU32> = (0..items).map(|_| AtomicU32::new(0)).collect();
                share_guided(items, cost, |range| {
                    assert!(!range.is_empty());
                    for item in range {
                        held[item].fetch_add(1, Ordering::Relaxed);
                    }
                });
                let once = held.iter().all(|count| count.load(Ordering::Relaxed) == 1);
                assert!(once, "{items} items at cost {cost}");
            }
        }
    }
}
