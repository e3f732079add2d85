//! The bindings, and what it takes to speak to them: no other file names their crate.
//!
//! What a reader would get wrong: of these bindings only the calls that the oldest verbs have are
//! right on 64 bits; the extended ones take every device for one that lacks them.

use std::ffi::c_int;
use std::io::Error;
use std::ptr::NonNull;

pub(super) use rdma_sys as sys;

use crate::rdma::fabric::{Direction, FabricError, Work, WorkError};

/// Which fields of a pair are to change.
pub(super) type Fields = sys::ibv_qp_attr_mask;

/// What a verb made, if it did.
pub(super) fn made<T>(verb: &'static str, made: *mut T) -> Result<NonNull<T>, FabricError> {
    NonNull::new(made).ok_or_else(|| FabricError::new(verb, Error::last_os_error()))
}

/// Whether a verb did it, by the number it gave.
pub(super) fn done(verb: &'static str, status: c_int) -> Result<(), FabricError> {
    match status {
        0 => Ok(()),
        // A few give no number, and set it aside.
        ..0 => Err(FabricError::new(verb, Error::last_os_error())),
        _ => Err(FabricError::new(verb, Error::from_raw_os_error(status))),
    }
}

/// Whether a verb unmade something; says so if not.
pub(super) fn unmade(verb: &'static str, status: c_int) -> bool {
    let done = done(verb, status);
    if let Err(error) = &done {
        tracing::error!(%error, "the device keeps what it was to give back");
    }
    done.is_ok()
}

/// What peers may do where they may do anything.
pub(super) fn remote_access() -> sys::ibv_access_flags {
    sys::ibv_access_flags::IBV_ACCESS_REMOTE_WRITE | sys::ibv_access_flags::IBV_ACCESS_REMOTE_READ
}

/// A work as verbs want it. Both pointers are only stored.
pub(super) fn request(
    work: &Work,
    place: *mut sys::ibv_sge,
    next: *mut sys::ibv_send_wr,
) -> sys::ibv_send_wr {
    let signalled = if work.is_signalled { sys::ibv_send_flags::IBV_SEND_SIGNALED.0 } else { 0 };
    let (remote_addr, rkey) = (work.remote.address, work.remote.rkey);
    let tso = sys::tso_t { hdr: std::ptr::null_mut(), hdr_sz: 0, mss: 0 };
    sys::ibv_send_wr {
        wr_id: work.number,
        next,
        sg_list: place,
        num_sge: 1,
        opcode: match work.direction {
            Direction::Write => sys::ibv_wr_opcode::IBV_WR_RDMA_WRITE,
            Direction::Read => sys::ibv_wr_opcode::IBV_WR_RDMA_READ,
        },
        send_flags: signalled,
        imm_data_invalidated_rkey_union: sys::imm_data_invalidated_rkey_union_t { imm_data: 0 },
        wr: sys::wr_t { rdma: sys::rdma_t { remote_addr, rkey } },
        qp_type: sys::qp_type_t { xrc: sys::xrc_t { remote_srqn: 0 } },
        bind_mw_tso_union: sys::bind_mw_tso_union_t { tso },
    }
}

/// How a work went, by the number that its completion has.
pub(super) fn outcome(status: sys::ibv_wc_status::Type) -> Result<(), WorkError> {
    match status {
        sys::ibv_wc_status::IBV_WC_SUCCESS => Ok(()),
        sys::ibv_wc_status::IBV_WC_REM_ACCESS_ERR => Err(WorkError::RemoteAccess),
        sys::ibv_wc_status::IBV_WC_RETRY_EXC_ERR => Err(WorkError::NoAnswer),
        sys::ibv_wc_status::IBV_WC_RNR_RETRY_EXC_ERR => Err(WorkError::NoAnswer),
        sys::ibv_wc_status::IBV_WC_WR_FLUSH_ERR => Err(WorkError::Flushed),
        other => Err(WorkError::Other(other)),
    }
}

/// A completion that a poll may write over.
pub(super) fn nothing_found() -> sys::ibv_wc {
    sys::ibv_wc {
        wr_id: 0,
        status: sys::ibv_wc_status::IBV_WC_SUCCESS,
        opcode: 0,
        vendor_err: 0,
        byte_len: 0,
        imm_data_invalidated_rkey_union: sys::imm_data_invalidated_rkey_union_t { imm_data: 0 },
        qp_num: 0,
        src_qp: 0,
        wc_flags: 0,
        pkey_index: 0,
        slid: 0,
        sl: 0,
        dlid_path_bits: 0,
    }
}

/// Fields of a pair, none of them chosen yet.
pub(super) fn nothing_wanted() -> sys::ibv_qp_attr {
    // SAFETY: all its fields are numbers, or structures and arrays of numbers.
    unsafe { std::mem::zeroed() }
}

/// Bytes of a packet, by the number that verbs have for them: 1 for 256, 5 for 4,096.
pub(super) fn packet_bytes(mtu: sys::ibv_mtu::Type) -> u16 {
    128 << mtu.clamp(sys::ibv_mtu::IBV_MTU_256, sys::ibv_mtu::IBV_MTU_4096)
}

/// The number for the longest packet that has at most so many bytes.
pub(super) fn mtu(packet_bytes_max: u16) -> sys::ibv_mtu::Type {
    packet_bytes_max.clamp(256, 4096).ilog2() - 7
}
