//! What becomes of a request to scale, and of the decisions.

use autoscaler::{
    decision::{Limit, Outcome, Reason},
    machine::Slot,
    policy::{Mode, Policy},
    samples::BadCode,
};

use crate::{Case, FIRST, open};

/// Ten hosts that have asked for four more: half of the servers are to be free.
fn asked(outcome: Outcome) -> Case {
    let mut case = Case::new(10, "50");
    assert_eq!(case.stay(1, 10, 70), Some(4));
    assert_eq!((case.pending().from, case.pending().expected, case.pending().outcome), (10, 14, Outcome::Intended));
    case.sent(outcome);
    assert_eq!((case.pending().outcome, case.decision().outcome), (outcome, Some(outcome)));
    case
}

/// The decisions that were closed with an outcome: slots after the first, hosts, outcome.
fn told(case: &Case) -> Vec<(Slot, i64, Outcome)> {
    let sent =
        case.closed.iter().filter_map(|decision| Some((decision.slot - FIRST, decision.delta, decision.outcome?)));
    sent.collect()
}

const ANSWERS: [Outcome; 5] =
    [Outcome::Intended, Outcome::Accepted, Outcome::Unknown, Outcome::Refused, Outcome::NotSent];

#[test]
fn hosts_as_expected_are_applied_whatever_was_answered() {
    for outcome in ANSWERS {
        let mut case = asked(outcome);
        assert_eq!((case.read(14, 100, 70), case.reason()), (None, Reason::InFlight), "its hosts boot");
        assert!(case.state.pending.is_none());
        assert_eq!(told(&case), [(0, 4, Outcome::Applied)], "{outcome:?}");
        assert_eq!((case.stay(1, 14, 70), case.reason()), (None, Reason::WithinTarget));
    }
}

#[test]
fn nothing_is_sent_while_a_request_is_open() {
    for (outcome, reason) in [
        (Outcome::Accepted, Reason::InFlight),
        (Outcome::Unknown, Reason::ScaleUnknown),
        (Outcome::Intended, Reason::ScaleUnknown),
    ] {
        let mut case = asked(outcome);
        assert_eq!((case.stay(1, 10, 100), case.reason()), (None, reason));
        assert_eq!(case.note(), "+4 hosts were asked for, to be 14");
        assert_eq!(told(&case), [], "it is not settled");
    }
    // Nor are hosts taken away that it wanted a moment ago.
    let mut case = asked(Outcome::Accepted);
    case.policy = open();
    assert_eq!((case.stay(1, 10, 10), case.reason()), (None, Reason::InFlight));
}

#[test]
fn hosts_that_stay_as_they_are_are_a_failure_and_the_next_request_waits_longer_each_time() {
    let mut case = asked(Outcome::Accepted);
    let mut slots = vec![0];
    for _ in 0..60 {
        if case.stay(1, 10, 70).is_some() {
            slots.push(case.slot - 1 - FIRST);
            case.sent([Outcome::Accepted, Outcome::Unknown][slots.len() % 2]);
        }
    }
    // Two readings each, then 60, 120, 240 and again 240 s.
    assert_eq!(slots, [0, 4, 10, 20, 30, 40, 50, 60]);
    assert_eq!(told(&case)[..3], [(0, 4, Outcome::Failed), (4, 4, Outcome::Failed), (10, 4, Outcome::Failed)]);
    let mut case = asked(Outcome::Accepted);
    assert_eq!((case.stay(2, 10, 70), case.reason()), (None, Reason::ScaleFailed));
    assert_eq!(case.note(), "failed 1 times in a row; 60 s more");
    assert_eq!(case.stay(2, 10, 70), Some(4));
    case.sent(Outcome::Accepted);
    assert_eq!((case.stay(1, 14, 80), case.state.failures), (Some(2), 0), "a success ends the row");
}

