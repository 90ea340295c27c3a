//! The C interface: decode, one call, encode. The only place with exported symbols; the prose of its functions is the
//! C manual (`include/doorbell.h`). One file for each section of the header.
//!
//! What C must promise for each pointer is said in that manual, function by function, so there are no `# Safety`
//! sections.
#![allow(clippy::missing_safety_doc)]
// The marks [N] and [B] of that manual look like links.
#![allow(rustdoc::broken_intra_doc_links)]
pub mod drive;
pub mod fds;
pub mod identity;
pub mod life;
pub mod ops;
pub mod queues;
pub mod slots;
mod table;
pub mod timeouts;

#[cfg(feature = "test-hooks")]
pub mod test_hooks;

pub use crate::abi;

use crate::abi::*;
use crate::error::{Error, Result};
use crate::event::Handle;
use crate::manager::Manager;
use crate::target::Spec;
use crate::target::futex::ForeignWord;
use crate::target::mvar::StablePtr;
use crate::target::wake_fd::WakeFd;
use std::mem::MaybeUninit;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A manager. Created by `bell_create`, ended by `bell_destroy`, used by any thread in between. A number in the shape
/// of a pointer, checked at every call: one that was destroyed gives `BELL_E_STALE`.
#[allow(non_camel_case_types)]
pub struct bell_t {
    _private: [u8; 0],
}

/// After a failed simulation: its threads hold locks for ever, and the place shall be free.
#[cfg(doorbell_sim)]
pub fn forget_manager(bell: *mut bell_t) {
    table::forget(bell);
}

fn encode(result: Result<i32>) -> i32 {
    result.unwrap_or_else(|e| e.code())
}

/// A call without a manager.
fn bare(f: impl FnOnce() -> Result<i32>) -> i32 {
    catch_unwind(AssertUnwindSafe(|| encode(f()))).unwrap_or(BELL_E_POISONED)
}

/// A call on a manager, which may race with `bell_destroy`: the manager is held meanwhile. A panic poisons it:
/// unwinding does not cross the boundary.
fn call(bell: *mut bell_t, f: impl FnOnce(&Manager) -> Result<i32>) -> i32 {
    encode(table::with_pin(bell, |m| run(m, f)))
}

fn run(m: &Manager, f: impl FnOnce(&Manager) -> Result<i32>) -> Result<i32> {
    m.check()?;
    catch_unwind(AssertUnwindSafe(|| f(m))).unwrap_or_else(|_| {
        m.poison();
        Err(Error::POISONED)
    })
}

/// The library never prints: what panics in our own files says so by BELL_E_POISONED, not on stderr.
fn silence_own_panics() {
    type Hook = Box<dyn Fn(&std::panic::PanicHookInfo) + Sync + Send>;
    static ONCE: std::sync::Once = std::sync::Once::new();
    // Kept here, so that our hook captures nothing and its box needs no memory.
    static BEFORE: std::sync::OnceLock<Hook> = std::sync::OnceLock::new();
    ONCE.call_once(|| {
        let _ = BEFORE.set(std::panic::take_hook());
        std::panic::set_hook(Box::new(|info| {
            let ours = file!().trim_end_matches("ffi/mod.rs");
            if cfg!(test) || !info.location().is_some_and(|l| l.file().starts_with(ours)) {
                BEFORE.get().inspect(|before| before(info));
            }
        }));
    });
}

/// Writes a result to the caller's pointer.
///
/// # Safety
/// `out` is null, or as C says: valid for writing a `T`.
unsafe fn write_out<T>(out: *mut T, value: T) -> Result<()> {
    if out.is_null() || !out.is_aligned() {
        return Err(Error::INVAL);
    }
    // SAFETY: checked above, and the caller's promise.
    unsafe { out.write(value) };
    Ok(())
}

/// The most elements in a batch or an array: more than any call can use, and its size fits.
const MOST: u32 = 1 << 20;

/// An array that the caller lends for reading.
///
/// # Safety
/// `at` is null or valid for `n` elements during the call.
unsafe fn in_slice<'a, T>(at: *const T, n: u32) -> Result<&'a [T]> {
    match n {
        0 => Ok(&[]),
        1..=MOST if !at.is_null() && at.is_aligned() => {
            // SAFETY: checked, and the caller's promise.
            Ok(unsafe { std::slice::from_raw_parts(at, n as usize) })
        }
        _ => Err(Error::INVAL),
    }
}

/// An array that the caller lends for writing.
///
/// # Safety
/// `at` is null or valid for `n` elements during the call.
unsafe fn out_slice<'a, T>(at: *mut T, n: u32) -> Result<&'a mut [MaybeUninit<T>]> {
    match n {
        0 => Ok(&mut []),
        1..=MOST if !at.is_null() && at.is_aligned() => {
            // SAFETY: checked, and the caller's promise; what is in it does not matter.
            Ok(unsafe { std::slice::from_raw_parts_mut(at.cast(), n as usize) })
        }
        _ => Err(Error::INVAL),
    }
}

