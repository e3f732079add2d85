//! What [`Transfers`] promise one at a time, through a fabric that does only what it is told to.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

use std::sync::Arc;

use larder_protocol::message::RemotePiece;
use larder_transport::rdma::simulated::{Faults, SimulatedFabric, SimulatedMemory, SimulatedPair};
use larder_transport::rdma::{
    Ended, Fabric, Held, Memory, QueuePair, Refused, Transfers, TransfersConfig, WorkError,
};
use larder_transport::{Arena, Region, Registered, Slot, SlotMut};

/// A node and one client, connected.
struct Sides {
    fabric: SimulatedFabric,
    arena: Arena,
    transfers: Transfers<SimulatedPair, SimulatedMemory>,
    client: SimulatedPair,
    /// The client's, of which a range is used once.
    exposed: SimulatedMemory,
    registered: Registered,
    used: usize,
}

const CLIENT_BYTES: usize = 1 << 20;

impl Sides {
    fn new(config: TransfersConfig) -> Self {
        let fabric = SimulatedFabric::new(1, Faults::default());
        let region = Arc::new(Region::heap(1 << 20).unwrap());
        let memory = fabric.register(&region).unwrap();
        let home: Arc<[u8]> = vec![0; CLIENT_BYTES].into();
        let address = Arc::as_ptr(&home).cast::<u8>().cast_mut();
        // SAFETY: the fabric alone touches it, between looks that are made by `landed`.
        let registered = unsafe { Registered::new(address, CLIENT_BYTES, Some(Arc::new(home))) };
        let registered = registered.unwrap();
        // SAFETY: the node writes and reads what it is told to.
        let exposed = unsafe { fabric.expose(&registered) }.unwrap();
        let (mut ours, mut client) =
            (fabric.pair(config.works_max).unwrap(), fabric.pair(1).unwrap());
        ours.connect(&client.address()).unwrap();
        client.connect(&ours.address()).unwrap();
        let transfers = Transfers::new(ours, memory, config);
        let arena = Arena::new(region);
        Self { fabric, arena, transfers, client, exposed, registered, used: 0 }
    }

    fn usual() -> Self {
        Self::new(TransfersConfig::default())
    }

    fn slot(&self, bytes: u32, with: u8) -> Slot {
        let mut slot = self.arena.take(bytes).unwrap();
        slot.write(&vec![with; bytes as usize]);
        slot.freeze().unwrap()
    }

    fn unfilled(&self, bytes: u32) -> SlotMut {
        self.arena.take(bytes).unwrap()
    }

    /// Unused memory of the client, in pieces of these lengths.
    fn pieces(&mut self, lengths: &[u32]) -> Vec<RemotePiece> {
        let rkey = self.exposed.remote_key().unwrap();
        let piece = |&bytes: &u32| {
            let address = (self.registered.address() + self.used) as u64;
            self.used += bytes as usize;
            RemotePiece { address, rkey, bytes }
        };
        lengths.iter().map(piece).collect()
    }

    fn write(&mut self, token: u64, bytes: u32) -> Result<(), Refused> {
        let (slot, pieces) = (self.slot(bytes, token as u8), self.pieces(&[bytes]));
        self.transfers.write(token, slot, 0.., pieces)
    }

    fn landed(&self, piece: &RemotePiece) -> Vec<u8> {
        let at = std::ptr::with_exposed_provenance::<u8>(piece.address as usize);
        // SAFETY: in the client's memory, and the fabric stands still.
        unsafe { std::slice::from_raw_parts(at, piece.bytes as usize) }.to_vec()
    }

    fn poll(&mut self) -> Vec<Ended> {
        let mut ended = Vec::new();
        self.transfers.poll(&mut ended);
        ended
    }

    fn run(&mut self) -> Vec<Ended> {
        let mut ended = Vec::new();
        loop {
            self.transfers.post();
            while self.fabric.step() {}
            let count = ended.len();
            self.transfers.poll(&mut ended);
            if ended.len() == count {
                return ended;
            }
        }
    }
}

fn tokens(ended: &[Ended]) -> Vec<u64> {
    ended.iter().map(|ended| ended.token).collect()
}

fn failures(ended: &[Ended]) -> Vec<WorkError> {
    ended.iter().map(|ended| *ended.outcome.as_ref().unwrap_err()).collect()
}

