//! Turns what a caller asks for into legs: split by shard, cut to what one frame may hold, encoded.
//!
//! Runs before the helm is taken, on the caller's thread, so that encoding keeps nobody else's
//! answers waiting. The same code takes a leg apart again when the view has changed under it.

use std::ops::Range;
use std::sync::Arc;

use larder_protocol::limits::{BATCH_OBJECTS_MAX, HEADER_BYTES, MATCH_KEYS_MAX, PARTS_MAX};
use larder_protocol::message::{
    Freshness, Get, GetItem, Match, Payload as Form, Pin, Put, PutItem, Remove, Sharing,
};
use larder_protocol::{Header, Key, Opcode};
use larder_transport::Landing;

use crate::call::Call;
use crate::config::GetOptions;
use crate::error::{Error, KeyError};
use crate::leg::Leg;
use crate::namespace::Namespace;
use crate::router::{Indices, Route, Routes, Split};
use crate::shared::PutSource;
use crate::sums::Sums;
use crate::wanting::Said;

/// Keys that are asked about in one request.
type Refs<'a> = std::vec::IntoIter<&'a Key>;

/// Where legs come from and whom they answer.
pub(crate) struct Plan<'a> {
    pub(crate) call: &'a Arc<Call>,
    pub(crate) routes: &'a Routes,
    pub(crate) namespace: &'a Namespace,
    /// Place in the call of each key of the batch; `None` if they are the same.
    pub(crate) base: Option<&'a [u32]>,
    pub(crate) attempts: u8,
}

/// What all keys of a get share.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct GetHead {
    pub(crate) touch: bool,
    pub(crate) sharing: Sharing,
    pub(crate) freshness: Freshness,
    pub(crate) part_first: u16,
    /// 0 asks for the whole object.
    pub(crate) part_count: u16,
    pub(crate) object_bytes_max: u32,
}

impl GetHead {
    /// Bytes of the encoded head, up to the first item.
    pub(crate) const BYTES: usize = 22;

    /// # Errors
    /// [`Error::InvalidArgument`] for an impossible range of parts.
    pub(crate) fn new(options: &GetOptions, sharing: Sharing) -> Result<Self, Error> {
        let is_good = |parts: &Range<u16>| !parts.is_empty() && usize::from(parts.end) <= PARTS_MAX;
        if !options.parts.as_ref().is_none_or(is_good) {
            return Err(Error::InvalidArgument { what: "range of parts" });
        }
        let parts = options.parts.clone().unwrap_or(Range { start: 0, end: 0 });
        Ok(Self {
            touch: options.touch,
            sharing,
            freshness: options.freshness,
            part_first: parts.start,
            part_count: parts.end.saturating_sub(parts.start),
            object_bytes_max: options.object_bytes_max,
        })
    }

    /// Asks for leases in an encoded get, or does not: nodes that share no memory with us may not
    /// know what that is.
    pub(crate) fn set_sharing(&self, shares: bool, frame: &mut [u8]) {
        let sharing = if shares { self.sharing } else { Sharing::Never };
        frame[HEADER_BYTES] = Get { sharing, ..Get::whole(self.touch) }.flags();
    }

    fn encode(&self, count: usize, out: &mut Vec<u8>) {
        let head = Get {
            sharing: self.sharing,
            freshness: self.freshness,
            part_first: self.part_first,
            part_count: self.part_count,
            payload_bytes_max: self.object_bytes_max,
            ..Get::whole(self.touch)
        };
        head.encode_head(count, out);
    }
}

