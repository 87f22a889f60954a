//! What is kept in the table `batches`, and how it is read and written.
//!
//! | pk | sk | what |
//! | --- | --- | --- |
//! | `TENANT#<tenant>` | `BATCH#<id>` | a batch; a tenant's list is one Query |
//! | `CANDIDATES#<id>` | `<chunk, 8 digits>` | what is known of 4,096 candidates of a batch |
//! | `PENDING#<provider>` | `<tenant>#<id>` | a batch that is not final: the worker's list, read consistently and without an index |
//! | `PROVIDER#<provider>` | `LEASE` | who may send to the provider |
//! | `IDEMPOTENCY#<hash>` | `IDEMPOTENCY` | see [`kit::idempotency`] |

use std::collections::HashMap;

use aws_sdk_dynamodb::{
    primitives::Blob,
    types::{Delete, Put, ReturnValuesOnConditionCheckFailure, TransactWriteItem, Update},
};
use jiff::{Timestamp, ToSpan};
pub use kit::dynamo::Lease;
use kit::dynamo::{
    AttributeValue, Item, Store, StoreError, TableDef, from_item, from_items, key, n, s, sort_key, to_item, was_written,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    batch::{Batch, BatchError, OnUncertain, Progress, Status},
    ledger::Chunk,
    run::{StoredChunk, Write, stored_chunk},
};

/// The table of this capability. Its stream wakes the worker on AWS.
pub const TABLE: TableDef = TableDef::new("batches").with_stream();

/// How long a deleted batch can still be read, in days.
pub const DELETED_DAYS: i64 = 30;

/// Batches and leases in the store.
#[derive(Debug, Clone)]
pub struct BatchStore {
    store: Store,
}

/// A batch that is not final, as the worker's list has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    /// Whose it is.
    pub tenant: String,
    /// Which.
    pub id: Uuid,
    /// Whether it is being cancelled.
    pub cancelling: bool,
}

/// Why a chunk was not written.
#[derive(Debug, thiserror::Error)]
pub enum ChunkError {
    /// Somebody else has written it: this worker is no longer the one.
    #[error("another worker has gone on with this batch")]
    Fenced,
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

#[derive(Debug, Serialize, Deserialize)]
struct Row {
    pk: String,
    sk: String,
    id: Uuid,
    tenant: String,
    status: Status,
    size: u64,
    prefix: String,
    seed: String,
    on_uncertain: OnUncertain,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    label: Option<String>,
    provider: String,
    created_at: Timestamp,
    updated_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    completed_at: Option<Timestamp>,
    fails_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last_error: Option<String>,
    #[serde(flatten)]
    progress: Progress,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    deleted_at: Option<Timestamp>,
}

impl From<&Batch> for Row {
    fn from(batch: &Batch) -> Self {
        Self {
            pk: tenant_pk(&batch.tenant),
            sk: batch_sk(batch.id),
            id: batch.id,
            tenant: batch.tenant.clone(),
            status: batch.status,
            size: batch.size,
            prefix: batch.prefix.as_str().to_owned(),
            seed: format!("{:032x}", batch.seed),
            on_uncertain: batch.on_uncertain,
            label: batch.label.clone(),
            provider: batch.provider.clone(),
            created_at: batch.created_at,
            updated_at: batch.updated_at,
            completed_at: batch.completed_at,
            fails_at: batch.fails_at,
            last_error: batch.last_error.clone(),
            progress: batch.progress,
            deleted_at: batch.deleted_at,
        }
    }
}

impl TryFrom<Row> for Batch {
    type Error = BatchError;

    fn try_from(row: Row) -> Result<Self, BatchError> {
        let damaged = |what: &str| BatchError::Damaged(format!("{what} of {}", row.id));
        Ok(Self {
            seed: u128::from_str_radix(&row.seed, 16).map_err(|_| damaged("the seed"))?,
            prefix: row.prefix.parse().map_err(|_| damaged("the prefix"))?,
            id: row.id,
            tenant: row.tenant,
            status: row.status,
            size: row.size,
            on_uncertain: row.on_uncertain,
            label: row.label,
            provider: row.provider,
            created_at: row.created_at,
            updated_at: row.updated_at,
            completed_at: row.completed_at,
            fails_at: row.fails_at,
            last_error: row.last_error,
            progress: row.progress,
            deleted_at: row.deleted_at,
        })
    }
}

fn tenant_pk(tenant: &str) -> String {
    format!("TENANT#{tenant}")
}

/// The sort key of a batch in its tenant's list: also what a cursor holds.
pub(crate) fn batch_sk(id: Uuid) -> String {
    format!("BATCH#{id}")
}

/// Whether the text is such a sort key.
pub(crate) fn is_batch_sk(text: &str) -> bool {
    text.strip_prefix("BATCH#").is_some_and(|id| id.parse().is_ok_and(|id: Uuid| text == batch_sk(id)))
}

fn candidates_pk(id: Uuid) -> String {
    format!("CANDIDATES#{id}")
}

fn lease_key(provider: &str) -> Item {
    key(format!("PROVIDER#{provider}"), "LEASE")
}

fn pending_key(provider: &str, tenant: &str, id: Uuid) -> Item {
    key(format!("PENDING#{provider}"), format!("{tenant}#{id}"))
}

impl BatchStore {
    /// The batches in `store`.
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

