//! When a core has to let the runtime poll: whether somebody waits for it.
//!
//! The runtime polls I/O only when no task is runnable. A task that goes on at full speed, or looks
//! for its next request, keeps all that wait from what has come for them; a *breath* lets the
//! runtime poll, and takes some 50 us on a VM. So it is asked first, with one call for all
//! connections, whether anything came that a breath would bring. What a reader would get wrong: an
//! arrival is told of once. One that came for a task that is not waiting is remembered, for such a
//! task may wait for it all the same.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::AsRawFd;
use std::pin::pin;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use larder_transport::Readiness;

use crate::places::Places;

/// The connections of one core, and how long ago they were polled for.
#[derive(Debug)]
pub(crate) struct Polls {
    readiness: Readiness,
    connections: RefCell<Places<Connection>>,
    /// How many connections look for their next request by themselves.
    lookers: Cell<usize>,
    /// How often a poll came to be owed, and how many of those times were made good.
    owed: Cell<u64>,
    paid: Cell<u64>,
    /// To whom it is owed, if nobody and nothing else asks for it.
    debtors: RefCell<Vec<u64>>,
    is_owed_to_all: Cell<bool>,
    /// Whether a task takes a breath, and who waits for its end.
    is_breathing: Cell<bool>,
    breaths: Cell<u64>,
    breathing: RefCell<Vec<Waker>>,
    started: Instant,
    /// [`POLL_US`], but where a test must not be saved by it.
    poll_us: u64,
    asked_us: Cell<u64>,
    polled_us: Cell<u64>,
    /// Requests served, and bytes moved, since the runtime polled, as far as they were told.
    requests: Cell<u64>,
    bytes: Cell<u64>,
}

#[derive(Debug, Default)]
struct Connection {
    /// Whether its task waits until the runtime polls.
    waits: bool,
    /// Whether something came while it did not.
    has_arrival: bool,
}

/// What others are given when a connection was served for long enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Nothing yet.
    None,
    /// The core, to those whose tasks are runnable: nobody is known to wait for a poll.
    Yield,
    /// A poll.
    Breath,
}

impl Polls {
    /// Of no connections yet; time counts from `started`.
    ///
    /// # Errors
    /// If there is no descriptor left.
    pub(crate) fn new(started: Instant) -> io::Result<Self> {
        Ok(Self {
            readiness: Readiness::new()?,
            connections: RefCell::default(),
            lookers: Cell::new(0),
            owed: Cell::new(0),
            paid: Cell::new(0),
            debtors: RefCell::default(),
            is_owed_to_all: Cell::new(false),
            is_breathing: Cell::new(false),
            breaths: Cell::new(0),
            breathing: RefCell::default(),
            started,
            poll_us: POLL_US,
            asked_us: Cell::new(0),
            polled_us: Cell::new(0),
            requests: Cell::new(0),
            bytes: Cell::new(0),
        })
    }

    /// Takes a connection in; the name it has here until it is forgotten.
    pub(crate) fn watch(&self, socket: &impl AsRawFd) -> u64 {
        let name = self.connections.borrow_mut().enter(Connection::default()) as u64;
        if let Err(error) = self.readiness.watch(socket, name) {
            // It is polled for when time or work are up.
            tracing::warn!(%error, "a connection cannot be watched: others keep it waiting longer");
        }
        name
    }

    /// Takes a connection out, whose socket closes.
    pub(crate) fn forget(&self, name: u64) {
        self.connections.borrow_mut().leave(name as usize);
    }

    /// Whether the connection waits for room to send, not for bytes.
    pub(crate) fn await_room(&self, socket: &impl AsRawFd, name: u64, awaits: bool) {
        if let Err(error) = self.readiness.watch_room(socket, name, awaits) {
            tracing::debug!(%error, "a connection is not watched");
        }
    }

