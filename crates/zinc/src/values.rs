//! Metadata values as JSON and as short text. Long arrays are abbreviated in both.

use serde_json::{Value as Json, json};
use zinc_gguf::{Array, Value};

/// Elements shown of a longer array.
const N_SHOWN: usize = 8;
/// Characters shown of a longer string in text.
const N_CHARS: usize = 100;

/// The value as JSON; an array of more than eight elements becomes an object with its length and beginning.
pub fn json(value: &Value) -> Json {
    match value {
        Value::U8(v) => json!(v),
        Value::I8(v) => json!(v),
        Value::U16(v) => json!(v),
        Value::I16(v) => json!(v),
        Value::U32(v) => json!(v),
        Value::I32(v) => json!(v),
        Value::U64(v) => json!(v),
        Value::I64(v) => json!(v),
        Value::F32(v) => float(f64::from(*v), v.to_string()),
        Value::F64(v) => float(*v, v.to_string()),
        Value::Bool(v) => json!(v),
        Value::String(v) => json!(v),
        Value::Array(array) => json_array(array),
    }
}

/// JSON has no NaN and no infinities: those become strings. `text` is the shortest that reads back.
fn float(value: f64, text: String) -> Json {
    match text.parse::<f64>() {
        Ok(short) if value.is_finite() => json!(short),
        _ => json!(text),
    }
}

fn json_array(array: &Array) -> Json {
    let first: Vec<Json> = match array {
        Array::Scalars(scalars) => scalars.iter().take(N_SHOWN).map(|v| json(&v)).collect(),
        Array::Strings(strings) => {
            let lossy = |bytes: &[u8]| json!(String::from_utf8_lossy(bytes));
            strings.iter().take(N_SHOWN).map(lossy).collect()
        }
        Array::Arrays(arrays) => arrays.iter().take(N_SHOWN).map(json_array).collect(),
    };
    if array.len() <= N_SHOWN {
        return Json::Array(first);
    }
    json!({ "n_elements": array.len(), "element_type": array.element_type().to_string(), "first": first })
}

/// One line for people.
pub fn short(value: &Json) -> String {
    match value {
        Json::String(text) => short_string(text),
        Json::Object(array) => {
            let first = array.get("first").map(short).unwrap_or_default();
            let n_elements = array.get("n_elements").map(Json::to_string).unwrap_or_default();
            format!("{}, … ({n_elements})]", first.trim_end_matches(']'))
        }
        Json::Array(elements) => {
            let elements: Vec<_> = elements.iter().map(Json::to_string).collect();
            format!("[{}]", elements.join(", "))
        }
        other => other.to_string(),
    }
}

fn short_string(text: &str) -> String {
    let line = text.replace('\n', "\\n");
    match line.char_indices().nth(N_CHARS) {
        Some((end, _)) => format!("{}… ({} bytes)", &line[..end], text.len()),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_arrays_and_strings_are_abbreviated() {
        let long: Vec<u32> = (0..20).collect();
        let value = Value::Array(Array::from(long.as_slice()));
        assert_eq!(short(&json(&value)), "[0, 1, 2, 3, 4, 5, 6, 7, … (20)]");
        let text = Value::String("é".repeat(101));
        assert_eq!(short(&json(&text)), format!("{}… (202 bytes)", "é".repeat(100)));
        assert_eq!(short(&json(&Value::F32(f32::NAN))), "NaN");
        assert_eq!(short(&json(&Value::F32(1e-6))), "1e-6");
    }
}
