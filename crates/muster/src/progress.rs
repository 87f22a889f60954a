//! Waits for a batch and shows how far it is: a bar on a terminal, a line now and then elsewhere.

use std::time::{Duration, Instant};

use batches::http::{BatchSummary, BatchView};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use jiff::Timestamp;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    client::Client,
    exit::{Exit, Failure},
    output::Output,
};

/// Shortest time between two looks: a bar need not move faster.
const PAUSE: Duration = Duration::from_millis(100);
/// How long an answer is held back while nothing changes, in seconds.
const HOLD: u8 = 1;
/// How often a line is written where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);
/// How long a server may be away before waiting for it is given up. A restart is much shorter.
const SERVER_AWAY: Duration = Duration::from_mins(1);

/// How long an interrupted command waits to hear what is registered.
const LAST_WORD: Duration = Duration::from_secs(5);

/// The address of a batch.
pub fn path(id: Uuid) -> String {
    format!("/api/v1/batches/{id}")
}

/// Waits until the batch `id` is final, or until `stop`; answers its last state.
///
/// `held` tells until when a worker of this process has to wait for another one.
pub async fn until_final(
    client: &Client,
    first: &BatchSummary,
    stop: &CancellationToken,
    held: Option<watch::Receiver<Option<Timestamp>>>,
    output: &Output,
) -> Result<BatchView, Failure> {
    let path = path(first.id);
    let mut screen = Screen::new(first, output);
    let mut away_since: Option<Instant> = None;
    loop {
        let asked_at = Instant::now();
        let answer = tokio::select! {
            answer = client.get_when_changed::<BatchView>(&path, HOLD) => answer,
            () = stop.cancelled() => return last_word(client, &path).await,
        };
        match answer {
            Ok(view) if view.summary.status.is_final() => {
                screen.end(&view.summary);
                return Ok(view);
            }
            Ok(view) => {
                away_since = None;
                let held = held.as_ref().and_then(|held| *held.borrow());
                screen.show(&view.summary, trouble(&view.summary, held, Timestamp::now()).as_deref());
            }
            Err(failure) if failure.exit == Exit::Away && client.server().is_some() => {
                if away_since.get_or_insert(asked_at).elapsed() > SERVER_AWAY {
                    return Err(failure);
                }
                screen.trouble(&format!("{}; trying again", failure.message));
            }
            Err(failure) => return Err(failure),
        }
        tokio::select! {
            () = tokio::time::sleep(PAUSE.saturating_sub(asked_at.elapsed())) => {}
            () = stop.cancelled() => {}
        }
        if away_since.is_some() {
            tokio::time::sleep(PAUSE * 5).await;
        }
    }
}

/// The batch as it is now, without waiting for a change, nor long for a server.
async fn last_word(client: &Client, path: &str) -> Result<BatchView, Failure> {
    let unknown = || {
        Failure::new("interrupted, and the server does not say what is registered")
            .hint("it goes on by itself where it runs")
    };
    let answer = tokio::time::timeout(LAST_WORD, client.get(path)).await;
    answer.unwrap_or_else(|_| Err(unknown())).map_err(|failure| failure.exit(Exit::Interrupted))
}

/// What is in the batch's way.
fn trouble(batch: &BatchSummary, held: Option<Timestamp>, now: Timestamp) -> Option<String> {
    let held = held.filter(|until| *until > now).map(|until| {
        let seconds = until.duration_since(now).as_secs() + 1;
        format!("another worker may be sending; going on within {seconds} s")
    });
    held.or_else(|| batch.last_error.clone())
}

/// What is shown of a batch that is being waited for.
struct Screen<'a> {
    bar: ProgressBar,
    output: &'a Output,
    began: Instant,
    /// Registered before this command began to wait.
    before: u64,
    size: u64,
    next_line: Instant,
    told: Option<String>,
}

