//! The public face: one [`Client`] for a process, from any thread.
//!
//! Every operation comes in two forms. The plain one blocks until the answer is there, and may
//! therefore borrow the caller's memory. The `start_` one answers a [`Pending`] at once, which is a
//! future, can be waited for, and can be handed to a [`CompletionQueue`](crate::CompletionQueue).
//! What a reader would get wrong: `Ok` says that the call was made, not that a key was found; look
//! at the keys.

use std::borrow::Borrow;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use larder_protocol::Key;
use larder_protocol::message::Sharing;
use larder_protocol::view::View;
use larder_transport::pieces::PIECES_MAX;
use larder_transport::rdma::AnyFabric;
use larder_transport::{Landing, lend, lend_sources, process_id};

use crate::bootstrap::learn_view;
use crate::call::{Call, Outcome, Pending};
use crate::card::Card;
use crate::config::{Config, GetOptions, MatchOptions, PutOptions, within};
use crate::error::{Error, KeyError, KeyResult};
use crate::inbox::Remote;
use crate::io::start_io;
use crate::leg::Leg;
use crate::matched::MatchResult;
use crate::namespace::Namespace;
use crate::object::{Landed, Object, Payload, Pieces, Place, PutObject};
use crate::request::{GetHead, Plan};
use crate::router::Routes;
use crate::sealing::Seals;
use crate::shared::{Memories, PutSource};
use crate::wanting::{Kept, Said};

/// A connection to a cluster of nodes. Cheap to clone; clones share one I/O thread.
///
/// It ends with its last clone, or for all of them by [`Client::close`]; after that every call is
/// [`Error::Closed`]. What has a clone of its own, such as [`Jobs`](crate::Jobs), keeps it going.
///
/// ```no_run
/// use larder_client::{Client, Config, GetOptions, Key, NamespaceSpec, PutObject, PutOptions};
///
/// let client = Client::connect(Config::seed("127.0.0.1:7400"))?;
/// let namespace = client.namespace(NamespaceSpec::new("acme", "llama-3-8b"))?;
/// let key = Key::new(b"chain-0").expect("1 to 64 bytes");
/// let stored = client.put(
///     &namespace,
///     &[PutObject::new(key, b"some bytes")],
///     &PutOptions::default(),
/// )?;
/// assert_eq!(stored, [Ok(())]);
/// for object in client.get(&namespace, &[key], &GetOptions::default())? {
///     match object {
///         Ok(object) => println!("{} bytes", object.bytes.len()),
///         Err(why) => println!("recompute it: {why}"),
///     }
/// }
/// # Ok::<(), larder_client::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Client {
    pub(crate) shared: Arc<Shared>,
}

/// What a put sends: the objects that are kept, sealed, with their bytes.
pub(crate) struct Sealed<'a> {
    pub(crate) seals: &'a Seals,
    pub(crate) sources: Vec<Payload>,
    pub(crate) kept: &'a Kept,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) remote: Remote,
    pub(crate) memories: Arc<Memories>,
    deadline: Duration,
    pub(crate) thread: Mutex<Option<JoinHandle<()>>>,
    pub(crate) is_closed: AtomicBool,
    pub(crate) pid: u32,
}

impl Client {
    /// Learns the view from the first seed that answers and starts the I/O thread.
    ///
    /// Connections to shards are made when they are first needed.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if no seed answers within the connect timeout of each,
    /// [`Error::Denied`] if the credential is not good, [`Error::InvalidArgument`] or
    /// [`Error::TooLarge`] for a configuration that makes no sense, [`Error::System`] if there is
    /// no thread or descriptor left, [`Error::Card`] if not the network card that was asked for.
    pub fn connect(config: Config) -> Result<Self, Error> {
        config.check()?;
        let fabric = Card::open(&config)?;
        Self::connect_over(config, fabric)
    }

