//! A grow-only array that is read without a lock: buckets of doubling size, each made once and never moved.
//! For the few facts that must be reached without a shard's lock: who watches an fd, and what was posted.
use crate::error::{Error, Result};
use std::sync::OnceLock;

/// The first bucket holds 1 << FIRST items. Small in models, whose checkers make every atomic an object of its own.
const FIRST: u32 = if cfg!(any(loom, shuttle)) { 1 } else { 10 };
/// Enough for 2^24 items.
const BUCKETS: usize = 24 - FIRST as usize + 1;
pub const CAPACITY: u32 = 1 << 24;

pub struct Buckets<T> {
    buckets: [OnceLock<Box<[T]>>; BUCKETS],
}

fn locate(index: u32) -> (usize, usize) {
    let shifted = index + (1 << FIRST);
    let bucket = shifted.ilog2() - FIRST;
    (bucket as usize, (shifted - (1 << (FIRST + bucket))) as usize)
}

impl<T: Default> Buckets<T> {
    pub fn new() -> Self {
        Buckets { buckets: [const { OnceLock::new() }; BUCKETS] }
    }

    /// The item, if its bucket has been made. Async-signal-safe.
    #[inline]
    pub fn get(&self, index: u32) -> Option<&T> {
        if index >= CAPACITY {
            return None;
        }
        let (bucket, offset) = locate(index);
        self.buckets[bucket].get().map(|b| &b[offset])
    }

    /// The item, its bucket made if need be.
    #[inline]
    pub fn get_or_make(&self, index: u32) -> Result<&T> {
        match self.get(index) {
            Some(item) => Ok(item),
            None => self.make(index),
        }
    }

    #[cold]
    fn make(&self, index: u32) -> Result<&T> {
        if index >= CAPACITY {
            return Err(Error::FULL);
        }
        let (bucket, _) = locate(index);
        if self.buckets[bucket].get().is_none() {
            let size = 1usize << (FIRST as usize + bucket);
            let mut items = Vec::new();
            crate::heap::exact_room(&mut items, size)?;
            items.resize_with(size, T::default);
            // Another thread may have been faster: its bucket stays, ours is dropped.
            let _ = self.buckets[bucket].set(items.into_boxed_slice());
        }
        self.get(index).ok_or(Error::NOMEM)
    }

    /// All items of the buckets that were made, with their indices.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        let made = self.buckets.iter().map_while(|b| b.get());
        made.flat_map(|b| b.iter()).enumerate().map(|(i, item)| (i as u32, item))
    }

    pub fn heap_bytes(&self) -> usize {
        self.buckets.iter().filter_map(|b| b.get()).map(|b| size_of_val(&**b)).sum()
    }
}
