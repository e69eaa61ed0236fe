//! `zinc serve` against the imitation of the Hub: the real program pulls, loads and answers.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use axum::body::Bytes;
use serde_json::{Value, json};

use crate::hub::{Fault, sha256};
use crate::pull::{MIB, Net};

const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../builtin/zinc-demo.gguf");
const NAME: &str = "o/m-GGUF/m-Q8_0.gguf";
const REFERENCE: &str = "hf:o/m-GGUF:Q8_0";

/// The built-in model's file: a real model, small enough to be pulled and loaded in a test.
fn demo() -> Bytes {
    std::fs::read(DEMO).unwrap().into()
}

/// A running `zinc serve`, killed at the end of the test.
pub struct Serve {
    child: Child,
    address: String,
    /// What it said up to its address.
    greeting: String,
}

impl Drop for Serve {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Serve {
    /// Starts the program and waits until it listens.
    fn start(net: &Net, args: &[&str]) -> Serve {
        Serve::spawn(net.command(&[&["serve", "--port", "0"], args].concat()))
    }

    pub fn spawn(mut command: Command) -> Serve {
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut greeting = String::new();
        let address = loop {
            let n = stderr.read_line(&mut greeting).unwrap();
            assert!(n > 0, "it ended: {greeting}");
            let line = greeting.lines().last().unwrap();
            if let Some((_, rest)) = line.split_once("listens on http://") {
                break rest.split(' ').next().unwrap().to_owned();
            }
        };
        // What it says later must not fill the pipe.
        std::thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::sink()));
        Serve { child, address, greeting }
    }

    /// Sends a request whose response ends with the connection.
    fn send(&self, method: &str, path: &str, body: &Value) -> TcpStream {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let body = if body.is_null() { String::new() } else { body.to_string() };
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len(),
        )
        .unwrap();
        stream
    }

    fn response(&self, method: &str, path: &str, body: &Value) -> Value {
        let mut text = String::new();
        self.send(method, path, body).read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200"), "{text}");
        serde_json::from_str(body).unwrap()
    }

    fn get(&self, path: &str) -> Value {
        self.response("GET", path, &Value::Null)
    }

    /// What a model answers to a question, and its name.
    pub fn ask(&self, model: &str, question: &str) -> String {
        let body = json!({
            "model": model, "temperature": 0, "messages": [{"role": "user", "content": question}],
        });
        let answer = self.response("POST", "/v1/chat/completions", &body);
        answer["choices"][0]["message"]["content"].as_str().unwrap().to_owned()
    }

    /// Pulls through the server; all events to the end of the stream.
    fn pull(&self, model: &str) -> Vec<(String, Value)> {
        let stream = self.send("POST", "/v1/models/pull", &json!({ "model": model }));
        let mut events = Vec::new();
        let mut name = String::new();
        for line in BufReader::new(stream).lines() {
            let line = line.unwrap();
            if let Some(rest) = line.strip_prefix("event: ") {
                name = rest.to_owned();
            } else if let Some(data) = line.strip_prefix("data: ") {
                events.push((std::mem::take(&mut name), serde_json::from_str(data).unwrap()));
            }
        }
        events
    }

    /// Pulls through the server until `n` bytes are written down to be there; then the client goes.
    fn give_up_after(&self, net: &Net, n: usize) {
        net.hub.stall_after(n);
        let stream = self.send("POST", "/v1/models/pull", &json!({ "model": REFERENCE }));
        while net.n_saved() < n as u64 {
            std::thread::sleep(Duration::from_millis(5));
        }
        drop(stream);
        net.hub.forget_stalled();
    }

    /// Pulls through the server, which must fail with one error, its last event.
    fn fail(&self, model: &str) -> String {
        let events = self.pull(model);
        let (last, before) = events.split_last().unwrap();
        assert_eq!(last.0, "error", "{events:?}");
        assert!(before.iter().all(|(name, _)| name == "progress"), "{events:?}");
        last.1["error"]["message"].as_str().unwrap().to_owned()
    }

    fn ids(&self) -> Vec<String> {
        let list = self.get("/v1/models");
        let id = |model: &Value| model["id"].as_str().unwrap().to_owned();
        list["data"].as_array().unwrap().iter().map(id).collect()
    }
}

