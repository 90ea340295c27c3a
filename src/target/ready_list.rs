//! The list of ready registrations behind the targets POLL and QUEUE.
//!
//! Every registration with such a target owns one node from registration to end, so the list cannot overflow and a push
//! allocates nothing. News of a node that is listed already is merged into it. Cancelling unlinks it: after
//! unregistering, no drain returns it.
use crate::abi::bell_event;
use crate::error::{Error, Result};
use crate::event::{Handle, Ready};
use crate::heap;
use crate::target::News;
use std::ops::{Index, IndexMut};

const NIL: u32 = u32::MAX;

/// Which list a node is in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum In {
    Nothing,
    /// Has news.
    Ready = 1,
    /// LEVEL, drained: the next drain looks at its fd again.
    Relook = 2,
    /// Releases itself, drained: the registration is to be freed.
    Release = 3,
    /// The node is not in use.
    Free,
}

/// What becomes of a node when its news is drained.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum After {
    #[default]
    Nothing,
    Relook,
    Release,
}

/// What was in a node that is given back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Left {
    Nothing,
    /// News that nobody will see now.
    News {
        ready: Ready,
        status: i32,
        data: u64,
    },
    /// What its last drain left to do.
    Relook,
    Release,
}

impl Left {
    pub fn is_news(self) -> bool {
        matches!(self, Left::News { .. })
    }
}

struct Node {
    handle: Handle,
    user_data: u64,
    data: u64,
    status: i32,
    prev: u32,
    next: u32,
    /// `Ready`, of which no bit is higher.
    ready: u16,
    list: In,
    after: After,
}

const UNUSED: Node = Node {
    handle: Handle(0),
    user_data: 0,
    data: 0,
    status: 0,
    prev: NIL,
    next: NIL,
    ready: 0,
    list: In::Free,
    after: After::Nothing,
};

/// Nodes are allocated so many at a time, and stay where they are: a list that grew by copying cost as much as it held.
const CHUNK: usize = 32;

#[derive(Default)]
struct Nodes {
    #[allow(clippy::vec_box)] // they stay where they are
    chunks: Vec<Box<[Node; CHUNK]>>,
}

impl Index<u32> for Nodes {
    type Output = Node;
    #[inline]
    fn index(&self, index: u32) -> &Node {
        &self.chunks[index as usize / CHUNK][index as usize % CHUNK]
    }
}
impl IndexMut<u32> for Nodes {
    #[inline]
    fn index_mut(&mut self, index: u32) -> &mut Node {
        &mut self.chunks[index as usize / CHUNK][index as usize % CHUNK]
    }
}

pub struct ReadyList {
    nodes: Nodes,
    free: u32,
    used: u32,
    /// First and last of Ready, Relook, Release.
    ends: [(u32, u32); 3],
}

/// What [`ReadyList::push`] did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pushed {
    /// The list was empty: ring.
    First,
    More,
    Merged,
}

impl ReadyList {
    pub fn new() -> ReadyList {
        ReadyList { nodes: Nodes::default(), free: NIL, used: 0, ends: [(NIL, NIL); 3] }
    }

    /// Keeps a node for a registration.
    pub fn reserve(&mut self, handle: Handle, user_data: u64, after: After) -> Result<u32> {
        if self.free == NIL {
            self.grow()?;
        }
        let index = self.free;
        let node = &mut self.nodes[index];
        self.free = node.next;
        *node = Node { handle, user_data, after, list: In::Nothing, ..UNUSED };
        self.used += 1;
        Ok(index)
    }

    #[cold]
    fn grow(&mut self) -> Result<()> {
        let chunks = &mut self.nodes.chunks;
        let first = (chunks.len() * CHUNK) as u32;
        let chunk = heap::filled(CHUNK, |i| {
            let next = if i + 1 < CHUNK { first + i as u32 + 1 } else { NIL };
            Ok(Node { next, ..UNUSED })
        })?;
        heap::push(chunks, chunk.into_boxed_slice().try_into().map_err(|_| Error::NOMEM)?)?;
        self.free = first;
        Ok(())
    }

