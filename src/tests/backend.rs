//! The promises of `backend/mod.rs`, asked of the backend that is compiled in, with real fds:
//! `RUSTFLAGS='--cfg doorbell_backend="poll"' cargo test backend` runs the same questions on the other one.
//! What a backend says it lacks (`Backend::EDGE` and so on) must be refused. The museum numbers are real bugs.
#![cfg(target_os = "linux")]
use crate::abi::*;
use crate::backend::*;
use crate::error::Error;
use crate::event::{Clock, Handle, Interest, Kind, NEVER, Ready};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};
use std::sync::{RwLock, RwLockReadGuard};
use std::thread;

pub(super) const R: Interest = Interest(BELL_READ as u8 | BELL_RDHUP as u8);
pub(super) const W: Interest = Interest::WRITE;
const ASK_PRI: Interest = Interest(BELL_PRI as u8);
const ASK_RDHUP: Interest = Interest(BELL_RDHUP as u8);
const PRI: Ready = Ready(BELL_PRI);
pub(super) const RDHUP: Ready = Ready(BELL_RDHUP);
/// Long enough to mean "it never came", on any machine.
pub(super) const LONG: i64 = 20_000_000_000;

/// This file is compiled twice where there are two backends.
fn is_io_uring() -> bool {
    module_path!().ends_with("io_uring")
}

pub(super) fn make() -> Result<Backend, Error> {
    Backend::of_choice(is_io_uring())
}

/// What the constants say of the usual backend.
fn exclusive() -> bool {
    Backend::EXCLUSIVE && !is_io_uring()
}
fn pollable() -> bool {
    Backend::POLLABLE && !is_io_uring()
}

pub(super) fn cookie(n: usize) -> u64 {
    Handle::new(Kind::Fd, 0, n as u32, 1).0
}

fn owned(fd: i32) -> OwnedFd {
    assert!(fd >= 0, "{}", std::io::Error::last_os_error());
    // SAFETY: the caller has just made it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn pipe() -> (OwnedFd, OwnedFd) {
    let mut ends = [-1; 2];
    // SAFETY: two numbers are written.
    assert_eq!(0, unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC | libc::O_NONBLOCK) });
    (owned(ends[0]), owned(ends[1]))
}

pub(super) fn eventfd(count: u32) -> OwnedFd {
    // SAFETY: no pointers.
    owned(unsafe { libc::eventfd(count, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })
}

pub(super) fn put(fd: &impl AsRawFd, bytes: &[u8]) {
    // SAFETY: the slice is alive.
    let n = unsafe { libc::write(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len()) };
    assert_eq!(n, bytes.len() as isize, "{}", std::io::Error::last_os_error());
}

pub(super) fn take(fd: &impl AsRawFd) -> isize {
    let mut bytes = [0u8; 4096];
    // SAFETY: the array is alive.
    unsafe { libc::read(fd.as_raw_fd(), bytes.as_mut_ptr().cast(), bytes.len()) }
}

/// The same file under a number that no parallel test is given, for tests that close a number and then look at it.
pub(super) fn high(fd: OwnedFd) -> i32 {
    static NEXT: AtomicI32 = AtomicI32::new(700);
    // SAFETY: no pointers.
    let high = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, NEXT.fetch_add(10, Ordering::Relaxed)) };
    assert!(high >= 0);
    high
}

pub(super) fn close(fd: i32) {
    // SAFETY: no pointers; the callers own the number.
    assert_eq!(0, unsafe { libc::close(fd) });
}

/// One wait; what it tells of the fds under test.
pub(super) fn wait(b: &Backend, timeout_ns: i64) -> Vec<(u64, Ready)> {
    let mut events = Events::new(64).unwrap();
    b.wait(&mut events, timeout_ns).unwrap();
    list(&events)
}

fn list(events: &Events) -> Vec<(u64, Ready)> {
    (0..events.len()).map(|i| events.get(i)).filter(|(c, _)| *c >= OWN).collect()
}

/// The next event, which must come.
pub(super) fn next(b: &Backend) -> (u64, Ready) {
    let start = now(Clock::Monotonic).unwrap();
    loop {
        match wait(b, LONG)[..] {
            [e] => return e,
            [] => assert!(now(Clock::Monotonic).unwrap() < start + LONG, "no event came"),
            ref more => panic!("one event expected, got {more:x?}"),
        }
    }
}

/// Pipes, sockets of one machine and eventfds tell at once, so what is not there now does not come.
pub(super) fn assert_quiet(b: &Backend) {
    for _ in 0..3 {
        let got = wait(b, 0);
        assert!(got.is_empty(), "silence expected, got {got:x?}");
    }
}

pub(super) fn triggers() -> Vec<Trigger> {
    let mut all = vec![Trigger::Oneshot];
    if Backend::EDGE {
        all.push(Trigger::Edge);
    }
    all
}

/// Both ways to sleep, where there are two.
fn both_paths() -> [Backend; 2] {
    let pair = [make().unwrap(), make().unwrap()];
    pair[1].forbid_pwait2();
    pair
}

fn gettid() -> i32 {
    // SAFETY: no pointers.
    unsafe { libc::gettid() }
}

/// Until that thread sleeps in the kernel, or has ended.
fn until_asleep(tid: &AtomicI32) {
    loop {
        let id = tid.load(Ordering::Acquire);
        if id != 0 {
            match std::fs::read_to_string(format!("/proc/self/task/{id}/stat")) {
                Ok(stat) if stat.rsplit(')').next().unwrap().trim_start().starts_with('S') => return,
                Ok(_) => {}
                Err(_) => return,
            }
        }
        thread::yield_now();
    }
}

/// Runs `sleeper` on its own thread and `then` as soon as that one sleeps.
pub(super) fn while_asleep<T: Send>(sleeper: impl FnOnce() -> T + Send, then: impl FnOnce()) -> T {
    let tid = AtomicI32::new(0);
    thread::scope(|s| {
        let handle = s.spawn(|| {
            tid.store(gettid(), Ordering::Release);
            sleeper()
        });
        until_asleep(&tid);
        then();
        handle.join().unwrap()
    })
}

/// Held by tests that close a file and look for the consequence: a child forked by another test, at the wrong moment,
/// has copies of all fds until it ends.
pub(super) fn no_fork() -> RwLockReadGuard<'static, ()> {
    FORK.read().unwrap_or_else(|e| e.into_inner())
}
static FORK: RwLock<()> = RwLock::new(());

