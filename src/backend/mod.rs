//! What the kernel does for a shard: watch fds, sleep, be woken. One backend is compiled in; this page is what each of
//! them promises. All that is not said here (registrations, timeouts, targets) is the shard's business.
//!
//! *The set.* `add` puts an fd in, with an interest, a trigger and a cookie; `modify` replaces all three; `remove`
//! takes it out. All take effect at once and from any thread, also while another one sleeps in `wait`, and report their
//! own errors: after an error the set is as before. An fd is in the set once: adding it again gives `EEXIST`, the
//! others `ENOENT` if it is not in. `EBADF` is an fd that is not open, `EPERM` one that cannot be watched (a regular
//! file). `add` and `modify` look at the fd: readiness that is there already is news. Cookies come back as they were
//! given; the backend does not look inside. Those below [`OWN`] are its own; its waker and alarms may show up under
//! them.
//!
//! *Triggers.* `Edge`: an event when readiness arrives, without a new `modify`; more events than edges are allowed,
//! fewer are not. `Oneshot`: one event, then silence, also about HUP and ERR, until `modify`. There is no level
//! trigger: one that nobody drains spins the driver. HUP and ERR are told whatever the interest (but
//! see kqueue.rs, o). A backend without edges or exclusive wake-ups says so in its constants and refuses with
//! `UNSUPPORTED`; it does not pretend.
//!
//! *Batches.* `wait` fills `Events` up to its capacity; what does not fit comes first, or in turn, at the next `wait`.
//! One fd may take more than one entry of a batch (kqueue: one for each direction). News of an fd that was removed or
//! modified after the batch was taken may still be in it: cookies carry a generation for that. No *later* batch holds
//! any, but for the ghosts that [`Backend::rebuild`] is for.
//!
//! *Waiting.* One thread at a time. The timeout is relative, 0 only looks, `NEVER` has no end. It is rounded up, never
//! down: `wait` comes back without an event before the time only if it was woken or an alarm fired. A signal ends it
//! with `EINTR` and an empty batch; nothing is lost. It does not allocate once the set has stopped growing.
//!
//! *Waking.* `wake` ends the current `wait`, or the next one if nobody waits. Several may end one. It is
//! async-signal-safe, and what was written before it is visible to the thread that it wakes. `end_wait` is for a manager
//! that ends: it makes whoever waits come back, with or without an error, also when `wake` fails; it may spoil waking.
//!
//! *Alarms.* `set_alarm` ends a `wait` at an absolute time of a clock; it is there for clocks that a relative timeout
//! does not follow (suspend, a wall clock that is set) and for a pollable fd, which has no timeout.
//!
//! *Rebuilding.* `rebuild` empties the set, ghosts included; the caller adds everything again. No other call but `wake`
//! may run meanwhile. After an error the set is as before.
//!
//! *Settling.* io_uring alone takes changes in the turn of the thread that waits (see uring.rs, a): `add` and `modify`
//! tell some errors as news (CLOSED, ERR), and `remove` lets go of the file later. `settle` returns when it has;
//! `move_in` and `move_out` say that the calling thread will always come back to `wait`. To the others it means
//! nothing.
//!
//! *Forking.* All fds are close-on-exec. Dropping a `Backend` only closes its fds and edits no kernel set, so a forked
//! child drops its copy without harm to the parent and makes a new one.
use crate::abi::*;
use crate::error::{Error, Result};
use crate::event::{Clock, Interest, Ready};
use crate::fd::Fd;
use crate::libc;
#[cfg(target_os = "linux")]
use std::sync::atomic::{AtomicI32, Ordering};

// The ladder: what `--cfg doorbell_backend` forces, else what the system has best. cfg has no "else", so each rung
// names those above it.
#[cfg(any(loom, shuttle))]
#[path = "../tests/model_kernel.rs"]
mod chosen;
#[cfg(all(
    not(any(loom, shuttle)),
    any(
        doorbell_backend = "epoll",
        all(not(any(doorbell_backend = "kqueue", doorbell_backend = "poll")), target_os = "linux")
    )
))]
#[path = "linux.rs"]
mod chosen;
#[cfg(all(
    not(any(loom, shuttle)),
    any(
        doorbell_backend = "kqueue",
        all(
            not(any(doorbell_backend = "epoll", doorbell_backend = "poll")),
            any(
                target_vendor = "apple",
                target_os = "freebsd",
                target_os = "netbsd",
                target_os = "openbsd",
                target_os = "dragonfly"
            )
        )
    )
))]
#[path = "kqueue.rs"]
mod chosen;
#[cfg(all(
    not(any(loom, shuttle)),
    any(
        doorbell_backend = "poll",
        all(
            not(any(doorbell_backend = "epoll", doorbell_backend = "kqueue")),
            not(any(
                target_os = "linux",
                target_vendor = "apple",
                target_os = "freebsd",
                target_os = "netbsd",
                target_os = "openbsd",
                target_os = "dragonfly"
            )),
            unix
        )
    )
))]
#[path = "poll.rs"]
mod chosen;
#[cfg(not(any(unix, loom, shuttle)))]
compile_error!("doorbell has no backend for this system");

