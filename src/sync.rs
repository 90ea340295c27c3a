//! Locks, atomics and the futex, switched between the real ones and those of the model checkers (loom, shuttle) in this
//! one place.
//!
//! The lock is std's on Linux: one futex word, so a child after `fork` can start over with a fresh one.
//! parking_lot keeps its sleepers in a table of the process, which a fork copies with the threads that are gone
//! still queued in it; it serves where std's lock is not a futex.
use std::sync::atomic::Ordering;

#[cfg(loom)]
pub use loom as checker;
#[cfg(shuttle)]
pub use shuttle as checker;

#[cfg(any(loom, shuttle))]
pub use checker::sync::atomic::{AtomicU32, AtomicU64};
#[cfg(not(any(loom, shuttle, doorbell_sim)))]
pub use std::sync::atomic::{AtomicU32, AtomicU64};
// The simulator counts writes.
#[cfg(doorbell_sim)]
pub use crate::tests::sim::cpus::{AtomicU32, AtomicU64};
#[cfg(not(any(loom, shuttle)))]
pub use AtomicU64 as StaticU64;
/// For statics: loom's cannot be made before the program runs.
#[cfg(any(loom, shuttle))]
pub use std::sync::atomic::AtomicU64 as StaticU64;

#[cfg(any(loom, shuttle))]
pub use checker::sync::MutexGuard;
#[cfg(all(not(any(loom, shuttle, doorbell_sim)), not(target_os = "linux")))]
pub use parking_lot::MutexGuard;
#[cfg(all(not(any(loom, shuttle, doorbell_sim)), target_os = "linux"))]
pub use std::sync::MutexGuard;

#[cfg(not(doorbell_sim))]
pub use std::thread;

// Threads of the simulator take turns, and a lock is where they do.
#[cfg(doorbell_sim)]
pub use crate::tests::sim::sched::{Mutex, MutexGuard, thread, wake};

/// A mutual exclusion without poisoning: a panic poisons the whole manager at the C boundary instead.
#[cfg(not(doorbell_sim))]
pub struct Mutex<T> {
    #[cfg(any(loom, shuttle))]
    inner: checker::sync::Mutex<T>,
    #[cfg(all(not(any(loom, shuttle)), target_os = "linux"))]
    inner: std::sync::Mutex<T>,
    #[cfg(all(not(any(loom, shuttle)), not(target_os = "linux")))]
    inner: parking_lot::Mutex<T>,
}

// What std's mutex is by itself. A panic under the lock poisons the manager.
#[cfg(all(not(any(loom, shuttle)), not(target_os = "linux")))]
impl<T> std::panic::RefUnwindSafe for Mutex<T> {}

#[cfg(not(doorbell_sim))]
impl<T> Mutex<T> {
    pub fn new(value: T) -> Self {
        #[cfg(any(loom, shuttle))]
        let inner = checker::sync::Mutex::new(value);
        #[cfg(all(not(any(loom, shuttle)), target_os = "linux"))]
        let inner = std::sync::Mutex::new(value);
        #[cfg(all(not(any(loom, shuttle)), not(target_os = "linux")))]
        let inner = parking_lot::Mutex::new(value);
        Mutex { inner }
    }

    #[cfg(any(loom, shuttle, target_os = "linux"))]
    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
    #[cfg(not(any(loom, shuttle, target_os = "linux")))]
    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.inner.lock()
    }

    #[cfg(any(loom, shuttle, target_os = "linux"))]
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        match self.inner.try_lock() {
            Ok(guard) => Some(guard),
            Err(std::sync::TryLockError::Poisoned(p)) => Some(p.into_inner()),
            Err(std::sync::TryLockError::WouldBlock) => None,
        }
    }
    #[cfg(not(any(loom, shuttle, target_os = "linux")))]
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        self.inner.try_lock()
    }

    pub fn get_mut(&mut self) -> &mut T {
        #[cfg(any(loom, shuttle, target_os = "linux"))]
        return self.inner.get_mut().unwrap_or_else(|poisoned| poisoned.into_inner());
        #[cfg(not(any(loom, shuttle, target_os = "linux")))]
        return self.inner.get_mut();
    }
}

/// Why a sleep on a [`Word`] ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Woken {
    /// Somebody woke it, or the word had changed already, or for no reason: look at the word.
    Look,
    TimedOut,
    Interrupted,
}

/// A 32-bit word that threads can sleep on (futex(2)). In memory it is just the number: C code maps it.
#[cfg_attr(not(any(loom, shuttle)), repr(transparent))]
pub struct Word {
    value: AtomicU32,
    #[cfg(any(loom, shuttle))]
    kernel: Kernel,
}

