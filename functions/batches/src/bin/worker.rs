//! The Lambda function that works on batches: started by the table's stream and every minute.

use std::{sync::Arc, time::Duration};

use batches::{
    config,
    store::BatchStore,
    worker::{Timing, Worker},
};
use kit::{clock::Clock, dynamo::Store, lambda};
use tokio_util::sync::CancellationToken;

/// Nothing new is sent in the last part of an invocation.
const WIND_DOWN: Duration = Duration::from_secs(30);

#[tokio::main]
async fn main() -> Result<(), lambda::Error> {
    lambda::run_worker(async {
        let store = Store::from_env().await;
        store.warm(&batches::TABLE).await;
        let provider = config::provider()?.ok_or("set MUSTER_LORAWAN_URL")?;
        let timing = Timing::new(&provider);
        let worker = Worker::new(BatchStore::new(store), provider, Clock::system(), timing, Arc::default());
        Ok(async move |invocation: lambda::Invocation| {
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
