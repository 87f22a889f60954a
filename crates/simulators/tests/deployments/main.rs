//! The deployments API as its clients see it, over real sockets; its model of a fleet; the program.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[cfg(unix)]
mod binary;
#[allow(dead_code, reason = "shared with the tests of the other simulators")]
#[path = "../it/common.rs"]
mod common;
mod contract;
mod faults;
mod model;
#[allow(dead_code, reason = "shared with the tests of the other simulators")]
#[cfg(unix)]
#[path = "../it/program.rs"]
mod program;
mod rates;
mod scales;
mod script;
mod time;

use std::time::Duration;

use reqwest::{Method, Response};
use serde_json::{Value, json};
use simulators::deployments::{self, Config, Entry, Load, Script, Simulator, Spec};

use crate::common::client;

async fn started(config: Config) -> Simulator {
    deployments::start(config).await.unwrap()
}

/// A deployment with a load that does not move.
fn spec(id: &str, servers_per_host: u64, target: &str, hosts: u64, busy: u64) -> Spec {
    let target_free_pct = target.parse().unwrap();
    Spec { id: id.to_owned(), servers_per_host, target_free_pct, hosts, load: Load::Steady { busy } }
}

/// Two deployments, in a time that is moved by hand.
fn two() -> Config {
    let fleet = vec![spec("eu-1", 10, "15.0", 10, 90), spec("us 2/ü", 3, "0.001", 4, 20)];
    Config { fleet: Some(fleet), manual: true, ..Config::default() }
}

fn script(json: Value) -> Option<Script<Entry>> {
    serde_json::from_value(json).unwrap()
}

/// The same fault for everyone and always.
fn always(what: &str) -> Option<Script<Entry>> {
    script(json!([{ "at": "0s", "all": true, "what": what }]))
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// `GET path`: the answer, or that there was none.
async fn get(sim: &Simulator, path: &str) -> reqwest::Result<Response> {
    client().get(format!("{}{path}", sim.url())).send().await
}

/// What `GET path` tells under 200.
async fn told(sim: &Simulator, path: &str) -> Value {
    let answer = get(sim, path).await.unwrap();
    assert_eq!(answer.status(), 200, "{path}");
    answer.json().await.unwrap()
}

/// `current_hosts`, `total_servers` and `free_servers` of eu-1.
async fn counts(sim: &Simulator) -> [u64; 3] {
    let status = told(sim, "/status/eu-1").await;
    ["current_hosts", "total_servers", "free_servers"].map(|count| status[count].as_u64().unwrap())
}

async fn scale(sim: &Simulator, id: &str, delta: i64) -> reqwest::Result<Response> {
    let body = json!({ "deployment_id": id, "delta": delta });
    client().request(Method::POST, format!("{}/scale", sim.url())).json(&body).send().await
}
