//! The golden data of the clone is a part of the full set.

use zinc_testkit::golden::in_folder;
use zinc_testkit::paths;

/// Those of the clone alone, by models; the README beside them says where their numbers come from.
const OF_THE_CLONE: [&str; 1] = ["gemma2.f32"];

#[test]
fn the_clone_has_the_numbers_of_the_full_set() {
    let full = in_folder(&paths::shared().join("golden")).expect("readable models");
    if full.is_empty() {
        eprintln!("skipped: {} has no golden models", paths::shared().join("golden").display());
        return;
    }
    let clone = in_folder(&paths::testdata().join("golden")).expect("readable models");
    assert!(!clone.is_empty());
    for golden in clone.iter().filter(|golden| !OF_THE_CLONE.contains(&golden.name.as_str())) {
        let original = full.iter().find(|other| other.name == golden.name);
        let original = original.expect("every golden of the clone is in the full set");
        let model = |path| std::fs::read(path).expect("a readable model");
        assert!(model(&golden.gguf) == model(&original.gguf), "{}", golden.name);
        let prompts = golden.prompts().expect("readable numbers");
        let originals = original.prompts().expect("readable numbers");
        assert_eq!(prompts.len(), originals.len());
        for (prompt, original) in prompts.iter().zip(&originals) {
            assert_eq!(prompt.tokens, original.tokens);
            assert_eq!(prompt.greedy, original.greedy);
            assert_eq!(prompt.greedy_gap, original.greedy_gap);
            assert_eq!(prompt.hidden, original.hidden);
            assert!(original.logits.ends_with(&prompt.logits), "{}", golden.name);
        }
    }
}
