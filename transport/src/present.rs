//! Whether memory that somebody names by an address is there, and may be written.
//!
//! What a reader would get wrong: this finds mistakes, and proves nothing. It is so at the moment
//! of asking; a mapping may go a moment later, and one of a file may be longer than its file.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader};

/// A range that is no memory to read and write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{bytes} bytes at {address:#x} are no memory: {fault}")]
pub struct NotPresent {
    /// Where the range begins.
    pub address: usize,
    /// How long it is, in bytes.
    pub bytes: usize,
    /// What was found instead.
    pub fault: Fault,
}

/// What is wrong with a range of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It has no bytes.
    Empty,
    /// It goes past the last address, or is longer than anything in memory.
    TooLong,
    /// Nothing is mapped at this address, the first such one in it.
    Unmapped(usize),
    /// What is mapped at this address, the first such one in it, may not be read.
    Unreadable(usize),
    /// What is mapped at this address, the first such one in it, may not be written.
    ReadOnly(usize),
}

/// Sees whether every byte of a range is mapped, and may be read and written.
///
/// It takes as long as it takes the kernel to list what this process has mapped below the end of
/// the range, under a microsecond for each mapping, however long the range is. Where the kernel
/// does not tell, a range that could be there is taken to be.
///
/// # Errors
/// [`NotPresent`], which names the first address where that is not so.
pub fn check_present(address: usize, bytes: usize) -> Result<(), NotPresent> {
    let fault = if bytes == 0 {
        Some(Fault::Empty)
    } else {
        let end = address.checked_add(bytes).filter(|_| isize::try_from(bytes).is_ok());
        end.map_or(Some(Fault::TooLong), |end| fault_now(address, end))
    };
    fault.map_or(Ok(()), |fault| Err(NotPresent { address, bytes, fault }))
}

fn fault_now(address: usize, end: usize) -> Option<Fault> {
    // The thread's own: the process's list is empty once its first thread has ended.
    let maps = File::open("/proc/thread-self/maps");
    maps.and_then(|maps| first_fault(BufReader::new(maps), address, end)).ok().flatten()
}

/// Looks through a list of mappings in the order of their addresses. A mapping that was there all
/// the while is in it, though it may be in it twice, if it was cut meanwhile.
fn first_fault(maps: impl BufRead, address: usize, end: usize) -> io::Result<Option<Fault>> {
    let mut at = address;
    for line in maps.split(b'\n') {
        let mapping = Mapping::parse(&line?).ok_or(io::ErrorKind::InvalidData)?;
        if mapping.end <= at {
            continue;
        }
        if mapping.begin > at {
            break;
        }
        if !mapping.is_readable {
            return Ok(Some(Fault::Unreadable(at)));
        }
        if !mapping.is_writable {
            return Ok(Some(Fault::ReadOnly(at)));
        }
        at = mapping.end;
        if at >= end {
            return Ok(None);
        }
    }
    Ok(Some(Fault::Unmapped(at)))
}

/// One line of the list.
#[derive(Debug, PartialEq, Eq)]
struct Mapping {
    begin: usize,
    end: usize,
    is_readable: bool,
    is_writable: bool,
}

