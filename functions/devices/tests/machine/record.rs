//! What is kept of an attempt, for whoever asks afterwards why it failed.

use devices::{
    device::{Attempt, Code, Device, Event, Source, State},
    machine::{Action, Diagnosis, Observation, Outcome, Teardown},
    record::{MOST_ANSWERS, MOST_STATES},
    request::Request,
    vendor::{Seen, VendorError, VendorState},
};
use http::StatusCode;
use jiff::SignedDuration;

use crate::{NOON, chosen, deleted, device, nothing_told, observed, provisioning, refused, said, seen, step};

fn attempt(device: &Device) -> &Attempt {
    device.attempt.as_ref().unwrap()
}

/// Seconds, request, status and words of what is kept.
fn answers(attempt: &Attempt) -> Vec<(i64, &str, Option<u16>, &str)> {
    let kept = attempt.last_answers.iter();
    kept.map(|it| (it.at.duration_since(NOON).as_secs(), it.request.as_str(), it.status, it.text.as_str())).collect()
}

fn states(attempt: &Attempt) -> Vec<(i64, &str)> {
    attempt.states.iter().map(|it| (it.at.duration_since(NOON).as_secs(), it.state.as_str())).collect()
}

/// A machine in a state that the vendor calls so.
fn called(word: &str, state: VendorState) -> Seen {
    let mut seen = seen("a", state);
    word.clone_into(&mut seen.machine.state);
    seen
}

fn told(events: &[&str], health: Result<Option<String>, VendorError>) -> Outcome {
    let event = |(index, kind): (usize, &&str)| Event {
        at: NOON + SignedDuration::from_secs(i64::try_from(index).unwrap()),
        source: Source::Vendor,
        kind: (*kind).to_owned(),
        text: "words".to_owned(),
        id: Some(index.to_string()),
    };
    let events = events.iter().enumerate().map(event).collect();
    Outcome::Diagnosed(Diagnosis { events: Ok((StatusCode::OK, events)), health })
}

/// An attempt that stood still, up to the question what has happened.
fn stalled() -> Device {
    let mut device = device(Request { stall_timeout_seconds: 60, ..Request::default() });
    chosen(&mut device, 0, "ewr1");
    let made = Seen { status: StatusCode::CREATED, ..called("queued", VendorState::Coming) };
    step(&mut device, 1, Action::Create, Outcome::Created(Ok(made)));
    for second in [6, 11] {
        step(&mut device, second, Action::Observe, observed(vec![called("provisioning", VendorState::Coming)]));
    }
    let effects = step(&mut device, 66, Action::Observe, observed(vec![called("provisioning", VendorState::Coming)]));
    assert_eq!(effects.failed.unwrap().code, Code::Stalled);
    device
}

#[test]
fn a_stalled_attempt_has_states_with_times_health_events_and_the_last_answers() {
    let mut device = stalled();
    step(
        &mut device,
        67,
        Action::Diagnose,
        told(&["provisioning.101", "provisioning.102"], Ok(Some("critical".into()))),
    );
    let going = || vec![called("deprovisioning", VendorState::Going)];
    let asked = Teardown {
        left: vec![called("provisioning", VendorState::Coming)],
        deletions: vec![deleted("a")],
        missing: None,
    };
    step(&mut device, 68, Action::TearDown, Outcome::TornDown(Ok(asked)));
    step(&mut device, 73, Action::TearDown, Outcome::TornDown(Ok(Teardown { left: going(), ..Teardown::default() })));
    let missing = Some(StatusCode::NOT_FOUND);
    let effects =
        step(&mut device, 78, Action::TearDown, Outcome::TornDown(Ok(Teardown { missing, ..Teardown::default() })));

    let closed = effects.closed.unwrap();
    assert_eq!(device.attempt.as_ref(), Some(&closed), "the record is what is kept");
    assert_eq!(states(&closed), [(1, "queued"), (6, "provisioning"), (73, "deprovisioning")]);
    let health = closed.health.as_ref().unwrap();
    assert_eq!((health.rollup.as_str(), health.at), ("critical", NOON + SignedDuration::from_secs(67)));
    let expected = [
        (1, "POST /projects/…/devices", Some(201), "a is queued"),
        (6, "GET /projects/…/devices", Some(200), "a is provisioning"),
        (67, "GET /devices/a/events", Some(200), "2 events, the last: provisioning.102"),
        (68, "DELETE /devices/a", Some(204), "it will be deleted"),
        (78, "GET /devices/a", Some(404), "it is gone, or kept from us"),
    ];
    assert_eq!(answers(&closed), expected);
    let vendors: Vec<_> = closed.events.iter().filter(|event| event.source == Source::Vendor).collect();
    assert_eq!(vendors.len(), 2);
}

