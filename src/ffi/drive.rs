//! Turning a shard by hand, waking it, nesting it.
use super::{bell_t, call, out_slice, write_out};
use crate::abi::*;
use crate::error::Error;

/// Makes one turn of a shard: waits up to `timeout_ns` (0: does not wait; `BELL_NEVER`: for ever) until something
/// happens, delivers what has another target, and writes news for the target POLL to `events`. Returns how many
/// were written; 0 when the time was up, when `bell_wake` was called, or when all news had other targets. News
/// that finds no room stays for the next call. `capacity` may be 0 (`events` may then be null) for a shard without
/// POLL targets. A waiter that drives the shard (`bell_slot_wait`, `bell_queue_wait`) makes way.
/// [N] when `timeout_ns` is 0 and no target MVAR is on the shard; else [B]. Any thread, one at a time for
/// each shard.
///
/// Errors: `-EINVAL` unknown shard, negative time, null `events`; `BELL_E_BUSY` another thread is in `bell_poll` on
/// this shard, or a library thread drives it; `-EINTR` a signal came while it waited, `-ENOMEM`: nothing is lost, call
/// again; `-EBADF` somebody has closed an fd of the library; `BELL_E_CLOSED` the manager was destroyed meanwhile; with
/// `BELL_IO_URING`, when another thread has driven before, `-EMFILE`, `-ENFILE`, `-EAGAIN`: what a new ring needs is
/// lacking, and nothing is lost.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bell_poll(
    bell: *mut bell_t,
    shard: u32,
    events: *mut bell_event,
    capacity: u32,
    timeout_ns: i64,
) -> i32 {
    call(bell, |m| {
        // SAFETY: the caller lends `capacity` events, checked for null and alignment inside.
        let out = unsafe { out_slice(events, capacity)? };
        if timeout_ns < 0 {
            return Err(Error::INVAL);
        }
        m.poll(shard, out, timeout_ns)
    })
}

/// Ends the current wait of a shard's driver, or the next one if nobody waits: its `bell_poll` returns. Several
/// calls may end one wait. What the caller wrote before this call is visible to the thread that it wakes.
/// [N], any thread, async-signal-safe.
///
/// Errors: `-EINVAL` unknown shard; `-EBADF`, `-EPERM` the fd that wakes was closed or is forbidden to be written.
#[unsafe(no_mangle)]
pub extern "C" fn bell_wake(bell: *mut bell_t, shard: u32) -> i32 {
    call(bell, |m| m.wake(shard))
}

/// The earliest monotonic deadline of a shard, `BELL_NEVER` if there is none: for a caller who sleeps elsewhere.
/// A deadline that was moved later may still be told by its old value: waking then costs one empty turn. [N], any
/// thread.
///
/// Errors: `-EINVAL` unknown shard, null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bell_next_deadline(bell: *mut bell_t, shard: u32, deadline_ns: *mut i64) -> i32 {
    call(bell, |m| {
        let d = m.next_deadline(shard)?;
        // SAFETY: the caller's pointer, checked for null and alignment inside.
        unsafe { write_out(deadline_ns, d)? };
        Ok(0)
    })
}

/// Returns an fd that becomes readable when a turn of the shard would find something: fds, timeouts, posts, wakes.
/// Watch it in any other event loop and call `bell_poll` with timeout 0 when it is readable. It belongs to the
/// manager: do not read, change or close it. The same fd at every call until `bell_destroy`. From the first call
/// on, the shard keeps a timer armed for it. [N], any thread.
///
/// Errors: `-EINVAL` unknown shard; `-EMFILE`, `-ENFILE`, `-ENOMEM`, `-ENOSPC`; `-EBADF`, `-EPERM` as `bell_wake`;
/// `BELL_E_UNSUPPORTED` the backend has none (poll), or library threads drive the shard.
#[unsafe(no_mangle)]
pub extern "C" fn bell_pollable_fd(bell: *mut bell_t, shard: u32) -> i32 {
    call(bell, |m| m.pollable_fd(shard))
}
