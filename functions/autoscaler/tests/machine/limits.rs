//! Each reason and each limit.

use autoscaler::{
    decision::{Limit, Outcome, Reason},
    deployments::parse_status,
    machine::SLOT_SECONDS,
    need::{Counts, MOST},
    policy::{Given, Mode, Policy},
    samples::BadCode,
};
use jiff::Timestamp;

use crate::{Case, FIRST, open};

/// What a deployment that was seen once does in the slot after that.
fn at_once(mut case: Case, counts: Counts) -> (Case, Option<i64>) {
    let mode = std::mem::replace(&mut case.policy.mode, Mode::Paused);
    case.step(Ok(counts));
    case.policy.mode = mode;
    let sent = case.step(Ok(counts)).send;
    (case, sent)
}

#[test]
fn the_known_answers_are_what_is_sent() {
    for (per_host, target, hosts, total, free, delta) in [
        (10, "15", 10, 100, 10, 1),
        (10, "15", 100, 1000, 100, 6),
        (3, "30", 200, 600, 400, -104),
        (250, "10", 3, 750, 113, 0),
        (1, "90", 600, 600, 541, -10),
        (1, "90", 600, 600, 540, 0),
        (13, "17", 372, 4836, 942, -11),
        (1, "30", 21, 21, 0, 9),
        (4, "50", 2, 8, 0, 2),
    ] {
        let counts = Counts { hosts, total, free };
        let (case, sent) = at_once(Case::new(per_host, target).with(open()), counts);
        assert_eq!(sent.unwrap_or_default(), delta, "{counts:?}: {}", case.words());
        let expected = if delta == 0 {
            Reason::WithinTarget
        } else {
            [Reason::ScaledDown, Reason::ScaledUp][usize::from(delta > 0)]
        };
        assert_eq!((case.reason(), case.decision().delta), (expected, delta));
        assert_eq!(case.decision().limits, []);
    }
}

#[test]
fn a_target_of_nothing_is_fine_and_a_full_deployment_is_remarked() {
    let (case, sent) = at_once(Case::new(10, "0").with(open()), Counts { hosts: 2, total: 20, free: 0 });
    assert_eq!((sent, case.reason()), (None, Reason::WithinTarget));
    assert!(case.note().contains("no server is free"), "{}", case.words());
    let (case, sent) = at_once(Case::new(10, "0").with(open()), Counts { hosts: 2, total: 20, free: 1 });
    assert_eq!((sent, case.note()), (None, ""));
}

#[test]
fn without_any_host_the_minimum_is_asked_for() {
    let nothing = Counts { hosts: 0, total: 0, free: 0 };
    for (min_hosts, min_free_servers, delta) in [(1, 0, Some(1)), (1, 21, Some(3)), (5, 21, Some(5)), (0, 0, None)] {
        let policy = Policy { min_hosts, min_free_servers, ..open() };
        let (case, sent) = at_once(Case::usual().with(policy), nothing);
        assert_eq!(sent, delta, "{}", case.words());
    }
    assert_eq!(Case::usual().read(0, 0, 0), Some(1), "1 unless set, and from the first reading");
}

#[test]
fn hosts_without_servers_are_waited_for_and_reported_after_a_while() {
    let mut case = Case::usual();
    for _ in 0..20 {
        assert_eq!(case.read(3, 0, 0), None);
        assert_eq!((case.reason(), case.note()), (Reason::InFlight, "3 hosts have no servers yet"));
    }
    assert_eq!(case.read(3, 0, 0), None);
    assert_eq!((case.reason(), case.note()), (Reason::BadMetrics, "3 hosts have had no servers for 10 minutes"));
    assert_eq!((case.stay(1, 3, 20), case.reason()), (None, Reason::WithinTarget));
    // Slots in which nobody could look are no sign of servers.
    case.policy.boot_grace_seconds = 60;
    case.read(3, 0, 0);
    case.bad(BadCode::Silent);
    case.read(3, 0, 0);
    assert_eq!(case.reason(), Reason::BadMetrics);
}

