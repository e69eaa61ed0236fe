//! The mixtures of tensor types that a file can be made of.

use zinc_quant::GgmlType;

/// What most tensors of the file become, and which rules the others follow.
#[allow(non_camel_case_types)] // The spelling that every tool and file name uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileType {
    F32,
    F16,
    BF16,
    Q8_0,
    Q6_K,
    Q5_K_M,
    Q4_K_M,
    Q4_0,
    IQ4_XS,
    MXFP4,
}

impl FileType {
    /// Every type, the largest first.
    pub const ALL: [FileType; 10] = {
        use FileType::*;
        [F32, F16, BF16, Q8_0, Q6_K, Q5_K_M, Q4_K_M, Q4_0, IQ4_XS, MXFP4]
    };

    /// Name, the id that `general.file_type` stores, type of most tensors.
    const fn facts(self) -> (&'static str, u32, GgmlType) {
        match self {
            FileType::F32 => ("F32", 0, GgmlType::F32),
            FileType::F16 => ("F16", 1, GgmlType::F16),
            FileType::BF16 => ("BF16", 32, GgmlType::BF16),
            FileType::Q8_0 => ("Q8_0", 7, GgmlType::Q8_0),
            FileType::Q6_K => ("Q6_K", 18, GgmlType::Q6_K),
            FileType::Q5_K_M => ("Q5_K_M", 17, GgmlType::Q5_K),
            FileType::Q4_K_M => ("Q4_K_M", 15, GgmlType::Q4_K),
            FileType::Q4_0 => ("Q4_0", 2, GgmlType::Q4_0),
            FileType::IQ4_XS => ("IQ4_XS", 30, GgmlType::IQ4_XS),
            FileType::MXFP4 => ("MXFP4", 38, GgmlType::MXFP4),
        }
    }

    /// Upper-case name.
    pub const fn name(self) -> &'static str {
        self.facts().0
    }

    /// The id that `general.file_type` stores.
    pub const fn id(self) -> u32 {
        self.facts().1
    }

    /// Type of most tensors.
    pub const fn tensor_type(self) -> GgmlType {
        self.facts().2
    }
}

impl std::str::FromStr for FileType {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|ty| ty.name().eq_ignore_ascii_case(name));
        found.ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|ty| ty.name().to_lowercase()).collect();
            format!("available: {}", names.join(", "))
        })
    }
}

/// Types that a single tensor can be given.
pub const TENSOR_TYPES: [GgmlType; 14] = {
    use GgmlType::*;
    [F32, F16, BF16, Q8_0, Q6_K, Q5_K, Q5_1, Q5_0, Q4_K, Q4_1, Q4_0, IQ4_NL, IQ4_XS, MXFP4]
};

/// The tensor type called `name`, if there is a quantiser to it.
///
/// # Errors
/// There is none.
pub fn parse_tensor_type(name: &str) -> Result<GgmlType, String> {
    GgmlType::from_name(name).filter(|ty| TENSOR_TYPES.contains(ty)).ok_or_else(|| {
        let names: Vec<_> = TENSOR_TYPES.iter().map(|ty| ty.name()).collect();
        format!("available: {}", names.join(", "))
    })
}
