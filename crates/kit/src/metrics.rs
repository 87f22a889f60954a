//! What the functions measure about themselves, for CloudWatch: at most a line of JSON on standard
//! output for each invocation, in the Embedded Metric Format.
//!
//! **The one thing to know:** each pair of a name and its dimensions' values is paid for every month.
//! So there are few, they are declared as constants ([`Metric`]), and what AWS counts anyway
//! (invocations, errors, durations, throttles) is not counted again. Nor is the time of the cold
//! start, which is in Lambda's own report and includes what a process cannot see.
//!
//! All are in the namespace `muster`. `Environment` is `MUSTER_ENVIRONMENT` (such as `muster-test`),
//! `Function` the Lambda function's name, `Upstream` the setting that its URL comes from:
//! `MUSTER_LORAWAN_URL` is `lorawan`.
//!
//! | name | unit | dimensions | use | meaning |
//! | --- | --- | --- | --- | --- |
//! | `ColdStarts` | Count | Environment, Function | Sum | 1 with the first invocation of a process that became ready; absent otherwise |
//! | `TickLag` | Milliseconds | Environment, Function | Maximum | workers: from the time a tick was scheduled for to the begin of its work; absent for other triggers |
//! | `DevEuisRegistered` | Count | Environment, Function | Sum | batches-worker: registered and counted, recovered ones that are kept included |
//! | `DevEuiConflicts` | Count | Environment, Function | Sum | batches-worker: somebody else's, so that the next candidate was taken |
//! | `DevEuisRecovered` | Count | Environment, Function | Sum | batches-worker: listed under `recovered` |
//! | `RequestsInFlight` | Count | Environment, Function | Maximum | batches-worker: the most places of the provider taken at once; absent where nothing was sent |
//! | `ServersSeen` | Count | Environment, Function | Maximum | services-worker: servers that CPX listed; absent where it listed none |
//! | `ServersUnknown` | Count | Environment, Function | Maximum | services-worker: those of them that did not answer, or answered nonsense |
//! | `AlertsFiring` | Count | Environment, Function | Maximum | services-worker: alerts that fire, CPX's own included |
//! | `DeploymentsSeen` | Count | Environment, Function | Maximum | autoscaler-worker: deployments that are listed |
//! | `DeploymentsUnreadable` | Count | Environment, Function | Maximum | autoscaler-worker: those of them that gave no answer, or nonsense, or that are listed in a way that cannot be used |
//! | `DeploymentsNotReached` | Count | Environment, Function | Maximum | autoscaler-worker: those that there was no time to read |
//! | `DeploymentsShort` | Count | Environment, Function | Maximum | autoscaler-worker: those with a smaller share of free servers than they want |
//! | `HostsAdded` | Count | Environment, Function | Sum | autoscaler-worker: hosts that were asked for, requests without an answer included |
//! | `HostsRemoved` | Count | Environment, Function | Sum | autoscaler-worker: hosts that were given back, likewise |
//! | `ScalingsUnknown` | Count | Environment, Function | Sum | autoscaler-worker: requests to scale without an answer; later readings settle them |
//! | `DeploymentsListAge` | Milliseconds | Environment, Function | Maximum | autoscaler-worker: age of the last list of deployments that was believed |
//! | `ScalingFrozen` | Count | Environment, Function | Maximum | autoscaler-worker: 1 where no host was taken away anywhere, 0 otherwise |
//! | `DevicesUp` | Count | Environment, Function | Sum | devices-worker: devices that came up; absent where none did |
//! | `DevicesFailed` | Count | Environment, Function | Sum | devices-worker: devices that were given up; likewise |
//! | `DeviceAttemptsFailed` | Count | Environment, Function | Sum | devices-worker: attempts that failed or stood still; likewise |
//! | `DeviceTeardownsOverdue` | Count | Environment, Function | Maximum | devices-worker: devices whose machine the vendor has not confirmed gone for ten minutes; absent where nothing was worked on |
//! | `DeviceOrphans` | Count | Environment, Function | Maximum | devices-worker: machines with our tag that no record accounts for, deleted ones included; absent without a sweep |
//! | `UpstreamRequests` | Count | Environment, Upstream | Sum | requests made, or to be made with a token that could not be read |
//! | `UpstreamErrors` | Count | Environment, Upstream | Sum; Average is the share | for each request 1 where there was no whole answer, or a 5xx, 429, 401 or 403, and 0 otherwise: another 4xx such as 422 is an answer |
//! | `UpstreamLatency` | Milliseconds | Environment, Upstream | p50, p90, p99 | for each request the time to the last byte of the answer, or until it was given up |
//!
//! The three counts of DevEUIs come together, zeros included, and grow as the stored counts of the
//! batches do; after a crash what was done in its last moment may be counted again. The nine of
//! autoscaler-worker come together too, one line for the two ticks of a minute: the higher number of
//! deployments, the sum of hosts. A tick that another run has done counts nothing. The three of an
//! upstream come together too, whenever at least one request was made.
//!
//! # How
//! Everything is added up in the process and written by [`Metrics::flush`] before an invocation's
//! end is told to Lambda: what is written later may wait in a frozen process until the next one. A
//! second upstream in one invocation takes a second line, since `Upstream` has one value in a line.
//! Where the process does not run on Lambda nothing is kept and nothing is written.
//!
//! A line has `"level":"INFO"`, like the log lines beside it. Lambda drops it where the function's
//! application log level is above INFO.

