//! Whether the embedded store counts as DynamoDB does what devices ask of it.

use anyhow::ensure;
use aws_sdk_dynamodb::types::{Put, TransactWriteItem};
use kit::dynamo::{DEFAULT_PREFIX, Item, TableDef, embedded::Embedded, s};

use crate::meter::{Meter, size};

/// Checks it at the edges of the units: a write is whole kilobytes of the larger of the item before and
/// after it, twice that in a transaction, and a strongly consistent read whole 4 KB.
///
/// Source: "DynamoDB read and write operations" and "Amazon DynamoDB Transactions: How it works" in
/// AWS's documentation.
pub async fn check_rounding() -> anyhow::Result<()> {
    const EDGES: TableDef = TableDef::new("edges");
    let meter = Meter::default();
    let store = meter.store(&Embedded::memory()?.store(DEFAULT_PREFIX));
    store.create_tables(&[&EDGES]).await?;
    let (client, table) = (store.client(), store.table(&EDGES));
    let key = |sk: &str| Item::from([("pk".to_owned(), s("p")), ("sk".to_owned(), s(sk))]);
    // Of so many bytes, names and keys included.
    let item = |sk: &str, bytes: usize| {
        let mut item = key(sk);
        item.insert("text".to_owned(), s("x".repeat(bytes - "pk".len() - "p".len() - "sk".len() - sk.len() - 4)));
        item
    };
    ensure!(size(&item("1", 700)) == 700, "an item's size is not what it should be");
    let put = |sk: &str, bytes: usize| {
        let put = Put::builder().table_name(&table).set_item(Some(item(sk, bytes))).build()?;
        anyhow::Ok(TransactWriteItem::builder().put(put).build())
    };
    let is = |what: &str, reads: f64, writes: f64| {
        let used = meter.take();
        let same = (used.reads - reads).abs() < 1e-9 && (used.writes - writes).abs() < 1e-9;
        ensure!(same, "the embedded store does not count as DynamoDB does: {what} takes {used:?}");
        Ok(())
    };
    meter.take();
    client.transact_write_items().transact_items(put("1", 1024)?).transact_items(put("2", 1025)?).send().await?;
    is("to write 1 KB, and a byte more, in a transaction", 0.0, 6.0)?;
    client.transact_write_items().transact_items(put("2", 100)?).send().await?;
    is("to write less where there was more", 0.0, 4.0)?;
    client.put_item().table_name(&table).set_item(Some(item("3", 4096))).send().await?;
    is("to write 4 KB on its own", 0.0, 4.0)?;
    let get = client.get_item().table_name(&table).set_key(Some(key("3"))).consistent_read(true);
    get.clone().send().await?;
    is("to read 4 KB", 1.0, 0.0)?;
    client.put_item().table_name(&table).set_item(Some(item("3", 4097))).send().await?;
    is("to write a byte more", 0.0, 5.0)?;
    get.send().await?;
    is("to read a byte more", 2.0, 0.0)?;
    client.delete_item().table_name(&table).set_key(Some(key("3"))).send().await?;
    is("to delete that", 0.0, 5.0)
}
