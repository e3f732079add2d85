//! Memory of another process that this one only reads.
//!
//! What a reader would get wrong: read-only says what we may do, not what the others do. Bytes of a
//! client change whenever it likes, and bytes of a node when a lease ends. So nothing here makes a
//! reference to them but [`LeasedBytes`], and everything else copies them out first and looks at
//! the copy. That the memory stays at all is what the seals are checked for: one that shrinks is a
//! SIGBUS in whoever reads it.

mod checks;

use crate::copy::Stores;
use crate::region::UNIT_BYTES;
use crate::{Landing, SlotMut};
use checks::{check_of_client, check_of_node, failed};
use rustix::mm::{Advice, MapFlags, ProtFlags};
use std::ops::Deref;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::sync::Arc;

pub use checks::{MapError, SHARED_BYTES_MAX};

/// A mapping of another process's memory, read-only, until the last owner lets go of it.
///
/// It outlives the process whose memory it is.
#[derive(Debug)]
pub struct MappedRegion {
    base: NonNull<u8>,
    /// What was announced.
    bytes: u64,
    /// What is mapped: whole pages of its kind.
    mapped_bytes: usize,
    owner: Owner,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Node,
    Client,
}

// SAFETY: the mapping belongs to no thread, and nothing here ever writes it.
unsafe impl Send for MappedRegion {}
// SAFETY: as above; that others read it too is what it is for.
unsafe impl Sync for MappedRegion {}

impl MappedRegion {
    /// The memory of a node: what [`Region::descriptor`](crate::Region::descriptor) names there.
    ///
    /// # Errors
    ///
    /// Typed by what is wrong with it: it is no memfd, it is not sealed against shrinking, growing
    /// and writers to come, or it has fewer than `bytes` bytes.
    pub fn of_node(fd: OwnedFd, bytes: u64) -> Result<Self, MapError> {
        let mapped_bytes = check_of_node(&fd, bytes)?;
        Self::map(&fd, bytes, mapped_bytes, Owner::Node)
    }

    /// The memory of a client, who may mean harm: [`SharedMemory`](crate::SharedMemory) there.
    ///
    /// Looks at every page of it, which takes the longer the more there are: some 20 ms a
    /// GiB (measured).
    ///
    /// # Errors
    ///
    /// As [`MappedRegion::of_node`]; also if the seals could be added to, it is of huge pages that
    /// were reserved, its size is not exactly `bytes`, a whole number of 4096 and at most
    /// [`SHARED_BYTES_MAX`], or a part of it was never written.
    pub fn of_client(fd: OwnedFd, bytes: u64) -> Result<Self, MapError> {
        check_of_client(&fd, bytes)?;
        Self::map(&fd, bytes, bytes, Owner::Client)
    }

    /// Its size, as announced.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Where it begins in this process, for a device that reads it by itself; nobody can write it.
    pub const fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Whether the `bytes` bytes from `offset` on are all inside.
    pub fn contains(&self, offset: u64, bytes: u64) -> bool {
        offset.checked_add(bytes).is_some_and(|end| end <= self.bytes)
    }

    /// Makes the `bytes` bytes from `offset` on known to this process, so that reading them finds
    /// its way without asking the kernel; what is outside is left out.
    ///
    /// It takes some 0.5 µs for each 4096 B (measured), so a caller in a hurry does it in steps.
    /// Where the kernel does not know how (before 5.14) nothing happens.
    pub fn populate(&self, offset: u64, bytes: u64) {
        let end = offset.saturating_add(bytes).min(self.bytes);
        let start = offset - offset % UNIT_BYTES;
        if start >= end {
            return;
        }
        let len = usize::try_from(end - start).expect("addresses have 64 bits");
        let at = self.at(start, end - start).cast_mut().cast();
        // SAFETY: the range is in our mapping, and this advice leaves contents alone.
        let _ = unsafe { rustix::mm::madvise(at, len, Advice::LinuxPopulateRead) };
    }

    /// Copies the bytes from `offset` on, as many as `into` has, and shows `check` every byte, in
    /// order. What it is shown is what was copied, whatever happens to the region meanwhile.
    ///
    /// # Panics
    ///
    /// If they are not all inside.
    pub fn copy_out(&self, offset: u64, into: &mut [u8], check: impl FnMut(&[u8])) {
        let bytes = into.len() as u64;
        let from = self.at(offset, bytes);
        // SAFETY: so many bytes are mapped there, and nobody in this process has the right to write
        // through this mapping.
        unsafe { Stores::of(bytes).copy(from, into, check) };
    }

