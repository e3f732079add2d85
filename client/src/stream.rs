//! A socket that never waits, to another host over TCP or to a node on this one.
//!
//! What a reader would get wrong: a Unix socket is kept open by every lease that came over it. The
//! node frees leased memory when the socket is closed, so it must not be closed before the last
//! reader is done, even if nothing is said over it any more.

use std::any::Any;
use std::io::{self, IoSliceMut};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::sync::Arc;

use larder_transport::process_id;
use larder_transport::rights::{recv_more_with, recv_with};
use larder_transport::socket::{recv, recv_more, recv_vectored, set_keepalive, set_nodelay};
use mio::net::{TcpStream, UnixStream};
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};

use crate::wire::Wire;

/// A socket, and what came with its bytes.
pub(crate) struct Socket {
    stream: Stream,
    arrived: Vec<OwnedFd>,
    /// Whether a read ended at a descriptor.
    is_stopped: bool,
    /// Whether we are woken when there is room to write.
    heeds_room: bool,
}

enum Stream {
    Tcp(TcpStream),
    Unix(Arc<OnHost>),
}

/// A Unix socket that its last owner ends. Closing would not do: a forked child may keep it open.
struct OnHost {
    socket: UnixStream,
    pid: u32,
}

impl Drop for OnHost {
    fn drop(&mut self) {
        if self.pid == process_id() {
            // The node may have ended it before.
            let _ = self.socket.shutdown(Shutdown::Both);
        }
    }
}

impl Socket {
    /// Starts to connect over TCP.
    pub(crate) fn tcp(to: SocketAddr, registry: &Registry, token: Token) -> io::Result<Self> {
        let mut stream = TcpStream::connect(to)?;
        registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        Ok(Self::new(Stream::Tcp(stream)))
    }

    /// Connects on this host.
    pub(crate) fn unix(path: &Path, registry: &Registry, token: Token) -> io::Result<Self> {
        let stream = UnixStream::connect(path)?;
        let interest = Interest::READABLE | Interest::WRITABLE;
        registry.register(&mut SourceFd(&stream.as_raw_fd()), token, interest)?;
        let on_host = OnHost { socket: stream, pid: process_id() };
        Ok(Self::new(Stream::Unix(Arc::new(on_host))))
    }

    const fn new(stream: Stream) -> Self {
        Self { stream, arrived: Vec::new(), is_stopped: false, heeds_room: true }
    }

    /// Whether it is on this host.
    pub(crate) const fn is_unix(&self) -> bool {
        matches!(self.stream, Stream::Unix(_))
    }

    /// What keeps it open, if it is on this host.
    pub(crate) fn keepalive(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        match &self.stream {
            Stream::Tcp(_) => None,
            Stream::Unix(stream) => Some(Arc::clone(stream) as _),
        }
    }

    /// Whether the connection stands.
    ///
    /// # Errors
    /// Why it never will.
    pub(crate) fn is_connected(&self) -> io::Result<bool> {
        let (failed, peer) = match &self.stream {
            Stream::Tcp(stream) => (stream.take_error()?, stream.peer_addr().map(|_| ())),
            Stream::Unix(stream) => {
                (stream.socket.take_error()?, stream.socket.peer_addr().map(|_| ()))
            }
        };
        match (failed, peer) {
            (Some(error), _) => Err(error),
            (None, Ok(())) => Ok(true),
            (None, Err(error)) if error.kind() == io::ErrorKind::NotConnected => Ok(false),
            (None, Err(error)) => Err(error),
        }
    }

    /// Sets what only makes things better: a socket without it still works.
    pub(crate) fn tune(&self) {
        if let Stream::Tcp(stream) = &self.stream {
            let _ = set_nodelay(stream);
            let _ = set_keepalive(stream, KEEPALIVE_IDLE_S, KEEPALIVE_INTERVAL_S, KEEPALIVE_COUNT);
        }
    }

    /// Has us woken for room to write only where it `is_full`. A Unix socket, unlike one of TCP,
    /// says so each time that the node has read: who sleeps would be woken for each request, and
    /// find no answer yet.
    ///
    /// # Errors
    /// If the kernel has no memory for it.
    pub(crate) fn heed_room(
        &mut self,
        is_full: bool,
        registry: &Registry,
        token: Token,
    ) -> io::Result<()> {
        if self.heeds_room == is_full || !self.is_unix() {
            return Ok(());
        }
        let for_room = is_full.then_some(Interest::WRITABLE);
        let interest = for_room.map_or(Interest::READABLE, |room| Interest::READABLE | room);
        registry.reregister(&mut SourceFd(&self.as_raw_fd()), token, interest)?;
        self.heeds_room = is_full;
        Ok(())
    }

    /// Whether a read since the last call ended at a descriptor, so that more may be there.
    pub(crate) fn take_stop(&mut self) -> bool {
        std::mem::take(&mut self.is_stopped)
    }

