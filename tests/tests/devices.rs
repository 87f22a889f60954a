//! `muster device …` as its users meet it: real commands against the simulated vendor, with a server
//! and without one, interrupted and not. Whatever happens, the simulator knows what is still alive.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{fs, path::Path, time::Duration};

use serde_json::Value;
use simulators::packet::{self, Config, Fault, PROJECT, Rule, Simulator, TOKEN};
use system_tests::processes::{Machine, Ran, Running, SERVE, until};

const URL: &str = "MUSTER_PACKET_URL";
const PROJECT_ID: &str = "MUSTER_PACKET_PROJECT";
const TOKEN_NAME: &str = "MUSTER_PACKET_TOKEN";
const PATIENCE: Duration = Duration::from_secs(45);
const ID: &str = "0198c6d2-6f7e-7a7e-8000-000000000000";

/// A vendor whose machines are up and gone at once; `faults` as `muster-sim` takes them.
async fn vendor(faults: &[&str]) -> Simulator {
    vendor_taking(Duration::from_millis(500), faults).await
}

async fn vendor_taking(provision: Duration, faults: &[&str]) -> Simulator {
    let faults = faults.iter().map(|fault| fault.parse::<Rule>().unwrap()).collect();
    let deprovision = Duration::from_millis(200);
    packet::start(Config { provision, spread: 0.0, deprovision, faults, ..Config::default() }).await.unwrap()
}

/// A machine that knows where the vendor is, and may use it.
fn machine(sim: &Simulator) -> Machine {
    Machine::new().with(URL, sim.url()).with(PROJECT_ID, PROJECT).with(TOKEN_NAME, TOKEN)
}

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

#[track_caller]
fn says(ran: &Ran, all: &[&str]) {
    for said in all {
        assert!(ran.stdout.contains(said) || ran.stderr.contains(said), "it does not say {said:?}: {ran:#?}");
    }
}

fn id_of(text: &str) -> String {
    let id = text.split_whitespace().find(|word| word.len() == 36 && word.matches('-').count() == 4);
    id.unwrap_or_else(|| panic!("no id in {text:?}")).to_owned()
}

/// Waits until the command says something.
async fn told(running: &Running, what: &str) {
    until(what, PATIENCE, || running.stderr().contains(what).then_some(())).await;
}

const SMALL: &str = "--os debian_12 --plan c3.small.x86";

#[tokio::test]
async fn a_device_is_launched_shown_and_torn_down() {
    let sim = vendor(&[]).await;
    let machine = machine(&sim);
    let line = format!("device launch --wait {SMALL} --facility ewr1 --hostname edge-1 --tag line-3 --ttl 2h");
    let ran = machine.run(&words(&line)).await.exits(0);
    says(&ran, &["Device ", "(edge-1)", "debian_12 on c3.small.x86 in ewr1 for 0.5 $/h", "came up after", "Up after"]);
    let alive = sim.alive();
    assert_eq!(alive.len(), 1);
    assert_eq!((alive[0].hostname.as_str(), alive[0].facility.as_str()), ("edge-1", "ewr1"));
    assert!(alive[0].tags.iter().any(|tag| tag == "line-3"));
    assert_eq!(words(ran.lines()[0]), ["Address", "Family", "Public", "Management"]);
    assert!(ran.lines().len() > 1 && ran.lines()[1].contains("IPv"), "{ran:#?}");

    let id = id_of(&ran.stderr);
    let show = machine.run(&["device", "show", &id]).await.exits(0);
    says(&show, &["Active", "edge-1", "0.5 $/h", "Torn down", "Attempt 1: debian_12 on c3.small.x86 in ewr1"]);
    assert_eq!(show.stderr, "", "there is nothing to wait for");
    let json = machine.run(&["device", "show", &id, "-o", "json"]).await.exits(0).json();
    assert_eq!((&json["state"], &json["request"]["ttl_seconds"]), (&"Active".into(), &7200.into()));
    let list = machine.run(&words("device list")).await.exits(0);
    assert!(list.lines()[1].starts_with(&format!("{id}  Active")), "{list:#?}");
    assert_eq!(machine.run(&words("device list -o plain --only active")).await.exits(0).lines(), [&id]);
    assert_eq!(machine.run(&words("device list -o plain --only failed")).await.exits(0).stdout, "");
    let events = machine.run(&["device", "events", &id]).await.exits(0);
    says(&events, &["Requested", "Creating", "vendor", "provisioning.110", "Active"]);
    let followed = machine.run(&["device", "events", &id, "--follow", "-o", "json"]).await.exits(0);
    assert!(followed.lines().iter().all(|line| serde_json::from_str::<Value>(line).unwrap()["at"].is_string()));

    machine.run(&["device", "delete", &id]).await.refuses(2, &["Active", "--yes"]);
    assert_eq!(sim.alive().len(), 1, "nobody said yes");
    let gone = machine.run(&["device", "delete", &id, "--yes"]).await.exits(0);
    says(&gone, &["is gone: the vendor has nothing of it left"]);
    assert_eq!(sim.alive().len(), 0);
    says(&machine.run(&["device", "delete", &id, "--yes"]).await.exits(0), &["is Deleted already"]);
    says(&machine.run(&["device", "show", &id]).await.exits(0), &["Deleted"]);
    machine.run(&["device", "show", ID]).await.refuses(3, &["muster device list"]);
    machine.run(&["device", "delete", ID, "--yes"]).await.refuses(3, &["muster device list"]);
}

