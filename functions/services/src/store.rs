//! What is kept in the table `services`, and how it is read and written.
//!
//! | pk | sk | what |
//! | --- | --- | --- |
//! | `SERVICES#<cpx>` | `SERVICE#<name>` | a service: its alert, its last minutes, what is still to be told; one Query has all |
//! | `SERVICES#<cpx>` | `SOURCE` | the same for CPX itself, whose silence is an alert of its own |
//! | `MEMBERS#<cpx>` | `<service>` | the addresses of its servers: where a silent one belongs |
//! | `HISTORY#<cpx>#<service>` | `<slot>` | a snapshot of a service, for 14 days |
//! | `SERVER#<cpx>#<ip>` | `<slot>` | a server that was not healthy, for 14 days |
//! | `TICK#<cpx>` | `TICK` | which minute was worked on last, and by whom |
//!
//! `<cpx>` is CPX's base URL, which has no `#`; `<slot>` the minute, RFC 3339. All that belongs to
//! one CPX is the deployment's, not a tenant's: whoever may read services, may read all of it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, Ipv6Addr},
};

use aws_sdk_dynamodb::primitives::Blob;
use jiff::{SignedDuration, Timestamp};
use kit::dynamo::{
    AttributeValue, Item, Store, StoreError, TableDef, all, from_items, key, n, s, sort_key, to_item, was_written,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    alert::{Machine, Notice, Silence},
    history::Sample,
    poll::Members,
    server::{ServiceName, Status},
};

/// The table of this capability.
pub const TABLE: TableDef = TableDef::new("services");

/// For how long snapshots are kept.
pub const KEPT: SignedDuration = SignedDuration::from_hours(14 * 24);
/// How long a worker may take for a minute's work before another one may do it again.
const CLAIM: SignedDuration = SignedDuration::from_secs(50);

const SOURCE: &str = "SOURCE";

/// Services of one CPX in the store.
#[derive(Debug, Clone)]
pub struct ServiceStore {
    store: Store,
    cpx: String,
}

/// What an alert is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// CPX itself: whether its servers can be listed at all.
    Source,
    /// A service: whether enough of its servers are healthy.
    Service(ServiceName),
}

impl Subject {
    /// The service, where it is one.
    pub const fn service(&self) -> Option<&ServiceName> {
        match self {
            Self::Source => None,
            Self::Service(name) => Some(name),
        }
    }

    fn sk(&self) -> String {
        match self {
            Self::Source => SOURCE.to_owned(),
            Self::Service(name) => format!("SERVICE#{name}"),
        }
    }

    fn of(sk: &str) -> Option<Self> {
        if sk == SOURCE {
            return Some(Self::Source);
        }
        sk.strip_prefix("SERVICE#")?.to_owned().try_into().ok().map(Self::Service)
    }
}

/// What is kept of a service, or of CPX itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// Which.
    pub subject: Subject,
    /// What the worker wrote last.
    pub kept: Kept,
    /// Who wants to hear nothing of its alert, and until when.
    pub silence: Option<Silence>,
    /// What is still to be told.
    pub notice: Option<Outgoing>,
}

/// What the worker writes in each minute.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    /// The alert's id.
    pub id: Uuid,
    /// The alert.
    pub machine: Machine,
    /// The last minutes' snapshots, oldest first. A trend is against one of them.
    pub recent: Vec<Sample>,
    /// Which servers were not healthy, the first of them.
    pub sick: Vec<Sick>,
    /// Fewer healthy servers than this were too few.
    pub min_healthy: u32,
    /// Since when CPX lists no server of it.
    pub gone_since: Option<Timestamp>,
    /// Whether it is gone for good. Kept only until that has been told.
    pub retired: bool,
    /// When this expires, in epoch seconds.
    pub ttl: i64,
}

/// A server that is not healthy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Sick {
    /// Its address.
    #[schema(value_type = String)]
    pub ip: IpAddr,
    /// Unhealthy or unknown.
    pub status: Status,
    /// Per cent of CPU, where known.
    pub cpu_pct: Option<f64>,
    /// Per cent of memory, where known.
    pub memory_pct: Option<f64>,
    /// Why it is unknown.
    pub reason: Option<String>,
}

