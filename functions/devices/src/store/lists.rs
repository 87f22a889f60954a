//! The lists: a tenant's devices, the worker's work, what is up, failures, sweeps, and who works.

use aws_sdk_dynamodb::types::KeysAndAttributes;
use jiff::Timestamp;
use kit::dynamo::{Item, Lease, StoreError, from_item, key, n, s, sort_key, to_item, was_written};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{DeviceStore, TABLE, device_pk};
use crate::{
    device::Device,
    failures::{Failures, Remembered, after_failure},
};

/// Items that DynamoDB reads in one batch.
const BATCH: usize = 100;
/// Times that what a batch left out is asked for again.
const BATCH_TRIES: u32 = 6;

/// A device that there is something to do for, or that is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Work {
    /// Which.
    pub id: Uuid,
    /// Its revision: a record of an older one is out of date.
    pub revision: u64,
}

/// What the last sweep found.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Swept {
    /// When.
    pub at: Timestamp,
    /// Machines with our tag that no record accounts for: the vendor's ids.
    pub orphans: Vec<String>,
    /// Those of them that the vendor was asked to delete.
    pub deleted: Vec<String>,
    /// Devices that were up and that the vendor no longer has.
    pub lost: Vec<Uuid>,
}

#[derive(Serialize, Deserialize)]
struct FailureRow {
    plan: String,
    facility: String,
    #[serde(flatten)]
    remembered: Remembered,
    ttl: i64,
}

impl DeviceStore {
    /// A page of a tenant's devices, newest first, after the device `after`; and the one to go on
    /// after.
    pub async fn list(
        &self,
        tenant: &str,
        limit: u32,
        after: Option<&str>,
    ) -> Result<(Vec<Device>, Option<String>), StoreError> {
        let pk = format!("TENANT#{tenant}");
        let page = self
            .store
            .client()
            .query()
            .table_name(self.table())
            .key_condition_expression("pk = :pk")
            .expression_attribute_values(":pk", s(&pk))
            .scan_index_forward(false)
            .set_exclusive_start_key(after.map(|id| key(&pk, id)))
            .limit(i32::try_from(limit).unwrap_or(i32::MAX))
            .send()
            .await?;
        let next = page.last_evaluated_key.as_ref().and_then(sort_key).map(str::to_owned);
        let ids: Vec<Uuid> = page.items.unwrap_or_default().iter().filter_map(id_of).collect();
        Ok((self.devices(&ids).await?, next))
    }

    /// These devices, in this order; those that are not there, or have expired, are left out.
    pub async fn devices(&self, ids: &[Uuid]) -> Result<Vec<Device>, StoreError> {
        let mut found = std::collections::HashMap::new();
        for chunk in ids.chunks(BATCH) {
            let mut keys: Vec<_> = chunk.iter().map(|id| key(device_pk(*id), "RECORD")).collect();
            for attempt in 0.. {
                let wanted = KeysAndAttributes::builder().set_keys(Some(keys)).consistent_read(true).build()?;
                let mut answer =
                    self.store.client().batch_get_item().request_items(self.table(), wanted).send().await?;
                for item in answer.responses.take().and_then(|mut it| it.remove(&self.table())).unwrap_or_default() {
                    let device: Device = from_item(item)?;
                    found.insert(device.id, device);
                }
                let left = answer.unprocessed_keys.and_then(|mut it| it.remove(&self.table()));
                keys = left.map(|left| left.keys).unwrap_or_default();
                if keys.is_empty() {
                    break;
                }
                if attempt >= BATCH_TRIES {
                    return Err(StoreError::Other { detail: "DynamoDB left out a part of a batch".to_owned() });
                }
                tokio::time::sleep(std::time::Duration::from_millis(20 << attempt)).await;
            }
        }
        Ok(ids.iter().filter_map(|id| found.remove(id)).collect())
    }

    /// All devices that there is something to do for, the oldest first.
    pub async fn work(&self) -> Result<Vec<Work>, StoreError> {
        Ok(self.store.partition(&TABLE, "WORK").await?.iter().filter_map(read_work).collect())
    }

    /// All devices that are up.
    pub async fn alive(&self) -> Result<Vec<Work>, StoreError> {
        Ok(self.store.partition(&TABLE, "ALIVE").await?.iter().filter_map(read_work).collect())
    }

