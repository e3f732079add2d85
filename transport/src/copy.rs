//! Copies that are checked in the same pass, also of bytes that somebody may be writing.
//!
//! Bytes go in steps through a small place on the stack that stays in the innermost cache: what
//! goes there is what goes to the destination, and there it is checked. What a reader would get
//! wrong: it is not one copy too many. Checking the source and then copying it reads memory that
//! another process may have changed in between; checking the destination reads it back from where
//! it is farther away, or, after stores past the caches, from memory.

use std::mem::MaybeUninit;

/// From here on the destination is written past the caches, which saves reading it first, and
/// leaves the caches to others. Measured: from 128 KiB on it is faster even for a caller that reads
/// all of it at once, and for one that does not, from 16 KiB on.
pub(crate) const STREAM_BYTES_MIN: u64 = 128 << 10;

/// What is checked at a time, at most. Measured on cold bytes: 2 KiB is slower because every call
/// of a checksum costs something, 8 KiB and more because memory is idle while it runs.
pub(crate) const STEP_BYTES: usize = 4 << 10;

/// Copies `from` to `to` and shows `check` every byte of it, in order, piece by piece.
///
/// What `check` is shown may be in `to` by then.
///
/// # Panics
///
/// If they are not of one length.
pub fn copy_checked(from: &[u8], to: &mut [u8], check: impl FnMut(&[u8])) {
    assert_eq!(from.len(), to.len(), "as many bytes are copied as there is room for");
    let stores = Stores::of(to.len() as u64);
    // SAFETY: the slice is valid for reads, and as long.
    unsafe { stores.copy(from.as_ptr(), to, check) };
}

/// How bytes are put into the destination. Dropping it makes them count for other threads.
#[derive(Debug)]
pub(crate) struct Stores(Kind);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// As the library copies.
    Plain,
    /// From registers, into the caches.
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    Cached,
    /// From registers, past the caches.
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    Streamed,
}

impl Stores {
    /// The right ones for a copy of so many bytes, be it in one piece or in several.
    pub(crate) fn of(bytes: u64) -> Self {
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        if is_x86_feature_detected!("avx2") {
            return Self(if bytes < STREAM_BYTES_MIN { Kind::Cached } else { Kind::Streamed });
        }
        let _ = bytes;
        Self(Kind::Plain)
    }

    /// Fills `to` with the bytes at `from` and shows `check` every byte that it put there.
    ///
    /// If another process writes the bytes at `from` meanwhile, `to` gets what they were at some
    /// moment, each for itself, and `check` is shown exactly these.
    ///
    /// # Safety
    ///
    /// As many bytes as `to` has are mapped for reading at `from`. In this process nobody writes
    /// them meanwhile.
    pub(crate) unsafe fn copy(&self, from: *const u8, to: &mut [u8], mut check: impl FnMut(&[u8])) {
        let mut step = Step([MaybeUninit::uninit(); STEP_BYTES]);
        match self.0 {
            // SAFETY: the caller promised it.
            Kind::Plain => unsafe { step.copy(from, to, &mut check) },
            #[cfg(all(target_arch = "x86_64", not(miri)))]
            kind @ (Kind::Cached | Kind::Streamed) => {
                let head_bytes = to.as_ptr().align_offset(LINE_BYTES).min(to.len());
                let (head, to) = to.split_at_mut(head_bytes);
                let (lines, tail) = to.as_chunks_mut::<LINE_BYTES>();
                let from_lines = from.wrapping_add(head_bytes);
                let from_tail = from_lines.wrapping_add(lines.len() * LINE_BYTES);
                // SAFETY: the caller promised it of all the bytes, of which these are the first.
                unsafe { step.copy(from, head, &mut check) };
                if kind == Kind::Cached {
                    // SAFETY: as above, these follow; this kind is chosen only if there is AVX2.
                    unsafe { step.copy_lines::<false>(from_lines, lines, &mut check) };
                } else {
                    // SAFETY: as above; the drop fences.
                    unsafe { step.copy_lines::<true>(from_lines, lines, &mut check) };
                }
                // SAFETY: as above, these follow.
                unsafe { step.copy(from_tail, tail, &mut check) };
            }
        }
    }
}

impl Drop for Stores {
    fn drop(&mut self) {
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        if self.0 == Kind::Streamed {
            // Stores past the caches are in no order with those that tell others of them.
            // SAFETY: every processor of this architecture has it.
            unsafe { std::arch::x86_64::_mm_sfence() };
        }
    }
}

/// Where bytes are checked: nobody else's.
#[repr(C, align(64))]
struct Step([MaybeUninit<u8>; STEP_BYTES]);

impl Step {
    /// Fills `to` from `from`, step by step.
    ///
    /// # Safety
    ///
    /// As [`Stores::copy`].
    unsafe fn copy(&mut self, from: *const u8, to: &mut [u8], check: &mut impl FnMut(&[u8])) {
        let mut from = from;
        for to in to.chunks_mut(STEP_BYTES) {
            // SAFETY: the caller promised that these bytes can be read.
            let copied = unsafe { self.take(from, to.len()) };
            check(copied);
            to.copy_from_slice(copied);
            from = from.wrapping_add(to.len());
        }
    }

