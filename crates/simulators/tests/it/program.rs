//! `muster-sim` as a person or a script runs it: started, told to end, asked for what makes no sense.

use std::process::Stdio;

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    process::{Child, ChildStdout, Command},
};

use crate::common::within;

/// The program with these arguments, the simulator's name first.
pub fn muster_sim(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_muster-sim"));
    command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// The program while it runs. It is killed when this is dropped.
pub struct Program {
    pub child: Child,
    pub url: String,
    out: BufReader<ChildStdout>,
}

impl Program {
    /// Starts it and reads the address off its first line.
    pub async fn start(arguments: &[&str]) -> Self {
        let mut child = muster_sim(arguments).spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        within(out.read_line(&mut line)).await.unwrap();
        let url = line.trim_end().strip_prefix(&format!("{} simulator on ", arguments[0])).unwrap().to_owned();
        Self { child, url, out }
    }

    /// Sends a signal, such as `-INT`.
    pub async fn signal(&self, name: &str) {
        let id = self.child.id().unwrap().to_string();
        assert!(Command::new("kill").args([name, &id]).status().await.unwrap().success());
    }

    /// Ends it with a signal; it must end in good order, and have written nothing but its first line.
    pub async fn ends_well(mut self, signal: &str) {
        self.signal(signal).await;
        assert!(within(self.child.wait()).await.unwrap().success());
        let mut rest = String::new();
        self.out.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "");
    }
}

/// Fails unless it refuses to start with these arguments, for this reason.
pub async fn refused(arguments: &[&str], reason: &str) {
    let output = within(muster_sim(arguments).output()).await.unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success());
    assert!(error.contains(reason), "{arguments:?}: {error}");
}

/// The help of a simulator.
pub async fn help(name: &str) -> String {
    let output = within(muster_sim(&[name, "--help"]).output()).await.unwrap();
    String::from_utf8(output.stdout).unwrap()
}
