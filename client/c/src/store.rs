//! `larder_store`: one namespace, and the calls that wait.

use std::ffi::c_char;
use std::time::Duration;

use larder_client::number::OK;
use larder_client::{
    Client, Error, GetOptions, Hints, Jobs, JobsConfig, KeyResult, Lease, MatchOptions,
    MatchResult, NamespaceSpec, PutOptions,
};

use crate::edge::{answer, array_mut, array_out, build, free, reference, text};
use crate::jobs::Completion;
use crate::object::{Key, Object, keys};

/// `larder_store`.
#[derive(Debug)]
pub struct Store {
    pub(crate) client: Client,
    pub(crate) namespace: larder_client::Namespace,
    pub(crate) jobs: Jobs,
}

/// `larder_namespace`.
#[repr(C)]
#[derive(Debug)]
pub struct Namespace {
    tenant: *const c_char,
    model: *const c_char,
    revision: *const c_char,
    dtype: *const c_char,
    layout: *const c_char,
    rank: *const c_char,
    extra: *const c_char,
    part_bytes: u32,
}

/// `larder_open`.
///
/// # Safety
///
/// As `larder.h` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn larder_open(
    client: *mut Client,
    what: *const Namespace,
    movers: u16,
) -> *mut Store {
    build(|| {
        // SAFETY: C promised it.
        let client = unsafe { reference(client, "client that is NULL")? };
        // SAFETY: as above.
        let what = unsafe { reference(what, "namespace that is NULL")? };
        // SAFETY: C promised it of what the struct points to.
        let spec = unsafe { what.read()? };
        Store::new(client, client.namespace(spec)?, movers).map(Some)
    })
}

/// `larder_store_close`.
///
/// # Safety
///
/// As `larder.h` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn larder_store_close(store: *mut Store) {
    // SAFETY: C promised it.
    unsafe { free(store) };
}

/// `larder_generation`.
///
/// # Safety
///
/// As `larder.h` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn larder_generation(store: *const Store) -> u64 {
    // SAFETY: C promised it.
    unsafe { store.as_ref() }.map_or(0, |store| store.namespace.generation().0)
}

/// `larder_bump`.
///
/// # Safety
///
/// As `larder.h` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn larder_bump(store: *mut Store, movers: u16) -> *mut Store {
    build(|| {
        // SAFETY: C promised it.
        let store = unsafe { store_of(store)? };
        Store::new(&store.client, store.client.bump(&store.namespace)?, movers).map(Some)
    })
}

/// `larder_get`.
///
/// # Safety
///
/// As `larder.h` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn larder_get(
    store: *mut Store,
    objects: *mut Object,
    count: usize,
    timeout_ms: u32,
) -> i64 {
    answer(|| {
        // SAFETY: C promised it.
        let store = unsafe { store_of(store)? };
        // SAFETY: as above.
        let objects = unsafe { array_mut(objects, count, NO_OBJECTS)? };
        // SAFETY: as above, of what the objects point to until this returns.
        let places = objects.iter().map(|object| unsafe { object.place() });
        let places = places.collect::<Result<_, _>>()?;
        let options = GetOptions { deadline: deadline(timeout_ms), ..GetOptions::default() };
        let answers = store.client.get_into_owned(&store.namespace, places, &options);
        settle(objects, answers, |landed| landed.bytes.into())
    })
}

/// `larder_put`.
///
/// # Safety
///
/// As `larder.h` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn larder_put(
    store: *mut Store,
    objects: *mut Object,
    count: usize,
    flags: u32,
    timeout_ms: u32,
) -> i64 {
    answer(|| {
        // SAFETY: C promised it.
        let store = unsafe { store_of(store)? };
        // SAFETY: as above.
        let objects = unsafe { array_mut(objects, count, NO_OBJECTS)? };
        // SAFETY: as above, of what the objects point to until this returns.
        let to_put = objects.iter().map(|object| unsafe { object.offer() });
        let to_put = to_put.collect::<Result<_, _>>()?;
        let answers = store.client.put_owned(&store.namespace, to_put, &putting(flags, timeout_ms));
        settle(objects, answers, |()| OK.into())
    })
}

