//! The driver: one task a connection, reading requests and sending replies in turn. What differs
//! for a Unix socket is in `shm.rs`.
//!
//! Bytes of a put go from the socket straight into their slot, bytes of a get from their slot to
//! the socket. The shard is borrowed between awaits, never across one. What a reader would get
//! wrong: an await is no turn for others. The runtime polls I/O only when no task is runnable, so
//! a task that did not have to wait for a while gives the others their turn, which may take a
//! *breath*: see `polls.rs`.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use futures_lite::{AsyncRead, AsyncWrite, FutureExt};
use glommio::net::{TcpListener, TcpStream};
use larder_protocol::DecodeError;
use larder_protocol::header::Opcode;
use larder_protocol::limits::HEADER_BYTES;
use larder_protocol::stats::Stat;
use larder_transport::{PeerProcess, rights, socket};

use crate::core::Core;
use crate::inbox::Inbox;
use crate::outbox::Outbox;
use crate::payload::PayloadIn;
use crate::polls::Polls;
use crate::putting::{AdmittedPut, answer_first};
use crate::rdma;
use crate::shard::{Peer, Step};
use crate::shm::{self, Near};
use crate::stalls::{Limit, NEVER, Patience, Stalls};

/// Ends a connection from outside its task, which then ends by itself.
pub(crate) fn cut(connection: &Limit) {
    let Some(socket) = connection.end() else { return };
    if let Err(error) = socket::shutdown(&socket, Shutdown::Both) {
        tracing::debug!(%error, "connection was gone already");
    }
}

/// Accepts connections until the core stops.
///
/// This task alone accepts and is never cancelled: a cancelled accept loses its connection.
pub(crate) async fn accept(listener: TcpListener, core: Rc<Core>) {
    let (mut pause, mut burst) = (ACCEPT_PAUSE_MIN, 0);
    loop {
        match listener.shared_accept().await {
            Ok(accepted) => {
                // Owned from here on: the accepted form leaks when dropped.
                let stream = accepted.bind_to_executor();
                if core.is_stopping() {
                    return;
                }
                pause = ACCEPT_PAUSE_MIN;
                if core.stalls.len() >= core.limits.connections_max {
                    core.count(Stat::AcceptErrors, 1);
                } else {
                    glommio::spawn_local(connection(stream, Rc::clone(&core), None)).detach();
                }
                // While connections wait to be accepted this task never does; the others must run.
                burst += 1;
                if burst >= ACCEPT_BURST {
                    burst = 0;
                    core.polls.breathe().await;
                }
            }
            Err(error) => {
                core.count(Stat::AcceptErrors, 1);
                tracing::warn!(%error, "cannot accept; waiting before the next try");
                glommio::timer::sleep(pause).await;
                pause = (pause * 2).min(ACCEPT_PAUSE_MAX);
            }
        }
    }
}

/// Serves one connection to its end, whatever that is; `near` is who made it on this host.
pub(crate) async fn connection(stream: TcpStream, core: Rc<Core>, near: Option<PeerProcess>) {
    core.count(Stat::Accepted, 1);
    let is_near = near.is_some();
    if !is_near {
        tune(&stream);
    }
    let hello_by = core.now_ms() + core.limits.hello_timeout_ms;
    let mut wire = Wire::new(stream, &core);
    // Declared after the socket, so dropped before it: the sweep never cuts a reused descriptor.
    let patience = core.stalls.watch(wire.stream.as_raw_fd(), hello_by, near);
    wire.near = is_near.then(|| Near::new(patience.notice()));
    let mut peer = if is_near { Peer::local() } else { Peer::default() };
    let mut outbox = Outbox::default();
    let served = AssertUnwindSafe(converse(&mut wire, &core, &mut peer, &patience, &mut outbox));
    let served = served.catch_unwind().await;
    if !core.is_whole() {
        // A fault inside the shard left it half changed: nothing of it may serve on.
        tracing::error!("a request failed inside the shard");
        std::process::abort();
    }
    core.shard(|shard| shard.forget(&mut peer));
    let is_peer_gone = matches!(served, Ok(Ok(()))) || wire.is_peer_dead();
    match served {
        Ok(Ok(())) => {}
        Ok(Err(Ending::Malformed(reason))) => {
            core.count(Stat::Malformed, 1);
            say_why(&mut wire, &core, &patience, &mut outbox, reason).await;
        }
        Ok(Err(Ending::Io(error))) => tracing::debug!(%error, "connection ended"),
        Err(_) => core.count(Stat::Panics, 1),
    }
    // Its replies go nowhere any more, and their slots must not wait for the end of its leases.
    drop(outbox);
    if !peer.holds_leases() || is_peer_gone {
        return;
    }
    if !shm::hold_leases(&mut wire, &core, &patience).await {
        core.shard(|shard| shard.keep(&mut peer));
    }
}

