//! When ticks are: two in the minute that an event is for, or every slot by our own clock.

use std::time::Duration;

use kit::dynamo::StoreError;
use tokio_util::sync::CancellationToken;

use crate::{
    samples::{Slot, slot, time},
    tick::{Report, Scaler},
};

impl Scaler {
    /// Does the work of a minute, for an event that comes once in each: the present slot at once, and
    /// the next one when it begins.
    ///
    /// When the event was meant to come does not matter: an event may be a minute late for ever, and
    /// the minute that it counts from begins at any second. Which slots are done is told by their
    /// claims, so an event that comes twice does nothing twice, and after lost ones there is one
    /// tick, of now.
    pub async fn minute(&self, stop: &CancellationToken) -> Result<Vec<Report>, StoreError> {
        let first = slot(self.clock().now());
        let mut reports = Vec::new();
        let mut problem = None;
        for next in [first, first + 1] {
            if stop.run_until_cancelled(self.until(next)).await.is_none() {
                break;
            }
            match self.tick(next, stop).await {
                Ok(report) => reports.push(report),
                // The second one may well succeed.
                Err(error) => {
                    tracing::error!(slot = next, %error, "a tick could not be done");
                    problem = Some(error);
                }
            }
        }
        match problem {
            Some(error) => Err(error),
            None => Ok(reports),
        }
    }

    /// Ticks in every slot until `stop` is cancelled. The tick in hand comes to its end.
    pub async fn work_forever(&self, stop: &CancellationToken, mut told: impl FnMut(&Result<Report, StoreError>)) {
        let mut next = slot(self.clock().now());
        while !stop.is_cancelled() {
            let ticked = self.tick(next, stop).await;
            match &ticked {
                Ok(report) => tracing::debug!(slot = next, ?report, "ticked"),
                Err(error) => tracing::warn!(slot = next, %error, "a tick could not be done"),
            }
            told(&ticked);
            // Slots that have passed meanwhile are not caught up on: a reading of now says it all.
            next = slot(self.clock().now()).max(next + 1);
            if stop.run_until_cancelled(self.until(next)).await.is_none() {
                return;
            }
        }
    }

    async fn until(&self, slot: Slot) {
        let left = time(slot).duration_since(self.clock().now());
        tokio::time::sleep(Duration::try_from(left).unwrap_or_default()).await;
    }
}
