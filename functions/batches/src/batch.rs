//! What a batch is: its size, its life, and what may be asked of it.

use jiff::Timestamp;
use kit::dynamo::StoreError;
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use thiserror::Error;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{candidates::Candidates, deveui::Prefix, ledger::Tally};

/// Most DevEUIs of a batch. There are 1,048,576 short codes, so this leaves some for conflicts.
pub const MAX_SIZE: u64 = 1_000_000;
/// DevEUIs of a batch where the request does not say.
pub const DEFAULT_SIZE: u64 = 100;

/// Where a batch is in its life.
///
/// `Processing → Completed`; `Processing → Cancelling → Cancelled`; `Processing → Failed`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
pub enum Status {
    /// DevEUIs are being registered.
    Processing,
    /// All are registered.
    Completed,
    /// Nothing new is begun; what was begun is being settled.
    Cancelling,
    /// Ended on request, with what had been registered.
    Cancelled,
    /// Ended without all of them, with what had been registered; `last_error` says why.
    Failed,
}

impl Status {
    /// Whether nothing will change any more.
    pub fn is_final(self) -> bool {
        match self {
            Self::Processing | Self::Cancelling => false,
            Self::Completed | Self::Cancelled | Self::Failed => true,
        }
    }

    /// The word that is stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Processing => "Processing",
            Self::Completed => "Completed",
            Self::Cancelling => "Cancelling",
            Self::Cancelled => "Cancelled",
            Self::Failed => "Failed",
        }
    }
}

/// What to do with a DevEUI that is in use now but was not when an answer about it was lost: it is
/// probably ours, and possibly a stranger's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnUncertain {
    /// Count it as ours.
    #[default]
    Keep,
    /// List it, and register another in its place.
    Replace,
}

/// A batch's size: 1 to [`MAX_SIZE`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct BatchSize(pub u64);

impl Default for BatchSize {
    fn default() -> Self {
        Self(DEFAULT_SIZE)
    }
}

impl<'de> Deserialize<'de> for BatchSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Read as any JSON value first, so that -1, 1.5 and "ten" all get the same plain words.
        let value = serde_json::Value::deserialize(deserializer)?;
        match value.as_u64() {
            Some(size @ 1..=MAX_SIZE) => Ok(Self(size)),
            _ => Err(D::Error::custom(format_args!(
                "{value} is no batch size; send a whole number from 1 to {MAX_SIZE}"
            ))),
        }
    }
}

/// A name for people: up to 200 characters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Label(pub String);

impl<'de> Deserialize<'de> for Label {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        // Control characters would reach terminals and CSV files of people who trust this list.
        if text.chars().count() > 200 || text.chars().any(char::is_control) {
            return Err(D::Error::custom("a label has up to 200 characters and no control characters"));
        }
        Ok(Self(text))
    }
}

/// A batch as it is kept.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// UUIDv7: ids sort by the time they were made.
    pub id: Uuid,
    /// Whose it is.
    pub tenant: String,
    /// Where it is in its life.
    pub status: Status,
    /// How many DevEUIs are wanted.
    pub size: u64,
    /// What all of them begin with.
    pub prefix: Prefix,
    /// What the candidates are drawn from.
    pub seed: u128,
    /// What to do with doubtful ones.
    pub on_uncertain: OnUncertain,
    /// For people.
    pub label: Option<String>,
    /// Base URL of the provider it is registered with.
    pub provider: String,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When it was last changed, to about a second.
    pub updated_at: Timestamp,
    /// When it became final.
    pub completed_at: Option<Timestamp>,
    /// When it fails if it is not complete.
    pub fails_at: Timestamp,
    /// What is in its way, or why it failed.
    pub last_error: Option<String>,
    /// How far it is.
    pub progress: Progress,
    /// When it was deleted.
    pub deleted_at: Option<Timestamp>,
}