mod latencies;
mod line;

use std::{
    collections::BTreeMap,
    env, fmt,
    io::{self, Write},
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use jiff::Timestamp;

use self::latencies::Latencies;

/// The format's limit of metrics in one directive.
const MOST_METRICS: usize = 100;
/// A process that became ready; recorded by the Lambda entries.
pub(crate) const COLD_STARTS: Metric = Metric::total("ColdStarts", Unit::Count);
/// How late a tick is; recorded by the Lambda entry of workers.
pub(crate) const TICK_LAG: Metric = Metric::highest("TickLag", Unit::Milliseconds);

static PROCESS: OnceLock<Metrics> = OnceLock::new();

/// Something a function measures. Declared as a constant, so that nothing that came with a request
/// can become a name.
///
/// ```
/// use kit::metrics::{self, Metric, Unit};
///
/// const BOXES: Metric = Metric::total("BoxesPacked", Unit::Count);
/// metrics::process().record(BOXES, 3);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    name: &'static str,
    unit: Unit,
    keeps: Keeps,
}

/// What a metric's values are counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Things.
    Count,
    /// A duration.
    Milliseconds,
}

/// What is left of several values in one invocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keeps {
    Sum,
    Highest,
}

impl Metric {
    /// A metric whose values add up within an invocation. `name` is unique and in PascalCase.
    pub const fn total(name: &'static str, unit: Unit) -> Self {
        Self { name, unit, keeps: Keeps::Sum }
    }

    /// A metric of which only the highest value within an invocation is kept.
    pub const fn highest(name: &'static str, unit: Unit) -> Self {
        Self { name, unit, keeps: Keeps::Highest }
    }
}

impl Unit {
    /// As CloudWatch spells it.
    const fn as_str(self) -> &'static str {
        match self {
            Self::Count => "Count",
            Self::Milliseconds => "Milliseconds",
        }
    }
}

/// What was measured since it was last written down.
pub struct Metrics(Option<Function>);

/// Whose metrics they are, and where they go.
struct Function {
    environment: String,
    name: String,
    measured: Mutex<Measured>,
    output: Mutex<Box<dyn Write + Send>>,
}

/// Bounded: metrics and upstreams are named in the code, and a latency is one of 100 values.
#[derive(Default)]
struct Measured {
    values: BTreeMap<&'static str, (Metric, u64)>,
    upstreams: BTreeMap<String, Calls>,
}

/// The requests to one upstream.
#[derive(Default)]
struct Calls {
    failed: u64,
    latencies: Latencies,
}

/// The metrics of this process: kept on Lambda, where `AWS_LAMBDA_FUNCTION_NAME` is set, and
/// nowhere else.
pub fn process() -> &'static Metrics {
    PROCESS.get_or_init(Metrics::from_env)
}

