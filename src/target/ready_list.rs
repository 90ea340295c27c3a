//! The list of ready registrations behind the targets POLL and QUEUE.
//!
//! Every registration with such a target owns one node from registration to end, so the list cannot overflow and a push
//! allocates nothing. News of a node that is listed already is merged into it. Cancelling unlinks it: after
//! unregistering, no drain returns it.
use crate::abi::bell_event;
use crate::error::{Result, make_room};
use crate::event::{Handle, Ready};
use crate::target::News;

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
    ready: Ready,
    status: i32,
    prev: u32,
    next: u32,
    list: In,
    after: After,
}

pub struct ReadyList {
    nodes: Vec<Node>,
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
        ReadyList { nodes: Vec::new(), free: NIL, used: 0, ends: [(NIL, NIL); 3] }
    }

    /// Keeps a node for a registration.
    pub fn reserve(&mut self, handle: Handle, user_data: u64, after: After) -> Result<u32> {
        let node = Node {
            handle,
            user_data,
            data: 0,
            ready: Ready::NONE,
            status: 0,
            prev: NIL,
            next: NIL,
            list: In::Nothing,
            after,
        };
        let index = self.free;
        if index != NIL {
            self.free = self.nodes[index as usize].next;
            self.nodes[index as usize] = node;
            self.used += 1;
            return Ok(index);
        }
        make_room(&mut self.nodes)?;
        self.nodes.push(node);
        self.used += 1;
        Ok(self.nodes.len() as u32 - 1)
    }

    /// Gives the node back.
    pub fn release(&mut self, index: u32) -> Left {
        let node = &self.nodes[index as usize];
        let left = match node.list {
            In::Ready => Left::News { ready: node.ready, status: node.status, data: node.data },
            In::Relook => Left::Relook,
            In::Release => Left::Release,
            In::Nothing | In::Free => Left::Nothing,
        };
        self.cancel(index);
        let node = &mut self.nodes[index as usize];
        node.list = In::Free;
        node.next = self.free;
        self.free = index;
        self.used -= 1;
        left
    }

    /// Takes the node out of whatever list.
    pub fn cancel(&mut self, index: u32) {
        if !matches!(self.nodes[index as usize].list, In::Nothing | In::Free) {
            self.unlink(index);
        }
    }

    /// The mode changed.
    pub fn set_after(&mut self, index: u32, after: After) {
        self.nodes[index as usize].after = after;
    }

    /// What has been told of its end, though it may have been armed again before, hears no more.
    pub fn has_ended(&self, index: u32) -> bool {
        self.nodes[index as usize].list == In::Release
    }

    pub fn push(&mut self, index: u32, news: &News) -> Pushed {
        let node = &mut self.nodes[index as usize];
        if node.list == In::Ready {
            node.ready |= news.ready;
            node.data = if news.add { node.data.saturating_add(news.data) } else { node.data | news.data };
            if news.status != 0 {
                node.status = news.status;
            }
            return Pushed::Merged;
        }
        if node.list == In::Release {
            return Pushed::Merged;
        }
        (node.ready, node.status, node.data) = (news.ready, news.status, news.data);
        if node.list != In::Nothing {
            self.unlink(index);
        }
        let was_empty = self.is_empty();
        self.link(index, In::Ready);
        if was_empty { Pushed::First } else { Pushed::More }
    }

    /// Takes the oldest piece of news.
    pub fn pop(&mut self) -> Option<bell_event> {
        let index = self.ends[0].0;
        if index == NIL {
            return None;
        }
        self.unlink(index);
        let node = &self.nodes[index as usize];
        let event = bell_event {
            handle: node.handle.0,
            user_data: node.user_data,
            ready: node.ready.0,
            status: node.status,
            data: node.data,
        };
        self.drained(index);
        Some(event)
    }

    /// The node's news has been handed to the consumer.
    pub fn drained(&mut self, index: u32) {
        match self.nodes[index as usize].after {
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
        Some(self.nodes[index as usize].handle)
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
        self.nodes.capacity() * size_of::<Node>()
    }

    fn link(&mut self, index: u32, list: In) {
        let ends = &mut self.ends[list as usize - 1];
        let last = ends.1;
        if last == NIL {
            ends.0 = index;
        } else {
            self.nodes[last as usize].next = index;
        }
        ends.1 = index;
        let node = &mut self.nodes[index as usize];
        (node.prev, node.next, node.list) = (last, NIL, list);
    }

    fn unlink(&mut self, index: u32) {
        let node = &mut self.nodes[index as usize];
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
            self.nodes[prev as usize].next = next;
        }
        if next != NIL {
            self.nodes[next as usize].prev = prev;
        }
    }
}
