//! The Python package `larder`: its native half, `larder._native`.
//!
//! Thin on purpose: arguments become types of `larder-client`, the interpreter's lock is let go,
//! and answers become lists. What a reader would get wrong: no thread of the client's ever needs
//! the interpreter, so whatever holds Python objects (`buffer`, `memory`) is dropped on Python's
//! threads only, and memory that may still be written to is leaked rather than given back.
#![deny(unsafe_code)]

mod address;
mod arguments;
mod blocking;
#[expect(unsafe_code, reason = "Python's buffers and addresses become landings and sources")]
mod buffer;
mod client;
mod completion;
mod connection;
mod desk;
mod device_calls;
mod device_memory;
#[cfg(feature = "cuda")]
#[expect(unsafe_code, reason = "addresses and streams of a device become memory and order")]
mod devices;
#[cfg(not(feature = "cuda"))]
#[path = "no_devices.rs"]
mod devices;
mod errors;
mod given;
mod jobs;
mod keys;
mod lease;
mod matched;
mod memory;
mod memoryview;
mod numbers;
mod places;
mod puts;
mod status;
mod store;

#[pyo3::pymodule]
mod _native {
    use pyo3::prelude::*;

    #[pymodule_export]
    use crate::client::{PyClient, connect};
    #[pymodule_export]
    use crate::completion::Completion;
    #[pymodule_export]
    use crate::device_memory::{DeviceMemory, device_count};
    #[pymodule_export]
    use crate::errors::{
        Busy, Closed, Denied, Error, Forked, InvalidArgument, OsError, Unavailable,
    };
    #[pymodule_export]
    use crate::lease::Lease;
    #[pymodule_export]
    use crate::matched::Match;
    #[pymodule_export]
    use crate::memory::Memory;
    #[pymodule_export]
    use crate::store::Store;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
