//! The fabric of verbs on a real device, both ends of each connection in this process.
//!
//! The device is the one that `RDMA_DEV` names, else the first with an active port. Without a card,
//! `deploy/rdma-lab/run.sh` runs these on a software device. What a reader would get wrong: nothing
//! here may depend on how fast the device is; one in software is a thousand times slower.

#![cfg(feature = "rdma")]
#![expect(clippy::unwrap_used, reason = "a test; its helpers are not marked as such")]

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{fs, thread};

use larder_protocol::message::RemotePiece;
use larder_transport::rdma::verbs::{VerbsMemory, VerbsPair, devices};
use larder_transport::rdma::{
    DeviceMemory, Ended, Fabric, Held, Memory, QueuePair, Refused, Transfers, TransfersConfig,
    Verbs, VerbsConfig, WorkError,
};
use larder_transport::{Arena, HugePages, Region, Registered, SharedMemory, Slot};

/// A side that moves bytes, and the pair of the other one.
struct Link {
    transfers: Transfers<VerbsPair, VerbsMemory>,
    peer: VerbsPair,
}

/// Slots, registered.
struct Store {
    arena: Arena,
    memory: VerbsMemory,
}

/// Memory that a peer lets be read and written.
struct Shown {
    /// The first field: registered only as long as there is memory.
    memory: VerbsMemory,
    bytes: Box<[AtomicU8]>,
}

impl Store {
    fn new(verbs: &Verbs, bytes: u64) -> Self {
        let region = Arc::new(Region::memfd("verbs-test", bytes, HugePages::No).unwrap());
        let memory = verbs.register(&region).unwrap();
        assert_eq!(memory.remote_key(), None, "no peer reaches a store");
        Self { arena: Arena::new(region), memory }
    }

    fn slot(&self, bytes: &[u8]) -> Slot {
        let mut slot = self.arena.take(bytes.len() as u32).unwrap();
        slot.write(bytes);
        slot.freeze().unwrap()
    }
}

impl Shown {
    fn new(verbs: &Verbs, bytes: usize) -> Self {
        let bytes: Box<[AtomicU8]> = (0..bytes).map(|_| AtomicU8::new(CANARY)).collect();
        let base = bytes.as_ptr().cast_mut().cast();
        // SAFETY: the memory lives longer than the registration, and is shared as atomics.
        let registered = unsafe { Registered::new(base, bytes.len(), None) }.unwrap();
        // SAFETY: the peer is this test.
        let memory = unsafe { verbs.expose(&registered) }.unwrap();
        Self { memory, bytes }
    }

    /// `bytes` bytes from `from` on, in so many pieces of about the same length.
    fn pieces(&self, from: usize, bytes: usize, count: usize) -> Vec<RemotePiece> {
        let base = self.bytes.as_ptr().addr() + from;
        let at = |piece: usize| bytes * piece / count;
        let piece = |piece| RemotePiece {
            address: (base + at(piece)) as u64,
            rkey: self.memory.remote_key().unwrap(),
            bytes: (at(piece + 1) - at(piece)) as u32,
        };
        (0..count).map(piece).collect()
    }

    fn copy(&self) -> Vec<u8> {
        self.bytes.iter().map(|byte| byte.load(Ordering::Relaxed)).collect()
    }

    fn fill(&self, from: usize, bytes: &[u8]) {
        for (to, &byte) in self.bytes[from..].iter().zip(bytes) {
            to.store(byte, Ordering::Relaxed);
        }
    }
}

impl Link {
    fn new(verbs: &Verbs, store: &Store) -> Self {
        let config = TransfersConfig::default();
        let mut own = verbs.pair(config.works_max).unwrap();
        let mut peer = verbs.pair(1).unwrap();
        own.connect(&peer.address()).unwrap();
        peer.connect(&own.address()).unwrap();
        let transfers = Transfers::new(own, store.memory.clone(), config);
        Self { transfers, peer }
    }

    /// Until so many have ended.
    fn ended(&mut self, count: usize) -> Vec<Ended> {
        let (mut ended, until) = (Vec::new(), Instant::now() + LIMIT);
        while ended.len() < count {
            assert!(Instant::now() < until, "{} of {count} have ended", ended.len());
            self.transfers.post();
            self.transfers.poll(&mut ended);
            thread::yield_now();
        }
        assert_eq!(ended.len(), count);
        ended
    }

    fn outcomes(&mut self, count: usize) -> Vec<Result<(), WorkError>> {
        self.ended(count).into_iter().map(|ended| ended.outcome.map(drop)).collect()
    }

    /// That an object gets there.
    fn check(&mut self, store: &Store, shown: &Shown) {
        let bytes = pattern(1, 5000);
        self.transfers.write(0, store.slot(&bytes), 0.., shown.pieces(11, 5000, 3)).unwrap();
        assert_eq!(self.outcomes(1), [Ok(())]);
        assert_eq!(shown.copy()[11..5011], bytes);
    }
}

