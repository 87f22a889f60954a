//! Snapshots made into a graph: few points, no peak lost.
//!
//! A worker leaves one snapshot a minute, so two weeks are 20,160 of them. They are put into buckets
//! of whole minutes, and each bucket keeps its minimum, average and maximum. The buckets are aligned
//! to the epoch and not to the window: a graph that is drawn again shows the same points, moved.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Span, SpanRelativeTo, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The most points in a graph.
pub const MOST: usize = 500;

/// One snapshot of a service. The averages are over the servers that reported: the healthy and the
/// unhealthy. Kept by the thousand, hence the short names in the store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// When it was taken.
    pub at: Timestamp,
    /// How many servers there were: `healthy`, `unhealthy` and `unknown` together.
    pub servers: u32,
    /// How many were within the thresholds.
    pub healthy: u32,
    /// How many were above one.
    pub unhealthy: u32,
    /// How many did not answer, or answered nonsense.
    pub unknown: u32,
    /// Average CPU, per cent; none where no server reported.
    #[serde(rename = "cpu")]
    pub cpu_pct: Option<f64>,
    /// Average memory, per cent; none where no server reported.
    #[serde(rename = "memory")]
    pub memory_pct: Option<f64>,
}

/// What a value did within one bucket.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Band {
    /// The lowest of the bucket.
    pub min: f64,
    /// The mean of the bucket's snapshots.
    pub avg: f64,
    /// The highest of the bucket.
    pub max: f64,
}

/// One point of a graph.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Point {
    /// Where its bucket begins, which may be before the window does. RFC 3339, UTC.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// How many snapshots are in it, at least one.
    pub samples: u32,
    /// How many servers there were.
    pub servers: Band,
    /// How many of them were healthy.
    pub healthy: Band,
    /// The service's average CPU, per cent; none where no server reported.
    pub cpu_pct: Option<Band>,
    /// The service's average memory, per cent; none where no server reported.
    pub memory_pct: Option<Band>,
}

/// How long a bucket is in a graph of `window`: whole minutes, as few as keep it within [`MOST`]
/// points wherever the window begins.
pub fn resolution(window: SignedDuration) -> SignedDuration {
    // A window that begins within a bucket also ends within one: it touches one more than fit in.
    let longest = SignedDuration::from_mins(1).as_nanos() * (MOST as i128 - 1);
    let window = window.as_nanos().max(1);
    let minutes = (window - 1) / longest + 1;
    SignedDuration::from_mins(i64::try_from(minutes).unwrap_or(i64::MAX / 60))
}

/// The points of a graph from `from` to `to`, both included, the oldest first. Samples come in any
/// order; buckets without any are left out. A `resolution` below a minute counts as one.
pub fn down_sample(
    samples: impl IntoIterator<Item = Sample>,
    from: Timestamp,
    to: Timestamp,
    resolution: SignedDuration,
) -> Vec<Point> {
    let length = resolution.max(SignedDuration::from_mins(1)).as_nanos();
    let mut buckets = BTreeMap::<i128, Bucket>::new();
    for sample in samples.into_iter().filter(|sample| (from..=to).contains(&sample.at)) {
        buckets.entry(sample.at.as_nanosecond().div_euclid(length)).or_default().add(&sample);
    }
    buckets.into_iter().filter_map(|(number, bucket)| bucket.point(number * length)).collect()
}

/// What is known of a bucket while samples come in.
#[derive(Default)]
struct Bucket {
    samples: u32,
    servers: Spread,
    healthy: Spread,
    cpu_pct: Spread,
    memory_pct: Spread,
}

impl Bucket {
    fn add(&mut self, sample: &Sample) {
        self.samples += 1;
        self.servers.add(sample.servers.into());
        self.healthy.add(sample.healthy.into());
        sample.cpu_pct.into_iter().for_each(|value| self.cpu_pct.add(value));
        sample.memory_pct.into_iter().for_each(|value| self.memory_pct.add(value));
    }

    /// None only for a bucket that nothing was added to.
    fn point(&self, start: i128) -> Option<Point> {
        Some(Point {
            // Only the very first bucket of all time begins before time does.
            at: Timestamp::from_nanosecond(start).unwrap_or(Timestamp::MIN),
            samples: self.samples,
            servers: self.servers.band()?,
            healthy: self.healthy.band()?,
            cpu_pct: self.cpu_pct.band(),
            memory_pct: self.memory_pct.band(),
        })
    }
}

struct Spread {
    min: f64,
    max: f64,
    sum: f64,
    count: u32,
}

impl Default for Spread {
    fn default() -> Self {
        Self { min: f64::INFINITY, max: f64::NEG_INFINITY, sum: 0.0, count: 0 }
    }
}

