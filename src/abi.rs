// The layout of the C interface: constants, structs, nothing else. Written in the plain subset of Rust that
// ctest2's parser reads, because the tests compile this very file against the header. Values are the owner
// of every constant: `event.rs` and `error.rs` import them from here.

/// Major number of the binary interface. A library with another major is not compatible.
pub const BELL_ABI_MAJOR: u32 = 0;
/// Minor number of the binary interface: grows when something is added.
pub const BELL_ABI_MINOR: u32 = 1;

/// "No deadline", "wait for ever". A deadline of 0 is long past, so it means "now".
pub const BELL_NEVER: i64 = 0x7fff_ffff_ffff_ffff;

/// Interest and ready bit: data can be read, a connection can be accepted, or the stream has ended.
pub const BELL_READ: u32 = 0x001;
/// Interest and ready bit: writing would not block (or would fail at once).
pub const BELL_WRITE: u32 = 0x002;
/// Interest and ready bit: urgent data, or an exceptional condition of the device (`POLLPRI`).
pub const BELL_PRI: u32 = 0x004;
/// Interest and ready bit: the peer has shut down its writing half. Implied by the interest `BELL_READ`.
pub const BELL_RDHUP: u32 = 0x008;
/// Ready bit, never asked for: both directions are closed (`POLLHUP`).
pub const BELL_HUP: u32 = 0x010;
/// Ready bit, never asked for: an error is pending on the fd (`POLLERR`); `bell_event.status` may say more.
pub const BELL_ERR: u32 = 0x020;
/// Ready bit: the deadline passed.
pub const BELL_TIMEOUT: u32 = 0x040;
/// Ready bit: somebody called `bell_post`.
pub const BELL_USER: u32 = 0x080;
/// Ready bit that stays: the fd was closed by `bell_close_begin`, or behind our back, or the manager ended.
pub const BELL_CLOSED: u32 = 0x100;
/// Ready bit that stays, and a result of `bell_unregister`: nothing was delivered and nothing will be; the
/// target belongs to the caller again.
pub const BELL_CANCELLED: u32 = 0x200;
/// In a slot or futex word: somebody sleeps on the word. Set by waiters, cleared by delivery.
pub const BELL_WAITER: u32 = 0x400;
/// In a slot or futex word: one delivery. Bits 11 to 31 count deliveries, so that a sleeper sees each of them.
pub const BELL_SEQ: u32 = 0x800;
/// The bits of a word that a consumer takes away together (`BELL_READ` to `BELL_USER`).
pub const BELL_NEWS: u32 = 0x0ff;

/// Result of `bell_unregister`, `bell_update_timeout`: it was delivered, or is being delivered, or the
/// registration was not armed.
pub const BELL_FIRED: i32 = 0x1000;

/// Mode: edge-triggered, registered once with the kernel, no system call per wait. Wait only after `EAGAIN`,
/// or after a short read of a stream whose last readiness carried no `BELL_RDHUP`, `BELL_HUP`, `BELL_ERR`.
pub const BELL_EDGE: u32 = 1;
/// Mode: one delivery for each arming. Arming looks at the fd, so readiness that is there already counts.
pub const BELL_ONESHOT: u32 = 2;
/// Mode: delivered again for as long as the fd is ready, looked at once for each drain of the consumer.
/// Targets POLL and QUEUE only.
pub const BELL_LEVEL: u32 = 3;

/// Flag of `bell_fd_spec`: `deadline_ns` counts. Without it the registration has no deadline.
pub const BELL_FD_DEADLINE: u32 = 1;
/// Flag of `bell_fd_spec`: an fd that the kernel cannot poll (a regular file) is always ready, instead of
/// being refused with `-EPERM`.
pub const BELL_FD_ALWAYS_READY: u32 = 2;
/// Flag of `bell_fd_spec`: one of several shards that watch this fd; an event wakes one of them, not all.
/// For listening sockets. Mode `BELL_EDGE` only, one registration for each shard, `shard` given by number.
pub const BELL_FD_EXCLUSIVE: u32 = 4;
/// Flag of `bell_fd_spec` (mode `BELL_ONESHOT`) and `bell_timeout_spec` (one-shot): the registration frees
/// itself by its delivery. Its handle is stale from then on; a slot goes with it, so that a `bell_slot_wait` on it
/// ends with `BELL_E_CANCELLED`: the targets to wait for are FUTEX, POLL and QUEUE.
pub const BELL_AUTO_RELEASE: u32 = 8;