/// A question of the built-in model's table and its answer, computed by PyTorch.
fn sample() -> (String, String) {
    let path = Path::new(DEMO).with_file_name("samples.json");
    let samples: Value = serde_json::from_str(&crate::read(&path)).unwrap();
    let is_plain = |sample: &&Value| {
        sample["messages"].as_array().is_some_and(|messages| messages.len() == 1)
            && sample["messages"][0]["role"] == "user"
            && sample["tools"].is_null()
            && sample["enable_thinking"] != true
    };
    let sample = samples.as_array().unwrap().iter().find(is_plain).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    (text(&sample["messages"][0]["content"]), text(&sample["output"]))
}

#[test]
fn a_model_pulled_through_the_server_answers() {
    let net = Net::new();
    net.hub.put(NAME, demo());
    let server = Serve::start(&net, &["-m", "m.gguf"]);
    assert!(server.ids() == ["m"], "{:?}", server.ids());
    // Some trouble on the way is no error.
    net.hub.faults([Fault::Cut(MIB), Fault::Status(503, Some("0")), Fault::Cut(100)]);
    let events = server.pull(REFERENCE);
    let (last, before) = events.split_last().unwrap();
    assert_eq!((last.0.as_str(), &last.1["id"]), ("done", &json!(REFERENCE)), "{events:?}");
    assert!(before.iter().all(|(name, _)| name == "progress"), "{events:?}");
    let done = |event: &(String, Value)| event.1["done"].as_u64().unwrap();
    assert!(before.is_sorted_by_key(done), "{events:?}");
    let size = demo().len();
    let (_, all) = before.last().unwrap();
    assert!(all["done"] == size && all["total"] == size, "{events:?}");
    assert_eq!(server.ids(), ["m", REFERENCE]);
    let (question, answer) = sample();
    assert_eq!(server.ask(REFERENCE, &question), answer);
    // It is a model like one from the command line, and of the next server.
    net.zinc(&["model", "verify", REFERENCE]).ok();
    drop(server);
    net.hub.hidden(true);
    let server = Serve::start(&net, &[]);
    assert!(server.ids().contains(&REFERENCE.to_owned()), "{:?}", server.ids());
    assert_eq!(server.ask(REFERENCE, &question), answer);
}

#[test]
fn a_pull_that_fails_is_one_error_and_loses_nothing() {
    let net = Net::new();
    let bytes = demo();
    net.hub.put(NAME, bytes.clone());
    let server = Serve::start(&net, &["-m", "m.gguf"]);
    net.hub.gated(true);
    let error = server.fail(REFERENCE);
    assert!(error.contains("o/m-GGUF is gated") && error.contains("set HF_TOKEN"), "{error}");
    net.hub.gated(false);
    net.hub.put_lying("o/lie-GGUF/m-Q8_0.gguf", bytes.clone(), sha256(b"other"));
    let error = server.fail("hf:o/lie-GGUF");
    assert!(error.contains("SHA-256") && error.contains("as the Hub says"), "{error}");
    net.hub.put_huge("o/huge-GGUF/m-Q8_0.gguf");
    let error = server.fail("hf:o/huge-GGUF");
    assert!(error.contains("free") && error.contains("hint"), "{error}");
    let error = server.fail("hf:o/none-GGUF");
    assert!(error.contains("no repository o/none-GGUF"), "{error}");
    let error = server.fail("no such name");
    assert!(error.contains("no such name"), "{error}");
    // A server that breaks down for good in the middle: what came is kept.
    server.give_up_after(&net, 3 * MIB);
    net.hub.faults((0..200).map(|_| Fault::Status(503, Some("0"))));
    let error = server.fail(REFERENCE);
    assert!(error.contains("cannot be reached after 10 attempts"), "{error}");
    assert!(error.contains("503") && error.contains("is kept"), "{error}");
    assert_eq!(server.ids(), ["m"]);
    assert_eq!(net.n_saved(), 3 * MIB as u64);
    net.hub.faults([]);
    net.hub.reset_sent();
    assert_eq!(server.pull(REFERENCE).last().unwrap().0, "done");
    assert!(net.hub.sent() <= (bytes.len() - 3 * MIB + 2) as u64, "{}", net.hub.sent());
    let (question, answer) = sample();
    assert_eq!(server.ask(REFERENCE, &question), answer);
}

