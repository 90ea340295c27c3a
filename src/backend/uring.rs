//! Linux 6.1: io_uring(7), used as a poller: a multishot poll for each EDGE fd, a single poll for each ONESHOT. What is
//! odd about it, and what is done about it here or by the caller; checked on Linux 6.18 where no source is named.
//!
//! a) A ring of the fast kind (`SINGLE_ISSUER`, `DEFER_TASKRUN`; without them it loses to epoll) belongs to one thread,
//!    which alone may enter it (io_uring_setup(2)). Here that is whoever waits. Changes by other threads are noted, the
//!    owner is woken if it sleeps, and submits them all at once. If another thread comes to wait, a new ring is made
//!    for it and learns what is armed: right, but the price of a registration for each fd.
//! b) The kernel cancels what a thread has asked for when the thread ends. Nothing is lost: nobody waits then, and
//!    whoever does next has a new ring.
//! c) A poll holds its file open. Whoever closes an fd that is in the set closes nothing: the peer sees no end, and the
//!    old file goes on to tell. `remove` does not need the number, so there are no ghosts; but the file is let go only
//!    when the owner has submitted the cancel. `settle` sees to that.
//! d) A ring that is closed lets go of its files by and by, in a worker of the kernel (some 0.1 s). So whoever drops a
//!    ring that is his own cancels all its polls first.
//! e) What the kernel finds wrong with a poll comes as a completion, when the caller has gone. So `add` and `modify`
//!    ask fstat(2) first: is it open, can it be polled, and is it the file that the entry was made for. (Files that
//!    have neither socket nor pipe in their mode, nor none at all as eventfds have, are shown to a passing epoll,
//!    because the kernel does not tell otherwise: to io_uring they are always ready. Files without an inode of their
//!    own, eventfds and the like, cannot be told from each other.)
//! f) HUP, ERR and RDHUP are told whatever is asked (IO_POLL_UNMASK, io_uring/poll.c). RDHUP alone ends a single poll
//!    that did not ask for it, and would do so again at once: from there on a multishot poll stands in for it.
//! g) A multishot poll ends by itself when the completion queue is full (no `CQE_F_MORE`): it is asked for again, and
//!    looks at the file then. The kernel keeps what finds no room in the queue (`FEAT_NODROP`), and hands it out at the
//!    next entry. If it had no memory for that, an entry fails with EBADR: all polls are asked for again.
//! h) At most 20 completions are worked off in one entry (`IO_LOCAL_TW_DEFAULT_MAX`, since 6.13): `wait` goes on until
//!    its batch is full or nothing is left.
//! i) EPOLLPRI alone wakes no poll (`IO_ASYNC_POLL_COMMON`, io_uring/poll.c), and data that is not urgent is told under
//!    it: so EPOLLIN is asked for beside it, and poll(2) whether it is true.
//! j) `SQ_TASKRUN` may be left over: it is set after the work is listed, and the owner may have worked it off in
//!    between (io_req_local_work_add, io_uring/io_uring.c). An entry that tells nothing is the end of it.
//! k) The fd of a ring in a forked child is the parent's ring, and the child only closes it. It has one number for life,
//!    because fork(2) copies the table of fds before the memory: else the child could remember the number of a ring that
//!    came in between, which is nothing in its table, or something of its own by the time it closes it. What is left:
//!    a new ring has a first number of its own until it takes that one, and is left open in a child forked meanwhile.
use super::epoll::{EPOLLNVAL, Events, ring_eventfd};
use super::*;
use crate::event::NEVER;
use crate::fork::Mark;
use crate::sync::{self, Mutex, MutexGuard, Word};
// The simulator has no rings.
use ::libc;
use std::mem::ManuallyDrop;
use std::sync::atomic::{AtomicBool, Ordering};

#[path = "ring.rs"]
mod ring;
use ring::Ring;

