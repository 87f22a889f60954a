//! `muster shout`: text reversed and shouted.

use std::io::Read as _;

use ::shout::http::{ShoutAnswer, ShoutRequest, Via};

use crate::{
    cli::Format,
    connect::{Target, connect_lightly},
    exit::{Exit, Failure},
    output::Output,
    settings::Settings,
};

/// Longest standard input: a text, and the end of its last line.
const MOST: usize = ::shout::http::MOST + "\r\n".len();

/// Runs the command.
pub async fn run(words: &[String], settings: &Settings, output: &Output) -> Result<Exit, Failure> {
    let data = if words.is_empty() { read_input()? } else { words.join(" ") };
    let (client, is_here) = match connect_lightly(settings).await? {
        Target::Server(client) => (client, false),
        Target::Embedded(backend) => (backend.client(settings, None).await?, true),
    };
    let answer = client.post("/api/v1/shout", &ShoutRequest { data }, None).await.map_err(|failure| {
        let unset = failure.problem.as_ref().is_some_and(|problem| problem.slug() == "not-configured");
        if !(unset && is_here) {
            return failure;
        }
        Failure::usage("SHOUTCLOUD's address is not set")
            .hint("set MUSTER_SHOUTCLOUD_URL, such as http://api.shoutcloud.io")
    })?;
    let answer: ShoutAnswer = answer.json()?;
    if answer.via == Via::Local {
        output.note("SHOUTCLOUD did not answer well; shouted here instead.");
    }
    match output.format {
        Format::Json => output.json(&answer)?,
        Format::Csv => {
            let via = if answer.via == Via::Local { "local" } else { "shoutcloud" };
            output.rows(&["Data", "Via"], &[vec![answer.data, via.to_owned()]])?;
        }
        Format::Table | Format::Plain => output.lines([answer.data])?,
    }
    Ok(Exit::Fine)
}

/// Standard input, without the newline that ends its last line.
fn read_input() -> Result<String, Failure> {
    let mut bytes = Vec::new();
    std::io::stdin()
        .lock()
        .take(MOST as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| Failure::new(format!("cannot read standard input: {error}")))?;
    if bytes.len() > MOST {
        return Err(Failure::usage(format!("standard input has more than {} bytes", ::shout::http::MOST)));
    }
    let mut text = String::from_utf8(bytes)
        .map_err(|_| Failure::usage("standard input is not UTF-8").hint("convert it first, for example with iconv"))?;
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(text)
}
