//! Puts from shared memory: by reference where the node can read it, with their bytes elsewhere.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use larder_protocol::limits::HEADER_BYTES;
use larder_protocol::message::{Payload as Form, Put, SharedRegion, Unshare, encode_statuses};
use larder_protocol::{Code, Header, Opcode, Status};
use larder_transport::MappedRegion;

use super::host::Host;
use super::talk::{Talk, answers, object_of};
use crate::error::{Error, KeyError};
use crate::leg::Leg;
use crate::session::Broken;
use crate::shared::{Memories, SharedMemory};

/// A frame that the client wrote.
pub(super) struct Frame {
    pub(super) header: Header,
    pub(super) body: Vec<u8>,
    pub(super) payload: Vec<u8>,
}

pub(super) fn frames(written: &[u8]) -> Vec<Frame> {
    let (mut frames, mut rest) = (Vec::new(), written);
    while let Some(head) = rest.first_chunk::<HEADER_BYTES>() {
        let header = Header::decode(head).unwrap();
        let (body, behind) = rest[HEADER_BYTES..].split_at(header.body_bytes as usize);
        // Checksums that follow come later.
        let (payload, behind) = behind.split_at(behind.len().min(header.payload_bytes as usize));
        rest = behind;
        frames.push(Frame { header, body: body.to_vec(), payload: payload.to_vec() });
    }
    frames
}

impl Talk {
    pub(super) fn frames(&mut self) -> Vec<Frame> {
        let written = self.write(usize::MAX);
        frames(&written)
    }

    pub(super) fn say_stored(&mut self, asked: &Header, count: usize) {
        let mut body = Vec::new();
        encode_statuses(vec![Status::Stored; count].into_iter(), &mut body);
        self.say(&asked.reply(Code::Ok), &body, b"");
    }
}

impl Frame {
    pub(super) fn opcodes(frames: &[Self]) -> Vec<u8> {
        frames.iter().map(|frame| frame.header.opcode).collect()
    }

    /// Where each object of a put is; `None` if its bytes are in the frame.
    pub(super) fn places(&self) -> Vec<Option<(u32, u64)>> {
        let put = Put::decode(&self.body, self.header.payload_bytes).unwrap();
        let places = put.items.iter().map(|item| match item.payload {
            Form::Shared { region, offset } => Some((region, offset)),
            _ => None,
        });
        places.collect()
    }
}

/// Shared memory with this at `offset`.
pub(super) fn memory_with(offset: usize, bytes: &[u8], memories: &Arc<Memories>) -> Bytes {
    let mut memory = SharedMemory::new(1 << 20, memories).unwrap();
    memory[offset..offset + bytes.len()].copy_from_slice(bytes);
    Bytes::from_owner(memory)
}

pub(super) const SHARE: u8 = Opcode::Share as u8;
const UNSHARE: u8 = Opcode::Unshare as u8;
pub(super) const PUT: u8 = Opcode::Put as u8;

#[test]
fn memory_is_given_once_and_named_from_then_on() {
    let (bytes, memories) = (object_of(40_000), Arc::new(Memories::default()));
    let memory = memory_with(512, &bytes, &memories);
    for mut host in [Host::new(), Host::new()] {
        for is_first in [true, false] {
            let object = memory.slice(512..40_512);
            let call = host.talk.put_all(vec![(b"k", object.into())], &memories);
            let mut sent = host.talk.frames();
            let put = sent.pop().unwrap();
            assert_eq!((put.header.opcode, put.payload.len()), (PUT, 0));
            assert_eq!(put.places(), [Some((0, 512))]);
            assert_eq!(Frame::opcodes(&sent), if is_first { vec![SHARE] } else { vec![] });
            for share in sent {
                let told = SharedRegion::decode(&share.body).unwrap();
                assert_eq!(told, SharedRegion { region: 0, bytes: 1 << 20 });
                let descriptor = host.talk.passed.pop().unwrap();
                let region = MappedRegion::of_client(descriptor, told.bytes).unwrap();
                let mut read = vec![0; 40_000];
                region.copy_out(512, &mut read, |_| ());
                assert_eq!(read, bytes);
                host.talk.say(&share.header.reply(Code::Ok), b"", b"");
            }
            assert!(host.talk.passed.is_empty());
            host.talk.say_stored(&put.header, 1);
            host.talk.receive().unwrap();
            assert_eq!(answers(call), [Ok(())]);
            assert!(host.talk.session.flights.is_empty());
        }
    }
}

