//! Create, destroy, fork.
use super::{bare, bell_t, call, read_sized, table, write_out};
use crate::abi::*;
use crate::error::Error;
use crate::manager::{Config, Manager};
use crate::target::mvar::GhcOps;

/// Fills a config with the defaults: one shard, no library threads. `size` is `sizeof(bell_config)`.
/// [N], any thread.
///
/// Errors: `-EINVAL` null; `BELL_E_ABI` a size that this library does not know. Nothing is written then.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bell_config_init(config: *mut bell_config, size: u32) -> i32 {
    bare(|| {
        if size as usize != size_of::<bell_config>() {
            return Err(Error::ABI);
        }
        let defaults = bell_config {
            size,
            flags: 0,
            shards: 0,
            threads: 0,
            max_events: 0,
            reserved0: 0,
            slack_ns: 0,
            ghc: std::ptr::null(),
            reserved: [0; 4],
        };
        // SAFETY: the caller's pointer, checked for null and alignment inside.
        unsafe { write_out(config, defaults)? };
        Ok(0)
    })
}

/// Creates a manager. `config` may be null for the defaults. `*out` is written on success only; it is to be
/// ended by `bell_destroy`. It is a validated number in the shape of a pointer: never dereference it. [B] (it
/// makes fds and threads), any thread.
///
/// Errors: `-EINVAL` null `out`, a flag, reserved field or number out of range, `shards` that differs from
/// `threads`, or `ghc` without `try_putmvar`; `BELL_E_ABI` or `-E2BIG` a `size` that this library does not know
/// (too small, or with a tail that is not zero); `-EMFILE`, `-ENFILE`, `-ENOMEM`, `-EAGAIN`, `-ENOSPC` what the
/// system lacks; `BELL_E_FULL` 256 managers are alive in this process. With `BELL_IO_URING` also: `BELL_E_UNSUPPORTED`
/// the kernel is older than 6.1, or says that it has no io_uring; `-EPERM` it is forbidden, by kernel.io_uring_disabled
/// or a seccomp filter.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bell_create(config: *const bell_config, out: *mut *mut bell_t) -> i32 {
    bare(|| {
        if out.is_null() || !out.is_aligned() {
            return Err(Error::INVAL);
        }
        let mut decoded = Config::default();
        if !config.is_null() {
            // SAFETY: not null; `read_sized` checks the rest as far as can be.
            let c = unsafe { read_sized(config)? };
            if c.flags & !BELL_IO_URING != 0 || c.reserved0 != 0 || c.reserved != [0; 4] {
                return Err(Error::INVAL);
            }
            decoded.io_uring = c.flags & BELL_IO_URING != 0;
            decoded.shards = c.shards;
            decoded.threads = c.threads;
            decoded.max_events = c.max_events;
            decoded.slack_ns = i64::try_from(c.slack_ns).map_err(|_| Error::INVAL)?;
            if !c.ghc.is_null() {
                // SAFETY: as above.
                let g = unsafe { read_sized(c.ghc)? };
                if g.reserved != 0 {
                    return Err(Error::INVAL);
                }
                decoded.ghc =
                    Some(GhcOps { try_putmvar: g.try_putmvar.ok_or(Error::INVAL)?, thread_done: g.thread_done });
            }
        }
        let bell = table::insert(|| Manager::new(decoded))?;
        // SAFETY: checked above.
        unsafe { out.write(bell) };
        Ok(0)
    })
}

