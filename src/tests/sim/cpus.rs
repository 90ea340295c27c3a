//! A CPU for each thread of the simulator: each has a clock, every step costs what it was measured to cost, and of the
//! threads that can run the one goes on whose clock is furthest behind. So who meets whom at a lock or a cache line
//! is what it would be on a machine with that many CPUs. Off, but for `scale.rs`.
//!
//! Not in it: caches but for the lines below, the kernel's own locks, memory, hyperthreads.
use super::kernel::Rng;
use super::sched;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::panic::Location;
use std::sync::atomic::Ordering;

// Nanoseconds, as measured for bench/REPORT.md's machine, Linux 6.18: docs/scale.md.
pub const SYSCALL: u64 = 170;
pub const CLOCK: u64 = 23;
/// Adding or deleting, and what the library does around it under its lock.
pub const CTL: u64 = 900;
pub const EVENT_IN_KERNEL: u64 = 40;
/// What a turn does for an event under the shard's lock.
pub const DISPATCH: u64 = 25;
pub const LOCK: u64 = 6;
/// A cache line that another CPU has written last.
pub const LINE: u64 = 76;
pub const FUTEX_WAKE: u64 = 375;
pub const RING: u64 = 350;
/// From the wake to the first instruction.
pub const WAKE: u64 = 3_000;

#[derive(Default)]
pub struct Met {
    /// By what the lock holds: taken, found held, nanoseconds waited.
    pub locks: BTreeMap<&'static str, [u64; 3]>,
    /// By source file: atomic writes to words that threads share, and how many found the line with another CPU. Locks
    /// are there as "lock".
    pub writes: BTreeMap<&'static str, [u64; 2]>,
}

struct Cpus {
    clocks: Vec<u64>,
    /// Where the clock of the thread stands that ran last.
    now: u64,
    lines: HashMap<usize, usize>,
    /// Events that a thread has brought from the kernel and not dispatched.
    brought: Vec<u64>,
    rng: Rng,
    met: Met,
}

thread_local! {
    static CPUS: RefCell<Option<Cpus>> = const { RefCell::new(None) };
    /// Apart, because each lock and each word asks.
    static ARE_ON: Cell<bool> = const { Cell::new(false) };
}

fn with<R>(f: impl FnOnce(&mut Cpus, usize) -> R) -> Option<R> {
    if !are_on() || !sched::in_thread() {
        return None;
    }
    CPUS.with_borrow_mut(|cpus| cpus.as_mut().map(|c| f(c, sched::current())))
}

pub fn begin(threads: usize, seed: u64) {
    let (clocks, brought) = (vec![0; threads], vec![0; threads]);
    let lines = HashMap::new();
    ARE_ON.set(true);
    CPUS.set(Some(Cpus { clocks, now: 0, lines, brought, rng: Rng(seed), met: Met::default() }));
}
/// What was met, and the time by the clock that is furthest.
pub fn end() -> (Met, u64) {
    ARE_ON.set(false);
    let cpus = CPUS.take().expect("begun");
    (cpus.met, cpus.clocks.into_iter().max().unwrap_or(0))
}
pub fn are_on() -> bool {
    ARE_ON.get()
}

/// The calling thread's clock goes on, by a little more or less; then whoever is behind.
pub fn spend(ns: u64) {
    let on = with(|c, me| {
        let spread = ns / 8;
        c.clocks[me] += ns - spread + c.rng.below(2 * spread as usize + 1) as u64;
    });
    if on.is_some() {
        sched::pass();
    }
}

/// The one to run: of `ready`, with whether each has slept. The world's time is its clock's.
pub fn choose(ready: impl Iterator<Item = (usize, bool)>) -> Option<usize> {
    if !are_on() {
        return None;
    }
    CPUS.with_borrow_mut(|cpus| {
        let c = cpus.as_mut()?;
        let at = |(i, slept): (usize, bool)| (if slept { c.clocks[i].max(c.now) } else { c.clocks[i] }, i);
        let (clock, i) = ready.map(at).min()?;
        (c.clocks[i], c.now) = (clock, clock);
        sched::with(|w| w.time = w.time.max(clock as i64));
        Some(i)
    })
}

