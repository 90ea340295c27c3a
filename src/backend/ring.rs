//! The memory and the three system calls of one io_uring, as `linux/io_uring.h` and io_uring(7) lay them down. What is
//! done with it is said in uring.rs. Only one thread, the owner, may call `enter`; the rest is under the set's lock.
use crate::error::{Error, Result};
use crate::fd::Fd;
use crate::fork::Mark;
// The simulator has no rings.
use ::libc;
use std::sync::atomic::{AtomicU32, Ordering};

// io_uring_setup(2): the flags.
const SETUP_CQSIZE: u32 = 1 << 3;
const SETUP_R_DISABLED: u32 = 1 << 6;
/// Goes on behind a request that is refused at once (Linux 5.18).
const SETUP_SUBMIT_ALL: u32 = 1 << 7;
/// `SQ_TASKRUN` tells that there is something to run, so that a look that finds nothing needs no system call (5.19).
const SETUP_TASKRUN_FLAG: u32 = 1 << 9;
const SETUP_SINGLE_ISSUER: u32 = 1 << 12; // 6.0
/// Completions are worked off when the owner asks for them, not whenever it enters the kernel (6.1).
const SETUP_DEFER_TASKRUN: u32 = 1 << 13;
/// No array between the queue and its entries (6.6).
const SETUP_NO_SQARRAY: u32 = 1 << 16;
const SETUP: u32 =
    SETUP_CQSIZE | SETUP_R_DISABLED | SETUP_SUBMIT_ALL | SETUP_TASKRUN_FLAG | SETUP_SINGLE_ISSUER | SETUP_DEFER_TASKRUN;

// What the kernel says that it can do. All but the last are older than what SETUP asks for.
const FEAT_SINGLE_MMAP: u32 = 1;
const FEAT_NODROP: u32 = 1 << 1;
const FEAT_POLL_32BITS: u32 = 1 << 6;
const FEAT_EXT_ARG: u32 = 1 << 8;
const FEAT_CQE_SKIP: u32 = 1 << 11;
const FEATURES: u32 = FEAT_SINGLE_MMAP | FEAT_NODROP | FEAT_POLL_32BITS | FEAT_EXT_ARG | FEAT_CQE_SKIP;
/// Linux 6.15.
const FEAT_NO_IOWAIT: u32 = 1 << 17;

const ENTER_GETEVENTS: u32 = 1;
const ENTER_EXT_ARG: u32 = 1 << 3;
const ENTER_REGISTERED_RING: u32 = 1 << 4;
/// A thread that waits for news is idle, and not waiting for a disk.
const ENTER_NO_IOWAIT: u32 = 1 << 7;

const REGISTER_ENABLE_RINGS: u32 = 12;
const REGISTER_RING_FDS: u32 = 20;
const UNREGISTER_EVENTFD: u32 = 5;

const SQ_CQ_OVERFLOW: u32 = 1 << 1;
const SQ_TASKRUN: u32 = 1 << 2;

const OFF_SQES: libc::off_t = 0x1000_0000;

const OP_POLL_ADD: u8 = 6;
const OP_ASYNC_CANCEL: u8 = 14;
const POLL_ADD_MULTI: u32 = 1;
const SQE_CQE_SKIP_SUCCESS: u8 = 1 << 6;
/// Of a completion: the request goes on.
const CQE_F_MORE: u32 = 1 << 1;

#[repr(C)]
#[derive(Default)]
struct Offsets {
    head: u32,
    tail: u32,
    ring_mask: u32,
    ring_entries: u32,
    /// Submission queue: flags. Completion queue: overflow.
    fifth: u32,
    /// Submission queue: dropped. Completion queue: cqes.
    sixth: u32,
    /// Submission queue: array. Completion queue: flags.
    seventh: u32,
    resv1: u32,
    user_addr: u64,
}

/// `struct io_uring_params`.
#[repr(C)]
#[derive(Default)]
struct Params {
    sq_entries: u32,
    cq_entries: u32,
    flags: u32,
    sq_thread_cpu: u32,
    sq_thread_idle: u32,
    features: u32,
    wq_fd: u32,
    resv: [u32; 3],
    sq_off: Offsets,
    cq_off: Offsets,
}

/// `struct io_uring_sqe`, with the names that polling gives its unions.
#[repr(C)]
#[derive(Clone, Copy)]
struct Sqe {
    opcode: u8,
    flags: u8,
    ioprio: u16,
    fd: i32,
    off: u64,
    addr: u64,
    /// The flags of POLL_ADD.
    len: u32,
    poll32_events: u32,
    user_data: u64,
    rest: [u64; 3],
}

