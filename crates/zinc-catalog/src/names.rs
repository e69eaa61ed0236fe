//! What the names of GGUF files say: the quantisation, the part of a split model.

/// Name of the model that is part of the program; no other gets it.
pub const BUILTIN_NAME: &str = "zinc-demo";

/// `STEM-00001-of-00003.gguf`, taken apart.
#[derive(Debug, PartialEq, Eq)]
pub struct PartName<'a> {
    /// What all parts have in common, with directories.
    pub stem: &'a str,
    /// From 1.
    pub number: u32,
    /// How many there are.
    pub count: u32,
}

impl PartName<'_> {
    /// Understands the name of a part; `None` for a whole model.
    pub fn parse(path: &str) -> Option<PartName<'_>> {
        let (rest, count) = without_extension(path).rsplit_once("-of-")?;
        let (stem, number) = rest.rsplit_once('-')?;
        let parse = |digits: &str| {
            let is_number = digits.len() == 5 && digits.bytes().all(|b| b.is_ascii_digit());
            digits.parse().ok().filter(|_| is_number)
        };
        Some(PartName { stem, number: parse(number)?, count: parse(count)? })
    }
}

fn without_extension(path: &str) -> &str {
    let n = path.len().saturating_sub(5);
    match path.get(n..) {
        Some(end) if end.eq_ignore_ascii_case(".gguf") => &path[..n],
        _ => path,
    }
}

/// Whether the file is a language model, as far as its name says.
pub(crate) fn is_model(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path).to_ascii_lowercase();
    name.ends_with(".gguf") && !name.contains("mmproj") && !name.contains("imatrix")
}

/// The quantisation in a file's name, in capitals: `Q4_K_M`, `UD-Q4_K_XL`, `MXFP4`.
pub(crate) fn quant(path: &str) -> Option<String> {
    let name = path.rsplit('/').next().unwrap_or(path);
    let stem = PartName::parse(name).map_or_else(|| without_extension(name), |part| part.stem);
    let stem = stem.to_ascii_uppercase();
    let parts: Vec<&str> = stem.split(['-', '.']).collect();
    let at = parts.iter().rposition(|part| is_quant(part))?;
    match at.checked_sub(1).map(|before| parts[before]) {
        Some("UD") => Some(format!("UD-{}", parts[at])),
        _ => Some(parts[at].to_owned()),
    }
}

fn is_quant(word: &str) -> bool {
    let known = ["F16", "BF16", "F32", "FP16", "FP32"];
    let digit_after = |prefix: &str| {
        word.strip_prefix(prefix).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    known.contains(&word)
        || ["Q", "IQ", "TQ"].into_iter().any(digit_after)
        || word.starts_with("MXFP4")
        || word.starts_with("NVFP4")
}

/// The order in which quantisations are taken where none is asked for; the least is the best: what
/// loses little against the model itself at a quarter of its size, then its neighbours.
pub(crate) fn preference(quant: &str) -> usize {
    const ORDER: [&str; 14] = [
        "Q4_K_M",
        "UD-Q4_K_XL",
        "MXFP4",
        "MXFP4_MOE",
        "Q4_K_XL",
        "Q4_K_S",
        "Q4_0",
        "IQ4_XS",
        "Q5_K_M",
        "Q4",
        "Q5_K_S",
        "Q6_K",
        "Q8_0",
        "Q3_K_M",
    ];
    ORDER.iter().position(|known| *known == quant).unwrap_or(ORDER.len())
}

/// Bits per weight that files of this quantisation take, over all their tensors; the source is the
/// size of llama.cpp's files of Llama 3.1 8B. `None` for an unknown one.
pub fn bits_per_weight(quant: &str) -> Option<f64> {
    let bits = match quant.trim_start_matches("UD-") {
        "F32" | "FP32" => 32.0,
        "F16" | "BF16" | "FP16" => 16.0,
        "Q8_0" => 8.5,
        "Q6_K" => 6.56,
        "Q5_K_M" => 5.7,
        "Q5_K_S" | "Q5_0" => 5.55,
        "Q4_K_M" | "Q4_K_XL" => 4.9,
        "Q4_K_S" | "Q4_0" | "Q4" => 4.65,
        "IQ4_XS" => 4.45,
        "MXFP4" | "MXFP4_MOE" => 4.35,
        "Q3_K_M" => 4.0,
        "Q2_K" => 3.15,
        _ => return None,
    };
    Some(bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantisations_in_names() {
        let check = |path: &str, expected: Option<&str>| {
            assert_eq!(quant(path).as_deref(), expected, "{path}");
        };
        check("Qwen3-4B-Q4_K_M.gguf", Some("Q4_K_M"));
        check("qwen2.5-0.5b-instruct-q4_k_m.gguf", Some("Q4_K_M"));
        check("x/UD-Q4_K_XL/m-UD-Q4_K_XL-00001-of-00002.gguf", Some("UD-Q4_K_XL"));
        check("gpt-oss-20b-mxfp4.gguf", Some("MXFP4"));
        check("m.IQ4_XS.gguf", Some("IQ4_XS"));
        check("Phi-3-mini-4k-instruct-q4.gguf", Some("Q4"));
        check("Phi-3-mini-4k-instruct-fp16.GGUF", Some("FP16"));
        check("Qwen3-4B.gguf", None);
    }

    #[test]
    fn parts() {
        let part = PartName::parse("d/m-00002-of-00003.gguf").unwrap();
        assert_eq!((part.stem, part.number, part.count), ("d/m", 2, 3));
        assert_eq!(PartName::parse("m-2-of-3.gguf"), None);
        assert!(is_model("a/m.gguf") && !is_model("mmproj-x.gguf") && !is_model("x.imatrix.gguf"));
    }
}
