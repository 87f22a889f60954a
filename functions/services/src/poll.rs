//! One poll of all servers: concurrent, bounded, and over by its deadline.
//!
//! One slow server delays the table by its own timeout and no more, and all of them together by no
//! more than the deadline. What is not known then is Unknown, with the reason. A server that only
//! waited behind another one is asked again ([`Flight`]).

use std::{
    collections::{HashMap, HashSet, VecDeque},
    net::IpAddr,
    time::Duration,
};

use futures::{StreamExt as _, stream::FuturesUnordered};
use kit::clock::Clock;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::{
    cpx::{Cpx, CpxError, Listed},
    flight::Flight,
    pace::Pace,
    server::{Load, Reading, Server, ServiceName, Silence},
};

/// How long CPX may take for its list.
const LIST: Duration = Duration::from_secs(5);
/// How often a server is asked that did not have its turn.
const ATTEMPTS: u32 = 3;

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
    let mut waiting: VecDeque<(IpAddr, u32)> = ips.iter().map(|ip| (*ip, 1)).collect();
    let mut pace = Pace::new(bounds.at_once);
    let mut flight = Flight::new(bounds.per_server);
    let mut in_flight = FuturesUnordered::new();
    let from = Instant::now();
    // Whatever is ready is let through even after the deadline, hence the condition.
    while Instant::now() < deadline {
        while in_flight.len() < bounds.at_once
            && !waiting.is_empty()
            && flight.has_room(from.elapsed(), pace.limit())
            && let Some((ip, attempt)) = waiting.pop_front()
        {
            let number = flight.send(from.elapsed());
            let answer = ask(cpx, ip, bounds.per_server, deadline);
            in_flight.push(async move { (ip, attempt, number, answer.await) });
        }
        let may_send = !waiting.is_empty() && in_flight.len() < bounds.at_once;
        let wake = flight.next_change(from.elapsed()).filter(|_| may_send);
        let wake = wake.map_or(deadline, |change| (from + change).min(deadline));
        let ended = tokio::select! {
            biased;
            ended = in_flight.next() => ended,
            () = sleep_until(wake) => continue,
        };
        let Some((ip, attempt, number, answer)) = ended else { break };
        let now = from.elapsed();
        match answer {
            Err(Silence::Time) => {
                pace.stumbled(now);
                if !flight.timed_out(number, now, pace.is_wide()) && attempt < ATTEMPTS {
                    waiting.push_back((ip, attempt + 1));
                    continue;
                }
            }
            Err(Silence::Cut) => {}
            Ok(_) | Err(Silence::Said(_)) => {
                flight.answered(number, now);
                // A silence says nothing about how many CPX handles at once.
                pace.answered(now);
            }
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

async fn ask(cpx: &Cpx, ip: IpAddr, patience: Duration, deadline: Instant) -> Result<Told, Silence> {
    let end = (Instant::now() + patience).min(deadline);
    // The client's own timeout is longer: this one tells time from other trouble.
    match timeout_at(end, cpx.ask(ip, patience * 2)).await {
        Ok(answer) => answer.map_err(Silence::Said),
        Err(_) if end == deadline => Err(Silence::Cut),
        Err(_) => Err(Silence::Time),
    }
}

fn known(ip: IpAddr, answer: Result<Told, Silence>, clock: &Clock, members: &Members) -> Server {
    let (service, load) = match answer {
        Ok((service, load)) => (Some(service), Ok(load)),
        Err(silence) => (members.get(&ip).cloned(), Err(silence)),
    };
    Server { ip, service, load, observed_at: clock.now() }
}
