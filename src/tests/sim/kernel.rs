//! A simulated kernel: numbers, open file descriptions, what they stand for, epoll, clocks. It does what Linux does,
//! oddities included (the list at the top of `backend/epoll.rs`, F1 to F10 of the museum); `libc.rs` is its surface.
//!
//! The reference model asks it what no real kernel tells: since when a bit has been true, and when it last arrived.
use std::collections::VecDeque;

pub const NONE: u32 = u32::MAX;
pub const IN: u32 = 1;
pub const PRI: u32 = 2;
pub const OUT: u32 = 4;
pub const ERR: u32 = 8;
pub const HUP: u32 = 16;
pub const RDHUP: u32 = 0x2000;
const ET: u32 = 1 << 31;
const ONESHOT: u32 = 1 << 30;
const EXCLUSIVE: u32 = 1 << 28;
const PRIVATE: u32 = ET | ONESHOT | EXCLUSIVE | 1 << 29;
const BITS: [u32; 6] = [IN, PRI, OUT, ERR, HUP, RDHUP];
const EVENT_MOST: u64 = u64::MAX - 1;
const NEVER: i64 = i64::MAX;

/// The first number of the user's fds, and of the library's.
pub const USERS: usize = 3;
pub const OURS: usize = 200;

pub type Answer<T> = Result<T, i32>;

/// Small and good enough; the same everywhere and always.
#[derive(Clone)]
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
    pub fn chance(&mut self, of_1000: u32) -> bool {
        of_1000 > 0 && (self.next() % 1000) < of_1000 as u64
    }
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub enum Fault {
    Intr,
    NoMem,
    NoSpace,
    TooMany,
    Perm,
    BadFd,
    ShortBatch,
    Spurious,
    Frozen,
    NoAlloc,
}
pub const FAULTS: [(Fault, &str); 10] = [
    (Fault::Intr, "EINTR"),
    (Fault::NoMem, "ENOMEM"),
    (Fault::NoSpace, "ENOSPC"),
    (Fault::TooMany, "EMFILE"),
    (Fault::Perm, "EPERM"),
    (Fault::BadFd, "EBADF race"),
    (Fault::ShortBatch, "short batch"),
    (Fault::Spurious, "spurious wake"),
    (Fault::Frozen, "frozen time"),
    (Fault::NoAlloc, "refused memory"),
];

/// An open file description.
pub struct File {
    pub object: u32,
    pub end: usize,
    /// Numbers of our process that mean it.
    pub numbers: u32,
    /// Other processes that hold it.
    pub foreign: u32,
    /// Made by the library.
    pub ours: bool,
    /// Entries of epoll sets: (the epoll's file, the entry).
    watchers: Vec<(u32, u32)>,
    /// When each bit was last seen true, and when it last arrived.
    was: [u64; 6],
    arrived: [u64; 6],
    /// Never the same again.
    pub life: u64,
}

pub enum Object {
    Free,
    Pipe {
        bytes: usize,
        room: usize,
        files: [u32; 2],
    },
    Pair {
        bytes: [usize; 2],
        room: usize,
        files: [u32; 2],
        shut: [bool; 2],
        error: [bool; 2],
        urgent: [bool; 2],
    },
    Event {
        count: u64,
        file: u32,
    },
    Timer {
        clock: usize,
        at: i64,
        interval: i64,
        expired: bool,
        on_jump: bool,
        jumped: bool,
    },
    Epoll(Epoll),
    Regular,
    Null,
    /// A file of /proc, and how much of it has been read.
    Text(Vec<u8>, usize),
}

#[derive(Default)]
pub struct Epoll {
    entries: Vec<Entry>,
    free: Vec<u32>,
    ready: VecDeque<u32>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    pub file: u32,
    pub fd: i32,
    pub events: u32,
    pub data: u64,
    listed: bool,
}

