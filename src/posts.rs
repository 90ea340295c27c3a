//! Posting a user event from anywhere, a signal handler included: no lock, no allocation.
//!
//! Each user event has a cell that never moves. Its word:
//!
//! ```text
//!  63     34 | 33     | 32     | 31    0
//!  generation| POSTED | LINKED | bits
//! ```
//! - `post` sets POSTED, LINKED and the bits in one compare-and-swap that fails if the generation is another, so a
//!   stale handle posts nothing. Whoever turns LINKED on pushes the cell on the shard's stack.
//! - The driver takes the whole stack with one swap, so there is no ABA; for each cell it reads `next` first, then
//!   takes POSTED, LINKED and bits away: from then on a poster may push the cell again.
//! - Unregistering changes the generation and keeps LINKED: a cell that is on the stack stays there, once.
//!
//! (Modelled in `tests/loom_posts.rs`.)
use crate::buckets::Buckets;
use crate::error::{Error, Result};
use crate::sync::{AtomicU32, AtomicU64};
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};

const POSTED: u64 = 1 << 33;
const LINKED: u64 = 1 << 32;
const BITS: u64 = 0xffff_ffff;
const END: u32 = 0;

#[derive(Default)]
pub struct Cell {
    word: AtomicU64,
    /// Index + 1 of the next cell on the stack.
    next: AtomicU32,
}

pub struct Posts {
    cells: Buckets<Cell>,
    /// Index + 1 of the top.
    top: AtomicU32,
}

impl Posts {
    pub fn new() -> Self {
        Posts { cells: Buckets::new(), top: AtomicU32::new(END) }
    }

    /// Opens the cell for a new registration. Under the shard's lock.
    pub fn open(&self, index: u32, generation: u32) -> Result<()> {
        let cell = self.cells.get_or_make(index)?;
        self.set_generation(cell, generation);
        Ok(())
    }

    /// From here on posts with the old handle are stale. Under the shard's lock.
    pub fn close(&self, index: u32) {
        if let Some(cell) = self.cells.get(index) {
            self.set_generation(cell, 0);
        }
    }

    fn set_generation(&self, cell: &Cell, generation: u32) {
        let mut seen = cell.word.load(Relaxed);
        while let Err(now) =
            cell.word.compare_exchange(seen, (generation as u64) << 34 | seen & LINKED, AcqRel, Relaxed)
        {
            seen = now;
        }
    }

    /// Async-signal-safe. The caller wakes the driver.
    pub fn post(&self, index: u32, generation: u32, bits: u32) -> Result<()> {
        let cell = self.cells.get(index).ok_or(Error::STALE)?;
        let mut seen = cell.word.load(Relaxed);
        loop {
            // 0 is a closed cell, and no handle's generation.
            if generation == 0 || seen >> 34 != generation as u64 {
                return Err(Error::STALE);
            }
            match cell.word.compare_exchange(seen, seen | POSTED | LINKED | bits as u64, AcqRel, Relaxed) {
                Ok(_) => break,
                Err(now) => seen = now,
            }
        }
        if seen & LINKED == 0 {
            self.push(index, cell);
        }
        Ok(())
    }

    fn push(&self, index: u32, cell: &Cell) {
        let mut top = self.top.load(Relaxed);
        loop {
            cell.next.store(top, Relaxed);
            match self.top.compare_exchange(top, index + 1, AcqRel, Relaxed) {
                Ok(_) => return,
                Err(now) => top = now,
            }
        }
    }

    pub fn is_empty(&self) -> bool {
        self.top.load(Acquire) == END
    }

    /// Takes all that was posted: index, generation, bits. For the driver only.
    pub fn take(&self, mut each: impl FnMut(u32, u32, u32)) {
        let mut at = self.top.swap(END, AcqRel);
        while at != END {
            let index = at - 1;
            let Some(cell) = self.cells.get(index) else { return };
            at = cell.next.load(Relaxed);
            let word = cell.word.fetch_and(!(POSTED | LINKED | BITS), AcqRel);
            if word & POSTED != 0 {
                each(index, (word >> 34) as u32, word as u32);
            }
        }
    }

    /// In a forked child: a thread of the parent may have been between LINKED and its push. All that is posted is
    /// linked afresh.
    pub fn start_over(&self) {
        self.top.store(END, Relaxed);
        for (index, cell) in self.cells.iter() {
            let word = cell.word.load(Relaxed);
            if word & POSTED != 0 {
                cell.word.store(word | LINKED, Relaxed);
                self.push(index, cell);
            } else {
                cell.word.store(word & !LINKED, Relaxed);
            }
        }
    }

    /// In a forked child that starts anew: nothing is posted, and no handle is known.
    pub fn forget(&mut self) {
        *self = Posts::new();
    }

    pub fn heap_bytes(&self) -> usize {
        self.cells.heap_bytes()
    }
}