pub struct Backend {
    set: ManuallyDrop<Mutex<Set>>,
    /// The fd of the set's ring, whichever that is.
    ring: i32,
    mark: Mark,
    waker: Fd,
    alarms: Alarms,
    /// `wake` was called, and no wait has returned since. Tells a wake from a change of the set.
    woken: AtomicBool,
    /// Turns over when changes have been submitted.
    settled: Word,
}

struct Set {
    ring: Ring,
    sizes: (u32, u32),
    /// The thread that may enter the ring; 0: nobody has, and it is not enabled.
    owner: usize,
    /// The owner is a library thread, which comes back to wait by itself.
    resident: bool,
    /// By fd.
    entries: Vec<Entry>,
    /// Fds whose entries are not what the kernel has, in a list through `Entry::next`, or `END`.
    first_dirty: u32,
    last_dirty: u32,
    /// The last one given out.
    stamp: u32,
    /// The owner is in `wait`, and submits what is asked for before it leaves.
    inside: bool,
    /// It sleeps in the kernel; it was told to look at the set.
    waiting: bool,
    told: bool,
    /// Changes that let go of a file: asked for, and done.
    asked: u64,
    done: u64,
    /// Threads in `settle`.
    settlers: u32,
}

/// The kernel's polls are named by fd and stamp, so that the news of an earlier arming is known by its name.
#[derive(Clone, Copy)]
struct Entry {
    cookie: u64,
    /// The poll that there should be; 0: none.
    wanted: u32,
    /// The poll that the kernel was asked for and has not ended; 0: none.
    live: u32,
    /// Of a dirty one: the next.
    next: u32,
    /// Which file this is.
    file: u16,
    /// The interest as poll(2) has it, and the flags below, in places where that has nothing.
    bits: u16,
}

const IN_SET: u16 = 0x100;
const DIRTY: u16 = 0x200;
const EDGE: u16 = 0x400;
/// Oddity f.
const MULTI: u16 = 0x800;

const ASKED: u32 = libc::EPOLLIN as u32 | libc::EPOLLOUT as u32 | PRI | libc::EPOLLRDHUP as u32;
const PRI: u32 = libc::EPOLLPRI as u32;
const ALWAYS_TOLD: u32 = (libc::EPOLLHUP | libc::EPOLLERR) as u32;

const END: u32 = u32::MAX;
const NOTHING: Entry = Entry { cookie: 0, wanted: 0, live: 0, next: END, file: 0, bits: 0 };

impl Entry {
    fn is(&self, flag: u16) -> bool {
        self.bits & flag != 0
    }
    fn asked(&self) -> u32 {
        self.bits as u32 & ASKED
    }
}

const WAKER: u64 = 0;

/// 16 and 64 kB. What finds no room in either waits.
const SUBMISSIONS: u32 = 256;
const COMPLETIONS: u32 = 4096;

fn name(fd: i32, stamp: u32) -> u64 {
    (stamp as u64) << 32 | fd as u32 as u64
}

/// One that lives: the number may come again when the thread has ended. The kernel knows better, and answers EEXIST.
fn this_thread() -> usize {
    // SAFETY: no arguments.
    unsafe { libc::pthread_self() as usize }
}

impl Set {
    fn entry(&mut self, fd: i32) -> Option<&mut Entry> {
        self.entries.get_mut(usize::try_from(fd).ok()?).filter(|e| e.is(IN_SET))
    }

    /// Room for an entry. By an eighth, not by doubling, as `heap::make_room`.
    #[inline]
    fn make_room(&mut self, fd: i32) -> Result<()> {
        if (fd as usize) < self.entries.len() { Ok(()) } else { self.grow(fd) }
    }

    #[cold]
    fn grow(&mut self, fd: i32) -> Result<()> {
        let (wanted, len) = (fd as usize + 1, self.entries.len());
        if wanted > self.entries.capacity() {
            let more = (wanted - len).max(len / 8).max(64);
            self.entries.try_reserve_exact(more).map_err(|_| Error::NOMEM)?;
        }
        self.entries.resize(wanted, NOTHING);
        Ok(())
    }

