//! Bytes that nodes move through network cards: the queue pair of one connection, and what is aimed
//! through it. The twin of the node's `rdma.rs`.
//!
//! A get says where its objects shall land and a put where its bytes are, and the node writes and
//! reads there before it answers. What a reader would get wrong: the node may do so until it has
//! answered, whatever becomes of the call. A landing that is let go of before ends the pair, and
//! then all that was aimed through it is asked again, for bytes behind the answer.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use larder_protocol::limits::{BODY_BYTES_MAX, INLINE_BYTES_MAX};
use larder_protocol::message::{Get, PairAddress, Payload as Form, REMOTE_PIECES_MAX, RemotePiece};
use larder_protocol::wire::Write;
use larder_protocol::{Code, Header, Opcode};
use larder_transport::Landing;
use larder_transport::rdma::{FabricError, Reach};

use crate::flight::{Flight, What};
use crate::leg::Leg;
use crate::session::{Broken, Session};
use crate::shared::{Memories, PutSource};

/// How a request has the node's card move some of it.
#[derive(Debug)]
pub(crate) struct Aim {
    reach: Reach,
    /// When it is doubted.
    doubt_at: Instant,
}

/// How far one connection is with its queue pair.
#[derive(Debug, Default)]
pub(crate) struct Pairing {
    /// Of a client that has a card.
    memories: Option<Arc<Memories>>,
    is_granted: bool,
    state: State,
    /// Whether the first was answered, or waited for long enough; when the last was asked for.
    has_answer: bool,
    asked_at: Option<Instant>,
    /// How long nothing is aimed after a pair was no good, and until when.
    pause: Duration,
    unused_until: Option<Instant>,
    /// How many in a row were refused.
    refusals: u32,
    /// No request that was aimed is doubted earlier.
    doubt_at: Option<Instant>,
}

#[derive(Debug, Default)]
enum State {
    /// There is none, and one is to be asked for.
    #[default]
    None,
    /// The node was told of ours.
    Asked(Reach),
    /// The node has its end, and ours is being connected to it.
    Connecting(Reach, Receiver<Result<(), FabricError>>),
    Up(Reach),
    /// The node, or a card, makes none now.
    Refused {
        until: Instant,
    },
}

impl Pairing {
    pub(crate) fn new(memories: Arc<Memories>) -> Self {
        let memories = memories.card.fabric().is_some().then_some(memories);
        Self { memories, ..Self::default() }
    }

    pub(crate) const fn has_card(&self) -> bool {
        self.memories.is_some()
    }

    pub(crate) const fn set_granted(&mut self, is_granted: bool) {
        self.is_granted = is_granted && self.has_card();
    }

    pub(crate) const fn is_granted(&self) -> bool {
        self.is_granted
    }

    /// Until when requests wait for the node to have its end of the first pair, if they do: for no
    /// more than half of their time, if none has to be answered before `earliest`.
    pub(crate) fn awaited_until(&self, earliest: Option<Instant>) -> Option<Instant> {
        let is_coming = matches!(self.state, State::Asked(_)) && !self.has_answer;
        let asked_at = self.asked_at.filter(|_| is_coming)?;
        let left = earliest.map(|earliest| earliest.saturating_duration_since(asked_at) / 2);
        Some(asked_at + left.map_or(AWAITED_FOR, |left| left.min(AWAITED_FOR)))
    }

    /// Whether our end is being connected.
    #[cfg(test)]
    pub(crate) const fn is_connecting(&self) -> bool {
        matches!(self.state, State::Connecting(..))
    }

    /// Has requests go without a pair that the node took too long to make.
    pub(crate) const fn stop_awaiting(&mut self) {
        self.has_answer = true;
    }

    /// When a request is doubted that was aimed.
    pub(crate) const fn doubt_at(&self) -> Option<Instant> {
        self.doubt_at
    }

    /// Whether a landing has ended the pair.
    pub(crate) fn is_lost(&self) -> bool {
        matches!(&self.state, State::Up(reach) if reach.is_over())
    }

    /// The pair through which requests may be aimed, and the memory that can be.
    fn open(&self, now: Instant) -> Option<(&Reach, &Arc<Memories>)> {
        let is_used = self.unused_until.is_none_or(|until| until <= now);
        match (&self.state, &self.memories) {
            (State::Up(reach), Some(memories)) if is_used && !reach.is_over() => {
                Some((reach, memories))
            }
            _ => None,
        }
    }

    /// There is no pair any more.
    pub(crate) fn end(&mut self) {
        match std::mem::take(&mut self.state) {
            State::Up(reach) | State::Asked(reach) | State::Connecting(reach, _) => reach.end(),
            State::None | State::Refused { .. } => {}
        }
    }

