//! Records in pieces of fixed size: numbered, reused, never moved and never given back.
//!
//! A plain `Vec` would double, and copying millions of records stops a shard for milliseconds. A
//! record that is not in use is on the free list, which runs through the records themselves: so a
//! whole list of them comes home in one step ([`Pool::give_list`]).

use std::ops::{Index, IndexMut};

/// No record: ends every list.
pub(super) const NONE: u32 = u32::MAX;

const PIECE_BITS: u32 = 12;
const PIECE_RECORDS: u32 = 1 << PIECE_BITS;

/// A record that lends one of its fields to the free list while it is not in use.
pub(super) trait Linked: Copy + Default {
    fn link(&self) -> u32;
    fn set_link(&mut self, next: u32);
}

#[derive(Debug)]
pub(super) struct Pool<T> {
    pieces: Vec<Box<[T]>>,
    free: u32,
}

impl<T: Linked> Pool<T> {
    pub(super) fn new() -> Self {
        Self { pieces: Vec::new(), free: NONE }
    }

    /// A record in its default state. Allocates only when every record there is is in use.
    pub(super) fn take(&mut self) -> u32 {
        if self.free == NONE {
            self.grow();
        }
        let id = self.free;
        self.free = self[id].link();
        self[id] = T::default();
        id
    }

    pub(super) fn give(&mut self, id: u32) {
        self.give_list(id, id);
    }

    /// Takes home a list of records that is already linked from `head` to `tail`.
    pub(super) fn give_list(&mut self, head: u32, tail: u32) {
        let rest = self.free;
        self[tail].set_link(rest);
        self.free = head;
    }

    fn grow(&mut self) {
        let first = u32::try_from(self.pieces.len())
            .ok()
            .and_then(|pieces| pieces.checked_mul(PIECE_RECORDS))
            .expect("a region has fewer than u32::MAX slots, slabs and sizes");
        let mut piece = vec![T::default(); PIECE_RECORDS as usize].into_boxed_slice();
        for (next, record) in (first + 1..).zip(piece.iter_mut()) {
            record.set_link(next);
        }
        piece[PIECE_RECORDS as usize - 1].set_link(NONE);
        self.pieces.push(piece);
        self.free = first;
    }
}

impl<T> Index<u32> for Pool<T> {
    type Output = T;

    fn index(&self, id: u32) -> &T {
        &self.pieces[(id >> PIECE_BITS) as usize][(id & (PIECE_RECORDS - 1)) as usize]
    }
}

impl<T> IndexMut<u32> for Pool<T> {
    fn index_mut(&mut self, id: u32) -> &mut T {
        &mut self.pieces[(id >> PIECE_BITS) as usize][(id & (PIECE_RECORDS - 1)) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Copy, Debug, Default)]
    struct Record {
        link: u32,
    }

    impl Linked for Record {
        fn link(&self) -> u32 {
            self.link
        }
        fn set_link(&mut self, next: u32) {
            self.link = next;
        }
    }

    #[test]
    fn records_are_distinct_and_reused() {
        let mut pool = Pool::<Record>::new();
        let ids: Vec<u32> = (0..10_000).map(|_| pool.take()).collect();
        assert_eq!(ids.iter().collect::<std::collections::HashSet<_>>().len(), ids.len());
        let pieces = pool.pieces.len();
        for &id in &ids {
            pool.give(id);
        }
        for _ in 0..10_000 {
            pool.take();
        }
        assert_eq!(pool.pieces.len(), pieces);
    }

    #[test]
    fn a_list_comes_home_in_one_step() {
        let mut pool = Pool::<Record>::new();
        let [a, b, c] = [pool.take(), pool.take(), pool.take()];
        pool[a].link = b;
        pool[b].link = c;
        pool.give_list(a, c);
        assert_eq!([pool.take(), pool.take(), pool.take()], [a, b, c]);
    }
}
