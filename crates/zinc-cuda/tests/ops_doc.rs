//! `docs/ops.md` says what the devices do today. Here, because this crate's tests have a device of each kind.
#![cfg(unix)]

#[allow(dead_code)]
mod host_device;

use host_device::{HostDevice, Options};
use zinc_cuda::lower::Card;
use zinc_testkit::kernel_host::Schedule;
use zinc_testkit::{ops_doc, paths, snapshot};

#[test]
fn docs_ops_md_is_fresh() {
    let options = Options {
        batch_invariant: false,
        schedule: Schedule::Forward,
        card: Card { capability: 89, ..Card::HOPPER },
        packed: false,
    };
    let cuda = Box::new(HostDevice::new(options));
    let text = ops_doc::text(vec![("cuda", cuda)]).expect("every case that a device takes passes");
    snapshot::check(&paths::workspace().join("docs/ops.md"), &text);
}
