//! The vocabulary: what is asked, what happened, and the handle that names who asked.
//! The numbers are those of the C interface (`abi.rs`), so nothing is translated on the way out.
use crate::abi::*;
use crate::error::{Error, Result};
use std::ops::{BitAnd, BitOr, BitOrAssign, Not};

/// What happened: `BELL_READ` to `BELL_CANCELLED`.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Ready(pub u32);

impl Ready {
    pub const NONE: Ready = Ready(0);
    pub const READ: Ready = Ready(BELL_READ);
    pub const WRITE: Ready = Ready(BELL_WRITE);
    pub const HUP: Ready = Ready(BELL_HUP);
    pub const ERR: Ready = Ready(BELL_ERR);
    pub const TIMEOUT: Ready = Ready(BELL_TIMEOUT);
    pub const USER: Ready = Ready(BELL_USER);
    pub const CLOSED: Ready = Ready(BELL_CLOSED);
    pub const CANCELLED: Ready = Ready(BELL_CANCELLED);

    pub fn has(self, any: Ready) -> bool {
        self.0 & any.0 != 0
    }
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl BitOr for Ready {
    type Output = Ready;
    fn bitor(self, o: Ready) -> Ready {
        Ready(self.0 | o.0)
    }
}
impl BitOrAssign for Ready {
    fn bitor_assign(&mut self, o: Ready) {
        self.0 |= o.0
    }
}
impl BitAnd for Ready {
    type Output = Ready;
    fn bitand(self, o: Ready) -> Ready {
        Ready(self.0 & o.0)
    }
}
impl Not for Ready {
    type Output = Ready;
    fn not(self) -> Ready {
        Ready(!self.0)
    }
}

/// What is asked: `BELL_READ`, `BELL_WRITE`, `BELL_PRI`, `BELL_RDHUP`.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Interest(pub u8);

impl Interest {
    pub const NONE: Interest = Interest(0);
    pub const READ: Interest = Interest(BELL_READ as u8);
    pub const WRITE: Interest = Interest(BELL_WRITE as u8);
    pub const RDHUP: Interest = Interest(BELL_RDHUP as u8);

    /// From C: known bits, at least one. Reading implies to be told of a peer that stops writing: the rule
    /// for short reads in EDGE mode depends on it.
    pub fn decode(bits: u32) -> Result<Interest> {
        const ALL: u32 = BELL_READ | BELL_WRITE | BELL_PRI | BELL_RDHUP;
        if bits == 0 || bits & !ALL != 0 {
            return Err(Error::INVAL);
        }
        let implied = if bits & BELL_READ != 0 { BELL_RDHUP } else { 0 };
        Ok(Interest((bits | implied) as u8))
    }
    pub fn has(self, any: Interest) -> bool {
        self.0 & any.0 != 0
    }
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
    /// What a registration with this interest is told: the bits it asked for, and what nobody asks for.
    pub fn wants(self) -> Ready {
        Ready(self.0 as u32) | Ready::HUP | Ready::ERR
    }
}

impl BitOr for Interest {
    type Output = Interest;
    fn bitor(self, o: Interest) -> Interest {
        Interest(self.0 | o.0)
    }
}

/// When a registration is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Mode {
    Edge,
    Oneshot,
    Level,
}

impl Mode {
    pub fn decode(mode: u32) -> Result<Mode> {
        match mode {
            BELL_EDGE => Ok(Mode::Edge),
            BELL_ONESHOT => Ok(Mode::Oneshot),
            BELL_LEVEL => Ok(Mode::Level),
            _ => Err(Error::INVAL),
        }
    }
}

/// Which word of a slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    Read,
    Write,
}

impl Direction {
    pub fn decode(direction: u32) -> Result<Direction> {
        match direction {
            BELL_READ => Ok(Direction::Read),
            BELL_WRITE => Ok(Direction::Write),
            _ => Err(Error::INVAL),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Clock {
    Monotonic = BELL_CLOCK_MONOTONIC as u8,
    Boot = BELL_CLOCK_BOOT as u8,
    Real = BELL_CLOCK_REAL as u8,
}

impl Clock {
    pub const ALL: [Clock; 3] = [Clock::Monotonic, Clock::Boot, Clock::Real];

    pub fn decode(clock: u32) -> Result<Clock> {
        Clock::ALL.into_iter().find(|c| *c as u32 == clock).ok_or(Error::INVAL)
    }
}

/// No deadline.
pub const NEVER: i64 = BELL_NEVER;

/// What a handle names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    Fd = 1,
    Timeout = 2,
    Queue = 3,
    User = 4,
}

/// kind:4 (58..62) | shard:8 (50..58) | index:24 (26..50) | generation:26 (0..26, never 0).
/// The same number is the kernel's cookie. Below 2^58 there is no kind: those cookies are the backend's own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Handle(pub u64);

pub const INDEX_BITS: u32 = 24;
/// Two bits under `cfg(doorbell_small_generations)`, so that tests meet the wrap.
pub const GENERATION_BITS: u32 = if cfg!(doorbell_small_generations) { 2 } else { 26 };
pub const GENERATION_MAX: u32 = (1 << GENERATION_BITS) - 1;
/// Where the index begins in a handle: so wide is the generation's field.
pub const GENERATION_FIELD: u32 = 26;

impl Handle {
    pub fn new(kind: Kind, shard: u8, index: u32, generation: u32) -> Handle {
        debug_assert!(index < 1 << INDEX_BITS && 0 < generation && generation <= GENERATION_MAX);
        Handle((kind as u64) << 58 | (shard as u64) << 50 | (index as u64) << GENERATION_FIELD | generation as u64)
    }
    pub fn kind(self) -> Option<Kind> {
        match self.0 >> 58 {
            1 => Some(Kind::Fd),
            2 => Some(Kind::Timeout),
            3 => Some(Kind::Queue),
            4 => Some(Kind::User),
            _ => None,
        }
    }
    pub fn is(self, kind: Kind) -> bool {
        self.0 >> 58 == kind as u64
    }
    pub fn shard(self) -> usize {
        (self.0 >> 50) as u8 as usize
    }
    pub fn index(self) -> u32 {
        (self.0 >> GENERATION_FIELD) as u32 & ((1 << INDEX_BITS) - 1)
    }
    pub fn generation(self) -> u32 {
        self.0 as u32 & ((1 << GENERATION_FIELD) - 1)
    }
}
