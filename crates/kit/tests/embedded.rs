//! `kit::dynamo` with the embedded store: the real SDK, a real database, real processes.
#![cfg(feature = "embedded")]
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use aws_sdk_dynamodb::types::{
    ConditionCheck, Put, PutRequest, ReturnValuesOnConditionCheckFailure, TransactWriteItem, Update, WriteRequest,
};
use jiff::Timestamp;
use kit::dynamo::embedded::{Embedded, Faults, OpenError};
use kit::dynamo::{CancelCode, IndexDef, Item, Lease, Store, StoreError, TableDef, key, n, s, sort_key, was_written};
use uuid::Uuid;

const TABLE: TableDef = TableDef::new("things").with_indexes(&[IndexDef::all("open", "open_pk", "open_sk")]);

async fn memory() -> (Embedded, Store) {
    let embedded = Embedded::memory().unwrap();
    let store = embedded.store("test-");
    store.create_tables(&[&TABLE]).await.unwrap();
    (embedded, store)
}

async fn put_new(store: &Store, sk: &str) -> Result<(), StoreError> {
    let put = store.client().put_item().table_name(store.table(&TABLE)).item("pk", s("a")).item("sk", s(sk));
    let put = put.condition_expression("attribute_not_exists(pk)");
    put.return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld).send().await?;
    Ok(())
}

async fn get(store: &Store, sk: &str) -> Result<Option<Item>, StoreError> {
    store.get(&TABLE, key("a", sk)).await
}

fn new_in_transaction(store: &Store, sk: &str) -> TransactWriteItem {
    let put = Put::builder().table_name(store.table(&TABLE)).item("pk", s("a")).item("sk", s(sk));
    let put = put.condition_expression("attribute_not_exists(pk)").build().unwrap();
    TransactWriteItem::builder().put(put).build()
}

#[tokio::test]
async fn what_is_put_can_be_read_and_queried_through_a_sparse_index() {
    let (_embedded, store) = memory().await;
    put_new(&store, "1").await.unwrap();
    let mark = store.client().update_item().table_name(store.table(&TABLE)).key("pk", s("a")).key("sk", s("2"));
    let mark = mark.update_expression("SET open_pk = :o, open_sk = :k");
    mark.expression_attribute_values(":o", s("open")).expression_attribute_values(":k", s("k")).send().await.unwrap();

    assert!(get(&store, "1").await.unwrap().is_some());
    assert!(get(&store, "9").await.unwrap().is_none());
    let query = store.client().query().table_name(store.table(&TABLE)).index_name("open");
    let query = query.key_condition_expression("open_pk = :o").expression_attribute_values(":o", s("open"));
    let found = query.send().await.unwrap();
    assert_eq!(found.items().len(), 1);
    assert_eq!(found.items()[0]["sk"], s("2"));
}

#[tokio::test]
async fn a_failed_condition_brings_the_item_that_is_there() {
    let (_embedded, store) = memory().await;
    put_new(&store, "1").await.unwrap();
    let error = put_new(&store, "1").await.unwrap_err();
    assert!(error.is_condition_failed() && !error.retryable());
    let StoreError::ConditionFailed { item: Some(item) } = error else { panic!("{error}") };
    assert_eq!(item["sk"], s("1"));
}

#[tokio::test]
async fn a_cancelled_transaction_changes_nothing_and_names_the_item_at_fault() {
    let (_embedded, store) = memory().await;
    put_new(&store, "1").await.unwrap();
    let items = vec![new_in_transaction(&store, "0"), new_in_transaction(&store, "1")];
    let error = store.transact(items).await.unwrap_err();
    assert!(error.is_condition_failed_at(1) && !error.is_condition_failed_at(0), "{error}");
    assert_eq!(error.reason_at(1).unwrap().code, CancelCode::ConditionFailed);
    assert!(get(&store, "0").await.unwrap().is_none());
}

#[tokio::test]
async fn a_partition_is_read_over_all_its_pages_and_in_order() {
    let (embedded, store) = memory().await;
    for number in (0..30).rev() {
        let put = store.client().put_item().table_name(store.table(&TABLE));
        let item = Item::from([("large".to_owned(), s("x".repeat(100 * 1024)))]);
        put.set_item(Some(item.into_iter().chain(key("a", format!("{number:02}"))).collect())).send().await.unwrap();
    }
    store.client().put_item().table_name(store.table(&TABLE)).set_item(Some(key("b", "1"))).send().await.unwrap();
    let before = embedded.counts();
    let items = store.partition(&TABLE, "a").await.unwrap();
    let found: Vec<_> = items.iter().filter_map(sort_key).collect();
    assert_eq!(found, (0..30).map(|number| format!("{number:02}")).collect::<Vec<_>>());
    assert!(embedded.counts().since(&before).calls["Query"] > 1, "3 MB are more than one page");
    assert!(store.partition(&TABLE, "c").await.unwrap().is_empty());
}

