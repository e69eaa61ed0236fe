//! Which tensor gets which type.
//!
//! The mixtures are those that llama.cpp's files of the same name have, so that names promise the same
//! size: values, the down projections of some layers and the output matrix get more bits than the rest.
//! Two differences: an `MXFP4` file of a model without experts has all its matrices in MXFP4, and the
//! small projections that steer the gates of DeltaNet layers never get fewer than eight bits.

use zinc_gguf::{Gguf, GgufError, Metadata, TensorEntry};
use zinc_quant::GgmlType;

use super::FileType;

/// What the command line asks for.
#[derive(Clone, Debug)]
pub struct Policy {
    /// The mixture.
    pub file_type: FileType,
    /// All matrices the same type.
    pub pure: bool,
    /// Type of the output matrix.
    pub output: Option<GgmlType>,
    /// Type of the token embeddings.
    pub token_embedding: Option<GgmlType>,
    /// Types of tensors by pattern; the first that matches counts.
    pub overrides: Vec<(Pattern, GgmlType)>,
    /// Whether the errors will be weighted by an importance matrix.
    pub has_imatrix: bool,
}

/// Part of a tensor's name, with `*` for anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(pub String);

impl Pattern {
    /// Whether the pattern's pieces occur in `name` in this order.
    pub fn matches(&self, name: &str) -> bool {
        let mut rest = name;
        self.0.split('*').all(|piece| match rest.find(piece) {
            Some(at) => {
                rest = &rest[at + piece.len()..];
                true
            }
            None => false,
        })
    }
}

/// What becomes of one tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// The new type, perhaps the old one.
    pub ty: GgmlType,
    /// The type it would have, if its rows were whole blocks of it.
    pub instead_of: Option<GgmlType>,
}

/// Facts about the model that the rules ask for.
struct Shape {
    n_layers: u64,
    n_heads: u64,
    n_kv_heads: u64,
    n_experts: u64,
    /// The output matrix is the token embeddings.
    tied: bool,
    /// Layers with a tensor that makes values, in order.
    value_layers: Vec<u64>,
}

impl Policy {
    /// The decision for each tensor of `gguf`, in order.
    ///
    /// # Errors
    /// Metadata that the rules ask for is not a number.
    pub fn decide(&self, gguf: &Gguf) -> Result<Vec<Decision>, GgufError> {
        let shape = Shape::of(gguf)?;
        Ok(gguf.tensors().iter().map(|tensor| self.decide_one(tensor, &shape)).collect())
    }

    fn decide_one(&self, tensor: &TensorEntry, shape: &Shape) -> Decision {
        if is_kept(tensor) {
            return Decision { ty: tensor.ty, instead_of: None };
        }
        let wanted = self.wanted(tensor, shape);
        let ty = fitting(wanted, tensor.dims[0]);
        Decision { ty, instead_of: (ty != wanted).then_some(wanted) }
    }

    fn wanted(&self, tensor: &TensorEntry, shape: &Shape) -> GgmlType {
        let name = tensor.name.as_str();
        if let Some((_, ty)) = self.overrides.iter().find(|(pattern, _)| pattern.matches(name)) {
            return *ty;
        }
        let role = Role::of(name);
        let is_output = role == Role::Output || shape.tied && name == "token_embd.weight";
        if let Some(ty) = self.token_embedding.filter(|_| role == Role::TokenEmbedding) {
            return ty;
        }
        if let Some(ty) = self.output.filter(|_| is_output) {
            return ty;
        }
        if self.pure || !self.file_type.tensor_type().is_quantized() {
            return self.file_type.tensor_type();
        }
        match is_output {
            true => self.output_type(tensor.dims[0]),
            false => self.mixed(name, role, shape),
        }
    }

    /// The output matrix decides between tokens, and nothing after it evens out its errors.
    fn output_type(&self, row_len: u64) -> GgmlType {
        let ty = self.file_type.tensor_type();
        let whole_blocks = row_len.is_multiple_of(ty.block_len() as u64);
        match self.file_type {
            FileType::Q8_0 | FileType::MXFP4 => GgmlType::Q8_0,
            _ if !whole_blocks => GgmlType::Q8_0,
            _ => GgmlType::Q6_K,
        }
    }

    /// The rules of the mixtures.
    fn mixed(&self, name: &str, role: Role, shape: &Shape) -> GgmlType {
        use FileType::{IQ4_XS, MXFP4, Q4_0, Q4_K_M, Q5_K_M};
        let base = self.file_type.tensor_type();
        let file_type = self.file_type;
        let layer = layer_of(name).unwrap_or(0);
        let eight_experts = shape.n_experts == 8;
        if file_type == MXFP4 && shape.n_experts > 0 && !name.contains("_exps.") {
            return GgmlType::Q8_0;
        }
        match role {
            Role::Gate => GgmlType::Q8_0,
            // Few heads make the values and keys of all: many bits cost little.
            Role::Value if eight_experts => GgmlType::Q8_0,
            Role::Key if eight_experts => GgmlType::Q8_0,
            Role::Value => {
                let idx = shape.value_layers.partition_point(|&known| known < layer) as u64;
                let more = gets_more_bits(idx, shape.value_layers.len() as u64);
                match file_type {
                    Q4_K_M | Q5_K_M if more => GgmlType::Q6_K,
                    Q4_K_M if shape.is_llama_70b() => GgmlType::Q5_K,
                    IQ4_XS if shape.n_heads >= 4 * shape.n_kv_heads => GgmlType::Q5_K,
                    _ => base,
                }
            }
            Role::FfnDown => match file_type {
                Q4_K_M | Q5_K_M if gets_more_bits(layer, shape.n_layers) => GgmlType::Q6_K,
                IQ4_XS if !self.has_imatrix && layer < shape.n_layers / 8 => GgmlType::Q5_K,
                Q4_0 if self.has_imatrix && layer < shape.n_layers / 8 => GgmlType::Q4_1,
                _ => base,
            },
            Role::AttentionOutput if eight_experts && matches!(file_type, Q4_K_M | IQ4_XS) => {
                GgmlType::Q5_K
            }
            _ => base,
        }
    }
}

