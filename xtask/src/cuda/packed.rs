//! Compiled modules as the repository and the binary have them: LZMA, which packs the many kernels of a file that
//! differ little three times as well as deflate.

use std::io::{Read as _, Write as _};
use std::path::Path;

use anyhow::Result;
use lzma_rust2::{LzmaOptions, LzmaReader, LzmaWriter};

/// Memory that unpacking may take: a little more than the dictionary of preset 9.
const MAX_DICTIONARY_KIB: u32 = 80 << 10;

pub fn pack(code: &[u8]) -> Result<Vec<u8>> {
    // Text has no alignment; lines of thousands of kernels repeat for long.
    let pb = if code.is_ascii() { 0 } else { LzmaOptions::PB_DEFAULT };
    let nice_len = LzmaOptions::NICE_LEN_MAX;
    let options = LzmaOptions { pb, nice_len, depth_limit: 1000, ..LzmaOptions::with_preset(9) };
    let size = Some(code.len() as u64);
    let mut writer = LzmaWriter::new_use_header(Vec::new(), &options, size)?;
    writer.write_all(code)?;
    Ok(writer.finish()?)
}

/// What a packed file holds.
pub fn unpack(path: &Path) -> Result<Vec<u8>> {
    let packed = std::fs::read(path)?;
    let mut code = Vec::new();
    LzmaReader::new_mem_limit(&packed[..], MAX_DICTIONARY_KIB, None)?.read_to_end(&mut code)?;
    Ok(code)
}

/// PTX without the digest of its source's absolute path, which the compiler puts into the names of what is private to
/// a file: `_INTERNAL_15f27376_6_moe_cu_...`. Every clone has the same bytes then.
pub fn without_path(ptx: Vec<u8>) -> Vec<u8> {
    const N_DIGITS: usize = 8;
    let Ok(text) = std::str::from_utf8(&ptx) else {
        // Machine code has no such names.
        return ptx;
    };
    let places: Vec<usize> =
        text.match_indices("_INTERNAL_").map(|(at, mark)| at + mark.len()).collect();
    let mut ptx = ptx;
    for at in places {
        if let Some(digits) = ptx.get_mut(at..at + N_DIGITS)
            && digits.iter().all(u8::is_ascii_hexdigit)
        {
            digits.fill(b'0');
        }
    }
    ptx
}

#[cfg(test)]
mod tests {
    use super::{pack, unpack, without_path};

    #[test]
    fn packing_keeps_the_bytes() {
        let path = std::env::temp_dir().join(format!("zinc-packed-{}", std::process::id()));
        for code in [&b"90 3\nabc"[..], &[0x7f, b'E', 0xff, 0]] {
            std::fs::write(&path, pack(code).expect("packs")).expect("writes");
            assert_eq!(unpack(&path).expect("unpacks"), code);
        }
        std::fs::write(&path, "no LZMA").expect("writes");
        assert!(unpack(&path).is_err());
        std::fs::remove_file(&path).expect("is there");
    }

    #[test]
    fn digests_of_paths_are_left_out() {
        let [here, there] = ["15f27376", "ce83ef0f"].map(|digest| {
            without_path(format!("a _ZZN36_INTERNAL_{digest}_6_moe_cu_0f268241 b").into_bytes())
        });
        assert_eq!(here, there);
        assert_eq!(here, b"a _ZZN36_INTERNAL_00000000_6_moe_cu_0f268241 b");
        assert_eq!(
            without_path(b"_INTERNAL_other _INTERNAL_1".into()),
            b"_INTERNAL_other _INTERNAL_1"
        );
    }
}
