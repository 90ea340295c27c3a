//! A handle is three numbers and a kind, and none of them runs into another.
use crate::backend::OWN;
use crate::event::*;

const KINDS: [Kind; 4] = [Kind::Fd, Kind::Timeout, Kind::Queue, Kind::User];

#[test]
fn a_handle_gives_back_what_it_was_made_of() {
    let ends = |max: u32| [0, 1, max / 2, max - 1, max];
    for kind in KINDS {
        for shard in [0, 1, 127, 254, 255] {
            for index in ends((1 << INDEX_BITS) - 1) {
                for generation in ends(GENERATION_MAX).map(|g| g.max(1)) {
                    let h = Handle::new(kind, shard, index, generation);
                    assert_eq!(
                        (h.kind(), h.shard(), h.index(), h.generation()),
                        (Some(kind), shard as usize, index, generation)
                    );
                    for other in KINDS {
                        assert_eq!(h.is(other), other == kind);
                    }
                    assert!(h.0 >= OWN, "the backend would take {h:x?} for its own");
                }
            }
        }
    }
}

#[test]
fn numbers_that_are_no_handles_have_no_kind() {
    for kind in [0, 5, 6, 32, 63] {
        let h = Handle((kind << 58) | 1);
        assert_eq!(h.kind(), None);
        assert!(!KINDS.iter().any(|k| h.is(*k)));
    }
    assert_eq!(Handle(OWN - 1).kind(), None);
}

#[test]
fn asking_to_read_is_asking_for_the_end_of_the_stream() {
    for bits in 1..16 {
        let interest = Interest::decode(bits).unwrap();
        let implied = if bits & 1 != 0 { Interest::RDHUP.0 } else { 0 };
        assert_eq!(interest.0, bits as u8 | implied);
        // HUP and ERR are told to everybody, and nothing else that was not asked for.
        assert_eq!(interest.wants(), Ready(interest.0 as u32) | Ready::HUP | Ready::ERR);
    }
    for wrong in [0, 16, 17, 1 << 31, u32::MAX] {
        assert!(Interest::decode(wrong).is_err());
    }
}

#[test]
fn bits_that_both_have_stay() {
    let (read, both) = (Ready::READ, Ready::READ | Ready::WRITE);
    assert_eq!((read | both, both & read, both & !read), (both, read, Ready::WRITE));
    let mut bits = both;
    bits |= read;
    assert_eq!(bits, both);
    assert_eq!(Interest::READ | Interest::READ, Interest::READ);
}
