//! What the command knows about itself: completions, man pages, the OpenAPI document, the routes,
//! the tables.

use std::{fs, path::Path};

use clap::CommandFactory as _;
use clap_complete::Shell;
use kit::{dynamo::TableDef, http::RouteSpec};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::openapi::{
    Components, Contact, InfoBuilder, License, OpenApi, OpenApiBuilder, Paths,
    security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
};

use crate::{
    backend::{Backend, TABLES},
    cli::Cli,
    exit::{Exit, Failure},
    output::Output,
    settings::Settings,
};

/// Prints the completions for `shell`.
pub fn completions(shell: Shell, output: &Output) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "muster", &mut script);
    print(&script, output)
}

/// Prints the man page, or writes one for each command into `dir`.
pub fn man(dir: Option<&Path>, output: &Output) -> Result<Exit, Failure> {
    let Some(dir) = dir else {
        let mut page = Vec::new();
        clap_mangen::Man::new(Cli::command()).render(&mut page)?;
        return print(&page, output);
    };
    let written = fs::create_dir_all(dir).and_then(|()| clap_mangen::generate_to(Cli::command(), dir));
    written.map_err(|error| Failure::new(format!("cannot write man pages into {}: {error}", dir.display())))?;
    output.note(&format!("The man pages are in {}.", dir.display()));
    Ok(Exit::Fine)
}

fn print(text: &[u8], output: &Output) -> Result<Exit, Failure> {
    output.lines([String::from_utf8_lossy(text).trim_end()])?;
    Ok(Exit::Fine)
}

/// Prints the OpenAPI document of all capabilities.
pub fn openapi(output: &Output) -> Result<Exit, Failure> {
    output.json(&document().map_err(|error| Failure::new(format!("the document cannot be written: {error}")))?)?;
    Ok(Exit::Fine)
}

/// The OpenAPI document of all capabilities, generated from their handlers, and with the errors that
/// every route of a kind has.
pub fn document() -> Result<Value, serde_json::Error> {
    let mut document = serde_json::to_value(merged())?;
    let errors = ERRORS.iter().map(|(name, description)| ((*name).to_owned(), error(name, description)));
    document["components"]["responses"] = Value::Object(errors.collect());
    let paths = document["paths"].as_object_mut().into_iter().flat_map(|paths| paths.values_mut());
    for operation in paths.filter_map(Value::as_object_mut).flat_map(|methods| methods.values_mut()) {
        let common = common(operation);
        let Some(responses) = operation["responses"].as_object_mut() else { continue };
        responses.values_mut().for_each(as_problem);
        for (status, name) in common {
            let reference = || json!({"$ref": format!("#/components/responses/{name}")});
            responses.entry(status).or_insert_with(reference);
        }
        responses.sort_keys();
    }
    Ok(document)
}

/// The errors that need no words of their own at each route.
const ERRORS: [(&str, &str); 8] = [
    ("BadRequest", "A parameter, the path or the body could not be read"),
    ("Unauthorized", "There is no key, or it does not count"),
    ("Forbidden", "The key has not the scope that is needed"),
    ("TooLarge", "The body is larger than 1 MiB"),
    ("UnsupportedMediaType", "The body is not `application/json`"),
    ("Invalid", "A value in the body is not allowed; `errors` says which and what would be right"),
    ("Internal", "Something went wrong on our side; the log has it under `instance`"),
    ("Unavailable", "The store, or an upstream, is away; `Retry-After` says in how many seconds to try again"),
];

fn error(name: &str, description: &str) -> Value {
    let mut error = json!({
        "description": description,
        "content": {"application/problem+json": {"schema": {"$ref": PROBLEM}}},
    });
    if name == "Unavailable" {
        error["headers"] = json!({"Retry-After": {"description": "Seconds", "schema": {"type": "integer"}}});
    }
    error
}

/// Which errors an operation has for what it is.
fn common(operation: &Value) -> Vec<(&'static str, &'static str)> {
    let mut common = vec![("500", "Internal")];
    if operation["security"].is_array() {
        common.extend([("401", "Unauthorized"), ("403", "Forbidden"), ("503", "Unavailable")]);
    }
    if operation["requestBody"].is_object() {
        common.extend([("413", "TooLarge"), ("415", "UnsupportedMediaType"), ("422", "Invalid")]);
    }
    if operation["requestBody"].is_object() || operation["parameters"].is_array() {
        common.push(("400", "BadRequest"));
    }
    common
}

/// utoipa takes every body for `application/json`; a problem says itself what it is.
fn as_problem(response: &mut Value) {
    let Some(content) = response.get_mut("content").and_then(Value::as_object_mut) else { return };
    if content.get("application/json").is_some_and(|json| json["schema"]["$ref"] == PROBLEM)
        && let Some(problem) = content.remove("application/json")
    {
        content.insert("application/problem+json".to_owned(), problem);
    }
}

const PROBLEM: &str = "#/components/schemas/Problem";

