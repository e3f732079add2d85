//! Memory of a caller in another language: promised once, then named by address.
//!
//! Python and C know addresses, not borrows. Whoever registers memory makes the promise that
//! [`Landing::from_raw`] and [`Source::from_raw`] ask for, for all of it and for as long as it is
//! registered; after that a range needs a check of its bounds and nothing else. What a reader would
//! get wrong: to drop a registration does not end what is in flight, and the memory must outlive
//! that. [`Registered::wait_idle`] says when it has. That the memory is there when it is registered
//! is checked, so that a wrong number is an error and not a fault later on another thread.

use crate::landing::Landing;
use crate::present::{NotPresent, check_present};
use crate::source::Source;
use std::any::Any;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Registered memory. Cheap to clone; clones are the same registration.
#[derive(Clone)]
pub struct Registered {
    shared: Arc<Shared>,
}

/// A range that is not inside registered memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{bytes} bytes at {address:#x} are not inside the {registered_bytes} registered at {base:#x}"
)]
pub struct OutOfBounds {
    /// Where the range begins.
    pub address: usize,
    /// How long it is, in bytes.
    pub bytes: usize,
    /// Where registered memory begins.
    pub base: usize,
    /// How long that is, in bytes.
    pub registered_bytes: usize,
}

struct Shared {
    base: *mut u8,
    bytes: usize,
    in_flight: Mutex<usize>,
    idle: Condvar,
    _keepalive: Option<Arc<dyn Any + Send + Sync>>,
}

// SAFETY: whoever registered the memory promised that any thread may use it.
unsafe impl Send for Shared {}
// SAFETY: as above; what changes in here is behind a lock.
unsafe impl Sync for Shared {}

/// One landing or source that is away.
struct Away(Arc<Shared>);

