//! Which of many sockets something came on, asked with one call and without reading any of them.
//!
//! For whoever serves one socket and wants to know whether another one waits. What a reader would
//! get wrong: an arrival is told of once, not for as long as its bytes are there. Whoever is told
//! has to remember it until the socket is served.

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
        Ok(epoll::add(&self.epoll, borrow(socket), EventData::new_u64(name), ARRIVALS)?)
    }

    /// Whether room to send counts as an arrival too. Room that there is counts at once.
    ///
    /// # Errors
    ///
    /// If the socket is not watched.
    pub fn watch_room(&self, socket: &impl AsRawFd, name: u64, counts: bool) -> io::Result<()> {
        let flags = if counts { ARRIVALS | EventFlags::OUT } else { ARRIVALS };
        Ok(epoll::modify(&self.epoll, borrow(socket), EventData::new_u64(name), flags)?)
    }

    /// Whether anything has come on a socket that `counts` since this was last asked. Of very many
    /// at once, some may be told of only the next time.
    ///
    /// # Errors
    ///
    /// As the kernel's; none is expected.
    pub fn has_arrivals(&self, counts: impl Fn(u64) -> bool) -> io::Result<bool> {
        let mut events = [MaybeUninit::<Event>::uninit(); EVENTS_MAX];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let (events, _) = epoll::wait(&self.epoll, &mut events[..], Some(&now))?;
        Ok(events.iter().any(|event| counts(event.data.u64())))
    }
}

/// What is told of: once for each arrival.
const ARRIVALS: EventFlags = EventFlags::IN.union(EventFlags::RDHUP).union(EventFlags::ET);
/// More than those that do not count can be.
const EVENTS_MAX: usize = 32;

#[cfg(not(miri))]
#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::UnixStream;

    use super::*;

    const ALL: fn(u64) -> bool = |_| true;

    /// What is asked soon enough to be seen, but not before it is there.
    fn comes(readiness: &Readiness, counts: impl Fn(u64) -> bool) -> bool {
        (0..2000).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(1));
            readiness.has_arrivals(&counts).unwrap()
        })
    }

    #[test]
    fn each_arrival_is_told_of_once_and_nothing_is_read() {
        let readiness = Readiness::new().unwrap();
        let (mut near, mut far) = UnixStream::pair().unwrap();
        readiness.watch(&near, 7).unwrap();
        assert!(!readiness.has_arrivals(ALL).unwrap());
        for byte in [1, 2] {
            far.write_all(&[byte]).unwrap();
            assert!(readiness.has_arrivals(|name| name == 7).unwrap());
            assert!(!readiness.has_arrivals(ALL).unwrap(), "it was told");
        }
        let mut read = [0; 2];
        near.read_exact(&mut read).unwrap();
        assert_eq!(read, [1, 2]);
        assert!(!readiness.has_arrivals(ALL).unwrap());
        drop(far);
        assert!(readiness.has_arrivals(ALL).unwrap(), "an end is an arrival");
        drop(near);
        assert!(!readiness.has_arrivals(ALL).unwrap());
    }

    #[test]
    fn what_does_not_count_hides_nothing_that_does() {
        let readiness = Readiness::new().unwrap();
        let mut pairs: Vec<_> = (0..20).map(|_| UnixStream::pair().unwrap()).collect();
        for (name, (near, far)) in pairs.iter_mut().enumerate() {
            readiness.watch(&*near, name as u64).unwrap();
            far.write_all(b"x").unwrap();
        }
        assert!(readiness.has_arrivals(|name| name == 19).unwrap());
        let refused = readiness.watch(&pairs[3].0, 3).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists);
        assert!(readiness.watch(&std::fs::File::open("/proc/self/stat").unwrap(), 4).is_err());
    }

    #[test]
    fn room_counts_only_for_whoever_waits_for_it() {
        let readiness = Readiness::new().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut far = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut near, _) = listener.accept().unwrap();
        readiness.watch(&near, 1).unwrap();
        near.set_nonblocking(true).unwrap();
        let mut sent = 0;
        while let Ok(count) = near.write(&[0; 65536]) {
            sent += count;
        }
        readiness.watch_room(&near, 1, true).unwrap();
        assert!(!readiness.has_arrivals(ALL).unwrap());
        far.read_exact(&mut vec![0; sent]).unwrap();
        assert!(comes(&readiness, ALL));
        readiness.watch_room(&near, 1, false).unwrap();
        assert!(!readiness.has_arrivals(ALL).unwrap());
        readiness.watch_room(&near, 1, true).unwrap();
        assert!(readiness.has_arrivals(ALL).unwrap(), "there was room before");
    }
}
