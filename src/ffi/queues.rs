//! Queues: many registrations, one list of news.
use super::{bell_t, call, optional_target, out_slice};
use crate::abi::*;
use crate::error::Error;

/// Makes a queue. Registrations with target QUEUE put their news in it, one entry each, merged until drained, in the
/// order of first readiness; so it cannot overflow. `doorbell` (FUTEX, WAKE_FD, MVAR, or null for none) rings when
/// news comes into the empty queue (a FUTEX word gets `BELL_READ`). `shard` is whose driver `bell_queue_wait`
/// becomes, in a manager without library threads, and where registrations with `BELL_SHARD_ANY` go; there it must be
/// 0 if there is only one. [N], any thread.
///
/// Errors: `-EINVAL` null, unknown shard, a doorbell of another kind; the errors of targets at `bell_register_fd`;
/// `-ENOMEM`; `BELL_E_FULL`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bell_queue_create(
    bell: *mut bell_t,
    shard: u32,
    doorbell: *const bell_target,
    handle: *mut bell_handle,
) -> i32 {
    call(bell, |m| {
        if handle.is_null() || !handle.is_aligned() {
            return Err(Error::INVAL);
        }
        // SAFETY: null or the caller's target, checked for alignment inside; `handle` above.
        unsafe {
            let h = m.queue_create(shard, optional_target(m, doorbell)?)?;
            handle.write(h);
        }
        Ok(0)
    })
}

/// Takes up to `capacity` pieces of news; returns how many, 0 if there are none. LEVEL registrations among the last
/// drain's are looked at again by this one. [N] (but for LEVEL: one system call each), any thread, several at once.
///
/// Errors: `BELL_E_STALE`; `-EINVAL` not a queue, null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bell_queue_drain(
    bell: *mut bell_t,
    queue: bell_handle,
    events: *mut bell_event,
    capacity: u32,
) -> i32 {
    call(bell, |m| {
        // SAFETY: the caller lends `capacity` events, checked for null and alignment inside.
        let out = unsafe { out_slice(events, capacity)? };
        m.queue_drain(queue, out)
    })
}

/// Waits until there is news and takes up to `capacity` pieces, at least 1; returns how many. In a manager without
/// library threads the caller drives the queue's shard while it waits, unless somebody does. `deadline_ns`: absolute,
/// `BELL_CLOCK_MONOTONIC`; `BELL_NEVER`: none; 0: only looks. [B], any thread, several at once: each piece of news
/// goes to one of them. LEVEL registrations among the last drain's are looked at again when it begins, not while it
/// sleeps.
///
/// Errors: `-ETIMEDOUT`; `-EINTR` a signal came; `-ENOMEM`; `-EBADF` as `bell_poll`; `BELL_E_STALE`; `BELL_E_CANCELLED`
/// the queue was destroyed while it waited; `BELL_E_CLOSED` the manager was; `-EINVAL` not a queue, null, `capacity` 0,
/// negative deadline; with `BELL_IO_URING` `-EMFILE`, `-ENFILE`, `-EAGAIN` as `bell_poll`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bell_queue_wait(
    bell: *mut bell_t,
    queue: bell_handle,
    events: *mut bell_event,
    capacity: u32,
    deadline_ns: i64,
) -> i32 {
    call(bell, |m| {
        if deadline_ns < 0 || capacity == 0 {
            return Err(Error::INVAL);
        }
        // SAFETY: the caller lends `capacity` events, checked for null and alignment inside.
        let out = unsafe { out_slice(events, capacity)? };
        m.queue_wait(queue, out, deadline_ns)
    })
}

/// Returns an fd that is readable as long as the queue is not empty, for use in another event loop. It belongs to
/// the queue: do not read or close it. Somebody must drive the shards. LEVEL registrations are looked at only by
/// drains: drain once more after the last event. [N], any thread.
///
/// Errors: `BELL_E_STALE`; `-EINVAL` not a queue; `-EMFILE`, `-ENFILE`, `-ENOMEM`.
#[unsafe(no_mangle)]
pub extern "C" fn bell_queue_fd(bell: *mut bell_t, queue: bell_handle) -> i32 {
    call(bell, |m| m.queue_fd(queue))
}

/// Ends a queue and wakes its waiters with `BELL_E_CANCELLED`. Returns what became of the doorbell: `BELL_CANCELLED`:
/// it is yours; `BELL_FIRED`: it has rung, or there was none. With `BELL_SYNC` it returns only when no thread of ours
/// can touch the doorbell any more. [N], with `BELL_SYNC` [B] shortly; any thread.
///
/// Errors, after which nothing has changed: `BELL_E_STALE`; `-EINVAL` not a queue, unknown flags; `BELL_E_BUSY` it is
/// the target of registrations: unregister or retarget them first.
#[unsafe(no_mangle)]
pub extern "C" fn bell_queue_destroy(bell: *mut bell_t, queue: bell_handle, flags: u32) -> i32 {
    call(bell, |m| {
        if flags & !BELL_SYNC != 0 {
            return Err(Error::INVAL);
        }
        m.queue_destroy(queue, flags & BELL_SYNC != 0)
    })
}