    /// Begins to connect our end, on a thread of its own: a card may look for its peer for a
    /// second, and whoever is here has other calls to answer.
    fn connect(&mut self, reach: Reach, peer: PairAddress, now: Instant) {
        let (made, connected) = channel();
        let own = reach.clone();
        let connects = move || drop(made.send(own.connect(&peer)));
        match std::thread::Builder::new().name("larder-pair".into()).spawn(connects) {
            Ok(_) => self.state = State::Connecting(reach, connected),
            Err(error) => {
                tracing::warn!(%error, "there is no thread to connect a queue pair");
                self.refused(now);
            }
        }
    }

    /// Looks whether our end is connected, for so long at most.
    fn hear_connected(&mut self, patience: Duration, now: Instant) {
        let State::Connecting(reach, connected) = &self.state else { return };
        match connected.recv_timeout(patience) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(Ok(())) => {
                self.refusals = 0;
                self.state = State::Up(reach.clone());
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, "the queue pair was not connected");
                self.refused(now);
            }
            Err(RecvTimeoutError::Disconnected) => self.refused(now),
        }
    }

    /// There is no pair now, and for some time nothing is to be aimed through another one.
    fn rest(&mut self, now: Instant) {
        self.pause = (2 * self.pause).clamp(PAUSE_MIN, PAUSE_MAX);
        self.unused_until = Some(now + self.pause);
        self.end();
    }

    /// The node, or the card, makes no pair: to try takes a card a second where there is no way.
    fn refused(&mut self, now: Instant) {
        self.end();
        self.has_answer = true;
        self.refusals += 1;
        let pause = REFUSED_PAUSE_MIN * 2_u32.pow(self.refusals.min(REFUSALS_COUNTED) - 1);
        self.state = State::Refused { until: now + pause };
    }
}

impl Session {
    /// Sees to it that there is a pair, if there can be one, and that nothing waits for one that is
    /// over.
    pub(crate) fn keep_pair(&mut self, now: Instant) {
        if self.pairing.is_lost() {
            self.pairing.end();
            self.reclaim();
        }
        self.pairing.hear_connected(Duration::ZERO, now);
        if matches!(self.pairing.state, State::None)
            && let Some(asked_at) = self.pairing.asked_at
        {
            // Calls that end early, one after the other, do not have one made for each.
            self.pairing.state = State::Refused { until: asked_at + PAIR_PAUSE };
        }
        let is_due = match self.pairing.state {
            State::None => true,
            State::Refused { until } => until <= now,
            State::Asked(_) | State::Connecting(..) | State::Up(_) => false,
        };
        if is_due && self.pairing.is_granted {
            self.ask_pair(now);
        }
    }

    /// Until when legs wait for the first pair, if they do.
    pub(crate) fn awaits_pair_until(&self) -> Option<Instant> {
        let until = self.pairing.awaited_until(self.earliest)?;
        (!self.waiting.is_empty()).then_some(until)
    }

    fn ask_pair(&mut self, now: Instant) {
        let memories = self.pairing.memories.as_ref();
        let Some(fabric) = memories.and_then(|memories| memories.card.fabric()) else {
            return;
        };
        let made = Reach::new(fabric).map(|reach| (reach.address(), reach));
        let (address, reach) = match made {
            Ok((Some(address), reach)) => (address, reach),
            Ok((None, _)) => return,
            Err(error) => {
                tracing::warn!(%error, "no queue pair was made");
                self.pairing.refused(now);
                return;
            }
        };
        (self.pairing.state, self.pairing.asked_at) = (State::Asked(reach.clone()), Some(now));
        let mut frame = Vec::new();
        Header::begin(&mut frame);
        address.encode(&mut frame);
        self.launch(Opcode::Pair, What::Pair(reach), frame, now);
    }

    /// The node has said where its end is, or that there is none.
    ///
    /// # Errors
    /// [`Broken`] if that is no answer.
    pub(crate) fn take_pair(
        &mut self,
        reach: Reach,
        code: Code,
        body: &[u8],
        now: Instant,
    ) -> Result<(), Broken> {
        let State::Asked(asked) = &self.pairing.state else { return Ok(()) };
        if !asked.is_same(&reach) {
            // Another one was asked for since, which replaces it there too.
            return Ok(());
        }
        if code != Code::Ok {
            tracing::debug!(?code, "the node makes no queue pair");
            self.pairing.refused(now);
            return Ok(());
        }
        let peer = PairAddress::decode(body).map_err(Broken::Decode)?;
        self.pairing.has_answer = true;
        self.pairing.connect(reach, peer, now);
        // Mostly it takes no time, and then nothing needs to go another way.
        self.pairing.hear_connected(CONNECTS_WITHIN, now);
        Ok(())
    }