/// Flag of `bell_config`: the shards wait by io_uring, not by epoll (Linux 6.1; `BELL_FEATURE_IO_URING`). It spares
/// overhead for each event where one thread drives a shard and stays the one. What is different then:
///
/// A shard's ring belongs to the thread that drives. If another one does, a new ring is made for it, and all that is
/// armed is registered again, less than a microsecond for each fd; `BELL_EDGE` ones may be told once more what they
/// know.
///
/// Registering and arming take effect in the driver's next turn, or at once while it sleeps, for the price of a wake.
/// Nothing is lost: the kernel looks at the fd then. An fd that was closed meanwhile is told `BELL_CLOSED` with -EBADF.
///
/// Readiness is noted when it comes: an event of a `BELL_EDGE` or `BELL_LEVEL` registration may tell what was true before
/// the event before it, and has been drained since.
///
/// The kernel keeps a file that it watches open: `close(2)` of a registered fd closes nothing until the registration
/// ends. `bell_unregister`, `bell_close_begin` and `bell_close_fd` return when the kernel has let go of the file if
/// they are called by the driver, while it sleeps, or where a library thread drives (they wait for it, shortly);
/// else the driver's next turn does it. After the driver has changed, and when `bell_destroy` is called by another
/// thread, files that were watched are let go within some 0.1 s.
///
/// `BELL_FD_EXCLUSIVE` and `bell_pollable_fd` are refused with `BELL_E_UNSUPPORTED`. Each number of an fd takes 24
/// bytes more. `bell_poll` with timeout 0 may find that there is nothing without a system call.
pub const BELL_IO_URING: u32 = 1;
/// Flag of `bell_unregister`: return only when no thread of ours can still touch the target.
pub const BELL_SYNC: u32 = 1;
/// Flag of `bell_destroy`: wake and wait for threads that are inside, instead of failing with `BELL_E_BUSY`.
pub const BELL_FORCE: u32 = 1;
/// Flag of `bell_slot_wait`: ask the kernel (`poll(2)`) before sleeping, for a caller who cannot promise that
/// the fd was drained.
pub const BELL_LEVEL_CHECK: u32 = 1;
/// Flag of `bell_after_fork_child`: forget every registration instead of taking them over.
pub const BELL_FORK_RESET: u32 = 1;

/// Shard: the manager chooses, in turn.
pub const BELL_SHARD_ANY: u32 = 0xffff_ffff;
/// Shard: the number of the CPU that runs the caller, modulo the number of shards.
pub const BELL_SHARD_CURRENT_CPU: u32 = 0xffff_fffe;

/// Clock: `CLOCK_MONOTONIC`, the default; stands still while the machine is suspended (on Linux; on
/// macOS it is `CLOCK_UPTIME_RAW`, which does so there).
pub const BELL_CLOCK_MONOTONIC: u32 = 0;
/// Clock: `CLOCK_BOOTTIME`, goes on while the machine is suspended.
pub const BELL_CLOCK_BOOT: u32 = 1;
/// Clock: `CLOCK_REALTIME`, follows the setting of the wall clock.
pub const BELL_CLOCK_REAL: u32 = 2;

/// Target: none is set. An error wherever a target is required.
pub const BELL_TARGET_NONE: u32 = 0;
/// Target: the event is returned by `bell_poll` of the shard.
pub const BELL_TARGET_POLL: u32 = 1;
/// Target: a pair of words that the manager owns; see `bell_slot`.
pub const BELL_TARGET_SLOT: u32 = 2;
/// Target: one 32-bit word of the caller's, with the protocol of a slot word.
pub const BELL_TARGET_FUTEX: u32 = 3;
/// Target: a write to an eventfd (8 bytes) or, with `BELL_WAKE_BYTE`, to a pipe or socket (1 byte).
pub const BELL_TARGET_WAKE_FD: u32 = 4;
/// Target: a queue of this manager.
pub const BELL_TARGET_QUEUE: u32 = 5;
/// Target: a GHC `MVar ()`, filled by `hs_try_putmvar`. One delivery consumes the StablePtr.
pub const BELL_TARGET_MVAR: u32 = 6;

/// Flag of a target WAKE_FD: write one byte instead of the 8 bytes that an eventfd takes.
pub const BELL_WAKE_BYTE: u32 = 1;

