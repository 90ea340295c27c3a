//! The shared side: what any thread may ask of a manager. Chooses the shard, takes its lock, says what is to be done, and
//! delivers what that caused after the lock is released.
use crate::backend::{self, Backend, Trigger};
use crate::error::{Error, Result};
use crate::event::{Clock, Direction, Handle, Interest, Kind, Mode, NEVER, Ready};
use crate::fd_table::{Acquired, FdTable, Owner};
use crate::ffi::abi::{BELL_CANCELLED, BELL_FIRED, BELL_SHARD_ANY, BELL_SHARD_CURRENT_CPU, bell_counters, bell_event};
use crate::fork::Mark;
use crate::registry::*;
use crate::shard::{Guard, Shard, Shared};
use crate::state::{Env, Out, State, zero_counters};
use crate::sync::{self, Mutex, MutexGuard};
use crate::target::mvar::GhcOps;
use crate::target::queue::{Inner, Queue};
use crate::target::ready_list::In;
use crate::target::slot::Slot;
use crate::target::{Batch, Notification, Spec, Target};
use crate::timers::UNARMED;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread::JoinHandle;

#[derive(Default)]
pub struct Config {
    pub shards: u32,
    pub threads: u32,
    pub max_events: u32,
    pub slack_ns: i64,
    pub ghc: Option<GhcOps>,
}

pub struct FdSpec {
    pub fd: i32,
    pub interest: Interest,
    pub mode: Mode,
    pub always_ready: bool,
    pub exclusive: bool,
    pub auto_release: bool,
    pub shard: u32,
    pub user_data: u64,
    pub deadline_ns: i64,
    pub target: Spec,
}

pub struct TimeoutSpec {
    pub clock: Clock,
    pub auto_release: bool,
    pub shard: u32,
    pub deadline_ns: i64,
    pub period_ns: i64,
    pub slack_ns: i64,
    pub user_data: u64,
    pub target: Spec,
}

pub struct Manager {
    all: Shared,
    queues: Mutex<Slab<Option<Arc<Queue>>>>,
    /// The next shard for `BELL_SHARD_ANY`.
    next: AtomicUsize,
    threads: Mutex<Vec<JoinHandle<()>>>,
    frozen: Mutex<Option<Frozen>>,
    max_events: usize,
    slack: i64,
}

/// All locks, held from `bell_before_fork` on. Dropped by the thread that took them (`bell_after_fork_*` say so).
struct Frozen {
    _shards: Vec<MutexGuard<'static, State>>,
    _inners: Vec<MutexGuard<'static, Inner>>,
    _queues: MutexGuard<'static, Slab<Option<Arc<Queue>>>>,
}
// SAFETY: the guards are dropped on the thread that took them, or in a child of it: the caller's contract.
unsafe impl Send for Frozen {}

const MAX_SHARDS: u32 = 254;
const MAX_EVENTS: u32 = 65536;

