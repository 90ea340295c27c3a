//! Linux: epoll(7). What is odd about it, and what is done about it here or by the caller; checked on Linux 6.18 where
//! no source is named.
//!
//! a) It watches open file descriptions, not numbers (epoll(7), "Questions and answers"). If a dup (or a forked child's
//!    copy) outlives the close, events go on under the old cookie, `EPOLL_CTL_DEL` of the number gives EBADF and of the
//!    dup ENOENT: a ghost. The reused number can be added beside it. Only a new instance helps: `rebuild`.
//! b) No interest still means HUP and ERR, level-triggered: a busy loop. So there is no level trigger here, and nobody
//!    disarms by an empty interest.
//! c) A oneshot that has fired keeps only its private bits (`EP_PRIVATE_BITS`, fs/eventpoll.c): silent on HUP too.
//!    `EPOLL_CTL_MOD` looks at the file again, so arming late loses nothing.
//! d) `EPOLLET` tells arrivals, by favour of the file: pipes told only changes from empty to non-empty in Linux 5.5 to
//!    5.13. Whoever waits must have drained first.
//! e) `EPOLLEXCLUSIVE` (4.5) goes with IN, OUT and ET only; RDHUP, PRI and ONESHOT beside it give EINVAL, and so does
//!    MOD of such an entry (epoll_ctl(2)).
//! f) EPERM: files without a poll operation (regular files, directories, /dev/null). They are always ready; select and
//!    poll say so, epoll refuses them.
//! g) ENOSPC: /proc/sys/fs/epoll/max_user_watches, counted for the user, not for the process (epoll(7)).
//! h) A forked child shares the set: its `EPOLL_CTL_DEL` takes out the parent's entry. A close does not while the
//!    parent has its fds open. So `Drop` only closes.
//! i) An eventfd that stands at 2^64 - 2 refuses the write with EAGAIN and gives no edge (eventfd(2)): see `wake`.
//! j) epoll in epoll: as soon as an instance is watched by another one, each `EPOLL_CTL_ADD` to it takes a mutex of the
//!    whole system to look for circles (do_epoll_ctl). So the outer instance of `pollable_fd` is made only if asked
//!    for.
//! k) `epoll_wait` counts milliseconds. `epoll_pwait2` (5.11) counts nanoseconds, takes a tv_sec of 2^62, and is
//!    missing in places: ENOSYS under valgrind 3.19, EPERM under the seccomp filters of old container run-times
//!    (buytenh/ivykis#33).
//! l) Waiting is never restarted after a signal, SA_RESTART or not (signal(7)).
//! m) `epoll_event` is packed on x86-64 and not elsewhere: fields are copied out, no reference to one is made.
use super::*;
use crate::event::NEVER;
use crate::heap;
use std::sync::atomic::AtomicBool;

pub struct Backend {
    epoll: Fd,
    waker: Fd,
    alarms: Alarms,
    /// The instance that contains `epoll`, for `pollable_fd`.
    outer: Lazy,
    /// Oddity k was met.
    no_pwait2: AtomicBool,
}

/// `struct __kernel_timespec`: 64 bits wide also where `time_t` is not.
#[repr(C)]
struct KernelTimespec {
    tv_sec: i64,
    tv_nsec: i64,
}

