//! The last samples of a deployment: one for each slot, good, bad or missing.

use std::{collections::VecDeque, fmt};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::need::Counts;

/// Half a minute, counted from 1970.
pub type Slot = u64;

/// Seconds of a slot.
pub const SLOT_SECONDS: u64 = 30;
/// Slots that are kept: the longest window.
pub const KEPT: usize = 20;

/// The slot that a time is in.
pub fn slot(time: Timestamp) -> Slot {
    u64::try_from(time.as_second()).unwrap_or_default() / SLOT_SECONDS
}

/// When a slot begins.
pub fn time(slot: Slot) -> Timestamp {
    let second = i64::try_from(slot.saturating_mul(SLOT_SECONDS)).unwrap_or(i64::MAX);
    Timestamp::from_second(second).unwrap_or(Timestamp::MAX)
}

/// Why there is no good sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum BadCode {
    /// The deployments API answered with an error.
    #[serde(rename = "e")]
    Error,
    /// It did not answer.
    #[serde(rename = "s")]
    Silent,
    /// Its answer cannot be read, or holds what is no count.
    #[serde(rename = "n")]
    Nonsense,
    /// More free servers than servers.
    #[serde(rename = "i")]
    Impossible,
    /// What it says of the deployment's shape cannot be used. It was not asked.
    #[serde(rename = "r")]
    Rejected,
}

impl BadCode {
    /// Whether it counts for the breaker and the freeze: a shape that cannot be used is a mistake in
    /// one deployment's settings, not a sign that samples cannot be trusted.
    pub const fn counts(self) -> bool {
        !matches!(self, Self::Rejected)
    }
}

/// A sample that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bad {
    /// Which kind.
    pub code: BadCode,
    /// In words for people.
    pub words: String,
}

impl Bad {
    /// A bad sample, with its words cut to a reasonable length.
    pub fn new(code: BadCode, words: impl fmt::Display) -> Self {
        Self { code, words: words.to_string().chars().take(200).collect() }
    }
}

/// What is kept of a slot: `[hosts, total, free]`, a letter for a bad sample, 0 for none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Recorded {
    /// A good sample.
    Good(u64, u64, u64),
    /// A bad one.
    Bad(BadCode),
    /// None: nobody looked.
    None(u8),
}

impl Recorded {
    /// The counts of a good sample.
    pub const fn counts(&self) -> Option<Counts> {
        match *self {
            Self::Good(hosts, total, free) => Some(Counts { hosts, total, free }),
            Self::Bad(_) | Self::None(_) => None,
        }
    }
}

/// The samples of some slots in a row, as they are kept in the history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunk {
    /// The slot of the first.
    pub slot: Slot,
    /// Oldest first.
    pub samples: Vec<Recorded>,
}

/// The samples of the last [`KEPT`] slots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Samples {
    /// Since when it is read without a gap that is longer than what is kept.
    first: Slot,
    /// The slot of the last one.
    last: Slot,
    /// Up to which slot they are in the history.
    flushed: Slot,
    /// Oldest first.
    ring: VecDeque<Recorded>,
}

impl Samples {
    /// None yet; the first one will be of `slot`. The number `stagger`, such as a hash of the
    /// deployment's name, spreads the slots in which histories are written: with the same number they
    /// are the same slots, whenever the first one is.
    pub fn new(slot: Slot, stagger: u64) -> Self {
        let last = slot.saturating_sub(1);
        let flushed = last.saturating_sub((slot + stagger) % KEPT as u64);
        Self { first: slot, last, flushed, ring: VecDeque::with_capacity(KEPT) }
    }

    /// Since which slot it is read.
    pub const fn first(&self) -> Slot {
        self.first
    }

    /// The last slot.
    pub const fn last(&self) -> Slot {
        self.last
    }

    /// The last sample, if it was good.
    pub fn latest(&self) -> Option<Counts> {
        self.ring.back()?.counts()
    }

    /// The last good sample that is kept.
    pub fn latest_good(&self) -> Option<Counts> {
        self.ring.iter().rev().find_map(Recorded::counts)
    }

    /// Adds the sample of `slot`, which is after the last one.
    pub fn push(&mut self, slot: Slot, sample: Result<Counts, BadCode>) {
        let missing = slot.saturating_sub(self.last + 1);
        if missing >= KEPT as u64 || self.ring.is_empty() {
            self.ring.clear();
            self.first = slot;
        } else {
            self.ring.extend((0..missing).map(|_| Recorded::None(0)));
        }
        self.ring.push_back(match sample {
            Ok(counts) => Recorded::Good(counts.hosts, counts.total, counts.free),
            Err(code) => Recorded::Bad(code),
        });
        let surplus = self.ring.len().saturating_sub(KEPT);
        self.ring.drain(..surplus);
        self.last = slot;
    }

