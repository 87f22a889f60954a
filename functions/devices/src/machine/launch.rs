//! Launching: a combination is chosen and asked for, once.

use jiff::SignedDuration;
use uuid::Uuid;

use super::{
    Ctx, Effects, SWITCH_MARGIN, asked, keep,
    teardown::{fail_over, give_up, too_late},
    watch::{by_age, update},
};
use crate::{
    device::{Attempt, Claim, Code, Device, Reason, Stage, State, cut},
    select::Candidate,
    vendor::{Seen, VendorError},
};

/// Between two looks for a machine that may still come.
const LOOK_AGAIN: SignedDuration = SignedDuration::from_secs(4);
/// Longest wait before something is tried again.
const LONGEST_BACKOFF: SignedDuration = SignedDuration::from_secs(60);

pub(super) fn chosen(
    device: &mut Device,
    selected: Result<Result<Candidate, String>, VendorError>,
    ctx: &Ctx,
) -> Effects {
    let Stage::Requested { tries, .. } = device.stage else { return Effects::default() };
    match selected {
        Ok(Ok(candidate)) => {
            if ctx.now >= device.give_up_at {
                return give_up(device, too_late(device), ctx);
            }
            let longest = SignedDuration::from_secs(device.request.provision_timeout_seconds.into());
            let switch =
                (ctx.dead_mans_switch && device.terminates_at().is_none()).then(|| ctx.now + longest + SWITCH_MARGIN);
            let attempt = Attempt::new(device.attempts() + 1, candidate, switch, ctx.now);
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

pub(super) fn claimed(device: &mut Device, ctx: &Ctx) -> Effects {
    if let Stage::Creating { claim: held, look_up, .. } = &mut device.stage {
        *held = claim(ctx);
        *look_up = true;
    }
    Effects::at_once()
}

/// The vendor has answered the request to create, or has not.
pub(super) fn answered(device: &mut Device, created: Result<Seen, VendorError>, ctx: &Ctx) -> Effects {
    let error = match created {
        Ok(seen) => {
            have(device, seen, ctx, "created", asked::CREATE);
            return Effects::default();
        }
        Err(error) => error,
    };
    keep(device, ctx, asked::CREATE, Err(&error));
    match &error {
        VendorError::OutOfCapacity(said) => fail_over(device, Reason::new(Code::OutOfCapacity, &said.text), ctx),
        VendorError::Place(said) => fail_over(device, Reason::new(Code::CombinationRefused, &said.text), ctx),
        error if error.is_passing() => {
            let unknown = error.maybe_processed();
            let text =
                if unknown { format!("{error}; whether it worked will be told by our tag") } else { error.to_string() };
            device.note(ctx.now, "create", &text);
            if unknown {
                unsettle(device);
            }
            try_again(device, error, unknown, ctx)
        }
        error => {
            let reason = Reason::new(fatal(error), error.to_string());
            give_up(device, reason, ctx)
        }
    }
}

/// A request may have been sent under the present claim, and may be carried out until its end.
fn unsettle(device: &mut Device) {
    if let (Stage::Creating { claim, .. }, Some(attempt)) = (&device.stage, &mut device.attempt) {
        attempt.doubtful = true;
        attempt.unsettled_until = attempt.unsettled_until.max(Some(claim.until));
    }
}

/// The same again later, unless it has taken too long.
pub(super) fn try_again(device: &mut Device, error: &VendorError, unknown: bool, ctx: &Ctx) -> Effects {
    let (id, longest) = (device.id, SignedDuration::from_secs(device.request.provision_timeout_seconds.into()));
    let Some(attempt) = &mut device.attempt else { return Effects::default() };
    attempt.doubtful |= unknown;
    attempt.trouble = Some(cut(&error.to_string()));
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

pub(super) fn looked_up(device: &mut Device, found: Result<Vec<Seen>, VendorError>, ctx: &Ctx) -> Effects {
    // Whoever looks does not know whether a request was sent.
    unsettle(device);
    let settled = device.is_settled_at(ctx.now);
    match found {
        Ok(found) => {
            if let Some(oldest) = found.into_iter().filter(Seen::is_alive).min_by(by_age) {
                have(device, oldest, ctx, "found by its tag", asked::LOOK);
                return Effects::at_once();
            }
            if let Stage::Creating { look_up, not_before, .. } = &mut device.stage {
                // What is not there may still come, until the end of the claim.
                *look_up = !settled;
                if !settled {
                    *not_before = ctx.now + LOOK_AGAIN;
                }
            }
            Effects { at_once: settled, ..Effects::default() }
        }
        Err(error) => {
            keep(device, ctx, asked::LOOK, Err(&error));
            try_again(device, &error, true, ctx)
        }
    }
}

/// There is a machine.
fn have(device: &mut Device, seen: Seen, ctx: &Ctx, how: &str, request: &str) {
    let words = format!("{} is {}", seen.machine.id, seen.machine.state);
    let text = format!("{how}: {words}");
    keep(device, ctx, request, Ok((seen.status, &words)));
    if let Some(attempt) = &mut device.attempt {
        attempt.trouble = None;
        attempt.progress_at = ctx.now;
        update(attempt, seen, ctx.now);
    }
    device.stage = Stage::Provisioning;
    device.note(ctx.now, State::Provisioning.as_str(), text);
}

pub(super) fn claim(ctx: &Ctx) -> Claim {
    Claim { by: ctx.me, until: ctx.now + ctx.claim }
}

/// What is wrong when no other combination would do.
pub(super) const fn fatal(error: &VendorError) -> Code {
    match error {
        VendorError::Denied { .. } => Code::Credentials,
        VendorError::Quota(_) => Code::Quota,
        _ => Code::BadRequest,
    }
}

/// How long to wait before the same is tried again: doubling from two seconds to a minute, a little
/// different for each device, and at least as long as the vendor asks for.
pub(super) fn backoff(id: Uuid, tries: u32, error: &VendorError) -> SignedDuration {
    let doubled = SignedDuration::from_secs(2_i64 << tries.min(5)).min(LONGEST_BACKOFF);
    let spread = i64::from(id.as_bytes()[15]) * doubled.as_secs() * 2;
    let wait = doubled + SignedDuration::from_millis(spread);
    let asked = error.retry_after().and_then(|wait| SignedDuration::try_from(wait).ok()).unwrap_or_default();
    wait.max(asked)
}