impl Spread {
    fn add(&mut self, value: f64) {
        self.min = self.min.min(value);
        self.max = self.max.max(value);
        self.sum += value;
        self.count += 1;
    }

    fn band(&self) -> Option<Band> {
        let avg = self.sum / f64::from(self.count);
        // Rounding can put the mean of equal values a hair beside them.
        (self.count > 0).then(|| Band { min: self.min, avg: avg.max(self.min).min(self.max), max: self.max })
    }
}

/// Shortest window of a graph.
const SHORTEST: SignedDuration = SignedDuration::from_mins(1);
/// Longest window of a graph: as long as snapshots are kept.
const LONGEST: SignedDuration = SignedDuration::from_hours(14 * 24);

/// Why a window is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WindowError {
    /// It cannot be read.
    #[error("is not a duration; give one from 1 minute to 14 days, such as 5m, 1h, 1h 30m, 24h or 14d")]
    NotADuration,
    /// It is shorter than a minute or longer than 14 days.
    #[error("is out of range; give a duration from 1 minute to 14 days, such as 5m, 1h, 1h 30m, 24h or 14d")]
    OutOfRange,
}

/// Reads a window: `5m`, `1h`, `1h 30m`, `24h`, `14d`, `2w`, or ISO 8601 (`PT1H`); 1 minute to 14
/// days. A day is 24 hours; months and years are no fixed time and so no windows.
pub fn parse_window(text: &str) -> Result<SignedDuration, WindowError> {
    let span: Span = text.parse().map_err(|_| WindowError::NotADuration)?;
    let window = span.to_duration(SpanRelativeTo::days_are_24_hours()).map_err(|_| WindowError::OutOfRange)?;
    if (SHORTEST..=LONGEST).contains(&window) { Ok(window) } else { Err(WindowError::OutOfRange) }
}

/// How a service differs from what it was.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Trend {
    /// When the snapshot that it is compared with was taken. RFC 3339, UTC.
    #[schema(value_type = String, format = DateTime)]
    pub against: Timestamp,
    /// By how much the average CPU rose, in percentage points; none where one of the two is unknown.
    pub cpu_pct: Option<f64>,
    /// By how much the average memory rose, in percentage points; none where one of the two is unknown.
    pub memory_pct: Option<f64>,
    /// How many healthy servers more there are.
    pub healthy: i64,
}

