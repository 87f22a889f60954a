//! How long the requests to one upstream took, in a bounded number of values.

use std::{collections::BTreeMap, time::Duration};

use super::line::MOST_VALUES;

/// Up to this many binary digits a duration is kept as it is, in milliseconds: a minute or so.
const EXACT_DIGITS: u32 = 16;

/// How often which duration came, in milliseconds, as at most [`MOST_VALUES`] different ones.
///
/// Exact while that is enough. Then neighbours are put together: those that are the same in all but
/// their last binary digits, one digit more each time. The first four digits, where no value is
/// moved by more than 7 %, are always enough up to 16 s.
#[derive(Default)]
pub(super) struct Latencies {
    /// By the smallest duration that could be meant.
    counts: BTreeMap<u64, u64>,
    /// How many digits fewer than at first are told apart.
    coarser: u32,
}

impl Latencies {
    pub(super) fn add(&mut self, took: Duration) {
        let milliseconds = u64::try_from((took.as_micros() + 500) / 1000).unwrap_or(u64::MAX);
        self.count(milliseconds, 1);
        while self.counts.len() > MOST_VALUES && self.coarser + 1 < EXACT_DIGITS {
            self.coarser += 1;
            for (value, count) in std::mem::take(&mut self.counts) {
                self.count(value, count);
            }
        }
    }

    fn count(&mut self, value: u64, count: u64) {
        *self.counts.entry(value - value % self.step(value)).or_default() += count;
    }

    /// How far values like `value` are apart.
    fn step(&self, value: u64) -> u64 {
        let digits = u64::BITS - value.leading_zeros();
        1 << digits.saturating_sub(EXACT_DIGITS - self.coarser)
    }

    /// The durations, each the middle of those that it stands for, and how often each came.
    pub(super) fn values(&self) -> impl Iterator<Item = (u64, u64)> {
        self.counts.iter().map(|(value, count)| (value + self.step(*value) / 2, *count))
    }

    pub(super) fn total(&self) -> u64 {
        self.counts.values().sum()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn latencies_keep_their_number_and_nearly_their_size(
            sizes in prop::collection::vec(prop_oneof![0..200_u64, 0..16_000_u64, any::<u64>()], 0..600),
            most in prop_oneof![Just(16_000_u64), Just(u64::MAX / 1000)],
        ) {
            let mut latencies = Latencies::default();
            let mut sizes: Vec<_> = sizes.into_iter().map(|size| size.min(most)).collect();
            for size in &sizes {
                latencies.add(Duration::from_millis(*size));
            }
            let kept: Vec<_> = latencies.values().collect();
            prop_assert!(kept.len() <= MOST_VALUES);
            prop_assert_eq!(latencies.total(), sizes.len() as u64);
            sizes.sort_unstable();
            let exact = sizes.iter().collect::<std::collections::BTreeSet<_>>().len() <= MOST_VALUES;
            let repeated = kept.iter().flat_map(|(value, count)| (0..*count).map(|_| *value));
            for (size, value) in sizes.iter().zip(repeated) {
                let off = size.abs_diff(value);
                if exact && *size < 1 << EXACT_DIGITS {
                    prop_assert_eq!(off, 0);
                }
                if most <= 16_000 {
                    prop_assert!(off * 100 <= size * 7, "{} became {}", size, value);
                }
            }
        }
    }
}
