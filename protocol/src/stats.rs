//! What a shard counts: one list of names for the wire, the metrics and the commands.
//!
//! Counters only grow, gauges say what is now. An unknown number from a newer node is skipped.

/// What a value does over time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows while the node lives.
    Counter,
    /// Says what is now.
    Gauge,
}

macro_rules! stats {
    ($($variant:ident = $number:literal, $kind:ident, $name:literal, $help:literal;)+) => {
        /// One thing that a shard counts.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u16)]
        #[non_exhaustive]
        pub enum Stat {
            $(#[doc = $help] $variant = $number,)+
        }

        impl Stat {
            /// All of them, in order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// Its name in metrics and JSON.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// One sentence for an operator.
            pub const fn help(self) -> &'static str {
                match self { $(Self::$variant => $help,)+ }
            }

            /// Whether it only grows.
            pub const fn kind(self) -> Kind {
                match self { $(Self::$variant => Kind::$kind,)+ }
            }

            /// The one with this number, if this version knows it.
            pub const fn from_number(number: u16) -> Option<Self> {
                match number { $($number => Some(Self::$variant),)+ _ => None }
            }
        }
    };
}

stats! {
    Requests = 0, Counter, "requests_total", "Requests answered.";
    Hits = 1, Counter, "hits_total", "Objects found by gets.";
    Misses = 2, Counter, "misses_total", "Keys that gets did not find, for any reason.";
    MatchedKeys = 3, Counter, "match_keys_total", "Keys asked for by matches.";
    MatchHits = 4, Counter, "match_hits_total", "Keys found by matches.";
    Stored = 5, Counter, "stored_total", "Objects stored.";
    StoredBytes = 6, Counter, "stored_bytes_total", "Bytes of objects stored.";
    SentBytes = 7, Counter, "sent_bytes_total", "Bytes of objects sent.";
    Removed = 8, Counter, "removed_total", "Objects removed by request.";
    Evicted = 9, Counter, "evicted_total", "Objects evicted to make room.";
    EvictedStale = 10, Counter, "evicted_stale_total", "Evicted objects of an older generation.";
    Expired = 11, Counter, "expired_total", "Objects whose time to live had passed.";
    RefusedBusy = 12, Counter, "refused_busy_total", "Refused for lack of room in flight.";
    RefusedRoom = 13, Counter, "refused_room_total", "Puts refused because no room could be made.";
    Corrupt = 14, Counter, "corrupt_total", "Puts refused for a wrong checksum.";
    Malformed = 15, Counter, "malformed_total", "Connections ended by bytes that are no request.";
    TimedOut = 16, Counter, "timed_out_total", "Connections ended because their peer stood still.";
    Accepted = 17, Counter, "connections_total", "Connections accepted.";
    AcceptErrors = 18, Counter, "accept_errors_total", "Connections that could not be accepted.";
    Panics = 19, Counter, "panics_total", "Connections ended by a fault in their own code.";
    Bumps = 20, Counter, "bumps_total", "Generations begun.";
    Leases = 21, Counter, "leases_total", "Leases given to readers on this host.";
    LeasesRefused = 22, Counter, "leases_refused_total", "Leases refused: too much under lease.";
    LeasesUnknown = 23, Counter, "leases_unknown_total", "Releases of what was not leased.";
    UdsDenied = 24, Counter, "uds_denied_total", "Unix connections of users not allowed.";
    PulledBytes = 25, Counter, "pulled_bytes_total", "Bytes of puts read from shared memory.";
    WrittenBytes = 26, Counter, "written_bytes_total", "Bytes of gets written by a network card.";
    ReadBytes = 27, Counter, "read_bytes_total", "Bytes of puts read by a network card.";
    Pairs = 28, Counter, "pairs_total", "Queue pairs connected with clients.";
    PairsFailed = 29, Counter, "pairs_failed_total", "Queue pairs failed, or left, in use.";
    Works = 30, Counter, "works_total", "Works posted to network cards.";
    Doorbells = 31, Counter, "doorbells_total", "How often works were posted to network cards.";
    Connections = 32, Gauge, "connections", "Connections open.";
    Objects = 33, Gauge, "objects", "Objects in the index.";
    ObjectBytes = 34, Gauge, "object_bytes", "Bytes of objects in memory, as their writers count.";
    SlotBytes = 35, Gauge, "slot_bytes", "Bytes of memory that slots take.";
    RegionBytes = 36, Gauge, "region_bytes", "Bytes of memory given to objects.";
    IndexBytes = 37, Gauge, "index_bytes", "Bytes of memory that the index takes.";
    FillingBytes = 38, Gauge, "filling_bytes", "Bytes of slots being filled by puts.";
    SendingBytes = 39, Gauge, "sending_bytes", "Bytes of slots being sent by gets.";
    Namespaces = 40, Gauge, "namespaces", "Namespaces registered.";
    StaleObjects = 41, Gauge, "stale_objects", "Objects of older generations not yet reclaimed.";
    LeasesHeld = 42, Gauge, "leases_held", "Leases that readers on this host hold.";
    LeasedBytes = 43, Gauge, "leased_bytes", "Bytes of slots under lease.";
    PairsOpen = 44, Gauge, "pairs", "Queue pairs connected.";
    NotWanted = 45, Counter, "not_wanted_total", "Objects of puts that no reader is expected for.";
    RefusedBytes = 46, Counter, "refused_bytes_total", "Bytes of puts received and thrown away.";
    MissesAbsent = 47, Counter, "misses_absent_total", "Misses of what is not there.";
    ProcessId = 48, Gauge, "process_id", "Process id of the node.";
    ProcessCpuUs = 49, Gauge, "process_cpu_us", "CPU time of the node's process, in us.";
    ProcessRssBytes = 50, Gauge, "process_rss_bytes", "Resident memory of the process.";
    MissesExpired = 51, Counter, "misses_expired_total", "Misses of what outlived its time.";
    MissesStale = 52, Counter, "misses_stale_total", "Misses of older generations or versions.";
    MissesOther = 53, Counter, "misses_other_total", "Misses for any other reason.";
    SampledUses = 54, Counter, "sampled_uses_total", "Uses of keys, told from a sample of them.";
    SampledHits = 55, Counter, "sampled_hits_total", "Of these, those whose object was there.";
    HitsAtHalf = 56, Counter, "hits_at_half_total", "Of these, hits of an LRU of half that.";
    HitsAtSame = 57, Counter, "hits_at_same_total", "Of these, hits of an LRU of the memory.";
    HitsAtTwice = 58, Counter, "hits_at_twice_total", "Of these, hits of an LRU of twice that.";
    PinnedBytes = 59, Gauge, "pinned_bytes", "Bytes of slots whose objects are pinned.";
    PinsRefused = 60, Counter, "pins_refused_total", "Pins refused: their tenant has too many.";
}

impl Stat {
    /// Whether it is said of the whole process, the same by every shard, and so is never summed.
    pub const fn is_of_process(self) -> bool {
        matches!(self, Self::ProcessId | Self::ProcessCpuUs | Self::ProcessRssBytes)
    }
}

/// How many numbers a table of all stats needs.
pub const STAT_NUMBERS: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_are_unique_and_fit() {
        let mut names: Vec<_> = Stat::ALL.iter().map(|s| s.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Stat::ALL.len());
        for &stat in Stat::ALL {
            assert_eq!(Stat::from_number(stat as u16), Some(stat));
            assert!((stat as usize) < STAT_NUMBERS);
        }
        assert_eq!(Stat::from_number(999), None);
    }
}
