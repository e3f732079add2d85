//! The receiving half of a session: bytes become replies, replies find their requests.
//!
//! Many small replies are read at once into one area and parsed in place. A long payload is read
//! straight to where it goes, past the area.

use std::io::ErrorKind;
use std::time::Instant;

use larder_protocol::limits::HEADER_BYTES;
use larder_protocol::message::GetAnswer;
use larder_protocol::{Code, Header, Opcode};

use crate::call::Call;
use crate::fill::Fill;
use crate::flight::{Flight, What};
use crate::leg::Leg;
use crate::regions::Regions;
use crate::session::{Broken, Event, Session};
use crate::wire::Wire;

/// What was received and not yet understood.
pub(crate) struct Inbound {
    area: Box<[u8]>,
    start: usize,
    end: usize,
    /// A body that is needed longer than the area holds it.
    kept: Vec<u8>,
    phase: Phase,
    /// What the node shares.
    pub(crate) regions: Regions,
}

/// A reply whose body is here.
struct Reply<'a> {
    header: &'a Header,
    body: &'a [u8],
    /// What came with it: the start of its payload, or all of it and more.
    behind: &'a [u8],
}

enum Phase {
    Header,
    Body {
        header: Header,
        flight: Flight,
    },
    /// The reply to a request that is not written to its end.
    Early {
        header: Header,
    },
    Fill {
        left: u64,
        fill: Fill,
        leg: Box<Leg>,
    },
    Scrap {
        left: u64,
    },
    /// Memory that the node shares from now on.
    Region {
        header: Header,
    },
}

impl Inbound {
    pub(crate) fn new() -> Self {
        let area = vec![0; AREA_BYTES].into_boxed_slice();
        let (kept, regions) = (Vec::new(), Regions::default());
        Self { area, start: 0, end: 0, kept, phase: Phase::Header, regions }
    }

    /// The request whose reply is being received, if that is a caller's.
    pub(crate) const fn flight(&self) -> Option<&Flight> {
        match &self.phase {
            Phase::Body { flight, .. } => Some(flight),
            _ => None,
        }
    }

    /// The leg whose payload is being received.
    pub(crate) fn filling(&self) -> Option<&Leg> {
        match &self.phase {
            Phase::Fill { leg, .. } => Some(leg),
            _ => None,
        }
    }

    /// Lets go of the leg whose reply is being received, if its call is `chosen`; what is still to
    /// come of it goes nowhere.
    pub(crate) fn abandon_if(&mut self, chosen: &impl Fn(&Call) -> bool) -> Option<Box<Leg>> {
        match &mut self.phase {
            Phase::Body { flight, .. } if flight.leg().is_some_and(|leg| chosen(&leg.call)) => {
                flight.abandon()
            }
            Phase::Fill { left, leg, .. } if chosen(&leg.call) => {
                let scrap = Phase::Scrap { left: *left };
                match std::mem::replace(&mut self.phase, scrap) {
                    Phase::Fill { fill, leg, .. } => {
                        // What is wrong with them is for the payload's end to show.
                        let _ = self.regions.give_back(fill.rest(&self.kept, &leg));
                        Some(leg)
                    }
                    _ => None,
                }
            }
            _ => None,
        }
    }

    /// Whether a reply is being received.
    pub(crate) const fn is_amid(&self) -> bool {
        !matches!(self.phase, Phase::Header)
    }

    /// How many bytes are bound to come before the node waits for us again, as far as is known.
    pub(crate) fn bound_to_come(&self) -> u64 {
        match &self.phase {
            Phase::Fill { left, .. } | Phase::Scrap { left } => *left,
            _ => 1,
        }
    }

    /// # Errors
    /// [`Broken`] if a descriptor came with bytes that say nothing of it.
    fn check_descriptors(&self) -> Result<(), Broken> {
        // It comes with the first byte of a frame, of which the rest may come later.
        let is_open = match self.phase {
            Phase::Header => self.start < self.end,
            Phase::Region { .. } => true,
            _ => false,
        };
        if self.regions.descriptors_unclaimed() > usize::from(is_open) {
            return Err(Broken::Desync("a descriptor that nothing announces"));
        }
        Ok(())
    }

    fn received(&self) -> &[u8] {
        &self.area[self.start..self.end]
    }

    /// Room to read into, what is received moved out of the way.
    fn room(&mut self) -> &mut [u8] {
        self.area.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        &mut self.area[self.end..]
    }
}

