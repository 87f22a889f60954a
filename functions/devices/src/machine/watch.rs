//! Watching: whether there is progress, whether it is up, whether it is the only one.

use jiff::{SignedDuration, Timestamp};

use super::{
    Ctx, Diagnosis, Effects, Observation, TEARDOWN_OVERDUE, asked, keep, seconds,
    teardown::{MISSING, begin_deletion, fail_over},
};
use crate::{
    device::{Attempt, Code, Device, Event, MOST_EVENTS, MOST_TWINS, Reason, Source, Stage, State, Then, cut, push},
    record::Health,
    vendor::{Seen, VendorError, VendorState},
};

pub(super) fn observed_now(device: &mut Device, observed: Result<Observation, VendorError>, ctx: &Ctx) -> Effects {
    let longest = SignedDuration::from_secs(device.request.provision_timeout_seconds.into());
    let stall = SignedDuration::from_secs(device.request.stall_timeout_seconds.into());
    let Some(attempt) = &mut device.attempt else { return Effects::default() };
    let in_all = ctx.now.duration_since(attempt.started_at);
    let Observation { mine, others, missing } = match observed {
        Ok(observation) => observation,
        Err(error) => {
            let text = cut(&error.to_string());
            let is_new = attempt.trouble.as_ref() != Some(&text);
            attempt.trouble = Some(text.clone());
            attempt.heard(ctx.now, asked::LOOK, error.status(), &error.words());
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
    if let (Some(id), Some(status)) = (&known, missing) {
        attempt.heard(ctx.now, &asked::machine(id), Some(status), MISSING);
    }
    let mut all: Vec<Seen> = mine.into_iter().chain(others).collect();
    // One that is on its way out already is not worth keeping.
    all.sort_by(|a, b| {
        let going = |seen: &Seen| seen.state == VendorState::Going;
        going(a).cmp(&going(b)).then_with(|| by_age(a, b))
    });
    let mut all = all.into_iter();
    let Some(oldest) = all.next() else {
        return fail_over(device, Reason::new(Code::Reclaimed, "the vendor no longer has the machine"), ctx);
    };
    let others: Vec<Seen> = all.collect();
    let alone = others.is_empty();
    // Those on their way out need not be asked to go.
    let staying = others.into_iter().filter(|seen| seen.state != VendorState::Going);
    attempt.twins = staying.take(MOST_TWINS).map(|seen| seen.machine.id).collect();
    let adopted = known.as_ref() != Some(&oldest.machine.id);
    let is_new_word = attempt.machine.as_ref().is_none_or(|machine| machine.state != oldest.machine.state);
    let (state, word, id) = (oldest.state, oldest.machine.state.clone(), oldest.machine.id.clone());
    if adopted {
        attempt.up_at = None;
    }
    if adopted || is_new_word {
        attempt.heard(ctx.now, asked::LOOK, Some(oldest.status), &format!("{id} is {word}"));
    }
    let moved = update(attempt, oldest, ctx.now) || is_new_word || adopted;
    if moved {
        attempt.progress_at = ctx.now;
    }
    let idle = ctx.now.duration_since(attempt.progress_at);
    let (twins, percent) = (!attempt.twins.is_empty(), attempt.percent);
    if adopted {
        device.note(ctx.now, "twin", format!("{id} is the oldest machine with our tag, so it is ours"));
    } else if is_new_word {
        device.note(ctx.now, "state", format!("the vendor says {word}"));
    }
    match state {
        VendorState::Active => {
            let Some(attempt) = &mut device.attempt else { return Effects::default() };
            let up_at = *attempt.up_at.get_or_insert(ctx.now);
            // Whoever waits for it does not wait for ever for another one to go; the sweep sees to that.
            let patient = ctx.now.duration_since(up_at) < TEARDOWN_OVERDUE;
            if (!alone && patient) || !attempt.is_settled_at(ctx.now) {
                return Effects { at_once: twins, ..Effects::default() };
            }
            attempt.twins.clear();
            attempt.alone = true;
            if attempt.switch.is_some() && !device.request.ephemeral {
                return Effects::at_once();
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
        VendorState::Coming | VendorState::Other if idle >= stall => {
            let text = format!("nothing new for {} at {percent} %: the vendor says {word}", seconds(idle));
            fail_over(device, Reason::new(Code::Stalled, text), ctx)
        }
        VendorState::Coming | VendorState::Other if in_all >= longest => {
            let text = format!("not up within {}: the vendor says {word} at {percent} %", seconds(longest));
            fail_over(device, Reason::new(Code::TimedOut, text), ctx)
        }
        VendorState::Coming | VendorState::Other => Effects { at_once: twins, ..Effects::default() },
    }
}

pub(super) fn switched_off(device: &mut Device, result: Result<Option<Seen>, VendorError>, ctx: &Ctx) -> Effects {
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
            (attempt.up_at, attempt.alone) = (None, false);
            return Effects::default();
        }
        Err(error) if error.is_passing() || matches!(error, VendorError::Denied { .. }) => {
            attempt.trouble = Some(cut(&format!("its termination time could not be taken back: {error}")));
            // Looked at again before: much may have happened.
            attempt.alone = false;
            return Effects::default();
        }
        Err(error) => error.to_string(),
    };
    // It is up, and whoever waits for it must know that it will not stay.
    let at = attempt.switch.map(|at| at.to_string()).unwrap_or_default();
    let text = format!("the vendor takes it down at {at}, and does not let that be changed: {refused}");
    attempt.trouble = Some(cut(&text));
    device.note(ctx.now, "termination_time", text);
    up(device, ctx)
}

/// What the vendor tells of a machine that is to go completes the record. That it tells nothing is no
/// reason to wait.
pub(super) fn diagnosed(device: &mut Device, diagnosis: Diagnosis, ctx: &Ctx) -> Effects {
    if let Stage::Deleting { diagnosed, .. } = &mut device.stage {
        *diagnosed = true;
    }
    let Some(id) = device.machine_id().map(str::to_owned) else { return Effects::at_once() };
    let Diagnosis { events, health } = diagnosis;
    match events {
        Ok((status, events)) => {
            let last = events.iter().max_by_key(|event| event.at).map(|event| format!(", the last: {}", event.kind));
            let words = format!("{} events{}", events.len(), last.unwrap_or_default());
            keep(device, ctx, &asked::events(&id), Ok((status, &words)));
            if let Some(attempt) = &mut device.attempt {
                merge(attempt, events);
            }
        }
        Err(error) => {
            keep(device, ctx, &asked::events(&id), Err(&error));
            device.note(ctx.now, "diagnosis", format!("no events could be had: {error}"));
        }
    }
    match (health, &mut device.attempt) {
        (Ok(Some(rollup)), Some(attempt)) => attempt.health = Some(Health { rollup, at: ctx.now }),
        (Err(error), _) => keep(device, ctx, &asked::health(&id), Err(&error)),
        _ => {}
    }
    Effects::at_once()
}

/// It is up, it is the only one, and it stays.
pub(super) fn up(device: &mut Device, ctx: &Ctx) -> Effects {
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

/// Takes over what is seen of the machine; answers whether there is progress.
pub(super) fn update(attempt: &mut Attempt, seen: Seen, now: Timestamp) -> bool {
    let percent = seen.percent.unwrap_or(attempt.percent);
    let moved = percent != attempt.percent;
    attempt.percent = percent;
    attempt.saw(&seen.machine.state, now);
    attempt.machine = Some(seen.machine);
    let merged = merge(attempt, seen.events);
    if moved || merged {
        attempt.progress_at = now;
    }
    moved || merged
}

/// Adds the vendor's events that are not known yet; answers whether there was one.
pub(super) fn merge(attempt: &mut Attempt, events: Vec<Event>) -> bool {
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
            push(&mut attempt.events, event, MOST_EVENTS);
        }
    }
    attempt.events.len() > before
}

/// The oldest first; without times, by id, so that all who look agree.
pub(super) fn by_age(a: &Seen, b: &Seen) -> std::cmp::Ordering {
    let key = |seen: &Seen| (seen.machine.created_at.unwrap_or(Timestamp::MAX), seen.machine.id.clone());
    key(a).cmp(&key(b))
}
