//! For the tests only: not in the header, not in a released library.
use super::{bell_t, call};

/// Panics inside the library.
#[unsafe(no_mangle)]
pub extern "C" fn bell_test_panic(bell: *mut bell_t) -> i32 {
    call(bell, |_| panic!("on purpose"))
}
