//! Target SLOT, and the protocol of every word that a thread may wait on.
//!
//! ```text
//!  31      11 | 10     | 9         | 8      | 7 .. 0
//!  deliveries | WAITER | CANCELLED | CLOSED | news: USER TIMEOUT ERR HUP RDHUP PRI WRITE READ
//! ```
//! | who | step | ordering |
//! |---|---|---|
//! | producer | [`publish`]: OR the news in, deliveries + 1, WAITER off, in one read-modify-write; wakes by address if WAITER was on | Release: what was done before is visible to who consumes |
//! | consumer | [`consume`]: takes the news bits away, *before* the I/O that they allow | Acquire: partner of publish |
//! | waiter | [`prepare`]: if there is no news, WAITER on; then sleeps while the word is exactly what it saw | Acquire |
//! | library | [`nudge`]: deliveries + 1 and WAITER off without news, to make a sleeper look up | Release |
//!
//! Why no wake is lost: a publish between prepare and the sleep changes the word, so futex(2) refuses to sleep; a
//! publish after it finds WAITER on and wakes. Why nothing is touched too late: the publishing write is the last
//! access to the word; the wake goes to an address that the kernel does not read (bugs like libuv#2226 and glibc
//! BZ#12674 came from the other way). Why consuming first loses nothing: news that arrives during the I/O sets the
//! bits again, at the cost of one more `EAGAIN`; the other order clears news that the I/O has not seen (tokio#6133,
//! #8331, #8054). (Modelled in `tests/loom_slot.rs`.)
use crate::abi::{BELL_CANCELLED, BELL_CLOSED, BELL_NEWS, BELL_SEQ, BELL_WAITER};
use crate::error::{Error, Result};
use crate::event::{Direction, Ready};
use crate::heap;
use crate::sync::Word;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};

const STICKY: u32 = BELL_CLOSED | BELL_CANCELLED;

/// True: somebody sleeps and must be woken.
#[must_use]
pub fn publish(word: &Word, news: Ready) -> bool {
    change(word, |w| (w | news.0).wrapping_add(BELL_SEQ) & !BELL_WAITER) & BELL_WAITER != 0
}

/// Makes sleepers look up though there is no news. True: somebody sleeps and must be woken.
#[must_use]
pub fn nudge(word: &Word) -> bool {
    publish(word, Ready::NONE)
}

/// As `nudge`, and a word on which nobody sleeps stays as it is. Under the lock under which sleepers announce themselves.
#[must_use]
pub fn nudge_sleeper(word: &Word) -> bool {
    word.load(Relaxed) & BELL_WAITER != 0 && nudge(word)
}

/// The word serves a new owner: only the count of deliveries goes on, so that a late sleeper of the old owner sees a
/// change. Nobody may be asleep on it: the old owner's end has woken them.
pub fn reset(word: &Word) {
    change(word, |w| (w & !(BELL_NEWS | STICKY | BELL_WAITER)).wrapping_add(BELL_SEQ));
}

/// Takes the news; CLOSED and CANCELLED are told and stay.
pub fn consume(word: &Word) -> Ready {
    // A look first: a read leaves the cache line where it is.
    if word.load(Relaxed) & (BELL_NEWS | STICKY) == 0 {
        return Ready::NONE;
    }
    Ready(word.fetch_and(!BELL_NEWS, Acquire) & (BELL_NEWS | STICKY))
}

/// Announces a sleeper. The word to sleep on, or `None`: there is news, do not sleep.
pub fn prepare(word: &Word) -> Option<u32> {
    let mut seen = word.load(Relaxed);
    loop {
        if seen & (BELL_NEWS | STICKY) != 0 {
            return None;
        }
        match word.compare_exchange(seen, seen | BELL_WAITER, Acquire, Relaxed) {
            Ok(_) => return Some(seen | BELL_WAITER),
            Err(now) => seen = now,
        }
    }
}

fn change(word: &Word, f: impl Fn(u32) -> u32) -> u32 {
    let mut seen = word.load(Relaxed);
    loop {
        match word.compare_exchange(seen, f(seen), AcqRel, Relaxed) {
            Ok(_) => return seen,
            Err(now) => seen = now,
        }
    }
}

/// `bell_slot` in memory.
#[cfg_attr(not(any(loom, shuttle)), repr(C))]
pub struct Slot {
    pub rd: Word,
    pub wr: Word,
}

impl Slot {
    pub fn word(&self, direction: Direction) -> &Word {
        match direction {
            Direction::Read => &self.rd,
            Direction::Write => &self.wr,
        }
    }
}

/// The slots of a shard. They never move and are unmapped with the manager only: callers hold their addresses.
pub struct Slots {
    chunks: Vec<&'static [Slot]>,
    free: Vec<u32>,
}

/// Small in models, whose checkers make every word an object of its own.
const CHUNK: usize = if cfg!(any(loom, shuttle)) { 4 } else { 256 };

impl Slots {
    pub fn new() -> Slots {
        Slots { chunks: Vec::new(), free: Vec::new() }
    }

    pub fn take(&mut self) -> Result<u32> {
        if self.free.is_empty() {
            self.grow()?;
        }
        let index = self.free.pop().ok_or(Error::NOMEM)?;
        let slot = self.get(index);
        reset(&slot.rd);
        reset(&slot.wr);
        Ok(index)
    }

    fn grow(&mut self) -> Result<()> {
        let first = self.chunks.len() * CHUNK;
        let mut chunk = Vec::new();
        heap::exact_room(&mut chunk, CHUNK)?;
        // Room for every slot to be free at once, so that giving one back needs no memory.
        let more = first + CHUNK - self.free.len();
        heap::exact_room(&mut self.free, more)?;
        heap::room(&mut self.chunks, 1)?;
        chunk.resize_with(CHUNK, || Slot { rd: Word::new(0), wr: Word::new(0) });
        self.chunks.push(chunk.leak());
        self.free.extend((first as u32..(first + CHUNK) as u32).rev());
        Ok(())
    }

    pub fn give_back(&mut self, index: u32) {
        self.free.push(index);
    }

    pub fn get(&self, index: u32) -> &'static Slot {
        &self.chunks[index as usize / CHUNK][index as usize % CHUNK]
    }

    pub fn heap_bytes(&self) -> usize {
        self.chunks.len() * CHUNK * size_of::<Slot>()
            + self.free.capacity() * size_of::<u32>()
            + self.chunks.capacity() * size_of::<&[Slot]>()
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        for chunk in self.chunks.drain(..) {
            // SAFETY: leaked by `grow`, not freed before; `'static` references from `get` are used only by threads
            // that are inside the manager, and the manager is dropped when none is (`Manager::finish_destroy`).
            drop(unsafe { Box::from_raw(std::ptr::from_ref(chunk).cast_mut()) });
        }
    }
}
