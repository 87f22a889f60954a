//! What is left out, and why.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Why something is not offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = DeviceLeftOutReason)]
pub enum Reason {
    /// The vendor's entry cannot be read, or is there twice.
    UnusableEntry,
    /// A plan that is something else, such as `bandwidth`.
    NotAServer,
    /// The plan has no price for an hour.
    NoPrice,
    /// The plan is only reserved or auctioned.
    NotOnDemand,
    /// There is nothing with this name.
    Unknown,
    /// Another one was asked for.
    NotAskedFor,
    /// It costs more than was asked for.
    TooExpensive,
    /// It has less memory or fewer cores than was asked for.
    TooSmall,
    /// The vendor does not say how much memory or how many cores it has.
    SizeUnknown,
    /// The facility lacks a feature.
    FeatureMissing,
    /// The operating system cannot be installed on the plan.
    NotInstallable,
    /// The facility does not have the plan.
    NotAvailable,
    /// The vendor has none left.
    CapacityUnavailable,
    /// It was tried for this device, and the vendor had none left.
    OutOfCapacity,
    /// It was tried for this device, and the vendor refused it.
    Refused,
    /// It was tried for this device, and did not come up.
    Failed,
}

/// Something that is not offered.
///
/// It names what the reason was decided by: a facility alone where it lacks a feature, a plan and a
/// facility where nothing of the plan is free there. Operating systems and facilities that a plan
/// lacks are told once for the plan, and the text names them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = DeviceLeftOut)]
pub struct LeftOut {
    /// The operating system, by its slug.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub os: Option<String>,
    /// The plan, by its slug.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<String>,
    /// The facility, by its code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub facility: Option<String>,
    /// For programs.
    pub reason: Reason,
    /// For people, such as `c3.small.x86 in ams1: capacity unavailable`.
    pub text: String,
}

impl LeftOut {
    pub(crate) fn os(os: &str, reason: Reason, words: impl fmt::Display) -> Self {
        Self { os: Some(os.to_owned()), plan: None, facility: None, reason, text: format!("{os}: {words}") }
    }

    pub(crate) fn plan(plan: &str, reason: Reason, words: impl fmt::Display) -> Self {
        Self { os: None, plan: Some(plan.to_owned()), facility: None, reason, text: format!("{plan}: {words}") }
    }

    pub(crate) fn facility(facility: &str, reason: Reason, words: impl fmt::Display) -> Self {
        Self { os: None, plan: None, facility: Some(facility.to_owned()), reason, text: format!("{facility}: {words}") }
    }

    /// A metro has no field of its own; the words name it.
    pub(crate) fn metro(metro: &str, reason: Reason, words: impl fmt::Display) -> Self {
        Self { os: None, plan: None, facility: None, reason, text: format!("metro {metro}: {words}") }
    }

    pub(crate) fn pair(plan: &str, facility: &str, reason: Reason, words: impl fmt::Display) -> Self {
        Self {
            os: None,
            plan: Some(plan.to_owned()),
            facility: Some(facility.to_owned()),
            reason,
            text: format!("{plan} in {facility}: {words}"),
        }
    }

    pub(crate) fn combination(os: &str, plan: &str, facility: &str, reason: Reason, words: impl fmt::Display) -> Self {
        Self {
            os: Some(os.to_owned()),
            plan: Some(plan.to_owned()),
            facility: Some(facility.to_owned()),
            reason,
            text: format!("{os} on {plan} in {facility}: {words}"),
        }
    }
}

/// `a, b, c and 4 more`.
pub(crate) fn some_of<'a>(names: impl ExactSizeIterator<Item = &'a str>) -> String {
    const SHOWN: usize = 5;
    let more = names.len().saturating_sub(SHOWN);
    let shown = names.take(SHOWN).collect::<Vec<_>>().join(", ");
    if more == 0 { shown } else { format!("{shown} and {more} more") }
}
