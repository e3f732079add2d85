//! Leases that have ended and that the node does not know of yet.
//!
//! Leases end on callers' threads, which never wait for a socket: they write the place down, and
//! the connection tells the node with its next request, or when the I/O looks. What a reader would
//! get wrong: this outlives the session. The node takes leases back when the connection's
//! socket is closed, so the socket stays open until the last lease is gone, even when this client
//! has given the connection up.

use std::any::Any;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use larder_protocol::limits::{HEADER_BYTES, RELEASES_MAX};
use larder_protocol::message::{LeasedPlace, Release};
use larder_protocol::{Header, Opcode};
use larder_transport::process_id;

use crate::flight::Unsent;
use crate::session::{OWN_DEADLINE, Session};

/// Wakes the I/O, or calls the keeper to it, to write what waits on one connection.
pub(crate) type Bell = Box<dyn Fn() + Send + Sync>;

/// What one connection owes the node. Shared by its session and by every lease of it.
pub(crate) struct Releases {
    due: Mutex<Due>,
    /// As many as are due, for a look without the lock.
    count: AtomicUsize,
    bell: Bell,
    pid: u32,
    _socket: Arc<dyn Any + Send + Sync>,
}

#[derive(Default)]
struct Due {
    places: Vec<LeasedPlace>,
    bytes: u64,
    has_rung: bool,
    /// There is no session any more that would tell the node.
    is_over: bool,
}

/// One lease. Dropping it ends the lease, and never waits for anything but another drop.
#[derive(Debug)]
pub(crate) struct Ticket {
    place: LeasedPlace,
    bytes: u32,
    releases: Arc<Releases>,
}

impl Releases {
    /// Of a connection over `socket`, which is closed when the last clone of it is dropped.
    pub(crate) fn new(socket: Arc<dyn Any + Send + Sync>, bell: Bell) -> Arc<Self> {
        let (due, count, pid) = (Mutex::default(), AtomicUsize::new(0), process_id());
        Arc::new(Self { due, count, bell, pid, _socket: socket })
    }

    /// A lease of `bytes` bytes that the node has just given.
    pub(crate) fn ticket(self: &Arc<Self>, place: LeasedPlace, bytes: u32) -> Ticket {
        Ticket { place, bytes, releases: Arc::clone(self) }
    }

    /// Whether there is something to tell the node.
    pub(crate) fn are_due(&self) -> bool {
        self.count.load(Ordering::Relaxed) > 0
    }

    /// Has the I/O look.
    pub(crate) fn ring(&self) {
        (self.bell)();
    }

    /// There is no session any more: what ends from now on is forgotten, and nobody is woken.
    pub(crate) fn end(&self) {
        let mut due = self.lock();
        due.is_over = true;
        due.places = Vec::new();
        self.count.store(0, Ordering::Relaxed);
    }

    fn push(&self, place: LeasedPlace, bytes: u32) {
        // In a forked child the lock may be held for ever, and the lease is the parent's.
        if self.pid != process_id() {
            return;
        }
        let mut due = self.lock();
        if due.is_over {
            return;
        }
        due.places.push(place);
        due.bytes += u64::from(bytes);
        self.count.store(due.places.len(), Ordering::Relaxed);
        let is_much = due.places.len() >= RING_COUNT || due.bytes >= RING_BYTES;
        let is_news = is_much && !std::mem::replace(&mut due.has_rung, is_much);
        drop(due);
        if is_news {
            self.ring();
        }
    }

    /// Moves out what is due.
    fn take(&self) -> Vec<LeasedPlace> {
        let mut due = self.lock();
        (due.bytes, due.has_rung) = (0, false);
        self.count.store(0, Ordering::Relaxed);
        std::mem::take(&mut due.places)
    }

    fn lock(&self) -> MutexGuard<'_, Due> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.releases.push(self.place, self.bytes);
    }
}

impl Session {
    /// Whether there is something to write that no request brings along: the driver looks now and
    /// then, at least every [`RELEASE_PAUSE`] while [`Session::has_leases`].
    pub(crate) fn wants_flush(&self) -> bool {
        let is_due = || self.inbound.regions.releases_due() || self.given.are_some_gone();
        self.is_up() && (is_due() || self.pairing.is_lost())
    }

    /// Whether leases of this connection are out, which may end without a word.
    pub(crate) fn has_leases(&self) -> bool {
        self.inbound.regions.has_leases()
    }

    /// Has ended leases told to the node, ahead of what is launched next.
    pub(crate) fn say_releases(&mut self) {
        let Some(releases) = self.inbound.regions.releases().filter(|due| due.are_due()) else {
            return;
        };
        for places in releases.take().chunks(RELEASES_MAX) {
            let mut frame = Vec::with_capacity(HEADER_BYTES + 4 + 12 * places.len());
            Header::begin(&mut frame);
            Release::encode(places, &mut frame);
            let header = Header {
                view_epoch: self.view_epoch,
                ..Header::request(Opcode::Release, 0, OWN_DEADLINE.as_micros() as u32)
            };
            header.finish(0, 0, &mut frame);
            self.unsent.push_back(Unsent::Alone(frame));
        }
    }
}

impl fmt::Debug for Releases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Releases").field("count", &self.count).finish_non_exhaustive()
    }
}

/// How long ended leases may wait on an idle connection. A guess: looking that seldom costs
/// nothing, and the node seldom needs the room sooner.
pub(crate) const RELEASE_PAUSE: Duration = Duration::from_millis(10);
/// The I/O is woken for this many leases. A guess: one frame for many, and seldom any.
const RING_COUNT: usize = 64;
/// The I/O is woken for this many bytes that the node could use again. A guess.
const RING_BYTES: u64 = 64 << 20;
