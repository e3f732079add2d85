//! A client that speaks raw frames: it sends any bytes, and checks whatever comes back.
//!
//! No client crate here: these tests must be able to say what no honest client says. What a reader
//! would get wrong: every hit is verified, its seal and all its parts, and a wrong one panics.
#![allow(dead_code, reason = "each test file uses its own part of this")]

pub(crate) mod local;
pub(crate) mod object;
pub(crate) mod words;

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use larder_protocol::limits::HEADER_BYTES;
use larder_protocol::stats::Stat;
use larder_protocol::{Code, Generation, Header, NamespaceSpec, Opcode};

use local::Local;
use object::Meaning;

/// One connection.
#[derive(Debug)]
pub(crate) struct Raw {
    stream: TcpStream,
    next_id: u64,
    /// Deadline of the requests made from here on, in microseconds.
    pub(crate) deadline_us: u32,
    /// Handle of the open namespace, 0 if none is.
    pub(crate) namespace: u64,
    /// What seals bind.
    pub(crate) meaning: Meaning,
    /// What it asks for in `Hello`, beside what its socket stands for.
    pub(crate) capabilities: u64,
    /// Of a connection over a Unix socket.
    pub(crate) local: Option<Local>,
}

/// A frame from the node.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) header: Header,
    pub(crate) body: Vec<u8>,
    pub(crate) payload: Vec<u8>,
}

impl Raw {
    /// A connection that has said nothing yet.
    pub(crate) fn connect(address: SocketAddr) -> Self {
        Self::try_connect(address).unwrap()
    }