pub struct World {
    numbers: Vec<u32>,
    pub files: Vec<File>,
    free_files: Vec<u32>,
    pub objects: Vec<Object>,
    free_objects: Vec<u32>,
    timers: Vec<u32>,
    /// Counts changes of readiness; what the model calls an instant.
    pub tick: u64,
    /// Counts what wait queues were told: who sleeps in the kernel looks again.
    pub told: u64,
    pub lives: u64,
    /// CLOCK_MONOTONIC, and what the others are ahead of it.
    pub time: i64,
    pub ahead: [i64; 3],
    /// The most that each has shown before it was set back.
    pub peak: [i64; 3],
    /// Reading a clock gives its last multiple of this.
    pub grain: i64,
    pub rng: Rng,
    /// Per thousand, by fault.
    pub rates: [u32; FAULTS.len()],
    pub faulty: bool,
    pub met: [u64; FAULTS.len()],
    /// Faults that the call under way has met.
    pub hit: u64,
    pub no_pwait2: i32,
    /// Pipes tell only the change from empty to non-empty (Linux 5.5 to 5.13).
    pub shy_pipes: bool,
    pub most_numbers: usize,
    /// Where the lowest free number is looked for: the user's fds, and the library's.
    pub lowest: usize,
    pub lowest_ours: usize,
    /// The library's writes are forbidden from now on.
    pub mute: bool,
    /// Numbers that somebody closes in the middle of the next epoll_ctl.
    pub close_in_ctl: Option<i32>,
    pub waits: u64,
    /// Of the call under way.
    pub in_call: u64,
    pub call_time: i64,
    pub call_still: u64,
    pub empty_waits: u64,
    pub wiped: Vec<usize>,
    pub text: Option<Vec<u8>>,
    pub cpu: i32,
    /// The only thread slept, and nothing would ever have woken it.
    pub idle: bool,
    /// Epolls that a thread sleeps in.
    pub asleep: Vec<u32>,
}

impl World {
    pub fn new(seed: u64) -> World {
        World {
            numbers: Vec::new(),
            files: Vec::new(),
            free_files: Vec::new(),
            objects: Vec::new(),
            free_objects: Vec::new(),
            timers: Vec::new(),
            tick: 1,
            told: 0,
            lives: 0,
            time: 1,
            ahead: [0; 3],
            peak: [0; 3],
            grain: 1,
            rng: Rng(seed),
            rates: [0; FAULTS.len()],
            faulty: false,
            met: [0; FAULTS.len()],
            hit: 0,
            no_pwait2: 0,
            shy_pipes: false,
            most_numbers: 400,
            lowest: USERS,
            lowest_ours: OURS,
            mute: false,
            close_in_ctl: None,
            waits: 0,
            in_call: 0,
            call_time: 0,
            call_still: 0,
            empty_waits: 0,
            wiped: Vec::new(),
            text: None,
            cpu: 0,
            idle: false,
            asleep: Vec::new(),
        }
    }

    pub fn fault(&mut self, f: Fault) -> bool {
        if !self.faulty || !self.rng.chance(self.rates[f as usize]) {
            return false;
        }
        self.count_fault(f);
        true
    }
    pub fn count_fault(&mut self, f: Fault) {
        self.met[f as usize] += 1;
        self.hit += 1;
    }

    // ---- numbers and descriptions

