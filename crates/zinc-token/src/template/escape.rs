//! Python's `repr` of strings and floats.

use super::budget::{Res, Text};
use super::chars::is_printable;

/// `repr` of a string.
pub(super) fn repr_str(text: &str, out: &mut Text<'_>) -> Res<()> {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote)?;
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\")?,
            '\n' => out.push_str("\\n")?,
            '\r' => out.push_str("\\r")?,
            '\t' => out.push_str("\\t")?,
            c if c == quote => {
                out.push('\\')?;
                out.push(c)?;
            }
            c if is_printable(c) => out.push(c)?,
            c if (c as u32) < 0x100 => out.push_str(&format!("\\x{:02x}", c as u32))?,
            c if (c as u32) < 0x10000 => out.push_str(&format!("\\u{:04x}", c as u32))?,
            c => out.push_str(&format!("\\U{:08x}", c as u32))?,
        }
    }
    out.push(quote)
}

/// `repr` of a float: the shortest digits that read back, with an exponent below 1e-4 and from 1e16 on.
pub(super) fn repr_float(x: f64) -> String {
    if x.is_nan() {
        return "nan".into();
    }
    if x.is_infinite() {
        return if x > 0.0 { "inf".into() } else { "-inf".into() };
    }
    let exponential = format!("{x:e}");
    let (mantissa, exponent) = exponential.split_once('e').unwrap_or((&exponential, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if x != 0.0 && !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{mantissa}e{sign}{:02}", exponent.abs());
    }
    let plain = format!("{x}");
    if plain.contains('.') { plain } else { plain + ".0" }
}