    /// As [`MappedRegion::copy_out`], of `bytes` bytes to the first of `landing`, across pieces.
    ///
    /// # Panics
    ///
    /// If they are not all inside, or do not fit.
    pub fn copy_to_landing(
        &self,
        offset: u64,
        bytes: u64,
        landing: &mut Landing,
        mut check: impl FnMut(&[u8]),
    ) {
        let stores = Stores::of(bytes);
        let mut done = 0;
        while done < bytes {
            let piece = landing.piece_at(done);
            assert!(!piece.is_empty(), "no more is copied than the landing has room for");
            let left = usize::try_from(bytes - done).unwrap_or(usize::MAX);
            let piece_bytes = piece.len().min(left);
            let from = self.at(offset + done, piece_bytes as u64);
            // SAFETY: as in `copy_out`.
            unsafe { stores.copy(from, &mut piece[..piece_bytes], &mut check) };
            done += piece_bytes as u64;
        }
    }

    /// As [`MappedRegion::copy_out`], of `bytes` bytes behind what `slot` holds. They count as
    /// filled then.
    ///
    /// What `check` thinks of them is for the caller to know: it drops the slot if it is no good.
    ///
    /// # Panics
    ///
    /// If they are not all inside, or do not fit.
    pub fn fill(&self, offset: u64, slot: &mut SlotMut, bytes: u32, check: impl FnMut(&[u8])) {
        let room = slot.unfilled();
        assert!(bytes as usize <= room.len(), "no more is filled than the slot has room for");
        self.copy_out(offset, &mut room[..bytes as usize], check);
        slot.advance(bytes as usize);
    }

    /// Where the byte at `offset` is; the others follow it.
    ///
    /// # Panics
    ///
    /// If they are not all inside.
    fn at(&self, offset: u64, bytes: u64) -> *const u8 {
        assert!(self.contains(offset, bytes), "only what is inside a region is read");
        let offset = usize::try_from(offset).expect("addresses have 64 bits");
        // SAFETY: the offset is in the mapping, or at its end.
        unsafe { self.base.add(offset) }.as_ptr()
    }

    fn map(fd: &OwnedFd, bytes: u64, mapped_bytes: u64, owner: Owner) -> Result<Self, MapError> {
        let mapped_bytes = usize::try_from(mapped_bytes).expect("addresses have 64 bits");
        let at = std::ptr::null_mut();
        let (rights, flags) = (ProtFlags::READ, MapFlags::SHARED);
        // SAFETY: a new mapping at an address the kernel chooses disturbs nothing.
        let base = unsafe { rustix::mm::mmap(at, mapped_bytes, rights, flags, fd, 0) };
        let base = base.map_err(|error| failed("mmap", error))?;
        // Others' data is not for our core dumps. If the kernel does not know this, so be it.
        // SAFETY: the range is our mapping, and this advice leaves contents alone.
        let _ = unsafe { rustix::mm::madvise(base, mapped_bytes, Advice::LinuxDontDump) };
        let base = NonNull::new(base.cast()).expect("the kernel maps nothing at address 0");
        Ok(Self { base, bytes, mapped_bytes, owner })
    }
}

impl Drop for MappedRegion {
    fn drop(&mut self) {
        // SAFETY: this is our mapping, whole, and whoever uses it keeps the region alive.
        let unmapped = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.mapped_bytes) };
        if let Err(error) = unmapped {
            tracing::error!(%error, bytes = self.mapped_bytes, "a mapping was not unmapped");
        }
    }
}

/// Bytes of a node's region that this process holds a lease on.
///
/// They are read in place, so what they rest on is the node: it leaves the bytes of a slot alone
/// from the answer that leases them on until they are given back. A node that is wrong about this,
/// or means harm, can change bytes under a reader, as the kernel could; a client trusts it as much.
/// A node that dies leaves them as they are, for nobody can write them then. Whoever makes this
/// value keeps the lease for as long as it lives, and no longer trusts what a forked child sees.
#[derive(Clone, Debug)]
pub struct LeasedBytes {
    region: Arc<MappedRegion>,
    offset: u64,
    bytes: usize,
}

impl LeasedBytes {
    /// The `bytes` bytes from `offset` on; `None` if they are not all in the region, or this is no
    /// region of a node, for nobody leases out the memory of clients.
    pub fn new(region: Arc<MappedRegion>, offset: u64, bytes: usize) -> Option<Self> {
        let inside = region.contains(offset, bytes as u64) && region.owner == Owner::Node;
        inside.then_some(Self { region, offset, bytes })
    }

    /// The region that they are in.
    pub const fn region(&self) -> &Arc<MappedRegion> {
        &self.region
    }

    /// Where they begin in there.
    pub const fn offset(&self) -> u64 {
        self.offset
    }
}

