//! Which way a client goes, as the command line says it.

use larder_client::{Client, Config, Error};
use serde::{Deserialize, Serialize};

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
    /// Network cards for bytes, TCP for the rest, or an error.
    Rdma,
}

/// Connects the given way.
///
/// # Errors
/// Those of [`Client::connect`].
pub fn connect(config: Config, path: PathChoice) -> Result<Client, Error> {
    Client::connect(Config { path: path.into(), ..config })
}

impl From<PathChoice> for larder_client::PathChoice {
    fn from(choice: PathChoice) -> Self {
        match choice {
            PathChoice::Auto => Self::Auto,
            PathChoice::Tcp => Self::Tcp,
            PathChoice::Shm => Self::Shm,
            PathChoice::Rdma => Self::Rdma,
        }
    }
}
