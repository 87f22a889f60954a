//! The command line as its user meets it: what it prints, what it refuses and how, and what it
//! leaves behind.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    collections::BTreeSet,
    process::Stdio,
    time::{Duration, Instant},
};

use clap::Parser as _;
use muster::cli::Cli;
use serde_json::Value;
use simulators::{
    lorawan::{self, Config, Simulator},
    shoutcloud,
};
use system_tests::processes::{Machine, SERVE, assert_nothing_wasted, texts};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader},
    net::TcpListener,
};

const ID: &str = "0198c6d2-6f7e-7a7e-8000-000000000000";

/// A machine whose provider answers well and at once.
async fn world() -> (Simulator, Machine) {
    let sim = lorawan::start(Config { latency: Duration::from_millis(2), ..Config::default() }).await.unwrap();
    let machine = Machine::with_provider(&sim, Duration::from_secs(2));
    (sim, machine)
}

/// An address where nobody listens.
async fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

/// No batch, and nothing asked of the provider.
async fn leaves_nothing_behind(machine: &Machine, sim: &Simulator) {
    let list = machine.run(&["batch", "list", "--deleted", "-o", "plain"]).await.exits(0);
    assert_eq!(list.stdout, "", "there is a batch");
    assert_eq!(sim.stats().traffic.requests, 0, "the provider was asked");
}

#[tokio::test]
async fn values_that_cannot_be_are_refused_with_what_would_be_right_and_leave_nothing_behind() {
    let (sim, machine) = world().await;
    let long_key = format!("batch create --key {}", "k".repeat(300));
    let long_label = format!("batch create --label {}", "l".repeat(201));
    let find = format!("batch find {ID}");
    let cases: Vec<(&str, &[&str])> = vec![
        ("batch create --size 0", &["--size", "1 to 1000000"]),
        ("batch create --size -1", &["--size", "1 to 1000000"]),
        ("batch create --size 1.5", &["--size", "1 to 1000000"]),
        ("batch create --size ten", &["--size", "1 to 1000000"]),
        ("batch create --size 1000000000", &["--size", "1 to 1000000"]),
        ("batch create --prefix 70B3D5123456", &["--prefix", "0 to 11 hexadecimal"]),
        ("batch create --prefix 70B3DG", &["--prefix", "0 to 11 hexadecimal"]),
        ("batch create --on-uncertain guess", &["--on-uncertain", "keep, replace"]),
        (&long_key, &["--key", "1 to 255 visible ASCII"]),
        (&long_label, &["--label", "up to 200 characters"]),
        ("batch create --provider provider.example", &["--provider", "http:// or https://", "write the provider's"]),
        ("batch create --provider ftp://provider.example", &["--provider", "http:// or https://"]),
        ("batch create --provider http://user:secret@provider.example", &["--provider", "password"]),
        ("batch create --provider http://", &["--provider", "write the provider's base URL"]),
        ("batch create --sise 5", &["--sise", "--size"]),
        ("batch creat", &["creat", "create"]),
        ("batch create -o yaml", &["yaml", "table, json, csv, plain"]),
        ("batch show 7", &["36 characters", "muster batch list"]),
        ("batch find 7 2555B", &["36 characters", "muster batch list"]),
        ("batch cancel no-id", &["36 characters", "muster batch list"]),
        ("batch delete no-id", &["36 characters", "muster batch list"]),
        (&find, &["<CODE>"]),
        ("batch list --status done", &["--status", "Processing, Completed"]),
        ("batch list --limit 0", &["--limit", "1..=500"]),
        ("batch list --all --limit 5", &["--all", "--limit"]),
        ("keys create --tenant acme", &["--scope"]),
        ("keys create --tenant acme --scope admin --expires soon", &["--expires", "30d"]),
        ("serve --listen 8080", &["--listen", "127.0.0.1:8080"]),
        ("serve --store redis", &["--store", "embedded, dynamodb"]),
        ("demo --size 0 --exit", &["--size", "1 to 1000000"]),
        ("demo --latency 100 --exit", &["--latency", "100ms"]),
        ("batch list --server muster.example", &["--server", "https://muster.example"]),
        ("completions cmd", &["bash"]),
    ];
    for (line, said) in &cases {
        machine.run(&words(line)).await.refuses(2, said);
    }
    for code in ["25", "2555B0", "2555G"] {
        machine.run(&["batch", "find", ID, code]).await.refuses(2, &["5 hexadecimal"]);
    }
    machine.run(&["batch", "create", "--label", "a\u{1b}b"]).await.refuses(2, &["--label", "no control characters"]);
    machine.run(&["batch", "create", "--key", "two words"]).await.refuses(2, &["--key", "no spaces"]);
    assert!(!machine.state().exists(), "a state folder was made for nothing");
    leaves_nothing_behind(&machine, &sim).await;
}

