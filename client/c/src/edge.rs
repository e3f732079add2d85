//! The edge to C: pointers become references and strings, errors become numbers.
//!
//! What a reader would get wrong: nothing may unwind into C. Every call runs in [`answer`] or
//! [`build`], which turn a panic of ours into an error of theirs.

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char};
use std::mem::MaybeUninit;
use std::panic::{AssertUnwindSafe, catch_unwind};

use larder_client::Error;
use larder_client::number::REFUSED;

thread_local! {
    static LAST_ERROR: RefCell<CString> = RefCell::default();
}

/// Runs a call that answers a number.
pub(crate) fn answer(call: impl FnOnce() -> Result<i64, Error>) -> i64 {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(number)) => number,
        Ok(Err(error)) => {
            set_last_error(error.to_string());
            i64::from(error.number())
        }
        Err(_) => {
            set_last_error("a bug of larder's".into());
            i64::from(REFUSED)
        }
    }
}

/// Runs a call that answers something of its own; null if it failed.
pub(crate) fn build<T>(call: impl FnOnce() -> Result<Option<T>, Error>) -> *mut T {
    let mut built = std::ptr::null_mut();
    answer(|| {
        built = call()?.map_or(std::ptr::null_mut(), |thing| Box::into_raw(Box::new(thing)));
        Ok(0)
    });
    built
}

/// Frees what [`build`] made. Null is fine.
///
/// # Safety
///
/// `thing` came from [`build`], and is not used any more.
pub(crate) unsafe fn free<T>(thing: *mut T) {
    answer(|| {
        if !thing.is_null() {
            // SAFETY: the caller promised that it came from a box, and that this is its end.
            drop(unsafe { Box::from_raw(thing) });
        }
        Ok(0)
    });
}

/// This thread's last error.
pub(crate) fn last_error() -> *const c_char {
    // It is borrowed by C until the thread's next call, which is when it may change.
    LAST_ERROR.try_with(|last| last.borrow().as_ptr()).unwrap_or(c"".as_ptr())
}

fn set_last_error(text: String) {
    let text = CString::new(text.replace('\0', " ")).unwrap_or_default();
    // A thread that is ending has none any more; who closes things then has to get by without.
    let _ = LAST_ERROR.try_with(|last| *last.borrow_mut() = text);
}

/// What is wrong with which argument.
pub(crate) const fn invalid(what: &'static str) -> Error {
    Error::InvalidArgument { what }
}

/// What a pointer of C's points to.
///
/// # Safety
///
/// It is null, or points to a valid `T` that nobody changes while the reference lives.
pub(crate) unsafe fn reference<'a, T>(at: *const T, what: &'static str) -> Result<&'a T, Error> {
    // SAFETY: the caller promised it.
    unsafe { at.as_ref() }.ok_or_else(|| invalid(what))
}

/// An array of C's. Null is fine where it is empty.
///
/// # Safety
///
/// It is null, or has `count` valid elements that nobody changes while the slice lives.
pub(crate) unsafe fn array<'a, T>(
    at: *const T,
    count: usize,
    what: &'static str,
) -> Result<&'a [T], Error> {
    if count == 0 {
        return Ok(&[]);
    }
    if at.is_null() || count > isize::MAX as usize / size_of::<T>().max(1) {
        return Err(invalid(what));
    }
    // SAFETY: the caller promised it of an array that is not null.
    Ok(unsafe { std::slice::from_raw_parts(at, count) })
}

/// As [`array`], to be written.
///
/// # Safety
///
/// As [`array`], and nobody else reads it meanwhile.
pub(crate) unsafe fn array_mut<'a, T>(
    at: *mut T,
    count: usize,
    what: &'static str,
) -> Result<&'a mut [T], Error> {
    if count == 0 {
        return Ok(&mut []);
    }
    if at.is_null() || count > isize::MAX as usize / size_of::<T>().max(1) {
        return Err(invalid(what));
    }
    // SAFETY: the caller promised it of an array that is not null.
    Ok(unsafe { std::slice::from_raw_parts_mut(at, count) })
}

/// As [`array_mut`], where nothing has been written yet.
///
/// # Safety
///
/// It is null, or has room for `count` elements that nobody else uses while the slice lives.
pub(crate) unsafe fn array_out<'a, T>(
    at: *mut T,
    count: usize,
    what: &'static str,
) -> Result<&'a mut [MaybeUninit<T>], Error> {
    // SAFETY: the caller promised it; elements that may be anything are valid.
    unsafe { array_mut(at.cast(), count, what) }
}

/// A string of C's; null is "".
///
/// # Safety
///
/// It is null, or ends with a zero, and nobody changes it while the string lives.
pub(crate) unsafe fn text<'a>(at: *const c_char, what: &'static str) -> Result<&'a str, Error> {
    if at.is_null() {
        return Ok("");
    }
    // SAFETY: the caller promised it.
    let text = unsafe { CStr::from_ptr(at) };
    text.to_str().map_err(|_| invalid(what))
}
