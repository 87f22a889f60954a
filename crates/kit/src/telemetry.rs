//! Logs: one JSON object per line on Lambda, lines for people on standard error elsewhere.
//!
//! What is logged is chosen by the first of `MUSTER_LOG`, `RUST_LOG` (both in the syntax of
//! [`EnvFilter`]: `info,batches=debug`) and `AWS_LAMBDA_LOG_LEVEL` (one level, set by the function's
//! logging configuration) that is there. Secrets are never logged at any level: what holds one has no
//! `Debug` that shows it.

use std::io::IsTerminal;

use tracing::{Subscriber, level_filters::LevelFilter};
use tracing_subscriber::{EnvFilter, fmt::MakeWriter, util::SubscriberInitExt};

/// Starts logging for where the process runs. Does nothing where logging has been started.
pub fn init() {
    if std::env::var_os("AWS_LAMBDA_FUNCTION_NAME").is_none() {
        init_for_people("info");
        return;
    }
    if for_lambda(filter("info", |name| std::env::var(name).ok()), std::io::stdout).try_init().is_ok() {
        // The default hook prints several lines that no query over JSON logs would find.
        std::panic::set_hook(Box::new(|panic| {
            let at = panic.location().map(ToString::to_string);
            tracing::error!(panic = panic.payload_as_str().unwrap_or("(no message)"), at, "panicked");
        }));
    }
}

/// Starts logging to standard error, in colour on a terminal, from `level` (such as `warn`) up
/// unless the environment says otherwise. Does nothing where logging has been started.
pub fn init_for_people(level: &str) {
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter(level, |name| std::env::var(name).ok()))
        .with_writer(std::io::stderr)
        .with_ansi(colour)
        .compact()
        .finish();
    // A second start is not an error: tests and embedders may have their own.
    let _ = subscriber.try_init();
}

/// Lines that CloudWatch reads: `timestamp`, `level`, `message` and the event's own fields side by
/// side, then the spans from the outermost in (`requestId` of the invocation, `id` of the request).
fn for_lambda<W>(filter: EnvFilter, writer: W) -> impl Subscriber + Send + Sync
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_span_list(true)
        .with_ansi(false)
        .with_env_filter(filter)
        .with_writer(writer)
        .finish()
}

/// What `variable` chooses, from `level` up by default. Directives that cannot be read are left out:
/// a slip in a log setting must not keep a function from starting.
fn filter(level: &str, variable: impl Fn(&str) -> Option<String>) -> EnvFilter {
    let set = |name| variable(name).filter(|value| !value.trim().is_empty());
    let directives = set("MUSTER_LOG").or_else(|| set("RUST_LOG")).or_else(|| {
        // Lambda knows one level more than we do.
        set("AWS_LAMBDA_LOG_LEVEL")
            .map(|level| if level.eq_ignore_ascii_case("fatal") { "error".into() } else { level })
    });
    EnvFilter::builder()
        .with_default_directive(LevelFilter::INFO.into())
        .parse_lossy(directives.as_deref().unwrap_or(level))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use std::{
        io,
        sync::{Arc, Mutex},
    };

    use serde_json::Value;

    use super::*;

    fn chosen(set: &[(&str, &str)]) -> String {
        let lookup = |name: &str| set.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        filter("warn", lookup).to_string()
    }

    #[test]
    fn the_most_specific_variable_chooses() {
        assert_eq!(chosen(&[]), "warn");
        assert_eq!(chosen(&[("AWS_LAMBDA_LOG_LEVEL", "DEBUG")]), "debug");
        assert_eq!(chosen(&[("AWS_LAMBDA_LOG_LEVEL", "FATAL")]), "error");
        assert_eq!(chosen(&[("AWS_LAMBDA_LOG_LEVEL", "DEBUG"), ("RUST_LOG", "error")]), "error");
        assert_eq!(chosen(&[("RUST_LOG", "error"), ("MUSTER_LOG", "batches=trace")]), "batches=trace");
        assert_eq!(chosen(&[("MUSTER_LOG", ""), ("RUST_LOG", "error")]), "error");
    }

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_on_lambda_is_one_json_object_with_its_request() {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = for_lambda(EnvFilter::new("info"), move || writer.clone());
        tracing::subscriber::with_default(subscriber, || {
            let _span = tracing::info_span!("invoke", requestId = "r-1").entered();
            tracing::info!(size = 7, "two\nlines");
            tracing::debug!("not shown");
        });
        let written = lines.0.lock().unwrap();
        let line: Value = serde_json::from_slice(&written).unwrap();
        assert_eq!(
            (&line["level"], &line["message"], &line["size"]),
            (&"INFO".into(), &"two\nlines".into(), &7.into())
        );
        assert_eq!(line["spans"][0]["requestId"], "r-1");
        assert!(line["timestamp"].is_string());
    }

    #[test]
    fn logging_can_be_started_twice() {
        init_for_people("error");
        init();
        init_for_people("error");
    }
}