/// Runs `f` in a forked child, for what belongs to a whole process. An error is what the child had to say.
fn in_child(f: impl FnOnce() -> Result<(), String>) {
    let _alone = FORK.write().unwrap_or_else(|e| e.into_inner());
    // SAFETY: the child runs `f` on its only thread and leaves by _exit.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let code = match std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)) {
            Ok(Ok(())) => 0,
            Ok(Err(e)) => {
                // Past the harness, which captures what is printed in the normal way.
                put(&2, format!("child: {e}\n").as_bytes());
                1
            }
            Err(_) => 2,
        };
        // SAFETY: ends the child here; destructors of the parent's things must not run twice.
        unsafe { libc::_exit(code) };
    }
    let mut status = 0;
    // SAFETY: one number is written.
    while unsafe { libc::waitpid(pid, &mut status, 0) } < 0 {}
    assert_eq!(status, 0, "child ended with status {status:#x} (see its line above)");
}

// Bits

/// A name, an interest, what is expected, and the fd with what must stay open beside it.
type Case = (&'static str, Interest, Ready, OwnedFd, Vec<OwnedFd>);

fn every_case() -> Vec<Case> {
    let mut all: Vec<Case> = Vec::new();
    let mut case = |name, interest, expected, fd: OwnedFd, others| all.push((name, interest, expected, fd, others));
    let rdhup = Ready::READ | RDHUP;

    let (r, w) = pipe();
    case("an empty pipe", R, Ready::NONE, r, vec![w]);
    let (r, w) = pipe();
    put(&w, b"x");
    case("a pipe with data", R, Ready::READ, r, vec![w]);
    let (r, w) = pipe();
    case("a pipe with room", W, Ready::WRITE, w, vec![r]);
    let (r, w) = pipe();
    while take_room(&w) {}
    case("a full pipe", W, Ready::NONE, w, vec![r]);
    let (r, _) = pipe();
    case("a pipe without writer", R, Ready::HUP, r, vec![]);
    let (r, w) = pipe();
    put(&w, b"x");
    drop(w);
    case("a pipe with data without writer", R, Ready::READ | Ready::HUP, r, vec![]);
    let (_, w) = pipe();
    case("a pipe without reader", W, Ready::WRITE | Ready::ERR, w, vec![]);

    let socket = || UnixStream::pair().unwrap();
    let (a, b) = socket();
    case("an idle socket, asked to read", R, Ready::NONE, a.into(), vec![b.into()]);
    let (a, b) = socket();
    case("an idle socket, asked for both", R | W, Ready::WRITE, a.into(), vec![b.into()]);
    let (a, b) = socket();
    b.shutdown(std::net::Shutdown::Write).unwrap();
    case("a socket whose peer has shut down", R, rdhup, a.into(), vec![b.into()]);
    let (a, b) = socket();
    b.shutdown(std::net::Shutdown::Write).unwrap();
    case("the same, asked for RDHUP only", ASK_RDHUP, RDHUP, a.into(), vec![b.into()]);
    let (a, b) = socket();
    b.shutdown(std::net::Shutdown::Write).unwrap();
    case("the same, asked to write", W, Ready::WRITE, a.into(), vec![b.into()]);
    let (a, _) = socket();
    case("a socket whose peer is gone", R | W, rdhup | Ready::WRITE | Ready::HUP, a.into(), vec![]);

    case("an eventfd at 0", R, Ready::NONE, eventfd(0), vec![]);
    case("an eventfd at 1", R | W, Ready::READ | Ready::WRITE, eventfd(1), vec![]);

    let (master, slave) = pty();
    case("an idle pty", R, Ready::NONE, master, vec![slave]);
    let (master, slave) = pty();
    put(&slave, b"x");
    case("a pty with data", R, Ready::READ, master, vec![slave]);
    let (master, _) = pty();
    case("a pty that was hung up", R, Ready::HUP, master, vec![]);

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    case("a listener with a connection", R, Ready::READ, listener.try_clone().unwrap().into(), vec![]);
    let (server, _) = listener.accept().unwrap();
    // SAFETY: one byte is read.
    assert_eq!(1, unsafe { libc::send(client.as_raw_fd(), b"!".as_ptr().cast(), 1, libc::MSG_OOB) });
    client.flush().unwrap();
    case("a socket with urgent data", ASK_PRI, PRI, server.into(), vec![client.into()]);
    // The listener's case must come before its connection is taken away: it was connected to twice.
    all.last_mut().unwrap().4.push(TcpStream::connect(listener.local_addr().unwrap()).unwrap().into());
    all
}

fn take_room(w: &OwnedFd) -> bool {
    let page = [0u8; 4096];
    // SAFETY: the array is alive.
    unsafe { libc::write(w.as_raw_fd(), page.as_ptr().cast(), page.len()) > 0 }
}

fn pty() -> (OwnedFd, OwnedFd) {
    // SAFETY: no pointers.
    let master = owned(unsafe { libc::posix_openpt(libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC) });
    let mut name = [0; 64];
    // SAFETY: at most 64 bytes of name are written, with their end.
    let slave = unsafe {
        assert_eq!(0, libc::grantpt(master.as_raw_fd()));
        assert_eq!(0, libc::unlockpt(master.as_raw_fd()));
        assert_eq!(0, libc::ptsname_r(master.as_raw_fd(), name.as_mut_ptr(), name.len()));
        libc::open(name.as_ptr(), libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC)
    };
    (master, owned(slave))
}

#[test]
fn every_bit_comes_with_every_trigger() {
    let _no_fork = no_fork();
    for trigger in triggers() {
        for (name, interest, expected, fd, _others) in every_case() {
            let b = make().unwrap();
            b.add(fd.as_raw_fd(), interest, trigger, false, cookie(7)).unwrap();
            if expected.is_empty() {
                let got = wait(&b, 0);
                assert!(got.is_empty(), "{name}, {trigger:?}: silence expected, got {got:x?}");
            } else {
                assert_eq!(next(&b), (cookie(7), expected), "{name}, {trigger:?}");
            }
            assert_eq!(ready_now(fd.as_raw_fd(), interest), Ok(expected), "{name}, by ready_now");
        }
    }
}

#[test]
fn the_number_0_is_an_fd_like_any_other() {
    // SAFETY: no pointers.
    let open = unsafe { libc::fcntl(0, libc::F_GETFD) } >= 0;
    assert_eq!(ready_now(0, R).is_ok(), open);
}

#[test]
fn a_table_of_fds_is_counted_and_doubles_at_the_most() {
    let b = make().unwrap();
    let (r, _w) = pipe();
    let numbers = [600, 601].map(|low| {
        // SAFETY: no pointers.
        owned(unsafe { libc::fcntl(r.as_raw_fd(), libc::F_DUPFD_CLOEXEC, low) })
    });
    b.add(numbers[0].as_raw_fd(), R, Trigger::Oneshot, false, cookie(1)).unwrap();
    let one = b.heap_bytes();
    if cfg!(doorbell_backend = "poll") {
        assert!(one >= 600 * size_of::<u32>(), "{one}");
    }
    b.add(numbers[1].as_raw_fd(), R, Trigger::Oneshot, false, cookie(2)).unwrap();
    let two = b.heap_bytes();
    assert!(two <= 2 * one + 256, "{two} after {one}");
}

#[test]
fn ready_now_refuses_what_is_not_open() {
    assert_eq!(ready_now(-1, R), Err(Error::BADF));
    assert_eq!(ready_now(999_999, R), Err(Error::BADF));
}

/// libuv#4992, nodejs#11307: HUP came first and the rest of the data was lost.
#[test]
fn museum_067_a_pty_tells_of_its_last_bytes_before_it_is_done() {
    let _no_fork = no_fork();
    let (master, slave) = pty();
    let b = make().unwrap();
    put(&slave, &[b'x'; 3000]);
    drop(slave);
    let mut got = 0;
    b.add(master.as_raw_fd(), R, Trigger::Oneshot, false, cookie(1)).unwrap();
    loop {
        let (_, ready) = next(&b);
        let mut part = [0u8; 1000];
        // SAFETY: the array is alive.
        let n = unsafe { libc::read(master.as_raw_fd(), part.as_mut_ptr().cast(), part.len()) };
        if n <= 0 {
            assert!(ready.has(Ready::HUP));
            break;
        }
        assert!(ready.has(Ready::READ), "data was left, and {ready:x?} did not say so");
        got += n;
        b.modify(master.as_raw_fd(), R, Trigger::Oneshot, cookie(1)).unwrap();
    }
    assert_eq!(got, 3000);
}

// Triggers

#[test]
fn add_and_modify_tell_what_is_there_already() {
    for trigger in triggers() {
        let b = make().unwrap();
        let fd = eventfd(1);
        b.add(fd.as_raw_fd(), R, trigger, false, cookie(1)).unwrap();
        assert_eq!(next(&b), (cookie(1), Ready::READ));
        assert_quiet(&b);
        // The same readiness again, under another cookie; then the other direction.
        b.modify(fd.as_raw_fd(), R, trigger, cookie(2)).unwrap();
        assert_eq!(next(&b), (cookie(2), Ready::READ));
        b.modify(fd.as_raw_fd(), W, trigger, cookie(2)).unwrap();
        assert_eq!(next(&b), (cookie(2), Ready::WRITE));
        assert_quiet(&b);
        // What was armed but not told before a modify comes once, as the modify says.
        b.modify(fd.as_raw_fd(), R, trigger, cookie(3)).unwrap();
        b.modify(fd.as_raw_fd(), R | W, trigger, cookie(4)).unwrap();
        assert_eq!(next(&b), (cookie(4), Ready::READ | Ready::WRITE));
        assert_quiet(&b);
    }
}

#[test]
fn a_oneshot_is_silent_after_its_event_even_about_hup() {
    let _no_fork = no_fork();
    let b = make().unwrap();
    let (x, mut y) = UnixStream::pair().unwrap();
    b.add(x.as_raw_fd(), R, Trigger::Oneshot, false, cookie(1)).unwrap();
    y.write_all(b"1").unwrap();
    assert_eq!(next(&b), (cookie(1), Ready::READ));
    y.write_all(b"2").unwrap();
    assert_quiet(&b);
    drop(y);
    assert_quiet(&b);
    b.modify(x.as_raw_fd(), R, Trigger::Oneshot, cookie(1)).unwrap();
    assert_eq!(next(&b), (cookie(1), Ready::READ | RDHUP | Ready::HUP));
    assert_quiet(&b);
}

#[test]
fn an_edge_comes_once_for_each_arrival() {
    let _no_fork = no_fork();
    let b = make().unwrap();
    let (x, mut y) = UnixStream::pair().unwrap();
    if !Backend::EDGE {
        assert_eq!(b.add(x.as_raw_fd(), R, Trigger::Edge, false, cookie(1)), Err(Error::UNSUPPORTED));
        b.add(x.as_raw_fd(), R, Trigger::Oneshot, false, cookie(1)).unwrap();
        assert_eq!(b.modify(x.as_raw_fd(), R, Trigger::Edge, cookie(1)), Err(Error::UNSUPPORTED));
        return;
    }
    b.add(x.as_raw_fd(), R | W, Trigger::Edge, false, cookie(1)).unwrap();
    assert_eq!(next(&b), (cookie(1), Ready::WRITE));
    for _ in 0..3 {
        y.write_all(b"more").unwrap(); // and nobody reads
        let (told, ready) = next(&b);
        assert_eq!((told, ready | Ready::WRITE), (cookie(1), Ready::READ | Ready::WRITE)); // io_uring: what is new
        assert_quiet(&b);
    }
    drop(y);
    assert_eq!(next(&b), (cookie(1), Ready::READ | Ready::WRITE | RDHUP | Ready::HUP));
    assert_quiet(&b);
}

/// A pipe that is drained between: the one edge that every kernel gives.
#[test]
fn an_edge_comes_after_each_drain() {
    if !Backend::EDGE {
        return;
    }
    let b = make().unwrap();
    let (r, w) = pipe();
    b.add(r.as_raw_fd(), R, Trigger::Edge, false, cookie(1)).unwrap();
    for _ in 0..100 {
        put(&w, b"x");
        assert_eq!(next(&b), (cookie(1), Ready::READ));
        assert_eq!(take(&r), 1);
    }
}

#[test]
fn an_exclusive_listener_wakes_one_sleeper() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let fd = listener.as_raw_fd();
    let shards = [make().unwrap(), make().unwrap()];
    if !exclusive() {
        let trigger = triggers().pop().unwrap();
        assert_eq!(shards[0].add(fd, R, trigger, true, cookie(1)), Err(Error::UNSUPPORTED));
        assert_eq!(shards[0].registered(), Ok(vec![]));
        return;
    }
    for b in &shards {
        b.add(fd, R, Trigger::Edge, true, cookie(1)).unwrap();
    }
    assert!(shards[0].registered().unwrap()[0].exclusive);
    assert_eq!(shards[0].modify(fd, R, Trigger::Edge, cookie(1)), Err(Error::INVAL));
    let tids = [AtomicI32::new(0), AtomicI32::new(0)];
    let total = AtomicU32::new(0);
    thread::scope(|s| {
        let sleepers: Vec<_> = (0..2)
            .map(|i| {
                let (b, tid, total) = (&shards[i], &tids[i], &total);
                s.spawn(move || {
                    tid.store(gettid(), Ordering::Release);
                    total.fetch_add(wait(b, LONG).len() as u32, Ordering::AcqRel);
                })
            })
            .collect();
        tids.iter().for_each(until_asleep);
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        while !sleepers.iter().any(|t| t.is_finished()) {
            thread::yield_now();
        }
        // Whoever still sleeps is woken by hand, and must not have the event as well.
        shards.iter().for_each(|b| b.wake().unwrap());
    });
    assert_eq!(total.into_inner(), 1);
}