/// What the handlers' own attributes say.
fn merged() -> OpenApi {
    let info = InfoBuilder::new()
        .title("muster")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(
            "An operations backend for a fleet. Errors are problem+json (RFC 9457); lists are paged with `limit` and `cursor`; \
             the tenant follows from the key.",
        ))
        .license(Some(License::new("Apache-2.0")))
        .contact(None::<Contact>)
        .build();
    let mut components = Components::new();
    let bearer = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .bearer_format("mk_<id>_<secret>")
        .description(Some("A key from `muster keys create`. What a route needs is listed with it as a scope."))
        .build();
    components.add_security_scheme("key", SecurityScheme::Http(bearer));
    let mut document = OpenApiBuilder::new().info(info).paths(Paths::new()).components(Some(components)).build();
    for capability in documents() {
        document.merge(capability);
    }
    document
}

fn documents() -> [OpenApi; 6] {
    [
        <batches::http::Docs as utoipa::OpenApi>::openapi(),
        <devices::http::Docs as utoipa::OpenApi>::openapi(),
        <services::http::Docs as utoipa::OpenApi>::openapi(),
        <autoscaler::http::Docs as utoipa::OpenApi>::openapi(),
        <shout::http::Docs as utoipa::OpenApi>::openapi(),
        <kit::access::Docs as utoipa::OpenApi>::openapi(),
    ]
}

/// The routes of one capability.
#[derive(Debug, Serialize)]
struct Declared {
    name: &'static str,
    routes: Vec<RouteSpec>,
}

/// Prints the declared routes of every capability.
pub async fn routes(output: &Output) -> Result<Exit, Failure> {
    output.json(&json!({ "functions": declared().await? }))?;
    Ok(Exit::Fine)
}

async fn declared() -> Result<Vec<Declared>, Failure> {
    // Any store will do: the routes are the same on every one.
    let routes = Backend::memory().await?.routes(&Settings::of(&[]), None)?;
    Ok(routes.into_iter().map(|(name, routes)| Declared { name, routes: routes.specs().to_vec() }).collect())
}

/// Prints the definitions of all tables, as Terraform reads them.
pub fn tables(output: &Output) -> Result<Exit, Failure> {
    output.json(&definitions())?;
    Ok(Exit::Fine)
}

fn definitions() -> Vec<Value> {
    TABLES.map(TableDef::to_json).to_vec()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    fn spec(route: &Value) -> String {
        format!("{} {} {}", route["method"], route["path"], route["scope"])
    }

    #[tokio::test]
    async fn the_routing_table_of_the_stack_says_what_the_routers_declare() {
        let table: Value = serde_json::from_str(include_str!("../../../infra/functions.json")).unwrap();
        let functions =
            table["functions"].as_array().unwrap().iter().flat_map(|function| function["routes"].as_array().unwrap());
        let in_table: BTreeSet<_> = functions.chain(table["serve_only"].as_array().unwrap()).map(spec).collect();
        let declared = serde_json::to_value(declared().await.unwrap()).unwrap();
        let in_routers: BTreeSet<_> = declared
            .as_array()
            .unwrap()
            .iter()
            .flat_map(|capability| capability["routes"].as_array().unwrap())
            .map(spec)
            .collect();
        assert_eq!(in_table, in_routers);
    }

    #[tokio::test]
    async fn every_route_is_documented_with_its_scope() {
        let document = document().unwrap();
        assert_eq!(document["openapi"], "3.1.0");
        for capability in declared().await.unwrap() {
            // The document does not describe itself; `/batch` is another spelling of `/batches`.
            for route in capability.routes.iter().filter(|route| {
                capability.name != "openapi"
                    && !route.path.starts_with("/api/v1/batch/")
                    && route.path != "/api/v1/batch"
            }) {
                let operation = &document["paths"][route.path][route.method.to_lowercase()];
                assert!(operation.is_object(), "{} {}", route.method, route.path);
                assert_eq!(operation["security"][0]["key"][0], route.scope.unwrap().0, "{}", route.path);
            }
        }
        assert_eq!(document["components"]["securitySchemes"]["key"]["scheme"], "bearer");
    }

    /// Of two schemas with one name the document would hold the first, without a word.
    #[test]
    fn a_schemas_name_means_the_same_to_every_capability() {
        let mut seen = BTreeMap::new();
        for capability in documents() {
            for (name, schema) in capability.components.unwrap().schemas {
                let schema = serde_json::to_value(schema).unwrap();
                let first = seen.entry(name.clone()).or_insert_with(|| schema.clone());
                assert_eq!(*first, schema, "{name}: give one of them another name, #[schema(as = …)]");
            }
        }
    }

    /// After a wanted change: `muster openapi > crates/kit/openapi.json`.
    #[test]
    fn the_document_in_the_repository_is_the_one_that_the_handlers_generate() {
        let kept: Value = serde_json::from_str(kit::http::OPENAPI).unwrap();
        assert_eq!(kept, document().unwrap());
    }

    /// After a wanted change: `muster tables > infra/tables.json`.
    #[test]
    fn the_tables_that_terraform_makes_are_the_ones_that_the_capabilities_define() {
        let kept: Value = serde_json::from_str(include_str!("../../../infra/tables.json")).unwrap();
        assert_eq!(kept, Value::from(definitions()));
    }

    #[test]
    fn man_pages_are_written_for_every_command() {
        let dir = tempfile::tempdir().unwrap();
        let output = Output::new(crate::cli::Format::Plain, crate::cli::Color::Never);
        man(Some(&dir.path().join("man1")), &output).unwrap();
        assert!(dir.path().join("man1/muster-batch-create.1").exists());
    }
}
