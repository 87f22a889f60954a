//! A line in the Embedded Metric Format.
//!
//! <https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html>
//! allows a number, or an array of at most 100. Where there were more requests than that, the value is
//! `{"Values": […], "Counts": […]}`, each value with how often it came. That is not in the
//! specification; CloudWatch takes it from AWS's own libraries (awslabs/metrique, the exporter of
//! the OpenTelemetry collector), up to 100 values as well.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::{Calls, Function, Measured, Metric, Unit};

const NAMESPACE: &str = "muster";
/// The format's limit of values of one metric in one line.
pub(super) const MOST_VALUES: usize = 100;

impl Function {
    /// The objects to write, each a whole line.
    pub(super) fn lines(&self, measured: Measured, now: Timestamp) -> Vec<Value> {
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
pub(super) mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use std::time::Duration;

    use http::StatusCode;

    use super::*;
    use crate::metrics::{
        lock,
        tests::{BOXES, DEPTH, collected},
    };

    /// The specification of the format, as far as it concerns us.
    #[track_caller]
    pub(in crate::metrics) fn is_well_formed(line: &Value) {
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
}
