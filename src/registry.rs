//! What a shard knows: registrations of fds, timeouts, user events, and the slots and list nodes of their targets.
//! All under the shard's lock; no system call is made here.
//!
//! Entries live in slabs: chunks that never move, an index for life, a generation that grows each time the index is
//! used again. A generation that would wrap retires its index, so a stale handle never matches (tokio#6133, mio#172).
use crate::error::{Error, Result};
use crate::event::{Clock, GENERATION_FIELD, GENERATION_MAX, Handle, Interest, Kind, Mode, NEVER};
use crate::fd_table::{FdTable, NO_HEAD, Place};
use crate::heap;
use crate::target::ready_list::{After, Left, ReadyList};
use crate::target::slot::{self, Slots};
use crate::target::{Spec, Target};
use crate::timers::{Nodes, UNARMED};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, DefaultHasher};
// Not the model's, under loom: the word is the caller's, and orders nothing.
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

const LIVE: u32 = 1 << 31;
/// Bits of a live entry's state that are its owner's: a generation has 26.
const BITS: u32 = LIVE - (1 << GENERATION_FIELD);
const CHUNK: usize = 256;
/// End of a list.
pub const NIL: u32 = NO_HEAD;

pub struct Entry<T> {
    /// `LIVE` | bits for `T` to use | generation.
    state: u32,
    /// Of a free entry: the next free one. Of a live one: for `T` to use.
    pub link: u32,
    pub value: T,
}

impl<T> Entry<T> {
    #[inline]
    fn is(&self, handle: Handle) -> bool {
        let live = LIVE | handle.generation();
        self.state == live || self.state & !BITS == live
    }
    #[inline]
    fn generation(&self) -> u32 {
        self.state & !(LIVE | BITS)
    }
    #[inline]
    fn bits(&self) -> u32 {
        (self.state & BITS) >> GENERATION_FIELD
    }
}

pub struct Slab<T> {
    chunks: Vec<Box<[Entry<T>; CHUNK]>>,
    /// How many chunks' indices before the first are not used: handles of another slab have them.
    skipped: usize,
    free: u32,
    live: u32,
}

impl<T: Default> Slab<T> {
    pub fn new() -> Self {
        Slab { chunks: Vec::new(), skipped: 0, free: NIL, live: 0 }
    }

    /// An empty slab that gives no index of `old`, so no handle twice. (Later generations would not do: one index
    /// that was used up leaves none.) Of a torn slab the number of chunks is true: it grows before the first handle of a
    /// chunk is given out.
    pub fn instead_of(old: &Self) -> Self {
        Slab { skipped: old.skipped + old.chunks.len(), ..Slab::new() }
    }

    /// A place for a new entry, by index and generation, which is not taken yet: what the entry holds is made first.
    #[inline(always)]
    pub fn vacant(&mut self) -> Result<(u32, u32)> {
        if self.free == NIL {
            self.grow()?;
        }
        Ok((self.free, self.at(self.free).state))
    }

    /// Takes the place that `vacant` has just found. `bits`: five for `T` to use.
    #[inline(always)]
    pub fn occupy(&mut self, (index, generation): (u32, u32), value: T, link: u32, bits: u32) {
        debug_assert!(index == self.free && bits << GENERATION_FIELD & !BITS == 0);
        let entry = self.slot(index);
        let next = std::mem::replace(&mut entry.link, link);
        entry.state = LIVE | bits << GENERATION_FIELD | generation;
        // What is there holds nothing.
        std::mem::forget(std::mem::replace(&mut entry.value, value));
        self.free = next;
        self.live += 1;
    }

    /// A new entry with the default value: index and generation.
    pub fn insert(&mut self) -> Result<(u32, u32)> {
        let place = self.vacant()?;
        self.occupy(place, T::default(), NIL, 0);
        Ok(place)
    }

