//! An fd of the library's own.
use crate::error::{Error, Result};
use crate::libc;

/// An fd that is closed when dropped. Not std's `OwnedFd`, which aborts the process (in builds with debug assertions)
/// when it finds its fd closed already: `close_range` in the program around us must not end it.
pub struct Fd(pub i32);

#[cfg_attr(not(target_os = "linux"), allow(dead_code))]
impl Fd {
    /// From the result of a system call that makes an fd.
    pub fn made(result: i32) -> Result<Fd> {
        Error::check(result).map(Fd)
    }
    pub fn into_raw(self) -> i32 {
        std::mem::ManuallyDrop::new(self).0
    }
}

impl Drop for Fd {
    fn drop(&mut self) {
        if self.0 >= 0 {
            // SAFETY: the number is ours: made by us, given to nobody.
            unsafe { libc::close(self.0) };
        }
    }
}
