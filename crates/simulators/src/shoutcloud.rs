//! SHOUTCLOUD: ALL-CAPS as a service.
//!
//! `POST /V1/SHOUT` with `{"INPUT":"hello"}` answers `{"INPUT":"hello","OUTPUT":"HELLO"}`, half of
//! the time as `APPLICATION/JSON`: it shouts its headers too. Asking twice does no harm, so there
//! is one kind of drop and one kind of error; what is nasty here is a 200 that is not what it says.

use std::{collections::HashMap, net::SocketAddr, sync::Mutex, time::Duration};

use clap::ValueEnum;
use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    call::{Answer, Call, Cut},
    faults::{self, Down, Draw, parse_duration, parse_rate},
    server::{self, ANY_PORT, StartError, Traffic, Upstream, locked},
};

/// Where text is shouted.
pub const PATH: &str = "/V1/SHOUT";

/// The length of the text in the answer [`Garbage::Huge`], in bytes.
pub const HUGE: usize = 8 << 20;

/// What the service does wrong. By default nothing, at once. Durations are text in JSON and on the
/// command line (`100ms`); rates are shares of 0 to 1, decided for each attempt at each text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, clap::Args)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The same seed makes the same decisions
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// From the arrival of a request to its answer
    #[arg(long, default_value = "0ms", value_parser = parse_duration)]
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub latency: Duration,
    /// Added to the latency, between nothing and this
    #[arg(long, default_value = "0ms", value_parser = parse_duration)]
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub jitter: Duration,
    /// Only so many first attempts at each text go wrong by rate; without it any may
    #[arg(long)]
    pub faulty_attempts: Option<u32>,
    /// The service is away
    #[arg(long, value_enum, default_value = "no")]
    pub down: Down,
    /// Share whose connection ends without an answer
    #[arg(long, default_value_t = 0.0, value_parser = parse_rate)]
    #[serde(deserialize_with = "faults::rate")]
    pub drop_rate: f64,
    /// Share answered 500, 502 or 503
    #[arg(long, default_value_t = 0.0, value_parser = parse_rate)]
    #[serde(deserialize_with = "faults::rate")]
    pub error_rate: f64,
    /// Share that is not answered until the client gives up
    #[arg(long, default_value_t = 0.0, value_parser = parse_rate)]
    #[serde(deserialize_with = "faults::rate")]
    pub hang_rate: f64,
    /// Where the client does not give up, the connection is closed after this long
    #[arg(long, default_value = "60s", value_parser = parse_duration)]
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub hang_for: Duration,
    /// Share answered 200 with something else than the contract's JSON
    #[arg(long, default_value_t = 0.0, value_parser = parse_rate)]
    #[serde(deserialize_with = "faults::rate")]
    pub garbage_rate: f64,
    /// What that is; without it, any of them
    #[arg(long, value_enum)]
    pub garbage: Option<Garbage>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            seed: 0,
            latency: Duration::ZERO,
            jitter: Duration::ZERO,
            faulty_attempts: None,
            down: Down::No,
            drop_rate: 0.0,
            error_rate: 0.0,
            hang_rate: 0.0,
            hang_for: Duration::from_mins(1),
            garbage_rate: 0.0,
            garbage: None,
        }
    }
}

/// Bodies of a 200 that keep no promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Garbage {
    /// HTML that claims to be JSON.
    NotJson,
    /// JSON without `OUTPUT`.
    NoOutput,
    /// `OUTPUT` is not text.
    WrongType,
    /// As promised, but `OUTPUT` has 8 MiB.
    Huge,
}

/// What the service has seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// Requests and answers.
    #[serde(flatten)]
    pub traffic: Traffic,
    /// Requests answered as promised.
    pub shouted: u64,
    /// Requests answered 200 with something else.
    pub garbled: u64,
    /// Requests answered 400.
    pub malformed: u64,
    /// Different texts asked for.
    pub distinct_inputs: u64,
    /// Of those, the ones asked for more than once.
    pub asked_again: u64,
}

/// A running SHOUTCLOUD.
pub type Simulator = server::Simulator<Shoutcloud>;

/// Starts SHOUTCLOUD on a loopback port of the system's choice.
pub async fn start(config: Config) -> Result<Simulator, StartError> {
    start_on(ANY_PORT, config).await
}

/// Starts SHOUTCLOUD at an address of this machine's loopback interface.
pub async fn start_on(at: SocketAddr, config: Config) -> Result<Simulator, StartError> {
    let service = Shoutcloud { config: Mutex::new(config), seen: Mutex::default() };
    Simulator::start(at, service).await
}

