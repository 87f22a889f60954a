//! Taking down: nothing follows before the vendor has confirmed that nothing is left.

use http::StatusCode;
use jiff::Timestamp;

use super::{Ctx, Deletion, Effects, TEARDOWN_OVERDUE, Teardown, asked, keep, seconds};
use crate::{
    device::{Attempt, Code, Device, Failed, Reason, Stage, Then, cut},
    select::{Candidate, NotAgain},
    vendor::VendorError,
};

/// What the record says where the vendor tells of no machine.
pub(super) const MISSING: &str = "it is gone, or kept from us";

pub(super) fn torn_down(device: &mut Device, result: Result<Teardown, VendorError>, ctx: &Ctx) -> Effects {
    let trouble = match result {
        // Nothing is left only when nothing can come any more.
        Ok(teardown) if teardown.left.is_empty() && device.is_settled_at(ctx.now) => {
            recorded(device, &teardown, ctx);
            return gone(device, ctx);
        }
        Ok(teardown) => {
            let left = &teardown.left;
            if let (Some(attempt), Some(found)) = (&mut device.attempt, left.first())
                && attempt.machine.is_none()
            {
                attempt.machine = Some(found.machine.clone());
            }
            recorded(device, &teardown, ctx);
            if let Stage::Deleting { asked_at, .. } = &mut device.stage
                && teardown.was_asked()
            {
                *asked_at = Some(ctx.now);
                let ids: Vec<_> = left.iter().map(|seen| seen.machine.id.as_str()).collect();
                device.note(ctx.now, "delete", format!("asked the vendor to delete {}", ids.join(", ")));
            }
            let locked = left.iter().any(|seen| seen.locked);
            let refused = teardown.refused();
            refused.map(|text| if locked { format!("locked at the vendor; unlock it there: {text}") } else { text })
        }
        Err(error) => {
            keep(device, ctx, asked::LOOK, Err(&error));
            Some(error.to_string())
        }
    };
    let trouble = trouble.map(|text| cut(&text));
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

/// Keeps what the vendor said to a teardown, for the attempt's record.
fn recorded(device: &mut Device, teardown: &Teardown, ctx: &Ctx) {
    for Deletion { id, said } in &teardown.deletions {
        let words = |status: &StatusCode| if status.is_success() { "it will be deleted" } else { "it is gone" };
        let answer = said.as_ref().map(|status| (*status, words(status)));
        keep(device, ctx, &asked::delete(id), answer);
    }
    let Some(attempt) = &mut device.attempt else { return };
    let Some(id) = attempt.machine.as_ref().map(|machine| machine.id.clone()) else { return };
    if let Some(seen) = teardown.left.iter().find(|seen| seen.machine.id == id) {
        attempt.saw(&seen.machine.state, ctx.now);
    } else if let Some(status) = teardown.missing {
        attempt.heard(ctx.now, &asked::machine(&id), Some(status), MISSING);
    }
}

/// Nothing is left at the vendor.
pub(super) fn gone(device: &mut Device, ctx: &Ctx) -> Effects {
    let Stage::Deleting { then, .. } = device.stage else { return Effects::default() };
    let made = device.attempt.as_ref().is_some_and(|attempt| attempt.machine.is_some() || attempt.doubtful);
    let text = if made { "the vendor has confirmed that nothing is left" } else { "no machine was made" };
    let closed = close(device, ctx.now, text);
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
pub(super) fn fail_over(device: &mut Device, reason: Reason, ctx: &Ctx) -> Effects {
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
pub(super) fn give_up(device: &mut Device, reason: Reason, ctx: &Ctx) -> Effects {
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

pub(super) fn begin_deletion(device: &mut Device, then: Then, now: Timestamp, not_before: Timestamp) {
    let diagnosed = device.stage == Stage::Active;
    device.ended_at = None;
    device.stage = Stage::Deleting { then, since: now, not_before, asked_at: None, diagnosed, overdue: false };
    if let Some(attempt) = &mut device.attempt {
        attempt.twins.clear();
    }
}

/// Ends the attempt that is under way.
pub(super) fn close(device: &mut Device, now: Timestamp, text: &str) -> Option<Attempt> {
    device.attempt.as_ref().filter(|attempt| attempt.ended_at.is_none())?;
    device.note(now, "ended", text);
    let attempt = device.attempt.as_mut()?;
    attempt.ended_at = Some(now);
    attempt.trouble = None;
    Some(attempt.clone())
}

pub(super) fn end(device: &mut Device, stage: Stage, reason: Reason, now: Timestamp) {
    device.stage = stage;
    device.ended_at = Some(now);
    device.note(now, device.state().as_str(), &reason.detail);
    device.reason = Some(reason);
}

pub(super) fn too_late(device: &Device) -> Reason {
    let last = device.reason.as_ref().map_or("none was begun", |reason| reason.detail.as_str());
    Reason::new(Code::TooLate, format!("no time is left for another attempt; the last one: {last}"))
}
