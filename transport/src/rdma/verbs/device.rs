//! A device, its domain, and memory that it knows: each owned by one value that unmakes it.
//!
//! What is made of something holds it by an [`Arc`], so it goes first. What a reader would get
//! wrong: a forked child has these values too, and the descriptor behind them, so it would take its
//! parent's pairs down. Only the process that made them unmakes them.

use std::ffi::{CStr, c_int};
use std::fmt;
use std::os::fd::AsRawFd;
use std::ptr::{NonNull, with_exposed_provenance_mut};
use std::sync::Arc;

use crate::fork::process_id;
use crate::rdma::device_memory::{DeviceMemory, Home};
use crate::rdma::fabric::FabricError;
use crate::rdma::verbs::bindings::{done, made, packet_bytes, remote_access, sys, unmade};

/// An open device.
#[derive(Debug)]
pub(super) struct Device {
    pub(super) context: NonNull<sys::ibv_context>,
    name: String,
    pid: u32,
}

/// What a device can, of what we ask of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) ports: u8,
    /// Works of one pair.
    pub(super) works_max: u32,
    /// Reads of one pair that it answers, and that it asks for, at a time.
    pub(super) reads_answered_max: u8,
    pub(super) reads_asked_max: u8,
}

/// A port as it is now.
#[derive(Debug, Clone, Copy)]
pub(super) struct Port {
    pub(super) number: u8,
    pub(super) is_active: bool,
    /// 0 but where a subnet manager gives them out.
    pub(super) lid: u16,
    pub(super) packet_bytes_max: u16,
    pub(super) gid_count: u32,
}

/// What pairs and memory have to share to be used together.
#[derive(Debug)]
pub(super) struct Domain {
    pub(super) domain: NonNull<sys::ibv_pd>,
    pub(super) device: Arc<Device>,
}

/// Who may reach registered memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// Works of this side.
    Own,
    /// Peers that are told the key, too.
    Peers,
}

impl Reach {
    fn access(self) -> c_int {
        let own = sys::ibv_access_flags::IBV_ACCESS_LOCAL_WRITE;
        let access = match self {
            Self::Own => own,
            Self::Peers => own | remote_access(),
        };
        access.0 as c_int
    }
}

/// Memory that the device knows.
pub(super) struct Registration {
    region: NonNull<sys::ibv_mr>,
    /// Keeps the memory where it is.
    home: Option<Home>,
    domain: Arc<Domain>,
}

// SAFETY: verbs may be called from any thread, and on the same thing from several at a time.
unsafe impl Send for Device {}
// SAFETY: as above.
unsafe impl Sync for Device {}
// SAFETY: as above.
unsafe impl Send for Domain {}
// SAFETY: as above.
unsafe impl Sync for Domain {}
// SAFETY: as above; what is read of it never changes.
unsafe impl Send for Registration {}
// SAFETY: as above.
unsafe impl Sync for Registration {}

impl Device {
    /// Names of all that have a driver.
    pub(super) fn names() -> Result<Vec<String>, FabricError> {
        let mut names = Vec::new();
        Self::visit(|_, name| {
            names.push(name);
            Ok(())
        })?;
        Ok(names)
    }

    /// The one of this name, if there is one.
    pub(super) fn open(wanted: &str) -> Result<Option<Self>, FabricError> {
        let mut opened = None;
        Self::visit(|device, name| {
            if name == wanted {
                // SAFETY: the device is of the list that is being visited.
                let context = unsafe { sys::ibv_open_device(device) };
                let context = made("ibv_open_device", context)?;
                opened = Some(Self { context, name, pid: process_id() });
            }
            Ok(())
        })?;
        Ok(opened)
    }

