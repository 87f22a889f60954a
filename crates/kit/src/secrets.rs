//! Upstream tokens: read from where they are kept, kept for a while, shown to nobody.
//!
//! A secret NAME, such as `MUSTER_LORAWAN_TOKEN`, is looked for in three settings; the first that
//! is set counts:
//!
//! | setting | what it holds |
//! | --- | --- |
//! | `NAME` | the token itself |
//! | `NAME_FILE` | the path of a file with the token, one line |
//! | `NAME_SECRET` | the ARN or the name of a secret in AWS Secrets Manager |
//!
//! A file and Secrets Manager are read again every five minutes, and when an upstream refuses the token,
//! so that a new one counts without a deployment. Where that fails, the old token stays. A secret in Secrets Manager that has no
//! value yet counts as not set, and is looked at again every ten seconds.

mod manager;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use thiserror::Error;

use self::manager::Manager;
pub use self::manager::{Entry, Vault, VaultError};
use crate::clock::Clock;

/// How long a value counts before it is read again.
const KEPT: SignedDuration = SignedDuration::from_mins(5);
/// The same once an upstream has refused it: it may just have been replaced.
const DOUBTED: SignedDuration = SignedDuration::from_secs(5);
/// Pause before a place that failed, or had no value yet, is asked again.
const PAUSE: SignedDuration = SignedDuration::from_secs(10);
/// How long a reading may take: two attempts of Secrets Manager's client, and well below the ten
/// seconds of a function's init phase.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// A handle on one secret. Clones share what has been read.
#[derive(Clone)]
pub struct Secret(Arc<Inner>);

struct Inner {
    name: String,
    place: Place,
    clock: Clock,
    known: Mutex<Known>,
    /// One reader at a time; the others wait for what it finds.
    reading: tokio::sync::Mutex<()>,
}

enum Place {
    /// Not set, or set to the token itself: nothing to read again.
    Here,
    File(PathBuf),
    Manager(Box<Manager>),
}

/// What is known of the value.
struct Known {
    token: Result<Option<Token>, SecretError>,
    read_at: Timestamp,
    good_for: SignedDuration,
}

/// The value of a secret: visible ASCII characters, at least one. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Arc<str>);

/// Why a secret cannot be had. Never holds the value.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SecretError {
    /// The file that `NAME_FILE` names.
    #[error("{name}_FILE is {}, which cannot be read: {reason}", .path.display())]
    File {
        /// The secret.
        name: String,
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// What is there is no token.
    #[error("{name} {problem}")]
    NoToken {
        /// The setting.
        name: String,
        /// What is wrong, and what it should be.
        problem: &'static str,
    },
    /// Secrets Manager did not give it out.
    #[error("{name} cannot be read from Secrets Manager: {reason}")]
    Manager {
        /// The secret.
        name: String,
        /// Why not.
        reason: String,
    },
    /// There was no answer in time.
    #[error("{name} could not be read in time")]
    Late {
        /// The secret.
        name: String,
    },
}

impl Secret {
    /// The secret `name`, from the settings that `setting` looks up by their names. A file is read
    /// at once; Secrets Manager is not asked before [`warm`](Self::warm) or [`token`](Self::token).
    ///
    /// # Errors
    /// When a value is no token, or the file cannot be read.
    pub fn from_settings(name: &str, setting: impl Fn(&str) -> Option<String>) -> Result<Self, SecretError> {
        let setting = |name: &str| setting(name).filter(|value| !value.is_empty());
        if let Some(value) = setting(name) {
            return Self::here(name, &value);
        }
        if let Some(path) = setting(&format!("{name}_FILE")) {
            return Self::in_file(name, path.into(), Clock::system());
        }
        Ok(match setting(&format!("{name}_SECRET")) {
            Some(id) => Self::in_manager(name, Manager::new(id), Clock::system()),
            None => Self::none(name),
        })
    }

    /// A secret that is not set.
    pub fn none(name: &str) -> Self {
        Self::new(name, Place::Here, Ok(None), Clock::system())
    }

    /// A secret with this value.
    ///
    /// # Errors
    /// When it is no token.
    pub fn here(name: &str, value: &str) -> Result<Self, SecretError> {
        let token = Token::parse(name, value)?;
        Ok(Self::new(name, Place::Here, Ok(Some(token)), Clock::system()))
    }

    fn in_file(name: &str, path: PathBuf, clock: Clock) -> Result<Self, SecretError> {
        let text = std::fs::read_to_string(&path);
        let token = in_text(name, &path, text)?;
        Ok(Self::new(name, Place::File(path), Ok(Some(token)), clock))
    }