    #[cold]
    fn grow(&mut self) -> Result<()> {
        let first = (self.skipped + self.chunks.len()) * CHUNK;
        if first + CHUNK > NIL as usize {
            return Err(Error::FULL);
        }
        let mut chunk = Vec::new();
        heap::exact_room(&mut chunk, CHUNK)?;
        heap::room(&mut self.chunks, 1)?;
        for i in 0..CHUNK {
            let link = if i + 1 < CHUNK { (first + i + 1) as u32 } else { NIL };
            chunk.push(Entry { state: 1, link, value: T::default() });
        }
        self.chunks.push(chunk.into_boxed_slice().try_into().map_err(|_| Error::NOMEM)?);
        self.free = first as u32;
        Ok(())
    }

    pub fn remove(&mut self, index: u32) -> T {
        let value = std::mem::take(&mut self.slot(index).value);
        self.free(index);
        value
    }

    /// As `remove`, of a value that holds nothing any more; it is left where it is.
    #[inline]
    pub fn free(&mut self, index: u32) {
        let free = self.free;
        let entry = self.slot(index);
        debug_assert!(entry.state & LIVE != 0);
        let generation = entry.generation();
        if generation < GENERATION_MAX {
            entry.state = generation + 1;
            entry.link = free;
            self.free = index;
        } else {
            // Retired: no handle matches generation 0.
            entry.state = 0;
        }
        self.live -= 1;
    }

    /// Beyond any chunk for an index that is skipped.
    #[inline]
    fn chunk(&self, index: u32) -> usize {
        (index as usize / CHUNK).wrapping_sub(self.skipped)
    }
    #[inline(always)]
    fn slot(&mut self, index: u32) -> &mut Entry<T> {
        let chunk = self.chunk(index);
        &mut self.chunks[chunk][index as usize % CHUNK]
    }
    /// An entry that is known to live.
    #[inline]
    pub fn at(&self, index: u32) -> &Entry<T> {
        &self.chunks[self.chunk(index)][index as usize % CHUNK]
    }
    #[inline]
    pub fn at_mut(&mut self, index: u32) -> &mut Entry<T> {
        self.slot(index)
    }
    /// The index, if the handle's generation lives there.
    #[inline]
    pub fn find(&self, handle: Handle) -> Option<u32> {
        let index = handle.index();
        let entry = &self.chunks.get(self.chunk(index))?[index as usize % CHUNK];
        entry.is(handle).then_some(index)
    }
    /// As `find_mut`, of one that has none of these of its owner's bits.
    #[inline]
    fn find_without(&mut self, handle: Handle, bits: u32) -> Option<&mut Entry<T>> {
        let index = handle.index();
        let chunk = self.chunk(index);
        let entry = &mut self.chunks.get_mut(chunk)?[index as usize % CHUNK];
        let those = !BITS | bits << GENERATION_FIELD;
        (entry.state & those == LIVE | handle.generation()).then_some(entry)
    }
    /// As `find`, for who wants the entry itself.
    #[inline]
    pub fn find_mut(&mut self, handle: Handle) -> Option<&mut Entry<T>> {
        let index = handle.index();
        let chunk = self.chunk(index);
        let entry = &mut self.chunks.get_mut(chunk)?[index as usize % CHUNK];
        entry.is(handle).then_some(entry)
    }
    pub fn generation(&self, index: u32) -> u32 {
        self.at(index).generation()
    }
    pub fn live(&self) -> u32 {
        self.live
    }
    /// The next that lives, from `from` on: for loops that let go of the slab, or change it, in between.
    pub fn next(&self, from: u32) -> Option<u32> {
        let (first, end) = (self.skipped * CHUNK, (self.skipped + self.chunks.len()) * CHUNK);
        (from.max(first as u32)..end as u32).find(|i| self.at(*i).state & LIVE != 0)
    }
    /// Indices of all that live.
    pub fn indices(&self) -> impl Iterator<Item = u32> + '_ {
        let end = self.skipped + self.chunks.len();
        ((self.skipped * CHUNK) as u32..(end * CHUNK) as u32).filter(|i| self.at(*i).state & LIVE != 0)
    }
    pub fn heap_bytes(&self) -> usize {
        self.chunks.len() * CHUNK * size_of::<Entry<T>>() + self.chunks.capacity() * size_of::<usize>()
    }
}

