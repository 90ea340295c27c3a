//! What only a very long life would meet, asked of the slab alone.
use crate::error::Error;
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
