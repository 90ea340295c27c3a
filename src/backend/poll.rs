//! Any POSIX system: poll(2). The set is a list of our own, which each wait hands to the kernel anew.
//!
//! a) There are no edges, and none can be made up: an fd that is ready before and after a wait may or may not have been
//!    drained in between. `Trigger::Edge` and exclusive wake-ups are refused.
//! b) A sleeping poll(2) does not see later changes, and on Linux it holds its files open: the peer of an fd that was
//!    removed and closed would see no end of stream. So every change wakes the sleeper, which starts over with the new
//!    set.
//! c) By then what the kernel tells may be about an entry that is gone, or about another file under the same number.
//!    Each entry carries a stamp, new with every change; news under an old stamp is dropped. It is told again if it is
//!    true.
//! d) HUP, ERR and NVAL cannot be masked (poll(2)): a disarmed entry must not be handed over at all.
//! e) Closing an fd behind our back gives POLLNVAL at every wait, a busy loop: told once as CLOSED, and the entry is
//!    gone. If the number is in use again before the next wait, poll(2) cannot tell: that file is watched instead.
//! f) Regular files and directories are always ready here, and refused by epoll; the same program should meet the same
//!    errors, so they are refused. poll(2) has no say in it, fstat(2) has.
//! g) More entries than RLIMIT_NOFILE give EINVAL (poll(2)): possible only if the limit was lowered later.
//! h) macOS cannot poll devices such as /dev/tty (poll(2) there, BUGS); kqueue refuses them too.
//! i) The list is copied for each wait: the price of a thousand idle fds is a thousand entries written, and looked at
//!    by the kernel.
use super::*;
use crate::event::NEVER;
use crate::heap;
use crate::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

pub struct Backend {
    set: Mutex<Set>,
    /// Non-blocking pipe: read end, write end. A byte in it ends poll(2).
    bell: (Fd, Fd),
    /// `wake` was called, and no wait has returned since. Tells a wake from a change of the set.
    woken: AtomicBool,
    #[cfg(target_os = "linux")]
    alarms: Alarms,
}

struct Set {
    list: Vec<Entry>,
    /// By fd: where in `list`, or `ABSENT`.
    places: Vec<u32>,
    /// The last one given out.
    stamp: u64,
    /// Where in `list` the next batch starts: behind the last one that found room.
    start: usize,
    /// A thread is between taking the list and reporting.
    waiting: bool,
    /// That thread has been told to start over.
    told: bool,
}

struct Entry {
    fd: i32,
    interest: Interest,
    armed: bool,
    cookie: u64,
    stamp: u64,
    /// The number is one of our own by now.
    gone: bool,
}

const ABSENT: u32 = u32::MAX;

impl Set {
    fn place(&self, fd: i32) -> Option<usize> {
        let at = *self.places.get(usize::try_from(fd).ok()?)?;
        (at != ABSENT).then_some(at as usize)
    }

    fn new_stamp(&mut self) -> u64 {
        self.stamp += 1;
        self.stamp
    }

    fn add(&mut self, fd: i32, interest: Interest, cookie: u64) -> Result<()> {
        if self.place(fd).is_some() {
            return Err(Error::EXIST);
        }
        // Room first, so that a failure changes nothing.
        let wanted = fd as usize + 1;
        if wanted > self.places.len() {
            let more = wanted - self.places.len();
            heap::room(&mut self.places, more)?;
            self.places.resize(wanted, ABSENT);
        }
        heap::room(&mut self.list, 1)?;
        self.places[fd as usize] = self.list.len() as u32;
        let stamp = self.new_stamp();
        self.list.push(Entry { fd, interest, armed: true, cookie, stamp, gone: false });
        Ok(())
    }

    fn remove(&mut self, at: usize) {
        let gone = self.list.swap_remove(at);
        self.places[gone.fd as usize] = ABSENT;
        if let Some(moved) = self.list.get(at) {
            self.places[moved.fd as usize] = at as u32;
        }
    }
}

