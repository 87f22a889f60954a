//! One thing that goes wrong at a time, and what becomes of it.

use std::time::Duration;

use devices::{
    device::{Code, Source, State},
    request::{FacilityWanted, PlanWanted, Request},
};
use simulators::packet::{Config, Fault, Request as Asked, Rule};

use crate::common::{World, owner};

const MINUTES: Duration = Duration::from_secs(20 * 60);

fn cheap() -> Request {
    Request { max_attempts: 3, provision_timeout_seconds: 600, stall_timeout_seconds: 120, ..Request::default() }
}

fn rule(text: &str) -> Rule {
    text.parse().unwrap()
}

async fn with(faults: &[&str]) -> World {
    World::new(Config { faults: faults.iter().map(|text| rule(text)).collect(), ..Config::default() }).await
}

#[tokio::test]
async fn a_device_comes_up_and_stays_and_is_gone_when_asked() {
    let world = with(&[]).await;
    let mut rounds = world.rounds();
    let id = world.launch(cheap()).await;
    let whole = world.until(&mut rounds, id, &[State::Active], MINUTES).await;
    let attempt = &whole.attempts[0];
    assert_eq!((whole.attempts.len(), attempt.reason.as_ref().unwrap().code), (1, Code::CameUp));
    assert_eq!(attempt.percent, 100);
    assert!(attempt.events.iter().any(|event| event.source == Source::Vendor && event.kind == "provisioning.110"));
    let machine = whole.device.machine().unwrap();
    assert!(!machine.addresses.is_empty());
    assert_eq!(world.alive(), std::slice::from_ref(&machine.id));
    assert_eq!(world.sim.alive()[0].termination_time, None, "the dead man's switch is off");
    assert!(world.devices().work().await.unwrap().is_empty());

    let asked = |kind| world.sim.stats().requests(kind);
    let before = (asked(Asked::List) + asked(Asked::Get), asked(Asked::Delete));
    world.delete(id).await;
    rounds.round().await.unwrap();
    let after = (asked(Asked::List) + asked(Asked::Get), asked(Asked::Delete));
    assert_eq!((after.0 - before.0, after.1 - before.1), (0, 1), "what is known need not be looked for first");
    let whole = world.until(&mut rounds, id, &[State::Deleted], MINUTES).await;
    assert!(world.alive().is_empty());
    assert_eq!(asked(Asked::Delete), after.1, "once is enough");
    assert_eq!(whole.device.reason.unwrap().code, Code::Deleted);
    assert!(world.devices().work().await.unwrap().is_empty() && world.devices().alive().await.unwrap().is_empty());

    // All of it goes in the end, and not before.
    assert_eq!(world.embedded.sweep_expired().await.unwrap(), 0);
    let items = world.everything().await;
    assert!(items.iter().all(|item| item.contains_key("ttl") || item["pk"].as_s().unwrap() == "SWEEP"), "{items:#?}");
    assert_eq!(items.iter().filter(|item| item.contains_key("ttl")).count(), 3, "record, attempt, place in the list");
}

#[tokio::test]
async fn whatever_carries_the_tag_of_a_device_that_is_deleted_goes_with_it() {
    let world = with(&[]).await;
    let mut rounds = world.rounds();
    let id = world.launch(cheap()).await;
    world.until(&mut rounds, id, &[State::Active], MINUTES).await;
    world.somebody_creates(&format!("muster:{id}")).await;
    assert_eq!(world.alive().len(), 2);
    world.delete(id).await;
    world.until(&mut rounds, id, &[State::Deleted], MINUTES).await;
    assert!(world.alive().is_empty());
}

#[tokio::test]
async fn until_it_is_up_the_vendor_would_take_it_down_by_itself() {
    let world = with(&["stuck_at=1,step=105"]).await;
    let mut rounds = world.rounds();
    let id = world.launch(cheap()).await;
    world.until(&mut rounds, id, &[State::Provisioning], MINUTES).await;
    drop(rounds);
    let switch = world.sim.alive()[0].termination_time.unwrap();
    assert!(switch > world.clock.now());
    // Nobody works any more.
    world.advance(Duration::from_secs(2 * 3600));
    assert!(world.alive().is_empty());
}

#[tokio::test]
async fn an_answer_that_is_lost_is_found_by_the_tag() {
    for fault in ["create_dropped,times=1", "create_error_after,times=1"] {
        let world = with(&[fault]).await;
        let mut rounds = world.rounds();
        let id = world.launch(cheap()).await;
        let whole = world.until(&mut rounds, id, &[State::Active], MINUTES).await;
        assert_eq!(world.sim.devices().len(), 1, "{fault}: nothing was created twice");
        assert_eq!(whole.attempts.len(), 1, "{fault}");
    }
}

