//! Requests that cannot be done: each has its status and a problem that helps, and leaves nothing
//! behind. None of them is our fault, so none is a 5xx.

use axum::body::Body;
use http::{Method, header};
use kit::paging::Binding;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::common::{DEVICES, World, at, launch, path, text};

/// A body that must be refused with 422, at which pointer, and with which words.
type Wrong = (Value, &'static str, &'static str);

fn wrong_values() -> Vec<Wrong> {
    let whole = |name: &'static str, pointer: &'static str, range: &'static str, others: [i64; 2]| {
        let values = [json!(others[0]), json!(others[1]), json!(1.5), json!(-1), json!(1e300)];
        values.map(|value| (json!({ name: value }), pointer, range))
    };
    let text = "expected a string";
    let mut wrong: Vec<Wrong> = [
        whole("ttl_seconds", "/ttl_seconds", "from 600 to 31536000", [599, 31_536_001]),
        whole("max_attempts", "/max_attempts", "from 1 to 50", [0, 51]),
        whole("provision_timeout_seconds", "/provision_timeout_seconds", "from 60 to 21600", [59, 21_601]),
        whole("stall_timeout_seconds", "/stall_timeout_seconds", "from 30 to 21600", [29, 21_601]),
    ]
    .into_iter()
    .flatten()
    .collect();
    for name in ["-a", "a-", "a b", "ä", "", ".", "a..b", &"a".repeat(64), &"a.".repeat(127)] {
        wrong.push((json!({ "hostname": name }), "/hostname", "RFC 1123"));
    }
    for name in ["", " a", "a ", "a\u{7}b", &"x".repeat(101)] {
        wrong.extend([
            (json!({ "os": { "distro": name } }), "/os/distro", "1 to 100 characters"),
            (json!({ "os": { "version": name } }), "/os/version", "1 to 100 characters"),
            (json!({ "os": { "slug": name } }), "/os/slug", "1 to 100 characters"),
            (json!({ "plan": { "class": name } }), "/plan/class", "1 to 100 characters"),
            (json!({ "plan": { "slug": name } }), "/plan/slug", "1 to 100 characters"),
            (json!({ "facility": { "codes": ["a", name] } }), "/facility/codes/1", "1 to 100 characters"),
            (json!({ "facility": { "features": [name] } }), "/facility/features/0", "1 to 100 characters"),
            (json!({ "facility": { "metros": [name] } }), "/facility/metros/0", "1 to 100 characters"),
            (json!({ "tags": ["a", "b", name] }), "/tags/2", "1 to 100 characters"),
            (json!({ "ssh_keys": [name] }), "/ssh_keys/0", "1 to 100 characters"),
        ]);
    }
    for number in [json!(0), json!(-1), json!(1_000_001), json!(1e300)] {
        wrong.push((
            json!({ "plan": { "max_price_per_hour": number } }),
            "/plan/max_price_per_hour",
            "US dollars an hour",
        ));
        wrong.push((json!({ "plan": { "min_memory_gb": number } }), "/plan/min_memory_gb", "send GB"));
    }
    for number in [json!(0), json!(100_001), json!(2.5)] {
        wrong.push((json!({ "plan": { "min_cores": number } }), "/plan/min_cores", "from 1 to 100000"));
    }
    for time in ["tomorrow", "2030-01-01", "2030-01-01T00:00:00", "", &at(0), &at(-1)] {
        wrong.push((json!({ "termination_time": time }), "/termination_time", "send"));
    }
    wrong.extend([
        (json!({ "tags": vec!["a"; 21] }), "/tags", "up to 20"),
        (json!({ "ssh_keys": vec!["a"; 51] }), "/ssh_keys", "up to 50"),
        (json!({ "facility": { "codes": vec!["a"; 51] } }), "/facility/codes", "up to 50"),
        (json!({ "tags": ["muster:mine"] }), "/tags/0", "take another"),
        (json!({ "tags": ["Muster:"] }), "/tags/0", "take another"),
        (json!({ "userdata": "x".repeat(65_537) }), "/userdata", "65536"),
        (json!({ "termination_time": at(900), "ttl_seconds": 900 }), "/ttl_seconds", "one of the two"),
        (json!({ "provision_timeout_seconds": 60, "stall_timeout_seconds": 61 }), "/stall_timeout_seconds", "60"),
        (json!({ "hostname": 7 }), "/hostname", text),
        (json!({ "os": "debian" }), "/os", "expected an object with distro"),
        (json!({ "os": { "slug": ["a"] } }), "/os/slug", text),
        (json!({ "plan": { "max_price_per_hour": "1" } }), "/plan/max_price_per_hour", "number"),
        (json!({ "facility": { "codes": "ewr1" } }), "/facility/codes", "expected a sequence"),
        (json!({ "facility": { "codes": [7] } }), "/facility/codes/0", text),
        (json!({ "tags": "a" }), "/tags", "expected a sequence"),
        (json!({ "userdata": ["a"] }), "/userdata", text),
        (json!({ "ephemeral": "yes" }), "/ephemeral", "expected a boolean"),
        (json!({ "max_attempts": "3" }), "/max_attempts", "number"),
        (json!({ "termination_time": 7 }), "/termination_time", text),
        (json!({ "hostnam": "a" }), "/hostnam", "unknown field `hostnam`"),
        (json!({ "tenant": "globex" }), "/tenant", "unknown field `tenant`"),
        (json!({ "os": { "name": "a" } }), "/os/name", "unknown field `name`"),
        (json!({ "plan": { "memory": 1 } }), "/plan/memory", "unknown field `memory`"),
        (json!({ "facility": { "code": "a" } }), "/facility/code", "unknown field `code`"),
        (json!([]), "", "object"),
        (json!("web-1"), "", "object"),
    ]);
    wrong
}

