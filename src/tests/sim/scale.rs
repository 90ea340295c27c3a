//! What many CPUs would do to each other: a shard for each, a million fds, and threads that do what programs do. Printed
//! as tables for docs/scale.md. `make sim-scale`; FDS=, CPUS= and SEED= change what it asks.
use super::kernel::{Rng, World};
use super::{cpus, number, sched};
use crate::abi::*;
use crate::ffi::{bell_t, drive::*, fds::*, life::*, ops::*, queues::*, timeouts::*};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ptr;
use std::rc::Rc;

/// Reading an fd and making it ready again: what an event costs without any event manager.
const READ_AND_WRITE: u64 = 520;
/// Opening or closing a connection.
const OPEN: u64 = 1_000;
/// What a call does outside locks.
const CALL: u64 = 20;
/// Of each shard.
const ACTIVE: usize = 100;

#[derive(Clone, Copy, PartialEq)]
enum Mix {
    Steady,
    FewActive,
    Deadlines,
    Connections,
    HandedOver,
    Posts,
    /// So many threads share a queue.
    Queue(usize),
}
const MIXES: [(Mix, &str); 8] = [
    (Mix::Steady, "100 busy fds on each CPU's shard"),
    (Mix::FewActive, "4 busy fds"),
    (Mix::Deadlines, "100, each event moves its deadline"),
    (Mix::Connections, "connections come and go"),
    (Mix::HandedOver, "the same, on another's shard"),
    (Mix::Posts, "100, each event posts elsewhere"),
    (Mix::Queue(8), "a queue for 8 CPUs each"),
    (Mix::Queue(64), "one queue for all"),
];

struct Run {
    mix: Mix,
    cpus: usize,
    bell: *mut bell_t,
    queues: Vec<u64>,
    users: Vec<u64>,
    deadline: Cell<i64>,
    /// Operations done, and to be done.
    done: Cell<u64>,
    wanted: u64,
    handles: RefCell<HashMap<i32, u64>>,
}

fn spec(fd: i32, shard: usize, queue: Option<u64>, deadline: Option<i64>) -> bell_fd_spec {
    let kind = if queue.is_some() { BELL_TARGET_QUEUE } else { BELL_TARGET_POLL };
    bell_fd_spec {
        fd,
        interest: BELL_READ,
        mode: BELL_EDGE,
        shard: shard as u32,
        user_data: fd as u64,
        flags: if deadline.is_some() { BELL_FD_DEADLINE } else { 0 },
        deadline_ns: deadline.unwrap_or(0),
        target: bell_target { kind, queue: queue.unwrap_or(0), ..nothing() },
        size: size_of::<bell_fd_spec>() as u32,
    }
}
fn nothing() -> bell_target {
    bell_target {
        kind: BELL_TARGET_POLL,
        flags: 0,
        fd: 0,
        capability: 0,
        word: ptr::null_mut(),
        stable_ptr: ptr::null_mut(),
        queue: 0,
    }
}

fn open(world: *mut World, ready: bool) -> i32 {
    // SAFETY: the world of this run; no reference to it lasts beyond the call.
    unsafe { (*world).eventfd(ready as u64) }.expect("an eventfd")
}

fn register(bell: *mut bell_t, spec: &bell_fd_spec) -> (i32, u64) {
    let mut handle = 0;
    // SAFETY: both are ours.
    let result = unsafe { bell_register_fd(bell, spec, &mut handle) };
    (result, handle)
}

impl Run {
    /// What one CPU does until enough is done, or the manager ends.
    fn work(&self, cpu: usize, world: *mut World, mut rng: Rng) {
        let mut events = [const { std::mem::MaybeUninit::<bell_event>::uninit() }; 1024];
        let at = events.as_mut_ptr().cast::<bell_event>();
        let churns = matches!(self.mix, Mix::Connections | Mix::HandedOver);
        while self.done.get() < self.wanted {
            if churns {
                // As many as it closes, on average.
                let shard = if self.mix == Mix::HandedOver { rng.below(self.cpus) } else { cpu };
                cpus::spend(OPEN + CALL);
                let fd = open(world, true);
                let (result, handle) = register(self.bell, &spec(fd, shard, None, None));
                self.check(result);
                self.handles.borrow_mut().insert(fd, handle);
            }
            cpus::spend(CALL);
            let n = match self.mix {
                // A batch for each, as 64 workers would ask.
                // SAFETY: the array is ours.
                Mix::Queue(share) => unsafe {
                    bell_queue_wait(self.bell, self.queues[cpu / share], at, 64, BELL_NEVER)
                },
                // SAFETY: as above.
                _ => unsafe { bell_poll(self.bell, cpu as u32, at, 1024, if churns { 0 } else { BELL_NEVER }) },
            };
            if n < 0 {
                return;
            }
            for event in &events[..n as usize] {
                // SAFETY: written by the call.
                self.handle(unsafe { &*event.as_ptr() }, world, &mut rng);
            }
        }
    }

