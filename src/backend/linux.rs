//! Linux has two: epoll, and io_uring for a manager that asks for it. Each call chooses once, by one branch; what a
//! wait has found has the same shape for both, so that no loop over it has to choose again.
use super::*;

#[path = "epoll.rs"]
mod epoll;
#[path = "uring.rs"]
mod uring;

pub use epoll::Events;

pub enum Backend {
    Epoll(epoll::Backend),
    Uring(Box<uring::Backend>),
}

macro_rules! either {
    ($self:ident, $backend:ident => $what:expr) => {
        match $self {
            Backend::Epoll($backend) => $what,
            Backend::Uring($backend) => $what,
        }
    };
}

impl Backend {
    pub const EDGE: bool = true;
    pub const EXCLUSIVE: bool = true;
    pub const POLLABLE: bool = true;
    pub const NANOSECONDS: bool = true;
    pub const FEATURE: u64 = BELL_FEATURE_EPOLL | BELL_FEATURE_IO_URING;

    pub fn new() -> Result<Backend> {
        epoll::Backend::new().map(Backend::Epoll)
    }
    pub fn with_io_uring() -> Result<Backend> {
        crate::heap::boxed(uring::Backend::new()?).map(Backend::Uring)
    }
    #[cfg(test)]
    #[cfg_attr(doorbell_sim, allow(dead_code))]
    pub fn with_small_io_uring(entries: u32) -> Backend {
        Backend::Uring(Box::new(uring::Backend::with_entries(entries, entries).unwrap()))
    }
    pub fn is_io_uring(&self) -> bool {
        matches!(self, Backend::Uring(_))
    }

    #[inline(always)]
    pub fn add(&self, fd: i32, interest: Interest, trigger: Trigger, exclusive: bool, cookie: u64) -> Result<()> {
        either!(self, b => b.add(fd, interest, trigger, exclusive, cookie))
    }
    #[inline(always)]
    pub fn modify(&self, fd: i32, interest: Interest, trigger: Trigger, cookie: u64) -> Result<()> {
        either!(self, b => b.modify(fd, interest, trigger, cookie))
    }
    #[inline(always)]
    pub fn remove(&self, fd: i32) -> Result<()> {
        either!(self, b => b.remove(fd))
    }
    #[inline(always)]
    pub fn wait(&self, events: &mut Events, timeout_ns: i64) -> Result<()> {
        either!(self, b => b.wait(events, timeout_ns))
    }
    pub fn wake(&self) -> Result<()> {
        either!(self, b => b.wake())
    }
    pub fn end_wait(&self) {
        either!(self, b => b.end_wait())
    }
    pub fn set_alarm(&self, clock: Clock, deadline_ns: i64) -> Result<()> {
        either!(self, b => b.set_alarm(clock, deadline_ns))
    }
    pub fn pollable_fd(&self) -> Result<i32> {
        match self {
            Backend::Epoll(b) => b.pollable_fd(),
            Backend::Uring(_) => Err(Error::UNSUPPORTED),
        }
    }
    pub fn rebuild(&self) -> Result<()> {
        either!(self, b => b.rebuild())
    }
    pub fn registered(&self) -> Result<Vec<Registered>> {
        either!(self, b => b.registered())
    }
    pub fn has(&self, fd: i32) -> bool {
        either!(self, b => b.has(fd))
    }
    pub fn heap_bytes(&self) -> usize {
        either!(self, b => b.heap_bytes())
    }

    /// Returns when the kernel has let go of every fd that was removed before. epoll does so at once. With io_uring the
    /// thread that waits must see to it: who calls it is that thread, or waits for it as long as it is in `wait`;
    /// `patiently`, also until a thread that has moved in comes back to `wait`. (Not under a lock that it may want.)
    #[inline(always)]
    pub fn settle(&self, patiently: bool) {
        if let Backend::Uring(b) = self {
            b.settle(patiently);
        }
    }
    pub fn move_in(&self) {
        if let Backend::Uring(b) = self {
            b.move_in();
        }
    }
    pub fn move_out(&self) {
        if let Backend::Uring(b) = self {
            b.move_out();
        }
    }

    #[cfg(test)]
    #[cfg_attr(doorbell_sim, allow(dead_code))]
    pub fn forbid_pwait2(&self) {
        if let Backend::Epoll(b) = self {
            b.forbid_pwait2();
        }
    }
    #[cfg(test)]
    #[cfg_attr(doorbell_sim, allow(dead_code))]
    pub fn parse(line: &str) -> Option<Registered> {
        epoll::Backend::parse(line)
    }
    #[cfg(test)]
    #[cfg_attr(doorbell_sim, allow(dead_code))]
    pub fn own_fds(&self) -> Vec<i32> {
        either!(self, b => b.own_fds())
    }
}