impl Session {
    /// Reads and handles what has arrived, about [`TURN_BYTES_MAX`] of it. Answers whether more may
    /// be there.
    ///
    /// # Errors
    /// [`Broken`]: the connection must be closed. What was understood before is in `events`.
    pub(crate) fn receive(
        &mut self,
        from: &mut impl Wire,
        now: Instant,
        events: &mut Vec<Event>,
    ) -> Result<bool, Broken> {
        let mut turn = 0;
        while turn < TURN_BYTES_MAX {
            let (read, is_short) = match self.read(from) {
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(_) => return Err(Broken::Lost),
            };
            if read == 0 {
                return Err(Broken::Lost);
            }
            self.heard(now);
            turn += read;
            while let Some(descriptor) = from.take_descriptor() {
                self.inbound.regions.descriptor_came(descriptor);
            }
            self.digest(now, events)?;
            self.inbound.check_descriptors()?;
            if is_short {
                // Less than there was room for: the socket is empty, and will say when it is not.
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// One read: bytes read, and whether there was room for more.
    fn read(&mut self, from: &mut impl Wire) -> std::io::Result<(usize, bool)> {
        let inbound = &mut self.inbound;
        if let Phase::Fill { left, fill, leg } = &mut inbound.phase {
            // Everything received before belongs to the payload and was taken.
            (inbound.start, inbound.end) = (0, 0);
            if let Some(read) = fill.read(from, &inbound.kept, leg, &mut inbound.area) {
                let fall = read?;
                *left -= fall.landed as u64;
                inbound.end = fall.behind;
                return Ok((fall.landed + fall.behind, fall.is_short));
            }
        }
        let room = inbound.room();
        let asked = room.len();
        let read = from.read(room)?;
        inbound.end += read;
        Ok((read, read < asked))
    }

    /// Handles everything that is complete.
    fn digest(&mut self, now: Instant, events: &mut Vec<Event>) -> Result<(), Broken> {
        loop {
            let received = self.inbound.end - self.inbound.start;
            let is_progress = match &mut self.inbound.phase {
                Phase::Header => self.take_header()?,
                Phase::Body { .. } => self.take_body(now, events)?,
                Phase::Early { header } if received < header.body_bytes as usize => false,
                Phase::Early { header } => {
                    let header = *header;
                    self.take_early(header);
                    true
                }
                Phase::Region { header } if received < header.body_bytes as usize => false,
                Phase::Region { header } => {
                    let header = *header;
                    self.take_region_body(header)?;
                    true
                }
                Phase::Fill { .. } => self.take_payload(events)?,
                Phase::Scrap { left } => {
                    let now = (received as u64).min(*left);
                    *left -= now;
                    let is_over = *left == 0;
                    self.inbound.start += now as usize;
                    if is_over {
                        self.inbound.phase = Phase::Header;
                    }
                    is_over
                }
            };
            if !is_progress {
                return Ok(());
            }
        }
    }

    fn take_header(&mut self) -> Result<bool, Broken> {
        let Some(bytes) = self.inbound.received().first_chunk::<HEADER_BYTES>() else {
            return Ok(false);
        };
        let header = Header::decode(bytes).map_err(Broken::Decode)?;
        if !header.is_reply {
            return Err(Broken::Desync("a request"));
        }
        if header.opcode == Opcode::Region as u8 && header.request_id == 0 {
            self.check_region(&header)?;
            self.inbound.start += HEADER_BYTES;
            self.inbound.phase = Phase::Region { header };
            return Ok(true);
        }
        // It leaves the table only when all is well: its leg must not be lost with it.
        let Some(flight) = self.flights.get(&header.request_id) else {
            // A node says goodbye without naming a request, because it could not read one.
            let is_goodbye = header.code == Code::Malformed;
            let what = if is_goodbye { "our bytes made no sense" } else { "no such request" };
            return Err(Broken::Desync(what));
        };
        if flight.opcode as u8 != header.opcode {
            return Err(Broken::Desync("another operation"));
        }
        if header.payload_bytes > 0
            && (header.opcode != Opcode::Get as u8 || header.code != Code::Ok)
        {
            return Err(Broken::Desync("a payload where none belongs"));
        }
        if !flight.is_sent {
            // A refusal may overtake the payload that it refuses, which must be written all the
            // same.
            let is_begun = self.begun() == Some(header.request_id);
            let is_refusal = header.payload_bytes == 0 && header.code != Code::Ok;
            let fits = header.body_bytes as usize <= AREA_BYTES && flight.early.is_none();
            let fits = fits && is_refusal;
            if !is_begun || !fits {
                return Err(Broken::Desync("a request that was not sent"));
            }
            self.inbound.start += HEADER_BYTES;
            self.inbound.phase = Phase::Early { header };
            return Ok(true);
        }
        let flight = self.flights.remove(&header.request_id).expect("found a moment ago");
        self.landed(&flight);
        self.inbound.start += HEADER_BYTES;
        self.inbound.kept.clear();
        self.inbound.phase = Phase::Body { header, flight };
        Ok(true)
    }

    /// Keeps a reply until its request is written. The request may have ended that instant.
    fn take_early(&mut self, header: Header) {
        let body = self.inbound.received()[..header.body_bytes as usize].to_vec();
        self.inbound.start += body.len();
        self.inbound.phase = Phase::Header;
        let id = header.request_id;
        let Some(flight) = self.flights.get_mut(&id) else { return };
        flight.early = Some(Box::new((header, body)));
        if flight.is_sent {
            self.answered_early.push(id);
        }
    }

    fn take_region_body(&mut self, header: Header) -> Result<(), Broken> {
        let body_at = self.inbound.start;
        self.inbound.start += header.body_bytes as usize;
        self.inbound.phase = Phase::Header;
        let area = std::mem::take(&mut self.inbound.area);
        let taken = self.take_region(&area[body_at..self.inbound.start]);
        self.inbound.area = area;
        taken
    }

    /// Handles the replies that waited for their requests to be written.
    ///
    /// # Errors
    /// [`Broken`]: the connection must be closed.
    pub(crate) fn end_early(
        &mut self,
        now: Instant,
        events: &mut Vec<Event>,
    ) -> Result<(), Broken> {
        while let Some(id) = self.answered_early.pop() {
            let Some(mut flight) = self.flights.remove(&id) else { continue };
            self.landed(&flight);
            if let Some(early) = flight.early.take() {
                let (header, body) = *early;
                let reply = Reply { header: &header, body: &body, behind: &[] };
                self.take_reply(&reply, flight, now, events)?;
            }
        }
        Ok(())
    }

    /// Waits until the body is there in one piece, then handles it.
    fn take_body(&mut self, now: Instant, events: &mut Vec<Event>) -> Result<bool, Broken> {
        let inbound = &mut self.inbound;
        let Phase::Body { header, .. } = &inbound.phase else { return Ok(false) };
        let body_bytes = header.body_bytes as usize;
        let is_long = body_bytes > AREA_BYTES;
        if is_long {
            let missing = body_bytes - inbound.kept.len();
            let taken = missing.min(inbound.end - inbound.start);
            inbound.kept.extend_from_slice(&inbound.area[inbound.start..inbound.start + taken]);
            inbound.start += taken;
        }
        let have = if is_long { inbound.kept.len() } else { inbound.end - inbound.start };
        if have < body_bytes {
            return Ok(false);
        }
        let Phase::Body { header, flight } = std::mem::replace(&mut inbound.phase, Phase::Header)
        else {
            return Ok(false);
        };
        // Taken out for as long as the body is read in place.
        let area = std::mem::take(&mut inbound.area);
        let mut kept = std::mem::take(&mut inbound.kept);
        let body_at = inbound.start;
        let in_place = &area[body_at..body_at + if is_long { 0 } else { body_bytes }];
        inbound.start += in_place.len();
        let body = if is_long { &kept } else { in_place };
        let behind = &area[self.inbound.start..self.inbound.end];
        let reply = Reply { header: &header, body, behind };
        let taken = self.take_reply(&reply, flight, now, events);
        if !is_long && matches!(self.inbound.phase, Phase::Fill { .. }) {
            kept.extend_from_slice(in_place);
        }
        (self.inbound.area, self.inbound.kept) = (area, kept);
        taken.map(|()| true)
    }

    fn take_reply(
        &mut self,
        reply: &Reply<'_>,
        flight: Flight,
        now: Instant,
        events: &mut Vec<Event>,
    ) -> Result<(), Broken> {
        let &Reply { header, body, behind } = reply;
        self.replies += 1;
        if header.view_epoch > self.heard_epoch.max(self.view_epoch) {
            self.heard_epoch = header.view_epoch;
            events.push(Event::Epoch);
        }
        let payload_bytes = header.payload_bytes;
        match flight.what {
            What::Leg(leg) if header.opcode == Opcode::Get as u8 && header.code == Code::Ok => {
                // Checked before it is begun: counts, shapes, and that lengths add up.
                let checked = GetAnswer::decode_all(body, payload_bytes);
                let fits = checked.map(|answers| answers.len() == leg.indices.len());
                if fits != Ok(true) {
                    let broken = fits.map_or_else(Broken::Decode, |_| Broken::Desync("other keys"));
                    return Err(self.lose(leg, broken));
                }
                self.note_answered(&leg);
                if behind.len() as u64 >= payload_bytes {
                    let payload = &behind[..payload_bytes as usize];
                    return self.fill_whole(leg, body, payload, events);
                }
                self.inbound.phase = Phase::Fill { left: payload_bytes, fill: Fill::new(), leg };
                Ok(())
            }
            What::Abandoned if header.opcode == Opcode::Get as u8 && header.code == Code::Ok => {
                if self.inbound.regions.shares() {
                    let answers = GetAnswer::decode_all(body, payload_bytes);
                    let answers = answers.map_err(Broken::Decode)?;
                    self.inbound.regions.give_back(answers.iter()).map_err(Broken::Decode)?;
                }
                if payload_bytes > 0 {
                    self.inbound.phase = Phase::Scrap { left: payload_bytes };
                }
                Ok(())
            }
            what => self.answer(header, what, body, now, events),
        }
    }

    /// Takes the objects of a get that are all here: most small ones are, and nothing of them has
    /// to be kept for the next read.
    fn fill_whole(
        &mut self,
        mut leg: Box<Leg>,
        body: &[u8],
        payload: &[u8],
        events: &mut Vec<Event>,
    ) -> Result<(), Broken> {
        let mut fill = Fill::new();
        match fill.feed(body, &mut leg, payload, &self.inbound.regions) {
            Ok(taken) if taken == payload.len() && fill.is_done(&leg) => {
                self.inbound.start += taken;
                self.end_leg(leg, events);
                Ok(())
            }
            Ok(_) => Err(self.lose(leg, Broken::Desync("lengths do not add up"))),
            Err(error) => Err(self.lose(leg, Broken::Decode(error))),
        }
    }

    /// Feeds what was received to the objects of a get.
    fn take_payload(&mut self, events: &mut Vec<Event>) -> Result<bool, Broken> {
        let area = std::mem::take(&mut self.inbound.area);
        let kept = std::mem::take(&mut self.inbound.kept);
        let (start, end) = (self.inbound.start, self.inbound.end);
        let taken = self.fill(&kept, &area[start..end], events);
        (self.inbound.area, self.inbound.kept) = (area, kept);
        self.inbound.start += taken?;
        Ok(matches!(self.inbound.phase, Phase::Header))
    }

    fn fill(
        &mut self,
        body: &[u8],
        bytes: &[u8],
        events: &mut Vec<Event>,
    ) -> Result<usize, Broken> {
        let Phase::Fill { left, mut fill, mut leg } =
            std::mem::replace(&mut self.inbound.phase, Phase::Header)
        else {
            return Ok(0);
        };
        let bytes = &bytes[..bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX))];
        let taken = match fill.feed(body, &mut leg, bytes, &self.inbound.regions) {
            Ok(taken) => taken,
            Err(error) => return Err(self.lose(leg, Broken::Decode(error))),
        };
        let left = left - taken as u64;
        if !fill.is_done(&leg) {
            self.inbound.phase = Phase::Fill { left, fill, leg };
        } else {
            self.end_leg(leg, events);
        }
        Ok(taken)
    }

    /// Ends a leg whose keys are all answered, or has those that are not asked again.
    pub(crate) fn end_leg(&self, leg: Box<Leg>, events: &mut Vec<Event>) {
        if !leg.again.is_empty() {
            let code = if leg.is_misplaced { Code::WrongShard } else { Code::Ok };
            events.push(Event::Again(leg, code));
        }
    }

    /// Puts a leg back where [`Session::take_all`] finds it, for a connection that is about to end.
    pub(crate) fn lose(&mut self, leg: Box<Leg>, broken: Broken) -> Broken {
        self.inbound.phase = Phase::Fill { left: 0, fill: Fill::over(), leg };
        broken
    }
}

/// Holds many small replies, or the body of most large ones.
const AREA_BYTES: usize = 64 << 10;
/// About how much one connection may receive before others get their turn.
const TURN_BYTES_MAX: usize = 2 << 20;
