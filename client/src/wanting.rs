//! What nodes want of a put, so that bytes that would only be thrown away are not sent.
//!
//! A node whose memory is full refuses what it expects no reader for. It says so in its answers to
//! matches, so a put that follows the match of its chain knows already: what was not wanted a
//! moment ago is not sent, and nobody is asked once more. What no match has named is asked about
//! first, by one more round trip, only where that pays: a node has refused something lately, the
//! bytes would be sent, and they are many.
//!
//! What a reader would get wrong: nothing here is needed for right answers. A put says that it may
//! be refused, so the node has the last word; of what it refuses it reads nothing that is shared,
//! and throws away what was sent.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use larder_protocol::message::{Hints, Match};
use larder_protocol::{Key, Status};

use crate::client::Client;
use crate::config::{MatchOptions, PutOptions};
use crate::error::{Error, KeyError, KeyResult};
use crate::leg::Leg;
use crate::namespace::Namespace;
use crate::object::PutObject;
use crate::shared::Memories;

/// What the nodes said of one namespace.
#[derive(Debug, Default)]
pub(crate) struct Wants(Mutex<Told>);

#[derive(Debug, Default)]
struct Told {
    /// When a node last refused something.
    refused: Option<Instant>,
    /// The latest verdict on the keys whose hash is that of a place; empty before the first.
    verdicts: Vec<Option<Verdict>>,
    seeds: ahash::RandomState,
}

#[derive(Debug, Clone, Copy)]
struct Verdict {
    hash: u64,
    at: Instant,
    is_wanted: bool,
}

/// What a request says beyond its keys and objects, to nodes that understand it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Said {
    pub(crate) if_wanted: bool,
    pub(crate) hints: Option<Hints>,
}

/// What of a put is sent.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    pub(crate) said: Said,
    /// How many objects the put has.
    pub(crate) total: usize,
    /// Which of them are sent; `None` for all.
    pub(crate) places: Option<Vec<u32>>,
}

/// One object of a put, as far as it matters here.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Offered {
    pub(crate) key: Key,
    depth: u16,
    version: u64,
    bytes: u64,
    is_shared: bool,
}

impl Said {
    /// What a match of so many keys says.
    pub(crate) fn of_match(options: &MatchOptions, keys: usize) -> Self {
        let mut hints = options.hints;
        if hints.chain_objects == 0 && options.touch {
            hints.chain_objects = u32::try_from(keys).unwrap_or(0).min(CHAIN_OBJECTS_MAX);
        }
        let hints = Some(hints).filter(|hints| *hints != Hints::default());
        Self { if_wanted: false, hints }
    }
}

impl Wants {
    /// A node refused to store these.
    fn refused(&self, now: Instant, keys: impl Iterator<Item = Key>) {
        let mut told = self.lock();
        told.refused = Some(now);
        keys.for_each(|key| told.note(&key, false, now));
    }

    #[cfg(test)]
    pub(crate) fn verdict(&self, key: &Key, now: Instant) -> Option<bool> {
        self.lock().verdict(key, now)
    }

    fn lock(&self) -> MutexGuard<'_, Told> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Told {
    fn is_choosy(&self, now: Instant) -> bool {
        self.refused.is_some_and(|at| now.saturating_duration_since(at) < CHOOSY)
    }

    fn note(&mut self, key: &Key, is_wanted: bool, at: Instant) {
        if self.verdicts.is_empty() {
            self.verdicts = vec![None; VERDICTS_MAX];
        }
        let hash = self.seeds.hash_one(key.as_bytes());
        self.verdicts[hash as usize % VERDICTS_MAX] = Some(Verdict { hash, at, is_wanted });
    }

    fn verdict(&self, key: &Key, now: Instant) -> Option<bool> {
        let hash = self.seeds.hash_one(key.as_bytes());
        let told = (*self.verdicts.get(hash as usize % VERDICTS_MAX)?)?;
        let is_fresh = now.saturating_duration_since(told.at) < TOLD;
        (told.hash == hash && is_fresh).then_some(told.is_wanted)
    }
}

