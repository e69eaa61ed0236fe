//! The chat page's files, the catalog and downloads.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::Notify;
use zinc_server::{FitNote, KnownModel, ModelSource, Offer, Progress, Pulling, Tell};

use crate::support::{Response, Setup, TestServer, chat, model, request, with};

/// Has one model, which comes in pieces; the last one when the test says so. `broken` does not come,
/// `endless` never ends.
#[derive(Debug, Default)]
struct Pieces {
    may_end: Notify,
    was_dropped: Arc<AtomicBool>,
}

struct OnDrop(Arc<AtomicBool>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

impl ModelSource for Pieces {
    fn offers(&self) -> Result<Vec<Offer>, String> {
        let fit = FitNote { fits: true, text: "fits on cpu at 2,048 tokens".into() };
        Ok(vec![Offer { id: "more".into(), bytes: Some(300), fit: Some(fit), ..Offer::default() }])
    }

    fn fit(&self, known: &KnownModel) -> Option<FitNote> {
        (known.id == "more").then(|| FitNote { fits: true, text: "fits".into() })
    }

    fn remove(&self, known: &KnownModel) -> Result<Option<u64>, String> {
        match known.id.as_str() {
            "more" => Ok(Some(300)),
            "stuck" => Err("the folder cannot be written; look at its rights".into()),
            _ => Ok(None),
        }
    }

    fn pull(self: Arc<Self>, name: String, tell: Tell) -> Pulling {
        Box::pin(async move {
            let _dropped = OnDrop(Arc::clone(&self.was_dropped));
            for done in [0, 100, 200] {
                tell(Progress { phase: "download", done, total: Some(300) });
                tokio::task::yield_now().await;
            }
            match name.as_str() {
                "broken" => return Err("the disk is full; free some space".into()),
                "endless" => std::future::pending().await,
                _ => self.may_end.notified().await,
            }
            Ok(model("more"))
        })
    }
}

fn server(source: &Arc<Pieces>) -> TestServer {
    let mut setup = Setup::default();
    setup.options.source = Some(Arc::clone(source) as Arc<dyn ModelSource>);
    TestServer::start(setup)
}

/// Asks for a pull and reads until all but the last piece are told.
fn begun(server: &TestServer, name: &str) -> (TcpStream, Vec<u8>) {
    let mut stream = server.connect();
    let body = json!({"model": name}).to_string();
    stream.write_all(request("POST", "/v1/models/pull", "", &body).as_bytes()).unwrap();
    let (mut read, mut byte) = (Vec::new(), [0]);
    while !String::from_utf8_lossy(&read).contains("\"done\":200") {
        stream.read_exact(&mut byte).unwrap();
        read.extend(byte);
    }
    (stream, read)
}

/// Names and data of a stream's events.
fn events(response: &Response) -> Vec<(String, Value)> {
    let events = response.events().into_iter();
    events.map(|(name, data)| (name, serde_json::from_str(&data).unwrap())).collect()
}

#[test]
fn a_pulled_model_answers() {
    let source = Arc::<Pieces>::default();
    let server = server(&source);
    let offers = server.get("/v1/catalog").json();
    assert_eq!(offers["data"][0]["id"], "more");
    assert_eq!(offers["data"][0]["fit"]["fits"], true);
    let (mut stream, begin) = begun(&server, "more");
    source.may_end.notify_one();
    let response = Response::read_on(&mut stream, begin);
    let events = events(&response);
    let (last, before) = events.split_last().unwrap();
    assert_eq!((last.0.as_str(), &last.1), ("done", &json!({"id": "more"})));
    assert!(before.iter().all(|(name, _)| name == "progress"), "{before:?}");
    let told = &before.last().unwrap().1;
    assert_eq!((&told["done"], &told["total"]), (&json!(200), &json!(300)));
    let answer = server.ok("/v1/chat/completions", &with(chat("x"), json!({"model": "more"})));
    assert_eq!(answer["model"], "more");
    // A second pull of the same changes nothing.
    source.may_end.notify_one();
    server.post("/v1/models/pull", &json!({"model": "more"}));
    let list = server.get("/v1/models").json();
    assert_eq!(list["data"].as_array().unwrap().len(), 2);
    assert_eq!(
        (&list["data"][0]["fit"], &list["data"][1]["fit"]["text"]),
        (&Value::Null, &json!("fits"))
    );
}

#[test]
fn a_pull_that_fails_says_why() {
    let server = server(&Arc::default());
    let response = server.post("/v1/models/pull", &json!({"model": "broken"}));
    let events = events(&response);
    let (name, data) = events.last().unwrap();
    assert_eq!(name, "error");
    assert_eq!(data["error"]["message"], "the disk is full; free some space");
}

#[test]
fn a_client_that_goes_pauses_the_pull() {
    let source = Arc::<Pieces>::default();
    let server = server(&source);
    drop(begun(&server, "endless"));
    let begin = std::time::Instant::now();
    while !source.was_dropped.load(Ordering::Acquire) {
        assert!(begin.elapsed() < Duration::from_secs(60), "the pull goes on without its client");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn models_of_the_catalog_are_removed() {
    let mut setup =
        Setup { models: ["demo", "more", "stuck"].map(model).into(), ..Setup::default() };
    setup.options.source = Some(Arc::<Pieces>::default());
    setup.options.models_max = 2;
    let server = TestServer::start(setup);
    let remove = |id: &str| server.send("DELETE", &format!("/v1/models/{id}"), "", "");
    let refused = |id: &str| {
        let (status, code, _) = remove(id).error();
        (status, code)
    };
    let load = |id: &str| server.ok("/v1/models/load", &json!({"model": id}));
    assert_eq!(refused("none"), (404, "model_not_found".into()));
    // It serves requests that name none.
    assert_eq!(refused("demo"), (409, "model_in_use".into()));
    load("more");
    assert_eq!(refused("more"), (409, "model_in_use".into()));
    server.ok("/v1/models/unload", &json!({"model": "more"}));
    let removed = remove("more");
    assert_eq!(removed.status, 200, "{}", removed.text());
    let expected = json!({"id": "more", "object": "model", "deleted": true, "freed": 300});
    assert_eq!(removed.json(), expected);
    assert_eq!(server.get("/v1/models/more").status, 404);
    assert_eq!(server.post("/v1/models/load", &json!({"model": "more"})).status, 404);
    assert_eq!(refused("more"), (404, "model_not_found".into()));
    // What cannot be removed stays as it was.
    assert_eq!(refused("stuck"), (500, "internal_error".into()));
    load("stuck");
    server.ok("/v1/models/activate", &json!({"model": "stuck"}));
    server.ok("/v1/models/unload", &json!({"model": "demo"}));
    assert_eq!(refused("demo"), (400, "model_not_removable".into()));
    load("demo");
    // A route of the same name hides no model.
    for word in ["load", "unload", "pull", "activate"] {
        assert_eq!(refused(word), (404, "model_not_found".into()));
    }
}

#[test]
fn without_a_catalog_there_is_none() {
    let server = TestServer::plain();
    let response = server.get("/v1/catalog");
    assert_eq!(
        (response.status, response.json()["error"]["code"].as_str()),
        (404, Some("no_catalog"))
    );
    assert_eq!(server.post("/v1/models/pull", &json!({"model": "x"})).status, 404);
}

#[test]
fn the_page_needs_no_key_and_its_requests_do() {
    let mut setup = Setup::default();
    setup.options.api_keys = vec!["secret".into()];
    let server = TestServer::start(setup);
    let page = server.get("/");
    assert_eq!(page.status, 200);
    assert!(page.text().contains("<!doctype html>"));
    assert_eq!(server.get("/licenses.txt").status, 200);
    assert_eq!(server.get("/assets/none.js").status, 404);
    assert_eq!(server.get("/assets/../v1/models").status, 404);
    for path in ["/v1/models", "/v1/catalog", "/assetsx", "/props"] {
        let refused = server.get(path);
        assert_eq!(
            (refused.status, refused.header("www-authenticate")),
            (401, Some("bearer")),
            "{path}"
        );
    }
}
