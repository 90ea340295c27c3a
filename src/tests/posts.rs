//! One thread alone. In every order: `loom_posts`.
use crate::error::Error;
use crate::posts::Posts;

fn taken(posts: &Posts) -> Vec<(u32, u32, u32)> {
    let mut all = Vec::new();
    posts.take(|index, generation, bits| all.push((index, generation, bits)));
    all
}

#[test]
fn bits_of_many_posts_are_told_once_to_the_generation_they_were_for() {
    let posts = Posts::new();
    posts.open(3, 7).unwrap();
    posts.open(1500, 1).unwrap();
    assert!(posts.is_empty());
    posts.post(3, 7, 0b0101).unwrap();
    assert!(!posts.is_empty());
    posts.post(1500, 1, 0).unwrap();
    posts.post(3, 7, 0b0110).unwrap();
    let mut all = taken(&posts);
    all.sort();
    assert_eq!(all, [(3, 7, 0b0111), (1500, 1, 0)]);
    assert!(posts.is_empty());
    assert_eq!(taken(&posts), []);
    // The bits are gone with the news.
    posts.post(3, 7, 0b1000).unwrap();
    assert_eq!(taken(&posts), [(3, 7, 0b1000)]);
}

#[test]
fn stale_handles_post_nothing() {
    let posts = Posts::new();
    assert_eq!(posts.post(5, 1, 1), Err(Error::STALE));
    posts.open(5, 1).unwrap();
    for generation in [0, 2, 1 << 26] {
        assert_eq!(posts.post(5, generation, 1), Err(Error::STALE));
    }
    assert_eq!(posts.post(6, 0, 1), Err(Error::STALE), "a cell that was never open has generation 0");
    posts.close(5);
    assert_eq!(posts.post(5, 1, 1), Err(Error::STALE));
    assert!(posts.is_empty());
    posts.close(1 << 20); // of which there is no cell
}

#[test]
fn what_was_posted_before_the_end_is_not_told_after_it() {
    let posts = Posts::new();
    posts.open(0, 1).unwrap();
    posts.open(1, 1).unwrap();
    posts.post(0, 1, 1).unwrap();
    posts.post(1, 1, 1).unwrap();
    posts.close(0);
    posts.open(0, 2).unwrap();
    assert_eq!(taken(&posts), [(1, 1, 1)]);
    // The cell is free to be linked again.
    posts.post(0, 2, 4).unwrap();
    assert_eq!(taken(&posts), [(0, 2, 4)]);
    // Closed, opened and posted while it is on the stack: there once, told once.
    posts.post(0, 2, 8).unwrap();
    posts.close(0);
    posts.open(0, 3).unwrap();
    posts.post(0, 3, 16).unwrap();
    posts.post(1, 1, 2).unwrap();
    let mut all = taken(&posts);
    all.sort();
    assert_eq!(all, [(0, 3, 16), (1, 1, 2)]);
}

#[test]
fn a_child_finds_all_that_was_posted_and_forgets_it_when_it_starts_anew() {
    let mut posts = Posts::new();
    for index in 0..3 {
        posts.open(index, 1).unwrap();
        posts.post(index, 1, 1 << index).unwrap();
    }
    posts.close(1);
    posts.open(1, 2).unwrap();
    posts.start_over();
    let mut all = taken(&posts);
    all.sort();
    assert_eq!(all, [(0, 1, 1), (2, 1, 4)]);
    // The one that was linked, and had nothing posted, can be linked again.
    posts.post(1, 2, 5).unwrap();
    posts.start_over();
    assert_eq!(taken(&posts), [(1, 2, 5)]);
    // Nothing posted is nothing to look at.
    posts.start_over();
    assert!(posts.is_empty());
    assert!(posts.heap_bytes() > 0);
    posts.post(0, 1, 1).unwrap();
    posts.forget();
    assert!(posts.is_empty());
    assert_eq!((taken(&posts), posts.heap_bytes()), (vec![], 0));
    assert_eq!(posts.post(0, 1, 1), Err(Error::STALE));
}
