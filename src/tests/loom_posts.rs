//! Posted user events (posts.rs). A driver that does not sleep: it takes until nothing more can come.
use super::explore;
use crate::error::Error;
use crate::posts::Posts;
use loom::sync::atomic::AtomicU32;
use loom::thread;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// One sweep; no cell may come twice in it.
fn take(posts: &Posts, got: &mut Vec<(u32, u32, u32)>) {
    let start = got.len();
    posts.take(|index, generation, bits| got.push((index, generation, bits)));
    let mut cells: Vec<u32> = got[start..].iter().map(|g| g.0).collect();
    cells.sort();
    cells.dedup();
    assert_eq!(cells.len(), got.len() - start, "a cell was on the stack twice");
}

fn bits_of(got: &[(u32, u32, u32)], index: u32, generation: u32) -> u32 {
    got.iter().filter(|g| (g.0, g.1) == (index, generation)).fold(0, |bits, g| {
        assert_eq!(bits & g.2, 0, "posted once, told twice");
        bits | g.2
    })
}

/// Two threads post to one cell while the driver takes; what each has written before is there when its bit is.
/// Mutants killed: `post` without LINKED, or relaxed; `take` in two steps, or relaxed, or that keeps LINKED or the
/// bits.
#[test]
fn no_bits_are_lost_of_one_cell() {
    explore(8, || {
        let shared = Arc::new((Posts::new(), [AtomicU32::new(0), AtomicU32::new(0)]));
        let (posts, written) = &*shared;
        posts.open(0, 1).unwrap();
        let posters = [0, 1].map(|who| {
            let s = shared.clone();
            thread::spawn(move || {
                s.1[who].store(1, Relaxed);
                s.0.post(0, 1, 1 << who).unwrap();
            })
        });
        let mut got = Vec::new();
        take(posts, &mut got);
        for who in (0..2).filter(|who| bits_of(&got, 0, 1) & 1 << who != 0) {
            assert_eq!(written[who].load(Relaxed), 1);
        }
        posters.into_iter().for_each(|p| p.join().unwrap());
        take(posts, &mut got);
        assert!(posts.is_empty());
        assert_eq!(bits_of(&got, 0, 1), 3);
    });
}

/// The second thread posts to its own cell and to the first one's, so that the stack is popped while it is pushed on.
/// Mutants killed: `push` relaxed; `take` that takes one cell and leaves the rest; `take` that clears before it reads
/// `next`.
#[test]
fn no_cell_is_lost_from_the_stack() {
    explore(6, || {
        let posts = Arc::new(Posts::new());
        posts.open(0, 1).unwrap();
        posts.open(1, 5).unwrap();
        let p = posts.clone();
        let first = thread::spawn(move || p.post(0, 1, 1).unwrap());
        let p = posts.clone();
        let second = thread::spawn(move || {
            p.post(1, 5, 1).unwrap();
            p.post(0, 1, 2).unwrap();
        });
        let mut got = Vec::new();
        take(&posts, &mut got);
        first.join().unwrap();
        second.join().unwrap();
        take(&posts, &mut got);
        assert_eq!((bits_of(&got, 0, 1), bits_of(&got, 1, 5)), (3, 1));
    });
}

/// Unregistered and registered anew under a post and a take.
/// Mutants killed: `close` or `open` that keeps the bits or POSTED; one that clears LINKED; `post` that does not look
/// at the generation.
#[test]
fn the_new_generation_gets_nothing_of_the_old() {
    explore(6, || {
        let posts = Arc::new(Posts::new());
        posts.open(0, 1).unwrap();
        let p = posts.clone();
        let poster = thread::spawn(move || p.post(0, 1, 1));
        let p = posts.clone();
        let driver = thread::spawn(move || {
            let mut got = Vec::new();
            take(&p, &mut got);
            got
        });
        posts.close(0);
        posts.open(0, 2).unwrap();
        posts.post(0, 2, 2).unwrap();
        let posted = poster.join().unwrap();
        let mut got = driver.join().unwrap();
        take(&posts, &mut got);
        assert_eq!(bits_of(&got, 0, 2), 2);
        assert_eq!(got.iter().filter(|g| g.1 == 2).count(), 1, "once");
        assert!(got.iter().all(|g| g.1 == 2 || *g == (0, 1, 1)), "{got:?}");
        assert!(posted == Ok(()) || posted == Err(Error::STALE) && bits_of(&got, 0, 1) == 0);
    });
}
