//! Gets on their way through a network card, as a node posts them and hears of their end: to count
//! instructions in.
//!
//! What a reader would get wrong: the card is the simulated one, whose own work is done between
//! the two ([`Posting::arrive`]) and not counted. A real card's driver writes works to a queue
//! instead of a list, and rings a doorbell.

use std::sync::Arc;

use larder_protocol::message::RemotePiece;
use larder_transport::rdma::simulated::{Faults, PeerMemory, SimulatedFabric};
use larder_transport::rdma::{
    AnyFabric, AnyMemory, AnyPair, Ended, Fabric, QueuePair, Transfers, TransfersConfig,
};
use larder_transport::{Arena, Region, Slot};

/// An object of a node, and the landing of a client that it is written to, in pieces.
#[derive(Debug)]
pub struct Posting {
    fabric: SimulatedFabric,
    transfers: Transfers<AnyPair, AnyMemory>,
    slot: Slot,
    pieces: Vec<RemotePiece>,
    landing: PeerMemory,
    ended: Vec<Ended>,
    /// The client's end.
    _pair: AnyPair,
}

impl Posting {
    /// An object with a landing of so many pieces.
    ///
    /// # Errors
    /// If there is no memory for it.
    pub fn new(piece_count: u32) -> Result<Self, Box<dyn std::error::Error>> {
        let simulated = SimulatedFabric::new(1, Faults::default());
        let fabric = AnyFabric::Simulated(simulated.clone());
        let region = Arc::new(Region::heap(REGION_BYTES)?);
        let memory = fabric.register(&region)?;
        let bytes = piece_count * PIECE_BYTES;
        let mut slot = Arena::new(region).take(bytes).ok_or("no room for the object")?;
        slot.write(&vec![OBJECT; bytes as usize]);
        let landing = simulated.peer_memory(bytes as usize, !OBJECT)?;
        let piece = |at: u32| RemotePiece {
            address: landing.address() + u64::from(at * PIECE_BYTES),
            rkey: landing.key(),
            bytes: PIECE_BYTES,
        };
        let pieces = (0..piece_count).map(piece).collect();
        let config = TransfersConfig::default();
        let (mut ours, mut theirs) = (fabric.pair(config.works_max)?, fabric.pair(1)?);
        ours.connect(&theirs.address())?;
        theirs.connect(&ours.address())?;
        Ok(Self {
            fabric: simulated,
            transfers: Transfers::new(ours, memory, config),
            slot: slot.freeze().map_err(|_| "the object is not full")?,
            pieces,
            landing,
            ended: Vec::new(),
            _pair: theirs,
        })
    }

    /// Takes a get and posts it: what is counted, with [`Posting::poll`].
    ///
    /// # Panics
    /// If the get before has not ended.
    #[inline(never)]
    pub fn post(&mut self, token: u64) {
        let (slot, pieces) = (self.slot.clone(), self.pieces.clone());
        let taken = self.transfers.write(token, slot, .., pieces);
        assert!(taken.is_ok(), "one get is under way at a time");
        self.transfers.post();
    }

    /// The card does all that it was asked for.
    pub fn arrive(&self) {
        while self.fabric.step() {}
    }

    /// Hears what has ended; how many gets did well.
    #[inline(never)]
    pub fn poll(&mut self) -> usize {
        self.ended.clear();
        self.transfers.poll(&mut self.ended);
        self.ended.iter().filter(|ended| ended.outcome.is_ok()).count()
    }

    /// Whether the landing holds the object.
    pub fn has_landed(&self) -> bool {
        let bytes = self.pieces.len() * PIECE_BYTES as usize;
        self.landing.read(0, bytes).iter().all(|&byte| byte == OBJECT)
    }
}

/// Short, for the simulated card's own work is of no interest.
const PIECE_BYTES: u32 = 64;
const OBJECT: u8 = 0x5a;
const REGION_BYTES: u64 = 4 << 20;
