//! When a core has to let the runtime poll: whether somebody waits for it.
//!
//! The runtime polls I/O only when no task is runnable. A task that goes on at full speed, or looks
//! for its next request, keeps the tasks of all other connections from what has come for them; a
//! *breath* lets the runtime poll, and takes some 50 us on a VM. What a reader would get wrong: a
//! breath for nobody is the dearer the more idle connections there are. So it is asked first, with
//! one call for all of them, whether anything came that a breath would bring.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::AsRawFd;
use std::time::Instant;

use larder_transport::Readiness;

/// The connections of one core, and how long ago they were polled for.
#[derive(Debug)]
pub(crate) struct Polls {
    readiness: Readiness,
    names: Cell<u64>,
    /// Connections that look for their next request by themselves.
    lookers: RefCell<Vec<u64>>,
    /// How often a poll came to be owed, and how many of those times were made good.
    owed: Cell<u64>,
    paid: Cell<u64>,
    started: Instant,
    asked_us: Cell<u64>,
    polled_us: Cell<u64>,
    /// Requests served, and bytes moved, since the runtime polled.
    requests: Cell<u64>,
    bytes: Cell<u64>,
}

impl Polls {
    /// Of no connections yet.
    ///
    /// # Errors
    /// If there is no descriptor left.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            readiness: Readiness::new()?,
            names: Cell::new(0),
            lookers: RefCell::default(),
            owed: Cell::new(0),
            paid: Cell::new(0),
            started: Instant::now(),
            asked_us: Cell::new(0),
            polled_us: Cell::new(0),
            requests: Cell::new(0),
            bytes: Cell::new(0),
        })
    }

    /// Takes a connection in, until its socket is closed; the name it has here.
    pub(crate) fn watch(&self, socket: &impl AsRawFd) -> u64 {
        let name = self.names.get();
        self.names.set(name + 1);
        if let Err(error) = self.readiness.watch(socket, name) {
            // It is polled for when time or work are up.
            tracing::warn!(%error, "a connection cannot be watched: others keep it waiting longer");
        }
        name
    }

    /// Whether the connection waits for room to send, which it cannot look for.
    pub(crate) fn await_room(&self, socket: &impl AsRawFd, name: u64, awaits: bool) {
        if let Err(error) = self.readiness.watch_room(socket, name, awaits) {
            tracing::debug!(%error, "a connection is not watched");
        }
    }

    /// Whether a connection may look for its next request; it does until the answer is dropped.
    pub(crate) fn look(&self, name: u64) -> Option<Looking<'_>> {
        let mut lookers = self.lookers.borrow_mut();
        if lookers.len() >= LOOKERS_MAX {
            return None;
        }
        lookers.push(name);
        Some(Looking { polls: self, name })
    }

    /// Whether it is known that the runtime has to poll.
    pub(crate) const fn is_owed(&self) -> bool {
        self.owed.get() > self.paid.get()
    }

    fn owe(&self) {
        if !self.is_owed() {
            self.owed.set(self.owed.get() + 1);
        }
    }

    /// Whether the runtime has to poll by now, asked again and again by a connection that looks.
    pub(crate) fn is_due(&self) -> bool {
        let now_us = self.now_us();
        if now_us >= self.polled_us.get() + POLL_US {
            self.owe();
        } else if now_us >= self.asked_us.get() + ASK_US {
            self.asked_us.set(now_us);
            self.ask(None);
        }
        self.is_owed()
    }

    /// Whether the runtime has to poll now that connection `name` was served so much.
    pub(crate) fn is_due_after(&self, name: u64, requests: u64, bytes: u64) -> bool {
        self.requests.set(self.requests.get() + requests);
        self.bytes.set(self.bytes.get() + bytes);
        if self.requests.get() >= POLL_REQUESTS || self.bytes.get() >= POLL_BYTES {
            self.owe();
        } else {
            self.ask(Some(name));
        }
        self.is_owed()
    }

    /// Now, for a task that is about to wait.
    pub(crate) fn mark(&self) -> Mark {
        Mark { owed: self.owed.get(), us: self.now_us() }
    }

    /// The runtime has polled at some time after `mark`: a task that waited since then was woken.
    pub(crate) fn polled(&self, mark: &Mark) {
        // What came to be owed since then may not have been there yet.
        self.paid.set(self.paid.get().max(mark.owed));
        if mark.us >= self.polled_us.get() {
            self.polled_us.set(mark.us);
            self.requests.set(0);
            self.bytes.set(0);
        }
    }

    /// Asks whether something came for another connection than `served` and those that look.
    fn ask(&self, served: Option<u64>) {
        let lookers = self.lookers.borrow();
        let waits = |name| Some(name) != served && !lookers.contains(&name);
        // What cannot be known is taken to be so.
        if !self.is_owed() && self.readiness.has_arrivals(waits).unwrap_or(true) {
            self.owe();
        }
    }

    fn now_us(&self) -> u64 {
        self.started.elapsed().as_micros() as u64
    }
}

