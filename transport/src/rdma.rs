//! Memory of other hosts, read and written by the network card: what verbs do.
//!
//! The node is the one that moves bytes: it writes gets into the landings of its clients and reads
//! puts from their sources ([`Transfers`]), so nobody ever gets a key to its memory. Both sides
//! speak to a [`Fabric`], of which there are two: a card (`verbs`, with the feature `rdma`), and
//! one in this process that is slow, loses things and cuts links as its seed says ([`simulated`]).
//!
//! What a reader would get wrong: a work that was posted may touch memory until its completion was
//! polled or its queue pair is gone, whatever the peer, the deadline or the connection says.

pub mod any;
pub mod device_memory;
pub mod fabric;
pub mod reach;
pub mod simulated;
pub mod transfers;
#[cfg(feature = "rdma")]
pub mod verbs;

pub use any::{AnyFabric, AnyMemory, AnyPair};
pub use device_memory::{DeviceMemory, Home};
pub use fabric::{Completion, Direction, Fabric, FabricError, Memory, QueuePair, Work, WorkError};
pub use reach::{Exposed, Reach};
pub use transfers::{Ended, Held, Refused, Transfers, TransfersConfig};
#[cfg(feature = "rdma")]
pub use verbs::{Verbs, VerbsConfig};
