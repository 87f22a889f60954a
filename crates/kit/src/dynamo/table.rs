//! What a table looks like, stated once: here as a `const`, in Terraform by comparison with
//! [`TableDef::to_json`], in the embedded store by creation.
//!
//! All keys are strings. Indexes are sparse: an item is in one only if it has its key attributes.

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::operation::create_table::CreateTableError;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, CreateGlobalSecondaryIndexAction, GlobalSecondaryIndex,
    GlobalSecondaryIndexUpdate, KeySchemaElement, KeyType, ProjectionType, ScalarAttributeType,
    TimeToLiveSpecification, TimeToLiveStatus,
};
use serde::Serialize;

use super::StoreError;

/// A table of a capability.
///
/// ```
/// use kit::dynamo::{IndexDef, TableDef};
///
/// const TABLE: TableDef = TableDef::new("batches")
///     .with_indexes(&[IndexDef::keys_only("open", "open_pk", "open_sk")])
///     .with_stream();
/// assert_eq!(TABLE.physical_name("muster-"), "muster-batches");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct TableDef {
    /// The name without the deployment's prefix.
    pub name: &'static str,
    /// The partition key's attribute, a string.
    pub pk: &'static str,
    /// The sort key's attribute, a string.
    pub sk: &'static str,
    /// Global secondary indexes.
    pub indexes: &'static [IndexDef],
    /// The attribute that holds an item's expiry in epoch seconds. Items may outlive it by days,
    /// so whoever reads compares it in code.
    pub ttl: &'static str,
    /// Whether DynamoDB streams the new images of changed items.
    pub stream: bool,
}

impl TableDef {
    /// A table with the keys `pk` and `sk`, expiry in `ttl`, no index and no stream.
    pub const fn new(name: &'static str) -> Self {
        Self { name, pk: "pk", sk: "sk", indexes: &[], ttl: "ttl", stream: false }
    }

    /// The same table with these indexes.
    #[must_use]
    pub const fn with_indexes(self, indexes: &'static [IndexDef]) -> Self {
        Self { indexes, ..self }
    }

    /// The same table with a stream of new images.
    #[must_use]
    pub const fn with_stream(self) -> Self {
        Self { stream: true, ..self }
    }

    /// The table's name in a deployment.
    pub fn physical_name(&self, prefix: &str) -> String {
        format!("{prefix}{}", self.name)
    }

    /// The definition for comparison with other statements of it: `name`, `pk`, `sk`, `indexes`
    /// (each `name`, `pk`, `sk`, `projection`), `ttl` and `stream` (`"NEW_IMAGE"` or null).
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "name": self.name,
            "pk": self.pk,
            "sk": self.sk,
            "indexes": self.indexes,
            "ttl": self.ttl,
            "stream": self.stream.then_some("NEW_IMAGE"),
        })
    }
}

/// A sparse global secondary index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct IndexDef {
    /// The index's name.
    pub name: &'static str,
    /// Its partition key's attribute, a string.
    pub pk: &'static str,
    /// Its sort key's attribute, a string.
    pub sk: &'static str,
    /// What a query on it returns.
    pub projection: Projection,
}

impl IndexDef {
    /// An index that returns the keys of the table and its own.
    pub const fn keys_only(name: &'static str, pk: &'static str, sk: &'static str) -> Self {
        Self { name, pk, sk, projection: Projection::KeysOnly }
    }

    /// An index that returns whole items. Each write of an item is paid for twice.
    pub const fn all(name: &'static str, pk: &'static str, sk: &'static str) -> Self {
        Self { name, pk, sk, projection: Projection::All }
    }
}

/// Which attributes an index holds. In JSON as DynamoDB and Terraform spell it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Projection {
    /// The keys of the table and of the index.
    KeysOnly,
    /// Everything.
    All,
}

/// Brings the table `name` to what `def` says, from whatever is there.
pub(super) async fn create(client: &Client, def: &TableDef, name: &str) -> Result<(), StoreError> {
    match client.describe_table().table_name(name).send().await.map_err(StoreError::from) {
        Ok(found) => {
            let existing = found.table.map(|t| t.global_secondary_indexes.unwrap_or_default());
            let existing: Vec<String> = existing.unwrap_or_default().into_iter().filter_map(|i| i.index_name).collect();
            for index in def.indexes.iter().filter(|i| !existing.iter().any(|e| e == i.name)) {
                add_index(client, def, index, name).await?;
            }
        }
        Err(StoreError::TableMissing { .. }) => create_new(client, def, name).await?,
        Err(error) => return Err(error),
    }
    enable_expiry(client, def, name).await
}

