//! A session against a node that is right, wrong, slow or mean, without sockets.
//!
//! The node is a list of bytes to read. Whatever it says, an answer may be late or missing, but
//! never another object's bytes.

mod copies;
mod host;
mod on_host;
mod pairs;
mod puts_on_host;
mod remote;
mod sums;
mod sums_amid;
mod talk;
mod wants;

use std::time::Duration;

use larder_protocol::limits::HEADER_BYTES;
use larder_protocol::message::encode_statuses;
use larder_protocol::{Code, Generation, Header, Opcode, Status};
use larder_transport::Landing;

use crate::error::KeyError;
use crate::session::{Broken, Event};

use talk::{Talk, answers, misses, object_of};

#[test]
fn objects_arrive_whole_in_reads_of_any_size() {
    for len in [0, 1, 100, 20_000, 70_000, 300_000] {
        for step in [1, 63, 64, 1000, 65_536, usize::MAX] {
            if step < 64 && len > 20_000 {
                continue;
            }
            let (mut talk, bytes) = (Talk::new(), object_of(len));
            talk.node.step = step;
            let owned = talk.get(&[b"k"]);
            let landed = talk.get_into(b"k", Landing::from_vec(vec![0; len.max(1)]));
            let body = talk.hit(b"k", &bytes);
            for asked in talk.sent() {
                talk.say(&asked.reply(Code::Ok), &body, &bytes);
            }
            talk.receive().unwrap();
            let object = answers(owned).remove(0).unwrap();
            assert_eq!(object.bytes, bytes);
            assert_eq!((object.version, &object.user_meta[..]), (5, &b"meta"[..]));
            assert_eq!(answers(landed).remove(0).unwrap().bytes as usize, len);
        }
    }
}

#[test]
fn any_flipped_bit_is_noticed_or_changes_nothing() {
    let bytes = object_of(40);
    let reply_bytes = HEADER_BYTES + Talk::new().hit(b"k", &bytes).len() + bytes.len();
    for bit in 0..reply_bytes * 8 {
        let mut talk = Talk::new();
        let call = talk.get(&[b"k"]);
        let body = talk.hit(b"k", &bytes);
        let asked = talk.sent()[0];
        talk.say(&asked.reply(Code::Ok), &body, &bytes);
        talk.node.bytes[bit / 8] ^= 1 << (bit % 8);
        talk.node.is_over = true;
        let _ = talk.receive();
        drop(talk.session);
        if let Ok(object) = &answers(call)[0] {
            let told = (&object.bytes[..], object.version, &object.user_meta[..]);
            assert_eq!(told, (&bytes[..], 5, &b"meta"[..]), "bit {bit}");
        }
    }
}

#[test]
fn wrong_bytes_are_a_miss_and_the_connection_lives_on() {
    let (mut talk, bytes) = (Talk::new(), object_of(50_000));
    let (first, second) = (talk.get(&[b"k"]), talk.get(&[b"k"]));
    let asked = talk.sent();
    let body = talk.hit(b"k", &bytes);
    let mut damaged = bytes.clone();
    damaged[49_999] ^= 1;
    talk.say(&asked[0].reply(Code::Ok), &body, &damaged);
    // Right bytes, but of another key.
    let body = talk.hit(b"other", &bytes);
    talk.say(&asked[1].reply(Code::Ok), &body, &bytes);
    talk.receive().unwrap();
    for call in [first, second] {
        assert_eq!(answers(call), [Err(KeyError::Status(Status::MissCorrupt))]);
    }
    assert_eq!(talk.session.flights.len(), 0);
}

#[test]
fn a_reply_cut_short_answers_nothing() {
    let bytes = object_of(30);
    let body = Talk::new().hit(b"k", &bytes);
    let whole = HEADER_BYTES + body.len() + bytes.len();
    for cut in 0..whole {
        let mut talk = Talk::new();
        let call = talk.get(&[b"k"]);
        let asked = talk.sent()[0];
        talk.say(&asked.reply(Code::Ok), &body, &bytes);
        talk.node.bytes.truncate(cut);
        talk.node.is_over = true;
        assert_eq!(talk.receive(), Err(Broken::Lost), "cut at {cut}");
        let (legs, broken) = talk.session.take_all();
        assert_eq!((legs.len(), broken), (1, None), "it can be asked elsewhere, cut at {cut}");
        legs.into_iter().for_each(|leg| leg.fail(&KeyError::Cancelled));
        assert_eq!(answers(call), [Err(KeyError::Cancelled)]);
    }
}

type Lie = fn(&mut Talk, &Header);