#[test]
fn hosts_that_never_come_are_reported_while_they_are_needed() {
    let mut case = Case::usual();
    // 90 busy need 11 hosts; the eleventh is asked for and gets no servers.
    assert_eq!(case.read(10, 100, 90), Some(1));
    case.sent(Outcome::Accepted);
    for _ in 0..20 {
        assert_eq!(case.read(11, 100, 90), None);
        assert_eq!((case.reason(), case.note()), (Reason::InFlight, "1 host has no servers yet"));
    }
    case.read(11, 100, 90);
    assert_eq!((case.reason(), case.note()), (Reason::BadMetrics, "1 host has had no servers for 10 minutes"));
    // Nobody waits for it.
    case.read(11, 100, 80);
    assert_eq!(case.reason(), Reason::WithinTarget, "{}", case.words());
    // One server after the other comes: that is no standstill.
    let mut case = Case::usual();
    for total in 50..90 {
        case.read(11, total, total - 1);
        assert_ne!(case.reason(), Reason::BadMetrics, "{total}");
    }
}

#[test]
fn counts_that_cannot_be_are_never_acted_on() {
    for text in [
        r#"{"current_hosts":10,"total_servers":100,"free_servers":101}"#,
        r#"{"current_hosts":-10,"total_servers":100,"free_servers":1}"#,
        r#"{"current_hosts":10,"total_servers":100.5,"free_servers":1}"#,
        r#"{"current_hosts":10,"total_servers":100}"#,
        r#"{"current_hosts":10,"total_servers":NaN,"free_servers":1}"#,
    ] {
        let mut case = Case::usual().with(open());
        case.stay(3, 10, 85);
        assert_eq!(case.step(parse_status(text.as_bytes())).send, None);
        assert_eq!(case.reason(), Reason::BadMetrics, "{text}");
        assert!(case.decision().inputs.is_none() && !case.note().is_empty(), "{text}");
    }
}

#[test]
fn a_shape_that_cannot_be_used_holds_and_says_why() {
    let mut case = Case::usual();
    (case.state.shape, case.state.rejected) = (None, Some("target_free_pct is negative".to_owned()));
    for _ in 0..5 {
        assert_eq!(case.bad(BadCode::Rejected), Reason::BadMetrics, "a mistake in the settings opens no breaker");
    }
    assert_eq!((case.read(10, 100, 100), case.reason()), (None, Reason::BadMetrics));
    assert_eq!(case.note(), "target_free_pct is negative");
}

#[test]
fn no_servers_on_a_host_makes_nothing_panic() {
    let mut case = Case::usual();
    case.state.shape.as_mut().unwrap().servers_per_host = 0;
    case.read(10, 0, 0);
    case.read(10, 5, 5);
    case.read(0, 0, 0);
}

#[test]
fn the_largest_counts_are_just_numbers() {
    for (hosts, total, busy, delta) in [
        (MOST, MOST, MOST, None),
        (1, 1, 1, Some(1)),
        (MOST, MOST, 0, Some(1 - MOST.cast_signed())),
        (MOST - 2, MOST - 2, MOST - 2, Some(2)),
    ] {
        let counts = Counts { hosts, total, free: total - busy };
        let (case, sent) = at_once(Case::new(1, "50").with(Policy { min_hosts: 1, ..open() }), counts);
        assert_eq!(sent, delta, "{}", case.words());
    }
    // All hosts have the most servers: far more than any count. Nothing overflows.
    let (_, sent) = at_once(Case::new(MOST, "99.999").with(open()), Counts { hosts: MOST, total: MOST, free: 0 });
    assert_eq!(sent, None);
}

#[test]
fn hosts_are_added_at_once_as_far_as_the_step_goes() {
    let mut case = Case::new(10, "90");
    assert_eq!(case.stay(1, 10, 100), Some(10));
    assert_eq!((case.reason(), &case.decision().limits[..]), (Reason::ScaledUp, &[Limit::UpStep][..]));
    assert_eq!((case.decision().need, case.decision().desired), (Some(1000), Some(100)));
    let mut case = Case::new(10, "90");
    assert_eq!(case.stay(1, 2, 20), Some(4), "four at least");
    assert_eq!(
        case.words(),
        "adds 4 hosts: 20 of 20 servers busy; 90 % free needs 200 servers, 20 hosts; it has 2 hosts"
    );
    let mut case = Case::new(10, "90").with(Policy { up_step_hosts: 0, up_step_pct: 0, ..Policy::default() });
    assert_eq!((case.stay(1, 2, 20), case.reason()), (None, Reason::StepLimited));
}

