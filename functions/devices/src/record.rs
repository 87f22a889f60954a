//! The diagnostic record of an attempt: what is kept of it besides its time line, so that somebody can
//! tell afterwards why it failed.
//!
//! Everything in it is bounded, in number and in bytes, and nothing secret can be in it: a root
//! password is never read, the vendor's words about a token are not kept, and those that repeat the
//! userdata are replaced where they are read.

use http::StatusCode;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::device::{Attempt, cut, cut_name};

/// Most states that are kept with an attempt: those that came first.
pub const MOST_STATES: usize = 16;
/// Most answers that are kept with an attempt: those that came last.
pub const MOST_ANSWERS: usize = 8;

/// A state of a machine, by the vendor's word.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = DeviceStateSeen)]
pub struct StateSeen {
    /// The vendor's word, such as `provisioning`.
    pub state: String,
    /// When it was first seen, by our clock.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
}

/// How a machine is, by the vendor's diagnosis.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = DeviceHealth)]
pub struct Health {
    /// The vendor's word: `ok`, `warning` or `critical`; other vendors may have others.
    pub rollup: String,
    /// When it was asked for it.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
}

/// An answer of the vendor's. The same answer to the same request is kept once, as it first came.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = DeviceVendorAnswer)]
pub struct VendorAnswer {
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// What was asked for, such as `POST /projects/…/devices`. Where a look takes several requests, the
    /// first of them.
    pub request: String,
    /// The status of the answer; none where there was no whole answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 100, maximum = 599)]
    pub status: Option<u16>,
    /// The vendor's words where it refused, else what the answer said.
    pub text: String,
}

impl Attempt {
    /// The vendor has this word for its machine. What comes after the attempt's end is not part of it.
    pub fn saw(&mut self, state: &str, now: Timestamp) {
        let known = self.states.iter().any(|it| it.state == state);
        if !known && self.ended_at.is_none() && self.states.len() < MOST_STATES {
            self.states.push(StateSeen { state: cut_name(state), at: now });
        }
    }

    /// The vendor has answered this.
    pub fn heard(&mut self, now: Timestamp, request: &str, status: Option<StatusCode>, text: &str) {
        let status = status.map(|status| status.as_u16());
        let answer = VendorAnswer { at: now, request: request.to_owned(), status, text: cut(text) };
        let before = self.last_answers.iter().rfind(|it| it.request == answer.request);
        if before.is_some_and(|it| (it.status, &it.text) == (answer.status, &answer.text)) {
            return;
        }
        if self.last_answers.len() >= MOST_ANSWERS {
            self.last_answers.remove(0);
        }
        self.last_answers.push(answer);
    }
}
