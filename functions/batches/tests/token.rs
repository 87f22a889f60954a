//! The provider's token, from the setting to the provider and to whoever asks what is wrong.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use batches::{
    config,
    deveui::DevEui,
    provider::{Pace, Provider, Reply},
    run::Outcome,
};
use common::{OfBatches as _, World, holds_everything, text};
use kit::clock::Clock;
use serde_json::{Value, json};
use simulators::lorawan::{self, Simulator};

async fn wanting(token: &str) -> Simulator {
    let config = lorawan::Config { require_token: Some(token.to_owned()), ..Default::default() };
    lorawan::start(config).await.unwrap()
}

/// The provider as the settings describe it.
fn provider(sim: &Simulator, token: &[(&str, &str)]) -> Provider {
    let setting = |name: &str| match name {
        config::URL => Some(sim.url().to_owned()),
        config::TIMEOUT => Some("2".to_owned()),
        _ => token.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()),
    };
    config::provider_from(setting).unwrap().unwrap()
}

async fn register(sim: &Simulator, token: &[(&str, &str)]) -> Reply {
    provider(sim, token).register(DevEui(0x7811_1FFF_E452_555B)).await
}

#[tokio::test]
async fn the_right_token_registers_wherever_it_is_set() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, "t0ken\n").unwrap();
    for setting in [("MUSTER_LORAWAN_TOKEN", "t0ken"), ("MUSTER_LORAWAN_TOKEN_FILE", file.to_str().unwrap())] {
        let sim = wanting("t0ken").await;
        let reply = register(&sim, &[setting]).await;
        assert_eq!((reply.outcome, reply.trouble), (Outcome::Registered, None));
    }
}

#[tokio::test]
async fn a_wrong_token_or_none_registers_nothing_and_says_what_to_set() {
    let sim = wanting("t0ken").await;
    for settings in [&[("MUSTER_LORAWAN_TOKEN", "0ther")][..], &[]] {
        let reply = register(&sim, settings).await;
        assert_eq!((reply.outcome, reply.pace), (Outcome::NotDone, Pace::Failing(None)));
        let trouble = reply.trouble.unwrap();
        assert!(trouble.contains("401") && trouble.contains("MUSTER_LORAWAN_TOKEN"), "{trouble}");
        assert!(!trouble.contains("0ther"), "{trouble}");
    }
    assert_eq!(sim.stats().registered, 0);
}

#[tokio::test]
async fn a_batch_waits_for_the_right_token_and_tells_so() {
    let mut world = World::with(lorawan::Config::default(), Clock::system()).await;
    world.sim.change(|config| config.require_token = Some("n3w".to_owned()));
    world.provider = provider(&world.sim, &[("MUSTER_LORAWAN_TOKEN", "0ld")]);
    world.work();
    let client = world.client("acme").await;
    let id = client.create(20).await;
    let batch = client.once(&id, |batch| !batch["last_error"].is_null()).await;
    assert!(text(&batch["last_error"]).contains("MUSTER_LORAWAN_TOKEN"), "{batch}");
    assert_eq!((&batch["status"], &batch["registered"]), (&json!("Processing"), &json!(0)));
    world.sim.change(|config| config.require_token = Some("0ld".to_owned()));
    let batch = client.finished(&id).await;
    assert_eq!((&batch["status"], &batch["last_error"]), (&json!("Completed"), &Value::Null));
    holds_everything(&batch, &world.sim);
}

#[tokio::test]
async fn whoever_does_not_call_the_provider_names_it_as_its_caller_does() {
    for url in ["http://127.0.0.1:1", "http://127.0.0.1:1/", "HTTP://LocalHost:80/api/"] {
        let named = |name: &str| (name == config::URL).then(|| url.to_owned());
        let provider = config::provider_from(named).unwrap().unwrap();
        assert_eq!(kit::upstream::base(config::URL, url).unwrap(), provider.name());
    }
}
