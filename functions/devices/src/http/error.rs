//! What can be wrong with a request about devices, and how its sender is told.

use http::StatusCode;
use kit::{dynamo::StoreError, problem::Problem};
use thiserror::Error;

use super::COLLECTION;
use crate::{
    config::{PROJECT, TOKEN, URL},
    device::State,
    request::Wrong,
    seal::SealError,
    select::Impossible,
    supply::SupplyError,
    vendor::VendorError,
};

/// Most things that are said at once: more is not read.
const MOST_ERRORS: usize = 10;
/// After so many seconds it may be worth to ask an absent vendor again.
const VENDOR_PAUSE: u64 = 5;
/// The same where somebody must change a setting first.
const SETTING_PAUSE: u64 = 60;

/// Why a request is not done.
#[derive(Debug, Error)]
pub(crate) enum DeviceError {
    #[error("{0:?} is no id")]
    NotAnId(String),
    #[error("there is no such device")]
    NotFound,
    #[error("{0} is not set")]
    NotConfigured(&'static str),
    #[error("{TOKEN} cannot be read")]
    TokenUnreadable,
    #[error("the body has values that are not allowed")]
    Invalid(Vec<Wrong>),
    #[error("nothing fits")]
    Impossible(Impossible),
    #[error("it is {0:?}, not active")]
    NotActive(State),
    #[error("the vendor no longer has its machine")]
    Gone,
    #[error("the vendor refused it: {0}")]
    Refused(String),
    #[error("others keep writing it")]
    Busy,
    #[error("its userdata cannot be opened")]
    Foreign,
    #[error(transparent)]
    Vendor(#[from] VendorError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<SupplyError> for DeviceError {
    fn from(error: SupplyError) -> Self {
        match error {
            SupplyError::Vendor(error) => error.into(),
            SupplyError::Store(error) => error.into(),
        }
    }
}

impl From<SealError> for DeviceError {
    fn from(error: SealError) -> Self {
        match error {
            SealError::NoToken => Self::NotConfigured(TOKEN),
            SealError::Unreadable => Self::TokenUnreadable,
            SealError::Foreign => Self::Foreign,
        }
    }
}

impl From<DeviceError> for Problem {
    fn from(error: DeviceError) -> Self {
        match error {
            DeviceError::NotAnId(id) => {
                Self::bad_request(format!("{id:?} is no device id. Ids are UUIDs; GET {COLLECTION} lists them."))
            }
            DeviceError::NotFound => Self::not_found(format!("There is no such device. GET {COLLECTION} lists them.")),
            DeviceError::NotConfigured(setting) => Self::not_configured(setting).detail(to_set(setting)),
            DeviceError::TokenUnreadable => {
                Self::unavailable(format!("{TOKEN} cannot be read at present. The log says why; try again."), 10)
            }
            DeviceError::Invalid(wrong) => {
                listed(Self::invalid("See `errors` for what to change."), wrong, "See `errors` for what to change")
            }
            DeviceError::Impossible(impossible) => {
                let words: Vec<_> = impossible.obstacles.iter().map(|it| it.detail.as_str()).collect();
                let all = format!("Nothing that the vendor has is all of this: {}.", words.join("; "));
                let problem =
                    Self::new(StatusCode::UNPROCESSABLE_ENTITY, "nothing-fits", "No machine meets these requirements");
                let errors = impossible.obstacles.iter().map(|it| (it.pointer.to_owned(), it.detail.clone())).collect();
                listed(problem.detail(all), errors, "See `errors` for the requirements that leave nothing")
            }
            DeviceError::NotActive(state) => not_active(state),
            DeviceError::Gone => {
                Self::new(StatusCode::CONFLICT, "machine-gone", "The vendor no longer has the machine").detail(
                    "Within a quarter of an hour the device will say so by itself. DELETE it, or ask for another.",
                )
            }
            DeviceError::Refused(text) => Self::new(StatusCode::CONFLICT, "vendor-refused", "The vendor refused it")
                .detail(format!("It says: {text}")),
            DeviceError::Busy => Self::new(StatusCode::CONFLICT, "busy", "The device is being changed by others")
                .detail("Nothing was done. Send the same request again in a second.")
                .retry_after(1),
            DeviceError::Foreign => {
                tracing::error!("userdata that was just sealed cannot be opened");
                Self::internal()
            }
            DeviceError::Vendor(error) => of_vendor(error),
            DeviceError::Store(error) => error.into(),
        }
    }
}

fn to_set(setting: &str) -> String {
    let what = match setting {
        URL => "the base URL of the device API",
        PROJECT => "the id of the project at the vendor whose machines these are to be",
        _ => "a token of the vendor's that may use the project",
    };
    format!("Set {setting} to {what}, and start again.")
}

/// Some of the errors; where that is not all of them, it says so.
fn listed(mut problem: Problem, errors: Vec<Wrong>, words: &str) -> Problem {
    let more = errors.len().saturating_sub(MOST_ERRORS);
    if more > 0 {
        problem = problem.detail(format!("{words}, of which there are {more} more."));
    }
    errors.into_iter().take(MOST_ERRORS).fold(problem, |problem, (pointer, words)| problem.error(pointer, words))
}

fn not_active(state: State) -> Problem {
    let what = match state {
        State::Requested | State::Creating | State::Provisioning => {
            "It is not up yet: GET it with `Prefer: wait=20` until its state is Active."
        }
        State::Deleting => "It is being taken down: ask for another one.",
        // A device that is up can only have become so after it was looked at.
        State::Active => "It has only just come up: send the same request again.",
        State::Deleted | State::Failed => "There is no machine any more: ask for another one.",
    };
    Problem::new(StatusCode::CONFLICT, "not-active", "The device is not active")
        .detail(format!("Its state is {}. {what}", state.as_str()))
}

/// Without the vendor's words: those about a refused token may have the token in them.
fn of_vendor(error: VendorError) -> Problem {
    match error {
        VendorError::Upstream(error) => {
            tracing::warn!(%error, "the vendor gave no answer that can be used");
            Problem::unavailable("The vendor gave no answer that can be used. Try again.", VENDOR_PAUSE)
        }
        VendorError::Broken { status, .. } => {
            Problem::unavailable(format!("The vendor answered {status}. Try again."), VENDOR_PAUSE)
        }
        VendorError::Limited { retry_after } => {
            let seconds = retry_after.map_or(VENDOR_PAUSE, |wait| wait.as_secs().clamp(1, 3600));
            Problem::unavailable("The vendor asks for fewer requests. Try again later.", seconds)
        }
        VendorError::Denied { status, .. } => {
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "vendor-denied", "The vendor does not accept our token")
                .detail(format!(
                    "It answered {status}. Set {TOKEN} to a token that is valid and may use the project that {PROJECT} \
                     names."
                ))
                .retry_after(SETTING_PAUSE)
        }
        VendorError::NotFound(_) => {
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "unknown-project", "The vendor does not know our project")
                .detail(format!(
                    "Set {PROJECT} to the id of a project of the token, and {URL} to the base URL of the device API."
                ))
                .retry_after(SETTING_PAUSE)
        }
        // Whoever only asks for a catalogue is refused by something that is no device API.
        VendorError::OutOfCapacity(_) | VendorError::Quota(_) | VendorError::Place(_) | VendorError::Refused { .. } => {
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "vendor-unusable", "The vendor cannot be used")
                .detail(format!("It refuses to tell its catalogue. Set {URL} to the base URL of the device API."))
                .retry_after(SETTING_PAUSE)
        }
    }
}