async fn create_new(client: &Client, def: &TableDef, name: &str) -> Result<(), StoreError> {
    let indexes = def.indexes.iter().map(global_index).collect::<Result<Vec<_>, _>>()?;
    let created = client
        .create_table()
        .table_name(name)
        .billing_mode(BillingMode::PayPerRequest)
        .set_key_schema(Some(key_schema(def.pk, def.sk)?))
        .set_attribute_definitions(Some(attributes(def)?))
        .set_global_secondary_indexes((!indexes.is_empty()).then_some(indexes))
        .send()
        .await;
    match created {
        // Somebody was faster.
        Err(error) if error.as_service_error().is_some_and(CreateTableError::is_resource_in_use_exception) => Ok(()),
        other => other.map(drop).map_err(StoreError::from),
    }
}

/// A newer version's index on an older version's table.
async fn add_index(client: &Client, def: &TableDef, index: &IndexDef, name: &str) -> Result<(), StoreError> {
    let index = global_index(index)?;
    let action = CreateGlobalSecondaryIndexAction::builder()
        .index_name(index.index_name)
        .set_key_schema(Some(index.key_schema))
        .set_projection(index.projection)
        .build()?;
    client
        .update_table()
        .table_name(name)
        .set_attribute_definitions(Some(attributes(def)?))
        .global_secondary_index_updates(GlobalSecondaryIndexUpdate::builder().create(action).build())
        .send()
        .await?;
    Ok(())
}

async fn enable_expiry(client: &Client, def: &TableDef, name: &str) -> Result<(), StoreError> {
    let found = client.describe_time_to_live().table_name(name).send().await?;
    let status = found.time_to_live_description.and_then(|d| d.time_to_live_status);
    if matches!(status, Some(TimeToLiveStatus::Enabled | TimeToLiveStatus::Enabling)) {
        return Ok(());
    }
    let expiry = TimeToLiveSpecification::builder().attribute_name(def.ttl).enabled(true).build()?;
    client.update_time_to_live().table_name(name).time_to_live_specification(expiry).send().await?;
    Ok(())
}

fn global_index(index: &IndexDef) -> Result<GlobalSecondaryIndex, StoreError> {
    let projection = match index.projection {
        Projection::KeysOnly => ProjectionType::KeysOnly,
        Projection::All => ProjectionType::All,
    };
    GlobalSecondaryIndex::builder()
        .index_name(index.name)
        .set_key_schema(Some(key_schema(index.pk, index.sk)?))
        .projection(aws_sdk_dynamodb::types::Projection::builder().projection_type(projection).build())
        .build()
        .map_err(StoreError::from)
}

fn key_schema(pk: &str, sk: &str) -> Result<Vec<KeySchemaElement>, StoreError> {
    [(pk, KeyType::Hash), (sk, KeyType::Range)]
        .into_iter()
        .map(|(name, kind)| {
            KeySchemaElement::builder().attribute_name(name).key_type(kind).build().map_err(StoreError::from)
        })
        .collect()
}

/// Every attribute that is part of some key, once.
fn attributes(def: &TableDef) -> Result<Vec<AttributeDefinition>, StoreError> {
    let mut names = vec![def.pk, def.sk];
    names.extend(def.indexes.iter().flat_map(|index| [index.pk, index.sk]));
    names.sort_unstable();
    names.dedup();
    names
        .into_iter()
        .map(|name| {
            AttributeDefinition::builder()
                .attribute_name(name)
                .attribute_type(ScalarAttributeType::S)
                .build()
                .map_err(StoreError::from)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: TableDef = TableDef::new("things")
        .with_indexes(&[IndexDef::keys_only("open", "open_pk", "sk"), IndexDef::all("by-name", "name", "pk")])
        .with_stream();

    #[test]
    fn a_table_is_listed_as_terraform_states_it() {
        assert_eq!(
            TABLE.to_json(),
            serde_json::json!({
                "name": "things", "pk": "pk", "sk": "sk",
                "indexes": [
                    {"name": "open", "pk": "open_pk", "sk": "sk", "projection": "KEYS_ONLY"},
                    {"name": "by-name", "pk": "name", "sk": "pk", "projection": "ALL"},
                ],
                "ttl": "ttl", "stream": "NEW_IMAGE",
            })
        );
        assert!(TableDef::new("x").to_json()["stream"].is_null());
    }

    #[test]
    fn an_attribute_shared_by_two_keys_is_defined_once() {
        let attributes = attributes(&TABLE).unwrap_or_default();
        let names: Vec<&str> = attributes.iter().map(AttributeDefinition::attribute_name).collect();
        assert_eq!(names, ["name", "open_pk", "pk", "sk"]);
    }
}