fn tune(stream: &TcpStream) {
    let tuned = socket::set_nodelay(stream)
        .and_then(|()| socket::set_keepalive(stream, KEEPALIVE_IDLE_S, KEEPALIVE_EVERY_S, 3));
    if let Err(error) = tuned {
        tracing::debug!(%error, "cannot set options of a connection");
    }
}

/// Why a connection ends before its peer closes it.
pub(crate) enum Ending {
    /// The peer said what may not be said, and is told so.
    Malformed(DecodeError),
    /// The socket failed, or the connection was told to end.
    Io(io::Error),
}

impl From<DecodeError> for Ending {
    fn from(error: DecodeError) -> Self {
        Self::Malformed(error)
    }
}

impl From<io::Error> for Ending {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            // Sockets have no opinion on data; it is what is said of descriptors out of place.
            io::ErrorKind::InvalidData => Self::Malformed(shm::DESCRIPTORS),
            _ => Self::Io(error),
        }
    }
}

/// Reads requests and answers them in order until the peer closes.
async fn converse(
    wire: &mut Wire,
    core: &Core,
    peer: &mut Peer,
    patience: &Patience,
    outbox: &mut Outbox,
) -> Result<(), Ending> {
    let hello_by = patience.limit_ms();
    let mut inbox = Inbox::default();
    loop {
        inbox.arrived_us = core.now_us();
        let has_served = serve(wire, core, peer, patience, outbox, &mut inbox).await?;
        let mut is_partial = !has_served;
        if peer.is_moving() {
            // It may begin while answers are sent.
            core.shard(|s| s.post(peer));
        }
        rdma::hear_of_pair(core, peer, outbox);
        if !outbox.is_empty() {
            wire.send(core, patience, outbox).await?;
            is_partial = false;
        }
        if peer.is_moving() {
            let room = inbox.room();
            match rdma::await_next(wire, core, peer, patience, outbox, room).await? {
                Some(0) => return Ok(()),
                Some(count) => {
                    inbox.received(count);
                    continue;
                }
                None => is_partial = false,
            }
        }
        if !peer.is_greeted() {
            // Answers to what may not be asked yet win a stranger no time.
            patience.until(hello_by);
        } else {
            wait_for_request(core, peer, patience, &inbox, is_partial);
        }
        if let Some(near) = &wire.near {
            near.check_arrived(&inbox)?;
        }
        let count = wire.await_next(core, inbox.room()).await?;
        if count == 0 {
            return Ok(());
        }
        inbox.received(count);
    }
}

/// Serves all requests that are here; whether there was one.
async fn serve(
    wire: &mut Wire,
    core: &Core,
    peer: &mut Peer,
    patience: &Patience,
    outbox: &mut Outbox,
    inbox: &mut Inbox,
) -> Result<bool, Ending> {
    // Whether a request was here; how many of the next requests were looked at ahead, and when:
    // they share one reading of the clock.
    let (mut has_served, mut seen_ahead, mut now_us) = (false, 0, 0);
    while let Some(header) = inbox.header(peer.is_greeted())? {
        let Some((body, behind)) = inbox.body(&header) else { break };
        has_served = true;
        // One that ends all that is under way is what it may wait for.
        let may_wait = peer.is_moving() && header.opcode != Opcode::Pair as u8;
        if may_wait && core.shard(|s| s.has_moves_enough(peer)) {
            rdma::make_room(wire, core, peer, patience, outbox).await?;
            seen_ahead = 0;
        }
        if seen_ahead == 0 {
            now_us = core.now_us();
            seen_ahead = core.shard_at(now_us, |s| s.look_ahead(peer, inbox.unserved()));
        }
        seen_ahead = seen_ahead.saturating_sub(1);
        let arrived_us = inbox.arrived_us;
        let late = Core::is_late_at(now_us, &header, arrived_us);
        if let Some(near) = &mut wire.near {
            peer.offer(near.descriptors_of(&header, behind));
        }
        let step = core.shard_at(now_us, |s| s.begin(peer, &header, body, late, outbox))?;
        patience.note_leases(peer.holds_leases());
        // Of the inbox; a payload may have begun to arrive there.
        let (mut used, mut came) = (HEADER_BYTES + body.len(), None);
        if used > QUICK_BYTES_MAX || !matches!(step, Step::Replied) {
            seen_ahead = 0;
        }
        match step {
            Step::Replied => {}
            Step::Skip => {
                // Refused at the door: the answer does not wait for bytes nobody wants.
                answer_first(wire, core, peer, patience, &header, outbox).await?;
                core.count(Stat::RefusedBytes, header.payload_bytes);
                let mut payload = PayloadIn::new(wire, header.payload_bytes, behind);
                payload.skip(header.payload_bytes).await?;
                used += payload.taken_behind;
            }
            Step::Map(job) => {
                let mapped = wire.aside(core, patience, outbox, move || job.map()).await?;
                core.shard(|shard| shard.finish_share(peer, mapped, outbox))?;
            }
            Step::Connect(job) => rdma::connect(wire, core, peer, patience, outbox, job).await?,
            Step::Fill(job) => {
                let put = AdmittedPut { job, behind, arrived_us };
                let taken;
                (taken, came) = put.store(wire, core, peer, patience, outbox).await?;
                used += taken;
            }
        }
        inbox.pass(used, came);
        wire.spend();
        if outbox.len() >= FLUSH_BYTES {
            seen_ahead = 0;
            wire.send(core, patience, outbox).await?;
        }
        if wire.give_way(core, patience, outbox).await? {
            // Others were served meanwhile.
            seen_ahead = 0;
        }
    }
    Ok(has_served)
}

