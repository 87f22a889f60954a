//! What is kept in the table `autoscaler`, and how it is read and written.
//!
//! | pk | sk | what |
//! | --- | --- | --- |
//! | `FLEET#<api>` | `FLEET` | the last slot that was claimed, what it has brought, the revision of the policies |
//! | `SHARD#<api>#<00–15>` | `<00–15>` | the states of the deployments whose id hashes there, and a version |
//! | `POLICY#<api>` | `ALL`, `ID#<id>` | what is set for all, and for one |
//! | `DECISIONS#<api>#<id>` | `<slot>` | a decision that is over, for six weeks |
//! | `SAMPLES#<api>#<id>` | `<slot>` | twenty samples in a row, for six weeks |
//!
//! `<api>` is the base URL of the deployments API, which has no `#`; `<slot>` a slot's number, ten
//! digits. All that belongs to one API is the deployment's, not a tenant's.
//!
//! **Why shards:** a state is some hundred bytes, and DynamoDB counts every write as a whole
//! kilobyte. Forty states in one item cost less than one unit each, and a tick over 10,000
//! deployments writes 256 items, not 10,000. The states of a shard are one text of JSON under one
//! version, so that of two workers only one can write them, and only who has written may send.

use std::collections::{BTreeMap, HashMap};

use aws_sdk_dynamodb::types::{
    Put, PutRequest, ReturnValue, ReturnValuesOnConditionCheckFailure, TransactWriteItem, Update, WriteRequest,
};
use jiff::{SignedDuration, Timestamp};
use kit::dynamo::{
    AttributeValue, Item, Store, StoreError, TableDef, all, from_item, key, n, s, sort_key, to_item, was_written,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{
    decision::{Decision, Reason},
    deployments::DeploymentId,
    machine::State,
    need::Shape,
    policy::Given,
    samples::{Chunk, Recorded, Slot, time},
};

/// The table of this capability.
pub const TABLE: TableDef = TableDef::new("autoscaler");

/// For how long decisions and samples are kept.
pub const KEPT: SignedDuration = SignedDuration::from_hours(6 * 7 * 24);

/// Partitions of shards, and shards in each.
const SIDE: u8 = 16;
/// Items in a batch of writes, and times that a batch is sent while DynamoDB leaves some of it out.
const BATCH: usize = 25;
const BATCH_ATTEMPTS: u32 = 4;
/// Decisions that are looked at for a page of those with one reason.
const LOOKED_AT: usize = 5000;

/// Where a deployment's state is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(u8);

impl ShardId {
    /// Where this deployment's state is. Must never change: states lie where it says.
    pub fn of(id: &DeploymentId) -> Self {
        Self(hash(id)[0])
    }

    fn key(self, api: &str) -> Item {
        key(format!("SHARD#{api}#{:02}", self.0 / SIDE), format!("{:02}", self.0 % SIDE))
    }

    fn from_place(partition: u8, sk: &str) -> Option<Self> {
        let place: u8 = sk.parse().ok().filter(|place| *place < SIDE)?;
        Some(Self(partition * SIDE + place))
    }
}

/// A number that spreads what is done for deployments over time; the same for all of a shard, whose
/// history is then written at once.
pub fn stagger(id: &DeploymentId) -> u64 {
    hash(id)[0].into()
}

fn hash(id: &DeploymentId) -> [u8; 32] {
    Sha256::digest(id.as_str().as_bytes()).into()
}

/// The states of the deployments of one shard.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Shard {
    /// How often it was written; 0 where it never was.
    pub version: u64,
    /// By deployment.
    pub states: BTreeMap<DeploymentId, State>,
    /// What is not in the history yet. It is written after requests have been sent, and must not be
    /// lost meanwhile; what is here may be there already.
    pub unkept: Vec<Record>,
}

/// All shards that there are.
pub type Shards = BTreeMap<ShardId, Shard>;

