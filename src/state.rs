//! A shard's state, and what is decided under its lock: what the kernel is asked for, what fires, what is cancelled.
//!
//! A registration of an fd is armed or not, and attached to its fd's list until it is closed. The kernel sees one
//! entry for each fd: edge-triggered if any armed registration is EDGE, else one-shot; the union of armed interests;
//! the first registration's handle as cookie. Every arming makes a system call, though the union may be the same: it
//! makes the kernel look again, and it finds out if the number means another file by now (twisted#12681).
use crate::abi::{BELL_CANCELLED, BELL_FIRED, bell_counters, bell_event};
use crate::backend::{Backend, Events, Trigger};
use crate::deliveries::Deliveries;
use crate::error::{Error, Result};
use crate::event::{Clock, Handle, Interest, Kind, Mode, NEVER, Ready};
use crate::fd_table::FdTable;
use crate::followers::Followers;
use crate::heap::{self, Counted};
use crate::registry::*;
use crate::target::queue::{Came, Next, Queue};
use crate::target::ready_list::{After, In, Left, Pushed, ReadyList};
use crate::target::slot::{self, Slot, Slots};
use crate::target::{Batch, News, Notification, Target};
use crate::timers::{self, Nodes, Timers, UNARMED};
use std::collections::VecDeque;
use std::mem::MaybeUninit;

/// `State::sleep_until` while the driver is awake: no deadline is earlier.
pub const AWAKE: i64 = i64::MIN;

/// Who has the driver.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    Poll,
    Waiter,
    Thread,
}

/// What a turn needs for itself. Whoever holds the box is the driver.
pub struct Driver {
    pub events: Events,
    pub batch: Batch,
}

impl Driver {
    pub fn new(max_events: usize) -> Result<Box<Driver>> {
        heap::boxed(Driver { events: Events::new(max_events)?, batch: Batch::default() })
    }
}

/// The array of a caller that drives: news for it goes there straight, past the list where it would be taken from.
pub struct Sink<'a> {
    pub out: &'a mut [MaybeUninit<bell_event>],
    pub n: usize,
    /// The queue that the caller waits for; `None`: it is `bell_poll`, and takes what has the target POLL.
    pub queue: Option<&'a Counted<Queue>>,
    /// For its next drain.
    pub came: Came,
    /// To be woken, because its drain has left something.
    pub next: Next,
}

impl<'a> Sink<'a> {
    pub fn for_poll(out: &'a mut [MaybeUninit<bell_event>]) -> Sink<'a> {
        Sink { out, n: 0, queue: None, came: Came::ByItself, next: Next::Nobody }
    }
    pub fn for_queue(out: &'a mut [MaybeUninit<bell_event>], queue: &'a Counted<Queue>, came: Came) -> Sink<'a> {
        Sink { out, n: 0, queue: Some(queue), came, next: Next::Nobody }
    }
    pub fn is_for_poll(&self) -> bool {
        self.queue.is_none()
    }
    pub fn is_full(&self) -> bool {
        self.n == self.out.len()
    }
}

/// What every decision needs from outside the lock.
#[derive(Clone, Copy)]
pub struct Env<'a> {
    pub backend: &'a Backend,
    pub fds: &'a FdTable,
}

/// Where deliveries of one turn (or of one call) go.
pub struct Out<'a, 'b> {
    pub batch: &'a mut Batch,
    pub sink: Option<&'a mut Sink<'b>>,
    /// The shard, if its driver delivers.
    pub from: Option<usize>,
}

pub struct State {
    pub reg: Registry,
    pub timers: [Timers; 3],
    pub driver: Option<Box<Driver>>,
    /// Who has it, while it is away.
    pub role: Role,
    pub followers: Followers,
    pub deliveries: Deliveries,
    /// Armed registrations of fds that the kernel cannot poll: delivered in the next turn.
    pub always: VecDeque<Handle>,
    pub counters: bell_counters,
    /// When the sleeping driver wakes by itself.
    pub sleep_until: i64,
    /// Which wait of the driver has reports that are not dispatched yet, 0 if none; and how many there were. Wrapping
    /// around makes `Kernel::Unsure` of what is not, which does no harm.
    pub wait: u16,
    pub waits: u16,
    /// What the backend's alarms are set to.
    pub alarms: [i64; 3],
    /// `bell_pollable_fd` was called: the monotonic alarm is kept too.
    pub nested: bool,
    /// The driver must be woken when the lock is released.
    pub rouse: bool,
    /// A registration of an fd has released itself since the driver looked: whoever knows may close the fd.
    pub released: bool,
    /// Threads inside blocking calls.
    pub inside: u32,
    pub closing: bool,
    /// `bell_wake` was called, and no `bell_poll` has ended by it yet: a waiter that drives does not use it up.
    pub user_woken: bool,
    /// Calls of `bell_poll` that wait for a waiter to make way.
    pub poll_wanted: u32,
    /// Fds that could not be taken out of the kernel's set, and events they have caused since.
    pub ghosts: u32,
    pub ghost_events: u32,
    /// Fds whose registrations did not all fit in a batch when something had to be told to all of them: (fd, is it
    /// closed).
    pub retry: Vec<(i32, bool)>,
    /// There was no memory to note one of them: all fds are gone through, from this entry on.
    pub retry_all: Option<u32>,
}

/// So many events of ghosts, and the kernel's object is made anew.
pub const GHOST_EVENTS: u32 = 16;

impl State {
    pub fn new(shard: u8, slack: i64, max_events: usize) -> Result<State> {
        State::around(Registry::new(shard, slack), max_events)
    }

    /// In a forked child that starts anew: empty, and none of its handles is one of `old`, which may be torn.
    pub fn instead_of(old: &State, max_events: usize) -> Result<State> {
        State::around(Registry::instead_of(&old.reg), max_events)
    }

