//! The LoRaWAN provider that registers DevEUIs.
//!
//! `POST /sensor-onboarding-sample` with `{"deveui":"78111FFFE452555B"}`: 200 (`true`, or no body)
//! when it has been registered, 422 when it was used before, by us or by a stranger. What a
//! stranger holds is decided by seed and DevEUI, stays theirs for good, and never counts as
//! registered. `GET /_sim/registered` lists what was registered with us.
//!
//! Faults strike in the order of the fields of [`Config`] from `down` on; those named `before`
//! leave nothing registered, those named `after` do. A request registers at the end of its latency.

use std::{
    collections::{BTreeSet, HashMap, hash_map::Entry},
    fmt,
    net::SocketAddr,
    sync::Mutex,
    time::Duration,
};

use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    call::{Answer, Call, Cut},
    faults::{self, Down, Draw, parse_duration, parse_rate},
    server::{self, ANY_PORT, StartError, Traffic, Upstream, locked},
};

/// Where DevEUIs are registered.
pub const PATH: &str = "/sensor-onboarding-sample";

/// What the provider does wrong. By default nothing, at once. Durations are text in JSON and on the
/// command line (`100ms`); rates are shares of 0 to 1, decided for each attempt at each DevEUI.
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
    /// Share of DevEUIs that a stranger holds: always 422
    #[arg(long, default_value_t = 0.0, value_parser = parse_rate)]
    #[serde(deserialize_with = "faults::rate")]
    pub conflict_rate: f64,
    /// Only so many first attempts at each DevEUI go wrong by rate; without it any may
    #[arg(long)]
    pub faulty_attempts: Option<u32>,
    /// The provider is away
    #[arg(long, value_enum, default_value = "no")]
    pub down: Down,
    /// Every request is answered 401
    #[arg(long)]
    pub unauthorized: bool,
    /// Requests without `Authorization: Bearer` and this token are answered 401
    #[arg(long, value_name = "TOKEN")]
    pub require_token: Option<String>,
    /// Every request is answered 200 with a page of HTML, and nothing is registered
    #[arg(long)]
    pub html: bool,
    /// Requests in flight above this many are answered 429, at once (depends on timing, not on the seed)
    #[arg(long)]
    pub throttle_above: Option<usize>,
    /// Share answered 429, at once
    #[arg(long, default_value_t = 0.0, value_parser = parse_rate)]
    #[serde(deserialize_with = "faults::rate")]
    pub throttle_rate: f64,
    /// The Retry-After that half of the 429 carry, in seconds
    #[arg(long, default_value_t = 1)]
    pub retry_after_seconds: u64,
    /// Share whose connection ends without an answer, nothing registered
    #[arg(long, default_value_t = 0.0, value_parser = parse_rate)]
    #[serde(deserialize_with = "faults::rate")]
    pub drop_before_rate: f64,
    /// Share answered with bytes that are no HTTP, nothing registered
    #[arg(long, default_value_t = 0.0, value_parser = parse_rate)]
    #[serde(deserialize_with = "faults::rate")]
    pub garbage_rate: f64,
    /// Share answered 500, 502 or 503, nothing registered
    #[arg(long, default_value_t = 0.0, value_parser = parse_rate)]
    #[serde(deserialize_with = "faults::rate")]
    pub error_rate: f64,
    /// Share that is not answered until the client gives up; half of them are registered first
    #[arg(long, default_value_t = 0.0, value_parser = parse_rate)]
    #[serde(deserialize_with = "faults::rate")]
    pub hang_rate: f64,
    /// Where the client does not give up, the connection is closed after this long
    #[arg(long, default_value = "60s", value_parser = parse_duration)]
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub hang_for: Duration,
    /// Share that is registered and whose connection then ends without an answer
    #[arg(long, default_value_t = 0.0, value_parser = parse_rate)]
    #[serde(deserialize_with = "faults::rate")]
    pub drop_after_rate: f64,
    /// Share that is registered and then answered 500, 502 or 503
    #[arg(long, default_value_t = 0.0, value_parser = parse_rate)]
    #[serde(deserialize_with = "faults::rate")]
    pub error_after_rate: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            seed: 0,
            latency: Duration::ZERO,
            jitter: Duration::ZERO,
            conflict_rate: 0.0,
            faulty_attempts: None,
            down: Down::No,
            unauthorized: false,
            require_token: None,
            html: false,
            throttle_above: None,
            throttle_rate: 0.0,
            retry_after_seconds: 1,
            drop_before_rate: 0.0,
            garbage_rate: 0.0,
            error_rate: 0.0,
            hang_rate: 0.0,
            hang_for: Duration::from_mins(1),
            drop_after_rate: 0.0,
            error_after_rate: 0.0,
        }
    }
}