    fn in_manager(name: &str, manager: Manager, clock: Clock) -> Self {
        let not_yet = Err(SecretError::Late { name: name.to_owned() });
        let secret = Self::new(name, Place::Manager(Box::new(manager)), not_yet, clock);
        secret.known().good_for = SignedDuration::ZERO;
        secret
    }

    fn new(name: &str, place: Place, token: Result<Option<Token>, SecretError>, clock: Clock) -> Self {
        let known = Known { token, read_at: clock.now(), good_for: KEPT };
        Self(Arc::new(Inner {
            name: name.to_owned(),
            place,
            clock,
            known: Mutex::new(known),
            reading: tokio::sync::Mutex::default(),
        }))
    }

    /// Its name, such as `MUSTER_LORAWAN_TOKEN`.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Reads the secret, so that the first request does not wait for it; a few seconds at most. A
    /// failure is logged; whoever needs the token will try again.
    pub async fn warm(&self) {
        // The log has it.
        _ = self.token(READ_TIMEOUT).await;
    }

    /// The token, or `None` where none is set. Reads it again when it is five minutes old; that
    /// takes no longer than `patience`, and where it fails, the last known token counts.
    ///
    /// # Errors
    /// When it could never be read.
    pub async fn token(&self, patience: Duration) -> Result<Option<Token>, SecretError> {
        if !self.is_fresh() && tokio::time::timeout(patience.min(READ_TIMEOUT), self.refresh()).await.is_err() {
            self.learn(Err(SecretError::Late { name: self.0.name.clone() }));
        }
        self.known().token.clone()
    }

    /// Says that an upstream refused the token. It will be read again soon, though not for every
    /// refusal.
    pub fn doubt(&self) {
        let mut known = self.known();
        known.good_for = known.good_for.min(DOUBTED);
    }

    /// The token that has taken the place of `refused`, which an upstream has just refused; none where
    /// it is still the same. Reads it again unless that was done in the last five seconds.
    pub async fn replaced(&self, refused: &Token, patience: Duration) -> Option<Token> {
        self.doubt();
        self.token(patience).await.ok().flatten().filter(|token| token != refused)
    }

    async fn refresh(&self) {
        let _one_at_a_time = self.0.reading.lock().await;
        // Somebody else may have read it meanwhile.
        if self.is_fresh() {
            return;
        }
        let read = match &self.0.place {
            Place::Here => return,
            Place::File(path) => in_text(&self.0.name, path, tokio::fs::read_to_string(path).await).map(Some),
            Place::Manager(manager) => manager.read(&self.0.name).await,
        };
        self.learn(read);
    }

    fn learn(&self, read: Result<Option<Token>, SecretError>) {
        let mut known = self.known();
        known.read_at = self.0.clock.now();
        known.good_for = KEPT;
        match read {
            Ok(token) => {
                // Whoever sets the first one uses it at once, and a worker may have looked just before.
                if token.is_none() {
                    known.good_for = PAUSE;
                }
                known.token = Ok(token);
            }
            Err(error) => {
                known.good_for = PAUSE;
                tracing::warn!(%error, known = known.token.is_ok(), "a secret cannot be read");
                if known.token.is_err() {
                    known.token = Err(error);
                }
            }
        }
    }

    fn is_fresh(&self) -> bool {
        if matches!(self.0.place, Place::Here) {
            return true;
        }
        // By the wall clock, which goes on while a function is frozen between invocations.
        let known = self.known();
        let age = self.0.clock.now().duration_since(known.read_at);
        (SignedDuration::ZERO..known.good_for).contains(&age)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({})", self.0.name)
    }
}

impl Token {
    /// The value of the secret `name`, checked; white space around it does not count.
    ///
    /// # Errors
    /// When there is nothing, or more than one line of visible ASCII characters without a space.
    pub fn parse(name: &str, text: &str) -> Result<Self, SecretError> {
        let wrong = |problem| Err(SecretError::NoToken { name: name.to_owned(), problem });
        let text = text.trim();
        if text.is_empty() {
            return wrong("is empty; it must be one line with the token");
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return wrong("must be one line of visible ASCII characters, the token alone without `Bearer`");
        }
        Ok(Self(text.into()))
    }

