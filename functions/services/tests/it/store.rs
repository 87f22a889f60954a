//! What the store promises to those who race each other, or hold much.

use std::collections::BTreeSet;

use jiff::SignedDuration;
use kit::dynamo::{AttributeValue, Item};
use services::{
    alert::{Notice, Phase, Silence},
    notify::Notifier,
    poll::Members,
    server::{Rollup, ServiceName},
    store::{Channel, Claim, Kept, Outgoing, Record, ServiceStore, Subject},
    worker::sample,
};
use simulators::cpx;
use uuid::Uuid;

use crate::{
    common::{NOON, World},
    worker::well,
};

const MINUTE: SignedDuration = SignedDuration::from_mins(1);

fn auth() -> ServiceName {
    ServiceName::try_from("AuthService".to_owned()).unwrap()
}

async fn record(records: &ServiceStore) -> Record {
    let subject = Subject::Service(auth());
    records.records().await.unwrap().into_iter().find(|it| it.subject == subject).unwrap()
}

/// A world after its first minute, and what is kept of a service in it.
async fn kept() -> (World, ServiceStore, Subject, Kept) {
    let world = World::new(well()).await;
    world.minute(&Notifier::default()).await;
    let records = world.records();
    let Record { subject, kept, .. } = record(&records).await;
    (world, records, subject, kept)
}

fn outgoing(channels: &[Channel]) -> Outgoing {
    Outgoing {
        id: Uuid::now_v7(),
        notice: Notice { from: Phase::Ok, to: Phase::Firing, at: NOON },
        gone: false,
        channels: channels.iter().copied().collect(),
    }
}

#[tokio::test]
async fn a_record_takes_a_minute_once_and_none_before_it() {
    let (_world, records, subject, mut kept) = kept().await;
    kept.min_healthy = 7;
    for earlier in [NOON, NOON - MINUTE] {
        assert!(!records.put_record(&subject, &kept, earlier, None).await.unwrap());
    }
    assert_eq!(record(&records).await.kept.min_healthy, 2);
    assert!(records.put_record(&subject, &kept, NOON + MINUTE, None).await.unwrap());
    assert_eq!(record(&records).await.kept.min_healthy, 7);
}

#[tokio::test]
async fn what_is_told_is_struck_off_where_it_was_and_nothing_else_is() {
    let (_world, records, subject, kept) = kept().await;
    let outgoing = outgoing(&[Channel::Topic, Channel::Webhook]);
    assert!(records.put_record(&subject, &kept, NOON + MINUTE, Some(&outgoing)).await.unwrap());
    // A slow worker strikes off what has given way to this one.
    records.told(&subject, Uuid::now_v7(), &BTreeSet::new()).await.unwrap();
    assert_eq!(record(&records).await.notice.as_ref(), Some(&outgoing));
    let left = BTreeSet::from([Channel::Webhook]);
    records.told(&subject, outgoing.id, &left).await.unwrap();
    assert_eq!(record(&records).await.notice, Some(Outgoing { channels: left, ..outgoing.clone() }));
    records.told(&subject, outgoing.id, &BTreeSet::new()).await.unwrap();
    assert_eq!(record(&records).await.notice, None);
}

#[tokio::test]
async fn a_snapshot_that_is_there_stays_as_it_is() {
    let (_world, records, _, kept) = kept().await;
    let [first] = &kept.recent[..] else { panic!("one minute") };
    records.put_snapshot(&auth(), &sample(NOON, &Rollup::NONE)).await.unwrap();
    let history = records.history(&auth(), NOON - MINUTE, NOON + MINUTE).await.unwrap();
    assert_eq!(history.iter().collect::<Vec<_>>(), [first]);
}

#[tokio::test]
async fn only_an_alert_that_is_there_can_be_silenced() {
    let (_world, records, ..) = kept().await;
    let silence = Silence { until: NOON + MINUTE, reason: "x".to_owned(), by: "y".to_owned(), at: NOON };
    let nobody = Subject::Service(ServiceName::try_from("NoService".to_owned()).unwrap());
    for silence in [Some(&silence), None] {
        assert!(!records.silence(&nobody, silence).await.unwrap());
    }
    assert_eq!(records.records().await.unwrap().len(), 3);
}

#[tokio::test]
async fn the_end_of_a_minute_is_not_the_end_of_the_next_one() {
    let (_world, records, ..) = kept().await;
    let (first, second) = (NOON + MINUTE, NOON + MINUTE * 2);
    assert_eq!(records.claim(first, first).await.unwrap(), Claim::Ours);
    assert_eq!(records.claim(second, second).await.unwrap(), Claim::Ours);
    // The worker of the first one was slow, that of the second one dies.
    records.done(first).await.unwrap();
    assert_eq!(records.claim(second, second + MINUTE).await.unwrap(), Claim::Ours);
    records.done(second).await.unwrap();
    assert_eq!(records.claim(second, second + MINUTE * 9).await.unwrap(), Claim::Taken);
}

/// A Query answers at most a megabyte.
#[tokio::test]
async fn what_is_too_much_for_one_answer_is_read_to_its_end() {
    let world = World::new(cpx::Config { servers: 40, ..cpx::Config::default() }).await;
    let notifier = Notifier::default();
    for _ in 0..8 {
        world.minute(&notifier).await;
    }
    let records = world.records();
    let all = async || {
        let (services, members) = (records.records().await.unwrap(), records.members().await.unwrap());
        let name = services[1].subject.service().unwrap();
        let history = records.history(name, NOON, NOON + MINUTE * 9).await.unwrap();
        (services, members, history)
    };
    let before = all().await;
    assert!(before.0.len() > 7 && before.1.len() == 40 && before.2.len() == 8, "{before:?}");
    let (client, table) = (world.store.client(), world.store.table(&services::TABLE));
    let items = client.scan().table_name(&table).into_paginator().items().send();
    let history = format!("#{}", before.0[1].subject.service().unwrap());
    for mut item in items.collect::<Result<Vec<Item>, _>>().await.unwrap() {
        let pk = item["pk"].as_s().unwrap();
        if pk.starts_with("SERVER#") || (pk.starts_with("HISTORY#") && !pk.ends_with(&history)) {
            continue;
        }
        item.insert("padding".to_owned(), AttributeValue::S("x".repeat(150_000)));
        client.put_item().table_name(&table).set_item(Some(item)).send().await.unwrap();
    }
    assert_eq!(all().await, before);
}

#[tokio::test]
async fn where_servers_belong_is_as_it_was_written_last() {
    let records = World::new(well()).await.records();
    let members = |servers: &[(u8, &str)]| -> Members {
        let member = |&(n, name): &(u8, &str)| ([10, 58, 1, n].into(), ServiceName::try_from(name.to_owned()).unwrap());
        servers.iter().map(member).collect()
    };
    let mut before = Members::new();
    for servers in [
        &[(1, "AuthService"), (2, "AuthService"), (3, "GeoService")][..],
        // One is new, one moves, one is gone; then a service is.
        &[(1, "AuthService"), (3, "AuthService"), (4, "GeoService")],
        &[(4, "GeoService")],
    ] {
        let after = members(servers);
        records.put_members(&before, &after).await.unwrap();
        before = records.members().await.unwrap();
        assert_eq!(before, after);
    }
}
