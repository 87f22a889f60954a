//! What the tests of all simulators share.

use std::{future::Future, sync::LazyLock, time::Duration};

use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};
use serde_json::Value;

/// A client that keeps no connections, so that no test sees another's cut. One for all: reading the
/// system's certificates takes longer than most of the tests.
pub fn client() -> Client {
    static CLIENT: LazyLock<Client> = LazyLock::new(|| {
        let builder = Client::builder().pool_max_idle_per_host(0);
        builder.timeout(Duration::from_secs(10)).build().unwrap()
    });
    CLIENT.clone()
}

/// The answer of `GET /_sim/{name}`.
pub async fn look(url: &str, name: &str) -> Value {
    let response = client().get(format!("{url}/_sim/{name}")).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    response.json().await.unwrap()
}

/// `POST /_sim/faults`.
pub async fn change(url: &str, faults: &Value) -> Response {
    client().post(format!("{url}/_sim/faults")).json(faults).send().await.unwrap()
}

/// A request with these headers and this body, whatever they are.
pub async fn send(method: Method, url: String, content_type: &str, body: &str) -> Response {
    let request = client().request(method, url).header("content-type", content_type).body(body.to_owned());
    request.send().await.unwrap()
}

/// Waits until the claim holds; fails after 5 seconds.
pub async fn eventually(claim: impl Fn() -> bool) {
    within(async {
        while !claim() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

/// Fails where the future takes more than 5 seconds.
pub async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(5), future).await.expect("within 5 seconds")
}

/// Sends the requests and leaves without the answers as soon as the claim holds.
pub async fn leave_once(claim: impl Fn() -> bool, requests: impl IntoIterator<Item = RequestBuilder>) {
    let asking: Vec<_> = requests.into_iter().map(|request| tokio::spawn(request.send())).collect();
    eventually(claim).await;
    for task in asking {
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
    }
}
