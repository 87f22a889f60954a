//! The life of a device, one step at a time: what is to be done next, and what follows from how it went.
//!
//! Pure. [`next`] reads a record and names one [`Action`]; whoever carries it out hands the [`Outcome`]
//! to [`apply`], which changes the record, and writes that before it asks for the next action. So
//! whatever is asked of the vendor is announced in the store beforehand: the right to send one request
//! to create is a [`Claim`], written before it is sent, and after a crash, or without an answer, the
//! tag is looked up before there is another claim.

mod launch;
mod teardown;
mod watch;

use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use self::{
    launch::{answered, chosen, claimed, looked_up},
    teardown::{begin_deletion, end, give_up, torn_down},
    watch::{diagnosed, observed_now, switched_off},
};
use crate::{
    device::{Attempt, Code, Device, Event, Reason, Stage, State, Then, cut},
    select::Candidate,
    vendor::{Seen, VendorError},
};

/// How much later than the last moment of an installation the dead man's switch takes a machine down.
pub const SWITCH_MARGIN: SignedDuration = SignedDuration::from_hours(1);
/// A teardown that takes longer is overdue: no other combination is tried after it.
pub const TEARDOWN_OVERDUE: SignedDuration = SignedDuration::from_mins(10);
/// The vendor is asked again to delete what it said it would.
pub const DELETE_AGAIN: SignedDuration = SignedDuration::from_secs(30);

/// What a step goes by besides the record.
#[derive(Debug, Clone, Copy)]
pub struct Ctx {
    /// The present time.
    pub now: Timestamp,
    /// Names this stretch of work on this device, and no other: its claims are its own.
    pub me: Uuid,
    /// How long a request may take.
    pub timeout: SignedDuration,
    /// For how long nobody else may send a request to create: longer than one may take.
    pub claim: SignedDuration,
    /// Whether machines get a termination time until they are up.
    pub dead_mans_switch: bool,
}

/// What is to be done next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// This, now.
    Do(Action),
    /// Nothing before then.
    Wait(Timestamp),
    /// Nothing.
    Settled,
}

/// Something to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Choose a combination.
    Select,
    /// Write the right to create once more.
    Claim,
    /// Ask the vendor for the machine, once.
    Create,
    /// Look for machines with our tag.
    LookUp,
    /// See how the machine is, and whether it is the only one with our tag.
    Observe,
    /// Take down the others with our tag.
    RemoveTwins,
    /// Tell the vendor that the machine is to stay.
    SwitchOff,
    /// Ask the vendor what happened to the machine.
    Diagnose,
    /// Take down whatever has our tag, and see what is left.
    TearDown,
}

/// How an action went.
#[derive(Debug)]
pub enum Outcome {
    /// [`Action::Select`]: the best combination that is left, or why there is none.
    Selected(Result<Result<Candidate, String>, VendorError>),
    /// [`Action::Claim`].
    Claimed,
    /// [`Action::Create`].
    Created(Result<Seen, VendorError>),
    /// What is needed to create cannot be used any more.
    Unusable(String),
    /// [`Action::LookUp`].
    LookedUp(Result<Vec<Seen>, VendorError>),
    /// [`Action::Observe`].
    Observed(Result<Observation, VendorError>),
    /// [`Action::RemoveTwins`].
    TwinsRemoved(Result<(), VendorError>),
    /// [`Action::SwitchOff`].
    SwitchedOff(Result<Option<Seen>, VendorError>),
    /// [`Action::Diagnose`].
    Diagnosed(Diagnosis),
    /// [`Action::TearDown`].
    TornDown(Result<Teardown, VendorError>),
}

/// What is seen of a device of ours.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Observation {
    /// The machine we know of; none if it is gone.
    pub mine: Option<Seen>,
    /// Others with our tag that are not gone.
    pub others: Vec<Seen>,
    /// The status with which it was said, where it was, that there is no such machine.
    pub missing: Option<StatusCode>,
}

