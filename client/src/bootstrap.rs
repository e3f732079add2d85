//! Learns the view from a seed, on the caller's thread, before there is anything else.
//!
//! Plain blocking sockets with timeouts: this happens once, and again only when every member is out
//! of reach.

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use larder_protocol::limits::{HEADER_BYTES, VERSION_MAX, VERSION_MIN};
use larder_protocol::message::{Hello, HelloReply};
use larder_protocol::view::View;
use larder_protocol::{Code, DecodeError, Header, Opcode};

use crate::config::Config;
use crate::error::{Error, Reason, Unavailable};

/// What a seed said.
pub(crate) struct Learnt {
    pub(crate) view: View,
    /// How the seed introduced itself.
    pub(crate) seed: HelloReply,
}

/// Asks one seed after the other until one answers. Members that give no host are where the seed
/// is.
pub(crate) fn learn_view(config: &Config) -> Result<Learnt, Error> {
    let mut last = Error::InvalidArgument { what: "no seed to learn the view from" };
    for seed in &config.seeds {
        match ask(seed, config) {
            Ok(mut learnt) => {
                let host = if seed.starts_with(UNIX) { LOCALHOST } else { seed.as_str() };
                let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
                name_hosts(&mut learnt.view, host.trim_matches(['[', ']']));
                return Ok(learnt);
            }
            Err(Failure::Io(error)) => {
                let reason = Reason::Connect(error.kind());
                last = Error::Unavailable(Unavailable { peer: seed.as_str().into(), reason });
            }
            Err(Failure::Decode(error)) => last = Error::Protocol(error),
            Err(Failure::Code(Code::Denied)) => last = Error::Denied,
            Err(Failure::Code(code)) => last = Error::Refused(code),
        }
    }
    Err(last)
}

/// Gives members that listen everywhere the host at which one of them was reached.
pub(crate) fn name_hosts(view: &mut View, host: &str) {
    for member in &mut view.members {
        if matches!(member.host.as_str(), "" | "0.0.0.0" | "::") {
            host.clone_into(&mut member.host);
        }
    }
}

/// What a client says first on every connection.
pub(crate) fn hello(config: &Config, shard: u16, shard_count: u16) -> Hello<'_> {
    Hello {
        version_min: VERSION_MIN,
        version_max: VERSION_MAX,
        shard,
        shard_count,
        capabilities: 0,
        name: config.name.as_bytes(),
        credential: &config.credential,
    }
}

enum Failure {
    Io(io::Error),
    Decode(DecodeError),
    Code(Code),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<DecodeError> for Failure {
    fn from(error: DecodeError) -> Self {
        Self::Decode(error)
    }
}

fn ask(seed: &str, config: &Config) -> Result<Learnt, Failure> {
    match seed.strip_prefix(UNIX) {
        Some(path) => {
            let socket = UnixStream::connect(path)?;
            socket.set_write_timeout(Some(config.connect_timeout))?;
            ask_over(socket, UnixStream::set_read_timeout, config)
        }
        None => {
            let socket = connect(seed, config.connect_timeout)?;
            socket.set_write_timeout(Some(config.connect_timeout))?;
            ask_over(socket, TcpStream::set_read_timeout, config)
        }
    }
}

fn ask_over<S: Read + Write>(
    socket: S,
    set_timeout: fn(&S, Option<Duration>) -> io::Result<()>,
    config: &Config,
) -> Result<Learnt, Failure> {
    let until = Instant::now() + config.connect_timeout;
    let mut socket = Timed { socket, set_timeout, until };
    let mut out = Vec::new();
    let deadline_us = u32::try_from(config.connect_timeout.as_micros()).unwrap_or(1_000_000);
    let at = Header::begin(&mut out);
    hello(config, 0, 0).encode(&mut out);
    Header::request(Opcode::Hello, 1, deadline_us).finish(0, at, &mut out);
    socket.socket.write_all(&out)?;
    let hello = HelloReply::decode(&socket.reply(1)?)?;
    out.clear();
    let at = Header::begin(&mut out);
    Header::request(Opcode::View, 2, deadline_us).finish(0, at, &mut out);
    socket.socket.write_all(&out)?;
    let view = View::decode(&socket.reply(2)?)?;
    Ok(Learnt { view, seed: hello })
}

/// Where clients on its host reach the node that said this.
pub(crate) fn socket_path(hello: &HelloReply) -> Option<PathBuf> {
    let path = OsStr::from_bytes(hello.uds.as_bytes());
    (!hello.uds.is_none()).then(|| PathBuf::from(path))
}

fn connect(seed: &str, timeout: Duration) -> io::Result<TcpStream> {
    let addresses: Vec<SocketAddr> = seed.to_socket_addrs()?.collect();
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in addresses {
        match TcpStream::connect_timeout(&address, timeout) {
            Ok(socket) => return Ok(socket),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// A blocking socket of which everything is expected by one moment.
struct Timed<S> {
    socket: S,
    set_timeout: fn(&S, Option<Duration>) -> io::Result<()>,
    until: Instant,
}

impl<S: Read> Timed<S> {
    /// Reads the reply to request `id`, whose body is all it has.
    fn reply(&mut self, id: u64) -> Result<Vec<u8>, Failure> {
        let mut bytes = [0; HEADER_BYTES];
        self.read_all(&mut bytes)?;
        let header = Header::decode(&bytes)?;
        if header.code != Code::Ok {
            return Err(Failure::Code(header.code));
        }
        if !header.is_reply || header.request_id != id || header.payload_bytes != 0 {
            let (what, found) = ("answer to another request", header.request_id);
            return Err(Failure::Decode(DecodeError::Value { what, found }));
        }
        // The header's decoder has checked the length against its limit.
        let mut body = vec![0; header.body_bytes as usize];
        self.read_all(&mut body)?;
        Ok(body)
    }

    fn read_all(&mut self, mut into: &mut [u8]) -> io::Result<()> {
        while !into.is_empty() {
            let left = self.until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            (self.set_timeout)(&self.socket, Some(left))?;
            match self.socket.read(into) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => into = &mut into[read..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// What a seed on this host begins with.
pub(crate) const UNIX: &str = "unix:";
/// Where a node is that was reached over a socket of this host.
const LOCALHOST: &str = "127.0.0.1:";
