//! One connection's conversation, without the connection: requests in flight, ids, deadlines.
//!
//! Sans-io: time is an argument, bytes go in and out through slices and a [`Wire`]. What a reader
//! would get wrong: a request whose caller has gone stays in flight until its reply came, because
//! the reply must be recognised and thrown away. Only a put that is half written cannot be left
//! alone: its bytes are the caller's, so the connection has to end.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ahash::AHashMap;
use larder_protocol::limits::DEADLINE_US_MAX;
use larder_protocol::message::{
    CAPABILITY_REMOTE, CAPABILITY_SHARED, CAPABILITY_WANTS, Hello, HelloReply,
};
use larder_protocol::view::View;
use larder_protocol::{Code, DecodeError, Generation, Header, Opcode};

use crate::call::Call;
use crate::config::Config;
use crate::error::{KeyError, Reason};
use crate::flight::{Flight, Outgoing, Unsent, What};
use crate::handles::{Handle, HandleState};
use crate::leg::Leg;
use crate::namespace::Namespace;
use crate::rdma::Pairing;
use crate::reply::Inbound;
use crate::shared::Given;

/// The conversation over one connection. A new connection has a new session.
pub(crate) struct Session {
    limits: Limits,
    is_up: bool,
    /// The view that this client uses.
    pub(crate) view_epoch: u64,
    /// The newest view that the node told of.
    pub(crate) heard_epoch: u64,
    next_id: u64,
    pub(crate) flights: AHashMap<u64, Flight>,
    flight_bytes: u64,
    pub(crate) unsent: VecDeque<Unsent>,
    /// Requests in flight some of whose checksums are to be made.
    pub(crate) summing: VecDeque<u64>,
    /// Requests that are written now and whose reply waited for that.
    pub(crate) answered_early: Vec<u64>,
    /// Bytes of the first unsent frame that are written already.
    head_written: u64,
    pub(crate) waiting: VecDeque<Box<Leg>>,
    pub(crate) handles: Vec<Handle>,
    pub(crate) inbound: Inbound,
    /// Whether the node understands what is said of wanting.
    pub(crate) knows_wants: bool,
    /// What of our memory the node has.
    pub(crate) given: Given,
    /// The queue pair with the node, if there is one.
    pub(crate) pairing: Pairing,
    /// No deadline is earlier than this.
    pub(crate) earliest: Option<Instant>,
    /// Since when answers are awaited and nothing came.
    silent_since: Option<Instant>,
    /// How many replies made sense.
    pub(crate) replies: u64,
    /// How often anything came.
    pub(crate) reads: u64,
}

/// How much may be in flight.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) requests: usize,
    pub(crate) bytes: u64,
}

impl Limits {
    pub(crate) const fn of(config: &Config) -> Self {
        Self { requests: config.inflight_max, bytes: config.inflight_bytes_max }
    }
}

/// What a session tells its driver.
pub(crate) enum Event {
    /// The node let us in.
    Hello(HelloReply),
    /// The node let us not in: it has other shards than this client thought.
    Reshaped(HelloReply),
    /// The node's view.
    View(View),
    /// The node has a newer view than this client.
    Epoch,
    /// A leg that was sent to the wrong place, or got only some of its answers.
    Again(Box<Leg>, Code),
}

/// Why a connection cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Broken {
    /// The peer closed it, or the network did.
    Lost,
    /// The peer sent bytes that are no message.
    Decode(DecodeError),
    /// The peer sent a message that does not fit what was asked.
    Desync(&'static str),
    /// The caller of a half-written put has gone, and its bytes with it.
    HalfPut,
    /// The peer shares memory that this process cannot map.
    NotMapped,
    /// The node does not want this client.
    Refused(Code),
}

impl Session {
    pub(crate) fn new(limits: Limits, view_epoch: u64, pairing: Pairing) -> Self {
        Self {
            pairing,
            limits,
            is_up: false,
            view_epoch,
            heard_epoch: view_epoch,
            next_id: 1,
            flights: AHashMap::new(),
            flight_bytes: 0,
            unsent: VecDeque::new(),
            summing: VecDeque::new(),
            answered_early: Vec::new(),
            head_written: 0,
            waiting: VecDeque::new(),
            handles: Vec::new(),
            inbound: Inbound::new(),
            knows_wants: false,
            given: Given::default(),
            earliest: None,
            silent_since: None,
            replies: 0,
            reads: 0,
        }
    }

