//! `Idempotency-Key` (IETF draft): the same request twice does its work once.
//!
//! The record of a key is written in the *same transaction* as the thing that the request creates.
//! So there is no moment in which one exists without the other, no "in progress" that a crash could
//! leave behind, and one conditional write decides among any number of racing requests. [`create`] is
//! how a handler does it.

use std::time::Duration;

use aws_sdk_dynamodb::types::{Put, TransactWriteItem};
use axum::{
    extract::FromRequestParts,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header, request::Parts};
use jiff::{Timestamp, ToSpan};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    dynamo::{Store, StoreError, TableDef, from_item, key, n, to_item},
    problem::Problem,
};

/// How long a key is remembered, in hours.
pub const REMEMBERED_HOURS: i64 = 24;
/// Longest key, in characters.
pub const MAX_KEY: usize = 255;
/// Times that a creation is tried while others write the same.
const TRIES: u32 = 6;
/// The pause after the first try; doubles.
const PAUSE: Duration = Duration::from_millis(10);

/// The header `Idempotency-Key`, checked: 1 to 255 visible ASCII characters, quoted or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyKey(Option<String>);

impl<S: Send + Sync> FromRequestParts<S> for IdempotencyKey {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let mut values = parts.headers.get_all("idempotency-key").iter();
        let Some(value) = values.next() else { return Ok(Self(None)) };
        let text = value.to_str().unwrap_or_default();
        // The draft writes the key as a structured-field string, "…"; most clients send it bare.
        let key = text.strip_prefix('"').and_then(|it| it.strip_suffix('"')).unwrap_or(text);
        let sane = (1..=MAX_KEY).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic());
        if !sane || values.next().is_some() {
            return Err(Problem::new(
                StatusCode::BAD_REQUEST,
                "bad-idempotency-key",
                "The idempotency key is not valid",
            )
            .detail(format!(
                "Send one Idempotency-Key of 1 to {MAX_KEY} visible ASCII characters, such as a UUID; this one has {}.",
                key.len()
            )));
        }
        Ok(Self(Some(key.to_owned())))
    }
}

/// A request that must do its work once: who, which route, which key, which payload.
#[derive(Debug, Clone)]
pub struct Once {
    partition: String,
    payload: String,
}

/// An answer as it is kept, small: what a creation says of the thing created.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptAnswer {
    /// The HTTP status.
    pub status: u16,
    /// The header `Location`.
    pub location: String,
    /// The JSON body.
    pub body: String,
}

impl KeptAnswer {
    /// The answer, marked as a replay where it is one.
    pub fn answer(self, replayed: bool) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::CREATED);
        let mut response = (status, [(header::CONTENT_TYPE, "application/json")], self.body).into_response();
        if let Ok(location) = HeaderValue::try_from(self.location) {
            response.headers_mut().insert(header::LOCATION, location);
        }
        if replayed {
            response.headers_mut().insert("idempotency-replayed", HeaderValue::from_static("true"));
        }
        response
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    pk: String,
    sk: String,
    payload: String,
    answer: KeptAnswer,
    /// Seconds since 1970. Compared in code: DynamoDB deletes late, by days.
    expires_at: i64,
    ttl: i64,
}

const SORT_KEY: &str = "IDEMPOTENCY";

impl Once {
    /// `None` when the client sent no key. `payload` is the request as understood, so that white
    /// space and the order of fields do not count.
    pub fn new(tenant: &str, route: &str, key: &IdempotencyKey, payload: &impl Serialize) -> Option<Self> {
        let key = key.0.as_deref()?;
        let payload = serde_json::to_vec(payload).unwrap_or_default();
        Some(Self {
            // Hashed: a key is the client's text, and may be a secret of theirs.
            partition: format!("IDEMPOTENCY#{}", digest(&[tenant, route, key])),
            payload: format!("{:x}", Sha256::digest(payload)),
        })
    }

    /// The answer of an earlier request with this key, if there was one.
    ///
    /// # Errors
    /// A 422 problem when that request had another payload.
    pub async fn replay(&self, store: &Store, table: &TableDef, now: Timestamp) -> Result<Option<Response>, Problem> {
        let Some(item) = store.get(table, key(&self.partition, SORT_KEY)).await? else { return Ok(None) };
        let record: Record = from_item(item).map_err(|error| {
            tracing::error!(%error, "an idempotency record cannot be read");
            Problem::internal()
        })?;
        if record.expires_at <= now.as_second() {
            return Ok(None);
        }
        if record.payload != self.payload {
            return Err(Problem::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "idempotency-key-reused",
                "The idempotency key was used for another request",
            )
            .detail("Send the request that it was first used with, or a new key."));
        }
        Ok(Some(record.answer.answer(true)))
    }

    /// The write that remembers `answer`; it fails the whole transaction where the key is taken.
    pub fn put(&self, table: String, now: Timestamp, answer: &KeptAnswer) -> Result<TransactWriteItem, Problem> {
        let expires_at = (now + REMEMBERED_HOURS.hours()).as_second();
        let record = Record {
            pk: self.partition.clone(),
            sk: SORT_KEY.to_owned(),
            payload: self.payload.clone(),
            answer: answer.clone(),
            expires_at,
            ttl: expires_at,
        };
        let item = to_item(&record)?;
        let put = Put::builder()
            .table_name(table)
            .set_item(Some(item))
            .condition_expression("attribute_not_exists(pk) OR expires_at <= :now")
            .expression_attribute_values(":now", n(now.as_second()))
            .build()
            .map_err(StoreError::from)?;
        Ok(TransactWriteItem::builder().put(put).build())
    }
}

/// Creates something that answers `answer`, once where the client sent a key: then an earlier request
/// with the same key and payload is answered as it was.
///
/// `create` writes the thing together with the record that it is given, in one transaction and the
/// record as its last item. It is called again where others write the same at the same time.
///
/// # Errors
/// A 422 problem where the key was used for another payload, a 409 one where others keep being faster,
/// and those of the store.
pub async fn create<R: Future<Output = Result<(), StoreError>>>(
    once: Option<&Once>,
    (store, table): (&Store, &TableDef),
    now: Timestamp,
    answer: KeptAnswer,
    mut create: impl FnMut(Option<TransactWriteItem>) -> R,
) -> Result<Response, Problem> {
    for attempt in 0..TRIES {
        let mut record = None;
        if let Some(once) = once {
            if let Some(replay) = once.replay(store, table, now).await? {
                return Ok(replay);
            }
            record = Some(once.put(store.table(table), now, &answer)?);
        }
        match create(record).await {
            Ok(()) => return Ok(answer.answer(false)),
            // Another request with the key was faster: its answer is read above.
            Err(error) if error.is_condition_failed() => {}
            Err(StoreError::TransactionConflict) => tokio::time::sleep(PAUSE * (1 << attempt)).await,
            Err(error) => return Err(error.into()),
        }
    }
    Err(still_running())
}

/// 409: another request with this key is being worked on at this very moment.
pub fn still_running() -> Problem {
    Problem::new(StatusCode::CONFLICT, "request-in-progress", "A request with this key is being worked on")
        .detail("Send the same request again in a second: it will be answered as the first was.")
        .retry_after(1)
}

fn digest(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.len().to_be_bytes());
        hash.update(part.as_bytes());
    }
    format!("{:x}", hash.finalize())
}