#[tokio::test]
async fn a_key_that_was_used_for_something_else_is_refused_in_whole_sentences() {
    let (_sim, machine) = world().await;
    let first = machine.run(&words("batch create --size 3 --key order-1")).await.exits(0);
    assert!(first.stdout.contains("3 DevEUIs registered"), "{first:?}");
    let other = machine.run(&words("batch create --size 4 --key order-1")).await;
    other.refuses(2, &["The idempotency key was used for another request. Send the request that it was first used"]);
}

#[tokio::test]
async fn settings_that_cannot_be_are_refused_by_their_name_and_leave_nothing_behind() {
    let create = ["batch", "create", "--size", "3"];
    let cases: [(&str, &str, &[&str]); 6] = [
        ("MUSTER_LORAWAN_URL", "provider", &["MUSTER_LORAWAN_URL must start with http", "base URL"]),
        ("MUSTER_LORAWAN_TIMEOUT_SECONDS", "soon", &["MUSTER_LORAWAN_TIMEOUT_SECONDS", "number of seconds"]),
        ("MUSTER_BATCHES_MAX_AGE_SECONDS", "-1", &["MUSTER_BATCHES_MAX_AGE_SECONDS", "number of seconds"]),
        ("MUSTER_STORE", "redis", &["MUSTER_STORE", "embedded or dynamodb"]),
        ("MUSTER_STORE", "dynamodb", &["MUSTER_STORE", "--server or MUSTER_SERVER"]),
        ("MUSTER_SERVER", "muster.example", &["MUSTER_SERVER", "https://muster.example"]),
    ];
    for (name, value, said) in cases {
        let (sim, machine) = world().await;
        let machine = machine.with(name, value);
        machine.run(&create).await.refuses(2, said);
        leaves_nothing_behind(&machine.with(name, ""), &sim).await;
    }

    let (sim, machine) = world().await;
    let folder = machine.home().join("config/muster");
    std::fs::create_dir_all(&folder).unwrap();
    for (text, said) in [("lorawan_ulr = 'http://x'", "lorawan_url"), ("server = 7 8", "muster.toml")] {
        std::fs::write(folder.join("muster.toml"), text).unwrap();
        machine.run(&create).await.refuses(2, &["muster.toml", said]);
    }
    std::fs::remove_dir_all(&folder).unwrap();
    leaves_nothing_behind(&machine, &sim).await;
}

#[tokio::test]
async fn without_a_provider_nothing_is_created_and_it_says_what_to_set() {
    let machine = Machine::new();
    let said = ["no LoRaWAN provider", "--provider URL", "MUSTER_LORAWAN_URL"];
    machine.run(&["batch", "create", "--size", "3"]).await.refuses(2, &said);
    assert_eq!(machine.run(&["batch", "list", "-o", "plain"]).await.exits(0).stdout, "");
    let none = machine.run(&["batch", "list"]).await.exits(0);
    assert!(none.stderr.contains("muster batch create"), "{none:?}");
    machine.run(&["shout", "hello"]).await.refuses(2, &["MUSTER_SHOUTCLOUD_URL"]);
}