// Errors

#[test]
fn errors_are_told_and_change_nothing() {
    let b = make().unwrap();
    let not_open = 999_999;
    let file = std::fs::File::open(std::env::current_exe().unwrap()).unwrap();
    let folder = std::fs::File::open("/").unwrap();
    let fd = eventfd(1);
    let t = Trigger::Oneshot;
    for bad in [-1, not_open] {
        assert_eq!(b.add(bad, R, t, false, cookie(1)), Err(Error::BADF));
        assert_eq!(b.modify(bad, R, t, cookie(1)), Err(Error::BADF));
        assert_eq!(b.remove(bad), Err(Error::BADF));
    }
    for unpollable in [file.as_raw_fd(), folder.as_raw_fd()] {
        assert_eq!(b.add(unpollable, R, t, false, cookie(1)), Err(Error::PERM));
    }
    assert_eq!(b.modify(fd.as_raw_fd(), R, t, cookie(1)), Err(Error::NOENT));
    assert_eq!(b.remove(fd.as_raw_fd()), Err(Error::NOENT));
    assert_eq!(b.registered(), Ok(vec![]));

    b.add(fd.as_raw_fd(), R, t, false, cookie(1)).unwrap();
    assert_eq!(b.add(fd.as_raw_fd(), W, t, false, cookie(2)).map_err(Error::code), Err(-libc::EEXIST));
    assert_eq!(next(&b), (cookie(1), Ready::READ), "the second add must not have changed the first");
    b.remove(fd.as_raw_fd()).unwrap();
    assert_eq!(b.remove(fd.as_raw_fd()), Err(Error::NOENT));
    b.add(fd.as_raw_fd(), R, t, false, cookie(3)).unwrap();
    assert_eq!(next(&b), (cookie(3), Ready::READ));
    assert_eq!(Events::new(0).err(), Some(Error::INVAL));
    assert!(Events::new(usize::MAX).is_err());
}

