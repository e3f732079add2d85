//! The driver: whether there is one, the context that all calls are made in, what a device can do.
//!
//! What a reader would get wrong: the context is the device's primary one, which torch and the CUDA
//! runtime use too, so memory and streams of theirs are valid here. Every call is made with it
//! current, and the caller's own is put back behind it.

use std::ffi::{CStr, c_char, c_int};
use std::sync::OnceLock;

use cudarc::driver::sys;

use crate::device::DeviceError;

/// The primary context of a device, kept for as long as this lives.
#[derive(Debug)]
pub(crate) struct Context {
    raw: sys::CUcontext,
    device: sys::CUdevice,
}

// SAFETY: the driver's contexts belong to no thread; each call makes it current for itself.
unsafe impl Send for Context {}
// SAFETY: as above, and the driver's calls may be made from several threads at once.
unsafe impl Sync for Context {}

/// The context is current on this thread while this lives, and what is called has nothing to do
/// with a graph that somebody captures: asked in a default mode, the driver would take a question
/// about an event of ours for a reason to give that graph up.
#[derive(Debug)]
pub(crate) struct Current {
    mode_before: sys::CUstreamCaptureMode,
    /// It must be dropped on the thread that made it.
    _thread: std::marker::PhantomData<*const ()>,
}

/// What a device is and can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Properties {
    /// Its name.
    pub name: String,
    /// Its address, as `nvidia-smi` has it.
    pub bus: String,
    /// Its memory, in bytes.
    pub memory_bytes: u64,
    /// How many multiprocessors it has.
    pub sm_count: u32,
    /// Compute capability, major and minor.
    pub capability: [u32; 2],
    /// What the driver implements: 13000 is CUDA 13.0.
    pub driver_version: u32,
    /// Whether memory that is mapped for reading only can be pinned.
    pub pins_read_only: bool,
    /// Whether pinned memory has the same address on the device.
    pub same_addresses: bool,
    /// Whether its memory can be exported as a dma-buf.
    pub exports_dma_buf: bool,
    /// Whether what a network card has written to its memory is seen only after the driver was
    /// asked to see to it, and the driver can.
    pub flushes_cards: bool,
}

impl Context {
    /// The primary context of the device of this number.
    pub(crate) fn open(ordinal: u32) -> Result<Self, DeviceError> {
        if !init()? {
            return Err(NO_DEVICE);
        }
        let ordinal = c_int::try_from(ordinal).map_err(|_| NO_DEVICE)?;
        let mut device = 0;
        // SAFETY: the place to write is ours.
        let code = unsafe { sys::cuDeviceGet(&raw mut device, ordinal) };
        check("cuDeviceGet", 0, code)?;
        let mut raw = std::ptr::null_mut();
        // SAFETY: the device exists, and the place to write is ours.
        let code = unsafe { sys::cuDevicePrimaryCtxRetain(&raw mut raw, device) };
        check("cuDevicePrimaryCtxRetain", 0, code)?;
        Ok(Self { raw, device })
    }

    /// Makes it current on this thread.
    pub(crate) fn enter(&self) -> Result<Current, DeviceError> {
        // SAFETY: the context is retained for as long as `self` lives.
        let code = unsafe { sys::cuCtxPushCurrent_v2(self.raw) };
        check("cuCtxPushCurrent", 0, code)?;
        let relaxed = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        Ok(Current { mode_before: exchange_mode(relaxed), _thread: std::marker::PhantomData })
    }

    /// What the device is and can do.
    pub(crate) fn properties(&self) -> Result<Properties, DeviceError> {
        use sys::CUdevice_attribute as Attribute;
        let flag = |attribute| self.attribute(attribute).map(|value| value != 0);
        Ok(Properties {
            name: self.text("cuDeviceGetName", sys::cuDeviceGetName)?,
            bus: self.text("cuDeviceGetPCIBusId", sys::cuDeviceGetPCIBusId)?,
            memory_bytes: self.memory_bytes()?,
            sm_count: self.attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            capability: [
                self.attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
                self.attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
            ],
            driver_version: driver_version()?,
            pins_read_only: flag(Attribute::CU_DEVICE_ATTRIBUTE_READ_ONLY_HOST_REGISTER_SUPPORTED)?,
            same_addresses: flag(
                Attribute::CU_DEVICE_ATTRIBUTE_CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM,
            )?,
            exports_dma_buf: flag(Attribute::CU_DEVICE_ATTRIBUTE_DMA_BUF_SUPPORTED)?,
            flushes_cards: self.flushes_cards()?,
        })
    }

