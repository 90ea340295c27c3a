//! The surface of the simulated kernel: what the library calls instead of libc's functions. Everything else is libc's.
//! Each call is a point where threads may switch, and where a fault may be drawn.
// Each backend calls a part of it.
#![allow(dead_code, clippy::missing_safety_doc, clippy::undocumented_unsafe_blocks)]
use super::cpus;
use super::kernel::{Answer, Fault, HUP, IN, OUT, Object, PRI, RDHUP, USERS, World};
use super::sched::{End, kernel_sleep, switch, violation, with};
use crate::event::NEVER;
pub use ::libc::*;
use std::ffi::{c_char, c_int, c_long, c_void};

fn done<T: TryInto<i64>>(answer: Answer<T>) -> i64 {
    match answer {
        Ok(n) => n.try_into().unwrap_or(0),
        Err(e) => {
            // SAFETY: errno of this thread.
            unsafe { *__errno_location() = e };
            -1
        }
    }
}

fn call<T: TryInto<i64>>(f: impl FnOnce(&mut World) -> Answer<T>) -> i64 {
    priced(cpus::SYSCALL, f)
}
fn priced<T: TryInto<i64>>(ns: u64, f: impl FnOnce(&mut World) -> Answer<T>) -> i64 {
    switch();
    cpus::spend(ns);
    done(with(f))
}

fn make<T: TryInto<i64>>(f: impl FnOnce(&mut World) -> Answer<T>) -> i64 {
    call(|w| {
        if w.fault(Fault::TooMany) {
            return Err(EMFILE);
        }
        if w.fault(Fault::NoMem) {
            return Err(ENOMEM);
        }
        w.lowest = w.lowest_ours;
        let lives = w.lives;
        let made = f(w);
        w.lowest = USERS;
        w.files.iter_mut().filter(|f| f.life > lives).for_each(|f| f.ours = true);
        made
    })
}

pub unsafe fn close(fd: c_int) -> c_int {
    let r = call(|w| w.close(fd)) as c_int;
    if r == 0 && with(|w| w.fault(Fault::Intr)) {
        return done(Err::<i32, i32>(EINTR)) as c_int;
    }
    r
}
pub unsafe fn fcntl(fd: c_int, what: c_int) -> c_int {
    call(|w| {
        w.file_of(fd)?;
        Ok(match what {
            F_GETFL => O_NONBLOCK | O_RDWR,
            _ => 0,
        })
    }) as c_int
}
pub unsafe fn fstat(fd: c_int, out: *mut stat) -> c_int {
    call(|w| {
        let file = w.file_of(fd)?;
        let mut stat: stat = unsafe { std::mem::zeroed() };
        stat.st_mode = match w.object(file) {
            Object::Pipe { .. } => S_IFIFO,
            Object::Pair { .. } => S_IFSOCK,
            Object::Null => S_IFCHR,
            Object::Regular => S_IFREG,
            _ => 0,
        };
        unsafe { out.write(stat) };
        Ok(0)
    }) as c_int
}
pub unsafe fn write(fd: c_int, bytes: *const c_void, n: usize) -> isize {
    priced(cpus::RING, |w| {
        if let Some(text) = w.text.as_mut().filter(|_| fd == super::TEXT_FD) {
            text.extend_from_slice(unsafe { std::slice::from_raw_parts(bytes.cast::<u8>(), n) });
            return Ok(n as i64);
        }
        let file = w.file_of(fd)?;
        if w.mute && w.files[file as usize].ours {
            return Err(EPERM);
        }
        match w.object(file) {
            Object::Event { .. } if n < 8 => Err(EINVAL),
            Object::Event { .. } => w.write(fd, unsafe { bytes.cast::<u64>().read_unaligned() }),
            _ => w.write(fd, n as u64),
        }
    }) as isize
}
pub unsafe fn send(fd: c_int, bytes: *const c_void, n: usize, _: c_int) -> isize {
    let socket = with(|w| w.file_of(fd).map(|f| matches!(w.object(f), Object::Pair { .. })));
    match socket {
        Ok(false) => done(Err::<i64, i32>(ENOTSOCK)) as isize,
        Err(e) => done(Err::<i64, i32>(e)) as isize,
        Ok(true) => unsafe { write(fd, bytes, n) },
    }
}
pub unsafe fn read(fd: c_int, out: *mut c_void, n: usize) -> isize {
    call(|w| {
        let file = w.file_of(fd)?;
        if let Some(bytes) = w.read_text(file, n) {
            // SAFETY: at most `n` bytes.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), out.cast(), bytes.len()) };
            return Ok(bytes.len() as i64);
        }
        let fixed = matches!(w.object(file), Object::Event { .. } | Object::Timer { .. });
        let got = w.read(fd, n)?;
        if fixed {
            unsafe { out.cast::<u64>().write_unaligned(got as u64) };
            return Ok(8);
        }
        Ok(got)
    }) as isize
}