    /// The value itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

fn in_text(name: &str, path: &Path, text: std::io::Result<String>) -> Result<Token, SecretError> {
    let text = text.map_err(|error| SecretError::File {
        name: name.to_owned(),
        path: path.to_owned(),
        reason: error.to_string(),
    })?;
    Token::parse(&format!("the file of {name}_FILE"), &text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use std::{
        fs,
        sync::atomic::{AtomicUsize, Ordering},
    };

    use axum::{Json, Router, extract::State, response::IntoResponse as _, routing::post};
    use http::{HeaderMap, StatusCode};
    use serde_json::{Value, json};

    use super::*;
    use crate::upstream::{Upstream, UpstreamError};

    const NAME: &str = "MUSTER_TEST_TOKEN";
    const START: Timestamp = Timestamp::constant(1_700_000_000, 0);
    const PATIENCE: Duration = Duration::from_secs(20);

    /// Secrets Manager's `GetSecretValue` on a socket, answering as it is told.
    #[derive(Clone, Default)]
    struct Fake {
        answer: Arc<Mutex<Option<(u16, Value)>>>,
        asked: Arc<AtomicUsize>,
        delay: Duration,
    }

    impl Fake {
        fn answers(&self, status: u16, body: Value) {
            *self.answer.lock().unwrap() = Some((status, body));
        }

        fn holds(&self, value: &str) {
            self.answers(200, json!({"Name": "muster-test/MUSTER_TEST_TOKEN", "SecretString": value}));
        }

        fn is_empty(&self) {
            let message = "Secrets Manager can't find the specified secret value for staging label: AWSCURRENT";
            self.answers(400, json!({"__type": "ResourceNotFoundException", "Message": message}));
        }

        fn asked(&self) -> usize {
            self.asked.load(Ordering::SeqCst)
        }

        /// A secret in this manager, and the clock by which it ages.
        async fn secret(&self) -> (Secret, Clock) {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("http://{}", listener.local_addr().unwrap());
            let app = Router::new().route("/", post(get_secret_value)).with_state(self.clone());
            tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
            let clock = Clock::manual(START);
            let manager = Manager::with("arn:aws:secretsmanager:x", manager::test_client(&url));
            (Secret::in_manager(NAME, manager, clock.clone()), clock)
        }
    }

    async fn get_secret_value(State(fake): State<Fake>, request: axum::extract::Request) -> axum::response::Response {
        assert_eq!(request.headers()["x-amz-target"], "secretsmanager.GetSecretValue");
        fake.asked.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(fake.delay).await;
        let answer = fake.answer.lock().unwrap().clone();
        let Some((status, body)) = answer else { return std::future::pending().await };
        (StatusCode::from_u16(status).unwrap(), Json(body)).into_response()
    }

    async fn value(secret: &Secret) -> Option<String> {
        secret.token(PATIENCE).await.unwrap().map(|token| token.expose().to_owned())
    }

    fn of(settings: &[(&str, &str)]) -> Result<Secret, SecretError> {
        let setting = |name: &str| settings.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        Secret::from_settings(NAME, setting)
    }

    #[tokio::test]
    async fn the_value_itself_goes_before_a_file_and_that_before_secrets_manager() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        fs::write(&path, "from-the-file\n").unwrap();
        let file = ("MUSTER_TEST_TOKEN_FILE", path.to_str().unwrap());
        let arn = ("MUSTER_TEST_TOKEN_SECRET", "arn:aws:secretsmanager:x");
        assert_eq!(value(&of(&[(NAME, " direct "), file, arn]).unwrap()).await.unwrap(), "direct");
        assert_eq!(value(&of(&[(NAME, ""), file, arn]).unwrap()).await.unwrap(), "from-the-file");
        assert!(matches!(of(&[arn]).unwrap().0.place, Place::Manager(_)));
        assert_eq!(value(&of(&[]).unwrap()).await, None);
    }

    #[test]
    fn what_is_no_token_is_refused_by_its_setting_and_not_repeated() {
        let refused = |settings: &[(&str, &str)]| {
            let error = of(settings).unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
            error
        };
        assert!(refused(&[(NAME, "Bearer hunter2")]).contains("MUSTER_TEST_TOKEN must be one line"));
        assert!(refused(&[(NAME, "hunter2\nhunter2")]).contains("one line"));
        assert!(refused(&[(NAME, "hunter2é")]).contains("ASCII"));
        let missing = refused(&[("MUSTER_TEST_TOKEN_FILE", "/nowhere/token")]);
        assert!(missing.starts_with("MUSTER_TEST_TOKEN_FILE is /nowhere/token, which cannot be read"), "{missing}");
        let empty = tempfile::NamedTempFile::new().unwrap();
        assert!(refused(&[("MUSTER_TEST_TOKEN_FILE", empty.path().to_str().unwrap())]).contains("is empty"));
    }

    #[tokio::test]
    async fn a_file_is_read_again_after_five_minutes_and_its_loss_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        fs::write(&path, "one").unwrap();
        let clock = Clock::manual(START);
        let secret = Secret::in_file(NAME, path.clone(), clock.clone()).unwrap();
        fs::write(&path, "two").unwrap();
        clock.advance(Duration::from_secs(299));
        assert_eq!(value(&secret).await.unwrap(), "one");
        clock.advance(Duration::from_secs(1));
        assert_eq!(value(&secret).await.unwrap(), "two");
        fs::remove_file(&path).unwrap();
        clock.advance(Duration::from_hours(1));
        assert_eq!(value(&secret).await.unwrap(), "two");
    }

