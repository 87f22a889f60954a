//! The HTTP API of batches: parse, call the domain, answer.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, Method, StatusCode, header};
use jiff::SignedDuration;
use kit::{
    access::Caller,
    clock::Clock,
    http::{Routes, Scope},
    idempotency::{self, IdempotencyKey, KeptAnswer, Once},
    json::{Json, Params, PathParams},
    paging::{Binding, Here, Page, limit},
    problem::Problem,
    wait::{PreferWait, until},
};
use rand::{TryRngCore, rngs::OsRng};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use utoipa::{OpenApi, ToSchema};
use uuid::Uuid;

pub use crate::views::{BatchSummary, BatchView, CodeView, INLINE, PartitionLink, PartitionView};
use crate::{
    batch::{Batch, BatchError, BatchSize, Label, OnUncertain, Progress, Status},
    deveui::{CODES, Prefix, ShortCode},
    ledger::{CHUNK, State as Candidate},
    run::StoredChunk,
    store::{BatchStore, TABLE, batch_sk, is_batch_sk},
    views::{csv, is_long, listed, progress, summary, view},
};

const READ: Scope = Scope("batches:read");
const WRITE: Scope = Scope("batches:write");
pub(crate) const COLLECTION: &str = "/api/v1/batches";
/// Pages that one listing reads at most where a filter leaves them empty.
const FILTERED_PAGES: u32 = 10;

/// What the handlers need.
#[derive(Debug, Clone)]
pub struct Batches {
    /// Where batches are kept.
    pub store: BatchStore,
    /// Base URL of the provider, if one is configured.
    pub provider: Option<String>,
    /// What time it is.
    pub clock: Clock,
    /// Wakes the worker in this process.
    pub wake: Arc<Notify>,
    /// After how long a batch that is not complete fails.
    pub max_age: Duration,
}

/// The routes of this capability. `/api/v1/batch` is how the first version of the API was spelt.
pub fn routes(batches: Batches) -> Routes {
    [COLLECTION_PATHS, ALIAS_PATHS]
        .into_iter()
        .fold(Routes::new(), |routes, paths: Paths| {
            routes
                .route(Method::POST, paths.collection, WRITE, create)
                .route(Method::GET, paths.collection, READ, list)
                .route(Method::GET, paths.batch, READ, show)
                .route(Method::DELETE, paths.batch, WRITE, delete)
                .route(Method::GET, paths.partition, READ, partition)
                .route(Method::GET, paths.code, READ, find)
        })
        .with_state(batches)
}

struct Paths {
    collection: &'static str,
    batch: &'static str,
    partition: &'static str,
    code: &'static str,
}

const COLLECTION_PATHS: Paths = Paths {
    collection: COLLECTION,
    batch: "/api/v1/batches/{id}",
    partition: "/api/v1/batches/{id}/partitions/{n}",
    code: "/api/v1/batches/{id}/codes/{short_code}",
};
const ALIAS_PATHS: Paths = Paths {
    collection: "/api/v1/batch",
    batch: "/api/v1/batch/{id}",
    partition: "/api/v1/batch/{id}/partitions/{n}",
    code: "/api/v1/batch/{id}/codes/{short_code}",
};

/// The OpenAPI description of these routes.
#[derive(OpenApi)]
#[openapi(
    paths(create, list, show, delete, partition, find),
    components(schemas(CreateBatch, BatchView, BatchSummary, PartitionLink, PartitionView, CodeView, Problem, Status, OnUncertain)),
    tags((name = "batches", description = "Batches of registered DevEUIs with unique short codes, none wasted, none forgotten"))
)]
pub struct Docs;

/// What a batch shall be; every field may be left out, and so may the body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CreateBatch {
    /// How many DevEUIs.
    #[schema(value_type = u64, minimum = 1, maximum = 1_000_000, default = 100)]
    batch_size: BatchSize,
    /// What all of them begin with: 0 to 11 hexadecimal characters.
    #[schema(value_type = String, pattern = "^[0-9A-Fa-f]{0,11}$", default = "")]
    prefix: Prefix,
    /// A name for people, up to 200 characters.
    #[schema(value_type = Option<String>, max_length = 200)]
    label: Option<Label>,
    /// What to do with a DevEUI that is taken after an answer about it was lost.
    on_uncertain: OnUncertain,
}

impl Default for CreateBatch {
    fn default() -> Self {
        Self {
            batch_size: BatchSize::default(),
            prefix: Prefix::default(),
            label: None,
            on_uncertain: OnUncertain::Keep,
        }
    }
}