    fn around(reg: Registry, max_events: usize) -> Result<State> {
        Ok(State {
            reg,
            timers: [const { Timers::new() }; 3],
            driver: Some(Driver::new(max_events)?),
            role: Role::Poll,
            followers: Followers::new(),
            deliveries: Deliveries::default(),
            always: VecDeque::new(),
            counters: zero_counters(),
            sleep_until: AWAKE,
            wait: 0,
            waits: 0,
            alarms: [NEVER; 3],
            nested: false,
            rouse: false,
            released: false,
            inside: 0,
            closing: false,
            user_woken: false,
            poll_wanted: 0,
            ghosts: 0,
            ghost_events: 0,
            retry: Vec::new(),
            retry_all: None,
        })
    }

    // ---- what the kernel is asked for

    fn ctl<R>(&mut self, result: Result<R>) -> Result<R> {
        self.counters.ctl_calls += 1;
        self.counters.ctl_errors += result.is_err() as u64;
        result
    }

    /// Makes the kernel's entry what the list wants. `look`: also when it is that already, so that the kernel looks
    /// at the fd. An error has changed nothing in the kernel.
    pub fn sync_kernel(&mut self, env: Env, head: u32, look: bool) -> Result<()> {
        let (interest, edge) = self.reg.wanted(head);
        let (trigger, next) = if edge { (Trigger::Edge, Kernel::Edge) } else { (Trigger::Oneshot, Kernel::Oneshot) };
        let cookie = self.reg.fd_handle(head).0;
        let fd = &self.reg.fds.at(head).value;
        let (number, now, asked) = (fd.fd, fd.kernel, fd.asked);
        let next = if interest.is_empty() {
            match now {
                Kernel::Absent | Kernel::Disarmed | Kernel::Unsure => return Ok(()),
                Kernel::Edge | Kernel::Oneshot => {
                    let r = env.backend.remove(number);
                    self.ctl(r)?;
                    Kernel::Absent
                }
            }
        } else if now == Kernel::Absent {
            self.add_to_kernel(env, number, interest, trigger, cookie)?;
            next
        } else {
            if !look && now == next && asked == interest {
                return Ok(());
            }
            let r = env.backend.modify(number, interest, trigger, cookie);
            self.ctl(r)?;
            next
        };
        let during = self.wait;
        let fd = &mut self.reg.fds.at_mut(head).value;
        (fd.kernel, fd.asked, fd.during) = (next, interest, during);
        Ok(())
    }

    #[inline(always)]
    fn add_to_kernel(
        &mut self,
        env: Env,
        number: i32,
        interest: Interest,
        trigger: Trigger,
        cookie: u64,
    ) -> Result<()> {
        let r = match env.backend.add(number, interest, trigger, false, cookie) {
            // The kernel knows this file under this number: a leftover that we took for gone.
            Err(Error::EXIST) => env.backend.modify(number, interest, trigger, cookie),
            r => r,
        };
        self.ctl(r)
    }

    /// As `sync_kernel`, of one that is new, and alone in its fd's list.
    #[inline(always)]
    pub fn watch_alone(&mut self, env: Env, index: u32, handle: Handle) -> Result<()> {
        let Fd { fd: number, interest, mode, .. } = self.reg.fds.at(index).value;
        let (trigger, next) = match mode {
            Mode::Edge => (Trigger::Edge, Kernel::Edge),
            Mode::Oneshot | Mode::Level => (Trigger::Oneshot, Kernel::Oneshot),
        };
        self.add_to_kernel(env, number, interest, trigger, handle.0)?;
        let during = self.wait;
        let fd = &mut self.reg.fds.at_mut(index).value;
        (fd.kernel, fd.asked, fd.during) = (next, interest, during);
        Ok(())
    }

    /// As above where no result can tell: the armed registrations are told ERR with the status.
    pub fn sync_kernel_or_tell(&mut self, env: Env, head: u32, look: bool, out: &mut Out) {
        match self.sync_kernel(env, head, look) {
            Ok(()) => {}
            Err(Error::NOENT | Error::BADF) => self.ghost(env, head, out),
            Err(e) => {
                let mut at = head;
                let number = self.reg.fds.at(head).value.fd;
                while at != NIL {
                    let entry = self.reg.fds.at(at);
                    // One that the kernel does not watch has no part in it: its file has the number of a closed one.
                    let (next, armed) = (entry.link, entry.value.is(ARMED) && !entry.value.is(ALWAYS));
                    if out.batch.is_full() {
                        return self.later(number, false);
                    }
                    if armed {
                        // An EDGE one too: the kernel does not watch it until it is armed again.
                        self.reg.fds.at_mut(at).value.set(ARMED, false);
                        self.fire_fd(env, at, Ready::ERR, e.code(), out);
                    }
                    at = next;
                }
                // Nobody is armed now: what the kernel still has, under an old cookie perhaps, it shall give up.
                let head = env.fds.head(number);
                if head != NIL {
                    let _ = self.sync_kernel(env, head, false);
                }
            }
        }
    }

    /// The fd was closed behind our back: its registrations are told, and leave its list.
    pub fn ghost(&mut self, env: Env, head: u32, out: &mut Out) {
        let fd = &self.reg.fds.at(head).value;
        let (number, kernel) = (fd.fd, fd.kernel);
        self.forget_kernel(env, number, kernel);
        if !self.close_list(env, number, Error::BADF.code(), out) {
            self.tell_end_later(env.fds.head(number));
        }
    }

    /// We have closed an fd, and this is watched under its number: the closed one, or the next of that number?
    pub fn after_close(&mut self, env: Env, head: u32, out: &mut Out) {
        if !matches!(self.sync_kernel(env, head, true), Err(Error::NOENT | Error::BADF)) {
            return;
        }
        let fd = &mut self.reg.fds.at_mut(head).value;
        let number = fd.fd;
        if std::mem::take(&mut fd.kernel) != Kernel::Absent {
            self.ghosts += 1; // if a dup of it lives elsewhere
        }
        if !self.close_list(env, number, 0, out) {
            self.tell_end_later(env.fds.head(number));
        }
    }