    pub fn file_of(&self, fd: i32) -> Answer<u32> {
        match usize::try_from(fd).ok().and_then(|i| self.numbers.get(i)) {
            Some(&f) if f != NONE => Ok(f),
            _ => Err(libc::EBADF),
        }
    }
    pub fn is_open(&self, fd: i32) -> bool {
        self.file_of(fd).is_ok()
    }
    pub fn is_ours(&self, fd: i32) -> bool {
        self.file_of(fd).is_ok_and(|f| self.files[f as usize].ours)
    }
    pub fn life_of(&self, fd: i32) -> u64 {
        self.file_of(fd).map_or(0, |f| self.files[f as usize].life)
    }
    pub fn open_numbers(&self) -> impl Iterator<Item = i32> + '_ {
        self.numbers.iter().enumerate().filter(|(_, f)| **f != NONE).map(|(i, _)| i as i32)
    }
    pub fn object(&self, file: u32) -> &Object {
        &self.objects[self.files[file as usize].object as usize]
    }
    fn object_mut(&mut self, file: u32) -> &mut Object {
        &mut self.objects[self.files[file as usize].object as usize]
    }

    /// The lowest number that is free.
    fn number(&mut self, file: u32) -> Answer<i32> {
        let found = (self.lowest..self.numbers.len()).find(|i| self.numbers[*i] == NONE);
        let at = found.unwrap_or(self.numbers.len().max(self.lowest));
        if at >= self.most_numbers {
            return Err(libc::EMFILE);
        }
        while self.numbers.len() <= at {
            self.numbers.push(NONE);
        }
        self.numbers[at] = file;
        self.files[file as usize].numbers += 1;
        Ok(at as i32)
    }

    fn new_object(&mut self, object: Object) -> u32 {
        match self.free_objects.pop() {
            Some(i) => {
                self.objects[i as usize] = object;
                i
            }
            None => {
                self.objects.push(object);
                self.objects.len() as u32 - 1
            }
        }
    }
    fn new_file(&mut self, object: u32, end: usize) -> u32 {
        self.lives += 1;
        let (was, arrived) = ([0; 6], [0; 6]);
        match self.free_files.pop() {
            Some(i) => {
                let watchers = std::mem::take(&mut self.files[i as usize].watchers);
                self.files[i as usize] =
                    File { object, end, numbers: 0, foreign: 0, ours: false, watchers, was, arrived, life: self.lives };
                i
            }
            None => {
                let watchers = Vec::new();
                self.files.push(File {
                    object,
                    end,
                    numbers: 0,
                    foreign: 0,
                    ours: false,
                    watchers,
                    was,
                    arrived,
                    life: self.lives,
                });
                self.files.len() as u32 - 1
            }
        }
    }

    fn open_one(&mut self, object: Object) -> Answer<i32> {
        let object = self.new_object(object);
        let file = self.new_file(object, 0);
        let n = self.number(file);
        if n.is_err() {
            self.release(file);
        } else if let Object::Event { file: f, .. } = &mut self.objects[object as usize] {
            *f = file;
        }
        n
    }
    fn open_two(&mut self, make: impl FnOnce([u32; 2]) -> Object) -> Answer<[i32; 2]> {
        let object = self.new_object(Object::Regular);
        let files = [self.new_file(object, 0), self.new_file(object, 1)];
        self.objects[object as usize] = make(files);
        let ends = self.number(files[0]).and_then(|a| match self.number(files[1]) {
            Ok(b) => Ok([a, b]),
            Err(e) => {
                self.numbers[a as usize] = NONE;
                self.files[files[0] as usize].numbers = 0;
                Err(e)
            }
        });
        if ends.is_err() {
            self.release(files[0]);
            self.release(files[1]);
        }
        ends
    }
    pub fn pipe(&mut self, room: usize) -> Answer<[i32; 2]> {
        self.open_two(|files| Object::Pipe { bytes: 0, room, files })
    }
    pub fn pair(&mut self, room: usize) -> Answer<[i32; 2]> {
        let no = [false; 2];
        self.open_two(|files| Object::Pair { bytes: [0; 2], room, files, shut: no, error: no, urgent: no })
    }
    pub fn eventfd(&mut self, count: u64) -> Answer<i32> {
        self.open_one(Object::Event { count, file: NONE })
    }
    pub fn epoll(&mut self) -> Answer<i32> {
        self.open_one(Object::Epoll(Epoll::default()))
    }
    pub fn timer(&mut self, clock: usize) -> Answer<i32> {
        let fd = self.open_one(Object::Timer {
            clock,
            at: NEVER,
            interval: 0,
            expired: false,
            on_jump: false,
            jumped: false,
        })?;
        self.timers.push(self.numbers[fd as usize]);
        Ok(fd)
    }
    pub fn regular(&mut self) -> Answer<i32> {
        self.open_one(Object::Regular)
    }
    pub fn text_file(&mut self, bytes: Vec<u8>) -> Answer<i32> {
        self.open_one(Object::Text(bytes, 0))
    }
    pub fn read_text(&mut self, file: u32, n: usize) -> Option<Vec<u8>> {
        let Object::Text(bytes, at) = self.object_mut(file) else { return None };
        let end = (*at + n).min(bytes.len());
        let piece = bytes[*at..end].to_vec();
        *at = end;
        Some(piece)
    }
    pub fn null(&mut self) -> Answer<i32> {
        self.open_one(Object::Null)
    }
    pub fn dup(&mut self, fd: i32) -> Answer<i32> {
        let file = self.file_of(fd)?;
        self.number(file)
    }
    pub fn dup3(&mut self, old: i32, new: i32) -> Answer<i32> {
        let file = self.file_of(old)?;
        let before = self.file_of(new);
        while self.numbers.len() <= new as usize {
            self.numbers.push(NONE);
        }
        self.numbers[new as usize] = file;
        self.files[file as usize].numbers += 1;
        if let Ok(before) = before {
            self.drop_number(before);
        }
        Ok(new)
    }
    pub fn close(&mut self, fd: i32) -> Answer<i32> {
        let file = self.file_of(fd)?;
        self.numbers[fd as usize] = NONE;
        self.drop_number(file);
        Ok(0)
    }
    fn drop_number(&mut self, file: u32) {
        let f = &mut self.files[file as usize];
        f.numbers -= 1;
        if f.numbers + f.foreign == 0 {
            self.release(file);
        }
    }
    /// Another process (a forked child) holds the file, or does no more.
    pub fn hold(&mut self, file: u32) {
        self.files[file as usize].foreign += 1;
    }
    pub fn let_go(&mut self, file: u32) {
        let f = &mut self.files[file as usize];
        f.foreign -= 1;
        if f.numbers + f.foreign == 0 {
            self.release(file);
        }
    }

    /// The last holder is gone.
    fn release(&mut self, file: u32) {
        let mut watchers = std::mem::take(&mut self.files[file as usize].watchers);
        for (epoll, entry) in watchers.drain(..) {
            if let Object::Epoll(e) = self.object_mut(epoll) {
                e.forget(entry);
            }
        }
        self.files[file as usize].watchers = watchers;
        let (object, end) = (self.files[file as usize].object, self.files[file as usize].end);
        self.files[file as usize].life = 0;
        let mut peer = NONE;
        let gone = match &mut self.objects[object as usize] {
            Object::Pipe { files, .. } | Object::Pair { files, .. } => {
                files[end] = NONE;
                peer = files[1 - end];
                peer == NONE
            }
            Object::Epoll(e) => {
                let entries = std::mem::take(&mut e.entries);
                for (i, entry) in entries.iter().enumerate().filter(|(_, e)| e.file != NONE) {
                    self.files[entry.file as usize].watchers.retain(|w| *w != (file, i as u32));
                }
                true
            }
            Object::Timer { .. } => {
                self.timers.retain(|t| *t != file);
                true
            }
            _ => true,
        };
        if gone {
            self.objects[object as usize] = Object::Free;
            self.free_objects.push(object);
        }
        self.free_files.push(file);
        if peer != NONE {
            let pair = matches!(self.object(peer), Object::Pair { .. });
            self.stamp(peer);
            self.notify(peer, if pair { IN | OUT | HUP | RDHUP } else { self.mask(peer) | HUP | ERR });
        }
    }

    // ---- readiness

    pub fn mask(&self, file: u32) -> u32 {
        let f = &self.files[file as usize];
        let on = |yes: bool, bit: u32| if yes { bit } else { 0 };
        match &self.objects[f.object as usize] {
            Object::Pipe { bytes, files, .. } if f.end == 0 => on(*bytes > 0, IN) | on(files[1] == NONE, HUP),
            Object::Pipe { bytes, room, files } => on(bytes < room, OUT) | on(files[0] == NONE, ERR),
            Object::Pair { bytes, room, files, shut, error, urgent } => {
                let (me, you) = (f.end, 1 - f.end);
                let ended = shut[you] || files[you] == NONE;
                on(bytes[me] > 0 || ended, IN)
                    | on(bytes[you] < *room || shut[me] || files[you] == NONE, OUT)
                    | on(ended, RDHUP)
                    | on(files[you] == NONE || shut[me] && shut[you], HUP)
                    | on(error[me], ERR)
                    | on(urgent[me], PRI)
            }
            Object::Event { count, .. } => on(*count > 0, IN) | on(*count < EVENT_MOST, OUT),
            Object::Timer { expired, jumped, .. } => on(*expired || *jumped, IN),
            Object::Epoll(e) => on(
                e.ready.iter().any(|i| {
                    let entry = &e.entries[*i as usize];
                    entry.file != NONE && self.mask(entry.file) & entry.events != 0
                }),
                IN,
            ),
            Object::Regular | Object::Null | Object::Text(..) => IN | OUT,
            Object::Free => 0,
        }
    }
    fn can_poll(&self, file: u32) -> bool {
        !matches!(self.object(file), Object::Regular | Object::Null)
    }

    /// Writes down what is true now.
    pub fn stamp(&mut self, file: u32) {
        self.tick += 1;
        let mask = self.mask(file);
        let f = &mut self.files[file as usize];
        for (i, bit) in BITS.iter().enumerate() {
            if mask & bit != 0 {
                f.was[i] = self.tick;
            }
        }
    }
    /// The bits that were true at some instant since then.
    pub fn true_since(&self, file: u32, tick: u64) -> u32 {
        let f = &self.files[file as usize];
        let were = BITS.iter().enumerate().filter(|(i, _)| f.was[*i] >= tick).fold(0, |m, (_, b)| m | b);
        were | self.mask(file)
    }
    /// The bits that arrived since then and are true.
    pub fn arrived_since(&self, file: u32, tick: u64) -> u32 {
        let f = &self.files[file as usize];
        let came = BITS.iter().enumerate().filter(|(i, _)| f.arrived[*i] >= tick).fold(0, |m, (_, b)| m | b);
        came & self.mask(file)
    }

    /// What the wait queues of the file are told.
    fn notify(&mut self, file: u32, key: u32) {
        self.tick += 1;
        self.told += 1;
        let mask = self.mask(file);
        for (i, bit) in BITS.iter().enumerate() {
            if mask & key & bit != 0 {
                self.files[file as usize].arrived[i] = self.tick;
            }
        }
        let mut told_exclusive = false;
        for w in 0..self.files[file as usize].watchers.len() {
            let (epoll, entry) = self.files[file as usize].watchers[w];
            let Object::Epoll(e) = self.object_mut(epoll) else { continue };
            let it = e.entries[entry as usize];
            if it.events & !PRIVATE == 0 || key != 0 && key & it.events == 0 {
                continue;
            }
            if it.events & EXCLUSIVE != 0 {
                if told_exclusive {
                    continue;
                }
                // One sleeper is woken; those that do not sleep have it on their lists all the same.
                told_exclusive = self.asleep.contains(&epoll);
            }
            self.list(epoll, entry);
        }
    }
    fn list(&mut self, epoll: u32, entry: u32) {
        let Object::Epoll(e) = self.object_mut(epoll) else { return };
        let it = &mut e.entries[entry as usize];
        if !std::mem::replace(&mut it.listed, true) {
            e.ready.push_back(entry);
        }
        self.told += 1;
        if !self.files[epoll as usize].watchers.is_empty() {
            self.notify(epoll, IN);
        }
    }

    /// Wait queues are told something that is nothing: a spurious event, if the file is ready.
    pub fn stir(&mut self, file: u32) {
        self.notify(file, 0);
    }

    // ---- I/O

    fn after(&mut self, file: u32, key: u32) {
        if file != NONE {
            self.stamp(file);
            if key != 0 {
                self.notify(file, key);
            }
        }
    }

    pub fn write(&mut self, fd: i32, n: u64) -> Answer<i64> {
        let file = self.file_of(fd)?;
        self.stamp(file);
        let (end, shy) = (self.files[file as usize].end, self.shy_pipes);
        let (told, key, wrote) = match self.object_mut(file) {
            Object::Pipe { bytes, room, files } => {
                if end == 0 {
                    return Err(libc::EBADF);
                }
                if files[0] == NONE {
                    return Err(libc::EPIPE);
                }
                if bytes == room {
                    return Err(libc::EAGAIN);
                }
                let was_empty = *bytes == 0;
                let wrote = (n as usize).min(*room - *bytes);
                *bytes += wrote;
                (files[0], if was_empty || !shy { IN } else { 0 }, wrote)
            }
            Object::Pair { bytes, room, files, shut, .. } => {
                let you = 1 - end;
                if files[you] == NONE || shut[end] {
                    return Err(libc::EPIPE);
                }
                if bytes[you] >= *room {
                    return Err(libc::EAGAIN);
                }
                let wrote = (n as usize).min(*room - bytes[you]);
                bytes[you] += wrote;
                (files[you], IN, wrote)
            }
            Object::Event { count, .. } => {
                if EVENT_MOST - *count < n {
                    return Err(libc::EAGAIN);
                }
                *count += n;
                (file, IN, 8)
            }
            Object::Regular | Object::Null => return Ok(n as i64),
            _ => return Err(libc::EINVAL),
        };
        if told != file {
            self.stamp(file);
        }
        self.after(told, key);
        Ok(wrote as i64)
    }

    /// Up to `n` bytes; 0 at the end of a stream. An eventfd gives its count, a timer 1, whatever `n` is.
    pub fn read(&mut self, fd: i32, n: usize) -> Answer<i64> {
        let file = self.file_of(fd)?;
        self.stamp(file);
        let end = self.files[file as usize].end;
        let (told, key, got) = match self.object_mut(file) {
            Object::Pipe { bytes, room, files } => {
                if end == 1 {
                    return Err(libc::EBADF);
                }
                if *bytes == 0 {
                    return if files[1] == NONE { Ok(0) } else { Err(libc::EAGAIN) };
                }
                let was_full = bytes == room;
                let got = n.min(*bytes);
                *bytes -= got;
                (files[1], if was_full { OUT } else { 0 }, got as i64)
            }
            Object::Pair { bytes, room, files, shut, .. } => {
                let you = 1 - end;
                if bytes[end] == 0 {
                    return if shut[you] || files[you] == NONE { Ok(0) } else { Err(libc::EAGAIN) };
                }
                let was_full = bytes[end] >= *room;
                let got = n.min(bytes[end]);
                bytes[end] -= got;
                (files[you], if was_full { OUT } else { 0 }, got as i64)
            }
            Object::Event { count, .. } => {
                if *count == 0 {
                    return Err(libc::EAGAIN);
                }
                let got = std::mem::take(count);
                (file, OUT, got as i64)
            }
            Object::Timer { expired, jumped, .. } => {
                if std::mem::take(jumped) {
                    *expired = false;
                    return Err(libc::ECANCELED);
                }
                if !std::mem::take(expired) {
                    return Err(libc::EAGAIN);
                }
                return Ok(1);
            }
            _ => return Ok(0),
        };
        if told != file {
            self.stamp(file);
        }
        self.after(told, key);
        Ok(got)
    }

    pub fn shut(&mut self, fd: i32) -> Answer<()> {
        let file = self.file_of(fd)?;
        let end = self.files[file as usize].end;
        let Object::Pair { files, shut, .. } = self.object_mut(file) else { return Err(libc::ENOTSOCK) };
        shut[end] = true;
        let you = files[1 - end];
        self.after(file, OUT | HUP);
        self.after(you, IN | RDHUP | HUP);
        Ok(())
    }
    /// An error, or urgent data, turns up on the peer; or is taken away again.
    pub fn flag(&mut self, fd: i32, urgent_one: bool, on: bool) -> Answer<()> {
        let file = self.file_of(fd)?;
        self.stamp(file);
        let end = self.files[file as usize].end;
        let Object::Pair { error, urgent, .. } = self.object_mut(file) else { return Err(libc::ENOTSOCK) };
        if urgent_one {
            urgent[end] = on;
        } else {
            error[end] = on;
        }
        let key = if urgent_one { PRI } else { ERR };
        self.after(file, if on { key } else { 0 });
        Ok(())
    }
    pub fn event_count(&self, file: u32) -> u64 {
        if let Object::Event { count, .. } = self.object(file) { *count } else { 0 }
    }

    // ---- epoll

    pub fn epoll_of(&self, fd: i32) -> Answer<u32> {
        let file = self.file_of(fd)?;
        if matches!(self.object(file), Object::Epoll(_)) { Ok(file) } else { Err(libc::EINVAL) }
    }

    pub fn ctl(&mut self, epfd: i32, what: i32, fd: i32, events: u32, data: u64) -> Answer<i32> {
        let epoll = self.epoll_of(epfd)?;
        let file = self.file_of(fd)?;
        if !self.can_poll(file) {
            return Err(libc::EPERM);
        }
        if epoll == file {
            return Err(libc::EINVAL);
        }
        const GOES_WITH_EXCLUSIVE: u32 = IN | OUT | ERR | HUP | ET | EXCLUSIVE | 1 << 29;
        if events & EXCLUSIVE != 0
            && what != libc::EPOLL_CTL_DEL
            && (what == libc::EPOLL_CTL_MOD || events & !GOES_WITH_EXCLUSIVE != 0)
        {
            return Err(libc::EINVAL);
        }
        if what == libc::EPOLL_CTL_ADD && self.reaches(file, epoll) {
            return Err(libc::ELOOP);
        }
        let events = events | ERR | HUP;
        let Object::Epoll(e) = self.object(epoll) else { return Err(libc::EINVAL) };
        let watchers = self.files[file as usize].watchers.iter();
        let is_it = |w: &&(u32, u32)| w.0 == epoll && e.entries[w.1 as usize].fd == fd;
        let found = { watchers }.find(is_it).map(|w| w.1 as usize);
        let Object::Epoll(e) = self.object_mut(epoll) else { return Err(libc::EINVAL) };
        match (what, found) {
            (libc::EPOLL_CTL_ADD, None) => {
                let entry = Entry { file, fd, events, data, listed: false };
                let at = match e.free.pop() {
                    Some(i) => {
                        e.entries[i as usize] = entry;
                        i
                    }
                    None => {
                        e.entries.push(entry);
                        e.entries.len() as u32 - 1
                    }
                };
                self.files[file as usize].watchers.push((epoll, at));
                self.look(epoll, at);
            }
            (libc::EPOLL_CTL_ADD, Some(_)) => return Err(libc::EEXIST),
            (_, None) => return Err(libc::ENOENT),
            (libc::EPOLL_CTL_MOD, Some(i)) => {
                if e.entries[i].events & EXCLUSIVE != 0 {
                    return Err(libc::EINVAL);
                }
                (e.entries[i].events, e.entries[i].data) = (events, data);
                self.look(epoll, i as u32);
            }
            (_, Some(i)) => {
                e.forget(i as u32);
                self.files[file as usize].watchers.retain(|w| *w != (epoll, i as u32));
            }
        }
        Ok(0)
    }
    /// Does one set contain the other?
    fn reaches(&self, file: u32, epoll: u32) -> bool {
        let Object::Epoll(e) = self.object(file) else { return false };
        e.entries.iter().filter(|it| it.file != NONE).any(|it| it.file == epoll || self.reaches(it.file, epoll))
    }
    fn look(&mut self, epoll: u32, entry: u32) {
        let Object::Epoll(e) = self.object(epoll) else { return };
        let it = e.entries[entry as usize];
        if self.mask(it.file) & it.events != 0 {
            self.list(epoll, entry);
        }
    }

    pub fn has_news(&self, epfd: i32) -> Answer<bool> {
        let epoll = self.epoll_of(epfd)?;
        Ok(matches!(self.object(epoll), Object::Epoll(e) if !e.ready.is_empty()))
    }

    /// What epoll_wait gives at once: (events, data).
    pub fn take(&mut self, epfd: i32, most: usize, mut each: impl FnMut(u32, u64)) -> Answer<usize> {
        let epoll = self.epoll_of(epfd)?;
        let Object::Epoll(e) = self.object_mut(epoll) else { return Err(libc::EINVAL) };
        let mut left = e.ready.len();
        let mut n = 0;
        while left > 0 && n < most {
            left -= 1;
            let Object::Epoll(e) = self.object_mut(epoll) else { break };
            let Some(at) = e.ready.pop_front() else { break };
            let it = &mut e.entries[at as usize];
            it.listed = false;
            let it = *it;
            let ready = self.mask(it.file) & it.events;
            if ready == 0 {
                continue;
            }
            each(ready, it.data);
            n += 1;
            let Object::Epoll(e) = self.object_mut(epoll) else { break };
            let entry = &mut e.entries[at as usize];
            if it.events & ONESHOT != 0 {
                entry.events &= PRIVATE;
            } else if it.events & ET == 0 {
                entry.listed = true;
                e.ready.push_back(at);
            }
        }
        Ok(n)
    }

    pub fn entries(&self, file: u32) -> Vec<Entry> {
        match self.object(file) {
            Object::Epoll(e) => e.entries.iter().filter(|e| e.file != NONE).copied().collect(),
            _ => Vec::new(),
        }
    }

    pub fn fdinfo(&self, epfd: i32) -> Answer<String> {
        use std::fmt::Write;
        let entries = self.entries(self.file_of(epfd)?);
        let mut text = String::with_capacity(80 * entries.len());
        for e in entries {
            let _ = writeln!(text, "tfd: {:8} events: {:8x} data: {:16x}  pos:0 ino:0 sdev:0", e.fd, e.events, e.data);
        }
        Ok(text)
    }

    // ---- time

    /// The first time that a clock shows which is not before this one.
    pub fn step_at(&self, time: i64) -> i64 {
        if time == NEVER { NEVER } else { time.saturating_add(self.grain - 1) / self.grain * self.grain }
    }
    pub fn read_clock(&self, clock: usize) -> i64 {
        let t = self.time.saturating_add(self.ahead[clock]);
        t - t % self.grain
    }
    pub fn true_clock(&self, clock: usize) -> i64 {
        self.time.saturating_add(self.ahead[clock])
    }
    pub fn set_timer(&mut self, fd: i32, at: i64, every: i64, on_jump: bool) -> Answer<i32> {
        let file = self.file_of(fd)?;
        self.stamp(file);
        let Object::Timer { at: a, interval, expired, on_jump: j, jumped, .. } = self.object_mut(file) else {
            return Err(libc::EINVAL);
        };
        let cancelled = on_jump && std::mem::take(jumped);
        (*a, *interval, *expired, *j) = (if at == 0 { NEVER } else { at }, every, false, on_jump);
        *jumped = false;
        self.fire_timers();
        if cancelled { Err(libc::ECANCELED) } else { Ok(0) }
    }
    pub fn timer_interval(&self, fd: i32) -> Answer<i64> {
        match self.object(self.file_of(fd)?) {
            Object::Timer { interval, .. } => Ok(*interval),
            _ => Err(libc::EINVAL),
        }
    }
    pub fn next_timer(&self) -> i64 {
        let due = |file: &u32| match self.object(*file) {
            Object::Timer { clock, at, expired: false, .. } if *at != NEVER => {
                self.step_at(*at).saturating_sub(self.ahead[*clock])
            }
            _ => NEVER,
        };
        self.timers.iter().map(due).min().unwrap_or(NEVER)
    }
    pub fn advance(&mut self, to: i64) {
        self.time = self.time.max(to);
        self.fire_timers();
    }
    fn fire_timers(&mut self) {
        for i in 0..self.timers.len() {
            let file = self.timers[i];
            let (time, ahead, grain) = (self.time, self.ahead, self.grain);
            let Object::Timer { clock, at, expired, .. } = self.object_mut(file) else { continue };
            if *at != NEVER && !*expired && time.saturating_add(ahead[*clock]) / grain * grain >= *at {
                *expired = true;
                *at = NEVER;
                self.after(file, IN);
            }
        }
    }
    /// The latest time that the clock has ever shown.
    pub fn highest(&self, clock: usize) -> i64 {
        self.peak[clock].max(self.true_clock(clock))
    }
    /// The wall clock is set, or the machine was suspended.
    pub fn jump(&mut self, clock: usize, by: i64) {
        self.peak[clock] = self.highest(clock);
        let least = -self.time;
        self.ahead[clock] = self.ahead[clock].saturating_add(by).max(least);
        for i in 0..self.timers.len() {
            let file = self.timers[i];
            let Object::Timer { clock: c, on_jump, jumped, at, .. } = self.object_mut(file) else { continue };
            if *c == clock && *on_jump && *at != NEVER {
                *jumped = true;
                self.after(file, IN);
            }
        }
        self.fire_timers();
    }
}

impl Epoll {
    fn forget(&mut self, entry: u32) {
        let it = &mut self.entries[entry as usize];
        if std::mem::replace(&mut it.listed, false) {
            self.ready.retain(|i| *i != entry);
        }
        it.file = NONE;
        it.fd = -1;
        self.free.push(entry);
    }
}
