//! A session whose node writes landings and reads sources through a card, which is simulated.

use std::sync::Arc;
use std::time::Duration;

use larder_gpu_bridge::{Dock, HostDevice};
use larder_protocol::message::{
    CAPABILITY_REMOTE, Get, PairAddress, Payload as Form, Put, RemotePiece,
};
use larder_protocol::wire::Write;
use larder_protocol::{Code, DecodeError, Header, Opcode, Status};
use larder_transport::rdma::simulated::{Faults, SimulatedFabric, SimulatedMemory, SimulatedPair};
use larder_transport::rdma::{AnyFabric, Ended, Fabric, Held, QueuePair, Transfers};
use larder_transport::{Arena, Landing, Region, Source, lend, lend_sources};

use super::puts_on_host::Frame;
use super::talk::{Talk, answers, misses, object_of};
use crate::config::PathChoice;
use crate::error::KeyError;
use crate::object::Payload;
use crate::rdma::Pairing;
use crate::session::Broken;
use crate::shared::{Memories, SharedMemory};

/// A session with a pair that is up, and the node's end of it.
pub(super) struct Link {
    pub(super) talk: Talk,
    pub(super) fabric: SimulatedFabric,
    pub(super) arena: Arena,
    pub(super) registered: SimulatedMemory,
    pub(super) node: Transfers<SimulatedPair, SimulatedMemory>,
    pub(super) memories: Arc<Memories>,
}

impl Link {
    /// And exposed memory of the client's.
    pub(super) fn new() -> (Self, SharedMemory) {
        let fabric = SimulatedFabric::new(7, Faults::default());
        let any = Some(AnyFabric::Simulated(fabric.clone()));
        let memories = Arc::new(Memories::with_card(any, PathChoice::Auto));
        let mut talk = Talk::unmet_with(Pairing::new(Arc::clone(&memories)));
        talk.hello(CAPABILITY_REMOTE);
        let region = Arc::new(Region::heap(4 << 20).unwrap());
        let registered = fabric.register(&region).unwrap();
        let asked = only(talk.frames());
        let node = pair(&mut talk, &fabric, &registered, &asked);
        talk.open();
        let mut memory = SharedMemory::new(1 << 20, &memories).unwrap();
        memory.fill(CANARY);
        let arena = Arena::new(region);
        // Another pair may be asked for by now.
        talk.now += Duration::from_millis(10);
        (Self { talk, fabric, arena, registered, node, memories }, memory)
    }

    /// Answers that another pair was asked for; what was asked behind that.
    pub(super) fn pair_anew(&mut self) -> Frame {
        let mut asked = self.talk.frames();
        assert_eq!(asked.len(), 2);
        self.node = pair(&mut self.talk, &self.fabric, &self.registered, &asked.remove(0));
        asked.remove(0)
    }

    /// Posts a write of these bytes to where a get said.
    pub(super) fn write(&mut self, bytes: &[u8], pieces: Vec<RemotePiece>) {
        let mut slot = self.arena.take(bytes.len() as u32).unwrap();
        slot.write(bytes);
        self.node.write(1, slot.freeze().unwrap(), .., pieces).unwrap();
        self.node.post();
    }

    /// Until nothing moves any more.
    pub(super) fn run(&mut self) -> Vec<Ended> {
        while self.fabric.step() {}
        let mut ended = Vec::new();
        self.node.poll(&mut ended);
        ended
    }

    pub(super) fn say_landed(&mut self, asked: &Header, key: &[u8], bytes: &[u8]) {
        let mut body = Vec::new();
        body.u32(1);
        self.talk.encode_hit(key, bytes, bytes.len() as u32, Form::landed(), &mut body);
        self.talk.say(&asked.reply(Code::Ok), &body, b"");
        self.talk.receive().unwrap();
    }
}

/// Makes the node's end of a pair that the session asked for.
pub(super) fn pair(
    talk: &mut Talk,
    fabric: &SimulatedFabric,
    registered: &SimulatedMemory,
    asked: &Frame,
) -> Transfers<SimulatedPair, SimulatedMemory> {
    assert_eq!(asked.header.opcode, Opcode::Pair as u8);
    let mut pair = fabric.pair(256).unwrap();
    pair.connect(&PairAddress::decode(&asked.body).unwrap()).unwrap();
    let mut body = Vec::new();
    pair.address().encode(&mut body);
    talk.say(&asked.header.reply(Code::Ok), &body, b"");
    talk.receive().unwrap();
    talk.await_connected();
    Transfers::new(pair, registered.clone(), larder_transport::rdma::TransfersConfig::default())
}

