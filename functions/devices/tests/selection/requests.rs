//! The body of a request: what is allowed, and what is said about the rest.

use devices::request::{CreateDevice, Request};
use jiff::ToSpan;
use serde_json::{Value, json};

use crate::common::{check, nothing, now, request};

/// The pointers of all that is wrong.
fn pointers(body: &Value) -> Vec<String> {
    check(body).err().unwrap_or_default().into_iter().map(|(pointer, _)| pointer).collect()
}

fn allowed(bodies: &[Value]) {
    for body in bodies {
        assert_eq!(pointers(body), Vec::<String>::new(), "{body:.200}");
    }
}

/// Each body has this one fault.
fn refused(pointer: &str, bodies: &[Value]) {
    for body in bodies {
        assert_eq!(pointers(body), [pointer], "{body:.200}");
    }
}

fn long(length: usize) -> String {
    "x".repeat(length)
}

#[test]
fn an_empty_body_has_the_defaults() {
    let (found, userdata) = check(&nothing()).unwrap();
    assert_eq!((&found, userdata), (&Request::default(), None));
    let numbers = (found.max_attempts, found.provision_timeout_seconds, found.stall_timeout_seconds, found.ephemeral);
    assert_eq!(numbers, (10, 1800, 600, false));
    // A null is left out.
    let nulls = json!({ "hostname": null, "os": null, "plan": { "slug": null }, "facility": { "codes": null },
        "tags": null, "userdata": null, "ttl_seconds": null, "ephemeral": null, "max_attempts": null });
    assert_eq!(request(&nulls), Request::default());
}

#[test]
fn a_full_body_is_kept_and_stored() {
    let body = json!({
        "hostname": "db-1.example.org",
        "os": { "distro": "debian", "version": "12", "slug": "debian_12" },
        "plan": {
            "class": "c3", "slug": "c3.small.x86", "max_price_per_hour": 0.5, "min_memory_gb": 0.5, "min_cores": 4,
        },
        "facility": { "codes": ["ewr1", "ams1"], "features": ["layer_2"], "metros": ["ny"] },
        "tags": ["team:db", "x"], "ssh_keys": ["4a5b"], "termination_time": "2026-03-01T14:00:00+01:00",
        "ephemeral": true, "max_attempts": 3, "provision_timeout_seconds": 900, "stall_timeout_seconds": 300,
    });
    let found = request(&body);
    assert_eq!(found.termination_time.unwrap(), now() + 1.hour());
    assert_eq!(found.plan.max_price_per_hour.unwrap().micros(), 500_000);
    let stored = serde_json::to_value(&found).unwrap();
    let mut expected = body;
    expected["facility"]["codes"] = json!(["ams1", "ewr1"]);
    expected["termination_time"] = json!("2026-03-01T13:00:00Z");
    assert_eq!(stored, expected);
    assert_eq!(serde_json::from_value::<Request>(stored).unwrap(), found);
    // What another version has stored is read, too.
    let other = json!({ "max_attempts": 3, "new": true, "os": { "new": 1 } });
    assert_eq!(serde_json::from_value::<Request>(other).unwrap(), Request { max_attempts: 3, ..Request::default() });
}

#[test]
fn everything_that_is_wrong_is_said_at_once() {
    let body = json!({
        "hostname": "-", "os": { "slug": "" }, "plan": { "max_price_per_hour": 0, "min_cores": 0 },
        "facility": { "codes": ["ok", " "], "metros": ["\u{7}"] }, "tags": ["a", "muster:1", ""], "ssh_keys": [""],
        "termination_time": "soon", "ttl_seconds": 1, "max_attempts": 0, "provision_timeout_seconds": 60,
        "stall_timeout_seconds": 61,
    });
    let expected = [
        "/hostname",
        "/os/slug",
        "/plan/max_price_per_hour",
        "/plan/min_cores",
        "/facility/codes/1",
        "/facility/metros/0",
        "/tags/1",
        "/tags/2",
        "/ssh_keys/0",
        "/termination_time",
        "/ttl_seconds",
        "/ttl_seconds",
        "/max_attempts",
        "/stall_timeout_seconds",
    ];
    assert_eq!(pointers(&body), expected);
}

