//! Files that are on the machine already: of other programs, imported, left over.

use std::fs;
use std::path::Path;

use zinc_catalog::{CatalogError, ImportMode, LeftoverKind, Reference};

use crate::hub::{content, sha256};
use crate::{Place, files};

fn write(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

/// Lays a file into the Hub's cache as the Hub's own programs do.
#[cfg(unix)]
fn hub_cache(place: &Place, name: &str, bytes: &[u8]) -> std::path::PathBuf {
    let repo = place.path(".cache/huggingface/hub/models--o--m-GGUF");
    let hash = sha256(bytes);
    write(&repo.join("blobs").join(&hash), bytes);
    write(&repo.join("refs/main"), b"c0ffee");
    let link = repo.join("snapshots/c0ffee").join(name);
    fs::create_dir_all(link.parent().unwrap()).unwrap();
    std::os::unix::fs::symlink(format!("../../blobs/{hash}"), &link).unwrap();
    link
}

#[cfg(unix)]
#[tokio::test]
async fn the_hub_cache_is_used_where_it_is() {
    let place = Place::new().await;
    let bytes = content(50_000, 1);
    let link = hub_cache(&place, "m-Q4_K_M.gguf", &bytes);
    place.hub.put("o/m-GGUF/m-Q4_K_M.gguf", bytes.clone());
    let record = place.pull("hf:o/m-GGUF").await.unwrap();
    assert_eq!(place.hub.sent(), 0);
    assert_eq!(place.store().paths(&record).unwrap(), [link.as_path()]);
    assert_eq!(record.files[0].belongs_to.as_deref(), Some("the Hub's cache"));
    // Without a network as well.
    let mut puller = place.puller(None);
    puller.hub = zinc_catalog::Hub::new("http://127.0.0.1:9", None).unwrap();
    let reference = Reference::parse("hf:o/m-GGUF:Q4_K_M").unwrap();
    let plan = puller.local(&reference).unwrap().unwrap();
    assert_eq!(plan.to_download(), Some(0));
    assert!(puller.local(&Reference::parse("hf:o/m-GGUF:Q8_0").unwrap()).unwrap().is_none());
    // Removing the model leaves the file to its owner.
    assert_eq!(place.store().remove(&record).unwrap(), 0);
    assert!(link.exists());
}

#[cfg(unix)]
#[tokio::test]
async fn a_damaged_cache_is_told() {
    let place = Place::new().await;
    let bytes = content(50_000, 1);
    let link = hub_cache(&place, "m-Q4_K_M.gguf", &bytes);
    place.hub.put("o/m-GGUF/m-Q4_K_M.gguf", bytes.clone());
    let mut damaged = bytes.to_vec();
    damaged[40_000] ^= 1;
    fs::write(fs::canonicalize(link).unwrap(), damaged).unwrap();
    let error = place.pull("hf:o/m-GGUF").await.unwrap_err();
    assert!(matches!(error, CatalogError::Hash { .. }), "{error}");
}

#[tokio::test]
async fn ollama_and_lm_studio() {
    let place = Place::new().await;
    let (a, b) = (content(40_000, 2), content(30_000, 3));
    let hash = sha256(&a);
    let models = place.path(".ollama/models");
    write(&models.join(format!("blobs/sha256-{hash}")), &a);
    let manifest = format!(
        r#"{{"layers":[{{"mediaType":"application/vnd.ollama.image.license","digest":"sha256:00"}},
           {{"mediaType":"application/vnd.ollama.image.model","digest":"sha256:{hash}"}}]}}"#
    );
    write(&models.join("manifests/registry.ollama.ai/library/m/1b"), manifest.as_bytes());
    write(&place.path(".lmstudio/models/o/b-GGUF/b-Q8_0.gguf"), &b);
    let found = place.home().found();
    let names: Vec<_> = found.iter().map(|found| (found.program, found.size)).collect();
    assert_eq!(names, [("LM Studio", 30_000), ("Ollama", 40_000)]);
    assert_eq!(found[1].reference, "ollama:m:1b");
    assert_eq!(place.home().ollama_model("m:1b").unwrap().1, hash);
    let error = place.home().ollama_model("m").unwrap_err().to_string();
    assert!(error.contains("it has ollama:m:1b"), "{error}");
    place.hub.put("o/a-GGUF/a-Q4_0.gguf", a);
    place.hub.put("o/b-GGUF/b-Q8_0.gguf", b);
    for (text, program) in [("hf:o/a-GGUF", "Ollama"), ("hf:o/b-GGUF", "LM Studio")] {
        let record = place.pull(text).await.unwrap();
        assert_eq!(record.files[0].belongs_to.as_deref(), Some(program));
    }
    assert_eq!(place.hub.sent(), 0);
}

