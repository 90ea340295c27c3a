//! macOS and the BSDs: kqueue(2). What is odd about it, and what is done about it here or in `kqueue_set.rs`. It was
//! compiled on Linux for these systems and never run on one of them: the sources of this page are manuals, the kernels'
//! sources, and other event loops. ("libuv" is src/unix/kqueue.c, "mio" src/sys/unix/selector/kqueue.rs, "Go"
//! src/runtime/netpoll_kqueue*.go.)
//!
//! a) Filters belong to the number of an fd and go when that number is closed (kqueue(2), EV_DELETE): there are no
//!    ghosts. But nothing tells of it either, and EV_ADD takes the next file under the number for a new one. So what is
//!    known is changed without EV_ADD, which gives ENOENT as epoll does.
//! b) Flags count at EV_ADD of a new filter only. To change a trigger, the filter is removed and put in anew.
//! c) EV_ONESHOT removes the filter, and oddity a could not be seen; EV_DISPATCH disables it. EV_ENABLE looks at the fd
//!    again because a filter of EV_DISPATCH without EV_CLEAR stays active; for one of EV_CLEAR that is not said
//!    anywhere, so those are put in anew.
//! d) EV_RECEIPT makes each change answer, with 0 or an errno, and takes no events away (kqueue(2)). A signal does not
//!    undo changes: "all changes in the changelist have been applied" (FreeBSD's kqueue(2), ERRORS).
//! e) Regular files are ready for ever on FreeBSD, a busy loop, and once on the others (libuv, uv__io_check_fd). They
//!    are refused, as by epoll. EINVAL, ENODEV and the like for a sound change: a file without kqueue support (/dev/tty
//!    on macOS, libuv's stream.c).
//! f) EPIPE at EV_ADD for writing: a pipe that has lost its reader (FreeBSD's sys_pipe.c; macOS 10.10 and 10.11,
//!    mio#582). The filter for reading, which is always beside it, tells HUP.
//! g) macOS does not tell that the last writer of a FIFO with a name is gone (libuv, uv__io_check_fd). Nothing is done
//!    about it.
//! h) A queue is not inherited by fork(2). In a child its number may be anybody's: `Kqueue` closes it only in the
//!    process that has made it.
//! i) macOS refuses a timeout of more than 10^8 seconds (Go waits for 10^6 at the most) and cuts it to microseconds:
//!    rounded up, and the clock has the last word.
//! j) EVFILT_USER is missing on NetBSD before 10 and on OpenBSD for long: a pipe there, as in Go.
//! k) EV_ADD of a timer that runs starts it anew on some systems and does nothing on older ones: removed first. Without a
//!    unit it counts milliseconds everywhere; 0 is an error on NetBSD (crystal#17420).
//! l) Timers follow neither a wall clock that is set nor, but on macOS, a suspended machine: no alarms for the clocks
//!    that need one.
//! m) Out-of-band data: EVFILT_EXCEPT with NOTE_OOB on macOS, OpenBSD and DragonFly. FreeBSD and NetBSD have nothing:
//!    PRI is refused there.
//! n) There is no exclusive wake-up.
//! o) EV_EOF is told by direction. That both have ended is known if both are watched: a socket watched for one alone
//!    tells RDHUP, or an event of WRITE, where epoll adds HUP. EVFILT_WRITE has it after our own shutdown(2) already.
use super::kqueue_set::{Act, Change, Filter, MOST_CHANGES, Seen, Set, Wanted};
use super::*;
use crate::event::NEVER;
use crate::sync::Mutex;
use std::sync::atomic::{AtomicI64, Ordering};

pub struct Backend {
    kqueue: Kqueue,
    waker: waker::Waker,
    /// Also covers the changes of the kernel's filters, so that both agree.
    set: Mutex<Set>,
    /// When the monotonic alarm rings. `NEVER`: not set.
    alarm: AtomicI64,
}

impl Backend {
    pub const EDGE: bool = true;
    pub const EXCLUSIVE: bool = false;
    pub const POLLABLE: bool = true;
    /// Oddity i: microseconds.
    pub const NANOSECONDS: bool = GRAIN_NS == 1;
    pub const FEATURE: u64 = BELL_FEATURE_KQUEUE;

    pub fn new() -> Result<Backend> {
        let kqueue = Kqueue::new()?;
        let waker = waker::Waker::new(&kqueue)?;
        Ok(Backend { kqueue, waker, set: Mutex::new(Set::default()), alarm: AtomicI64::new(NEVER) })
    }

