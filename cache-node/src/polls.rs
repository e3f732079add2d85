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

/// The connections of one core, and how long ago they were polled for.
#[derive(Debug)]
pub(crate) struct Polls {
    readiness: Readiness,
    connections: RefCell<Vec<Option<Connection>>>,
    free: RefCell<Vec<u64>>,
    /// How many connections look for their next request by themselves.
    lookers: Cell<usize>,
    /// How often a poll came to be owed, and how many of those times were made good.
    owed: Cell<u64>,
    paid: Cell<u64>,
    /// Whether a task takes a breath, and who waits for its end.
    is_breathing: Cell<bool>,
    breaths: Cell<u64>,
    breathing: RefCell<Vec<Waker>>,
    started: Instant,
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
            free: RefCell::default(),
            lookers: Cell::new(0),
            owed: Cell::new(0),
            paid: Cell::new(0),
            is_breathing: Cell::new(false),
            breaths: Cell::new(0),
            breathing: RefCell::default(),
            started,
            asked_us: Cell::new(0),
            polled_us: Cell::new(0),
            requests: Cell::new(0),
            bytes: Cell::new(0),
        })
    }

    /// Takes a connection in; the name it has here until it is forgotten.
    pub(crate) fn watch(&self, socket: &impl AsRawFd) -> u64 {
        let mut connections = self.connections.borrow_mut();
        let name = self.free.borrow_mut().pop().unwrap_or(connections.len() as u64);
        if name == connections.len() as u64 {
            connections.push(None);
        }
        connections[name as usize] = Some(Connection::default());
        if let Err(error) = self.readiness.watch(socket, name) {
            // It is polled for when time or work are up.
            tracing::warn!(%error, "a connection cannot be watched: others keep it waiting longer");
        }
        name
    }

    /// Takes a connection out, whose socket closes.
    pub(crate) fn forget(&self, name: u64) {
        self.connections.borrow_mut()[name as usize] = None;
        self.free.borrow_mut().push(name);
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

    fn owe(&self) {
        if self.owed.get() == self.paid.get() {
            self.owed.set(self.owed.get() + 1);
        }
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
        if self.requests.get() >= POLL_REQUESTS || self.bytes.get() >= POLL_BYTES {
            self.owe();
        } else if !self.is_owed() {
            self.ask(self.now_us());
        }
        if self.is_owed() { Turn::Breath } else { Turn::Yield }
    }

    /// Whether bytes of this connection that came before are read by now: it has found no more.
    pub(crate) fn has_read_all(&self, name: u64) {
        if let Some(connection) = &mut self.connections.borrow_mut()[name as usize] {
            connection.has_arrival = false;
        }
    }

    /// Waits as `future` does, for what the runtime has to poll for.
    pub(crate) async fn wait<F: Future>(&self, name: u64, future: F) -> (F::Output, bool) {
        let mut future = pin!(future);
        let mut mark = None;
        let output = poll_fn(|cx| {
            let poll = future.as_mut().poll(cx);
            if poll.is_pending() && mark.is_none() {
                mark = Some(self.suspend(name));
            }
            poll
        });
        let output = output.await;
        if let Some(mark) = &mark {
            self.resume(name, mark);
        }
        (output, mark.is_some())
    }

    fn suspend(&self, name: u64) -> Mark {
        if let Some(connection) = &mut self.connections.borrow_mut()[name as usize] {
            connection.waits = true;
            // It may be just that which is waited for.
            if std::mem::take(&mut connection.has_arrival) {
                self.owe();
            }
        }
        self.mark()
    }

    fn resume(&self, name: u64, mark: &Mark) {
        if let Some(connection) = &mut self.connections.borrow_mut()[name as usize] {
            connection.waits = false;
        }
        self.polled(mark);
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
        let mark = self.mark();
        let mut has_waited = false;
        // A thread that had no core in between finds its timer over already.
        while !has_waited {
            let mut sleep = pin!(glommio::timer::sleep(BREATH));
            poll_fn(|cx| {
                let poll = sleep.as_mut().poll(cx);
                has_waited |= poll.is_pending();
                poll
            })
            .await;
        }
        self.polled(&mark);
        drop(breath);
    }

    fn mark(&self) -> Mark {
        Mark { owed: self.owed.get(), us: self.now_us() }
    }

    /// The runtime has polled at some time after `mark`: a task that waited since then was woken.
    fn polled(&self, mark: &Mark) {
        // What came to be owed since then may not have been there yet.
        self.paid.set(self.paid.get().max(mark.owed));
        if mark.us >= self.polled_us.get() {
            self.polled_us.set(mark.us);
            self.requests.set(0);
            self.bytes.set(0);
        }
    }

    /// Asks whether something came for a connection that waits.
    fn ask(&self, now_us: u64) {
        self.asked_us.set(now_us);
        let mut is_owed = now_us >= self.polled_us.get() + POLL_US;
        let mut connections = self.connections.borrow_mut();
        let asked = self.readiness.arrivals(|name| {
            if let Some(Some(connection)) = connections.get_mut(name as usize) {
                is_owed |= connection.waits;
                connection.has_arrival |= !connection.waits;
            }
        });
        // What cannot be known is taken to be so.
        if is_owed || asked.is_err() {
            self.owe();
        }
    }

    fn now_us(&self) -> u64 {
        self.started.elapsed().as_micros() as u64
    }
}

