//! A node: one executor a shard, each on a thread of its own, and the control thread beside them.
//!
//! The runtime's preempt timer is put out of reach on purpose: when it fires between two steps of
//! its loop, the executor sleeps with work to do. Nothing on the request path is woken from another
//! thread; stopping is a flag that each core reads at its tick.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use glommio::net::TcpListener;
use glommio::{ExecutorJoinHandle, LocalExecutorBuilder, Placement, PoolPlacement};
use larder_transport::process::{self, memory_available_bytes};
use larder_transport::rdma::{AnyFabric, FabricError};
use larder_transport::{Arena, Region, RegionError, RegionReport};

use crate::cards::{Cards, OpenCard};
use crate::config::{Config, ConfigError, format_bytes};
use crate::control::{Control, ControlHandle};
use crate::core::{Core, Limits};
use crate::counters::NodeState;
use crate::exclusive::Claim;
use crate::shard::{Card, Identity, Seen, Shard};
use crate::uds::{Entry, Sockets, UdsDoor};
use crate::{shm, tcp};

/// A running node. Dropping it stops it without draining.
#[derive(Debug)]
pub struct Node {
    state: Arc<NodeState>,
    shards: Vec<ExecutorJoinHandle<()>>,
    control: Option<ControlHandle>,
    ready_line: String,
    door: Option<UdsDoor>,
    _claims: Vec<Claim>,
}

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// Somebody else has an address that this node needs.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address of the shard.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The Unix sockets for clients on this host could not be had.
    #[error("cannot listen on {path:?}: {source}")]
    Uds {
        /// The path of the first one.
        path: PathBuf,
        /// Who is in the way, or what the system said.
        source: io::Error,
    },
    /// The memory for objects could not be had.
    #[error("cannot take the memory of shard {shard}: {source}")]
    Memory {
        /// Which shard.
        shard: u16,
        /// What failed, and how much was asked for.
        source: RegionError,
    },
    /// A network card that was asked for cannot be used.
    #[error("cannot use the network card {device}: {source}")]
    Card {
        /// Its name.
        device: String,
        /// What was asked of it, and what it said.
        source: FabricError,
    },
    /// A shard cannot watch its connections.
    #[error("shard {shard} cannot watch connections: {source}")]
    Connections {
        /// Which shard.
        shard: u16,
        /// What the system said.
        source: io::Error,
    },
    /// An executor could not be made.
    #[error("cannot start the executor of shard {shard}: {reason}")]
    Executor {
        /// Which shard.
        shard: u16,
        /// What the runtime said.
        reason: String,
    },
    /// The configuration does not make a view.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The control thread could not start.
    #[error("cannot start the control thread: {0}")]
    Control(io::Error),
}

impl Node {
    /// Starts a node and waits until every shard serves.
    ///
    /// A `listen` port of 0 takes as many consecutive free ports as there are shards.
    ///
    /// # Errors
    /// [`StartError`]; nothing of the node is left running then.
    pub fn start(config: Config) -> Result<Self, StartError> {
        let cards = Cards::open(&config)?;
        Self::start_with(config, &cards)
    }

    /// As [`Node::start`], over this fabric, or none, whatever the configuration says of cards.
    ///
    /// # Errors
    /// As [`Node::start`].
    pub fn start_over(config: Config, fabric: Option<AnyFabric>) -> Result<Self, StartError> {
        Self::start_with(config, &Cards::of(fabric))
    }

    fn start_with(mut config: Config, cards: &Cards) -> Result<Self, StartError> {
        let listen = config.listen;
        config.pick_ports().map_err(|source| StartError::Listen { address: listen, source })?;
        check_memory(config.memory_bytes)?;
        let state = NodeState::new(&config);
        let claims = state.addresses.iter().map(|&address| {
            Claim::take(address).map_err(|source| StartError::Listen { address, source })
        });
        let mut node = Self {
            _claims: claims.collect::<Result<_, _>>()?,
            state: Arc::clone(&state),
            shards: Vec::new(),
            control: None,
            ready_line: String::new(),
            door: None,
        };
        let uds_error =
            |source| StartError::Uds { path: config.uds.clone().unwrap_or_default(), source };
        let (sockets, entries) = Sockets::bind(&config).map_err(uds_error)?.unzip();
        let mut entries = entries.unwrap_or_default().into_iter();
        let (report, reports) = mpsc::channel();
        for (index, card) in (0..config.shards).zip(cards.of_shards(&config)) {
            let (config, state) = (config.clone(), Arc::clone(&state));
            let start = ShardStart { index, config, state, card };
            node.shards.push(start.spawn(entries.next(), report.clone())?);
        }
        drop(report);
        let shards = (0..config.shards).map(|shard| {
            // A thread that ends without a word counts as its executor's failure.
            reports.recv().unwrap_or_else(|_| {
                let reason = "its thread ended while starting".to_owned();
                Err(StartError::Executor { shard, reason })
            })
        });
        let shards: Vec<_> = shards.collect::<Result<_, _>>()?;
        node.control =
            Some(Control::spawn(&config, Arc::clone(&state)).map_err(StartError::Control)?);
        let door = sockets.map(|sockets| sockets.open(Arc::clone(&state))).transpose();
        node.door = door.map_err(uds_error)?;
        node.ready_line = ready_line(&config, &state, &shards);
        state.set_ready();
        Ok(node)
    }

