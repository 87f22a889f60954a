//! How many servers of a deployment are busy, over time.

use std::{f64::consts::TAU, time::Duration};

use serde::{Deserialize, Serialize};

use crate::faults::Draw;

/// How often a curve without edges of its own moves.
pub const GRID: Duration = Duration::from_secs(10);

const DAY: Duration = Duration::from_hours(24);

/// From one turning point of [`Load::Noise`] to the next.
const TURN: Duration = Duration::from_mins(1);

/// How many servers are wanted, as a pure function of the time since the start. Counts are in
/// servers; durations are text in JSON (`{"curve": "spike", "busy": 40, "high": 90, "at": "1h",
/// "lasts": "5m"}`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "curve", rename_all = "snake_case", deny_unknown_fields)]
pub enum Load {
    /// Always the same.
    Steady {
        /// So many.
        busy: u64,
    },
    /// A sine over 24 hours, the same every day.
    Daily {
        /// At night.
        low: u64,
        /// At the peak.
        high: u64,
        /// When the peak is.
        #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
        peak_at: Duration,
    },
    /// Sudden jumps up and back.
    Spike {
        /// Outside of them.
        busy: u64,
        /// Within.
        high: u64,
        /// When the first begins.
        #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
        at: Duration,
        /// How long each lasts.
        #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
        lasts: Duration,
        /// From the beginning of one to the next; without it there is one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::optional")]
        every: Option<Duration>,
    },
    /// Up and down around a level.
    Noise {
        /// The middle.
        level: u64,
        /// How far it strays, to either side; never below 0.
        swing: u64,
        /// The same seed strays in the same way.
        #[serde(default)]
        seed: u64,
    },
    /// In a straight line from one number to another, where it stays.
    Ramp {
        /// Before.
        from: u64,
        /// Afterwards.
        to: u64,
        /// When it begins.
        #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
        at: Duration,
        /// How long it takes.
        #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
        lasts: Duration,
    },
    /// A table: each number holds until the next, the first also before it.
    Points {
        /// By time.
        points: Vec<Point>,
    },
}

/// From a time on, so many servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Point {
    /// Since the start.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub at: Duration,
    /// How many.
    pub busy: u64,
}

impl Load {
    /// How many servers are wanted at a time.
    pub fn busy(&self, at: Duration) -> u64 {
        match self {
            Self::Steady { busy } => *busy,
            Self::Daily { low, high, peak_at } => {
                let from_peak = (on_grid(at) + DAY).saturating_sub(since_midnight(*peak_at));
                let angle = TAU * since_midnight(from_peak).div_duration_f64(DAY);
                between(*low, *high, f64::midpoint(1.0, angle.cos()))
            }
            Self::Spike { busy, high, at: first, lasts, every } => match last_spike(at, *first, *every) {
                Some(began) if at < began.saturating_add(*lasts) => *high,
                _ => *busy,
            },
            Self::Noise { level, swing, seed } => {
                let (number, way) = (on_grid(at).as_secs() / TURN.as_secs(), on_grid(at).as_secs() % TURN.as_secs());
                let turn = |number| Draw::lasting(*seed, number).fraction("turning point");
                let way = Duration::from_secs(way).div_duration_f64(TURN);
                let share = turn(number) * (1.0 - way) + turn(number + 1) * way;
                between(level.saturating_sub(*swing), level.saturating_add(*swing), share)
            }
            Self::Ramp { from, to, at: begins, lasts } => {
                let gone = on_grid(at).saturating_sub(*begins);
                if gone >= *lasts && on_grid(at) >= *begins {
                    return *to;
                }
                between(*from, *to, gone.div_duration_f64(*lasts))
            }
            Self::Points { points } => {
                let point = points.iter().rev().find(|point| point.at <= at).or(points.first());
                point.map_or(0, |point| point.busy)
            }
        }
    }

    /// Until when the number at a time holds for sure; `None` is forever.
    pub fn holds_until(&self, at: Duration) -> Option<Duration> {
        match self {
            Self::Steady { .. } => None,
            Self::Daily { .. } | Self::Noise { .. } => Some(on_grid(at) + GRID),
            Self::Ramp { at: begins, lasts, .. } => {
                (on_grid(at) < begins.saturating_add(*lasts)).then(|| on_grid(at) + GRID)
            }
            Self::Spike { at: first, lasts, every, .. } => match last_spike(at, *first, *every) {
                None => Some(*first),
                Some(began) if at < began.saturating_add(*lasts) => Some(began.saturating_add(*lasts)),
                Some(began) => every.map(|every| began.saturating_add(every)),
            },
            Self::Points { points } => points.iter().map(|point| point.at).find(|next| *next > at),
        }
    }

    /// Why there can be no such curve.
    pub(super) fn check(&self) -> Result<(), String> {
        match self {
            Self::Spike { lasts, every: Some(every), .. } if every <= lasts => {
                Err("a spike ends before the next begins: `lasts` must be less than `every`".to_owned())
            }
            Self::Points { points } if points.is_empty() => Err("`points` must have one point at least".to_owned()),
            Self::Points { points } if !points.is_sorted_by(|one, next| one.at < next.at) => {
                Err("each of `points` must be later than the one before".to_owned())
            }
            _ => Ok(()),
        }
    }
}

fn on_grid(at: Duration) -> Duration {
    Duration::from_secs(at.as_secs() / GRID.as_secs() * GRID.as_secs())
}

fn since_midnight(at: Duration) -> Duration {
    Duration::from_secs(at.as_secs() % DAY.as_secs())
}

/// When the last spike began.
fn last_spike(at: Duration, first: Duration, every: Option<Duration>) -> Option<Duration> {
    let since = at.checked_sub(first)?;
    let Some(every) = every.filter(|every| !every.is_zero()) else { return Some(first) };
    let ago = u64::try_from(since.as_nanos() % every.as_nanos()).unwrap_or(u64::MAX);
    Some(at.saturating_sub(Duration::from_nanos(ago)))
}

/// So far (0 to 1) on the way from one number to another.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rounded share of a count is not negative, and need not be exact above 2^53"
)]
fn between(from: u64, to: u64, share: f64) -> u64 {
    let way = (from.abs_diff(to) as f64 * share).round() as u64;
    if from <= to { from.saturating_add(way) } else { from.saturating_sub(way) }
}
