//! What is counted of one namespace, or of the objects of one class, beside what is counted of all.
//!
//! A shard counts in plain integers. What a reader would get wrong: an account of a namespace goes
//! with it when its number is given to another.

use larder_protocol::Status;
use larder_protocol::stats::Stat;

/// What was counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Account {
    /// Objects found by gets.
    pub hits: u64,
    /// Keys that gets did not find because they are not there.
    pub misses_absent: u64,
    /// Because their objects had outlived their time.
    pub misses_expired: u64,
    /// Because they are of an older generation or version.
    pub misses_stale: u64,
    /// For any other reason.
    pub misses_other: u64,
    /// Keys asked for by matches.
    pub matched_keys: u64,
    /// Keys found by matches.
    pub match_hits: u64,
    /// Objects stored.
    pub stored: u64,
    /// Objects stored, in bytes.
    pub stored_bytes: u64,
    /// Objects that went to make room, stale ones not included.
    pub evicted: u64,
    /// Objects refused since no reader is expected for them.
    pub not_wanted: u64,
    /// Objects refused because no room could be made.
    pub refused_room: u64,
    /// Objects that are there now, stale ones included.
    pub objects: u64,
    /// Slots that they take, in bytes.
    pub slot_bytes: u64,
}

impl Account {
    /// All of it, by the names that the whole shard's have.
    pub fn values(&self) -> [(Stat, u64); ACCOUNT_VALUES] {
        [
            (Stat::Hits, self.hits),
            (Stat::Misses, self.misses()),
            (Stat::MissesAbsent, self.misses_absent),
            (Stat::MissesExpired, self.misses_expired),
            (Stat::MissesStale, self.misses_stale),
            (Stat::MissesOther, self.misses_other),
            (Stat::MatchedKeys, self.matched_keys),
            (Stat::MatchHits, self.match_hits),
            (Stat::Stored, self.stored),
            (Stat::StoredBytes, self.stored_bytes),
            (Stat::Evicted, self.evicted),
            (Stat::NotWanted, self.not_wanted),
            (Stat::RefusedRoom, self.refused_room),
            (Stat::Objects, self.objects),
            (Stat::SlotBytes, self.slot_bytes),
        ]
    }

    /// Whether anything was ever counted.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub(crate) fn count_miss(&mut self, status: Status) {
        *match miss_reason(status) {
            Stat::MissesAbsent => &mut self.misses_absent,
            Stat::MissesExpired => &mut self.misses_expired,
            Stat::MissesStale => &mut self.misses_stale,
            _ => &mut self.misses_other,
        } += 1;
    }

    pub(crate) fn count_refusal(&mut self, status: Status) {
        match status {
            Status::NotWanted => self.not_wanted += 1,
            Status::NoRoom => self.refused_room += 1,
            _ => {}
        }
    }

    pub(crate) fn stored(&mut self, object_bytes: u64, slot_bytes: u64) {
        self.stored += 1;
        self.stored_bytes += object_bytes;
        self.objects += 1;
        self.slot_bytes += slot_bytes;
    }

    pub(crate) fn dropped(&mut self, slot_bytes: u64, is_evicted: bool) {
        self.evicted += u64::from(is_evicted);
        self.objects -= 1;
        self.slot_bytes -= slot_bytes;
    }

    fn misses(&self) -> u64 {
        self.misses_absent + self.misses_expired + self.misses_stale + self.misses_other
    }
}

/// Which counter tells of a key that a get did not find.
pub(crate) const fn miss_reason(status: Status) -> Stat {
    match status {
        Status::Miss => Stat::MissesAbsent,
        Status::MissExpired => Stat::MissesExpired,
        Status::MissGeneration | Status::MissStale => Stat::MissesStale,
        _ => Stat::MissesOther,
    }
}

/// How many values an account has.
pub const ACCOUNT_VALUES: usize = 15;
/// Class hints are a byte.
pub const CLASSES: usize = 256;
