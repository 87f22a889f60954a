//! What the worker measures is what the store and the provider say. One test, as the metrics are the
//! process's.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::{
    io::{self, Write},
    sync::{Arc, Mutex},
    time::Duration,
};

use batches::worker::{Ended, Timing, Worker};
use common::{OfBatches as _, World};
use kit::{
    clock::Clock,
    metrics::{self, Metrics},
};
use serde_json::{Value, json};
use simulators::lorawan;
use tokio_util::sync::CancellationToken;

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// All that a metric's value stands for, added up.
fn sum(value: &Value) -> u64 {
    let numbers = |value: &Value| -> Vec<u64> { serde_json::from_value(value.clone()).unwrap() };
    match value {
        Value::Null => 0,
        Value::Number(number) => number.as_u64().unwrap(),
        Value::Array(_) => numbers(value).iter().sum(),
        value => {
            numbers(&value["Values"]).iter().zip(numbers(&value["Counts"])).map(|(value, count)| value * count).sum()
        }
    }
}

#[tokio::test]
async fn the_metrics_of_all_stretches_of_work_are_what_the_batches_and_the_provider_say() {
    let lines = Lines::default();
    metrics::install(Metrics::new("muster-test", "muster-test-batches-worker", lines.clone())).unwrap();
    let faults = lorawan::Config {
        seed: 7,
        latency: Duration::from_millis(20),
        conflict_rate: 0.1,
        drop_after_rate: 0.1,
        error_rate: 0.05,
        throttle_rate: 0.02,
        retry_after_seconds: 0,
        ..lorawan::Config::default()
    };
    let world = World::with(faults, Clock::system()).await;
    let client = world.client("acme").await;
    let ids = [client.create(200).await, client.create(150).await];

    let timing = Timing {
        retry_base: Duration::from_millis(5),
        retry_most: Duration::from_millis(50),
        refresh: Duration::from_millis(20),
        ..Timing::new(&world.provider)
    };
    let batches = &world.batches;
    let worker =
        Worker::new(batches.store.clone(), world.provider.clone(), Clock::system(), timing, batches.wake.clone());
    // As on Lambda: one stretch of work after the other, each with its end in sight.
    let mut stretches = 0;
    loop {
        let stop = CancellationToken::new();
        let alarm = stop.clone();
        let timer = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(150)).await;
            alarm.cancel();
        });
        let ended = worker.work(&stop).await.unwrap();
        timer.abort();
        metrics::process().flush();
        stretches += 1;
        match ended {
            Ended::Idle => break,
            Ended::Stopped => assert!(stretches < 100, "no progress"),
            Ended::Held(_) => panic!("there is no other worker"),
        }
    }
    assert!(stretches > 2, "too fast to have been interrupted");

    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines.len() <= stretches, "more than a line for each: {text}");
    let total = |name: &str| lines.iter().map(|line| sum(&line[name])).sum::<u64>();

    let mut recovered = 0;
    let mut conflicts = 0;
    for id in &ids {
        let batch = client.finished(id).await;
        assert_eq!(batch["status"], "Completed");
        recovered += batch["recovered_count"].as_u64().unwrap();
        conflicts += batch["conflicts"].as_u64().unwrap();
    }
    assert!(recovered > 0 && conflicts > 0, "too few faults to say anything");
    assert_eq!(total("DevEuisRegistered"), 350);
    assert_eq!(total("DevEuiConflicts"), conflicts);
    assert_eq!(total("DevEuisRecovered"), recovered);

    let traffic = world.sim.stats().traffic;
    let errors = traffic.closed + [429, 500, 502, 503].iter().map(|status| traffic.answers(*status)).sum::<u64>();
    assert!(errors > 0 && traffic.abandoned == 0, "{traffic:?}");
    assert_eq!(total("UpstreamRequests"), traffic.requests);
    assert_eq!(total("UpstreamErrors"), errors);
    assert!(lines.iter().all(|line| line.get("Upstream").is_none_or(|name| name == "lorawan")), "{text}");

    let in_flight = lines.iter().filter_map(|line| line["RequestsInFlight"].as_u64()).max().unwrap();
    assert!(in_flight >= traffic.max_in_flight as u64 && in_flight <= 10, "{in_flight} {traffic:?}");
    let last = lines.last().unwrap();
    assert_eq!(
        (&last["Environment"], &last["Function"]),
        (&json!("muster-test"), &json!("muster-test-batches-worker"))
    );
}
