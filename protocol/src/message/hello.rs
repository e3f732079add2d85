//! `Hello`: the first frame of a connection says who, which version, which shard.
//!
//! Nothing else is read before it, and it is read with small limits: the peer may be anybody.

use std::path::PathBuf;

use crate::limits::{CLIENT_NAME_BYTES_MAX, CREDENTIAL_BYTES_MAX, SOCKET_PATH_BYTES_MAX};
use crate::wire::{DecodeError, Reader, Write};

/// Bit of `capabilities`: both are on one host and share memory.
pub const CAPABILITY_SHARED: u64 = 1;

/// What a client says first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hello<'a> {
    /// Oldest protocol version it speaks.
    pub version_min: u8,
    /// Newest protocol version it speaks.
    pub version_max: u8,
    /// The shard it means to reach.
    pub shard: u16,
    /// How many shards it thinks the node has; 0 if it does not know yet.
    pub shard_count: u16,
    /// Bits of what it can do beyond the base protocol.
    pub capabilities: u64,
    /// Its name for logs and counters.
    pub name: &'a [u8],
    /// Proof of who it is; empty where the node asks for none.
    pub credential: &'a [u8],
}

impl<'a> Hello<'a> {
    /// Appends the body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.u8(self.version_min);
        out.u8(self.version_max);
        out.u16(self.shard);
        out.u16(self.shard_count);
        out.u64(self.capabilities);
        out.bytes_u8(self.name);
        out.bytes_u16(self.credential);
    }

    /// Reads the body; fields that a newer client appends are ignored.
    ///
    /// # Errors
    /// [`DecodeError`] if it is cut short, or a field is too long.
    pub fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        Ok(Self {
            version_min: reader.u8("oldest version")?,
            version_max: reader.u8("newest version")?,
            shard: reader.u16("shard")?,
            shard_count: reader.u16("shard count")?,
            capabilities: reader.u64("capabilities")?,
            name: reader.bytes_u8(CLIENT_NAME_BYTES_MAX, "client name")?,
            credential: reader.bytes_u16(CREDENTIAL_BYTES_MAX, "credential")?,
        })
    }
}

/// What the node answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HelloReply {
    /// The version both will use.
    pub version: u8,
    /// What both can do beyond the base protocol.
    pub capabilities: u64,
    /// The node's id, as in views.
    pub node_id: u64,
    /// Random at each start of the node: another one means that all it held is gone.
    pub incarnation: u64,
    /// The shard that answers.
    pub shard: u16,
    /// How many shards the node has.
    pub shard_count: u16,
    /// Largest object that this shard can hold, in bytes.
    pub object_bytes_max: u32,
    /// Where clients on its host reach it; shard 0 there, the others at this and `.` and their
    /// number.
    pub uds: SocketPath,
}

/// Path of a Unix socket, as short as the kernel wants it; empty if there is none.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SocketPath {
    length: u8,
    bytes: [u8; SOCKET_PATH_BYTES_MAX],
}

impl SocketPath {
    /// No socket.
    pub const NONE: Self = Self { length: 0, bytes: [0; SOCKET_PATH_BYTES_MAX] };

    /// This path; `None` if it is too long or holds a zero byte.
    pub fn new(path: &[u8]) -> Option<Self> {
        if path.len() > SOCKET_PATH_BYTES_MAX || path.contains(&0) {
            return None;
        }
        let mut bytes = [0; SOCKET_PATH_BYTES_MAX];
        bytes[..path.len()].copy_from_slice(path);
        Some(Self { length: path.len() as u8, bytes })
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }

    /// Whether there is no socket.
    pub const fn is_none(&self) -> bool {
        self.length == 0
    }

    /// Where `shard` listens if shard 0 listens at `first`.
    pub fn of_shard(mut first: PathBuf, shard: u16) -> PathBuf {
        if shard > 0 {
            first.as_mut_os_string().push(format!(".{shard}"));
        }
        first
    }
}

impl std::fmt::Debug for SocketPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(self.as_bytes()))
    }
}

impl HelloReply {
    /// Appends the body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.u8(self.version);
        out.u64(self.capabilities);
        out.u64(self.node_id);
        out.u64(self.incarnation);
        out.u16(self.shard);
        out.u16(self.shard_count);
        out.u32(self.object_bytes_max);
        if !self.uds.is_none() {
            out.bytes_u8(self.uds.as_bytes());
        }
    }

    /// Reads the body; fields that a newer node appends are ignored.
    ///
    /// # Errors
    /// [`DecodeError`] if it is cut short.
    pub fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let mut reply = Self {
            version: reader.u8("version")?,
            capabilities: reader.u64("capabilities")?,
            node_id: reader.u64("node id")?,
            incarnation: reader.u64("incarnation")?,
            shard: reader.u16("shard")?,
            shard_count: reader.u16("shard count")?,
            object_bytes_max: reader.u32("object bytes")?,
            uds: SocketPath::NONE,
        };
        if reader.remaining() > 0 {
            let path = reader.bytes_u8(SOCKET_PATH_BYTES_MAX, "socket path")?;
            let zero = DecodeError::Value { what: "socket path", found: 0 };
            reply.uds = SocketPath::new(path).ok_or(zero)?;
        }
        Ok(reply)
    }
}
