//! A queue pair, owned, with the queue of its completions.
//!
//! What a reader would get wrong: a request that does not ask for a completion keeps its place in
//! the send queue until the completion of a later one was polled, so the queue has some room to
//! spare, and whoever posts has to ask often enough.

use std::ffi::c_int;
use std::fmt;
use std::io::{Error, ErrorKind};
use std::ptr::{NonNull, null_mut};
use std::sync::Arc;

use crate::rdma::fabric::{FabricError, Work, WorkError};
use crate::rdma::verbs::bindings::{
    Fields, done, made, mtu, nothing_found, nothing_wanted, outcome, remote_access, request, sys,
    unmade,
};
use crate::rdma::verbs::device::{Device, Domain};

/// Where completions of one pair are put.
#[derive(Debug)]
struct Completions {
    queue: NonNull<sys::ibv_cq>,
    device: Arc<Device>,
}

/// A reliable queue pair.
pub(super) struct Pair {
    pair: NonNull<sys::ibv_qp>,
    number: u32,
    completions: Completions,
    /// Filled by each poll.
    found: Vec<sys::ibv_wc>,
    /// Filled by each post, and never longer than at first.
    requests: Vec<sys::ibv_send_wr>,
    places: Vec<sys::ibv_sge>,
    domain: Arc<Domain>,
}

/// How a pair reaches its peer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Route {
    pub(super) port: u8,
    pub(super) gid_index: u8,
    pub(super) gid: [u8; 16],
    pub(super) lid: u16,
    pub(super) number: u32,
    pub(super) packet_bytes_max: u16,
    /// Numbers of the first packets, from there and from here.
    pub(super) first_packet_in: u32,
    pub(super) first_packet_out: u32,
    /// Reads under way, asked for from there and from here.
    pub(super) reads_in_max: u8,
    pub(super) reads_out_max: u8,
    /// As verbs count them.
    pub(super) timeout: u8,
    pub(super) retries: u8,
}

// SAFETY: verbs may be called from any thread.
unsafe impl Send for Completions {}
// SAFETY: as above; the pointers in the requests are into the pair's own lists.
unsafe impl Send for Pair {}

impl Completions {
    fn new(device: &Arc<Device>, count: u32) -> Result<Self, FabricError> {
        let (context, count) = (device.context.as_ptr(), count as c_int);
        // SAFETY: the context is open. Nobody is to be woken, so there is no channel.
        let queue = unsafe { sys::ibv_create_cq(context, count, null_mut(), null_mut(), 0) };
        Ok(Self { queue: made("ibv_create_cq", queue)?, device: Arc::clone(device) })
    }
}

impl Drop for Completions {
    fn drop(&mut self) {
        if self.device.is_ours() {
            // SAFETY: the pair that put completions there is gone.
            unmade("ibv_destroy_cq", unsafe { sys::ibv_destroy_cq(self.queue.as_ptr()) });
        }
    }
}

impl Pair {
    /// One for so many works at a time, which still has to be brought up.
    pub(super) fn new(domain: &Arc<Domain>, works_max: u32) -> Result<Self, FabricError> {
        let room = works_max.saturating_add(ROOM);
        let completions = Completions::new(&domain.device, room)?;
        let queue = completions.queue.as_ptr();
        let mut wanted = sys::ibv_qp_init_attr {
            qp_context: null_mut(),
            send_cq: queue,
            recv_cq: queue,
            srq: null_mut(),
            cap: sys::ibv_qp_cap {
                max_send_wr: room,
                // Nothing is received, but some drivers refuse none.
                max_recv_wr: 1,
                max_send_sge: 1,
                max_recv_sge: 1,
                max_inline_data: 0,
            },
            qp_type: sys::ibv_qp_type::IBV_QPT_RC,
            sq_sig_all: 0,
        };
        // SAFETY: the domain and the queue are there, and of the same device.
        let pair = unsafe { sys::ibv_create_qp(domain.domain.as_ptr(), &raw mut wanted) };
        let pair = made("ibv_create_qp", pair)?;
        // SAFETY: it was made, and its number never changes.
        let number = unsafe { pair.as_ref() }.qp_num;
        Ok(Self {
            pair,
            number,
            completions,
            found: (0..POLLED_MAX).map(|_| nothing_found()).collect(),
            requests: Vec::with_capacity(works_max as usize),
            places: Vec::with_capacity(works_max as usize),
            domain: Arc::clone(domain),
        })
    }

    pub(super) fn number(&self) -> u32 {
        self.number
    }

    pub(super) fn initialise(&mut self, port: u8) -> Result<(), FabricError> {
        let mut wanted = nothing_wanted();
        wanted.qp_state = sys::ibv_qp_state::IBV_QPS_INIT;
        wanted.port_num = port;
        // Which memory they reach is up to its registration.
        wanted.qp_access_flags = remote_access().0;
        let fields = Fields::IBV_QP_STATE
            | Fields::IBV_QP_PKEY_INDEX
            | Fields::IBV_QP_PORT
            | Fields::IBV_QP_ACCESS_FLAGS;
        self.modify("ibv_modify_qp to INIT", wanted, fields)
    }

