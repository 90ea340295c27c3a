//! The heap of deadlines against a sorted map that knows nothing of laziness, and by name what has bitten others.
use crate::event::NEVER;
use crate::timers::*;
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use std::collections::BTreeMap;

const FAR: i64 = NEVER - 1;
const MS: i64 = 1_000_000;

#[derive(Clone)]
struct Entry {
    pos: u32,
    due: i64,
    slack: i64,
    shared: bool,
}

struct Entries(Vec<Entry>);

impl Nodes for Entries {
    fn pos(&mut self, id: u32) -> &mut u32 {
        &mut self.0[id as usize].pos
    }
    fn due_and_slack(&self, id: u32) -> (i64, i64) {
        (self.0[id as usize].due, self.0[id as usize].slack)
    }
    fn is_shared(&self, id: u32) -> bool {
        self.0[id as usize].shared
    }
}

/// Heap and entries together, as a shard has them.
struct Bench {
    timers: Timers,
    entries: Entries,
}

impl Bench {
    fn new(entries: usize) -> Bench {
        Bench::numbered_from(0, entries)
    }
    fn numbered_from(seq: u64, entries: usize) -> Bench {
        let entry = Entry { pos: UNARMED, due: 0, slack: 0, shared: false };
        Bench { timers: Timers::numbered_from(seq), entries: Entries(vec![entry; entries]) }
    }
    fn arm(&mut self, id: u32, due: i64) {
        self.arm_with_slack(id, due, 0);
    }
    fn arm_with_slack(&mut self, id: u32, due: i64, slack: i64) {
        let entry = &mut self.entries.0[id as usize];
        (entry.due, entry.slack) = (due, slack);
        self.timers.insert(&mut self.entries, id, hard((due, slack))).unwrap();
    }
    fn move_to(&mut self, id: u32, due: i64) {
        self.entries.0[id as usize].due = due;
        self.timers.moved(&mut self.entries, id);
    }
    fn cancel(&mut self, id: u32) {
        self.timers.remove(&mut self.entries, id);
    }
    fn pop(&mut self, now: i64) -> Option<u32> {
        self.timers.pop_due(&mut self.entries, now)
    }
    fn fired(&mut self, now: i64) -> Vec<u32> {
        std::iter::from_fn(|| self.pop(now)).collect()
    }
    fn next_wake(&mut self) -> i64 {
        self.timers.next_wake(&mut self.entries)
    }
    fn verify(&mut self) {
        self.timers.verify(&mut self.entries).unwrap();
    }
    fn armed(&self, id: u32) -> bool {
        self.entries.0[id as usize].pos != UNARMED
    }
}

// Deadlines that are shared: whoever owns them stores what he likes.

#[test]
fn a_shared_deadline_that_became_later_is_found_out_when_its_key_comes() {
    let mut b = Bench::new(2);
    b.entries.0[0].shared = true;
    b.arm(0, 10);
    b.arm(1, 20);
    b.entries.0[0].due = 30;
    assert_eq!(b.fired(29), [1]);
    assert_eq!(b.next_wake(), 30);
    assert_eq!(b.fired(30), [0]);
}

#[test]
fn a_shared_deadline_that_became_earlier_is_no_error_and_fires_by_its_key_at_the_latest() {
    let mut b = Bench::new(1);
    b.entries.0[0].shared = true;
    b.arm(0, 10);
    b.entries.0[0].due = 3;
    b.verify();
    assert_eq!(b.next_wake(), 10, "nobody has told");
    assert_eq!(b.fired(2), []);
    assert_eq!(b.fired(10), [0]);
}

/// Each look finds a later one, as if another thread did nothing but store.
struct Runaway {
    pos: u32,
    looks: std::cell::Cell<i64>,
}

impl Nodes for Runaway {
    fn pos(&mut self, _: u32) -> &mut u32 {
        &mut self.pos
    }
    fn due_and_slack(&self, _: u32) -> (i64, i64) {
        self.looks.set(self.looks.get() + 1);
        assert!(self.looks.get() < 100, "it goes on for ever");
        (self.looks.get(), 0)
    }
    fn is_shared(&self, _: u32) -> bool {
        true
    }
}