impl Backend {
    pub const EDGE: bool = false;
    pub const EXCLUSIVE: bool = false;
    pub const POLLABLE: bool = false;
    pub const NANOSECONDS: bool = sys::NANOSECONDS;
    pub const FEATURE: u64 = BELL_FEATURE_POLL;

    pub fn new() -> Result<Backend> {
        Ok(Backend {
            set: Mutex::new(Set {
                list: Vec::new(),
                places: Vec::new(),
                stamp: 0,
                start: 0,
                waiting: false,
                told: false,
            }),
            bell: sys::pipe()?,
            woken: AtomicBool::new(false),
            #[cfg(target_os = "linux")]
            alarms: Alarms::new(),
        })
    }

    pub fn add(&self, fd: i32, interest: Interest, trigger: Trigger, exclusive: bool, cookie: u64) -> Result<()> {
        debug_assert!(cookie >= OWN);
        refuse(interest, trigger, exclusive)?;
        self.check_theirs(fd)?;
        check_pollable(fd)?;
        self.change(|set| set.add(fd, interest, cookie))
    }

    pub fn modify(&self, fd: i32, interest: Interest, trigger: Trigger, cookie: u64) -> Result<()> {
        debug_assert!(cookie >= OWN);
        refuse(interest, trigger, false)?;
        self.check_theirs(fd)?;
        check_open(fd)?;
        self.change(|set| {
            let at = set.place(fd).ok_or(Error::NOENT)?;
            let stamp = set.new_stamp();
            set.list[at] = Entry { fd, interest, armed: true, cookie, stamp, gone: false };
            Ok(())
        })
    }

    pub fn remove(&self, fd: i32) -> Result<()> {
        self.change(|set| match set.place(fd) {
            Some(at) => {
                set.remove(at);
                Ok(())
            }
            // As epoll answers.
            None => check_open(fd).and(Err(Error::NOENT)),
        })
    }

    /// A number that was closed behind our back may be one of our own fds by now.
    fn check_theirs(&self, fd: i32) -> Result<()> {
        if self.has(fd) { Err(Error::BADF) } else { Ok(()) }
    }

    pub fn has(&self, fd: i32) -> bool {
        let ours = fd == self.bell.0.0 || fd == self.bell.1.0;
        #[cfg(target_os = "linux")]
        let ours = ours || self.alarms.have(fd);
        ours
    }

    fn change(&self, edit: impl FnOnce(&mut Set) -> Result<()>) -> Result<()> {
        let mut set = self.set.lock();
        edit(&mut set)?;
        let tell = set.waiting && !std::mem::replace(&mut set.told, true);
        drop(set);
        // The change is made; that the bell is broken is told by `wait`, which sees it in its poll, and by `wake`. The
        // next change rings again.
        if tell && self.ring().is_err() {
            self.set.lock().told = false;
        }
        Ok(())
    }

    pub fn wait(&self, events: &mut Events, timeout_ns: i64) -> Result<()> {
        let start = if 0 < timeout_ns && timeout_ns < NEVER { now(Clock::Monotonic)? } else { 0 };
        let mut left = timeout_ns;
        loop {
            let own = self.take(events)?;
            let polled = sys::poll(&mut events.polled, if events.gone { 0 } else { left });
            let ended = self.report(events, own, polled)?;
            if ended || !events.found.is_empty() || left <= 0 {
                return Ok(());
            }
            if left != NEVER {
                left = timeout_ns - (now(Clock::Monotonic)? - start);
                if left <= 0 {
                    return Ok(());
                }
            }
        }
    }

    /// Copies what is armed into the driver's buffer, in the order in which it is to be reported; before it, our own
    /// fds. Returns how many these are.
    fn take(&self, events: &mut Events) -> Result<usize> {
        events.clear();
        events.polled.clear();
        events.stamps.clear();
        events.gone = false;
        // The lock also covers the alarms: one that is made from now on finds `waiting` set, and rings.
        let mut set = self.set.lock();
        events.watch(self.bell.0.0, libc::POLLIN, 0)?;
        #[cfg(target_os = "linux")]
        for (fd, _) in self.alarms.live() {
            events.watch(fd, libc::POLLIN, 0)?;
        }
        let own = events.polled.len();
        let (before, after) = set.list.split_at(set.start.min(set.list.len()));
        for e in after.iter().chain(before).filter(|e| e.armed) {
            events.watch(e.fd, poll_bits(e.interest), e.stamp)?;
            events.gone |= e.gone;
        }
        set.waiting = true;
        set.told = false;
        Ok(own)
    }

