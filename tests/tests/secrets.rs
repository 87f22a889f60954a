//! `muster secrets` against Secrets Manager's protocol, and the token's whole way: from the
//! operator's standard input to the provider.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Json, Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse as _, Response},
    routing::post,
};
use serde_json::{Value, json};
use simulators::lorawan;
use system_tests::processes::{Machine, assert_nothing_wasted};

const ID: &str = "muster-test/MUSTER_LORAWAN_TOKEN";
const SET: [&str; 5] = ["secrets", "set", "MUSTER_LORAWAN_TOKEN", "--environment", "muster-test"];
const LIST: [&str; 4] = ["secrets", "list", "--environment", "muster-test"];

/// As much of Secrets Manager as is spoken here: secrets that are there, with or without a value.
#[derive(Clone, Default)]
struct Manager {
    secrets: Arc<Mutex<BTreeMap<String, Option<String>>>>,
    denied: Arc<Mutex<bool>>,
}

impl Manager {
    async fn start(self) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(
            async move { axum::serve(listener, Router::new().route("/", post(answer)).with_state(self)).await },
        );
        url
    }

    fn holding(id: &str, value: Option<&str>) -> Self {
        let this = Self::default();
        this.secrets.lock().unwrap().insert(id.to_owned(), value.map(str::to_owned));
        this
    }

    fn value(&self) -> Option<String> {
        self.secrets.lock().unwrap()[ID].clone()
    }
}

async fn answer(State(manager): State<Manager>, headers: HeaderMap, body: Bytes) -> Response {
    let refused = |kind: &str, message: &str| {
        (StatusCode::BAD_REQUEST, Json(json!({"__type": kind, "Message": message}))).into_response()
    };
    if *manager.denied.lock().unwrap() {
        return refused("AccessDeniedException", "User: x is not authorized to perform: secretsmanager");
    }
    let request: Value = serde_json::from_slice(&body).unwrap();
    let mut secrets = manager.secrets.lock().unwrap();
    let id = request["SecretId"].as_str().unwrap();
    let Some(value) = secrets.get_mut(id) else {
        return refused("ResourceNotFoundException", "Secrets Manager can't find the specified secret.");
    };
    match headers["x-amz-target"].to_str().unwrap() {
        "secretsmanager.PutSecretValue" => {
            *value = Some(request["SecretString"].as_str().unwrap().to_owned());
            Json(json!({"Name": id, "VersionStages": ["AWSCURRENT"]})).into_response()
        }
        "secretsmanager.DescribeSecret" => {
            let versions = if value.is_some() { json!({"7": ["AWSCURRENT"]}) } else { Value::Null };
            Json(json!({"Name": id, "VersionIdsToStages": versions, "LastChangedDate": 1_700_000_000.5}))
                .into_response()
        }
        "secretsmanager.GetSecretValue" => Json(json!({"Name": id, "SecretString": value})).into_response(),
        other => panic!("{other}"),
    }
}

/// A machine of an operator whose AWS is `manager`.
async fn operator(manager: &Manager) -> Machine {
    Machine::new()
        .with("AWS_ENDPOINT_URL_SECRETS_MANAGER", &manager.clone().start().await)
        .with("AWS_ACCESS_KEY_ID", "test")
        .with("AWS_SECRET_ACCESS_KEY", "test")
        .with("AWS_REGION", "us-east-1")
}

#[tokio::test]
async fn a_secret_is_set_from_standard_input_and_listed_without_its_value() {
    let manager = Manager::holding(ID, None);
    let machine = operator(&manager).await;
    let before = machine.run(&LIST).await.exits(0);
    assert!(before.stdout.contains("empty: run `muster secrets set`"), "{before:?}");
    let set = machine.run_with_input(&SET, b"t0ken\n").await.exits(0);
    assert_eq!((set.stdout.as_str(), manager.value().as_deref()), ("", Some("t0ken")));
    assert!(set.stderr.contains(ID) && set.stderr.contains("five minutes"), "{set:?}");
    let after = machine.run(&[&LIST[..], &["-o", "json"]].concat()).await.exits(0);
    let expected = json!({"name": "MUSTER_LORAWAN_TOKEN", "state": "set", "changed_at": "2023-11-14T22:13:20Z"});
    // The simulated Secrets Manager holds one; there are others that nobody has made.
    let missing = |name: &str| json!({"name": name, "state": "missing"});
    let all = json!([missing("MUSTER_ALERTS_WEBHOOK_KEY"), expected, missing("MUSTER_PACKET_TOKEN")]);
    assert_eq!(after.json()["items"], all);
    let machine = machine.with("MUSTER_ENVIRONMENT", "muster-test");
    machine.run_with_input(&SET[..3], b"0ther").await.exits(0).lines();
    assert_eq!(manager.value().as_deref(), Some("0ther"));
}