#[test]
fn next_wake_ends_though_a_shared_deadline_moves_at_each_look() {
    let mut n = Runaway { pos: UNARMED, looks: Default::default() };
    let mut timers = Timers::new();
    timers.insert(&mut n, 0, 0).unwrap();
    let before = n.looks.get();
    let wake = timers.next_wake(&mut n);
    assert!(
        n.looks.get() - before <= 2 && before < wake && wake <= n.looks.get(),
        "{wake} after {} looks",
        n.looks.get()
    );
    assert_eq!(timers.pop_due(&mut n, wake), None, "it is later by now");
}

// The model.

/// Three levels of an 8-ary heap begin at 74.
const IDS: u32 = 100;

#[derive(Clone, Debug)]
enum Op {
    /// If it is armed, it is cancelled first.
    Arm {
        id: u32,
        after: i64,
        slack: i64,
    },
    Later {
        id: u32,
        by: i64,
    },
    Earlier {
        id: u32,
        by: i64,
    },
    /// To a deadline counted from now, often in the past.
    Move {
        id: u32,
        after: i64,
    },
    Cancel {
        id: u32,
    },
    CancelFirst,
    Advance {
        by: i64,
    },
    /// To one ns before the next hard time, where nothing without slack may fire.
    AlmostNext,
    Pop,
    WakeAndPop,
    Drain,
}

/// Small ones, so that they collide, and those at which others overflowed.
fn span() -> impl Strategy<Value = i64> {
    let edges =
        [0, 1, (1 << 31) - 1, 1 << 31, 1 << 32, ((1 << 31) - 1) * MS, (1 << 31) * MS, (1 << 32) * MS, 1 << 62, FAR];
    prop_oneof![
        12 => 0..20i64,
        4 => 0..2000i64,
        2 => prop::sample::select(edges.to_vec()),
        1 => 0..=FAR,
    ]
}

fn slack() -> impl Strategy<Value = i64> + Clone {
    prop_oneof![3 => Just(0), 2 => 0..30i64, 1 => span()]
}

/// First a heap of up to three levels, then what happens to it.
fn ops(slack: impl Strategy<Value = i64> + Clone + 'static, max: usize) -> impl Strategy<Value = Vec<Op>> {
    let id = || 0..IDS;
    let arm = move || (id(), span(), slack.clone()).prop_map(|(id, after, slack)| Op::Arm { id, after, slack });
    let op = prop_oneof![
        10 => arm(),
        4 => (id(), span()).prop_map(|(id, by)| Op::Later { id, by }),
        3 => (id(), span()).prop_map(|(id, by)| Op::Earlier { id, by }),
        2 => (id(), -20..20i64).prop_map(|(id, after)| Op::Move { id, after }),
        2 => id().prop_map(|id| Op::Cancel { id }),
        1 => Just(Op::CancelFirst),
        3 => (0..8i64).prop_map(|by| Op::Advance { by }),
        1 => Just(Op::AlmostNext),
        3 => Just(Op::Pop),
        2 => Just(Op::WakeAndPop),
        1 => Just(Op::Drain),
    ];
    let sequence = (prop::collection::vec(arm(), 0..200), prop::collection::vec(op, 1..max));
    sequence.prop_map(|(first, then)| [first, then].concat())
}

/// What is armed, by hard time and then by order of arming: sorted afresh on every change.
struct Model {
    bench: Bench,
    now: i64,
    order: BTreeMap<(i64, u64), u32>,
    key: Vec<Option<(i64, u64)>>,
    armings: u64,
}

