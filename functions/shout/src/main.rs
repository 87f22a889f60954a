//! The Lambda function that answers HTTP for `shout`, and hands out the API's description.

use kit::{access::Access, clock::Clock, dynamo::Store, lambda};
use shout::Shout;

fn main() -> Result<(), lambda::Error> {
    lambda::start(&[("http", http)])
}

#[tokio::main(flavor = "current_thread")]
async fn http() -> Result<(), lambda::Error> {
    lambda::run_http(async {
        let store = Store::from_env().await;
        store.warm(&kit::access::TABLE).await;
        let routes = vec![shout::routes(Shout::from_env()?), kit::http::openapi()];
        Ok(kit::http::app(routes, Access::new(store, Clock::system())))
    })
    .await
}
