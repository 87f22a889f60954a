//! What is kept of an attempt and what it has cost, told by those who know: the simulator and the store.

use std::{collections::HashMap, time::Duration};

use devices::{
    cost::Cost,
    device::{
        Address, Attempt, Code, Device, Event, Failed, LONGEST_ID_BYTES, MOST_DEVICE_EVENTS, MOST_EVENTS, MOST_TWINS,
        Machine, Reason, Source, State, cut, cut_name,
    },
    machine::{Ctx, Diagnosis, Effects, Observation, Outcome, apply, ask_delete},
    record::{MOST_ANSWERS, MOST_STATES},
    request::{FacilityWanted, MAX_ATTEMPTS, OsWanted, PlanWanted, Request},
    select::{Candidate, NotAgain},
    store::Whole,
    vendor::{Said, Seen, VendorError, VendorState},
};
use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use kit::dynamo::{AttributeValue, Item, from_item, to_item};
use simulators::packet::{Config, Request as Asked};
use uuid::Uuid;

use crate::common::{NOON, World};

const MINUTES: Duration = Duration::from_secs(20 * 60);
/// What a record stays below, in bytes as DynamoDB counts them; it takes 400 KB.
const MOST_BYTES: usize = 300 * 1024;

fn cheap() -> Request {
    Request { max_attempts: 3, provision_timeout_seconds: 600, stall_timeout_seconds: 120, ..Request::default() }
}

async fn with(faults: &[&str], config: Config) -> World {
    World::new(Config { faults: faults.iter().map(|text| text.parse().unwrap()).collect(), ..config }).await
}

fn answer<'a>(attempt: &'a Attempt, request: &str) -> Option<(Option<u16>, &'a str)> {
    let id = attempt.machine.as_ref().map(|machine| machine.id.as_str()).unwrap_or_default();
    let request = request.replace("{id}", id);
    let found = attempt.last_answers.iter().find(|it| it.request == request);
    found.map(|it| (it.status, it.text.as_str()))
}

#[tokio::test]
async fn a_stalled_attempt_leaves_a_record_of_what_the_vendor_said() {
    let config = Config { deprovision: Duration::from_secs(12), ..Config::default() };
    let world = with(&["stuck_at,nth=1,step=104", "health_critical"], config).await;
    let mut rounds = world.rounds();
    let id = world.launch(cheap()).await;
    let whole = world.until(&mut rounds, id, &[State::Active], 2 * MINUTES).await;
    let [first, second] = &whole.attempts[..] else { panic!("{whole:#?}") };
    assert_eq!(first.reason.as_ref().unwrap().code, Code::Stalled);
    let states: Vec<_> = first.states.iter().map(|it| it.state.as_str()).collect();
    assert_eq!(states, ["queued", "provisioning", "deprovisioning"]);
    let times: Vec<_> = first.states.iter().map(|it| it.at).collect();
    assert!(times.is_sorted() && first.started_at <= times[0] && times[2] <= first.ended_at.unwrap(), "{first:#?}");
    assert!(times[2].duration_since(times[1]) >= SignedDuration::from_secs(120), "{first:#?}");
    assert_eq!(first.health.as_ref().unwrap().rollup, "critical");
    let machine = &first.machine.as_ref().unwrap().id;
    let queued = format!("{machine} is queued");
    assert_eq!(answer(first, "POST /projects/…/devices"), Some((Some(201), queued.as_str())));
    let events = answer(first, "GET /devices/{id}/events").unwrap();
    assert!(events.0 == Some(200) && events.1.ends_with("the last: provisioning.104"), "{events:?}");
    assert_eq!(answer(first, "DELETE /devices/{id}").unwrap().0, Some(204));
    assert_eq!(answer(first, "GET /devices/{id}").unwrap().0, Some(404), "it was confirmed gone");
    assert!(first.events.iter().any(|it| it.source == Source::Vendor && it.kind == "provisioning.104"));

    // A success is asked for no diagnosis.
    assert_eq!(world.sim.stats().requests(Asked::Health), 1);
    assert_eq!((&second.health, second.states.last().unwrap().state.as_str()), (&None, "active"));
}

