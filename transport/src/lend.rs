//! Lends memory that a caller only borrowed to threads that outlive the borrow.
//!
//! As in `std::thread::scope`, what makes it sound is that [`lend`] does not come back before the
//! memory did: it waits until the last landing was dropped, also when `f` panics. What a reader
//! would get wrong: a landing that is leaked, or that `f` returns, never comes home, and then the
//! call waits for ever. That is a bug of the caller's, but never somebody else writing into memory
//! that was freed. Deadlines are kept by whoever holds the landings: it must let go of them.

use crate::landing::Landing;
use crate::source::Source;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Lends the caller's memory as landings, one for each of `places`, to `f` and to whoever `f` hands
/// them to, and waits until all of them were dropped.
///
/// A place is the pieces of one object, in order.
///
/// # Panics
///
/// If a place has more than [`PIECES_MAX`](crate::pieces::PIECES_MAX) pieces; and if `f` does.
pub fn lend<'a, P, R>(places: impl IntoIterator<Item = P>, f: impl FnOnce(Vec<Landing>) -> R) -> R
where
    P: IntoIterator<Item = &'a mut [u8]>,
{
    let home = AwaitsAll(Arc::new(Home::default()));
    let landings = places.into_iter().map(|place| {
        // The ticket comes first: from it on, `home` waits, whatever panics.
        let ticket = Home::ticket(&home.0);
        let pieces = place.into_iter().map(|piece| (piece.as_mut_ptr(), piece.len()));
        // SAFETY: the slices are exclusively ours for 'a, which outlasts this call, and this call
        // ends only after the landing, ticket and all, was dropped.
        unsafe { Landing::lent(pieces, ticket) }
    });
    let landings = landings.collect();
    f(landings)
}

/// As [`lend`], for memory that is only read.
///
/// # Panics
///
/// As [`lend`].
pub fn lend_sources<'a, P, R>(
    places: impl IntoIterator<Item = P>,
    f: impl FnOnce(Vec<Source>) -> R,
) -> R
where
    P: IntoIterator<Item = &'a [u8]>,
{
    let home = AwaitsAll(Arc::new(Home::default()));
    let sources = places.into_iter().map(|place| {
        let ticket = Home::ticket(&home.0);
        let pieces = place.into_iter().map(|piece| (piece.as_ptr(), piece.len()));
        // SAFETY: nobody writes to the slices for 'a, which outlasts this call, and this call ends
        // only after the source, ticket and all, was dropped.
        unsafe { Source::lent(pieces, ticket) }
    });
    let sources = sources.collect();
    f(sources)
}

/// Counts what is still away.
#[derive(Debug, Default)]
struct Home {
    away: Mutex<Away>,
    all_home: Condvar,
}

#[derive(Debug, Default)]
struct Away {
    count: usize,
    /// Whether the caller sleeps until all is home: to wake nobody is a system call too.
    is_awaited: bool,
}

/// One thing that is away until this is dropped.
#[derive(Debug)]
pub(crate) struct Ticket(Arc<Home>);

impl Home {
    fn ticket(home: &Arc<Self>) -> Ticket {
        home.lock().count += 1;
        Ticket(Arc::clone(home))
    }

    fn lock(&self) -> MutexGuard<'_, Away> {
        self.away.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut away = self.0.lock();
        away.count -= 1;
        if away.count == 0 && away.is_awaited {
            self.0.all_home.notify_one();
        }
    }
}

/// Waits in its drop, so that no way out of a function leads past it.
struct AwaitsAll(Arc<Home>);

impl Drop for AwaitsAll {
    fn drop(&mut self) {
        let mut away = self.0.lock();
        away.is_awaited = true;
        while away.count > 0 {
            away = self.0.all_home.wait(away).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    #[test]
    fn another_thread_fills_borrowed_memory() {
        let (landings, work) = mpsc::channel::<Landing>();
        let io = thread::spawn(move || {
            for mut landing in work {
                thread::sleep(Duration::from_millis(20));
                let mut offset = 0;
                while offset < landing.len() {
                    let piece = landing.piece_at(offset);
                    piece.fill(piece.len() as u8);
                    offset += piece.len() as u64;
                }
            }
        });
        let mut memory = vec![0u8; 10];
        let (one, rest) = memory.split_at_mut(3);
        let (two, three) = rest.split_at_mut(2);
        lend([vec![one], vec![three, two]], |lent| {
            lent.into_iter().for_each(|landing| landings.send(landing).unwrap());
        });
        assert_eq!(memory, [3, 3, 3, 2, 2, 5, 5, 5, 5, 5]);
        drop(landings);
        io.join().unwrap();
    }

    #[test]
    fn a_panic_waits_for_what_is_away() {
        let (landings, work) = mpsc::channel::<Landing>();
        let io = thread::spawn(move || {
            let mut landing = work.recv().unwrap();
            thread::sleep(Duration::from_millis(50));
            landing.piece_at(0).fill(9);
        });
        let mut memory = [0u8; 100];
        let unwound = catch_unwind(AssertUnwindSafe(|| {
            lend([[&mut memory[..]]], |mut lent| {
                landings.send(lent.remove(0)).unwrap();
                panic!("as planned");
            })
        }));
        assert!(unwound.is_err());
        assert_eq!(memory, [9; 100]);
        io.join().unwrap();
    }

    #[test]
    fn a_place_that_panics_waits_for_nobody_else() {
        let mut memory = [0u8; 10];
        let places = memory.chunks_mut(5).map(|piece| {
            let too_many = (0..600).map(|_| <&mut [u8]>::default());
            too_many.chain([piece])
        });
        assert_eq!(lend(places, |lent| lent.len()), 2);
        let unwound = catch_unwind(|| {
            let mut bytes = [0u8; 600];
            lend([bytes.chunks_mut(1)], |_| ());
        });
        assert!(unwound.is_err());
    }

    #[test]
    fn sources_are_read_elsewhere() {
        let words = [&b"hello"[..], b" ", b"there"];
        let total: usize = lend_sources([words.iter().copied()], |mut lent| {
            let source = lent.remove(0);
            thread::spawn(move || {
                assert_eq!(source.piece_at(6), b"there");
                source.len() as usize
            })
            .join()
            .unwrap()
        });
        assert_eq!(total, 11);
    }

    #[test]
    fn nothing_lent_is_nothing_to_wait_for() {
        assert_eq!(lend(std::iter::empty::<[&mut [u8]; 1]>(), |lent| lent.len()), 0);
        assert_eq!(lend([[&mut [][..]]], |lent| lent[0].len()), 0);
    }
}