/// What the kernel holds for an fd; kept in the first registration of the fd's list.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Kernel {
    #[default]
    Absent,
    Edge,
    Oneshot,
    /// A one-shot that has been reported: present, silent.
    Disarmed,
    /// As above, but it was armed again while the report was on its way, before it or after it: perhaps it is not silent
    /// and reports once more, to nobody.
    Unsure,
}

/// One registration of an fd. `link` is the next registration of the same fd. In this order because of `is_usual`.
#[repr(C)]
pub struct Fd {
    pub user_data: u64,
    pub deadline: i64,
    pub target: Target,
    pub fd: i32,
    pub pos: u32,
    pub mode: Mode,
    pub flags: u8,
    pub interest: Interest,
    /// What was asked of the kernel (first registration only).
    pub asked: Interest,
    pub kernel: Kernel,
    /// During which wait of the driver the kernel was asked, if during any (first registration only).
    pub during: u16,
}

/// Waits for news.
pub const ARMED: u8 = 1;
/// Out of the fd's list: closed, told so, waits to be unregistered.
pub const CLOSED: u8 = 2;
/// The kernel cannot poll it.
pub const ALWAYS: u8 = 4;
/// Frees itself by its delivery.
pub const RELEASE: u8 = 8;
pub const EXCLUSIVE: u8 = 16;
/// In `State::always`.
pub const QUEUED: u8 = 32;
/// Its file was closed: the next turn tells it.
pub const GONE: u8 = 64;

impl Default for Fd {
    fn default() -> Self {
        Fd {
            user_data: 0,
            deadline: NEVER,
            target: Target::None,
            fd: -1,
            pos: UNARMED,
            interest: Interest::NONE,
            mode: Mode::Edge,
            asked: Interest::NONE,
            kernel: Kernel::Absent,
            during: 0,
            flags: 0,
        }
    }
}

impl Fd {
    /// EDGE, armed, and nothing else about it: mode and flags lie side by side, so this is one comparison.
    #[inline(always)]
    pub fn is_usual(&self) -> bool {
        const USUAL: u16 = u16::from_le_bytes([Mode::Edge as u8, ARMED]);
        u16::from_le_bytes([self.mode as u8, self.flags]) == USUAL
    }
    pub fn is(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
    pub fn set(&mut self, flag: u8, on: bool) {
        if on { self.flags |= flag } else { self.flags &= !flag }
    }
    /// What the consumer's drain leaves to do.
    pub fn after(&self) -> After {
        match self.mode {
            Mode::Level => After::Relook,
            _ if self.is(RELEASE) => After::Release,
            _ => After::Nothing,
        }
    }
}

/// A timeout. Its entry's `link` is its position in the heap; its clock and flags are the entry's bits, which makes an
/// entry 40 bytes.
pub struct Timeout {
    pub user_data: u64,
    /// Its deadline, or if that is shared the address of the word where it is: see `Entry::deadline`.
    due: i64,
    pub target: Target,
}

impl Timeout {
    pub fn new(user_data: u64, deadline: i64, target: Target) -> Timeout {
        Timeout { user_data, due: deadline, target }
    }
}

/// The caller's word with the deadline of a timeout, aligned. Valid until the registration ends: that is the caller's
/// promise (`bell_share_deadline`). It is only looked at under the shard's lock, and under that lock the entry goes.
#[derive(Clone, Copy)]
pub struct DeadlineWord(*const AtomicI64);

impl DeadlineWord {
    pub fn new(word: *mut i64) -> Result<DeadlineWord> {
        if word.is_null() || !word.is_aligned() {
            return Err(Error::INVAL);
        }
        Ok(DeadlineWord(word.cast_const().cast()))
    }
}

impl Default for Timeout {
    fn default() -> Self {
        Timeout::new(0, NEVER, Target::None)
    }
}

#[derive(Clone, Copy)]
pub struct TimeoutKind {
    pub clock: Clock,
    pub release: bool,
    /// Period or slack are in `Registry::extras`.
    pub extra: bool,
}

impl TimeoutKind {
    const RELEASE: u32 = 4;
    const EXTRA: u32 = 8;
    /// Its deadline is in a word of the caller's.
    const SHARED: u32 = 16;

