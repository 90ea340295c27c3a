//! Before and after `fork(2)`.
use super::Manager;
use crate::error::{Error, Result};
use crate::fd_table::FdTable;
use crate::heap::{self, Counted};
use crate::registry::*;
use crate::shard::Shard;
use crate::state::{Out, State};
use crate::sync::{Mutex, MutexGuard};
use crate::target::Batch;
use crate::target::queue::{Inner, Queue};

/// All locks, held from `bell_before_fork` on. Dropped by the thread that took them (`bell_after_fork_*` say so).
pub(super) struct Frozen {
    _shards: Vec<MutexGuard<'static, State>>,
    _inners: Vec<MutexGuard<'static, Inner>>,
    _queues: MutexGuard<'static, Slab<Option<Counted<Queue>>>>,
}
// SAFETY: the guards are dropped on the thread that took them, or in a child of it: the caller's contract.
unsafe impl Send for Frozen {}

impl Manager {
    pub fn before_fork(&self) -> Result<i32> {
        if self.frozen.lock().is_some() {
            return Err(Error::BUSY);
        }
        // SAFETY: the guards are dropped before the manager: `bell_before_fork` must be followed by its other half.
        let m: &'static Manager = unsafe { &*std::ptr::from_ref(self) };
        let shards = heap::filled(m.all.shards.len(), |i| Ok(m.all.shards[i].lock_idle()))?;
        let queues = m.queues.lock();
        let mut inners = Vec::new();
        for queue in queues.indices().filter_map(|i| queues.at(i).value.as_ref()) {
            // SAFETY: as above; a queue in the table cannot go while the table is locked.
            let queue: &'static Queue = unsafe { &*std::ptr::from_ref::<Queue>(queue) };
            heap::push(&mut inners, queue.freeze())?;
        }
        *self.frozen.lock() = Some(Frozen { _shards: shards, _inners: inners, _queues: queues });
        Ok(0)
    }

    pub fn after_fork_parent(&self) -> Result<i32> {
        self.frozen.lock().take().map(|_| 0).ok_or(Error::INVAL)
    }

    /// In the child, which has one thread: nobody else is here. After an error the manager is still the parent's, and
    /// this may be called again: what can fail comes before anything is told to anybody.
    pub fn after_fork_child(&mut self, reset: bool) -> Result<i32> {
        debug_assert!(self.all.mark.is_forked()); // ffi has asked
        drop(self.frozen.get_mut().take());
        let torn = self.all.shards.iter().any(|s| s.try_lock().is_none_or(|st| !st.deliveries.is_idle()))
            || match self.queues.try_lock() {
                Some(queues) => queues.indices().any(|i| queues.at(i).value.as_ref().is_some_and(|q| q.is_torn())),
                None => true,
            };
        if torn && !reset {
            return Err(Error::BUSY);
        }
        self.close_queue_fds();
        if reset {
            let (shards, max_events) = (&mut self.all.shards, self.max_events);
            let states = heap::filled(shards.len(), |i| shards[i].new_state(max_events))?;
            for (shard, state) in self.all.shards.iter_mut().zip(states) {
                shard.replace_state(state);
            }
            // Leaked, as the states: a thread of the parent may have been in the middle of them.
            let queues = Slab::instead_of(self.queues.get_mut());
            std::mem::forget(std::mem::replace(&mut self.queues, Mutex::new(queues)));
            std::mem::forget(std::mem::replace(&mut self.all.fds, FdTable::new()));
        }
        for shard in &mut self.all.shards {
            shard.start_over(self.max_events)?;
        }
        std::mem::forget(std::mem::replace(&mut self.threads, Mutex::new(Vec::new())));
        self.all.shards.iter().try_for_each(Shard::after_fork_alarms)?;
        self.all.mark.adopt(); // the threads look at it
        if self.all.threaded {
            if let Err(e) = self.start_threads() {
                self.stop_threads();
                self.all.shards.iter().for_each(Shard::reopen);
                self.all.mark.disown();
                return Err(e);
            }
        }
        let mut batch = Batch::default();
        for shard in &self.all.shards {
            let mut st = shard.lock();
            let env = shard.env(&self.all.fds);
            shard.put_in_kernel(&mut st, env, &mut Out { batch: &mut batch, sink: None, from: None });
            shard.finish(&self.all, st, &mut batch);
        }
        Ok(0)
    }
}
