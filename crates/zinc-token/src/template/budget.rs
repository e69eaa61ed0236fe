//! What one rendering may consume. A template is untrusted: every evaluated node charges steps and every
//! value built charges bytes *before* it is allocated, so that a hostile template ends with an error and not
//! with an exhausted machine.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::value::Value;
use super::{TemplateError, TemplateLimits};

/// Result of everything that a template makes happen.
pub(super) type Res<T> = Result<T, TemplateError>;

/// Counters of one rendering. Bytes are counted as built, live or not: simple, deterministic, and an upper
/// bound of what is live.
pub(super) struct Budget {
    steps: AtomicU64,
    bytes: AtomicU64,
    limits: TemplateLimits,
}

impl Budget {
    pub(super) fn new(limits: TemplateLimits) -> Self {
        Self { steps: AtomicU64::new(0), bytes: AtomicU64::new(0), limits }
    }

    /// A budget for what is too small to count.
    pub(super) fn unlimited() -> Self {
        Self::new(TemplateLimits {
            max_steps: u64::MAX,
            max_value_bytes: u64::MAX,
            ..TemplateLimits::default()
        })
    }

    /// Charges `n` units of work.
    pub(super) fn step(&self, n: usize) -> Res<()> {
        let steps =
            self.steps.fetch_add(n.min(1 << 40) as u64, Ordering::Relaxed).saturating_add(n as u64);
        if steps > self.limits.max_steps {
            return Err(TemplateError::limit("steps", self.limits.max_steps));
        }
        Ok(())
    }

    /// Charges `n` bytes that are about to be allocated, and the work of filling them.
    pub(super) fn alloc(&self, n: usize) -> Res<()> {
        let bytes =
            self.bytes.fetch_add(n.min(1 << 40) as u64, Ordering::Relaxed).saturating_add(n as u64);
        if bytes > self.limits.max_value_bytes {
            return Err(TemplateError::limit("bytes of values", self.limits.max_value_bytes));
        }
        self.scan(n)
    }

    /// Charges the work of reading `n` bytes.
    pub(super) fn scan(&self, n: usize) -> Res<()> {
        self.step(n / 64 + 1)
    }

    /// Charges a container of `n` elements.
    pub(super) fn elements(&self, n: usize) -> Res<()> {
        self.step(n)?;
        self.alloc(n.saturating_mul(size_of::<Value>()))
    }

    /// A string value copied from `text`.
    pub(super) fn str(&self, text: &str) -> Res<Value> {
        self.alloc(text.len())?;
        Ok(Value::Str(Arc::from(text)))
    }
}

/// A string under construction that charges its budget before it grows.
pub(super) struct Text<'b> {
    buf: String,
    budget: &'b Budget,
}

impl<'b> Text<'b> {
    pub(super) fn new(budget: &'b Budget) -> Self {
        Self { buf: String::new(), budget }
    }

    pub(super) fn push_str(&mut self, text: &str) -> Res<()> {
        self.budget.alloc(text.len())?;
        self.buf.push_str(text);
        Ok(())
    }

    pub(super) fn push(&mut self, c: char) -> Res<()> {
        self.push_str(c.encode_utf8(&mut [0; 4]))
    }

    /// Appends `c` `n` times; the whole run is charged before the first byte is written.
    pub(super) fn fill(&mut self, c: char, n: usize) -> Res<()> {
        self.budget.alloc(n.saturating_mul(c.len_utf8()))?;
        self.buf.extend(std::iter::repeat_n(c, n));
        Ok(())
    }

    pub(super) fn into_string(self) -> String {
        self.buf
    }

    pub(super) fn finish(self) -> Value {
        Value::Str(Arc::from(self.buf))
    }
}