/// A moment, and what was owed then.
#[derive(Debug)]
struct Mark {
    owed: u64,
    us: u64,
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
pub(crate) const BREATH: Duration = Duration::from_micros(1);
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
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::rc::Rc;

    use futures_lite::{AsyncReadExt, AsyncWriteExt};
    use glommio::LocalExecutor;
    use glommio::net::TcpStream;

    use super::*;

    /// With time never up.
    fn patient() -> Polls {
        let polls = Polls::new(Instant::now()).unwrap();
        polls.polled_us.set(u64::MAX / 2);
        polls
    }

    /// A connection's other end and its name; its task waits.
    fn waiting(polls: &Polls) -> (UnixStream, UnixStream, u64, Mark) {
        let (near, far) = UnixStream::pair().unwrap();
        let name = polls.watch(&near);
        let mark = polls.suspend(name);
        (near, far, name, mark)
    }

    #[test]
    fn few_look_at_a_time() {
        let polls = patient();
        let mut looking: Vec<_> = (0..LOOKERS_MAX).map(|_| polls.look().unwrap()).collect();
        assert!(polls.look().is_none());
        drop(looking.pop());
        assert!(polls.look().is_some());
    }

    #[test]
    fn who_waits_is_polled_for_and_who_does_not_is_not() {
        let polls = patient();
        let [mut a, mut b] = [waiting(&polls), waiting(&polls)];
        polls.resume(a.2, &a.3);
        a.1.write_all(b"x").unwrap();
        assert_eq!(polls.turn_after(1, 1), Turn::Yield);
        b.1.write_all(b"x").unwrap();
        assert_eq!(polls.turn_after(1, 1), Turn::Breath);
        // Until the runtime has polled, as a task knows that was woken: not one that slept before.
        polls.resume(b.2, &b.3);
        assert_eq!(polls.turn_after(1, 1), Turn::Breath);
        polls.polled(&polls.mark());
        assert_eq!(polls.turn_after(1, 1), Turn::Yield);
        // What came for the first is remembered, until it has found nothing more.
        let mark = polls.suspend(a.2);
        assert!(polls.is_owed());
        polls.resume(a.2, &mark);
        a.1.write_all(b"x").unwrap();
        assert_eq!(polls.turn_after(1, 1), Turn::Yield);
        polls.has_read_all(a.2);
        polls.suspend(a.2);
        assert!(!polls.is_owed());
    }

    #[test]
    fn names_are_used_again() {
        let polls = patient();
        let [a, b] = [waiting(&polls), waiting(&polls)];
        polls.forget(a.2);
        let mut c = waiting(&polls);
        assert_eq!((b.2, c.2), (1, 0));
        polls.resume(c.2, &c.3);
        drop(a);
        c.1.write_all(b"x").unwrap();
        assert_eq!(polls.turn_after(1, 1), Turn::Yield);
    }