#[tokio::test]
async fn of_two_machines_for_one_device_the_younger_goes() {
    let world = with(&["create_twice,times=1"]).await;
    let mut rounds = world.rounds();
    let id = world.launch(cheap()).await;
    rounds.round().await.unwrap();
    assert_eq!(world.alive().len(), 2);
    for _ in 0..3 {
        world.advance(Duration::from_secs(5));
        rounds.round().await.unwrap();
    }
    assert_eq!(world.alive().len(), 1, "within a quarter of a minute");
    let whole = world.until(&mut rounds, id, &[State::Active], MINUTES).await;
    let made = world.sim.devices();
    let oldest = made.iter().min_by_key(|machine| (machine.created_at, machine.id.clone())).unwrap();
    assert_eq!(world.alive(), std::slice::from_ref(&oldest.id));
    assert_eq!(whole.device.machine_id(), Some(oldest.id.as_str()));
}

#[tokio::test]
async fn what_has_no_capacity_is_tried_elsewhere_and_remembered_for_all() {
    let world = with(&["out_of_capacity,times=1"]).await;
    let mut rounds = world.rounds();
    let id = world.launch(cheap()).await;
    let whole = world.until(&mut rounds, id, &[State::Active], MINUTES).await;
    let codes: Vec<_> = whole.attempts.iter().map(|attempt| attempt.reason.as_ref().unwrap().code).collect();
    assert_eq!(codes, [Code::OutOfCapacity, Code::CameUp]);
    let [first, second] = &whole.attempts[..] else { panic!() };
    assert_ne!(
        (&first.candidate.plan, &first.candidate.facility),
        (&second.candidate.plan, &second.candidate.facility)
    );
    let failures = world.devices().failures().await.unwrap();
    assert_eq!(failures.get(&first.candidate.plan, &first.candidate.facility).unwrap().count, 1);

    let another = world.launch(cheap()).await;
    let whole = world.until(&mut rounds, another, &[State::Active], MINUTES).await;
    assert_eq!(whole.attempts.len(), 1, "the next device does not try it again");
    assert_eq!(whole.attempts[0].candidate.facility, second.candidate.facility);
}

#[tokio::test]
async fn an_installation_that_stands_still_fails_or_is_taken_back_is_rolled_back_and_tried_elsewhere() {
    let cases = [
        ("stuck_at,nth=1,step=104", &[Code::Stalled][..]),
        ("create_refused,times=1", &[Code::CombinationRefused]),
        ("failed_at,nth=1,step=106", &[Code::ProvisioningFailed]),
        // Between two looks it may have been failed or gone.
        ("reclaimed,nth=1,step=103,status=403", &[Code::Reclaimed, Code::ProvisioningFailed]),
        ("reclaimed,nth=1,step=103,status=404", &[Code::Reclaimed, Code::ProvisioningFailed]),
        ("delete_ignored,times=2 stuck_at,nth=1", &[Code::Stalled]),
        ("delete_slow,nth=1,lasts=3m stuck_at,nth=1", &[Code::Stalled]),
        ("delete_refused,times=3 failed_at,nth=1", &[Code::ProvisioningFailed]),
        ("get_forbidden,nth=1 failed_at,nth=1", &[Code::ProvisioningFailed]),
    ];
    for (faults, codes) in cases {
        let world = with(&faults.split(' ').collect::<Vec<_>>()).await;
        let mut rounds = world.rounds();
        let id = world.launch(cheap()).await;
        let whole = world.until(&mut rounds, id, &[State::Active, State::Failed], 2 * MINUTES).await;
        assert_eq!(whole.device.state(), State::Active, "{faults}: {whole:#?}");
        let [first, second] = &whole.attempts[..] else { panic!("{faults}: {whole:#?}") };
        assert!(codes.contains(&first.reason.as_ref().unwrap().code), "{faults}: {:?}", first.reason);
        assert!(first.ended_at.unwrap() <= second.started_at, "{faults}: the next one waits for the end");
        for machine in &world.sim.devices()[..world.sim.devices().len() - 1] {
            assert!(machine.ended_at.unwrap() <= second.started_at, "{faults}: {machine:#?}");
        }
        assert_eq!(world.alive().len(), 1, "{faults}");
        if codes == [Code::Stalled] {
            assert!(first.events.iter().any(|event| event.source == Source::Vendor), "{faults}: no diagnosis");
        }
    }
}

