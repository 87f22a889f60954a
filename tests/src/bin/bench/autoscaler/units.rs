//! What DynamoDB would bill for ticks in which nothing changes, and how large the items are.
//!
//! Every request of real ticks asks for `ReturnConsumedCapacity`, and what the answers say is summed
//! up: the claim of the slot and its end (`UpdateItem`), a page of the states or of the policies
//! (`Query`, strongly consistent), the states of a shard (`PutItem`), the samples that go into the
//! history, every deployment's once in twenty ticks (`BatchWriteItem`). That the embedded store
//! counts as DynamoDB does is checked first ([`check_rounding`]): a write is whole kilobytes of the
//! larger of the item before and after it, a strongly consistent read whole 4 KB of all that was
//! read. Not counted is what costs nothing (items that expire) and what is no tick: people's
//! questions, policies that are set, decisions that change.

use std::{collections::BTreeMap, path::Path};

use ::autoscaler::{
    samples::{KEPT, Slot},
    store::ScalerStore,
};
use anyhow::ensure;
use aws_sdk_dynamodb::types::{PutRequest, WriteRequest};
use kit::dynamo::{DEFAULT_PREFIX, Item, TableDef, embedded::Embedded, s};
use serde::Serialize;

use super::{
    measure::{Expected, amiss, when},
    ticks::Here,
};
use crate::{
    meter::{Meter, Used, size},
    numbers::as_f64,
    processes::Simulator,
};

/// What one deployment takes in a tick in which nothing changes, in DynamoDB's units, and of space.
#[derive(Debug, Serialize)]
pub struct Units {
    pub deployments: u32,
    /// The first tick of a process, which reads all states.
    pub cold: Tick,
    /// Later ones, the mean of so many that every deployment's samples went into the history once.
    pub warm: Tick,
    /// A deployment's state, after them.
    pub state_bytes: Sizes,
    /// The largest item that was written, as DynamoDB measures it.
    pub largest_item_bytes: u64,
}

/// What a tick takes of DynamoDB.
#[derive(Debug, Serialize)]
pub struct Tick {
    /// Read units for each deployment.
    pub reads: f64,
    /// Write units for each deployment.
    pub writes: f64,
    /// Requests, by operation. On one machine each that writes waits for the disk once.
    pub requests: BTreeMap<&'static str, f64>,
}

/// Bytes of JSON.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Sizes {
    pub median: u64,
    pub pct_99: u64,
    pub largest: u64,
}

impl Sizes {
    /// Of these.
    pub fn of(mut bytes: Vec<u64>) -> Self {
        bytes.sort_unstable();
        let at = |pct: usize| bytes.get((bytes.len() * pct / 100).min(bytes.len().saturating_sub(1))).copied();
        let [median, pct_99, largest] = [50, 99, 100].map(|pct| at(pct).unwrap_or_default());
        Self { median, pct_99, largest }
    }
}

impl Units {
    /// Of ticks on the store in the folder `state` from a slot of the plan on, in which nothing
    /// changes. Nobody else may have the folder.
    pub async fn of(state: &Path, simulator: &Simulator, deployments: u32, slot: Slot) -> anyhow::Result<Self> {
        let embedded = Embedded::open(state)?;
        let meter = Meter::default();
        let store = meter.store(&embedded.store(DEFAULT_PREFIX));
        let ticks = Here::new(simulator.url(), store.clone())?;
        let expected = Expected { deployments, scaled: 0 };
        let tick = async |slot| {
            when(simulator, slot).await?;
            let amiss = amiss(&ticks.tick(slot).await?["report"], expected)?;
            ensure!(amiss == 0, "{amiss} of {deployments} deployments fared otherwise than expected");
            Ok(())
        };
        let mean = |used: &Used, ticks: usize| {
            let ticks = as_f64(ticks as u64);
            let each = |units| units / ticks / f64::from(deployments);
            let requests = used.requests.iter().map(|(name, count)| (*name, as_f64(*count) / ticks)).collect();
            Tick { reads: each(used.reads), writes: each(used.writes), requests }
        };

        let before = embedded.counts();
        tick(slot).await?;
        let cold = meter.take();
        for slot in (slot..).skip(1).take(KEPT) {
            tick(slot).await?;
        }
        let warm = meter.take();
        let mut counted = cold.requests.clone();
        warm.requests.iter().for_each(|(name, count)| *counted.entry(*name).or_default() += count);
        let asked = embedded.counts().since(&before).calls;
        let same = asked.iter().map(|(name, count)| (name.as_str(), *count)).eq(counted);
        ensure!(same, "not all of these requests were counted: {asked:?}");

        let shards = ScalerStore::new(store, simulator.url()).shards().await?;
        let states = shards.values().flat_map(|shard| &shard.states);
        let states = states.map(|(_, state)| Ok(serde_json::to_string(state)?.len() as u64));
        Ok(Self {
            deployments,
            cold: mean(&cold, 1),
            warm: mean(&warm, KEPT),
            state_bytes: Sizes::of(states.collect::<anyhow::Result<_>>()?),
            largest_item_bytes: cold.largest_item.max(warm.largest_item),
        })
    }
}

