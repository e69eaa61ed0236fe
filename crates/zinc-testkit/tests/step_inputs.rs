//! What `StepInputs::check` refuses of windows and recurrent states, and what saved states hold.

use std::collections::HashMap;

use zinc_backend::{Device, StepInputs};
use zinc_plan::{Attention, Builder, CacheGroup, CausalConv1d, Limits, OpKind, Plan};
use zinc_quant::GgmlType;
use zinc_reference::ReferenceDevice;
use zinc_testkit::{cases, conformance};

const WINDOW: u32 = 5;
const PAGE_SIZE: u32 = 4;
const MAX_TOKENS: u32 = 6;

/// A window and a recurrence over two sequences.
fn plan() -> Plan {
    let ring = Limits::ring_pages(PAGE_SIZE, WINDOW, MAX_TOKENS);
    let limits = Limits {
        max_tokens: MAX_TOKENS,
        max_seqs: 2,
        max_out_rows: 1,
        page_size: PAGE_SIZE,
        pages_per_seq: 16,
        n_pages: 32,
        window_pages_per_seq: ring,
        n_window_pages: 2 * ring,
        n_state_slots: 6,
    };
    let build = || {
        let mut b = Builder::new("step inputs", limits);
        let table = b.weight("table", GgmlType::F32, 8, 32)?;
        let x = b.embed("x", table, 1.0)?;
        let cache = b.cache_of(CacheGroup::Window, "cache", GgmlType::F32, 32)?;
        b.kv_write("write", [x, x], [cache, cache])?;
        let attention = Attention {
            n_heads: 1,
            n_kv_heads: 1,
            k_dim: 32,
            v_dim: 32,
            scale: 1.0,
            softcap: None,
            window: Some(WINDOW),
            page_size: PAGE_SIZE,
            sinks: false,
        };
        let attended = b.attention("attended", attention, x, [cache, cache])?;
        let taps = b.weight("taps", GgmlType::F32, 32, 4)?;
        let state = b.recurrent_state("state", 3 * 32)?;
        let conv = CausalConv1d { kernel: 4 };
        let convolved = b.causal_conv1d("convolved", conv, [attended, taps], state)?;
        Ok::<_, zinc_plan::PlanError>(b.finish(vec![convolved]))
    };
    build().expect("operands that fit")
}

/// Rows `(sequence, position)` of a valid step.
fn inputs(plan: &Plan, rows: &[(i32, i32)]) -> StepInputs {
    let ring = plan.limits.window_pages_per_seq as i32;
    let page_size = PAGE_SIZE as i32;
    let window_slot = |(seq, position): &(i32, i32)| {
        (seq * ring + position / page_size % ring) * page_size + position % page_size
    };
    StepInputs {
        token_ids: vec![0; rows.len()],
        positions: rows.iter().map(|row| row.1).collect(),
        seq_of: rows.iter().map(|row| row.0).collect(),
        slots: rows.iter().map(|row| row.0 * 64 + row.1).collect(),
        pages: (0..32).collect(),
        window_slots: rows.iter().map(window_slot).collect(),
        window_pages: (0..2 * ring).collect(),
        rope_variant: vec![0; rows.len()],
        state_from: vec![0, 1],
        state_slots: vec![0, 1],
        state_saves: vec![-1; rows.len()],
        ..StepInputs::default()
    }
}

fn refusal(plan: &Plan, rows: &[(i32, i32)], edit: impl Fn(&mut StepInputs)) -> String {
    let mut inputs = inputs(plan, rows);
    edit(&mut inputs);
    inputs.check(plan).err().map_or_else(String::new, |error| error.to_string())
}