#[tokio::test]
async fn a_machine_that_somebody_has_taken_our_tag_off_is_still_ours() {
    let world = with(&[]).await;
    let mut rounds = world.rounds();
    let id = world.launch(cheap()).await;
    world.until(&mut rounds, id, &[State::Provisioning], MINUTES).await;
    let known = world.alive().remove(0);
    world.somebody_untags(&known).await;
    let whole = world.until(&mut rounds, id, &[State::Active], MINUTES).await;
    assert_eq!((whole.attempts.len(), whole.device.machine_id()), (1, Some(known.as_str())));
    world.delete(id).await;
    world.until(&mut rounds, id, &[State::Deleted], MINUTES).await;
    assert!(world.alive().is_empty());
}

#[tokio::test]
async fn a_teardown_that_is_never_confirmed_stops_the_search_and_is_never_given_up() {
    let world = with(&["delete_ignored", "stuck_at"]).await;
    let mut rounds = world.rounds();
    let id = world.launch(cheap()).await;
    for _ in 0..(3600 / 5) {
        rounds.round().await.unwrap();
        world.advance(Duration::from_secs(5));
    }
    assert_eq!(world.state(id).await, State::Deleting);
    assert_eq!(world.sim.devices().len(), 1, "no other combination is tried");
    world.sim.heal(Fault::DeleteIgnored);
    let whole = world.until(&mut rounds, id, &[State::Failed], MINUTES).await;
    assert_eq!(whole.device.reason.unwrap().code, Code::TeardownUnconfirmed);
    assert!(world.alive().is_empty());
}

#[tokio::test]
async fn what_no_other_combination_would_help_ends_at_once() {
    for (fault, code) in [("quota", Code::Quota), ("token_revoked,on=create", Code::Credentials)] {
        let world = with(&[fault]).await;
        let mut rounds = world.rounds();
        let id = world.launch(cheap()).await;
        let whole = world.until(&mut rounds, id, &[State::Failed], MINUTES).await;
        assert_eq!(whole.device.reason.unwrap().code, code, "{fault}");
        assert_eq!(whole.attempts.len(), 1, "{fault}");
        assert!(world.sim.devices().is_empty(), "{fault}");
    }
}

#[tokio::test]
async fn a_revoked_token_is_no_reason_to_think_a_machine_gone() {
    let world = with(&[]).await;
    let mut rounds = world.rounds();
    let id = world.launch(cheap()).await;
    world.until(&mut rounds, id, &[State::Provisioning], MINUTES).await;
    world.sim.revoke_token();
    for _ in 0..12 {
        world.advance(Duration::from_secs(5));
        rounds.round().await.unwrap();
    }
    let whole = world.whole(id).await;
    assert_eq!(whole.device.state(), State::Provisioning);
    assert!(whole.device.attempt.unwrap().trouble.unwrap().contains("MUSTER_PACKET_TOKEN"));
    world.sim.heal(Fault::TokenRevoked);
    let whole = world.until(&mut rounds, id, &[State::Active], MINUTES).await;
    assert_eq!((whole.attempts.len(), world.sim.devices().len()), (1, 1));
}

#[tokio::test]
async fn a_passing_error_is_tried_again_with_the_same_combination() {
    for fault in ["rate_limited,on=create", "server_error,on=create", "html,on=create", "dropped,on=create"] {
        let world = with(&[&format!("{fault},until=30s")]).await;
        let mut rounds = world.rounds();
        let id = world.launch(cheap()).await;
        let whole = world.until(&mut rounds, id, &[State::Active], MINUTES).await;
        assert_eq!(whole.attempts.len(), 1, "{fault}: {:#?}", whole.attempts);
        assert_eq!(world.alive().len(), 1, "{fault}");
    }
}

#[tokio::test]
async fn the_first_worker_to_die_leaves_nothing_that_the_next_does_not_know() {
    // The worker's write after the create is lost, and it is never heard of again.
    let world = with(&[]).await;
    let id = world.launch(cheap()).await;
    let mut rounds = world.rounds();
    let store = world.devices();
    // Somebody asks for the deletion while the create is under way: the worker loses the race.
    let racing = async {
        while store.device(id).await.unwrap().unwrap().state() != State::Creating {
            tokio::task::yield_now().await;
        }
        world.delete(id).await;
    };
    let (round, ()) = tokio::join!(rounds.round(), racing);
    round.unwrap();
    drop(rounds);
    let mut rounds = world.rounds();
    let whole = world.until(&mut rounds, id, &[State::Deleted], MINUTES).await;
    assert!(world.alive().is_empty(), "{whole:#?}");
    assert!(world.sim.devices().len() <= 1);
}

