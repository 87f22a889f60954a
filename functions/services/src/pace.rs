//! How many servers to ask for at once: as many as help. Pure.
//!
//! A stock CPX handles one request at a time. Sixty-four waiting in its queue make nothing faster;
//! they only let the last ones time out. Others answer hundreds at once, and then a cautious pace
//! wastes the deadline. Which one it is shows in the answers per second: where more at once does not
//! bring more of them, the pace goes back (hill climbing, on throughput and not on latency, so that
//! a server that answers unevenly is not taken for a slow CPX).

use std::time::Duration;

/// At once in the first round. A stock CPX has five places in its queue; who finds none waits a
/// second or more for the next try.
const FIRST: usize = 4;
/// Where one at a time is all there is: one that works, one that waits for its turn.
const LEAST: usize = 2;
/// A round that brought less than this much more than the one before was not worth it.
const WORTH_IT: f64 = 1.35;
/// Answers in a round, at least, but for the first: fewer are a matter of chance.
const ROUND: usize = 8;
/// From here on CPX is taken to handle many at once: no measuring error leads so far.
const WIDE: usize = 16;
/// Rounds at a pace before more is tried again.
const REST: u32 = 1;

/// The pace of one poll.
#[derive(Debug, Clone)]
pub struct Pace {
    limit: usize,
    most: usize,
    /// What the round before had.
    before: Before,
    rest: u32,
    /// Since when this round goes on, and how many answers it has had.
    since: Duration,
    answers: usize,
    first_answer: Option<Duration>,
}

#[derive(Debug, Clone, Copy)]
struct Before {
    limit: usize,
    /// Answers per second.
    rate: f64,
}

impl Pace {
    /// A pace of at most `most` at once.
    pub fn new(most: usize) -> Self {
        Self {
            limit: FIRST.min(most),
            most,
            before: Before { limit: 1, rate: 0.0 },
            rest: 0,
            since: Duration::ZERO,
            answers: 0,
            first_answer: None,
        }
    }

    /// How many may be in flight now.
    pub const fn limit(&self) -> usize {
        self.limit
    }

    /// Whether CPX was seen to handle many at once.
    pub const fn is_wide(&self) -> bool {
        self.limit >= WIDE
    }

    /// A server did not answer in its time. A CPX that handles one at a time has answered nobody
    /// meanwhile, so what has been measured says nothing, and measuring begins anew.
    pub fn stumbled(&mut self, now: Duration) {
        if !self.is_wide() {
            *self = Self { limit: self.limit.min(FIRST), since: now, ..Self::new(self.most) };
        }
    }

    /// An answer came, `now` after the poll began. One that did not come in time is none: it says
    /// nothing about how many CPX handles at once.
    pub fn answered(&mut self, now: Duration) {
        self.answers += 1;
        let first = *self.first_answer.get_or_insert(now.saturating_sub(self.since));
        let is_first = self.before.rate == 0.0;
        if self.answers < if is_first { self.limit } else { self.limit.max(ROUND) } {
            return;
        }
        let took = now.saturating_sub(self.since).as_secs_f64().max(1e-6);
        let rate = f64::from(u32::try_from(self.answers).unwrap_or(u32::MAX)) / took;
        if is_first {
            // One alone would have had the rate of the first answer.
            self.before.rate = 1.0 / first.as_secs_f64().max(1e-6);
        }
        self.next(rate);
        (self.since, self.answers) = (now, 0);
    }

    fn next(&mut self, rate: f64) {
        let grown = float(self.limit) / float(self.before.limit);
        let gain = rate / self.before.rate;
        if self.rest > 0 {
            self.rest -= 1;
            if self.rest > 0 {
                return;
            }
            self.climb(2, rate);
        } else if gain >= WORTH_IT {
            // Where nearly each of them came as fast as before, there is room for many more.
            self.climb(if gain >= grown * 0.6 && self.limit >= FIRST { 8 } else { 2 }, rate);
        } else {
            self.limit = self.before.limit.clamp(LEAST.min(self.most), self.most);
            self.rest = REST;
        }
    }