    pub fn add(&self, fd: i32, interest: Interest, trigger: Trigger, exclusive: bool, cookie: u64) -> Result<()> {
        if exclusive {
            return Err(Error::UNSUPPORTED);
        }
        let wanted = wanted(fd, interest, trigger, cookie)?;
        self.set.lock().add(fd, wanted, &mut |changes| self.kqueue.change(changes))
    }

    pub fn modify(&self, fd: i32, interest: Interest, trigger: Trigger, cookie: u64) -> Result<()> {
        let wanted = wanted(fd, interest, trigger, cookie)?;
        self.set.lock().modify(fd, wanted, &mut |changes| self.kqueue.change(changes))
    }

    pub fn remove(&self, fd: i32) -> Result<()> {
        match self.set.lock().remove(fd, &mut |changes| self.kqueue.change(changes)) {
            // As epoll answers.
            // SAFETY: no pointers.
            Err(Error::NOENT) => Error::check(unsafe { libc::fcntl(fd, libc::F_GETFD) }).and(Err(Error::NOENT)),
            r => r,
        }
    }

    pub fn wait(&self, events: &mut Events, timeout_ns: i64) -> Result<()> {
        let start = if 0 < timeout_ns && timeout_ns < NEVER { now(Clock::Monotonic)? } else { 0 };
        let mut left = timeout_ns;
        loop {
            events.clear();
            self.kqueue.wait(&mut events.list, left)?;
            let ended = self.report(events)?;
            if ended || !events.found.is_empty() || left <= 0 {
                return Ok(());
            }
            // What came was of no interest, or the time came early.
            if left != NEVER {
                left = timeout_ns - (now(Clock::Monotonic)? - start);
                if left <= 0 {
                    return Ok(());
                }
            }
        }
    }

    /// Turns the answers of the kernel into events. True if `wait` is over although there may be none.
    fn report(&self, events: &mut Events) -> Result<bool> {
        let mut ended = false;
        let mut set = self.set.lock();
        set.begin_batch();
        for k in &events.list {
            if self.waker.is(k) {
                self.waker.answer();
                ended = true;
            } else if k.filter == libc::EVFILT_TIMER {
                ended |= self.alarm_rang()?;
            } else if let Some(seen) = seen(k) {
                set.report(seen, &mut events.found);
            }
        }
        Ok(ended)
    }

    pub fn wake(&self) -> Result<()> {
        self.waker.wake(&self.kqueue)
    }

    /// If this fails, kevent(2) does, and then nobody waits in it.
    pub fn end_wait(&self) {
        let _ = self.wake();
    }

    /// Oddity l. The monotonic clock is for who sleeps on the pollable fd.
    pub fn set_alarm(&self, clock: Clock, deadline_ns: i64) -> Result<()> {
        if clock != Clock::Monotonic {
            return Err(Error::UNSUPPORTED);
        }
        self.kqueue.set_timer(deadline_ns)?;
        self.alarm.store(deadline_ns, Ordering::Relaxed);
        Ok(())
    }

    /// False: too early, and the timer runs again.
    fn alarm_rang(&self) -> Result<bool> {
        let deadline = self.alarm.load(Ordering::Relaxed);
        let early = deadline != NEVER && now(Clock::Monotonic)? < deadline;
        if early {
            self.kqueue.set_timer(deadline)?;
        }
        Ok(!early)
    }

    /// Readable when `wait` would find something (kqueue(2): it can be polled).
    pub fn pollable_fd(&self) -> Result<i32> {
        Ok(self.kqueue.fd.0)
    }

    /// There are no ghosts here; it forgets everything, as all backends do.
    pub fn rebuild(&self) -> Result<()> {
        self.set.lock().clear(&mut |changes| self.kqueue.change(changes));
        Ok(())
    }

    pub fn registered(&self) -> Result<Vec<Registered>> {
        let mut set = self.set.lock();
        let mut all = Vec::new();
        crate::heap::exact_room(&mut all, set.len())?;
        all.extend(set.registered(&mut |changes| self.kqueue.change(changes)));
        Ok(all)
    }

    pub fn has(&self, fd: i32) -> bool {
        fd == self.kqueue.fd.0
    }

    pub fn heap_bytes(&self) -> usize {
        self.set.lock().heap_bytes()
    }
}

