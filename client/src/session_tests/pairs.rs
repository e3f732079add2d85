//! When a session has a queue pair, and when it asks for another.

use std::sync::Arc;
use std::time::{Duration, Instant};

use larder_protocol::limits::HEADER_BYTES;
use larder_protocol::message::CAPABILITY_REMOTE;
use larder_protocol::{Code, Opcode};
use larder_transport::lend_sources;
use larder_transport::rdma::simulated::{Faults, SimulatedFabric};
use larder_transport::rdma::{AnyFabric, Fabric, QueuePair};

use super::puts_on_host::{Frame, frames};
use super::remote::{CANARY, Link, aimed, aims, landing, only, pair};
use super::talk::{Talk, answers, misses, object_of};
use crate::config::PathChoice;
use crate::error::KeyError;
use crate::object::Payload;
use crate::rdma::Pairing;
use crate::shared::Memories;

#[test]
fn a_pair_that_the_node_cannot_use_is_given_up_for_a_while() {
    let (mut link, mut memory) = Link::new();
    for round in 0..3 {
        landing(&mut memory[..20_000], |landing| {
            let call = link.talk.get_into(b"k", landing);
            let frame = only(link.talk.frames());
            assert!(aims(&frame)[0].is_some());
            link.talk.say(&frame.header.reply(Code::Unreachable), b"", b"");
            link.talk.receive().unwrap();
            let again = link.pair_anew();
            assert_eq!(aims(&again), [None]);
            let (bytes, body) = (object_of(20_000), link.talk.hit(b"k", &object_of(20_000)));
            link.talk.say(&again.header.reply(Code::Ok), &body, &bytes);
            link.talk.receive().unwrap();
            assert_eq!(only(answers(call)).unwrap().bytes, 20_000);
        });
        assert_eq!(memory[..20_000], object_of(20_000));
        // Each time for longer.
        link.talk.now += Duration::from_millis((50 << round) - 1);
        landing(&mut memory[..20_000], |landing| {
            let call = link.talk.get_into(b"k", landing);
            let frame = only(link.talk.frames());
            assert_eq!(aims(&frame), [None], "the new pair is not used yet");
            link.talk.say(&frame.header.reply(Code::Ok), &misses(1), b"");
            link.talk.receive().unwrap();
            assert!(answers(call)[0].is_err());
        });
        link.talk.now += Duration::from_millis(1);
    }
}

#[test]
fn a_request_that_waits_for_half_of_its_time_goes_another_way() {
    let (mut link, mut memory) = Link::new();
    landing(&mut memory[..20_000], |landing| {
        let call = link.talk.get_into(b"k", landing);
        let frame = only(link.talk.frames());
        let due = link.talk.session.next_deadline().unwrap();
        assert_eq!(due, link.talk.now + Duration::from_millis(125));
        link.talk.now += Duration::from_millis(124);
        assert!(!link.talk.session.doubt_pair(link.talk.now));
        link.talk.now += Duration::from_millis(1);
        assert!(link.talk.session.doubt_pair(link.talk.now));
        // What the node does now comes to nothing.
        link.write(&object_of(20_000), aimed(&frame));
        assert!(only(link.run()).outcome.is_err());
        let again = link.pair_anew();
        assert_eq!(aims(&again), [None]);
        link.talk.say(&again.header.reply(Code::Ok), &misses(1), b"");
        link.talk.receive().unwrap();
        assert!(answers(call)[0].as_ref().is_err_and(KeyError::is_miss));
    });
    assert!(memory[..20_000].iter().all(|&byte| byte == CANARY));
}

#[test]
fn a_pair_ends_with_its_connection_before_its_landings_come_home() {
    let (mut link, mut memory) = Link::new();
    landing(&mut memory[..100_000], |landing| {
        let call = link.talk.get_into(b"k", landing);
        let frame = only(link.talk.frames());
        link.write(&object_of(100_000), aimed(&frame));
        let (legs, broken) = link.talk.session.take_all();
        assert_eq!((legs.len(), broken), (1, None));
        drop(legs);
        assert!(answers(call)[0].is_err());
        assert!(only(link.run()).outcome.is_err());
    });
    assert!(memory[..100_000].iter().all(|&byte| byte == CANARY));
}