#[tokio::test]
async fn every_value_that_is_not_allowed_is_named_with_what_would_be_and_nothing_begins() {
    let world = World::new().await;
    let client = world.client("acme").await;
    let values = wrong_values();
    assert!(values.len() > 100);
    for (body, pointer, words) in values {
        for path in [DEVICES.to_owned(), path("plan", "")] {
            let problem = client.post(&path, &body).await.problem(422, "invalid-input");
            let errors = problem["errors"].as_array().unwrap();
            let named = errors.iter().find(|it| it["pointer"] == pointer);
            let named = named.unwrap_or_else(|| panic!("{pointer} of {body:.300}: {problem}"));
            assert!(text(&named["detail"]).contains(words), "{words:?} for {body:.300}: {problem}");
        }
    }
    assert_eq!(world.items().await.len(), 0);
    assert_eq!(world.sim.stats().traffic.requests, 0, "the vendor heard nothing of it");
}

#[tokio::test]
async fn all_that_is_wrong_is_said_at_once_and_not_at_length() {
    let world = World::new().await;
    let client = world.client("acme").await;
    let body = json!({ "hostname": "-", "tags": ["muster:x"], "max_attempts": 0, "os": { "slug": "" } });
    let problem = client.post(DEVICES, body).await.problem(422, "invalid-input");
    let pointers: Vec<_> = problem["errors"].as_array().unwrap().iter().map(|it| text(&it["pointer"])).collect();
    assert_eq!(pointers, ["/hostname", "/os/slug", "/tags/0", "/max_attempts"]);

    // The client of these tests refuses a problem that nobody would read.
    let body = json!({ "facility": { "codes": vec![""; 50], "features": vec![""; 50], "metros": vec![""; 50] } });
    let problem = client.post(DEVICES, body).await.problem(422, "invalid-input");
    assert_eq!(problem["errors"].as_array().unwrap().len(), 10);
    assert!(text(&problem["detail"]).contains("140 more"), "{problem}");
}

