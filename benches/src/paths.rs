//! What is asked of Larder's same-host path: which way a client goes, leases, shared memory.
//!
//! The one place that names this part of the client and of the node, so that a change of theirs is
//! a change here. What a reader would get wrong: [`IS_SHARED`] is false, the client has only TCP so
//! far; what follows then is never measured, and says so.

use std::ops::{Deref, DerefMut};
use std::path::Path;

use larder_client::{Client, Config, Error, GetOptions, Key, KeyResult, Namespace, Object};
use serde::{Deserialize, Serialize};

/// Whether client and node have a same-host path.
pub const IS_SHARED: bool = false;

/// Which way a client goes to a node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PathChoice {
    /// The fastest there is.
    #[default]
    Auto,
    /// TCP, also to a node on this host.
    Tcp,
    /// Memory shared with a node on this host, or an error.
    Shm,
}

/// An object where the node keeps it, readable until this is dropped.
#[derive(Debug)]
pub struct Lease(Object);

/// Memory whose bytes a put names to the node instead of sending them.
#[derive(Debug)]
pub struct SharedMemory(Vec<u8>);

/// Connects the given way.
///
/// # Errors
/// Those of [`Client::connect`].
pub fn connect(config: Config, path: PathChoice) -> Result<Client, Error> {
    Client::connect(Config { path: path.into(), ..config })
}

/// Reads objects where they lie.
///
/// # Errors
/// Those of [`Client::get`].
pub fn lease(
    client: &Client,
    namespace: &Namespace,
    keys: &[Key],
    options: &GetOptions,
) -> Result<Vec<KeyResult<Lease>>, Error> {
    let objects = client.get(namespace, keys, options)?;
    Ok(objects.into_iter().map(|object| object.map(Lease)).collect())
}

/// Makes memory that the node reads too, filled with zeros.
///
/// # Errors
/// If the node does not take it.
pub fn shared_memory(_client: &Client, bytes: usize) -> Result<SharedMemory, Error> {
    Ok(SharedMemory(vec![0; bytes]))
}

/// Lets an embedded node listen on a Unix socket too.
pub const fn listen(
    config: larder_node::config::Config,
    _socket: &Path,
) -> larder_node::config::Config {
    config
}

/// What a node process is told, to listen on a Unix socket too.
pub fn listen_arguments(socket: &Path) -> Vec<String> {
    if IS_SHARED { vec!["--uds".into(), socket.display().to_string()] } else { Vec::new() }
}

impl From<PathChoice> for larder_client::PathChoice {
    fn from(choice: PathChoice) -> Self {
        match choice {
            PathChoice::Auto => Self::Auto,
            PathChoice::Tcp => Self::Tcp,
            PathChoice::Shm => Self::Shm,
        }
    }
}

impl Deref for Lease {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0.bytes
    }
}

impl Deref for SharedMemory {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for SharedMemory {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}
