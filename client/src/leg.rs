//! One leg of a call: what one shard is asked in one frame, and everything its answer needs.
//!
//! The encoded frame is the only record of what was asked. A leg that has to go elsewhere is read
//! back from it, so that the common case keeps no second copy. Dropping a leg is how it ends.

use std::ops::Range;
use std::sync::Arc;

use larder_protocol::limits::HEADER_BYTES;
use larder_protocol::message::{Get, Match, Pin, Put, PutItem, Remove};
use larder_protocol::{Key, Opcode};
use larder_transport::Landing;

use crate::call::Call;
use crate::error::KeyError;
use crate::namespace::Namespace;
use crate::rdma::Aim;
use crate::request::{GetHead, Plan};
use crate::router::{Indices, Route, Routes};
use crate::shared::PutSource;
use crate::sums::Sums;
use crate::wanting::Said;

/// What one shard is asked on behalf of a call.
#[derive(Debug)]
pub(crate) struct Leg {
    pub(crate) call: Arc<Call>,
    pub(crate) route: Route,
    pub(crate) opcode: Opcode,
    pub(crate) namespace: Option<Namespace>,
    /// How often it was sent before.
    pub(crate) attempts: u8,
    /// Room for a header, then the body.
    pub(crate) frame: Vec<u8>,
    /// Place in the call of each key of the body.
    pub(crate) indices: Indices,
    /// How many keys, from the first, have their answer.
    pub(crate) answered: usize,
    /// Keys before that which have to be asked for again, by their places in the body.
    pub(crate) again: Vec<u32>,
    /// Whether some of these belong to another shard.
    pub(crate) is_misplaced: bool,
    /// For puts: the objects' bytes.
    pub(crate) sources: Vec<PutSource>,
    /// For puts: how far their checksums are.
    pub(crate) sums: Sums,
    /// For matches and puts: what they say to nodes that understand it.
    pub(crate) said: Said,
    /// For gets into landings: one for each key.
    pub(crate) landings: Vec<Landing>,
    /// For gets.
    pub(crate) get: GetHead,
    /// Payload bytes of the frame.
    pub(crate) payload_bytes: u64,
    /// If the frame has the node's network card move some of it: how.
    pub(crate) aim: Option<Aim>,
}

impl Leg {
    pub(crate) fn body(&self) -> &[u8] {
        &self.frame[HEADER_BYTES..]
    }

    /// The keys of a put.
    pub(crate) fn put_keys(&self) -> impl Iterator<Item = Key> {
        let request = Put::decode(self.body(), self.payload_bytes).expect("encoded by this client");
        request.items.iter().map(|item| item.key)
    }

    /// Says to a node what it understands, and no more.
    pub(crate) fn say_wants(&mut self, are_understood: bool) {
        let Said { if_wanted, hints } = self.said;
        let hints = hints.as_ref().filter(|_| are_understood);
        match self.opcode {
            Opcode::Put => {
                let if_wanted = if_wanted && are_understood;
                Put::set_wants(if_wanted, hints, HEADER_BYTES, &mut self.frame);
            }
            Opcode::Match => Match::set_hints(hints, HEADER_BYTES, &mut self.frame),
            _ => {}
        }
    }

    /// Whether it removes by tag.
    pub(crate) fn is_tag(&self) -> bool {
        self.opcode == Opcode::Remove && matches!(Remove::decode(self.body()), Ok(Remove::Tag(_)))
    }

    /// Bytes that this leg is known to move.
    pub(crate) fn bytes(&self) -> u64 {
        self.payload_bytes + self.landings.iter().map(Landing::len).sum::<u64>()
    }

    /// Ends it: keys without an answer get `error`.
    pub(crate) fn fail(mut self: Box<Self>, error: &KeyError) {
        self.fail_open(error);
    }

    fn fail_open(&mut self, error: &KeyError) {
        let open = self.open_positions();
        if open.is_empty() {
            return;
        }
        self.call.answer(|outcome| {
            open.iter().for_each(|&at| outcome.fail(self.indices.at(at as usize), error));
        });
        self.close();
    }

    /// Says that nothing is left to be answered through this leg.
    fn close(&mut self) {
        self.answered = self.indices.len();
        self.again.clear();
    }

    /// Places in the body of the keys that have no answer yet.
    fn open_positions(&self) -> Vec<u32> {
        let rest = self.answered as u32..self.indices.len() as u32;
        self.again.iter().copied().chain(rest).collect()
    }

