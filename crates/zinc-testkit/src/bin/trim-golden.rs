//! Writes `testdata/golden`: the part of the full golden data that every clone carries.
//!
//! `cargo run -p zinc-testkit --bin trim-golden`, with the full data where `ZINC_SHARED` says or in
//! `../shared`. Models are copied; of the numbers stay the tokens, the greedy continuations, the
//! hidden states, and the logits of prompts 0 and 1 and of the last eight rows of prompt 2. Numbers
//! of llama.cpp stay for quantised files of `q_` models only, whose expected values they are. `gemma2` is of the
//! clone alone; the README there says where its numbers come from.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;

use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use zinc_testkit::golden::N_IN_CLONE;
use zinc_testkit::paths;

/// Models of the clone: the smallest of each family (of those with gated DeltaNets one stands for
/// all, of gemma 3 and 4 and of deepseek one each), and small files of two block formats. The other
/// formats are covered by the operation cases, and by the full data.
const MODELS: [&str; N_IN_CLONE - 1] = [
    "deepseek_v2_lite.f32",
    "gemma4_dense.f32",
    "gpt_oss.mxfp4",
    "llama.f32",
    "phi3.f32",
    "qwen2.f32",
    "qwen3.f32",
    "qwen3_moe.f32",
    "q_qwen3_5_moe_small.q4_0",
    "q_qwen3_small.q4_0",
    "q_qwen3_small.q8_0",
];

/// Logit rows that are kept of the longest prompt.
const LAST_ROWS: usize = 8;

/// Rows kept of the vectors for each block format: the first, and the last with its subnormal scales.
const VECTOR_ROWS: [usize; 3] = [0, 1, 63];

type Result<T> = std::result::Result<T, Box<dyn Error>>;
/// Name to type, shape and bytes.
type Arrays = BTreeMap<String, (safetensors::Dtype, Vec<usize>, Vec<u8>)>;

fn main() -> Result<()> {
    let from = paths::shared().join("golden");
    let to = paths::testdata().join("golden");
    std::fs::create_dir_all(&to)?;
    let mut numbers: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for file in MODELS {
        let name = format!("{file}.gguf");
        // Written anew, because the original may be read-only.
        std::fs::write(to.join(&name), std::fs::read(from.join(&name))?)?;
        let (model, ty) = file.split_once('.').ok_or("a name without a type")?;
        numbers.entry(model).or_default().push(ty);
    }
    for (model, types) in numbers {
        let name = format!("{model}.safetensors");
        let quantized = model.starts_with("q_");
        trim(&from.join(&name), &to.join(&name), |key, array| {
            let part = key.split_once('.').map_or(key, |(_, part)| part);
            let ty = part.split('.').next().unwrap_or(part);
            let wanted = match quantized {
                true => part == "tokens" || types.iter().any(|t| ty == t.to_uppercase()),
                false => !part.contains("llamacpp"),
            };
            if wanted && key == "prompt2.logits" {
                let n_rows = array.1[0];
                keep_rows(array, n_rows - LAST_ROWS..n_rows);
            }
            wanted
        })?;
    }
    let name = "quant_types.safetensors";
    trim(&from.join(name), &to.join(name), |_, array| {
        let n_rows = array.1[0];
        keep_rows(array, VECTOR_ROWS.into_iter().filter(|row| *row < n_rows));
        true
    })
}

fn keep_rows(
    array: &mut (safetensors::Dtype, Vec<usize>, Vec<u8>),
    rows: impl IntoIterator<Item = usize>,
) {
    let row_bytes = array.2.len() / array.1[0];
    let parts = rows.into_iter().map(|row| &array.2[row * row_bytes..][..row_bytes]);
    let parts: Vec<&[u8]> = parts.collect();
    (array.1[0], array.2) = (parts.len(), parts.concat());
}

/// Copies the arrays that `keep` wants, as it changes them.
fn trim(
    from: &Path,
    to: &Path,
    keep: impl Fn(&str, &mut (safetensors::Dtype, Vec<usize>, Vec<u8>)) -> bool,
) -> Result<()> {
    let bytes = std::fs::read(from).map_err(|error| format!("{}: {error}", from.display()))?;
    let mut arrays = Arrays::new();
    for (name, tensor) in SafeTensors::deserialize(&bytes)?.tensors() {
        let mut array = (tensor.dtype(), tensor.shape().to_vec(), tensor.data().to_vec());
        if keep(&name, &mut array) {
            arrays.insert(name, array);
        }
    }
    let views: std::result::Result<Vec<_>, _> = arrays
        .iter()
        .map(|(name, (dtype, shape, data))| {
            TensorView::new(*dtype, shape.clone(), data).map(|view| (name, view))
        })
        .collect();
    std::fs::write(to, safetensors::serialize(views?, None)?)?;
    println!("{}: {} arrays", to.display(), arrays.len());
    Ok(())
}
