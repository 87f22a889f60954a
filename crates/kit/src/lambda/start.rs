//! Which of a capability's functions a process is.
//!
//! The HTTP function and the worker of a capability are one binary: nearly all of their code is the
//! same, and a build with link-time optimisation takes minutes for each binary. They differ in the
//! handler of their configuration, which Lambda gives the process in the variable `_HANDLER`.

use std::{ffi::OsStr, fmt};

use super::{Error, initialise};
use crate::{metrics, telemetry};

/// Lambda's own variable: the handler in the function's configuration.
const HANDLER: &str = "_HANDLER";

/// One of a binary's functions: the handler that it is, and what runs it until the process ends.
pub type Entry = (&'static str, fn() -> Result<(), Error>);

/// A handler that is none of the binary's functions, or none at all: refused, because guessing
/// would make a worker answer HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownHandler {
    given: Option<String>,
    known: Vec<&'static str>,
}

impl fmt::Display for UnknownHandler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.given {
            Some(given) => write!(f, "{HANDLER} is {given:?}")?,
            None => write!(f, "{HANDLER} is not set")?,
        }
        write!(
            f,
            "; this program can be {}. Lambda takes it from the function's configuration: set its handler to that",
            self.known.join(" or ")
        )
    }
}

impl std::error::Error for UnknownHandler {}

/// Runs the one of `entries` that the function's handler names, until the process ends.
///
/// An entry brings its runtime with it, in the flavour that suits it: `#[tokio::main]` does on any
/// function. A handler that is missing or unknown is a failed cold start: Lambda and the log are
/// told what to set, and the process ends.
pub fn start(entries: &[Entry]) -> Result<(), Error> {
    match chosen(std::env::var_os(HANDLER).as_deref(), entries) {
        Ok(run) => run(),
        Err(unknown) => refuse(unknown),
    }
}

fn chosen(handler: Option<&OsStr>, entries: &[Entry]) -> Result<fn() -> Result<(), Error>, UnknownHandler> {
    let named = entries.iter().find(|(name, _)| handler.is_some_and(|handler| handler == *name));
    named.map(|(_, run)| *run).ok_or_else(|| UnknownHandler {
        given: handler.map(|handler| handler.to_string_lossy().into_owned()),
        known: entries.iter().map(|(name, _)| *name).collect(),
    })
}

#[tokio::main(flavor = "current_thread")]
async fn refuse(unknown: UnknownHandler) -> Result<(), Error> {
    telemetry::init();
    initialise(metrics::process(), async { Err(unknown.into()) }).await
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    const BOTH: &[Entry] = &[("http", || Err("http ran".into())), ("worker", || Err("worker ran".into()))];

    fn ran(handler: &str) -> String {
        chosen(Some(OsStr::new(handler)), BOTH).unwrap()().unwrap_err().to_string()
    }

    fn refused(handler: Option<&str>, entries: &[Entry]) -> String {
        chosen(handler.map(OsStr::new), entries).unwrap_err().to_string()
    }

    #[test]
    fn the_handler_chooses_the_function() {
        assert_eq!(ran("http"), "http ran");
        assert_eq!(ran("worker"), "worker ran");
    }

    #[test]
    fn a_handler_that_is_missing_or_unknown_is_refused_with_those_that_there_are() {
        let rest = ". Lambda takes it from the function's configuration: set its handler to that";
        assert_eq!(refused(None, BOTH), format!("_HANDLER is not set; this program can be http or worker{rest}"));
        for wrong in ["bootstrap", "", "HTTP", "http ", "worker.handler"] {
            let expected = format!("_HANDLER is {wrong:?}; this program can be http or worker{rest}");
            assert_eq!(refused(Some(wrong), BOTH), expected);
        }
        assert_eq!(
            refused(Some("worker"), &BOTH[..1]),
            format!("_HANDLER is \"worker\"; this program can be http{rest}")
        );
    }
}
