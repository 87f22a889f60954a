//! The Lambda function that answers HTTP for `services`.

use kit::{access::Access, clock::Clock, dynamo::Store, http, lambda};
use services::{Watch, config::Config};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda::Error> {
    lambda::run_http(async {
        let store = Store::from_env().await;
        store.warm(&kit::access::TABLE).await;
        let watch = Watch::new(&Config::from_env()?, store.clone(), Clock::system());
        Ok(http::app(vec![services::routes(watch)], Access::new(store, Clock::system())))
    })
    .await
}