#[tokio::test]
async fn a_vendor_that_tells_no_health_is_not_asked_in_vain_for_long() {
    let none = Config { no_health: true, ..Config::default() };
    let cases = [
        (vec![], none, None),
        (vec!["get_forbidden"], Config::default(), None),
        (vec!["server_error,on=health,status=500"], Config::default(), Some(Some(500))),
        (vec!["dropped,on=health"], Config::default(), Some(None)),
    ];
    for (mut faults, config, status) in cases {
        faults.push("stuck_at,nth=1,step=104");
        let world = with(&faults, config).await;
        let mut rounds = world.rounds();
        let id = world.launch(cheap()).await;
        let whole = world.until(&mut rounds, id, &[State::Active], 2 * MINUTES).await;
        let first = &whole.attempts[0];
        assert_eq!((whole.attempts.len(), &first.health), (2, &None), "{faults:?}");
        let told = answer(first, "GET /devices/{id}/diagnostics/health/rollup").map(|(status, _)| status);
        assert_eq!(told, status, "{faults:?}: {:#?}", first.last_answers);
        if status.is_none() {
            let kept = format!("{whole:?}");
            assert!(!kept.contains("health/rollup") && !kept.contains("rollup:"), "{faults:?}: {kept}");
        }
        let took = first.ended_at.unwrap().duration_since(first.started_at);
        assert!(took < SignedDuration::from_secs(180), "{faults:?}: it held the teardown up: {took:?}");
    }
}

/// What the machines of a device have cost, by our arithmetic, in millionths of a dollar.
fn cost(world: &World, whole: &Whole) -> Vec<u64> {
    let now = world.clock.now();
    whole.attempts.iter().map(|attempt| Cost::of(&whole.device, attempt, now).dollars.micros()).collect()
}

#[tokio::test]
async fn a_cost_is_what_the_vendor_counts_too() {
    let world = with(&["stuck_at,nth=1,step=104"], Config::default()).await;
    let mut rounds = world.rounds();
    let id = world.launch(cheap()).await;
    let whole = world.until(&mut rounds, id, &[State::Active], 2 * MINUTES).await;
    let theirs = |at: usize| world.sim.devices()[at].cost_micro_usd;
    // The price of so many seconds, which is what a look now and then may be late by.
    let seconds = |attempt: &Attempt, seconds| attempt.candidate.price.for_seconds(seconds).micros();
    let late = |ours: u64, at: usize, within: u64| {
        let attempt = &whole.attempts[at];
        let vendors = theirs(at);
        assert!(vendors > 0 && vendors <= ours + 1, "{ours} here, {vendors} there");
        assert!(ours <= vendors + seconds(attempt, within) + 1, "{ours} here, {vendors} there");
    };
    let ours = cost(&world, &whole);
    late(ours[0], 0, 10);
    // The one that is up is still there, so there is nothing to be late by.
    assert!(ours[1].abs_diff(theirs(1)) <= 1, "{} here, {} there", ours[1], theirs(1));

    world.advance(Duration::from_secs(5000));
    let whole_later = world.whole(id).await;
    let later = cost(&world, &whole_later);
    assert_eq!(later[0], ours[0], "what is gone costs no more");
    assert!(later[1].abs_diff(theirs(1)) <= 1 && later[1] > ours[1]);
    assert_eq!(Cost::of(&whole_later.device, &whole_later.attempts[1], world.clock.now()).billed_hours, 2);

    world.delete(id).await;
    // The record's own attempt goes on where the kept one ended.
    let gone = world.until(&mut rounds, id, &[State::Deleted], MINUTES).await;
    let gone = Whole { attempts: vec![gone.attempts[0].clone(), gone.device.attempt.clone().unwrap()], ..gone };
    let end = cost(&world, &gone);
    late(end[1], 1, 10);
    world.advance(Duration::from_secs(5000));
    assert_eq!(cost(&world, &gone), end);
    let total: u64 = world.sim.devices().iter().map(|machine| machine.cost_micro_usd).sum();
    assert_eq!(world.sim.stats().cost_micro_usd, total);
}

/// Of four bytes each, and the dearest there is.
fn crabs(count: usize) -> String {
    "🦀".repeat(count)
}

fn name(count: usize) -> String {
    "n".repeat(count)
}

