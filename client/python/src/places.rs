//! Where objects are in memory, as Python says it: buffers, tensors, addresses.
//!
//! Neither numpy nor torch is imported: their arrays are known by what they answer. What a reader
//! would get wrong: a list or a tuple is never one buffer, it is the pieces of one object.

use larder_transport::pieces::PIECES_MAX;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyInt};

use crate::arguments::{is_many, items, items_of};
use crate::buffer::{Export, Keep, Loan};
use crate::errors::invalid;
use crate::memory::Memories;
use crate::numbers::Numbers;

/// What will be done to the memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
}

/// Memory of one Python object.
pub(crate) struct Found {
    pub(crate) keep: Keep,
    pub(crate) address: usize,
    pub(crate) bytes: usize,
}

/// One buffer for each of `count` keys, or a list or tuple of buffers.
///
/// # Errors
/// `InvalidArgument`, saying which argument.
pub(crate) fn from_buffers(
    buffers: &Bound<'_, PyAny>,
    count: usize,
    access: Access,
) -> PyResult<Loan> {
    from_objects(buffers, count, access, "buffers", find)
}

fn from_objects(
    objects: &Bound<'_, PyAny>,
    count: usize,
    access: Access,
    what: &str,
    find: fn(&Bound<'_, PyAny>, Access) -> Result<Found, String>,
) -> PyResult<Loan> {
    let mut loan = Loan::default();
    for (at, object) in items_of(objects, count, what)?.iter().enumerate() {
        if is_many(object) {
            for (piece, object) in items(object, what)?.iter().enumerate() {
                let named = |why| invalid(format_args!("{what}[{at}][{piece}]: {why}"));
                loan.add(find(object, access).map_err(named)?);
            }
        } else {
            let named = |why| invalid(format_args!("{what}[{at}]: {why}"));
            loan.add(find(object, access).map_err(named)?);
        }
        loan.end_place(at, what)?;
    }
    loan.checked(access, what)
}

/// One address and one length for each of `count` keys, or as many addresses as lengths, or one
/// length for all addresses; all of it registered.
///
/// # Errors
/// `InvalidArgument`, saying which range.
pub(crate) fn from_addresses(
    addresses: &Bound<'_, PyAny>,
    sizes: &Bound<'_, PyAny>,
    count: usize,
    access: Access,
    memories: &Memories,
) -> PyResult<Loan> {
    let mut loan = ranges(addresses, sizes, count)?;
    loan.registered = memories.guard(&loan)?;
    loan.checked(access, "ptrs")
}

/// As [`from_addresses`], of a device: whether they are registered is for who knows devices.
///
/// # Errors
/// `InvalidArgument`, saying which range.
pub(crate) fn from_device_addresses(
    addresses: &Bound<'_, PyAny>,
    sizes: &Bound<'_, PyAny>,
    count: usize,
    access: Access,
) -> PyResult<Loan> {
    ranges(addresses, sizes, count)?.checked(access, "ptrs")
}

fn ranges(addresses: &Bound<'_, PyAny>, sizes: &Bound<'_, PyAny>, count: usize) -> PyResult<Loan> {
    let addresses = Numbers::of(addresses, count, "ptrs")?;
    let sizes = match sizes.cast::<PyInt>().map(|size| size.extract()) {
        Ok(size) => Numbers::like(&addresses, size.map_err(|_| invalid("sizes: no length"))?),
        Err(_) => Numbers::of(sizes, count, "sizes")?,
    };
    let mut start = 0;
    for (at, (&end, &sizes_end)) in addresses.ends.iter().zip(&sizes.ends).enumerate() {
        if end != sizes_end {
            // All before were the same.
            let (found, others) = (end - start, sizes_end - start);
            return Err(invalid(format_args!("ptrs[{at}]: {found} for {others} sizes")));
        }
        check_pieces(end - start, at, "ptrs")?;
        start = end;
    }
    let mut loan = Loan::default();
    loan.ranges = addresses.values.into_iter().zip(sizes.values).collect();
    loan.ends = addresses.ends;
    Ok(loan)
}

/// One tensor or array in a device's memory for each of `count` keys, or a list or tuple of them.
///
/// # Errors
/// `InvalidArgument`, saying which one.
pub(crate) fn from_tensors(
    tensors: &Bound<'_, PyAny>,
    count: usize,
    access: Access,
) -> PyResult<Loan> {
    from_objects(tensors, count, access, "tensors", find_aboard)
}

/// The memory of a buffer, a tensor or an array.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn find(object: &Bound<'_, PyAny>, access: Access) -> Result<Found, String> {
    // Not all that is memory can say what its items are.
    let export = Export::with_format(object).or_else(|_| Export::of(object));
    let (found, is_read_only) = match export {
        Ok(export) => of_export(object.py(), export)?,
        // Some types of items have no letter in the buffer protocol, such as bfloat16.
        Err(error) => match of_tensor(object, HOST).or_else(|| of_array(object, HOST)) {
            Some(found) => found?,
            None => return Err(error.map_or_else(|| not_memory(object), |e| e.to_string())),
        },
    };
    checked(found, is_read_only, access)
}

