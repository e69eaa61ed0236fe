//! A server in this process and a plain TCP client.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::oneshot;
use zinc_backend::{
    Bindings, Caps, Device, DeviceError, DeviceInfo, Executable, Profile, Profiling, States,
    StepInputs, StepOutputs, Ticket, WeightSource, Weights,
};
use zinc_engine::{EngineOptions, LoadedModel, Model};
use zinc_plan::Plan;
use zinc_server::{KnownModel, Loaded, Loader, ModelDefaults, ServeOptions, Server};

/// What a device does wrong at its next step.
pub const LOST: u8 = 1;
/// See [`LOST`].
pub const PANIC: u8 = 2;

/// A server that ends with the test.
pub struct TestServer {
    pub address: SocketAddr,
    pub fault: Arc<AtomicU8>,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// How to start a server.
pub struct Setup {
    pub options: ServeOptions,
    pub models: Vec<KnownModel>,
    pub parallel: u32,
}

impl Default for Setup {
    fn default() -> Self {
        Setup { options: ServeOptions::default(), models: vec![model("demo")], parallel: 4 }
    }
}

/// The built-in model under a name.
pub fn model(id: &str) -> KnownModel {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../builtin/zinc-demo.gguf");
    let defaults = ModelDefaults { thinking: Some(false), ..ModelDefaults::default() };
    KnownModel { id: id.into(), aliases: Vec::new(), path: Some(path), defaults }
}

struct TestLoader {
    fault: Arc<AtomicU8>,
    parallel: u32,
}

impl Loader for TestLoader {
    fn load(&self, known: &KnownModel) -> Result<Loaded, String> {
        let path = known.path.as_deref().ok_or("no path")?;
        let model = Arc::new(Model::open(path).map_err(|error| error.to_string())?);
        self.fault.store(0, Ordering::Relaxed);
        let inner = zinc_cpu::CpuDevice::new(2, zinc_cpu::Isa::best());
        let inner = inner.map_err(|error| error.to_string())?;
        let device = Faulty { inner, fault: Arc::clone(&self.fault) };
        let loaded = LoadedModel::load(model, Arc::new(device), &mut |_, _| {});
        let options = EngineOptions {
            max_seqs: self.parallel,
            embeddings: true,
            extra_rows: 15,
            ..EngineOptions::default()
        };
        Ok(Loaded {
            model: Arc::new(loaded.map_err(|error| error.to_string())?),
            options,
            device: "cpu".into(),
            memory: String::new(),
        })
    }
}

impl TestServer {
    /// The built-in model with everything as it is by default.
    pub fn plain() -> TestServer {
        TestServer::start(Setup::default())
    }