/// Error: the handle, or the manager, is gone, or never was.
pub const BELL_E_STALE: i32 = -5000;
/// Error: the fd is being closed, or the manager is.
pub const BELL_E_CLOSED: i32 = -5001;
/// Error: the registration was cancelled while the call waited for it.
pub const BELL_E_CANCELLED: i32 = -5002;
/// Error: somebody else does it already, or the thing is in use. The function says which.
pub const BELL_E_BUSY: i32 = -5003;
/// Error: the `size` of a struct is not one that this library knows.
pub const BELL_E_ABI: i32 = -5004;
/// Error: a bug inside the library was met in this manager. Nothing works on it but `bell_destroy`.
pub const BELL_E_POISONED: i32 = -5005;
/// Error: this backend, this system or this kind of manager cannot do it. `bell_features` says what can be done.
pub const BELL_E_UNSUPPORTED: i32 = -5006;
/// Error: the process forked, and the child has not called `bell_after_fork_child`.
pub const BELL_E_FORKED: i32 = -5007;
/// Error: a limit of the library is reached (2^24 registrations of a kind in a shard, 256 managers).
pub const BELL_E_FULL: i32 = -5008;

/// Feature: mode `BELL_EDGE`.
pub const BELL_FEATURE_EDGE: u64 = 1;
/// Feature: `BELL_FD_EXCLUSIVE`.
pub const BELL_FEATURE_EXCLUSIVE: u64 = 2;
/// Feature: `bell_pollable_fd`.
pub const BELL_FEATURE_POLLABLE: u64 = 4;
/// Feature: sleeps end to the nanosecond, not to the millisecond (`epoll_pwait2` or `ppoll` is there).
pub const BELL_FEATURE_NANOSECONDS: u64 = 8;
/// Feature: timeouts of `BELL_CLOCK_BOOT` and `BELL_CLOCK_REAL`. (Linux. `bell_now` tells the real time anywhere.)
pub const BELL_FEATURE_CLOCKS: u64 = 16;
/// Feature: threads sleep on words by `futex(2)`: who sleeps on a slot word by himself is woken too.
pub const BELL_FEATURE_FUTEX: u64 = 32;
/// Feature: the backend is epoll.
pub const BELL_FEATURE_EPOLL: u64 = 0x100;
/// Feature: the backend is poll(2).
pub const BELL_FEATURE_POLL: u64 = 0x200;
/// Feature: the backend is kqueue (macOS, BSDs).
pub const BELL_FEATURE_KQUEUE: u64 = 0x400;

/// Feature: `bell_create` takes the flag `BELL_IO_URING`; whether the running kernel does, it says then. The other bits
/// are about the backend without that flag.
pub const BELL_FEATURE_IO_URING: u64 = 0x800;

/// `bell_layout`: `bell_config`.
pub const BELL_LAYOUT_CONFIG: u32 = 1;
/// `bell_layout`: `bell_target`.
pub const BELL_LAYOUT_TARGET: u32 = 2;
/// `bell_layout`: `bell_fd_spec`.
pub const BELL_LAYOUT_FD_SPEC: u32 = 3;
/// `bell_layout`: `bell_timeout_spec`.
pub const BELL_LAYOUT_TIMEOUT_SPEC: u32 = 4;
/// `bell_layout`: `bell_event`.
pub const BELL_LAYOUT_EVENT: u32 = 5;
/// `bell_layout`: `bell_slot`.
pub const BELL_LAYOUT_SLOT: u32 = 6;
/// `bell_layout`: `bell_counters`.
pub const BELL_LAYOUT_COUNTERS: u32 = 7;
/// `bell_layout`: `bell_ghc_ops`.
pub const BELL_LAYOUT_GHC_OPS: u32 = 8;

/// Names a registration, a timeout, a queue or a user event of one manager: 0 < handle < 2^62, never a
/// pointer, never used again. From registration to `bell_unregister` (or `bell_queue_destroy`); any thread.
/// kind (bits 58 to 61) | shard (50 to 57) | index (26 to 49) | generation (0 to 25).
pub type bell_handle = u64;

/// The two entry points of GHC's runtime that the target MVAR needs. They are given as addresses because a
/// direct reference would keep the library from loading outside GHC.
/// Read by `bell_create` only; the functions must stay valid until `bell_destroy` returns.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct bell_ghc_ops {
    /// `sizeof(bell_ghc_ops)`.
    pub size: u32,
    /// Must be 0.
    pub reserved: u32,
    /// `&hs_try_putmvar`: capability, StablePtr. Consumes the StablePtr. Must not be null.
    pub try_putmvar: Option<unsafe extern "C" fn(i32, *mut c_void)>,
    /// `&hs_thread_done`, called by library threads before they end. May be null.
    pub thread_done: Option<unsafe extern "C" fn()>,
}

