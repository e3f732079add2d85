//! Golden bytes of what came with `CAPABILITY_WANTS`: hints, and puts that may be refused.
//!
//! A request without them is encoded as ever: the older golden files hold that.
#![allow(clippy::unwrap_used, reason = "helpers of tests may panic too")]

mod files;

use files::{assert_golden, encoded, golden, key};
use larder_protocol::DecodeError;
use larder_protocol::message::{CAPABILITY_WANTS, Hints, Match, Payload, Put, PutItem};
use larder_protocol::stats::Stat;

#[test]
fn match_with_hints_is_golden() {
    let golden = golden!("match_hinted");
    let keys = [key(b"k1"), key(b"k2")];
    let hints = Hints {
        class: 2,
        is_last_partial: true,
        chain_objects: 333,
        cost_us: 1500,
        object_bytes: 2 << 20,
    };
    let written = encoded(|out| {
        Match::encode(true, false, keys.iter(), out);
        Match::set_hints(Some(&hints), 0, out);
    });
    assert_golden(&written, &golden);
    let request = Match::decode(&golden).unwrap();
    assert_eq!((request.touch, request.hints), (true, Some(hints)));
    assert_eq!(request.keys.iter().collect::<Vec<_>>(), keys);
    for cut in 0..golden.len() {
        assert!(Match::decode(&golden[..cut]).is_err(), "cut at {cut}");
    }
    assert_eq!(CAPABILITY_WANTS, 4);
}

#[test]
fn put_of_what_is_wanted_is_golden() {
    let golden = golden!("put_if_wanted");
    let item = PutItem {
        key: key(b"k1"),
        object_bytes: 5,
        payload: Payload::Inline,
        depth: 3,
        class_hint: 1,
        cost_hint: 7,
        ttl_ms: 0,
        version: 0,
        tags: &[],
        user_meta: &[],
        parts: &[1, 2, 3, 4, 5, 6, 7, 8],
        seal: 0x0a0b_0c0d,
    };
    let hints = Hints { class: 1, chain_objects: 333, ..Hints::default() };
    let plain = encoded(|out| {
        Put::encode_head(true, false, 1, out);
        item.encode(out);
    });
    let mut written = plain.clone();
    Put::set_wants(true, Some(&hints), 0, &mut written);
    assert_golden(&written, &golden);
    let put = Put::decode(&golden, 5).unwrap();
    assert_eq!((put.if_absent, put.if_wanted, put.hints), (true, true, Some(hints)));
    assert_eq!(put.items.iter().next().map(|item| item.seal), Some(0x0a0b_0c0d));
    // For a node that knows nothing of it.
    Put::set_wants(false, None, 0, &mut written);
    assert_eq!(written, plain);
}

#[test]
fn hints_that_make_no_sense_are_refused() {
    let whole = golden!("match_hinted");
    let with = |at: usize, byte| {
        let mut body = whole.clone();
        let place = body.len() - Hints::BYTES + at;
        body[place] = byte;
        Match::decode(&body).unwrap_err()
    };
    assert_eq!(with(1, 2), DecodeError::Reserved(2));
    assert!(matches!(with(5, 1), DecodeError::TooLong { .. }));
}

#[test]
fn stats_of_refusals_have_their_numbers() {
    assert_eq!((Stat::NotWanted as u16, Stat::RefusedBytes as u16), (45, 46));
}
