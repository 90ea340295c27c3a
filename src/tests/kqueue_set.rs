//! What the kqueue backend decides without the kernel, asked with a model of the kernel: filters with flags, as
//! kqueue(2) describes them. That the model is true is not asked here.
use crate::abi::*;
use crate::backend::kqueue_set::*;
use crate::backend::{OWN, Registered, Trigger};
use crate::error::{Error, Result};
use crate::event::{Interest, Ready};

const R: Interest = Interest(BELL_READ as u8 | BELL_RDHUP as u8);
const W: Interest = Interest::WRITE;
const RDHUP: Interest = Interest(BELL_RDHUP as u8);
const FD: i32 = 5;

struct Knote {
    fd: i32,
    filter: Filter,
    clear: bool,
    enabled: bool,
    /// Something to tell.
    active: bool,
    stamp: usize,
}

/// A kqueue, and one file, under the number `FD`.
struct Model {
    knotes: Vec<Knote>,
    /// What is true of the file, level-like: readable, writable.
    ready: [bool; 2],
    ended: [bool; 2],
    error: bool,
    /// EV_ADD of this filter fails.
    refuses: Option<(Filter, Error)>,
    calls: Vec<Vec<Act>>,
}

struct Watched {
    set: Set,
    kernel: Model,
}

fn direction(filter: Filter) -> usize {
    (filter == Filter::Write) as usize
}

impl Model {
    fn truth(&self, filter: Filter) -> bool {
        let d = direction(filter);
        filter != Filter::Except && (self.ready[d] || self.ended[d])
    }

    fn change(&mut self, changes: &[Change]) -> Result<()> {
        self.calls.push(changes.iter().map(|c| c.act).collect());
        let results: Vec<Result<()>> = changes.iter().map(|c| self.change_one(c)).collect();
        let adds = changes.iter().any(|c| matches!(c.act, Act::Add { .. }));
        if adds || results.iter().all(Result::is_err) { results.into_iter().collect() } else { Ok(()) }
    }

    fn change_one(&mut self, c: &Change) -> Result<()> {
        let at = self.knotes.iter().position(|k| k.fd == c.fd && k.filter == c.filter);
        let active = self.truth(c.filter);
        match (c.act, at) {
            (Act::Add { clear }, None) => {
                if let Some((_, e)) = self.refuses.filter(|(f, _)| *f == c.filter) {
                    return Err(e);
                }
                let (fd, filter, stamp) = (c.fd, c.filter, c.stamp);
                self.knotes.push(Knote { fd, filter, clear, enabled: true, active, stamp });
            }
            (Act::Add { .. }, Some(_)) => panic!("EV_ADD of a filter that is there changes its udata only"),
            (_, None) => return Err(Error::NOENT),
            (Act::Delete, Some(at)) => drop(self.knotes.remove(at)),
            (Act::Disable, Some(at)) => self.knotes[at].enabled = false,
            (Act::Enable, Some(at)) => {
                let k = &mut self.knotes[at];
                if !k.enabled {
                    assert!(!k.clear, "nobody says that EV_ENABLE looks at the file again under EV_CLEAR");
                    (k.enabled, k.active) = (true, active);
                }
            }
        }
        Ok(())
    }
}

impl Watched {
    fn new() -> Watched {
        let kernel =
            Model { knotes: vec![], ready: [false; 2], ended: [false; 2], error: false, refuses: None, calls: vec![] };
        Watched { set: Set::default(), kernel }
    }

    fn add(&mut self, wanted: Wanted) -> Result<()> {
        self.set.add(FD, wanted, &mut |c| self.kernel.change(c))
    }
    fn modify(&mut self, wanted: Wanted) -> Result<()> {
        self.set.modify(FD, wanted, &mut |c| self.kernel.change(c))
    }
    fn registered(&mut self) -> Vec<Registered> {
        self.set.registered(&mut |c| self.kernel.change(c)).collect()
    }
    fn remove(&mut self) -> Result<()> {
        self.set.remove(FD, &mut |c| self.kernel.change(c))
    }

    /// Data, or room, arrives.
    fn arrives(&mut self, filter: Filter) {
        self.kernel.ready[direction(filter)] = true;
        self.touch(filter);
    }
    fn ends(&mut self, filter: Filter) {
        self.kernel.ended[direction(filter)] = true;
        self.touch(filter);
    }
    fn touch(&mut self, filter: Filter) {
        self.kernel.knotes.iter_mut().filter(|k| k.filter == filter).for_each(|k| k.active = true);
    }

