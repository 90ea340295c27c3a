//! The shared side: what any thread may ask of a manager. Chooses the shard, takes its lock, says what is to be done,
//! and delivers what that caused after the lock is released.
//!
//! One file for each section of the C interface; here: making a manager, its threads, its end, and which shard.
mod fds;
mod fork;
mod look;
mod queues;
mod threads;
mod timeouts;

pub use fds::FdSpec;
use fork::Frozen;
use threads::Thread;
pub use timeouts::TimeoutSpec;

use crate::abi::{BELL_SHARD_ANY, BELL_SHARD_CURRENT_CPU, bell_event};
use crate::error::{Error, Result};
use crate::event::{Clock, Handle, Kind, Ready};
use crate::fd_table::FdTable;
use crate::fork::Mark;
use crate::heap::{self, Counted};
use crate::registry::*;
use crate::shard::{Guard, Shard, Shared};
use crate::sync::Mutex;
use crate::target::mvar::GhcOps;
use crate::target::queue::Queue;
use crate::target::{Batch, Notification, Spec, Target};
use std::mem::{ManuallyDrop, MaybeUninit};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

#[derive(Default)]
pub struct Config {
    pub shards: u32,
    pub threads: u32,
    pub max_events: u32,
    pub slack_ns: i64,
    pub ghc: Option<GhcOps>,
    pub io_uring: bool,
}

pub struct Manager {
    all: Shared,
    queues: Mutex<Slab<Option<Counted<Queue>>>>,
    /// The next shard for `BELL_SHARD_ANY`.
    next: AtomicUsize,
    threads: Mutex<Vec<Thread>>,
    frozen: Mutex<Option<Frozen>>,
    max_events: usize,
    io_uring: bool,
}

const MAX_SHARDS: u32 = 254;
const MAX_EVENTS: u32 = 65536;

impl Manager {
    pub fn new(config: Config) -> Result<Box<Manager>> {
        let Config { shards, threads, max_events, slack_ns, ghc, io_uring } = config;
        if threads > 0 && shards > 0 && shards != threads {
            return Err(Error::INVAL);
        }
        let count = shards.max(threads).max(1);
        if count > MAX_SHARDS || max_events > MAX_EVENTS || slack_ns < 0 {
            return Err(Error::INVAL);
        }
        let max_events = if max_events == 0 { 1024 } else { max_events as usize };
        let shards = heap::filled(count as usize, |i| Shard::new(i, slack_ns, max_events, io_uring))?;
        let m = heap::boxed(Manager {
            all: Shared {
                shards: shards.into_boxed_slice(),
                fds: FdTable::new(),
                threaded: threads > 0,
                ghc,
                mark: Mark::new()?,
            },
            queues: Mutex::new(Slab::new()),
            next: AtomicUsize::new(0),
            threads: Mutex::new(Vec::new()),
            frozen: Mutex::new(None),
            max_events,
            io_uring,
        })?;
        if m.all.threaded {
            if let Err(e) = m.start_threads() {
                m.stop_threads();
                return Err(e);
            }
        }
        Ok(m)
    }

    pub fn check(&self) -> Result<()> {
        self.all.mark.check()
    }
    pub fn is_forked(&self) -> bool {
        self.all.mark.is_forked()
    }
    pub fn is_sound(&self) -> bool {
        self.all.mark.is_sound()
    }

    pub fn poison(&self) {
        self.all.poison();
    }
    pub fn alarm(&self) {
        self.all.alarm();
    }

    /// Checks, and makes everybody leave. After an error nothing has changed.
    pub fn begin_destroy(&self, force: bool) -> Result<()> {
        if self.all.mark.check().is_err() {
            return Ok(()); // poisoned or forked: there is nobody to wait for
        }
        // On the stack: ending a manager must not fail for want of memory.
        let mut held = [const { None::<Guard> }; MAX_SHARDS as usize];
        for (place, shard) in held.iter_mut().zip(&self.all.shards) {
            *place = Some(shard.lock());
        }
        if held.iter().flatten().any(|st| st.closing) {
            return Err(Error::STALE);
        }
        if !force && held.iter().flatten().any(|st| st.inside > 0) {
            return Err(Error::BUSY);
        }
        for (shard, mut st) in self.all.shards.iter().zip(held.into_iter().flatten()) {
            st.closing = true;
            shard.close(st);
        }
        Ok(())
    }

    /// After `begin_destroy`, when nobody is inside any more.
    pub fn finish_destroy(self: Box<Self>) {
        if self.all.mark.is_forked() {
            return self.leak();
        }
        if !self.all.mark.is_sound() {
            self.stop_threads();
            return self.leak();
        }
        self.stop_threads();
        self.tell_closed();
    }

