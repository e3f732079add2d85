//! Which of many sockets something came on, asked with one call and without reading any of them.
//!
//! For whoever serves one socket and wants to know whether another one waits. What a reader would
//! get wrong: an arrival is told of once, not for as long as its bytes are there. Whoever is told
//! has to remember it until the socket is read.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};

use crate::socket::borrow;

/// Sockets under numbers of their owner's choice.
#[derive(Debug)]
pub struct Readiness {
    epoll: OwnedFd,
}

impl Readiness {
    /// No sockets yet.
    ///
    /// # Errors
    ///
    /// If this process has no descriptor left.
    pub fn new() -> io::Result<Self> {
        Ok(Self { epoll: epoll::create(CreateFlags::CLOEXEC)? })
    }

    /// Watches `socket`, as number `name`, until it is closed: for bytes and for its end.
    ///
    /// # Errors
    ///
    /// If it is watched already, or is no socket.
    pub fn watch(&self, socket: &impl AsRawFd, name: u64) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, borrow(socket), EventData::new_u64(name), BYTES)?)
    }

    /// Whether what is told of is room to send, in place of bytes. What there is of the new kind is
    /// told of, also if it was before.
    ///
    /// # Errors
    ///
    /// If the socket is not watched.
    pub fn watch_room(&self, socket: &impl AsRawFd, name: u64, for_room: bool) -> io::Result<()> {
        let flags = if for_room { ROOM } else { BYTES };
        Ok(epoll::modify(&self.epoll, borrow(socket), EventData::new_u64(name), flags)?)
    }

    /// Calls `tell` for each socket on which something came since it was last told of. Of very many
    /// at once, some are told of only the next time.
    ///
    /// # Errors
    ///
    /// As the kernel's; none is expected.
    pub fn arrivals(&self, tell: impl FnMut(u64)) -> io::Result<()> {
        let mut events = [MaybeUninit::<Event>::uninit(); EVENTS_MAX];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let (events, _) = epoll::wait(&self.epoll, &mut events[..], Some(&now))?;
        events.iter().map(|event| event.data.u64()).for_each(tell);
        Ok(())
    }
}

/// Once for each arrival; an end is one whatever is watched for.
const BYTES: EventFlags = EventFlags::IN.union(EventFlags::RDHUP).union(EventFlags::ET);
const ROOM: EventFlags = EventFlags::OUT.union(EventFlags::RDHUP).union(EventFlags::ET);
/// Told of in one call.
const EVENTS_MAX: usize = 32;

#[cfg(not(miri))]
#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::UnixStream;
    use std::time::{Duration, Instant};

    use super::*;

    fn told(readiness: &Readiness) -> Vec<u64> {
        let mut told = Vec::new();
        readiness.arrivals(|name| told.push(name)).unwrap();
        told.sort_unstable();
        told
    }

    #[test]
    fn each_arrival_is_told_of_once_and_nothing_is_read() {
        let readiness = Readiness::new().unwrap();
        let (mut near, mut far) = UnixStream::pair().unwrap();
        readiness.watch(&near, 7).unwrap();
        assert_eq!(told(&readiness), []);
        for byte in [1, 2] {
            far.write_all(&[byte]).unwrap();
            assert_eq!(told(&readiness), [7]);
            assert_eq!(told(&readiness), [], "it was told");
        }
        let mut read = [0; 2];
        near.read_exact(&mut read).unwrap();
        assert_eq!(read, [1, 2]);
        assert_eq!(told(&readiness), []);
        drop(far);
        assert_eq!(told(&readiness), [7], "an end is an arrival");
        drop(near);
        assert_eq!(told(&readiness), []);
    }

    #[test]
    fn all_are_told_of_however_many_there_are() {
        let readiness = Readiness::new().unwrap();
        let mut pairs: Vec<_> = (0..100).map(|_| UnixStream::pair().unwrap()).collect();
        for (name, (near, far)) in pairs.iter_mut().enumerate() {
            readiness.watch(&*near, name as u64).unwrap();
            far.write_all(b"x").unwrap();
        }
        let mut names: Vec<_> = (0..5).flat_map(|_| told(&readiness)).collect();
        names.sort_unstable();
        assert_eq!(names, Vec::from_iter(0..100));
        let refused = readiness.watch(&pairs[3].0, 3).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists);
        assert!(readiness.watch(&std::fs::File::open("/proc/self/stat").unwrap(), 4).is_err());
    }

    #[test]
    fn room_is_told_of_in_place_of_bytes() {
        let readiness = Readiness::new().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut far = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut near, _) = listener.accept().unwrap();
        readiness.watch(&near, 1).unwrap();
        near.set_nonblocking(true).unwrap();
        let mut sent = 0;
        // What the other side acknowledges late makes room late.
        for _ in 0..20 {
            while let Ok(count) = near.write(&[0; 65536]) {
                sent += count;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        readiness.watch_room(&near, 1, true).unwrap();
        far.write_all(b"bytes").unwrap();
        assert_eq!(told(&readiness), []);
        far.read_exact(&mut vec![0; sent]).unwrap();
        let began = Instant::now();
        while told(&readiness) != [1] {
            assert!(began.elapsed() < Duration::from_secs(10), "there is room");
        }
        readiness.watch_room(&near, 1, false).unwrap();
        assert_eq!(told(&readiness), [1], "bytes came before");
        assert_eq!(told(&readiness), []);
    }
}
