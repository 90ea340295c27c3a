//! Registrations of fds; what is common to all kinds (arm again, retarget, unregister); closing.
use super::Manager;
use crate::abi::{BELL_CANCELLED, BELL_FIRED};
use crate::backend::{Backend, Trigger};
use crate::error::{Error, Result};
use crate::event::{Handle, Interest, Kind, Mode, NEVER, Ready};
use crate::fd_table::{Acquired, Owner, Place};
use crate::libc;
use crate::registry::*;
use crate::shard::{Guard, Shard};
use crate::state::{Env, Out, State};
use crate::target::ready_list::Left;
use crate::target::{Batch, Spec, Target};

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

impl Manager {
    #[inline(always)]
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
        if spec.exclusive && (!Backend::EXCLUSIVE || self.io_uring) {
            return Err(Error::UNSUPPORTED);
        }
        let mut place = self.place(spec.shard, &spec.target)?;
        let word = self.all.fds.place(spec.fd);
        let mut batch = Batch::default();
        loop {
            let shard = &self.all.shards[place];
            let mut st = shard.lock();
            if spec.exclusive {
                let made = register_exclusive(&mut st, shard.env(&self.all.fds), spec);
                shard.finish(&self.all, st, &mut batch);
                return made;
            }
            let word = word?;
            let head = match word.acquire(place)? {
                Acquired::Mine(head) => head,
                Acquired::Elsewhere(other) => {
                    place = other;
                    continue;
                }
            };
            let (st, made) = self.register_here(shard, st, word, head, spec, &mut batch);
            if made.is_err() && word.head() == NIL {
                word.set_head(place, NIL); // acquired above, and not used
            }
            shard.finish(&self.all, st, &mut batch);
            return made;
        }
    }

    #[inline(always)]
    fn register_here<'a>(
        &self,
        shard: &'a Shard,
        mut st: Guard<'a>,
        word: Place,
        mut head: u32,
        spec: FdSpec,
        batch: &mut Batch,
    ) -> (Guard<'a>, Result<u64>) {
        let env = shard.env(&self.all.fds);
        let (fd, always_ready) = (spec.fd, spec.always_ready);
        let (index, handle) = match make_entry(&mut st, env, spec) {
            Ok(made) => made,
            Err(e) => return (st, Err(e)),
        };
        loop {
            st.reg.attach(word, index, head);
            let watched = if head == NIL {
                st.watch_alone(env, index, handle)
            } else if st.reg.fds.at(head).value.is(GONE) {
                Err(Error::NOENT) // and not told yet
            } else {
                st.sync_kernel(env, head, true)
            };
            let Err(mut e) = watched else { break };
            // A file that cannot be watched, under a number that is watched: another file, as below.
            let reused = head != NIL && st.reg.fds.at(head).value.kernel != Kernel::Absent;
            if e == Error::PERM && always_ready && !reused {
                match st.make_always(index) {
                    Ok(()) => break,
                    Err(short) => e = short,
                }
            }
            st.reg.detach(env.fds, index);
            let another_file = e == Error::NOENT || e == Error::PERM && always_ready;
            if !another_file || head == NIL {
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
            head = match word.acquire(shard.index) {
                Ok(Acquired::Mine(head)) => head,
                Ok(Acquired::Elsewhere(_)) | Err(_) => {
                    drop_entry(&mut st, index);
                    return (st, Err(Error::CLOSED));
                }
            };
        }
        (st, Ok(handle.0))
    }

    /// Runs `f` on the shard of a handle, under its lock, and delivers what it caused.
    pub(super) fn on<R>(&self, handle: Handle, f: impl FnOnce(&mut State, Env, &mut Out) -> Result<R>) -> Result<R> {
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
        self.on(handle, |st, env, out| match handle.kind() {
            Some(Kind::Fd) => rearm_fd(st, env, handle, target, deadline, out),
            Some(Kind::Timeout) => {
                let index = st.reg.timeouts.find(handle).ok_or(Error::STALE)?;
                let entry = st.reg.timeouts.at(index);
                let timeout = &entry.value;
                if target.is_none() && matches!(timeout.target, Target::None)
                    || matches!(target, Some(Spec::Mvar(_))) && st.reg.extra(index).period > 0
                {
                    return Err(Error::INVAL);
                }
                let (user_data, after) = (timeout.user_data, entry.kind().after());
                let bound = bind_new(st, target, handle, user_data, after)?;
                if let Err(e) = st.set_timeout(env, index, deadline) {
                    undo_bind(st, bound);
                    return Err(e);
                }
                if let Some(new) = bound {
                    let old = std::mem::replace(&mut st.reg.timeouts.at_mut(index).value.target, new);
                    st.unbind(old, out);
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
                    keep_posts(st, index, old, out);
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
        let told = self.on(handle, |st, env, out| match handle.kind() {
            Some(Kind::Fd) => {
                let index = find_fd(st, handle)?;
                let fd = &st.reg.fds.at(index).value;
                check_spec(&target, fd.mode)?;
                let (user_data, after) = (fd.user_data, fd.after());
                let armed = (fd.is(ARMED) || fd.mode != Mode::Oneshot) && !matches!(fd.target, Target::None);
                let live = armed || fd.target.is_unspent();
                let new = st.reg.bind(target, handle, user_data, after)?;
                let old = std::mem::replace(&mut st.reg.fds.at_mut(index).value.target, new);
                let left = st.unbind(old, out);
                st.tell_left(env, handle, left, out)?;
                Ok(if live || left.is_news() { BELL_CANCELLED as i32 } else { BELL_FIRED })
            }
            Some(Kind::Timeout) => {
                let index = st.reg.timeouts.find(handle).ok_or(Error::STALE)?;
                if matches!(target, Spec::Mvar(_)) && st.reg.extra(index).period > 0 {
                    return Err(Error::INVAL);
                }
                let entry = st.reg.timeouts.at(index);
                let timeout = &entry.value;
                let (user_data, after) = (timeout.user_data, entry.kind().after());
                let armed = timeout.target.is_unspent() || entry.is_armed() && !timeout.target.is_spent();
                let new = st.reg.bind(target, handle, user_data, after)?;
                let old = std::mem::replace(&mut st.reg.timeouts.at_mut(index).value.target, new);
                let left = st.unbind(old, out);
                st.tell_left(env, handle, left, out)?;
                Ok(if armed || left.is_news() { BELL_CANCELLED as i32 } else { BELL_FIRED })
            }
            _ => {
                let index = st.reg.users.find(handle).ok_or(Error::STALE)?;
                let user_data = st.reg.users.at(index).value.user_data;
                let new = st.reg.bind(target, handle, user_data, Default::default())?;
                let old = std::mem::replace(&mut st.reg.users.at_mut(index).value.target, new);
                let live = !matches!(old, Target::None);
                keep_posts(st, index, old, out);
                self.repost(st, handle, index);
                Ok(if live { BELL_CANCELLED as i32 } else { BELL_FIRED })
            }
        })?;
        self.settle(handle.0); // it may have released itself
        Ok(told)
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

    /// The kernel has let go of the fd that was unregistered: the caller may close it.
    #[inline(always)]
    pub fn settle(&self, handle: u64) {
        let handle = Handle(handle);
        if self.io_uring && handle.is(Kind::Fd) {
            self.all.shards[handle.shard()].backend.settle(true);
        }
    }
    pub fn settle_all(&self) {
        if !self.io_uring {
            return;
        }
        self.all.shards.iter().for_each(|s| s.backend.settle(true));
    }

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
            // Before the news of it makes the driver leave its wait.
            shard.backend.settle(false);
        }
        while !st.close_list(env, fd, 0, &mut Out { batch: &mut batch, sink: None, from: None }) {
            st = shard.flush(&self.all, st, &mut batch);
        }
        shard.finish(&self.all, st, &mut batch);
        shard.backend.settle(true);
    }

    /// Whoever came after the mark was lifted has either the closed fd, and is told, or a new one of its number: the
    /// kernel knows, because it has no entry of the closed one under this number.
    fn after_close(&self, fd: i32) {
        let Ok(Owner::Shard(i)) = self.all.fds.owner_after_close(fd) else { return };
        let shard = &self.all.shards[i];
        let env = shard.env(&self.all.fds);
        let mut batch = Batch::default();
        let mut st = shard.lock();
        let head = env.fds.head(fd);
        if head != NIL {
            st.after_close(env, head, &mut Out { batch: &mut batch, sink: None, from: None });
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
        // The mark goes first: once the fd is closed its number may be another thread's, who would be refused.
        self.all.fds.close_end(fd, ticket)?;
        // SAFETY: the caller asked for it.
        let closed = Error::check(unsafe { libc::close(fd) });
        self.after_close(fd);
        match closed {
            Err(Error::INTR) => Ok(0), // Linux: the fd is gone
            r => r,
        }
    }
}

pub(super) fn find_fd(st: &State, handle: Handle) -> Result<u32> {
    if !handle.is(Kind::Fd) {
        return Err(Error::INVAL);
    }
    let index = st.reg.fds.find(handle).ok_or(Error::STALE)?;
    if st.reg.fds.at(index).value.is(CLOSED) { Err(Error::CLOSED) } else { Ok(index) }
}

/// Posts that the old target of a user event has not shown to anybody are for the new one.
fn keep_posts(st: &mut State, index: u32, old: Target, out: &mut Out) {
    if let Left::News { data, .. } = st.unbind(old, out) {
        *st.reg.users.at_mut(index).value.kept.get_or_insert(0) |= data as u32;
    }
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

/// An armed entry with its target bound and its deadline set, not in any list; its handle.
#[inline(always)]
fn make_entry(st: &mut State, env: Env, spec: FdSpec) -> Result<(u32, Handle)> {
    let place @ (index, generation) = st.reg.fds.vacant()?;
    let handle = Handle::new(Kind::Fd, st.reg.shard, index, generation);
    let FdSpec { fd, interest, mode, user_data, .. } = spec;
    let mut fd = Fd { fd, interest, mode, user_data, ..Fd::default() };
    fd.set(ARMED, true);
    fd.set(RELEASE, spec.auto_release);
    fd.set(EXCLUSIVE, spec.exclusive);
    fd.target = st.reg.bind(spec.target, handle, user_data, fd.after())?;
    st.reg.fds.occupy(place, fd, NIL, 0);
    if spec.deadline_ns != NEVER {
        st.set_deadline(env, index, spec.deadline_ns).inspect_err(|_| drop_entry(st, index))?;
    }
    Ok((index, handle))
}

fn drop_entry(st: &mut State, index: u32) {
    st.cancel_deadline(index);
    st.drop_fd(index);
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
    let added = make_entry(st, env, spec).and_then(|(index, handle)| {
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

fn rearm_fd(
    st: &mut State,
    env: Env,
    handle: Handle,
    target: Option<Spec>,
    deadline: i64,
    out: &mut Out,
) -> Result<i32> {
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
        let fd = &mut st.reg.fds.at_mut(index).value;
        let exclusive = fd.is(EXCLUSIVE);
        let old = std::mem::replace(&mut fd.target, new);
        match st.unbind(old, out) {
            // The kernel does not look again, and would not tell twice. (A deadline that has passed is replaced.)
            Left::News { ready, status, data } if exclusive && !(ready & !Ready::TIMEOUT).is_empty() => {
                let left = Left::News { ready: ready & !Ready::TIMEOUT, status, data };
                st.tell_left(env, handle, left, out)?;
            }
            _ => {}
        }
    }
    Ok(0)
}