#[tokio::test]
async fn a_state_folder_that_cannot_be_made_is_refused_with_how_to_choose_another() {
    for state in ["/dev/null/muster", "/proc/muster"] {
        let listed = Machine::new().run(&["batch", "list", "--state", state]).await;
        listed.refuses(1, &[state, "--state DIR", "MUSTER_STATE"]);
    }
}

#[tokio::test]
async fn with_json_a_refusal_is_json_too() {
    let machine = Machine::new();
    for (line, code) in [
        (words("-o json batch create --size 0"), 2),
        (words("batch creat -o json"), 2),
        (vec!["batch", "show", ID, "-o", "json"], 3),
    ] {
        let ran = machine.run(&line).await.exits(code);
        let told: Value = serde_json::from_str(&ran.stderr).unwrap_or_else(|error| panic!("{error}: {ran:#?}"));
        assert_eq!(told["exit_code"], code, "{told}");
        assert!(told["error"].as_str().is_some_and(|error| !error.is_empty()), "{told}");
        assert_eq!(ran.stdout, "");
    }
}

#[tokio::test]
async fn what_is_not_there_is_exit_code_3_and_says_where_to_look() {
    let (_sim, machine) = world().await;
    for command in ["show", "cancel", "delete"] {
        machine.run(&["batch", command, ID]).await.refuses(3, &["muster batch list"]);
    }
    machine.run(&["batch", "find", ID, "2555B"]).await.refuses(3, &["error:"]);
    machine.run(&["keys", "revoke", "000000000000"]).await.refuses(3, &["muster keys list"]);
}

#[tokio::test]
async fn a_provider_that_answers_with_a_web_page_is_told_and_the_batch_ends_by_its_age() {
    let sim = lorawan::start(Config { html: true, ..Config::default() }).await.unwrap();
    let machine = Machine::with_provider(&sim, Duration::from_secs(2)).with("MUSTER_BATCHES_MAX_AGE_SECONDS", "1");
    let ran = machine.run(&["batch", "create", "--size", "5", "-o", "json"]).await.exits(1);
    assert!(ran.stderr.contains("web page"), "{ran:?}");
    assert!(ran.stderr.contains("is its base URL (MUSTER_LORAWAN_URL) right?"), "{ran:?}");
    let batch = ran.json();
    assert_eq!((&batch["status"], &batch["registered"]), (&"Failed".into(), &0.into()), "{batch}");
    assert!(sim.registered().is_empty());
}

#[tokio::test]
async fn a_batch_is_printed_as_a_table_as_lines_as_csv_and_as_json() {
    let (sim, machine) = world().await;
    let table = machine.run(&words("batch create --size 3 --prefix 70b3d5 --label line-3")).await.exits(0);
    let registered = sim.registered();
    assert_eq!(registered.len(), 3);
    let lines = table.lines();
    assert_eq!(lines[0], "Short Code  DevEUI");
    let deveuis: Vec<&str> = lines[1..4].iter().map(|line| line.split_whitespace().nth(1).unwrap()).collect();
    for (line, deveui) in lines[1..4].iter().zip(&deveuis) {
        assert_eq!(**line, format!("{}       {deveui}", &deveui[11..]));
        assert!(registered.contains(*deveui) && deveui.starts_with("70B3D5"), "{deveui}");
    }
    assert_eq!(lines[4..], ["", "3 DevEUIs registered"]);
    assert!(table.stderr.contains("Completed: 3 of 3 registered"), "{table:?}");

    let id = machine.run(&words("batch list -o plain")).await.exits(0).stdout.trim().to_owned();
    let show = async |format: &'static str| machine.run(&["batch", "show", &id, "-o", format]).await.exits(0);
    let expected = |between: &str| -> Vec<String> {
        deveuis.iter().map(|deveui| format!("{}{between}{deveui}", &deveui[11..])).collect()
    };
    assert_eq!(show("plain").await.lines(), expected(" "));
    let csv = show("csv").await;
    assert_eq!(
        (csv.lines()[0], &csv.lines()[1..]),
        ("short_code,deveui", &expected(",").iter().map(String::as_str).collect::<Vec<_>>()[..])
    );
    let json = show("json").await.json();
    assert_eq!(texts(&json["deveuis"]), deveuis);
    assert_eq!((&json["label"], &json["prefix"]), (&"line-3".into(), &"70B3D5".into()));
    assert_nothing_wasted_alone(&json, &sim);

    let list = machine.run(&words("batch list")).await.exits(0);
    assert_eq!(words(list.lines()[0]), ["ID", "Status", "Registered", "Size", "Conflicts", "Created", "Label"]);
    assert!(list.lines()[1].starts_with(&format!("{id}  Completed")), "{list:?}");
    assert!(!(table.stdout + &list.stdout).contains('\u{1b}'), "no colours into a file");
}

