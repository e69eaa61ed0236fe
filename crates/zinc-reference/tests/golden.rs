//! The reference device against every golden model of a supported family.

use std::sync::Arc;

use zinc_backend::Device;
use zinc_reference::ReferenceDevice;
use zinc_testkit::golden_check;

#[test]
fn goldens_of_supported_families_agree() {
    let device: Arc<dyn Device> = Arc::new(ReferenceDevice::new());
    golden_check::check_all(&device);
}

#[test]
fn caches_in_f16_stay_close() {
    let device: Arc<dyn Device> = Arc::new(ReferenceDevice::new());
    golden_check::check_f16_cache(&device);
}