/// How long a connection may wait for its next request, or for the rest of one.
fn wait_for_request(
    core: &Core,
    peer: &Peer,
    patience: &Patience,
    inbox: &Inbox,
    is_partial: bool,
) {
    if inbox.is_empty() {
        patience.idle(if peer.holds_leases() { NEVER } else { core.idle_until() });
    } else if !is_partial || patience.is_idle() {
        // From the first byte of a request, not from the latest.
        patience.until(core.now_ms() + core.limits.header_timeout_ms);
    }
}

/// Tells a peer why its connection ends, if it still listens, behind the answers in `outbox`.
async fn say_why(
    wire: &mut Wire,
    core: &Core,
    patience: &Patience,
    outbox: &mut Outbox,
    reason: DecodeError,
) {
    let until_ms = core.now_ms() + FAREWELL_MS;
    patience.until(until_ms);
    core.shard(|s| s.farewell(reason, outbox));
    if wire.flush(outbox).await.is_err() {
        return;
    }
    if socket::shutdown(&wire.stream, Shutdown::Write).is_err() {
        return;
    }
    // Bytes left unread would turn the close into a reset, which eats the answer. A socket that was
    // cut off still gives what goes on arriving, so the time is looked at here too.
    let mut scrap = vec![0; SCRAP_BYTES];
    while let Ok(count @ 1..) = wire.read(&mut scrap).await {
        if core.now_ms() >= until_ms {
            return;
        }
        wire.bytes += count as u64;
        wire.breathe_if_spent().await;
    }
}

/// A socket, and how much was served since it last made its task wait.
#[derive(Debug)]
pub(crate) struct Wire {
    pub(crate) stream: TcpStream,
    /// Of a connection from this host.
    pub(crate) near: Option<Near>,
    /// Who else is served by this core.
    pub(crate) stalls: Stalls,
    pub(crate) polls: Rc<Polls>,
    /// What this connection is called there.
    pub(crate) name: u64,
    /// Where small objects of a put are received many at a time, and what is thrown away.
    pub(crate) staging: Vec<u8>,
    /// Requests served, and bytes moved, since this task last had to wait or asked who waits.
    pub(crate) requests: u64,
    pub(crate) bytes: u64,
    /// With how many bytes the socket counts as readable.
    readable_bytes: u32,
}

impl Wire {
    fn new(stream: TcpStream, core: &Core) -> Self {
        let (stalls, polls) = (core.stalls.clone(), Rc::clone(&core.polls));
        let name = polls.watch(&stream);
        let (staging, near) = (Vec::new(), None);
        let (requests, bytes, readable_bytes) = (0, 0, 1);
        Self { stream, near, stalls, polls, name, staging, requests, bytes, readable_bytes }
    }

    /// As [`Wire::read`]; where it has to wait, it waits for `wanted` bytes.
    pub(crate) async fn read_many(&mut self, into: &mut [u8], wanted: usize) -> io::Result<usize> {
        self.wait_for(wanted.min(READABLE_BYTES_MAX) as u32)?;
        self.receive(into).await
    }

