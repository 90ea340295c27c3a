//! The deadlines of one clock of one shard.
//!
//! The contract: never early; each arming fires at most once; of two that may fire, the one with the earlier hard
//! time (deadline plus slack) first, on ties the one armed first. There is no clock here: `now` is an argument, and
//! nothing fires unless `pop_due` is called. The caller holds the shard's lock. The entries are the caller's: the
//! heap keeps 16 bytes for each, and its position in the entry, through `Nodes`.
//!
//! The two common cases are to cancel before the deadline and to move it later on every event. So a later deadline
//! is only stored in the entry: the heap keeps the old key, which is a lower bound, and looks at the entry when that
//! key comes to the top. At any time `key <= due + slack` for every armed entry, and nothing else is promised of keys.
//!
//! An 8-ary heap, because it was measured against a timing wheel and a binary heap at 10k to 1M live deadlines: with
//! lazy extension it was the fastest, and unlike a wheel it is exact to the nanosecond. A million deadlines are seven
//! levels; each level passed costs a write to an entry somewhere in memory, so a flat heap beats a deep one.
use crate::error::{Result, make_room};
use crate::event::NEVER;

/// The position of an entry that is not in the heap.
pub const UNARMED: u32 = u32::MAX;

const ARITY: usize = 8;

/// Capacity that is kept for good (1 KiB): a lone timeout armed and fired in turn does not allocate each time.
const KEPT: usize = 64;

/// The caller's entries, by id.
pub trait Nodes {
    /// Position in the heap, `UNARMED` when not in it. Only the heap writes it.
    fn pos(&mut self, id: u32) -> &mut u32;
    /// The deadline asked for, ns.
    fn due(&self, id: u32) -> i64;
    /// How late it may be, ns (>= 0).
    fn slack(&self, id: u32) -> i64;
}

/// The time by which it must have fired. Not `NEVER`, which is what an empty heap answers.
#[inline]
fn hard(n: &impl Nodes, id: u32) -> i64 {
    n.due(id).saturating_add(n.slack(id)).min(NEVER - 1)
}

#[derive(Clone, Copy)]
struct Item {
    key: i64,
    seq: u32,
    id: u32,
}

impl Item {
    /// `seq` wraps, and the difference tells the older while fewer than 2^31 armings lie between the two. At most
    /// 2^25 are live (fds and timeouts), so that many apart takes half an hour of a million armings a second, with both
    /// pending and equal to the nanosecond. Even then only their order is off: keys come first, so time is not.
    #[inline]
    fn before(&self, other: &Item) -> bool {
        self.key < other.key || (self.key == other.key && (self.seq.wrapping_sub(other.seq) as i32) < 0)
    }
}

#[derive(Default)]
pub struct Timers {
    heap: Vec<Item>,
    next_seq: u32,
}

impl Timers {
    pub const fn new() -> Timers {
        Timers { heap: Vec::new(), next_seq: 0 }
    }

    /// Numbered from `seq`, so that a test meets the wrap.
    #[cfg(test)]
    pub fn numbered_from(seq: u32) -> Timers {
        Timers { heap: Vec::new(), next_seq: seq }
    }

    /// Arms an entry that is not armed; returns its hard time. On `NOMEM` nothing has changed. The one after a `pop_due` that gave something,
    /// or after a `remove` of what was armed, finds room: a periodic timeout is not lost for want of memory.
    #[inline]
    pub fn insert(&mut self, n: &mut impl Nodes, id: u32) -> Result<i64> {
        debug_assert!(*n.pos(id) == UNARMED, "armed twice");
        debug_assert!(n.due(id) != NEVER && n.slack(id) >= 0);
        make_room(&mut self.heap)?;
        let item = Item { key: hard(n, id), seq: self.next_seq, id };
        self.next_seq = self.next_seq.wrapping_add(1);
        let hole = self.heap.len();
        self.heap.push(item);
        self.rise(n, hole, item);
        Ok(item.key)
    }

    /// To be called when `due` or `slack` of an armed entry has changed. Keeps its place among equals. A caller that
    /// knows that neither has become less need not call: it would only read the key, and return.
    #[inline]
    pub fn moved(&mut self, n: &mut impl Nodes, id: u32) {
        debug_assert!(n.due(id) != NEVER && n.slack(id) >= 0);
        let at = *n.pos(id) as usize;
        let key = hard(n, id);
        // UNARMED is beyond any heap.
        if let Some(item) = self.heap.get(at) {
            if key < item.key {
                let item = Item { key, ..*item };
                self.rise(n, at, item);
            }
        }
    }

    /// Nothing, if it is not armed.
    #[inline]
    pub fn remove(&mut self, n: &mut impl Nodes, id: u32) {
        let at = *n.pos(id) as usize;
        if at < self.heap.len() {
            debug_assert!(self.heap[at].id == id);
            self.take(n, at);
        }
    }