/// The equation of a batch that is too small to try the limit of ten.
#[track_caller]
fn assert_nothing_wasted_alone(batch: &Value, sim: &Simulator) {
    assert_eq!(batch["status"], "Completed", "{batch}");
    assert_eq!(texts(&batch["deveuis"]).into_iter().collect::<BTreeSet<_>>(), sim.registered());
    assert!(texts(&batch["recovered"]).is_empty());
}

#[tokio::test]
async fn a_short_code_is_found_in_any_case_and_a_strange_one_is_not() {
    let (sim, machine) = world().await;
    let batch = machine.run(&words("batch create --size 20 -o json")).await.exits(0).json();
    assert_nothing_wasted(std::slice::from_ref(&batch), &sim);
    let id = batch["id"].as_str().unwrap();
    let deveuis = texts(&batch["deveuis"]);
    for deveui in [&deveuis[0], &deveuis[19]] {
        let code = deveui[11..].to_lowercase();
        let found = machine.run(&["batch", "find", id, &code, "-o", "plain"]).await.exits(0);
        assert_eq!(found.stdout, format!("{deveui}\n"));
    }
    let table = machine.run(&["batch", "find", id, &deveuis[0][11..]]).await.exits(0);
    assert_eq!(words(table.lines()[1]), [&deveuis[0][11..], &deveuis[0]]);
    let strange =
        (0..21).map(|it| format!("{it:05X}")).find(|code| deveuis.iter().all(|it| !it.ends_with(code))).unwrap();
    machine.run(&["batch", "find", id, &strange]).await.refuses(3, &[&strange]);
}

#[tokio::test]
async fn a_batch_is_cancelled_and_deleted_and_what_was_registered_is_still_shown() {
    let sim = lorawan::start(Config { latency: Duration::from_millis(50), ..Config::default() }).await.unwrap();
    let machine = Machine::with_provider(&sim, Duration::from_secs(2));
    let create = ["batch", "create", "--size", "1000", "--no-wait", "-o", "plain"];
    let id = machine.run(&create).await.exits(0).stdout.trim().to_owned();
    assert_eq!(sim.stats().traffic.requests, 0, "nothing is sent until somebody works on it");

    machine.run(&["batch", "delete", &id]).await.refuses(2, &["Processing", "--yes", "muster batch cancel"]);
    let _deleted = machine.run(&["batch", "delete", &id, "--yes"]).await.exits(0);
    machine.run(&["batch", "show", &id]).await.refuses(3, &["--deleted"]);
    assert_eq!(machine.run(&words("batch list -o plain")).await.exits(0).stdout, "");
    let shown = machine.run(&["batch", "show", &id, "--deleted", "-o", "json"]).await.exits(0).json();
    assert_eq!(shown["status"], "Cancelled", "{shown}");
    let again = machine.run(&["batch", "delete", &id]).await.exits(0);
    assert!(again.stderr.contains("--deleted"), "{again:?}");

    // Through a server, in the middle of the work.
    let server = machine.serve().await;
    let id = server.create(1000).await;
    let cancelled = machine.run(&["batch", "cancel", &id, "-o", "json"]).await.exits(0).json();
    assert_eq!(cancelled["status"], "Cancelled", "{cancelled}");
    assert_eq!(texts(&cancelled["deveuis"]).into_iter().collect::<BTreeSet<_>>(), sim.registered());
    let finished = machine.run(&["batch", "cancel", &id]).await.exits(0);
    assert!(finished.stderr.contains("nothing to cancel"), "{finished:?}");
}

