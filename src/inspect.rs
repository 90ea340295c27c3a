//! `bell_verify` and `bell_dump`: a shard held against itself and against the kernel, and told as text.
use crate::backend::{Registered, Trigger};
use crate::error::Result;
use crate::event::{Clock, Handle, Interest, NEVER};
use crate::fd_table::{FdTable, Owner};
use crate::registry::*;
use crate::shard::Shard;
use crate::state::State;
use crate::target::Target;
use crate::timers::UNARMED;
use std::collections::BTreeMap;
use std::fmt::Write;

pub fn verify(shard: &Shard, st: &mut State, fds: &FdTable, wrong: &mut Vec<String>) -> Result<()> {
    let mut expected = BTreeMap::new();
    let mut listed = 0;
    let mut attached = 0;
    for index in st.reg.fds.indices() {
        let fd = &st.reg.fds.at(index).value;
        if fd.is(CLOSED) {
            if fd.is(ARMED) || fd.kernel != Kernel::Absent {
                wrong.push(format!("fd {}: closed, yet armed or in the kernel", fd.fd));
            }
            continue;
        }
        attached += 1;
        let owner = fds.owner(fd.fd)?;
        let is_head = match owner {
            Owner::Exclusive => fd.is(EXCLUSIVE),
            Owner::Shard(s) => s == shard.index && fds.head(fd.fd) == index,
            Owner::Nobody => false,
        };
        if owner != Owner::Shard(shard.index) && !fd.is(EXCLUSIVE) {
            wrong.push(format!("fd {}: registered here, owned by {owner:?}", fd.fd));
            continue;
        }
        if !is_head {
            if fd.kernel != Kernel::Absent {
                wrong.push(format!("fd {}: kernel state beside the first registration", fd.fd));
            }
            continue;
        }
        let mut at = index;
        while at != NIL {
            listed += 1;
            let entry = st.reg.fds.at(at);
            if entry.value.fd != fd.fd {
                wrong.push(format!("fd {}: fd {} in its list", fd.fd, entry.value.fd));
            }
            at = entry.link;
        }
        check_wanted(st, index, wrong);
        // SAFETY: a number. A file that lives on elsewhere stays in the kernel's list, so the list alone does not tell.
        if unsafe { libc::fcntl(fd.fd, libc::F_GETFD) } < 0 {
            wrong.push(format!("fd {}: closed behind our back", fd.fd));
        }
        if fd.kernel != Kernel::Absent {
            expected.insert(fd.fd, (st.reg.fd_handle(index).0, fd.kernel, fd.asked));
        }
    }
    if listed != attached {
        wrong.push(format!("{attached} registrations attached, {listed} found in lists"));
    }
    // Ghosts that wait for a rebuild are known.
    let mut ghosts = st.ghosts;
    for known in shard.backend.registered()? {
        match expected.get(&known.fd) {
            // A silent entry keeps the cookie of whoever was first when it was told: arming replaces it.
            Some((cookie, kernel, asked)) if known.cookie == *cookie || *kernel == Kernel::Disarmed => {
                compare(known, *kernel, *asked, wrong);
                expected.remove(&known.fd);
            }
            _ if ghosts > 0 => ghosts -= 1,
            _ => wrong.push(format!("fd {}: the kernel has {:#x}, which is not registered", known.fd, known.cookie)),
        }
    }
    for (fd, (cookie, ..)) in expected {
        wrong.push(format!("fd {fd}: registered as {cookie:#x}, the kernel does not have it"));
    }
    let State { timers, reg, .. } = st;
    for clock in Clock::ALL {
        if let Err(e) = timers[clock as usize].verify(reg) {
            wrong.push(format!("timers {clock:?}: {e}"));
        }
    }
    let armed = reg.timeouts.indices().filter(|i| reg.timeouts.at(*i).value.pos != UNARMED).count()
        + reg.fds.indices().filter(|i| reg.fds.at(*i).value.pos != UNARMED).count();
    let in_heaps: usize = timers.iter().map(|t| t.len()).sum();
    if armed != in_heaps {
        wrong.push(format!("{armed} deadlines armed, {in_heaps} in the heaps"));
    }
    Ok(())
}

