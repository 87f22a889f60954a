//! The vendor's lists: what is read in which forms, and what is left out.

use devices::catalog::{Capacity, Catalog, Level, Memory, Plan, Price, Reason, capacity_question, page};
use serde_json::{Value, json};

use crate::common::{catalogue, texts};

/// A plan with `fields` over the ones that it needs.
fn plan_of(fields: &Value) -> Result<Plan, String> {
    let mut entry = json!({ "slug": "x", "line": "baremetal", "pricing": { "hour": 1 } });
    for (key, value) in fields.as_object().unwrap() {
        entry[key] = value.clone();
    }
    let facilities = [
        json!({ "id": "id-1", "code": "ewr1", "metro": { "id": "m-1", "code": "ny" } }),
        json!({ "id": "id-2", "code": "ams1", "metro": { "id": "m-2", "code": "am" } }),
    ];
    let catalog = Catalog::new(&[], &[entry], &facilities);
    catalog.plans.first().cloned().ok_or_else(|| texts(catalog.unusable.iter()).join("; "))
}

#[test]
fn the_fixed_catalogue_is_read_whole() {
    let catalogue = catalogue();
    let plans: Vec<_> = catalogue.plans.iter().map(|it| it.slug.as_str()).collect();
    let expected = [
        "a0.small.arm",
        "baremetal_0",
        "c1.small.x86",
        "c3.medium.x86",
        "c3.small.x86",
        "m3.large.x86",
        "x3.xlarge.x86",
    ];
    assert_eq!(plans, expected);
    let slugs: Vec<_> = catalogue.operating_systems.iter().map(|it| it.slug.as_str()).collect();
    assert_eq!(slugs, ["centos_7", "custom_ipxe", "debian_12", "ubuntu_24_04", "windows_2022"]);
    let codes: Vec<_> = catalogue.facilities.iter().map(|it| it.code.as_str()).collect();
    assert_eq!(codes, ["ams1", "dc13", "ewr1", "lab1", "sv15", "ty11"]);
    assert_eq!(catalogue.unusable.len(), 11);
    assert_eq!(catalogue.operating_system("debian_12").unwrap().version.as_deref(), Some("12"));
    assert_eq!(catalogue.facility("ewr1").unwrap().metro.as_ref().unwrap().name, "New York");
    assert_eq!(catalogue.facility("ty11").unwrap().metro.as_ref().unwrap().name, "ty");
    assert_eq!(catalogue.facility("dc13").unwrap().metro, None);
    let small = json!({
        "slug": "c3.small.x86", "name": "c3.small.x86", "class": "c3.small.x86", "legacy": false, "price": 0.5,
        "memory_gb": 32.0, "cores": 8, "available_in": ["ams1", "ewr1", "sv15"], "available_in_metros": ["am", "ny"],
    });
    assert_eq!(serde_json::to_value(catalogue.plan("c3.small.x86").unwrap()).unwrap(), small);
    let old = catalogue.plan("baremetal_0").unwrap();
    assert_eq!((old.class.as_deref(), old.class(), old.cores, old.legacy), (None, "baremetal_0", None, true));
    assert!(catalogue.plan("bandwidth").is_none());
}

#[test]
fn what_is_no_server_is_left_out_whatever_it_costs() {
    let traffic = json!({ "line": null, "specs": {}, "available_in": [], "pricing": { "GB": 0.05 } });
    assert_eq!(plan_of(&traffic).unwrap_err(), "x: not a server");
    let storage = json!({ "line": "storage", "specs": { "drives": [] }, "pricing": { "hour": 0.0001 } });
    assert_eq!(plan_of(&storage).unwrap_err(), "x: not a server");
    assert!(plan_of(&json!({ "line": null, "specs": { "cpus": [{ "count": 1 }] } })).is_ok());
    assert!(plan_of(&json!({ "line": null, "specs": { "memory": { "total": "8GB" } } })).is_ok());
    assert!(plan_of(&json!({ "specs": null })).is_ok());
}