impl Kept {
    /// All of these objects, of which `bytes` says how long one is.
    pub(crate) fn all<B>(
        objects: &[PutObject<B>],
        bytes: impl Fn(&B) -> u64,
        options: &PutOptions,
    ) -> Self {
        let is_of_chain = |object: &PutObject<B>| object.depth > 0;
        let is_open = |o: &PutObject<B>| is_of_chain(o) || bytes(&o.bytes) >= LONG_BYTES;
        let if_wanted = !options.insist && objects.iter().any(is_open);
        let hints = Some(options.hints).filter(|hints| *hints != Hints::default());
        let said = Said { if_wanted, hints };
        Self { said, total: objects.len(), places: None }
    }

    /// Whether some of it may have to be left out, or asked about.
    pub(crate) fn is_in_doubt(&self, namespace: &Namespace) -> bool {
        self.said.if_wanted && namespace.wants().lock().is_choosy(Instant::now())
    }

    /// The same without what is known to be refused.
    pub(crate) fn without_refused(self, namespace: &Namespace, offered: &[Offered]) -> Self {
        let (now, told) = (Instant::now(), namespace.wants().lock());
        let mut places = Vec::with_capacity(offered.len());
        let mut left_out: Option<u16> = None;
        for (at, object) in (0u32..).zip(offered) {
            // What is behind a hole of its chain is of no use. One that is deeper by more may be of
            // another chain: a put may have several.
            let is_behind = left_out.is_some_and(|depth| object.depth == depth.saturating_add(1));
            // Where versions count the node may have an older one by now, which must not stay.
            let is_refused =
                object.version == 0 && (is_behind || told.verdict(&object.key, now) == Some(false));
            left_out = is_refused.then_some(object.depth);
            if !is_refused {
                places.push(at);
            }
        }
        let is_whole = places.len() == offered.len();
        Self { places: (!is_whole).then_some(places), ..self }
    }

    /// Those of `objects` that are sent.
    pub(crate) fn of<'o, T>(&self, objects: &'o [T]) -> Vec<&'o T> {
        match &self.places {
            None => objects.iter().collect(),
            Some(places) => places.iter().map(|&at| &objects[at as usize]).collect(),
        }
    }

    /// The same, taken out; the rest is dropped.
    pub(crate) fn take<T>(&self, objects: Vec<T>) -> Vec<T> {
        let Some(places) = &self.places else { return objects };
        let mut kept = places.iter().peekable();
        let numbered = (0u32..).zip(objects);
        numbered.filter_map(|(at, o)| kept.next_if(|&&place| place == at).map(|_| o)).collect()
    }

    /// The answers before there are any.
    pub(crate) fn unanswered(&self) -> Vec<KeyResult<()>> {
        let Some(places) = &self.places else {
            return vec![Err(KeyError::DeadlineExceeded); self.total];
        };
        let mut answers = vec![Err(KeyError::Status(Status::NotWanted)); self.total];
        places.iter().for_each(|&at| answers[at as usize] = Err(KeyError::DeadlineExceeded));
        answers
    }
}

impl Offered {
    /// One whose bytes are these pieces.
    fn of<'p, B>(
        object: &PutObject<B>,
        mut pieces: impl Iterator<Item = &'p [u8]> + Clone,
        memories: &Memories,
    ) -> Self {
        let PutObject { key, depth, version, .. } = *object;
        let bytes = pieces.clone().map(|piece| piece.len() as u64).sum();
        // Nodes that share memory with us read them where they are; to others they are sent.
        let is_shared = !memories.is_empty() && pieces.all(|piece| memories.have(piece));
        Self { key, depth, version, bytes, is_shared }
    }
}

