//! What is told, to whom, and how often.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use aws_sdk_sns::config::{BehaviorVersion, Credentials, Region};
use axum::{Router, extract::State, routing::post};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use hmac::{Hmac, Mac as _};
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};
use services::{notify::Notifier, worker::Ended};
use sha2::Sha256;
use simulators::cpx::Fate;
use tokio::net::TcpListener;

use crate::{
    common::{NOON, World},
    worker::{alerts, busy, well},
};

const KEY: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// Somebody who is told.
struct Receiver {
    url: String,
    state: Arc<Mutex<Told>>,
}

#[derive(Default)]
struct Told {
    /// What it answers from now on, one by one; then 200.
    answers: Vec<StatusCode>,
    posts: Vec<(HeaderMap, String)>,
}

impl Receiver {
    async fn new() -> Self {
        let state: Arc<Mutex<Told>> = Arc::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let take = async |State(state): State<Arc<Mutex<Told>>>, headers: HeaderMap, body: String| {
            let mut told = state.lock().unwrap();
            told.posts.push((headers, body));
            let status = told.answers.pop().unwrap_or(StatusCode::OK);
            (
                status,
                r#"<PublishResponse xmlns="http://sns.amazonaws.com/doc/2010-03-31/"><PublishResult><MessageId>m</MessageId></PublishResult></PublishResponse>"#,
            )
        };
        let app = Router::new().route("/hook", post(take)).route("/", post(take)).with_state(Arc::clone(&state));
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { url, state }
    }

    async fn notifier(&self) -> Notifier {
        let (url, key) = (self.url.clone(), KEY.to_owned());
        let setting = move |name: &str| match name {
            "MUSTER_ALERTS_WEBHOOK_URL" => Some(url.clone()),
            "MUSTER_ALERTS_WEBHOOK_KEY" => Some(key.clone()),
            _ => None,
        };
        Notifier::from_settings(setting).await.unwrap()
    }

    fn answer(&self, answers: &[u16]) {
        self.state.lock().unwrap().answers =
            answers.iter().rev().map(|it| StatusCode::from_u16(*it).unwrap()).collect();
    }

    /// What has come since the last look.
    fn posts(&self) -> Vec<(HeaderMap, String)> {
        std::mem::take(&mut self.state.lock().unwrap().posts)
    }

    /// The types of the events that have come, each checked for its signature.
    fn events(&self) -> Vec<String> {
        let posts = self.posts();
        posts
            .iter()
            .map(|(headers, body)| {
                assert!(is_signed(headers, body), "{headers:?}");
                let event: Value = serde_json::from_str(body).unwrap();
                event["type"].as_str().unwrap().strip_prefix("services.alert.").unwrap().to_owned()
            })
            .collect()
    }
}

/// As a receiver checks it who has read the specification.
fn is_signed(headers: &HeaderMap, body: &str) -> bool {
    let header = |name: &str| headers[name].to_str().unwrap();
    let key = BASE64_STANDARD.decode(KEY.strip_prefix("whsec_").unwrap()).unwrap();
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).unwrap();
    mac.update(format!("{}.{}.{body}", header("webhook-id"), header("webhook-timestamp")).as_bytes());
    let signature = header("webhook-signature").strip_prefix("v1,").unwrap();
    mac.verify_slice(&BASE64_STANDARD.decode(signature).unwrap()).is_ok()
}

const AUTH: [&str; 2] = ["10.58.1.1", "10.58.1.2"];

