//! The one client of the HTTP API: over a socket, or straight into the routers of this process.
//!
//! Both get the same requests and give the same answers, so no command can tell them apart.

use std::{fmt, path::Path, time::Duration};

use axum::{Router, body::Body};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use kit::problem::Problem;
use serde::{Serialize, de::DeserializeOwned};
use tower::ServiceExt as _;
use url::{Host, Url};

use crate::{
    exit::{Exit, Failure},
    output::patiently,
};

/// Largest answer that is read: several times what a server of ours sends.
const MOST: usize = 8 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);
/// Past the longest wait that a server grants.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A client with its key. Clones share connections.
#[derive(Clone)]
pub struct Client {
    transport: Transport,
    authorization: Option<HeaderValue>,
    /// Whether somebody else says what is going on.
    quiet: bool,
}

#[derive(Clone)]
enum Transport {
    Http { base: String, client: reqwest::Client },
    InProcess(Router),
}

/// A successful answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// 200 to 299.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

impl Answer {
    /// The body as JSON.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        serde_json::from_slice(&self.body).map_err(|error| {
            Failure::new(format!("the server's answer is not what was expected: {error}"))
                .exit(Exit::Away)
                .hint("is MUSTER_SERVER the base URL of a muster of this version?")
        })
    }
}

/// The base URL of a server, as `name` says it, checked.
pub fn parse_server(name: &str, text: &str) -> Result<Url, Failure> {
    kit::upstream::parse_base_url(name, text).map_err(|error| {
        Failure::usage(error.to_string()).hint("write the server's base URL, such as https://muster.example")
    })
}

/// Whether requests to `url` stay on this machine.
pub fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

impl Client {
    /// A client of the server at `base`. The certificates in `ca_file` are trusted for it, beside
    /// those that the system trusts.
    pub fn http(base: &Url, key: Option<&str>, ca_file: Option<&Path>) -> Result<Self, Failure> {
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("muster/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(TIMEOUT)
            // Shorter than a server keeps a connection that lies idle.
            .pool_idle_timeout(IDLE_TIMEOUT)
            // A key must not follow a redirect to somebody else.
            .redirect(reqwest::redirect::Policy::none());
        if is_loopback(base) {
            builder = builder.no_proxy();
        }
        if let Some(file) = ca_file {
            builder = builder.tls_certs_merge(certificates(file)?);
        }
        let client = builder.build().map_err(|error| Failure::new(format!("cannot make an HTTP client: {error}")))?;
        let base = base.as_str().trim_end_matches('/').to_owned();
        Ok(Self { transport: Transport::Http { base, client }, authorization: authorization(key)?, quiet: false })
    }

    /// A client of a router in this process.
    pub fn in_process(router: Router, key: Option<&str>) -> Result<Self, Failure> {
        Ok(Self { transport: Transport::InProcess(router), authorization: authorization(key)?, quiet: false })
    }

    /// The same client, which shows nothing however long an answer takes.
    #[must_use]
    pub fn quiet(self) -> Self {
        Self { quiet: true, ..self }
    }

    /// The server's base URL, if there is a server.
    pub fn server(&self) -> Option<&str> {
        match &self.transport {
            Transport::Http { base, .. } => Some(base),
            Transport::InProcess(_) => None,
        }
    }

    /// GETs `path`, which starts with `/`.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.send(Method::GET, path, HeaderMap::new(), Bytes::new()).await?.json()
    }

    /// GETs `path` when it has changed, or after some seconds.
    pub async fn get_when_changed<T: DeserializeOwned>(&self, path: &str, seconds: u8) -> Result<T, Failure> {
        let mut headers = HeaderMap::new();
        if let Ok(wait) = HeaderValue::try_from(format!("wait={seconds}")) {
            headers.insert(HeaderName::from_static("prefer"), wait);
        }
        self.send(Method::GET, path, headers, Bytes::new()).await?.json()
    }

