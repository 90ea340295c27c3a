//! Target FUTEX: a word that the caller owns, with the protocol of a slot word.
use super::slot;
use crate::error::{Error, Result};
use crate::event::Ready;
use crate::sync::{self, WakeAddress, Word};

/// The caller's word. Valid until `bell_unregister` with `BELL_SYNC`: that is the caller's promise.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ForeignWord(*const Word);

// SAFETY: an atomic word in memory shared by threads; who may free it when is the contract of the target FUTEX.
unsafe impl Send for ForeignWord {}
// SAFETY: as above.
unsafe impl Sync for ForeignWord {}

impl ForeignWord {
    pub fn new(word: *mut u32) -> Result<ForeignWord> {
        if word.is_null() || !word.is_aligned() {
            return Err(Error::INVAL);
        }
        Ok(ForeignWord(word.cast_const().cast()))
    }

    pub fn deliver(self, ready: Ready) {
        let at: WakeAddress;
        let asleep;
        {
            // SAFETY: aligned (checked by `new`) and alive: it is registered, or this delivery began before it was
            // unregistered and BELL_SYNC waits for its end.
            let word = unsafe { &*self.0 };
            at = word.wake_address();
            asleep = slot::publish(word, ready);
        }
        if asleep {
            sync::wake(at);
        }
    }

    pub fn address(self) -> usize {
        self.0 as usize
    }
}