#[test]
fn a_price_is_exact() {
    let price = |pricing: Value| plan_of(&json!({ "pricing": pricing })).map(|it| it.price.micros());
    assert_eq!(price(json!({ "hour": 0.5 })), Ok(500_000));
    assert_eq!(price(json!({ "hourly": 0.1 })), Ok(100_000));
    assert_eq!(price(json!({ "hour": null, "hourly": "0.07" })), Ok(70_000));
    assert_eq!(price(json!({ "hour": 0.000_001 })), Ok(1));
    assert_eq!(price(json!({ "hour": 0 })), Ok(0));
    // As an f64 it is a little less.
    assert_eq!(price(json!({ "hour": 1.001 })), Ok(1_001_000));
    assert_eq!(price(json!({ "hour": 999_999.999_999_f64 })), Ok(999_999_999_999));
    for none in [json!({}), json!(null), json!({ "hour": -1 }), json!({ "hour": "free" }), json!({ "hour": 1e300 })] {
        assert_eq!(price(none.clone()), Err("x: no hourly price".to_owned()), "{none}");
    }
    let shown = Price::from_dollars(0.1).unwrap();
    assert_eq!((serde_json::to_string(&shown).unwrap().as_str(), shown.to_string().as_str()), ("0.1", "0.1"));
    assert_eq!(serde_json::from_str::<Price>("0.1").unwrap(), shown);
    assert!(serde_json::from_str::<Price>("-0.1").is_err());
}

#[test]
fn memory_is_read_with_its_unit() {
    let memory = |total: Value| plan_of(&json!({ "specs": { "memory": { "total": total } } })).unwrap().memory_gb;
    let mb = |total: Value| memory(total).map(Memory::mb);
    for (text, expected) in
        [("32GB", 32 * 1024), ("1TB", 1024 * 1024), ("512 MB", 512), ("1.5 tb", 1536 * 1024), ("64 GiB DDR4", 65536)]
    {
        assert_eq!(mb(json!(text)), Some(expected), "{text}");
    }
    assert_eq!(mb(json!(8)), Some(8192));
    assert_eq!(mb(json!("8")), Some(8192));
    for unknown in ["lots", "GB", "", "2 x 32GB", "0GB", "1.2.3GB", "1e9TB", "99999999TB", "32XB"] {
        assert_eq!(mb(json!(unknown)), None, "{unknown}");
    }
    assert_eq!(plan_of(&json!({ "specs": { "memory": "8GB" } })).unwrap().memory_gb.map(Memory::mb), Some(8192));
    assert_eq!(plan_of(&json!({ "specs": {} })).unwrap().memory_gb, None);
    assert_eq!(serde_json::to_string(&memory(json!("512MB")).unwrap()).unwrap(), "0.5");
    assert_eq!(serde_json::from_str::<Memory>("0.5").unwrap().mb(), 512);
}

#[test]
fn cores_are_those_of_all_processors_or_unknown() {
    let cores = |cpus: Value| plan_of(&json!({ "specs": { "cpus": cpus } })).unwrap().cores;
    assert_eq!(cores(json!([{ "count": 2, "type": "AMD EPYC 7502P 32-Core Processor @ 2.5GHz" }])), Some(64));
    assert_eq!(cores(json!([{ "count": 1, "type": "Xeon 8 cores" }])), Some(8));
    assert_eq!(cores(json!([{ "count": 1, "type": "Intel Core i9 8-Core" }])), Some(8));
    assert_eq!(cores(json!([{ "count": 2, "cores": 4, "type": "32-Core" }])), Some(8));
    assert_eq!(cores(json!([{ "count": "2", "cores": "4" }])), Some(8));
    assert_eq!(cores(json!([{ "type": "8-Core" }, { "count": 2, "type": "4-core" }])), Some(16));
    for unknown in [
        json!([]),
        json!(null),
        json!([{ "count": 1, "type": "Intel Atom C2550 @ 2.4Ghz" }]),
        json!([{ "count": 1, "type": "Multi-Core" }]),
        json!([{ "count": 1, "type": "core 8" }]),
        json!([{ "count": 1, "type": "8-Core" }, { "count": 1, "type": "Intel" }]),
        json!([{ "count": "many", "type": "8-Core" }]),
        json!([{ "count": 0, "type": "8-Core" }]),
        json!([{ "count": u64::MAX, "type": "8-Core" }]),
        json!([{ "count": 1, "type": "99999999999999999999-Core" }]),
        json!(["Intel 8-Core"]),
    ] {
        assert_eq!(cores(unknown.clone()), None, "{unknown}");
    }
}

