//! Streams, events, and what a stream keeps until the device is done with it.
//!
//! What a reader would get wrong: the device does not say by itself that something happened. What
//! is kept is let go of by the next call that asks, so a stream that nobody asks keeps it.

use std::any::Any;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::driver::sys;

use crate::cuda::driver::{Context, check, log};
use crate::cuda::list::List;
use crate::device::DeviceError;

/// A stream of a device: our own, or a caller's that was adopted.
#[derive(Debug)]
pub struct CudaStream {
    raw: sys::CUstream,
    is_adopted: bool,
    kept: Arc<Kept>,
    context: Arc<Context>,
}

// SAFETY: the driver's streams belong to no thread.
unsafe impl Send for CudaStream {}

/// A point in a stream.
#[derive(Debug, Clone)]
pub struct CudaEvent {
    raw: Arc<Raw>,
    kept: Arc<Kept>,
}

#[derive(Debug)]
struct Raw {
    raw: sys::CUevent,
    context: Arc<Context>,
}

// SAFETY: the driver's events belong to no thread.
unsafe impl Send for Raw {}
// SAFETY: as above, and the driver's calls may be made from several threads at once.
unsafe impl Sync for Raw {}

/// What the copies under way use, each with the event behind it, and lists that none uses.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    waiting: VecDeque<(Arc<Raw>, Held)>,
    lists: Vec<List>,
}

#[derive(Debug)]
pub(crate) enum Held {
    Any(#[expect(dead_code, reason = "it is here to be dropped")] Box<dyn Any + Send>),
    List(List),
}

impl CudaStream {
    pub(crate) fn new(context: &Arc<Context>) -> Result<Self, DeviceError> {
        let _current = context.enter()?;
        let mut raw = std::ptr::null_mut();
        let flags = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
        // SAFETY: the context is current, and the place to write is ours.
        let code = unsafe { sys::cuStreamCreate(&raw mut raw, flags) };
        check("cuStreamCreate", 0, code)?;
        Ok(Self::over(context, raw, false))
    }

    /// Has a list ready, so that the first launch allocates nothing.
    pub(crate) fn prepare(&self) -> Result<(), DeviceError> {
        let list = List::new(&self.context)?;
        self.kept.lock().lists.push(list);
        Ok(())
    }

    /// Over a caller's stream, which outlives this.
    pub(crate) fn adopted(context: &Arc<Context>, raw: sys::CUstream) -> Self {
        Self::over(context, raw, true)
    }

    fn over(context: &Arc<Context>, raw: sys::CUstream, is_adopted: bool) -> Self {
        Self { raw, is_adopted, kept: Arc::default(), context: Arc::clone(context) }
    }

    pub(crate) const fn raw(&self) -> sys::CUstream {
        self.raw
    }

    /// Has this stream wait for what another has so far, on the device: to store what a model is
    /// still computing.
    ///
    /// # Safety
    /// `other` is a `CUstream` or `cudaStream_t` of the same device's primary context.
    ///
    /// # Errors
    /// [`DeviceError::Call`]; [`DeviceError::Unsupported`] if a graph is captured of `other`.
    pub unsafe fn follow(&mut self, other: u64) -> Result<(), DeviceError> {
        let other = std::ptr::with_exposed_provenance_mut(other as usize);
        refuse_capture(&self.context, other)?;
        let event = mark(&self.context, other)?;
        let _current = self.context.enter()?;
        // SAFETY: both are of this context.
        let code = unsafe { sys::cuStreamWaitEvent(self.raw, event.raw, 0) };
        check("cuStreamWaitEvent", 0, code)
    }

    /// A list that no kernel uses.
    pub(crate) fn list(&self) -> Result<List, DeviceError> {
        self.kept.let_go();
        let free = self.kept.lock().lists.pop();
        free.map_or_else(|| List::new(&self.context), Ok)
    }

    /// The point behind everything so far.
    pub(crate) fn record(&self) -> Result<CudaEvent, DeviceError> {
        self.kept.let_go();
        Ok(CudaEvent { raw: self.mark()?, kept: Arc::clone(&self.kept) })
    }

    /// Keeps something until everything so far has happened.
    pub(crate) fn keep(&self, held: impl IntoIterator<Item = Held>) -> Result<(), DeviceError> {
        self.kept.let_go();
        let held: Vec<_> = held.into_iter().collect();
        match self.mark() {
            Ok(event) => {
                let held = held.into_iter().map(|held| (Arc::clone(&event), held));
                self.kept.lock().waiting.extend(held);
                Ok(())
            }
            // No event to wait for: it is let go of when the stream is empty, or never.
            Err(error) => self.finish().map_or_else(
                |worse| {
                    std::mem::forget(held);
                    Err(worse)
                },
                |()| Err(error),
            ),
        }
    }

    /// Waits until the stream is empty.
    pub(crate) fn finish(&self) -> Result<(), DeviceError> {
        let _current = self.context.enter()?;
        // SAFETY: the stream is ours, or a caller's that outlives this.
        let code = unsafe { sys::cuStreamSynchronize(self.raw) };
        check("cuStreamSynchronize", 0, code)?;
        self.kept.let_go();
        Ok(())
    }