    /// The file was closed that this registration is of, and those behind it in the list. Marked, because when the next
    /// turn tells them the number may have another file, with registrations of its own.
    pub fn tell_end_later(&mut self, head: u32) {
        let number = self.reg.fds.at(head).value.fd;
        let mut at = head;
        while at != NIL {
            let entry = self.reg.fds.at_mut(at);
            entry.value.set(GONE, true);
            at = entry.link;
        }
        self.later(number, true);
    }

    /// The next turn goes on.
    pub fn later(&mut self, number: i32, closed: bool) {
        match heap::room(&mut self.retry, 1) {
            Ok(()) => self.retry.push((number, closed)),
            Err(_) => self.retry_all = Some(0),
        }
        self.rouse = true;
    }

    pub fn has_more_to_tell(&self) -> bool {
        !self.retry.is_empty() || self.retry_all.is_some()
    }

    /// Goes on with one of those. False: the batch is full.
    pub fn try_again(&mut self, env: Env, out: &mut Out) -> bool {
        while let Some((number, closed)) = self.retry.pop() {
            let head = env.fds.head(number);
            if head != NIL && closed {
                // Else somebody has told them meanwhile.
                if self.reg.fds.at(head).value.is(GONE) {
                    self.ghost(env, head, out);
                }
            } else if head != NIL {
                self.sync_kernel_or_tell(env, head, true, out);
            }
            if out.batch.is_full() {
                return false;
            }
        }
        while let Some(from) = self.retry_all {
            let index = self.reg.fds.next(from);
            self.retry_all = index.map(|i| i + 1);
            let Some(index) = index else { break };
            let number = self.reg.fds.at(index).value.fd;
            if env.fds.head(number) == index {
                self.sync_kernel_or_tell(env, index, true, out);
            }
            if out.batch.is_full() {
                return false;
            }
        }
        true
    }

    /// Takes an fd out of the kernel's set. If that fails it was closed behind our back, and a duplicate elsewhere
    /// may keep the entry alive where we cannot remove it (F1 of the museum; libev's ev_epoll.c tells the same).
    #[inline(always)] // as it was of itself when there was one backend: a call is a fortieth of unregistering
    pub fn forget_kernel(&mut self, env: Env, number: i32, kernel: Kernel) {
        if kernel == Kernel::Absent {
            return;
        }
        let r = env.backend.remove(number);
        if self.ctl(r).is_err() {
            self.counters.ghosts += 1;
            self.ghosts += 1;
        }
    }

    /// Tells every registration of an fd CLOSED and takes it out of the list. False: the batch is full, call again.
    pub fn close_list(&mut self, env: Env, number: i32, status: i32, out: &mut Out) -> bool {
        loop {
            let head = env.fds.head(number);
            if head == NIL {
                return true;
            }
            if out.batch.is_full() {
                return false;
            }
            self.reg.detach(env.fds, head);
            self.close_one(env, head, status, out);
        }
    }

    /// A registration that has left its list is told.
    pub fn close_one(&mut self, env: Env, index: u32, status: i32, out: &mut Out) {
        let fd = &mut self.reg.fds.at_mut(index).value;
        fd.set(CLOSED, true);
        fd.kernel = Kernel::Absent;
        self.cancel_deadline(index);
        self.fire_fd(env, index, Ready::CLOSED, status, out);
    }

    /// Takes the registration out of its list, and the kernel's entry along if it was the last one.
    /// An error is the kernel's, about those that are left.
    fn leave_list(&mut self, env: Env, index: u32) -> Result<()> {
        let fd = &self.reg.fds.at(index).value;
        let (number, kernel, exclusive) = (fd.fd, fd.kernel, fd.is(EXCLUSIVE));
        if fd.is(CLOSED) {
            return Ok(());
        }
        if exclusive {
            self.forget_kernel(env, number, kernel);
            env.fds.release_exclusive(number);
            return Ok(());
        }
        let place = env.fds.place(number)?;
        let was_head = place.head() == index;
        if was_head && self.reg.fds.at(index).link == NIL {
            // Out of the kernel first: once the number is nobody's, a close does not wait for this shard.
            self.forget_kernel(env, number, kernel);
            self.reg.fds.at_mut(index).value.kernel = Kernel::Absent;
            place.set_head(self.reg.shard as usize, NIL);
            return Ok(());
        }
        let head = self.reg.detach(env.fds, index);
        // A new first registration is a new cookie: the kernel must be told, also if the interest is the same.
        self.sync_kernel(env, head, was_head)
    }

    // ---- firing

    /// Takes what earlier turns, or other threads, have left for `bell_poll`.
    pub fn fill(&mut self, sink: &mut Sink) {
        while !sink.is_full() {
            let Some((event, node, after)) = self.reg.poll.pop_node() else { return };
            sink.out[sink.n].write(event);
            sink.n += 1;
            let handle = Handle(event.handle);
            if after == After::Release && handle.is(Kind::Timeout) {
                self.free_timeout(handle.index()); // now, while it is at hand; an fd takes a system call, and `reap`
            } else {
                self.reg.poll.drained(node);
            }
        }
    }

    /// Delivers to a registration of an fd, which may be freed by that.
    pub fn fire_fd(&mut self, env: Env, index: u32, ready: Ready, status: i32, out: &mut Out) {
        let handle = self.reg.fd_handle(index);
        let fd = &mut self.reg.fds.at_mut(index).value;
        if fd.mode != Mode::Edge || fd.is(CLOSED) {
            fd.set(ARMED, false);
        }
        let news = News { handle, user_data: fd.user_data, ready, status, data: 0, add: false, after: fd.after() };
        let spent_deadline = fd.mode == Mode::Oneshot && fd.pos != UNARMED;
        let release = fd.is(RELEASE) && !is_listed(&fd.target);
        let interest = fd.interest;
        self.rouse |= out.from.is_none() && rouses(&fd.target, self.driver.is_none(), self.nested);
        deliver(&mut fd.target, &news, interest, &self.reg.slots, &mut self.reg.poll, &mut self.counters, out);
        if spent_deadline {
            self.cancel_deadline(index);
        }
        if release {
            self.rouse_slot(&self.reg.fds.at(index).value.target, out);
            self.free_fd(env, index, out);
            self.released = true;
        }
    }