fn poll_once(w: &mut World, list: &mut [pollfd]) -> usize {
    let mut found = 0;
    for p in list {
        p.revents = 0;
        if p.fd < 0 {
            continue;
        }
        p.revents = match w.file_of(p.fd) {
            Err(_) => POLLNVAL,
            Ok(file) => {
                w.stamp(file);
                let asked = p.events as u16 as u32 & (IN | OUT | PRI | RDHUP) | 8 | HUP;
                (w.mask(file) & asked) as i16
            }
        };
        found += (p.revents != 0) as usize;
    }
    found
}
fn poll_until(list: &mut [pollfd], until: i64) -> c_int {
    switch();
    with(|w| w.waits += 1);
    if until != 0 && with(|w| w.fault(Fault::NoMem)) {
        return done(Err::<i32, i32>(ENOMEM)) as c_int;
    }
    let mut found = 0;
    match kernel_sleep(until, &mut |w| {
        found = poll_once(w, list);
        found > 0
    }) {
        End::Interrupted => done(Err::<i32, i32>(EINTR)) as c_int,
        _ => found as c_int,
    }
}
pub unsafe fn poll(list: *mut pollfd, n: nfds_t, timeout: c_int) -> c_int {
    assert_eq!(timeout, 0);
    switch();
    with(|w| poll_once(w, unsafe { std::slice::from_raw_parts_mut(list, n as usize) })) as c_int
}
pub unsafe fn ppoll(list: *mut pollfd, n: nfds_t, timeout: *const timespec, _: *const sigset_t) -> c_int {
    let list = unsafe { std::slice::from_raw_parts_mut(list, n as usize) };
    let until = match unsafe { timeout.as_ref() } {
        None => NEVER,
        Some(t) => until_of(t.tv_sec, t.tv_nsec),
    };
    if guard() {
        return done(Err::<i32, i32>(EINTR)) as c_int;
    }
    poll_until(list, until)
}

fn until_of(seconds: i64, ns: i64) -> i64 {
    let ns = seconds.saturating_mul(1_000_000_000).saturating_add(ns);
    if ns == 0 { 0 } else { with(|w| w.time).saturating_add(ns).min(NEVER - 1) }
}

/// A call that waits a thousand times while no time passes is a busy loop. One that has waited often enough, for a
/// periodic timeout say, is sent a signal.
fn guard() -> bool {
    let (still, all) = with(|w| {
        w.in_call += 1;
        if w.time != w.call_time {
            (w.call_time, w.call_still) = (w.time, 0);
        }
        w.call_still += 1;
        (w.call_still, w.in_call)
    });
    if still > 1_000 {
        violation("a busy loop: a thousand waits in one call, and no time passed".to_owned());
        panic!("busy loop");
    }
    let often = all > 500 && !super::sched::in_thread();
    if often {
        with(|w| w.idle = true);
    }
    often
}