impl<'a> Screen<'a> {
    fn new(first: &BatchSummary, output: &'a Output) -> Self {
        let target = if output.is_watched() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(first.batch_size), target);
        if let Ok(style) = ProgressStyle::with_template("{bar:32} {pos}/{len}  {msg}") {
            bar.set_style(style);
        }
        bar.set_position(first.registered);
        bar.tick();
        let now = Instant::now();
        Self {
            bar,
            output,
            began: now,
            before: first.registered,
            size: first.batch_size,
            next_line: now + LINE_EVERY,
            told: None,
        }
    }

    fn show(&mut self, batch: &BatchSummary, trouble: Option<&str>) {
        self.bar.set_position(batch.registered);
        let done = batch.registered.saturating_sub(self.before);
        let mut message = pace(done, self.size.saturating_sub(batch.registered), batch.conflicts, self.began.elapsed());
        if let Some(trouble) = trouble {
            message = format!("{message}  {trouble}");
        }
        self.bar.set_message(message.clone());
        self.write_line(&format!("{} of {} registered, {message}", batch.registered, self.size), trouble);
    }

    fn trouble(&mut self, trouble: &str) {
        self.bar.set_message(trouble.to_owned());
        self.write_line(trouble, Some(trouble));
    }

    /// Without a terminal: a line every now and then, and at once when there is new trouble.
    fn write_line(&mut self, line: &str, trouble: Option<&str>) {
        // The seconds to wait change all the time; the words before them say what it is.
        let kind = |text: &str| text.split(|it: char| it.is_ascii_digit()).next().unwrap_or_default().to_owned();
        let trouble = trouble.map(kind);
        let is_news = trouble.is_some() && trouble != self.told;
        self.told = trouble;
        if self.bar.is_hidden() && (is_news || Instant::now() >= self.next_line) {
            self.next_line = Instant::now() + LINE_EVERY;
            self.output.note(line);
        }
    }

    fn end(&self, batch: &BatchSummary) {
        self.bar.set_position(batch.registered);
        self.bar.finish_and_clear();
        let took = self.began.elapsed().as_secs_f64();
        self.output.note(&format!(
            "{}: {} of {} registered, {} in {took:.1} s",
            batch.status.as_str(),
            batch.registered,
            batch.batch_size,
            crate::output::count(batch.conflicts, "conflict"),
        ));
    }
}

impl Drop for Screen<'_> {
    /// What is written next must not land in the middle of the bar.
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// The rate since the wait began, the conflicts, and the time that remains at this rate.
fn pace(done: u64, left: u64, conflicts: u64, elapsed: Duration) -> String {
    let conflicts = crate::output::count(conflicts, "conflict");
    #[allow(clippy::cast_precision_loss)] // shown with three digits
    let rate = done as f64 / elapsed.as_secs_f64();
    if done == 0 || !rate.is_finite() || rate <= 0.0 {
        return conflicts;
    }
    #[allow(clippy::cast_precision_loss)]
    let seconds = (left as f64 / rate).ceil();
    let digits = usize::from(rate < 10.0);
    format!("{rate:.digits$}/s, {conflicts}, {} left", duration(seconds))
}

fn duration(seconds: f64) -> String {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // saturates; shown only
    let seconds = seconds as u64;
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds} s"),
        (0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (hours, minutes, _) => format!("{hours} h {minutes} min"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_remaining_time_follows_from_the_rate_of_this_wait() {
        assert_eq!(pace(0, 100, 0, Duration::from_secs(1)), "0 conflicts");
        assert_eq!(pace(50, 100, 1, Duration::from_secs(1)), "50/s, 1 conflict, 2 s left");
        assert_eq!(pace(5, 1000, 2, Duration::from_secs(2)), "2.5/s, 2 conflicts, 6 min 40 s left");
        assert_eq!(pace(100, 1_000_000, 0, Duration::from_secs(1)), "100/s, 0 conflicts, 2 h 46 min left");
        assert_eq!(pace(1, 1, 0, Duration::ZERO), "0 conflicts");
    }
}