/// What the vendor tells of a machine that is to go.
#[derive(Debug)]
pub struct Diagnosis {
    /// What happened to it, and the status of that answer.
    pub events: Result<(StatusCode, Vec<Event>), VendorError>,
    /// How it is; nothing where the vendor does not offer that.
    pub health: Result<Option<String>, VendorError>,
}

/// What the vendor said to a request to delete.
#[derive(Debug, Clone, PartialEq)]
pub struct Deletion {
    /// The machine.
    pub id: String,
    /// The status of a success, or of its not being there; else why not.
    pub said: Result<StatusCode, VendorError>,
}

/// What is left of a device of ours.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Teardown {
    /// Machines that the vendor still has.
    pub left: Vec<Seen>,
    /// The requests to delete them just now.
    pub deletions: Vec<Deletion>,
    /// The status with which it was said, where it was, that there is no such machine.
    pub missing: Option<StatusCode>,
}

impl Teardown {
    /// Whether the vendor has agreed to delete one of them.
    fn was_asked(&self) -> bool {
        self.deletions.iter().any(|deletion| deletion.said.as_ref().is_ok_and(StatusCode::is_success))
    }

    /// What it said against that, last.
    fn refused(&self) -> Option<String> {
        self.deletions.iter().rev().find_map(|deletion| Some(deletion.said.as_ref().err()?.to_string()))
    }
}

/// What follows from a step, besides the changed record.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Effects {
    /// Whether the next step can be taken at once; else after a polling interval.
    pub at_once: bool,
    /// An attempt that has ended.
    pub closed: Option<Attempt>,
    /// A combination that failed, to be remembered for all devices.
    pub failed: Option<Reason>,
    /// Whether the combination has worked, so that nothing need be remembered against it.
    pub worked: bool,
}

impl Effects {
    fn at_once() -> Self {
        Self { at_once: true, ..Self::default() }
    }
}

/// What is to be done for a device.
pub fn next(device: &Device, ctx: &Ctx) -> Next {
    let after = |at: Timestamp, action| if ctx.now < at { Next::Wait(at) } else { Next::Do(action) };
    match &device.stage {
        Stage::Requested { not_before, .. } => after(*not_before, Action::Select),
        // Only while nobody else can hold the claim before this request has ended.
        Stage::Creating { claim, .. } if claim.by == ctx.me && ctx.now + ctx.timeout <= claim.until => {
            Next::Do(Action::Create)
        }
        Stage::Creating { claim, look_up, not_before, .. } => {
            after(claim.until.max(*not_before), if *look_up { Action::LookUp } else { Action::Claim })
        }
        Stage::Provisioning => Next::Do(match &device.attempt {
            Some(attempt) if !attempt.twins.is_empty() => Action::RemoveTwins,
            Some(attempt) if attempt.alone && attempt.switch.is_some() => Action::SwitchOff,
            _ => Action::Observe,
        }),
        Stage::Deleting { not_before, diagnosed, .. } => {
            let diagnose = !diagnosed && device.machine_id().is_some();
            after(*not_before, if diagnose { Action::Diagnose } else { Action::TearDown })
        }
        Stage::Active | Stage::Deleted | Stage::Failed => Next::Settled,
    }
}