    /// As [`Client::connect`], with a network card that is open already, or one that is simulated.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub fn connect_over(config: Config, fabric: Option<AnyFabric>) -> Result<Self, Error> {
        config.check()?;
        let learnt = learn_view(&config)?;
        let deadline = config.deadline;
        let memories = Arc::new(Memories::with_card(fabric, config.path));
        let (remote, thread) = start_io(config, learnt, Arc::clone(&memories))?;
        let shared = Shared::new(remote, memories, Some(thread), deadline, process_id());
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The membership as the client knows it now.
    pub fn view(&self) -> Arc<View> {
        Arc::clone(self.shared.remote.routes().view())
    }

    /// Reads objects into new memory, one answer for each key.
    ///
    /// The same key twice is answered twice.
    ///
    /// # Errors
    /// Those of [`Client::start_get`].
    pub fn get(
        &self,
        namespace: &Namespace,
        keys: &[Key],
        options: &GetOptions,
    ) -> Result<Vec<KeyResult<Object>>, Error> {
        self.prepare_get(namespace, keys, options)?.wait()
    }

    /// As [`Client::get`], without waiting.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for an impossible range of parts; [`Error::Forked`].
    pub fn start_get(
        &self,
        namespace: &Namespace,
        keys: &[Key],
        options: &GetOptions,
    ) -> Result<Pending<Vec<KeyResult<Object>>>, Error> {
        self.prepare_get(namespace, keys, options).map(Pending::launch)
    }

    fn prepare_get(
        &self,
        namespace: &Namespace,
        keys: &[Key],
        options: &GetOptions,
    ) -> Result<Pending<Vec<KeyResult<Object>>>, Error> {
        let head = GetHead::new(options, Sharing::LeaseOrInline)?;
        let unanswered = (0..keys.len()).map(|_| Err(KeyError::DeadlineExceeded)).collect();
        let call = self.begin(Outcome::Get(unanswered), options.deadline, None)?;
        let legs = self.legs(&call, namespace, |plan| plan.get(head, keys, Vec::new()));
        Ok(Pending::new(call, legs, |_, outcome| match outcome {
            Outcome::Get(keys) => Ok(keys),
            other => unreachable!("gets have gets' outcomes: {other:?}"),
        }))
    }

    /// Reads objects straight into the caller's memory, each from the start of its place.
    ///
    /// A place whose key was not found, or failed its check, has unspecified contents. No place is
    /// written any more when this returns.
    ///
    /// # Errors
    /// Those of [`Client::start_get_into`].
    pub fn get_into(
        &self,
        namespace: &Namespace,
        places: &mut [(Key, &mut [u8])],
        options: &GetOptions,
    ) -> Result<Vec<KeyResult<Landed>>, Error> {
        let keys: Vec<Key> = places.iter().map(|(key, _)| *key).collect();
        let pieces = places.iter_mut().map(|(_, piece)| [&mut **piece]);
        lend(pieces, |landings| self.land(namespace, &keys, landings, options)?.wait())
    }

