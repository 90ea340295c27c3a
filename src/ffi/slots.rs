//! Slots: the words that a waiter looks at.
use super::{bell_t, call, write_out};
use crate::abi::*;
use crate::error::Error;
use crate::event::Direction;

/// The address of the slot of a registration, timeout or user event with target SLOT. See `bell_slot` for how long
/// it may be used, and `bell_slot_take` for reading it without a call. [N], any thread.
///
/// Errors: `BELL_E_STALE`; `-EINVAL` null, or the target is not SLOT.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bell_slot_map(bell: *mut bell_t, handle: bell_handle, out: *mut *mut bell_slot) -> i32 {
    call(bell, |m| {
        let slot = m.slot_map(handle)?;
        // SAFETY: the caller's pointer, checked for null and alignment inside.
        unsafe { write_out(out, slot.cast_mut().cast())? };
        Ok(0)
    })
}

/// Takes the news from one word of a slot: `direction` is `BELL_READ` (word `rd`) or `BELL_WRITE` (word `wr`).
/// Returns the ready bits that were there and are now taken, with `BELL_CLOSED` if the fd was closed; 0 if there is
/// no news. Take news *before* the I/O that it allows, never after. [N], any thread.
///
/// Errors: `BELL_E_STALE`; `-EINVAL` another direction, or the target is not SLOT.
#[unsafe(no_mangle)]
pub extern "C" fn bell_slot_consume(bell: *mut bell_t, handle: bell_handle, direction: u32) -> i32 {
    call(bell, |m| m.slot_consume(handle, Direction::decode(direction)?))
}

/// Waits for news on one word of a slot and takes it. Returns the bits, greater than 0. News that is there already
/// is taken at once. The loop of a consumer is `while ((n = read(fd, p, len)) < 0 && errno == EAGAIN) if
/// (bell_slot_wait(b, h, BELL_READ, BELL_NEVER, 0) < 0) break;` In a manager without library threads the caller
/// drives the shard while it waits, unless somebody does. `deadline_ns`: absolute, `BELL_CLOCK_MONOTONIC`;
/// `BELL_NEVER`: none; 0: only looks. A ONESHOT registration must be armed again (`bell_rearm`) before the next
/// wait. Several threads may wait on one word: each piece of news ends the wait of one of them. [B], any thread.
///
/// Errors: `-ETIMEDOUT` the deadline passed without news; `-EINTR` a signal came; `-ENOMEM`; `-EBADF` the fd is not open
/// (`BELL_LEVEL_CHECK`), or somebody has closed an fd of the library; `BELL_E_CANCELLED` unregistered, or
/// given another target, while it waited; `BELL_E_STALE`; `-EINVAL` direction, flags, negative deadline, target not
/// SLOT; `BELL_E_CLOSED` the manager was destroyed meanwhile (a closed *fd* is news: bit `BELL_CLOSED`); with
/// `BELL_IO_URING` `-EMFILE`, `-ENFILE`, `-EAGAIN` as `bell_poll`.
#[unsafe(no_mangle)]
pub extern "C" fn bell_slot_wait(
    bell: *mut bell_t,
    handle: bell_handle,
    direction: u32,
    deadline_ns: i64,
    flags: u32,
) -> i32 {
    call(bell, |m| {
        if flags & !BELL_LEVEL_CHECK != 0 || deadline_ns < 0 {
            return Err(Error::INVAL);
        }
        m.slot_wait(handle, Direction::decode(direction)?, deadline_ns, flags & BELL_LEVEL_CHECK != 0)
    })
}