#[tokio::test]
async fn lists_are_newest_first_limited_filtered_and_all_of_them_when_asked() {
    let (_sim, machine) = world().await;
    let server = machine.serve().await;
    let mut ids = Vec::new();
    for _ in 0..7 {
        ids.insert(0, server.create(1).await);
    }
    for id in &ids {
        server.finished(id).await;
    }
    let list = async |line: &str| machine.run(&words(line)).await.exits(0);
    let some = list("batch list --limit 3 -o plain").await;
    assert_eq!(some.lines(), ids[..3]);
    assert!(some.stderr.contains("--all"), "it says that there are more: {some:?}");
    let all = list("batch list --all -o plain").await;
    assert_eq!((all.lines(), all.stderr.as_str()), (ids.iter().map(String::as_str).collect(), ""));
    assert_eq!(list("batch list --status completed --limit 7 -o plain").await.lines(), ids);
    assert_eq!(list("batch list --status Failed -o plain").await.stdout, "");
    let json = list("batch list --limit 2 -o json").await.json();
    assert_eq!(json["items"].as_array().unwrap().len(), 2);
    assert!(json["next_cursor"].is_string(), "{json}");
    assert_eq!(list("batch list -o csv").await.lines().len(), 8);
}

#[tokio::test]
async fn text_is_shouted_from_arguments_and_from_standard_input() {
    let sim = shoutcloud::start(shoutcloud::Config::default()).await.unwrap();
    let machine = Machine::new().with("MUSTER_SHOUTCLOUD_URL", sim.url());
    let shouted = machine.run(&["shout", "hello,", "fleet"]).await.exits(0);
    assert_eq!((shouted.stdout.as_str(), shouted.stderr.as_str()), ("TEELF ,OLLEH\n", ""));
    let shouted = machine.run_with_input(&["shout", "-o", "json"], "straße\r\n".as_bytes()).await.exits(0).json();
    assert_eq!(shouted["via"], "shoutcloud");
    assert_eq!(machine.run_with_input(&["shout"], b"").await.exits(0).stdout, "\n");
    assert!(!machine.state().exists(), "a shout keeps nothing");

    let limit = shout::http::MOST;
    let most = machine.run_with_input(&["shout"], "a".repeat(limit).as_bytes()).await.exits(0);
    assert_eq!(most.stdout.trim_end(), "A".repeat(limit));
    let requests = sim.stats().traffic.requests;
    for input in [limit + 1, limit + 2, limit + 3, 2 << 20] {
        machine.run_with_input(&["shout"], "a".repeat(input).as_bytes()).await.refuses(2, &["65536"]);
    }
    machine.run_with_input(&["shout"], b"\xff\xfe").await.refuses(2, &["not UTF-8", "iconv"]);
    assert_eq!(sim.stats().traffic.requests, requests);

    let machine = machine.with("MUSTER_SHOUTCLOUD_URL", &nobody().await);
    let local = machine.run(&["shout", "hello"]).await.exits(0);
    assert_eq!(local.stdout, "OLLEH\n");
    assert!(local.stderr.contains("shouted here instead"), "{local:?}");
    let machine = machine.with("MUSTER_SHOUT_FALLBACK", "off");
    machine.run(&["shout", "hello"]).await.refuses(5, &["SHOUTCLOUD", "Try again later"]);
}