    /// Writes a new batch, its place in the worker's list and, where there is one, the record of
    /// its idempotency key (as the last item), all or nothing.
    pub async fn create(&self, batch: &Batch, once: Option<TransactWriteItem>) -> Result<(), StoreError> {
        let row = Put::builder()
            .table_name(self.table())
            .set_item(Some(to_item(&Row::from(batch))?))
            .condition_expression("attribute_not_exists(pk)");
        let pending = Put::builder().table_name(self.table()).set_item(Some(pending_key(
            &batch.provider,
            &batch.tenant,
            batch.id,
        )));
        let mut items = vec![
            TransactWriteItem::builder().put(row.build()?).build(),
            TransactWriteItem::builder().put(pending.build()?).build(),
        ];
        items.extend(once);
        self.store.transact(items).await
    }

    /// One batch of a tenant, as last written.
    pub async fn get(&self, tenant: &str, id: Uuid) -> Result<Option<Batch>, BatchError> {
        let item = self.store.get(&TABLE, key(tenant_pk(tenant), batch_sk(id))).await?;
        item.map(|item| from_item::<Row>(item)?.try_into()).transpose()
    }

    /// A page of a tenant's batches, newest first, after the sort key `after`; and the sort key to
    /// go on after. A filter may leave a page short, or empty, with more behind it.
    pub async fn list(
        &self,
        tenant: &str,
        limit: u32,
        after: Option<&str>,
        status: Option<Status>,
        deleted: bool,
    ) -> Result<(Vec<Batch>, Option<String>), BatchError> {
        let mut filters = Vec::new();
        let mut query = self
            .store
            .client()
            .query()
            .table_name(self.table())
            .key_condition_expression("pk = :pk AND begins_with(sk, :batch)")
            .expression_attribute_values(":pk", s(tenant_pk(tenant)))
            .expression_attribute_values(":batch", s("BATCH#"))
            .scan_index_forward(false)
            .set_exclusive_start_key(after.map(|sk| key(tenant_pk(tenant), sk)))
            .limit(i32::try_from(limit).unwrap_or(i32::MAX));
        if let Some(status) = status {
            query = query
                .expression_attribute_names("#status", "status")
                .expression_attribute_values(":status", s(status.as_str()));
            filters.push("#status = :status");
        }
        if !deleted {
            filters.push("attribute_not_exists(deleted_at)");
        }
        let filter = filters.join(" AND ");
        let page = query
            .set_filter_expression((!filter.is_empty()).then_some(filter))
            .send()
            .await
            .map_err(StoreError::from)?;
        let next = page.last_evaluated_key.as_ref().and_then(sort_key).map(str::to_owned);
        let rows: Vec<Row> = from_items(page.items.unwrap_or_default())?;
        Ok((rows.into_iter().map(Batch::try_from).collect::<Result<_, _>>()?, next))
    }

    /// All stored chunks of a batch, in order.
    pub async fn chunks(&self, id: Uuid) -> Result<Vec<StoredChunk>, BatchError> {
        self.store.partition(&TABLE, candidates_pk(id)).await?.iter().map(read_chunk).collect()
    }

    /// One stored chunk of a batch.
    pub async fn chunk(&self, id: Uuid, number: u64) -> Result<Option<StoredChunk>, BatchError> {
        let item = self.store.get(&TABLE, key(candidates_pk(id), chunk_sk(number))).await?;
        item.as_ref().map(read_chunk).transpose()
    }

    /// Writes a chunk where the store holds the version that `write` expects; answers the new one.
    ///
    /// A version ahead by one that this `writer` wrote is its own write whose answer was lost: the
    /// chunk is then written over it.
    pub async fn put_chunk(&self, id: Uuid, write: &Write, writer: Uuid) -> Result<u64, ChunkError> {
        match self.put_version(id, &write.chunk, write.version, writer).await {
            Err(StoreError::ConditionFailed { item: Some(item) }) => {
                let stored: Option<u64> = item.get("version").and_then(|it| it.as_n().ok()?.parse().ok());
                let ours = item.get("writer") == Some(&s(writer.to_string()));
                if !ours || stored != Some(write.version + 1) {
                    return Err(ChunkError::Fenced);
                }
                Ok(self.put_version(id, &write.chunk, write.version + 1, writer).await?)
            }
            Err(StoreError::ConditionFailed { item: None }) => Err(ChunkError::Fenced),
            other => Ok(other?),
        }
    }