/// `larder_match`.
///
/// # Safety
///
/// As `larder.h` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn larder_match(
    store: *mut Store,
    asked: *const Key,
    count: usize,
    flags: u32,
    timeout_ms: u32,
    results: *mut i64,
) -> i64 {
    answer(|| {
        // SAFETY: C promised it.
        let store = unsafe { store_of(store)? };
        // SAFETY: as above.
        let asked = unsafe { keys(asked, count)? };
        // SAFETY: as above.
        let results = unsafe { array_out(results, count, "results that are NULL")? };
        let options = matching(flags, timeout_ms);
        let found = store.client.match_chain(&store.namespace, &asked, &options)?;
        for (result, found) in results.iter_mut().zip(found_numbers(&found)) {
            result.write(found);
        }
        Ok(found.leading() as i64)
    })
}

/// `larder_remove`.
///
/// # Safety
///
/// As `larder.h` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn larder_remove(
    store: *mut Store,
    asked: *const Key,
    count: usize,
    timeout_ms: u32,
    results: *mut i64,
) -> i64 {
    let ask = |store: &Store, asked: &[larder_client::Key]| {
        store.client.remove(&store.namespace, asked, deadline(timeout_ms))
    };
    // SAFETY: C promised it.
    unsafe { tell_each(store, asked, count, results, ask) }
}

/// `larder_pin`.
///
/// # Safety
///
/// As `larder.h` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn larder_pin(
    store: *mut Store,
    asked: *const Key,
    count: usize,
    keep_ms: u32,
    timeout_ms: u32,
    results: *mut i64,
) -> i64 {
    let ask = |store: &Store, asked: &[larder_client::Key]| {
        let keep_for = Duration::from_millis(keep_ms.into());
        store.client.pin(&store.namespace, asked, keep_for, deadline(timeout_ms))
    };
    // SAFETY: C promised it.
    unsafe { tell_each(store, asked, count, results, ask) }
}

/// Asks about keys, and writes the answer of each where `results` is not `NULL`.
///
/// # Safety
///
/// `store` is open, `asked` has `count` keys, and `results` room for as many, or is `NULL`.
unsafe fn tell_each(
    store: *mut Store,
    asked: *const Key,
    count: usize,
    results: *mut i64,
    ask: impl FnOnce(&Store, &[larder_client::Key]) -> Result<Vec<KeyResult<()>>, Error>,
) -> i64 {
    answer(|| {
        // SAFETY: the caller promised it.
        let store = unsafe { store_of(store)? };
        // SAFETY: as above.
        let asked = unsafe { keys(asked, count)? };
        let wanted = if results.is_null() { 0 } else { count };
        // SAFETY: as above.
        let results = unsafe { array_out(results, wanted, "results")? };
        let told = ask(store, &asked)?;
        for (result, told) in results.iter_mut().zip(&told) {
            result.write(number(told, |()| OK.into()));
        }
        Ok(OK.into())
    })
}

// Any thread may use them at any time.
const fn is_send_and_sync<T: Send + Sync>() {}
const _: () = is_send_and_sync::<Store>();
const _: () = is_send_and_sync::<Client>();
const _: () = is_send_and_sync::<Lease>();
const _: () = is_send_and_sync::<Completion>();

// As the header has it; the program in `tests/` asserts the same of that.
const _: () = assert!(size_of::<Namespace>() == 64);

impl Store {
    fn new(
        client: &Client,
        namespace: larder_client::Namespace,
        movers: u16,
    ) -> Result<Self, Error> {
        let config = JobsConfig { threads: movers.max(1), ..JobsConfig::default() };
        let jobs = Jobs::new(client, &config)?;
        Ok(Self { client: client.clone(), namespace, jobs })
    }
}