    /// One line that says what serves where.
    pub fn ready_line(&self) -> &str {
        &self.ready_line
    }

    /// Where shard 0 listens; shard *i* is *i* ports above.
    pub fn address(&self) -> SocketAddr {
        self.state.addresses[0]
    }

    /// What the node's threads share: counters and flags.
    pub fn state(&self) -> &Arc<NodeState> {
        &self.state
    }

    /// Begins to drain: no new connections, work in flight is finished.
    pub fn drain(&self) {
        self.state.drain();
    }

    /// Waits until every shard has ended, which it does after [`Node::drain`] or a signal.
    ///
    /// # Errors
    /// If an executor failed.
    pub fn wait(mut self) -> io::Result<()> {
        for shard in self.shards.drain(..) {
            shard.join().map_err(|error| io::Error::other(error.to_string()))?;
        }
        Ok(())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.state.stop_now();
        for shard in self.shards.drain(..) {
            if let Err(error) = shard.join() {
                tracing::error!(%error, "an executor failed");
            }
        }
    }
}

/// What a shard's thread needs to start.
struct ShardStart {
    index: u16,
    config: Config,
    state: Arc<NodeState>,
    card: Option<OpenCard>,
}

/// What a shard that serves says of itself.
struct ShardReport {
    memory: RegionReport,
    /// The card that it uses.
    card: Option<String>,
}

type Report = mpsc::Sender<Result<ShardReport, StartError>>;

impl ShardStart {
    fn spawn(
        self,
        entry: Option<Entry>,
        report: Report,
    ) -> Result<ExecutorJoinHandle<()>, StartError> {
        let shard = self.index;
        let placement = match self.config.cores.get(usize::from(shard)) {
            Some(&core) => Placement::Fixed(core),
            None => Placement::Unbound,
        };
        let depth = (2 * self.config.connections_max).next_power_of_two();
        LocalExecutorBuilder::new(placement)
            .name(&format!("shard-{shard}"))
            .preempt_timer(PREEMPT_NEVER)
            .ring_depth(depth.clamp(RING_DEPTH_MIN, RING_DEPTH_MAX))
            .io_memory(IO_MEMORY_BYTES)
            // Not on the shard's own core; one for pairs, which take long, one for all else.
            .blocking_thread_pool_placement(PoolPlacement::Unbound(2))
            .spawn(move || self.run(entry, report))
            .map_err(|error| StartError::Executor { shard, reason: error.to_string() })
    }

    async fn run(self, entry: Option<Entry>, report: Report) {
        self.state.shards[usize::from(self.index)].set_thread(process::thread_id());
        let (core, listener) = match self.prepare() {
            Ok((core, listener, own)) => {
                // The starter may have given up because of another shard.
                if report.send(Ok(own)).is_err() {
                    return;
                }
                (core, listener)
            }
            Err(error) => {
                if report.send(Err(error)).is_err() {
                    tracing::debug!("another shard has failed already");
                }
                return;
            }
        };
        drop(report);
        glommio::spawn_local(tcp::accept(listener, Rc::clone(&core))).detach();
        if let Some(entry) = entry {
            glommio::spawn_local(shm::welcome(entry, Rc::clone(&core))).detach();
        }
        self.tick_until_stopped(&core).await;
    }

    fn prepare(&self) -> Result<(Rc<Core>, TcpListener, ShardReport), StartError> {
        let shard = self.index;
        let bytes = self.config.shard_memory_bytes();
        // Made on the shard's own thread, so that its memory is near its core.
        let region = Region::memfd(&format!("larder-{shard}"), bytes, self.config.huge_pages)
            .map_err(|source| StartError::Memory { shard, source })?;
        let (memory, region) = (region.report(), Arc::new(region));
        let card = self.card(&region)?;
        let identity = Identity::new(&self.config, &self.state, shard)?;
        let mut shard = Shard::new(Arena::new(region), identity, &self.config);
        let name = card.map(|(card, name)| {
            shard.use_card(card);
            name
        });
        let (spin, started) = (self.config.spin, self.state.started);
        let core = Core::new(shard, limits(&self.config), spin, started)
            .map_err(|source| StartError::Connections { shard: self.index, source })?;
        let address = self.address();
        let listener = TcpListener::bind(address).map_err(|error| StartError::Listen {
            address,
            source: io::Error::other(error.to_string()),
        })?;
        Ok((Rc::new(core), listener, ShardReport { memory, card: name }))
    }

    /// The shard's card and its name, once the card knows the shard's memory.
    fn card(&self, region: &Arc<Region>) -> Result<Option<(Card, String)>, StartError> {
        let Some(OpenCard { fabric, is_wanted }) = &self.card else { return Ok(None) };
        let device = fabric.device().to_owned();
        match Card::new(fabric.clone(), region) {
            Ok(card) => Ok(Some((card, device))),
            Err(source) if *is_wanted => Err(StartError::Card { device, source }),
            Err(error) => {
                tracing::warn!(%error, device, "a network card is left out");
                Ok(None)
            }
        }
    }

