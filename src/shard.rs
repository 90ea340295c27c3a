//! A shard: one kernel poller, its registry, its timers, one lock; and the ways to drive it.
//!
//! A turn: under the lock, how long to sleep; without it, wait in the kernel; under it again, take what has happened
//! (kernel events, posts, always-ready fds, timers, in this order, so that readiness wins a tie with a deadline);
//! without it, deliver. `State::driver` is a box: whoever has taken it out is the driver, and there is no other way
//! to get at what a turn needs.
//!
//! Who drives: `poll` takes the box for one turn. A waiter (`wait`) takes it when nobody has it and puts it back when
//! its own news has come; then one *follower*, a waiter asleep on its own word, is nudged to take over. Every way out
//! of `wait` and `poll` looks for a follower if the box is there, so leadership is never lost: the one who was nudged
//! may be on its way out itself, and then passes it on. A waiter makes way for `poll`. (Modelled in
//! `tests/loom_handover.rs`.)
use crate::abi::bell_event;
use crate::backend::{self, Backend};
use crate::error::{Error, Result};
use crate::event::{Clock, Direction, Handle, Interest, Kind, Mode, NEVER, Ready};
use crate::fd_table::FdTable;
use crate::followers::Followers;
use crate::fork::Mark;
use crate::heap::Counted;
use crate::libc;
use crate::posts::Posts;
use crate::registry::{ALWAYS, ARMED, CLOSED, Kernel};
use crate::state::{AWAKE, Driver, Env, GHOST_EVENTS, Out, Role, Sink, State};
use crate::sync::{self, Mutex, MutexGuard, OwnWord, WakeAddress, Woken, Word};
use crate::target::mvar::GhcOps;
use crate::target::queue::{Came, Next, Queue};
use crate::target::ready_list::In;
use crate::target::slot;
use crate::target::{Batch, World};
use crate::waker::SleepState;
use std::mem::MaybeUninit;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

pub struct Shard {
    pub index: usize,
    pub backend: Backend,
    pub posts: Posts,
    state: Mutex<State>,
    sleep: SleepState,
    /// For what is waited for rarely: a waiter that makes way, deliveries that end.
    rare: Word,
    wakes_sent: AtomicU64,
    wakes_elided: AtomicU64,
}

pub type Guard<'a> = MutexGuard<'a, State>;

/// The shards of a manager, and what they share.
pub struct Shared {
    pub shards: Box<[Shard]>,
    pub fds: FdTable,
    /// Library threads drive.
    pub threaded: bool,
    pub ghc: Option<GhcOps>,
    pub mark: Mark,
}

impl Shared {
    pub fn deliver(&self, batch: &mut Batch) {
        let wake_driver = |shard: u8| {
            let _ = self.shards[shard as usize].wake(false);
        };
        batch.deliver(&World { ghc: self.ghc.as_ref(), wake_driver: &wake_driver });
    }

    pub fn is_sound(&self) -> bool {
        self.mark.is_sound()
    }

    /// A bug was met: every call says so from now on, and whoever sleeps is woken to find out.
    #[cold]
    pub fn poison(&self) {
        self.mark.poison();
        self.alarm();
    }
    pub fn alarm(&self) {
        self.shards.iter().for_each(Shard::alarm_all);
    }
}

/// What a turn did.
#[derive(Clone, Copy)]
pub struct Turned {
    pub delivered: bool,
    /// `bell_wake` was called.
    pub user_wake: bool,
    /// The manager ends. If it began to after the turn had looked, the next turn does not sleep.
    pub closing: bool,
}

/// What a waiter's look at its own news says: `None`, go on waiting.
type Look<'a, R> = dyn FnMut(&mut State, Option<&mut Sink>) -> Option<Result<R>> + 'a;

/// A library thread that meets a shortage: 1 ms, then twice as long each time, up to 100 ms.
const FIRST_PAUSE_NS: i64 = 1_000_000;
const LONGEST_PAUSE_NS: i64 = 100_000_000;