    /// Says who we are. Everything else waits for the answer.
    pub(crate) fn say_hello(&mut self, hello: &Hello<'_>, now: Instant) {
        let mut frame = Vec::new();
        Header::begin(&mut frame);
        let shared = if self.inbound.regions.is_on_host() { CAPABILITY_SHARED } else { 0 };
        let is_remote = shared == 0 && self.pairing.has_card();
        let remote = if is_remote { CAPABILITY_REMOTE } else { 0 };
        let capabilities = hello.capabilities | shared | remote | CAPABILITY_WANTS;
        Hello { capabilities, ..*hello }.encode(&mut frame);
        self.launch(Opcode::Hello, What::Hello, frame, now);
    }

    /// Asks for the view; also the way to see whether the peer lives.
    pub(crate) fn ask_view(&mut self, now: Instant) {
        let mut frame = Vec::new();
        Header::begin(&mut frame);
        self.launch(Opcode::View, What::View, frame, now);
    }

    /// Takes a leg to send as soon as it may be.
    pub(crate) fn submit(&mut self, leg: Box<Leg>, now: Instant) {
        self.note_deadline(leg.call.deadline);
        if self.flights.is_empty() && self.waiting.is_empty() {
            self.silent_since = Some(now);
        }
        self.waiting.push_back(leg);
    }

    /// Puts waiting legs in flight while there is room, behind what the node has to know.
    pub(crate) fn pump(&mut self, now: Instant) {
        if self.is_up {
            self.say_releases();
            self.take_back_gone(now);
            self.keep_pair(now);
        }
        match self.awaits_pair_until() {
            Some(until) if until > now => return,
            Some(_) => self.pairing.stop_awaiting(),
            None => {}
        }
        while self.is_up && self.has_room() {
            let Some(leg) = self.waiting.pop_front() else { return };
            self.start(leg, now);
        }
    }

