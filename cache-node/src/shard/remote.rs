//! What a connection has that the node moves its bytes by a network card: one queue pair, what is
//! under way through it, and the answers that wait for that.
//!
//! Transfers end in the order in which they were taken, so gets are answered in the order in which
//! they came, but for those that move nothing. What a reader would get wrong: a pair that failed is
//! not gone. Its transfers end one by one, each when no card touches its slot any more.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use larder_protocol::limits::BATCH_OBJECTS_MAX;
use larder_protocol::message::{Batch, CAPABILITY_REMOTE, PairAddress, RemotePiece};
use larder_protocol::stats::Stat;
use larder_protocol::{Code, DecodeError, Header, Status};
use larder_transport::rdma::{
    AnyFabric, AnyMemory, AnyPair, Ended, Fabric, FabricError, Held as Moved, QueuePair, Transfers,
    TransfersConfig,
};
use larder_transport::{Region, SlotMut};

use super::get::READERS_MIN;
use super::put::{Filling, Lent};
use super::{Peer, Shard, Step};
use crate::gauge::{Gauge, Held};
use crate::outbox::Outbox;

/// A card that can reach the shard's slots.
#[derive(Debug)]
pub(crate) struct Card {
    fabric: AnyFabric,
    memory: AnyMemory,
}

/// What one connection moves through a card.
#[derive(Debug, Default)]
pub(crate) struct Remote {
    /// The first field: what is under way ends before anything else goes.
    link: Option<Link>,
    /// Where a pair comes that is being connected.
    coming: Option<Rc<Coming>>,
    /// All that is under way, in its order.
    moves: VecDeque<Move>,
    /// Gets that are answered when their last move ended, in the order of their moves.
    parked: VecDeque<Parked>,
    /// Bytes of their answers, without those of slots.
    parked_bytes: usize,
    /// What was read for the put that is served, and was not taken yet.
    read: VecDeque<Read>,
    /// Bytes under way, and since when nothing of them has ended.
    bytes: u64,
    since_ms: u64,
    /// Of these bytes, those that are written: slots which count as being sent.
    writing_bytes: u64,
    moves_taken: u64,
    /// Used again and again.
    ended: Vec<Ended>,
}

/// A queue pair that was connected.
#[derive(Debug)]
struct Link {
    transfers: Transfers<AnyPair, AnyMemory>,
    unposted: usize,
    /// Works and doorbells that were counted already.
    counted: (u64, u64),
    _open: Held,
}

#[derive(Debug)]
struct Move {
    token: u64,
    bytes: u32,
    /// The object's place in its put, if it is of one.
    place: Option<usize>,
}

/// A get that waits for its moves.
#[derive(Debug)]
pub(super) struct Parked {
    header: Header,
    answer: Outbox,
    /// Moves that have not ended.
    left: usize,
    has_failed: bool,
    bytes: u64,
    /// What it counts for when it is answered: one that cannot be is asked again.
    keys: u64,
    counts: [u64; 4],
    _held: Held,
}

impl Parked {
    /// The answer to a get of so many moves, whose slots count as being sent.
    pub(super) fn new(header: &Header, answer: Outbox, moves: &[u32], sending: &Gauge) -> Self {
        let bytes = moves.iter().map(|&bytes| u64::from(bytes)).sum();
        let (left, _held) = (moves.len(), sending.hold(bytes));
        let (keys, counts) = (0, [0; 4]);
        Self { header: *header, answer, left, has_failed: false, bytes, keys, counts, _held }
    }

    /// Counts, once it is answered, for so many keys and this.
    pub(super) const fn counting(mut self, keys: u64, counts: [u64; 4]) -> Self {
        (self.keys, self.counts) = (keys, counts);
        self
    }
}

/// An object of a put that a card has read, or not.
#[derive(Debug)]
pub(crate) struct Read {
    /// Its place in the put.
    pub(crate) place: usize,
    /// Its slot, full; `None` if the read failed.
    pub(crate) slot: Option<SlotMut>,
}

/// A queue pair to be made and connected, which may take as long as a network does.
#[derive(Debug)]
pub(crate) struct PairJob {
    header: Header,
    fabric: AnyFabric,
    peer: PairAddress,
}

/// What came of a [`PairJob`].
#[derive(Debug)]
pub(crate) struct PairMade {
    header: Header,
    pair: Result<AnyPair, FabricError>,
}

/// Where what came of a [`PairJob`] is left. The connection has it, and whoever does the job.
#[derive(Debug)]
pub(crate) struct Coming {
    made: RefCell<Option<PairMade>>,
    /// Until it is made: a connection that asks nothing more may never hear of it.
    coming: RefCell<Option<Held>>,
}

