//! Bodies of the operations, and the forms that payloads take.
//!
//! Decoding checks a body once, from front to back, and allocates nothing: batches stay bytes and
//! are read item by item. A decoded batch can therefore be walked without another check, and a
//! peer's counts never size our memory.

mod accounts;
mod clients;
mod get;
mod glimpse;
mod hello;
mod hints;
mod matching;
mod open;
mod pair;
mod pin;
mod put;
mod remove;
mod sharing;
mod stats;

use std::marker::PhantomData;

pub use accounts::{ACCOUNTS_MAX, Account, AccountOf};
pub use clients::{CLIENTS_MAX, ClientPath, ClientReport};
pub use get::{Freshness, Get, GetAnswer, GetItem, Hit, Sharing};
pub use glimpse::Glimpse;
pub use hello::{CAPABILITY_SHARED, Hello, HelloReply, SocketPath};
pub use hints::{CAPABILITY_WANTS, Hints};
pub use matching::{Match, MatchReply, MatchReplyWriter};
pub use open::{Bump, Open};
pub use pair::{CAPABILITY_REMOTE, PairAddress};
pub use pin::Pin;
pub use put::{Put, PutItem};
pub use remove::Remove;
pub use sharing::{LeasedPlace, Release, SharedRegion, Unshare};
pub use stats::{decode_stats, encode_stats};

use crate::key::Key;
use crate::limits::BATCH_OBJECTS_MAX;
use crate::status::Status;
use crate::wire::{DecodeError, Reader, Write};

/// Something a body repeats.
pub trait Item<'a>: Sized {
    /// Reads one from the front.
    ///
    /// # Errors
    /// [`DecodeError`] naming the field.
    fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError>;

    /// Checks one as [`Item::read`] does and passes over it.
    ///
    /// # Errors
    /// Those of [`Item::read`].
    fn skip(reader: &mut Reader<'a>) -> Result<(), DecodeError> {
        Self::read(reader).map(drop)
    }
}

/// A checked run of items, still as bytes.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a, T> {
    count: usize,
    bytes: &'a [u8],
    items: PhantomData<fn() -> T>,
}

impl<'a, T: Item<'a>> Batch<'a, T> {
    /// Checks `count` items and takes them off the front.
    ///
    /// # Errors
    /// [`DecodeError`] of the first item that is wrong.
    pub fn read(reader: &mut Reader<'a>, count: usize) -> Result<Self, DecodeError> {
        let bytes = reader.rest();
        for _ in 0..count {
            T::skip(reader)?;
        }
        let bytes = &bytes[..bytes.len() - reader.remaining()];
        Ok(Self { count, bytes, items: PhantomData })
    }

    /// How many items there are.
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The items in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = T> + use<'a, T> {
        let mut reader = Reader::new(self.bytes);
        (0..self.count).map(move |_| T::read(&mut reader).expect("checked when it was read"))
    }
}

impl<'a> Batch<'a, Key> {
    /// The bytes of each key in order, where they lie: a key of its own is a copy.
    pub fn names(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let mut reader = Reader::new(self.bytes);
        (0..self.count).map(move |_| reader.key_bytes().expect("checked when it was read"))
    }
}

impl<'a> Item<'a> for Key {
    fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        reader.key()
    }

    fn skip(reader: &mut Reader<'a>) -> Result<(), DecodeError> {
        reader.key_bytes().map(drop)
    }
}

impl<'a> Item<'a> for Status {
    fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Self::try_from(reader.u8("key status")?)
    }
}

/// Where the bytes of one object are, or shall go.
#[derive(Debug, Clone, Copy)]
pub enum Payload<'a> {
    /// Behind the body, in the order of the items.
    Inline,
    /// In memory that both sides map: the node's in the answer to a `Get`, the client's in a `Put`.
    Shared {
        /// Which of the mapped regions.
        region: u32,
        /// Where in it.
        offset: u64,
    },
    /// In memory that the node reaches through its network card.
    Remote(Batch<'a, RemotePiece>),
}

/// One contiguous piece of registered memory. One that was read ends at the last address at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RemotePiece {
    /// Address as registered.
    pub address: u64,
    /// Remote key of its registration.
    pub rkey: u32,
    /// Length in bytes.
    pub bytes: u32,
}