/// What the list wants must be what the kernel was asked for; more interest than wanted is allowed for edges.
fn check_wanted(st: &State, head: u32, wrong: &mut Vec<String>) {
    let fd = &st.reg.fds.at(head).value;
    if fd.is(EXCLUSIVE) {
        return;
    }
    let (interest, edge) = st.reg.wanted(head);
    let good = match fd.kernel {
        Kernel::Absent | Kernel::Disarmed => interest.is_empty(),
        Kernel::Oneshot => !edge && interest == fd.asked,
        Kernel::Edge => edge && interest.0 & !fd.asked.0 == 0,
    };
    if !good {
        wrong.push(format!("fd {}: wants {interest:?} edge={edge}, kernel has {:?} {:?}", fd.fd, fd.kernel, fd.asked));
    }
}

fn compare(known: Registered, kernel: Kernel, asked: Interest, wrong: &mut Vec<String>) {
    let good = match kernel {
        Kernel::Absent => false,
        Kernel::Edge => known.trigger == Trigger::Edge && known.interest == asked,
        // Reported, and the report not taken yet: the kernel has disarmed it.
        Kernel::Oneshot => known.trigger == Trigger::Oneshot && (known.interest == asked || known.interest.is_empty()),
        Kernel::Disarmed => known.trigger == Trigger::Oneshot && known.interest.is_empty(),
    };
    if !good {
        wrong.push(format!("fd {}: asked {kernel:?} {asked:?}, the kernel has {known:?}", known.fd));
    }
}

pub fn describe(shard: &Shard, st: &State, text: &mut String) {
    let _ = writeln!(
        text,
        "shard {} driver={} inside={} followers={} ghosts={}",
        shard.index,
        if st.driver.is_some() { "nobody".to_owned() } else { format!("{:?}", st.role) },
        st.inside,
        st.followers.len(),
        st.ghosts
    );
    for i in st.reg.fds.indices() {
        let fd = &st.reg.fds.at(i).value;
        let state = match fd.flags {
            f if f & CLOSED != 0 => "closed",
            f if f & ARMED != 0 => "armed",
            _ => "silent",
        };
        let _ = writeln!(
            text,
            "fd {} handle={:#x} user_data={:#x} {:?} interest={:#x} {state} target={} kernel={:?} deadline={}",
            fd.fd,
            st.reg.fd_handle(i).0,
            fd.user_data,
            fd.mode,
            fd.interest.0,
            name(&fd.target),
            fd.kernel,
            time(fd.deadline)
        );
    }
    for i in st.reg.timeouts.indices() {
        let t = &st.reg.timeouts.at(i).value;
        let _ = writeln!(
            text,
            "timeout handle={:#x} user_data={:#x} {:?} {} target={} deadline={}",
            st.reg.timeout_handle(i).0,
            t.user_data,
            t.clock,
            if t.pos == UNARMED { "silent" } else { "armed" },
            name(&t.target),
            time(t.deadline)
        );
    }
    for i in st.reg.users.indices() {
        let user = &st.reg.users.at(i).value;
        let handle: Handle = st.reg.user_handle(i);
        let _ =
            writeln!(text, "user handle={:#x} user_data={:#x} target={}", handle.0, user.user_data, name(&user.target));
    }
}

fn name(target: &Target) -> String {
    match target {
        Target::None => "none".to_owned(),
        Target::Poll { .. } => "poll".to_owned(),
        Target::Slot { .. } => "slot".to_owned(),
        Target::Futex(word) => format!("futex:{:#x}", word.address()),
        Target::WakeFd(w) => format!("wake_fd:{}", w.fd),
        Target::Queue { queue, .. } => format!("queue:{:#x}", queue.handle.0),
        Target::Mvar(_) => "mvar".to_owned(),
    }
}

fn time(deadline: i64) -> String {
    if deadline == NEVER { "never".to_owned() } else { deadline.to_string() }
}
