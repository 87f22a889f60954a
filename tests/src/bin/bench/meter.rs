//! What requests use of DynamoDB, in the units that it bills.
//!
//! Every request asks for `ReturnConsumedCapacity`, and what the answers say is summed up. That the
//! embedded store counts as DynamoDB does is checked by those who measure. A request that fails, such
//! as one whose condition does not hold, tells nothing and is not counted.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use aws_sdk_dynamodb::{
    Client,
    config::{
        ConfigBag, Intercept, RuntimeComponents,
        interceptors::{AfterDeserializationInterceptorContextRef, BeforeSerializationInterceptorContextMut},
    },
    error::BoxError,
    operation::{
        batch_get_item::{BatchGetItemInput, BatchGetItemOutput},
        batch_write_item::{BatchWriteItemInput, BatchWriteItemOutput},
        delete_item::{DeleteItemInput, DeleteItemOutput},
        get_item::{GetItemInput, GetItemOutput},
        put_item::{PutItemInput, PutItemOutput},
        query::{QueryInput, QueryOutput},
        transact_write_items::{TransactWriteItemsInput, TransactWriteItemsOutput},
        update_item::{UpdateItemInput, UpdateItemOutput},
    },
    types::{ConsumedCapacity, ReturnConsumedCapacity},
};
use kit::dynamo::{AttributeValue, DEFAULT_PREFIX, Item, Store};
use serde::Serialize;

/// What requests have used.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Used {
    /// Read units.
    pub reads: f64,
    /// Write units.
    pub writes: f64,
    /// Requests, by operation.
    pub requests: BTreeMap<&'static str, u64>,
    /// Units, by operation: each either reads or writes.
    pub units: BTreeMap<&'static str, f64>,
    /// The largest item that was put, in bytes.
    pub largest_item: u64,
}

impl Used {
    fn count(&mut self, request: &'static str, units: f64) {
        *self.requests.entry(request).or_default() += 1;
        *self.units.entry(request).or_default() += units;
    }

    fn put(&mut self, item: Option<&Item>) {
        self.largest_item = self.largest_item.max(item.map(size).unwrap_or_default());
    }
}

/// Counts what the requests of a store use. Clones count together.
#[derive(Debug, Clone, Default)]
pub struct Meter(Arc<Mutex<Used>>);

impl Meter {
    /// The same store, with every request counted.
    pub fn store(&self, store: &Store) -> Store {
        let config = store.client().config().to_builder().interceptor(self.clone()).build();
        Store::new(Client::from_conf(config), DEFAULT_PREFIX)
    }

    /// What was used since the last time.
    pub fn take(&self) -> Used {
        std::mem::take(&mut *self.used())
    }

    fn used(&self) -> MutexGuard<'_, Used> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self, request: &'static str, capacity: Option<&ConsumedCapacity>) {
        let (mut used, units) = (self.used(), units(capacity));
        used.reads += units;
        used.count(request, units);
    }

    fn wrote<'a>(&self, request: &'static str, capacities: impl IntoIterator<Item = &'a ConsumedCapacity>) {
        let units = capacities.into_iter().map(|capacity| units(Some(capacity))).sum();
        let mut used = self.used();
        used.writes += units;
        used.count(request, units);
    }
}

fn units(capacity: Option<&ConsumedCapacity>) -> f64 {
    capacity.and_then(ConsumedCapacity::capacity_units).unwrap_or(f64::NAN)
}

/// An item's size as DynamoDB measures it: names and texts in bytes, a number a byte for two digits
/// and one more, a list or a map three bytes and one for each thing in it.
pub fn size(item: &Item) -> u64 {
    item.iter().map(|(name, value)| (name.len() + size_of(value)) as u64).sum()
}

fn size_of(value: &AttributeValue) -> usize {
    match value {
        AttributeValue::S(text) => text.len(),
        AttributeValue::N(number) => number.len().div_ceil(2) + 1,
        AttributeValue::B(bytes) => bytes.as_ref().len(),
        AttributeValue::L(list) => 3 + list.iter().map(|value| 1 + size_of(value)).sum::<usize>(),
        AttributeValue::M(map) => 3 + map.iter().map(|(name, value)| 1 + name.len() + size_of(value)).sum::<usize>(),
        _ => 1,
    }
}

impl Intercept for Meter {
    fn name(&self) -> &'static str {
        "Meter"
    }

    fn modify_before_serialization(
        &self,
        context: &mut BeforeSerializationInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let (input, total) = (context.input_mut(), Some(ReturnConsumedCapacity::Total));
        if let Some(put) = input.downcast_mut::<PutItemInput>() {
            put.return_consumed_capacity = total;
            self.used().put(put.item.as_ref());
        } else if let Some(transaction) = input.downcast_mut::<TransactWriteItemsInput>() {
            transaction.return_consumed_capacity = total;
            let puts = transaction.transact_items.iter().flatten().filter_map(|item| item.put.as_ref());
            puts.for_each(|put| self.used().put(Some(&put.item)));
        } else if let Some(delete) = input.downcast_mut::<DeleteItemInput>() {
            delete.return_consumed_capacity = total;
        } else if let Some(batch) = input.downcast_mut::<BatchGetItemInput>() {
            batch.return_consumed_capacity = total;
        } else if let Some(update) = input.downcast_mut::<UpdateItemInput>() {
            update.return_consumed_capacity = total;
        } else if let Some(batch) = input.downcast_mut::<BatchWriteItemInput>() {
            batch.return_consumed_capacity = total;
        } else if let Some(query) = input.downcast_mut::<QueryInput>() {
            query.return_consumed_capacity = total;
        } else if let Some(get) = input.downcast_mut::<GetItemInput>() {
            get.return_consumed_capacity = total;
        }
        Ok(())
    }

    fn read_after_deserialization(
        &self,
        context: &AfterDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let Ok(output) = context.output_or_error() else { return Ok(()) };
        if let Some(put) = output.downcast_ref::<PutItemOutput>() {
            self.wrote("PutItem", put.consumed_capacity());
        } else if let Some(transaction) = output.downcast_ref::<TransactWriteItemsOutput>() {
            self.wrote("TransactWriteItems", transaction.consumed_capacity());
        } else if let Some(delete) = output.downcast_ref::<DeleteItemOutput>() {
            self.wrote("DeleteItem", delete.consumed_capacity());
        } else if let Some(update) = output.downcast_ref::<UpdateItemOutput>() {
            self.wrote("UpdateItem", update.consumed_capacity());
        } else if let Some(batch) = output.downcast_ref::<BatchWriteItemOutput>() {
            self.wrote("BatchWriteItem", batch.consumed_capacity());
        } else if let Some(query) = output.downcast_ref::<QueryOutput>() {
            self.read("Query", query.consumed_capacity());
        } else if let Some(batch) = output.downcast_ref::<BatchGetItemOutput>() {
            // Of one table, as everything here.
            self.read("BatchGetItem", batch.consumed_capacity().first());
        } else if let Some(get) = output.downcast_ref::<GetItemOutput>() {
            self.read("GetItem", get.consumed_capacity());
        }
        Ok(())
    }
}
