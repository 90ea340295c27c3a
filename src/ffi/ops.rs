//! Looking inside.
use super::{bell_t, call};
use crate::abi::*;
use crate::error::Error;

/// Counters of a shard, or of all (`BELL_SHARD_ANY`). `out->size` must be set by the caller. [N], any thread.
///
/// Errors: `-EINVAL` null, unknown shard; `BELL_E_ABI` the size.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bell_stats(bell: *mut bell_t, shard: u32, out: *mut bell_counters) -> i32 {
    call(bell, |m| {
        if out.is_null() || !out.is_aligned() {
            return Err(Error::INVAL);
        }
        // SAFETY: checked above; `size` is the struct's first field.
        if unsafe { (&raw const (*out).size).read() } as usize != size_of::<bell_counters>() {
            return Err(Error::ABI);
        }
        let s = m.stats(shard)?;
        // SAFETY: checked above.
        unsafe { out.write(s) };
        Ok(0)
    })
}

/// Checks the manager against itself and, on Linux, against what the kernel says it watches (`/proc/self/fdinfo`).
/// For tests and for reports of bugs; slow. Returns how many disagreements were found; `bell_dump` tells them. An fd
/// that was closed behind our back is one. [B], any thread.
///
/// Errors: `-EMFILE`, `-ENFILE`, `-ENOENT` the kernel's list cannot be read; `-ENOMEM`.
#[unsafe(no_mangle)]
pub extern "C" fn bell_verify(bell: *mut bell_t) -> i32 {
    call(bell, |m| m.verify())
}

/// Writes a description of the manager, a line for each live thing, as UTF-8 text to `fd`. [B], any thread.
///
/// Errors: those of `write(2)`, those of `bell_verify`, `-ENOMEM`.
#[unsafe(no_mangle)]
pub extern "C" fn bell_dump(bell: *mut bell_t, fd: i32) -> i32 {
    call(bell, |m| m.dump(fd))
}
