//! What a kqueue(2) was asked to watch, and what its answers mean. Numbers in, numbers out: no system call and no
//! constant of a system is here, so the tests run it on any machine. The kernel is an argument: it takes changes, all of
//! one fd and one kind, and tells whether they were made. Filters that are to be changed and are not there are an error
//! only if none is: they go all together, when their file is closed.
//!
//! A kqueue holds *filters*: one for each fd and direction, each with a number of ours (`udata`), which comes back with
//! its news. The set above it holds fds. So there is a table, and what it is needed for is this:
//!
//! - `add` of a known fd is an error, and a filter of its own does not tell: EV_ADD changes what is there.
//! - A oneshot is silent after its first event in *all* directions. The kernel silences the filter that has fired; what
//!   the others tell is dropped, once for each arming.
//! - Both directions of one batch become one event, and only together do they tell that a stream has ended both ways.
//! - `udata` has as many bits as a pointer, and a cookie has 64. It is a stamp here, new whenever the filters are:
//!   news under another stamp is of an earlier entry of that number. (With 32 bits it comes round after 2^32 of them.)
use super::{Registered, Trigger};
use crate::abi::*;
use crate::error::{Error, Result};
use crate::event::{Interest, Ready};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Filter {
    Read,
    Write,
    /// Out-of-band data. Not every system has it.
    Except,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Act {
    /// Puts it in, and looks at the fd. `clear`: tells arrivals; else it is disabled by its first event.
    Add {
        clear: bool,
    },
    /// Armed again, with a look at the fd. Nothing if it is armed.
    Enable,
    Disable,
    Delete,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Change {
    pub fd: i32,
    pub filter: Filter,
    pub act: Act,
    pub stamp: usize,
}

pub const MOST_CHANGES: usize = 3;

/// One answer of the kernel.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    pub fd: i32,
    pub filter: Filter,
    /// This direction has ended.
    pub eof: bool,
    /// With `eof`: it has ended by an error.
    pub error: bool,
    pub stamp: usize,
}

/// What the caller wants of an fd.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    pub cookie: u64,
    pub interest: Interest,
    pub trigger: Trigger,
    /// A socket: its directions end one after the other. Of other files, the end of either is the end.
    pub socket: bool,
}

impl Wanted {
    /// The end is told to everybody, so one direction is always watched. It must be reading for other files than
    /// sockets: FreeBSD and OpenBSD do not tell the writing side that a pipe has lost its reader (Go's
    /// netpoll_kqueue.go, commit 23aad448b1).
    fn filters(self) -> impl Iterator<Item = Filter> {
        let i = self.interest;
        let read = i.has(Interest::READ | Interest::RDHUP) || !i.has(Interest::WRITE) || !self.socket;
        let all = [(Filter::Read, read), (Filter::Write, i.has(Interest::WRITE)), (Filter::Except, i.has(PRI))];
        all.into_iter().filter(|(_, wanted)| *wanted).map(|(filter, _)| filter)
    }

    /// A filter that is there for the end only would be disabled by data that nobody asked for, so it goes on.
    fn clears(self, filter: Filter) -> bool {
        self.trigger == Trigger::Edge || filter == Filter::Read && !self.interest.has(Interest::READ)
    }

    fn added(self, filter: Filter) -> Act {
        Act::Add { clear: self.clears(filter) }
    }

    /// The same filters in the kernel, all of which an `Enable` arms again.
    fn rearms(self, old: Wanted) -> bool {
        self.filters().eq(old.filters()) && ![self, old].into_iter().any(|w| w.filters().any(|f| w.clears(f)))
    }
}

const PRI: Interest = Interest(BELL_PRI as u8);

#[derive(Clone, Copy)]
struct Entry {
    wanted: Wanted,
    /// A oneshot that has been told.
    told: bool,
    /// Which directions have ended, since the entry was armed.
    read_ended: bool,
    write_ended: bool,
    stamp: usize,
    /// In which batch it was last told, and where.
    batch: u64,
    at: usize,
}

