//! What is said of a request that nothing can fulfil.

use devices::{
    catalog::Catalog,
    select::{Impossible, ObstacleKind, impossible},
};
use serde_json::{Value, json};

use crate::common::{catalogue, request};

fn obstacles(body: &Value) -> Vec<(&'static str, ObstacleKind, Vec<String>, String)> {
    let found = impossible(&request(body), &catalogue());
    let obstacles = found.map(|it| it.obstacles).unwrap_or_default();
    obstacles.into_iter().map(|it| (it.pointer, it.kind, it.instead, it.detail)).collect()
}

/// The one obstacle in words.
fn detail(body: &Value) -> String {
    let mut obstacles = obstacles(body);
    assert_eq!(obstacles.len(), 1, "{obstacles:#?}");
    obstacles.remove(0).3
}

fn pointers(body: &Value) -> Vec<&'static str> {
    obstacles(body).into_iter().map(|it| it.0).collect()
}

#[test]
fn what_is_possible_has_no_obstacle() {
    for body in [
        json!({}),
        json!({ "os": { "slug": "debian_12" }, "plan": { "min_cores": 8 }, "facility": { "metros": ["ny"] } }),
        // One of the codes is enough.
        json!({ "facility": { "codes": ["ewr9", "ewr1"] } }),
    ] {
        assert_eq!(impossible(&request(&body), &catalogue()), None, "{body}");
    }
}

#[test]
fn a_mistyped_name_is_told_its_neighbour() {
    let words = detail(&json!({ "os": { "slug": "debian_13" } }));
    let expected = "there is no operating system with the slug `debian_13`; did you mean `debian_12`? There are \
                    debian_12, centos_7, ubuntu_24_04";
    assert_eq!(words, expected);
    let words = detail(&json!({ "facility": { "codes": ["ewr2"] }, "os": { "distro": "ubuntu" } }));
    assert_eq!(words, "there is no facility in `ewr2`; did you mean `ewr1`? There are ewr1, ams1, dc13, sv15");
    let found = obstacles(&json!({ "plan": { "slug": "C3.Smal.x86" } }));
    assert_eq!((found[0].0, found[0].1, found[0].2[0].as_str()), ("/plan/slug", ObstacleKind::Nowhere, "c3.small.x86"));
    let words = detail(&json!({ "facility": { "metros": ["xyz"] } }));
    assert_eq!(words, "there is no facility in `xyz`; leave it out or take one of ny, am");
    let words = detail(&json!({ "facility": { "features": ["gpu"] } }));
    assert_eq!(words, "there is no facility with the feature `gpu`; leave it out or take one of ibx, layer_2, storage");
}

#[test]
fn a_number_out_of_reach_is_told_what_there_is() {
    let words = detail(&json!({ "plan": { "max_price_per_hour": 0.05 } }));
    let expected =
        "there is no plan for a price in USD an hour of at most `0.05`; the lowest price that is left is 0.07";
    assert_eq!(words, expected);
    let words = detail(&json!({ "plan": { "min_memory_gb": 2048 } }));
    assert_eq!(words, "there is no plan with memory in GB of at least `2048`; the most that is left is 1024");
    let words = detail(&json!({ "plan": { "min_cores": 65 }, "os": { "distro": "debian" } }));
    assert_eq!(words, "there is no plan with cores of at least `65`; the most that is left is 24");
}

#[test]
fn what_nothing_can_be_had_with_is_told_apart() {
    let found = obstacles(&json!({ "os": { "slug": "windows_2022" } }));
    assert_eq!((found.len(), found[0].1), (1, ObstacleKind::Never));
    assert!(
        found[0].3.starts_with("nothing can be had with any operating system with the slug `windows_2022`; leave it")
    );
    let found = obstacles(&json!({ "facility": { "codes": ["lab1"] } }));
    assert_eq!((found[0].0, found[0].1), ("/facility/codes", ObstacleKind::Never));
    let words = detail(&json!({ "plan": { "slug": "bandwidth" } }));
    assert!(
        words.starts_with("there is no plan with the slug `bandwidth` (bandwidth: not a server); leave it out"),
        "{words}"
    );
}

#[test]
fn each_of_two_that_do_not_go_together_is_named() {
    let body = json!({ "os": { "slug": "centos_7" }, "plan": { "min_memory_gb": 64 } });
    let found = obstacles(&body);
    let expected = [
        (
            "/os/slug",
            ObstacleKind::NotTogether,
            vec!["debian_12".to_owned(), "ubuntu_24_04".to_owned()],
            "the rest of the request leaves no operating system with the slug `centos_7`; leave it out or take one of \
             debian_12, ubuntu_24_04"
                .to_owned(),
        ),
        (
            "/plan/min_memory_gb",
            ObstacleKind::NotTogether,
            vec!["32".to_owned()],
            "the rest of the request leaves no plan with memory in GB of at least `64`; the most that is left is 32"
                .to_owned(),
        ),
    ];
    assert_eq!(found, expected);
    // A requirement that is met by what is left is not to blame.
    let body =
        json!({ "os": { "slug": "centos_7" }, "plan": { "min_memory_gb": 64 }, "facility": { "codes": ["ewr1"] } });
    assert_eq!(pointers(&body), ["/os/slug", "/plan/min_memory_gb"]);
    let body = json!({ "plan": { "slug": "m3.large.x86" }, "facility": { "codes": ["ewr1"], "metros": ["am"] } });
    assert_eq!(pointers(&body), ["/plan/slug", "/facility"]);
    let body = json!({ "facility": { "features": ["ibx", "storage"] } });
    assert_eq!(pointers(&body), ["/facility/features", "/facility/features"]);
}

#[test]
fn where_no_single_one_helps_the_first_is_named_and_all_that_nothing_has() {
    // centos_7 is on small plans only, and neither these nor the large ones are in sv15.
    let body =
        json!({ "os": { "slug": "centos_7" }, "plan": { "min_memory_gb": 64 }, "facility": { "codes": ["sv15"] } });
    assert_eq!(pointers(&body), ["/plan/min_memory_gb"]);
    let body =
        json!({ "os": { "slug": "debain_12" }, "plan": { "slug": "c3.smal.x86" }, "facility": { "codes": ["sv15"] } });
    let found = obstacles(&body);
    let named: Vec<_> = found.iter().map(|it| (it.0, it.1, it.2[0].as_str())).collect();
    let expected =
        [("/os/slug", ObstacleKind::Nowhere, "debian_12"), ("/plan/slug", ObstacleKind::Nowhere, "c3.small.x86")];
    assert_eq!(named, expected);
}

#[test]
fn an_empty_catalogue_is_to_blame_itself() {
    let Impossible { obstacles } =
        impossible(&request(&json!({ "os": { "slug": "x" } })), &Catalog::new(&[], &[], &[])).unwrap();
    assert_eq!((obstacles.len(), obstacles[0].pointer), (1, ""));
    assert!(obstacles[0].detail.contains("offers no combination at all"));
}