/// What has yet to be told of an alert, and to whom.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outgoing {
    /// Names the event: whoever gets it twice can tell.
    pub id: Uuid,
    /// What happened.
    pub notice: Notice,
    /// Whether it ended because the service is gone.
    pub gone: bool,
    /// Where it is still to be sent.
    pub channels: BTreeSet<Channel>,
}

/// Where events are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Channel {
    /// The SNS topic.
    Topic,
    /// The webhook.
    Webhook,
}

/// A server in a minute in which it was not healthy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SickMinute {
    /// Which minute.
    pub at: Timestamp,
    /// Its service, where known.
    pub service: Option<ServiceName>,
    /// How it was.
    #[serde(flatten)]
    pub sick: Sick,
}

/// Whether a minute's work is ours to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// It is.
    Ours,
    /// It was done, is being done, or a later one was.
    Taken,
}

#[derive(Deserialize)]
struct Row {
    sk: String,
    #[serde(flatten)]
    kept: Kept,
    #[serde(default)]
    silence: Option<Silence>,
    #[serde(default)]
    notice: Option<Outgoing>,
}

/// A minute as a sort key. Whole seconds, so that texts are in the order of time.
pub(crate) fn slot_sk(slot: Timestamp) -> String {
    slot.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Whether the text is such a sort key.
pub(crate) fn is_slot_sk(text: &str) -> bool {
    text.parse().is_ok_and(|slot: Timestamp| slot_sk(slot) == text)
}

/// `SET a = :a, b = :b` for all attributes of `values`.
fn set(values: Item) -> (String, HashMap<String, String>, HashMap<String, AttributeValue>) {
    let mut parts = Vec::new();
    let (mut names, mut placed) = (HashMap::new(), HashMap::new());
    for (name, value) in values {
        parts.push(format!("#{name} = :{name}"));
        names.insert(format!("#{name}"), name.clone());
        placed.insert(format!(":{name}"), value);
    }
    parts.sort();
    (format!("SET {}", parts.join(", ")), names, placed)
}

impl ServiceStore {
    /// What belongs to the CPX with this base URL.
    pub fn new(store: Store, cpx: &str) -> Self {
        Self { store, cpx: cpx.to_owned() }
    }

    fn table(&self) -> String {
        self.store.table(&TABLE)
    }

    fn services_pk(&self) -> String {
        format!("SERVICES#{}", self.cpx)
    }

    fn history_pk(&self, service: &ServiceName) -> String {
        format!("HISTORY#{}#{service}", self.cpx)
    }

    fn server_pk(&self, ip: IpAddr) -> String {
        format!("SERVER#{}#{ip}", self.cpx)
    }

    /// Everything kept of the services, by name, and of CPX itself, in front.
    pub async fn records(&self) -> Result<Vec<Record>, StoreError> {
        let rows: Vec<Row> = from_items(self.store.partition(&TABLE, self.services_pk()).await?)?;
        let record = |row: Row| {
            let Row { sk, kept, silence, notice } = row;
            Some(Record { subject: Subject::of(&sk)?, kept, silence, notice })
        };
        let mut records: Vec<_> = rows.into_iter().filter_map(record).collect();
        records.sort_by(|a, b| a.subject.cmp(&b.subject));
        Ok(records)
    }

    /// Where servers belonged when they said so last.
    pub async fn members(&self) -> Result<Members, StoreError> {
        let mut members = Members::new();
        for item in self.store.partition(&TABLE, format!("MEMBERS#{}", self.cpx)).await? {
            let name = sort_key(&item).and_then(|sk| sk.to_owned().try_into().ok());
            let ips = item.get("ips").and_then(|ips| ips.as_b().ok());
            let (Some(name), Some(ips)) = (name, ips) else {
                return Err(StoreError::Malformed { detail: "the members of a service".to_owned() });
            };
            members.extend(unpacked(ips.as_ref()).map(|ip| (ip, ServiceName::clone(&name))));
        }
        Ok(members)
    }

    /// Writes where servers belong, for the services for which that has changed.
    pub async fn put_members(&self, before: &Members, after: &Members) -> Result<(), StoreError> {
        let (before, after) = (by_service(before), by_service(after));
        let none = BTreeSet::new();
        let names: BTreeSet<_> = before.keys().chain(after.keys()).collect();
        for name in names {
            let ips = after.get(name).unwrap_or(&none);
            if before.get(name).unwrap_or(&none) == ips {
                continue;
            }
            let put = self.store.client().put_item().table_name(self.table());
            put.set_item(Some(key(format!("MEMBERS#{}", self.cpx), name.as_str())))
                .item("ips", AttributeValue::B(Blob::new(packed(ips))))
                .send()
                .await?;
        }
        Ok(())
    }

    /// Takes the work of the minute `slot` upon us, at `now`.
    pub async fn claim(&self, slot: Timestamp, now: Timestamp) -> Result<Claim, StoreError> {
        let claimed = self
            .store
            .client()
            .update_item()
            .table_name(self.table())
            .set_key(Some(key(format!("TICK#{}", self.cpx), "TICK")))
            .update_expression("SET slot = :slot, claimed_until = :until, done = :no")
            .condition_expression(
                "attribute_not_exists(pk) OR slot < :slot OR (slot = :slot AND done = :no AND claimed_until < :now)",
            )
            .expression_attribute_values(":slot", s(slot_sk(slot)))
            .expression_attribute_values(":until", n((now + CLAIM).as_second()))
            .expression_attribute_values(":now", n(now.as_second()))
            .expression_attribute_values(":no", AttributeValue::Bool(false))
            .send()
            .await;
        Ok(if was_written(claimed)? { Claim::Ours } else { Claim::Taken })
    }

    /// The work of the minute `slot` is done.
    pub async fn done(&self, slot: Timestamp) -> Result<(), StoreError> {
        let done = self
            .store
            .client()
            .update_item()
            .table_name(self.table())
            .set_key(Some(key(format!("TICK#{}", self.cpx), "TICK")))
            .update_expression("SET done = :yes")
            .condition_expression("slot = :slot")
            .expression_attribute_values(":slot", s(slot_sk(slot)))
            .expression_attribute_values(":yes", AttributeValue::Bool(true))
            .send()
            .await;
        // Where it was not, a later minute has begun meanwhile.
        was_written(done).map(drop)
    }

    /// Keeps the snapshot of a service in the minute `sample.at`, unless one is there.
    pub async fn put_snapshot(&self, service: &ServiceName, sample: &Sample) -> Result<(), StoreError> {
        let item = to_item(sample)?;
        self.put_once(key(self.history_pk(service), slot_sk(sample.at)), item, sample.at).await
    }

    /// Keeps a server that is not healthy, unless it is kept for that minute already.
    pub async fn put_sick(&self, minute: &SickMinute) -> Result<(), StoreError> {
        let item = to_item(minute)?;
        self.put_once(key(self.server_pk(minute.sick.ip), slot_sk(minute.at)), item, minute.at).await
    }

    async fn put_once(&self, key: Item, mut item: Item, at: Timestamp) -> Result<(), StoreError> {
        item.extend(key);
        item.insert("ttl".to_owned(), n((at + KEPT).as_second()));
        let put = self.store.client().put_item().table_name(self.table()).set_item(Some(item));
        was_written(put.condition_expression("attribute_not_exists(pk)").send().await).map(drop)
    }

    /// Writes what the minute `slot` has brought, and what is to be told of it, unless the record
    /// has that minute, or a later one, already. What is still to be told of an earlier one gives
    /// way: it is out of date. Answers whether it was written.
    pub async fn put_record(
        &self,
        subject: &Subject,
        kept: &Kept,
        slot: Timestamp,
        notice: Option<&Outgoing>,
    ) -> Result<bool, StoreError> {
        #[derive(Serialize)]
        struct Written<'a> {
            #[serde(flatten)]
            kept: &'a Kept,
            slot: String,
            #[serde(skip_serializing_if = "Option::is_none")]
            notice: Option<&'a Outgoing>,
        }
        let (expression, names, values) = set(to_item(&Written { kept, slot: slot_sk(slot), notice })?);
        let written = self
            .store
            .client()
            .update_item()
            .table_name(self.table())
            .set_key(Some(key(self.services_pk(), subject.sk())))
            .update_expression(expression)
            .condition_expression("attribute_not_exists(#slot) OR #slot < :slot")
            .set_expression_attribute_names(Some(names))
            .set_expression_attribute_values(Some(values))
            .send()
            .await;
        was_written(written)
    }

    /// Strikes off where an event has been sent; `left` is where it has not.
    pub async fn told(&self, subject: &Subject, event: Uuid, left: &BTreeSet<Channel>) -> Result<(), StoreError> {
        let update = self
            .store
            .client()
            .update_item()
            .table_name(self.table())
            .set_key(Some(key(self.services_pk(), subject.sk())))
            // Another one has taken its place, perhaps.
            .condition_expression("notice.id = :id")
            .expression_attribute_values(":id", s(event.to_string()));
        let update = if left.is_empty() {
            update.update_expression("REMOVE notice")
        } else {
            let channels = to_item(&BTreeMap::from([("channels", left)]))?.remove("channels");
            update
                .update_expression("SET notice.channels = :left")
                .expression_attribute_values(":left", channels.unwrap_or(AttributeValue::Null(true)))
        };
        was_written(update.send().await).map(drop)
    }

    /// Silences an alert, or ends that. Answers whether there is such an alert.
    pub async fn silence(&self, subject: &Subject, silence: Option<&Silence>) -> Result<bool, StoreError> {
        let update = self
            .store
            .client()
            .update_item()
            .table_name(self.table())
            .set_key(Some(key(self.services_pk(), subject.sk())))
            .condition_expression("attribute_exists(pk)");
        let update = match silence {
            None => update.update_expression("REMOVE silence"),
            Some(silence) => update
                .update_expression("SET silence = :silence")
                .expression_attribute_values(":silence", AttributeValue::M(to_item(silence)?)),
        };
        was_written(update.send().await)
    }

    /// The snapshots of a service from `from` to `to`, oldest first.
    pub async fn history(
        &self,
        service: &ServiceName,
        from: Timestamp,
        to: Timestamp,
    ) -> Result<Vec<Sample>, StoreError> {
        let query = self
            .store
            .client()
            .query()
            .table_name(self.table())
            .key_condition_expression("pk = :pk AND sk BETWEEN :from AND :to")
            .expression_attribute_values(":pk", s(self.history_pk(service)))
            .expression_attribute_values(":from", s(slot_sk(from)))
            .expression_attribute_values(":to", s(slot_sk(to)));
        from_items(all(query).await?)
    }

    /// A page of the minutes in which a server was not healthy, newest first, after the sort key
    /// `after`; and the sort key to go on after.
    pub async fn sick_minutes(
        &self,
        ip: IpAddr,
        (from, to): (Timestamp, Timestamp),
        limit: u32,
        after: Option<&str>,
    ) -> Result<(Vec<SickMinute>, Option<String>), StoreError> {
        let page = self
            .store
            .client()
            .query()
            .table_name(self.table())
            .key_condition_expression("pk = :pk AND sk BETWEEN :from AND :to")
            .expression_attribute_values(":pk", s(self.server_pk(ip)))
            .expression_attribute_values(":from", s(slot_sk(from)))
            .expression_attribute_values(":to", s(slot_sk(to)))
            .scan_index_forward(false)
            .set_exclusive_start_key(after.map(|sk| key(self.server_pk(ip), sk)))
            .limit(i32::try_from(limit).unwrap_or(i32::MAX))
            .send()
            .await?;
        let next = page.last_evaluated_key.as_ref().and_then(sort_key).map(str::to_owned);
        Ok((from_items(page.items.unwrap_or_default())?, next))
    }
}

fn by_service(members: &Members) -> BTreeMap<&ServiceName, BTreeSet<IpAddr>> {
    let mut services: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for (ip, service) in members {
        services.entry(service).or_default().insert(*ip);
    }
    services
}

/// 16 bytes an address: 20,000 of them stay below DynamoDB's 400 KB.
fn packed(ips: &BTreeSet<IpAddr>) -> Vec<u8> {
    let octets = |ip: &IpAddr| match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    };
    ips.iter().flat_map(octets).collect()
}

fn unpacked(bytes: &[u8]) -> impl Iterator<Item = IpAddr> + '_ {
    let (ips, _) = bytes.as_chunks::<16>();
    ips.iter().map(|octets| IpAddr::V6(Ipv6Addr::from(*octets)).to_canonical())
}
