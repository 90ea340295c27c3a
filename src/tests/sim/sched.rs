//! The simulator's threads: coroutines, of which one runs at a time. They take turns at every system call, at locks and
//! at futexes, as a seeded generator says; so a run is the same each time.
//!
//! A call that is made outside any coroutine has the world to itself. If it sleeps, time passes until something ends
//! the sleep.
use super::cpus;
use super::kernel::{Fault, Rng, World};
use crate::event::NEVER;
use crate::sync::{WakeAddress, Woken};
use corosensei::{Coroutine, CoroutineResult, Yielder};
use std::cell::{Cell, RefCell, UnsafeCell};
use std::ops::{Deref, DerefMut};
use std::ptr;

thread_local! {
    static WORLD: Cell<*mut World> = const { Cell::new(ptr::null_mut()) };
    static YIELDER: Cell<*const Yielder<(), Block>> = const { Cell::new(ptr::null()) };
    static SCHEDULER: RefCell<Scheduler> = const { RefCell::new(Scheduler::new()) };
    static CURRENT: Cell<usize> = const { Cell::new(0) };
    static VIOLATION: RefCell<Option<String>> = const { RefCell::new(None) };
    /// Asked before the only thread sleeps in the kernel, with when it wakes at the latest: is something overdue?
    static BEFORE_SLEEP: Cell<Option<fn(i64)>> = const { Cell::new(None) };
}

pub fn with<R>(f: impl FnOnce(&mut World) -> R) -> R {
    let world = WORLD.get();
    assert!(!world.is_null(), "a system call outside a simulation");
    // SAFETY: set by `enter` for as long as the world lives; one thread runs at a time, and no closure that is passed
    // here calls `with` again or switches.
    f(unsafe { &mut *world })
}

/// Does an allocation fail?
pub fn is_refused() -> bool {
    !WORLD.get().is_null() && with(|w| w.fault(Fault::NoAlloc))
}

/// The world of this thread, from here on.
pub fn enter(world: *mut World) {
    WORLD.set(world);
}
pub fn before_sleep(f: Option<fn(i64)>) {
    BEFORE_SLEEP.set(f);
}

