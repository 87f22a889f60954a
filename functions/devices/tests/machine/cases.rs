//! One case at a time.

use std::time::Duration;

use devices::{
    device::{Code, Stage, State, Then},
    machine::{
        Action, Ctx, Deletion, Diagnosis, Next, Outcome, SWITCH_MARGIN, TEARDOWN_OVERDUE, Teardown, apply, ask_delete,
        next,
    },
    request::Request,
    vendor::{VendorError, VendorState},
};
use jiff::SignedDuration;
use uuid::Uuid;

use crate::{ME, NOON, chosen, ctx, deleted, device, nothing_told, observed, provisioning, refused, said, seen, step};

fn another() -> Ctx {
    Ctx { me: Uuid::from_u128(2), ..ctx(0) }
}

#[test]
fn only_who_holds_the_claim_creates_and_only_while_nobody_else_can_hold_it() {
    let mut device = device(Request::default());
    chosen(&mut device, 0, "ewr1");
    assert_eq!(next(&device, &ctx(0)), Next::Do(Action::Create));
    assert_eq!(next(&device, &another()), Next::Wait(NOON + SignedDuration::from_secs(20)));
    // A request begun now might still be under way when the claim ends.
    assert_eq!(next(&device, &ctx(10)), Next::Do(Action::Create));
    assert_eq!(next(&device, &ctx(11)), Next::Wait(NOON + SignedDuration::from_secs(20)));
    // Afterwards anybody, also its holder, looks first.
    assert_eq!(next(&device, &ctx(20)), Next::Do(Action::LookUp));
    assert_eq!(next(&device, &Ctx { me: Uuid::from_u128(2), ..ctx(20) }), Next::Do(Action::LookUp));
}

#[test]
fn after_a_lost_answer_the_tag_is_looked_up_before_there_is_another_claim() {
    let mut device = device(Request::default());
    chosen(&mut device, 0, "ewr1");
    step(&mut device, 1, Action::Create, Outcome::Created(Err(refused(502))));
    let Next::Wait(at) = next(&device, &ctx(1)) else { panic!("{device:#?}") };
    let soon = at.duration_since(NOON).as_secs() + 1;
    step(&mut device, soon, Action::LookUp, Outcome::LookedUp(Ok(vec![])));
    // The request may still be carried out until the end of its claim.
    let mut found = device.clone();
    step(&mut found, 19, Action::LookUp, Outcome::LookedUp(Ok(vec![seen("a", VendorState::Coming)])));
    assert_eq!((found.state(), found.machine_id()), (State::Provisioning, Some("a")));
    step(&mut device, 20, Action::LookUp, Outcome::LookedUp(Ok(vec![])));
    step(&mut device, 20, Action::Claim, Outcome::Claimed);
    step(&mut device, 20, Action::Create, Outcome::Created(Ok(seen("b", VendorState::Coming))));
    assert_eq!(device.state(), State::Provisioning);
    // Nor is it up, or gone, before that.
    let mut other = crate::device(Request { ttl_seconds: Some(3600), ..Request::default() });
    chosen(&mut other, 0, "ewr1");
    step(&mut other, 1, Action::Create, Outcome::Created(Err(refused(502))));
    step(&mut other, 5, Action::LookUp, Outcome::LookedUp(Ok(vec![seen("a", VendorState::Coming)])));
    step(&mut other, 19, Action::Observe, observed(vec![seen("a", VendorState::Active)]));
    assert_eq!(other.state(), State::Provisioning);
    let mut failed = other.clone();
    step(&mut other, 20, Action::Observe, observed(vec![seen("a", VendorState::Active)]));
    assert_eq!(other.state(), State::Active);
    step(&mut failed, 19, Action::Observe, observed(vec![]));
    step(&mut failed, 19, Action::Diagnose, nothing_told());
    step(&mut failed, 19, Action::TearDown, Outcome::TornDown(Ok(Teardown::default())));
    assert_eq!(failed.state(), State::Deleting);
    step(&mut failed, 20, Action::TearDown, Outcome::TornDown(Ok(Teardown::default())));
    assert_eq!(failed.state(), State::Requested);
}

#[test]
fn what_was_not_sent_is_not_looked_for() {
    let mut device = device(Request::default());
    chosen(&mut device, 0, "ewr1");
    let wait = Some(Duration::from_secs(77));
    let limited = VendorError::Limited { retry_after: wait };
    step(&mut device, 0, Action::Create, Outcome::Created(Err(limited)));
    assert_eq!(next(&device, &ctx(76)), Next::Wait(NOON + SignedDuration::from_secs(77)), "the vendor's wish counts");
    assert_eq!(next(&device, &ctx(77)), Next::Do(Action::Claim));
}

