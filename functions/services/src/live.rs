//! The live reading, shared: whoever asks gets the one that is young enough, and all who wait, wait
//! for one poll.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{
    FutureExt as _,
    future::{BoxFuture, Shared},
};
use jiff::Timestamp;
use kit::clock::Clock;

use crate::{
    cpx::{Cpx, CpxError},
    poll::{Bounds, Members, poll},
    server::Reading,
    store::{Record, ServiceStore},
};

/// A reading, and what the worker has kept of the services.
#[derive(Debug)]
pub struct Seen {
    /// All servers.
    pub reading: Reading,
    /// What is kept of each service, as far as the store could tell.
    pub records: Vec<Record>,
}

type Polling = Shared<BoxFuture<'static, Result<Arc<Seen>, CpxError>>>;

/// Reads CPX for many. Clones share the reading.
#[derive(Debug, Clone)]
pub struct Live(Arc<Inner>);

struct Inner {
    cpx: Cpx,
    bounds: Bounds,
    clock: Clock,
    store: ServiceStore,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    last: Option<Arc<Seen>>,
    running: Option<Polling>,
    members: Option<Members>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Live").field("cpx", &self.cpx).field("bounds", &self.bounds).finish_non_exhaustive()
    }
}

impl Live {
    /// Of one CPX. `store` tells where silent servers belong.
    pub fn new(cpx: Cpx, bounds: Bounds, clock: Clock, store: ServiceStore) -> Self {
        Self(Arc::new(Inner { cpx, bounds, clock, store, state: Mutex::default() }))
    }

    /// The CPX that is read.
    pub fn cpx(&self) -> &Cpx {
        &self.0.cpx
    }

    /// A reading that was complete not longer than `max_age` ago; a new one where there is none. A
    /// poll that goes on already is joined, whoever began it, and goes on if its beginner leaves.
    pub async fn seen(&self, max_age: Duration) -> Result<Arc<Seen>, CpxError> {
        let running = {
            let mut state = self.0.state();
            if let Some(seen) =
                state.last.as_ref().filter(|seen| is_young(seen.reading.observed_at, self.0.clock.now(), max_age))
            {
                return Ok(Arc::clone(seen));
            }
            state.running.get_or_insert_with(|| Arc::clone(&self.0).start()).clone()
        };
        running.await
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(self: Arc<Self>) -> Polling {
        let inner = Arc::clone(&self);
        // A task of its own: it goes on when its beginner leaves, and comes to its end though nobody
        // waits for that. Whoever asks later must not join what is over.
        let task = tokio::spawn(async move {
            let result = inner.poll().await.map(Arc::new);
            let mut state = inner.state();
            state.running = None;
            if let Ok(seen) = &result {
                state.last = Some(Arc::clone(seen));
            }
            drop(state);
            result
        });
        async move {
            task.await.unwrap_or_else(|error| {
                tracing::error!(%error, "a poll broke off");
                self.state().running = None;
                Err(CpxError::Broken)
            })
        }
        .boxed()
        .shared()
    }

    async fn poll(&self) -> Result<Seen, CpxError> {
        let records = async {
            self.store.records().await.unwrap_or_else(|error| {
                // The table goes without its trends, not away.
                tracing::warn!(%error, "what is kept of the services could not be read");
                Vec::new()
            })
        };
        let (reading, records) = tokio::join!(poll(&self.cpx, self.bounds, &self.clock, self.members()), records);
        let reading = reading?;
        self.remember(&reading);
        Ok(Seen { reading, records })
    }

    /// Where servers belonged when they said so last: as this process knows, or the store did.
    async fn members(&self) -> Members {
        if let Some(members) = self.state().members.clone() {
            return members;
        }
        match self.store.members().await {
            Ok(members) => {
                self.state().members = Some(members.clone());
                members
            }
            Err(error) => {
                tracing::warn!(%error, "where silent servers belong could not be read");
                Members::new()
            }
        }
    }

    fn remember(&self, reading: &Reading) {
        let known = reading.servers.iter().filter_map(|server| Some((server.ip, server.service.clone()?)));
        let mut state = self.state();
        // Only what adds to the store's own: else that is read the next time.
        if state.members.is_some() {
            // Those that CPX lists no more are forgotten.
            state.members = Some(known.collect());
        }
    }
}

/// By the wall clock, which goes on while a function is frozen. One that was set back makes nothing
/// young.
fn is_young(observed_at: Timestamp, now: Timestamp, max_age: Duration) -> bool {
    !max_age.is_zero() && Duration::try_from(now.duration_since(observed_at)).is_ok_and(|age| age <= max_age)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_in_the_future_is_not_young() {
        let now = Timestamp::constant(1_800_000_000, 0);
        let is_young = |second, max_age| is_young(Timestamp::constant(second, 0), now, Duration::from_secs(max_age));
        assert!(is_young(1_800_000_000, 1) && is_young(1_799_999_995, 5));
        assert!(!is_young(1_799_999_994, 5) && !is_young(1_800_000_000, 0) && !is_young(1_800_000_001, 300));
    }
}
