//! What only a very long life would meet, asked of the slab alone.
use crate::error::Error;
use crate::event::{GENERATION_MAX, Handle, Kind};
use crate::registry::Slab;

/// An index has 24 bits. The C interface gets there with sixteen million registrations, or with as many forks.
#[test]
fn a_slab_without_indices_left_says_full_and_stays_as_it_was() {
    const CHUNK: u32 = 256;
    let mut slab = Slab::<u8>::new();
    let mut chunks = 0;
    let error = loop {
        match slab.insert() {
            Ok((index, generation)) => assert_eq!((index, generation), (chunks * CHUNK, 1)),
            Err(e) => break e,
        }
        slab = Slab::instead_of(&slab);
        chunks += 1;
    };
    assert_eq!(error, Error::FULL);
    assert_eq!(chunks, (1 << 24) / CHUNK - 1);
    assert_eq!((slab.live(), slab.next(0)), (0, None));
}

#[test]
fn a_chunk_is_used_up_before_the_next_is_made_and_what_is_removed_is_used_again() {
    let mut slab = Slab::<u64>::new();
    assert_eq!(slab.insert(), Ok((0, 1)));
    let bytes = slab.heap_bytes();
    assert!(bytes >= 256 * 16);
    for index in 1..256 {
        assert_eq!(slab.insert(), Ok((index, 1)));
    }
    assert_eq!(slab.heap_bytes(), bytes);
    // The last that was removed first, with another generation.
    for index in [7, 255, 0] {
        slab.at_mut(index).value = 5;
        assert_eq!(slab.remove(index), 5);
    }
    assert_eq!(slab.live(), 253);
    assert_eq!(slab.next(0), Some(1));
    for index in [0, 255, 7] {
        assert_eq!(slab.insert(), Ok((index, 2)));
        assert_eq!((slab.at(index).value, slab.generation(index)), (0, 2));
    }
    assert_eq!(slab.heap_bytes(), bytes);
    assert_eq!(slab.insert(), Ok((256, 1)));
    assert!(slab.heap_bytes() > bytes);
    assert_eq!(slab.indices().count(), 257);
    assert_eq!((slab.next(256), slab.next(257)), (Some(256), None));
}

/// A generation that would wrap retires its index.
#[test]
fn an_index_whose_generations_are_used_up_is_retired() {
    if GENERATION_MAX > 1 << 10 {
        return; // the build with generations of two bits asks
    }
    let mut slab = Slab::<u8>::new();
    for generation in 1..=GENERATION_MAX {
        assert_eq!(slab.insert(), Ok((0, generation)));
        slab.remove(0);
    }
    assert_eq!(slab.insert(), Ok((1, 1)));
    assert_eq!(slab.find(Handle::new(Kind::Fd, 0, 1, 1)), Some(1));
    assert_eq!(slab.find(Handle::new(Kind::Fd, 0, 0, GENERATION_MAX)), None);
}
