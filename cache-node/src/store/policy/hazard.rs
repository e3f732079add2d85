//! Reuse hazard: evicts what is worth least to keep, as past requests of its class tell.
//!
//! Each class of objects has a list in order of last use. What one request used last in one class,
//! its cohort, stands together there, the deepest in its chain oldest. The victim is the oldest
//! object of the class whose index at that object's age is lowest; of equals the older one. Who is
//! evicted, or was asked for in vain, stays known, so that its next use counts too. Without sample
//! and tree, shards that see parts of the same chains and judge by one [`Worth`] drop the same.
//!
//! What a reader would get wrong: which list an object is in, and how old it is, change when a
//! request uses it, not when it is stored. The put of an object that a request has named before
//! finds the request's judgement waiting, in the table of what is absent.

use std::sync::Arc;

use super::Told;
use super::absent::Absent;
use super::ages::{TICK_MS, age_ms, bucket_of, end_ms};
use super::class::{CLASSES, Class, Gap, Uses};
use super::cohort::Cohort;
use super::evidence::Evidence;
use super::floor::Floor;
use super::fronts::{Front, Fronts, Key};
use super::known::{Known, guess_gaps};
use super::notes::{At, Note, Notes};
use super::past::Past;
use super::s3fifo::S3Fifo;
use super::waiting::Waiting;
use super::weight::{UNITS_OF_ONE, Weight};
use super::worth::Worth;

/// The class lists of a shard, and what they are ordered by.
#[derive(Debug)]
pub(super) struct Hazard {
    absent: Absent,
    evidence: Evidence,
    /// Whether LRU would find more.
    floor: Floor,
    waiting: Waiting,
    worth: Arc<Worth>,
    /// By class: the ends of what the last request used in it. They may be gone by now, or of
    /// another class.
    cohorts: [Option<Cohort>; CLASSES],
    /// What is known of the keys of the request at hand.
    known: Vec<Known>,
    /// How many of them are in each class.
    counts: [u32; CLASSES],
    /// The classes that any of them is in.
    counted: Vec<Class>,
    fronts: Fronts,
    /// How many objects of chains are in these lists.
    pub(super) objects: u32,
    /// The time, in whole ticks.
    now_ms: u64,
    /// When what was seen counts half next.
    halving_ms: u64,
}

/// By what objects are judged at one moment.
struct Judge<'a> {
    worth: &'a Worth,
    now_ms: u64,
}

/// What a request says, and what is known of whose keys it names.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Asked {
    pub(super) told: Told,
    /// If they stand alone, what they have in place of a silence.
    pub(super) alone: Option<Gap>,
    /// Whether costs count, and not hits alone: then LRU is no measure.
    pub(super) by_cost: bool,
}

/// A new object, as far as the policy looks at it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Newcomer {
    pub(super) number: u32,
    pub(super) hash: u32,
    pub(super) depth: u16,
    pub(super) hint: u8,
    /// If it stands alone, what it has in place of a silence.
    pub(super) alone: Option<Gap>,
}

/// An object that went, with its last note.
#[derive(Debug, Clone, Copy)]
pub(super) struct Gone {
    pub(super) hash: u32,
    pub(super) note: Note,
}

impl Hazard {
    /// Empty lists.
    pub(super) fn new(absent_max: u32) -> Self {
        let evidence = Evidence::new();
        Self {
            absent: Absent::new(absent_max),
            worth: Arc::new(Worth::of(&evidence)),
            evidence,
            floor: Floor::new(),
            objects: 0,
            waiting: Waiting::new(),
            cohorts: [None; CLASSES],
            known: Vec::new(),
            counts: [0; CLASSES],
            counted: Vec::with_capacity(CLASSES),
            fronts: Fronts::unknown(),
            now_ms: 0,
            halving_ms: HALF_LIFE_MS,
        }
    }

    /// Whether an object with this note is in one of these lists.
    pub(super) fn has(note: &Note) -> bool {
        usize::from(note.list.0) < CLASSES
    }