impl Coming {
    /// Whether the connection is still there.
    pub(crate) fn is_awaited(self: &Rc<Self>) -> bool {
        Rc::strong_count(self) > 1
    }

    /// Leaves the pair to the connection.
    pub(crate) fn leave(&self, made: PairMade) {
        *self.coming.borrow_mut() = None;
        *self.made.borrow_mut() = Some(made);
    }
}

impl PairJob {
    /// Does it. Not on a shard's core: a card may look for its peer for a second.
    pub(crate) fn connect(self) -> PairMade {
        let Self { header, fabric, peer } = self;
        let pair = fabric.pair(TransfersConfig::default().works_max);
        let pair = pair.and_then(|mut pair| pair.connect(&peer).map(|()| pair));
        PairMade { header, pair }
    }
}

impl Card {
    /// Registers `region`, for the node's own works alone.
    ///
    /// # Errors
    /// [`FabricError`] if the device refuses.
    pub(crate) fn new(fabric: AnyFabric, region: &Arc<Region>) -> Result<Self, FabricError> {
        let memory = fabric.register(region)?;
        Ok(Self { fabric, memory })
    }
}

impl Peer {
    /// Whether anything is under way through a card.
    pub(crate) fn is_moving(&self) -> bool {
        self.remote.as_ref().is_some_and(|remote| !remote.moves.is_empty())
    }

    /// How many bytes are under way, and since when no work of them has completed.
    pub(crate) fn moving(&self) -> (u64, u64) {
        self.remote.as_ref().map_or((0, 0), |remote| (remote.bytes, remote.since_ms))
    }

    /// Whether there is a queue pair that has not failed.
    pub(crate) fn is_reachable(&self) -> bool {
        let link = self.remote.as_ref().and_then(|remote| remote.link.as_ref());
        link.is_some_and(|link| link.transfers.end().is_none())
    }

    /// Where the driver shall leave the pair that it connects.
    pub(crate) fn coming(&self) -> Option<Rc<Coming>> {
        self.remote.as_ref()?.coming.clone()
    }

    /// The pair that is awaited, once it is there.
    pub(crate) fn take_pair(&self) -> Option<PairMade> {
        self.remote.as_ref()?.coming.as_ref()?.made.borrow_mut().take()
    }

    /// The next object of the put that is served whose read has ended.
    pub(crate) fn take_read(&mut self) -> Option<Read> {
        self.remote.as_mut()?.read.pop_front()
    }

    /// Whether it may use a card at all.
    pub(super) fn is_remote(&self) -> bool {
        self.remote.is_some()
    }
}

impl Remote {
    /// The pair and the token of its next move, if there is one that has not failed.
    pub(super) fn open(&mut self) -> Option<(&mut Transfers<AnyPair, AnyMemory>, u64)> {
        let link = self.link.as_mut().filter(|link| link.transfers.end().is_none())?;
        Some((&mut link.transfers, self.moves_taken))
    }

    /// Whether answers of so many bytes wait for their moves that no more may.
    pub(super) fn is_full(&self) -> bool {
        self.parked_bytes > PARKED_BYTES_MAX
    }

    /// Keeps the answer to a get until so many bytes of each of its objects were moved; whether the
    /// card should begin.
    pub(super) fn park(&mut self, get: Parked, moves: &[u32], now_ms: u64) -> bool {
        moves.iter().for_each(|&bytes| self.take(bytes, None, now_ms));
        self.parked_bytes += get.answer.bytes.len();
        self.parked.push_back(get);
        let Some(link) = &mut self.link else { return false };
        link.unposted += moves.len();
        link.unposted >= POST_AT
    }

    fn take(&mut self, bytes: u32, place: Option<usize>, now_ms: u64) {
        if self.moves.is_empty() {
            self.since_ms = now_ms;
        }
        self.moves.push_back(Move { token: self.moves_taken, bytes, place });
        self.moves_taken += 1;
        self.bytes += u64::from(bytes);
        self.writing_bytes += if place.is_none() { u64::from(bytes) } else { 0 };
    }
}

impl Shard {
    /// Has `card` move what clients ask for.
    pub(crate) fn use_card(&mut self, card: Card) {
        self.card = Some(card);
    }

    /// Whether a client that asks for `capabilities` may use the card, which it is noted for.
    pub(super) fn grant_remote(&self, peer: &mut Peer, capabilities: u64) -> u64 {
        if capabilities & CAPABILITY_REMOTE == 0 || self.card.is_none() || !peer.is_far() {
            return 0;
        }
        peer.remote.get_or_insert_default();
        CAPABILITY_REMOTE
    }

