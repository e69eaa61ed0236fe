//! The tensor types a GGUF file can name, a type of caches beside them, and how many bytes each takes.

use std::fmt;

/// Type of a tensor's elements, with the id GGUF stores (`enum ggml_type` in `ggml.h`).
///
/// Ids missing from this list (4, 5, 31–33, 36–38) belonged to formats that were withdrawn.
///
/// [`GgmlType::F8_E4M3`] is a type of caches only: it is not in [`GgmlType::ALL`], neither id nor name
/// lead to it, and no file has it.
#[allow(missing_docs)] // The variants are the format's own names; `layout` below gives their sizes.
#[allow(non_camel_case_types)] // GGUF's spelling: `Q4_K` is what every file and tool calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
pub enum GgmlType {
    F32 = 0,
    F16 = 1,
    Q4_0 = 2,
    Q4_1 = 3,
    Q5_0 = 6,
    Q5_1 = 7,
    Q8_0 = 8,
    Q8_1 = 9,
    Q2_K = 10,
    Q3_K = 11,
    Q4_K = 12,
    Q5_K = 13,
    Q6_K = 14,
    Q8_K = 15,
    IQ2_XXS = 16,
    IQ2_XS = 17,
    IQ3_XXS = 18,
    IQ1_S = 19,
    IQ4_NL = 20,
    IQ3_S = 21,
    IQ2_S = 22,
    IQ4_XS = 23,
    I8 = 24,
    I16 = 25,
    I32 = 26,
    I64 = 27,
    F64 = 28,
    IQ1_M = 29,
    BF16 = 30,
    TQ1_0 = 34,
    TQ2_0 = 35,
    MXFP4 = 39,
    NVFP4 = 40,
    Q1_0 = 41,
    Q2_0 = 42,
    /// 8-bit floats, see [`crate::e4m3_to_f32`]. The id is none of the format's and never will be.
    F8_E4M3 = u32::MAX,
}

impl GgmlType {
    /// Every type of the format, in id order.
    #[rustfmt::skip]
    pub const ALL: [GgmlType; 35] = {
        use GgmlType::*;
        [
            F32, F16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q8_1, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, Q8_K,
            IQ2_XXS, IQ2_XS, IQ3_XXS, IQ1_S, IQ4_NL, IQ3_S, IQ2_S, IQ4_XS, I8, I16, I32, I64, F64,
            IQ1_M, BF16, TQ1_0, TQ2_0, MXFP4, NVFP4, Q1_0, Q2_0,
        ]
    };

    /// Name, elements per block, bytes per block.
    const fn layout(self) -> (&'static str, usize, usize) {
        use GgmlType::*;
        match self {
            F32 => ("f32", 1, 4),
            F16 => ("f16", 1, 2),
            BF16 => ("bf16", 1, 2),
            F64 => ("f64", 1, 8),
            F8_E4M3 => ("f8_e4m3", 1, 1),
            I8 => ("i8", 1, 1),
            I16 => ("i16", 1, 2),
            I32 => ("i32", 1, 4),
            I64 => ("i64", 1, 8),
            Q1_0 => ("q1_0", 128, 18),
            Q2_0 => ("q2_0", 64, 18),
            Q4_0 => ("q4_0", 32, 18),
            Q4_1 => ("q4_1", 32, 20),
            Q5_0 => ("q5_0", 32, 22),
            Q5_1 => ("q5_1", 32, 24),
            Q8_0 => ("q8_0", 32, 34),
            Q8_1 => ("q8_1", 32, 36),
            Q2_K => ("q2_k", 256, 84),
            Q3_K => ("q3_k", 256, 110),
            Q4_K => ("q4_k", 256, 144),
            Q5_K => ("q5_k", 256, 176),
            Q6_K => ("q6_k", 256, 210),
            Q8_K => ("q8_k", 256, 292),
            IQ1_S => ("iq1_s", 256, 50),
            IQ1_M => ("iq1_m", 256, 56),
            IQ2_XXS => ("iq2_xxs", 256, 66),
            IQ2_XS => ("iq2_xs", 256, 74),
            IQ2_S => ("iq2_s", 256, 82),
            IQ3_XXS => ("iq3_xxs", 256, 98),
            IQ3_S => ("iq3_s", 256, 110),
            IQ4_NL => ("iq4_nl", 32, 18),
            IQ4_XS => ("iq4_xs", 256, 136),
            TQ1_0 => ("tq1_0", 256, 54),
            TQ2_0 => ("tq2_0", 256, 66),
            MXFP4 => ("mxfp4", 32, 17),
            NVFP4 => ("nvfp4", 64, 36),
        }
    }

    /// The type with this GGUF id, `None` if the format has no such type (or withdrew it).
    pub fn from_id(id: u32) -> Option<GgmlType> {
        Self::ALL.into_iter().find(|ty| ty.id() == id)
    }

    /// The id GGUF stores; of [`GgmlType::F8_E4M3`] one that no reader accepts.
    pub const fn id(self) -> u32 {
        self as u32
    }

    /// Lower-case name, for example `q4_k`.
    pub const fn name(self) -> &'static str {
        self.layout().0
    }

    /// The type of the format with this name in any letter case: `q4_k`, `Q4_K`, `q4_K`.
    pub fn from_name(name: &str) -> Option<GgmlType> {
        Self::ALL.into_iter().find(|ty| ty.name().eq_ignore_ascii_case(name))
    }

    /// Elements in one block; 1 for plain numbers.
    pub const fn block_len(self) -> usize {
        self.layout().1
    }

    /// Bytes in one block.
    pub const fn block_bytes(self) -> usize {
        self.layout().2
    }

    /// Bytes of `n_elems` consecutive elements; `None` if they do not fill whole blocks or the size overflows.
    pub const fn row_bytes(self, n_elems: usize) -> Option<usize> {
        if !n_elems.is_multiple_of(self.block_len()) {
            return None;
        }
        (n_elems / self.block_len()).checked_mul(self.block_bytes())
    }

    /// Whether elements share a scale per block (everything but plain floats and integers).
    pub const fn is_quantized(self) -> bool {
        self.block_len() > 1
    }
}

impl fmt::Display for GgmlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_names_round_trip() {
        for ty in GgmlType::ALL {
            assert_eq!(GgmlType::from_id(ty.id()), Some(ty));
            assert_eq!(GgmlType::from_name(ty.name()), Some(ty));
            assert_eq!(GgmlType::from_name(&ty.name().to_uppercase()), Some(ty));
        }
        for withdrawn in [4, 5, 31, 32, 33, 36, 37, 38, 43, u32::MAX] {
            assert_eq!(GgmlType::from_id(withdrawn), None);
        }
    }

    /// Whatever goes through all types, ids or names of the format cannot come to it.
    #[test]
    fn files_cannot_name_a_type_of_caches() {
        let ty = GgmlType::F8_E4M3;
        assert!(!GgmlType::ALL.contains(&ty));
        assert_eq!(GgmlType::from_id(ty.id()), None);
        assert_eq!(GgmlType::from_name(ty.name()), None);
        assert_eq!(ty.row_bytes(7), Some(7));
    }

    #[test]
    fn row_bytes_needs_whole_blocks() {
        assert_eq!(GgmlType::Q4_K.row_bytes(512), Some(288));
        assert_eq!(GgmlType::Q4_K.row_bytes(100), None);
        assert_eq!(GgmlType::F64.row_bytes(usize::MAX), None);
        assert_eq!(GgmlType::Q8_0.row_bytes(0), Some(0));
    }
}
