//! `larder_lease`: an object where the node has it.

use std::ffi::c_void;

use larder_client::number::OK;
use larder_client::{GetOptions, Lease};

use crate::edge::{answer, array_out, free};
use crate::object::{Key, keys};
use crate::store::{Store, deadline, store_of};

/// `larder_lease_get`.
///
/// # Safety
///
/// As `larder.h` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn larder_lease_get(
    store: *mut Store,
    asked: *const Key,
    count: usize,
    timeout_ms: u32,
    leases: *mut *mut Lease,
    results: *mut i64,
) -> i64 {
    answer(|| {
        // SAFETY: C promised it.
        let store = unsafe { store_of(store)? };
        // SAFETY: as above.
        let asked = unsafe { keys(asked, count)? };
        // SAFETY: as above.
        let leases = unsafe { array_out(leases, count, "leases that are NULL")? };
        // SAFETY: as above.
        let results = unsafe { array_out(results, count, "results that are NULL")? };
        let options = GetOptions { deadline: deadline(timeout_ms), ..GetOptions::default() };
        let answers = store.client.lease(&store.namespace, &asked, &options)?;
        for ((answer, lease), result) in answers.into_iter().zip(leases).zip(results) {
            let (held, number) = match answer {
                Ok(held) => {
                    let bytes = held.len() as i64;
                    (Box::into_raw(Box::new(held)), bytes)
                }
                Err(error) => (std::ptr::null_mut(), error.number().into()),
            };
            lease.write(held);
            result.write(number);
        }
        Ok(OK.into())
    })
}

/// `larder_lease_bytes`.
///
/// # Safety
///
/// As `larder.h` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn larder_lease_bytes(
    lease: *const Lease,
    bytes: *mut usize,
) -> *const c_void {
    // SAFETY: C promised it.
    let found: &[u8] = unsafe { lease.as_ref() }.map_or(&[], |lease| lease);
    // SAFETY: as above.
    unsafe { told(found, bytes) }
}

/// `larder_lease_meta`.
///
/// # Safety
///
/// As `larder.h` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn larder_lease_meta(
    lease: *const Lease,
    bytes: *mut usize,
) -> *const c_void {
    // SAFETY: C promised it.
    let found: &[u8] = unsafe { lease.as_ref() }.map_or(&[], |lease| lease.user_meta());
    // SAFETY: as above.
    unsafe { told(found, bytes) }
}

/// `larder_lease_free`.
///
/// # Safety
///
/// As `larder.h` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn larder_lease_free(lease: *mut Lease) {
    // SAFETY: C promised it.
    unsafe { free(lease) };
}

/// # Safety
///
/// `bytes` is null, or there is room for a number.
unsafe fn told(found: &[u8], bytes: *mut usize) -> *const c_void {
    if !bytes.is_null() {
        // SAFETY: the caller promised it.
        unsafe { bytes.write(found.len()) };
    }
    found.as_ptr().cast()
}
