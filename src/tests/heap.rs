//! How lists grow: what is too much memory shows nowhere else.
use crate::heap::make_room;

#[test]
fn a_list_doubles_while_it_is_small_and_then_grows_by_an_eighth() {
    let mut list: Vec<u32> = Vec::new();
    let mut steps = Vec::new();
    for _ in 0..4608 + 1 {
        make_room(&mut list).unwrap();
        if steps.last() != Some(&list.capacity()) {
            steps.push(list.capacity());
        }
        list.push(0);
    }
    assert_eq!(steps, [16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 4096 + 512, 4608 + 576]);
}