/// golang#22606, mio#1031, libevent 7ef754aa: the second step fails, the first one leaks.
#[test]
fn museum_056_nothing_leaks_when_fds_run_out() {
    in_child(|| {
        let limit = libc::rlimit { rlim_cur: 256, rlim_max: 256 };
        // SAFETY: the struct is alive. It is this child's limit only.
        assert_eq!(0, unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) });
        // SAFETY: no pointers.
        let fill = || (0..).map(|_| unsafe { libc::dup(2) }).take_while(|fd| *fd >= 0).collect::<Vec<i32>>();
        let whole = fill();
        let mut needed = 0;
        for free in 0.. {
            whole[..free].iter().for_each(|fd| close(*fd));
            let made = make();
            let done = made.is_ok();
            match made {
                Err(e) if e.code() == -libc::EMFILE => {}
                Err(e) => return Err(format!("new with {free} free fds: {e:?}")),
                Ok(b) => {
                    needed = free;
                    // Nothing is free now. All that makes fds must fail and leave the rest as it is.
                    let emfile = Err(-libc::EMFILE);
                    let fd = whole[free];
                    close(fd);
                    let event = eventfd(1);
                    b.add(event.as_raw_fd(), R, Trigger::Oneshot, false, cookie(1))
                        .map_err(|e| format!("add: {e:?}"))?;
                    if b.set_alarm(Clock::Real, 1).map_err(Error::code) != emfile {
                        return Err("set_alarm".into());
                    }
                    if pollable()
                        && (b.pollable_fd().map(drop).map_err(Error::code) != emfile
                            || b.rebuild().map_err(Error::code) != emfile)
                    {
                        return Err("pollable_fd or rebuild".into());
                    }
                    if next(&b) != (cookie(1), Ready::READ) {
                        return Err("the set was changed by a failure".into());
                    }
                    drop(b);
                    drop(event);
                    // SAFETY: no pointers.
                    assert_eq!(fd, unsafe { libc::fcntl(2, libc::F_DUPFD, fd) });
                }
            }
            let now_free = fill();
            if now_free.len() != free {
                return Err(format!("{free} fds were free before, {} after", now_free.len()));
            }
            if done {
                break;
            }
        }
        if needed == 2 { Ok(()) } else { Err(format!("a backend takes {needed} fds, not 2")) }
    });
}

#[test]
fn all_fds_close_on_exec() {
    let b = make().unwrap();
    for clock in Clock::ALL {
        b.set_alarm(clock, 1).unwrap();
    }
    let _ = b.pollable_fd();
    b.rebuild().unwrap();
    let fds = b.own_fds();
    assert_eq!(fds.len(), 5 + pollable() as usize);
    for fd in fds {
        // SAFETY: no pointers.
        assert_eq!(unsafe { libc::fcntl(fd, libc::F_GETFD) }, libc::FD_CLOEXEC, "fd {fd}");
    }
}

// Waking

#[test]
fn a_wake_ends_the_next_wait_and_only_that() {
    for b in both_paths() {
        for timeout in [LONG, NEVER, NEVER - 1, 0] {
            for _ in 0..1000 {
                b.wake().unwrap(); // many are one
            }
            assert_eq!(wait(&b, timeout), vec![]);
            let start = now(Clock::Monotonic).unwrap();
            assert_eq!(wait(&b, 2_000_000), vec![]);
            assert!(now(Clock::Monotonic).unwrap() - start >= 2_000_000, "the wake was told twice");
        }
    }
}

#[test]
fn a_wake_ends_the_current_wait() {
    for b in both_paths() {
        for timeout in [NEVER, NEVER - 1, LONG] {
            let called = AtomicBool::new(false);
            let payload = AtomicU32::new(0);
            let seen = while_asleep(
                || {
                    wait(&b, timeout);
                    (called.load(Ordering::Relaxed), payload.load(Ordering::Relaxed))
                },
                || {
                    called.store(true, Ordering::Relaxed);
                    payload.store(5, Ordering::Relaxed);
                    b.wake().unwrap();
                },
            );
            assert_eq!(seen, (true, 5), "timeout {timeout}");
        }
    }
}

/// No wake is lost, whenever it comes: each round is one wake against one wait, at whatever moment.
#[test]
fn wakes_are_not_lost_between_waits() {
    for b in both_paths() {
        let rounds = 20_000;
        let (asked, answered) = (AtomicU32::new(0), AtomicU32::new(0));
        thread::scope(|s| {
            s.spawn(|| {
                let mut events = Events::new(8).unwrap();
                while answered.load(Ordering::Relaxed) < rounds {
                    b.wait(&mut events, LONG).unwrap();
                    answered.store(asked.load(Ordering::Relaxed), Ordering::Release);
                }
            });
            for round in 1..=rounds {
                asked.store(round, Ordering::Relaxed);
                b.wake().unwrap();
                let start = now(Clock::Monotonic).unwrap();
                while answered.load(Ordering::Acquire) < round {
                    assert!(now(Clock::Monotonic).unwrap() < start + LONG, "wake {round} was lost");
                    thread::yield_now();
                }
            }
        });
    }
}

