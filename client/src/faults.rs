//! What the I/O does when something does not go well: deadlines, broken connections, peers that are
//! silent, legs that have to go elsewhere.
//!
//! A peer that failed costs the calls that were under way, once. After that its circuit is open and
//! callers are sent on, or refused at once; only probes made here find out that it is back.

use std::time::{Duration, Instant};

use larder_protocol::limits::{VERSION_MAX, VERSION_MIN};
use larder_protocol::message::HelloReply;
use larder_protocol::{Code, Opcode, Status};

use crate::answer::ATTEMPTS_MAX;
use crate::bootstrap::{learn_view, socket_path};
use crate::config::PathChoice;
use crate::error::{KeyError, Reason, Unavailable};
use crate::inbox::Job;
use crate::io::{Io, VIEW_PAUSE};
use crate::leg::Leg;
use crate::router::Route;
use crate::session::Broken;
use crate::tcp::Link;

impl Io {
    /// How long nothing will have to be done, if nothing happens.
    pub(crate) fn timeout(&self, now: Instant) -> Option<Duration> {
        let conns = self.conns.iter().flat_map(|conn| {
            let connecting = match conn.link {
                Link::Connecting { until, .. } => Some(until),
                _ => None,
            };
            [conn.session.next_deadline(), connecting]
        });
        let probes = self.nodes.all.iter().filter(|node| node.is_member);
        let probes = probes.map(|node| node.circuit.probe_at());
        let misplaced = self.misplaced.iter().map(|leg| Some(leg.call.deadline));
        let view = (!self.misplaced.is_empty())
            .then(|| self.view_asked_at.map_or(now, |asked_at| asked_at + VIEW_PAUSE));
        let next = conns.chain(probes).chain(misplaced).chain([view]).flatten().min()?;
        Some(next.saturating_duration_since(now))
    }

    /// Does what has become due.
    pub(crate) fn tick(&mut self, now: Instant) {
        for at in 0..self.conns.len() {
            self.expire(at, now);
            let session = &mut self.conns[at].session;
            let is_awaited = session.awaits_pair_until().is_some_and(|until| until <= now);
            if session.doubt_pair(now) || is_awaited {
                self.mark_dirty(at);
            }
            if let Link::Connecting { until, .. } = self.conns[at].link
                && until <= now
            {
                let reason = Reason::Connect(std::io::ErrorKind::TimedOut);
                self.unreachable(at, reason, now);
            }
        }
        for slot in 0..self.nodes.all.len() {
            let node = &self.nodes.all[slot];
            if node.is_member && node.circuit.probe_at().is_some_and(|probe_at| probe_at <= now) {
                self.probe(slot, now);
            }
        }
        if !self.misplaced.is_empty() {
            let late = self.misplaced.extract_if(.., |leg| leg.call.deadline <= now);
            late.for_each(|leg| leg.fail(&KeyError::DeadlineExceeded));
            self.seek_view(now);
        }
    }

    /// Ends legs whose deadline has passed, and draws conclusions about the peer.
    fn expire(&mut self, at: usize, now: Instant) {
        let session = &mut self.conns[at].session;
        // Silence says nothing about a node that maps memory of ours, or reads it: that takes its
        // time.
        let is_busy = session.is_mapping() || session.waits_for_reads(now);
        let silent_since = session.silent_since().filter(|_| !is_busy);
        match session.expire(now) {
            Ok(0) => {}
            Ok(_) => {
                let Route { peer, shard } = self.conns[at].route;
                let node = &mut self.nodes.all[peer];
                if silent_since.is_some_and(|since| node.circuit.deadline_missed(now, since)) {
                    node.opened(shard);
                    self.opened(peer, Reason::CircuitOpen, now);
                }
            }
            Err(broken) => {
                // A half-written put whose deadline passed says as much about the peer as any.
                let Route { peer, shard } = self.conns[at].route;
                let node = &mut self.nodes.all[peer];
                let opens =
                    silent_since.is_some_and(|since| node.circuit.deadline_missed(now, since));
                if opens {
                    node.opened(shard);
                }
                self.broke(at, broken, now);
                if opens {
                    self.opened(peer, Reason::CircuitOpen, now);
                }
            }
        }
    }

    /// No connection can be made.
    pub(crate) fn unreachable(&mut self, at: usize, reason: Reason, now: Instant) {
        let Route { peer, .. } = self.conns[at].route;
        let legs = self.conns[at].close();
        let node = &mut self.nodes.all[peer];
        node.forget_addresses();
        // Shard 0 is there whenever the node is; this one may be gone for good.
        if node.failed(0, now) {
            self.opened(peer, reason, now);
        }
        legs.into_iter().for_each(|leg| self.reroute(leg, reason, now));
    }

