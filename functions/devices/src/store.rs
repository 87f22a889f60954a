//! What is kept in the table `devices`, and how it is read and written.
//!
//! | pk | sk | what |
//! | --- | --- | --- |
//! | `DEVICE#<id>` | `RECORD` | a device |
//! | `DEVICE#<id>` | `ATTEMPT#<number, 3 digits>` | an attempt that has ended, with its time line: the diagnostic record |
//! | `DEVICE#<id>` | `USERDATA` | its userdata, sealed, until it is up or there will be none |
//! | `TENANT#<tenant>` | `<id>` | a tenant's list: one Query, newest first |
//! | `WORK` | `<id>` | a device there is something to do for: the worker's list; on AWS its stream wakes the worker |
//! | `ALIVE` | `<id>` | a device that is up: the sweep's list |
//! | `FAILURES` | `<plan>#<facility>` | what is remembered of failures |
//! | `SWEEP` | `SWEEP` | when there last was a sweep, and what it found |
//! | `WORKER` | `LEASE` | which worker works |
//! | `IDEMPOTENCY#<hash>` | `IDEMPOTENCY` | see [`kit::idempotency`] |
//!
//! A device's record is written on condition of its version, together with its places in the lists.

mod lists;

use aws_sdk_dynamodb::{
    primitives::Blob,
    types::{Delete, Put, TransactWriteItem},
};
use jiff::{SignedDuration, Timestamp};
pub use kit::dynamo::Lease;
use kit::dynamo::{
    AttributeValue, Item, Store, StoreError, TableDef, from_item, key, n, sort_key, to_item, was_written,
};
use uuid::Uuid;

pub use self::lists::{Swept, Work};
use crate::{
    device::{Attempt, Device, State},
    machine::Effects,
};

/// The table of this capability. Its stream wakes the worker on AWS.
pub const TABLE: TableDef = TableDef::new("devices").with_stream();

/// For so long a device that is gone, or never was, can still be read.
pub const KEPT: SignedDuration = SignedDuration::from_hours(24 * 90);

/// Devices in the store.
#[derive(Debug, Clone)]
pub struct DeviceStore {
    store: Store,
}

/// A device with everything that is kept of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Whole {
    /// The device.
    pub device: Device,
    /// Its attempts that have ended, in order.
    pub attempts: Vec<Attempt>,
}

fn device_pk(id: Uuid) -> String {
    format!("DEVICE#{id}")
}

/// The list of the worker, or of the sweep, that a device is on.
const fn place(device: &Device) -> Option<&'static str> {
    match device.state() {
        State::Requested | State::Creating | State::Provisioning | State::Deleting => Some("WORK"),
        State::Active => Some("ALIVE"),
        State::Deleted | State::Failed => None,
    }
}

impl DeviceStore {
    /// The devices in `store`.
    pub fn new(store: Store) -> Self {
        Self { store }
    }

    /// The store itself, for what kit keeps in the same table.
    pub fn inner(&self) -> &Store {
        &self.store
    }

    /// The name of the table in this deployment.
    pub fn table(&self) -> String {
        self.store.table(&TABLE)
    }

    /// Writes a new device, its places in the lists, its sealed userdata and, where there is one, the
    /// record of its idempotency key (as the last item), all or nothing.
    pub async fn create(
        &self,
        device: &Device,
        userdata: Option<Vec<u8>>,
        once: Option<TransactWriteItem>,
    ) -> Result<(), StoreError> {
        let mut items = vec![
            self.record(device, None)?,
            self.put(key(format!("TENANT#{}", device.tenant), device.id.to_string()))?,
            self.listed("WORK", device)?,
        ];
        if let Some(sealed) = userdata {
            let mut item = key(device_pk(device.id), "USERDATA");
            item.insert("sealed".to_owned(), AttributeValue::B(Blob::new(sealed)));
            items.push(self.put(item)?);
        }
        items.extend(once);
        self.store.transact(items).await
    }

    /// Writes a device that was read as `before`, on condition that nobody else has written it since,
    /// and what follows from that. Answers it with its new version, or nothing where somebody has.
    pub async fn write(
        &self,
        before: &Device,
        mut after: Device,
        effects: &Effects,
        now: Timestamp,
    ) -> Result<Option<Device>, StoreError> {
        after.version = before.version + 1;
        after.updated_at = now;
        let mut items = vec![self.record(&after, Some(before.version))?];
        if let Some(attempt) = &effects.closed {
            let mut item = to_item(attempt)?;
            item.extend(key(device_pk(after.id), attempt_sk(attempt.number)));
            item.extend(expiry(&after));
            items.push(self.put(item)?);
        }
        let (from, to) = (place(before), place(&after));
        if let Some(to) = to
            && (from != Some(to) || before.revision != after.revision)
        {
            items.push(self.listed(to, &after)?);
        }
        if let Some(from) = from
            && to != Some(from)
        {
            items.push(self.delete(key(from, after.id.to_string()))?);
        }
        if after.has_userdata && after.state().is_settled() && !before.state().is_settled() {
            items.push(self.delete(key(device_pk(after.id), "USERDATA"))?);
        }
        let result = match <[_; 1]>::try_from(items) {
            // A write on its own costs half of a transaction of one.
            Ok([record]) => self.put_alone(record).await,
            Err(items) => self.store.transact(items).await,
        };
        if !was_written(result)? {
            return Ok(None);
        }
        if place(&after).is_none() {
            self.let_expire(&after).await;
        }
        Ok(Some(after))
    }