    #[tokio::test]
    async fn secrets_manager_is_asked_once_in_five_minutes_by_all_clones_together() {
        let fake = Fake::default();
        fake.holds("one\n");
        let (secret, clock) = fake.secret().await;
        let readers = (0..10).map(|_| secret.clone()).map(|secret| async move { value(&secret).await });
        assert!(futures::future::join_all(readers).await.iter().all(|it| it.as_deref() == Some("one")));
        assert_eq!(fake.asked(), 1);
        fake.holds("two");
        clock.advance(Duration::from_secs(299));
        assert_eq!((value(&secret).await.unwrap().as_str(), fake.asked()), ("one", 1));
        clock.advance(Duration::from_secs(1));
        assert_eq!((value(&secret).await.unwrap().as_str(), fake.asked()), ("two", 2));
    }

    #[tokio::test]
    async fn a_secret_without_a_value_is_not_set_until_it_gets_one() {
        let fake = Fake::default();
        fake.is_empty();
        let (secret, clock) = fake.secret().await;
        assert_eq!(value(&secret).await, None);
        fake.holds("first");
        clock.advance(Duration::from_secs(9));
        assert_eq!((value(&secret).await, fake.asked()), (None, 1));
        clock.advance(Duration::from_secs(1));
        assert_eq!((value(&secret).await.unwrap().as_str(), fake.asked()), ("first", 2));

        // An emulator's way to say the same.
        let emulator = Fake::default();
        emulator.answers(200, json!({"Name": "muster-test/MUSTER_TEST_TOKEN"}));
        assert_eq!(value(&emulator.secret().await.0).await, None);
        emulator.answers(200, json!({"Name": "muster-test/MUSTER_TEST_TOKEN", "SecretBinary": "dDBrZW4="}));
        let error = emulator.secret().await.0.token(PATIENCE).await.unwrap_err();
        assert!(error.to_string().contains("binary"), "{error}");
    }

    #[tokio::test]
    async fn a_failure_keeps_the_old_token_and_is_tried_again_after_a_pause() {
        let fake = Fake::default();
        fake.holds("old");
        let (secret, clock) = fake.secret().await;
        assert_eq!(value(&secret).await.unwrap(), "old");
        fake.answers(400, json!({"__type": "AccessDeniedException", "Message": "not authorized"}));
        clock.advance(Duration::from_mins(5));
        assert_eq!((value(&secret).await.unwrap().as_str(), fake.asked()), ("old", 2));
        fake.holds("new");
        assert_eq!((value(&secret).await.unwrap().as_str(), fake.asked()), ("old", 2));
        clock.advance(Duration::from_secs(10));
        assert_eq!(value(&secret).await.unwrap(), "new");
    }

    #[tokio::test]
    async fn a_token_that_was_never_read_is_an_error_that_says_why() {
        let fake = Fake::default();
        fake.answers(400, json!({"__type": "AccessDeniedException", "Message": "not authorized"}));
        let (secret, clock) = fake.secret().await;
        let error = secret.token(PATIENCE).await.unwrap_err().to_string();
        assert_eq!(error, "MUSTER_TEST_TOKEN cannot be read from Secrets Manager: AWS refuses: not authorized");
        fake.holds("at last");
        clock.advance(Duration::from_secs(10));
        assert!(secret.token(PATIENCE).await.unwrap_err().to_string().contains("must be one line"));
        fake.holds("at-last");
        clock.advance(Duration::from_secs(10));
        assert_eq!(value(&secret).await.unwrap(), "at-last");
    }

    #[tokio::test]
    async fn a_manager_that_does_not_answer_costs_no_more_than_the_patience() {
        let fake = Fake::default();
        let (secret, _) = fake.secret().await;
        let began = std::time::Instant::now();
        let error = secret.token(Duration::from_millis(50)).await.unwrap_err();
        assert_eq!(error, SecretError::Late { name: NAME.to_owned() });
        assert!(began.elapsed() < Duration::from_secs(2));
    }