/// A moment, and what was owed then.
#[derive(Debug)]
pub(crate) struct Mark {
    owed: u64,
    us: u64,
}

/// A connection that looks.
#[derive(Debug)]
pub(crate) struct Looking<'a> {
    polls: &'a Polls,
    name: u64,
}

impl Drop for Looking<'_> {
    fn drop(&mut self) {
        let mut lookers = self.polls.lookers.borrow_mut();
        if let Some(at) = lookers.iter().position(|&name| name == self.name) {
            lookers.swap_remove(at);
        }
    }
}

/// Each look costs all lookers a system call. A guess.
const LOOKERS_MAX: usize = 4;
/// How long what came for a connection that waits may be overlooked. A guess: a hundred questions.
const ASK_US: u64 = 50;
/// How long new connections, timers and other threads may wait for connections that look. A guess.
const POLL_US: u64 = 1000;
/// How much all connections of a core may be served while they wait: 1 to 2 ms of work.
pub(crate) const POLL_REQUESTS: u64 = 512;
pub(crate) const POLL_BYTES: u64 = 4 << 20;

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use super::*;

    /// Connections, each with its other end and its name.
    fn connections(polls: &Polls, count: usize) -> Vec<(UnixStream, UnixStream, u64)> {
        let pairs = (0..count).map(|_| {
            let (near, far) = UnixStream::pair().unwrap();
            let name = polls.watch(&near);
            (near, far, name)
        });
        pairs.collect()
    }

    fn send(connection: &mut (UnixStream, UnixStream, u64)) {
        connection.1.write_all(b"x").unwrap();
    }

    #[test]
    fn few_look_at_a_time() {
        let polls = Polls::new().unwrap();
        let mut looking: Vec<_> = (0..4).map(|name| polls.look(name).unwrap()).collect();
        assert!(polls.look(4).is_none());
        drop(looking.remove(1));
        assert!(polls.look(4).is_some());
        assert_eq!(*polls.lookers.borrow(), [0, 3, 2]);
    }

    #[test]
    fn those_that_wait_are_polled_for_and_those_that_look_are_not() {
        let polls = Polls::new().unwrap();
        let mut all = connections(&polls, 3);
        let _looking = polls.look(all[0].2).unwrap();
        send(&mut all[0]);
        polls.ask(None);
        assert!(!polls.is_owed());
        send(&mut all[1]);
        assert!(!polls.is_due_after(all[1].2, 1, 1), "it is being served");
        send(&mut all[2]);
        assert!(polls.is_due_after(all[1].2, 1, 1));
        // Whoever asks next learns of it too, until the runtime has polled.
        assert!(polls.is_due() && polls.is_owed());
        polls.polled(&polls.mark());
        assert!(!polls.is_due_after(all[1].2, 1, 1));
        // Also long before time is up.
        polls.polled_us.set(polls.now_us() + 3_600_000_000);
        send(&mut all[2]);
        while !polls.is_due() {}
    }

    #[test]
    fn what_comes_during_a_breath_is_owed_after_it() {
        let polls = Polls::new().unwrap();
        let mut all = connections(&polls, 3);
        send(&mut all[0]);
        assert!(polls.is_due_after(9, 1, 1));
        let breath = polls.mark();
        // Another task has waited since before anything was owed.
        polls.polled(&Mark { owed: 0, us: 0 });
        assert!(polls.is_owed());
        // The runtime polls; before the task runs that took the breath, others do.
        polls.polled(&polls.mark());
        send(&mut all[1]);
        assert!(polls.is_due_after(9, 1, 1));
        polls.polled(&breath);
        assert!(polls.is_owed());
        polls.polled(&polls.mark());
        assert!(!polls.is_owed());
    }

    #[test]
    fn time_and_work_are_up_even_if_nobody_is_known_to_wait() {
        let polls = Polls::new().unwrap();
        while !polls.is_due() {}
        polls.polled(&polls.mark());
        assert!(!polls.is_due_after(0, POLL_REQUESTS - 1, POLL_BYTES - 1));
        assert!(polls.is_due_after(1, 1, 0));
        polls.polled(&polls.mark());
        assert!(!polls.is_due_after(0, 0, POLL_BYTES - 1));
        assert!(polls.is_due_after(0, 0, 1));
    }
}
