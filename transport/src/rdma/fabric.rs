//! What a network card offers, as far as we need it: reliable connections, writes and reads.
//!
//! What a reader would get wrong: completions come in the order in which works were posted. One
//! that is asked for says that all before it succeeded, too; a failure comes unasked, ends the
//! queue pair, and then all that were posted complete.

use std::sync::Arc;

use larder_protocol::message::{PairAddress, RemotePiece};

use crate::rdma::device_memory::{DeviceMemory, Home};
use crate::region::Region;
use crate::registered::Registered;

/// A device, opened, and all that is needed to make queue pairs on it.
pub trait Fabric {
    /// Registered memory. It is registered until the last clone is dropped.
    type Memory: Memory;
    /// One end of a reliable connection.
    type Pair: QueuePair;

    /// Registers a region for works of this side. No peer can reach it.
    ///
    /// # Errors
    /// [`FabricError`] if the device refuses.
    fn register(&self, region: &Arc<Region>) -> Result<Self::Memory, FabricError>;

    /// Registers memory of a caller, for peers to write and read by its key.
    ///
    /// # Errors
    /// [`FabricError`] if the device refuses.
    ///
    /// # Safety
    ///
    /// Whoever is told the key reads and writes only what it was asked to: ranges of landings and
    /// sources that live.
    unsafe fn expose(&self, memory: &Registered) -> Result<Self::Memory, FabricError>;

    /// Registers memory of a GPU, for peers to write and read by its key. Until what is answered
    /// was dropped, `home` keeps the memory.
    ///
    /// # Errors
    /// [`FabricError`] if the driver of the card, or that of the memory, knows no such thing, or
    /// the range is not in the buffer.
    ///
    /// # Safety
    ///
    /// As [`Fabric::expose`], and the range is memory for as long as `home` is there.
    unsafe fn expose_device(
        &self,
        memory: &DeviceMemory<'_>,
        home: Home,
    ) -> Result<Self::Memory, FabricError>;

    /// A queue pair that is not connected yet, with room for so many works at a time.
    ///
    /// # Errors
    /// [`FabricError`] if the device refuses.
    fn pair(&self, works_max: u32) -> Result<Self::Pair, FabricError>;
}

/// Registered memory.
pub trait Memory: Clone {
    /// What works of this side name it by.
    fn local_key(&self) -> u32;

    /// What peers name it by, if they may.
    fn remote_key(&self) -> Option<u32>;

    /// Whether `bytes` bytes at `address` are inside.
    fn contains(&self, address: u64, bytes: u64) -> bool;
}

/// One end of a reliable connection. Dropping it ends it: after that neither its own works nor the
/// peer's touch memory here.
pub trait QueuePair {
    /// What the peer needs to know.
    fn address(&self) -> PairAddress;

    /// Connects it to the peer's.
    ///
    /// # Errors
    /// [`FabricError`] if the device refuses, or it is connected already.
    fn connect(&mut self, peer: &PairAddress) -> Result<(), FabricError>;

    /// Posts works, in this order, with one ring of the doorbell.
    ///
    /// # Errors
    /// [`FabricError`] if the device refuses; then none, some or all were posted, and the pair has
    /// to end.
    ///
    /// # Safety
    ///
    /// The local memory of each work is registered under its key, stays, and is neither read (what
    /// is filled) nor written by anybody else, until the work completed or the pair was dropped.
    unsafe fn post(&mut self, works: &[Work]) -> Result<(), FabricError>;

    /// Adds what completed since the last time. Never waits.
    ///
    /// # Errors
    /// [`FabricError`] if the device says nothing any more.
    fn poll(&mut self, into: &mut Vec<Completion>) -> Result<(), FabricError>;

    /// Takes it down: no work of the peer is executed any more, and its own complete, mostly as
    /// [`WorkError::Flushed`]. Nothing can be posted.
    fn end(&mut self);
}

/// Bytes to move between one place here and one place of the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Work {
    /// Its place in the order of posting.
    pub number: u64,
    /// Which way.
    pub direction: Direction,
    /// Where here.
    pub local_address: u64,
    /// Key of what is there.
    pub local_key: u32,
    /// Where there, and how many bytes.
    pub remote: RemotePiece,
    /// Whether its success is to be told.
    pub is_signalled: bool,
}

/// Which way bytes move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From here into the peer's memory.
    Write,
    /// From the peer's memory to here.
    Read,
}

/// A work that completed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Completion {
    /// The work's number.
    pub number: u64,
    /// How it went.
    pub outcome: Result<(), WorkError>,
}

/// Why a work failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WorkError {
    /// The peer has no such memory, or not for this.
    #[error("the peer's memory is not registered for this")]
    RemoteAccess,
    /// The peer did not answer, as often as it was asked.
    #[error("the peer's queue pair does not answer")]
    NoAnswer,
    /// The pair had ended before.
    #[error("the queue pair had ended")]
    Flushed,
    /// Something else, by the number that the device gave.
    #[error("the device reported status {0}")]
    Other(u32),
}

/// The device, or its driver, refused.
#[derive(Debug, thiserror::Error)]
#[error("{verb}: {source}")]
pub struct FabricError {
    /// What was asked for.
    pub verb: &'static str,
    /// What it said.
    pub source: std::io::Error,
}

impl FabricError {
    /// The error of `verb`.
    pub fn new(verb: &'static str, source: std::io::Error) -> Self {
        Self { verb, source }
    }
}
