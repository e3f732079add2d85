//! Who takes part in a comparison of objects of one size: servers, each with the same objects.
//!
//! Servers are started anew for each size, so nobody carries an older size's memory about. All run
//! all the time, but only one has work at any moment.

use std::io;
use std::path::PathBuf;

use larder_client::{Client, Config};
use larder_transport::process;
use serde::Serialize;
use tempfile::TempDir;

use super::larder::namespace_spec;
use super::order::{Copying, LinkSpec};
use crate::load::{LoadError, Objects, prefill};
use crate::names::short_key_of;
use crate::node_process::{NodeError, NodeProcess, NodeShape};
use crate::paths::PathChoice;
use crate::small::{Rival, RivalError, RivalProcess, RivalShape};
use crate::units::format_bytes;

/// What the servers are given.
#[derive(Debug, Clone)]
pub struct FieldShape {
    /// The node's program, `None` for the one beside this.
    pub node_program: Option<PathBuf>,
    /// Shards of the node.
    pub shards: u16,
    /// Cores that servers may count on.
    pub cores: usize,
    /// Most memory of each server, in bytes.
    pub memory_bytes: u64,
    /// Size of every object in bytes.
    pub object_bytes: u32,
    /// How many objects each has.
    pub keys: u64,
}

/// Whose an entrant is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Nobody's: what memory itself does.
    Copy,
    /// Somebody else's.
    Rival,
    /// Ours.
    Larder,
}

/// One way to one server.
#[derive(Debug, Clone, Serialize)]
pub struct Entrant {
    /// Server and way.
    pub name: &'static str,
    /// Whose it is.
    pub kind: Kind,
    /// Whether it takes part in puts.
    pub puts: bool,
    /// What the server's program says of itself.
    pub version: String,
    /// What it was started with.
    pub arguments: String,
    /// How a worker gets there.
    #[serde(skip)]
    pub link: LinkSpec,
    /// The server's process, if there is one.
    #[serde(skip)]
    pub pid: Option<u32>,
}

/// Servers with objects in them. Dropping it ends them.
#[derive(Debug)]
pub struct Field {
    entrants: Vec<Entrant>,
    rivals: Vec<RivalProcess>,
    node: Option<NodeProcess>,
    folder: TempDir,
}