    #[tokio::test]
    async fn the_time_for_reading_a_token_is_part_of_the_requests_own() {
        let fake = Fake { delay: Duration::from_millis(900), ..Fake::default() };
        fake.holds("t0ken");
        let (secret, _) = fake.secret().await;
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", silent.local_addr().unwrap());
        let upstream = Upstream::builder("X", &url).bearer(secret).build().unwrap();
        let began = std::time::Instant::now();
        let error = upstream.get("/", Duration::from_secs(2)).await.unwrap_err();
        assert_eq!(error, UpstreamError::Unanswered { reason: "no answer in time".to_owned() });
        let took = began.elapsed();
        assert!((2.0..2.7).contains(&took.as_secs_f32()), "{took:?}");
    }

    #[tokio::test]
    async fn without_the_token_that_there_should_be_nothing_is_sent() {
        let (secret, _) = Fake::default().secret().await;
        let upstream = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", upstream.local_addr().unwrap());
        let asking = Upstream::builder("X", &url).bearer(secret).build().unwrap();
        let error = asking.get("/", Duration::from_millis(200)).await.unwrap_err();
        assert_eq!(error, UpstreamError::NotSent { reason: "MUSTER_TEST_TOKEN cannot be read now".to_owned() });
        let nobody = tokio::time::timeout(Duration::from_millis(50), upstream.accept()).await;
        assert!(nobody.is_err());
    }

    #[tokio::test]
    async fn a_refused_token_is_read_again_sooner_and_not_for_every_refusal() {
        let fake = Fake::default();
        fake.holds("wrong");
        let (secret, clock) = fake.secret().await;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let refuse = Router::new().fallback(async || StatusCode::UNAUTHORIZED);
        tokio::spawn(async move { axum::serve(listener, refuse).await.unwrap() });
        let upstream = Upstream::builder("X", &url).bearer(secret.clone()).build().unwrap();
        upstream.warm().await;
        fake.holds("right");
        assert_eq!(upstream.get("/", PATIENCE).await.unwrap().status, StatusCode::UNAUTHORIZED);
        assert_eq!((value(&secret).await.unwrap().as_str(), fake.asked()), ("wrong", 1));
        clock.advance(Duration::from_secs(5));
        assert_eq!((value(&secret).await.unwrap().as_str(), fake.asked()), ("right", 2));
        clock.advance(Duration::from_secs(5));
        assert_eq!((value(&secret).await.unwrap().as_str(), fake.asked()), ("right", 2));
    }

    #[tokio::test]
    async fn a_request_that_is_refused_for_a_token_that_was_replaced_is_sent_again_with_the_new_one() {
        let fake = Fake::default();
        fake.holds("old");
        let (secret, clock) = fake.secret().await;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen: Arc<Mutex<Vec<(String, String)>>> = Arc::default();
        let upstream = Router::new().fallback({
            let seen = Arc::clone(&seen);
            async move |headers: HeaderMap, body: String| {
                let token = headers["x-auth-token"].to_str().unwrap().to_owned();
                let status = if token == "new" { StatusCode::CREATED } else { StatusCode::UNAUTHORIZED };
                seen.lock().unwrap().push((token, body));
                status
            }
        });
        tokio::spawn(async move { axum::serve(listener, upstream).await.unwrap() });
        let header = http::HeaderName::from_static("x-auth-token");
        let upstream = Upstream::builder("X", &url).token_header(header, secret.clone()).build().unwrap();
        upstream.warm().await;
        let ask = async || upstream.post_json("/", &json!({"a": 1}), PATIENCE).await.unwrap().status;
        let sent = || std::mem::take(&mut *seen.lock().unwrap());
        let one = |token: &str| (token.to_owned(), r#"{"a":1}"#.to_owned());

        clock.advance(Duration::from_secs(5));
        assert_eq!((ask().await, sent()), (StatusCode::UNAUTHORIZED, vec![one("old")]), "it is still the same");
        clock.advance(Duration::from_secs(5));
        fake.holds("new");
        assert_eq!((ask().await, sent()), (StatusCode::CREATED, vec![one("old"), one("new")]));
        assert_eq!((ask().await, sent()), (StatusCode::CREATED, vec![one("new")]));
        fake.holds("old");
        clock.advance(Duration::from_secs(300));
        assert_eq!((ask().await, sent()), (StatusCode::UNAUTHORIZED, vec![one("old")]), "once, not for ever");
    }

    #[tokio::test]
    async fn no_debug_output_shows_a_token() {
        let secret = of(&[(NAME, "hunter2")]).unwrap();
        let token = secret.token(PATIENCE).await;
        assert!(!format!("{secret:?} {token:?}").contains("hunter2"));
    }
}