impl From<BatchError> for Problem {
    fn from(error: BatchError) -> Self {
        match error {
            BatchError::NotAnId(id) => {
                Self::bad_request(format!("{id:?} is no batch id. Ids are UUIDs; GET {COLLECTION} lists them."))
            }
            BatchError::NotFound => Self::not_found(format!("There is no such batch. GET {COLLECTION} lists them.")),
            BatchError::NotACode(code) => Self::bad_request(format!(
                "{code:?} is no short code. It is the last 5 characters of a DevEUI, such as 2555B."
            )),
            BatchError::NotRegistered(code) => {
                Self::not_found(format!("No registered DevEUI of this batch ends with {code}. Was it typed right?"))
            }
            BatchError::NoPartition => {
                Self::not_found("There is no such partition. The batch's `partitions` have the links.")
            }
            BatchError::TooLong => Self::new(StatusCode::NOT_ACCEPTABLE, "too-long", "Too long for one answer")
                .detail(format!("A batch of more than {INLINE} is read by the links in its `partitions`, as CSV too.")),
            BatchError::NoProvider => Self::not_configured("MUSTER_LORAWAN_URL"),
            BatchError::Damaged(what) => {
                tracing::error!(what, "what is stored is damaged");
                Self::internal()
            }
            BatchError::Store(error) => error.into(),
        }
    }
}

/// Begins a batch.
#[utoipa::path(
    post, path = "/api/v1/batches", operation_id = "create_batch", tag = "batches", request_body = CreateBatch,
    params(("Idempotency-Key" = Option<String>, Header, description = "1 to 255 visible ASCII characters; the same key creates once")),
    responses(
        (status = 201, description = "Created; `Location` has its address", body = BatchView),
        (status = 409, description = "A request with this key is being worked on", body = Problem),
        (status = 422, description = "A value is not allowed, or the key was used for another request", body = Problem),
        (status = 503, description = "No provider is configured, or the store is away", body = Problem),
    ),
    security(("key" = ["batches:write"]))
)]
async fn create(
    State(batches): State<Batches>,
    caller: Caller,
    key: IdempotencyKey,
    Json(input): Json<CreateBatch>,
) -> Result<Response, Problem> {
    let provider = batches.provider.clone().ok_or(BatchError::NoProvider)?;
    let now = batches.clock.now();
    let once = Once::new(&caller.tenant, COLLECTION, &key, &input);
    let batch = Batch {
        id: Uuid::now_v7(),
        tenant: caller.tenant,
        status: Status::Processing,
        size: input.batch_size.0,
        prefix: input.prefix,
        seed: random_seed(),
        on_uncertain: input.on_uncertain,
        label: input.label.map(|label| label.0),
        provider,
        created_at: now,
        updated_at: now,
        completed_at: None,
        fails_at: now + SignedDuration::try_from(batches.max_age).unwrap_or(SignedDuration::MAX),
        last_error: None,
        progress: Progress::default(),
        deleted_at: None,
    };
    let view = view(&batch, &[]);
    let answer = KeptAnswer {
        status: StatusCode::CREATED.as_u16(),
        location: format!("{COLLECTION}/{}", batch.id),
        body: serde_json::to_string(&view).map_err(|_| Problem::internal())?,
    };
    let (store, wake) = (&batches.store, &batches.wake);
    let create = async |record| {
        store.create(&batch, record).await?;
        wake.notify_one();
        Ok(())
    };
    idempotency::create(once.as_ref(), (store.inner(), &TABLE), now, answer, create).await
}

