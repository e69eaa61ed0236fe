//! The phases of a guided answer.
//!
//! ```text
//! Opening ──opening tag──► Thinking ──closing tag or budget──► Grammar ──► End
//!    └──────────────────────────────────────────────────────────▲
//! Text ──a call begins──► Grammar ──the call is complete──► Text
//! ```

use std::sync::Arc;

use llguidance::Matcher;
use toktrie::SimpleVob;
use zinc_engine::{Allowed, Steer, SteerError};

use super::schema::first_line;
use super::vocab::{VocabTables, clear};

/// What comes behind the reasoning.
pub(super) enum Plan {
    /// Anything.
    Free,
    /// Any text in which calls are held to a grammar once they begin.
    Watch { triggers: Vec<Watched>, parallel: bool },
    /// Grammar; `with_opening` is the same for answers that may also begin their reasoning.
    Whole { matcher: Matcher, with_opening: Option<Matcher> },
}

/// A text that begins a call, and the grammar of what follows.
pub(super) struct Watched {
    pub text: String,
    pub at_start: bool,
    pub matcher: Matcher,
}

/// The reasoning of an answer.
pub(super) struct Thought {
    pub open: String,
    pub close: String,
    /// What is spliced in when the budget is used up.
    pub closing_ids: Vec<u32>,
    pub budget: Option<u32>,
    /// The prompt has opened it.
    pub is_open: bool,
}

enum Phase {
    /// Reasoning may begin, or the answer.
    Opening(Box<Matcher>),
    Thinking,
    /// The closing text, from this index on.
    Closing(usize),
    Text,
    Grammar(Box<Matcher>),
    /// Nothing is held any more.
    Free,
    End,
}

/// Holds one answer.
pub(super) struct Guide {
    tables: Arc<VocabTables>,
    plan: Plan,
    thought: Option<Thought>,
    phase: Phase,
    /// The last bytes of the text, as far as a tag may reach into them.
    window: Vec<u8>,
    /// Nothing but blanks in this phase.
    is_fresh: bool,
    n_thought: u32,
    /// Tokens that spell the end of the closing tag and go on with something else.
    overlapping: Vec<u32>,
    mask: Option<SimpleVob>,
    /// The mask of reasoning that must be closed.
    open_mask: Vec<u32>,
}

impl Guide {
    pub fn new(tables: Arc<VocabTables>, plan: Plan, thought: Option<Thought>) -> Self {
        let mut guide = Self {
            tables,
            plan,
            thought,
            phase: Phase::End,
            window: Vec::new(),
            is_fresh: true,
            n_thought: 0,
            overlapping: Vec::new(),
            mask: None,
            open_mask: Vec::new(),
        };
        let is_open = guide.thought.as_ref().is_some_and(|thought| thought.is_open);
        guide.phase = match &guide.plan {
            _ if is_open => Phase::Thinking,
            Plan::Whole { with_opening: Some(matcher), .. } => {
                Phase::Opening(Box::new(matcher.clone()))
            }
            Plan::Whole { matcher, .. } => Phase::Grammar(Box::new(matcher.clone())),
            Plan::Watch { .. } | Plan::Free => Phase::Text,
        };
        if let (Plan::Whole { .. }, Some(thought)) = (&guide.plan, &guide.thought) {
            guide.overlapping = overlapping(&guide.tables, thought.close.as_bytes());
        }
        guide
    }

    /// The reasoning is closed; `rest` came behind the tag in the same token.
    fn begin_answer(&mut self, rest: &[u8]) -> Result<(), SteerError> {
        self.window.clear();
        self.is_fresh = true;
        self.phase = match &self.plan {
            Plan::Free => Phase::Free,
            Plan::Watch { .. } => Phase::Text,
            Plan::Whole { matcher, .. } => Phase::Grammar(Box::new(matcher.clone())),
        };
        match &self.phase {
            Phase::Text => self.read_text(rest),
            // Blanks belong to the tag; more than blanks was not allowed.
            _ => Ok(()),
        }
    }

