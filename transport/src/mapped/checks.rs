//! What memory of another process has to be before it is mapped.
//!
//! What a reader would get wrong: a descriptor that somebody sent is anything at all, and what was
//! true of it once stays true only if a seal says so. So every check is of what is sealed.

use crate::region::{REGION_BYTES_MAX, UNIT_BYTES};
use rustix::fs::{FileType, SealFlags, SeekFrom};
use std::os::fd::OwnedFd;

/// The most memory a client may share in one piece.
pub const SHARED_BYTES_MAX: u64 = 64 << 30;

/// Why memory of another process was not mapped.
#[derive(Debug, thiserror::Error)]
pub enum MapError {
    /// Anything but a memfd of the kind that was expected.
    #[error("no memfd: file system {filesystem:#x}, mode {mode:#o}")]
    NotMemory {
        /// `f_type` of `fstatfs`.
        filesystem: u64,
        /// `st_mode` of `fstat`.
        mode: u32,
    },
    /// It could shrink, grow or be written by whoever gets it next.
    #[error("seals {found:#x}, {expected:#x} have to be there")]
    SealsMissing {
        /// The seals it has, as `F_GET_SEALS` tells them.
        found: u32,
        /// The seals it needs.
        expected: u32,
    },
    /// It is of another size than it was said to be.
    #[error("{found_bytes} bytes, {expected_bytes} were announced")]
    WrongSize {
        /// Its size.
        found_bytes: u64,
        /// What its owner said.
        expected_bytes: u64,
    },
    /// Its owner announced a size that nothing is mapped with.
    #[error("{bytes} bytes are not a whole number of 4096, at least one and at most {bytes_max}")]
    OddSize {
        /// What its owner said.
        bytes: u64,
        /// The most there may be.
        bytes_max: u64,
    },
    /// Reading a hole would take memory, and of the reader's.
    #[error("only the first {found_bytes} of {expected_bytes} bytes are there")]
    Sparse {
        /// Where the first hole is.
        found_bytes: u64,
        /// Its size.
        expected_bytes: u64,
    },
    /// The kernel refused one step.
    #[error("{step}: {source}")]
    System {
        /// The system call that failed.
        step: &'static str,
        /// What the kernel said.
        source: std::io::Error,
    },
}

/// Checks the memory of a node; how many bytes to map, whole pages of its kind.
pub(super) fn check_of_node(fd: &OwnedFd, bytes: u64) -> Result<u64, MapError> {
    let found = Found::look(fd)?;
    found.check_kind(&[TMPFS, HUGETLBFS])?;
    found.check_seals(NODE_SEALS)?;
    check_announced(bytes, REGION_BYTES_MAX)?;
    // The end of a mapping of huge pages has to be one of theirs.
    let mapped_bytes = bytes.next_multiple_of(found.page_bytes);
    if found.bytes < mapped_bytes {
        return Err(MapError::WrongSize { found_bytes: found.bytes, expected_bytes: bytes });
    }
    Ok(mapped_bytes)
}

/// Checks the memory of a client, who may mean harm.
pub(super) fn check_of_client(fd: &OwnedFd, bytes: u64) -> Result<(), MapError> {
    let found = Found::look(fd)?;
    found.check_kind(&[TMPFS])?;
    found.check_seals(NODE_SEALS | SealFlags::SEAL)?;
    check_announced(bytes, SHARED_BYTES_MAX)?;
    if found.bytes != bytes {
        return Err(MapError::WrongSize { found_bytes: found.bytes, expected_bytes: bytes });
    }
    // Not the count of what is allocated: it includes what lies past the end, so a large one proves
    // nothing.
    let hole_at = rustix::fs::seek(fd, SeekFrom::Hole(0));
    let hole_at = hole_at.map_err(|error| failed("SEEK_HOLE", error))?;
    if hole_at < bytes {
        return Err(MapError::Sparse { found_bytes: hole_at, expected_bytes: bytes });
    }
    Ok(())
}

/// What the kernel says about a descriptor.
struct Found {
    filesystem: u64,
    mode: u32,
    /// None for what has no seals: everything but memory.
    seals: Option<SealFlags>,
    bytes: u64,
    page_bytes: u64,
}