    /// Asks for the keys without an answer anew, wherever they belong by now. Answers the legs to
    /// send; keys that nobody can be asked for have failed already.
    pub(crate) fn split_again(mut self: Box<Self>, routes: &Routes) -> Vec<Box<Self>> {
        let Some(namespace) = self.namespace.clone() else {
            // It asks one shard about itself, so there is nowhere else to go.
            return vec![self];
        };
        self.state_sums();
        let open = self.open_positions();
        let base: Vec<u32> = open.iter().map(|&at| self.indices.at(at as usize) as u32).collect();
        let (frame, call) = (std::mem::take(&mut self.frame), Arc::clone(&self.call));
        let body = &frame[HEADER_BYTES..];
        let said = self.said;
        let plan = Plan {
            call: &call,
            routes,
            namespace: &namespace,
            base: Some(&base),
            attempts: self.attempts,
        };
        let mut legs = match self.opcode {
            Opcode::Get => {
                let request = Get::decode(body).expect("encoded by this client");
                let keys = pick(request.items.iter().map(|item| item.key), &open);
                let landings = take_landings(&mut self.landings, &open);
                plan.get(self.get, &keys, landings)
            }
            Opcode::Put => {
                let request =
                    Put::decode(body, self.payload_bytes).expect("encoded by this client");
                let items: Vec<PutItem<'_>> = pick(request.items.iter(), &open);
                let sources = open.iter().map(|&at| self.sources[at as usize].take());
                plan.put(request.if_absent, &items, sources.collect())
            }
            Opcode::Match => {
                let request = Match::decode(body).expect("encoded by this client");
                plan.matching(request.touch, request.with_meta, &pick(request.keys.iter(), &open))
            }
            Opcode::Remove => match Remove::decode(body).expect("encoded by this client") {
                Remove::Keys(keys) => plan.remove_from(self.route, &pick(keys.iter(), &open)),
                Remove::Tag(_) => {
                    self.frame = frame;
                    return vec![self];
                }
            },
            Opcode::Pin => {
                let request = Pin::decode(body).expect("encoded by this client");
                plan.pin_at(self.route, request.keep_ms, &pick(request.keys.iter(), &open))
            }
            _ => {
                self.frame = frame;
                return vec![self];
            }
        };
        legs.iter_mut().for_each(|leg| leg.said = said);
        // What it had to ask is asked by others now, which count already.
        self.close();
        legs
    }
}

/// A leg cannot be lost: however it ends, its call learns of it, and not before the caller's memory
/// was let go.
impl Drop for Leg {
    fn drop(&mut self) {
        self.fail_open(&KeyError::Closed);
        self.sources.clear();
        self.landings.clear();
        self.call.leg_ended();
    }
}

fn pick<T>(all: impl Iterator<Item = T>, positions: &[u32]) -> Vec<T> {
    let mut wanted = positions.iter().peekable();
    let picked = all
        .enumerate()
        .filter(|(at, _)| wanted.next_if(|&&position| position as usize == *at).is_some());
    picked.map(|(_, item)| item).collect()
}

fn take_landings(landings: &mut [Landing], positions: &[u32]) -> Vec<Landing> {
    if landings.is_empty() {
        return Vec::new();
    }
    let nothing = || Landing::from_vec(Vec::new());
    let taken = positions.iter();
    taken.map(|&at| std::mem::replace(&mut landings[at as usize], nothing())).collect()
}

/// The keys of an encoded get, one after the other.
#[derive(Debug)]
pub(crate) struct KeyCursor {
    at: usize,
}

impl KeyCursor {
    /// At the first key of a get's frame.
    pub(crate) const fn new() -> Self {
        Self { at: HEADER_BYTES + GetHead::BYTES }
    }

    /// Where in the frame the next key is.
    pub(crate) fn next(&mut self, frame: &[u8]) -> Range<usize> {
        use larder_protocol::message::{Item, Payload};
        use larder_protocol::wire::Reader;
        let mut reader = Reader::new(&frame[self.at..]);
        let key = reader.key_bytes().expect("encoded by this client").len();
        Payload::skip(&mut reader).expect("encoded by this client");
        // Behind the byte that says how long it is.
        let start = self.at + 1;
        self.at = frame.len() - reader.remaining();
        start..start + key
    }
}