impl Namespace {
    /// # Safety
    ///
    /// Its strings are valid.
    unsafe fn read(&self) -> Result<NamespaceSpec, Error> {
        // SAFETY: the caller promised it.
        let field = |at| unsafe { text(at, "namespace that is no UTF-8") }.map(str::to_owned);
        Ok(NamespaceSpec {
            tenant: field(self.tenant)?,
            model: field(self.model)?,
            revision: field(self.revision)?,
            dtype: field(self.dtype)?,
            layout: field(self.layout)?,
            rank: field(self.rank)?,
            extra: field(self.extra)?,
            part_bytes: self.part_bytes,
        })
    }
}

/// # Safety
///
/// It is null, or a store that is not closed meanwhile.
pub(crate) unsafe fn store_of<'a>(store: *const Store) -> Result<&'a Store, Error> {
    // SAFETY: the caller promised it.
    unsafe { reference(store, "store that is NULL") }
}

pub(crate) fn deadline(timeout_ms: u32) -> Option<Duration> {
    (timeout_ms > 0).then(|| Duration::from_millis(timeout_ms.into()))
}

pub(crate) fn putting(flags: u32, timeout_ms: u32) -> PutOptions {
    PutOptions {
        deadline: deadline(timeout_ms),
        if_absent: flags & IF_ABSENT != 0,
        insist: flags & INSIST != 0,
        ..PutOptions::default()
    }
}

pub(crate) fn matching(flags: u32, timeout_ms: u32) -> MatchOptions {
    let class = match flags {
        _ if flags & TOOL_CALL != 0 => 1,
        _ if flags & TURN_END != 0 => 2,
        _ => 0,
    };
    let is_last_partial = flags & ENDS_PARTLY != 0;
    MatchOptions {
        deadline: deadline(timeout_ms),
        touch: flags & TOUCH != 0,
        hints: Hints { class, is_last_partial, ..Hints::default() },
        ..MatchOptions::default()
    }
}

pub(crate) fn number<T>(answer: &KeyResult<T>, good: impl FnOnce(&T) -> i64) -> i64 {
    match answer {
        Ok(value) => good(value),
        Err(error) => error.number().into(),
    }
}

/// Of each key, the length of what is there, or below 0.
pub(crate) fn found_numbers(found: &MatchResult) -> Vec<i64> {
    let miss = i64::from(larder_client::number::MISS);
    let unknown = |at| found.error(at).map_or(miss, |error| error.number().into());
    let mut numbers: Vec<i64> = (0..found.len()).map(unknown).collect();
    found.hits().for_each(|hit| numbers[hit.index] = hit.object_bytes.into());
    numbers
}

fn settle<T>(
    objects: &mut [Object],
    answers: Result<Vec<KeyResult<T>>, Error>,
    good: impl Fn(&T) -> i64,
) -> Result<i64, Error> {
    for (object, answer) in objects.iter_mut().zip(&answers?) {
        object.result = number(answer, &good);
    }
    Ok(OK.into())
}

pub(crate) const NO_OBJECTS: &str = "objects that are NULL";
const IF_ABSENT: u32 = 1;
const INSIST: u32 = 2;
const TOUCH: u32 = 1;
const TOOL_CALL: u32 = 2;
const TURN_END: u32 = 4;
const ENDS_PARTLY: u32 = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_of_a_match_say_what_a_policy_learns_from() {
        let said = |flags| {
            let options = matching(flags, 0);
            (options.touch, options.hints.class, options.hints.is_last_partial)
        };
        assert_eq!(said(0), (false, 0, false));
        assert_eq!(said(TOUCH | TOOL_CALL), (true, 1, false));
        assert_eq!(said(TOUCH | TURN_END | ENDS_PARTLY), (true, 2, true));
        assert_eq!(said(TOUCH | TOOL_CALL | TURN_END), (true, 1, false), "one of both");
    }
}
