//! What is said of wanting, to nodes that know of it and to older ones, and what answers tell.

use std::time::Duration;

use larder_protocol::message::{
    CAPABILITY_WANTS, Hints, Match, MatchReplyWriter, Put, encode_statuses,
};
use larder_protocol::{Code, Key, Status};

use super::puts_on_host::Frame;
use super::talk::{Talk, answers};
use crate::call::{Outcome, Pending};
use crate::error::KeyError;
use crate::matched::MatchResult;
use crate::object::Payload;
use crate::sealing::Seals;
use crate::shared::{Memories, PutSource};
use crate::wanting::Said;
use crate::{KeyResult, PutObject};

const HINTS: Hints =
    Hints { class: 2, is_last_partial: true, chain_objects: 9, cost_us: 0, object_bytes: 100 };
const SAID: Said = Said { if_wanted: true, hints: Some(HINTS) };

fn key(name: &[u8]) -> Key {
    Key::new(name).unwrap()
}

fn of_node(capabilities: u64) -> Talk {
    let mut talk = Talk::unmet();
    talk.greet_node_with(capabilities);
    talk
}

fn ask(talk: &mut Talk, keys: &[Key]) -> Pending<MatchResult> {
    let call = talk.call(Outcome::Match(MatchResult::unanswered(keys.len())));
    talk.submit(&call, |plan| {
        let mut legs = plan.matching(true, false, keys);
        legs.iter_mut().for_each(|leg| leg.said = Said { if_wanted: false, ..SAID });
        legs
    });
    Pending::new(call, Vec::new(), |_, outcome| match outcome {
        Outcome::Match(found) => Ok(found),
        other => panic!("{other:?}"),
    })
}

fn put(talk: &mut Talk, names: &[&[u8]]) -> Pending<Vec<KeyResult<()>>> {
    let call = talk.call(Outcome::Put(vec![Err(KeyError::DeadlineExceeded); names.len()]));
    let mut seals = Seals::default();
    let objects: Vec<PutObject<()>> =
        names.iter().map(|name| PutObject::new(key(name), ())).collect();
    let mut sources = Vec::new();
    for object in &objects {
        seals.add(&talk.namespace, object, [&b"bytes"[..]].into_iter()).unwrap();
        let bytes = Payload::from(b"bytes".to_vec());
        sources.push(PutSource::new(bytes, &Memories::default()));
    }
    let items = seals.items(&objects);
    talk.submit(&call, |plan| {
        let mut legs = plan.put(true, &items, sources);
        legs.iter_mut().for_each(|leg| leg.said = SAID);
        legs
    });
    Pending::new(call, Vec::new(), |_, outcome| match outcome {
        Outcome::Put(keys) => Ok(keys),
        other => panic!("{other:?}"),
    })
}

/// What a put and a match say.
fn said(frames: &[Frame]) -> (bool, Option<Hints>, Option<Hints>) {
    let put = Put::decode(&frames[0].body, frames[0].header.payload_bytes).unwrap();
    assert_eq!((put.if_absent, put.items.len(), frames[0].payload.len()), (true, 2, 10));
    let asked = Match::decode(&frames[1].body).unwrap();
    assert!(asked.touch && asked.keys.len() == 1);
    (put.if_wanted, put.hints, asked.hints)
}

#[test]
fn hints_go_to_nodes_that_know_of_them_and_to_no_other() {
    for (capabilities, expected) in
        [(CAPABILITY_WANTS, (true, Some(HINTS), Some(HINTS))), (0, (false, None, None))]
    {
        let mut talk = of_node(capabilities);
        let calls = (put(&mut talk, &[b"a", b"b"]), ask(&mut talk, &[key(b"a")]));
        assert_eq!(said(&talk.frames()), expected);
        drop(calls);
    }
}

#[test]
fn what_was_said_of_wanting_goes_with_a_leg_that_goes_elsewhere() {
    let mut talk = of_node(CAPABILITY_WANTS);
    let calls = (put(&mut talk, &[b"a", b"b"]), ask(&mut talk, &[key(b"a")]));
    talk.frames();
    let (legs, _) = talk.session.take_all();
    let routes = talk.remote.routes();
    let mut old = of_node(0);
    // Each shard has its own idea of which namespace that is.
    let mut again: Vec<_> = legs.into_iter().flat_map(|leg| leg.split_again(&routes)).collect();
    again.sort_by_key(|leg| leg.opcode as u8 != larder_protocol::Opcode::Put as u8);
    for leg in again {
        assert_eq!((leg.said.hints, leg.opcode as u8 > 0), (SAID.hints, true));
        old.session.submit(leg, old.now);
    }
    assert_eq!(said(&old.frames()), (false, None, None), "an older node is not asked too much");
    drop(calls);
}

#[test]
fn answers_say_what_is_wanted_and_the_next_put_knows() {
    let mut talk = of_node(CAPABILITY_WANTS);
    let keys = [key(b"a"), key(b"b"), key(b"c")];
    let wants = talk.namespace.clone();
    assert_eq!(keys.map(|key| wants.wants().verdict(&key, talk.now)), [None; 3]);
    let call = ask(&mut talk, &keys);
    let asked = talk.frames()[0].header;
    let mut body = Vec::new();
    let mut writer = MatchReplyWriter::begin(3, false, &mut body);
    writer.hit(5, b"", &mut body);
    writer.miss(true, &mut body);
    writer.miss(false, &mut body);
    writer.finish(&mut body);
    talk.say(&asked.reply(Code::Ok), &body, b"");
    talk.receive().unwrap();
    let found = call.wait().unwrap();
    assert_eq!([0, 1, 2].map(|at| found.is_wanted(at)), [false, true, false]);
    let now = talk.now + Duration::from_secs(1);
    assert_eq!(keys.map(|key| wants.wants().verdict(&key, now)), [None, Some(true), Some(false)]);
    let later = talk.now + Duration::from_secs(60);
    assert_eq!(keys.map(|key| wants.wants().verdict(&key, later)), [None; 3], "not for long");
}

#[test]
fn refusals_of_a_put_are_no_damage_and_are_remembered() {
    let mut talk = of_node(CAPABILITY_WANTS);
    let call = put(&mut talk, &[b"a", b"b"]);
    let asked = talk.frames()[0].header;
    let mut body = Vec::new();
    encode_statuses([Status::Stored, Status::NotWanted].into_iter(), &mut body);
    talk.say(&asked.reply(Code::Ok), &body, b"");
    talk.receive().unwrap();
    let not_wanted = KeyError::Status(Status::NotWanted);
    assert_eq!(answers(call), [Ok(()), Err(not_wanted)]);
    let verdicts = [b"a", b"b"].map(|name| talk.namespace.wants().verdict(&key(name), talk.now));
    assert_eq!(verdicts, [None, Some(false)]);
}