    /// Closed behind our back, and the number is another file's.
    fn closed_and_reused(&mut self) {
        self.kernel.knotes.clear();
        (self.kernel.ready, self.kernel.ended) = ([false; 2], [false; 2]);
    }

    /// What kevent(2) hands out.
    fn answers(&mut self) -> Vec<Seen> {
        let mut all = Vec::new();
        let (ended, error) = (self.kernel.ended, self.kernel.error);
        for k in self.kernel.knotes.iter_mut().filter(|k| k.enabled && k.active) {
            if k.clear {
                k.active = false;
            } else {
                k.enabled = false;
            }
            let eof = ended[direction(k.filter)];
            all.push(Seen { fd: k.fd, filter: k.filter, eof, error: eof && error, stamp: k.stamp });
        }
        all
    }

    fn report(&mut self, answers: &[Seen]) -> Vec<(u64, Ready)> {
        let mut found = Vec::new();
        self.set.begin_batch();
        answers.iter().for_each(|seen| self.set.report(*seen, &mut found));
        found
    }

    fn wait(&mut self) -> Vec<(u64, Ready)> {
        let answers = self.answers();
        self.report(&answers)
    }
}

fn wanted(n: u64, interest: Interest, trigger: Trigger) -> Wanted {
    Wanted { cookie: OWN + n, interest, trigger, socket: true }
}
fn oneshot(n: u64, interest: Interest) -> Wanted {
    wanted(n, interest, Trigger::Oneshot)
}
fn edge(n: u64, interest: Interest) -> Wanted {
    wanted(n, interest, Trigger::Edge)
}
fn of_a_pipe(wanted: Wanted) -> Wanted {
    Wanted { socket: false, ..wanted }
}

#[test]
fn both_directions_of_a_batch_are_one_event() {
    for (name, what) in [("oneshot", oneshot(1, R | W)), ("edge", edge(1, R | W))] {
        let mut k = Watched::new();
        k.kernel.ready = [true; 2];
        k.add(what).unwrap();
        assert_eq!(k.wait(), [(OWN + 1, Ready::READ | Ready::WRITE)], "{name}");
        assert_eq!(k.wait(), [], "{name}");
    }
}

#[test]
fn a_oneshot_is_silent_in_both_directions_until_it_is_armed() {
    let mut k = Watched::new();
    k.add(oneshot(1, R | W)).unwrap();
    k.arrives(Filter::Read);
    assert_eq!(k.wait(), [(OWN + 1, Ready::READ)]);
    k.arrives(Filter::Write); // its filter is enabled still
    assert_eq!(k.wait(), []);
    k.ends(Filter::Read);
    assert_eq!(k.wait(), []);
    assert!(k.answers().is_empty(), "a filter that nobody wants to hear spins the driver");
    k.modify(oneshot(2, R | W)).unwrap();
    assert_eq!(k.wait(), [(OWN + 2, Ready::READ | Ready::WRITE | Ready(BELL_RDHUP))]);
}

#[test]
fn arming_the_same_again_is_one_call_and_looks_at_the_file() {
    let mut k = Watched::new();
    k.kernel.ready[0] = true;
    k.add(oneshot(1, R)).unwrap();
    assert_eq!(k.wait(), [(OWN + 1, Ready::READ)]);
    k.kernel.calls.clear();
    k.modify(oneshot(2, R)).unwrap();
    assert_eq!(k.kernel.calls, [[Act::Enable]]);
    assert_eq!(k.wait(), [(OWN + 2, Ready::READ)]);
}

#[test]
fn every_change_of_what_is_wanted_looks_at_the_file() {
    let all = [oneshot(1, R), oneshot(2, W), oneshot(3, R | W), oneshot(4, RDHUP), edge(5, R), edge(6, R | W)];
    for socket in [true, false] {
        for (old, new, drained) in
            all.iter().flat_map(|old| all.iter().flat_map(move |new| [(old, new, true), (old, new, false)]))
        {
            let (old, new) = (Wanted { socket, ..*old }, Wanted { socket, ..*new });
            let mut k = Watched::new();
            k.kernel.ready = [true; 2];
            k.add(old).unwrap();
            if drained {
                k.wait();
            }
            k.modify(new).unwrap();
            let expected = Ready(new.interest.0 as u32) & (Ready::READ | Ready::WRITE);
            let expected = if expected.is_empty() { vec![] } else { vec![(new.cookie, expected)] };
            assert_eq!(k.wait(), expected, "from {old:?} to {new:?}");
            assert_eq!(k.wait(), []);
        }
    }
}

