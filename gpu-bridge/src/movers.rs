//! What moves pieces, by their length.
//!
//! Copy engines run beside a model's kernels and cost nothing but a microsecond or so for each
//! piece; a kernel takes thousands of pieces at once, and multiprocessors from the model. Where the
//! one overtakes the other is measured by `benches/gpu/run.sh`, not known here.

/// What moves what, and how much of a device it may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Movers {
    /// Up to this length on average, pieces are moved by the kernel; 0 for never.
    pub kernel_piece_bytes_max: u64,
    /// How many multiprocessors the kernel may take.
    pub sms_max: u32,
    /// Whether copies are given to the driver by batches, where it can take them.
    pub batches: bool,
}

impl Default for Movers {
    /// Guesses, until they were measured on the device in question.
    fn default() -> Self {
        Self { kernel_piece_bytes_max: 128 << 10, sms_max: 8, batches: true }
    }
}