fn wanted(fd: i32, interest: Interest, trigger: Trigger, cookie: u64) -> Result<Wanted> {
    debug_assert!(cookie >= OWN);
    let mut stat = std::mem::MaybeUninit::<libc::stat>::uninit();
    // SAFETY: the kernel fills the struct, or fails.
    Error::check(unsafe { libc::fstat(fd, stat.as_mut_ptr()) })?;
    // SAFETY: filled, as fstat has succeeded.
    let kind = unsafe { stat.assume_init() }.st_mode & libc::S_IFMT;
    if matches!(kind, libc::S_IFREG | libc::S_IFDIR) {
        return Err(Error::PERM); // e
    }
    if interest.has(Interest(BELL_PRI as u8)) && EXCEPT.is_none() {
        return Err(Error::UNSUPPORTED); // m
    }
    Ok(Wanted { cookie, interest, trigger, socket: kind == libc::S_IFSOCK })
}

/// What an answer says. `None`: nothing of interest.
fn seen(k: &libc::kevent) -> Option<Seen> {
    let filter = match k.filter {
        libc::EVFILT_READ => Filter::Read,
        libc::EVFILT_WRITE => Filter::Write,
        // macOS tells other things by it too.
        f if EXCEPT.is_some_and(|(except, oob)| f == except && k.fflags & oob != 0) => Filter::Except,
        _ => return None,
    };
    let eof = k.flags & libc::EV_EOF != 0;
    let error = k.flags & libc::EV_ERROR != 0 || filter != Filter::Except && k.fflags != 0;
    Some(Seen { fd: k.ident as i32, filter, eof, error, stamp: k.udata as usize })
}

/// What one `wait` has found, and the list that the kernel has filled.
pub struct Events {
    found: Vec<(u64, Ready)>,
    list: Vec<libc::kevent>,
}

// SAFETY: the `udata` of a kevent is a number here.
unsafe impl Send for Events {}

impl Events {
    pub fn new(capacity: usize) -> Result<Events> {
        // The kernel's own limit: it counts in an int.
        let most = i32::MAX as usize / size_of::<libc::kevent>();
        if capacity == 0 || capacity > most {
            return Err(Error::INVAL);
        }
        let (mut found, mut list) = (Vec::new(), Vec::new());
        crate::heap::exact_room(&mut found, capacity)?;
        crate::heap::exact_room(&mut list, capacity)?;
        Ok(Events { found, list })
    }
    pub fn len(&self) -> usize {
        self.found.len()
    }
    /// There may be more. (Not the events are counted, but the answers that became events, or nothing.)
    pub fn is_full(&self) -> bool {
        self.list.len() == self.list.capacity()
    }
    pub fn get(&self, i: usize) -> (u64, Ready) {
        self.found[i]
    }
    pub fn iter_from(&self, at: usize) -> impl Iterator<Item = (u64, Ready)> + '_ {
        self.found[at..].iter().copied()
    }
    pub fn clear(&mut self) {
        self.found.clear();
        self.list.clear();
    }
}

struct Kqueue {
    fd: Fd,
    made_by: u32,
}

/// Oddity i.
const GRAIN_NS: i64 = if cfg!(target_vendor = "apple") { 1000 } else { 1 };
const LONGEST_NS: i64 = 1_000_000 * 1_000_000_000;

#[cfg(any(target_vendor = "apple", target_os = "freebsd"))]
const TIMER_UNIT: (u32, i64) = (libc::NOTE_NSECONDS, 1);
#[cfg(not(any(target_vendor = "apple", target_os = "freebsd")))]
const TIMER_UNIT: (u32, i64) = (0, 1_000_000);

/// EVFILT_EXCEPT and NOTE_OOB. (macOS: sys/event.h; the libc crate has neither.)
#[cfg(target_vendor = "apple")]
const EXCEPT: Option<(FilterNumber, u32)> = Some((-15, 2));
#[cfg(any(target_os = "openbsd", target_os = "dragonfly"))]
const EXCEPT: Option<(FilterNumber, u32)> = Some((libc::EVFILT_EXCEPT, libc::NOTE_OOB));
#[cfg(any(target_os = "freebsd", target_os = "netbsd"))]
const EXCEPT: Option<(FilterNumber, u32)> = None;

