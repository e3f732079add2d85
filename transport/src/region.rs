//! One long-lived mapping: the memory an arena carves, taken in full before the node says it is up.
//!
//! The memory is a memfd, so that readers on this host can map it later, and it is sealed: it can
//! neither shrink under a reader nor ever be mapped writable by anybody else. What a reader would
//! get wrong: a mapping alone takes no memory. Without `fallocate` a full host shows as a SIGBUS in
//! the middle of a put; with it, as an error at start.

use crate::process;
use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};
use rustix::mm::{Advice, MapFlags, ProtFlags};
use std::alloc::Layout;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Slots are addressed in steps of 64 B by a `u32`.
pub const REGION_BYTES_MAX: u64 = 64 << 32;
/// Regions are whole numbers of these.
pub const UNIT_BYTES: u64 = 4096;
const HUGE_PAGE_BYTES: u64 = 2 << 20;

/// Whether to look for explicit 2 MiB pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HugePages {
    /// Use reserved huge pages where there are enough of them, else ordinary pages that the kernel
    /// is asked to join into huge ones.
    Try,
    /// Ordinary pages only.
    No,
}

/// Why there is no region. Sizes are in bytes.
#[derive(Debug, thiserror::Error)]
pub enum RegionError {
    /// Nothing was asked for.
    #[error("a region of 0 bytes was asked for")]
    Empty,
    /// More than [`REGION_BYTES_MAX`].
    #[error("a region of {wanted_bytes} bytes was asked for, the most is {REGION_BYTES_MAX}")]
    TooLarge {
        /// The size asked for.
        wanted_bytes: u64,
    },
    /// This host, or this process's cgroup, has less memory than that.
    #[error("a region of {wanted_bytes} bytes does not fit: {available_bytes} bytes are available")]
    NoMemory {
        /// The size asked for.
        wanted_bytes: u64,
        /// What could be had without swapping or being killed.
        available_bytes: u64,
    },
    /// The kernel refused one step.
    #[error("{step} for a region of {wanted_bytes} bytes: {source}")]
    System {
        /// The system call that failed.
        step: &'static str,
        /// The size asked for.
        wanted_bytes: u64,
        /// What the kernel said.
        source: std::io::Error,
    },
}

/// What to log about a region at start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegionReport {
    /// Size after rounding up to whole pages.
    pub bytes: u64,
    /// Whether reserved 2 MiB pages hold it.
    pub huge_pages: bool,
    /// How long taking and touching the memory took.
    pub prefault_ms: u64,
}

/// A mapping of fixed size that stays where it is until the last owner lets go of it.
///
/// A region is raw memory: nothing in safe code reads or writes it but the one
/// [`Arena`](crate::Arena) that claimed it, which hands out pieces that never overlap.
#[derive(Debug)]
pub struct Region {
    base: NonNull<u8>,
    bytes: usize,
    backing: Backing,
    report: RegionReport,
    claimed: AtomicBool,
}

#[derive(Debug)]
enum Backing {
    Memfd(OwnedFd),
    /// Where the allocation begins, and its layout: the region begins behind, at a page.
    Heap(NonNull<u8>, Layout),
}

// SAFETY: the mapping belongs to no thread, and `Region` reads and writes none of its bytes; who
// does, the arena, is alone (`claim`) and not `Send`.
unsafe impl Send for Region {}
// SAFETY: as above; every method that takes `&self` only reads fields that never change.
unsafe impl Sync for Region {}

impl Region {
    /// Takes `bytes` bytes, rounded up to whole pages, of zeroed memory, all of it now.
    ///
    /// # Errors
    ///
    /// Typed by what is wrong; with [`HugePages::Try`] a lack of huge pages is not an error.
    pub fn memfd(name: &str, bytes: u64, huge: HugePages) -> Result<Self, RegionError> {
        if cfg!(miri) {
            return Self::heap(bytes);
        }
        check_size(bytes)?;
        if huge == HugePages::Try
            && bytes >= HUGE_PAGE_BYTES
            && let Ok(region) = Self::map_huge(name, bytes)
        {
            return Ok(region);
        }
        Self::map_ordinary(name, bytes)
    }