/// A rule was broken. The first one is kept.
pub fn violation(what: String) {
    VIOLATION.with_borrow_mut(|v| {
        v.get_or_insert(what);
    });
}
pub fn has_violation() -> bool {
    VIOLATION.with_borrow(|v| v.is_some())
}
pub fn take_violation() -> Option<String> {
    VIOLATION.take()
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Block {
    Ready,
    Idle,
    Lock(usize),
    /// May look at the lock again.
    Unlocked,
    Futex {
        at: usize,
        until: i64,
    },
    Kernel {
        until: i64,
        tick: u64,
    },
    Join(usize),
}

type Job = Box<dyn FnOnce()>;

struct Thread {
    body: Option<Coroutine<(), Block, ()>>,
    job: std::rc::Rc<Cell<Option<Job>>>,
    state: Block,
    woken: Woken,
    interrupted: bool,
    /// How many jobs it has begun: a join names one.
    jobs: usize,
}

pub struct Scheduler {
    threads: Vec<Thread>,
    rng: Rng,
    /// Per thousand switch points.
    preempt: u32,
}

impl Scheduler {
    const fn new() -> Scheduler {
        Scheduler { threads: Vec::new(), rng: Rng(0), preempt: 0 }
    }
}

pub fn seed(seed: u64, preempt: u32) {
    SCHEDULER.with_borrow_mut(|s| (s.rng, s.preempt) = (Rng(seed), preempt));
}

/// After a failure: threads that are in the middle of something are left where they are, for ever.
pub fn abandon() {
    SCHEDULER.with_borrow_mut(|s| {
        for t in s.threads.iter_mut().filter(|t| t.state != Block::Idle) {
            std::mem::forget(t.body.take());
        }
        s.threads.retain(|t| t.body.is_some());
    });
}

/// Gives a job to a thread that has none; its number.
pub fn spawn(job: Job) -> usize {
    SCHEDULER.with_borrow_mut(|s| {
        let idle = s.threads.iter().position(|t| t.state == Block::Idle);
        let at = idle.unwrap_or_else(|| {
            let job = std::rc::Rc::new(Cell::new(None::<Job>));
            let mine = job.clone();
            let stack = corosensei::stack::DefaultStack::new(256 << 10).expect("a stack");
            let body = Coroutine::with_stack(stack, move |yielder: &Yielder<(), Block>, ()| {
                loop {
                    let Some(job) = mine.take() else {
                        yielder.suspend(Block::Idle);
                        continue;
                    };
                    YIELDER.set(yielder);
                    job();
                    YIELDER.set(yielder);
                    yielder.suspend(Block::Idle);
                }
            });
            let body = Some(body);
            s.threads.push(Thread { body, job, state: Block::Idle, woken: Woken::Look, interrupted: false, jobs: 0 });
            s.threads.len() - 1
        });
        let t = &mut s.threads[at];
        t.job.set(Some(job));
        t.jobs += 1;
        t.interrupted = false;
        t.state = Block::Ready;
        at
    })
}

pub fn is_busy(thread: usize) -> bool {
    SCHEDULER.with_borrow(|s| s.threads.get(thread).is_some_and(|t| t.state != Block::Idle))
}
pub fn busy() -> usize {
    SCHEDULER.with_borrow(|s| s.threads.iter().filter(|t| t.state != Block::Idle).count())
}
pub fn states() -> Vec<Block> {
    SCHEDULER.with_borrow(|s| s.threads.iter().map(|t| t.state).collect())
}
/// A signal comes to a thread that sleeps.
pub fn interrupt(thread: usize) {
    SCHEDULER.with_borrow_mut(|s| {
        if let Some(t) = s.threads.get_mut(thread) {
            t.interrupted = matches!(t.state, Block::Kernel { .. } | Block::Futex { .. });
        }
    });
}

/// When the next sleeper wakes by itself.
pub fn next_end() -> i64 {
    let ends = |t: &Thread| match t.state {
        Block::Futex { until, .. } | Block::Kernel { until, .. } => until,
        _ => NEVER,
    };
    SCHEDULER.with_borrow(|s| s.threads.iter().map(ends).min().unwrap_or(NEVER))
}

/// Threads that can run.
const MOST: usize = 80;

/// Runs threads, one at a time, so many times; or until none can run. True: none can.
pub fn run(mut budget: usize) -> bool {
    loop {
        let (tick, time) = with(|w| (w.told, w.time));
        let chosen = SCHEDULER.with_borrow_mut(|s| {
            let mut ready = [0usize; MOST];
            let mut n = 0;
            for i in 0..s.threads.len().min(MOST) {
                let jobs = |j: usize| s.threads[j].state == Block::Idle;
                let goes = match s.threads[i].state {
                    Block::Ready | Block::Unlocked => true,
                    Block::Idle | Block::Lock(_) => false,
                    Block::Futex { until, .. } => s.threads[i].interrupted || time >= until,
                    Block::Kernel { until, tick: t } => s.threads[i].interrupted || t != tick || time >= until,
                    Block::Join(j) => jobs(j),
                };
                if goes {
                    ready[n] = i;
                    n += 1;
                }
            }
            if n == 0 {
                return None;
            }
            let slept = |i: usize| !matches!(s.threads[i].state, Block::Ready);
            let i = match cpus::choose(ready[..n].iter().map(|i| (*i, slept(*i)))) {
                Some(i) => i,
                None => ready[s.rng.below(n)],
            };
            let t = &mut s.threads[i];
            if let Block::Futex { until, .. } = t.state {
                t.woken = if time >= until { Woken::TimedOut } else { Woken::Interrupted };
                t.interrupted &= time >= until;
            }
            Some((i, t.body.take()))
        });
        let Some((i, Some(mut body))) = chosen else { return true };
        CURRENT.set(i);
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| body.resume(())));
        YIELDER.set(ptr::null());
        let state = match result {
            Ok(CoroutineResult::Yield(state)) => state,
            Ok(CoroutineResult::Return(())) => Block::Idle,
            Err(_) => {
                violation("a thread of the simulator panicked".to_owned());
                Block::Idle
            }
        };
        SCHEDULER.with_borrow_mut(|s| {
            s.threads[i].state = state;
            s.threads[i].body = Some(body);
        });
        budget = budget.saturating_sub(1);
        if budget == 0 || VIOLATION.with_borrow(|v| v.is_some()) {
            return false;
        }
    }
}

pub fn current() -> usize {
    CURRENT.get()
}
pub fn in_thread() -> bool {
    !YIELDER.get().is_null()
}

fn suspend(state: Block) {
    let yielder = YIELDER.get();
    // SAFETY: of the coroutine that runs: set when its job began and after every resume.
    unsafe { (*yielder).suspend(state) };
    YIELDER.set(yielder);
}

/// Another thread goes on, if one is to.
pub fn pass() {
    suspend(Block::Ready);
}

/// A point where another thread may go on.
pub fn switch() {
    // With CPUs of their own, threads take turns where they spend time.
    if YIELDER.get().is_null() || std::thread::panicking() || cpus::are_on() {
        return;
    }
    if SCHEDULER.with_borrow_mut(|s| s.rng.chance(s.preempt)) {
        suspend(Block::Ready);
    }
}

// ---- locks

pub struct Mutex<T> {
    locked: Cell<bool>,
    value: UnsafeCell<T>,
}

// SAFETY: as std's; and the simulator's threads are all on one.
unsafe impl<T: Send> Send for Mutex<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Mutex<T> {}

impl<T> std::panic::RefUnwindSafe for Mutex<T> {}
impl<T> std::panic::UnwindSafe for Mutex<T> {}

pub struct MutexGuard<'a, T>(&'a Mutex<T>);