#[test]
#[ignore = "needs an RDMA device"]
fn bytes_arrive_exactly_both_ways() {
    let (verbs, _alone) = open(VerbsConfig::default());
    let store = Store::new(&verbs, 160 << 20);
    let mut link = Link::new(&verbs, &store);
    let sizes = [(1, 1), (7, 7), (64, 2), (4095, 1), (4096, 3), (4097, 5), (1_000_003, 300)];
    for (turn, (size, count)) in
        sizes.into_iter().chain([(8 << 20, 1), (64 << 20, 1), (64 << 20, 256)]).enumerate()
    {
        let from = 64 + turn;
        let shown = Shown::new(&verbs, size + 200);
        let bytes = pattern(turn, size);
        let pieces = shown.pieces(from, size, count);
        link.transfers.write(7, store.slot(&bytes), 0.., pieces.clone()).unwrap();
        let ended = link.ended(1).pop().unwrap();
        assert_eq!((ended.token, ended.outcome.map(drop)), (7, Ok(())), "{size} in {count}");
        let there = shown.copy();
        assert!(there[from..from + size] == bytes, "{size} in {count} were written");
        assert!(there[..from].iter().chain(&there[from + size..]).all(|&byte| byte == CANARY));

        let bytes = pattern(turn + 100, size);
        shown.fill(from, &bytes);
        let slot = store.arena.take(size as u32).unwrap();
        link.transfers.read(8, slot, pieces).unwrap();
        let Ok(Held::SlotMut(slot)) = link.ended(1).pop().unwrap().outcome else { panic!() };
        assert!(slot.freeze().unwrap()[..] == bytes[..], "{size} in {count} were read");
    }
}

#[test]
#[ignore = "needs an RDMA device"]
fn many_objects_share_a_ring() {
    let (verbs, _alone) = open(VerbsConfig::default());
    let store = Store::new(&verbs, 16 << 20);
    let mut link = Link::new(&verbs, &store);
    let shown = Shown::new(&verbs, 1000 * 100);
    for token in 0..1000 {
        let slot = store.slot(&pattern(token, 100));
        let pieces = shown.pieces(token * 100, 100, 1 + token % 3);
        link.transfers.write(token as u64, slot, 0.., pieces).unwrap();
    }
    let ended = link.ended(1000);
    assert!(ended.iter().map(|ended| ended.token).eq(0..1000), "in order");
    assert!(ended.iter().all(|ended| ended.outcome.is_ok()));
    let there = shown.copy();
    assert!((0..1000).all(|token| there[token * 100..][..100] == pattern(token, 100)));
    let (works, rings) = link.transfers.posted();
    assert!(works > 1000 && rings <= works / 10, "{works} works, {rings} rings");
}

#[test]
#[ignore = "needs an RDMA device"]
fn a_wrong_key_ends_the_pair_and_no_other() {
    let (verbs, _alone) = open(VerbsConfig::default());
    let store = Store::new(&verbs, 1 << 20);
    let shown = Shown::new(&verbs, 8192);
    let mut link = Link::new(&verbs, &store);
    let mut other = Link::new(&verbs, &store);
    link.check(&store, &shown);
    let before = shown.copy();
    let slot = store.slot(&pattern(9, 100));
    let right = shown.pieces(0, 100, 1);
    let mut wrong = right.clone();
    wrong[0].rkey ^= 0x5a5a;
    for (token, pieces) in [wrong, right.clone(), right.clone()].into_iter().enumerate() {
        link.transfers.write(token as u64, slot.clone(), 0.., pieces).unwrap();
    }
    assert_eq!(link.outcomes(3), [Err(WorkError::RemoteAccess); 3]);
    assert_eq!(shown.copy(), before, "what was posted behind it was not done");
    let refused = link.transfers.write(3, slot, 0.., right).unwrap_err();
    assert_eq!(refused, Refused::Ended(WorkError::RemoteAccess));
    other.check(&store, &shown);
    Link::new(&verbs, &store).check(&store, &shown);
}

#[test]
#[ignore = "needs an RDMA device"]
fn a_range_that_is_not_inside_is_refused() {
    let (verbs, _alone) = open(VerbsConfig::default());
    let store = Store::new(&verbs, 1 << 20);
    let shown = Shown::new(&verbs, 8192);
    let mut pieces = shown.pieces(8000, 192, 1);
    pieces[0].bytes += 1;
    let mut link = Link::new(&verbs, &store);
    link.transfers.write(0, store.slot(&pattern(3, 193)), 0.., pieces.clone()).unwrap();
    assert_eq!(link.outcomes(1), [Err(WorkError::RemoteAccess)]);
    let mut link = Link::new(&verbs, &store);
    link.transfers.read(0, store.arena.take(193).unwrap(), pieces).unwrap();
    assert_eq!(link.outcomes(1), [Err(WorkError::RemoteAccess)]);
    assert!(shown.copy().iter().all(|&byte| byte == CANARY));
}

