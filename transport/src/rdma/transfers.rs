//! Objects on their way through one queue pair, and who holds their memory meanwhile.
//!
//! A transfer is one object: a slot here, some pieces of registered memory there. Transfers are
//! taken in order, posted together, and told of when they ended. The slot lives in the transfer, so
//! it is not used again before. What a reader would get wrong: a transfer that failed, or was given
//! up, is told of only when every work of the pair has completed, for until then some card may
//! still read or write its slot; to be rid of one at once, drop all of it.

use std::collections::VecDeque;
use std::slice::SliceIndex;

use larder_protocol::message::RemotePiece;

use crate::arena::slot::{Slot, SlotMut};
use crate::rdma::fabric::{Completion, Direction, Memory, QueuePair, Work, WorkError};

/// How much may be under way. Fill in what differs from the default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransfersConfig {
    /// Most works posted at a time, as the pair was made for. Default 256.
    pub works_max: u32,
    /// Most bytes posted at a time, but for a single longer work. Default 16 MiB.
    pub bytes_max: u64,
    /// Most bytes of one work; a longer piece is moved by several. Default 1 MiB.
    pub work_bytes_max: u32,
    /// Most transfers that wait or are under way. Default 1,024.
    pub transfers_max: usize,
}

/// What goes through one queue pair.
#[derive(Debug)]
pub struct Transfers<P: QueuePair, M> {
    /// The first field, so it is dropped before what cards may touch until then.
    pair: P,
    memory: M,
    config: TransfersConfig,
    waiting: VecDeque<Transfer>,
    under_way: VecDeque<Transfer>,
    /// Number of the next work.
    next: u64,
    /// All works before this one have completed.
    completed: u64,
    /// Bytes of the works that were posted and have not completed, in their order, and their sum.
    posted_bytes: VecDeque<u32>,
    bytes_under_way: u64,
    doorbells: u64,
    /// Why it ended, once it has.
    end: Option<WorkError>,
    works: Vec<Work>,
    completions: Vec<Completion>,
}

/// One object.
#[derive(Debug)]
struct Transfer {
    token: u64,
    held: Held,
    /// Of the next byte to post.
    address: u64,
    pieces: Vec<RemotePiece>,
    /// How many of its pieces were posted, and how many bytes of the next one.
    pieces_posted: usize,
    bytes_posted: u32,
    /// Behind the number of its last work so far.
    works_end: u64,
}

/// The memory of a transfer.
#[derive(Debug)]
pub enum Held {
    /// Was written to the peer.
    Slot(Slot),
    /// Is full of what was read from the peer.
    SlotMut(SlotMut),
}

/// A transfer that has ended.
#[derive(Debug)]
pub struct Ended {
    /// As it was named.
    pub token: u64,
    /// Its memory, or why it failed. Nothing touches either any more.
    pub outcome: Result<Held, WorkError>,
}

/// Why a transfer was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// As many as may be are under way.
    #[error("too many transfers are under way to this peer")]
    Full,
    /// The pair has ended.
    #[error("the queue pair has ended: {0}")]
    Ended(WorkError),
    /// The pieces have not the bytes of the object together, or more than fit addresses.
    #[error("the peer's pieces have {found} bytes, not {expected}")]
    Length {
        /// Bytes of the pieces.
        found: u64,
        /// Bytes of the object.
        expected: u64,
    },
}

impl Default for TransfersConfig {
    fn default() -> Self {
        Self { works_max: 256, bytes_max: 16 << 20, work_bytes_max: 1 << 20, transfers_max: 1024 }
    }
}

impl<P: QueuePair, M: Memory> Transfers<P, M> {
    /// Through `pair`, which is connected, from and to slots that lie in `memory`.
    ///
    /// # Panics
    /// If nothing may be under way.
    pub fn new(pair: P, memory: M, config: TransfersConfig) -> Self {
        assert!(config.works_max > 0 && config.work_bytes_max > 0, "something has to be posted");
        let posted_bytes = VecDeque::with_capacity(config.works_max as usize);
        Self {
            pair,
            memory,
            config,
            waiting: VecDeque::new(),
            under_way: VecDeque::new(),
            next: 0,
            completed: 0,
            posted_bytes,
            bytes_under_way: 0,
            doorbells: 0,
            end: None,
            works: Vec::new(),
            completions: Vec::new(),
        }
    }

    /// Takes these bytes of `slot`, to be written to the peer's `pieces`.
    ///
    /// # Errors
    /// [`Refused`], and then nothing happens.
    ///
    /// # Panics
    /// If the slot is in other memory, or has no such bytes.
    pub fn write(
        &mut self,
        token: u64,
        slot: Slot,
        range: impl SliceIndex<[u8], Output = [u8]>,
        pieces: Vec<RemotePiece>,
    ) -> Result<(), Refused> {
        let bytes = &slot[range];
        let (address, bytes) = (bytes.as_ptr().expose_provenance() as u64, bytes.len() as u64);
        self.take(token, Held::Slot(slot), address, bytes, pieces)
    }

