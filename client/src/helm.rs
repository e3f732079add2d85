//! Who runs the I/O: the client's own thread, the keeper, or a caller that waits for its answer.
//!
//! A caller that hands its request to another thread and is woken by it pays for two switches, and
//! those take longer than a small answer. So a caller that blocks takes the helm, if nobody else's
//! calls are under way, and sends and receives by itself. What a reader would get wrong: nobody
//! needs to be at the helm when nothing is under way. A caller leaves it empty; whoever then has
//! a job calls the keeper back, and the keeper comes by itself when no caller came for a while.

use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use crate::call::Call;
use crate::inbox::Remote;
use crate::io::{Ended, Io};
use crate::leg::Leg;
use crate::sync::{AtomicBool, AtomicU8, AtomicU64, Condvar, Mutex, MutexGuard};

/// The I/O, and who is at it.
pub(crate) struct Helm {
    /// Nothing once it has ended. Whoever has the lock is at the helm.
    io: Mutex<Option<Io>>,
    /// Who that is: [`NOBODY`], [`KEEPER`] or [`CALLER`].
    at: AtomicU8,
    /// Whether a caller is at the helm, or about to be.
    is_wanted: AtomicBool,
    /// Whether calls are under way while the keeper is at the helm.
    is_busy: AtomicBool,
    /// How many calls were made from the helm.
    calls: AtomicU64,
    /// Whether it paid to look for answers: caller and node had a core each.
    looks_pay: AtomicBool,
    /// Whether the keeper is to come back from its rest.
    is_called: Mutex<bool>,
    called: Condvar,
}

impl Helm {
    pub(crate) fn new() -> Self {
        Self {
            io: Mutex::default(),
            at: AtomicU8::new(KEEPER),
            is_wanted: AtomicBool::new(false),
            is_busy: AtomicBool::new(false),
            calls: AtomicU64::new(0),
            looks_pay: AtomicBool::new(false),
            is_called: Mutex::new(false),
            called: Condvar::new(),
        }
    }

    /// Puts the I/O in its place.
    pub(crate) fn man(&self, io: Io) {
        *self.lock() = Some(io);
    }

    /// Ends the I/O: whatever it was asked is answered.
    pub(crate) fn leave(&self) {
        let io = self.lock().take();
        drop(io);
    }

    /// The life of the keeper.
    pub(crate) fn keep(&self, remote: &Remote) {
        let mut rescue = Rescue { helm: self, is_armed: true };
        self.keep_until_end(remote);
        rescue.is_armed = false;
    }

    fn keep_until_end(&self, remote: &Remote) {
        loop {
            let mut helm = self.lock();
            self.at.store(KEEPER, Ordering::SeqCst);
            let Some(io) = &mut *helm else { return };
            while !self.is_wanted.load(Ordering::SeqCst) {
                if io.turn().is_err() {
                    let ended = helm.take();
                    // Its end answers calls, whose callers may want the helm.
                    drop(helm);
                    drop(ended);
                    return;
                }
                self.is_busy.store(io.is_busy(), Ordering::Relaxed);
            }
            drop(helm);
            self.rest(remote);
        }
    }

    /// Sends `legs` and waits until `call` is answered, on this thread if nobody else needs the
    /// helm. If somebody does, or the I/O has ended, they are only sent.
    pub(crate) fn steer(&self, remote: &Remote, call: &Arc<Call>, legs: Vec<Box<Leg>>) {
        let keeper_is_busy =
            self.at.load(Ordering::SeqCst) == KEEPER && self.is_busy.load(Ordering::Relaxed);
        if keeper_is_busy || self.is_wanted.swap(true, Ordering::SeqCst) {
            remote.submit(legs);
            return;
        }
        remote.ring();
        let mut rescue = Rescue { helm: self, is_armed: true };
        self.take_helm(remote, call, legs);
        rescue.is_armed = false;
    }

    fn take_helm(&self, remote: &Remote, call: &Arc<Call>, legs: Vec<Box<Leg>>) {
        let mut helm = self.lock();
        let Some(io) = &mut *helm else {
            self.is_wanted.store(false, Ordering::SeqCst);
            drop(helm);
            remote.submit(legs);
            return;
        };
        self.at.store(CALLER, Ordering::SeqCst);
        let has_ended = sail(io, call, legs).is_err();
        let is_busy = !has_ended && io.is_busy();
        self.looks_pay.store(io.luck.pays(), Ordering::Relaxed);
        let ended = if has_ended { helm.take() } else { None };
        self.at.store(NOBODY, Ordering::SeqCst);
        // Not after the lock is free: a keeper that came in between would leave for nobody.
        self.is_wanted.store(false, Ordering::SeqCst);
        // First, as the end answers calls, whose callers may want the helm.
        drop(helm);
        drop(ended);
        self.calls.fetch_add(1, Ordering::Relaxed);
        if is_busy || has_ended || remote.has_jobs() {
            self.call_keeper();
        }
    }

    /// Whether caller and node seem to have a core each, so that both may work on one call.
    pub(crate) fn looks_pay(&self) -> bool {
        self.looks_pay.load(Ordering::Relaxed)
    }

    /// Whether the keeper is at the helm and a caller wants it. It rings after it said so, the
    /// keeper asks after it said that it sleeps: one of them learns of the other.
    pub(crate) fn keeper_shall_leave(&self) -> bool {
        self.is_wanted.load(Ordering::SeqCst) && self.at.load(Ordering::SeqCst) == KEEPER
    }

