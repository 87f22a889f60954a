//! What the API shows of a batch, and how that follows from what is stored.

use std::fmt::Write as _;

use axum::response::{IntoResponse, Response};
use http::header;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    batch::{Batch, OnUncertain, Progress, Status},
    http::COLLECTION,
    ledger::{State as Candidate, Tally},
    run::StoredChunk,
};

/// DevEUIs that one answer holds; a longer batch is read by partitions.
pub const INLINE: u64 = 10_000;
/// Recovered ones that one answer holds besides.
const INLINE_RECOVERED: u64 = 20_000;
/// A batch in a list: everything but its DevEUIs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BatchSummary {
    /// The batch's id.
    pub id: Uuid,
    /// Where it is in its life.
    pub status: Status,
    /// How many DevEUIs are wanted.
    pub batch_size: u64,
    /// How many are registered; in a list up to a second old.
    pub registered: u64,
    /// How many candidates were somebody else's.
    pub conflicts: u64,
    /// How many are listed under `recovered`.
    pub recovered_count: u64,
    /// What all its DevEUIs begin with.
    pub prefix: String,
    /// A name for people.
    pub label: Option<String>,
    /// What is done with doubtful ones.
    pub on_uncertain: OnUncertain,
    /// Base URL of the provider.
    pub provider: String,
    /// RFC 3339, UTC.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// RFC 3339, UTC.
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: Timestamp,
    /// When it became final.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub completed_at: Option<Timestamp>,
    /// What is in its way, or why it failed.
    pub last_error: Option<String>,
    /// How likely each of `recovered` is a stranger's, 0 to 1.
    pub uncertain_probability: Option<f64>,
    /// When it was deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub deleted_at: Option<Timestamp>,
}

/// A batch with its DevEUIs, or with links to them where there are more than 10,000.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BatchView {
    /// Everything but the DevEUIs.
    #[serde(flatten)]
    pub summary: BatchSummary,
    /// DevEUIs that were taken after a lost answer about them: probably ours, possibly a
    /// stranger's; or never answered for at all, in a batch that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovered: Option<Vec<String>>,
    /// The registered DevEUIs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deveuis: Option<Vec<String>>,
    /// Where the DevEUIs are, for a long batch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partitions: Option<Vec<PartitionLink>>,
}

/// A part of a long batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PartitionLink {
    /// Where to GET it.
    pub href: String,
    /// How many DevEUIs are in the partitions before it.
    pub first: u64,
    /// How many are in it.
    pub count: u64,
}

/// The DevEUIs of a part of a long batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PartitionView {
    /// The registered DevEUIs.
    pub deveuis: Vec<String>,
    /// As in the batch.
    pub recovered: Vec<String>,
}

/// The DevEUI behind a short code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CodeView {
    /// Upper case.
    pub short_code: String,
    /// The DevEUI that ends with it.
    pub deveui: String,
    /// Whether it is listed under `recovered`.
    pub recovered: bool,
}

pub(crate) fn progress(batch: &Batch, chunks: &[StoredChunk]) -> Progress {
    let mut tally = Tally::default();
    for stored in chunks {
        tally += stored.chunk.tally();
    }
    Progress::new(tally, batch.progress.asked_again)
}

pub(crate) fn is_long(batch: &Batch, chunks: &[StoredChunk]) -> bool {
    batch.size > INLINE || progress(batch, chunks).recovered > INLINE_RECOVERED
}

pub(crate) fn summary(batch: &Batch, progress: Progress) -> BatchSummary {
    BatchSummary {
        id: batch.id,
        status: batch.status,
        batch_size: batch.size,
        registered: progress.registered,
        conflicts: progress.conflicts,
        recovered_count: progress.recovered,
        prefix: batch.prefix.as_str().to_owned(),
        label: batch.label.clone(),
        on_uncertain: batch.on_uncertain,
        provider: batch.provider.clone(),
        created_at: batch.created_at,
        updated_at: batch.updated_at,
        completed_at: batch.completed_at,
        last_error: batch.last_error.clone(),
        uncertain_probability: progress.uncertain_probability(),
        deleted_at: batch.deleted_at,
    }
}

/// The chunks are read after the batch, so what is counted is what is listed.
pub(crate) fn view(batch: &Batch, chunks: &[StoredChunk]) -> BatchView {
    let summary = summary(batch, progress(batch, chunks));
    if is_long(batch, chunks) {
        return BatchView { summary, recovered: None, deveuis: None, partitions: Some(links(batch, chunks)) };
    }
    BatchView {
        summary,
        recovered: Some(listed(batch, chunks, Candidate::is_recovered)),
        deveuis: Some(listed(batch, chunks, Candidate::counts)),
        partitions: None,
    }
}

fn links(batch: &Batch, chunks: &[StoredChunk]) -> Vec<PartitionLink> {
    let mut first = 0;
    let mut links = Vec::new();
    for StoredChunk { chunk, .. } in chunks {
        let tally = chunk.tally();
        if tally.registered + tally.recovered > 0 {
            let href = format!("{COLLECTION}/{}/partitions/{}", batch.id, chunk.number());
            links.push(PartitionLink { href, first, count: tally.registered });
        }
        first += tally.registered;
    }
    links
}

pub(crate) fn listed(batch: &Batch, chunks: &[StoredChunk], is: fn(Candidate) -> bool) -> Vec<String> {
    let candidates = batch.candidates();
    chunks
        .iter()
        .flat_map(|stored| stored.chunk.indexes(is))
        .map(|index| candidates.deveui(index).to_string())
        .collect()
}

pub(crate) fn csv(batch: &Batch, chunks: &[StoredChunk]) -> Response {
    let candidates = batch.candidates();
    let mut lines = String::from("short_code,deveui\r\n");
    for index in chunks.iter().flat_map(|stored| stored.chunk.indexes(Candidate::counts)) {
        let deveui = candidates.deveui(index);
        let _ = write!(lines, "{},{deveui}\r\n", deveui.short_code());
    }
    ([(header::CONTENT_TYPE, "text/csv; charset=utf-8; header=present")], lines).into_response()
}
