//! What the command finds and prints.

use serde::Serialize;
use zinc_engine::Tapped;

use super::rows::row_of;

/// Everything the command prints.
#[derive(Serialize)]
pub struct Report {
    /// Name of the model.
    pub model: String,
    /// The device that is checked, and its steps.
    pub device: String,
    /// What it is compared with.
    pub against: String,
    /// Number of tokens computed.
    pub n_tokens: usize,
    /// What comparing the tensors gave.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// What comparing the tensors gave.
#[derive(Debug, Default, Serialize)]
pub struct Outcome {
    /// Tensors that were compared, of at least one token. The logits of the step with nothing tapped count as one.
    pub n_compared: usize,
    /// Largest normalised squared error allowed.
    pub tolerance: f64,
    /// The same of tokens behind the first parted one; null where none parted.
    pub tolerance_behind_parted: Option<f64>,
    /// Largest normalised squared error found in the tensors compared, of the tokens before the first parted one.
    pub worst_nmse: f64,
    /// The same of the tokens behind it; null where none parted.
    pub worst_nmse_behind_parted: Option<f64>,
    /// Largest normalised squared error of the logits of a step with nothing tapped, whose launches are those of real
    /// steps; null where they were not compared: a difference was found before, `--to` ends before them, or no token
    /// was left.
    pub untapped_nmse: Option<f64>,
    /// The first tensor that differs.
    pub first: Option<Found>,
    /// Tokens for which the two sides' routers chose other experts, each rightly by its own scores, which agree within
    /// the tolerance. What is computed of them from there on is not compared.
    pub n_parted: usize,
    /// Ids of the first such choice.
    pub parted_at: Option<String>,
    /// The first tensor that was not compared because every token had parted. Behind it only routers are judged, by
    /// their own scores.
    pub ended_at: Option<String>,
}

/// How a tensor differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// Its values are too far off.
    Values,
    /// A value is infinite or no number, on either side.
    NotFinite,
    /// Its ids are not what the checked device's own scores say: `expected` is an expert that is missing.
    Choice,
    /// The same of the side that is compared with: `value` is its id.
    ChoiceAgainst,
    /// The two sides chose other experts, where they must compute alike.
    Experts,
    /// Logits of a step with nothing tapped are too far off, though all that was tapped agreed.
    Untapped,
}

/// A tensor that differs, or is not finite.
#[derive(Clone, Debug, Serialize)]
pub struct Found {
    /// Its name.
    pub tensor: String,
    /// In what way.
    pub what: What,
    /// Normalised squared error of the rows compared; infinite, which JSON writes as null, for experts.
    pub nmse: f64,
    /// Largest error that was allowed of these rows.
    pub allowed: f64,
    /// Largest absolute error; infinite for experts.
    pub max_abs: f32,
    /// Token whose error is largest.
    pub row: usize,
    /// Where in its row that is.
    pub column: usize,
    /// What the checked device has there.
    pub value: f32,
    /// What it is compared with.
    pub expected: f32,
}

impl Found {
    /// A place in a tensor, with what both sides have there.
    pub fn at(row: usize, column: usize, expected: &Tapped, found: &Tapped) -> Found {
        Found {
            tensor: found.name.clone(),
            what: What::Values,
            nmse: 0.0,
            allowed: 0.0,
            max_abs: 0.0,
            row,
            column,
            value: row_of(found, row)[column],
            expected: row_of(expected, row)[column],
        }
    }
}

impl Report {
    /// Whether something was compared, and all of it agreed.
    pub fn agrees(&self) -> bool {
        self.outcome.first.is_none() && self.outcome.n_compared > 0
    }

    /// The report as people read it.
    pub fn people(&self) -> String {
        let Report { device, against, n_tokens, outcome, .. } = self;
        let Outcome { n_compared, worst_nmse, tolerance, .. } = outcome;
        let head = match &outcome.first {
            Some(first) => first.people(device, against),
            None if *n_compared == 0 => "nothing was compared\n".to_owned(),
            None => format!(
                "no tensor differs: {device} and {against} agree on {n_compared} tensors of {n_tokens} tokens \
                 (largest normalised error {worst_nmse:.1e}, allowed {tolerance:.0e})\n"
            ),
        };
        head + &self.untapped() + &self.parted() + &self.ended()
    }

    fn untapped(&self) -> String {
        match self.outcome.untapped_nmse {
            Some(nmse) if self.outcome.first.is_none() => {
                format!(
                    "logits of a step with nothing tapped agree, too (normalised error {nmse:.1e})\n"
                )
            }
            _ => String::new(),
        }
    }

    fn parted(&self) -> String {
        let (n_tokens, n_parted) = (self.n_tokens, self.outcome.n_parted);
        let Outcome { parted_at, tolerance_behind_parted, worst_nmse_behind_parted, .. } =
            &self.outcome;
        let (Some(name), Some(allowed), Some(worst)) =
            (parted_at, tolerance_behind_parted, worst_nmse_behind_parted)
        else {
            return String::new();
        };
        format!(
            "{n_parted} of {n_tokens} tokens have other experts, right by scores that nearly agree, first in {name}; from \
             there on they are not compared; behind the first, the others' normalised error is at most {worst:.1e}, \
             allowed {allowed:.0e}\n"
        )
    }

    fn ended(&self) -> String {
        let Some(name) = &self.outcome.ended_at else { return String::new() };
        format!(
            "no token is left to compare at {name}, where the comparison ended; experts chosen in earlier layers count \
             whatever --from says, so give fewer or other tokens to see what lies behind it\n"
        )
    }
}

impl Found {
    fn people(&self, device: &str, against: &str) -> String {
        let Found { tensor, nmse, allowed, max_abs, row, column, value, expected, .. } = self;
        let place =
            format!("at row {row}, column {column}: {device} {value}, {against} {expected}");
        let chosen = |side: &str| {
            format!(
                "{tensor} is not what the router's own scores say on {side}: at row {row}, column {column} it chose \
                 expert {value}, and not {expected}\n"
            )
        };
        let differs =
            format!("normalised error {nmse:.1e}, allowed {allowed:.0e}; largest {max_abs:.3e}");
        match self.what {
            What::Values => format!("{tensor} differs: {differs}\n{place}\n"),
            What::Untapped => format!(
                "{tensor} of a step with nothing tapped differ, though all that was tapped agreed: {differs}\n{place}\n"
            ),
            What::NotFinite => format!(
                "{tensor} is not finite at row {row}, column {column}: {device} {value}, {against} {expected}\n"
            ),
            What::Choice => chosen(device),
            What::ChoiceAgainst => chosen(against),
            What::Experts => format!("{tensor} has other experts {place}\n"),
        }
    }
}
