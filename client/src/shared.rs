//! Memory of this client's that nodes on its host may read: what puts take their bytes from
//! without sending them.
//!
//! A [`SharedMemory`] is known to the client by its addresses. A put whose object lies inside one
//! is sent by reference over a connection that was given the memory, and with its bytes everywhere
//! else. What a reader would get wrong: which it is, is decided when the put goes to a connection,
//! and again if it has to go elsewhere.

use std::ops::{Deref, DerefMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::time::Instant;

use larder_protocol::limits::{
    HEADER_BYTES, INLINE_BYTES_MAX, REGION_SHARED_BYTES_MAX, SHARED_REGIONS_MAX,
};
use larder_protocol::message::{
    Batch, Payload as Form, Put, PutItem, RemotePiece, SharedRegion, Unshare,
};
use larder_protocol::wire::Reader;
use larder_protocol::{Header, Opcode};
use larder_transport::mapped::SHARED_BYTES_MAX;
use larder_transport::rdma::{AnyFabric, Exposed, Reach};
use larder_transport::{RegionError, process_id};

use crate::card::{Card, ExposedMemory};
use crate::client::Client;
use crate::config::PathChoice;
use crate::error::Error;
use crate::flight::What;
use crate::leg::Leg;
use crate::object::Payload;
use crate::releases::Releases;
use crate::session::Session;
use crate::sums::Sums;

/// Zeroed memory from which puts to nodes on this host are made without sending the bytes.
///
/// It is used like any other memory: an object that lies in it in one piece is put as always. Nodes
/// on other hosts reach it too, if both have network cards, for puts and for gets into it. When
/// it is dropped nodes let go of it too; a put still under way is answered all the same.
#[derive(Debug)]
pub struct SharedMemory {
    exposed: ExposedMemory,
    memory: larder_transport::SharedMemory,
    known: Arc<Known>,
    memories: Arc<Memories>,
}

/// The memories of one client.
#[derive(Debug)]
pub(crate) struct Memories {
    slots: RwLock<[Option<Arc<Known>>; SHARED_REGIONS_MAX as usize]>,
    /// How many there are, for a look without the lock.
    count: AtomicUsize,
    pub(crate) card: Card,
    pid: u32,
}

/// What puts and sessions know of one. The memory itself exists for as long as this does, if not in
/// this process.
#[derive(Debug)]
pub(crate) struct Known {
    number: u32,
    base: usize,
    bytes: u64,
    descriptor: OwnedFd,
    /// Whether the caller has dropped it.
    is_gone: AtomicBool,
    /// How often in a row a connection ended after it was offered this.
    failures: AtomicU32,
    /// Connections whose node has it.
    sharers: Mutex<Vec<Weak<Releases>>>,
}

/// Where an object lies in shared memory.
#[derive(Debug)]
pub(crate) struct SharedPlace {
    memory: Arc<Known>,
    offset: u64,
}

/// The bytes of one object of a put, and the form in which they travel.
#[derive(Debug)]
pub(crate) struct PutSource {
    payload: Payload,
    place: Option<SharedPlace>,
    form: SourceForm,
}

/// How the bytes of one object travel.
#[derive(Debug, PartialEq, Eq)]
enum SourceForm {
    Inline,
    /// The frame names the place.
    Shared,
    /// The frame names these, encoded, which the node's network card reads.
    Remote(Vec<u8>),
}

/// What was offered to one node, which has not said yet that it took it.
#[derive(Debug)]
pub(crate) struct Offer {
    memory: Arc<Known>,
    is_taken: bool,
}

/// What one connection's node was given.
#[derive(Debug, Default)]
pub(crate) struct Given(Vec<Arc<Known>>);

impl SharedMemory {
    pub(crate) fn new(bytes: u64, memories: &Arc<Memories>) -> Result<Self, Error> {
        let (found, limit) = (bytes, SHARED_BYTES_MAX);
        if found > limit {
            return Err(Error::TooLarge { what: "shared memory", found, limit });
        }
        let memory = larder_transport::SharedMemory::new(bytes).map_err(|error| match error {
            RegionError::Empty => Error::InvalidArgument { what: "shared memory of 0 bytes" },
            RegionError::System { step, source, .. } => {
                Error::System { what: step, kind: source.kind() }
            }
            _ => Error::System { what: "shared memory", kind: std::io::ErrorKind::OutOfMemory },
        })?;
        let known = memories.add(memory.descriptor(), memory.base_address(), memory.bytes())?;
        let exposed = ExposedMemory::new(memories, |fabric| Exposed::of_shared(fabric, &memory))?;
        Ok(Self { exposed, memory, known, memories: Arc::clone(memories) })
    }

    /// Whether a network card of this client reaches it, so that nodes on other hosts can.
    pub fn is_exposed(&self) -> bool {
        self.exposed.is_exposed()
    }
}

impl Deref for SharedMemory {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory
    }
}