#[test]
fn a_facility_is_named_in_any_form() {
    let places = |places: Value| {
        let plan = plan_of(&json!({ "available_in": places, "available_in_metros": [] })).unwrap();
        plan.available_in.into_iter().collect::<Vec<_>>()
    };
    for form in [
        json!({ "href": "/facilities/id-1" }),
        json!({ "href": "https://api.example/metal/v1/facilities/id-1/?include=a/b" }),
        json!({ "href": "/facilities/ewr1" }),
        json!({ "id": "id-1" }),
        json!({ "code": "ewr1" }),
        json!({ "id": "id-1", "code": "ewr1", "name": "Parsippany", "features": [] }),
        json!("ewr1"),
        json!("/facilities/id-1"),
    ] {
        assert_eq!(places(json!([form])), ["ewr1"], "{form}");
    }
    let other = json!([{ "href": "/facilities/id-9" }, 7, null, { "href": "" }, { "href": "/" }, {}]);
    assert_eq!(places(other), Vec::<String>::new());
    assert_eq!(places(json!(null)), Vec::<String>::new());
    assert_eq!(places(json!([{ "id": "id-1" }, { "code": "ams1" }, { "code": "ewr1" }])), ["ams1", "ewr1"]);
    let metros = |metros: Value| plan_of(&json!({ "available_in_metros": metros })).unwrap().available_in_metros;
    let both = metros(json!([{ "href": "/locations/metros/m-1" }, { "code": "am" }]));
    assert_eq!(both.into_iter().collect::<Vec<_>>(), ["am", "ny"]);
    assert!(metros(json!([{ "id": "m-9" }])).is_empty());
}

#[test]
fn what_is_only_reserved_is_left_out() {
    let types = |types: Value| plan_of(&json!({ "deployment_types": types })).map(|_| ());
    assert_eq!(types(json!(["spot_market", "reserved"])), Err("x: not offered on demand".to_owned()));
    assert_eq!(types(json!(["reserved", "on_demand"])), Ok(()));
    assert_eq!(types(json!([])), Ok(()));
    assert_eq!(types(json!(null)), Ok(()));
}

#[test]
fn one_bad_entry_spoils_nothing() {
    let bad = [
        json!(null),
        json!(7),
        json!("text"),
        json!([]),
        json!([1]),
        json!({}),
        json!({ "slug": "", "code": "" }),
        json!({ "slug": {}, "code": [] }),
        json!({ "slug": "x", "code": "x", "provisionable_on": {}, "pricing": 3 }),
    ];
    for entry in bad {
        let systems =
            [entry.clone(), json!({ "slug": "os", "provisionable_on": ["plan", { "slug": "other" }, 7, null] })];
        let plans = [entry.clone(), json!({ "slug": "plan", "line": "baremetal", "pricing": { "hour": 1 } })];
        let facilities = [entry.clone(), json!({ "code": "here", "features": ["baremetal", 7, null, {}] })];
        let catalog = Catalog::new(&systems, &plans, &facilities);
        let on = &catalog.operating_system("os").unwrap().provisionable_on;
        assert_eq!(on.iter().map(String::as_str).collect::<Vec<_>>(), ["7", "other", "plan"]);
        assert!(catalog.plan("plan").is_some(), "{entry}");
        assert!(catalog.facility("here").unwrap().features.contains("baremetal"));
        let few = catalog.unusable.len() + catalog.facilities.len();
        assert_eq!(few, 4, "{entry}: {:?}", catalog.unusable);
    }
}

#[test]
fn of_two_entries_with_one_name_the_first_one_counts() {
    let plan = |price: u32| json!({ "slug": "x", "line": "baremetal", "pricing": { "hour": price } });
    let catalog = Catalog::new(&[], &[plan(2), plan(1)], &[]);
    assert_eq!(catalog.plans[0].price, Price::from_dollars(2.0).unwrap());
    assert_eq!((catalog.plans.len(), catalog.unusable[0].reason), (1, Reason::UnusableEntry));
}