#[derive(Default)]
pub struct Set {
    /// By fd.
    entries: Vec<Option<Entry>>,
    /// The last one given out.
    stamp: usize,
    batch: u64,
}

impl Set {
    fn get(&self, fd: i32) -> Option<Entry> {
        *self.entries.get(usize::try_from(fd).ok()?)?
    }

    fn forget(&mut self, fd: i32) {
        self.entries[fd as usize] = None;
    }

    pub fn add(&mut self, fd: i32, wanted: Wanted, kernel: &mut impl FnMut(&[Change]) -> Result<()>) -> Result<()> {
        if let Some(old) = self.get(fd) {
            if !old.is_gone(fd, kernel) {
                return Err(Error::EXIST);
            }
            self.forget(fd);
        }
        // Room first, so that a failure changes nothing.
        let wanted_len = usize::try_from(fd).map_err(|_| Error::BADF)? + 1;
        if wanted_len > self.entries.len() {
            let more = wanted_len - self.entries.len();
            crate::heap::room(&mut self.entries, more)?;
            self.entries.resize(wanted_len, None);
        }
        self.install(fd, wanted, kernel)
    }

    /// Into the kernel, where there is none of it yet.
    fn install(&mut self, fd: i32, wanted: Wanted, kernel: &mut impl FnMut(&[Change]) -> Result<()>) -> Result<()> {
        self.stamp = self.stamp.wrapping_add(1);
        let stamp = self.stamp;
        if let Err(e) = ask(fd, wanted, |f| wanted.added(f), stamp, kernel) {
            // One of them may be in.
            let _ = ask(fd, wanted, |_| Act::Delete, stamp, kernel);
            return Err(e);
        }
        self.entries[fd as usize] =
            Some(Entry { wanted, told: false, read_ended: false, write_ended: false, stamp, batch: 0, at: 0 });
        Ok(())
    }

    pub fn modify(&mut self, fd: i32, wanted: Wanted, kernel: &mut impl FnMut(&[Change]) -> Result<()>) -> Result<()> {
        let Some(old) = self.get(fd) else { return Err(Error::NOENT) };
        let rearm = old.told && wanted.rearms(old.wanted);
        let act = if rearm { Act::Enable } else { Act::Delete };
        if let Err(e) = ask(fd, old.wanted, |_| act, old.stamp, kernel) {
            // The filters went with the file, as an entry of epoll would have.
            self.forget(fd);
            return Err(e);
        }
        if rearm {
            let entry = Entry { wanted, told: false, read_ended: false, write_ended: false, ..old };
            self.entries[fd as usize] = Some(entry);
            return Ok(());
        }
        self.forget(fd);
        let Err(e) = self.install(fd, wanted, kernel) else { return Ok(()) };
        // As it was. (What was told is armed in the kernel now, and dropped when it fires.)
        if self.install(fd, old.wanted, kernel).is_ok() {
            if let Some(entry) = &mut self.entries[fd as usize] {
                entry.told = old.told;
            }
        }
        Err(e)
    }

    /// An error says that the file was closed before; the entry is gone all the same.
    pub fn remove(&mut self, fd: i32, kernel: &mut impl FnMut(&[Change]) -> Result<()>) -> Result<()> {
        let Some(old) = self.get(fd) else { return Err(Error::NOENT) };
        self.forget(fd);
        ask(fd, old.wanted, |_| Act::Delete, old.stamp, kernel)
    }

    pub fn clear(&mut self, kernel: &mut impl FnMut(&[Change]) -> Result<()>) {
        for fd in 0..self.entries.len() as i32 {
            let _ = self.remove(fd, kernel);
        }
    }

    pub fn begin_batch(&mut self) {
        self.batch += 1;
    }