    fn touch(&mut self, fd: i32) {
        let entry = &mut self.entries[fd as usize];
        if entry.is(DIRTY) {
            return;
        }
        entry.bits |= DIRTY;
        entry.next = END;
        match self.last_dirty {
            END => self.first_dirty = fd as u32,
            last => self.entries[last as usize].next = fd as u32,
        }
        self.last_dirty = fd as u32;
    }

    fn is_dirty(&self) -> bool {
        self.first_dirty != END
    }

    fn new_stamp(&mut self) -> u32 {
        self.stamp = self.stamp.wrapping_add(1).max(1);
        self.stamp
    }

    /// There must be room.
    fn arm(&mut self, fd: i32, file: u16, asked: u32, edge: bool, cookie: u64) {
        let wanted = self.new_stamp();
        let entry = &mut self.entries[fd as usize];
        let bits = entry.bits & DIRTY | IN_SET | if edge { EDGE } else { 0 } | asked as u16;
        *entry = Entry { cookie, file, wanted, bits, ..*entry };
        self.touch(fd);
    }

    /// Takes an entry out.
    fn disarm(&mut self, fd: i32) {
        let entry = &mut self.entries[fd as usize];
        entry.bits &= DIRTY;
        entry.wanted = 0;
        if entry.live != 0 {
            self.asked += 1;
            self.touch(fd);
        }
    }

    /// All that is armed is asked for anew. `fresh`: of a ring that has none of it.
    fn arm_all(&mut self, fresh: bool) {
        for fd in 0..self.entries.len() {
            let entry = &mut self.entries[fd];
            if fresh {
                entry.live = 0;
            }
            if entry.wanted != 0 {
                self.entries[fd].wanted = self.new_stamp();
                self.touch(fd as i32);
            }
        }
    }

    /// Makes the calling thread the owner.
    fn own(&mut self) -> Result<()> {
        let me = this_thread();
        if self.owner == me {
            return Ok(());
        }
        if self.owner != 0 {
            return self.renew();
        }
        self.ring.enable()?;
        self.owner = me;
        Ok(())
    }

    /// A new ring, of the calling thread. After an error all is as before.
    fn renew(&mut self) -> Result<()> {
        let ring = Ring::new(self.sizes.0, self.sizes.1)?;
        ring.enable()?;
        self.ring.replace(ring)?; // oddity k
        self.owner = this_thread();
        self.arm_all(true);
        Ok(())
    }

    /// Puts changes into the queue, as many as find room. True: there are cancels among them, which complete at once.
    fn fill(&mut self) -> bool {
        let mut cancels = false;
        while self.first_dirty != END && self.ring.room() >= 2 {
            let fd = self.first_dirty as i32;
            let entry = &mut self.entries[fd as usize];
            self.first_dirty = entry.next;
            if self.first_dirty == END {
                self.last_dirty = END;
            }
            entry.bits &= !DIRTY;
            if entry.live == entry.wanted {
                continue;
            }
            if entry.live != 0 {
                cancels = true;
                self.ring.cancel(name(fd, entry.live));
            }
            entry.live = entry.wanted;
            if entry.wanted != 0 {
                // Oddity i.
                let with_pri = if entry.asked() & PRI != 0 { libc::EPOLLIN as u32 } else { 0 };
                let events = entry.asked() | with_pri | ALWAYS_TOLD;
                self.ring.poll_add(fd, events, entry.is(EDGE | MULTI), name(fd, entry.wanted));
            }
        }
        cancels
    }

    /// By the owner: submits all changes, and works off what that causes. What it has told waits in the queue.
    fn submit(&mut self) -> Result<()> {
        while self.is_dirty() || self.ring.unsubmitted() > 0 {
            self.fill();
            self.ring.entrance().enter()?;
        }
        // What is worked off last is at the end of the line by now, and each poll can be in the line once. (Without an
        // end this would go on as long as others make news.)
        for _ in 0..self.entries.len() / 16 + 1 {
            let before = self.ring.told();
            if !self.ring.has_more() {
                break;
            }
            self.ring.entrance().enter()?;
            if self.ring.told() == before && !self.ring.has_overflown() {
                break; // oddity j
            }
        }
        self.done = self.asked;
        Ok(())
    }