    /// Has the keeper come back if nobody is at the helm.
    pub(crate) fn call_keeper(&self) {
        if self.at.load(Ordering::SeqCst) == NOBODY {
            *self.is_called.lock().unwrap_or_else(PoisonError::into_inner) = true;
            self.called.notify_one();
        }
    }

    /// The keeper's time off: until it is called, or no caller came for a while.
    fn rest(&self, remote: &Remote) {
        let mut is_called = self.is_called.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if std::mem::take(&mut *is_called) {
                return;
            }
            let before = self.calls.load(Ordering::Relaxed);
            let woken = self.called.wait_timeout(is_called, REST);
            is_called = woken.unwrap_or_else(PoisonError::into_inner).0;
            let is_quiet = self.calls.load(Ordering::Relaxed) == before
                && !self.is_wanted.load(Ordering::SeqCst);
            if is_quiet || remote.is_closed() {
                *is_called = false;
                return;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Io>> {
        // Whoever panicked in there left it half changed: it ends here.
        self.io.lock().unwrap_or_else(|poisoned| {
            self.io.clear_poison();
            let mut io = poisoned.into_inner();
            let ended = io.take();
            drop(ended);
            io
        })
    }
}

/// Sends `legs` and does the I/O until `call` is answered: looks for the answer while that is
/// likely to pay, then sleeps.
fn sail(io: &mut Io, call: &Call, legs: Vec<Box<Leg>>) -> Result<(), Ended> {
    let now = Instant::now();
    let put_bytes = legs.iter().map(|leg| leg.payload_bytes).sum();
    legs.into_iter().for_each(|leg| io.dispatch(leg, now));
    io.flush_all(now);
    // Until it was asked nobody answers, and a look would not see that there is room to ask.
    while io.awaits_room() && !call.is_answered() {
        io.turn()?;
    }
    let look_for = io.luck.look_for(look_max(put_bytes));
    if !look_for.is_zero() {
        look(io, call, look_for)?;
    }
    while !call.is_answered() {
        io.turn()?;
    }
    Ok(())
}

/// Looks for the answer to `call` without sleeping, until nothing has come for as long as
/// `look_for`. Says how it ended to the I/O's luck.
fn look(io: &mut Io, call: &Call, look_for: Duration) -> Result<(), Ended> {
    let mut now = Instant::now();
    let until_from = |at: Instant| at.checked_add(look_for).unwrap_or(call.deadline);
    let (mut until, mut tick_at, mut looks) = (until_from(now), now + TICK, 0_u32);
    while !call.is_answered() {
        now = Instant::now();
        if now >= until.min(call.deadline) {
            io.luck.did_not_pay();
            return Ok(());
        }
        if now >= tick_at {
            // Other calls may be under way, and have deadlines; sockets may have room again.
            io.turn_at_once()?;
            tick_at = now + TICK;
        }
        looks += 1;
        if io.glance(now)? {
            until = until_from(now);
            continue;
        }
        if looks.is_multiple_of(YIELD_EVERY) {
            // The node may be waiting for this core.
            std::thread::yield_now();
        }
        if io.luck.is_crowded(now.elapsed()) {
            return Ok(());
        }
    }
    io.luck.paid();
    Ok(())
}

/// How long to look for an answer if `put_bytes` bytes were put: the node has to read them first.
fn look_max(put_bytes: u64) -> Duration {
    LOOK + Duration::from_nanos(put_bytes.min(PUT_BYTES_MAX) / PUT_BYTES_PER_NS)
}

/// Ends the I/O if whoever is at the helm panics: nobody would ever answer its calls.
struct Rescue<'a> {
    helm: &'a Helm,
    is_armed: bool,
}

impl Drop for Rescue<'_> {
    fn drop(&mut self) {
        if self.is_armed {
            self.helm.at.store(NOBODY, Ordering::SeqCst);
            self.helm.is_wanted.store(false, Ordering::SeqCst);
            self.helm.leave();
            self.helm.call_keeper();
        }
    }
}

impl fmt::Debug for Helm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Helm").field("at", &self.at).finish_non_exhaustive()
    }
}

const NOBODY: u8 = 0;
const KEEPER: u8 = 1;
const CALLER: u8 = 2;
/// How far past its deadline a call may get while another's answer is looked for.
const TICK: Duration = Duration::from_millis(1);
/// Twice what a small answer takes from a node that is awake, measured on two cores of a VM.
const LOOK: Duration = Duration::from_micros(50);
/// A node that reads what is put does so at 10 to 20 bytes a nanosecond, measured on cold memory.
const PUT_BYTES_PER_NS: u64 = 8;
/// Above this the answer takes so long that a wake-up hardly adds to it. A guess: 10 %.
const PUT_BYTES_MAX: u64 = 2 << 20;
/// Looks between two times that the core is offered to other threads.
const YIELD_EVERY: u32 = 4;
/// For so long the keeper leaves an empty helm to callers. A guess: far longer than a caller takes
/// from one call to its next, far shorter than any deadline.
const REST: Duration = Duration::from_millis(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_is_longer_the_more_was_put_up_to_a_limit() {
        let us = Duration::from_micros;
        assert_eq!((look_max(0), look_max(7)), (us(50), us(50)));
        assert_eq!(look_max(8000), us(51));
        assert_eq!(look_max(1 << 20), us(50) + Duration::from_nanos(131_072));
        let longest = us(50) + Duration::from_nanos(262_144);
        assert!([2 << 20, (2 << 20) + 8, u64::MAX].iter().all(|&put| look_max(put) == longest));
    }
}
