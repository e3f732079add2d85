//! Who is connected to a shard, and which way their objects come and go.
//!
//! What a reader would get wrong: the names are what clients call themselves, nothing more, and
//! many may have the same.

use std::time::Duration;

use larder_protocol::DecodeError;
use larder_protocol::message::{ClientPath, ClientReport};

/// A client that is connected to a shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientInfo {
    /// The name that it gave itself, with what is no text replaced.
    pub name: String,
    /// Which way its objects come and go now.
    pub path: ClientPath,
    /// For how long it has been connected.
    pub connected: Duration,
}

impl ClientInfo {
    /// Reads what a shard answered.
    pub(crate) fn decode_all(body: &[u8]) -> Result<Vec<Self>, DecodeError> {
        let clients = ClientReport::decode_all(body)?;
        let info = |client: ClientReport<'_>| Self {
            name: String::from_utf8_lossy(client.name).into_owned(),
            path: client.path,
            connected: Duration::from_millis(client.connected_ms),
        };
        Ok(clients.iter().map(info).collect())
    }
}