impl Model {
    fn new(now: i64, seq: u64) -> Model {
        Model {
            bench: Bench::numbered_from(seq, IDS as usize),
            now,
            order: BTreeMap::new(),
            key: vec![None; IDS as usize],
            armings: 0,
        }
    }
    fn due(&self, id: u32) -> i64 {
        self.bench.entries.0[id as usize].due
    }
    fn hard(&self, id: u32) -> i64 {
        self.due(id).saturating_add(self.bench.entries.0[id as usize].slack).min(FAR)
    }
    fn set(&mut self, id: u32, key: Option<(i64, u64)>) {
        if let Some(old) = self.key[id as usize] {
            self.order.remove(&old);
        }
        if let Some(new) = key {
            self.order.insert(new, id);
        }
        self.key[id as usize] = key;
    }
    fn first(&self) -> Option<(i64, u32)> {
        self.order.iter().next().map(|(key, id)| (key.0, *id))
    }
    fn cancel(&mut self, id: u32) {
        self.bench.cancel(id);
        self.set(id, None);
    }
    fn arm(&mut self, id: u32, due: i64, slack: i64) {
        self.cancel(id);
        self.bench.arm_with_slack(id, due, slack);
        let arming = self.armings;
        self.armings += 1;
        self.set(id, Some((self.hard(id), arming)));
    }
    fn move_to(&mut self, id: u32, due: i64) {
        let Some((_, arming)) = self.key[id as usize] else { return };
        self.bench.move_to(id, due);
        self.set(id, Some((self.hard(id), arming)));
    }
    fn pop(&mut self) -> Option<u32> {
        let got = self.bench.pop(self.now);
        let first = self.first();
        match got {
            Some(id) => {
                let due = self.due(id);
                assert!(due <= self.now, "id {id} fired at {}, early for {due}", self.now);
                assert_eq!(first.map(|f| f.1), Some(id), "out of order, or fired twice");
                self.set(id, None);
            }
            // With slack it may still be early enough to leave it; without, hard is due, so this says it all.
            None => assert!(first.is_none_or(|f| f.0 > self.now), "at {} nothing fired, but {first:?} must", self.now),
        }
        got
    }
    fn next_wake(&mut self) -> i64 {
        let wake = self.bench.next_wake();
        assert_eq!(wake, self.first().map_or(NEVER, |f| f.0), "next_wake");
        assert_eq!(wake, self.bench.timers.peek(), "next_wake leaves a fresh top");
        wake
    }
    fn step(&mut self, op: &Op) {
        match *op {
            Op::Arm { id, after, slack } => self.arm(id, self.now.saturating_add(after).min(FAR), slack),
            Op::Later { id, by } => self.move_to(id, self.due(id).saturating_add(by).min(FAR)),
            Op::Earlier { id, by } => self.move_to(id, self.due(id).saturating_sub(by)),
            Op::Move { id, after } => self.move_to(id, self.now.saturating_add(after).min(FAR)),
            Op::Cancel { id } => self.cancel(id),
            Op::CancelFirst => {
                if let Some((_, id)) = self.first() {
                    self.cancel(id);
                }
            }
            Op::Advance { by } => self.now = self.now.saturating_add(by).min(FAR),
            Op::AlmostNext => {
                if let Some((hard, _)) = self.first() {
                    self.now = self.now.max(hard.saturating_sub(1));
                }
            }
            Op::Pop => _ = self.pop(),
            // After next_wake the top is fresh, so slack leaves nothing open: it fires as soon as it is due.
            Op::WakeAndPop => {
                self.next_wake();
                let due = self.first().is_some_and(|f| self.due(f.1) <= self.now);
                assert_eq!(self.pop().is_some(), due, "the top fires as soon as it is due");
            }
            Op::Drain => while self.pop().is_some() {},
        }
        self.check();
    }
    fn check(&mut self) {
        self.bench.verify();
        assert_eq!(self.bench.timers.len(), self.order.len());
        assert_eq!(self.bench.timers.is_empty(), self.order.is_empty());
        for id in 0..IDS {
            assert_eq!(self.bench.armed(id), self.key[id as usize].is_some(), "id {id} armed");
        }
        let peek = self.bench.timers.peek();
        assert!(peek <= self.first().map_or(NEVER, |f| f.0), "peek {peek} is later than {:?}", self.first());
        assert_eq!(peek == NEVER, self.order.is_empty());
    }
    /// As a driver that sleeps until `next_wake`: no wake-up is for nothing, and all that is armed fires.
    fn sleep_until_empty(&mut self) {
        while !self.order.is_empty() {
            self.now = self.now.max(self.next_wake());
            assert!(self.pop().is_some(), "woken at {} for nothing", self.now);
            while self.pop().is_some() {}
            self.check();
        }
        assert_eq!(self.next_wake(), NEVER);
        assert_eq!(self.bench.pop(FAR), None, "fired twice");
    }
}

