//! What `helm.rs` and `inbox.rs` signal with, named in one place so that a model can stand in.
//!
//! What a reader would get wrong: those two files are compiled twice, here and by `tests/helm`,
//! where loom runs them through the ways in which threads can meet. So they take whatever threads
//! share from here, and never from `std` itself; `Arc`s, and routes that nobody waits for, apart.

pub(crate) use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64};
pub(crate) use std::sync::{Condvar, Mutex, MutexGuard};

pub(crate) use mio::Waker;