#[test]
fn wrong_types_and_unknown_fields_are_named() {
    for (body, pointer) in [
        (json!({ "hostname": 7 }), "/hostname"),
        (json!({ "os": [] }), "/os"),
        (json!({ "os": { "slug": ["debian_12"] } }), "/os/slug"),
        (json!({ "plan": { "min_memory_gb": "32" } }), "/plan/min_memory_gb"),
        (json!({ "facility": { "features": "layer_2" } }), "/facility/features"),
        (json!({ "facility": { "codes": ["ewr1", 7] } }), "/facility/codes/1"),
        (json!({ "ephemeral": "yes" }), "/ephemeral"),
        (json!({ "max_attempts": "10" }), "/max_attempts"),
        (json!({ "size": 1 }), "/size"),
        (json!({ "plan": { "min_memory": 1 } }), "/plan/min_memory"),
    ] {
        let problem = kit::json::parse::<CreateDevice>(body.to_string().as_bytes()).unwrap_err();
        assert_eq!((problem.status, problem.errors[0].pointer.as_str()), (422, pointer), "{body}");
    }
}

#[test]
fn a_host_name_is_as_rfc_1123_has_it() {
    let body = |name: &str| json!({ "hostname": name });
    let label = long(63);
    let longest = [label.as_str(), &label, &label, &long(61)].join(".");
    assert_eq!(longest.len(), 253);
    allowed(&["a", "0", "db-1", "DB.example.org", "3com.com", &longest].map(body));
    let too_long = [label.as_str(), &label, &label, &long(62)].join(".");
    let wrong = ["", ".", "a.", ".a", "a..b", "-a", "a-", "a.-b", "a_b", "a b", "ä", "a\n", &long(64), &too_long];
    refused("/hostname", &wrong.map(body));
}

#[test]
fn names_have_1_to_100_characters_and_no_space_around_them() {
    for (object, field) in [("os", "distro"), ("os", "version"), ("os", "slug"), ("plan", "class"), ("plan", "slug")] {
        let body = |name: &str| json!({ object: { field: name } });
        allowed(&["x", "Ubuntu LTS", "24.04", &"ä".repeat(100)].map(body));
        refused(&format!("/{object}/{field}"), &["", " ", "x ", " x", "a\tb", "\u{1b}[2J", &long(101)].map(body));
    }
}

#[test]
fn lists_have_up_to_50_names() {
    for field in ["codes", "features", "metros"] {
        let body = |names: Vec<String>| json!({ "facility": { field: names } });
        allowed(&[body(vec![]), body(vec![long(100); 50])]);
        refused(&format!("/facility/{field}"), &[body(vec![long(1); 51])]);
        refused(&format!("/facility/{field}/1"), &[body(vec![long(1), long(101)]), body(vec![long(1), String::new()])]);
    }
    let keys = |keys: Vec<String>| json!({ "ssh_keys": keys });
    allowed(&[keys(vec![long(36); 50])]);
    refused("/ssh_keys", &[keys(vec![long(36); 51])]);
    refused("/ssh_keys/0", &[keys(vec![" ".to_owned()])]);
}