    async fn tick_until_stopped(&self, core: &Rc<Core>) {
        let mut drained_by = None;
        loop {
            glommio::timer::sleep(TICK).await;
            self.tick(core);
            if self.state.is_stopping_now() {
                core.stop();
                wake_accept(self.address());
                self.end_connections(core).await;
                break;
            }
            if !self.state.is_draining() {
                continue;
            }
            let now_ms = core.now_ms();
            let by = *drained_by.get_or_insert_with(|| {
                core.stop();
                core.shard(Shard::drain);
                wake_accept(self.address());
                now_ms + self.config.drain_timeout.as_millis() as u64
            });
            core.stalls.idle(tcp::cut);
            if core.stalls.len() == 0 || now_ms >= by {
                tracing::info!(shard = self.index, left = core.stalls.len(), "drained");
                self.end_connections(core).await;
                break;
            }
        }
        self.state.shards[usize::from(self.index)].retire();
    }

    /// Ends what is open: the runtime would leave the sockets of dropped tasks to the process.
    async fn end_connections(&self, core: &Core) {
        for _ in 0..ENDING_STEPS {
            core.stalls.all(tcp::cut);
            // The watchdog still looks at this shard.
            self.tick(core);
            if core.stalls.len() == 0 {
                return;
            }
            glommio::timer::sleep(ENDING_STEP).await;
        }
        tracing::warn!(shard = self.index, left = core.stalls.len(), "connections do not end");
    }

    fn tick(&self, core: &Core) {
        let mut timed_out = 0;
        core.stalls.sweep(core.now_ms(), |connection| {
            timed_out += 1;
            tcp::cut(connection);
        });
        core.stalls.bury();
        let seen = Seen { connections: core.stalls.len() as u64, timed_out };
        core.shard(|shard| shard.tick(seen, &self.state));
    }

    fn address(&self) -> SocketAddr {
        self.state.addresses[usize::from(self.index)]
    }
}

/// Shards take their memory side by side: each alone would find room for itself.
fn check_memory(wanted_bytes: u64) -> Result<(), StartError> {
    let available_bytes = memory_available_bytes().unwrap_or(u64::MAX);
    if wanted_bytes > available_bytes {
        let source = RegionError::NoMemory { wanted_bytes, available_bytes };
        return Err(StartError::Memory { shard: 0, source });
    }
    Ok(())
}

fn limits(config: &Config) -> Limits {
    Limits {
        connections_max: config.connections_max,
        hello_timeout_ms: config.hello_timeout.as_millis() as u64,
        header_timeout_ms: config.header_timeout.as_millis() as u64,
        progress_timeout_ms: config.progress_timeout.as_millis() as u64,
        idle_timeout_ms: config.connection_idle_timeout.map(|idle| idle.as_millis() as u64),
    }
}

/// The accept task waits in the kernel and must not be cancelled: a connection makes it look up.
fn wake_accept(address: SocketAddr) {
    let mut to = address;
    if to.ip().is_unspecified() {
        to.set_ip(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    if let Err(error) = TcpStream::connect_timeout(&to, Duration::from_millis(100)) {
        tracing::debug!(%error, "the accept task was not woken");
    }
}

fn ready_line(config: &Config, state: &NodeState, shards: &[ShardReport]) -> String {
    let admin = state.admin.get().map_or_else(|| "off".to_owned(), SocketAddr::to_string);
    let uds = config.uds.as_ref().map_or_else(|| "off".into(), |path| path.display().to_string());
    let huge = if shards.iter().all(|s| s.memory.huge_pages) { "yes" } else { "no" };
    let slowest_ms = shards.iter().map(|s| s.memory.prefault_ms).max().unwrap_or(0);
    let mut cards: Vec<_> = shards.iter().filter_map(|s| s.card.as_deref()).collect();
    cards.sort_unstable();
    cards.dedup();
    let rdma = if cards.is_empty() { "off".to_owned() } else { cards.join(",") };
    format!(
        "ready node={} listen={} shards={} memory={} admin={admin} huge_pages={huge} \
         prefault_ms={slowest_ms} uds={uds} rdma={rdma}",
        state.name,
        config.listen,
        config.shards,
        format_bytes(config.memory_bytes),
    )
}

/// A year: see the head of this file.
const PREEMPT_NEVER: Duration = Duration::from_secs(365 * 24 * 3600);
const TICK: Duration = Duration::from_millis(100);
const ENDING_STEP: Duration = Duration::from_millis(2);
const ENDING_STEPS: u32 = 250;
/// Sockets need none of the runtime's registered memory, and 10 MiB do not fit common limits.
const IO_MEMORY_BYTES: usize = 64 << 10;
const RING_DEPTH_MIN: usize = 256;
const RING_DEPTH_MAX: usize = 16 << 10;