#[tokio::test]
async fn bodies_that_are_no_json_have_their_statuses() {
    let world = World::new().await;
    let client = world.client("acme").await;
    for body in ["nope", "{", "{} {}", "{'hostname':'a'}", "<html></html>", "hostname=a"] {
        client.post(DEVICES, body).await.problem(400, "not-json");
    }
    let big = format!("{{\"userdata\":\"{}\"}}", "x".repeat(2 << 20));
    client.post(DEVICES, big).await.problem(413, "too-large");
    let form = client.request(Method::POST, DEVICES).header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
    client.send(form.body(Body::from("{}")).unwrap()).await.problem(415, "unsupported-media-type");
    assert_eq!(world.items().await.len(), 0);
}

#[tokio::test]
async fn requirements_that_nothing_meets_are_named_with_what_there_is_instead() {
    let world = World::new().await;
    let client = world.client("acme").await;
    let cases = [
        (json!({ "plan": { "slug": "c3.smal.x86" } }), vec!["/plan/slug"], "did you mean `c3.small.x86`"),
        (json!({ "os": { "distro": "debiam" } }), vec!["/os/distro"], "did you mean `debian`"),
        (json!({ "facility": { "codes": ["mars1"] } }), vec!["/facility/codes"], "mars1"),
        (json!({ "facility": { "metros": ["ma"] } }), vec!["/facility/metros"], "ma"),
        (json!({ "facility": { "features": ["gpu"] } }), vec!["/facility/features"], "gpu"),
        (json!({ "plan": { "max_price_per_hour": 0.01 } }), vec!["/plan/max_price_per_hour"], "0.07"),
        (json!({ "plan": { "min_memory_gb": 5000 } }), vec!["/plan/min_memory_gb"], "1024"),
        (json!({ "plan": { "min_cores": 1000 } }), vec!["/plan/min_cores"], "the most that is left is"),
        (
            json!({ "os": { "slug": "debian_12" }, "plan": { "slug": "baremetal_0" } }),
            vec!["/os/slug", "/plan/slug"],
            "the rest of the request leaves no",
        ),
        (json!({ "plan": { "slug": "bandwidth" } }), vec!["/plan/slug"], "(bandwidth: "),
    ];
    for (body, pointers, words) in cases {
        for path in [DEVICES.to_owned(), path("plan", "")] {
            let problem = client.post(&path, &body).await.problem(422, "nothing-fits");
            let errors = problem["errors"].as_array().unwrap();
            let named: Vec<_> = errors.iter().map(|it| text(&it["pointer"])).collect();
            assert_eq!(named, pointers, "{body}: {problem}");
            assert!(errors.iter().any(|it| text(&it["detail"]).contains(words)), "{words:?} for {body}: {problem}");
            assert!(text(&problem["detail"]).contains(&text(&errors[0]["detail"])), "{problem}");
        }
    }
    assert_eq!((world.items().await.len(), world.sim.stats().created), (0, 0));
}

#[tokio::test]
async fn an_id_is_one_of_ours_or_none() {
    let world = World::new().await;
    let client = world.client("acme").await;
    let id = launch(&client, "{}").await;
    let braces = format!("%7B{id}%7D");
    for bad in ["7", "not-an-id", &id[1..], &format!("{id}0"), &braces, "%20", "..%2Fplan"] {
        for more in ["", "/events"] {
            client.get(&path(bad, more)).await.problem(400, "bad-request");
        }
        client.delete(&path(bad, "")).await.problem(400, "bad-request");
        client.post(&path(bad, "/actions"), json!({ "type": "reboot" })).await.problem(400, "bad-request");
    }
    let unknown = Uuid::now_v7().to_string();
    for more in ["", "/events"] {
        client.get(&path(&unknown, more)).await.problem(404, "not-found");
    }
    client.delete(&path(&unknown, "")).await.problem(404, "not-found");
    client.post(&path(&unknown, "/actions"), json!({ "type": "reboot" })).await.problem(404, "not-found");
}