    /// A server; returns when it listens and its first model is loaded.
    pub fn start(setup: Setup) -> TestServer {
        let fault = Arc::new(AtomicU8::new(0));
        let loader = Arc::new(TestLoader { fault: Arc::clone(&fault), parallel: setup.parallel });
        let (end, ended) = oneshot::channel();
        let (tell, address) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .unwrap();
            let load_at_start = setup.options.load_at_start;
            runtime.block_on(async {
                let any = "127.0.0.1:0".parse().unwrap();
                let server = Server::bind(any, setup.options, setup.models, loader).await.unwrap();
                if load_at_start {
                    server.preload().await.unwrap();
                }
                tell.send(server.address().unwrap()).unwrap();
                server.serve(async { drop(ended.await) }).await;
            });
            runtime.shutdown_background();
        });
        let address = address.recv().unwrap();
        TestServer { address, fault, end: Some(end), thread: Some(thread) }
    }

    /// Tells the server to end, without waiting.
    pub fn tell_to_end(&mut self) {
        drop(self.end.take());
    }

    /// Ends the server and waits for it.
    pub fn end(mut self) {
        self.tell_to_end();
        self.thread.take().unwrap().join().unwrap();
    }

    /// An open connection.
    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream
    }

    /// Sends `raw` and reads until the server closes.
    pub fn raw(&self, raw: &[u8]) -> Response {
        let mut stream = self.connect();
        stream.write_all(raw).unwrap();
        Response::read(&mut stream)
    }

    /// One request with more headers.
    pub fn send(&self, method: &str, path: &str, headers: &str, body: &str) -> Response {
        self.raw(request(method, path, headers, body).as_bytes())
    }

    /// POST of JSON.
    pub fn post(&self, path: &str, body: &Value) -> Response {
        self.send("POST", path, "", &body.to_string())
    }

    /// GET.
    pub fn get(&self, path: &str) -> Response {
        self.send("GET", path, "", "")
    }

    /// The response to a POST that succeeds.
    pub fn ok(&self, path: &str, body: &Value) -> Value {
        let response = self.post(path, body);
        assert_eq!(response.status, 200, "{path} {body}: {}", response.text());
        response.json()
    }

    /// A number of the metrics page.
    pub fn metric(&self, name: &str) -> f64 {
        self.series(name).unwrap_or_else(|| panic!("{name}"))
    }

    /// The same where it may not be there yet.
    fn series(&self, name: &str) -> Option<f64> {
        let text = self.get("/metrics").text();
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line.rsplit(' ').next().unwrap().parse().unwrap())
    }

    /// Waits until the metrics page shows a number.
    pub fn wait_for_metric(&self, name: &str, is_right: impl Fn(f64) -> bool) {
        let begin = Instant::now();
        while !self.series(name).is_some_and(&is_right) {
            assert!(begin.elapsed() < Duration::from_secs(60), "{name} is {:?}", self.series(name));
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.tell_to_end();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The bytes of a request.
pub fn request(method: &str, path: &str, headers: &str, body: &str) -> String {
    format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
         content-type: application/json\r\n{headers}content-length: {}\r\n\r\n{body}",
        body.len(),
    )
}

/// A chat request.
pub fn chat(text: &str) -> Value {
    serde_json::json!({"messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": 12})
}

/// `base` with more fields.
pub fn with(mut base: Value, more: Value) -> Value {
    for (key, value) in more.as_object().unwrap() {
        base[key] = value.clone();
    }
    base
}

/// A response.
pub struct Response {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Response {
    /// Reads a response to the end of the connection.
    pub fn read(stream: &mut TcpStream) -> Response {
        Response::read_on(stream, Vec::new())
    }

    /// The same, where `bytes` of it were read already.
    pub fn read_on(stream: &mut TcpStream, mut bytes: Vec<u8>) -> Response {
        // A connection that is reset behind its response has still said everything.
        let _ = stream.read_to_end(&mut bytes);
        Response::parse(&bytes)
    }

    fn parse(bytes: &[u8]) -> Response {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
        let end = end.unwrap_or_else(|| panic!("no head in {:?}", String::from_utf8_lossy(bytes)));
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap().to_ascii_lowercase();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let rest = &bytes[end + 4..];
        let is_chunked = head.contains("transfer-encoding: chunked");
        let body = if is_chunked { unchunk(rest) } else { rest.to_vec() };
        Response { status, head, body }
    }

    /// A header.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().skip(1);
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {:?}", self.text()))
    }

    /// The error in OpenAI's envelope: status, code, param.
    pub fn error(&self) -> (u16, String, Value) {
        let error = &self.json()["error"];
        assert!(error["message"].is_string() && error["type"].is_string(), "{error}");
        (self.status, error["code"].as_str().unwrap().to_owned(), error["param"].clone())
    }

    /// The events of a stream: name and data. Checks the framing.
    pub fn events(&self) -> Vec<(String, String)> {
        assert_eq!(self.header("content-type"), Some("text/event-stream"), "{}", self.text());
        let text = self.text();
        assert!(text.ends_with("\n\n"), "{text:?}");
        let mut events = Vec::new();
        for block in text.split_terminator("\n\n") {
            let (mut name, mut data) = (String::new(), None);
            for line in block.split('\n') {
                if let Some(rest) = line.strip_prefix("event: ") {
                    name = rest.into();
                } else if let Some(rest) = line.strip_prefix("data: ") {
                    assert!(data.replace(rest.to_owned()).is_none(), "{block:?}");
                } else {
                    assert!(line.starts_with(':'), "{block:?}");
                }
            }
            events.extend(data.map(|data| (name, data)));
        }
        events
    }

    /// The JSON events of a stream of OpenAI's, which ends with [DONE].
    pub fn chunks(&self) -> Vec<Value> {
        let mut events = self.events();
        assert_eq!(events.pop().unwrap().1, "[DONE]");
        events.iter().map(|(_, data)| serde_json::from_str(data).unwrap()).collect()
    }
}

/// Undoes chunked coding, checking every length.
fn unchunk(mut bytes: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(end) = bytes.windows(2).position(|two| two == b"\r\n") {
        let length = std::str::from_utf8(&bytes[..end]).unwrap();
        let length = usize::from_str_radix(length, 16).unwrap();
        bytes = &bytes[end + 2..];
        if length == 0 {
            assert_eq!(bytes, b"\r\n");
            return body;
        }
        body.extend_from_slice(&bytes[..length]);
        assert_eq!(&bytes[length..length + 2], b"\r\n");
        bytes = &bytes[length + 2..];
    }
    panic!("the response broke off");
}

/// The content that a stream of chat completions adds up to, of one choice.
pub fn streamed_content(chunks: &[Value], index: usize) -> String {
    let deltas = chunks.iter().flat_map(|chunk| chunk["choices"].as_array().unwrap());
    let of_choice = deltas.filter(|choice| choice["index"] == index);
    of_choice.filter_map(|choice| choice["delta"]["content"].as_str()).collect()
}

/// A device that fails when it is told to.
struct Faulty<D> {
    inner: D,
    fault: Arc<AtomicU8>,
}

struct FaultyExecutable {
    inner: Box<dyn Executable>,
    fault: Arc<AtomicU8>,
}

impl<D: Device> Device for Faulty<D> {
    fn info(&self) -> &DeviceInfo {
        self.inner.info()
    }

    fn caps(&self) -> &Caps {
        self.inner.caps()
    }

    fn bind_weights(
        &self,
        sources: Vec<WeightSource>,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Weights, DeviceError> {
        self.inner.bind_weights(sources, progress)
    }

    fn alloc_states(&self, plan: &Plan) -> Result<States, DeviceError> {
        self.inner.alloc_states(plan)
    }

    fn measure_read_bandwidth(&self) -> Result<f64, DeviceError> {
        self.inner.measure_read_bandwidth()
    }

    fn compile(
        &self,
        plan: Arc<Plan>,
        bind: &Bindings<'_>,
    ) -> Result<Box<dyn Executable>, DeviceError> {
        let inner = self.inner.compile(plan, bind)?;
        Ok(Box::new(FaultyExecutable { inner, fault: Arc::clone(&self.fault) }))
    }
}

impl Executable for FaultyExecutable {
    fn plan(&self) -> &Plan {
        self.inner.plan()
    }

    fn submit(&mut self, inputs: &StepInputs) -> Result<Ticket, DeviceError> {
        match self.fault.swap(0, Ordering::Relaxed) {
            LOST => Err(DeviceError::Lost { device: "cpu".into(), reason: "a test".into() }),
            PANIC => panic!("a test"),
            _ => self.inner.submit(inputs),
        }
    }

    fn wait(&mut self, ticket: Ticket, outputs: &mut StepOutputs) -> Result<(), DeviceError> {
        self.inner.wait(ticket, outputs)
    }

    fn set_profiling(&mut self, what: Profiling) {
        self.inner.set_profiling(what);
    }

    fn profile(&self) -> Profile {
        self.inner.profile()
    }
}