#[tokio::test]
async fn what_cannot_be_set_is_refused_with_what_would_be_right_and_changes_nothing() {
    let manager = Manager::holding(ID, Some("0ld"));
    let machine = operator(&manager).await;
    let set = async |args: &[&str], input: &str| machine.run_with_input(args, input.as_bytes()).await;
    let unknown = ["secrets", "set", "MUSTER_LORAWAN_TOKN", "--environment", "muster-test"];
    set(&unknown, "t0ken").await.refuses(
        2,
        &["MUSTER_LORAWAN_TOKN", "there are: MUSTER_ALERTS_WEBHOOK_KEY, MUSTER_LORAWAN_TOKEN, MUSTER_PACKET_TOKEN"],
    );
    set(&SET[..3], "t0ken").await.refuses(2, &["--environment", "MUSTER_ENVIRONMENT"]);
    set(&[&SET[..4], &["muster/test"]].concat(), "t0ken").await.refuses(2, &["such as muster-test"]);
    set(&[&SET[..], &["t0ken"]].concat(), "").await.refuses(2, &["unexpected argument"]);
    set(&SET, " \n").await.refuses(2, &["empty", "pipe it in"]);
    set(&SET, "Bearer t0ken").await.refuses(2, &["visible ASCII"]);
    set(&SET, "t0ken\nt0ken\n").await.refuses(2, &["one line"]);
    *manager.denied.lock().unwrap() = true;
    set(&SET, "t0ken").await.refuses(4, &["not authorized", ID, "aws sts get-caller-identity"]);
    machine.run(&LIST).await.refuses(4, &["not authorized"]);
    assert_eq!(manager.value().as_deref(), Some("0ld"));
}

#[tokio::test]
async fn a_deployment_that_is_not_there_is_exit_code_3_and_says_what_makes_it() {
    let machine = operator(&Manager::default()).await;
    machine.run_with_input(&SET, b"t0ken").await.refuses(3, &[ID, "scripts/apply"]);
    machine.run(&LIST).await.refuses(3, &["muster-test/MUSTER_PACKET_TOKEN", "scripts/apply"]);
}

#[tokio::test]
async fn without_credentials_a_region_or_an_answer_it_says_which() {
    let machine = Machine::new().with("AWS_EC2_METADATA_DISABLED", "true").with("AWS_REGION", "us-east-1");
    machine.run(&LIST).await.refuses(4, &["no AWS credentials", "AWS_PROFILE"]);
    let machine = machine.with("AWS_ACCESS_KEY_ID", "test").with("AWS_SECRET_ACCESS_KEY", "test");
    let machine = machine.with("AWS_REGION", "");
    machine.run(&LIST).await.refuses(2, &["set AWS_REGION"]);
    let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let machine = machine.with("AWS_REGION", "us-east-1").with("AWS_ENDPOINT_URL", &format!("http://{nobody}"));
    machine.run(&LIST).await.refuses(5, &["cannot be reached"]);
}

#[tokio::test]
async fn a_token_that_was_set_gets_to_the_provider() {
    let config = lorawan::Config {
        require_token: Some("t0ken".to_owned()),
        latency: Duration::from_millis(2),
        ..Default::default()
    };
    let sim = lorawan::start(config).await.unwrap();
    let manager = Manager::holding(ID, None);
    let machine = operator(&manager).await.with(batches::config::URL, sim.url());
    machine.run_with_input(&SET, b"t0ken\n").await.exits(0).lines();
    let machine = machine.with("MUSTER_LORAWAN_TOKEN_SECRET", ID);
    let server = machine.serve().await;
    let id = server.create(30).await;
    assert_nothing_wasted(&[server.finished(&id).await], &sim);
    let log = server.running.stderr();
    assert!(!log.contains("t0ken"), "{log}");
}