impl Backend {
    pub fn new() -> Result<Backend> {
        let epoll = create()?;
        // SAFETY: no pointers.
        let waker = Fd::made(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
        control(epoll.0, libc::EPOLL_CTL_ADD, waker.0, WAKER_EVENTS, WAKER)?;
        Ok(Backend { epoll, waker, alarms: Alarms::new(), outer: Lazy::new(), no_pwait2: AtomicBool::new(false) })
    }

    /// A change of the user's entries. A number that was closed behind our back may be one of our own fds by now: that
    /// entry is not the user's to change.
    #[inline]
    fn control(&self, what: i32, fd: i32, events: u32, cookie: u64) -> Result<()> {
        if fd == self.waker.0 || self.alarms.have(fd) {
            return Err(Error::BADF);
        }
        control(self.epoll.0, what, fd, events, cookie)
    }

    #[inline(always)]
    pub fn add(&self, fd: i32, interest: Interest, trigger: Trigger, exclusive: bool, cookie: u64) -> Result<()> {
        debug_assert!(cookie >= OWN);
        let mut events = epoll_bits(interest, trigger);
        if exclusive {
            // Oddity e. Nothing is lost without RDHUP: a listening socket has no peer.
            events = events & !EPOLLRDHUP | libc::EPOLLEXCLUSIVE as u32;
        }
        self.control(libc::EPOLL_CTL_ADD, fd, events, cookie)
    }

    #[inline(always)]
    pub fn modify(&self, fd: i32, interest: Interest, trigger: Trigger, cookie: u64) -> Result<()> {
        debug_assert!(cookie >= OWN);
        self.control(libc::EPOLL_CTL_MOD, fd, epoll_bits(interest, trigger), cookie)
    }

    /// `EBADF`: the fd was closed before, and if a dup of it is left, there is a ghost now.
    #[inline(always)]
    pub fn remove(&self, fd: i32) -> Result<()> {
        self.control(libc::EPOLL_CTL_DEL, fd, 0, 0)
    }

    pub fn wait(&self, events: &mut Events, timeout_ns: i64) -> Result<()> {
        events.clear();
        let n = match timeout_ns {
            // The older call is the cheaper one: 163 against 239 ns for a look that finds nothing.
            ..=0 => self.wait_ms(events, 0),
            NEVER => self.wait_ms(events, -1),
            ns => self.wait_ns(events, ns),
        }?;
        // SAFETY: the kernel has written the first n entries, and n <= limit <= capacity.
        unsafe { events.list.set_len(n as usize) };
        Ok(())
    }

    fn wait_ms(&self, events: &mut Events, ms: i32) -> Result<i32> {
        // SAFETY: the buffer has room for `limit` events, and `&mut` keeps others off.
        Error::check(unsafe { libc::epoll_wait(self.epoll.0, events.list.as_mut_ptr(), events.limit, ms) })
    }

    fn wait_ns(&self, events: &mut Events, ns: i64) -> Result<i32> {
        if !self.no_pwait2.load(Ordering::Relaxed) {
            let timeout = KernelTimespec { tv_sec: ns / 1_000_000_000, tv_nsec: ns % 1_000_000_000 };
            // Not through libc, whose wrapper is younger (glibc 2.35) than the system call.
            // SAFETY: as in `wait_ms`; the timespec is alive; a null signal mask is left alone.
            let n = unsafe {
                libc::syscall(
                    libc::SYS_epoll_pwait2,
                    self.epoll.0,
                    events.list.as_mut_ptr(),
                    events.limit,
                    &raw const timeout,
                    std::ptr::null::<libc::sigset_t>(),
                    0usize,
                )
            };
            match Error::check(n as i32) {
                Err(e) if e.code() == -libc::ENOSYS || e == Error::PERM => {
                    self.no_pwait2.store(true, Ordering::Relaxed)
                }
                r => return r,
            }
        }
        // An epoll fd is readable when `epoll_wait` would find something, and ppoll has nanoseconds.
        let start = now(Clock::Monotonic)?;
        let mut left = ns;
        loop {
            let mut p = libc::pollfd { fd: self.epoll.0, events: libc::POLLIN, revents: 0 };
            let timeout = timespec(left);
            // SAFETY: one pollfd and a timespec, alive during the call; no signal mask.
            let polled = Error::check(unsafe { libc::ppoll(&mut p, 1, &timeout, std::ptr::null()) })?;
            let n = self.wait_ms(events, 0)?;
            left = ns - (now(Clock::Monotonic)? - start);
            // Readiness that was gone again before the second call is no reason to come back early.
            if n > 0 || polled == 0 || left <= 0 {
                return Ok(n);
            }
        }
    }

    pub fn wake(&self) -> Result<()> {
        ring_eventfd(&self.waker)
    }

    pub fn end_wait(&self) {
        if self.wake().is_err() {
            // Asked for what it always is, the eventfd is told: without a write, which a filter may forbid.
            let events = WAKER_EVENTS | EPOLLOUT;
            let _ = control(self.epoll.0, libc::EPOLL_CTL_MOD, self.waker.0, events, WAKER);
        }
    }

    pub fn set_alarm(&self, clock: Clock, deadline_ns: i64) -> Result<()> {
        self.alarms.set(clock, deadline_ns, |fd| {
            control(self.epoll.0, libc::EPOLL_CTL_ADD, fd, ALARM_EVENTS, alarm_cookie(clock))
        })
    }

    pub fn pollable_fd(&self) -> Result<i32> {
        self.outer.get_or_make(
            || create().map(Fd::into_raw),
            |outer| control(outer, libc::EPOLL_CTL_ADD, self.epoll.0, libc::EPOLLIN as u32, 0),
        )
    }

    /// A new instance under the old number. A wake that was under way is told by the new one: the eventfd still counts
    /// it.
    pub fn rebuild(&self) -> Result<()> {
        let new = create()?;
        control(new.0, libc::EPOLL_CTL_ADD, self.waker.0, WAKER_EVENTS, WAKER)?;
        for (fd, cookie) in self.alarms.live() {
            control(new.0, libc::EPOLL_CTL_ADD, fd, ALARM_EVENTS, cookie)?;
        }
        let outer = self.outer.get();
        if let Some(outer) = outer {
            // Under its own number first, because this can fail, and after dup3 there is no way back.
            control(outer, libc::EPOLL_CTL_ADD, new.0, libc::EPOLLIN as u32, 0)?;
            // By hand, because a forked child's copy would keep the old instance, ghosts and all, in the outer one.
            control(outer, libc::EPOLL_CTL_DEL, self.epoll.0, 0, 0)?;
        }
        // SAFETY: no pointers. The old number stays ours and now means the new instance.
        if let Err(e) = Error::check(unsafe { libc::dup3(new.0, self.epoll.0, libc::O_CLOEXEC) }) {
            if let Some(outer) = outer {
                let _ = control(outer, libc::EPOLL_CTL_ADD, self.epoll.0, libc::EPOLLIN as u32, 0);
            }
            return Err(e);
        }
        if let Some(outer) = outer {
            // If the lasting number finds no room, the other entry does the same service as long as the instance lives.
            if control(outer, libc::EPOLL_CTL_ADD, self.epoll.0, libc::EPOLLIN as u32, 0).is_ok() {
                let _ = control(outer, libc::EPOLL_CTL_DEL, new.0, 0, 0);
            }
        }
        Ok(())
    }

    /// From `/proc`, ghosts included. By way of the thread: `/proc/self` cannot be read once the main thread has ended.
    pub fn registered(&self) -> Result<Vec<Registered>> {
        use std::io::Write;
        let mut path = [0u8; 64];
        let _ = write!(&mut path[..63], "/proc/thread-self/fdinfo/{}", self.epoll.0);
        // SAFETY: a string that ends with 0.
        let file = Fd::made(unsafe { libc::open(path.as_ptr().cast(), libc::O_RDONLY | libc::O_CLOEXEC) })?;
        let text = read_all(&file)?;
        let mut all = Vec::new();
        for line in text.split(|byte| *byte == b'\n') {
            let entry = std::str::from_utf8(line).ok().and_then(parse_fdinfo);
            if let Some(entry) = entry.filter(|r| r.cookie >= OWN) {
                heap::push(&mut all, entry)?;
            }
        }
        Ok(all)
    }

    pub fn has(&self, fd: i32) -> bool {
        fd == self.epoll.0 || fd == self.waker.0 || self.alarms.have(fd) || self.outer.get() == Some(fd)
    }

    pub fn heap_bytes(&self) -> usize {
        0
    }

    #[cfg(test)]
    #[cfg_attr(doorbell_sim, allow(dead_code))]
    pub fn forbid_pwait2(&self) {
        self.no_pwait2.store(true, Ordering::Relaxed);
    }

    #[cfg(test)]
    #[cfg_attr(doorbell_sim, allow(dead_code))]
    pub fn parse(line: &str) -> Option<Registered> {
        parse_fdinfo(line)
    }

    #[cfg(test)]
    #[cfg_attr(doorbell_sim, allow(dead_code))]
    pub fn own_fds(&self) -> Vec<i32> {
        let lazy = self.alarms.live().map(|(fd, _)| fd).chain(self.outer.get());
        [self.epoll.0, self.waker.0].into_iter().chain(lazy).collect()
    }
}

const WAKER: u64 = 0;
// Edges, because neither is read. A timerfd's count is taken back by the next `set_alarm`.
const WAKER_EVENTS: u32 = (libc::EPOLLIN | libc::EPOLLET) as u32;
const ALARM_EVENTS: u32 = WAKER_EVENTS;

const EPOLLIN: u32 = libc::EPOLLIN as u32;
const EPOLLOUT: u32 = libc::EPOLLOUT as u32;
const EPOLLPRI: u32 = libc::EPOLLPRI as u32;
const EPOLLRDHUP: u32 = libc::EPOLLRDHUP as u32;
const EPOLLHUP: u32 = libc::EPOLLHUP as u32;
const EPOLLERR: u32 = libc::EPOLLERR as u32;
/// epoll never says so. uring.rs does, of an fd that is not open any more.
pub const EPOLLNVAL: u32 = libc::POLLNVAL as u32;
const EPOLLET: u32 = libc::EPOLLET as u32;
const EPOLLONESHOT: u32 = libc::EPOLLONESHOT as u32;

fn create() -> Result<Fd> {
    // SAFETY: no pointers.
    Fd::made(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })
}

