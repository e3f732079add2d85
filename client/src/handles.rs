//! Namespaces on one connection: handles are opened when first needed, and again when the node is
//! behind or has forgotten them.
//!
//! A handle means nothing on another connection, so callers never see one.

use std::time::Instant;

use larder_protocol::message::Open;
use larder_protocol::{Generation, Header, Opcode};

use crate::flight::What;
use crate::leg::Leg;
use crate::namespace::Namespace;
use crate::session::Session;

/// A namespace on this connection.
pub(crate) struct Handle {
    pub(crate) namespace: Namespace,
    pub(crate) state: HandleState,
}

/// Whether it can be used yet.
pub(crate) enum HandleState {
    Opening { parked: Vec<Box<Leg>> },
    Open { handle: u64, generation: Generation },
}

impl Session {
    /// Sends a leg, or first opens its namespace.
    pub(crate) fn start(&mut self, leg: Box<Leg>, now: Instant) {
        let Some(namespace) = leg.namespace.clone().filter(|_| leg.opcode != Opcode::Open) else {
            self.launch_leg(leg, 0, now);
            return;
        };
        let at = self.handle_at(&namespace);
        match at.map(|at| &mut self.handles[at].state) {
            Some(HandleState::Open { handle, generation })
                if *generation >= namespace.generation() =>
            {
                let handle = *handle;
                self.launch_leg(leg, handle, now);
            }
            Some(HandleState::Opening { parked }) => parked.push(leg),
            Some(state @ HandleState::Open { .. }) => {
                *state = HandleState::Opening { parked: vec![leg] };
                self.open(namespace, now);
            }
            None => {
                let state = HandleState::Opening { parked: vec![leg] };
                self.handles.push(Handle { namespace: namespace.clone(), state });
                self.open(namespace, now);
            }
        }
    }

    fn open(&mut self, namespace: Namespace, now: Instant) {
        let mut frame = Vec::new();
        Header::begin(&mut frame);
        let known = namespace.generation();
        Open { known, spec: namespace.encoded() }.encode(&mut frame);
        self.launch(Opcode::Open, What::Open(namespace), frame, now);
    }

    fn handle_at(&self, namespace: &Namespace) -> Option<usize> {
        let same = self.handles.iter().position(|handle| handle.namespace.is_same(namespace));
        same.or_else(|| {
            let equal = |handle: &Handle| handle.namespace.encoded() == namespace.encoded();
            self.handles.iter().position(equal)
        })
    }

    /// The node has opened a namespace, or told a newer generation of it.
    pub(crate) fn opened(
        &mut self,
        namespace: &Namespace,
        handle: u64,
        generation: Generation,
        now: Instant,
    ) {
        let state = HandleState::Open { handle, generation };
        let was = match self.handle_at(namespace) {
            Some(at) => std::mem::replace(&mut self.handles[at].state, state),
            None => {
                self.handles.push(Handle { namespace: namespace.clone(), state });
                return;
            }
        };
        if let HandleState::Opening { parked } = was {
            parked.into_iter().for_each(|leg| self.start(leg, now));
        }
    }

    /// The node told the generation that a namespace has now, and its handle if that is news.
    pub(crate) fn moved(
        &mut self,
        namespace: &Namespace,
        handle: Option<u64>,
        generation: Generation,
        now: Instant,
    ) {
        let known = self.handle_at(namespace).map(|at| &self.handles[at].state);
        let known = match known {
            Some(HandleState::Open { handle, .. }) => Some(*handle),
            _ => None,
        };
        if let Some(handle) = handle.or(known) {
            self.opened(namespace, handle, generation, now);
        }
    }

    /// The node does not open a namespace: takes out the legs that waited for it.
    pub(crate) fn not_opened(&mut self, namespace: &Namespace) -> Vec<Box<Leg>> {
        let Some(at) = self.handle_at(namespace) else { return Vec::new() };
        match self.handles.swap_remove(at).state {
            HandleState::Opening { parked } => parked,
            HandleState::Open { .. } => Vec::new(),
        }
    }

    /// The node is behind this generation, or does not know the handle: opens it again first.
    pub(crate) fn reopen(&mut self, mut leg: Box<Leg>, now: Instant) {
        leg.attempts += 1;
        let namespace = leg.namespace.as_ref().expect("only namespaces are stale");
        if let Some(at) = self.handle_at(namespace)
            && matches!(self.handles[at].state, HandleState::Open { .. })
        {
            self.handles.swap_remove(at);
        }
        self.start(leg, now);
    }
}