#[cfg(unix)]
#[test]
fn a_full_disk_is_one_error_of_the_server() {
    let net = Net::new();
    net.hub.put(NAME, demo());
    // No file may grow beyond two MiB: for the program that is a full disk.
    let script = "ulimit -f 4096; trap '' XFSZ; exec \"$0\" serve --port 0 -m m.gguf";
    let server = Serve::spawn(net.shell(script));
    let error = server.fail(REFERENCE);
    assert!(error.contains("the disk is full") && error.contains("make room"), "{error}");
    assert_eq!(server.ids(), ["m"]);
    drop(server);
    let server = Serve::start(&net, &["-m", "m.gguf"]);
    assert_eq!(server.pull(REFERENCE).last().unwrap().0, "done");
}

#[test]
fn a_client_that_goes_leaves_what_came() {
    let net = Net::new();
    let bytes = demo();
    net.hub.put(NAME, bytes.clone());
    let server = Serve::start(&net, &["-m", "m.gguf"]);
    server.give_up_after(&net, 5 * MIB);
    net.hub.reset_sent();
    // The command line goes on where the server was given up, and waits until it has let go.
    let path = net.zinc(&["model", "pull", REFERENCE, "--yes"]).ok();
    assert!(std::fs::read(path.trim()).unwrap() == bytes);
    assert!(net.hub.sent() <= bytes.len() as u64 - 5 * MIB as u64 + 2, "{}", net.hub.sent());
    assert_eq!(server.pull(REFERENCE).last().unwrap().0, "done");
    assert_eq!(server.ids(), ["m", REFERENCE]);
}

#[test]
fn a_folder_is_served_without_what_cannot_be_used() {
    let net = Net::new();
    std::fs::create_dir(net.place.path("models")).unwrap();
    let whole = demo();
    for (name, bytes) in [
        ("a-cut.gguf", &whole[..whole.len() / 2]),
        ("Tree-of-Thought.gguf", &whole[..]),
        ("UPPER.GGUF", &whole[..]),
        ("gemma-imatrix-Q4_0.gguf", &whole[..]),
        ("z-00002-of-00002.gguf", &whole[..]),
        ("keys", b"# of the team\n k1 \n\nk2\n"),
    ] {
        net.place.write(&format!("models/{name}"), bytes);
    }
    let server = Serve::start(&net, &["--models", "models", "--host", "localhost"]);
    let warning = "warning: left out: models/a-cut.gguf: ";
    assert!(server.greeting.contains(warning), "{}", server.greeting);
    assert_eq!(server.ids(), ["Tree-of-Thought", "UPPER", "gemma-imatrix-Q4_0"]);
    let (question, answer) = sample();
    assert_eq!(server.ask("UPPER", &question), answer);
    drop(server);
    let server = Serve::start(&net, &["--api-key-file", "models/keys"]);
    let status = |key: &str| {
        let mut stream = TcpStream::connect(&server.address).unwrap();
        let head = format!(
            "GET /v1/models HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {key}\r\n"
        );
        write!(stream, "{head}connection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text.split(' ').nth(1).unwrap().to_owned()
    };
    assert_eq!(["k1", "k2", "# of the team"].map(status), ["200", "200", "401"]);
}

#[test]
fn serve_pulls_what_it_is_named() {
    let net = Net::new();
    net.hub.put(NAME, demo());
    net.hub.put("Qwen/Qwen3-0.6B-GGUF/Qwen3-0.6B-Q8_0.gguf", demo());
    let (question, answer) = sample();
    let refused = net.zinc(&["serve", "--port", "0", "-m", REFERENCE]);
    assert_eq!(refused.code, 1);
    let hint = format!("hint: zinc model pull {REFERENCE}");
    assert!(refused.stderr.contains(&hint), "{}", refused.stderr);
    // By an address of the Hub and by a name of the catalog; the second time without the Hub.
    for (name, id) in [("hf:o/m-GGUF:q8_0", "hf:o/m-GGUF:q8_0"), ("qwen3-0.6b", "qwen3-0.6b")] {
        for flags in [&["--yes"][..], &[]] {
            let server = Serve::start(&net, &[&["-m", name], flags].concat());
            assert!(server.greeting.contains(&format!("model {id}")), "{}", server.greeting);
            assert_eq!(server.ids(), [id]);
            assert_eq!(server.ask(id, &question), answer);
            drop(server);
            net.hub.hidden(true);
        }
        net.hub.hidden(false);
    }
    let run = ["run", "-m", "qwen3-0.6b", "--temp", "0", &question];
    net.hub.hidden(true);
    assert_eq!(net.zinc(&run).ok().trim_end(), answer);
}
