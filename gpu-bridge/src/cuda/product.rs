//! A matrix product beside the copies: what a model loses while they run.
//!
//! What a reader would get wrong: this measures somebody else's library. Its speed says nothing of
//! ours; only with and without copies, in one run, does.

use cudarc::cublas::sys;

use crate::cuda::CudaDevice;
use crate::cuda::memory::CudaMemory;
use crate::cuda::stream::CudaStream;
use crate::device::{Device, DeviceError};

/// Square matrices of 16-bit floats, and the library that multiplies them.
#[derive(Debug)]
pub struct Product {
    library: sys::cublasHandle_t,
    stream: CudaStream,
    device: CudaDevice,
    sides: [CudaMemory; 3],
    extent: u32,
}

// SAFETY: the library's handle belongs to no thread; one at a time uses it, for this is not `Sync`.
unsafe impl Send for Product {}

impl Product {
    /// Matrices of `extent` rows and columns, zeroed but for what `fill` is copied into.
    ///
    /// # Errors
    /// [`DeviceError::Unsupported`] where cuBLAS is not installed.
    pub fn new(device: &CudaDevice, extent: u32, fill: &[u8]) -> Result<Self, DeviceError> {
        // SAFETY: runs what the library does when it is loaded, which any CUDA program trusts.
        if !unsafe { sys::is_culib_present() } {
            return Err(DeviceError::Unsupported { what: "cuBLAS is not installed" });
        }
        let bytes = u64::from(extent) * u64::from(extent) * 2;
        let side = || device.allocate(bytes);
        let sides = [side()?, side()?, side()?];
        for side in &sides[..2] {
            let known = fill.len().min(side.bytes() as usize);
            side.write(&fill[..known])?;
        }
        let stream = device.stream()?;
        let _current = device.context().enter()?;
        let mut library = std::ptr::null_mut();
        // SAFETY: the context is current, and the place to write is ours.
        let status = unsafe { sys::cublasCreate_v2(&raw mut library) };
        check("cublasCreate", 0, status)?;
        let product = Self { library, stream, device: device.clone(), sides, extent };
        let raw = product.stream.raw().cast();
        // SAFETY: the stream is of the current context, and lives as long as the handle.
        let status = unsafe { sys::cublasSetStream_v2(product.library, raw) };
        check("cublasSetStream", 0, status)?;
        Ok(product)
    }

    /// Queues one product.
    ///
    /// # Errors
    /// [`DeviceError::Call`].
    pub fn submit(&mut self) -> Result<(), DeviceError> {
        let _current = self.device.context().enter()?;
        let (one, zero) = (1.0_f32, 0.0_f32);
        let [a, b, c] = self.sides.each_ref().map(|side| side.address() as usize);
        let n = self.extent.cast_signed();
        let (plain, kind) = (sys::cublasOperation_t::CUBLAS_OP_N, sys::cudaDataType::CUDA_R_16BF);
        let a = std::ptr::with_exposed_provenance(a);
        let b = std::ptr::with_exposed_provenance(b);
        let c = std::ptr::with_exposed_provenance_mut(c);
        let compute = sys::cublasComputeType_t::CUBLAS_COMPUTE_32F;
        let way = sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT;
        let (one, zero) = ((&raw const one).cast(), (&raw const zero).cast());
        // SAFETY: the three matrices have so many elements of this kind, and the factors are read
        // during the call.
        let status = unsafe {
            sys::cublasGemmEx(
                self.library,
                plain,
                plain,
                n,
                n,
                n,
                one,
                a,
                kind,
                n,
                b,
                kind,
                n,
                zero,
                c,
                kind,
                n,
                compute,
                way,
            )
        };
        check("cublasGemmEx", self.sides[0].bytes(), status)
    }

    /// Waits for all of them.
    ///
    /// # Errors
    /// [`DeviceError::Call`].
    pub fn finish(&mut self) -> Result<(), DeviceError> {
        self.stream.finish()
    }
}

impl Drop for Product {
    fn drop(&mut self) {
        let ended = self.stream.finish();
        let Ok(_current) = self.device.context().enter() else { return };
        // SAFETY: it was made here, and its stream is empty.
        let status = unsafe { sys::cublasDestroy_v2(self.library) };
        let destroyed = check("cublasDestroy", 0, status);
        if let Err(error) = ended.and(destroyed) {
            tracing::error!(%error, "a product did not end well");
        }
    }
}

fn check(call: &'static str, bytes: u64, status: sys::cublasStatus_t) -> Result<(), DeviceError> {
    if status == sys::cublasStatus_t::CUBLAS_STATUS_SUCCESS {
        return Ok(());
    }
    Err(DeviceError::Call { call, bytes, reason: format!("{status:?} ({})", status as u32) })
}