#[tokio::test]
async fn addresses_are_printed_for_programs_too() {
    let sim = vendor(&[]).await;
    let machine = machine(&sim);
    let line = format!("device launch {SMALL} --facility ewr1 --idempotency-key order-1 -o json");
    let json = machine.run(&words(&line)).await.exits(0).json();
    assert_eq!((&json["state"], &json["combination"]["facility"]), (&"Active".into(), &"ewr1".into()));
    let addresses: Vec<_> =
        json["device"]["addresses"].as_array().unwrap().iter().map(|it| it["address"].as_str().unwrap()).collect();
    assert!(!addresses.is_empty());
    // Again with the same key: the same device, which is up already.
    for (format, lines) in [("plain", addresses.len()), ("csv", addresses.len() + 1)] {
        let line = format!("device launch {SMALL} --facility ewr1 --idempotency-key order-1 -o {format}");
        let ran = machine.run(&words(&line)).await.exits(0);
        says(&ran, &["asked for before with this key"]);
        assert_eq!(ran.lines().len(), lines, "{ran:#?}");
        assert!(addresses.iter().all(|address| ran.stdout.contains(address)), "{ran:#?}");
    }
    let other = machine.run(&words("device launch --idempotency-key order-1 --facility ams1")).await;
    other.refuses(2, &["first used with", "a new key"]);
    assert_eq!(sim.devices().len(), 1);
}

#[tokio::test]
async fn what_would_be_tried_is_listed_in_order_and_nothing_is_created() {
    let sim = vendor(&[]).await;
    let machine = machine(&sim);
    let line = format!("device plan {SMALL} --metro am --metro ny");
    let plan = machine.run(&words(&line)).await.exits(0);
    let rows: Vec<_> = plan.lines().iter().map(|line| words(line).join(" ")).collect();
    assert_eq!(rows[0], "# OS Plan Facility Metro Price Capacity Failures");
    assert_eq!(rows[1], "1 debian_12 c3.small.x86 am6 am 0.5 $/h normal -");
    assert_eq!(rows[2], "2 debian_12 c3.small.x86 ams1 am 0.5 $/h normal -");
    assert_eq!(rows.len(), 5);
    says(&plan, &["left out", "not a server", "--left-out shows them"]);
    let left_out = machine.run(&words(&format!("{line} --left-out"))).await.exits(0);
    says(&left_out, &["Left out", "bandwidth", "not a server"]);
    let json = machine.run(&words(&format!("{line} -o json"))).await.exits(0).json();
    assert_eq!((&json["total"], &json["candidates"][3]["facility"]), (&4.into(), &"ny5".into()));
    let csv = machine.run(&words(&format!("{line} -o csv"))).await.exits(0);
    assert!(csv.lines()[0].starts_with("number,os,plan,facility,metro,price,capacity"), "{csv:#?}");
    let impossible = machine.run(&words("device plan --os debian_12 --max-price 0.01 --facility nowhere")).await;
    impossible.refuses(2, &["--max-price: ", "--facility: ", "nowhere"]);
    assert_eq!(sim.devices().len(), 0);
}