impl Deref for LeasedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let at = self.region.at(self.offset, self.bytes as u64);
        // SAFETY: the range is mapped for reading for as long as `region` lives, and initialised
        // as all memory from the kernel is. Nobody in this process can write it. That the node does
        // not either is its promise, of which this type's description tells; the seals keep
        // everybody else from writing, and everybody from taking the memory away.
        unsafe { std::slice::from_raw_parts(at, self.bytes) }
    }
}

impl AsRef<[u8]> for LeasedBytes {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

#[cfg(not(miri))]
#[cfg(test)]
mod tests {
    use super::*;
    use crate::copy::STREAM_BYTES_MIN;
    use crate::{HugePages, Region, SharedMemory};
    use rustix::fs::{FallocateFlags, Mode, OFlags, SealFlags};
    use std::os::fd::{AsRawFd, BorrowedFd};
    use std::sync::atomic::{AtomicBool, Ordering};

    fn copy_of(fd: BorrowedFd<'_>) -> OwnedFd {
        fd.try_clone_to_owned().unwrap()
    }

    #[test]
    fn reader_sees_what_the_owner_writes_and_keeps_it() {
        let mut shared = SharedMemory::new(10_000).unwrap();
        shared[..5].copy_from_slice(b"hello");
        let read = |offset, fd| {
            let region = Arc::new(MappedRegion::of_node(fd, 12_288).unwrap());
            assert_eq!(region.bytes(), 12_288);
            region.populate(0, u64::MAX);
            region.populate(5000, 1);
            region.populate(u64::MAX, 1);
            LeasedBytes::new(region, offset, 2).unwrap()
        };
        let leased = read(1, copy_of(shared.descriptor()));
        shared[2] = b'L';
        assert_eq!(&*leased, b"eL");
        assert_eq!((leased.offset, leased.as_ref().len()), (1, 2));
        drop(shared);
        assert_eq!(&*leased, b"eL");
    }

    #[test]
    fn only_what_is_inside_a_nodes_region_is_leased() {
        let shared = SharedMemory::new(8192).unwrap();
        let of_node = MappedRegion::of_node(copy_of(shared.descriptor()), 4096).unwrap();
        assert!(of_node.contains(0, 4096) && of_node.contains(4096, 0));
        assert!(!of_node.contains(1, 4096) && !of_node.contains(4097, 0));
        assert!(!of_node.contains(u64::MAX, 2));
        let of_node = Arc::new(of_node);
        assert!(LeasedBytes::new(Arc::clone(&of_node), 4096, 0).unwrap().is_empty());
        assert!(LeasedBytes::new(Arc::clone(&of_node), 4095, 2).is_none());
        assert!(LeasedBytes::new(of_node, u64::MAX, 2).is_none());
        let of_client = MappedRegion::of_client(copy_of(shared.descriptor()), 8192).unwrap();
        assert!(LeasedBytes::new(Arc::new(of_client), 0, 1).is_none());
    }

    #[test]
    fn writable_mapping_is_impossible_for_a_reader() {
        let region = Region::memfd("t", 1 << 21, HugePages::Try).unwrap();
        let (near, far) = std::os::unix::net::UnixStream::pair().unwrap();
        let parts = [std::io::IoSlice::new(b"x")];
        crate::rights::send_with(&near, &parts, region.descriptor().unwrap()).unwrap();
        let (mut arrived, mut into) = (Vec::new(), Vec::with_capacity(1));
        crate::rights::recv_more_with(&far, &mut into, 1, &mut arrived).unwrap();
        let passed = arrived.remove(0);
        let path = format!("/proc/self/fd/{}", passed.as_raw_fd());
        let reopened = rustix::fs::open(&path, OFlags::RDWR, Mode::empty()).unwrap();

        for fd in [&passed, &reopened] {
            let map = |rights| {
                let at = std::ptr::null_mut();
                // SAFETY: a new mapping at an address the kernel chooses.
                unsafe { rustix::mm::mmap(at, 1 << 21, rights, MapFlags::SHARED, fd, 0) }
            };
            assert!(map(ProtFlags::READ | ProtFlags::WRITE).is_err());
            assert!(map(ProtFlags::WRITE).is_err());
            let readable = map(ProtFlags::READ).unwrap();
            let writable = rustix::mm::MprotectFlags::READ | rustix::mm::MprotectFlags::WRITE;
            // SAFETY: mapped just now, and nobody refers to it.
            assert!(unsafe { rustix::mm::mprotect(readable, 1 << 21, writable) }.is_err());
            // SAFETY: as above.
            assert!(unsafe { rustix::mm::madvise(readable, 4096, Advice::LinuxRemove) }.is_err());
            let memory = std::fs::OpenOptions::new().write(true).open("/proc/self/mem").unwrap();
            assert!(rustix::io::pwrite(&memory, b"x", readable as u64).is_err());
            // SAFETY: as above.
            unsafe { rustix::mm::munmap(readable, 1 << 21) }.unwrap();

            assert!(rustix::io::write(fd, b"x").is_err());
            assert!(rustix::io::pwrite(fd, b"x", 4096).is_err());
            assert!(rustix::fs::ftruncate(fd, 0).is_err());
            assert!(rustix::fs::ftruncate(fd, 4 << 20).is_err());
            let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            assert!(rustix::fs::fallocate(fd, hole, 0, 4096).is_err());
            assert!(rustix::fs::fallocate(fd, FallocateFlags::empty(), 1 << 21, 4096).is_err());
            assert!(rustix::fs::fcntl_add_seals(fd, SealFlags::WRITE).is_err());
        }
        assert!(rustix::fs::open(&path, OFlags::RDWR | OFlags::TRUNC, Mode::empty()).is_err());
        MappedRegion::of_node(passed, 1 << 21).unwrap();
    }