/// The pieces that a get names, by object; `None` if it is to be sent.
pub(super) fn aims(frame: &Frame) -> Vec<Option<Vec<RemotePiece>>> {
    assert_eq!(frame.header.opcode, Opcode::Get as u8);
    let get = Get::decode(&frame.body).unwrap();
    let aims = get.items.iter().map(|item| match item.landing {
        Form::Remote(pieces) => Some(pieces.iter().collect()),
        _ => None,
    });
    aims.collect()
}

pub(super) fn aimed(frame: &Frame) -> Vec<RemotePiece> {
    aims(frame).remove(0).expect("the node is to write it")
}

pub(super) fn only<T>(mut all: Vec<T>) -> T {
    assert_eq!(all.len(), 1);
    all.remove(0)
}

/// Lends one landing to `f`.
pub(super) fn landing<R>(memory: &mut [u8], f: impl FnOnce(Landing) -> R) -> R {
    lend([[memory]], |landings| f(only(landings)))
}

fn source<R>(memory: &[u8], f: impl FnOnce(Source) -> R) -> R {
    lend_sources([[memory]], |sources| f(only(sources)))
}

#[test]
fn an_object_is_written_to_its_landing_and_checked_there() {
    let (mut link, mut memory) = Link::new();
    let bytes = object_of(100_000);
    let (one, rest) = memory.split_at_mut(60_000);
    lend([[&mut one[1..], &mut rest[8..50_000]]], |landings| {
        let call = link.talk.get_into(b"k", only(landings));
        let frame = only(link.talk.frames());
        let pieces = aimed(&frame);
        assert_eq!(pieces.iter().map(|piece| piece.bytes).collect::<Vec<_>>(), [59_999, 49_992]);
        let mut pieces = pieces;
        pieces[1].bytes = 40_001;
        link.write(&bytes, pieces);
        assert!(matches!(only(link.run()).outcome, Ok(Held::Slot(_))));
        link.say_landed(&frame.header, b"k", &bytes);
        assert_eq!(only(answers(call)).unwrap().bytes, 100_000);
    });
    assert!(memory[1..60_000] == bytes[..59_999] && memory[60_008..100_009] == bytes[59_999..]);
    assert!(memory[0] == CANARY && memory[100_009..].iter().all(|&byte| byte == CANARY));
    // The pair is good for the next.
    landing(&mut memory[..50_000], |landing| {
        let call = link.talk.get_into(b"k", landing);
        let frame = only(link.talk.frames());
        assert_eq!(aimed(&frame).len(), 1);
        link.talk.say(&frame.header.reply(Code::Ok), &misses(1), b"");
        link.talk.receive().unwrap();
        assert_eq!(answers(call), [Err(KeyError::Status(Status::Miss))]);
    });
    assert!(!link.talk.session.pairing.is_lost() && link.talk.frames().is_empty());
}

#[test]
fn wrong_bytes_in_a_landing_are_a_miss() {
    let (mut link, mut memory) = Link::new();
    let mut bytes = object_of(30_000);
    landing(&mut memory[..30_000], |landing| {
        let call = link.talk.get_into(b"k", landing);
        let frame = only(link.talk.frames());
        bytes[29_999] ^= 1;
        link.write(&bytes, aimed(&frame));
        link.run();
        bytes[29_999] ^= 1;
        link.say_landed(&frame.header, b"k", &bytes);
        assert_eq!(answers(call), [Err(KeyError::Status(Status::MissCorrupt))]);
    });
    // It is not believed of what was not let.
    let short = &mut memory[..1000];
    landing(short, |landing| {
        let call = link.talk.get_into(b"k", landing);
        let frame = only(link.talk.frames());
        assert_eq!(aims(&frame), [None], "short objects are sent");
        let mut body = Vec::new();
        body.u32(1);
        link.talk.encode_hit(b"k", &bytes[..500], 500, Form::landed(), &mut body);
        link.talk.say(&frame.header.reply(Code::Ok), &body, b"");
        let odd = DecodeError::Value { what: "payload form", found: 2 };
        assert_eq!(link.talk.receive(), Err(Broken::Decode(odd)));
        link.talk.session.take_all();
        assert!(answers(call)[0].is_err());
    });
}