impl DerefMut for SharedMemory {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory
    }
}

impl AsRef<[u8]> for SharedMemory {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        // In a forked child locks may be held for ever, and the connections are the parent's.
        if self.memories.pid == process_id() {
            self.memories.remove(&self.known);
        }
    }
}

impl Default for Memories {
    fn default() -> Self {
        let slots = RwLock::new([const { None }; SHARED_REGIONS_MAX as usize]);
        Self { slots, count: AtomicUsize::new(0), card: Card::default(), pid: process_id() }
    }
}

impl Memories {
    /// Of a client that has this card, and goes this way.
    pub(crate) fn with_card(fabric: Option<AnyFabric>, path: PathChoice) -> Self {
        Self { card: Card::new(fabric, path), ..Self::default() }
    }

    /// Whether this is the process that made them.
    pub(crate) const fn is_own_process(&self, pid: u32) -> bool {
        self.pid == pid
    }

    /// Makes memory known, that of a [`SharedMemory`](larder_transport::SharedMemory).
    pub(crate) fn add(
        &self,
        descriptor: BorrowedFd<'_>,
        base: usize,
        bytes: u64,
    ) -> Result<Arc<Known>, Error> {
        let system = |error: std::io::Error| Error::System { what: "dup", kind: error.kind() };
        let descriptor = descriptor.try_clone_to_owned().map_err(system)?;
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        let Some((number, slot)) = slots.iter_mut().enumerate().find(|(_, slot)| slot.is_none())
        else {
            let limit = u64::from(SHARED_REGIONS_MAX);
            return Err(Error::TooLarge { what: "shared memories", found: limit + 1, limit });
        };
        let known = Arc::new(Known {
            number: number as u32,
            base,
            bytes,
            descriptor,
            is_gone: AtomicBool::new(false),
            failures: AtomicU32::new(0),
            sharers: Mutex::default(),
        });
        *slot = Some(Arc::clone(&known));
        self.count.fetch_add(1, Ordering::Relaxed);
        Ok(known)
    }

    /// From here on its addresses may mean other memory, and its number too.
    pub(crate) fn remove(&self, known: &Known) {
        // First: whoever finds another memory under this number must see it.
        known.is_gone.store(true, Ordering::Release);
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        slots[known.number as usize] = None;
        self.count.fetch_sub(1, Ordering::Relaxed);
        drop(slots);
        let sharers = std::mem::take(&mut *known.sharers());
        sharers.iter().filter_map(Weak::upgrade).for_each(|sharer| sharer.ring());
    }

    /// Whether there are none, for a look without the lock.
    pub(crate) fn is_empty(&self) -> bool {
        self.count.load(Ordering::Relaxed) == 0
    }

    /// Whether all of these bytes are in one of them.
    pub(crate) fn have(&self, piece: &[u8]) -> bool {
        self.find(piece).is_some()
    }

    /// Where these bytes are, if all of them are in one of the memories.
    fn find(&self, piece: &[u8]) -> Option<SharedPlace> {
        if self.is_empty() {
            return None;
        }
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        slots.iter().flatten().find_map(|memory| {
            let offset = piece.as_ptr().addr().checked_sub(memory.base)? as u64;
            let end = offset.checked_add(piece.len() as u64)?;
            let memory = Arc::clone(memory);
            (end <= memory.bytes).then_some(SharedPlace { memory, offset })
        })
    }
}

#[cfg(test)]
impl Memories {
    /// What a forked child may find held for ever.
    pub(crate) fn held(&self) -> impl Sized + '_ {
        self.slots.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// Whether a node may be asked to read from it.
    fn is_good(&self) -> bool {
        !self.is_gone.load(Ordering::Acquire)
            && self.failures.load(Ordering::Relaxed) < FAILURES_MAX
    }

