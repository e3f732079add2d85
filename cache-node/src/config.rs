//! What a node is told at start: checked values, their defaults and their limits.
//!
//! [`Config::default`] is for a node embedded in another process (one shard, any free ports, no
//! admin listener, no signals); the command line has its own defaults, listed by `--help`. What
//! ends in `_max` bounds one shard, but for `lease_bytes_max`, which bounds one connection;
//! `memory_bytes` is for all shards together.

mod budgets;
mod cards;
mod check;
mod cores;
mod flags;
mod given;
mod meaning;
mod peers;
mod ports;
mod sharing;
mod units;
mod whose;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use larder_protocol::limits::OBJECT_BYTES_MAX;
use larder_protocol::placement::anchor_hash;
use larder_protocol::view::{Member, View};
use larder_transport::HugePages;
pub use larder_transport::Spin;

use crate::store::Policy;
use check::{OBJECTS_MAX_MAX, OBJECTS_MAX_MIN, refused};

pub use budgets::Budget;
pub(crate) use budgets::assigned;
pub use cards::RdmaDevices;
pub use peers::Peer;
pub use ports::free_port_range;
pub use units::format_bytes;
pub use whose::Whose;

/// The configuration of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Address of the first shard; shard *i* listens on the port plus *i*. Port 0 only where a
    /// node is embedded: [`Config::pick_ports`] then finds a free range.
    pub listen: SocketAddr,
    /// Host that clients and peers reach this node by, `None` for the address of `listen`.
    pub advertise: Option<String>,
    /// How many shards, one executor each.
    pub shards: u16,
    /// Bytes of memory for objects, shared evenly by all shards.
    pub memory_bytes: u64,
    /// Address of the admin HTTP listener, `None` for none. Port 0 picks a free one.
    pub admin: Option<SocketAddr>,
    /// Names the node for placement and people, `None` for `host:port` as others reach it.
    pub node_name: Option<String>,
    /// Share of the objects relative to other members.
    pub weight: u32,
    /// Members of the cluster beside this node.
    pub peers: Vec<Peer>,
    /// The cores that shards stay on, in their order; empty where the kernel decides.
    pub cores: Vec<usize>,
    /// Whether memory is asked for in huge pages.
    pub huge_pages: HugePages,
    /// Who is evicted.
    pub policy: Policy,
    /// Namespaces whose hits count by what it would cost to make their objects again.
    pub cost_weighted: Vec<Whose>,
    /// Floors and ceilings of namespaces; a namespace has the first that names it.
    pub budgets: Vec<Budget>,
    /// Most objects of a shard, `None` for one for each 192 bytes of its memory.
    pub objects_max: Option<u64>,
    /// Most connections of a shard.
    pub connections_max: usize,
    /// Most bytes of a shard's slots that puts are filling, `None` for an eighth of its memory.
    pub inflight_bytes_max: Option<u64>,
    /// Most bytes of a shard's slots held for sending, `None` for a quarter of its memory.
    pub reply_bytes_max: Option<u64>,
    /// Path of the Unix socket of the first shard, absolute; shard *i* listens at the path with
    /// `.i` behind it. `None` for no sharing with clients on this host.
    pub uds: Option<PathBuf>,
    /// Users that may connect there; empty for the node's own alone.
    pub uds_allow: Vec<u32>,
    /// Most bytes that a connection may hold under lease, `None` for a quarter of a shard's memory.
    pub lease_bytes_max: Option<u64>,
    /// Most bytes that a tenant may have pinned on a shard, `None` for an eighth of its memory; all
    /// tenants together may have twice that.
    pub pinned_bytes_max: Option<u64>,
    /// Which network cards may reach the memory of clients.
    pub rdma_devices: RdmaDevices,
    /// How long a shard with nothing to do looks for requests before it sleeps.
    pub spin: Spin,
    /// Longest wait for the rest of a header that has begun.
    pub header_timeout: Duration,
    /// Longest time without a byte moved while a body, payload or reply is under way.
    pub progress_timeout: Duration,
    /// Longest wait for a new connection's `Hello`.
    pub hello_timeout: Duration,
    /// Longest time that a draining node works on what it had accepted.
    pub drain_timeout: Duration,
    /// Longest time that a connection may be idle between requests, `None` for ever.
    pub connection_idle_timeout: Option<Duration>,
    /// Which log lines are written, in the syntax of `tracing`'s filters.
    pub log: String,
    /// Allows addresses that other machines reach, although nobody is asked who they are.
    pub insecure_listen_anywhere: bool,
    /// Whether SIGTERM and SIGINT drain the node. Only for a process that is nothing but a node.
    pub signals: bool,
}

