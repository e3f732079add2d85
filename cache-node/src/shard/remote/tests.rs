//! One shard and one connection, without sockets and executor, over a fabric that a seed drives.
//!
//! Each seed is another order of gets, puts, new pairs, lost links and ends. What must hold in all
//! of them: each get is answered once; what was answered `Ok` has landed, all of it and nothing
//! beside it; what a client was told of does not change any more; nothing is held at the end.

use std::collections::HashMap;
use std::io::IoSlice;
use std::net::{Ipv4Addr, SocketAddr};

use larder_protocol::limits::HEADER_BYTES;
use larder_protocol::message::{
    CAPABILITY_REMOTE, Get, GetAnswer, Hello, Open, Payload, Put, PutItem,
};
use larder_protocol::wire::Write;
use larder_protocol::{Generation, Key, NamespaceSpec, Opcode};
use larder_transport::Arena;
use larder_transport::rdma::Memory;
use larder_transport::rdma::simulated::{Faults, PeerMemory, SimulatedFabric, SimulatedPair};

use super::*;
use crate::config::Config;
use crate::counters::NodeState;
use crate::shard::Identity;

struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit
    }
}

/// A get that was not answered: its objects, and where each goes.
struct Asked {
    items: Vec<(usize, usize)>,
}

struct World {
    random: Random,
    fabric: SimulatedFabric,
    shard: Shard,
    peer: Peer,
    outbox: Outbox,
    namespace: u64,
    memory: PeerMemory,
    pair: Option<SimulatedPair>,
    /// From here on nothing of the client's memory was used yet.
    unused: usize,
    next_id: u64,
    asked: HashMap<u64, Asked>,
    /// What was answered, and what memory held there then.
    told: Vec<(usize, Vec<u8>)>,
    landed: usize,
    unreachable: usize,
}

const OBJECTS: usize = 12;
const ROOM_BYTES: usize = 1 << 20;
const CANARY: u8 = 0xff;

fn object_bytes(number: usize) -> usize {
    number * number * 90
}

/// No byte is the canary.
fn object(number: usize) -> Vec<u8> {
    (0..object_bytes(number)).map(|at| ((at * 7 + number * 31) % 250) as u8).collect()
}

