//! What can go wrong: [`Error`] ends a call, [`KeyError`] is one key's answer.
//!
//! The two are kept apart on purpose. A batch whose shards are half dead still has right answers
//! for the other half, so an unreachable node shows up per key, and a whole call fails only for
//! reasons that concern all of it.

use std::fmt;
use std::io;
use std::sync::Arc;

use larder_protocol::{Code, DecodeError, Generation, Status};

/// Answers of a call, by key.
pub type KeyResult<T> = Result<T, KeyError>;

/// Why a call as a whole has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No node could be asked.
    #[error("{0}")]
    Unavailable(#[from] Unavailable),
    /// The deadline passed first.
    #[error("the deadline passed")]
    DeadlineExceeded,
    /// The namespace has moved on; open it again to use the current generation.
    #[error("the namespace is at generation {current}")]
    StaleGeneration {
        /// What the node has.
        current: Generation,
    },
    /// The node does not know us, or we may not do this.
    #[error("not allowed by the node")]
    Denied,
    /// The node refused the request as a whole.
    #[error("refused by the node: {0:?}")]
    Refused(Code),
    /// The peer does not speak this protocol.
    #[error("the peer broke the protocol: {0}")]
    Protocol(#[from] DecodeError),
    /// An argument is outside its limit; nothing was sent.
    #[error("{what} of {found} is above its limit of {limit}")]
    TooLarge {
        /// The argument.
        what: &'static str,
        /// What was given.
        found: u64,
        /// What is allowed.
        limit: u64,
    },
    /// An argument makes no sense; nothing was sent.
    #[error("invalid argument: {what}")]
    InvalidArgument {
        /// What is wrong with which argument.
        what: &'static str,
    },
    /// The process forked after the client was made: its I/O thread lives in the parent only.
    #[error("a client cannot be used in a forked child")]
    Forked,
    /// The call was cancelled.
    #[error("the call was cancelled")]
    Cancelled,
    /// The client was closed.
    #[error("the client is closed")]
    Closed,
    /// As much is under way, or done and not yet taken, as was allowed; nothing was sent.
    #[error("too many jobs are under way or not yet taken")]
    Busy,
    /// There is no such network card, or it refused: what was asked of it, and what it said.
    #[error("network card: {0}")]
    Card(String),
    /// The operating system refused a thread or a descriptor.
    #[error("{what}: {kind}")]
    System {
        /// What was asked of it.
        what: &'static str,
        /// What it said.
        kind: io::ErrorKind,
    },
}

/// Why one key of a call has no good answer. On a read, every one of these is a miss.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The node answered: a miss with its reason, or why it did not store.
    #[error("{}", said(*.0))]
    Status(Status),
    /// Not stored: the namespace has moved on.
    #[error("the namespace is at generation {current}")]
    StaleGeneration {
        /// What the node has.
        current: Generation,
    },
    /// The shard that owns the key could not be asked.
    #[error("{0}")]
    Unavailable(#[from] Unavailable),
    /// The deadline passed first.
    #[error("the deadline passed")]
    DeadlineExceeded,
    /// The shard refused the request that the key was in.
    #[error("refused by the node: {0:?}")]
    Refused(Code),
    /// The call was cancelled.
    #[error("the call was cancelled")]
    Cancelled,
    /// The client was closed.
    #[error("the client is closed")]
    Closed,
}

impl KeyError {
    /// What the node said of this key, if it was asked and answered.
    pub const fn status(&self) -> Option<Status> {
        match self {
            Self::Status(status) => Some(*status),
            _ => None,
        }
    }

    /// Whether the node answered that the object is not there for this reader.
    pub const fn is_miss(&self) -> bool {
        matches!(self, Self::Status(status) if status.is_miss())
    }

    /// Whether nobody could be asked in time.
    pub const fn is_unanswered(&self) -> bool {
        matches!(
            self,
            Self::Unavailable(_) | Self::DeadlineExceeded | Self::Cancelled | Self::Closed
        )
    }
}

impl From<KeyError> for Error {
    fn from(error: KeyError) -> Self {
        match error {
            KeyError::Status(Status::DeadlineExceeded) | KeyError::DeadlineExceeded => {
                Self::DeadlineExceeded
            }
            KeyError::Status(Status::WrongShard) => Self::Refused(Code::WrongShard),
            KeyError::Status(_) => Self::Refused(Code::Ok),
            KeyError::StaleGeneration { current } => Self::StaleGeneration { current },
            KeyError::Unavailable(unavailable) => Self::Unavailable(unavailable),
            KeyError::Refused(Code::Denied) => Self::Denied,
            KeyError::Refused(code) => Self::Refused(code),
            KeyError::Cancelled => Self::Cancelled,
            KeyError::Closed => Self::Closed,
        }
    }
}

/// A status in words.
const fn said(status: Status) -> &'static str {
    match status {
        Status::Hit => "there",
        Status::Stored => "stored",
        Status::Removed => "removed",
        Status::Pinned => "pinned",
        Status::Miss => "not there",
        Status::MissExpired => "not there any more: its time to live has passed",
        Status::MissGeneration => "not there in this generation",
        Status::MissStale => "there, but not as fresh as asked",
        Status::MissCorrupt => "it was damaged",
        Status::MissSize => "larger than there is room for, or without the parts asked for",
        Status::MissReplyFull => "the reply was full",
        Status::WrongShard => "asked of the wrong shard",
        Status::NoRoom => "no room could be made",
        Status::Busy => "the shard is busy",
        Status::NotWanted => "not wanted",
        Status::Corrupt => "it was damaged on its way",
        Status::OlderVersion => "a newer version is there",
        Status::Exists => "it is there already",
        Status::TooLarge => "too large",
        Status::DeadlineExceeded => "the deadline passed at the node",
        _ => "refused",
    }
}

/// A peer that could not be asked, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unavailable {
    /// Address of the node, or of the seeds.
    pub peer: Arc<str>,
    /// What stood in the way.
    pub reason: Reason,
}

/// What stood between the client and a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// It failed a moment ago and has not answered a probe since.
    CircuitOpen,
    /// No connection could be made.
    Connect(io::ErrorKind),
    /// The connection ended before the answer.
    Lost,
    /// It sent bytes that are no answer; the connection was closed.
    Protocol(DecodeError),
    /// It answered what was not asked; the connection was closed.
    Desync(&'static str),
    /// The node says that it has no such shard.
    WrongShard,
    /// It does not let us in.
    Denied,
    /// No member of the view serves.
    NoMember,
    /// It offers no shared memory that this process can reach, and nothing else is wanted.
    NotShared,
    /// It has no network card that reaches this process's, and nothing else is wanted.
    NoCard,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CircuitOpen => f.write_str("circuit open"),
            Self::Connect(kind) => write!(f, "cannot connect: {kind}"),
            Self::Lost => f.write_str("connection lost"),
            Self::Protocol(error) => write!(f, "protocol broken: {error}"),
            Self::Desync(what) => write!(f, "answer out of place: {what}"),
            Self::WrongShard => f.write_str("no such shard"),
            Self::Denied => f.write_str("denied"),
            Self::NoMember => f.write_str("no member serves"),
            Self::NoCard => f.write_str("has no network card for this process"),
            Self::NotShared => f.write_str("shares no memory with this process"),
        }
    }
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is unavailable: {}", self.peer, self.reason)
    }
}

impl std::error::Error for Unavailable {}
