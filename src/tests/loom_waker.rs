//! The sleep of a driver (waker.rs). The kernel's waker is a word, which counts the rings as deliveries.
use super::explore;
use crate::event::{NEVER, Ready};
use crate::ffi::abi::BELL_SEQ;
use crate::sync::{self, Word};
use crate::target::slot;
use crate::waker::SleepState;
use loom::sync::atomic::AtomicU32;
use loom::thread;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

struct Shared {
    sleep: SleepState,
    eventfd: Word,
    /// What each waker has written before it wakes. Relaxed: only the wake makes it visible.
    written: [AtomicU32; 2],
}

fn wake(s: &Shared, who: usize) {
    s.written[who].store(1, Relaxed);
    if s.sleep.wake(who == 1) && slot::publish(&s.eventfd, Ready::READ) {
        sync::wake(s.eventfd.wake_address());
    }
}

fn sleep_in_kernel(eventfd: &Word) {
    while slot::consume(eventfd).is_empty() {
        if let Some(expected) = slot::prepare(eventfd) {
            eventfd.sleep(expected, NEVER);
        }
    }
}

/// A wake whose writes the driver does not see when it looks, the coalesced one included, leaves it asleep for ever.
/// Mutants killed: `prepare` that ignores WOKEN; `wake` relaxed; `wake` that changes nothing if WOKEN is set; `finish`
/// relaxed; `finish` that leaves SLEEPING or WOKEN; `wake` that rings each time, or never.
#[test]
fn no_wake_is_lost_and_a_sleep_is_rung_once() {
    explore(4, || {
        let shared = Arc::new(Shared {
            sleep: SleepState::new(),
            eventfd: Word::new(0),
            written: [AtomicU32::new(0), AtomicU32::new(0)],
        });
        let wakers = [0, 1].map(|who| {
            let s = shared.clone();
            thread::spawn(move || wake(&s, who))
        });
        let mut sleeps = 0;
        let mut user = false;
        loop {
            if shared.sleep.prepare() {
                sleeps += 1;
                sleep_in_kernel(&shared.eventfd);
            }
            let wakes = shared.sleep.finish();
            user |= wakes.user;
            assert!(wakes.any || !wakes.user);
            let seen = [0, 1].map(|who| shared.written[who].load(Relaxed) == 1);
            assert!(!wakes.user || seen[1], "the wake came before what was written");
            if seen == [true, true] {
                break;
            }
        }
        wakers.into_iter().for_each(|w| w.join().unwrap());
        user |= shared.sleep.finish().user;
        assert!(user, "bell_wake was lost");
        let rings = shared.eventfd.load(Relaxed) / BELL_SEQ;
        assert!(rings <= sleeps, "{rings} rings for {sleeps} sleeps");
    });
}
