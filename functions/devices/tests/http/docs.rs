//! The description of the API, against the routes and against the other capabilities.

use std::sync::Arc;

use devices::{Devices, config::Config};
use kit::{clock::Clock, dynamo::embedded::Embedded};
use serde_json::Value;
use utoipa::OpenApi as _;

fn document() -> Value {
    serde_json::to_value(devices::http::Docs::openapi()).unwrap()
}

#[test]
fn every_route_is_described_with_its_scope() {
    let store = Embedded::memory().unwrap().store("test-");
    let config = Config::from_settings(|_| None).unwrap();
    let routes = devices::routes(Devices::new(&config, store, Clock::system(), Arc::default()));
    let document = document();
    for route in routes.specs() {
        let operation = &document["paths"][route.path][route.method.to_lowercase()];
        assert_eq!(operation["security"][0]["key"][0], route.scope.unwrap().0, "{} {}", route.method, route.path);
    }
    let described: usize =
        document["paths"].as_object().unwrap().values().map(|it| it.as_object().unwrap().len()).sum();
    assert_eq!((routes.specs().len(), described), (11, 11));
}

#[test]
fn every_schema_that_is_named_is_there_and_has_no_name_of_another() {
    let document = document();
    let schemas = document["components"]["schemas"].as_object().unwrap();
    let text = document.to_string();
    for reference in text.split("#/components/schemas/").skip(1) {
        let name = reference.split('"').next().unwrap();
        assert!(schemas.contains_key(name), "{name}");
    }
    let all: Value = serde_json::from_str(kit::http::OPENAPI).unwrap();
    for (name, schema) in all["components"]["schemas"].as_object().unwrap() {
        // What was described before a change of ours may differ in the copy; what is of others may not.
        if let Some(ours) = schemas.get(name).filter(|_| all["paths"]["/api/v1/devices"].is_null()) {
            assert_eq!(ours, schema, "{name}: give it another name, #[schema(as = …)]");
        }
    }
}
