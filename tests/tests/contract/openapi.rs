//! The OpenAPI document that is served: whole, consistent, and true where that can be asked.

use std::collections::BTreeSet;

use axum::body::Body;
use http::{Request, header};
use kit::http::RouteSpec;
use serde_json::Value;
use tower::ServiceExt as _;

use super::{PUBLIC, Reply, World, declared, key};

/// The method, in capitals, and the path of an operation, and what is said of it.
type Operation<'a> = (String, &'a str, &'a Value);

fn document() -> Value {
    serde_json::from_str(kit::http::OPENAPI).unwrap()
}

fn operations(document: &Value) -> Vec<Operation<'_>> {
    let paths = document["paths"].as_object().unwrap().iter();
    paths
        .flat_map(|(path, methods)| methods.as_object().unwrap().iter().map(move |(method, it)| (method, path, it)))
        .map(|(method, path, operation)| (method.to_uppercase(), path.as_str(), operation))
        .collect()
}

/// What a `$ref` names.
#[track_caller]
fn resolved<'a>(document: &'a Value, reference: &str) -> &'a Value {
    let pointer = reference.strip_prefix('#').expect("of this document");
    document.pointer(pointer).unwrap_or_else(|| panic!("{reference} is nowhere"))
}

fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        Value::Object(members) => {
            found.extend(members.get("$ref").map(|it| it.as_str().unwrap().to_owned()));
            members.values().for_each(|member| references(member, found));
        }
        _ => {}
    }
}

#[test]
fn every_operation_has_a_name_of_its_own_and_a_summary() {
    let document = document();
    let mut seen = BTreeSet::new();
    for (method, path, operation) in operations(&document) {
        let id = operation["operationId"].as_str().unwrap_or_else(|| panic!("{method} {path} has no operationId"));
        assert!(seen.insert(id), "{method} {path}: {id} is the name of another operation; set operation_id");
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
        assert!(!id.is_empty() && id.bytes().all(plain), "{method} {path}: {id}, not in snake_case");
        assert!(operation["summary"].as_str().is_some_and(|it| !it.is_empty()), "{method} {path} has no summary");
    }
}

#[test]
fn what_is_described_is_what_there_is() {
    let document = document();
    let described: BTreeSet<_> =
        operations(&document).into_iter().map(|(method, path, _)| format!("{method} {path}")).collect();
    // The document does not describe itself; `/batch` is another spelling of `/batches`.
    let is_described = |spec: &RouteSpec| {
        spec.path != "/api/v1/openapi.json" && spec.path != "/api/v1/batch" && !spec.path.starts_with("/api/v1/batch/")
    };
    let routes = declared().into_values().flatten().filter(is_described);
    let routes: BTreeSet<_> = routes.map(|spec| format!("{} {}", spec.method, spec.path)).collect();
    assert_eq!(described, routes);
}

#[test]
fn every_reference_leads_somewhere() {
    let document = document();
    let mut found = BTreeSet::new();
    references(&document, &mut found);
    assert!(found.len() > 50, "{}", found.len());
    for reference in found {
        assert!(resolved(&document, &reference).is_object(), "{reference}");
    }
}

#[test]
fn every_operation_needs_a_key_or_is_one_of_the_open_ones() {
    let document = document();
    for (method, path, operation) in operations(&document) {
        if PUBLIC.contains(&(method.as_str(), path)) {
            assert!(operation["security"].is_null(), "{method} {path}");
            continue;
        }
        let schemes: Vec<_> =
            operation["security"].as_array().into_iter().flatten().filter_map(Value::as_object).collect();
        assert!(!schemes.is_empty(), "{method} {path} has no security scheme");
        for name in schemes.into_iter().flat_map(|scheme| scheme.keys()) {
            assert!(document["components"]["securitySchemes"][name].is_object(), "{method} {path}: {name}");
        }
    }
}

#[test]
fn the_parameters_of_a_path_are_those_that_are_described() {
    let document = document();
    for (method, path, operation) in operations(&document) {
        let in_path: BTreeSet<_> = path.split('/').filter_map(|it| it.strip_prefix('{')?.strip_suffix('}')).collect();
        let parameters = operation["parameters"].as_array().into_iter().flatten().filter(|it| it["in"] == "path");
        let described: BTreeSet<_> = parameters.map(|it| it["name"].as_str().unwrap()).collect();
        assert_eq!(described, in_path, "{method} {path}");
    }
}

#[test]
fn every_operation_tells_what_it_answers_and_each_error_is_a_problem() {
    let document = document();
    for (method, path, operation) in operations(&document) {
        let responses = operation["responses"].as_object().unwrap();
        let mut promised = vec!["500"];
        if operation["security"].is_array() {
            promised.extend(["401", "403", "503"]);
        }
        if operation["requestBody"].is_object() {
            promised.extend(["400", "413", "415", "422"]);
        }
        if operation["parameters"].is_array() {
            promised.push("400");
        }
        for status in promised {
            assert!(responses.contains_key(status), "{method} {path} does not tell of {status}");
        }
        assert!(responses.keys().any(|status| status.starts_with('2')), "{method} {path}");
        for (status, response) in responses.iter().filter(|(status, _)| !status.starts_with('2')) {
            let response = response["$ref"].as_str().map_or(response, |it| resolved(&document, it));
            let content = response["content"].as_object().unwrap();
            assert_eq!(content.keys().collect::<Vec<_>>(), ["application/problem+json"], "{method} {path}: {status}");
            let schema = &content["application/problem+json"]["schema"]["$ref"];
            assert_eq!(schema, "#/components/schemas/Problem", "{method} {path}: {status}");
        }
    }
}

#[tokio::test]
async fn what_takes_a_body_refuses_what_is_no_json_and_what_has_unknown_fields() {
    let world = World::new().await;
    let (_, token) = key(&world.access, "acme", &["admin".to_owned()], None).await;
    let document = document();
    let mut bodies = 0;
    for (method, path, operation) in operations(&document) {
        if !operation["requestBody"].is_object() {
            continue;
        }
        bodies += 1;
        let spec = world.specs.iter().find(|spec| spec.method == method && spec.path == path).unwrap();
        let path = world.path(spec);
        let large = format!("{{\"x\":\"{}\"}}", "x".repeat(kit::http::BODY_LIMIT));
        for (content_type, body, status, slug) in [
            ("text/plain", "{\"x\":1}", 415, "unsupported-media-type"),
            ("application/json", "{x: 1}", 400, "not-json"),
            ("application/json", "{\"x\":1}", 422, "invalid-input"),
            ("application/json", "[]", 422, "invalid-input"),
            ("application/json", &large, 413, "too-large"),
        ] {
            let request = Request::builder().method(method.as_str()).uri(&path);
            let request = request
                .header(header::AUTHORIZATION, format!("Bearer {token}"))
                .header(header::IF_MATCH, "*")
                .header(header::CONTENT_TYPE, content_type);
            let answer = world.app.clone().oneshot(request.body(Body::from(body.to_owned())).unwrap()).await.unwrap();
            let reply = Reply::read(answer).await;
            reply.problem(status, slug, &format!("{method} {path} with {content_type} {body:.10}"));
        }
    }
    assert!(bodies >= 9, "{bodies}");
    world.is_untouched().await;
}