#[tokio::test]
async fn a_lease_is_one_owners_until_it_is_over_or_given_back() {
    let (_embedded, store) = memory().await;
    let (here, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
    let at = |seconds: i64| Timestamp::from_second(1_800_000_000 + seconds).unwrap();
    let take =
        async |owner, now, until| store.lease(&TABLE, key("WORKER", "LEASE"), owner, at(now), at(until)).await.unwrap();
    let release = async |owner| store.release(&TABLE, key("WORKER", "LEASE"), owner).await.unwrap();
    assert_eq!(take(here, 0, 10).await, Lease::Ours);
    assert_eq!(take(other, 5, 15).await, Lease::Held(at(10)));
    assert_eq!(take(here, 8, 18).await, Lease::Ours, "renewed");
    assert_eq!(take(other, 18, 28).await, Lease::Held(at(18)), "it lasts up to its end");
    assert_eq!(take(other, 19, 29).await, Lease::Ours);
    release(here).await;
    assert_eq!(take(here, 20, 30).await, Lease::Held(at(29)), "nobody gives back what another one has");
    release(other).await;
    assert_eq!(take(here, 20, 30).await, Lease::Ours);
}

#[tokio::test]
async fn a_write_whose_condition_does_not_hold_is_no_error_to_who_asks_just_that() {
    let (embedded, store) = memory().await;
    assert!(was_written(put_new(&store, "1").await).unwrap());
    assert!(!was_written(put_new(&store, "1").await).unwrap());
    assert!(was_written(store.transact(vec![new_in_transaction(&store, "2")]).await).unwrap());
    let items = vec![new_in_transaction(&store, "3"), new_in_transaction(&store, "2")];
    assert!(!was_written(store.transact(items).await).unwrap());
    drop(embedded);
    let missing = store.client().put_item().table_name("test-nothing").set_item(Some(key("a", "1")));
    assert!(was_written(missing.send().await).is_err());
}

#[tokio::test]
async fn errors_are_told_apart() {
    let (_embedded, store) = memory().await;
    let missing = store.client().get_item().table_name("test-nothing").key("pk", s("a")).key("sk", s("a"));
    let error = StoreError::from(missing.send().await.unwrap_err());
    assert!(matches!(&error, StoreError::TableMissing { .. }), "{error}");

    let large = store.client().put_item().table_name(store.table(&TABLE)).item("pk", s("a")).item("sk", s("1"));
    let error = StoreError::from(large.item("x", s("x".repeat(410 * 1024))).send().await.unwrap_err());
    assert!(matches!(error, StoreError::TooLarge), "{error}");

    let invalid = store.client().get_item().table_name(store.table(&TABLE)).key("pk", s("a"));
    let error = StoreError::from(invalid.send().await.unwrap_err());
    assert!(matches!(error, StoreError::Other { .. }) && !error.retryable(), "{error}");
}

#[tokio::test]
async fn counts_are_in_items_as_they_are_billed() {
    let (embedded, store) = memory().await;
    let before = embedded.counts();
    put_new(&store, "1").await.unwrap();
    put_new(&store, "1").await.unwrap_err();
    get(&store, "1").await.unwrap();
    let name = store.table(&TABLE);
    let check = ConditionCheck::builder().table_name(&name).key("pk", s("a")).key("sk", s("1"));
    let check = check.condition_expression("attribute_exists(pk)").build().unwrap();
    let update = Update::builder().table_name(&name).key("pk", s("a")).key("sk", s("2"));
    let update = update.update_expression("SET x = :x").expression_attribute_values(":x", n(1)).build().unwrap();
    let items = vec![
        TransactWriteItem::builder().condition_check(check).build(),
        TransactWriteItem::builder().update(update).build(),
        new_in_transaction(&store, "3"),
    ];
    store.transact(items).await.unwrap();
    let write = |sk| {
        let put = PutRequest::builder().item("pk", s("a")).item("sk", s(sk)).build().unwrap();
        WriteRequest::builder().put_request(put).build()
    };
    let batch = vec![write("4"), write("5")];
    store.client().batch_write_item().request_items(&name, batch).send().await.unwrap();

    let counts = embedded.counts().since(&before);
    assert_eq!((counts.reads, counts.writes), (1, 2 + 3 + 2));
    let calls: Vec<_> = counts.calls.iter().map(|(name, count)| (name.as_str(), *count)).collect();
    assert_eq!(calls, [("BatchWriteItem", 1), ("GetItem", 1), ("PutItem", 2), ("TransactWriteItems", 1)]);
}

#[tokio::test]
async fn creating_tables_again_keeps_the_items_and_adds_what_a_newer_version_needs() {
    const OLDER: TableDef = TableDef::new("things");
    let embedded = Embedded::memory().unwrap();
    let store = embedded.store("test-");
    store.create_tables(&[&OLDER]).await.unwrap();
    let name = store.table(&TABLE);
    let put = store.client().put_item().table_name(&name).item("pk", s("a")).item("sk", s("1"));
    put.item("open_pk", s("open")).item("open_sk", s("k")).send().await.unwrap();

    store.create_tables(&[&TABLE]).await.unwrap();
    store.create_tables(&[&TABLE]).await.unwrap();

    let query = store.client().query().table_name(&name).index_name("open");
    let query = query.key_condition_expression("open_pk = :o").expression_attribute_values(":o", s("open"));
    assert_eq!(query.send().await.unwrap().count(), 1);
    assert!(get(&store, "1").await.unwrap().is_some());
}

#[tokio::test]
async fn expired_items_go_with_a_sweep_and_others_stay() {
    let (embedded, store) = memory().await;
    for (sk, ttl) in [("old", 1_000_000_000_u64), ("new", 100_000_000_000)] {
        let put = store.client().put_item().table_name(store.table(&TABLE));
        put.item("pk", s("a")).item("sk", s(sk)).item("ttl", n(ttl)).send().await.unwrap();
    }
    assert_eq!(embedded.sweep_expired().await.unwrap(), 1);
    assert!(get(&store, "old").await.unwrap().is_none());
    assert!(get(&store, "new").await.unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn requests_take_no_time_where_time_is_paused() {
    let start = tokio::time::Instant::now();
    let (_embedded, store) = memory().await;
    put_new(&store, "1").await.unwrap();
    tokio::time::timeout(Duration::from_millis(1), get(&store, "1")).await.unwrap().unwrap();
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test]
async fn a_lost_answer_makes_the_sdk_meet_its_own_write() {
    let (embedded, store) = memory().await;
    // One attempt: the caller sees the loss itself, and the write is there.
    let faults = Faults { lost_answer_rate: 1.0, attempts: 1, ..Faults::default() };
    let once = embedded.store_with_faults("test-", faults);
    let error = put_new(&once, "1").await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }) && error.retryable(), "{error}");
    assert!(get(&store, "1").await.unwrap().is_some());

    // Three attempts: the second finds what the first has written.
    let thrice = embedded.store_with_faults("test-", Faults { attempts: 3, ..faults });
    let mut own = 0;
    for sk in 10..40 {
        let sk = sk.to_string();
        let error = put_new(&thrice, &sk).await.unwrap_err();
        assert!(get(&store, &sk).await.unwrap().is_some());
        own += u32::from(error.is_condition_failed());
    }
    // All answers are lost here, so the SDK ends with an error; but with some losses it is a 400.
    assert_eq!(own, 0);
    let some = embedded.store_with_faults("test-", Faults { seed: 3, lost_answer_rate: 0.5, ..Faults::default() });
    for sk in 100..200 {
        if let Err(error) = put_new(&some, &sk.to_string()).await {
            own += u32::from(error.is_condition_failed());
        }
    }
    assert!(own > 10, "{own}");
}