    /// Turns the answer of the kernel into events. True if `wait` is over although there may be none.
    fn report(&self, events: &mut Events, own: usize, polled: Result<i32>) -> Result<bool> {
        let mut set = self.set.lock();
        set.waiting = false;
        if polled? == 0 && !events.gone {
            return Ok(false);
        }
        // First, because it can fail, and a reported entry is disarmed.
        let ended = self.answer_bell(&events.polled[..own])?;
        let told = |p: &libc::pollfd| p.revents != 0 || events.gone;
        for (p, stamp) in events.polled[own..].iter().zip(&events.stamps[own..]).filter(|(p, _)| told(p)) {
            let Some(at) = set.place(p.fd).filter(|at| set.list[*at].stamp == *stamp) else {
                continue; // b, c: changed meanwhile
            };
            let gone = set.list[at].gone;
            if p.revents == 0 && !gone {
                continue;
            }
            if events.found.len() == events.limit {
                set.start = at;
                break;
            }
            if p.revents & libc::POLLNVAL != 0 || gone {
                events.found.push((set.list[at].cookie, Ready::CLOSED));
                set.remove(at);
            } else {
                events.found.push((set.list[at].cookie, poll_ready(p.revents)));
                set.list[at].armed = false;
            }
        }
        Ok(ended)
    }

    /// Empties what rang. True if it was a wake or an alarm, false if it was a change of the set or nothing.
    fn answer_bell(&self, own: &[libc::pollfd]) -> Result<bool> {
        let mut ended = false;
        for p in own.iter().filter(|p| p.revents != 0) {
            // HUP, ERR or NVAL: our pipe or timer was closed by somebody else. Going on would spin.
            if p.revents & libc::POLLIN == 0 {
                return Err(Error::BADF);
            }
            let mut bytes = [0u8; 512];
            // SAFETY: the kernel writes at most 512 bytes into the array. The fds do not block; a timerfd gives 8
            // bytes, or ECANCELED when the clock was set, and is empty then.
            while unsafe { libc::read(p.fd, bytes.as_mut_ptr().cast(), bytes.len()) } == bytes.len() as isize {}
            ended |= p.fd != self.bell.0.0;
        }
        // After the pipe was emptied: a wake that comes in between leaves its byte for the next wait, which finds no
        // mark and sleeps on. Acquire, with the Release of `wake`.
        Ok(self.woken.swap(false, Ordering::Acquire) || ended)
    }

    pub fn wake(&self) -> Result<()> {
        // A swap and not a store: of several wakers, each continues the release sequence of the one before, so the
        // sleeper sees what every one of them wrote.
        self.woken.swap(true, Ordering::Release);
        self.ring()
    }

    pub fn end_wait(&self) {
        if self.wake().is_err() {
            // Where nobody may write, hanging up ends poll(2) as well: the number of the write end becomes another one of
            // the read end, in one step, because somebody may be about to use it.
            sys::replace(&self.bell.1, &self.bell.0);
        }
    }

    fn ring(&self) -> Result<()> {
        // SAFETY: the kernel reads one byte.
        match Error::check(unsafe { libc::write(self.bell.1.0, (&raw const b"!"[0]).cast(), 1) } as i32) {
            // Full: nobody has emptied it, so poll(2) ends.
            Err(e) if e.code() == -libc::EAGAIN => Ok(()),
            r => r.map(drop),
        }
    }

