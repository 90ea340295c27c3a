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
//! (Not so of an entry whose deadline is shared: its owner may store an earlier one, which the key does not know.)
//!
//! An 8-ary heap, because it was measured against a timing wheel and a binary heap at 10k to 1M live deadlines: with
//! lazy extension it was the fastest, and unlike a wheel it is exact to the nanosecond. A million deadlines are seven
//! levels; each level passed costs a write to an entry somewhere in memory, so a flat heap beats a deep one.
use crate::error::Result;
use crate::event::NEVER;
use crate::heap;

/// The position of an entry that is not in the heap.
pub const UNARMED: u32 = u32::MAX;

const ARITY: usize = 8;

/// Capacity that is kept for good (1 KiB): a lone timeout armed and fired in turn does not allocate each time.
const KEPT: usize = 64;

/// The caller's entries, by id.
pub trait Nodes {
    /// Position in the heap, `UNARMED` when not in it. Only the heap writes it.
    fn pos(&mut self, id: u32) -> &mut u32;
    /// The deadline asked for, and how late it may be (>= 0), ns.
    fn due_and_slack(&self, id: u32) -> (i64, i64);
    /// May its deadline be another one, at any time, without a call of `moved`? What is earlier than its key is then
    /// found out when the key comes to the top.
    fn is_shared(&self, id: u32) -> bool;
}

/// The time by which one must have fired. Not `NEVER`, which is what an empty heap answers.
#[inline(always)]
pub fn hard((due, slack): (i64, i64)) -> i64 {
    due.saturating_add(slack).min(NEVER - 1)
}

/// key:64 | seq:39 | id:25. One number, so that which comes first is one comparison without a branch: in a heap every
/// second branch is mispredicted. The key is signed, and so is the number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Item(i128);

const ID_BITS: u32 = 25;
/// A million armings a second take six days to get there; see `Timers::renumber`.
pub const SEQ_END: u64 = 1 << (64 - ID_BITS);

impl Item {
    #[inline]
    fn new(key: i64, seq: u64, id: u32) -> Item {
        debug_assert!(seq < SEQ_END && id < 1 << ID_BITS);
        Item((key as i128) << 64 | (seq << ID_BITS | id as u64) as i128)
    }
    #[inline]
    fn key(self) -> i64 {
        (self.0 >> 64) as i64
    }
    #[inline]
    fn id(self) -> u32 {
        self.0 as u32 & ((1 << ID_BITS) - 1)
    }
    #[inline]
    fn seq(self) -> u64 {
        self.0 as u64 >> ID_BITS
    }
    #[inline]
    fn with_key(self, key: i64) -> Item {
        Item((key as i128) << 64 | self.0 as u64 as i128)
    }
}

type Placed = (usize, Item);

#[inline(always)]
fn lesser(a: Placed, b: Placed) -> Placed {
    if b.1 < a.1 { b } else { a }
}

#[inline(always)]
fn least(items: [Item; ARITY]) -> Placed {
    let mut least = (0, items[0]);
    for (i, item) in items.into_iter().enumerate().skip(1) {
        least = lesser(least, (i, item));
    }
    least
}

#[derive(Default)]
pub struct Timers {
    heap: Vec<Item>,
    next_seq: u64,
}

impl Timers {
    pub const fn new() -> Timers {
        Timers { heap: Vec::new(), next_seq: 0 }
    }

    /// Numbered from `seq`, so that a test meets the end of the numbers.
    #[cfg(test)]
    pub fn numbered_from(seq: u64) -> Timers {
        Timers { heap: Vec::new(), next_seq: seq }
    }

    /// Arms an entry that is not armed, with its hard time. On `NOMEM` nothing has changed. The one after a `pop_due`
    /// that gave something, or after a `remove` of what was armed, finds room: a periodic timeout is not lost for want
    /// of memory.
    #[inline(always)]
    pub fn insert(&mut self, n: &mut impl Nodes, id: u32, hard_time: i64) -> Result<()> {
        debug_assert!(*n.pos(id) == UNARMED, "armed twice");
        debug_assert!(n.is_shared(id) || hard_time == hard(n.due_and_slack(id)));
        heap::make_room(&mut self.heap)?;
        if self.next_seq == SEQ_END {
            self.renumber(n);
        }
        let item = Item::new(hard_time, self.next_seq, id);
        self.next_seq += 1;
        let hole = self.heap.len();
        self.heap.push(item);
        self.rise(n, hole, item);
        Ok(())
    }

    /// The numbers are used up: the live ones get new ones in the order of the old. Sorted is a heap, too.
    #[cold]
    fn renumber(&mut self, n: &mut impl Nodes) {
        self.heap.sort_unstable_by_key(|item| item.seq());
        for (seq, item) in self.heap.iter_mut().enumerate() {
            *item = Item::new(item.key(), seq as u64, item.id());
        }
        self.next_seq = self.heap.len() as u64;
        self.heap.sort_unstable();
        for (at, item) in self.heap.iter().enumerate() {
            *n.pos(item.id()) = at as u32;
        }
    }

    /// To be called when `due` or `slack` of an armed entry has changed. Keeps its place among equals. A caller that
    /// knows that neither has become less need not call: it would only read the key, and return.
    #[inline]
    pub fn moved(&mut self, n: &mut impl Nodes, id: u32) {
        let (due, slack) = n.due_and_slack(id);
        debug_assert!((due != NEVER || n.is_shared(id)) && slack >= 0);
        let at = *n.pos(id) as usize;
        let key = hard((due, slack));
        // UNARMED is beyond any heap.
        if let Some(item) = self.heap.get(at) {
            if key < item.key() {
                let item = item.with_key(key);
                self.rise(n, at, item);
            }
        }
    }

