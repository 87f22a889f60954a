//! How a command ends: its exit code, and what it says when it fails.
//!
//! The codes are a promise to scripts. A [`Failure`] says what happened and what to do next; where
//! it came from the API, it keeps the problem that the server sent.

use std::{fmt, io, process::ExitCode};

use batches::config::ConfigError;
use kit::{
    access::KeyError,
    dynamo::{StoreError, embedded::OpenError},
    problem::Problem,
    secrets::VaultError,
};

/// The exit codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// All went well.
    Fine = 0,
    /// It was tried, and failed.
    Failed = 1,
    /// What was asked for is not possible as it was asked.
    Usage = 2,
    /// There is no such thing.
    NotFound = 3,
    /// Without a key, or with one that may not do this.
    NoAccess = 4,
    /// The server, its store or an upstream is away; the same may work later.
    Away = 5,
    /// Ctrl-C or SIGTERM.
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

/// Why a command failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// What happened.
    pub message: String,
    /// What to do next.
    pub hint: Option<String>,
    /// What the server answered, if it did.
    pub problem: Option<Box<Problem>>,
}

impl Failure {
    /// It was tried, and failed.
    pub fn new(message: impl Into<String>) -> Self {
        Self { exit: Exit::Failed, message: message.into(), hint: None, problem: None }
    }

    /// What was asked for is not possible as it was asked.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(message).exit(Exit::Usage)
    }

    /// With another exit code.
    #[must_use]
    pub fn exit(self, exit: Exit) -> Self {
        Self { exit, ..self }
    }

    /// With what to do next.
    #[must_use]
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// Whether the API refused with this status.
    pub fn is_status(&self, status: u16) -> bool {
        self.problem.as_ref().is_some_and(|problem| problem.status == status)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        self.hint.as_ref().map_or(Ok(()), |hint| write!(f, " ({hint})"))
    }
}

impl std::error::Error for Failure {}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        let exit = match problem.status {
            401 | 403 => Exit::NoAccess,
            404 => Exit::NotFound,
            400 | 405 | 406 | 413 | 415 | 422 => Exit::Usage,
            429 | 502..=504 => Exit::Away,
            _ => Exit::Failed,
        };
        let mut message = match &problem.detail {
            // Its detail goes on where the title ends.
            Some(detail) if problem.slug() == "idempotency-key-reused" => format!("{}. {detail}", problem.title),
            Some(detail) => detail.clone(),
            None => problem.title.clone(),
        };
        for error in &problem.errors {
            // Often the detail says it already.
            if !message.contains(&error.detail) {
                message = format!("{message}\n  {}: {}", error.pointer, error.detail);
            }
        }
        let hint = match problem.status {
            401 => Some(
                "give a key of that server with `muster login` or MUSTER_KEY (never as a flag: others could see it)"
                    .to_owned(),
            ),
            500.. if problem.slug() == "internal" => {
                problem.instance.as_ref().map(|id| format!("the server's log has it under the request id {id}"))
            }
            _ => None,
        };
        Self { exit, message, hint, problem: Some(Box::new(problem)) }
    }
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Self {
        let failure = Self::new(error.to_string());
        match error {
            OpenError::Locked { .. } => failure.hint(
                "wait for it to end, stop it, or use another folder with --state DIR; \
                 many commands at a time work through one `muster serve`",
            ),
            OpenError::Io { .. } => {
                failure.hint("choose a folder that you may write to with --state DIR or MUSTER_STATE")
            }
            OpenError::Database { .. } => {
                failure.hint("it may be of a newer version of muster, or damaged; --state DIR uses another folder")
            }
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let away = error.retryable();
        let failure = Self::new(format!("the store: {error}"));
        if away {
            return failure
                .exit(Exit::Away)
                .hint("check AWS_REGION, credentials and AWS_ENDPOINT_URL_DYNAMODB, then try again");
        }
        failure.hint("check that the tables are there, and MUSTER_TABLE_PREFIX")
    }
}