#[tokio::test]
async fn out_of_capacity_is_told_and_the_next_combination_is_taken() {
    let sim = vendor(&["out_of_capacity@am6"]).await;
    let machine = machine(&sim);
    let ran = machine.run(&words(&format!("device launch --wait {SMALL} --metro am"))).await.exits(0);
    let failed = ran.stderr.lines().find(|line| line.contains("failed after")).unwrap_or_else(|| panic!("{ran:#?}"));
    assert!(failed.starts_with("Attempt 1: debian_12 on c3.small.x86 in am6, 0.5 $/h"), "{failed}");
    assert!(failed.contains("OutOfCapacity: The facility am6 has no provisionable"), "{failed}");
    says(&ran, &["Attempt 2: debian_12 on c3.small.x86 in ams1, 0.5 $/h: came up", "c3.small.x86 in ams1 for"]);
    assert_eq!(sim.alive().len(), 1);
    // It is remembered for the next one.
    let plan = machine.run(&words(&format!("device plan {SMALL} --metro am"))).await.exits(0);
    assert!(plan.lines()[1].contains("ams1") && plan.lines()[2].contains("held back until"), "{plan:#?}");

    let nothing = machine.run(&words(&format!("device launch --wait {SMALL} --facility am6 -o json"))).await.exits(1);
    let device = nothing.json();
    assert_eq!((&device["state"], &device["reason"]["code"]), (&"Failed".into(), &"NothingLeft".into()));
    says(&nothing, &["is Failed: NothingLeft: ", "muster device events"]);
    assert_eq!(sim.alive().len(), 1);
}

#[tokio::test]
async fn a_machine_that_fails_is_rolled_back_and_another_taken() {
    let sim = vendor(&["failed_at@am6=1,step=104", "health_critical"]).await;
    let machine = machine(&sim);
    let ran = machine.run(&words(&format!("device launch --wait {SMALL} --metro am"))).await.exits(0);
    says(&ran, &["Attempt 1: debian_12 on c3.small.x86 in am6", "ProvisioningFailed: ", "in ams1, 0.5 $/h: came up"]);
    let alive = sim.alive();
    assert_eq!((sim.devices().len(), alive.len(), alive[0].facility.as_str()), (2, 1, "ams1"));

    let id = id_of(&ran.stderr);
    let record = async |more: &str| machine.run(&words(&format!("device record {id} {more}"))).await.exits(0);
    let failed = record("1").await;
    says(
        &failed,
        &[
            "Attempt      1",
            "Outcome      failed",
            "Reason       ProvisioningFailed: ",
            "Health       critical",
            "The vendor's states",
            "The vendor's last answers",
            "POST /projects/…/devices: 201, ",
            "DELETE /devices/",
            "Time line",
            "provisioning.103",
            " $ for ",
            "; 1 hour begun",
        ],
    );
    let json = record("1 -o json").await.json();
    assert_eq!(
        (&json["number"], &json["outcome"], &json["health"]["rollup"]),
        (&1.into(), &"failed".into(), &"critical".into())
    );
    let shown = machine.run(&["device", "show", &id, "-o", "json"]).await.exits(0).json();
    assert_eq!(shown["attempts"][0]["record"], format!("/api/v1/devices/{id}/attempts/1"));
    let last = record("-o json").await.json();
    assert_eq!((&last["number"], &last["outcome"]), (&2.into(), &"came_up".into()), "the last one unless told which");
    let csv = record("-o csv").await;
    assert!(csv.lines()[0].starts_with("device,attempt,os,plan,facility,price"), "{csv:#?}");
    assert!(csv.lines()[1].starts_with(&format!("{id},2,debian_12,c3.small.x86,ams1,0.5,")), "{csv:#?}");
    let none = machine.run(&["device", "record", &id, "7"]).await;
    none.refuses(3, &["no attempt 7: it has made 2", &format!("muster device show {id}")]);
    machine.run(&["device", "record", &id, "0"]).await.refuses(2, &["0"]);
    machine.run(&["device", "record", ID]).await.refuses(3, &["muster device list"]);
    let waiting = machine.run(&words(&format!("device launch --no-wait {SMALL}"))).await.exits(0).stdout;
    machine.run(&["device", "record", waiting.trim()]).await.refuses(3, &["has made no attempt", "muster device show"]);
}

