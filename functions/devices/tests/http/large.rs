//! The largest devices there can be, against the load balancer's limit.

use devices::{
    device::{Attempt, Code, Device, Event, LONGEST_TEXT, MOST_EVENTS, Reason, Source},
    machine::Effects,
    request::Request,
    store::Whole,
};
use jiff::SignedDuration;
use kit::testing::Reply;
use serde_json::Value;
use uuid::Uuid;

use crate::common::{DEVICES, NOON, World, path, show, time_line};

/// The largest answer: the load balancer gets it as a text in JSON.
const MOST: usize = 900_000;

fn escaped(reply: &Reply) -> usize {
    serde_json::to_string(&reply.text()).unwrap().len()
}

fn attempt(number: u32, text: &str) -> Attempt {
    let at = |index: usize| NOON + SignedDuration::from_secs(i64::from(number) * 1000 + i64::try_from(index).unwrap());
    let event = |index| Event {
        at: at(index),
        source: Source::Vendor,
        kind: "provisioning.101".to_owned(),
        text: text.to_owned(),
        id: None,
    };
    let value = serde_json::json!({
        "number": number, "started_at": at(0), "progress_at": at(0), "ended_at": at(500),
        "candidate": {
            "os": "o".repeat(100), "plan": "p".repeat(100), "facility": "f".repeat(100), "price": 1.0,
            "level": "normal", "recent_failures": 0,
        },
    });
    let attempt: Attempt = serde_json::from_value(value).unwrap();
    let reason = Some(Reason::new(Code::Stalled, text));
    Attempt { events: (0..MOST_EVENTS).map(event).collect(), reason, ..attempt }
}

/// A device with as many attempts as there can be, each with as many events.
async fn longest(world: &World, text: &str) -> Whole {
    let request = Request { tags: vec!["\"".repeat(100); 20], max_attempts: 50, ..Request::default() };
    let mut device = Device::new(Uuid::now_v7(), "acme".to_owned(), request, false, NOON);
    world.devices().create(&device, None, None).await.unwrap();
    for number in 1..=50 {
        let mut after = device.clone();
        after.attempt = Some(attempt(number, text));
        after.reason = Some(Reason::new(Code::Stalled, text));
        let effects = Effects { closed: after.attempt.clone(), ..Effects::default() };
        device = world.devices().write(&device, after, &effects, NOON).await.unwrap().unwrap();
    }
    world.devices().whole(device.id).await.unwrap().unwrap()
}

#[tokio::test]
async fn the_longest_history_fits_into_answers_and_none_of_it_is_lost() {
    let world = World::new().await;
    let client = world.client("acme").await;
    for (character, shown) in [("x", 20), ("\"", 10), ("🦀", 10)] {
        let text = character.repeat(LONGEST_TEXT);
        let whole = longest(&world, &text).await;
        let id = whole.device.id.to_string();
        let reply = client.get(&path(&id, "")).await.expect(200);
        assert!(escaped(&reply) <= MOST, "{character}: {}", escaped(&reply));
        let device = reply.json();
        let attempts = device["attempts"].as_array().unwrap();
        assert_eq!(attempts.len(), 50);
        for attempt in attempts {
            let events = attempt["events"].as_array().unwrap();
            assert_eq!((events.len(), &attempt["events_total"]), (shown, &Value::from(MOST_EVENTS)), "{character}");
            // The newest ones.
            let last = whole.attempts[0].events.last().unwrap();
            if attempt["number"] == 1 {
                assert_eq!(events.last().unwrap()["at"], last.at.to_string());
            }
        }
        let page = client.get(&path(&id, "/events?limit=500")).await.expect(200);
        assert!(escaped(&page) <= MOST, "{character}: {}", escaped(&page));
        assert_eq!(time_line(&client, &id).await.len(), 50 * MOST_EVENTS + 1);
        assert_eq!(show(&client, &id).await, device);
    }
}

#[tokio::test]
async fn a_page_of_five_hundred_devices_with_much_to_say_fits_into_answers() {
    let world = World::new().await;
    let client = world.client("acme").await;
    for _ in 0..500 {
        let mut device = Device::new(Uuid::now_v7(), "acme".to_owned(), Request::default(), false, NOON);
        device.hostname = "h".repeat(253);
        device.attempt = Some(Attempt { events: Vec::new(), ..attempt(1, "x") });
        device.reason = Some(Reason::new(Code::VendorAway, "\"".repeat(LONGEST_TEXT)));
        world.devices().create(&device, None, None).await.unwrap();
    }
    let first = client.get(&format!("{DEVICES}?limit=500")).await.expect(200);
    assert!(escaped(&first) <= MOST, "{}", escaped(&first));
    assert!(first.next_link().is_some());
    assert_eq!(client.all(&format!("{DEVICES}?limit=500")).await.len(), 500);
}
