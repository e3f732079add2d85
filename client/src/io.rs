//! The I/O: sends legs to shards, hands replies back, keeps deadlines.
//!
//! All connections are one thread's at a time, the client's own or that of a caller who waits (see
//! `helm.rs`). It never blocks but in `poll`, whose timeout is the nearest deadline. What fails is
//! decided in `faults.rs`, this file is the way things go when all is well.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ahash::AHashMap;
use larder_protocol::message::HelloReply;
use larder_protocol::view::{Member, View};
use larder_transport::Luck;
use mio::event::Event as Readiness;
use mio::{Events, Poll, Token, Waker};

use crate::bootstrap::{Learnt, hello, name_hosts, socket_path};
use crate::call::Call;
use crate::circuit::Patience;
use crate::config::{Config, PathChoice};
use crate::error::{Error, KeyError, Reason};
use crate::faults::SHUNNED;
use crate::inbox::{Job, Remote};
use crate::leg::Leg;
use crate::peers::{Node, Nodes};
use crate::releases::{Bell, RELEASE_PAUSE};
use crate::router::Route;
use crate::session::{Event, Limits};
use crate::shared::Memories;
use crate::tcp::{Conn, Link};

/// Everything that is behind the callers.
pub(crate) struct Io {
    pub(crate) poll: Poll,
    readiness: Events,
    jobs: Vec<Job>,
    pub(crate) remote: Remote,
    pub(crate) config: Arc<Config>,
    pub(crate) nodes: Nodes,
    memories: Arc<Memories>,
    pub(crate) conns: Vec<Conn>,
    conn_of: AHashMap<Route, usize>,
    /// Connections with something to send.
    dirty: Vec<usize>,
    /// Connections that have more to read than one turn allows.
    readable: Vec<usize>,
    /// Legs that wait for a newer view.
    pub(crate) misplaced: Vec<Box<Leg>>,
    /// When the view was asked for, if there is no answer yet.
    pub(crate) view_asked_at: Option<Instant>,
    /// Whether a thread asks the seeds.
    pub(crate) is_learning: bool,
    pub(crate) chance: u64,
    /// Whether it pays a caller at the helm to look for its answer.
    pub(crate) luck: Luck,
}

/// Makes the I/O and starts the keeper, whose thread ends when the I/O does. Answers the callers'
/// end of it.
///
/// # Errors
/// [`Error::System`] if there is no thread or descriptor left.
pub(crate) fn start_io(
    config: Config,
    learnt: Learnt,
    memories: Arc<Memories>,
) -> Result<(Remote, JoinHandle<()>), Error> {
    let system = |what| move |error: std::io::Error| Error::System { what, kind: error.kind() };
    let poll = Poll::new().map_err(system("epoll"))?;
    let waker = Waker::new(poll.registry(), WAKER).map_err(system("eventfd"))?;
    let patience = Patience {
        suspect_after: config.suspect_after,
        pause_min: config.probe_pause_min,
        pause_max: config.probe_pause_max,
    };
    let chance = ahash::RandomState::new().hash_one(std::process::id());
    let mut nodes = Nodes::new(patience);
    let (routes, _) = nodes.install(learnt.view, chance);
    let seed = learnt.seed;
    if let Some(node) = nodes.all.iter_mut().find(|node| node.peer.id == seed.node_id) {
        node.learn_socket(socket_path(&seed), seed.incarnation, Instant::now());
    }
    let (remote, luck) = (Remote::new(waker, routes), Luck::new(config.spin));
    let io = Io {
        poll,
        readiness: Events::with_capacity(EVENTS_MAX),
        jobs: Vec::new(),
        remote: remote.clone(),
        config: Arc::new(config),
        nodes,
        memories,
        conns: Vec::new(),
        conn_of: AHashMap::new(),
        dirty: Vec::new(),
        readable: Vec::new(),
        misplaced: Vec::new(),
        view_asked_at: None,
        is_learning: false,
        chance,
        luck,
    };
    remote.helm().man(io);
    let (builder, keeper) = (std::thread::Builder::new().name("larder-io".into()), remote.clone());
    match builder.spawn(move || keeper.helm().keep(&keeper)) {
        Ok(thread) => Ok((remote, thread)),
        Err(error) => {
            remote.helm().leave();
            Err(system("thread")(error))
        }
    }
}

impl Io {
    /// Waits for something to do, at most until the next deadline, and does it.
    ///
    /// # Errors
    /// [`Ended`] if it was asked to end, or cannot go on.
    pub(crate) fn turn(&mut self) -> Result<(), Ended> {
        self.turn_and(self.readable.is_empty())
    }

