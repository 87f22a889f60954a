//! One batch while it is being worked on: what to ask next, what an answer means, what to write.
//!
//! No I/O and no clock: the worker brings answers and times, and carries out what this decides. The
//! rules that keep anything from being lost or wasted are all here:
//!
//! 1. A candidate is sent only after a durable write says `Open`.
//! 2. `counted + open ≤ size` at every write, so whatever a crash leaves open fits into the batch.
//! 3. What was asked for once without an answer is asked again with the *same* DevEUI, until it is
//!    settled; nothing else takes its place before.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    time::{Duration, Instant},
};

use uuid::Uuid;

use crate::{
    batch::{Batch, OnUncertain, Progress},
    candidates::Candidates,
    deveui::DevEui,
    ledger::{CHUNK, CHUNKS_PER_ROUND, Chunk, Damaged, State, Tally},
};

/// Chunks held in memory at once. A candidate that stays unanswered holds its chunk; past this many
/// the batch waits for the oldest, so that memory does not grow with the batch.
const MOST_LIVE_CHUNKS: usize = 16;
/// Candidates reserved by one write at first, and at most. More are reserved at once when the sender
/// ran dry while a write was under way: a fast provider behind a slow store.
const FIRST_STEP: usize = 16;
const MOST_STEP: usize = 1024;
/// Settled candidates are written at the latest after this long.
const FLUSH_AFTER: Duration = Duration::from_millis(500);

/// A chunk as stored: its candidates and the version that the next write must find.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredChunk {
    /// The states.
    pub chunk: Chunk,
    /// Counts writes; 0 is not written yet.
    pub version: u64,
}

/// What an answer, or its lack, means for the candidate it was about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// 200: registered now.
    Registered,
    /// 422: in use, by us or by somebody else.
    Taken,
    /// Certainly not registered: refused, throttled, or never sent.
    NotDone,
    /// It may have been registered: no answer, or one that does not tell.
    Unknown,
}

/// A request to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ask {
    /// Which candidate.
    pub index: u64,
    /// What it is.
    pub deveui: DevEui,
    /// How often it was asked for before.
    pub attempt: u32,
}

/// A chunk to write, or to try to write again.
#[derive(Debug, Clone)]
pub struct Write {
    /// What to write.
    pub chunk: Chunk,
    /// The version that the store must hold now.
    pub version: u64,
}

/// Whether a batch has come to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// There is more to do.
    GoOn,
    /// All are registered.
    Complete,
    /// Cancelled, and everything that was begun is settled.
    Cancelled,
    /// Time is up, and what could not be settled is listed.
    TimeUp,
    /// The prefix has no candidates left.
    Exhausted,
}

/// Why nothing new is begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Winding {
    /// New candidates are begun.
    No,
    /// The worker stops; the next one goes on.
    Pausing,
    Cancelling,
    TimeUp,
}

#[derive(Debug)]
struct Live {
    chunk: Chunk,
    version: u64,
    dirty: bool,
}

/// A candidate that is open and has been asked for at least once, or was found open.
#[derive(Debug, Clone, Copy, Default)]
struct Asked {
    attempts: u32,
    /// An earlier attempt may have registered it.
    maybe_ours: bool,
}

/// A batch at work.
#[derive(Debug)]
pub struct Run {
    /// Which batch.
    pub id: Uuid,
    /// Whose it is.
    pub tenant: String,
    size: u64,
    on_uncertain: OnUncertain,
    candidates: Candidates,
    live: BTreeMap<u64, Live>,
    /// Of all chunks, live ones included.
    tally: Tally,
    asked_again: u64,
    /// The next index that has never been reserved.
    next: u64,
    /// Reserved durably, never sent.
    ready: VecDeque<u64>,
    /// Reserved by the write that is under way.
    reserving: Vec<u64>,
    /// Asked for without success; when to ask again.
    retry: BTreeSet<(Instant, u64)>,
    asked: HashMap<u64, Asked>,
    in_flight: usize,
    writing: Option<u64>,
    /// Settled since the last write began.
    unwritten: usize,
    oldest_unwritten: Option<Instant>,
    /// No write is tried before this: the store was away.
    write_after: Option<Instant>,
    step: usize,
    winding: Winding,
    /// Asked to be cancelled, whatever else happens to it.
    cancelled: bool,
}

