//! What a session reads from: a socket that never waits, or a script in tests.

use std::io;
use std::os::fd::OwnedFd;

/// Somewhere bytes of a peer come from. 0 bytes mean that no more will come; `WouldBlock` that none
/// are there now.
pub(crate) trait Wire {
    /// Reads up to the length of `into`.
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize>;

    /// Reads into `first`, and what is more into `then`, with one call of the kernel.
    fn read_both(&mut self, first: &mut [u8], then: &mut [u8]) -> io::Result<usize>;

    /// Appends up to `bytes_max` bytes to `into`, which has the room; the memory need not have been
    /// written before.
    fn read_more(&mut self, into: &mut Vec<u8>, bytes_max: usize) -> io::Result<usize>;

    /// The oldest descriptor that came with what was read, and was not taken yet.
    fn take_descriptor(&mut self) -> Option<OwnedFd> {
        None
    }
}