    /// Takes `bytes` bytes, and shows what it got.
    ///
    /// # Safety
    ///
    /// So many bytes are mapped for reading at `from`, and in this process nobody writes them now.
    unsafe fn take(&mut self, from: *const u8, bytes: usize) -> &[u8] {
        let own = self.0[..bytes].as_mut_ptr().cast::<u8>();
        // SAFETY: the caller promised it of the source; the destination is our own, and as long.
        // Another process may write the source meanwhile; no reference to it is made here, and what
        // arrives in the place on the stack is what counts.
        unsafe { std::ptr::copy_nonoverlapping(from, own, bytes) };
        // The compiler may take bytes that it has just seen copied from where they came from, which
        // would be to read them a second time. After this it has to believe that they are others.
        // SAFETY: does nothing.
        #[cfg(not(miri))]
        unsafe {
            std::arch::asm!("/* {0} */", in(reg) own, options(nostack, preserves_flags));
        }
        // SAFETY: so many bytes were written there just now.
        unsafe { self.shown(bytes) }
    }

    /// # Safety
    ///
    /// The first `bytes` bytes were written.
    unsafe fn shown(&self, bytes: usize) -> &[u8] {
        let own = &self.0[..bytes];
        // SAFETY: they are ours, borrowed with the slice, and the caller promised that they are
        // initialised.
        unsafe { std::slice::from_raw_parts(own.as_ptr().cast(), bytes) }
    }

    /// As [`Step::copy`], whole lines, past the caches if `STREAMED`.
    ///
    /// # Safety
    ///
    /// As [`Stores::copy`]; the lines begin at whole multiples of theirs, the processor has AVX2,
    /// and if `STREAMED` somebody fences afterwards.
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    unsafe fn copy_lines<const STREAMED: bool>(
        &mut self,
        from: *const u8,
        lines: &mut [[u8; LINE_BYTES]],
        check: &mut impl FnMut(&[u8]),
    ) {
        let mut from = from;
        let mut lines_left = lines.len();
        let begins_page = lines.as_ptr().addr().is_multiple_of(PAGE_BYTES);
        let lines_early = if STREAMED && begins_page { LINES_EARLY.min(lines_left) } else { 0 };
        let (first, rest) = lines.split_at_mut(lines_early);
        let steps = |lines| <[_]>::chunks_mut(lines, STEP_BYTES / LINE_BYTES);
        for lines in steps(first).chain(steps(rest)) {
            // SAFETY: the caller promised it all.
            unsafe { self.step_lines::<STREAMED>(from, lines) };
            let bytes = lines.len() * LINE_BYTES;
            from = from.wrapping_add(bytes);
            lines_left -= lines.len();
            // The checksum leaves memory idle: let it fetch what the next step begins with.
            for line in 0..lines_left.min(LINES_AHEAD) {
                use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
                let line = from.wrapping_add(line * LINE_BYTES);
                // SAFETY: a hint, which every processor of this architecture has.
                unsafe { _mm_prefetch::<_MM_HINT_T1>(line.cast()) };
            }
            // SAFETY: so many bytes were written just now.
            check(unsafe { self.shown(bytes) });
        }
    }

    /// Copies lines to the destination and to the step, from one read of the source.
    ///
    /// # Safety
    ///
    /// As [`Step::copy_lines`], and there are no more lines than in a step.
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    #[target_feature(enable = "avx2")]
    unsafe fn step_lines<const STREAMED: bool>(
        &mut self,
        from: *const u8,
        lines: &mut [[u8; LINE_BYTES]],
    ) {
        use std::arch::x86_64::{
            __m256i, _mm256_loadu_si256, _mm256_store_si256, _mm256_stream_si256,
        };
        let (own_lines, _) = self.0.as_chunks_mut::<LINE_BYTES>();
        let mut from = from.cast::<__m256i>();
        for (own, to) in own_lines.iter_mut().zip(lines) {
            let (own, to) = (own.as_mut_ptr().cast::<__m256i>(), to.as_mut_ptr().cast::<__m256i>());
            // SAFETY: the caller promised that the whole line can be read. Another process may
            // write it meanwhile; whatever arrives is what counts.
            let mut low = unsafe { _mm256_loadu_si256(from) };
            // SAFETY: as above.
            let mut high = unsafe { _mm256_loadu_si256(from.wrapping_add(1)) };
            // After this the compiler knows of no other place that has these bytes, so both places
            // get the same.
            // SAFETY: does nothing.
            unsafe {
                std::arch::asm!(
                    "/* {0} {1} */",
                    inout(ymm_reg) low,
                    inout(ymm_reg) high,
                    options(nomem, nostack, preserves_flags)
                );
            }
            // SAFETY: half a line of the step, which is aligned to lines.
            unsafe { _mm256_store_si256(own, low) };
            // SAFETY: its other half.
            unsafe { _mm256_store_si256(own.wrapping_add(1), high) };
            if STREAMED {
                // SAFETY: half a line of the destination, aligned; the caller fences.
                unsafe { _mm256_stream_si256(to, low) };
                // SAFETY: its other half.
                unsafe { _mm256_stream_si256(to.wrapping_add(1), high) };
            } else {
                // SAFETY: as above.
                unsafe { _mm256_store_si256(to, low) };
                // SAFETY: as above.
                unsafe { _mm256_store_si256(to.wrapping_add(1), high) };
            }
            from = from.wrapping_add(2);
        }
    }
}

