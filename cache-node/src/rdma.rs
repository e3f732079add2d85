//! The driver's part of what a network card moves: when to look whether some of it has ended.
//!
//! A card tells nobody: it has to be asked. So the task of a connection that has something under
//! way looks at its transfers and at its socket by turns, awake for a while, then by a timer that
//! comes ever later. What a reader would get wrong: the timer is always awaited to its end, since
//! one that is cancelled costs memory in the runtime. Nothing is asked when nothing is under way.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use glommio::sync::Semaphore;
use larder_protocol::stats::Stat;
use larder_transport::{Luck, socket};

use crate::core::Core;
use crate::outbox::Outbox;
use crate::polls::{Looking, Polls};
use crate::shard::{PairJob, Peer, Shard};
use crate::spin::{SPIN, YIELD_EVERY};
use crate::stalls::{NEVER, Patience};
use crate::tcp::Wire;

/// Has a pair connected on a thread that serves nobody, and answers if that takes no time. A card
/// may look for its peer for a second: the connection is served on meanwhile.
///
/// # Errors
/// If what is answered cannot be sent before.
pub(crate) async fn connect(
    wire: &mut Wire,
    core: &Core,
    peer: &mut Peer,
    patience: &Patience,
    outbox: &mut Outbox,
    job: PairJob,
) -> io::Result<()> {
    wire.send(core, patience, outbox).await?;
    // From here on it is the node that takes its time.
    patience.until(NEVER);
    let Some(coming) = peer.coming() else { return Ok(()) };
    let turns = Rc::clone(&core.connecting);
    let connects = async move {
        let turn = turns.0.acquire_permit(1).await;
        if turn.is_ok() && coming.is_awaited() {
            coming.leave(glommio::executor().spawn_blocking(move || job.connect()).await);
        }
    };
    glommio::spawn_local(connects).detach();
    let mut pause = PAUSE_MIN;
    for _ in 0..LOOKS {
        glommio::timer::sleep(pause).await;
        if hear_of_pair(core, peer, outbox) {
            break;
        }
        pause = (pause * 2).min(PAUSE_MAX);
    }
    Ok(())
}

/// Whose pair is connected next: one at a time, so that what else is done aside has a thread.
#[derive(Debug)]
pub(crate) struct Turns(Semaphore);

impl Default for Turns {
    fn default() -> Self {
        Self(Semaphore::new(1))
    }
}

/// Answers that a pair was connected, or not, if that is known by now.
pub(crate) fn hear_of_pair(core: &Core, peer: &mut Peer, outbox: &mut Outbox) -> bool {
    let Some(made) = peer.take_pair() else { return false };
    core.shard(|shard| shard.finish_pair(peer, made, outbox));
    true
}

/// Receives at least one byte while something is under way, and answers what ends meanwhile; `None`
/// once nothing is under way any more.
///
/// # Errors
/// As the socket's; `TimedOut` if the card takes too long.
pub(crate) async fn await_next(
    wire: &mut Wire,
    core: &Core,
    peer: &mut Peer,
    patience: &Patience,
    outbox: &mut Outbox,
    into: &mut [u8],
) -> io::Result<Option<usize>> {
    let polls = Rc::clone(&wire.polls);
    let mut watch = Watch::new(core, &polls);
    while peer.is_moving() {
        let has_ended = answer_ended(wire, core, peer, patience, outbox).await?;
        match wire.receive_now(into) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            received => {
                // For the rest of a request, which may be waited for when nothing is under way.
                patience.until(core.now_ms() + core.limits.header_timeout_ms);
                return received.map(Some);
            }
        }
        if has_ended {
            watch.renew(core);
        }
        watch.rest(wire, core).await;
    }
    Ok(None)
}

/// Waits until nothing is under way any more, and answers what was. A card that stands still is
/// given up.
///
/// # Errors
/// As [`answer_ended`], or if the peer is gone.
pub(crate) async fn settle(
    wire: &mut Wire,
    core: &Core,
    peer: &mut Peer,
    patience: &Patience,
    outbox: &mut Outbox,
) -> io::Result<()> {
    wait_while(wire, core, peer, patience, outbox, |_, peer| peer.is_moving()).await
}

/// As [`settle`], until the next request may be served.
///
/// # Errors
/// As [`settle`].
pub(crate) async fn make_room(
    wire: &mut Wire,
    core: &Core,
    peer: &mut Peer,
    patience: &Patience,
    outbox: &mut Outbox,
) -> io::Result<()> {
    core.shard(|shard| shard.post(peer));
    wait_while(wire, core, peer, patience, outbox, Shard::has_moves_enough).await
}

