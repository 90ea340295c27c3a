//! The library's own threads: one for each shard, at work until the manager ends.
//!
//! Made by pthread and not by std, which ends the process when memory for a thread is short, and panics in the new
//! thread when there is none for its signal stack.
use super::Manager;
use crate::error::{Error, Result};
use crate::heap;
use crate::libc;
use std::ffi::c_void;
use std::io::Write;
use std::mem::MaybeUninit;

pub(super) struct Thread(libc::pthread_t);

struct Job {
    manager: &'static Manager,
    shard: usize,
}

/// What a turn needs, many times over; deliveries run on it, and GHC's two entry points.
const STACK: usize = 128 << 10;

impl Manager {
    pub(super) fn start_threads(&self) -> Result<()> {
        // SAFETY: the manager is boxed, and `stop_threads` joins the threads before it is freed.
        let manager: &'static Manager = unsafe { &*std::ptr::from_ref(self) };
        let mut threads = self.threads.lock();
        heap::room(&mut threads, self.all.shards.len())?;
        for shard in 0..self.all.shards.len() {
            threads.push(without_signals(|| start(Job { manager, shard }))?);
        }
        Ok(())
    }

    pub(super) fn stop_threads(&self) {
        for shard in &self.all.shards {
            shard.close(shard.lock());
        }
        for Thread(id) in std::mem::take(&mut *self.threads.lock()) {
            // SAFETY: started by us, and joined once: it was taken out of the list.
            unsafe { libc::pthread_join(id, std::ptr::null_mut()) };
        }
    }
}

fn start(job: Job) -> Result<Thread> {
    let job = Box::into_raw(heap::boxed(job)?);
    let mut id = MaybeUninit::uninit();
    let mut attributes = MaybeUninit::uninit();
    // SAFETY: the attributes are made before they are used, and ended after; the job becomes the thread's.
    let failed = unsafe {
        let failed = libc::pthread_attr_init(attributes.as_mut_ptr());
        if failed == 0 {
            // Too small for a program with much thread-local memory: then the default has to do.
            libc::pthread_attr_setstacksize(attributes.as_mut_ptr(), STACK);
            let failed = match libc::pthread_create(id.as_mut_ptr(), attributes.as_ptr(), run, job.cast()) {
                libc::EINVAL => libc::pthread_create(id.as_mut_ptr(), std::ptr::null(), run, job.cast()),
                r => r,
            };
            libc::pthread_attr_destroy(attributes.as_mut_ptr());
            failed
        } else {
            failed
        }
    };
    if failed != 0 {
        // SAFETY: no thread has it.
        drop(unsafe { Box::from_raw(job) });
        return Err(Error::from_io(&std::io::Error::from_raw_os_error(failed)));
    }
    // SAFETY: written by pthread_create, which has succeeded.
    Ok(Thread(unsafe { id.assume_init() }))
}

extern "C" fn run(job: *mut c_void) -> *mut c_void {
    // SAFETY: from `start`, for this thread alone.
    let Job { manager, shard } = *unsafe { Box::from_raw(job.cast::<Job>()) };
    let all = &manager.all;
    let work = std::panic::AssertUnwindSafe(|| {
        own_thread(shard);
        all.shards[shard].run(all);
        if let Some(done) = all.ghc.and_then(|g| g.thread_done) {
            // SAFETY: the entry point that the creator gave, valid until bell_destroy returns.
            unsafe { done() };
        }
    });
    if std::panic::catch_unwind(work).is_err() {
        manager.poison();
    }
    std::ptr::null_mut()
}

/// Signals belong to the program: library threads block all of them.
fn without_signals<R>(f: impl FnOnce() -> R) -> R {
    // SAFETY: sets of ours, filled by the calls; the mask of this thread is put back.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        let mut before: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before);
        let result = f();
        libc::pthread_sigmask(libc::SIG_SETMASK, &before, std::ptr::null_mut());
        result
    }
}

/// A name for tools; and a thread that does nothing but wait can do so exactly: no timer slack.
fn own_thread(shard: usize) {
    let mut name = [0u8; 16];
    let _ = write!(&mut name[..15], "bell/{shard}");
    #[cfg(target_os = "linux")]
    // SAFETY: a string that ends with 0; a number. Both for this thread.
    unsafe {
        libc::prctl(libc::PR_SET_NAME, name.as_ptr());
        libc::prctl(libc::PR_SET_TIMERSLACK, 1 as libc::c_ulong);
    }
    #[cfg(target_os = "macos")]
    // SAFETY: as above.
    unsafe {
        libc::pthread_setname_np(name.as_ptr().cast());
    }
}