#[test]
fn only_long_objects_in_shared_memory_are_named() {
    let (bytes, memories) = (object_of(40_000), Arc::new(Memories::default()));
    let (_other, memory) = (memory_with(0, b"", &memories), memory_with(0, &bytes, &memories));
    let objects = |memory: &Bytes| {
        let (short, long) = (memory.slice(1..16_385), memory.slice(1..16_386));
        let alone: Bytes = bytes.clone().into();
        vec![(&b"a"[..], short.into()), (b"b", long.into()), (b"c", alone.into())]
    };
    let mut host = Host::new();
    let call = host.talk.put_all(objects(&memory), &memories);
    let put = host.talk.frames().pop().unwrap();
    assert_eq!(put.places(), [None, Some((1, 1)), None]);
    assert!(put.payload == [&bytes[1..16_385], &bytes[..]].concat());
    host.talk.say_stored(&put.header, 3);
    host.talk.receive().unwrap();
    assert_eq!(answers(call), [Ok(()), Ok(()), Ok(())]);
    // Nothing is shared with this one.
    let mut talk = Talk::new();
    let _call = talk.put_all(objects(&memory), &memories);
    let sent = talk.frames();
    assert_eq!(Frame::opcodes(&sent), [PUT]);
    assert_eq!(sent[0].places(), [None, None, None]);
    assert_eq!(sent[0].payload.len(), 16_384 + 16_385 + 40_000);
}

#[test]
fn a_put_that_goes_elsewhere_goes_in_the_form_of_that_place() {
    let (bytes, memories) = (object_of(40_000), Arc::new(Memories::default()));
    let memory = memory_with(0, &bytes, &memories);
    let (mut here, mut far, mut there) = (Host::new(), Talk::new(), Host::new());
    let objects = vec![(&b"a"[..], memory.slice(..20_000).into()), (b"b", bytes.clone().into())];
    let call = here.talk.put_all(objects, &memories);
    let sent = here.talk.frames();
    assert_eq!(sent.last().unwrap().places(), [Some((0, 0)), None]);
    // Its connection ends.
    let (legs, broken) = here.talk.session.take_all();
    assert_eq!(broken, None);
    for leg in legs {
        for leg in leg.split_again(&far.remote.routes()) {
            far.session.submit(leg, far.now);
        }
    }
    let sent = far.frames();
    assert_eq!(sent[0].places(), [None, None]);
    assert!(sent[0].payload == [&bytes[..20_000], &bytes[..]].concat());
    // That one stores the second, and says that the first belongs to a third.
    let mut body = Vec::new();
    encode_statuses([Status::WrongShard, Status::Stored].into_iter(), &mut body);
    far.say(&sent[0].header.reply(Code::Ok), &body, b"");
    far.receive().unwrap();
    let Some(crate::session::Event::Again(leg, _)) = far.events.pop() else { panic!() };
    for leg in leg.split_again(&there.talk.remote.routes()) {
        there.talk.session.submit(leg, there.talk.now);
    }
    let sent = there.talk.frames();
    assert_eq!(Frame::opcodes(&sent), [SHARE, PUT]);
    assert_eq!((sent[1].places(), sent[1].payload.len()), (vec![Some((0, 0))], 0));
    there.talk.say(&sent[0].header.reply(Code::Ok), b"", b"");
    there.talk.say_stored(&sent[1].header, 1);
    there.talk.receive().unwrap();
    assert_eq!(answers(call), [Ok(()), Ok(())]);
}

#[test]
fn a_put_whose_connection_ends_is_encoded_for_the_next_one() {
    let (bytes, memories) = (object_of(40_000), Arc::new(Memories::default()));
    let memory = memory_with(0, &bytes, &memories);
    let submit = |legs: Vec<Box<Leg>>, talk: &mut Talk, is_split: bool| {
        let routes = talk.remote.routes();
        let split = |leg: Box<Leg>| if is_split { leg.split_again(&routes) } else { vec![leg] };
        legs.into_iter().flat_map(split).for_each(|leg| talk.session.submit(leg, talk.now));
    };
    for is_split in [false, true] {
        let mut here = Host::new();
        let call = here.talk.put_all(vec![(b"k", memory.slice(..40_000).into())], &memories);
        assert_eq!(Frame::opcodes(&here.talk.frames()), [SHARE, PUT]);
        let mut next = Host::new();
        submit(here.talk.session.take_all().0, &mut next.talk, is_split);
        let sent = next.talk.frames();
        assert_eq!(Frame::opcodes(&sent), [SHARE, PUT]);
        assert_eq!((sent[1].places(), sent[1].payload.len()), (vec![Some((0, 0))], 0));
        next.talk.say(&sent[0].header.reply(Code::Ok), b"", b"");
        next.talk.receive().unwrap();
        let mut far = Talk::new();
        submit(next.talk.session.take_all().0, &mut far, is_split);
        let sent = far.frames();
        assert_eq!(Frame::opcodes(&sent), [PUT]);
        assert!(sent[0].places() == [None] && sent[0].payload == bytes);
        let mut last = Host::new();
        submit(far.session.take_all().0, &mut last.talk, is_split);
        let sent = last.talk.frames();
        assert_eq!(Frame::opcodes(&sent), [SHARE, PUT]);
        last.talk.say(&sent[0].header.reply(Code::Ok), b"", b"");
        last.talk.say_stored(&sent[1].header, 1);
        last.talk.receive().unwrap();
        assert_eq!(answers(call), [Ok(())]);
    }
}