/// mio#909, helios#169: a full eventfd refuses the write and gives no edge; a full pipe refuses it too.
#[test]
fn museum_073_a_saturated_waker_still_wakes() {
    let b = make().unwrap();
    let own = b.own_fds();
    if features() & BELL_FEATURE_EPOLL != 0 {
        put(&own[1], &(u64::MAX - 1 - is_io_uring() as u64).to_ne_bytes());
        wait(&b, 0); // takes that edge away
    } else {
        let byte = [0u8; 1];
        // SAFETY: one byte is read.
        while unsafe { libc::write(own[1], byte.as_ptr().cast(), 1) } == 1 {}
    }
    for _ in 0..3 {
        let start = now(Clock::Monotonic).unwrap();
        b.wake().unwrap();
        wait(&b, LONG);
        assert!(now(Clock::Monotonic).unwrap() - start < LONG, "the wake was lost");
    }
    let start = now(Clock::Monotonic).unwrap();
    wait(&b, 2_000_000);
    assert!(now(Clock::Monotonic).unwrap() - start >= 2_000_000, "the waker was not emptied");
}

// Sleeping

/// mio#1614, smol#109, asyncio#106: less than a millisecond became 0 and spun; or a millisecond was added to all.
#[test]
fn museum_039_a_wait_is_never_short() {
    for (path, b) in both_paths().into_iter().enumerate() {
        for timeout in [0, 1, 999_000, 1_000_000, 1_000_001, 3_100_000] {
            let mut best = i64::MAX;
            for _ in 0..20 {
                let start = now(Clock::Monotonic).unwrap();
                assert_eq!(wait(&b, timeout), vec![]);
                let took = now(Clock::Monotonic).unwrap() - start;
                assert!(took >= timeout, "path {path}: {timeout} ns asked, {took} slept");
                best = best.min(took);
            }
            println!("path {path}: {timeout} ns asked, {best} slept at best");
            assert!(best < timeout + 10_000_000, "path {path}: {timeout} ns asked, {best} slept at best");
            if Backend::NANOSECONDS && timeout == 1 {
                assert!(best < 900_000, "path {path}: 1 ns became {best}");
            }
        }
    }
}

/// mio#1657, tokio#3551: the far future overflows, and is now.
#[test]
fn museum_040_the_far_future_is_not_now() {
    for b in both_paths() {
        for timeout in [(1i64 << 31) * 1_000_000, (1 << 32) * 1_000_000, NEVER / 2, NEVER - 1, NEVER] {
            let called = AtomicBool::new(false);
            let sleep = || {
                wait(&b, timeout);
                called.load(Ordering::Relaxed)
            };
            let wake = || {
                called.store(true, Ordering::Relaxed);
                b.wake().unwrap();
            };
            assert!(while_asleep(sleep, wake), "a wait of {timeout} ns ended by itself");
        }
    }
}

/// polling#265: a signal took a wake with it.
#[test]
fn museum_024_a_signal_ends_a_wait_and_loses_nothing() {
    extern "C" fn nothing(_: i32) {}
    // SAFETY: a handler that does nothing; SIGUSR2 is not used by other tests. Without SA_RESTART.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = nothing as extern "C" fn(i32) as usize;
        assert_eq!(0, libc::sigaction(libc::SIGUSR2, &action, std::ptr::null_mut()));
    }
    for b in both_paths() {
        let fd = eventfd(0);
        b.add(fd.as_raw_fd(), R, Trigger::Oneshot, false, cookie(1)).unwrap();
        for timeout in [NEVER, LONG] {
            // SAFETY: no pointers.
            let me = AtomicU32::new(0);
            let mut events = Events::new(4).unwrap();
            let (result, left) = thread::scope(|s| {
                let sleeper = s.spawn(|| {
                    me.store(gettid() as u32, Ordering::Release);
                    (b.wait(&mut events, timeout), events.len())
                });
                // Again and again, because the first may come before it sleeps.
                while !sleeper.is_finished() {
                    let tid = me.load(Ordering::Acquire) as i32;
                    if tid != 0 {
                        // SAFETY: no pointers; the thread is of this process until it is joined.
                        unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), tid, libc::SIGUSR2) };
                    }
                    thread::yield_now();
                }
                sleeper.join().unwrap()
            });
            assert_eq!((result, left), (Err(Error::INTR), 0));
        }
        b.wake().unwrap();
        put(&fd, &1u64.to_ne_bytes());
        assert_eq!(next(&b), (cookie(1), Ready::READ));
        assert_quiet(&b);
    }
}

// The set, while somebody sleeps

#[test]
fn a_sleeper_sees_what_is_added_and_modified() {
    let b = make().unwrap();
    let fd = eventfd(1);
    let n = fd.as_raw_fd();
    let event = while_asleep(|| next(&b), || b.add(n, R, Trigger::Oneshot, false, cookie(1)).unwrap());
    assert_eq!(event, (cookie(1), Ready::READ));
    let event = while_asleep(|| next(&b), || b.modify(n, W, Trigger::Oneshot, cookie(2)).unwrap());
    assert_eq!(event, (cookie(2), Ready::WRITE));
    let (r, w) = pipe();
    b.add(r.as_raw_fd(), R, Trigger::Oneshot, false, cookie(3)).unwrap();
    let event = while_asleep(|| next(&b), || put(&w, b"x"));
    assert_eq!(event, (cookie(3), Ready::READ));
}

/// A backend that lends the kernel its list must take back what is closed: the peer waits for the end.
#[test]
fn the_peer_of_a_removed_and_closed_fd_sees_the_end_while_somebody_sleeps() {
    let _no_fork = no_fork();
    let b = make().unwrap();
    let (mine, mut peer) = UnixStream::pair().unwrap();
    peer.set_read_timeout(Some(std::time::Duration::from_nanos(LONG as u64))).unwrap();
    b.add(mine.as_raw_fd(), R, Trigger::Oneshot, false, cookie(1)).unwrap();
    let got = while_asleep(
        || wait(&b, NEVER),
        || {
            b.remove(mine.as_raw_fd()).unwrap();
            drop(mine);
            assert_eq!(peer.read(&mut [0u8; 8]).unwrap(), 0);
            b.wake().unwrap();
        },
    );
    assert_eq!(got, vec![]);
}