    fn visit(
        mut tell: impl FnMut(*mut sys::ibv_device, String) -> Result<(), FabricError>,
    ) -> Result<(), FabricError> {
        let mut count = 0;
        // SAFETY: the count is ours to write.
        let list = unsafe { sys::ibv_get_device_list(&raw mut count) };
        let list = made("ibv_get_device_list", list)?;
        let told = (0..count as usize).try_for_each(|at| {
            // SAFETY: the list has so many.
            let entry = unsafe { list.add(at) };
            // SAFETY: as above.
            let device = unsafe { entry.read() };
            // SAFETY: a device of the list, which is freed below.
            let name = unsafe { sys::ibv_get_device_name(device) };
            // SAFETY: names are strings, in the device itself.
            let name = unsafe { CStr::from_ptr(name) };
            tell(device, name.to_string_lossy().into_owned())
        });
        // SAFETY: it was given to us above, and what was opened of it stays open.
        unsafe { sys::ibv_free_device_list(list.as_ptr()) };
        told
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn limits(&self) -> Result<Limits, FabricError> {
        // SAFETY: all its fields are numbers.
        let mut found: sys::ibv_device_attr = unsafe { std::mem::zeroed() };
        // SAFETY: the context is open, and the answer ours to write.
        let status = unsafe { sys::ibv_query_device(self.context.as_ptr(), &raw mut found) };
        done("ibv_query_device", status)?;
        Ok(Limits {
            ports: found.phys_port_cnt,
            works_max: u32::try_from(found.max_qp_wr).unwrap_or(0),
            reads_answered_max: reads(found.max_qp_rd_atom),
            reads_asked_max: reads(found.max_qp_init_rd_atom),
        })
    }

    pub(super) fn port(&self, number: u8) -> Result<Port, FabricError> {
        // SAFETY: all its fields are numbers. Older drivers do not fill the last ones.
        let mut found: sys::ibv_port_attr = unsafe { std::mem::zeroed() };
        let context = self.context.as_ptr();
        // SAFETY: the context is open, and the answer ours to write.
        let status = unsafe { sys::___ibv_query_port(context, number, &raw mut found) };
        done("ibv_query_port", status)?;
        Ok(Port {
            number,
            is_active: found.state == sys::ibv_port_state::IBV_PORT_ACTIVE,
            lid: if found.link_layer == LINK_INFINIBAND { found.lid } else { 0 },
            packet_bytes_max: packet_bytes(found.active_mtu),
            gid_count: u32::try_from(found.gid_tbl_len).unwrap_or(0),
        })
    }

    pub(super) fn gid(&self, port: u8, index: u32) -> Result<[u8; 16], FabricError> {
        let mut gid = sys::ibv_gid { raw: [0; 16] };
        let context = self.context.as_ptr();
        // SAFETY: the context is open, and the answer ours to write.
        let status = unsafe { sys::ibv_query_gid(context, port, index as c_int, &raw mut gid) };
        done("ibv_query_gid", status)?;
        // SAFETY: 16 bytes, whatever they are.
        Ok(unsafe { gid.raw })
    }

    /// Whether this process opened it.
    pub(super) fn is_ours(&self) -> bool {
        self.pid == process_id()
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if self.is_ours() {
            // SAFETY: what was made of it held it, so all of that is gone.
            unmade("ibv_close_device", unsafe { sys::ibv_close_device(self.context.as_ptr()) });
        }
    }
}

impl Domain {
    pub(super) fn new(device: Device) -> Result<Self, FabricError> {
        // SAFETY: the context is open.
        let domain = unsafe { sys::ibv_alloc_pd(device.context.as_ptr()) };
        Ok(Self { domain: made("ibv_alloc_pd", domain)?, device: Arc::new(device) })
    }
}

impl Drop for Domain {
    fn drop(&mut self) {
        if self.device.is_ours() {
            // SAFETY: as for the device.
            unmade("ibv_dealloc_pd", unsafe { sys::ibv_dealloc_pd(self.domain.as_ptr()) });
        }
    }
}

impl Registration {
    /// # Safety
    ///
    /// These are bytes of memory for as long as `home` is there, and whoever may reach them by
    /// `reach` does so only as it was asked to.
    pub(super) unsafe fn new(
        domain: &Arc<Domain>,
        address: usize,
        bytes: usize,
        reach: Reach,
        home: Home,
    ) -> Result<Self, FabricError> {
        let (at, access) = (with_exposed_provenance_mut(address), reach.access());
        // SAFETY: the domain is there, and the memory too, as the caller promised.
        let region = unsafe { sys::ibv_reg_mr(domain.domain.as_ptr(), at, bytes, access) };
        let region = made("ibv_reg_mr", region)?;
        Ok(Self { region, home: Some(home), domain: Arc::clone(domain) })
    }

    /// As [`Registration::new`], of memory that peers reach and no address here does.
    ///
    /// # Safety
    ///
    /// As [`Registration::new`].
    pub(super) unsafe fn of_device(
        domain: &Arc<Domain>,
        memory: &DeviceMemory<'_>,
        home: Home,
    ) -> Result<Self, FabricError> {
        let DeviceMemory { descriptor, offset, bytes, address } = *memory;
        let (pd, fd) = (domain.domain.as_ptr(), descriptor.as_raw_fd());
        let (length, access) = (bytes as usize, Reach::Peers.access());
        // SAFETY: the domain and the descriptor are there, and the memory as the caller promised.
        let region = unsafe { sys::ibv_reg_dmabuf_mr(pd, offset, length, address, fd, access) };
        let region = made("ibv_reg_dmabuf_mr", region)?;
        Ok(Self { region, home: Some(home), domain: Arc::clone(domain) })
    }

    /// What works of this side name it by, and what peers do.
    pub(super) fn keys(&self) -> (u32, u32) {
        // SAFETY: it is registered until it is dropped, and its keys never change.
        let region = unsafe { self.region.as_ref() };
        (region.lkey, region.rkey)
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        if !self.domain.device.is_ours() {
            return;
        }
        // SAFETY: it was registered once, and nobody names it by its keys any more.
        if !unmade("ibv_dereg_mr", unsafe { sys::ibv_dereg_mr(self.region.as_ptr()) }) {
            // The device may still write there.
            std::mem::forget(self.home.take());
        }
    }
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registration").field("region", &self.region).finish_non_exhaustive()
    }
}

/// Devices may say more than verbs have room for.
fn reads(count: c_int) -> u8 {
    u8::try_from(count.clamp(0, 255)).unwrap_or(0)
}

/// A port's link layer; the bindings lack it.
const LINK_INFINIBAND: u8 = 1;