    /// What a failed entry asks for, if that is known. Else the error, for the caller.
    fn mend(&mut self, e: Error) -> Result<()> {
        match -e.code() {
            // Another thread with the number of one that has ended.
            libc::EEXIST => self.renew(),
            libc::EBADR => {
                self.arm_all(false);
                Ok(())
            }
            libc::EAGAIN => Err(Error::NOMEM),
            _ => Err(e),
        }
    }

    /// What the kernel has told. Is `wait` over although there may be no event; was there anything at all.
    fn take(&mut self, events: &mut Events, woken: &AtomicBool) -> (bool, bool) {
        let (mut ended, mut heard) = (false, false);
        while !events.is_full() {
            let Some(done) = self.ring.next() else { break };
            heard = true;
            let (fd, stamp) = (done.user_data as u32 as i32, (done.user_data >> 32) as u32);
            // A cancel that found nothing has the name 0.
            let Some(entry) = self.entries.get_mut(fd as usize).filter(|_| stamp != 0) else { continue };
            if entry.live == stamp && !done.more {
                entry.live = 0;
            }
            if entry.wanted != stamp {
                continue; // taken out, or armed anew since
            }
            let asked = entry.asked();
            let (cookie, mut told) = (entry.cookie, done.result as u32 & (asked | ALWAYS_TOLD));
            if asked & PRI != 0 {
                let now = ready_now(fd, Interest(BELL_PRI as u8)).unwrap_or(Ready::NONE);
                told = told & !PRI | if now.has(Ready(BELL_PRI)) { PRI } else { 0 };
            }
            if done.result < 0 {
                // EBADF: closed before it was submitted. Else the file has ended (POLLFREE), or the kernel has no
                // memory. Told once, and silent until it is armed again.
                let gone = done.result == -libc::EBADF;
                told = if gone { EPOLLNVAL } else { libc::EPOLLERR as u32 };
                entry.wanted = 0;
                if gone {
                    entry.bits &= DIRTY;
                }
            } else if told == 0 {
                entry.bits |= MULTI;
            } else if !entry.is(EDGE) {
                entry.wanted = 0;
            }
            if entry.live != entry.wanted {
                self.touch(fd);
            }
            if cookie < OWN {
                ended |= match cookie {
                    // Acquire, with the Release of `wake`. The mark is taken by the first ring of the bell that is
                    // heard after it was set; the other ring, if any, means nothing then.
                    WAKER => woken.swap(false, Ordering::Acquire),
                    // It may have been set anew since it fired.
                    _ => ready_now(fd, Interest::READ) != Ok(Ready::NONE),
                };
            } else if told != 0 {
                events.push(cookie, told);
            }
        }
        self.ring.advance();
        (ended, heard)
    }
}

impl Backend {
    pub fn new() -> Result<Backend> {
        Backend::with_entries(SUBMISSIONS, COMPLETIONS)
    }

