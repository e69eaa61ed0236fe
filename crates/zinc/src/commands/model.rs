//! `zinc model`: the models of a running server.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::ExitCode;

use anyhow::Context;
use serde_json::{Value, json};

use crate::{output, report};

/// Largest response that is read.
const RESPONSE_BYTES_MAX: u64 = 16 << 20;

/// Flags of `model`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
    /// Address of the server
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8080", global = true)]
    server: String,
    /// Key of the server
    #[arg(long, value_name = "KEY", global = true)]
    api_key: Option<String>,
    /// Print the server's JSON
    #[arg(long, global = true)]
    json: bool,
}

/// What to do.
#[derive(Debug, clap::Subcommand)]
enum Action {
    /// List the models and whether they are loaded
    List,
    /// Load a model; others give way if there is no room
    Load {
        /// Its name in the list
        name: String,
    },
    /// Unload a model when its running answers are done
    Unload {
        /// Its name in the list
        name: String,
    },
}

/// Runs the command.
///
/// # Errors
/// The server cannot be reached, or refuses.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let answer = match &args.action {
        Action::List => call(args, "GET", "/v1/models", None)?,
        Action::Load { name } => call(args, "POST", "/v1/models/load", Some(name))?,
        Action::Unload { name } => call(args, "POST", "/v1/models/unload", Some(name))?,
    };
    if args.json {
        output::json(&answer)?;
    } else if let Some(models) = answer["data"].as_array() {
        for model in models {
            let id = model["id"].as_str().unwrap_or_default();
            let status = model["status"]["value"].as_str().unwrap_or_default();
            output::text(&format!("{status:<10} {}\n", report::printable(id)))?;
        }
    } else {
        let status = answer["status"]["value"].as_str().unwrap_or_default();
        output::text(&format!("{status}\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// One request and its response: the server closes the connection behind it.
fn call(args: &Args, method: &str, path: &str, model: Option<&String>) -> anyhow::Result<Value> {
    let server = args.server.trim_start_matches("http://").trim_end_matches('/');
    let reach = || {
        let what = format!("cannot reach a server at {}", report::printable(server));
        format!("{what}; hint: start one with zinc serve, or name it with --server HOST:PORT")
    };
    let mut stream = TcpStream::connect(server).with_context(reach)?;
    let body = model.map(|model| json!({"model": model}).to_string()).unwrap_or_default();
    let key = match &args.api_key {
        Some(key) if key.chars().all(|c| c.is_ascii_graphic()) => {
            format!("authorization: Bearer {key}\r\n")
        }
        Some(_) => anyhow::bail!("--api-key has characters that no key may have"),
        None => String::new(),
    };
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: {server}\r\nconnection: close\r\n{key}\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len(),
    )
    .with_context(reach)?;
    let mut response = String::new();
    stream.take(RESPONSE_BYTES_MAX).read_to_string(&mut response).with_context(reach)?;
    let (head, body) = response.split_once("\r\n\r\n").unwrap_or((&response, ""));
    let answer: Value = serde_json::from_str(body).with_context(|| {
        let line = report::printable(head.lines().next().unwrap_or_default());
        format!("{server} is no zinc server: it answers {line:?}")
    })?;
    match answer["error"]["message"].as_str() {
        Some(message) => anyhow::bail!("the server refuses: {message}"),
        None => Ok(answer),
    }
}