/// The service itself: its faults and what it has seen.
#[derive(Debug)]
pub struct Shoutcloud {
    config: Mutex<Config>,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    /// By [`faults::key_of`] the text.
    attempts: HashMap<u64, u32>,
    asked_again: u64,
    shouted: u64,
    garbled: u64,
    malformed: u64,
}

impl Shoutcloud {
    /// Reads the request and notes that it was asked: the text, its key and the number of the attempt.
    fn note(&self, call: &Call) -> Result<(String, u64, u32), Answer> {
        call.refuse_unless(&Method::POST, PATH)?;
        let mut seen = locked(&self.seen);
        match read(call) {
            Ok(input) => {
                let key = faults::key_of(&input);
                let attempts = seen.attempts.entry(key).or_default();
                *attempts = attempts.saturating_add(1);
                let attempt = *attempts;
                seen.asked_again += u64::from(attempt == 2);
                Ok((input, key, attempt))
            }
            Err(message) => {
                seen.malformed += 1;
                Err(Answer::json(StatusCode::BAD_REQUEST, &json!({ "ERROR": message.to_uppercase() })))
            }
        }
    }
}

fn read(call: &Call) -> Result<String, String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "UPPERCASE")]
    struct Body {
        input: String,
    }
    if !call.says_json() {
        return Err("Content-Type must be application/json".to_owned());
    }
    let body: Body = serde_json::from_slice(&call.body).map_err(|error| error.to_string())?;
    Ok(body.input)
}

impl Upstream for Shoutcloud {
    type Config = Config;
    type Stats = Stats;

    fn config(&self) -> Config {
        locked(&self.config).clone()
    }

    fn set(&self, config: Config) {
        *locked(&self.config) = config;
    }

    fn stats(&self, traffic: Traffic) -> Stats {
        let seen = locked(&self.seen);
        Stats {
            traffic,
            shouted: seen.shouted,
            garbled: seen.garbled,
            malformed: seen.malformed,
            distinct_inputs: seen.attempts.len() as u64,
            asked_again: seen.asked_again,
        }
    }

    fn list(&self, _name: &str) -> Option<Value> {
        None
    }

    async fn answer(&self, call: &mut Call) -> Answer {
        let config = self.config();
        let noted = self.note(call);
        match config.down {
            Down::No => {}
            Down::Reset => return Answer::Cut(Cut::Reset),
            Down::Status503 => {
                call.until(config.latency).await;
                return faults::html(StatusCode::SERVICE_UNAVAILABLE);
            }
        }
        let (input, key, attempt) = match noted {
            Ok(noted) => noted,
            Err(refused) => return refused,
        };
        let draw = Draw::attempt(config.seed, key, attempt, config.faulty_attempts);
        call.until(draw.delay(config.latency, config.jitter)).await;

        if draw.happens("drop", config.drop_rate) {
            return faults::no_answer(&draw);
        }
        if draw.happens("error", config.error_rate) {
            return faults::server_error(&draw);
        }
        if draw.happens("hang", config.hang_rate) {
            return call.hang(config.hang_for).await;
        }
        if draw.happens("garbage", config.garbage_rate) {
            locked(&self.seen).garbled += 1;
            return garbled(&config, &draw, &input);
        }
        locked(&self.seen).shouted += 1;
        let body = json!({ "INPUT": input, "OUTPUT": input.to_uppercase() });
        let kind = if draw.fraction("content type") < 0.5 { "APPLICATION/JSON" } else { "application/json" };
        Answer::new(StatusCode::OK, kind, body.to_string())
    }
}

fn garbled(config: &Config, draw: &Draw, input: &str) -> Answer {
    let kinds = [Garbage::NotJson, Garbage::NoOutput, Garbage::WrongType, Garbage::Huge];
    let kind = config.garbage.unwrap_or_else(|| draw.pick("kind of garbage", kinds));
    let body = match kind {
        Garbage::NotJson => "<html><body>IT WORKS!</body></html>".to_owned(),
        Garbage::NoOutput => json!({ "INPUT": input }).to_string(),
        Garbage::WrongType => {
            let output =
                draw.pick("wrong type", [json!(null), json!(42), json!(["HELLO"]), json!({ "TEXT": "HELLO" })]);
            json!({ "INPUT": input, "OUTPUT": output }).to_string()
        }
        // Not by `json!`, which would look at each of the millions of letters.
        Garbage::Huge => format!(r#"{{"INPUT":{},"OUTPUT":"{}"}}"#, json!(input), "A".repeat(HUGE)),
    };
    Answer::new(StatusCode::OK, "application/json", body)
}