// What kqueue.rs decides without the kernel: the tests ask it everywhere.
#[cfg(any(
    test,
    target_vendor = "apple",
    target_os = "freebsd",
    target_os = "netbsd",
    target_os = "openbsd",
    target_os = "dragonfly"
))]
#[cfg_attr(any(loom, shuttle, doorbell_backend = "poll"), allow(dead_code))]
pub mod kqueue_set;

pub use chosen::{Backend, Events};

// io_uring is beside epoll. Where that is not there: what it alone needs.
#[cfg(not(all(
    not(any(loom, shuttle)),
    any(
        doorbell_backend = "epoll",
        all(not(any(doorbell_backend = "kqueue", doorbell_backend = "poll")), target_os = "linux")
    )
)))]
impl Backend {
    pub fn with_io_uring() -> Result<Backend> {
        Err(Error::UNSUPPORTED)
    }
    pub fn is_io_uring(&self) -> bool {
        false
    }
    pub fn settle(&self, _: bool) {}
    pub fn move_in(&self) {}
    pub fn move_out(&self) {}
}

impl Backend {
    /// `ready_now` of an fd that is the user's: a number that was closed behind our back may be one of our own by now.
    pub fn look(&self, fd: i32, interest: Interest) -> Result<Ready> {
        if self.has(fd) { Err(Error::BADF) } else { ready_now(fd, interest) }
    }

    pub fn of_choice(io_uring: bool) -> Result<Backend> {
        if io_uring { Backend::with_io_uring() } else { Backend::new() }
    }
}

/// When the kernel is asked to tell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trigger {
    Edge,
    Oneshot,
}

/// One entry of the set as the kernel tells it, for `bell_verify`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Registered {
    pub fd: i32,
    pub cookie: u64,
    /// `NONE`: a oneshot that has been told and not armed again.
    pub interest: Interest,
    pub trigger: Trigger,
    pub exclusive: bool,
}

/// Cookies below are the backend's own. As handles they have generation 0, which is nobody's.
pub const OWN: u64 = 1 << 58;
#[cfg(target_os = "linux")]
const fn alarm_cookie(clock: Clock) -> u64 {
    (1 + clock as u64) << crate::event::GENERATION_FIELD
}

/// Alarms for the clocks that a sleep does not follow: boot time and real time. They need a timerfd.
pub const CLOCKS: bool = cfg!(target_os = "linux");

/// `BELL_FEATURE_*` of this build.
pub fn features() -> u64 {
    let mut bits = Backend::FEATURE;
    for (has, bit) in [
        (Backend::EDGE, BELL_FEATURE_EDGE),
        (Backend::EXCLUSIVE, BELL_FEATURE_EXCLUSIVE),
        (Backend::POLLABLE, BELL_FEATURE_POLLABLE),
        (Backend::NANOSECONDS, BELL_FEATURE_NANOSECONDS),
        (CLOCKS, BELL_FEATURE_CLOCKS),
        (cfg!(target_os = "linux"), BELL_FEATURE_FUTEX),
    ] {
        if has {
            bits |= bit;
        }
    }
    bits
}

/// The time of a clock in nanoseconds, from 0 to `NEVER` - 2: a wall clock set before 1970 stands at 0, and the last
/// deadline there is, `NEVER` - 1, does not come: a period that has arrived there would fire for ever.
/// Async-signal-safe.
#[allow(clippy::unnecessary_cast)] // the fields have 32 bits on some systems
pub fn now(clock: Clock) -> Result<i64> {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes the timespec, which is alive.
    Error::check(unsafe { libc::clock_gettime(clock_id(clock)?, &mut t) })?;
    let ns = (t.tv_sec as i64).saturating_mul(1_000_000_000).saturating_add(t.tv_nsec as i64);
    Ok(ns.clamp(0, crate::event::NEVER - 2))
}

