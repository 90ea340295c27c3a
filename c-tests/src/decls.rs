// The functions of doorbell.h as Rust sees them, for ctest2, which reads src/abi.rs before this (see build.rs).
// Written in the old syntax that its parser knows.

pub enum bell_t {}

extern "C" {
    pub fn bell_abi_version() -> u32;
    pub fn bell_version() -> *const c_char;
    pub fn bell_strerror(error: i32) -> *const c_char;
    pub fn bell_layout(struct_id: u32, size: *mut u32, align: *mut u32) -> i32;
    pub fn bell_features(bits: *mut u64) -> i32;
    pub fn bell_now(clock: u32) -> i64;
    pub fn bell_config_init(config: *mut bell_config, size: u32) -> i32;
    pub fn bell_create(config: *const bell_config, out: *mut *mut bell_t) -> i32;
    pub fn bell_destroy(bell: *mut bell_t, flags: u32) -> i32;
    pub fn bell_before_fork(bell: *mut bell_t) -> i32;
    pub fn bell_after_fork_parent(bell: *mut bell_t) -> i32;
    pub fn bell_after_fork_child(bell: *mut bell_t, flags: u32) -> i32;
    pub fn bell_poll(bell: *mut bell_t, shard: u32, events: *mut bell_event, capacity: u32, timeout_ns: i64) -> i32;
    pub fn bell_wake(bell: *mut bell_t, shard: u32) -> i32;
    pub fn bell_next_deadline(bell: *mut bell_t, shard: u32, deadline_ns: *mut i64) -> i32;
    pub fn bell_pollable_fd(bell: *mut bell_t, shard: u32) -> i32;
    pub fn bell_register_fd(bell: *mut bell_t, spec: *const bell_fd_spec, handle: *mut bell_handle) -> i32;
    pub fn bell_register_fd_batch(bell: *mut bell_t, specs: *const bell_fd_spec, n: u32, handles: *mut bell_handle, status: *mut i32) -> i32;
    pub fn bell_modify(bell: *mut bell_t, handle: bell_handle, interest: u32, mode: u32) -> i32;
    pub fn bell_rearm(bell: *mut bell_t, handle: bell_handle, target: *const bell_target, deadline_ns: i64) -> i32;
    pub fn bell_rearm_batch(bell: *mut bell_t, handles: *const bell_handle, n: u32, status: *mut i32) -> i32;
    pub fn bell_retarget(bell: *mut bell_t, handle: bell_handle, target: *const bell_target) -> i32;
    pub fn bell_unregister(bell: *mut bell_t, handle: bell_handle, flags: u32) -> i32;
    pub fn bell_unregister_batch(bell: *mut bell_t, handles: *const bell_handle, n: u32, flags: u32, status: *mut i32) -> i32;
    pub fn bell_close_begin(bell: *mut bell_t, fd: i32, ticket: *mut u64) -> i32;
    pub fn bell_close_end(bell: *mut bell_t, fd: i32, ticket: u64) -> i32;
    pub fn bell_close_fd(bell: *mut bell_t, fd: i32) -> i32;
    pub fn bell_slot_map(bell: *mut bell_t, handle: bell_handle, out: *mut *mut bell_slot) -> i32;
    pub fn bell_slot_consume(bell: *mut bell_t, handle: bell_handle, direction: u32) -> i32;
    pub fn bell_slot_wait(bell: *mut bell_t, handle: bell_handle, direction: u32, deadline_ns: i64, flags: u32) -> i32;
    pub fn bell_queue_create(bell: *mut bell_t, shard: u32, doorbell: *const bell_target, handle: *mut bell_handle) -> i32;
    pub fn bell_queue_drain(bell: *mut bell_t, queue: bell_handle, events: *mut bell_event, capacity: u32) -> i32;
    pub fn bell_queue_wait(bell: *mut bell_t, queue: bell_handle, events: *mut bell_event, capacity: u32, deadline_ns: i64) -> i32;
    pub fn bell_queue_fd(bell: *mut bell_t, queue: bell_handle) -> i32;
    pub fn bell_queue_destroy(bell: *mut bell_t, queue: bell_handle, flags: u32) -> i32;
    pub fn bell_register_timeout(bell: *mut bell_t, spec: *const bell_timeout_spec, handle: *mut bell_handle) -> i32;
    pub fn bell_update_timeout(bell: *mut bell_t, handle: bell_handle, deadline_ns: i64) -> i32;
    pub fn bell_share_deadline(bell: *mut bell_t, handle: bell_handle, word: *mut i64) -> i32;
    pub fn bell_timeout_get(bell: *mut bell_t, handle: bell_handle, deadline_ns: *mut i64) -> i32;
    pub fn bell_register_user(bell: *mut bell_t, shard: u32, target: *const bell_target, user_data: u64, handle: *mut bell_handle) -> i32;
    pub fn bell_post(bell: *mut bell_t, handle: bell_handle, bits: u32) -> i32;
    pub fn bell_stats(bell: *mut bell_t, shard: u32, out: *mut bell_counters) -> i32;
    pub fn bell_verify(bell: *mut bell_t) -> i32;
    pub fn bell_dump(bell: *mut bell_t, fd: i32) -> i32;
}
