//! One connection to one shard, over TCP or a Unix socket: the twin of the node's `tcp.rs`.
//!
//! Never waits: it connects, writes and reads what the socket takes and has, and remembers whether
//! it was full or empty. What a reader would get wrong: readiness is edge-triggered, so a socket
//! that was not read to its end says nothing more.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use larder_transport::rights::send_with;
use larder_transport::socket::{send_vectored, set_readable_bytes};
use mio::{Registry, Token};

use crate::leg::Leg;
use crate::rdma::Pairing;
use crate::releases::Bell;
use crate::router::Route;
use crate::session::{Broken, Event, Limits, Session};
use crate::shared::Memories;
use crate::stream::Socket;

/// A connection, whether there is one just now or not.
pub(crate) struct Conn {
    pub(crate) route: Route,
    pub(crate) session: Session,
    pub(crate) link: Link,
    /// Since when a probe is unanswered.
    pub(crate) probed_at: Option<Instant>,
    /// Whether it waits to be flushed.
    pub(crate) is_dirty: bool,
    /// How many of the session's replies were noticed.
    pub(crate) replies_seen: u64,
    can_write: bool,
    /// With how many bytes the socket counts as readable.
    readable_bytes: u32,
    limits: Limits,
    memories: Arc<Memories>,
}

/// How far a connection is.
pub(crate) enum Link {
    Down,
    /// Its host's name is being looked up.
    Resolving,
    Connecting {
        socket: Socket,
        until: Instant,
        /// Where to try next.
        others: Vec<SocketAddr>,
    },
    Up(Socket),
}

impl Conn {
    pub(crate) fn new(
        route: Route,
        limits: Limits,
        view_epoch: u64,
        memories: Arc<Memories>,
    ) -> Self {
        let pairing = Pairing::new(Arc::clone(&memories));
        Self {
            route,
            session: Session::new(limits, view_epoch, pairing),
            link: Link::Down,
            probed_at: None,
            is_dirty: false,
            replies_seen: 0,
            can_write: false,
            readable_bytes: 1,
            limits,
            memories,
        }
    }

    /// Starts to connect to the first of `addresses` that can be tried.
    pub(crate) fn connect(
        &mut self,
        mut addresses: Vec<SocketAddr>,
        until: Instant,
        registry: &Registry,
        token: Token,
    ) -> Result<(), io::ErrorKind> {
        self.link = Link::Down;
        let mut last = io::ErrorKind::AddrNotAvailable;
        while !addresses.is_empty() {
            match Socket::tcp(addresses.remove(0), registry, token) {
                Ok(socket) => {
                    let others = addresses;
                    self.link = Link::Connecting { socket, until, others };
                    return Ok(());
                }
                Err(error) => last = error.kind(),
            }
        }
        Err(last)
    }

    /// Starts to connect to a socket on this host.
    pub(crate) fn connect_unix(
        &mut self,
        path: &Path,
        until: Instant,
        registry: &Registry,
        token: Token,
    ) -> Result<(), io::ErrorKind> {
        self.link = Link::Down;
        let socket = Socket::unix(path, registry, token).map_err(|error| error.kind())?;
        self.link = Link::Connecting { socket, until, others: Vec::new() };
        Ok(())
    }

    /// The socket under way has become ready. Whether it is connected now.
    ///
    /// # Errors
    /// What went wrong, and where else to try.
    pub(crate) fn connected(
        &mut self,
        bell: impl FnOnce() -> Bell,
    ) -> Result<bool, (io::ErrorKind, Vec<SocketAddr>)> {
        let Link::Connecting { socket, others, .. } = &mut self.link else { return Ok(false) };
        match socket.is_connected() {
            Ok(false) => return Ok(false),
            Ok(true) => {
                socket.tune();
                if let Some(keepalive) = socket.keepalive() {
                    self.session.set_on_host(keepalive, bell());
                }
            }
            Err(error) => {
                let others = std::mem::take(others);
                self.link = Link::Down;
                return Err((error.kind(), others));
            }
        }
        if let Link::Connecting { socket, .. } = std::mem::replace(&mut self.link, Link::Down) {
            self.link = Link::Up(socket);
        }
        (self.can_write, self.readable_bytes) = (true, 1);
        Ok(true)
    }

