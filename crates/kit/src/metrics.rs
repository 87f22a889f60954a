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
//!
//! # The format
//! <https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html>
//! allows a number, or an array of at most 100. Where there were more requests than that, the value is
//! `{"Values": […], "Counts": […]}`, each value with how often it came. That is not in the
//! specification; CloudWatch takes it from AWS's own libraries (awslabs/metrique, the exporter of
//! the OpenTelemetry collector), up to 100 values as well.

use std::{
    collections::BTreeMap,
    env, fmt,
    io::{self, Write},
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use serde_json::{Map, Value, json};

const NAMESPACE: &str = "muster";
/// The format's limit of metrics in one directive.
const MOST_METRICS: usize = 100;
/// The format's limit of values of one metric in one line.
const MOST_VALUES: usize = 100;
/// Up to this many binary digits a duration is kept as it is, in milliseconds: a minute or so.
const EXACT_DIGITS: u32 = 16;

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

/// How often which duration came, in milliseconds, as at most [`MOST_VALUES`] different ones.
///
/// Exact while that is enough. Then neighbours are put together: those that are the same in all but
/// their last binary digits, one digit more each time. The first four digits, where no value is
/// moved by more than 7 %, are always enough up to 16 s.
#[derive(Default)]
struct Latencies {
    /// By the smallest duration that could be meant.
    counts: BTreeMap<u64, u64>,
    /// How many digits fewer than at first are told apart.
    coarser: u32,
}

impl Latencies {
    fn add(&mut self, took: Duration) {
        let milliseconds = u64::try_from((took.as_micros() + 500) / 1000).unwrap_or(u64::MAX);
        self.count(milliseconds, 1);
        while self.counts.len() > MOST_VALUES && self.coarser + 1 < EXACT_DIGITS {
            self.coarser += 1;
            for (value, count) in std::mem::take(&mut self.counts) {
                self.count(value, count);
            }
        }
    }

    fn count(&mut self, value: u64, count: u64) {
        *self.counts.entry(value - value % self.step(value)).or_default() += count;
    }

    /// How far values like `value` are apart.
    fn step(&self, value: u64) -> u64 {
        let digits = u64::BITS - value.leading_zeros();
        1 << digits.saturating_sub(EXACT_DIGITS - self.coarser)
    }

    /// The durations, each the middle of those that it stands for, and how often each came.
    fn values(&self) -> impl Iterator<Item = (u64, u64)> {
        self.counts.iter().map(|(value, count)| (value + self.step(*value) / 2, *count))
    }

    fn total(&self) -> u64 {
        self.counts.values().sum()
    }
}

impl Function {
    /// The objects to write, each a whole line.
    fn lines(&self, measured: Measured, now: Timestamp) -> Vec<Value> {
        let mut lines = Vec::new();
        let mut line = Line::new(self, now);
        line.directive("Function", measured.values.into_values().map(|(metric, value)| (metric, json!(value))));
        for (upstream, calls) in measured.upstreams {
            if line.members.contains_key("Upstream") {
                lines.push(std::mem::replace(&mut line, Line::new(self, now)));
            }
            line.members.insert("Upstream".to_owned(), json!(upstream));
            line.directive("Upstream", calls.values());
        }
        lines.push(line);
        lines.into_iter().filter_map(Line::finish).collect()
    }
}

impl Calls {
    fn values(&self) -> impl Iterator<Item = (Metric, Value)> {
        let total = self.latencies.total();
        let errors = [(0, total - self.failed), (1, self.failed)];
        [
            (Metric::total("UpstreamRequests", Unit::Count), json!(total)),
            (Metric::total("UpstreamErrors", Unit::Count), values(errors, total)),
            (Metric::total("UpstreamLatency", Unit::Milliseconds), values(self.latencies.values(), total)),
        ]
        .into_iter()
    }
}

/// Values with how often each came, `total` times together, as the format wants them.
fn values(counts: impl IntoIterator<Item = (u64, u64)>, total: u64) -> Value {
    let counts = counts.into_iter().filter(|(_, count)| *count > 0);
    if total <= MOST_VALUES as u64 {
        return counts.flat_map(|(value, count)| (0..count).map(move |_| value)).collect();
    }
    let (values, counts): (Vec<u64>, Vec<u64>) = counts.unzip();
    json!({ "Values": values, "Counts": counts })
}

/// A line in the making.
struct Line {
    timestamp: i64,
    directives: Vec<Value>,
    members: Map<String, Value>,
}

impl Line {
    fn new(function: &Function, now: Timestamp) -> Self {
        let mut members = Map::new();
        for (name, value) in [
            // The first three are those of every log line.
            ("timestamp", now.to_string()),
            ("level", "INFO".to_owned()),
            ("message", "metrics".to_owned()),
            ("Environment", function.environment.clone()),
            ("Function", function.name.clone()),
        ] {
            members.insert(name.to_owned(), json!(value));
        }
        Self { timestamp: now.as_millisecond(), directives: Vec::new(), members }
    }

    /// Adds `metrics` under the environment and one more dimension.
    fn directive(&mut self, dimension: &str, metrics: impl Iterator<Item = (Metric, Value)>) {
        let mut definitions = Vec::new();
        for (metric, value) in metrics {
            definitions.push(json!({ "Name": metric.name, "Unit": metric.unit.as_str() }));
            self.members.insert(metric.name.to_owned(), value);
        }
        if !definitions.is_empty() {
            self.directives.push(json!({
                "Namespace": NAMESPACE,
                "Dimensions": [["Environment", dimension]],
                "Metrics": definitions,
            }));
        }
    }

    /// The whole line, where there is something in it.
    fn finish(self) -> Option<Value> {
        if self.directives.is_empty() {
            return None;
        }
        let mut root = Map::new();
        root.insert("_aws".to_owned(), json!({ "Timestamp": self.timestamp, "CloudWatchMetrics": self.directives }));
        root.extend(self.members);
        Some(Value::Object(root))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use std::sync::Arc;

    use http::StatusCode;
    use proptest::prelude::*;

    use super::*;

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

    /// The specification of the format, as far as it concerns us.
    #[track_caller]
    fn is_well_formed(line: &Value) {
        assert!(line.to_string().len() < 256 * 1024, "more than a log event holds");
        let aws = line["_aws"].as_object().expect("metadata");
        assert_eq!(aws.keys().collect::<Vec<_>>(), ["Timestamp", "CloudWatchMetrics"]);
        let age = Timestamp::now().as_millisecond() - aws["Timestamp"].as_i64().expect("milliseconds");
        assert!((0..60_000).contains(&age), "{age}");
        let directives = aws["CloudWatchMetrics"].as_array().expect("directives");
        assert!(!directives.is_empty());
        let mut names = Vec::new();
        for directive in directives {
            assert_eq!(
                directive.as_object().unwrap().keys().collect::<Vec<_>>(),
                ["Namespace", "Dimensions", "Metrics"]
            );
            assert_eq!(directive["Namespace"], "muster");
            let sets = directive["Dimensions"].as_array().expect("dimension sets");
            assert_eq!(sets.len(), 1, "each set is paid for");
            for dimension in sets[0].as_array().expect("a dimension set") {
                let value = line[dimension.as_str().unwrap()].as_str().expect("a dimension's value at the root");
                assert!((1..=1024).contains(&value.len()));
            }
            let metrics = directive["Metrics"].as_array().expect("definitions");
            assert!((1..=100).contains(&metrics.len()));
            for metric in metrics {
                assert_eq!(metric.as_object().unwrap().keys().collect::<Vec<_>>(), ["Name", "Unit"]);
                assert!(["Count", "Milliseconds"].contains(&metric["Unit"].as_str().unwrap()));
                let name = metric["Name"].as_str().unwrap();
                assert!(!names.contains(&name), "{name} twice");
                names.push(name);
                is_a_value(&line[name]);
            }
        }
    }

    #[track_caller]
    fn is_a_value(value: &Value) {
        let numbers = |value: &Value| {
            let values = value.as_array().expect("numbers");
            assert!((1..=100).contains(&values.len()) && values.iter().all(Value::is_u64), "{value}");
            values.len()
        };
        match value {
            Value::Number(_) => {}
            Value::Array(_) => drop(numbers(value)),
            Value::Object(members) => {
                assert_eq!(members.keys().collect::<Vec<_>>(), ["Values", "Counts"]);
                assert_eq!(numbers(&members["Values"]), numbers(&members["Counts"]));
            }
            _ => panic!("no value of a metric: {value}"),
        }
    }

    const BOXES: Metric = Metric::total("Boxes", Unit::Count);
    const DEPTH: Metric = Metric::highest("Depth", Unit::Milliseconds);

    #[test]
    fn a_line_is_exactly_this() {
        let (metrics, _) = collected();
        metrics.record(BOXES, 2);
        metrics.record(DEPTH, 9);
        metrics.called("lorawan", Duration::from_micros(20_600), false);
        metrics.called("lorawan", Duration::from_millis(7), true);
        let function = metrics.0.as_ref().unwrap();
        let measured = std::mem::take(&mut *lock(&function.measured));
        let lines = function.lines(measured, Timestamp::from_millisecond(1_795_223_640_250).unwrap());
        let lines: Vec<_> = lines.iter().map(Value::to_string).collect();
        let expected = concat!(
            r#"{"_aws":{"Timestamp":1795223640250,"CloudWatchMetrics":["#,
            r#"{"Namespace":"muster","Dimensions":[["Environment","Function"]],"Metrics":["#,
            r#"{"Name":"Boxes","Unit":"Count"},{"Name":"Depth","Unit":"Milliseconds"}]},"#,
            r#"{"Namespace":"muster","Dimensions":[["Environment","Upstream"]],"Metrics":["#,
            r#"{"Name":"UpstreamRequests","Unit":"Count"},{"Name":"UpstreamErrors","Unit":"Count"},"#,
            r#"{"Name":"UpstreamLatency","Unit":"Milliseconds"}]}]},"#,
            r#""timestamp":"2026-11-21T01:14:00.25Z","level":"INFO","message":"metrics","#,
            r#""Environment":"muster-test","Function":"muster-test-f","#,
            r#""Boxes":2,"Depth":9,"Upstream":"lorawan","#,
            r#""UpstreamRequests":2,"UpstreamErrors":[0,1],"UpstreamLatency":[7,21]}"#,
        );
        assert_eq!(lines, [expected]);
    }

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
    fn each_upstream_has_a_line_and_the_function_its_metrics_once() {
        let (metrics, lines) = collected();
        metrics.record(BOXES, 1);
        metrics.call("packet").answered(StatusCode::OK);
        metrics.call("cpx").answered(StatusCode::OK);
        metrics.call("cpx").answered(StatusCode::OK);
        metrics.flush();
        let of =
            |line: &Value| (line["Upstream"].clone(), line["UpstreamRequests"].clone(), line.get("Boxes").cloned());
        let found: Vec<_> = lines.take().iter().map(of).collect();
        assert_eq!(found, [(json!("cpx"), json!(2), Some(json!(1))), (json!("packet"), json!(1), None)]);
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
    fn more_requests_than_an_array_holds_are_counted_by_value() {
        let (metrics, lines) = collected();
        for request in 0..100_u64 {
            metrics.called("lorawan", Duration::from_millis(20 + request % 3), false);
        }
        metrics.flush();
        assert_eq!(lines.take()[0]["UpstreamLatency"].as_array().unwrap().len(), 100);

        for request in 0..150_u64 {
            metrics.called("lorawan", Duration::from_millis(20 + request % 3), request >= 145);
        }
        metrics.flush();
        let line = &lines.take()[0];
        assert_eq!(line["UpstreamLatency"], json!({ "Values": [20, 21, 22], "Counts": [50, 50, 50] }));
        assert_eq!(line["UpstreamErrors"], json!({ "Values": [0, 1], "Counts": [145, 5] }));
    }

    proptest! {
        #[test]
        fn latencies_keep_their_number_and_nearly_their_size(
            sizes in prop::collection::vec(prop_oneof![0..200_u64, 0..16_000_u64, any::<u64>()], 0..600),
            most in prop_oneof![Just(16_000_u64), Just(u64::MAX / 1000)],
        ) {
            let mut latencies = Latencies::default();
            let mut sizes: Vec<_> = sizes.into_iter().map(|size| size.min(most)).collect();
            for size in &sizes {
                latencies.add(Duration::from_millis(*size));
            }
            let kept: Vec<_> = latencies.values().collect();
            prop_assert!(kept.len() <= MOST_VALUES);
            prop_assert_eq!(latencies.total(), sizes.len() as u64);
            sizes.sort_unstable();
            let exact = sizes.iter().collect::<std::collections::BTreeSet<_>>().len() <= MOST_VALUES;
            let repeated = kept.iter().flat_map(|(value, count)| (0..*count).map(|_| *value));
            for (size, value) in sizes.iter().zip(repeated) {
                let off = size.abs_diff(value);
                if exact && *size < 1 << EXACT_DIGITS {
                    prop_assert_eq!(off, 0);
                }
                if most <= 16_000 {
                    prop_assert!(off * 100 <= size * 7, "{} became {}", size, value);
                }
            }
        }
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
