//! Who are you: versions, layouts, features, the clock.
use super::{bare, write_out};
use crate::abi::*;
use crate::backend;
use crate::error::{self, Error};
use crate::event::Clock;
use std::ffi::c_char;
use std::mem::{align_of, size_of};

/// Returns the version of the binary interface: `BELL_ABI_MAJOR` << 16 | `BELL_ABI_MINOR` of the library that runs.
/// A program that was compiled with another major must not go on. [N], any thread.
#[unsafe(no_mangle)]
pub extern "C" fn bell_abi_version() -> u32 {
    BELL_ABI_MAJOR << 16 | BELL_ABI_MINOR
}

/// Returns the version of the library, like "0.1.0". A static string. [N], any thread.
#[unsafe(no_mangle)]
pub extern "C" fn bell_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

/// Returns what an error means, in English, for any result of this library; never null. A static string.
/// [N], any thread, async-signal-safe.
#[unsafe(no_mangle)]
pub extern "C" fn bell_strerror(error: i32) -> *const c_char {
    error::describe(error).as_ptr()
}

/// Tells size and alignment of a struct (`BELL_LAYOUT_*`): in bytes, as the library was compiled, for bindings that
/// check theirs when they load. Either output may be null. [N], any thread.
///
/// Errors: `-EINVAL` unknown struct.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bell_layout(struct_id: u32, size: *mut u32, align: *mut u32) -> i32 {
    bare(|| {
        let (s, a) = match struct_id {
            BELL_LAYOUT_CONFIG => (size_of::<bell_config>(), align_of::<bell_config>()),
            BELL_LAYOUT_TARGET => (size_of::<bell_target>(), align_of::<bell_target>()),
            BELL_LAYOUT_FD_SPEC => (size_of::<bell_fd_spec>(), align_of::<bell_fd_spec>()),
            BELL_LAYOUT_TIMEOUT_SPEC => (size_of::<bell_timeout_spec>(), align_of::<bell_timeout_spec>()),
            BELL_LAYOUT_EVENT => (size_of::<bell_event>(), align_of::<bell_event>()),
            BELL_LAYOUT_SLOT => (size_of::<bell_slot>(), align_of::<bell_slot>()),
            BELL_LAYOUT_COUNTERS => (size_of::<bell_counters>(), align_of::<bell_counters>()),
            BELL_LAYOUT_GHC_OPS => (size_of::<bell_ghc_ops>(), align_of::<bell_ghc_ops>()),
            _ => return Err(Error::INVAL),
        };
        for (out, v) in [(size, s), (align, a)] {
            if !out.is_null() {
                // SAFETY: the caller's pointer, checked for null and alignment inside.
                unsafe { write_out(out, v as u32)? };
            }
        }
        Ok(0)
    })
}

/// Tells what this build on this machine can do: `BELL_FEATURE_*`, ORed. [N], any thread.
///
/// Errors: `-EINVAL` null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bell_features(bits: *mut u64) -> i32 {
    bare(|| {
        // SAFETY: the caller's pointer, checked for null and alignment inside.
        unsafe { write_out(bits, backend::features())? };
        Ok(0)
    })
}

/// Returns the time of a clock (`BELL_CLOCK_*`) in nanoseconds, as deadlines count it. [N], any thread,
/// async-signal-safe.
///
/// Errors (negative): `-EINVAL` unknown clock; `BELL_E_UNSUPPORTED` a clock that this system lacks.
#[unsafe(no_mangle)]
pub extern "C" fn bell_now(clock: u32) -> i64 {
    match Clock::decode(clock).and_then(backend::now) {
        Ok(ns) => ns,
        Err(e) => e.code() as i64,
    }
}