#[tokio::test]
async fn the_command_describes_itself() {
    let machine = Machine::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = machine.run(&["completions", shell]).await.exits(0);
        assert!(script.stdout.contains("muster") && script.stdout.contains("on-uncertain"), "{shell}");
        assert!(script.stdout.contains("on-interrupt"), "{shell}");
    }
    assert!(machine.run(&["man"]).await.exits(0).stdout.contains(".TH muster 1"));
    let _written = machine.run(&["man", "--dir", "man1"]).await.exits(0);
    for page in ["muster-batch-create.1", "muster-device-launch.1"] {
        assert!(machine.home().join("man1").join(page).exists(), "{page}");
    }
    let document = machine.run(&["openapi"]).await.exits(0).json();
    assert!(document["paths"]["/api/v1/batches"]["post"].is_object());
    assert!(machine.run(&["--version"]).await.exits(0).stdout.starts_with("muster "));
    assert!(machine.run(&["batch", "--help"]).await.exits(0).stdout.contains("create"));
    let none = machine.run(&[]).await.exits(2);
    assert!(none.stderr.contains("Usage: muster"), "{none:?}");
    assert!(!machine.state().exists());
}

#[tokio::test]
async fn the_demonstration_runs_to_its_end() {
    let machine = Machine::new();
    let told = machine.run(&["demo", "--exit"]).await.exits(0).stdout;
    for said in [
        "100 DevEUIs registered",
        "most requests in flight at once: 10",
        "and so wasted: 0",
        "TEELF ,OLLEH",
        "= 113 servers",
        "12 hosts now, 24 of 120 servers free: 20.0 %, and 15 % is wanted",
        "1  debian_12  c3.small.x86  am6 ",
        "(OutOfCapacity: The facility am6 has no provisionable c3.small.x86 servers",
        "(Stalled: nothing new for ",
        "Attempt 3: debian_12 on c3.small.x86 in ewr1, 0.5 $/h: came up after ",
        "Deleted: of 2 machines that the vendor has made 0 are alive.",
    ] {
        assert!(told.contains(said), "it does not say {said:?}:\n{told}");
    }
    assert!(!machine.state().exists(), "its folder is its own");
    let left = std::fs::read_dir(machine.home()).unwrap().map(|it| it.unwrap().file_name());
    let left: Vec<_> = left.filter(|name| name.to_string_lossy().starts_with("muster-demo")).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn a_reader_that_has_gone_away_is_no_error() {
    let (_sim, machine) = world().await;
    let id = machine.run(&words("batch create --size 3000 -o json")).await.exits(0).json();
    let id = id["id"].as_str().unwrap();
    for line in ["completions bash", "openapi", "batch list", &format!("batch show {id} -o plain")] {
        // As `muster … | head -1`: the first line is read, then nothing more.
        let mut command = machine.command(&words(line));
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut String::new()).await.unwrap();
        drop(stdout);
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).await.unwrap();
        let described = said.lines().all(|line| line.starts_with("Batch ")); // `show` says what it shows
        assert!(described, "{line}: {said}");
        let status = tokio::time::timeout(Duration::from_secs(20), child.wait()).await.unwrap().unwrap();
        assert_eq!(status.code(), Some(0), "{line}");
    }
}

