//! Models with four to eight threads, over the real code: too large to be run in every order, so shuttle draws orders,
//! half of them at random, half with few switches at odd places (PCT). `SHUTTLE_RUNS` of each model; a failure prints the
//! schedule that shuttle replays. The orders are sequentially consistent: what weaker ones do is loom's to ask.
//!
//! A wait in vain is a deadlock, a word that is used after it was freed a panic.
use crate::abi::*;
use crate::error::Error;
use crate::event::{Clock, Direction, Handle, Interest, Kind, Mode, NEVER, Ready};
use crate::manager::{Config, FdSpec, Manager, TimeoutSpec};
use crate::sync::Word;
use crate::target::futex::ForeignWord;
use crate::target::queue::{Came, Queue};
use crate::target::ready_list::After;
use crate::target::{Batch, News, Spec, Target, World, slot};
use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::sync::atomic::{AtomicBool, AtomicU32};
use shuttle::{Runner, thread};
use std::mem::MaybeUninit;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

fn explore(model: impl Fn() + Send + Sync + Clone + 'static) {
    let runs = std::env::var("SHUTTLE_RUNS").ok().filter(|n| !n.is_empty());
    let runs = runs.map_or(2_000, |n| n.parse().expect("a number"));
    let mut config = shuttle::Config::new();
    config.stack_size = 1 << 18;
    Runner::new(RandomScheduler::new(runs / 2), config.clone()).run(model.clone());
    Runner::new(PctScheduler::new(4, runs / 2), config).run(model);
}

fn foreign(word: &Word) -> ForeignWord {
    ForeignWord::new((&raw const *word).cast_mut().cast()).unwrap()
}
fn words<const N: usize>() -> Arc<[Word; N]> {
    Arc::new(std::array::from_fn(|_| Word::new(0)))
}
fn manager(shards: u32) -> Arc<Manager> {
    Arc::from(Manager::new(Config { shards, max_events: 4, ..Config::default() }).unwrap())
}
fn each<const N: usize>(run: impl Fn(usize) + Send + Sync + 'static) -> [thread::JoinHandle<()>; N] {
    let run = Arc::new(run);
    std::array::from_fn(|who| {
        let run = run.clone();
        thread::spawn(move || run(who))
    })
}
fn join<const N: usize>(threads: [thread::JoinHandle<()>; N]) {
    threads.into_iter().for_each(|t| t.join().unwrap());
}

/// Four produce, three consume; each consumer takes before it reads what the bit stands for.
/// Mutants killed: `prepare` that overlooks news (proof/mutants/sleeps-beside-news).
#[test]
fn shuttle_slot_of_many_producers_and_consumers() {
    const ROUNDS: u32 = 3;
    const BITS: [u32; 4] = [BELL_READ, BELL_PRI, BELL_RDHUP, BELL_HUP];
    explore(|| {
        let shared = Arc::new((Word::new(0), [const { AtomicU32::new(0) }; 4], AtomicU32::new(0)));
        let s = shared.clone();
        let producers: [_; 4] = each(move |who| {
            for _ in 0..ROUNDS {
                s.1[who].fetch_add(1, SeqCst);
                foreign(&s.0).deliver(Ready(BITS[who]));
            }
        });
        let s = shared.clone();
        let consumers: [_; 3] = each(move |_| {
            loop {
                let news = slot::consume(&s.0);
                for who in (0..4).filter(|who| news.has(Ready(BITS[*who]))) {
                    s.2.fetch_add(s.1[who].swap(0, SeqCst), SeqCst);
                }
                if news.has(Ready::CLOSED) {
                    return;
                }
                if let Some(expected) = slot::prepare(&s.0) {
                    s.0.sleep(expected, NEVER);
                }
            }
        });
        join(producers);
        // Nobody may sleep beside what is left: CLOSED would wake them.
        while shared.2.load(SeqCst) < 4 * ROUNDS {
            thread::yield_now();
        }
        foreign(&shared.0).deliver(Ready::CLOSED);
        join(consumers);
        let now = shared.0.load(SeqCst);
        let left: u32 = shared.1.iter().map(|n| n.load(SeqCst)).sum();
        assert_eq!((shared.2.load(SeqCst), left), (4 * ROUNDS, 0));
        assert_eq!((now & BELL_WAITER, now / BELL_SEQ), (0, 4 * ROUNDS + 1));
    });
}