/// What is known of all deployments together.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Fleet {
    /// The last slot that was claimed.
    #[serde(default)]
    pub slot: Slot,
    /// Which worker has claimed it.
    #[serde(default)]
    pub by: Option<String>,
    /// Changes whenever a policy does.
    #[serde(default)]
    pub revision: u64,
    /// The slot of the last discovery that was believed.
    #[serde(default)]
    pub discovered: Slot,
    /// Why the last discovery was not believed.
    #[serde(default)]
    pub doubt: Option<String>,
    /// Discoveries in a row in which more than half had vanished.
    #[serde(default)]
    pub vanished: u32,
    /// Up to which slot no host is taken away.
    #[serde(default)]
    pub frozen_until: Slot,
    /// Listed entries that have no usable id, or were too many.
    #[serde(default)]
    pub ignored: u64,
}

/// What is set, and by whom.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Stored {
    /// How often it was set; 0 where it never was.
    pub version: u64,
    /// What.
    pub given: Given,
    /// By which key.
    pub set_by: Option<String>,
    /// When.
    pub set_at: Option<Timestamp>,
}

/// Everything that is set.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Policies {
    /// For all deployments.
    pub all: Stored,
    /// For each.
    pub own: HashMap<DeploymentId, Stored>,
}

/// What came of writing a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// It is written, and what it intends may be sent.
    Ours,
    /// Somebody else has written it meanwhile.
    Lost,
}

/// A piece of history.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Record {
    /// A decision that is over.
    Decision(DeploymentId, Decision),
    /// Samples.
    Samples(DeploymentId, Option<Shape>, Chunk),
}

/// Samples as they were kept, with the shape that the deployment had.
#[derive(Debug, Clone, PartialEq)]
pub struct KeptSamples {
    /// The slot of the first.
    pub slot: Slot,
    /// How the deployment was made.
    pub shape: Option<Shape>,
    /// Oldest first.
    pub samples: Vec<Recorded>,
}

/// Everything of one deployments API in the store.
#[derive(Debug, Clone)]
pub struct ScalerStore {
    store: Store,
    api: String,
}

/// A slot as a sort key: texts in the order of numbers.
pub(crate) fn slot_sk(slot: Slot) -> String {
    format!("{slot:010}")
}

/// Whether the text is such a sort key.
pub(crate) fn is_slot_sk(text: &str) -> bool {
    text.len() == 10 && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn malformed(what: &str) -> StoreError {
    StoreError::Malformed { detail: what.to_owned() }
}

fn text<'a>(item: &'a Item, name: &str) -> Result<&'a String, StoreError> {
    item.get(name).and_then(|value| value.as_s().ok()).ok_or_else(|| malformed(name))
}

fn number(item: &Item, name: &str) -> Result<u64, StoreError> {
    let number = item.get(name).and_then(|value| value.as_n().ok()?.parse().ok());
    number.ok_or_else(|| malformed(name))
}

fn json<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|error| malformed(&error.to_string()))
}

impl ScalerStore {
    /// What belongs to the deployments API with this base URL.
    pub fn new(store: Store, api: &str) -> Self {
        Self { store, api: api.to_owned() }
    }

    fn table(&self) -> String {
        self.store.table(&TABLE)
    }

    fn fleet_key(&self) -> Item {
        key(format!("FLEET#{}", self.api), "FLEET")
    }

    fn policy_key(&self, id: Option<&DeploymentId>) -> Item {
        key(format!("POLICY#{}", self.api), id.map_or_else(|| "ALL".to_owned(), |id| format!("ID#{id}")))
    }

    fn decisions_pk(&self, id: &DeploymentId) -> String {
        format!("DECISIONS#{}#{id}", self.api)
    }

    fn samples_pk(&self, id: &DeploymentId) -> String {
        format!("SAMPLES#{}#{id}", self.api)
    }

