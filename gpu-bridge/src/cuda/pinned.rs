//! Host memory that devices read and write by themselves.
//!
//! A driver takes the same memory once for the whole process, whatever the device, and two ferries,
//! or two devices, meet the same regions of a node. So what is pinned is known here, and whoever
//! pins it again is given the same. What a reader would get wrong: to unpin takes as long as to
//! pin, and whoever pins or unpins waits for the one that is at it, as in the driver itself.

use std::ffi::c_void;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use cudarc::driver::sys;

use crate::cuda::driver::{Context, check, log};
use crate::cuda::memory::{CudaMemory, length};
use crate::device::DeviceError;
use crate::host_range::{Access, HostRange};

/// Host memory that the device reads and writes by itself, or memory of its own: a dock's.
#[derive(Debug, Clone)]
pub struct CudaPinned {
    address: u64,
    home: Home,
}

#[derive(Debug, Clone)]
enum Home {
    Host(Arc<Registration>),
    Device(CudaMemory),
}

/// Of a driver, for all devices.
#[derive(Debug)]
struct Registration {
    range: HostRange,
    context: Arc<Context>,
}

/// What is pinned now. An entry goes when its memory was unpinned, under the lock.
static PINNED: Mutex<Vec<Entry>> = Mutex::new(Vec::new());

#[derive(Debug)]
struct Entry {
    name: Name,
    registration: Weak<Registration>,
}

/// Address, length, and what devices may do.
type Name = (usize, u64, Access);

impl CudaPinned {
    pub(crate) fn new(
        context: &Arc<Context>,
        range: &HostRange,
        pins_read_only: bool,
    ) -> Result<Self, DeviceError> {
        let _current = context.enter()?;
        let registration = Registration::of(context, range, pins_read_only)?;
        let base: *mut c_void = range.base().as_ptr().cast();
        let mut address = 0;
        // SAFETY: the memory is registered with DEVICEMAP for all contexts, and the place to write
        // is ours.
        let code = unsafe { sys::cuMemHostGetDevicePointer_v2(&raw mut address, base, 0) };
        check("cuMemHostGetDevicePointer", range.bytes(), code)?;
        Ok(Self { address, home: Home::Host(registration) })
    }

    /// The device's own.
    pub(crate) const fn of_device(memory: CudaMemory) -> Self {
        Self { address: memory.address(), home: Home::Device(memory) }
    }

    /// Whether both are the same registration, or of one allocation.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        match (&self.home, &other.home) {
            (Home::Host(one), Home::Host(other)) => Arc::ptr_eq(one, other),
            (Home::Device(one), Home::Device(other)) => one.is_same(other),
            _ => false,
        }
    }

    /// Whether it is the device's own.
    pub(crate) const fn is_on_device(&self) -> bool {
        matches!(self.home, Home::Device(_))
    }

    /// Where the device finds it.
    pub const fn device_address(&self) -> u64 {
        self.address
    }

    /// Where copies find it: this process, if it is the host's.
    pub fn copy_address(&self) -> u64 {
        match &self.home {
            Home::Host(registration) => registration.range.base().addr().get() as u64,
            Home::Device(_) => self.address,
        }
    }

    /// How long it is.
    pub fn bytes(&self) -> u64 {
        match &self.home {
            Home::Host(registration) => registration.range.bytes(),
            Home::Device(memory) => memory.bytes(),
        }
    }

    /// What the device may do with it.
    pub fn access(&self) -> Access {
        match &self.home {
            Home::Host(registration) => registration.range.access(),
            Home::Device(_) => Access::ReadWrite,
        }
    }
}

impl Registration {
    /// The one that there is, which keeps the memory where it is; else a new one.
    fn of(
        context: &Arc<Context>,
        range: &HostRange,
        pins_read_only: bool,
    ) -> Result<Arc<Self>, DeviceError> {
        let name = name(range);
        loop {
            let mut pinned = pinned();
            let Some(known) = pinned.iter().find(|entry| entry.name == name) else {
                let made = Arc::new(Self::new(context, range.clone(), pins_read_only)?);
                pinned.push(Entry { name, registration: Arc::downgrade(&made) });
                return Ok(made);
            };
            if let Some(same) = known.registration.upgrade() {
                return Ok(same);
            }
            // Its last owner is about to unpin it, for which it needs the lock.
            drop(pinned);
            std::thread::yield_now();
        }
    }

    /// With the context current.
    fn new(
        context: &Arc<Context>,
        range: HostRange,
        pins_read_only: bool,
    ) -> Result<Self, DeviceError> {
        let mut flags = sys::CU_MEMHOSTREGISTER_PORTABLE | sys::CU_MEMHOSTREGISTER_DEVICEMAP;
        if range.access() == Access::ReadOnly {
            if !pins_read_only {
                return Err(DeviceError::Unsupported {
                    what: "this device or driver pins no memory that is mapped for reading only; \
                           bytes go through a bay instead",
                });
            }
            flags |= sys::CU_MEMHOSTREGISTER_READ_ONLY;
        }
        let base: *mut c_void = range.base().as_ptr().cast();
        // SAFETY: the range is memory, and stays that: the registration keeps what keeps it.
        let code = unsafe { sys::cuMemHostRegister_v2(base, length(range.bytes())?, flags) };
        check("cuMemHostRegister", range.bytes(), code)?;
        Ok(Self { range, context: Arc::clone(context) })
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut pinned = pinned();
        // Without its context it is unpinned already, and whoever pins it again must not wait.
        if let Ok(_current) = self.context.enter() {
            // SAFETY: it was registered once, for there is one entry of a name, and nothing uses it
            // any more: copies hold a clone.
            let code = unsafe { sys::cuMemHostUnregister(self.range.base().as_ptr().cast()) };
            log("cuMemHostUnregister", code);
        }
        pinned.retain(|entry| entry.name != name(&self.range));
    }
}

fn name(range: &HostRange) -> Name {
    (range.base().addr().get(), range.bytes(), range.access())
}

fn pinned() -> MutexGuard<'static, Vec<Entry>> {
    PINNED.lock().unwrap_or_else(PoisonError::into_inner)
}
