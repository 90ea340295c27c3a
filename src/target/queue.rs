//! Target QUEUE: many registrations, of any shard, one list of news.
//!
//! All of it is under the queue's own lock, which is taken under a shard's lock (delivery) or alone (drain), never
//! the other way round. Beside the list of news there is one of the threads that sleep in `bell_queue_wait`, each on a
//! word of its own, with the protocol of a slot word but without news.
//!
//! | state | list | doorbell |
//! |---|---|---|
//! | empty | empty | armed |
//! | rung | has news | has rung |
//!
//! - push into the empty list: empty -> rung; wakes one sleeper, unless one that was woken before has not come yet;
//!   rings the doorbell; writes the fd. A push into a list that has news wakes nobody.
//! - a drain that takes the last piece: rung -> empty; arms the doorbell.
//! - a drain that leaves something wakes the next, likewise.
//! - who is about to sleep sets WAITER on its word (`slot::prepare`), then joins the sleepers, which is refused while
//!   there is news, then sleeps. Awake for whatever reason, it leaves the sleepers and drains, in one.
//!
//! So while there is news and somebody sleeps, one waiter is on its way, which was taken off the list of sleepers and
//! has not drained yet: no more are woken than there is news to take. And the doorbell rings once for each time the
//! list becomes non-empty. A waiter who drives the home shard (`led`) sleeps in the kernel: it is woken for what others
//! bring or leave if there is no other sleeper. (Modelled in `tests/loom_queue.rs` and `tests/loom_handover.rs`.)
use super::ready_list::{After, In, Left, Pushed, ReadyList};
use super::{Batch, News, Notification, Target, slot};
use crate::abi::bell_event;
use crate::error::{Error, Result};
use crate::event::{Handle, Ready};
use crate::fd::Fd;
use crate::followers::Followers;
use crate::inspect::Report;
use crate::libc;
use crate::sync::{self, Mutex, MutexGuard, WakeAddress, Word};
use std::mem::MaybeUninit;

pub struct Queue {
    pub handle: Handle,
    /// The shard whose driver a waiter becomes.
    pub home: usize,
    inner: Mutex<Inner>,
}

pub struct Inner {
    list: ReadyList,
    sleepers: Followers,
    /// So many have been taken off the list of sleepers, or look again at what is LEVEL, and have not drained since.
    on_their_way: u32,
    /// FUTEX, WAKE_FD, MVAR or None.
    doorbell: Target,
    /// An eventfd for `bell_queue_fd`, made at the first call.
    fd: Option<Fd>,
    led: bool,
    destroyed: bool,
}

/// What whoever drains has done before.
#[derive(Clone, Copy, Default)]
pub enum Came {
    #[default]
    ByItself,
    /// `take_relook`.
    FromLook,
    /// `join`, and slept.
    FromSleep(u32),
}

/// Who is to be woken because there is news.
#[derive(Default)]
pub enum Next {
    /// Somebody is on its way, or nobody waits.
    #[default]
    Nobody,
    Sleeper(WakeAddress),
    /// The waiter who drives the home shard.
    Leader,
}

impl Inner {
    /// A waiter is to come and drain.
    fn call_one(&mut self) -> Next {
        if self.on_their_way > 0 {
            return Next::Nobody;
        }
        match self.sleepers.pop() {
            Some(word) => {
                self.on_their_way += 1;
                if slot::nudge(word) { Next::Sleeper(word.wake_address()) } else { Next::Nobody }
            }
            None if self.led => Next::Leader,
            None => Next::Nobody,
        }
    }
}

/// What is left to do after [`Queue::destroy`].
pub struct Destroyed {
    pub doorbell: Target,
    /// A waiter drives the home shard.
    pub led: bool,
}

impl Queue {
    pub fn new(handle: Handle, home: usize, doorbell: Target) -> Queue {
        let (list, sleepers) = (ReadyList::new(), Followers::new());
        let inner = Inner { list, sleepers, on_their_way: 0, doorbell, fd: None, led: false, destroyed: false };
        Queue { handle, home, inner: Mutex::new(inner) }
    }