impl Shape {
    fn of(gguf: &Gguf) -> Result<Shape, GgufError> {
        let metadata = gguf.metadata();
        let arch = metadata.str("general.architecture")?.unwrap_or_default();
        let number = |key: &str| first_number(metadata, &format!("{arch}.{key}"));
        let n_heads = number("attention.head_count")?.unwrap_or(0);
        let values = gguf.tensors().iter().filter(|tensor| Role::of(&tensor.name) == Role::Value);
        let mut value_layers: Vec<u64> =
            values.filter_map(|tensor| layer_of(&tensor.name)).collect();
        value_layers.sort_unstable();
        Ok(Shape {
            n_layers: number("block_count")?.unwrap_or(0),
            n_heads,
            n_kv_heads: number("attention.head_count_kv")?.unwrap_or(n_heads),
            n_experts: number("expert_count")?.unwrap_or(0),
            tied: gguf.tensor("output.weight").is_none(),
            value_layers,
        })
    }

    /// The model whose 8 key-value heads serve 64: its value matrices are small.
    fn is_llama_70b(&self) -> bool {
        self.n_layers == 80 && self.n_heads != self.n_kv_heads
    }
}

/// A number, or the first of several that differ by layer.
fn first_number(metadata: &Metadata, key: &str) -> Result<Option<u64>, GgufError> {
    match metadata.get(key) {
        Some(zinc_gguf::Value::Array(_)) => {
            Ok(metadata.u32s(key)?.and_then(|numbers| numbers.first().map(|n| u64::from(*n))))
        }
        _ => metadata.u64(key),
    }
}

/// The first and the last eighth of the layers, and every third between.
fn gets_more_bits(layer: u64, n_layers: u64) -> bool {
    let eighth = n_layers / 8;
    layer < eighth || layer >= 7 * n_layers / 8 || (layer - eighth) % 3 == 2
}

/// What a tensor does, as far as the rules care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Output,
    TokenEmbedding,
    Value,
    Key,
    AttentionOutput,
    FfnDown,
    /// Decay and step size of DeltaNet heads: a row each.
    Gate,
    Other,
}

impl Role {
    fn of(name: &str) -> Role {
        let has = |part: &str| name.contains(part);
        match name {
            "output.weight" => Role::Output,
            "token_embd.weight" | "per_layer_token_embd.weight" => Role::TokenEmbedding,
            _ if has("attn_v.weight") || has("attn_qkv.weight") || has("attn_kv_b.weight") => {
                Role::Value
            }
            _ if has("attn_k.weight") => Role::Key,
            _ if has("attn_output.weight") => Role::AttentionOutput,
            _ if has("ffn_down") => Role::FfnDown,
            _ if has("ssm_alpha") || has("ssm_beta") || has("ssm_ba.") => Role::Gate,
            _ => Role::Other,
        }
    }
}

fn layer_of(name: &str) -> Option<u64> {
    name.strip_prefix("blk.")?.split_once('.')?.0.parse().ok()
}

/// Names of matrices that stay as they are: they are small, and what they decide is decided for good.
const KEPT: [&str; 11] = [
    "_norm.weight",
    "ffn_gate_inp",
    "ssm_conv1d",
    "shortconv.conv",
    "altup",
    "laurel",
    "per_layer_model_proj",
    "position_embd",
    "token_types",
    "attn_rel_b",
    "rope_freqs",
];

/// Whether a tensor stays as it is: vectors, biases, norms, routers, small tables, integers.
fn is_kept(tensor: &TensorEntry) -> bool {
    let is_matrix = tensor.dims.iter().skip(1).any(|&dim| dim > 1);
    let is_float = !matches!(
        tensor.ty,
        GgmlType::F64 | GgmlType::I8 | GgmlType::I16 | GgmlType::I32 | GgmlType::I64
    );
    let named =
        tensor.name.ends_with("weight") && !KEPT.iter().any(|part| tensor.name.contains(part));
    !(is_matrix && is_float && named)
}

/// `wanted`, or a type of about the same quality whose blocks fill rows of `row_len`.
fn fitting(wanted: GgmlType, row_len: u64) -> GgmlType {
    let fits = |ty: GgmlType| row_len.is_multiple_of(ty.block_len() as u64);
    let smaller_blocks = match wanted {
        GgmlType::Q6_K => GgmlType::Q8_0,
        GgmlType::Q5_K => GgmlType::Q5_1,
        GgmlType::Q4_K => GgmlType::Q5_0,
        GgmlType::IQ4_XS => GgmlType::IQ4_NL,
        other => other,
    };
    [wanted, smaller_blocks].into_iter().find(|ty| fits(*ty)).unwrap_or(GgmlType::F16)
}

#[cfg(test)]
mod tests;