    #[cfg(target_os = "linux")]
    pub fn set_alarm(&self, clock: Clock, deadline_ns: i64) -> Result<()> {
        let mut made = false;
        self.alarms.set(clock, deadline_ns, |fd| {
            made = true;
            let mut set = self.set.lock();
            if let Some(at) = set.place(fd) {
                set.list[at].gone = true; // else the user would be told of our timer
            }
            Ok(())
        })?;
        // A sleeper knows the timers that it took along, and follows them by itself.
        if made { self.change(|_| Ok(())) } else { Ok(()) }
    }
    #[cfg(not(target_os = "linux"))]
    pub fn set_alarm(&self, _: Clock, _: i64) -> Result<()> {
        Err(Error::UNSUPPORTED)
    }

    pub fn pollable_fd(&self) -> Result<i32> {
        Err(Error::UNSUPPORTED)
    }

    /// There are no ghosts here; it forgets everything, as all backends do.
    pub fn rebuild(&self) -> Result<()> {
        self.change(|set| {
            set.list.clear();
            set.places.fill(ABSENT);
            Ok(())
        })
    }

    pub fn registered(&self) -> Result<Vec<Registered>> {
        let set = self.set.lock();
        let mut all = Vec::new();
        heap::exact_room(&mut all, set.list.len())?;
        all.extend(set.list.iter().map(|e| Registered {
            fd: e.fd,
            cookie: e.cookie,
            interest: if e.armed { e.interest } else { Interest::NONE },
            trigger: Trigger::Oneshot,
            exclusive: false,
        }));
        Ok(all)
    }

    pub fn heap_bytes(&self) -> usize {
        let set = self.set.lock();
        set.list.capacity() * size_of::<Entry>() + set.places.capacity() * size_of::<u32>()
    }

    /// There is one way to sleep here.
    #[cfg(test)]
    #[cfg_attr(doorbell_sim, allow(dead_code))]
    pub fn forbid_pwait2(&self) {}

    #[cfg(test)]
    #[cfg_attr(doorbell_sim, allow(dead_code))]
    pub fn own_fds(&self) -> Vec<i32> {
        let own = [self.bell.0.0, self.bell.1.0].into_iter();
        #[cfg(target_os = "linux")]
        let own = own.chain(self.alarms.live().map(|(fd, _)| fd));
        own.collect()
    }
}

fn refuse(interest: Interest, trigger: Trigger, exclusive: bool) -> Result<()> {
    // RDHUP alone, where the system has no POLLRDHUP, would never be told.
    let mute = !interest.is_empty() && poll_bits(interest) == 0;
    if trigger == Trigger::Edge || exclusive || mute { Err(Error::UNSUPPORTED) } else { Ok(()) }
}

fn check_open(fd: i32) -> Result<()> {
    // SAFETY: no pointers.
    Error::check(unsafe { libc::fcntl(fd, libc::F_GETFD) }).map(drop)
}

fn check_pollable(fd: i32) -> Result<()> {
    let mut stat = std::mem::MaybeUninit::<libc::stat>::uninit();
    // SAFETY: the kernel fills the struct, or fails.
    Error::check(unsafe { libc::fstat(fd, stat.as_mut_ptr()) })?;
    // SAFETY: filled, as fstat has succeeded.
    match unsafe { stat.assume_init() }.st_mode & libc::S_IFMT {
        libc::S_IFREG | libc::S_IFDIR => Err(Error::PERM),
        _ => Ok(()),
    }
}

/// What one `wait` has found, and the list that it gave to the kernel.
pub struct Events {
    found: Vec<(u64, Ready)>,
    limit: usize,
    polled: Vec<libc::pollfd>,
    /// Beside `polled`: the stamps of the entries when they were taken.
    stamps: Vec<u64>,
    /// One of them is gone, which poll(2) does not know.
    gone: bool,
}

