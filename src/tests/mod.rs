//! Mirrors src: one file for each module that has something to ask alone. The whole is asked through the C interface,
//! in c-tests. The files `loom_*` ask loom, which runs a model in every order of its threads' steps; `--cfg loom`
//! switches `sync` to it. The file `shuttle` asks shuttle, which draws orders for models too large for that.
#[cfg(not(any(loom, shuttle, doorbell_sim)))]
mod backend;
#[cfg(not(any(loom, shuttle)))]
mod buckets;
#[cfg(not(any(loom, shuttle)))]
mod deliveries;
#[cfg(not(any(loom, shuttle)))]
mod event;
#[cfg(not(any(loom, shuttle)))]
mod fd_table;
#[cfg(not(any(loom, shuttle, doorbell_sim)))]
mod followers;
#[cfg(not(any(loom, shuttle, doorbell_sim)))]
mod heap;
#[cfg(not(any(loom, shuttle, doorbell_sim)))]
mod inspect;
// The same questions to the second backend: the file asks by the name of its module which one it is about.
#[cfg(all(target_os = "linux", not(any(loom, shuttle, doorbell_sim, doorbell_backend = "poll"))))]
#[path = "backend.rs"]
#[allow(clippy::duplicate_mod)]
mod backend_io_uring;
#[cfg(all(target_os = "linux", not(any(loom, shuttle, doorbell_sim, doorbell_backend = "poll"))))]
mod io_uring;
mod kqueue_set;
#[cfg(not(any(loom, shuttle)))]
mod posts;
#[cfg(not(any(loom, shuttle, doorbell_sim)))]
mod queue;
#[cfg(not(any(loom, shuttle)))]
mod registry;
#[cfg(not(any(loom, shuttle)))]
mod target;
mod timers;

#[cfg(doorbell_sim)]
pub mod sim;

#[cfg(loom)]
mod loom_cancel;
#[cfg(loom)]
mod loom_fd_table;
#[cfg(loom)]
mod loom_handover;
#[cfg(loom)]
mod loom_posts;
#[cfg(loom)]
mod loom_queue;
#[cfg(loom)]
mod loom_slot;
#[cfg(loom)]
mod loom_waker;

#[cfg(shuttle)]
mod shuttle;

/// Runs the model in every order, with at most so many switches away from a thread that could go on. A thread that
/// waits in vain is a deadlock to loom, one that spins exceeds the branches; both fail. `LOOM_MAX_PREEMPTIONS` asks for
/// more.
#[cfg(loom)]
fn explore(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut loom = loom::model::Builder::new();
    loom.preemption_bound = loom.preemption_bound.or(Some(preemptions));
    loom.check(model);
}

/// Waits for a queue as `Shard::queue_wait` does where somebody else drives. How much of which node it got, and how
/// often it was called.
#[cfg(any(loom, shuttle))]
fn wait_for_queue(queue: &crate::target::queue::Queue, room: usize) -> (Vec<(u64, u64)>, u32) {
    use crate::target::queue::{Came, Next};
    use crate::target::slot;
    let mut came = Came::ByItself;
    let mut out = [const { std::mem::MaybeUninit::<crate::abi::bell_event>::uninit() }; 4];
    let word = crate::sync::OwnWord::new();
    loop {
        let (n, next) = queue.drain(&mut out[..room], std::mem::take(&mut came)).unwrap();
        if n > 0 {
            match next {
                Next::Nobody => {}
                Next::Sleeper(at) => crate::sync::wake(at),
                Next::Leader => unreachable!("nobody leads"),
            }
            // SAFETY: the drain has written so many.
            let got = out[..n].iter().map(|e| unsafe { e.assume_init_ref() }).map(|e| (e.user_data, e.data));
            return (got.collect(), word.load(std::sync::atomic::Ordering::Relaxed) / crate::abi::BELL_SEQ);
        }
        let expected = slot::prepare(&word).expect("no news");
        if let Some(place) = queue.join(&word).unwrap() {
            word.sleep(expected, crate::event::NEVER);
            came = Came::FromSleep(place);
        }
    }
}