    #[test]
    fn time_and_work_are_up_even_if_nobody_is_known_to_wait() {
        let polls = Polls::new(Instant::now()).unwrap();
        std::thread::sleep(Duration::from_micros(POLL_US));
        polls.ask_in_time();
        assert!(polls.is_owed());
        polls.polled(&polls.mark());
        polls.polled_us.set(u64::MAX / 2);
        assert_eq!(polls.turn_after(POLL_REQUESTS - 1, POLL_BYTES - 1), Turn::Yield);
        assert_eq!(polls.turn_after(1, 0), Turn::Breath);
    }

    #[test]
    fn what_comes_during_a_breath_is_owed_after_it() {
        let polls = patient();
        let [mut a, mut b] = [waiting(&polls), waiting(&polls)];
        a.1.write_all(b"x").unwrap();
        assert_eq!(polls.turn_after(1, 1), Turn::Breath);
        let breath = polls.mark();
        // The runtime polls; before the task runs that took the breath, others do.
        polls.polled(&polls.mark());
        b.1.write_all(b"x").unwrap();
        assert_eq!(polls.turn_after(1, 1), Turn::Breath);
        polls.polled(&breath);
        assert!(polls.is_owed());
        polls.polled(&polls.mark());
        assert!(!polls.is_owed());
    }

    /// Serves echoes on a connection whose task is never done at once: it looks, or waits.
    async fn echo(polls: Rc<Polls>, mut stream: TcpStream, looks: bool) {
        let name = polls.watch(&stream);
        let mut byte = [0];
        loop {
            let _looking = if looks { polls.look() } else { None };
            for _ in 0..if looks { 300 } else { 0 } {
                polls.ask_in_time();
                if polls.is_owed() {
                    polls.breathe().await;
                } else {
                    futures_lite::future::yield_now().await;
                }
            }
            let (read, _) = polls.wait(name, stream.read(&mut byte)).await;
            if read.unwrap_or(0) == 0 {
                return polls.forget(name);
            }
            match polls.turn_after(0, 0) {
                Turn::Breath => polls.breathe().await,
                _ => futures_lite::future::yield_now().await,
            }
            stream.write_all(&byte).await.unwrap();
        }
    }

    #[test]
    fn nobody_is_overlooked_while_others_look() {
        let began = Instant::now();
        let (echoes, asks): (Vec<_>, Vec<_>) = (0..8).map(|_| UnixStream::pair().unwrap()).unzip();
        let asking: Vec<_> = asks
            .into_iter()
            .map(|mut far| {
                far.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
                std::thread::spawn(move || {
                    (0..300_u32).for_each(|round| {
                        let byte = [round as u8];
                        far.write_all(&byte).unwrap();
                        let mut back = [0];
                        far.read_exact(&mut back).expect("it is answered");
                        assert_eq!(back, byte);
                    });
                })
            })
            .collect();
        LocalExecutor::default().run(async move {
            let polls = Rc::new(patient());
            // Somebody who looks for ever, so that the runtime polls only when it is made to.
            let for_ever = {
                let polls = Rc::clone(&polls);
                glommio::spawn_local(async move {
                    loop {
                        polls.ask_in_time();
                        if polls.is_owed() {
                            polls.breathe().await;
                        } else {
                            futures_lite::future::yield_now().await;
                        }
                    }
                })
            };
            let tasks: Vec<_> = echoes
                .into_iter()
                .enumerate()
                .map(|(at, near)| {
                    let stream = TcpStream::from(socket2::Socket::from(near));
                    glommio::spawn_local(echo(Rc::clone(&polls), stream, at % 3 == 0))
                })
                .collect();
            for task in tasks {
                task.await;
            }
            for_ever.cancel().await;
        });
        asking.into_iter().for_each(|thread| thread.join().unwrap());
        // Some milliseconds. The runtime polls of itself too, but so seldom that it takes half a minute.
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    }
}
