//! Where the time of steps goes: in the host by phase, in the device by operation.
//!
//! A profiler belongs to a runner. Every other step of a plan runs with its nodes timed, which slows it
//! down; the host's times and what is handed to the device are counted in the steps between.

use std::time::{Duration, Instant};

use zinc_backend::{Executable, NodeTime, Profiling, StepInputs};
use zinc_plan::{Bound, Cost, NodeKind, Plan};

/// What the host does in a step, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Choosing what the step computes.
    Schedule,
    /// Making room in the caches and writing the step's inputs.
    Prepare,
    /// Handing the step to the device, or computing it where the device is the processor itself.
    Submit,
    /// Waiting for the device and taking its results.
    Wait,
    /// Choosing tokens and turning them into text.
    Sample,
    /// What the caller does with the events.
    Events,
    /// Drafting tokens ahead, the steps of a head that predicts them included; keeping what was computed.
    Draft,
}

impl Phase {
    /// Every phase, in order.
    pub const ALL: [Phase; 7] = [
        Phase::Schedule,
        Phase::Prepare,
        Phase::Submit,
        Phase::Wait,
        Phase::Sample,
        Phase::Events,
        Phase::Draft,
    ];

    /// Name for tables.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Schedule => "schedule",
            Phase::Prepare => "prepare",
            Phase::Submit => "submit",
            Phase::Wait => "wait",
            Phase::Sample => "sample",
            Phase::Events => "events",
            Phase::Draft => "draft",
        }
    }
}

/// Neighbouring nodes that the device computes as one, or equal ones in several layers.
#[derive(Debug, Clone)]
pub struct OpProfile {
    /// What is computed; several kinds where the device joins nodes.
    pub kinds: Vec<NodeKind>,
    /// How often the timed steps did this, all together.
    pub n_times: u64,
    /// Time in all timed steps.
    pub time: Duration,
    /// What is moved and computed in all timed steps, by the sizes of the plan's tensors.
    pub cost: Cost,
}

/// The steps of one plan.
#[derive(Debug, Clone)]
pub struct PlanProfile {
    /// Name of the plan and the most tokens that its steps take.
    pub plan: String,
    /// Most tokens of its steps.
    pub max_tokens: u32,
    /// Steps that ran as always; the counts and times up to `host` are those of these steps.
    pub n_steps: u64,
    /// Their tokens.
    pub n_tokens: u64,
    /// How often they handed work to the device.
    pub n_submissions: u64,
    /// Copies to and from the device that they asked for besides.
    pub n_copies: u64,
    /// The host's time in each phase, in the order of [`Phase::ALL`].
    pub host: [Duration; Phase::ALL.len()],
    /// Steps whose nodes were timed.
    pub n_timed_steps: u64,
    /// Their tokens.
    pub n_timed_tokens: u64,
    /// The operations, the longest first.
    pub ops: Vec<OpProfile>,
}

/// Measures the steps of a runner.
pub(crate) struct Profiler {
    plans: Vec<Steps>,
    mark: Instant,
    laps: [Duration; Phase::ALL.len()],
    /// The plan of the step under way, and whether its nodes are timed.
    current: Option<(usize, bool)>,
}

/// What is known of one plan's steps.
struct Steps {
    n_steps: u64,
    n_tokens: u64,
    host: [Duration; Phase::ALL.len()],
    n_timed_steps: u64,
    n_timed_tokens: u64,
    n_submissions: u64,
    n_copies: u64,
    ops: Vec<OpProfile>,
}

impl Profiler {
    /// For `n` executables.
    pub fn new(n: usize) -> Profiler {
        let steps = |_| Steps {
            n_steps: 0,
            n_tokens: 0,
            host: Default::default(),
            n_timed_steps: 0,
            n_timed_tokens: 0,
            n_submissions: 0,
            n_copies: 0,
            ops: Vec::new(),
        };
        let laps = Default::default();
        Profiler { plans: (0..n).map(steps).collect(), mark: Instant::now(), laps, current: None }
    }

    /// A step begins.
    pub fn begin(&mut self) {
        self.laps = Default::default();
        self.current = None;
        self.mark = Instant::now();
    }

