//! What io_uring alone has to answer for (see the oddities in backend/uring.rs): whose the ring is, when a file is let
//! go of, and what happens when its queues run over.
use super::backend_io_uring::*;
use crate::backend::*;
use crate::error::Error;
use crate::event::{Clock, NEVER, Ready};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

/// The peer has seen the end of the stream.
fn has_ended(peer: &UnixStream) -> bool {
    ready_now(peer.as_raw_fd(), R).unwrap().has(RDHUP)
}

fn until(what: impl Fn() -> bool) {
    let start = now(Clock::Monotonic).unwrap();
    while !what() {
        assert!(now(Clock::Monotonic).unwrap() < start + LONG, "it does not come true");
        thread::yield_now();
    }
}

/// Oddity c: what is promised of an fd that is closed while it is watched, and that there is no ghost.
#[test]
fn an_fd_closed_behind_our_back_ends_for_its_peer_when_it_is_removed() {
    let _no_fork = no_fork();
    let b = make().unwrap();
    let (mine, peer) = UnixStream::pair().unwrap();
    let fd = high(mine.into());
    b.add(fd, R, Trigger::Edge, false, cookie(1)).unwrap();
    assert_quiet(&b);
    close(fd);
    assert_quiet(&b);
    assert!(!has_ended(&peer), "the poll holds the file open");
    assert_eq!(b.modify(fd, R, Trigger::Edge, cookie(1)), Err(Error::BADF));
    // Another file under the number.
    let (other, _its_peer) = UnixStream::pair().unwrap();
    // SAFETY: no pointers.
    assert_eq!(fd, unsafe { libc::dup3(other.as_raw_fd(), fd, libc::O_CLOEXEC) });
    assert_eq!(b.modify(fd, R, Trigger::Edge, cookie(1)), Err(Error::NOENT));
    b.remove(fd).unwrap();
    b.settle(true);
    assert!(has_ended(&peer));
    assert_quiet(&b);
    close(fd);
}

#[test]
fn settle_lets_go_of_the_file_from_wherever_it_is_called() {
    let _no_fork = no_fork();
    for trigger in triggers() {
        let b = make().unwrap();
        let armed = || {
            let (mine, peer) = UnixStream::pair().unwrap();
            b.add(mine.as_raw_fd(), R, trigger, false, cookie(1)).unwrap();
            (mine, peer)
        };
        let close = |mine: UnixStream| {
            b.remove(mine.as_raw_fd()).unwrap();
            b.settle(true);
            drop(mine);
        };
        // By the owner.
        let (mine, peer) = armed();
        assert_quiet(&b);
        close(mine);
        assert!(has_ended(&peer));
        // By another thread, while the owner sleeps.
        let (mine, peer) = armed();
        while_asleep(
            || assert_eq!(wait(&b, LONG), vec![]),
            || {
                close(mine);
                assert!(has_ended(&peer));
                b.wake().unwrap();
            },
        );
        // While the owner is at other things: it does not wait, and the owner's next turn does it.
        let (mine, peer) = armed();
        assert_quiet(&b);
        thread::scope(|s| s.spawn(|| close(mine)).join().unwrap());
        assert!(!has_ended(&peer));
        assert_quiet(&b);
        assert!(has_ended(&peer));
        // By another thread, of an owner that comes back by itself: it waits.
        let (mine, peer) = armed();
        let done = AtomicBool::new(false);
        thread::scope(|s| {
            s.spawn(|| {
                b.move_in();
                while !done.load(Ordering::Acquire) {
                    assert_eq!(wait(&b, LONG), vec![]);
                }
                b.move_out();
            });
            close(mine);
            assert!(has_ended(&peer));
            done.store(true, Ordering::Release);
            b.wake().unwrap();
        });
        // That thread has ended: nobody is waited for.
        let (mine, _peer) = armed();
        close(mine);
        assert_quiet(&b);
    }
}

/// A number that was closed behind the library's back may be one of its own by now.
#[test]
fn a_number_that_is_the_library_s_own_is_refused() {
    let b = make().unwrap();
    b.set_alarm(Clock::Real, NEVER - 1).unwrap();
    let own = b.own_fds();
    let [ring, waker, alarm] = own[..] else { panic!("ring, waker, alarm: {own:?}") };
    for fd in [ring, waker, alarm] {
        assert_eq!(b.add(fd, R, Trigger::Edge, false, cookie(1)), Err(Error::BADF));
        assert_eq!(b.modify(fd, R, Trigger::Edge, cookie(1)), Err(Error::BADF));
    }
    assert_eq!(b.remove(waker), Err(Error::BADF));
    assert_eq!(b.remove(alarm), Err(Error::BADF));
    assert_eq!(b.registered().unwrap(), vec![]);
    b.wake().unwrap();
    assert_eq!(wait(&b, LONG), vec![], "the wake is heard as ever");
}

