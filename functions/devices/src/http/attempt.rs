//! All that is kept of one attempt.

use axum::extract::State;
use kit::{access::Caller, json::PathParams, problem::Problem};
use uuid::Uuid;

use super::{COLLECTION, Devices, parse_id};
use crate::views::{AttemptRecord, record};

/// The diagnostic record of an attempt.
///
/// Its combination, times, outcome and machine; the states that the vendor gave it, its health where the
/// vendor tells, the vendor's last answers, the whole time line, and what it cost.
#[utoipa::path(
    get, path = "/api/v1/devices/{id}/attempts/{number}", operation_id = "show_device_attempt", tag = "devices",
    params(("id" = Uuid, Path), ("number" = u32, Path, minimum = 1, description = "The first attempt is 1")),
    responses(
        (status = 200, body = AttemptRecord),
        (status = 400, description = "No id, or no number", body = Problem),
        (status = 404, description = "No such device, or no such attempt of it", body = Problem),
    ),
    security(("key" = ["devices:read"]))
)]
pub(super) async fn attempt(
    State(devices): State<Devices>,
    caller: Caller,
    PathParams((id, number)): PathParams<(String, String)>,
) -> Result<axum::Json<AttemptRecord>, Problem> {
    let id = parse_id(&id)?;
    let number = parse_number(&number)?;
    let whole = devices.whole(&caller, id).await?;
    let found = record(&whole, number, devices.clock.now());
    found.map(axum::Json).ok_or_else(|| no_such(id, number, whole.device.attempts()))
}

fn parse_number(text: &str) -> Result<u32, Problem> {
    // One spelling only: digits.
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits).ok_or_else(|| {
        let shown: String = text.chars().take(64).collect();
        Problem::bad_request(format!(
            "{shown:?} is no number of an attempt. They count from 1; GET {COLLECTION}/{{id}} lists them."
        ))
    })
}

fn no_such(id: Uuid, number: u32, attempts: u32) -> Problem {
    let there = match attempts {
        0 => "it has made none yet".to_owned(),
        1 => "it has made one, 1".to_owned(),
        most => format!("it has made {most}, from 1 to {most}"),
    };
    Problem::not_found(format!("The device has made no attempt {number}: {there}. GET {COLLECTION}/{id} lists them."))
}
