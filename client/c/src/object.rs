//! Keys and objects as C has them, and as the client takes them.
//!
//! What a reader would get wrong: the structs are those of `larder.h`, field by field. Their sizes
//! and offsets are asserted here, and the same ones of the header by the program in `tests/`.

use std::ffi::c_void;
use std::mem::offset_of;
use std::time::Duration;

use larder_client::{Bytes, Error, Landing, OwnedPlace, Payload, PutObject, Source};
use larder_transport::pieces::PIECES_MAX;

use crate::edge::{array, invalid};

/// `larder_key`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Key {
    bytes: *const c_void,
    length: usize,
}

/// `larder_piece`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Piece {
    address: *mut c_void,
    bytes: usize,
}

/// `larder_object`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Object {
    pub(crate) key: Key,
    pieces: *const Piece,
    piece_count: usize,
    meta: *const c_void,
    meta_bytes: usize,
    tags: *const u64,
    tag_count: usize,
    version: u64,
    ttl_ms: u32,
    cost_hint: u32,
    depth: u16,
    class_hint: u8,
    pub(crate) result: i64,
}

const _: () = assert!(size_of::<Key>() == 16 && offset_of!(Key, length) == 8);
const _: () = assert!(size_of::<Piece>() == 16 && offset_of!(Piece, bytes) == 8);
const _: () = assert!(size_of::<Object>() == 96 && align_of::<Object>() == 8);
const _: () = assert!(offset_of!(Object, meta) == 32 && offset_of!(Object, tags) == 48);
const _: () = assert!(offset_of!(Object, version) == 64 && offset_of!(Object, ttl_ms) == 72);
const _: () = assert!(offset_of!(Object, cost_hint) == 76 && offset_of!(Object, depth) == 80);
const _: () = assert!(offset_of!(Object, class_hint) == 82 && offset_of!(Object, result) == 88);

impl Key {
    /// # Safety
    ///
    /// Its bytes are valid.
    pub(crate) unsafe fn read(&self) -> Result<larder_client::Key, Error> {
        // SAFETY: the caller promised it.
        let bytes = unsafe { array(self.bytes.cast(), self.length, "key without bytes")? };
        larder_client::Key::new(bytes).map_err(|_| invalid("key that is not 1 to 64 bytes long"))
    }
}

/// All keys of an array.
///
/// # Safety
///
/// The array and the bytes of its keys are valid.
pub(crate) unsafe fn keys(at: *const Key, count: usize) -> Result<Vec<larder_client::Key>, Error> {
    // SAFETY: the caller promised it.
    let keys = unsafe { array(at, count, "keys without an address")? };
    // SAFETY: as above.
    keys.iter().map(|key| unsafe { key.read() }).collect()
}

impl Object {
    /// # Safety
    ///
    /// Its pieces are valid.
    unsafe fn pieces(&self) -> Result<impl Iterator<Item = (*mut u8, usize)>, Error> {
        // SAFETY: the caller promised it.
        let pieces = unsafe { array(self.pieces, self.piece_count, "pieces without an address")? };
        if pieces.len() > PIECES_MAX {
            let (found, limit) = (pieces.len() as u64, PIECES_MAX as u64);
            return Err(Error::TooLarge { what: "pieces", found, limit });
        }
        if pieces.iter().any(|piece| piece.address.is_null() && piece.bytes > 0) {
            return Err(invalid("piece without an address"));
        }
        let wraps = |piece: &Piece| piece.address.addr().checked_add(piece.bytes).is_none();
        let bytes = pieces.iter().try_fold(0_usize, |sum, piece| sum.checked_add(piece.bytes));
        let is_memory = bytes.is_some_and(|bytes| isize::try_from(bytes).is_ok());
        if !is_memory || pieces.iter().any(wraps) {
            return Err(invalid("pieces of more bytes than can be addressed"));
        }
        Ok(pieces.iter().map(|piece| (piece.address.cast(), piece.bytes)))
    }

    /// Where a get puts it.
    ///
    /// # Safety
    ///
    /// What it points to is valid, and its pieces are the landing's alone until that is dropped.
    pub(crate) unsafe fn place(&self) -> Result<OwnedPlace, Error> {
        // SAFETY: the caller promised it.
        let key = unsafe { self.key.read()? };
        // SAFETY: as above.
        let pieces = unsafe { self.pieces()? };
        // SAFETY: as above.
        let landing = unsafe { Landing::from_raw(pieces, None) };
        Ok(OwnedPlace { key, landing })
    }

    /// What a put stores.
    ///
    /// # Safety
    ///
    /// What it points to is valid, and nobody changes its pieces until the source is dropped.
    pub(crate) unsafe fn offer(&self) -> Result<PutObject<Payload>, Error> {
        // SAFETY: the caller promised it.
        let key = unsafe { self.key.read()? };
        // SAFETY: as above.
        let pieces = unsafe { self.pieces()? };
        // SAFETY: as above.
        let meta = unsafe { array(self.meta.cast(), self.meta_bytes, "meta without an address")? };
        // SAFETY: as above.
        let tags = unsafe { array(self.tags, self.tag_count, "tags without an address")? };
        let pieces = pieces.map(|(base, bytes)| (base.cast_const(), bytes));
        // SAFETY: as above.
        let source = unsafe { Source::from_raw(pieces, None) };
        let ttl = (self.ttl_ms > 0).then(|| Duration::from_millis(self.ttl_ms.into()));
        Ok(PutObject {
            depth: self.depth,
            class_hint: self.class_hint,
            cost_hint: self.cost_hint,
            ttl,
            version: self.version,
            tags: tags.to_vec(),
            user_meta: Bytes::copy_from_slice(meta),
            ..PutObject::new(key, source)
        })
    }
}
