//! Registered memory of NVIDIA devices, and the ferry of each device.
//!
//! What a reader would get wrong: a device has one ferry, and one call at a time has it. A call
//! that does not get it in time is as late as any other: its keys are answered so, and nothing was
//! begun.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, TryLockError};
use std::time::{Duration, Instant};

use larder_client::{
    Client, Error, Ferry, FerryConfig, FerryError, GetOptions, Key, KeyError, KeyResult, Namespace,
    PutObject, PutOptions,
};
use larder_gpu_bridge::cuda::{self, CudaDevice, CudaEvent, CudaMemory};
use larder_gpu_bridge::{Device, DeviceError, DeviceRange};
use larder_protocol::limits::OBJECT_BYTES_MAX;
use pyo3::prelude::*;

use crate::buffer::Loan;
use crate::device_calls::not_registered;
use crate::device_memory::Streams;
use crate::errors::{OsError, invalid};

/// The devices of one client that memory was registered of, and that memory.
#[derive(Default)]
pub(crate) struct Devices {
    docks: Mutex<Vec<Arc<Dock>>>,
    known: RwLock<Vec<Arc<Entry>>>,
}

/// One device.
struct Dock {
    ordinal: u32,
    device: CudaDevice,
    ferry: Mutex<Ferry<CudaDevice>>,
}

/// One registered memory. Calls have clones.
pub(crate) struct Entry {
    dock: Arc<Dock>,
    memory: CudaMemory,
    keeps: Mutex<Vec<Py<PyAny>>>,
}

/// What a call is about.
pub(crate) struct Call<'a> {
    pub(crate) client: &'a Client,
    pub(crate) namespace: &'a Namespace,
    pub(crate) loan: &'a Loan,
    pub(crate) streams: &'a Streams,
}

/// Ranges of a call, and what they are in.
struct Manifest {
    dock: Arc<Dock>,
    entries: Vec<Arc<Entry>>,
    /// Which entry, where in it and how long, key after key.
    ranges: Vec<(usize, u64, u64)>,
}

/// How many devices there are; none where no driver is.
pub(crate) fn count() -> PyResult<u32> {
    match cuda::device_count() {
        Err(DeviceError::Unsupported { .. }) => Ok(0),
        count => count.map_err(|error| failed(&error)),
    }
}

impl Entry {
    pub(crate) const fn address(&self) -> u64 {
        self.memory.address()
    }

    pub(crate) const fn bytes(&self) -> u64 {
        self.memory.bytes()
    }

    pub(crate) fn device(&self) -> u32 {
        self.dock.ordinal
    }

    /// Where in it a range begins, if that is in it. Nothing is anywhere: an empty tensor has no
    /// address.
    fn offset_of(&self, (address, bytes): (usize, usize)) -> Option<u64> {
        if bytes == 0 {
            return Some(0);
        }
        let offset = (address as u64).checked_sub(self.address())?;
        let end = offset.checked_add(bytes as u64)?;
        (end <= self.bytes()).then_some(offset)
    }
}

impl Devices {
    /// # Errors
    /// `InvalidArgument` if it is no memory of that device, `OsError` if that does not work.
    pub(crate) fn register(
        &self,
        py: Python<'_>,
        client: &Client,
        ordinal: u32,
        (address, bytes): (u64, u64),
        keeps: Vec<Py<PyAny>>,
    ) -> PyResult<Arc<Entry>> {
        let dock = py.detach(|| self.dock(client, ordinal)).map_err(|error| raise(&error))?;
        // SAFETY: the Python program promises, by registering it, that the memory stays until it
        // was unregistered, and that nobody else uses what a call names but in the order of the
        // call's stream.
        let memory = unsafe { dock.device.adopt(address, bytes) };
        let memory = memory.map_err(|error| {
            let what = format_args!("memory: {bytes} bytes at {address:#x}: {error}");
            invalid(what)
        })?;
        let entry = Arc::new(Entry { dock, memory, keeps: Mutex::new(keeps) });
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.push(Arc::clone(&entry));
        Ok(entry)
    }

    /// Whether nothing uses it any more; from now on no call finds it.
    ///
    /// # Errors
    /// `OsError` if the device fails.
    pub(crate) fn unregister(
        &self,
        py: Python<'_>,
        entry: &Arc<Entry>,
        patience: Duration,
    ) -> PyResult<bool> {
        let until = Instant::now() + patience;
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.retain(|known| !Arc::ptr_eq(known, entry));
        drop(known);
        let is_idle = py.detach(|| {
            // One clone is the caller's, and the others are calls'.
            while Arc::strong_count(entry) > 1 {
                if Instant::now() >= until {
                    return Ok(false);
                }
                std::thread::sleep(PAUSE);
            }
            entry.dock.is_done_by(until)
        });
        let is_idle = is_idle.map_err(|error| failed(&error))?;
        if is_idle {
            let keeps = entry.keeps.lock().unwrap_or_else(PoisonError::into_inner).split_off(0);
            drop(keeps);
        }
        Ok(is_idle)
    }