fn clock_id(clock: Clock) -> Result<libc::clockid_t> {
    match clock {
        // CLOCK_MONOTONIC goes on there while the machine is suspended, and sleeps do not (clock_gettime(3)). std's
        // `Instant` is this one too.
        #[cfg(target_vendor = "apple")]
        Clock::Monotonic => Ok(libc::CLOCK_UPTIME_RAW),
        #[cfg(not(target_vendor = "apple"))]
        Clock::Monotonic => Ok(libc::CLOCK_MONOTONIC),
        #[cfg(target_os = "linux")]
        Clock::Boot => Ok(libc::CLOCK_BOOTTIME),
        #[cfg(not(target_os = "linux"))]
        Clock::Boot => Err(Error::UNSUPPORTED),
        Clock::Real => Ok(libc::CLOCK_REALTIME),
    }
}

/// What an fd is ready for at this moment, by poll(2): the question that edge triggers cannot answer.
pub fn ready_now(fd: i32, interest: Interest) -> Result<Ready> {
    // poll(2) passes over negative numbers in silence.
    if fd < 0 {
        return Err(Error::BADF);
    }
    let mut p = libc::pollfd { fd, events: poll_bits(interest), revents: 0 };
    // SAFETY: one pollfd, alive during the call.
    Error::check(unsafe { libc::poll(&mut p, 1, 0) })?;
    if p.revents & libc::POLLNVAL != 0 { Err(Error::BADF) } else { Ok(poll_ready(p.revents)) }
}

// Linux, FreeBSD and illumos have POLLRDHUP. Elsewhere the end of a stream is READ only.
#[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd", target_os = "illumos"))]
const POLLRDHUP: i16 = libc::POLLRDHUP;
#[cfg(not(any(target_os = "linux", target_os = "android", target_os = "freebsd", target_os = "illumos")))]
const POLLRDHUP: i16 = 0;

fn poll_bits(interest: Interest) -> i16 {
    let i = interest.0 as u32;
    (carry(i, BELL_READ, libc::POLLIN as u32)
        | carry(i, BELL_WRITE, libc::POLLOUT as u32)
        | carry(i, BELL_PRI, libc::POLLPRI as u32)
        | carry(i, BELL_RDHUP, POLLRDHUP as u32)) as i16
}

fn poll_ready(revents: i16) -> Ready {
    let r = revents as u32;
    Ready(
        carry(r, libc::POLLIN as u32, BELL_READ)
            | carry(r, libc::POLLOUT as u32, BELL_WRITE)
            | carry(r, libc::POLLPRI as u32, BELL_PRI)
            | carry(r, POLLRDHUP as u32, BELL_RDHUP)
            | carry(r, libc::POLLHUP as u32, BELL_HUP)
            | carry(r, libc::POLLERR as u32, BELL_ERR),
    )
}

/// `to` if `from` is among `bits`. Between single-bit constants it compiles to an AND and a shift, without a branch.
#[inline(always)]
const fn carry(bits: u32, from: u32, to: u32) -> u32 {
    if bits & from != 0 { to } else { 0 }
}

/// A time that is not negative. Where `time_t` has 32 bits, what does not fit becomes its end, 68 years.
#[allow(clippy::unnecessary_cast)]
#[cfg_attr(target_env = "musl", allow(deprecated))] // `time_t`: libc warns that it will be wider on 32-bit musl
#[cfg_attr(all(target_vendor = "apple", doorbell_backend = "poll"), allow(dead_code))]
fn timespec(ns: i64) -> libc::timespec {
    let seconds = (ns / 1_000_000_000).min(libc::time_t::MAX as i64);
    libc::timespec { tv_sec: seconds as libc::time_t, tv_nsec: (ns % 1_000_000_000) as _ }
}

/// One timerfd for each clock, made when first needed.
///
/// fork(2) copies the table of fds before the memory. So a child may remember the number of a timerfd that came in
/// between, which is nothing in its table, or something of its own by the time it would close it. The interval tells
/// whose a timerfd is: more than 36 years, so it comes to nothing, and another one for each shard that there has been.
#[cfg(target_os = "linux")]
struct Alarms {
    fds: [Lazy; 3],
    interval_ns: i64,
}

#[cfg(target_os = "linux")]
impl Alarms {
    fn new() -> Alarms {
        static MADE: std::sync::atomic::AtomicI64 = std::sync::atomic::AtomicI64::new(1 << 60);
        let interval_ns = MADE.fetch_add(1, Ordering::Relaxed);
        Alarms { fds: [Lazy::new(), Lazy::new(), Lazy::new()], interval_ns }
    }

