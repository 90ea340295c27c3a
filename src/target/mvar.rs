//! Target MVAR: GHC's `hs_try_putmvar`.
//!
//! The call consumes the StablePtr in every case, also when the MVar is full (rts/RtsAPI.c), so a delivered target is
//! spent. It never touches the MVar after its return, and may be made from any thread of a threaded runtime; a
//! foreign thread that has made it must call `hs_thread_done` before it ends, or the runtime keeps its task for ever.
use std::ffi::c_void;

#[derive(Clone, Copy)]
pub struct GhcOps {
    pub try_putmvar: unsafe extern "C" fn(i32, *mut c_void),
    pub thread_done: Option<unsafe extern "C" fn()>,
}

/// Packed, so that a target with one has no more than 16 bytes, of which there is one in every entry.
#[repr(C, packed(4))]
pub struct StablePtr {
    pub ptr: *mut c_void,
    pub capability: i32,
}

// SAFETY: a StablePtr is a name that any thread may hand to the runtime.
unsafe impl Send for StablePtr {}
// SAFETY: as above.
unsafe impl Sync for StablePtr {}

impl StablePtr {
    pub fn deliver(self, ghc: Option<&GhcOps>) {
        if let Some(ops) = ghc {
            // SAFETY: the entry point that the creator of the manager gave, valid until bell_destroy returns; the
            // StablePtr is handed over once, because delivering consumes this value.
            unsafe { (ops.try_putmvar)(self.capability, self.ptr) };
        }
    }
}
