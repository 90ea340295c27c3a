//! polling: oneshot, armed again after each event, which is what its manual begins with.
use doorbell_bench_peers::*;
use polling::{Event, Events, Poller};
use std::num::NonZeroUsize;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::time::Instant;

fn events() -> Events {
    Events::with_capacity(NonZeroUsize::new(1024).unwrap())
}

fn w1() {
    let mut w = W1::new();
    let poller = Poller::new().unwrap();
    for (i, fd) in w.fds.iter().enumerate() {
        unsafe { poller.add(fd, Event::readable(i)).unwrap() };
    }
    w.kick();
    let mut events = events();
    loop {
        events.clear();
        poller.wait(&mut events, None).unwrap();
        for event in events.iter() {
            let fd = &w.fds[event.key];
            if w1_event(&mut w.meter, fd.as_raw_fd()) {
                return;
            }
            poller.modify(fd, Event::readable(event.key)).unwrap();
        }
    }
}

fn w2() {
    let socket = w2_socket();
    let poller = Poller::new().unwrap();
    unsafe { poller.add(&socket, Event::none(0)).unwrap() };
    let mut events = events();
    let mut meter = Meter::new();
    loop {
        w2_ping(socket.as_raw_fd());
        while !w2_read(socket.as_raw_fd()) {
            poller.modify(&socket, Event::readable(0)).unwrap();
            events.clear();
            poller.wait(&mut events, None).unwrap();
        }
        if meter.count() {
            return;
        }
    }
}

fn w3() {
    let fds = eventfds(opt("n"));
    let poller = Poller::new().unwrap();
    w3_blocks(|range| {
        for i in range.clone() {
            unsafe { poller.add(&fds[i], Event::readable(i)).unwrap() };
        }
        for i in range {
            poller.delete(&fds[i]).unwrap();
        }
    });
}

fn w5() {
    let poller = Arc::new(Poller::new().unwrap());
    let driver = poller.clone();
    std::thread::spawn(move || {
        let mut events = events();
        while driver.wait(&mut events, None).is_ok() {}
    });
    let fd = eventfd();
    w5_pairs(|| {
        unsafe { poller.add(&fd, Event::readable(0)).unwrap() };
        poller.delete(&fd).unwrap();
    });
}

fn w6_fds() {
    let fds = eventfds(opt("n"));
    let poller = Poller::new().unwrap();
    let before = heap_bytes();
    for (i, fd) in fds.iter().enumerate() {
        let fd = unsafe { BorrowedFd::borrow_raw(fd.as_raw_fd()) };
        unsafe { poller.add(&fd, Event::readable(i)).unwrap() };
    }
    println!("bytes {:.2}", (heap_bytes() - before) as f64 / fds.len() as f64);
}

fn w7() {
    let poller = Poller::new().unwrap();
    let mut events = events();
    w7_print(
        (0..opt("events"))
            .map(|_| {
                let due = Instant::now() + W7;
                while Instant::now() < due {
                    events.clear();
                    poller.wait_deadline(&mut events, due).unwrap();
                }
                late(due)
            })
            .collect(),
    );
}

fn main() {
    run_row(&[
        ("w1", "oneshot", w1),
        ("w2", "oneshot", w2),
        ("w3", "poller", w3),
        ("w5", "poller", w5),
        ("w6", "fds", w6_fds),
        ("w7", "deadline", w7),
    ]);
}
