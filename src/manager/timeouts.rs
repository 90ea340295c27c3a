//! Timeouts and user events.
use super::Manager;
use super::fds::find_fd;
use crate::abi::BELL_FIRED;
use crate::backend::{self};
use crate::error::{Error, Result};
use crate::event::{Clock, Handle, Kind, Mode, NEVER};
use crate::registry::*;
use crate::state::{Env, State};
use crate::target::Spec;
use crate::timers::UNARMED;

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

    pub fn update_timeout(&self, handle: u64, deadline: i64) -> Result<i32> {
        let handle = Handle(handle);
        let shard = self.shard(handle)?;
        let mut st = shard.lock();
        if st.postpone(handle, deadline) {
            return Ok(0);
        }
        let moved = move_deadline(&mut st, shard.env(&self.all.fds), handle, deadline);
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
                let timeout = &st.reg.timeouts.at(index).value;
                Ok(if timeout.pos == UNARMED { NEVER } else { timeout.deadline })
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
            let timeout = &st.reg.timeouts.at(index).value;
            if timeout.pos == UNARMED && timeout.deadline != NEVER {
                return Ok(BELL_FIRED);
            }
            st.set_timeout(env, index, deadline).map(|()| 0)
        }
        _ => Err(Error::INVAL),
    }
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