#[test]
fn only_readings_settle_and_not_too_soon_ones() {
    let mut case = asked(Outcome::Unknown);
    case.stay(1, 10, 70);
    for code in [BadCode::Silent, BadCode::Error] {
        case.bad(code);
    }
    assert!(case.state.pending.is_some());
    assert_eq!((case.stay(1, 10, 70), case.reason()), (None, Reason::ScaleFailed));

    // Asked for at the end of its slot, read at the beginning of the next two: it may still come.
    let mut case = Case { late: 29, ..Case::new(10, "50") };
    assert_eq!(case.stay(1, 10, 70), Some(4));
    case.late = 0;
    assert_eq!((case.stay(2, 10, 70), case.reason()), (None, Reason::ScaleUnknown));
    assert_eq!((case.stay(1, 10, 70), case.reason()), (None, Reason::ScaleFailed));
}

#[test]
fn hosts_that_come_one_by_one_are_waited_for() {
    let mut case = asked(Outcome::Accepted);
    for hosts in [10, 12, 12, 13] {
        assert_eq!((case.stay(1, hosts, 70), case.reason()), (None, Reason::InFlight), "{hosts}");
    }
    assert_eq!(case.stay(1, 14, 70), None);
    assert_eq!(told(&case), [(0, 4, Outcome::Applied)]);

    // Where no more come, what is there is taken, and the rest asked for. That is no failure.
    let mut case = asked(Outcome::Accepted);
    case.stay(2, 12, 70);
    assert_eq!(case.stay(1, 12, 70), Some(2));
    assert_eq!((told(&case), case.state.failures), (vec![(0, 4, Outcome::Adopted)], 0));
}

#[test]
fn other_hosts_than_expected_are_taken_as_they_are() {
    // Carried out twice, or by someone else too.
    let mut case = asked(Outcome::Unknown);
    assert_eq!((case.stay(1, 18, 70), case.reason()), (None, Reason::Stabilizing));
    assert_eq!(told(&case), [(0, 4, Outcome::Adopted)]);
    let mut case = asked(Outcome::Unknown);
    assert_eq!(case.stay(1, 9, 70), Some(5), "someone has taken one away");
    assert_eq!(told(&case), [(0, 4, Outcome::Adopted)]);
}

#[test]
fn what_was_refused_waits_and_what_was_never_sent_does_not() {
    let mut case = asked(Outcome::Refused);
    assert_eq!((case.stay(2, 10, 70), case.reason()), (None, Reason::ScaleFailed));
    assert_eq!(told(&case), [(0, 4, Outcome::Refused)]);
    assert_eq!(case.stay(1, 10, 70), Some(4));

    let mut case = asked(Outcome::NotSent);
    assert_eq!(case.stay(1, 10, 70), Some(4));
    assert_eq!((told(&case), case.state.failures), (vec![(0, 4, Outcome::NotSent)], 0));
    // It did not count as an addition after which hosts have to stay.
    let policy = Policy { window_seconds: 30, ..Policy::default() };
    let mut case = Case { policy, ..asked(Outcome::NotSent) };
    assert_eq!((case.stay(1, 10, 10), case.reason()), (Some(-1), Reason::ScaledDown));
}

#[test]
fn hosts_that_come_after_all_are_not_asked_for_again() {
    let mut case = asked(Outcome::Unknown);
    assert_eq!((case.stay(2, 10, 70), case.reason()), (None, Reason::ScaleFailed));
    assert_eq!((case.stay(8, 14, 70), case.reason()), (None, Reason::WithinTarget));
    assert_eq!(told(&case), [(0, 4, Outcome::Failed)]);
}

#[test]
fn a_request_to_take_hosts_away_is_settled_in_the_same_way() {
    let down = |outcome| {
        let mut case = Case::usual();
        assert_eq!(case.stay(11, 20, 85), Some(-2));
        case.sent(outcome);
        case
    };
    for (hosts, told_) in [(18, Outcome::Applied), (17, Outcome::Adopted), (21, Outcome::Adopted)] {
        let mut case = down(Outcome::Unknown);
        case.read(hosts, 200, 85);
        case.read(hosts, 10 * hosts, 85);
        assert_eq!(told(&case)[..1], [(10, -2, told_)], "{hosts}");
    }
    let mut case = down(Outcome::Accepted);
    assert_eq!((case.stay(1, 20, 85), case.reason()), (None, Reason::InFlight));
    assert_eq!((case.stay(1, 20, 85), case.reason()), (None, Reason::ScaleFailed));
    // Up goes first where the demand has come back meanwhile, and it waits as well.
    let mut case = down(Outcome::Unknown);
    assert_eq!((case.read(20, 200, 180), case.reason()), (None, Reason::ScaleUnknown));
}