impl Shard {
    pub fn new(index: usize, slack: i64, max_events: usize, io_uring: bool) -> Result<Shard> {
        Ok(Shard {
            index,
            backend: Backend::of_choice(io_uring)?,
            posts: Posts::new(),
            state: Mutex::new(State::new(index as u8, slack, max_events)?),
            sleep: SleepState::new(),
            rare: Word::new(0),
            wakes_sent: AtomicU64::new(0),
            wakes_elided: AtomicU64::new(0),
        })
    }

    #[inline]
    pub fn lock(&self) -> Guard<'_> {
        self.state.lock()
    }
    pub fn try_lock(&self) -> Option<Guard<'_>> {
        self.state.try_lock()
    }
    pub fn env<'a>(&'a self, fds: &'a FdTable) -> Env<'a> {
        Env { backend: &self.backend, fds }
    }

    // ---- waking

    /// Makes the driver look. Async-signal-safe.
    pub fn wake(&self, user: bool) -> Result<()> {
        if self.sleep.wake(user) {
            self.wakes_sent.fetch_add(1, Relaxed);
            self.backend.wake().inspect_err(|_| self.sleep.not_rung())
        } else {
            self.wakes_elided.fetch_add(1, Relaxed);
            Ok(())
        }
    }

    pub fn wakes(&self) -> (u64, u64) {
        (self.wakes_sent.load(Relaxed), self.wakes_elided.load(Relaxed))
    }

    /// Releases the lock, then does what was decided under it: wakes the driver, delivers.
    #[inline(always)]
    pub fn finish(&self, all: &Shared, st: Guard<'_>, batch: &mut Batch) {
        if batch.is_empty() { self.release(st) } else { self.finish_with(all, st, batch) }
    }

    #[inline(never)]
    fn finish_with(&self, all: &Shared, mut st: Guard<'_>, batch: &mut Batch) {
        let token = batch.is_foreign().then(|| st.deliveries.begin());
        self.release(st);
        all.deliver(batch);
        if let Some(token) = token {
            if self.lock().deliveries.end(token) {
                self.notify_rare();
            }
        }
    }

    /// As `finish`, when nothing can have been decided but to wake the driver.
    #[inline]
    pub fn release(&self, mut st: Guard<'_>) {
        let rouse = std::mem::take(&mut st.rouse);
        drop(st);
        if rouse {
            // A driver that cannot be woken is told of by bell_wake; the deadline itself is armed all the same.
            let _ = self.wake(false);
        }
    }

    /// The batch is full: delivers it in between.
    pub fn flush<'a>(&'a self, all: &Shared, st: Guard<'a>, batch: &mut Batch) -> Guard<'a> {
        self.finish(all, st, batch);
        self.lock()
    }

    fn notify_rare(&self) {
        if slot::nudge(&self.rare) {
            sync::wake(self.rare.wake_address());
        }
    }

    fn wait_rare<'a>(&'a self, st: Guard<'a>) -> Guard<'a> {
        if let Some(expected) = slot::prepare(&self.rare) {
            drop(st);
            self.rare.sleep(expected, NEVER);
            return self.lock();
        }
        st
    }

    // ---- a turn

    /// How long to sleep, until `until` at the most. Unless it is 0, the sleep is announced.
    fn plan(&self, st: &mut State, until: i64) -> Result<i64> {
        if until == 0 || !self.posts.is_empty() || !st.always.is_empty() || st.has_more_to_tell() || st.closing {
            return Ok(0);
        }
        let State { timers, reg, .. } = st;
        let wake_at = timers[Clock::Monotonic as usize].next_wake(reg).min(until);
        let timeout = match wake_at {
            NEVER => NEVER,
            at => (at - backend::now(Clock::Monotonic)?).max(0),
        };
        if timeout == 0 || !self.sleep.prepare() {
            return Ok(0);
        }
        st.sleep_until = wake_at;
        Ok(timeout)
    }

    /// One turn. The caller holds the driver, not the lock. `until`: 0 does not wait.
    pub fn turn(&self, all: &Shared, driver: &mut Driver, mut sink: Option<&mut Sink>, until: i64) -> Result<Turned> {
        let mut st = self.lock();
        let by_poll = sink.as_ref().is_some_and(|s| s.is_for_poll());
        let leftover = by_poll && (st.user_woken || !st.reg.poll.is_empty());
        let timeout = self.plan(&mut st, if leftover { 0 } else { until })?;
        st.counters.kernel_waits += 1;
        st.waits = st.waits.wrapping_add(1).max(1);
        st.wait = st.waits;
        drop(st);
        let waited = self.backend.wait(&mut driver.events, timeout);
        let mut st = self.lock();
        let wakes = self.sleep.finish();
        st.sleep_until = AWAKE;
        st.user_woken |= wakes.user;
        let user_wake = by_poll && std::mem::take(&mut st.user_woken);
        if let Err(e) = waited {
            st.wait = 0;
            // A signal and a wake at once: the wake is told, and ends the call as the signal would (polling#265). Any
            // other error leaves it to the next call.
            let told = e == Error::INTR && user_wake;
            st.user_woken |= user_wake && !told;
            if st.nested && by_poll {
                self.stay_truthful(&mut st)?;
            }
            let closing = st.closing;
            return if told { Ok(Turned { delivered: false, user_wake, closing }) } else { Err(e) };
        }
        let delivered_before = st.counters.events;
        let Driver { events, batch } = driver;
        if let (true, Some(sink)) = (by_poll, &mut sink) {
            st.fill(sink);
        }
        let env = self.env(&all.fds);
        macro_rules! out {
            () => {
                &mut Out { batch: &mut *batch, sink: sink.as_deref_mut(), from: Some(self.index) }
            };
        }
        let mut at = 0;
        loop {
            at = st.dispatch_edges(events, at, out!());
            if at == events.len() {
                break;
            }
            let (cookie, ready) = events.get(at);
            at += 1;
            let cookie = Handle(cookie);
            // Else the waker or an alarm: the turn itself is the answer.
            let mut from = None;
            while cookie.is(Kind::Fd) {
                from = st.dispatch(env, cookie, ready, from, out!());
                if from.is_none() {
                    break;
                }
                st = self.flush(all, st, batch);
            }
        }
        st.wait = 0;
        if !self.posts.is_empty() {
            st = self.take_posts(all, st, batch, sink.as_deref_mut());
        }
        while !st.always.is_empty() {
            st.fire_always(env, out!());
            if st.always.is_empty() || !batch.is_full() {
                break;
            }
            st = self.flush(all, st, batch);
        }
        let looked_at_all = !events.is_full();
        for clock in Clock::ALL {
            if st.timers[clock as usize].is_empty() {
                continue;
            }
            // A clock that cannot be read has nothing due; `plan` tells of it.
            let now = backend::now(clock);
            loop {
                if batch.is_full() {
                    st = self.flush(all, st, batch);
                }
                let State { timers, reg, .. } = &mut *st;
                let Some(now) = now.ok() else { break };
                let Some(id) = timers[clock as usize].pop_due(reg, now) else { break };
                st.fire_timer(env, id, now, looked_at_all, out!());
            }
        }
        while !st.try_again(env, out!()) {
            st = self.flush(all, st, batch);
        }
        st.reap(env, out!());
        if std::mem::take(&mut st.released) {
            self.backend.settle(false); // before the news of it is out
        }
        if st.ghost_events >= GHOST_EVENTS {
            self.rebuild(&mut st, env, out!());
        }
        let mut set = self.set_alarms(&mut st);
        // A waiter goes on driving, and does this when it leaves: ringing for itself it would never sleep.
        if st.nested && by_poll {
            set = set.and(self.stay_truthful(&mut st));
        }
        let (delivered, closing) = (st.counters.events != delivered_before, st.closing);
        self.finish(all, st, batch);
        set.map(|()| Turned { delivered, user_wake, closing })
    }

    fn take_posts<'a>(
        &'a self,
        all: &Shared,
        mut st: Guard<'a>,
        batch: &mut Batch,
        mut sink: Option<&mut Sink>,
    ) -> Guard<'a> {
        let mut guard = Some(st);
        self.posts.take(|index, generation, bits| {
            let Some(mut st) = guard.take() else { return };
            if batch.is_full() {
                st = self.flush(all, st, batch);
            }
            let out = &mut Out { batch: &mut *batch, sink: sink.as_deref_mut(), from: Some(self.index) };
            st.fire_user(index, generation, bits, out);
            guard = Some(st);
        });
        st = guard.take().unwrap_or_else(|| self.lock());
        st
    }

    /// Alarms of the kernel for clocks that it does not sleep by, and for who sleeps on the pollable fd.
    fn set_alarms(&self, st: &mut State) -> Result<()> {
        for clock in Clock::ALL {
            let c = clock as usize;
            if clock == Clock::Monotonic && !st.nested || st.timers[c].is_empty() && st.alarms[c] == NEVER {
                continue;
            }
            // Not freshened: an alarm for a deadline that has moved later costs one empty turn, and moving it no
            // system call.
            let next = st.timers[c].peek();
            // A wall clock that was set back after its alarm rang: the alarm is spent, and its deadline lies ahead again.
            let again = clock == Clock::Real && next != NEVER;
            if again || next != st.alarms[c] {
                self.backend.set_alarm(clock, next)?;
                st.alarms[c] = next;
            }
        }
        Ok(())
    }

    /// Nested: whoever watches the pollable fd sleeps from here on, so wakes must ring; and news that found no room
    /// must show.
    fn stay_truthful(&self, st: &mut State) -> Result<()> {
        let poll = &st.reg.poll;
        let leftover = !poll.is_empty() || poll.has(In::Relook) || !st.always.is_empty() || !self.posts.is_empty();
        if !self.sleep.prepare() || leftover {
            self.backend.wake()?;
        }
        Ok(())
    }

    pub fn pollable_fd(&self) -> Result<i32> {
        let mut st = self.lock(); // so that `bell_before_fork` holds it off
        let fd = self.backend.pollable_fd()?;
        if !st.nested {
            st.nested = true;
            if let Err(e) = self.set_alarms(&mut st).and_then(|()| self.stay_truthful(&mut st)) {
                st.nested = false;
                return Err(e);
            }
        }
        Ok(fd)
    }

    /// A kernel object without the ghosts; everything else is put into the new one.
    fn rebuild(&self, st: &mut State, env: Env, out: &mut Out) {
        st.ghost_events = 0;
        if self.backend.rebuild().is_err() {
            return; // the old one still works; as many more events of ghosts will ask again
        }
        st.ghosts = 0;
        st.counters.rebuilds += 1;
        self.put_in_kernel(st, env, out);
    }

    /// The kernel object is new: it learns what is armed. What was silent stays absent until it is armed again.
    pub fn put_in_kernel(&self, st: &mut State, env: Env, out: &mut Out) {
        let mut at = 0;
        while let Some(index) = st.reg.fds.next(at) {
            at = index + 1;
            let fd = &mut st.reg.fds.at_mut(index).value;
            if std::mem::take(&mut fd.kernel) == Kernel::Absent {
                continue;
            }
            let number = fd.fd;
            if fd.is(crate::registry::EXCLUSIVE) {
                fd.kernel = Kernel::Edge;
                let (interest, cookie) = (fd.interest, st.reg.fd_handle(index).0);
                let _ = self.backend.add(number, interest, backend::Trigger::Edge, true, cookie);
            } else if out.batch.is_full() {
                st.later(number, false);
            } else {
                let head = env.fds.head(number);
                st.sync_kernel_or_tell(env, head, true, out);
            }
        }
    }

    // ---- driving by the caller

    pub fn poll(&self, all: &Shared, out: &mut [MaybeUninit<bell_event>], timeout: i64) -> Result<i32> {
        if all.threaded {
            return Err(Error::BUSY);
        }
        let until = match timeout {
            0 | NEVER => timeout,
            t => backend::now(Clock::Monotonic)?.saturating_add(t).min(NEVER - 1),
        };
        let mut sink = Sink::for_poll(out);
        let mut st = self.lock();
        let mut driver = loop {
            if st.closing {
                return Err(Error::CLOSED);
            }
            if let Some(driver) = st.driver.take() {
                break driver;
            }
            if st.role != Role::Waiter {
                return Err(Error::BUSY);
            }
            if until == 0 {
                // The waiter goes on driving; what it has collected for us is here.
                let mut batch = Batch::default();
                st = self.relook(all, st, &mut batch);
                st.fill(&mut sink);
                st.reap(self.env(&all.fds), &mut Out { batch: &mut batch, sink: None, from: None });
                self.finish(all, st, &mut batch);
                self.backend.settle(true);
                return Ok(sink.n as i32);
            }
            st.poll_wanted += 1;
            st.inside += 1;
            let woken = self.wake(false);
            if woken.is_ok() {
                st = self.wait_rare(st);
            }
            st.poll_wanted -= 1;
            st.inside -= 1;
            woken?;
        };
        st.role = Role::Poll;
        st.inside += 1;
        drop(self.relook(all, st, &mut driver.batch));
        let result = self.turns(all, &mut driver, &mut sink, until);
        let mut st = self.lock();
        st.driver = Some(driver);
        st.inside -= 1;
        let closing = st.closing;
        self.hand_over(st);
        match result {
            _ if sink.n > 0 => Ok(sink.n as i32),
            _ if closing => Err(Error::CLOSED),
            r => r.map(|()| 0),
        }
    }

    fn turns(&self, all: &Shared, driver: &mut Driver, sink: &mut Sink, until: i64) -> Result<()> {
        loop {
            let until = if sink.n > 0 { 0 } else { until };
            let turned = self.turn(all, driver, Some(sink), until)?;
            if turned.delivered || turned.user_wake || until == 0 || sink.n > 0 {
                return Ok(());
            }
            let st = self.lock();
            // News without room for any: sleeping beside it would be wrong, and trying again a busy loop.
            if st.closing || sink.is_full() && !st.reg.poll.is_empty() {
                return Ok(());
            }
            drop(st);
            if until != NEVER && backend::now(Clock::Monotonic)? >= until {
                return Ok(());
            }
        }
    }

    /// Another look at the LEVEL registrations that the last `poll` has told of.
    fn relook<'a>(&'a self, all: &Shared, mut st: Guard<'a>, batch: &mut Batch) -> Guard<'a> {
        while let Some(handle) = st.reg.poll.take(In::Relook) {
            st.relook(self.env(&all.fds), handle, false, &mut Out { batch: &mut *batch, sink: None, from: None });
            if batch.is_full() {
                st = self.flush(all, st, batch);
            }
        }
        st
    }

    // ---- driving by a library thread

    pub fn run(&self, all: &Shared) {
        let mut st = self.lock();
        let Some(mut driver) = st.driver.take() else { return };
        st.role = Role::Thread;
        let mut closing = st.closing;
        drop(st);
        let mut pause_ns = FIRST_PAUSE_NS;
        let _home = Home::of(&self.backend);
        while !closing && all.is_sound() {
            let turned = self.turn(all, &mut driver, None, NEVER);
            closing = turned.map_or_else(|_| self.lock().closing, |t| t.closing);
            match turned {
                Ok(_) => pause_ns = FIRST_PAUSE_NS,
                Err(_) if closing => {}
                Err(Error::INTR) => {}
                // The system is short of something, and there is nobody to tell: later.
                Err(e) if e.is_shortage() => {
                    self.pause(pause_ns);
                    pause_ns = (2 * pause_ns).min(LONGEST_PAUSE_NS);
                    closing = self.lock().closing;
                }
                // The kernel object is gone (somebody closed our fd): nothing can be delivered any more.
                Err(_) => {
                    all.poison();
                    break;
                }
            }
        }
        self.lock().driver = Some(driver);
    }

    fn pause(&self, ns: i64) {
        let st = self.lock();
        let Ok(now) = backend::now(Clock::Monotonic) else { return };
        if st.closing {
            return;
        }
        if let Some(expected) = slot::prepare(&self.rare) {
            drop(st);
            self.rare.sleep(expected, now.saturating_add(ns).min(NEVER - 1));
        }
    }

    // ---- driving by who waits

    /// Waits until `look` finds news, or the deadline. It is asked under the lock. `sink`: of who waits for a queue,
    /// for which news may also come from other shards while the waiter drives this one.
    fn wait<'a, R>(
        &'a self,
        all: &Shared,
        mut st: Guard<'a>,
        word: &Word,
        mut sink: Option<&mut Sink>,
        deadline: i64,
        look: &mut Look<R>,
    ) -> Result<R> {
        let queue = sink.as_ref().and_then(|s| s.queue);
        let lead = |on| queue.is_some_and(|q| q.set_led(on));
        st.inside += 1;
        st.counters.waiters += 1;
        let result = loop {
            if let Some(found) = look(&mut st, sink.as_deref_mut()) {
                break found;
            }
            if st.closing {
                break Err(Error::CLOSED);
            }
            if !all.is_sound() {
                break Err(Error::POISONED);
            }
            if deadline != NEVER {
                match backend::now(Clock::Monotonic) {
                    Ok(now) if now < deadline => {}
                    Ok(_) => break Err(Error::TIMEDOUT),
                    Err(e) => break Err(e),
                }
            }
            let interrupted;
            if !all.threaded && st.driver.is_some() && st.poll_wanted == 0 {
                if lead(true) {
                    lead(false);
                    continue;
                }
                let Some(mut driver) = st.driver.take() else { continue };
                st.role = Role::Waiter;
                drop(st);
                let turned = self.turn(all, &mut driver, sink.as_deref_mut(), deadline);
                st = self.lock();
                st.driver = Some(driver);
                lead(false);
                if st.poll_wanted > 0 {
                    self.notify_rare();
                }
                interrupted = turned.err();
            } else {
                (st, interrupted) = match self.follow(st, word, sink.as_deref_mut(), deadline) {
                    Ok((st, woken)) => (st, (woken == Woken::Interrupted).then_some(Error::INTR)),
                    Err((st, e)) => (st, Some(e)),
                };
            }
            if let Some(e) = interrupted {
                // News that came together with the signal is not lost.
                break look(&mut st, sink.as_deref_mut()).unwrap_or(Err(if st.closing { Error::CLOSED } else { e }));
            }
        };
        st.counters.waiters -= 1;
        st.inside -= 1;
        if st.nested && st.driver.is_some() {
            // That the pollable fd cannot be rung is told by bell_wake.
            let _ = self.stay_truthful(&mut st);
        }
        self.hand_over(st);
        result
    }

    /// Sleeps on the word while somebody else drives. For a queue it is the waiter's own, else that of a slot.
    #[allow(clippy::type_complexity)]
    fn follow<'a>(
        &'a self,
        mut st: Guard<'a>,
        word: &Word,
        sink: Option<&mut Sink>,
        deadline: i64,
    ) -> std::result::Result<(Guard<'a>, Woken), (Guard<'a>, Error)> {
        let Some(expected) = slot::prepare(word) else { return Ok((st, Woken::Look)) };
        let place = match st.followers.join(word) {
            Ok(place) => place,
            Err(e) => return Err((st, e)),
        };
        if let Some(Sink { queue: Some(queue), came, .. }) = sink {
            match queue.join(word) {
                Ok(Some(place)) => *came = Came::FromSleep(place),
                refused => {
                    st.followers.leave(place);
                    return match refused {
                        Err(e) => Err((st, e)),
                        Ok(_) => Ok((st, Woken::Look)),
                    };
                }
            }
        }
        drop(st);
        let woken = word.sleep(expected, deadline);
        let mut st = self.lock();
        st.followers.leave(place);
        Ok((st, woken))
    }

    /// Nobody drives: the next follower shall.
    fn hand_over(&self, mut st: Guard<'_>) {
        let mut nudged: Option<WakeAddress> = None;
        if st.driver.is_some() && st.poll_wanted == 0 {
            if let Some(word) = st.followers.pop() {
                st.counters.handovers += 1;
                nudged = slot::nudge(word).then(|| word.wake_address());
            }
        } else if st.poll_wanted > 0 && st.driver.is_some() {
            self.notify_rare();
        }
        drop(st);
        if let Some(at) = nudged {
            sync::wake(at);
        }
    }

    pub fn slot_wait(
        &self,
        all: &Shared,
        handle: Handle,
        direction: Direction,
        deadline: i64,
        level_check: bool,
    ) -> Result<i32> {
        let mut st = self.lock();
        let word = st.reg.slot(handle)?.word(direction);
        let fd = st.reg.fds.find(handle).filter(|_| level_check && handle.is(Kind::Fd));
        if let Some(fd) = fd.map(|i| st.reg.fds.at(i).value.fd) {
            // Under the lock: without it the word may have another owner by now.
            let taken = slot::consume(word);
            drop(st);
            let interest = match direction {
                Direction::Read => Interest::READ | Interest::RDHUP,
                Direction::Write => Interest::WRITE,
            };
            let ready = taken | self.backend.look(fd, interest)? & interest.wants();
            if !ready.is_empty() {
                return Ok(ready.0 as i32);
            }
            st = self.lock();
        }
        self.wait(all, st, word, None, deadline, &mut |st, _| match look_at_slot(st, handle, word) {
            Ok(ready) if ready.is_empty() => None,
            Ok(ready) => Some(Ok(ready.0 as i32)),
            Err(Error::STALE | Error::INVAL) => Some(Err(Error::CANCELLED)),
            Err(e) => Some(Err(e)),
        })
    }

    pub fn slot_consume(&self, handle: Handle, direction: Direction) -> Result<i32> {
        let mut st = self.lock();
        let word = st.reg.slot(handle)?.word(direction);
        look_at_slot(&mut st, handle, word).map(|ready| ready.0 as i32)
    }

    pub fn queue_wait(
        &self,
        all: &Shared,
        queue: &Counted<Queue>,
        came: Came,
        out: &mut [MaybeUninit<bell_event>],
        deadline: i64,
    ) -> Result<usize> {
        let mut sink = Sink::for_queue(out, queue, came);
        let word = OwnWord::new();
        let result = self.wait(all, self.lock(), &word, Some(&mut sink), deadline, &mut |_, sink| match sink? {
            // The turn has brought them here.
            Sink { n, .. } if *n > 0 => Some(Ok(*n)),
            Sink { out, came, next, .. } => match queue.drain(out, std::mem::take(came)) {
                Ok((0, _)) => None,
                Ok((n, sleeper)) => {
                    *next = sleeper;
                    Some(Ok(n))
                }
                Err(Error::STALE) => Some(Err(Error::CANCELLED)),
                Err(e) => Some(Err(e)),
            },
        });
        self.call(sink.next);
        result
    }

    /// Of a queue whose home this is.
    pub fn call(&self, next: Next) {
        match next {
            Next::Nobody => {}
            Next::Sleeper(at) => sync::wake(at),
            // If it cannot be woken, that is told of by bell_wake.
            Next::Leader => _ = self.wake(false),
        }
    }

    // ---- waiting for others

    /// The lock, with no delivery under way: for `bell_before_fork`.
    pub fn lock_idle(&self) -> Guard<'_> {
        loop {
            let st = self.lock();
            if st.deliveries.is_idle() {
                return st;
            }
            drop(st);
            self.sync();
        }
    }

    /// Returns when no delivery is under way that had begun before.
    pub fn sync(&self) {
        let mut st = self.lock();
        let Some(ticket) = st.deliveries.ticket() else { return };
        st.inside += 1;
        while !st.deliveries.is_over(ticket) {
            st = self.wait_rare(st);
        }
        st.inside -= 1;
    }

    /// Everybody who is inside shall leave.
    pub fn close(&self, mut st: Guard<'_>) {
        st.closing = true;
        while let Some(word) = st.followers.pop() {
            if slot::nudge(word) {
                sync::wake(word.wake_address());
            }
        }
        drop(st);
        let _ = self.wake(false);
        // Also if that was elided: the wake under way that it relied on may fail.
        self.backend.end_wait();
        self.notify_rare();
    }

    /// Poisoned: whoever sleeps shall find out. The thread that met the bug has let go of its locks by unwinding.
    pub fn alarm_all(&self) {
        let mut st = self.lock();
        while let Some(word) = st.followers.pop() {
            if slot::nudge(word) {
                sync::wake(word.wake_address());
            }
        }
        drop(st);
        let _ = self.wake(true);
        self.notify_rare();
    }

    /// In a forked child: the threads that were inside do not exist here.
    pub fn start_over(&mut self, max_events: usize) -> Result<()> {
        // Before the new backend's fds may take the numbers of fds that were closed behind our back.
        let st = self.state.get_mut();
        let mut at = 0;
        while let Some(index) = st.reg.fds.next(at) {
            at = index + 1;
            let fd = &mut st.reg.fds.at_mut(index).value;
            // SAFETY: a number.
            if fd.kernel != Kernel::Absent && unsafe { libc::fcntl(fd.fd, libc::F_GETFD) } < 0 {
                fd.kernel = Kernel::Absent;
                st.tell_end_later(index);
            }
        }
        let backend = Backend::of_choice(self.backend.is_io_uring())?;
        let driver = Driver::new(max_events)?;
        self.backend = backend; // closes the inherited fds; EPOLL_CTL_DEL would edit the parent's set (F6)
        self.sleep = SleepState::new();
        self.rare = Word::new(0);
        self.posts.start_over();
        let st = self.state.get_mut();
        st.driver = Some(driver);
        st.followers = Followers::new();
        st.deliveries = Default::default();
        st.counters.waiters = 0;
        st.sleep_until = AWAKE;
        st.alarms = [NEVER; 3];
        st.nested = false;
        st.rouse = false;
        st.user_woken = false;
        (st.inside, st.poll_wanted) = (0, 0);
        (st.ghosts, st.ghost_events) = (0, 0);
        Ok(())
    }

    /// Forked with an unknown state: a new one to put in its place.
    pub fn new_state(&mut self, max_events: usize) -> Result<State> {
        State::instead_of(self.state.get_mut(), max_events)
    }

    /// The old is leaked, because it may be torn.
    pub fn replace_state(&mut self, state: State) {
        std::mem::forget(std::mem::replace(&mut self.state, Mutex::new(state)));
        self.posts.forget();
    }

    pub fn after_fork_alarms(&self) -> Result<()> {
        self.set_alarms(&mut self.lock())
    }

    /// After `close`, when everybody has left.
    pub fn reopen(&self) {
        self.lock().closing = false;
    }
}