fn wanted() -> Request {
    let names = || (0..50).map(|number| format!("{number:02}{}", crabs(98))).collect::<Vec<_>>();
    Request {
        hostname: Some(name(253)),
        os: OsWanted { distro: Some(crabs(100)), version: Some(crabs(100)), slug: Some(crabs(100)) },
        plan: PlanWanted { class: Some(crabs(100)), slug: Some(crabs(100)), ..PlanWanted::default() },
        facility: FacilityWanted {
            codes: names().into_iter().collect(),
            features: names().into_iter().collect(),
            metros: names().into_iter().collect(),
        },
        tags: vec![crabs(100); 20],
        ssh_keys: names(),
        termination_time: Some(Timestamp::MAX),
        max_attempts: MAX_ATTEMPTS,
        ..Request::default()
    }
}

/// With the longest names that a catalogue may have.
fn candidate() -> Candidate {
    let value = serde_json::json!({
        "os": crabs(25), "plan": crabs(25), "facility": crabs(25), "metro": crabs(25), "price": 0.123_456,
        "level": "unavailable", "recent_failures": u32::MAX, "held_until": Timestamp::MAX,
    });
    serde_json::from_value(value).unwrap()
}

/// More events than are kept, each as long as it is read.
fn events() -> Vec<Event> {
    (0..MOST_EVENTS + 10).map(event).collect()
}

fn event(number: usize) -> Event {
    Event {
        at: NOON + SignedDuration::from_nanos(i64::try_from(number).unwrap() + 1),
        source: Source::Vendor,
        kind: cut_name(&crabs(300)),
        text: cut(&crabs(300)),
        id: Some(cut_name(&format!("{number:03}{}", crabs(300)))),
    }
}

/// A machine about which everything is as long as it is read.
fn seen(number: usize) -> Seen {
    let address = Address {
        address: "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff".to_owned(),
        family: 6,
        public: false,
        management: false,
        cidr: Some(128),
    };
    Seen {
        machine: Machine {
            id: format!("{number:04}{}", name(LONGEST_ID_BYTES - 4)),
            state: cut_name(&format!("{number:04}{}", crabs(300))),
            hostname: Some(cut(&crabs(300))),
            created_at: Some(NOON + SignedDuration::from_nanos(1)),
            termination_time: Some(Timestamp::MAX),
            addresses: vec![address; 64],
        },
        state: VendorState::Other,
        tags: Vec::new(),
        percent: Some(99),
        events: Vec::new(),
        locked: true,
        status: StatusCode::OK,
    }
}

