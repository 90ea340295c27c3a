//! What a batch of notifications holds; and a word that ends under a sleeper.
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

/// Between its announcement and its sleep too: the word is another number then, and the kernel refuses the sleep. What
/// nobody sleeps on stays as it is, for who looks at the words.
#[cfg(not(doorbell_sim))]
#[test]
fn a_nudge_reaches_who_has_announced_its_sleep_and_nobody_else() {
    use crate::abi::{BELL_READ, BELL_SEQ, BELL_WAITER};
    use crate::sync::Word;
    use crate::target::slot;
    use std::sync::atomic::Ordering::Relaxed;
    for quiet in [0, 5 * BELL_SEQ, BELL_SEQ | BELL_READ] {
        let word = Word::new(quiet);
        assert!(!slot::nudge_sleeper(&word));
        assert_eq!(word.load(Relaxed), quiet);
    }
    let word = Word::new(0);
    let announced = slot::prepare(&word).expect("no news yet");
    assert_eq!(announced, BELL_WAITER);
    assert!(slot::nudge_sleeper(&word));
    assert_ne!(word.load(Relaxed), announced);
    assert!(slot::consume(&word).is_empty());
    assert!(!slot::nudge_sleeper(&word), "once");
}
