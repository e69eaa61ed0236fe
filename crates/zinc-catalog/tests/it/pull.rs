//! Pulls that end well, whatever happens on the way.

use zinc_catalog::{CatalogError, Step};

use crate::hub::{Fault, content};
use crate::{Place, files, noting, silent};

const NAME: &str = "o/m-GGUF/m-Q4_K_M.gguf";
const REFERENCE: &str = "hf:o/m-GGUF";
const MIB: usize = 1 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plain_pull() {
    let place = Place::new().await;
    let bytes = content(21 * MIB + 123, 1);
    place.hub.put(NAME, bytes.clone());
    place.hub.put("o/m-GGUF/m-Q8_0.gguf", content(100, 2));
    let puller = place.puller(Some("good"));
    let record = place.pull_with(&puller, REFERENCE, silent()).await.unwrap();
    assert_eq!(record.name, "hf:o/m-GGUF:Q4_K_M");
    assert!(place.bytes(&record) == bytes);
    assert_eq!(place.store().find("hf:o/m-gguf:q4_k_m", None).unwrap(), Some(record.clone()));
    assert_eq!(place.hub.leaked(), 0, "the token went to the content network");
    place.store().verify(&record, &mut |_, _| {}).unwrap();
    // All there is afterwards: the file, its record, its pin, locks.
    let left = files(place.dir.path());
    let left: Vec<_> = left.iter().filter(|name| !name.ends_with(".lock")).collect();
    assert_eq!(left.len(), 3, "{left:?}");
    // Again: nothing is fetched.
    place.hub.reset_sent();
    place.pull(REFERENCE).await.unwrap();
    assert!(place.hub.sent() <= 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cut_connections_and_busy_servers() {
    let place = Place::new().await;
    let bytes = content(18 * MIB, 3);
    place.hub.put(NAME, bytes.clone());
    let cuts = (0..25).map(|i| match i % 5 {
        0 => Fault::Status(503, None),
        1 => Fault::Status(429, Some("0")),
        2 => Fault::Cut(0),
        3 => Fault::Whole,
        _ => Fault::Cut(MIB + i * 100_001),
    });
    place.hub.faults(cuts);
    place.hub.hub_faults([Fault::Status(429, Some("0")), Fault::Status(502, None)]);
    let (listener, notes) = noting();
    let record = place.pull_with(&place.puller(None), REFERENCE, listener).await.unwrap();
    assert!(place.bytes(&record) == bytes);
    let retries = notes.lock().unwrap().iter().filter(|s| matches!(s, Step::Retry { .. })).count();
    assert!(retries >= 20, "{retries}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_goes_on_where_it_was_given_up() {
    let place = Place::new().await;
    let bytes = content(16 * MIB, 4);
    place.hub.put(NAME, bytes.clone());
    for _ in 0..3 {
        place.give_up_after(REFERENCE, 3 * MIB).await;
    }
    place.hub.reset_sent();
    let (listener, notes) = noting();
    let record = place.pull_with(&place.puller(None), REFERENCE, listener).await.unwrap();
    assert!(place.bytes(&record) == bytes);
    let Some(Step::Begin { done, .. }) = notes.lock().unwrap().first().cloned() else { panic!() };
    assert_eq!(done, 9 * MIB as u64);
    // What is missing, and one byte that asks what there is.
    assert_eq!(place.hub.sent(), bytes.len() as u64 - done + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_patience_ends_nothing_is_lost() {
    let place = Place::new().await;
    let bytes = content(9 * MIB, 5);
    place.hub.put(NAME, bytes.clone());
    place.give_up_after(REFERENCE, 3 * MIB).await;
    place.hub.faults((0..200).map(|_| Fault::Status(429, Some("0"))));
    let error = place.pull(REFERENCE).await.unwrap_err();
    assert!(matches!(error, CatalogError::RateLimited { .. }), "{error}");
    assert!(place.store().records(&mut |_| {}).unwrap().is_empty());
    assert_eq!(place.n_saved(), 3 * MIB as u64);
    place.hub.faults([]);
    place.hub.reset_sent();
    let record = place.pull(REFERENCE).await.unwrap();
    assert!(place.bytes(&record) == bytes);
    assert_eq!(place.hub.sent(), 6 * MIB as u64 + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn split_models() {
    let place = Place::new().await;
    let parts = [content(5 * MIB, 6), content(MIB, 7), content(9, 8)];
    for (i, part) in parts.iter().enumerate() {
        place.hub.put(&format!("o/m-GGUF/Q8_0/m-Q8_0-{:05}-of-00003.gguf", i + 1), part.clone());
    }
    let record = place.pull("hf:o/m-GGUF:q8_0").await.unwrap();
    let paths = place.store().paths(&record).unwrap();
    assert_eq!(paths.len(), 3);
    for (path, part) in paths.iter().zip(&parts) {
        assert!(std::fs::read(path).unwrap() == *part);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_pulls_of_one_file_fetch_it_once() {
    let place = Place::new().await;
    let bytes = content(6 * MIB, 9);
    place.hub.put(NAME, bytes.clone());
    place.hub.stall_after(MIB);
    let (listener, notes) = noting();
    let puller = place.puller(None);
    let waits = async {
        while !notes.lock().unwrap().contains(&Step::Waiting) {
            tokio::task::yield_now().await;
        }
        place.hub.go_on();
    };
    let (a, b, ()) = tokio::join!(
        place.pull_with(&puller, REFERENCE, listener.clone()),
        place.pull_with(&puller, REFERENCE, listener),
        waits,
    );
    assert_eq!(a.unwrap().files, b.unwrap().files);
    assert!(place.hub.sent() <= bytes.len() as u64 + 2, "{}", place.hub.sent());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_changes_between_pulls_is_fetched_anew() {
    let place = Place::new().await;
    place.hub.put(NAME, content(9 * MIB, 10));
    place.give_up_after(REFERENCE, 2 * MIB).await;
    let new = content(9 * MIB, 11);
    place.hub.put(NAME, new.clone());
    let (listener, notes) = noting();
    let record = place.pull_with(&place.puller(None), REFERENCE, listener).await.unwrap();
    assert!(place.bytes(&record) == new);
    assert!(notes.lock().unwrap().contains(&Step::Changed));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_without_ranges_or_lengths() {
    for no_length in [false, true] {
        let place = Place::new().await;
        let bytes = content(3 * MIB, 12);
        place.hub.put("plain/m-Q8_0.gguf", bytes.clone());
        place.hub.no_ranges();
        if no_length {
            place.hub.no_length();
        }
        place.hub.faults([Fault::Cut(10), Fault::Cut(MIB)]);
        let record = place.pull(&place.hub.url("plain/m-Q8_0.gguf")).await.unwrap();
        assert_eq!(record.name, "m-q8_0");
        assert!(place.bytes(&record) == bytes);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_goes_on_too() {
    let place = Place::new().await;
    let bytes = content(9 * MIB, 13);
    place.hub.put("plain/m.gguf", bytes.clone());
    let url = place.hub.url("plain/m.gguf");
    place.give_up_after(&url, 2 * MIB).await;
    place.hub.reset_sent();
    let record = place.pull(&url).await.unwrap();
    assert!(place.bytes(&record) == bytes);
    // Those of the probes of plan and pull are there twice.
    assert!(place.hub.sent() <= (7 * MIB + 2) as u64, "{}", place.hub.sent());
}