    /// Takes `slot`, of which all that is not filled is to be read from the peer's `pieces`.
    ///
    /// # Errors
    /// [`Refused`], and then nothing happens.
    ///
    /// # Panics
    /// If the slot is in other memory.
    pub fn read(
        &mut self,
        token: u64,
        mut slot: SlotMut,
        pieces: Vec<RemotePiece>,
    ) -> Result<(), Refused> {
        let bytes = slot.unfilled();
        let (address, bytes) = (bytes.as_mut_ptr().expose_provenance() as u64, bytes.len() as u64);
        self.take(token, Held::SlotMut(slot), address, bytes, pieces)
    }

    fn take(
        &mut self,
        token: u64,
        held: Held,
        address: u64,
        bytes: u64,
        mut pieces: Vec<RemotePiece>,
    ) -> Result<(), Refused> {
        if let Some(why) = self.end {
            return Err(Refused::Ended(why));
        }
        if self.len() >= self.config.transfers_max {
            return Err(Refused::Full);
        }
        let found = pieces.iter().map(|piece| u64::from(piece.bytes)).sum();
        if found != bytes {
            return Err(Refused::Length { found, expected: bytes });
        }
        pieces.retain(|piece| piece.bytes > 0);
        assert!(
            self.memory.contains(address, bytes),
            "slots are in the memory that was registered"
        );
        let (pieces_posted, bytes_posted, works_end) = (0, 0, self.next);
        self.waiting.push_back(Transfer {
            token,
            held,
            address,
            pieces,
            pieces_posted,
            bytes_posted,
            works_end,
        });
        Ok(())
    }

    /// Posts what has room now, with one ring of the doorbell. To be called after transfers were
    /// taken, and after some ended.
    pub fn post(&mut self) {
        if self.end.is_some() {
            return;
        }
        let mut works = std::mem::take(&mut self.works);
        works.clear();
        while let Some(transfer) = self.waiting.front_mut() {
            while let Some((remote, is_last)) = transfer.next(self.config.work_bytes_max) {
                let bytes_under_way = self.bytes_under_way + u64::from(remote.bytes);
                let is_much = bytes_under_way > self.config.bytes_max && self.bytes_under_way > 0;
                if is_much || self.posted_bytes.len() == self.config.works_max as usize {
                    break;
                }
                works.push(Work {
                    number: self.next,
                    direction: transfer.held.direction(),
                    local_address: transfer.address,
                    local_key: self.memory.local_key(),
                    remote,
                    is_signalled: false,
                });
                transfer.posted(remote.bytes, is_last);
                self.posted_bytes.push_back(remote.bytes);
                self.bytes_under_way = bytes_under_way;
                self.next += 1;
            }
            transfer.works_end = self.next;
            if transfer.pieces_posted < transfer.pieces.len() {
                break;
            }
            self.under_way.extend(self.waiting.pop_front());
        }
        self.ring(&mut works);
        self.works = works;
    }

    fn ring(&mut self, works: &mut [Work]) {
        if works.is_empty() {
            return;
        }
        // The last, and some on the way: what has completed makes room while the rest is moved.
        let count = works.len();
        // A slow card has to be heard of, too: the longest work is signalled by itself.
        let works_max = self.config.works_max / SIGNALS;
        let bytes_max = u64::from(self.config.work_bytes_max);
        let bytes_max = bytes_max.min(self.config.bytes_max / u64::from(SIGNALS));
        let (mut unsignalled, mut bytes) = (0, 0);
        for (index, work) in works.iter_mut().enumerate() {
            (unsignalled, bytes) = (unsignalled + 1, bytes + u64::from(work.remote.bytes));
            let is_enough = unsignalled >= works_max || bytes >= bytes_max;
            if is_enough || index + 1 == count {
                work.is_signalled = true;
                (unsignalled, bytes) = (0, 0);
            }
        }
        self.doorbells += 1;
        // SAFETY: the memory of each work is that of a slot in `memory`, which is registered. The
        // transfer holds the slot: one that is read by others too if it is written to the peer, and
        // the only handle if it is filled. It gives the slot away only once its works completed,
        // or, in a drop, after the pair.
        let posted = unsafe { self.pair.post(works) };
        if let Err(error) = posted {
            tracing::warn!(%error, "works were refused");
            self.give_up(WorkError::Flushed);
        }
    }