#[cfg(not(target_os = "netbsd"))]
type FilterNumber = i16;
#[cfg(target_os = "netbsd")]
type FilterNumber = u32;
#[cfg(not(target_os = "netbsd"))]
type Flags = u16;
#[cfg(target_os = "netbsd")]
type Flags = u32;

const DONE: &libc::timespec = &libc::timespec { tv_sec: 0, tv_nsec: 0 };

impl Kqueue {
    fn new() -> Result<Kqueue> {
        // SAFETY: no pointers.
        let fd = Error::check(unsafe { libc::kqueue() })?;
        let kqueue = Kqueue { fd: Fd(fd), made_by: std::process::id() };
        // A fork in between has no copy of it (oddity h), so this is early enough.
        // SAFETY: no pointers.
        Error::check(unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) })?;
        Ok(kqueue)
    }

    fn wait(&self, list: &mut Vec<libc::kevent>, ns: i64) -> Result<()> {
        // Up to the grain, down to the longest.
        let ns_up = ns.clamp(0, LONGEST_NS).saturating_add(GRAIN_NS - 1) / GRAIN_NS * GRAIN_NS;
        let timeout = timespec(ns_up);
        let timeout = if ns == NEVER { std::ptr::null() } else { &raw const timeout };
        // SAFETY: the buffer has room for `capacity` answers, which are not more than fit an int, and `&mut` keeps
        // others off; the timespec is alive.
        unsafe {
            let n = libc::kevent(self.fd.0, std::ptr::null(), 0, list.as_mut_ptr(), list.capacity() as _, timeout);
            // The kernel has written the first n.
            list.set_len(Error::check(n)? as usize);
        }
        Ok(())
    }

    /// One change that does not answer. Async-signal-safe.
    fn set(&self, k: &libc::kevent) -> Result<()> {
        // SAFETY: one kevent is read, none is written.
        let n = unsafe { libc::kevent(self.fd.0, k, 1, std::ptr::null_mut(), 0, DONE) };
        match Error::check(n) {
            Err(Error::INTR) => Ok(()), // d
            r => r.map(drop),
        }
    }

    /// What `kqueue_set.rs` asks of a kernel.
    fn change(&self, changes: &[Change]) -> Result<()> {
        let mut list = [kevent(0, 0 as FilterNumber, 0); MOST_CHANGES];
        for (k, change) in list.iter_mut().zip(changes) {
            *k = translate(change);
        }
        let list = &mut list[..changes.len()];
        let n = list.len();
        // SAFETY: n kevents are read, then as many are written over them.
        let answered = unsafe { libc::kevent(self.fd.0, list.as_ptr(), n as _, list.as_mut_ptr(), n as _, DONE) };
        match Error::check(answered) {
            // Made without a word (d). What they said is lost, so a failure is not told: as if the file was closed
            // right afterwards.
            Err(Error::INTR) => return Ok(()),
            r => r?,
        };
        let mut first = None;
        let mut made = 0;
        for (answer, change) in list.iter().zip(changes) {
            match answer.data as i32 {
                0 => made += 1,
                libc::EPIPE if change.filter == Filter::Write && n > 1 => made += 1, // f
                errno => first = first.or(Some(refused(change.act, errno))),
            }
        }
        let adds = changes.iter().any(|c| matches!(c.act, Act::Add { .. }));
        match first {
            Some(e) if adds || made == 0 => Err(e),
            _ => Ok(()),
        }
    }

    /// `deadline_ns` by the monotonic clock; `NEVER` stops it.
    fn set_timer(&self, deadline_ns: i64) -> Result<()> {
        // k. ENOENT: it has rung, or never ran.
        match self.set(&kevent(TIMER, libc::EVFILT_TIMER, libc::EV_DELETE)) {
            Err(Error::NOENT) => {}
            r => r?,
        }
        if deadline_ns == NEVER {
            return Ok(());
        }
        let (unit, ns) = TIMER_UNIT;
        let left = (deadline_ns - now(Clock::Monotonic)?).clamp(1, LONGEST_NS);
        let mut k = kevent(TIMER, libc::EVFILT_TIMER, libc::EV_ADD | libc::EV_ONESHOT);
        k.fflags = unit;
        k.data = ((left + ns - 1) / ns) as _;
        self.set(&k)
    }
}

impl Drop for Kqueue {
    fn drop(&mut self) {
        if self.made_by != std::process::id() {
            self.fd.0 = -1; // h: somebody else's number
        }
    }
}

const TIMER: usize = 0;

