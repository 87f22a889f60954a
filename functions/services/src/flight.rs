//! The requests of a poll that are in flight, in the order in which they were sent. Pure.
//!
//! **What it is for:** telling a server that hangs from one that only waits. A CPX that handles one
//! request at a time lets everybody wait behind the one that hangs, and drops connections past its
//! queue, which the system tries again a second later. Whoever met that has not been silent, and
//! nothing is gained by sending more meanwhile. A CPX that handles many goes on with the others, and
//! then what hangs must not hold them up. It shows in who is overtaken: answered after one that was
//! sent well after it.

use std::{collections::BTreeMap, time::Duration};

/// Two requests that were sent so close to each other may arrive in either order.
const CLOSE: Duration = Duration::from_millis(20);
/// Overtaken so often, a request is not in the others' way.
const OVERTAKEN: u32 = 2;
/// No request is taken to hang before that.
const LEAST_PATIENCE: Duration = Duration::from_millis(100);
/// How many more are sent while nothing at all is answered, in case those in flight hang by chance:
/// enough to overtake them.
const PROBES: u32 = 2;

/// The requests in flight. All times are since the poll began.
#[derive(Debug, Clone)]
pub struct Flight {
    /// By the order in which they were sent.
    sent: BTreeMap<u64, Request>,
    next: u64,
    /// Since when the oldest one has been the oldest.
    oldest_since: Duration,
    /// When something was answered last, or sent where nothing was in flight.
    moved_at: Duration,
    /// The longest that an answer took.
    longest: Option<Duration>,
    per_server: Duration,
}

#[derive(Debug, Clone, Copy)]
struct Request {
    at: Duration,
    overtaken: u32,
}

impl Flight {
    /// None in flight; a server has `per_server` to answer.
    pub fn new(per_server: Duration) -> Self {
        Self {
            sent: BTreeMap::new(),
            next: 0,
            oldest_since: Duration::ZERO,
            moved_at: Duration::ZERO,
            longest: None,
            per_server,
        }
    }

    /// Whether another one may be sent `now` where `limit` may be in flight. What hangs by itself
    /// does not count.
    pub fn has_room(&self, now: Duration, limit: usize) -> bool {
        let counted = self.sent.values().filter(|request| self.hangs_from(request).is_none_or(|from| now < from));
        counted.count() < limit + self.probes(now) as usize
    }

    /// A request is sent; its number.
    pub fn send(&mut self, now: Duration) -> u64 {
        if self.sent.is_empty() {
            (self.oldest_since, self.moved_at) = (now, now);
        }
        self.next += 1;
        self.sent.insert(self.next, Request { at: now, overtaken: 0 });
        self.next
    }

    /// It was answered.
    pub fn answered(&mut self, number: u64, now: Duration) {
        let Some(&Request { at, .. }) = self.sent.get(&number) else { return };
        for (_, older) in self.sent.range_mut(..number) {
            older.overtaken += u32::from(older.at + CLOSE <= at);
        }
        self.longest = self.longest.max(Some(now.saturating_sub(at)));
        self.end(number, now);
        self.moved_at = now;
    }

    /// It was not, in the time that a server has. Answers whether CPX had its mind on it for most of
    /// that: where it handles one at a time, as the oldest one and while nothing else moved. One that
    /// only waited is worth another try. Where CPX handles many (`wide`) nobody waits for others.
    pub fn timed_out(&mut self, number: u64, now: Duration, wide: bool) -> bool {
        let is_oldest = self.sent.first_key_value().is_some_and(|(oldest, _)| *oldest == number);
        let turn = now.saturating_sub(self.oldest_since.max(self.moved_at));
        self.end(number, now);
        wide || (is_oldest && turn * 2 >= self.per_server)
    }

    /// When [`has_room`](Self::has_room) may answer otherwise though nothing has ended.
    pub fn next_change(&self, now: Duration) -> Option<Duration> {
        let hangs = self.sent.values().filter_map(|request| self.hangs_from(request)).filter(|from| *from > now).min();
        let probes = self.probes(now);
        let probe = (probes < PROBES).then(|| self.moved_at + self.pause() * (probes + 1));
        hangs.into_iter().chain(probe).min()
    }