    /// A connection cannot go on.
    pub(crate) fn broke(&mut self, at: usize, broken: Broken, now: Instant) {
        let Route { peer, shard } = self.conns[at].route;
        let was_up = self.conns[at].is_up();
        let is_unfit = !was_up || broken == Broken::NotMapped;
        if is_unfit && self.conns[at].is_unix() {
            // The socket is there, but not for us; the node may still be.
            let until = (broken != Broken::NotMapped).then_some(now + SHUNNED);
            self.nodes.all[peer].shun_socket(until);
            self.reconnect(at, now);
            return;
        }
        let legs = self.conns[at].close();
        let reason = Reason::from(broken);
        match broken {
            Broken::Lost | Broken::HalfPut if was_up => {
                // A node that drains goes away with its connections. Nobody asks it any more, so
                // only probes find out that it is back.
                if self.nodes.is_draining(peer) {
                    self.nodes.all[peer].failed(shard, now);
                }
                // It may have been idle for too long, or restarted: another one tells.
                for mut leg in legs {
                    leg.attempts += 1;
                    if leg.attempts < ATTEMPTS_MAX {
                        self.dispatch(leg, now);
                    } else {
                        self.reroute(leg, reason, now);
                    }
                }
            }
            Broken::Refused(Code::WrongShard) => self.misplaced.extend(legs),
            Broken::Refused(code @ Code::Denied) => {
                self.nodes.all[peer].failed(shard, now);
                legs.into_iter().for_each(|leg| leg.fail(&KeyError::Refused(code)));
            }
            _ => {
                tracing::warn!(peer = %self.nodes.all[peer].peer.name, shard, %reason, "closed");
                if self.nodes.all[peer].failed(shard, now) {
                    self.opened(peer, reason, now);
                }
                legs.into_iter().for_each(|leg| self.reroute(leg, reason, now));
            }
        }
    }

    /// A circuit has opened: what is under way to that node goes elsewhere.
    fn opened(&mut self, slot: usize, reason: Reason, now: Instant) {
        tracing::warn!(peer = %self.nodes.all[slot].peer.name, %reason, "does not answer");
        for at in 0..self.conns.len() {
            if self.conns[at].route.peer != slot {
                continue;
            }
            let (mut legs, broken) = self.conns[at].session.take_all();
            if broken.is_some() {
                legs.append(&mut self.conns[at].close());
            }
            legs.into_iter().for_each(|leg| self.reroute(leg, reason, now));
        }
    }

    /// Sends a leg to the next candidates of its keys, or fails it if there are none.
    pub(crate) fn reroute(&mut self, mut leg: Box<Leg>, reason: Reason, now: Instant) {
        leg.attempts += 1;
        let has_others = self.nodes.view.members.len() > 1;
        if leg.is_about_shard() || !has_others || leg.attempts > ATTEMPTS_MAX {
            let peer = self.nodes.all[leg.route.peer].peer.name.clone();
            leg.fail(&KeyError::Unavailable(Unavailable { peer, reason }));
            return;
        }
        let routes = self.remote.routes();
        for leg in leg.split_again(&routes) {
            self.dispatch(leg, now);
        }
    }

    /// The node let us in. Another incarnation than before has lost everything that was asked of
    /// the one before.
    pub(crate) fn take_hello(&mut self, at: usize, reply: &HelloReply, now: Instant) {
        let Route { peer, shard } = self.conns[at].route;
        let is_unix = self.conns[at].is_unix();
        if is_unix && reply.node_id != self.nodes.all[peer].peer.id {
            // That path is another node's here: there is a host between us.
            self.nodes.all[peer].shun_socket(None);
            self.reconnect(at, now);
            return;
        }
        if reply.node_id != self.nodes.all[peer].peer.id {
            // The address is another node's by now: what it holds belongs elsewhere.
            self.broke(at, Broken::Desync("another node"), now);
            return;
        }
        if reply.shard != shard || !(VERSION_MIN..=VERSION_MAX).contains(&reply.version) {
            self.broke(at, Broken::Desync("another shard or version"), now);
            return;
        }
        if self.config.path == PathChoice::Rdma && !self.conns[at].session.pairing.is_granted() {
            self.unreachable(at, Reason::NoCard, now);
            return;
        }
        if !is_unix && matches!(self.config.path, PathChoice::Auto | PathChoice::Shm) {
            let node = &mut self.nodes.all[peer];
            node.learn_socket(socket_path(reply), reply.incarnation, now);
            if node.socket(shard).is_some() {
                self.reconnect(at, now);
                return;
            }
            if self.config.path == PathChoice::Shm {
                self.unreachable(at, Reason::NotShared, now);
                return;
            }
        }
        let before = self.nodes.all[peer].incarnation.replace(reply.incarnation);
        if before.is_none_or(|before| before == reply.incarnation) {
            return;
        }
        for other in 0..self.conns.len() {
            if other != at && self.conns[other].route.peer == peer && self.conns[other].is_up() {
                self.broke(other, Broken::Lost, now);
            }
        }
        // What is known of it may have been true of its predecessor only.
        self.conns[at].session.ask_view(now);
        self.mark_dirty(at);
    }

