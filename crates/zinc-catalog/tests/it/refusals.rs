//! Pulls that cannot end well: one error each, and nothing left that looks like a model.

use zinc_catalog::{CatalogError, Source};

use crate::hub::{content, sha256};
use crate::{Place, files, silent};

const NAME: &str = "o/m-GGUF/m-Q4_K_M.gguf";
const REFERENCE: &str = "hf:o/m-GGUF";

fn models(place: &Place) -> Vec<String> {
    files(&place.home().models())
}

#[tokio::test]
async fn a_wrong_hash() {
    let place = Place::new().await;
    place.hub.put_lying(NAME, content(100_000, 1), sha256(b"other"));
    let error = place.pull(REFERENCE).await.unwrap_err();
    assert!(matches!(error, CatalogError::Hash { .. }), "{error}");
    assert!(error.to_string().contains("as the Hub says"), "{error}");
    assert_eq!(models(&place), [""; 0]);
    assert!(place.store().records(&mut |_| {}).unwrap().is_empty());
}

#[tokio::test]
async fn no_model_file() {
    let place = Place::new().await;
    place.hub.put(NAME, "<html>Please log in".into());
    let error = place.pull(REFERENCE).await.unwrap_err();
    assert!(matches!(error, CatalogError::NotGguf { .. }), "{error}");
    assert!(place.store().records(&mut |_| {}).unwrap().is_empty());
}

#[tokio::test]
async fn more_than_the_disk_holds() {
    let place = Place::new().await;
    place.hub.put_huge(NAME);
    let error = place.pull(REFERENCE).await.unwrap_err();
    assert!(matches!(error, CatalogError::Space { .. }), "{error}");
    assert_eq!(place.hub.sent(), 0);
}

#[tokio::test]
async fn gated_and_hidden_repositories() {
    let place = Place::new().await;
    place.hub.put(NAME, content(1000, 2));
    place.hub.gated(true);
    let error = place.pull(REFERENCE).await.unwrap_err().to_string();
    assert!(error.contains("o/m-GGUF is gated") && error.contains("set HF_TOKEN"), "{error}");
    let bad = place.puller(Some("bad"));
    let error = place.pull_with(&bad, REFERENCE, silent()).await.unwrap_err().to_string();
    assert!(error.contains("accept the terms") && error.contains("of your token"), "{error}");
    let good = place.puller(Some("good"));
    place.pull_with(&good, REFERENCE, silent()).await.unwrap();

    place.hub.hidden(true);
    let error = place.pull("hf:o/m-GGUF:Q8_0").await.unwrap_err();
    assert!(matches!(error, CatalogError::NoRepo { has_token: false, .. }), "{error}");
}

#[tokio::test]
async fn what_is_not_there() {
    let place = Place::new().await;
    place.hub.put(NAME, content(1000, 2));
    let error = |text: &'static str| {
        let place = &place;
        async move { place.pull(text).await.unwrap_err().to_string() }
    };
    let none = error("hf:o/none").await;
    assert!(none.contains("no repository o/none"), "{none}");
    let quant = error("hf:o/m-GGUF:Q2_K").await;
    assert!(quant.contains("no GGUF file in Q2_K") && quant.contains("Q4_K_M (1000 B)"), "{quant}");
    let revision = error("hf:o/m-GGUF@v9").await;
    assert!(revision.contains("no revision v9"), "{revision}");
    let name = error("qwen3-4").await;
    assert!(name.contains("did you mean qwen3-4b"), "{name}");
    let url = place.pull(&place.hub.url("gone.gguf")).await.unwrap_err().to_string();
    assert!(url.contains("says 404") && url.contains("check the address"), "{url}");
    // A path that leaves the directory is never taken, whatever a listing says.
    assert!(place.pull("hf:o/m-GGUF/evil-Q4_K_M.gguf").await.is_err());
    assert_eq!(models(&place), [""; 0]);
}

#[tokio::test]
async fn a_server_that_is_not_there() {
    let place = Place::new().await;
    let mut puller = place.puller(None);
    puller.hub = zinc_catalog::Hub::new("http://127.0.0.1:9", None).unwrap();
    let error = place.pull_with(&puller, REFERENCE, silent()).await.unwrap_err();
    assert!(matches!(error, CatalogError::Network { attempts: 4, .. }), "{error}");
}

#[tokio::test]
async fn another_file_under_a_known_name() {
    let place = Place::new().await;
    place.hub.put(NAME, content(5000, 3));
    let record = place.pull(REFERENCE).await.unwrap();
    place.store().remove(&record).unwrap();
    assert_eq!(models(&place), [""; 0]);
    place.hub.put(NAME, content(5000, 4));
    let error = place.pull(REFERENCE).await.unwrap_err();
    assert!(matches!(error, CatalogError::Pinned { .. }), "{error}");
    let mut puller = place.puller(None);
    puller.repin = true;
    let record = place.pull_with(&puller, REFERENCE, silent()).await.unwrap();
    assert_eq!(record.files[0].sha256, sha256(&content(5000, 4)));
    let Source::Hub { revision, .. } = record.source else { panic!() };
    assert_eq!(revision, "c0ffee");
}