    /// A request named these keys, in this order: hash, and number if it is here. They are of one
    /// chain, unless they stand alone. Whether that is a request of its own, and not what follows
    /// one that named all of them already.
    pub(super) fn used(
        &mut self,
        notes: &mut Notes,
        keys: impl Iterator<Item = (u32, Option<u32>)> + Clone,
        asked: &Asked,
        now_ms: u64,
    ) -> bool {
        let Asked { told, alone, by_cost } = *asked;
        self.move_on(now_ms);
        let mut known = std::mem::take(&mut self.known);
        known.clear();
        let missing = keys.clone().filter(|(_, number)| number.is_none());
        missing.for_each(|(hash, _)| self.absent.prefetch(hash));
        known.extend(keys.filter_map(|(hash, number)| {
            let note = number.and_then(|number| notes.find(number));
            match note {
                Some(note) if Self::has(&note) => {
                    let past = Some(Past::of_note(&note));
                    Some(Known { hash, number, past, is_guess: false })
                }
                // It is there, and has another policy.
                Some(_) => None,
                None => {
                    let past = self.absent.find(hash, self.now_ms as u32);
                    Some(Known { hash, number: None, past, is_guess: false })
                }
            }
        }));
        if alone.is_none() {
            guess_gaps(&mut known);
        }
        let gap = alone.unwrap_or_else(|| self.gap(&known));
        let told = if alone.is_some() { Told::default() } else { told };
        let last = known.len().saturating_sub(1);
        self.counted.drain(..).for_each(|class| self.counts[class.row()] = 0);
        let mut is_new = false;
        for (index, key) in known.iter().enumerate() {
            let is_partial = told.ends_partly && index == last;
            let (class, _) = self.class_of(key.past.as_ref(), gap, told.hint, is_partial);
            if self.counts[class.row()] == 0 {
                self.counted.push(class);
            }
            self.counts[class.row()] += 1;
            let before = key.past.filter(|past| !key.is_guess && self.is_one_request(past));
            is_new |= before.is_none_or(|past| past.class != class);
        }
        // A get behind its match says nothing new: what is put next belongs to what that named.
        if !is_new {
            self.known = known;
            return false;
        }
        // Who stands there, if anybody does, is of another request.
        self.counted.iter().for_each(|class| self.cohorts[class.row()] = None);
        for (index, key) in known.iter().enumerate().rev() {
            let is_partial = told.ends_partly && index == last;
            // A key that is not here may stand deeper, and need not be the head of its chain.
            let depth = u16::try_from(index + 1).unwrap_or(u16::MAX);
            // A request may name a key twice: what was found first may have changed.
            let past = match key.number {
                Some(number) => Some(Past::of_note(&notes[number])),
                None => self.absent.find(key.hash, self.now_ms as u32),
            };
            let guess = key.past.filter(|_| key.is_guess && past.is_none());
            if alone.is_none() && !by_cost {
                self.watch(key, past.as_ref());
            }
            let before = past.or(guess);
            let (class, uses) = self.class_of(before.as_ref(), gap, told.hint, is_partial);
            let peers = if alone.is_some() { 1 } else { self.counts[class.row()] };
            let weight = Weight::of_one_of(peers);
            let now = Past { last_ms: self.now_ms as u32, class, uses, weight, depth };
            let past = self.next(past, now);
            match key.number {
                Some(number) => self.refile(notes, number, &past),
                None => self.remember(key.hash, &past),
            }
        }
        self.known = known;
        true
    }

    fn refile(&mut self, notes: &mut Notes, number: u32, past: &Past) {
        let before = Past::of_note(&notes[number]).class;
        // It may have stood alone until others of its chain came.
        self.objects = self.objects + past.class.of_chains() - before.of_chains();
        self.fronts.change(before);
        notes.refile(number, past.class.list());
        notes[number].last_ms = past.last_ms;
        notes[number].tally = past.tally();
        self.fronts.change(past.class);
        let cohort = &mut self.cohorts[past.class.row()];
        *cohort = Some(cohort.map_or(Cohort::of(number), |it| it.younger(number)));
    }

    /// A new object, listed nowhere yet.
    pub(super) fn inserted(&mut self, notes: &mut Notes, new: &Newcomer, now_ms: u64) {
        self.move_on(now_ms);
        let known = self.absent.take(new.hash, self.now_ms as u32);
        let gap = new.alone.unwrap_or(Gap::UNTOLD);
        let is_of_kind = |past: &Past| new.alone.is_none_or(|alone| past.class.gap() == alone);
        let past = match known {
            Some(past) if self.age_ms(past.last_ms) < ANNOUNCED_MS && is_of_kind(&past) => past,
            known => {
                let (class, uses) = self.class_of(known.as_ref(), gap, new.hint, false);
                let (weight, depth) = (Weight::of_one_of(1), new.depth);
                let now = Past { last_ms: self.now_ms as u32, class, uses, weight, depth };
                self.next(known, now)
            }
        };
        let past = Past { depth: new.depth, ..past };
        let cohort = self.cohorts[past.class.row()].filter(|it| it.is_of(notes, &past));
        let (at, cohort) = match cohort {
            Some(cohort) => cohort.with(notes, new.number, new.depth),
            None => (At::Young, Cohort::of(new.number)),
        };
        self.cohorts[past.class.row()] = Some(cohort);
        notes.add(new.number, past.note(), past.class.list(), at);
        self.objects += past.class.of_chains();
        self.fronts.change(past.class);
    }