    pub fn bits(self) -> u32 {
        self.clock as u32 | if self.release { Self::RELEASE } else { 0 } | if self.extra { Self::EXTRA } else { 0 }
    }
    pub fn after(self) -> After {
        if self.release { After::Release } else { After::Nothing }
    }
}

impl Entry<Timeout> {
    #[inline]
    pub fn kind(&self) -> TimeoutKind {
        let bits = self.bits();
        let clock = Clock::ALL[(bits & 3) as usize % Clock::ALL.len()];
        TimeoutKind { clock, release: bits & TimeoutKind::RELEASE != 0, extra: bits & TimeoutKind::EXTRA != 0 }
    }
    #[inline]
    pub fn is_shared(&self) -> bool {
        self.bits() & TimeoutKind::SHARED != 0
    }
    /// Nothing in `Registry::extras`, and the deadline is in the entry itself.
    #[inline]
    fn is_plain(&self) -> bool {
        self.bits() & (TimeoutKind::EXTRA | TimeoutKind::SHARED) == 0
    }
    /// From now on the deadline is in the caller's word.
    pub fn share(&mut self, word: DeadlineWord) {
        self.state |= TimeoutKind::SHARED << GENERATION_FIELD;
        self.value.due = word.0.expose_provenance() as i64;
    }
    fn word(&self) -> Option<&AtomicI64> {
        let word = std::ptr::with_exposed_provenance::<AtomicI64>(self.value.due as usize);
        // SAFETY: `share` put the address there: aligned, and alive as long as this entry.
        self.is_shared().then(|| unsafe { &*word })
    }
    /// Relaxed where it is shared, because it tells of nothing but itself; and its owner may store anything.
    #[inline]
    pub fn deadline(&self) -> i64 {
        self.word().map_or(self.value.due, |word| word.load(Relaxed).max(0))
    }
    #[inline]
    pub fn set_deadline(&mut self, deadline: i64) {
        match self.word() {
            Some(word) => word.store(deadline, Relaxed),
            None => self.value.due = deadline,
        }
    }
    #[inline]
    pub fn is_armed(&self) -> bool {
        self.link != UNARMED
    }
}

impl Slab<Timeout> {
    /// Where the deadline of a timeout can be moved by a store, and whether it is armed; not of one that is shared.
    #[inline]
    pub fn due_of(&mut self, handle: Handle) -> Option<(u32, &mut i64)> {
        self.find_without(handle, TimeoutKind::SHARED).map(|e| (e.link, &mut e.value.due))
    }
}

/// What few timeouts have.
#[derive(Clone, Copy, Default)]
pub struct Extra {
    pub period: i64,
    pub slack: i64,
}

#[derive(Default)]
pub struct User {
    pub user_data: u64,
    pub target: Target,
    /// Posted while an MVAR was spent: kept for the next one.
    pub kept: Option<u32>,
}

/// In a timer's id: the deadline of an fd's registration, not a timeout.
pub const FD_DEADLINE: u32 = 1 << 24;

pub struct Registry {
    pub shard: u8,
    /// Every deadline may be this late.
    pub slack: i64,
    pub fds: Slab<Fd>,
    pub timeouts: Slab<Timeout>,
    pub extras: HashMap<u32, Extra, BuildHasherDefault<DefaultHasher>>,
    pub users: Slab<User>,
    pub slots: Slots,
    /// News for `bell_poll`.
    pub poll: ReadyList,
}

impl Registry {
    pub fn new(shard: u8, slack: i64) -> Registry {
        Registry {
            shard,
            slack,
            fds: Slab::new(),
            timeouts: Slab::new(),
            extras: HashMap::default(),
            users: Slab::new(),
            slots: Slots::new(),
            poll: ReadyList::new(),
        }
    }

