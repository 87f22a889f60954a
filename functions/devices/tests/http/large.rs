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

use crate::common::{DEVICES, NOON, World, path};

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

/// A device with so many attempts, each with as many events as there can be. The texts of these take
/// turns.
async fn long(world: &World, attempts: u32, characters: &[&str]) -> Whole {
    let request = Request { tags: vec!["\"".repeat(100); 20], max_attempts: 50, ..Request::default() };
    let mut device = Device::new(Uuid::now_v7(), "acme".to_owned(), request, false, NOON);
    world.devices().create(&device, None, None).await.unwrap();
    for (number, character) in (1..=attempts).zip(characters.iter().cycle()) {
        let text = character.repeat(LONGEST_TEXT);
        let closed = attempt(number, &text);
        let mut after = device.clone();
        after.reason = Some(Reason::new(Code::Stalled, &text));
        after.attempt = (number == attempts).then(|| closed.clone());
        let effects = Effects { closed: Some(closed), ..Effects::default() };
        device = world.devices().write(&device, after, &effects, NOON).await.unwrap().unwrap();
    }
    world.devices().whole(device.id).await.unwrap().unwrap()
}

#[tokio::test]
async fn of_the_longest_histories_an_answer_shows_the_ends() {
    let world = World::new().await;
    let client = world.client("acme").await;
    for (attempts, characters, shown) in [(3, &["x"][..], 20), (50, &["\"", "🦀"], 10)] {
        let whole = long(&world, attempts, characters).await;
        let id = whole.device.id.to_string();
        let reply = client.get(&path(&id, "")).await.expect(200);
        assert!(escaped(&reply) <= MOST, "{}", escaped(&reply));
        let device = reply.json();
        let of_each = device["attempts"].as_array().unwrap();
        assert_eq!(of_each.len(), attempts as usize);
        for (attempt, stored) in of_each.iter().zip(&whole.attempts) {
            let events = attempt["events"].as_array().unwrap();
            assert_eq!((events.len(), &attempt["events_total"]), (shown, &Value::from(MOST_EVENTS)));
            assert_eq!(events.last().unwrap()["at"], stored.events.last().unwrap().at.to_string(), "the newest");
        }
        let page = client.get(&path(&id, "/events?limit=500")).await.expect(200);
        assert!(escaped(&page) <= MOST, "{}", escaped(&page));
        assert!(page.next_link().is_some());
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
