//! Events of an Application Load Balancer as `http` requests.
//!
//! A load balancer sends either `headers` and `queryStringParameters` or, when the target group has
//! `lambda.multi_value_headers.enabled`, `multiValueHeaders` and `multiValueQueryStringParameters`;
//! the answer must come in the same mode, or the client gets a 502. Neither path nor query are
//! decoded: what is routed, authorised and parsed is what the client sent.
//!
//! Format: <https://docs.aws.amazon.com/elasticloadbalancing/latest/application/lambda-functions.html>

use std::fmt::Write as _;

use axum::{body::Body, extract::Request};
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, header,
    uri::{Authority, PathAndQuery},
};
use serde_json::{Map, Value};

/// Why an event was not turned into a request. The words are for the client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No JSON object, or fields of the wrong type: not a load balancer's event.
    #[error("This function answers the events of an Application Load Balancer; `{0}` is not as in one.")]
    NotAnEvent(&'static str),
    /// Not a token (RFC 9110, 9.1).
    #[error("The request's method is not a word of letters. Use GET, POST, PUT, PATCH or DELETE.")]
    Method,
    /// A path that two readers could understand differently.
    #[error("The path {0}. Send the plain path of the resource.")]
    Path(&'static str),
    /// A header's name or value holds what HTTP forbids.
    #[error("The header `{0}` is not valid HTTP. Leave out line breaks and control characters.")]
    Header(String),
    /// `Host` is no host with an optional port, or is there twice.
    #[error("The header `host` names no host. Send it once, as in `host: muster.example.com`.")]
    Host,
    /// The query does not fit into a URI.
    #[error("The query is too long. Send less than 60 KB of it.")]
    Query,
    /// Said to be base64 and is not.
    #[error("The body could not be decoded. Send it again.")]
    Body,
}

/// Which of the two modes of headers a target group uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeaderMode {
    /// One value for each name: `headers`.
    Single,
    /// A list of values for each name: `multiValueHeaders`.
    Multi,
}

/// What `text` holds, and the mode to answer in even where it cannot be read.
pub fn parse(text: &str) -> (HeaderMode, Result<Request, Refusal>) {
    let mode = |is_multi| if is_multi { HeaderMode::Multi } else { HeaderMode::Single };
    if let Ok(event) = serde_json::from_str::<Value>(text) {
        return (mode(event.get("multiValueHeaders").is_some_and(Value::is_object)), request(event));
    }
    // JSON enough for Lambda, not for us: a lone surrogate, or nested too deeply.
    (mode(text.contains("\"multiValueHeaders\"")), Err(Refusal::NotAnEvent("the event")))
}

/// The request in a load balancer's `event`.
fn request(event: Value) -> Result<Request, Refusal> {
    let Value::Object(mut event) = event else {
        return Err(Refusal::NotAnEvent("the event"));
    };
    let method = match take(&mut event, "httpMethod") {
        Value::String(method) => Method::from_bytes(method.as_bytes()).map_err(|_| Refusal::Method)?,
        _ => return Err(Refusal::NotAnEvent("httpMethod")),
    };
    let Value::String(mut target) = take(&mut event, "path") else {
        return Err(Refusal::NotAnEvent("path"));
    };
    check_path(&target)?;
    push_query(&mut target, &mut event)?;
    let target = PathAndQuery::try_from(target).map_err(|_| Refusal::Query)?;
    let mut headers = headers(&mut event)?;
    check_host(&headers)?;
    let body = body(&mut event)?;
    // What the client said of its length was about the bytes on its own connection.
    headers.remove(header::TRANSFER_ENCODING);
    if headers.contains_key(header::CONTENT_LENGTH) {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    }

    let mut request = Request::new(Body::from(body));
    *request.method_mut() = method;
    *request.uri_mut() = target.into();
    *request.headers_mut() = headers;
    Ok(request)
}

fn take(event: &mut Map<String, Value>, field: &str) -> Value {
    event.get_mut(field).map(Value::take).unwrap_or_default()
}

