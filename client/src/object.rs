//! Objects as callers give and take them.
//!
//! A put either borrows its bytes ([`PutObject`] with [`Pieces`], for calls that wait) or owns them
//! ([`Payload`], for calls that nobody waits for).

use std::time::Duration;

use bytes::Bytes;
use larder_protocol::Key;
use larder_transport::{Landing, Source};

/// An object to store. Fill in what differs: `PutObject { ttl, ..PutObject::new(key, bytes) }`.
#[derive(Debug, Clone)]
pub struct PutObject<B> {
    /// Its name.
    pub key: Key,
    /// Its bytes.
    pub bytes: B,
    /// Place in its chain, from 0.
    pub depth: u16,
    /// What kind of request it comes from, as the runtime counts; 0 if unknown.
    pub class_hint: u8,
    /// What recomputing it would cost, in microseconds of accelerator time; 0 if unknown.
    pub cost_hint: u32,
    /// Time to live, to the millisecond; `None` for as long as there is room.
    pub ttl: Option<Duration>,
    /// Version, as the writer counts; 0 if it does not.
    pub version: u64,
    /// Up to 4 numbers by which it can be removed with others.
    pub tags: Vec<u64>,
    /// Up to 64 bytes that come back with it.
    pub user_meta: Bytes,
}

impl<B> PutObject<B> {
    /// An object with no hints.
    pub fn new(key: Key, bytes: impl Into<B>) -> Self {
        Self {
            key,
            bytes: bytes.into(),
            depth: 0,
            class_hint: 0,
            cost_hint: 0,
            ttl: None,
            version: 0,
            tags: Vec::new(),
            user_meta: Bytes::new(),
        }
    }

    /// The same, with other bytes.
    pub fn with_bytes<C>(&self, bytes: C) -> PutObject<C> {
        let (tags, user_meta) = (self.tags.clone(), self.user_meta.clone());
        let Self { key, depth, class_hint, cost_hint, ttl, version, .. } = *self;
        PutObject { key, bytes, depth, class_hint, cost_hint, ttl, version, tags, user_meta }
    }
}

/// Borrowed bytes of one object: in one piece, or scattered.
#[derive(Debug, Clone, Copy)]
pub enum Pieces<'a> {
    /// All in one place.
    One(&'a [u8]),
    /// In several places, to be read in this order.
    Many(&'a [&'a [u8]]),
}

impl<'a> Pieces<'a> {
    /// The pieces in order.
    pub const fn as_slices(&self) -> &[&'a [u8]] {
        match self {
            Self::One(piece) => std::slice::from_ref(piece),
            Self::Many(pieces) => pieces,
        }
    }

    /// Bytes of all of them.
    pub(crate) fn len(&self) -> u64 {
        self.as_slices().iter().map(|piece| piece.len() as u64).sum()
    }
}

impl<'a> From<&'a [u8]> for Pieces<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self::One(bytes)
    }
}

impl<'a> From<&'a Vec<u8>> for Pieces<'a> {
    fn from(bytes: &'a Vec<u8>) -> Self {
        Self::One(bytes)
    }
}

impl<'a, const N: usize> From<&'a [u8; N]> for Pieces<'a> {
    fn from(bytes: &'a [u8; N]) -> Self {
        Self::One(bytes)
    }
}

impl<'a> From<&'a [&'a [u8]]> for Pieces<'a> {
    fn from(pieces: &'a [&'a [u8]]) -> Self {
        Self::Many(pieces)
    }
}

/// Owned bytes of one object, for calls that nobody waits for.
#[derive(Debug)]
pub enum Payload {
    /// In memory of this process.
    Bytes(Bytes),
    /// In memory of a caller that has promised to leave it alone until the call is answered.
    Source(Source),
}

impl Payload {
    /// Length in bytes.
    pub fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Source(source) => source.len(),
        }
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All of it, piece by piece.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = &[u8]> + Clone {
        let mut offset = 0;
        std::iter::from_fn(move || {
            let piece = self.piece_at(offset);
            offset += piece.len() as u64;
            (!piece.is_empty()).then_some(piece)
        })
    }

    /// From the byte at `offset` to the end of its piece; nothing at the end.
    pub(crate) fn piece_at(&self, offset: u64) -> &[u8] {
        match self {
            Self::Bytes(bytes) => bytes.get(offset as usize..).unwrap_or_default(),
            Self::Source(source) => source.piece_at(offset),
        }
    }
}

impl From<Bytes> for Payload {
    fn from(bytes: Bytes) -> Self {
        Self::Bytes(bytes)
    }
}

impl From<Vec<u8>> for Payload {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes.into())
    }
}

impl From<Source> for Payload {
    fn from(source: Source) -> Self {
        Self::Source(source)
    }
}

/// An object that a get brought, checked against its checksums.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Its bytes, or those of the parts asked for.
    pub bytes: Bytes,
    /// Length of the whole object in bytes.
    pub object_bytes: u32,
    /// Version, as its writer counts.
    pub version: u64,
    /// What its writer said about it, up to 64 bytes.
    pub user_meta: Bytes,
}

/// What a get says of an object that it wrote into the caller's landing, checked likewise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Landed {
    /// How many bytes were written, from the start of the landing.
    pub bytes: u32,
    /// Length of the whole object in bytes.
    pub object_bytes: u32,
    /// Version, as its writer counts.
    pub version: u64,
    /// What its writer said about it, up to 64 bytes.
    pub user_meta: Bytes,
}

/// Where a get shall put one object: borrowed memory in one or more pieces, filled in order.
#[derive(Debug)]
pub struct Place<'a> {
    /// The object's name.
    pub key: Key,
    /// Where its bytes go.
    pub pieces: Vec<&'a mut [u8]>,
}

/// Where a get that nobody waits for shall put one object.
#[derive(Debug)]
pub struct OwnedPlace {
    /// The object's name.
    pub key: Key,
    /// Where its bytes go. Dropped before the call is reported as answered.
    pub landing: Landing,
}