    /// For `bell_before_fork`.
    pub fn freeze(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock()
    }
    /// For `bell_after_fork_child`: is somebody inside who does not exist here?
    pub fn is_torn(&self) -> bool {
        self.inner.try_lock().is_none()
    }

    pub fn reserve(&self, handle: Handle, user_data: u64, after: After) -> Result<u32> {
        let mut inner = self.inner.lock();
        if inner.destroyed {
            return Err(Error::STALE);
        }
        inner.list.reserve(handle, user_data, after)
    }

    pub fn release(&self, node: u32) -> Left {
        let mut inner = self.inner.lock();
        let left = inner.list.release(node);
        self.settle(&mut inner);
        left
    }

    pub fn set_after(&self, node: u32, after: After) {
        self.inner.lock().list.set_after(node, after)
    }

    /// Delivers. `from`: the shard whose driver delivers, if a driver does. True: merged with older news.
    pub fn push(&self, node: u32, news: &News, from: Option<usize>, batch: &mut Batch) -> bool {
        let mut inner = self.inner.lock();
        match inner.list.push(node, news) {
            Pushed::Merged => return true,
            Pushed::More => {}
            Pushed::First => {
                match inner.call_one() {
                    Next::Sleeper(at) => batch.push(Notification::Wake(at)),
                    Next::Leader if from != Some(self.home) => batch.push(Notification::Driver(self.home as u8)),
                    Next::Leader | Next::Nobody => {}
                }
                if let Some(ring) = take_doorbell(&mut inner.doorbell) {
                    batch.push(ring);
                }
                if let Some(fd) = &inner.fd {
                    let one = 1u64;
                    // SAFETY: our eventfd. Under the lock, so that it agrees with the list; it never blocks.
                    unsafe { libc::write(fd.0, (&raw const one).cast(), 8) };
                }
            }
        }
        false
    }

    /// A waiter is about to drive the home shard, or drives it no more. True: look first, there is news (so what was
    /// pushed before is not missed), or the queue is gone.
    pub fn set_led(&self, on: bool) -> bool {
        let mut inner = self.inner.lock();
        inner.led = on;
        !inner.list.is_empty() || inner.destroyed
    }

