//! Registered memory and ways to move it; no executor.
//!
//! A [`Region`] is one long-lived mapping. An [`Arena`] carves it into slots: a [`SlotMut`] is
//! filled by one owner, [`SlotMut::freeze`] makes it a [`Slot`] that anyone may read and clone, and
//! the last drop gives the memory back. Bytes reach a slot, or leave it, through [`socket`], or
//! through a [`Landing`] or a [`Source`]: memory of a caller that another thread may use until it
//! lets go; callers in other languages name theirs by address ([`Registered`], once
//! [`check_present`] has found it). [`EventFd`] tells a caller that polls that something happened,
//! and [`Luck`] whether it pays to look for it without sleeping. Threads that work for others do
//! not stop those who wake them ([`background`]).
//!
//! A network card of another host reads and writes a caller's memory for a node, but never a node's
//! ([`rdma`]).
//!
//! Other processes on this host read a region in place ([`MappedRegion`], [`LeasedBytes`]), and let
//! a node read what they want to put ([`SharedMemory`]); the descriptors travel by [`rights`].
//!
//! What a reader would get wrong: nothing here waits for a peer, [`socket::wait_readable`] apart,
//! and nothing here knows what the bytes mean. Waiting belongs to the drivers in `cache-node` and
//! `client`.

pub mod arena;
pub mod background;
pub mod copy;
pub mod event;
pub mod fork;
pub mod landing;
pub mod lend;
pub mod mapped;
pub mod pieces;
pub mod prefetch;
pub mod present;
pub mod process;
pub mod rdma;
pub mod readiness;
pub mod region;
pub mod registered;
pub mod rights;
pub mod shared;
pub mod socket;
pub mod source;
pub mod spin;

pub use arena::slot::{Slot, SlotMut, Unfilled};
pub use arena::window::{SlotRef, Window};
pub use arena::{Arena, ArenaStats, UNTAGGED};
pub use background::give_way_when_woken;
pub use copy::copy_checked;
pub use event::EventFd;
pub use fork::process_id;
pub use landing::Landing;
pub use lend::{lend, lend_sources};
pub use mapped::{LeasedBytes, MapError, MappedRegion};
pub use prefetch::prefetch;
pub use present::{NotPresent, check_present};
pub use readiness::Readiness;
pub use region::{HugePages, Region, RegionError, RegionReport};
pub use registered::{OutOfBounds, Registered};
pub use rights::PeerProcess;
pub use shared::SharedMemory;
pub use source::Source;
pub use spin::{Luck, Spin};
