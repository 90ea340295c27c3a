//! Timeouts and user events.
use super::{bell_t, call, decode_target, read_sized, write_out};
use crate::abi::*;
use crate::error::Error;
use crate::event::Clock;
use crate::manager::TimeoutSpec;
use crate::registry::DeadlineWord;

/// Arms a timeout. It fires at its deadline or after, never before; timeouts with the same deadline and no slack fire
/// in the order of registration. `*handle` names it until `bell_unregister` (or, with `BELL_AUTO_RELEASE`, until it
/// fires). A far deadline costs no system call. The target's resource belongs to the library when 0 is returned. [N],
/// any thread.
///
/// Errors, after which nothing has changed: `-EINVAL` null, unknown clock, flag or shard, negative or too large
/// number, no target, target MVAR or `BELL_AUTO_RELEASE` with a period; those of targets at `bell_register_fd`;
/// `BELL_E_ABI`, `-E2BIG`; `-ENOMEM`; `BELL_E_FULL`; `BELL_E_UNSUPPORTED` the clock; `-EMFILE`, `-ENFILE`, `-ENOSPC`:
/// clocks other than `BELL_CLOCK_MONOTONIC` need an fd each.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bell_register_timeout(
    bell: *mut bell_t,
    spec: *const bell_timeout_spec,
    handle: *mut bell_handle,
) -> i32 {
    call(bell, |m| {
        if handle.is_null() || !handle.is_aligned() {
            return Err(Error::INVAL);
        }
        // SAFETY: the caller's pointer; `read_sized` checks null, alignment and size.
        let s = unsafe { read_sized(spec)? };
        const MOST: i64 = 1 << 62;
        if s.flags & !BELL_AUTO_RELEASE != 0
            || s.deadline_ns < 0
            || !(0..=MOST).contains(&s.period_ns)
            || !(0..=MOST).contains(&s.slack_ns)
        {
            return Err(Error::INVAL);
        }
        let h = m.register_timeout(TimeoutSpec {
            clock: Clock::decode(s.clock)?,
            auto_release: s.flags & BELL_AUTO_RELEASE != 0,
            shard: s.shard,
            deadline_ns: s.deadline_ns,
            period_ns: s.period_ns,
            slack_ns: s.slack_ns,
            user_data: s.user_data,
            target: decode_target(m, &s.target)?,
        })?;
        // SAFETY: checked above.
        unsafe { handle.write(h) };
        Ok(0)
    })
}

/// Moves the deadline of an armed timeout, or sets, moves or (`BELL_NEVER`) takes away the deadline of an fd's
/// registration. Later costs a store (without this call: `bell_share_deadline`); earlier wakes the driver only if it is
/// the earliest of all. Returns 0, or
/// `BELL_FIRED`, with nothing changed, if a one-shot has fired already (see `bell_rearm`). [N], any thread.
///
/// Errors: `BELL_E_STALE`; `-EINVAL` negative deadline, not a timeout or fd; `BELL_E_CLOSED` the fd was closed;
/// `-ENOMEM`; `-EMFILE`, `-ENFILE`, `-ENOSPC` as `bell_register_timeout`.
#[unsafe(no_mangle)]
pub extern "C" fn bell_update_timeout(bell: *mut bell_t, handle: bell_handle, deadline_ns: i64) -> i32 {
    call(bell, |m| {
        if deadline_ns < 0 {
            return Err(Error::INVAL);
        }
        m.update_timeout(handle, deadline_ns)
    })
}

/// Keeps the deadline of a timeout in `*word`, aligned to 8, from now on: the call stores there what it is, and who
/// wants to move it later stores the new one, atomically (relaxed is enough), from any thread, in place of a call. So an
/// idle timeout is moved by each event at the price of a store. A store counts from the next turn that begins after it.
///
/// A store of an earlier time may be seen only when the time before it has come: for that there is
/// `bell_update_timeout`, which stores it there as well, as `bell_rearm` does. `BELL_NEVER`: it does not fire until it is
/// moved by one of these (`bell_next_deadline` tells 2^63 - 2 of it); negative: as 0. When it has fired, a store means
/// nothing until it is armed again. A second call moves the deadline to another word.
///
/// The word is the caller's memory. It is read until the registration has ended, by `bell_unregister`,
/// `BELL_AUTO_RELEASE` or `bell_destroy`, and never after. [N], any thread.
///
/// Errors, after which nothing has changed: `BELL_E_STALE`; `-EINVAL` null, misaligned, not a timeout, it has a period;
/// of a timeout that is not armed also `-ENOMEM`; `-EMFILE`, `-ENFILE`, `-ENOSPC` as `bell_register_timeout`.
#[unsafe(no_mangle)]
pub extern "C" fn bell_share_deadline(bell: *mut bell_t, handle: bell_handle, word: *mut i64) -> i32 {
    call(bell, |m| m.share_deadline(handle, DeadlineWord::new(word)?).map(|()| 0))
}

/// The deadline of a timeout or of an fd's registration; `BELL_NEVER` if it is not armed or has none. [N], any
/// thread.
///
/// Errors: `BELL_E_STALE`; `-EINVAL` null, not a timeout or fd.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bell_timeout_get(bell: *mut bell_t, handle: bell_handle, deadline_ns: *mut i64) -> i32 {
    call(bell, |m| {
        let d = m.timeout_get(handle)?;
        // SAFETY: the caller's pointer, checked for null and alignment inside.
        unsafe { write_out(deadline_ns, d)? };
        Ok(0)
    })
}

/// Makes a user event: something that `bell_post` makes happen. `shard` as in `bell_fd_spec`. Delivered by the driver
/// of the shard. With target MVAR it delivers once for each `bell_rearm`; posts in between are kept. [N], any thread.
///
/// Errors, after which nothing has changed: `-EINVAL` null, unknown shard, no target; those of targets at
/// `bell_register_fd`; `-ENOMEM`; `BELL_E_FULL`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bell_register_user(
    bell: *mut bell_t,
    shard: u32,
    target: *const bell_target,
    user_data: u64,
    handle: *mut bell_handle,
) -> i32 {
    call(bell, |m| {
        if handle.is_null() || !handle.is_aligned() {
            return Err(Error::INVAL);
        }
        // SAFETY: null or the caller's target, checked for alignment inside; `handle` above.
        unsafe {
            let target = super::optional_target(m, target)?.ok_or(Error::INVAL)?;
            let h = m.register_user(shard, target, user_data)?;
            handle.write(h);
        }
        Ok(0)
    })
}

/// Posts a user event: its target gets `BELL_USER`, and `bits`, ORed with those of other posts until it is delivered,
/// as `bell_event.data`. What the caller wrote before is visible to the receiver, also when posts merge. [N], any
/// thread, async-signal-safe.
///
/// Errors: `BELL_E_STALE`; `-EINVAL` not a user event; `-EBADF`, `-EPERM` as `bell_wake`: the driver sleeps on, and the
/// post is delivered when it wakes for another reason.
#[unsafe(no_mangle)]
pub extern "C" fn bell_post(bell: *mut bell_t, handle: bell_handle, bits: u32) -> i32 {
    call(bell, |m| m.post(handle, bits))
}
