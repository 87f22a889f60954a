//! The Lambda function that watches the services: started every minute.

use kit::{
    clock::Clock,
    dynamo::Store,
    lambda::{self, Trigger},
};
use services::{
    config::{Config, variable},
    notify::Notifier,
    worker::{Watcher, slot},
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda::Error> {
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
