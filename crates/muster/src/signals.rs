//! What Ctrl-C and SIGTERM do to a command that waits or serves: the first asks it to end in good
//! order, the second ends it at once. Nothing is lost either way; the first loses no time later.

use std::{
    process,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use crate::{
    exit::{Exit, Failure},
    output::say,
    terminal,
};

/// How long giving the terminal back may take where the process has to end at once.
const LEAVE: Duration = Duration::from_millis(300);

/// How long a command may take to end when its terminal is gone.
const GONE: Duration = Duration::from_secs(2);

/// Listens from now on. The token is cancelled by the first signal.
pub fn listen() -> Result<CancellationToken, Failure> {
    Ok(listen_to(Signals::new()?, LastWords::default()))
}

/// The same for what leaves something behind when the second signal ends it: `words` are told then.
pub fn listen_telling(words: &LastWords) -> Result<CancellationToken, Failure> {
    Ok(listen_to(Signals::new()?, words.clone()))
}

/// What a command says when the second signal ends it. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct LastWords(Arc<Mutex<Option<String>>>);

impl LastWords {
    /// From now on it says this.
    pub fn set(&self, words: String) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(words);
    }

    fn tell(&self) {
        if let Some(words) = self.0.lock().unwrap_or_else(PoisonError::into_inner).as_deref() {
            say(words);
        }
    }
}

/// The same for what draws on the terminal, which ends with it: SIGHUP counts too.
pub fn listen_with_hangup() -> Result<CancellationToken, Failure> {
    Ok(listen_to(Signals::with_hangup()?, LastWords::default()))
}

fn listen_to(mut signals: Signals, words: LastWords) -> CancellationToken {
    let stop = CancellationToken::new();
    let first = stop.clone();
    tokio::spawn(async move {
        let terminal_is_gone = signals.next().await;
        first.cancel();
        if terminal_is_gone {
            // Reading keys from it may never come back: the library reads its end again and again.
            _ = tokio::time::timeout(GONE, signals.next()).await;
        } else {
            signals.next().await;
        }
        // Whoever reads the terminal may have stopped reading.
        let left = tokio::task::spawn_blocking(move || {
            terminal::leave();
            words.tell();
        });
        _ = tokio::time::timeout(LEAVE, left).await;
        process::exit(Exit::Interrupted as i32);
    });
    stop
}

#[cfg(unix)]
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    hangup: Option<tokio::signal::unix::Signal>,
}

#[cfg(unix)]
impl Signals {
    fn new() -> Result<Self, Failure> {
        use tokio::signal::unix::SignalKind;
        let (interrupt, terminate) = (Self::of(SignalKind::interrupt())?, Self::of(SignalKind::terminate())?);
        // A process that `nohup` started must go on: SIGHUP stays as it is.
        Ok(Self { interrupt, terminate, hangup: None })
    }

    fn with_hangup() -> Result<Self, Failure> {
        let hangup = Some(Self::of(tokio::signal::unix::SignalKind::hangup())?);
        Ok(Self { hangup, ..Self::new()? })
    }

    fn of(kind: tokio::signal::unix::SignalKind) -> Result<tokio::signal::unix::Signal, Failure> {
        tokio::signal::unix::signal(kind).map_err(|error| Failure::new(format!("cannot listen for signals: {error}")))
    }

    /// The next one; whether it says that the terminal is gone.
    async fn next(&mut self) -> bool {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => false,
            _ = self.terminate.recv() => false,
            _ = hangup => true,
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    #[allow(clippy::unnecessary_wraps)] // as on Unix
    fn new() -> Result<Self, Failure> {
        Ok(Self)
    }

    fn with_hangup() -> Result<Self, Failure> {
        Self::new()
    }

    async fn next(&mut self) -> bool {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
        false
    }
}
