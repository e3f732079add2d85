//! Puts from shared memory whose checksums follow them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use larder_protocol::message::Put;
use larder_protocol::wire::Write;
use larder_protocol::{Code, Opcode};

use super::host::Host;
use super::puts_on_host::{Frame, PUT, SHARE, memory_with};
use super::talk::{Talk, answers, object_of};
use crate::error::KeyError;
use crate::object::Payload;
use crate::session::Broken;
use crate::shared::Memories;
use crate::sums::Sums;

const LEN: usize = 300_000;
const GET: u8 = Opcode::Get as u8;

/// Memory with an object of [`LEN`] at 0, and the same as two payloads.
fn memory() -> (Arc<Memories>, Bytes, Vec<u8>) {
    let (bytes, memories) = (object_of(LEN), Arc::new(Memories::default()));
    let memory = memory_with(0, &bytes, &memories);
    (memories, memory, bytes)
}

fn two(memory: &Bytes) -> Vec<(&'static [u8], Payload)> {
    vec![(b"a", memory.slice(..LEN).into()), (b"b", memory.slice(1..LEN).into())]
}

/// The checksum of an object of one part, and its seal, as they travel.
pub(super) fn sums_of(talk: &Talk, key: &[u8], bytes: &[u8]) -> Vec<u8> {
    let (mut sums, seal) = talk.sums(key, 0, b"", bytes);
    sums.u32(seal);
    sums
}

#[test]
fn checksums_follow_what_is_named_and_nothing_comes_between() {
    let (memories, memory, bytes) = memory();
    let mut host = Host::new();
    let call = host.talk.put_unsealed(two(&memory), &memories);
    let behind = host.talk.get(&[b"behind"]);
    let sent = host.talk.frames();
    assert_eq!(Frame::opcodes(&sent), [SHARE, PUT]);
    assert_eq!((sent[1].header.payload_bytes, sent[1].payload.len()), (2 * 12, 0));
    assert_eq!(sent[1].places(), [Some((0, 0)), Some((0, 1))]);
    assert!(Put::decode(&sent[1].body, 24).unwrap().sums_follow);
    assert!(host.talk.write(usize::MAX).is_empty(), "what comes next is not there yet");
    // Long objects one at a time, so that the node has the first while the second is read.
    assert!(host.talk.session.sum_next());
    assert_eq!(host.talk.write(usize::MAX), sums_of(&host.talk, b"a", &bytes));
    assert!(host.talk.session.sum_next());
    let last = sums_of(&host.talk, b"b", &bytes[1..]);
    assert_eq!(host.talk.write(5), last[..5]);
    let written = host.talk.write(usize::MAX);
    assert_eq!(written[..7], last[5..]);
    assert_eq!(Frame::opcodes(&super::puts_on_host::frames(&written[7..])), [GET]);
    assert!(!host.talk.session.sum_next());
    host.talk.say(&sent[0].header.reply(Code::Ok), b"", b"");
    host.talk.say_stored(&sent[1].header, 2);
    host.talk.receive().unwrap();
    assert_eq!(answers(call), [Ok(()), Ok(())]);
    drop(behind);
}

#[test]
fn checksums_are_stated_where_the_bytes_are_sent() {
    let (memories, memory, bytes) = memory();
    let mut far = Talk::new();
    let call = far.put_unsealed(two(&memory), &memories);
    let sent = far.frames();
    assert_eq!(Frame::opcodes(&sent), [PUT]);
    assert_eq!(sent[0].places(), [None, None]);
    assert!(sent[0].payload == [&bytes[..], &bytes[1..]].concat());
    let put = Put::decode(&sent[0].body, sent[0].header.payload_bytes).unwrap();
    assert!(!put.sums_follow);
    for (item, bytes) in put.items.iter().zip([&bytes[..], &bytes[1..]]) {
        let mut stated = item.parts.to_vec();
        stated.u32(item.seal);
        assert_eq!(stated, sums_of(&far, item.key.as_bytes(), bytes));
    }
    far.say_stored(&sent[0].header, 2);
    far.receive().unwrap();
    assert_eq!(answers(call), [Ok(()), Ok(())]);
}

#[test]
fn a_put_that_goes_elsewhere_amid_its_checksums_has_them_all_there() {
    let (memories, memory, bytes) = memory();
    for is_split in [false, true] {
        for steps in 0..3 {
            let (mut here, mut far, mut there) = (Host::new(), Talk::new(), Host::new());
            let call = here.talk.put_unsealed(two(&memory), &memories);
            here.talk.frames();
            for _ in 0..steps {
                assert!(here.talk.session.sum_next());
                assert_eq!(here.talk.write(usize::MAX).len(), 12);
            }
            // Written in part, the connection is of no more use.
            let (mut legs, broken) = here.talk.session.take_all();
            assert_eq!(broken, (steps < 2).then_some(Broken::HalfPut));
            let mut submit = |talk: &mut Talk| {
                for leg in legs.drain(..) {
                    let routes = talk.remote.routes();
                    let split = if is_split { leg.split_again(&routes) } else { vec![leg] };
                    split.into_iter().for_each(|leg| talk.session.submit(leg, talk.now));
                }
            };
            submit(&mut far);
            let sent = far.frames();
            assert!(sent[0].payload == [&bytes[..], &bytes[1..]].concat());
            let put = Put::decode(&sent[0].body, sent[0].header.payload_bytes).unwrap();
            assert!(!put.sums_follow && put.items.iter().all(|item| item.seal != 0));
            legs = far.session.take_all().0;
            let mut submit = |talk: &mut Talk| {
                legs.drain(..).for_each(|leg| talk.session.submit(leg, talk.now));
            };
            submit(&mut there.talk);
            let sent = there.talk.frames();
            assert_eq!(Frame::opcodes(&sent), [SHARE, PUT]);
            let put = Put::decode(&sent[1].body, sent[1].header.payload_bytes).unwrap();
            assert!(!put.sums_follow, "they are known by now");
            there.talk.say(&sent[0].header.reply(Code::Ok), b"", b"");
            there.talk.say_stored(&sent[1].header, 2);
            there.talk.receive().unwrap();
            assert_eq!(answers(call), [Ok(()), Ok(())]);
        }
    }
}

