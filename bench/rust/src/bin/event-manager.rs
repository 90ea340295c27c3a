//! rust-vmm's event-manager: a subscriber for each device, here with one eventfd each.
use doorbell_bench_peers::*;
use event_manager::{EventManager, EventOps, EventSet, Events, MutEventSubscriber, SubscriberOps};
use std::cell::RefCell;
use std::os::fd::{AsRawFd, RawFd};
use std::rc::Rc;

struct Device {
    fd: RawFd,
    meter: Rc<RefCell<Meter>>,
}

impl MutEventSubscriber for Device {
    fn process(&mut self, _events: Events, _ops: &mut EventOps) {
        if w1_event(&mut self.meter.borrow_mut(), self.fd) {
            std::process::exit(0);
        }
    }
    fn init(&mut self, ops: &mut EventOps) {
        ops.add(Events::new_raw(self.fd, EventSet::IN)).unwrap();
    }
}

fn w1() {
    let w = W1::new();
    let mut manager = EventManager::<Device>::new_with_capacity(1024).unwrap();
    w.kick();
    let meter = Rc::new(RefCell::new(w.meter));
    for fd in &w.fds {
        manager.add_subscriber(Device { fd: fd.as_raw_fd(), meter: meter.clone() });
    }
    loop {
        manager.run().unwrap();
    }
}

struct Pong {
    fd: RawFd,
    meter: Meter,
}

impl MutEventSubscriber for Pong {
    fn process(&mut self, _events: Events, _ops: &mut EventOps) {
        if w2_read(self.fd) {
            if self.meter.count() {
                std::process::exit(0);
            }
            w2_ping(self.fd);
        }
    }
    fn init(&mut self, ops: &mut EventOps) {
        ops.add(Events::new_raw(self.fd, EventSet::IN)).unwrap();
    }
}

fn w2() {
    let socket = w2_socket();
    let mut manager = EventManager::<Pong>::new().unwrap();
    manager.add_subscriber(Pong { fd: socket.as_raw_fd(), meter: Meter::new() });
    w2_ping(socket.as_raw_fd());
    loop {
        manager.run().unwrap();
    }
}

struct Idle(RawFd);

impl MutEventSubscriber for Idle {
    fn process(&mut self, _events: Events, _ops: &mut EventOps) {}
    fn init(&mut self, ops: &mut EventOps) {
        ops.add(Events::new_raw(self.0, EventSet::IN)).unwrap();
    }
}

fn w3() {
    let fds = eventfds(opt("n"));
    let mut manager = EventManager::<Idle>::new().unwrap();
    let mut ids = Vec::new();
    w3_blocks(|range| {
        ids.extend(range.map(|i| manager.add_subscriber(Idle(fds[i].as_raw_fd()))));
        ids.drain(..).for_each(|id| drop(manager.remove_subscriber(id).unwrap()));
    });
}

/// The manager's thread is asked, and answers.
fn w5() {
    let fd = eventfd();
    let fd = fd.as_raw_fd();
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut manager = EventManager::<Idle>::new().unwrap();
        send.send(manager.remote_endpoint()).unwrap();
        while manager.run().is_ok() {}
    });
    let endpoint = receive.recv().unwrap();
    w5_pairs(|| {
        let id = endpoint.call_blocking::<_, _, event_manager::Error>(move |m| Ok(m.add_subscriber(Idle(fd)))).unwrap();
        endpoint.call_blocking::<_, _, event_manager::Error>(move |m| m.remove_subscriber(id).map(drop)).unwrap();
    });
}

fn w6_fds() {
    let fds = eventfds(opt("n"));
    let mut manager = EventManager::<Idle>::new().unwrap();
    let before = heap_bytes();
    for fd in &fds {
        manager.add_subscriber(Idle(fd.as_raw_fd()));
    }
    println!("bytes {:.2}", (heap_bytes() - before) as f64 / fds.len() as f64);
}

fn main() {
    run_row(&[
        ("w1", "subscribers", w1),
        ("w2", "subscriber", w2),
        ("w3", "subscribers", w3),
        ("w5", "call_blocking", w5),
        ("w6", "fds", w6_fds),
    ]);
}