#[test]
fn many_objects_are_one_ring_of_the_doorbell() {
    let mut sides = Sides::usual();
    (0..10).for_each(|token| sides.write(token, 5000).unwrap());
    assert_eq!(tokens(&sides.run()), Vec::from_iter(0..10));
    assert_eq!(sides.transfers.posted(), (10, 1));
}

#[test]
fn pieces_are_filled_in_order() {
    let mut sides = Sides::usual();
    let mut slot = sides.unfilled(600);
    slot.write(&Vec::from_iter((0..600u32).map(|n| (n % 251) as u8)));
    let pieces = sides.pieces(&[1, 99, 0, 300]);
    sides.transfers.write(1, slot.freeze().unwrap(), 200.., pieces.clone()).unwrap();
    assert!(matches!(sides.run()[..], [Ended { token: 1, outcome: Ok(Held::Slot(_)) }]));
    let landed: Vec<u8> = pieces.iter().flat_map(|piece| sides.landed(piece)).collect();
    assert_eq!(landed, Vec::from_iter((200..600u32).map(|n| (n % 251) as u8)));
}

#[test]
fn a_put_fills_the_rest_of_its_slot() {
    let mut sides = Sides::usual();
    let from = sides.pieces(&[300, 100]);
    let source = sides.slot(400, 7);
    sides.transfers.write(1, source, 0.., from.clone()).unwrap();
    sides.run();
    let mut slot = sides.unfilled(464);
    slot.write(&[1; 64]);
    sides.transfers.read(2, slot, from).unwrap();
    let mut ended = sides.run();
    let Ok(Held::SlotMut(slot)) = ended.remove(0).outcome else { panic!("{ended:?}") };
    assert_eq!(slot.freeze().unwrap()[..], [[1; 64].as_slice(), &[7; 400]].concat());
}

#[test]
fn a_slot_under_way_is_not_used_again() {
    let mut sides = Sides::usual();
    sides.write(1, 900 << 10).unwrap();
    assert!(sides.arena.take(900 << 10).is_none(), "its only handle is the transfer's");
    sides.run();
    assert!(sides.arena.take(900 << 10).is_some());
}

#[test]
fn no_more_is_posted_than_may_be() {
    let config =
        TransfersConfig { works_max: 3, bytes_max: 1000, work_bytes_max: 4000, transfers_max: 5 };
    let mut sides = Sides::new(config);
    // Longer than all that may be, and yet it goes, alone.
    sides.write(1, 2000).unwrap();
    sides.write(2, 600).unwrap();
    sides.write(3, 600).unwrap();
    let pieces = sides.pieces(&[1; 8]);
    let slot = sides.slot(8, 4);
    sides.transfers.write(4, slot, 0.., pieces).unwrap();
    sides.write(5, 1).unwrap();
    assert_eq!(sides.write(6, 1), Err(Refused::Full));
    let mut posted = Vec::new();
    let mut ended = Vec::new();
    while !sides.transfers.is_empty() {
        sides.transfers.post();
        posted.push(sides.transfers.posted().0);
        while sides.fabric.step() {}
        sides.transfers.poll(&mut ended);
    }
    assert_eq!(tokens(&ended), [1, 2, 3, 4, 5]);
    assert_eq!(posted, [1, 2, 5, 8, 11, 12], "one, one, one and two of eight, three, three, one");
}

#[test]
fn a_long_piece_is_moved_by_several_works() {
    let config =
        TransfersConfig { bytes_max: 1000, work_bytes_max: 400, ..TransfersConfig::default() };
    let mut sides = Sides::new(config);
    sides.write(1, 1300).unwrap();
    sides.write(2, 400).unwrap();
    let (mut posted, mut ended) = (Vec::new(), Vec::new());
    while !sides.transfers.is_empty() {
        sides.transfers.post();
        posted.push(sides.transfers.posted().0);
        while sides.fabric.step() {}
        sides.transfers.poll(&mut ended);
    }
    assert_eq!(tokens(&ended), [1, 2]);
    assert_eq!(posted, [2, 5], "two of 400, then 400, 100 and 400 of the next");
}

#[test]
fn the_end_of_each_longest_work_is_heard_of() {
    let mut sides =
        Sides::new(TransfersConfig { work_bytes_max: 1000, ..TransfersConfig::default() });
    (0..4).for_each(|token| sides.write(token, 1000).unwrap());
    sides.transfers.post();
    let mut first = Vec::new();
    while first.is_empty() {
        assert!(sides.fabric.step());
        first = sides.poll();
    }
    assert_eq!(tokens(&first), [0], "before the others have moved");
    assert_eq!(tokens(&sides.run()), [1, 2, 3]);
}

