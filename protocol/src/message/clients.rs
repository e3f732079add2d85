//! The reply to `Clients`: who is connected to the shard, and which way.

use super::{Batch, Item};
use crate::limits::CLIENT_NAME_BYTES_MAX;
use crate::wire::{DecodeError, Reader, Write};

/// Which way a client's objects come and go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
#[non_exhaustive]
pub enum ClientPath {
    /// Through the connection.
    Tcp = 0,
    /// Through shared memory.
    Shm = 1,
    /// Through network cards.
    Rdma = 2,
}

/// A client that is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientReport<'a> {
    /// The name that it gave itself.
    pub name: &'a [u8],
    /// Which way its objects come and go now.
    pub path: ClientPath,
    /// For how long it has been connected, in milliseconds.
    pub connected_ms: u64,
}

impl ClientPath {
    /// Its name for people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Shm => "shm",
            Self::Rdma => "rdma",
        }
    }
}

crate::status::from_byte!(ClientPath, "client path", Tcp, Shm, Rdma);

impl<'a> Item<'a> for ClientReport<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Ok(Self {
            name: reader.bytes_u8(CLIENT_NAME_BYTES_MAX, "client name")?,
            path: ClientPath::try_from(reader.u8("client path")?)?,
            connected_ms: reader.u64("connected time")?,
        })
    }
}

impl<'a> ClientReport<'a> {
    /// Appends the whole reply: the first [`CLIENTS_MAX`] of them.
    pub fn encode_all(clients: impl ExactSizeIterator<Item = Self>, out: &mut Vec<u8>) {
        out.u32(clients.len().min(CLIENTS_MAX) as u32);
        for client in clients.take(CLIENTS_MAX) {
            out.bytes_u8(client.name);
            out.u8(client.path as u8);
            out.u64(client.connected_ms);
        }
    }

    /// Reads the reply.
    ///
    /// # Errors
    /// [`DecodeError`] if it is cut short or too long, or a field is.
    pub fn decode_all(body: &'a [u8]) -> Result<Batch<'a, Self>, DecodeError> {
        let mut reader = Reader::new(body);
        let count = reader.count(CLIENTS_MAX, "clients")?;
        let clients = Batch::read(&mut reader, count)?;
        reader.end()?;
        Ok(clients)
    }
}

/// Most clients of one reply.
pub const CLIENTS_MAX: usize = 16 << 10;

const _: () = assert!(
    CLIENTS_MAX * (1 + CLIENT_NAME_BYTES_MAX + 9) + 4 <= crate::limits::BODY_BYTES_MAX as usize
);