fn run(start: i64, seq: u64, ops: &[Op]) {
    let mut model = Model::new(start, seq);
    ops.iter().for_each(|op| model.step(op));
    model.sleep_until_empty();
}

fn cases(cases: u32) -> ProptestConfig {
    let nowhere = FileFailurePersistence::Off;
    ProptestConfig { cases, failure_persistence: Some(Box::new(nowhere)), ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn like_the_model_without_slack(ops in ops(Just(0), 400)) {
        run(0, 0, &ops);
    }

    #[test]
    fn like_the_model_with_slack(ops in ops(slack(), 400)) {
        run(1000, 0, &ops);
    }

    /// Few spans and many ids: nearly all are ties, across the end of the numbers that order them.
    #[test]
    fn ties_when_the_numbers_are_used_up(ops in ops(Just(0), 400), before in 0..200u64) {
        run(0, SEQ_END - before, &ops);
    }
}

proptest! {
    #![proptest_config(cases(16))]

    /// nodejs#22149, tokio#8334: timers that go wrong after so many days of uptime.
    #[test]
    fn clock_started_at_each_power_of_two(ops in ops(slack(), 100)) {
        for k in 0..=62 {
            run((1 << k) - 1, 0, &ops);
        }
        run(FAR, 0, &ops);
    }
}

// By name.

/// libev 3.6: the order of simultaneous timers.
#[test]
fn ten_thousand_equal_deadlines_fire_in_order_of_arming() {
    for (first_seq, slack) in [(0, 0), (SEQ_END - 5000, 0), (SEQ_END, 0), (0, 7)] {
        let mut bench = Bench::numbered_from(first_seq, 10_000);
        // Not in order of id, so that the order of ids cannot stand in for it.
        let armed: Vec<u32> = (0..10_000).map(|i| i * 7919 % 10_000).collect();
        armed.iter().for_each(|id| bench.arm_with_slack(*id, 5 * MS, slack));
        assert_eq!(bench.fired(5 * MS - 1), []);
        assert_eq!(bench.fired(5 * MS), armed, "from {first_seq}, slack {slack}");
    }
}

#[test]
fn a_moved_deadline_keeps_its_place_among_equals() {
    let mut bench = Bench::new(4);
    bench.arm(2, 10);
    bench.arm(0, 20);
    bench.arm(3, 30);
    bench.arm(1, 20);
    bench.move_to(2, 20);
    bench.move_to(3, 20);
    assert_eq!(bench.fired(20), [2, 0, 3, 1]);
}

#[test]
fn moving_later_leaves_the_heap_alone_and_fires_at_the_new_deadline() {
    let mut bench = Bench::new(1000);
    (0..1000).for_each(|id| bench.arm(id, 100 + id as i64));
    let positions = |b: &Bench| b.entries.0.iter().map(|e| e.pos).collect::<Vec<_>>();
    let before = positions(&bench);
    (0..1000).for_each(|id| bench.move_to(id, 5000 + id as i64));
    assert_eq!(bench.timers.peek(), 100, "looked at only when the old key comes to the top");
    assert_eq!(positions(&bench), before);
    assert_eq!(bench.pop(99), None);
    assert_eq!(bench.timers.peek(), 100, "the old key has not come, so there was nothing to look at");
    assert_eq!(bench.fired(4999), []);
    assert_eq!(bench.timers.peek(), 5000);
    bench.verify();
    for id in 0..1000 {
        assert_eq!(bench.fired(5000 + id as i64), [id]);
    }
}

/// twisted#9780, #1232: later was ignored, earlier fired twice.
#[test]
fn moved_while_due_fires_once_at_the_last_deadline() {
    let mut bench = Bench::new(2);
    bench.arm(0, 10);
    bench.arm(1, 10);
    // Both are due at 15. The first is moved to the future, the second about and back to the past.
    bench.move_to(0, 20);
    bench.move_to(1, 30);
    bench.move_to(1, 5);
    assert_eq!(bench.fired(15), [1]);
    assert_eq!(bench.next_wake(), 20);
    assert_eq!(bench.fired(19), []);
    bench.move_to(0, 40);
    bench.move_to(0, 25);
    assert_eq!(bench.fired(24), []);
    assert_eq!(bench.fired(25), [0]);
    assert_eq!(bench.fired(FAR), []);
}

#[test]
fn moving_or_cancelling_what_has_fired_does_nothing() {
    let mut bench = Bench::new(2);
    bench.arm(0, 10);
    bench.arm(1, 30);
    assert_eq!(bench.fired(10), [0]);
    bench.move_to(0, 12);
    bench.cancel(0);
    bench.cancel(0);
    bench.verify();
    assert_eq!((bench.timers.len(), bench.next_wake()), (1, 30));
    assert_eq!(bench.fired(FAR), [1]);
}

/// libevent#1727: the earliest was removed, and the next did not fire on time.
#[test]
fn after_cancelling_the_minimum_the_next_is_exact() {
    let mut bench = Bench::new(200);
    (0..200).for_each(|id| bench.arm(id, 10 * id as i64));
    for id in 0..199 {
        assert_eq!(bench.next_wake(), 10 * id as i64);
        bench.cancel(id);
        assert!(!bench.armed(id));
        bench.verify();
    }
    assert_eq!(bench.fired(1989), []);
    assert_eq!(bench.fired(1990), [199]);
    assert_eq!(bench.next_wake(), NEVER);
}

#[test]
fn slack_groups_deadlines_into_one_wake_up() {
    let mut bench = Bench::new(10);
    (0..10).for_each(|id| bench.arm_with_slack(id, 100 + id as i64, 50));
    assert_eq!(bench.timers.peek(), 150, "keyed by hard time from the start, not only once it comes to the top");
    let (mut now, mut wake_ups) = (0, 0);
    let mut fired = Vec::new();
    while !bench.timers.is_empty() {
        now = bench.next_wake().max(now);
        wake_ups += 1;
        fired.extend(bench.fired(now));
    }
    assert_eq!((wake_ups, now), (1, 150), "the first hard time serves all");
    assert_eq!(fired, (0..10).collect::<Vec<_>>());
}

#[test]
fn slack_is_leave_to_be_late_and_not_to_be_early() {
    let mut bench = Bench::new(2);
    bench.arm_with_slack(0, 100, 1000);
    bench.arm_with_slack(1, 500, 10);
    assert_eq!(bench.next_wake(), 510, "ordered by hard time");
    assert_eq!(bench.fired(499), [], "the one at the top is not due: as in Linux, nobody looks behind it");
    assert_eq!(bench.fired(500), [1, 0]);
    bench.arm_with_slack(0, 600, 1000);
    assert_eq!(bench.fired(599), []);
    assert_eq!(bench.fired(600), [0], "awake anyway: fires as soon as it is due");
}

/// mio#1657, tokio#3551, golang#36202: overflow fired at once, or panicked.
#[test]
fn deadlines_at_the_edges() {
    let edges = [0, 1, ((1 << 31) - 1) * MS, (1 << 31) * MS, ((1 << 31) + 1) * MS, (1 << 32) * MS, FAR];
    for slack in [0, 1, FAR, NEVER] {
        let mut bench = Bench::new(edges.len());
        (0..edges.len()).rev().for_each(|i| bench.arm_with_slack(i as u32, edges[i], slack));
        assert_eq!(bench.next_wake(), slack.min(FAR));
        bench.verify();
        if slack <= 1 {
            for (id, due) in (0..).zip(edges) {
                assert_eq!(bench.fired(due - 1), [], "{due} early, slack {slack}");
                assert_eq!(bench.fired(due), [id], "slack {slack}");
            }
        } else {
            // All hard times are one, and the top is the one armed first: the latest.
            assert_eq!(bench.fired(FAR - 1), [], "slack {slack}");
            assert_eq!(bench.fired(FAR).len(), edges.len(), "slack {slack}");
        }
        assert_eq!(bench.next_wake(), NEVER);
    }
    let mut bench = Bench::new(1);
    bench.arm(0, -5);
    assert_eq!(bench.next_wake(), -5);
    bench.move_to(0, i64::MIN);
    assert_eq!(bench.fired(i64::MIN), [0], "clocks that people set may stand before 1970");
}

#[test]
fn ten_million_armed_and_cancelled_leave_no_memory() {
    const LEFT: usize = 1024;
    let mut bench = Bench::new(1_000_000);
    assert_eq!(bench.timers.heap_bytes(), 0, "an empty heap allocates nothing");
    for id in 0..5_000_000 {
        bench.arm(0, id);
        bench.cancel(0);
        assert!(bench.timers.heap_bytes() <= LEFT);
    }
    // Five waves, in turn cancelled in order of arming, in the opposite order, and fired.
    for wave in 0..5 {
        (0..1_000_000).for_each(|id| bench.arm(id, id as i64));
        let full = bench.timers.heap_bytes();
        assert!((16_000_000..=32_000_000).contains(&full), "{full} bytes for a million");
        for i in 0..1_000_000 {
            match wave % 3 {
                0 => bench.cancel(i),
                1 => bench.cancel(999_999 - i),
                _ => assert_eq!(bench.pop(FAR), Some(i)),
            }
            let (bytes, len) = (bench.timers.heap_bytes(), bench.timers.len());
            assert!(bytes <= LEFT.max(64 * (len + 1)), "{bytes} bytes for {len}");
            assert!(bytes >= 16 * (len + 1), "no room to arm again what has just fired: {bytes} bytes for {len}");
        }
        assert!(bench.timers.heap_bytes() <= LEFT, "{} bytes for none", bench.timers.heap_bytes());
    }
}

/// nginx c108f04e8: a deadline in the past while the clock stands still, over and over.
#[test]
fn a_frozen_clock_does_not_spin() {
    let now = 1000;
    let mut bench = Bench::new(300);
    (0..300).for_each(|id| bench.arm(id, id as i64));
    // All overdue by key: a third stays so, a third is moved to this very moment, a third to the next one.
    (100..200).for_each(|id| bench.move_to(id, now));
    (200..300).for_each(|id| bench.move_to(id, now + 1));
    assert_eq!(bench.fired(now), (0..200).collect::<Vec<_>>());
    for _ in 0..10 {
        assert_eq!(bench.fired(now), [], "once each");
        assert_eq!(bench.next_wake(), now + 1, "not a time that has passed");
    }
    assert_eq!(bench.fired(now + 1).len(), 100);
}

#[test]
fn verify_sees_what_is_wrong() {
    let mut bench = Bench::new(3);
    (0..3).for_each(|id| bench.arm(id, 10 + id as i64));
    bench.verify();
    bench.entries.0[1].due = 3;
    assert!(bench.timers.verify(&mut bench.entries).is_err(), "a key later than its deadline");
    bench.timers.moved(&mut bench.entries, 1);
    bench.verify();
    bench.entries.0[2].pos = 0;
    assert!(bench.timers.verify(&mut bench.entries).is_err(), "two entries at one position");
}