#[test]
fn what_lands_aboard_a_device_is_no_answer_for_who_cannot_look_there() {
    let (mut link, mut memory) = Link::new();
    let any = AnyFabric::Simulated(link.fabric.clone());
    let mut dock = Dock::new(HostDevice, 1 << 20, &any).unwrap();
    let bytes = object_of(30_000);
    landing(&mut memory[..30_000], |landing| {
        let call = link.talk.get_into(b"k", dock.take(landing, 4096));
        let frame = only(link.talk.frames());
        link.write(&bytes, aimed(&frame));
        assert!(only(link.run()).outcome.is_ok());
        link.say_landed(&frame.header, b"k", &bytes);
        assert_eq!(answers(call), [Err(KeyError::Status(Status::MissCorrupt))]);
    });
    assert!(memory.iter().all(|&byte| byte == CANARY), "nothing was written here");
    let soon = std::time::Instant::now() + Duration::from_secs(5);
    let sums = dock.checksums(&[4096..34_096, 0..0], soon).unwrap().unwrap();
    assert_eq!(sums[0], larder_protocol::checksum::crc64(&bytes));
    // What is sent comes to where it would without a device.
    landing(&mut memory[..500], |landing| {
        let call = link.talk.get_into(b"k", dock.take(landing, 0));
        let frame = only(link.talk.frames());
        assert_eq!(aims(&frame), [None], "short objects are sent");
        let body = link.talk.hit(b"k", &bytes[..500]);
        link.talk.say(&frame.header.reply(Code::Ok), &body, &bytes[..500]);
        link.talk.receive().unwrap();
        assert_eq!(only(answers(call)).unwrap().bytes, 500);
    });
    assert!(memory[..500] == bytes[..500] && !link.talk.session.pairing.is_lost());
}

#[test]
fn what_is_not_exposed_is_sent() {
    let (mut link, memory) = Link::new();
    drop(memory);
    let call = link.talk.get_into(b"k", Landing::from_vec(vec![0; 40_000]));
    let frame = only(link.talk.frames());
    assert_eq!(aims(&frame), [None]);
    let (bytes, body) = (object_of(40_000), link.talk.hit(b"k", &object_of(40_000)));
    link.talk.say(&frame.header.reply(Code::Ok), &body, &bytes);
    link.talk.receive().unwrap();
    assert!(answers(call)[0].is_ok());
}

#[test]
fn nothing_is_written_once_a_call_has_ended() {
    for cancels in [true, false] {
        let (mut link, mut memory) = Link::new();
        let bytes = object_of(200_000);
        let (one, other) = memory.split_at_mut(200_000);
        let asked_again = landing(other, |other| {
            landing(one, |one| {
                let call = link.talk.get_into(b"k", one);
                let frame = only(link.talk.frames());
                link.write(&bytes, aimed(&frame));
                // It is half there, and packets are under way.
                (0..40).for_each(|_| assert!(link.fabric.step()));
                if cancels {
                    link.talk.session.cancel(call.call()).unwrap();
                    assert_eq!(answers(call), [Err(KeyError::Cancelled)]);
                } else {
                    link.talk.now += Duration::from_millis(250);
                    assert_eq!(link.talk.session.expire(link.talk.now), Ok(1));
                    assert_eq!(answers(call), [Err(KeyError::DeadlineExceeded)]);
                }
            });
            // Whatever was posted, it is for nothing.
            let call = link.talk.get_into(b"other", other);
            let frames = link.talk.frames();
            assert!(only(link.run()).outcome.is_err());
            link.talk.session.take_all();
            drop(call);
            frames
        });
        let landed = memory[..200_000].iter().zip(&bytes).filter(|(a, b)| a == b).count();
        memory[..200_000].fill(CANARY);
        while link.fabric.step() {}
        assert!(memory[..200_000].iter().all(|&byte| byte == CANARY), "{landed} were there");
        // A pair is asked for at once; until it is there, bytes are sent.
        assert_eq!(Frame::opcodes(&asked_again), [Opcode::Pair as u8, Opcode::Get as u8]);
        assert_eq!(aims(&asked_again[1]), [None]);
    }
}

#[test]
fn what_else_was_aimed_through_a_pair_that_ended_is_asked_again() {
    let (mut link, mut memory) = Link::new();
    let (one, other) = memory.split_at_mut(200_000);
    lend([[one], [other]], |landings| {
        let mut landings = landings.into_iter();
        let first = link.talk.get_into(b"first", landings.next().unwrap());
        let second = link.talk.get_into(b"second", landings.next().unwrap());
        let plain = link.talk.get(&[b"plain"]);
        let frames = link.talk.frames();
        assert_eq!(frames.len(), 3);
        link.talk.session.cancel(first.call()).unwrap();
        assert_eq!(answers(first), [Err(KeyError::Cancelled)]);
        let again = link.talk.frames();
        assert_eq!(Frame::opcodes(&again), [Opcode::Pair as u8, Opcode::Get as u8]);
        assert_eq!(aims(&again[1]), [None], "without the pair");
        // Answers to what was asked before come to nothing.
        link.talk.say(&frames[1].header.reply(Code::Unreachable), b"", b"");
        link.talk.say(&frames[2].header.reply(Code::Ok), &misses(1), b"");
        let (bytes, body) = (object_of(50_000), link.talk.hit(b"second", &object_of(50_000)));
        link.talk.say(&again[1].header.reply(Code::Ok), &body, &bytes);
        link.talk.receive().unwrap();
        assert_eq!(only(answers(second)).unwrap().bytes, 50_000);
        assert!(answers(plain)[0].as_ref().is_err_and(KeyError::is_miss));
    });
    assert_eq!(memory[200_000..250_000], object_of(50_000));
}

