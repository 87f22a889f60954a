//! The life of a device, one step at a time: what is to be done next, and what follows from how it went.
//!
//! Pure. [`next`] reads a record and names one [`Action`]; whoever carries it out hands the [`Outcome`]
//! to [`apply`], which changes the record, and writes that before it asks for the next action. So
//! whatever is asked of the vendor is announced in the store beforehand: the right to send one request
//! to create is a [`Claim`], written before it is sent, and after a crash, or without an answer, the
//! tag is looked up before there is another claim.

use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use crate::{
    device::{Attempt, Claim, Code, Device, Event, Failed, MOST_EVENTS, Reason, Source, Stage, State, Then, push},
    select::{Candidate, NotAgain},
    vendor::{Seen, VendorError, VendorState},
};

/// How much later than the last moment of an installation the dead man's switch takes a machine down.
pub const SWITCH_MARGIN: SignedDuration = SignedDuration::from_hours(1);
/// A teardown that takes longer is overdue: no other combination is tried after it.
pub const TEARDOWN_OVERDUE: SignedDuration = SignedDuration::from_mins(10);
/// The vendor is asked again to delete what it said it would.
pub const DELETE_AGAIN: SignedDuration = SignedDuration::from_secs(30);
/// Longest wait before something is tried again.
const LONGEST_BACKOFF: SignedDuration = SignedDuration::from_secs(60);

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
    Diagnosed(Result<Vec<Event>, VendorError>),
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
}

/// What is left of a device of ours.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Teardown {
    /// Machines that the vendor still has.
    pub left: Vec<Seen>,
    /// Whether it was asked to delete one of them just now.
    pub asked: bool,
    /// What it said against that.
    pub refused: Option<String>,
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
            Some(attempt) if attempt.up_at.is_some() && attempt.switch.is_some() => Action::SwitchOff,
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
            attempt.trouble = result.as_ref().err().map(ToString::to_string);
            let text = match result {
                Ok(()) => format!("asked the vendor to delete {}: they carry our tag too", twins.join(", ")),
                Err(error) => format!("{} could not be deleted: {error}", twins.join(", ")),
            };
            device.note(ctx.now, "twin", text);
            Effects::default()
        }
        Outcome::SwitchedOff(result) => switched_off(device, result, ctx),
        Outcome::Diagnosed(result) => {
            match (result, &mut device.attempt) {
                (Ok(events), Some(attempt)) => _ = merge(attempt, events),
                (Err(error), _) => device.note(ctx.now, "diagnosis", format!("no events could be had: {error}")),
                _ => {}
            }
            if let Stage::Deleting { diagnosed, .. } = &mut device.stage {
                *diagnosed = true;
            }
            Effects::at_once()
        }
        Outcome::TornDown(result) => torn_down(device, result, ctx),
    }
}