    async fn put_version(&self, id: Uuid, chunk: &Chunk, version: u64, writer: Uuid) -> Result<u64, StoreError> {
        let tally = chunk.tally();
        let mut put = self
            .store
            .client()
            .put_item()
            .table_name(self.table())
            .set_item(Some(key(candidates_pk(id), chunk_sk(chunk.number()))))
            .item("states", AttributeValue::B(Blob::new(chunk.encode())))
            .item("version", n(version + 1))
            .item("writer", s(writer.to_string()))
            // For people who look into the table; the states are the truth.
            .item("registered", n(tally.registered))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        put = if version == 0 {
            put.condition_expression("attribute_not_exists(pk)")
        } else {
            put.condition_expression("version = :version").expression_attribute_values(":version", n(version))
        };
        put.send().await?;
        Ok(version + 1)
    }

    /// Writes how far a batch is, unless it is final by now.
    pub async fn progress(
        &self,
        tenant: &str,
        id: Uuid,
        progress: Progress,
        last_error: Option<&str>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let set = Set::new(progress, last_error, now);
        let written = self
            .store
            .client()
            .update_item()
            .table_name(self.table())
            .set_key(Some(key(tenant_pk(tenant), batch_sk(id))))
            .update_expression(set.expression)
            .condition_expression("#status IN (:processing, :cancelling)")
            .expression_attribute_names("#status", "status")
            .set_expression_attribute_values(Some(set.values))
            .expression_attribute_values(":processing", s(Status::Processing.as_str()))
            .expression_attribute_values(":cancelling", s(Status::Cancelling.as_str()))
            .send()
            .await;
        was_written(written).map(drop)
    }

    /// Makes a batch final if its status is still `from`, and takes it off the worker's list.
    /// Answers whether it is final now.
    pub async fn finish(
        &self,
        pending: &Pending,
        provider: &str,
        (from, to): (Status, Status),
        progress: Progress,
        last_error: Option<&str>,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let mut set = Set::new(progress, last_error, now);
        let (before, after) = set.expression.split_at("SET ".len());
        let expression = format!("{before}#status = :to, completed_at = :now, {after}");
        set.values.insert(":to".to_owned(), s(to.as_str()));
        set.values.insert(":from".to_owned(), s(from.as_str()));
        let row = Update::builder()
            .table_name(self.table())
            .set_key(Some(key(tenant_pk(&pending.tenant), batch_sk(pending.id))))
            .update_expression(expression)
            .condition_expression("#status = :from")
            .expression_attribute_names("#status", "status")
            .set_expression_attribute_values(Some(set.values))
            .build()?;
        let off = Delete::builder()
            .table_name(self.table())
            .set_key(Some(pending_key(provider, &pending.tenant, pending.id)))
            .build()?;
        self.step(row, TransactWriteItem::builder().delete(off).build()).await
    }

    /// Takes a batch that is final, or is gone, off the worker's list.
    pub async fn drop_pending(&self, provider: &str, pending: &Pending) -> Result<(), StoreError> {
        self.store
            .client()
            .delete_item()
            .table_name(self.table())
            .set_key(Some(pending_key(provider, &pending.tenant, pending.id)))
            .send()
            .await?;
        Ok(())
    }

    /// Asks for a batch to be cancelled; answers whether it was `Processing`.
    pub async fn cancel(&self, batch: &Batch, now: Timestamp) -> Result<bool, StoreError> {
        let row = Update::builder()
            .table_name(self.table())
            .set_key(Some(key(tenant_pk(&batch.tenant), batch_sk(batch.id))))
            .update_expression("SET #status = :cancelling, updated_at = :now")
            .condition_expression("#status = :processing")
            .expression_attribute_names("#status", "status")
            .expression_attribute_values(":cancelling", s(Status::Cancelling.as_str()))
            .expression_attribute_values(":processing", s(Status::Processing.as_str()))
            .expression_attribute_values(":now", s(now.to_string()))
            .build()?;
        let pending = Update::builder()
            .table_name(self.table())
            .set_key(Some(pending_key(&batch.provider, &batch.tenant, batch.id)))
            .update_expression("SET cancelling = :true")
            .expression_attribute_values(":true", AttributeValue::Bool(true))
            .build()?;
        self.step(row, TransactWriteItem::builder().update(pending).build()).await
    }

    /// A step in a batch's life: its row and its place in the worker's list change together, or not
    /// at all. Answers whether the row's condition held.
    async fn step(&self, row: Update, place: TransactWriteItem) -> Result<bool, StoreError> {
        let row = TransactWriteItem::builder().update(row).build();
        was_written(self.store.transact(vec![row, place]).await)
    }