/// Refuses a path that could be read in two ways: with dot segments, encoded slashes, an encoded
/// NUL, or characters that do not belong into a path.
///
/// A router, a load balancer's rule and a log may each normalise such a path differently; nobody
/// who means well sends one.
pub fn check_path(path: &str) -> Result<(), Refusal> {
    if !path.starts_with('/') {
        return Err(Refusal::Path("does not begin with a slash"));
    }
    let allowed = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'\\' | b'?' | b'#' | b'"' | b'<' | b'>');
    if !path.bytes().all(allowed) {
        return Err(Refusal::Path("holds a character that must be percent-encoded"));
    }
    for escape in path.split('%').skip(1) {
        match escape.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(b'/' | b'\\' | 0) => return Err(Refusal::Path("holds an encoded slash or NUL")),
            // `from_str_radix` takes a sign; a URI does not.
            Some(_) if !escape.starts_with('+') => {}
            _ => return Err(Refusal::Path("holds a percent sign without two hexadecimal digits")),
        }
    }
    let is_dots = |segment: &str| matches!(segment.to_ascii_lowercase().replace("%2e", ".").as_str(), "." | "..");
    if path.split('/').any(is_dots) {
        return Err(Refusal::Path("has a segment of dots"));
    }
    Ok(())
}

/// Appends the query, each key and value spelt as it was sent.
fn push_query(target: &mut String, event: &mut Map<String, Value>) -> Result<(), Refusal> {
    let single = take(event, "queryStringParameters");
    let parameters = match take(event, "multiValueQueryStringParameters") {
        Value::Null => single,
        multi => multi,
    };
    let parameters = match parameters {
        Value::Null => return Ok(()),
        Value::Object(parameters) => parameters,
        _ => return Err(Refusal::NotAnEvent("queryStringParameters")),
    };
    let mut separator = '?';
    for (name, values) in parameters {
        for value in strings(values).ok_or(Refusal::NotAnEvent("queryStringParameters"))? {
            target.push(separator);
            separator = '&';
            push_query_part(target, &name, b"&=");
            target.push('=');
            push_query_part(target, &value, b"&");
        }
    }
    Ok(())
}

/// Percent signs and plus signs stay as they are, they are the client's encoding. Only what cannot
/// stand there in a URI is encoded, `separators` included: no client got it through unencoded, but
/// an emulator may have decoded it on the way.
fn push_query_part(target: &mut String, part: &str, separators: &[u8]) {
    for byte in part.bytes() {
        if byte.is_ascii_graphic() && !matches!(byte, b'"' | b'#' | b'<' | b'>') && !separators.contains(&byte) {
            target.push(char::from(byte));
        } else {
            // Writing to a String does not fail.
            let _ = write!(target, "%{byte:02X}");
        }
    }
}

/// A string, or a list of strings, as the list; a null is an empty string.
fn strings(value: Value) -> Option<Vec<String>> {
    let string = |value| match value {
        Value::String(text) => Some(text),
        Value::Null => Some(String::new()),
        _ => None,
    };
    match value {
        Value::Array(values) => values.into_iter().map(string).collect(),
        value => Some(vec![string(value)?]),
    }
}

fn headers(event: &mut Map<String, Value>) -> Result<HeaderMap, Refusal> {
    let single = take(event, "headers");
    let entries = match take(event, "multiValueHeaders") {
        Value::Null => single,
        multi => multi,
    };
    let entries = match entries {
        Value::Null => return Ok(HeaderMap::new()),
        Value::Object(entries) => entries,
        _ => return Err(Refusal::NotAnEvent("headers")),
    };
    let mut headers = HeaderMap::with_capacity(entries.len());
    for (name, values) in entries {
        let parsed = HeaderName::from_bytes(name.as_bytes()).map_err(|_| Refusal::Header(printable(&name)))?;
        for value in strings(values).ok_or(Refusal::NotAnEvent("headers"))? {
            let value = HeaderValue::from_bytes(value.as_bytes()).map_err(|_| Refusal::Header(printable(&name)))?;
            headers.append(&parsed, value);
        }
    }
    Ok(headers)
}

/// Enough of a client's text to recognise it by, without what could break a line.
fn printable(text: &str) -> String {
    text.chars().take(40).flat_map(char::escape_default).collect()
}

/// No `Host` is fine: health checks have none.
fn check_host(headers: &HeaderMap) -> Result<(), Refusal> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return if headers.contains_key(header::HOST) { Err(Refusal::Host) } else { Ok(()) };
    };
    if host.is_empty() {
        return Ok(());
    }
    let authority = Authority::try_from(host.as_bytes()).map_err(|_| Refusal::Host)?;
    let rest = authority.as_str().strip_prefix(authority.host()).ok_or(Refusal::Host)?;
    match rest.strip_prefix(':') {
        None if rest.is_empty() => Ok(()),
        Some("") => Ok(()),
        Some(_) if authority.port().is_some() => Ok(()),
        _ => Err(Refusal::Host),
    }
}

