//! `Match`: which keys are there, and which of the others the shard wants.
//!
//! What a reader would get wrong: a request that touches is told to the policy before it is said
//! what is wanted, for only then does the policy know how the missing objects come back.

use larder_protocol::message::{Freshness, Match, MatchReplyWriter};
use larder_protocol::stats::Stat;
use larder_protocol::{Code, Header};

use super::Shard;
use crate::namespace::NamespaceId;
use crate::outbox::Outbox;
use crate::store::{GROUP_KEYS, Told, Use};

impl Shard {
    pub(super) fn matching(
        &mut self,
        header: &Header,
        namespace: NamespaceId,
        request: &Match<'_>,
        out: &mut Outbox,
    ) {
        let at = Header::begin(&mut out.bytes);
        let mut writer =
            MatchReplyWriter::begin(request.keys.len(), request.with_meta, &mut out.bytes);
        let mut uses = std::mem::take(&mut self.scratch.uses);
        let mut missing = std::mem::take(&mut self.scratch.missing);
        let (mut index, mut hits) = (0, 0);
        let ask = self.ask(header, namespace, Freshness::Any);
        let mut names = request.keys.names();
        let mut group = [&[][..]; GROUP_KEYS];
        loop {
            let mut count = 0;
            for (place, name) in group.iter_mut().zip(&mut names) {
                *place = name;
                count += 1;
            }
            if count == 0 {
                break;
            }
            let places = self.store.locate(namespace, &group[..count]);
            for (name, place) in group[..count].iter().zip(places) {
                let is_mine = self.identity.owns(name);
                match self.store.peek_at(&ask, name, place) {
                    Ok(seen) if is_mine => {
                        hits += 1;
                        uses.push(Use::of(place, Some(seen.entry)));
                        let (bytes, meta) = (seen.record.object_bytes(), seen.record.user_meta());
                        writer.hit(bytes, meta, &mut out.bytes);
                    }
                    Ok(_) => writer.miss(false, &mut out.bytes),
                    Err(dead) => {
                        let _ = self.store.bury(dead);
                        if is_mine {
                            uses.push(Use::of(place, None));
                            missing.push((index, place));
                        }
                        writer.miss(false, &mut out.bytes);
                    }
                }
                index += 1;
            }
        }
        let hints = request.hints.unwrap_or_default();
        if request.touch {
            // Of a chain that several shards share, nobody here knows whose its last object is.
            let is_whole = request.keys.len() as u64 == u64::from(hints.chain_objects);
            let ends_partly = hints.is_last_partial && is_whole;
            self.store.used(namespace, &uses, Told { hint: hints.class, ends_partly }, self.now_ms);
        }
        let is_alone = self.store.namespaces()[namespace].alone_bytes().is_some();
        // Other shards have the keys in between. Of part of a chain nobody says where it begins:
        // the deepest are refused least, and their put knows better.
        let apart = hints.chain_objects as usize / request.keys.len().max(1);
        let depth = |index: usize| match (is_alone, apart) {
            (true, _) => 0,
            (false, 0) => u16::MAX,
            (false, apart) => u16::try_from(index * apart).unwrap_or(u16::MAX),
        };
        let places = missing.iter().map(|&(index, place)| (place, depth(index)));
        self.store.wants_each(namespace, places, hints.object_bytes, |nth, is_wanted| {
            if is_wanted {
                writer.want(missing[nth].0, &mut out.bytes);
            }
        });
        writer.finish(&mut out.bytes);
        self.answer_in(header, Code::Ok, namespace).finish(0, at, &mut out.bytes);
        self.count(Stat::MatchedKeys, request.keys.len() as u64);
        self.count(Stat::MatchHits, hits);
        let account = self.store.account_of(namespace);
        account.matched_keys += request.keys.len() as u64;
        account.match_hits += hits;
        uses.clear();
        missing.clear();
        (self.scratch.uses, self.scratch.missing) = (uses, missing);
    }
}
