//! Who watches an fd: one atomic word for each fd number of the process, shared by all shards.
//!
//! ```text
//!  63        33 | 32      | 31    24 | 23         0
//!  closes begun | CLOSING | owner    | head
//! ```
//! owner: 0 nobody; 1..=254 the shard with that number less 1; 255 exclusive registrations, on several shards.
//! head: index of the first registration in the owner's list; for 255: how many registrations there are.
//!
//! Who may change what:
//! - owner and head: a thread that holds the lock of the owning shard (or, from "nobody", of the shard that it
//!   puts in). So under a shard's lock "the owner is this shard" is stable. 255 is counted by compare-and-swap.
//! - CLOSING and the count of closes: `close_begin` and `close_end`, by compare-and-swap, without a lock.
//!
//! Close against register: `close_begin` first sets CLOSING, then takes the lock of the owner that it saw. A
//! registration takes the lock first, then acquires the word in one compare-and-swap, which fails under CLOSING. So
//! either the registration sees CLOSING and is refused, or its list is there when the closer gets the lock. The
//! closer cannot look at the wrong shard: once CLOSING is set, nobody becomes owner. Who closes the fd itself
//! (`Manager::close_fd`) lifts the mark first, because a closed number may be another thread's at once, and looks
//! again after. (Modelled in `tests/loom_fd_table.rs`.)
use crate::buckets::Buckets;
use crate::error::{Error, Result};
use crate::sync::AtomicU64;
use std::sync::atomic::Ordering::{AcqRel, Acquire};

pub const NO_HEAD: u32 = (1 << 24) - 1;
const CLOSING: u64 = 1 << 32;
const ONE_CLOSE: u64 = 1 << 33;
const EXCLUSIVE: u64 = 255;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Owner {
    Nobody,
    Shard(usize),
    Exclusive,
}

/// What a registration met under its shard's lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Acquired {
    /// The fd belongs to this shard; the first registration, or `NO_HEAD`.
    Mine(u32),
    /// Another shard has it: go there.
    Elsewhere(usize),
}

fn owner(word: u64) -> Owner {
    match word >> 24 & 0xff {
        0 => Owner::Nobody,
        EXCLUSIVE => Owner::Exclusive,
        n => Owner::Shard(n as usize - 1),
    }
}
fn with_owner(word: u64, owner: u64, head: u32) -> u64 {
    word & !0xffff_ffff | owner << 24 | head as u64
}

/// An fd's word.
#[derive(Clone, Copy)]
pub struct Place<'a>(&'a AtomicU64);

impl Place<'_> {
    /// As `FdTable::head`.
    #[inline]
    pub fn head(self) -> u32 {
        let word = self.0.load(Acquire);
        if let Owner::Shard(_) = owner(word) { word as u32 & NO_HEAD } else { NO_HEAD }
    }

    /// Makes `shard` the owner if there is none. Under the shard's lock; the caller then sets a head, or `NO_HEAD` to
    /// give the fd back, before it unlocks.
    #[inline]
    pub fn acquire(self, shard: usize) -> Result<Acquired> {
        FdTable::update(self.0, |w| match owner(w) {
            _ if w & CLOSING != 0 => Err(Error::CLOSED),
            Owner::Nobody => Ok((with_owner(w, shard as u64 + 1, NO_HEAD), Acquired::Mine(NO_HEAD))),
            Owner::Shard(s) if s == shard => Ok((w, Acquired::Mine(w as u32 & NO_HEAD))),
            Owner::Shard(s) => Ok((w, Acquired::Elsewhere(s))),
            Owner::Exclusive => Err(Error::BUSY),
        })
    }

    /// As `FdTable::set_head`.
    #[inline]
    pub fn set_head(self, shard: usize, head: u32) {
        let owner = if head == NO_HEAD { 0 } else { shard as u64 + 1 };
        let head = if head == NO_HEAD { 0 } else { head };
        let _ = FdTable::update(self.0, |w| Ok((with_owner(w, owner, head), ())));
    }
}