#[test]
fn a_put_of_which_only_a_part_may_be_named_has_its_checksums_stated() {
    let (memories, unfit, bytes) = memory();
    let fit = memory_with(0, &bytes, &memories);
    let both = || vec![(&b"a"[..], unfit.slice(..LEN).into()), (b"b", fit.slice(1..LEN).into())];
    // Connections end on one of the memories, until it is offered no more.
    for _ in 0..3 {
        let mut host = Host::new();
        let call = host.talk.put_unsealed(two(&unfit), &memories);
        assert_eq!(Frame::opcodes(&host.talk.frames()), [SHARE, PUT]);
        drop(host);
        assert_eq!(answers(call), [Err(KeyError::Closed), Err(KeyError::Closed)]);
    }
    let mut host = Host::new();
    let call = host.talk.put_unsealed(both(), &memories);
    let sent = host.talk.frames();
    assert_eq!(Frame::opcodes(&sent), [SHARE, PUT]);
    assert_eq!(sent[1].places(), [None, Some((1, 1))]);
    assert!(sent[1].payload == bytes);
    let put = Put::decode(&sent[1].body, sent[1].header.payload_bytes).unwrap();
    assert!(!put.sums_follow && !host.talk.session.sum_next());
    for (item, bytes) in put.items.iter().zip([&bytes[..], &bytes[1..]]) {
        let mut stated = item.parts.to_vec();
        stated.u32(item.seal);
        assert_eq!(stated, sums_of(&host.talk, item.key.as_bytes(), bytes));
    }
    host.talk.say(&sent[0].header.reply(Code::Ok), b"", b"");
    host.talk.say_stored(&sent[1].header, 2);
    host.talk.receive().unwrap();
    assert_eq!(answers(call), [Ok(()), Ok(())]);
}

#[test]
fn a_call_that_ends_amid_its_checksums_ends_its_connection_only_if_some_are_due() {
    let (memories, memory, _) = memory();
    let mut host = Host::new();
    // Not even launched.
    let call = host.talk.put_unsealed(two(&memory), &memories);
    assert_eq!(host.talk.session.cancel(call.call()), Ok(()));
    assert_eq!(answers(call), [Err(KeyError::Cancelled), Err(KeyError::Cancelled)]);
    // Launched, and not written.
    let call = host.talk.put_unsealed(two(&memory), &memories);
    host.talk.session.pump(host.talk.now);
    assert_eq!(host.talk.session.cancel(call.call()), Ok(()));
    assert!(!host.talk.session.sum_next());
    // Written.
    let call = host.talk.put_unsealed(two(&memory), &memories);
    assert_eq!(host.talk.frames().last().map(|frame| frame.header.opcode), Some(PUT));
    while host.talk.session.sum_next() {}
    assert_eq!(host.talk.write(usize::MAX).len(), 24);
    host.talk.now += Duration::from_secs(3600);
    assert_eq!(host.talk.session.expire(host.talk.now), Ok(1));
    assert_eq!(answers(call), [const { Err(KeyError::DeadlineExceeded) }; 2]);
    // Written in part.
    let call = host.talk.put_unsealed(two(&memory), &memories);
    host.talk.frames();
    assert!(host.talk.session.sum_next());
    assert_eq!(host.talk.session.cancel(call.call()), Err(Broken::HalfPut));
    assert!(!host.talk.session.sum_next());
}

#[test]
fn checksums_are_put_off_only_for_long_objects_in_shared_memory() {
    let memories = Arc::new(Memories::default());
    let own = vec![0; 100_000];
    let are_due = |objects: &[&[&[u8]]]| {
        let seals = memories.seals_of(objects.iter().map(|pieces| pieces.iter().copied()));
        matches!(seals.sums(), Sums::Due)
    };
    assert!(!are_due(&[&[&own]]));
    let memory = memory_with(0, b"", &memories);
    assert!(!are_due(&[&[&own]]));
    assert!(are_due(&[&[&memory]]) && are_due(&[&[&memory[..20_000]], &[&memory[1..]]]));
    assert!(!are_due(&[]) && !are_due(&[&[]]) && !are_due(&[&[&memory[..16_384]]]));
    assert!(!are_due(&[&[&memory], &[&own]]) && !are_due(&[&[&own], &[&memory]]));
    assert!(!are_due(&[&[&memory[..20_000], &memory[20_000..]]]), "in pieces");
    let whole: &[&[u8]] = &[&memory];
    assert!(are_due(&[whole; 2]) && !are_due(&[whole; 3]), "3 MiB");
}
