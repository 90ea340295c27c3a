//! Is this still the process that made the manager, and is the manager sound? One load at every call.
//!
//! On Linux the mark is a page that the kernel wipes in a forked child (`MADV_WIPEONFORK`, Linux 4.14), elsewhere the
//! pid is compared.
use crate::error::{Error, Result};
use crate::libc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;

/// 0: forked.
const SOUND: u32 = 1;
const POISONED: u32 = 2;
/// Sound, if the process is that of the pid.
const ASK: u32 = 3;

pub struct Mark {
    page: *const AtomicU32,
    /// Where the page cannot be wiped: who made the mark.
    pid: AtomicU32,
}

// SAFETY: an atomic in a page of its own, mapped until drop.
unsafe impl Send for Mark {}
// SAFETY: as above.
unsafe impl Sync for Mark {}

const PAGE: usize = 4096;

impl Mark {
    pub fn new() -> Result<Mark> {
        // SAFETY: a fresh anonymous mapping.
        let page = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                PAGE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANON,
                -1,
                0,
            )
        };
        if page == libc::MAP_FAILED {
            return Err(Error::last());
        }
        let mark = Mark { page: page.cast_const().cast(), pid: AtomicU32::new(0) };
        #[cfg(target_os = "linux")]
        // SAFETY: the mapping made above.
        let wiped = unsafe { libc::madvise(page, PAGE, libc::MADV_WIPEONFORK) } == 0;
        #[cfg(not(target_os = "linux"))]
        let wiped = false;
        if !wiped {
            mark.pid.store(std::process::id(), Relaxed);
        }
        mark.set_sound();
        Ok(mark)
    }

    fn word(&self) -> &AtomicU32 {
        // SAFETY: mapped until drop.
        unsafe { &*self.page }
    }

    pub fn is_forked(&self) -> bool {
        let pid = self.pid.load(Relaxed);
        self.word().load(Relaxed) == 0 || (pid != 0 && pid != std::process::id())
    }

    #[inline]
    pub fn check(&self) -> Result<()> {
        if self.word().load(Relaxed) == SOUND { Ok(()) } else { self.check_slowly() }
    }

    #[cold]
    fn check_slowly(&self) -> Result<()> {
        match self.word().load(Relaxed) {
            _ if self.is_forked() => Err(Error::FORKED),
            POISONED => Err(Error::POISONED),
            _ => Ok(()),
        }
    }

    pub fn poison(&self) {
        self.word().store(POISONED, Relaxed);
    }
    pub fn is_sound(&self) -> bool {
        matches!(self.word().load(Relaxed), SOUND | ASK)
    }
    fn set_sound(&self) {
        self.word().store(if self.pid.load(Relaxed) == 0 { SOUND } else { ASK }, Relaxed);
    }

    /// In the child: this process it is now.
    pub fn adopt(&self) {
        if self.pid.load(Relaxed) != 0 {
            self.pid.store(std::process::id(), Relaxed);
        }
        self.set_sound();
    }

    /// In the child: taking over has failed, so it is not.
    pub fn disown(&self) {
        self.word().store(0, Relaxed);
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`.
        unsafe { libc::munmap(self.page.cast_mut().cast(), PAGE) };
    }
}