/// How `now` differs from `then`.
pub fn trend(now: &Sample, then: &Sample) -> Trend {
    let rise = |now: Option<f64>, then: Option<f64>| Some(now? - then?);
    Trend {
        against: then.at,
        cpu_pct: rise(now.cpu_pct, then.cpu_pct),
        memory_pct: rise(now.memory_pct, then.memory_pct),
        healthy: i64::from(now.healthy) - i64::from(then.healthy),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    const MINUTE: SignedDuration = SignedDuration::from_mins(1);

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn sample(second: i64, cpu_pct: Option<f64>, healthy: u32) -> Sample {
        let memory_pct = cpu_pct.map(|cpu| 100.0 - cpu);
        Sample { at: at(second), servers: healthy + 2, healthy, unhealthy: 1, unknown: 1, cpu_pct, memory_pct }
    }

    #[test]
    fn a_bucket_keeps_minimum_average_and_maximum() {
        let samples = [sample(130, Some(20.0), 4), sample(190, None, 1), sample(299, Some(50.0), 4)];
        let points = down_sample(samples, at(0), at(1000), MINUTE * 3);
        let band = |min, avg, max| Band { min, avg, max };
        let expected = [
            Point {
                at: at(0),
                samples: 1,
                servers: band(6.0, 6.0, 6.0),
                healthy: band(4.0, 4.0, 4.0),
                cpu_pct: Some(band(20.0, 20.0, 20.0)),
                memory_pct: Some(band(80.0, 80.0, 80.0)),
            },
            Point {
                at: at(180),
                samples: 2,
                servers: band(3.0, 4.5, 6.0),
                healthy: band(1.0, 2.5, 4.0),
                cpu_pct: Some(band(50.0, 50.0, 50.0)),
                memory_pct: Some(band(50.0, 50.0, 50.0)),
            },
        ];
        assert_eq!(points, expected);
    }

    /// A third of 0.1 + 0.1 + 0.1 is more than 0.1 in floating point.
    #[test]
    fn the_average_of_equal_values_is_that_value() {
        let points = down_sample([0, 1, 2].map(|second| sample(second, Some(0.1), 1)), at(0), at(59), MINUTE);
        assert_eq!(points[0].cpu_pct, Some(Band { min: 0.1, avg: 0.1, max: 0.1 }));
    }

    #[test]
    fn where_no_server_reported_there_is_no_average() {
        let points = down_sample([sample(60, None, 0)], at(0), at(600), MINUTE);
        assert_eq!((points[0].cpu_pct, points[0].memory_pct), (None, None));
    }

    #[test]
    fn both_ends_of_the_window_belong_to_it() {
        let samples = [59, 60, 600, 601].map(|second| sample(second, None, 1));
        let points = down_sample(samples, at(60), at(600), MINUTE);
        assert_eq!(
            points.iter().map(|point| (point.at, point.samples)).collect::<Vec<_>>(),
            [(at(60), 1), (at(600), 1)]
        );
    }

    #[test]
    fn the_first_and_the_last_moment_of_time_have_a_place() {
        let edges = [Timestamp::MIN, Timestamp::MAX].map(|at| Sample { at, ..sample(0, None, 1) });
        let points = down_sample(edges, Timestamp::MIN, Timestamp::MAX, MINUTE * 41);
        assert_eq!(points.len(), 2);
        assert_eq!(down_sample([], Timestamp::MIN, Timestamp::MAX, MINUTE), []);
    }

    #[test]
    fn a_resolution_below_a_minute_counts_as_one() {
        for resolution in [SignedDuration::MIN, SignedDuration::ZERO, SignedDuration::from_secs(1)] {
            let points = down_sample([70, 110].map(|second| sample(second, None, 1)), at(0), at(600), resolution);
            assert_eq!(points.iter().map(|point| (point.at, point.samples)).collect::<Vec<_>>(), [(at(60), 2)]);
        }
    }

    #[test]
    fn a_point_a_minute_as_long_as_they_fit() {
        for (window, minutes) in [
            (SignedDuration::MIN, 1),
            (SignedDuration::ZERO, 1),
            (MINUTE, 1),
            (MINUTE * 60, 1),
            (MINUTE * 499, 1),
            (MINUTE * 499 + SignedDuration::from_nanos(1), 2),
            (MINUTE * 60 * 24, 3),
            (LONGEST, 41),
        ] {
            assert_eq!(resolution(window), MINUTE * minutes, "{window}");
        }
        assert!(resolution(SignedDuration::MAX) > LONGEST);
    }

    #[test]
    fn windows_are_read() {
        let hours = SignedDuration::from_hours;
        for (text, expected) in [
            ("1m", MINUTE),
            ("60s", MINUTE),
            ("5m", MINUTE * 5),
            ("1h", hours(1)),
            ("1h 30m", MINUTE * 90),
            ("1h30m", MINUTE * 90),
            ("1.5h", MINUTE * 90),
            ("90 minutes", MINUTE * 90),
            ("PT90M", MINUTE * 90),
            ("24h", hours(24)),
            ("1d", hours(24)),
            ("2w", LONGEST),
            ("14d", LONGEST),
            ("336h", LONGEST),
        ] {
            assert_eq!(parse_window(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn windows_that_are_none_are_refused() {
        for text in ["", "1", "h", "1x", "five minutes", "1h,", "5m; rm", "١h", "1h 1h"] {
            assert_eq!(parse_window(text), Err(WindowError::NotADuration), "{text}");
        }
        for text in ["0s", "59s", "59.999999999s", "-1h", "1h ago", "14d 1ns", "15d", "3w", "1mo", "1y"] {
            assert_eq!(parse_window(text), Err(WindowError::OutOfRange), "{text}");
        }
        for error in [WindowError::NotADuration, WindowError::OutOfRange] {
            assert!(error.to_string().contains("from 1 minute to 14 days"), "{error}");
        }
    }

    #[test]
    fn a_trend_is_now_less_then() {
        let (then, now) = (sample(0, Some(61.0), 4), sample(300, Some(60.5), 1));
        let expected = Trend { against: at(0), cpu_pct: Some(-0.5), memory_pct: Some(0.5), healthy: -3 };
        assert_eq!(trend(&now, &then), expected);
        let silent = sample(0, None, 0);
        for (now, then) in [(&now, &silent), (&silent, &now)] {
            let trend = trend(now, then);
            assert_eq!((trend.cpu_pct, trend.memory_pct), (None, None));
        }
    }

    fn orders() -> impl Strategy<Value = (Vec<Sample>, Vec<Sample>)> {
        samples().prop_flat_map(|samples| (Just(samples.clone()), Just(samples).prop_shuffle()))
    }

    fn samples() -> impl Strategy<Value = Vec<Sample>> {
        let percent = prop_oneof![3 => (0.0..100.0).prop_map(Some), 1 => Just(Some(0.1)), 1 => Just(None)];
        let sample = (-10_000_i64..100_000, percent, 0_u32..20)
            .prop_map(|(second, cpu_pct, healthy)| sample(second, cpu_pct, healthy));
        prop::collection::vec(sample, 0..300)
    }

    /// The lowest and the highest of some values.
    fn extremes(values: impl Iterator<Item = f64> + Clone) -> (Option<f64>, Option<f64>) {
        (values.clone().min_by(f64::total_cmp), values.max_by(f64::total_cmp))
    }

    #[expect(clippy::cast_precision_loss, reason = "a few hundred")]
    fn mean(values: &[f64]) -> f64 {
        values.iter().sum::<f64>() / values.len() as f64
    }

    /// A value of a sample, and where it is in a point.
    type Value = (fn(&Sample) -> Option<f64>, fn(&Point) -> Option<Band>);

    fn values() -> [Value; 4] {
        [
            (|sample| Some(sample.servers.into()), |point| Some(point.servers)),
            (|sample| Some(sample.healthy.into()), |point| Some(point.healthy)),
            (|sample| sample.cpu_pct, |point| point.cpu_pct),
            (|sample| sample.memory_pct, |point| point.memory_pct),
        ]
    }

    fn near(one: f64, other: f64) -> bool {
        (one - other).abs() < 1e-9
    }

    proptest! {
        #[test]
        fn nothing_is_lost_by_down_sampling(
            samples in samples(), from in -20_000_i64..50_000, length in 0_i64..150_000, minutes in 1_i32..60,
        ) {
            let (from, to) = (at(from), at(from + length));
            let points = down_sample(samples.clone(), from, to, MINUTE * minutes);
            let inside: Vec<_> = samples.into_iter().filter(|sample| from <= sample.at && sample.at <= to).collect();

            prop_assert_eq!(points.iter().map(|point| point.samples as usize).sum::<usize>(), inside.len());
            for (value, band) in values() {
                let (low, high) = extremes(inside.iter().filter_map(value));
                prop_assert_eq!(low, extremes(points.iter().filter_map(band).map(|band| band.min)).0);
                prop_assert_eq!(high, extremes(points.iter().filter_map(band).map(|band| band.max)).1);
                for point in &points {
                    let bucket = point.at..point.at + MINUTE * minutes;
                    let values: Vec<_> =
                        inside.iter().filter(|sample| bucket.contains(&sample.at)).filter_map(value).collect();
                    let Some(band) = band(point) else {
                        prop_assert!(values.is_empty());
                        continue;
                    };
                    prop_assert_eq!(extremes(values.iter().copied()), (Some(band.min), Some(band.max)));
                    prop_assert!(near(band.avg, mean(&values)));
                    prop_assert!(band.min <= band.avg && band.avg <= band.max);
                }
            }
        }

        #[test]
        fn points_are_aligned_ordered_and_the_same_in_any_order(
            (samples, shuffled) in orders(), minutes in 1_i32..60,
        ) {
            let points = |samples| down_sample(samples, at(-10_000), at(100_000), MINUTE * minutes);
            let (points, others) = (points(samples), points(shuffled));
            for point in &points {
                prop_assert_eq!(point.at.as_second().rem_euclid(60 * i64::from(minutes)), 0);
            }
            prop_assert!(points.is_sorted_by(|one, next| one.at < next.at));
            prop_assert_eq!(points.len(), others.len());
            for (point, other) in points.iter().zip(&others) {
                prop_assert_eq!((point.at, point.samples), (other.at, other.samples));
                prop_assert!(near(point.healthy.avg, other.healthy.avg));
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// A sample in every minute and one at the end, so no bucket of the window is empty.
        #[test]
        fn never_more_points_than_the_most(
            start in 1_700_000_000_000_i64..1_702_000_000_000, milliseconds in 60_000_i64..=14 * 86_400_000,
        ) {
            let window = SignedDuration::from_millis(milliseconds);
            let length = resolution(window);
            let from = Timestamp::from_millisecond(start).unwrap();
            let to = from + window;
            let steps = (0..).map(|step| from + MINUTE * step).take_while(|moment| *moment < to);
            let samples = steps.chain([to]).map(|at| Sample { at, ..sample(0, None, 1) });
            let points = down_sample(samples, from, to, length);
            let bucket = |moment: Timestamp| moment.as_nanosecond().div_euclid(length.as_nanos());
            prop_assert_eq!(points.len() as i128, bucket(to) - bucket(from) + 1);
            prop_assert!(points.len() <= MOST, "{} points", points.len());
            prop_assert!(points.iter().all(|point| point.at <= to && from < point.at + length));
        }
    }

    #[test]
    fn the_resolution_is_the_finest_that_fits() {
        for minutes in 1..=20_160_i32 {
            let (window, length) = (MINUTE * minutes, resolution(MINUTE * minutes));
            // The worst that can be: a window that begins in a bucket's last nanosecond.
            let points = |length: SignedDuration| (window.as_nanos() - 1) / length.as_nanos() + 2;
            assert!(points(length) <= MOST as i128, "{window}");
            assert!(length == MINUTE || points(length - MINUTE) > MOST as i128, "{window}");
        }
    }
}
