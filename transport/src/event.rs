//! A bell that a caller can poll: any thread rings it, and its descriptor is readable until it is
//! drained.
//!
//! What a reader would get wrong: rings add up and do not queue. One wake-up may stand for many, so
//! whoever is woken drains first and then looks at everything that may have happened.

use rustix::event::EventfdFlags;
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

/// An eventfd, non-blocking, closed on exec.
#[derive(Debug)]
pub struct EventFd {
    fd: OwnedFd,
}

impl EventFd {
    /// A bell that has not rung.
    ///
    /// # Errors
    ///
    /// If this process has no descriptor left.
    pub fn new() -> io::Result<Self> {
        let fd = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { fd })
    }

    /// Makes the descriptor readable. Never blocks.
    pub fn ring(&self) {
        match rustix::io::retry_on_intr(|| rustix::io::write(&self.fd, &1u64.to_ne_bytes())) {
            // `AGAIN` means the count is at its maximum: it has been ringing long enough.
            Ok(_) | Err(Errno::AGAIN) => {}
            Err(error) => unreachable!("an open eventfd takes 8 bytes: {error}"),
        }
    }

    /// How often it rang since the last time, 0 if it did not. Never blocks.
    pub fn drain(&self) -> u64 {
        let mut count = [0; 8];
        match rustix::io::retry_on_intr(|| rustix::io::read(&self.fd, &mut count)) {
            Ok(_) => u64::from_ne_bytes(count),
            Err(Errno::AGAIN) => 0,
            Err(error) => unreachable!("an open eventfd gives 8 bytes: {error}"),
        }
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for EventFd {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

#[cfg(not(miri))]
#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    fn is_readable(event: &EventFd, wait_ms: i64) -> bool {
        let wait = Timespec { tv_sec: 0, tv_nsec: wait_ms * 1_000_000 };
        poll(&mut [PollFd::new(event, PollFlags::IN)], Some(&wait)).unwrap() == 1
    }

    #[test]
    fn rings_add_up_until_drained() {
        let event = EventFd::new().unwrap();
        assert!(!is_readable(&event, 0));
        assert_eq!(event.drain(), 0);
        event.ring();
        event.ring();
        assert!(is_readable(&event, 0));
        assert_eq!(event.drain(), 2);
        assert!(!is_readable(&event, 0));
    }

    #[test]
    fn a_ring_from_another_thread_wakes_a_poll() {
        let event = EventFd::new().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| event.ring());
            assert!(is_readable(&event, 900));
        });
    }

    #[test]
    fn a_bell_that_rang_too_often_still_does_not_block() {
        let event = EventFd::new().unwrap();
        rustix::io::write(&event, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        event.ring();
        assert_eq!(event.drain(), u64::MAX - 1);
    }
}