    /// Reads objects, each into its ranges.
    ///
    /// # Errors
    /// `InvalidArgument` for a range that is not registered, `OsError` if the device fails.
    pub(crate) fn get(
        &self,
        py: Python<'_>,
        call: &Call<'_>,
        keys: &[Key],
        options: &GetOptions,
    ) -> PyResult<Result<Vec<KeyResult<u32>>, Error>> {
        let Some(manifest) = self.manifest(call.loan)? else { return nothing(call.loan) };
        let Call { client, namespace, loan, streams } = *call;
        let ends = &loan.ends;
        let answer = py.detach(|| {
            let until = client.until(options.deadline);
            let Some(mut ferry) = manifest.dock.board(until) else {
                return Ok(vec![Err(KeyError::DeadlineExceeded); keys.len()]);
            };
            follow(&mut ferry, streams)?;
            let ranges = manifest.ranges();
            let places = manifest.places(ends, &ranges);
            let objects: Vec<_> = keys.iter().copied().zip(places).collect();
            let left = until.saturating_duration_since(Instant::now());
            let options = GetOptions { deadline: Some(left), ..options.clone() };
            let crossing = ferry.get_ranges(namespace, &objects, &options)?;
            settle(&manifest.dock.device, &crossing.event, streams.after)?;
            Ok(crossing.keys)
        });
        answered(answer)
    }

    /// Stores objects, each from its ranges.
    ///
    /// # Errors
    /// As [`Devices::get`].
    pub(crate) fn put(
        &self,
        py: Python<'_>,
        call: &Call<'_>,
        objects: &[PutObject<()>],
        options: &PutOptions,
    ) -> PyResult<Result<Vec<KeyResult<()>>, Error>> {
        let Some(manifest) = self.manifest(call.loan)? else { return nothing(call.loan) };
        let Call { client, namespace, loan, streams } = *call;
        let ends = &loan.ends;
        let answer = py.detach(|| {
            let until = client.until(options.deadline);
            let Some(mut ferry) = manifest.dock.board(until) else {
                return Ok(vec![Err(KeyError::DeadlineExceeded); objects.len()]);
            };
            follow(&mut ferry, streams)?;
            let ranges = manifest.ranges();
            let places = manifest.places(ends, &ranges);
            let objects: Vec<_> = objects
                .iter()
                .zip(places)
                .map(|(object, place)| object.with_bytes(place))
                .collect();
            let left = until.saturating_duration_since(Instant::now());
            let options = PutOptions { deadline: Some(left), ..options.clone() };
            ferry.put_ranges(namespace, &objects, &options)
        });
        answered(answer)
    }

    /// The device of the first range, if that is registered.
    pub(crate) fn device_of(&self, loan: &Loan) -> Option<u32> {
        let first = *loan.ranges.first()?;
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.iter().find(|entry| entry.offset_of(first).is_some()).map(|entry| entry.device())
    }

    /// Forgets all of it, once no copy is under way.
    pub(crate) fn clear(&self, py: Python<'_>) {
        let known =
            std::mem::take(&mut *self.known.write().unwrap_or_else(PoisonError::into_inner));
        let docks = std::mem::take(&mut *self.docks.lock().unwrap_or_else(PoisonError::into_inner));
        py.detach(|| {
            for dock in docks {
                let mut ferry = dock.ferry.lock().unwrap_or_else(PoisonError::into_inner);
                // One that fails keeps what it uses for good.
                let _ = dock.device.finish(ferry.stream());
            }
        });
        drop(known);
    }

    /// In a forked child: the driver is the parent's, and its locks may be held for ever.
    pub(crate) fn abandon(&mut self) {
        std::mem::forget(std::mem::take(self));
    }

    /// The dock of a device, opened if it is not yet: that takes a while.
    fn dock(&self, client: &Client, ordinal: u32) -> Result<Arc<Dock>, FerryError> {
        let mut docks = self.docks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(dock) = docks.iter().find(|dock| dock.ordinal == ordinal) {
            return Ok(Arc::clone(dock));
        }
        let device = CudaDevice::open(ordinal)?;
        // Whatever a namespace may hold has room.
        let config = FerryConfig { bay_bytes: OBJECT_BYTES_MAX.into(), ..FerryConfig::default() };
        let ferry = Mutex::new(Ferry::new(client, device.clone(), device.stream()?, &config)?);
        let dock = Arc::new(Dock { ordinal, device, ferry });
        docks.push(Arc::clone(&dock));
        Ok(dock)
    }