impl Client {
    /// What a put of these objects offers; `pieces` are the bytes of one.
    pub(crate) fn offered<'o, B, P: Iterator<Item = &'o [u8]> + Clone>(
        &self,
        objects: &'o [PutObject<B>],
        pieces: impl Fn(&'o PutObject<B>) -> P,
    ) -> Vec<Offered> {
        let memories = &self.shared.memories;
        objects.iter().map(|object| Offered::of(object, pieces(object), memories)).collect()
    }

    /// Asks the nodes what they want of objects that may be left out, and waits, where that pays.
    pub(crate) fn ask_wants(
        &self,
        namespace: &Namespace,
        offered: &[Offered],
        until: Instant,
    ) -> Result<(), Error> {
        let Some((keys, asking)) = asking(namespace, offered) else { return Ok(()) };
        let deadline = Some(until.saturating_duration_since(Instant::now()));
        // Its answers are noted where they come in; without them the put goes on all the same.
        self.match_chain(namespace, &keys, &MatchOptions { deadline, ..asking }).map(drop)
    }
}

/// The keys to ask about before a put of these objects, some of which may be left out, and how;
/// `None` where it does not pay.
pub(crate) fn asking(
    namespace: &Namespace,
    offered: &[Offered],
) -> Option<(Vec<Key>, MatchOptions)> {
    let (now, told) = (Instant::now(), namespace.wants().lock());
    let is_open = |o: &&Offered| !o.is_shared && told.verdict(&o.key, now).is_none();
    let (mut keys, mut bytes) = (Vec::new(), 0);
    for object in offered.iter().filter(is_open) {
        keys.push(object.key);
        bytes += object.bytes;
    }
    if bytes < ASKED_BYTES_MIN {
        return None;
    }
    let object_bytes = u32::try_from(bytes / keys.len() as u64).unwrap_or(u32::MAX);
    let hints = Hints { object_bytes, ..Hints::default() };
    Some((keys, MatchOptions { hints, ..MatchOptions::default() }))
}

/// Notes what a node said of each of the `count` keys of a match: whether it is wanted, if it is
/// missing.
pub(crate) fn note_matched(leg: &Leg, count: usize, is_wanted: impl Fn(usize) -> Option<bool>) {
    let Some(namespace) = &leg.namespace else { return };
    let (now, mut told) = (Instant::now(), namespace.wants().lock());
    if (0..count).any(|at| is_wanted(at) == Some(false)) {
        told.refused = Some(now);
    } else if !told.is_choosy(now) {
        return;
    }
    let request = Match::decode(leg.body()).expect("encoded by this client");
    for (at, key) in request.keys.iter().enumerate() {
        if let Some(is_wanted) = is_wanted(at) {
            told.note(&key, is_wanted, now);
        }
    }
}

/// Notes which objects of a put a node did not want.
pub(crate) fn note_refused(leg: &Leg, statuses: impl Iterator<Item = Status>) {
    let Some(namespace) = &leg.namespace else { return };
    let keys = leg.put_keys();
    let refused = keys.zip(statuses).filter(|(_, status)| *status == Status::NotWanted);
    namespace.wants().refused(Instant::now(), refused.map(|(key, _)| key));
}

/// How long a node that refused something is taken to do so again (guessed).
const CHOOSY: Duration = Duration::from_secs(10);
/// How long a verdict holds: a chain is put when its request was computed (guessed).
const TOLD: Duration = Duration::from_secs(10);
/// Keys whose verdict is remembered: twice the longest match, twice as many for collisions.
const VERDICTS_MAX: usize = 32_768;
/// More than chains have; nodes refuse what makes no sense.
const CHAIN_OBJECTS_MAX: u32 = 1 << 21;
/// Bytes that are worth a round trip. On loopback 16 keys are asked about in 11 us and 128 KiB
/// are put in 60 (measured); a network has longer round trips and is slower with bytes.
const ASKED_BYTES_MIN: u64 = 128 << 10;
/// Objects that stand alone may be refused from here on: outputs of media encoders are as long, and
/// each takes the room of many others (guessed).
const LONG_BYTES: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use larder_protocol::NamespaceSpec;

    use super::*;

    fn namespace() -> Namespace {
        Namespace::describe(NamespaceSpec::new("t", "m")).unwrap()
    }

    fn chain(depths: &[u16]) -> Vec<PutObject<()>> {
        let named = depths.iter().zip(0u8..);
        named.map(|(&depth, at)| PutObject { depth, ..PutObject::new(key(at), ()) }).collect()
    }

    fn key(at: u8) -> Key {
        Key::new(&[at]).unwrap()
    }

    fn offered(objects: &[PutObject<()>], bytes: u64) -> Vec<Offered> {
        let of = |o: &PutObject<()>| Offered {
            key: o.key,
            depth: o.depth,
            version: o.version,
            bytes,
            is_shared: false,
        };
        objects.iter().map(of).collect()
    }