    fn end(&mut self, number: u64, now: Duration) {
        let was_oldest = self.sent.first_key_value().is_some_and(|(oldest, _)| *oldest == number);
        self.sent.remove(&number);
        if was_oldest {
            self.oldest_since = now;
        }
    }

    /// From when on a request is taken to hang, if it is in nobody's way.
    fn hangs_from(&self, request: &Request) -> Option<Duration> {
        let span = self.longest.map_or(self.per_server, |longest| (longest * 2).max(LEAST_PATIENCE));
        (request.overtaken >= OVERTAKEN).then(|| request.at + span.min(self.per_server))
    }

    fn pause(&self) -> Duration {
        self.per_server / 4
    }

    fn probes(&self, now: Duration) -> u32 {
        let is_due = |probe: &u32| self.moved_at + self.pause() * *probe <= now;
        (1..=PROBES).take_while(is_due).last().unwrap_or(0)
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
        assert!(flight.timed_out(1, ms(2000), false), "the first one had all the time");
        assert!(!flight.timed_out(2, ms(2010), false), "ten milliseconds are no turn");
        assert!(!flight.timed_out(4, ms(2030), false), "it was not even its turn");
        let mut flight = sent(4);
        assert!(flight.timed_out(1, ms(2000), true) && flight.timed_out(2, ms(2010), true), "they do not wait there");
    }

    #[test]
    fn a_turn_begins_when_those_before_have_ended() {
        let mut flight = sent(3);
        flight.answered(1, ms(900));
        assert!(flight.timed_out(2, ms(2010), false), "1.1 of its 2 seconds");
        let mut flight = sent(3);
        flight.answered(1, ms(1100));
        assert!(!flight.timed_out(2, ms(2010), false), "0.9 of its 2 seconds");
    }

    #[test]
    fn who_was_dropped_while_others_were_answered_had_no_turn() {
        let mut flight = sent(1);
        for n in 1..20 {
            let number = flight.send(ms(n * 100));
            flight.answered(number, ms(n * 100 + 5));
        }
        assert!(!flight.timed_out(1, ms(2000), false));
    }

    #[test]
    fn nothing_more_is_sent_behind_one_that_hangs_but_for_a_few() {
        let mut flight = sent(4);
        flight.answered(1, ms(40));
        assert!(flight.has_room(ms(50), 4));
        flight.send(ms(50));
        assert!(!flight.has_room(ms(100), 4));
        assert_eq!(flight.next_change(ms(100)), Some(ms(540)));
        for n in 0..2 {
            assert!(flight.has_room(ms(1600), 4), "{n}");
            flight.send(ms(1600));
        }
        assert!(!flight.has_room(ms(1990), 4));
        assert_eq!(flight.next_change(ms(1990)), None);
    }

    #[test]
    fn who_is_overtaken_twice_holds_up_nobody() {
        let mut flight = sent(4);
        // Close to each other: that says nothing.
        flight.answered(2, ms(50));
        flight.answered(4, ms(60));
        assert!(!flight.has_room(ms(300), 2), "once is chance");
        let number = flight.send(ms(60));
        flight.answered(number, ms(110));
        // The first has been overtaken twice, the third once.
        assert!(!flight.has_room(ms(110), 1));
        assert!(flight.has_room(ms(115), 2), "the first has waited for twice the longest answer");
        assert!(!flight.has_room(ms(115), 1));
    }

    #[test]
    fn a_pause_without_requests_is_nobodys_turn() {
        let mut flight = sent(1);
        flight.answered(1, ms(10));
        flight.send(ms(5000));
        flight.send(ms(5010));
        flight.answered(2, ms(6200));
        assert!(!flight.timed_out(3, ms(7010), false), "0.8 of its 2 seconds");
    }
}