    /// Frees a registration. True: its target held news that nobody has seen. (Asked while the news is taken away: a
    /// drain by another thread may be faster than any look before.)
    fn free_fd(&mut self, env: Env, index: u32, out: &mut Out) -> bool {
        let number = self.reg.fds.at(index).value.fd;
        if self.leave_list(env, index).is_err() {
            let head = env.fds.head(number);
            self.sync_kernel_or_tell(env, head, true, out);
        }
        self.cancel_deadline(index);
        self.drop_fd(index).is_news()
    }

    /// Gives back an entry that is in no list and not armed, and what its target held.
    pub fn drop_fd(&mut self, index: u32) -> Left {
        let target = std::mem::take(&mut self.reg.fds.at_mut(index).value.target);
        self.reg.fds.free(index);
        self.reg.unbind(target)
    }

    /// The usual events, each in one step: a single EDGE registration, armed as long as it lives, of an fd that the
    /// kernel reports without more to do. Returns the place of the first that is none, or at which the batch is full:
    /// `dispatch` it.
    #[inline]
    pub fn dispatch_edges(&mut self, events: &Events, mut at: usize, out: &mut Out) -> usize {
        let State { reg, counters, .. } = self;
        let Registry { fds, slots, poll, .. } = reg;
        // As long as nothing older waits in the list, news for who drives goes straight to its array. A queue's lock
        // is held meanwhile, once for all.
        if let Some(sink) = &mut out.sink {
            let room = &mut sink.out[sink.n..];
            let straight = match sink.queue {
                None if poll.is_empty() => {
                    straight(fds, events.iter_from(at), room, |t| matches!(t, Target::Poll { .. }))
                }
                Some(mine) => mine.lock_empty().map_or(0, |_held| {
                    let is_mine =
                        |t: &Target| matches!(t, Target::Queue { queue, .. } if Counted::is_same(queue, mine));
                    straight(fds, events.iter_from(at), room, is_mine)
                }),
                None => 0,
            };
            sink.n += straight;
            counters.events += straight as u64;
            at += straight;
        }
        for (cookie, ready) in events.iter_from(at) {
            let Some((fd, told)) = usual(fds, cookie, ready) else { break };
            if out.batch.is_full() {
                break;
            }
            at += 1;
            let interest = fd.interest;
            if let Target::Slot { slot } = fd.target {
                counters.events += 1;
                tell_slot(slots.get(slot), told, interest, counters, out.batch);
                continue;
            }
            let news = News {
                handle: Handle(cookie),
                user_data: fd.user_data,
                ready: told,
                status: 0,
                data: 0,
                add: false,
                after: After::Nothing,
            };
            deliver(&mut fd.target, &news, interest, slots, poll, counters, out);
        }
        at
    }

    /// The kernel says that an fd is ready. `from`: go on behind this registration. Returns where to go on when the
    /// batch is full.
    pub fn dispatch(
        &mut self,
        env: Env,
        cookie: Handle,
        ready: Ready,
        from: Option<Handle>,
        out: &mut Out,
    ) -> Option<Handle> {
        let Some(head) = self.reg.fds.find(cookie) else {
            self.counters.stale_dropped += 1;
            self.ghost_events += (self.ghosts > 0) as u32;
            return None;
        };
        let first = self.reg.fds.at_mut(head);
        let (number, single) = (first.value.fd, first.link == NIL);
        if first.value.is(CLOSED) {
            self.counters.stale_dropped += 1;
            self.ghost_events += (self.ghosts > 0) as u32;
            return None;
        }
        if from.is_none() && first.value.kernel == Kernel::Oneshot {
            let again = first.value.during != 0 && first.value.during == self.wait;
            first.value.kernel = if again { Kernel::Unsure } else { Kernel::Disarmed };
        }
        if ready.has(Ready::CLOSED) {
            // Only poll(2) tells: the number is not open any more, and its entry is gone.
            first.value.kernel = Kernel::Absent;
            self.counters.ghosts += 1;
            self.ghost(env, head, out);
            return None;
        }
        let mut at = match from.and_then(|h| self.reg.fds.find(h)) {
            Some(index) => index,
            None => head,
        };
        let mut wanted = false;
        while at != NIL {
            let entry = self.reg.fds.at(at);
            let next = entry.link;
            let fd = &entry.value;
            let told = ready & fd.interest.wants();
            if fd.is(ARMED) && !told.is_empty() && !fd.is(ALWAYS) {
                if out.batch.is_full() {
                    return Some(self.reg.fd_handle(at));
                }
                wanted = true;
                self.fire_fd(env, at, told, 0, out);
            }
            at = next;
        }
        self.counters.spurious += !wanted as u64;
        // What is left to do: arm the kernel's one-shot again for those that were not told, or narrow an edge that
        // nobody wanted. A single EDGE registration, the usual case, needs neither.
        let alive = self.reg.fds.find(cookie).is_some();
        if !(single && wanted && alive && self.reg.fds.at(head).value.kernel == Kernel::Edge) {
            let head = env.fds.head(number);
            if head != NIL {
                let edge = self.reg.fds.at(head).value.kernel == Kernel::Edge;
                if !edge || !wanted {
                    self.sync_kernel_or_tell(env, head, false, out);
                }
            }
        }
        None
    }

