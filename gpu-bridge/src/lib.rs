//! Device memory to and from registered memory: layouts and copies.
//!
//! [`layout`] says where bytes lie, [`plan`] which go where for each page, [`device`] what moves
//! them; [`host`] is a device made of ordinary memory, for tests and machines without one. A
//! [`bay`] is pinned memory that a caller and a device use by turns, a [`dock`] is device memory
//! that network cards and the device do. The feature `cuda` adds NVIDIA devices, without needing
//! any CUDA to build.
//!
//! What a reader would get wrong: nothing here knows of nodes or keys, and nothing waits for the
//! device but what says so.

pub mod bay;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod device;
pub mod dock;
pub mod host;
pub mod host_range;
pub mod layered;
pub mod layout;
pub mod movers;
pub mod pieces;
pub mod plan;
pub mod runtimes;

pub use bay::Bay;
pub use device::{Batch, Device, DeviceError, DeviceRange, Direction, Placed, PlacedPiece};
pub use dock::{Dock, DockError, Shown};
pub use host::HostDevice;
pub use host_range::{Access, HostRange};
pub use layered::Layered;
pub use layout::{Axis, Layout, LayoutError, Order, PagedCache, Shape};
pub use movers::Movers;
pub use pieces::Piece;
pub use plan::Plan;
