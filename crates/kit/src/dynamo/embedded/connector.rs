//! The SDK's idea of a network, without one: a request goes in, an answer comes out.
//!
//! The client is built from nothing but constants. It reads no environment, looks for no
//! credentials and signs nothing.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::http::{HttpRequest, HttpResponse};
use aws_sdk_dynamodb::config::retry::{RetryConfig, RetryPartition};
use aws_sdk_dynamodb::config::timeout::TimeoutConfig;
use aws_sdk_dynamodb::config::{
    BehaviorVersion, Config, HttpClient, Region, RuntimeComponents, StalledStreamProtectionConfig,
};
use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::http::StatusCode;
use aws_smithy_types::body::SdkBody;

use super::faults::{Fate, Misfortune};
use super::operations::Answer;
use super::{Embedded, Faults, Used};

/// An SDK client whose requests `embedded` answers.
pub(super) fn client(embedded: Embedded, faults: Option<Faults>, used: Option<Used>) -> Client {
    let retries = match faults {
        // As on AWS, only without its pauses.
        Some(faults) => RetryConfig::standard()
            .with_max_attempts(faults.attempts)
            .with_initial_backoff(Duration::from_millis(1))
            .with_max_backoff(Duration::from_millis(2)),
        None => RetryConfig::disabled(),
    };
    let config = Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::from_static("local"))
        .endpoint_url("http://embedded.invalid")
        .allow_no_auth()
        .http_client(InProcess { embedded, misfortune: faults.map(|faults| Arc::new(Misfortune::new(faults))), used })
        .retry_config(retries)
        // Its own budget of retries: one test's faults are not another's.
        .retry_partition(RetryPartition::custom("embedded").build())
        .timeout_config(TimeoutConfig::disabled())
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .build();
    Client::from_conf(config)
}

#[derive(Clone)]
struct InProcess {
    embedded: Embedded,
    misfortune: Option<Arc<Misfortune>>,
    used: Option<Used>,
}

impl InProcess {
    async fn answer(self, request: HttpRequest) -> Result<HttpResponse, ConnectorError> {
        let operation = operation(&request);
        let body = request.body().bytes().unwrap_or_default().to_vec();
        if let Some(used) = &self.used {
            used.record(&operation, &body);
        }
        if self.embedded.0.is_away() {
            return Err(cut("the embedded store is set away"));
        }
        let Some(misfortune) = self.misfortune else {
            return self.embedded.0.run(operation, body).await.into_response();
        };
        if !misfortune.faults.latency.is_zero() {
            tokio::time::sleep(misfortune.faults.latency).await;
        }
        let fate = misfortune.next();
        if fate == Fate::Refused {
            return Answer::internal_error().into_response();
        }
        let answer = self.embedded.0.run(operation, body).await;
        match fate {
            Fate::Answered | Fate::Refused => answer.into_response(),
            Fate::DoneAndRefused => Answer::internal_error().into_response(),
            Fate::DoneAndCut => Err(cut("the answer was lost")),
        }
    }
}

impl HttpConnector for InProcess {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        HttpConnectorFuture::new(self.clone().answer(request))
    }
}

impl HttpClient for InProcess {
    fn http_connector(&self, _: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

impl fmt::Debug for InProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InProcess")
    }
}

impl Answer {
    fn into_response(self) -> Result<HttpResponse, ConnectorError> {
        let status = StatusCode::try_from(self.status).map_err(|e| ConnectorError::other(e.into(), None))?;
        let mut response = HttpResponse::new(status, SdkBody::from(self.body));
        response.headers_mut().insert("content-type", "application/x-amz-json-1.0");
        Ok(response)
    }
}

/// `PutItem` in `x-amz-target: DynamoDB_20120810.PutItem`.
fn operation(request: &HttpRequest) -> String {
    let target = request.headers().get("x-amz-target").unwrap_or_default();
    target.rsplit('.').next().unwrap_or_default().to_owned()
}

fn cut(why: &'static str) -> ConnectorError {
    ConnectorError::io(io::Error::new(io::ErrorKind::ConnectionReset, why).into())
}