#[tokio::test]
async fn run_reports_times_and_price_and_leaves_nothing_alive() {
    let sim = vendor(&[]).await;
    let machine = machine(&sim);
    let line = format!("device run {SMALL} --facility ewr1");
    let other = self::machine(&sim);
    let (table, json) = (words(&line), words(&line).into_iter().chain(["-o", "json"]).collect::<Vec<_>>());
    let (table, json) = tokio::join!(machine.run(&table), other.run(&json));
    let run = table.exits(0);
    says(
        &run,
        &["State        Deleted", "Price        0.5 $/h", "Up after", "Gone after", "Attempts     1", "Address"],
    );
    says(&run, &["Cost         0.00", " $, computed to the second; 1 hour begun"]);
    let json = json.exits(0).json();
    let (up, gone) = (json["up_after_seconds"].as_u64().unwrap(), json["gone_after_seconds"].as_u64().unwrap());
    assert!(up <= gone && gone < 60, "{json}");
    // 0.5 $/h for the whole seconds that the machine was there, to the millionth.
    let cost = json["cost_usd"].as_f64().unwrap();
    let there = json["device"]["attempts"][0]["machine_seconds"].as_f64().unwrap();
    assert!((cost - (there * 500_000.0 / 3600.0).round() / 1e6).abs() < 1e-9 && there <= 60.0, "{json}");
    assert_eq!(json["device"]["cost_usd"], cost);
    let id = json["device"]["id"].as_str().unwrap();
    says(&other.run(&["device", "show", id]).await.exits(0), &["Cost "]);
    assert_eq!((&json["price_per_hour"], &json["device"]["reason"]["code"]), (&0.5.into(), &"Ephemeral".into()));
    assert_eq!((sim.devices().len(), sim.alive().len()), (2, 0));
    sim.fault("create_refused".parse::<Rule>().unwrap());
    let refused = machine.run(&words(&format!("device run {SMALL} --facility ewr1"))).await.exits(1);
    says(&refused, &["Failed", "muster device events"]);
    assert_eq!(sim.alive().len(), 0);
}

/// Starts a launch of which nothing comes before it is interrupted, and waits until it is under way.
async fn launching(machine: &Machine, sim: &Simulator, line: &str) -> Running {
    let running = machine.start(&words(line));
    told(&running, "step 0 of 10").await;
    assert_eq!(sim.alive().len(), 1);
    running
}

