//! What is typed or piped in and must not be seen: tokens and keys. They are never flags, which
//! other users of the machine could read.

use std::io::{self, IsTerminal as _, Read as _};

use crate::exit::Failure;

/// Longest secret, in bytes: what Secrets Manager keeps at most.
const MOST: u64 = 65_536;

/// One line from standard input, without the white space around it; from a terminal it is asked for
/// by `prompt` and not shown.
pub fn secret(prompt: &str) -> Result<String, Failure> {
    let cannot = |error: io::Error| Failure::new(format!("cannot read standard input: {error}"));
    let text = if io::stdin().is_terminal() {
        rpassword::prompt_password(format!("{prompt} (not shown): ")).map_err(cannot)?
    } else {
        let mut bytes = Vec::new();
        io::stdin().lock().take(MOST + 1).read_to_end(&mut bytes).map_err(cannot)?;
        if bytes.len() as u64 > MOST {
            return Err(Failure::usage(format!("standard input has more than {MOST} bytes")));
        }
        String::from_utf8(bytes).map_err(|_| Failure::usage("standard input is not text"))?
    };
    let text = text.trim();
    if text.is_empty() {
        return Err(Failure::usage(format!("standard input is empty, and should be: {prompt}"))
            .hint("type it when it is asked for, or pipe it in: muster … < file"));
    }
    Ok(text.to_owned())
}