#[test]
fn every_arrival_is_an_edge() {
    let mut k = Watched::new();
    k.add(edge(1, R | W)).unwrap();
    for _ in 0..3 {
        k.arrives(Filter::Read);
        assert_eq!(k.wait(), [(OWN + 1, Ready::READ)]);
        assert_eq!(k.wait(), []);
    }
}

/// The driver is between kevent(2) and its report while another thread changes the set.
#[test]
fn news_of_an_earlier_entry_is_dropped() {
    let mut k = Watched::new();
    k.kernel.ready[0] = true;
    k.add(edge(1, R)).unwrap();
    let late = k.answers();
    k.remove().unwrap();
    assert_eq!(k.report(&late), []);
    k.kernel.ready[0] = false;
    k.add(edge(2, R)).unwrap();
    assert_eq!(k.report(&late), [], "another file's, and the new owner of the number hears it");
    k.modify(edge(3, R | W)).unwrap();
    assert_eq!(k.report(&late), []);
}

#[test]
fn a_file_closed_behind_our_back_is_told_by_modify_and_remove() {
    for told in [false, true] {
        let mut k = Watched::new();
        k.kernel.ready[0] = told;
        k.add(oneshot(1, R)).unwrap();
        assert_eq!(k.wait().len(), told as usize);
        k.closed_and_reused();
        assert_eq!(k.modify(oneshot(2, R)), Err(Error::NOENT));
        assert!(k.kernel.knotes.is_empty(), "the new file must not be watched");
        assert_eq!(k.registered(), []);
        assert_eq!(k.modify(oneshot(2, R)), Err(Error::NOENT));
    }
    for looked in [false, true] {
        let mut k = Watched::new();
        k.add(edge(1, R | W)).unwrap();
        assert_eq!(k.registered().len(), 1);
        k.closed_and_reused();
        if looked {
            assert_eq!(k.registered(), []);
        }
        assert_eq!(k.remove(), Err(Error::NOENT));
        assert_eq!(k.set.len(), 0);
    }
    let mut k = Watched::new();
    k.add(edge(1, R | W)).unwrap();
    k.closed_and_reused();
    assert_eq!(k.remove(), Err(Error::NOENT));
    assert_eq!(k.remove(), Err(Error::NOENT));
}

/// twisted#12681, cpython#88968: "registered already" from a list that skipped the kernel.
#[test]
fn museum_004_a_reused_number_is_watched_anew() {
    for what in [oneshot(2, R), edge(2, R)] {
        let mut k = Watched::new();
        k.add(edge(1, R | W)).unwrap();
        k.closed_and_reused();
        k.add(what).unwrap();
        k.arrives(Filter::Read);
        assert_eq!(k.wait(), [(OWN + 2, Ready::READ)]);
    }
}

#[test]
fn adding_twice_is_an_error_and_changes_nothing() {
    let mut k = Watched::new();
    k.add(oneshot(1, R)).unwrap();
    assert_eq!(k.add(oneshot(2, W)), Err(Error::EXIST));
    k.arrives(Filter::Read);
    assert_eq!(k.wait(), [(OWN + 1, Ready::READ)], "disarmed by the second add");
    assert_eq!(k.add(oneshot(2, R)), Err(Error::EXIST));
    assert!(k.answers().is_empty(), "armed by the second add");
}

#[test]
fn what_cannot_be_added_leaves_no_half_behind() {
    let mut k = Watched::new();
    k.kernel.refuses = Some((Filter::Write, Error::NOMEM));
    assert_eq!(k.add(edge(1, R | W)), Err(Error::NOMEM));
    assert!(k.kernel.knotes.is_empty());
    assert_eq!(k.set.len(), 0);

    k.add(edge(1, R)).unwrap();
    assert_eq!(k.modify(edge(2, R | W)), Err(Error::NOMEM));
    let left = Registered { fd: FD, cookie: OWN + 1, interest: R, trigger: Trigger::Edge, exclusive: false };
    assert_eq!(k.registered(), [left]);
    k.arrives(Filter::Read);
    assert_eq!(k.wait(), [(OWN + 1, Ready::READ)]);
}

