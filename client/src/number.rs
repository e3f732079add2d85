//! Answers as numbers, for languages without enums: 0 is good, everything else is below 0.
//!
//! The numbers are an interface: they are in `larder.h` and in Python's `larder.Status`, and never
//! change their meaning. What a reader would get wrong: on a read every one below 0 is a miss, and
//! a caller that knows no more than that is right.

use larder_protocol::{Code, Status};

use crate::error::{Error, KeyError, Reason, Unavailable};

/// There, stored, removed, pinned.
pub const OK: i32 = 0;
/// Not there.
pub const MISS: i32 = -1;
/// There, but longer than the place for it.
pub const MISS_SIZE: i32 = -2;
/// Damaged: where it lay, or on its way.
pub const CORRUPT: i32 = -3;
/// The namespace has moved on to another generation.
pub const STALE: i32 = -4;
/// Not stored: it is there already.
pub const EXISTS: i32 = -5;
/// Not stored: a newer version is there.
pub const OLDER_VERSION: i32 = -6;
/// Refused for now: too much is under way.
pub const BUSY: i32 = -7;
/// Not stored: no room could be made.
pub const NO_ROOM: i32 = -8;
/// Above a limit.
pub const TOO_LARGE: i32 = -9;
/// The deadline passed first.
pub const DEADLINE: i32 = -10;
/// Who owns the key could not be asked.
pub const UNAVAILABLE: i32 = -11;
/// The caller cancelled it.
pub const CANCELLED: i32 = -12;
/// The client was closed, or its jobs were.
pub const CLOSED: i32 = -13;
/// Not allowed.
pub const DENIED: i32 = -14;
/// Refused for another reason.
pub const REFUSED: i32 = -15;
/// An argument makes no sense.
pub const INVALID_ARGUMENT: i32 = -16;
/// Called in a forked child.
pub const FORKED: i32 = -17;
/// The operating system refused something, or a network card did.
pub const SYSTEM: i32 = -18;
/// Not stored: no reader is expected for it. Nothing is wrong.
pub const NOT_WANTED: i32 = -19;

/// All of them, by name, from 0 down.
pub const ALL: [(&str, i32); 20] = [
    ("OK", OK),
    ("MISS", MISS),
    ("MISS_SIZE", MISS_SIZE),
    ("CORRUPT", CORRUPT),
    ("STALE", STALE),
    ("EXISTS", EXISTS),
    ("OLDER_VERSION", OLDER_VERSION),
    ("BUSY", BUSY),
    ("NO_ROOM", NO_ROOM),
    ("TOO_LARGE", TOO_LARGE),
    ("DEADLINE", DEADLINE),
    ("UNAVAILABLE", UNAVAILABLE),
    ("CANCELLED", CANCELLED),
    ("CLOSED", CLOSED),
    ("DENIED", DENIED),
    ("REFUSED", REFUSED),
    ("INVALID_ARGUMENT", INVALID_ARGUMENT),
    ("FORKED", FORKED),
    ("SYSTEM", SYSTEM),
    ("NOT_WANTED", NOT_WANTED),
];

impl KeyError {
    /// As a number, below 0.
    pub const fn number(&self) -> i32 {
        match self {
            Self::Status(status) => of_status(*status),
            Self::StaleGeneration { .. } => STALE,
            Self::Unavailable(unavailable) => of_peer(unavailable),
            Self::DeadlineExceeded => DEADLINE,
            Self::Refused(code) => of_code(*code),
            Self::Cancelled => CANCELLED,
            Self::Closed => CLOSED,
        }
    }
}

impl Error {
    /// As a number, below 0: what the call says of each of its keys.
    pub const fn number(&self) -> i32 {
        match self {
            Self::Unavailable(unavailable) => of_peer(unavailable),
            Self::DeadlineExceeded => DEADLINE,
            Self::StaleGeneration { .. } => STALE,
            Self::Denied => DENIED,
            Self::Refused(code) => of_code(*code),
            // A peer that cannot be understood is none.
            Self::Protocol(_) => UNAVAILABLE,
            Self::TooLarge { .. } => TOO_LARGE,
            Self::InvalidArgument { .. } => INVALID_ARGUMENT,
            Self::Forked => FORKED,
            Self::Cancelled => CANCELLED,
            Self::Closed => CLOSED,
            Self::Busy => BUSY,
            Self::Card(_) | Self::System { .. } => SYSTEM,
        }
    }
}

const fn of_status(status: Status) -> i32 {
    match status {
        Status::MissSize => MISS_SIZE,
        Status::MissCorrupt | Status::Corrupt => CORRUPT,
        Status::WrongShard => UNAVAILABLE,
        Status::NoRoom => NO_ROOM,
        Status::Busy => BUSY,
        Status::OlderVersion => OLDER_VERSION,
        Status::Exists => EXISTS,
        Status::NotWanted => NOT_WANTED,
        Status::TooLarge => TOO_LARGE,
        Status::DeadlineExceeded => DEADLINE,
        other if other.is_miss() => MISS,
        _ => REFUSED,
    }
}

const fn of_code(code: Code) -> i32 {
    match code {
        Code::Busy => BUSY,
        Code::Draining | Code::WrongShard => UNAVAILABLE,
        Code::Denied => DENIED,
        Code::StaleGeneration => STALE,
        Code::DeadlineExceeded => DEADLINE,
        _ => REFUSED,
    }
}

const fn of_peer(unavailable: &Unavailable) -> i32 {
    match unavailable.reason {
        Reason::Denied => DENIED,
        _ => UNAVAILABLE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_down_by_one_and_have_one_name() {
        for (at, (name, number)) in ALL.into_iter().enumerate() {
            assert_eq!(number, -(at as i32), "{name}");
        }
    }

    #[test]
    fn no_status_or_code_is_good_where_it_is_an_error() {
        for &status in Status::ALL {
            let number = KeyError::Status(status).number();
            let is_refusal = (REFUSED..OK).contains(&number) || number == NOT_WANTED;
            assert!(is_refusal, "{status:?}: {number}");
            let is_plain = status.is_miss() && number != MISS_SIZE && number != CORRUPT;
            assert_eq!(is_plain, number == MISS, "{status:?}: {number}");
        }
        for &code in Code::ALL {
            let number = KeyError::Refused(code).number();
            assert!((REFUSED..OK).contains(&number), "{code:?}: {number}");
            assert_eq!(number, Error::Refused(code).number());
        }
    }
}
