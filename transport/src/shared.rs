//! Memory of this process that it lets a node read: what a put by reference takes its bytes from.
//!
//! What a reader would get wrong: it is sealed against writers, and is written all the same. The
//! seal is for mappings that come after it; ours was there before. Nobody else has one that writes.

use crate::region::{HugePages, Region, RegionError};
use crate::registered::Registered;
use std::any::Any;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::Arc;

/// Zeroed memory, present in full, that another process can map read-only.
pub struct SharedMemory {
    region: Arc<Region>,
}

impl SharedMemory {
    /// Takes `bytes` bytes, rounded up to a whole number of 4096.
    ///
    /// # Errors
    ///
    /// As [`Region::memfd`]; more than is available is refused before anything is taken.
    pub fn new(bytes: u64) -> Result<Self, RegionError> {
        // Of ordinary pages, for a node refuses others: it could not say who pays for them.
        let region = Region::memfd("larder-shared", bytes, HugePages::No)?;
        let is_first = region.claim();
        assert!(is_first, "nobody else knows this region");
        Ok(Self { region: Arc::new(region) })
    }

    /// The memfd, for passing it to a node: whoever gets it can map it, but never writable.
    ///
    /// # Panics
    ///
    /// Under miri, which has no memfd.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.region.descriptor().expect("it was made as a memfd")
    }

    /// The size, a whole number of 4096.
    pub fn bytes(&self) -> u64 {
        self.region.bytes()
    }

    /// Where it begins, for those who compare addresses.
    pub fn base_address(&self) -> usize {
        self.region.base().addr().get()
    }

    /// Where it begins, for a device that is let into it. Whoever uses it sees to it that nobody
    /// has a reference to the same bytes meanwhile.
    pub fn base(&self) -> NonNull<u8> {
        self.region.base()
    }

    /// What the memory stays there for, even when this is dropped.
    pub fn home(&self) -> Arc<dyn Any + Send + Sync> {
        Arc::clone(&self.region) as _
    }

    /// All of it, for a card to know. It stays memory for as long as the card does.
    pub(crate) fn registered(&self) -> Registered {
        // SAFETY: it is that long, initialised, and kept by its home. Only this module's crate has
        // the registration, and makes no landing or source of it: those are made by borrows.
        let registered =
            unsafe { Registered::new(self.region.base().as_ptr(), self.len(), Some(self.home())) };
        registered.expect("memory that was mapped is there")
    }

    fn len(&self) -> usize {
        usize::try_from(self.region.bytes()).expect("addresses have 64 bits")
    }
}

impl Deref for SharedMemory {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the region is that long, initialised, and ours by its claim. Who else maps it
        // cannot write it, and in this process only `deref_mut` does, for which it is borrowed.
        unsafe { std::slice::from_raw_parts(self.region.base().as_ptr(), self.len()) }
    }
}

impl DerefMut for SharedMemory {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and it is borrowed mutably. Others who read meanwhile are other
        // processes; what they see half written they check, and it is no matter of this one's.
        unsafe { std::slice::from_raw_parts_mut(self.region.base().as_ptr(), self.len()) }
    }
}

impl fmt::Debug for SharedMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedMemory").field("bytes", &self.bytes()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn is_send_and_sync<T: Send + Sync + 'static>() {}
    const _: () = is_send_and_sync::<SharedMemory>();

    #[test]
    fn memory_is_zeroed_whole_and_its_owners() {
        let mut shared = SharedMemory::new(5000).unwrap();
        assert_eq!((shared.bytes(), Deref::deref(&shared).len()), (8192, 8192));
        assert!(shared.iter().all(|&byte| byte == 0));
        shared[8191] = 7;
        assert_eq!(shared[8190..], [0, 7]);
        assert!(matches!(SharedMemory::new(0), Err(RegionError::Empty)));
        assert!(matches!(SharedMemory::new(u64::MAX), Err(RegionError::TooLarge { .. })));
    }

    #[test]
    fn it_begins_where_its_bytes_do() {
        let shared = SharedMemory::new(8192).unwrap();
        assert_eq!(shared.base_address(), shared.as_ptr().addr());
    }

    #[cfg(not(miri))]
    #[test]
    fn node_takes_it() {
        let shared = SharedMemory::new(3 << 20).unwrap();
        let fd = shared.descriptor().try_clone_to_owned().unwrap();
        let region = crate::MappedRegion::of_client(fd, shared.bytes()).unwrap();
        assert_eq!(region.bytes(), 3 << 20);
    }
}
