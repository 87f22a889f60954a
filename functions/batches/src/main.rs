//! The Lambda function that answers HTTP for `batches`.

use std::sync::Arc;

use batches::{Batches, config, store::BatchStore};
use kit::{access::Access, clock::Clock, dynamo::Store, http, lambda};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda::Error> {
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
        Ok(http::app(vec![routes], Access::new(store, Clock::system())))
    })
    .await
}