    /// Ends the pair that there is, and takes the address of a peer to be connected.
    ///
    /// # Errors
    /// [`DecodeError`] if it is none; the connection ends then.
    pub(super) fn begin_pair<'a>(
        &mut self,
        peer: &mut Peer,
        header: &Header,
        body: &[u8],
        out: &mut Outbox,
    ) -> Result<Step<'a>, DecodeError> {
        let address = PairAddress::decode(body)?;
        let (Some(card), Some(remote)) = (&self.card, &mut peer.remote) else {
            return Ok(self.refuse(header, Code::Unsupported, out));
        };
        if remote.coming.is_some() || self.pairs_coming.value() >= PAIRS_COMING_MAX {
            // No client asks for two, and each may take a thread for a second.
            return Ok(self.refuse(header, Code::Unreachable, out));
        }
        let coming = RefCell::new(Some(self.pairs_coming.hold(1)));
        remote.coming = Some(Rc::new(Coming { made: RefCell::default(), coming }));
        let fabric = card.fabric.clone();
        self.unlink(peer, out);
        Ok(Step::Connect(PairJob { header: *header, fabric, peer: address }))
    }

    /// Takes a pair that was connected, and tells its client where it is.
    pub(crate) fn finish_pair(&mut self, peer: &mut Peer, made: PairMade, out: &mut Outbox) {
        let (Some(card), Some(remote)) = (&self.card, &mut peer.remote) else { return };
        remote.coming = None;
        let pair = match made.pair {
            Ok(pair) => pair,
            Err(error) => {
                self.warn_of_card(&error);
                self.refuse(&made.header, Code::Unreachable, out);
                return;
            }
        };
        let address = pair.address();
        let config = TransfersConfig { transfers_max: MOVES_MAX, ..TransfersConfig::default() };
        let transfers = Transfers::new(pair, card.memory.clone(), config);
        let (counted, _open) = ((0, 0), self.pairs.hold(1));
        remote.link = Some(Link { transfers, unposted: 0, counted, _open });
        let at = Header::begin(&mut out.bytes);
        address.encode(&mut out.bytes);
        self.answer(&made.header, Code::Ok).finish(0, at, &mut out.bytes);
        self.count(Stat::Pairs, 1);
        self.note_path(peer);
    }

    /// Says so once a minute: clients may try often, and some may mean harm.
    fn warn_of_card(&mut self, error: &FabricError) {
        if self.now_ms >= self.card_warning_at_ms {
            self.card_warning_at_ms = self.now_ms + WARNING_PAUSE_MS;
            tracing::warn!(%error, "a client cannot be connected through the card");
        }
    }

    /// Whether so much is under way for a peer that its next request has to wait: who does not take
    /// what it asked for must not take what all of them have.
    pub(crate) fn has_moves_enough(&self, peer: &Peer) -> bool {
        peer.remote.as_ref().is_some_and(|remote| {
            let is_much = remote.writing_bytes > self.sending_bytes_max / READERS_MIN;
            is_much || remote.moves.len() + BATCH_OBJECTS_MAX > MOVES_MAX
        })
    }

    /// Whether a card has stood still for so long that nobody should wait for it.
    pub(crate) fn is_stuck(&self, peer: &Peer) -> bool {
        let Some(remote) = &peer.remote else { return false };
        !remote.moves.is_empty() && self.now_ms >= remote.since_ms + STUCK_MS
    }

    /// Destroys a pair that moves nothing, and answers all that was under way.
    pub(crate) fn give_up_pair(&mut self, peer: &mut Peer, out: &mut Outbox) {
        self.unlink(peer, out);
        self.count(Stat::PairsFailed, 1);
    }

    /// Destroys the pair, if there is one, and answers all that was under way.
    pub(crate) fn unlink(&mut self, peer: &mut Peer, out: &mut Outbox) {
        let Some(remote) = &mut peer.remote else { return };
        let Some(link) = remote.link.take() else { return };
        let mut ended = std::mem::take(&mut remote.ended);
        link.transfers.destroy(&mut ended);
        ended.drain(..).for_each(|ended| self.end_move(remote, ended, out));
        remote.ended = ended;
        self.note_path(peer);
    }

    /// Has the card read an object of a put, with this place in it.
    ///
    /// # Errors
    /// [`Status::Busy`] if as much as may be is under way; the slot is given back.
    pub(crate) fn move_in(
        &mut self,
        peer: &mut Peer,
        filling: Filling,
        pieces: &Batch<'_, RemotePiece>,
        place: usize,
    ) -> Result<Lent, Status> {
        let remote = peer.remote.as_mut().ok_or(Status::Busy)?;
        let (transfers, token) = remote.open().ok_or(Status::Busy)?;
        let (slot, lent) = filling.lend();
        let bytes = slot.len() - slot.filled();
        let taken = transfers.read(token, slot, pieces.iter().collect());
        taken.map_err(|_| Status::Busy)?;
        remote.take(bytes, Some(place), self.now_ms);
        if let Some(link) = &mut remote.link {
            link.unposted += 1;
        }
        Ok(lent)
    }

    /// Lets the card begin with what it was not told of yet.
    pub(crate) fn post(&mut self, peer: &mut Peer) {
        let Some(link) = peer.remote.as_mut().and_then(|remote| remote.link.as_mut()) else {
            return;
        };
        if std::mem::take(&mut link.unposted) > 0 {
            link.transfers.post();
            self.count_works(link);
        }
    }

    /// Looks what has ended, and queues the answers of gets that waited for no more than that. The
    /// card begins with what has room now. Whether anything had ended.
    pub(crate) fn collect(&mut self, peer: &mut Peer, out: &mut Outbox) -> bool {
        let Some(remote) = &mut peer.remote else { return false };
        let Some(link) = &mut remote.link else { return false };
        let mut ended = std::mem::take(&mut remote.ended);
        let completed = link.transfers.completed();
        link.transfers.poll(&mut ended);
        if link.transfers.completed() != completed {
            remote.since_ms = self.now_ms;
        }
        // Works may have made room although no transfer ended.
        link.unposted = 0;
        link.transfers.post();
        self.count_works(link);
        let has_failed = link.transfers.end().is_some() && link.transfers.is_empty();
        let has_ended = !ended.is_empty();
        ended.drain(..).for_each(|ended| self.end_move(remote, ended, out));
        remote.ended = ended;
        if has_failed {
            remote.link = None;
            self.count(Stat::PairsFailed, 1);
            self.note_path(peer);
        }
        has_ended
    }

    /// Ends the first move of a connection.
    fn end_move(&mut self, remote: &mut Remote, ended: Ended, out: &mut Outbox) {
        let moved = remote.moves.pop_front().expect("what ended was under way");
        assert_eq!(moved.token, ended.token, "moves end in their order");
        remote.bytes -= u64::from(moved.bytes);
        if let Some(place) = moved.place {
            let slot = match ended.outcome {
                Ok(Moved::SlotMut(slot)) => Some(slot),
                _ => None,
            };
            self.count(Stat::ReadBytes, slot.as_ref().map_or(0, |_| moved.bytes.into()));
            remote.read.push_back(Read { place, slot });
            return;
        }
        remote.writing_bytes -= u64::from(moved.bytes);
        let first = remote.parked.front_mut().expect("a get is parked until its last move ended");
        first.left -= 1;
        first.has_failed |= ended.outcome.is_err();
        if first.left > 0 {
            return;
        }
        let Some(get) = remote.parked.pop_front() else { return };
        remote.parked_bytes -= get.answer.bytes.len();
        if get.has_failed {
            self.refuse(&get.header, Code::Unreachable, out);
        } else {
            self.count(Stat::WrittenBytes, get.bytes);
            self.count_get(get.keys, get.counts);
            out.append(get.answer);
        }
    }

    fn count_works(&mut self, link: &mut Link) {
        let (works, doorbells) = link.transfers.posted();
        self.count(Stat::Works, works - link.counted.0);
        self.count(Stat::Doorbells, doorbells - link.counted.1);
        link.counted = (works, doorbells);
    }
}

/// Most objects under way on one connection: some requests of the longest kind.
const MOVES_MAX: usize = 4 * BATCH_OBJECTS_MAX;
/// How long a card may complete nothing while a connection waits for it before it serves another
/// request, in milliseconds. A client that no longer waits has ended its pair, which a card finds
/// out in seconds, and says so in a request that would be read only then. A guess: real cards
/// complete a work within a millisecond.
const STUCK_MS: u64 = 250;
/// Most pairs that wait to be connected. A guess: cards make one in half a millisecond.
const PAIRS_COMING_MAX: u64 = 64;
/// Between two warnings of the same kind.
const WARNING_PAUSE_MS: u64 = 60_000;
/// Requests of one burst share a ring of the doorbell, but so many transfers are not kept waiting.
/// A guess.
const POST_AT: usize = 16;
/// Answers that wait for their moves take no more than this, and one more, of a connection.
const PARKED_BYTES_MAX: usize = 4 << 20;

#[cfg(test)]
mod tests;