    /// Receives at least one byte; 0 is the end.
    ///
    /// # Errors
    /// As the socket's; for a connection from this host also as [`Near::receive`].
    pub(crate) async fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.wait_for(1)?;
        self.receive(into).await
    }

    fn wait_for(&mut self, bytes: u32) -> io::Result<()> {
        // Unix sockets know no such thing.
        if bytes != self.readable_bytes && self.near.is_none() {
            socket::set_readable_bytes(&self.stream, bytes)?;
            self.readable_bytes = bytes;
        }
        Ok(())
    }

    async fn receive(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let (polls, name, room) = (&self.polls, self.name, into.len());
        let (received, has_waited) = if let Some(near) = &mut self.near {
            polls.wait(name, near.receive(&self.stream, into)).await
        } else {
            let stream = &mut self.stream;
            polls.wait(name, poll_fn(|cx| Pin::new(&mut *stream).poll_read(cx, into))).await
        };
        if received.as_ref().is_ok_and(|&count| count < room) {
            polls.has_read_all(name);
        }
        if has_waited {
            (self.requests, self.bytes) = (0, 0);
        }
        received
    }

    /// Sends all of `outbox`, in the time that a slow line needs.
    pub(crate) async fn send(
        &mut self,
        core: &Core,
        patience: &Patience,
        outbox: &mut Outbox,
    ) -> io::Result<()> {
        patience.until(core.sent_by(outbox.len()));
        self.flush(outbox).await
    }

    /// Sends all of `outbox`: header and object in one call where the socket takes them.
    pub(crate) async fn flush(&mut self, outbox: &mut Outbox) -> io::Result<()> {
        while !outbox.is_empty() {
            if let Some(near) = &mut self.near {
                near.heed()?;
            }
            let region = outbox.passing();
            let descriptor = region.as_ref().and_then(|region| region.descriptor());
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let count = outbox.slices(&mut slices);
            let sent = match descriptor {
                Some(descriptor) => rights::send_with(&self.stream, &slices[..count], descriptor),
                None => socket::send_vectored(&self.stream, &slices[..count]),
            };
            let sent = match sent {
                Ok(sent) => sent,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && region.is_some() => {
                    // The runtime can wait for room only by sending. It is once a connection.
                    glommio::timer::sleep(ROOM_PAUSE).await;
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let first = slices.iter().find(|s| !s.is_empty()).map_or(&[][..], |s| s);
                    let Self { stream, near, polls, name, .. } = self;
                    polls.await_room(stream, *name, true);
                    let sending = poll_fn(|cx| {
                        let poll = Pin::new(&mut *stream).poll_write(cx, first);
                        if poll.is_ready() {
                            return poll;
                        }
                        // A connection from this host is not cut, so it has to listen meanwhile.
                        near.as_mut().map_or(poll, |near| near.told(cx).map_ok(|()| 0))
                    });
                    let (sent, has_waited) = polls.wait(*name, sending).await;
                    polls.await_room(stream, *name, false);
                    if has_waited {
                        (self.requests, self.bytes) = (0, 0);
                    }
                    sent?
                }
                Err(error) => return Err(error),
            };
            outbox.advance(sent);
            // A reader that keeps up with a long reply never makes this wait.
            self.bytes += sent as u64;
            self.breathe_if_spent().await;
        }
        Ok(())
    }

    /// Receives what is there already.
    pub(crate) fn receive_now(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let received = match &mut self.near {
            Some(near) => near.receive_now(&self.stream, into),
            None => socket::recv(&self.stream, into),
        };
        if received.as_ref().map_or(true, |&count| count < into.len()) {
            self.polls.has_read_all(self.name);
        }
        received
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.polls.forget(self.name);
    }
}

/// Replies are gathered up to this before they are sent in mid-batch.
pub(crate) const FLUSH_BYTES: u64 = 256 << 10;
/// A request that is longer may have taken a while: what was seen ahead, and the clock, are old.
const QUICK_BYTES_MAX: usize = 512;
/// Pieces handed to the kernel in one call.
const SLICES_MAX: usize = 130;
/// A reader of a long payload is woken for this much: a wake-up costs as much as copying it.
const READABLE_BYTES_MAX: usize = 256 << 10;
/// What nobody wants is read by so much at a time.
pub(crate) const SCRAP_BYTES: usize = 16 << 10;

/// Until a full Unix socket is tried again. A guess; it is rare.
const ROOM_PAUSE: Duration = Duration::from_millis(1);

/// Connections accepted in a row before those that were accepted run.
pub(crate) const ACCEPT_BURST: u32 = 16;
/// Between two tries where accepting fails, mostly for want of descriptors. A guess.
const ACCEPT_PAUSE_MIN: Duration = Duration::from_millis(10);
const ACCEPT_PAUSE_MAX: Duration = Duration::from_millis(500);
/// How long a peer may take to read why its connection ends. A guess.
const FAREWELL_MS: u64 = 1000;
/// A peer that vanished without a word is noticed after 10 + 3 × 5 seconds.
const KEEPALIVE_IDLE_S: u32 = 10;
const KEEPALIVE_EVERY_S: u32 = 5;
