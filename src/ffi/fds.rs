//! Watching fds: register, change, arm again, cancel, close.
use super::{bell_t, call, decode_target, in_slice, out_slice, read_sized};
use crate::abi::*;
use crate::error::{Error, Result};
use crate::event::{Interest, Mode};
use crate::manager::{FdSpec, Manager};

#[inline(always)] // with all that `register_fd` does: the spec need not be put together
unsafe fn decode(m: &Manager, spec: *const bell_fd_spec) -> Result<FdSpec> {
    // SAFETY: the caller's pointer; `read_sized` checks null, alignment and size.
    let s = unsafe { read_sized(spec)? };
    const FLAGS: u32 = BELL_FD_DEADLINE | BELL_FD_ALWAYS_READY | BELL_FD_EXCLUSIVE | BELL_AUTO_RELEASE;
    let with_deadline = s.flags & BELL_FD_DEADLINE != 0;
    if s.flags & !FLAGS != 0 || (with_deadline && s.deadline_ns < 0) {
        return Err(Error::INVAL);
    }
    Ok(FdSpec {
        fd: s.fd,
        interest: Interest::decode(s.interest)?,
        mode: Mode::decode(s.mode)?,
        always_ready: s.flags & BELL_FD_ALWAYS_READY != 0,
        exclusive: s.flags & BELL_FD_EXCLUSIVE != 0,
        auto_release: s.flags & BELL_AUTO_RELEASE != 0,
        shard: s.shard,
        user_data: s.user_data,
        deadline_ns: if with_deadline { s.deadline_ns } else { BELL_NEVER },
        target: decode_target(m, &s.target)?,
    })
}

#[inline(never)]
unsafe fn register(m: &Manager, spec: *const bell_fd_spec) -> Result<u64> {
    // SAFETY: the caller's pointer, as there.
    m.register_fd(unsafe { decode(m, spec)? })
}

/// Watches an fd. `*handle` names the registration until `bell_unregister` (or, with `BELL_AUTO_RELEASE`, until its
/// delivery). Readiness that is there already is delivered too. One fd may have many registrations, each with its own
/// mode and target. The target's resource belongs to the library when 0 is returned, else it stays the caller's.
/// Before the fd is closed: `bell_unregister`, or `bell_close_fd`. [N], any thread.
///
/// Errors, after which nothing has changed: `-EINVAL` null, unknown bits, no interest, no mode, no target, unknown
/// shard, mode LEVEL with a target that is not POLL or QUEUE, target MVAR with a mode that is not ONESHOT, misaligned
/// word, WAKE_FD that may block, a flag that does not go with the mode; `BELL_E_ABI`, `-E2BIG` size of the struct;
/// `-EBADF` the fd, or the target's fd, is not open; `-EPERM` the kernel cannot poll this fd (regular file): see
/// `BELL_FD_ALWAYS_READY`; `-ELOOP` nested epoll fds in a circle; `-ENOSPC` limit of
/// `/proc/sys/fs/epoll/max_user_watches`; `-ENOMEM`; `BELL_E_CLOSED` the fd is being closed; `BELL_E_STALE` the
/// target's queue is gone; `BELL_E_BUSY` exclusive and ordinary registrations of one fd, or two exclusive ones on one
/// shard; `BELL_E_FULL`; `BELL_E_UNSUPPORTED` EDGE or exclusive with a backend that lacks it, MVAR without
/// `bell_config.ghc`, POLL on a shard that a library thread drives; with `BELL_IO_URING`, for an fd that is no socket,
/// pipe or eventfd, also `-EMFILE`, `-ENFILE`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bell_register_fd(
    bell: *mut bell_t,
    spec: *const bell_fd_spec,
    handle: *mut bell_handle,
) -> i32 {
    call(bell, |m| {
        if handle.is_null() || !handle.is_aligned() {
            return Err(Error::INVAL);
        }
        // SAFETY: the caller's pointers; `spec` is checked inside, `handle` above.
        unsafe {
            handle.write(register(m, spec)?);
        }
        Ok(0)
    })
}

/// `bell_register_fd` for `n` specs. `handles[i]` and `status[i]` tell what became of `specs[i]`: status 0 and a
/// handle, or an error and handle 0. `n` up to 2^20. Returns how many succeeded. [N], any thread.
///
/// Errors, with nothing done: `-EINVAL` null, or `n` out of range.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bell_register_fd_batch(
    bell: *mut bell_t,
    specs: *const bell_fd_spec,
    n: u32,
    handles: *mut bell_handle,
    status: *mut i32,
) -> i32 {
    call(bell, |m| {
        // SAFETY: the caller lends `n` of each, checked for null and alignment inside.
        let (specs, handles, status) = unsafe { (in_slice(specs, n)?, out_slice(handles, n)?, out_slice(status, n)?) };
        let mut good = 0;
        for (i, spec) in specs.iter().enumerate() {
            // SAFETY: a reference is a valid pointer.
            let made = unsafe { register(m, spec) };
            good += made.is_ok() as i32;
            handles[i].write(*made.as_ref().unwrap_or(&0));
            status[i].write(made.map_or_else(|e| e.code(), |_| 0));
        }
        Ok(good)
    })
}