    /// A timer has come due.
    pub fn fire_timer(&mut self, env: Env, id: u32, now: i64, looked_at_all: bool, out: &mut Out) {
        self.counters.timers_fired += 1;
        if id & FD_DEADLINE != 0 {
            return self.fire_deadline(env, id & !FD_DEADLINE, now, looked_at_all, out);
        }
        let handle = self.reg.timeout_handle(id);
        let (due, period) = self.reg.due_and_period(id);
        count_lateness(&mut self.counters, now - due);
        let entry = self.reg.timeouts.at_mut(id);
        let kind = entry.kind();
        let mut expirations = 1;
        if period > 0 {
            let missed = (now - due) / period;
            expirations += missed as u64;
            entry.set_deadline(due.saturating_add(period.saturating_mul(missed + 1)).min(NEVER - 1));
        }
        let timeout = &mut entry.value;
        let news = News {
            handle,
            user_data: timeout.user_data,
            ready: Ready::TIMEOUT,
            status: 0,
            data: expirations,
            add: true,
            after: kind.after(),
        };
        let listed = is_listed(&timeout.target);
        let told = deliver(
            &mut timeout.target,
            &news,
            Interest::READ,
            &self.reg.slots,
            &mut self.reg.poll,
            &mut self.counters,
            out,
        );
        if period > 0 {
            // The heap has just given up an item, so there is room: this cannot fail for want of memory.
            let hard = self.hard(id);
            let _ = self.timers[kind.clock as usize].insert(&mut self.reg, id, hard);
        }
        if kind.release && (!listed || told == Told::Straight) {
            self.rouse_slot(&self.reg.timeouts.at(id).value.target, out);
            self.free_timeout(id);
        }
    }

    fn fire_deadline(&mut self, env: Env, index: u32, now: i64, looked_at_all: bool, out: &mut Out) {
        let fd = &mut self.reg.fds.at_mut(index).value;
        count_lateness(&mut self.counters, now - fd.deadline);
        fd.deadline = NEVER;
        let (number, interest, one_shot) = (fd.fd, fd.interest, fd.mode == Mode::Oneshot);
        if !fd.is(ARMED) && one_shot {
            return;
        }
        // Readiness wins a tie. If the kernel had more to report than fitted, this fd may be among the rest.
        let mut ready = Ready::TIMEOUT;
        if !looked_at_all && one_shot {
            ready = env.backend.look(number, interest).map_or(ready, |r| r & interest.wants());
            if ready.is_empty() {
                ready = Ready::TIMEOUT;
            }
        }
        let always = fd.is(ALWAYS);
        // LEVEL and EDGE stay armed after a timeout.
        if !one_shot {
            return self.tell_timeout(index, out);
        }
        self.fire_fd(env, index, ready, 0, out);
        let head = env.fds.head(number);
        if head != NIL && !always {
            self.sync_kernel_or_tell(env, head, false, out);
        }
    }

    fn tell_timeout(&mut self, index: u32, out: &mut Out) {
        let handle = self.reg.fd_handle(index);
        let fd = &mut self.reg.fds.at_mut(index).value;
        // A LEVEL registration that was told TIMEOUT only is still armed in the kernel: nothing to look at again.
        let news = News {
            handle,
            user_data: fd.user_data,
            ready: Ready::TIMEOUT,
            status: 0,
            data: 0,
            add: false,
            after: After::Nothing,
        };
        let interest = fd.interest;
        deliver(&mut fd.target, &news, interest, &self.reg.slots, &mut self.reg.poll, &mut self.counters, out);
    }

    /// The target of a registration or timeout has been replaced: what its old one has not shown to anybody is told to
    /// the new one. This cannot fail, as arming it again could.
    pub fn tell_left(&mut self, env: Env, handle: Handle, left: Left, out: &mut Out) -> Result<()> {
        let (ready, status, data) = match left {
            Left::Nothing => return Ok(()),
            Left::News { ready, status, data } => (ready, status, data),
            Left::Relook => {
                self.relook(env, handle, true, out);
                return Ok(());
            }
            Left::Release => {
                // A drain by another thread was faster, and has not come to free it yet.
                self.release(env, handle, out);
                return Err(Error::STALE);
            }
        };
        let (target, user_data, after, release, interest) = if handle.is(Kind::Fd) {
            let Some(entry) = self.reg.fds.find_mut(handle) else { return Ok(()) };
            let fd = &mut entry.value;
            let (after, release) = (fd.after(), fd.is(RELEASE));
            (&mut fd.target, fd.user_data, after, release, fd.interest)
        } else {
            let Some(entry) = self.reg.timeouts.find_mut(handle) else { return Ok(()) };
            let kind = entry.kind();
            let timeout = &mut entry.value;
            (&mut timeout.target, timeout.user_data, kind.after(), kind.release, Interest::READ)
        };
        let news = News { handle, user_data, ready, status, data, add: handle.is(Kind::Timeout), after };
        let release = release && !is_listed(target);
        self.rouse |= rouses(target, self.driver.is_none(), self.nested);
        deliver(target, &news, interest, &self.reg.slots, &mut self.reg.poll, &mut self.counters, out);
        if release {
            self.release(env, handle, out);
        }
        Ok(())
    }

    /// Somebody has posted a user event.
    pub fn fire_user(&mut self, index: u32, generation: u32, bits: u32, out: &mut Out) {
        let handle = Handle::new(Kind::User, self.reg.shard, index, generation);
        if self.reg.users.find(handle).is_none() {
            self.counters.stale_dropped += 1;
            return;
        }
        let user = &mut self.reg.users.at_mut(index).value;
        let bits = bits | user.kept.take().unwrap_or(0);
        if matches!(user.target, Target::None) {
            user.kept = Some(bits);
            return;
        }
        let news = News {
            handle,
            user_data: user.user_data,
            ready: Ready::USER,
            status: 0,
            data: bits as u64,
            add: false,
            after: After::Nothing,
        };
        deliver(&mut user.target, &news, Interest::READ, &self.reg.slots, &mut self.reg.poll, &mut self.counters, out);
    }

    /// Registrations that released themselves by being drained.
    pub fn reap(&mut self, env: Env, out: &mut Out) {
        while let Some(handle) = self.reg.poll.take(In::Release) {
            self.release(env, handle, out);
        }
    }

