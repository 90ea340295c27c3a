//! Cancel against fire: `deliveries.rs` with the locks and the waiting of `shard.rs`, as a manager has them.
use super::explore;
use crate::abi::{BELL_CANCELLED, BELL_FIRED, BELL_SEQ};
use crate::deliveries::Deliveries;
use crate::event::Clock;
use crate::manager::{Config, Manager, TimeoutSpec};
use crate::sync::{Mutex, Word};
use crate::target::Spec;
use crate::target::futex::ForeignWord;
use loom::thread;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// A timeout that is due: the next turn delivers to the word.
fn due(m: &Manager, word: &Word) -> u64 {
    let target = Spec::Futex(ForeignWord::new((&raw const *word).cast_mut().cast()).unwrap());
    m.register_timeout(TimeoutSpec {
        clock: Clock::Monotonic,
        auto_release: false,
        shard: 0,
        deadline_ns: 1,
        period_ns: 0,
        slack_ns: 0,
        user_data: 0,
        target,
    })
    .unwrap()
}

fn manager() -> Arc<Manager> {
    Arc::from(Manager::new(Config { shards: 1, max_events: 1, ..Config::default() }).unwrap())
}

/// The canceller frees the word when it is told that it may; loom sees every use of it.
/// Mutants killed: `sync` that does not wait; `Shard::finish` without `begin`, or that ends before it delivers, or does
/// not notify; `unregister` that says CANCELLED for what was taken.
#[test]
fn the_word_may_be_freed_when_cancelled_or_synced() {
    explore(8, || {
        let m = manager();
        let word = Arc::new(Word::new(0));
        let handle = due(&m, &word);
        let driver = {
            let m = m.clone();
            thread::spawn(move || m.poll(0, &mut [], 0).unwrap())
        };
        let answer = m.unregister(handle, false).unwrap();
        if answer == BELL_FIRED {
            m.sync_all();
            assert_eq!(word.load(Relaxed) / BELL_SEQ, 1);
        } else {
            assert_eq!(answer, BELL_CANCELLED as i32);
            assert_eq!(word.load(Relaxed), 0);
        }
        word.free();
        driver.join().unwrap();
    });
}

/// `BELL_SYNC` while a second thread begins deliveries of its own: a stream of them, of which one is always under way.
/// Asked as often as a delivery ends, `is_over` must have said yes by then, and not before the first one's end.
/// Mutants killed: `is_over` only when idle; `turn` that does not look whether the other count is 0.
#[test]
fn a_stream_of_deliveries_does_not_keep_the_waiter() {
    explore(5, || {
        // What the lock guards: the counters, the ends so far, and of which delivery the first one is the target.
        let shared = Arc::new(Mutex::new((Deliveries::default(), false)));
        let first = shared.lock().0.begin();
        let s = shared.clone();
        let ender = thread::spawn(move || {
            let mut st = s.lock();
            st.1 = true;
            let _ = st.0.end(first);
        });
        let s = shared.clone();
        let stream = thread::spawn(move || {
            let mut running = s.lock().0.begin();
            for _ in 0..3 {
                let mut st = s.lock();
                let next = st.0.begin();
                let _ = st.0.end(running);
                running = next;
            }
            running
        });
        let ticket = shared.lock().0.ticket();
        let mut over = ticket.is_none();
        for _ in 0..2 {
            let mut st = shared.lock();
            if !over {
                over = st.0.is_over(ticket.unwrap());
            }
            assert!(!over || st.1, "the first delivery was still under way");
        }
        ender.join().unwrap();
        let mut running = stream.join().unwrap();
        // The stream goes on; all that was under way at the ticket has ended long ago after three more of it.
        for _ in 0..3 {
            let mut st = shared.lock();
            let next = st.0.begin();
            let _ = st.0.end(running);
            running = next;
        }
        assert!(over || shared.lock().0.is_over(ticket.unwrap()), "starved");
        let _ = shared.lock().0.end(running);
        assert!(shared.lock().0.is_idle());
    });
}

/// Somebody waits already, so that deliveries of both counts are under way when the ticket is taken.
/// Mutants killed: `is_over` after one turn.
#[test]
fn beside_an_older_waiter_both_counts_are_waited_for() {
    explore(8, || {
        let shared = Arc::new(Mutex::new((Deliveries::default(), [false; 2])));
        let mut st = shared.lock();
        let first = st.0.begin();
        let mut older = st.0.ticket();
        let second = st.0.begin();
        drop(st);
        let enders = [first, second].into_iter().enumerate().map(|(which, token)| {
            let s = shared.clone();
            thread::spawn(move || {
                let mut st = s.lock();
                st.1[which] = true;
                let _ = st.0.end(token);
            })
        });
        let enders: Vec<_> = enders.collect();
        let mut newer = shared.lock().0.ticket();
        for _ in 0..3 {
            let mut st = shared.lock();
            older.take_if(|ticket| st.0.is_over(*ticket));
            newer.take_if(|ticket| st.0.is_over(*ticket));
            assert!(older.is_some() || st.1[0], "the older waiter's delivery was still under way");
            assert!(newer.is_some() || st.1 == [true; 2], "a delivery was still under way");
        }
        enders.into_iter().for_each(|t| t.join().unwrap());
        let mut st = shared.lock();
        assert!(older.is_none_or(|ticket| st.0.is_over(ticket)));
        assert!(newer.is_none_or(|ticket| st.0.is_over(ticket)));
    });
}