#[tokio::test]
async fn parameters_that_cannot_be_used_are_named() {
    let world = World::new().await;
    let client = world.client("acme").await;
    let id = launch(&client, "{}").await;
    let events = path(&id, "/events");
    let plans = "/api/v1/catalog/plans";
    let cases = [
        (DEVICES, "limit=0", "?limit"),
        (DEVICES, "limit=501", "?limit"),
        (DEVICES, "limit=x", "?limit"),
        (DEVICES, "limit=1&limit=2", "?limit"),
        (DEVICES, "state=active", "?state"),
        (DEVICES, "state=", "?state"),
        (DEVICES, "status=Active", "?status"),
        (&events, "limit=501", "?limit"),
        (&events, "state=Active", "?state"),
        (plans, "max_age=3601", "?max_age"),
        (plans, "max_age=-1", "?max_age"),
        (plans, "max_age=x", "?max_age"),
        (plans, "limit=1", "?limit"),
    ];
    for (path, query, pointer) in cases {
        let problem = client.get(&format!("{path}?{query}")).await.problem(400, "bad-parameter");
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{path}?{query}: {problem}");
    }
}

#[tokio::test]
async fn a_cursor_is_good_for_its_own_list_alone() {
    let world = World::new().await;
    let client = world.client("acme").await;
    let mut launched = Vec::new();
    for _ in 0..2 {
        launched.push(world.active(&client, "{}").await);
    }
    let cursor = async |path: &str| text(&client.get(path).await.expect(200).json()["next_cursor"]);
    let of_list = cursor(&format!("{DEVICES}?limit=1")).await;
    let of_state = cursor(&format!("{DEVICES}?limit=1&state=Active")).await;
    let of_events = cursor(&path(&launched[0], "/events?limit=1")).await;
    let events = path(&launched[0], "/events");
    let others = path(&launched[1], "/events");
    let made = |parts: &[&str], text: &str| Binding::new("acme", parts).cursor(text);
    let catalog = "/api/v1/catalog/plans";
    let cases = [
        (DEVICES, &of_events),
        (DEVICES, &of_state),
        (&*format!("{DEVICES}?state=Failed"), &of_state),
        (&*others, &of_events),
        (&*events, &of_list),
        (catalog, &of_list),
        // Whoever reads the code can make one.
        (DEVICES, &made(&["devices", ""], "RECORD")),
        (DEVICES, &made(&["devices", ""], "")),
        (&*events, &made(&["events", &launched[0]], "now#1#1")),
        (&*events, &made(&["events", &launched[0]], "2030-01-01T00:00:00Z#1")),
        (&*events, &made(&["events", &launched[0]], "2030-01-01T00:00:00Z#1#1#1")),
        (DEVICES, &"%%%".to_owned()),
        (DEVICES, &String::new()),
    ];
    for (path, cursor) in cases {
        let join = if path.contains('?') { '&' } else { '?' };
        client.get(&format!("{path}{join}cursor={cursor}")).await.problem(400, "bad-cursor");
    }
}

#[tokio::test]
async fn other_methods_are_answered_with_those_that_there_are() {
    let world = World::new().await;
    let client = world.client("acme").await;
    let cases = [
        (Method::PUT, DEVICES, "GET, POST"),
        (Method::PATCH, "/api/v1/devices/7", "DELETE, GET"),
        (Method::GET, "/api/v1/devices/plan", "POST"),
        (Method::GET, "/api/v1/devices/7/actions", "POST"),
        (Method::POST, "/api/v1/catalog/plans", "GET"),
    ];
    for (method, path, allow) in cases {
        let reply = client.send(client.request(method, path).body(Body::empty()).unwrap()).await;
        assert_eq!(reply.header("allow"), allow, "{path}");
        reply.problem(405, "method-not-allowed");
    }
}
