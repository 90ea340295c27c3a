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

/// One that was called and has not come yet takes what there is: no more are woken than there is news to take.
#[test]
fn nobody_else_is_called_while_one_is_on_its_way() {
    use crate::event::Ready;
    use crate::target::queue::Next;
    use crate::target::{Batch, News, slot};
    let handle = Handle::new(Kind::Queue, 0, 1, 1);
    let queue = Queue::new(handle, 0, Target::None);
    let nodes = [1, 2, 3].map(|n| queue.reserve(Handle::new(Kind::User, 0, n, 1), 0, After::Nothing).unwrap());
    let words = [Word::new(0), Word::new(0)];
    let places = words.each_ref().map(|word| {
        slot::prepare(word).expect("no news yet");
        queue.join(word).unwrap().expect("no news yet")
    });
    for node in nodes {
        let news =
            News { handle, user_data: 0, ready: Ready::READ, status: 0, data: 0, add: false, after: After::Nothing };
        queue.push(node, &news, None, &mut Batch::default());
    }
    let mut out = [std::mem::MaybeUninit::uninit()];
    assert!(slot::prepare(&words[0]) != Some(crate::abi::BELL_WAITER), "the first was told");
    assert!(matches!(queue.drain(&mut out, Came::ByItself), Ok((1, Next::Nobody))), "the first has not come yet");
    assert!(matches!(queue.drain(&mut out, Came::FromSleep(places[0])), Ok((1, Next::Sleeper(_)))));
    assert!(matches!(queue.drain(&mut out, Came::FromSleep(places[1])), Ok((1, Next::Nobody))));
}