#[test]
#[ignore = "needs an RDMA device"]
fn memory_that_is_not_registered_any_more_is_not_reached() {
    let (verbs, _alone) = open(VerbsConfig::default());
    let store = Store::new(&verbs, 1 << 20);
    let mut link = Link::new(&verbs, &store);
    let Shown { memory, bytes } = Shown::new(&verbs, 8192);
    let shown = Shown { memory, bytes };
    let pieces = shown.pieces(0, 100, 1);
    let Shown { memory, bytes } = shown;
    let clone = memory.clone();
    drop(memory);
    link.transfers.write(0, store.slot(&pattern(1, 100)), 0.., pieces.clone()).unwrap();
    assert_eq!(link.outcomes(1), [Ok(())], "a clone is there");
    drop(clone);
    link.transfers.write(0, store.slot(&pattern(2, 100)), 0.., pieces).unwrap();
    assert_eq!(link.outcomes(1), [Err(WorkError::RemoteAccess)]);
    let there: Vec<_> = bytes[..100].iter().map(|byte| byte.load(Ordering::Relaxed)).collect();
    assert_eq!(there, pattern(1, 100));
}

#[test]
#[ignore = "needs an RDMA device"]
fn a_peer_that_ended_does_not_answer() {
    let (verbs, _alone) = open(IMPATIENT);
    let store = Store::new(&verbs, 1 << 20);
    let shown = Shown::new(&verbs, 8192);
    for is_dropped in [false, true] {
        let mut link = Link::new(&verbs, &store);
        link.check(&store, &shown);
        link.peer.end();
        if is_dropped {
            link.peer = verbs.pair(1).unwrap();
        }
        for token in 0..3 {
            let slot = store.slot(&pattern(2, 100));
            link.transfers.write(token, slot, 0.., shown.pieces(0, 100, 1)).unwrap();
        }
        assert_eq!(link.outcomes(3), [Err(WorkError::NoAnswer); 3], "{is_dropped}");
    }
}

#[test]
#[ignore = "needs an RDMA device"]
fn a_landing_stays_as_it_is_once_its_pair_is_gone() {
    let (verbs, _alone) = open(IMPATIENT);
    let store = Store::new(&verbs, 40 << 20);
    let slot = store.slot(&vec![!CANARY; BIG]);
    for knows in [true, false] {
        let shown = Shown::new(&verbs, BIG);
        let mut link = Link::new(&verbs, &store);
        link.transfers.write(0, slot.clone(), 0.., shown.pieces(0, BIG, 64)).unwrap();
        link.transfers.post();
        wait_for(|| shown.bytes[0].load(Ordering::Relaxed) != CANARY);
        if knows {
            link.transfers.give_up(WorkError::Flushed);
        }
        let Link { mut transfers, peer } = link;
        drop(peer);
        let at_drop = shown.copy();
        thread::sleep(QUIET);
        assert!(shown.copy() == at_drop, "nobody writes it any more");
        let mut ended = Vec::new();
        wait_for(|| {
            transfers.poll(&mut ended);
            !ended.is_empty()
        });
        let outcome = ended.pop().unwrap().outcome.map(drop);
        // It may have been done on a fast device.
        let why = if knows { WorkError::Flushed } else { WorkError::NoAnswer };
        assert!(outcome == Err(why) || outcome.is_ok(), "{outcome:?}");
    }
}

#[test]
#[ignore = "needs an RDMA device"]
fn a_slot_that_was_given_up_is_not_filled_later() {
    let (verbs, _alone) = open(VerbsConfig::default());
    let store = Store::new(&verbs, 40 << 20);
    let shown = Shown::new(&verbs, BIG);
    for is_destroyed in [false, true] {
        let mut link = Link::new(&verbs, &store);
        let slot = store.arena.take(BIG as u32).unwrap();
        let at = slot.offset();
        link.transfers.read(0, slot, shown.pieces(0, BIG, 64)).unwrap();
        link.transfers.post();
        // Some of it is under way.
        thread::sleep(Duration::from_millis(20));
        let mut ended = Vec::new();
        if is_destroyed {
            link.transfers.destroy(&mut ended);
        } else {
            link.transfers.give_up(WorkError::Flushed);
            ended = link.ended(1);
        }
        assert_eq!(ended.len(), 1);
        drop(ended);
        let again = store.slot(&vec![!CANARY; BIG]);
        assert_eq!(again.offset(), at, "the same memory");
        thread::sleep(QUIET);
        assert!(again.iter().all(|&byte| byte == !CANARY), "nobody fills it any more");
    }
}

