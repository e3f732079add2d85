//! Reuse hazard: evicts what is worth least to keep, as past requests of its class tell.
//!
//! Each class of objects has a list in order of last use. The victim is the oldest object of the
//! class whose index at that object's age is lowest; of equals the older one. Who is evicted, or
//! was asked for in vain, is remembered for a while, so that its next use counts too. There is no
//! sample and no tree: shards that see parts of the same chains and judge by one [`Worth`] drop the
//! same chains.
//!
//! What a reader would get wrong: which list an object is in, and how old it is, change when a
//! request uses it, not when it is stored. The put of an object that a request has named before
//! finds the request's judgement waiting, as a ghost.

use std::sync::Arc;

use super::ages::{age_ms, bucket_of};
use super::class::{CLASSES, Class, Gap};
use super::evidence::Evidence;
use super::fronts::Fronts;
use super::ghosts::{Ghost, Ghosts};
use super::notes::{At, Note, Notes};
use super::past::Past;
use super::waiting::Waiting;
use super::worth::Worth;

/// The class lists of a shard, and what they are ordered by.
#[derive(Debug)]
pub(super) struct Hazard {
    by_cost: bool,
    ghosts: Ghosts,
    evidence: Evidence,
    waiting: Waiting,
    worth: Arc<Worth>,
    /// By class: the object that was last put beside others of its request. It may be gone by now,
    /// or of another class.
    beside: [Option<u32>; CLASSES],
    /// What is known of the keys of the request at hand.
    known: Vec<Known>,
    fronts: Fronts,
    now_ms: u64,
}

/// One key of a request.
#[derive(Debug, Clone, Copy)]
enum Known {
    No { hash: u32 },
    Ghost(Ghost),
    Resident { number: u32, note: Note },
}

/// A new object, as far as the policy looks at it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Newcomer {
    pub(super) number: u32,
    pub(super) hash: u32,
    pub(super) depth: u16,
    pub(super) hint: u8,
}

/// An object that went, with its last note.
#[derive(Debug, Clone, Copy)]
pub(super) struct Gone {
    pub(super) hash: u32,
    pub(super) note: Note,
}

impl Known {
    fn past(&self) -> Option<Past> {
        match *self {
            Self::No { .. } => None,
            Self::Ghost(ghost) => Some(Past::of_ghost(&ghost)),
            Self::Resident { note, .. } => Some(Past::of_note(&note)),
        }
    }
}

impl Hazard {
    /// Empty lists; `by_cost` weighs objects by what it would cost to make them again.
    pub(super) fn new(ghosts_max: u32, by_cost: bool) -> Self {
        let evidence = Evidence::new();
        Self {
            by_cost,
            ghosts: Ghosts::new(ghosts_max),
            worth: Arc::new(Worth::of(&evidence)),
            evidence,
            waiting: Waiting::new(),
            beside: [None; CLASSES],
            known: Vec::new(),
            fronts: Fronts::none(),
            now_ms: 0,
        }
    }

    /// Whether an object with this note is in one of these lists.
    pub(super) fn has(note: &Note) -> bool {
        usize::from(note.list.0) < CLASSES
    }