/// Three push to nodes of their own, one to a node that it gives back. Three wait, each for one piece: of those there are
/// as many at least, so whoever is not woken for what another has left sleeps for ever.
/// Mutants killed: a waiter that does not call the next (proof/mutants/queue-left-alone).
#[test]
fn shuttle_queue_of_many_producers_and_consumers() {
    const TIMES: u64 = 3;
    explore(|| {
        let bell = Arc::new(Word::new(0));
        let queue = Arc::new(Queue::new(Handle::new(Kind::Queue, 0, 0, 1), 0, Target::Futex(foreign(&bell))));
        let node = |i: u32| queue.reserve(Handle::new(Kind::Timeout, 0, i, 1), i as u64, After::Nothing).unwrap();
        let nodes: [u32; 4] = std::array::from_fn(|i| node(i as u32));
        let push = |queue: &Queue, node, data| {
            let mut batch = Batch::default();
            let (handle, ready, after) = (Handle(0), Ready::TIMEOUT, After::Nothing);
            let news = News { handle, user_data: 0, ready, status: 0, data, add: true, after };
            queue.push(node, &news, Some(0), &mut batch);
            batch.deliver(&World { ghc: None, wake_driver: &|_| {} });
        };
        let drain = |queue: &Queue| {
            let mut out = [MaybeUninit::<bell_event>::uninit()];
            // SAFETY: the drain has written it.
            (queue.drain(&mut out, Came::ByItself).unwrap().0 == 1).then(|| unsafe { out[0].assume_init_ref() }.data)
        };
        let q = queue.clone();
        let producers: [_; 3] = each(move |who| (0..TIMES).for_each(|_| push(&q, nodes[who], 1)));
        let q = queue.clone();
        let cancels = thread::spawn(move || {
            push(&q, nodes[3], 0);
            q.release(nodes[3]);
        });
        let got = Arc::new(AtomicU32::new(0));
        let (q, g) = (queue.clone(), got.clone());
        let consumers: [_; 3] = each(move |_| {
            let (got, _) = super::wait_for_queue(&q, 1);
            g.fetch_add(got[0].1 as u32, SeqCst);
        });
        join(producers);
        cancels.join().unwrap();
        join(consumers);
        let rest: u64 = std::iter::from_fn(|| drain(&queue)).sum();
        assert_eq!(got.load(SeqCst) as u64 + rest, 3 * TIMES);
        assert!(queue.lock_empty().is_some(), "drained, and it is not empty");
    });
}

/// Six wait, each for its own slot, and each posts to the next when it is told; one polls. Nobody drives but they.
/// Mutants killed: `poll` that does not hand over (proof/mutants/poll-keeps-the-lead).
#[test]
fn shuttle_handover_among_many_waiters() {
    explore(|| {
        let m = manager(1);
        let slots: Arc<Vec<u64>> = Arc::new((0..6).map(|_| m.register_user(0, Spec::Slot, 0).unwrap()).collect());
        let polled = m.register_user(0, Spec::Poll, 7).unwrap();
        let (mine, s) = (m.clone(), slots.clone());
        let waiters: [_; 6] = each(move |who| {
            assert_eq!(mine.slot_wait(s[who], Direction::Read, NEVER, false), Ok(BELL_USER as i32));
            // A ring of two: 0 -> 2 -> 4, 1 -> 3 -> 5.
            match s.get(who + 2) {
                Some(next) => mine.post(*next, 1).unwrap(),
                None if who == 5 => mine.post(polled, 1).unwrap(),
                None => 0,
            };
        });
        let mine = m.clone();
        let poller = thread::spawn(move || {
            let mut out = [MaybeUninit::<bell_event>::uninit()];
            while mine.poll(0, &mut out, NEVER).unwrap() == 0 {}
            // SAFETY: one event was written.
            assert_eq!(unsafe { out[0].assume_init_ref() }.user_data, 7);
        });
        m.post(slots[0], 1).unwrap();
        m.post(slots[1], 1).unwrap();
        join(waiters);
        poller.join().unwrap();
    });
}

fn due(m: &Manager, word: &Word, shard: u32) -> u64 {
    m.register_timeout(TimeoutSpec {
        clock: Clock::Monotonic,
        auto_release: false,
        shard,
        deadline_ns: 1,
        period_ns: 0,
        slack_ns: 0,
        user_data: 0,
        target: Spec::Futex(foreign(word)),
    })
    .unwrap()
}

/// Two drive, four cancel: each frees its word as soon as it may.
/// Mutants killed: `sync` that does not wait (proof/mutants/sync-returns-early).
#[test]
fn shuttle_cancel_against_deliver_and_free() {
    explore(|| {
        let m = manager(2);
        let words = words::<4>();
        let handles: [u64; 4] = std::array::from_fn(|i| due(&m, &words[i], i as u32 % 2));
        let (mine, w) = (m.clone(), words.clone());
        let cancels: [_; 4] = each(move |who| {
            let answer = mine.unregister(handles[who], true).unwrap();
            let told = w[who].load(SeqCst) / BELL_SEQ;
            assert_eq!(answer, if told == 1 { BELL_FIRED } else { BELL_CANCELLED as i32 });
            w[who].free();
        });
        let mine = m.clone();
        let drivers: [_; 2] = each(move |shard| assert_eq!(mine.poll(shard as u32, &mut [], 0), Ok(0)));
        join(cancels);
        join(drivers);
    });
}

