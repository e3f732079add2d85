//! `larder.connect` and `larder.Client`: one for a process, from any thread.
//!
//! Nothing exists before `connect`: to import the package starts nothing.

use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use larder_client::{Client, Config, NamespaceSpec, PathChoice, ShardAnswer, ShardValue, Spin};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyString};

use crate::arguments::{duration, items};
use crate::connection::Connection;
use crate::device_memory::DeviceMemory;
use crate::errors::{invalid, raise};
use crate::memory::Memory;
use crate::store::Store;

/// A connection to a cluster of nodes. Made by ``larder.connect``; usable from any thread.
///
/// It does not survive a fork: in a child every call raises ``larder.Forked``.
#[pyclass(frozen, name = "Client", module = "larder")]
pub(crate) struct PyClient {
    connection: Arc<Connection>,
}

/// Connects to a cluster: learns its members from the first seed that answers.
///
/// Args:
///     seeds: ``"host:port"`` or, on this host, ``"unix:PATH"``; one, or a sequence, tried in
///         order. ``None`` takes the environment variable ``LARDER_NODES``, with commas between, or
///         ``127.0.0.1:7400`` if there is none.
///     path: how objects come and go: ``"auto"`` (shared memory on one host, network cards where
///         both have one, else TCP), ``"tcp"``, ``"shm"``, ``"rdma"`` (network cards for registered
///         memory, TCP for all else).
///     deadline: seconds that a call may take if it does not say so itself.
///     connect_timeout: seconds that one attempt to connect may take.
///     name: what nodes call this client in their logs, up to 64 bytes.
///     credential: proof of who this is, where nodes ask for one.
///     spin: how a thread that waits for an answer waits: ``"auto"``, ``"off"`` (sleeps at once),
///         or how many seconds it looks before it sleeps.
///     rdma_device: name of the network card, ``None`` for the first with an active port. Only in
///         a package that was built with the feature ``rdma``.
///
/// Raises:
///     Unavailable: no seed answered.
///     Denied: the credential is not good.
///     InvalidArgument: an argument makes no sense or is too long.
///     OsError: the system has no thread or descriptor left, or not that network card.
#[pyfunction]
#[pyo3(signature = (
    seeds = None, *, path = "auto", deadline = 0.25, connect_timeout = 1.0,
    name = "larder-python", credential = None, spin = None, rdma_device = None
))]
#[expect(clippy::too_many_arguments, reason = "keywords in Python")]
pub(crate) fn connect(
    py: Python<'_>,
    seeds: Option<Bound<'_, PyAny>>,
    path: &str,
    deadline: f64,
    connect_timeout: f64,
    name: &str,
    credential: Option<Vec<u8>>,
    spin: Option<Bound<'_, PyAny>>,
    rdma_device: Option<String>,
) -> PyResult<PyClient> {
    let config = Config {
        seeds: seeds_of(seeds)?,
        path: path_of(path)?,
        deadline: duration(deadline, "deadline")?,
        connect_timeout: duration(connect_timeout, "connect_timeout")?,
        spin: spin.map_or(Ok(Spin::Auto), |spin| spin_of(&spin))?,
        name: name.into(),
        credential: credential.unwrap_or_default(),
        rdma_device,
        ..Config::default()
    };
    if config.connect_timeout.is_zero() {
        return Err(invalid("connect_timeout: 0 seconds"));
    }
    let client = py.detach(|| Client::connect(config)).map_err(raise)?;
    Ok(PyClient { connection: Arc::new(Connection::new(client)) })
}

impl PyClient {
    pub(crate) const fn of(connection: Arc<Connection>) -> Self {
        Self { connection }
    }
}