/// Structs that start with their size, and may be those of a newer header: what this library does not know must be
/// zero.
///
/// # Safety
/// `T` is a `repr(C)` struct of the interface that begins with a `u32` size; all its bit patterns are valid.
unsafe trait Sized32: Copy {}
// SAFETY: begin with `size: u32`; integers, pointers and nullable function pointers.
unsafe impl Sized32 for bell_config {}
// SAFETY: as above.
unsafe impl Sized32 for bell_ghc_ops {}
// SAFETY: as above.
unsafe impl Sized32 for bell_fd_spec {}
// SAFETY: as above.
unsafe impl Sized32 for bell_timeout_spec {}

/// Reads such a struct, where it lies: copying it was a tenth of what arming a timeout costs.
///
/// # Safety
/// `at` is null or points to as many bytes as its first field says, which nobody changes during the call.
#[allow(private_bounds)]
unsafe fn read_sized<'a, T: Sized32>(at: *const T) -> Result<&'a T> {
    const LARGEST: usize = 4096;
    if at.is_null() || !at.is_aligned() {
        return Err(Error::INVAL);
    }
    // SAFETY: aligned, and the caller says that it is there; `size` is the first field.
    let size = unsafe { at.cast::<u32>().read() } as usize;
    if size != size_of::<T>() {
        if size < size_of::<T>() || size > LARGEST {
            return Err(Error::ABI);
        }
        // SAFETY: the caller says that `size` bytes are there.
        let bytes = unsafe { std::slice::from_raw_parts(at.cast::<u8>(), size) };
        if bytes[size_of::<T>()..].iter().any(|b| *b != 0) {
            return Err(Error::TOOBIG);
        }
    }
    // SAFETY: at least `size_of::<T>()` bytes, and any pattern is a `T`.
    Ok(unsafe { &*at })
}

/// A target from C. Nothing of it is taken: whoever binds it does.
#[inline(always)]
fn decode_target(m: &Manager, t: &bell_target) -> Result<Spec> {
    let plain =
        t.flags == 0 && t.fd == 0 && t.capability == 0 && t.word.is_null() && t.stable_ptr.is_null() && t.queue == 0;
    match t.kind {
        BELL_TARGET_POLL if plain => Ok(Spec::Poll),
        BELL_TARGET_SLOT if plain => Ok(Spec::Slot),
        _ => decode_any_target(m, t),
    }
}

#[inline(never)]
fn decode_any_target(m: &Manager, t: &bell_target) -> Result<Spec> {
    // Every field must be what its kind uses, or zero.
    let unused = |kind: u32| {
        (t.kind == BELL_TARGET_WAKE_FD || (t.fd == 0 && t.flags == 0))
            && (t.kind == BELL_TARGET_MVAR || (t.capability == 0 && t.stable_ptr.is_null()))
            && (t.kind == BELL_TARGET_FUTEX || t.word.is_null())
            && (t.kind == BELL_TARGET_QUEUE || t.queue == 0)
            && kind <= BELL_TARGET_MVAR
    };
    if !unused(t.kind) {
        return Err(Error::INVAL);
    }
    Ok(match t.kind {
        BELL_TARGET_POLL => Spec::Poll,
        BELL_TARGET_SLOT => Spec::Slot,
        BELL_TARGET_FUTEX => Spec::Futex(ForeignWord::new(t.word)?),
        BELL_TARGET_WAKE_FD if t.flags & !BELL_WAKE_BYTE == 0 => {
            Spec::WakeFd(WakeFd::new(t.fd, t.flags & BELL_WAKE_BYTE != 0)?)
        }
        BELL_TARGET_QUEUE => Spec::Queue(m.queue(Handle(t.queue))?),
        BELL_TARGET_MVAR if !t.stable_ptr.is_null() => {
            Spec::Mvar(StablePtr { ptr: t.stable_ptr, capability: t.capability })
        }
        BELL_TARGET_NONE => Spec::None,
        _ => return Err(Error::INVAL),
    })
}

/// A target where null means "none given".
///
/// # Safety
/// `t` is null or valid for reading.
unsafe fn optional_target(m: &Manager, t: *const bell_target) -> Result<Option<Spec>> {
    if t.is_null() {
        return Ok(None);
    }
    if !t.is_aligned() {
        return Err(Error::INVAL);
    }
    // SAFETY: checked, and the caller's promise.
    decode_target(m, unsafe { &*t }).map(Some)
}
