//! Timeouts and user events.
use super::Manager;
use super::fds::find_fd;
use crate::abi::BELL_FIRED;
use crate::backend::{self};
use crate::error::{Error, Result};
use crate::event::{Clock, Handle, Kind, Mode, NEVER};
use crate::heap;
use crate::registry::*;
use crate::shard::{Guard, Shard};
use crate::state::{Env, State};
use crate::target::Spec;
use crate::timers::{self, UNARMED};

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

impl Manager {
    #[inline(always)] // into the one call of the C interface that asks for it: the spec need not be put together
    pub fn register_timeout(&self, spec: TimeoutSpec) -> Result<u64> {
        self.check_target(&spec.target)?;
        if spec.period_ns > 0 && (spec.auto_release || matches!(spec.target, Spec::Mvar(_))) {
            return Err(Error::INVAL);
        }
        if spec.clock != Clock::Monotonic {
            backend::now(spec.clock)?; // not every system has it
            if !backend::CLOCKS {
                return Err(Error::UNSUPPORTED);
            }
        }
        let place = self.place(spec.shard, &spec.target)?;
        let shard = &self.all.shards[place];
        let mut st = shard.lock();
        let made = make_timeout(&mut st, shard.env(&self.all.fds), spec);
        shard.release(st);
        made
    }

    pub fn share_deadline(&self, handle: u64, word: DeadlineWord) -> Result<()> {
        let handle = Handle(handle);
        if matches!(handle.kind(), Some(kind) if kind != Kind::Timeout) {
            return Err(Error::INVAL);
        }
        self.on(handle, |st, env, _| {
            let index = st.reg.timeouts.find(handle).ok_or(Error::STALE)?;
            st.share_deadline(env, index, word)
        })
    }

    pub fn update_timeout(&self, handle: u64, deadline: i64) -> Result<i32> {
        let handle = Handle(handle);
        // Whose kind of handle it is will show.
        let shard = self.all.shards.get(handle.shard()).ok_or(Error::STALE)?;
        let mut st = shard.lock();
        if st.postpone(handle, deadline) {
            return Ok(0);
        }
        self.move_deadline(shard, st, handle, deadline)
    }

    #[inline(never)]
    fn move_deadline(&self, shard: &Shard, mut st: Guard, handle: Handle, deadline: i64) -> Result<i32> {
        let moved = match handle.kind() {
            Some(Kind::Fd | Kind::Timeout) => move_deadline(&mut st, shard.env(&self.all.fds), handle, deadline),
            _ => {
                drop(st);
                return Err(self.shard(handle).err().unwrap_or(Error::INVAL));
            }
        };
        shard.release(st);
        moved
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
                let entry = st.reg.timeouts.at(index);
                Ok(if entry.is_armed() { entry.deadline() } else { NEVER })
            }
            _ => Err(Error::INVAL),
        })
    }

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
}

fn move_deadline(st: &mut State, env: Env, handle: Handle, deadline: i64) -> Result<i32> {
    match handle.kind() {
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
            let entry = st.reg.timeouts.at(index);
            // A shared one is armed until it fires, whatever its owner has stored.
            if !entry.is_armed() && (entry.is_shared() || entry.deadline() != NEVER) {
                return Ok(BELL_FIRED);
            }
            st.set_timeout(env, index, deadline).map(|()| 0)
        }
        _ => Err(Error::INVAL),
    }
}

#[inline(always)]
fn make_timeout(st: &mut State, env: Env, spec: TimeoutSpec) -> Result<u64> {
    let TimeoutSpec { clock, auto_release: release, deadline_ns: deadline, period_ns, slack_ns, user_data, .. } = spec;
    let kind = TimeoutKind { clock, release, extra: period_ns > 0 || slack_ns > 0 };
    let place @ (index, generation) = st.reg.timeouts.vacant()?;
    let handle = Handle::new(Kind::Timeout, st.reg.shard, index, generation);
    if kind.extra {
        let extras = &mut st.reg.extras;
        heap::reserve(extras.capacity(), extras.len(), 1, || extras.try_reserve(1))?;
    }
    let target = st.reg.bind(spec.target, handle, user_data, kind.after())?;
    st.reg.timeouts.occupy(place, Timeout::new(user_data, deadline, target), UNARMED, kind.bits());
    if kind.extra {
        st.reg.extras.insert(index, Extra { period: period_ns, slack: slack_ns });
    }
    if deadline != NEVER {
        let hard = timers::hard((deadline, slack_ns.max(st.reg.slack)));
        if let Err(e) = st.arm(env, clock, index, hard) {
            st.free_timeout(index);
            return Err(e);
        }
    }
    Ok(handle.0)
}