#[test]
fn hosts_on_their_way_count() {
    let mut case = Case::usual();
    // Twelve hosts, two of which boot.
    assert_eq!((case.read(12, 100, 100), case.reason()), (None, Reason::InFlight));
    assert_eq!((case.decision().in_flight, case.decision().desired), (2, Some(12)));
    assert_eq!(case.read(11, 100, 100), Some(1), "only what is missing");
    assert_eq!(case.decision().in_flight, 1);
}

#[test]
fn servers_that_are_drained_count_until_they_are_gone() {
    let mut case = Case::usual();
    // Eight hosts, and the servers of ten.
    assert_eq!((case.read(8, 100, 75), case.decision().desired), (None, Some(9)));
    assert_eq!((case.reason(), case.decision().in_flight), (Reason::WithinTarget, 0), "nothing is on its way");
    assert_eq!(case.read(8, 85, 75), Some(1));
}

#[test]
fn the_bounds_hold() {
    let policy = Policy { max_hosts: Some(11), min_hosts: 9, ..Policy::default() };
    let mut case = Case::usual().with(policy.clone());
    assert_eq!(case.stay(1, 10, 100), Some(1), "12 are needed, 11 are allowed");
    assert_eq!(case.decision().limits, [Limit::MaxHosts]);
    assert_eq!((case.stay(1, 11, 110), case.reason()), (None, Reason::AtMax));

    let mut case = Case::usual().with(policy.clone());
    assert_eq!((case.stay(20, 9, 10), case.reason()), (None, Reason::AtMin));
    assert_eq!(case.decision().limits, [Limit::MinHosts]);
    assert_eq!(case.stay(1, 8, 10), Some(1), "below the minimum");

    // Above the maximum it comes down as slowly as otherwise, also where more would be needed.
    let mut case = Case::usual().with(policy);
    assert_eq!(case.stay(11, 14, 140), Some(-1));
    assert_eq!((case.reason(), case.decision().desired), (Reason::ScaledDown, Some(11)));

    let mut case = Case::usual().with(Policy { min_free_servers: 30, ..Policy::default() });
    assert_eq!(case.stay(1, 10, 80), Some(1));
    assert_eq!((case.decision().need, &case.decision().limits[..]), (Some(110), &[Limit::MinFreeServers][..]));
}

#[test]
fn hosts_are_taken_away_when_a_whole_window_agrees_and_slowly() {
    let mut case = Case::usual();
    for _ in 0..10 {
        assert_eq!((case.stay(1, 10, 60), case.reason()), (None, Reason::Stabilizing));
    }
    assert_eq!(case.note(), "it has been read for 270 s of 300 s");
    assert_eq!(case.stay(1, 10, 60), Some(-1));
    assert_eq!((case.reason(), case.decision().window), (Reason::ScaledDown, Some(8)));
    assert_eq!(case.decision().limits, [Limit::DownStep]);
    case.sent(Outcome::Accepted);
    assert_eq!((case.stay(1, 9, 60), case.reason()), (None, Reason::StepLimited));
    assert_eq!(case.stay(1, 9, 60), Some(-1), "a minute later");
    case.sent(Outcome::Accepted);
    assert_eq!((case.stay(8, 8, 60), case.reason()), (None, Reason::WithinTarget));

    let mut large = Case::usual();
    assert_eq!(large.stay(11, 200, 600), Some(-20), "ten per cent");
    large.sent(Outcome::Accepted);
    assert_eq!((large.stay(2, 180, 600), large.stay(1, 180, 600)), (Some(-18), None));
}

