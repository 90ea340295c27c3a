//! Doorbell: an event manager behind a C ABI that never calls back. What to watch, and where the news should land.
//!
//! A map, top down; arrows point one way:
//!
//! - [`ffi`]: the C interface, and its manual. `abi` owns every constant and layout.
//! - `manager`: what any thread may ask; chooses a shard. `fork`: is this still the process that made it.
//! - `shard`: one poller and the ways to drive it: a turn, `bell_poll`, waiting, handing over; and what shards share.
//! - `state`: what is decided under a shard's lock: what the kernel is asked for, what fires, what is cancelled.
//! - `registry` (slabs and lists), `timers` (the heap), `target` (where news lands), `backend` (the kernel),
//!   `fd_table`, `posts`, `waker`, `deliveries`, `followers` (the protocols between threads, each drawn at the top of
//!   its file).
//! - `event`, `error`, `fd`: the vocabulary. `sync`: locks, atomics, futex. `heap`: memory that may be refused. `inspect`:
//!   verify and dump.
//!
//! Read `shard.rs`, `target/mod.rs`, `backend/mod.rs` next.
#![warn(clippy::undocumented_unsafe_blocks)]
// The models have no kernel, so what only a real one needs is unused there.
#![cfg_attr(any(loom, shuttle), allow(dead_code))]

/// Constants and structs of the C interface, the vocabulary of everything above. ctest2 reads the file alone, so what
/// it needs from outside is brought in here.
#[allow(non_camel_case_types)]
pub mod abi {
    use std::ffi::c_void;
    include!("abi.rs");
}
// The system: the simulator (src/tests/sim) puts its own in this place.
#[cfg(not(doorbell_sim))]
use ::libc;
#[cfg(doorbell_sim)]
use tests::sim::libc;

mod backend;
mod buckets;
mod deliveries;
mod error;
mod event;
mod fd;
mod fd_table;
pub mod ffi;
mod followers;
mod fork;
mod heap;
mod inspect;
mod manager;
mod posts;
mod registry;
mod shard;
mod state;
mod sync;
mod target;
mod timers;
mod waker;

#[cfg(test)]
mod tests;
#[cfg(all(doorbell_sim, not(test)))]
compile_error!("the simulator is there for the tests only");

/// Where build.rs has put the header that it generated. For the test that compares it with the committed one.
#[doc(hidden)]
#[cfg(feature = "regen-header")]
pub fn generated_header() -> &'static str {
    env!("DOORBELL_GENERATED_HEADER")
}