impl RemotePiece {
    /// What it takes when it is encoded.
    pub const BYTES: usize = 16;

    /// Appends it.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.u64(self.address);
        out.u32(self.rkey);
        out.u32(self.bytes);
    }
}

impl<'a> Item<'a> for RemotePiece {
    fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        // In one go: a landing may have hundreds, and is walked more than once.
        let piece = u128::from_le_bytes(reader.array("remote piece")?);
        let (address, rkey, bytes) = (piece as u64, (piece >> 64) as u32, (piece >> 96) as u32);
        if address.checked_add(u64::from(bytes.saturating_sub(1))).is_none() {
            return Err(DecodeError::Value { what: "remote address", found: address });
        }
        Ok(Self { address, rkey, bytes })
    }
}

impl<'a> Item<'a> for Payload<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        match reader.u8("payload form")? {
            FORM_INLINE => Ok(Self::Inline),
            FORM_SHARED => Ok(Self::Shared {
                region: reader.u32("shared region")?,
                offset: reader.u64("shared offset")?,
            }),
            FORM_REMOTE => {
                let count = usize::from(reader.u16("remote pieces")?);
                if count > REMOTE_PIECES_MAX {
                    let (found, limit) = (count as u64, REMOTE_PIECES_MAX as u64);
                    return Err(DecodeError::TooLong { what: "remote pieces", found, limit });
                }
                Ok(Self::Remote(Batch::read(reader, count)?))
            }
            form => Err(DecodeError::Value { what: "payload form", found: u64::from(form) }),
        }
    }
}

impl Payload<'_> {
    /// The number of the form, as it is encoded.
    pub const fn form(&self) -> u8 {
        match self {
            Self::Inline => FORM_INLINE,
            Self::Shared { .. } => FORM_SHARED,
            Self::Remote(_) => FORM_REMOTE,
        }
    }

    /// Appends the form.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.u8(self.form());
        match self {
            Self::Inline => {}
            Self::Shared { region, offset } => {
                out.u32(*region);
                out.u64(*offset);
            }
            Self::Remote(pieces) => {
                out.u16(pieces.len() as u16);
                out.bytes(pieces.bytes);
            }
        }
    }

    /// Appends `Remote` with these pieces.
    ///
    /// # Panics
    /// If there are more than [`REMOTE_PIECES_MAX`]: landings are split before encoding.
    pub fn encode_remote(pieces: &[RemotePiece], out: &mut Vec<u8>) {
        assert!(pieces.len() <= REMOTE_PIECES_MAX, "landings are split before encoding");
        out.u8(FORM_REMOTE);
        out.u16(pieces.len() as u16);
        pieces.iter().for_each(|piece| piece.encode(out));
    }

    /// The answer to a get that they were written to where the request said.
    pub const fn landed() -> Payload<'static> {
        Payload::Remote(Batch { count: 0, bytes: &[], items: PhantomData })
    }

    /// Whether the bytes travel in the frame.
    pub const fn is_inline(&self) -> bool {
        matches!(self, Self::Inline)
    }
}

/// Appends one status for each key, behind their count: the whole reply to `Put` and `Remove`.
pub fn encode_statuses(statuses: impl ExactSizeIterator<Item = Status>, out: &mut Vec<u8>) {
    out.u32(statuses.len() as u32);
    statuses.for_each(|status| out.u8(status as u8));
}

/// Reads the reply to `Put` or `Remove`.
///
/// # Errors
/// [`DecodeError`] if it is not a count and that many statuses.
pub fn decode_statuses(body: &[u8], limit: usize) -> Result<Batch<'_, Status>, DecodeError> {
    let mut reader = Reader::new(body);
    let count = reader.count(limit, "statuses")?;
    let statuses = Batch::read(&mut reader, count)?;
    reader.end()?;
    Ok(statuses)
}

/// Most pieces of one remote landing: two a layer for the deepest models, and room.
pub const REMOTE_PIECES_MAX: usize = 512;
const FORM_INLINE: u8 = 0;
const FORM_SHARED: u8 = 1;
const FORM_REMOTE: u8 = 2;

const _: () = assert!(BATCH_OBJECTS_MAX <= u32::MAX as usize);