    /// At the end the manager goes under the feet of those who still work.
    fn check(&self, result: i32) {
        assert!(result >= 0 || self.done.get() >= self.wanted, "{result}");
    }

    fn handle(&self, event: &bell_event, world: *mut World, rng: &mut Rng) {
        if event.ready & BELL_USER != 0 {
            return;
        }
        let fd = event.user_data as i32;
        if matches!(self.mix, Mix::Connections | Mix::HandedOver) {
            let handle = self.handles.borrow_mut().remove(&fd).expect("registered");
            cpus::spend(CALL);
            self.check(bell_unregister(self.bell, handle, 0));
            cpus::spend(OPEN);
            // SAFETY: as in `open`.
            unsafe {
                (*world).close(fd).expect("open");
            }
        } else {
            cpus::spend(READ_AND_WRITE);
            // SAFETY: as in `open`.
            unsafe {
                (*world).read(fd, 8).expect("ready");
                (*world).write(fd, 1).expect("room");
            }
        }
        if self.mix == Mix::Deadlines {
            cpus::spend(CALL);
            self.deadline.set(self.deadline.get() + 1);
            self.check(bell_update_timeout(self.bell, event.handle, self.deadline.get()));
        }
        if self.mix == Mix::Posts {
            cpus::spend(CALL);
            self.check(bell_post(self.bell, self.users[rng.below(self.cpus)], 1));
        }
        self.done.set(self.done.get() + 1);
    }
}

struct Row {
    name: &'static str,
    cpus: usize,
    ops: u64,
    ns: u64,
    met: cpus::Met,
    counters: bell_counters,
    fds: usize,
}

fn counters(bell: *mut bell_t) -> bell_counters {
    let mut all = crate::state::zero_counters();
    all.size = size_of::<bell_counters>() as u32;
    // SAFETY: ours.
    assert_eq!(unsafe { bell_stats(bell, BELL_SHARD_ANY, &mut all) }, 0);
    all
}

fn run(mix: Mix, name: &'static str, cpus: usize, fds: usize, seed: u64) -> Row {
    let mut world = Box::new(World::new(seed));
    world.most_numbers = usize::MAX;
    // The library's fds get low numbers, as those of a manager that is made first.
    world.lowest_ours = super::kernel::USERS;
    let world = Box::into_raw(world);
    sched::enter(world);
    sched::seed(seed, 0);
    sched::before_sleep(None);
    let shards = if let Mix::Queue(share) = mix { cpus.div_ceil(share) } else { cpus };
    let config = bell_config {
        size: size_of::<bell_config>() as u32,
        flags: 0,
        shards: shards as u32,
        threads: 0,
        max_events: 0,
        reserved0: 0,
        slack_ns: 0,
        ghc: ptr::null(),
        reserved: [0; 4],
    };
    let mut bell = ptr::null_mut();
    // SAFETY: both are ours.
    assert_eq!(unsafe { bell_create(&config, &mut bell) }, 0);
    let (mut queues, mut users) = (Vec::new(), Vec::new());
    for shard in 0..shards as u32 {
        let mut handle = 0;
        if let Mix::Queue(_) = mix {
            // SAFETY: ours; no doorbell.
            assert_eq!(unsafe { bell_queue_create(bell, shard, ptr::null(), &mut handle) }, 0);
            queues.push(handle);
        } else if mix == Mix::Posts {
            // SAFETY: ours.
            assert_eq!(unsafe { bell_register_user(bell, shard, &nothing(), 0, &mut handle) }, 0);
            users.push(handle);
        }
    }
    let active = if mix == Mix::FewActive { 4 } else { ACTIVE } * cpus;
    let churns = matches!(mix, Mix::Connections | Mix::HandedOver);
    let deadline = 1 << 60;
    for i in 0..fds {
        // SAFETY: as in `open`; nobody else runs.
        unsafe { (*world).lowest = (*world).lowest.max(i) };
        let fd = open(world, i < active && !churns);
        let shard = i % shards;
        let deadline = (mix == Mix::Deadlines).then_some(deadline);
        let (result, _) = register(bell, &spec(fd, shard, queues.get(shard).copied(), deadline));
        assert_eq!(result, 0);
    }
    let before = counters(bell);
    let run = Rc::new(Run {
        mix,
        cpus,
        bell,
        queues,
        users,
        deadline: Cell::new(deadline),
        done: Cell::new(0),
        wanted: number("OPS").unwrap_or(2_000) * cpus as u64,
        handles: Default::default(),
    });
    cpus::begin(cpus + 1, seed);
    for cpu in 0..cpus {
        let (run, rng) = (run.clone(), Rng(seed ^ cpu as u64 + 1));
        sched::spawn(Box::new(move || run.work(cpu, world, rng)));
    }
    while sched::busy() > 0 && run.done.get() < run.wanted {
        assert!(!sched::run(10_000) || sched::busy() == 0, "all sleep");
    }
    let (met, ns) = cpus::end();
    // Those that sleep shall leave.
    let last = Rc::new(Cell::new(before));
    let told = last.clone();
    sched::spawn(Box::new(move || {
        told.set(counters(bell));
        assert_eq!(bell_destroy(bell, BELL_FORCE), 0);
    }));
    while sched::busy() > 0 {
        assert!(!sched::run(10_000) || sched::busy() == 0, "all sleep");
    }
    assert_eq!(sched::take_violation(), None);
    let mut counters = last.get();
    macro_rules! less {
        ($($field:ident)*) => { $(counters.$field -= before.$field;)* };
    }
    less!(kernel_waits ctl_calls wakes_sent wakes_elided events handovers);
    // SAFETY: taken apart when nobody runs any more.
    drop(unsafe { Box::from_raw(world) });
    Row { name, cpus, ops: run.done.get(), ns, met, counters, fds }
}