    pub fn release(&mut self, env: Env, handle: Handle, out: &mut Out) {
        if let (true, Some(index)) = (handle.is(Kind::Fd), self.reg.fds.find(handle)) {
            self.free_fd(env, index, out);
            self.released = true;
        } else if let (true, Some(index)) = (handle.is(Kind::Timeout), self.reg.timeouts.find(handle)) {
            self.free_timeout(index);
        }
    }

    /// A LEVEL registration was drained, and its consumer comes again: is the fd still ready? `now`: the answer shall
    /// be in this drain, not in the next turn.
    pub fn relook(&mut self, env: Env, handle: Handle, now: bool, out: &mut Out) {
        let Some(index) = self.reg.fds.find(handle) else { return };
        let fd = &mut self.reg.fds.at_mut(index).value;
        if fd.is(CLOSED) || fd.mode != Mode::Level {
            return;
        }
        let (number, wants) = (fd.fd, fd.interest.wants());
        fd.set(ARMED, true);
        if fd.is(ALWAYS) {
            return self.tell_always(index);
        }
        if now {
            let ready = env.backend.look(number, fd.interest).unwrap_or_default() & wants;
            if !ready.is_empty() {
                self.fire_fd(env, index, ready, 0, out);
                // It may have been armed again since its drain: then the kernel still watches for it.
                let head = env.fds.head(number);
                if self.reg.fds.at(head).value.kernel == Kernel::Oneshot {
                    self.sync_kernel_or_tell(env, head, false, out);
                }
                return;
            }
        }
        let head = env.fds.head(number);
        self.sync_kernel_or_tell(env, head, true, out);
    }

    /// The kernel cannot poll this fd, and its owner has said that it is always ready. There is room in `always` for
    /// every one of these from now on, so that telling them allocates nothing.
    pub fn make_always(&mut self, index: u32) -> Result<()> {
        let (always, more) = (&mut self.always, self.reg.fds.live() as usize);
        heap::reserve(always.capacity(), always.len(), more, || always.try_reserve(more))?;
        self.reg.fds.at_mut(index).value.set(ALWAYS, true);
        self.tell_always(index);
        Ok(())
    }

    /// The next turn delivers.
    pub fn tell_always(&mut self, index: u32) {
        if !self.reg.fds.at(index).value.interest.has(Interest::READ | Interest::WRITE) {
            return; // it never has urgent data or a peer
        }
        let handle = self.reg.fd_handle(index);
        let fd = &mut self.reg.fds.at_mut(index).value;
        if !fd.is(QUEUED) {
            fd.set(QUEUED, true);
            self.always.push_back(handle);
        }
        self.rouse = true;
    }

    pub fn fire_always(&mut self, env: Env, out: &mut Out) {
        for _ in 0..self.always.len() {
            if out.batch.is_full() {
                return;
            }
            let Some(handle) = self.always.pop_front() else { return };
            let Some(index) = self.reg.fds.find(handle) else { continue };
            let fd = &mut self.reg.fds.at_mut(index).value;
            fd.set(QUEUED, false);
            if fd.is(ARMED) && fd.is(ALWAYS) {
                let ready = Ready(fd.interest.0 as u32) & (Ready::READ | Ready::WRITE);
                if !ready.is_empty() {
                    self.fire_fd(env, index, ready, 0, out);
                }
            }
        }
    }

    // ---- deadlines

    /// A deadline was armed or moved: must the driver hear of it?
    #[inline(always)]
    fn note_deadline(&mut self, env: Env, clock: Clock, hard: i64) -> Result<()> {
        let c = clock as usize;
        if clock == Clock::Monotonic {
            if hard < self.sleep_until {
                self.rouse = true;
            }
            if !self.nested {
                return Ok(());
            }
        }
        if hard < self.alarms[c] {
            env.backend.set_alarm(clock, hard)?;
            self.alarms[c] = hard;
        }
        Ok(())
    }

    #[inline(always)]
    fn hard(&self, id: u32) -> i64 {
        timers::hard(self.reg.due_and_slack(id))
    }

    /// Arms the timer of an entry whose deadline is set; `hard` is its hard time. An error has changed nothing.
    #[inline(always)]
    pub fn arm(&mut self, env: Env, clock: Clock, id: u32, hard: i64) -> Result<()> {
        self.timers[clock as usize].insert(&mut self.reg, id, hard)?;
        if let Err(e) = self.note_deadline(env, clock, hard) {
            self.timers[clock as usize].remove(&mut self.reg, id);
            return Err(e);
        }
        self.counters.timers_armed += 1;
        Ok(())
    }

    /// Sets, moves or takes away the deadline of an fd's registration.
    pub fn set_deadline(&mut self, env: Env, index: u32, deadline: i64) -> Result<()> {
        let id = index | FD_DEADLINE;
        let fd = &mut self.reg.fds.at_mut(index).value;
        let (old, armed) = (fd.deadline, fd.pos != UNARMED);
        if deadline == NEVER {
            self.cancel_deadline(index);
            return Ok(());
        }
        fd.deadline = deadline;
        if !armed {
            let hard = self.hard(id);
            return self
                .arm(env, Clock::Monotonic, id, hard)
                .inspect_err(|_| self.reg.fds.at_mut(index).value.deadline = old);
        }
        self.move_timer(env, Clock::Monotonic, id, deadline < old).inspect_err(|_| {
            self.reg.fds.at_mut(index).value.deadline = old;
        })
    }

    /// The common move in one step: later, of what is armed, is a store. False: not that; nothing has changed.
    #[inline]
    pub fn postpone(&mut self, handle: Handle, deadline: i64) -> bool {
        let found = if handle.is(Kind::Timeout) {
            self.reg.timeouts.due_of(handle)
        } else if handle.is(Kind::Fd) {
            self.reg.fds.find_mut(handle).map(|e| (e.value.pos, &mut e.value.deadline))
        } else {
            None
        };
        match found {
            Some((pos, due)) if pos != UNARMED && *due <= deadline && deadline != NEVER => {
                *due = deadline;
                self.counters.timers_moved += 1;
                true
            }
            _ => false,
        }
    }