/// Why there is no field.
#[derive(Debug, thiserror::Error)]
pub enum FieldError {
    /// A program is not installed.
    #[error(
        "needs redis-server and memcached, and {0} is not on the PATH: apt-get install \
         redis-server memcached, or run benches/compare/run.sh, which does"
    )]
    Missing(&'static str),
    /// A rival does not start, or does not store.
    #[error(transparent)]
    Rival(#[from] RivalError),
    /// The node does not start.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The node does not store.
    #[error("the node: {0}")]
    Prefill(#[from] LoadError),
    /// The node does not answer.
    #[error("the node: {0}")]
    Client(#[from] larder_client::Error),
    /// There is no folder for sockets.
    #[error("a folder for sockets: {0}")]
    Folder(#[from] io::Error),
}

impl Field {
    /// Starts all servers and stores the same objects in each.
    ///
    /// # Errors
    /// [`FieldError`].
    pub fn start(shape: &FieldShape) -> Result<Self, FieldError> {
        let folder = TempDir::new()?;
        let mut field = Self { entrants: Vec::new(), rivals: Vec::new(), node: None, folder };
        let objects = Objects::new(shape.object_bytes, shape.keys, 1, short_key_of);
        field.enter_copies();
        for (rival, names) in RIVALS {
            let unix = field.folder.path().join(rival.program());
            for (name, unix) in names.into_iter().zip([None, Some(unix)]) {
                field.enter_rival(rival, name, unix, shape, &objects)?;
            }
        }
        field.enter_larder(shape, &objects)?;
        Ok(field)
    }

    /// Who takes part; the order is kept.
    pub fn entrants(&self) -> &[Entrant] {
        &self.entrants
    }

    fn enter_copies(&mut self) {
        for (name, copying) in COPIES {
            let (version, arguments) = (String::new(), String::new());
            let (kind, puts, pid) = (Kind::Copy, true, None);
            let link = LinkSpec::Copy(copying);
            self.entrants.push(Entrant { name, kind, puts, version, arguments, link, pid });
        }
    }

    fn enter_rival(
        &mut self,
        rival: Rival,
        name: &'static str,
        unix: Option<PathBuf>,
        shape: &FieldShape,
        objects: &Objects,
    ) -> Result<(), FieldError> {
        let program = rival.find().ok_or_else(|| FieldError::Missing(rival.program()))?;
        let threads = match rival {
            Rival::Redis | Rival::Valkey => redis_threads(shape.cores),
            Rival::Memcached => shape.cores.clamp(1, MEMCACHED_THREADS_MAX),
        };
        let memory_bytes = shape.memory_bytes;
        let rival_shape = RivalShape { threads, inflight: 1, memory_bytes, unix };
        let process = RivalProcess::start(rival, &program, &rival_shape)?;
        let text = rival.texts()[0].1;
        let stored = process.store_all(text, objects);
        let endpoint = process.endpoint().clone();
        self.entrants.push(Entrant {
            name,
            kind: Kind::Rival,
            puts: true,
            version: Rival::version(&program),
            arguments: process.arguments().join(" "),
            link: LinkSpec::Rival { text, endpoint },
            pid: Some(process.pid()),
        });
        self.rivals.push(process);
        Ok(stored?)
    }

    fn enter_larder(&mut self, shape: &FieldShape, objects: &Objects) -> Result<(), FieldError> {
        let (shards, memory_bytes) = (shape.shards, shape.memory_bytes);
        let unix = Some(self.folder.path().join("larder"));
        let node_shape = NodeShape { shards, memory_bytes, is_pinned: false, unix };
        let node = NodeProcess::start(shape.node_program.as_deref(), &node_shape)?;
        let (address, pid) = (node.address().to_string(), Some(node.pid()));
        self.node = Some(node);
        let client = Client::connect(Config::seed(&address))?;
        let namespace = client.namespace(namespace_spec(shape.object_bytes))?;
        prefill(&client, &namespace, objects, None)?;
        let arguments =
            format!("--shards {shards} --memory {} --pin-cores off", format_bytes(memory_bytes));
        for (name, path, is_leased) in LARDER_WAYS {
            self.entrants.push(Entrant {
                name,
                kind: Kind::Larder,
                puts: !is_leased,
                version: format!("larder-node {}", env!("CARGO_PKG_VERSION")),
                arguments: arguments.clone(),
                link: LinkSpec::Larder { node: address.clone(), path, is_leased },
                pid,
            });
        }
        Ok(())
    }
}

/// What every server may use: so much that nobody evicts, and a fifth of what is free.
pub fn memory_bytes() -> u64 {
    let free = process::memory_available_bytes().unwrap_or(u64::MAX);
    let whole_mebibytes = free / 5 / MEBIBYTE * MEBIBYTE;
    whole_mebibytes.min(MEMORY_BYTES_MAX)
}

/// As its own documentation advises: more than the main thread's only from four cores on.
const fn redis_threads(cores: usize) -> usize {
    match cores {
        0..4 => 1,
        4..8 => 3,
        _ => 6,
    }
}

const COPIES: [(&str, Copying); 3] = [
    ("memcpy", Copying::Plain),
    ("streamed copy", Copying::Streamed),
    ("checked copy", Copying::Checked),
];
const RIVALS: [(Rival, [&str; 2]); 2] = [
    (Rival::Redis, ["redis tcp", "redis unix"]),
    (Rival::Memcached, ["memcached tcp", "memcached unix"]),
];
const LARDER_WAYS: [(&str, PathChoice, bool); 3] = [
    ("larder tcp", PathChoice::Tcp, false),
    ("larder shm copy", PathChoice::Shm, false),
    ("larder shm lease", PathChoice::Shm, true),
];
/// Its default number of threads.
const MEMCACHED_THREADS_MAX: usize = 4;
const MEBIBYTE: u64 = 1 << 20;
const MEMORY_BYTES_MAX: u64 = 3 << 30;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redis_gets_io_threads_where_there_are_cores_for_them() {
        assert_eq!([1, 2, 3, 4, 8, 64].map(redis_threads), [1, 1, 1, 3, 6, 6]);
    }

    #[test]
    fn memory_is_bounded_and_whole_mebibytes() {
        let bytes = memory_bytes();
        assert!(bytes <= MEMORY_BYTES_MAX && bytes.is_multiple_of(1 << 20), "{bytes}");
    }
}