#[test]
fn without_a_grant_or_a_card_there_is_no_pair() {
    let mut plain = Talk::new();
    assert!(plain.frames().is_empty());
    let any = Some(AnyFabric::Simulated(SimulatedFabric::new(7, Faults::default())));
    let memories = Arc::new(Memories::with_card(any, PathChoice::Auto));
    let mut talk = Talk::unmet_with(Pairing::new(memories));
    talk.hello(0);
    talk.open();
    assert!(talk.frames().is_empty() && !talk.session.pairing.is_granted());
}

#[test]
fn a_node_that_refuses_a_pair_is_asked_again_later() {
    let any = Some(AnyFabric::Simulated(SimulatedFabric::new(7, Faults::default())));
    let memories = Arc::new(Memories::with_card(any, PathChoice::Auto));
    let mut talk = Talk::unmet_with(Pairing::new(memories));
    talk.hello(CAPABILITY_REMOTE);
    let asked = only(talk.frames());
    talk.say(&asked.header.reply(Code::Unreachable), b"", b"");
    talk.receive().unwrap();
    talk.open();
    assert!(talk.frames().is_empty());
    talk.now += Duration::from_millis(999);
    assert!(talk.frames().is_empty());
    talk.now += Duration::from_millis(1);
    assert_eq!(Frame::opcodes(&talk.frames()), [Opcode::Pair as u8]);
}

/// A session whose node was asked for a pair, and the request.
fn asked_first(fabric: &SimulatedFabric) -> (Talk, Frame) {
    let any = Some(AnyFabric::Simulated(fabric.clone()));
    let mut talk =
        Talk::unmet_with(Pairing::new(Arc::new(Memories::with_card(any, PathChoice::Auto))));
    talk.hello(CAPABILITY_REMOTE);
    let asked = only(talk.frames());
    assert_eq!(asked.header.opcode, Opcode::Pair as u8);
    (talk, asked)
}

#[test]
fn the_first_pair_is_awaited_for_a_while_and_for_no_more_than_half_of_a_calls_time() {
    for (deadline_ms, awaited_ms) in [(1000, 25), (20, 10)] {
        let (mut talk, _) = asked_first(&SimulatedFabric::new(7, Faults::default()));
        talk.deadline = Duration::from_millis(deadline_ms);
        let call = talk.get(&[b"k"]);
        let until = talk.session.next_deadline().unwrap();
        assert_eq!(until, talk.now + Duration::from_millis(awaited_ms));
        talk.now += Duration::from_millis(awaited_ms - 1);
        assert!(talk.frames().is_empty());
        talk.now += Duration::from_millis(1);
        assert_eq!(Frame::opcodes(&talk.frames()), [Opcode::Open as u8]);
        talk.session.take_all();
        drop(call);
    }
}

#[test]
fn a_card_that_looks_long_for_its_peer_keeps_no_request_waiting() {
    let fabric = SimulatedFabric::new(7, Faults::default());
    let (mut talk, asked) = asked_first(&fabric);
    let mut body = Vec::new();
    fabric.pair(1).unwrap().address().encode(&mut body);
    fabric.connect_slowly(Duration::from_secs(2));
    let started = Instant::now();
    talk.say(&asked.header.reply(Code::Ok), &body, b"");
    talk.receive().unwrap();
    talk.open();
    assert!(talk.session.pairing.is_connecting());
    assert!(started.elapsed() < Duration::from_secs(1), "somebody waited for the card");
    // It ends with the connection, and nobody waits for that either.
    talk.session.take_all();
    assert!(!talk.session.pairing.is_connecting());
    assert!(started.elapsed() < Duration::from_secs(1), "somebody waited for the card");
}

