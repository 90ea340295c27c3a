//! `bell_verify` and `bell_dump`: a shard held against itself and against the kernel, and told as text.
use crate::backend::{Registered, Trigger};
use crate::error::{Error, Result};
use crate::event::{Clock, NEVER};
use crate::fd_table::{FdTable, Owner};
use crate::heap::Text;
use crate::libc;
use crate::registry::*;
use crate::shard::Shard;
use crate::state::State;
use crate::target::Target;
use crate::timers::UNARMED;
use std::fmt::{self, Arguments, Display, Write};

pub fn verify(shard: &Shard, st: &mut State, fds: &FdTable, report: &mut Report) -> Result<()> {
    // The kernel's list in the order of numbers: a number may be there twice, beside a ghost.
    let mut known = shard.backend.registered()?;
    known.sort_unstable_by_key(|k| k.fd);
    let (mut listed, mut attached) = (0, 0);
    for index in st.reg.fds.indices() {
        let fd = &st.reg.fds.at(index).value;
        if fd.is(CLOSED) {
            if fd.is(ARMED) || fd.kernel != Kernel::Absent {
                report.wrong(format_args!("fd {}: closed, yet armed or in the kernel", fd.fd));
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
            report.wrong(format_args!("fd {}: registered here, owned by {owner:?}", fd.fd));
            continue;
        }
        if !is_head {
            if fd.kernel != Kernel::Absent {
                report.wrong(format_args!("fd {}: kernel state beside the first registration", fd.fd));
            }
            continue;
        }
        let mut at = index;
        while at != NIL {
            listed += 1;
            let entry = st.reg.fds.at(at);
            if entry.value.fd != fd.fd {
                report.wrong(format_args!("fd {}: fd {} in its list", fd.fd, entry.value.fd));
            }
            at = entry.link;
        }
        check_wanted(st, index, report);
        // SAFETY: a number. A file that lives on elsewhere stays in the kernel's list, so the list alone does not tell.
        if unsafe { libc::fcntl(fd.fd, libc::F_GETFD) } < 0 {
            report.wrong(format_args!("fd {}: closed behind our back", fd.fd));
        }
        if fd.kernel != Kernel::Absent {
            let at = known.partition_point(|k| k.fd < fd.fd);
            if !known[at..].iter().take_while(|k| k.fd == fd.fd).any(|k| is_entry_of(st, index, k)) {
                let cookie = st.reg.fd_handle(index).0;
                report.wrong(format_args!("fd {}: registered as {cookie:#x}, the kernel does not have it", fd.fd));
            }
        }
    }
    if listed != attached {
        report.wrong(format_args!("{attached} registrations attached, {listed} found in lists"));
    }
    // Ghosts that wait for a rebuild are known.
    let mut ghosts = st.ghosts;
    for entry in &known {
        match watched(st, fds, shard, entry.fd).filter(|index| is_entry_of(st, *index, entry)) {
            Some(index) => compare(entry, &st.reg.fds.at(index).value, report),
            None if ghosts > 0 => ghosts -= 1,
            None => report
                .wrong(format_args!("fd {}: the kernel has {:#x}, which is not registered", entry.fd, entry.cookie)),
        }
    }
    let State { timers, reg, .. } = st;
    for clock in Clock::ALL {
        if let Err(e) = timers[clock as usize].verify(reg) {
            report.wrong(format_args!("timers {clock:?}: {e}"));
        }
    }
    let armed = reg.timeouts.indices().filter(|i| reg.timeouts.at(*i).is_armed()).count()
        + reg.fds.indices().filter(|i| reg.fds.at(*i).value.pos != UNARMED).count();
    let in_heaps: usize = timers.iter().map(|t| t.len()).sum();
    if armed != in_heaps {
        report.wrong(format_args!("{armed} deadlines armed, {in_heaps} in the heaps"));
    }
    Ok(())
}

/// What the list wants must be what the kernel was asked for; more interest than wanted is allowed.
fn check_wanted(st: &State, head: u32, report: &mut Report) {
    let fd = &st.reg.fds.at(head).value;
    if fd.is(EXCLUSIVE) {
        return;
    }
    let (interest, edge) = st.reg.wanted(head);
    let good = match fd.kernel {
        Kernel::Absent | Kernel::Disarmed | Kernel::Unsure => interest.is_empty(),
        // One that is told by a look and not by the kernel leaves its interest there until the next event.
        Kernel::Oneshot => !edge && interest.0 & !fd.asked.0 == 0,
        Kernel::Edge => edge && interest.0 & !fd.asked.0 == 0,
    };
    if !good {
        report.wrong(format_args!(
            "fd {}: wants {interest:?} edge={edge}, kernel has {:?} {:?}",
            fd.fd, fd.kernel, fd.asked
        ));
    }
}

/// The registration for which the kernel should have an entry under this number.
fn watched(st: &State, fds: &FdTable, shard: &Shard, fd: i32) -> Option<u32> {
    let index = match fds.owner(fd).ok()? {
        Owner::Shard(s) if s == shard.index => fds.head(fd),
        Owner::Exclusive => {
            let mut all = st.reg.fds.indices();
            all.find(|i| matches!(&st.reg.fds.at(*i).value, f if f.fd == fd && f.is(EXCLUSIVE) && !f.is(CLOSED)))?
        }
        _ => return None,
    };
    (st.reg.fds.at(index).value.kernel != Kernel::Absent).then_some(index)
}

/// A silent entry keeps the cookie of whoever was first when it was told: arming replaces it.
fn is_entry_of(st: &State, index: u32, entry: &Registered) -> bool {
    let silent = match st.reg.fds.at(index).value.kernel {
        Kernel::Disarmed => entry.interest.is_empty(),
        // Not an edge: that is the ghost of another file under this number.
        Kernel::Unsure => entry.trigger == Trigger::Oneshot,
        _ => false,
    };
    silent || entry.cookie == st.reg.fd_handle(index).0
}

fn compare(entry: &Registered, fd: &Fd, report: &mut Report) {
    let (kernel, asked) = (fd.kernel, fd.asked);
    let good = match kernel {
        Kernel::Absent => false,
        Kernel::Edge => entry.trigger == Trigger::Edge && entry.interest == asked,
        // Reported, and the report not taken yet: the kernel has disarmed it.
        Kernel::Oneshot => entry.trigger == Trigger::Oneshot && (entry.interest == asked || entry.interest.is_empty()),
        Kernel::Disarmed => entry.trigger == Trigger::Oneshot && entry.interest.is_empty(),
        Kernel::Unsure => entry.trigger == Trigger::Oneshot,
    };
    if !good {
        report.wrong(format_args!("fd {}: asked {kernel:?} {asked:?}, the kernel has {entry:?}", entry.fd));
    }
}

pub fn describe(shard: &Shard, st: &State, report: &mut Report) {
    let driver = if st.driver.is_some() { None } else { Some(st.role) };
    report.line(format_args!(
        "shard {} driver={} inside={} followers={} ghosts={}",
        shard.index,
        Or(driver.as_ref().map(|role| role as &dyn fmt::Debug), "nobody"),
        st.inside,
        st.followers.len(),
        st.ghosts
    ));
    for i in st.reg.fds.indices() {
        let fd = &st.reg.fds.at(i).value;
        let state = match fd.flags {
            f if f & CLOSED != 0 => "closed",
            f if f & ARMED != 0 => "armed",
            _ => "silent",
        };
        report.line(format_args!(
            "fd {} handle={:#x} user_data={:#x} {:?} interest={:#x} {state} target={} kernel={:?} deadline={}",
            fd.fd,
            st.reg.fd_handle(i).0,
            fd.user_data,
            fd.mode,
            fd.interest.0,
            Name(&fd.target),
            fd.kernel,
            time(&fd.deadline)
        ));
    }
    for i in st.reg.timeouts.indices() {
        let entry = st.reg.timeouts.at(i);
        let t = &entry.value;
        report.line(format_args!(
            "timeout handle={:#x} user_data={:#x} {:?} {} target={} deadline={}",
            st.reg.timeout_handle(i).0,
            t.user_data,
            entry.kind().clock,
            if entry.is_armed() { "armed" } else { "silent" },
            Name(&t.target),
            time(&entry.deadline())
        ));
    }
    for i in st.reg.users.indices() {
        let user = &st.reg.users.at(i).value;
        let handle = st.reg.user_handle(i).0;
        report.line(format_args!(
            "user handle={handle:#x} user_data={:#x} target={}",
            user.user_data,
            Name(&user.target)
        ));
    }
}

struct Name<'a>(&'a Target);

