//! Target QUEUE (target/queue.rs). A waiter that leads is in loom_handover.rs.
use super::{explore, wait_for_queue};
use crate::abi::{BELL_SEQ, bell_event};
use crate::event::{Handle, Kind, Ready};
use crate::sync::Word;
use crate::target::futex::ForeignWord;
use crate::target::queue::{Came, Next, Queue};
use crate::target::ready_list::After;
use crate::target::{Batch, News, Target, World};
use loom::thread;
use std::cell::Cell;
use std::mem::MaybeUninit;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

const HOME: usize = 3;

fn queue(doorbell: Target) -> Arc<Queue> {
    Arc::new(Queue::new(Handle::new(Kind::Queue, HOME as u8, 0, 1), HOME, doorbell))
}

fn node(queue: &Queue, index: u32) -> u32 {
    queue.reserve(Handle::new(Kind::Timeout, 0, index, 1), index as u64, After::Nothing).unwrap()
}

/// As a driver of another shard delivers expirations. Returns whether the driver of the home shard was woken.
fn push(queue: &Queue, node: u32) -> bool {
    let mut batch = Batch::default();
    let news = News {
        handle: Handle(0),
        user_data: 0,
        ready: Ready::TIMEOUT,
        status: 0,
        data: 1,
        add: true,
        after: After::Nothing,
    };
    queue.push(node, &news, Some(HOME + 1), &mut batch);
    let woken = Cell::new(false);
    let wake_driver = |shard| woken.set(shard as usize == HOME);
    batch.deliver(&World { ghc: None, wake_driver: &wake_driver });
    woken.get()
}

/// How much was drained of which node.
fn drain(queue: &Queue, room: usize) -> Vec<(u64, u64)> {
    let mut out = [const { MaybeUninit::<bell_event>::uninit() }; 4];
    let (n, next) = queue.drain(&mut out[..room], Came::ByItself).unwrap();
    assert!(matches!(next, Next::Nobody));
    // SAFETY: the drain has written so many.
    out[..n].iter().map(|e| unsafe { e.assume_init_ref() }).map(|e| (e.user_data, e.data)).collect()
}

fn wait(queue: &Queue, room: usize) -> Vec<(u64, u64)> {
    wait_for_queue(queue, room).0
}

/// Each drain here empties the list, so the doorbell, which counts, must have rung as often as something was drained.
/// Mutants killed: a push that rings also for `More`, or calls nobody; `Merged` that replaces the data.
#[test]
fn nothing_is_lost_and_the_doorbell_rings_once_for_each_time() {
    explore(3, || {
        let bell = Arc::new(Word::new(0));
        let word = ForeignWord::new(Arc::as_ptr(&bell).cast_mut().cast()).unwrap();
        let queue = queue(Target::Futex(word));
        let nodes = [node(&queue, 0), node(&queue, 1)];
        let producers = [(nodes[0], 2), (nodes[1], 1)].map(|(node, times)| {
            let q = queue.clone();
            thread::spawn(move || (0..times).for_each(|_| assert!(!push(&q, node))))
        });
        let (mut got, mut drains) = ([0, 0], 0);
        while got != [2, 1] {
            drains += 1;
            for (which, data) in wait(&queue, 4) {
                got[which as usize] += data;
            }
        }
        producers.into_iter().for_each(|p| p.join().unwrap());
        assert_eq!(bell.load(Relaxed) / BELL_SEQ, drains);
    });
}

/// Two wait, each for one piece, and nobody is called for nothing.
/// Mutants killed: a waiter that does not call the next (proof/mutants/queue-left-alone); a drain that
/// forgets who was on the way; `join` beside news; a sleeper that joins before its word is prepared.
#[test]
fn what_one_drain_leaves_wakes_the_next_waiter() {
    explore(3, || {
        let queue = queue(Target::None);
        let nodes = [node(&queue, 0), node(&queue, 1)];
        let q = queue.clone();
        let other = thread::spawn(move || wait_for_queue(&q, 1));
        let q = queue.clone();
        let producer = thread::spawn(move || nodes.map(|n| push(&q, n)));
        let (mut got, calls) = wait_for_queue(&queue, 1);
        let (theirs, also) = other.join().unwrap();
        got.extend(theirs);
        producer.join().unwrap();
        got.sort();
        assert_eq!(got, [(0, 1), (1, 1)]);
        assert!(calls + also <= 2);
    });
}

/// One piece of news and two who wait: one of them is called, and the other goes on sleeping, until more comes.
/// Mutants killed: a push that calls all.
#[test]
fn one_piece_of_news_calls_one() {
    explore(3, || {
        let queue = queue(Target::None);
        let only = node(&queue, 0);
        let waiters = [(); 2].map(|()| {
            let q = queue.clone();
            thread::spawn(move || wait_for_queue(&q, 4))
        });
        for _ in 0..2 {
            assert!(!push(&queue, only));
            // Taken, so that the next push finds the list empty.
            while queue.lock_empty().is_none() {
                thread::yield_now();
            }
        }
        let mut calls = 0;
        for waiter in waiters {
            let (got, called) = waiter.join().unwrap();
            assert_eq!(got, [(0, 1)]);
            calls += called;
        }
        assert!(calls <= 2);
    });
}

/// Mutants killed: `release` that leaves the node listed, says nothing was left, or does not settle.
#[test]
fn news_is_delivered_or_cancelled_but_not_both() {
    explore(8, || {
        let queue = queue(Target::None);
        let node = node(&queue, 0);
        let q = queue.clone();
        let producer = thread::spawn(move || {
            push(&q, node);
            q.release(node).is_news()
        });
        let mut delivered = drain(&queue, 4);
        let cancelled = producer.join().unwrap();
        assert_eq!((delivered.len(), cancelled), if cancelled { (0, true) } else { (1, false) });
        delivered = drain(&queue, 4);
        assert!(delivered.is_empty());
    });
}

/// A waiter that leads sleeps elsewhere. Either its look, after `set_led`, finds the news, or the push says whom to
/// wake.
/// Mutants killed: a push that does not ask for `led`, or asks before it has linked.
#[test]
fn a_leading_waiter_sees_the_news_or_is_woken() {
    explore(8, || {
        let queue = queue(Target::None);
        let node = node(&queue, 0);
        let q = queue.clone();
        let producer = thread::spawn(move || push(&q, node));
        queue.set_led(true);
        let seen = !drain(&queue, 4).is_empty();
        let woken = producer.join().unwrap();
        assert!(seen || woken);
    });
}
