//! Clients that behave, and clients that do not.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

const PATH: &str = "/v1/chat/completions";
const PATIENCE: Duration = Duration::from_secs(120);

/// A refusal that a server which ends owes to a new request.
#[derive(Debug)]
struct Refusal;

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("refused")
    }
}

impl std::error::Error for Refusal {}

/// Whether an error says that the request was not taken.
pub fn is_refusal(error: &anyhow::Error) -> bool {
    error.is::<Refusal>()
}

/// xorshift64*: enough to shuffle requests.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % n
    }
}

/// How a client reads a stream.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// As fast as it comes.
    Quick,
    /// Too slowly for the socket's buffers.
    Slow,
    /// Quickly, and its sending side is closed behind the request.
    HalfClosed,
}

/// Makes requests.
pub struct Client {
    address: SocketAddr,
}

/// A response whose head is read.
struct Answer {
    status: u16,
    reader: BufReader<TcpStream>,
}

impl Client {
    pub fn new(address: SocketAddr) -> Client {
        Client { address }
    }

    /// The answer to a question when nothing else runs.
    pub fn answer_alone(&self, question: u64) -> Result<String> {
        self.stream(question, Manner::Quick, &Mutex::default())
    }

    /// Streams an answer and checks its framing; `gaps` gets the times between tokens.
    pub fn stream(&self, question: u64, manner: Manner, gaps: &Mutex<Vec<u32>>) -> Result<String> {
        let is_slow = manner == Manner::Slow;
        let request = request(&body(question, true));
        let mut answer = self.send(request.as_bytes(), manner == Manner::HalfClosed)?;
        ensure!(answer.status == 200, "status {}", answer.status);
        let (mut text, mut last, mut times, mut is_done) = (String::new(), None, Vec::new(), false);
        loop {
            let Some(line) = answer.line()? else { break };
            let Some(data) = line.strip_prefix("data: ") else { continue };
            ensure!(!is_done, "something behind the end: {data:?}");
            if data == "[DONE]" {
                is_done = true;
                continue;
            }
            let chunk: Value = serde_json::from_str(data).with_context(|| data.to_owned())?;
            ensure!(chunk.get("error").is_none(), "an error in the stream: {data}");
            if let Some(piece) = chunk["choices"][0]["delta"]["content"].as_str()
                && !piece.is_empty()
            {
                text.push_str(piece);
                let now = Instant::now();
                if let Some(last) = last.replace(now) {
                    times.push(now.duration_since(last).as_micros().min(u128::from(u32::MAX)) as u32);
                }
            }
            if is_slow {
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        ensure!(is_done, "the stream broke off after {text:?}");
        if !is_slow && let Ok(mut gaps) = gaps.lock() {
            gaps.extend(times);
        }
        Ok(text)
    }

    /// Goes away in the middle of an answer.
    pub fn cancel(&self, question: u64, random: &mut Random) -> Result<()> {
        let mut answer = self.post(&body(question, true))?;
        ensure!(answer.status == 200, "status {}", answer.status);
        for _ in 0..random.below(12) {
            answer.line()?;
        }
        Ok(())
    }

    /// Sends what is no request, and expects to be told.
    pub fn malformed(&self, random: &mut Random) -> Result<()> {
        let bodies =
            ["{", "[1,2", "{\"messages\": 3}", "\u{0}\u{1}", "{\"messages\":[],\"x\":1}", ""];
        let answer = self.post(bodies[random.below(bodies.len() as u64) as usize])?;
        ensure!(answer.status == 400, "a malformed body got status {}", answer.status);
        Ok(())
    }

    /// Announces more than the server takes.
    pub fn oversized(&self) -> Result<()> {
        let head = format!(
            "POST {PATH} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
             connection: close\r\ncontent-length: {}\r\n\r\n",
            64 << 20,
        );
        let answer = self.send(head.as_bytes(), false)?;
        ensure!(answer.status == 413, "an oversized body got status {}", answer.status);
        Ok(())
    }

    /// Asks for a whole answer and closes its sending side. Gives the answer; `None` if the server took
    /// the client for gone and said so.
    pub fn half_closed_whole(&self, question: u64) -> Result<Option<String>> {
        let answer = self.send(request(&body(question, false)).as_bytes(), true)?;
        let status = answer.status;
        let json = answer.json()?;
        match status {
            200 => {
                let text = json["choices"][0]["message"]["content"].as_str();
                Ok(Some(text.context("no content")?.to_owned()))
            }
            499 => {
                ensure!(json["error"]["code"] == "client_closed_request", "499 with {json}");
                Ok(None)
            }
            status => anyhow::bail!("half closed, whole: status {status}: {json}"),
        }
    }

    /// How many requests the server has counted as those of clients that had gone.
    pub fn n_gone(&self) -> Result<u64> {
        let request = "GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        let mut answer = self.send(request.as_bytes(), false)?;
        let mut n_gone = 0;
        while let Some(line) = answer.line()? {
            if line.starts_with("zinc_responses_total{") && line.contains("status=\"499\"") {
                n_gone += line.rsplit(' ').next().context("no number")?.parse::<u64>()?;
            }
        }
        Ok(n_gone)
    }

    fn connect(&self) -> Result<TcpStream> {
        let stream = TcpStream::connect(self.address).map_err(|_| Refusal)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(stream)
    }

    fn post(&self, body: &str) -> Result<Answer> {
        self.send(request(body).as_bytes(), false)
    }

    /// Sends a request, closes the sending side if told to, and reads the response's first line.
    fn send(&self, bytes: &[u8], closes: bool) -> Result<Answer> {
        let mut stream = self.connect()?;
        // A server that ends may close a connection that it has not read from.
        stream.write_all(bytes).map_err(|_| Refusal)?;
        if closes {
            stream.shutdown(Shutdown::Write).map_err(|_| Refusal)?;
        }
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        let n = reader.read_line(&mut line).map_err(|error| match error.kind() {
            std::io::ErrorKind::ConnectionReset => anyhow::Error::new(Refusal),
            _ => error.into(),
        })?;
        if n == 0 {
            return Err(Refusal.into());
        }
        let status: u16 = line.split(' ').nth(1).context("no status")?.parse()?;
        if status == 503 {
            return Err(Refusal.into());
        }
        Ok(Answer { status, reader })
    }
}

impl Answer {
    /// The body, behind the headers.
    fn json(mut self) -> Result<Value> {
        while !self.line()?.context("no end of the headers")?.is_empty() {}
        let mut text = Vec::new();
        self.reader.read_to_end(&mut text).context("in a body")?;
        serde_json::from_slice(&text).context("a body is no JSON")
    }

    /// The next line; heads of chunks are lines like any other, which callers pass over.
    fn line(&mut self) -> Result<Option<String>> {
        let mut line = Vec::new();
        if self.reader.read_until(b'\n', &mut line).context("in a stream")? == 0 {
            return Ok(None);
        }
        let line = String::from_utf8(line).context("a response is no UTF-8")?;
        Ok(Some(line.trim_end_matches(['\r', '\n']).to_owned()))
    }
}

/// Questions with the same number have the same answer: seeds make it so.
fn body(question: u64, stream: bool) -> String {
    let topics = ["a fox", "zinc", "numbers", "the sea", "a castle", "rain"];
    let topic = topics[question as usize % topics.len()];
    json!({
        "messages": [{"role": "user", "content": format!("Tell me a story about {topic}.")}],
        "stream": stream,
        "max_tokens": 16 + question,
        "temperature": 0.8,
        "seed": question,
    })
    .to_string()
}

fn request(body: &str) -> String {
    format!(
        "POST {PATH} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
         connection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len(),
    )
}
