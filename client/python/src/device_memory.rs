//! `larder.DeviceMemory`: memory of a device, named once and then used by address.
//!
//! What a reader would get wrong: it may be registered in any package, and only one that was built
//! for devices takes it. To import nothing is the rule here too: a stream is torch's only if torch
//! is there already.

use std::sync::Arc;

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyInt, PyList, PyTuple};

use crate::arguments::patience;
use crate::connection::Connection;
use crate::devices::{self, Entry};
use crate::errors::invalid;
use crate::places::{Access, Found, find_aboard};

/// Memory of a device that a client was told of, from which and into which it moves objects.
///
/// Made by ``Client.register_device``. It stays registered until it is unregistered or the client
/// is closed, also when this object is gone. As a context manager it is unregistered at the end.
#[pyclass(frozen, module = "larder")]
pub(crate) struct DeviceMemory {
    connection: Arc<Connection>,
    entry: Arc<Entry>,
}

/// How many devices there are that memory can be registered of: 0 in a package that was built
/// without the feature ``cuda``, and where no driver is installed.
///
/// Loads the driver. Raises OsError if there is one that does not work.
#[pyfunction]
pub(crate) fn device_count() -> PyResult<u32> {
    devices::count()
}

impl DeviceMemory {
    /// Registers a tensor or an array of a device, or an address.
    ///
    /// # Errors
    /// `InvalidArgument`, `OsError`, `Closed`, `Forked`.
    pub(crate) fn register(
        connection: &Arc<Connection>,
        memory: &Bound<'_, PyAny>,
        length: Option<usize>,
        device: Option<u32>,
        keep: Option<Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let py = memory.py();
        let client = connection.client()?;
        let mut keeps: Vec<Py<PyAny>> = keep.map(Bound::unbind).into_iter().collect();
        // Only an int is an address: a tensor of one number would turn into one as willingly.
        let (address, bytes, device) = if let Ok(address) = memory.cast::<PyInt>() {
            let address = address.extract().map_err(|_| invalid("memory: no address"))?;
            let length = length.ok_or_else(|| invalid("length: an address needs one"))?;
            (address, length, device.unwrap_or(0))
        } else {
            let named = |why| invalid(format_args!("memory: {why}"));
            let Found { address, bytes, .. } = find_aboard(memory, Access::Write).map_err(named)?;
            keeps.push(memory.clone().unbind());
            let length = length.unwrap_or(bytes);
            if length > bytes {
                return Err(invalid(format_args!("length: {length} of {bytes} bytes")));
            }
            (address, length, device.or_else(|| device_of(memory)).unwrap_or(0))
        };
        let range = (address as u64, bytes as u64);
        let entry = connection.devices().register(py, &client, device, range, keeps)?;
        Ok(Self { connection: Arc::clone(connection), entry })
    }
}

#[pymethods]
impl DeviceMemory {
    /// Where it begins, on the device.
    #[getter]
    fn address(&self) -> u64 {
        self.entry.address()
    }

    /// How long it is, in bytes.
    #[getter]
    fn length(&self) -> u64 {
        self.entry.bytes()
    }

    /// Which device, as the driver numbers them.
    #[getter]
    fn device(&self) -> u32 {
        self.entry.device()
    }

    /// Ends the registration: from now on no call may name it. Waits until no call, and no copy of
    /// one, uses it.
    ///
    /// ``timeout`` is in seconds, ``None`` for as long as it takes. Answers whether nothing uses
    /// the memory any more; if not, ask again before the memory is given up. Again is fine.
    #[pyo3(signature = (timeout = None))]
    fn unregister(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        self.connection.check_process()?;
        self.connection.devices().unregister(py, &self.entry, patience(timeout)?)
    }

    fn __len__(&self) -> usize {
        self.entry.bytes() as usize
    }

    const fn __enter__(this: Py<Self>) -> Py<Self> {
        this
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, py: Python<'_>, _exception: Bound<'_, PyAny>) -> PyResult<()> {
        self.unregister(py, None).map(drop)
    }

    fn __repr__(&self) -> String {
        let (address, bytes, device) = (self.address(), self.length(), self.device());
        format!("<larder.DeviceMemory of {bytes} bytes at {address:#x} of device {device}>")
    }
}