    /// One device, as last written.
    pub async fn device(&self, id: Uuid) -> Result<Option<Device>, StoreError> {
        let item = self.store.get(&TABLE, key(device_pk(id), "RECORD")).await?;
        item.map(from_item).transpose()
    }

    /// One device and its attempts.
    pub async fn whole(&self, id: Uuid) -> Result<Option<Whole>, StoreError> {
        let mut device = None;
        let mut attempts: Vec<Attempt> = Vec::new();
        for item in self.store.partition(&TABLE, device_pk(id)).await? {
            match sort_key(&item) {
                Some("RECORD") => device = Some(from_item(item)?),
                Some(sk) if sk.starts_with("ATTEMPT#") => attempts.push(from_item(item)?),
                _ => {}
            }
        }
        Ok(device.map(|device| Whole { device, attempts }))
    }

    /// A device's userdata as it was sealed, if it has any and that is still needed.
    pub async fn userdata(&self, id: Uuid) -> Result<Option<Vec<u8>>, StoreError> {
        let item = self.store.get(&TABLE, key(device_pk(id), "USERDATA")).await?;
        Ok(item.and_then(|item| Some(item.get("sealed")?.as_b().ok()?.clone().into_inner())))
    }

    /// A record that nobody will work on any more, its place in the tenant's list and its diagnostic
    /// records go after [`KEPT`].
    async fn let_expire(&self, device: &Device) {
        // The record itself was written with its expiry; what was written before it is told now.
        let attempts = (1..=device.attempts()).map(|number| key(device_pk(device.id), attempt_sk(number)));
        let listed = key(format!("TENANT#{}", device.tenant), device.id.to_string());
        for key in attempts.chain([listed]) {
            let update = self
                .store
                .client()
                .update_item()
                .table_name(self.table())
                .set_key(Some(key))
                .update_expression("SET #ttl = :ttl")
                .condition_expression("attribute_exists(pk)")
                .expression_attribute_names("#ttl", "ttl")
                .expression_attribute_values(":ttl", n(expires_at(device)));
            if let Err(error) = update.send().await.map_err(StoreError::from)
                && !error.is_condition_failed()
            {
                // They are small, and nothing is read from them: at worst they stay.
                tracing::warn!(device = %device.id, %error, "what is kept of a device will not expire");
                return;
            }
        }
    }

    fn record(&self, device: &Device, version: Option<u64>) -> Result<TransactWriteItem, StoreError> {
        let mut item = to_item(device)?;
        item.extend(key(device_pk(device.id), "RECORD"));
        item.extend(expiry(device));
        let put = Put::builder().table_name(self.table()).set_item(Some(item));
        let put = match version {
            None => put.condition_expression("attribute_not_exists(pk)"),
            Some(version) => put
                .condition_expression("#version = :version")
                .expression_attribute_names("#version", "version")
                .expression_attribute_values(":version", n(version)),
        };
        Ok(TransactWriteItem::builder().put(put.build()?).build())
    }

    fn listed(&self, list: &str, device: &Device) -> Result<TransactWriteItem, StoreError> {
        let mut item = key(list, device.id.to_string());
        item.insert("revision".to_owned(), n(device.revision));
        self.put(item)
    }

    fn put(&self, item: Item) -> Result<TransactWriteItem, StoreError> {
        let put = Put::builder().table_name(self.table()).set_item(Some(item)).build()?;
        Ok(TransactWriteItem::builder().put(put).build())
    }

    fn delete(&self, key: Item) -> Result<TransactWriteItem, StoreError> {
        let delete = Delete::builder().table_name(self.table()).set_key(Some(key)).build()?;
        Ok(TransactWriteItem::builder().delete(delete).build())
    }

    async fn put_alone(&self, item: TransactWriteItem) -> Result<(), StoreError> {
        let Some(put) = item.put else { return Ok(()) };
        self.store
            .client()
            .put_item()
            .table_name(put.table_name)
            .set_item(Some(put.item))
            .set_condition_expression(put.condition_expression)
            .set_expression_attribute_names(put.expression_attribute_names)
            .set_expression_attribute_values(put.expression_attribute_values)
            .send()
            .await?;
        Ok(())
    }
}

fn attempt_sk(number: u32) -> String {
    format!("ATTEMPT#{number:03}")
}

fn expires_at(device: &Device) -> i64 {
    (device.ended_at.unwrap_or(device.updated_at) + KEPT).as_second()
}

/// The attribute that lets an item go, where its device is over.
fn expiry(device: &Device) -> Option<(String, AttributeValue)> {
    place(device).is_none().then(|| ("ttl".to_owned(), n(expires_at(device))))
}
