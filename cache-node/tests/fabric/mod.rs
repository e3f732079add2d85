//! A node and its clients on one simulated fabric, which a thread steps.
//!
//! What a reader would get wrong: what a get says of an object that landed is checked against the
//! memory that it landed in, so no wrong byte and no early answer goes unseen.
#![allow(dead_code, reason = "each test file uses its own part of this")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use larder_node::config::Config;
use larder_node::node::Node;
use larder_protocol::message::{
    CAPABILITY_REMOTE, Get, GetAnswer, HelloReply, PairAddress, Payload, RemotePiece,
};
use larder_protocol::wire::Write;
use larder_protocol::{Code, NamespaceSpec, Opcode};
use larder_transport::rdma::simulated::{Faults, PeerMemory, SimulatedFabric, SimulatedPair};
use larder_transport::rdma::{AnyFabric, Fabric, QueuePair};

use crate::raw::object::{Answer, Meaning, Object, verified};
use crate::raw::{Raw, Reply};

/// A node with a card, and the thread that is the network.
pub(crate) struct Stand {
    pub(crate) node: Node,
    pub(crate) fabric: SimulatedFabric,
    pace: Arc<AtomicU8>,
    network: Option<JoinHandle<()>>,
}

impl Stand {
    /// A node of one shard with 64 MiB, changed as wanted.
    pub(crate) fn start(change: impl FnOnce(&mut Config)) -> Self {
        Self::start_with(Faults::default(), change)
    }

    pub(crate) fn start_with(faults: Faults, change: impl FnOnce(&mut Config)) -> Self {
        let fabric = SimulatedFabric::new(7, faults);
        let mut config = Config { memory_bytes: 64 << 20, ..Config::default() };
        change(&mut config);
        let over = Some(AnyFabric::Simulated(fabric.clone()));
        let node = Node::start_over(config, over).unwrap();
        let pace = Arc::new(AtomicU8::new(GO));
        let (own, stepped) = (Arc::clone(&pace), fabric.clone());
        let network = std::thread::spawn(move || {
            loop {
                match own.load(Ordering::Relaxed) {
                    GO if stepped.step() => {}
                    END => return,
                    _ => std::thread::sleep(Duration::from_micros(50)),
                }
            }
        });
        Self { node, fabric, pace, network: Some(network) }
    }

    /// Nothing moves any more.
    pub(crate) fn hold(&self) {
        self.pace.store(HOLD, Ordering::Relaxed);
        // The step that is under way.
        std::thread::sleep(Duration::from_millis(2));
    }

    /// Everything moves again.
    pub(crate) fn go(&self) {
        self.pace.store(GO, Ordering::Relaxed);
    }

    /// A connection that uses no card.
    pub(crate) fn plain(&self) -> Raw {
        Raw::open(self.node.address(), MODEL)
    }
}

impl Drop for Stand {
    fn drop(&mut self) {
        self.pace.store(END, Ordering::Relaxed);
        let network = self.network.take().unwrap();
        assert!(network.join().is_ok(), "the network lives");
    }
}

/// What a get wants: a key, and where its object shall land; nothing for behind the answer.
pub(crate) type Want<'a> = (&'a [u8], Option<&'a [(usize, usize)]>);

/// A client with memory that the node reaches.
pub(crate) struct Far {
    pub(crate) raw: Raw,
    pub(crate) memory: PeerMemory,
    pub(crate) pair: Option<SimulatedPair>,
    fabric: SimulatedFabric,
}

impl Far {
    /// A client whose pair is connected, with so much memory, all [`CANARY`].
    pub(crate) fn connect(stand: &Stand, memory_bytes: usize) -> Self {
        let mut far = Self::greeted(stand, memory_bytes);
        assert_eq!(far.connect_pair(), Code::Ok);
        far
    }

    /// As [`Far::connect`], without a pair.
    pub(crate) fn greeted(stand: &Stand, memory_bytes: usize) -> Self {
        let mut raw = Raw::connect(stand.node.address());
        raw.capabilities = CAPABILITY_REMOTE;
        let reply = raw.hello(0, 0);
        assert_eq!(HelloReply::decode(&reply.body).unwrap().capabilities, CAPABILITY_REMOTE);
        let spec = NamespaceSpec::new("tests", MODEL);
        assert_eq!(raw.open_namespace(&spec, 0).header.code, Code::Ok);
        let fabric = stand.fabric.clone();
        let memory = fabric.peer_memory(memory_bytes, CANARY).unwrap();
        Self { raw, memory, pair: None, fabric }
    }

    /// Ends the pair that there is and connects another.
    pub(crate) fn connect_pair(&mut self) -> Code {
        self.pair = None;
        let (frame, mut pair) = self.pair_frame();
        self.raw.send(&frame);
        let reply = self.pair_reply();
        if reply.header.code == Code::Ok {
            pair.connect(&PairAddress::decode(&reply.body).unwrap()).unwrap();
            self.pair = Some(pair);
        }
        reply.header.code
    }