/// Ends a manager: its library threads are stopped and joined, what is still armed, and the doorbells of queues, get
/// `BELL_CLOSED`, and every MVAR that was not delivered is filled (so each StablePtr is consumed); memory and fds are
/// freed. Fds that were registered stay open: they are the caller's. With `BELL_FORCE`, threads inside `bell_poll`,
/// `bell_slot_wait`, `bell_queue_wait` or `bell_unregister` with `BELL_SYNC` are woken (they return `BELL_E_CLOSED`)
/// and waited for. Any other call may be running on this manager too: it is waited for, and from then on all get
/// `BELL_E_STALE`. (Not between `bell_before_fork` and its other half, which would be waited for in vain.) It is the
/// one call that also works on a poisoned manager, and in a forked child before `bell_after_fork_child` (where
/// nothing is delivered). [B], any thread but from a signal handler.
///
/// Errors: `BELL_E_STALE` not a manager, or destroyed already; `-EINVAL` unknown flags; `BELL_E_BUSY` without
/// `BELL_FORCE`: a thread is inside; nothing has changed.
#[unsafe(no_mangle)]
pub extern "C" fn bell_destroy(bell: *mut bell_t, flags: u32) -> i32 {
    bare(|| {
        if flags & !BELL_FORCE != 0 {
            return Err(Error::INVAL);
        }
        table::remove(bell, flags & BELL_FORCE != 0)?;
        Ok(0)
    })
}

/// Makes ready for `fork(2)`. Call it if other threads may be inside the library at that moment and the child will go
/// on using the manager: it waits until no change is under way and holds off new ones until
/// `bell_after_fork_parent` (in the parent) or `bell_after_fork_child` (in the child), which must follow on the
/// same thread. Made for `pthread_atfork`. [B], shortly.
///
/// fork(2) copies the fds before the memory. So a fork that was not made ready, while another thread is in its first
/// `bell_queue_fd` or `bell_pollable_fd`, may leave a child that takes a number for the library's which is none: when
/// it ends or takes over the manager it closes that number, whatever it has opened under it by then. And while another
/// thread makes a manager with `BELL_IO_URING`, or comes to drive one, the child may inherit a ring that it does not
/// know of: the files in it stay open until the child ends or calls exec.
///
/// Errors: `BELL_E_BUSY` the last one has not been followed by its other half; `-ENOMEM`.
#[unsafe(no_mangle)]
pub extern "C" fn bell_before_fork(bell: *mut bell_t) -> i32 {
    call(bell, |m| m.before_fork())
}

/// The parent's half after `bell_before_fork`. [N]
///
/// Errors: `-EINVAL` without a `bell_before_fork` on this manager.
#[unsafe(no_mangle)]
pub extern "C" fn bell_after_fork_parent(bell: *mut bell_t) -> i32 {
    call(bell, |m| m.after_fork_parent())
}

/// Makes the manager usable in the child after `fork(2)`. New kernel objects are made and every registration taken
/// over, or, with `BELL_FORK_RESET`, forgotten without delivery: no handle made from then on is one that the parent
/// had. The parent's kernel set is not touched. Library threads are started again. Threads of the parent that waited
/// do not exist here. Handles stay valid, slots stay mapped; fds from `bell_pollable_fd` must be asked for again.
/// Until then every other call on this manager fails with `BELL_E_FORKED`. A registration that the kernel refuses to
/// take over is told `BELL_ERR` with the reason. [B], and only while the child has one thread.
///
/// Errors: `-EINVAL` unknown flags, or not in a forked child; `BELL_E_BUSY` a thread of the parent was changing the
/// manager at the moment of the fork, so that its state is not known: call again with `BELL_FORK_RESET`, and next
/// time `bell_before_fork` before the fork; `-EMFILE`, `-ENFILE`, `-ENOMEM`, `-EAGAIN`, `-ENOSPC` what the system
/// lacks, and with `BELL_IO_URING` those of `bell_create`: the call may be repeated.
#[unsafe(no_mangle)]
pub extern "C" fn bell_after_fork_child(bell: *mut bell_t, flags: u32) -> i32 {
    bare(|| {
        if flags & !BELL_FORK_RESET != 0 {
            return Err(Error::INVAL);
        }
        table::with_mut(bell, |m| m.after_fork_child(flags & BELL_FORK_RESET != 0))
    })
}