    /// POSTs `body` to `path`.
    pub async fn post(
        &self,
        path: &str,
        body: &impl Serialize,
        idempotency_key: Option<&str>,
    ) -> Result<Answer, Failure> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(key) = idempotency_key {
            let value =
                HeaderValue::try_from(key).map_err(|_| Failure::usage("--key has characters that cannot be sent"))?;
            headers.insert(HeaderName::from_static("idempotency-key"), value);
        }
        self.send(Method::POST, path, headers, json(body)?).await
    }

    /// PUTs `body` to `path`, in the place of this version and no other.
    pub async fn put(&self, path: &str, body: &impl Serialize, version: u64) -> Result<Answer, Failure> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let tag = HeaderValue::try_from(format!("\"{version}\""));
        headers.extend(tag.ok().map(|tag| (header::IF_MATCH, tag)));
        self.send(Method::PUT, path, headers, json(body)?).await
    }

    /// DELETEs `path`.
    pub async fn delete(&self, path: &str) -> Result<Answer, Failure> {
        self.send(Method::DELETE, path, HeaderMap::new(), Bytes::new()).await
    }

    async fn send(&self, method: Method, path: &str, mut headers: HeaderMap, body: Bytes) -> Result<Answer, Failure> {
        headers.extend(self.authorization.clone().map(|value| (header::AUTHORIZATION, value)));
        let (status, headers, body) = match &self.transport {
            // Who asked to be answered late knows what is going on.
            Transport::Http { base, client } if self.quiet || headers.contains_key("prefer") => {
                over_http(client, base, method, path, headers, body).await?
            }
            Transport::Http { base, client } => {
                patiently(&format!("Asking {base}"), over_http(client, base, method, path, headers, body)).await?
            }
            Transport::InProcess(router) => in_process(router.clone(), method, path, headers, body).await?,
        };
        if status.is_success() {
            return Ok(Answer { status, headers, body });
        }
        Err(refused(status, &body, self.server()))
    }
}

impl fmt::Debug for Client {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("server", &self.server()).finish_non_exhaustive()
    }
}

fn certificates(file: &Path) -> Result<Vec<reqwest::Certificate>, Failure> {
    let cannot = |why: String| {
        Failure::usage(format!("cannot take certificates from {}: {why}", file.display()))
            .hint("--ca-file and MUSTER_CA_FILE name a PEM file, -----BEGIN CERTIFICATE----- and so on")
    };
    let pem = std::fs::read(file).map_err(|error| cannot(error.to_string()))?;
    let certificates = reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| cannot(innermost(&error)))?;
    if certificates.is_empty() { Err(cannot("there is none in it".to_owned())) } else { Ok(certificates) }
}

/// The last cause says it best: "Connection refused".
fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

fn authorization(key: Option<&str>) -> Result<Option<HeaderValue>, Failure> {
    let Some(key) = key else { return Ok(None) };
    let mut value = HeaderValue::try_from(format!("Bearer {key}")).map_err(|_| {
        Failure::usage("the key has characters that no key has")
            .exit(Exit::NoAccess)
            .hint("set MUSTER_KEY to a key from `muster keys create`")
    })?;
    value.set_sensitive(true);
    Ok(Some(value))
}

fn json(body: &impl Serialize) -> Result<Bytes, Failure> {
    let body = serde_json::to_vec(body).map_err(|error| Failure::new(format!("cannot write the request: {error}")))?;
    Ok(body.into())
}

type Parts = (StatusCode, HeaderMap, Bytes);

async fn over_http(
    client: &reqwest::Client,
    base: &str,
    method: Method,
    path: &str,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Parts, Failure> {
    let away = |error: &reqwest::Error| {
        let cause = innermost(error);
        if cause.contains("certificate") {
            return Failure::new(format!("{base} is not who it says, as far as is known here: {cause}"))
                .hint("if it is yours, `muster login URL --ca-file FILE` trusts its certificate");
        }
        let what = if error.is_timeout() {
            "did not answer in time".to_owned()
        } else {
            format!("cannot be reached: {cause}")
        };
        Failure::new(format!("{base} {what}")).exit(Exit::Away).hint(
            "is it running, and is --server or MUSTER_SERVER right? Without either, muster works in its own process",
        )
    };
    let request = client.request(method, format!("{base}{path}")).headers(headers).body(body);
    let mut response = request.send().await.map_err(|error| away(&error))?;
    let (status, headers) = (response.status(), std::mem::take(response.headers_mut()));
    let mut read = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| away(&error))? {
        if read.len() + chunk.len() > MOST {
            return Err(Failure::new(format!("{base} sent more than {MOST} bytes")).exit(Exit::Away));
        }
        read.extend_from_slice(&chunk);
    }
    Ok((status, headers, read.into()))
}