    fn climb(&mut self, factor: usize, rate: f64) {
        self.before = Before { limit: self.limit, rate };
        self.limit = (self.limit * factor).min(self.most);
        if self.limit == self.before.limit {
            self.rest = REST;
        }
    }
}

fn float(number: usize) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use std::{cmp::Reverse, collections::BinaryHeap};

    use super::*;

    /// Polls `servers` from a CPX that handles `at_once` of them, each for the milliseconds that
    /// `takes` says. Answers how long that took, and the most that were in flight.
    fn poll(servers: usize, most: usize, at_once: usize, mut takes: impl FnMut(usize) -> u64) -> (u64, usize) {
        let mut pace = Pace::new(most);
        // When each of its places is free again.
        let mut places: BinaryHeap<_> = (0..at_once).map(|_| Reverse(0_u64)).collect();
        let mut in_flight = BinaryHeap::new();
        let (mut sent, mut now, mut highest) = (0, 0, 0);
        loop {
            while sent < servers && in_flight.len() < pace.limit() {
                let Some(Reverse(free)) = places.pop() else { panic!("no place") };
                let done = free.max(now) + takes(sent);
                places.push(Reverse(done));
                in_flight.push(Reverse(done));
                sent += 1;
            }
            highest = highest.max(in_flight.len());
            let Some(Reverse(next)) = in_flight.pop() else { return (now, highest) };
            now = next;
            pace.answered(Duration::from_micros(now));
        }
    }

    #[test]
    fn one_at_a_time_is_never_asked_for_many() {
        for milliseconds in [1, 20, 130] {
            let (took, highest) = poll(150, 64, 1, |_| milliseconds * 1000);
            assert_eq!(took, 150 * milliseconds * 1000, "it was never idle");
            assert!(highest <= FIRST, "{highest}");
        }
    }

    #[test]
    fn ten_thousand_at_fifty_milliseconds_come_close_to_the_ideal() {
        let (took, highest) = poll(10_000, 512, 1000, |_| 50_000);
        let ideal = 10_000 * 50_000 / 512;
        assert_eq!(highest, 512);
        assert!(took * 100 <= ideal * 115, "{took} of {ideal}");
    }

    #[test]
    fn uneven_answers_are_not_taken_for_a_slow_cpx() {
        // 10 to 110 ms, in an order without a pattern.
        let uneven = |n: usize| 10_000 + (n as u64 * 7919 % 100) * 1000;
        let (took, highest) = poll(5000, 512, 1000, uneven);
        assert!(highest > 400, "{highest}");
        assert!(took < 1_500_000, "{took}");
    }

    #[test]
    fn a_cpx_of_forty_at_once_is_used_and_not_flooded() {
        let (took, _) = poll(4000, 512, 40, |_| 50_000);
        let ideal = 4000 / 40 * 50_000;
        assert!(took * 100 <= ideal * 110, "{took} of {ideal}");
    }

    #[test]
    fn a_stumble_at_the_start_is_made_good() {
        let (took, highest) = poll(10_000, 512, 1000, |n| if n < 8 { 50_000 * (n as u64 + 1) } else { 50_000 });
        assert_eq!(highest, 512);
        assert!(took < 4_000_000, "{took}");
    }

    #[test]
    fn a_stall_of_a_stock_cpx_is_not_taken_for_a_slow_start() {
        let mut pace = Pace::new(512);
        let mut now = Duration::ZERO;
        for _ in 0..50 {
            // Nothing for two seconds, then one after the other.
            now += Duration::from_secs(2);
            pace.stumbled(now);
            for _ in 0..20 {
                now += Duration::from_millis(5);
                pace.answered(now);
                assert!(pace.limit() <= FIRST, "{}", pace.limit());
            }
        }
    }

    #[test]
    fn the_most_is_kept_however_small() {
        for most in [1, 2, 3, 64] {
            assert!(poll(500, most, 100, |_| 1000).1 <= most);
        }
    }
}