    /// As [`Client::get_into`], into places of several pieces each, filled in order.
    ///
    /// # Errors
    /// Those of [`Client::start_get_into`], and [`Error::TooLarge`] for more than 512 pieces of one
    /// place.
    pub fn get_into_pieces(
        &self,
        namespace: &Namespace,
        places: &mut [Place<'_>],
        options: &GetOptions,
    ) -> Result<Vec<KeyResult<Landed>>, Error> {
        places.iter().try_for_each(|place| within(place.pieces.len(), PIECES_MAX, "pieces"))?;
        let keys: Vec<Key> = places.iter().map(|place| place.key).collect();
        let pieces =
            places.iter_mut().map(|place| place.pieces.iter_mut().map(|piece| &mut **piece));
        lend(pieces, |landings| self.land(namespace, &keys, landings, options)?.wait())
    }

    /// Stores objects, one answer for each: `Ok` means that a reader finds it now.
    ///
    /// Checksums are made on the calling thread, and the bytes are sent from where they lie.
    ///
    /// # Errors
    /// [`Error::TooLarge`] if an object, its tags or its metadata are above their limits, and then
    /// nothing is sent; [`Error::Forked`].
    pub fn put(
        &self,
        namespace: &Namespace,
        objects: &[PutObject<Pieces<'_>>],
        options: &PutOptions,
    ) -> Result<Vec<KeyResult<()>>, Error> {
        // First: in a forked child the lock of the memories may be held for ever.
        self.check_process()?;
        let until = self.until(options.deadline);
        let mut kept = Kept::all(objects, Pieces::len, options);
        if kept.is_in_doubt(namespace) {
            let offered = self.offered(objects, |o| o.bytes.as_slices().iter().copied());
            self.ask_wants(namespace, &offered, until)?;
            kept = kept.without_refused(namespace, &offered);
        }
        let objects = kept.of(objects);
        let shown = objects.iter().map(|object| object.bytes.as_slices().iter().copied());
        let mut seals = self.seals_of(shown);
        let mut total = 0;
        for object in &objects {
            if Instant::now() >= until {
                return self.put_late(kept.total)?.wait();
            }
            let pieces = object.bytes.as_slices();
            within(pieces.len(), PIECES_MAX, "pieces")?;
            seals.add(namespace, object, pieces.iter().copied())?;
            total += pieces.iter().map(|piece| piece.len()).sum::<usize>();
        }
        let options = options.until(until);
        if total <= COPIED_BYTES_MAX {
            let copies = objects
                .iter()
                .map(|object| Payload::Bytes(object.bytes.as_slices().concat().into()));
            let batch = Sealed { seals: &seals, sources: copies.collect(), kept: &kept };
            return self.put_sealed(namespace, &objects, batch, &options)?.wait();
        }
        let pieces = objects.iter().map(|object| object.bytes.as_slices().iter().copied());
        lend_sources(pieces, |sources| {
            let sources = sources.into_iter().map(Payload::Source).collect();
            let batch = Sealed { seals: &seals, sources, kept: &kept };
            self.put_sealed(namespace, &objects, batch, &options)?.wait()
        })
    }

    /// Asks which keys of a chain are there, in order from its head.
    ///
    /// # Errors
    /// [`Error::Forked`]. Keys that could not be asked about are told apart in the answer.
    pub fn match_chain(
        &self,
        namespace: &Namespace,
        keys: &[Key],
        options: &MatchOptions,
    ) -> Result<MatchResult, Error> {
        self.prepare_match(namespace, keys, options)?.wait()
    }

    /// As [`Client::match_chain`], without waiting.
    ///
    /// # Errors
    /// [`Error::Forked`].
    pub fn start_match(
        &self,
        namespace: &Namespace,
        keys: &[Key],
        options: &MatchOptions,
    ) -> Result<Pending<MatchResult>, Error> {
        self.prepare_match(namespace, keys, options).map(Pending::launch)
    }

    fn prepare_match(
        &self,
        namespace: &Namespace,
        keys: &[Key],
        options: &MatchOptions,
    ) -> Result<Pending<MatchResult>, Error> {
        let outcome = Outcome::Match(MatchResult::unanswered(keys.len()));
        let call = self.begin(outcome, options.deadline, None)?;
        let legs = self.legs(&call, namespace, |plan| {
            let mut legs = plan.matching(options.touch, options.with_meta, keys);
            legs.iter_mut().for_each(|leg| leg.said = Said::of_match(options, keys.len()));
            legs
        });
        Ok(Pending::new(call, legs, |_, outcome| match outcome {
            Outcome::Match(result) => Ok(result),
            other => unreachable!("matches have matches' outcomes: {other:?}"),
        }))
    }

    /// Removes objects, one answer for each key: `Ok` if it was there and is gone, a miss if it was
    /// not there.
    ///
    /// # Errors
    /// [`Error::Forked`].
    pub fn remove(
        &self,
        namespace: &Namespace,
        keys: &[Key],
        deadline: Option<Duration>,
    ) -> Result<Vec<KeyResult<()>>, Error> {
        self.prepare_remove(namespace, keys, deadline)?.wait()
    }

    /// As [`Client::remove`], without waiting.
    ///
    /// # Errors
    /// [`Error::Forked`].
    pub fn start_remove(
        &self,
        namespace: &Namespace,
        keys: &[Key],
        deadline: Option<Duration>,
    ) -> Result<Pending<Vec<KeyResult<()>>>, Error> {
        self.prepare_remove(namespace, keys, deadline).map(Pending::launch)
    }

    fn prepare_remove(
        &self,
        namespace: &Namespace,
        keys: &[Key],
        deadline: Option<Duration>,
    ) -> Result<Pending<Vec<KeyResult<()>>>, Error> {
        let missing = Err(KeyError::Status(larder_protocol::Status::Miss));
        let call = self.begin(Outcome::Remove(vec![missing; keys.len()]), deadline, None)?;
        let legs = self.legs(&call, namespace, |plan| plan.remove(keys));
        Ok(Pending::new(call, legs, |_, outcome| match outcome {
            Outcome::Remove(keys) => Ok(keys),
            other => unreachable!("removes have removes' outcomes: {other:?}"),
        }))
    }

    /// Has objects evicted last for so long from now (rounded up to milliseconds, at most seven
    /// weeks), or as all others again if that is nothing.
    ///
    /// One answer for each key: `Ok` if it is there, a miss if it is not,
    /// [`Status::NoRoom`](larder_protocol::Status::NoRoom) if the tenant has as much pinned as a
    /// node allows (its `--pinned-bytes-max`). A pin is of an object: what is put in its place
    /// later is not pinned.
    ///
    /// # Errors
    /// [`Error::Forked`].
    pub fn pin(
        &self,
        namespace: &Namespace,
        keys: &[Key],
        keep_for: Duration,
        deadline: Option<Duration>,
    ) -> Result<Vec<KeyResult<()>>, Error> {
        self.prepare_pin(namespace, keys, keep_for, deadline)?.wait()
    }

    /// As [`Client::pin`], without waiting.
    ///
    /// # Errors
    /// [`Error::Forked`].
    pub fn start_pin(
        &self,
        namespace: &Namespace,
        keys: &[Key],
        keep_for: Duration,
        deadline: Option<Duration>,
    ) -> Result<Pending<Vec<KeyResult<()>>>, Error> {
        self.prepare_pin(namespace, keys, keep_for, deadline).map(Pending::launch)
    }

    fn prepare_pin(
        &self,
        namespace: &Namespace,
        keys: &[Key],
        keep_for: Duration,
        deadline: Option<Duration>,
    ) -> Result<Pending<Vec<KeyResult<()>>>, Error> {
        let keep_ms = keep_for.as_micros().div_ceil(1000);
        let keep_ms = u32::try_from(keep_ms).unwrap_or(u32::MAX);
        let missing = Err(KeyError::Status(larder_protocol::Status::Miss));
        // Every holder is asked, and merged, as for a remove.
        let call = self.begin(Outcome::Remove(vec![missing; keys.len()]), deadline, None)?;
        let legs = self.legs(&call, namespace, |plan| plan.pin(keep_ms, keys));
        Ok(Pending::new(call, legs, |_, outcome| match outcome {
            Outcome::Remove(keys) => Ok(keys),
            other => unreachable!("pins have removes' outcomes: {other:?}"),
        }))
    }

    pub(crate) fn land(
        &self,
        namespace: &Namespace,
        keys: &[Key],
        landings: Vec<Landing>,
        options: &GetOptions,
    ) -> Result<Pending<Vec<KeyResult<Landed>>>, Error> {
        let head = GetHead::new(options, Sharing::LeaseOrInline)?;
        let unanswered = (0..keys.len()).map(|_| Err(KeyError::DeadlineExceeded)).collect();
        let call = self.begin(Outcome::GetInto(unanswered), options.deadline, None)?;
        call.hold_memory();
        let legs = self.legs(&call, namespace, |plan| plan.get(head, keys, landings));
        Ok(Pending::new(call, legs, |_, outcome| match outcome {
            Outcome::GetInto(keys) => Ok(keys),
            other => unreachable!("gets have gets' outcomes: {other:?}"),
        }))
    }

    /// A put whose deadline passed while its checksums were made: nothing is sent.
    pub(crate) fn put_late(&self, count: usize) -> Result<Pending<Vec<KeyResult<()>>>, Error> {
        let late = (0..count).map(|_| Err(KeyError::DeadlineExceeded)).collect();
        let call = self.begin(Outcome::Put(late), Some(Duration::ZERO), None)?;
        // It has no legs.
        call.leg_ended();
        Ok(Pending::new(call, Vec::new(), put_outcome))
    }

    pub(crate) fn put_sealed<B>(
        &self,
        namespace: &Namespace,
        objects: &[impl Borrow<PutObject<B>>],
        batch: Sealed<'_>,
        options: &PutOptions,
    ) -> Result<Pending<Vec<KeyResult<()>>>, Error> {
        let Sealed { seals, sources, kept } = batch;
        let call = self.begin(Outcome::Put(kept.unanswered()), options.deadline, None)?;
        if sources.iter().any(|source| matches!(source, Payload::Source(_))) {
            call.hold_memory();
        }
        let sources = sources.into_iter();
        let sources = sources.map(|source| PutSource::new(source, &self.shared.memories)).collect();
        let items = seals.items(objects.iter().map(Borrow::borrow));
        let legs = self.legs(&call, namespace, |plan| {
            let plan = Plan { base: kept.places.as_deref(), ..*plan };
            let mut legs = plan.put(options.if_absent, &items, sources);
            for leg in &mut legs {
                (leg.sums, leg.said) = (seals.sums(), kept.said);
            }
            legs
        });
        Ok(Pending::new(call, legs, put_outcome))
    }

    pub(crate) fn begin(
        &self,
        outcome: Outcome,
        deadline: Option<Duration>,
        namespace: Option<Namespace>,
    ) -> Result<Arc<Call>, Error> {
        self.check_open()?;
        let until = self.until(deadline);
        Ok(Call::new(outcome, until, namespace, self.shared.remote.clone()))
    }

    /// When a call that begins now is over at the latest, if it has so long; `None` for as long as
    /// this client's calls have.
    pub fn until(&self, deadline: Option<Duration>) -> Instant {
        Instant::now() + deadline.unwrap_or(self.shared.deadline).min(DEADLINE_MAX)
    }

    pub(crate) fn legs(
        &self,
        call: &Arc<Call>,
        namespace: &Namespace,
        legs: impl FnOnce(&Plan<'_>) -> Vec<Box<Leg>>,
    ) -> Vec<Box<Leg>> {
        let routes: Arc<Routes> = self.shared.remote.routes();
        let plan = Plan { call, routes: &routes, namespace, base: None, attempts: 0 };
        let legs = legs(&plan);
        // The call counted this thread until it had its legs.
        call.leg_ended();
        legs
    }
}

impl Shared {
    pub(crate) fn new(
        remote: Remote,
        memories: Arc<Memories>,
        thread: Option<JoinHandle<()>>,
        deadline: Duration,
        pid: u32,
    ) -> Self {
        let is_closed = AtomicBool::new(false);
        Self { remote, memories, deadline, thread: Mutex::new(thread), is_closed, pid }
    }
}

fn put_outcome(_: &Call, outcome: Outcome) -> Result<Vec<KeyResult<()>>, Error> {
    match outcome {
        Outcome::Put(keys) => Ok(keys),
        other => unreachable!("puts have puts' outcomes: {other:?}"),
    }
}

/// Puts of no more than this in all are copied: cheaper than lending the caller's memory. A guess.
const COPIED_BYTES_MAX: usize = 16 << 10;
/// Longest deadline of a call: as long as the protocol can say.
const DEADLINE_MAX: Duration = Duration::from_secs(3600);
