//! How long a failure is remembered.

use devices::failures::{Failures, Remembered, after_failure};
use jiff::{SignedDuration, Timestamp};

use crate::common::now;

fn minutes(minutes: i64) -> SignedDuration {
    SignedDuration::from_mins(minutes)
}

/// So many failures, each at the moment when the hold before it ends.
fn in_a_row(count: usize) -> Vec<Remembered> {
    let first = after_failure(None, now(), "stalled");
    std::iter::successors(Some(first), |last| Some(after_failure(Some(last), last.held_until, "stalled")))
        .take(count)
        .collect()
}

#[test]
fn a_hold_doubles_from_half_an_hour_to_six_hours() {
    let row = in_a_row(70);
    let holds: Vec<_> = row.iter().map(|it| it.held_until.duration_since(it.last_at)).collect();
    assert_eq!(holds[..6], [30, 60, 120, 240, 360, 360].map(minutes));
    assert_eq!((holds[69], row[69].count), (minutes(360), 70));
}

#[test]
fn a_hold_ends_at_its_moment() {
    let once = after_failure(None, now(), "stalled");
    assert_eq!((once.count, once.last_at, once.reason.as_str()), (1, now(), "stalled"));
    assert!(once.held(now()) && once.held(once.held_until - minutes(1)));
    assert!(!once.held(once.held_until));
}

#[test]
fn a_day_after_the_hold_the_count_starts_over() {
    let three = in_a_row(3).pop().unwrap();
    let day_later = three.held_until + SignedDuration::from_hours(24);
    assert!(!three.forgotten(day_later));
    assert_eq!(after_failure(Some(&three), day_later, "refused").count, 4);
    let later = day_later + SignedDuration::from_secs(1);
    assert!(three.forgotten(later));
    let again = after_failure(Some(&three), later, "refused");
    assert_eq!((again.count, again.held_until.duration_since(again.last_at)), (1, minutes(30)));
    assert_eq!(again.reason, "refused");
}

#[test]
fn a_reason_is_kept_short_and_time_has_an_end() {
    let long = after_failure(None, Timestamp::MAX, &"ä".repeat(5000));
    assert_eq!((long.reason.chars().count(), long.held_until), (200, Timestamp::MAX));
    assert!(!long.forgotten(Timestamp::MAX));
    assert_eq!(after_failure(Some(&Remembered { count: u32::MAX, ..long }), now(), "").count, u32::MAX);
}

#[test]
fn it_is_kept_by_plan_and_facility_and_read_from_what_is_stored() {
    let once = after_failure(None, now(), "stalled");
    let twice = after_failure(Some(&once), now(), "stalled");
    let mut failures: Failures =
        [("c3".to_owned(), "ewr1".to_owned(), twice.clone()), ("c3".to_owned(), "ams1".to_owned(), once.clone())]
            .into_iter()
            .collect();
    failures.insert("m3", "ams1", once.clone());
    assert_eq!(failures.get("c3", "ewr1"), Some(&twice));
    assert_eq!((failures.get("c3", "sv15"), failures.get("x1", "ewr1")), (None, None));
    let all: Vec<_> = failures.iter().map(|(plan, facility, it)| (plan, facility, it.count)).collect();
    assert_eq!(all, [("c3", "ams1", 1), ("c3", "ewr1", 2), ("m3", "ams1", 1)]);
    let stored = serde_json::to_string(&twice).unwrap();
    assert_eq!(serde_json::from_str::<Remembered>(&stored).unwrap(), twice);
}