#[test]
fn a_change_of_the_set_does_not_end_a_wait() {
    for b in both_paths() {
        let (r, _w) = pipe();
        let fd = r.as_raw_fd();
        let timeout = 20_000_000;
        let took = while_asleep(
            || {
                let start = now(Clock::Monotonic).unwrap();
                assert_eq!(wait(&b, timeout), vec![]);
                now(Clock::Monotonic).unwrap() - start
            },
            || {
                b.add(fd, R, Trigger::Oneshot, false, cookie(1)).unwrap();
                b.modify(fd, R, Trigger::Oneshot, cookie(2)).unwrap();
                b.remove(fd).unwrap();
            },
        );
        assert!(took >= timeout, "{took}");
    }
}

/// bugzilla.kernel.org 205933 (selftest epoll59): a modify that meets a wait loses the readiness.
#[test]
fn museum_022_no_rearm_is_lost_in_a_running_wait() {
    for b in both_paths() {
        let fd = eventfd(1);
        let n = fd.as_raw_fd();
        b.add(n, R, Trigger::Oneshot, false, cookie(0)).unwrap();
        let rounds = 20_000;
        let told = AtomicU32::new(0);
        thread::scope(|s| {
            s.spawn(|| {
                let mut events = Events::new(8).unwrap();
                for round in 0..=rounds {
                    b.wait(&mut events, LONG).unwrap();
                    assert_eq!(list(&events), vec![(cookie(round), Ready::READ)], "round {round}");
                    told.store(round as u32 + 1, Ordering::Release);
                }
            });
            for round in 1..=rounds {
                while told.load(Ordering::Acquire) < round as u32 {
                    thread::yield_now();
                }
                b.modify(n, R, Trigger::Oneshot, cookie(round)).unwrap();
            }
        });
    }
}

/// golang#59545, in small: what the kernel said about an earlier arming, told under the cookie of the present one.
#[test]
fn news_comes_under_the_cookie_that_asked_for_it() {
    for b in both_paths() {
        let fd = eventfd(0); // never readable, always writable
        let n = fd.as_raw_fd();
        let (reader, writer) = (cookie(1), cookie(2));
        b.add(n, R, Trigger::Oneshot, false, reader).unwrap();
        let done = AtomicBool::new(false);
        thread::scope(|s| {
            s.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    b.modify(n, W, Trigger::Oneshot, writer).unwrap();
                    b.modify(n, R, Trigger::Oneshot, reader).unwrap();
                }
            });
            let wrong = (0..20_000).flat_map(|_| wait(&b, 0)).find(|e| *e != (writer, Ready::WRITE));
            done.store(true, Ordering::Relaxed);
            assert_eq!(wrong, None);
        });
    }
}

/// The path with two system calls: readiness is gone again between the first and the second.
#[test]
fn readiness_that_comes_and_goes_does_not_cut_a_wait_short() {
    for (path, b) in both_paths().into_iter().enumerate() {
        let fd = eventfd(0);
        let timeout = 1_000_000;
        b.add(fd.as_raw_fd(), R, Trigger::Oneshot, false, cookie(1)).unwrap();
        let done = AtomicBool::new(false);
        thread::scope(|s| {
            s.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    put(&fd, &1u64.to_ne_bytes());
                    take(&fd);
                }
            });
            let short = (0..20_000).find_map(|_| {
                let start = now(Clock::Monotonic).unwrap();
                let got = wait(&b, timeout);
                let took = now(Clock::Monotonic).unwrap() - start;
                b.modify(fd.as_raw_fd(), R, Trigger::Oneshot, cookie(1)).unwrap();
                (got.is_empty() && took < timeout).then_some(took)
            });
            done.store(true, Ordering::Relaxed);
            assert_eq!(short, None, "path {path}");
        });
    }
}

#[test]
fn what_was_removed_is_not_told_later() {
    for trigger in triggers() {
        let b = make().unwrap();
        let fds: Vec<_> = (0..8).map(|_| eventfd(1)).collect();
        for (i, fd) in fds.iter().enumerate() {
            b.add(fd.as_raw_fd(), R, trigger, false, cookie(i)).unwrap();
        }
        for fd in fds.iter().step_by(2) {
            b.remove(fd.as_raw_fd()).unwrap();
        }
        let mut told: Vec<u64> = wait(&b, 0).into_iter().map(|(c, _)| c).collect();
        told.sort();
        assert_eq!(told, [1, 3, 5, 7].map(cookie));
    }
}

// Batches

#[test]
fn a_full_batch_leaves_the_rest_for_later() {
    for trigger in triggers() {
        let b = make().unwrap();
        let fds: Vec<_> = (0..10).map(|_| eventfd(1)).collect();
        for (i, fd) in fds.iter().enumerate() {
            b.add(fd.as_raw_fd(), R, trigger, false, cookie(i)).unwrap();
        }
        let mut events = Events::new(3).unwrap();
        let mut told = Vec::new();
        for size in [3, 3, 3, 1, 0] {
            b.wait(&mut events, 0).unwrap();
            assert_eq!((events.len(), events.is_full()), (size, size == 3));
            told.extend(list(&events));
        }
        told.sort_by_key(|(c, _)| *c);
        assert_eq!(told, (0..10).map(|i| (cookie(i), Ready::READ)).collect::<Vec<_>>());
    }
}

#[test]
fn nobody_starves_when_more_are_ready_than_fit() {
    let b = make().unwrap();
    let fds: Vec<_> = (0..10).map(|_| eventfd(1)).collect();
    for (i, fd) in fds.iter().enumerate() {
        b.add(fd.as_raw_fd(), R, Trigger::Oneshot, false, cookie(i)).unwrap();
    }
    let mut events = Events::new(3).unwrap();
    let mut turns = BTreeMap::new();
    for _ in 0..100 {
        b.wait(&mut events, 0).unwrap();
        assert_eq!(events.len(), 3);
        for (c, _) in list(&events) {
            *turns.entry(c).or_insert(0) += 1;
            b.modify(fds[Handle(c).index() as usize].as_raw_fd(), R, Trigger::Oneshot, c).unwrap();
        }
    }
    println!("{:?}", turns.values());
    assert_eq!(turns.len(), 10);
    assert!(turns.values().all(|n| (29..=31).contains(n)), "300 turns over 10 fds: {:?}", turns.values());
}

// Closing behind our back, ghosts, forks

/// libevent#379: POLLNVAL at each poll, for ever. epoll forgets the fd in silence.
#[test]
fn museum_069_an_fd_closed_behind_our_back_does_not_spin() {
    let _no_fork = no_fork();
    let b = make().unwrap();
    let fd = high(eventfd(0));
    b.add(fd, R, Trigger::Oneshot, false, cookie(1)).unwrap();
    close(fd);
    // io_uring has not seen it yet; if it had, the file would be open still: see below.
    let tells = features() & BELL_FEATURE_POLL != 0 || is_io_uring();
    let told = if tells { vec![(cookie(1), Ready::CLOSED)] } else { vec![] };
    assert_eq!(wait(&b, 0), told);
    assert_eq!(b.registered(), Ok(vec![]));
    assert_quiet(&b);
    assert_eq!(b.modify(fd, R, Trigger::Oneshot, cookie(1)), Err(Error::BADF));
    assert_eq!(b.remove(fd), Err(Error::BADF));
}

