//! Arithmetic of measurements.

use std::time::Duration;

/// The middle of `values`, or the upper of the two in the middle; 0 of none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

/// The highest of `values`; 0 of none.
pub fn worst(values: &[f64]) -> f64 {
    values.iter().copied().fold(0.0, f64::max)
}

/// So many in a second.
pub fn per_second(count: u64, time: Duration) -> f64 {
    as_f64(count) / time.as_secs_f64()
}

/// A time in milliseconds.
pub fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// Counts here are exact in an f64: far below 2^53.
#[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
pub fn as_f64(count: u64) -> f64 {
    count as f64
}