    /// A request named these keys, in this order: hash, and number if it is here.
    pub(super) fn used(
        &mut self,
        notes: &mut Notes,
        keys: impl Iterator<Item = (u32, Option<u32>)>,
        hint: u8,
        now_ms: u64,
    ) {
        self.move_on(now_ms);
        let mut known = std::mem::take(&mut self.known);
        known.clear();
        known.extend(keys.filter_map(|(hash, number)| {
            let note = number.and_then(|number| Some((number, notes.find(number)?)));
            match note {
                Some((number, note)) if Self::has(&note) => Some(Known::Resident { number, note }),
                // It is there, and has another policy.
                Some(_) => None,
                None => Some(self.recall(hash)),
            }
        }));
        let gap = self.gap(&known);
        // A key that is not here may stand deeper, and need not be the head of its chain.
        let depth = |index: usize| u16::try_from(index + 1).unwrap_or(u16::MAX);
        let mut is_placed = [false; CLASSES];
        for (index, key) in known.iter().enumerate().rev() {
            // A request may name a key twice: what was found first may have changed.
            let past = match *key {
                Known::Resident { number, .. } => Some(Past::of_note(&notes[number])),
                _ => key.past(),
            };
            let past = match past {
                Some(past) => self.used_again(past, gap, hint),
                None => self.begin(gap, hint, depth(index)),
            };
            match *key {
                Known::Resident { number, .. } => {
                    notes.refile(number, past.class.list());
                    notes[number].last_ms = past.last_ms;
                    notes[number].uses = past.uses;
                    // The first of a class is the deepest, and the oldest from now on.
                    if !std::mem::replace(&mut is_placed[past.class.row()], true) {
                        self.beside[past.class.row()] = Some(number);
                    }
                }
                Known::Ghost(Ghost { hash, .. }) | Known::No { hash } => {
                    self.remember(past.ghost(hash));
                }
            }
        }
        self.known = known;
        self.fronts.is_valid = false;
    }

    /// A new object, listed nowhere yet.
    pub(super) fn inserted(&mut self, notes: &mut Notes, new: &Newcomer, now_ms: u64) {
        self.move_on(now_ms);
        let past = match self.recall(new.hash) {
            Known::Ghost(ghost) => {
                let past = Past::of_ghost(&ghost);
                let is_announced = self.age_ms(past.last_ms) < ANNOUNCED_MS;
                let past =
                    if is_announced { past } else { self.used_again(past, Gap::UNTOLD, new.hint) };
                Past { depth: new.depth, ..past }
            }
            _ => self.begin(Gap::UNTOLD, new.hint, new.depth),
        };
        let is_peer = |number: &u32| {
            let note = notes.find(*number);
            note.is_some_and(|n| (n.list, n.last_ms) == (past.class.list(), past.last_ms))
        };
        let peer = self.beside[past.class.row()].replace(new.number).filter(is_peer);
        let at = peer.map_or(At::Young, |peer| place_beside(notes, peer, &past));
        notes.add(new.number, past.note(), past.class.list(), at);
        self.refresh(notes, past.class);
    }

    /// An object with this note went; it is remembered if it was evicted.
    pub(super) fn removed(&mut self, notes: &Notes, gone: &Gone, is_evicted: bool) {
        let Gone { hash, note } = gone;
        let past = Past::of_note(note);
        self.refresh(notes, past.class);
        if is_evicted && self.ghosts.find(*hash).is_none() {
            self.remember(past.ghost(*hash));
        } else {
            self.forget(&past);
        }
    }

    /// A key that was asked for in vain turns out to be none of ours.
    pub(super) fn dismiss(&mut self, hash: u32) {
        if let Some(ghost) = self.ghosts.take(hash) {
            let past = Past::of_ghost(&ghost);
            self.waiting.remove(past.class, self.moment_ms(past.last_ms));
        }
    }

    /// The first object that is accepted: the oldest of each class, the one worth least first.
    /// Objects for which `is_running` says so are of the request at hand, and stay.
    pub(super) fn search(
        &mut self,
        notes: &Notes,
        is_running: impl Fn(u32) -> bool,
        mut accept: impl FnMut(u32) -> bool,
    ) -> Option<u32> {
        if !self.fronts.is_valid {
            (0..CLASSES as u8).for_each(|number| self.refresh(notes, Class::numbered(number)));
            self.fronts.is_valid = true;
            self.fronts.now_ms = self.now_ms as u32;
        }
        let mut fronts = self.fronts.clone();
        for _ in 0..LOOKS_MAX {
            let (class, number) = fronts.least(notes)?;
            let is_spared =
                is_running(number) && self.age_ms(notes[number].last_ms) < ONE_REQUEST_MS;
            if is_spared {
                // The oldest of its list: all others are of the request, too.
                fronts.clear(class);
            } else if accept(number) {
                return Some(number);
            } else {
                let younger = notes.younger(number);
                fronts.set(class, younger.map(|number| (number, self.index(&notes[number]))));
            }
        }
        None
    }