#[inline(always)]
fn control(epoll: i32, what: i32, fd: i32, events: u32, cookie: u64) -> Result<()> {
    let mut event = libc::epoll_event { events, u64: cookie };
    // SAFETY: the kernel reads the event, which is alive (and must not be null for DEL before Linux 2.6.9).
    Error::check(unsafe { libc::epoll_ctl(epoll, what, fd, &mut event) }).map(drop)
}

/// An edge. The counter is never read: each write is one, and one system call is saved for each wake.
pub fn ring_eventfd(fd: &Fd) -> Result<()> {
    loop {
        let one = 1u64;
        // SAFETY: the kernel reads 8 bytes from the u64.
        let n = unsafe { libc::write(fd.0, (&raw const one).cast(), 8) };
        match Error::check(n as i32) {
            // Oddity i: after 2^64 - 2 wakes, or when somebody else wrote to our fd. Emptied, the next write gives an
            // edge.
            Err(e) if e.code() == -libc::EAGAIN => {
                let mut count = 0u64;
                // SAFETY: the kernel writes 8 bytes into the u64. EAGAIN: another thread has emptied it.
                unsafe { libc::read(fd.0, (&raw mut count).cast(), 8) };
            }
            r => return r.map(drop),
        }
    }
}

/// Can epoll watch this file (oddity f)? Asked of an instance that goes again.
pub fn check_pollable(fd: i32) -> Result<()> {
    let epoll = create()?;
    control(epoll.0, libc::EPOLL_CTL_ADD, fd, 0, 0)
}

