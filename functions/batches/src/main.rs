//! The Lambda functions of `batches`, in one binary.

use std::{sync::Arc, time::Duration};

use batches::{
    Batches, config,
    store::BatchStore,
    worker::{Timing, Worker},
};
use kit::{access::Access, clock::Clock, dynamo::Store, lambda};
use tokio_util::sync::CancellationToken;

/// The worker sends nothing new in the last part of an invocation.
const WIND_DOWN: Duration = Duration::from_secs(30);

fn main() -> Result<(), lambda::Error> {
    lambda::start(&[("http", http), ("worker", worker)])
}

/// Answers HTTP.
#[tokio::main(flavor = "current_thread")]
async fn http() -> Result<(), lambda::Error> {
    lambda::run_http(async {
        let store = Store::from_env().await;
        store.warm(&batches::TABLE).await;
        let routes = batches::routes(Batches {
            store: BatchStore::new(store.clone()),
            provider: config::provider_name()?,
            clock: Clock::system(),
            // On AWS the table's stream wakes the worker, which is another function.
            wake: Arc::default(),
            max_age: config::max_age()?,
        });
        Ok(kit::http::app(vec![routes], Access::new(store, Clock::system())))
    })
    .await
}

/// Works on batches: started by the table's stream and every minute.
#[tokio::main]
async fn worker() -> Result<(), lambda::Error> {
    lambda::run_worker(async {
        let store = Store::from_env().await;
        let provider = config::provider()?;
        tokio::join!(store.warm(&batches::TABLE), async {
            if let Some(provider) = &provider {
                provider.warm().await;
            }
        });
        let worker = provider.map(|provider| {
            let timing = Timing::new(&provider);
            Worker::new(BatchStore::new(store), provider, Clock::system(), timing, Arc::default())
        });
        Ok(async move |invocation: lambda::Invocation| {
            // A stack without a provider takes no batches, so there is nothing to fail at.
            let Some(worker) = &worker else {
                return Ok(serde_json::json!({"ended": "MUSTER_LORAWAN_URL is not set"}));
            };
            let stop = CancellationToken::new();
            let alarm = stop.clone();
            let timer = tokio::spawn(async move {
                // A machine that has just been started may have a clock below the half minute.
                if let Some(at) = invocation.deadline.checked_sub(WIND_DOWN) {
                    tokio::time::sleep_until(at).await;
                }
                alarm.cancel();
            });
            let ended = worker.work(&stop).await;
            timer.abort();
            Ok(serde_json::json!({"ended": format!("{:?}", ended?)}))
        })
    })
    .await
}