#[test]
fn an_outcome_is_noted_for_its_own_slot_alone() {
    let mut case = asked(Outcome::Unknown);
    case.state.sent(FIRST + 1, Outcome::NotSent);
    assert_eq!(case.pending().outcome, Outcome::Unknown);
    // It may come when another decision holds already.
    case.stay(1, 10, 70);
    case.state.sent(FIRST, Outcome::Accepted);
    assert_eq!(case.pending().outcome, Outcome::Accepted);
    assert_eq!(case.pending().decision.as_ref().unwrap().outcome, Some(Outcome::Accepted));
    assert_eq!(case.decision().outcome, None);
    case.stay(1, 14, 70);
    assert_eq!(told(&case), [(0, 4, Outcome::Applied)]);
    case.state.sent(FIRST, Outcome::Refused);
    assert_eq!(case.state.failures, 0, "it was settled");
}

#[test]
fn equal_holds_are_one_decision_and_every_other_one_is_told_once() {
    let mut case = Case::usual();
    case.stay(4, 10, 85);
    case.stay(1, 10, 84);
    assert_eq!((case.decision().slot, case.decision().last, case.decision().count), (FIRST, FIRST + 4, 5));
    assert_eq!(case.decision().inputs.unwrap().free, 16, "the last one's");
    case.slot += 1;
    case.stay(1, 10, 85);
    assert_eq!((case.decision().last, case.decision().count, case.closed.len()), (FIRST + 6, 6, 0), "one was missed");
    assert_eq!(case.stay(1, 10, 90), Some(1));
    assert_eq!((case.closed.len(), case.closed[0].reason, case.closed[0].count), (1, Reason::WithinTarget, 6));
    case.sent(Outcome::Accepted);
    case.stay(1, 10, 90);
    case.stay(1, 11, 90);
    case.policy.mode = Mode::PausedIn;
    case.stay(1, 11, 90);
    let told: Vec<_> = case.closed.iter().map(|it| (it.slot - FIRST, it.reason, it.outcome)).collect();
    let expected = [
        (0, Reason::WithinTarget, None),
        (7, Reason::ScaledUp, Some(Outcome::Applied)),
        (8, Reason::InFlight, None),
        (9, Reason::WithinTarget, None),
    ];
    assert_eq!(told, expected, "another mode is another decision");
    assert_eq!(case.decision().slot, FIRST + 10);
}

#[test]
fn the_same_step_of_a_dry_run_is_told_once_and_another_one_again() {
    let mut case = Case::usual().with(Policy { mode: Mode::DryRun, ..Policy::default() });
    case.stay(3, 10, 90);
    case.stay(1, 10, 100);
    let told: Vec<_> = case.closed.iter().map(|it| (it.reason, it.delta, it.count)).collect();
    assert_eq!(told, [(Reason::DryRun, 1, 3)]);
    assert_eq!((case.decision().delta, case.decision().count), (2, 1));
}

