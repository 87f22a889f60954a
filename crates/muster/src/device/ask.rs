//! Questions to whoever sits at the terminal.

use std::io::{self, IsTerminal as _};

use ::devices::http::DeviceView;

use super::args::OnInterrupt;
use crate::output::Output;

/// Whether somebody can be asked, and can answer.
pub fn is_possible() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Asks what becomes of a device that is being launched. Without an answer it is kept: what goes on
/// can still be taken down, the other way round it cannot.
pub async fn keep_or_tear_down(output: &Output, device: &DeviceView) -> OnInterrupt {
    loop {
        let question = format!("Keep device {}, or tear it down? [keep/teardown] ", device.id);
        let Some(answer) = answer(output, &question).await else { return OnInterrupt::Keep };
        if let Some(choice) = choice(&answer) {
            return choice;
        }
    }
}

/// Asks before something is destroyed; whether the answer is yes.
pub async fn is_sure(output: &Output, question: &str) -> bool {
    let answer = answer(output, &format!("{question} [y/N] ")).await.unwrap_or_default();
    matches!(answer.to_ascii_lowercase().as_str(), "y" | "yes")
}

fn choice(answer: &str) -> Option<OnInterrupt> {
    match answer.to_ascii_lowercase().as_str() {
        "k" | "keep" => Some(OnInterrupt::Keep),
        "t" | "teardown" | "tear down" => Some(OnInterrupt::Teardown),
        _ => None,
    }
}

/// A line of the terminal; none where it has ended.
async fn answer(output: &Output, question: &str) -> Option<String> {
    output.prompt(question);
    let read = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        io::stdin().read_line(&mut line).ok().filter(|read| *read > 0).map(|_| line.trim().to_owned())
    });
    read.await.ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_a_word_or_its_first_letter_and_nothing_else_counts() {
        assert_eq!(choice("K"), Some(OnInterrupt::Keep));
        assert_eq!(choice("teardown"), Some(OnInterrupt::Teardown));
        assert_eq!(choice("t"), Some(OnInterrupt::Teardown));
        assert_eq!(choice(""), None);
        assert_eq!(choice("yes"), None);
    }
}