#[test]
fn answers_out_of_place_end_the_connection() {
    let lies: [(&str, Lie); 10] = [
        ("no such id", |talk, asked| {
            let header = Header { request_id: 9_999, ..asked.reply(Code::Ok) };
            talk.say(&header, &misses(1), b"");
        }),
        ("the same id twice", |talk, asked| {
            talk.say(&asked.reply(Code::Ok), &misses(1), b"");
            talk.say(&asked.reply(Code::Ok), &misses(1), b"");
        }),
        ("another operation", |talk, asked| {
            let header = Header { opcode: Opcode::Put as u8, ..asked.reply(Code::Ok) };
            talk.say(&header, &misses(1), b"");
        }),
        ("a request", |talk, asked| talk.say(asked, &misses(1), b"")),
        ("too many answers", |talk, asked| talk.say(&asked.reply(Code::Ok), &misses(2), b"")),
        ("too few answers", |talk, asked| talk.say(&asked.reply(Code::Ok), &misses(0), b"")),
        ("a payload that nothing claims", |talk, asked| {
            talk.say(&asked.reply(Code::Ok), &misses(1), b"surplus");
        }),
        ("a payload shorter than claimed", |talk, asked| {
            let body = talk.hit(b"k", b"12345");
            talk.say(&asked.reply(Code::Ok), &body, b"1234");
        }),
        ("a payload with a refusal", |talk, asked| {
            talk.say(&asked.reply(Code::Busy), b"", b"12345");
        }),
        ("the status of a put", |talk, asked| {
            let mut body = misses(1);
            body[4] = Status::Stored as u8;
            talk.say(&asked.reply(Code::Ok), &body, b"");
        }),
    ];
    for (name, lie) in lies {
        let mut talk = Talk::new();
        let call = talk.get(&[b"k"]);
        let asked = talk.sent()[0];
        lie(&mut talk, &asked);
        assert!(matches!(talk.receive(), Err(Broken::Desync(_) | Broken::Decode(_))), "{name}");
        drop(talk.session);
        assert!(answers(call)[0].is_err(), "{name}");
    }
}

#[test]
fn a_reply_before_its_request_was_sent_is_out_of_place() {
    let mut talk = Talk::new();
    let call = talk.get(&[b"k"]);
    talk.session.pump(talk.now);
    let header = Header::request(Opcode::Get, 4, 0).reply(Code::Ok);
    talk.say(&header, &misses(1), b"");
    assert_eq!(talk.receive(), Err(Broken::Desync("a request that was not sent")));
    drop(talk.session);
    assert!(answers(call)[0].is_err());
}

#[test]
fn nothing_is_written_to_a_landing_after_its_deadline() {
    for received in [0, HEADER_BYTES + 30, 5_000, 60_000] {
        let (mut talk, bytes) = (Talk::new(), object_of(100_000));
        let landing = Landing::from_vec(vec![0xee; 100_000]);
        let call = talk.get_into(b"k", landing);
        let asked = talk.sent()[0];
        let body = talk.hit(b"k", &bytes);
        talk.say(&asked.reply(Code::Ok), &body, &bytes);
        let late = talk.node.bytes.split_off(received);
        talk.receive().unwrap();
        talk.now += Duration::from_millis(250);
        assert_eq!(talk.session.expire(talk.now), Ok(1));
        assert_eq!(answers(call), [Err(KeyError::DeadlineExceeded)], "its landing was let go");
        // The rest goes nowhere, and what follows is understood.
        talk.node.bytes.extend(late);
        let next = talk.get(&[b"k"]);
        let asked = talk.sent()[0];
        talk.say(&asked.reply(Code::Ok), &body, &bytes);
        talk.receive().unwrap();
        assert_eq!(answers(next)[0].as_ref().unwrap().bytes, bytes);
    }
}

#[test]
fn a_put_that_is_not_begun_is_dropped_at_its_deadline() {
    let mut talk = Talk::new();
    let call = talk.put(b"k", object_of(1000));
    talk.session.pump(talk.now);
    talk.now += Duration::from_millis(250);
    assert_eq!(talk.session.expire(talk.now), Ok(1));
    assert_eq!(answers(call), [Err(KeyError::DeadlineExceeded)]);
    assert!(talk.sent().is_empty(), "nothing of it is ever sent");
}

#[test]
fn a_put_half_written_at_its_deadline_ends_the_connection() {
    for written in [1, HEADER_BYTES, 500] {
        let mut talk = Talk::new();
        let call = talk.put(b"k", object_of(1000));
        assert_eq!(talk.write(written).len(), written);
        talk.now += Duration::from_millis(250);
        assert_eq!(talk.session.expire(talk.now), Err(Broken::HalfPut));
        assert_eq!(answers(call), [Err(KeyError::DeadlineExceeded)]);
    }
}

