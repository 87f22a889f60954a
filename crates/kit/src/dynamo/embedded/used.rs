//! Which actions a store needs on which tables, as IAM counts them: for the proof that a function's
//! policy allows what its code does, and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;

/// What has been asked through one store, whether or not it succeeded. Clones share it.
#[derive(Clone)]
pub struct Used {
    prefix: Arc<str>,
    actions: Arc<Mutex<BTreeMap<String, BTreeSet<String>>>>,
}

impl Used {
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.into(), actions: Arc::default() }
    }

    /// The actions by table, without the deployment's prefix: `batches` → `PutItem`, `Query`. An
    /// index has an entry of its own, `batches/index/NAME`, as it is a resource of its own.
    pub fn actions(&self) -> BTreeMap<String, BTreeSet<String>> {
        self.actions.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn record(&self, operation: &str, body: &[u8]) {
        // What is no JSON is refused anyway.
        let request: Value = serde_json::from_slice(body).unwrap_or_default();
        let mut known = self.actions.lock().unwrap_or_else(PoisonError::into_inner);
        for (resource, action) in needed(operation, &request) {
            let resource = resource.strip_prefix(&*self.prefix).unwrap_or(&resource).to_owned();
            known.entry(resource).or_default().insert(action);
        }
    }
}

impl fmt::Debug for Used {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.actions()).finish()
    }
}

/// The resources and the actions that a request needs. A transaction needs the action of each of its
/// items; the batch operations and the others need their own.
///
/// Source: "IAM and DynamoDB transactions" and "Actions, resources, and condition keys for Amazon
/// DynamoDB" in AWS's documentation.
fn needed(operation: &str, request: &Value) -> Vec<(String, String)> {
    let table = |it: &Value| it["TableName"].as_str().unwrap_or_default().to_owned();
    match operation {
        "TransactWriteItems" | "TransactGetItems" => {
            let items = request["TransactItems"].as_array().into_iter().flatten();
            let parts = items.filter_map(Value::as_object).flatten();
            parts.map(|(kind, part)| (table(part), format!("{kind}Item"))).collect()
        }
        "BatchGetItem" | "BatchWriteItem" => {
            let tables = request["RequestItems"].as_object().into_iter().flatten();
            tables.map(|(table, _)| (table.clone(), operation.to_owned())).collect()
        }
        _ => {
            let index = request["IndexName"].as_str().map(|index| format!("/index/{index}"));
            vec![(table(request) + &index.unwrap_or_default(), operation.to_owned())]
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_request_needs_what_iam_asks_for() {
        let used = Used::new("test-");
        let ask = |operation: &str, request: Value| {
            used.record(operation, request.to_string().as_bytes());
            let actions = std::mem::take(&mut *used.actions.lock().unwrap_or_else(PoisonError::into_inner));
            json!(actions)
        };
        assert_eq!(ask("PutItem", json!({"TableName": "test-a", "Item": {}})), json!({"a": ["PutItem"]}));
        assert_eq!(ask("Query", json!({"TableName": "test-a"})), json!({"a": ["Query"]}));
        assert_eq!(
            ask("Query", json!({"TableName": "test-a", "IndexName": "open"})),
            json!({"a/index/open": ["Query"]})
        );
        assert_eq!(
            ask(
                "TransactWriteItems",
                json!({"TransactItems": [
                    {"Put": {"TableName": "test-a"}},
                    {"ConditionCheck": {"TableName": "test-b"}},
                    {"Update": {"TableName": "test-b"}},
                    {"Delete": {"TableName": "test-b"}},
                ]})
            ),
            json!({"a": ["PutItem"], "b": ["ConditionCheckItem", "DeleteItem", "UpdateItem"]})
        );
        assert_eq!(
            ask("TransactGetItems", json!({"TransactItems": [{"Get": {"TableName": "test-a"}}]})),
            json!({"a": ["GetItem"]})
        );
        assert_eq!(
            ask("BatchWriteItem", json!({"RequestItems": {"test-a": [], "test-b": []}})),
            json!({"a": ["BatchWriteItem"], "b": ["BatchWriteItem"]})
        );
    }
}