    /// Zeroed memory from the heap, of which pages are taken as they are touched: for tests, and
    /// where no reader on this host will map it.
    ///
    /// # Errors
    ///
    /// As [`Region::memfd`].
    pub fn heap(bytes: u64) -> Result<Self, RegionError> {
        check_size(bytes)?;
        let started = Instant::now();
        let size = size_rounded(bytes, UNIT_BYTES);
        let too_large = RegionError::TooLarge { wanted_bytes: bytes };
        // Allocators write zeroes themselves where more than their own alignment is asked for.
        let Ok(layout) = Layout::from_size_align(size + HEAP_ALIGN, size_of::<usize>()) else {
            return Err(too_large);
        };
        // SAFETY: the layout is not empty, `check_size` saw to it.
        let memory = unsafe { std::alloc::alloc_zeroed(layout) };
        let Some(memory) = NonNull::new(memory) else {
            return Err(RegionError::NoMemory { wanted_bytes: bytes, available_bytes: 0 });
        };
        let ahead = memory.addr().get().next_multiple_of(HEAP_ALIGN) - memory.addr().get();
        // SAFETY: fewer than `HEAP_ALIGN` bytes further, and so many more were allocated.
        let base = unsafe { memory.add(ahead) };
        Ok(Self::new(base, size, Backing::Heap(memory, layout), started))
    }

    /// The size, a whole number of [`UNIT_BYTES`].
    pub fn bytes(&self) -> u64 {
        self.bytes as u64
    }

    /// What to log about this region at start.
    pub fn report(&self) -> RegionReport {
        self.report
    }

