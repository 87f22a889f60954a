//! What was decided: what is over, what holds, and what waits for its outcome.

use std::time::Duration;

use autoscaler::{
    decision::{Decision, Outcome, Reason},
    machine::{Pending, State},
    samples::{Slot, time},
};
use kit::testing::Client;

use crate::common::{NOON, SLOT, World, decided, field, path, spec, state};

fn at(slots: &[Slot]) -> Vec<String> {
    slots.iter().map(|slot| time(*slot).to_string()).collect()
}

async fn times(client: &Client, query: &str) -> Vec<String> {
    field(&client.all(&path("eu-1", &format!("/decisions{query}"))).await, "at")
}

/// One that holds since two slots ago, and one before it whose request is not settled; between them
/// one that is over.
fn waiting() -> State {
    let mut it = state(SLOT - 9..=SLOT, 90);
    let mut holds = Decision::new(SLOT - 2, Reason::ScaleUnknown);
    (holds.last, holds.count) = (SLOT, 3);
    it.decision = Some(holds);
    it.pending = Some(Pending {
        slot: SLOT - 5,
        at: NOON.as_second() - 150,
        from: 10,
        delta: 1,
        expected: 11,
        readings: 2,
        outcome: Outcome::Unknown,
        decision: Some(Box::new(Decision {
            outcome: Some(Outcome::Unknown),
            ..Decision::new(SLOT - 5, Reason::ScaledUp)
        })),
    });
    it
}

#[tokio::test]
async fn all_of_them_newest_first_whatever_the_size_of_a_page() {
    let world = World::of(Vec::new()).await;
    let client = world.client().await;
    world.put("eu-1", waiting()).await;
    let mut stored: Vec<_> = [3, 7, 8, 20].map(|age| Decision::new(SLOT - age, Reason::InFlight)).to_vec();
    // A tick that could not write its state has left these; what is in the state counts.
    stored.push(Decision::new(SLOT - 2, Reason::InFlight));
    stored.push(Decision::new(SLOT - 5, Reason::InFlight));
    world.put_history("eu-1", &stored).await;
    let expected = at(&[2, 3, 5, 7, 8, 20].map(|age| SLOT - age));
    let page = client.get(&path("eu-1", "/decisions")).await.expect(200);
    let items = page.json()["items"].as_array().unwrap().clone();
    assert_eq!(field(&items, "at"), expected);
    assert_eq!(page.next_link(), None);
    assert_eq!(
        field(&items, "reason"),
        ["ScaleUnknown", "InFlight", "ScaledUp", "InFlight", "InFlight", "InFlight"],
        "what is in the state hides what is stored"
    );
    assert_eq!((&items[0]["count"], &items[0]["until"]), (&3.into(), &time(SLOT).to_string().into()));
    assert_eq!(items[2]["outcome"], "unknown");
    for limit in 1..=7 {
        assert_eq!(times(&client, &format!("?limit={limit}")).await, expected, "{limit}");
        let page = client.get(&path("eu-1", &format!("/decisions?limit={limit}"))).await.expect(200);
        assert_eq!(page.next_link().is_some(), limit < 6, "{limit}");
    }
}

#[tokio::test]
async fn a_filter_is_for_what_is_kept_and_what_holds_alike() {
    let world = World::of(Vec::new()).await;
    let client = world.client().await;
    world.put("eu-1", waiting()).await;
    let stored = [(3, Reason::ScaledUp), (7, Reason::InFlight), (8, Reason::ScaledUp), (20, Reason::ScaleUnknown)];
    world.put_history("eu-1", &stored.map(|(age, reason)| Decision::new(SLOT - age, reason))).await;
    let ages = |ages: &[Slot]| at(&ages.iter().map(|age| SLOT - age).collect::<Vec<_>>());
    for limit in 1..=4 {
        let found = async |query: &str| times(&client, &format!("?{query}&limit={limit}")).await;
        assert_eq!(found("reason=ScaledUp").await, ages(&[3, 5, 8]));
        assert_eq!(found("reason=ScaleUnknown").await, ages(&[2, 20]));
        assert_eq!(found("reason=Frozen").await, ages(&[]));
        let since = |age: Slot| format!("since={}", time(SLOT - age));
        let until = |age: Slot| format!("until={}", time(SLOT - age));
        assert_eq!(found(&since(7)).await, ages(&[2, 3, 5, 7]));
        assert_eq!(found(&until(3)).await, ages(&[3, 5, 7, 8, 20]));
        assert_eq!(found(&format!("{}&{}", since(7), until(5))).await, ages(&[5, 7]));
        assert_eq!(found(&format!("{}&{}&reason=ScaledUp", since(8), until(3))).await, ages(&[3, 5, 8]));
        assert_eq!(found(&format!("{}&{}", since(1), until(0))).await, ages(&[]));
    }
    let question = path("eu-1", &format!("/decisions?limit=1&reason=ScaledUp&since={}", time(SLOT - 8)));
    let link = client.get(&question).await.next_link().unwrap();
    assert!(link.contains("reason=ScaledUp") && link.contains("since=2027-01-15T07%3A56%3A00Z"), "{link}");
}