/// A record in which everything is as much and as long as it can be, by way of what changes records.
fn brimful() -> Device {
    let mut device = Device::new(Uuid::now_v7(), "t".repeat(64), wanted(), true, NOON);
    let ctx = |seconds: i64| Ctx {
        now: NOON + SignedDuration::from_nanos(seconds * 1_000_000_000 + 123_456_789),
        me: Uuid::now_v7(),
        timeout: SignedDuration::from_secs(10),
        claim: SignedDuration::from_secs(20),
        dead_mans_switch: true,
    };
    // All attempts but the last one are refused.
    for _ in 1..MAX_ATTEMPTS {
        apply(&mut device, Outcome::Selected(Ok(Ok(candidate()))), &ctx(0));
        let said = Said { status: StatusCode::UNPROCESSABLE_ENTITY, text: cut(&crabs(300)) };
        apply(&mut device, Outcome::Created(Err(VendorError::Place(said))), &ctx(0));
    }
    assert_eq!(device.failed.len(), MAX_ATTEMPTS as usize - 1);
    apply(&mut device, Outcome::Selected(Ok(Ok(candidate()))), &ctx(0));
    let lost = VendorError::Broken { status: StatusCode::BAD_GATEWAY, text: cut(&crabs(300)) };
    apply(&mut device, Outcome::Created(Err(lost)), &ctx(0));
    apply(&mut device, Outcome::LookedUp(Ok(vec![seen(0)])), &ctx(0));
    let others = || (1..2 * MOST_TWINS).map(seen).collect();
    for round in 1..20 {
        let events = if round == 1 { events() } else { Vec::new() };
        let mine = Seen { events: events.clone(), ..seen(0) };
        let observation = Observation { mine: Some(mine), others: others(), missing: None };
        apply(&mut device, Outcome::Observed(Ok(observation)), &ctx(round));
        let words = seen(usize::try_from(round).unwrap()).machine.state;
        let mut mine = seen(0);
        mine.machine.state = words;
        let observation = Observation { mine: Some(mine), others: others(), missing: None };
        apply(&mut device, Outcome::Observed(Ok(observation)), &ctx(round));
        let words = format!("{round:03}{}", crabs(300));
        let broken = || VendorError::Broken { status: StatusCode::BAD_GATEWAY, text: cut(&words) };
        apply(&mut device, Outcome::Observed(Err(broken())), &ctx(round));
        let health = if round == 1 { Ok(Some(cut_name(&crabs(300)))) } else { Err(broken()) };
        apply(&mut device, Outcome::Diagnosed(Diagnosis { events: Ok((StatusCode::OK, events)), health }), &ctx(round));
    }
    assert_eq!(device.attempt.as_ref().unwrap().twins.len(), MOST_TWINS, "the others are found by the next look");
    // Whoever asks for much of a device writes it down too.
    let mut aside = device.clone();
    aside.attempt.as_mut().unwrap().ended_at = Some(NOON);
    for _ in 0..2 * MOST_DEVICE_EVENTS {
        aside.note(ctx(0).now, &cut_name(&crabs(300)), crabs(300));
    }
    device.events = aside.events;
    let Candidate { os, plan, facility, .. } = candidate();
    device.failed.push(Failed { os, plan, facility, pair: Some(NotAgain::Refused) });
    device.reason = Some(Reason::new(Code::TeardownUnconfirmed, crabs(300)));
    device.active_at = Some(ctx(0).now);
    ask_delete(&mut device, ctx(9).now);
    let attempt = device.attempt.as_mut().unwrap();
    attempt.twins = (0..MOST_TWINS).map(|number| seen(number).machine.id).collect();
    device
}

/// As DynamoDB counts: names and values in bytes, three for a list or a map and one for each of its
/// entries; a number at its longest.
fn size_of(value: &AttributeValue) -> usize {
    match value {
        AttributeValue::S(text) => text.len(),
        AttributeValue::N(_) => 21,
        AttributeValue::L(values) => 3 + values.iter().map(|value| 1 + size_of(value)).sum::<usize>(),
        AttributeValue::M(values) => {
            3 + values.iter().map(|(name, value)| 1 + name.len() + size_of(value)).sum::<usize>()
        }
        _ => 1,
    }
}

fn size(item: &Item) -> usize {
    let plain: HashMap<_, _> = item.clone().into_iter().collect();
    plain.iter().map(|(name, value)| name.len() + size_of(value)).sum()
}

#[tokio::test]
async fn a_record_filled_to_the_brim_fits_into_an_item_and_comes_back() {
    let world = World::new(Config::default()).await;
    let device = brimful();
    let attempt = device.attempt.as_ref().unwrap();
    assert_eq!((attempt.events.len(), device.events.len()), (MOST_EVENTS, MOST_DEVICE_EVENTS));
    assert_eq!((attempt.states.len(), attempt.last_answers.len()), (MOST_STATES, MOST_ANSWERS));
    assert_eq!((device.failed.len(), attempt.twins.len()), (MAX_ATTEMPTS as usize, MOST_TWINS));
    assert!(attempt.health.is_some() && attempt.trouble.is_some() && attempt.machine.is_some());
    let bytes = size(&to_item(&device).unwrap());
    assert!(bytes > MOST_BYTES / 2, "it is not full: {bytes}");
    assert!(bytes < MOST_BYTES, "{bytes}");

    world.devices().create(&device, None, None).await.unwrap();
    let effects = Effects { closed: device.attempt.clone(), ..Effects::default() };
    let written = world.devices().write(&device, device.clone(), &effects, NOON).await.unwrap().unwrap();
    let read = world.whole(device.id).await;
    assert_eq!(read.device, written);
    assert_eq!(read.attempts, [device.attempt.clone().unwrap()]);
    let stored = world.everything().await.into_iter().map(|item| size(&item)).max().unwrap();
    assert!(stored < MOST_BYTES, "{stored}");
    let back: Device = from_item(to_item(&device).unwrap()).unwrap();
    assert_eq!(back, device);
}