impl Run {
    /// Takes a batch up where the store says it is. Everything found open is asked for again.
    ///
    /// `chunks` are all that are stored, in order.
    pub fn resume(batch: &Batch, chunks: Vec<StoredChunk>, now: Instant) -> Self {
        let mut run = Self {
            id: batch.id,
            tenant: batch.tenant.clone(),
            size: batch.size,
            on_uncertain: batch.on_uncertain,
            candidates: batch.candidates(),
            live: BTreeMap::new(),
            tally: Tally::default(),
            asked_again: batch.progress.asked_again,
            next: 0,
            ready: VecDeque::new(),
            reserving: Vec::new(),
            retry: BTreeSet::new(),
            asked: HashMap::new(),
            in_flight: 0,
            writing: None,
            unwritten: 0,
            oldest_unwritten: None,
            write_after: None,
            step: FIRST_STEP,
            winding: Winding::No,
            cancelled: false,
        };
        let last = chunks.last().map(|stored| stored.chunk.number());
        for StoredChunk { chunk, version } in chunks {
            run.tally += chunk.tally();
            for index in chunk.indexes(|state| state == State::Open) {
                run.asked.insert(index, Asked { attempts: 0, maybe_ours: true });
                run.retry.insert((now, index));
            }
            if Some(chunk.number()) == last {
                let untouched = chunk.indexes(|state| state == State::Untouched).next();
                run.next = untouched.unwrap_or(chunk.first() + CHUNK);
            }
            // The last chunk has room for more; those with something open will be written again.
            if Some(chunk.number()) == last || chunk.tally().open > 0 {
                run.live.insert(chunk.number(), Live { chunk, version, dirty: false });
            }
        }
        run
    }

    /// What to send next, if anything may be sent at `now`: first what is overdue, then new ones.
    pub fn ask(&mut self, now: Instant) -> Option<Ask> {
        let due = self.retry.first().copied().filter(|(due, _)| *due <= now);
        let index =
            if let Some(entry) = due.filter(|_| self.winding != Winding::Pausing && self.winding != Winding::TimeUp) {
                self.retry.remove(&entry);
                entry.1
            } else if self.winding == Winding::No {
                let index = self.ready.pop_front()?;
                if self.ready.is_empty() && self.writing.is_some() {
                    self.step = (self.step * 2).min(MOST_STEP);
                }
                index
            } else {
                return None;
            };
        self.in_flight += 1;
        let asked = self.asked.entry(index).or_default();
        let attempt = asked.attempts;
        asked.attempts += 1;
        Some(Ask { index, deveui: self.candidates.deveui(index), attempt })
    }

    /// When the next retry is due, if nothing else is to be sent.
    pub fn next_retry(&self) -> Option<Instant> {
        match self.winding {
            Winding::No | Winding::Cancelling => self.retry.first().map(|(due, _)| *due),
            Winding::Pausing | Winding::TimeUp => None,
        }
    }

    /// How often `index` has been asked for.
    pub fn attempts(&self, index: u64) -> u32 {
        self.asked.get(&index).map_or(0, |asked| asked.attempts)
    }

    /// Takes in what became of a request for `index`; where it is not settled, `retry_at` says when
    /// to ask again.
    pub fn settle(&mut self, index: u64, outcome: Outcome, retry_at: Instant, now: Instant) {
        self.in_flight -= 1;
        let asked = self.asked.entry(index).or_default();
        match outcome {
            Outcome::Registered | Outcome::Taken => {
                let asked = self.asked.remove(&index).unwrap_or_default();
                self.asked_again += u64::from(asked.maybe_ours);
                let state = match (outcome, asked.maybe_ours, self.on_uncertain) {
                    (Outcome::Registered, ..) => State::Registered,
                    (_, false, _) => State::Conflict,
                    (_, true, OnUncertain::Keep) => State::Kept,
                    (_, true, OnUncertain::Replace) => State::Uncounted,
                };
                self.set(index, state, now);
            }
            Outcome::Unknown => {
                asked.maybe_ours = true;
                self.retry.insert((retry_at, index));
            }
            Outcome::NotDone if self.winding != Winding::No && !asked.maybe_ours => {
                self.asked.remove(&index);
                self.set(index, State::Untouched, now);
            }
            Outcome::NotDone => {
                self.retry.insert((retry_at, index));
            }
        }
    }