#[pymethods]
impl PyClient {
    /// A namespace at its current generation: where keys of one meaning live.
    ///
    /// Two that differ in any field share nothing. Put into them all that tells bytes apart and
    /// that keys do not carry.
    ///
    /// Args:
    ///     tenant: who owns the bytes.
    ///     model: model, encoder or feature view.
    ///     revision: which weights.
    ///     dtype: element type and quantisation.
    ///     layout: order of the bytes in an object, runtime and version of its format.
    ///     rank: parallel rank that the bytes belong to, such as ``"tp0/2"``; empty for all.
    ///     extra: anything else that tells bytes apart.
    ///     part_bytes: bytes of one part (layer, frame) of an object; 0 for one part.
    ///     threads: threads that do the store's jobs; started with the first job.
    ///
    /// Raises:
    ///     Unavailable: no shard could be asked in time.
    ///     Denied: no shard allowed it.
    ///     InvalidArgument: a field is longer than 256 bytes, or ``threads`` is 0.
    ///     Closed, Forked.
    #[pyo3(signature = (
        tenant = "", model = "", revision = "", dtype = "", layout = "", rank = "", extra = "",
        part_bytes = 0, *, threads = 1
    ))]
    #[expect(clippy::too_many_arguments, reason = "keywords in Python")]
    fn namespace(
        &self,
        py: Python<'_>,
        tenant: &str,
        model: &str,
        revision: &str,
        dtype: &str,
        layout: &str,
        rank: &str,
        extra: &str,
        part_bytes: i64,
        threads: i64,
    ) -> PyResult<Store> {
        let client = self.connection.client()?;
        let wrong = |what| move |_| invalid(what);
        let part_bytes = part_bytes.try_into().map_err(wrong("part_bytes: 0 to 64 MiB"))?;
        let threads: NonZeroU16 = u16::try_from(threads)
            .and_then(NonZeroU16::try_from)
            .map_err(wrong("threads: 1 to 65535"))?;
        let spec = NamespaceSpec {
            tenant: tenant.into(),
            model: model.into(),
            revision: revision.into(),
            dtype: dtype.into(),
            layout: layout.into(),
            rank: rank.into(),
            extra: extra.into(),
            part_bytes,
        };
        spec.check().map_err(invalid)?;
        let namespace = py.detach(|| client.namespace(spec)).map_err(raise)?;
        Ok(Store::new(&self.connection, namespace, threads.get()))
    }

    /// Registers memory for the calls that take addresses. The same again is the same memory.
    ///
    /// Args:
    ///     memory: a writable, contiguous buffer, array or CPU tensor; or an address.
    ///     length: bytes from its start; needed for an address.
    ///     keep: an object to be kept for as long as the memory is registered.
    ///
    /// Memory must be readable and writable, or InvalidArgument says where it is not; that an
    /// address stays good until it was unregistered is taken on your word. This looks through what
    /// the process has mapped: register once, not for each call. Raises InvalidArgument, Closed,
    /// Forked.
    #[pyo3(signature = (memory, length = None, *, keep = None))]
    fn register(
        &self,
        memory: &Bound<'_, PyAny>,
        length: Option<usize>,
        keep: Option<Bound<'_, PyAny>>,
    ) -> PyResult<Memory> {
        self.connection.check_process()?;
        Memory::register(&self.connection, memory, length, keep)
    }

    /// Registers memory of a device, for the calls of ``Store`` that end in ``_device``.
    ///
    /// Args:
    ///     memory: a contiguous tensor of a device, as torch has it, or an array with
    ///         ``__cuda_array_interface__``; or an address of a device.
    ///     length: bytes from its start; needed for an address.
    ///     device: which device, as the driver numbers them; what a tensor says, else 0.
    ///     keep: an object to be kept for as long as the memory is registered.
    ///
    /// The first of a device opens it: the driver is loaded, and 128 MiB of the host's memory are
    /// pinned, through which bytes go that the device cannot reach by itself. Raises
    /// InvalidArgument, also in a package that was built without the feature ``cuda``; OsError
    /// where there is no driver, or it refuses; Closed, Forked.
    #[pyo3(signature = (memory, length = None, *, device = None, keep = None))]
    fn register_device(
        &self,
        memory: &Bound<'_, PyAny>,
        length: Option<usize>,
        device: Option<u32>,
        keep: Option<Bound<'_, PyAny>>,
    ) -> PyResult<DeviceMemory> {
        self.connection.check_process()?;
        DeviceMemory::register(&self.connection, memory, length, device, keep)
    }

    /// New memory of ``length`` bytes, zeroed and registered, from which puts to nodes on this host
    /// are made without sending the bytes. Write it through ``memoryview(memory.view())``.
    ///
    /// At most 16 of them at a time, of at most 64 GiB each. Raises InvalidArgument, OsError,
    /// Closed, Forked.
    fn shared_memory(&self, py: Python<'_>, length: u64) -> PyResult<Memory> {
        let client = self.connection.client()?;
        let memory = py.detach(|| client.shared_memory(length)).map_err(raise)?;
        Memory::shared(&self.connection, memory)
    }

    /// The counters of every shard of every node: a list of dicts with ``"peer"`` (an address),
    /// ``"node_id"``, ``"shard"``, ``"error"`` (text or ``None``), and ``"counters"``, which are
    /// numbers by name.
    ///
    /// A shard that could not be asked says so in ``error``. Raises InvalidArgument, Closed,
    /// Forked.
    #[pyo3(signature = (*, timeout = None))]
    fn stats<'py>(&self, py: Python<'py>, timeout: Option<f64>) -> PyResult<Bound<'py, PyList>> {
        let client = self.connection.client()?;
        let timeout = timeout.map(|seconds| duration(seconds, "timeout")).transpose()?;
        let answers = py.detach(|| client.stats(timeout)).map_err(raise)?;
        let each = answers.iter().map(|answer| shard_stats(py, answer));
        PyList::new(py, each.collect::<PyResult<Vec<_>>>()?)
    }

    /// Ends the client and every store made of it, from any thread; again is fine.
    ///
    /// Jobs are cancelled and waited for, and their completions can still be taken. Calls of other
    /// threads end soon, ``CLOSED`` for what has no answer yet; later ones raise Closed. Registered
    /// memory is given back; leases and views stay as they are. Raises Forked.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        self.connection.close(py)
    }

    /// Whether the client was closed.
    #[getter]
    fn closed(&self) -> PyResult<bool> {
        self.connection.is_closed()
    }

    const fn __enter__(this: Py<Self>) -> Py<Self> {
        this
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, py: Python<'_>, _exception: Bound<'_, PyAny>) -> PyResult<()> {
        self.connection.close(py)
    }
}