impl Batch {
    /// Its candidates.
    pub fn candidates(&self) -> Candidates {
        Candidates::new(self.seed, &self.prefix)
    }
}

/// Counts that are written now and then while a batch is worked on, and exactly when it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Progress {
    /// Ours, counted.
    pub registered: u64,
    /// Somebody else's.
    pub conflicts: u64,
    /// Listed under `recovered`.
    pub recovered: u64,
    /// DevEUIs that were asked for again after a lost answer, and answered.
    pub asked_again: u64,
}

impl Progress {
    /// The counts of `tally`, with what it does not know.
    pub fn new(tally: Tally, asked_again: u64) -> Self {
        Self { registered: tally.registered, conflicts: tally.conflicts, recovered: tally.recovered, asked_again }
    }

    /// How likely a recovered DevEUI is a stranger's and not ours, 0 to 1; `None` where there is none.
    ///
    /// A lost answer is followed by a 422 when the DevEUI was a stranger's (share `c` of first
    /// attempts) or when the lost request had registered it; `s` is the share of 422 among all that
    /// were asked again. By Bayes P(stranger | 422) = c / s. Both shares are estimated with half a
    /// count added (Jeffreys), so that a batch without a conflict yet does not claim certainty.
    #[expect(clippy::cast_precision_loss, reason = "counts are below 2^53")]
    pub fn uncertain_probability(&self) -> Option<f64> {
        if self.recovered == 0 {
            return None;
        }
        let share = |some: u64, all: u64| (some as f64 + 0.5) / (all as f64 + 1.0);
        // What was asked for again is left out: of that a 422 is no longer called a conflict.
        let first = self.conflicts + self.registered.saturating_sub(self.asked_again);
        let strangers = share(self.conflicts, first);
        let taken = share(self.recovered, self.asked_again.max(self.recovered));
        Some((strangers / taken).min(1.0))
    }
}

/// Why something asked of a batch was not done.
#[derive(Debug, Error)]
pub enum BatchError {
    /// The text is no batch id.
    #[error("{0:?} is no batch id")]
    NotAnId(String),
    /// There is no such batch, or it is another tenant's.
    #[error("there is no such batch")]
    NotFound,
    /// The text is no short code.
    #[error("{0:?} is no short code")]
    NotACode(String),
    /// The code is not one of this batch's.
    #[error("no registered DevEUI of the batch ends with {0}")]
    NotRegistered(String),
    /// There is no such partition.
    #[error("there is no such partition")]
    NoPartition,
    /// The batch is too long for one CSV.
    #[error("the batch is too long for one answer")]
    TooLong,
    /// No provider is configured.
    #[error("no provider is configured")]
    NoProvider,
    /// What is stored cannot be read.
    #[error("what is stored of the batch is damaged: {0}")]
    Damaged(String),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_doubt_grows_with_the_conflicts_and_shrinks_with_lost_answers() {
        let doubt = |conflicts, recovered, asked_again| {
            Progress { registered: 1000 - conflicts, conflicts, recovered, asked_again }.uncertain_probability()
        };
        assert_eq!(doubt(10, 0, 5), None);
        let few = doubt(10, 5, 10).unwrap();
        assert!((0.015..0.03).contains(&few), "{few}");
        assert!(doubt(100, 5, 10).unwrap() > few);
        assert!(doubt(10, 5, 100).unwrap() > few);
        assert!(doubt(0, 5, 10).unwrap() > 0.0);
        assert!(doubt(1000, 5, 500).unwrap() <= 1.0);
    }

    #[test]
    fn a_size_is_a_whole_number_from_one_to_a_million() {
        let read = serde_json::from_str::<BatchSize>;
        assert_eq!(read("1000000").unwrap(), BatchSize(1_000_000));
        for bad in ["0", "-1", "1.5", "\"ten\"", "1000000000", "1e99", "null", "[]", "true"] {
            assert!(read(bad).unwrap_err().to_string().contains("1 to 1000000"), "{bad}");
        }
    }
}
