//! Thousands of seeds: transfers through a fabric that is slow, loses things and cuts links, held
//! against a plain model of what memory may look like.
//!
//! What must hold in every order: a transfer is told of once; one that succeeded has moved exactly
//! its object; a landing holds nothing but its object and what it held before, and does not change
//! any more once its owner's queue pair is gone; a slot is not used again before its last work.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

use std::collections::HashMap;
use std::sync::Arc;

use larder_protocol::message::RemotePiece;
use larder_transport::rdma::simulated::{Faults, SimulatedFabric, SimulatedMemory, SimulatedPair};
use larder_transport::rdma::{
    Ended, Fabric, Held, Memory, QueuePair, Refused, Transfers, TransfersConfig, WorkError,
};
use larder_transport::{Arena, Region, Registered, Slot};

/// What a landing holds before anything arrives. No object has such a byte.
const CANARY: u8 = 0xff;
const CLIENT_BYTES: usize = 48 << 10;
const OBJECT_BYTES_MAX: u64 = 9000;

/// Byte `at` of object `id`.
fn byte_of(id: u64, at: usize) -> u8 {
    ((id.wrapping_mul(0x9e37_79b9).wrapping_add(at as u64 * 31) >> 3) % 251) as u8
}

fn object(id: u64, bytes: u32) -> Vec<u8> {
    (0..bytes as usize).map(|at| byte_of(id, at)).collect()
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// Memory of a client: the test's own, so looking at it needs no borrow of the client.
struct Bytes(*mut [u8]);

impl Bytes {
    fn new() -> Self {
        Self(Box::into_raw(vec![CANARY; CLIENT_BYTES].into_boxed_slice()))
    }

    fn address(&self) -> u64 {
        self.0.cast::<u8>().expose_provenance() as u64
    }

    fn at(&self, place: &Place) -> Vec<u8> {
        let bytes = place.pieces.iter().flat_map(|&(at, bytes)| at..at + bytes);
        // SAFETY: in the boxed slice, and the fabric writes only in `step`.
        bytes.map(|at| unsafe { *self.0.cast::<u8>().wrapping_add(at) }).collect()
    }

    fn fill(&self, place: &Place, mut with: impl FnMut(usize) -> u8) {
        let places = place.pieces.iter().flat_map(|&(at, bytes)| at..at + bytes);
        // SAFETY: as above.
        places
            .enumerate()
            .for_each(|(n, at)| unsafe { *self.0.cast::<u8>().wrapping_add(at) = with(n) });
    }
}

impl Drop for Bytes {
    fn drop(&mut self) {
        // SAFETY: it was a box, and nobody has it any more: it is kept by what is registered.
        drop(unsafe { Box::from_raw(self.0) });
    }
}

// SAFETY: the test has one thread.
unsafe impl Send for Bytes {}
// SAFETY: as above.
unsafe impl Sync for Bytes {}

/// Pieces of a client's memory: where they begin and how long they are.
#[derive(Clone)]
struct Place {
    pieces: Vec<(usize, usize)>,
}

/// What the model knows of a transfer that was not told of.
struct Under {
    id: u64,
    is_get: bool,
    place: Place,
}

/// One client and the node's end for it.
struct Client {
    bytes: Arc<Bytes>,
    registered: Registered,
    memory: Option<SimulatedMemory>,
    pair: Option<SimulatedPair>,
    node: Option<Transfers<SimulatedPair, SimulatedMemory>>,
    used_to: usize,
    under: HashMap<u64, Under>,
    /// Landings whose owner was told that they are silent, and what they were like then.
    silent: Vec<(Place, Vec<u8>)>,
}

struct Run {
    random: Random,
    fabric: SimulatedFabric,
    region_memory: SimulatedMemory,
    arena: Arena,
    store: HashMap<u64, Slot>,
    clients: Vec<Client>,
    next_id: u64,
    next_token: u64,
    config: TransfersConfig,
    loses: bool,
    succeeded: u64,
    failed: u64,
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed.wrapping_mul(0x2545_f491_4f6c_dd1d) | 1);
        let faults = match random.below(3) {
            0 => Faults::default(),
            1 => Faults { completions_doubled: 100, ..Faults::default() },
            _ => Faults { completions_lost: 60, completions_doubled: 60 },
        };
        let fabric = SimulatedFabric::new(seed, faults);
        let region = Arc::new(Region::heap(256 << 10).unwrap());
        let region_memory = fabric.register(&region).unwrap();
        assert_eq!(region_memory.remote_key(), None, "nobody has a key to a node's memory");
        let config = TransfersConfig {
            works_max: 1 + random.below(12) as u32,
            bytes_max: 1 + random.below(30_000),
            work_bytes_max: 1 + random.below(6000) as u32,
            transfers_max: 1 + random.below(8) as usize,
        };
        let arena = Arena::new(region);
        let (store, clients) = (HashMap::new(), Vec::new());
        let mut run = Self {
            random,
            fabric,
            region_memory,
            arena,
            store,
            clients,
            next_id: 1,
            next_token: 1,
            config,
            loses: faults.completions_lost > 0,
            succeeded: 0,
            failed: 0,
        };
        for _ in 0..1 + run.random.below(3) {
            let client = run.client();
            run.clients.push(client);
        }
        run
    }

    fn client(&mut self) -> Client {
        let bytes = Arc::new(Bytes::new());
        let address = bytes.0.cast::<u8>();
        // SAFETY: `bytes` is kept, and only the fabric and the test, in turns, touch it.
        let registered =
            unsafe { Registered::new(address, CLIENT_BYTES, Some(Arc::clone(&bytes) as _)) };
        let registered = registered.unwrap();
        let mut client = Client {
            bytes,
            registered,
            memory: None,
            pair: None,
            node: None,
            used_to: 0,
            under: HashMap::new(),
            silent: Vec::new(),
        };
        self.connect(&mut client);
        client
    }

    fn connect(&self, client: &mut Client) {
        // SAFETY: the node reads and writes what it is asked to.
        let memory = unsafe { self.fabric.expose(&client.registered) }.unwrap();
        let mut theirs = self.fabric.pair(1).unwrap();
        let mut ours = self.fabric.pair(self.config.works_max).unwrap();
        ours.connect(&theirs.address()).unwrap();
        theirs.connect(&ours.address()).unwrap();
        let node = Transfers::new(ours, self.region_memory.clone(), self.config.clone());
        (client.memory, client.pair, client.node) = (Some(memory), Some(theirs), Some(node));
    }

    /// An object of the store, made if there is room and there is none, or for variety.
    fn stored(&mut self) -> Option<(u64, Slot)> {
        if self.store.is_empty() || self.random.below(3) == 0 {
            let id = self.next_id;
            self.next_id += 1;
            let bytes = 1 + self.random.below(OBJECT_BYTES_MAX) as u32;
            if let Some(mut slot) = self.arena.take(bytes) {
                slot.write(&object(id, bytes));
                self.store.insert(id, slot.freeze().unwrap());
            }
        }
        let mut ids: Vec<u64> = self.store.keys().copied().collect();
        ids.sort_unstable();
        let id = *ids.get(self.random.below(ids.len().max(1) as u64) as usize)?;
        Some((id, self.store[&id].clone()))
    }

    /// So many bytes of a client's memory that nothing used before, in pieces with gaps.
    fn place(&mut self, number: usize, mut bytes: usize) -> Option<Place> {
        let mut pieces = Vec::new();
        let client = &mut self.clients[number];
        while bytes > 0 {
            let piece = 1 + self.random.below(bytes.min(4000) as u64) as usize;
            let at = client.used_to + self.random.below(5) as usize;
            if at + piece > CLIENT_BYTES {
                return None;
            }
            client.used_to = at + piece;
            pieces.push((at, piece));
            bytes -= piece;
        }
        Some(Place { pieces })
    }

    fn begin(&mut self, number: usize, is_get: bool) {
        let client = &self.clients[number];
        let (Some(memory), Some(_), true) = (&client.memory, &client.pair, client.node.is_some())
        else {
            return;
        };
        let rkey = memory.remote_key().unwrap();
        let address = client.bytes.address();
        let remote = |place: &Place| -> Vec<RemotePiece> {
            let piece = |&(at, bytes): &(usize, usize)| RemotePiece {
                address: address + at as u64,
                rkey,
                bytes: bytes as u32,
            };
            place.pieces.iter().map(piece).collect()
        };
        let token = self.next_token;
        self.next_token += 1;
        let (id, place, taken) = if is_get {
            let Some((id, slot)) = self.stored() else { return };
            let from = self.random.below(slot.len() as u64) as usize;
            let Some(place) = self.place(number, slot.len() - from) else { return };
            let pieces = remote(&place);
            let node = self.clients[number].node.as_mut().unwrap();
            // Ranged: told apart in the model by an object of its own.
            let taken = node.write(token, slot, from.., pieces);
            (id << 32 | from as u64, place, taken)
        } else {
            let bytes = 1 + self.random.below(OBJECT_BYTES_MAX) as u32;
            let Some(slot) = self.arena.take(bytes) else { return };
            let Some(place) = self.place(number, bytes as usize) else { return };
            let id = self.next_id;
            self.next_id += 1;
            self.clients[number].bytes.fill(&place, |at| byte_of(id, at));
            let pieces = remote(&place);
            let taken = self.clients[number].node.as_mut().unwrap().read(token, slot, pieces);
            (id << 32, place, taken)
        };
        match taken {
            Ok(()) => drop(self.clients[number].under.insert(token, Under { id, is_get, place })),
            Err(why) => assert!(matches!(why, Refused::Full | Refused::Ended(_)), "{why}"),
        }
    }

    /// What the driver does: rings, and looks.
    fn drive(&mut self, number: usize) {
        let mut ended = Vec::new();
        let Some(node) = self.clients[number].node.as_mut() else { return };
        node.post();
        node.poll(&mut ended);
        self.take(number, ended);
        let client = &mut self.clients[number];
        if client.node.as_ref().is_some_and(|node| node.end().is_some() && node.is_empty()) {
            client.node = None;
            self.silence(number);
        }
    }

    fn take(&mut self, number: usize, ended: Vec<Ended>) {
        for Ended { token, outcome } in ended {
            let client = &mut self.clients[number];
            let under = client.under.remove(&token).expect("a transfer is told of once");
            let found = client.bytes.at(&under.place);
            let (id, from) = (under.id >> 32, (under.id & 0xffff_ffff) as usize);
            match outcome {
                Ok(Held::Slot(_)) => {
                    assert!(under.is_get);
                    let wrong =
                        found.iter().enumerate().find(|&(n, &b)| b != byte_of(id, from + n));
                    assert_eq!(wrong, None, "a get that succeeded has landed whole");
                    self.succeeded += 1;
                }
                Ok(Held::SlotMut(slot)) => {
                    assert!(!under.is_get);
                    let slot = slot.freeze().expect("a put that succeeded is whole");
                    let is_right = slot[..] == object(id, slot.len() as u32)[..];
                    assert!(is_right, "a put that succeeded was read whole");
                    self.store.insert(id, slot);
                    self.succeeded += 1;
                }
                Err(_) => {
                    // The pair is ending. Its client will end its own before it says so.
                    self.failed += 1;
                    client.under.insert(token, under);
                }
            }
        }
    }

    /// The client ends its own pair; then it may say that its landings are silent.
    fn silence(&mut self, number: usize) {
        let client = &mut self.clients[number];
        client.pair = None;
        let told: Vec<u64> = client.under.keys().copied().collect();
        for token in told {
            let Under { id, is_get, place } = &client.under[&token];
            let found = client.bytes.at(place);
            let (id, from) = (id >> 32, (id & 0xffff_ffff) as usize);
            for (at, &byte) in found.iter().enumerate() {
                let own = byte_of(id, from + at);
                assert!(byte == own || *is_get && byte == CANARY, "a byte of something else");
            }
            client.silent.push((place.clone(), found));
            if client.node.is_none() {
                client.under.remove(&token);
            }
        }
    }

    fn check_silence(&self) {
        for client in &self.clients {
            for (place, bytes) in &client.silent {
                assert!(client.bytes.at(place) == *bytes, "a landing changed after it was silent");
            }
        }
    }

    /// One thing that happens.
    fn happen(&mut self) {
        let number = self.random.below(self.clients.len() as u64) as usize;
        match self.random.below(300) {
            0..50 => self.begin(number, true),
            50..90 => self.begin(number, false),
            90..160 => self.drive(number),
            160..270 => drop((0..self.random.below(30)).take_while(|_| self.fabric.step()).count()),
            // Evicted: whoever is sent it still holds it, and its room is taken at once if not.
            270..285 => {
                let ids: Vec<u64> = self.store.keys().copied().collect();
                if let Some(id) = ids.iter().min() {
                    self.store.remove(id);
                }
            }
            285 => {
                // A deadline: the client's pair goes, and the node's when it hears of it.
                self.silence(number);
            }
            286 => {
                if let Some(node) = self.clients[number].node.as_mut() {
                    node.give_up(WorkError::Flushed);
                }
            }
            287 => {
                if let Some(pair) = &self.clients[number].pair {
                    self.fabric.cut(&pair.address());
                }
            }
            288 => self.clients[number].memory = None,
            _ => {
                let is_free =
                    self.clients[number].pair.is_none() && self.clients[number].node.is_none();
                if is_free {
                    let mut client = self.clients.swap_remove(number);
                    self.connect(&mut client);
                    self.clients.push(client);
                }
            }
        }
        self.check_silence();
    }

    /// All that is under way ends, whatever was lost.
    fn end(mut self) -> (u64, u64) {
        // Once more after nothing is left to do, as that makes room for more.
        let mut rounds_idle = 0;
        while rounds_idle < 20 {
            (0..self.clients.len()).for_each(|number| self.drive(number));
            rounds_idle = if self.fabric.step() { 0 } else { rounds_idle + 1 };
            self.check_silence();
        }
        for number in 0..self.clients.len() {
            let Some(node) = self.clients[number].node.take() else { continue };
            let mut ended = Vec::new();
            // Waited for too long: what a driver does at a deadline.
            node.destroy(&mut ended);
            assert!(ended.is_empty() || self.loses, "nothing was lost, and yet somebody waits");
            self.take(number, ended);
            self.silence(number);
        }
        while self.fabric.step() {}
        self.check_silence();
        assert!(self.clients.iter().all(|client| client.under.is_empty()));
        self.store.clear();
        assert_eq!(self.arena.stats().object_bytes, 0, "every slot came home");
        (self.succeeded, self.failed)
    }
}

#[test]
fn no_order_of_events_breaks_memory() {
    let seeds = if cfg!(miri) { 3 } else { 2000 };
    let (mut succeeded, mut failed) = (0, 0);
    for seed in 0..seeds {
        let mut run = Run::new(seed);
        for _ in 0..150 {
            run.happen();
        }
        let (well, ill) = run.end();
        (succeeded, failed) = (succeeded + well, failed + ill);
    }
    // Else it would show nothing.
    assert!(succeeded > 5 * seeds && failed > seeds, "{succeeded} succeeded, {failed} failed");
}