    fn stop_if(&mut self, before: usize) {
        self.is_stopped |= self.arrived.len() > before;
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        match &self.stream {
            Stream::Tcp(stream) => stream.as_raw_fd(),
            Stream::Unix(stream) => stream.socket.as_raw_fd(),
        }
    }
}

impl Wire for Socket {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match &self.stream {
            Stream::Tcp(stream) => recv(stream, into),
            Stream::Unix(stream) => {
                let before = self.arrived.len();
                let mut parts = [IoSliceMut::new(into)];
                let received = recv_with(&stream.socket, &mut parts, &mut self.arrived);
                self.stop_if(before);
                received
            }
        }
    }

    fn read_both(&mut self, first: &mut [u8], then: &mut [u8]) -> io::Result<usize> {
        let mut parts = [IoSliceMut::new(first), IoSliceMut::new(then)];
        match &self.stream {
            Stream::Tcp(stream) => recv_vectored(stream, &mut parts),
            Stream::Unix(stream) => {
                let before = self.arrived.len();
                let received = recv_with(&stream.socket, &mut parts, &mut self.arrived);
                self.stop_if(before);
                received
            }
        }
    }

    fn read_more(&mut self, into: &mut Vec<u8>, bytes_max: usize) -> io::Result<usize> {
        match &self.stream {
            Stream::Tcp(stream) => recv_more(stream, into, bytes_max),
            Stream::Unix(stream) => {
                let before = self.arrived.len();
                let received = recv_more_with(&stream.socket, into, bytes_max, &mut self.arrived);
                self.stop_if(before);
                received
            }
        }
    }

    fn take_descriptor(&mut self) -> Option<OwnedFd> {
        if self.arrived.is_empty() { None } else { Some(self.arrived.remove(0)) }
    }
}

/// A peer that vanished is noticed within half a minute even if nothing is asked of it.
const KEEPALIVE_IDLE_S: u32 = 10;
const KEEPALIVE_INTERVAL_S: u32 = 5;
const KEEPALIVE_COUNT: u32 = 3;

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::{UnixListener, UnixStream as Peer};
    use std::time::Duration;

    use mio::{Events, Poll};

    use super::*;

    /// A connected socket, registered with a poll, and its other end.
    struct Pair {
        poll: Poll,
        socket: Socket,
        peer: Peer,
    }

    impl Pair {
        fn new(name: &str) -> Self {
            let name = format!("larder-stream-{name}-{}", std::process::id());
            let path = std::env::temp_dir().join(name);
            let _ = std::fs::remove_file(&path);
            let (poll, listener) = (Poll::new().unwrap(), UnixListener::bind(&path).unwrap());
            let socket = Socket::unix(&path, poll.registry(), TOKEN).unwrap();
            let (peer, _) = listener.accept().unwrap();
            std::fs::remove_file(path).unwrap();
            Self { poll, socket, peer }
        }

        fn heed_room(&mut self, is_full: bool) {
            self.socket.heed_room(is_full, self.poll.registry(), TOKEN).unwrap();
        }

        /// Whether a sleeper would be woken for bytes to read, and for room to write.
        fn wakes(&mut self) -> (bool, bool) {
            let mut events = Events::with_capacity(8);
            self.poll.poll(&mut events, Some(Duration::ZERO)).unwrap();
            let has = |what: fn(&mio::event::Event) -> bool| events.iter().any(what);
            (has(mio::event::Event::is_readable), has(mio::event::Event::is_writable))
        }

        /// Writes until the socket is full; how many bytes that took.
        fn fill(&self) -> usize {
            let Stream::Unix(stream) = &self.socket.stream else { panic!("it is on this host") };
            std::iter::from_fn(|| (&stream.socket).write(&[7; 10_000]).ok()).sum()
        }

        fn read(&mut self, bytes: usize) {
            self.peer.read_exact(&mut vec![0; bytes]).unwrap();
        }
    }

    #[test]
    fn a_sleeper_is_woken_for_room_only_where_there_was_none() {
        let mut pair = Pair::new("room");
        assert_eq!(pair.wakes(), (false, true), "connected");
        pair.heed_room(false);
        assert_eq!(pair.wakes(), (false, false));
        for _ in 0..3 {
            // A node reads a request.
            let bytes = pair.fill();
            pair.read(bytes);
            assert_eq!(pair.wakes(), (false, false), "nobody waits for room");
            let bytes = pair.fill();
            pair.heed_room(true);
            assert_eq!(pair.wakes(), (false, false), "there is none");
            pair.read(bytes);
            assert_eq!(pair.wakes(), (false, true));
            pair.heed_room(false);
        }
        pair.peer.write_all(b"answer").unwrap();
        assert_eq!(pair.wakes(), (true, false));
    }

    #[test]
    fn room_that_came_before_it_was_waited_for_is_told() {
        let mut pair = Pair::new("early");
        pair.heed_room(false);
        let bytes = pair.fill();
        pair.read(bytes);
        pair.heed_room(true);
        assert_eq!(pair.wakes(), (false, true));
    }

    const TOKEN: Token = Token(3);
}