    /// As [`Io::turn`], without waiting.
    ///
    /// # Errors
    /// As [`Io::turn`].
    pub(crate) fn turn_at_once(&mut self) -> Result<(), Ended> {
        self.turn_and(false)
    }

    fn turn_and(&mut self, may_sleep: bool) -> Result<(), Ended> {
        // Taken out, since what is ready changes the rest; an empty list takes no memory.
        let mut readiness = std::mem::replace(&mut self.readiness, Events::with_capacity(0));
        let may_sleep = may_sleep && self.remote.may_sleep();
        let timeout = if may_sleep { self.pause() } else { Some(Duration::ZERO) };
        if let Err(error) = self.poll.poll(&mut readiness, timeout)
            && error.kind() != std::io::ErrorKind::Interrupted
        {
            tracing::error!(%error, "poll failed, the client ends");
            return Err(Ended);
        }
        self.remote.awake();
        let now = Instant::now();
        self.take_jobs(now)?;
        for at in std::mem::take(&mut self.readable) {
            self.receive(at, now);
        }
        for ready in &readiness {
            if ready.token() != WAKER {
                self.take_readiness(ready, now);
            }
        }
        self.readiness = readiness;
        self.tick(now);
        self.mark_releases();
        self.flush_all(now);
        Ok(())
    }

    /// As [`Io::turn_at_once`], but only takes jobs and reads where replies are to come: the kernel
    /// is not asked for more, and deadlines are not kept. Whether anything had come.
    ///
    /// # Errors
    /// [`Ended`] if it was asked to end.
    pub(crate) fn glance(&mut self, now: Instant) -> Result<bool, Ended> {
        if self.remote.has_jobs() {
            self.take_jobs(now)?;
        }
        let mut is_progress = false;
        for at in 0..self.conns.len() {
            let reads = self.conns[at].session.reads;
            if self.conns[at].session.awaits() {
                self.receive(at, now);
            }
            is_progress |= self.conns[at].session.reads != reads;
        }
        self.mark_releases();
        self.flush_all(now);
        Ok(is_progress)
    }

    /// Leases that have ended want to be told, also where nothing else is.
    fn mark_releases(&mut self) {
        for at in 0..self.conns.len() {
            if self.conns[at].session.wants_flush() {
                self.mark_dirty(at);
            }
        }
    }

    /// How long to sleep if nothing comes: leases end without a word.
    fn pause(&self) -> Option<Duration> {
        // In this order: a lease that ends in between is seen by one or the other.
        let has_leases = self.conns.iter().any(|conn| conn.session.has_leases());
        if self.conns.iter().any(|conn| conn.session.wants_flush()) {
            return Some(Duration::ZERO);
        }
        let releases = has_leases.then_some(RELEASE_PAUSE);
        [self.timeout(Instant::now()), releases].into_iter().flatten().min()
    }

    fn take_jobs(&mut self, now: Instant) -> Result<(), Ended> {
        let mut jobs = std::mem::take(&mut self.jobs);
        self.remote.take(&mut jobs);
        let taken = jobs.drain(..).try_for_each(|job| self.take_job(job, now));
        // The list keeps its memory.
        self.jobs = jobs;
        taken
    }

    /// Whether something is to be sent, and a socket is full.
    pub(crate) fn awaits_room(&self) -> bool {
        self.conns.iter().any(Conn::awaits_room)
    }

    /// Whether anything is under way, so that somebody has to look after it. A deadline alone is
    /// nothing: it is remembered for a while after its call was answered.
    pub(crate) fn is_busy(&self) -> bool {
        let is_busy = |conn: &Conn| {
            let is_coming = matches!(conn.link, Link::Resolving | Link::Connecting { .. });
            is_coming || conn.session.has_work()
        };
        let probes = |node: &Node| node.is_member && node.circuit.probe_at().is_some();
        self.conns.iter().any(is_busy)
            || self.nodes.all.iter().any(probes)
            || !self.readable.is_empty()
            || !self.misplaced.is_empty()
    }

    fn take_job(&mut self, job: Job, now: Instant) -> Result<(), Ended> {
        match job {
            Job::Leg(leg) => self.dispatch(leg, now),
            Job::Cancel(call) => self.cancel(&call, now),
            Job::Resolved { slot, addresses } => self.resolved(slot, &addresses, now),
            Job::View(view) => {
                self.is_learning = false;
                if let Some(view) = view {
                    self.take_view(view, None, now);
                }
            }
            Job::Close => return Err(Ended),
        }
        Ok(())
    }

    /// Ends the legs of a call.
    fn cancel(&mut self, call: &Arc<Call>, now: Instant) {
        let cancelled = self.misplaced.extract_if(.., |leg| Arc::ptr_eq(&leg.call, call));
        cancelled.for_each(|leg| leg.fail(&KeyError::Cancelled));
        for at in 0..self.conns.len() {
            if let Err(broken) = self.conns[at].session.cancel(call) {
                self.broke(at, broken, now);
            }
        }
    }

