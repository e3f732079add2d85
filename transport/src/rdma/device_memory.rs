//! Memory of another device, a GPU, that a card reaches without a processor.
//!
//! What a reader would get wrong: the address is a name. No processor reads or writes there.

use std::any::Any;
use std::os::fd::BorrowedFd;

/// What a dma-buf stands for, or some of it.
#[derive(Debug, Clone, Copy)]
pub struct DeviceMemory<'a> {
    /// The dma-buf.
    pub descriptor: BorrowedFd<'a>,
    /// Where in it, in bytes.
    pub offset: u64,
    /// How much of it, in bytes.
    pub bytes: u64,
    /// The address by which peers name its first byte, such as the one that the device uses.
    pub address: u64,
}

/// What keeps memory where it is, by not being dropped.
pub type Home = Box<dyn Any + Send + Sync>;