    /// The lock, if there is no news: a waiter that drives then takes its events past the list, in which nobody can
    /// put older news meanwhile.
    pub fn lock_empty(&self) -> Option<MutexGuard<'_, Inner>> {
        let inner = self.inner.lock();
        (inner.list.is_empty() && !inner.destroyed).then_some(inner)
    }

    /// A waiter whose word is prepared is about to sleep. `None`: there is news, or the queue is gone. What it returns
    /// is for its next `drain`, which must follow.
    pub fn join(&self, word: &Word) -> Result<Option<u32>> {
        let mut inner = self.inner.lock();
        if !inner.list.is_empty() || inner.destroyed {
            return Ok(None);
        }
        inner.sleepers.join(word).map(Some)
    }

    /// Takes news. Who is `Next` is to be woken, because something is left.
    pub fn drain(&self, out: &mut [MaybeUninit<bell_event>], came: Came) -> Result<(usize, Next)> {
        let mut inner = self.inner.lock();
        let on_its_way = match came {
            Came::ByItself => false,
            Came::FromLook => true,
            Came::FromSleep(place) => inner.sleepers.leave(place),
        };
        inner.on_their_way -= on_its_way as u32;
        if inner.destroyed {
            return Err(Error::STALE);
        }
        let mut n = 0;
        while n < out.len() {
            let Some(event) = inner.list.pop() else { break };
            out[n].write(event);
            n += 1;
        }
        if !inner.list.is_empty() {
            return Ok((n, inner.call_one()));
        }
        if n > 0 {
            self.settle(&mut inner);
        }
        Ok((n, Next::Nobody))
    }

    /// The list may have become empty.
    fn settle(&self, inner: &mut Inner) {
        if !inner.list.is_empty() {
            return;
        }
        if let Some(fd) = &inner.fd {
            let mut count = 0u64;
            // SAFETY: our eventfd, non-blocking; eight bytes of ours.
            unsafe { libc::read(fd.0, (&raw mut count).cast(), 8) };
        }
    }

    pub fn take(&self, list: In) -> Option<Handle> {
        self.inner.lock().list.take(list)
    }
    /// As `take`. The caller is about to look at what it takes, and is on its way to drain what it finds.
    pub fn take_relook(&self, came: &mut Came) -> Option<Handle> {
        let mut inner = self.inner.lock();
        let handle = inner.list.take(In::Relook)?;
        if let Came::ByItself = std::mem::replace(came, Came::FromLook) {
            inner.on_their_way += 1;
        }
        Some(handle)
    }
    /// Puts another doorbell; the old one comes back. With news in the list the new one rings at once: it was put too
    /// late to hear of it.
    pub fn set_doorbell(&self, doorbell: Target) -> Result<(Target, Option<Notification>)> {
        let mut inner = self.inner.lock();
        if inner.destroyed {
            return Err(Error::STALE);
        }
        let old = std::mem::replace(&mut inner.doorbell, doorbell);
        let ring = if inner.list.is_empty() { None } else { take_doorbell(&mut inner.doorbell) };
        Ok((old, ring))
    }

    pub fn fd(&self) -> Result<i32> {
        let mut inner = self.inner.lock();
        if inner.destroyed {
            return Err(Error::STALE);
        }
        if inner.fd.is_none() {
            inner.fd = Some(event_fd(!inner.list.is_empty())?);
        }
        Ok(inner.fd.as_ref().map_or(-1, |fd| fd.0))
    }

    /// Wakes all sleepers, who find it gone, and returns the doorbell, which is nobody's now.
    pub fn destroy(&self) -> Result<Destroyed> {
        let mut inner = self.inner.lock();
        if inner.destroyed {
            return Err(Error::STALE);
        }
        if inner.list.used() > 0 {
            return Err(Error::BUSY);
        }
        inner.destroyed = true;
        inner.fd = None;
        while let Some(word) = inner.sleepers.pop() {
            inner.on_their_way += 1;
            if slot::nudge(word) {
                sync::wake(word.wake_address());
            }
        }
        Ok(Destroyed { doorbell: std::mem::take(&mut inner.doorbell), led: inner.led })
    }

    /// In a forked child: waiters do not exist here, and the fd is shared with the parent.
    pub fn start_over(&self) {
        let mut inner = self.inner.lock();
        inner.fd = None;
        inner.led = false;
        (inner.sleepers, inner.on_their_way) = (Followers::new(), 0);
    }

    pub fn heap_bytes(&self) -> usize {
        let inner = self.inner.lock();
        size_of::<Queue>() + inner.list.heap_bytes() + inner.sleepers.heap_bytes()
    }
    pub fn describe(&self, report: &mut Report) {
        let inner = self.inner.lock();
        report.line(format_args!(
            "queue {:#x} shard={} registrations={} empty={}",
            self.handle.0,
            self.home,
            inner.list.used(),
            inner.list.is_empty()
        ));
    }
}

/// An MVAR rings once; the others stay.
fn take_doorbell(doorbell: &mut Target) -> Option<Notification> {
    match std::mem::take(doorbell) {
        Target::Mvar(sp) => return Some(Notification::Mvar(sp)),
        stays => *doorbell = stays,
    }
    match doorbell {
        Target::Futex(word) => Some(Notification::Futex(*word, Ready::READ)),
        Target::WakeFd(fd) => Some(Notification::WakeFd(*fd)),
        _ => None,
    }
}

#[cfg(target_os = "linux")]
fn event_fd(full: bool) -> Result<Fd> {
    // SAFETY: no pointers.
    Fd::made(unsafe { libc::eventfd(full as u32, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })
}
#[cfg(not(target_os = "linux"))]
fn event_fd(_full: bool) -> Result<Fd> {
    Err(Error::UNSUPPORTED)
}
