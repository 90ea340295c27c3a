//! The backend of the models: a kernel without fds, of which only `wait` and `wake` are left, as an eventfd would do
//! them. What happens in a model is posted or due.
use super::Registered;
use super::Trigger;
use crate::error::{Error, Result};
use crate::event::{Clock, Interest, Ready};
use crate::sync::checker::sync::{Condvar, Mutex};

pub struct Backend {
    rung: Mutex<bool>,
    waiting: Condvar,
}

pub struct Events;

impl Backend {
    pub const EDGE: bool = true;
    pub const EXCLUSIVE: bool = false;
    pub const POLLABLE: bool = false;
    pub const NANOSECONDS: bool = true;
    pub const FEATURE: u64 = 0;

    pub fn new() -> Result<Backend> {
        Ok(Backend { rung: Mutex::new(false), waiting: Condvar::new() })
    }

    pub fn wait(&self, _: &mut Events, timeout_ns: i64) -> Result<()> {
        let mut rung = self.rung.lock().unwrap();
        // Time stands still: a model with a deadline has one that has passed, or none.
        while timeout_ns != 0 && !*rung {
            rung = self.waiting.wait(rung).unwrap();
        }
        *rung = false;
        Ok(())
    }

    pub fn wake(&self) -> Result<()> {
        *self.rung.lock().unwrap() = true;
        self.waiting.notify_all();
        Ok(())
    }

    pub fn end_wait(&self) {
        let _ = self.wake();
    }

    pub fn add(&self, _: i32, _: Interest, _: Trigger, _: bool, _: u64) -> Result<()> {
        Ok(())
    }
    pub fn modify(&self, _: i32, _: Interest, _: Trigger, _: u64) -> Result<()> {
        Ok(())
    }
    pub fn remove(&self, _: i32) -> Result<()> {
        Ok(())
    }
    pub fn set_alarm(&self, _: Clock, _: i64) -> Result<()> {
        Ok(())
    }
    pub fn pollable_fd(&self) -> Result<i32> {
        Err(Error::UNSUPPORTED)
    }
    pub fn rebuild(&self) -> Result<()> {
        Ok(())
    }
    pub fn registered(&self) -> Result<Vec<Registered>> {
        Ok(Vec::new())
    }
    pub fn has(&self, _: i32) -> bool {
        false
    }
    pub fn heap_bytes(&self) -> usize {
        0
    }
}

impl Events {
    pub fn new(_: usize) -> Result<Events> {
        Ok(Events)
    }
    pub fn len(&self) -> usize {
        0
    }
    pub fn is_full(&self) -> bool {
        false
    }
    pub fn get(&self, _: usize) -> (u64, Ready) {
        unreachable!()
    }
    pub fn iter_from(&self, _: usize) -> impl Iterator<Item = (u64, Ready)> {
        std::iter::empty()
    }
}
