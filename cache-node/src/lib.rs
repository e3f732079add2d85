//! The cache node: shards, store, eviction, drivers, control plane.
//!
//! [`node::Node`] is the whole of it, for `larder-node` and for programs that embed one. A shard is
//! plain `&mut` code on one core; only the drivers (`node`, `tcp`, `shm`, `rdma`) know the executor
//! it runs on.
#![forbid(unsafe_code)]

pub mod account;
mod beside;
pub mod board;
mod cards;
pub mod config;
pub mod control;
mod core;
pub mod counters;
mod exclusive;
mod gauge;
mod inbox;
pub mod judgement;
mod lease;
pub mod namespace;
pub mod node;
mod outbox;
mod payload;
mod places;
mod polls;
#[cfg(feature = "probe")]
#[doc(hidden)]
pub mod probe;
mod putting;
mod rdma;
mod reading;
mod shard;
mod shm;
mod spin;
mod stalls;
pub mod store;
mod tcp;
mod turns;
mod uds;