async fn in_process(
    router: Router,
    method: Method,
    path: &str,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Parts, Failure> {
    let mut request = http::Request::new(Body::from(body));
    *request.method_mut() = method;
    *request.uri_mut() = path.parse().map_err(|_| Failure::usage(format!("{path} is no path")))?;
    *request.headers_mut() = headers;
    let response = match router.oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    };
    let (parts, body) = response.into_parts();
    let body = Limited::new(body, MOST)
        .collect()
        .await
        .map_err(|error| Failure::new(format!("cannot read the answer: {error}")))?;
    Ok((parts.status, parts.headers, body.to_bytes()))
}

fn refused(status: StatusCode, body: &[u8], server: Option<&str>) -> Failure {
    if let Ok(problem) = serde_json::from_slice::<Problem>(body) {
        return problem.into();
    }
    // Something else than muster stands there: a proxy, a load balancer, another program.
    let known = Failure::from(Problem::new(status, "unknown", "Unknown"));
    let exit = if status.is_redirection() { Exit::Usage } else { known.exit };
    let server = server.unwrap_or("the server");
    Failure::new(format!("{server} answered {status}, and not as muster does"))
        .exit(exit)
        .hint("is --server or MUSTER_SERVER the base URL of a muster?")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_no_base_url_is_refused_by_its_setting() {
        for bad in
            ["muster.example", "ftp://muster.example", "https://u:p@muster.example", "http://x/?a", "", "http://"]
        {
            let failure = parse_server("--server", bad).unwrap_err();
            assert_eq!(failure.exit, Exit::Usage, "{bad}");
            assert!(failure.message.starts_with("--server "), "{bad}");
        }
        assert!(is_loopback(&parse_server("x", "http://127.0.0.1:8080/").unwrap()));
        assert!(!is_loopback(&parse_server("x", "https://muster.example/base").unwrap()));
    }

    #[test]
    fn an_answer_that_is_no_problem_is_told_by_its_status() {
        let failure = refused(StatusCode::BAD_GATEWAY, b"<html>", Some("https://muster.example"));
        assert_eq!(failure.exit, Exit::Away);
        assert!(failure.message.starts_with("https://muster.example answered 502"));
        let problem = serde_json::to_vec(&Problem::not_found("No such batch.")).unwrap();
        let failure = refused(StatusCode::NOT_FOUND, &problem, None);
        assert_eq!((failure.exit, failure.message.as_str()), (Exit::NotFound, "No such batch."));
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_away_and_says_where_it_was_sought() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        let client = Client::http(&base.parse().unwrap(), None, None).unwrap();
        let failure = client.get::<serde_json::Value>("/healthz").await.unwrap_err();
        assert_eq!(failure.exit, Exit::Away);
        assert!(failure.message.contains(&base), "{failure}");
        assert!(failure.hint.unwrap().contains("MUSTER_SERVER"));
    }

    #[tokio::test]
    async fn the_key_goes_along_and_no_debug_output_shows_it() {
        let router = Router::new().route(
            "/",
            axum::routing::get(async |headers: HeaderMap| {
                serde_json::to_string(headers[header::AUTHORIZATION].to_str().unwrap()).unwrap()
            }),
        );
        let client = Client::in_process(router, Some("mk_1_secret")).unwrap();
        assert_eq!(client.get::<String>("/").await.unwrap(), "Bearer mk_1_secret");
        assert!(!format!("{client:?}").contains("secret"));
    }
}