    pub(crate) fn try_connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let meaning = Meaning { digest: 0, generation: 1, part_bytes: 0 };
        let (next_id, deadline_us, namespace, capabilities) = (0, 60_000_000, 0, 0);
        Ok(Self { stream, next_id, deadline_us, namespace, meaning, capabilities, local: None })
    }

    /// A connection that has said `Hello` to shard 0.
    pub(crate) fn greeted(address: SocketAddr) -> Self {
        let mut raw = Self::connect(address);
        let reply = raw.hello(0, 0);
        assert_eq!(reply.header.code, Code::Ok);
        raw
    }

    /// A connection with the namespace of `model` open.
    pub(crate) fn open(address: SocketAddr, model: &str) -> Self {
        Self::open_spec(address, &NamespaceSpec::new("tests", model))
    }

    /// As [`Raw::open`], on shard `index` of a node, which listens at `address`.
    pub(crate) fn open_shard(address: SocketAddr, index: u16, model: &str) -> Self {
        let mut raw = Self::connect(address);
        assert_eq!(raw.hello(index, 0).header.code, Code::Ok);
        let spec = NamespaceSpec::new("tests", model);
        assert_eq!(raw.open_namespace(&spec, 0).header.code, Code::Ok);
        raw
    }

    pub(crate) fn open_spec(address: SocketAddr, spec: &NamespaceSpec) -> Self {
        let mut raw = Self::greeted(address);
        assert_eq!(raw.open_namespace(spec, 0).header.code, Code::Ok);
        raw
    }

    /// Makes a frame: header and body, its payload announced but not appended.
    pub(crate) fn frame(&mut self, opcode: Opcode, body: &[u8], payload_bytes: u64) -> Vec<u8> {
        let mut frame = Vec::with_capacity(HEADER_BYTES + body.len());
        let at = Header::begin(&mut frame);
        frame.extend_from_slice(body);
        self.header(opcode).finish(payload_bytes, at, &mut frame);
        frame
    }

    /// The header of the next request.
    pub(crate) fn header(&mut self, opcode: Opcode) -> Header {
        self.next_id += 1;
        Header {
            namespace: self.namespace,
            generation: Generation(self.meaning.generation),
            ..Header::request(opcode, self.next_id, self.deadline_us)
        }
    }

    /// Sends bytes, whatever they are.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// As [`Raw::send`], where the node may have closed already.
    pub(crate) fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// The next frame, `None` if the node has closed the connection.
    pub(crate) fn try_reply(&mut self) -> io::Result<Option<Reply>> {
        let mut header = [0; HEADER_BYTES];
        match self.receive(&mut header[..1])? {
            0 => return Ok(None),
            _ => self.receive_all(&mut header[1..])?,
        }
        let header = Header::decode(&header).map_err(io::Error::other)?;
        assert!(header.is_reply, "{header:?}");
        let mut body = vec![0; header.body_bytes as usize];
        let mut payload = vec![0; header.payload_bytes as usize];
        self.receive_all(&mut body)?;
        self.receive_all(&mut payload)?;
        if header.opcode == Opcode::Region as u8 && header.request_id == 0 {
            self.take_region(&body);
            return self.try_reply();
        }
        Ok(Some(Reply { header, body, payload }))
    }

    fn receive(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match &mut self.local {
            Some(local) => local.receive(&self.stream, into),
            None => self.stream.read(into),
        }
    }

    fn receive_all(&mut self, mut into: &mut [u8]) -> io::Result<()> {
        while !into.is_empty() {
            let count = self.receive(into)?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            into = &mut into[count..];
        }
        Ok(())
    }

    pub(crate) fn reply(&mut self) -> Reply {
        self.try_reply().unwrap().expect("the node answers before it closes")
    }

    /// Sends a request and reads its answer.
    pub(crate) fn call(&mut self, frame: &[u8]) -> Reply {
        self.send(frame);
        let reply = self.reply();
        assert_eq!(reply.header.request_id, self.next_id, "{reply:?}");
        reply
    }

    /// The reason that the node gives for ending the connection, once it has.
    pub(crate) fn farewell(&mut self) -> String {
        let reply = self.reply();
        assert_eq!(reply.header.code, Code::Malformed, "{reply:?}");
        assert!(self.is_closed(), "the connection ends behind the reason");
        String::from_utf8(reply.body).unwrap()
    }

    /// Waits until the node closes the connection; false if it says anything before.
    pub(crate) fn is_closed(&mut self) -> bool {
        match self.stream.read(&mut [0; 1]) {
            Ok(count) => count == 0,
            Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
        }
    }

    /// Waits until the node has closed the connection, whatever it says before.
    pub(crate) fn is_ended(&mut self) -> bool {
        while let Ok(Some(_)) = self.try_reply() {}
        self.is_closed()
    }

    /// Whether the node ends the connection sooner or later, maybe in the middle of a frame.
    pub(crate) fn is_ended_within_frames(&mut self) -> bool {
        let mut scrap = [0; 64 << 10];
        loop {
            match self.stream.read(&mut scrap) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return error.kind() == io::ErrorKind::ConnectionReset,
            }
        }
    }

    /// Waits until the first byte of an answer is here, and leaves it there.
    pub(crate) fn peek(&self) {
        assert!(self.stream.peek(&mut [0; 1]).unwrap() > 0);
    }

    /// Closes with an answer unread, which resets the connection instead of ending it. There must
    /// be such an answer under way.
    pub(crate) fn reset(self) {
        self.peek();
    }

    /// Says that nothing more will be sent.
    pub(crate) fn finish_sending(&self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    pub(crate) fn set_patience(&self, patience: Duration) {
        self.stream.set_read_timeout(Some(patience)).unwrap();
    }

    /// The same socket, for another thread.
    pub(crate) fn socket(&self) -> TcpStream {
        self.stream.try_clone().unwrap()
    }

    /// One of the shard's counters, as of now.
    pub(crate) fn stat(&mut self, stat: Stat) -> u64 {
        let stats = self.stats();
        stats.into_iter().find(|(found, _)| *found == stat).unwrap().1
    }

    pub(crate) fn stats(&mut self) -> Vec<(Stat, u64)> {
        let frame = self.frame(Opcode::Stats, &[], 0);
        let reply = self.call(&frame);
        larder_protocol::message::decode_stats(&reply.body).unwrap()
    }

    /// Levels that must come back to where they were: slots, objects, fills, sends.
    pub(crate) fn levels(&mut self) -> [u64; 5] {
        let stats = self.stats();
        LEVELS.map(|level| stats.iter().find(|(stat, _)| *stat == level).unwrap().1)
    }

    /// Waits until the levels are these; what a dead connection held may take a moment.
    pub(crate) fn expect_levels(&mut self, expected: [u64; 5]) {
        let started = std::time::Instant::now();
        loop {
            let levels = self.levels();
            if levels == expected {
                return;
            }
            assert!(
                started.elapsed() < SETTLED_MAX,
                "{LEVELS:?} are {levels:?}, not {expected:?}, {SETTLED_MAX:?} later"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// What must be exact after any fault.
const LEVELS: [Stat; 5] =
    [Stat::SlotBytes, Stat::ObjectBytes, Stat::Objects, Stat::FillingBytes, Stat::SendingBytes];
/// A second is promised; the rest is for busy machines.
const SETTLED_MAX: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_secs(20);