/// libuv#1099: a dup outlives the close, and epoll goes on about the closed fd.
#[test]
fn museum_014_a_ghost_is_gone_after_rebuild_and_the_others_are_not() {
    if !pollable() {
        return; // no ghosts in poll(2), which watches numbers, nor in io_uring, which cancels without them
    }
    let b = make().unwrap();
    let (r, w) = pipe();
    let other = eventfd(1);
    let ghost = high(r);
    // SAFETY: no pointers.
    let dup = owned(unsafe { libc::dup(ghost) });
    b.add(ghost, R, Trigger::Edge, false, cookie(1)).unwrap();
    b.add(other.as_raw_fd(), R, Trigger::Oneshot, false, cookie(2)).unwrap();
    assert_eq!(next(&b), (cookie(2), Ready::READ));
    close(ghost);
    assert_eq!(b.remove(ghost), Err(Error::BADF));
    assert_eq!(b.remove(dup.as_raw_fd()), Err(Error::NOENT));
    put(&w, b"boo");
    assert_eq!(next(&b), (cookie(1), Ready::READ), "this is what a ghost does");
    assert!(b.registered().unwrap().iter().any(|r| r.cookie == cookie(1)));

    b.wake().unwrap(); // must survive the rebuild
    b.rebuild().unwrap();
    assert_eq!(b.registered(), Ok(vec![]));
    let start = now(Clock::Monotonic).unwrap();
    wait(&b, LONG);
    assert!(now(Clock::Monotonic).unwrap() - start < LONG);
    put(&w, b"boo");
    assert_quiet(&b);
    b.add(other.as_raw_fd(), R, Trigger::Oneshot, false, cookie(2)).unwrap();
    assert_eq!(next(&b), (cookie(2), Ready::READ));
    b.set_alarm(Clock::Boot, now(Clock::Boot).unwrap() + 1_000_000).unwrap();
    b.rebuild().unwrap();
    wait(&b, NEVER); // the alarm came along
}

#[test]
fn rebuild_forgets_everything() {
    let b = make().unwrap();
    let fd = eventfd(1);
    b.add(fd.as_raw_fd(), R, Trigger::Oneshot, false, cookie(1)).unwrap();
    b.rebuild().unwrap();
    assert_eq!(b.registered(), Ok(vec![]));
    assert_quiet(&b);
    assert_eq!(b.remove(fd.as_raw_fd()), Err(Error::NOENT));
    b.add(fd.as_raw_fd(), R, Trigger::Oneshot, false, cookie(2)).unwrap();
    assert_eq!(next(&b), (cookie(2), Ready::READ));
}

/// eventlet#68: the child's `EPOLL_CTL_DEL` hits the parent.
#[test]
fn museum_060_a_forked_child_drops_its_copy_without_harm() {
    let b = make().unwrap();
    let fd = eventfd(0);
    b.add(fd.as_raw_fd(), R, Trigger::Oneshot, false, cookie(1)).unwrap();
    let before = b.registered();
    b.set_alarm(Clock::Real, NEVER).unwrap();
    in_child(|| {
        // SAFETY: the child's memory is a copy; the original is not dropped there.
        drop(unsafe { std::ptr::read(&b) });
        let new = make().map_err(|e| format!("{e:?}"))?;
        new.add(fd.as_raw_fd(), R, Trigger::Oneshot, false, cookie(2)).map_err(|e| format!("{e:?}"))?;
        new.wake().map_err(|e| format!("{e:?}"))
    });
    assert_eq!(b.registered(), before);
    assert_quiet(&b);
    put(&fd, &1u64.to_ne_bytes());
    assert_eq!(next(&b), (cookie(1), Ready::READ));
    b.wake().unwrap();
    wait(&b, NEVER);
}

// Nesting and alarms

fn readable(fd: i32) -> bool {
    ready_now(fd, Interest::READ).unwrap().has(Ready::READ)
}

#[test]
fn the_pollable_fd_tells_the_truth_and_stays() {
    let b = make().unwrap();
    if !pollable() {
        assert_eq!(b.pollable_fd(), Err(Error::UNSUPPORTED));
        return;
    }
    let fd = eventfd(0);
    let n = fd.as_raw_fd();
    let outer = b.pollable_fd().unwrap();
    // Another loop watches it from the start, and is not to notice the rebuilds.
    let other = make().unwrap();
    other.add(outer, R, Trigger::Oneshot, false, cookie(99)).unwrap();
    let told = |expected: bool| {
        assert_eq!(readable(outer), expected);
        other.modify(outer, R, Trigger::Oneshot, cookie(99)).unwrap();
        assert_eq!(wait(&other, 0).len(), expected as usize);
    };
    for _ in 0..3 {
        assert_eq!(b.pollable_fd(), Ok(outer));
        b.add(n, R, Trigger::Oneshot, false, cookie(1)).unwrap();
        told(false);
        put(&fd, &1u64.to_ne_bytes());
        told(true);
        told(true);
        take(&fd); // drained by somebody before the turn
        told(false);
        put(&fd, &1u64.to_ne_bytes());
        told(true);
        assert_eq!(next(&b), (cookie(1), Ready::READ));
        told(false);
        b.wake().unwrap();
        told(true);
        wait(&b, 0);
        told(false);
        b.set_alarm(Clock::Monotonic, 0).unwrap();
        told(true);
        b.set_alarm(Clock::Monotonic, NEVER).unwrap();
        told(false);
        b.set_alarm(Clock::Monotonic, 0).unwrap();
        wait(&b, NEVER);
        told(false);
        take(&fd);
        b.rebuild().unwrap();
        wait(&b, 0); // the waker and the alarm may speak up once
        told(false);
    }
}

#[test]
fn threads_that_ask_at_once_get_one_pollable_fd() {
    if !pollable() {
        return;
    }
    for _ in 0..50 {
        let b = make().unwrap();
        let gate = std::sync::Barrier::new(4);
        let fds: Vec<i32> = thread::scope(|s| {
            let ask = || {
                gate.wait();
                b.set_alarm(Clock::Boot, 1).unwrap();
                b.pollable_fd().unwrap()
            };
            let all: Vec<_> = (0..4).map(|_| s.spawn(ask)).collect();
            all.into_iter().map(|t| t.join().unwrap()).collect()
        });
        assert!(fds.iter().all(|fd| *fd == fds[0]));
        assert!(readable(fds[0]));
        assert_eq!(b.own_fds().len(), 4);
    }
}