#[tokio::test]
async fn an_interrupted_launch_is_kept_unless_told_otherwise_and_says_how_it_is_removed() {
    // Nobody sits at a terminal who could be asked.
    let kept = async |flags: &str| {
        let sim = vendor_taking(Duration::from_secs(3600), &[]).await;
        let machine = machine(&sim);
        let line = format!("device launch --wait {SMALL} --facility ewr1 {flags}");
        let running = launching(&machine, &sim, &line).await;
        running.signal("INT").await;
        let ran = running.ended().await.exits(130);
        assert_eq!(ran.stdout, "", "{ran:#?}");
        says(&ran, &["Kept: device ", "is Provisioning, debian_12 on c3.small.x86 in ewr1", "nobody looks after it"]);
        let id = id_of(&ran.stderr);
        says(&ran, &[&format!("muster device delete {id}"), &format!("muster device show {id} --wait")]);
        assert_eq!(sim.alive().len(), 1, "{flags}");
        let _deleted = machine.run(&["device", "delete", &id, "--yes"]).await.exits(0);
        assert_eq!(sim.alive().len(), 0, "{flags}");
    };
    tokio::join!(kept(""), kept("--on-interrupt keep"), kept("--on-interrupt ask"));
}

#[tokio::test]
async fn what_was_kept_goes_on_with_the_next_command_that_waits() {
    let sim = vendor_taking(Duration::from_secs(8), &[]).await;
    let machine = machine(&sim);
    let line = format!("device launch {SMALL} --facility ewr1 --on-interrupt keep");
    let running = launching(&machine, &sim, &line).await;
    running.signal("TERM").await;
    let id = id_of(&running.ended().await.exits(130).stderr);
    let shown = machine.run(&["device", "show", &id]).await.exits(0);
    says(&shown, &["Provisioning", "--wait` goes on with it"]);
    let up = machine.run(&["device", "show", &id, "--wait"]).await.exits(0);
    assert!(up.lines()[0].starts_with("Address"), "{up:#?}");
    assert_eq!((sim.devices().len(), sim.alive().len()), (1, 1));
}

#[tokio::test]
async fn an_interrupted_launch_is_torn_down_where_it_was_told_so_and_a_run_always() {
    let torn_down = async |line: &str| {
        let sim = vendor_taking(Duration::from_secs(3600), &[]).await;
        let machine = machine(&sim);
        let running = launching(&machine, &sim, &format!("{line} {SMALL} --facility ewr1")).await;
        running.signal("INT").await;
        let ran = running.ended().await.exits(130);
        says(&ran, &["Tearing it down", "is gone: the vendor has nothing of it left"]);
        assert_eq!((sim.devices().len(), sim.alive().len()), (1, 0), "{line}");
        let shown = machine.run(&["device", "show", &id_of(&ran.stderr), "-o", "json"]).await.exits(0).json();
        assert_eq!((&shown["state"], &shown["reason"]["code"]), (&"Deleted".into(), &"Deleted".into()));
    };
    tokio::join!(torn_down("device launch --wait --on-interrupt teardown"), torn_down("device run"));
}

#[tokio::test]
async fn a_second_signal_leaves_at_once_and_says_what_is_left() {
    let sim = vendor_taking(Duration::from_secs(3600), &["delete_slow=1,lasts=1h"]).await;
    let machine = machine(&sim);
    let running = launching(&machine, &sim, &format!("device run {SMALL} --facility ewr1")).await;
    running.signal("INT").await;
    told(&running, "Taking it down").await;
    running.signal("INT").await;
    let ran = running.ended().await.exits(130);
    let id = id_of(&ran.stderr);
    let last = ran.stderr.lines().last().unwrap_or_default();
    assert!(last.contains(&format!("The deletion of device {id} is not confirmed yet")), "{ran:#?}");
    assert!(last.contains(&format!("muster device delete {id}")), "{ran:#?}");
    assert_eq!(sim.alive().len(), 1);
    let shown = machine.run(&["device", "show", &id, "-o", "json"]).await.exits(0).json();
    assert_eq!(shown["state"], "Deleting");
}