impl From<KeyError> for Failure {
    fn from(error: KeyError) -> Self {
        match error {
            KeyError::Invalid { pointer, detail } => Self::usage(format!("{}: {detail}", crate::keys::flag(pointer))),
            KeyError::Unknown(id) => {
                Self::new(format!("there is no key {id}")).exit(Exit::NotFound).hint("`muster keys list` shows them")
            }
            KeyError::Store(error) => error.into(),
        }
    }
}

impl From<VaultError> for Failure {
    fn from(error: VaultError) -> Self {
        let failure = Self::new(error.to_string());
        match error {
            VaultError::NotFound { .. } => {
                failure.exit(Exit::NotFound).hint("is --environment right, and has scripts/apply been run for it?")
            }
            VaultError::NoCredentials { .. } => failure.exit(Exit::NoAccess).hint(
                "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; \
                 after `aws sso login`: eval \"$(aws configure export-credentials --format env)\"",
            ),
            VaultError::NoAccess { .. } => failure.exit(Exit::NoAccess).hint(
                "use AWS credentials that may work on this deployment; `aws sts get-caller-identity` shows yours",
            ),
            VaultError::Setting { .. } => failure.exit(Exit::Usage).hint("set AWS_REGION to the deployment's region"),
            VaultError::Away { .. } => {
                failure.exit(Exit::Away).hint("check the network, AWS_REGION and AWS_PROFILE, then try again")
            }
            VaultError::Refused { .. } => failure,
        }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        let is_url = matches!(error, ConfigError::Url(_));
        let failure = Self::usage(error.to_string());
        if is_url {
            failure.hint("give the provider's base URL, such as --provider https://provider.example/api")
        } else {
            failure
        }
    }
}

impl From<shout::http::ConfigError> for Failure {
    fn from(error: shout::http::ConfigError) -> Self {
        Self::usage(error.to_string())
    }
}

impl From<io::Error> for Failure {
    /// Of standard output. A reader that has gone away, such as `head`, is no failure.
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::new("").exit(Exit::Fine);
        }
        Self::new(format!("cannot write the output: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;

    fn exit(status: u16) -> Exit {
        let status = StatusCode::from_u16(status).unwrap_or_default();
        Failure::from(Problem::new(status, "x", "Title")).exit
    }

    #[test]
    fn every_status_has_its_exit_code() {
        assert_eq!(exit(400), Exit::Usage);
        assert_eq!(exit(401), Exit::NoAccess);
        assert_eq!(exit(403), Exit::NoAccess);
        assert_eq!(exit(404), Exit::NotFound);
        assert_eq!(exit(409), Exit::Failed);
        assert_eq!(exit(422), Exit::Usage);
        assert_eq!(exit(429), Exit::Away);
        assert_eq!(exit(500), Exit::Failed);
        assert_eq!(exit(503), Exit::Away);
    }

    #[test]
    fn a_problem_is_told_with_its_detail_and_every_error_once() {
        let problem = Problem::invalid("See `errors`.").error("/label", "too long").error("/prefix", "no hex");
        assert_eq!(Failure::from(problem).message, "See `errors`.\n  /label: too long\n  /prefix: no hex");
        let problem = Problem::invalid("limit is 0").error("?limit", "limit is 0");
        assert_eq!(Failure::from(problem).message, "limit is 0");
    }

    #[test]
    fn what_a_used_key_is_about_is_told_before_what_to_do() {
        let problem = Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "idempotency-key-reused", "The key was used");
        assert_eq!(Failure::from(problem.clone()).message, "The key was used");
        assert_eq!(Failure::from(problem.detail("Send a new key.")).message, "The key was used. Send a new key.");
    }

    #[test]
    fn a_closed_pipe_ends_well_and_says_nothing() {
        let failure = Failure::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!((failure.exit, failure.message.as_str()), (Exit::Fine, ""));
    }
}
