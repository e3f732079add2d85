//! One kernel: compiled for the device it is opened on, or loaded from the text that came with us.
//!
//! What a reader would get wrong: NVRTC may be there and make what the driver does not take. Then
//! too the text is loaded, which is of the oldest capability that we know.

use std::ffi::{CStr, CString, c_void};
use std::fmt;
use std::sync::Arc;

use cudarc::driver::sys;
use cudarc::nvrtc;

use crate::cuda::driver::{Context, check, log};
use crate::cuda::stream::CudaStream;
use crate::device::DeviceError;

/// What a kernel is made of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Source {
    /// The function's name.
    pub(crate) name: &'static CStr,
    /// The source's.
    pub(crate) file: &'static str,
    pub(crate) source: &'static str,
    /// What NVRTC of CUDA 12.0 makes of the source for capability 7.0.
    pub(crate) text: &'static str,
}

/// A kernel, loaded on a device.
#[derive(Debug)]
pub(crate) struct Module {
    module: sys::CUmodule,
    function: sys::CUfunction,
    origin: KernelOrigin,
    context: Arc<Context>,
}

// SAFETY: the driver's modules belong to no thread.
unsafe impl Send for Module {}
// SAFETY: as above, and the driver's calls may be made from several threads at once.
unsafe impl Sync for Module {}

/// Who compiled a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KernelOrigin {
    /// NVRTC, as the device was opened.
    Nvrtc,
    /// NVRTC, before; the text in this crate.
    Text,
}

impl Source {
    /// The kernel as text for any device of this capability and later ones.
    pub(crate) fn compile(&self, [major, minor]: [u32; 2]) -> Result<String, DeviceError> {
        let failed = |reason: String| DeviceError::Call {
            call: "nvrtcCompileProgram",
            bytes: self.source.len() as u64,
            reason,
        };
        // SAFETY: runs what the library does when it is loaded, which any CUDA program trusts.
        if !unsafe { nvrtc::sys::is_culib_present() } {
            return Err(DeviceError::Unsupported { what: "NVRTC is not installed" });
        }
        let options = nvrtc::CompileOptions {
            options: vec![format!("--gpu-architecture=compute_{major}{minor}")],
            name: Some(self.file.into()),
            ..nvrtc::CompileOptions::default()
        };
        let compiled = nvrtc::compile_ptx_with_opts(self.source, options);
        compiled.map(|text| text.to_src()).map_err(|error| failed(error.to_string()))
    }
}

impl Module {
    /// Compiles and loads it: by NVRTC where there is one that works, else from the text.
    pub(crate) fn load(
        context: &Arc<Context>,
        source: &Source,
        capability: [u32; 2],
    ) -> Result<Self, DeviceError> {
        let compiled = match source.compile(capability) {
            Ok(text) => Self::load_text(context, source.name, &text, KernelOrigin::Nvrtc),
            Err(error) => Err(error),
        };
        compiled.or_else(|error| {
            tracing::debug!(%error, "NVRTC is not used; the kernel is the text that came with us");
            Self::load_text(context, source.name, source.text, KernelOrigin::Text)
        })
    }

    pub(crate) fn load_text(
        context: &Arc<Context>,
        name: &CStr,
        text: &str,
        origin: KernelOrigin,
    ) -> Result<Self, DeviceError> {
        let _current = context.enter()?;
        let bytes = text.len() as u64;
        let zero_inside = DeviceError::Unsupported { what: "a kernel's text has a zero inside" };
        let text = CString::new(text).map_err(|_| zero_inside)?;
        let mut module = std::ptr::null_mut();
        // SAFETY: the text ends with a zero, and the place to write is ours.
        let code = unsafe { sys::cuModuleLoadData(&raw mut module, text.as_ptr().cast()) };
        check("cuModuleLoadData", bytes, code)?;
        let function = std::ptr::null_mut();
        let mut kernel = Self { module, function, origin, context: Arc::clone(context) };
        let (place, name) = (&raw mut kernel.function, name.as_ptr());
        // SAFETY: the module is loaded, the name ends with a zero, and the place to write is ours.
        let code = unsafe { sys::cuModuleGetFunction(place, module, name) };
        check("cuModuleGetFunction", 0, code)?;
        Ok(kernel)
    }

    pub(crate) const fn origin(&self) -> KernelOrigin {
        self.origin
    }

    /// Queues it, with the context current; `bytes` is for the words of an error.
    ///
    /// # Safety
    /// The arguments are those of the kernel, in its order, and point at what they are. What the
    /// kernel does with them stays inside memory that the stream keeps.
    pub(crate) unsafe fn launch(
        &self,
        stream: &CudaStream,
        blocks: u32,
        arguments: &mut [*mut c_void],
        bytes: u64,
    ) -> Result<(), DeviceError> {
        let (arguments, extra) = (arguments.as_mut_ptr(), std::ptr::null_mut());
        let (function, raw) = (self.function, stream.raw());
        // SAFETY: the caller keeps the same promise; arguments are read during the call.
        let code = unsafe {
            sys::cuLaunchKernel(
                function,
                blocks,
                1,
                1,
                BLOCK_THREADS,
                1,
                1,
                0,
                raw,
                arguments,
                extra,
            )
        };
        check("cuLaunchKernel", bytes, code)
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        let Ok(_current) = self.context.enter() else { return };
        // SAFETY: it was loaded here; no stream of this device is left, so nothing runs of it.
        let code = unsafe { sys::cuModuleUnload(self.module) };
        log("cuModuleUnload", code);
    }
}

impl fmt::Display for KernelOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nvrtc => "nvrtc",
            Self::Text => "text",
        })
    }
}

/// Blocks that `warps` warps of work fill, on at most `sms_max` multiprocessors.
pub(crate) fn blocks(warps: u32, sms_max: u32) -> u32 {
    warps.div_ceil(BLOCK_THREADS / LANES).clamp(1, sms_max.max(1))
}

pub(crate) const LANES: u32 = 32;
/// As many as a multiprocessor has room for with the registers that a kernel of ours takes.
const BLOCK_THREADS: u32 = 1024;

#[cfg(test)]
pub(crate) mod tests;