pub unsafe fn eventfd(count: u32, _: c_int) -> c_int {
    make(|w| w.eventfd(count as u64)) as c_int
}
pub unsafe fn epoll_create1(_: c_int) -> c_int {
    make(|w| w.epoll()) as c_int
}
pub unsafe fn timerfd_create(clock: clockid_t, _: c_int) -> c_int {
    make(|w| w.timer(clock_index(clock))) as c_int
}
pub unsafe fn pipe2(out: *mut c_int, _: c_int) -> c_int {
    make(|w| {
        let ends = w.pipe(65536)?;
        unsafe { out.cast::<[c_int; 2]>().write(ends) };
        Ok(0)
    }) as c_int
}
pub unsafe fn dup3(old: c_int, new: c_int, _: c_int) -> c_int {
    make(|w| w.dup3(old, new)) as c_int
}

pub unsafe fn dup2(old: c_int, new: c_int) -> c_int {
    unsafe { dup3(old, new, 0) }
}

pub unsafe fn epoll_ctl(epoll: c_int, what: c_int, fd: c_int, event: *mut epoll_event) -> c_int {
    priced(cpus::CTL, |w| {
        if let Some(fd) = w.close_in_ctl.take() {
            w.count_fault(Fault::BadFd);
            let _ = w.close(fd);
        }
        let event = unsafe { event.read() };
        if what != EPOLL_CTL_DEL {
            if w.fault(Fault::NoMem) {
                return Err(ENOMEM);
            }
            if what == EPOLL_CTL_ADD && w.fault(Fault::NoSpace) {
                return Err(ENOSPC);
            }
        }
        w.ctl(epoll, what, fd, event.events, event.u64)
    }) as c_int
}

fn wait_until(epoll: c_int, out: *mut epoll_event, most: c_int, until: i64) -> c_int {
    switch();
    cpus::spend(cpus::SYSCALL);
    if guard() {
        return done(Err::<i32, i32>(EINTR)) as c_int;
    }
    with(|w| w.waits += 1);
    let file = match with(|w| w.epoll_of(epoll)) {
        Ok(file) => file,
        Err(e) => return done(Err::<i32, i32>(e)) as c_int,
    };
    loop {
        let mut n = 0;
        let most = with(|w| if w.fault(Fault::ShortBatch) { 1 } else { most });
        let took = with(|w| {
            w.take(epoll, most as usize, |events, u64| {
                unsafe { out.add(n).write(epoll_event { events, u64 }) };
                n += 1;
            })
        });
        match took {
            Ok(0) if until != 0 => {}
            r => {
                with(|w| w.empty_waits += (n == 0) as u64);
                cpus::brings(n as u64);
                cpus::spend(n as u64 * cpus::EVENT_IN_KERNEL);
                switch();
                return done(r) as c_int;
            }
        }
        with(|w| w.asleep.push(file));
        let end = kernel_sleep(until, &mut |w| w.has_news(epoll) != Ok(false));
        with(|w| {
            if let Some(i) = w.asleep.iter().position(|f| *f == file) {
                w.asleep.swap_remove(i);
            }
        });
        match end {
            End::News => {}
            End::TimedOut => {
                with(|w| w.empty_waits += 1);
                return 0;
            }
            End::Interrupted => return done(Err::<i32, i32>(EINTR)) as c_int,
        }
    }
}
pub unsafe fn epoll_wait(epoll: c_int, out: *mut epoll_event, most: c_int, ms: c_int) -> c_int {
    let until = match ms {
        -1 => NEVER,
        0 => 0,
        ms => until_of(ms as i64 / 1000, ms as i64 % 1000 * 1_000_000),
    };
    wait_until(epoll, out, most, until)
}

