//! The Lambda functions of `devices`, in one binary.

use std::{sync::Arc, time::Duration};

use devices::{Devices, config::Config, seal::Sealer, store::DeviceStore, supply::Supply, worker::Worker};
use kit::{access::Access, clock::Clock, dynamo::Store, lambda};
use tokio_util::sync::CancellationToken;

/// The worker begins nothing new in the last part of an invocation: two requests of the longest
/// timeout fit into it.
const WIND_DOWN: Duration = Duration::from_secs(45);

fn main() -> Result<(), lambda::Error> {
    lambda::start(&[("http", http), ("worker", worker)])
}

/// Answers HTTP.
#[tokio::main(flavor = "current_thread")]
async fn http() -> Result<(), lambda::Error> {
    lambda::run_http(async {
        let store = Store::from_env().await;
        let config = Config::from_env()?;
        // On AWS the table's stream wakes the worker, which is another function.
        let devices = Devices::new(&config, store.clone(), Clock::system(), Arc::default());
        tokio::join!(store.warm(&devices::TABLE), config.token.warm());
        Ok(kit::http::app(vec![devices::routes(devices)], Access::new(store, Clock::system())))
    })
    .await
}

/// Works on devices: started by the table's stream and every minute.
#[tokio::main]
async fn worker() -> Result<(), lambda::Error> {
    lambda::run_worker(async {
        let store = Store::from_env().await;
        let config = Config::from_env()?;
        tokio::join!(store.warm(&devices::TABLE), config.token.warm());
        let worker = config.vendor.map(|vendor| {
            let supply = Supply::new(vendor, DeviceStore::new(store.clone()), Clock::system());
            Worker::new(supply, store, Sealer::new(config.token), Clock::system(), Arc::default())
                .deletes_orphans(config.deletes_orphans)
                .dead_mans_switch(config.dead_mans_switch)
        });
        Ok(async move |invocation: lambda::Invocation| {
            let worker = match &worker {
                Ok(worker) => worker,
                // A stack without a vendor launches nothing, so there is nothing to fail at.
                Err(setting) => return Ok(serde_json::json!({ "ended": format!("{setting} is not set") })),
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