    /// The pair is no good: what was aimed through it is asked again. Another one is asked for at
    /// once, for the node holds what it moves until then, but is not used at once.
    pub(crate) fn give_up_pair(&mut self, now: Instant) {
        self.pairing.rest(now);
        self.reclaim();
    }

    /// A request was answered: if it was aimed, the pair is good.
    pub(crate) const fn note_answered(&mut self, leg: &Leg) {
        if leg.aim.is_some() {
            self.pairing.pause = Duration::ZERO;
        }
    }

    /// As [`Session::note_answered`], good or bad: nothing of it is touched any more.
    pub(crate) fn settle(&mut self, leg: &mut Leg) {
        self.note_answered(leg);
        leg.settle();
    }

    /// The node could not do its part of this request by its card: it is sent another way.
    pub(crate) fn pass_by_pair(&mut self, leg: Box<Leg>, now: Instant) {
        let aimed = leg.aim.as_ref().map(|aim| &aim.reach);
        if let State::Up(reach) = &self.pairing.state
            && aimed.is_some_and(|aimed| aimed.is_same(reach))
        {
            self.give_up_pair(now);
        }
        self.waiting.push_front(leg);
    }

    /// Gives the pair up if a request that was aimed has waited for half of its time: the rest is
    /// for the bytes to come another way. Whether it did.
    pub(crate) fn doubt_pair(&mut self, now: Instant) -> bool {
        if self.pairing.doubt_at.is_none_or(|doubt_at| doubt_at > now) {
            return false;
        }
        // Those of an earlier pair say nothing of this one.
        let current = match &self.pairing.state {
            State::Up(reach) => Some(reach),
            _ => None,
        };
        let is_current = |aim: &&Aim| current.is_some_and(|reach| reach.is_same(&aim.reach));
        let aims = self.flights.values().filter_map(|flight| flight.leg()?.aim.as_ref());
        self.pairing.doubt_at = aims.filter(is_current).map(|aim| aim.doubt_at).min();
        let is_doubted = self.pairing.doubt_at.is_some_and(|doubt_at| doubt_at <= now);
        if is_doubted {
            tracing::info!("nothing comes through a queue pair: it is given up");
            self.give_up_pair(now);
        }
        is_doubted
    }

    /// Takes back the requests in flight that were aimed, to be sent anew.
    fn reclaim(&mut self) {
        self.pairing.doubt_at = None;
        let begun = self.begun();
        let mut unsent = Vec::new();
        for (&id, flight) in &mut self.flights {
            let is_begun = begun == Some(id);
            if flight.leg().is_none_or(|leg| leg.aim.is_none()) {
                continue;
            }
            if is_begun && flight.payload_bytes() > 0 {
                // It has to be written to its end, and is answered that its pair is over.
                continue;
            }
            if !flight.is_sent && !is_begun {
                unsent.push(id);
            }
            if let Some(leg) = flight.abandon() {
                self.waiting.push_front(leg);
            }
        }
        for id in unsent {
            if let Some(flight) = self.flights.remove(&id) {
                self.landed(&flight);
            }
        }
    }

    /// Says in a get where its objects shall land, as far as the node can write there.
    pub(crate) fn aim_get(&mut self, leg: &mut Leg, now: Instant) {
        let was_aimed = leg.aim.take().is_some();
        // Who may write them by an earlier one cannot any more.
        leg.landings.iter_mut().for_each(Landing::withdraw);
        let Some((reach, memories)) = self.pairing.open(now) else {
            return leg.encode_aims(was_aimed, &[]);
        };
        if leg.landings.is_empty() {
            return;
        }
        let exposed = memories.card.exposed();
        let mut room = (BODY_BYTES_MAX as usize).saturating_sub(leg.frame.len());
        let aims = leg.landings.iter_mut().map(|landing| {
            let is_long = landing.len() > u64::from(INLINE_BYTES_MAX);
            let pieces = is_long.then(|| landing.reach(reach, &exposed)).flatten();
            let pieces = pieces.filter(|pieces| fits(pieces, &mut room));
            if pieces.is_none() {
                landing.settle();
            }
            pieces
        });
        let aims: Vec<_> = aims.collect();
        drop(exposed);
        let is_aimed = aims.iter().any(Option::is_some);
        leg.encode_aims(was_aimed || is_aimed, &aims);
        self.note_aimed(leg, is_aimed, now);
    }

