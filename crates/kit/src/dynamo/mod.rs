//! Tables, and the one way to reach them: the real AWS SDK, against DynamoDB or against the
//! embedded engine.
//!
//! A capability states its table as a `const` [`TableDef`] and keeps its expressions in its own
//! `store.rs`. What it gets from here: a [`Store`] (client and names, and what all stores ask for in
//! the same way, a [`Lease`] included), [`StoreError`] (what can go wrong, and whether trying again
//! helps) and a few conversions.
//!
//! **The one thing to know:** the SDK asks again by itself when an answer is lost, so a condition
//! can fail because of this very write. See [`StoreError::ConditionFailed`].

#[cfg(feature = "embedded")]
pub mod embedded;
mod error;
mod item;
mod lease;
mod table;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::BehaviorVersion;
use aws_sdk_dynamodb::config::retry::RetryConfig;
use aws_sdk_dynamodb::config::timeout::TimeoutConfig;
use aws_sdk_dynamodb::operation::query::builders::QueryFluentBuilder;
use aws_sdk_dynamodb::types::TransactWriteItem;

pub use aws_sdk_dynamodb::types::AttributeValue;
pub use error::{CancelCode, CancelReason, StoreError, was_written};
pub use item::{Item, from_item, from_items, key, n, s, sort_key, to_item};
pub use lease::Lease;
pub use table::{IndexDef, Projection, TableDef};

/// What stands before every table's name unless `MUSTER_TABLE_PREFIX` says otherwise.
pub const DEFAULT_PREFIX: &str = "muster-";

/// How long [`Store::warm`] may take: a Lambda's init phase ends after ten seconds.
const WARM_TIMEOUT: Duration = Duration::from_secs(2);

/// The client, and the prefix that turns a [`TableDef`] into a table of this deployment.
#[derive(Clone)]
pub struct Store {
    client: Client,
    prefix: Arc<str>,
}

impl Store {
    /// A store over an existing client. `prefix` stands before every table's name.
    pub fn new(client: Client, prefix: impl Into<Arc<str>>) -> Self {
        Self { client, prefix: prefix.into() }
    }

    /// The store that the environment describes: region, credentials and
    /// `AWS_ENDPOINT_URL_DYNAMODB` as the AWS SDK reads them, the prefix from
    /// `MUSTER_TABLE_PREFIX` (default [`DEFAULT_PREFIX`]).
    ///
    /// Contacts nobody as long as region and credentials come from the environment, as they do on
    /// Lambda.
    pub async fn from_env() -> Self {
        let config = aws_config::defaults(BehaviorVersion::latest())
            .timeout_config(timeouts())
            .retry_config(RetryConfig::standard().with_max_attempts(3))
            .load()
            .await;
        let prefix = std::env::var("MUSTER_TABLE_PREFIX").unwrap_or_else(|_| DEFAULT_PREFIX.into());
        Self::new(Client::new(&config), prefix)
    }

    /// The name of `table` in this deployment.
    pub fn table(&self, table: &TableDef) -> String {
        table.physical_name(&self.prefix)
    }

    /// The SDK's client.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The item with this key, as last written.
    pub async fn get(&self, table: &TableDef, key: Item) -> Result<Option<Item>, StoreError> {
        let get = self.client.get_item().table_name(self.table(table)).set_key(Some(key));
        Ok(get.consistent_read(true).send().await?.item)
    }

    /// All items of the partition `pk`, as last written, in the order of their sort keys.
    pub async fn partition(&self, table: &TableDef, pk: impl Into<String>) -> Result<Vec<Item>, StoreError> {
        all(self.query_partition(table, pk)).await
    }

    /// The query for that, for whoever does not want all items at once, or all of them.
    pub fn query_partition(&self, table: &TableDef, pk: impl Into<String>) -> QueryFluentBuilder {
        let query = self.client.query().table_name(self.table(table)).key_condition_expression("pk = :pk");
        query.expression_attribute_values(":pk", s(pk)).consistent_read(true)
    }

    /// Writes all of `items`, or none of them.
    pub async fn transact(&self, items: Vec<TransactWriteItem>) -> Result<(), StoreError> {
        self.client.transact_write_items().set_transact_items(Some(items)).send().await?;
        Ok(())
    }

    /// Opens a connection and loads credentials, so that the first request does not wait for it:
    /// one read of an item that does not exist, at most two seconds. A failure is not an error
    /// here; the first request will tell.
    pub async fn warm(&self, table: &TableDef) {
        let read = self
            .client
            .get_item()
            .table_name(self.table(table))
            .key(table.pk, s("warm"))
            .key(table.sk, s("warm"))
            .send();
        match tokio::time::timeout(WARM_TIMEOUT, read).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                let error = StoreError::from(error);
                tracing::debug!(%error, table = table.name, "the store is not warm");
            }
            Err(_) => tracing::debug!(table = table.name, "the store did not answer in time"),
        }
    }

    /// Creates the tables that are missing, and indexes and expiry that an existing table lacks.
    /// For the embedded store and tests only: on AWS, Terraform owns the tables.
    ///
    /// Streams are left off, because nothing outside AWS reads them and nothing would trim them.
    pub async fn create_tables(&self, tables: &[&TableDef]) -> Result<(), StoreError> {
        for table in tables {
            table::create(&self.client, table, &self.table(table)).await?;
        }
        Ok(())
    }
}

/// What a query finds, page by page to the end.
pub async fn all(query: QueryFluentBuilder) -> Result<Vec<Item>, StoreError> {
    let mut pages = query.into_paginator().send();
    let mut items = Vec::new();
    while let Some(page) = pages.try_next().await? {
        items.extend(page.items.unwrap_or_default());
    }
    Ok(items)
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

/// Three attempts of three seconds fit into nine, and nine into the shortest function's timeout.
fn timeouts() -> TimeoutConfig {
    TimeoutConfig::builder()
        .connect_timeout(Duration::from_secs(1))
        .operation_attempt_timeout(Duration::from_secs(3))
        .operation_timeout(Duration::from_secs(9))
        .build()
}