/// Somebody wants the device to be gone. Answers whether there is anything left to do, and so
/// whether the record has changed.
pub fn ask_delete(device: &mut Device, now: Timestamp) -> bool {
    let asked = Reason::new(Code::Deleted, "its deletion was asked for");
    match &mut device.stage {
        Stage::Deleted | Stage::Failed => return false,
        Stage::Deleting { then: Then::Deleted, .. } => return false,
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

fn chosen(device: &mut Device, selected: Result<Result<Candidate, String>, VendorError>, ctx: &Ctx) -> Effects {
    let Stage::Requested { tries, .. } = device.stage else { return Effects::default() };
    match selected {
        Ok(Ok(candidate)) => {
            if ctx.now >= device.give_up_at {
                return give_up(device, too_late(device), ctx);
            }
            let longest = SignedDuration::from_secs(device.request.provision_timeout_seconds.into());
            let switch =
                (ctx.dead_mans_switch && device.terminates_at().is_none()).then(|| ctx.now + longest + SWITCH_MARGIN);
            let attempt = Attempt {
                number: device.attempts() + 1,
                candidate,
                started_at: ctx.now,
                ended_at: None,
                reason: None,
                machine: None,
                percent: 0,
                progress_at: ctx.now,
                up_at: None,
                switch,
                doubtful: false,
                twins: Vec::new(),
                trouble: None,
                events: Vec::new(),
            };
            let Candidate { os, plan, facility, .. } = &attempt.candidate;
            let text = format!("{os} on {plan} in {facility}");
            device.attempt = Some(attempt);
            device.reason = None;
            device.stage = Stage::Creating { claim: claim(ctx), look_up: true, not_before: ctx.now, tries: 0 };
            device.note(ctx.now, State::Creating.as_str(), text);
            Effects::at_once()
        }
        Ok(Err(nothing)) => give_up(device, Reason::new(Code::NothingLeft, nothing), ctx),
        Err(error) if error.is_passing() => {
            if ctx.now >= device.give_up_at {
                return give_up(device, Reason::new(Code::VendorAway, error.to_string()), ctx);
            }
            let wait = backoff(device.id, tries, &error);
            device.stage = Stage::Requested { not_before: ctx.now + wait, tries: tries + 1 };
            device.reason = Some(Reason::new(Code::VendorAway, error.to_string()));
            Effects::default()
        }
        Err(error) => {
            let reason = Reason::new(fatal(&error), error.to_string());
            give_up(device, reason, ctx)
        }
    }
}

fn claimed(device: &mut Device, ctx: &Ctx) -> Effects {
    if let Stage::Creating { claim: held, look_up, .. } = &mut device.stage {
        *held = claim(ctx);
        *look_up = true;
    }
    Effects::at_once()
}

/// The vendor has answered the request to create, or has not.
fn answered(device: &mut Device, created: Result<Seen, VendorError>, ctx: &Ctx) -> Effects {
    let error = match created {
        Ok(seen) => {
            have(device, seen, ctx, "created");
            return Effects::default();
        }
        Err(error) => error,
    };
    match &error {
        VendorError::OutOfCapacity(text) => fail_over(device, Reason::new(Code::OutOfCapacity, text), ctx),
        VendorError::Place(text) => fail_over(device, Reason::new(Code::CombinationRefused, text), ctx),
        error if error.is_passing() => {
            let unknown = error.maybe_processed();
            let text =
                if unknown { format!("{error}; whether it worked will be told by our tag") } else { error.to_string() };
            device.note(ctx.now, "create", &text);
            try_again(device, error, unknown, ctx)
        }
        error => {
            let reason = Reason::new(fatal(error), error.to_string());
            give_up(device, reason, ctx)
        }
    }
}

/// The same again later, unless it has taken too long.
fn try_again(device: &mut Device, error: &VendorError, unknown: bool, ctx: &Ctx) -> Effects {
    let (id, longest) = (device.id, SignedDuration::from_secs(device.request.provision_timeout_seconds.into()));
    let Some(attempt) = &mut device.attempt else { return Effects::default() };
    attempt.doubtful |= unknown;
    attempt.trouble = Some(error.to_string());
    let (doubtful, started_at) = (attempt.doubtful, attempt.started_at);
    if ctx.now.duration_since(started_at) >= longest {
        let reason = Reason::new(Code::VendorAway, format!("not created within the provisioning timeout: {error}"));
        return fail_over(device, reason, ctx);
    }
    if let Stage::Creating { claim, look_up, not_before, tries } = &mut device.stage {
        // The claim is used up.
        *claim = Claim { by: Uuid::nil(), until: ctx.now };
        *look_up = doubtful;
        *not_before = ctx.now + backoff(id, *tries, error);
        *tries += 1;
    }
    Effects::default()
}

fn looked_up(device: &mut Device, found: Result<Vec<Seen>, VendorError>, ctx: &Ctx) -> Effects {
    if let Some(attempt) = &mut device.attempt {
        // Whoever looks does not know whether a request was sent; it may even come later.
        attempt.doubtful = true;
    }
    match found {
        Ok(found) => {
            if let Some(oldest) = found.into_iter().filter(Seen::is_alive).min_by(by_age) {
                have(device, oldest, ctx, "found by its tag");
                return Effects::at_once();
            }
            if let Stage::Creating { look_up, .. } = &mut device.stage {
                *look_up = false;
            }
            Effects::at_once()
        }
        Err(error) => try_again(device, &error, true, ctx),
    }
}

/// There is a machine.
fn have(device: &mut Device, seen: Seen, ctx: &Ctx, how: &str) {
    let text = format!("{how}: {} is {}", seen.machine.id, seen.machine.state);
    if let Some(attempt) = &mut device.attempt {
        attempt.trouble = None;
        attempt.progress_at = ctx.now;
        update(attempt, seen, ctx.now);
    }
    device.stage = Stage::Provisioning;
    device.note(ctx.now, State::Provisioning.as_str(), text);
}

fn observed_now(device: &mut Device, observed: Result<Observation, VendorError>, ctx: &Ctx) -> Effects {
    let longest = SignedDuration::from_secs(device.request.provision_timeout_seconds.into());
    let stall = SignedDuration::from_secs(device.request.stall_timeout_seconds.into());
    let Some(attempt) = &mut device.attempt else { return Effects::default() };
    let in_all = ctx.now.duration_since(attempt.started_at);
    let Observation { mine, others } = match observed {
        Ok(observation) => observation,
        Err(error) => {
            let text = error.to_string();
            let is_new = attempt.trouble.as_ref() != Some(&text);
            attempt.trouble = Some(text.clone());
            // What cannot be seen cannot be said to have stalled; but nothing is paid for unseen for long.
            if in_all >= longest && attempt.up_at.is_none() {
                let text = format!("not up within {}, and not to be seen: {error}", seconds(longest));
                return fail_over(device, Reason::new(Code::TimedOut, text), ctx);
            }
            if is_new {
                device.note(ctx.now, "trouble", text);
            }
            return Effects::default();
        }
    };
    attempt.trouble = None;
    let known = attempt.machine.as_ref().map(|machine| machine.id.clone());
    let mut all: Vec<Seen> = mine.into_iter().chain(others).collect();
    all.sort_by(by_age);
    let mut all = all.into_iter();
    let Some(oldest) = all.next() else {
        return fail_over(device, Reason::new(Code::Reclaimed, "the vendor no longer has the machine"), ctx);
    };
    // Those on their way out need not be asked to go.
    attempt.twins = all.filter(|seen| seen.state != VendorState::Going).map(|seen| seen.machine.id).collect();
    let adopted = known.as_ref() != Some(&oldest.machine.id);
    let is_new_word = attempt.machine.as_ref().is_none_or(|machine| machine.state != oldest.machine.state);
    let (state, word, id) = (oldest.state, oldest.machine.state.clone(), oldest.machine.id.clone());
    if adopted {
        attempt.up_at = None;
    }
    let moved = update(attempt, oldest, ctx.now) || is_new_word || adopted;
    if moved {
        attempt.progress_at = ctx.now;
    }
    let still = ctx.now.duration_since(attempt.progress_at);
    let (twins, percent) = (!attempt.twins.is_empty(), attempt.percent);
    if adopted {
        device.note(ctx.now, "twin", format!("{id} is the oldest machine with our tag, so it is ours"));
    } else if is_new_word {
        device.note(ctx.now, "state", format!("the vendor says {word}"));
    }
    match state {
        VendorState::Active => {
            if let Some(attempt) = &mut device.attempt {
                attempt.up_at.get_or_insert(ctx.now);
                if twins || attempt.switch.is_some() && !device.request.ephemeral {
                    return Effects::at_once();
                }
            }
            up(device, ctx)
        }
        VendorState::Failed => fail_over(
            device,
            Reason::new(Code::ProvisioningFailed, format!("the vendor says {word} at {percent} %")),
            ctx,
        ),
        VendorState::Going | VendorState::Gone => {
            fail_over(device, Reason::new(Code::Reclaimed, format!("the vendor says {word} at {percent} %")), ctx)
        }
        VendorState::Coming | VendorState::Other if still >= stall => {
            let text = format!("nothing new for {} at {percent} %: the vendor says {word}", seconds(still));
            fail_over(device, Reason::new(Code::Stalled, text), ctx)
        }
        VendorState::Coming | VendorState::Other if in_all >= longest => {
            let text = format!("not up within {}: the vendor says {word} at {percent} %", seconds(longest));
            fail_over(device, Reason::new(Code::TimedOut, text), ctx)
        }
        VendorState::Coming | VendorState::Other => Effects { at_once: twins, ..Effects::default() },
    }
}

fn switched_off(device: &mut Device, result: Result<Option<Seen>, VendorError>, ctx: &Ctx) -> Effects {
    let Some(attempt) = &mut device.attempt else { return Effects::default() };
    let refused = match result {
        Ok(Some(seen)) if seen.machine.termination_time.is_some() => "it keeps its termination time".to_owned(),
        Ok(_) => {
            attempt.switch = None;
            attempt.trouble = None;
            if let Some(machine) = &mut attempt.machine {
                machine.termination_time = None;
            }
            return up(device, ctx);
        }
        Err(VendorError::NotFound(_)) => {
            // Looked at again: it may be gone.
            attempt.up_at = None;
            return Effects::default();
        }
        Err(error) if error.is_passing() || matches!(error, VendorError::Denied { .. }) => {
            attempt.trouble = Some(format!("its termination time could not be taken back: {error}"));
            return Effects::default();
        }
        Err(error) => error.to_string(),
    };
    // It is up, and whoever waits for it must know that it will not stay.
    let at = attempt.switch.map(|at| at.to_string()).unwrap_or_default();
    let text = format!("the vendor takes it down at {at}, and does not let that be changed: {refused}");
    attempt.trouble = Some(text.clone());
    device.note(ctx.now, "termination_time", text);
    up(device, ctx)
}

/// It is up, it is the only one, and it stays.
fn up(device: &mut Device, ctx: &Ctx) -> Effects {
    let Some(attempt) = &mut device.attempt else { return Effects::default() };
    let took = ctx.now.duration_since(attempt.started_at);
    attempt.ended_at = Some(ctx.now);
    attempt.reason = Some(Reason::new(Code::CameUp, format!("up after {}", seconds(took))));
    let closed = Some(attempt.clone());
    device.active_at = Some(ctx.now);
    device.reason = None;
    device.stage = Stage::Active;
    device.note(ctx.now, State::Active.as_str(), format!("up after {}", seconds(took)));
    if device.request.ephemeral {
        let reason = Reason::new(Code::Ephemeral, "it came up, and was asked for as ephemeral");
        device.note(ctx.now, State::Deleting.as_str(), &reason.detail);
        device.reason = Some(reason);
        begin_deletion(device, Then::Deleted, ctx.now, ctx.now);
        if let Stage::Deleting { diagnosed, .. } = &mut device.stage {
            // There is nothing to find out about a success.
            *diagnosed = true;
        }
    } else {
        device.ended_at = Some(ctx.now);
    }
    Effects { at_once: device.request.ephemeral, closed, worked: true, failed: None }
}

fn torn_down(device: &mut Device, result: Result<Teardown, VendorError>, ctx: &Ctx) -> Effects {
    let trouble = match result {
        Ok(Teardown { left, .. }) if left.is_empty() => return gone(device, ctx),
        Ok(Teardown { left, asked, refused }) => {
            if let Stage::Deleting { asked_at, .. } = &mut device.stage
                && asked
            {
                *asked_at = Some(ctx.now);
                let ids: Vec<_> = left.iter().map(|seen| seen.machine.id.as_str()).collect();
                device.note(ctx.now, "delete", format!("asked the vendor to delete {}", ids.join(", ")));
            }
            let locked = left.iter().any(|seen| seen.locked);
            refused.map(|text| if locked { format!("locked at the vendor; unlock it there: {text}") } else { text })
        }
        Err(error) => Some(error.to_string()),
    };
    let mut is_new = false;
    if let Some(attempt) = &mut device.attempt {
        is_new = trouble.is_some() && attempt.trouble != trouble;
        attempt.trouble.clone_from(&trouble);
    }
    if is_new {
        device.note(ctx.now, "trouble", trouble.unwrap_or_default());
    }
    if let Stage::Deleting { since, then, overdue, .. } = &mut device.stage
        && !*overdue
        && ctx.now.duration_since(*since) >= TEARDOWN_OVERDUE
    {
        *overdue = true;
        let stops = *then == Then::TryNext;
        if stops {
            *then = Then::Failed;
        }
        let what = if stops { "; no other combination is tried" } else { "" };
        let text = format!("the vendor has not confirmed within {} that it is gone{what}", seconds(TEARDOWN_OVERDUE));
        device.note(ctx.now, "overdue", &text);
        if stops {
            device.reason = Some(Reason::new(Code::TeardownUnconfirmed, text));
        }
    }
    Effects::default()
}

/// Nothing is left at the vendor.
fn gone(device: &mut Device, ctx: &Ctx) -> Effects {
    let Stage::Deleting { then, .. } = device.stage else { return Effects::default() };
    let closed = close(device, ctx.now, "the vendor has confirmed that nothing is left");
    let last = device.attempt.as_ref().and_then(|attempt| attempt.reason.clone());
    let last = last.map_or_else(|| "no reason is known".to_owned(), |reason| reason.detail);
    match then {
        Then::TryNext if device.attempts() >= device.request.max_attempts => {
            let text = format!("{} attempts have been made; the last one: {last}", device.attempts());
            end(device, Stage::Failed, Reason::new(Code::TooManyAttempts, text), ctx.now);
        }
        Then::TryNext if ctx.now >= device.give_up_at => {
            let reason = too_late(device);
            end(device, Stage::Failed, reason, ctx.now);
        }
        Then::TryNext => {
            device.stage = Stage::Requested { not_before: ctx.now, tries: 0 };
            return Effects { at_once: true, closed, ..Effects::default() };
        }
        Then::Failed => {
            let reason = device.reason.clone().unwrap_or_else(|| Reason::new(Code::Unusable, last));
            end(device, Stage::Failed, reason, ctx.now);
        }
        Then::Deleted => {
            let reason = device.reason.clone().unwrap_or_else(|| Reason::new(Code::Deleted, last));
            end(device, Stage::Deleted, reason, ctx.now);
        }
    }
    Effects { closed, ..Effects::default() }
}

/// This attempt is over: whatever there is of it goes, and then the next combination is tried.
fn fail_over(device: &mut Device, reason: Reason, ctx: &Ctx) -> Effects {
    let Some(attempt) = &mut device.attempt else { return Effects::default() };
    attempt.reason = Some(reason.clone());
    let candidate = attempt.candidate.clone();
    let untouched = attempt.machine.is_none() && !attempt.doubtful;
    let pair = match reason.code {
        Code::OutOfCapacity => Some(NotAgain::OutOfCapacity),
        Code::CombinationRefused => Some(NotAgain::Refused),
        _ => None,
    };
    let Candidate { os, plan, facility, .. } = candidate;
    device.failed.push(Failed { os, plan, facility, pair });
    device.note(ctx.now, "failed", &reason.detail);
    device.reason = Some(reason.clone());
    begin_deletion(device, Then::TryNext, ctx.now, ctx.now);
    // An outage says nothing about the combination.
    let failed = (reason.code != Code::VendorAway).then_some(reason);
    let effects = if untouched { gone(device, ctx) } else { Effects::at_once() };
    Effects { failed, ..effects }
}

/// No other combination would do either.
fn give_up(device: &mut Device, reason: Reason, ctx: &Ctx) -> Effects {
    let open = device.attempt.as_mut().filter(|attempt| attempt.ended_at.is_none());
    let untouched = open.as_ref().is_none_or(|attempt| attempt.machine.is_none() && !attempt.doubtful);
    if let Some(attempt) = open {
        attempt.reason = Some(reason.clone());
    }
    if untouched {
        let closed = close(device, ctx.now, &reason.detail);
        end(device, Stage::Failed, reason, ctx.now);
        return Effects { closed, ..Effects::default() };
    }
    device.note(ctx.now, "failed", &reason.detail);
    device.reason = Some(reason);
    begin_deletion(device, Then::Failed, ctx.now, ctx.now);
    Effects::at_once()
}

fn begin_deletion(device: &mut Device, then: Then, now: Timestamp, not_before: Timestamp) {
    let diagnosed = device.stage == Stage::Active;
    device.ended_at = None;
    device.stage = Stage::Deleting { then, since: now, not_before, asked_at: None, diagnosed, overdue: false };
    if let Some(attempt) = &mut device.attempt {
        attempt.twins.clear();
    }
}

/// Ends the attempt that is under way.
fn close(device: &mut Device, now: Timestamp, text: &str) -> Option<Attempt> {
    device.attempt.as_ref().filter(|attempt| attempt.ended_at.is_none())?;
    device.note(now, "ended", text);
    let attempt = device.attempt.as_mut()?;
    attempt.ended_at = Some(now);
    attempt.trouble = None;
    Some(attempt.clone())
}

fn end(device: &mut Device, stage: Stage, reason: Reason, now: Timestamp) {
    device.stage = stage;
    device.ended_at = Some(now);
    device.note(now, device.state().as_str(), &reason.detail);
    device.reason = Some(reason);
}

fn too_late(device: &Device) -> Reason {
    let last = device.reason.as_ref().map_or("none was begun", |reason| reason.detail.as_str());
    Reason::new(Code::TooLate, format!("no time is left for another attempt; the last one: {last}"))
}

fn claim(ctx: &Ctx) -> Claim {
    Claim { by: ctx.me, until: ctx.now + ctx.claim }
}

/// What is wrong when no other combination would do.
const fn fatal(error: &VendorError) -> Code {
    match error {
        VendorError::Denied { .. } => Code::Credentials,
        VendorError::Quota(_) => Code::Quota,
        _ => Code::BadRequest,
    }
}

/// Takes over what is seen of the machine; answers whether there is progress.
fn update(attempt: &mut Attempt, seen: Seen, now: Timestamp) -> bool {
    let percent = seen.percent.unwrap_or(attempt.percent);
    let moved = percent != attempt.percent;
    attempt.percent = percent;
    attempt.machine = Some(seen.machine);
    let merged = merge(attempt, seen.events);
    if moved || merged {
        attempt.progress_at = now;
    }
    moved || merged
}

/// Adds the vendor's events that are not known yet; answers whether there was one.
fn merge(attempt: &mut Attempt, events: Vec<Event>) -> bool {
    let before = attempt.events.len();
    for event in events {
        // A type may repeat; its id, or else its time, tells one from another.
        let known = attempt.events.iter().any(|known| {
            known.source == Source::Vendor
                && match (&known.id, &event.id) {
                    (Some(known), Some(id)) => known == id,
                    _ => known.kind == event.kind && known.at == event.at,
                }
        });
        if !known && attempt.events.len() < MOST_EVENTS {
            push(&mut attempt.events, event);
        }
    }
    attempt.events.len() > before
}

/// The oldest first; without times, by id, so that all who look agree.
fn by_age(a: &Seen, b: &Seen) -> std::cmp::Ordering {
    let key = |seen: &Seen| (seen.machine.created_at.unwrap_or(Timestamp::MAX), seen.machine.id.clone());
    key(a).cmp(&key(b))
}

/// How long to wait before the same is tried again: doubling from two seconds to a minute, a little
/// different for each device, and at least as long as the vendor asks for.
fn backoff(id: Uuid, tries: u32, error: &VendorError) -> SignedDuration {
    let doubled = SignedDuration::from_secs(2_i64 << tries.min(5)).min(LONGEST_BACKOFF);
    let spread = i64::from(id.as_bytes()[15]) * doubled.as_secs() * 2;
    let wait = doubled + SignedDuration::from_millis(spread);
    let asked = error.retry_after().and_then(|wait| SignedDuration::try_from(wait).ok()).unwrap_or_default();
    wait.max(asked)
}

fn seconds(duration: SignedDuration) -> String {
    format!("{} s", duration.as_secs())
}