    fn sharers(&self) -> MutexGuard<'_, Vec<Weak<Releases>>> {
        self.sharers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PutSource {
    pub(crate) fn new(payload: Payload, memories: &Memories) -> Self {
        let len = payload.len();
        let is_long = len > u64::from(INLINE_BYTES_MAX);
        let whole = Some(payload.piece_at(0)).filter(|piece| is_long && piece.len() as u64 == len);
        let place = whole.and_then(|piece| memories.find(piece));
        Self { payload, place, form: SourceForm::Inline }
    }

    /// Lets the node read it through `reach`, if it is long and all of it is exposed and `fits`.
    /// Whether that is so.
    pub(crate) fn aim(
        &mut self,
        reach: &Reach,
        exposed: &[Exposed],
        fits: impl FnOnce(&[RemotePiece]) -> bool,
    ) -> bool {
        self.forget_aim();
        let Payload::Source(source) = &mut self.payload else { return false };
        let is_long = source.len() > u64::from(INLINE_BYTES_MAX);
        let pieces = is_long.then(|| source.reach(reach, exposed)).flatten();
        let Some(pieces) = pieces.filter(|pieces| fits(pieces)) else {
            source.settle();
            self.form = SourceForm::Inline;
            return false;
        };
        let mut encoded = Vec::new();
        pieces.iter().for_each(|piece| piece.encode(&mut encoded));
        self.form = SourceForm::Remote(encoded);
        true
    }

    /// Sends its bytes in the frame. Who may read it by an earlier one cannot any more.
    pub(crate) fn forget_aim(&mut self) {
        if let Payload::Source(source) = &mut self.payload {
            source.withdraw();
        }
        if matches!(self.form, SourceForm::Remote(_)) {
            self.form = SourceForm::Inline;
        }
    }

    /// The node has answered, so it does not read it any more.
    pub(crate) fn settle(&mut self) {
        if let Payload::Source(source) = &mut self.payload {
            source.settle();
        }
    }

    /// All of it, piece by piece.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = &[u8]> + Clone {
        self.payload.pieces()
    }

    /// Bytes of it that travel in the frame.
    pub(crate) fn inline_bytes(&self) -> u64 {
        if self.form == SourceForm::Inline { self.payload.len() } else { 0 }
    }

    /// From the byte at `offset` of those to the end of its piece; nothing at the end.
    pub(crate) fn piece_at(&self, offset: u64) -> &[u8] {
        if self.form == SourceForm::Inline { self.payload.piece_at(offset) } else { &[] }
    }

    /// Takes it for another leg, whose form is not chosen yet.
    pub(crate) fn take(&mut self) -> Self {
        let none = Payload::Bytes(bytes::Bytes::new());
        let payload = std::mem::replace(&mut self.payload, none);
        Self { payload, place: self.place.take(), form: SourceForm::Inline }
    }

    /// The place to name, on a connection that shares memory.
    fn place_to_name(&self, shares: bool) -> Option<&SharedPlace> {
        self.place.as_ref().filter(|place| shares && place.memory.is_good())
    }
}

impl Offer {
    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.memory.descriptor.as_fd()
    }

    /// The node has it.
    pub(crate) fn taken(mut self) {
        self.is_taken = true;
        self.memory.failures.store(0, Ordering::Relaxed);
    }
}

