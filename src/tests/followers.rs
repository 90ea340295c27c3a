//! The order of those who wait, one thread alone.
use crate::followers::Followers;
use crate::sync::Word;

#[test]
fn who_has_waited_longest_is_called_first_and_who_has_left_is_not() {
    let words: Vec<Word> = (0..6).map(Word::new).collect();
    let mut followers = Followers::new();
    assert!(followers.pop().is_none());
    assert_eq!((followers.len(), followers.heap_bytes()), (0, 0));
    let mut places: Vec<_> = words.iter().map(|w| followers.join(w).unwrap()).collect();
    assert_eq!(followers.len(), 6);
    let bytes = followers.heap_bytes();
    assert!(bytes >= 6 * size_of::<usize>());
    // The first, the last, and one in between.
    for at in [5, 2, 0] {
        assert!(!followers.leave(places.remove(at)));
    }
    assert_eq!(followers.len(), 3);
    for index in [1, 3] {
        assert!(std::ptr::eq(followers.pop().unwrap(), &words[index]));
    }
    assert_eq!(followers.len(), 1);
    // Who was called leaves too; the places are used again.
    assert!(followers.leave(places.remove(0)));
    let back = followers.join(&words[5]).unwrap();
    assert!(std::ptr::eq(followers.pop().unwrap(), &words[4]));
    assert!(std::ptr::eq(followers.pop().unwrap(), &words[5]));
    assert!(followers.pop().is_none());
    assert_eq!((followers.len(), followers.heap_bytes()), (0, bytes));
    assert!(followers.leave(back));
    assert!(places.into_iter().all(|p| followers.leave(p)));
}