#[test]
fn a_vendor_that_is_away_for_as_long_as_an_installation_may_take_costs_the_attempt_and_nothing_more() {
    let mut device =
        device(Request { provision_timeout_seconds: 100, stall_timeout_seconds: 60, ..Request::default() });
    chosen(&mut device, 0, "ewr1");
    let mut effects = step(&mut device, 0, Action::Create, Outcome::Created(Err(refused(500))));
    let mut at = 0;
    while !matches!(device.stage, Stage::Deleting { .. }) {
        if let Next::Wait(until) = next(&device, &ctx(at)) {
            at = until.duration_since(NOON).as_secs() + 1;
        }
        effects = step(&mut device, at, Action::LookUp, Outcome::LookedUp(Err(refused(500))));
        assert!(at < 300, "{device:#?}");
    }
    assert_eq!(effects.failed, None, "it says nothing about the combination");
    // A machine may have been made, so its absence must be confirmed.
    let done = step(&mut device, at, Action::TearDown, Outcome::TornDown(Ok(Teardown::default())));
    assert_eq!(done.closed.unwrap().reason.unwrap().code, Code::VendorAway);
    assert_eq!(device.state(), State::Requested);
}

#[test]
fn what_no_other_combination_would_help_fails_at_once() {
    for (error, code) in [
        (refused(401), Code::Credentials),
        (refused(403), Code::Credentials),
        (refused(422), Code::BadRequest),
        (VendorError::Quota(said(422, "no more")), Code::Quota),
        (VendorError::NotFound(said(404, "no project")), Code::BadRequest),
    ] {
        let mut device = device(Request::default());
        chosen(&mut device, 0, "ewr1");
        let effects = step(&mut device, 0, Action::Create, Outcome::Created(Err(error.clone())));
        assert_eq!((device.state(), device.reason.unwrap().code), (State::Failed, code), "{error}");
        assert_eq!(effects.closed.unwrap().reason.unwrap().code, code);
        assert_eq!(effects.failed, None, "the combination is not to blame");
    }
}

#[test]
fn a_fatal_answer_after_a_lost_one_waits_until_nothing_is_left() {
    let mut device = device(Request::default());
    chosen(&mut device, 0, "ewr1");
    step(&mut device, 0, Action::Create, Outcome::Created(Err(refused(500))));
    step(&mut device, 60, Action::LookUp, Outcome::LookedUp(Ok(vec![])));
    step(&mut device, 60, Action::Claim, Outcome::Claimed);
    step(&mut device, 60, Action::Create, Outcome::Created(Err(refused(422))));
    assert_eq!(device.state(), State::Deleting);
    // The first request was late, not lost.
    let late = Teardown { left: vec![seen("a", VendorState::Coming)], deletions: vec![deleted("a")], missing: None };
    step(&mut device, 61, Action::TearDown, Outcome::TornDown(Ok(late)));
    assert_eq!((device.state(), device.machine_id()), (State::Deleting, Some("a")), "it is in the record now");
    step(&mut device, 66, Action::Diagnose, nothing_told());
    step(&mut device, 66, Action::TearDown, Outcome::TornDown(Ok(Teardown::default())));
    assert_eq!((device.state(), device.reason.unwrap().code), (State::Failed, Code::BadRequest));
}

#[test]
fn a_deletion_while_a_request_is_under_way_waits_for_its_end() {
    let mut device = device(Request::default());
    chosen(&mut device, 0, "ewr1");
    assert!(ask_delete(&mut device, NOON + SignedDuration::from_secs(3)));
    assert_eq!(next(&device, &ctx(3)), Next::Wait(NOON + SignedDuration::from_secs(20)));
    assert_eq!(next(&device, &ctx(20)), Next::Do(Action::TearDown));
    assert!(!ask_delete(&mut device, NOON + SignedDuration::from_secs(4)), "it is asked for already");
    step(&mut device, 20, Action::TearDown, Outcome::TornDown(Ok(Teardown::default())));
    assert_eq!((device.state(), device.reason.clone().unwrap().code), (State::Deleted, Code::Deleted));
    assert!(!ask_delete(&mut device, NOON));
}

#[test]
fn a_deletion_of_what_was_never_tried_is_done_at_once() {
    let mut device = device(Request::default());
    assert!(ask_delete(&mut device, NOON));
    assert_eq!((device.state(), device.revision), (State::Deleted, 1));
}