    /// Puts an answer of the kernel into the batch, or drops it.
    pub fn report(&mut self, seen: Seen, found: &mut Vec<(u64, Ready)>) {
        let Some(Some(e)) = usize::try_from(seen.fd).ok().and_then(|fd| self.entries.get_mut(fd)) else { return };
        if e.stamp != seen.stamp {
            return;
        }
        let here = e.batch == self.batch;
        if e.told && !here {
            return;
        }
        let ready = e.ready(seen) & e.wanted.interest.wants();
        if here {
            found[e.at].1 |= ready;
        } else if !ready.is_empty() {
            (e.batch, e.at) = (self.batch, found.len());
            e.told = e.wanted.trigger == Trigger::Oneshot;
            found.push((e.wanted.cookie, ready));
        }
    }

    /// What the kernel has: entries of files that were closed behind our back are found out here, and go.
    pub fn registered(
        &mut self,
        kernel: &mut impl FnMut(&[Change]) -> Result<()>,
    ) -> impl Iterator<Item = Registered> + '_ {
        for fd in 0..self.entries.len() as i32 {
            if self.get(fd).is_some_and(|e| e.is_gone(fd, kernel)) {
                self.forget(fd);
            }
        }
        self.entries.iter().enumerate().filter_map(|(fd, e)| e.as_ref().map(|e| (fd as i32, e))).map(|(fd, e)| {
            let Wanted { cookie, interest, trigger, .. } = e.wanted;
            Registered {
                fd,
                cookie,
                interest: if e.told { Interest::NONE } else { interest },
                trigger,
                exclusive: false,
            }
        })
    }

    pub fn len(&self) -> usize {
        self.entries.iter().flatten().count()
    }

    pub fn heap_bytes(&self) -> usize {
        self.entries.capacity() * size_of::<Option<Entry>>()
    }
}

impl Entry {
    /// The filters went with their file, which was closed behind our back. The question changes nothing.
    fn is_gone(&self, fd: i32, kernel: &mut impl FnMut(&[Change]) -> Result<()>) -> bool {
        let act = if self.told { Act::Disable } else { Act::Enable };
        matches!(ask(fd, self.wanted, |_| act, self.stamp, kernel), Err(Error::NOENT | Error::BADF))
    }

    fn ready(&mut self, seen: Seen) -> Ready {
        let mut ready = Ready(match seen.filter {
            Filter::Read => BELL_READ,
            Filter::Write => BELL_WRITE,
            Filter::Except => BELL_PRI,
        });
        if !seen.eof {
            return ready;
        }
        if seen.error {
            ready |= Ready::ERR;
        }
        match seen.filter {
            Filter::Read => self.read_ended = true,
            Filter::Write => self.write_ended = true,
            Filter::Except => return ready,
        }
        // As poll(2) on Linux has it: a socket hangs up when both directions have ended (one of them may be our own
        // shutdown, after which the peer still talks); a pipe or terminal when its writer is gone, and writing to one
        // without a reader is an error.
        ready
            | match (self.wanted.socket, seen.filter) {
                (true, Filter::Read) if !self.write_ended => Ready(BELL_RDHUP),
                (true, Filter::Read) => Ready(BELL_RDHUP) | Ready::HUP,
                (true, _) if self.read_ended => Ready::HUP,
                (true, _) => Ready::NONE,
                (false, Filter::Read) => Ready::HUP,
                (false, _) => Ready::ERR,
            }
    }
}

/// One change for each filter.
fn ask(
    fd: i32,
    wanted: Wanted,
    act: impl Fn(Filter) -> Act,
    stamp: usize,
    kernel: &mut impl FnMut(&[Change]) -> Result<()>,
) -> Result<()> {
    let mut list = [Change { fd, filter: Filter::Read, act: Act::Delete, stamp }; MOST_CHANGES];
    let mut n = 0;
    for filter in wanted.filters() {
        list[n] = Change { fd, filter, act: act(filter), stamp };
        n += 1;
    }
    kernel(&list[..n])
}