    fn think(&mut self, id: u32) -> Result<(), SteerError> {
        self.n_thought += 1;
        let Some(thought) = &self.thought else { return Ok(()) };
        let close = thought.close.as_bytes();
        self.window.extend_from_slice(self.tables.bytes(id));
        if let Some(at) = find(&self.window, close) {
            let rest = self.window.split_off(at + close.len());
            return self.begin_answer(&rest);
        }
        let n_kept = self.window.len().min(close.len() - 1);
        self.window.drain(..self.window.len() - n_kept);
        Ok(())
    }

    /// Text joined that is free until a call, or the reasoning, begins.
    fn read_text(&mut self, bytes: &[u8]) -> Result<(), SteerError> {
        self.window.extend_from_slice(bytes);
        let begin = self.window.iter().take_while(|b| b.is_ascii_whitespace()).count();
        if self.is_fresh {
            let start = &self.window[begin..];
            if let Some(thought) = self.thought.as_ref().filter(|_| self.n_thought == 0) {
                let open = thought.open.as_bytes();
                if start.starts_with(open) {
                    self.window.drain(..begin + open.len());
                    self.phase = Phase::Thinking;
                    return Ok(());
                }
                if open.starts_with(start) {
                    return Ok(());
                }
            }
        }
        let Plan::Watch { triggers, .. } = &self.plan else {
            self.phase = Phase::Free;
            return Ok(());
        };
        let start = &self.window[begin..];
        let found = triggers.iter().filter_map(|watched| {
            let text = watched.text.as_bytes();
            let at = match watched.at_start {
                true => (self.is_fresh && start.starts_with(text)).then_some(begin)?,
                false => find(&self.window, text)?,
            };
            Some((at + text.len(), watched))
        });
        if let Some((end, watched)) = found.min_by_key(|(end, _)| *end) {
            let mut matcher = watched.matcher.clone();
            let rest = self.window.split_off(end);
            if accepts(&self.tables, &mut matcher, &rest) {
                self.phase = Phase::Grammar(Box::new(matcher));
                return Ok(());
            }
            // Not the begin of a call after all.
            self.window = rest;
        }
        let may_start = |watched: &Watched| {
            watched.at_start
                && self.is_fresh
                && watched.text.as_bytes().starts_with(start_of(&self.window))
        };
        self.is_fresh =
            self.is_fresh && (start_of(&self.window).is_empty() || triggers.iter().any(may_start));
        if !self.is_fresh {
            let longest = triggers.iter().map(|watched| watched.text.len()).max().unwrap_or(1);
            let n_kept = self.window.len().min(longest - 1);
            self.window.drain(..self.window.len() - n_kept);
        }
        Ok(())
    }

    /// A grammar has come to its end.
    fn grammar_ended(&mut self) {
        self.window.clear();
        self.is_fresh = false;
        self.phase = match &self.plan {
            Plan::Watch { parallel: true, .. } => Phase::Text,
            _ => Phase::End,
        };
    }

    /// Whether reasoning has used up what it may.
    fn is_spent(&self) -> bool {
        let budget = self.thought.as_ref().and_then(|thought| thought.budget);
        budget.is_some_and(|budget| self.n_thought >= budget)
    }

    /// The mask of reasoning that must be closed before the answer ends.
    fn closed_mask(&mut self) -> &[u32] {
        self.open_mask.clear();
        self.open_mask.extend_from_slice(self.tables.all_but_ends());
        if let Some(thought) = &self.thought {
            let close = thought.close.as_bytes();
            for &id in &self.overlapping {
                let bytes = self.tables.bytes(id);
                let begins = (0..close.len()).filter(|n| {
                    self.window.ends_with(&close[..*n]) && bytes.starts_with(&close[*n..])
                });
                let goes_on =
                    |n: usize| !bytes[close.len() - n..].iter().all(u8::is_ascii_whitespace);
                if begins.into_iter().any(goes_on) {
                    clear(&mut self.open_mask, id);
                }
            }
        }
        &self.open_mask
    }
}