/// `struct io_uring_cqe`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Cqe {
    user_data: u64,
    res: i32,
    flags: u32,
}

/// `struct io_uring_getevents_arg`.
#[repr(C)]
struct WaitArgument {
    sigmask: u64,
    sigmask_sz: u32,
    min_wait_usec: u32,
    ts: u64,
}

/// `struct __kernel_timespec`.
#[repr(C)]
struct Timespec {
    tv_sec: i64,
    tv_nsec: i64,
}

/// `struct io_uring_rsrc_update`.
#[repr(C)]
struct Update {
    offset: u32,
    resv: u32,
    data: u64,
}

const _: () = assert!(size_of::<Offsets>() == 40 && size_of::<Params>() == 120);
const _: () = assert!(size_of::<Sqe>() == 64 && std::mem::offset_of!(Sqe, user_data) == 32);
const _: () = assert!(size_of::<Cqe>() == 16 && size_of::<WaitArgument>() == 24 && size_of::<Update>() == 16);

/// Memory shared with the kernel. A forked child has no copy of it.
struct Map {
    at: *mut u8,
    len: usize,
}

impl Map {
    fn new(fd: i32, len: usize, offset: libc::off_t) -> Result<Map> {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a fresh mapping of the ring's memory.
        let at =
            unsafe { libc::mmap(std::ptr::null_mut(), len, access, libc::MAP_SHARED | libc::MAP_POPULATE, fd, offset) };
        if at == libc::MAP_FAILED {
            return Err(Error::last());
        }
        let map = Map { at: at.cast(), len };
        // Else the child's copy would keep the ring, and with it every file that it watches, alive. If it cannot be,
        // that is what happens.
        // SAFETY: the mapping made above.
        unsafe { libc::madvise(at, len, libc::MADV_DONTFORK) };
        Ok(map)
    }
    fn word(&self, offset: u32) -> *const AtomicU32 {
        // SAFETY: the kernel's offsets lie inside the mapping.
        unsafe { self.at.add(offset as usize).cast_const().cast() }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`; `Ring` does not let a forked child come here.
        unsafe { libc::munmap(self.at.cast(), self.len) };
    }
}

pub struct Ring {
    fd: Fd,
    /// What `enter` is given: the fd, or its place in the owner's table.
    name: i32,
    flags: u32,
    maps: std::mem::ManuallyDrop<(Map, Map)>,
    sq_head: *const AtomicU32,
    sq_tail: *const AtomicU32,
    sq_flags: *const AtomicU32,
    sq_mask: u32,
    sq_entries: u32,
    sqes: *mut Sqe,
    cq_head: *const AtomicU32,
    cq_tail: *const AtomicU32,
    cq_mask: u32,
    cqes: *const Cqe,
    /// Ours: up to here requests are written; up to here completions are read.
    tail: u32,
    head: u32,
    mark: Mark,
}

// SAFETY: the pointers are into memory that the ring owns, and shared with the kernel by atomics.
unsafe impl Send for Ring {}

/// One completion.
pub struct Done {
    pub user_data: u64,
    pub result: i32,
    /// The request goes on, and there will be more of them.
    pub more: bool,
}

impl Ring {
    /// `UNSUPPORTED`: the kernel is too old (before 6.1), or says that there is no io_uring (ENOSYS). `PERM`: it is
    /// forbidden, by the sysctl kernel.io_uring_disabled or by a filter.
    pub fn new(sq_entries: u32, cq_entries: u32) -> Result<Ring> {
        let mut params = Params::default();
        let mut setup = |flags| {
            params = Params { flags, cq_entries, ..Default::default() };
            // SAFETY: the kernel reads and fills the struct.
            Fd::made(unsafe { libc::syscall(libc::SYS_io_uring_setup, sq_entries, &raw mut params) } as i32)
        };
        let unknown = |e: Error| if e.code() == -libc::ENOSYS || e == Error::INVAL { Error::UNSUPPORTED } else { e };
        let fd = match setup(SETUP | SETUP_NO_SQARRAY) {
            Err(Error::INVAL) => setup(SETUP),
            r => r,
        }
        .map_err(unknown)?;
        if params.features & FEATURES != FEATURES {
            return Err(Error::UNSUPPORTED);
        }
        // The other two calls may be forbidden alone. A ring that is not enabled answers EBADFD, one that has no
        // eventfd ENXIO.
        let forbidden = |result: libc::c_long, expected: i32| match Error::check(result as i32) {
            Err(e) if e.code() != -expected => Err(unknown(e)),
            _ => Ok(()),
        };
        // SAFETY: no pointers.
        let entered = unsafe { libc::syscall(libc::SYS_io_uring_enter, fd.0, 0, 0, 0, 0usize, 0usize) };
        forbidden(entered, libc::EBADFD)?;
        // SAFETY: no pointers.
        let registered = unsafe { libc::syscall(libc::SYS_io_uring_register, fd.0, UNREGISTER_EVENTFD, 0usize, 0) };
        forbidden(registered, libc::ENXIO)?;
        let (sq, cq) = (&params.sq_off, &params.cq_off);
        let array = if params.flags & SETUP_NO_SQARRAY != 0 { 0 } else { sq.seventh + params.sq_entries * 4 };
        let rings = array.max(cq.sixth + params.cq_entries * size_of::<Cqe>() as u32) as usize;
        let rings = Map::new(fd.0, rings, 0)?;
        let entries = Map::new(fd.0, params.sq_entries as usize * size_of::<Sqe>(), OFF_SQES)?;
        if params.flags & SETUP_NO_SQARRAY == 0 {
            for i in 0..params.sq_entries {
                // SAFETY: the array has an element for each entry.
                unsafe { (*rings.word(sq.seventh + 4 * i)).store(i, Ordering::Relaxed) };
            }
        }
        let iowait = if params.features & FEAT_NO_IOWAIT != 0 { ENTER_NO_IOWAIT } else { 0 };
        Ok(Ring {
            name: fd.0,
            fd,
            flags: ENTER_GETEVENTS | iowait,
            sq_head: rings.word(sq.head),
            sq_tail: rings.word(sq.tail),
            sq_flags: rings.word(sq.fifth),
            sq_mask: params.sq_entries - 1,
            sq_entries: params.sq_entries,
            sqes: entries.at.cast(),
            cq_head: rings.word(cq.head),
            cq_tail: rings.word(cq.tail),
            cq_mask: params.cq_entries - 1,
            cqes: rings.word(cq.sixth).cast(),
            tail: 0,
            head: 0,
            maps: std::mem::ManuallyDrop::new((rings, entries)),
            mark: Mark::new()?,
        })
    }

    pub fn fd(&self) -> i32 {
        self.fd.0
    }

    /// `new` comes in the place of this one, under the same number. After an error nothing has changed.
    pub fn replace(&mut self, mut new: Ring) -> Result<()> {
        // SAFETY: no pointers. The number stays ours, and means the new ring.
        Error::check(unsafe { libc::dup3(new.fd.0, self.fd.0, libc::O_CLOEXEC) })?;
        std::mem::swap(&mut self.fd, &mut new.fd);
        new.name = new.fd.0;
        *self = new; // drops the old ring's memory, and the new one's first number
        Ok(())
    }

    /// The calling thread is the owner from now on: the only one that may `enter`.
    pub fn enable(&self) -> Result<()> {
        self.register(REGISTER_ENABLE_RINGS, std::ptr::null_mut(), 0).map(drop)
    }

    /// Spares each `enter` the look at the table of fds. It lasts until the owner ends, and keeps the ring alive as
    /// long: for a thread that never gives the ring away.
    pub fn register_own_fd(&mut self) {
        let mut update = Update { offset: u32::MAX, resv: 0, data: self.fd.0 as u64 };
        if self.register(REGISTER_RING_FDS, (&raw mut update).cast(), 1) == Ok(1) {
            self.name = update.offset as i32;
            self.flags |= ENTER_REGISTERED_RING;
        }
    }

    fn register(&self, what: u32, argument: *mut libc::c_void, n: u32) -> Result<i32> {
        // SAFETY: the argument is what the operation wants, alive.
        Error::check(unsafe { libc::syscall(libc::SYS_io_uring_register, self.fd.0, what, argument, n) } as i32)
    }

    // ---- asking

    /// Requests that the kernel has not taken yet.
    pub fn unsubmitted(&self) -> u32 {
        // SAFETY: mapped. Acquire: the entries up to there are ours again.
        self.tail.wrapping_sub(unsafe { &*self.sq_head }.load(Ordering::Acquire))
    }
    /// Entries that can be written.
    pub fn room(&self) -> u32 {
        self.sq_entries - self.unsubmitted()
    }

    fn push(&mut self, sqe: Sqe) {
        debug_assert!(self.room() > 0);
        // SAFETY: inside the mapping; the kernel reads the entry only when it is submitted.
        unsafe { self.sqes.add((self.tail & self.sq_mask) as usize).write(sqe) };
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: mapped. Release: the entry is written.
        unsafe { &*self.sq_tail }.store(self.tail, Ordering::Release);
    }

    /// Watches an fd; edges when `multi`, else once. There must be room.
    pub fn poll_add(&mut self, fd: i32, events: u32, multi: bool, user_data: u64) {
        self.push(Sqe {
            opcode: OP_POLL_ADD,
            flags: 0,
            ioprio: 0,
            fd,
            off: 0,
            addr: 0,
            len: if multi { POLL_ADD_MULTI } else { 0 },
            // Two halves, in the order of a big-endian u16 before Linux 5.9.
            poll32_events: if cfg!(target_endian = "big") { events.rotate_left(16) } else { events },
            user_data,
            rest: [0; 3],
        });
    }

    /// Takes such a request back. A success is not told: the request itself ends with ECANCELED. There must be room.
    /// Not by POLL_REMOVE, which answers EALREADY when the file has just had news, and a multishot poll goes on then.
    pub fn cancel(&mut self, user_data: u64) {
        self.push(Sqe {
            opcode: OP_ASYNC_CANCEL,
            flags: SQE_CQE_SKIP_SUCCESS,
            ioprio: 0,
            fd: -1,
            off: 0,
            addr: user_data,
            len: 0,
            poll32_events: 0,
            user_data: 0,
            rest: [0; 3],
        });
    }

    /// What `enter` needs, for who lets go of the lock meanwhile.
    pub fn entrance(&self) -> Entrance {
        Entrance { name: self.name, flags: self.flags, submit: self.unsubmitted() }
    }

    // ---- hearing

    pub fn next(&mut self) -> Option<Done> {
        // SAFETY: mapped. Acquire: the completions up to there are written.
        if self.head == unsafe { &*self.cq_tail }.load(Ordering::Acquire) {
            return None;
        }
        // SAFETY: inside the mapping, and not ours to write.
        let cqe = unsafe { self.cqes.add((self.head & self.cq_mask) as usize).read() };
        self.head = self.head.wrapping_add(1);
        Some(Done { user_data: cqe.user_data, result: cqe.res, more: cqe.flags & CQE_F_MORE != 0 })
    }
    /// Gives back the places of what was read by `next`.
    pub fn advance(&self) {
        // SAFETY: mapped. Release: we have read the completions.
        unsafe { &*self.cq_head }.store(self.head, Ordering::Release);
    }
    /// The kernel has more to tell than there was room for, or has not worked it off: `enter`.
    pub fn has_more(&self) -> bool {
        // SAFETY: mapped. Relaxed: a flag that is not seen yet is seen after the next sleep, which ends at once.
        unsafe { &*self.sq_flags }.load(Ordering::Relaxed) & (SQ_TASKRUN | SQ_CQ_OVERFLOW) != 0
    }
    /// Part of the above: there was no room.
    pub fn has_overflown(&self) -> bool {
        // SAFETY: as above.
        unsafe { &*self.sq_flags }.load(Ordering::Relaxed) & SQ_CQ_OVERFLOW != 0
    }
    /// Grows with each completion.
    pub fn told(&self) -> u32 {
        // SAFETY: mapped.
        unsafe { &*self.cq_tail }.load(Ordering::Relaxed)
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // A forked child does not have the memory, and something else may lie in its place by now.
        if !self.mark.is_forked() {
            // SAFETY: dropped here only.
            unsafe { std::mem::ManuallyDrop::drop(&mut self.maps) };
        }
    }
}

pub struct Entrance {
    name: i32,
    flags: u32,
    pub submit: u32,
}

impl Entrance {
    /// Submits, and works off what has happened. By the owner only; others get EEXIST.
    pub fn enter(&self) -> Result<i32> {
        // SAFETY: no pointers.
        let r =
            unsafe { libc::syscall(libc::SYS_io_uring_enter, self.name, self.submit, 0, self.flags, 0usize, 0usize) };
        Error::check(r as i32)
    }

    /// As `enter`, and sleeps until there is a completion, at most so long. -ETIME, -EINTR: there is none.
    pub fn sleep(&self, ns: i64) -> Result<i32> {
        let ts = Timespec { tv_sec: ns / 1_000_000_000, tv_nsec: ns % 1_000_000_000 };
        let ts = if ns == crate::event::NEVER { 0 } else { (&raw const ts).expose_provenance() as u64 };
        let argument = WaitArgument { sigmask: 0, sigmask_sz: 0, min_wait_usec: 0, ts };
        // SAFETY: the kernel reads both structs, which are alive.
        let r = unsafe {
            libc::syscall(
                libc::SYS_io_uring_enter,
                self.name,
                self.submit,
                1,
                self.flags | ENTER_EXT_ARG,
                &raw const argument,
                size_of::<WaitArgument>(),
            )
        };
        Error::check(r as i32)
    }
}