    /// Gives the node back.
    pub fn release(&mut self, index: u32) -> Left {
        let node = &self.nodes[index];
        let left = match node.list {
            In::Ready => Left::News { ready: Ready(node.ready as u32), status: node.status, data: node.data },
            In::Relook => Left::Relook,
            In::Release => Left::Release,
            In::Nothing | In::Free => Left::Nothing,
        };
        self.cancel(index);
        let node = &mut self.nodes[index];
        node.list = In::Free;
        node.next = self.free;
        self.free = index;
        self.used -= 1;
        left
    }

    /// Takes the node out of whatever list.
    pub fn cancel(&mut self, index: u32) {
        if !matches!(self.nodes[index].list, In::Nothing | In::Free) {
            self.unlink(index);
        }
    }

    /// The mode changed.
    pub fn set_after(&mut self, index: u32, after: After) {
        self.nodes[index].after = after;
    }

    /// What has been told of its end, though it may have been armed again before, hears no more.
    pub fn has_ended(&self, index: u32) -> bool {
        self.nodes[index].list == In::Release
    }

    pub fn push(&mut self, index: u32, news: &News) -> Pushed {
        let node = &mut self.nodes[index];
        if node.list == In::Ready {
            node.ready |= news.ready.0 as u16;
            node.data = if news.add { node.data.saturating_add(news.data) } else { node.data | news.data };
            if news.status != 0 {
                node.status = news.status;
            }
            return Pushed::Merged;
        }
        if node.list == In::Release {
            return Pushed::Merged;
        }
        (node.ready, node.status, node.data) = (news.ready.0 as u16, news.status, news.data);
        if node.list != In::Nothing {
            self.unlink(index);
        }
        let was_empty = self.is_empty();
        self.link(index, In::Ready);
        if was_empty { Pushed::First } else { Pushed::More }
    }

    /// Takes the oldest piece of news.
    pub fn pop(&mut self) -> Option<bell_event> {
        let (event, node, _) = self.pop_node()?;
        self.drained(node);
        Some(event)
    }

    /// As `pop`, but what its drain leaves to do is the caller's: `drained`, or the node is given back.
    pub fn pop_node(&mut self) -> Option<(bell_event, u32, After)> {
        let index = self.ends[0].0;
        if index == NIL {
            return None;
        }
        self.unlink(index);
        let node = &self.nodes[index];
        let event = bell_event {
            handle: node.handle.0,
            user_data: node.user_data,
            ready: node.ready as u32,
            status: node.status,
            data: node.data,
        };
        Some((event, index, node.after))
    }

    /// The node's news has been handed to the consumer.
    pub fn drained(&mut self, index: u32) {
        match self.nodes[index].after {
            After::Nothing => {}
            After::Relook => self.link(index, In::Relook),
            After::Release => self.link(index, In::Release),
        }
    }

    /// Takes one registration that the drains have left something to do for.
    pub fn take(&mut self, list: In) -> Option<Handle> {
        let index = self.ends[list as usize - 1].0;
        if index == NIL {
            return None;
        }
        self.unlink(index);
        Some(self.nodes[index].handle)
    }

    pub fn is_empty(&self) -> bool {
        self.ends[0].0 == NIL
    }
    pub fn has(&self, list: In) -> bool {
        self.ends[list as usize - 1].0 != NIL
    }
    pub fn used(&self) -> u32 {
        self.used
    }
    pub fn heap_bytes(&self) -> usize {
        self.nodes.chunks.len() * CHUNK * size_of::<Node>() + self.nodes.chunks.capacity() * size_of::<usize>()
    }

    fn link(&mut self, index: u32, list: In) {
        let ends = &mut self.ends[list as usize - 1];
        let last = ends.1;
        if last == NIL {
            ends.0 = index;
        } else {
            self.nodes[last].next = index;
        }
        ends.1 = index;
        let node = &mut self.nodes[index];
        (node.prev, node.next, node.list) = (last, NIL, list);
    }

    fn unlink(&mut self, index: u32) {
        let node = &mut self.nodes[index];
        let (prev, next, list) = (node.prev, node.next, node.list);
        (node.prev, node.next, node.list) = (NIL, NIL, In::Nothing);
        let ends = &mut self.ends[list as usize - 1];
        if prev == NIL {
            ends.0 = next;
        }
        if next == NIL {
            ends.1 = prev;
        }
        if prev != NIL {
            self.nodes[prev].next = next;
        }
        if next != NIL {
            self.nodes[next].prev = prev;
        }
    }
}
