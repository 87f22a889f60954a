//! The life of a device without a vendor and without a store: what follows from what.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod any;
mod cases;
mod cost;
mod record;

use devices::{
    catalog::{Level, Price},
    device::{Device, Machine},
    machine::{Action, Ctx, Deletion, Diagnosis, Effects, Next, Observation, Outcome, apply, next},
    request::Request,
    select::Candidate,
    vendor::{Said, Seen, VendorError, VendorState},
};
use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

const NOON: Timestamp = Timestamp::constant(1_800_000_000, 0);
const ME: Uuid = Uuid::from_u128(1);

fn ctx(seconds: i64) -> Ctx {
    Ctx {
        now: NOON + SignedDuration::from_secs(seconds),
        me: ME,
        timeout: SignedDuration::from_secs(10),
        claim: SignedDuration::from_secs(20),
        dead_mans_switch: true,
    }
}

fn device(request: Request) -> Device {
    Device::new(Uuid::from_u128(7), "t".to_owned(), request, false, NOON)
}

fn candidate(facility: &str) -> Candidate {
    Candidate {
        os: "debian_12".to_owned(),
        plan: "c3.small.x86".to_owned(),
        facility: facility.to_owned(),
        metro: None,
        price: Price::from_dollars(0.5).unwrap(),
        level: Level::Normal,
        recent_failures: 0,
        held_until: None,
    }
}

fn seen(id: &str, state: VendorState) -> Seen {
    Seen {
        machine: Machine {
            id: id.to_owned(),
            state: format!("{state:?}"),
            hostname: None,
            created_at: None,
            termination_time: None,
            addresses: Vec::new(),
        },
        state,
        tags: Vec::new(),
        percent: Some(10),
        events: Vec::new(),
        locked: false,
        status: StatusCode::OK,
    }
}

fn refused(status: u16) -> VendorError {
    let (status, text) = (StatusCode::from_u16(status).unwrap(), "no".to_owned());
    match status.as_u16() {
        401 | 403 => VendorError::Denied { status, text },
        500.. => VendorError::Broken { status, text },
        _ => VendorError::Refused { status, text },
    }
}

fn said(status: u16, text: &str) -> Said {
    Said { status: StatusCode::from_u16(status).unwrap(), text: text.to_owned() }
}

fn observed(mut all: Vec<Seen>) -> Outcome {
    let mine = (!all.is_empty()).then(|| all.remove(0));
    Outcome::Observed(Ok(Observation { mine, others: all, missing: None }))
}

/// The vendor has agreed to delete a machine.
fn deleted(id: &str) -> Deletion {
    Deletion { id: id.to_owned(), said: Ok(StatusCode::NO_CONTENT) }
}

/// A diagnosis of a vendor that knows of no events, and tells of no health.
fn nothing_told() -> Outcome {
    Outcome::Diagnosed(Diagnosis { events: Ok((StatusCode::OK, Vec::new())), health: Ok(None) })
}

/// Takes a step that must be this action.
fn step(device: &mut Device, seconds: i64, action: Action, outcome: Outcome) -> Effects {
    let ctx = ctx(seconds);
    assert_eq!(next(device, &ctx), Next::Do(action), "{device:#?}");
    apply(device, outcome, &ctx)
}

fn chosen(device: &mut Device, seconds: i64, facility: &str) {
    step(device, seconds, Action::Select, Outcome::Selected(Ok(Ok(candidate(facility)))));
}

/// A device whose machine is being installed.
fn provisioning(request: Request) -> Device {
    let mut device = device(request);
    chosen(&mut device, 0, "ewr1");
    step(&mut device, 0, Action::Create, Outcome::Created(Ok(seen("a", VendorState::Coming))));
    device
}
