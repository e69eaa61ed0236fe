//! The demonstration model that is part of the program.

use bytes::Bytes;

/// What messages call it.
pub const NAME: &str = "built-in model";
/// What people and requests call it.
pub const ID: &str = zinc_catalog::BUILTIN_NAME;

/// Makes the embedded file start on a cache line: devices use its tensors where they are.
#[cfg(feature = "builtin-model")]
#[repr(C, align(64))]
struct Aligned<T: ?Sized>(T);

#[cfg(feature = "builtin-model")]
static FILE: &Aligned<[u8]> = &Aligned(*include_bytes!("../../../builtin/zinc-demo.gguf"));

/// The file's bytes, if this program was built with it.
pub fn file() -> Option<Bytes> {
    #[cfg(feature = "builtin-model")]
    return Some(Bytes::from_static(&FILE.0));
    #[cfg(not(feature = "builtin-model"))]
    return None;
}