fn body(event: &mut Map<String, Value>) -> Result<Bytes, Refusal> {
    let is_base64 = match take(event, "isBase64Encoded") {
        Value::Bool(is_base64) => is_base64,
        Value::Null => false,
        _ => return Err(Refusal::NotAnEvent("isBase64Encoded")),
    };
    match take(event, "body") {
        Value::Null => Ok(Bytes::new()),
        Value::String(text) if is_base64 => BASE64_STANDARD.decode(text).map(Bytes::from).map_err(|_| Refusal::Body),
        Value::String(text) => Ok(Bytes::from(text)),
        _ => Err(Refusal::NotAnEvent("body")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use http_body_util::BodyExt;
    use serde_json::json;

    use super::*;

    fn event(fields: Value) -> Value {
        let mut event =
            json!({ "httpMethod": "GET", "path": "/", "headers": {}, "body": "", "isBase64Encoded": false });
        let Value::Object(fields) = fields else { panic!() };
        event.as_object_mut().unwrap().extend(fields);
        event
    }

    #[test]
    fn plain_paths_pass_and_ambiguous_ones_do_not() {
        for path in ["/", "/api/v1/batches/0198.csv", "/a..b", "/...", "/a%20b", "/%C3%A4", "/a:b@c;d=e,f", "//x"] {
            assert_eq!(check_path(path), Ok(()), "{path}");
        }
        for path in [
            "",
            "*",
            "a",
            "http://x/",
            "/.",
            "/..",
            "/../",
            "/a/./b",
            "/a/..",
            "/%2e",
            "/.%2E/x",
            "/a%2fb",
            "/a%5Cb",
            "/a\\b",
            "/%00",
            "/%",
            "/%2",
            "/%zz",
            "/%+1",
            "/a b",
            "/a?b",
            "/a#b",
            "/ä",
            "/a\u{7f}",
        ] {
            assert!(check_path(path).is_err(), "{path}");
        }
    }

    #[test]
    fn the_path_is_routed_as_sent() {
        let request = request(event(json!({ "path": "/a%20b//c" }))).unwrap();
        assert_eq!(request.uri().path(), "/a%20b//c");
        assert_eq!(request.uri().query(), None);
    }

    #[test]
    fn what_cannot_stand_in_a_query_is_encoded_and_the_rest_left_alone() {
        let fields = json!({ "queryStringParameters": { "a=b&c": "x y#z&\"ä", "p": "%41+%", "n": null } });
        let request = request(event(fields)).unwrap();
        assert_eq!(request.uri().query(), Some("a%3Db%26c=x%20y%23z%26%22%C3%A4&p=%41+%&n="));
    }

    #[test]
    fn repeated_headers_are_kept_apart() {
        let request =
            request(event(json!({ "multiValueHeaders": { "Accept": ["a", "b"], "content-length": ["7"] } }))).unwrap();
        assert_eq!(request.headers().get_all("accept").iter().count(), 2);
        assert_eq!(request.headers()["content-length"], "0", "the length is that of the body that is there");
    }

    #[test]
    fn a_host_is_a_host_with_an_optional_port() {
        for host in ["", "a", "a.example", "a.example:80", "127.0.0.1:3000", "[::1]:80", "[::1]", "a:"] {
            assert!(request(event(json!({ "headers": { "host": host } }))).is_ok(), "{host}");
        }
        for host in ["exa mple", "a:99999", "a:b", "user@a", "a/b", "a:1:2", "[::1", "ä", "a?b"] {
            assert_eq!(request(event(json!({ "headers": { "host": host } }))).unwrap_err(), Refusal::Host, "{host}");
        }
        let twice = json!({ "multiValueHeaders": { "host": ["a", "b"] } });
        assert_eq!(request(event(twice)).unwrap_err(), Refusal::Host);
    }

    #[tokio::test]
    async fn a_body_is_decoded_once() {
        let fields = json!({ "body": "eyJkYXRhIjoiaGVsbG8ifQ==", "isBase64Encoded": true });
        let body = request(event(fields)).unwrap().into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, r#"{"data":"hello"}"#);
        let fields = json!({ "body": "eyJk", "isBase64Encoded": false });
        let body = request(event(fields)).unwrap().into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, "eyJk");
    }
}
