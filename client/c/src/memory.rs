//! `larder_memory`: memory that nodes on other hosts reach through network cards.

use std::ffi::c_void;

use larder_client::{Client, Error, ExposedMemory};
use larder_transport::Registered;

use crate::edge::{build, free, invalid, reference};

/// `larder_memory`. The registration is dropped after the card has forgotten it.
#[derive(Debug)]
pub struct Memory {
    exposed: ExposedMemory,
    _registered: Registered,
}

/// `larder_expose`.
///
/// # Safety
///
/// As `larder.h` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn larder_expose(
    client: *const Client,
    address: *mut c_void,
    bytes: usize,
) -> *mut Memory {
    build(|| {
        // SAFETY: C promised it.
        let client: &Client = unsafe { reference(client, "client of NULL")? };
        // SAFETY: C promised that it stays memory until it is hidden and nothing is under way.
        let registered = unsafe { Registered::new(address.cast(), bytes, None) };
        let registered =
            registered.map_err(|_| -> Error { invalid("memory that is not there") })?;
        let exposed = client.expose(&registered)?;
        Ok(Some(Memory { exposed, _registered: registered }))
    })
}

/// `larder_is_exposed`.
///
/// # Safety
///
/// As `larder.h` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn larder_is_exposed(memory: *const Memory) -> i32 {
    // SAFETY: C promised it.
    let memory = unsafe { memory.as_ref() };
    i32::from(memory.is_some_and(|memory| memory.exposed.is_exposed()))
}

/// `larder_hide`.
///
/// # Safety
///
/// As `larder.h` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn larder_hide(memory: *mut Memory) {
    // SAFETY: C promised it.
    unsafe { free(memory) };
}
