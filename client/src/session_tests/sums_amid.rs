//! Puts whose checksums follow, amid everything else a connection does, in any order.
//!
//! What a reader would get wrong: the node here reads like the real one, frame by frame. A byte out
//! of place shows as a frame that makes no sense, not as a wrong answer.

use std::sync::Arc;

use bytes::Bytes;
use larder_protocol::checksum::part_count;
use larder_protocol::limits::HEADER_BYTES;
use larder_protocol::message::{Payload as Form, Put};
use larder_protocol::{Code, Generation, Header, Opcode};

use super::host::Host;
use super::puts_on_host::memory_with;
use super::sums::sums_of;
use super::talk::{HANDLE, answers, misses, object_of};
use crate::call::Pending;
use crate::error::{KeyError, KeyResult};
use crate::object::{Object, Payload};
use crate::session::Broken;
use crate::shared::Memories;

const LEN: usize = 20_000;

/// Numbers that look like chance.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % end
    }
}

/// What the node has received, and how far it has read.
#[derive(Default)]
struct Received {
    bytes: Vec<u8>,
    read: usize,
    /// Whether the request at `read` was refused before its payload was here.
    is_refused: bool,
}

impl Received {
    /// Reads what is there and answers it; refuses some puts, as soon as their body is there.
    fn serve(&mut self, host: &mut Host, memory: &Bytes, dice: &mut Dice) {
        while let Some(head) = self.bytes[self.read..].first_chunk::<HEADER_BYTES>() {
            let header = Header::decode(head).expect("a frame where one begins");
            let body_at = self.read + HEADER_BYTES;
            let payload_at = body_at + header.body_bytes as usize;
            let end = payload_at + header.payload_bytes as usize;
            if self.bytes.len() < payload_at {
                return;
            }
            let is_put = header.opcode == Opcode::Put as u8;
            if is_put && !self.is_refused && dice.below(6) == 0 {
                let code = [Code::Busy, Code::UnknownNamespace][dice.below(2)];
                host.talk.say(&header.reply(code), b"", b"");
                self.is_refused = true;
            }
            if self.bytes.len() < end {
                return;
            }
            self.read = end;
            if std::mem::take(&mut self.is_refused) {
                continue;
            }
            let body = &self.bytes[body_at..payload_at];
            if is_put {
                let put = Put::decode(body, header.payload_bytes).unwrap();
                let mut payload = &self.bytes[payload_at..end];
                for item in put.items.iter() {
                    let bytes = match item.payload {
                        Form::Shared { offset, .. } => &memory[offset as usize..][..LEN],
                        _ => payload.split_off(..LEN).unwrap(),
                    };
                    assert_eq!(part_count(item.object_bytes, 0), 1);
                    let made = if put.sums_follow {
                        payload.split_off(..item.sums_bytes()).unwrap().to_vec()
                    } else {
                        [item.parts, &item.seal.to_le_bytes()].concat()
                    };
                    assert_eq!(made, sums_of(&host.talk, item.key.as_bytes(), bytes));
                }
                host.talk.say_stored(&header, put.items.len());
            } else if header.opcode == Opcode::Get as u8 {
                host.talk.say(&header.reply(Code::Ok), &misses(1), b"");
            } else if header.opcode == Opcode::Open as u8 {
                let reply = header.reply(Code::Ok);
                let first = Generation::FIRST;
                host.talk.say(&Header { namespace: HANDLE, generation: first, ..reply }, b"", b"");
            } else {
                host.talk.say(&header.reply(Code::Ok), b"", b"");
            }
        }
    }
}

/// As a connection's flush does it, into a socket with room for `room` bytes.
fn flush(host: &mut Host, mut room: usize) -> Vec<u8> {
    let mut written = Vec::new();
    loop {
        let mut now = host.talk.write(room);
        room -= now.len();
        written.append(&mut now);
        if room == 0 || !host.talk.session.sum_next() {
            host.talk.session.end_early(host.talk.now, &mut host.talk.events).unwrap();
            return written;
        }
    }
}

