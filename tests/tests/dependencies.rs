//! What a function's binary is made of: every crate in it is cold start.

#![allow(clippy::unwrap_used)]

use std::{collections::BTreeSet, process::Command};

use serde_json::Value;

/// The crates that are linked into the binaries of `package`, as `name vX.Y.Z`.
fn linked(package: &str) -> BTreeSet<String> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--offline", "--package", package, "--edges", "normal", "--prefix", "none"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| line.split(' ').take(2).collect::<Vec<_>>().join(" ")).collect()
}

#[test]
fn a_function_has_one_tls_stack_one_hyper_and_no_embedded_store() {
    let stack: Value = serde_json::from_str(include_str!("../../infra/functions.json")).unwrap();
    let functions = stack["functions"].as_array().unwrap();
    let packages: BTreeSet<_> = functions.iter().map(|function| function["package"].as_str().unwrap()).collect();
    assert!(packages.contains("shout"), "{packages:?}");
    for package in packages {
        let linked = linked(package);
        let has = |what: &str| linked.iter().any(|line| line.starts_with(what));
        for unwanted in [
            "ring v",
            "openssl v",
            "openssl-sys",
            "native-tls",
            "hyper v0.",
            "http v0.",
            "aws-sdk-sso",
            "dynoxide",
            "rusqlite",
            "clap v",
        ] {
            let found: Vec<_> = linked.iter().filter(|line| line.starts_with(unwanted)).collect();
            assert!(found.is_empty(), "{package} links {found:?}");
        }
        for wanted in ["aws-lc-rs v", "rustls v", "hyper v1.", "lambda_http v", "aws-sdk-dynamodb v"] {
            assert!(has(wanted), "{package} does not link {wanted}: is this test reading the right thing?");
        }
    }
}