/// Changes interest and mode of a registration, and arms it as registering does. `BELL_FD_EXCLUSIVE` ones cannot be
/// changed. [N], any thread.
///
/// Errors, after which nothing has changed: `BELL_E_STALE`; `-EINVAL` as at registration, or not an fd's handle;
/// `BELL_E_CLOSED`; `BELL_E_UNSUPPORTED`; `BELL_E_BUSY` exclusive; `-EBADF`, `-ENOMEM`, `-ENOSPC` from the kernel.
#[unsafe(no_mangle)]
pub extern "C" fn bell_modify(bell: *mut bell_t, handle: bell_handle, interest: u32, mode: u32) -> i32 {
    call(bell, |m| m.modify(handle, Interest::decode(interest)?, Mode::decode(mode)?))
}

/// Arms a registration, timeout or user event again, after its delivery or before. `target` null keeps the target (an
/// MVAR that was delivered has none left: give a new one); else the new target takes its place, and an undelivered
/// old one belongs to the caller again. `deadline_ns`: for an fd the new deadline, `BELL_NEVER` for none; for a
/// timeout when it is to fire; for a user event it must be `BELL_NEVER`. Needed after each delivery of
/// `BELL_ONESHOT`; costs one system call (`epoll_ctl`) for an fd, none otherwise. [N], any thread.
///
/// Errors, after which nothing has changed: `BELL_E_STALE`; `-EINVAL` as at registration, a queue's handle, negative
/// deadline, MVAR without a new target; `BELL_E_CLOSED`; `-EBADF` the fd was closed behind our back; `-ENOMEM`,
/// `-ENOSPC` from the kernel; `-EMFILE`, `-ENFILE` as `bell_register_timeout`; `BELL_E_UNSUPPORTED` as at registration.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bell_rearm(
    bell: *mut bell_t,
    handle: bell_handle,
    target: *const bell_target,
    deadline_ns: i64,
) -> i32 {
    call(bell, |m| {
        if deadline_ns < 0 {
            return Err(Error::INVAL);
        }
        // SAFETY: null or the caller's target, checked for alignment inside.
        let target = unsafe { super::optional_target(m, target)? };
        m.rearm(handle, target, deadline_ns)
    })
}

/// `bell_rearm(bell, handles[i], NULL, BELL_NEVER)` for `n` fds; `status[i]` tells what became of each. `n` up to
/// 2^20. Returns how many succeeded. [N], any thread.
///
/// Errors, with nothing done: `-EINVAL` null, or `n` out of range.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bell_rearm_batch(
    bell: *mut bell_t,
    handles: *const bell_handle,
    n: u32,
    status: *mut i32,
) -> i32 {
    call(bell, |m| {
        // SAFETY: the caller lends `n` of each, checked for null and alignment inside.
        let (handles, status) = unsafe { (in_slice(handles, n)?, out_slice(status, n)?) };
        let mut good = 0;
        for (i, h) in handles.iter().enumerate() {
            let code = m.rearm(*h, None, BELL_NEVER).unwrap_or_else(|e| e.code());
            good += (code >= 0) as i32;
            status[i].write(code);
        }
        Ok(good)
    })
}

/// Gives a registration, timeout, user event or queue (its doorbell) another target without arming it. Returns
/// `BELL_CANCELLED` when the old target had not been delivered and belongs to the caller again, `BELL_FIRED` when it
/// had been. A queue's doorbell may be FUTEX, WAKE_FD, MVAR or NONE; it rings at once if there is news in the queue.
/// News of a registration that its old target has not shown to anybody is told to the new one. [N], but [B] for a
/// queue's doorbell MVAR; any thread.
///
/// Errors, after which nothing has changed: `BELL_E_STALE`; `-EINVAL` as at registration; `BELL_E_CLOSED`;
/// `BELL_E_UNSUPPORTED` as at registration; `-ENOMEM`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bell_retarget(bell: *mut bell_t, handle: bell_handle, target: *const bell_target) -> i32 {
    call(bell, |m| {
        // SAFETY: null or the caller's target, checked for alignment inside.
        let target = unsafe { super::optional_target(m, target)? };
        m.retarget(handle, target.ok_or(Error::INVAL)?)
    })
}

