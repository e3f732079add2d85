//! Has memory loaded before it is read, without waiting for it.
//!
//! What a reader would get wrong: it changes nothing but time. Where the processor has no such
//! instruction, or this crate does not know it, nothing happens.

/// Asks for every cache line of `value` to be loaded.
#[inline]
pub fn prefetch<T: ?Sized>(value: &T) {
    let start = std::ptr::from_ref(value).cast::<u8>();
    let mut offset = 0;
    while offset < size_of_val(value) {
        prefetch_line(start.wrapping_add(offset));
        offset += LINE_BYTES;
    }
    // One that begins in the middle of a line ends in another.
    prefetch_line(start.wrapping_add(size_of_val(value).saturating_sub(1)));
}

#[inline]
fn prefetch_line(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch reads nothing that a program could see and faults at no address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

const LINE_BYTES: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_value_may_be_asked_for() {
        prefetch(&[0u8; 1000][..]);
        prefetch::<[u8]>(&[]);
        prefetch(&7u64);
        prefetch(&());
    }
}