#[tokio::test]
async fn a_server_is_refused_where_it_would_be_open_or_in_the_way() {
    let (_sim, machine) = world().await;
    let open = machine.run(&words("serve --listen 0.0.0.0:0")).await;
    open.refuses(2, &["0.0.0.0:0", "without keys", "muster keys create"]);
    machine.run(&words("serve --server http://127.0.0.1:1")).await.refuses(2, &["--server"]);

    let server = machine.serve().await;
    let second = machine.run(&SERVE).await;
    second.refuses(1, &[&server.url, "already", "--state DIR"]);
    let other = Machine::new();
    let taken = server.url.trim_start_matches("http://");
    other.run(&["serve", "--listen", taken]).await.refuses(1, &["cannot listen on", "--listen", "port 0"]);
    // The one that was there is none the worse for it.
    let _list = machine.run(&words("batch list")).await.exits(0);
}

#[tokio::test]
async fn commands_on_a_served_folder_go_through_its_server() {
    let (sim, machine) = world().await;
    let server = machine.serve().await;
    let refused = machine.run(&["batch", "create", "--size", "3", "--provider", sim.url()]).await;
    refused.refuses(2, &["--provider", &server.url, "leave --provider out"]);
    assert_eq!(sim.stats().traffic.requests, 0);
    let batch = machine.run(&words("batch create --size 30 -o json")).await.exits(0).json();
    assert_eq!(server.batch(batch["id"].as_str().unwrap()).await["deveuis"], batch["deveuis"]);
    assert_nothing_wasted(&[batch], &sim);
}

#[tokio::test]
async fn keys_are_made_listed_and_revoked_and_count_at_once() {
    let (_sim, machine) = world().await;
    let server = machine.serve().await;
    let create = "keys create --tenant acme --scope batches:read --label laptop --expires 30d -o json";
    let made = machine.run(&words(create)).await.exits(0).json();
    let (id, token) = (made["id"].as_str().unwrap(), made["token"].as_str().unwrap());
    let bare = machine.run(&words("keys create --tenant acme --scope batches:write")).await.exits(0);
    assert!(bare.stdout.starts_with("mk_") && bare.lines().len() == 1, "KEY=$(muster keys create …) works: {bare:?}");

    let client = Machine::new().with("MUSTER_SERVER", &server.url);
    client.run(&words("batch list")).await.refuses(4, &["no key", "MUSTER_KEY"]);
    let client = client.with("MUSTER_KEY", token);
    assert_eq!(client.run(&words("batch list -o plain")).await.exits(0).stdout, "");
    client.run(&words("batch create --size 1")).await.refuses(4, &["batches:write"]);
    client.run(&words("keys list")).await.refuses(4, &["admin"]);

    let list = machine.run(&words("keys list")).await.exits(0);
    let row = list.lines().into_iter().find(|line| line.starts_with(id)).unwrap().to_owned();
    assert!(row.contains("acme") && row.contains("laptop") && row.contains("batches:read"), "{row}");
    assert!(!list.stdout.contains(token.rsplit('_').next().unwrap()), "a secret is shown once");
    let plain = machine.run(&words("keys list -o plain")).await.exits(0);
    assert_eq!(plain.lines().len(), 3, "these two, and the owner's");

    let _revoked = machine.run(&["keys", "revoke", id]).await.exits(0);
    client.run(&words("batch list")).await.refuses(4, &["MUSTER_KEY"]);
    let wrong = client.with("MUSTER_KEY", "mk_nonsense");
    wrong.run(&words("batch list")).await.refuses(4, &["MUSTER_KEY"]);
    for (line, said) in [("--tenant ACME --scope admin", "--tenant"), ("--tenant acme --scope batches:eat", "--scope")]
    {
        machine.run(&words(&format!("keys create {line}"))).await.refuses(2, &[said]);
    }
}

#[tokio::test]
async fn a_server_that_is_away_is_exit_code_5_and_named() {
    let url = nobody().await;
    let machine = Machine::new().with("MUSTER_KEY", "mk_000000000000_x");
    for line in ["batch list", "batch create --size 3", "shout hello", "keys list"] {
        let args = [words(line), vec!["--server", &url]].concat();
        let began = Instant::now();
        machine.run(&args).await.refuses(5, &[&url, "MUSTER_SERVER"]);
        assert!(began.elapsed() < Duration::from_secs(10), "{line}");
    }
    assert!(!machine.state().exists());
}