/// Whether the embedded store counts as DynamoDB does, at the edges of its units.
///
/// Source: "DynamoDB read and write operations" and "DynamoDB item sizes and formats" in AWS's
/// documentation.
pub async fn check_rounding() -> anyhow::Result<()> {
    const EDGES: TableDef = TableDef::new("edges");
    let meter = Meter::default();
    let store = meter.store(&Embedded::memory()?.store(DEFAULT_PREFIX));
    store.create_tables(&[&EDGES]).await?;
    let (client, table) = (store.client(), store.table(&EDGES));
    // Of so many bytes, names and keys included.
    let item = |sk: &str, bytes: usize| {
        let text = "x".repeat(bytes - "pk".len() - "p".len() - "sk".len() - sk.len() - "text".len());
        Item::from([("pk".to_owned(), s("p")), ("sk".to_owned(), s(sk)), ("text".to_owned(), s(text))])
    };
    let put = async |sk: &str, bytes| {
        ensure!(size(&item(sk, bytes)) == bytes as u64, "an item's size is not what it should be");
        client.put_item().table_name(&table).set_item(Some(item(sk, bytes))).send().await?;
        Ok(())
    };
    let is = |what: &str, reads: f64, writes: f64| {
        let used = meter.take();
        let same = (used.reads - reads).abs() < 1e-9 && (used.writes - writes).abs() < 1e-9;
        ensure!(same, "the embedded store does not count as DynamoDB does: {what} takes {used:?}");
        Ok(())
    };
    meter.take();
    put("1", 1024).await?;
    is("to write 1 KB", 0.0, 1.0)?;
    put("1", 1025).await?;
    is("to write a byte more", 0.0, 2.0)?;
    put("1", 100).await?;
    is("to write less where there was more", 0.0, 2.0)?;
    put("2", 2000).await?;
    meter.take();
    let key = |sk: &str| Some(Item::from([("pk".to_owned(), s("p")), ("sk".to_owned(), s(sk))]));
    let update = client.update_item().table_name(&table).set_key(key("2")).update_expression("SET more = :more");
    update.expression_attribute_values(":more", s("")).send().await?;
    is("to change an item of 2 KB", 0.0, 2.0)?;

    let requests = ["1", "2", "3"].map(|sk| {
        let put = PutRequest::builder().set_item(Some(item(sk, 600))).build()?;
        anyhow::Ok(WriteRequest::builder().put_request(put).build())
    });
    let requests = requests.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    client.batch_write_item().request_items(&table, requests).send().await?;
    // The second was 2 KB.
    is("to write three items in a batch", 0.0, 4.0)?;

    let query = client.query().table_name(&table).key_condition_expression("pk = :pk");
    let query = query.expression_attribute_values(":pk", s("p")).consistent_read(true);
    put("1", 4096 - 2 * 600).await?;
    meter.take();
    query.clone().send().await?;
    is("to read 4 KB of three items", 1.0, 0.0)?;
    put("1", 4097 - 2 * 600).await?;
    meter.take();
    query.send().await?;
    is("to read a byte more", 2.0, 0.0)
}