#[tokio::test]
async fn a_transaction_whose_answer_was_lost_is_not_done_twice_and_not_reported_as_failed() {
    let (embedded, store) = memory().await;
    let faults = Faults { seed: 5, lost_answer_rate: 0.3, attempts: 20, ..Faults::default() };
    let lossy = embedded.store_with_faults("test-", faults);
    for sk in 0..50 {
        lossy.transact(vec![new_in_transaction(&lossy, &sk.to_string())]).await.unwrap();
        assert!(get(&store, &sk.to_string()).await.unwrap().is_some());
    }
}

#[tokio::test]
async fn an_error_without_effect_does_nothing() {
    let (embedded, store) = memory().await;
    let faulty = embedded.store_with_faults("test-", Faults { error_rate: 1.0, ..Faults::default() });
    let before = embedded.counts();
    let error = put_new(&faulty, "1").await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
    assert_eq!(embedded.counts(), before);
    assert!(get(&store, "1").await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn latency_is_added_to_every_attempt() {
    let (embedded, _store) = memory().await;
    let slow = embedded.store_with_faults("test-", Faults { latency: Duration::from_secs(2), ..Faults::default() });
    let start = tokio::time::Instant::now();
    put_new(&slow, "1").await.unwrap();
    assert_eq!(start.elapsed().as_secs(), 2);
}

#[tokio::test]
async fn a_store_that_is_away_is_unavailable_until_it_is_back() {
    let (embedded, store) = memory().await;
    embedded.set_away(true);
    let error = put_new(&store, "1").await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }) && error.retryable(), "{error}");
    store.warm(&TABLE).await;
    embedded.set_away(false);
    put_new(&store, "1").await.unwrap();
}