    /// Whether a key that a request just named is worth more than `victim`, which would have to go
    /// for it. Cost is left out: it would keep out the cheap heads of new chains.
    pub(super) fn is_worth_more(&self, notes: &Notes, hash: u32, victim: u32) -> bool {
        let Some(ghost) = self.ghosts.find(hash) else { return true };
        let worth = |past: &Past| self.worth.at(past.class, bucket_of(self.age_ms(past.last_ms)));
        worth(&Past::of_ghost(&ghost)) > worth(&Past::of_note(&notes[victim]))
    }

    /// Adds what was seen here.
    pub(super) fn add_to(&self, sum: &mut Evidence) {
        sum.add(&self.evidence);
        self.waiting.each(self.now_ms, |row, bucket, count| sum.waited(row, bucket, count));
    }

    /// Judges by what all shards saw.
    pub(super) fn judge_by(&mut self, worth: Arc<Worth>) {
        self.worth = worth;
        self.fronts.is_valid = false;
    }

    /// Memory beside the notes, in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.ghosts.bytes()
    }

    /// Looks again who is the oldest of a class.
    fn refresh(&mut self, notes: &Notes, class: Class) {
        let oldest = notes.oldest(class.list());
        let front = oldest.map(|number| (number, self.index(&notes[number])));
        self.fronts.set(class, front);
    }

    /// What keeping an object is worth now.
    fn index(&self, note: &Note) -> f32 {
        let past = Past::of_note(note);
        let index = self.worth.at(past.class, bucket_of(self.age_ms(past.last_ms)));
        if self.by_cost { index * cost(note.depth) } else { index }
    }

    /// Takes what is known of a key out of the ghosts, and forgets what is too old.
    fn recall(&mut self, hash: u32) -> Known {
        match self.ghosts.take(hash) {
            Some(ghost) if self.age_ms(ghost.last_ms) <= HORIZON_MS => Known::Ghost(ghost),
            Some(ghost) => {
                self.forget(&Past::of_ghost(&ghost));
                Known::No { hash }
            }
            None => Known::No { hash },
        }
    }

    /// How long the session was silent: since the deepest key of its known beginning was used.
    fn gap(&self, known: &[Known]) -> Gap {
        let beginning = known.iter().map_while(Known::past);
        // What was stored a moment ago, and not used yet, is of this same request.
        let is_settled =
            |past: &Past| past.class.gap() != Gap::UNTOLD || !self.is_one_request(past);
        match beginning.filter(is_settled).last() {
            None => Gap::NEW,
            Some(Past { depth: 0, .. }) => Gap::NEW,
            Some(past) if self.is_one_request(&past) => past.class.gap(),
            Some(past) => Gap::of(self.age_ms(past.last_ms)),
        }
    }

    /// Whether something was used so short ago that it is the same request still: clients get, put
    /// and touch one after the other.
    fn is_one_request(&self, past: &Past) -> bool {
        self.age_ms(past.last_ms) < ONE_REQUEST_MS
    }

    /// Counts a use of what is known.
    fn used_again(&mut self, past: Past, gap: Gap, hint: u8) -> Past {
        if self.is_one_request(&past) {
            let gap = if past.class.gap() == Gap::UNTOLD { gap } else { past.class.gap() };
            let class = Class::of(gap, past.uses, past.class.hint());
            self.waiting.remove(past.class, self.moment_ms(past.last_ms));
            self.waiting.add(class, self.now_ms);
            return Past { last_ms: self.now_ms as u32, class, ..past };
        }
        self.evidence.hit(past.class, bucket_of(self.age_ms(past.last_ms)));
        self.waiting.remove(past.class, self.moment_ms(past.last_ms));
        let uses = past.uses.saturating_add(1);
        let class = Class::of(gap, uses, hint);
        self.waiting.add(class, self.now_ms);
        Past { last_ms: self.now_ms as u32, class, uses, ..past }
    }

    /// What is known of a key from its first use on.
    fn begin(&mut self, gap: Gap, hint: u8, depth: u16) -> Past {
        let class = Class::of(gap, 0, hint);
        self.waiting.add(class, self.now_ms);
        Past { last_ms: self.now_ms as u32, class, uses: 0, depth }
    }

    fn remember(&mut self, ghost: Ghost) {
        if let Some(gone) = self.ghosts.push(ghost) {
            self.forget(&Past::of_ghost(&gone));
        }
    }

    fn forget(&mut self, past: &Past) {
        self.evidence.waited(past.class.row(), bucket_of(self.age_ms(past.last_ms)), 1);
        self.waiting.remove(past.class, self.moment_ms(past.last_ms));
    }

    /// Takes the time, and forgets ghosts that are beyond the horizon.
    fn move_on(&mut self, now_ms: u64) {
        if now_ms > self.now_ms {
            self.now_ms = now_ms;
            self.fronts.is_valid = false;
        }
        let now = self.now_ms as u32;
        let is_over = |ghost: &Ghost| age_ms(ghost.last_ms, now) > HORIZON_MS;
        for _ in 0..FORGOTTEN_MAX {
            let Some(ghost) = self.ghosts.pop_if(is_over) else { break };
            self.forget(&Past::of_ghost(&ghost));
        }
    }

    fn age_ms(&self, last_ms: u32) -> u32 {
        age_ms(last_ms, self.now_ms as u32)
    }

    /// The moment whose low bits these are.
    fn moment_ms(&self, last_ms: u32) -> u64 {
        self.now_ms - u64::from(self.age_ms(last_ms))
    }
}

