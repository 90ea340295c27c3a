//! One thread alone. In every order: `loom_fd_table`.
use crate::error::Error;
use crate::fd_table::*;

#[test]
fn an_fd_has_one_owner_and_its_first_registration() {
    let fds = FdTable::new();
    for (fd, shard) in [(0, 0), (7, 3), (5000, 253)] {
        assert_eq!((fds.owner(fd), fds.head(fd)), (Ok(Owner::Nobody), NO_HEAD));
        assert_eq!(fds.place(fd).unwrap().acquire(shard), Ok(Acquired::Mine(NO_HEAD)));
        for head in [0, 1, NO_HEAD - 1] {
            fds.set_head(fd, shard, head);
            assert_eq!((fds.owner(fd), fds.head(fd)), (Ok(Owner::Shard(shard)), head));
            assert_eq!(fds.place(fd).unwrap().acquire(shard), Ok(Acquired::Mine(head)));
            assert_eq!(fds.place(fd).unwrap().acquire(shard + 1), Ok(Acquired::Elsewhere(shard)));
        }
        assert_eq!(fds.acquire_exclusive(fd), Err(Error::BUSY));
        assert_eq!(fds.owner_after_close(fd), Ok(Owner::Shard(shard)));
        fds.set_head(fd, shard, NO_HEAD);
        assert_eq!((fds.owner(fd), fds.head(fd)), (Ok(Owner::Nobody), NO_HEAD));
    }
}

#[test]
fn exclusive_ones_are_counted() {
    let fds = FdTable::new();
    for _ in 0..3 {
        assert_eq!(fds.acquire_exclusive(4), Ok(()));
    }
    for left in [2, 1, 0] {
        assert_eq!((fds.owner(4), fds.head(4)), (Ok(Owner::Exclusive), NO_HEAD), "{left}");
        assert_eq!(fds.place(4).unwrap().acquire(0), Err(Error::BUSY));
        fds.release_exclusive(4);
    }
    assert_eq!(fds.owner(4), Ok(Owner::Nobody));
    assert_eq!(fds.place(4).unwrap().acquire(0), Ok(Acquired::Mine(NO_HEAD)));
}

#[test]
fn closing_is_ended_by_its_own_ticket_only() {
    let fds = FdTable::new();
    assert_eq!(fds.close_end(9, 0), Err(Error::STALE));
    assert_eq!(fds.place(9).unwrap().acquire(2), Ok(Acquired::Mine(NO_HEAD)));
    fds.set_head(9, 2, 77);
    let (first, owner) = fds.close_begin(9).unwrap();
    assert_eq!((owner, fds.head(9)), (Owner::Shard(2), 77));
    assert_eq!(fds.close_begin(9), Err(Error::CLOSED));
    assert_eq!(fds.place(9).unwrap().acquire(2), Err(Error::CLOSED));
    assert_eq!(fds.acquire_exclusive(9), Err(Error::CLOSED));
    for wrong in [0, first - 1, first + 1, u64::MAX] {
        assert_eq!(fds.close_end(9, wrong), Err(Error::STALE));
    }
    assert_eq!(fds.close_end(9, first), Ok(()));
    assert_eq!(fds.close_end(9, first), Err(Error::STALE));
    assert_eq!(fds.place(9).unwrap().acquire(2), Ok(Acquired::Mine(77)));
    let (second, _) = fds.close_begin(9).unwrap();
    assert_ne!(first, second);
    assert_eq!(fds.close_end(9, first), Err(Error::STALE));
    assert_eq!(fds.close_end(9, second), Ok(()));
}

#[test]
fn numbers_that_no_fd_has_are_bad() {
    let fds = FdTable::new();
    for fd in [-1, i32::MIN, 1 << 24, i32::MAX] {
        assert_eq!(fds.owner(fd), Err(Error::BADF));
        assert_eq!(fds.owner_after_close(fd), Err(Error::BADF));
        assert_eq!(fds.place(fd).err(), Some(Error::BADF));
        assert_eq!(fds.acquire_exclusive(fd), Err(Error::BADF));
        assert_eq!(fds.close_begin(fd), Err(Error::BADF));
        assert_eq!(fds.head(fd), NO_HEAD);
        fds.set_head(fd, 0, 1);
        fds.release_exclusive(fd);
    }
    assert_eq!(fds.heap_bytes(), 0);
    fds.owner(0).unwrap();
    assert!(fds.heap_bytes() >= 8);
}
