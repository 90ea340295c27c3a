//! tokio: a task for each fd, `AsyncFd`; `Sleep`.
use doorbell_bench_peers::*;
use std::cell::RefCell;
use std::future::Future;
use std::os::fd::{AsRawFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Waker};
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::io::Interest;
use tokio::runtime::{Builder, Runtime};
use tokio::time::{Instant, Sleep};

fn one_thread() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

fn watched<T: AsRawFd>(fd: T) -> AsyncFd<T> {
    // SAFETY: it is open as long as the `AsyncFd` lives; nobody else closes it.
    unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }.map_err(|_| "register").unwrap()
}

thread_local! {
    static METER: RefCell<Option<Meter>> = const { RefCell::new(None) };
}
fn count(fd: i32) {
    if METER.with_borrow_mut(|m| w1_event(m.as_mut().unwrap(), fd)) {
        std::process::exit(0);
    }
}

/// The whole eventfd is read at once, so readiness is used up without looking for EAGAIN.
async fn serve(fd: AsyncFd<i32>) {
    loop {
        fd.readable().await.unwrap().clear_ready();
        count(*fd.get_ref());
    }
}
async fn serve_with_timeout(fd: AsyncFd<i32>) {
    let sleep = tokio::time::sleep(Duration::from_secs(60));
    tokio::pin!(sleep);
    loop {
        tokio::select! {
            ready = fd.readable() => ready.unwrap().clear_ready(),
            _ = &mut sleep => panic!("an idle timeout fired"),
        }
        sleep.as_mut().reset(Instant::now() + Duration::from_secs(60));
        count(*fd.get_ref());
    }
}

fn w1_with(idle: bool) {
    let w = W1::new();
    w.kick();
    METER.set(Some(w.meter));
    one_thread().block_on(async {
        for fd in &w.fds {
            let fd = watched(fd.as_raw_fd());
            if idle {
                tokio::spawn(serve_with_timeout(fd));
            } else {
                tokio::spawn(serve(fd));
            }
        }
        std::future::pending::<()>().await;
    });
}
fn w1() {
    w1_with(false)
}
fn w1t() {
    w1_with(true)
}

async fn pong(fd: &AsyncFd<std::os::unix::net::UnixStream>) {
    while !w2_read(fd.as_raw_fd()) {
        fd.readable().await.unwrap().clear_ready();
    }
}

fn w2() {
    let mut meter = Meter::new();
    one_thread().block_on(async {
        let fd = watched(w2_socket());
        loop {
            w2_ping(fd.as_raw_fd());
            pong(&fd).await;
            if meter.count() {
                return;
            }
        }
    });
}

/// A task on a worker reads, a thread outside waits for what it sends.
fn w2_threads() {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (send, mut receive) = tokio::sync::mpsc::channel(1);
    let _guard = runtime.enter();
    let fd = watched(w2_socket());
    let number = fd.as_raw_fd();
    runtime.spawn(async move {
        loop {
            pong(&fd).await;
            send.send(()).await.unwrap();
        }
    });
    let mut meter = Meter::new();
    loop {
        w2_ping(number);
        receive.blocking_recv().unwrap();
        if meter.count() {
            return;
        }
    }
}

fn w3() {
    let fds = eventfds(opt("n"));
    let runtime = one_thread();
    let _guard = runtime.enter();
    w3_blocks(|range| {
        let all: Vec<_> = range.map(|i| watched(fds[i].as_raw_fd())).collect();
        drop(all);
    });
}