#[test]
fn capacity_is_read_from_either_answer() {
    let levels = json!({ "capacity": {
        "ewr1": { "a": { "level": "normal" }, "b": { "level": "LIMITED" }, "c": { "level": "critical" } },
        "ams1": { "a": { "level": "unavailable" }, "b": { "level": "plenty" }, "c": "normal", "d": {}, "e": 7 },
        "sv15": null,
    } });
    let mut capacity = Capacity::parse(&levels);
    let read = |capacity: &Capacity, facility: &str| {
        ["a", "b", "c", "d", "e"].map(|plan| capacity.level(plan, facility).as_str()).join(" ")
    };
    assert_eq!(read(&capacity, "ewr1"), "normal limited critical unknown unknown");
    assert_eq!(read(&capacity, "ams1"), "unavailable unknown normal unknown unknown");
    let server = |facility: &str, plan: &str, available: Value| {
        let quantity = 1;
        json!({ "facility": facility, "plan": plan, "quantity": quantity, "available": available })
    };
    capacity.learn(&json!({ "servers": [
        server("ewr1", "a", json!(false)),
        server("ewr1", "b", json!(true)),
        server("ewr1", "c", json!("False")),
        server("ewr1", "d", json!("true")),
        server("ewr1", "e", json!("perhaps")),
        server("ams1", "a", json!(true)),
        server("ams1", "c", json!(null)),
        { "plan": "b", "available": false },
        null,
    ] }));
    assert_eq!(read(&capacity, "ewr1"), "unavailable limited unavailable normal unknown");
    assert_eq!(read(&capacity, "ams1"), "normal unknown normal unknown unknown");
    for nonsense in [json!(null), json!([]), json!({ "capacity": [] }), json!({ "servers": {} }), json!("no")] {
        let mut nothing = Capacity::parse(&nonsense);
        nothing.learn(&nonsense);
        assert_eq!(nothing, Capacity::default(), "{nonsense}");
    }
    assert_eq!(serde_json::from_str::<Level>("\"limited\"").unwrap(), Level::Limited);
    assert_eq!(serde_json::from_str::<Level>("\"plenty\"").unwrap(), Level::Unknown);
}

#[test]
fn the_question_for_capacity_has_its_quantity_as_a_string() {
    let expected = json!({ "servers": [
        { "facility": "ewr1", "plan": "c3.small.x86", "quantity": "1" },
        { "facility": "ams1", "plan": "baremetal_0", "quantity": "1" },
    ] });
    assert_eq!(capacity_question([("ewr1", "c3.small.x86"), ("ams1", "baremetal_0")]), expected);
}

#[test]
fn pages_are_followed_as_far_as_the_vendor_says() {
    let more = |entries: usize, meta: Value| {
        let mut answer = json!({ "plans": vec![json!({}); entries] });
        if !meta.is_null() {
            answer["meta"] = meta;
        }
        let page = page(answer, "plans", 3).unwrap();
        assert_eq!(page.entries.len(), entries);
        page.more
    };
    assert!(more(1, json!({ "next": { "href": "/plans?page=2" } })));
    assert!(more(1, json!({ "next": "/plans?page=2" })));
    assert!(!more(3, json!({ "next": null })));
    assert!(!more(3, json!({ "next": { "href": "" } })));
    assert!(more(1, json!({ "current_page": 1, "last_page": 2 })));
    assert!(more(1, json!({ "current_page": 1, "last_page": 2, "next": null })));
    assert!(!more(3, json!({ "current_page": 2, "last_page": 2 })));
    // Without a word about it, a full page asks for the next one.
    for silent in [json!(null), json!({}), json!({ "total": 9 })] {
        assert!(more(3, silent.clone()) && !more(2, silent), "a full page and one that is not");
    }
    for none in [json!({}), json!({ "plans": {} }), json!([]), json!(null), json!("plans")] {
        assert_eq!(page(none.clone(), "plans", 3), None, "{none}");
    }
}
