//! From an operation's name and JSON to the engine and back, as dynoxide's own HTTP server does it
//! (its dispatch is private). Only what this workspace's code may ask for is here.

use std::fmt;

use dynoxide::{Database, DynoxideError};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// What goes back to the SDK.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: String,
}

impl Answer {
    /// A 500 as DynamoDB words it.
    pub(super) fn internal_error() -> Self {
        Self::failed(&"The request could not be processed")
    }

    /// A 500 for what should not happen.
    pub(super) fn failed(why: &dyn fmt::Display) -> Self {
        Self::error(&DynoxideError::InternalServerError(why.to_string()))
    }

    fn error(error: &DynoxideError) -> Self {
        Self { status: error.status_code(), body: error.to_json() }
    }
}

/// What a request costs, in items.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Usage {
    pub(super) reads: u64,
    pub(super) writes: u64,
}

const FREE: Usage = Usage { reads: 0, writes: 0 };
const ONE_READ: Usage = Usage { reads: 1, writes: 0 };
const ONE_WRITE: Usage = Usage { reads: 0, writes: 1 };

fn reads(items: usize) -> Usage {
    Usage { reads: items as u64, writes: 0 }
}

fn writes(items: usize) -> Usage {
    Usage { reads: 0, writes: items as u64 }
}

/// Runs `operation` with the JSON `body`. Blocks for as long as the database works.
pub(super) fn run(db: &Database, operation: &str, body: &[u8]) -> (Answer, Usage) {
    match operation {
        "GetItem" => call(body, |_| ONE_READ, |request| db.get_item(request)),
        "PutItem" => call(body, |_| ONE_WRITE, |request| db.put_item(request)),
        "UpdateItem" => call(body, |_| ONE_WRITE, |request| db.update_item(request)),
        "DeleteItem" => call(body, |_| ONE_WRITE, |request| db.delete_item(request)),
        "Query" => call(body, |_| ONE_READ, |request| db.query(request)),
        "Scan" => call(body, |_| ONE_READ, |request| db.scan(request)),
        "TransactWriteItems" => call(
            body,
            |request: &dynoxide::actions::transact_write_items::TransactWriteItemsRequest| {
                writes(request.transact_items.len())
            },
            |request| db.transact_write_items(request),
        ),
        "TransactGetItems" => call(
            body,
            |request: &dynoxide::actions::transact_get_items::TransactGetItemsRequest| {
                reads(request.transact_items.len())
            },
            |request| db.transact_get_items(request),
        ),
        "BatchGetItem" => call(
            body,
            |request: &dynoxide::actions::batch_get_item::BatchGetItemRequest| {
                reads(request.request_items.values().map(|table| table.keys.len()).sum())
            },
            |request| db.batch_get_item(request),
        ),
        "BatchWriteItem" => call(
            body,
            |request: &dynoxide::actions::batch_write_item::BatchWriteItemRequest| {
                writes(request.request_items.values().map(Vec::len).sum())
            },
            |request| db.batch_write_item(request),
        ),
        "CreateTable" => call(body, |_| FREE, |request| db.create_table(request)),
        "UpdateTable" => call(body, |_| FREE, |request| db.update_table(request)),
        "DeleteTable" => call(body, |_| FREE, |request| db.delete_table(request)),
        "DescribeTable" => call(body, |_| FREE, |request| db.describe_table(request)),
        "ListTables" => call(body, |_| FREE, |request| db.list_tables(request)),
        "UpdateTimeToLive" => call(body, |_| FREE, |request| db.update_time_to_live(request)),
        "DescribeTimeToLive" => call(body, |_| FREE, |request| db.describe_time_to_live(request)),
        other => {
            let message = format!("the embedded store does not know the operation {other:?}");
            (Answer::error(&DynoxideError::ValidationException(message)), FREE)
        }
    }
}

fn call<Q: DeserializeOwned, A: Serialize>(
    body: &[u8],
    usage: impl FnOnce(&Q) -> Usage,
    operation: impl FnOnce(Q) -> dynoxide::Result<A>,
) -> (Answer, Usage) {
    let request: Q = match serde_json::from_slice(body) {
        Ok(request) => request,
        Err(error) => return (Answer::error(&unreadable(&error)), FREE),
    };
    let usage = usage(&request);
    let answer = match operation(request) {
        Ok(answer) => match serde_json::to_string(&answer) {
            Ok(body) => Answer { status: 200, body },
            Err(error) => Answer::failed(&error),
        },
        Err(error) => Answer::error(&error),
    };
    (answer, usage)
}

/// dynoxide's request types mark what DynamoDB would call invalid; the mark must not get out.
fn unreadable(error: &serde_json::Error) -> DynoxideError {
    let message = error.to_string();
    let unmarked = ["VALIDATION:", "VALIDATION_REQUEST:", "VALIDATION_AS_READ:"]
        .iter()
        .find_map(|mark| message.strip_prefix(mark));
    DynoxideError::ValidationException(unmarked.unwrap_or(&message).to_owned())
}