async fn wait_while(
    wire: &mut Wire,
    core: &Core,
    peer: &mut Peer,
    patience: &Patience,
    outbox: &mut Outbox,
    waits: fn(&Shard, &Peer) -> bool,
) -> io::Result<()> {
    let polls = Rc::clone(&wire.polls);
    let mut watch = Watch::new(core, &polls);
    while core.shard(|shard| waits(shard, peer)) {
        // The card is looked at before it is judged: this task may have waited for long.
        let has_ended = answer_ended(wire, core, peer, patience, outbox).await?;
        if has_ended {
            watch.renew(core);
        } else if core.shard(|shard| shard.is_stuck(peer)) {
            core.shard(|shard| shard.give_up_pair(peer, outbox));
            // What it was asked for is answered.
            answer_ended(wire, core, peer, patience, outbox).await?;
            continue;
        }
        watch.rest(wire, core).await;
        check_peer(wire)?;
    }
    Ok(())
}

/// Answers what has ended by now; whether anything had.
///
/// # Errors
/// As the socket's; `TimedOut` if nothing has for too long.
pub(crate) async fn answer_ended(
    wire: &mut Wire,
    core: &Core,
    peer: &mut Peer,
    patience: &Patience,
    outbox: &mut Outbox,
) -> io::Result<bool> {
    let has_ended = core.shard(|shard| shard.collect(peer, outbox));
    if !outbox.is_empty() {
        wire.send(core, patience, outbox).await?;
    }
    let (bytes, since_ms) = peer.moving();
    // Whatever else the peer says meanwhile wins a stalled card no time, so this is asked here.
    if peer.is_moving() && core.now_ms() >= core.moved_by(since_ms, bytes) {
        core.count(Stat::TimedOut, 1);
        return Err(io::ErrorKind::TimedOut.into());
    }
    patience.until(NEVER);
    Ok(has_ended)
}

/// An error if the peer is gone, or the connection was cut: for whoever does not read from it.
pub(crate) fn check_peer(wire: &Wire) -> io::Result<()> {
    if socket::has_hung_up(&wire.stream)? {
        return Err(io::ErrorKind::ConnectionAborted.into());
    }
    Ok(())
}

/// How a connection waits between two looks at its transfers.
#[derive(Debug)]
pub(crate) struct Watch<'a> {
    polls: &'a Polls,
    looking: Option<Looking<'a>>,
    until_us: u64,
    turn: u32,
    pause: Duration,
}

impl<'a> Watch<'a> {
    /// Awake at first, if that is likely to pay and not too many are.
    pub(crate) fn new(core: &Core, polls: &'a Polls) -> Self {
        let mut watch = Self { polls, looking: None, until_us: 0, turn: 0, pause: PAUSE_MIN };
        watch.begin(core);
        watch
    }

    fn begin(&mut self, core: &Core) {
        let look_for = core.moving.with_luck(|luck| luck.look_for(SPIN));
        self.until_us = core.now_us() + look_for.as_micros() as u64;
        self.pause = PAUSE_MIN;
        if look_for.is_zero() {
            self.looking = None;
        } else if self.looking.is_none() {
            self.looking = self.polls.look();
        }
    }

    /// Something has ended, so more may end soon.
    pub(crate) fn renew(&mut self, core: &Core) {
        if self.looking.is_some() {
            core.moving.with_luck(Luck::paid);
        }
        self.begin(core);
    }

    /// Gives others their turn until the next look.
    pub(crate) async fn rest(&mut self, wire: &mut Wire, core: &Core) {
        let now_us = core.now_us();
        if self.looking.is_some() && now_us >= self.until_us {
            core.moving.with_luck(Luck::did_not_pay);
            self.looking = None;
        }
        if self.looking.is_none() {
            glommio::timer::sleep(self.pause).await;
            (wire.requests, wire.bytes) = (0, 0);
            self.pause = (self.pause * 2).min(PAUSE_MAX);
            return;
        }
        self.polls.ask_in_time();
        if self.polls.is_owed() {
            wire.breathe().await;
            return;
        }
        self.turn = self.turn.wrapping_add(1);
        if self.turn.is_multiple_of(YIELD_EVERY) {
            // Other threads may have to do with what is under way.
            std::thread::yield_now();
        }
        futures_lite::future::yield_now().await;
        let took = Duration::from_micros(core.now_us() - now_us);
        if core.moving.with_luck(|luck| luck.is_crowded(took)) {
            self.looking = None;
        }
    }
}

/// Between the first looks by a timer, and at most. A guess: a card takes 50 us for some 2 MiB, and
/// nobody notices a millisecond where it takes longer than [`SPIN`].
const PAUSE_MIN: Duration = Duration::from_micros(50);
const PAUSE_MAX: Duration = Duration::from_millis(1);
/// How often is looked for a pair before its connection is served on: for 20 ms. A guess: cards
/// take 0.5 ms to make one, now and then 20.
const LOOKS: usize = 24;