    fn mark(&self) -> Result<Arc<Raw>, DeviceError> {
        mark(&self.context, self.raw).map(Arc::new)
    }
}

impl Drop for CudaStream {
    /// Waits for all of it: the device cancels nothing.
    fn drop(&mut self) {
        if let Err(error) = self.finish() {
            // What is kept may still be used, so it stays for good.
            tracing::error!(%error, "a stream ended badly; what it used is not freed");
            let waiting = std::mem::take(&mut self.kept.lock().waiting);
            std::mem::forget(waiting);
        }
        if self.is_adopted {
            return;
        }
        let Ok(_current) = self.context.enter() else { return };
        // SAFETY: it was created here, and nobody else knows it.
        let code = unsafe { sys::cuStreamDestroy_v2(self.raw) };
        log("cuStreamDestroy", code);
    }
}

impl CudaEvent {
    /// Whether the stream has come past it.
    pub(crate) fn has_happened(&self) -> Result<bool, DeviceError> {
        let happened = self.raw.has_happened()?;
        self.kept.let_go();
        Ok(happened)
    }

    /// Waits until the stream has come past it.
    pub(crate) fn wait(&self) -> Result<(), DeviceError> {
        let _current = self.raw.context.enter()?;
        // SAFETY: the event lives as long as `self`.
        let code = unsafe { sys::cuEventSynchronize(self.raw.raw) };
        check("cuEventSynchronize", 0, code)?;
        self.kept.let_go();
        Ok(())
    }

    /// Has a stream of a caller's wait for it, on the device: nobody waits on the host.
    ///
    /// # Safety
    /// `stream` is a `CUstream` or `cudaStream_t` of the same device's primary context.
    ///
    /// # Errors
    /// [`DeviceError::Call`]; [`DeviceError::Unsupported`] if a graph is captured of the stream.
    pub unsafe fn hold_back(&self, stream: u64) -> Result<(), DeviceError> {
        let stream = std::ptr::with_exposed_provenance_mut(stream as usize);
        refuse_capture(&self.raw.context, stream)?;
        let _current = self.raw.context.enter()?;
        // SAFETY: the event is ours, and the stream is as the caller promises.
        let code = unsafe { sys::cuStreamWaitEvent(stream, self.raw.raw, 0) };
        check("cuStreamWaitEvent", 0, code)
    }
}

impl Raw {
    fn has_happened(&self) -> Result<bool, DeviceError> {
        let _current = self.context.enter()?;
        // SAFETY: the event lives as long as `self`.
        let code = unsafe { sys::cuEventQuery(self.raw) };
        if code == sys::CUresult::CUDA_ERROR_NOT_READY {
            return Ok(false);
        }
        check("cuEventQuery", 0, code)?;
        Ok(true)
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let Ok(_current) = self.context.enter() else { return };
        // SAFETY: it was created once; one that has not happened may be destroyed all the same.
        let code = unsafe { sys::cuEventDestroy_v2(self.raw) };
        log("cuEventDestroy", code);
    }
}

/// Copies of ours in a graph would read and write again whatever lies there when it is launched.
fn refuse_capture(context: &Arc<Context>, stream: sys::CUstream) -> Result<(), DeviceError> {
    let _current = context.enter()?;
    let none = sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE;
    let mut status = none;
    // SAFETY: the stream is as a caller promised, and the place to write is ours.
    let code = unsafe { sys::cuStreamIsCapturing(stream, &raw mut status) };
    check("cuStreamIsCapturing", 0, code)?;
    if status == none {
        return Ok(());
    }
    let what = "a graph is being captured of that stream: copies of objects are no part of one";
    Err(DeviceError::Unsupported { what })
}

/// An event behind all that a stream of this context has.
fn mark(context: &Arc<Context>, stream: sys::CUstream) -> Result<Raw, DeviceError> {
    let _current = context.enter()?;
    let mut raw = std::ptr::null_mut();
    let flags = sys::CUevent_flags::CU_EVENT_DISABLE_TIMING as u32;
    // SAFETY: the context is current, and the place to write is ours.
    let code = unsafe { sys::cuEventCreate(&raw mut raw, flags) };
    check("cuEventCreate", 0, code)?;
    let event = Raw { raw, context: Arc::clone(context) };
    // SAFETY: the event is new, and the stream is ours or as a caller promised.
    let code = unsafe { sys::cuEventRecord(event.raw, stream) };
    check("cuEventRecord", 0, code)?;
    Ok(event)
}

impl Kept {
    /// Lets go of all whose event has happened. After an error of the device nothing is.
    fn let_go(&self) {
        let mut gone = Vec::new();
        let mut inner = self.lock();
        let mut known = None;
        while let Some((event, _)) = inner.waiting.front() {
            // Several are behind one event.
            let is_known = known.as_ref().is_some_and(|known| Arc::ptr_eq(known, event));
            if !is_known && !matches!(event.has_happened(), Ok(true)) {
                break;
            }
            known = Some(Arc::clone(event));
            match inner.waiting.pop_front() {
                Some((_, Held::List(list))) => inner.lists.push(list),
                held => gone.push(held),
            }
        }
        // What is dropped may be anything, so not under the lock.
        drop(inner);
        drop(gone);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