    /// The next that may fire, taken out: its `due <= now`. `None`: no hard time has come, and the top may not fire
    /// yet. As with Linux's hrtimers, one with slack fires earlier than its hard time only when it is at the top.
    ///
    /// A stale top is left alone until its old key or its new deadline has come. A driver calls this on every turn,
    /// and would otherwise do on every turn the work that `moved` has put off.
    #[inline]
    pub fn pop_due(&mut self, n: &mut impl Nodes, now: i64) -> Option<u32> {
        // Ends: each round but the last makes a stale key fresh, and nobody makes one stale meanwhile.
        loop {
            let top = *self.heap.first()?;
            let due = n.due(top.id);
            if due > now && top.key > now {
                return None;
            }
            if self.freshen(n, top) {
                continue;
            }
            if due > now {
                return None;
            }
            self.take(n, 0);
            return Some(top.id);
        }
    }

    /// The earliest hard time, for which a driver sleeps; `NEVER` when empty. Makes stale tops fresh first, so that
    /// nobody wakes for a deadline that has been moved away.
    #[inline]
    pub fn next_wake(&mut self, n: &mut impl Nodes) -> i64 {
        while let Some(&top) = self.heap.first() {
            if !self.freshen(n, top) {
                return top.key;
            }
        }
        NEVER
    }

    /// The earliest key, possibly stale: not later than what `next_wake` would say, and free. `NEVER` when empty.
    #[inline]
    pub fn peek(&self) -> i64 {
        self.heap.first().map_or(NEVER, |top| top.key)
    }

    pub fn len(&self) -> usize {
        self.heap.len()
    }
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }
    pub fn heap_bytes(&self) -> usize {
        self.heap.capacity() * size_of::<Item>()
    }

    /// For tests: the order, the positions, and that every key is a lower bound.
    pub fn verify(&self, n: &mut impl Nodes) -> std::result::Result<(), String> {
        for (i, item) in self.heap.iter().enumerate() {
            let Item { key, seq, id } = *item;
            let pos = *n.pos(id);
            if pos as usize != i {
                return Err(format!("id {id} is at {i}, its entry says {pos}"));
            }
            let hard = hard(n, id);
            if key > hard {
                return Err(format!("id {id} has key {key}, later than its hard time {hard}"));
            }
            let parent = &self.heap[i.saturating_sub(1) / ARITY];
            if item.before(parent) {
                return Err(format!("at {i}: ({key}, {seq}) above it ({}, {})", parent.key, parent.seq));
            }
        }
        Ok(())
    }

    /// True if the top was stale and has been given its new key.
    #[inline]
    fn freshen(&mut self, n: &mut impl Nodes, top: Item) -> bool {
        let key = hard(n, top.id);
        let stale = key > top.key;
        if stale {
            self.sink(n, 0, Item { key, ..top });
        }
        stale
    }

    /// Takes the item at `at` out and puts the last one in its place.
    fn take(&mut self, n: &mut impl Nodes, at: usize) {
        *n.pos(self.heap[at].id) = UNARMED;
        let Some(last) = self.heap.pop() else { return };
        if at < self.heap.len() {
            // The last is from another branch, so it may belong above as well as below.
            if at > 0 && last.before(&self.heap[(at - 1) / ARITY]) {
                self.rise(n, at, last);
            } else {
                self.sink(n, at, last);
            }
        }
        if self.heap.len() < self.heap.capacity() / 4 && self.heap.capacity() > KEPT {
            self.shrink();
        }
    }

    /// Moves up what is after `item` on its way from `hole` to the root, then writes it: no swaps.
    #[inline]
    fn rise(&mut self, n: &mut impl Nodes, mut hole: usize, item: Item) {
        let heap = &mut self.heap[..];
        while hole > 0 {
            let parent = (hole - 1) / ARITY;
            let above = heap[parent];
            if !item.before(&above) {
                break;
            }
            heap[hole] = above;
            *n.pos(above.id) = hole as u32;
            hole = parent;
        }
        heap[hole] = item;
        *n.pos(item.id) = hole as u32;
    }

    fn sink(&mut self, n: &mut impl Nodes, mut hole: usize, item: Item) {
        let heap = &mut self.heap[..];
        loop {
            let first = ARITY * hole + 1;
            if first >= heap.len() {
                break;
            }
            let end = heap.len().min(first + ARITY);
            let (mut child, mut least) = (first, heap[first]);
            for (i, other) in heap[..end].iter().enumerate().skip(first + 1) {
                if other.before(&least) {
                    (child, least) = (i, *other);
                }
            }
            if !least.before(&item) {
                break;
            }
            heap[hole] = least;
            *n.pos(least.id) = hole as u32;
            hole = child;
        }
        heap[hole] = item;
        *n.pos(item.id) = hole as u32;
    }

    /// To half the capacity, at a quarter full: growing again is as far away as shrinking again. By hand, because
    /// `Vec::shrink_to` aborts when the allocator refuses; here the old memory is kept then.
    #[cold]
    fn shrink(&mut self) {
        let mut smaller = Vec::new();
        if smaller.try_reserve_exact(self.heap.capacity() / 2).is_ok() {
            smaller.extend_from_slice(&self.heap);
            self.heap = smaller;
        }
    }
}