    /// Changes the state of an open candidate.
    fn set(&mut self, index: u64, state: State, now: Instant) {
        let Some(live) = self.live.get_mut(&(index / CHUNK)) else { return };
        live.chunk.set(index, state);
        live.dirty = true;
        self.tally.open -= 1;
        self.tally.registered += u64::from(state.counts());
        self.tally.recovered += u64::from(state.is_recovered());
        self.tally.conflicts += u64::from(state == State::Conflict);
        self.unwritten += 1;
        self.oldest_unwritten.get_or_insert(now);
    }

    /// Nothing new is begun, since the worker is about to stop. What was reserved and not sent is
    /// given back, so that the next one need not wonder.
    pub fn pause(&mut self, now: Instant) {
        if self.winding == Winding::No {
            self.winding = Winding::Pausing;
        }
        self.give_back(now);
    }

    /// Nothing new is begun, since the batch was cancelled; what may be ours is still settled.
    pub fn cancel(&mut self, now: Instant) {
        self.cancelled = true;
        if self.winding == Winding::No {
            self.winding = Winding::Cancelling;
        }
        self.give_back(now);
    }

    /// The batch's time is up: nothing is sent any more.
    pub fn time_up(&mut self, now: Instant) {
        if self.winding == Winding::No || self.winding == Winding::Cancelling {
            self.winding = Winding::TimeUp;
        }
        self.give_back(now);
    }

    /// What is certainly not at the provider becomes untouched again.
    fn give_back(&mut self, now: Instant) {
        if self.writing.is_none() {
            self.ready.extend(std::mem::take(&mut self.reserving));
        }
        for index in std::mem::take(&mut self.ready) {
            self.set(index, State::Untouched, now);
        }
        let refused: Vec<_> = self
            .retry
            .iter()
            .filter(|(_, index)| self.asked.get(index).is_some_and(|asked| !asked.maybe_ours))
            .copied()
            .collect();
        for entry in refused {
            self.retry.remove(&entry);
            self.asked.remove(&entry.1);
            self.set(entry.1, State::Untouched, now);
        }
    }

    /// Lists what could never be settled, once time is up and nothing is in flight.
    fn list_unsettled(&mut self, now: Instant) {
        for (_, index) in std::mem::take(&mut self.retry) {
            self.asked.remove(&index);
            self.set(index, State::Uncounted, now);
        }
    }

    /// The chunk of an earlier round that must be known before the batch can go on.
    pub fn wants_chunk(&self) -> Option<u64> {
        let number = self.next / CHUNK;
        let missing = number >= CHUNKS_PER_ROUND && !self.live.contains_key(&number) && self.may_reserve();
        let before = missing.then(|| number - CHUNKS_PER_ROUND)?;
        // One that still has open candidates must settle first: they may become candidates again.
        (!self.live.contains_key(&before)).then_some(before)
    }

    /// Brings the chunk that [`Run::wants_chunk`] asked for; none is stored where an earlier round
    /// had nothing to do in it.
    pub fn supply(&mut self, number: u64, before: Option<&Chunk>) {
        let number = number + CHUNKS_PER_ROUND;
        let chunk = before.map_or_else(|| Chunk::skipped(number), |before| Chunk::new(number, Some(before)));
        self.live.entry(number).or_insert(Live { chunk, version: 0, dirty: false });
        self.forget_settled();
    }

    fn wanted(&self) -> u64 {
        self.size.saturating_sub(self.tally.registered + self.tally.open)
    }

    fn may_reserve(&self) -> bool {
        self.winding == Winding::No && self.wanted() > 0 && !self.is_exhausted()
    }