#[test]
fn a_get_half_written_at_its_deadline_is_written_to_its_end() {
    let mut talk = Talk::new();
    let call = talk.get(&[b"k"]);
    let mut bytes = talk.write(70);
    talk.now += Duration::from_millis(250);
    assert_eq!(talk.session.expire(talk.now), Ok(1));
    assert_eq!(answers(call), [Err(KeyError::DeadlineExceeded)]);
    bytes.extend(talk.write(usize::MAX));
    let header = Header::decode(bytes.first_chunk().unwrap()).unwrap();
    assert_eq!(bytes.len(), HEADER_BYTES + header.body_bytes as usize);
    talk.say(&header.reply(Code::Ok), &misses(1), b"");
    talk.receive().unwrap();
}

#[test]
fn a_refusal_that_overtakes_its_put_is_told_when_the_put_is_written() {
    let mut talk = Talk::new();
    let call = talk.put(b"k", object_of(1000));
    let head = talk.write(200);
    let asked = Header::decode(head.first_chunk().unwrap()).unwrap();
    talk.say(&asked.reply(Code::Busy), b"", b"");
    talk.receive().unwrap();
    assert_eq!(talk.session.flights.len(), 1, "its bytes are still being read");
    let rest = talk.write(usize::MAX);
    let whole = HEADER_BYTES + asked.body_bytes as usize + 1000;
    assert_eq!(head.len() + rest.len(), whole, "the frame is complete");
    talk.receive().unwrap();
    assert_eq!(answers(call), [Err(KeyError::Status(Status::Busy))]);
}

#[test]
fn only_a_refusal_may_overtake_its_request() {
    for (body, payload) in [(misses(1), b"".as_slice()), (Vec::new(), b"1234567890")] {
        let mut talk = Talk::new();
        let call = talk.get(&[b"k"]);
        let head = talk.write(70);
        let asked = Header::decode(head.first_chunk().unwrap()).unwrap();
        let body = if payload.is_empty() { body } else { talk.hit(b"k", payload) };
        talk.say(&asked.reply(Code::Ok), &body, payload);
        assert_eq!(talk.receive(), Err(Broken::Desync("a request that was not sent")));
        drop(talk.session);
        assert!(answers(call)[0].is_err());
    }
}

#[test]
fn a_full_reply_is_asked_for_the_rest() {
    let mut talk = Talk::new();
    let call = talk.get(&[b"a", b"k"]);
    let asked = talk.sent()[0];
    let mut body = talk.hit(b"a", b"12345");
    body[0] = 2;
    body.push(Status::MissReplyFull as u8);
    talk.say(&asked.reply(Code::Ok), &body, b"12345");
    talk.receive().unwrap();
    let Some(Event::Again(leg, Code::Ok)) = talk.events.pop_if(|e| matches!(e, Event::Again(..)))
    else {
        panic!("the rest is asked for");
    };
    for leg in leg.split_again(&talk.remote.routes()) {
        talk.session.submit(leg, talk.now);
    }
    let asked = talk.sent()[0];
    let body = talk.hit(b"k", b"6789");
    talk.say(&asked.reply(Code::Ok), &body, b"6789");
    talk.receive().unwrap();
    let answers = answers(call);
    assert_eq!(answers[0].as_ref().unwrap().bytes, &b"12345"[..]);
    assert_eq!(answers[1].as_ref().unwrap().bytes, &b"6789"[..]);
}

#[test]
fn a_forgotten_namespace_is_opened_again() {
    let mut talk = Talk::new();
    let call = talk.put(b"k", object_of(10));
    let asked = talk.sent()[0];
    talk.say(&asked.reply(Code::UnknownNamespace), b"", b"");
    talk.receive().unwrap();
    let asked = talk.sent()[0];
    assert_eq!(asked.opcode, Opcode::Open as u8);
    let opened = Header { namespace: 5, generation: Generation::FIRST, ..asked.reply(Code::Ok) };
    talk.say(&opened, b"", b"");
    talk.receive().unwrap();
    let asked = talk.sent()[0];
    assert_eq!((asked.opcode, asked.namespace), (Opcode::Put as u8, 5));
    let mut body = Vec::new();
    encode_statuses([Status::Stored].into_iter(), &mut body);
    talk.say(&asked.reply(Code::Ok), &body, b"");
    talk.receive().unwrap();
    assert_eq!(answers(call), [Ok(())]);
}

#[test]
fn an_object_that_a_bump_overtook_was_not_stored() {
    let mut talk = Talk::new();
    let call = talk.put(b"k", object_of(10));
    let asked = talk.sent()[0];
    let current = Generation(asked.generation.0 + 1);
    let mut body = Vec::new();
    encode_statuses([Status::MissGeneration].into_iter(), &mut body);
    talk.say(&Header { generation: current, ..asked.reply(Code::Ok) }, &body, b"");
    talk.receive().unwrap();
    assert_eq!(answers(call), [Err(KeyError::StaleGeneration { current })]);
}