    /// From here on the peer's works are executed, and own ones may be posted.
    pub(super) fn connect(&mut self, route: &Route) -> Result<(), FabricError> {
        let mut wanted = nothing_wanted();
        wanted.qp_state = sys::ibv_qp_state::IBV_QPS_RTR;
        wanted.path_mtu = mtu(route.packet_bytes_max);
        wanted.dest_qp_num = route.number;
        wanted.rq_psn = route.first_packet_in;
        wanted.max_dest_rd_atomic = route.reads_in_max;
        wanted.min_rnr_timer = NOT_READY_PAUSE;
        wanted.ah_attr = sys::ibv_ah_attr {
            grh: sys::ibv_global_route {
                dgid: sys::ibv_gid { raw: route.gid },
                flow_label: 0,
                sgid_index: route.gid_index,
                hop_limit: HOPS_MAX,
                traffic_class: 0,
            },
            dlid: route.lid,
            sl: 0,
            src_path_bits: 0,
            static_rate: 0,
            is_global: u8::from(route.lid == 0),
            port_num: route.port,
        };
        let fields = Fields::IBV_QP_STATE
            | Fields::IBV_QP_AV
            | Fields::IBV_QP_PATH_MTU
            | Fields::IBV_QP_DEST_QPN
            | Fields::IBV_QP_RQ_PSN
            | Fields::IBV_QP_MAX_DEST_RD_ATOMIC
            | Fields::IBV_QP_MIN_RNR_TIMER;
        self.modify("ibv_modify_qp to RTR", wanted, fields)?;

        let mut wanted = nothing_wanted();
        wanted.qp_state = sys::ibv_qp_state::IBV_QPS_RTS;
        wanted.sq_psn = route.first_packet_out;
        wanted.max_rd_atomic = route.reads_out_max;
        wanted.timeout = route.timeout;
        wanted.retry_cnt = route.retries;
        wanted.rnr_retry = route.retries;
        let fields = Fields::IBV_QP_STATE
            | Fields::IBV_QP_SQ_PSN
            | Fields::IBV_QP_MAX_QP_RD_ATOMIC
            | Fields::IBV_QP_TIMEOUT
            | Fields::IBV_QP_RETRY_CNT
            | Fields::IBV_QP_RNR_RETRY;
        self.modify("ibv_modify_qp to RTS", wanted, fields)
    }

    pub(super) fn end(&mut self) -> Result<(), FabricError> {
        let mut wanted = nothing_wanted();
        wanted.qp_state = sys::ibv_qp_state::IBV_QPS_ERR;
        self.modify("ibv_modify_qp to ERR", wanted, Fields::IBV_QP_STATE)
    }

    fn modify(
        &mut self,
        verb: &'static str,
        mut wanted: sys::ibv_qp_attr,
        fields: Fields,
    ) -> Result<(), FabricError> {
        let (pair, fields) = (self.pair.as_ptr(), fields.0 as c_int);
        // SAFETY: the pair is there, and what is wanted of it is only read.
        done(verb, unsafe { sys::ibv_modify_qp(pair, &raw mut wanted, fields) })
    }

    /// # Safety
    ///
    /// As [`QueuePair::post`](crate::rdma::QueuePair::post).
    pub(super) unsafe fn post(&mut self, works: &[Work]) -> Result<(), FabricError> {
        if works.len() > self.requests.capacity() {
            return Err(FabricError::new("ibv_post_send", ErrorKind::InvalidInput.into()));
        }
        if works.is_empty() {
            return Ok(());
        }
        self.places.clear();
        self.places.extend(works.iter().map(|work| sys::ibv_sge {
            addr: work.local_address,
            length: work.remote.bytes,
            lkey: work.local_key,
        }));
        self.requests.clear();
        // Neither list grows, so the pointers stay right.
        let (places, requests) = (self.places.as_mut_ptr(), self.requests.as_mut_ptr());
        for (at, work) in works.iter().enumerate() {
            let is_last = at + 1 == works.len();
            let next = if is_last { null_mut() } else { requests.wrapping_add(at + 1) };
            self.requests.push(request(work, places.wrapping_add(at), next));
        }
        let (pair, mut refused) = (self.pair.as_ptr(), null_mut());
        // SAFETY: the pair is there. The requests are a list of which each names its own place,
        // and both are read before this returns. For the memory the caller promised.
        done("ibv_post_send", unsafe { sys::ibv_post_send(pair, requests, &raw mut refused) })
    }

    /// Tells the number and the outcome of each work that completed.
    pub(super) fn poll(
        &mut self,
        mut tell: impl FnMut(u64, Result<(), WorkError>),
    ) -> Result<(), FabricError> {
        loop {
            let (queue, found) = (self.completions.queue.as_ptr(), self.found.as_mut_ptr());
            // SAFETY: the queue is there, and there is room for so many.
            let count = unsafe { sys::ibv_poll_cq(queue, POLLED_MAX as c_int, found) };
            let Ok(count) = usize::try_from(count) else {
                let why = format!("status {count}");
                return Err(FabricError::new("ibv_poll_cq", Error::other(why)));
            };
            for completion in &self.found[..count] {
                tell(completion.wr_id, outcome(completion.status));
            }
            if count < POLLED_MAX {
                return Ok(());
            }
        }
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        if self.domain.device.is_ours() {
            // SAFETY: it was made once, and this is its only owner.
            unmade("ibv_destroy_qp", unsafe { sys::ibv_destroy_qp(self.pair.as_ptr()) });
        }
    }
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pair").field("number", &self.number).finish_non_exhaustive()
    }
}

/// Places in the queues that no work is counted on: a device may tell of a work before it has freed
/// its place. Guessed; one was seen to be needed.
const ROOM: u32 = 16;
/// Completions that are looked for in one call.
const POLLED_MAX: usize = 32;
/// How long the peer waits when something was not ready here: 0.64 ms, as verbs count it. Only a
/// page that is not there can be that.
const NOT_READY_PAUSE: u8 = 12;
/// Routers on the way.
const HOPS_MAX: u8 = 64;
