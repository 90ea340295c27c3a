//! What every Rust peer of the benchmark shares: as `peers/common.h` for those in C.
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Instant;

/// The option `name=number`.
pub fn opt(name: &str) -> usize {
    let found = std::env::args().skip(3).find_map(|a| a.strip_prefix(name)?.strip_prefix('=').map(str::to_owned));
    found.unwrap_or_else(|| panic!("option {name}= is missing")).parse().unwrap()
}

/// Runs the row that the command line names.
pub fn run_row(rows: &[(&str, &str, fn())]) {
    let args: Vec<String> = std::env::args().collect();
    match rows.iter().find(|(row, variant, _)| args.get(1..3) == Some(&[row.to_string(), variant.to_string()])) {
        Some((_, _, run)) => run(),
        None => {
            eprintln!("{} has no row {:?}", args[0], &args[1..]);
            std::process::exit(77);
        }
    }
    std::process::exit(0); // threads that still wait need no goodbye
}

pub struct Watch {
    begun: Instant,
    before: libc::rusage,
}

impl Watch {
    pub fn start() -> Watch {
        Watch { before: usage(), begun: Instant::now() }
    }
    /// Prints what each of `count` took, in time and in CPU time of all threads, and their context switches.
    pub fn stop(&self, count: usize) {
        let took = self.begun.elapsed().as_nanos() as f64;
        let (after, n) = (usage(), count as f64);
        println!("ns {:.3}", took / n);
        println!("cpu_ns {:.3}", (cpu_of(&after) - cpu_of(&self.before)) / n);
        println!("voluntary_switches {:.6}", (after.ru_nvcsw - self.before.ru_nvcsw) as f64 / n);
        println!("forced_switches {:.6}", (after.ru_nivcsw - self.before.ru_nivcsw) as f64 / n);
    }
}

fn cpu_of(u: &libc::rusage) -> f64 {
    let us = |t: libc::timeval| t.tv_sec as f64 * 1e6 + t.tv_usec as f64;
    (us(u.ru_utime) + us(u.ru_stime)) * 1e3
}

fn usage() -> libc::rusage {
    unsafe {
        let mut usage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage
    }
}

pub fn cpu_ns() -> u64 {
    unsafe {
        let mut t: libc::timespec = std::mem::zeroed();
        libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut t);
        t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
    }
}

/// Bytes of heap in use, small blocks and mapped ones.
pub fn heap_bytes() -> usize {
    let m = unsafe { libc::mallinfo2() };
    m.uordblks + m.hblkhd
}

pub fn eventfd() -> OwnedFd {
    let fd = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) };
    assert!(fd >= 0, "{}", std::io::Error::last_os_error());
    unsafe { OwnedFd::from_raw_fd(fd) }
}
pub fn eventfds(n: usize) -> Vec<OwnedFd> {
    (0..n).map(|_| eventfd()).collect()
}

pub fn write8(fd: RawFd) {
    let one = 1u64;
    assert_eq!(unsafe { libc::write(fd, (&raw const one).cast(), 8) }, 8);
}
pub fn read8(fd: RawFd) {
    let mut value = 0u64;
    assert_eq!(unsafe { libc::read(fd, (&raw mut value).cast(), 8) }, 8);
}

/// Counts events: first those of the warm-up, then those that are measured.
pub struct Meter {
    left: usize,
    events: usize,
    watch: Option<Watch>,
}

impl Meter {
    pub fn new() -> Meter {
        Meter { left: opt("warm"), events: opt("events"), watch: None }
    }
    /// True: enough.
    pub fn count(&mut self) -> bool {
        self.left -= 1;
        if self.left > 0 {
            return false;
        }
        if let Some(watch) = &self.watch {
            watch.stop(self.events);
            return true;
        }
        self.left = self.events;
        self.watch = Some(Watch::start());
        false
    }
}

impl Default for Meter {
    fn default() -> Meter {
        Meter::new()
    }
}

/// W1: n eventfds are watched, `a` of them are active: each event reads its eventfd and writes it full again.
pub struct W1 {
    pub fds: Vec<OwnedFd>,
    a: usize,
    pub meter: Meter,
}

impl W1 {
    pub fn new() -> W1 {
        W1 { fds: eventfds(opt("n")), a: opt("a"), meter: Meter::new() }
    }
    pub fn kick(&self) {
        (0..self.a).for_each(|i| write8(self.fds[i * self.fds.len() / self.a].as_raw_fd()));
    }
}

impl Default for W1 {
    fn default() -> W1 {
        W1::new()
    }
}

/// The work that an event allows. True: enough.
pub fn w1_event(meter: &mut Meter, fd: RawFd) -> bool {
    read8(fd);
    write8(fd);
    meter.count()
}

/// W2: one end of a socket pair, non-blocking; a thread that blocks in read echoes at the other.
pub fn w2_socket() -> std::os::unix::net::UnixStream {
    use std::io::{Read, Write};
    let (mine, mut other) = std::os::unix::net::UnixStream::pair().unwrap();
    mine.set_nonblocking(true).unwrap();
    std::thread::spawn(move || {
        let mut byte = [0];
        while other.read_exact(&mut byte).and_then(|()| other.write_all(&byte)).is_ok() {}
    });
    mine
}
pub fn w2_ping(fd: RawFd) {
    assert_eq!(unsafe { libc::write(fd, c"x".as_ptr().cast(), 1) }, 1);
}
/// False: not yet.
pub fn w2_read(fd: RawFd) -> bool {
    let mut byte = 0u8;
    match unsafe { libc::read(fd, (&raw mut byte).cast(), 1) } {
        1 => true,
        _ if std::io::Error::last_os_error().kind() == std::io::ErrorKind::WouldBlock => false,
        _ => panic!("read"),
    }
}

/// W3: blocks of `block` of `n` fds, registered and unregistered by `each`.
pub fn w3_blocks(mut each: impl FnMut(std::ops::Range<usize>)) {
    let (block, n) = (opt("block"), opt("n"));
    let blocks = opt("events") / block;
    let mut watch = None;
    for b in 0..blocks + blocks / 8 {
        if b == blocks / 8 {
            watch = Some(Watch::start());
        }
        let at = b % (n / block) * block;
        each(at..at + block);
    }
    watch.unwrap().stop(blocks * block);
}

/// W5: pairs of registering and unregistering.
pub fn w5_pairs(mut each: impl FnMut()) {
    let events = opt("events");
    (0..events / 8).for_each(|_| each());
    let watch = Watch::start();
    (0..events).for_each(|_| each());
    watch.stop(events);
}

/// As in `common.h`, so that the timeouts are the same.
pub fn random_next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e3779b97f4a7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58476d1ce4e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d049bb133111eb);
    z ^ (z >> 31)
}

/// W7: 100 us timeouts, one after the other; how late each was.
pub const W7: std::time::Duration = std::time::Duration::from_micros(100);
pub fn w7_print(mut late: Vec<i64>) {
    late.sort();
    println!("ns {}", late[late.len() / 2]);
    println!("p99_ns {}", late[late.len() * 99 / 100]);
    println!("early {}", late.iter().filter(|l| **l < 0).count());
}
pub fn late(due: Instant) -> i64 {
    match Instant::now().checked_duration_since(due) {
        Some(late) => late.as_nanos() as i64,
        None => -1,
    }
}