impl Events {
    pub fn new(capacity: usize) -> Result<Events> {
        if capacity == 0 {
            return Err(Error::INVAL);
        }
        let mut found = Vec::new();
        heap::exact_room(&mut found, capacity)?;
        Ok(Events { found, limit: capacity, polled: Vec::new(), stamps: Vec::new(), gone: false })
    }
    fn watch(&mut self, fd: i32, events: i16, stamp: u64) -> Result<()> {
        heap::room(&mut self.polled, 1)?;
        heap::room(&mut self.stamps, 1)?;
        self.polled.push(libc::pollfd { fd, events, revents: 0 });
        self.stamps.push(stamp);
        Ok(())
    }
    pub fn len(&self) -> usize {
        self.found.len()
    }
    pub fn is_full(&self) -> bool {
        self.found.len() == self.limit
    }
    pub fn get(&self, i: usize) -> (u64, Ready) {
        self.found[i]
    }
    pub fn iter_from(&self, at: usize) -> impl Iterator<Item = (u64, Ready)> + '_ {
        self.found[at..].iter().copied()
    }
    pub fn clear(&mut self) {
        self.found.clear();
    }
}

/// Systems with ppoll(2) and pipe2(2).
#[cfg(any(
    target_os = "linux",
    target_os = "android",
    target_os = "freebsd",
    target_os = "dragonfly",
    target_os = "netbsd",
    target_os = "openbsd"
))]
mod sys {
    use super::*;

    pub const NANOSECONDS: bool = true;

    pub fn pipe() -> Result<(Fd, Fd)> {
        let mut ends = [-1; 2];
        // SAFETY: the kernel writes two numbers into the array.
        Error::check(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC | libc::O_NONBLOCK) })?;
        Ok((Fd(ends[0]), Fd(ends[1])))
    }

    pub fn replace(old: &Fd, by: &Fd) {
        // SAFETY: no pointers; both are ours.
        unsafe { libc::dup3(by.0, old.0, libc::O_CLOEXEC) };
    }

    pub fn poll(list: &mut [libc::pollfd], timeout_ns: i64) -> Result<i32> {
        let timeout = timespec(timeout_ns.max(0));
        let timeout = if timeout_ns == NEVER { std::ptr::null() } else { &raw const timeout };
        // SAFETY: the list and the timespec are alive during the call; no signal mask.
        Error::check(unsafe { libc::ppoll(list.as_mut_ptr(), list.len() as _, timeout, std::ptr::null()) })
    }
}

/// Plain POSIX: milliseconds, and close-on-exec in a second step, which a fork on another thread can come before.
#[cfg(not(any(
    target_os = "linux",
    target_os = "android",
    target_os = "freebsd",
    target_os = "dragonfly",
    target_os = "netbsd",
    target_os = "openbsd"
)))]
mod sys {
    use super::*;

    pub const NANOSECONDS: bool = false;

    pub fn pipe() -> Result<(Fd, Fd)> {
        let mut ends = [-1; 2];
        // SAFETY: the kernel writes two numbers into the array.
        Error::check(unsafe { libc::pipe(ends.as_mut_ptr()) })?;
        let pipe = (Fd(ends[0]), Fd(ends[1]));
        for fd in ends {
            // SAFETY: no pointers.
            unsafe {
                Error::check(libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC))?;
                Error::check(libc::fcntl(fd, libc::F_SETFL, libc::O_NONBLOCK))?;
            }
        }
        Ok(pipe)
    }

    pub fn replace(old: &Fd, by: &Fd) {
        // SAFETY: no pointers; both are ours.
        unsafe {
            libc::dup2(by.0, old.0);
            libc::fcntl(old.0, libc::F_SETFD, libc::FD_CLOEXEC);
        }
    }

    /// May come back early when the time does not fit into 31 bits; the caller looks at the clock.
    pub fn poll(list: &mut [libc::pollfd], timeout_ns: i64) -> Result<i32> {
        let timeout_ms = match timeout_ns {
            NEVER => -1,
            // Up, or the last part of a millisecond is spent spinning.
            ns => i32::try_from(ns.max(0).saturating_add(999_999) / 1_000_000).unwrap_or(i32::MAX),
        };
        // SAFETY: the list is alive during the call.
        Error::check(unsafe { libc::poll(list.as_mut_ptr(), list.len() as _, timeout_ms) })
    }
}
