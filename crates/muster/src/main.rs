//! The `muster` command. Everything is in the library: see its first page.

use std::process::ExitCode;

fn main() -> ExitCode {
    muster::run(std::env::args_os())
}