/// What `bell_create` reads. Fill it by `bell_config_init`, then change what you want changed.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct bell_config {
    /// `sizeof(bell_config)` as the caller compiled it.
    pub size: u32,
    /// `BELL_IO_URING` or 0.
    pub flags: u32,
    /// How many shards, 1 to 254. 0 means one, or one for each thread.
    pub shards: u32,
    /// 0: the caller drives (`bell_poll`), or whoever waits. n: n library threads, each driving its shard;
    /// `shards` must then be 0 or n.
    pub threads: u32,
    /// The most kernel events taken in one turn, 1 to 65536. 0 means 1024.
    pub max_events: u32,
    /// Must be 0.
    pub reserved0: u32,
    /// Every timeout and deadline may be this many nanoseconds late, so that several share a wake-up. 0: none.
    pub slack_ns: u64,
    /// For the target MVAR, else null. Copied.
    pub ghc: *const bell_ghc_ops,
    /// Must be 0.
    pub reserved: [u64; 4],
}

/// Where news lands. Plain data, copied by the call that takes it. Fields that the kind does not use must be 0.
///
/// | kind | fields |
/// |---|---|
/// | POLL, SLOT | none |
/// | FUTEX | `word`: aligned to 4, valid until `bell_unregister` with `BELL_SYNC` has returned |
/// | WAKE_FD | `fd`: open and non-blocking until `bell_unregister` with `BELL_SYNC`; `flags`: `BELL_WAKE_BYTE` |
/// | QUEUE | `queue`: handle of a queue of the same manager |
/// | MVAR | `stable_ptr`: made by `newStablePtrPrimMVar`, belongs to the library until delivered or cancelled;
/// `capability` |
#[repr(C)]
#[derive(Clone, Copy)]
pub struct bell_target {
    /// `BELL_TARGET_POLL` to `BELL_TARGET_MVAR`.
    pub kind: u32,
    /// `BELL_WAKE_BYTE` or 0.
    pub flags: u32,
    /// WAKE_FD: the fd to write to.
    pub fd: i32,
    /// MVAR: the capability to wake, as `hs_try_putmvar` takes it.
    pub capability: i32,
    /// FUTEX: the word. Delivery ORs ready bits in, adds `BELL_SEQ`, clears `BELL_WAITER`.
    pub word: *mut u32,
    /// MVAR: the StablePtr.
    pub stable_ptr: *mut c_void,
    /// QUEUE: the queue.
    pub queue: bell_handle,
}

/// What `bell_register_fd` reads.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct bell_fd_spec {
    /// `sizeof(bell_fd_spec)`.
    pub size: u32,
    /// The file descriptor; the library never reads, writes or closes it.
    pub fd: i32,
    /// `BELL_READ | BELL_WRITE | BELL_PRI | BELL_RDHUP`, at least one.
    pub interest: u32,
    /// `BELL_EDGE`, `BELL_ONESHOT` or `BELL_LEVEL`; 0 is an error: the caller must choose.
    pub mode: u32,
    /// `BELL_FD_DEADLINE | BELL_FD_ALWAYS_READY | BELL_FD_EXCLUSIVE | BELL_AUTO_RELEASE`.
    pub flags: u32,
    /// A shard's number, `BELL_SHARD_ANY` or `BELL_SHARD_CURRENT_CPU`. An fd that is watched already stays on
    /// its shard, whatever is said here.
    pub shard: u32,
    /// Handed back with every event.
    pub user_data: u64,
    /// With `BELL_FD_DEADLINE`: absolute, nanoseconds of `BELL_CLOCK_MONOTONIC`.
    pub deadline_ns: i64,
    /// Where the news lands.
    pub target: bell_target,
}

