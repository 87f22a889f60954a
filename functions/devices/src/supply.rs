//! What can be had at present: catalogue, capacity and remembered failures, each kept for a while so
//! that a thousand devices do not ask a thousand times.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use kit::{clock::Clock, dynamo::StoreError};

use crate::{
    catalog::{Capacity, Catalog, Facility, Plan},
    device::{Attempt, Device, Reason},
    failures::Failures,
    request::Request,
    select::{Candidate, Impossible, Selection, Tried, impossible, select},
    store::DeviceStore,
    vendor::{Vendor, VendorError},
};

/// So old may the catalogue be where the caller does not say.
pub const CATALOG_AGE: Duration = Duration::from_secs(300);
/// So old may the capacity be.
const CAPACITY_AGE: Duration = Duration::from_secs(60);
/// So old may failures be that another process has remembered.
const FAILURES_AGE: Duration = Duration::from_secs(30);

/// What can be had at one vendor. Clones share what they know.
#[derive(Debug, Clone)]
pub struct Supply {
    vendor: Vendor,
    store: DeviceStore,
    clock: Clock,
    known: Arc<Mutex<Known>>,
    /// One reader at a time; the others wait for what it finds.
    reading: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Debug, Default)]
struct Known {
    catalog: Option<(Timestamp, Catalog)>,
    capacity: Option<(Timestamp, Capacity)>,
    failures: Option<(Timestamp, Failures)>,
}

/// Why there is no choice.
#[derive(Debug, thiserror::Error)]
pub enum SupplyError {
    /// The vendor does not tell.
    #[error(transparent)]
    Vendor(#[from] VendorError),
    /// The store is away.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Supply {
    /// What can be had at `vendor`.
    pub fn new(vendor: Vendor, store: DeviceStore, clock: Clock) -> Self {
        Self { vendor, store, clock, known: Arc::default(), reading: Arc::default() }
    }

    /// The vendor.
    pub fn vendor(&self) -> &Vendor {
        &self.vendor
    }

    /// The catalogue, at most so old, and when it was read.
    pub async fn catalog(&self, max_age: Duration) -> Result<(Timestamp, Catalog), VendorError> {
        let fresh = |known: &Known| known.catalog.clone().filter(|(at, _)| self.is_fresh(*at, max_age));
        if let Some(known) = fresh(&self.known()) {
            return Ok(known);
        }
        let _reading = self.reading.lock().await;
        if let Some(known) = fresh(&self.known()) {
            return Ok(known);
        }
        let at = self.clock.now();
        let catalog = self.vendor.catalog().await?;
        self.known().catalog = Some((at, catalog.clone()));
        Ok((at, catalog))
    }

    /// What would be tried for a request, of which some was tried already.
    pub async fn select(&self, request: &Request, tried: &Tried) -> Result<Selection, SupplyError> {
        let (_, catalog) = self.catalog(CATALOG_AGE).await?;
        let capacity = self.capacity(&catalog).await?;
        let failures = self.failures().await?;
        Ok(select(request, &catalog, &capacity, &failures, tried, self.clock.now()))
    }

    /// Which requirement leaves nothing, if one does.
    pub async fn impossible(&self, request: &Request) -> Result<Option<Impossible>, VendorError> {
        let (_, catalog) = self.catalog(CATALOG_AGE).await?;
        Ok(impossible(request, &catalog))
    }

    /// The best combination that is left for a device; or why none is.
    pub async fn choose(&self, device: &Device) -> Result<Result<Candidate, String>, SupplyError> {
        let selection = self.select(&device.request, &device.tried()).await?;
        if let Some(best) = selection.candidates.into_iter().next() {
            return Ok(Ok(best));
        }
        let tried = device.failed.len();
        Ok(Err(if tried > 0 {
            let last = device.reason.as_ref().map_or("unknown", |reason| reason.detail.as_str());
            format!("all that could be had was tried, {tried} combinations; the last one: {last}")
        } else {
            match self.impossible(&device.request).await? {
                Some(impossible) => {
                    let words: Vec<_> = impossible.obstacles.iter().map(|it| it.detail.as_str()).collect();
                    format!("nothing fits: {}", words.join("; "))
                }
                None => "nothing that fits has any capacity at present".to_owned(),
            }
        }))
    }

    /// Remembers that a combination failed, for all devices.
    pub async fn remember(&self, attempt: &Attempt, reason: &Reason) -> Result<(), StoreError> {
        let Candidate { plan, facility, .. } = &attempt.candidate;
        let now = self.clock.now();
        let remembered = self.store.remember((plan, facility), &reason.detail, attempt.started_at, now).await?;
        if let Some((_, failures)) = &mut self.known().failures {
            failures.insert(plan.clone(), facility.clone(), remembered);
        }
        Ok(())
    }

    /// Forgets the failures of a combination that has worked.
    pub async fn forget(&self, candidate: &Candidate) -> Result<(), StoreError> {
        let Candidate { plan, facility, .. } = candidate;
        // Most have none, and a deletion costs a write.
        if candidate.recent_failures == 0 {
            return Ok(());
        }
        self.store.forget(plan, facility).await?;
        self.known().failures = None;
        Ok(())
    }

    async fn capacity(&self, catalog: &Catalog) -> Result<Capacity, VendorError> {
        let fresh = |known: &Known| known.capacity.clone().filter(|(at, _)| self.is_fresh(*at, CAPACITY_AGE));
        if let Some((_, known)) = fresh(&self.known()) {
            return Ok(known);
        }
        let _reading = self.reading.lock().await;
        if let Some((_, known)) = fresh(&self.known()) {
            return Ok(known);
        }
        let at = self.clock.now();
        let pairs = pairs(catalog);
        let capacity = match self.vendor.capacity(&pairs).await {
            Ok(capacity) => capacity,
            // It is a hint: without it the vendor says so at the time of the create.
            Err(error) => {
                tracing::warn!(%error, "the vendor's capacity is not known");
                Capacity::default()
            }
        };
        self.known().capacity = Some((at, capacity.clone()));
        Ok(capacity)
    }

    async fn failures(&self) -> Result<Failures, StoreError> {
        let fresh = |known: &Known| known.failures.clone().filter(|(at, _)| self.is_fresh(*at, FAILURES_AGE));
        if let Some((_, known)) = fresh(&self.known()) {
            return Ok(known);
        }
        let at = self.clock.now();
        let failures = self.store.failures().await?;
        self.known().failures = Some((at, failures.clone()));
        Ok(failures)
    }

    fn is_fresh(&self, at: Timestamp, max_age: Duration) -> bool {
        let age = self.clock.now().duration_since(at);
        age >= SignedDuration::ZERO && Duration::try_from(age).is_ok_and(|age| age < max_age)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The plans that facilities have.
fn pairs(catalog: &Catalog) -> Vec<(String, String)> {
    let has = |plan: &Plan, facility: &Facility| {
        plan.available_in.contains(&facility.code)
            || facility.id.as_ref().is_some_and(|id| plan.available_in.contains(id))
    };
    let of = |plan: &Plan| -> Vec<_> {
        let having = catalog.facilities.iter().filter(|facility| has(plan, facility));
        having.map(|facility| (plan.slug.clone(), facility.code.clone())).collect()
    };
    catalog.plans.iter().flat_map(of).collect()
}