impl Steer for Guide {
    fn next(&mut self) -> Result<Allowed<'_>, SteerError> {
        if matches!(self.phase, Phase::Thinking) && self.is_spent() {
            self.phase = Phase::Closing(0);
        }
        if let Phase::Closing(at) = self.phase {
            match self.thought.as_ref().and_then(|thought| thought.closing_ids.get(at)) {
                Some(&id) => return Ok(Allowed::Forced(id)),
                None => self.begin_answer(&[])?,
            }
        }
        if let Phase::Grammar(matcher) = &self.phase
            && matcher.is_stopped()
        {
            if let Some(error) = matcher.get_error() {
                return Err(stuck(&error));
            }
            self.grammar_ended();
        }
        match &mut self.phase {
            Phase::Thinking if matches!(self.plan, Plan::Whole { .. }) => {
                Ok(Allowed::Mask(self.closed_mask()))
            }
            Phase::Thinking | Phase::Closing(_) | Phase::Text | Phase::Free => Ok(Allowed::Any),
            Phase::End => Ok(Allowed::End),
            Phase::Opening(matcher) | Phase::Grammar(matcher) => {
                if self.mask.is_none() {
                    let mask = matcher.compute_mask_or_eos();
                    self.mask = Some(mask.map_err(|error| stuck(&error.to_string()))?);
                }
                Ok(self.mask.as_ref().map_or(Allowed::End, |mask| Allowed::Mask(mask.as_slice())))
            }
        }
    }

    fn accept(&mut self, id: u32) -> Result<(), SteerError> {
        self.mask = None;
        if id >= self.tables.n_tokens() {
            return Err(SteerError::TokenId { id, n_vocab: self.tables.n_tokens() });
        }
        let is_end = self.tables.is_end(id);
        match &mut self.phase {
            Phase::Closing(at) => {
                *at += 1;
                Ok(())
            }
            _ if is_end => {
                self.phase = Phase::End;
                Ok(())
            }
            Phase::Thinking => self.think(id),
            Phase::Text => {
                let tables = Arc::clone(&self.tables);
                self.read_text(tables.bytes(id))
            }
            Phase::Grammar(matcher) => {
                matcher.consume_token(id).map_err(|error| stuck(&error.to_string()))
            }
            Phase::Opening(matcher) => {
                matcher.consume_token(id).map_err(|error| stuck(&error.to_string()))?;
                self.window.extend_from_slice(self.tables.bytes(id));
                let open = self.thought.as_ref().map_or(&[][..], |thought| thought.open.as_bytes());
                if self.window == open {
                    self.window.clear();
                    self.phase = Phase::Thinking;
                } else if !open.starts_with(&self.window)
                    && let Phase::Opening(matcher) = std::mem::replace(&mut self.phase, Phase::End)
                {
                    self.phase = Phase::Grammar(matcher);
                }
                Ok(())
            }
            Phase::Free | Phase::End => Ok(()),
        }
    }
}

fn start_of(window: &[u8]) -> &[u8] {
    window.trim_ascii_start()
}

/// Whether a grammar takes bytes that came in the same token as the text before it.
fn accepts(tables: &VocabTables, matcher: &mut Matcher, bytes: &[u8]) -> bool {
    let ids = tables.spell(bytes);
    matches!(matcher.try_consume_tokens(&ids), Ok(n) if n == ids.len())
}

/// Tokens that hold an end of `tag` and then something that is not blank.
fn overlapping(tables: &VocabTables, tag: &[u8]) -> Vec<u32> {
    let goes_on = |id: &u32| {
        let bytes = tables.bytes(*id);
        (0..tag.len()).any(|n| {
            let rest = bytes.strip_prefix(&tag[n..]);
            rest.is_some_and(|rest| !rest.iter().all(u8::is_ascii_whitespace))
        })
    };
    (0..tables.n_tokens()).filter(goes_on).collect()
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|window| window == wanted)
}

fn stuck(error: &str) -> SteerError {
    SteerError::Stuck(first_line(error))
}