impl Word {
    pub fn new(value: u32) -> Word {
        Word {
            value: AtomicU32::new(value),
            #[cfg(any(loom, shuttle))]
            kernel: Kernel::new(),
        }
    }

    /// The number, to read or write it. In a model each use is also a read of the word's life.
    #[inline(always)]
    fn value(&self) -> &AtomicU32 {
        #[cfg(any(loom, shuttle))]
        self.kernel.life.with(|_| {});
        #[cfg(doorbell_sim)]
        crate::tests::sim::sched::switch();
        &self.value
    }

    pub fn load(&self, order: Ordering) -> u32 {
        self.value().load(order)
    }
    pub fn fetch_and(&self, mask: u32, order: Ordering) -> u32 {
        self.value().fetch_and(mask, order)
    }
    pub fn compare_exchange(&self, old: u32, new: u32, ok: Ordering, fail: Ordering) -> Result<u32, u32> {
        self.value().compare_exchange_weak(old, new, ok, fail)
    }
}

#[cfg(any(loom, shuttle))]
mod modelled {
    use super::*;

    #[cfg(loom)]
    type Life = loom::cell::UnsafeCell<()>;
    /// One thread runs at a time, so what it finds is exact.
    #[cfg(shuttle)]
    pub struct Life(std::sync::atomic::AtomicBool);
    #[cfg(shuttle)]
    impl Life {
        fn new(_: ()) -> Life {
            Life(true.into())
        }
        pub fn with(&self, _: impl FnOnce(*const ())) {
            assert!(self.0.load(Ordering::Relaxed), "a word is used that was freed");
        }
        fn with_mut(&self, _: impl FnOnce(*mut ())) {
            self.0.store(false, Ordering::Relaxed);
        }
    }

    /// What futex(2) keeps about a word, and whether the memory of the word is there.
    pub struct Kernel {
        sleepers: (checker::sync::Mutex<()>, checker::sync::Condvar),
        pub life: Life,
    }

    // SAFETY: the cell holds nothing: loom looks at the order of its uses.
    unsafe impl Sync for Kernel {}
    impl std::panic::RefUnwindSafe for Kernel {}

    impl Kernel {
        pub fn new() -> Kernel {
            Kernel { sleepers: (checker::sync::Mutex::new(()), checker::sync::Condvar::new()), life: Life::new(()) }
        }
    }

    impl Word {
        /// Deadlines do not come: models wait for ever.
        pub fn sleep(&self, expected: u32, _deadline_ns: i64) -> Woken {
            let guard = self.kernel.sleepers.0.lock().unwrap();
            if self.value().load(Ordering::SeqCst) == expected {
                drop(self.kernel.sleepers.1.wait(guard).unwrap());
            }
            Woken::Look
        }
        pub fn wake_address(&self) -> WakeAddress {
            WakeAddress(self)
        }
        /// The owner frees the memory: a use of the number that does not happen before this is an error. Models keep
        /// the `Word` itself until all threads have joined, because `wake` finds the sleepers there.
        pub fn free(&self) {
            self.kernel.life.with_mut(|_| {});
        }
    }

    #[derive(Clone, Copy)]
    pub struct WakeAddress(*const Word);
    // SAFETY: models keep their words until all threads have joined.
    unsafe impl Send for WakeAddress {}
    // SAFETY: as above.
    unsafe impl Sync for WakeAddress {}

    pub fn wake(at: WakeAddress) {
        // SAFETY: as above.
        let sleepers = unsafe { &(*at.0).kernel.sleepers };
        let _guard = sleepers.0.lock().unwrap();
        sleepers.1.notify_all();
    }
}
#[cfg(any(loom, shuttle))]
use modelled::Kernel;
#[cfg(any(loom, shuttle))]
pub use modelled::{WakeAddress, wake};

/// A word on the stack of who sleeps on it. In models it is never freed (see [`WakeAddress`] there), but every use
/// after its end is an error.
pub struct OwnWord {
    #[cfg(not(any(loom, shuttle)))]
    word: Word,
    #[cfg(any(loom, shuttle))]
    word: &'static Word,
}

impl OwnWord {
    pub fn new() -> OwnWord {
        let word = Word::new(0);
        #[cfg(any(loom, shuttle))]
        let word = Box::leak(Box::new(word));
        OwnWord { word }
    }
}

impl std::ops::Deref for OwnWord {
    type Target = Word;
    fn deref(&self) -> &Word {
        #[cfg(not(any(loom, shuttle)))]
        return &self.word;
        #[cfg(any(loom, shuttle))]
        return self.word;
    }
}