/// The number of a tensor's device, if it says one.
fn device_of(tensor: &Bound<'_, PyAny>) -> Option<u32> {
    let py = tensor.py();
    let device = tensor.getattr_opt(intern!(py, "device")).ok()??;
    // As torch has it, and as cupy has.
    let number = |name| device.getattr_opt(name).ok()?.and_then(|number| number.extract().ok());
    number(intern!(py, "index")).or_else(|| number(intern!(py, "id")))
}

/// What the copies of a call wait for, and who waits for them.
#[derive(Debug)]
#[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "a package for devices copies"))]
pub(crate) struct Streams {
    /// What these have is done first.
    pub(crate) before: Vec<u64>,
    /// What this gets from then on is done after; `None` if the call waits for its copies itself.
    pub(crate) after: Option<u64>,
}

impl Streams {
    /// Those of a call that was given `stream`, an int or what has one as torch's streams do. For
    /// `None` those that `tensors` say they are written on, as arrays do; else torch's current one
    /// of the device, if torch is imported and has begun with devices; else the default one.
    ///
    /// # Errors
    /// `InvalidArgument` for anything else.
    pub(crate) fn of_call(
        stream: Option<&Bound<'_, PyAny>>,
        tensors: Option<&Bound<'_, PyAny>>,
        py: Python<'_>,
        device: Option<u32>,
    ) -> PyResult<Self> {
        let both = |stream| Self { before: vec![stream], after: Some(stream) };
        if let Some(stream) = stream {
            return handle(stream).map(both);
        }
        let mut before = Vec::new();
        if let Some(tensors) = tensors {
            add_streams(tensors, &mut before)?;
        }
        if !before.is_empty() {
            return Ok(Self { before, after: None });
        }
        let of_torch = torch_stream(py, device)?.map(both);
        let default = || Self { before: vec![DEFAULT_STREAM], after: None };
        Ok(of_torch.unwrap_or_else(default))
    }
}

/// Adds those that arrays, or lists of them, say they are written on.
fn add_streams(tensors: &Bound<'_, PyAny>, streams: &mut Vec<u64>) -> PyResult<()> {
    let py = tensors.py();
    for tensor in tensors.try_iter()? {
        let tensor = tensor?;
        if tensor.is_instance_of::<PyList>() || tensor.is_instance_of::<PyTuple>() {
            add_streams(&tensor, streams)?;
            continue;
        }
        // Who has an address as torch's tensors do has torch's stream.
        if tensor.hasattr(intern!(py, "data_ptr"))? {
            continue;
        }
        let told = tensor.getattr_opt(intern!(py, "__cuda_array_interface__"))?;
        let Some(told) = told.as_ref().and_then(|told| told.cast::<PyDict>().ok()) else {
            continue;
        };
        let Some(stream) = told.get_item(intern!(py, "stream"))?.filter(|s| !s.is_none()) else {
            continue;
        };
        // The interface leaves no doubt: 0 could be either default stream.
        match stream.extract() {
            Ok(stream) if stream > 0 => streams.push(stream),
            _ => return Err(invalid("an array's stream: no stream of a device")),
        }
    }
    streams.sort_unstable();
    streams.dedup();
    Ok(())
}

fn handle(stream: &Bound<'_, PyAny>) -> PyResult<u64> {
    let told = stream.getattr_opt(intern!(stream.py(), "cuda_stream"))?;
    let number = told.as_ref().unwrap_or(stream).cast::<PyInt>().ok().map(|n| n.extract());
    number.and_then(Result::ok).ok_or_else(|| invalid("stream: no stream of a device"))
}

fn torch_stream(py: Python<'_>, device: Option<u32>) -> PyResult<Option<u64>> {
    let modules = py.import(intern!(py, "sys"))?.getattr(intern!(py, "modules"))?;
    let Some(torch) = modules.cast::<PyDict>()?.get_item(intern!(py, "torch"))? else {
        return Ok(None);
    };
    let Some(cuda) = torch.getattr_opt(intern!(py, "cuda"))? else { return Ok(None) };
    let Some(is_begun) = cuda.getattr_opt(intern!(py, "is_initialized"))? else { return Ok(None) };
    if !is_begun.call0()?.is_truthy()? {
        return Ok(None);
    }
    handle(&cuda.call_method1(intern!(py, "current_stream"), (device,))?).map(Some)
}

/// The legacy default stream: an event there is behind what all streams have that wait for it.
const DEFAULT_STREAM: u64 = 0;