#[test]
fn one_high_reading_keeps_hosts_for_a_window() {
    let mut case = Case::usual();
    case.stay(9, 10, 50);
    case.stay(1, 10, 76);
    // 76 busy servers need nine hosts: one may go, and only one.
    assert_eq!(case.stay(1, 10, 50), Some(-1));
    assert_eq!((case.decision().window, case.decision().desired), (Some(9), Some(6)));
    assert_eq!(case.decision().limits, [Limit::Window]);
    case.sent(Outcome::Accepted);
    assert_eq!((case.stay(8, 9, 50), case.reason()), (None, Reason::Stabilizing));
    assert_eq!(case.stay(1, 9, 50), Some(-1), "it is out of the window");
}

#[test]
fn hosts_stay_while_too_few_readings_are_good() {
    let mut case = Case::usual();
    case.stay(4, 10, 60);
    for _ in 0..3 {
        case.bad(BadCode::Error);
        case.stay(1, 10, 60);
    }
    assert_eq!((case.stay(1, 10, 60), case.reason()), (None, Reason::Stabilizing));
    assert_eq!(case.note(), "only 7 of the last 10 readings were good");
    assert_eq!(case.stay(4, 10, 60), Some(-1), "8 of 10 are enough");

    // What nobody has read is not good either, and hosts without servers tell nothing.
    let mut case = Case::usual();
    case.stay(10, 10, 60);
    case.slot += 2;
    assert_eq!((case.stay(1, 10, 60), case.reason()), (Some(-1), Reason::ScaledDown));
    let mut case = Case::usual();
    case.stay(10, 10, 60);
    case.slot += 3;
    assert_eq!((case.stay(1, 10, 60), case.reason()), (None, Reason::Stabilizing));
    let mut case = Case::usual();
    case.stay(8, 10, 60);
    assert_eq!([(); 3].map(|()| case.read(10, 0, 0)), [None; 3]);
    assert_eq!((case.stay(1, 10, 60), case.reason()), (None, Reason::Stabilizing));

    // It is known for longer than it is read.
    let mut case = Case::usual().with(Policy { window_seconds: 30, ..Policy::default() });
    case.slot += 1;
    assert_eq!((case.stay(1, 10, 60), case.stay(1, 10, 60)), (None, Some(-1)));

    // After a long gap it knows no more than at its start.
    let mut case = Case::usual();
    case.stay(10, 10, 60);
    case.slot += 100;
    assert_eq!((case.stay(10, 10, 60), case.stay(1, 10, 60)), (None, Some(-1)));
}

#[test]
fn hosts_stay_for_a_while_after_some_were_added() {
    let mut case = Case::usual().with(Policy { window_seconds: 30, ..Policy::default() });
    case.stay(1, 10, 85);
    assert_eq!(case.stay(1, 10, 90), Some(1));
    case.sent(Outcome::Accepted);
    for left in (1..10).rev() {
        assert_eq!((case.stay(1, 11, 60), case.reason()), (None, Reason::Cooldown));
        assert_eq!(case.note(), format!("{} s more after hosts were added", left * 30));
    }
    assert_eq!(case.stay(1, 11, 60), Some(-1));
}

#[test]
fn hosts_stay_for_a_while_after_a_failure() {
    let policy = Policy { window_seconds: 30, cooldown_after_failure_seconds: 180, ..Policy::default() };
    let mut case = Case::usual().with(policy);
    assert_eq!(case.stay(2, 10, 60), Some(-1));
    case.sent(Outcome::Refused);
    assert_eq!((case.stay(1, 10, 60), case.reason()), (None, Reason::ScaleFailed));
    assert_eq!((case.stay(2, 10, 60), case.reason()), (None, Reason::Cooldown));
    assert_eq!(case.note(), "120 s more after a scaling failed");
    assert_eq!(case.stay(4, 10, 60), Some(-1));
    // Up does not wait that long.
    case.sent(Outcome::Refused);
    assert_eq!((case.stay(2, 10, 90), case.reason()), (None, Reason::ScaleFailed));
    assert_eq!(case.stay(3, 10, 90), Some(1));
}

