//! Registered memory: named once, then used by address.
//!
//! What a reader would get wrong: memory stays registered when the `Memory` that registering it
//! answered is dropped; `unregister`, or closing the client, ends it. What keeps it is given back
//! only when nothing is in flight, on the thread that asked for that.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use larder_client::{Client, ExposedMemory, SharedMemory};
use larder_transport::{Registered, Source, process_id};
use pyo3::prelude::*;
use pyo3::types::PyInt;

use crate::arguments::patience;
use crate::buffer::{Keep, Loan, register};
use crate::connection::Connection;
use crate::desk::in_slices;
use crate::errors::{invalid, raise};
use crate::memoryview::{Keeper, memory_view};
use crate::places::{Access, Found, find};

/// Memory that a client was told of, from which and into which it moves objects by their address.
///
/// Made by ``Client.register`` and ``Client.shared_memory``. Memory stays registered until it is
/// unregistered or the client is closed, also when this object is gone. As a context manager it is
/// unregistered at the end.
#[pyclass(frozen, module = "larder")]
pub(crate) struct Memory {
    connection: Arc<Connection>,
    entry: Arc<Entry>,
}

/// The memories of one client.
#[derive(Default)]
pub(crate) struct Memories {
    known: RwLock<Known>,
}

#[derive(Default)]
struct Known {
    /// By address, and those that begin at the same by length.
    entries: Vec<Arc<Entry>>,
    /// Whether two of them may have bytes in common.
    may_overlap: bool,
}

/// One registered memory.
pub(crate) struct Entry {
    registered: Registered,
    /// The way to be written and seen, if it is ours.
    shared: Option<Arc<SharedMemory>>,
    keeps: Mutex<Keeps>,
    /// What the client's network card knows of it.
    exposed: Mutex<Option<ExposedMemory>>,
    pid: u32,
}

/// What keeps one registered memory.
#[derive(Default)]
struct Keeps {
    /// What the memory was found in; nothing for an address.
    home: Option<Keep>,
    /// What the caller wants kept.
    objects: Vec<Py<PyAny>>,
}

impl Keeps {
    /// Takes what is not kept yet, and is left with the rest.
    fn adopt(&mut self, other: &mut Self) {
        // Where a home is, the memory is still the one that was registered.
        if self.home.is_none() {
            self.home = other.home.take();
        }
        let is_new = |object: &Py<PyAny>| !self.objects.iter().any(|known| known.is(object));
        let new: Vec<_> = other.objects.extract_if(.., |object| is_new(object)).collect();
        self.objects.extend(new);
    }
}

impl Entry {
    fn new(registered: Registered, shared: Option<Arc<SharedMemory>>, keeps: Keeps) -> Self {
        let (keeps, exposed) = (Mutex::new(keeps), Mutex::default());
        Self { registered, shared, keeps, exposed, pid: process_id() }
    }

    /// Has the network card of `client` know it, if there is one.
    ///
    /// # Errors
    /// `OsError` if it will not, and objects may go no other way.
    fn expose(&self, client: &Client) -> PyResult<()> {
        *self.exposed() = Some(client.expose(&self.registered).map_err(raise)?);
        Ok(())
    }

    fn exposed(&self) -> MutexGuard<'_, Option<ExposedMemory>> {
        self.exposed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn overlaps(&self, other: &Self) -> bool {
        let ((at, bytes), (other_at, other_bytes)) = (self.span(), other.span());
        at < other_at + other_bytes && other_at < at + bytes
    }

    fn span(&self) -> (usize, usize) {
        (self.registered.address(), self.registered.len())
    }

    fn keeps(&self) -> MutexGuard<'_, Keeps> {
        self.keeps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn release_if_idle(&self) -> bool {
        let is_idle = self.registered.in_flight() == 0;
        if is_idle {
            // First, for the card may know it until then.
            self.exposed().take();
            let keeps = std::mem::take(&mut *self.keeps());
            drop(keeps);
        }
        is_idle
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        // In a forked child locks may be held for ever. Else somebody may still write there, and
        // then, whatever it costs, it stays memory.
        if (self.pid != process_id() || self.registered.in_flight() > 0)
            && let Ok(keeps) = self.keeps.get_mut()
        {
            std::mem::forget(std::mem::take(keeps));
        }
    }
}

