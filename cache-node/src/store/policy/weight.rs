//! How much one object counts in what is learned: less, the more came with it.
//!
//! The objects that one request used last in one class (a cohort) live and die together, so that
//! n of them are little more evidence than one. Each counts 1/√n, and a cohort √n: a long chain
//! says more than a short one, and does not drown a hundred of them. (Measured on two traces: with
//! 1 for each object, long chains decide what short ones are worth; 1/n forgets what a chain weighs
//! in memory.)

/// The weight of an object, by its number: the size of its cohort in steps of half an octave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Weight(u8);

impl Weight {
    /// Of one of `count` objects.
    pub(super) fn of_one_of(count: u32) -> Self {
        let step = (2.0 * (count.max(1) as f32).log2()).round() as u8;
        Self(step.min(STEPS - 1))
    }

    /// The weight with this number, or the last one.
    pub(super) fn numbered(number: u8) -> Self {
        Self(number.min(STEPS - 1))
    }

    /// Its number.
    pub(super) fn number(self) -> u8 {
        self.0
    }

    /// The weight in units; an object alone has [`UNITS_OF_ONE`].
    pub(super) fn units(self) -> u32 {
        // Four steps are a cohort four times as large, and half the weight.
        FIRST[usize::from(self.0 % 4)] >> (self.0 / 4)
    }
}

/// What an object counts that came alone.
pub(super) const UNITS_OF_ONE: u32 = 256;
/// How many weights there are: five bits.
const STEPS: u8 = 32;
/// 256 over the fourth root of 2, step by step.
const FIRST: [u32; 4] = [UNITS_OF_ONE, 215, 181, 152];
const _: () = assert!(FIRST[3] >> ((STEPS - 1) / 4) > 0);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cohort_weighs_the_root_of_its_size() {
        // Beyond, what is left of a unit is rounded down.
        for count in [1, 2, 3, 7, 50, 226, 1000] {
            let weight = f64::from(Weight::of_one_of(count).units()) / f64::from(UNITS_OF_ONE);
            let exact = 1.0 / f64::from(count).sqrt();
            assert!((weight / exact - 1.0).abs() < 0.13, "{count}: {weight} for {exact}");
        }
        assert_eq!(Weight::of_one_of(0).units(), UNITS_OF_ONE);
        assert_eq!(Weight::of_one_of(u32::MAX), Weight::numbered(u8::MAX));
    }
}