#[tokio::test]
async fn a_change_is_told_once_and_signed() {
    let (world, receiver) = (World::new(well()).await, Receiver::new().await);
    let notifier = receiver.notifier().await;
    busy(&world, &AUTH, 95);
    for _ in 0..2 {
        world.minute(&notifier).await;
    }
    assert!(receiver.events().is_empty());
    let ended = world.minute(&notifier).await;
    assert!(matches!(ended, Ended::Done { told: 1, firing: 1, .. }), "{ended:?}");
    let posts = receiver.posts();
    assert_eq!(posts.len(), 1);
    assert!(is_signed(&posts[0].0, &posts[0].1));
    let mut event: Value = serde_json::from_str(&posts[0].1).unwrap();
    event["data"]["alert_id"] = json!("…");
    insta::assert_json_snapshot!(event, @r#"
    {
      "type": "services.alert.firing",
      "timestamp": "2027-01-15T08:02:00Z",
      "data": {
        "alert_id": "…",
        "service": "AuthService",
        "servers": 3,
        "healthy": 1,
        "unhealthy": 2,
        "unknown": 0,
        "min_healthy": 2,
        "sick": [
          {
            "ip": "10.58.1.1",
            "status": "unhealthy",
            "cpu_pct": 95.0,
            "memory_pct": 10.0,
            "reason": null
          },
          {
            "ip": "10.58.1.2",
            "status": "unhealthy",
            "cpu_pct": 95.0,
            "memory_pct": 20.0,
            "reason": null
          }
        ],
        "summary": "AuthService is short of healthy servers: 1 of 3 servers healthy, at least 2 wanted"
      }
    }
    "#);
    for _ in 0..5 {
        world.minute(&notifier).await;
    }
    assert!(receiver.events().is_empty(), "nothing has changed");
    busy(&world, &AUTH, 10);
    for _ in 0..5 {
        world.minute(&notifier).await;
    }
    assert_eq!(receiver.events(), ["resolved"]);
}

#[tokio::test]
async fn what_is_not_taken_is_sent_again_under_the_same_id() {
    let (world, receiver) = (World::new(well()).await, Receiver::new().await);
    let notifier = receiver.notifier().await;
    busy(&world, &AUTH, 95);
    for _ in 0..2 {
        world.minute(&notifier).await;
    }
    // Tried again at once where that may help, and with the next minute where not.
    receiver.answer(&[503, 400, 403, 204]);
    for told in [0, 0, 1, 0] {
        let ended = world.minute(&notifier).await;
        let Ended::Done { told: now, .. } = ended else { panic!("{ended:?}") };
        assert_eq!(now, told);
    }
    let posts = receiver.posts();
    assert_eq!(posts.len(), 4);
    assert!(posts.iter().all(|(headers, body)| is_signed(headers, body)));
    let ids: Vec<_> = posts.iter().map(|(headers, _)| &headers["webhook-id"]).collect();
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    // By the time of the attempt a receiver tells what is replayed.
    let at = |headers: &HeaderMap| headers["webhook-timestamp"].to_str().unwrap().parse::<i64>().unwrap();
    let at: Vec<_> = posts.iter().map(|(headers, _)| at(headers) - NOON.as_second()).collect();
    assert_eq!(at, [120, 120, 180, 240]);
}

#[tokio::test]
async fn a_crash_between_the_change_and_its_telling_loses_nothing() {
    let (world, receiver) = (World::new(well()).await, Receiver::new().await);
    let dead = Receiver::new().await;
    busy(&world, &AUTH, 95);
    // This one writes what is to be told, and never gets it out.
    dead.answer(&[500; 100]);
    let notifier = dead.notifier().await;
    for _ in 0..2 {
        world.minute(&notifier).await;
    }
    let tick = world.watcher(&notifier);
    // It dies once the first try has been refused; there are more to come.
    let refused = async {
        while dead.posts().is_empty() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::select! {
        ended = tick.tick(world.clock.now()) => panic!("{ended:?}"),
        () = refused => {}
    }
    world.clock.advance(Duration::from_mins(1));
    let notifier = receiver.notifier().await;
    world.minute(&notifier).await;
    assert_eq!(receiver.events(), ["firing"]);
    world.minute(&notifier).await;
    assert!(receiver.events().is_empty());
}

#[tokio::test]
async fn a_silence_keeps_it_quiet_and_what_is_still_true_is_told_after_it() {
    let (world, receiver) = (World::new(well()).await, Receiver::new().await);
    let notifier = receiver.notifier().await;
    let client = world.client().await;
    world.minute(&notifier).await;
    let all = alerts(&client, "all").await;
    let auth = all.iter().find(|it| it["service"] == "AuthService").unwrap();
    let path = format!("/api/v1/alerts/{}/silence", auth["id"].as_str().unwrap());
    let silence = json!({"until": "2027-01-15T08:10:00Z", "reason": "we know"});
    let view = client.post(&path, &silence).await.expect(200).json();
    assert_eq!((&view["silence"]["reason"], &view["silence"]["until"]), (&silence["reason"], &silence["until"]));
    assert!(view["silence"]["by"].as_str().unwrap().ends_with(" of acme"), "{view}");
    busy(&world, &AUTH, 95);
    // From 08:01 to 08:09 nothing is told, though it fires at 08:03.
    for _ in 1..10 {
        world.minute(&notifier).await;
    }
    assert!(receiver.events().is_empty());
    let silenced = &alerts(&client, "firing").await[0];
    assert_eq!((&silenced["told"], &silenced["silence"]["reason"]), (&json!("ok"), &json!("we know")));
    world.minute(&notifier).await;
    assert_eq!(receiver.events(), ["firing"]);
    // One that is ended early: the same at once.
    client.post(&path, json!({"until": "2027-01-15T09:00:00Z", "reason": "repairs"})).await.expect(200);
    busy(&world, &AUTH, 10);
    for _ in 0..5 {
        world.minute(&notifier).await;
    }
    assert!(receiver.events().is_empty());
    client.delete(&path).await.expect(200);
    world.minute(&notifier).await;
    assert_eq!(receiver.events(), ["resolved"]);
}

#[tokio::test]
async fn what_flaps_is_told_once() {
    let (world, receiver) = (World::new(well()).await, Receiver::new().await);
    let notifier = receiver.notifier().await;
    for round in 0..40 {
        busy(&world, &AUTH, if round / 3 % 2 == 0 { 10 } else { 95 });
        world.minute(&notifier).await;
    }
    let events = receiver.events();
    assert_eq!(events.iter().filter(|it| *it == "flapping").count(), 1, "{events:?}");
    assert!(events.len() <= 4, "{events:?}");
    busy(&world, &AUTH, 10);
    for _ in 0..30 {
        world.minute(&notifier).await;
    }
    assert_eq!(receiver.events(), ["resolved"]);
}

#[tokio::test]
async fn a_topic_gets_words_for_people_and_json_for_programs() {
    let (world, receiver) = (World::new(well()).await, Receiver::new().await);
    let config = aws_sdk_sns::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .endpoint_url(receiver.url.trim_end_matches("/hook"))
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new("test", "test", None, None, "test"))
        .build();
    let arn = "arn:aws:sns:us-east-1:123456789012:muster-test-alarms";
    let notifier = Notifier::topic(aws_sdk_sns::Client::from_conf(config), arn);
    busy(&world, &AUTH, 95);
    for _ in 0..4 {
        world.minute(&notifier).await;
    }
    let posts = receiver.posts();
    assert_eq!(posts.len(), 1);
    let fields: std::collections::BTreeMap<String, String> =
        url::form_urlencoded::parse(posts[0].1.as_bytes()).into_owned().collect();
    assert_eq!((&*fields["Action"], &*fields["TopicArn"], &*fields["MessageStructure"]), ("Publish", arn, "json"));
    assert_eq!(fields["Subject"], "AuthService is short of healthy servers: 1 of 3 servers healthy, at least 2 wanted");
    // What a subscription can filter by, and tell one event twice from two by.
    let attributes: std::collections::BTreeMap<_, _> = ["1", "2"]
        .map(|n| format!("MessageAttributes.entry.{n}"))
        .map(|entry| (&*fields[&format!("{entry}.Name")], &*fields[&format!("{entry}.Value.StringValue")]))
        .into();
    assert_eq!(attributes["type"], "services.alert.firing");
    attributes["id"].parse::<uuid::Uuid>().unwrap();
    let message: Value = serde_json::from_str(&fields["Message"]).unwrap();
    let event: Value = serde_json::from_str(message["default"].as_str().unwrap()).unwrap();
    assert_eq!((&event["type"], &event["data"]["healthy"]), (&json!("services.alert.firing"), &json!(1)));
    let mail = message["email"].as_str().unwrap();
    assert!(mail.contains("10.58.1.1 is unhealthy: CPU 95 %, memory 10 %"), "{mail}");
}

#[tokio::test]
async fn a_webhook_without_a_key_gets_nothing_until_there_is_one() {
    let (world, receiver) = (World::new(well()).await, Receiver::new().await);
    let url = receiver.url.clone();
    let unsigned = Notifier::from_settings(|name| (name == "MUSTER_ALERTS_WEBHOOK_URL").then(|| url.clone())).await;
    let unsigned = unsigned.unwrap();
    busy(&world, &AUTH, 95);
    for _ in 0..4 {
        world.minute(&unsigned).await;
    }
    assert!(receiver.posts().is_empty());
    world.minute(&receiver.notifier().await).await;
    assert_eq!(receiver.events(), ["firing"]);
}

#[tokio::test]
async fn what_is_to_be_told_is_told_though_cpx_is_away() {
    let (world, receiver) = (World::new(well()).await, Receiver::new().await);
    let notifier = receiver.notifier().await;
    busy(&world, &AUTH, 95);
    receiver.answer(&[400]);
    for _ in 0..3 {
        world.minute(&notifier).await;
    }
    assert_eq!(receiver.posts().len(), 1);
    world.sim.change(|config| config.list_fate = Fate::Error);
    assert_eq!(world.minute(&notifier).await, Ended::NoList);
    assert_eq!(receiver.events(), ["firing"]);
}

#[tokio::test]
async fn what_could_not_be_told_for_a_day_is_given_up() {
    let (world, receiver) = (World::new(well()).await, Receiver::new().await);
    let notifier = receiver.notifier().await;
    let client = world.client().await;
    busy(&world, &AUTH, 95);
    receiver.answer(&[400; 3]);
    let telling = async || alerts(&client, "firing").await[0]["telling"].clone();
    for _ in 0..3 {
        world.minute(&notifier).await;
    }
    for hours in [23, 2] {
        assert_eq!(telling().await, true);
        world.clock.advance(Duration::from_hours(hours));
        assert!(matches!(world.minute(&notifier).await, Ended::Done { told: 0, .. }));
    }
    assert_eq!((receiver.posts().len(), telling().await), (2, json!(false)), "at once and after 23 hours");
}

#[tokio::test]
async fn where_nobody_is_told_any_more_nothing_waits() {
    let (world, receiver) = (World::new(well()).await, Receiver::new().await);
    let client = world.client().await;
    busy(&world, &AUTH, 95);
    receiver.answer(&[400]);
    let notifier = receiver.notifier().await;
    for _ in 0..3 {
        world.minute(&notifier).await;
    }
    assert_eq!(alerts(&client, "firing").await[0]["telling"], true);
    // Its setting is gone.
    world.minute(&Notifier::default()).await;
    assert_eq!(alerts(&client, "firing").await[0]["telling"], false);
}

#[tokio::test]
async fn the_alert_of_a_service_that_is_gone_ends_and_says_so() {
    let (world, receiver) = (World::new(well()).await, Receiver::new().await);
    let notifier = receiver.notifier().await;
    let client = world.client().await;
    world.minute(&notifier).await;
    let auth = alerts(&client, "all").await.into_iter().find(|it| it["service"] == "AuthService").unwrap();
    // Of one nobody wants to hear, not even that it is gone.
    let path = format!("/api/v1/alerts/{}/silence", auth["id"].as_str().unwrap());
    client.post(&path, json!({"until": "2027-01-16T00:00:00Z", "reason": "x"})).await.expect(200);
    world.sim.change(|config| config.fleet.as_mut().unwrap().clear());
    for _ in 0..3 {
        world.minute(&notifier).await;
    }
    assert_eq!(receiver.events(), ["firing"]);
    world.clock.advance(Duration::from_hours(1));
    world.minute(&notifier).await;
    let posts = receiver.posts();
    assert_eq!(posts.len(), 1);
    let event: Value = serde_json::from_str(&posts[0].1).unwrap();
    assert_eq!((&event["type"], &event["data"]["service"]), (&json!("services.alert.resolved"), &json!("GeoService")));
    assert_eq!(event["data"]["summary"], "GeoService is gone: none of its servers is listed any more");
}

#[tokio::test]
async fn what_cpx_itself_is_about_is_told_and_can_be_silenced() {
    let (world, receiver) = (World::new(well()).await, Receiver::new().await);
    let notifier = receiver.notifier().await;
    let client = world.client().await;
    let away = async |fate: Fate, minutes: u32| {
        world.sim.change(|config| config.list_fate = fate);
        for _ in 0..minutes {
            world.minute(&notifier).await;
        }
        receiver.events()
    };
    assert_eq!(away(Fate::Error, 3).await, ["firing"]);
    assert_eq!(away(Fate::Well, 3).await, ["resolved"]);
    let path = format!("/api/v1/alerts/{}/silence", alerts(&client, "all").await[0]["id"].as_str().unwrap());
    client.post(&path, json!({"until": "2027-01-16T00:00:00Z", "reason": "x"})).await.expect(200);
    assert!(away(Fate::Error, 5).await.is_empty());
}

/// In time that is not waited for: there is nothing but this receiver, which takes what is sent and
/// never answers.
#[tokio::test]
async fn a_receiver_that_never_answers_costs_ten_seconds() {
    let world = World::new(well()).await;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let setting = |name: &str| match name {
        "MUSTER_ALERTS_WEBHOOK_URL" => Some(url.clone()),
        _ => Some(KEY.to_owned()).filter(|_| name == "MUSTER_ALERTS_WEBHOOK_KEY"),
    };
    let silent = Notifier::from_settings(setting).await.unwrap();
    busy(&world, &AUTH, 95);
    for _ in 0..2 {
        world.minute(&silent).await;
    }
    tokio::time::pause();
    let began = tokio::time::Instant::now();
    let ended = world.minute(&silent).await;
    let took = began.elapsed();
    assert!(matches!(ended, Ended::Done { told: 0, firing: 1, .. }), "{ended:?}");
    assert!(took > Duration::from_secs(3) && took < Duration::from_secs(13), "{took:?}");
}