#[test]
fn a_put_is_read_from_where_it_lies_or_sent() {
    let (mut link, mut memory) = Link::new();
    let bytes = object_of(70_000);
    memory[5..70_005].copy_from_slice(&bytes);
    let memories = Arc::clone(&link.memories);
    source(&memory[5..70_005], |source| {
        let call = link.talk.put_all(vec![(b"k", Payload::Source(source))], &memories);
        let frame = only(link.talk.frames());
        let put = Put::decode(&frame.body, frame.header.payload_bytes).unwrap();
        let Form::Remote(pieces) = put.items.iter().next().unwrap().payload else {
            panic!("the node is to read it")
        };
        let slot = link.arena.take(70_000).unwrap();
        link.node.read(3, slot, pieces.iter().collect()).unwrap();
        link.node.post();
        match only(link.run()).outcome {
            Ok(Held::SlotMut(slot)) => assert_eq!(slot.freeze().unwrap()[..], bytes),
            other => panic!("{other:?}"),
        }
        link.talk.say_stored(&frame.header, 1);
        link.talk.receive().unwrap();
        assert_eq!(answers(call), [Ok(())]);
    });
    assert!(!link.talk.session.pairing.is_lost());
    source(&memory[5..70_005], |source| {
        let call = link.talk.put_all(vec![(b"k", Payload::Source(source))], &memories);
        let frame = only(link.talk.frames());
        assert_eq!(frame.header.payload_bytes, 0);
        link.talk.say(&frame.header.reply(Code::Unreachable), b"", b"");
        link.talk.receive().unwrap();
        let again = link.pair_anew();
        assert_eq!(again.payload, bytes);
        link.talk.say_stored(&again.header, 1);
        link.talk.receive().unwrap();
        assert_eq!(answers(call), [Ok(())]);
    });
}

/// A session of the same client with a node that has no card.
fn without_a_card(link: &Link) -> Talk {
    let mut talk = Talk::unmet_with(Pairing::new(Arc::clone(&link.memories)));
    talk.hello(0);
    talk.open();
    talk
}

#[test]
fn another_nodes_answer_does_not_settle_what_this_one_may_write() {
    let (mut link, mut memory) = Link::new();
    let mut other = without_a_card(&link);
    landing(&mut memory[..100_000], |landing| {
        let call = link.talk.get_into(b"k", landing);
        let frame = only(link.talk.frames());
        let (pieces, bytes) = (aimed(&frame), object_of(100_000));
        // The connection stays, but the call is for another node to answer.
        let (legs, _) = link.talk.session.take_all();
        legs.into_iter().for_each(|leg| other.session.submit(leg, other.now));
        let again = only(other.frames());
        assert_eq!(aims(&again), [None]);
        other.say(&again.header.reply(Code::Ok), &misses(1), b"");
        other.receive().unwrap();
        assert!(answers(call)[0].as_ref().is_err_and(KeyError::is_miss));
        link.write(&bytes, pieces);
        assert!(only(link.run()).outcome.is_err());
    });
    assert!(memory[..100_000].iter().all(|&byte| byte == CANARY));
}

#[test]
fn a_put_that_was_aimed_is_encoded_anew_for_a_node_without_a_card() {
    let (mut link, mut memory) = Link::new();
    let mut other = without_a_card(&link);
    let bytes = object_of(70_000);
    memory[..70_000].copy_from_slice(&bytes);
    let memories = Arc::clone(&link.memories);
    source(&memory[..70_000], |source| {
        let call = link.talk.put_all(vec![(b"k", Payload::Source(source))], &memories);
        assert_eq!(only(link.talk.frames()).header.payload_bytes, 0);
        let (legs, _) = link.talk.session.take_all();
        legs.into_iter().for_each(|leg| other.session.submit(leg, other.now));
        let again = only(other.frames());
        let put = Put::decode(&again.body, again.header.payload_bytes).unwrap();
        assert!(put.items.iter().all(|item| item.payload.is_inline()));
        assert_eq!(again.payload, bytes);
        other.say_stored(&again.header, 1);
        other.receive().unwrap();
        assert_eq!(answers(call), [Ok(())]);
    });
}

pub(super) const CANARY: u8 = 0xa5;