/// What the provider has seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// Requests and answers.
    #[serde(flatten)]
    pub traffic: Traffic,
    /// DevEUIs registered with us: what is paid for.
    pub registered: u64,
    /// Requests that found their DevEUI registered with us already.
    pub duplicates: u64,
    /// Requests that found their DevEUI held by a stranger.
    pub conflicts: u64,
    /// Different DevEUIs found to be a stranger's.
    pub strangers: u64,
    /// Requests answered 400.
    pub malformed: u64,
    /// Registrations whose 200 did not reach the client: it got an error or nothing, or had left.
    pub answers_lost: u64,
    /// Different DevEUIs asked for.
    pub distinct_deveuis: u64,
    /// Of those, the ones asked for more than once.
    pub asked_again: u64,
}

/// A running provider.
pub type Simulator = server::Simulator<Provider>;

/// Starts a provider on a loopback port of the system's choice.
pub async fn start(config: Config) -> Result<Simulator, StartError> {
    start_on(ANY_PORT, config).await
}

/// Starts a provider at an address of this machine's loopback interface.
pub async fn start_on(at: SocketAddr, config: Config) -> Result<Simulator, StartError> {
    let provider = Provider { config: Mutex::new(config), book: Mutex::default() };
    Simulator::start(at, provider).await
}

impl Simulator {
    /// The DevEUIs registered with us, 16 upper-case hexadecimal digits each.
    pub fn registered(&self) -> BTreeSet<String> {
        self.upstream().registered()
    }
}

/// The provider itself: its faults and its book of DevEUIs.
#[derive(Debug)]
pub struct Provider {
    config: Mutex<Config>,
    book: Mutex<Book>,
}

impl Provider {
    fn registered(&self) -> BTreeSet<String> {
        let book = locked(&self.book);
        book.devices
            .iter()
            .filter(|(_, device)| device.holder == Holder::Us)
            .map(|(deveui, _)| deveui.to_string())
            .collect()
    }

    /// Reads the request and notes that it was asked: the DevEUI and the number of the attempt.
    fn note(&self, call: &Call) -> Result<(DevEui, u32), Answer> {
        call.refuse_unless(&Method::POST, PATH)?;
        let mut book = locked(&self.book);
        match DevEui::read(call) {
            Ok(deveui) => Ok((deveui, book.ask(deveui))),
            Err(message) => {
                book.malformed += 1;
                Err(Answer::json(StatusCode::BAD_REQUEST, &json!({ "message": message })))
            }
        }
    }

    /// Does what was asked for; `lost` when the client will not hear of it.
    fn register(&self, config: &Config, deveui: DevEui, lost: bool) -> Result<(), Taken> {
        let held = Draw::lasting(config.seed, deveui.0).happens("conflict", config.conflict_rate);
        locked(&self.book).register(deveui, held, lost)
    }
}

impl Upstream for Provider {
    type Config = Config;
    type Stats = Stats;

    fn config(&self) -> Config {
        locked(&self.config).clone()
    }

    fn set(&self, config: Config) {
        *locked(&self.config) = config;
    }

    fn stats(&self, traffic: Traffic) -> Stats {
        locked(&self.book).stats(traffic)
    }

    fn list(&self, name: &str) -> Option<Value> {
        (name == "registered").then(|| json!(self.registered()))
    }

    async fn answer(&self, call: &mut Call) -> Answer {
        let config = self.config();
        let noted = self.note(call);
        if let Some(answer) = for_everybody(&config, call).await {
            return answer;
        }
        let (deveui, attempt) = match noted {
            Ok(noted) => noted,
            Err(refused) => return refused,
        };
        let draw = Draw::attempt(config.seed, deveui.0, attempt, config.faulty_attempts);
        if config.throttle_above.is_some_and(|limit| call.in_flight > limit)
            || draw.happens("throttle", config.throttle_rate)
        {
            return faults::throttled(&draw, config.retry_after_seconds);
        }
        call.until(draw.delay(config.latency, config.jitter)).await;

        if let Some(answer) = before(&config, &draw) {
            return answer;
        }
        if draw.happens("hang", config.hang_rate) {
            if draw.happens("hang registers", 0.5) {
                // Nobody hears whether it was taken.
                _ = self.register(&config, deveui, true);
            }
            return call.hang(config.hang_for).await;
        }
        let loss = after(&config, &draw);
        let done = self.register(&config, deveui, loss.is_some() || call.client_is_gone());
        match (loss, done) {
            (Some(loss), _) => loss,
            (None, Err(Taken)) => {
                let message = json!({ "message": "the DevEUI has already been used" });
                Answer::json(StatusCode::UNPROCESSABLE_ENTITY, &message)
            }
            (None, Ok(())) if draw.fraction("body") < 0.5 => Answer::json(StatusCode::OK, &true),
            (None, Ok(())) => Answer::empty(StatusCode::OK),
        }
    }
}