    /// Later: nothing to do, the heap finds out when the old key surfaces. After an error the caller puts the old
    /// deadline back, which is later.
    fn move_timer(&mut self, env: Env, clock: Clock, id: u32, earlier: bool) -> Result<()> {
        if earlier {
            self.timers[clock as usize].moved(&mut self.reg, id);
            let hard = self.hard(id);
            self.note_deadline(env, clock, hard)?;
        }
        self.counters.timers_moved += 1;
        Ok(())
    }

    pub fn cancel_deadline(&mut self, index: u32) {
        let fd = &mut self.reg.fds.at_mut(index).value;
        fd.deadline = NEVER;
        if fd.pos != UNARMED {
            self.timers[Clock::Monotonic as usize].remove(&mut self.reg, index | FD_DEADLINE);
            self.counters.timers_cancelled += 1;
        }
    }

    /// Arms a timeout, or moves it if it is armed.
    pub fn set_timeout(&mut self, env: Env, index: u32, deadline: i64) -> Result<()> {
        let entry = self.reg.timeouts.at_mut(index);
        let (old, armed, clock, shared) = (entry.deadline(), entry.is_armed(), entry.kind().clock, entry.is_shared());
        // A shared one stays in the heap: its owner may store a deadline, or this.
        if deadline == NEVER && !shared {
            self.cancel_timeout(index);
            return Ok(());
        }
        entry.set_deadline(deadline);
        let result = if armed {
            // The key of a shared one may be later than what was stored there since.
            self.move_timer(env, clock, index, shared || deadline < old)
        } else {
            let hard = self.hard(index);
            self.arm(env, clock, index, hard)
        };
        result.inspect_err(|_| self.reg.timeouts.at_mut(index).set_deadline(old))
    }

    pub fn share_deadline(&mut self, env: Env, index: u32, word: DeadlineWord) -> Result<()> {
        let (deadline, period) = self.reg.due_and_period(index);
        if period > 0 {
            return Err(Error::INVAL);
        }
        let entry = self.reg.timeouts.at(index);
        // At `NEVER` too it is in the heap, see above. (What has fired stays out, whatever its owner has stored.)
        if !entry.is_armed() && !entry.is_shared() && deadline == NEVER {
            self.arm(env, entry.kind().clock, index, NEVER - 1)?;
        }
        let entry = self.reg.timeouts.at_mut(index);
        entry.share(word);
        entry.set_deadline(deadline);
        Ok(())
    }

    #[inline]
    fn cancel_timeout(&mut self, index: u32) {
        let entry = self.reg.timeouts.at_mut(index);
        entry.set_deadline(NEVER);
        let clock = entry.kind().clock;
        if entry.is_armed() {
            self.timers[clock as usize].remove(&mut self.reg, index);
            self.counters.timers_cancelled += 1;
        }
    }

    /// True: its target held news that nobody has seen.
    #[inline]
    pub fn free_timeout(&mut self, index: u32) -> bool {
        let entry = self.reg.timeouts.at_mut(index);
        let (kind, armed, target) = (entry.kind(), entry.is_armed(), std::mem::take(&mut entry.value.target));
        if armed {
            self.timers[kind.clock as usize].remove(&mut self.reg, index);
            self.counters.timers_cancelled += 1;
        }
        if kind.extra {
            self.reg.extras.remove(&index);
        }
        self.reg.timeouts.free(index);
        self.reg.unbind(target).is_news()
    }

    // ---- cancelling

    /// `BELL_CANCELLED` or `BELL_FIRED`.
    pub fn unregister(&mut self, env: Env, handle: Handle, out: &mut Out) -> Result<i32> {
        match handle.kind() {
            Some(Kind::Fd) => self.unregister_fd(env, handle, out),
            Some(Kind::Timeout) => {
                let index = self.reg.timeouts.find(handle).ok_or(Error::STALE)?;
                let entry = self.reg.timeouts.at(index);
                let target = &entry.value.target;
                let armed = target.is_unspent() || entry.is_armed() && !target.is_spent();
                self.end_slot(target, out);
                self.rouse |= self.role == Role::Waiter && self.driver.is_none();
                let unseen = self.free_timeout(index);
                Ok(if armed || unseen { BELL_CANCELLED as i32 } else { BELL_FIRED })
            }
            Some(Kind::User) => {
                let index = self.reg.users.find(handle).ok_or(Error::STALE)?;
                self.end_slot(&self.reg.users.at(index).value.target, out);
                self.rouse |= self.role == Role::Waiter && self.driver.is_none();
                let user = self.reg.users.remove(index);
                let armed = !matches!(user.target, Target::None);
                self.reg.unbind(user.target);
                Ok(if armed { BELL_CANCELLED as i32 } else { BELL_FIRED })
            }
            _ => Err(Error::INVAL),
        }
    }

    fn unregister_fd(&mut self, env: Env, handle: Handle, out: &mut Out) -> Result<i32> {
        let index = self.reg.fds.find(handle).ok_or(Error::STALE)?;
        let fd = &self.reg.fds.at(index).value;
        let armed = fd.is(ARMED) || (fd.mode != Mode::Oneshot && !fd.is(CLOSED));
        let live = fd.target.is_unspent() || armed && !fd.target.is_spent();
        self.end_slot(&self.reg.fds.at(index).value.target, out);
        self.rouse |= self.role == Role::Waiter && self.driver.is_none();
        let unseen = self.free_fd(env, index, out);
        Ok(if live || unseen { BELL_CANCELLED as i32 } else { BELL_FIRED })
    }

    /// Gives back the target that another one has replaced.
    pub fn unbind(&mut self, old: Target, out: &mut Out) -> Left {
        self.end_slot(&old, out);
        // Who waits for it may be the one that drives, and sleeps in the kernel.
        self.rouse |= matches!(old, Target::Slot { .. }) && self.role == Role::Waiter && self.driver.is_none();
        self.reg.unbind(old)
    }