/// Changes the record as the outcome of an action says.
pub fn apply(device: &mut Device, outcome: Outcome, ctx: &Ctx) -> Effects {
    match outcome {
        Outcome::Selected(selected) => chosen(device, selected, ctx),
        Outcome::Claimed => claimed(device, ctx),
        Outcome::Created(created) => answered(device, created, ctx),
        Outcome::Unusable(why) => give_up(device, Reason::new(Code::Unusable, why), ctx),
        Outcome::LookedUp(found) => looked_up(device, found, ctx),
        Outcome::Observed(observed) => observed_now(device, observed, ctx),
        Outcome::TwinsRemoved(result) => {
            let Some(attempt) = &mut device.attempt else { return Effects::default() };
            let twins = std::mem::take(&mut attempt.twins);
            attempt.trouble = result.as_ref().err().map(|error| cut(&error.to_string()));
            let text = match result {
                Ok(()) => format!("asked the vendor to delete {}: they carry our tag too", twins.join(", ")),
                Err(error) => format!("{} could not be deleted: {error}", twins.join(", ")),
            };
            device.note(ctx.now, "twin", text);
            Effects::default()
        }
        Outcome::SwitchedOff(result) => switched_off(device, result, ctx),
        Outcome::Diagnosed(diagnosis) => diagnosed(device, diagnosis, ctx),
        Outcome::TornDown(result) => torn_down(device, result, ctx),
    }
}

/// Somebody wants the device to be gone. Answers whether there is anything left to do, and so
/// whether the record has changed.
pub fn ask_delete(device: &mut Device, now: Timestamp) -> bool {
    let asked = Reason::new(Code::Deleted, "its deletion was asked for");
    match &mut device.stage {
        Stage::Deleted | Stage::Failed | Stage::Deleting { then: Then::Deleted, .. } => return false,
        Stage::Deleting { then, .. } => *then = Then::Deleted,
        Stage::Requested { .. } if device.attempt.is_none() => {
            device.delete_asked_at = Some(now);
            device.revision += 1;
            end(device, Stage::Deleted, asked, now);
            return true;
        }
        // A request to create may be under way: nobody looks for its machine before it has come.
        Stage::Creating { claim, .. } => {
            let not_before = claim.until;
            if let Some(attempt) = &mut device.attempt {
                attempt.doubtful = true;
            }
            begin_deletion(device, Then::Deleted, now, not_before);
        }
        Stage::Requested { .. } | Stage::Provisioning | Stage::Active => {
            begin_deletion(device, Then::Deleted, now, now);
        }
    }
    if let Some(attempt) = &mut device.attempt
        && attempt.ended_at.is_none()
        && attempt.reason.is_none()
    {
        attempt.reason = Some(asked.clone());
    }
    device.note(now, State::Deleting.as_str(), &asked.detail);
    device.reason = Some(asked);
    device.delete_asked_at = Some(now);
    device.revision += 1;
    true
}

/// The vendor no longer has a machine that was up, or its time has come: what is left of it goes.
pub fn lost(device: &mut Device, code: Code, detail: &str, now: Timestamp) {
    if device.stage == Stage::Active {
        let reason = Reason::new(code, detail);
        device.note(now, State::Deleting.as_str(), &reason.detail);
        device.reason = Some(reason);
        begin_deletion(device, Then::Deleted, now, now);
        device.revision += 1;
    }
}

/// The requests of the vendor's API as a record names them.
mod asked {
    pub const CREATE: &str = "POST /projects/…/devices";
    pub const LOOK: &str = "GET /projects/…/devices";

    pub fn machine(id: &str) -> String {
        format!("GET /devices/{id}")
    }

    pub fn events(id: &str) -> String {
        format!("GET /devices/{id}/events")
    }

    pub fn health(id: &str) -> String {
        format!("GET /devices/{id}/diagnostics/health/rollup")
    }

    pub fn delete(id: &str) -> String {
        format!("DELETE /devices/{id}")
    }
}

/// Keeps an answer of the vendor's with the present attempt.
fn keep(device: &mut Device, ctx: &Ctx, request: &str, answer: Result<(StatusCode, &str), &VendorError>) {
    let Some(attempt) = &mut device.attempt else { return };
    match answer {
        Ok((status, text)) => attempt.heard(ctx.now, request, Some(status), text),
        Err(error) => attempt.heard(ctx.now, request, error.status(), &error.words()),
    }
}

fn seconds(duration: SignedDuration) -> String {
    format!("{} s", duration.as_secs())
}
