//! Where news lands: a small enum, one file for each variant that has a protocol of its own.
//!
//! The shard decides under its lock what is delivered: it publishes in its own memory (POLL and QUEUE lists, slot
//! words) and takes a [`Notification`] for everything that touches the world outside. Those are values that
//! [`Notification::deliver`] consumes after the lock is released, so "once, with no lock held" is a type.
pub mod futex;
pub mod mvar;
pub mod queue;
pub mod ready_list;
pub mod slot;
pub mod wake_fd;

use crate::event::{Handle, Ready};
use crate::heap::Counted;
use crate::sync::{self, WakeAddress};
use futex::ForeignWord;
use mvar::{GhcOps, StablePtr};
use queue::Queue;
use ready_list::After;
use std::mem::MaybeUninit;
use wake_fd::WakeFd;

/// What became ready, as a target is told.
#[derive(Clone, Copy)]
pub struct News {
    pub handle: Handle,
    pub user_data: u64,
    pub ready: Ready,
    pub status: i32,
    pub data: u64,
    /// Data of merged news is added (expirations), not ORed (posted bits).
    pub add: bool,
    pub after: After,
}

/// A target as the caller gave it: nothing of it has been taken yet.
pub enum Spec {
    None,
    Poll,
    Slot,
    Futex(ForeignWord),
    WakeFd(WakeFd),
    Queue(Counted<Queue>),
    Mvar(StablePtr),
}

/// A target that a registration holds. `node`: the place that is kept for it in the list of ready ones, so that
/// delivery allocates nothing.
#[derive(Default)]
pub enum Target {
    /// None given, or an MVAR that was delivered.
    #[default]
    None,
    Poll {
        node: u32,
    },
    Slot {
        slot: u32,
    },
    Futex(ForeignWord),
    WakeFd(WakeFd),
    Queue {
        queue: Counted<Queue>,
        node: u32,
    },
    Mvar(StablePtr),
}

impl Target {
    /// A StablePtr that was not delivered, armed or not: whoever takes the target away owns it again.
    pub fn is_unspent(&self) -> bool {
        matches!(self, Target::Mvar(_))
    }
    /// An MVAR that was delivered: it is nobody's, though the registration may be armed.
    pub fn is_spent(&self) -> bool {
        matches!(self, Target::None)
    }
}

/// Something to do outside the lock. Consumed by [`Notification::deliver`].
pub enum Notification {
    /// Sleepers on a word of ours: the news is published already, only the wake is left.
    Wake(WakeAddress),
    Futex(ForeignWord, Ready),
    WakeFd(WakeFd),
    Mvar(StablePtr),
    /// The driver of another shard has a waiter aboard whose queue has news.
    Driver(u8),
}

impl Notification {
    /// Does this touch something that the caller owns? Then `BELL_SYNC` must be able to wait for it.
    fn is_foreign(&self) -> bool {
        !matches!(self, Notification::Wake(_) | Notification::Driver(_))
    }

    fn deliver(self, world: &World) {
        match self {
            Notification::Wake(at) => sync::wake(at),
            Notification::Futex(word, ready) => word.deliver(ready),
            Notification::WakeFd(fd) => fd.deliver(),
            Notification::Mvar(sp) => sp.deliver(world.ghc),
            Notification::Driver(shard) => (world.wake_driver)(shard),
        }
    }
}

/// What delivery needs beside the notification.
pub struct World<'a> {
    pub ghc: Option<&'a GhcOps>,
    pub wake_driver: &'a dyn Fn(u8),
}

/// Notifications taken under one lock. Its room is fixed, so that delivery allocates nothing: who finds it full
/// unlocks, delivers and goes on. Every call has one, and few put anything in: so the room is not even cleared.
pub struct Batch {
    /// The first `len` are there.
    items: [MaybeUninit<Notification>; Batch::ROOM],
    len: usize,
    foreign: bool,
}

impl Default for Batch {
    #[inline]
    fn default() -> Batch {
        Batch { items: [const { MaybeUninit::uninit() }; Batch::ROOM], len: 0, foreign: false }
    }
}

impl Batch {
    const ROOM: usize = 16;
    /// The most that one delivery takes: both words of a slot; or a queue's sleepers, its doorbell, another driver.
    const ONE_DELIVERY: usize = 4;

    pub fn push(&mut self, n: Notification) {
        // Plain data: nothing would be lost if the room were left as it is.
        const { assert!(!std::mem::needs_drop::<Notification>()) };
        self.foreign |= n.is_foreign();
        self.items[self.len].write(n);
        self.len += 1;
    }
    pub fn is_full(&self) -> bool {
        self.len + Self::ONE_DELIVERY > Self::ROOM
    }
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
    pub fn is_foreign(&self) -> bool {
        self.foreign
    }

    /// Delivers all. No lock is held.
    pub fn deliver(&mut self, world: &World) {
        self.foreign = false;
        let len = std::mem::take(&mut self.len);
        for n in &self.items[..len] {
            // SAFETY: written by `push`, and `len` was taken away first, so each is read once.
            unsafe { n.assume_init_read() }.deliver(world);
        }
    }
}
