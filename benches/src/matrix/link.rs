//! A worker's connection to any server, or to its own memory: the same calls for all.

use std::hint::black_box;

use larder_client::SharedMemory;
use larder_protocol::Key;
use larder_protocol::checksum::Crc64;
use larder_transport::copy_checked;

use super::larder::LarderLink;
use super::order::{Copying, LinkSpec};
use super::rival::RivalLink;
use super::source::{Offer, Source};

#[derive(Debug)]
pub(super) enum Link {
    Copy(Copying),
    Rival(RivalLink),
    Larder(LarderLink),
}

/// Why a call brought nothing.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// A rival's connection failed, or said something else.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// Larder's client failed as a whole.
    #[error("{0}")]
    Client(#[from] larder_client::Error),
    /// It did not have, or not take, an object.
    #[error("{0}")]
    Key(#[from] larder_client::KeyError),
}

/// Objects that are asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) indexes: &'a [u64],
    pub(super) keys: &'a [Key],
}

impl Link {
    pub(super) fn connect(spec: &LinkSpec, object_bytes: u32) -> Result<Self, LinkError> {
        Ok(match spec {
            LinkSpec::Copy(copying) => Self::Copy(*copying),
            LinkSpec::Rival { text, endpoint } => Self::Rival(RivalLink::connect(*text, endpoint)?),
            LinkSpec::Larder { node, path, is_leased } => {
                Self::Larder(LarderLink::connect(node, *path, *is_leased, object_bytes)?)
            }
        })
    }

    /// Whether it reads from the worker's own source, so that only what is there can be asked for.
    pub(super) const fn is_copy(&self) -> bool {
        matches!(self, Self::Copy(_))
    }

    /// Reads objects, into `into` unless they are leased, and shows each to `look`.
    pub(super) fn get(
        &mut self,
        wanted: Wanted<'_>,
        source: &Source,
        into: &mut [u8],
        mut look: impl FnMut(u64, &[u8]),
    ) -> Result<(), LinkError> {
        let object_bytes = into.len() / wanted.keys.len();
        match self {
            Self::Larder(link) => {
                return link.get(wanted.keys, into, |nth, found| look(wanted.indexes[nth], found));
            }
            Self::Rival(link) => link.get(wanted.keys, into)?,
            Self::Copy(copying) => {
                for (index, place) in wanted.indexes.iter().zip(into.chunks_exact_mut(object_bytes))
                {
                    copy(*copying, source.of(*index), place);
                }
            }
        }
        let landed = wanted.indexes.iter().zip(into.chunks_exact(object_bytes));
        landed.for_each(|(index, found)| look(*index, found));
        Ok(())
    }

    /// Stores an object; a copy goes to `into`.
    pub(super) fn put(&mut self, offer: &Offer<'_>, into: &mut [u8]) -> Result<(), LinkError> {
        match self {
            Self::Larder(link) => link.put(offer)?,
            Self::Rival(link) => link.put(offer)?,
            Self::Copy(copying) => copy(*copying, offer.bytes, into),
        }
        Ok(())
    }

    /// Memory that puts are named from instead of sent, where there is such.
    pub(super) fn shared_memory(&self, bytes: usize) -> Result<Option<SharedMemory>, LinkError> {
        match self {
            Self::Larder(link) => Ok(link.shared_memory(bytes)?),
            Self::Rival(_) | Self::Copy(_) => Ok(None),
        }
    }
}

fn copy(copying: Copying, from: &[u8], to: &mut [u8]) {
    match copying {
        Copying::Plain => to.copy_from_slice(from),
        Copying::Streamed => copy_checked(from, to, |_| {}),
        Copying::Checked => {
            let mut checksum = Crc64::new();
            copy_checked(from, to, |bytes| checksum.update(bytes));
            black_box(checksum.finish());
        }
    }
}