fn key(number: usize) -> Key {
    Key::new(format!("object {number}").as_bytes()).unwrap()
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed.wrapping_mul(0x2545_f491_4f6c_dd1d) | 1);
        let completions_lost = [0, 0, 30][random.below(3)];
        let faults = Faults { completions_lost, completions_doubled: 100 };
        let fabric = SimulatedFabric::new(seed, faults);
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 7400));
        let config = Config { memory_bytes: 16 << 20, listen, ..Config::default() };
        let region = Arc::new(Region::heap(1 << 20).unwrap());
        let card = Card::new(AnyFabric::Simulated(fabric.clone()), &region).unwrap();
        assert_eq!(card.memory.remote_key(), None, "nobody has a key to a node's memory");
        let identity = Identity::new(&config, &NodeState::new(&config), 0).unwrap();
        let mut shard = Shard::new(Arena::new(region), identity, &config);
        shard.use_card(card);
        let memory = fabric.peer_memory(ROOM_BYTES, CANARY).unwrap();
        let mut world = Self {
            random,
            fabric,
            shard,
            peer: Peer::default(),
            outbox: Outbox::default(),
            namespace: 0,
            memory,
            pair: None,
            unused: 0,
            next_id: 0,
            asked: HashMap::new(),
            told: Vec::new(),
            landed: 0,
            unreachable: 0,
        };
        world.greet();
        world.connect();
        (0..OBJECTS).for_each(|number| world.store(number));
        world
    }

    /// Sends a request without a payload and serves it as far as it goes.
    fn request(&mut self, opcode: Opcode, body: &[u8]) -> u64 {
        self.next_id += 1;
        let generation = Generation(u64::from(self.namespace != 0));
        let header = Header {
            namespace: self.namespace,
            generation,
            body_bytes: body.len() as u32,
            ..Header::request(opcode, self.next_id, 1000)
        };
        let Self { shard, peer, outbox, .. } = self;
        match shard.begin(peer, &header, body, false, outbox).unwrap() {
            Step::Replied => {}
            Step::Connect(job) => shard.finish_pair(peer, job.connect(), outbox),
            other => panic!("{other:?}"),
        }
        self.next_id
    }

    fn greet(&mut self) {
        let hello = Hello {
            version_min: 1,
            version_max: 1,
            shard: 0,
            shard_count: 0,
            capabilities: CAPABILITY_REMOTE,
            name: b"seed",
            credential: b"",
        };
        let mut body = Vec::new();
        hello.encode(&mut body);
        self.request(Opcode::Hello, &body);
        let spec = NamespaceSpec::new("tests", "m").encode().unwrap();
        let mut body = Vec::new();
        Open { known: Generation(0), spec: &spec }.encode(&mut body);
        self.request(Opcode::Open, &body);
        self.namespace = self.replies()[1].0.namespace;
    }

    /// Another pair, on both sides.
    fn connect(&mut self) {
        self.pair = None;
        let mut pair = self.fabric.pair(1).unwrap();
        let mut body = Vec::new();
        pair.address().encode(&mut body);
        let id = self.request(Opcode::Pair, &body);
        let mut replies = self.replies();
        let (header, body) = replies.pop().unwrap();
        assert_eq!((header.request_id, header.code), (id, Code::Ok));
        // What was under way is answered before.
        replies.into_iter().for_each(|reply| self.take(reply));
        assert!(self.asked.is_empty(), "{:?}", self.asked.keys());
        pair.connect(&PairAddress::decode(&body).unwrap()).unwrap();
        self.pair = Some(pair);
    }

    /// Stores an object by the store's own means, as a put would.
    fn store(&mut self, number: usize) {
        use larder_protocol::checksum::{Sealed, encode_parts, part_checksums, seal};
        let (bytes, key) = (object(number), key(number));
        let parts = encode_parts(&part_checksums(&bytes, 0));
        let sealed = Sealed {
            namespace_digest: NamespaceSpec::new("tests", "m").digest().unwrap(),
            generation: Generation(1),
            key: key.as_bytes(),
            version: 0,
            object_bytes: bytes.len() as u32,
            user_meta: &[],
        };
        let item = PutItem {
            key,
            object_bytes: bytes.len() as u32,
            payload: Payload::Inline,
            depth: 0,
            class_hint: 0,
            cost_hint: 0,
            ttl_ms: 0,
            version: 0,
            tags: &[],
            user_meta: &[],
            seal: seal(&sealed, &parts),
            parts: &parts,
        };
        let mut body = Vec::new();
        Put::encode_head(false, false, 1, &mut body);
        item.encode(&mut body);
        let header = Header {
            namespace: self.namespace,
            generation: Generation(1),
            payload_bytes: bytes.len() as u64,
            ..Header::request(Opcode::Put, 0, 1000)
        };
        let Self { shard, peer, outbox, .. } = self;
        let step = shard.begin(peer, &header, &body, false, outbox).unwrap();
        let Step::Fill(job) = step else { panic!("{step:?}") };
        let Ok(mut filling) = shard.reserve(&job, &item) else { return };
        filling.unfilled().copy_from_slice(&bytes);
        filling.received(bytes.len(), &parts);
        assert_eq!(shard.commit(&job, &item, filling, false), Status::Stored);
    }

    /// Asks for some objects, each to a place that nothing was written to.
    fn get(&mut self) {
        let count = 1 + self.random.below(4);
        let is_lost = self.random.below(40) == 0;
        let (mut items, mut body) = (Vec::new(), Vec::new());
        Get::whole(true).encode_head(count, &mut body);
        for _ in 0..count {
            let number = self.random.below(OBJECTS + 2);
            body.key(&key(number));
            let at = self.unused;
            let (mut pieces, mut left) = (Vec::new(), object_bytes(number) + self.random.below(9));
            self.unused += left;
            if self.unused > ROOM_BYTES {
                return;
            }
            items.push((number, at));
            let mut address = self.memory.address() + at as u64;
            let rkey = if is_lost { 0 } else { self.memory.key() };
            while left > 0 {
                let bytes = (1 + self.random.below(3000)).min(left);
                pieces.push(RemotePiece { address, rkey, bytes: bytes as u32 });
                (address, left) = (address + bytes as u64, left - bytes);
            }
            Payload::encode_remote(&pieces, &mut body);
        }
        let id = self.request(Opcode::Get, &body);
        self.asked.insert(id, Asked { items });
    }

    /// The frames that wait to be sent.
    fn replies(&mut self) -> Vec<(Header, Vec<u8>)> {
        let mut bytes = Vec::new();
        while !self.outbox.is_empty() {
            let mut slices = [IoSlice::new(&[]); 8];
            let count = self.outbox.slices(&mut slices);
            slices[..count].iter().for_each(|slice| bytes.extend_from_slice(slice));
            let sent = slices[..count].iter().map(|slice| slice.len()).sum();
            self.outbox.advance(sent);
        }
        let (mut replies, mut rest) = (Vec::new(), bytes.as_slice());
        while let Some(header) = rest.first_chunk::<HEADER_BYTES>() {
            let header = Header::decode(header).unwrap();
            let (body, behind) = rest[HEADER_BYTES..].split_at(header.body_bytes as usize);
            assert_eq!(header.payload_bytes, 0, "nothing is sent");
            replies.push((header, body.to_vec()));
            rest = behind;
        }
        assert!(rest.is_empty());
        replies
    }

    /// Checks the answer to a get.
    fn take(&mut self, (header, body): (Header, Vec<u8>)) {
        let asked = self.asked.remove(&header.request_id).expect("answered once, if asked");
        if header.code == Code::Unreachable {
            self.unreachable += 1;
            return;
        }
        assert_eq!(header.code, Code::Ok);
        let answers = GetAnswer::decode_all(&body, 0).unwrap();
        for ((number, at), answer) in asked.items.into_iter().zip(answers.iter()) {
            let landed = match answer {
                GetAnswer::Hit(_) => object(number),
                GetAnswer::Miss(_) => Vec::new(),
            };
            assert!(self.memory.read(at, landed.len()) == landed, "it landed before it was said");
            let room = object_bytes(number);
            let all = self.memory.read(at, room);
            assert!(all[landed.len()..].iter().all(|&byte| byte == CANARY), "nothing for a miss");
            self.landed += landed.len();
            self.told.push((at, all));
        }
    }

    fn look(&mut self) {
        self.shard.collect(&mut self.peer, &mut self.outbox);
        self.replies().into_iter().for_each(|reply| self.take(reply));
    }

    fn step(&mut self) {
        match self.random.below(400) {
            0..60 => self.get(),
            60..70 => self.shard.post(&mut self.peer),
            70..170 => self.look(),
            170 => self.connect(),
            171 => {
                if let Some(pair) = &self.pair {
                    self.fabric.cut(&pair.address());
                }
            }
            172 => self.pair = None,
            173..180 => {
                let number = self.random.below(OBJECTS);
                let mut body = vec![0];
                body.u32(1);
                body.key(&key(number));
                self.request(Opcode::Remove, &body);
                assert_eq!(self.replies().len(), 1);
                self.store(number);
            }
            _ => {
                self.fabric.step();
            }
        }
        self.replies().into_iter().for_each(|reply| self.take(reply));
    }

    /// Ends the connection in whatever state it is; how many bytes landed, and gets did not.
    fn finish(mut self) -> (usize, usize) {
        self.shard.forget(&mut self.peer);
        let under_way: Vec<_> = self.asked.values().flat_map(|asked| &asked.items).collect();
        let mut silent: Vec<_> = under_way
            .iter()
            .map(|(number, at)| (*at, self.memory.read(*at, object_bytes(*number))))
            .collect();
        // A client ends its own pair before it uses a landing again.
        self.pair = None;
        while self.fabric.step() {}
        silent.retain(|(at, bytes)| self.memory.read(*at, bytes.len()) != *bytes);
        assert!(silent.is_empty(), "written after both pairs were gone");
        for (at, bytes) in &self.told {
            assert!(self.memory.read(*at, bytes.len()) == *bytes, "written after the answer");
        }
        assert_eq!((self.shard.sending.value(), self.shard.pairs.value()), (0, 0));
        (self.landed, self.unreachable)
    }
}

#[test]
fn any_order_answers_each_get_once_with_what_has_landed() {
    let (mut landed, mut unreachable) = (0, 0);
    for seed in 0..400 {
        let mut world = World::new(seed);
        let steps = world.random.below(2500);
        (0..steps).for_each(|_| world.step());
        let (bytes, failed) = world.finish();
        (landed, unreachable) = (landed + bytes, unreachable + failed);
    }
    assert!(landed > 10 << 20, "{landed}");
    assert!(unreachable > 300, "{unreachable}");
}

#[test]
fn what_is_under_way_is_told_and_ends() {
    let mut world = World::new(3);
    assert!(!world.peer.is_moving() && world.peer.is_reachable());
    world.shard.now_ms = 50;
    world.get();
    let (bytes, since_ms) = world.peer.moving();
    assert!(world.peer.is_moving() && bytes > 0 && since_ms == 50);
    assert_eq!(world.shard.sending.value(), bytes);
    world.shard.now_ms = 70;
    while world.peer.is_moving() {
        world.look();
        world.fabric.step();
    }
    assert_eq!(world.peer.moving(), (0, 70));
    assert_eq!(world.shard.sending.value(), 0);
}