impl Registered {
    /// Registers `bytes` bytes at `address`.
    ///
    /// `keepalive` is dropped when the registration and all that is in flight are gone.
    ///
    /// # Errors
    /// [`NotPresent`] if that is no memory to read and write, or none at all.
    ///
    /// # Safety
    ///
    /// If it is memory to read and write now, it stays that, initialised and on every thread, until
    /// the last clone of this was dropped and nothing is in flight any more. Until a landing that
    /// was made of a range is dropped, nobody else reads or writes that range; until a source is,
    /// nobody writes it. Ranges of one landing do not overlap.
    pub unsafe fn new(
        address: *mut u8,
        bytes: usize,
        keepalive: Option<Arc<dyn Any + Send + Sync>>,
    ) -> Result<Self, NotPresent> {
        check_present(address.addr(), bytes)?;
        let (in_flight, idle) = (Mutex::new(0), Condvar::new());
        let shared = Shared { base: address, bytes, in_flight, idle, _keepalive: keepalive };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Where it begins.
    pub fn address(&self) -> usize {
        self.shared.base.addr()
    }

    /// How long it is, in bytes.
    pub fn len(&self) -> usize {
        self.shared.bytes
    }

    /// Whether it is 0 bytes long, which no memory is.
    pub fn is_empty(&self) -> bool {
        self.shared.bytes == 0
    }

    /// Whether all `bytes` bytes at `address` are inside.
    pub fn contains(&self, address: usize, bytes: usize) -> bool {
        self.at(address, bytes).is_ok()
    }

    /// Lands in these ranges, each an address and a length in bytes, filled in order.
    ///
    /// # Errors
    /// [`OutOfBounds`] for the first range that is not inside.
    ///
    /// # Panics
    /// If there are more than [`PIECES_MAX`](crate::pieces::PIECES_MAX) ranges with bytes.
    pub fn landing(&self, ranges: &[(usize, usize)]) -> Result<Landing, OutOfBounds> {
        let pieces = self.pieces(ranges)?;
        // SAFETY: they are inside memory of which whoever registered it promised this.
        Ok(unsafe { Landing::from_raw(pieces, Some(self.away())) })
    }

    /// The bytes of these ranges, in order.
    ///
    /// # Errors
    /// As [`Registered::landing`].
    ///
    /// # Panics
    /// As [`Registered::landing`].
    pub fn source(&self, ranges: &[(usize, usize)]) -> Result<Source, OutOfBounds> {
        let pieces =
            self.pieces(ranges)?.into_iter().map(|(base, bytes)| (base.cast_const(), bytes));
        // SAFETY: as for a landing.
        Ok(unsafe { Source::from_raw(pieces, Some(self.away())) })
    }

    /// How many landings and sources are away.
    pub fn in_flight(&self) -> usize {
        *self.shared.lock()
    }

    /// Waits until none is, at most for `timeout`; whether that is so.
    pub fn wait_idle(&self, timeout: Duration) -> bool {
        let until = Instant::now().checked_add(timeout);
        let mut in_flight = self.shared.lock();
        while *in_flight > 0 {
            in_flight = match until {
                None => self.shared.idle.wait(in_flight).unwrap_or_else(PoisonError::into_inner),
                Some(until) => {
                    let left = until.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return false;
                    }
                    let woken = self.shared.idle.wait_timeout(in_flight, left);
                    woken.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        true
    }

    fn pieces(&self, ranges: &[(usize, usize)]) -> Result<Vec<(*mut u8, usize)>, OutOfBounds> {
        ranges.iter().map(|&(address, bytes)| Ok((self.at(address, bytes)?, bytes))).collect()
    }

    fn at(&self, address: usize, bytes: usize) -> Result<*mut u8, OutOfBounds> {
        let Shared { base, bytes: registered_bytes, .. } = *self.shared;
        let is_inside = address
            .checked_sub(base.addr())
            .and_then(|offset| offset.checked_add(bytes))
            .is_some_and(|end| end <= registered_bytes);
        if is_inside {
            Ok(base.wrapping_add(address - base.addr()))
        } else {
            Err(OutOfBounds { address, bytes, base: base.addr(), registered_bytes })
        }
    }

    fn away(&self) -> Arc<dyn Any + Send + Sync> {
        *self.shared.lock() += 1;
        Arc::new(Away(Arc::clone(&self.shared)))
    }
}

impl fmt::Debug for Registered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registered")
            .field("address", &self.shared.base)
            .field("bytes", &self.shared.bytes)
            .field("in_flight", &self.in_flight())
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, usize> {
        self.in_flight.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Away {
    fn drop(&mut self) {
        let mut in_flight = self.0.lock();
        *in_flight -= 1;
        if *in_flight == 0 {
            self.0.idle.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::present::Fault;
    use std::ptr::with_exposed_provenance_mut;

    /// 100 bytes that live as long as the registration, and their address.
    fn registered() -> (Registered, usize) {
        let memory: &'static mut [u8] = Box::leak(Box::new([7; 100]));
        let address = memory.as_mut_ptr();
        // SAFETY: the memory is never freed, and only used through the registration.
        (unsafe { Registered::new(address, 100, None) }.unwrap(), address.addr())
    }

    #[test]
    fn ranges_are_filled_and_read_in_order() {
        let (memory, at) = registered();
        let mut landing = memory.landing(&[(at + 90, 10), (at, 0), (at + 3, 2)]).unwrap();
        landing.write_at(0, b"0123456789ab");
        assert_eq!((landing.len(), memory.in_flight()), (12, 1));
        drop(landing);
        let source = memory.source(&[(at + 2, 4), (at + 98, 2)]).unwrap();
        assert_eq!(source.pieces(0, 6).collect::<Vec<_>>(), [&b"\x07ab\x07"[..], b"89"]);
    }

    #[test]
    fn a_range_that_is_not_inside_is_named() {
        let (memory, at) = registered();
        assert!(memory.contains(at, 100) && memory.contains(at + 100, 0));
        for (address, bytes) in
            [(at, 101), (at + 100, 1), (at - 1, 1), (at + 1, usize::MAX), (0, 0)]
        {
            let error = OutOfBounds { address, bytes, base: at, registered_bytes: 100 };
            assert_eq!(memory.landing(&[(at, 1), (address, bytes)]).unwrap_err(), error);
            assert_eq!(memory.source(&[(address, bytes)]).unwrap_err(), error);
        }
        assert_eq!(memory.in_flight(), 0, "nothing was made of it");
    }

    #[test]
    #[cfg_attr(miri, ignore = "needs /proc")]
    fn what_is_not_there_is_not_registered() {
        let owner: Arc<dyn Any + Send + Sync> = Arc::new(());
        let base = with_exposed_provenance_mut(0xdead_beef_dead_beef);
        // SAFETY: never memory, as no process can have anything mapped there.
        let refused = unsafe { Registered::new(base, 16, Some(Arc::clone(&owner))) };
        let fault = Fault::Unmapped(0xdead_beef_dead_beef);
        let error = NotPresent { address: 0xdead_beef_dead_beef, bytes: 16, fault };
        assert_eq!(refused.err(), Some(error));
        assert_eq!(Arc::strong_count(&owner), 1, "what would keep it is let go of");
    }

    #[test]
    fn idle_is_when_everything_came_home() {
        let (memory, at) = registered();
        assert!(memory.wait_idle(Duration::ZERO));
        let landing = memory.landing(&[(at, 1)]).unwrap();
        let source = memory.source(&[(at + 1, 1)]).unwrap();
        assert!(!memory.wait_idle(Duration::from_millis(1)));
        drop(source);
        let home = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(20));
            drop(landing);
        });
        assert!(memory.wait_idle(Duration::MAX));
        assert_eq!(memory.in_flight(), 0);
        home.join().unwrap();
    }

    #[test]
    fn what_keeps_the_memory_lives_as_long_as_what_is_in_flight() {
        let owner = Arc::new(vec![0_u8; 10]);
        let address = owner.as_ptr().cast_mut();
        let keepalive: Arc<dyn Any + Send + Sync> = Arc::clone(&owner) as _;
        // SAFETY: the vector lives as long as the registration, and is only read.
        let memory = unsafe { Registered::new(address, 10, Some(keepalive)) }.unwrap();
        let source = memory.source(&[(address.addr(), 10)]).unwrap();
        drop(memory);
        assert_eq!(Arc::strong_count(&owner), 2);
        assert_eq!(source.piece_at(0), [0; 10]);
        drop(source);
        assert_eq!(Arc::strong_count(&owner), 1);
    }
}