pub struct FdTable {
    words: Buckets<AtomicU64>,
}

impl FdTable {
    pub fn new() -> Self {
        FdTable { words: Buckets::new() }
    }

    fn word(&self, fd: i32) -> Result<&AtomicU64> {
        match u32::try_from(fd) {
            Ok(index) => self.words.get_or_make(index).map_err(|e| if e == Error::FULL { Error::BADF } else { e }),
            Err(_) => Err(Error::BADF),
        }
    }

    /// Changes the word by `f`, again until nobody interferes; an error leaves it.
    fn update<R>(word: &AtomicU64, mut f: impl FnMut(u64) -> Result<(u64, R)>) -> Result<R> {
        let mut seen = word.load(Acquire);
        loop {
            let (new, result) = f(seen)?;
            match word.compare_exchange(seen, new, AcqRel, Acquire) {
                Ok(_) => return Ok(result),
                Err(now) => seen = now,
            }
        }
    }

    /// After the fd was closed. A write, not a load: a registration that it does not see comes behind it in the order
    /// of this word, and so meets a closed fd. (A load could be older than both; the model finds it.)
    pub fn owner_after_close(&self, fd: i32) -> Result<Owner> {
        Ok(owner(self.word(fd)?.fetch_or(0, AcqRel)))
    }

    pub fn owner(&self, fd: i32) -> Result<Owner> {
        Ok(owner(self.word(fd)?.load(Acquire)))
    }

    /// For several steps with the same fd.
    #[inline]
    pub fn place(&self, fd: i32) -> Result<Place<'_>> {
        self.word(fd).map(Place)
    }

    /// The first registration of an fd that this shard owns. Under the shard's lock.
    pub fn head(&self, fd: i32) -> u32 {
        self.place(fd).map_or(NO_HEAD, Place::head)
    }

    /// A list without a first registration gives the fd back. Under the owner's lock.
    pub fn set_head(&self, fd: i32, shard: usize, head: u32) {
        if let Ok(place) = self.place(fd) {
            place.set_head(shard, head);
        }
    }

    /// Counts one exclusive registration more.
    pub fn acquire_exclusive(&self, fd: i32) -> Result<()> {
        Self::update(self.word(fd)?, |w| match owner(w) {
            _ if w & CLOSING != 0 => Err(Error::CLOSED),
            Owner::Nobody => Ok((with_owner(w, EXCLUSIVE, 1), ())),
            Owner::Exclusive => Ok((w + 1, ())),
            Owner::Shard(_) => Err(Error::BUSY),
        })
    }

    pub fn release_exclusive(&self, fd: i32) {
        let Ok(word) = self.word(fd) else { return };
        let _ = Self::update(word, |w| {
            let left = (w as u32 & NO_HEAD) - 1;
            Ok((with_owner(w, if left == 0 { 0 } else { EXCLUSIVE }, left), ()))
        });
    }

    /// Sets CLOSING. Returns the ticket and the owner, whose lock the caller takes next.
    pub fn close_begin(&self, fd: i32) -> Result<(u64, Owner)> {
        Self::update(self.word(fd)?, |w| {
            if w & CLOSING != 0 {
                return Err(Error::CLOSED);
            }
            let new = w.wrapping_add(ONE_CLOSE) | CLOSING;
            Ok((new, (new / ONE_CLOSE, owner(w))))
        })
    }

    pub fn close_end(&self, fd: i32, ticket: u64) -> Result<()> {
        Self::update(self.word(fd)?, |w| {
            if w & CLOSING == 0 || w / ONE_CLOSE != ticket {
                return Err(Error::STALE);
            }
            Ok((w & !CLOSING, ()))
        })
    }

    pub fn heap_bytes(&self) -> usize {
        self.words.heap_bytes()
    }
}
