//! The protocol of a slot word (target/slot.rs), with the producer of target/futex.rs.
use super::explore;
use crate::abi::{BELL_SEQ, BELL_WAITER};
use crate::event::{NEVER, Ready};
use crate::sync::{self, Mutex, Word};
use crate::target::futex::ForeignWord;
use crate::target::slot::{consume, nudge, prepare, publish, reset};
use loom::cell::UnsafeCell;
use loom::sync::atomic::AtomicU32;
use loom::thread;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// What a thread that waits does.
fn wait(word: &Word) -> Ready {
    loop {
        let news = consume(word);
        if !news.is_empty() {
            return news;
        }
        if let Some(expected) = prepare(word) {
            word.sleep(expected, NEVER);
        }
    }
}

fn deliver(word: &Word, news: Ready) {
    ForeignWord::new((&raw const *word).cast_mut().cast()).unwrap().deliver(news);
}

struct Shared {
    word: Word,
    data: [UnsafeCell<u32>; 2],
}
// SAFETY: loom checks the cells.
unsafe impl Sync for Shared {}
// SAFETY: as above.
unsafe impl Send for Shared {}

impl Shared {
    fn new() -> Arc<Shared> {
        Arc::new(Shared { word: Word::new(0), data: [UnsafeCell::new(0), UnsafeCell::new(0)] })
    }
    fn write(&self, which: usize) {
        // SAFETY: loom checks it.
        self.data[which].with_mut(|p| unsafe { *p = 7 });
    }
    fn read(&self, which: usize) -> u32 {
        // SAFETY: loom checks it.
        self.data[which].with(|p| unsafe { *p })
    }
}

/// Mutants killed: `change` relaxed; `consume` relaxed; `publish` that tells nobody; `prepare` that does not
/// set WAITER; `deliver` that looks at the word after it has published.
#[test]
fn museum_028_news_wakes_the_waiter_who_may_free_the_word_at_once() {
    explore(8, || {
        let shared = Shared::new();
        let s = shared.clone();
        let producer = thread::spawn(move || {
            s.write(0);
            deliver(&s.word, Ready::READ);
        });
        assert_eq!(wait(&shared.word), Ready::READ);
        shared.word.free();
        assert_eq!(shared.read(0), 7);
        producer.join().unwrap();
    });
}

/// Mutants killed: `prepare` that overlooks news; `change` that writes what it made of an older value; `consume` that
/// looks and clears in two steps.
#[test]
fn two_producers_lose_nothing() {
    explore(4, || {
        let shared = Shared::new();
        let producers = [(0, Ready::READ), (1, Ready::HUP)].map(|(which, news)| {
            let s = shared.clone();
            thread::spawn(move || {
                s.write(which);
                deliver(&s.word, news);
            })
        });
        let mut seen = Ready::NONE;
        while seen != Ready::READ | Ready::HUP {
            let news = wait(&shared.word);
            assert!(!seen.has(news), "told twice");
            seen |= news;
            for (which, bit) in [(0, Ready::READ), (1, Ready::HUP)] {
                if news.has(bit) {
                    assert_eq!(shared.read(which), 7);
                }
            }
        }
        producers.into_iter().for_each(|p| p.join().unwrap());
        assert_eq!(shared.word.load(Relaxed) / BELL_SEQ, 2);
    });
}

/// Consumed before the I/O that it allows: `data` is what a socket holds, an exchange for 0 is a read.
/// Mutants killed: `publish` that leaves WAITER on.
#[test]
fn news_that_comes_during_the_read_is_not_lost() {
    explore(6, || {
        let shared = Arc::new((Word::new(0), AtomicU32::new(0)));
        let s = shared.clone();
        let producer = thread::spawn(move || {
            for _ in 0..2 {
                s.1.fetch_add(1, Relaxed);
                deliver(&s.0, Ready::READ);
            }
        });
        let mut got = 0;
        while got < 2 {
            match shared.1.swap(0, Relaxed) {
                0 => drop(wait(&shared.0)),
                n => got += n,
            }
        }
        producer.join().unwrap();
        assert_eq!(shared.0.load(Relaxed) & BELL_WAITER, 0, "the next delivery would wake nobody");
    });
}

/// Mutants killed: `consume` that takes CLOSED away; `prepare` that overlooks it.
#[test]
fn closing_wakes_both_who_wait() {
    explore(4, || {
        let word = Arc::new(Word::new(0));
        let w = word.clone();
        let other = thread::spawn(move || assert_eq!(wait(&w), Ready::CLOSED));
        let w = word.clone();
        let closer = thread::spawn(move || deliver(&w, Ready::CLOSED));
        assert_eq!(wait(&word), Ready::CLOSED);
        other.join().unwrap();
        closer.join().unwrap();
    });
}

/// As `Shard::wait_rare`: what is waited for is under a lock, and so is `prepare`. Then somebody else prepares to sleep
/// on the word, which may not look as if nothing had happened.
/// Mutants killed: `nudge` that leaves the word as it was, or does not count.
#[test]
fn a_nudge_wakes_without_news() {
    explore(8, || {
        let shared = Arc::new((Word::new(0), Mutex::new(false)));
        let s = shared.clone();
        let nudger = thread::spawn(move || {
            *s.1.lock() = true;
            if nudge(&s.0) {
                sync::wake(s.0.wake_address());
            }
            assert!(prepare(&s.0).is_some());
        });
        loop {
            let ready = shared.1.lock();
            if *ready {
                break;
            }
            if let Some(expected) = prepare(&shared.0) {
                drop(ready);
                shared.0.sleep(expected, NEVER);
            }
        }
        nudger.join().unwrap();
        assert_eq!(consume(&shared.0), Ready::NONE);
    });
}

/// A sleeper of the old owner comes late: the word has been given away, and its new owner sleeps on it.
/// Mutants killed: `reset` that starts the count anew; `reset` that leaves CANCELLED.
#[test]
fn a_late_sleeper_does_not_sleep_on_the_word_of_another() {
    explore(8, || {
        let shared = Arc::new((Word::new(0), Mutex::new(1)));
        let s = shared.clone();
        let late = thread::spawn(move || {
            loop {
                let owner = s.1.lock();
                if *owner != 1 {
                    return;
                }
                if let Some(expected) = prepare(&s.0) {
                    drop(owner);
                    s.0.sleep(expected, NEVER);
                }
            }
        });
        let (word, owner) = &*shared;
        let mut st = owner.lock();
        let asleep = publish(word, Ready::CANCELLED);
        *st = 2;
        reset(word);
        drop(st);
        if asleep {
            sync::wake(word.wake_address());
        }
        assert!(prepare(word).is_some(), "the new owner has no news");
        late.join().unwrap();
    });
}