/// Where an object goes among those that its request used with the same class: deeper ones are
/// older. Mostly it is the neighbour of `peer`, as requests are stored in order.
fn place_beside(notes: &Notes, mut peer: u32, past: &Past) -> At {
    let is_deeper = |other: u32| notes[other].depth > past.depth;
    let deeper = is_deeper(peer);
    for _ in 0..STEPS_BESIDE_MAX {
        let next = if deeper { notes.younger(peer) } else { notes.older(peer) };
        let is_between =
            |&next: &u32| notes[next].last_ms == past.last_ms && is_deeper(next) == deeper;
        match next.filter(is_between) {
            Some(next) => peer = next,
            None => break,
        }
    }
    if deeper { At::YoungerThan(peer) } else { At::OlderThan(peer) }
}

/// What making an object again costs, against making the head of its chain.
fn cost(depth: u16) -> f32 {
    1.0 + (2.0 * f32::from(depth) + 1.0) / (2.0 * COST_DEPTH)
}

/// How long something is remembered that is not here: more tells nothing new (measured on two
/// traces: 180 s is less, 600 s as good as for ever).
const HORIZON_MS: u32 = 600_000;
/// Uses within this time are one request's: get, put and touch follow each other (guessed).
const ONE_REQUEST_MS: u32 = 1000;
/// So long a put may come after the request that named its key, and be part of it (guessed).
const ANNOUNCED_MS: u32 = 60_000;
/// Ghosts that one request forgets at most because of their age.
const FORGOTTEN_MAX: usize = 1024;
/// Steps to the right place among the objects of a request: more only where it had many holes.
const STEPS_BESIDE_MAX: usize = 64;
/// Most objects that one search looks at: those that are being sent are young, so only long leases
/// are in its way (guessed).
const LOOKS_MAX: usize = 64;
/// The depth at which making an object again costs twice what the head costs: 52 objects of 512
/// tokens, where attention costs as much as all the rest (Llama-3-8B, from its shape).
const COST_DEPTH: f32 = 52.0;

#[cfg(test)]
mod tests;