/// Why a configuration was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not an error: `--help` or `--version` was given, and this is its text.
    #[error("{0}")]
    Shown(String),
    /// The command line could not be understood.
    #[error("{0}; --help lists the flags")]
    Usage(String),
    /// The configuration file could not be read.
    #[error("--config {path:?}: expected a file that can be read: {source}")]
    FileUnreadable {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The configuration file has an unknown key or is not TOML.
    #[error("--config {path:?} line {line}: {message}")]
    File {
        /// Which file.
        path: PathBuf,
        /// Where in the file, from 1.
        line: usize,
        /// What is wrong there.
        message: String,
    },
    /// A value cannot be used; it may stand on the command line or in the file.
    #[error("--{flag} {given:?}: expected {expected}")]
    Value {
        /// Name of the flag, which is also the key of the file.
        flag: &'static str,
        /// What was given, or what follows from it.
        given: String,
        /// What would be accepted.
        expected: String,
    },
}

impl Config {
    /// Bytes of memory for objects of each shard, whole huge pages.
    pub fn shard_memory_bytes(&self) -> u64 {
        let share = self.memory_bytes / u64::from(self.shards.max(1));
        share - share % HUGE_PAGE_BYTES
    }

    /// Where a shard listens.
    ///
    /// # Panics
    /// If `shard` is not one of this node's; [`Config::check`] keeps all of theirs in range.
    pub fn shard_address(&self, shard: u16) -> SocketAddr {
        assert!(shard < self.shards, "shard {shard} of {}", self.shards);
        SocketAddr::new(self.listen.ip(), self.listen.port() + shard)
    }

    /// Host that clients and peers reach this node by.
    pub fn host(&self) -> String {
        self.advertise.clone().unwrap_or_else(|| self.listen.ip().to_string())
    }

    /// Names the node for placement and people.
    pub fn node_name(&self) -> String {
        let host_and_port = || match self.advertise.as_deref() {
            Some(host) if !host.contains(':') => format!("{host}:{}", self.listen.port()),
            Some(host) => format!("[{host}]:{}", self.listen.port()),
            None => self.listen.to_string(),
        };
        self.node_name.clone().unwrap_or_else(host_and_port)
    }

    /// The node's id for placement, made from its name.
    pub fn node_id(&self) -> u64 {
        anchor_hash(self.node_name().as_bytes())
    }

    /// Most objects of a shard.
    pub fn objects_max(&self) -> u64 {
        let default = self.shard_memory_bytes() / OBJECT_BYTES_EXPECTED;
        self.objects_max.unwrap_or_else(|| default.clamp(OBJECTS_MAX_MIN, OBJECTS_MAX_MAX))
    }

    /// Most bytes of a shard's slots that puts are filling.
    pub fn inflight_bytes_max(&self) -> u64 {
        self.inflight_bytes_max.unwrap_or_else(|| self.share_of_memory(8))
    }

    /// Most bytes of a shard's slots held for sending.
    pub fn reply_bytes_max(&self) -> u64 {
        self.reply_bytes_max.unwrap_or_else(|| self.share_of_memory(4))
    }

    /// Most bytes that a connection may hold under lease.
    pub fn lease_bytes_max(&self) -> u64 {
        self.lease_bytes_max.unwrap_or_else(|| self.share_of_memory(4))
    }

    /// Most bytes that a tenant may have pinned on a shard.
    pub fn pinned_bytes_max(&self) -> u64 {
        self.pinned_bytes_max.unwrap_or_else(|| self.shard_memory_bytes() / 8)
    }

    /// Finds free ports if `listen` has port 0. They are free, not reserved: bind them soon.
    ///
    /// # Errors
    /// As [`free_port_range`].
    pub fn pick_ports(&mut self) -> io::Result<()> {
        if self.listen.port() == 0 {
            self.listen.set_port(free_port_range(self.listen.ip(), self.shards)?);
        }
        Ok(())
    }

