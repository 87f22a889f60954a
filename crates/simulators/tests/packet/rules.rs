//! Rules as people write them.

use serde_json::json;
use simulators::packet::{Capacity, Config, Fault, Request, Rule, Script};

use crate::{
    common::{change, look},
    post, rule_of, seconds, small, started, still,
};

#[test]
fn a_rule_is_read_from_text() {
    assert_eq!(rule_of("hang"), Rule::new(Fault::Hang));
    assert_eq!(rule_of("create-dropped@*=0.25"), Rule { share: 0.25, ..Rule::new(Fault::CreateDropped) });
    let full = rule_of("stuck_at@ewr1/c3.small.x86=0.1,step=104,from=10s,until=1m,nth=3,times=2");
    let expected = Rule {
        facility: Some("ewr1".into()),
        plan: Some("c3.small.x86".into()),
        share: 0.1,
        step: Some(104),
        from: Some(seconds(10)),
        until: Some(seconds(60)),
        nth: Some(3),
        times: Some(2),
        ..Rule::new(Fault::StuckAt)
    };
    assert_eq!(full, expected);
    let any = rule_of("delete_slow@*/c3.small.x86,lasts=1h");
    assert_eq!((any.facility, any.plan.as_deref(), any.lasts), (None, Some("c3.small.x86"), Some(seconds(3600))));
    assert_eq!(rule_of("server_error,on=get,status=503").on, Some(Request::Get));
    assert_eq!(rule_of("html,share=0.5"), Rule { share: 0.5, ..Rule::new(Fault::Html) });
}

#[test]
fn a_rule_is_the_same_in_json() {
    let text = json!({ "fault": "stuck_at", "facility": "ewr1", "share": 0.1, "step": 104, "from": "10s" });
    let rule: Rule = serde_json::from_value(text.clone()).unwrap();
    assert_eq!(rule, rule_of("stuck_at@ewr1=0.1,step=104,from=10s"));
    assert_eq!(json!(rule), text);
    let all: Script = serde_json::from_value(json!([{ "fault": "hang" }])).unwrap();
    assert_eq!(all.0, [Rule::new(Fault::Hang)]);
}

#[test]
fn a_rule_that_makes_no_sense_is_refused_with_the_reason() {
    for (text, reason) in [
        ("explode", "there is no fault `explode`"),
        ("", "there is no fault ``"),
        ("hang=2", "2 is outside 0..=1"),
        ("hang,step", "`step` is not such as"),
        ("hang,step=104", "`hang` has no `step`"),
        ("stuck_at,step=100", "101 to 110"),
        ("stuck_at,step=999", "101 to 110"),
        ("hang,lasts=5s", "`hang` has no `lasts`"),
        ("hang,status=500", "`status` can be one of []"),
        ("server_error,status=404", "`status` can be one of [500, 503]"),
        ("quota,on=create", "strikes one kind of request alone"),
        ("token_revoked@ewr1", "is about all requests"),
        ("quota,nth=0", "counts from 1"),
        ("quota,nth=x", "`nth` is a number, not `x`"),
        ("hang,on=lunch", "no request is `lunch`"),
        ("hang,colour=red", "a fault has no `colour`"),
        ("hang,from=10", "such as 100ms"),
    ] {
        let refused = text.parse::<Rule>().unwrap_err();
        assert!(refused.contains(reason), "{text}: {refused}");
    }
}

#[test]
fn capacity_is_read_from_text_and_from_json() {
    let capacity: Capacity = "ewr1/*=3".parse().unwrap();
    assert_eq!(capacity, Capacity { facility: Some("ewr1".into()), plan: None, servers: 3 });
    assert_eq!(json!(capacity), "ewr1/*=3");
    assert_eq!(serde_json::from_value::<Capacity>(json!("ewr1/*=3")).unwrap(), capacity);
    for wrong in ["ewr1=3", "ewr1/p", "ewr1/p=many", "ewr1/p=-1"] {
        assert!(wrong.parse::<Capacity>().unwrap_err().contains("such as ewr1/c3.small.x86=3"), "{wrong}");
    }
}

#[tokio::test]
async fn rules_are_changed_over_http_while_it_runs() {
    let sim = started(still()).await;
    let answer = change(sim.url(), &json!({ "faults": [{ "fault": "quota" }], "provision": "5s" })).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(post(&sim, &small()).await.unwrap().status(), 422);
    assert_eq!(sim.config().faults, [Rule::new(Fault::Quota)]);
    assert_eq!(look(sim.url(), "faults").await["provision"], "5s");
    for wrong in [
        json!({ "faults": [{ "fault": "quota", "step": 104 }] }),
        json!({ "faults": [{ "fault": "quota", "colour": 1 }] }),
        json!({ "rate_limit": 0 }),
        json!({ "speed": 0.0 }),
        json!({ "nonsense": 1 }),
    ] {
        assert_eq!(change(sim.url(), &wrong).await.status(), 400, "{wrong}");
    }
    change(sim.url(), &json!({ "faults": [] })).await;
    assert_eq!(post(&sim, &small()).await.unwrap().status(), 201);
}

#[tokio::test]
async fn a_config_that_makes_no_sense_does_not_start() {
    for config in [
        Config { speed: f64::NAN, ..still() },
        Config { project: "a/b".into(), ..still() },
        Config { token: Some(String::new()), ..still() },
        Config { faults: vec![Rule { step: Some(1), ..Rule::new(Fault::StuckAt) }], ..still() },
        Config { rate_limit: Some(0), ..still() },
        Config { rate_window: seconds(0), ..still() },
    ] {
        assert!(simulators::packet::start(config.clone()).await.is_err(), "{config:?}");
    }
}

#[tokio::test]
async fn the_config_survives_json() {
    let config = Config {
        faults: vec![rule_of("stuck_at@ewr1=0.1,step=104,from=10s")],
        capacity: vec!["ewr1/*=3".parse().unwrap()],
        rate_limit: Some(7),
        ..still()
    };
    assert_eq!(serde_json::from_value::<Config>(json!(config)).unwrap(), config);
    assert_eq!(serde_json::from_value::<Config>(json!({})).unwrap(), Config::default());
}