    /// Empty, and none of its handles is one of `old`.
    pub fn instead_of(old: &Registry) -> Registry {
        Registry {
            fds: Slab::instead_of(&old.fds),
            timeouts: Slab::instead_of(&old.timeouts),
            users: Slab::instead_of(&old.users),
            ..Registry::new(old.shard, old.slack)
        }
    }

    #[inline]
    pub fn fd_handle(&self, index: u32) -> Handle {
        Handle::new(Kind::Fd, self.shard, index, self.fds.generation(index))
    }
    pub fn timeout_handle(&self, index: u32) -> Handle {
        Handle::new(Kind::Timeout, self.shard, index, self.timeouts.generation(index))
    }
    pub fn user_handle(&self, index: u32) -> Handle {
        Handle::new(Kind::User, self.shard, index, self.users.generation(index))
    }

    /// Keeps what a target needs: a slot or a list node. An error keeps nothing.
    #[inline(always)]
    pub fn bind(&mut self, spec: Spec, handle: Handle, user_data: u64, after: After) -> Result<Target> {
        match spec {
            Spec::Poll => Ok(Target::Poll { node: self.poll.reserve(handle, user_data, after)? }),
            other => self.bind_other(other, handle, user_data, after),
        }
    }

    #[inline(never)]
    fn bind_other(&mut self, spec: Spec, handle: Handle, user_data: u64, after: After) -> Result<Target> {
        Ok(match spec {
            Spec::None => Target::None,
            Spec::Poll => Target::Poll { node: self.poll.reserve(handle, user_data, after)? },
            Spec::Slot => Target::Slot { slot: self.slots.take()? },
            Spec::Futex(word) => Target::Futex(word),
            Spec::WakeFd(fd) => Target::WakeFd(fd),
            Spec::Queue(queue) => {
                let node = queue.reserve(handle, user_data, after)?;
                Target::Queue { queue, node }
            }
            Spec::Mvar(sp) => Target::Mvar(sp),
        })
    }

    /// Gives back what a target held.
    #[inline(always)]
    pub fn unbind(&mut self, target: Target) -> Left {
        match target {
            Target::Poll { node } => self.poll.release(node),
            other => self.unbind_other(other),
        }
    }

    #[inline(never)]
    fn unbind_other(&mut self, target: Target) -> Left {
        match target {
            Target::Poll { node } => self.poll.release(node),
            Target::Queue { queue, node } => queue.release(node),
            Target::Slot { slot } => {
                self.slots.give_back(slot);
                Left::Nothing
            }
            Target::None | Target::Futex(_) | Target::WakeFd(_) | Target::Mvar(_) => Left::Nothing,
        }
    }

    pub fn set_after(&mut self, target: &Target, after: After) {
        match target {
            Target::Poll { node } => self.poll.set_after(*node, after),
            Target::Queue { queue, node } => queue.set_after(*node, after),
            _ => {}
        }
    }

    /// The slot of a registration of any kind.
    pub fn slot(&self, handle: Handle) -> Result<&'static slot::Slot> {
        let target = match handle.kind() {
            Some(Kind::Fd) => self.fds.find(handle).map(|i| &self.fds.at(i).value.target),
            Some(Kind::Timeout) => self.timeouts.find(handle).map(|i| &self.timeouts.at(i).value.target),
            Some(Kind::User) => self.users.find(handle).map(|i| &self.users.at(i).value.target),
            _ => return Err(Error::INVAL),
        };
        match target {
            Some(Target::Slot { slot }) => Ok(self.slots.get(*slot)),
            Some(_) => Err(Error::INVAL),
            None => Err(Error::STALE),
        }
    }