/// Makes `metrics` those of the process, for a test that looks at them. To be called before anything
/// is recorded; gives them back where it comes too late.
pub fn install(metrics: Metrics) -> Result<(), Metrics> {
    PROCESS.set(metrics)
}

impl Metrics {
    /// The metrics of the function `name` in `environment`, written to `output`.
    pub fn new(environment: &str, name: &str, output: impl Write + Send + 'static) -> Self {
        Self(Some(Function {
            environment: environment.to_owned(),
            name: name.to_owned(),
            measured: Mutex::default(),
            output: Mutex::new(Box::new(output)),
        }))
    }

    /// Metrics that are not kept.
    pub const fn off() -> Self {
        Self(None)
    }

    fn from_env() -> Self {
        let set = |name| env::var(name).ok().filter(|value| !value.is_empty());
        let Some(name) = set("AWS_LAMBDA_FUNCTION_NAME") else { return Self::off() };
        // CloudWatch takes no empty value for a dimension.
        let environment = set("MUSTER_ENVIRONMENT").unwrap_or_else(|| "unknown".to_owned());
        Self::new(&environment, &name, io::stdout())
    }

    /// Takes in a value. One of 0 is written down too: "none" is not the same as "not measured".
    pub fn record(&self, metric: Metric, value: u64) {
        let Some(function) = &self.0 else { return };
        let mut measured = lock(&function.measured);
        if measured.values.len() >= MOST_METRICS && !measured.values.contains_key(metric.name) {
            return;
        }
        let (_, kept) = measured.values.entry(metric.name).or_insert((metric, 0));
        *kept = match metric.keeps {
            Keeps::Sum => kept.saturating_add(value),
            Keeps::Highest => value.max(*kept),
        };
    }

    /// A request to `upstream` that begins now, and has failed unless [`Call::answered`] says otherwise
    /// before it is dropped: a request whose caller was out of time is one without an answer.
    pub(crate) fn call<'a>(&'a self, upstream: &'a str) -> Call<'a> {
        Call { metrics: self, upstream, begun: Instant::now(), failed: true }
    }

    fn called(&self, upstream: &str, took: Duration, failed: bool) {
        let Some(function) = &self.0 else { return };
        let mut measured = lock(&function.measured);
        let calls = match measured.upstreams.get_mut(upstream) {
            Some(calls) => calls,
            None => measured.upstreams.entry(upstream.to_owned()).or_default(),
        };
        calls.failed += u64::from(failed);
        calls.latencies.add(took);
    }

    /// Writes down what was measured and forgets it; nothing where nothing was measured. Lost lines
    /// are not worth a failed invocation, so errors of the output are ignored.
    pub fn flush(&self) {
        let Some(function) = &self.0 else { return };
        let measured = std::mem::take(&mut *lock(&function.measured));
        let mut text = String::new();
        for line in function.lines(measured, Timestamp::now()) {
            text.push_str(&line.to_string());
            text.push('\n');
        }
        if !text.is_empty() {
            let mut output = lock(&function.output);
            let _ = output.write_all(text.as_bytes()).and_then(|()| output.flush());
        }
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Metrics").field(&self.0.as_ref().map(|function| &function.name)).finish()
    }
}

/// A panic elsewhere leaves no half-made count: each is made in one step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A request to an upstream that is under way.
pub(crate) struct Call<'a> {
    metrics: &'a Metrics,
    upstream: &'a str,
    begun: Instant,
    failed: bool,
}