#[tokio::test]
async fn a_server_does_the_work_and_commands_wait_for_it() {
    let sim = vendor(&[]).await;
    let machine = machine(&sim);
    let server = machine.serve().await;
    let line = format!("device launch {SMALL} --facility ewr1");
    let id = machine.run(&words(&line)).await.exits(0).stdout.trim().to_owned();
    assert_eq!(id.len(), 36);
    let up = machine.run(&["device", "show", &id, "--wait", "-o", "json"]).await.exits(0).json();
    assert_eq!(up["state"], "Active");
    let asked = machine.run(&["device", "delete", &id, "--yes"]).await.exits(0);
    says(&asked, &["the server goes on with it"]);
    let gone = machine.run(&["device", "delete", &id, "--wait"]).await.exits(0);
    says(&gone, &[&id]);
    until("its end", PATIENCE, || sim.alive().is_empty().then_some(())).await;

    for flags in [["--api-url", sim.url()], ["--project", PROJECT]] {
        let refused = machine.run(&[&words("device launch")[..], &flags].concat()).await;
        refused.refuses(2, &[flags[0], &server.url, "without a server", "--state DIR"]);
    }
    sim.change(|config| config.provision = Duration::from_secs(3600));
    let running = launching(&machine, &sim, &format!("{line} --wait")).await;
    running.signal("INT").await;
    let kept = running.ended().await.exits(130);
    says(&kept, &["The server goes on with it", "muster device delete"]);
    let id = id_of(&kept.stderr);
    let _gone = machine.run(&["device", "delete", &id, "--yes", "--wait"]).await.exits(0);
    assert_eq!(sim.alive().len(), 0);
}

#[tokio::test]
async fn a_server_without_a_vendor_says_what_it_lacks() {
    let machine = Machine::new();
    let _server = machine.serve().await;
    let launch = machine.run(&words("device launch")).await;
    launch.refuses(5, &["where the server runs", URL]);
    assert_eq!(machine.run(&words("device list -o plain")).await.exits(0).stdout, "");
}

#[tokio::test]
async fn what_is_missing_or_cannot_be_is_refused_and_leaves_nothing_behind() {
    let sim = vendor(&[]).await;
    let bare = Machine::new();
    let launches = ["device launch", "device plan", "device run", "device launch --no-wait"];
    for line in launches {
        bare.run(&words(line)).await.refuses(2, &["no device API is set", "--api-url URL", URL, "--server"]);
    }
    let with_url = [&words("device launch")[..], &["--api-url", sim.url()]].concat();
    bare.run(&with_url).await.refuses(2, &["no project is set", "--project ID", PROJECT_ID]);
    let with_both = [&with_url[..], &["--project", PROJECT]].concat();
    bare.run(&with_both).await.refuses(4, &["no token", TOKEN_NAME, "MUSTER_PACKET_TOKEN_FILE"]);
    let machine = machine(&sim);
    for (line, said) in [
        ("device launch --hostname a_b", ["--hostname", "RFC 1123"]),
        ("device launch --max-price 0", ["--max-price", "above 0"]),
        ("device launch --ttl 1m", ["--ttl", "from 600"]),
        ("device launch --max-attempts 51", ["--max-attempts", "1 to 50"]),
        ("device launch --userdata-file nowhere", ["--userdata-file", "cannot read"]),
        ("device launch --on-interrupt wait", ["--on-interrupt", "keep, teardown, ask"]),
        ("device launch --api-url vendor.example", ["--api-url must start with http", "base URL"]),
        ("device show 7", ["36 characters", "muster device list"]),
        ("device list --only up", ["--only", "Requested"]),
    ] {
        machine.run(&words(line)).await.refuses(2, &said);
    }
    for (name, value, said) in [
        ("MUSTER_PACKET_TIMEOUT_SECONDS", "30", "0.05 to 20"),
        ("MUSTER_PACKET_SWEEP", "maybe", "report or delete"),
        ("MUSTER_PACKET_DEAD_MANS_SWITCH", "maybe", "on or off"),
        ("MUSTER_PACKET_TAG", "a b", "letters, digits"),
        (TOKEN_NAME, "two words", TOKEN_NAME),
    ] {
        let machine = self::machine(&sim).with(name, value);
        machine.run(&words("device launch")).await.refuses(2, &[name, said]);
        machine.run(&SERVE).await.refuses(2, &[name, said]);
    }
    assert!(!machine.state().exists() && !bare.state().exists(), "a state folder was made for nothing");
    assert_eq!(sim.stats().traffic.requests, 0, "the vendor was asked");

    let wrong = machine.with(TOKEN_NAME, "wrong-token-4711");
    let refused = wrong.run(&words("device launch")).await;
    assert!(!format!("{refused:?}").contains("wrong-token-4711"));
    refused.refuses(5, &[TOKEN_NAME, "does not accept our token"]);
    assert_eq!(sim.devices().len(), 0);
}

