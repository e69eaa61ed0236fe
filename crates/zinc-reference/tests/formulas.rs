//! The reference against formulas written here once more, in f64 and for one element at a time, over
//! every f32 case of the operation table. Other devices are measured against the reference, so this
//! is what it is measured against itself.

use zinc_plan::{
    Activation, Attention, CausalConv1d, GatedDeltaNet, Gating, GroupScore, HeadOrder,
    LatentAttention, Op, Plan, RopeMode, RouterTopK,
};
use zinc_quant::GgmlType;
use zinc_reference::ReferenceDevice;
use zinc_testkit::cases::{self, Case, Row};
use zinc_testkit::compare::nmse;
use zinc_testkit::conformance::run_on_reference;

/// A case with its data as f64.
struct Data<'a> {
    case: &'a Case,
    plan: &'a Plan,
}

impl Data<'_> {
    /// Element `col` of row `row` of the f32 table `name`.
    fn table(&self, name: &str, row: usize, col: usize) -> f64 {
        let weights = &self.case.weights;
        let weight = weights.iter().find(|w| w.name == name).expect("a table of the case");
        assert_eq!(weight.dtype, GgmlType::F32);
        let start = 4 * (row * weight.cols as usize + col);
        let bytes = weight.data[start..start + 4].try_into().expect("four bytes");
        f64::from(f32::from_le_bytes(bytes))
    }

    /// Element `col` of the operand `name` for a token: an embedded row, from the column where the
    /// view begins if it is one.
    fn operand(&self, name: &str, row: &Row, col: usize) -> f64 {
        let view = self.plan.find(&format!("{name}.view"));
        let lead = view.map_or(0, |id| match self.plan.tensor(id).kind {
            zinc_plan::TensorKind::View { col, .. } => col as usize,
            _ => 0,
        });
        self.table(name, row.token as usize, lead + col)
    }

    /// All rows of the case in the order they are run.
    fn rows(&self) -> Vec<Row> {
        self.case.layout.steps.concat()
    }

    /// The second operand, which may be one row or one column for all.
    fn other(&self, row: &Row, col: usize) -> f64 {
        let weight = self.case.weights.iter().find(|w| w.name == "other");
        let weight = weight.expect("a second operand");
        let col = if weight.cols == 1 { 0 } else { col };
        match self.plan.find("other.rows") {
            Some(_) => self.operand("other", row, col),
            None => self.table("other", 0, col),
        }
    }

    /// Root of the sum of squares of the group of column `col`, divided by `n`, plus eps.
    fn root(&self, name: &str, row: &Row, col: usize, group: usize, eps: f32, n: f64) -> f64 {
        let start = col / group * group;
        let squares = (start..start + group).map(|c| self.operand(name, row, c).powi(2));
        (squares.sum::<f64>() / n + f64::from(eps)).sqrt()
    }

    /// Row `out` of a weight times `n_in` columns, from `start`, of x or of what the plan makes of it before.
    fn product(&self, weight: &str, out: usize, row: &Row, start: usize, n_in: usize) -> f64 {
        let x = self.activations(row, start, n_in);
        (0..n_in).map(|c| self.table(weight, out, c) * x[c]).sum()
    }

    /// What a product takes: x, its norm, or one of them gated by z.
    fn activations(&self, row: &Row, start: usize, n_in: usize) -> Vec<f64> {
        let mut x: Vec<f64> = (start..start + n_in).map(|c| self.operand("x", row, c)).collect();
        let mut slice = None;
        for node in &self.plan.nodes {
            match node.op {
                Op::RmsNorm(norm) | Op::RmsNormGated(norm) => {
                    let group = norm.group as usize;
                    for (idx, values) in x.chunks_mut(group).enumerate() {
                        let first = start + idx * group;
                        let root = self.root("x", row, first, group, norm.eps, group as f64);
                        for (c, value) in values.iter_mut().enumerate() {
                            *value = *value / root * self.table("norm.w", 0, c);
                        }
                    }
                }
                Op::HeadSlice(of) => slice = Some((of.head_dim as usize, of.start as usize)),
                _ => (),
            }
            let gate = |c: usize| {
                let of_z = slice.map_or(c, |(head_dim, start)| {
                    let len = head_dim - start;
                    c / len * head_dim + start + c % len
                });
                self.operand("z", row, of_z)
            };
            for (c, value) in x.iter_mut().enumerate() {
                match node.op {
                    Op::RmsNormGated(_) => *value *= gate(start + c) * sigmoid(gate(start + c)),
                    Op::SigmoidGate => *value *= sigmoid(gate(start + c)),
                    _ => (),
                }
            }
        }
        x
    }

    /// The router of the plan.
    fn router(&self) -> Option<RouterTopK> {
        self.plan.nodes.iter().find_map(|node| match node.op {
            Op::RouterTopK(router) => Some(router),
            _ => None,
        })
    }

    /// The rows of the sequence from its latest start up to `row`.
    fn history(&self, row: &Row) -> Vec<Row> {
        let key = |row: &Row| (row.token, row.seq, row.position);
        let rows = self.rows().into_iter().filter(|r| r.seq == row.seq);
        let mut history = Vec::new();
        for r in rows {
            if r.position == 0 {
                history.clear();
            }
            history.push(r);
            if key(&r) == key(row) {
                break;
            }
        }
        history
    }

    /// Column `c` of the convolution at the last row of `history`.
    fn convolved(&self, conv: CausalConv1d, history: &[Row], c: usize) -> f64 {
        let n_taps = conv.kernel as usize;
        let taps = history.iter().rev().take(n_taps).enumerate();
        let products =
            taps.map(|(age, row)| self.table("w", c, n_taps - 1 - age) * self.operand("x", row, c));
        let sum: f64 = products.sum();
        sum * sigmoid(sum)
    }

    /// The f32 table of the rotation.
    fn frequency(&self, variant: usize, idx: usize, n_dims: usize) -> f64 {
        f64::from(self.plan.consts[0].data[variant * (n_dims / 2 + 1) + idx])
    }
}