impl Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self.0 {
            Target::None => f.write_str("none"),
            Target::Poll { .. } => f.write_str("poll"),
            Target::Slot { .. } => f.write_str("slot"),
            Target::Futex(word) => write!(f, "futex:{:#x}", word.address()),
            Target::WakeFd(w) => write!(f, "wake_fd:{}", w.fd),
            Target::Queue { queue, .. } => write!(f, "queue:{:#x}", queue.handle.0),
            Target::Mvar(_) => f.write_str("mvar"),
        }
    }
}

/// A value, or a word where there is none.
struct Or<'a>(Option<&'a dyn fmt::Debug>, &'static str);

impl Display for Or<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self.0 {
            Some(value) => value.fmt(f),
            None => f.write_str(self.1),
        }
    }
}

fn time(deadline: &i64) -> Or<'_> {
    Or((*deadline != NEVER).then_some(deadline as &dyn fmt::Debug), "never")
}

/// What an inspection finds: as text, or only how much is wrong. Text for which there is no memory is told of at the
/// end, so that what inspects need not care.
pub struct Report {
    pub wrong: i32,
    text: Option<Text>,
    short: bool,
}

impl Report {
    pub fn counting() -> Report {
        Report { wrong: 0, text: None, short: false }
    }
    pub fn telling() -> Report {
        Report { text: Some(Text::default()), ..Report::counting() }
    }

    pub fn line(&mut self, line: Arguments) {
        if let Some(text) = &mut self.text {
            self.short |= text.write_fmt(line).and_then(|()| text.write_str("\n")).is_err();
        }
    }
    fn wrong(&mut self, line: Arguments) {
        self.wrong += 1;
        self.line(format_args!("wrong: {line}"));
    }

    pub fn text(self) -> Result<Vec<u8>> {
        if self.short { Err(Error::NOMEM) } else { Ok(self.text.unwrap_or_default().0) }
    }
}