    fn is_exhausted(&self) -> bool {
        u128::from(self.next) >= self.candidates.count()
    }

    /// A chunk that should be written now, if any. There is one write at a time per batch, so that
    /// versions follow one another.
    pub fn write(&mut self, now: Instant) -> Option<Write> {
        if self.writing.is_some() || self.write_after.is_some_and(|after| now < after) {
            return None;
        }
        let enough = FIRST_STEP.max(self.step / 2);
        // What was found open is sent first, and needs no write: a crash before it is settled must not
        // leave ever more candidates open, of which nobody knows whether they were asked for.
        let due = self.retry.iter().take_while(|(due, _)| *due <= now).take(enough).count();
        let low = self.ready.len() + due < enough;
        let reserved = if low && self.reserving.is_empty() { self.reserve() } else { None };
        let number =
            reserved.or_else(|| self.reserving.first().map(|index| index / CHUNK)).or_else(|| self.due_chunk(now))?;
        let live = self.live.get_mut(&number)?;
        live.dirty = false;
        self.writing = Some(number);
        // Only an estimate when several chunks are dirty: the others are due at once, then.
        self.unwritten = 0;
        self.oldest_unwritten =
            self.live.values().any(|live| live.dirty).then(|| now.checked_sub(FLUSH_AFTER).unwrap_or(now));
        let live = self.live.get(&number)?;
        Some(Write { chunk: live.chunk.clone(), version: live.version })
    }

    fn due_chunk(&self, now: Instant) -> Option<u64> {
        let idle = self.in_flight == 0 && self.ready.is_empty();
        let late = self.oldest_unwritten.is_some_and(|oldest| now >= oldest + FLUSH_AFTER);
        let due = late || idle || self.unwritten >= self.step.max(64);
        due.then(|| self.live.iter().find(|(_, live)| live.dirty).map(|(number, _)| *number))?
    }

    /// When a write becomes due that is not due now.
    pub fn next_write(&self) -> Option<Instant> {
        if self.writing.is_some() {
            return None;
        }
        self.oldest_unwritten.map(|oldest| oldest + FLUSH_AFTER).max(self.write_after)
    }

    /// Marks more candidates of the current chunk as open, up to what the batch still needs.
    fn reserve(&mut self) -> Option<u64> {
        if !self.may_reserve() {
            return None;
        }
        let number = self.next / CHUNK;
        if !self.live.contains_key(&number) {
            if number >= CHUNKS_PER_ROUND || self.live.len() >= MOST_LIVE_CHUNKS {
                return None;
            }
            self.live.insert(number, Live { chunk: Chunk::new(number, None), version: 0, dirty: false });
        }
        let most = usize::try_from(self.wanted()).unwrap_or(usize::MAX).min(self.step);
        let live = self.live.get_mut(&number)?;
        let end = live.chunk.first() + CHUNK;
        while self.next < end && self.reserving.len() < most {
            if live.chunk.get(self.next) == State::Untouched {
                live.chunk.set(self.next, State::Open);
                self.tally.open += 1;
                self.reserving.push(self.next);
            }
            self.next += 1;
        }
        // A chunk with nothing left in it is passed by without a write.
        (!self.reserving.is_empty()).then_some(number)
    }

    /// The write of a chunk is durable, as this version: what it reserved may be sent.
    pub fn written(&mut self, number: u64, version: u64, now: Instant) {
        self.writing = None;
        self.write_after = None;
        if let Some(live) = self.live.get_mut(&number) {
            live.version = version;
        }
        let reserved = std::mem::take(&mut self.reserving);
        self.ready.extend(reserved);
        if self.winding != Winding::No {
            self.give_back(now);
        }
        self.forget_settled();
    }

    /// The write failed and may be tried again at `again`; nothing that it reserved is sent before.
    pub fn not_written(&mut self, number: u64, again: Instant, now: Instant) {
        self.writing = None;
        self.write_after = Some(again);
        if let Some(live) = self.live.get_mut(&number) {
            live.dirty = true;
        }
        self.oldest_unwritten.get_or_insert(now);
        if self.winding != Winding::No {
            self.give_back(now);
        }
    }