    /// What travels with the first byte that [`Session::gather`] answers.
    pub(crate) fn descriptor_due(&self) -> Option<BorrowedFd<'_>> {
        if self.head_written > 0 {
            return None;
        }
        self.outgoing().next()?.descriptor
    }

    /// What to write next, as slices that point into frames and callers' memory.
    pub(crate) fn gather<'a>(&'a self, out: &mut Vec<IoSlice<'a>>) {
        let mut skip = self.head_written;
        let mut bytes = 0;
        for Outgoing { frame, sources, sums, is_open, descriptor } in self.outgoing() {
            if descriptor.is_some() && skip == 0 {
                // It goes with one call of the kernel, whose first byte is its own.
                if out.is_empty() {
                    out.push(IoSlice::new(frame));
                }
                return;
            }
            let written = skip.min(frame.len() as u64);
            if (written as usize) < frame.len() {
                bytes += frame.len();
                out.push(IoSlice::new(&frame[written as usize..]));
            }
            skip -= written;
            for source in sources {
                let mut offset = skip.min(source.inline_bytes());
                skip -= offset;
                while out.len() < SLICES_MAX && bytes < WRITE_BYTES_MAX {
                    let piece = source.piece_at(offset);
                    if piece.is_empty() {
                        break;
                    }
                    offset += piece.len() as u64;
                    bytes += piece.len();
                    out.push(IoSlice::new(piece));
                }
                if offset < source.inline_bytes() {
                    return;
                }
            }
            if skip < sums.len() as u64 {
                bytes += sums.len();
                out.push(IoSlice::new(&sums[skip as usize..]));
            }
            if is_open || out.len() >= SLICES_MAX || bytes >= WRITE_BYTES_MAX {
                return;
            }
            skip = 0;
        }
    }

    /// Says that the first `bytes` of what was gathered are written.
    pub(crate) fn wrote(&mut self, bytes: usize) {
        self.head_written += bytes as u64;
        while let Some(next) = self.unsent.front() {
            let mut flight = match next {
                Unsent::Flight(id) => self.flights.get_mut(id).map(|flight| (id, flight)),
                Unsent::Alone(_) => None,
            };
            let whole = match (next, &flight) {
                (Unsent::Alone(frame), _) => frame.len() as u64,
                (_, Some((_, flight))) => flight.frame().len() as u64 + flight.payload_bytes(),
                // It was taken out before any of it was written.
                (_, None) => 0,
            };
            if self.head_written < whole {
                return;
            }
            self.head_written -= whole;
            if let Some((id, flight)) = &mut flight {
                flight.is_sent = true;
                flight.frame = Vec::new();
                if flight.early.is_some() {
                    self.answered_early.push(**id);
                }
            }
            self.unsent.pop_front();
        }
    }

    /// When [`Session::expire`] has to look again.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let pair = [self.pairing.doubt_at(), self.awaits_pair_until()];
        pair.into_iter().chain([self.earliest]).flatten().min()
    }

    /// Ends every leg whose deadline has passed; answers how many.
    ///
    /// # Errors
    /// [`Broken::HalfPut`] if one of them was half written.
    pub(crate) fn expire(&mut self, now: Instant) -> Result<usize, Broken> {
        if self.earliest.is_none_or(|earliest| earliest > now) {
            return Ok(0);
        }
        let out = self.take_if(|call| call.deadline <= now);
        self.earliest = self.legs().map(|leg| leg.call.deadline).min();
        let missed = out.0.len();
        out.0.into_iter().for_each(|leg| leg.fail(&KeyError::DeadlineExceeded));
        out.1.map_or(Ok(missed), Err)
    }

    /// Ends the legs of a call.
    ///
    /// # Errors
    /// [`Broken::HalfPut`] if one of them was half written.
    pub(crate) fn cancel(&mut self, cancelled: &Arc<Call>) -> Result<(), Broken> {
        let (legs, broken) = self.take_if(|call| std::ptr::eq(call, Arc::as_ptr(cancelled)));
        legs.into_iter().for_each(|leg| leg.fail(&KeyError::Cancelled));
        broken.map_or(Ok(()), Err)
    }

    /// Takes out every leg, to be asked elsewhere. Their replies, if any come, are thrown away.
    pub(crate) fn take_all(&mut self) -> (Vec<Box<Leg>>, Option<Broken>) {
        self.earliest = None;
        self.pairing.end();
        self.take_if(|_| true)
    }

    /// Since when answers are awaited and nothing came at all; `None` if none are awaited.
    pub(crate) fn silent_since(&self) -> Option<Instant> {
        let awaits = !self.flights.is_empty() || !self.waiting.is_empty();
        self.silent_since.filter(|_| awaits)
    }

    /// Whether the node is mapping memory of ours, and serves nothing else on this connection.
    pub(crate) fn is_mapping(&self) -> bool {
        self.flights.values().any(|flight| matches!(flight.what, What::Share(_)))
    }

    /// The peer gave a sign of life.
    pub(crate) const fn heard(&mut self, now: Instant) {
        self.reads += 1;
        self.silent_since = Some(now);
    }

    /// Whether anything was asked that is not answered.
    pub(crate) fn has_work(&self) -> bool {
        self.awaits() || !self.waiting.is_empty()
    }

    /// Whether replies are to come.
    pub(crate) fn awaits(&self) -> bool {
        !self.flights.is_empty() || self.inbound.is_amid()
    }

    pub(crate) const fn is_up(&self) -> bool {
        self.is_up
    }

    pub(crate) const fn set_up(&mut self) {
        self.is_up = true;
    }

    /// The request of which some bytes are written, but not all.
    pub(crate) fn begun(&self) -> Option<u64> {
        let is_there = |next: &&Unsent| match next {
            Unsent::Flight(id) => self.flights.contains_key(id),
            Unsent::Alone(_) => true,
        };
        match self.unsent.iter().find(is_there)? {
            Unsent::Flight(id) => (self.head_written > 0).then_some(*id),
            Unsent::Alone(_) => None,
        }
    }

    fn has_room(&self) -> bool {
        let bytes_left = self.limits.bytes.saturating_sub(self.flight_bytes);
        // One that is larger than the limit goes alone.
        let fits = self.waiting.front().is_none_or(|leg| leg.bytes() <= bytes_left);
        self.flights.len() < self.limits.requests && (fits || self.flight_bytes == 0)
    }

    pub(crate) fn launch_leg(&mut self, mut leg: Box<Leg>, handle: u64, now: Instant) {
        // It may have been sent before, and half answered.
        (leg.answered, leg.is_misplaced) = (0, false);
        leg.again.clear();
        leg.say_wants(self.knows_wants);
        if leg.opcode == Opcode::Put {
            self.choose_forms(&mut leg, now);
        } else if leg.opcode == Opcode::Get {
            leg.get.set_sharing(self.inbound.regions.shares(), &mut leg.frame);
            self.aim_get(&mut leg, now);
        }
        let id = self.take_id(now);
        let left_us = leg.call.deadline.saturating_duration_since(now).as_micros();
        let deadline_us = u32::try_from(left_us).unwrap_or(u32::MAX).clamp(1, DEADLINE_US_MAX);
        let generation = leg.namespace.as_ref().map_or(Generation(0), Namespace::generation);
        let header = Header {
            namespace: handle,
            generation,
            view_epoch: self.view_epoch,
            ..Header::request(leg.opcode, id, deadline_us)
        };
        header.finish(leg.payload_bytes, 0, &mut leg.frame);
        let (opcode, bytes) = (leg.opcode, leg.bytes());
        self.flight_bytes += bytes;
        if leg.following().1 {
            self.summing.push_back(id);
        }
        let what = What::Leg(leg);
        let flight = Flight { opcode, what, frame: Vec::new(), bytes, is_sent: false, early: None };
        self.flights.insert(id, flight);
        self.unsent.push_back(Unsent::Flight(id));
    }

    pub(crate) fn launch(&mut self, opcode: Opcode, what: What, mut frame: Vec<u8>, now: Instant) {
        let id = self.take_id(now);
        let deadline_us = OWN_DEADLINE.as_micros() as u32;
        let header =
            Header { view_epoch: self.view_epoch, ..Header::request(opcode, id, deadline_us) };
        header.finish(0, 0, &mut frame);
        let flight = Flight { opcode, what, frame, bytes: 0, is_sent: false, early: None };
        self.flights.insert(id, flight);
        self.unsent.push_back(Unsent::Flight(id));
    }

    fn take_id(&mut self, now: Instant) -> u64 {
        if self.flights.is_empty() {
            self.silent_since = Some(now);
        }
        self.next_id += 1;
        self.next_id - 1
    }

    fn note_deadline(&mut self, deadline: Instant) {
        self.earliest = Some(self.earliest.map_or(deadline, |known| known.min(deadline)));
    }

    pub(crate) fn landed(&mut self, flight: &Flight) {
        self.flight_bytes -= flight.bytes;
    }

    fn outgoing(&self) -> impl Iterator<Item = Outgoing<'_>> {
        self.unsent.iter().filter_map(|next| match next {
            Unsent::Flight(id) => self.flights.get(id).map(Flight::outgoing),
            Unsent::Alone(frame) => Some(Outgoing::alone(frame)),
        })
    }

    fn legs(&self) -> impl Iterator<Item = &Leg> {
        let flying = self.flights.values().chain(self.inbound.flight()).filter_map(Flight::leg);
        let flying = flying.chain(self.inbound.filling());
        let parked = self.handles.iter().flat_map(|handle| match &handle.state {
            HandleState::Opening { parked } => parked.as_slice(),
            HandleState::Open { .. } => &[],
        });
        flying.chain(parked.chain(&self.waiting).map(AsRef::as_ref))
    }

    /// Takes out the legs whose call is `chosen`. What is on its way to or from the peer stays in
    /// flight without them.
    fn take_if(&mut self, chosen: impl Fn(&Call) -> bool) -> (Vec<Box<Leg>>, Option<Broken>) {
        let mut out = Vec::new();
        let mut take = |legs: &mut Vec<Box<Leg>>| {
            out.extend(legs.extract_if(.., |leg| chosen(&leg.call)));
        };
        let mut waiting = Vec::from(std::mem::take(&mut self.waiting));
        take(&mut waiting);
        self.waiting = waiting.into();
        for handle in &mut self.handles {
            if let HandleState::Opening { parked } = &mut handle.state {
                take(parked);
            }
        }
        out.extend(self.inbound.abandon_if(&chosen));
        let begun = self.begun();
        let mut broken = None;
        let mut unsent = Vec::new();
        for (&id, flight) in &mut self.flights {
            if !flight.leg().is_some_and(|leg| chosen(&leg.call)) {
                continue;
            }
            let is_begun = begun == Some(id);
            if is_begun && flight.payload_bytes() > 0 {
                broken = Some(Broken::HalfPut);
            }
            if !flight.is_sent && !is_begun {
                unsent.push(id);
            }
            out.extend(flight.abandon());
        }
        for id in unsent {
            let flight = self.flights.remove(&id).expect("found a moment ago");
            self.flight_bytes -= flight.bytes;
        }
        (out, broken)
    }
}

impl From<Broken> for Reason {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Lost | Broken::HalfPut => Self::Lost,
            Broken::NotMapped => Self::NotShared,
            Broken::Decode(error) => Self::Protocol(error),
            Broken::Desync(what) => Self::Desync(what),
            Broken::Refused(Code::Denied) => Self::Denied,
            Broken::Refused(Code::WrongShard) => Self::WrongShard,
            Broken::Refused(_) => Self::Desync("hello refused"),
        }
    }
}

/// How long the node may take for what the client asks on its own behalf.
pub(crate) const OWN_DEADLINE: Duration = Duration::from_secs(5);
/// Slices of one write: the kernel takes 1,024.
const SLICES_MAX: usize = 256;
/// About how much one write offers; a socket takes less.
const WRITE_BYTES_MAX: usize = 4 << 20;