    /// Chooses the objects of a put that the node reads from where they are. Whether that changes
    /// how the put is to be encoded.
    pub(crate) fn aim_put(&mut self, leg: &mut Leg, now: Instant) -> bool {
        let was_aimed = leg.aim.take().is_some();
        let Some((reach, memories)) = self.pairing.open(now) else {
            leg.sources.iter_mut().for_each(PutSource::forget_aim);
            return was_aimed;
        };
        let exposed = memories.card.exposed();
        let mut room = (BODY_BYTES_MAX as usize).saturating_sub(leg.frame.len());
        let mut is_aimed = false;
        for source in &mut leg.sources {
            is_aimed |= source.aim(reach, &exposed, |pieces| fits(pieces, &mut room));
        }
        drop(exposed);
        self.note_aimed(leg, is_aimed, now);
        was_aimed || is_aimed
    }

    /// Whether all that is late waits for a put which the node reads by its card: nothing of this
    /// connection that changes anything is served meanwhile, nor what was asked behind that.
    pub(crate) fn waits_for_reads(&self, now: Instant) -> bool {
        // Where nothing was aimed there is nothing to look for.
        if self.pairing.doubt_at.is_none() {
            return false;
        }
        let is_read = |flight: &Flight| {
            flight.leg().is_some_and(|leg| leg.opcode == Opcode::Put && leg.aim.is_some())
        };
        let read = self.flights.iter().filter(|(_, flight)| is_read(flight));
        let Some(read) = read.map(|(&id, _)| id).min() else { return false };
        let waits = |(id, flight): &(&u64, &Flight)| **id > read && !flight.opcode.only_reads();
        let waits_from = self.flights.iter().filter(waits).map(|(&id, _)| id).min();
        let is_late = |leg: &Leg| leg.call.deadline <= now;
        let is_served = |id: u64| waits_from.is_none_or(|from| id < from);
        let mut flights = self.flights.iter();
        !flights.any(|(&id, flight)| is_served(id) && flight.leg().is_some_and(is_late))
    }

    fn note_aimed(&mut self, leg: &mut Leg, is_aimed: bool, now: Instant) {
        if !is_aimed {
            return;
        }
        let State::Up(reach) = &self.pairing.state else { return };
        let doubt_at = now + leg.call.deadline.saturating_duration_since(now) / 2;
        leg.aim = Some(Aim { reach: reach.clone(), doubt_at });
        let known = self.pairing.doubt_at.unwrap_or(doubt_at);
        self.pairing.doubt_at = Some(known.min(doubt_at));
    }
}

impl Leg {
    /// The node has answered: what it was let to touch is ours again.
    pub(crate) fn settle(&mut self) {
        self.landings.iter_mut().for_each(|landing| {
            landing.settle();
        });
        self.sources.iter_mut().for_each(PutSource::settle);
    }

    /// Encodes a get anew, each object to come to where `aims` says, or behind the answer.
    fn encode_aims(&mut self, is_changed: bool, aims: &[Option<Vec<RemotePiece>>]) {
        if !is_changed {
            return;
        }
        let request = Get::decode(self.body()).expect("encoded by this client");
        let pieces: usize = aims.iter().flatten().map(Vec::len).sum();
        let mut frame =
            Vec::with_capacity(self.frame.len() + PIECE_BYTES * pieces + 2 * aims.len());
        Header::begin(&mut frame);
        request.encode_head(request.items.len(), &mut frame);
        let aims = aims.iter().map(Option::as_deref).chain(std::iter::repeat(None));
        for (item, aim) in request.items.iter().zip(aims) {
            frame.key(&item.key);
            match aim {
                Some(pieces) => Form::encode_remote(pieces, &mut frame),
                None => Form::Inline.encode(&mut frame),
            }
        }
        self.frame = frame;
    }
}

/// Whether these pieces may be named, and have room in the frame.
fn fits(pieces: &[RemotePiece], room: &mut usize) -> bool {
    let bytes = PIECE_BYTES * pieces.len() + 2;
    let fits = pieces.len() <= REMOTE_PIECES_MAX && bytes <= *room;
    *room -= if fits { bytes } else { 0 };
    fits
}

/// What a piece takes in a frame.
const PIECE_BYTES: usize = 16;
/// Until a pair is asked for again after one was refused: twice as long each time, up to a minute.
const REFUSED_PAUSE_MIN: Duration = Duration::from_secs(1);
const REFUSALS_COUNTED: u32 = 7;
/// How long requests wait for the node to make its end of the first pair. A node tells at once what
/// takes it 20 ms, and anything else with the answer to the next request. A guess.
const AWAITED_FOR: Duration = Duration::from_millis(25);
/// How long all calls wait for our end to be connected: cards take 0.5 ms where there is a way, and
/// up to a second where there is none. A guess.
const CONNECTS_WITHIN: Duration = Duration::from_millis(5);
/// Least time between two pairs that are asked for. A guess.
const PAIR_PAUSE: Duration = Duration::from_millis(10);
/// Pauses before anything is aimed again after a pair was no good. Guesses: a call of the usual
/// length each costs half of its time, seldom.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);
