//! `docs/ops.md` says what the devices do today.

use zinc_testkit::{ops_doc, paths, snapshot};

#[test]
fn docs_ops_md_is_fresh() {
    let text = ops_doc::text().expect("every case that a device takes passes");
    snapshot::check(&paths::workspace().join("docs/ops.md"), &text);
}