    /// The memfd, for passing it to a reader: whoever gets it can map it, but never writable.
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        match &self.backing {
            Backing::Memfd(fd) => Some(fd.as_fd()),
            Backing::Heap(..) => None,
        }
    }

    /// Where the mapping starts. Dereferencing is for whoever holds the claim.
    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Makes the caller the only one who hands out this memory; false if somebody already does.
    pub(crate) fn claim(&self) -> bool {
        !self.claimed.swap(true, Ordering::Acquire)
    }

    /// The claim ends; the caller has handed out nothing that still lives.
    pub(crate) fn unclaim(&self) {
        self.claimed.store(false, Ordering::Release);
    }

    fn new(base: NonNull<u8>, bytes: usize, backing: Backing, started: Instant) -> Self {
        let elapsed_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let report =
            RegionReport { bytes: bytes as u64, huge_pages: false, prefault_ms: elapsed_ms };
        Self { base, bytes, backing, report, claimed: AtomicBool::new(false) }
    }

    fn map_huge(name: &str, bytes: u64) -> Result<Self, RegionError> {
        let started = Instant::now();
        let flags = MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB;
        let size = size_rounded(bytes, HUGE_PAGE_BYTES);
        let fd = open_memfd(name, bytes, size, flags)?;
        // Before the mapping: huge pages that are missing at a fault are a SIGBUS.
        take_space(&fd, bytes, size)?;
        let mut region = Self::map(fd, bytes, size, started)?;
        region.populate();
        region.seal(bytes)?;
        region.finish(started);
        region.report.huge_pages = true;
        Ok(region)
    }

    fn map_ordinary(name: &str, bytes: u64) -> Result<Self, RegionError> {
        // `fallocate` on a memfd knows no limit: it goes on until the OOM killer comes.
        let available_bytes = process::memory_available_bytes().unwrap_or(u64::MAX);
        if bytes > available_bytes {
            return Err(RegionError::NoMemory { wanted_bytes: bytes, available_bytes });
        }
        let started = Instant::now();
        let size = size_rounded(bytes, UNIT_BYTES);
        let fd = open_memfd(name, bytes, size, MemfdFlags::empty())?;
        let mut region = Self::map(fd, bytes, size, started)?;
        // Pages become huge only if the first touch goes through a mapping that asked for it,
        // hence the populate before the `fallocate`, which then takes only what is missing.
        region.advise(Advice::LinuxHugepage);
        let populated = region.try_populate();
        if let Backing::Memfd(fd) = &region.backing {
            take_space(fd, bytes, size)?;
        }
        if !populated {
            region.populate();
        }
        region.seal(bytes)?;
        region.finish(started);
        Ok(region)
    }

    fn map(fd: OwnedFd, bytes: u64, size: usize, started: Instant) -> Result<Self, RegionError> {
        let rights = ProtFlags::READ | ProtFlags::WRITE;
        let at = std::ptr::null_mut();
        // SAFETY: a new mapping at an address the kernel chooses disturbs nothing.
        let mapped = unsafe { rustix::mm::mmap(at, size, rights, MapFlags::SHARED, &fd, 0) };
        let base = mapped.map_err(|error| failed("mmap", bytes, error))?;
        let base = NonNull::new(base.cast()).expect("the kernel maps nothing at address 0");
        let region = Self::new(base, size, Backing::Memfd(fd), started);
        // A child would hold the memory past our end; and cached user data is not for core dumps.
        region.advise(Advice::LinuxDontFork);
        region.advise(Advice::LinuxDontDump);
        Ok(region)
    }

    /// Only advice that leaves contents alone: what the kernel does not know costs speed, no more.
    fn advise(&self, advice: Advice) {
        let _ = self.madvise(advice);
    }

    fn madvise(&self, advice: Advice) -> rustix::io::Result<()> {
        // SAFETY: the range is our mapping, and callers pass no advice that drops contents.
        unsafe { rustix::mm::madvise(self.base.as_ptr().cast(), self.bytes, advice) }
    }

    fn try_populate(&self) -> bool {
        self.madvise(Advice::LinuxPopulateWrite).is_ok()
    }

    /// Makes every page present, on kernels before 5.14 by touching each. The space was taken.
    fn populate(&self) {
        if self.try_populate() {
            return;
        }
        for offset in (0..self.bytes).step_by(UNIT_BYTES as usize) {
            // SAFETY: the offset is inside the mapping.
            let byte = unsafe { self.base.add(offset) };
            // SAFETY: nobody else knows this mapping yet; volatile keeps the write.
            unsafe { byte.write_volatile(0) };
        }
    }

    /// From here on nobody can resize the memory, or map it writable, or lift these seals.
    fn seal(&self, bytes: u64) -> Result<(), RegionError> {
        let Backing::Memfd(fd) = &self.backing else { return Ok(()) };
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::FUTURE_WRITE | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(fd, seals).map_err(|error| failed("F_ADD_SEALS", bytes, error))
    }

    fn finish(&mut self, started: Instant) {
        self.report.prefault_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        match &self.backing {
            Backing::Memfd(_) => {
                // SAFETY: this is our mapping, whole, and whoever uses it keeps the region alive.
                let unmapped = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.bytes) };
                if let Err(error) = unmapped {
                    tracing::error!(%error, bytes = self.bytes, "a region was not unmapped");
                }
            }
            // SAFETY: allocated with this layout, and whoever uses it keeps the region alive.
            Backing::Heap(memory, layout) => unsafe {
                std::alloc::dealloc(memory.as_ptr(), *layout);
            },
        }
    }
}

const HEAP_ALIGN: usize = 4096;

fn check_size(bytes: u64) -> Result<(), RegionError> {
    match bytes {
        0 => Err(RegionError::Empty),
        1..=REGION_BYTES_MAX => Ok(()),
        wanted_bytes => Err(RegionError::TooLarge { wanted_bytes }),
    }
}

fn size_rounded(bytes: u64, page: u64) -> usize {
    usize::try_from(bytes.next_multiple_of(page)).expect("addresses have 64 bits")
}