    /// Nothing, if it is not armed.
    #[inline]
    pub fn remove(&mut self, n: &mut impl Nodes, id: u32) {
        let at = *n.pos(id) as usize;
        if at < self.heap.len() {
            debug_assert!(self.heap[at].id() == id);
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
        // Ends: each round but the last makes a stale key fresh, and nobody makes one stale meanwhile, but for a shared
        // one that is moved just then, and that to beyond `now` as a rule.
        loop {
            let top = *self.heap.first()?;
            let times = n.due_and_slack(top.id());
            if times.0 > now && top.key() > now {
                return None;
            }
            if self.freshen(n, top, times) {
                continue;
            }
            if times.0 > now {
                return None;
            }
            self.take(n, 0);
            return Some(top.id());
        }
    }

    /// The earliest hard time, for which a driver sleeps; `NEVER` when empty. Makes stale tops fresh first, so that
    /// nobody wakes for a deadline that has been moved away.
    #[inline]
    pub fn next_wake(&mut self, n: &mut impl Nodes) -> i64 {
        // Each at most once: shared ones may be moved faster than they are made fresh.
        for _ in 0..self.heap.len() {
            let top = self.heap[0];
            let times = n.due_and_slack(top.id());
            if !self.freshen(n, top, times) {
                return top.key();
            }
        }
        self.peek()
    }

    /// The earliest key, possibly stale: not later than what `next_wake` would say, and free. `NEVER` when empty.
    #[inline]
    pub fn peek(&self) -> i64 {
        self.heap.first().map_or(NEVER, |top| top.key())
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
            let (key, seq, id) = (item.key(), item.seq(), item.id());
            let pos = *n.pos(id);
            if pos as usize != i {
                return Err(format!("id {id} is at {i}, its entry says {pos}"));
            }
            let hard = hard(n.due_and_slack(id));
            if key > hard && !n.is_shared(id) {
                return Err(format!("id {id} has key {key}, later than its hard time {hard}"));
            }
            let parent = &self.heap[i.saturating_sub(1) / ARITY];
            if item < parent {
                return Err(format!("at {i}: ({key}, {seq}) above it ({}, {})", parent.key(), parent.seq()));
            }
        }
        Ok(())
    }

    /// True if the top was stale and has been given its new key.
    #[inline]
    fn freshen(&mut self, n: &mut impl Nodes, top: Item, times: (i64, i64)) -> bool {
        let key = hard(times);
        let stale = key > top.key();
        if stale {
            self.sink(n, 0, top.with_key(key));
        }
        stale
    }

    /// Takes the item at `at` out and puts the last one in its place.
    fn take(&mut self, n: &mut impl Nodes, at: usize) {
        *n.pos(self.heap[at].id()) = UNARMED;
        let Some(last) = self.heap.pop() else { return };
        if at < self.heap.len() {
            // The last is from another branch, so it may belong above as well as below.
            if at > 0 && last < self.heap[(at - 1) / ARITY] {
                self.rise(n, at, last);
            } else if ARITY * at + 1 < self.heap.len() {
                self.sink(n, at, last);
            } else {
                // Nothing is below: so it is for seven in eight that are cancelled.
                self.heap[at] = last;
                *n.pos(last.id()) = at as u32;
            }
        }
        if self.heap.len() < self.heap.capacity() / 4 && self.heap.capacity() > KEPT {
            self.shrink();
        }
    }

    /// Moves up what is after `item` on its way from `hole` to the root, then writes it: no swaps.
    #[inline(always)]
    fn rise(&mut self, n: &mut impl Nodes, mut hole: usize, item: Item) {
        let heap = &mut self.heap[..];
        while hole > 0 {
            let parent = (hole - 1) / ARITY;
            let above = heap[parent];
            if item > above {
                break;
            }
            heap[hole] = above;
            *n.pos(above.id()) = hole as u32;
            hole = parent;
        }
        heap[hole] = item;
        *n.pos(item.id()) = hole as u32;
    }

    fn sink(&mut self, n: &mut impl Nodes, mut hole: usize, item: Item) {
        let heap = &mut self.heap[..];
        loop {
            let first = ARITY * hole + 1;
            let (child, least) = match heap.get(first..).unwrap_or_default() {
                [] => break,
                // All eight: no loop, and no branch.
                [a, b, c, d, e, f, g, h, ..] => least([*a, *b, *c, *d, *e, *f, *g, *h]),
                some => some.iter().copied().enumerate().fold((0, some[0]), lesser),
            };
            if least > item {
                break;
            }
            heap[hole] = least;
            *n.pos(least.id()) = hole as u32;
            hole = first + child;
        }
        heap[hole] = item;
        *n.pos(item.id()) = hole as u32;
    }

    /// To half the capacity, at a quarter full: growing again is as far away as shrinking again. By hand, because
    /// `Vec::shrink_to` aborts when the allocator refuses; here the old memory is kept then.
    #[cold]
    fn shrink(&mut self) {
        let mut smaller = Vec::new();
        if heap::exact_room(&mut smaller, self.heap.capacity() / 2).is_ok() {
            smaller.extend_from_slice(&self.heap);
            self.heap = smaller;
        }
    }
}