    /// Drivers before CUDA 11.3 know neither question, and lack the call.
    fn flushes_cards(&self) -> Result<bool, DeviceError> {
        use sys::CUdevice_attribute as Attribute;
        let can =
            self.attribute(Attribute::CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_FLUSH_WRITES_OPTIONS)?;
        let ordered =
            self.attribute(Attribute::CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_WRITES_ORDERING)?;
        let by_host =
            sys::CUflushGPUDirectRDMAWritesOptions::CU_FLUSH_GPU_DIRECT_RDMA_WRITES_OPTION_HOST;
        let owner = sys::CUGPUDirectRDMAWritesOrdering::CU_GPU_DIRECT_RDMA_WRITES_ORDERING_OWNER;
        Ok(can & by_host as u32 != 0 && ordered < owner as u32)
    }

    fn attribute(&self, attribute: sys::CUdevice_attribute) -> Result<u32, DeviceError> {
        let mut value = 0;
        // SAFETY: the device exists, and the place to write is ours.
        let code = unsafe { sys::cuDeviceGetAttribute(&raw mut value, attribute, self.device) };
        if code == sys::CUresult::CUDA_ERROR_INVALID_VALUE {
            // A driver that is older than the question: what it does not know it cannot do.
            return Ok(0);
        }
        check("cuDeviceGetAttribute", 0, code)?;
        Ok(u32::try_from(value).unwrap_or(0))
    }

    fn memory_bytes(&self) -> Result<u64, DeviceError> {
        let mut bytes = 0;
        // SAFETY: the device exists, and the place to write is ours.
        let code = unsafe { sys::cuDeviceTotalMem_v2(&raw mut bytes, self.device) };
        check("cuDeviceTotalMem", 0, code)?;
        Ok(bytes as u64)
    }

    fn text(&self, call: &'static str, ask: Ask) -> Result<String, DeviceError> {
        let mut text = [0; 256];
        // SAFETY: the device exists, and the length given leaves a zero behind what is written.
        let code = unsafe { ask(text.as_mut_ptr(), 255, self.device) };
        check(call, 0, code)?;
        let bytes = text.map(c_char::cast_unsigned);
        let text = CStr::from_bytes_until_nul(&bytes).unwrap_or_default();
        Ok(text.to_string_lossy().into_owned())
    }
}

/// A call that writes a text about a device.
type Ask = unsafe fn(*mut c_char, c_int, sys::CUdevice) -> sys::CUresult;

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: it was retained once, here, and is not used any more.
        let code = unsafe { sys::cuDevicePrimaryCtxRelease_v2(self.device) };
        log("cuDevicePrimaryCtxRelease", code);
    }
}

impl Drop for Current {
    fn drop(&mut self) {
        exchange_mode(self.mode_before);
        let mut before = std::ptr::null_mut();
        // SAFETY: what is popped is what was pushed, for this value never leaves its thread.
        let code = unsafe { sys::cuCtxPopCurrent_v2(&raw mut before) };
        log("cuCtxPopCurrent", code);
    }
}

/// Sets this thread's mode towards graphs that are captured, and answers what it was.
fn exchange_mode(mut mode: sys::CUstreamCaptureMode) -> sys::CUstreamCaptureMode {
    // SAFETY: the place to read and write is ours.
    let code = unsafe { sys::cuThreadExchangeStreamCaptureMode(&raw mut mode) };
    log("cuThreadExchangeStreamCaptureMode", code);
    mode
}

