//! Workers: what wakes them, and how long they have.
//!
//! A schedule delivers at least once and at most so often as it likes; [`Trigger::Schedule`] carries
//! the slot it was *meant* for, which is the key to de-duplicate by. A worker that fails returns an
//! error: unlike behind a load balancer, Lambda then tries again.

use std::{panic::AssertUnwindSafe, time::Duration};

use aws_lambda_events::dynamodb;
use futures::FutureExt;
use jiff::Timestamp;
use lambda_http::{
    LambdaEvent,
    lambda_runtime::{self, Diagnostic, service_fn},
};
use serde_json::Value;
use tokio::time::Instant;

use super::{Error, Panicked, end_of, initialise, measured, panic_message};
use crate::{
    metrics::{self, Metrics},
    telemetry,
};

/// Why a worker was started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trigger {
    /// By EventBridge Scheduler or an EventBridge rule.
    Schedule {
        /// When it was due, not when it came.
        slot: Timestamp,
    },
    /// By changes in a table of ours.
    Stream {
        /// Partition and sort key (`pk`, `sk`) of the items that were written or removed, in order,
        /// each once.
        keys: Vec<(String, String)>,
    },
    /// By a person: an empty event, as `aws lambda invoke` sends it.
    Manual,
}

/// An event that is none of the triggers: refused, because guessing would hide a wrong schedule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "not an event this worker knows: {0}. It takes {{\"scheduled_time\": \"<RFC 3339>\"}}, a Scheduled \
     Event of an EventBridge rule, a DynamoDB stream's records, or {{}}"
)]
pub struct UnknownTrigger(String);

/// One run of a worker.
#[derive(Debug, Clone)]
pub struct Invocation {
    /// Why.
    pub trigger: Trigger,
    /// When to have stopped and written down what is done: one second before Lambda ends the
    /// invocation (a quarter of the time where that is less than four seconds).
    pub deadline: Instant,
    /// Lambda's id of the invocation, the same when it is tried again.
    pub request_id: String,
}

/// What is kept back for a worker's last words.
const MARGIN: Duration = Duration::from_secs(1);

/// What is kept back to report that a worker did not stop. Lambda's own timeout would throw the
/// whole process away.
const LAST_MARGIN: Duration = Duration::from_millis(100);

/// The time of a run where the runtime states none that lies ahead.
const UNKNOWN_TIME: Duration = Duration::from_mins(1);

/// Runs the worker that `init` builds at every event, until the process ends.
///
/// The handler's value is the invocation's result, seen by whoever invokes by hand. Its error, a
/// panic, an unknown event and a handler that does not stop in time are errors of the invocation,
/// which Lambda tries again as the function's event configuration says.
pub async fn run_worker<H>(init: impl Future<Output = Result<H, Error>>) -> Result<(), Error>
where
    H: AsyncFn(Invocation) -> Result<Value, Error>,
{
    telemetry::init();
    let metrics = metrics::process();
    let handler = initialise(metrics, init).await?;
    lambda_runtime::run(service_fn(async |event| {
        measured(metrics, work(&handler, metrics, event)).await.map_err(|error| diagnostic(&*error))
    }))
    .await
}