    /// The samples that are not in the history, where they would be forgotten by `slot`.
    pub fn chunk(&mut self, slot: Slot) -> Option<Chunk> {
        if slot.saturating_sub(self.flushed) <= KEPT as u64 {
            return None;
        }
        let count = usize::try_from(self.last - self.flushed).unwrap_or(KEPT).min(self.ring.len());
        let samples: Vec<_> = self.ring.iter().skip(self.ring.len() - count).copied().collect();
        self.flushed = self.last;
        let first = self.last + 1 - count as u64;
        (!samples.is_empty()).then_some(Chunk { slot: first, samples })
    }

    /// The slots that are kept, each with its sample, oldest first.
    pub fn recorded(&self) -> impl Iterator<Item = (Slot, &Recorded)> {
        let first = self.last + 1 - self.ring.len() as u64;
        (first..).zip(&self.ring)
    }

    fn window(&self, slot: Slot, window: Slot) -> impl Iterator<Item = Counts> + '_ {
        let begins = (slot + 1).saturating_sub(window);
        let within = self.recorded().filter(move |(at, _)| (begins..=slot).contains(at));
        within.filter_map(|(_, recorded)| recorded.counts())
    }

    /// How many samples of the last `window` slots up to `slot` are good. Hosts without any server
    /// say nothing of the need, so they are no good ones here.
    pub fn valid(&self, slot: Slot, window: Slot) -> u64 {
        self.window(slot, window).filter(|counts| counts.total > 0 || counts.hosts == 0).count() as u64
    }

    /// The most busy servers in the last `window` slots up to `slot`.
    pub fn peak_busy(&self, slot: Slot, window: Slot) -> Option<u64> {
        self.window(slot, window).map(|counts| counts.busy()).max()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn good(busy: u64) -> Counts {
        Counts { hosts: 10, total: 100, free: 100 - busy }
    }

    fn filled(slots: std::ops::Range<Slot>) -> Samples {
        let mut samples = Samples::new(slots.start, 0);
        for slot in slots {
            samples.push(slot, Ok(good(slot % 100)));
        }
        samples
    }

    #[test]
    fn a_slot_is_half_a_minute() {
        let at = |second| slot(Timestamp::from_second(second).unwrap());
        assert_eq!([0, 29, 30, 59, 60].map(at), [0, 0, 1, 1, 2]);
        assert_eq!(time(3).as_second(), 90);
        assert_eq!(at(-1), 0);
    }

    #[test]
    fn a_window_ends_with_its_slot_and_counts_what_is_good() {
        let mut samples = filled(100..115);
        assert_eq!((samples.valid(114, 10), samples.peak_busy(114, 10)), (10, Some(14)));
        samples.push(115, Err(BadCode::Silent));
        // Two slots were missed.
        samples.push(118, Ok(good(3)));
        assert_eq!((samples.last(), samples.first()), (118, 100));
        assert_eq!((samples.valid(118, 10), samples.peak_busy(118, 10)), (7, Some(14)));
        assert_eq!((samples.valid(118, 4), samples.peak_busy(118, 4)), (1, Some(3)));
        assert_eq!(samples.peak_busy(118, 1), Some(3));
        assert_eq!(samples.latest().map(|it| it.busy()), Some(3));
        samples.push(119, Ok(Counts { hosts: 2, total: 0, free: 0 }));
        assert_eq!(samples.valid(119, 1), 0);
    }

    #[test]
    fn after_a_long_gap_it_begins_anew() {
        let mut samples = filled(100..115);
        samples.push(133, Ok(good(1)));
        assert_eq!((samples.first(), samples.valid(133, 20)), (100, 2));
        samples.push(154, Ok(good(1)));
        assert_eq!((samples.first(), samples.valid(154, 20)), (154, 1));
    }

    #[test]
    fn every_sample_gets_into_the_history_once() {
        for stagger in [0, 7, 19] {
            let mut samples = Samples::new(1000, stagger);
            let mut history = Vec::new();
            let mut sizes = Vec::new();
            for slot in (1000..1100).filter(|slot| !(1033..1047).contains(slot)).chain(1200..1290) {
                if let Some(chunk) = samples.chunk(slot) {
                    sizes.push(chunk.samples.len());
                    let numbered = (chunk.slot..).zip(chunk.samples);
                    history.extend(numbered.filter(|(_, it)| it.counts().is_some()).map(|(slot, _)| slot));
                }
                samples.push(slot, Ok(good(1)));
            }
            let expected = (1000..1100).filter(|slot| !(1033..1047).contains(slot)).chain(1200..1290);
            let expected: Vec<_> = expected.take(history.len()).collect();
            assert_eq!(history, expected);
            assert!(history.len() > 160, "{}", history.len());
            assert!(sizes.iter().all(|size| *size <= KEPT), "{sizes:?}");
        }
    }

    #[test]
    fn it_is_short_as_text_and_reads_back() {
        let mut samples = filled(59_000_000..59_000_018);
        samples.push(59_000_018, Err(BadCode::Impossible));
        samples.push(59_000_020, Ok(good(1)));
        let text = serde_json::to_string(&samples).unwrap();
        assert!(text.ends_with(r#"[10,100,83],"i",0,[10,100,99]]}"#), "{text}");
        assert!(text.len() < 350, "{}", text.len());
        assert_eq!(serde_json::from_str::<Samples>(&text).unwrap(), samples);
    }
}
