//! The Lambda function that answers HTTP for `autoscaler`.

use autoscaler::{Scaling, config::Config};
use kit::{access::Access, clock::Clock, dynamo::Store, http, lambda};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda::Error> {
    lambda::run_http(async {
        let store = Store::from_env().await;
        store.warm(&kit::access::TABLE).await;
        let scaling = Scaling::new(&Config::from_env()?, store.clone(), Clock::system());
        Ok(http::app(vec![autoscaler::routes(scaling)], Access::new(store, Clock::system())))
    })
    .await
}
