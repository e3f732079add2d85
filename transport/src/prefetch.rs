//! Has memory loaded before it is read, without waiting for it.
//!
//! What a reader would get wrong: it changes nothing but time. Where the processor has no such
//! instruction, or this crate does not know it, nothing happens.

/// Asks for every cache line of `value` to be loaded.
#[inline]
pub fn prefetch<T: ?Sized>(value: &T) {
    let start = std::ptr::from_ref(value).cast::<u8>();
    for_each_line(size_of_val(value), |offset| prefetch_line(start.wrapping_add(offset)));
}

/// Calls `ask` with an offset in each line that `bytes` bytes lie in, wherever they begin.
#[inline]
fn for_each_line(bytes: usize, mut ask: impl FnMut(usize)) {
    let mut offset = 0;
    while offset < bytes {
        ask(offset);
        offset += LINE_BYTES;
    }
    // What begins in the middle of a line ends in another.
    ask(bytes.saturating_sub(1));
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
    fn every_line_is_asked_for_wherever_a_value_begins() {
        for (start, bytes) in (0..LINE_BYTES).flat_map(|start| (1..300).map(move |n| (start, n))) {
            let mut asked = Vec::new();
            for_each_line(bytes, |offset| asked.push((start + offset) / LINE_BYTES));
            asked.dedup();
            let lines = start / LINE_BYTES..=(start + bytes - 1) / LINE_BYTES;
            assert_eq!(asked, lines.collect::<Vec<_>>(), "{bytes} bytes from {start}");
        }
    }

    #[test]
    fn a_value_without_bytes_may_be_asked_for_and_none_is_changed() {
        prefetch::<[u8]>(&[]);
        prefetch(&());
        let value = [7_u8; 1000];
        prefetch(&value[..]);
        assert_eq!(value, [7; 1000]);
    }
}