    /// Loads what [`Hazard::removed`] will look at.
    pub(super) fn prefetch(&self, hash: u32) {
        self.absent.prefetch(hash);
    }

    /// An object with this note went; it stays known if it was evicted.
    pub(super) fn removed(&mut self, gone: &Gone, is_evicted: bool) {
        let past = Past::of_note(&gone.note);
        self.objects -= past.class.of_chains();
        self.fronts.change(past.class);
        if is_evicted && self.absent.find(gone.hash, self.now_ms as u32).is_none() {
            self.remember(gone.hash, &past);
        } else {
            self.forget(&past);
        }
    }

    /// An object that was looked at as a victim is in use.
    pub(super) fn held(&mut self, note: &Note) {
        self.fronts.change(Past::of_note(note).class);
    }

    /// A key that was asked for in vain turns out to be none of ours.
    pub(super) fn dismiss(&mut self, hash: u32) {
        if let Some(past) = self.absent.take(hash, self.now_ms as u32) {
            self.no_longer_waits(&past);
        }
    }

    /// The first object that is accepted: the oldest of each class, the one worth least first, once
    /// `weigh` has made of its worth what counts. Objects for which `is_running` says so are of the
    /// request at hand, and stay.
    pub(super) fn search(
        &mut self,
        notes: &Notes,
        weigh: impl Fn(u32, f32) -> f32,
        is_running: impl Fn(u32) -> bool,
        mut accept: impl FnMut(u32) -> bool,
    ) -> Option<u32> {
        let judge = Judge { worth: &self.worth, now_ms: self.now_ms };
        self.fronts.look(judge.now_ms, |class| {
            let oldest = notes.oldest(class.list());
            oldest.map(|number| judge.front(number, &notes[number], &weigh))
        });
        for _ in 0..LOOKS_MAX {
            let (class, number) = self.fronts.least()?;
            let age_ms = age_ms(notes[number].last_ms, judge.now_ms as u32);
            if is_running(number) && age_ms < ONE_REQUEST_MS {
                // The oldest of its list: all others are of the request, too.
                self.fronts.pass(class, None);
            } else if accept(number) {
                return Some(number);
            } else {
                let younger = notes.younger(number);
                let front = |number| judge.front(number, &notes[number], &weigh);
                let next = younger.map(front);
                self.fronts.pass(class, next);
            }
        }
        None
    }

    /// What an object that is here is worth, whatever it costs.
    pub(super) fn worth_of(&self, note: &Note) -> f32 {
        let is_small = S3Fifo::has(note);
        let class = if is_small { S3Fifo::class_of(note) } else { Past::of_note(note).class };
        self.worth.at(class, bucket_of(self.age_ms(note.last_ms)))
    }

    /// What a key that a request just named would be worth; `None` if none did.
    pub(super) fn worth_of_absent(&self, hash: u32) -> Option<f32> {
        let past = self.absent.find(hash, self.now_ms as u32)?;
        Some(self.worth.at(past.class, bucket_of(self.age_ms(past.last_ms))))
    }

    /// A small object has another note than before: it is new, was used or passed, or went. It is
    /// only ordered elsewhere; what its class is worth is learned here, of a sample.
    pub(super) fn follow(&mut self, hash: u32, before: Option<&Note>, after: Option<&Note>) {
        if hash & FOLLOWED_MASK != 0 {
            return;
        }
        let waits = |note: &Note| Some((S3Fifo::waits_in(note)?, note.last_ms));
        if let Some((class, last_ms)) = before.and_then(waits) {
            let bucket = bucket_of(self.age_ms(last_ms));
            match after {
                Some(_) => self.evidence.hit(class, bucket, UNITS_OF_ONE),
                None => self.evidence.waited(class, bucket, UNITS_OF_ONE),
            }
            self.waiting.remove(class, UNITS_OF_ONE, self.moment_ms(last_ms));
        }
        if let Some((class, _)) = after.and_then(waits) {
            self.waiting.add(class, UNITS_OF_ONE, self.now_ms);
        }
    }

    /// Adds what was seen here.
    pub(super) fn add_to(&self, sum: &mut Evidence) {
        sum.add(&self.evidence);
        self.waiting.each(self.now_ms, |bucket, units| sum.wait(bucket, units));
    }

    /// Whether LRU does better at this time.
    pub(super) fn is_outdone(&self) -> bool {
        self.worth.is_outdone()
    }

    /// Judges by what all shards saw.
    pub(super) fn judge_by(&mut self, worth: Arc<Worth>) {
        self.worth = worth;
        self.fronts.forget();
    }

