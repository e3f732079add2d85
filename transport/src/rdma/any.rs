//! A fabric of whichever kind a program was told to use.
//!
//! The set is closed, and all of it is there in every build but for cards. What a reader would get
//! wrong: memory and pairs of one kind mean nothing to the other, so one program has one kind.

use std::sync::Arc;

use larder_protocol::message::PairAddress;

use crate::rdma::device_memory::{DeviceMemory, Home};
use crate::rdma::fabric::{Completion, Fabric, FabricError, Memory, QueuePair, Work};
use crate::rdma::simulated::{SimulatedFabric, SimulatedMemory, SimulatedPair};
#[cfg(feature = "rdma")]
use crate::rdma::verbs::{Verbs, VerbsMemory, VerbsPair};
use crate::region::Region;
use crate::registered::Registered;

/// A fabric. Clones are the same.
#[derive(Debug, Clone)]
pub enum AnyFabric {
    /// In this process, for tests.
    Simulated(SimulatedFabric),
    /// A card.
    #[cfg(feature = "rdma")]
    Verbs(Verbs),
}

/// Registered memory of an [`AnyFabric`].
#[derive(Debug, Clone)]
pub enum AnyMemory {
    /// Of a simulated fabric.
    Simulated(SimulatedMemory),
    /// Of a card.
    #[cfg(feature = "rdma")]
    Verbs(VerbsMemory),
}

/// A queue pair of an [`AnyFabric`].
#[derive(Debug)]
pub enum AnyPair {
    /// Of a simulated fabric.
    Simulated(SimulatedPair),
    /// Of a card.
    #[cfg(feature = "rdma")]
    Verbs(VerbsPair),
}

/// `$of` of whatever is in `$this`.
macro_rules! either {
    ($kind:ident, $this:expr, $inner:ident => $of:expr) => {
        match $this {
            $kind::Simulated($inner) => $of,
            #[cfg(feature = "rdma")]
            $kind::Verbs($inner) => $of,
        }
    };
}

impl AnyFabric {
    /// Whether this build knows cards: whether it has the feature `rdma`.
    pub const KNOWS_CARDS: bool = cfg!(feature = "rdma");

    /// The card of this name, or the first that has an active port.
    ///
    /// # Errors
    /// [`FabricError`] if there is none, or this build knows none.
    #[cfg(feature = "rdma")]
    pub fn open(device: Option<&str>) -> Result<Self, FabricError> {
        Verbs::open(device).map(Self::Verbs)
    }

    /// The card of this name, or the first that has an active port.
    ///
    /// # Errors
    /// [`FabricError`] if there is none, or this build knows none.
    #[cfg(not(feature = "rdma"))]
    pub fn open(_: Option<&str>) -> Result<Self, FabricError> {
        Err(FabricError::new("ibv_open_device", std::io::ErrorKind::Unsupported.into()))
    }

    /// The device's name.
    pub fn device(&self) -> &str {
        match self {
            Self::Simulated(_) => "simulated",
            #[cfg(feature = "rdma")]
            Self::Verbs(verbs) => verbs.device(),
        }
    }

    /// The memory that the card is next to, where there are several.
    pub fn numa_node(&self) -> Option<u32> {
        match self {
            Self::Simulated(_) => None,
            #[cfg(feature = "rdma")]
            Self::Verbs(verbs) => verbs.numa_node(),
        }
    }
}

impl Fabric for AnyFabric {
    type Memory = AnyMemory;
    type Pair = AnyPair;

    fn register(&self, region: &Arc<Region>) -> Result<AnyMemory, FabricError> {
        match self {
            Self::Simulated(fabric) => fabric.register(region).map(AnyMemory::Simulated),
            #[cfg(feature = "rdma")]
            Self::Verbs(fabric) => fabric.register(region).map(AnyMemory::Verbs),
        }
    }

    unsafe fn expose(&self, memory: &Registered) -> Result<AnyMemory, FabricError> {
        match self {
            Self::Simulated(fabric) => {
                // SAFETY: the caller keeps the same promise.
                unsafe { fabric.expose(memory) }.map(AnyMemory::Simulated)
            }
            #[cfg(feature = "rdma")]
            Self::Verbs(fabric) => {
                // SAFETY: the caller keeps the same promise.
                unsafe { fabric.expose(memory) }.map(AnyMemory::Verbs)
            }
        }
    }

    unsafe fn expose_device(
        &self,
        memory: &DeviceMemory<'_>,
        home: Home,
    ) -> Result<AnyMemory, FabricError> {
        match self {
            Self::Simulated(fabric) => {
                // SAFETY: the caller keeps the same promise.
                unsafe { fabric.expose_device(memory, home) }.map(AnyMemory::Simulated)
            }
            #[cfg(feature = "rdma")]
            Self::Verbs(fabric) => {
                // SAFETY: the caller keeps the same promise.
                unsafe { fabric.expose_device(memory, home) }.map(AnyMemory::Verbs)
            }
        }
    }

    fn pair(&self, works_max: u32) -> Result<AnyPair, FabricError> {
        match self {
            Self::Simulated(fabric) => fabric.pair(works_max).map(AnyPair::Simulated),
            #[cfg(feature = "rdma")]
            Self::Verbs(fabric) => fabric.pair(works_max).map(AnyPair::Verbs),
        }
    }
}

impl Memory for AnyMemory {
    fn local_key(&self) -> u32 {
        either!(Self, self, memory => memory.local_key())
    }

    fn remote_key(&self) -> Option<u32> {
        either!(Self, self, memory => memory.remote_key())
    }

    fn contains(&self, address: u64, bytes: u64) -> bool {
        either!(Self, self, memory => memory.contains(address, bytes))
    }
}

impl QueuePair for AnyPair {
    fn address(&self) -> PairAddress {
        either!(Self, self, pair => pair.address())
    }

    fn connect(&mut self, peer: &PairAddress) -> Result<(), FabricError> {
        either!(Self, self, pair => pair.connect(peer))
    }

    unsafe fn post(&mut self, works: &[Work]) -> Result<(), FabricError> {
        // SAFETY: the caller keeps the same promise.
        either!(Self, self, pair => unsafe { pair.post(works) })
    }

    fn poll(&mut self, into: &mut Vec<Completion>) -> Result<(), FabricError> {
        either!(Self, self, pair => pair.poll(into))
    }

    fn end(&mut self) {
        either!(Self, self, pair => pair.end());
    }
}
