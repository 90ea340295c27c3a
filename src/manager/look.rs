//! Looking inside: counters, verify, dump.
use super::Manager;
use crate::abi::{BELL_SHARD_ANY, bell_counters};
use crate::error::{Error, Result};
use crate::inspect::{self, Report};
use crate::libc;
use crate::state::zero_counters;

impl Manager {
    pub fn stats(&self, shard: u32) -> Result<bell_counters> {
        let shards = match shard {
            BELL_SHARD_ANY => &self.all.shards[..],
            n => std::slice::from_ref(self.numbered(n)?),
        };
        let mut sum = zero_counters();
        sum.size = size_of::<bell_counters>() as u32;
        sum.shards = shards.len() as u32;
        for shard in shards {
            let st = shard.lock();
            let c = &st.counters;
            let (sent, elided) = shard.wakes();
            sum.fds += st.reg.fds.live() as u64;
            sum.timeouts += st.reg.timeouts.live() as u64;
            sum.users += st.reg.users.live() as u64;
            sum.waiters += c.waiters;
            sum.kernel_waits += c.kernel_waits;
            sum.ctl_calls += c.ctl_calls;
            sum.ctl_errors += c.ctl_errors;
            sum.wakes_sent += c.wakes_sent + sent;
            sum.wakes_elided += c.wakes_elided + elided;
            sum.events += c.events;
            sum.coalesced += c.coalesced;
            sum.stale_dropped += c.stale_dropped;
            sum.spurious += c.spurious;
            sum.ghosts += c.ghosts;
            sum.rebuilds += c.rebuilds;
            sum.timers_armed += c.timers_armed;
            sum.timers_moved += c.timers_moved;
            sum.timers_fired += c.timers_fired;
            sum.timers_cancelled += c.timers_cancelled;
            sum.late_max_ns = sum.late_max_ns.max(c.late_max_ns);
            sum.late_sum_ns = sum.late_sum_ns.saturating_add(c.late_sum_ns);
            sum.handovers += c.handovers;
            sum.heap_bytes += (st.reg.heap_bytes()
                + st.timers.iter().map(|t| t.heap_bytes()).sum::<usize>()
                + st.followers.heap_bytes()
                + shard.posts.heap_bytes()
                + shard.backend.heap_bytes()) as u64;
        }
        let all = shards.len() == self.all.shards.len();
        self.for_each_queue(|queue| {
            if all || shards.iter().any(|s| s.index == queue.home) {
                sum.queues += 1;
                sum.heap_bytes += queue.heap_bytes() as u64;
            }
        });
        if all {
            sum.heap_bytes += (self.all.fds.heap_bytes() + self.queues.lock().heap_bytes()) as u64;
        }
        Ok(sum)
    }

    /// How much is wrong.
    pub fn verify(&self) -> Result<i32> {
        let mut report = Report::counting();
        self.verify_into(&mut report)?;
        Ok(report.wrong)
    }

    fn verify_into(&self, report: &mut Report) -> Result<()> {
        for shard in &self.all.shards {
            inspect::verify(shard, &mut shard.lock(), &self.all.fds, report)?;
        }
        Ok(())
    }

    pub fn dump(&self, fd: i32) -> Result<i32> {
        let mut report = Report::telling();
        report.line(format_args!(
            "doorbell {} shards={} threads={}",
            env!("CARGO_PKG_VERSION"),
            self.all.shards.len(),
            self.all.threaded
        ));
        for shard in &self.all.shards {
            inspect::describe(shard, &shard.lock(), &mut report);
        }
        self.for_each_queue(|queue| queue.describe(&mut report));
        self.verify_into(&mut report)?;
        let text = report.text()?;
        let mut rest = &text[..];
        while !rest.is_empty() {
            // SAFETY: bytes of ours.
            let n = unsafe { libc::write(fd, rest.as_ptr().cast(), rest.len()) };
            match n {
                0.. => rest = &rest[n as usize..],
                _ if Error::last() == Error::INTR => {}
                _ => return Err(Error::last()),
            }
        }
        Ok(0)
    }
}