    /// Memory beside the notes, in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.absent.bytes()
    }

    /// How long the session was silent: since the deepest key of its known beginning was used.
    fn gap(&self, known: &[Known]) -> Gap {
        let beginning = known.iter().map_while(|key| key.past);
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

    /// Lets LRU try itself at a key that is used.
    fn watch(&mut self, key: &Known, past: Option<&Past>) {
        let is_new = past.is_none_or(|past| !self.is_one_request(past));
        if is_new && self.floor.is_watched(key.hash) {
            let contest = self.floor.used(key.hash, key.number.is_some(), self.objects);
            self.evidence.compare(contest);
        }
    }

    /// The class of what is known, once a request has used it, and how often it was used then.
    fn class_of(&self, past: Option<&Past>, gap: Gap, hint: u8, is_partial: bool) -> (Class, Uses) {
        let begun = if is_partial { Uses::PARTIAL } else { Uses::NONE };
        match past {
            None => (Class::of(gap, begun, hint), begun),
            Some(past) if self.is_one_request(past) => {
                let is_told = past.class.gap() != Gap::UNTOLD && !gap.is_alone();
                let gap = if is_told { past.class.gap() } else { gap };
                let uses = if is_partial { begun } else { past.uses };
                (Class::of(gap, uses, past.class.hint()), uses)
            }
            Some(past) => {
                let uses = if is_partial { begun } else { past.uses.next() };
                (Class::of(gap, uses, hint), uses)
            }
        }
    }

    /// Counts a use after which `now` is known, and answers that with what stays as it was.
    fn next(&mut self, past: Option<Past>, now: Past) -> Past {
        if let Some(past) = past {
            if !self.is_one_request(&past) {
                let bucket = bucket_of(self.age_ms(past.last_ms));
                self.evidence.hit(past.class, bucket, past.weight.units());
            }
            self.no_longer_waits(&past);
        }
        self.waiting.add(now.class, now.weight.units(), self.now_ms);
        Past { depth: past.map_or(now.depth, |past| past.depth), ..now }
    }

    fn remember(&mut self, hash: u32, past: &Past) {
        if let Some(gone) = self.absent.put(hash, past, self.now_ms as u32) {
            self.forget(&gone);
        }
    }

    /// What is known of an object is lost: it counts as one that was not used.
    fn forget(&mut self, past: &Past) {
        let bucket = bucket_of(self.age_ms(past.last_ms));
        self.evidence.waited(past.class, bucket, past.weight.units());
        self.no_longer_waits(past);
    }

    fn no_longer_waits(&mut self, past: &Past) {
        self.waiting.remove(past.class, past.weight.units(), self.moment_ms(past.last_ms));
    }

    /// Takes the time, and answers it in whole ticks.
    pub(super) fn move_on(&mut self, now_ms: u64) -> u32 {
        let now_ms = now_ms / u64::from(TICK_MS) * u64::from(TICK_MS);
        self.now_ms = self.now_ms.max(now_ms);
        if self.now_ms >= self.halving_ms {
            self.evidence.halve();
            self.halving_ms = self.now_ms + HALF_LIFE_MS;
        }
        self.now_ms as u32
    }

    /// The time that it was told last, in whole ticks.
    pub(super) fn now_ms(&self) -> u32 {
        self.now_ms as u32
    }

    fn age_ms(&self, last_ms: u32) -> u32 {
        age_ms(last_ms, self.now_ms as u32)
    }

    /// The moment whose low bits these are.
    fn moment_ms(&self, last_ms: u32) -> u64 {
        self.now_ms - u64::from(self.age_ms(last_ms))
    }
}

impl Judge<'_> {
    fn front(&self, number: u32, note: &Note, weigh: impl Fn(u32, f32) -> f32) -> Front {
        let past = Past::of_note(note);
        let age_ms = age_ms(past.last_ms, self.now_ms as u32);
        let bucket = bucket_of(age_ms);
        let index = weigh(number, self.worth.at(past.class, bucket));
        let last_ms = self.now_ms - u64::from(age_ms);
        let end_ms = end_ms(last_ms, bucket).unwrap_or(u64::MAX);
        Front { number, key: Key::of(index, past.last_ms, past.depth), end_ms }
    }
}

/// One small object in so many is followed, by bits of its hash that choose no place in a table.
const FOLLOWED_MASK: u32 = 7 << 16;
/// Uses within this time are one request's: get, put and touch follow each other (guessed).
const ONE_REQUEST_MS: u32 = 1000;
/// So long a put may come after the request that named its key, and be part of it (guessed).
const ANNOUNCED_MS: u32 = 60_000;
/// After so long what was seen counts half (guessed: a day has several kinds of traffic).
const HALF_LIFE_MS: u64 = 2 * 3600 * 1000;
/// Most objects that one search looks at: those that are being sent are young, so only long leases
/// are in its way (guessed).
const LOOKS_MAX: usize = 64;

#[cfg(test)]
mod tests;