#[test]
#[ignore = "make sim-scale: it judges nothing, and epoll only"]
fn many_cpus() {
    let (cpus, fds) = (number("CPUS").unwrap_or(64) as usize, number("FDS").unwrap_or(1_000_000) as usize);
    let seed = number("SEED").unwrap_or(1);
    let commit = std::env::var("COMMIT").unwrap_or_else(|_| "unknown".to_owned());
    println!("sim-scale: commit {commit}, seed {seed}, {cpus} CPUs, {fds} fds");
    let mut rows = Vec::new();
    for (mix, name) in MIXES {
        for c in [1, cpus] {
            let mix = if let Mix::Queue(share) = mix { Mix::Queue(share.min(c)) } else { mix };
            rows.push(run(mix, name, c, (fds / cpus * c).max(ACTIVE * c), seed));
        }
    }
    println!("\nNanoseconds of a CPU's time for an operation, sleep included.\n");
    println!("| operation | 1 CPU | {cpus} CPUs | of it waiting for locks | for cache lines | heap an fd |");
    println!("|---|---|---|---|---|---|");
    for pair in rows.chunks_exact(2) {
        let [alone, all] = [&pair[0], &pair[1]];
        let n = all.ops as f64;
        let waited: u64 = all.met.locks.values().map(|l| l[2]).sum();
        let moved: u64 = all.met.writes.values().map(|w| w[1] * cpus::LINE).sum();
        println!(
            "| {} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} |",
            all.name,
            alone.ns as f64 / alone.ops as f64,
            all.ns as f64 * all.cpus as f64 / n,
            waited as f64 / n,
            moved as f64 / n,
            all.counters.heap_bytes as f64 / all.fds as f64,
        );
    }
    println!("\nCounts an operation, {cpus} CPUs. Lines: writes that found the line with another CPU.\n");
    println!(
        "| operation | shard's lock, held | queue's lock, held | lines: locks | pins | fd table | posts | other words | \
         epoll_ctl | waits | events a wait | wakes sent, elided |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|");
    for r in rows.iter().skip(1).step_by(2) {
        let n = r.ops as f64;
        let lock = |name: &str| match r.met.locks.get(name) {
            Some([taken, held, _]) => {
                format!("{:.3}, {:.0} %", *taken as f64 / n, *held as f64 * 100.0 / *taken as f64)
            }
            None => "0".to_owned(),
        };
        let lines = |files: &[&str]| {
            let all = r.met.writes.iter().filter(|(f, _)| files.iter().any(|wanted| f.ends_with(wanted)));
            format!("{:.3}", all.map(|(_, w)| w[1]).sum::<u64>() as f64 / n)
        };
        let c = &r.counters;
        println!(
            "| {} | {} | {} | {} | {} | {} | {} | {} | {:.2} | {:.3} | {:.0} | {:.3}, {:.3} |",
            r.name,
            lock("State"),
            lock("Inner"),
            lines(&["lock"]),
            lines(&["ffi/table.rs"]),
            lines(&["fd_table.rs"]),
            lines(&["posts.rs"]),
            lines(&["sync.rs", "waker.rs"]),
            c.ctl_calls as f64 / n,
            c.kernel_waits as f64 / n,
            c.events as f64 / c.kernel_waits.max(1) as f64,
            c.wakes_sent as f64 / n,
            c.wakes_elided as f64 / n,
        );
    }
}