    /// Adds a registration to its fd's list: first if there is none, else behind the first, whose handle is the
    /// kernel's cookie.
    pub fn attach(&mut self, word: Place, index: u32, head: u32) {
        if head == NIL {
            word.set_head(self.shard as usize, index);
        } else {
            let second = std::mem::replace(&mut self.fds.at_mut(head).link, index);
            self.fds.at_mut(index).link = second;
        }
    }

    /// Takes a registration out of its fd's list. Returns the first of what is left, which inherits what the kernel
    /// holds.
    pub fn detach(&mut self, fds: &FdTable, index: u32) -> u32 {
        let fd = self.fds.at(index).value.fd;
        let head = fds.head(fd);
        let next = std::mem::replace(&mut self.fds.at_mut(index).link, NIL);
        if head == index {
            let gone = &mut self.fds.at_mut(index).value;
            let (kernel, asked, during) = (std::mem::take(&mut gone.kernel), gone.asked, gone.during);
            fds.set_head(fd, self.shard as usize, next);
            if next != NIL {
                let heir = &mut self.fds.at_mut(next).value;
                (heir.kernel, heir.asked, heir.during) = (kernel, asked, during);
            }
            return next;
        }
        let mut at = head;
        while at != NIL {
            let entry = self.fds.at_mut(at);
            if entry.link == index {
                entry.link = next;
                break;
            }
            at = entry.link;
        }
        head
    }

    /// What the registrations of a list want of the kernel: edges if any of them does, and the union of interests.
    pub fn wanted(&self, head: u32) -> (Interest, bool) {
        let (mut union, mut edge) = (Interest::NONE, false);
        let mut at = head;
        while at != NIL {
            let entry = self.fds.at(at);
            let fd = &entry.value;
            if fd.is(ARMED) && !fd.is(ALWAYS) {
                union = union | fd.interest;
                edge |= fd.mode == Mode::Edge;
            }
            at = entry.link;
        }
        (union, edge)
    }

    #[inline(never)]
    fn slack_of(&self, timeout: u32) -> i64 {
        self.extra(timeout).slack.max(self.slack)
    }

    /// The deadline of a timeout, and how often it fires (0: once).
    #[inline]
    pub fn due_and_period(&self, index: u32) -> (i64, i64) {
        let entry = self.timeouts.at(index);
        if entry.is_plain() {
            return (entry.value.due, 0);
        }
        (entry.deadline(), if entry.kind().extra { self.extra(index).period } else { 0 })
    }

    pub fn extra(&self, index: u32) -> Extra {
        self.extras.get(&index).copied().unwrap_or_default()
    }

    pub fn heap_bytes(&self) -> usize {
        self.fds.heap_bytes()
            + self.timeouts.heap_bytes()
            + self.users.heap_bytes()
            + self.slots.heap_bytes()
            + self.poll.heap_bytes()
            + self.extras.capacity() * size_of::<(u32, Extra)>()
    }
}

/// Timers reach deadlines and positions in the entries themselves.
impl Nodes for Registry {
    #[inline]
    fn pos(&mut self, id: u32) -> &mut u32 {
        if id & FD_DEADLINE != 0 {
            &mut self.fds.at_mut(id & !FD_DEADLINE).value.pos
        } else {
            &mut self.timeouts.at_mut(id).link
        }
    }
    #[inline]
    fn due_and_slack(&self, id: u32) -> (i64, i64) {
        if id & FD_DEADLINE != 0 {
            return (self.fds.at(id & !FD_DEADLINE).value.deadline, self.slack);
        }
        let entry = self.timeouts.at(id);
        if entry.is_plain() {
            return (entry.value.due, self.slack);
        }
        (entry.deadline(), if entry.kind().extra { self.slack_of(id) } else { self.slack })
    }
    #[inline]
    fn is_shared(&self, id: u32) -> bool {
        id & FD_DEADLINE == 0 && self.timeouts.at(id).is_shared()
    }
}
