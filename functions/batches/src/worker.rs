//! The worker: takes the provider's lease, works on all pending batches, and leaves everything such
//! that the next worker can go on.
//!
//! Here is when it works and for how long; what it does meanwhile is a [`Shift`].

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};
use kit::{clock::Clock, dynamo::StoreError};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    provider::Provider,
    shift::Shift,
    store::{BatchStore, Lease},
};

/// All the times of a worker. The defaults follow from the provider's timeout.
#[derive(Debug, Clone)]
pub struct Timing {
    /// How long a lease lasts: as long as a request may occupy the provider, and some slack.
    pub lease: Duration,
    /// The slack within `lease`: it is renewed a third into it, and nothing is sent in its last
    /// quarter, whatever two machines' clocks think of each other.
    pub slack: Duration,
    /// First wait before a DevEUI is asked for again; doubles.
    pub retry_base: Duration,
    /// Longest such wait.
    pub retry_most: Duration,
    /// How often the list of pending batches is read.
    pub refresh: Duration,
    /// How often the counts of a batch are written while it is worked on.
    pub report: Duration,
    /// Wait before the store is tried again.
    pub store_retry: Duration,
    /// How long a stopping worker tries to write what it knows.
    pub stop_grace: Duration,
}

impl Timing {
    /// The times that go with `provider`'s timeout.
    pub fn new(provider: &Provider) -> Self {
        let slack = (provider.timeout() / 2).max(Duration::from_millis(1200));
        Self {
            lease: provider.occupies() + slack,
            slack,
            retry_base: Duration::from_millis(200),
            retry_most: Duration::from_secs(30),
            refresh: Duration::from_secs(2),
            report: Duration::from_secs(1),
            store_retry: Duration::from_millis(500),
            stop_grace: Duration::from_secs(5),
        }
    }
}

/// How a stretch of work ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Nothing is pending.
    Idle,
    /// It was told to stop; the next worker goes on.
    Stopped,
    /// Somebody else holds the lease, until then.
    Held(Timestamp),
}

/// Registers DevEUIs for all pending batches of one provider.
#[derive(Debug, Clone)]
pub struct Worker {
    pub(crate) store: BatchStore,
    pub(crate) provider: Provider,
    pub(crate) clock: Clock,
    pub(crate) timing: Timing,
    pub(crate) wake: Arc<Notify>,
}

impl Worker {
    /// A worker on `store` and `provider`. `wake` tells it in this process of new batches.
    pub fn new(store: BatchStore, provider: Provider, clock: Clock, timing: Timing, wake: Arc<Notify>) -> Self {
        Self { store, provider, clock, timing, wake }
    }

    /// Works until nothing is pending or `stop` is cancelled. On `stop` nothing new is sent, what is
    /// in flight is finished and written, and the lease is given back.
    pub async fn work(&self, stop: &CancellationToken) -> Result<Ended, StoreError> {
        let name = self.provider.name();
        // Without work no lease is taken: an idle worker writes nothing.
        if self.store.pending(&name, 1, 1).await?.is_empty() {
            return Ok(Ended::Idle);
        }
        let owner = Uuid::now_v7();
        let asked_at = instant_now();
        let now = self.clock.now();
        let until = now + signed(self.timing.lease);
        if let Lease::Held(until) = self.store.lease(&name, owner, now, until).await? {
            return Ok(Ended::Held(until));
        }
        let mut shift = Shift::new(self, name.clone(), owner, (asked_at + self.timing.lease, until), stop);
        let ended = shift.run().await;
        drop(shift);
        if let Err(error) = self.store.release(&name, owner).await {
            tracing::warn!(%error, "the lease could not be given back; it will expire");
        }
        Ok(ended)
    }

    /// Works whenever there is something to do, until `stop` is cancelled.
    pub async fn work_forever(&self, stop: &CancellationToken) {
        self.work_and_tell(stop, |_| {}).await;
    }

    /// Like [`Worker::work_forever`], and tells after each stretch of work until when somebody else
    /// holds the lease, if so: people who wait want to know what for.
    pub async fn work_and_tell(&self, stop: &CancellationToken, mut tell: impl FnMut(Option<Timestamp>)) {
        while !stop.is_cancelled() {
            let ended = self.work(stop).await;
            tell(match ended {
                Ok(Ended::Held(until)) => Some(until),
                _ => None,
            });
            let pause = match ended {
                Ok(Ended::Stopped) => return,
                Ok(Ended::Idle) => Duration::from_mins(1),
                Ok(Ended::Held(until)) => {
                    let left = until.duration_since(self.clock.now());
                    tracing::info!(seconds = left.as_secs(), "waiting for another worker's lease");
                    // Looked at again now and then: a holder that ends well gives its lease back.
                    let left = Duration::try_from(left).unwrap_or_default() + Duration::from_millis(20);
                    left.min(Duration::from_secs(1))
                }
                Err(error) => {
                    tracing::warn!(%error, "the worker could not begin");
                    self.timing.store_retry
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.wake.notified() => {}
                () = stop.cancelled() => return,
            }
        }
    }
}

pub(crate) fn instant_now() -> Instant {
    tokio::time::Instant::now().into_std()
}

pub(crate) fn signed(duration: Duration) -> SignedDuration {
    SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX)
}