    /// What is still armed is told CLOSED, and no StablePtr is left behind.
    fn tell_closed(&self) {
        let mut batch = Batch::default();
        for shard in &self.all.shards {
            let mut st = shard.lock();
            let mut at = 0;
            while let Some(index) = st.reg.fds.next(at) {
                at = index + 1;
                let fd = &mut st.reg.fds.at_mut(index).value;
                let armed = fd.is(ARMED);
                let target = std::mem::take(&mut fd.target);
                st = self.tell_one(shard, st, target, armed, &mut batch);
            }
            at = 0;
            while let Some(index) = st.reg.timeouts.next(at) {
                at = index + 1;
                let timeout = st.reg.timeouts.at_mut(index);
                let armed = timeout.is_armed();
                let target = std::mem::take(&mut timeout.value.target);
                st = self.tell_one(shard, st, target, armed, &mut batch);
            }
            at = 0;
            while let Some(index) = st.reg.users.next(at) {
                at = index + 1;
                let target = std::mem::take(&mut st.reg.users.at_mut(index).value.target);
                st = self.tell_one(shard, st, target, true, &mut batch);
            }
        }
        self.for_each_queue(|queue| {
            if let Ok((doorbell, _)) = queue.set_doorbell(Target::None) {
                let shard = &self.all.shards[queue.home];
                drop(self.tell_one(shard, shard.lock(), doorbell, true, &mut batch));
            }
        });
    }

    fn tell_one<'a>(
        &self,
        shard: &'a Shard,
        st: Guard<'a>,
        target: Target,
        armed: bool,
        batch: &mut Batch,
    ) -> Guard<'a> {
        match target {
            Target::Futex(word) if armed => batch.push(Notification::Futex(word, Ready::CLOSED)),
            Target::WakeFd(fd) if armed => batch.push(Notification::WakeFd(fd)),
            Target::Mvar(sp) => batch.push(Notification::Mvar(sp)),
            _ => return st,
        }
        shard.flush(&self.all, st, batch)
    }

    /// The fds of queues that nobody who is gone was in the middle of.
    fn close_queue_fds(&self) {
        if let Some(queues) = self.queues.try_lock() {
            let queues = queues.indices().filter_map(|i| queues.at(i).value.as_ref());
            queues.filter(|q| !q.is_torn()).for_each(|q| q.start_over());
        }
    }

    /// The state cannot be trusted: only the fds are given back.
    fn leak(self: Box<Self>) {
        let mut m = ManuallyDrop::new(self);
        drop(m.frozen.get_mut().take());
        m.close_queue_fds();
        for shard in &mut m.all.shards {
            // SAFETY: the manager is never used or dropped again.
            unsafe { std::ptr::drop_in_place(&mut shard.backend) };
        }
    }

    #[inline]
    fn shard(&self, handle: Handle) -> Result<&Shard> {
        match handle.kind() {
            Some(Kind::Queue) => Err(self.not_a_shard_s(handle)),
            None => Err(Error::STALE),
            Some(_) => self.all.shards.get(handle.shard()).ok_or(Error::STALE),
        }
    }
    /// A queue's handle, where only others may be.
    #[cold]
    fn not_a_shard_s(&self, queue: Handle) -> Error {
        self.queue(queue).err().unwrap_or(Error::INVAL)
    }
    fn numbered(&self, shard: u32) -> Result<&Shard> {
        self.all.shards.get(shard as usize).ok_or(Error::INVAL)
    }

    #[inline(always)]
    fn place(&self, shard: u32, target: &Spec) -> Result<usize> {
        if (shard as usize) < self.all.shards.len() { Ok(shard as usize) } else { self.choose_place(shard, target) }
    }

    #[inline(never)]
    fn choose_place(&self, shard: u32, target: &Spec) -> Result<usize> {
        let count = self.all.shards.len();
        match (shard, target) {
            // Where nobody drives but who waits for the queue, only its shard is driven.
            (BELL_SHARD_ANY, Spec::Queue(queue)) if !self.all.threaded => Ok(queue.home),
            (BELL_SHARD_ANY, _) => Ok(self.next.fetch_add(1, Relaxed) % count),
            (BELL_SHARD_CURRENT_CPU, _) => Ok(current_cpu() % count),
            _ => Err(Error::INVAL),
        }
    }

    /// Is the target one that this manager can serve?
    fn check_target(&self, target: &Spec) -> Result<()> {
        match target {
            Spec::None => Err(Error::INVAL),
            Spec::Poll if self.all.threaded => Err(Error::UNSUPPORTED),
            Spec::Mvar(_) if self.all.ghc.is_none() => Err(Error::UNSUPPORTED),
            _ => Ok(()),
        }
    }

    pub fn poll(&self, shard: u32, out: &mut [MaybeUninit<bell_event>], timeout: i64) -> Result<i32> {
        self.numbered(shard)?.poll(&self.all, out, timeout)
    }
    pub fn wake(&self, shard: u32) -> Result<i32> {
        self.numbered(shard)?.wake(true).map(|()| 0)
    }
    pub fn next_deadline(&self, shard: u32) -> Result<i64> {
        Ok(self.numbered(shard)?.lock().timers[Clock::Monotonic as usize].peek())
    }
    pub fn pollable_fd(&self, shard: u32) -> Result<i32> {
        let shard = self.numbered(shard)?;
        if self.all.threaded { Err(Error::UNSUPPORTED) } else { shard.pollable_fd() }
    }
}

#[cfg(target_os = "linux")]
fn current_cpu() -> usize {
    // SAFETY: no arguments.
    unsafe { libc::sched_getcpu() }.max(0) as usize
}
#[cfg(not(target_os = "linux"))]
fn current_cpu() -> usize {
    0
}