#[test]
fn alarms_end_a_wait_at_their_time() {
    for b in both_paths() {
        for clock in Clock::ALL {
            b.set_alarm(clock, NEVER).unwrap(); // of one that does not exist yet
            let at = now(clock).unwrap() + 3_000_000;
            b.set_alarm(clock, at).unwrap();
            wait(&b, NEVER);
            assert!(now(clock).unwrap() >= at, "{clock:?}: early");
            // It has spoken, and is silent now; disarmed, and moved later, it is silent at the old time.
            for later in [None, Some(NEVER), Some(NEVER - 1)] {
                if let Some(later) = later {
                    b.set_alarm(clock, now(clock).unwrap() + 1_000_000).unwrap();
                    b.set_alarm(clock, later).unwrap();
                }
                let start = now(Clock::Monotonic).unwrap();
                wait(&b, 4_000_000);
                assert!(now(Clock::Monotonic).unwrap() - start >= 4_000_000, "{clock:?}, {later:?}");
            }
            for past in [0, 1, -5, now(clock).unwrap() - 1] {
                b.set_alarm(clock, past).unwrap();
                wait(&b, NEVER);
            }
            // Fired with nobody there, then taken back: nothing is left to tell.
            b.set_alarm(clock, 0).unwrap();
            b.set_alarm(clock, NEVER).unwrap();
            let start = now(Clock::Monotonic).unwrap();
            wait(&b, 2_000_000);
            assert!(now(Clock::Monotonic).unwrap() - start >= 2_000_000, "{clock:?}");
        }
        assert_eq!(wait(&b, 0), vec![]);
        assert_eq!(b.registered(), Ok(vec![]), "alarms are not registrations");
    }
}

#[test]
fn a_sleeper_follows_an_alarm_that_is_set_meanwhile() {
    for b in both_paths() {
        for clock in Clock::ALL {
            while_asleep(|| wait(&b, NEVER), || b.set_alarm(clock, 0).unwrap());
            b.set_alarm(clock, NEVER - 1).unwrap();
            while_asleep(|| wait(&b, NEVER), || b.set_alarm(clock, 1).unwrap());
        }
    }
}

/// A clock cannot be set here without disturbing the machine, so the kernel is asked what it was told.
#[test]
fn the_alarm_of_the_wall_clock_watches_for_jumps() {
    for clock in Clock::ALL {
        let b = make().unwrap();
        let before = b.own_fds();
        b.set_alarm(clock, NEVER - 1).unwrap();
        let timer = b.own_fds().into_iter().find(|fd| !before.contains(fd)).unwrap();
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{timer}")).unwrap();
        // TFD_TIMER_ABSTIME is 1, TFD_TIMER_CANCEL_ON_SET is 2; in octal.
        let flags = if clock == Clock::Real { "settime flags: 03" } else { "settime flags: 01" };
        assert!(info.contains(flags), "{clock:?}: {info}");
    }
}

// What it says of itself

#[test]
fn registered_tells_what_was_asked() {
    let b = make().unwrap();
    let fds: Vec<_> = (0..6).map(|_| eventfd(0)).collect();
    let interests = [R, W, R | W, ASK_PRI, R | W | ASK_PRI, ASK_RDHUP];
    let mut expected = Vec::new();
    for (i, (fd, interest)) in fds.iter().zip(interests).enumerate() {
        let trigger = triggers()[i % triggers().len()];
        let fd = fd.as_raw_fd();
        b.add(fd, interest, trigger, false, cookie(i) | 0x3ff_ffff).unwrap();
        expected.push(Registered { fd, cookie: cookie(i) | 0x3ff_ffff, interest, trigger, exclusive: false });
    }
    for clock in Clock::ALL {
        b.set_alarm(clock, NEVER - 1).unwrap();
    }
    let sorted = || {
        let mut all = b.registered().unwrap();
        all.sort_by_key(|r| r.cookie);
        all
    };
    assert_eq!(sorted(), expected);
    // A oneshot that has been told has no interest left, until it is armed again.
    b.modify(expected[0].fd, W, Trigger::Oneshot, cookie(0)).unwrap();
    expected[0] = Registered { cookie: cookie(0), interest: Interest::NONE, trigger: Trigger::Oneshot, ..expected[0] };
    let mut events = Events::new(64).unwrap();
    b.wait(&mut events, 0).unwrap();
    assert!(list(&events).contains(&(cookie(0), Ready::WRITE)));
    assert_eq!(sorted()[0], expected[0]);
    b.modify(expected[0].fd, R, Trigger::Oneshot, cookie(0)).unwrap();
    assert_eq!(sorted()[0].interest, R);
    b.remove(expected[0].fd).unwrap();
    assert_eq!(sorted().len(), 5);
}

#[test]
fn features_are_those_of_the_backend() {
    let has = |bit| features() & bit != 0;
    assert_eq!(has(BELL_FEATURE_EDGE), Backend::EDGE);
    assert_eq!(has(BELL_FEATURE_EXCLUSIVE), Backend::EXCLUSIVE);
    assert_eq!(has(BELL_FEATURE_POLLABLE), Backend::POLLABLE);
    assert!(has(BELL_FEATURE_NANOSECONDS) && has(BELL_FEATURE_CLOCKS));
    assert!(has(BELL_FEATURE_EPOLL) != has(BELL_FEATURE_POLL));
    fn shared<T: Send + Sync>() {}
    shared::<Backend>();
}

#[test]
fn clocks_go_on_and_agree_with_std() {
    for clock in Clock::ALL {
        let (a, b) = (now(clock).unwrap(), now(clock).unwrap());
        assert!(0 < a && a <= b);
    }
    assert!(now(Clock::Boot).unwrap() >= now(Clock::Monotonic).unwrap() - 1_000_000_000);
    let before = now(Clock::Real).unwrap();
    let std = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as i64;
    assert!(before <= std && std <= now(Clock::Real).unwrap());
}

#[cfg(not(doorbell_backend = "poll"))]
#[test]
fn lines_of_the_kernel_that_are_not_understood_are_passed_over() {
    let line = "tfd:        5 events: 40002001 data: 1000000000000001  pos:0 ino:60 sdev:d";
    let known = Backend::parse(line).unwrap();
    assert_eq!((known.fd, known.cookie, known.interest), (5, 1 << 60 | 1, Interest::READ | Interest::RDHUP));
    assert!(known.trigger == Trigger::Oneshot && !known.exclusive);
    assert!(Backend::parse(&line.replace("40002001", "90000001")).unwrap().exclusive);
    let words: Vec<_> = line.split_ascii_whitespace().collect();
    for n in 0..6 {
        assert!(Backend::parse(&words[..n].join(" ")).is_none(), "only {n} words");
    }
    for n in [1, 3, 5] {
        let mut wrong = words.clone();
        wrong[n] = "nonsense";
        assert!(Backend::parse(&wrong.join(" ")).is_none(), "word {n}");
    }
    assert!(Backend::parse(&line[1..]).is_none());
}
