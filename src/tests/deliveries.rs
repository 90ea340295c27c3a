//! Whoever waits does so for what began before it, and for nothing else. In every order: `loom_cancel`.
use crate::deliveries::Deliveries;

#[test]
fn with_nothing_under_way_nobody_waits() {
    let mut d = Deliveries::default();
    assert!(d.is_idle());
    assert_eq!(d.ticket(), None);
    let token = d.begin();
    assert!(!d.is_idle());
    assert!(!d.end(token), "nobody is to be woken");
    assert!(d.is_idle());
}

#[test]
fn a_ticket_is_over_when_what_began_before_it_has_ended() {
    let mut d = Deliveries::default();
    let (first, second) = (d.begin(), d.begin());
    let ticket = d.ticket().unwrap();
    assert!(!d.is_over(ticket));
    assert!(d.end(first), "who waits looks again");
    assert!(!d.is_over(ticket));
    assert!(d.end(second));
    assert!(d.is_over(ticket));
    // Asked until it says yes, once: nobody waits any more.
    let third = d.begin();
    assert!(!d.end(third));
}

#[test]
fn new_deliveries_do_not_keep_anybody_waiting() {
    let mut d = Deliveries::default();
    let before = d.begin();
    let ticket = d.ticket().unwrap();
    // There is always one under way from here on.
    let mut newer = d.begin();
    d.end(before);
    for _ in 0..3 {
        let next = d.begin();
        d.end(newer);
        newer = next;
    }
    assert!(!d.is_idle());
    assert!(d.is_over(ticket));
    d.end(newer);
}

#[test]
fn each_of_several_is_told_when_its_own_have_ended() {
    let mut d = Deliveries::default();
    let a = d.begin();
    let first = d.ticket().unwrap();
    let b = d.begin();
    let second = d.ticket().unwrap();
    assert!(d.end(a));
    assert!(!d.is_over(second));
    let c = d.begin();
    assert!(d.end(b));
    assert!(d.is_over(first));
    assert!(d.end(c), "the second was not asked yet");
    assert!(d.is_over(second));
    let token = d.begin();
    assert!(!d.end(token), "nobody is left");
}