/// The first output of the case for one row.
fn formula(data: &Data<'_>, op: &Op, row: &Row) -> Option<Vec<f64>> {
    let n_cols = data.plan.tensor(data.plan.outputs[0]).shape.cols as usize;
    let cols = 0..n_cols;
    let y = match op {
        Op::Add => cols.map(|c| data.operand("a", row, c) + data.operand("b", row, c)).collect(),
        Op::GatedAct(gated) => cols
            .map(|c| {
                let (gate, up) = (data.operand("gate", row, c), data.operand("up", row, c));
                match gated.act {
                    Activation::Silu => gate * sigmoid(gate) * up,
                    // 1 + tanh(u) = 2 sigmoid(2u).
                    Activation::GeluTanh => {
                        let cubic = gate + 0.044715 * gate.powi(3);
                        gate * sigmoid((8.0 / std::f64::consts::PI).sqrt() * cubic) * up
                    }
                    Activation::SwigluOai => {
                        let (gate, up) = (gate.min(7.0), up.clamp(-7.0, 7.0));
                        gate * sigmoid(1.702 * gate) * (up + 1.0)
                    }
                }
            })
            .collect(),
        Op::Mul => cols.map(|c| data.operand("x", row, c) * data.other(row, c)).collect(),
        Op::Scale(scale) => {
            cols.map(|c| data.operand("x", row, c) * f64::from(scale.factor)).collect()
        }
        Op::Softcap(softcap) => cols
            .map(|c| {
                let cap = f64::from(softcap.cap);
                cap * (2.0 * sigmoid(2.0 * data.operand("x", row, c) / cap) - 1.0)
            })
            .collect(),
        Op::SigmoidGate => {
            cols.map(|c| data.operand("x", row, c) * sigmoid(data.other(row, c))).collect()
        }
        Op::HeadSlice(slice) => {
            let (len, head_dim) = (slice.len as usize, slice.head_dim as usize);
            let source = |c: usize| c / len * head_dim + slice.start as usize + c % len;
            cols.map(|c| data.operand("x", row, source(c))).collect()
        }
        Op::Concat => {
            let width = data.plan.tensor(data.plan.find("x.rows")?).shape.cols as usize;
            let width = data
                .plan
                .find("x.view")
                .map_or(width, |id| data.plan.tensor(id).shape.cols as usize);
            cols.map(|c| match c < width {
                true => data.operand("x", row, c),
                false => data.operand("other", row, c - width),
            })
            .collect()
        }
        Op::L2Norm(norm) => {
            let group = norm.group as usize;
            cols.map(|c| data.operand("x", row, c) / data.root("x", row, c, group, norm.eps, 1.0))
                .collect()
        }
        Op::RmsNormGated(norm) => {
            let group = norm.group as usize;
            cols.map(|c| {
                let root = data.root("x", row, c, group, norm.eps, group as f64);
                let z = data.operand("other", row, c);
                data.operand("x", row, c) / root * data.table("w", 0, c % group) * z * sigmoid(z)
            })
            .collect()
        }
        Op::HeadMatMul(heads) => {
            let n_in = data.plan.tensor(data.plan.find("w")?).shape.cols as usize;
            let n_out = n_cols / heads.n_heads as usize;
            cols.map(|c| data.product("w", c, row, c / n_out * n_in, n_in)).collect()
        }
        Op::ExpertMatMul(matmul) => {
            let n_in = data.plan.tensor(data.plan.find("w")?).shape.cols as usize;
            let router = data.router()?;
            let (chosen, _) = routed(data, &router, row);
            let n_out = n_cols / chosen.len();
            let is_wide = data.plan.tensor(data.plan.find("x.rows")?).shape.cols as usize > n_in;
            cols.map(|c| {
                let (slot, out) = (c / n_out, c % n_out);
                let start = if is_wide { slot * n_in } else { 0 };
                let bias = match matmul.bias {
                    true => data.table("b", chosen[slot], out),
                    false => 0.0,
                };
                data.product("w", chosen[slot] * n_out + out, row, start, n_in) + bias
            })
            .collect()
        }
        Op::TopK(_) => {
            let n = data.plan.tensor(data.plan.find("x.rows")?).shape.cols as usize;
            let n =
                data.plan.find("x.view").map_or(n, |id| data.plan.tensor(id).shape.cols as usize);
            let x: Vec<f64> = (0..n).map(|c| data.operand("x", row, c)).collect();
            let is_before = |a: usize, b: usize| match (x[a].is_finite(), x[b].is_finite()) {
                (true, true) => x[a] > x[b] || x[a] == x[b] && a < b,
                (a_is, b_is) => b_is || !a_is && a < b,
            };
            let n_before = |c: usize| (0..n).filter(|other| is_before(*other, c)).count();
            let mut places: Vec<(usize, usize)> = (0..n).map(|c| (n_before(c), c)).collect();
            places.sort_unstable();
            places[..n_cols].iter().map(|(_, col)| *col as f64).collect()
        }
        Op::RouterTopK(router) => routed(data, router, row).1,
        Op::ExpertCombine(combine) => {
            let (chosen, weights) = routed(data, &data.router()?, row);
            cols.map(|c| {
                let parts = chosen.iter().zip(&weights).enumerate();
                let part = |(slot, (expert, weight)): (usize, (&usize, &f64))| {
                    let scale = match combine.expert_scale {
                        true => data.table("scale", 0, *expert),
                        false => 1.0,
                    };
                    weight * scale * data.operand("x", row, slot * n_cols + c)
                };
                parts.map(part).sum()
            })
            .collect()
        }
        Op::LatentAttention(attention) => attended_latent(data, attention, row),
        Op::CausalConv1d(conv) => {
            let history = data.history(row);
            cols.map(|c| data.convolved(*conv, &history, c)).collect()
        }
        Op::DeltaGates => cols
            .map(|c| {
                let x = data.operand("a", row, c) + data.table("dt_bias", 0, c);
                // ln(1 + e^x) = -ln(sigmoid(-x)); where that overflows it is x.
                let softplus = if x > 500.0 { x } else { -sigmoid(-x).ln() };
                data.table("a_log", 0, c) * softplus
            })
            .collect(),
        Op::GatedDeltaNet(net) => recurrent(data, net, row),
        Op::RmsNorm(norm) => {
            let group = norm.group as usize;
            let mean_square = |start: usize| {
                let squares = (start..start + group).map(|c| data.operand("x", row, c).powi(2));
                squares.sum::<f64>() / group as f64
            };
            cols.map(|c| {
                let root = (mean_square(c / group * group) + f64::from(norm.eps)).sqrt();
                data.operand("x", row, c) / root * data.table("w", 0, c % group)
            })
            .collect()
        }
        Op::MatMul(matmul) => {
            let n_in = data.plan.tensor(data.plan.find("y.w")?).shape.cols as usize;
            cols.map(|out| {
                let bias = if matmul.bias { data.table("y.b", 0, out) } else { 0.0 };
                data.product("y.w", out, row, 0, n_in) + bias
            })
            .collect()
        }
        Op::Rope(rope) => rotated(data, rope, row, n_cols),
        Op::Attention(attention) => attended(data, attention, row),
        _ => return None,
    };
    Some(y)
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// Chosen experts and their weights: repeatedly the best that is left.
fn routed(data: &Data<'_>, router: &RouterTopK, row: &Row) -> (Vec<usize>, Vec<f64>) {
    let logits_id = data.plan.find("logits.rows").expect("router logits");
    let n_experts = data.plan.tensor(logits_id).shape.cols as usize;
    let logits: Vec<f64> = (0..n_experts).map(|e| data.operand("logits", row, e)).collect();
    let share = |e: usize, among: &[usize]| {
        let total: f64 = among.iter().map(|o| (logits[*o] - logits[e]).exp()).sum();
        1.0 / total
    };
    let all: Vec<usize> = (0..n_experts).collect();
    let prob = |e: usize| match router.gating {
        Gating::Softmax => share(e, &all),
        Gating::Sigmoid => sigmoid(logits[e]),
        Gating::TopKSoftmax => logits[e],
    };
    let score = |e: usize| match router.bias {
        true => prob(e) + data.table("bias", 0, e),
        false => prob(e),
    };
    let best_of = |left: &[usize], value: &dyn Fn(usize) -> f64| {
        let better = |a: usize, b: usize| if value(b) > value(a) { b } else { a };
        left.iter().copied().reduce(better).expect("something is left")
    };
    let take = |mut left: Vec<usize>, n: usize, value: &dyn Fn(usize) -> f64| {
        let mut taken = Vec::new();
        for _ in 0..n.min(left.len()) {
            let best = best_of(&left, value);
            left.retain(|e| *e != best);
            taken.push(best);
        }
        taken
    };
    let mut candidates = all.clone();
    if let Some(groups) = router.groups {
        let size = n_experts / groups.n_groups as usize;
        let worth = |group: usize| {
            let members: Vec<usize> = (group * size..(group + 1) * size).collect();
            let n = match groups.score {
                GroupScore::Max => 1,
                GroupScore::TopTwo => 2,
            };
            take(members, n, &score).into_iter().map(score).sum::<f64>()
        };
        let kept =
            take((0..groups.n_groups as usize).collect(), groups.n_groups_used as usize, &worth);
        candidates.retain(|e| kept.contains(&(e / size)));
    }
    let chosen = take(candidates, router.n_experts_used as usize, &score);
    let weight = |e: usize| match router.gating {
        Gating::TopKSoftmax => share(e, &chosen),
        Gating::Softmax | Gating::Sigmoid => prob(e),
    };
    let total: f64 = match router.normalize {
        true => chosen.iter().map(|e| weight(*e)).sum(),
        false => 1.0,
    };
    let weights = chosen.iter().map(|e| weight(*e) / total * f64::from(router.scale));
    let weights = weights.collect();
    (chosen, weights)
}

/// The paper's form of the recurrence, S = e^g (I - beta k k^T) S + beta k v^T, in f64 over the whole
/// history of the row.
fn recurrent(data: &Data<'_>, net: &GatedDeltaNet, row: &Row) -> Vec<f64> {
    let (k_dim, v_dim) = (net.k_dim as usize, net.v_dim as usize);
    let history = data.history(row);
    let mut y = Vec::new();
    for head in 0..net.n_v_heads as usize {
        let mut state = vec![0.0; k_dim * v_dim];
        for r in &history {
            let DeltaRow { k, v, g, beta, .. } = DeltaRow::new(data, net, r, head);
            let decay = g.exp();
            for j in 0..v_dim {
                let along: f64 = (0..k_dim).map(|m| k[m] * state[m * v_dim + j]).sum();
                for i in 0..k_dim {
                    let old = state[i * v_dim + j];
                    state[i * v_dim + j] = decay * (old - beta * k[i] * along) + beta * k[i] * v[j];
                }
            }
        }
        let q = DeltaRow::new(data, net, row, head).q;
        y.extend((0..v_dim).map(|j| {
            let sum: f64 = (0..k_dim).map(|i| q[i] * state[i * v_dim + j]).sum();
            sum * f64::from(net.scale)
        }));
    }
    y
}

/// A row of one head: query and key of unit length, value, log of the decay, step size.
struct DeltaRow {
    q: Vec<f64>,
    k: Vec<f64>,
    v: Vec<f64>,
    g: f64,
    beta: f64,
}

impl DeltaRow {
    fn new(data: &Data<'_>, net: &GatedDeltaNet, row: &Row, head: usize) -> DeltaRow {
        let (k_dim, v_dim) = (net.k_dim as usize, net.v_dim as usize);
        let k_head = match net.order {
            HeadOrder::Grouped => head * net.n_k_heads as usize / net.n_v_heads as usize,
            HeadOrder::Tiled => head % net.n_k_heads as usize,
        };
        let conv = data.plan.nodes.iter().find_map(|node| match node.op {
            Op::CausalConv1d(conv) => Some((conv, data.history(row))),
            _ => None,
        });
        let keys = net.n_k_heads as usize * k_dim;
        // Of an operand, or of its columns of the convolution.
        let element = |name: &str, lead: usize, c: usize| match &conv {
            Some((conv, history)) => data.convolved(*conv, history, lead + c),
            None => data.operand(name, row, c),
        };
        let unit = |name: &str, lead: usize| -> Vec<f64> {
            let start = k_head * k_dim;
            let x: Vec<f64> = (start..start + k_dim).map(|c| element(name, lead, c)).collect();
            let root = (dot(&x, &x) + f64::from(1e-6_f32)).sqrt();
            x.iter().map(|x| x / root).collect()
        };
        let x = data.operand("alpha", row, head) + data.table("dt_bias", 0, head);
        DeltaRow {
            q: unit("q", 0),
            k: unit("k", keys),
            v: (0..v_dim).map(|c| element("v", 2 * keys, head * v_dim + c)).collect(),
            g: data.table("a_log", 0, head) * x.exp().ln_1p(),
            beta: sigmoid(data.operand("beta", row, head)),
        }
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The chunked form (arXiv 2406.06484 with the decay of 2412.06464): inside a chunk the updates u
/// solve a triangular system, `u_i = beta_i (v_i - e^{G_i} S^T k_i - sum_{j<i} e^{G_i-G_j} (k_i k_j)
/// u_j)` with G the sums of g from the chunk's start; results and the next state are products with
/// them. The results of the last row.
fn chunked(rows: &[DeltaRow], scale: f64, chunk: usize) -> Vec<f64> {
    let (k_dim, v_dim) = (rows[0].k.len(), rows[0].v.len());
    // By column.
    let mut state = vec![vec![0.0; k_dim]; v_dim];
    let mut y = Vec::new();
    for rows in rows.chunks(chunk) {
        let sums: Vec<f64> =
            (0..rows.len()).map(|i| rows[..=i].iter().map(|row| row.g).sum()).collect();
        let decay = |i: usize, j: usize| (sums[i] - sums[j]).exp();
        let last = rows.len() - 1;
        y.clear();
        for (col, state) in state.iter_mut().enumerate() {
            let mut u: Vec<f64> = Vec::new();
            for (i, row) in rows.iter().enumerate() {
                let inside =
                    u.iter().enumerate().map(|(j, u)| decay(i, j) * dot(&row.k, &rows[j].k) * u);
                let before = sums[i].exp() * dot(&row.k, state);
                let update = row.beta * (row.v[col] - before - inside.sum::<f64>());
                u.push(update);
            }
            let inside = u
                .iter()
                .enumerate()
                .map(|(j, u)| decay(last, j) * dot(&rows[last].q, &rows[j].k) * u);
            let before = sums[last].exp() * dot(&rows[last].q, state);
            y.push(scale * (before + inside.sum::<f64>()));
            for (i, s) in state.iter_mut().enumerate() {
                let added = u.iter().enumerate().map(|(j, u)| decay(last, j) * rows[j].k[i] * u);
                *s = sums[last].exp() * *s + added.sum::<f64>();
            }
        }
    }
    y
}

/// The recurrent form is the definition; evaluated in chunks, wherever they end, it is the same.
#[test]
fn chunked_delta_nets_agree_with_the_definition() {
    let caps = zinc_backend::Device::caps(&ReferenceDevice::new()).clone();
    let cases = cases::all(&caps).expect("the case table is readable");
    let mut n_checked = 0;
    for case in cases.iter().filter(|case| case.op == zinc_plan::OpKind::GatedDeltaNet) {
        let plan = case.plan(case.layout.limits(case.layout.n_rows())).expect("a valid case");
        let data = Data { case, plan: &plan };
        let net = plan.nodes.iter().find_map(|node| match node.op {
            Op::GatedDeltaNet(net) => Some(net),
            _ => None,
        });
        let net = net.expect("the operation of the case");
        let found = run_on_reference(case).expect("the reference runs the case");
        let n_cols = (net.n_v_heads * net.v_dim) as usize;
        // Every row costs its whole history: some are enough, the last ones among them.
        let rows = data.rows();
        for (idx, row) in rows.iter().enumerate().rev().step_by(1 + rows.len() / 8) {
            let history = data.history(row);
            let mut heads = Vec::new();
            for head in 0..net.n_v_heads as usize {
                let rows: Vec<_> =
                    history.iter().map(|row| DeltaRow::new(&data, &net, row, head)).collect();
                heads.push(rows);
            }
            for chunk in [1, 2, 16, 64] {
                let y = heads.iter().flat_map(|rows| chunked(rows, f64::from(net.scale), chunk));
                let y: Vec<f32> = y.map(|y| y as f32).collect();
                let error = nmse(&found[0][idx * n_cols..][..n_cols], &y);
                assert!(
                    error < 1e-12,
                    "{} row {idx} in chunks of {chunk}: {error:e}",
                    case.label()
                );
                n_checked += 1;
            }
        }
    }
    assert!(n_checked > 200, "only {n_checked} results were compared");
}

/// As [`attended`], where key and value are the same compressed row.
fn attended_latent(data: &Data<'_>, attention: &LatentAttention, row: &Row) -> Vec<f64> {
    let (n_c, n_r) = (attention.latent_dim as usize, attention.rope_dim as usize);
    let rows = data.rows().into_iter();
    let keys: Vec<Row> =
        rows.filter(|key| key.seq == row.seq && key.position <= row.position).collect();
    let mut y = Vec::new();
    for head in 0..attention.n_heads as usize {
        let score = |key: &Row| {
            let plain = (0..n_c)
                .map(|c| data.operand("q", row, head * n_c + c) * data.operand("c", key, c));
            let turned = (0..n_r)
                .map(|c| data.operand("q_rope", row, head * n_r + c) * data.operand("r", key, c));
            (plain.sum::<f64>() + turned.sum::<f64>()) * f64::from(attention.scale)
        };
        let scores: Vec<f64> = keys.iter().map(score).collect();
        let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let exps: Vec<f64> = scores.iter().map(|score| (score - max).exp()).collect();
        let total: f64 = exps.iter().sum();
        y.extend((0..n_c).map(|c| {
            let weighted = exps.iter().zip(&keys);
            let sum: f64 = weighted.map(|(exp, key)| exp * data.operand("c", key, c)).sum();
            sum / total
        }));
    }
    y
}

/// Each pair is a complex number times `magnitude * exp(i * position * frequency)`.
fn rotated(data: &Data<'_>, rope: &zinc_plan::Rope, row: &Row, n_cols: usize) -> Vec<f64> {
    let (head_dim, n_dims) = (rope.head_dim as usize, rope.n_dims as usize);
    let element = |col: usize| {
        let (head, within) = (col / head_dim * head_dim, col % head_dim);
        if within >= n_dims {
            return data.operand("x", row, col);
        }
        let (pair, is_imaginary) = match rope.mode {
            RopeMode::Norm => (within / 2, within % 2 == 1),
            RopeMode::Neox => (within % (n_dims / 2), within >= n_dims / 2),
        };
        let (real, imaginary) = match rope.mode {
            RopeMode::Norm => (head + 2 * pair, head + 2 * pair + 1),
            RopeMode::Neox => (head + pair, head + pair + n_dims / 2),
        };
        let (a, b) = (data.operand("x", row, real), data.operand("x", row, imaginary));
        let frequency = data.frequency(row.variant as usize, pair, n_dims);
        // The angle is defined as an f32 product.
        let angle = f64::from(row.position as f32 * frequency as f32);
        let magnitude = data.frequency(row.variant as usize, n_dims / 2, n_dims);
        magnitude
            * match is_imaginary {
                false => a * angle.cos() - b * angle.sin(),
                true => a * angle.sin() + b * angle.cos(),
            }
    };
    (0..n_cols).map(element).collect()
}

/// Softmax over the earlier rows of the same sequence, found by their positions: no cache, no pages.
fn attended(data: &Data<'_>, attention: &Attention, row: &Row) -> Vec<f64> {
    let (k_dim, v_dim) = (attention.k_dim as usize, attention.v_dim as usize);
    let first = attention.window.map_or(0, |window| row.position + 1 - window as i32);
    let keys: Vec<Row> = data
        .rows()
        .into_iter()
        .filter(|key| key.seq == row.seq && (first..=row.position).contains(&key.position))
        .collect();
    let shared = (attention.n_heads / attention.n_kv_heads) as usize;
    let mut y = Vec::new();
    for head in 0..attention.n_heads as usize {
        let score = |key: &Row| {
            let products = (0..k_dim).map(|c| {
                data.operand("q", row, head * k_dim + c)
                    * data.operand("k", key, head / shared * k_dim + c)
            });
            let score = products.sum::<f64>() * f64::from(attention.scale);
            let cap = attention.softcap.map(f64::from);
            cap.map_or(score, |cap| cap * (score / cap).tanh())
        };
        let scores: Vec<f64> = keys.iter().map(score).collect();
        let sink = attention.sinks.then(|| data.table("sinks", 0, head));
        let all = scores.iter().copied().chain(sink);
        let max = all.clone().fold(f64::NEG_INFINITY, f64::max);
        let exps: Vec<f64> = scores.iter().map(|score| (score - max).exp()).collect();
        let total: f64 = all.map(|score| (score - max).exp()).sum();
        y.extend((0..v_dim).map(|c| {
            let values = keys.iter().map(|key| data.operand("v", key, head / shared * v_dim + c));
            exps.iter().zip(values).map(|(exp, value)| exp * value).sum::<f64>() / total
        }));
    }
    y
}

#[test]
fn every_f32_case_agrees_with_its_formula() {
    let caps = zinc_backend::Device::caps(&ReferenceDevice::new()).clone();
    let cases = cases::all(&caps).expect("the case table is readable");
    let mut n_checked = 0;
    for case in &cases {
        // Long contexts add nothing to the formula, and this search for keys is quadratic.
        let is_plain = case.dtype.is_none_or(|dtype| dtype == GgmlType::F32);
        if !is_plain || case.layout.n_rows() > 200 {
            continue;
        }
        let plan = case.plan(case.layout.limits(case.layout.n_rows())).expect("a valid case");
        let data = Data { case, plan: &plan };
        let op = plan.nodes.iter().map(|node| node.op).find(|op| op.kind() == case.op);
        let Some(op) = op else { continue };
        let rows = data.rows();
        let expected: Option<Vec<Vec<f64>>> =
            rows.iter().map(|row| formula(&data, &op, row)).collect();
        let Some(expected) = expected else { continue };
        let expected: Vec<f32> = expected.concat().iter().map(|value| *value as f32).collect();
        let found = run_on_reference(case).expect("the reference runs the case");
        let error = nmse(&found[0], &expected);
        assert!(error < 1e-13, "{}: nmse {error:e}", case.label());
        n_checked += 1;
    }
    assert!(n_checked >= 110, "only {n_checked} cases have a formula");
}
