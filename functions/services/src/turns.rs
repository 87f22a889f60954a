//! Whose turn it is at a CPX that handles one request at a time. Pure.
//!
//! There, one server that hangs lets all that were asked for later wait behind it. Who only waited
//! was not silent, and is worth another try.

use std::{collections::BTreeSet, time::Duration};

/// The requests in flight, in the order in which they were sent. All times are since the poll began.
#[derive(Debug, Clone, Default)]
pub struct Turns {
    waiting: BTreeSet<u64>,
    next: u64,
    /// Since when the oldest one has been the oldest, and so has its turn.
    since: Duration,
}

impl Turns {
    /// A request is sent; its number.
    pub fn sent(&mut self, now: Duration) -> u64 {
        if self.waiting.is_empty() {
            self.since = now;
        }
        self.next += 1;
        self.waiting.insert(self.next);
        self.next
    }

    /// It has ended. Answers for how long it had its turn.
    pub fn ended(&mut self, number: u64, now: Duration) -> Duration {
        let is_oldest = self.waiting.first() == Some(&number);
        self.waiting.remove(&number);
        if !is_oldest {
            return Duration::ZERO;
        }
        let turn = now.saturating_sub(self.since);
        self.since = now;
        turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn a_turn_begins_when_those_before_have_ended() {
        let mut turns = Turns::default();
        let (first, second, third) = (turns.sent(ms(0)), turns.sent(ms(10)), turns.sent(ms(20)));
        assert_eq!(turns.ended(first, ms(2000)), ms(2000));
        assert_eq!(turns.ended(third, ms(2005)), ms(0), "it was not even its turn");
        assert_eq!(turns.ended(second, ms(2010)), ms(10));
    }

    #[test]
    fn a_pause_without_requests_is_nobodys_turn() {
        let mut turns = Turns::default();
        let first = turns.sent(ms(0));
        turns.ended(first, ms(10));
        let second = turns.sent(ms(5000));
        assert_eq!(turns.ended(second, ms(5100)), ms(100));
    }
}
