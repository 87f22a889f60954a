//! The Lambda functions of `autoscaler`, in one binary.

use autoscaler::{Scaling, config::Config, tick::Scaler};
use kit::{access::Access, clock::Clock, dynamo::Store, lambda};
use tokio_util::sync::CancellationToken;

fn main() -> Result<(), lambda::Error> {
    lambda::start(&[("http", http), ("worker", worker)])
}

/// Answers HTTP.
#[tokio::main(flavor = "current_thread")]
async fn http() -> Result<(), lambda::Error> {
    lambda::run_http(async {
        let store = Store::from_env().await;
        store.warm(&kit::access::TABLE).await;
        let scaling = Scaling::new(&Config::from_env()?, store.clone(), Clock::system());
        Ok(kit::http::app(vec![autoscaler::routes(scaling)], Access::new(store, Clock::system())))
    })
    .await
}

/// Scales the deployments: started every minute, for two ticks.
#[tokio::main(flavor = "current_thread")]
async fn worker() -> Result<(), lambda::Error> {
    lambda::run_worker(async {
        let store = Store::from_env().await;
        store.warm(&autoscaler::store::TABLE).await;
        let config = Config::from_env()?;
        let scaler = config.deployments.map(|api| Scaler::new(api, store, config.at_once, Clock::system()));
        Ok(async move |_: lambda::Invocation| {
            // A stack without deployments scales nothing, so there is nothing to fail at.
            let Some(scaler) = &scaler else {
                return Ok(serde_json::json!({"ended": "MUSTER_DEPLOYMENTS_URL is not set"}));
            };
            let reports = scaler.minute(&CancellationToken::new()).await?;
            Ok(serde_json::json!({ "ticks": reports }))
        })
    })
    .await
}