    /// `watch` puts a new timerfd into the kernel set.
    fn set(&self, clock: Clock, deadline_ns: i64, watch: impl FnOnce(i32) -> Result<()>) -> Result<()> {
        let slot = &self.fds[clock as usize];
        if slot.get().is_none() && deadline_ns == crate::event::NEVER {
            return Ok(());
        }
        let fd = slot.get_or_make(
            // SAFETY: no pointers.
            || Ok(unsafe { libc::timerfd_create(clock_id(clock)?, libc::TFD_CLOEXEC | libc::TFD_NONBLOCK) }),
            watch,
        )?;
        // A jump of the wall clock fires the timer (timerfd_create(2), TFD_TIMER_CANCEL_ON_SET), so that the shard
        // looks at its real-time deadlines again. The other clocks do not jump and refuse the flag.
        let on_jump = if clock == Clock::Real { libc::TFD_TIMER_CANCEL_ON_SET } else { 0 };
        let at = libc::itimerspec {
            it_interval: timespec(self.interval_ns),
            it_value: match deadline_ns {
                crate::event::NEVER => timespec(0), // disarms
                ns => timespec(ns.max(1)),
            },
        };
        let set = || {
            // SAFETY: the kernel reads the itimerspec, which is alive.
            Error::check(unsafe {
                libc::timerfd_settime(fd, libc::TFD_TIMER_ABSTIME | on_jump, &at, std::ptr::null_mut())
            })
        };
        // ECANCELED: the clock jumped since the last call. The timer is armed all the same, by the new time; only its
        // record of the flags was skipped (fs/timerfd.c, timerfd_setup), so again.
        loop {
            match set() {
                Err(e) if e.code() == -libc::ECANCELED => {}
                r => return r.map(drop),
            }
        }
    }

    /// Without a branch for each, because every change of the set asks. Acquire is not needed: nothing behind the number is used.
    #[inline(always)]
    fn have(&self, fd: i32) -> bool {
        self.fds.iter().fold(false, |found, slot| found | (slot.0.load(Ordering::Relaxed) == fd))
    }

    /// Those that exist, with their cookies.
    fn live(&self) -> impl Iterator<Item = (i32, u64)> + '_ {
        Clock::ALL.into_iter().filter_map(|c| Some((self.fds[c as usize].get()?, alarm_cookie(c))))
    }
}

#[cfg(target_os = "linux")]
impl Drop for Alarms {
    fn drop(&mut self) {
        for slot in &mut self.fds {
            let Some(fd) = slot.get() else { continue };
            let mut told = libc::itimerspec { it_interval: timespec(0), it_value: timespec(0) };
            // SAFETY: the kernel writes the itimerspec, which is alive.
            let asked = Error::check(unsafe { libc::timerfd_gettime(fd, &mut told) });
            let ours = timespec(self.interval_ns);
            let is_ours = match asked {
                Ok(_) => (told.it_interval.tv_sec, told.it_interval.tv_nsec) == (ours.tv_sec, ours.tv_nsec),
                // Not open, or no timerfd. Else a filter forbids to ask.
                Err(e) => e != Error::BADF && e != Error::INVAL,
            };
            if !is_ours {
                *slot.0.get_mut() = -1;
            }
        }
    }
}

/// An fd that is made when first asked for, by whichever thread.
#[cfg(target_os = "linux")]
struct Lazy(AtomicI32);

#[cfg(target_os = "linux")]
impl Lazy {
    fn new() -> Lazy {
        Lazy(AtomicI32::new(-1))
    }
    fn get(&self) -> Option<i32> {
        let fd = self.0.load(Ordering::Acquire);
        (fd >= 0).then_some(fd)
    }
    /// `ready` is called before others can see the fd. Of two threads that come at once, one throws its fd away:
    /// closing it takes it out of the kernel set, and it was never armed.
    fn get_or_make(&self, make: impl FnOnce() -> Result<i32>, ready: impl FnOnce(i32) -> Result<()>) -> Result<i32> {
        if let Some(fd) = self.get() {
            return Ok(fd);
        }
        let fd = Fd::made(make()?)?;
        ready(fd.0)?;
        // Release, with the Acquire of `get`: whoever sees the number finds the fd in the set.
        match self.0.compare_exchange(-1, fd.0, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => Ok(fd.into_raw()),
            Err(theirs) => Ok(theirs),
        }
    }
}

#[cfg(target_os = "linux")]
impl Drop for Lazy {
    fn drop(&mut self) {
        drop(Fd(*self.0.get_mut()));
    }
}