    /// Sleepers on a slot that was told, and goes with its registration: who waits on the other word shall find out. The
    /// news stays as it is, for who looks at the words.
    fn rouse_slot(&self, target: &Target, out: &mut Out) {
        if let Target::Slot { slot } = target {
            let slot = self.reg.slots.get(*slot);
            for word in [&slot.rd, &slot.wr] {
                if slot::nudge_sleeper(word) {
                    out.batch.push(Notification::Wake(word.wake_address()));
                }
            }
        }
    }

    /// Sleepers on a slot that ends are told.
    pub fn end_slot(&self, target: &Target, out: &mut Out) {
        if let Target::Slot { slot } = target {
            let slot = self.reg.slots.get(*slot);
            for word in [&slot.rd, &slot.wr] {
                if slot::publish(word, Ready::CANCELLED) {
                    out.batch.push(Notification::Wake(word.wake_address()));
                }
            }
        }
    }
}

/// The registration and what it is told, if that is all there is to do. The backend's own cookies have generation 0 and
/// are nobody's.
#[inline(always)]
fn usual(fds: &mut Slab<Fd>, cookie: u64, ready: Ready) -> Option<(&mut Fd, Ready)> {
    let entry = fds.find_mut(Handle(cookie))?;
    let fd = &mut entry.value;
    let told = ready & fd.interest.wants();
    let usual = entry.link == NIL && fd.is_usual() && !told.is_empty();
    usual.then_some((fd, told))
}

/// Writes the usual events of `mine` to the caller's array, up to the first that is another's. How many.
#[inline(never)] // a loop that has all registers for itself
fn straight(
    fds: &mut Slab<Fd>,
    events: impl Iterator<Item = (u64, Ready)>,
    room: &mut [MaybeUninit<bell_event>],
    mine: impl Fn(&Target) -> bool,
) -> usize {
    let mut n = 0;
    for (place, (cookie, ready)) in room.iter_mut().zip(events) {
        let Some((fd, told)) = usual(fds, cookie, ready).filter(|(fd, _)| mine(&fd.target)) else { break };
        place.write(bell_event { handle: cookie, user_data: fd.user_data, ready: told.0, status: 0, data: 0 });
        n += 1;
    }
    n
}

/// Told by somebody else than the driver: does that sleep in the kernel (`bell_poll`, or a waiter that drives), or beside
/// the pollable fd, and want to know?
fn rouses(target: &Target, driven: bool, nested: bool) -> bool {
    match target {
        Target::Poll { .. } => driven || nested,
        Target::Slot { .. } => driven,
        _ => false,
    }
}

fn is_listed(target: &Target) -> bool {
    matches!(target, Target::Poll { .. } | Target::Queue { .. })
}

fn count_lateness(counters: &mut bell_counters, late: i64) {
    let late = late.max(0) as u64;
    counters.late_max_ns = counters.late_max_ns.max(late);
    counters.late_sum_ns = counters.late_sum_ns.saturating_add(late);
}

#[inline(always)]
fn tell_slot(slot: &Slot, ready: Ready, interest: Interest, counters: &mut bell_counters, batch: &mut Batch) {
    let mut for_writers = Ready::WRITE | Ready::HUP | Ready::ERR | Ready::CLOSED;
    if interest.has(Interest::WRITE) {
        for_writers |= Ready::TIMEOUT;
    }
    for (word, bits) in [(&slot.rd, ready & !Ready::WRITE), (&slot.wr, ready & for_writers)] {
        if !bits.is_empty() {
            if slot::publish(word, bits) {
                counters.wakes_sent += 1;
                batch.push(Notification::Wake(word.wake_address()));
            } else {
                counters.wakes_elided += 1;
            }
        }
    }
}

/// Where news went.
#[derive(PartialEq, Eq)]
enum Told {
    /// To the array of the caller of `bell_poll`, who has it now.
    Straight,
    Elsewhere,
}

/// The one place where news goes to a target (but for what `dispatch_edges` knows a shorter way for).
#[inline(always)] // into `dispatch_edges` above all: a call for each event is a third of its price
fn deliver(
    target: &mut Target,
    news: &News,
    interest: Interest,
    slots: &Slots,
    poll: &mut ReadyList,
    counters: &mut bell_counters,
    out: &mut Out,
) -> Told {
    counters.events += 1;
    match target {
        Target::None => counters.events -= 1,
        Target::Poll { node } => {
            if let Some(sink) = &mut out.sink {
                let ended = news.after == After::Release && poll.has_ended(*node);
                if sink.is_for_poll() && !sink.is_full() && poll.is_empty() && !ended {
                    sink.out[sink.n].write(bell_event {
                        handle: news.handle.0,
                        user_data: news.user_data,
                        ready: news.ready.0,
                        status: news.status,
                        data: news.data,
                    });
                    sink.n += 1;
                    // A timeout that releases itself is freed at once, by `fire_timer`.
                    if news.after != After::Nothing && !news.handle.is(Kind::Timeout) {
                        poll.cancel(*node);
                        poll.drained(*node);
                    }
                    return Told::Straight;
                }
            }
            if poll.push(*node, news) == Pushed::Merged {
                counters.coalesced += 1;
            }
        }
        Target::Slot { slot } => tell_slot(slots.get(*slot), news.ready, interest, counters, out.batch),
        Target::Futex(word) => out.batch.push(Notification::Futex(*word, news.ready)),
        Target::WakeFd(fd) => {
            counters.wakes_sent += 1;
            out.batch.push(Notification::WakeFd(*fd));
        }
        Target::Queue { queue, node } => {
            let merged = queue.push(*node, news, out.from, out.batch);
            counters.coalesced += merged as u64;
        }
        Target::Mvar(_) => {
            if let Target::Mvar(sp) = std::mem::take(target) {
                counters.wakes_sent += 1;
                out.batch.push(Notification::Mvar(sp));
            }
        }
    }
    Told::Elsewhere
}

pub fn zero_counters() -> bell_counters {
    // SAFETY: a struct of integers.
    unsafe { std::mem::zeroed() }
}