#[test]
fn a_step_never_overwrites_what_it_reads() {
    let plan = plan();
    let n_rows = (plan.limits.window_pages_per_seq * PAGE_SIZE) as i32;
    // Wherever a step of the largest size begins, it fits.
    for first in 0..40 {
        let rows: Vec<_> = (first..first + MAX_TOKENS as i32).map(|p| (0, p)).collect();
        assert_eq!(refusal(&plan, &rows, |_| ()), "", "a step at {first}");
    }
    // A row of position 0 next to the last that fits beside it, and the first that does not.
    let far = |last| {
        let mut inputs = inputs(&plan, &[(0, 0), (0, last)]);
        // Rows that do not follow each other are no step of a recurrence.
        inputs.seq_of[1] = 0;
        let mut plain = plan.clone();
        plain.nodes.truncate(3);
        plain.tensors.retain(|tensor| !tensor.name.starts_with("state_"));
        inputs.check(&plain).err().map_or_else(String::new, |error| error.to_string())
    };
    assert_eq!(far(n_rows - 1), "");
    assert!(far(n_rows + 1).contains("cannot hold the window"), "{}", far(n_rows + 1));
    let rows = [(0, 8), (1, 3)];
    let twice = refusal(&plan, &rows, |inputs| inputs.window_slots[1] = inputs.window_slots[0]);
    assert!(twice.contains("two tokens share cache row"), "{twice}");
    let outside = refusal(&plan, &rows, |inputs| inputs.window_pages[2] = 99);
    assert!(outside.contains("window_pages: 99 is not inside"), "{outside}");
    assert!(refusal(&plan, &rows, |inputs| inputs.window_slots.clear()).contains("0 entries"));
    assert!(refusal(&plan, &rows, |inputs| inputs.window_pages.truncate(3)).contains("3 entries"));
}

#[test]
fn states_are_written_once_and_read_before() {
    let plan = plan();
    let rows = [(0, 0), (0, 1), (0, 2), (1, 7), (1, 8)];
    let check = |edit: fn(&mut StepInputs), expected: &str| {
        let refusal = refusal(&plan, &rows, edit);
        assert!(
            refusal.contains(expected) && refusal.is_empty() == expected.is_empty(),
            "{refusal}"
        );
    };
    check(|_| (), "");
    check(|inputs| inputs.state_saves = vec![2, 3, -1, 4, 5], "");
    // Restoring: from a slot that the step leaves alone, or one that the same sequence writes anew.
    check(|inputs| inputs.state_from = vec![4, 5], "");
    check(|inputs| (inputs.state_from[0], inputs.state_saves[1]) = (4, 4), "");
    check(|inputs| inputs.state_from = vec![4, 4], "");
    check(|inputs| inputs.state_slots[1] = 0, "two sequences share slot 0");
    check(|inputs| inputs.state_from[1] = 0, "two sequences share slot 0");
    check(|inputs| inputs.state_saves[2] = 0, "slot 0 of row 2 is in use");
    check(|inputs| inputs.state_saves[2] = 1, "slot 1 of row 2 is in use");
    check(|inputs| inputs.state_saves = vec![2, -1, -1, -1, 2], "slot 2 of row 4 is in use");
    check(
        |inputs| (inputs.state_from[1], inputs.state_saves[0]) = (3, 3),
        "slot 3 of row 0 is in use",
    );
    check(|inputs| inputs.state_saves[0] = 6, "6 is not inside -1..6");
    check(|inputs| inputs.state_saves[0] = -2, "-2 is not inside -1..6");
    check(|inputs| inputs.state_from[0] = -1, "-1 is not inside 0..6");
    check(|inputs| inputs.state_from.truncate(1), "1 entries");
    check(|inputs| inputs.state_saves.clear(), "0 entries");
    check(|inputs| inputs.positions[1] = 5, "does not follow");
}

/// Going on from a state saved inside a chunk gives the bits of computing straight through.
#[test]
fn saved_states_are_those_of_their_tokens() {
    let device = ReferenceDevice::new();
    let cases = cases::all(device.caps()).expect("a readable table");
    let mut n_repeated = 0;
    for case in cases.iter().filter(|case| case.name == "saves") {
        assert!([OpKind::CausalConv1d, OpKind::GatedDeltaNet].contains(&case.op));
        let outputs = conformance::run_on_reference(case).expect("a valid case");
        let rows = case.layout.steps.concat();
        let n_cols = outputs[0].len() / rows.len();
        let mut known: HashMap<(usize, i32, i32), Vec<u32>> = HashMap::new();
        for (row, y) in rows.iter().zip(outputs[0].chunks_exact(n_cols)) {
            let bits: Vec<u32> = y.iter().map(|y| y.to_bits()).collect();
            let key = (row.seq, row.position, row.token);
            match known.get(&key) {
                Some(earlier) => {
                    assert!(*earlier == bits, "{} at {row:?}", case.label());
                    n_repeated += 1;
                }
                None => drop(known.insert(key, bits)),
            }
        }
    }
    assert!(n_repeated > 100, "{n_repeated} rows were computed again");
}