#[test]
fn memory_that_was_dropped_is_taken_back_before_its_number_means_another() {
    let (bytes, memories) = (object_of(40_000), Arc::new(Memories::default()));
    let mut host = Host::new();
    let memory = memory_with(0, &bytes, &memories);
    let call = host.talk.put_all(vec![(b"k", memory.slice(..40_000).into())], &memories);
    assert_eq!(host.talk.frames().len(), 2);
    drop(memory);
    // A put still refers to it.
    assert_eq!((host.rings.load(Ordering::Relaxed), host.talk.session.wants_flush()), (0, false));
    host.talk.now += Duration::from_millis(250);
    assert_eq!(host.talk.session.expire(host.talk.now), Ok(1));
    assert_eq!(answers(call), [Err(KeyError::DeadlineExceeded)]);
    assert_eq!((host.rings.load(Ordering::Relaxed), host.talk.session.wants_flush()), (1, true));
    let memory = memory_with(0, &bytes, &memories);
    let _call = host.talk.put_all(vec![(b"k", memory.slice(..40_000).into())], &memories);
    let sent = host.talk.frames();
    assert_eq!(Frame::opcodes(&sent), [UNSHARE, SHARE, PUT]);
    assert_eq!(Unshare::decode(&sent[0].body), Ok(Unshare { region: 0 }));
    assert_eq!(SharedRegion::decode(&sent[1].body).unwrap().region, 0);
    host.talk.say(&sent[0].header.reply(Code::Ok), b"", b"");
    host.talk.receive().unwrap();
    assert!(!host.talk.session.wants_flush());
}

#[test]
fn memory_that_is_never_taken_is_offered_no_more() {
    let (bytes, memories) = (object_of(40_000), Arc::new(Memories::default()));
    let memory = memory_with(0, &bytes, &memories);
    for round in 0..4 {
        let mut host = Host::new();
        let _call = host.talk.put_all(vec![(b"k", memory.slice(..40_000).into())], &memories);
        let sent = host.talk.frames();
        if round == 3 {
            assert_eq!((sent[0].places(), sent[0].payload.len()), (vec![None], 40_000));
            continue;
        }
        assert_eq!(Frame::opcodes(&sent), [SHARE, PUT]);
        host.talk.say(&sent[0].header.reply(Code::Malformed), b"", b"");
        assert_eq!(host.talk.receive(), Err(Broken::Desync("our memory is refused")));
    }
}

#[test]
fn a_descriptor_goes_with_the_first_byte_of_its_frame_alone() {
    let (bytes, memories) = (object_of(40_000), Arc::new(Memories::default()));
    let memory = memory_with(0, &bytes, &memories);
    let mut host = Host::new();
    let _first = host.talk.put(b"a", bytes);
    let _second = host.talk.put_all(vec![(b"b", memory.slice(..40_000).into())], &memories);
    let (mut written, mut passed_at) = (Vec::new(), Vec::new());
    loop {
        let at = written.len();
        let some = host.talk.write(7);
        if some.is_empty() {
            break;
        }
        written.extend(some);
        passed_at.extend(host.talk.passed.drain(..).map(|_| at));
    }
    let sent = frames(&written);
    assert_eq!(Frame::opcodes(&sent), [PUT, SHARE, PUT]);
    let share_at = HEADER_BYTES + sent[0].body.len() + sent[0].payload.len();
    assert!(passed_at.len() == 1 && passed_at[0].abs_diff(share_at) < 7, "{passed_at:?}");
}

#[test]
fn a_put_by_reference_that_is_half_written_at_its_deadline_is_written_to_its_end() {
    let (bytes, memories) = (object_of(40_000), Arc::new(Memories::default()));
    let memory = memory_with(0, &bytes, &memories);
    let mut host = Host::new();
    let call = host.talk.put_all(vec![(b"k", memory.slice(..40_000).into())], &memories);
    let mut written = host.talk.write(HEADER_BYTES + 12 + 100);
    host.talk.now += Duration::from_millis(250);
    assert_eq!(host.talk.session.expire(host.talk.now), Ok(1));
    assert_eq!(answers(call), [Err(KeyError::DeadlineExceeded)]);
    written.extend(host.talk.write(usize::MAX));
    let sent = frames(&written);
    assert_eq!(Frame::opcodes(&sent), [SHARE, PUT]);
    host.talk.say(&sent[0].header.reply(Code::Ok), b"", b"");
    host.talk.say_stored(&sent[1].header, 1);
    host.talk.receive().unwrap();
}

#[test]
fn memories_have_their_limits() {
    let memories = Arc::new(Memories::default());
    let all: Vec<_> = (0..16).map(|_| SharedMemory::new(4096, &memories).unwrap()).collect();
    let take = |bytes| SharedMemory::new(bytes, &memories).map(|memory| memory.len());
    assert!(matches!(take(4096), Err(Error::TooLarge { limit: 16, .. })));
    drop(all);
    assert_eq!(take(1), Ok(4096));
    assert!(matches!(take(0), Err(Error::InvalidArgument { .. })));
    assert!(matches!(take(u64::MAX), Err(Error::TooLarge { .. })));
}