impl<T> Mutex<T> {
    pub fn new(value: T) -> Self {
        Mutex { locked: Cell::new(false), value: UnsafeCell::new(value) }
    }
    pub fn lock(&self) -> MutexGuard<'_, T> {
        switch();
        let since = self.locked.get().then(cpus::clock);
        let at = ptr::from_ref(self).addr();
        while self.locked.get() {
            if !in_thread() {
                violation("a lock is held by a thread that sleeps, or twice by one".to_owned());
                panic!("deadlock");
            }
            suspend(Block::Lock(at));
        }
        self.locked.set(true);
        cpus::locked::<T>(at, since);
        MutexGuard(self)
    }
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        switch();
        (!self.locked.replace(true)).then_some(MutexGuard(self))
    }
    pub fn get_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: locked by this guard.
        unsafe { &*self.0.value.get() }
    }
}
impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: locked by this guard, which is borrowed alone.
        unsafe { &mut *self.0.value.get() }
    }
}
impl<T> Drop for MutexGuard<'_, T> {
    fn drop(&mut self) {
        self.0.locked.set(false);
        if in_thread() {
            let at = ptr::from_ref(self.0).addr();
            SCHEDULER.with_borrow_mut(|s| {
                for t in s.threads.iter_mut().filter(|t| t.state == Block::Lock(at)) {
                    t.state = Block::Unlocked;
                }
            });
            switch();
        }
    }
}

// ---- futexes

pub fn sleep(at: WakeAddress, unchanged: &dyn Fn() -> bool, until: i64) -> Woken {
    switch();
    if !unchanged() {
        return Woken::Look;
    }
    if with(|w| w.fault(Fault::Spurious)) {
        return Woken::Look;
    }
    if with(|w| w.fault(Fault::Intr)) {
        return Woken::Interrupted;
    }
    if !in_thread() {
        if until == NEVER {
            violation("the only thread sleeps on a word for ever".to_owned());
            return Woken::Interrupted;
        }
        with(|w| w.advance(until));
        return Woken::TimedOut;
    }
    let me = CURRENT.get();
    let until = with(|w| w.step_at(until));
    SCHEDULER.with_borrow_mut(|s| s.threads[me].woken = Woken::Look);
    suspend(Block::Futex { at: at.0, until });
    cpus::spend(cpus::WAKE);
    SCHEDULER.with_borrow_mut(|s| {
        s.threads[me].interrupted = false;
        s.threads[me].woken
    })
}

pub fn wake(at: WakeAddress) {
    let mut woken = 0;
    SCHEDULER.with_borrow_mut(|s| {
        for t in &mut s.threads {
            if matches!(t.state, Block::Futex { at: a, .. } if a == at.0) {
                (t.state, t.woken) = (Block::Unlocked, Woken::Look);
                woken += 1;
            }
        }
    });
    cpus::spend(cpus::FUTEX_WAKE * woken.max(1));
    switch();
}

// ---- sleeping in the kernel

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum End {
    News,
    TimedOut,
    Interrupted,
}

/// No simulation lives so long: who sleeps until then sleeps for ever.
pub const END_OF_TIME: i64 = 3 << 61;

/// Sleeps until there is news, or that time.
pub fn kernel_sleep(until: i64, news: &mut dyn FnMut(&mut World) -> bool) -> End {
    // A clock that is read in steps ends a sleep at one.
    let until = with(|w| w.step_at(until));
    let mut first = true;
    let mut slept = false;
    loop {
        if with(&mut *news) {
            if slept {
                cpus::spend(cpus::WAKE);
            }
            return End::News;
        }
        let time = with(|w| w.time);
        if time >= until {
            return End::TimedOut;
        }
        if with(|w| w.fault(Fault::Intr)) {
            return End::Interrupted;
        }
        if in_thread() {
            let me = CURRENT.get();
            suspend(Block::Kernel { until, tick: with(|w| w.told) });
            slept = true;
            if SCHEDULER.with_borrow_mut(|s| std::mem::take(&mut s.threads[me].interrupted)) {
                return if with(&mut *news) { End::News } else { End::Interrupted };
            }
            continue;
        }
        if let (true, Some(ask)) = (std::mem::take(&mut first), BEFORE_SLEEP.get()) {
            ask(until);
        }
        let next = with(|w| until.min(w.next_timer()));
        if next > END_OF_TIME {
            with(|w| w.idle = true);
            return End::Interrupted; // nothing will ever happen: somebody presses ^C
        }
        with(|w| w.advance(next));
    }
}

// ---- the library's threads

/// Until the job that was spawned last on that thread has ended.
pub fn join(thread: usize) {
    if in_thread() {
        return suspend(Block::Join(thread));
    }
    while is_busy(thread) {
        if run(1) {
            return violation("join: a library thread does not end".to_owned());
        }
    }
}

pub mod thread {
    use super::*;

    pub fn yield_now() {
        if in_thread() {
            suspend(Block::Ready);
        } else {
            violation("the only thread spins".to_owned());
            panic!("spin");
        }
    }
}