/// Three register an fd again and again, on two shards that two drive; two close it.
/// Mutants killed: `acquire` that does not look at CLOSING (proof/mutants/registers-while-closing).
#[test]
fn shuttle_close_against_register_and_deliver() {
    const FD: i32 = 5;
    const ROUNDS: usize = 2;
    explore(|| {
        let m = manager(2);
        let words = words::<6>();
        let made = Arc::new([const { AtomicBool::new(false) }; 6]);
        let (mine, w, here) = (m.clone(), words.clone(), made.clone());
        let registrars: [_; 3] = each(move |who| {
            for round in 0..ROUNDS {
                let word = &w[ROUNDS * who + round];
                let registered = mine.register_fd(FdSpec {
                    fd: FD,
                    interest: Interest::READ,
                    mode: Mode::Oneshot,
                    always_ready: false,
                    exclusive: false,
                    auto_release: false,
                    shard: (who + round) as u32 % 2,
                    user_data: 0,
                    deadline_ns: 1,
                    target: Spec::Futex(foreign(word)),
                });
                let Ok(handle) = registered else {
                    assert_eq!(registered, Err(Error::CLOSED));
                    continue;
                };
                here[ROUNDS * who + round].store(true, SeqCst);
                thread::yield_now();
                here[ROUNDS * who + round].store(false, SeqCst);
                let answer = mine.unregister(handle, true).unwrap();
                let now = word.load(SeqCst);
                // CANCELLED: told nothing. FIRED: the deadline, or the close, or the one and then the other.
                let told = now & (BELL_TIMEOUT | BELL_CLOSED);
                assert_eq!(now / BELL_SEQ, told.count_ones());
                assert_eq!(answer == BELL_FIRED, told != 0);
                word.free();
            }
        });
        let (mine, w, here) = (m.clone(), words.clone(), made.clone());
        let closers: [_; 2] = each(move |_| {
            let before: Vec<usize> = (0..6).filter(|i| here[*i].load(SeqCst)).collect();
            let Ok(ticket) = mine.close_begin(FD) else { return };
            // Those that were there before, and are still, have been told.
            for i in before.into_iter().filter(|i| here[*i].load(SeqCst)) {
                assert!(w[i].load(SeqCst) & BELL_CLOSED != 0, "registered, closed, not told");
            }
            mine.close_end(FD, ticket).unwrap();
        });
        let mine = m.clone();
        let drivers: [_; 2] = each(move |shard| {
            for _ in 0..2 {
                assert_eq!(mine.poll(shard as u32, &mut [], 0), Ok(0));
            }
        });
        join(registrars);
        join(closers);
        join(drivers);
        assert_eq!(m.stats(BELL_SHARD_ANY).unwrap().fds, 0);
    });
}

/// Two poll, two wait for slots, one for a queue, two wake and post; the manager is destroyed under them.
/// Mutants killed: `close` that does not wake those who sleep while another drives (proof/mutants/followers-not-told).
#[test]
fn shuttle_destroy_against_wake_and_poll() {
    explore(|| {
        let m = manager(2);
        let slots: Arc<Vec<u64>> = Arc::new((0..2).map(|i| m.register_user(i, Spec::Slot, 0).unwrap()).collect());
        let queue = m.queue_create(1, None).unwrap();
        let mine = m.clone();
        let pollers: [_; 2] = each(move |shard| {
            loop {
                match mine.poll(shard as u32, &mut [], NEVER) {
                    Ok(_) => {}
                    Err(Error::BUSY) => thread::yield_now(),
                    Err(e) => return assert_eq!(e, Error::CLOSED),
                }
            }
        });
        let (mine, s) = (m.clone(), slots.clone());
        let waiters: [_; 2] = each(move |who| {
            loop {
                match mine.slot_wait(s[who], Direction::Read, NEVER, false) {
                    Ok(news) => assert_eq!(news, BELL_USER as i32),
                    Err(e) => return assert_eq!(e, Error::CLOSED),
                }
            }
        });
        let mine = m.clone();
        let drains = thread::spawn(move || {
            let mut out = [MaybeUninit::<bell_event>::uninit()];
            assert_eq!(mine.queue_wait(queue, &mut out, NEVER), Err(Error::CLOSED));
        });
        let (mine, s) = (m.clone(), slots.clone());
        let wakers: [_; 2] = each(move |who| {
            mine.wake(who as u32).unwrap();
            mine.post(s[1 - who], 1).unwrap();
        });
        m.begin_destroy(true).unwrap();
        join(pollers);
        join(waiters);
        drains.join().unwrap();
        join(wakers);
    });
}