impl Plan<'_> {
    /// Legs of a get; `landings` has one for each key, or is empty if objects are allocated.
    pub(crate) fn get(
        &self,
        head: GetHead,
        keys: &[Key],
        mut landings: Vec<Landing>,
    ) -> Vec<Box<Leg>> {
        if let Some(route) = self.routes.only()
            && (1..=BATCH_OBJECTS_MAX).contains(&keys.len())
            && landings.is_empty()
        {
            // Nothing to sort or to cut: a small get is mostly made of allocations.
            let indices = Indices::Run(0..keys.len() as u32);
            let mut leg = self.leg(Opcode::Get, route, &indices);
            leg.get = head;
            leg.get.encode(keys.len(), &mut leg.frame);
            for &key in keys {
                GetItem { key, landing: Form::Inline }.encode(&mut leg.frame);
            }
            return vec![leg];
        }
        let mut legs = Vec::new();
        for (route, group) in self.spread(keys, |routes, keys| routes.split(keys)) {
            for indices in cut(&group, BATCH_OBJECTS_MAX, |_| 0) {
                let mut leg = self.leg(Opcode::Get, route, &indices);
                leg.get = head;
                if !landings.is_empty() {
                    let none = || Landing::from_vec(Vec::new());
                    let taken = indices.iter();
                    leg.landings =
                        taken.map(|at| std::mem::replace(&mut landings[at], none())).collect();
                    let longest = leg.landings.iter().map(Landing::len).max().unwrap_or(0);
                    leg.get.object_bytes_max =
                        u32::try_from(longest).unwrap_or(u32::MAX).min(head.object_bytes_max);
                }
                leg.get.encode(indices.len(), &mut leg.frame);
                for at in indices.iter() {
                    let item = GetItem { key: keys[at], landing: Form::Inline };
                    item.encode(&mut leg.frame);
                }
                legs.push(leg);
            }
        }
        legs
    }

    /// Legs of a put; `sources` has one for each item.
    pub(crate) fn put(
        &self,
        if_absent: bool,
        items: &[PutItem<'_>],
        mut sources: Vec<PutSource>,
    ) -> Vec<Box<Leg>> {
        let mut legs = Vec::new();
        let keys: Vec<Key> = items.iter().map(|item| item.key).collect();
        let bytes = |at: usize| u64::from(items[at].object_bytes);
        for (route, group) in self.spread(&keys, |routes, keys| routes.split(keys)) {
            for indices in cut(&group, BATCH_OBJECTS_MAX, bytes) {
                let mut leg = self.leg(Opcode::Put, route, &indices);
                Put::encode_head(if_absent, false, indices.len(), &mut leg.frame);
                for at in indices.iter() {
                    // Which form it takes is known when its connection is.
                    PutItem { payload: Form::Inline, ..items[at] }.encode(&mut leg.frame);
                    leg.payload_bytes += bytes(at);
                    leg.sources.push(sources[at].take());
                }
                legs.push(leg);
            }
        }
        legs
    }

    /// Legs of a match.
    pub(crate) fn matching(&self, touch: bool, with_meta: bool, keys: &[Key]) -> Vec<Box<Leg>> {
        let mut legs = Vec::new();
        for (route, group) in self.spread(keys, |routes, keys| routes.split(keys)) {
            for indices in cut(&group, MATCH_KEYS_MAX, |_| 0) {
                let mut leg = self.leg(Opcode::Match, route, &indices);
                let asked = indices.iter().map(|at| &keys[at]);
                // Grown bit by bit it would be copied half a dozen times.
                let key_bytes: usize = indices.iter().map(|at| 1 + keys[at].as_bytes().len()).sum();
                leg.frame.reserve(MATCH_HEAD_BYTES + key_bytes);
                Match::encode(touch, with_meta, asked, &mut leg.frame);
                legs.push(leg);
            }
        }
        legs
    }

    /// Legs of a remove, to every shard that may hold one of the keys.
    pub(crate) fn remove(&self, keys: &[Key]) -> Vec<Box<Leg>> {
        self.to_all_holders(Opcode::Remove, keys, |keys, out| Remove::encode_keys(keys, out))
    }

    /// Legs of a remove to the one shard that did not answer yet.
    pub(crate) fn remove_from(&self, route: Route, keys: &[Key]) -> Vec<Box<Leg>> {
        let all = Indices::Run(0..keys.len() as u32);
        self.group(Opcode::Remove, route, &all, keys, |keys, out| Remove::encode_keys(keys, out))
    }

    /// Legs of a pin, to every shard that may hold one of the keys.
    pub(crate) fn pin(&self, keep_ms: u32, keys: &[Key]) -> Vec<Box<Leg>> {
        self.to_all_holders(Opcode::Pin, keys, |keys, out| Pin::encode(keep_ms, keys, out))
    }

    /// Legs of a pin to the one shard that did not answer yet.
    pub(crate) fn pin_at(&self, route: Route, keep_ms: u32, keys: &[Key]) -> Vec<Box<Leg>> {
        let all = Indices::Run(0..keys.len() as u32);
        self.group(Opcode::Pin, route, &all, keys, |keys, out| Pin::encode(keep_ms, keys, out))
    }

    fn to_all_holders(
        &self,
        opcode: Opcode,
        keys: &[Key],
        encode: impl Fn(Refs<'_>, &mut Vec<u8>),
    ) -> Vec<Box<Leg>> {
        let groups = self.spread(keys, |routes, keys| routes.split_to_all_holders(keys));
        let groups = groups.into_iter();
        groups.flat_map(|(route, group)| self.group(opcode, route, &group, keys, &encode)).collect()
    }

    fn group(
        &self,
        opcode: Opcode,
        route: Route,
        group: &Indices,
        keys: &[Key],
        encode: impl Fn(Refs<'_>, &mut Vec<u8>),
    ) -> Vec<Box<Leg>> {
        let legs = cut(group, MATCH_KEYS_MAX, |_| 0).into_iter().map(|indices| {
            let mut leg = self.leg(opcode, route, &indices);
            let asked: Vec<&Key> = indices.iter().map(|at| &keys[at]).collect();
            encode(asked.into_iter(), &mut leg.frame);
            leg
        });
        legs.collect()
    }

    /// Splits a batch; keys that nobody can be asked for fail here.
    fn spread(
        &self,
        keys: &[Key],
        split: impl Fn(&Routes, Keys<'_>) -> Split,
    ) -> Vec<(Route, Indices)> {
        if keys.is_empty() {
            return Vec::new();
        }
        if let Some(route) = self.routes.only() {
            return vec![(route, Indices::Run(0..keys.len() as u32))];
        }
        let split = split(self.routes, Keys(keys.iter()));
        for (at, unavailable) in split.unroutable {
            let error = KeyError::Unavailable(unavailable);
            self.call.fail(self.base.map_or(at, |base| base[at as usize]) as usize, &error);
        }
        split.groups.into_iter().map(|(route, list)| (route, Indices::List(list))).collect()
    }

    fn leg(&self, opcode: Opcode, route: Route, batch: &Indices) -> Box<Leg> {
        let indices = self.base.map_or_else(
            || batch.clone(),
            |base| Indices::List(batch.iter().map(|at| base[at]).collect()),
        );
        let namespace = Some(self.namespace.clone());
        let mut leg = Leg::ask(Arc::clone(self.call), opcode, route, indices);
        leg.namespace = namespace;
        leg.attempts = self.attempts;
        leg
    }
}

impl Leg {
    /// A leg with an empty body. From now on it counts.
    pub(crate) fn ask(
        call: Arc<Call>,
        opcode: Opcode,
        route: Route,
        indices: Indices,
    ) -> Box<Self> {
        call.leg_began();
        let mut frame = Vec::with_capacity(FRAME_BYTES_TYPICAL);
        Header::begin(&mut frame);
        Box::new(Self {
            call,
            route,
            opcode,
            namespace: None,
            attempts: 0,
            frame,
            indices,
            answered: 0,
            again: Vec::new(),
            is_misplaced: false,
            sources: Vec::new(),
            sums: Sums::Stated,
            said: Said::default(),
            landings: Vec::new(),
            get: GetHead::default(),
            payload_bytes: 0,
            aim: None,
        })
    }
}

/// The keys of a batch as the router takes them.
pub(crate) struct Keys<'k>(std::slice::Iter<'k, Key>);

impl<'k> Iterator for Keys<'k> {
    type Item = &'k [u8];

    fn next(&mut self) -> Option<&'k [u8]> {
        self.0.next().map(Key::as_bytes)
    }
}

/// Cuts a group so that each piece has at most `count_max` keys and about
/// [`FRAME_PAYLOAD_BYTES_MAX`] of payload.
fn cut(group: &Indices, count_max: usize, bytes: impl Fn(usize) -> u64) -> Vec<Indices> {
    let mut cuts = Vec::with_capacity(1);
    let (mut from, mut payload) = (0, 0);
    for (position, at) in group.iter().enumerate() {
        let too_long = payload + bytes(at) > FRAME_PAYLOAD_BYTES_MAX;
        if position > from && (position - from == count_max || too_long) {
            cuts.push(group.cut(from, position));
            (from, payload) = (position, 0);
        }
        payload += bytes(at);
    }
    cuts.push(group.cut(from, group.len()));
    cuts
}

/// Most payload of one put frame, unless one object alone is longer. A guess: long enough that
/// frames cost nothing, short enough that a node can take several connections' at once.
const FRAME_PAYLOAD_BYTES_MAX: u64 = 16 << 20;
/// What stands before the keys of a match.
const MATCH_HEAD_BYTES: usize = 5;
/// Room for header, head and a key or two.
const FRAME_BYTES_TYPICAL: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_cut_by_count_and_by_bytes() {
        let all = Indices::Run(0..10);
        let lens = |cuts: Vec<Indices>| cuts.iter().map(Indices::len).collect::<Vec<_>>();
        assert_eq!(lens(cut(&all, 4, |_| 0)), [4, 4, 2]);
        assert_eq!(lens(cut(&all, 5, |_| FRAME_PAYLOAD_BYTES_MAX / 3)), [3, 3, 3, 1]);
        assert_eq!(lens(cut(&all, 99, |_| 3 * FRAME_PAYLOAD_BYTES_MAX)), [1; 10]);
        assert_eq!(cut(&Indices::List(vec![3, 5, 9]), 2, |_| 0)[1], Indices::List(vec![9]));
    }

    #[test]
    fn head_of_a_get_has_the_length_that_cursors_expect() {
        let mut out = Vec::new();
        GetHead::default().encode(0, &mut out);
        assert_eq!(out.len(), GetHead::BYTES);
    }
}
