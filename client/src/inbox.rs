//! How callers reach whoever runs the I/O: a list of jobs and a bell that rings only if it sleeps.
//!
//! The order matters: a caller appends its job before it looks whether the I/O sleeps, and the I/O
//! says that it will sleep before it looks at the list once more. So no job is slept over.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, RwLock};

use larder_protocol::view::View;

use crate::call::Call;
use crate::error::KeyError;
use crate::helm::Helm;
use crate::leg::Leg;
use crate::router::Routes;
use crate::sync::{AtomicBool, Mutex, MutexGuard, Waker};

/// The callers' end.
#[derive(Debug, Clone)]
pub(crate) struct Remote(Arc<Inbox>);

/// What whoever is at the helm is asked to do.
#[derive(Debug)]
pub(crate) enum Job {
    /// Send this.
    Leg(Box<Leg>),
    /// End the legs of this call.
    Cancel(Arc<Call>),
    /// A peer's name was looked up.
    Resolved { slot: usize, addresses: Vec<SocketAddr> },
    /// A view was learnt from a seed.
    View(Option<View>),
    /// End everything.
    Close,
}

#[derive(Debug)]
pub(crate) struct Inbox {
    jobs: Mutex<Jobs>,
    is_sleeping: AtomicBool,
    waker: Waker,
    routes: RwLock<Arc<Routes>>,
    helm: Helm,
}

#[derive(Debug, Default)]
struct Jobs {
    list: Vec<Job>,
    is_closed: bool,
}

impl Remote {
    pub(crate) fn new(waker: Waker, routes: Routes) -> Self {
        Self(Arc::new(Inbox {
            jobs: Mutex::default(),
            is_sleeping: AtomicBool::new(false),
            waker,
            routes: RwLock::new(Arc::new(routes)),
            helm: Helm::new(),
        }))
    }

    /// Where keys go, as known now.
    pub(crate) fn routes(&self) -> Arc<Routes> {
        Arc::clone(&self.0.routes.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn set_routes(&self, routes: Routes) {
        *self.0.routes.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(routes);
    }

    /// Has legs sent.
    pub(crate) fn submit(&self, mut legs: Vec<Box<Leg>>) {
        // The caller's thread is the one to make checksums on.
        legs.iter_mut().for_each(|leg| leg.state_sums());
        if !legs.is_empty() {
            self.push(legs.into_iter().map(Job::Leg));
        }
    }

    pub(crate) fn cancel(&self, call: &Arc<Call>) {
        self.push([Job::Cancel(Arc::clone(call))]);
    }

    pub(crate) fn close(&self) {
        self.push([Job::Close]);
    }

    pub(crate) fn push(&self, new: impl IntoIterator<Item = Job>) {
        let mut jobs = self.lock();
        if jobs.is_closed {
            drop(jobs);
            new.into_iter().for_each(refuse);
            return;
        }
        jobs.list.extend(new);
        drop(jobs);
        self.nudge();
    }

    /// Has somebody look after the connections.
    pub(crate) fn nudge(&self) {
        self.ring();
        self.0.helm.call_keeper();
    }

    /// Wakes whoever sleeps over the sockets.
    pub(crate) fn ring(&self) {
        if self.0.is_sleeping.swap(false, Ordering::SeqCst) {
            // Only a closed descriptor could make this fail, and ours is open.
            let _ = self.0.waker.wake();
        }
    }

    /// Who runs the I/O.
    pub(crate) fn helm(&self) -> &Helm {
        &self.0.helm
    }

    /// Whether the I/O has ended.
    pub(crate) fn is_closed(&self) -> bool {
        self.lock().is_closed
    }

    /// Whether jobs wait.
    pub(crate) fn has_jobs(&self) -> bool {
        !self.lock().list.is_empty()
    }

    /// Moves all jobs to `into`. For whoever runs the I/O.
    pub(crate) fn take(&self, into: &mut Vec<Job>) {
        let mut jobs = self.lock();
        std::mem::swap(&mut jobs.list, into);
    }

    /// Says that the I/O is about to sleep; `false` if there is something to do first.
    pub(crate) fn may_sleep(&self) -> bool {
        self.0.is_sleeping.store(true, Ordering::SeqCst);
        let is_idle = self.lock().list.is_empty() && !self.0.helm.keeper_shall_leave();
        if !is_idle {
            self.awake();
        }
        is_idle
    }

    /// Says that the I/O does not sleep.
    pub(crate) fn awake(&self) {
        self.0.is_sleeping.store(false, Ordering::SeqCst);
    }

    /// Takes no more jobs, and refuses those that are left.
    pub(crate) fn shut(&self) {
        let mut jobs = self.lock();
        jobs.is_closed = true;
        let left = std::mem::take(&mut jobs.list);
        drop(jobs);
        left.into_iter().for_each(refuse);
    }

    fn lock(&self) -> MutexGuard<'_, Jobs> {
        self.0.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn refuse(job: Job) {
    if let Job::Leg(leg) = job {
        leg.fail(&KeyError::Closed);
    }
}