/// Seeds need not be secret, only different; the system's randomness makes them so everywhere.
fn random_seed() -> u128 {
    let mut bytes = [0; 16];
    OsRng.unwrap_err().try_fill_bytes(&mut bytes).unwrap_or_default();
    u128::from_be_bytes(bytes)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ListParams {
    limit: Option<u32>,
    cursor: Option<String>,
    status: Option<Status>,
    #[serde(default)]
    deleted: bool,
}

/// Lists batches, newest first.
#[utoipa::path(
    get, path = "/api/v1/batches", operation_id = "list_batches", tag = "batches",
    params(
        ("limit" = Option<u32>, Query, description = "1 to 500, default 50"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
        ("status" = Option<Status>, Query, description = "Only batches with this status"),
        ("deleted" = Option<bool>, Query, description = "Deleted ones as well"),
    ),
    responses((status = 200, body = Page<BatchSummary>), (status = 400, body = Problem)),
    security(("key" = ["batches:read"]))
)]
async fn list(
    State(batches): State<Batches>,
    caller: Caller,
    Params(params): Params<ListParams>,
) -> Result<Response, Problem> {
    let size = limit(params.limit)?;
    let status = params.status.map_or("", Status::as_str);
    let deleted = params.deleted.to_string();
    let binding = Binding::new(&caller.tenant, &["batches", status, &deleted]);
    let mut after = params.cursor.map(|cursor| binding.open(&cursor, is_batch_sk)).transpose()?;
    let mut items: Vec<BatchSummary> = Vec::new();
    for _ in 0..FILTERED_PAGES {
        // One more than asked for tells whether there are more.
        let wanted = size + 1 - u32::try_from(items.len()).unwrap_or(size);
        let (page, next) =
            batches.store.list(&caller.tenant, wanted, after.as_deref(), params.status, params.deleted).await?;
        items.extend(page.iter().map(|batch| summary(batch, batch.progress)));
        after = next;
        if items.len() > size as usize {
            items.truncate(size as usize);
            after = items.last().map(|last| batch_sk(last.id));
            break;
        }
        if after.is_none() {
            break;
        }
    }
    let page = Page { items, next_cursor: after.map(|sk| binding.cursor(&sk)) };
    let here = Here::new(COLLECTION, size)
        .with("status", params.status.map(Status::as_str))
        .with("deleted", params.deleted.then_some(true));
    Ok(page.answer(here))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ShowParams {
    #[serde(default)]
    deleted: bool,
}

/// One batch, with its DevEUIs.
#[utoipa::path(
    get, path = "/api/v1/batches/{id}", operation_id = "show_batch", tag = "batches",
    params(
        ("id" = Uuid, Path),
        ("deleted" = Option<bool>, Query, description = "Also if it was deleted, for 30 days"),
        ("Prefer" = Option<String>, Header, description = "`wait=N`: up to N (20) seconds until it changes"),
        ("Accept" = Option<String>, Header, description = "`text/csv` for lines of short_code,deveui"),
    ),
    responses((status = 200, body = BatchView), (status = 404, body = Problem), (status = 406, body = Problem)),
    security(("key" = ["batches:read"]))
)]
async fn show(
    State(batches): State<Batches>,
    caller: Caller,
    PathParams(id): PathParams<String>,
    Params(params): Params<ShowParams>,
    wait: PreferWait,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let id = parse_id(&id)?;
    let read = || read(batches.store.clone(), caller.tenant.clone(), id, params.deleted);
    let mut first = None;
    let (batch, chunks, _) = until(wait, read, |(batch, _, progress)| {
        let now = (batch.status, *progress, batch.last_error.clone());
        batch.status.is_final() || first.get_or_insert_with(|| now.clone()) != &now
    })
    .await?;
    let mut response = if wants_csv(&headers) {
        if is_long(&batch, &chunks) {
            return Err(BatchError::TooLong.into());
        }
        csv(&batch, &chunks)
    } else {
        axum::Json(view(&batch, &chunks)).into_response()
    };
    wait.applied(response.headers_mut());
    Ok(response)
}