/// A connection, its node, and the calls that are under way.
struct Play {
    host: Host,
    received: Received,
    dice: Dice,
    puts: Vec<Pending<Vec<KeyResult<()>>>>,
    gets: Vec<Pending<Vec<KeyResult<Object>>>>,
}

impl Play {
    fn new(seed: u64) -> Self {
        let (host, received) = (Host::new(), Received::default());
        let dice = Dice(0x9e37_79b9_7f4a_7c15 ^ seed);
        Self { host, received, dice, puts: Vec::new(), gets: Vec::new() }
    }

    /// Does something; whether a call ended in the midst of its put.
    fn step(&mut self, bytes: &[u8], memory: &Bytes, memories: &Memories) -> bool {
        let Self { host, received, dice, puts, gets } = self;
        let own = |at: usize| -> Payload { bytes[at..at + LEN].to_vec().into() };
        let shared = |at: usize| -> Payload { memory.slice(at..at + LEN).into() };
        let (one, two) = (dice.below(500_000), dice.below(500_000));
        match dice.below(10) {
            0 => puts.push(host.talk.put_unsealed(vec![(b"a", shared(one))], memories)),
            1 => {
                let objects = vec![(&b"b"[..], shared(one)), (b"c", shared(two))];
                puts.push(host.talk.put_unsealed(objects, memories));
            }
            2 => {
                let objects = vec![(&b"d"[..], shared(one)), (b"e", own(two))];
                puts.push(host.talk.put_unsealed(objects, memories));
            }
            3 => gets.push(host.talk.get(&[b"f"])),
            4 if !puts.is_empty() && dice.below(8) == 0 => {
                let call = puts.swap_remove(dice.below(puts.len()));
                let cancelled = host.talk.session.cancel(call.call());
                assert!(matches!(cancelled, Ok(()) | Err(Broken::HalfPut)));
                drop(answers(call));
                return cancelled.is_err();
            }
            5 | 6 => {
                received.serve(host, memory, dice);
                host.talk.receive().unwrap();
            }
            _ => {
                let room_max = [10, 100, 1000, 50_000][dice.below(4)];
                received.bytes.append(&mut flush(host, 1 + dice.below(room_max)));
            }
        }
        false
    }

    /// Has everything answered.
    fn finish(&mut self, memory: &Bytes) {
        let Self { host, received, dice, .. } = self;
        while host.talk.session.has_work() {
            let before = (received.bytes.len(), received.read);
            received.bytes.append(&mut flush(host, 1 << 30));
            received.serve(host, memory, dice);
            let is_told = !host.talk.node.bytes.is_empty();
            host.talk.receive().unwrap();
            let is_progress = is_told || before != (received.bytes.len(), received.read);
            assert!(is_progress, "nothing moves any more");
        }
        assert!(!host.talk.session.sum_next() && host.talk.session.summing.is_empty());
        assert!(host.talk.session.unsent.is_empty());
        assert_eq!(received.read, received.bytes.len());
    }
}

#[test]
fn whatever_happens_meanwhile_the_node_reads_whole_frames_and_right_checksums() {
    let (bytes, memories) = (object_of(1 << 20), Arc::new(Memories::default()));
    let memory = memory_with(0, &bytes, &memories);
    let (mut stored, mut refused, mut halves) = (0, 0, 0);
    for seed in 1..300 {
        let mut play = Play::new(seed);
        let is_broken = (0..80).any(|_| play.step(&bytes, &memory, &memories));
        if is_broken {
            halves += 1;
            drop(play.host.talk.session.take_all());
        } else {
            play.finish(&memory);
        }
        for answer in play.puts.into_iter().flat_map(answers) {
            match answer {
                Ok(()) => stored += 1,
                Err(KeyError::Closed) => assert!(is_broken, "seed {seed}"),
                Err(_) => refused += 1,
            }
        }
        play.gets.into_iter().for_each(|call| assert_eq!(answers(call).len(), 1));
    }
    assert!(stored > 1000 && refused > 100 && halves > 3, "{stored} {refused} {halves}");
}
