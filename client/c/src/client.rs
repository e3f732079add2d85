//! `larder_client`, and what is said of errors.

use std::ffi::c_char;
use std::mem::offset_of;
use std::time::Duration;

use larder_client::number::ALL;
use larder_client::{Client, Config as ClientConfig, Error, PathChoice};

use crate::edge::{array, build, free, invalid, last_error, text};

/// `larder_config`.
#[repr(C)]
#[derive(Debug)]
pub struct Config {
    seeds: *const c_char,
    name: *const c_char,
    credential: *const u8,
    credential_bytes: usize,
    deadline_ms: u32,
    connect_timeout_ms: u32,
    path: i32,
    rdma_device: *const c_char,
}

/// `larder_connect`.
///
/// # Safety
///
/// As `larder.h` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn larder_connect(config: *const Config) -> *mut Client {
    build(|| {
        // SAFETY: C promised it.
        let config = unsafe { config.as_ref() };
        let config = match config {
            None => ClientConfig::default(),
            // SAFETY: C promised it of what the struct points to.
            Some(config) => unsafe { config.read()? },
        };
        Client::connect(config).map(Some)
    })
}

/// `larder_client_close`.
///
/// # Safety
///
/// As `larder.h` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn larder_client_close(client: *mut Client) {
    // SAFETY: C promised it.
    unsafe { free(client) };
}

/// `larder_last_error`.
#[unsafe(no_mangle)]
pub extern "C" fn larder_last_error() -> *const c_char {
    last_error()
}

/// `larder_status_name`.
#[unsafe(no_mangle)]
pub extern "C" fn larder_status_name(status: i64) -> *const c_char {
    let at = status.checked_neg().and_then(|at| usize::try_from(at).ok());
    at.and_then(|at| NAMES.get(at)).map_or(c"?", |name| *name).as_ptr()
}

// As the header has it; the program in `tests/` asserts the same of that.
const _: () = assert!(size_of::<Config>() == 56);
const _: () = assert!(offset_of!(Config, path) == 40);

impl Config {
    /// # Safety
    ///
    /// What it points to is valid.
    unsafe fn read(&self) -> Result<ClientConfig, Error> {
        let mut config = ClientConfig::default();
        // SAFETY: the caller promised it.
        let seeds = unsafe { text(self.seeds, "seeds that are no UTF-8")? };
        // SAFETY: as above.
        let name = unsafe { text(self.name, "name that is no UTF-8")? };
        // SAFETY: as above.
        let rdma_device = unsafe { text(self.rdma_device, "rdma_device that is no UTF-8")? };
        let no_bytes = "credential without an address";
        // SAFETY: as above.
        let credential = unsafe { array(self.credential, self.credential_bytes, no_bytes)? };
        if !seeds.is_empty() {
            config.seeds = seeds.split(',').map(|seed| seed.trim().to_owned()).collect();
        }
        if !name.is_empty() {
            name.clone_into(&mut config.name);
        }
        if !rdma_device.is_empty() {
            config.rdma_device = Some(rdma_device.to_owned());
        }
        config.credential = credential.to_vec();
        if self.deadline_ms > 0 {
            config.deadline = Duration::from_millis(self.deadline_ms.into());
        }
        if self.connect_timeout_ms > 0 {
            config.connect_timeout = Duration::from_millis(self.connect_timeout_ms.into());
        }
        config.path = match self.path {
            0 => PathChoice::Auto,
            1 => PathChoice::Tcp,
            2 => PathChoice::Shm,
            3 => PathChoice::Rdma,
            _ => return Err(invalid("path that is none of LARDER_PATH_")),
        };
        Ok(config)
    }
}

/// As in [`ALL`], which has no zeroes behind its names.
const NAMES: [&std::ffi::CStr; 20] = [
    c"OK",
    c"MISS",
    c"MISS_SIZE",
    c"CORRUPT",
    c"STALE",
    c"EXISTS",
    c"OLDER_VERSION",
    c"BUSY",
    c"NO_ROOM",
    c"TOO_LARGE",
    c"DEADLINE",
    c"UNAVAILABLE",
    c"CANCELLED",
    c"CLOSED",
    c"DENIED",
    c"REFUSED",
    c"INVALID_ARGUMENT",
    c"FORKED",
    c"SYSTEM",
    c"NOT_WANTED",
];
const _: () = assert!(NAMES.len() == ALL.len());

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_numbers() {
        for ((name, _), c_name) in ALL.iter().zip(NAMES) {
            assert_eq!(c_name.to_str(), Ok(*name));
        }
    }
}