    /// Connects what waited for the name of node `slot` to be looked up.
    fn resolved(&mut self, slot: usize, addresses: &[SocketAddr], now: Instant) {
        self.nodes.all[slot].resolved(addresses);
        for at in 0..self.conns.len() {
            let conn = &mut self.conns[at];
            if conn.route.peer != slot || !matches!(conn.link, Link::Resolving) {
                continue;
            }
            conn.link = Link::Down;
            if addresses.is_empty() {
                let kind = std::io::ErrorKind::AddrNotAvailable;
                self.unreachable(at, Reason::Connect(kind), now);
            } else {
                self.connect(at, now);
            }
        }
    }

    /// Gives a leg to the connection of its shard, which is made if there is none.
    pub(crate) fn dispatch(&mut self, leg: Box<Leg>, now: Instant) {
        let node = &self.nodes.all[leg.route.peer];
        if node.circuit.is_open() || !node.is_member {
            self.reroute(leg, Reason::CircuitOpen, now);
            return;
        }
        let at = self.conn_at(leg.route);
        self.conns[at].session.submit(leg, now);
        self.mark_dirty(at);
        if matches!(self.conns[at].link, Link::Down) {
            self.connect(at, now);
        }
    }

    pub(crate) fn conn_at(&mut self, route: Route) -> usize {
        *self.conn_of.entry(route).or_insert_with(|| {
            let limits = Limits::of(&self.config);
            let memories = Arc::clone(&self.memories);
            self.conns.push(Conn::new(route, limits, self.nodes.view.epoch, memories));
            self.conns.len() - 1
        })
    }

    /// Starts to connect, or to find out where to.
    pub(crate) fn connect(&mut self, at: usize, now: Instant) {
        let until = now + self.config.connect_timeout;
        let conn = &mut self.conns[at];
        let node = &mut self.nodes.all[conn.route.peer];
        if matches!(self.config.path, PathChoice::Auto | PathChoice::Shm)
            && let Some(path) = node.socket(conn.route.shard)
        {
            match conn.connect_unix(&path, until, self.poll.registry(), Token(at)) {
                Ok(()) => return,
                Err(kind) => {
                    tracing::info!(peer = %node.peer.name, ?path, %kind, "no socket to share over");
                    node.shun_socket(Some(now + SHUNNED));
                }
            }
        }
        let Some(addresses) = node.addresses(conn.route.shard) else {
            conn.link = Link::Resolving;
            node.resolve(&self.remote);
            return;
        };
        let registry = self.poll.registry();
        if let Err(kind) = conn.connect(addresses, until, registry, Token(at)) {
            self.unreachable(at, Reason::Connect(kind), now);
        }
    }

    fn take_readiness(&mut self, ready: &Readiness, now: Instant) {
        let at = ready.token().0;
        let conn = &mut self.conns[at];
        if let Link::Connecting { until, .. } = conn.link {
            let remote = &self.remote;
            let bell = || -> Bell {
                let remote = remote.clone();
                Box::new(move || remote.nudge())
            };
            match conn.connected(bell) {
                Ok(false) => return,
                Ok(true) => {
                    let shard_count = self.nodes.all[conn.route.peer].shard_count;
                    let hello = hello(&self.config, conn.route.shard, shard_count);
                    conn.session.say_hello(&hello, now);
                }
                Err((kind, others)) => {
                    let registry = self.poll.registry();
                    if conn.connect(others, until, registry, Token(at)).is_err() {
                        self.unreachable(at, Reason::Connect(kind), now);
                    }
                    return;
                }
            }
        }
        if ready.is_writable() {
            conn.set_writable();
        }
        self.mark_dirty(at);
        if ready.is_readable() || ready.is_read_closed() || ready.is_error() {
            self.receive(at, now);
        }
    }

    fn receive(&mut self, at: usize, now: Instant) {
        let mut events = Vec::new();
        let received = self.conns[at].receive(now, &mut events);
        let conn = &mut self.conns[at];
        if conn.session.replies != conn.replies_seen {
            conn.replies_seen = conn.session.replies;
            conn.probed_at = None;
            let Route { peer, shard } = conn.route;
            if self.nodes.all[peer].answered(shard) {
                tracing::info!(peer = %self.nodes.all[peer].peer.name, "answers again");
            }
        }
        let mut is_reshaped = false;
        // A node of another shape than we thought refuses us, but is not broken.
        for event in events {
            match event {
                Event::Reshaped(reply) => is_reshaped |= self.take_shape(at, &reply, now),
                event => self.take_event(at, event, now),
            }
        }
        match received {
            Ok(true) if !self.readable.contains(&at) => self.readable.push(at),
            Ok(true) => {}
            // Else whoever leaves the helm would call the keeper for nothing.
            Ok(false) => self.readable.retain(|&other| other != at),
            // Its connections are closed already, and perhaps being made anew.
            Err(_) if is_reshaped => {}
            Err(broken) => self.broke(at, broken, now),
        }
        // Answers made room for what waits.
        self.mark_dirty(at);
    }

