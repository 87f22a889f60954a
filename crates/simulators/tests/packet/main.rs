//! The device API as its clients see it, over real sockets; its faults; the program.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[cfg(unix)]
mod binary;
mod catalog;
#[allow(dead_code, reason = "shared with the tests of the other simulators")]
#[path = "../it/common.rs"]
mod common;
mod create;
mod create_faults;
mod devices;
mod faults;
mod life;
mod rules;
mod transport;

use std::time::Duration;

use jiff::Timestamp;
use reqwest::{Method, RequestBuilder, Response};
use serde_json::{Value, json};
use simulators::packet::{self, Config, Device, PROJECT, Rule, Simulator, TOKEN};

use crate::common::client;

/// When the simulator's time begins in these tests.
const EPOCH: &str = "2026-01-01T00:00:00Z";

/// Time moved by hand, and devices that take exactly ten seconds to come up.
fn still() -> Config {
    Config { manual: true, epoch: Some(time(EPOCH)), provision: seconds(10), spread: 0.0, ..Config::default() }
}

async fn started(config: Config) -> Simulator {
    packet::start(config).await.unwrap()
}

/// With these faults, written as on the command line.
async fn with_faults(faults: &[&str]) -> Simulator {
    started(Config { faults: faults.iter().map(|rule| rule_of(rule)).collect(), ..still() }).await
}

fn rule_of(text: &str) -> Rule {
    text.parse().unwrap()
}

fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A request with the good token.
fn ask(sim: &Simulator, method: Method, path: &str) -> RequestBuilder {
    client().request(method, format!("{}{path}", sim.url())).header("X-Auth-Token", TOKEN)
}

async fn get(sim: &Simulator, path: &str) -> Response {
    ask(sim, Method::GET, path).send().await.unwrap()
}

/// What `GET path` tells under 200.
async fn told(sim: &Simulator, path: &str) -> Value {
    let answer = get(sim, path).await;
    assert_eq!(answer.status(), 200, "{path}");
    answer.json().await.unwrap()
}

/// Status and text of an error, whichever of its two forms it has.
async fn error(answer: Response) -> (u16, String) {
    let status = answer.status().as_u16();
    let body: Value = answer.json().await.unwrap();
    let errors = body["errors"].as_array().map(|errors| {
        let texts: Vec<_> = errors.iter().map(|error| error.as_str().unwrap()).collect();
        texts.join(", ")
    });
    assert_eq!(body.as_object().unwrap().len(), 1, "{body}");
    (status, errors.unwrap_or_else(|| body["error"].as_str().unwrap().to_owned()))
}

/// A c3.small.x86 in ewr1.
fn small() -> Value {
    json!({ "plan": "c3.small.x86", "operating_system": "debian_12", "facility": "ewr1" })
}

/// The same with other fields.
fn small_with(fields: Value) -> Value {
    let mut body = small();
    let Value::Object(fields) = fields else { panic!("an object") };
    body.as_object_mut().unwrap().extend(fields);
    body
}

async fn post(sim: &Simulator, body: &Value) -> reqwest::Result<Response> {
    ask(sim, Method::POST, &devices_path()).json(body).send().await
}

fn devices_path() -> String {
    format!("/projects/{PROJECT}/devices")
}

/// Creates a device, which must work.
async fn create(sim: &Simulator, body: &Value) -> Value {
    let answer = post(sim, body).await.unwrap();
    assert_eq!(answer.status(), 201);
    answer.json().await.unwrap()
}

/// Creates a [`small`] device; tells its id.
async fn created(sim: &Simulator) -> String {
    id(&create(sim, &small()).await)
}

/// Creates one and lets it come up.
async fn active(sim: &Simulator) -> String {
    let id = created(sim).await;
    sim.advance(seconds(10));
    assert_eq!(state(sim, &id).await, "active");
    id
}

fn id(device: &Value) -> String {
    device["id"].as_str().unwrap().to_owned()
}

async fn device(sim: &Simulator, id: &str) -> Value {
    told(sim, &format!("/devices/{id}")).await
}

async fn state(sim: &Simulator, id: &str) -> String {
    device(sim, id).await["state"].as_str().unwrap().to_owned()
}

async fn status(sim: &Simulator, id: &str) -> u16 {
    get(sim, &format!("/devices/{id}")).await.status().as_u16()
}

async fn delete(sim: &Simulator, id: &str) -> Response {
    ask(sim, Method::DELETE, &format!("/devices/{id}")).send().await.unwrap()
}

async fn update(sim: &Simulator, id: &str, body: &Value) -> Response {
    ask(sim, Method::PUT, &format!("/devices/{id}")).json(body).send().await.unwrap()
}

async fn act(sim: &Simulator, id: &str, kind: &str) -> Response {
    ask(sim, Method::POST, &format!("/devices/{id}/actions")).json(&json!({ "type": kind })).send().await.unwrap()
}

/// What the simulator itself tells about it.
fn known(sim: &Simulator, id: &str) -> Device {
    sim.devices().into_iter().find(|device| device.id == id).unwrap()
}
