//! How many known objects of each class wait for their next use, by how long they have waited, each
//! with its weight.
//!
//! What a reader would get wrong: nobody is visited when time passes. Objects are counted by the
//! moment of their last use, in spans that are joined as they grow old, so that a span is never
//! much longer than an eighth of its age; an object that is used again is taken out of the span
//! that has its moment.

use super::ages::{BUCKETS, Bucket, TICK_MS, bucket_of};
use super::class::{CLASSES, Class};

/// Counts of those who wait.
#[derive(Debug)]
pub(super) struct Waiting {
    /// Oldest first; each ends where the next begins.
    spans: Vec<Span>,
    /// Spans that were joined to others, for new ones.
    spare: Vec<Span>,
}

#[derive(Debug, Clone)]
struct Span {
    start_ms: u64,
    /// When the latest of them was used.
    end_ms: u64,
    /// In a box, as spans move when they are joined.
    counts: Box<[u32; CLASSES]>,
}

impl Waiting {
    /// Nobody waits.
    pub(super) fn new() -> Self {
        Self { spans: Vec::with_capacity(SPANS_MAX + 1), spare: Vec::with_capacity(SPANS_MAX) }
    }

    /// One more of so many units, last used now.
    pub(super) fn add(&mut self, class: Class, units: u32, now_ms: u64) {
        let is_over = |span: &Span| now_ms >= span.start_ms + SPAN_MS;
        if self.spans.last().is_none_or(is_over) {
            self.join(now_ms);
            let mut span = self.spare.pop().unwrap_or_default();
            span.counts.fill(0);
            self.spans.push(Span { start_ms: now_ms, end_ms: now_ms, ..span });
        }
        let last = self.spans.len() - 1;
        let count = &mut self.spans[last].counts[class.row()];
        *count = count.saturating_add(units);
        self.spans[last].end_ms = now_ms;
    }

    /// One less of so many units, that was last used then.
    pub(super) fn remove(&mut self, class: Class, units: u32, last_ms: u64) {
        let count = self.at(class, last_ms);
        // A moment of 49 days ago is mistaken for a later one, of whose span it never was.
        *count = count.saturating_sub(units);
    }

    /// Tells for ages how many units of each class wait; spans count with their middle.
    pub(super) fn each(&self, now_ms: u64, mut tell: impl FnMut(Bucket, &[u32; CLASSES])) {
        for span in &self.spans {
            let middle_ms = span.start_ms.midpoint(span.end_ms);
            let age_ms = u32::try_from(now_ms - middle_ms).unwrap_or(u32::MAX);
            tell(bucket_of(age_ms), &span.counts);
        }
    }

    fn at(&mut self, class: Class, last_ms: u64) -> &mut u32 {
        let after = self.spans.partition_point(|span| span.start_ms <= last_ms);
        &mut self.spans[after.saturating_sub(1)].counts[class.row()]
    }

    /// Joins neighbours that are old enough to be one.
    fn join(&mut self, now_ms: u64) {
        let mut kept = 0;
        for index in 0..self.spans.len() {
            let end_ms = self.spans[index].end_ms;
            let is_full = self.spans.len() - index + kept > SPANS_MAX;
            let is_one = kept > 0 && {
                let together_ms = end_ms - self.spans[kept - 1].start_ms;
                is_full || together_ms * AGE_PART <= now_ms - end_ms
            };
            if is_one {
                let (before, from) = self.spans.split_at_mut(index);
                let into = &mut before[kept - 1];
                let counts = into.counts.iter_mut().zip(from[0].counts.iter());
                counts.for_each(|(sum, count)| *sum = sum.saturating_add(*count));
                into.end_ms = end_ms;
            } else {
                self.spans.swap(kept, index);
                kept += 1;
            }
        }
        self.spare.extend(self.spans.drain(kept..));
    }
}

impl Default for Span {
    fn default() -> Self {
        Self { start_ms: 0, end_ms: 0, counts: Box::new([0; CLASSES]) }
    }
}

/// The shortest span: about a quarter of the first age that is told apart.
const SPAN_MS: u64 = 2 * TICK_MS as u64;
/// Two spans are one when together they are shorter than one of so many parts of their age.
const AGE_PART: u64 = 8;
/// Two hundred of them reach back for decades; more is a clock that jumped.
const SPANS_MAX: usize = 256;
const _: () = assert!(BUCKETS < SPANS_MAX);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::class::{Gap, Uses};
    use super::*;

    fn class(reuses: u8) -> Class {
        Class::of(Gap::NEW, Uses::numbered(reuses), 0)
    }

    proptest! {
        #[test]
        fn nobody_is_lost_and_ages_are_off_by_little(
            steps in prop::collection::vec(
                (0u64..200_000, 0u8..3, any::<prop::sample::Index>()),
                1..300,
            ),
        ) {
            let mut waiting = Waiting::new();
            let mut naive: Vec<(Class, u64)> = Vec::new();
            let mut now_ms = 0;
            for (gap_ms, kind, which) in steps {
                // Mostly little time passes.
                now_ms += gap_ms * gap_ms / 200_000;
                match kind {
                    0 | 1 => {
                        waiting.add(class(kind), 1, now_ms);
                        naive.push((class(kind), now_ms));
                    }
                    _ if naive.is_empty() => {}
                    _ => {
                        let (class, last_ms) = naive.swap_remove(which.index(naive.len()));
                        waiting.remove(class, 1, last_ms);
                    }
                }
                for wanted in [class(0), class(1)] {
                    let mut ages = Vec::new();
                    waiting.each(now_ms, |bucket, counts| {
                        ages.extend(std::iter::repeat_n(bucket, counts[wanted.row()] as usize));
                    });
                    let of_class = naive.iter().filter(|(class, _)| *class == wanted);
                    let exact = of_class.map(|(_, last)| bucket_of((now_ms - last) as u32));
                    let mut exact: Vec<_> = exact.collect();
                    ages.sort_unstable();
                    exact.sort_unstable();
                    prop_assert_eq!(ages.len(), exact.len());
                    for (age, exact) in ages.iter().zip(&exact) {
                        prop_assert!(age.abs_diff(*exact) <= 2, "{} for {}", age, exact);
                    }
                }
            }
        }
    }

    #[test]
    fn memory_is_bounded_whatever_the_clock_does() {
        let mut waiting = Waiting::new();
        for step in 0..5000 {
            waiting.add(class(0), 1, step * 300 + step * step);
        }
        let mut count = 0;
        waiting.each(1 << 40, |_, counts| count += counts.iter().sum::<u32>());
        assert_eq!(count, 5000);
        assert!(waiting.spans.len() <= SPANS_MAX, "{}", waiting.spans.len());
    }
}