/// The error as Lambda keeps it, with its causes: an invocation that nobody waited for leaves
/// nothing else behind at its failure destination.
fn diagnostic(error: &(dyn std::error::Error + 'static)) -> Diagnostic {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let mut words: Vec<_> = causes.map(ToString::to_string).collect();
    words.dedup();
    Diagnostic { error_type: "Worker.Error".to_owned(), error_message: words.join(": ") }
}

async fn work<H>(handler: &H, metrics: &Metrics, event: LambdaEvent<Value>) -> Result<Value, Error>
where
    H: AsyncFn(Invocation) -> Result<Value, Error>,
{
    let LambdaEvent { payload, context } = event;
    let end = end_of(&context, UNKNOWN_TIME);
    let left = end.duration_since(Instant::now());
    let trigger = Trigger::parse(payload)?;
    if let Trigger::Schedule { slot } = trigger {
        // Two clocks: a tick that seems early is one in time.
        let lag = Timestamp::now().duration_since(slot).as_millis();
        metrics.record(metrics::TICK_LAG, u64::try_from(lag).unwrap_or(0));
    }
    let invocation = Invocation {
        trigger,
        deadline: end.checked_sub(MARGIN.min(left / 4)).unwrap_or(end),
        request_id: context.request_id,
    };
    let last = end.checked_sub(LAST_MARGIN.min(left / 8)).unwrap_or(end);
    match tokio::time::timeout_at(last, AssertUnwindSafe(handler(invocation)).catch_unwind()).await {
        Ok(Ok(result)) => result,
        Ok(Err(panic)) => Err(Panicked(panic_message(&*panic).to_owned()).into()),
        Err(_elapsed) => Err("the worker did not stop at its deadline and was dropped".into()),
    }
}

impl Trigger {
    /// The trigger that `event` is.
    pub fn parse(event: Value) -> Result<Self, UnknownTrigger> {
        let unknown = |why: &str| UnknownTrigger(why.to_owned());
        let Value::Object(fields) = &event else {
            return if event.is_null() { Ok(Self::Manual) } else { Err(unknown("it is not an object")) };
        };
        if fields.is_empty() {
            return Ok(Self::Manual);
        }
        if let Some(time) = fields.get("scheduled_time") {
            return slot(time, "scheduled_time");
        }
        if fields.get("detail-type").is_some_and(|kind| kind == "Scheduled Event") {
            return slot(fields.get("time").unwrap_or(&Value::Null), "time");
        }
        if fields.contains_key("Records") {
            return stream(event);
        }
        let names: Vec<&str> = fields.keys().map(String::as_str).take(5).collect();
        Err(unknown(&format!("it has {}", names.join(", "))))
    }
}

fn slot(time: &Value, field: &str) -> Result<Trigger, UnknownTrigger> {
    match time.as_str().map(str::parse) {
        Some(Ok(slot)) => Ok(Trigger::Schedule { slot }),
        _ => Err(UnknownTrigger(format!("`{field}` is {time}, not a time"))),
    }
}

fn stream(event: Value) -> Result<Trigger, UnknownTrigger> {
    let event: dynamodb::Event =
        serde_json::from_value(event).map_err(|error| UnknownTrigger(format!("its records: {error}")))?;
    let mut keys = Vec::with_capacity(event.records.len());
    for record in event.records {
        let item = record.change.keys;
        let text = |name: &str| match item.get(name) {
            Some(serde_dynamo::AttributeValue::S(text)) => Ok(text.clone()),
            _ => Err(UnknownTrigger(format!("a record whose key has no string `{name}`"))),
        };
        let key = (text("pk")?, text("sk")?);
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    Ok(Trigger::Stream { keys })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use lambda_http::Context;
    use serde_json::json;

    use super::*;

    fn at(time: &str) -> Trigger {
        Trigger::Schedule { slot: time.parse().unwrap() }
    }

    fn record(pk: &str, sk: &Value) -> Value {
        json!({
            "eventID": "1", "eventName": "MODIFY", "eventSource": "aws:dynamodb", "awsRegion": "us-east-1",
            "dynamodb": { "Keys": { "pk": { "S": pk }, "sk": sk }, "SizeBytes": 26, "StreamViewType": "KEYS_ONLY" },
        })
    }

    #[test]
    fn a_schedule_carries_the_slot_it_was_meant_for() {
        let ours = json!({ "scheduled_time": "2026-11-21T01:14:00Z" });
        assert_eq!(Trigger::parse(ours).unwrap(), at("2026-11-21T01:14:00Z"));
        let rule = json!({
            "version": "0", "id": "89d1a02d", "detail-type": "Scheduled Event", "source": "aws.events",
            "account": "123456789012", "time": "2026-11-21T01:14:00Z", "region": "us-east-1",
            "resources": ["arn:aws:events:us-east-1:123456789012:rule/tick"], "detail": {},
        });
        assert_eq!(Trigger::parse(rule).unwrap(), at("2026-11-21T01:14:00Z"));
    }

    #[test]
    fn a_stream_names_each_changed_key_once() {
        let sk = json!({ "S": "batch" });
        let event = json!({ "Records": [record("a", &sk), record("b", &sk), record("a", &sk)] });
        let keys = [("a", "batch"), ("b", "batch")].map(|(pk, sk)| (pk.to_owned(), sk.to_owned())).to_vec();
        assert_eq!(Trigger::parse(event).unwrap(), Trigger::Stream { keys });
    }

    #[test]
    fn a_person_sends_nothing_and_anything_else_is_refused() {
        assert_eq!(Trigger::parse(json!({})).unwrap(), Trigger::Manual);
        assert_eq!(Trigger::parse(json!(null)).unwrap(), Trigger::Manual);
        for unknown in [
            json!(7),
            json!([]),
            json!({ "hello": "world" }),
            json!({ "scheduled_time": "<aws.scheduler.scheduled-time>" }),
            json!({ "scheduled_time": 7 }),
            json!({ "detail-type": "Scheduled Event" }),
            json!({ "detail-type": "EC2 Instance State-change Notification", "time": "2026-11-21T01:14:00Z" }),
            json!({ "Records": [{ "s3": {} }] }),
            json!({ "Records": [record("a", &json!({ "N": "1" }))] }),
        ] {
            assert!(Trigger::parse(unknown.clone()).is_err(), "{unknown}");
        }
    }

    async fn run<H>(handler: H, event: Value, left: Duration) -> Result<Value, Error>
    where
        H: AsyncFn(Invocation) -> Result<Value, Error>,
    {
        let mut context = Context::default();
        context.deadline = (Timestamp::now() + left).as_millisecond().try_into().unwrap();
        work(&handler, &Metrics::off(), LambdaEvent::new(event, context)).await
    }

    #[tokio::test]
    async fn a_tick_tells_how_late_it_is_and_no_other_trigger_does() {
        let (metrics, lines) = metrics::tests::collected();
        let lag = async |event: Value| {
            work(&async |_| Ok(json!("ran")), &metrics, LambdaEvent::new(event, Context::default())).await.unwrap();
            metrics.flush();
            lines.take().first().and_then(|line| line["TickLag"].as_u64())
        };
        let at = |slot: Timestamp| json!({ "scheduled_time": slot.to_string() });
        let late = lag(at(Timestamp::now() - Duration::from_secs(3))).await.unwrap();
        assert!((3_000..13_000).contains(&late), "{late}");
        assert_eq!(lag(at(Timestamp::now() + Duration::from_secs(60))).await, Some(0));
        assert_eq!(lag(json!({})).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_worker_is_told_to_stop_a_second_before_the_end() {
        let report = async |invocation: Invocation| {
            Ok(json!(invocation.deadline.duration_since(Instant::now()).as_millis().div_ceil(100)))
        };
        assert_eq!(run(report, json!({}), Duration::from_secs(10)).await.unwrap(), 90);
        assert_eq!(run(report, json!({}), Duration::from_secs(2)).await.unwrap(), 15);
    }

    #[tokio::test(start_paused = true)]
    async fn what_goes_wrong_in_a_worker_is_an_error_of_the_invocation() {
        let second = Duration::from_secs(1);
        let panics = async |_| panic!("by design");
        assert_eq!(run(panics, json!({}), second).await.unwrap_err().to_string(), "panicked: by design");
        let never = async |_| std::future::pending().await;
        assert!(run(never, json!({}), second).await.unwrap_err().to_string().contains("deadline"));
        let fine = async |_| Ok(json!("ran"));
        assert!(run(fine, json!({ "hello": 1 }), second).await.unwrap_err().to_string().contains("it has hello"));
    }
}
