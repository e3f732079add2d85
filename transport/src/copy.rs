//! Copies that are checked in the same pass, also of bytes that somebody may be writing.
//!
//! Bytes go in steps through a small place on the stack that stays in the innermost cache: taken
//! from the source, checked there, put into the destination. What a reader would get wrong: it is
//! not one copy too many. Checking the source and then copying it reads memory that another process
//! may have changed in between; checking the destination reads it back from where it is farther
//! away, or, after stores past the caches, from memory.

use std::mem::MaybeUninit;

/// From here on the destination is written past the caches, which saves reading it first, and
/// leaves the caches to others.
pub const STREAM_BYTES_MIN: u64 = 256 << 10;

/// What is checked at a time, at most. Small against an innermost cache (32 KiB or more), of which
/// the source's next bytes take as much.
pub const STEP_BYTES: usize = 8 << 10;

/// Copies `from` to `to` and shows `check` every byte on its way, in order, piece by piece.
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
    Ordinary,
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    Streamed,
}

impl Stores {
    /// The right ones for a copy of so many bytes, be it in one piece or in several.
    pub(crate) fn of(bytes: u64) -> Self {
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        if bytes >= STREAM_BYTES_MIN && is_x86_feature_detected!("avx2") {
            return Self(Kind::Streamed);
        }
        let _ = bytes;
        Self(Kind::Ordinary)
    }

    /// Fills `to` with the bytes at `from` and shows `check` every byte that it puts there.
    ///
    /// If somebody writes the bytes at `from` meanwhile, `to` gets what they were at some moment,
    /// each for itself, and `check` is shown exactly these.
    ///
    /// # Safety
    ///
    /// As many bytes as `to` has are mapped for reading at `from`. In this process nobody writes
    /// them meanwhile.
    pub(crate) unsafe fn copy(&self, from: *const u8, to: &mut [u8], mut check: impl FnMut(&[u8])) {
        let mut step = Step([MaybeUninit::uninit(); STEP_BYTES]);
        let mut done = 0;
        while done < to.len() {
            let rest = &mut to[done..];
            // Every step but the first begins where a cache line of the destination does.
            let step_bytes = STEP_BYTES - rest.as_ptr().addr() % LINE_BYTES;
            let (next, rest) = rest.split_at_mut(step_bytes.min(rest.len()));
            // SAFETY: fewer bytes were done than there are.
            let at = unsafe { from.add(done) };
            // SAFETY: the caller promised that these bytes can be read.
            let copied = unsafe { step.take(at, next.len()) };
            check(copied);
            done += next.len();
            let ahead = if rest.is_empty() { at } else { at.wrapping_add(next.len()) };
            self.put(copied, next, ahead);
        }
    }

    /// Fills `to`, and meanwhile asks for the bytes at `ahead`.
    fn put(&self, bytes: &[u8], to: &mut [u8], ahead: *const u8) {
        match self.0 {
            Kind::Ordinary => to.copy_from_slice(bytes),
            #[cfg(all(target_arch = "x86_64", not(miri)))]
            // SAFETY: this kind is chosen only where the processor has AVX2.
            Kind::Streamed => unsafe { stream(bytes, to, ahead) },
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
    /// Takes `bytes` bytes, and shows what it got.
    ///
    /// # Safety
    ///
    /// So many bytes are mapped for reading at `from`, and in this process nobody writes them now.
    unsafe fn take(&mut self, from: *const u8, bytes: usize) -> &[u8] {
        let step = &mut self.0[..bytes];
        let own = step.as_mut_ptr().cast::<u8>();
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
        // SAFETY: so many bytes were written there just now, and `self` is borrowed with the slice.
        unsafe { std::slice::from_raw_parts(own, bytes) }
    }
}

/// Fills `to` past the caches, whole lines of it, and asks for as much at `ahead`.
#[cfg(all(target_arch = "x86_64", not(miri)))]
#[target_feature(enable = "avx2")]
fn stream(bytes: &[u8], to: &mut [u8], ahead: *const u8) {
    use std::arch::x86_64::{
        __m256i, _MM_HINT_T0, _mm_prefetch, _mm256_loadu_si256, _mm256_stream_si256,
    };
    let head = to.as_ptr().align_offset(LINE_BYTES).min(to.len());
    let (to_head, to) = to.split_at_mut(head);
    let (head, bytes) = bytes.split_at(head);
    to_head.copy_from_slice(head);
    let (lines, tail) = bytes.as_chunks::<LINE_BYTES>();
    let (to_lines, to_tail) = to.as_chunks_mut::<LINE_BYTES>();
    for (index, (line, to_line)) in lines.iter().zip(to_lines).enumerate() {
        let ahead = ahead.wrapping_add(index * LINE_BYTES);
        // A hint: it faults nowhere.
        _mm_prefetch::<_MM_HINT_T0>(ahead.cast());
        let from = line.as_ptr().cast::<__m256i>();
        let to = to_line.as_mut_ptr().cast::<__m256i>();
        // SAFETY: the first half of a line of 64 bytes.
        let low = unsafe { _mm256_loadu_si256(from) };
        // SAFETY: its second half begins inside.
        let from_high = unsafe { from.add(1) };
        // SAFETY: as above.
        let high = unsafe { _mm256_loadu_si256(from_high) };
        // SAFETY: the first half of a line that is aligned; `Stores` fences before it is dropped.
        unsafe { _mm256_stream_si256(to, low) };
        // SAFETY: its second half begins inside.
        let to_high = unsafe { to.add(1) };
        // SAFETY: as above.
        unsafe { _mm256_stream_si256(to_high, high) };
    }
    to_tail.copy_from_slice(tail);
}

const LINE_BYTES: usize = 64;
const _: () = assert!(STEP_BYTES.is_multiple_of(LINE_BYTES) && STEP_BYTES >= 2 * LINE_BYTES);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn kinds() -> Vec<Kind> {
        let mut kinds = vec![Kind::Ordinary, Stores::of(STREAM_BYTES_MIN).0];
        kinds.dedup();
        kinds
    }

    fn numbered(bytes: usize) -> Vec<u8> {
        (0..bytes).map(|i| (i * 7 + i / 256 * 13) as u8).collect()
    }

    /// Copies `bytes` bytes between places with these many bytes before them, and looks at it all.
    fn copy_and_look(kind: Kind, bytes: usize, from_skip: usize, to_skip: usize) {
        let source = numbered(from_skip + bytes);
        let mut target = vec![0xEE; to_skip + bytes + 100];
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
        assert!(calls <= bytes.div_ceil(STEP_BYTES) + 1);
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