    pub fn with_entries(submissions: u32, completions: u32) -> Result<Backend> {
        let ring = Ring::new(submissions, completions)?;
        // SAFETY: no pointers.
        let waker = Fd::made(unsafe { libc::eventfd(1, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
        let mut set = Set {
            ring,
            sizes: (submissions, completions),
            owner: 0,
            resident: false,
            entries: Vec::new(),
            first_dirty: END,
            last_dirty: END,
            stamp: 0,
            inside: false,
            waiting: false,
            told: false,
            asked: 0,
            done: 0,
            settlers: 0,
        };
        set.make_room(waker.0)?;
        set.arm(waker.0, 0, (libc::EPOLLIN | libc::EPOLLOUT) as u32, true, WAKER);
        let (alarms, woken, settled) = (Alarms::new(), AtomicBool::new(false), Word::new(0));
        // The last that may fail, before nobody would drop the set.
        let (ring, mark) = (set.ring.fd(), Mark::new()?);
        let set = ManuallyDrop::new(Mutex::new(set));
        Ok(Backend { set, ring, mark, waker, alarms, woken, settled })
    }

    // ---- the set (out of line all of it, as `wait` is: else epoll's way beside it pays for their registers)

    #[inline(never)]
    pub fn add(&self, fd: i32, interest: Interest, trigger: Trigger, exclusive: bool, cookie: u64) -> Result<()> {
        debug_assert!(cookie >= OWN);
        if exclusive {
            return Err(Error::UNSUPPORTED);
        }
        let file = identify(fd)?;
        self.change(|set| {
            self.refuse_own(fd)?;
            // Another file: the one that had the number was closed behind our back.
            if set.entry(fd).is_some_and(|e| e.file == file) {
                return Err(Error::EXIST);
            }
            set.make_room(fd)?;
            set.arm(fd, file, poll_bits(interest) as u32, trigger == Trigger::Edge, cookie);
            Ok(())
        })
    }

    #[inline(never)]
    pub fn modify(&self, fd: i32, interest: Interest, trigger: Trigger, cookie: u64) -> Result<()> {
        debug_assert!(cookie >= OWN);
        let file = identify(fd)?;
        self.change(|set| {
            self.refuse_own(fd)?;
            set.entry(fd).filter(|e| e.file == file).ok_or(Error::NOENT)?;
            set.arm(fd, file, poll_bits(interest) as u32, trigger == Trigger::Edge, cookie);
            Ok(())
        })
    }

    #[inline(never)]
    pub fn remove(&self, fd: i32) -> Result<()> {
        self.change(|set| match set.entry(fd) {
            Some(_) => {
                self.refuse_own(fd)?;
                set.disarm(fd);
                Ok(())
            }
            // As epoll answers.
            // SAFETY: no pointers.
            None => Error::check(unsafe { libc::fcntl(fd, libc::F_GETFD) }).and(Err(Error::NOENT)),
        })
    }

    /// A number that was closed behind our back may be one of our own fds by now: that entry is not the user's.
    fn refuse_own(&self, fd: i32) -> Result<()> {
        if self.has(fd) { Err(Error::BADF) } else { Ok(()) }
    }

    pub fn has(&self, fd: i32) -> bool {
        fd == self.waker.0 || fd == self.ring || self.alarms.have(fd)
    }

    fn change(&self, edit: impl FnOnce(&mut Set) -> Result<()>) -> Result<()> {
        let mut set = self.set.lock();
        edit(&mut set)?;
        // The change is made; that the bell is broken is told by `wake`.
        let _ = self.tell(set);
        Ok(())
    }

    /// Makes the owner look at the set, if it sleeps and there is something to see.
    #[inline]
    fn tell(&self, set: MutexGuard<Set>) -> Result<()> {
        if set.waiting && set.is_dirty() && !set.told { self.tell_now(set) } else { Ok(()) }
    }

    #[inline(never)]
    fn tell_now(&self, mut set: MutexGuard<Set>) -> Result<()> {
        set.told = true;
        drop(set);
        self.ring().inspect_err(|_| self.set.lock().told = false) // the next change rings again
    }

    #[inline(never)]
    pub fn settle(&self, patiently: bool) {
        let set = self.set.lock();
        if set.done != set.asked {
            self.settle_slowly(set, patiently);
        }
    }

    #[cold]
    fn settle_slowly<'a>(&'a self, mut set: MutexGuard<'a, Set>, patiently: bool) {
        if set.owner == this_thread() && !set.inside {
            // What cannot be submitted now stays noted.
            let _ = set.submit();
            return self.tell_settlers(&set);
        }
        let mine = set.asked;
        while set.done < mine && (set.inside || set.resident && patiently) {
            set.settlers += 1;
            let seen = self.settled.load(Ordering::Acquire);
            let told = self.tell(set);
            if told.is_ok() {
                self.settled.sleep(seen, NEVER);
            }
            set = self.set.lock();
            set.settlers -= 1;
            if told.is_err() {
                return; // nobody can wake it: it would be for ever
            }
        }
    }

    /// Under the lock, or who has just looked would sleep on.
    fn tell_settlers(&self, set: &Set) {
        if set.settlers > 0 {
            let mut seen = self.settled.load(Ordering::Relaxed);
            while let Err(now) =
                self.settled.compare_exchange(seen, seen.wrapping_add(1), Ordering::Release, Ordering::Relaxed)
            {
                seen = now;
            }
            sync::wake(self.settled.wake_address());
        }
    }

    /// The calling thread will be the only one that waits, until `move_out`.
    pub fn move_in(&self) {
        let mut set = self.set.lock();
        // If it cannot be, `wait` says why.
        if set.own().is_ok() {
            set.resident = true;
            set.ring.register_own_fd();
        }
    }
    pub fn move_out(&self) {
        let mut set = self.set.lock();
        set.resident = false;
        self.tell_settlers(&set);
    }

    // ---- waiting

    #[inline(never)]
    pub fn wait(&self, events: &mut Events, timeout_ns: i64) -> Result<()> {
        events.clear();
        let until = match timeout_ns {
            ..=0 | NEVER => timeout_ns,
            ns => now(Clock::Monotonic)?.saturating_add(ns).min(NEVER - 1),
        };
        let mut set = self.set.lock();
        set.own()?;
        set.inside = true;
        let (ended, _) = set.take(events, &self.woken);
        let (mut left, mut found) = (timeout_ns, ended || events.len() > 0);
        let result = loop {
            if events.is_full() {
                break Ok(());
            }
            let cancels = set.fill();
            let at = set.ring.entrance();
            // Cancels complete, which would end the sleep; and whoever waits for them is told before it.
            let settled = set.done == set.asked;
            let sleeps = left > 0 && !found && !cancels && !set.is_dirty() && settled;
            let mut entered = Ok(0);
            if sleeps {
                (set.waiting, set.told) = (true, false);
                drop(set);
                entered = at.sleep(left);
                set = self.set.lock();
                set.waiting = false;
            } else if at.submit > 0 || set.ring.has_more() {
                entered = at.enter();
            }
            let (ended, heard) = set.take(events, &self.woken);
            found |= ended || events.len() > 0;
            let more = set.ring.has_more() && heard; // oddity j
            let settled = !more && !set.is_dirty() && set.ring.unsubmitted() == 0;
            if settled && set.done != set.asked {
                set.done = set.asked;
                self.tell_settlers(&set);
            }
            let cut_short = match entered.or_else(|e| set.mend(e).map(|()| 0)) {
                // Submitted, and nothing has come: the kernel says how many it has taken, not what has ended the sleep.
                Ok(n) => sleeps && n > 0 && !heard,
                Err(e) if e.code() == -libc::ETIME || found => false,
                Err(e) => break Err(e),
            };
            if more || set.is_dirty() {
                continue;
            }
            if found || left <= 0 {
                break Ok(());
            }
            if left != NEVER {
                left = until - now(Clock::Monotonic)?;
                if left <= 0 {
                    break Ok(());
                }
            }
            if cut_short {
                break Err(Error::INTR);
            }
        };
        if set.settlers > 0 {
            // Else they would wait for the next turn.
            let _ = set.submit();
            self.tell_settlers(&set);
        }
        set.inside = false;
        result
    }

    pub fn wake(&self) -> Result<()> {
        // A swap and not a store: of several wakers, each continues the release sequence of the one before, so the
        // sleeper sees what every one of them wrote.
        self.woken.swap(true, Ordering::Release);
        self.ring()
    }

    pub fn end_wait(&self) {
        if self.wake().is_err() {
            // Its count is never 0, so a read succeeds, and tells that there is room: without a write, which a filter may
            // forbid.
            let mut count = 0u64;
            // SAFETY: the kernel writes 8 bytes into the u64.
            unsafe { libc::read(self.waker.0, (&raw mut count).cast(), 8) };
        }
    }

    fn ring(&self) -> Result<()> {
        ring_eventfd(&self.waker)
    }

    pub fn set_alarm(&self, clock: Clock, deadline_ns: i64) -> Result<()> {
        self.alarms.set(clock, deadline_ns, |fd| {
            self.change(|set| {
                set.make_room(fd)?;
                set.arm(fd, 0, libc::EPOLLIN as u32, true, alarm_cookie(clock));
                Ok(())
            })
        })
    }

    // ---- the rest

    /// There are no ghosts here; it forgets everything, as all backends do.
    pub fn rebuild(&self) -> Result<()> {
        self.change(|set| {
            for fd in 0..set.entries.len() {
                if set.entries[fd].is(IN_SET) && set.entries[fd].cookie >= OWN {
                    set.disarm(fd as i32);
                }
            }
            Ok(())
        })
    }

    pub fn registered(&self) -> Result<Vec<Registered>> {
        let set = self.set.lock();
        let mut all = Vec::new();
        for (fd, entry) in set.entries.iter().enumerate().filter(|(_, e)| e.is(IN_SET) && e.cookie >= OWN) {
            let silent = entry.wanted == 0;
            let entry = Registered {
                fd: fd as i32,
                cookie: entry.cookie,
                interest: if silent { Interest::NONE } else { Interest(poll_ready(entry.asked() as i16).0 as u8) },
                trigger: if entry.is(EDGE) { Trigger::Edge } else { Trigger::Oneshot },
                exclusive: false,
            };
            crate::heap::push(&mut all, entry)?;
        }
        Ok(all)
    }

    pub fn heap_bytes(&self) -> usize {
        let set = self.set.lock();
        set.entries.capacity() * size_of::<Entry>()
    }

    #[cfg(test)]
    #[cfg_attr(doorbell_sim, allow(dead_code))]
    pub fn own_fds(&self) -> Vec<i32> {
        let own = [self.set.lock().ring.fd(), self.waker.0];
        own.into_iter().chain(self.alarms.live().map(|(fd, _)| fd)).collect()
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        let forked = self.mark.is_forked();
        if forked && self.set.try_lock().is_none() {
            // A thread of the parent was changing it: it may be torn, and is leaked.
            drop(Fd(self.ring));
            return;
        }
        let set = self.set.get_mut();
        if set.owner == this_thread() && !forked {
            for fd in 0..set.entries.len() {
                set.disarm(fd as i32); // oddity d
            }
            let _ = set.submit();
        }
        // SAFETY: dropped here only.
        unsafe { ManuallyDrop::drop(&mut self.set) };
    }
}

/// Is it open, can it be polled; and a number for the file, by which another one under the same fd is known.
#[allow(clippy::unnecessary_cast)] // the fields differ in width
fn identify(fd: i32) -> Result<u16> {
    let mut stat = std::mem::MaybeUninit::<libc::stat>::uninit();
    // Past libc, which asks newfstatat(2) since glibc 2.33: a fifth more.
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    // SAFETY: the kernel fills the struct, which is its own here, or fails.
    let done = unsafe { libc::syscall(libc::SYS_fstat, fd, stat.as_mut_ptr()) as i32 };
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    // SAFETY: libc fills the struct, or fails.
    let done = unsafe { libc::fstat(fd, stat.as_mut_ptr()) };
    Error::check(done)?;
    // SAFETY: filled, as fstat has succeeded.
    let stat = unsafe { stat.assume_init() };
    match stat.st_mode & libc::S_IFMT {
        libc::S_IFSOCK | libc::S_IFIFO | 0 => {}
        _ => super::epoll::check_pollable(fd)?,
    }
    let inode = stat.st_ino as u64 ^ (stat.st_dev as u64).rotate_left(32);
    Ok((inode ^ inode >> 16 ^ inode >> 32 ^ inode >> 48) as u16)
}