    /// Ends a connection and makes it anew, another way; what was asked is asked again.
    fn reconnect(&mut self, at: usize, now: Instant) {
        let legs = self.conns[at].close();
        self.connect(at, now);
        legs.into_iter().for_each(|leg| self.dispatch(leg, now));
    }

    /// A leg has to be asked again: elsewhere, or for what is missing.
    pub(crate) fn ask_again(&mut self, at: usize, mut leg: Box<Leg>, code: Code, now: Instant) {
        let is_progress = leg.again.len() < leg.indices.len();
        if code != Code::Ok || !is_progress {
            leg.attempts += 1;
        }
        if leg.attempts >= ATTEMPTS_MAX || (code != Code::Ok && leg.is_about_shard()) {
            leg.fail(&match code {
                Code::Ok => KeyError::Status(Status::MissReplyFull),
                Code::WrongShard => KeyError::Status(Status::WrongShard),
                code => KeyError::Refused(code),
            });
        } else if code == Code::Ok {
            let routes = self.remote.routes();
            for leg in leg.split_again(&routes) {
                self.dispatch(leg, now);
            }
        } else {
            self.misplaced.push(leg);
            self.ask_view(at, now);
        }
    }

    /// Asks somebody for the view: a node that answers, or the seeds.
    fn seek_view(&mut self, now: Instant) {
        let up = self
            .conns
            .iter()
            .position(|conn| conn.is_up() && !self.nodes.all[conn.route.peer].circuit.is_open());
        match up {
            Some(at) => self.ask_view(at, now),
            None => self.learn_from_seeds(now),
        }
    }

    fn learn_from_seeds(&mut self, now: Instant) {
        self.view_asked_at = Some(now);
        if self.is_learning {
            return;
        }
        let (config, remote) = (self.config.clone(), self.remote.clone());
        let learner = std::thread::Builder::new().name("larder-seed".into()).spawn(move || {
            remote.push([Job::View(learn_view(&config).ok().map(|learnt| learnt.view))]);
        });
        self.is_learning = learner.is_ok();
    }

    /// Sees whether a node answers again.
    fn probe(&mut self, slot: usize, now: Instant) {
        let node = &mut self.nodes.all[slot];
        node.circuit.probe_started(now);
        let route = Route { peer: slot, shard: node.suspect.min(node.shard_count - 1) };
        let at = self.conn_at(route);
        let conn = &mut self.conns[at];
        match conn.link {
            Link::Down => self.connect(at, now),
            Link::Resolving | Link::Connecting { .. } => {}
            Link::Up(_) => {
                let asked_at = *conn.probed_at.get_or_insert(now);
                if now.saturating_duration_since(asked_at) > PROBE_PATIENCE {
                    // The node may have lost the connection without our knowing.
                    let legs = conn.close();
                    legs.into_iter().for_each(|leg| self.reroute(leg, Reason::CircuitOpen, now));
                    self.connect(at, now);
                } else if asked_at == now && conn.session.is_up() {
                    conn.session.ask_view(now);
                    self.mark_dirty(at);
                }
            }
        }
        let is_all_open = self.nodes.all.iter().all(|n| !n.is_member || n.circuit.is_open());
        if is_all_open {
            self.learn_from_seeds(now);
        }
    }
}

impl Leg {
    /// Whether it asks one shard about itself, so that no other can answer.
    pub(crate) fn is_about_shard(&self) -> bool {
        let asks = [Opcode::Open, Opcode::Bump, Opcode::Stats, Opcode::Clients, Opcode::Accounts];
        asks.contains(&self.opcode) || self.is_tag()
    }
}

/// How long a socket is left alone that did not let us in. A guess: longer than a probe's pause.
pub(crate) const SHUNNED: Duration = Duration::from_secs(2);
/// How long a probe on a live connection may take before another connection is tried.
const PROBE_PATIENCE: Duration = Duration::from_secs(1);