/// A library thread and its backend, until the thread ends, by a panic perhaps.
struct Home<'a>(&'a Backend);

impl<'a> Home<'a> {
    fn of(backend: &'a Backend) -> Home<'a> {
        backend.move_in();
        Home(backend)
    }
}

impl Drop for Home<'_> {
    fn drop(&mut self) {
        self.0.move_out();
    }
}

/// Takes news from a word. An fd that the kernel cannot poll is always news, if it is edge-triggered: no event will
/// come again.
fn look_at_slot(st: &mut State, handle: Handle, word: &Word) -> Result<Ready> {
    let slot = st.reg.slot(handle)?;
    if !std::ptr::eq(&slot.rd, word) && !std::ptr::eq(&slot.wr, word) {
        return Err(Error::STALE); // it has another slot now, and the word another owner
    }
    let ready = slot::consume(word);
    if ready.is_empty() && handle.is(Kind::Fd) {
        if let Some(index) = st.reg.fds.find(handle) {
            let fd = &st.reg.fds.at(index).value;
            if fd.is(ALWAYS) && fd.is(ARMED) && !fd.is(CLOSED) && fd.mode == Mode::Edge {
                return Ok(Ready(fd.interest.0 as u32) & (Ready::READ | Ready::WRITE));
            }
        }
    }
    Ok(ready)
}