/// How many devices there are.
///
/// # Errors
/// [`DeviceError::Unsupported`] where no driver is installed, [`DeviceError::Call`] where it does
/// not work.
pub fn device_count() -> Result<u32, DeviceError> {
    if !init()? {
        return Ok(0);
    }
    let mut count = 0;
    // SAFETY: the place to write is ours.
    let code = unsafe { sys::cuDeviceGetCount(&raw mut count) };
    check("cuDeviceGetCount", 0, code)?;
    Ok(u32::try_from(count).unwrap_or(0))
}

/// Has the device see all that network cards have written to its memory by now. The context is
/// current; only for a device that says that it flushes.
pub(crate) fn flush_cards() -> Result<(), DeviceError> {
    use sys::CUflushGPUDirectRDMAWritesScope as Scope;
    use sys::CUflushGPUDirectRDMAWritesTarget as Target;
    let target = Target::CU_FLUSH_GPU_DIRECT_RDMA_WRITES_TARGET_CURRENT_CTX;
    let scope = Scope::CU_FLUSH_GPU_DIRECT_RDMA_WRITES_TO_OWNER;
    // SAFETY: the driver has the call, for it knew what was asked of the device.
    let code = unsafe { sys::cuFlushGPUDirectRDMAWrites(target, scope) };
    check("cuFlushGPUDirectRDMAWrites", 0, code)
}

/// What a call of the driver answered, in words if it failed.
pub(crate) fn check(
    call: &'static str,
    bytes: u64,
    code: sys::CUresult,
) -> Result<(), DeviceError> {
    if code == sys::CUresult::CUDA_SUCCESS {
        return Ok(());
    }
    let number = code as u32;
    let (name, text) = (words(code, sys::cuGetErrorName), words(code, sys::cuGetErrorString));
    Err(DeviceError::Call { call, bytes, reason: format!("{name} ({number}): {text}") })
}

/// Logs a call that failed where nothing can be done about it.
pub(crate) fn log(call: &'static str, code: sys::CUresult) {
    if let Err(error) = check(call, 0, code) {
        tracing::error!(%error, "a device's handle was not given back");
    }
}

fn words(code: sys::CUresult, ask: Explain) -> &'static str {
    let mut text = std::ptr::null();
    // SAFETY: the place to write is ours.
    let asked = unsafe { ask(code, &raw mut text) };
    if asked != sys::CUresult::CUDA_SUCCESS || text.is_null() {
        return "unknown";
    }
    // SAFETY: the driver answered with a text of its own, which is there for as long as it is.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_str().unwrap_or("unknown")
}

/// A call that names an error.
type Explain = unsafe fn(sys::CUresult, *mut *const c_char) -> sys::CUresult;

/// Loads the driver, once for the process. Whether it has a device: one that has none refuses all
/// other calls.
fn init() -> Result<bool, DeviceError> {
    static LOADED: OnceLock<Result<bool, DeviceError>> = OnceLock::new();
    let load = || {
        // SAFETY: runs what the driver does when it is loaded, which any CUDA program trusts.
        if !unsafe { sys::is_culib_present() } {
            return Err(NO_DRIVER);
        }
        // SAFETY: the library is there, and 0 is the only value that is allowed.
        let code = unsafe { sys::cuInit(0) };
        match code {
            sys::CUresult::CUDA_ERROR_NO_DEVICE => Ok(false),
            // What CUDA is linked against where there is no driver.
            sys::CUresult::CUDA_ERROR_STUB_LIBRARY => Err(NO_DRIVER),
            code => check("cuInit", 0, code).map(|()| true),
        }
    };
    LOADED.get_or_init(load).clone()
}

/// What the driver implements: 13000 is CUDA 13.0.
pub(crate) fn driver_version() -> Result<u32, DeviceError> {
    let mut version = 0;
    // SAFETY: the place to write is ours.
    let code = unsafe { sys::cuDriverGetVersion(&raw mut version) };
    check("cuDriverGetVersion", 0, code)?;
    Ok(u32::try_from(version).unwrap_or(0))
}

const NO_DRIVER: DeviceError =
    DeviceError::Unsupported { what: "no NVIDIA driver is installed (libcuda.so.1 is not found)" };
const NO_DEVICE: DeviceError =
    DeviceError::Unsupported { what: "there is no device of this number" };
