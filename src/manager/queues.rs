//! Slots and queues: waiting for news, and taking it.
use super::Manager;
use crate::abi::{BELL_CANCELLED, BELL_FIRED, bell_event};
use crate::error::{Error, Result};
use crate::event::{Direction, Handle, Kind};
use crate::heap::Counted;
use crate::target::queue::{Came, Queue};
use crate::target::ready_list::In;
use crate::target::slot::Slot;
use crate::target::{Spec, Target};
use std::mem::MaybeUninit;

impl Manager {
    pub fn slot_map(&self, handle: u64) -> Result<*const Slot> {
        let handle = Handle(handle);
        let slot = self.shard(handle)?.lock().reg.slot(handle)?;
        Ok(slot)
    }
    pub fn slot_consume(&self, handle: u64, direction: Direction) -> Result<i32> {
        let handle = Handle(handle);
        self.shard(handle)?.slot_consume(handle, direction)
    }
    pub fn slot_wait(&self, handle: u64, direction: Direction, deadline: i64, level_check: bool) -> Result<i32> {
        let handle = Handle(handle);
        self.shard(handle)?.slot_wait(&self.all, handle, direction, deadline, level_check)
    }

    pub fn queue(&self, handle: Handle) -> Result<Counted<Queue>> {
        match handle.kind() {
            Some(Kind::Queue) => {}
            Some(_) => return Err(Error::INVAL),
            None => return Err(Error::STALE),
        }
        let queues = self.queues.lock();
        let index = queues.find(handle).ok_or(Error::STALE)?;
        match &queues.at(index).value {
            Some(queue) if queue.handle == handle => Ok(queue.clone()),
            _ => Err(Error::STALE),
        }
    }

    /// Each queue, with no lock held.
    pub(super) fn for_each_queue(&self, mut f: impl FnMut(&Queue)) {
        let mut at = 0;
        loop {
            let queues = self.queues.lock();
            let Some(index) = queues.next(at) else { return };
            let queue = queues.at(index).value.clone();
            drop(queues);
            queue.iter().for_each(|q| f(q));
            at = index + 1;
        }
    }

    pub(super) fn doorbell(&self, spec: Option<Spec>) -> Result<Target> {
        match spec {
            None | Some(Spec::None) => Ok(Target::None),
            Some(Spec::Futex(word)) => Ok(Target::Futex(word)),
            Some(Spec::WakeFd(fd)) => Ok(Target::WakeFd(fd)),
            Some(Spec::Mvar(_)) if self.all.ghc.is_none() => Err(Error::UNSUPPORTED),
            Some(Spec::Mvar(sp)) => Ok(Target::Mvar(sp)),
            Some(_) => Err(Error::INVAL),
        }
    }

    pub fn queue_create(&self, shard: u32, doorbell: Option<Spec>) -> Result<u64> {
        let home = self.place(shard, &Spec::Poll)?;
        let doorbell = self.doorbell(doorbell)?;
        let mut queues = self.queues.lock();
        let (index, generation) = queues.insert()?;
        let handle = Handle::new(Kind::Queue, home as u8, index, generation);
        match Counted::new(Queue::new(handle, home, doorbell)) {
            Ok(queue) => queues.at_mut(index).value = Some(queue),
            Err(e) => {
                queues.remove(index);
                return Err(e);
            }
        }
        Ok(handle.0)
    }

    pub fn queue_drain(&self, handle: u64, out: &mut [MaybeUninit<bell_event>]) -> Result<i32> {
        let queue = self.queue(Handle(handle))?;
        let came = self.relook(&queue);
        let (n, next) = queue.drain(out, came)?;
        self.all.shards[queue.home].call(next);
        self.reap(&queue);
        Ok(n as i32)
    }

    pub fn queue_wait(&self, handle: u64, out: &mut [MaybeUninit<bell_event>], deadline: i64) -> Result<i32> {
        let queue = self.queue(Handle(handle))?;
        let came = self.relook(&queue);
        let n = self.all.shards[queue.home].queue_wait(&self.all, &queue, came, out, deadline)?;
        self.reap(&queue);
        Ok(n as i32)
    }

    /// LEVEL registrations that an earlier drain has told: are their fds still ready? What it returns is for the `drain`
    /// that must follow.
    fn relook(&self, queue: &Queue) -> Came {
        let mut came = Came::ByItself;
        while let Some(handle) = queue.take_relook(&mut came) {
            let _ = self.on(handle, |st, env, out| {
                st.relook(env, handle, true, out);
                Ok(())
            });
        }
        came
    }

    /// Registrations that release themselves, and have been told.
    fn reap(&self, queue: &Queue) {
        while let Some(handle) = queue.take(In::Release) {
            let _ = self.on(handle, |st, env, out| {
                st.release(env, handle, out);
                Ok(())
            });
            self.settle(handle.0);
        }
    }

    pub fn queue_fd(&self, handle: u64) -> Result<i32> {
        self.queue(Handle(handle))?.fd()
    }

    pub fn queue_destroy(&self, handle: u64, sync: bool) -> Result<i32> {
        let handle = Handle(handle);
        let queue = self.queue(handle)?;
        let gone = queue.destroy()?;
        if gone.led {
            let _ = self.all.shards[queue.home].wake(false);
        }
        self.queues.lock().remove(handle.index());
        if sync {
            self.sync_all();
        }
        Ok(if matches!(gone.doorbell, Target::None) { BELL_FIRED } else { BELL_CANCELLED as i32 })
    }
}
