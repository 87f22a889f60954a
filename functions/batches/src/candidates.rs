//! Which DevEUIs a batch asks for: a pure function of (seed, prefix, index).
//!
//! An index is a position in 0..2^20 and a round: `index = round · 2^20 + position`. The short code
//! is a permutation of all 2^20 codes keyed by the seed and applied to the position, so the codes
//! of one round cannot collide. Rounds after the first exist for positions whose candidate was
//! somebody else's: the same code again below other upper bits, which are a permutation of the
//! round keyed by (seed, position), so no candidate comes twice before all are used up.
//!
//! Both are balanced Feistel networks (Luby and Rackoff, 1988) of eight rounds over SipHash-1-3: a
//! bijection whatever the round function is, and invertible by running it backwards. That is how a
//! short code is looked up without an index, and how a crash forgets nothing.

use std::hash::Hasher;

use siphasher::sip::SipHasher13;

use crate::deveui::{CODE_BITS, CODES, DevEui, Prefix, ShortCode};

const ROUNDS: u64 = 8;

/// A batch's candidates.
#[derive(Debug, Clone)]
pub struct Candidates {
    seed: u128,
    top: u64,
    free_bits: u32,
}

impl Candidates {
    /// The candidates of a batch with this seed below this prefix.
    pub fn new(seed: u128, prefix: &Prefix) -> Self {
        Self { seed, top: prefix.top(), free_bits: prefix.free_bits() }
    }

    /// How many there are before they would repeat: 2^20 with the longest prefix, 2^64 without.
    pub fn count(&self) -> u128 {
        1 << (CODE_BITS + self.free_bits)
    }

    /// The candidate at `index`.
    pub fn deveui(&self, index: u64) -> DevEui {
        let (round, position) = (index / CODES, index % CODES);
        let code = self.permute(0, CODE_BITS, position);
        let upper = self.permute(1 + position, self.free_bits, round);
        DevEui(self.top | (upper << CODE_BITS) | code)
    }

    /// The position whose candidates, in every round, end with `code`.
    pub fn position(&self, code: ShortCode) -> u64 {
        self.invert(0, CODE_BITS, u64::from(code.0))
    }

    /// One of the permutations of `bits`-bit numbers; `which` chooses it. `bits` is even.
    fn permute(&self, which: u64, bits: u32, value: u64) -> u64 {
        let half = bits / 2;
        let (mut left, mut right) = (value >> half, value & mask(half));
        for round in 0..ROUNDS {
            (left, right) = (right, left ^ (self.mix(which, round, right) & mask(half)));
        }
        (left << half) | right
    }

    fn invert(&self, which: u64, bits: u32, value: u64) -> u64 {
        let half = bits / 2;
        let (mut left, mut right) = (value >> half, value & mask(half));
        for round in (0..ROUNDS).rev() {
            (left, right) = (right ^ (self.mix(which, round, left) & mask(half)), left);
        }
        (left << half) | right
    }

    #[expect(clippy::cast_possible_truncation, reason = "the two halves of the seed")]
    fn mix(&self, which: u64, round: u64, half: u64) -> u64 {
        let mut hasher = SipHasher13::new_with_keys((self.seed >> 64) as u64, self.seed as u64);
        hasher.write_u64(which);
        hasher.write_u64((round << 32) | half);
        hasher.finish()
    }
}

fn mask(bits: u32) -> u64 {
    (1 << bits) - 1
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(6))]
        #[test]
        fn every_round_has_each_short_code_once(seed: u128, prefix in "[0-9A-F]{0,11}", round in 0_u64..4) {
            let prefix: Prefix = prefix.parse().unwrap();
            let candidates = Candidates::new(seed, &prefix);
            let round = round.min((candidates.count() / u128::from(CODES) - 1) as u64);
            let mut seen = vec![false; CODES as usize];
            for position in 0..CODES {
                let deveui = candidates.deveui(round * CODES + position);
                prop_assert!(deveui.to_string().starts_with(prefix.as_str()));
                let code = deveui.short_code();
                prop_assert!(!std::mem::replace(&mut seen[code.0 as usize], true));
                if position % 1009 == 0 {
                    prop_assert_eq!(candidates.position(code), position);
                }
            }
        }
    }

    proptest! {
        #[test]
        fn a_position_comes_back_from_its_short_code(seed: u128, position in 0..CODES, round in 0_u64..1000) {
            let candidates = Candidates::new(seed, &Prefix::default());
            let code = candidates.deveui(round * CODES + position).short_code();
            prop_assert_eq!(candidates.position(code), position);
        }

        #[test]
        fn rounds_of_one_position_never_repeat(seed: u128, position in 0..CODES, digits in 8_usize..=11) {
            let prefix: Prefix = "F".repeat(digits).parse().unwrap();
            let candidates = Candidates::new(seed, &prefix);
            let rounds = (candidates.count() / u128::from(CODES)) as u64;
            let distinct: HashSet<_> = (0..rounds).map(|round| candidates.deveui(round * CODES + position)).collect();
            prop_assert_eq!(distinct.len() as u64, rounds);
        }
    }

    /// Stored batches hold a seed and bits by index: were these to change, they would all be lost.
    #[test]
    fn the_candidates_of_a_seed_stay_the_same_for_ever() {
        let candidates = Candidates::new(0x0123_4567_89AB_CDEF_0123_4567_89AB_CDEF, &"70B3D5".parse().unwrap());
        let some: Vec<_> = [0, 1, 2, CODES, 5 * CODES + 1].map(|index| candidates.deveui(index).to_string()).to_vec();
        assert_eq!(
            some,
            ["70B3D5F11E9BBF88", "70B3D50D5948E543", "70B3D5D9D964B09E", "70B3D50930EBBF88", "70B3D5ABFDB8E543"]
        );
    }
}
