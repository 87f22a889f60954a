//! The requests of a poll that are in flight, in the order in which they were sent. Pure.
//!
//! **What it is for:** telling a server that hangs from a CPX that is busy. A CPX that handles one
//! request at a time lets all that were sent later wait behind the one that hangs. They must not
//! count as silent for that, and nothing is gained by sending more. A CPX that handles many goes on
//! with the others, and then what hangs must not hold them up. Which it is shows when a request is
//! answered before one that was sent well before it: who is overtaken hangs alone.

use std::{collections::BTreeMap, time::Duration};

/// Two requests that were sent so close to each other may arrive in either order.
const CLOSE: Duration = Duration::from_millis(20);
/// No request is taken to hang before that.
const LEAST_PATIENCE: Duration = Duration::from_millis(100);
/// How many more are sent while nothing at all is answered, in case those in flight hang by chance.
const PROBES: u32 = 3;

/// The requests in flight. All times are since the poll began.
#[derive(Debug, Clone)]
pub struct Flight {
    /// When each was sent, by its number.
    sent: BTreeMap<u64, Duration>,
    /// Those of them that are not taken to hang.
    counted: BTreeMap<u64, Duration>,
    next: u64,
    /// Since when the oldest one has been the oldest: with a CPX that handles one at a time, since
    /// when it has had its turn.
    turn_since: Duration,
    /// When something ended last.
    ended_at: Duration,
    /// Whether one was answered before one that was sent well before it.
    overtaken: bool,
    /// The longest that an answer took.
    longest: Option<Duration>,
    per_server: Duration,
}

impl Flight {
    /// None in flight; a server has `per_server` to answer.
    pub fn new(per_server: Duration) -> Self {
        Self {
            sent: BTreeMap::new(),
            counted: BTreeMap::new(),
            next: 0,
            turn_since: Duration::ZERO,
            ended_at: Duration::ZERO,
            overtaken: false,
            longest: None,
            per_server,
        }
    }

    /// Whether another one may be sent `now` where `limit` may be in flight.
    pub fn has_room(&mut self, now: Duration, limit: usize) -> bool {
        let span = self.span();
        while self.overtaken
            && let Some(oldest) = self.counted.first_entry()
            && *oldest.get() + span <= now
        {
            oldest.remove();
        }
        self.counted.len() < limit + self.probes(now) as usize
    }

    /// A request is sent; its number.
    pub fn send(&mut self, now: Duration) -> u64 {
        if self.sent.is_empty() {
            (self.turn_since, self.ended_at) = (now, now);
        }
        self.next += 1;
        self.sent.insert(self.next, now);
        self.counted.insert(self.next, now);
        self.next
    }

    /// It was answered.
    pub fn answered(&mut self, number: u64, now: Duration) {
        let Some(&sent) = self.sent.get(&number) else { return };
        let oldest = self.sent.first_key_value().map_or(sent, |(_, oldest)| *oldest);
        self.overtaken |= oldest + CLOSE <= sent;
        self.longest = self.longest.max(Some(now.saturating_sub(sent)));
        self.end(number, now);
    }

    /// It was not, in the time that a server has. Answers whether it had its turn: one that waited
    /// behind others for most of that time is worth another try.
    pub fn timed_out(&mut self, number: u64, now: Duration) -> bool {
        let is_oldest = self.sent.first_key_value().is_some_and(|(oldest, _)| *oldest == number);
        let turn = now.saturating_sub(self.turn_since);
        let had_its_turn = self.overtaken || (is_oldest && turn * 2 >= self.per_server);
        self.end(number, now);
        had_its_turn
    }

    /// When [`has_room`](Self::has_room) may answer otherwise though nothing has ended.
    pub fn next_change(&self, now: Duration) -> Option<Duration> {
        if self.overtaken {
            return self.counted.first_key_value().map(|(_, sent)| *sent + self.span());
        }
        let probes = self.probes(now);
        (probes < PROBES).then(|| self.ended_at + self.pause() * (probes + 1))
    }

    fn end(&mut self, number: u64, now: Duration) {
        let was_oldest = self.sent.first_key_value().is_some_and(|(oldest, _)| *oldest == number);
        self.sent.remove(&number);
        self.counted.remove(&number);
        self.ended_at = now;
        if was_oldest {
            self.turn_since = now;
        }
    }

    /// For how long a request counts once it is known that others are not held up by it.
    fn span(&self) -> Duration {
        let span = self.longest.map_or(self.per_server / 4, |longest| (longest * 2).max(LEAST_PATIENCE));
        span.min(self.per_server)
    }

    fn pause(&self) -> Duration {
        self.per_server / 4
    }

    fn probes(&self, now: Duration) -> u32 {
        let is_due = |probe: &u32| self.ended_at + self.pause() * *probe <= now;
        if self.overtaken { 0 } else { (1..=PROBES).take_while(is_due).last().unwrap_or(0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    /// Sends one every 10 ms.
    fn sent(number: u64) -> Flight {
        let mut flight = Flight::new(ms(2000));
        for n in 0..number {
            assert_eq!(flight.send(ms(n * 10)), n + 1);
        }
        flight
    }

    #[test]
    fn behind_one_that_hangs_nobody_has_had_his_turn() {
        let mut flight = sent(4);
        assert!(flight.timed_out(1, ms(2000)), "the first one had all the time");
        assert!(!flight.timed_out(2, ms(2010)), "ten milliseconds are no turn");
        assert!(!flight.timed_out(4, ms(2030)), "it was not even its turn");
    }

    #[test]
    fn a_turn_begins_when_those_before_have_ended() {
        let mut flight = sent(3);
        flight.answered(1, ms(900));
        assert!(flight.timed_out(2, ms(2010)), "1.1 of its 2 seconds");
        let mut flight = sent(3);
        flight.answered(1, ms(1100));
        assert!(!flight.timed_out(2, ms(2010)), "0.9 of its 2 seconds");
    }

    #[test]
    fn nothing_more_is_sent_behind_one_that_hangs_but_for_a_few() {
        let mut flight = sent(4);
        flight.answered(1, ms(40));
        assert!(flight.has_room(ms(50), 4));
        flight.send(ms(50));
        assert!(!flight.has_room(ms(100), 4));
        assert_eq!(flight.next_change(ms(100)), Some(ms(540)));
        assert!(flight.has_room(ms(540), 4));
        for n in 0..3 {
            assert!(flight.has_room(ms(1600), 4), "{n}");
            flight.send(ms(1600));
        }
        assert!(!flight.has_room(ms(1990), 4));
        assert_eq!(flight.next_change(ms(1990)), None);
    }

    #[test]
    fn who_is_overtaken_hangs_alone_and_holds_up_nobody() {
        let mut flight = sent(4);
        // Close to each other: that says nothing.
        flight.answered(2, ms(50));
        assert!(!flight.has_room(ms(300), 3));
        flight.answered(4, ms(60));
        assert_eq!(flight.next_change(ms(60)), Some(ms(100)), "the first has waited for twice the longest answer");
        assert!(!flight.has_room(ms(99), 2));
        assert!(flight.has_room(ms(100), 2));
        assert!(flight.timed_out(1, ms(2000)));
        assert!(flight.timed_out(3, ms(2020)), "no excuse");
    }

    #[test]
    fn a_pause_without_requests_is_nobodys_turn() {
        let mut flight = sent(1);
        flight.answered(1, ms(10));
        flight.send(ms(5000));
        flight.send(ms(5010));
        flight.answered(2, ms(6200));
        assert!(!flight.timed_out(3, ms(7010)), "0.8 of its 2 seconds");
    }
}
