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