#[test]
#[ignore = "needs an RDMA device"]
fn a_pair_is_connected_once_and_posts_only_then() {
    let (verbs, _alone) = open(VerbsConfig::default());
    let (mut one, mut two) = (verbs.pair(4).unwrap(), verbs.pair(4).unwrap());
    // SAFETY: no memory is named.
    assert_eq!(unsafe { one.post(&[]) }.unwrap_err().verb, "ibv_post_send");
    one.connect(&two.address()).unwrap();
    assert_eq!(one.connect(&two.address()).unwrap_err().verb, "ibv_modify_qp to RTR");
    one.end();
    one.end();
    // SAFETY: as above.
    assert!(unsafe { one.post(&[]) }.is_err());
    two.end();
    assert!(two.connect(&one.address()).is_err());
    assert_eq!(verbs.pair(u32::MAX).unwrap_err().verb, "ibv_create_qp");
}

#[test]
#[ignore = "needs an RDMA device"]
fn devices_are_listed_and_a_missing_one_is_named() {
    let (verbs, _alone) = open(VerbsConfig::default());
    let found = devices().unwrap();
    let own = found.iter().find(|device| device.name == verbs.device()).unwrap();
    assert!(own.ports.iter().any(|port| port.number == 1 && port.state == "ACTIVE"), "{own}");
    let error = Verbs::open(Some("nonesuch0")).unwrap_err().to_string();
    assert!(error.contains("nonesuch0") && error.contains(verbs.device()), "{error}");
}

#[test]
#[ignore = "needs an RDMA device"]
fn what_is_dropped_is_given_back() {
    let (verbs, _alone) = open(VerbsConfig::default());
    let store = Store::new(&verbs, 1 << 20);
    let cycle = || {
        let shown = Shown::new(&verbs, 8192);
        Link::new(&verbs, &store).check(&store, &shown);
    };
    cycle();
    let before = held();
    for _ in 0..1000 {
        cycle();
    }
    assert_eq!(held(), before);
    for _ in 0..20 {
        let again = open_quietly(VerbsConfig::default());
        let store = Store::new(&again, 1 << 20);
        let shown = Shown::new(&again, 8192);
        let mut link = Link::new(&again, &store);
        // What is left keeps the device open.
        drop(again);
        link.check(&store, &shown);
    }
    assert_eq!(held(), before);
}

/// A device, and the right to be the only test that has one: some count what the process holds.
fn open(config: VerbsConfig) -> (Verbs, MutexGuard<'static, ()>) {
    static ALONE: Mutex<()> = Mutex::new(());
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    (open_quietly(config), alone)
}

fn open_quietly(config: VerbsConfig) -> Verbs {
    let name = std::env::var("RDMA_DEV").ok();
    Verbs::open_with(name.as_deref(), config).unwrap()
}

/// Open descriptors, pinned memory, and what the device has given out, where one can ask.
fn held() -> (usize, Option<String>, Option<Vec<u8>>) {
    let open = fs::read_dir("/proc/self/fd").unwrap().count();
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let pinned = status.lines().find(|line| line.starts_with("VmPin")).map(str::to_owned);
    let given = std::process::Command::new("rdma").args(["resource", "show"]).output();
    (open, pinned, given.ok().filter(|given| given.status.success()).map(|given| given.stdout))
}

fn wait_for(mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + LIMIT;
    while !is_so() {
        assert!(Instant::now() < until, "it does not come");
        thread::yield_now();
    }
}

fn pattern(seed: usize, bytes: usize) -> Vec<u8> {
    // Differs from itself shifted by pages and by packets.
    (seed..seed + bytes).map(|at| (at ^ (at >> 7) ^ (at >> 13)) as u8).collect()
}

/// What nobody writes.
const CANARY: u8 = 0xc5;
const BIG: usize = 32 << 20;
/// An emulated machine that does something else, too, is slow.
const LIMIT: Duration = Duration::from_secs(100);
/// Enough for what is on its way to arrive.
const QUIET: Duration = Duration::from_millis(300);
/// Gives a peer up after some 60 ms.
const IMPATIENT: VerbsConfig = VerbsConfig { answer_timeout: 11, retries: 6 };

#[test]
#[ignore = "needs an RDMA device"]
fn memory_that_is_no_gpus_is_refused_by_its_verb() {
    let (verbs, _alone) = open(VerbsConfig::default());
    let shared = SharedMemory::new(1 << 16).unwrap();
    let memory = DeviceMemory {
        descriptor: shared.descriptor(),
        offset: 0,
        bytes: 1 << 16,
        address: 1 << 40,
    };
    // SAFETY: nothing is told its key, and nothing is registered.
    let refused = unsafe { verbs.expose_device(&memory, Box::new(())) }.unwrap_err();
    assert_eq!(refused.verb, "ibv_reg_dmabuf_mr");
}
