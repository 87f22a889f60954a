//! What is known of each candidate of a batch, in chunks that are written to the store whole.
//!
//! A candidate is `Open` from the moment it *may* be sent: the chunk that says so is durable before
//! the request leaves. Whoever finds it open later, and did not open it, cannot know whether it was
//! sent, and asks again with the same DevEUI.
//!
//! A chunk is stored as runs (state, length): one without trouble takes a few bytes, the worst case
//! 4 KB.

use thiserror::Error;

use crate::deveui::CODES;

/// Candidates in a chunk. Also the size of a partition of a long answer.
pub const CHUNK: u64 = 4096;
/// Chunks in one round of candidates.
pub const CHUNKS_PER_ROUND: u64 = CODES / CHUNK;

/// What is known of one candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum State {
    /// Never sent.
    Untouched = 0,
    /// It may have been sent; the answer is not known.
    Open = 1,
    /// Answered 200: ours.
    Registered = 2,
    /// Answered 422 on its first attempt: somebody else's.
    Conflict = 3,
    /// Answered 422 after a lost answer, and counted as ours.
    Kept = 4,
    /// It may be ours, is not counted, and is listed all the same.
    Uncounted = 5,
    /// Not a candidate in this round: an earlier round settled its short code.
    Skipped = 6,
}

impl State {
    const ALL: [Self; 7] =
        [Self::Untouched, Self::Open, Self::Registered, Self::Conflict, Self::Kept, Self::Uncounted, Self::Skipped];

    /// Whether it counts towards the batch's size.
    pub fn counts(self) -> bool {
        matches!(self, Self::Registered | Self::Kept)
    }

    /// Whether it is listed under `recovered`.
    pub fn is_recovered(self) -> bool {
        matches!(self, Self::Kept | Self::Uncounted)
    }
}

/// A stored chunk that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the stored chunk is damaged")]
pub struct Damaged;

/// How many candidates are in which state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Ours, counted.
    pub registered: u64,
    /// Somebody else's.
    pub conflicts: u64,
    /// Listed under `recovered`.
    pub recovered: u64,
    /// Not settled.
    pub open: u64,
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.registered += other.registered;
        self.conflicts += other.conflicts;
        self.recovered += other.recovered;
        self.open += other.open;
    }
}

/// The states of `CHUNK` candidates in a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    number: u64,
    states: Box<[State]>,
}

impl Chunk {
    /// A chunk of which nothing is known. In rounds after the first, `before` is the chunk of the
    /// same positions one round earlier: only its conflicts are candidates again.
    pub fn new(number: u64, before: Option<&Self>) -> Self {
        let states = match before {
            None => vec![State::Untouched; CHUNK as usize],
            Some(before) => before
                .states
                .iter()
                .map(|state| if *state == State::Conflict { State::Untouched } else { State::Skipped })
                .collect(),
        };
        Self { number, states: states.into() }
    }

    /// A chunk without a single candidate.
    pub fn skipped(number: u64) -> Self {
        Self { number, states: vec![State::Skipped; CHUNK as usize].into() }
    }

    /// Which chunk it is, counted through all rounds.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The index of its first candidate.
    pub fn first(&self) -> u64 {
        self.number * CHUNK
    }

    /// The state of the candidate at `index`, which must be of this chunk.
    pub fn get(&self, index: u64) -> State {
        self.states[(index - self.first()) as usize]
    }

    /// Sets the state of the candidate at `index`, which must be of this chunk.
    pub fn set(&mut self, index: u64, state: State) {
        let place = (index - self.first()) as usize;
        self.states[place] = state;
    }

    /// The indexes of all candidates whose state `is` what is wanted, in order.
    pub fn indexes(&self, is: impl Fn(State) -> bool) -> impl Iterator<Item = u64> {
        let first = self.first();
        self.states.iter().enumerate().filter(move |(_, state)| is(**state)).map(move |(place, _)| first + place as u64)
    }

    /// How many are in which state.
    pub fn tally(&self) -> Tally {
        let count = |is: fn(State) -> bool| self.states.iter().filter(|state| is(**state)).count() as u64;
        Tally {
            registered: count(State::counts),
            conflicts: count(|state| state == State::Conflict),
            recovered: count(State::is_recovered),
            open: count(|state| state == State::Open),
        }
    }

    /// Runs of (state, length), each a LEB128 number: `length · 8 + state`.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(16);
        for run in self.states.chunk_by(|a, b| a == b) {
            let mut number = (run.len() as u32) << 3 | u32::from(run[0] as u8);
            while number >= 0x80 {
                bytes.push((number & 0x7F) as u8 | 0x80);
                number >>= 7;
            }
            bytes.push(number as u8);
        }
        bytes
    }

    /// Reads what [`Chunk::encode`] wrote.
    pub fn decode(number: u64, bytes: &[u8]) -> Result<Self, Damaged> {
        let mut states = Vec::with_capacity(CHUNK as usize);
        let (mut value, mut shift) = (0_u32, 0);
        for byte in bytes {
            value |= u32::from(byte & 0x7F) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                let state = *State::ALL.get((value & 7) as usize).ok_or(Damaged)?;
                let length = (value >> 3) as usize;
                if states.len() + length > CHUNK as usize {
                    return Err(Damaged);
                }
                states.resize(states.len() + length, state);
                (value, shift) = (0, 0);
            } else if shift > 21 {
                return Err(Damaged);
            }
        }
        if states.len() != CHUNK as usize || shift != 0 {
            return Err(Damaged);
        }
        Ok(Self { number, states: states.into() })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_chunk_comes_back_as_it_was(states in proptest::collection::vec(0_usize..7, CHUNK as usize), runs: bool) {
            let mut chunk = Chunk::new(3, None);
            for (place, state) in states.iter().enumerate() {
                let state = if runs { states[place / 500] } else { *state };
                chunk.set(3 * CHUNK + place as u64, State::ALL[state]);
            }
            let bytes = chunk.encode();
            prop_assert!(bytes.len() <= 2 * CHUNK as usize);
            prop_assert_eq!(Chunk::decode(3, &bytes).unwrap(), chunk);
        }

        #[test]
        fn damaged_bytes_are_refused_or_read_but_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = Chunk::decode(0, &bytes);
        }
    }

    #[test]
    fn a_later_round_has_the_conflicts_of_the_one_before() {
        let mut before = Chunk::new(0, None);
        before.set(5, State::Conflict);
        before.set(6, State::Registered);
        before.set(7, State::Uncounted);
        let after = Chunk::new(CHUNKS_PER_ROUND, Some(&before));
        assert_eq!(after.indexes(|state| state == State::Untouched).collect::<Vec<_>>(), [CODES + 5]);
    }

    #[test]
    fn a_chunk_without_trouble_is_a_few_bytes() {
        let mut chunk = Chunk::new(0, None);
        (0..100).for_each(|index| chunk.set(index, State::Registered));
        assert!(chunk.encode().len() < 8);
        assert_eq!(chunk.tally(), Tally { registered: 100, ..Tally::default() });
    }
}
