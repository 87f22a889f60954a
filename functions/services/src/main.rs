//! The Lambda functions of `services`, in one binary.

use kit::{
    access::Access,
    clock::Clock,
    dynamo::Store,
    lambda::{self, Trigger},
};
use services::{
    Watch,
    config::{Config, variable},
    notify::Notifier,
    worker::{Watcher, slot},
};

fn main() -> Result<(), lambda::Error> {
    lambda::start(&[("http", http), ("worker", worker)])
}

/// Answers HTTP.
#[tokio::main(flavor = "current_thread")]
async fn http() -> Result<(), lambda::Error> {
    lambda::run_http(async {
        let store = Store::from_env().await;
        store.warm(&kit::access::TABLE).await;
        let watch = Watch::new(&Config::from_env()?, store.clone(), Clock::system());
        Ok(kit::http::app(vec![services::routes(watch)], Access::new(store, Clock::system())))
    })
    .await
}

/// Watches the services: started every minute.
#[tokio::main(flavor = "current_thread")]
async fn worker() -> Result<(), lambda::Error> {
    lambda::run_worker(async {
        let store = Store::from_env().await;
        let notifier = Notifier::from_settings(variable).await?;
        tokio::join!(store.warm(&services::TABLE), notifier.warm());
        let clock = Clock::system();
        let watcher = Watcher::new(Config::from_env()?, store, notifier, clock.clone());
        Ok(async move |invocation: lambda::Invocation| {
            // A stack without a CPX watches nothing, so there is nothing to fail at.
            let Some(watcher) = &watcher else {
                return Ok(serde_json::json!({"ended": "MUSTER_CPX_URL is not set"}));
            };
            // The minute it was meant for, however late it comes.
            let time = match invocation.trigger {
                Trigger::Schedule { slot } => slot,
                Trigger::Stream { .. } | Trigger::Manual => clock.now(),
            };
            Ok(serde_json::to_value(watcher.tick(slot(time)).await?)?)
        })
    })
    .await
}
