use crate::buckets::{Buckets, CAPACITY};
use crate::error::Error;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

#[test]
fn each_index_has_an_item_of_its_own_that_does_not_move() {
    let buckets = Buckets::<AtomicU32>::new();
    assert!(buckets.get(0).is_none());
    assert_eq!(buckets.heap_bytes(), 0);
    let first: *const AtomicU32 = buckets.get_or_make(0).unwrap();
    assert!(buckets.get(1).is_some(), "a bucket is made whole");
    let one = buckets.heap_bytes();
    assert!(one > 0);
    const N: u32 = 9000;
    for i in 0..N {
        buckets.get_or_make(i).unwrap().store(i + 1, Relaxed);
    }
    for i in 0..N {
        assert_eq!(buckets.get(i).unwrap().load(Relaxed), i + 1);
    }
    assert!(std::ptr::eq(first, buckets.get(0).unwrap()));
    // `iter` goes on to the end of the last bucket.
    let told: Vec<_> = buckets.iter().map(|(i, item)| (i, item.load(Relaxed))).collect();
    assert_eq!(told[..N as usize], (0..N).map(|i| (i, i + 1)).collect::<Vec<_>>());
    assert!(told[N as usize..].iter().all(|(_, value)| *value == 0));
    assert_eq!(buckets.heap_bytes(), told.len() * size_of::<AtomicU32>());
}

#[test]
fn the_last_index_is_within_and_the_next_one_is_too_many() {
    let buckets = Buckets::<u8>::new();
    assert!(buckets.get(CAPACITY - 1).is_none());
    assert!(buckets.get_or_make(CAPACITY - 1).is_ok());
    assert!(buckets.get(CAPACITY).is_none());
    assert_eq!(buckets.get_or_make(CAPACITY), Err(Error::FULL));
}
