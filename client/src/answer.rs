//! Replies without payload: what each means for the call, the namespace or the session it is for.
//!
//! A reply of the wrong shape ends the connection. A refusal does not: it is an answer, and some of
//! them say that the same question may be asked again, elsewhere or after opening a namespace.

use std::time::Instant;

use larder_protocol::limits::{BATCH_OBJECTS_MAX, MATCH_KEYS_MAX};
use larder_protocol::message::{
    CAPABILITY_REMOTE, CAPABILITY_SHARED, CAPABILITY_WANTS, HelloReply, MatchReply, decode_stats,
    decode_statuses,
};
use larder_protocol::view::View;
use larder_protocol::{Code, DecodeError, Generation, Header, Opcode, Status};

use crate::account::AccountInfo;
use crate::call::{Outcome, ShardValue};
use crate::connected::ClientInfo;
use crate::error::{KeyError, KeyResult};
use crate::flight::What;
use crate::leg::Leg;
use crate::session::{Broken, Event, Session};
use crate::wanting::{note_matched, note_refused};

impl Session {
    /// Handles a reply other than a get's objects.
    pub(crate) fn answer(
        &mut self,
        header: &Header,
        what: What,
        body: &[u8],
        now: Instant,
        events: &mut Vec<Event>,
    ) -> Result<(), Broken> {
        match what {
            What::Abandoned => Ok(()),
            What::Hello if header.code == Code::Ok => {
                let reply = HelloReply::decode(body).map_err(Broken::Decode)?;
                let is_shared = reply.capabilities & CAPABILITY_SHARED != 0;
                self.inbound.regions.set_granted(is_shared);
                self.pairing.set_granted(reply.capabilities & CAPABILITY_REMOTE != 0);
                self.knows_wants = reply.capabilities & CAPABILITY_WANTS != 0;
                self.set_up();
                events.push(Event::Hello(reply));
                Ok(())
            }
            What::Hello => {
                if header.code == Code::WrongShard {
                    let reply = HelloReply::decode(body).map_err(Broken::Decode)?;
                    events.push(Event::Reshaped(reply));
                }
                Err(Broken::Refused(header.code))
            }
            What::View if header.code == Code::Ok => {
                let view = View::decode(body).map_err(Broken::Decode)?;
                events.push(Event::View(view));
                Ok(())
            }
            What::View => Ok(()),
            What::Share(offer) if header.code == Code::Ok => {
                offer.taken();
                Ok(())
            }
            What::Pair(reach) => self.take_pair(reach, header.code, body, now),
            What::Unshare if header.code == Code::Ok => Ok(()),
            What::Share(_) | What::Unshare => Err(Broken::Desync("our memory is refused")),
            What::Open(namespace) if header.code == Code::Ok => {
                if header.generation < namespace.generation() {
                    return Err(Broken::Desync("an older generation than it was told"));
                }
                self.opened(&namespace, header.namespace, header.generation, now);
                Ok(())
            }
            What::Open(namespace) => {
                let error = KeyError::Refused(header.code);
                self.not_opened(&namespace).into_iter().for_each(|leg| leg.fail(&error));
                Ok(())
            }
            What::Leg(mut leg) if header.code == Code::Ok => {
                self.settle(&mut leg);
                self.complete(header, leg, body, now, events)
            }
            What::Leg(leg) if header.code == Code::Unreachable && leg.aim.is_some() => {
                self.pass_by_pair(leg, now);
                Ok(())
            }
            What::Leg(mut leg) => {
                self.settle(&mut leg);
                self.refused(header, leg, now, events);
                Ok(())
            }
        }
    }

    fn complete(
        &mut self,
        header: &Header,
        mut leg: Box<Leg>,
        body: &[u8],
        now: Instant,
        events: &mut Vec<Event>,
    ) -> Result<(), Broken> {
        let taken = match leg.opcode {
            Opcode::Put => {
                take_statuses(&mut leg, body, BATCH_OBJECTS_MAX, Status::Stored, header.generation)
            }
            Opcode::Remove if leg.is_tag() => take_removed(&mut leg, body),
            Opcode::Remove => {
                take_statuses(&mut leg, body, MATCH_KEYS_MAX, Status::Removed, header.generation)
            }
            Opcode::Pin => {
                take_statuses(&mut leg, body, MATCH_KEYS_MAX, Status::Pinned, header.generation)
            }
            Opcode::Match => take_matches(&mut leg, body),
            Opcode::Stats => decode_stats(body)
                .map(|stats| tell(&mut leg, Ok(ShardValue::Stats(stats))))
                .map_err(Broken::Decode),
            Opcode::Clients => ClientInfo::decode_all(body)
                .map(|clients| tell(&mut leg, Ok(ShardValue::Clients(clients))))
                .map_err(Broken::Decode),
            Opcode::Accounts => AccountInfo::decode_all(body)
                .map(|accounts| tell(&mut leg, Ok(ShardValue::Accounts(accounts))))
                .map_err(Broken::Decode),
            Opcode::Open | Opcode::Bump => {
                let namespace = leg.namespace.clone().expect("these are about a namespace");
                if header.generation < namespace.generation() {
                    return Err(self.lose(leg, Broken::Desync("an older generation")));
                }
                // A bump moves the handle along; its own field may be left empty.
                let handle = if leg.opcode == Opcode::Open { Some(header.namespace) } else { None };
                self.moved(&namespace, handle, header.generation, now);
                tell(&mut leg, Ok(ShardValue::Generation(header.generation)));
                Ok(())
            }
            _ => Err(Broken::Desync("an operation that is never sent for callers")),
        };
        match taken {
            Ok(()) => {
                self.end_leg(leg, events);
                Ok(())
            }
            Err(broken) => Err(self.lose(leg, broken)),
        }
    }