#[test]
fn a_told_oneshot_stays_silent_when_a_change_fails() {
    let mut k = Watched::new();
    k.kernel.ready[0] = true;
    k.add(oneshot(1, R)).unwrap();
    assert_eq!(k.wait().len(), 1);
    k.kernel.refuses = Some((Filter::Write, Error::NOMEM));
    assert_eq!(k.modify(oneshot(2, R | W)), Err(Error::NOMEM));
    assert_eq!(k.wait(), []);
    assert!(k.answers().is_empty());
}

#[test]
fn the_end_is_told_as_poll_tells_it() {
    use Filter::{Read, Write};
    let rdhup = Ready(BELL_RDHUP);
    let cases: [(&str, Wanted, &[Filter], bool, Ready); 11] = [
        ("a peer that stopped writing", edge(1, R), &[Read], false, Ready::READ | rdhup),
        ("the same, both asked", edge(1, R | W), &[Read], false, Ready::READ | rdhup),
        ("our own shutdown is not the end", edge(1, R | W), &[Write], false, Ready::WRITE),
        ("both ways", edge(1, R | W), &[Read, Write], false, Ready::READ | Ready::WRITE | rdhup | Ready::HUP),
        ("a connection refused", edge(1, W), &[Write], true, Ready::WRITE | Ready::ERR),
        (
            "a reset",
            oneshot(1, R | W),
            &[Read, Write],
            true,
            Ready::READ | Ready::WRITE | rdhup | Ready::HUP | Ready::ERR,
        ),
        ("the end only", oneshot(1, RDHUP), &[Read], false, rdhup),
        ("nothing asked", edge(1, Interest::NONE), &[Read], true, Ready::ERR),
        ("a pipe without writer", of_a_pipe(oneshot(1, R)), &[Read], false, Ready::READ | Ready::HUP),
        ("a pipe without reader", of_a_pipe(oneshot(1, W)), &[Write], false, Ready::WRITE | Ready::ERR),
        ("the same, told to the side that reads", of_a_pipe(edge(1, W)), &[Read], false, Ready::HUP),
    ];
    for (name, what, ends, error, expected) in cases {
        for before in [false, true] {
            let mut k = Watched::new();
            k.kernel.error = error;
            if before {
                k.kernel.ended = [ends.contains(&Read), ends.contains(&Write)];
                k.add(what).unwrap();
            } else {
                k.add(what).unwrap();
                ends.iter().for_each(|f| k.ends(*f));
            }
            assert_eq!(k.wait(), [(OWN + 1, expected)], "{name}, ended before it was added: {before}");
        }
    }
}

#[test]
fn both_ends_one_after_the_other_are_a_hup() {
    let mut k = Watched::new();
    k.add(edge(1, R | W)).unwrap();
    k.ends(Filter::Write);
    assert_eq!(k.wait(), [(OWN + 1, Ready::WRITE)]);
    k.ends(Filter::Read);
    assert_eq!(k.wait(), [(OWN + 1, Ready::READ | Ready(BELL_RDHUP) | Ready::HUP)]);
}

#[test]
fn data_that_nobody_asked_for_is_no_event_and_does_not_disarm() {
    for what in [oneshot(1, RDHUP), edge(1, RDHUP), of_a_pipe(oneshot(1, W))] {
        let mut k = Watched::new();
        k.add(what).unwrap();
        for _ in 0..3 {
            k.arrives(Filter::Read);
            assert_eq!(k.wait(), []);
        }
        k.ends(Filter::Read);
        assert_eq!(k.wait().len(), 1, "{what:?}");
    }
}

#[test]
fn clearing_takes_everything_out_of_the_kernel() {
    let mut k = Watched::new();
    k.add(oneshot(1, R | W)).unwrap();
    let bytes = k.set.heap_bytes();
    assert!(bytes > 0);
    k.set.clear(&mut |c| k.kernel.change(c));
    assert!(k.kernel.knotes.is_empty());
    assert_eq!(k.set.len(), 0);
    k.add(oneshot(2, R)).unwrap();
    assert_eq!(k.set.heap_bytes(), bytes);
}