/// `struct __kernel_timespec`.
#[repr(C)]
struct Times {
    seconds: i64,
    ns: i64,
}
/// epoll_pwait2(2): the only one that is called by its number.
pub unsafe fn syscall<T, M>(
    number: c_long,
    epoll: c_int,
    out: *mut epoll_event,
    most: c_int,
    timeout: *const T,
    _: *const M,
    _: usize,
) -> c_long {
    assert_eq!(number, SYS_epoll_pwait2);
    let refused = with(|w| w.no_pwait2);
    if refused != 0 {
        with(|w| w.count_fault(Fault::Perm));
        return done(Err::<i32, i32>(refused)) as c_long;
    }
    let t = unsafe { timeout.cast::<Times>().read() };
    if t.seconds < 0 || !(0..1_000_000_000).contains(&t.ns) {
        return done(Err::<i32, i32>(EINVAL)) as c_long;
    }
    wait_until(epoll, out, most, until_of(t.seconds, t.ns)) as c_long
}

fn clock_index(clock: clockid_t) -> usize {
    match clock {
        CLOCK_MONOTONIC => 0,
        CLOCK_BOOTTIME => 1,
        _ => 2,
    }
}
pub unsafe fn clock_gettime(clock: clockid_t, out: *mut timespec) -> c_int {
    priced(cpus::CLOCK, |w| {
        let ns = w.read_clock(clock_index(clock));
        if w.grain > 1 {
            w.met[Fault::Frozen as usize] += 1;
        }
        unsafe { out.write(timespec { tv_sec: ns / 1_000_000_000, tv_nsec: ns % 1_000_000_000 }) };
        Ok(0)
    }) as c_int
}
pub unsafe fn timerfd_settime(fd: c_int, flags: c_int, new: *const itimerspec, _: *mut itimerspec) -> c_int {
    call(|w| {
        let itimerspec { it_value, it_interval } = unsafe { *new };
        let ns = |t: timespec| t.tv_sec.saturating_mul(1_000_000_000).saturating_add(t.tv_nsec);
        w.set_timer(fd, ns(it_value), ns(it_interval), flags & TFD_TIMER_CANCEL_ON_SET != 0)
    }) as c_int
}
pub unsafe fn timerfd_gettime(fd: c_int, out: *mut itimerspec) -> c_int {
    call(|w| {
        let ns = w.timer_interval(fd)?;
        unsafe { (*out).it_interval = timespec { tv_sec: ns / 1_000_000_000, tv_nsec: ns % 1_000_000_000 } };
        Ok(0)
    }) as c_int
}
pub unsafe fn sched_getcpu() -> c_int {
    with(|w| w.cpu)
}

// ---- /proc/thread-self/fdinfo

pub unsafe fn open(path: *const c_char, _: c_int) -> c_int {
    let path = unsafe { std::ffi::CStr::from_ptr(path) }.to_string_lossy();
    let number = path.strip_prefix("/proc/thread-self/fdinfo/").and_then(|n| n.parse().ok()).expect("the only path");
    make(|w| {
        let text = w.fdinfo(number)?;
        w.text_file(text.into_bytes())
    }) as c_int
}

// ---- the library's threads

pub unsafe fn pthread_create(
    id: *mut pthread_t,
    _: *const pthread_attr_t,
    run: extern "C" fn(*mut c_void) -> *mut c_void,
    job: *mut c_void,
) -> c_int {
    if with(|w| w.fault(Fault::TooMany)) {
        return EAGAIN;
    }
    let at = super::sched::spawn(Box::new(move || {
        run(job);
    }));
    unsafe { id.write(at as pthread_t) };
    0
}
pub unsafe fn pthread_join(id: pthread_t, _: *mut *mut c_void) -> c_int {
    super::sched::join(id as usize);
    0
}

// ---- the page that a fork wipes

pub unsafe fn madvise(page: *mut c_void, len: usize, what: c_int) -> c_int {
    if what == MADV_WIPEONFORK {
        with(|w| w.wiped.push(page.addr()));
        return 0;
    }
    unsafe { ::libc::madvise(page, len, what) }
}
pub unsafe fn munmap(page: *mut c_void, len: usize) -> c_int {
    with(|w| w.wiped.retain(|p| *p != page.addr()));
    unsafe { ::libc::munmap(page, len) }
}
