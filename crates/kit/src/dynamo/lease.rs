//! A lease: one worker at a time has the right to do something, until it gives the right back or its
//! time is over.
//!
//! Its item has the attributes `owner`, and `expires_at` in milliseconds since 1970. Whoever holds it
//! judges by its own clock how much is left of it: how far two machines' clocks may differ is for the
//! holder to allow for.

use aws_sdk_dynamodb::types::ReturnValuesOnConditionCheckFailure;
use jiff::Timestamp;
use uuid::Uuid;

use super::{Item, Store, StoreError, TableDef, n, s, was_written};

/// Whether a lease was had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lease {
    /// It is ours.
    Ours,
    /// Somebody else has it until then.
    Held(Timestamp),
}

impl Store {
    /// Takes the lease at `key` for `owner`, or renews it, until `until`. It is to be had at `now`
    /// where nobody else has it, or whose time is over.
    pub async fn lease(
        &self,
        table: &TableDef,
        key: Item,
        owner: Uuid,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<Lease, StoreError> {
        let result = self
            .client()
            .update_item()
            .table_name(self.table(table))
            .set_key(Some(key))
            .update_expression("SET #owner = :me, expires_at = :until")
            .condition_expression("attribute_not_exists(pk) OR expires_at < :now OR #owner = :me")
            .expression_attribute_names("#owner", "owner")
            .expression_attribute_values(":me", s(owner.to_string()))
            .expression_attribute_values(":until", n(until.as_millisecond()))
            .expression_attribute_values(":now", n(now.as_millisecond()))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .send()
            .await
            .map_err(StoreError::from);
        match result {
            Ok(_) => Ok(Lease::Ours),
            Err(StoreError::ConditionFailed { item }) => {
                let expires_at = item
                    .as_ref()
                    .and_then(|item| item.get("expires_at")?.as_n().ok()?.parse().ok())
                    .and_then(|at| Timestamp::from_millisecond(at).ok());
                Ok(Lease::Held(expires_at.unwrap_or(now)))
            }
            Err(error) => Err(error),
        }
    }

    /// Gives the lease at `key` back, if `owner` still has it.
    pub async fn release(&self, table: &TableDef, key: Item, owner: Uuid) -> Result<(), StoreError> {
        let delete = self.client().delete_item().table_name(self.table(table)).set_key(Some(key));
        let delete = delete
            .condition_expression("#owner = :me")
            .expression_attribute_names("#owner", "owner")
            .expression_attribute_values(":me", s(owner.to_string()));
        was_written(delete.send().await).map(drop)
    }
}