    /// Whether a connection may look for its next request; it does until the answer is dropped.
    pub(crate) fn look(&self) -> Option<Looking<'_>> {
        if self.lookers.get() >= LOOKERS_MAX {
            return None;
        }
        self.lookers.set(self.lookers.get() + 1);
        Some(Looking(self))
    }

    /// Whether it is known that the runtime has to poll.
    pub(crate) const fn is_owed(&self) -> bool {
        self.owed.get() > self.paid.get() || self.is_breathing.get()
    }

    /// Owes a poll to whoever waits, from now on.
    fn owe(&self) {
        self.owed.set(self.owed.get() + 1);
        self.is_owed_to_all.set(true);
    }

    /// Asks who waits, if that was long ago: for a connection that looks.
    pub(crate) fn ask_in_time(&self) {
        let now_us = self.now_us();
        if now_us >= self.asked_us.get() + ASK_US && !self.is_owed() {
            self.ask(now_us);
        }
    }

    /// What others are to be given now that a connection was served so much.
    pub(crate) fn turn_after(&self, requests: u64, bytes: u64) -> Turn {
        self.requests.set(self.requests.get() + requests);
        self.bytes.set(self.bytes.get() + bytes);
        if self.is_owed() {
            return Turn::Breath;
        }
        if self.requests.get() >= POLL_REQUESTS || self.bytes.get() >= POLL_BYTES {
            self.owe();
        } else {
            self.ask(self.now_us());
        }
        if self.is_owed() { Turn::Breath } else { Turn::Yield }
    }

    /// What came for this connection before is read by now: it has found no more.
    pub(crate) fn has_read_all(&self, name: u64) {
        if let Some(connection) = self.connections.borrow_mut().at(name as usize) {
            connection.has_arrival = false;
        }
    }

    /// Waits as `future` does, for what the runtime has to poll for; and whether it had to.
    pub(crate) async fn wait<F: Future>(&self, name: u64, future: F) -> (F::Output, bool) {
        let mut future = pin!(future);
        let mut owed = None;
        let output = poll_fn(|cx| {
            let poll = future.as_mut().poll(cx);
            if poll.is_pending() && owed.is_none() {
                owed = Some(self.suspend(name));
            }
            poll
        });
        let output = output.await;
        if let Some(owed) = owed {
            self.resume(name, owed);
        }
        (output, owed.is_some())
    }

    /// Notes that a connection's task begins to wait; what is owed by now.
    fn suspend(&self, name: u64) -> u64 {
        if let Some(connection) = self.connections.borrow_mut().at(name as usize) {
            connection.waits = true;
            // It may be just that which is waited for.
            if std::mem::take(&mut connection.has_arrival) {
                self.owe();
            }
        }
        self.owed.get()
    }

    /// Notes that it was woken, since when this much was owed.
    fn resume(&self, name: u64, owed: u64) {
        let mut debtors = self.debtors.borrow_mut();
        let before = debtors.len();
        debtors.retain(|&debtor| debtor != name);
        if let Some(connection) = self.connections.borrow_mut().at(name as usize) {
            connection.waits = false;
            // It may have been woken before that came.
            connection.has_arrival |= debtors.len() < before;
        }
        // Nobody is left who needs it.
        let is_settled = debtors.is_empty() && !self.is_owed_to_all.get();
        drop(debtors);
        self.polled(if is_settled { self.owed.get() } else { owed });
    }

    /// Lets the runtime poll. Whoever comes while another breathes shares its breath: else they
    /// would wait for each other's.
    pub(crate) async fn breathe(&self) {
        if self.is_breathing.get() {
            let before = self.breaths.get();
            poll_fn(|cx| {
                if self.breaths.get() > before {
                    return Poll::Ready(());
                }
                self.breathing.borrow_mut().push(cx.waker().clone());
                Poll::Pending
            })
            .await;
            return;
        }
        self.is_breathing.set(true);
        let breath = Breath(self);
        let owed = self.owed.get();
        let (mut duration, mut has_waited) = (BREATH, false);
        // Whoever had no core in between, or has a slow clock, finds the timer over already.
        while !has_waited {
            let mut sleep = pin!(glommio::timer::sleep(duration));
            poll_fn(|cx| {
                let poll = sleep.as_mut().poll(cx);
                has_waited |= poll.is_pending();
                poll
            })
            .await;
            duration *= 2;
        }
        self.polled(owed);
        drop(breath);
    }

    /// The runtime has polled since no more than this was owed: a task that waited was woken.
    fn polled(&self, owed: u64) {
        // What came to be owed since then may not have been there yet.
        self.paid.set(self.paid.get().max(owed));
        if self.paid.get() == self.owed.get() {
            self.debtors.borrow_mut().clear();
            self.is_owed_to_all.set(false);
        }
        self.polled_us.set(self.now_us());
        self.requests.set(0);
        self.bytes.set(0);
    }

    /// Asks whether something came for a connection that waits.
    fn ask(&self, now_us: u64) {
        self.asked_us.set(now_us);
        let (mut connections, mut debtors) =
            (self.connections.borrow_mut(), self.debtors.borrow_mut());
        let asked = self.readiness.arrivals(|name| {
            if let Some(connection) = connections.at(name as usize) {
                if connection.waits {
                    debtors.push(name);
                } else {
                    connection.has_arrival = true;
                }
            }
        });
        // What cannot be known is taken to be so.
        if asked.is_err() || now_us >= self.polled_us.get().saturating_add(self.poll_us) {
            self.owe();
        } else if !debtors.is_empty() {
            self.owed.set(self.owed.get() + 1);
        }
    }

    fn now_us(&self) -> u64 {
        self.started.elapsed().as_micros() as u64
    }
}

/// A connection that looks.
#[derive(Debug)]
pub(crate) struct Looking<'a>(&'a Polls);

impl Drop for Looking<'_> {
    fn drop(&mut self) {
        self.0.lookers.set(self.0.lookers.get() - 1);
    }
}

/// A breath that somebody takes, until it ends.
struct Breath<'a>(&'a Polls);

impl Drop for Breath<'_> {
    fn drop(&mut self) {
        self.0.is_breathing.set(false);
        self.0.breaths.set(self.0.breaths.get() + 1);
        self.0.breathing.borrow_mut().drain(..).for_each(Waker::wake);
    }
}

/// Any timer that is not over at once will do; a short one costs the least.
const BREATH: Duration = Duration::from_micros(1);
/// Each look costs all lookers a system call. A guess.
const LOOKERS_MAX: usize = 4;
/// How long what came for a connection that waits may be overlooked. A guess: a hundred questions.
const ASK_US: u64 = 50;
/// How long new connections, timers and other threads may wait until somebody who asks breathes.
/// A guess.
const POLL_US: u64 = 1000;
/// How much all connections of a core may be served while they wait: 1 to 2 ms of work.
pub(crate) const POLL_REQUESTS: u64 = 512;
pub(crate) const POLL_BYTES: u64 = 4 << 20;

const _: () = assert!(ASK_US < POLL_US);

#[cfg(test)]
mod tests;
