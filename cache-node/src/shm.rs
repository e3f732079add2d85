//! The driver's part for clients on this host: Unix sockets, descriptors, leases at a bad end.
//!
//! A Unix socket is served as the runtime's `TcpStream`, which is any stream socket to the kernel.
//! What a reader would get wrong: it is never read through the runtime, which would throw away the
//! descriptors that come with bytes. The runtime only says, by a peek, that there is something.

use std::io::{self, IoSliceMut};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_lite::future::poll_fn;
use futures_lite::{AsyncReadExt, Future};
use glommio::net::TcpStream;
use larder_protocol::header::Opcode;
use larder_protocol::stats::Stat;
use larder_protocol::{DecodeError, Header};
use larder_transport::{rights, socket};

use crate::core::Core;
use crate::inbox::Inbox;
use crate::outbox::Outbox;
use crate::stalls::{NEVER, Notice, Patience, Word};
use crate::tcp::{ACCEPT_BURST, SCRAP_BYTES, Wire, connection};
use crate::uds::Entry;

/// Takes in the connections that wait in the shard's hall, whenever its bell rings.
pub(crate) async fn welcome(entry: Entry, core: Rc<Core>) {
    let mut bell = TcpStream::from(socket2::Socket::from(entry.bell));
    let mut burst = 0;
    // It rings once for any number of guests; the hall knows how many.
    while let Ok(1..) = bell.read(&mut [0; 64]).await {
        let [denied, failed] = entry.hall.turned_away();
        core.count(Stat::UdsDenied, denied);
        core.count(Stat::AcceptErrors, failed);
        for guest in entry.hall.guests() {
            if core.is_stopping() {
                return;
            }
            if core.stalls.len() >= core.limits.connections_max {
                core.count(Stat::AcceptErrors, 1);
                continue;
            }
            let stream = TcpStream::from(socket2::Socket::from(guest.socket));
            let served = connection(stream, Rc::clone(&core), Some(guest.process));
            glommio::spawn_local(served).detach();
            burst += 1;
            if burst >= ACCEPT_BURST {
                burst = 0;
                core.polls.breathe().await;
            }
        }
    }
}

/// What a connection has that its other end is on this host.
#[derive(Debug)]
pub(crate) struct Near {
    notice: Notice,
    /// Descriptors whose frame was not served yet.
    arrived: Vec<OwnedFd>,
    /// Whether the latest receive left nothing, as far as one can tell.
    is_drained: bool,
    /// Whether the process that made the connection is known to be dead.
    is_dead: bool,
}

impl Near {
    pub(crate) fn new(notice: Notice) -> Self {
        Self { notice, arrived: Vec::new(), is_drained: true, is_dead: false }
    }

    /// Receives at least one byte, and whatever descriptors come with it.
    ///
    /// # Errors
    /// `TimedOut` if the connection is told to end, `InvalidData` for too many descriptors.
    pub(crate) async fn receive(
        &mut self,
        stream: &TcpStream,
        into: &mut [u8],
    ) -> io::Result<usize> {
        loop {
            if !self.is_drained {
                match self.receive_now(stream, into) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    received => return received,
                }
            }
            self.is_drained = false;
            self.readable(stream).await?;
        }
    }

    /// Receives what is there already, and whatever descriptors come with it.
    ///
    /// # Errors
    /// As [`Near::receive`]; `WouldBlock` if there is nothing.
    pub(crate) fn receive_now(&mut self, stream: &TcpStream, into: &mut [u8]) -> io::Result<usize> {
        self.heed()?;
        let received = rights::recv_with(stream, &mut [IoSliceMut::new(into)], &mut self.arrived);
        self.is_drained = !received.as_ref().is_ok_and(|&count| count == into.len());
        received
    }

    /// Waits until there is something to receive, the end included.
    async fn readable(&mut self, stream: &TcpStream) -> io::Result<()> {
        let mut byte = [0];
        let mut peek = pin!(stream.peek(&mut byte));
        poll_fn(|cx| match peek.as_mut().poll(cx) {
            Poll::Ready(peeked) => Poll::Ready(peeked.map(drop).map_err(io::Error::from)),
            Poll::Pending => self.told(cx),
        })
        .await
    }

    /// Ready with an error if the connection is told to end; else it is woken when it is.
    pub(crate) fn told(&mut self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        match self.notice.poll(cx) {
            Some(word) => Poll::Ready(Err(self.end(word))),
            None => Poll::Pending,
        }
    }

    /// An error if the connection was told to end.
    pub(crate) fn heed(&mut self) -> io::Result<()> {
        self.notice.take().map_or(Ok(()), |word| Err(self.end(word)))
    }

    fn end(&mut self, word: Word) -> io::Error {
        self.is_dead |= word == Word::Dead;
        io::ErrorKind::TimedOut.into()
    }

    /// The descriptors that came with this frame, if it is of a kind that may have one.
    pub(crate) fn descriptors_of(&mut self, header: &Header, behind: &[u8]) -> Vec<OwnedFd> {
        if header.opcode != Opcode::Share as u8 {
            return Vec::new();
        }
        // With nothing behind the frame all are its own, and refused if that is too many. Else
        // those after the first may be of the next frame, as far as that is here.
        let count = if behind.is_empty() { self.arrived.len() } else { 1 };
        self.arrived.drain(..count.min(self.arrived.len())).collect()
    }

    /// Refuses descriptors that came with what was served. What was not may have some, as far as it
    /// is here.
    ///
    /// # Errors
    /// [`DecodeError`]; they are closed with the connection.
    pub(crate) fn check_arrived(&self, inbox: &Inbox) -> Result<(), DecodeError> {
        if self.arrived.is_empty() {
            return Ok(());
        }
        let may_have = match inbox.header(true)? {
            Some(header) => header.opcode == Opcode::Share as u8,
            None => !inbox.is_empty(),
        };
        if may_have { Ok(()) } else { Err(DESCRIPTORS) }
    }
}

