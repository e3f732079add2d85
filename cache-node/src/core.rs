//! What the tasks of one core share: the shard, its clock, its connections, its limits.
//!
//! The shard is borrowed for one call at a time and never across an await. A panic inside such a
//! call leaves the core *not whole*, and then nothing of it may go on serving.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::time::Instant;

use larder_protocol::Header;
use larder_protocol::stats::Stat;
use larder_transport::Spin;

use crate::polls::Polls;
use crate::rdma::Turns;
use crate::shard::Shard;
use crate::spin::Spinning;
use crate::stalls::{NEVER, Stalls};

/// One core's own things.
#[derive(Debug)]
pub(crate) struct Core {
    shard: RefCell<Shard>,
    inside: Cell<bool>,
    stopping: Cell<bool>,
    started: Instant,
    pub(crate) stalls: Stalls,
    pub(crate) polls: Rc<Polls>,
    pub(crate) limits: Limits,
    pub(crate) spin: Spinning,
    /// As `spin`, for what is under way through a card.
    pub(crate) moving: Spinning,
    /// Who waits for a pair to be connected.
    pub(crate) connecting: Rc<Turns>,
}

/// How long and how many, for the connections of one core.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) connections_max: usize,
    pub(crate) hello_timeout_ms: u64,
    pub(crate) header_timeout_ms: u64,
    pub(crate) progress_timeout_ms: u64,
    /// `None` lets a connection wait for its next request as long as it likes.
    pub(crate) idle_timeout_ms: Option<u64>,
}

impl Core {
    /// A core that serves `shard`; time counts from `started`.
    ///
    /// # Errors
    /// If there is no descriptor left.
    pub(crate) fn new(
        shard: Shard,
        limits: Limits,
        spin: Spin,
        started: Instant,
    ) -> io::Result<Self> {
        Ok(Self {
            shard: RefCell::new(shard),
            inside: Cell::new(false),
            stopping: Cell::new(false),
            started,
            stalls: Stalls::default(),
            polls: Rc::new(Polls::new(started)?),
            limits,
            spin: Spinning::new(spin),
            moving: Spinning::new(spin),
            connecting: Rc::default(),
        })
    }

    /// Lets `work` have the shard, with its clock set to now.
    pub(crate) fn shard<R>(&self, work: impl FnOnce(&mut Shard) -> R) -> R {
        self.shard_at(self.now_us(), work)
    }

    /// As [`Core::shard`], with a clock that was read a moment ago.
    pub(crate) fn shard_at<R>(&self, now_us: u64, work: impl FnOnce(&mut Shard) -> R) -> R {
        self.inside.set(true);
        let mut shard = self.shard.borrow_mut();
        shard.now_ms = now_us / 1000;
        let result = work(&mut shard);
        self.inside.set(false);
        result
    }

    /// Whether no panic interrupted the shard.
    pub(crate) fn is_whole(&self) -> bool {
        !self.inside.get()
    }

    /// Counts something that happened outside the shard.
    pub(crate) fn count(&self, stat: Stat, by: u64) {
        self.shard(|shard| shard.count(stat, by));
    }

    /// Milliseconds since the node started.
    pub(crate) fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    /// Microseconds since the node started.
    pub(crate) fn now_us(&self) -> u64 {
        self.started.elapsed().as_micros() as u64
    }

    /// Whether the deadline of a request that arrived then has passed.
    pub(crate) fn is_late(&self, header: &Header, arrived_us: u64) -> bool {
        Self::is_late_at(self.now_us(), header, arrived_us)
    }

    /// As [`Core::is_late`], by a clock that was read a moment ago.
    pub(crate) fn is_late_at(now_us: u64, header: &Header, arrived_us: u64) -> bool {
        now_us.saturating_sub(arrived_us) > u64::from(header.deadline_us)
    }

    /// When the payload of a request must be here: no sooner than its deadline says, since its
    /// sender may still want to hear that it was late, and no later than a slow line needs.
    pub(crate) fn received_by(&self, header: &Header) -> u64 {
        let asked = u64::from(header.deadline_us) / 1000 + LATE_MS;
        self.now_ms() + asked.min(self.line_ms(header.payload_bytes))
    }

    /// When `bytes` of replies must have left.
    pub(crate) fn sent_by(&self, bytes: u64) -> u64 {
        self.now_ms() + self.line_ms(bytes)
    }

    /// When something of `bytes` under way through a card must have ended, if nothing has since.
    pub(crate) fn moved_by(&self, since_ms: u64, bytes: u64) -> u64 {
        since_ms + self.line_ms(bytes)
    }

    /// Until when a connection may wait for its next request.
    pub(crate) fn idle_until(&self) -> u64 {
        self.limits.idle_timeout_ms.map_or(NEVER, |idle_ms| self.now_ms() + idle_ms)
    }

    fn line_ms(&self, bytes: u64) -> u64 {
        self.limits.progress_timeout_ms + bytes / LINE_BYTES_PER_MS_MIN
    }

    /// Takes no new connections from now on.
    pub(crate) fn stop(&self) {
        self.stopping.set(true);
    }

    /// Whether the core takes no new connections.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.get()
    }
}

/// Slower lines than 8 MB a second are cut off: what they hold up is everybody's memory.
const LINE_BYTES_PER_MS_MIN: u64 = 8000;
/// How long after its deadline a put may still trickle in.
const LATE_MS: u64 = 1000;