    #[test]
    fn copies_come_out_whole() {
        let bytes = (STREAM_BYTES_MIN as usize) + 4096;
        let mut shared = SharedMemory::new(bytes as u64).unwrap();
        shared.iter_mut().enumerate().for_each(|(i, byte)| *byte = (i * 7 + i / 256) as u8);
        let fd = copy_of(shared.descriptor());
        let region = MappedRegion::of_client(fd, shared.bytes()).unwrap();
        for (offset, len) in [(0, bytes), (3, 5), (4000, 20_000), (bytes, 0)] {
            let wanted = &shared[offset..offset + len];
            let mut shown = Vec::new();
            let mut into = vec![0; len];
            region.copy_out(offset as u64, &mut into, |step| shown.extend_from_slice(step));
            assert!(into == wanted && shown == wanted);

            let mut memory = vec![0; len + 10];
            let mut shown = Vec::new();
            let places = memory.chunks_mut(len / 3 + 1);
            crate::lend([places], |mut lent| {
                let check = |step: &[u8]| shown.extend_from_slice(step);
                region.copy_to_landing(offset as u64, len as u64, &mut lent[0], check);
            });
            assert!(&memory[..len] == wanted && shown == wanted && memory[len..] == [0; 10]);

            let arena = crate::Arena::new(Arc::new(Region::heap(4 << 20).unwrap()));
            let mut slot = arena.take(len as u32 + 4).unwrap();
            slot.write(b"head");
            region.fill(offset as u64, &mut slot, len as u32, |_| ());
            assert!(&slot.freeze().unwrap()[4..] == wanted);
        }
    }

    #[test]
    fn bytes_that_change_meanwhile_are_checked_as_they_were_copied() {
        for bytes in [4096, 64 << 10, 2 * STREAM_BYTES_MIN as usize] {
            let mut shared = SharedMemory::new(bytes as u64).unwrap();
            let fd = copy_of(shared.descriptor());
            let region = MappedRegion::of_client(fd, bytes as u64).unwrap();
            let stop = AtomicBool::new(false);
            let rounds = std::thread::scope(|scope| {
                scope.spawn(|| {
                    let mut round = 0u8;
                    while !stop.load(Ordering::Relaxed) {
                        round = round.wrapping_add(1);
                        shared.fill(std::hint::black_box(round));
                    }
                });
                let (mut into, mut shown) = (vec![0; bytes], Vec::new());
                let mut mixed = 0;
                for _ in 0..200 {
                    shown.clear();
                    region.copy_out(0, &mut into, |step| shown.extend_from_slice(step));
                    assert!(into == shown);
                    mixed += usize::from(into.iter().any(|&byte| byte != into[0]));
                }
                stop.store(true, Ordering::Relaxed);
                mixed
            });
            println!("{bytes} bytes: {rounds} of 200 copies were mixed");
        }
    }

    #[test]
    #[should_panic(expected = "only what is inside a region is read")]
    fn nothing_outside_is_copied() {
        let shared = SharedMemory::new(4096).unwrap();
        let region = MappedRegion::of_client(copy_of(shared.descriptor()), 4096).unwrap();
        region.copy_out(4090, &mut [0; 7], |_| ());
    }

    #[test]
    #[should_panic(expected = "no more is copied than the landing has room for")]
    fn landing_is_large_enough() {
        let shared = SharedMemory::new(4096).unwrap();
        let region = MappedRegion::of_client(copy_of(shared.descriptor()), 4096).unwrap();
        region.copy_to_landing(0, 11, &mut Landing::from_vec(vec![0; 10]), |_| ());
    }
}