/// The `muster` command lines of the code blocks in `markdown`, without the prompt, variables
/// before and pipes behind them; inside `$(…)` as well.
fn commands(markdown: &str) -> Vec<String> {
    let mut commands = Vec::new();
    let mut fence: Option<&str> = None;
    let mut joined = String::new();
    for line in markdown.lines() {
        if let Some(language) = line.trim_start().strip_prefix("```") {
            fence = fence.is_none().then_some(language.trim());
            continue;
        }
        if !matches!(fence, Some("sh" | "bash" | "shell" | "console")) {
            continue;
        }
        let line = line.trim().trim_start_matches("$ ");
        if let Some(begun) = line.strip_suffix('\\') {
            joined.push_str(begun);
            continue;
        }
        let line = std::mem::take(&mut joined) + line;
        for piece in pieces(&line) {
            let mut rest = piece.trim();
            while let Some((first, after)) = rest.split_once(' ')
                && first
                    .split_once('=')
                    .is_some_and(|(name, _)| name.chars().all(|it| it.is_ascii_uppercase() || it == '_'))
            {
                rest = after.trim_start();
            }
            if rest.starts_with("muster ") {
                commands.push(rest.to_owned());
            }
        }
    }
    commands
}

/// The simple commands of a line of shell.
fn pieces(line: &str) -> Vec<String> {
    let line = line.replace("$(", "\u{0}").replace(" #", "\u{0}").replace("2>", "\u{0}");
    let (mut pieces, mut quote) = (vec![String::new()], None);
    for it in line.chars() {
        match (quote, it) {
            (None, '|' | '&' | ';' | '>' | '<' | '\u{0}' | ')') | (Some('"'), '\u{0}') => {
                quote = None;
                pieces.push(String::new());
                continue;
            }
            (None, '"' | '\'') => quote = Some(it),
            (Some(open), _) if open == it => quote = None,
            _ => {}
        }
        pieces.last_mut().unwrap().push(it);
    }
    pieces
}

/// The words of a command line; what stands for a value is replaced by one.
fn shell_words(command: &str) -> Vec<String> {
    let (mut words, mut quote) = (vec![String::new()], None);
    for it in command.chars() {
        match (quote, it) {
            (None, ' ') => words.push(String::new()),
            (None, '"' | '\'') => quote = Some(it),
            (Some(open), _) if open == it => quote = None,
            _ => words.last_mut().unwrap().push(it),
        }
    }
    words.retain(|word| !word.is_empty());
    let value = |word: String| match word.trim_start_matches('$').trim_matches(['{', '}', '<', '>']) {
        "ID" | "id" | "BATCH" => ID.to_owned(),
        "CODE" | "code" => "2555B".to_owned(),
        _ => word,
    };
    words.into_iter().map(value).collect()
}

#[test]
fn command_lines_are_found_in_code_blocks() {
    let markdown = "muster not this\n```sh\n$ KEY=1 muster batch list | muster shout # twice\n\
        id=$(muster batch create \\\n  --label 'a | b')\n```\n```json\nmuster nor this\n```\n";
    let found = commands(markdown);
    assert_eq!(found, ["muster batch list", "muster shout", "muster batch create --label 'a | b'"]);
    assert_eq!(shell_words(&found[2]), ["muster", "batch", "create", "--label", "a | b"]);
}

#[test]
fn every_command_line_of_the_readme_is_understood() {
    let readme = concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md");
    let found = commands(&std::fs::read_to_string(readme).unwrap());
    assert!(!found.is_empty(), "the README shows no command");
    for command in found {
        if let Err(error) = Cli::try_parse_from(shell_words(&command)) {
            assert!(!error.use_stderr(), "README.md: {command}\n{error}");
        }
    }
}