/// Perhaps the connection ended for another reason. If it was this memory, it must not go on so.
impl Drop for Offer {
    fn drop(&mut self) {
        if !self.is_taken {
            self.memory.failures.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Given {
    /// Whether the caller has dropped something that the node has.
    pub(crate) fn are_some_gone(&self) -> bool {
        self.0.iter().any(|memory| memory.is_gone.load(Ordering::Acquire))
    }
}

impl Session {
    /// Chooses how each object of a put travels on this connection, and encodes it so. It may have
    /// been encoded for another one before.
    pub(crate) fn choose_forms(&mut self, leg: &mut Leg, now: Instant) {
        let mut differs = self.aim_put(leg, now);
        let has_places = leg.sources.iter().any(|source| source.place.is_some());
        if has_places {
            // A number may have been that of another. Not later: what is named below stays given.
            self.take_back_gone(now);
        }
        let (shares, mut are_all_shared) = (self.inbound.regions.shares(), has_places);
        for source in &mut leg.sources {
            let place = source.place_to_name(shares);
            if let Some(place) = place {
                self.give(&place.memory, now);
            }
            are_all_shared &= place.is_some();
            let form = if place.is_some() { SourceForm::Shared } else { SourceForm::Inline };
            if !matches!(source.form, SourceForm::Remote(_)) {
                differs |= std::mem::replace(&mut source.form, form) != source.form;
            }
        }
        match leg.sums {
            Sums::Stated if differs => leg.encode_forms(None),
            Sums::Stated => {}
            _ if are_all_shared => {
                leg.sums = Sums::Following { made: Vec::new(), objects: 0 };
                leg.encode_forms(None);
            }
            _ => leg.state_sums(),
        }
    }

    /// Gives the node memory, unless it has it. What is launched from now on may name it.
    fn give(&mut self, memory: &Arc<Known>, now: Instant) {
        if self.given.0.iter().any(|given| Arc::ptr_eq(given, memory)) {
            return;
        }
        if let Some(releases) = self.inbound.regions.releases() {
            let mut sharers = memory.sharers();
            sharers.retain(|sharer| sharer.strong_count() > 0);
            sharers.push(Arc::downgrade(releases));
        }
        self.given.0.push(Arc::clone(memory));
        let mut frame = Vec::new();
        Header::begin(&mut frame);
        SharedRegion { region: memory.number, bytes: memory.bytes }.encode(&mut frame);
        let offer = Offer { memory: Arc::clone(memory), is_taken: false };
        self.launch(Opcode::Share, What::Share(offer), frame, now);
    }

    /// Has the node forget what the caller has dropped.
    pub(crate) fn take_back_gone(&mut self, now: Instant) {
        if !self.given.are_some_gone() {
            return;
        }
        let is_gone = |memory: &mut Arc<Known>| memory.is_gone.load(Ordering::Acquire);
        let gone: Vec<Arc<Known>> = self.given.0.extract_if(.., is_gone).collect();
        for memory in gone {
            let mut frame = Vec::new();
            Header::begin(&mut frame);
            Unshare { region: memory.number }.encode(&mut frame);
            self.launch(Opcode::Unshare, What::Unshare, frame, now);
        }
    }
}

impl Leg {
    /// Encodes a put anew, each object in the form that its source says and with its checksums in
    /// `made`, if any were made.
    pub(crate) fn encode_forms(&mut self, mut made: Option<&[u8]>) {
        let request = Put::decode(self.body(), self.payload_bytes).expect("encoded by this client");
        let mut frame = Vec::with_capacity(self.frame.len() + FORM_BYTES * self.sources.len());
        Header::begin(&mut frame);
        let follow = matches!(self.sums, Sums::Following { .. });
        Put::encode_head(request.if_absent, follow, request.items.len(), &mut frame);
        let mut payload_bytes = 0;
        for (mut item, source) in request.items.iter().zip(&self.sources) {
            if let Some(rest) = &mut made {
                let (own, others) = rest.split_at(item.sums_bytes());
                (item, *rest) = (item.with_sums(own), others);
            }
            payload_bytes += if follow { item.sums_bytes() as u64 } else { source.inline_bytes() };
            let payload = match (&source.form, &source.place) {
                (SourceForm::Shared, Some(SharedPlace { memory, offset })) => {
                    Form::Shared { region: memory.number, offset: *offset }
                }
                (SourceForm::Remote(pieces), _) => {
                    let count = pieces.len() / RemotePiece::BYTES;
                    let pieces = Batch::read(&mut Reader::new(pieces), count);
                    Form::Remote(pieces.expect("encoded by this client"))
                }
                _ => Form::Inline,
            };
            PutItem { payload, ..item }.encode(&mut frame);
        }
        Put::set_wants(request.if_wanted, request.hints.as_ref(), HEADER_BYTES, &mut frame);
        self.payload_bytes = payload_bytes;
        self.frame = frame;
    }
}

impl Client {
    /// Takes `bytes` bytes of memory, rounded up to a whole number of 4096, that nodes on this host
    /// read puts from: at most 16 of them at a time, of at most 64 GiB each.
    ///
    /// # Errors
    /// [`Error::TooLarge`] and [`Error::InvalidArgument`] for what there cannot be,
    /// [`Error::System`] if there is no memory or descriptor left; [`Error::Forked`].
    pub fn shared_memory(&self, bytes: u64) -> Result<SharedMemory, Error> {
        self.check_process()?;
        SharedMemory::new(bytes, &self.shared.memories)
    }
}

// What can be mapped can also be announced.
const _: () = assert!(SHARED_BYTES_MAX <= REGION_SHARED_BYTES_MAX);

/// After so many connections in a row ended on the offer, bytes are sent instead. A guess: one may
/// end by accident, three hardly do.
const FAILURES_MAX: u32 = 3;
/// What a place takes in a put beyond the form of bytes that follow.
const FORM_BYTES: usize = 12;
