//! Mirrors src: one file for each module that has something to ask alone. The whole is asked through the C interface, in c-tests.
#[cfg(not(loom))]
mod backend;
mod timers;
