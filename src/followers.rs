//! Waiters that sleep on their words while another one drives: a list in one vector, so that ten thousand threads can
//! come and go without an allocation each, in constant time.
use crate::error::Result;
use crate::heap;
use crate::sync::Word;

const NIL: u32 = u32::MAX;

struct Node {
    word: *const Word,
    prev: u32,
    next: u32,
    /// Taken off the list by `pop`; its owner has not looked yet.
    popped: bool,
}

pub struct Followers {
    nodes: Vec<Node>,
    free: u32,
    first: u32,
    last: u32,
}

// SAFETY: the words are atomic, and alive as long as their followers are listed: a slot's (never unmapped while
// somebody is inside the manager) or that of a queue which the waiter holds.
unsafe impl Send for Followers {}

impl Followers {
    pub fn new() -> Followers {
        Followers { nodes: Vec::new(), free: NIL, first: NIL, last: NIL }
    }

    /// Lists a waiter. What it returns is for `leave`.
    #[inline]
    pub fn join(&mut self, word: &Word) -> Result<u32> {
        let node = Node { word, prev: self.last, next: NIL, popped: false };
        let at = if self.free != NIL {
            let at = self.free;
            self.free = self.nodes[at as usize].next;
            self.nodes[at as usize] = node;
            at
        } else {
            heap::room(&mut self.nodes, 1)?;
            self.nodes.push(node);
            self.nodes.len() as u32 - 1
        };
        match self.last {
            NIL => self.first = at,
            last => self.nodes[last as usize].next = at,
        }
        self.last = at;
        Ok(at)
    }

    /// The waiter is awake. Every `join` is followed by one `leave`, by the same thread. True: it was popped.
    #[inline]
    pub fn leave(&mut self, at: u32) -> bool {
        let popped = self.nodes[at as usize].popped;
        if !popped {
            self.unlink(at);
        }
        self.nodes[at as usize].next = self.free;
        self.free = at;
        popped
    }

    /// Takes the longest sleeper off the list, to be nudged.
    pub fn pop(&mut self) -> Option<&'static Word> {
        let at = self.first;
        if at == NIL {
            return None;
        }
        self.unlink(at);
        self.nodes[at as usize].popped = true;
        // SAFETY: alive until the waiter calls `leave`, which needs the lock that the caller holds; afterwards only
        // the address is used.
        Some(unsafe { &*self.nodes[at as usize].word })
    }

    pub fn len(&self) -> usize {
        let mut n = 0;
        let mut at = self.first;
        while at != NIL {
            n += 1;
            at = self.nodes[at as usize].next;
        }
        n
    }

    pub fn heap_bytes(&self) -> usize {
        self.nodes.capacity() * size_of::<Node>()
    }

    fn unlink(&mut self, at: u32) {
        let (prev, next) = (self.nodes[at as usize].prev, self.nodes[at as usize].next);
        match prev {
            NIL => self.first = next,
            p => self.nodes[p as usize].next = next,
        }
        match next {
            NIL => self.last = prev,
            n => self.nodes[n as usize].prev = prev,
        }
    }
}