    /// Adds the transfers that have ended since the last time. Never waits.
    pub fn poll(&mut self, ended: &mut Vec<Ended>) {
        let mut completions = std::mem::take(&mut self.completions);
        completions.clear();
        if let Err(error) = self.pair.poll(&mut completions) {
            tracing::warn!(%error, "completions are not told any more");
            self.give_up(WorkError::Flushed);
        }
        for completion in &completions {
            // One that is told twice says nothing new, and none is told before it was posted.
            if completion.number < self.completed || completion.number >= self.next {
                continue;
            }
            if let Err(why) = completion.outcome
                && self.end.is_none()
            {
                // All before it succeeded.
                self.complete(completion.number);
                self.release(ended);
                self.give_up(why);
            }
            self.complete(completion.number + 1);
            self.release(ended);
        }
        self.completions = completions;
        // Objects without bytes have no works.
        self.release(ended);
        if let Some(why) = self.end
            && self.completed == self.next
        {
            // Nothing is posted any more.
            let left = self.under_way.drain(..).chain(self.waiting.drain(..));
            ended.extend(left.map(|transfer| transfer.failed(why)));
        }
    }

    /// All works before this one have completed.
    fn complete(&mut self, number: u64) {
        for bytes in self.posted_bytes.drain(..(number - self.completed) as usize) {
            self.bytes_under_way -= u64::from(bytes);
        }
        self.completed = number;
    }

    /// Gives away what has completed: as failed once the pair has ended, for then it may be so.
    fn release(&mut self, ended: &mut Vec<Ended>) {
        while let Some(transfer) = self.under_way.pop_front_if(|t| t.works_end <= self.completed) {
            ended.push(match self.end {
                None => Ended { token: transfer.token, outcome: Ok(transfer.held.moved()) },
                Some(why) => transfer.failed(why),
            });
        }
    }

    /// Destroys the pair, and fails all that is left. For a device that does not tell of the end.
    ///
    /// Nothing can be asked of it afterwards:
    ///
    /// ```compile_fail
    /// use larder_transport::rdma::{Memory, QueuePair, Transfers};
    ///
    /// fn after<P: QueuePair, M: Memory>(mut transfers: Transfers<P, M>) {
    ///     transfers.destroy(&mut Vec::new());
    ///     transfers.post();
    /// }
    /// ```
    pub fn destroy(self, ended: &mut Vec<Ended>) {
        let Self { pair, waiting, under_way, end, .. } = self;
        drop(pair);
        let why = end.unwrap_or(WorkError::Flushed);
        ended.extend(under_way.into_iter().chain(waiting).map(|transfer| transfer.failed(why)));
    }

    /// Takes the pair down. What is under way fails, and is told of when nothing touches it.
    pub fn give_up(&mut self, why: WorkError) {
        if self.end.is_none() {
            self.end = Some(why);
            self.pair.end();
        }
    }

    /// How many transfers wait or are under way.
    pub fn len(&self) -> usize {
        self.waiting.len() + self.under_way.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Why the pair has ended, if it has.
    pub fn end(&self) -> Option<WorkError> {
        self.end
    }

    /// How many works have completed.
    pub const fn completed(&self) -> u64 {
        self.completed
    }

    /// How many works were posted, with how many rings of the doorbell.
    pub fn posted(&self) -> (u64, u64) {
        (self.next, self.doorbells)
    }
}

/// In how many parts the room of a pair comes back, if all of it was used at once. A guess: enough
/// that a pair does not stand still for a delay each time, few enough to cost nothing.
const SIGNALS: u32 = 4;

impl Transfer {
    /// What is to be posted next, and whether it is the rest of its piece.
    fn next(&self, work_bytes_max: u32) -> Option<(RemotePiece, bool)> {
        let piece = self.pieces.get(self.pieces_posted)?;
        let left = piece.bytes - self.bytes_posted;
        // A peer may say anything; where it wraps nothing is registered.
        let address = piece.address.wrapping_add(u64::from(self.bytes_posted));
        let bytes = left.min(work_bytes_max);
        Some((RemotePiece { address, bytes, ..*piece }, bytes == left))
    }

    fn posted(&mut self, bytes: u32, is_last: bool) {
        self.address += u64::from(bytes);
        if is_last {
            (self.pieces_posted, self.bytes_posted) = (self.pieces_posted + 1, 0);
        } else {
            self.bytes_posted += bytes;
        }
    }

    fn failed(self, why: WorkError) -> Ended {
        Ended { token: self.token, outcome: Err(why) }
    }
}

impl Held {
    const fn direction(&self) -> Direction {
        match self {
            Self::Slot(_) => Direction::Write,
            Self::SlotMut(_) => Direction::Read,
        }
    }

    /// All works of it succeeded.
    fn moved(mut self) -> Self {
        if let Self::SlotMut(slot) = &mut self {
            let bytes = slot.unfilled().len();
            slot.advance(bytes);
        }
        self
    }
}
