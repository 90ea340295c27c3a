//! Memory that may be refused. `Box::new`, `Arc::new` and `collect` end the process when there is none; a library must
//! say so and go on.
use crate::error::{Error, Result};
use std::alloc::{Layout, alloc};
use std::collections::TryReserveError;
use std::fmt;
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

/// A point where memory may be refused: the simulator's faults come in here.
#[cfg(not(doorbell_sim))]
#[inline(always)]
fn is_refused() -> bool {
    false
}
#[cfg(doorbell_sim)]
use crate::tests::sim::sched::is_refused;

/// Room for `more` items beside the `len` that there are, if that is more than `capacity`.
#[inline]
pub fn reserve(
    capacity: usize,
    len: usize,
    more: usize,
    ask: impl FnOnce() -> std::result::Result<(), TryReserveError>,
) -> Result<()> {
    if capacity - len >= more {
        return Ok(());
    }
    if is_refused() {
        return Err(Error::NOMEM);
    }
    ask().map_err(|_| Error::NOMEM)
}

#[inline]
pub fn room<T>(list: &mut Vec<T>, more: usize) -> Result<()> {
    reserve(list.capacity(), list.len(), more, || list.try_reserve(more))
}
/// Without room to spare.
#[inline]
pub fn exact_room<T>(list: &mut Vec<T>, more: usize) -> Result<()> {
    reserve(list.capacity(), list.len(), more, || list.try_reserve_exact(more))
}

/// Room for one more. By doubling while that is little, then by an eighth: there is an item for each timeout, so half of
/// the room might otherwise stay empty for good.
#[inline]
pub fn make_room<T>(list: &mut Vec<T>) -> Result<()> {
    #[cold]
    fn grow<T>(list: &mut Vec<T>) -> Result<()> {
        exact_room(list, if list.len() < 4096 { list.len().max(16) } else { list.len() / 8 })
    }
    if list.len() == list.capacity() { grow(list) } else { Ok(()) }
}

pub fn boxed<T>(value: T) -> Result<Box<T>> {
    const { assert!(size_of::<T>() > 0) };
    let layout = Layout::new::<T>();
    if is_refused() {
        return Err(Error::NOMEM);
    }
    // SAFETY: the size is not 0.
    let at = unsafe { alloc(layout) }.cast::<T>();
    if at.is_null() {
        return Err(Error::NOMEM);
    }
    // SAFETY: fresh memory for a `T`, of the allocator and the layout that `Box` frees it with.
    unsafe {
        at.write(value);
        Ok(Box::from_raw(at))
    }
}

/// `n` values, the first error of `make` instead. It has no spare room, so that it becomes a boxed slice in place.
pub fn filled<T>(n: usize, make: impl FnMut(usize) -> Result<T>) -> Result<Vec<T>> {
    let mut list = Vec::new();
    exact_room(&mut list, n)?;
    for value in (0..n).map(make) {
        list.push(value?);
    }
    Ok(list)
}

pub fn push<T>(list: &mut Vec<T>, value: T) -> Result<()> {
    room(list, 1)?;
    list.push(value);
    Ok(())
}

/// A shared value that goes with its last owner: an `Arc` whose making can fail. No weak references.
pub struct Counted<T>(NonNull<Owned<T>>);

struct Owned<T> {
    owners: AtomicUsize,
    value: T,
}

// SAFETY: as `Arc`: the value is reached from several threads, and dropped on any of them.
unsafe impl<T: Send + Sync> Send for Counted<T> {}
// SAFETY: as above.
unsafe impl<T: Send + Sync> Sync for Counted<T> {}

impl<T> Counted<T> {
    pub fn new(value: T) -> Result<Counted<T>> {
        let owned = boxed(Owned { owners: AtomicUsize::new(1), value })?;
        Ok(Counted(NonNull::from(Box::leak(owned))))
    }

    pub fn is_same(a: &Self, b: &Self) -> bool {
        a.0 == b.0
    }

    fn owned(&self) -> &Owned<T> {
        // SAFETY: freed by the last owner only, and `self` is one.
        unsafe { self.0.as_ref() }
    }
}

impl<T> Clone for Counted<T> {
    fn clone(&self) -> Counted<T> {
        // Owners are registrations and calls under way: they cannot become so many that the count wraps. Relaxed: who
        // clones has the value already.
        self.owned().owners.fetch_add(1, Relaxed);
        Counted(self.0)
    }
}

impl<T> Deref for Counted<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.owned().value
    }
}

impl<T> Drop for Counted<T> {
    fn drop(&mut self) {
        // Release: what this owner did comes before the end of the value. Acquire: what all of them did. (A load and not a
        // fence, as in std's Arc: ThreadSanitizer does not know fences.)
        if self.owned().owners.fetch_sub(1, Release) == 1 {
            self.owned().owners.load(Acquire);
            // SAFETY: leaked by `new`; this was the last owner.
            drop(unsafe { Box::from_raw(self.0.as_ptr()) });
        }
    }
}

/// Text that grows. `fmt::Error` means that there was no memory.
#[derive(Default)]
pub struct Text(pub Vec<u8>);

impl fmt::Write for Text {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        room(&mut self.0, s.len()).map_err(|_| fmt::Error)?;
        self.0.extend_from_slice(s.as_bytes());
        Ok(())
    }
}
