//! The loop: one thread, one socket, a number of requests in flight.
//!
//! It writes what may be in flight, reads what is there, parses all of it, and writes as many
//! requests as were answered. The clock is read once for all that one read brought, after parsing:
//! a latency is from before its request was written to after its answer was parsed.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use larder_client::Namespace;
use larder_transport::process;

use super::dialect::{Asked, Dialect, OBJECT_BYTES_MAX, Text};
use super::larder::Larder;
use crate::endpoint::{Endpoint, Socket};
use crate::load::{Objects, Round, Score};
use crate::measure::{Cost, Stopwatch};
use crate::random::{Random, mix};

/// A connection to a server, with every request encoded.
#[derive(Debug)]
pub struct Pipeline {
    socket: Socket,
    server_pid: u32,
    dialect: Dialect,
    objects: Arc<Objects>,
    requests: Vec<u8>,
    /// Bytes of one request: all keys are of one length.
    request_bytes: usize,
    inbox: Inbox,
    rounds: u64,
}

/// Bytes that came and were not parsed yet.
#[derive(Debug)]
struct Inbox {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Pipeline {
    /// Connects to a server that speaks `text`.
    ///
    /// # Errors
    /// If there is no connection.
    pub fn text(
        endpoint: &Endpoint,
        server_pid: u32,
        text: Text,
        objects: Arc<Objects>,
    ) -> io::Result<Self> {
        Ok(Self::over(endpoint.connect()?, server_pid, Dialect::Text(text), objects))
    }

    /// Connects to a node of one shard whose `namespace` has the objects.
    ///
    /// # Errors
    /// If there is no connection, or the node refuses it.
    pub fn larder(
        address: SocketAddr,
        server_pid: u32,
        namespace: &Namespace,
        objects: Arc<Objects>,
    ) -> io::Result<Self> {
        let mut socket = Endpoint::Tcp(address).connect()?;
        let larder = Larder::greet(&mut socket, namespace)?;
        Ok(Self::over(socket, server_pid, Dialect::Larder(larder), objects))
    }

    fn over(socket: Socket, server_pid: u32, dialect: Dialect, objects: Arc<Objects>) -> Self {
        let mut requests = Vec::new();
        for index in 0..objects.count() {
            dialect.encode_get(index, &objects.keys(index, 1)[0], &mut requests);
        }
        let count = usize::try_from(objects.count()).expect("requests are in memory");
        let request_bytes = requests.len() / count;
        assert_eq!(requests.len(), count * request_bytes, "requests are of one length");
        let inbox = Inbox { bytes: vec![0; INBOX_BYTES], start: 0, end: 0 };
        Self { socket, server_pid, dialect, objects, requests, request_bytes, inbox, rounds: 0 }
    }

    /// Reads every object once and checks every byte.
    ///
    /// # Errors
    /// If the connection fails or the server answers something else. A miss or a wrong byte is
    /// counted instead.
    pub fn read_all(&mut self, inflight: usize) -> io::Result<Score> {
        let mut all = 0..self.objects.count();
        self.drive(inflight, 1, |_| all.next())
    }

    /// Reads random objects for `duration` and says what that cost. All lengths are checked, and
    /// every byte of one object in `verify_one_in`.
    ///
    /// # Errors
    /// As [`Pipeline::read_all`], or if CPU times cannot be read.
    pub fn run(
        &mut self,
        inflight: usize,
        verify_one_in: u64,
        duration: Duration,
    ) -> io::Result<Round> {
        self.rounds += 1;
        // The sequence of a load's only worker in its round of this number.
        let mut random = Random::new(mix(self.rounds, 0));
        let (count, pid) = (self.objects.count(), Some(self.server_pid));
        let other_before = process::cpu_time_us(pid)?;
        let watch = Stopwatch::start()?;
        let until = Instant::now() + duration;
        let score =
            self.drive(inflight, verify_one_in, |now| (now < until).then(|| random.below(count)))?;
        let (took, own_cpu_us) = watch.read()?;
        let other_cpu_us = process::cpu_time_us(pid)?.saturating_sub(other_before);
        let Score { ops, objects, bytes, .. } = score;
        let latency = score.latency.clone();
        let cost = Cost { ops, objects, bytes, took, own_cpu_us, other_cpu_us, latency };
        Ok(Round { score, cost, node: None })
    }

