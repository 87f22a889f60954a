//! The vendor's catalogue, as it is handed on.

use serde_json::{Value, json};
use simulators::packet::{self, Catalog, Request};

use crate::common::{NOON, World, at, field, text};

const SYSTEMS: &str = "/api/v1/catalog/operating-systems";
const PLANS: &str = "/api/v1/catalog/plans";
const FACILITIES: &str = "/api/v1/catalog/facilities";

fn named<'a>(list: &'a Value, key: &str, name: &str) -> &'a Value {
    let items = list["items"].as_array().unwrap();
    items.iter().find(|it| it[key] == name).unwrap_or_else(|| panic!("{name}: {list}"))
}

#[tokio::test]
async fn the_catalogue_is_told_with_what_cannot_be_used_of_it() {
    let world = World::new().await;
    let client = world.client("acme").await;
    let systems = client.get(SYSTEMS).await.expect(200).json();
    let debian = named(&systems, "slug", "debian_12");
    assert_eq!(
        (&debian["distro"], &debian["version"], &debian["name"]),
        (&json!("debian"), &json!("12"), &json!("Debian 12"))
    );
    assert!(debian["provisionable_on"].as_array().unwrap().contains(&json!("c3.small.x86")));
    let plans = client.get(PLANS).await.expect(200).json();
    let small = named(&plans, "slug", "c3.medium.x86");
    let told = ["class", "price", "memory_gb", "cores", "legacy"].map(|key| &small[key]);
    assert_eq!(told, [&json!("c3.medium.x86"), &json!(1.1), &json!(64.0), &json!(24), &json!(false)]);
    assert!(small["available_in"].as_array().unwrap().contains(&json!("ewr1")));
    let facilities = client.get(FACILITIES).await.expect(200).json();
    let newark = named(&facilities, "code", "ewr1");
    assert_eq!(
        (&newark["metro"], &newark["name"]),
        (&json!({ "code": "ny", "name": "New York" }), &json!("Parsippany, NJ"))
    );

    for (list, key, unusable) in [(&systems, "slug", "os"), (&plans, "slug", "plan"), (&facilities, "code", "facility")]
    {
        assert_eq!(list["read_at"], json!(NOON));
        assert_eq!(list["next_cursor"], Value::Null);
        assert!(field(list["items"].as_array().unwrap(), key).is_sorted());
        let others = list["unusable"].as_array().unwrap();
        assert!(others.iter().all(|it| it[unusable].is_string()), "{others:?}");
    }
    let texts = field(plans["unusable"].as_array().unwrap(), "text");
    assert!(texts.iter().any(|it| it.starts_with("bandwidth: ")), "{texts:?}");
}

#[tokio::test]
async fn it_is_as_old_as_the_caller_allows_and_no_older() {
    let world = World::new().await;
    let client = world.client("acme").await;
    let read_at = async |query: &str| text(&client.get(&format!("{PLANS}{query}")).await.expect(200).json()["read_at"]);
    let asked = || world.sim.stats().requests(Request::Plans);
    assert_eq!((read_at("").await, asked()), (at(0), 1));
    world.pass(299);
    for query in ["", "?max_age=300", "?max_age=3600"] {
        assert_eq!((read_at(query).await, asked()), (at(0), 1), "{query}");
    }
    world.pass(2);
    assert_eq!((read_at("?max_age=302").await, asked()), (at(0), 1));
    assert_eq!((read_at("").await, asked()), (at(301), 2));
    assert_eq!((read_at("?max_age=0").await, asked()), (at(301), 3), "0 is always a new one");
    world.pass(7);
    assert_eq!((read_at("?max_age=7").await, asked()), (at(308), 4));
    assert_eq!((read_at("?max_age=8").await, asked()), (at(308), 4));
}

#[tokio::test]
async fn where_it_is_too_much_for_one_answer_there_is_a_next_one() {
    let builtin = Catalog::builtin();
    let plans = (0..400).map(|number| {
        let mut plan = builtin.plans.iter().find(|it| it["slug"] == "c3.small.x86").unwrap().clone();
        (plan["slug"], plan["name"]) = (json!(format!("p{number:04}")), json!("\"".repeat(2000)));
        plan
    });
    let unusable = (0..4000).map(|number| json!({ "slug": format!("traffic{number:04}"), "specs": {} }));
    let catalog = Catalog { plans: plans.chain(unusable).collect(), ..builtin.clone() };
    let world = World::with(packet::Config { catalog: Some(catalog), ..packet::Config::default() }).await;
    let client = world.client("acme").await;
    let first = client.get(PLANS).await.expect(200);
    assert!(first.json()["items"].as_array().unwrap().len() < 400);
    assert!(!first.json()["unusable"].as_array().unwrap().is_empty());
    let (mut path, mut slugs) = (PLANS.to_owned(), Vec::new());
    loop {
        let reply = client.get(&path).await.expect(200);
        // As the load balancer counts it.
        let escaped = serde_json::to_string(&reply.text()).unwrap().len();
        assert!(escaped <= 900_000, "{escaped}");
        slugs.extend(field(reply.json()["items"].as_array().unwrap(), "slug"));
        match reply.next_link() {
            Some(next) => path = next,
            None => break,
        }
    }
    let expected: Vec<_> = (0..400).map(|number| format!("p{number:04}")).collect();
    assert_eq!(slugs, expected);
}