#[test]
fn a_tag_is_not_one_of_ours() {
    let body = |tag: &str| json!({ "tags": [tag] });
    allowed(&["muster", "mustered:1", "x:muster:1", "must", "ä", &long(100)].map(body));
    refused("/tags/0", &["muster:1", "muster:", "Muster:1", " muster:1", "", "a\nb", &long(101)].map(body));
    allowed(&[json!({ "tags": vec!["x"; 20] })]);
    refused("/tags", &[json!({ "tags": vec!["x"; 21] })]);
    let other = kit::json::parse::<CreateDevice>(br#"{"tags":["fleet:1","muster:1"]}"#).unwrap().check("fleet", now());
    assert_eq!(other.unwrap_err()[0].0, "/tags/0");
}

#[test]
fn prices_memory_and_cores_have_their_ranges() {
    let body = |field: &str, number: Value| json!({ "plan": { field: number } });
    for (field, right, wrong) in [
        (
            "max_price_per_hour",
            vec![json!(0.000_001), json!(2), json!(1_000_000)],
            vec![json!(0.000_000_1), json!(1_000_001)],
        ),
        ("min_memory_gb", vec![json!(0.5), json!(1024), json!(1_000_000)], vec![json!(0.0001), json!(1e300)]),
        ("min_cores", vec![json!(1), json!(100_000)], vec![json!(1.5), json!(100_001), json!(u64::MAX)]),
    ] {
        allowed(&right.into_iter().map(|it| body(field, it)).collect::<Vec<_>>());
        let wrong = wrong.into_iter().chain([json!(0), json!(-1)]);
        refused(&format!("/plan/{field}"), &wrong.map(|it| body(field, it)).collect::<Vec<_>>());
    }
}

#[test]
fn numbers_have_their_ranges_and_say_them() {
    for (field, least, most) in
        [("ttl_seconds", 600_u64, 31_536_000_u64), ("max_attempts", 1, 50), ("provision_timeout_seconds", 60, 21_600)]
    {
        let body = |number: Value| json!({ field: number });
        allowed(&[body(json!(least)), body(json!(most))]);
        let wrong = [json!(least - 1), json!(most + 1), json!(-1), json!(1.5), json!(1e30), json!(600.0)];
        refused(&format!("/{field}"), &wrong.map(body));
        let (_, words) = check(&body(json!(0))).unwrap_err().remove(0);
        assert_eq!(words, format!("0 will not do: send a whole number from {least} to {most}"));
    }
}

#[test]
fn a_stall_is_no_longer_than_the_whole() {
    let body = |stall: u32, whole: u32| json!({ "stall_timeout_seconds": stall, "provision_timeout_seconds": whole });
    allowed(&[body(30, 60), body(21_600, 21_600), json!({ "stall_timeout_seconds": 1800 })]);
    refused(
        "/stall_timeout_seconds",
        &[body(61, 60), body(29, 60), body(21_601, 21_600), json!({ "stall_timeout_seconds": 1801 })],
    );
    assert_eq!(request(&json!({ "provision_timeout_seconds": 120 })).stall_timeout_seconds, 120);
}

#[test]
fn an_end_is_in_the_future_and_said_once() {
    let body = |time: &str| json!({ "termination_time": time });
    allowed(&["2026-03-01T12:00:01Z", "2026-03-01T14:30:00+02:00", "2030-01-01T00:00:00.5Z"].map(body));
    let wrong = [
        "2026-03-01T12:00:00Z",
        "2026-03-01T13:00:00+02:00",
        "2026-03-01",
        "2026-03-01T13:00:00",
        "soon",
        "",
        "1772366400",
    ];
    refused("/termination_time", &wrong.map(body));
    refused("/ttl_seconds", &[json!({ "termination_time": "2027-01-01T00:00:00Z", "ttl_seconds": 600 })]);
    assert_eq!(request(&json!({ "ttl_seconds": 600 })).ttl_seconds, Some(600));
}

#[test]
fn userdata_is_passed_on_and_never_shown_or_stored() {
    let body = |text: String| json!({ "userdata": text });
    let secret = "#cloud-config swordfish";
    let input: CreateDevice = kit::json::parse(body(secret.to_owned()).to_string().as_bytes()).unwrap();
    assert!(!format!("{input:?}").contains("swordfish"), "{input:?}");
    let (request, userdata) = input.check("muster", now()).unwrap();
    let userdata = userdata.unwrap();
    assert_eq!((userdata.expose(), format!("{userdata:?}").as_str()), (secret, "Userdata(23 bytes)"));
    assert!(!serde_json::to_string(&request).unwrap().contains("swordfish"));
    assert_eq!(check(&body(String::new())).unwrap().1, None);
    allowed(&[body(long(65_536))]);
    refused("/userdata", &[body(long(65_537)), body("ä".repeat(32_769))]);
    let (_, words) = check(&body("swordfish".repeat(10_000))).unwrap_err().remove(0);
    assert!(words.starts_with("it has 90000 bytes") && !words.contains("swordfish"), "{words}");
}