    /// Finds each range of a loan; none if there are none.
    ///
    /// # Errors
    /// `InvalidArgument`, naming the first that is not registered, or is on another device.
    fn manifest(&self, loan: &Loan) -> PyResult<Option<Manifest>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let mut manifest: Option<Manifest> = None;
        for (at, place) in loan.places().enumerate() {
            for (piece, &range) in place.iter().enumerate() {
                // Mostly it is in the one that the last was in.
                let last = manifest.as_ref().and_then(|manifest| {
                    let entry = manifest.ranges.last()?.0;
                    Some((entry, manifest.entries[entry].offset_of(range)?))
                });
                if let (Some((entry, offset)), Some(manifest)) = (last, &mut manifest) {
                    manifest.ranges.push((entry, offset, range.1 as u64));
                    continue;
                }
                let found = known.iter().find_map(|entry| Some((entry, entry.offset_of(range)?)));
                let Some((entry, offset)) = found else {
                    return Err(not_registered(at, piece, range));
                };
                let manifest = manifest.get_or_insert_with(|| Manifest {
                    dock: Arc::clone(&entry.dock),
                    entries: Vec::new(),
                    ranges: Vec::new(),
                });
                if !Arc::ptr_eq(&manifest.dock, &entry.dock) {
                    let (first, other) = (manifest.dock.ordinal, entry.dock.ordinal);
                    return Err(invalid(format_args!(
                        "[{at}][{piece}]: on device {other}, others on device {first}"
                    )));
                }
                let same = manifest.entries.iter().position(|known| Arc::ptr_eq(known, entry));
                let which = same.unwrap_or_else(|| {
                    manifest.entries.push(Arc::clone(entry));
                    manifest.entries.len() - 1
                });
                manifest.ranges.push((which, offset, range.1 as u64));
            }
        }
        Ok(manifest)
    }
}

impl Manifest {
    fn ranges(&self) -> Vec<DeviceRange<'_, CudaDevice>> {
        let range = |&(entry, offset, bytes): &(usize, u64, u64)| DeviceRange {
            memory: &self.entries[entry].memory,
            offset,
            bytes,
        };
        self.ranges.iter().map(range).collect()
    }

    /// The ranges of each key, which end where those of the loan end.
    fn places<'a>(
        &self,
        ends: &[usize],
        ranges: &'a [DeviceRange<'a, CudaDevice>],
    ) -> Vec<&'a [DeviceRange<'a, CudaDevice>]> {
        let starts = std::iter::once(0).chain(ends.iter().copied());
        starts.zip(ends).map(|(start, &end)| &ranges[start..end]).collect()
    }
}

impl Dock {
    /// The ferry, once no other call has it; none if that is too late.
    fn board(&self, until: Instant) -> Option<MutexGuard<'_, Ferry<CudaDevice>>> {
        loop {
            match self.ferry.try_lock() {
                Ok(ferry) => return Some(ferry),
                Err(TryLockError::Poisoned(ferry)) => return Some(ferry.into_inner()),
                Err(TryLockError::WouldBlock) if Instant::now() < until => {
                    std::thread::sleep(PAUSE);
                }
                Err(TryLockError::WouldBlock) => return None,
            }
        }
    }

    /// Whether all copies so far are done by then.
    fn is_done_by(&self, until: Instant) -> Result<bool, DeviceError> {
        let Some(mut ferry) = self.board(until) else { return Ok(false) };
        let event = self.device.record(ferry.stream())?;
        drop(ferry);
        self.device.wait_until(&event, until)
    }
}

/// Has the copies of a call wait for what its streams have.
fn follow(ferry: &mut Ferry<CudaDevice>, streams: &Streams) -> Result<(), FerryError> {
    for &stream in &streams.before {
        // SAFETY: the Python program says that it is a stream of this device, by naming it, or it
        // is the default one, which every device has.
        unsafe { ferry.stream().follow(stream) }?;
    }
    Ok(())
}

/// Has the stream wait for the copies of a call, or this thread.
fn settle(device: &CudaDevice, event: &CudaEvent, stream: Option<u64>) -> Result<(), DeviceError> {
    let Some(stream) = stream else { return device.wait(event) };
    // SAFETY: as above.
    let held = unsafe { event.hold_back(stream) };
    // After an error nothing may be under way.
    held.or_else(|error| device.wait(event).and(Err(error)))
}

/// Of a call without any range.
fn nothing<T>(loan: &Loan) -> PyResult<Result<Vec<T>, Error>> {
    if loan.ends.is_empty() { Ok(Ok(Vec::new())) } else { Err(invalid("no memory of a device")) }
}

fn answered<T>(answer: Result<T, FerryError>) -> PyResult<Result<T, Error>> {
    match answer {
        Ok(keys) => Ok(Ok(keys)),
        Err(FerryError::Client(error)) => Ok(Err(error)),
        Err(error) => Err(raise(&error)),
    }
}

fn raise(error: &FerryError) -> PyErr {
    OsError::new_err(error.to_string())
}

fn failed(error: &DeviceError) -> PyErr {
    OsError::new_err(error.to_string())
}

/// Between two looks whether something is free. A guess: a call takes some hundred microseconds.
const PAUSE: Duration = Duration::from_micros(50);