impl Memories {
    /// Registers, or finds what is registered just so, which is then kept by what keeps either:
    /// the first may be an address alone, and its memory be given back and taken anew since. What
    /// is new is prepared first.
    ///
    /// # Errors
    /// Those of `prepare`; then it is not registered.
    fn add(
        &self,
        entry: Entry,
        prepare: impl FnOnce(&Entry) -> PyResult<()>,
    ) -> PyResult<Arc<Entry>> {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        match known.entries.binary_search_by_key(&entry.span(), |known| known.span()) {
            Ok(at) if entry.shared.is_some() => {
                // Memory of our own is nobody else's: what was there was given back unsaid.
                let entry = Arc::new(entry);
                let gone = std::mem::replace(&mut known.entries[at], Arc::clone(&entry));
                drop(known);
                drop(gone);
                Ok(entry)
            }
            Ok(at) => {
                let same = Arc::clone(&known.entries[at]);
                same.keeps().adopt(&mut entry.keeps());
                drop(known);
                drop(entry);
                Ok(same)
            }
            Err(at) => {
                if let Err(error) = prepare(&entry) {
                    // What it keeps may be anything of Python's.
                    drop(known);
                    return Err(error);
                }
                known.may_overlap |= known.entries.iter().any(|known| known.overlaps(&entry));
                let entry = Arc::new(entry);
                known.entries.insert(at, Arc::clone(&entry));
                Ok(entry)
            }
        }
    }

    fn remove(&self, entry: &Arc<Entry>) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.entries.retain(|known| !Arc::ptr_eq(known, entry));
        known.may_overlap &= !known.entries.is_empty();
    }

    /// Forgets all of them. What is in flight is waited for, as the calls that have it end soon;
    /// what is still in flight then stays where it is.
    pub(crate) fn clear(&self, py: Python<'_>) {
        let known =
            std::mem::take(&mut *self.known.write().unwrap_or_else(PoisonError::into_inner));
        for entry in known.entries {
            if !entry.release_if_idle() {
                py.detach(|| entry.registered.wait_idle(END_PATIENCE));
                entry.release_if_idle();
            }
        }
    }

    /// Sees to it that each memory a loan uses is not idle until the loan is back.
    ///
    /// # Errors
    /// `InvalidArgument`, naming the first range that is not registered.
    pub(crate) fn guard(&self, loan: &Loan) -> PyResult<Vec<Source>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let entries = &known.entries;
        let mut used: Vec<usize> = Vec::new();
        let mut last: Option<usize> = None;
        for (at, ranges) in loan.places().enumerate() {
            for (piece, &(address, bytes)) in ranges.iter().enumerate() {
                if last.is_some_and(|last| entries[last].registered.contains(address, bytes)) {
                    continue;
                }
                let upper = entries.partition_point(|entry| entry.registered.address() <= address);
                let home =
                    (0..upper).rev().find(|&i| entries[i].registered.contains(address, bytes));
                let Some(home) = home else {
                    return Err(invalid(format_args!(
                        "ptrs[{at}][{piece}]: {bytes} bytes at {address:#x} are not registered"
                    )));
                };
                last = Some(home);
                if !used.contains(&home) {
                    used.push(home);
                }
            }
        }
        if known.may_overlap {
            // The same bytes may be kept by several, and each says when they are free.
            let is_used = |i: &usize| used.iter().any(|&at| entries[at].overlaps(&entries[*i]));
            used = (0..entries.len()).filter(is_used).collect();
        }
        // A source of no bytes counts as one in flight.
        let guards = used.into_iter().map(|at| entries[at].registered.source(&[]));
        guards.collect::<Result<_, _>>().map_err(invalid)
    }
}

