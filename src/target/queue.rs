//! Target QUEUE: many registrations, of any shard, one list of news.
//!
//! All of it is under the queue's own lock, which is taken under a shard's lock (delivery) or alone (drain), never
//! the other way round. Beside the list there is one word, with the protocol of a slot word, for threads in
//! `bell_queue_wait`:
//!
//! | state | list | READ bit of the word | doorbell |
//! |---|---|---|---|
//! | empty | empty | off | armed |
//! | rung | has news | on | has rung |
//!
//! - push into the empty list: empty -> rung; publishes READ, which wakes every sleeper; rings the doorbell; writes
//!   the fd.
//! - a drain that takes the last piece: rung -> empty; takes READ away and arms the doorbell. One that leaves
//!   something leaves READ on, so that the next waiter does not sleep.
//!
//! So READ is on exactly while there is news, no sleeper sleeps while there is, and the doorbell rings once for each
//! time the list becomes non-empty. A waiter who drives the home shard (`led`) sleeps in the kernel, not on the word:
//! a delivery from elsewhere wakes that driver. (Modelled in `tests/loom_queue.rs`.)
use super::ready_list::{After, In, Left, Pushed, ReadyList};
use super::{Batch, News, Notification, Target, slot};
use crate::abi::bell_event;
use crate::error::{Error, Result};
use crate::event::{Handle, Ready};
use crate::fd::Fd;
use crate::inspect::Report;
use crate::libc;
use crate::sync::{Mutex, MutexGuard, Word};
use std::mem::MaybeUninit;

pub struct Queue {
    pub handle: Handle,
    /// The shard whose driver a waiter becomes.
    pub home: usize,
    pub word: Word,
    inner: Mutex<Inner>,
}

pub struct Inner {
    list: ReadyList,
    /// FUTEX, WAKE_FD, MVAR or None.
    doorbell: Target,
    /// An eventfd for `bell_queue_fd`, made at the first call.
    fd: Option<Fd>,
    led: bool,
    destroyed: bool,
}

/// What is left to do after [`Queue::destroy`].
pub struct Destroyed {
    pub doorbell: Target,
    /// Waiters sleep on the word.
    pub asleep: bool,
    /// A waiter drives the home shard.
    pub led: bool,
}

impl Queue {
    pub fn new(handle: Handle, home: usize, doorbell: Target) -> Queue {
        Queue {
            handle,
            home,
            word: Word::new(0),
            inner: Mutex::new(Inner { list: ReadyList::new(), doorbell, fd: None, led: false, destroyed: false }),
        }
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
                if slot::publish(&self.word, Ready::READ) {
                    batch.push(Notification::Wake(self.word.wake_address()));
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
        if inner.led && from != Some(self.home) {
            batch.push(Notification::Driver(self.home as u8));
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

    pub fn drain(&self, out: &mut [MaybeUninit<bell_event>]) -> Result<usize> {
        let mut inner = self.inner.lock();
        if inner.destroyed {
            return Err(Error::STALE);
        }
        let mut n = 0;
        while n < out.len() {
            let Some(event) = inner.list.pop() else { break };
            out[n].write(event);
            n += 1;
        }
        if n > 0 {
            self.settle(&mut inner);
        }
        Ok(n)
    }

    /// The list may have become empty.
    fn settle(&self, inner: &mut Inner) {
        if !inner.list.is_empty() {
            return;
        }
        let _ = slot::consume(&self.word);
        if let Some(fd) = &inner.fd {
            let mut count = 0u64;
            // SAFETY: our eventfd, non-blocking; eight bytes of ours.
            unsafe { libc::read(fd.0, (&raw mut count).cast(), 8) };
        }
    }

    pub fn take(&self, list: In) -> Option<Handle> {
        self.inner.lock().list.take(list)
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

    /// Tells sleepers CANCELLED, and returns the doorbell, which is nobody's now.
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
        let asleep = slot::publish(&self.word, Ready::CANCELLED);
        Ok(Destroyed { doorbell: std::mem::take(&mut inner.doorbell), asleep, led: inner.led })
    }

    /// In a forked child: waiters do not exist here, and the fd is shared with the parent.
    pub fn start_over(&self) {
        let mut inner = self.inner.lock();
        inner.fd = None;
        inner.led = false;
    }

    pub fn heap_bytes(&self) -> usize {
        size_of::<Queue>() + self.inner.lock().list.heap_bytes()
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