fn open_memfd(
    name: &str,
    bytes: u64,
    size: usize,
    more: MemfdFlags,
) -> Result<OwnedFd, RegionError> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | more;
    let fd = rustix::fs::memfd_create(name, flags)
        .map_err(|error| failed("memfd_create", bytes, error))?;
    rustix::fs::ftruncate(&fd, size as u64).map_err(|error| failed("ftruncate", bytes, error))?;
    Ok(fd)
}

fn take_space(fd: &OwnedFd, bytes: u64, size: usize) -> Result<(), RegionError> {
    use rustix::io::Errno;
    match rustix::fs::fallocate(fd, FallocateFlags::empty(), 0, size as u64) {
        Ok(()) => Ok(()),
        Err(Errno::NOSPC | Errno::NOMEM) => Err(RegionError::NoMemory {
            wanted_bytes: bytes,
            available_bytes: process::memory_available_bytes().unwrap_or(0),
        }),
        Err(error) => Err(failed("fallocate", bytes, error)),
    }
}

fn failed(step: &'static str, wanted_bytes: u64, error: rustix::io::Errno) -> RegionError {
    RegionError::System { step, wanted_bytes, source: error.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_that_make_no_sense_have_their_own_errors() {
        assert!(matches!(Region::memfd("t", 0, HugePages::No), Err(RegionError::Empty)));
        assert!(matches!(Region::heap(0), Err(RegionError::Empty)));
        let absurd = Region::memfd("t", u64::MAX, HugePages::Try);
        assert!(matches!(absurd, Err(RegionError::TooLarge { wanted_bytes: u64::MAX })));
    }

    #[test]
    #[cfg_attr(miri, ignore = "miri has no memfd")]
    fn more_than_the_host_has_is_refused_before_anything_is_taken() {
        let available = process::memory_available_bytes().unwrap();
        if available >= REGION_BYTES_MAX {
            return;
        }
        let error = Region::memfd("t", REGION_BYTES_MAX, HugePages::No).unwrap_err();
        assert!(matches!(error, RegionError::NoMemory { wanted_bytes: REGION_BYTES_MAX, .. }));
        assert!(error.to_string().contains(&REGION_BYTES_MAX.to_string()));
    }

    #[test]
    fn a_region_has_whole_units_and_is_zeroed() {
        for region in [Region::memfd("t", 10_000, HugePages::Try), Region::heap(10_000)] {
            let region = region.unwrap();
            assert_eq!(region.bytes(), 12_288);
            assert_eq!(region.report().bytes, 12_288);
            // SAFETY: the region is that long, initialised, and nobody writes to it.
            let bytes = unsafe { std::slice::from_raw_parts(region.base().as_ptr(), 12_288) };
            assert!(bytes.iter().all(|&byte| byte == 0));
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "miri has no memfd")]
    fn nobody_can_map_a_sealed_region_writable_or_resize_it() {
        let region = Region::memfd("t", 8192, HugePages::No).unwrap();
        let fd = region.descriptor().unwrap();
        let map = |rights| {
            // SAFETY: a new mapping at an address the kernel chooses; it is never used.
            unsafe { rustix::mm::mmap(std::ptr::null_mut(), 8192, rights, MapFlags::SHARED, fd, 0) }
        };
        let readable = map(ProtFlags::READ).unwrap();
        // SAFETY: mapped just now, and not used.
        unsafe { rustix::mm::munmap(readable, 8192) }.unwrap();
        assert_eq!(map(ProtFlags::READ | ProtFlags::WRITE), Err(rustix::io::Errno::PERM));
        assert!(rustix::fs::ftruncate(fd, 4096).is_err());
        assert!(rustix::fs::ftruncate(fd, 1 << 20).is_err());
        assert!(rustix::io::write(fd, b"x").is_err());
        assert!(rustix::fs::fcntl_add_seals(fd, SealFlags::WRITE).is_err());
    }

    #[test]
    fn a_region_is_claimed_by_one() {
        let region = Region::heap(4096).unwrap();
        assert!(region.claim());
        assert!(!region.claim());
        region.unclaim();
        assert!(region.claim());
    }
}
