//! Who watches an fd (fd_table.rs). The shards here are locks with a list of one: what a registration leaves behind.
use super::explore;
use crate::error::Error;
use crate::fd_table::{Acquired, FdTable, NO_HEAD, Owner};
use crate::sync::Mutex;
use loom::thread;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

const FD: i32 = 0;

struct Shared {
    table: FdTable,
    shards: [Mutex<()>; 2],
    /// Registrations of the fd on each shard, under its lock. Not atomics of loom: the model looks where it may not.
    lists: [AtomicU32; 2],
}

impl Shared {
    fn new() -> Arc<Shared> {
        let shared =
            Shared { table: FdTable::new(), shards: [Mutex::new(()), Mutex::new(())], lists: Default::default() };
        assert_eq!(shared.table.owner(FD), Ok(Owner::Nobody)); // makes the bucket
        Arc::new(shared)
    }

    fn list(&self, place: usize) -> u32 {
        self.lists[place].load(Relaxed)
    }
    fn set_list(&self, place: usize, len: u32) {
        self.lists[place].store(len, Relaxed);
        self.table.set_head(FD, place, if len == 0 { NO_HEAD } else { len });
    }

    /// As `Manager::register_fd`. On which shard, if it was not refused.
    fn register(&self, place: usize) -> Result<usize, Error> {
        self.register_if(place, || true)
    }
    fn register_if(&self, mut place: usize, is_open: impl Fn() -> bool) -> Result<usize, Error> {
        loop {
            let _lock = self.shards[place].lock();
            match self.table.place(FD).unwrap().acquire(place)? {
                Acquired::Mine(head) => {
                    if !is_open() {
                        if head == NO_HEAD {
                            self.table.set_head(FD, place, NO_HEAD);
                        }
                        return Err(Error::BADF);
                    }
                    assert_eq!(head, if self.list(place) == 0 { NO_HEAD } else { self.list(place) });
                    assert_eq!(self.list(1 - place), 0, "two owners");
                    self.set_list(place, self.list(place) + 1);
                    return Ok(place);
                }
                Acquired::Elsewhere(other) => place = other,
            }
        }
    }

    /// Unless a closer has come first.
    fn unregister(&self, place: usize) {
        let _lock = self.shards[place].lock();
        if self.list(place) > 0 {
            self.set_list(place, self.list(place) - 1);
        }
    }

    /// As `Manager::close_begin`.
    fn close_begin(&self) -> u64 {
        let (ticket, owner) = self.table.close_begin(FD).unwrap();
        if let Owner::Shard(place) = owner {
            let _lock = self.shards[place].lock();
            if self.table.head(FD) != NO_HEAD {
                self.set_list(place, 0);
            }
        }
        ticket
    }

    fn registered(&self) -> u32 {
        self.list(0) + self.list(1)
    }
}

/// Mutants killed: `acquire` that does not look at CLOSING; `close_begin` that does not set it, or reports no owner;
/// `set_head` that forgets CLOSING or the count.
#[test]
fn while_it_closes_nothing_is_registered() {
    explore(5, || {
        let shared = Shared::new();
        let registrars = [0, 1].map(|place| {
            let s = shared.clone();
            thread::spawn(move || s.register(place))
        });
        let ticket = shared.close_begin();
        assert_eq!(shared.registered(), 0);
        assert_eq!(shared.table.owner(FD), Ok(Owner::Nobody));
        assert_eq!(shared.register(0), Err(Error::CLOSED));
        assert_eq!(shared.table.close_begin(FD).unwrap_err(), Error::CLOSED);
        shared.table.close_end(FD, ticket).unwrap();
        let late = registrars.map(|r| r.join().unwrap());
        assert!(late.iter().all(|r| matches!(r, Ok(_) | Err(Error::CLOSED))));
        assert_eq!(shared.table.close_end(FD, ticket), Err(Error::STALE));
        shared.register(1).unwrap();
    });
}

/// As `Manager::close_fd`, which lifts the mark before it closes: whoever registered in between is told, or has met a
/// closed fd.
///
/// Mutants killed: no look after the close, or one without the lock, or one that only loads the word.
#[test]
fn nobody_stays_registered_for_what_was_closed() {
    explore(3, || {
        let shared = Shared::new();
        let open = Arc::new(loom::sync::atomic::AtomicBool::new(true));
        let registrars = [0, 1].map(|place| {
            let (s, open) = (shared.clone(), open.clone());
            thread::spawn(move || s.register_if(place, || open.load(Relaxed)))
        });
        let ticket = shared.close_begin();
        shared.table.close_end(FD, ticket).unwrap();
        open.store(false, Relaxed);
        if let Ok(Owner::Shard(place)) = shared.table.owner_after_close(FD) {
            let _lock = shared.shards[place].lock();
            if shared.table.head(FD) != NO_HEAD {
                shared.set_list(place, 0);
            }
        }
        for registrar in registrars {
            let made = registrar.join().unwrap();
            assert!(matches!(made, Ok(_) | Err(Error::CLOSED | Error::BADF)));
        }
        assert_eq!(shared.registered(), 0);
        assert_eq!(shared.table.owner(FD), Ok(Owner::Nobody));
    });
}

/// Mutants killed: `acquire` that takes the fd from another shard, or in two steps; `set_head` that keeps the
/// owner; `acquire_exclusive` that takes the fd from a shard.
#[test]
fn two_shards_do_not_own_one_fd() {
    explore(4, || {
        let shared = Shared::new();
        let others = [0, 1].map(|place| {
            let s = shared.clone();
            thread::spawn(move || {
                let place = s.register(place).unwrap();
                s.unregister(place);
            })
        });
        let place = shared.register(1).unwrap();
        assert_eq!(shared.table.acquire_exclusive(FD), Err(Error::BUSY));
        shared.unregister(place);
        others.into_iter().for_each(|r| r.join().unwrap());
        assert_eq!(shared.registered(), 0);
        assert_eq!(shared.table.owner(FD), Ok(Owner::Nobody));
    });
}

/// Mutants killed: `acquire_exclusive` that stores the count, or does not look at CLOSING; `release_exclusive` that
/// keeps the owner, or forgets CLOSING.
#[test]
fn exclusive_registrations_are_counted() {
    explore(5, || {
        let shared = Shared::new();
        let threads = [0, 1].map(|place| {
            let s = shared.clone();
            thread::spawn(move || {
                let _lock = s.shards[place].lock();
                let made = s.table.acquire_exclusive(FD);
                if made.is_ok() {
                    s.table.release_exclusive(FD);
                }
                made
            })
        });
        let (ticket, owner) = shared.table.close_begin(FD).unwrap();
        if owner == Owner::Exclusive {
            // Each shard is asked: what was there has gone when its lock is had.
            shared.shards.iter().for_each(|s| drop(s.lock()));
        }
        assert_eq!(shared.table.owner(FD), Ok(Owner::Nobody));
        assert_eq!(shared.table.acquire_exclusive(FD), Err(Error::CLOSED));
        threads.map(|t| t.join().unwrap()).iter().for_each(|made| assert!(matches!(made, Ok(()) | Err(Error::CLOSED))));
        shared.table.close_end(FD, ticket).unwrap();
        assert_eq!(shared.table.owner(FD), Ok(Owner::Nobody));
    });
}