#[test]
fn lengths_must_agree() {
    let mut sides = Sides::usual();
    let (slot, pieces) = (sides.slot(10, 0), sides.pieces(&[4, 5]));
    let refused = sides.transfers.write(1, slot, 0.., pieces);
    assert_eq!(refused, Err(Refused::Length { found: 9, expected: 10 }));
    assert!(sides.transfers.is_empty());
}

#[test]
fn an_object_without_bytes_needs_no_work() {
    let mut sides = Sides::usual();
    let slot = sides.slot(10, 0);
    sides.transfers.write(1, slot, 10.., Vec::new()).unwrap();
    assert_eq!(tokens(&sides.run()), [1]);
    assert_eq!(sides.transfers.posted(), (0, 0));
}

#[test]
fn a_wrong_key_fails_its_object_and_what_follows() {
    let mut sides = Sides::usual();
    sides.write(1, 100).unwrap();
    let (slot, mut pieces) = (sides.slot(100, 0), sides.pieces(&[50, 50]));
    pieces[1].rkey += 1000;
    sides.transfers.write(2, slot, 0.., pieces).unwrap();
    sides.write(3, 100).unwrap();
    let ended = sides.run();
    assert_eq!(tokens(&ended), [1, 2, 3]);
    assert!(ended[0].outcome.is_ok(), "what came before it has landed");
    assert_eq!(failures(&ended[1..]), [WorkError::RemoteAccess; 2]);
    assert_eq!(sides.write(4, 1), Err(Refused::Ended(WorkError::RemoteAccess)));
}

#[test]
fn a_region_of_the_node_has_no_key_for_peers() {
    let mut sides = Sides::usual();
    let region = Arc::new(Region::heap(1 << 16).unwrap());
    let memory = sides.fabric.register(&region).unwrap();
    assert_eq!(memory.remote_key(), None);
    // Not even by a key that was guessed.
    let (slot, mut pieces) = (sides.slot(10, 0), sides.pieces(&[10]));
    pieces[0] = RemotePiece { rkey: memory.local_key(), ..pieces[0] };
    sides.transfers.write(1, slot, 0.., pieces).unwrap();
    assert_eq!(failures(&sides.run()), [WorkError::RemoteAccess]);
}

#[test]
fn giving_up_does_not_wait_for_the_peer() {
    let mut sides = Sides::usual();
    (1..4).for_each(|token| sides.write(token, 9000).unwrap());
    sides.transfers.post();
    (0..3).for_each(|_| assert!(sides.fabric.step()));
    sides.write(4, 9).unwrap();
    sides.transfers.give_up(WorkError::NoAnswer);
    // The fabric stands still from here.
    let ended = sides.poll();
    assert_eq!(tokens(&ended), [1, 2, 3, 4]);
    assert_eq!(failures(&ended), [WorkError::NoAnswer; 4]);
    assert_eq!(sides.arena.stats().object_bytes, 0, "their memory is free");
}

#[test]
fn a_peer_that_is_gone_is_told_of() {
    let Sides { fabric, mut transfers, client, arena, .. } = {
        let mut sides = Sides::usual();
        sides.write(1, 100).unwrap();
        sides
    };
    drop(client);
    transfers.post();
    while fabric.step() {}
    let mut ended = Vec::new();
    transfers.poll(&mut ended);
    assert_eq!(failures(&ended), [WorkError::NoAnswer]);
    assert_eq!(arena.stats().object_bytes, 0);
}

#[test]
fn what_is_destroyed_is_told_of_and_does_not_land() {
    let mut sides = Sides::usual();
    let pieces = sides.pieces(&[5000]);
    let slot = sides.slot(5000, 9);
    sides.transfers.write(1, slot, 0.., pieces.clone()).unwrap();
    sides.transfers.post();
    let Sides { fabric, transfers, arena, client, exposed, registered, .. } = sides;
    let mut ended = Vec::new();
    transfers.destroy(&mut ended);
    assert_eq!(tokens(&ended), [1]);
    assert_eq!(arena.stats().object_bytes, 0);
    while fabric.step() {}
    let at = std::ptr::with_exposed_provenance::<u8>(pieces[0].address as usize);
    // SAFETY: in the client's memory, which is still registered.
    let landed = unsafe { std::slice::from_raw_parts(at, 5000) };
    assert!(landed.iter().all(|&byte| byte == 0));
    drop((client, exposed, registered));
}