    /// Deletes a final batch: gone from lists at once, from the store after [`DELETED_DAYS`].
    /// Again is the same as once, so that a deletion cut short is completed by the next.
    pub async fn delete(&self, batch: &Batch, now: Timestamp) -> Result<(), BatchError> {
        let ttl = (now + (24 * DELETED_DAYS).hours()).as_second();
        // The candidates first: were they left for later, a crash in between would leave them for ever.
        for stored in self.chunks(batch.id).await? {
            self.expire(key(candidates_pk(batch.id), chunk_sk(stored.chunk.number())), ttl, now).await?;
        }
        self.expire(key(tenant_pk(&batch.tenant), batch_sk(batch.id)), ttl, now).await?;
        Ok(())
    }

    async fn expire(&self, key: Item, ttl: i64, now: Timestamp) -> Result<(), StoreError> {
        self.store
            .client()
            .update_item()
            .table_name(self.table())
            .set_key(Some(key))
            .update_expression("SET deleted_at = if_not_exists(deleted_at, :now), #ttl = if_not_exists(#ttl, :ttl)")
            .condition_expression("attribute_exists(pk)")
            .expression_attribute_names("#ttl", "ttl")
            .expression_attribute_values(":now", s(now.to_string()))
            .expression_attribute_values(":ttl", n(ttl))
            .send()
            .await?;
        Ok(())
    }

    /// The batches to work on for `provider`: the oldest `per_tenant` of each tenant, tenants in
    /// turn, `most` in all.
    pub async fn pending(&self, provider: &str, per_tenant: usize, most: usize) -> Result<Vec<Pending>, StoreError> {
        let mut tenants: Vec<(String, Vec<Pending>)> = Vec::new();
        let mut pages = self.store.query_partition(&TABLE, format!("PENDING#{provider}")).into_paginator().send();
        while let Some(page) = pages.try_next().await? {
            // Sorted by tenant, then by id, which is by age.
            for pending in page.items().iter().filter_map(read_pending) {
                match tenants.last_mut() {
                    Some((tenant, list)) if *tenant == pending.tenant => {
                        if list.len() < per_tenant {
                            list.push(pending);
                        }
                    }
                    _ => tenants.push((pending.tenant.clone(), vec![pending])),
                }
            }
        }
        let rounds = (0..per_tenant).flat_map(|round| tenants.iter().filter_map(move |(_, list)| list.get(round)));
        Ok(rounds.take(most).cloned().collect())
    }

    /// Takes, or renews, the right to send to `provider` until `until`.
    pub async fn lease(
        &self,
        provider: &str,
        owner: Uuid,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<Lease, StoreError> {
        self.store.lease(&TABLE, lease_key(provider), owner, now, until).await
    }

    /// Gives the right to send back, if it is still ours.
    pub async fn release(&self, provider: &str, owner: Uuid) -> Result<(), StoreError> {
        self.store.release(&TABLE, lease_key(provider), owner).await
    }
}

/// The part of an update that says how far a batch is.
struct Set {
    expression: String,
    values: HashMap<String, AttributeValue>,
}

impl Set {
    fn new(progress: Progress, last_error: Option<&str>, now: Timestamp) -> Self {
        let mut values = HashMap::from([
            (":registered".to_owned(), n(progress.registered)),
            (":conflicts".to_owned(), n(progress.conflicts)),
            (":recovered".to_owned(), n(progress.recovered)),
            (":asked_again".to_owned(), n(progress.asked_again)),
            (":now".to_owned(), s(now.to_string())),
        ]);
        let mut expression = "SET registered = :registered, conflicts = :conflicts, recovered = :recovered, \
                              asked_again = :asked_again, updated_at = :now"
            .to_owned();
        match last_error {
            Some(error) => {
                values.insert(":error".to_owned(), s(error));
                expression.push_str(", last_error = :error");
            }
            None => expression.push_str(" REMOVE last_error"),
        }
        Self { expression, values }
    }
}

fn chunk_sk(number: u64) -> String {
    format!("{number:08}")
}

fn read_chunk(item: &Item) -> Result<StoredChunk, BatchError> {
    let parts = || {
        let number = sort_key(item)?.parse().ok()?;
        let version = item.get("version")?.as_n().ok()?.parse().ok()?;
        stored_chunk(number, version, item.get("states")?.as_b().ok()?.as_ref()).ok()
    };
    parts().ok_or_else(|| BatchError::Damaged("a chunk of candidates".to_owned()))
}

fn read_pending(item: &Item) -> Option<Pending> {
    let (tenant, id) = sort_key(item)?.rsplit_once('#')?;
    Some(Pending {
        tenant: tenant.to_owned(),
        id: id.parse().ok()?,
        cancelling: item.get("cancelling").is_some_and(|it| it == &AttributeValue::Bool(true)),
    })
}