#[test]
fn an_answer_about_an_earlier_pair_does_not_end_the_one_that_is_up() {
    let (mut link, mut memory) = Link::new();
    let memories = Arc::clone(&link.memories);
    let (first, other) = memory.split_at_mut(70_000);
    let (half, lands) = other.split_at_mut(50_000);
    lend_sources([[&first[..]]], |sources| {
        let objects = vec![
            (&b"sent"[..], object_of(60_000).into()),
            (&b"read"[..], Payload::Source(only(sources))),
        ];
        let put = link.talk.put_all(objects, &memories);
        let mut written = link.talk.write(HEADER_BYTES + 500);
        landing(half, |landing| {
            let call = link.talk.get_into(b"half", landing);
            written.extend(link.talk.write(500));
            link.talk.session.cancel(call.call()).unwrap();
            assert_eq!(answers(call), [Err(KeyError::Cancelled)]);
        });
        written.extend(link.talk.write(usize::MAX));
        let sent = frames(&written);
        assert_eq!(Frame::opcodes(&sent), [Opcode::Put as u8, Opcode::Pair as u8]);
        link.node = pair(&mut link.talk, &link.fabric, &link.registered, &sent[1]);
        link.talk.now += Duration::from_millis(50);
        landing(&mut lands[..50_000], |landing| {
            let call = link.talk.get_into(b"k", landing);
            let asked = only(link.talk.frames());
            link.talk.say(&sent[0].header.reply(Code::Unreachable), b"", b"");
            link.talk.receive().unwrap();
            let again = only(link.talk.frames());
            assert_eq!(again.header.opcode, Opcode::Put as u8, "no other pair is asked for");
            link.write(&object_of(50_000), aimed(&asked));
            assert!(only(link.run()).outcome.is_ok());
            link.say_landed(&asked.header, b"k", &object_of(50_000));
            assert_eq!(only(answers(call)).unwrap().bytes, 50_000);
            link.talk.say_stored(&again.header, 2);
            link.talk.receive().unwrap();
        });
        assert_eq!(answers(put), [Ok(()), Ok(())]);
    });
}

#[test]
fn calls_that_end_early_one_after_the_other_have_one_pair_made() {
    let (mut link, mut memory) = Link::new();
    for is_first in [true, false] {
        landing(&mut memory[..50_000], |landing| {
            let call = link.talk.get_into(b"k", landing);
            assert_eq!(aimed(&only(link.talk.frames())).len(), 1);
            link.talk.session.cancel(call.call()).unwrap();
            assert_eq!(answers(call), [Err(KeyError::Cancelled)]);
        });
        if is_first {
            let asked = only(link.talk.frames());
            link.node = pair(&mut link.talk, &link.fabric, &link.registered, &asked);
        }
    }
    link.talk.now += Duration::from_millis(9);
    assert!(link.talk.frames().is_empty());
    link.talk.now += Duration::from_millis(1);
    assert_eq!(Frame::opcodes(&link.talk.frames()), [Opcode::Pair as u8]);
}

#[test]
fn a_put_that_is_late_behind_one_that_the_node_reads_says_nothing_of_the_node() {
    let (mut link, memory) = Link::new();
    let memories = Arc::clone(&link.memories);
    lend_sources([[&memory[..70_000]]], |sources| {
        let long = vec![(&b"read"[..], Payload::Source(only(sources)))];
        link.talk.deadline = Duration::from_secs(10);
        let long = link.talk.put_all(long, &memories);
        link.talk.deadline = Duration::from_millis(60);
        // A get is served meanwhile, but not behind a put, which waits for the other one.
        for (has_put, has_get, waits) in
            [(false, true, false), (true, false, true), (true, true, true)]
        {
            let put = has_put.then(|| link.talk.put(b"short", vec![1; 9]));
            let get = has_get.then(|| link.talk.get(&[b"short"]));
            link.talk.frames();
            link.talk.now += Duration::from_millis(60);
            assert_eq!(link.talk.session.waits_for_reads(link.talk.now), waits);
            let late = usize::from(has_put) + usize::from(has_get);
            assert_eq!(link.talk.session.expire(link.talk.now), Ok(late));
            if let Some(put) = put {
                assert_eq!(answers(put), [Err(KeyError::DeadlineExceeded)]);
            }
            drop(get);
        }
        link.talk.session.take_all();
        drop(long);
    });
}
