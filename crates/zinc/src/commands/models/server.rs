//! `zinc model loaded`, `load` and `unload`: the models of a running server.

use std::io::{Read, Write};
use std::net::TcpStream;

use anyhow::Context;
use serde_json::{Value, json};

use crate::{output, report};

/// Largest response that is read.
const RESPONSE_BYTES_MAX: u64 = 16 << 20;

/// Where the server is.
#[derive(Debug, clap::Args)]
pub(super) struct ServerArgs {
    /// Address of the server
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8080")]
    server: String,
    /// Key of the server
    #[arg(long, value_name = "KEY")]
    api_key: Option<String>,
    /// Print the server's JSON
    #[arg(long)]
    json: bool,
}

/// Flags of `load` and `unload`.
#[derive(Debug, clap::Args)]
pub(super) struct NamedArgs {
    /// Its name at the server
    name: String,
    #[command(flatten)]
    server: ServerArgs,
}

/// Runs `loaded`.
pub(super) fn loaded(args: &ServerArgs) -> anyhow::Result<()> {
    print(args, &call(args, "GET", "/v1/models", None)?)
}

/// Runs `load`.
pub(super) fn load(args: &NamedArgs) -> anyhow::Result<()> {
    print(&args.server, &call(&args.server, "POST", "/v1/models/load", Some(&args.name))?)
}

/// Runs `unload`.
pub(super) fn unload(args: &NamedArgs) -> anyhow::Result<()> {
    print(&args.server, &call(&args.server, "POST", "/v1/models/unload", Some(&args.name))?)
}

fn print(args: &ServerArgs, answer: &Value) -> anyhow::Result<()> {
    if args.json {
        output::json(answer)?;
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
    Ok(())
}

/// One request and its response: the server closes the connection behind it.
fn call(
    args: &ServerArgs,
    method: &str,
    path: &str,
    model: Option<&String>,
) -> anyhow::Result<Value> {
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
