//! The fixed catalogue, and short ways to say things about it.

use devices::{
    catalog::{Capacity, Catalog, LeftOut},
    failures::Failures,
    request::{CreateDevice, Request, Userdata, Wrong},
    select::{Selection, Tried, select},
};
use jiff::Timestamp;
use serde_json::{Value, json};

pub(crate) fn now() -> Timestamp {
    "2026-03-01T12:00:00Z".parse().unwrap()
}

pub(crate) fn catalogue() -> Catalog {
    let lists: Value = serde_json::from_str(include_str!("catalogue.json")).unwrap();
    let list = |key: &str| lists[key].as_array().unwrap().clone();
    Catalog::new(&list("operating_systems"), &list("plans"), &list("facilities"))
}

pub(crate) fn check(body: &Value) -> Result<(Request, Option<Userdata>), Vec<Wrong>> {
    let (request, userdata) =
        kit::json::parse::<CreateDevice>(body.to_string().as_bytes()).unwrap().check("muster", now())?;
    request.check_time(now()).map_err(|wrong| vec![wrong])?;
    Ok((request, userdata))
}

pub(crate) fn request(body: &Value) -> Request {
    check(body).unwrap().0
}

/// The selection where nothing is known of capacity, and nothing has failed.
pub(crate) fn selected(body: &Value) -> Selection {
    let catalogue = catalogue();
    select(&request(body), &catalogue, &Capacity::default(), &Failures::default(), &Tried::default(), now())
}

/// Each candidate as `os plan facility price level`.
pub(crate) fn lines(selection: &Selection) -> Vec<String> {
    assert_eq!(selection.candidates.len(), selection.total);
    let line = |it: &devices::select::Candidate| {
        format!("{} {} {} {} {}", it.os, it.plan, it.facility, it.price, it.level.as_str())
    };
    selection.candidates.iter().map(line).collect()
}

pub(crate) fn texts<'a>(left_out: impl IntoIterator<Item = &'a LeftOut>) -> Vec<&'a str> {
    left_out.into_iter().map(|it| it.text.as_str()).collect()
}

pub(crate) fn nothing() -> Value {
    json!({})
}
