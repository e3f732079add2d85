//! The near end of the bare stream: keeps a number of messages in flight and measures.
//!
//! One thread does it all. Requests are small and never fill a socket, so writing the next one
//! before reading an answer cannot lock both ends up; a put's bytes are read by the other end while
//! they are written.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::{Ask, Direction, HEADER_BYTES, MESSAGE_BYTES_MAX, number};
use crate::cold::ColdMemory;
use crate::latency::Latency;
use crate::measure::{Cost, Stopwatch};

/// What to move, and how.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Which way.
    pub direction: Direction,
    /// Bytes of one message beside its header, at most [`MESSAGE_BYTES_MAX`].
    pub message_bytes: u64,
    /// Messages in flight, at least 1.
    pub inflight: usize,
}

/// A connection to a stream server.
#[derive(Debug)]
pub struct StreamClient {
    socket: TcpStream,
    memory: ColdMemory,
}

impl StreamClient {
    /// Connects, with `cold_bytes` of memory of its own.
    ///
    /// # Errors
    /// If there is no connection.
    pub fn connect(address: SocketAddr, cold_bytes: u64) -> io::Result<Self> {
        let socket = TcpStream::connect_timeout(&address, TIMEOUT)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(TIMEOUT))?;
        socket.set_write_timeout(Some(TIMEOUT))?;
        Ok(Self {
            socket,
            memory: ColdMemory::new(cold_bytes, MESSAGE_BYTES_MAX + HEADER_BYTES as u64),
        })
    }

    /// Moves messages for `duration` and says what that cost.
    ///
    /// # Errors
    /// If the connection fails or stands still for ten seconds.
    ///
    /// # Panics
    /// If a message is too long, or none may be in flight.
    pub fn run(&mut self, shape: Shape, duration: Duration) -> io::Result<Cost> {
        assert!(shape.message_bytes <= MESSAGE_BYTES_MAX, "a message of the stream");
        assert!(shape.inflight > 0, "messages in flight");
        let mut latency = Latency::new();
        let mut begun = VecDeque::with_capacity(shape.inflight);
        let other_before = self.other_cpu_us()?;
        let watch = Stopwatch::start()?;
        let until = Instant::now() + duration;
        let mut now = Instant::now();
        let mut ops = 0;
        loop {
            while now < until && begun.len() < shape.inflight {
                begun.push_back(now);
                self.ask(shape)?;
            }
            let Some(asked) = begun.pop_front() else { break };
            self.finish(shape)?;
            now = Instant::now();
            latency.record(now - asked);
            ops += 1;
        }
        let (took, own_cpu_us) = watch.read()?;
        let other_cpu_us = self.other_cpu_us()?.saturating_sub(other_before);
        let bytes = ops * shape.message_bytes;
        Ok(Cost { ops, objects: ops, bytes, took, own_cpu_us, other_cpu_us, latency })
    }

    fn ask(&mut self, shape: Shape) -> io::Result<()> {
        match shape.direction {
            Direction::Get => self.socket.write_all(&Ask::Get(shape.message_bytes).encode()),
            Direction::Put => {
                let message = self.memory.next(shape.message_bytes + HEADER_BYTES as u64);
                message[..HEADER_BYTES].copy_from_slice(&Ask::Put(shape.message_bytes).encode());
                self.socket.write_all(message)
            }
        }
    }

    fn finish(&mut self, shape: Shape) -> io::Result<()> {
        match shape.direction {
            Direction::Get => {
                let message = self.memory.next(shape.message_bytes + HEADER_BYTES as u64);
                self.socket.read_exact(message)
            }
            Direction::Put => self.socket.read_exact(&mut [0; HEADER_BYTES]),
        }
    }

    fn other_cpu_us(&mut self) -> io::Result<u64> {
        self.socket.write_all(&Ask::Cpu.encode())?;
        let mut answer = [0; HEADER_BYTES];
        self.socket.read_exact(&mut answer)?;
        Ok(number(&answer, 1))
    }
}

const TIMEOUT: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::thread;

    use super::*;
    use crate::stream::serve;

    /// A server in this process, until the returned socket is dropped.
    fn server() -> (SocketAddr, std::os::unix::net::UnixStream) {
        let (near, far) = std::os::unix::net::UnixStream::pair().unwrap();
        let mut until = far.try_clone().unwrap();
        thread::spawn(move || serve(far, &mut until, 0).unwrap());
        let mut line = String::new();
        BufReader::new(near.try_clone().unwrap()).read_line(&mut line).unwrap();
        (line.trim().strip_prefix("ready ").unwrap().parse().unwrap(), near)
    }

    #[test]
    fn both_directions_move_what_was_asked_alone_and_in_flight() {
        let (address, _until) = server();
        let mut client = StreamClient::connect(address, 0).unwrap();
        for direction in [Direction::Get, Direction::Put] {
            for (message_bytes, inflight) in [(0, 1), (1000, 4), (3 << 20, 2)] {
                let shape = Shape { direction, message_bytes, inflight };
                let cost = client.run(shape, Duration::from_millis(20)).unwrap();
                assert!(cost.ops >= inflight as u64, "{shape:?}");
                assert_eq!(cost.bytes, cost.ops * message_bytes);
                assert_eq!(cost.latency.count(), cost.ops);
            }
        }
    }
}
