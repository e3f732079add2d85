//! Answers: one `Code` for a request, one `Status` for each of its keys.
//!
//! An expected outcome is data, never an error. Any doubt about bytes is a miss with its reason.

use crate::wire::DecodeError;

/// How a request as a whole was answered. Per-key answers follow only with [`Code::Ok`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
#[non_exhaustive]
pub enum Code {
    /// Answered; each key has its own status.
    Ok = 0,
    /// Refused for lack of room in flight, by count or by bytes. Try elsewhere or later.
    Busy = 1,
    /// The node drains: it takes no new work.
    Draining = 2,
    /// This connection is with another shard than the client thinks; its view is old.
    WrongShard = 3,
    /// The operation is not known here. The connection lives on.
    UnknownOpcode = 4,
    /// A capability was used that was not agreed upon.
    Unsupported = 5,
    /// Credentials are missing or not good for this. One answer for every reason.
    Denied = 6,
    /// The namespace handle is not one of this connection's.
    UnknownNamespace = 7,
    /// The namespace is at another generation; the reply's header says which.
    StaleGeneration = 8,
    /// The deadline passed before the work was done.
    DeadlineExceeded = 9,
    /// The request's bytes are not a request; the connection ends after this.
    Malformed = 10,
    /// A table of the node is full: namespaces, handles.
    TooMany = 11,
    /// The node's network card did not reach the client's memory. Nothing more is tried through
    /// the pair, which has to be connected anew.
    Unreachable = 12,
}

/// How one key of a request was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
#[non_exhaustive]
pub enum Status {
    /// Found: its bytes follow, or it is there.
    Hit = 0,
    /// Stored: a reader finds it now.
    Stored = 1,
    /// Removed: no reader finds it any more.
    Removed = 2,
    /// Pinned: it is evicted last until then.
    Pinned = 3,
    /// Never seen here, or evicted and forgotten.
    Miss = 16,
    /// Its time to live has passed.
    MissExpired = 17,
    /// It belongs to an older generation.
    MissGeneration = 18,
    /// It is there, but not as fresh as the reader asked.
    MissStale = 19,
    /// It was there, but a checksum was wrong.
    MissCorrupt = 20,
    /// It is larger than the reader has room for, or has not the parts asked for.
    MissSize = 21,
    /// The reply is full; ask for this key again.
    MissReplyFull = 22,
    /// The key belongs to another shard.
    WrongShard = 32,
    /// Not stored: no room could be made.
    NoRoom = 33,
    /// Not stored: too much is being stored at this moment.
    Busy = 34,
    /// Not stored: the policy expects no reader for it.
    NotWanted = 35,
    /// Not stored: the bytes do not have their checksum.
    Corrupt = 36,
    /// Not stored: a newer version is there.
    OlderVersion = 37,
    /// Not stored: it is there already, and the writer asked for that to win.
    Exists = 38,
    /// Not stored: longer than the namespace or the shard can hold.
    TooLarge = 39,
    /// Not stored: the deadline passed while its bytes arrived.
    DeadlineExceeded = 40,
}

impl Status {
    /// Whether a reader got nothing, for whatever reason.
    pub const fn is_miss(self) -> bool {
        matches!(self as u8, 16..32)
    }
}

macro_rules! from_byte {
    ($type:ident, $what:literal, $($variant:ident),+ $(,)?) => {
        impl TryFrom<u8> for $type {
            type Error = DecodeError;

            fn try_from(byte: u8) -> Result<Self, DecodeError> {
                $(if byte == Self::$variant as u8 { return Ok(Self::$variant); })+
                Err(DecodeError::Value { what: $what, found: u64::from(byte) })
            }
        }

        impl $type {
            /// All of them, for tables of counters and tests.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];
        }
    };
}
pub(crate) use from_byte;

from_byte!(
    Code,
    "reply code",
    Ok,
    Busy,
    Draining,
    WrongShard,
    UnknownOpcode,
    Unsupported,
    Denied,
    UnknownNamespace,
    StaleGeneration,
    DeadlineExceeded,
    Malformed,
    TooMany,
    Unreachable,
);
from_byte!(
    Status,
    "key status",
    Hit,
    Stored,
    Removed,
    Pinned,
    Miss,
    MissExpired,
    MissGeneration,
    MissStale,
    MissCorrupt,
    MissSize,
    MissReplyFull,
    WrongShard,
    NoRoom,
    Busy,
    NotWanted,
    Corrupt,
    OlderVersion,
    Exists,
    TooLarge,
    DeadlineExceeded,
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_survives_the_wire_and_no_other_is_taken() {
        for byte in 0..=255 {
            if let Ok(status) = Status::try_from(byte) {
                assert_eq!(status as u8, byte);
            }
            if let Ok(code) = Code::try_from(byte) {
                assert_eq!(code as u8, byte);
            }
        }
        assert_eq!((0..=255).filter(|&b| Status::try_from(b).is_ok()).count(), Status::ALL.len());
        assert_eq!(Status::ALL.iter().filter(|s| s.is_miss()).count(), 7);
    }
}