/// Each `Sleep` is polled once, as a task that awaits it would, so that it is armed.
fn armed(at: Instant) -> Pin<Box<Sleep>> {
    let mut sleep = Box::pin(tokio::time::sleep_until(at));
    assert!(sleep.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    sleep
}
fn rearm(sleep: &mut Pin<Box<Sleep>>, at: Instant) {
    sleep.as_mut().reset(at);
    assert!(sleep.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
}

fn w4() {
    let n = opt("n");
    one_thread().block_on(async {
        let mut random = 1;
        let base = Instant::now();
        let far = 200 + n as u64 / 400;
        let mut at = || base + Duration::from_millis(far + random_next(&mut random) % 1000);
        let begun = cpu_ns();
        let mut timers: Vec<_> = (0..n).map(|_| Some(armed(at()))).collect();
        (0..n).step_by(2).for_each(|i| timers[i] = None);
        (1..n).step_by(4).for_each(|i| rearm(timers[i].as_mut().unwrap(), at()));
        let mut cpu = cpu_ns() - begun;
        let end = base + Duration::from_millis(far + 1010);
        std::thread::sleep(end.saturating_duration_since(Instant::now()));
        let begun = cpu_ns();
        // A turn of the runtime fires all that are due; awaiting each finds it fired.
        tokio::time::sleep(Duration::from_millis(1)).await;
        for timer in timers.into_iter().flatten() {
            timer.await;
        }
        cpu += cpu_ns() - begun;
        println!("ns {:.3}", cpu as f64 / (n + n / 2 + n / 4 + (n - n / 2)) as f64);
    });
}

fn w4m() {
    let (n, events) = (opt("n"), opt("events"));
    let idle = Duration::from_secs(60);
    one_thread().block_on(async {
        let mut now = Instant::now();
        let mut timers: Vec<_> = (0..n).map(|_| armed(now + idle)).collect();
        let mut move_some = |count: usize| {
            for i in 0..count {
                if i % 64 == 0 {
                    now = Instant::now(); // as often as a turn of the others' loops would
                }
                timers[i % n].as_mut().reset(now + idle);
            }
        };
        move_some(events / 8);
        let watch = Watch::start();
        move_some(events);
        watch.stop(events);
    });
}

fn w5() {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let _guard = runtime.enter();
    let fd = eventfd();
    w5_pairs(|| drop(watched(fd.as_raw_fd())));
}

/// With the task that waits for it, which is how an fd is waited for.
fn w6_fds() {
    let fds = eventfds(opt("n"));
    one_thread().block_on(async {
        let before = heap_bytes();
        for fd in &fds {
            let fd = watched(fd.as_raw_fd());
            tokio::spawn(async move {
                fd.readable().await.unwrap().clear_ready();
            });
        }
        tokio::task::yield_now().await;
        println!("bytes {:.2}", (heap_bytes() - before) as f64 / fds.len() as f64);
    });
}
fn w6_timeouts() {
    let n = opt("n");
    one_thread().block_on(async {
        let before = heap_bytes();
        let now = Instant::now();
        let timers: Vec<_> = (0..n).map(|i| armed(now + Duration::from_millis(60000 + i as u64))).collect();
        println!("bytes {:.2}", (heap_bytes() - before) as f64 / n as f64);
        drop(timers);
    });
}

fn w7() {
    one_thread().block_on(async {
        let mut all = Vec::new();
        for _ in 0..opt("events") {
            let due = Instant::now() + W7;
            tokio::time::sleep_until(due).await;
            all.push(late(due.into_std()));
        }
        w7_print(all);
    });
}

/// Tasks on as many workers as threads.
fn w8() {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    static DONE: AtomicUsize = AtomicUsize::new(0);
    let runtime = Builder::new_multi_thread().worker_threads(opt("threads")).enable_all().build().unwrap();
    let (n, a) = (opt("n"), opt("a"));
    let _guard = runtime.enter();
    let fds: Vec<OwnedFd> = eventfds(n);
    (0..a).for_each(|i| write8(fds[i * (n / a)].as_raw_fd()));
    for fd in fds {
        let fd = watched(fd);
        runtime.spawn(async move {
            loop {
                fd.readable().await.unwrap().clear_ready();
                read8(fd.as_raw_fd());
                write8(fd.as_raw_fd());
                DONE.fetch_add(1, Relaxed);
            }
        });
    }
    std::thread::sleep(Duration::from_millis(50));
    let (before, watch) = (DONE.load(Relaxed), Watch::start());
    std::thread::sleep(Duration::from_millis(opt("ms") as u64));
    watch.stop(DONE.load(Relaxed) - before);
}

fn main() {
    run_row(&[
        ("w1", "tasks", w1),
        ("w1t", "tasks", w1t),
        ("w2", "block_on", w2),
        ("w2", "threads", w2_threads),
        ("w3", "async_fd", w3),
        ("w4", "sleep", w4),
        ("w4m", "sleep", w4m),
        ("w5", "async_fd", w5),
        ("w6", "fds", w6_fds),
        ("w6", "timeouts", w6_timeouts),
        ("w7", "sleep", w7),
        ("w8", "workers", w8),
    ]);
}