fn kevent(ident: usize, filter: FilterNumber, flags: Flags) -> libc::kevent {
    // SAFETY: plain numbers and a pointer, for which zeros are values; some systems have more fields than others.
    let mut k: libc::kevent = unsafe { std::mem::zeroed() };
    (k.ident, k.filter, k.flags) = (ident, filter, flags);
    k
}

fn translate(change: &Change) -> libc::kevent {
    let (except, oob) = EXCEPT.unwrap_or_default();
    let (filter, notes) = match change.filter {
        Filter::Read => (libc::EVFILT_READ, 0),
        Filter::Write => (libc::EVFILT_WRITE, 0),
        Filter::Except => (except, oob),
    };
    let flags = match change.act {
        Act::Add { clear: true } => libc::EV_ADD | libc::EV_CLEAR,
        Act::Add { clear: false } => libc::EV_ADD | libc::EV_DISPATCH,
        Act::Enable => libc::EV_ENABLE,
        Act::Disable => libc::EV_DISABLE,
        Act::Delete => libc::EV_DELETE,
    };
    let mut k = kevent(change.fd as usize, filter, flags | libc::EV_RECEIPT);
    k.fflags = notes;
    k.udata = change.stamp as _;
    k
}

fn refused(act: Act, errno: i32) -> Error {
    match (act, errno) {
        // e: the same answer as from epoll.
        (Act::Add { .. }, libc::EINVAL | libc::ENODEV | libc::EOPNOTSUPP | libc::ENXIO) => Error::PERM,
        _ => Error::from_io(&std::io::Error::from_raw_os_error(errno)),
    }
}

#[cfg(any(target_vendor = "apple", target_os = "freebsd", target_os = "dragonfly"))]
mod waker {
    use super::*;

    /// EVFILT_USER. EV_CLEAR: several wakes are one, until it has been told.
    pub struct Waker;

    impl Waker {
        pub fn new(kqueue: &Kqueue) -> Result<Waker> {
            kqueue.set(&kevent(0, libc::EVFILT_USER, libc::EV_ADD | libc::EV_CLEAR))?;
            Ok(Waker)
        }

        pub fn wake(&self, kqueue: &Kqueue) -> Result<()> {
            // Not EV_CLEAR again: on FreeBSD that takes the trigger back (kern_event.c, filt_usertouch).
            let mut k = kevent(0, libc::EVFILT_USER, libc::EV_ENABLE);
            k.fflags = libc::NOTE_TRIGGER;
            kqueue.set(&k)
        }

        pub fn is(&self, k: &libc::kevent) -> bool {
            k.filter == libc::EVFILT_USER
        }
        pub fn answer(&self) {}
    }
}

#[cfg(not(any(target_vendor = "apple", target_os = "freebsd", target_os = "dragonfly")))]
mod waker {
    use super::*;

    /// Oddity j: a pipe, non-blocking, read end and write end.
    pub struct Waker(Fd, Fd);

    impl Waker {
        pub fn new(kqueue: &Kqueue) -> Result<Waker> {
            let mut ends = [-1; 2];
            // SAFETY: the kernel writes two numbers into the array.
            Error::check(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC | libc::O_NONBLOCK) })?;
            let pipe = Waker(Fd(ends[0]), Fd(ends[1]));
            kqueue.set(&kevent(pipe.0.0 as usize, libc::EVFILT_READ, libc::EV_ADD | libc::EV_CLEAR))?;
            Ok(pipe)
        }

        pub fn wake(&self, _: &Kqueue) -> Result<()> {
            // SAFETY: the kernel reads one byte.
            match Error::check(unsafe { libc::write(self.1.0, (&raw const b"!"[0]).cast(), 1) } as i32) {
                // Full: nobody has emptied it, so the next wait ends.
                Err(e) if e.code() == -libc::EAGAIN => Ok(()),
                r => r.map(drop),
            }
        }

        pub fn is(&self, k: &libc::kevent) -> bool {
            k.filter == libc::EVFILT_READ && k.ident == self.0.0 as usize
        }

        /// A byte that comes while it is emptied was of a wake that this wait answers.
        pub fn answer(&self) {
            let mut bytes = [0u8; 512];
            // SAFETY: the kernel writes at most 512 bytes into the array; the pipe does not block.
            while unsafe { libc::read(self.0.0, bytes.as_mut_ptr().cast(), bytes.len()) } == bytes.len() as isize {}
        }
    }
}
