//! Whatever the vendor does, in whatever order: nothing is asked for twice, nothing is left behind.

use devices::{
    device::{Device, Stage, State},
    machine::{Action, Ctx, Diagnosis, Next, Observation, Outcome, Teardown, apply, ask_delete, next},
    request::Request,
    vendor::{Seen, VendorError, VendorState},
};
use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use uuid::Uuid;

use crate::{NOON, candidate, ctx, said, seen};

/// A vendor of few words: what it really has, and what it says.
#[derive(Debug, Default)]
struct World {
    machines: Vec<(String, VendorState)>,
    made: usize,
    /// Requests that will be carried out although nobody was told.
    late: Vec<Timestamp>,
}

impl World {
    fn make(&mut self) -> String {
        self.made += 1;
        let id = format!("m{:04}", self.made);
        self.machines.push((id.clone(), VendorState::Coming));
        id
    }

    fn list(&self) -> Vec<Seen> {
        self.machines.iter().map(|(id, state)| seen(id, *state)).collect()
    }
}

fn error(byte: u8) -> VendorError {
    let text = "x".to_owned();
    match byte % 7 {
        0 => VendorError::Broken { status: StatusCode::BAD_GATEWAY, text },
        1 => VendorError::Limited { retry_after: None },
        2 => VendorError::Denied { status: StatusCode::UNAUTHORIZED, text },
        3 => VendorError::Refused { status: StatusCode::UNPROCESSABLE_ENTITY, text },
        4 => VendorError::OutOfCapacity(said(503, "x")),
        5 => VendorError::Place(said(422, "x")),
        _ => VendorError::Quota(said(422, "x")),
    }
}