    /// All since the last call belonged to `phase`.
    pub fn lap(&mut self, phase: Phase) {
        let now = Instant::now();
        self.laps[phase as usize] += now - self.mark;
        self.mark = now;
    }

    /// The step goes to the executable at `idx`: tells it what to measure.
    pub fn enter(&mut self, idx: usize, executable: &mut dyn Executable, inputs: &StepInputs) {
        let steps = &mut self.plans[idx];
        let n_tokens = inputs.token_ids.len() as u64;
        // The first step is timed: a prompt may be one step.
        let is_timed = steps.n_timed_steps <= steps.n_steps;
        self.current = Some((idx, is_timed));
        if !is_timed {
            steps.n_steps += 1;
            steps.n_tokens += n_tokens;
            return executable.set_profiling(Profiling::Steps);
        }
        steps.n_timed_steps += 1;
        steps.n_timed_tokens += n_tokens;
        executable.set_profiling(Profiling::Nodes);
    }

    /// The executable has run the step that was last announced.
    pub fn leave(&mut self, executable: &dyn Executable, inputs: &StepInputs) {
        let Some((idx, is_timed)) = self.current else { return };
        let (steps, plan) = (&mut self.plans[idx], executable.plan());
        let profile = executable.profile();
        if is_timed {
            steps.add(plan, &profile.nodes, &bound(inputs, plan));
        } else {
            steps.n_submissions += profile.n_submissions;
            steps.n_copies += profile.n_copies;
        }
    }

    /// The step is over.
    pub fn end(&mut self) {
        if let Some((idx, false)) = self.current.take() {
            let host = &mut self.plans[idx].host;
            host.iter_mut().zip(&self.laps).for_each(|(sum, lap)| *sum += *lap);
        }
        self.laps = Default::default();
    }

    /// What was measured; `plans` are those of the executables it was made for. Plans that ran no step are left out.
    pub fn report<'a>(&self, plans: impl Iterator<Item = &'a Plan>) -> Vec<PlanProfile> {
        let with_steps = self.plans.iter().zip(plans);
        let with_steps = with_steps.filter(|(steps, _)| steps.n_timed_steps > 0);
        with_steps.map(|(steps, plan)| steps.report(plan)).collect()
    }
}

impl Steps {
    /// Adds the times of one step.
    fn add(&mut self, plan: &Plan, times: &[NodeTime], bound: &Bound) {
        for timed in times {
            let nodes = &plan.nodes[timed.nodes.clone()];
            let kinds: Vec<NodeKind> = nodes.iter().map(|node| plan.node_kind(node)).collect();
            let at = self.ops.iter().position(|op| op.kinds == kinds).unwrap_or_else(|| {
                let (time, cost) = (Duration::ZERO, Cost::default());
                self.ops.push(OpProfile { kinds, n_times: 0, time, cost });
                self.ops.len() - 1
            });
            let op = &mut self.ops[at];
            op.n_times += 1;
            op.time += timed.time;
            nodes.iter().for_each(|node| op.cost += plan.node_cost(node, bound));
        }
    }

    fn report(&self, plan: &Plan) -> PlanProfile {
        let mut ops = self.ops.clone();
        ops.sort_by_key(|op| std::cmp::Reverse(op.time));
        PlanProfile {
            plan: plan.name.clone(),
            max_tokens: plan.limits.max_tokens,
            n_steps: self.n_steps,
            n_tokens: self.n_tokens,
            n_submissions: self.n_submissions,
            n_copies: self.n_copies,
            host: self.host,
            n_timed_steps: self.n_timed_steps,
            n_timed_tokens: self.n_timed_tokens,
            ops,
        }
    }
}

/// Sizes of a step.
fn bound(inputs: &StepInputs, plan: &Plan) -> Bound {
    let n_tokens = inputs.token_ids.len() as u64;
    let n_keys: u64 =
        inputs.positions.iter().map(|position| position.unsigned_abs() as u64 + 1).sum();
    Bound {
        tokens: n_tokens,
        seqs: (inputs.pages.len() / plan.limits.pages_per_seq.max(1) as usize) as u64,
        out_rows: inputs.out_rows.len() as u64,
        mean_keys: n_keys / n_tokens.max(1),
    }
}