pub fn brings(events: u64) {
    with(|c, me| c.brought[me] += events);
}

/// A lock was taken, after a wait or not.
pub fn locked<T>(at: usize, waited_since: Option<u64>) {
    let events = with(|c, me| {
        let name = std::any::type_name::<T>().rsplit("::").next().unwrap_or_default();
        let [taken, held, waited] = c.met.locks.entry(name).or_default();
        *taken += 1;
        if let Some(since) = waited_since {
            *held += 1;
            *waited += c.clocks[me].saturating_sub(since);
        }
        if name == "State" { std::mem::take(&mut c.brought[me]) } else { 0 }
    });
    let Some(events) = events else { return };
    let moved = touch(at, "lock");
    spend(LOCK + moved + events * DISPATCH);
}
/// The calling thread's clock.
pub fn clock() -> u64 {
    with(|c, me| c.clocks[me]).unwrap_or(0)
}

/// What it costs to get a line that this thread will write.
fn touch(at: usize, file: &'static str) -> u64 {
    with(|c, me| {
        let moved = c.lines.insert(at / 64, me).is_some_and(|before| before != me);
        let [writes, moves] = c.met.writes.entry(file).or_default();
        *writes += 1;
        *moves += moved as u64;
        if moved { LINE } else { 0 }
    })
    .unwrap_or(0)
}

#[track_caller]
fn wrote<T>(word: &T) {
    let file = Location::caller().file();
    let moved = touch(std::ptr::from_ref(word).addr(), file);
    if moved > 0 {
        spend(moved);
    }
}

macro_rules! counted {
    ($name:ident, $number:ty) => {
        /// An atomic whose writes are counted.
        #[repr(transparent)]
        #[derive(Default)]
        pub struct $name(std::sync::atomic::$name);

        #[allow(dead_code)] // each width uses a part
        impl $name {
            pub const fn new(value: $number) -> Self {
                $name(std::sync::atomic::$name::new(value))
            }
            pub fn load(&self, order: Ordering) -> $number {
                self.0.load(order)
            }
            #[track_caller]
            pub fn store(&self, value: $number, order: Ordering) {
                wrote(self);
                self.0.store(value, order)
            }
            #[track_caller]
            pub fn swap(&self, value: $number, order: Ordering) -> $number {
                wrote(self);
                self.0.swap(value, order)
            }
            #[track_caller]
            pub fn fetch_add(&self, value: $number, order: Ordering) -> $number {
                wrote(self);
                self.0.fetch_add(value, order)
            }
            #[track_caller]
            pub fn fetch_sub(&self, value: $number, order: Ordering) -> $number {
                wrote(self);
                self.0.fetch_sub(value, order)
            }
            #[track_caller]
            pub fn fetch_or(&self, value: $number, order: Ordering) -> $number {
                wrote(self);
                self.0.fetch_or(value, order)
            }
            #[track_caller]
            pub fn fetch_and(&self, value: $number, order: Ordering) -> $number {
                wrote(self);
                self.0.fetch_and(value, order)
            }
            #[track_caller]
            pub fn compare_exchange(
                &self,
                old: $number,
                new: $number,
                ok: Ordering,
                fail: Ordering,
            ) -> Result<$number, $number> {
                wrote(self);
                self.0.compare_exchange(old, new, ok, fail)
            }
            #[track_caller]
            pub fn compare_exchange_weak(
                &self,
                old: $number,
                new: $number,
                ok: Ordering,
                fail: Ordering,
            ) -> Result<$number, $number> {
                wrote(self);
                self.0.compare_exchange_weak(old, new, ok, fail)
            }
        }
    };
}
counted!(AtomicU32, u32);
counted!(AtomicU64, u64);
