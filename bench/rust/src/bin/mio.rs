//! mio: Poll, tokens, edges.
use doorbell_bench_peers::*;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use std::os::fd::AsRawFd;
use std::time::Instant;

fn w1() {
    let mut w = W1::new();
    let mut poll = Poll::new().unwrap();
    for (i, fd) in w.fds.iter().enumerate() {
        poll.registry().register(&mut SourceFd(&fd.as_raw_fd()), Token(i), Interest::READABLE).unwrap();
    }
    w.kick();
    let mut events = Events::with_capacity(1024);
    loop {
        poll.poll(&mut events, None).unwrap();
        for event in &events {
            if w1_event(&mut w.meter, w.fds[event.token().0].as_raw_fd()) {
                return;
            }
        }
    }
}

fn w2() {
    let socket = w2_socket();
    let fd = socket.as_raw_fd();
    let mut poll = Poll::new().unwrap();
    poll.registry().register(&mut SourceFd(&fd), Token(0), Interest::READABLE).unwrap();
    let mut events = Events::with_capacity(1024);
    let mut meter = Meter::new();
    loop {
        w2_ping(fd);
        while !w2_read(fd) {
            poll.poll(&mut events, None).unwrap();
        }
        if meter.count() {
            return;
        }
    }
}

fn w3() {
    let fds = eventfds(opt("n"));
    let poll = Poll::new().unwrap();
    w3_blocks(|range| {
        for i in range.clone() {
            let fd = fds[i].as_raw_fd();
            poll.registry().register(&mut SourceFd(&fd), Token(i), Interest::READABLE).unwrap();
        }
        for i in range {
            poll.registry().deregister(&mut SourceFd(&fds[i].as_raw_fd())).unwrap();
        }
    });
}

fn w5() {
    let mut poll = Poll::new().unwrap();
    let registry = poll.registry().try_clone().unwrap();
    std::thread::spawn(move || {
        let mut events = Events::with_capacity(1024);
        while poll.poll(&mut events, None).is_ok() {}
    });
    let watched = eventfd();
    let fd = watched.as_raw_fd();
    w5_pairs(|| {
        registry.register(&mut SourceFd(&fd), Token(0), Interest::READABLE).unwrap();
        registry.deregister(&mut SourceFd(&fd)).unwrap();
    });
}

fn w6_fds() {
    let fds = eventfds(opt("n"));
    let poll = Poll::new().unwrap();
    let before = heap_bytes();
    for (i, fd) in fds.iter().enumerate() {
        poll.registry().register(&mut SourceFd(&fd.as_raw_fd()), Token(i), Interest::READABLE).unwrap();
    }
    println!("bytes {:.2}", (heap_bytes() - before) as f64 / fds.len() as f64);
}

fn w7() {
    let mut poll = Poll::new().unwrap();
    let mut events = Events::with_capacity(1024);
    w7_print(
        (0..opt("events"))
            .map(|_| {
                let due = Instant::now() + W7;
                while Instant::now() < due {
                    poll.poll(&mut events, Some(due.saturating_duration_since(Instant::now()))).unwrap();
                }
                late(due)
            })
            .collect(),
    );
}

fn main() {
    run_row(&[
        ("w1", "poll", w1),
        ("w2", "poll", w2),
        ("w3", "poll", w3),
        ("w5", "registry", w5),
        ("w6", "fds", w6_fds),
        ("w7", "poll", w7),
    ]);
}
