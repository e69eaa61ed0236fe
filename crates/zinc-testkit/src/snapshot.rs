//! Expected text in `testdata/`, compared exactly.

use std::path::Path;

/// Compares `text` with the file at `path`; with `ZINC_UPDATE=1` in the environment the file is
/// rewritten instead.
///
/// # Panics
/// If the texts differ, naming the first line that does.
pub fn check(path: &Path, text: &str) {
    if std::env::var_os("ZINC_UPDATE").is_some_and(|value| value == "1") {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).expect("the folder can be made");
        }
        std::fs::write(path, text).expect("the snapshot can be written");
        return;
    }
    let expected = std::fs::read_to_string(path).unwrap_or_default();
    if expected == text {
        return;
    }
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let (found, expected) = (lines(text), lines(&expected));
    let same = found.iter().zip(&expected).take_while(|(a, b)| a == b).count();
    panic!(
        "{} differs at line {}:\n  expected {:?}\n  found    {:?}\n\
         hint: if the change is meant, run the test again with ZINC_UPDATE=1 and read the diff",
        path.display(),
        same + 1,
        expected.get(same),
        found.get(same)
    );
}
