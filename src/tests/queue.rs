//! A queue that is gone, for who looked it up before: in a moment between two locks that the C interface cannot hold open.
use crate::error::Error;
use crate::event::{Handle, Kind};
use crate::sync::Word;
use crate::target::Target;
use crate::target::queue::{Came, Queue};
use crate::target::ready_list::After;

#[test]
fn a_destroyed_queue_is_stale_to_everybody() {
    let h = Handle::new(Kind::Queue, 0, 1, 1);
    let queue = Queue::new(h, 0, Target::None);
    let node = queue.reserve(h, 7, After::Nothing).unwrap();
    assert!(matches!(queue.destroy(), Err(Error::BUSY)));
    assert!(queue.lock_empty().is_some());
    queue.release(node);
    assert!(queue.destroy().is_ok());
    assert!(matches!(queue.destroy(), Err(Error::STALE)));
    assert_eq!(queue.reserve(h, 7, After::Nothing), Err(Error::STALE));
    assert!(matches!(queue.drain(&mut [], Came::ByItself), Err(Error::STALE)));
    assert!(matches!(queue.set_doorbell(Target::None), Err(Error::STALE)));
    assert_eq!(queue.fd(), Err(Error::STALE));
    // Who is about to sleep looks first.
    assert!(queue.lock_empty().is_none());
    assert_eq!(queue.join(&Word::new(0)), Ok(None));
    assert!(queue.set_led(true));
}