#[tokio::test]
async fn imports() {
    let place = Place::new().await;
    let store = place.store();
    let source = place.path("My Model-Q8_0.gguf");
    let model = include_bytes!("../../../../testdata/golden/q_qwen3_small.q4_0.gguf");
    write(&source, model);
    let import = |name: Option<&str>, mode| store.import(&source, name, mode, &mut |_, _| {});
    assert!(import(None, ImportMode::Refer).unwrap_err().to_string().contains("--name"));
    let refer = import(Some("refer"), ImportMode::Refer).unwrap();
    let link = import(Some("link"), ImportMode::Link).unwrap();
    let copy = import(Some("copy"), ImportMode::Copy).unwrap();
    assert!(matches!(import(Some("copy"), ImportMode::Copy), Err(CatalogError::NameTaken { .. })));
    assert_eq!(copy.quant.as_deref(), Some("Q8_0"));
    assert_eq!(store.paths(&refer).unwrap(), [fs::canonicalize(&source).unwrap()]);
    for record in [&refer, &link, &copy] {
        store.verify(record, &mut |_, _| {}).unwrap();
    }
    assert_eq!(store.remove(&refer).unwrap(), 0);
    assert_eq!(store.remove(&copy).unwrap(), model.len() as u64);
    store.remove(&link).unwrap();
    assert!(source.exists());
    assert_eq!(files(&place.home().models()), [""; 0]);
    let gone = import(Some("gone"), ImportMode::Refer).unwrap();
    for wrong in [&b"no model"[..], &model[..model.len() - 1000]] {
        write(&source, wrong);
        assert!(matches!(import(Some("x"), ImportMode::Copy), Err(CatalogError::NotGguf { .. })));
    }
    fs::remove_file(&source).unwrap();
    let error = store.paths(&gone).unwrap_err().to_string();
    assert!(error.contains("is gone; hint: zinc model rm gone, then zinc model import"), "{error}");
}

#[tokio::test]
async fn damage_and_leftovers() {
    let place = Place::new().await;
    let store = place.store();
    place.hub.put("o/m-GGUF/m-Q4_K_M.gguf", content(1000, 5));
    let record = place.pull("hf:o/m-GGUF").await.unwrap();
    store.set_active(Some(&record.name)).unwrap();
    let path = store.paths(&record).unwrap().remove(0);
    let mut bytes = fs::read(&path).unwrap();
    bytes[999] ^= 1;
    fs::write(&path, &bytes).unwrap();
    assert!(matches!(store.verify(&record, &mut |_, _| {}), Err(CatalogError::Hash { .. })));
    fs::write(&path, &bytes[..10]).unwrap();
    assert!(matches!(store.paths(&record), Err(CatalogError::Damaged { found: Some(10), .. })));
    write(&path.with_file_name("x.gguf.part"), b"abc");
    write(&path.with_file_name("lost.gguf"), b"abcd");
    let left = store.leftovers().unwrap();
    let kinds: Vec<_> = left.iter().map(|left| left.kind).collect();
    assert_eq!(kinds, [LeftoverKind::Orphan, LeftoverKind::Unfinished]);
    store.prune(&left).unwrap();
    assert!(store.leftovers().unwrap().is_empty());
    fs::remove_file(&path).unwrap();
    assert_eq!(store.leftovers().unwrap()[0].kind, LeftoverKind::Record);
    assert_eq!(store.active().unwrap().as_deref(), Some("hf:o/m-GGUF:Q4_K_M"));
    store.remove(&record).unwrap();
    assert_eq!(store.active().unwrap(), None);
    fs::create_dir_all(place.home().data().join("records")).unwrap();
    fs::write(place.home().data().join("records/x.json"), b"{").unwrap();
    let mut damaged = Vec::new();
    assert!(store.records(&mut |error| damaged.push(error.to_string())).unwrap().is_empty());
    assert!(damaged[0].contains("x.json"), "{damaged:?}");
}