/// The memory of a tensor or an array in a device's memory.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn find_aboard(object: &Bound<'_, PyAny>, access: Access) -> Result<Found, String> {
    match of_tensor(object, DEVICE).or_else(|| of_array(object, DEVICE)) {
        Some(found) => found.and_then(|(found, is_read_only)| checked(found, is_read_only, access)),
        None => Err(format!("no tensor or array of a device, but {}", object.get_type())),
    }
}

fn checked(found: Found, is_read_only: bool, access: Access) -> Result<Found, String> {
    if access == Access::Write && is_read_only {
        return Err("is read-only".into());
    }
    if found.address == 0 && found.bytes > 0 {
        return Err("has a shape but no memory".into());
    }
    if isize::try_from(found.bytes).is_err() || found.address.checked_add(found.bytes).is_none() {
        return Err(format!("says that it has {} bytes", found.bytes));
    }
    Ok(found)
}

/// Whose memory is looked for: what tensors call it, and arrays.
#[derive(Debug, Clone, Copy)]
struct Side {
    device: &'static str,
    interface: &'static str,
}

const HOST: Side = Side { device: "cpu", interface: "__array_interface__" };
const DEVICE: Side = Side { device: "cuda", interface: "__cuda_array_interface__" };

fn of_export(py: Python<'_>, export: Export) -> Result<(Found, bool), String> {
    if !export.is_contiguous(py) {
        return Err("is not contiguous".into());
    }
    if has_objects(export.format(py)) {
        return Err("holds references to objects".into());
    }
    let (address, bytes, is_read_only) = (export.address(), export.bytes(), export.is_read_only());
    Ok((Found { keep: Keep::Export(export), address, bytes }, is_read_only))
}

/// A tensor, as torch has it: known by the names of its methods.
fn of_tensor(object: &Bound<'_, PyAny>, side: Side) -> Option<Result<(Found, bool), String>> {
    let data_ptr = object.getattr_opt(intern!(object.py(), "data_ptr")).ok()??;
    let said = || -> PyResult<Result<(Found, bool), String>> {
        let py = object.py();
        let device = object.getattr(intern!(py, "device"))?.getattr(intern!(py, "type"))?;
        let device: String = device.extract()?;
        if device != side.device {
            let whose = if device == "cpu" { "the host" } else { "a device" };
            return Ok(Err(format!("is in the memory of {whose} ({device})")));
        }
        if !object.call_method0(intern!(py, "is_contiguous"))?.is_truthy()? {
            return Ok(Err("is not contiguous".into()));
        }
        // Its memory has other bytes than it shows.
        for (is_lazy, name) in
            [(intern!(py, "is_conj"), "conjugate"), (intern!(py, "is_neg"), "negative")]
        {
            if let Some(is_lazy) = object.getattr_opt(is_lazy)?
                && is_lazy.call0()?.is_truthy()?
            {
                return Ok(Err(format!("is a lazy {name}, not resolved")));
            }
        }
        let bytes: usize = match object.getattr_opt(intern!(py, "nbytes"))? {
            Some(bytes) => bytes.extract()?,
            None => {
                let count: usize = object.call_method0(intern!(py, "numel"))?.extract()?;
                let each: usize = object.call_method0(intern!(py, "element_size"))?.extract()?;
                count.saturating_mul(each)
            }
        };
        let keep = Keep::Object(object.clone().unbind());
        Ok(Ok((Found { keep, address: data_ptr.call0()?.extract()?, bytes }, false)))
    };
    Some(said().unwrap_or_else(|error| Err(error.to_string())))
}