/// What `bell_register_timeout` reads.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct bell_timeout_spec {
    /// `sizeof(bell_timeout_spec)`.
    pub size: u32,
    /// `BELL_CLOCK_MONOTONIC`, `BELL_CLOCK_BOOT` or `BELL_CLOCK_REAL`.
    pub clock: u32,
    /// `BELL_AUTO_RELEASE` or 0.
    pub flags: u32,
    /// A shard's number, `BELL_SHARD_ANY` or `BELL_SHARD_CURRENT_CPU`.
    pub shard: u32,
    /// Absolute, nanoseconds of the clock, 0 to 2^63 - 2, or `BELL_NEVER` (registered, not armed).
    pub deadline_ns: i64,
    /// 0: fires once. Else fires again each so many nanoseconds, missed ones merged and counted. At most 2^62.
    pub period_ns: i64,
    /// May be this many nanoseconds late, to share a wake-up with others. At most 2^62.
    pub slack_ns: i64,
    /// Handed back with every event.
    pub user_data: u64,
    /// Where the news lands.
    pub target: bell_target,
}

/// One piece of news, from `bell_poll`, `bell_queue_drain`, `bell_queue_wait`. 32 bytes.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct bell_event {
    /// Who it is about.
    pub handle: bell_handle,
    /// What the caller gave at registration.
    pub user_data: u64,
    /// `BELL_READ` to `BELL_CLOSED`: what happened, merged since the last event of this handle.
    pub ready: u32,
    /// 0, or a negative error that explains `BELL_ERR` or `BELL_CLOSED`.
    pub status: i32,
    /// Timeouts: expirations. User events: the posted bits, ORed. Fds: 0.
    pub data: u64,
}

/// The two words of a target SLOT. Owned by the manager: valid from `bell_slot_map` until the registration is
/// unregistered; the memory itself stays mapped until `bell_destroy`, so a late reader sees stale bits, never a
/// fault. Read and consume them from any thread, with atomic operations only.
///
/// A word: ready bits (`BELL_NEWS`, taken together by the consumer) | `BELL_CLOSED`, `BELL_CANCELLED` (stay) |
/// `BELL_WAITER` | deliveries counted in steps of `BELL_SEQ`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct bell_slot {
    /// READ, PRI, RDHUP, HUP, ERR, TIMEOUT, USER, CLOSED, CANCELLED.
    pub rd: u32,
    /// WRITE, HUP, ERR, CLOSED, CANCELLED; TIMEOUT of an fd that is watched for WRITE.
    pub wr: u32,
}

/// Counters of a shard, or of all shards added up. All since creation, but `fds` to `waiters`, which are now.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct bell_counters {
    /// `sizeof(bell_counters)`, set by the caller.
    pub size: u32,
    /// How many shards are added up here.
    pub shards: u32,
    /// Live registrations of fds.
    pub fds: u64,
    /// Live timeouts.
    pub timeouts: u64,
    /// Live user events.
    pub users: u64,
    /// Live queues.
    pub queues: u64,
    /// Threads that wait for a slot or queue just now.
    pub waiters: u64,
    /// Waits in the kernel (`epoll_wait`, `poll`).
    pub kernel_waits: u64,
    /// Changes of the kernel's set (`epoll_ctl`).
    pub ctl_calls: u64,
    /// Changes that the kernel refused.
    pub ctl_errors: u64,
    /// System calls made to wake a sleeper (driver or waiter).
    pub wakes_sent: u64,
    /// Wakes that needed no system call because nobody slept.
    pub wakes_elided: u64,
    /// Deliveries to targets.
    pub events: u64,
    /// Deliveries merged into one that had not been consumed yet (queues, POLL).
    pub coalesced: u64,
    /// Kernel events for something gone, dropped.
    pub stale_dropped: u64,
    /// Kernel events in which no registration was interested.
    pub spurious: u64,
    /// Fds found closed behind our back.
    pub ghosts: u64,
    /// Times the shard's kernel object was made anew, to get rid of ghosts.
    pub rebuilds: u64,
    /// Timeouts and deadlines armed or armed again.
    pub timers_armed: u64,
    /// Timeouts and deadlines moved while armed.
    pub timers_moved: u64,
    /// Timeouts and deadlines that fired.
    pub timers_fired: u64,
    /// Timeouts and deadlines cancelled, or made pointless by readiness.
    pub timers_cancelled: u64,
    /// The greatest lateness of a timeout, in nanoseconds.
    pub late_max_ns: u64,
    /// The sum of all latenesses, in nanoseconds; divide by `timers_fired`.
    pub late_sum_ns: u64,
    /// Hand-overs of driving from one waiter to another.
    pub handovers: u64,
    /// Bytes of heap held by the registry, slots, timers and queues.
    pub heap_bytes: u64,
}