/// Answers that do not depend on what is asked.
async fn for_everybody(config: &Config, call: &Call) -> Option<Answer> {
    let answer = match config.down {
        Down::Reset => return Some(Answer::Cut(Cut::Reset)),
        Down::Status503 => faults::html(StatusCode::SERVICE_UNAVAILABLE),
        Down::No if config.unauthorized || !call.has_token(config.require_token.as_deref()) => {
            Answer::json(StatusCode::UNAUTHORIZED, &json!({ "message": "unauthorized" }))
        }
        Down::No if config.html => faults::html(StatusCode::OK),
        Down::No => return None,
    };
    call.until(config.latency).await;
    Some(answer)
}

/// Faults that leave nothing registered.
fn before(config: &Config, draw: &Draw) -> Option<Answer> {
    if draw.happens("drop before", config.drop_before_rate) {
        Some(faults::no_answer(draw))
    } else if draw.happens("garbage", config.garbage_rate) {
        Some(faults::garbage(draw))
    } else if draw.happens("error", config.error_rate) {
        Some(faults::server_error(draw))
    } else {
        None
    }
}

/// Faults that keep from the client what has been done.
fn after(config: &Config, draw: &Draw) -> Option<Answer> {
    if draw.happens("drop after", config.drop_after_rate) {
        Some(faults::no_answer(draw))
    } else if draw.happens("error after", config.error_after_rate) {
        Some(faults::server_error(draw))
    } else {
        None
    }
}

/// 16 hexadecimal digits as a number: a million of them are to fit in little memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct DevEui(u64);

impl DevEui {
    fn read(call: &Call) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Body {
            deveui: String,
        }
        if !call.says_json() {
            return Err("Content-Type must be application/json".to_owned());
        }
        let body: Body = serde_json::from_slice(&call.body).map_err(|error| error.to_string())?;
        Self::parse(&body.deveui).ok_or_else(|| "deveui must be 16 upper-case hexadecimal digits".to_owned())
    }

    fn parse(text: &str) -> Option<Self> {
        let well_formed = text.len() == 16 && text.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'A'..=b'F'));
        well_formed.then(|| u64::from_str_radix(text, 16).ok().map(Self))?
    }
}

impl fmt::Display for DevEui {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:016X}", self.0)
    }
}

/// Which DevEUIs were asked for and who holds them.
#[derive(Debug, Default)]
struct Book {
    devices: HashMap<DevEui, Device>,
    registered: u64,
    duplicates: u64,
    conflicts: u64,
    strangers: u64,
    malformed: u64,
    answers_lost: u64,
    asked_again: u64,
}

#[derive(Debug)]
struct Device {
    attempts: u32,
    holder: Holder,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holder {
    Nobody,
    Us,
    /// Kept, so that it stays theirs when `conflict_rate` or the seed changes.
    Stranger,
}

/// The DevEUI was used before.
#[derive(Debug, PartialEq, Eq)]
struct Taken;

impl Book {
    /// Notes an attempt and gives its number, from 1.
    fn ask(&mut self, deveui: DevEui) -> u32 {
        match self.devices.entry(deveui) {
            Entry::Vacant(new) => {
                new.insert(Device { attempts: 1, holder: Holder::Nobody });
                1
            }
            Entry::Occupied(mut known) => {
                let device = known.get_mut();
                device.attempts = device.attempts.saturating_add(1);
                self.asked_again += u64::from(device.attempts == 2);
                device.attempts
            }
        }
    }

    fn register(&mut self, deveui: DevEui, held_by_stranger: bool, lost: bool) -> Result<(), Taken> {
        let device = self.devices.entry(deveui).or_insert(Device { attempts: 0, holder: Holder::Nobody });
        if device.holder == Holder::Nobody && held_by_stranger {
            device.holder = Holder::Stranger;
            self.strangers += 1;
        }
        match device.holder {
            Holder::Nobody => {
                device.holder = Holder::Us;
                self.registered += 1;
                self.answers_lost += u64::from(lost);
                Ok(())
            }
            Holder::Us => {
                self.duplicates += 1;
                Err(Taken)
            }
            Holder::Stranger => {
                self.conflicts += 1;
                Err(Taken)
            }
        }
    }

    fn stats(&self, traffic: Traffic) -> Stats {
        Stats {
            traffic,
            registered: self.registered,
            duplicates: self.duplicates,
            conflicts: self.conflicts,
            strangers: self.strangers,
            malformed: self.malformed,
            answers_lost: self.answers_lost,
            distinct_deveuis: self.devices.len() as u64,
            asked_again: self.asked_again,
        }
    }
}