/// An array, as numpy and others describe theirs.
fn of_array(object: &Bound<'_, PyAny>, side: Side) -> Option<Result<(Found, bool), String>> {
    let told = object.getattr_opt(side.interface).ok()??;
    let said = || -> PyResult<Result<(Found, bool), String>> {
        let told = told.cast::<PyDict>()?;
        let entry = |name: &str| Ok::<_, PyErr>(told.get_item(name)?.filter(|v| !v.is_none()));
        let (Some(data), Some(shape), Some(typestr)) =
            (entry("data")?, entry("shape")?, entry("typestr")?)
        else {
            return Ok(Err("describes no memory".into()));
        };
        let (address, is_read_only): (usize, bool) = data.extract()?;
        let shape: Vec<usize> = shape.extract()?;
        let typestr: String = typestr.extract()?;
        let kind = typestr.get(1..2);
        if kind == Some("O") {
            return Ok(Err("holds references to objects".into()));
        }
        let Some(each) = typestr.get(2..).and_then(|digits| digits.parse::<usize>().ok()) else {
            return Ok(Err(format!("has items of a size that is not known ({typestr})")));
        };
        // Text says how many characters it has, bits how many bits.
        let each = match kind {
            Some("U") => each.saturating_mul(4),
            Some("t") => return Ok(Err("has items of single bits".into())),
            _ => each,
        };
        if let Some(strides) = entry("strides")? {
            let strides: Vec<isize> = strides.extract()?;
            if !is_dense(&shape, &strides, each) {
                return Ok(Err("is not contiguous".into()));
            }
        }
        let bytes = shape.iter().fold(each, |bytes, count| bytes.saturating_mul(*count));
        let keep = Keep::Object(object.clone().unbind());
        Ok(Ok((Found { keep, address, bytes }, is_read_only)))
    };
    Some(said().unwrap_or_else(|error| Err(error.to_string())))
}

/// Whether the items of a format have references among them: to write over them would be the end of
/// the interpreter.
fn has_objects(format: &[u8]) -> bool {
    // Names of fields stand between colons.
    format.split(|&byte| byte == b':').step_by(2).any(|letters| letters.contains(&b'O'))
}

/// Whether items of `each` bytes lie one behind the other, the last index moving first.
fn is_dense(shape: &[usize], strides: &[isize], each: usize) -> bool {
    if shape.len() != strides.len() {
        return false;
    }
    let mut expected = each;
    shape.iter().zip(strides).rev().all(|(&count, &stride)| {
        let is_next = count <= 1 || usize::try_from(stride) == Ok(expected);
        expected = expected.saturating_mul(count);
        is_next
    })
}

fn not_memory(object: &Bound<'_, PyAny>) -> String {
    format!("neither a buffer nor a tensor nor an array, but {}", object.get_type())
}

/// # Errors
/// `InvalidArgument` if so many pieces are too many for one object.
fn check_pieces(found: usize, at: usize, what: &str) -> PyResult<()> {
    if found > PIECES_MAX {
        return Err(invalid(format_args!("{what}[{at}]: {found} pieces, not {PIECES_MAX}")));
    }
    Ok(())
}

impl Loan {
    fn add(&mut self, found: Found) {
        self.keeps.push(found.keep);
        self.ranges.push((found.address, found.bytes));
    }

    /// What was added since the last one is the memory of one object.
    fn end_place(&mut self, at: usize, what: &str) -> PyResult<()> {
        let found = self.ranges.len() - self.ends.last().copied().unwrap_or(0);
        check_pieces(found, at, what)?;
        self.ends.push(self.ranges.len());
        Ok(())
    }

    /// # Errors
    /// `InvalidArgument` if one range would be written by two.
    fn checked(self, access: Access, what: &str) -> PyResult<Self> {
        let follows = |pair: &[(usize, usize)]| {
            let (address, bytes) = pair[0];
            address.checked_add(bytes).is_some_and(|end| end <= pair[1].0)
        };
        // Mostly they are in order, and then one look at each is enough.
        if access == Access::Read || self.ranges.windows(2).all(follows) {
            return Ok(self);
        }
        let has_bytes = |&&(_, bytes): &&(usize, usize)| bytes > 0;
        let mut sorted: Vec<_> = self.ranges.iter().filter(has_bytes).copied().collect();
        sorted.sort_unstable();
        if sorted.windows(2).all(follows) {
            return Ok(self);
        }
        Err(invalid(format_args!("{what}: memory of two of them overlaps")))
    }
}
