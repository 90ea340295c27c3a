//! Who drives (shard.rs), over a whole manager: real words, locks, posts and sleeps, and the kernel of model_kernel.rs.
//! Whoever waits in vain, because nobody drives any more or because it was not woken, is a deadlock.
use super::explore;
use crate::abi::{BELL_CANCELLED, BELL_USER, bell_event};
use crate::error::Error;
use crate::event::{Direction, NEVER};
use crate::manager::{Config, Manager};
use crate::target::Spec;
use loom::thread;
use std::mem::MaybeUninit;
use std::sync::Arc;

fn manager(shards: u32) -> Arc<Manager> {
    Arc::from(Manager::new(Config { shards, max_events: 1, ..Config::default() }).unwrap())
}

fn wait(m: &Manager, handle: u64) -> Result<i32, Error> {
    m.slot_wait(handle, Direction::Read, NEVER, false)
}

fn slot(m: &Manager) -> u64 {
    m.register_user(0, Spec::Slot, 0).unwrap()
}

const USER: Result<i32, Error> = Ok(BELL_USER as i32);

/// Whoever leads delivers to the other, leaves with its own news, and a third waits for what the first to leave posts:
/// so the one who is nudged may be leaving itself.
/// Mutants killed: `wait` that does not hand over; `hand_over` only by who has led; `follow` that sleeps before it is
/// listed.
#[test]
fn leadership_is_not_lost_when_the_nudged_leaves() {
    explore(3, || {
        let m = manager(1);
        let (a, b, c) = (slot(&m), slot(&m), slot(&m));
        let first = {
            let m = m.clone();
            thread::spawn(move || {
                assert_eq!(wait(&m, a), USER);
                m.post(c, 1).unwrap();
            })
        };
        let second = {
            let m = m.clone();
            thread::spawn(move || assert_eq!(wait(&m, b), USER))
        };
        m.post(a, 1).unwrap();
        m.post(b, 1).unwrap();
        assert_eq!(wait(&m, c), USER);
        first.join().unwrap();
        second.join().unwrap();
    });
}

/// Mutants killed: a waiter that does not make way; `poll` that does not hand over; `poll` that does not wake the
/// waiter.
#[test]
fn a_waiter_makes_way_for_poll_and_drives_again() {
    explore(4, || {
        let m = manager(1);
        let polled = m.register_user(0, Spec::Poll, 7).unwrap();
        let waited = slot(&m);
        let waiter = {
            let m = m.clone();
            thread::spawn(move || assert_eq!(wait(&m, waited), USER))
        };
        m.post(polled, 1).unwrap();
        let mut out = [MaybeUninit::<bell_event>::uninit()];
        while m.poll(0, &mut out, NEVER).unwrap() == 0 {}
        // SAFETY: one event was written.
        assert_eq!(unsafe { out[0].assume_init_ref() }.user_data, 7);
        m.post(waited, 1).unwrap();
        waiter.join().unwrap();
    });
}

/// The waiter sleeps on its word or, because it leads, in the kernel; the other one goes on waiting.
/// Mutants killed: `unregister` that does not rouse the waiter that leads, or does not tell the slot.
#[test]
fn unregistering_ends_the_wait() {
    explore(3, || {
        let m = manager(1);
        let (a, b) = (slot(&m), slot(&m));
        let cancelled = {
            let m = m.clone();
            thread::spawn(move || assert!(matches!(wait(&m, a), Err(Error::CANCELLED | Error::STALE))))
        };
        let other = {
            let m = m.clone();
            thread::spawn(move || assert_eq!(wait(&m, b), USER))
        };
        assert_eq!(m.unregister(a, false), Ok(BELL_CANCELLED as i32));
        cancelled.join().unwrap();
        m.post(b, 1).unwrap();
        other.join().unwrap();
    });
}

/// The same when the registration gets another slot, once by each of the two ways.
/// Mutants killed: `State::unbind` that does not rouse the waiter that leads, or does not tell the old slot.
#[test]
fn another_slot_ends_the_wait() {
    for rearm in [false, true] {
        explore(3, move || {
            let m = manager(1);
            let (a, b) = (slot(&m), slot(&m));
            let moved = {
                let m = m.clone();
                thread::spawn(move || wait(&m, a))
            };
            let other = {
                let m = m.clone();
                thread::spawn(move || assert_eq!(wait(&m, b), USER))
            };
            let both_wait = m.stats(0).unwrap().waiters == 2;
            if rearm {
                m.rearm(a, Some(Spec::Slot), NEVER).unwrap();
            } else {
                m.retarget(a, Spec::Slot).unwrap();
            }
            if both_wait {
                assert_eq!(moved.join().unwrap(), Err(Error::CANCELLED));
            } else {
                m.post(a, 1).unwrap(); // it may not have begun, and waits for the new slot
                assert!(matches!(moved.join().unwrap(), Err(Error::CANCELLED) | USER));
            }
            m.post(b, 1).unwrap();
            other.join().unwrap();
        });
    }
}