/// Ends a registration, timeout or user event; the handle is stale from then on, and no `bell_poll` or drain returns
/// news of it any more. Returns who owns the target's resource now: `BELL_CANCELLED`: it was armed, was not delivered
/// and never will be; it is yours; or `BELL_FIRED`: it was delivered, is being delivered just now, or was not armed. An
/// armed one-shot answers exactly one of the two. EDGE, LEVEL, periodic ones and user events are armed as long as
/// they live, and answer `BELL_CANCELLED`; so do those whose news lay undrained in a queue (or waited for
/// `bell_poll`): nobody has seen it, and nobody will. A StablePtr that was not delivered is yours again, armed or not:
/// `BELL_CANCELLED`. Before you free a word or close a wake fd, pass `BELL_SYNC`: it
/// returns only when no thread of ours can touch the target any more (a bounded wait for a system call that does not
/// block; you may hold any lock of yours). Sleepers on its slot wake with `BELL_E_CANCELLED`. [N], with `BELL_SYNC`
/// [B] shortly; any thread.
///
/// Errors: `BELL_E_STALE`; `-EINVAL` unknown flags, a queue's handle (see `bell_queue_destroy`).
#[unsafe(no_mangle)]
pub extern "C" fn bell_unregister(bell: *mut bell_t, handle: bell_handle, flags: u32) -> i32 {
    call(bell, |m| {
        if flags & !BELL_SYNC != 0 {
            return Err(Error::INVAL);
        }
        let told = m.unregister(handle, flags & BELL_SYNC != 0)?;
        m.settle(handle);
        Ok(told)
    })
}

/// `bell_unregister` for `n` handles: `status[i]` is `BELL_CANCELLED`, `BELL_FIRED` or an error; `n` up to 2^20. With
/// `BELL_SYNC` it waits once for all. Returns how many succeeded.
/// [N], with `BELL_SYNC` [B] shortly; any thread.
///
/// Errors, with nothing done: `-EINVAL` null, unknown flags, `n` out of range.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bell_unregister_batch(
    bell: *mut bell_t,
    handles: *const bell_handle,
    n: u32,
    flags: u32,
    status: *mut i32,
) -> i32 {
    call(bell, |m| {
        if flags & !BELL_SYNC != 0 {
            return Err(Error::INVAL);
        }
        // SAFETY: the caller lends `n` of each, checked for null and alignment inside.
        let (handles, status) = unsafe { (in_slice(handles, n)?, out_slice(status, n)?) };
        let mut good = 0;
        for (i, h) in handles.iter().enumerate() {
            let code = m.unregister(*h, false).unwrap_or_else(|e| e.code());
            good += (code >= 0) as i32;
            status[i].write(code);
        }
        m.settle_all();
        if flags & BELL_SYNC != 0 {
            m.sync_all();
        }
        Ok(good)
    })
}

/// First half of closing an fd that others may wait for: the fd leaves the kernel's set, every registration of it is
/// delivered `BELL_CLOSED`, and new ones are refused with `BELL_E_CLOSED`. Then close the fd by whatever means, then
/// call `bell_close_end` with the same ticket. The registrations stay, disarmed, until they are unregistered. An fd
/// that nobody watches may be closed this way too. Between your close and `bell_close_end` the number may already be
/// that of another thread's new fd, which is refused until then: let nothing come between the two, or use
/// `bell_close_fd`, which has no such moment. [B] shortly, any thread.
///
/// Errors: `-EINVAL` null; `-EBADF` a negative number, or one of 2^24 and more; `BELL_E_CLOSED` another close of this
/// number is under way; `-ENOMEM`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bell_close_begin(bell: *mut bell_t, fd: i32, ticket: *mut u64) -> i32 {
    call(bell, |m| {
        if ticket.is_null() || !ticket.is_aligned() {
            return Err(Error::INVAL);
        }
        let t = m.close_begin(fd)?;
        // SAFETY: checked above.
        unsafe { ticket.write(t) };
        Ok(0)
    })
}

/// Second half of closing an fd: the number may be registered again. [N], any thread.
///
/// Errors: `-EBADF` as above; `BELL_E_STALE` the ticket is not that of a close under way.
#[unsafe(no_mangle)]
pub extern "C" fn bell_close_end(bell: *mut bell_t, fd: i32, ticket: u64) -> i32 {
    call(bell, |m| m.close_end(fd, ticket))
}

/// Tells every registration of the fd `BELL_CLOSED`, as `bell_close_begin` does, and closes it with `close(2)`; one
/// that comes meanwhile is refused or told too. A new fd that another thread gets under this number is never refused.
/// The fd is gone when it returns, whatever `close(2)` said, except after the errors of `bell_close_begin`. [B], as
/// long as `close(2)` does.
///
/// Errors: those of `bell_close_begin`; those of `close(2)` (`-EBADF`, `-EIO`, `-ENOSPC`, `-EDQUOT`; `-EINTR` is
/// success on Linux).
#[unsafe(no_mangle)]
pub extern "C" fn bell_close_fd(bell: *mut bell_t, fd: i32) -> i32 {
    call(bell, |m| m.close_fd(fd))
}