    /// Drops chunks that will not change any more.
    fn forget_settled(&mut self) {
        let current = self.next / CHUNK;
        self.live.retain(|number, live| {
            live.dirty || *number >= current || live.chunk.indexes(|state| state == State::Open).next().is_some()
        });
    }

    /// Whether the batch has come to an end that may be written, everything else being written.
    pub fn verdict(&mut self, now: Instant) -> Verdict {
        if self.in_flight > 0 || self.writing.is_some() {
            return Verdict::GoOn;
        }
        if self.winding == Winding::TimeUp && !self.retry.is_empty() {
            self.list_unsettled(now);
        }
        if self.tally.open > 0 || self.is_unwritten() {
            return Verdict::GoOn;
        }
        // Cancelled first: from there a batch has no other end, however whole it is.
        if self.cancelled {
            return Verdict::Cancelled;
        }
        if self.tally.registered >= self.size {
            return Verdict::Complete;
        }
        match self.winding {
            Winding::TimeUp => Verdict::TimeUp,
            Winding::No if self.is_exhausted() => Verdict::Exhausted,
            Winding::No | Winding::Pausing | Winding::Cancelling => Verdict::GoOn,
        }
    }

    /// Whether something known here is not in the store yet.
    pub fn is_unwritten(&self) -> bool {
        self.writing.is_some() || self.live.values().any(|live| live.dirty)
    }

    /// Requests under way.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// The counts as known here.
    pub fn progress(&self) -> Progress {
        Progress::new(self.tally, self.asked_again)
    }

    /// How many were asked for and never answered; they are open or listed.
    pub fn unsettled(&self) -> u64 {
        self.tally.open
    }
}

/// Reads a chunk as stored.
pub fn stored_chunk(number: u64, version: u64, bytes: &[u8]) -> Result<StoredChunk, Damaged> {
    Ok(StoredChunk { chunk: Chunk::decode(number, bytes)?, version })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use jiff::Timestamp;

    use super::*;
    use crate::{batch::Status, deveui::Prefix};

    fn run(size: u64, now: Instant) -> Run {
        let batch = Batch {
            id: Uuid::nil(),
            tenant: "t".to_owned(),
            status: Status::Processing,
            size,
            prefix: Prefix::default(),
            seed: 7,
            on_uncertain: OnUncertain::Keep,
            label: None,
            provider: String::new(),
            created_at: Timestamp::UNIX_EPOCH,
            updated_at: Timestamp::UNIX_EPOCH,
            completed_at: None,
            fails_at: Timestamp::UNIX_EPOCH,
            last_error: None,
            progress: Progress::default(),
            deleted_at: None,
        };
        Run::resume(&batch, Vec::new(), now)
    }

    /// Writes what is to be written, as a store that never fails.
    fn write(run: &mut Run, now: Instant) {
        while let Some(write) = run.write(now) {
            run.written(write.chunk.number(), write.version + 1, now);
        }
    }

    #[test]
    fn nothing_is_asked_before_it_is_durably_open() {
        let now = Instant::now();
        let mut run = run(3, now);
        assert_eq!(run.ask(now), None);
        let first = run.write(now).unwrap();
        assert_eq!(first.chunk.tally().open, 3, "no more than the batch needs");
        assert_eq!(run.ask(now), None, "the write is still under way");
        run.written(first.chunk.number(), 1, now);
        assert!(run.ask(now).is_some());
    }

    #[test]
    fn a_cancelled_batch_ends_as_cancelled_even_if_it_is_whole_and_out_of_time() {
        let now = Instant::now();
        let mut run = run(1, now);
        write(&mut run, now);
        let ask = run.ask(now).unwrap();
        run.cancel(now);
        run.time_up(now);
        run.settle(ask.index, Outcome::Registered, now, now);
        write(&mut run, now + FLUSH_AFTER);
        // Its status is `Cancelling`, from which there is no step to `Completed`.
        assert_eq!(run.verdict(now), Verdict::Cancelled);
        assert_eq!(run.progress().registered, 1);
    }
}
