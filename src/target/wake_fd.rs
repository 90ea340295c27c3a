//! Target WAKE_FD: a write to an eventfd, pipe or socket of the caller's.
use crate::error::{Error, Result};
use crate::libc;

#[derive(Clone, Copy, PartialEq, Eq)]
pub struct WakeFd {
    pub fd: i32,
    /// One byte, for pipes and sockets, instead of an eventfd's eight.
    pub byte: bool,
}

impl WakeFd {
    /// The fd must be open, and non-blocking because delivery may not block. Eight bytes go to an eventfd only:
    /// elsewhere they could raise SIGPIPE.
    pub fn new(fd: i32, byte: bool) -> Result<WakeFd> {
        // SAFETY: numbers, and a struct of ours that fstat fills.
        let (flags, kind) = unsafe {
            let mut stat: libc::stat = std::mem::zeroed();
            let flags = Error::check(libc::fcntl(fd, libc::F_GETFL))?;
            Error::check(libc::fstat(fd, &mut stat))?;
            (flags, stat.st_mode & libc::S_IFMT)
        };
        let stream = matches!(kind, libc::S_IFIFO | libc::S_IFSOCK | libc::S_IFCHR);
        if flags & libc::O_NONBLOCK == 0 || flags & libc::O_ACCMODE == libc::O_RDONLY || stream != byte {
            return Err(Error::INVAL);
        }
        Ok(WakeFd { fd, byte })
    }

    /// `EAGAIN` means that it is full of wakes already. Other errors are the caller's own doing: nobody is left to be
    /// told.
    pub fn deliver(self) {
        if self.byte {
            self.write_byte();
        } else {
            let one: u64 = 1;
            // SAFETY: eight bytes of ours.
            unsafe { libc::write(self.fd, (&raw const one).cast(), 8) };
        }
    }

    /// A pipe without a reader raises SIGPIPE, which would end the process: it is held back, and taken away if it was
    /// this write that raised it.
    fn write_byte(self) {
        // SAFETY: plain data, filled by the calls; the mask of this thread is put back.
        unsafe {
            let sent = libc::send(self.fd, [1u8].as_ptr().cast(), 1, libc::MSG_NOSIGNAL);
            if sent >= 0 || std::io::Error::last_os_error().raw_os_error() != Some(libc::ENOTSOCK) {
                return;
            }
            let mut pipe: libc::sigset_t = std::mem::zeroed();
            let mut before: libc::sigset_t = std::mem::zeroed();
            let mut pending: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&mut pipe);
            libc::sigaddset(&mut pipe, libc::SIGPIPE);
            libc::sigpending(&mut pending);
            let was_pending = libc::sigismember(&pending, libc::SIGPIPE) == 1;
            libc::pthread_sigmask(libc::SIG_BLOCK, &pipe, &mut before);
            let written = libc::write(self.fd, [1u8].as_ptr().cast(), 1);
            let broken = written < 0 && std::io::Error::last_os_error().raw_os_error() == Some(libc::EPIPE);
            if broken && !was_pending {
                let mut taken = 0;
                libc::sigpending(&mut pending);
                if libc::sigismember(&pending, libc::SIGPIPE) == 1 {
                    libc::sigwait(&pipe, &mut taken);
                }
            }
            libc::pthread_sigmask(libc::SIG_SETMASK, &before, std::ptr::null_mut());
        }
    }
}
