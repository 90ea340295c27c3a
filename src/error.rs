//! One error type: the number that the C interface returns.
use crate::abi::*;
use std::ffi::CStr;

/// A negative number: `-errno` or `BELL_E_*`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Error(i32);

pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub const INVAL: Error = Error(-libc::EINVAL);
    pub const BADF: Error = Error(-libc::EBADF);
    pub const PERM: Error = Error(-libc::EPERM);
    pub const NOENT: Error = Error(-libc::ENOENT);
    pub const EXIST: Error = Error(-libc::EEXIST);
    pub const NOMEM: Error = Error(-libc::ENOMEM);
    pub const INTR: Error = Error(-libc::EINTR);
    pub const TIMEDOUT: Error = Error(-libc::ETIMEDOUT);
    pub const TOOBIG: Error = Error(-libc::E2BIG);
    pub const STALE: Error = Error(BELL_E_STALE);
    pub const CLOSED: Error = Error(BELL_E_CLOSED);
    pub const CANCELLED: Error = Error(BELL_E_CANCELLED);
    pub const BUSY: Error = Error(BELL_E_BUSY);
    pub const ABI: Error = Error(BELL_E_ABI);
    pub const POISONED: Error = Error(BELL_E_POISONED);
    pub const UNSUPPORTED: Error = Error(BELL_E_UNSUPPORTED);
    pub const FORKED: Error = Error(BELL_E_FORKED);
    pub const FULL: Error = Error(BELL_E_FULL);

    /// Of something that may be there later.
    pub fn is_shortage(self) -> bool {
        matches!(-self.0, libc::ENOMEM | libc::ENOSPC | libc::EMFILE | libc::ENFILE | libc::EAGAIN)
    }
    pub fn code(self) -> i32 {
        self.0
    }
    /// The thread's errno, after a system call that failed.
    pub fn last() -> Error {
        Error::from_io(&std::io::Error::last_os_error())
    }
    pub fn from_io(e: &std::io::Error) -> Error {
        Error(-e.raw_os_error().unwrap_or(libc::EIO))
    }
    /// -1 from a system call becomes the errno.
    pub fn check(result: i32) -> Result<i32> {
        if result < 0 { Err(Error::last()) } else { Ok(result) }
    }
}

/// For `bell_strerror`: ours, and the errnos that the header names.
pub fn describe(code: i32) -> &'static CStr {
    match code {
        0.. => c"success",
        BELL_E_STALE => c"the handle or manager is gone, or never was",
        BELL_E_CLOSED => c"the fd or the manager is being closed",
        BELL_E_CANCELLED => c"unregistered while the call waited for it",
        BELL_E_BUSY => c"in use, or somebody else does it already",
        BELL_E_ABI => c"unknown struct size: header and library do not match",
        BELL_E_POISONED => c"a bug inside libdoorbell was met in this manager; only bell_destroy works",
        BELL_E_UNSUPPORTED => c"not supported by this backend, system or kind of manager",
        BELL_E_FORKED => c"the process forked: call bell_after_fork_child first",
        BELL_E_FULL => c"a limit of libdoorbell is reached",
        _ => errno(code.wrapping_neg()),
    }
}

fn errno(errno: i32) -> &'static CStr {
    match errno {
        libc::EINVAL => c"invalid argument (EINVAL)",
        libc::EBADF => c"not an open file descriptor (EBADF)",
        libc::EPERM => c"the kernel cannot poll this fd, or the system call is forbidden (EPERM)",
        libc::ENOENT => c"no such entry (ENOENT)",
        libc::ENOMEM => c"out of memory (ENOMEM)",
        libc::ENOSPC => c"no room: limit of max_user_watches or of the device (ENOSPC)",
        libc::EMFILE => c"too many open files in this process (EMFILE)",
        libc::ENFILE => c"too many open files in the system (ENFILE)",
        libc::EAGAIN => c"temporarily out of resources (EAGAIN)",
        libc::EINTR => c"interrupted by a signal (EINTR)",
        libc::ETIMEDOUT => c"the deadline passed (ETIMEDOUT)",
        libc::E2BIG => c"a struct has an unknown tail that is not zero (E2BIG)",
        libc::ELOOP => c"epoll fds nested in a circle or too deep (ELOOP)",
        libc::EIO => c"input/output error (EIO)",
        libc::ENOSYS => c"the system call does not exist here (ENOSYS)",
        libc::EPIPE => c"the reading end is closed (EPIPE)",
        libc::EACCES => c"permission denied (EACCES)",
        libc::EDQUOT => c"disk quota exceeded (EDQUOT)",
        _ => c"unknown error",
    }
}
