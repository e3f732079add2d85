//! Jobs: submitted by one call, taken by another.
//!
//! What a reader would get wrong: memory that a job names belongs to it until its completion was
//! taken, which is for C to see to; the client lets go of it before the completion is there.

use std::ffi::c_int;
use std::time::Duration;

use larder_client::number::OK;
use larder_client::{Finished, GetOptions, Outcome};

use crate::edge::{answer, array, build, free};
use crate::object::{Key, Object, keys};
use crate::store::{
    NO_OBJECTS, Store, deadline, found_numbers, matching, number, putting, store_of,
};

/// `larder_completion`.
#[derive(Debug)]
pub struct Completion {
    job: i64,
    status: i64,
    results: Vec<i64>,
}

/// `larder_submit_get`.
///
/// # Safety
///
/// As `larder.h` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn larder_submit_get(
    store: *mut Store,
    objects: *const Object,
    count: usize,
    timeout_ms: u32,
) -> i64 {
    answer(|| {
        // SAFETY: C promised it.
        let store = unsafe { store_of(store)? };
        // SAFETY: as above.
        let objects = unsafe { array(objects, count, NO_OBJECTS)? };
        // SAFETY: C promised it of their pieces until the completion was taken.
        let places = objects.iter().map(|object| unsafe { object.place() });
        let places = places.collect::<Result<_, _>>()?;
        let options = GetOptions { deadline: deadline(timeout_ms), ..GetOptions::default() };
        store.jobs.submit_get(&store.namespace, places, &options).map(to_number)
    })
}

/// `larder_submit_put`.
///
/// # Safety
///
/// As `larder.h` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn larder_submit_put(
    store: *mut Store,
    objects: *const Object,
    count: usize,
    flags: u32,
    timeout_ms: u32,
) -> i64 {
    answer(|| {
        // SAFETY: C promised it.
        let store = unsafe { store_of(store)? };
        // SAFETY: as above.
        let objects = unsafe { array(objects, count, NO_OBJECTS)? };
        // SAFETY: C promised it of their pieces until the completion was taken.
        let to_put = objects.iter().map(|object| unsafe { object.offer() });
        let to_put = to_put.collect::<Result<_, _>>()?;
        let options = putting(flags, timeout_ms);
        store.jobs.submit_put(&store.namespace, to_put, &options).map(to_number)
    })
}

/// `larder_submit_match`.
///
/// # Safety
///
/// As `larder.h` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn larder_submit_match(
    store: *mut Store,
    asked: *const Key,
    count: usize,
    flags: u32,
    timeout_ms: u32,
) -> i64 {
    answer(|| {
        // SAFETY: C promised it.
        let store = unsafe { store_of(store)? };
        // SAFETY: as above.
        let asked = unsafe { keys(asked, count)? };
        let options = matching(flags, timeout_ms);
        store.jobs.submit_match(&store.namespace, asked, &options).map(to_number)
    })
}

/// `larder_submit_remove`.
///
/// # Safety
///
/// As `larder.h` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn larder_submit_remove(
    store: *mut Store,
    asked: *const Key,
    count: usize,
    timeout_ms: u32,
) -> i64 {
    answer(|| {
        // SAFETY: C promised it.
        let store = unsafe { store_of(store)? };
        // SAFETY: as above.
        let asked = unsafe { keys(asked, count)? };
        store.jobs.submit_remove(&store.namespace, asked, deadline(timeout_ms)).map(to_number)
    })
}

/// `larder_fd`.
///
/// # Safety
///
/// As `larder.h` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn larder_fd(store: *mut Store) -> c_int {
    let fd = answer(|| {
        // SAFETY: C promised it.
        let store = unsafe { store_of(store)? };
        store.jobs.fd().map(i64::from)
    });
    c_int::try_from(fd).unwrap_or(-1)
}

/// `larder_next`.
///
/// # Safety
///
/// As `larder.h` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn larder_next(store: *mut Store) -> *mut Completion {
    build(|| {
        // SAFETY: C promised it.
        let store = unsafe { store_of(store)? };
        Ok(store.jobs.next()?.map(Completion::new))
    })
}

/// `larder_wait`.
///
/// # Safety
///
/// As `larder.h` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn larder_wait(
    store: *mut Store,
    job: i64,
    timeout_ms: u32,
) -> *mut Completion {
    build(|| {
        // SAFETY: C promised it.
        let store = unsafe { store_of(store)? };
        let timeout = Duration::from_millis(timeout_ms.into());
        Ok(store.jobs.wait(to_job(job), timeout)?.map(Completion::new))
    })
}

/// `larder_completion_job`.
///
/// # Safety
///
/// As `larder.h` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn larder_completion_job(completion: *const Completion) -> i64 {
    // SAFETY: C promised it.
    unsafe { completion.as_ref() }.map_or(0, |completion| completion.job)
}

/// `larder_completion_status`.
///
/// # Safety
///
/// As `larder.h` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn larder_completion_status(completion: *const Completion) -> i64 {
    // SAFETY: C promised it.
    unsafe { completion.as_ref() }.map_or(0, |completion| completion.status)
}

/// `larder_completion_results`.
///
/// # Safety
///
/// As `larder.h` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn larder_completion_results(
    completion: *const Completion,
    count: *mut usize,
) -> *const i64 {
    // SAFETY: C promised it.
    let results: &[i64] = unsafe { completion.as_ref() }.map_or(&[], |known| &known.results);
    if !count.is_null() {
        // SAFETY: C promised that there is room for it.
        unsafe { count.write(results.len()) };
    }
    results.as_ptr()
}

/// `larder_completion_free`.
///
/// # Safety
///
/// As `larder.h` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn larder_completion_free(completion: *mut Completion) {
    // SAFETY: C promised it.
    unsafe { free(completion) };
}

/// `larder_cancel`.
///
/// # Safety
///
/// As `larder.h` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn larder_cancel(store: *mut Store, job: i64) -> i64 {
    answer(|| {
        // SAFETY: C promised it.
        let store = unsafe { store_of(store)? };
        store.jobs.cancel(to_job(job)).map(i64::from)
    })
}

/// `larder_drain_all`.
///
/// # Safety
///
/// As `larder.h` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn larder_drain_all(store: *mut Store, timeout_ms: u32) -> i64 {
    answer(|| {
        // SAFETY: C promised it.
        let store = unsafe { store_of(store)? };
        store.jobs.drain_all(Duration::from_millis(timeout_ms.into())).map(i64::from)
    })
}

impl Completion {
    fn new(finished: Finished) -> Self {
        let job = to_number(finished.job);
        let outcome = match finished.outcome {
            Ok(outcome) => outcome,
            Err(error) => {
                return Self { job, status: error.number().into(), results: Vec::new() };
            }
        };
        let results = match &outcome {
            Outcome::GetInto(keys) => {
                keys.iter().map(|key| number(key, |landed| landed.bytes.into())).collect()
            }
            Outcome::Put(keys) | Outcome::Remove(keys) => {
                keys.iter().map(|key| number(key, |()| OK.into())).collect()
            }
            Outcome::Match(found) => found_numbers(found),
            _ => Vec::new(),
        };
        Self { job, status: OK.into(), results }
    }
}

/// Jobs are counted from 1, so nobody will see the end of it.
fn to_number(job: u64) -> i64 {
    i64::try_from(job).unwrap_or(i64::MAX)
}

/// There is no job 0.
fn to_job(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}