const LINE_BYTES: usize = 64;
const _: () = assert!(STEP_BYTES.is_multiple_of(LINE_BYTES) && align_of::<Step>() == LINE_BYTES);
/// Measured: 16 to 32 are worth 4 %. More cost more than they bring; so do hints in the copy's own
/// loop, and those for the innermost cache.
#[cfg(all(target_arch = "x86_64", not(miri)))]
const LINES_AHEAD: usize = 32;
/// How long the first step is if the destination begins a page. Else each step would begin one, and
/// wait for its translation; so that is looked up at the end of a step, while the checksum runs.
/// Measured, of cold bytes, at any place of the source in its page: a tenth faster.
#[cfg(all(target_arch = "x86_64", not(miri)))]
const LINES_EARLY: usize = 2;
#[cfg(all(target_arch = "x86_64", not(miri)))]
const PAGE_BYTES: usize = 4 << 10;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn kinds() -> Vec<Kind> {
        let mut kinds = vec![Kind::Plain, Stores::of(0).0, Stores::of(STREAM_BYTES_MIN).0];
        kinds.dedup();
        kinds
    }

    fn numbered(bytes: usize) -> Vec<u8> {
        (0..bytes).map(|i| (i * 7 + i / 256 * 13) as u8).collect()
    }

    /// Copies `bytes` bytes between places with these many bytes before them, that of the
    /// destination in its page, and looks at it all.
    fn copy_and_look(kind: Kind, bytes: usize, from_skip: usize, to_skip: usize) {
        let source = numbered(from_skip + bytes);
        let mut target = vec![0xEE; STEP_BYTES + to_skip + bytes + 100];
        let to_skip = target.as_ptr().align_offset(STEP_BYTES) + to_skip;
        let (mut shown, mut calls) = (Vec::new(), 0);
        let stores = Stores(kind);
        let to = &mut target[to_skip..to_skip + bytes];
        // SAFETY: the slice behind the skipped bytes is as long.
        unsafe {
            stores.copy(source[from_skip..].as_ptr(), to, |step| {
                assert!(!step.is_empty() && step.len() <= STEP_BYTES);
                shown.extend_from_slice(step);
                calls += 1;
            });
        }
        drop(stores);
        assert!(calls <= bytes.div_ceil(STEP_BYTES) + 2);
        assert_eq!(shown, source[from_skip..]);
        assert_eq!(target[to_skip..to_skip + bytes], source[from_skip..]);
        let around = target[..to_skip].iter().chain(&target[to_skip + bytes..]);
        assert!(around.copied().all(|byte| byte == 0xEE));
    }

    #[test]
    fn every_small_size_arrives() {
        let (bytes_max, skip_step) = if cfg!(miri) { (70, 61) } else { (300, 7) };
        for kind in kinds() {
            for bytes in 0..bytes_max {
                for skip in (0..70).step_by(skip_step) {
                    copy_and_look(kind, bytes, skip, 0);
                    copy_and_look(kind, bytes, 0, skip);
                }
            }
        }
    }

    #[cfg(not(miri))]
    proptest! {
        #[test]
        fn every_alignment_arrives(
            bytes in 0usize..5 * STEP_BYTES,
            near in -70isize..70,
            steps in 0usize..4,
            from_skip in 0usize..130,
            to_skip in 0usize..130,
        ) {
            for kind in kinds() {
                copy_and_look(kind, bytes, from_skip, to_skip);
                // Where steps end is where it goes wrong, if it does.
                let bytes = (steps * STEP_BYTES).saturating_add_signed(near);
                copy_and_look(kind, bytes, from_skip, to_skip);
            }
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "too much for it")]
    fn large_copies_arrive() {
        let source = numbered(STREAM_BYTES_MIN as usize + 5);
        for skip in 0..5 {
            let mut target = vec![0; source.len() - skip];
            let mut shown = Vec::new();
            copy_checked(&source[skip..], &mut target, |step| shown.extend_from_slice(step));
            assert_eq!(target, source[skip..]);
            assert_eq!(shown, target);
        }
    }

    #[test]
    #[should_panic(expected = "as many bytes are copied as there is room for")]
    fn lengths_are_the_same() {
        copy_checked(&[1, 2], &mut [0], |_| ());
    }
}