/// Cancels a batch that is being processed, deletes one that is final.
#[utoipa::path(
    delete, path = "/api/v1/batches/{id}", operation_id = "delete_batch", tag = "batches", params(("id" = Uuid, Path)),
    responses(
        (status = 202, description = "It is being cancelled", body = BatchView),
        (status = 204, description = "It is deleted; `?deleted=true` shows it for 30 days"),
        (status = 404, body = Problem),
    ),
    security(("key" = ["batches:write"]))
)]
async fn delete(
    State(batches): State<Batches>,
    caller: Caller,
    PathParams(id): PathParams<String>,
) -> Result<Response, Problem> {
    let id = parse_id(&id)?;
    let now = batches.clock.now();
    let mut batch = find_batch(&batches.store, &caller.tenant, id, true).await?;
    if !batch.status.is_final() {
        if batch.status == Status::Processing {
            batches.store.cancel(&batch, now).await?;
            batches.wake.notify_one();
            // Read again: it may have become final at this very moment. Then it stays as it is;
            // who asked for a cancellation has not asked for a deletion.
            batch = find_batch(&batches.store, &caller.tenant, id, true).await?;
        }
        let chunks = batches.store.chunks(id).await?;
        return Ok((StatusCode::ACCEPTED, axum::Json(view(&batch, &chunks))).into_response());
    }
    batches.store.delete(&batch, now).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// A part of a long batch.
#[utoipa::path(
    get, path = "/api/v1/batches/{id}/partitions/{n}", operation_id = "show_partition", tag = "batches",
    params(("id" = Uuid, Path), ("n" = u64, Path), ("deleted" = Option<bool>, Query)),
    responses((status = 200, body = PartitionView), (status = 404, body = Problem)),
    security(("key" = ["batches:read"]))
)]
async fn partition(
    State(batches): State<Batches>,
    caller: Caller,
    PathParams((id, n)): PathParams<(String, String)>,
    Params(params): Params<ShowParams>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let id = parse_id(&id)?;
    let batch = find_batch(&batches.store, &caller.tenant, id, params.deleted).await?;
    let n: u64 = n.parse().ok().filter(|n: &u64| n.checked_mul(CHUNK).is_some()).ok_or(BatchError::NoPartition)?;
    let stored = batches.store.chunk(id, n).await?.ok_or(BatchError::NoPartition)?;
    let chunks = [stored];
    if wants_csv(&headers) {
        return Ok(csv(&batch, &chunks));
    }
    let view = PartitionView {
        deveuis: listed(&batch, &chunks, Candidate::counts),
        recovered: listed(&batch, &chunks, Candidate::is_recovered),
    };
    Ok(axum::Json(view).into_response())
}

/// The DevEUI behind the five characters that a customer typed.
#[utoipa::path(
    get, path = "/api/v1/batches/{id}/codes/{short_code}", operation_id = "find_deveui", tag = "batches",
    params(("id" = Uuid, Path), ("short_code" = String, Path, description = "5 hexadecimal characters")),
    responses((status = 200, body = CodeView), (status = 404, body = Problem)),
    security(("key" = ["batches:read"]))
)]
async fn find(
    State(batches): State<Batches>,
    caller: Caller,
    PathParams((id, code)): PathParams<(String, String)>,
) -> Result<Response, Problem> {
    let id = parse_id(&id)?;
    let code: ShortCode = code.parse().map_err(|_| BatchError::NotACode(code))?;
    let batch = find_batch(&batches.store, &caller.tenant, id, false).await?;
    let candidates = batch.candidates();
    let position = candidates.position(code);
    // A conflict in one round makes the position a candidate again in the next.
    for round in 0.. {
        let index = round * CODES + position;
        let Some(StoredChunk { chunk, .. }) = batches.store.chunk(id, index / CHUNK).await? else { break };
        match chunk.get(index) {
            state @ (Candidate::Registered | Candidate::Kept) => {
                let view = CodeView {
                    short_code: code.to_string(),
                    deveui: candidates.deveui(index).to_string(),
                    recovered: state.is_recovered(),
                };
                return Ok(axum::Json(view).into_response());
            }
            Candidate::Conflict => {}
            Candidate::Untouched | Candidate::Open | Candidate::Uncounted | Candidate::Skipped => break,
        }
    }
    Err(BatchError::NotRegistered(code.to_string()).into())
}

fn parse_id(text: &str) -> Result<Uuid, BatchError> {
    // One spelling only: an id is opaque, and `{…}` or `urn:uuid:…` is nobody's copy of ours.
    (text.len() == 36)
        .then(|| text.parse().ok())
        .flatten()
        .ok_or_else(|| BatchError::NotAnId(text.chars().take(64).collect()))
}

async fn find_batch(store: &BatchStore, tenant: &str, id: Uuid, deleted: bool) -> Result<Batch, BatchError> {
    let batch = store.get(tenant, id).await?.ok_or(BatchError::NotFound)?;
    if batch.deleted_at.is_some() && !deleted {
        return Err(BatchError::NotFound);
    }
    Ok(batch)
}

/// A batch, what is known of its candidates, and the counts of that.
async fn read(
    store: BatchStore,
    tenant: String,
    id: Uuid,
    deleted: bool,
) -> Result<(Batch, Vec<StoredChunk>, Progress), BatchError> {
    let batch = find_batch(&store, &tenant, id, deleted).await?;
    let chunks = store.chunks(id).await?;
    let progress = progress(&batch, &chunks);
    Ok((batch, chunks, progress))
}

fn wants_csv(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|part| part.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("text/csv"))
}