    fn refuse(namespace: &Namespace, at: u8) {
        namespace.wants().refused(Instant::now(), std::iter::once(key(at)));
    }

    fn kept(namespace: &Namespace, objects: &[PutObject<()>]) -> Vec<u32> {
        let all = Kept::all(objects, |()| 1, &PutOptions::default());
        let kept = all.without_refused(namespace, &offered(objects, 1));
        kept.places.unwrap_or_else(|| (0..objects.len() as u32).collect())
    }

    #[test]
    fn what_is_behind_a_refused_object_of_its_chain_is_left_out_too() {
        let (namespace, objects) = (namespace(), chain(&[3, 4, 5, 0, 1, 2]));
        assert_eq!(kept(&namespace, &objects), [0, 1, 2, 3, 4, 5]);
        refuse(&namespace, 1);
        assert_eq!(kept(&namespace, &objects), [0, 3, 4, 5]);
        refuse(&namespace, 3);
        assert_eq!(kept(&namespace, &objects), [0]);
        let several = chain(&[10, 11, 12, 40, 41]);
        let others = Namespace::describe(NamespaceSpec::new("t", "others")).unwrap();
        refuse(&others, 1);
        assert_eq!(kept(&others, &several), [0, 3, 4], "what is far deeper is of another chain");
        let versioned: Vec<_> =
            objects.into_iter().map(|o| PutObject { version: 7, ..o }).collect();
        assert_eq!(kept(&namespace, &versioned), [0, 1, 2, 3, 4, 5], "versions are not left out");
    }

    #[test]
    fn only_chains_and_long_objects_may_be_refused_and_only_if_nobody_insists() {
        let (namespace, plain) = (namespace(), PutOptions::default());
        let insist = PutOptions { insist: true, ..PutOptions::default() };
        refuse(&namespace, 200);
        for (depths, bytes, options, is_open) in [
            (&[0, 1][..], 1, &plain, true),
            (&[0, 1], 1, &insist, false),
            (&[0, 0], LONG_BYTES - 1, &plain, false),
            (&[0, 0], LONG_BYTES, &plain, true),
            (&[0], LONG_BYTES, &insist, false),
            (&[], LONG_BYTES, &plain, false),
        ] {
            let kept = Kept::all(&chain(depths), |()| bytes, options);
            assert_eq!(kept.is_in_doubt(&namespace), is_open, "{depths:?} of {bytes}");
            assert_eq!(kept.said.if_wanted, is_open);
        }
    }

    #[test]
    fn nodes_are_asked_only_where_it_pays() {
        let (namespace, objects) = (namespace(), chain(&[0, 1, 2]));
        let long = offered(&objects, ASKED_BYTES_MIN);
        refuse(&namespace, 1);
        let (keys, options) = asking(&namespace, &long).unwrap();
        assert_eq!(keys, [key(0), key(2)], "what is known is not asked again");
        assert_eq!(u64::from(options.hints.object_bytes), ASKED_BYTES_MIN);
        assert!(!options.touch, "to ask is no use");
        assert!(asking(&namespace, &offered(&objects, 1000)).is_none(), "bytes are few");
        let shared: Vec<_> = long.iter().map(|o| Offered { is_shared: true, ..*o }).collect();
        assert!(asking(&namespace, &shared).is_none(), "they are read where they are");
    }

    #[test]
    fn objects_and_answers_keep_their_places() {
        let all = Kept { total: 3, ..Kept::default() };
        let some = Kept { places: Some(vec![0, 2]), ..Kept { total: 3, ..Kept::default() } };
        assert_eq!(all.take(vec!['a', 'b', 'c']), ['a', 'b', 'c']);
        assert_eq!(some.take(vec!['a', 'b', 'c']), ['a', 'c']);
        assert_eq!(some.of(&['a', 'b', 'c']), [&'a', &'c']);
        let not_wanted = Err(KeyError::Status(Status::NotWanted));
        let late = Err(KeyError::DeadlineExceeded);
        assert_eq!(some.unanswered(), [late.clone(), not_wanted, late.clone()]);
        assert_eq!(all.unanswered(), [late.clone(), late.clone(), late]);
    }
}
