//! The sleep of a driver (waker.rs). The kernel's waker is a word: it counts the rings.
use super::explore;
use crate::event::NEVER;
use crate::sync::{self, Word};
use crate::target::slot;
use crate::waker::SleepState;
use loom::cell::UnsafeCell;
use loom::thread;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

struct Shared {
    sleep: SleepState,
    eventfd: Word,
    data: [UnsafeCell<u32>; 2],
    asked: [loom::sync::atomic::AtomicU32; 2],
}
// SAFETY: loom checks the cells.
unsafe impl Sync for Shared {}
// SAFETY: as above.
unsafe impl Send for Shared {}

impl Shared {
    fn new() -> Arc<Shared> {
        Arc::new(Shared {
            sleep: SleepState::new(),
            eventfd: Word::new(0),
            data: Default::default(),
            asked: Default::default(),
        })
    }

    fn wake(&self, which: usize) {
        // SAFETY: loom checks it.
        self.data[which].with_mut(|p| unsafe { *p = 7 });
        self.asked[which].store(1, Relaxed);
        if self.sleep.wake(which == 1) && slot::publish(&self.eventfd, crate::event::Ready::READ) {
            sync::wake(self.eventfd.wake_address());
        }
    }

    /// What the driver finds when it looks.
    fn look(&self) -> [bool; 2] {
        [0, 1].map(|which| {
            let asked = self.asked[which].load(Relaxed) == 1;
            // Relaxed: it is `finish` that must have made the data visible, unless the wake is still to come.
            asked
        })
    }
}