    /// Asks for what `next` says until it says nothing, and waits for the last answer.
    fn drive(
        &mut self,
        inflight: usize,
        verify_one_in: u64,
        mut next: impl FnMut(Instant) -> Option<u64>,
    ) -> io::Result<Score> {
        let mut score = Score::default();
        let mut asked: VecDeque<(u64, Instant)> = VecDeque::with_capacity(inflight);
        let mut unsent = Vec::with_capacity(inflight * self.request_bytes);
        let mut now = Instant::now();
        loop {
            unsent.clear();
            while asked.len() < inflight {
                let Some(index) = next(now) else { break };
                let at = usize::try_from(index).expect("below the count") * self.request_bytes;
                unsent.extend_from_slice(&self.requests[at..at + self.request_bytes]);
                asked.push_back((index, now));
            }
            if asked.is_empty() {
                return Ok(score);
            }
            self.socket.write_all(&unsent)?;
            self.inbox.fill(&mut self.socket)?;
            let mut answered = 0;
            while let Some(&(index, _)) = asked.get(answered) {
                let is_sample = (score.ops + answered as u64).is_multiple_of(verify_one_in);
                let key = &self.objects.keys(index, 1)[0];
                let ask = Asked { index, key, is_sample };
                let Some(reply) = self.dialect.read(ask, self.inbox.unread())? else { break };
                match reply.object {
                    Some(object) => {
                        let verdict = self.objects.check_or_measure(index, object, is_sample);
                        score.came(object.len() as u64, verdict);
                    }
                    None => score.misses += 1,
                }
                self.inbox.start += reply.reply_bytes;
                answered += 1;
            }
            now = Instant::now();
            for (_, asked_at) in asked.drain(..answered) {
                score.latency.record(now - asked_at);
            }
            score.ops += answered as u64;
            score.objects += answered as u64;
        }
    }
}

impl Inbox {
    fn unread(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// Waits for bytes and takes those that are there.
    fn fill(&mut self, from: &mut impl Read) -> io::Result<()> {
        if self.bytes.len() - self.end < self.bytes.len() / 2 || self.start == self.end {
            // What is left is less than one answer, which is less than half of the room.
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        match from.read(&mut self.bytes[self.end..])? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            count => {
                self.end += count;
                Ok(())
            }
        }
    }
}

/// Room for 64 answers of 4 KiB, so that one read can take all that is in flight.
const INBOX_BYTES: usize = 512 << 10;
/// Bytes of an answer beside the object's; guessed, and far above any.
const REPLY_OVERHEAD_BYTES_MAX: usize = 4 << 10;

const _: () = assert!(OBJECT_BYTES_MAX + REPLY_OVERHEAD_BYTES_MAX < INBOX_BYTES / 2);

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::net::TcpListener;
    use std::thread;

    use super::*;
    use crate::names::short_key_of;

    /// A memcached of these objects whose answers come in pieces of `step` bytes. Object 3 is not
    /// there, object 4 is another one.
    fn server(objects: Arc<Objects>, step: usize) -> Endpoint {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = Endpoint::Tcp(listener.local_addr().unwrap());
        thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            socket.set_nodelay(true).unwrap();
            let lines = BufReader::new(socket.try_clone().unwrap()).lines();
            for line in lines.map_while(Result::ok) {
                let key = line.strip_prefix("get ").unwrap();
                let is_key = |index: &u64| short_key_of(*index).as_bytes() == key.as_bytes();
                let index = (0..objects.count()).find(is_key).unwrap();
                let object = objects.bytes(if index == 4 { 5 } else { index });
                let head = format!("VALUE {key} 0 {}\r\n", object.len());
                let end: &[u8] = b"\r\nEND\r\n";
                let reply = [head.as_bytes(), &object, end].concat();
                let reply = if index == 3 { b"END\r\n" } else { &reply[..] };
                reply.chunks(step).for_each(|piece| socket.write_all(piece).unwrap());
            }
        });
        endpoint
    }

    #[test]
    fn split_answers_are_put_together_and_bad_ones_counted() {
        let objects = Arc::new(Objects::new(300, 20, 1, short_key_of));
        for (step, inflight) in [(7, 1), (64, 8), (1000, 40)] {
            let endpoint = server(Arc::clone(&objects), step);
            let pid = std::process::id();
            let mut pipeline =
                Pipeline::text(&endpoint, pid, Text::Memcached, Arc::clone(&objects)).unwrap();
            let score = pipeline.read_all(inflight).unwrap();
            assert_eq!((score.ops, score.misses, score.wrong), (20, 1, 1));
            assert_eq!((score.bytes, score.latency.count()), (19 * 300, 20));
            let round = pipeline.run(inflight, 64, Duration::from_millis(30)).unwrap();
            assert!(round.cost.ops >= inflight as u64);
            assert_eq!(round.score.bytes, 300 * (round.cost.ops - round.score.misses));
        }
    }

    #[test]
    fn a_server_that_goes_away_is_an_error() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let objects = Arc::new(Objects::new(300, 20, 1, short_key_of));
        let endpoint = Endpoint::Tcp(listener.local_addr().unwrap());
        let mut pipeline = Pipeline::text(&endpoint, 1, Text::Resp, objects).unwrap();
        drop(listener.accept().unwrap());
        assert!(pipeline.read_all(4).is_err());
    }
}
