//! Device memory to and from registered memory: layouts and copies.
//!
//! [`layout`] says which bytes go where, [`device`] what moves them; [`host`] is a device made of
//! ordinary memory, for tests and machines without one. Nothing here has run on a GPU yet.

pub mod device;
pub mod host;
pub mod layout;
pub mod pieces;
pub mod plan;
pub mod runtimes;

pub use device::{Access, Copies, Device, DeviceError, Direction};
pub use host::HostDevice;
pub use layout::{Axis, Layout, LayoutError, Order, PagedCache, Shape};
pub use pieces::Piece;
pub use plan::Plan;