#[tokio::test]
async fn a_token_in_a_file_will_do() {
    let sim = vendor(&[]).await;
    let machine = Machine::new().with(URL, sim.url()).with(PROJECT_ID, PROJECT);
    let file = machine.home().join("token");
    fs::write(&file, format!("{TOKEN}\n")).unwrap();
    let machine = machine.with("MUSTER_PACKET_TOKEN_FILE", file.to_str().unwrap());
    let _plan = machine.run(&words("device plan")).await.exits(0);
}

/// Whether the bytes of a file hold a text.
fn holds(file: &Path, text: &str) -> bool {
    fs::read(file).unwrap().windows(text.len()).any(|bytes| bytes == text.as_bytes())
}

#[tokio::test]
async fn no_secret_is_in_any_output_log_or_file() {
    const USERDATA: &str = "userdata-with-a-secret-7731";
    let sim = vendor(&["server_error=1,on=create,times=1"]).await;
    let machine = machine(&sim).with("RUST_LOG", "debug");
    let userdata = machine.home().join("userdata");
    fs::write(&userdata, format!("#!/bin/sh\n# {USERDATA}\n")).unwrap();
    let line = format!("device launch {SMALL} --facility ewr1 --hostname edge-4711 -vv --userdata-file userdata");
    let mut all = vec![machine.run(&words(&line)).await.exits(0)];
    assert!(sim.devices()[0].userdata.as_ref().is_some_and(|it| it.contains(USERDATA)), "the machine has it");
    fs::remove_file(&userdata).unwrap();
    let id = id_of(&all[0].stderr);
    for line in [
        format!("device show {id} -vv"),
        format!("device show {id} -o json -vv"),
        format!("device events {id} -o json -vv"),
        "device list -o json -vv".to_owned(),
        format!("device plan {SMALL} -o json -vv"),
        format!("device delete {id} --yes -o json -vv"),
    ] {
        all.push(machine.run(&words(&line)).await.exits(0));
    }
    assert!(all[0].stderr.contains("DEBUG"), "the log tells nothing: {:#?}", all[0]);
    let secrets = [TOKEN, packet::ROOT_PASSWORD, USERDATA];
    for ran in &all {
        for secret in secrets {
            assert!(!ran.stdout.contains(secret) && !ran.stderr.contains(secret), "{secret} is told: {ran:#?}");
        }
    }
    let files: Vec<_> = fs::read_dir(machine.state()).unwrap().map(|it| it.unwrap().path()).collect();
    assert!(files.iter().any(|file| holds(file, "edge-4711")), "nothing is to be found in {files:?}");
    for file in &files {
        for secret in secrets {
            assert!(!holds(file, secret), "{} holds {secret}", file.display());
        }
    }
}

#[tokio::test]
async fn what_the_vendor_does_not_do_is_told_while_it_lasts() {
    let sim = vendor_taking(Duration::from_secs(3600), &[]).await;
    let machine = machine(&sim);
    let running = launching(&machine, &sim, &format!("device launch {SMALL} --facility ewr1")).await;
    sim.fault(Fault::ServerError);
    until("the trouble", PATIENCE, || running.stderr().lines().any(|line| line.contains("%; ")).then_some(())).await;
    sim.heal(Fault::ServerError);
    running.signal("INT").await;
    let _kept = running.ended().await.exits(130);
}