    pub(crate) const fn set_writable(&mut self) {
        self.can_write = true;
    }

    /// Puts waiting legs in flight and writes what the socket takes.
    pub(crate) fn flush(&mut self, now: Instant, events: &mut Vec<Event>) -> Result<(), Broken> {
        let Link::Up(socket) = &self.link else { return Ok(()) };
        loop {
            self.session.pump(now);
            if !self.can_write {
                return Ok(());
            }
            let mut slices = Vec::new();
            self.session.gather(&mut slices);
            if slices.is_empty() {
                // The node copies meanwhile what these are of.
                if self.session.sum_next() {
                    continue;
                }
                return Ok(());
            }
            let offered: usize = slices.iter().map(|slice| slice.len()).sum();
            let sent = match self.session.descriptor_due() {
                None => send_vectored(socket, &slices),
                Some(descriptor) => send_with(socket, &slices, descriptor),
            };
            match sent {
                Ok(sent) => {
                    self.session.wrote(sent);
                    self.session.end_early(now, events)?;
                    // It took less than it was offered: it is full, and will say when it is not.
                    self.can_write = sent == offered;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.can_write = false,
                Err(_) => return Err(Broken::Lost),
            }
        }
    }

    /// Whether the socket took less than it was offered.
    pub(crate) const fn awaits_room(&self) -> bool {
        matches!(self.link, Link::Up(_)) && !self.can_write
    }

    /// Has us woken when there is room to write, if there was none.
    ///
    /// # Errors
    /// [`Broken::Lost`] if it cannot be.
    pub(crate) fn heed_room(&mut self, registry: &Registry, token: Token) -> Result<(), Broken> {
        let Link::Up(socket) = &mut self.link else { return Ok(()) };
        socket.heed_room(!self.can_write, registry, token).map_err(|_| Broken::Lost)
    }

    /// Reads and handles what is there. Whether there may be more.
    pub(crate) fn receive(
        &mut self,
        now: Instant,
        events: &mut Vec<Event>,
    ) -> Result<bool, Broken> {
        let Link::Up(socket) = &mut self.link else { return Ok(false) };
        let more = self.session.receive(socket, now, events)?;
        self.session.end_early(now, events)?;
        // A read ends at a descriptor, whatever comes behind it.
        let more = more || socket.take_stop();
        if !more && !socket.is_unix() {
            let bytes = self.session.inbound.bound_to_come().clamp(1, READABLE_BYTES_MAX) as u32;
            // Without it we are only woken more often.
            if bytes != self.readable_bytes && set_readable_bytes(socket, bytes).is_ok() {
                self.readable_bytes = bytes;
            }
        }
        Ok(more)
    }

    /// Ends the connection. Answers the legs that are open.
    pub(crate) fn close(&mut self) -> Vec<Box<Leg>> {
        self.link = Link::Down;
        self.probed_at = None;
        self.replies_seen = 0;
        let epoch = self.session.view_epoch;
        let pairing = Pairing::new(Arc::clone(&self.memories));
        let next = Session::new(self.limits, epoch, pairing);
        let mut session = std::mem::replace(&mut self.session, next);
        session.take_all().0
    }

    /// Whether it is, or is about to be, over a socket of this host.
    pub(crate) const fn is_unix(&self) -> bool {
        match &self.link {
            Link::Connecting { socket, .. } | Link::Up(socket) => socket.is_unix(),
            Link::Down | Link::Resolving => false,
        }
    }

    pub(crate) const fn is_up(&self) -> bool {
        matches!(self.link, Link::Up(_)) && self.session.is_up()
    }
}

impl std::fmt::Debug for Conn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let fd = match &self.link {
            Link::Up(socket) => Some(socket.as_raw_fd()),
            _ => None,
        };
        f.debug_struct("Conn").field("route", &self.route).field("fd", &fd).finish_non_exhaustive()
    }
}

/// A long payload wakes us for this much at a time: a wake-up costs as much as copying it.
const READABLE_BYTES_MAX: u64 = 256 << 10;