#[tokio::test]
async fn an_ephemeral_device_is_taken_down_as_soon_as_it_is_up() {
    let world = with(&[]).await;
    let mut rounds = world.rounds();
    let id = world.launch(Request { ephemeral: true, ..cheap() }).await;
    let whole = world.until(&mut rounds, id, &[State::Deleted], MINUTES).await;
    assert!(whole.device.active_at.is_some());
    assert_eq!(whole.device.reason.unwrap().code, Code::Ephemeral);
    assert!(world.alive().is_empty());
    assert!(world.sim.devices()[0].active_at.is_some());
}

#[tokio::test]
async fn nothing_that_fits_is_a_failure_with_its_reason_and_without_a_machine() {
    let world = World::new(Config { stock: 0, ..Config::default() }).await;
    let mut rounds = world.rounds();
    let dear =
        Request { plan: PlanWanted { slug: Some("no.such.plan".to_owned()), ..PlanWanted::default() }, ..cheap() };
    let facility = FacilityWanted { codes: ["ewr1".to_owned()].into(), ..FacilityWanted::default() };
    for request in [dear, Request { facility, ..cheap() }] {
        let id = world.launch(request).await;
        let whole = world.until(&mut rounds, id, &[State::Failed], MINUTES).await;
        let reason = whole.device.reason.unwrap();
        assert_eq!(reason.code, Code::NothingLeft);
        assert!(reason.detail.contains("no.such.plan") || reason.detail.contains("capacity"), "{}", reason.detail);
        assert!(whole.attempts.is_empty() && world.sim.devices().is_empty());
    }
}

#[tokio::test]
async fn many_devices_are_watched_with_one_listing() {
    let world = World::new(Config { stock: 1000, ..Config::default() }).await;
    let mut rounds = world.rounds();
    let mut ids = Vec::new();
    for _ in 0..40 {
        ids.push(world.launch(cheap()).await);
    }
    for _ in 0..12 {
        rounds.round().await.unwrap();
        world.advance(Duration::from_secs(5));
    }
    for id in &ids {
        assert_eq!(world.state(*id).await, State::Active);
    }
    assert_eq!(world.alive().len(), 40);
    let stats = world.sim.stats();
    let asked = |kind| stats.requests(kind);
    assert_eq!((asked(Asked::Create), asked(Asked::Update)), (40, 40));
    assert!(asked(Asked::List) + asked(Asked::Get) < 60, "{stats:?}");
}

#[tokio::test]
async fn the_sweep_reports_what_nobody_knows_deletes_it_if_told_to_and_misses_what_is_gone() {
    for (sweep, deletes) in [("report", false), ("delete", true)] {
        let world = World::with(Config::default(), sweep).await;
        let mut rounds = world.rounds();
        let id = world.launch(cheap()).await;
        world.until(&mut rounds, id, &[State::Active], MINUTES).await;
        for tag in [format!("muster:{}", uuid::Uuid::now_v7()), format!("muster:{id}"), "other:1".to_owned()] {
            world.somebody_creates(&tag).await;
        }
        assert_eq!(world.alive().len(), 4);
        world.advance(Duration::from_secs(16 * 60));
        rounds.round().await.unwrap();
        world.advance(Duration::from_secs(60));
        let swept = world.devices().last_sweep().await.unwrap().unwrap();
        assert_eq!(swept.orphans.len(), 2);
        // A second machine of a device that is up was never wanted, whatever the setting.
        assert_eq!(swept.deleted.len(), if deletes { 2 } else { 1 });
        let alive = world.sim.alive();
        assert_eq!(alive.len(), if deletes { 2 } else { 3 });
        assert_eq!(alive.iter().filter(|machine| owner(machine) == Some(id)).count(), 1);

        // Somebody deletes the machine at the vendor.
        let known = world.whole(id).await.device.machine_id().unwrap().to_owned();
        world.somebody_deletes(&known).await;
        world.advance(Duration::from_secs(16 * 60));
        rounds.round().await.unwrap();
        let whole = world.until(&mut rounds, id, &[State::Deleted], MINUTES).await;
        assert_eq!(whole.device.reason.unwrap().code, Code::Reclaimed);
    }
}

#[tokio::test]
async fn a_device_whose_time_has_come_is_deleted_here_too() {
    let world = with(&[]).await;
    let mut rounds = world.rounds();
    let id = world.launch(Request { ttl_seconds: Some(1200), ..cheap() }).await;
    world.until(&mut rounds, id, &[State::Active], MINUTES).await;
    assert_eq!(world.sim.alive()[0].termination_time, Some(crate::common::NOON + Duration::from_secs(1200)));
    world.advance(Duration::from_secs(1500));
    rounds.round().await.unwrap();
    let whole = world.until(&mut rounds, id, &[State::Deleted], MINUTES).await;
    assert_eq!(whole.device.reason.unwrap().code, Code::Terminated);
    assert!(world.alive().is_empty());
}