#[cfg(any(loom, shuttle))]
impl Drop for OwnWord {
    fn drop(&mut self) {
        self.word.free();
    }
}

/// Where to wake, as a number: the memory may be gone by then (see [`wake`]).
#[cfg(not(any(loom, shuttle)))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WakeAddress(pub usize);

#[cfg(doorbell_sim)]
impl Word {
    pub fn sleep(&self, expected: u32, deadline_ns: i64) -> Woken {
        crate::tests::sim::sched::sleep(
            self.wake_address(),
            &|| self.value.load(Ordering::SeqCst) == expected,
            deadline_ns,
        )
    }
}

#[cfg(not(any(loom, shuttle)))]
impl Word {
    pub fn wake_address(&self) -> WakeAddress {
        WakeAddress(self as *const Word as usize)
    }
}

#[cfg(all(not(any(loom, shuttle, doorbell_sim)), target_os = "linux"))]
mod futex {
    use super::*;
    use crate::event::NEVER;

    impl Word {
        /// Sleeps while the word is `expected`, until `deadline_ns` (`CLOCK_MONOTONIC`; `NEVER`: no end).
        /// FUTEX_WAIT_BITSET because its timeout is absolute.
        #[cfg_attr(target_env = "musl", allow(deprecated))] // `time_t`: wider one day on 32-bit musl
        pub fn sleep(&self, expected: u32, deadline_ns: i64) -> Woken {
            let until = libc::timespec {
                tv_sec: (deadline_ns / 1_000_000_000) as libc::time_t,
                tv_nsec: (deadline_ns % 1_000_000_000) as libc::c_long,
            };
            let until_ptr = if deadline_ns == NEVER { std::ptr::null() } else { &raw const until };
            // SAFETY: the kernel reads the word and the timespec, both alive.
            let r = unsafe {
                libc::syscall(
                    libc::SYS_futex,
                    &raw const self.value,
                    libc::FUTEX_WAIT_BITSET | libc::FUTEX_PRIVATE_FLAG,
                    expected,
                    until_ptr,
                    std::ptr::null::<u32>(),
                    !0u32,
                )
            };
            if r == 0 {
                return Woken::Look;
            }
            // SAFETY: errno of this thread.
            match unsafe { *libc::__errno_location() } {
                libc::ETIMEDOUT => Woken::TimedOut,
                libc::EINTR => Woken::Interrupted,
                _ => Woken::Look,
            }
        }
    }

    /// Wakes all sleepers. The kernel takes the address as a key and does not read it, so the memory may have
    /// been unmapped meanwhile (it answers 0 then): the last touch was the write that published the news.
    pub fn wake(at: WakeAddress) {
        // SAFETY: FUTEX_WAKE does not dereference the address.
        unsafe {
            libc::syscall(libc::SYS_futex, at.0 as *const u32, libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG, i32::MAX);
        }
    }
}
#[cfg(all(not(any(loom, shuttle, doorbell_sim)), target_os = "linux"))]
pub use futex::wake;

#[cfg(all(not(any(loom, shuttle, doorbell_sim)), not(target_os = "linux")))]
mod parked {
    use super::*;
    use crate::event::NEVER;
    use parking_lot_core::{DEFAULT_PARK_TOKEN, DEFAULT_UNPARK_TOKEN, ParkResult};
    use std::time::{Duration, Instant};

    impl Word {
        /// Sleeps while the word is `expected`. Signals do not end it here.
        pub fn sleep(&self, expected: u32, deadline_ns: i64) -> Woken {
            let until = (deadline_ns != NEVER).then(|| {
                let now = crate::backend::now(crate::event::Clock::Monotonic).unwrap_or(0);
                Instant::now() + Duration::from_nanos(deadline_ns.saturating_sub(now).max(0) as u64)
            });
            // SAFETY: the key is an address that this module owns; the closures do not park or panic.
            let r = unsafe {
                parking_lot_core::park(
                    self.wake_address().0,
                    || self.value.load(Ordering::SeqCst) == expected,
                    || {},
                    |_, _| {},
                    DEFAULT_PARK_TOKEN,
                    until,
                )
            };
            if r == ParkResult::TimedOut { Woken::TimedOut } else { Woken::Look }
        }
    }

    /// Wakes all sleepers, by address: the memory may be gone.
    pub fn wake(at: WakeAddress) {
        // SAFETY: as above.
        unsafe { parking_lot_core::unpark_all(at.0, DEFAULT_UNPARK_TOKEN) };
    }
}
#[cfg(all(not(any(loom, shuttle, doorbell_sim)), not(target_os = "linux")))]
pub use parked::wake;
