//! Waking a driver: the state of a shard's sleep, in one atomic word.
//!
//! ```text
//! 0          awake, nothing asked
//! SLEEPING   the driver is in the kernel, or about to enter it
//! WOKEN      somebody wants the driver to look (posts, deadlines, ...)
//! USER       with WOKEN: it was bell_wake, which ends a bell_poll
//! ```
//! - The driver goes 0 -> SLEEPING before it sleeps. If WOKEN is set the exchange fails and it does not sleep.
//! - A waker sets WOKEN. Only the first one who finds SLEEPING rings the kernel's waker; all others are elided: either
//!   the driver is awake and will see the bit, or it is being woken already.
//! - After the sleep the driver swaps in 0 and looks at what it was woken for. Every waker's change is a
//!   read-modify-write (release), so also a coalesced wake publishes what was written before it (libuv#189,
//!   tokio#7622). (Modelled in `tests/loom_waker.rs`.)
use crate::sync::AtomicU32;
use std::sync::atomic::Ordering::{AcqRel, Acquire};

const SLEEPING: u32 = 1;
const WOKEN: u32 = 2;
const USER: u32 = 4;

pub struct SleepState(AtomicU32);

/// What happened while the driver slept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wakes {
    pub any: bool,
    pub user: bool,
}

impl SleepState {
    pub fn new() -> Self {
        SleepState(AtomicU32::new(0))
    }

    /// True: the caller must ring the kernel's waker. Async-signal-safe.
    #[must_use]
    pub fn wake(&self, user: bool) -> bool {
        let asked = if user { WOKEN | USER } else { WOKEN };
        let before = self.0.fetch_or(asked, AcqRel);
        before & (SLEEPING | WOKEN) == SLEEPING
    }

    /// The kernel's waker could not be rung: whoever wakes next rings again, and is told. What was asked for stays.
    pub fn not_rung(&self) {
        self.0.fetch_and(!WOKEN, AcqRel);
    }

    /// False: somebody has asked already, do not sleep.
    #[must_use]
    pub fn prepare(&self) -> bool {
        let before = self.0.compare_exchange(0, SLEEPING, AcqRel, Acquire);
        matches!(before, Ok(_) | Err(SLEEPING))
    }

    /// Awake again: what was asked since the last time.
    pub fn finish(&self) -> Wakes {
        let before = self.0.swap(0, AcqRel);
        Wakes { any: before & WOKEN != 0, user: before & USER != 0 }
    }
}
