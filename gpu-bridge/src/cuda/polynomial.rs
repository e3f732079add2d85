//! Arithmetic with remainders of CRC-64/NVME, so that checksums of pieces make one of the whole.
//!
//! A remainder is a polynomial over two numbers, 0 and 1, below degree 64. What a reader would get
//! wrong: bits are reversed, as this checksum has them: the highest bit is the one of x to the 0,
//! and a byte that comes first has the highest powers.

/// The product of two remainders.
pub(crate) const fn product(mut a: u64, mut b: u64) -> u64 {
    let (mut product, mut step) = (0, 0);
    while step < 64 {
        product ^= a & (b >> 63).wrapping_neg();
        b <<= 1;
        a = times_x(a);
        step += 1;
    }
    product
}

/// What bytes that are followed by `bytes` others are multiplied by: x to the 8 × `bytes`.
pub(crate) const fn behind(mut bytes: u64) -> u64 {
    let (mut power, mut square) = (ONE, X_TO_8);
    while bytes > 0 {
        if bytes & 1 == 1 {
            power = product(power, square);
        }
        square = product(square, square);
        bytes >>= 1;
    }
    power
}

/// The remainder that was followed by `zeros` bytes of nothing, without these.
pub(crate) fn without(mut remainder: u64, zeros: u64) -> u64 {
    for _ in 0..8 * zeros {
        // The highest bit came from the modulus alone if it is set.
        let (odd, by) = if remainder >> 63 == 1 { (1, MODULUS) } else { (0, 0) };
        remainder = ((remainder ^ by) << 1) | odd;
    }
    remainder
}

/// The checksum of bytes, from their plain remainder and [`behind`] of their number.
pub(crate) const fn checksum(remainder: u64, behind: u64) -> u64 {
    // It begins with all bits set, and they are all turned over at the end.
    !(remainder ^ product(u64::MAX, behind))
}

const fn times_x(a: u64) -> u64 {
    (a >> 1) ^ (MODULUS & (a & 1).wrapping_neg())
}

/// That of CRC-64/NVME, but for x to the 64.
const MODULUS: u64 = 0x9a6c_9329_ac4b_c9b5;
const ONE: u64 = 1 << 63;
const X_TO_8: u64 = 1 << 55;

#[cfg(test)]
mod tests {
    use larder_protocol::checksum::crc64;
    use proptest::prelude::*;

    use super::*;

    /// Bit by bit.
    fn remainder(bytes: &[u8]) -> u64 {
        bytes.iter().fold(0, |before, &byte| {
            let after = before ^ u64::from(byte);
            (0..8).fold(after, |remainder, _| times_x(remainder))
        })
    }

    proptest! {
        #[test]
        fn remainders_of_pieces_make_the_checksum_of_the_whole(
            bytes in prop::collection::vec(any::<u8>(), 0..300),
            cut in any::<prop::sample::Index>(),
            zeros in 0_usize..20,
        ) {
            let length = behind(bytes.len() as u64);
            prop_assert_eq!(checksum(remainder(&bytes), length), crc64(&bytes));
            let (first, second) = bytes.split_at(cut.index(bytes.len() + 1));
            let moved = product(remainder(first), behind(second.len() as u64));
            prop_assert_eq!(moved ^ remainder(second), remainder(&bytes));
            let mut longer = bytes.clone();
            longer.resize(bytes.len() + zeros, 0);
            prop_assert_eq!(without(remainder(&longer), zeros as u64), remainder(&bytes));
        }

        #[test]
        fn product_is_the_same_both_ways(a in any::<u64>(), b in any::<u64>(), c in any::<u64>()) {
            prop_assert_eq!(product(a, b), product(b, a));
            prop_assert_eq!(product(a, b ^ c), product(a, b) ^ product(a, c));
            prop_assert_eq!(product(a, ONE), a);
        }
    }
}
