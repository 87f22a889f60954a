//! One poll of all servers: concurrent, bounded, and over by its deadline.
//!
//! One slow server delays the table by its own timeout and no more, and all of them together by no
//! more than the deadline. What is not known then is Unknown, with the reason.
//!
//! A stock CPX handles one request at a time, and says so by speaking HTTP/1.0. More than two at
//! once make nothing faster there: one that works, one that waits for its turn. Sixty-four would
//! overflow its queue of five, and the connections that it drops come back seconds later. All others
//! are concurrent.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    net::IpAddr,
    time::Duration,
};

use futures::{StreamExt as _, stream::FuturesUnordered};
use kit::clock::Clock;
use tokio::time::{Instant, timeout_at};

use crate::{
    cpx::{Cpx, CpxError, Listed},
    server::{Load, Reading, Server, ServiceName, Silence},
    turns::Turns,
};

/// How long CPX may take for its list.
const LIST: Duration = Duration::from_secs(5);
/// Most requests in flight to a CPX that handles one at a time.
const ONE_AND_NEXT: usize = 2;
/// How often a server is asked that did not have its turn there.
const ATTEMPTS: u32 = 3;

/// The bounds of a poll.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Most requests in flight, 1 to 512. At most two are for a CPX that handles one at a time, and
    /// tells by HTTP/1.0, or by this number.
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
    let Listed { ips, ignored, too_many, one_at_a_time } = listed?;
    let at_once = if one_at_a_time { bounds.at_once.min(ONE_AND_NEXT) } else { bounds.at_once };
    let takes_turns = at_once <= ONE_AND_NEXT;

    let mut servers = Vec::with_capacity(ips.len());
    let mut waiting: VecDeque<(IpAddr, u32)> = ips.iter().map(|ip| (*ip, 1)).collect();
    let mut turns = Turns::default();
    let mut in_flight = FuturesUnordered::new();
    // Whatever is ready is let through even after the deadline, hence the condition.
    while Instant::now() < deadline {
        while in_flight.len() < at_once
            && let Some((ip, attempt)) = waiting.pop_front()
        {
            let number = turns.sent(began.elapsed());
            let answer = ask(cpx, ip, bounds.per_server, deadline);
            in_flight.push(async move { (ip, attempt, number, answer.await) });
        }
        let Ok(Some((ip, attempt, number, answer))) = timeout_at(deadline, in_flight.next()).await else { break };
        let turn = turns.ended(number, began.elapsed());
        let only_waited = takes_turns && answer == Err(Silence::Time) && turn * 2 < bounds.per_server;
        if only_waited && attempt < ATTEMPTS {
            waiting.push_back((ip, attempt + 1));
        } else {
            servers.push(known(ip, answer, clock, &members));
        }
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