fn read_all(file: &Fd) -> Result<Vec<u8>> {
    const STEP: usize = 4096;
    let mut bytes = Vec::<u8>::new();
    loop {
        heap::room(&mut bytes, STEP)?;
        let room = bytes.spare_capacity_mut();
        // SAFETY: the kernel writes into the spare room, at most as much as there is.
        let n = unsafe { libc::read(file.0, room.as_mut_ptr().cast(), room.len()) };
        match Error::check(n as i32) {
            Ok(0) => return Ok(bytes),
            // SAFETY: the kernel has written n bytes behind the length.
            Ok(_) => unsafe { bytes.set_len(bytes.len() + n as usize) },
            Err(Error::INTR) => {}
            Err(e) => return Err(e),
        }
    }
}

fn epoll_bits(interest: Interest, trigger: Trigger) -> u32 {
    let i = interest.0 as u32;
    let trigger = match trigger {
        Trigger::Edge => EPOLLET,
        Trigger::Oneshot => EPOLLONESHOT,
    };
    carry(i, BELL_READ, EPOLLIN)
        | carry(i, BELL_WRITE, EPOLLOUT)
        | carry(i, BELL_PRI, EPOLLPRI)
        | carry(i, BELL_RDHUP, EPOLLRDHUP)
        | trigger
}