impl Call<'_> {
    /// There is a whole answer with this status.
    pub(crate) fn answered(&mut self, status: http::StatusCode) {
        // A refused token stops all work as surely as an upstream that is away; other 4xx are answers.
        self.failed = status.is_server_error()
            || matches!(
                status,
                http::StatusCode::TOO_MANY_REQUESTS | http::StatusCode::UNAUTHORIZED | http::StatusCode::FORBIDDEN
            );
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        self.metrics.called(self.upstream, self.begun.elapsed(), self.failed);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use std::sync::Arc;

    use http::StatusCode;
    use serde_json::{Value, json};

    use super::{line::tests::is_well_formed, *};

    /// What was written, in lines.
    #[derive(Clone, Default)]
    pub(crate) struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Lines {
        /// The lines since the last call, each held to the format.
        #[track_caller]
        pub(crate) fn take(&self) -> Vec<Value> {
            let bytes = std::mem::take(&mut *self.0.lock().unwrap());
            let text = String::from_utf8(bytes).unwrap();
            assert!(text.is_empty() || text.ends_with('\n'), "{text}");
            let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            lines.iter().for_each(is_well_formed);
            lines
        }
    }

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Metrics, and where they are written.
    pub(crate) fn collected() -> (Metrics, Lines) {
        let lines = Lines::default();
        (Metrics::new("muster-test", "muster-test-f", lines.clone()), lines)
    }

    pub(super) const BOXES: Metric = Metric::total("Boxes", Unit::Count);
    pub(super) const DEPTH: Metric = Metric::highest("Depth", Unit::Milliseconds);

    #[test]
    fn values_of_one_invocation_add_up_or_leave_the_highest() {
        let (metrics, lines) = collected();
        for value in [3, 7, 0, 5] {
            metrics.record(BOXES, value);
            metrics.record(DEPTH, value);
        }
        metrics.flush();
        let line = &lines.take()[0];
        assert_eq!((&line["Boxes"], &line["Depth"]), (&json!(15), &json!(7)));

        metrics.record(BOXES, 0);
        metrics.flush();
        let line = &lines.take()[0];
        assert_eq!((&line["Boxes"], line.get("Depth")), (&json!(0), None), "measured: none. Not measured: not there");
        metrics.flush();
        assert!(lines.take().is_empty(), "nothing since");
    }

    #[test]
    fn no_answer_a_5xx_a_429_and_a_refused_token_are_errors_and_a_422_is_an_answer() {
        let (metrics, lines) = collected();
        for status in [200, 204, 301, 404, 422, 401, 403, 429, 500, 503] {
            metrics.call("lorawan").answered(StatusCode::from_u16(status).unwrap());
        }
        // Its caller ran out of time, or panicked.
        drop(metrics.call("lorawan"));
        metrics.flush();
        let line = &lines.take()[0];
        assert_eq!(line["UpstreamRequests"], 11);
        assert_eq!(line["UpstreamErrors"], json!([0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1]));

        metrics.call("lorawan").answered(StatusCode::OK);
        metrics.flush();
        assert_eq!(lines.take()[0]["UpstreamErrors"], json!([0]), "without it there is no share of errors");
    }

    #[test]
    fn a_hundred_metrics_are_all_that_a_line_takes() {
        let (metrics, lines) = collected();
        for number in 0..101 {
            let name = String::leak(format!("Metric{number}"));
            metrics.record(Metric::total(name, Unit::Count), 1);
        }
        metrics.flush();
        assert_eq!(lines.take().len(), 1);
    }

    #[test]
    fn elsewhere_than_on_lambda_nothing_is_kept() {
        let metrics = Metrics::off();
        metrics.record(BOXES, 1);
        drop(metrics.call("lorawan"));
        metrics.flush();
        assert!(metrics.0.is_none());
        // Cargo's tests do not run there.
        assert!(Metrics::from_env().0.is_none());
    }

    #[test]
    fn neither_a_panic_nor_an_output_that_is_gone_stops_the_counting() {
        struct Gone;
        impl Write for Gone {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }

            fn flush(&mut self) -> io::Result<()> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
        }
        let metrics = Metrics::new("e", "f", Gone);
        metrics.record(BOXES, 1);
        metrics.flush();

        let (metrics, lines) = collected();
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _call = metrics.call("lorawan");
            let _locked = lock(&metrics.0.as_ref().unwrap().output);
            panic!("by design");
        }))
        .unwrap_err();
        metrics.flush();
        assert_eq!(lines.take()[0]["UpstreamErrors"], json!([1]));
    }
}