    /// A node was started again with another number of shards: places its keys by that, and sends
    /// them to where they are now. Whether that was so.
    fn take_shape(&mut self, at: usize, reply: &HelloReply, now: Instant) -> bool {
        let id = self.nodes.all[self.conns[at].route.peer].peer.id;
        let Some(known) = self.nodes.view.member(id) else { return false };
        let shard_count = reply.shard_count;
        let told = Member { shard_count, incarnation: reply.incarnation, ..known.clone() };
        if reply.node_id != id || shard_count == known.shard_count {
            return false;
        }
        let Ok(view) = View::new(self.nodes.view.epoch, vec![told]) else { return false };
        self.take_view(view, Some(id), now);
        true
    }

    fn take_event(&mut self, at: usize, event: Event, now: Instant) {
        match event {
            Event::Hello(reply) => self.take_hello(at, &reply, now),
            Event::View(mut view) => {
                self.view_asked_at = None;
                let node = &self.nodes.all[self.conns[at].route.peer];
                name_hosts(&mut view, &node.host);
                let id = node.peer.id;
                self.take_view(view, Some(id), now);
            }
            // Taken by `receive`, which knows what else came of that read.
            Event::Reshaped(_) => {}
            Event::Epoch => self.ask_view(at, now),
            Event::Again(leg, code) => self.ask_again(at, leg, code, now),
        }
    }

    /// Asks a node for its view, unless that is being done already.
    pub(crate) fn ask_view(&mut self, at: usize, now: Instant) {
        let asked_lately = |asked_at| now.saturating_duration_since(asked_at) < VIEW_PAUSE;
        if self.view_asked_at.is_some_and(asked_lately) {
            return;
        }
        self.view_asked_at = Some(now);
        self.conns[at].session.ask_view(now);
        self.mark_dirty(at);
    }

    /// Uses a view that node `from` sent, or a seed, if it is news; sends what waited for it.
    fn take_view(&mut self, view: View, from: Option<u64>, now: Instant) {
        if let Some(view) = self.nodes.news_of(view, from) {
            tracing::info!(epoch = view.epoch, members = view.members.len(), "new view");
            let (routes, changed) = self.nodes.install(view, self.chance);
            self.remote.set_routes(routes);
            for conn in &mut self.conns {
                conn.session.view_epoch = conn.session.view_epoch.max(self.nodes.view.epoch);
            }
            for at in 0..self.conns.len() {
                if changed.contains(&self.conns[at].route.peer) {
                    self.misplaced.append(&mut self.conns[at].close());
                }
            }
        }
        let routes = self.remote.routes();
        for leg in std::mem::take(&mut self.misplaced) {
            for leg in leg.split_again(&routes) {
                self.dispatch(leg, now);
            }
        }
    }

    pub(crate) fn mark_dirty(&mut self, at: usize) {
        if !std::mem::replace(&mut self.conns[at].is_dirty, true) {
            self.dirty.push(at);
        }
    }

    /// Writes what is to be written, once for all that came together.
    pub(crate) fn flush_all(&mut self, now: Instant) {
        while let Some(at) = self.dirty.pop() {
            self.conns[at].is_dirty = false;
            let mut events = Vec::new();
            let conn = &mut self.conns[at];
            let flushed = conn.flush(now, &mut events);
            let flushed = flushed.and_then(|()| conn.heed_room(self.poll.registry(), Token(at)));
            events.into_iter().for_each(|event| self.take_event(at, event, now));
            if let Err(broken) = flushed {
                self.broke(at, broken, now);
            }
        }
    }
}

impl Drop for Io {
    /// However the thread ends, every call it was given is answered.
    fn drop(&mut self) {
        self.remote.shut();
        let open = self.conns.iter_mut().flat_map(Conn::close).chain(self.misplaced.drain(..));
        open.for_each(|leg| leg.fail(&KeyError::Closed));
    }
}

/// The I/O was asked to end, or cannot go on.
#[derive(Debug)]
pub(crate) struct Ended;

const WAKER: Token = Token(usize::MAX);
/// Readiness taken at once: as many as there are connections, usually.
const EVENTS_MAX: usize = 256;
/// The view is not asked for more often than this.
pub(crate) const VIEW_PAUSE: Duration = Duration::from_millis(100);