impl Manager {
    pub fn new(config: Config) -> Result<Box<Manager>> {
        let Config { shards, threads, max_events, slack_ns, ghc } = config;
        if threads > 0 && shards > 0 && shards != threads {
            return Err(Error::INVAL);
        }
        let count = shards.max(threads).max(1);
        if count > MAX_SHARDS || max_events > MAX_EVENTS || slack_ns < 0 {
            return Err(Error::INVAL);
        }
        let max_events = if max_events == 0 { 1024 } else { max_events as usize };
        let shards = (0..count as usize)
            .map(|i| Shard::new(i, slack_ns, max_events))
            .collect::<Result<Vec<_>>>()?;
        let m = Box::new(Manager {
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
            slack: slack_ns,
        });
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

    // ---- threads

    fn start_threads(&self) -> Result<()> {
        // SAFETY: the manager is boxed, and `stop_threads` joins the threads before it is freed.
        let m: &'static Manager = unsafe { &*std::ptr::from_ref(self) };
        let mut threads = self.threads.lock();
        threads.try_reserve(self.all.shards.len()).map_err(|_| Error::NOMEM)?;
        for shard in &m.all.shards {
            let run = move || {
                own_thread();
                shard.run(&m.all);
                if let Some(done) = m.all.ghc.and_then(|g| g.thread_done) {
                    // SAFETY: the entry point that the creator gave, valid until bell_destroy returns.
                    unsafe { done() };
                }
            };
            let guarded = move || {
                if std::panic::catch_unwind(run).is_err() {
                    m.poison();
                }
            };
            let started = without_signals(|| {
                std::thread::Builder::new().name(format!("bell/{}", shard.index)).stack_size(128 << 10).spawn(guarded)
            });
            threads.push(started.map_err(|e| Error::from_io(&e))?);
        }
        Ok(())
    }

    fn stop_threads(&self) {
        for shard in &self.all.shards {
            shard.close(shard.lock());
        }
        let threads = std::mem::take(&mut *self.threads.lock());
        for thread in threads {
            let _ = thread.join();
        }
    }

    // ---- the end

    /// Checks, and makes everybody leave. After an error nothing has changed.
    pub fn begin_destroy(&self, force: bool) -> Result<()> {
        if self.all.mark.check().is_err() {
            return Ok(()); // poisoned or forked: there is nobody to wait for
        }
        let shards: Vec<Guard> = self.all.shards.iter().map(Shard::lock).collect();
        if shards.iter().any(|st| st.closing) {
            return Err(Error::STALE);
        }
        let inside = shards.iter().map(|st| st.inside).sum::<u32>();
        if inside > 0 && !force {
            return Err(Error::BUSY);
        }
        for (shard, mut st) in self.all.shards.iter().zip(shards) {
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
            for index in st.reg.fds.indices().collect::<Vec<_>>() {
                let fd = &mut st.reg.fds.at_mut(index).value;
                let armed = fd.is(ARMED);
                let target = std::mem::take(&mut fd.target);
                st = self.tell_one(shard, st, target, armed, &mut batch);
            }
            for index in st.reg.timeouts.indices().collect::<Vec<_>>() {
                let timeout = &mut st.reg.timeouts.at_mut(index).value;
                let armed = timeout.pos != UNARMED;
                let target = std::mem::take(&mut timeout.target);
                st = self.tell_one(shard, st, target, armed, &mut batch);
            }
            for index in st.reg.users.indices().collect::<Vec<_>>() {
                let target = std::mem::take(&mut st.reg.users.at_mut(index).value.target);
                st = self.tell_one(shard, st, target, true, &mut batch);
            }
        }
        for queue in self.all_queues() {
            if let Ok((doorbell, _)) = queue.set_doorbell(Target::None) {
                let shard = &self.all.shards[queue.home];
                drop(self.tell_one(shard, shard.lock(), doorbell, true, &mut batch));
            }
        }
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

    // ---- fork

    pub fn before_fork(&self) -> Result<i32> {
        if self.frozen.lock().is_some() {
            return Err(Error::BUSY);
        }
        // SAFETY: the guards are dropped before the manager: `bell_before_fork` must be followed by its other half.
        let m: &'static Manager = unsafe { &*std::ptr::from_ref(self) };
        let shards: Vec<_> = m.all.shards.iter().map(Shard::lock_idle).collect();
        let queues = m.queues.lock();
        let inners = queues
            .indices()
            .filter_map(|i| queues.at(i).value.as_ref())
            // SAFETY: as above; a queue in the table cannot go while the table is locked.
            .map(|q| unsafe { &*Arc::as_ptr(q) }.freeze())
            .collect();
        *self.frozen.lock() = Some(Frozen { _shards: shards, _inners: inners, _queues: queues });
        Ok(0)
    }

    pub fn after_fork_parent(&self) -> Result<i32> {
        self.frozen.lock().take().map(|_| 0).ok_or(Error::INVAL)
    }

    /// In the child, which has one thread: nobody else is here.
    pub fn after_fork_child(&mut self, reset: bool) -> Result<i32> {
        if !self.all.mark.is_forked() {
            return Err(Error::INVAL);
        }
        drop(self.frozen.get_mut().take());
        let torn = self.all.shards.iter().any(|s| s.try_lock().is_none_or(|st| !st.deliveries.is_idle()))
            || match self.queues.try_lock() {
                Some(queues) => {
                    queues.indices().any(|i| queues.at(i).value.as_ref().is_some_and(|q| q.is_torn()))
                }
                None => true,
            };
        if torn && !reset {
            return Err(Error::BUSY);
        }
        self.close_queue_fds();
        if reset {
            let states = (0..self.all.shards.len())
                .map(|i| State::new(i as u8, self.slack, self.max_events))
                .collect::<Result<Vec<_>>>()?;
            for (shard, state) in self.all.shards.iter_mut().zip(states) {
                shard.replace_state(state);
                shard.posts.forget();
            }
            // Leaked, as the states: a thread of the parent may have been in the middle of them.
            std::mem::forget(std::mem::replace(&mut self.queues, Mutex::new(Slab::new())));
            std::mem::forget(std::mem::replace(&mut self.all.fds, FdTable::new()));
        }
        for shard in &mut self.all.shards {
            shard.start_over(self.max_events)?;
        }
        std::mem::forget(std::mem::replace(&mut self.threads, Mutex::new(Vec::new())));
        self.all.mark.adopt();
        let mut batch = Batch::default();
        for shard in &self.all.shards {
            let mut st = shard.lock();
            let env = shard.env(&self.all.fds);
            shard.put_in_kernel(&mut st, env, &mut Out { batch: &mut batch, sink: None, from: None });
            shard.finish(&self.all, st, &mut batch);
            shard.after_fork_alarms()?;
        }
        if self.all.threaded {
            self.start_threads()?;
        }
        Ok(0)
    }

    // ---- where

    fn shard(&self, handle: Handle) -> Result<&Shard> {
        match handle.kind() {
            Some(Kind::Queue) => Err(self.queue(handle).err().unwrap_or(Error::INVAL)),
            None => Err(Error::STALE),
            Some(_) => self.all.shards.get(handle.shard()).ok_or(Error::STALE),
        }
    }
    fn numbered(&self, shard: u32) -> Result<&Shard> {
        self.all.shards.get(shard as usize).ok_or(Error::INVAL)
    }

    fn place(&self, shard: u32, target: &Spec) -> Result<usize> {
        let count = self.all.shards.len();
        match shard {
            // Where nobody drives but who waits for the queue, only its shard is driven.
            BELL_SHARD_ANY if !self.all.threaded && matches!(target, Spec::Queue(_)) => match target {
                Spec::Queue(queue) => Ok(queue.home),
                _ => Err(Error::INVAL),
            },
            BELL_SHARD_ANY => Ok(self.next.fetch_add(1, Relaxed) % count),
            BELL_SHARD_CURRENT_CPU => Ok(current_cpu() % count),
            n if (n as usize) < count => Ok(n as usize),
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

    // ---- fds

    pub fn register_fd(&self, spec: FdSpec) -> Result<u64> {
        self.check_target(&spec.target)?;
        check_spec(&spec.target, spec.mode)?;
        if spec.auto_release && spec.mode != Mode::Oneshot {
            return Err(Error::INVAL);
        }
        if spec.exclusive && (spec.mode != Mode::Edge || spec.shard as usize >= self.all.shards.len()) {
            // Without edges the mode was refused above; EPOLLEXCLUSIVE cannot be one-shot.
            return Err(Error::INVAL);
        }
        if spec.exclusive && !Backend::EXCLUSIVE {
            return Err(Error::UNSUPPORTED);
        }
        let mut place = self.place(spec.shard, &spec.target)?;
        let mut batch = Batch::default();
        loop {
            let shard = &self.all.shards[place];
            let mut st = shard.lock();
            if spec.exclusive {
                let made = register_exclusive(&mut st, shard.env(&self.all.fds), spec);
                shard.finish(&self.all, st, &mut batch);
                return made;
            }
            let head = match self.all.fds.acquire(spec.fd, place)? {
                Acquired::Mine(head) => head,
                Acquired::Elsewhere(other) => {
                    place = other;
                    continue;
                }
            };
            let fd = spec.fd;
            let (st, made) = self.register_here(shard, st, head, spec, &mut batch);
            if made.is_err() && self.all.fds.head(fd) == NIL {
                self.all.fds.set_head(fd, place, NIL); // acquired above, and not used
            }
            shard.finish(&self.all, st, &mut batch);
            return made;
        }
    }

    fn register_here<'a>(
        &self,
        shard: &'a Shard,
        mut st: Guard<'a>,
        mut head: u32,
        spec: FdSpec,
        batch: &mut Batch,
    ) -> (Guard<'a>, Result<u64>) {
        let env = shard.env(&self.all.fds);
        let (fd, always_ready) = (spec.fd, spec.always_ready);
        let index = match make_entry(&mut st, env, spec) {
            Ok(index) => index,
            Err(e) => return (st, Err(e)),
        };
        loop {
            st.reg.attach(env.fds, index, head);
            let Err(e) = st.sync_kernel(env, if head == NIL { index } else { head }, true) else { break };
            if e == Error::PERM && always_ready {
                st.reg.fds.at_mut(index).value.set(ALWAYS, true);
                st.tell_always(index);
                break;
            }
            st.reg.detach(env.fds, index);
            if e != Error::NOENT || head == NIL {
                drop_entry(&mut st, index);
                return (st, Err(e));
            }
            // The number means another file than the one that the list was made for: those registrations are ghosts.
            let kernel = std::mem::take(&mut st.reg.fds.at_mut(head).value.kernel);
            st.forget_kernel(env, fd, kernel);
            while !st.close_list(env, fd, Error::BADF.code(), &mut Out { batch, sink: None, from: None }) {
                st = shard.flush(&self.all, st, batch);
            }
            // Their end has given the number back; a close may have come in between.
            head = match env.fds.acquire(fd, shard.index) {
                Ok(Acquired::Mine(head)) => head,
                Ok(Acquired::Elsewhere(_)) | Err(_) => {
                    drop_entry(&mut st, index);
                    return (st, Err(Error::CLOSED));
                }
            };
        }
        let handle = st.reg.fd_handle(index).0;
        (st, Ok(handle))
    }

    /// Runs `f` on the shard of a handle, under its lock, and delivers what it caused.
    fn on<R>(&self, handle: Handle, f: impl FnOnce(&mut State, Env, &mut Out) -> Result<R>) -> Result<R> {
        let shard = self.shard(handle)?;
        let mut batch = Batch::default();
        let mut st = shard.lock();
        let result = f(&mut st, shard.env(&self.all.fds), &mut Out { batch: &mut batch, sink: None, from: None });
        shard.finish(&self.all, st, &mut batch);
        result
    }

    pub fn modify(&self, handle: u64, interest: Interest, mode: Mode) -> Result<i32> {
        let handle = Handle(handle);
        self.on(handle, |st, env, _| {
            let index = find_fd(st, handle)?;
            let fd = &st.reg.fds.at(index).value;
            if fd.is(EXCLUSIVE) {
                return Err(Error::BUSY);
            }
            check_held(&fd.target, mode)?;
            if fd.is(RELEASE) && mode != Mode::Oneshot {
                return Err(Error::INVAL);
            }
            let before = (fd.interest, fd.mode, fd.flags);
            let fd = &mut st.reg.fds.at_mut(index).value;
            (fd.interest, fd.mode) = (interest, mode);
            fd.set(ARMED, true);
            if let Err(e) = look_again(st, env, index) {
                let fd = &mut st.reg.fds.at_mut(index).value;
                (fd.interest, fd.mode, fd.flags) = before;
                return Err(e);
            }
            let after = st.reg.fds.at(index).value.after();
            set_after(st, index, after);
            Ok(0)
        })
    }

    pub fn rearm(&self, handle: u64, target: Option<Spec>, deadline: i64) -> Result<i32> {
        let handle = Handle(handle);
        if let Some(spec) = &target {
            self.check_target(spec)?;
        }
        self.on(handle, |st, env, _| match handle.kind() {
            Some(Kind::Fd) => rearm_fd(st, env, handle, target, deadline),
            Some(Kind::Timeout) => {
                let index = st.reg.timeouts.find(handle).ok_or(Error::STALE)?;
                let timeout = &st.reg.timeouts.at(index).value;
                if target.is_none() && matches!(timeout.target, Target::None)
                    || matches!(target, Some(Spec::Mvar(_))) && st.reg.extra(index).period > 0
                {
                    return Err(Error::INVAL);
                }
                let (user_data, after) = (timeout.user_data, timeout.after());
                let bound = bind_new(st, target, handle, user_data, after)?;
                if let Err(e) = st.set_timeout(env, index, deadline) {
                    undo_bind(st, bound);
                    return Err(e);
                }
                if let Some(new) = bound {
                    let old = std::mem::replace(&mut st.reg.timeouts.at_mut(index).value.target, new);
                    st.reg.unbind(old);
                }
                Ok(0)
            }
            _ => {
                let index = st.reg.users.find(handle).ok_or(Error::STALE)?;
                let user = &st.reg.users.at(index).value;
                if deadline != NEVER || target.is_none() && matches!(user.target, Target::None) {
                    return Err(Error::INVAL);
                }
                let user_data = user.user_data;
                if let Some(new) = bind_new(st, target, handle, user_data, Default::default())? {
                    let old = std::mem::replace(&mut st.reg.users.at_mut(index).value.target, new);
                    st.reg.unbind(old);
                }
                self.repost(st, handle, index);
                Ok(0)
            }
        })
    }

    /// Posts that came while there was no target are delivered now.
    fn repost(&self, st: &mut State, handle: Handle, index: u32) {
        if st.reg.users.at(index).value.kept.is_some() {
            let _ = self.all.shards[handle.shard()].posts.post(index, handle.generation(), 0);
            st.rouse = true;
        }
    }

    pub fn retarget(&self, handle: u64, target: Spec) -> Result<i32> {
        let handle = Handle(handle);
        if handle.is(Kind::Queue) {
            let queue = self.queue(handle)?;
            let (old, ring) = queue.set_doorbell(self.doorbell(Some(target))?)?;
            if let Some(ring) = ring {
                let mut batch = Batch::default();
                batch.push(ring);
                let shard = &self.all.shards[queue.home];
                shard.finish(&self.all, shard.lock(), &mut batch);
            }
            return Ok(if matches!(old, Target::None) { BELL_FIRED } else { BELL_CANCELLED as i32 });
        }
        self.check_target(&target)?;
        self.on(handle, |st, env, out| match handle.kind() {
            Some(Kind::Fd) => {
                let index = find_fd(st, handle)?;
                let fd = &st.reg.fds.at(index).value;
                check_spec(&target, fd.mode)?;
                let (user_data, after) = (fd.user_data, fd.after());
                let live = fd.is(ARMED) && !matches!(fd.target, Target::None);
                let new = st.reg.bind(target, handle, user_data, after)?;
                let old = std::mem::replace(&mut st.reg.fds.at_mut(index).value.target, new);
                st.end_slot(&old, out);
                let unseen = st.reg.unbind(old);
                if unseen {
                    // News that nobody has seen: the fd is looked at again, for the new target.
                    st.reg.fds.at_mut(index).value.set(ARMED, true);
                    if let Err(e) = look_again(st, env, index) {
                        st.fire_fd(env, index, Ready::ERR, e.code(), out);
                    }
                }
                Ok(if live || unseen { BELL_CANCELLED as i32 } else { BELL_FIRED })
            }
            Some(Kind::Timeout) => {
                let index = st.reg.timeouts.find(handle).ok_or(Error::STALE)?;
                if matches!(target, Spec::Mvar(_)) && st.reg.extra(index).period > 0 {
                    return Err(Error::INVAL);
                }
                let timeout = &st.reg.timeouts.at(index).value;
                let (user_data, after, deadline) = (timeout.user_data, timeout.after(), timeout.deadline);
                let armed = timeout.pos != UNARMED;
                let new = st.reg.bind(target, handle, user_data, after)?;
                let old = std::mem::replace(&mut st.reg.timeouts.at_mut(index).value.target, new);
                st.end_slot(&old, out);
                let unseen = st.reg.unbind(old);
                if unseen && !armed {
                    st.set_timeout(env, index, deadline)?;
                }
                Ok(if armed || unseen { BELL_CANCELLED as i32 } else { BELL_FIRED })
            }
            _ => {
                let index = st.reg.users.find(handle).ok_or(Error::STALE)?;
                let user_data = st.reg.users.at(index).value.user_data;
                let new = st.reg.bind(target, handle, user_data, Default::default())?;
                let old = std::mem::replace(&mut st.reg.users.at_mut(index).value.target, new);
                let live = !matches!(old, Target::None);
                st.end_slot(&old, out);
                if st.reg.unbind(old) {
                    st.reg.users.at_mut(index).value.kept.get_or_insert(0);
                }
                self.repost(st, handle, index);
                Ok(if live { BELL_CANCELLED as i32 } else { BELL_FIRED })
            }
        })
    }

    pub fn unregister(&self, handle: u64, sync: bool) -> Result<i32> {
        let handle = Handle(handle);
        let result = self.on(handle, |st, env, out| {
            let result = st.unregister(env, handle, out)?;
            if handle.is(Kind::User) {
                self.all.shards[handle.shard()].posts.close(handle.index());
            }
            Ok(result)
        })?;
        if sync {
            self.all.shards[handle.shard()].sync();
        }
        Ok(result)
    }

    pub fn sync_all(&self) {
        self.all.shards.iter().for_each(Shard::sync);
    }

    // ---- close

    pub fn close_begin(&self, fd: i32) -> Result<u64> {
        let (ticket, owner) = self.all.fds.close_begin(fd)?;
        match owner {
            Owner::Nobody => {}
            Owner::Shard(i) => self.close_on(&self.all.shards[i], fd),
            Owner::Exclusive => self.all.shards.iter().for_each(|s| self.close_exclusive(s, fd)),
        }
        Ok(ticket)
    }

    fn close_on(&self, shard: &Shard, fd: i32) {
        let env = shard.env(&self.all.fds);
        let mut batch = Batch::default();
        let mut st = shard.lock();
        let head = self.all.fds.head(fd);
        if head != NIL {
            let kernel = std::mem::take(&mut st.reg.fds.at_mut(head).value.kernel);
            st.forget_kernel(env, fd, kernel);
        }
        while !st.close_list(env, fd, 0, &mut Out { batch: &mut batch, sink: None, from: None }) {
            st = shard.flush(&self.all, st, &mut batch);
        }
        shard.finish(&self.all, st, &mut batch);
    }

    fn close_exclusive(&self, shard: &Shard, fd: i32) {
        let env = shard.env(&self.all.fds);
        let mut batch = Batch::default();
        let mut st = shard.lock();
        let found = st.reg.fds.indices().find(|i| {
            let entry = &st.reg.fds.at(*i).value;
            entry.fd == fd && entry.is(EXCLUSIVE) && !entry.is(CLOSED)
        });
        if let Some(index) = found {
            let kernel = std::mem::take(&mut st.reg.fds.at_mut(index).value.kernel);
            st.forget_kernel(env, fd, kernel);
            env.fds.release_exclusive(fd);
            st.close_one(env, index, 0, &mut Out { batch: &mut batch, sink: None, from: None });
        }
        shard.finish(&self.all, st, &mut batch);
    }

    pub fn close_end(&self, fd: i32, ticket: u64) -> Result<i32> {
        self.all.fds.close_end(fd, ticket).map(|()| 0)
    }

    pub fn close_fd(&self, fd: i32) -> Result<i32> {
        let ticket = self.close_begin(fd)?;
        // SAFETY: the caller asked for it.
        let closed = Error::check(unsafe { libc::close(fd) });
        self.all.fds.close_end(fd, ticket)?;
        match closed {
            Err(Error::INTR) => Ok(0), // Linux: the fd is gone
            r => r,
        }
    }

    // ---- driving

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

    // ---- slots

    pub fn slot_map(&self, handle: u64) -> Result<*const Slot> {
        let handle = Handle(handle);
        let slot = self.shard(handle)?.lock().reg.slot(handle)?;
        Ok(slot)
    }
    pub fn slot_consume(&self, handle: u64, direction: Direction) -> Result<i32> {
        let handle = Handle(handle);
        self.shard(handle)?.slot_consume(handle, direction)
    }
    pub fn slot_wait(&self, handle: u64, direction: Direction, deadline: i64, level_check: bool) -> Result<i32> {
        let handle = Handle(handle);
        self.shard(handle)?.slot_wait(&self.all, handle, direction, deadline, level_check)
    }

    // ---- queues

    pub fn queue(&self, handle: Handle) -> Result<Arc<Queue>> {
        match handle.kind() {
            Some(Kind::Queue) => {}
            Some(_) => return Err(Error::INVAL),
            None => return Err(Error::STALE),
        }
        let queues = self.queues.lock();
        let index = queues.find(handle).ok_or(Error::STALE)?;
        match &queues.at(index).value {
            Some(queue) if queue.handle == handle => Ok(queue.clone()),
            _ => Err(Error::STALE),
        }
    }

    fn all_queues(&self) -> Vec<Arc<Queue>> {
        let queues = self.queues.lock();
        queues.indices().filter_map(|i| queues.at(i).value.clone()).collect()
    }

    fn doorbell(&self, spec: Option<Spec>) -> Result<Target> {
        match spec {
            None | Some(Spec::None) => Ok(Target::None),
            Some(Spec::Futex(word)) => Ok(Target::Futex(word)),
            Some(Spec::WakeFd(fd)) => Ok(Target::WakeFd(fd)),
            Some(Spec::Mvar(_)) if self.all.ghc.is_none() => Err(Error::UNSUPPORTED),
            Some(Spec::Mvar(sp)) => Ok(Target::Mvar(sp)),
            Some(_) => Err(Error::INVAL),
        }
    }

    pub fn queue_create(&self, shard: u32, doorbell: Option<Spec>) -> Result<u64> {
        let home = self.place(shard, &Spec::Poll)?;
        let doorbell = self.doorbell(doorbell)?;
        let mut queues = self.queues.lock();
        let (index, generation) = queues.insert()?;
        let handle = Handle::new(Kind::Queue, home as u8, index, generation);
        queues.at_mut(index).value = Some(Arc::new(Queue::new(handle, home, doorbell)));
        Ok(handle.0)
    }

    pub fn queue_drain(&self, handle: u64, out: &mut [MaybeUninit<bell_event>]) -> Result<i32> {
        let queue = self.queue(Handle(handle))?;
        self.relook(&queue);
        let n = queue.drain(out)?;
        self.reap(&queue);
        Ok(n as i32)
    }

    pub fn queue_wait(&self, handle: u64, out: &mut [MaybeUninit<bell_event>], deadline: i64) -> Result<i32> {
        let queue = self.queue(Handle(handle))?;
        self.relook(&queue);
        let n = self.all.shards[queue.home].queue_wait(&self.all, &queue, out, deadline)?;
        self.reap(&queue);
        Ok(n as i32)
    }

    /// LEVEL registrations that an earlier drain has told: are their fds still ready?
    fn relook(&self, queue: &Queue) {
        while let Some(handle) = queue.take(In::Relook) {
            let _ = self.on(handle, |st, env, out| {
                st.relook(env, handle, true, out);
                Ok(())
            });
        }
    }

    /// Registrations that release themselves, and have been told.
    fn reap(&self, queue: &Queue) {
        while let Some(handle) = queue.take(In::Release) {
            let _ = self.on(handle, |st, env, out| {
                st.release(env, handle, out);
                Ok(())
            });
        }
    }

    pub fn queue_fd(&self, handle: u64) -> Result<i32> {
        self.queue(Handle(handle))?.fd()
    }

    pub fn queue_destroy(&self, handle: u64, sync: bool) -> Result<i32> {
        let handle = Handle(handle);
        let queue = self.queue(handle)?;
        let gone = queue.destroy()?;
        if gone.asleep {
            sync::wake(queue.word.wake_address());
        }
        if gone.led {
            let _ = self.all.shards[queue.home].wake(false);
        }
        self.queues.lock().remove(handle.index());
        if sync {
            self.sync_all();
        }
        Ok(if matches!(gone.doorbell, Target::None) { BELL_FIRED } else { BELL_CANCELLED as i32 })
    }

    // ---- timeouts

    pub fn register_timeout(&self, spec: TimeoutSpec) -> Result<u64> {
        self.check_target(&spec.target)?;
        if spec.period_ns > 0 && (spec.auto_release || matches!(spec.target, Spec::Mvar(_))) {
            return Err(Error::INVAL);
        }
        if spec.clock != Clock::Monotonic {
            backend::now(spec.clock)?; // not every system has it
        }
        let place = self.place(spec.shard, &spec.target)?;
        let shard = &self.all.shards[place];
        let mut st = shard.lock();
        let made = make_timeout(&mut st, shard.env(&self.all.fds), spec);
        shard.finish(&self.all, st, &mut Batch::default());
        made
    }

    pub fn update_timeout(&self, handle: u64, deadline: i64) -> Result<i32> {
        let handle = Handle(handle);
        self.on(handle, |st, env, _| match handle.kind() {
            Some(Kind::Fd) => {
                let index = find_fd(st, handle)?;
                let fd = &st.reg.fds.at(index).value;
                if fd.mode == Mode::Oneshot && !fd.is(ARMED) {
                    return Ok(BELL_FIRED);
                }
                st.set_deadline(env, index, deadline).map(|()| 0)
            }
            Some(Kind::Timeout) => {
                let index = st.reg.timeouts.find(handle).ok_or(Error::STALE)?;
                let timeout = &st.reg.timeouts.at(index).value;
                if timeout.pos == UNARMED && timeout.deadline != NEVER {
                    return Ok(BELL_FIRED);
                }
                st.set_timeout(env, index, deadline).map(|()| 0)
            }
            _ => Err(Error::INVAL),
        })
    }

    pub fn timeout_get(&self, handle: u64) -> Result<i64> {
        let handle = Handle(handle);
        self.on(handle, |st, _, _| match handle.kind() {
            Some(Kind::Fd) => {
                let index = st.reg.fds.find(handle).ok_or(Error::STALE)?;
                Ok(st.reg.fds.at(index).value.deadline)
            }
            Some(Kind::Timeout) => {
                let index = st.reg.timeouts.find(handle).ok_or(Error::STALE)?;
                let timeout = &st.reg.timeouts.at(index).value;
                Ok(if timeout.pos == UNARMED { NEVER } else { timeout.deadline })
            }
            _ => Err(Error::INVAL),
        })
    }

    // ---- user events

    pub fn register_user(&self, shard: u32, target: Spec, user_data: u64) -> Result<u64> {
        self.check_target(&target)?;
        let place = self.place(shard, &target)?;
        let shard = &self.all.shards[place];
        let mut st = shard.lock();
        let (index, generation) = st.reg.users.insert()?;
        let handle = Handle::new(Kind::User, place as u8, index, generation);
        let bound = shard
            .posts
            .open(index, generation)
            .and_then(|()| st.reg.bind(target, handle, user_data, Default::default()));
        match bound {
            Ok(target) => {
                st.reg.users.at_mut(index).value = User { user_data, target, kept: None };
                Ok(handle.0)
            }
            Err(e) => {
                shard.posts.close(index);
                st.reg.users.remove(index);
                Err(e)
            }
        }
    }

    /// Async-signal-safe: no lock.
    pub fn post(&self, handle: u64, bits: u32) -> Result<i32> {
        let handle = Handle(handle);
        match handle.kind() {
            Some(Kind::User) => {}
            Some(_) => return Err(Error::INVAL),
            None => return Err(Error::STALE),
        }
        let shard = self.all.shards.get(handle.shard()).ok_or(Error::STALE)?;
        shard.posts.post(handle.index(), handle.generation(), bits)?;
        shard.wake(false).map(|()| 0)
    }

    // ---- looking inside

    pub fn stats(&self, shard: u32) -> Result<bell_counters> {
        let shards = match shard {
            BELL_SHARD_ANY => &self.all.shards[..],
            n => std::slice::from_ref(self.numbered(n)?),
        };
        let mut sum = zero_counters();
        sum.size = size_of::<bell_counters>() as u32;
        sum.shards = shards.len() as u32;
        for shard in shards {
            let st = shard.lock();
            let c = &st.counters;
            let (sent, elided) = shard.wakes();
            sum.fds += st.reg.fds.live() as u64;
            sum.timeouts += st.reg.timeouts.live() as u64;
            sum.users += st.reg.users.live() as u64;
            sum.waiters += c.waiters;
            sum.kernel_waits += c.kernel_waits;
            sum.ctl_calls += c.ctl_calls;
            sum.ctl_errors += c.ctl_errors;
            sum.wakes_sent += c.wakes_sent + sent;
            sum.wakes_elided += c.wakes_elided + elided;
            sum.events += c.events;
            sum.coalesced += c.coalesced;
            sum.stale_dropped += c.stale_dropped;
            sum.spurious += c.spurious;
            sum.ghosts += c.ghosts;
            sum.rebuilds += c.rebuilds;
            sum.timers_armed += c.timers_armed;
            sum.timers_moved += c.timers_moved;
            sum.timers_fired += c.timers_fired;
            sum.timers_cancelled += c.timers_cancelled;
            sum.late_max_ns = sum.late_max_ns.max(c.late_max_ns);
            sum.late_sum_ns += c.late_sum_ns;
            sum.handovers += c.handovers;
            sum.heap_bytes += (st.reg.heap_bytes()
                + st.timers.iter().map(|t| t.heap_bytes()).sum::<usize>()
                + st.followers.heap_bytes()
                + shard.posts.heap_bytes()
                + shard.backend.heap_bytes()) as u64;
        }
        let queues = self.all_queues();
        let all = shards.len() == self.all.shards.len();
        let ours = queues.iter().filter(|q| all || shards.iter().any(|s| s.index == q.home));
        for queue in ours {
            sum.queues += 1;
            sum.heap_bytes += queue.heap_bytes() as u64;
        }
        if all {
            sum.heap_bytes += self.all.fds.heap_bytes() as u64;
        }
        Ok(sum)
    }

    /// What is wrong, a line each.
    pub fn verify(&self) -> Result<Vec<String>> {
        let mut wrong = Vec::new();
        for shard in &self.all.shards {
            crate::inspect::verify(shard, &mut shard.lock(), &self.all.fds, &mut wrong)?;
        }
        Ok(wrong)
    }

    pub fn dump(&self, fd: i32) -> Result<i32> {
        let mut text = format!("doorbell {} shards={} threads={}\n", env!("CARGO_PKG_VERSION"), self.all.shards.len(), self.all.threaded);
        for shard in &self.all.shards {
            crate::inspect::describe(shard, &shard.lock(), &mut text);
        }
        for queue in self.all_queues() {
            text += &queue.describe();
            text.push('\n');
        }
        for line in self.verify()? {
            text += "wrong: ";
            text += &line;
            text.push('\n');
        }
        let mut rest = text.as_bytes();
        while !rest.is_empty() {
            // SAFETY: bytes of ours.
            let n = unsafe { libc::write(fd, rest.as_ptr().cast(), rest.len()) };
            match n {
                0.. => rest = &rest[n as usize..],
                _ if Error::last() == Error::INTR => {}
                _ => return Err(Error::last()),
            }
        }
        Ok(0)
    }
}

fn find_fd(st: &State, handle: Handle) -> Result<u32> {
    if !handle.is(Kind::Fd) {
        return Err(Error::INVAL);
    }
    let index = st.reg.fds.find(handle).ok_or(Error::STALE)?;
    if st.reg.fds.at(index).value.is(CLOSED) { Err(Error::CLOSED) } else { Ok(index) }
}

/// A target and a mode that go together.
fn check_spec(target: &Spec, mode: Mode) -> Result<()> {
    match (target, mode) {
        (Spec::Poll | Spec::Queue(_), Mode::Level) => Ok(()),
        (_, Mode::Level) | (Spec::Mvar(_), Mode::Edge) => Err(Error::INVAL),
        (_, Mode::Edge) if !Backend::EDGE => Err(Error::UNSUPPORTED),
        _ => Ok(()),
    }
}

fn check_held(target: &Target, mode: Mode) -> Result<()> {
    match (target, mode) {
        (Target::Poll { .. } | Target::Queue { .. }, Mode::Level) => Ok(()),
        (_, Mode::Level) | (Target::Mvar(_) | Target::None, Mode::Edge) => Err(Error::INVAL),
        (Target::None, _) => Err(Error::INVAL),
        (_, Mode::Edge) if !Backend::EDGE => Err(Error::UNSUPPORTED),
        _ => Ok(()),
    }
}

/// An armed entry with its target bound and its deadline set, not in any list.
fn make_entry(st: &mut State, env: Env, spec: FdSpec) -> Result<u32> {
    let (index, generation) = st.reg.fds.insert()?;
    let handle = Handle::new(Kind::Fd, st.reg.shard, index, generation);
    let fd = &mut st.reg.fds.at_mut(index).value;
    (fd.fd, fd.interest, fd.mode, fd.user_data) = (spec.fd, spec.interest, spec.mode, spec.user_data);
    fd.set(ARMED, true);
    fd.set(RELEASE, spec.auto_release);
    fd.set(EXCLUSIVE, spec.exclusive);
    let after = fd.after();
    let made = match st.reg.bind(spec.target, handle, spec.user_data, after) {
        Ok(target) => {
            st.reg.fds.at_mut(index).value.target = target;
            st.set_deadline(env, index, spec.deadline_ns)
        }
        Err(e) => Err(e),
    };
    if let Err(e) = made {
        drop_entry(st, index);
        return Err(e);
    }
    Ok(index)
}

fn drop_entry(st: &mut State, index: u32) {
    st.cancel_deadline(index);
    let fd = st.reg.fds.remove(index);
    st.reg.unbind(fd.target);
}

fn register_exclusive(st: &mut State, env: Env, spec: FdSpec) -> Result<u64> {
    let (number, interest) = (spec.fd, spec.interest);
    let twice = st.reg.fds.indices().any(|i| {
        let fd = &st.reg.fds.at(i).value;
        fd.fd == number && fd.is(EXCLUSIVE) && !fd.is(CLOSED)
    });
    if twice {
        return Err(Error::BUSY);
    }
    env.fds.acquire_exclusive(number)?;
    let added = make_entry(st, env, spec).and_then(|index| {
        let handle = st.reg.fd_handle(index);
        st.counters.ctl_calls += 1;
        match env.backend.add(number, interest, Trigger::Edge, true, handle.0) {
            Ok(()) => {
                let fd = &mut st.reg.fds.at_mut(index).value;
                // EPOLLEXCLUSIVE goes with EPOLLIN and EPOLLOUT only.
                (fd.kernel, fd.asked) = (Kernel::Edge, Interest(interest.0 & !Interest::RDHUP.0));
                Ok(handle.0)
            }
            Err(e) => {
                st.counters.ctl_errors += 1;
                drop_entry(st, index);
                Err(e)
            }
        }
    });
    if added.is_err() {
        env.fds.release_exclusive(number);
    }
    added
}

/// The registration is armed: the kernel looks at its fd.
fn look_again(st: &mut State, env: Env, index: u32) -> Result<()> {
    let fd = &st.reg.fds.at(index).value;
    if fd.is(ALWAYS) {
        st.tell_always(index);
        return Ok(());
    }
    if fd.is(EXCLUSIVE) {
        return Ok(()); // the kernel forbids to modify those
    }
    let head = env.fds.head(fd.fd);
    st.sync_kernel(env, head, true).map_err(|e| if e == Error::NOENT { Error::BADF } else { e })
}

fn set_after(st: &mut State, index: u32, after: crate::target::ready_list::After) {
    let State { reg, .. } = st;
    let target = std::mem::take(&mut reg.fds.at_mut(index).value.target);
    reg.set_after(&target, after);
    reg.fds.at_mut(index).value.target = target;
}

fn bind_new(
    st: &mut State,
    target: Option<Spec>,
    handle: Handle,
    user_data: u64,
    after: crate::target::ready_list::After,
) -> Result<Option<Target>> {
    target.map(|spec| st.reg.bind(spec, handle, user_data, after)).transpose()
}

fn undo_bind(st: &mut State, bound: Option<Target>) {
    if let Some(target) = bound {
        st.reg.unbind(target);
    }
}

fn rearm_fd(st: &mut State, env: Env, handle: Handle, target: Option<Spec>, deadline: i64) -> Result<i32> {
    let index = find_fd(st, handle)?;
    let fd = &st.reg.fds.at(index).value;
    match &target {
        Some(spec) => check_spec(spec, fd.mode)?,
        None if matches!(fd.target, Target::None) => return Err(Error::INVAL),
        None => {}
    }
    let (user_data, after) = (fd.user_data, fd.after());
    let (old_flags, old_deadline) = (fd.flags, fd.deadline);
    let bound = bind_new(st, target, handle, user_data, after)?;
    st.reg.fds.at_mut(index).value.set(ARMED, true);
    let done = st.set_deadline(env, index, deadline).and_then(|()| {
        look_again(st, env, index).inspect_err(|_| {
            // It was armed before, or its place in the heap has just been given up: this cannot fail.
            let _ = st.set_deadline(env, index, old_deadline);
        })
    });
    if let Err(e) = done {
        st.reg.fds.at_mut(index).value.flags = old_flags;
        undo_bind(st, bound);
        return Err(e);
    }
    if let Some(new) = bound {
        let old = std::mem::replace(&mut st.reg.fds.at_mut(index).value.target, new);
        st.reg.unbind(old);
    }
    Ok(0)
}

fn make_timeout(st: &mut State, env: Env, spec: TimeoutSpec) -> Result<u64> {
    let (index, generation) = st.reg.timeouts.insert()?;
    let handle = Handle::new(Kind::Timeout, st.reg.shard, index, generation);
    let timeout = &mut st.reg.timeouts.at_mut(index).value;
    timeout.user_data = spec.user_data;
    timeout.clock = spec.clock;
    timeout.release = spec.auto_release;
    timeout.extra = spec.period_ns > 0 || spec.slack_ns > 0;
    let (extra, after) = (timeout.extra, timeout.after());
    let made = (|| {
        if extra {
            st.reg.extras.try_reserve(1).map_err(|_| Error::NOMEM)?;
            st.reg.extras.insert(index, Extra { period: spec.period_ns, slack: spec.slack_ns });
        }
        let target = st.reg.bind(spec.target, handle, spec.user_data, after)?;
        st.reg.timeouts.at_mut(index).value.target = target;
        st.set_timeout(env, index, spec.deadline_ns)
    })();
    if let Err(e) = made {
        let timeout = st.reg.timeouts.remove(index);
        st.reg.extras.remove(&index);
        st.reg.unbind(timeout.target);
        return Err(e);
    }
    Ok(handle.0)
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

/// Signals belong to the program: library threads block all of them.
fn without_signals<R>(f: impl FnOnce() -> R) -> R {
    // SAFETY: sets of ours, filled by the calls; the mask of this thread is put back.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        let mut before: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before);
        let result = f();
        libc::pthread_sigmask(libc::SIG_SETMASK, &before, std::ptr::null_mut());
        result
    }
}

/// A thread that does nothing but wait can do so exactly: no timer slack.
fn own_thread() {
    #[cfg(target_os = "linux")]
    // SAFETY: a number for this thread.
    unsafe {
        libc::prctl(libc::PR_SET_TIMERSLACK, 1 as libc::c_ulong);
    }
}
