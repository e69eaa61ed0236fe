//! The case table on the reference itself: its results do not depend on how rows are cut into steps.

use zinc_plan::OpKind;
use zinc_reference::ReferenceDevice;
use zinc_testkit::conformance::check_device;

#[test]
fn case_table_holds() {
    let missing =
        [OpKind::MatMulAdd, OpKind::GateUpAct, OpKind::ExpertGateUpAct, OpKind::QuantizeAct];
    check_device(&ReferenceDevice::new()).assert_passed(&missing);
}
