//! The Lambda function that answers HTTP for `shout`, and hands out the API's description.

use kit::{access::Access, clock::Clock, dynamo::Store, http, lambda};
use shout::Shout;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda::Error> {
    lambda::run_http(async {
        let store = Store::from_env().await;
        store.warm(&kit::access::TABLE).await;
        let routes = vec![shout::routes(Shout::from_env()?), http::openapi()];
        Ok(http::app(routes, Access::new(store, Clock::system())))
    })
    .await
}