#[test]
fn the_breaker_opens_after_three_bad_readings_and_closes_after_two_good_ones() {
    let mut case = Case::usual();
    case.stay(1, 10, 85);
    let opened = [BadCode::Silent, BadCode::Error, BadCode::Nonsense].map(|code| case.bad(code));
    assert_eq!(opened, [Reason::BadMetrics, Reason::BadMetrics, Reason::BreakerOpen]);
    assert_eq!((case.stay(1, 10, 100), case.reason()), (None, Reason::BreakerOpen));
    assert_eq!(case.note(), "one good reading so far");
    assert_eq!(case.bad(BadCode::Impossible), Reason::BreakerOpen);
    assert_eq!((case.stay(1, 10, 100), case.reason()), (None, Reason::BreakerOpen), "two in a row");
    assert_eq!((case.stay(1, 10, 100), case.reason()), (Some(2), Reason::ScaledUp));

    // Two bad ones, twice, are not three in a row.
    let mut case = Case::usual();
    for _ in 0..2 {
        assert_eq!([(); 2].map(|()| case.bad(BadCode::Error)), [Reason::BadMetrics; 2]);
        assert_eq!((case.stay(1, 10, 85), case.reason()), (None, Reason::WithinTarget));
    }
}

#[test]
fn a_freeze_keeps_only_what_would_go() {
    let mut case = Case { frozen: true, ..Case::usual() };
    assert!((1..=10).all(|_| !case.step(Ok(Counts { hosts: 10, total: 100, free: 40 })).wants_down));
    let step = case.step(Ok(Counts { hosts: 10, total: 100, free: 40 }));
    assert_eq!((step.send, step.wants_down, case.reason()), (None, true, Reason::Frozen));
    assert_eq!(case.stay(1, 10, 90), Some(1), "up is not frozen");
    case.sent(Outcome::Accepted);
    case.frozen = false;
    let step = case.step(Ok(Counts { hosts: 11, total: 110, free: 50 }));
    assert_eq!((step.wants_down, case.reason()), (false, Reason::Stabilizing));
}

#[test]
fn a_mode_holds_back_what_it_names() {
    for (mode, up, down) in [
        (Mode::On, (Some(1), Reason::ScaledUp), (Some(-1), Reason::ScaledDown)),
        (Mode::Paused, (None, Reason::Paused), (None, Reason::Paused)),
        (Mode::PausedIn, (Some(1), Reason::ScaledUp), (None, Reason::Paused)),
        (Mode::PausedOut, (None, Reason::Paused), (Some(-1), Reason::ScaledDown)),
        (Mode::DryRun, (None, Reason::DryRun), (None, Reason::DryRun)),
    ] {
        let mut case = Case::usual().with(Policy { mode, ..Policy::default() });
        assert_eq!((case.stay(1, 10, 90), case.reason(), case.decision().mode), (up.0, up.1, mode));
        let mut case = Case::usual().with(Policy { mode, ..Policy::default() });
        assert_eq!((case.stay(11, 10, 60), case.reason()), down, "{mode:?}");
        let mut case = Case::usual().with(Policy { mode, ..Policy::default() });
        assert_eq!((case.stay(11, 10, 80), case.reason()), (None, Reason::WithinTarget));
    }
}

#[test]
fn a_dry_run_says_what_it_would_do_and_leaves_no_trace() {
    let mut case = Case::usual().with(Policy { mode: Mode::DryRun, ..Policy::default() });
    case.stay(11, 10, 60);
    assert_eq!((case.decision().delta, case.decision().outcome), (-1, None));
    assert!(case.words().starts_with("a dry run: would take away 1 host: 60 of 100"), "{}", case.words());
    assert!(case.state.pending.is_none() && case.state.scalings.is_empty());
    case.policy.mode = Mode::On;
    assert_eq!(case.stay(1, 10, 60), Some(-1));
}

#[test]
fn a_pause_ends_at_its_time() {
    let until = Timestamp::from_second(i64::try_from((FIRST + 2) * SLOT_SECONDS).unwrap()).unwrap();
    let given = Given { mode: Some(Mode::Paused), until: Some(until), ..Given::default() };
    let mut case = Case::usual();
    for expected in [Reason::Paused, Reason::Paused, Reason::ScaledUp] {
        case.policy = Policy::of(&Given::default(), &given, autoscaler::samples::time(case.slot));
        case.stay(1, 10, 90);
        assert_eq!(case.reason(), expected);
    }
}