    /// The answer to such a request: a node tells at once what takes it 20 ms, and what takes
    /// longer behind its next answer.
    pub(crate) fn pair_reply(&mut self) -> Reply {
        let (mut asked, mut pair) = (0, None);
        while pair.is_none() || asked > 0 {
            self.raw.set_patience(SOON);
            let has_come = self.raw.socket().peek(&mut [0; 1]).is_ok();
            self.raw.set_patience(PATIENCE);
            if !has_come {
                let frame = self.raw.match_frame(&[b"anything"], false);
                self.raw.send(&frame);
                asked += 1;
                continue;
            }
            let reply = self.raw.reply();
            if reply.header.opcode == Opcode::Pair as u8 {
                pair = Some(reply);
            } else {
                asked -= 1;
            }
        }
        pair.unwrap()
    }

    /// A request to be connected with a new pair.
    pub(crate) fn pair_frame(&mut self) -> (Vec<u8>, SimulatedPair) {
        let pair = self.fabric.pair(1).unwrap();
        let mut body = Vec::new();
        pair.address().encode(&mut body);
        (self.raw.frame(Opcode::Pair, &body, 0), pair)
    }

    /// Pieces of the memory: where they begin and how long they are.
    pub(crate) fn pieces(&self, places: &[(usize, usize)]) -> Vec<RemotePiece> {
        let (address, rkey) = (self.memory.address(), self.memory.key());
        let piece = |&(at, bytes): &(usize, usize)| RemotePiece {
            address: address + at as u64,
            rkey,
            bytes: bytes as u32,
        };
        places.iter().map(piece).collect()
    }

    pub(crate) fn get_frame(&mut self, get: &Get<'_>, wants: &[Want<'_>]) -> Vec<u8> {
        let wants: Vec<_> =
            wants.iter().map(|(key, to)| (*key, to.map(|places| self.pieces(places)))).collect();
        self.get_frame_of(get, &wants)
    }

    /// A get into any pieces, whatever they are.
    pub(crate) fn get_frame_of(
        &mut self,
        get: &Get<'_>,
        wants: &[(&[u8], Option<Vec<RemotePiece>>)],
    ) -> Vec<u8> {
        let mut body = Vec::new();
        get.encode_head(wants.len(), &mut body);
        for (key, pieces) in wants {
            body.bytes_u8(key);
            match pieces {
                Some(pieces) => Payload::encode_remote(pieces, &mut body),
                None => Payload::Inline.encode(&mut body),
            }
        }
        self.raw.frame(Opcode::Get, &body, 0)
    }

    /// Gets whole objects, and checks all that is said of them and where they landed.
    pub(crate) fn get(&mut self, wants: &[Want<'_>]) -> Vec<Answer> {
        let frame = self.get_frame(&Get::whole(true), wants);
        let reply = self.raw.call(&frame);
        self.answers(&reply, wants)
    }

    pub(crate) fn answers(&self, reply: &Reply, wants: &[Want<'_>]) -> Vec<Answer> {
        assert_eq!(reply.header.code, Code::Ok, "{:?}", reply.header);
        let answers = GetAnswer::decode_all(&reply.body, reply.payload.len() as u64).unwrap();
        assert_eq!(answers.len(), wants.len());
        let meaning: Meaning = self.raw.meaning;
        let mut rest = reply.payload.as_slice();
        let answer = |(answer, (key, to)): (GetAnswer<'_>, &Want<'_>)| {
            let hit = match answer {
                GetAnswer::Miss(status) => return Err(status),
                GetAnswer::Hit(hit) => hit,
            };
            let bytes = hit.sent_bytes as usize;
            let Some(places) = to else {
                let (bytes, behind) = rest.split_at(bytes);
                rest = behind;
                assert!(hit.payload.is_inline());
                return Ok(verified(&hit, bytes, key, &meaning));
            };
            assert!(matches!(hit.payload, Payload::Remote(pieces) if pieces.is_empty()));
            let mut landed = self.landed(places);
            landed.truncate(bytes);
            Ok(verified(&hit, &landed, key, &meaning))
        };
        answers.iter().zip(wants).map(answer).collect()
    }

    /// What is in these places now.
    pub(crate) fn landed(&self, places: &[(usize, usize)]) -> Vec<u8> {
        places.iter().flat_map(|&(at, bytes)| self.memory.read(at, bytes)).collect()
    }

    /// An object whose bytes the node reads from these places, where they are put.
    pub(crate) fn object(&self, key: &[u8], bytes: Vec<u8>, places: &[(usize, usize)]) -> Object {
        let mut rest = bytes.as_slice();
        for &(at, count) in places {
            let (now, behind) = rest.split_at(count);
            self.memory.write(at, now);
            rest = behind;
        }
        assert!(rest.is_empty(), "there are places for all bytes");
        Object { remote: Some(self.pieces(places)), ..Object::new(key, bytes) }
    }
}

/// What memory holds before anything lands there.
pub(crate) const CANARY: u8 = 0xc5;
const MODEL: &str = "far";
/// A node that has not answered by then waits for another request.
const SOON: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(20);
const GO: u8 = 0;
const HOLD: u8 = 1;
const END: u8 = 2;