#[test]
fn changes_of_direction_weigh_less_the_older_they_are() {
    let flaps = |deltas: &[i64]| {
        let mut case = Case::usual();
        case.state.scalings = (0..).map(|age| FIRST - 30 + age).zip(deltas.iter().copied()).collect();
        format!("{:.1}", case.state.flap_pct())
    };
    assert_eq!([flaps(&[]), flaps(&[1]), flaps(&[1, 5, 2]), flaps(&[-1, -1])], ["0.0"; 4]);
    // One of 20 changes, the youngest: 1.25 / 20.
    assert_eq!([flaps(&[1, -1]), flaps(&[-3, 1])], ["6.2"; 2]);
    let alternating: Vec<_> = (0..21).map(|n| if n % 2 == 0 { 1 } else { -1 }).collect();
    assert_eq!(flaps(&alternating), "100.0");
    // The oldest of them: 0.75 / 20.
    let mut once = vec![1; 21];
    once[0] = -1;
    assert_eq!(flaps(&once), "3.8");
    // Four changes of the last four are enough, three are not.
    assert_eq!([flaps(&[1, -1, 1, -1]), flaps(&[1, -1, 1, -1, 1])], ["18.4", "24.2"]);
}

/// Has added and taken away a host five times in a row; eleven hosts, and it flaps.
fn flapping() -> Case {
    let policy = Policy { window_seconds: 30, cooldown_after_up_seconds: 0, down_step_hosts: 9, ..Policy::default() };
    let mut case = Case::usual().with(policy);
    case.stay(1, 10, 85);
    for (hosts, busy, delta) in [(10, 90, 1), (11, 85, -1), (10, 90, 1), (11, 85, -1), (10, 90, 1)] {
        assert_eq!(case.stay(1, hosts, busy), Some(delta), "{}", case.words());
        assert!(!case.decision().flapping);
        case.sent(Outcome::Accepted);
    }
    case
}

#[test]
fn who_flaps_keeps_hosts_for_a_window_twice_as_long_and_says_so() {
    let mut case = flapping();
    assert_eq!((case.stay(1, 11, 85), case.reason()), (None, Reason::AnticipatedFlap));
    assert!(case.decision().flapping && case.decision().limits == [Limit::Window]);
    assert_eq!(case.decision().window, Some(11));
    assert_eq!(case.stay(1, 11, 85), Some(-1));
    // What the usual window keeps is kept for that.
    let mut case = flapping();
    case.policy.window_seconds = 60;
    assert_eq!((case.stay(1, 11, 85), case.reason()), (None, Reason::Stabilizing));
    assert_eq!((case.stay(1, 11, 85), case.reason()), (None, Reason::AnticipatedFlap));
}

#[test]
fn a_longer_window_does_not_make_up_for_bad_readings_in_the_usual_one() {
    let mut case = flapping();
    case.policy.window_seconds = 90;
    case.stay(4, 11, 85);
    case.bad(BadCode::Silent);
    // Five of six are good, but only two of three.
    assert_eq!((case.stay(1, 11, 85), case.reason()), (None, Reason::Stabilizing));
    assert_eq!(case.note(), "only 2 of the last 3 readings were good");
    assert_eq!((case.stay(1, 11, 85), case.stay(1, 11, 85)), (None, Some(-1)));
}

#[test]
fn flapping_is_forgotten_after_two_hours() {
    let mut case = flapping();
    // The first of the five was in the second slot; without it there are three changes.
    case.stay(236, 11, 90);
    assert!(case.decision().flapping);
    case.stay(1, 11, 90);
    assert!(!case.decision().flapping, "{:?}", case.state.scalings);
    assert_eq!(case.stay(1, 11, 85), Some(-1));
}

#[test]
fn many_steps_in_one_direction_end_flapping() {
    let mut case = flapping();
    let mut hosts = 11;
    for _ in 0..25 {
        let sent = case.stay(1, hosts, hosts * 10);
        hosts = hosts.checked_add_signed(sent.unwrap()).unwrap();
        case.sent(Outcome::Accepted);
    }
    assert_eq!((case.state.flap_pct(), case.state.scalings.len()), (0.0, 21));
}

#[test]
fn a_long_wait_after_an_addition_outlasts_the_memory_of_flapping() {
    let mut case = flapping();
    case.policy.cooldown_after_up_seconds = 86_400;
    case.stay(3, 11, 90);
    for _ in 0..40 {
        case.slot += 60;
        case.stay(5, 11, 85);
        assert_eq!(case.reason(), Reason::Cooldown, "{}", case.words());
    }
}