    /// Takes a device whose record is gone off the worker's list.
    pub async fn drop_work(&self, id: Uuid) -> Result<(), StoreError> {
        let client = self.store.client();
        client.delete_item().table_name(self.table()).set_key(Some(key("WORK", id.to_string()))).send().await?;
        Ok(())
    }

    /// Everything that is remembered of failures.
    pub async fn failures(&self) -> Result<Failures, StoreError> {
        let mut failures = Failures::default();
        for item in self.store.partition(&TABLE, "FAILURES").await? {
            let row: FailureRow = from_item(item)?;
            failures.insert(row.plan, row.facility, row.remembered);
        }
        Ok(failures)
    }

    /// Remembers a failure of an attempt that began at `began`. Of many devices that fail at the same
    /// time only one counts: the others did not know.
    pub async fn remember(
        &self,
        (plan, facility): (&str, &str),
        reason: &str,
        began: Timestamp,
        now: Timestamp,
    ) -> Result<Remembered, StoreError> {
        let at = key("FAILURES", format!("{plan}#{facility}"));
        let known: Option<FailureRow> = self.store.get(&TABLE, at.clone()).await?.map(from_item).transpose()?;
        let known = known.map(|row| row.remembered);
        if let Some(known) = &known
            && known.last_at >= began
        {
            return Ok(known.clone());
        }
        let remembered = after_failure(known.as_ref(), now, reason);
        let ttl = remembered.forgotten_after().as_second();
        let row =
            FailureRow { plan: plan.to_owned(), facility: facility.to_owned(), remembered: remembered.clone(), ttl };
        let mut item = to_item(&row)?;
        item.extend(at);
        self.store.client().put_item().table_name(self.table()).set_item(Some(item)).send().await?;
        Ok(remembered)
    }

    /// Forgets the failures of a combination that has worked.
    pub async fn forget(&self, plan: &str, facility: &str) -> Result<(), StoreError> {
        let at = key("FAILURES", format!("{plan}#{facility}"));
        self.store.client().delete_item().table_name(self.table()).set_key(Some(at)).send().await?;
        Ok(())
    }

    /// Claims the sweep that is due `every` so often; answers whether it is ours to do.
    pub async fn claim_sweep(&self, now: Timestamp, every: jiff::SignedDuration) -> Result<bool, StoreError> {
        let claimed = self
            .store
            .client()
            .update_item()
            .table_name(self.table())
            .set_key(Some(key("SWEEP", "SWEEP")))
            .update_expression("SET claimed_at = :now")
            .condition_expression("attribute_not_exists(claimed_at) OR claimed_at <= :due")
            .expression_attribute_values(":now", n(now.as_millisecond()))
            .expression_attribute_values(":due", n((now - every).as_millisecond()))
            .send()
            .await;
        was_written(claimed)
    }

    /// Writes what a sweep has found.
    pub async fn swept(&self, swept: &Swept) -> Result<(), StoreError> {
        let mut item = to_item(swept)?;
        item.extend(key("SWEEP", "LAST"));
        self.store.client().put_item().table_name(self.table()).set_item(Some(item)).send().await?;
        Ok(())
    }

    /// What the last sweep found, if there has been one.
    pub async fn last_sweep(&self) -> Result<Option<Swept>, StoreError> {
        self.store.get(&TABLE, key("SWEEP", "LAST")).await?.map(from_item).transpose()
    }

    /// Takes, or renews, the right to work until `until`. Two that work do no harm, but twice the
    /// requests.
    pub async fn lease(&self, owner: Uuid, now: Timestamp, until: Timestamp) -> Result<Lease, StoreError> {
        self.store.lease(&TABLE, key("WORKER", "LEASE"), owner, now, until).await
    }

    /// Gives the right to work back, if it is still ours.
    pub async fn release(&self, owner: Uuid) -> Result<(), StoreError> {
        self.store.release(&TABLE, key("WORKER", "LEASE"), owner).await
    }
}

fn id_of(item: &Item) -> Option<Uuid> {
    sort_key(item)?.parse().ok()
}

fn read_work(item: &Item) -> Option<Work> {
    let revision = item.get("revision").and_then(|it| it.as_n().ok()?.parse().ok()).unwrap_or_default();
    Some(Work { id: id_of(item)?, revision })
}