impl Mapping {
    /// `7f00a000-7f00c000 rw-p`, and more that does not matter here.
    fn parse(line: &[u8]) -> Option<Self> {
        let mut words = line.split(|&byte| byte == b' ');
        let (begin, end) = std::str::from_utf8(words.next()?).ok()?.split_once('-')?;
        let rights = words.next()?;
        Some(Self {
            begin: usize::from_str_radix(begin, 16).ok()?,
            end: usize::from_str_radix(end, 16).ok()?,
            is_readable: *rights.first()? == b'r',
            is_writable: *rights.get(1)? == b'w',
        })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("there are none"),
            Self::TooLong => f.write_str("that is more than can be addressed"),
            Self::Unmapped(at) => write!(f, "nothing is mapped at {at:#x}"),
            Self::Unreadable(at) => write!(f, "what is at {at:#x} may not be read"),
            Self::ReadOnly(at) => write!(f, "what is at {at:#x} is read-only"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};
    use std::ptr::null_mut;

    #[test]
    #[cfg_attr(miri, ignore = "needs /proc")]
    fn memory_that_is_there_is_found_and_what_is_amiss_is_named() {
        let (page, all) = (rustix::param::page_size(), ProtFlags::READ | ProtFlags::WRITE);
        // SAFETY: a new mapping, wherever the kernel likes.
        let base = unsafe { mmap_anonymous(null_mut(), 6 * page, all, MapFlags::PRIVATE) }.unwrap();
        let at = |index: usize| base.addr() + index * page;
        let fault = |address, bytes| check_present(address, bytes).err().map(|error| error.fault);
        assert_eq!(fault(at(0), 6 * page), None);
        assert_eq!(fault(at(0) + 1, 1), None);
        let protect = |index: usize, rights| {
            // SAFETY: of the mapping, which nobody reads or writes.
            unsafe { mprotect(base.wrapping_byte_add(index * page), page, rights) }.unwrap();
        };
        protect(2, MprotectFlags::READ);
        protect(4, MprotectFlags::empty());
        assert_eq!(fault(at(0), 2 * page), None);
        assert_eq!(fault(at(0) + 5, 2 * page), Some(Fault::ReadOnly(at(2))));
        assert_eq!(fault(at(2) + 9, 1), Some(Fault::ReadOnly(at(2) + 9)));
        assert_eq!(fault(at(3), 2 * page), Some(Fault::Unreadable(at(4))));
        protect(2, MprotectFlags::READ | MprotectFlags::WRITE);
        protect(4, MprotectFlags::READ | MprotectFlags::WRITE);
        assert_eq!(fault(at(0), 6 * page), None);
        // SAFETY: one page of the mapping, which nobody reads or writes.
        unsafe { munmap(base.wrapping_byte_add(3 * page), page) }.unwrap();
        let error = check_present(at(1), 3 * page).unwrap_err();
        let (address, bytes) = (at(1), 3 * page);
        assert_eq!(error, NotPresent { address, bytes, fault: Fault::Unmapped(at(3)) });
        let why = format!("nothing is mapped at {:#x}", at(3));
        assert_eq!(
            error.to_string(),
            format!("{bytes} bytes at {address:#x} are no memory: {why}")
        );
        assert_eq!((fault(at(1), 2 * page), fault(at(4), 2 * page)), (None, None));
        // SAFETY: the mapping, which nobody uses.
        unsafe { munmap(base, 6 * page) }.unwrap();
    }

    #[test]
    #[cfg_attr(miri, ignore = "needs /proc")]
    fn what_is_no_address_is_refused() {
        let fault = |address, bytes| check_present(address, bytes).unwrap_err().fault;
        assert_eq!(fault(4096, 0), Fault::Empty);
        assert_eq!(fault(usize::MAX - 7, 16), Fault::TooLong);
        assert_eq!(fault(1, usize::MAX >> 1 | 1 << 63), Fault::TooLong);
        // No process has these: the first page, and those that are neither low nor high.
        for address in [0, 1, 1 << 63, 0xdead_beef_dead_beef] {
            assert_eq!(fault(address, 16), Fault::Unmapped(address));
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "needs /proc")]
    fn a_thread_finds_its_own_stack() {
        let found = std::thread::spawn(|| {
            let here = [0_u8; 4096];
            check_present(here.as_ptr().addr(), here.len())
        });
        assert_eq!(found.join().unwrap(), Ok(()));
    }

    #[test]
    fn lines_are_read_as_the_kernel_writes_them() {
        let line = b"7ffc1de00000-7ffc1de21000 rw-p 00000000 00:00 0                  [stack]";
        let stack = Mapping {
            begin: 0x7ffc_1de0_0000,
            end: 0x7ffc_1de2_1000,
            is_readable: true,
            is_writable: true,
        };
        assert_eq!(Mapping::parse(line), Some(stack));
        let gate = b"ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0  [vsyscall]";
        assert!(!Mapping::parse(gate).unwrap().is_readable);
        for line in [&b""[..], b"12", b"12-34", b"12-3g rw", b"12-34 r", b"\xff-34 rw"] {
            assert_eq!(Mapping::parse(line), None);
        }
    }

    proptest! {
        /// Mappings next to each other, apart, or listed again after a cut, against a look at each
        /// address.
        #[test]
        fn the_first_fault_is_that_of_the_first_address_with_one(
            lens in proptest::collection::vec((0_usize..3, 1_usize..4, 0_usize..3), 0..12),
            address in 0_usize..30,
            bytes in 1_usize..30,
        ) {
            let (mut list, mut rights, mut begin) = (String::new(), vec![None; 100], 0);
            for (gap, len, kind) in lens {
                begin += gap;
                let end = begin + len;
                rights[begin..end].fill(Some(kind));
                let kind = ["rw", "r-", "--"][kind];
                list += &format!("{begin:x}-{end:x} {kind}-p 00000000 00:00 0\n");
                begin = end;
            }
            let naive = (address..address + bytes).find_map(|at| match rights[at] {
                None => Some(Fault::Unmapped(at)),
                Some(0) => None,
                Some(1) => Some(Fault::ReadOnly(at)),
                Some(_) => Some(Fault::Unreadable(at)),
            });
            let found = first_fault(list.as_bytes(), address, address + bytes).unwrap();
            prop_assert_eq!(found, naive);
        }
    }
}