fn seeds_of(seeds: Option<Bound<'_, PyAny>>) -> PyResult<Vec<String>> {
    let list = match seeds {
        None => match std::env::var("LARDER_NODES") {
            Ok(nodes) => nodes.split(',').map(|node| node.trim().to_owned()).collect(),
            Err(_) => return Ok(Config::default().seeds),
        },
        Some(seed) if seed.is_instance_of::<PyString>() => vec![seed.extract()?],
        Some(seeds) => items(&seeds, "seeds")?
            .iter()
            .map(|seed| seed.extract().map_err(|_| invalid("seeds: text is expected")))
            .collect::<PyResult<Vec<String>>>()?,
    };
    Ok(list.into_iter().filter(|seed| !seed.is_empty()).collect())
}

fn path_of(path: &str) -> PyResult<PathChoice> {
    match path {
        "auto" => Ok(PathChoice::Auto),
        "tcp" => Ok(PathChoice::Tcp),
        "shm" => Ok(PathChoice::Shm),
        "rdma" => Ok(PathChoice::Rdma),
        other => Err(invalid(format_args!("path: auto, tcp, shm or rdma, not {other}"))),
    }
}

fn spin_of(spin: &Bound<'_, PyAny>) -> PyResult<Spin> {
    if let Ok(seconds) = spin.extract::<f64>() {
        return Ok(Spin::For(duration(seconds, "spin")?.min(SPIN_MAX)));
    }
    match spin.extract::<String>().as_deref() {
        Ok("auto") => Ok(Spin::Auto),
        Ok("off") => Ok(Spin::Off),
        _ => Err(invalid(format_args!("spin: auto, off or seconds, not {spin}"))),
    }
}

fn shard_stats<'py>(py: Python<'py>, answer: &ShardAnswer) -> PyResult<Bound<'py, PyDict>> {
    let told = PyDict::new(py);
    told.set_item("peer", &*answer.peer)?;
    told.set_item("node_id", answer.node_id)?;
    told.set_item("shard", answer.shard)?;
    told.set_item("error", answer.answer.as_ref().err().map(ToString::to_string))?;
    let counters = PyDict::new(py);
    if let Ok(ShardValue::Stats(stats)) = &answer.answer {
        for (stat, value) in stats {
            counters.set_item(stat.name(), value)?;
        }
    }
    told.set_item("counters", counters)?;
    Ok(told)
}

/// Nobody looks for longer than a second.
const SPIN_MAX: Duration = Duration::from_secs(1);