impl Memory {
    /// Registers the memory of a Python object, or an address.
    ///
    /// # Errors
    /// `InvalidArgument`.
    pub(crate) fn register(
        connection: &Arc<Connection>,
        memory: &Bound<'_, PyAny>,
        length: Option<usize>,
        keep: Option<Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let objects = keep.map(Bound::unbind).into_iter().collect();
        let mut keeps = Keeps { home: None, objects };
        // Only an int is an address: a tensor of one number would turn into one as willingly.
        let address = memory.cast::<PyInt>().ok().map(|address| address.extract::<usize>());
        let (address, bytes) = match (address.transpose(), length) {
            (Err(_), _) => return Err(invalid("memory: no address")),
            (Ok(Some(address)), Some(length)) => (address, length),
            (Ok(Some(_)), None) => return Err(invalid("length: an address needs one")),
            (Ok(None), length) => {
                let named = |why| invalid(format_args!("memory: {why}"));
                let Found { keep, address, bytes } = find(memory, Access::Write).map_err(named)?;
                keeps.home = Some(keep);
                let length = length.unwrap_or(bytes);
                if length > bytes {
                    return Err(invalid(format_args!("length: {length} of {bytes} bytes")));
                }
                (address, length)
            }
        };
        let registered = register(address, bytes, None).map_err(invalid)?;
        let entry = Entry::new(registered, None, keeps);
        let client = connection.client()?;
        let entry = connection.memories()?.add(entry, |entry| entry.expose(&client))?;
        Ok(Self { connection: Arc::clone(connection), entry })
    }

    /// Registers memory that is shared with nodes on this host.
    ///
    /// # Errors
    /// `Forked`, `Closed`.
    pub(crate) fn shared(connection: &Arc<Connection>, mut memory: SharedMemory) -> PyResult<Self> {
        let (address, bytes) = (memory.as_mut_ptr().expose_provenance(), memory.len());
        let memory = Arc::new(memory);
        let registered = register(address, bytes, Some(Arc::clone(&memory) as _));
        let registered = registered.map_err(invalid)?;
        let entry = Entry::new(registered, Some(memory), Keeps::default());
        // The card of the client knows it already.
        let entry = connection.memories()?.add(entry, |_| Ok(()))?;
        Ok(Self { connection: Arc::clone(connection), entry })
    }
}

#[pymethods]
impl Memory {
    /// Where it begins.
    #[getter]
    fn address(&self) -> usize {
        self.entry.registered.address()
    }

    /// How long it is, in bytes.
    #[getter]
    fn length(&self) -> usize {
        self.entry.registered.len()
    }

    /// Whether a network card of this client reaches it, so that nodes on other hosts can.
    #[getter]
    fn exposed(&self) -> PyResult<bool> {
        self.connection.check_process()?;
        let is_exposed = self.entry.exposed().as_ref().is_some_and(ExposedMemory::is_exposed);
        let is_shared = self.entry.shared.as_ref().is_some_and(|memory| memory.is_exposed());
        Ok(is_exposed || is_shared)
    }

    /// Ends the registration: from now on no call may name it. Waits until no call uses it.
    ///
    /// ``timeout`` is in seconds, ``None`` for as long as it takes. Answers whether nothing uses
    /// the memory any more; if not, ask again before the memory is given up. Again is fine.
    #[pyo3(signature = (timeout = None))]
    fn unregister(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        self.connection.check_process()?;
        let patience = patience(timeout)?;
        self.connection.memories_even_if_closed().remove(&self.entry);
        let registered = &self.entry.registered;
        in_slices(py, patience, |slice| Ok(registered.wait_idle(slice).then_some(())))?;
        Ok(self.entry.release_if_idle())
    }

    /// A writable ``memoryview`` of memory that ``Client.shared_memory`` made. It, and what is made
    /// of it, keeps the memory. Shape: one dimension of bytes.
    fn view<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.connection.check_process()?;
        let Some(shared) = &self.entry.shared else {
            return Err(invalid("only shared memory can be viewed: the rest was there before"));
        };
        let keeper = Keeper::new(Arc::clone(shared) as _);
        memory_view(py, keeper, self.address(), self.length(), Access::Write)
    }

    fn __len__(&self) -> usize {
        self.entry.registered.len()
    }

    const fn __enter__(this: Py<Self>) -> Py<Self> {
        this
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, py: Python<'_>, _exception: Bound<'_, PyAny>) -> PyResult<()> {
        self.unregister(py, None).map(drop)
    }

    fn __repr__(&self) -> String {
        let (address, bytes) = self.entry.span();
        format!("<larder.Memory of {bytes} bytes at {address:#x}>")
    }
}

/// How long who closes a client waits for calls that have its memory. A guess: they end within
/// microseconds, unless they have many megabytes to copy.
const END_PATIENCE: Duration = Duration::from_secs(1);
