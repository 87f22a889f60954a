//! How far a launch is, on standard error: a bar on a terminal, lines elsewhere.

use std::time::{Duration, Instant};

use ::devices::{
    device::{State, Then},
    http::{AttemptView, DeviceView},
};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use jiff::Timestamp;

use super::{
    table,
    view::{STEPS, is_settled, of_attempt, present, step},
};
use crate::output::{Output, printable};

/// How often a line is written where there is no terminal and nothing new.
const LINE_EVERY: Duration = Duration::from_secs(30);
/// How often the elapsed time moves on a terminal.
const TICK: Duration = Duration::from_millis(200);

/// What is shown of a device that is being waited for.
pub struct Screen<'a> {
    bar: ProgressBar,
    output: &'a Output,
    /// Ended attempts that were told of.
    told: usize,
    line: String,
    next_line: Instant,
    trouble: Option<String>,
}

impl<'a> Screen<'a> {
    pub fn new(output: &'a Output) -> Self {
        let target = if output.is_watched() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(100), target);
        if let Ok(style) = ProgressStyle::with_template("{bar:20} {percent:>3} %  {msg}, {elapsed}") {
            bar.set_style(style);
        }
        if !bar.is_hidden() {
            bar.enable_steady_tick(TICK);
        }
        Self { bar, output, told: 0, line: String::new(), next_line: Instant::now() + LINE_EVERY, trouble: None }
    }

    /// Attempts that ended before this wait are nobody's news.
    pub fn skip(&mut self, view: &DeviceView) {
        self.told = ended(view).count();
    }

    /// Shows the device as it is now.
    pub fn show(&mut self, view: &DeviceView, now: Timestamp) {
        for attempt in ended(view).skip(self.told) {
            self.write(&table::attempt(attempt, now));
            self.told += 1;
        }
        let line = standing(view);
        let percent = match view.state {
            State::Requested | State::Creating | State::Deleting => 0,
            State::Provisioning => view.percent,
            State::Active | State::Deleted | State::Failed => 100,
        };
        self.bar.set_position(percent.into());
        let trouble = view.trouble.as_deref().map(printable);
        let message = trouble.as_ref().map_or_else(|| line.clone(), |trouble| format!("{line}; {trouble}"));
        self.bar.set_message(message.clone());
        let is_news = line != self.line || trouble != self.trouble;
        (self.line, self.trouble) = (line, trouble);
        if self.bar.is_hidden() && !is_settled(view) && (is_news || Instant::now() >= self.next_line) {
            self.next_line = Instant::now() + LINE_EVERY;
            let elapsed = table::lasting(now.duration_since(view.created_at));
            self.output.note(&format!("{message}, {elapsed}"));
        }
    }

    /// Says something about the way to the device, such as that the server is away.
    pub fn trouble(&mut self, words: &str) {
        self.bar.set_message(words.to_owned());
        if self.bar.is_hidden() && self.line != words {
            self.output.note(words);
        }
        words.clone_into(&mut self.line);
    }

    /// Writes a line above the bar.
    fn write(&self, line: &str) {
        if self.bar.is_hidden() {
            self.output.note(line);
        } else {
            self.bar.suspend(|| self.output.note(line));
        }
    }
}

impl Drop for Screen<'_> {
    /// What is written next must not land in the middle of the bar.
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

fn ended(view: &DeviceView) -> impl Iterator<Item = &AttemptView> {
    view.attempts.iter().filter(|attempt| attempt.ended_at.is_some())
}

/// `Attempt 2 of 10: debian_12 on c3.small.x86 in ewr1, step 4 of 10, 40 %`.
fn standing(view: &DeviceView) -> String {
    let attempt = present(view).map(|it| {
        let most = view.request.max_attempts.max(it.number);
        format!("Attempt {} of {most}: {}, {}", it.number, of_attempt(it), table::price(it.price))
    });
    match (view.state, attempt) {
        (State::Requested, None) => "Choosing a combination".to_owned(),
        (State::Requested | State::Creating, Some(attempt)) => format!("{attempt}, asking for it"),
        (State::Creating, None) => "Asking for it".to_owned(),
        (State::Provisioning, Some(attempt)) => {
            let step = present(view).map(step).unwrap_or_default();
            format!("{attempt}, step {step} of {STEPS}, {} %", view.percent)
        }
        (State::Provisioning, None) => format!("Installing, {} %", view.percent),
        (State::Active, _) => "Up".to_owned(),
        (State::Deleting, _) => {
            let next = match view.after_deletion {
                Some(Then::TryNext) => ", then the next combination",
                _ => "",
            };
            let why = view.reason.as_ref().map(|why| format!(" ({})", table::reason(why))).unwrap_or_default();
            let overdue = if view.overdue { "; it takes longer than it may" } else { "" };
            format!("Taking it down{why}{overdue}{next}")
        }
        (State::Deleted, _) => "Gone".to_owned(),
        (State::Failed, _) => "Failed".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::device::table::tests::{launching, view};

    #[test]
    fn what_is_tried_is_told_with_its_step() {
        let mut it = launching();
        assert_eq!(
            standing(&view(it.clone())),
            "Attempt 2 of 10: debian_12 on c3.small.x86 in ewr1, 0.5 $/h, step 4 of 10, 40 %"
        );
        it["state"] = "Creating".into();
        assert!(standing(&view(it.clone())).ends_with("in ewr1, 0.5 $/h, asking for it"));
        (it["state"], it["after_deletion"], it["overdue"]) = ("Deleting".into(), "try_next".into(), true.into());
        it["reason"] = json!({"code": "Stalled", "detail": "nothing new"});
        assert_eq!(
            standing(&view(it.clone())),
            "Taking it down (Stalled: nothing new); it takes longer than it may, then the next combination"
        );
        (it["state"], it["attempts"]) = ("Requested".into(), json!([]));
        assert_eq!(standing(&view(it)), "Choosing a combination");
    }
}