#[test]
fn a_deletion_during_a_rollback_ends_the_search() {
    let mut device = provisioning(Request::default());
    step(&mut device, 5, Action::Observe, observed(vec![seen("a", VendorState::Failed)]));
    assert!(matches!(device.stage, Stage::Deleting { then: Then::TryNext, .. }));
    assert!(ask_delete(&mut device, NOON));
    step(&mut device, 6, Action::Diagnose, nothing_told());
    let effects = step(&mut device, 6, Action::TearDown, Outcome::TornDown(Ok(Teardown::default())));
    assert_eq!(device.state(), State::Deleted);
    assert_eq!(effects.closed.unwrap().reason.unwrap().code, Code::ProvisioningFailed, "why it was rolled back stays");
}

#[test]
fn progress_keeps_the_watchdog_quiet_and_nothing_else_does() {
    let request = Request { provision_timeout_seconds: 1000, stall_timeout_seconds: 100, ..Request::default() };
    let at_percent = |percent| {
        let mut seen = seen("a", VendorState::Coming);
        seen.percent = Some(percent);
        observed(vec![seen])
    };
    let mut device = provisioning(request);
    step(&mut device, 99, Action::Observe, at_percent(10));
    assert_eq!(device.state(), State::Provisioning);
    step(&mut device, 150, Action::Observe, at_percent(20));
    // While it cannot be seen, it cannot be said to stand still.
    step(&mut device, 260, Action::Observe, Outcome::Observed(Err(refused(500))));
    assert_eq!(device.state(), State::Provisioning);
    step(&mut device, 261, Action::Observe, at_percent(30));
    step(&mut device, 360, Action::Observe, at_percent(30));
    let effects = step(&mut device, 361, Action::Observe, at_percent(30));
    assert_eq!(effects.failed.unwrap().code, Code::Stalled);

    let request = Request { provision_timeout_seconds: 300, stall_timeout_seconds: 300, ..Request::default() };
    let mut device = provisioning(request.clone());
    step(&mut device, 299, Action::Observe, at_percent(50));
    let effects = step(&mut device, 300, Action::Observe, at_percent(60));
    assert_eq!(effects.failed.unwrap().code, Code::TimedOut, "progress alone is not enough");

    let mut device = provisioning(request);
    let unseen = step(&mut device, 300, Action::Observe, Outcome::Observed(Err(refused(500))));
    assert_eq!(unseen.failed.unwrap().code, Code::TimedOut, "nothing is paid for unseen for long");
}

#[test]
fn it_is_active_only_when_it_is_to_stay() {
    let mut device = provisioning(Request::default());
    let switch = device.attempt.as_ref().unwrap().switch.unwrap();
    assert_eq!(switch, NOON + SignedDuration::from_secs(1800) + SWITCH_MARGIN);
    step(&mut device, 5, Action::Observe, observed(vec![seen("a", VendorState::Active)]));
    step(&mut device, 5, Action::SwitchOff, Outcome::SwitchedOff(Err(refused(500))));
    assert_eq!(device.state(), State::Provisioning);
    step(&mut device, 10, Action::Observe, observed(vec![seen("a", VendorState::Active)]));
    step(&mut device, 10, Action::SwitchOff, Outcome::SwitchedOff(Ok(None)));
    assert_eq!((device.state(), device.attempt.unwrap().switch), (State::Active, None));

    // A vendor that does not let it be changed: it is up, and everybody is told.
    let mut device = provisioning(Request::default());
    step(&mut device, 5, Action::Observe, observed(vec![seen("a", VendorState::Active)]));
    let effects = step(&mut device, 5, Action::SwitchOff, Outcome::SwitchedOff(Err(refused(422))));
    assert!(effects.worked);
    let attempt = device.attempt.as_ref().unwrap();
    assert!(device.state() == State::Active && attempt.switch.is_some());
    assert!(attempt.trouble.as_ref().unwrap().contains(&switch.to_string()), "{attempt:#?}");

    // The caller's own termination time stays.
    let mut device = provisioning(Request { ttl_seconds: Some(3600), ..Request::default() });
    let effects = step(&mut device, 5, Action::Observe, observed(vec![seen("a", VendorState::Active)]));
    assert!(effects.worked && device.state() == State::Active);
}