impl Found {
    fn look(fd: &OwnedFd) -> Result<Self, MapError> {
        let filesystem = rustix::fs::fstatfs(fd).map_err(|error| failed("fstatfs", error))?;
        let file = rustix::fs::fstat(fd).map_err(|error| failed("fstat", error))?;
        Ok(Self {
            filesystem: filesystem.f_type as u64,
            mode: file.st_mode,
            seals: rustix::fs::fcntl_get_seals(fd).ok(),
            bytes: u64::try_from(file.st_size).unwrap_or(0),
            page_bytes: u64::try_from(filesystem.f_bsize).unwrap_or(0).max(UNIT_BYTES),
        })
    }

    fn check_kind(&self, filesystems: &[u64]) -> Result<(), MapError> {
        let is_file = FileType::from_raw_mode(self.mode) == FileType::RegularFile;
        if is_file && self.seals.is_some() && filesystems.contains(&self.filesystem) {
            return Ok(());
        }
        Err(MapError::NotMemory { filesystem: self.filesystem, mode: self.mode })
    }

    fn check_seals(&self, expected: SealFlags) -> Result<(), MapError> {
        let found = self.seals.unwrap_or(SealFlags::empty());
        if found.contains(expected) {
            return Ok(());
        }
        Err(MapError::SealsMissing { found: found.bits(), expected: expected.bits() })
    }
}

fn check_announced(bytes: u64, bytes_max: u64) -> Result<(), MapError> {
    if bytes == 0 || bytes > bytes_max || !bytes.is_multiple_of(UNIT_BYTES) {
        return Err(MapError::OddSize { bytes, bytes_max });
    }
    Ok(())
}

pub(super) fn failed(step: &'static str, error: rustix::io::Errno) -> MapError {
    MapError::System { step, source: error.into() }
}

const NODE_SEALS: SealFlags =
    SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::FUTURE_WRITE);
const TMPFS: u64 = libc::TMPFS_MAGIC as u64;
const HUGETLBFS: u64 = libc::HUGETLBFS_MAGIC as u64;

