//! Deliveries that are under way outside the shard's lock, so that `BELL_SYNC` can wait for those that began before it.
//!
//! Two counters, of which one is current. A delivery counts in the current one. Whoever waits turns the counters over
//! whenever the other one is zero; after two turns every delivery that was under way at the start has ended, however
//! many new ones began. All under the shard's lock; the waiting itself is the shard's business. Cancel against fire:
//!
//! | driver, under the lock | driver, outside | canceller, under the lock | canceller, outside |
//! |---|---|---|---|
//! | takes the target, `begin` | touches it, then locks for `end` | finds it armed: CANCELLED, it is the caller's | |
//! | | | finds it taken: FIRED; `ticket` | waits until `is_over(ticket)`, then the caller may free it |
//!
//! (Modelled in `tests/loom_cancel.rs`.)

#[derive(Default)]
pub struct Deliveries {
    active: [u32; 2],
    current: usize,
    turns: u64,
    waiting: u32,
}

/// A delivery under way.
#[must_use]
pub struct Token(usize);

impl Deliveries {
    pub fn begin(&mut self) -> Token {
        self.active[self.current] += 1;
        Token(self.current)
    }

    /// True: somebody waits and must look again.
    pub fn end(&mut self, token: Token) -> bool {
        self.active[token.0] -= 1;
        self.turn();
        self.waiting > 0
    }

    pub fn is_idle(&self) -> bool {
        self.active == [0, 0]
    }

    /// For [`Deliveries::is_over`]. `None`: nothing is under way.
    pub fn ticket(&mut self) -> Option<u64> {
        if self.is_idle() {
            return None;
        }
        self.waiting += 1;
        self.turn();
        Some(self.turns + 2)
    }

    /// Have all deliveries ended that were under way when the ticket was taken? Asked until it says yes, once.
    pub fn is_over(&mut self, ticket: u64) -> bool {
        self.turn();
        let over = self.turns >= ticket || self.is_idle();
        self.waiting -= over as u32;
        over
    }

    fn turn(&mut self) {
        if self.waiting > 0 && self.active[1 - self.current] == 0 {
            self.current = 1 - self.current;
            self.turns += 1;
        }
    }
}
