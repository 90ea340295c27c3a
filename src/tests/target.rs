//! What a batch of notifications holds.
use crate::target::{Batch, Notification, World};

/// Who asks before each delivery never finds too little room, whatever the deliveries before have taken: one to four
/// each, as both words of a slot, or a queue's sleepers with its doorbell.
#[test]
fn a_batch_that_is_not_full_takes_one_more_delivery() {
    for first in 0..=4 {
        for each in 1..=4 {
            let mut batch = Batch::default();
            let mut taken = first;
            (0..first).for_each(|_| batch.push(Notification::Driver(0)));
            while !batch.is_full() {
                (0..each).for_each(|_| batch.push(Notification::Driver(0)));
                taken += each;
            }
            assert!(taken >= 2 * 4, "full after {taken}");
            let told = std::cell::Cell::new(0);
            batch.deliver(&World { ghc: None, wake_driver: &|_| told.set(told.get() + 1) });
            assert_eq!(told.get(), taken);
            assert!(batch.is_empty() && !batch.is_full());
        }
    }
}
