//! What the numbers depend on: when and where they were taken, and who else was at work.

use std::{
    fmt,
    fs::{self, File},
    io::{self, Write as _},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use serde::Serialize;

use crate::{
    numbers::{median, milliseconds},
    print::maybe,
    processes::{Bench, line_of},
};

/// The machine, before and after.
#[derive(Debug, Serialize)]
pub struct Machine {
    date: Timestamp,
    cores: usize,
    commit: Option<String>,
    /// Whether there were changes that no commit has.
    dirty: Option<bool>,
    /// A small durable write to the disk below the store, in milliseconds.
    disk_sync_ms: f64,
    /// Processes that wanted to run, averaged over a minute, before and after.
    load_before: Option<f64>,
    load_after: Option<f64>,
}

impl Machine {
    /// Looks around, before anything is measured.
    pub fn look(bench: &Bench) -> anyhow::Result<Self> {
        let sync = sync_time(bench.folder())?;
        let git = |arguments: &[&str]| line_of("git", &[&["-C", env!("CARGO_MANIFEST_DIR")], arguments].concat());
        Ok(Self {
            date: Timestamp::now(),
            cores: thread::available_parallelism().map_or(1, usize::from),
            commit: git(&["rev-parse", "--short=12", "HEAD"]),
            dirty: git(&["status", "--porcelain"]).map(|first| !first.is_empty()),
            disk_sync_ms: milliseconds(sync),
            load_before: load(),
            load_after: None,
        })
    }

    /// At the end of the run.
    pub fn done(self) -> Self {
        Self { load_after: load(), ..self }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dirty = if self.dirty == Some(true) { " with changes" } else { "" };
        let commit = self.commit.as_deref().unwrap_or("unknown");
        writeln!(out, "{}  {} cores  commit {commit}{dirty}", self.date, self.cores)?;
        writeln!(
            out,
            "load {} before, {} after; a durable write takes {:.2} ms",
            maybe(self.load_before, 1),
            maybe(self.load_after, 1),
            self.disk_sync_ms
        )
    }
}

fn load() -> Option<f64> {
    fs::read_to_string("/proc/loadavg").ok()?.split_whitespace().next()?.parse().ok()
}

/// How long a small durable write takes in `folder`: the median of 50.
fn sync_time(folder: &Path) -> io::Result<Duration> {
    let path = folder.join("sync");
    let mut file = File::create(&path)?;
    let mut times = Vec::new();
    for _ in 0..50 {
        let started = Instant::now();
        file.write_all(&[0; 4096])?;
        file.sync_data()?;
        times.push(started.elapsed().as_secs_f64());
    }
    fs::remove_file(path)?;
    Ok(Duration::from_secs_f64(median(&times)))
}