#[cfg(unix)]
#[tokio::test]
async fn the_state_folder_and_its_files_are_private() {
    use std::os::unix::fs::PermissionsExt as _;
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("state/muster");
    let embedded = Embedded::open(&dir).unwrap();
    embedded.store("").create_tables(&[&TABLE]).await.unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&dir), 0o700);
    let mut files: Vec<_> = std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 3, "{files:?}");
    for file in files {
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
}

#[tokio::test]
async fn one_process_owns_the_folder_as_long_as_a_store_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let embedded = Embedded::open(dir.path()).unwrap();
    let store = embedded.store("test-");
    drop(embedded);
    match Embedded::open(dir.path()) {
        Err(error @ OpenError::Locked { pid, .. }) => {
            assert_eq!(pid, Some(std::process::id()));
            assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
        }
        other => panic!("{other:?}"),
    }
    store.create_tables(&[&TABLE]).await.unwrap();
    put_new(&store, "1").await.unwrap();
    drop(store);
    let again = Embedded::open(dir.path()).unwrap().store("test-");
    assert!(get(&again, "1").await.unwrap().is_some());
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused_with_its_name() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("muster.db"), "not a database, but long enough to be taken for one".repeat(20))
        .unwrap();
    let error = Embedded::open(dir.path()).unwrap_err();
    assert!(matches!(error, OpenError::Database { .. }), "{error}");
    assert!(error.to_string().contains("muster.db"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_writers_lose_no_update() {
    let dir = tempfile::tempdir().unwrap();
    let store = Embedded::open(dir.path()).unwrap().store("test-");
    store.create_tables(&[&TABLE]).await.unwrap();
    let writers = (0..100).map(|_| {
        let store = store.clone();
        tokio::spawn(async move {
            let add = store.client().update_item().table_name(store.table(&TABLE)).key("pk", s("a")).key("sk", s("1"));
            let add = add.update_expression("ADD hits :one").expression_attribute_values(":one", n(1));
            add.send().await.unwrap();
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    assert_eq!(get(&store, "1").await.unwrap().unwrap()["hits"], n(100));
}

#[tokio::test]
async fn another_process_can_use_the_store_over_loopback_and_nobody_else() {
    let (embedded, store) = memory().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = embedded.clone();
    let server = tokio::spawn(async move { serving.serve(listener, async { drop(stopped.await) }).await });

    let config = aws_sdk_dynamodb::Config::builder()
        .behavior_version(aws_sdk_dynamodb::config::BehaviorVersion::latest())
        .region(aws_sdk_dynamodb::config::Region::from_static("eu-west-1"))
        .credentials_provider(aws_sdk_dynamodb::config::Credentials::new("x", "x", None, None, "test"))
        .endpoint_url(url)
        .build();
    let remote = Store::new(aws_sdk_dynamodb::Client::from_conf(config), "test-");
    put_new(&remote, "1").await.unwrap();
    assert!(get(&store, "1").await.unwrap().is_some());
    assert!(put_new(&remote, "1").await.unwrap_err().is_condition_failed());
    drop(remote);
    stop.send(()).unwrap();
    server.await.unwrap().unwrap();

    let open = tokio::net::TcpListener::bind("0.0.0.0:0").await.unwrap();
    let refused = embedded.serve(open, async {}).await.unwrap_err();
    assert!(refused.to_string().contains("others can reach"), "{refused}");
}

/// Not a test by itself: the child of the next one, whose environment is its own.
#[tokio::test]
async fn child_that_finds_its_store_in_the_environment() {
    if std::env::var_os("KIT_TEST_FROM_ENV").is_some() {
        let store = Store::from_env().await;
        store.warm(&TABLE).await;
        put_new(&store, "1").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_environment_names_the_store_and_the_prefix() {
    let (embedded, store) = memory().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let child = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_that_finds_its_store_in_the_environment"])
        .env_clear()
        .env("KIT_TEST_FROM_ENV", "1")
        .env("AWS_REGION", "eu-west-1")
        .env("AWS_ACCESS_KEY_ID", "x")
        .env("AWS_SECRET_ACCESS_KEY", "x")
        .env("AWS_ENDPOINT_URL_DYNAMODB", format!("http://{}", listener.local_addr().unwrap()))
        .env("MUSTER_TABLE_PREFIX", "test-")
        .status();
    tokio::select! {
        served = embedded.serve(listener, std::future::pending()) => panic!("{served:?}"),
        status = child => assert!(status.unwrap().success()),
    }
    assert!(get(&store, "1").await.unwrap().is_some());
}

/// Not a test by itself: the child of the next one, in a process of its own.
#[tokio::test]
async fn child_that_writes_until_it_is_killed() {
    let Some(dir) = std::env::var_os("KIT_TEST_STATE") else {
        return;
    };
    let store = Embedded::open(Path::new(&dir)).unwrap().store("test-");
    store.create_tables(&[&TABLE]).await.unwrap();
    for sk in 0.. {
        put_new(&store, &sk.to_string()).await.unwrap();
        println!("\nwritten {sk}");
    }
}

#[tokio::test]
async fn a_killed_process_loses_no_answered_write_and_leaves_the_folder_free() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_that_writes_until_it_is_killed", "--nocapture"])
        .env("KIT_TEST_STATE", dir.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let mut written = (&mut lines).filter_map(|line| line.strip_prefix("written ").map(str::to_owned));
    let mut last: u32 = written.by_ref().take(100).last().unwrap().parse().unwrap();

    match Embedded::open(dir.path()) {
        Err(OpenError::Locked { pid, .. }) => assert_eq!(pid, Some(child.id())),
        other => panic!("{other:?}"),
    }
    child.kill().unwrap(); // SIGKILL
    // What it said before it died counts too.
    for sk in written {
        last = sk.parse().unwrap_or(last);
    }
    child.wait().unwrap();

    let store = Embedded::open(dir.path()).unwrap().store("test-");
    for sk in 0..=last {
        assert!(get(&store, &sk.to_string()).await.unwrap().is_some(), "{sk} of {last}");
    }
}

/// The engine sets WAL mode and leaves `synchronous` alone, so SQLite's own default decides whether
/// a commit waits for the disk. It can be compiled differently; this is the one we link.
#[test]
fn the_linked_sqlite_syncs_every_commit_in_wal_mode_unless_told_otherwise() {
    let dir = tempfile::tempdir().unwrap();
    let connection = rusqlite::Connection::open(dir.path().join("x.db")).unwrap();
    connection.pragma_update(None, "journal_mode", "WAL").unwrap();
    let mode: String = connection.pragma_query_value(None, "journal_mode", |row| row.get(0)).unwrap();
    let synchronous: i64 = connection.pragma_query_value(None, "synchronous", |row| row.get(0)).unwrap();
    assert_eq!((mode.as_str(), synchronous), ("wal", 2 /* FULL */));
}

/// `cargo test -p kit --features embedded --release --test embedded -- --ignored --nocapture`
#[tokio::test]
#[ignore = "a measurement"]
async fn latency() {
    let dir = tempfile::tempdir().unwrap();
    for (name, embedded) in [("memory", Embedded::memory().unwrap()), ("file", Embedded::open(dir.path()).unwrap())] {
        let store = embedded.store("test-");
        store.create_tables(&[&TABLE]).await.unwrap();
        let (mut puts, mut gets) = (Vec::new(), Vec::new());
        for sk in 0..2_000 {
            let sk = sk.to_string();
            let start = Instant::now();
            put_new(&store, &sk).await.unwrap();
            puts.push(start.elapsed());
            let start = Instant::now();
            get(&store, &sk).await.unwrap();
            gets.push(start.elapsed());
        }
        for (what, mut times) in [("put", puts), ("get", gets)] {
            times.sort();
            println!("{name} {what}: median {:?}, p99 {:?}", times[1_000], times[1_980]);
        }
    }
}
