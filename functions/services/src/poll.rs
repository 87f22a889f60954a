//! One poll of all servers: concurrent, bounded, and over by its deadline.
//!
//! One slow server delays the table by its own timeout and no more, and all of them together by no
//! more than the deadline. What is not known then is Unknown, with the reason.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::IpAddr,
    time::Duration,
};

use futures::{StreamExt as _, stream::FuturesUnordered};
use kit::clock::Clock;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::{
    cpx::{Cpx, CpxError, Listed},
    pace::Pace,
    server::{Load, Reading, Server, ServiceName, Silence},
};

/// How long CPX may take for its list.
const LIST: Duration = Duration::from_secs(5);
/// No request is taken to hang before that.
const LEAST_PATIENCE: Duration = Duration::from_millis(100);

/// The bounds of a poll.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Most requests in flight, 1 to 512.
    pub at_once: usize,
    /// After how long a server counts as silent.
    pub per_server: Duration,
    /// After how long the poll ends, whatever is left.
    pub in_all: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { at_once: 64, per_server: Duration::from_secs(2), in_all: Duration::from_secs(20) }
    }
}

/// Which service each server said it runs, when it said so last.
pub type Members = HashMap<IpAddr, ServiceName>;

/// Asks for every server there is. `members` tells where the silent ones belong.
pub async fn poll(
    cpx: &Cpx,
    bounds: Bounds,
    clock: &Clock,
    members: impl Future<Output = Members>,
) -> Result<Reading, CpxError> {
    let began = Instant::now();
    let deadline = began + bounds.in_all;
    let (listed, members) = tokio::join!(cpx.list(LIST.min(bounds.in_all)), members);
    let Listed { ips, ignored, too_many } = listed?;
    let mut servers = Vec::with_capacity(ips.len());
    let mut waiting = ips.iter().copied();
    let mut pace = Pace::new(bounds.at_once);
    let mut patience = Patience::new(bounds.per_server);
    let mut in_flight = FuturesUnordered::new();
    let from = Instant::now();
    // Whatever is ready is let through even after the deadline, hence the condition.
    while Instant::now() < deadline {
        patience.lose(Instant::now());
        while patience.counted() < pace.limit()
            && in_flight.len() < bounds.at_once
            && let Some(ip) = waiting.next()
        {
            let number = patience.sent(Instant::now());
            in_flight.push(ask(cpx, ip, number, bounds.per_server, deadline));
        }
        let answered = tokio::select! {
            biased;
            answered = in_flight.next() => answered,
            () = sleep_until(patience.next_loss().unwrap_or(deadline).min(deadline)) => continue,
        };
        let Some((ip, number, answer)) = answered else { break };
        let now = Instant::now();
        // A silence says nothing about how many CPX handles at once.
        if !matches!(answer, Err(Silence::Time | Silence::Cut)) {
            patience.answered(number, now);
            pace.answered(now - from);
        }
        servers.push(known(ip, answer, clock, &members));
    }
    drop(in_flight);
    let complete = servers.len() == ips.len() && !too_many;
    if servers.len() < ips.len() {
        let seen: HashSet<_> = servers.iter().map(|server: &Server| server.ip).collect();
        let left = ips.iter().filter(|ip| !seen.contains(ip));
        let cut: Vec<_> = left.map(|ip| known(*ip, Err(Silence::Cut), clock, &members)).collect();
        servers.extend(cut);
    }
    servers.sort_unstable_by_key(|server| server.ip);
    Ok(Reading { servers, observed_at: clock.now(), complete, ignored })
}

type Told = (ServiceName, Load);

async fn ask(
    cpx: &Cpx,
    ip: IpAddr,
    number: u64,
    patience: Duration,
    deadline: Instant,
) -> (IpAddr, u64, Result<Told, Silence>) {
    let end = (Instant::now() + patience).min(deadline);
    // The client's own timeout is longer: this one tells time from other trouble.
    let answer = match timeout_at(end, cpx.ask(ip, patience * 2)).await {
        Ok(answer) => answer.map_err(Silence::Said),
        Err(_) if end == deadline => Err(Silence::Cut),
        Err(_) => Err(Silence::Time),
    };
    (ip, number, answer)
}

/// Which requests count as in flight for the pace. One that takes far longer than any answer so far
/// hangs: its server's business, which must not hold up the others. In the queue of a CPX that
/// handles one at a time nobody waits that much longer than those before.
struct Patience {
    /// When those were sent that count, by their numbers.
    counted: BTreeMap<u64, Instant>,
    sent: BTreeMap<u64, Instant>,
    next: u64,
    longest: Option<Duration>,
    per_server: Duration,
}

impl Patience {
    fn new(per_server: Duration) -> Self {
        Self { counted: BTreeMap::new(), sent: BTreeMap::new(), next: 0, longest: None, per_server }
    }

    fn sent(&mut self, now: Instant) -> u64 {
        self.next += 1;
        self.counted.insert(self.next, now);
        self.sent.insert(self.next, now);
        self.next
    }

    fn answered(&mut self, number: u64, now: Instant) {
        self.counted.remove(&number);
        if let Some(sent) = self.sent.remove(&number) {
            self.longest = self.longest.max(Some(now - sent));
        }
    }

    fn counted(&self) -> usize {
        self.counted.len()
    }

    /// For how long a request counts.
    fn span(&self) -> Duration {
        let span = self.longest.map_or(self.per_server / 4, |longest| (longest * 2).max(LEAST_PATIENCE));
        span.min(self.per_server)
    }

    fn lose(&mut self, now: Instant) {
        let span = self.span();
        while let Some(oldest) = self.counted.first_entry()
            && *oldest.get() + span <= now
        {
            oldest.remove();
        }
    }

    fn next_loss(&self) -> Option<Instant> {
        self.counted.first_key_value().map(|(_, sent)| *sent + self.span())
    }
}

fn known(ip: IpAddr, answer: Result<Told, Silence>, clock: &Clock, members: &Members) -> Server {
    let (service, load) = match answer {
        Ok((service, load)) => (Some(service), Ok(load)),
        Err(silence) => (members.get(&ip).cloned(), Err(silence)),
    };
    Server { ip, service, load, observed_at: clock.now() }
}