#[cfg(not(miri))]
#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MappedRegion, SharedMemory};
    use rustix::fs::{FallocateFlags, MemfdFlags};

    fn copy_of(shared: &SharedMemory) -> OwnedFd {
        shared.descriptor().try_clone_to_owned().unwrap()
    }

    fn memfd(bytes: u64, flags: MemfdFlags) -> OwnedFd {
        let flags = MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC | flags;
        let fd = rustix::fs::memfd_create("t", flags).unwrap();
        rustix::fs::ftruncate(&fd, bytes).unwrap();
        fd
    }

    fn write_whole(fd: &OwnedFd, bytes: usize) {
        assert_eq!(rustix::io::pwrite(fd, &vec![7; bytes], 0).unwrap(), bytes);
    }

    fn seal(fd: &OwnedFd, seals: SealFlags) {
        rustix::fs::fcntl_add_seals(fd, seals).unwrap();
    }

    #[test]
    fn only_memory_is_mapped() {
        let directory = std::env::temp_dir();
        let ordinary = directory.join(format!("larder-mapped-{}", std::process::id()));
        std::fs::write(&ordinary, [7; 4096]).unwrap();
        let (end, _other_end) = std::os::unix::net::UnixStream::pair().unwrap();
        let files: Vec<OwnedFd> = vec![
            std::io::pipe().unwrap().0.into(),
            end.into(),
            std::fs::File::open("/dev/zero").unwrap().into(),
            std::fs::File::open("/dev/shm").unwrap().into(),
            std::fs::File::open(&directory).unwrap().into(),
            std::fs::File::open(&ordinary).unwrap().into(),
            rustix::event::eventfd(0, rustix::event::EventfdFlags::empty()).unwrap(),
        ];
        std::fs::remove_file(&ordinary).unwrap();
        for file in files {
            let error = MappedRegion::of_client(file.try_clone().unwrap(), 4096).unwrap_err();
            assert!(matches!(error, MapError::NotMemory { .. }), "{error}");
            let error = MappedRegion::of_node(file, 4096).unwrap_err();
            assert!(matches!(error, MapError::NotMemory { .. }), "{error}");
        }
        // On tmpfs, but made by name: its seals are none, and nobody can add to them.
        let on_tmpfs = format!("/dev/shm/larder-mapped-{}", std::process::id());
        std::fs::write(&on_tmpfs, [7; 4096]).unwrap();
        let file = std::fs::File::open(&on_tmpfs).unwrap();
        std::fs::remove_file(&on_tmpfs).unwrap();
        assert!(MappedRegion::of_client(file.into(), 4096).is_err());
    }

    #[test]
    fn every_seal_is_asked_for() {
        let all = NODE_SEALS | SealFlags::SEAL;
        for missing in [all, SealFlags::SHRINK, SealFlags::GROW, SealFlags::FUTURE_WRITE] {
            let fd = memfd(4096, MemfdFlags::empty());
            write_whole(&fd, 4096);
            seal(&fd, all - missing);
            let error = MappedRegion::of_node(fd.try_clone().unwrap(), 4096).unwrap_err();
            assert!(matches!(error, MapError::SealsMissing { .. }), "{error}");
            let error = MappedRegion::of_client(fd, 4096).unwrap_err();
            assert!(matches!(error, MapError::SealsMissing { .. }), "{error}");
        }
        let fd = memfd(4096, MemfdFlags::empty());
        write_whole(&fd, 4096);
        seal(&fd, NODE_SEALS);
        let error = MappedRegion::of_client(fd.try_clone().unwrap(), 4096).unwrap_err();
        assert_eq!(error.to_string(), "seals 0x16, 0x17 have to be there");
        MappedRegion::of_node(fd, 4096).unwrap();
    }

    #[test]
    fn sizes_have_to_be_true() {
        let shared = SharedMemory::new(8192).unwrap();
        let of_client = |bytes| MappedRegion::of_client(copy_of(&shared), bytes);
        let of_node = |bytes| MappedRegion::of_node(copy_of(&shared), bytes);
        for bytes in [0, 1, 8191, 12_000, u64::MAX, u64::MAX - 4095] {
            assert!(matches!(of_client(bytes), Err(MapError::OddSize { .. })), "{bytes}");
            assert!(matches!(of_node(bytes), Err(MapError::OddSize { .. })), "{bytes}");
        }
        let larger = SHARED_BYTES_MAX + 4096;
        assert!(matches!(of_client(larger), Err(MapError::OddSize { .. })));
        for bytes in [4096, 12_288, SHARED_BYTES_MAX] {
            assert!(matches!(of_client(bytes), Err(MapError::WrongSize { found_bytes: 8192, .. })));
        }
        assert!(matches!(of_node(12_288), Err(MapError::WrongSize { expected_bytes: 12_288, .. })));
        of_client(8192).unwrap();
        of_node(4096).unwrap();
    }

    #[test]
    fn holes_are_found_also_behind_a_count_that_looks_full() {
        let all = NODE_SEALS | SealFlags::SEAL;
        let hidden = memfd(12_288, MemfdFlags::empty());
        rustix::io::pwrite(&hidden, &[7; 4096], 0).unwrap();
        rustix::io::pwrite(&hidden, &[7; 4096], 8192).unwrap();
        let past_the_end = FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(&hidden, past_the_end, 12_288, 1 << 20).unwrap();
        assert!(rustix::fs::fstat(&hidden).unwrap().st_blocks * 512 >= 12_288);
        for (fd, hole_at) in [(memfd(12_288, MemfdFlags::empty()), 0), (hidden, 4096)] {
            seal(&fd, all);
            let error = MappedRegion::of_client(fd, 12_288).unwrap_err();
            let MapError::Sparse { found_bytes, expected_bytes: 12_288 } = error else {
                panic!("{error}");
            };
            assert_eq!(found_bytes, hole_at);
        }
    }

    #[test]
    fn reserved_huge_pages_are_for_nodes_only() {
        let flags = MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB | MemfdFlags::ALLOW_SEALING;
        let Ok(fd) = rustix::fs::memfd_create("t", flags) else { return };
        rustix::fs::ftruncate(&fd, 4 << 20).unwrap();
        seal(&fd, NODE_SEALS | SealFlags::SEAL);
        let error = MappedRegion::of_client(fd.try_clone().unwrap(), 4 << 20).unwrap_err();
        assert!(matches!(error, MapError::NotMemory { .. }), "{error}");
        // Without a reserve there is nothing to map; else a part of it is, to a whole page's end.
        match MappedRegion::of_node(fd, 3 << 20) {
            Ok(region) => assert_eq!(region.bytes(), 3 << 20),
            Err(error) => assert!(matches!(error, MapError::System { step: "mmap", .. })),
        }
    }
}