/// Carries an action out as chance has it.
fn perform(world: &mut World, device: &Device, action: Action, byte: u8) -> Outcome {
    // A third of the requests goes wrong in a way that leaves the vendor as it is.
    let passing = || VendorError::Broken { status: StatusCode::INTERNAL_SERVER_ERROR, text: "x".to_owned() };
    let fails = byte.is_multiple_of(3);
    match action {
        Action::Select if byte > 250 => Outcome::Selected(Ok(Err("nothing".to_owned()))),
        Action::Select if fails => Outcome::Selected(Err(passing())),
        Action::Select => Outcome::Selected(Ok(Ok(candidate(["ewr1", "ams1", "sjc1"][usize::from(byte) % 3])))),
        Action::Claim => Outcome::Claimed,
        Action::Create => match byte % 6 {
            0 => Outcome::Created(Err(error(byte / 6))),
            // Carried out, and not answered; now, or later, or twice.
            1 => {
                world.make();
                Outcome::Created(Err(error(0)))
            }
            2 => {
                let Stage::Creating { claim, .. } = &device.stage else { panic!() };
                world.late.push(claim.until);
                Outcome::Created(Err(error(0)))
            }
            3 => {
                world.make();
                let id = world.make();
                Outcome::Created(Ok(seen(&id, VendorState::Coming)))
            }
            _ => {
                let id = world.make();
                Outcome::Created(Ok(seen(&id, VendorState::Coming)))
            }
        },
        Action::LookUp if fails => Outcome::LookedUp(Err(passing())),
        Action::LookUp => Outcome::LookedUp(Ok(world.list())),
        Action::Observe if fails => Outcome::Observed(Err(passing())),
        Action::Observe => {
            let mut all = world.list();
            let known = device.machine_id();
            let at = all.iter().position(|seen| Some(seen.machine.id.as_str()) == known);
            let mine = at.map(|at| all.swap_remove(at));
            let missing = mine.is_none().then_some(StatusCode::NOT_FOUND);
            Outcome::Observed(Ok(Observation { mine, others: all, missing }))
        }
        Action::RemoveTwins if fails => Outcome::TwinsRemoved(Err(passing())),
        Action::RemoveTwins => {
            let twins = &device.attempt.as_ref().unwrap().twins;
            // Sometimes it only says so.
            if byte.is_multiple_of(2) {
                world.machines.retain(|(id, _)| !twins.contains(id));
            }
            Outcome::TwinsRemoved(Ok(()))
        }
        Action::SwitchOff if !world.machines.iter().any(|(id, _)| Some(id.as_str()) == device.machine_id()) => {
            Outcome::SwitchedOff(Err(VendorError::NotFound(said(404, "gone"))))
        }
        Action::SwitchOff if fails => Outcome::SwitchedOff(Err(error(byte / 3))),
        Action::SwitchOff => Outcome::SwitchedOff(Ok(None)),
        Action::Diagnose if fails => Outcome::Diagnosed(Diagnosis { events: Err(passing()), health: Err(passing()) }),
        Action::Diagnose => crate::nothing_told(),
        Action::TearDown if fails => Outcome::TornDown(Err(passing())),
        Action::TearDown => {
            let left = world.list();
            if byte.is_multiple_of(2) {
                world.machines.clear();
            }
            let deletions = left.iter().map(|seen| crate::deleted(&seen.machine.id)).collect();
            Outcome::TornDown(Ok(Teardown { left, deletions, missing: None }))
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, ..ProptestConfig::default() })]
    #[test]
    fn nothing_is_created_without_a_claim_and_nothing_ends_before_nothing_is_left(
        max_attempts in 1..5_u32,
        ephemeral in any::<bool>(),
        bytes in prop::collection::vec(any::<(u8, u8)>(), 1..200),
    ) {
        let request = Request {
            max_attempts, ephemeral, provision_timeout_seconds: 300, stall_timeout_seconds: 120, ..Request::default()
        };
        let mut device = crate::device(request);
        let mut world = World::default();
        let mut now = 0;
        let mut worker = 1;
        // Whose claim was written, and not used yet.
        let mut claimed: Option<Uuid> = None;
        for (byte, other) in bytes {
            let ctx = Ctx { me: Uuid::from_u128(worker), ..ctx(now) };
            for (_, state) in &mut world.machines {
                *state = match other {
                    0..40 => VendorState::Active,
                    40..50 => VendorState::Failed,
                    _ => *state,
                };
            }
            if other == 254 {
                ask_delete(&mut device, ctx.now);
            }
            let before = device.state();
            let action = match next(&device, &ctx) {
                Next::Settled => break,
                Next::Wait(at) => {
                    prop_assert!(at > ctx.now);
                    now = at.duration_since(NOON).as_secs() + 1;
                    continue;
                }
                Next::Do(action) => action,
            };
            if other == 255 {
                world.machines.pop();
            }
            // A request that was under way is carried out by the end of its claim.
            let due = world.late.iter().position(|until| ctx.now >= *until || other.is_multiple_of(2));
            if let Some(at) = due {
                world.late.remove(at);
                world.make();
            }
            if action == Action::Create {
                // The claim is ours, is written, has not been used, and outlives the request.
                let Stage::Creating { claim, .. } = &device.stage else { panic!() };
                prop_assert_eq!(claimed.take(), Some(ctx.me));
                prop_assert_eq!(claim.by, ctx.me);
                prop_assert!(ctx.now + ctx.timeout <= claim.until);
            }
            let outcome = perform(&mut world, &device, action, byte);
            let tore_down = matches!(&outcome, Outcome::TornDown(Ok(teardown)) if teardown.left.is_empty());
            let had = device.attempt.as_ref().is_some_and(|attempt| {
                attempt.ended_at.is_none() && (attempt.machine.is_some() || attempt.doubtful)
            });
            let effects = apply(&mut device, outcome, &ctx);
            match &device.stage {
                Stage::Creating { claim, .. } if claim.by == ctx.me && action != Action::Create => claimed = Some(ctx.me),
                _ => {}
            }
            // What may have a machine is left only by a confirmed teardown, or by coming up.
            let left_behind = matches!(device.state(), State::Requested | State::Failed | State::Deleted);
            if had && before != device.state() && left_behind {
                prop_assert!(tore_down, "{:?} → {:?} by {:?}", before, device.state(), action);
            }
            // An attempt that ends has its reason and its record, once.
            if let Some(closed) = &effects.closed {
                prop_assert!(closed.ended_at.is_some() && closed.reason.is_some(), "{:#?}", closed);
            }
            prop_assert!(device.attempts() <= max_attempts);
            if matches!(device.state(), State::Failed | State::Deleted) {
                prop_assert!(device.reason.is_some() && device.ended_at.is_some());
            }
            if !effects.at_once {
                now += 5;
                // Another worker goes on; what the first held in its hand is gone.
                if other.is_multiple_of(5) {
                    worker += 1;
                    claimed = None;
                }
            } else if other == 253 {
                // A crash between two steps.
                worker += 1;
                claimed = None;
            }
        }
        // The worker's patience is longer than this list of misfortunes: with a vendor that works it ends.
        for _ in std::mem::take(&mut world.late) {
            world.make();
        }
        for _ in 0..2000 {
            let ctx = Ctx { me: Uuid::from_u128(u128::MAX), ..ctx(now) };
            match next(&device, &ctx) {
                Next::Settled => break,
                Next::Wait(at) => now = at.duration_since(NOON).as_secs() + 1,
                Next::Do(action) => {
                    for (_, state) in &mut world.machines {
                        *state = VendorState::Active;
                    }
                    let byte = if action == Action::Create { 4 } else { 2 };
                    let outcome = perform(&mut world, &device, action, byte);
                    if !apply(&mut device, outcome, &ctx).at_once {
                        now += 5;
                    }
                }
            }
        }
        prop_assert!(device.state().is_settled(), "{:#?}", device);
        let alive: Vec<_> = world.machines.iter().map(|(id, _)| id.as_str()).collect();
        // Of those that are not taken down after ten minutes the sweep takes care.
        let wanted: Vec<_> = (device.state() == State::Active).then(|| device.machine_id().unwrap()).into_iter().collect();
        prop_assert_eq!(alive, wanted);
        prop_assert!(now < SignedDuration::from_hours(48).as_secs());
    }
}