#[test]
fn a_health_that_is_not_offered_leaves_no_trace_and_one_that_fails_hinders_nothing() {
    let mut device = stalled();
    let before = answers(attempt(&device)).len();
    step(&mut device, 67, Action::Diagnose, nothing_told());
    assert_eq!(attempt(&device).health, None);
    assert_eq!(answers(attempt(&device))[before..], [(67, "GET /devices/a/events", Some(200), "0 events")]);
    let text = format!("{device:?}");
    assert!(!text.contains("health/rollup"), "{text}");
    step(&mut device, 67, Action::TearDown, Outcome::TornDown(Ok(Teardown::default())));
    assert_eq!(device.state(), State::Requested);

    let mut device = stalled();
    let notes = attempt(&device).events.len();
    step(&mut device, 67, Action::Diagnose, told(&[], Err(refused(500))));
    assert_eq!((&attempt(&device).health, attempt(&device).events.len()), (&None, notes));
    let last = *answers(attempt(&device)).last().unwrap();
    assert_eq!(last, (67, "GET /devices/a/diagnostics/health/rollup", Some(500), "no"));
    step(&mut device, 67, Action::TearDown, Outcome::TornDown(Ok(Teardown::default())));
    assert_eq!(device.state(), State::Requested);
}

#[test]
fn what_the_vendor_refuses_is_kept_with_its_status_and_its_words() {
    for (error, status, words) in [
        (VendorError::OutOfCapacity(said(503, "none left")), Some(503), "none left"),
        (VendorError::Place(said(422, "ewr1 is closed")), Some(422), "ewr1 is closed"),
        (VendorError::Limited { retry_after: None }, Some(429), "the vendor asks for fewer requests"),
        (refused(502), Some(502), "no"),
    ] {
        let mut device = device(Request::default());
        chosen(&mut device, 0, "ewr1");
        step(&mut device, 0, Action::Create, Outcome::Created(Err(error)));
        assert_eq!(answers(attempt(&device)), [(0, "POST /projects/…/devices", status, words)]);
    }
    // What it says of a token may have the token in it.
    let mut device = device(Request::default());
    chosen(&mut device, 0, "ewr1");
    let denied = VendorError::Denied { status: StatusCode::UNAUTHORIZED, text: "bad token tok-4711".to_owned() };
    step(&mut device, 0, Action::Create, Outcome::Created(Err(denied)));
    assert_eq!(attempt(&device).last_answers[0].status, Some(401));
    assert!(!format!("{device:?}").contains("tok-4711"), "{device:#?}");
}

#[test]
fn the_same_answer_is_kept_once_and_of_many_the_last() {
    let mut device = provisioning(Request::default());
    let before = device.clone();
    for second in [5, 10, 15] {
        step(&mut device, second, Action::Observe, Outcome::Observed(Err(refused(500))));
    }
    let kept = answers(attempt(&device));
    assert_eq!(kept[kept.len() - 1], (5, "GET /projects/…/devices", Some(500), "no"));
    assert_eq!(kept.len(), answers(attempt(&before)).len() + 1);

    // The vendor has a new word for it each time.
    for second in 20..60 {
        let seen = called(&format!("state {second}"), VendorState::Coming);
        step(&mut device, second, Action::Observe, observed(vec![seen]));
    }
    let kept = answers(attempt(&device));
    assert_eq!(kept.len(), MOST_ANSWERS);
    assert_eq!(kept.last().unwrap().3, "a is state 59");
    let states = states(attempt(&device));
    assert_eq!((states.len(), states[1]), (MOST_STATES, (20, "state 20")), "how it began is kept");
}

#[test]
fn a_machine_that_is_missing_is_told_with_the_status_that_said_so() {
    let mut device = provisioning(Request::default());
    let missing = Some(StatusCode::FORBIDDEN);
    step(&mut device, 5, Action::Observe, Outcome::Observed(Ok(Observation { missing, ..Observation::default() })));
    let kept = answers(attempt(&device));
    assert_eq!(kept[kept.len() - 1], (5, "GET /devices/a", Some(403), "it is gone, or kept from us"));
}

#[test]
fn what_comes_after_an_attempt_has_come_up_is_not_one_of_its_states() {
    let mut device = provisioning(Request { ttl_seconds: Some(3600), ephemeral: true, ..Request::default() });
    step(&mut device, 5, Action::Observe, observed(vec![called("active", VendorState::Active)]));
    let going = vec![called("deprovisioning", VendorState::Going)];
    step(&mut device, 6, Action::TearDown, Outcome::TornDown(Ok(Teardown { left: going, ..Teardown::default() })));
    assert_eq!(states(attempt(&device)).last(), Some(&(5, "active")));
}