#[tokio::test]
async fn pages_go_on_while_time_does() {
    let world = World::of(Vec::new()).await;
    let client = world.client().await;
    world.put("eu-1", decided(Reason::WithinTarget)).await;
    let six_weeks = 6 * 7 * 24 * 120;
    let old = [six_weeks - 2, six_weeks - 1, six_weeks, six_weeks + 1].map(|age| SLOT - age);
    world.put_history("eu-1", &old.map(|slot| Decision::new(slot, Reason::InFlight))).await;
    assert_eq!(times(&client, "").await, at(&[SLOT, old[0], old[1], old[2]]), "six weeks");
    let page = client.get(&path("eu-1", "/decisions?limit=2")).await.expect(200);
    assert_eq!(field(page.json()["items"].as_array().unwrap(), "at"), at(&[SLOT, old[0]]));
    // What that page ends with is more than six weeks old when the next one is asked for.
    world.clock.advance(Duration::from_mins(10));
    let page = client.get(&page.next_link().unwrap()).await.expect(200);
    assert_eq!((page.json()["items"].as_array().unwrap().len(), page.next_link()), (0, None));
}

#[tokio::test]
async fn the_history_of_a_deployment_outlives_it() {
    let world = World::of(Vec::new()).await;
    let client = world.client().await;
    world.put_history("eu-1", &[1, 2].map(|age| Decision::new(SLOT - age, Reason::InFlight))).await;
    assert_eq!(times(&client, "?limit=1").await, at(&[SLOT - 1, SLOT - 2]));
    client.get(&path("us-1", "/decisions")).await.problem(404, "not-found");
}

#[tokio::test]
async fn what_ticks_have_decided_is_all_there_once() {
    let world = World::of(vec![spec("eu-1", 10, "15", 10, 90)]).await;
    let client = world.client().await;
    for _ in 0..8 {
        world.ticks(1).await;
        let items = client.all(&path("eu-1", "/decisions?limit=2")).await;
        let made: u64 = items.iter().map(|it| it["count"].as_u64().unwrap()).sum();
        let slots = (world.clock.now().as_second() - NOON.as_second()) / 30;
        assert_eq!(i64::try_from(made).unwrap(), slots, "{items:?}");
    }
    let up = client.all(&path("eu-1", "/decisions?reason=ScaledUp")).await;
    assert_eq!((up.len(), &up[0]["outcome"]), (1, &"applied".into()));
}

#[tokio::test]
async fn a_cursor_belongs_to_its_tenant_and_its_query() {
    let world = World::of(Vec::new()).await;
    let client = world.client().await;
    for name in ["eu-1", "us-1"] {
        world.put(name, decided(Reason::WithinTarget)).await;
        world.put_history(name, &[1, 2].map(|age| Decision::new(SLOT - age, Reason::InFlight))).await;
    }
    let question = "/decisions?limit=1&since=2027-01-15T07:00:00Z&until=2027-01-15T09:00:00Z&reason=InFlight";
    let page = client.get(&path("eu-1", question)).await.expect(200).json();
    let cursor = page["next_cursor"].as_str().unwrap();
    client.get(&format!("{}&cursor={cursor}", path("eu-1", question))).await.expect(200);
    let other = Client::new(&world.app, &world.access, "other", &["autoscaler:read"]).await;
    other.get(&format!("{}&cursor={cursor}", path("eu-1", question))).await.problem(400, "bad-cursor");
    for another in [
        path("us-1", question),
        path("eu-1", &question.replace("07:00:00", "07:00:01")),
        path("eu-1", &question.replace("09:00:00", "09:00:01")),
        path("eu-1", &question.replace("InFlight", "Cooldown")),
        "/api/v1/deployments?limit=1".to_owned(),
    ] {
        client.get(&format!("{another}&cursor={cursor}")).await.problem(400, "bad-cursor");
    }
    let page = client.get("/api/v1/deployments?limit=1").await.expect(200).json();
    let cursor = page["next_cursor"].as_str().unwrap();
    client.get(&format!("/api/v1/deployments?limit=1&state=ok&cursor={cursor}")).await.problem(400, "bad-cursor");
    other.get(&format!("/api/v1/deployments?limit=1&cursor={cursor}")).await.problem(400, "bad-cursor");
}