    /// The static view: this node, as who it is since its start, and its peers.
    ///
    /// # Errors
    /// [`ConfigError::Value`] if a peer has this node's name or another's, or breaks a limit.
    pub fn view(&self, incarnation: u64) -> Result<View, ConfigError> {
        let this = Peer {
            name: self.node_name(),
            host: self.host(),
            port: self.listen.port(),
            shard_count: self.shards,
            weight: self.weight,
        };
        let this = Member { incarnation, ..this.member() };
        let members = self.peers.iter().map(Peer::member).chain([this]).collect();
        View::new(STATIC_EPOCH, members).map_err(|error| {
            let names: Vec<_> = self.peers.iter().map(|peer| peer.name.as_str()).collect();
            refused("peers", names.join(","), format!("members that make a view ({error})"))
        })
    }

    /// A part of a shard's memory, but enough for one largest object where half of it is.
    fn share_of_memory(&self, divisor: u64) -> u64 {
        let memory = self.shard_memory_bytes();
        (memory / divisor).max(LARGEST_SLOT_BYTES.min(memory / 2))
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0),
            advertise: None,
            shards: 1,
            memory_bytes: 1 << 30,
            admin: None,
            node_name: None,
            weight: peers::WEIGHT_DEFAULT,
            peers: Vec::new(),
            cores: Vec::new(),
            huge_pages: HugePages::Try,
            policy: Policy::HAZARD,
            cost_weighted: Vec::new(),
            budgets: Vec::new(),
            objects_max: None,
            connections_max: 4096,
            inflight_bytes_max: None,
            reply_bytes_max: None,
            uds: None,
            uds_allow: Vec::new(),
            lease_bytes_max: None,
            pinned_bytes_max: None,
            rdma_devices: RdmaDevices::Auto,
            spin: Spin::Auto,
            header_timeout: Duration::from_secs(10),
            progress_timeout: Duration::from_secs(10),
            hello_timeout: Duration::from_secs(5),
            drain_timeout: Duration::from_secs(5),
            connection_idle_timeout: None,
            log: "info".into(),
            insecure_listen_anywhere: false,
            signals: false,
        }
    }
}

/// What an object of 100 bytes takes. Memory of the index grows with the objects there are, up to a
/// third of the objects' own if all are so small.
const OBJECT_BYTES_EXPECTED: u64 = 192;
/// A largest object and, generously, what its record and its size class add.
const LARGEST_SLOT_BYTES: u64 = OBJECT_BYTES_MAX as u64 + (1 << 20);
/// Regions of whole huge pages waste none of them.
const HUGE_PAGE_BYTES: u64 = 2 << 20;
/// A list that never changes while the node lives has one epoch.
const STATIC_EPOCH: u64 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    fn config(change: impl FnOnce(&mut Config)) -> Config {
        let mut config = Config { listen: "127.0.0.1:7400".parse().unwrap(), ..Config::default() };
        change(&mut config);
        config
    }

    #[test]
    fn defaults_are_accepted_and_port_0_becomes_a_range() {
        Config::default().check().unwrap();
        let mut embedded = Config { shards: 3, ..Config::default() };
        embedded.pick_ports().unwrap();
        embedded.check().unwrap();
        assert_eq!(embedded.shard_address(2).port(), embedded.listen.port() + 2);
        assert_eq!(embedded.node_name(), embedded.listen.to_string());
    }

    #[test]
    fn what_is_not_given_follows_from_memory() {
        let roomy = config(|c| c.memory_bytes = 8 << 30);
        assert_eq!((roomy.inflight_bytes_max(), roomy.reply_bytes_max()), (1 << 30, 2 << 30));
        assert_eq!(roomy.objects_max(), (8 << 30) / 192);
        let small = config(|c| c.memory_bytes = 256 << 20);
        assert_eq!(small.inflight_bytes_max(), LARGEST_SLOT_BYTES, "one largest object");
        let least = config(|c| c.memory_bytes = 16 << 20);
        assert_eq!(least.inflight_bytes_max(), 8 << 20, "never more than half");
        least.check().unwrap();
    }

    #[test]
    fn a_view_has_the_node_and_its_peers_under_distinct_names() {
        let peers = |text| peers::parse_peers(text).unwrap();
        let three = config(|c| c.peers = peers("a@h:1/1,b@h:2/1"));
        let view = three.view(9).unwrap();
        assert_eq!(view.members.len(), 3);
        assert_eq!(view.member(three.node_id()).map(|m| m.incarnation), Some(9));
    }
}