/// The old slot gets another owner while somebody is about to look at it.
/// Mutants killed: `look_at_slot` that does not ask whose word it is.
#[test]
fn nobody_takes_the_news_of_another() {
    explore(4, || {
        let m = manager(1);
        let a = slot(&m);
        let waiter = {
            let m = m.clone();
            thread::spawn(move || assert!(matches!(wait(&m, a), Err(Error::CANCELLED) | USER)))
        };
        m.retarget(a, Spec::Slot).unwrap();
        let b = slot(&m);
        m.post(b, 1).unwrap();
        assert_eq!(wait(&m, b), USER);
        m.post(a, 1).unwrap();
        waiter.join().unwrap();
    });
}

/// Mutants killed: `close` that does not pop the followers, or does not wake the driver; `wait` that does not look at
/// `closing`.
#[test]
fn everybody_leaves_a_manager_that_is_destroyed() {
    explore(4, || {
        let m = manager(1);
        let waiters = [slot(&m), slot(&m)].map(|handle| {
            let m = m.clone();
            thread::spawn(move || assert_eq!(wait(&m, handle), Err(Error::CLOSED)))
        });
        m.begin_destroy(true).unwrap();
        waiters.into_iter().for_each(|w| w.join().unwrap());
    });
}

/// News comes from the driver of another shard, while the waiter leads its own or is about to.
/// Mutants killed: `wait` that does not look after `set_led`; `set_led` never set.
#[test]
fn a_waiter_that_leads_hears_of_news_from_another_shard() {
    explore(6, || {
        let m = manager(2);
        let queue = m.queue_create(0, None).unwrap();
        let target = m.queue(crate::event::Handle(queue)).unwrap();
        let user = m.register_user(1, Spec::Queue(target), 7).unwrap();
        let other = {
            let m = m.clone();
            thread::spawn(move || {
                m.post(user, 1).unwrap();
                m.poll(1, &mut [], 0).unwrap();
            })
        };
        let mut out = [MaybeUninit::<bell_event>::uninit()];
        assert_eq!(m.queue_wait(queue, &mut out, NEVER), Ok(1));
        other.join().unwrap();
    });
}

/// Two wait for a queue, each with room for one: one leads, the other sleeps. What finds no room with the one is in the
/// list, and the other is called for it, once, whoever leads by then. The same when the driver of another shard brings
/// it, which does not hold the lock of theirs.
/// Mutants killed: a push that calls nobody (proof/mutants/queue-unpublished); `follow` that joins the queue before its
/// word is prepared, or sleeps beside its news; a drain after which its caller still counts as on its way, or that
/// leaves something and does not wake who leads (proof/mutants/queue-leader-left-alone).
#[test]
fn two_wait_for_a_queue_and_both_hear() {
    for shard in [0, 1] {
        explore(3, move || {
            let m = manager(shard + 1);
            let queue = m.queue_create(0, None).unwrap();
            let users = [0, 1].map(|i| {
                let target = m.queue(crate::event::Handle(queue)).unwrap();
                m.register_user(shard, Spec::Queue(target), i).unwrap()
            });
            let take = move |m: &Manager| {
                let mut out = [MaybeUninit::<bell_event>::uninit()];
                assert_eq!(m.queue_wait(queue, &mut out, NEVER), Ok(1));
                // SAFETY: one event was written.
                unsafe { out[0].assume_init_ref() }.user_data
            };
            let other = {
                let m = m.clone();
                thread::spawn(move || take(&m))
            };
            let posts = {
                let m = m.clone();
                thread::spawn(move || {
                    for user in users {
                        m.post(user, 1).unwrap();
                        if shard == 1 {
                            m.poll(1, &mut [], 0).unwrap();
                        }
                    }
                })
            };
            let mut got = [take(&m), other.join().unwrap()];
            posts.join().unwrap();
            got.sort();
            assert_eq!(got, [0, 1]);
        });
    }
}