    fn refused(
        &mut self,
        header: &Header,
        mut leg: Box<Leg>,
        now: Instant,
        events: &mut Vec<Event>,
    ) {
        let may_repeat = leg.attempts < ATTEMPTS_MAX;
        match header.code {
            Code::WrongShard | Code::Draining => events.push(Event::Again(leg, header.code)),
            Code::UnknownNamespace if may_repeat && leg.namespace.is_some() => {
                self.reopen(leg, now);
            }
            Code::StaleGeneration => {
                let ours = leg.namespace.as_ref().map_or(header.generation, |n| n.generation());
                if header.generation < ours && may_repeat {
                    self.reopen(leg, now);
                } else if leg.opcode == Opcode::Put {
                    leg.fail(&KeyError::StaleGeneration { current: header.generation });
                } else if leg.opcode == Opcode::Match {
                    leg.call.answer(|outcome| {
                        let Outcome::Match(result) = outcome else { return };
                        leg.indices.iter().for_each(|at| result.set_miss(at, false));
                    });
                    leg.answered = leg.indices.len();
                } else {
                    leg.fail(&KeyError::Status(Status::MissGeneration));
                }
            }
            Code::Busy => leg.fail(&KeyError::Status(Status::Busy)),
            Code::DeadlineExceeded => leg.fail(&KeyError::DeadlineExceeded),
            code => leg.fail(&KeyError::Refused(code)),
        }
    }
}

fn take_statuses(
    leg: &mut Leg,
    body: &[u8],
    limit: usize,
    good: Status,
    current: Generation,
) -> Result<(), Broken> {
    let statuses = decode_statuses(body, limit).map_err(Broken::Decode)?;
    if statuses.len() != leg.indices.len() {
        return Err(Broken::Desync("other keys"));
    }
    let fits = |status: Status| {
        let is_refusal = if good == Status::Stored {
            matches!(
                status,
                Status::NoRoom
                    | Status::Busy
                    | Status::NotWanted
                    | Status::Corrupt
                    | Status::OlderVersion
                    | Status::Exists
                    | Status::TooLarge
                    | Status::DeadlineExceeded
                    | Status::MissGeneration
            )
        } else {
            status.is_miss() || (good == Status::Pinned && status == Status::NoRoom)
        };
        status == good || status == Status::WrongShard || is_refusal
    };
    if let Some(odd) = statuses.iter().find(|&status| !fits(status)) {
        let (what, found) = ("key status", odd as u64);
        return Err(Broken::Decode(DecodeError::Value { what, found }));
    }
    if good == Status::Stored && statuses.iter().any(|status| status == Status::NotWanted) {
        note_refused(leg, statuses.iter());
    }
    leg.answered = statuses.len();
    let (again, indices) = (&mut leg.again, &leg.indices);
    leg.call.answer(|outcome| {
        for (position, status) in statuses.iter().enumerate() {
            let place = indices.at(position);
            match (status, &mut *outcome) {
                (Status::WrongShard, _) => again.push(position as u32),
                (status, Outcome::Put(keys)) if status == good => keys[place] = Ok(()),
                // The namespace was bumped while the bytes arrived.
                (Status::MissGeneration, Outcome::Put(keys)) => {
                    keys[place] = Err(KeyError::StaleGeneration { current });
                }
                (status, outcome) if status == good => outcome.removed(place, Ok(())),
                (status, outcome) => outcome.fail(place, &KeyError::Status(status)),
            }
        }
    });
    leg.is_misplaced = !leg.again.is_empty();
    Ok(())
}

fn take_removed(leg: &mut Leg, body: &[u8]) -> Result<(), Broken> {
    let statuses = decode_statuses(body, 1).map_err(Broken::Decode)?;
    let answer = match statuses.iter().next() {
        Some(Status::Removed) => Ok(ShardValue::Removed(true)),
        Some(status) if status.is_miss() => Ok(ShardValue::Removed(false)),
        Some(status) => Err(KeyError::Status(status)),
        None => return Err(Broken::Desync("a tag without its answer")),
    };
    tell(leg, answer);
    Ok(())
}

fn take_matches(leg: &mut Leg, body: &[u8]) -> Result<(), Broken> {
    let reply = MatchReply::decode(body).map_err(Broken::Decode)?;
    if reply.count != leg.indices.len() {
        return Err(Broken::Desync("other keys"));
    }
    note_matched(leg, reply.count, |at| (!reply.is_hit(at)).then(|| reply.is_wanted(at)));
    leg.answered = reply.count;
    leg.call.answer(|outcome| {
        let Outcome::Match(result) = outcome else { return };
        for position in (0..reply.count).filter(|&at| !reply.is_hit(at)) {
            result.set_miss(leg.indices.at(position), reply.is_wanted(position));
        }
        for (position, object_bytes, user_meta) in reply.hits() {
            result.set_hit(leg.indices.at(position), object_bytes, user_meta);
        }
    });
    Ok(())
}

/// Records what a shard said of itself.
fn tell(leg: &mut Leg, answer: KeyResult<ShardValue>) {
    leg.answered = leg.indices.len();
    let place = leg.indices.at(0);
    leg.call.answer(|outcome| {
        let Outcome::Shards(shards) = outcome else { return };
        shards[place].answer = answer;
    });
}

/// How often a leg is sent before its trouble is reported.
pub(crate) const ATTEMPTS_MAX: u8 = 4;