/// Looked up: a shift and a mask for each of six bits cost a sixth of all that is done for an event.
#[inline(always)]
fn epoll_ready(events: u32) -> Ready {
    /// All but RDHUP are among the first six bits.
    const LOW: [u16; 64] = {
        let mut table = [0; 64];
        let mut bits = 0;
        while bits < 64 {
            let ready = carry(bits, EPOLLIN, BELL_READ)
                | carry(bits, EPOLLOUT, BELL_WRITE)
                | carry(bits, EPOLLPRI, BELL_PRI)
                | carry(bits, EPOLLHUP, BELL_HUP)
                | carry(bits, EPOLLERR, BELL_ERR)
                | carry(bits, EPOLLNVAL, BELL_CLOSED);
            table[bits as usize] = ready as u16;
            bits += 1;
        }
        table
    };
    Ready(LOW[events as usize % 64] as u32 | carry(events, EPOLLRDHUP, BELL_RDHUP))
}

/// `tfd:        5 events:       19 data: 1000000000000001  pos:0 ino:60 sdev:d` (fs/eventpoll.c, ep_show_fdinfo;
/// proc(5)). The first number is decimal, the next two are hexadecimal.
fn parse_fdinfo(line: &str) -> Option<Registered> {
    let mut words = line.strip_prefix("tfd:")?.split_ascii_whitespace();
    let fd = words.next()?.parse().ok()?;
    let events = u32::from_str_radix(words.nth(1)?, 16).ok()?;
    let cookie = u64::from_str_radix(words.nth(1)?, 16).ok()?;
    // HUP and ERR are in every mask, but for a oneshot that has fired: what is left of that one names no interest.
    let asked = epoll_ready(events & !(EPOLLHUP | EPOLLERR));
    Some(Registered {
        fd,
        cookie,
        interest: Interest(asked.0 as u8),
        trigger: if events & EPOLLET != 0 { Trigger::Edge } else { Trigger::Oneshot },
        exclusive: events & libc::EPOLLEXCLUSIVE as u32 != 0,
    })
}

/// What one `wait` has found.
pub struct Events {
    list: Vec<libc::epoll_event>,
    limit: i32,
}

impl Events {
    pub fn new(capacity: usize) -> Result<Events> {
        // The kernel's own limit, and 0 is an error to it.
        let most = i32::MAX as usize / size_of::<libc::epoll_event>();
        if capacity == 0 || capacity > most {
            return Err(Error::INVAL);
        }
        let mut list = Vec::new();
        heap::exact_room(&mut list, capacity)?;
        Ok(Events { list, limit: capacity as i32 })
    }
    pub fn len(&self) -> usize {
        self.list.len()
    }
    pub fn is_full(&self) -> bool {
        self.list.len() == self.limit as usize
    }
    #[inline]
    pub fn get(&self, i: usize) -> (u64, Ready) {
        let e = &self.list[i];
        (e.u64, epoll_ready(e.events))
    }
    pub fn iter_from(&self, at: usize) -> impl Iterator<Item = (u64, Ready)> + '_ {
        self.list[at..].iter().map(|e| (e.u64, epoll_ready(e.events)))
    }
    pub fn clear(&mut self) {
        self.list.clear();
    }
    /// For uring.rs: there must be room.
    #[inline(always)]
    pub fn push(&mut self, cookie: u64, events: u32) {
        debug_assert!(!self.is_full());
        self.list.push(libc::epoll_event { events, u64: cookie });
    }
}
