//! `bell_verify` finds what is wrong: each rule that it knows is broken once, behind the shard's back.
use crate::backend::Trigger;
use crate::event::{Handle, Interest, Kind, Mode};
use crate::fd::Fd as File;
use crate::fd_table::FdTable;
use crate::inspect::{Report, verify};
use crate::libc;
use crate::registry::*;
use crate::shard::Shard;
use crate::state::State;
use crate::target::Target;

struct World {
    shard: Shard,
    fds: FdTable,
    /// The second one is watched by nobody.
    files: [File; 2],
}

fn event_fd() -> File {
    // SAFETY: no pointers.
    File::made(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) }).unwrap()
}

/// Two registrations of one fd, the first of them first in its list, and a timeout.
const FIRST: u32 = 0;
const SECOND: u32 = 1;
const TIMEOUT: u32 = 0;

impl World {
    fn new() -> World {
        let world =
            World { shard: Shard::new(0, 0, 16, false).unwrap(), fds: FdTable::new(), files: [event_fd(), event_fd()] };
        let env = world.shard.env(&world.fds);
        let mut st = world.shard.lock();
        world.fds.place(world.files[0].0).unwrap().acquire(0).unwrap();
        for (index, head) in [(FIRST, NIL), (SECOND, FIRST)] {
            assert_eq!(st.reg.fds.insert().unwrap().0, index);
            let fd = &mut st.reg.fds.at_mut(index).value;
            (fd.fd, fd.interest, fd.mode, fd.target) = (world.files[0].0, Interest::READ, Mode::Oneshot, Target::None);
            fd.set(ARMED, true);
            st.reg.attach(world.fds.place(world.files[0].0).unwrap(), index, head);
            st.sync_kernel(env, FIRST, true).unwrap();
        }
        assert_eq!(st.reg.timeouts.insert().unwrap().0, TIMEOUT);
        st.reg.timeouts.at_mut(TIMEOUT).link = crate::timers::UNARMED;
        st.set_timeout(env, TIMEOUT, 1000).unwrap();
        drop(st);
        assert_eq!(world.found(), (0, String::new()));
        world
    }

    fn found(&self) -> (i32, String) {
        let mut report = Report::telling();
        verify(&self.shard, &mut self.shard.lock(), &self.fds, &mut report).unwrap();
        (report.wrong, String::from_utf8(report.text().unwrap()).unwrap())
    }
}

/// What is found after `break_it`; each line of it has one of these words.
fn finds(words: &[&str], break_it: impl FnOnce(&World, &mut State)) {
    let world = World::new();
    break_it(&world, &mut world.shard.lock());
    let (wrong, text) = world.found();
    assert_eq!(wrong as usize, words.len(), "{text}");
    for (line, word) in text.lines().zip(words) {
        assert!(line.starts_with("wrong: ") && line.contains(word), "{word}: {text}");
    }
}

fn first(st: &mut State) -> &mut Fd {
    &mut st.reg.fds.at_mut(FIRST).value
}

#[test]
fn a_list_that_does_not_hold_together() {
    finds(&["2 registrations attached, 1 found in lists"], |_, st| st.reg.fds.at_mut(FIRST).link = NIL);
    finds(&["in its list", "owned by Nobody"], |w, st| st.reg.fds.at_mut(SECOND).value.fd = w.files[1].0);
    finds(&["kernel state beside the first registration"], |_, st| {
        st.reg.fds.at_mut(SECOND).value.kernel = Kernel::Oneshot;
    });
    finds(
        &["owned by Nobody", "owned by Nobody", "2 registrations attached, 0 found", "which is not registered"],
        |w, _| {
            w.fds.set_head(w.files[0].0, 0, NIL);
        },
    );
    finds(
        &["owned by Exclusive", "owned by Exclusive", "2 registrations attached, 0 found", "which is not registered"],
        |w, _| {
            w.fds.set_head(w.files[0].0, 0, NIL);
            w.fds.acquire_exclusive(w.files[0].0).unwrap();
        },
    );
    finds(&["closed, yet armed", "closed, yet armed"], |_, st| {
        [FIRST, SECOND].iter().for_each(|i| st.reg.fds.at_mut(*i).value.set(CLOSED, true));
    });
}

#[test]
fn a_kernel_that_was_asked_for_something_else() {
    finds(&["wants", "the kernel has"], |_, st| first(st).asked = Interest::WRITE);
    finds(&["wants", "asked Edge"], |_, st| first(st).kernel = Kernel::Edge);
    finds(&["wants", "asked Disarmed"], |_, st| first(st).kernel = Kernel::Disarmed);
    finds(&["wants", "which is not registered"], |_, st| first(st).kernel = Kernel::Absent);
    finds(&["the kernel does not have it"], |w, _| w.shard.backend.remove(w.files[0].0).unwrap());
    finds(&["which is not registered"], |w, _| {
        let cookie = Handle::new(Kind::Fd, 0, 77, 1).0;
        w.shard.backend.add(w.files[1].0, Interest::READ, Trigger::Oneshot, false, cookie).unwrap();
    });
    // Under another cookie, news would be nobody's.
    finds(&["the kernel does not have it", "which is not registered"], |w, _| {
        let cookie = Handle::new(Kind::Fd, 0, 77, 1).0;
        w.shard.backend.modify(w.files[0].0, Interest::READ, Trigger::Oneshot, cookie).unwrap();
    });
    // Ghosts that wait for a rebuild are known.
    finds(&[], |w, st| {
        let cookie = Handle::new(Kind::Fd, 0, 77, 1).0;
        w.shard.backend.add(w.files[1].0, Interest::READ, Trigger::Oneshot, false, cookie).unwrap();
        st.ghosts = 1;
    });
}

#[test]
fn an_fd_that_was_closed_behind_our_back() {
    let world = World::new();
    let number = world.files[0].0;
    // SAFETY: a number of ours; dup2 puts a file there again, for who closes it.
    let dup = unsafe {
        let dup = libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 0);
        libc::close(number);
        dup
    };
    let (wrong, text) = world.found();
    // SAFETY: as above.
    unsafe {
        libc::dup2(dup, number);
        libc::close(dup);
    }
    assert!(wrong >= 1 && text.contains("closed behind our back"), "{text}");
}

#[test]
fn timers_that_are_not_in_order() {
    let heap = "1 in the heaps";
    finds(&["timers Monotonic", heap], |_, st| st.reg.timeouts.at_mut(TIMEOUT).link = crate::timers::UNARMED);
    finds(&["timers Monotonic"], |_, st| st.reg.timeouts.at_mut(TIMEOUT).set_deadline(3));
    finds(&["2 deadlines armed, 1 in the heaps"], |_, st| first(st).pos = 1);
}