impl Wire {
    /// Does what may take long, such as mapping memory, on a thread that
    /// serves nobody.
    ///
    /// # Errors
    /// If what is answered cannot be sent before.
    pub(crate) async fn aside<T: Send + 'static>(
        &mut self,
        core: &Core,
        patience: &Patience,
        outbox: &mut Outbox,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        self.send(core, patience, outbox).await?;
        // From here on it is the node that takes its time.
        patience.until(NEVER);
        Ok(glommio::executor().spawn_blocking(work).await)
    }
}

/// Holds the leases of a connection that the node has ended until its peer is gone.
///
/// Their memory is still read: it is the peer's to say when that is over. Answers whether it is;
/// the node may end sooner.
pub(crate) async fn hold_leases(wire: &mut Wire, core: &Core, patience: &Patience) -> bool {
    if let Err(error) = socket::shutdown(&wire.stream, Shutdown::Write) {
        tracing::debug!(%error, "a peer with leases cannot be told that it was ended");
    }
    // No time ends it. It counts as idle, so a node that drains tells it to end at once.
    patience.idle(NEVER);
    let mut scrap = vec![0; SCRAP_BYTES];
    loop {
        if core.is_stopping() {
            return false;
        }
        match wire.read(&mut scrap).await {
            Ok(0) => return true,
            Ok(count) => {
                wire.bytes += count as u64;
                wire.breathe_if_spent().await;
            }
            Err(error) => match error.kind() {
                io::ErrorKind::TimedOut if wire.is_peer_dead() => return true,
                io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => return true,
                // It was told to end: that ends no lease.
                io::ErrorKind::TimedOut => {}
                // Nor do descriptors, which it may send without a pause.
                io::ErrorKind::InvalidData => {
                    wire.bytes += SCRAP_BYTES as u64;
                    wire.breathe_if_spent().await;
                }
                // That we cannot hear it does not mean that it has stopped reading.
                _ => glommio::timer::sleep(DEAF_PAUSE).await,
            },
        }
        wire.drop_arrived();
    }
}

impl Wire {
    /// Closes descriptors that came and that no frame will take.
    pub(crate) fn drop_arrived(&mut self) {
        if let Some(near) = &mut self.near {
            near.arrived.clear();
        }
    }

    /// Whether the process that made the connection is known to be dead.
    pub(crate) fn is_peer_dead(&self) -> bool {
        self.near.as_ref().is_some_and(|near| near.is_dead)
    }

    /// Refuses descriptors that came with bytes of a payload.
    ///
    /// # Errors
    /// `InvalidData`; they are closed with the connection.
    pub(crate) fn refuse_arrived(&self) -> io::Result<()> {
        match &self.near {
            Some(near) if !near.arrived.is_empty() => Err(io::ErrorKind::InvalidData.into()),
            _ => Ok(()),
        }
    }
}

/// Why a connection ends: descriptors came with a frame that takes none.
pub(crate) const DESCRIPTORS: DecodeError =
    DecodeError::Value { what: "descriptors with a frame", found: 0 };

/// Until a peer that cannot be heard is listened to again. A guess: leases are in no hurry.
const DEAF_PAUSE: Duration = Duration::from_millis(100);