#[test]
fn the_oldest_machine_is_ours_and_the_others_go_first() {
    let at = |id: &str, state, second| {
        let mut seen = seen(id, state);
        seen.machine.created_at = Some(NOON + SignedDuration::from_secs(second));
        seen
    };
    let mut device = provisioning(Request { ttl_seconds: Some(3600), ..Request::default() });
    let both = || vec![at("a", VendorState::Active, 2), at("b", VendorState::Coming, 1)];
    step(&mut device, 5, Action::Observe, observed(both()));
    assert_eq!(device.machine_id(), Some("b"));
    assert_eq!(device.attempt.as_ref().unwrap().twins, ["a"]);
    step(&mut device, 5, Action::RemoveTwins, Outcome::TwinsRemoved(Err(refused(500))));
    let mut now = both();
    now.reverse();
    step(&mut device, 10, Action::Observe, observed(now));
    step(&mut device, 10, Action::RemoveTwins, Outcome::TwinsRemoved(Ok(())));
    // One that is on its way out is not asked again, and waited for; but not for ever.
    let going = || vec![at("b", VendorState::Active, 1), at("a", VendorState::Going, 2)];
    step(&mut device, 15, Action::Observe, observed(going()));
    assert_eq!(device.state(), State::Provisioning);
    let mut patient = device.clone();
    step(&mut patient, 20, Action::Observe, observed(vec![at("b", VendorState::Active, 1)]));
    assert_eq!((patient.state(), patient.machine_id()), (State::Active, Some("b")));
    step(&mut device, 15 + TEARDOWN_OVERDUE.as_secs(), Action::Observe, observed(going()));
    assert_eq!((device.state(), device.machine_id()), (State::Active, Some("b")));
}

#[test]
fn an_overdue_teardown_stops_the_search_and_says_what_is_in_the_way() {
    let mut device = provisioning(Request::default());
    step(&mut device, 5, Action::Observe, observed(vec![seen("a", VendorState::Failed)]));
    step(
        &mut device,
        5,
        Action::Diagnose,
        Outcome::Diagnosed(Diagnosis { events: Err(refused(500)), health: Err(refused(500)) }),
    );
    let locked = |asked| {
        let mut seen = seen("a", VendorState::Failed);
        seen.locked = true;
        let refused = Deletion { id: "a".to_owned(), said: Err(refused(422)) };
        let deletions = if asked { vec![deleted("a"), refused] } else { vec![refused] };
        Outcome::TornDown(Ok(Teardown { left: vec![seen], deletions, missing: None }))
    };
    step(&mut device, 6, Action::TearDown, locked(true));
    assert!(device.attempt.as_ref().unwrap().trouble.as_ref().unwrap().contains("unlock it"));
    let overdue = 5 + TEARDOWN_OVERDUE.as_secs();
    step(&mut device, overdue - 1, Action::TearDown, locked(false));
    assert!(matches!(device.stage, Stage::Deleting { then: Then::TryNext, overdue: false, .. }));
    step(&mut device, overdue, Action::TearDown, locked(false));
    assert!(matches!(device.stage, Stage::Deleting { then: Then::Failed, overdue: true, .. }));
    step(&mut device, overdue + 9999, Action::TearDown, Outcome::TornDown(Ok(Teardown::default())));
    assert_eq!(device.reason.unwrap().code, Code::TeardownUnconfirmed);
}

#[test]
fn no_attempt_begins_after_the_last_one_or_too_late() {
    let mut device = device(Request { max_attempts: 2, ..Request::default() });
    for facility in ["ewr1", "ams1"] {
        chosen(&mut device, 0, facility);
        let full = VendorError::OutOfCapacity(said(503, "none"));
        let effects = step(&mut device, 0, Action::Create, Outcome::Created(Err(full)));
        assert_eq!(effects.failed.unwrap().code, Code::OutOfCapacity);
    }
    assert_eq!((device.state(), device.reason.unwrap().code), (State::Failed, Code::TooManyAttempts));

    let mut device = crate::device(Request { provision_timeout_seconds: 100, max_attempts: 3, ..Request::default() });
    let late = device.give_up_at.duration_since(NOON).as_secs();
    assert_eq!(late, 300);
    chosen(&mut device, late, "ewr1");
    assert_eq!((device.state(), device.reason.unwrap().code), (State::Failed, Code::TooLate));
}

#[test]
fn a_choice_that_cannot_be_made_is_made_later() {
    let mut device = device(Request::default());
    step(&mut device, 0, Action::Select, Outcome::Selected(Err(refused(503))));
    let Next::Wait(at) = next(&device, &ctx(0)) else { panic!() };
    assert!((2..=4).contains(&at.duration_since(NOON).as_secs()));
    let ctx = Ctx { now: at, me: ME, ..ctx(0) };
    assert_eq!(next(&device, &ctx), Next::Do(Action::Select));
    apply(&mut device, Outcome::Selected(Err(refused(401))), &ctx);
    assert_eq!((device.state(), device.reason.unwrap().code), (State::Failed, Code::Credentials));
}