    /// Takes the work of `slot` upon us, the worker `by`, and answers what was known before. None
    /// where that slot, or a later one, is taken; it may have been taken by this very call, if its
    /// first answer was lost: then the slot is left out.
    pub async fn claim(&self, slot: Slot, by: &str) -> Result<Option<Fleet>, StoreError> {
        let claimed = self
            .store
            .client()
            .update_item()
            .table_name(self.table())
            .set_key(Some(self.fleet_key()))
            .update_expression("SET slot = :slot, #by = :by")
            .condition_expression("attribute_not_exists(slot) OR slot < :slot")
            .expression_attribute_names("#by", "by")
            .expression_attribute_values(":slot", n(slot))
            .expression_attribute_values(":by", s(by))
            .return_values(ReturnValue::AllOld)
            .send()
            .await
            .map_err(StoreError::from);
        match claimed {
            Ok(output) => from_item(output.attributes.unwrap_or_default()).map(Some),
            Err(StoreError::ConditionFailed { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What is known of all deployments together.
    pub async fn fleet(&self) -> Result<Fleet, StoreError> {
        from_item(self.store.get(&TABLE, self.fleet_key()).await?.unwrap_or_default())
    }

    /// Writes what the slot has brought, unless a later one has been claimed. The revision is not
    /// touched.
    pub async fn put_fleet(&self, fleet: &Fleet) -> Result<(), StoreError> {
        let put = self
            .store
            .client()
            .update_item()
            .table_name(self.table())
            .set_key(Some(self.fleet_key()))
            .update_expression(
                "SET discovered = :discovered, doubt = :doubt, vanished = :vanished, frozen_until = :frozen, \
                 ignored = :ignored",
            )
            .condition_expression("slot = :slot")
            .expression_attribute_values(":slot", n(fleet.slot))
            .expression_attribute_values(":discovered", n(fleet.discovered))
            .expression_attribute_values(
                ":doubt",
                fleet.doubt.clone().map_or(AttributeValue::Null(true), AttributeValue::S),
            )
            .expression_attribute_values(":vanished", n(fleet.vanished))
            .expression_attribute_values(":frozen", n(fleet.frozen_until))
            .expression_attribute_values(":ignored", n(fleet.ignored))
            .send()
            .await;
        was_written(put).map(drop)
    }

    /// All shards.
    pub async fn shards(&self) -> Result<Shards, StoreError> {
        let partitions = (0..SIDE).map(|partition| self.partition(partition));
        let partitions = futures::future::try_join_all(partitions).await?;
        Ok(partitions.into_iter().flatten().collect())
    }

    async fn partition(&self, partition: u8) -> Result<Vec<(ShardId, Shard)>, StoreError> {
        let items = self.store.partition(&TABLE, format!("SHARD#{}#{partition:02}", self.api)).await?;
        let shard = |item: Item| {
            let id = ShardId::from_place(partition, text(&item, "sk")?).ok_or_else(|| malformed("sk of a shard"))?;
            Ok((id, shard_of(&item)?))
        };
        items.into_iter().map(shard).collect()
    }

    /// One shard.
    pub async fn shard(&self, id: ShardId) -> Result<Shard, StoreError> {
        match self.store.get(&TABLE, id.key(&self.api)).await? {
            Some(item) => shard_of(&item),
            None => Ok(Shard::default()),
        }
    }

    /// Writes a shard whose version is still the one it was read with, and counts that up. `by` is
    /// the writer's own, so that it knows its write again where the answer was lost.
    pub async fn put_shard(&self, id: ShardId, shard: &mut Shard, by: &str) -> Result<Written, StoreError> {
        let states = serde_json::to_string(&shard.states).map_err(|error| malformed(&error.to_string()))?;
        let next = shard.version + 1;
        let mut item = id.key(&self.api);
        item.insert("version".to_owned(), n(next));
        item.insert("states".to_owned(), s(states));
        if !shard.unkept.is_empty() {
            let unkept = serde_json::to_string(&shard.unkept).map_err(|error| malformed(&error.to_string()))?;
            item.insert("unkept".to_owned(), s(unkept));
        }
        item.insert("by".to_owned(), s(by));
        let put = self.store.client().put_item().table_name(self.table()).set_item(Some(item));
        let put = if shard.version == 0 {
            put.condition_expression("attribute_not_exists(pk)")
        } else {
            put.condition_expression("version = :version").expression_attribute_values(":version", n(shard.version))
        };
        let put = put.return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        match put.send().await.map_err(StoreError::from) {
            Ok(_) => {}
            Err(StoreError::ConditionFailed { item: Some(item) })
                if text(&item, "by").is_ok_and(|it| it == by)
                    && number(&item, "version").is_ok_and(|it| it == next) => {}
            Err(StoreError::ConditionFailed { .. }) => return Ok(Written::Lost),
            Err(error) => return Err(error),
        }
        shard.version = next;
        Ok(Written::Ours)
    }

    /// Adds to the history. What is there already is written again, so this may be repeated.
    pub async fn put_history(&self, records: &[Record]) -> Result<(), StoreError> {
        for batch in records.chunks(BATCH) {
            let mut requests = Vec::with_capacity(batch.len());
            for record in batch {
                let put = PutRequest::builder().set_item(Some(self.record(record)?)).build()?;
                requests.push(WriteRequest::builder().put_request(put).build());
            }
            self.write_batch(requests).await?;
        }
        Ok(())
    }

    async fn write_batch(&self, requests: Vec<WriteRequest>) -> Result<(), StoreError> {
        let table = self.table();
        let mut left = requests;
        for attempt in 0..BATCH_ATTEMPTS {
            if attempt > 0 {
                tokio::time::sleep(std::time::Duration::from_millis(50 << attempt)).await;
            }
            let batch = self.store.client().batch_write_item().request_items(table.as_str(), left);
            left = batch.send().await?.unprocessed_items.unwrap_or_default().remove(&table).unwrap_or_default();
            if left.is_empty() {
                return Ok(());
            }
        }
        Err(StoreError::Throttled)
    }

    fn record(&self, record: &Record) -> Result<Item, StoreError> {
        let (mut item, pk, slot) = match record {
            Record::Decision(id, decision) => (to_item(decision)?, self.decisions_pk(id), decision.slot),
            Record::Samples(id, shape, chunk) => {
                let samples = serde_json::to_string(&chunk.samples).map_err(|error| malformed(&error.to_string()))?;
                let mut item = Item::from([("samples".to_owned(), s(samples))]);
                if let Some(shape) = shape {
                    item.extend(to_item(shape)?);
                }
                (item, self.samples_pk(id), chunk.slot)
            }
        };
        item.extend(key(pk, slot_sk(slot)));
        item.insert("ttl".to_owned(), n(time(slot).saturating_add(KEPT).unwrap_or(Timestamp::MAX).as_second()));
        Ok(item)
    }

    /// A page of decisions that began from `from` to `to`, newest first, after the sort key `after`,
    /// perhaps of one reason alone; and the sort key to go on after. With a reason a page may be
    /// shorter than its limit although there is more.
    pub async fn decisions(
        &self,
        id: &DeploymentId,
        (from, to): (Slot, Slot),
        reason: Option<Reason>,
        limit: usize,
        after: Option<&str>,
    ) -> Result<(Vec<Decision>, Option<String>), StoreError> {
        let mut found = Vec::new();
        let mut looked_at = 0;
        let mut start = after.map(|sk| key(self.decisions_pk(id), sk));
        loop {
            let page = self
                .store
                .client()
                .query()
                .table_name(self.table())
                .key_condition_expression("pk = :pk AND sk BETWEEN :from AND :to")
                .expression_attribute_values(":pk", s(self.decisions_pk(id)))
                .expression_attribute_values(":from", s(slot_sk(from)))
                .expression_attribute_values(":to", s(slot_sk(to)))
                .scan_index_forward(false)
                .set_exclusive_start_key(start)
                .limit(i32::try_from(if reason.is_some() { 500 } else { limit - found.len() }).unwrap_or(i32::MAX))
                .send()
                .await?;
            start = page.last_evaluated_key;
            for item in page.items.unwrap_or_default() {
                let decision: Decision = from_item(item)?;
                looked_at += 1;
                let last = slot_sk(decision.slot);
                if reason.is_none_or(|reason| reason == decision.reason) {
                    found.push(decision);
                }
                if found.len() == limit {
                    return Ok((found, Some(last)));
                }
            }
            let next = start.as_ref().and_then(sort_key).map(str::to_owned);
            if next.is_none() || looked_at >= LOOKED_AT {
                return Ok((found, next));
            }
        }
    }

    /// The samples from `from` to `to` that are in the history, oldest first.
    pub async fn samples(&self, id: &DeploymentId, from: Slot, to: Slot) -> Result<Vec<KeptSamples>, StoreError> {
        let query = self
            .store
            .client()
            .query()
            .table_name(self.table())
            .key_condition_expression("pk = :pk AND sk BETWEEN :from AND :to")
            .expression_attribute_values(":pk", s(self.samples_pk(id)))
            // A chunk that began before has some of them too.
            .expression_attribute_values(":from", s(slot_sk(from.saturating_sub(crate::samples::KEPT as u64))))
            .expression_attribute_values(":to", s(slot_sk(to)));
        let chunk = |item: Item| {
            let slot = text(&item, "sk")?.parse().map_err(|_| malformed("sk of samples"))?;
            let samples = json(text(&item, "samples")?)?;
            Ok(KeptSamples { slot, samples, shape: from_item(item).ok() })
        };
        all(query).await?.into_iter().map(chunk).collect()
    }

    /// Everything that is set.
    pub async fn policies(&self) -> Result<Policies, StoreError> {
        let mut policies = Policies::default();
        for item in self.store.partition(&TABLE, format!("POLICY#{}", self.api)).await? {
            let sk = text(&item, "sk")?.clone();
            let stored: Stored = from_item(item)?;
            match sk.strip_prefix("ID#").map(|id| DeploymentId::try_from(id.to_owned())) {
                Some(Ok(id)) => {
                    policies.own.insert(id, stored);
                }
                Some(Err(_)) => return Err(malformed("sk of a policy")),
                None => policies.all = stored,
            }
        }
        Ok(policies)
    }

    /// What is set for one deployment, or for all.
    pub async fn policy(&self, id: Option<&DeploymentId>) -> Result<Stored, StoreError> {
        match self.store.get(&TABLE, self.policy_key(id)).await? {
            Some(item) => from_item(item),
            None => Ok(Stored::default()),
        }
    }

    /// Sets what `stored` says, if the version is still the one before. The next tick knows by the
    /// revision that it has to read the policies again.
    pub async fn put_policy(&self, id: Option<&DeploymentId>, stored: &Stored) -> Result<Written, StoreError> {
        let mut item = to_item(stored)?;
        item.extend(self.policy_key(id));
        let put = Put::builder().table_name(self.table()).set_item(Some(item));
        let put = if stored.version == 1 {
            put.condition_expression("attribute_not_exists(pk)")
        } else {
            put.condition_expression("version = :before").expression_attribute_values(":before", n(stored.version - 1))
        };
        let revision = Update::builder()
            .table_name(self.table())
            .set_key(Some(self.fleet_key()))
            .update_expression("ADD revision :one")
            .expression_attribute_values(":one", n(1));
        let items = vec![
            TransactWriteItem::builder().put(put.build()?).build(),
            TransactWriteItem::builder().update(revision.build()?).build(),
        ];
        let written = was_written(self.store.transact(items).await)?;
        Ok(if written { Written::Ours } else { Written::Lost })
    }
}

fn shard_of(item: &Item) -> Result<Shard, StoreError> {
    let unkept = if item.contains_key("unkept") { json(text(item, "unkept")?)? } else { Vec::new() };
    Ok(Shard { version: number(item, "version")?, states: json(text(item, "states")?)?, unkept })
}
