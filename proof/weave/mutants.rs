//! Put into the library by `weave`: which mutant is on. `BELL_MUTANT` is its number. `BELL_MUTANTS_MET` is a file, of a
//! byte for each: what is come by is marked there, and none is on.
use std::sync::atomic::{AtomicPtr, AtomicU8, AtomicU32, Ordering::Relaxed};

static ON: AtomicU32 = AtomicU32::new(u32::MAX);
static MET: AtomicPtr<AtomicU8> = AtomicPtr::new(std::ptr::null_mut());
const MARKS: u32 = u32::MAX - 1;

#[inline(always)]
pub fn on(mutant: u32) -> bool {
    let on = ON.load(Relaxed);
    on == mutant || (on == MARKS && mark(mutant))
}

#[cold]
fn mark(mutant: u32) -> bool {
    // SAFETY: the file is mapped for good, and has a byte for every mutant.
    unsafe { &*MET.load(Relaxed).add(mutant as usize) }.store(1, Relaxed);
    false
}

extern "C" fn choose() {
    // SAFETY: names that end with 0; the environment is there before the program begins. The file is as long as it is
    // mapped, and open during the call.
    unsafe {
        let file = ::libc::getenv(c"BELL_MUTANTS_MET".as_ptr());
        let mutant = ::libc::getenv(c"BELL_MUTANT".as_ptr());
        if !file.is_null() {
            let fd = ::libc::open(file, ::libc::O_RDWR | ::libc::O_CLOEXEC);
            let size = ::libc::lseek(fd, 0, ::libc::SEEK_END);
            let both = ::libc::PROT_READ | ::libc::PROT_WRITE;
            let map = ::libc::mmap(std::ptr::null_mut(), size as usize, both, ::libc::MAP_SHARED, fd, 0);
            ::libc::close(fd);
            if map != ::libc::MAP_FAILED {
                MET.store(map.cast(), Relaxed);
                ON.store(MARKS, Relaxed);
            }
        } else if !mutant.is_null() {
            ON.store(::libc::atoi(mutant) as u32, Relaxed);
        }
    }
}

#[used]
#[unsafe(link_section = ".init_array")]
static AT_START: extern "C" fn() = choose;