/// Oddity a, b: readiness of both kinds before, between and after, and nobody is told twice of a one-shot.
#[test]
fn the_set_moves_with_whoever_waits() {
    let b = make().unwrap();
    let (edge, once, told) = (eventfd(0), eventfd(0), eventfd(1));
    b.add(edge.as_raw_fd(), R, Trigger::Edge, false, cookie(1)).unwrap();
    b.add(once.as_raw_fd(), R, Trigger::Oneshot, false, cookie(2)).unwrap();
    b.add(told.as_raw_fd(), R, Trigger::Oneshot, false, cookie(3)).unwrap();
    assert_eq!(next(&b), (cookie(3), Ready::READ));
    let own = b.own_fds();
    for round in 0..3 {
        thread::scope(|s| {
            s.spawn(|| {
                if round > 0 {
                    // Told again: nobody has read it, and arming looks at the fd.
                    assert_eq!(next(&b), (cookie(1), Ready::READ));
                }
                assert_quiet(&b);
                put(&edge, &1u64.to_ne_bytes());
                assert_eq!(next(&b), (cookie(1), Ready::READ));
                b.wake().unwrap();
                assert_eq!(wait(&b, LONG), vec![]);
                b.set_alarm(Clock::Real, 1).unwrap();
                assert_eq!(wait(&b, LONG), vec![]);
            });
        });
    }
    assert_eq!(b.own_fds().len(), 3, "ring, waker, alarm");
    assert_eq!(b.own_fds()[..2], own, "oddity k: all four rings had one number");
    put(&once, &1u64.to_ne_bytes());
    let mut both = wait(&b, LONG);
    both.sort_by_key(|(c, _)| *c);
    assert_eq!(both, vec![(cookie(1), Ready::READ), (cookie(2), Ready::READ)]);
    assert_quiet(&b);
    b.remove(edge.as_raw_fd()).unwrap();
    assert_eq!(b.registered().unwrap().len(), 2);
}

/// A completion queue of four, and a hundred times as much to tell, of each kind, twice.
#[test]
fn nothing_is_lost_when_the_completion_queue_runs_over() {
    for trigger in triggers() {
        let b = Backend::with_small_io_uring(4);
        let fds: Vec<_> = (0..400).map(|_| eventfd(0)).collect();
        for (i, fd) in fds.iter().enumerate() {
            b.add(fd.as_raw_fd(), R, trigger, false, cookie(i)).unwrap();
        }
        assert_quiet(&b);
        for _ in 0..2 {
            fds.iter().for_each(|fd| put(fd, &1u64.to_ne_bytes()));
            let mut told: Vec<_> = std::iter::repeat_with(|| wait(&b, 0)).take_while(|w| !w.is_empty()).collect();
            assert!(told.iter().any(|w| w.len() > 4), "more than the queue holds, in one batch");
            let mut told: Vec<_> = told.drain(..).flatten().collect();
            told.sort_by_key(|(c, _)| *c);
            told.dedup();
            assert_eq!(told, (0..400).map(|i| (cookie(i), Ready::READ)).collect::<Vec<_>>());
            for (i, fd) in fds.iter().enumerate() {
                take(fd);
                if trigger == Trigger::Oneshot {
                    b.modify(fd.as_raw_fd(), R, trigger, cookie(i)).unwrap();
                }
            }
            while !wait(&b, 0).is_empty() {} // edges that were told twice
            assert_quiet(&b);
        }
    }
}

/// Oddity f: the peer has shut down, nothing can be written, and nobody asked for RDHUP.
#[test]
fn rdhup_that_nobody_asked_for_does_not_use_up_a_oneshot() {
    let _no_fork = no_fork();
    let b = make().unwrap();
    let (mut mine, mut peer) = UnixStream::pair().unwrap();
    mine.set_nonblocking(true).unwrap();
    peer.set_nonblocking(true).unwrap();
    while mine.write(&[0; 4096]).is_ok() {}
    peer.shutdown(std::net::Shutdown::Write).unwrap();
    for _ in 0..3 {
        b.add(mine.as_raw_fd(), W, Trigger::Oneshot, false, cookie(1)).unwrap();
        assert_quiet(&b);
        let start = now(Clock::Monotonic).unwrap();
        assert_eq!(wait(&b, 2_000_000), vec![]);
        assert!(now(Clock::Monotonic).unwrap() - start >= 2_000_000);
        while peer.read(&mut [0; 4096]).is_ok_and(|n| n > 0) {}
        assert_eq!(next(&b), (cookie(1), Ready::WRITE));
        assert_quiet(&b);
        while mine.write(&[0; 4096]).is_ok() {}
        assert_quiet(&b);
        b.remove(mine.as_raw_fd()).unwrap();
    }
}

/// libuv#4323: the cancel waits in a queue, and the file is closed by then.
#[test]
fn museum_013_a_ring_that_ends_lets_go_of_its_files() {
    let _no_fork = no_fork();
    let (mine, peer) = UnixStream::pair().unwrap();
    let b = make().unwrap();
    b.add(mine.as_raw_fd(), R, Trigger::Edge, false, cookie(1)).unwrap();
    assert_quiet(&b);
    drop(mine);
    assert!(!has_ended(&peer));
    drop(b);
    assert!(has_ended(&peer), "at once: it was its owner that has ended it");

    // Ended by another than its owner: by and by.
    let (mine, peer) = UnixStream::pair().unwrap();
    let b = make().unwrap();
    b.add(mine.as_raw_fd(), R, Trigger::Edge, false, cookie(1)).unwrap();
    assert_quiet(&b);
    drop(mine);
    thread::scope(|s| s.spawn(|| drop(b)).join().unwrap());
    until(|| has_ended(&peer));
}
