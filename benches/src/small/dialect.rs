//! The words of a server: how to ask for an object, and how to read the answer.
//!
//! An answer may have come in part only. Then nothing is taken, and the same bytes are read again
//! with those that follow.

use std::io;

use larder_protocol::Key;
use serde::{Deserialize, Serialize};

use super::larder::Larder;
use super::{memcached, resp};

/// Words that name no connection: whoever speaks them can begin at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Text {
    /// Those of Redis and Valkey.
    Resp,
    /// Those of memcached: `get`, which it answers with one call of the system each.
    Memcached,
    /// Those of memcached, with the newer `mg` for reading, whose answers it sends together.
    MemcachedMeta,
}

/// The words of any server.
#[derive(Debug)]
pub(super) enum Dialect {
    Text(Text),
    Larder(Larder),
}

/// What was asked, for the answer to be held against.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) index: u64,
    pub(super) key: &'a Key,
    /// Wants everything checked that the answer says of itself.
    pub(super) is_sample: bool,
}

/// The whole answer to one get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reply<'a> {
    /// How long it is.
    pub(super) reply_bytes: usize,
    /// The object, if it was there.
    pub(super) object: Option<&'a [u8]>,
}

impl Dialect {
    /// Appends the request for an object.
    pub(super) fn encode_get(&self, index: u64, key: &Key, out: &mut Vec<u8>) {
        match self {
            Self::Text(Text::Resp) => resp::encode_get(key, out),
            Self::Text(Text::Memcached) => memcached::encode_get(key, out),
            Self::Text(Text::MemcachedMeta) => memcached::encode_meta_get(key, out),
            Self::Larder(larder) => larder.encode_get(index, key, out),
        }
    }

    /// Reads the answer at the front of `bytes`; `None` if it is not all there.
    ///
    /// # Errors
    /// If it is not the answer to what was asked.
    pub(super) fn read<'a>(
        &self,
        asked: Asked<'_>,
        bytes: &'a [u8],
    ) -> io::Result<Option<Reply<'a>>> {
        match self {
            Self::Text(Text::Resp) => resp::read(bytes),
            Self::Text(Text::Memcached) => memcached::read(asked.key, bytes),
            Self::Text(Text::MemcachedMeta) => memcached::read_meta(bytes),
            Self::Larder(larder) => larder.read(asked, bytes),
        }
    }
}

impl Text {
    /// Appends one request for the objects of all `keys`.
    pub(crate) fn encode_get_all(self, keys: &[Key], out: &mut Vec<u8>) {
        match self {
            Self::Resp if keys.len() == 1 => resp::encode_get(&keys[0], out),
            Self::Resp => resp::encode_get_all(keys, out),
            Self::Memcached | Self::MemcachedMeta => memcached::encode_get_all(keys, out),
        }
    }

    /// Appends what the answer to [`Text::encode_get_all`] has between the first `nth` objects and
    /// the next one, if all are there and have this length.
    pub(crate) fn encode_before(
        self,
        nth: usize,
        keys: &[Key],
        object_bytes: usize,
        out: &mut Vec<u8>,
    ) {
        match self {
            Self::Resp => resp::encode_before(nth, keys, object_bytes, out),
            Self::Memcached | Self::MemcachedMeta => {
                memcached::encode_before(nth, keys, object_bytes, out);
            }
        }
    }

    /// What that answer has behind its last object.
    pub(crate) const fn end(self) -> &'static [u8] {
        match self {
            Self::Resp => END_OF_LINE,
            Self::Memcached | Self::MemcachedMeta => memcached::END,
        }
    }

    /// Appends the request that stores an object, as far as the object, which the end of a line
    /// follows.
    pub(crate) fn encode_put_head(self, key: &Key, object_bytes: usize, out: &mut Vec<u8>) {
        match self {
            Self::Resp => resp::encode_put_head(key, object_bytes, out),
            Self::Memcached | Self::MemcachedMeta => {
                memcached::encode_put_head(key, object_bytes, out);
            }
        }
    }

    /// What the server says of an object that it has stored.
    pub(crate) const fn stored(self) -> &'static [u8] {
        match self {
            Self::Resp => resp::STORED,
            Self::Memcached | Self::MemcachedMeta => memcached::STORED,
        }
    }
}

/// The first line, without its end; `None` if it is not all there.
///
/// # Errors
/// If no end comes where one must have been.
pub(super) fn first_line(bytes: &[u8]) -> io::Result<Option<&[u8]>> {
    let looked_at = &bytes[..bytes.len().min(LINE_BYTES_MAX)];
    match looked_at.windows(2).position(|pair| pair == END_OF_LINE) {
        Some(end) => Ok(Some(&bytes[..end])),
        None if looked_at.len() == LINE_BYTES_MAX => Err(odd(bytes)),
        None => Ok(None),
    }
}

/// `count` bytes behind the first `skip`, if `end` follows them; `None` if they are not all there.
///
/// # Errors
/// If something else follows.
pub(super) fn object_behind<'a>(
    bytes: &'a [u8],
    skip: usize,
    count: usize,
    end: &[u8],
) -> io::Result<Option<Reply<'a>>> {
    let reply_bytes = skip + count + end.len();
    let Some(reply) = bytes.get(..reply_bytes) else { return Ok(None) };
    let (object, found) = reply[skip..].split_at(count);
    if found != end {
        return Err(odd(found));
    }
    Ok(Some(Reply { reply_bytes, object: Some(object) }))
}

/// A decimal number of an object's length.
///
/// # Errors
/// If it is none, or longer than any object.
pub(super) fn length(digits: &[u8]) -> io::Result<usize> {
    let text = std::str::from_utf8(digits).map_err(|_| odd(digits))?;
    let length = text.parse().ok().filter(|length| *length <= OBJECT_BYTES_MAX);
    length.ok_or_else(|| odd(digits))
}

/// The peer sent something that is no answer.
pub(crate) fn odd(bytes: &[u8]) -> io::Error {
    let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(SHOWN_BYTES_MAX)]).into_owned();
    odd_for(&format!("the server sent {shown:?}"))
}

pub(super) fn odd_for(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

pub(crate) const END_OF_LINE: &[u8] = b"\r\n";
/// Largest object of a comparison; larger ones are not small.
pub(super) const OBJECT_BYTES_MAX: usize = 64 << 10;
/// No line of an answer to a get of a key of 64 bytes is longer.
const LINE_BYTES_MAX: usize = 512;
const SHOWN_BYTES_MAX: usize = 80;
