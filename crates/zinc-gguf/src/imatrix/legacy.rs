//! The older form: a count of entries, then for each a name, a count of calls, and the mean squares times
//! that count; perhaps followed by the number of chunks and the name of the text. All integers are i32.

use super::{Imatrix, ImatrixEntry, bad, f32s};
use crate::GgufError;

pub(super) fn read(file: &[u8]) -> Result<Imatrix, GgufError> {
    let mut rest = file;
    let mut imatrix = Imatrix::default();
    let n_entries = take_count(&mut rest)?;
    for _ in 0..n_entries {
        let name = take_string(&mut rest)?;
        let n_calls = take_count(&mut rest)? as f32;
        let n_values = take_count(&mut rest)?;
        let sums = f32s(take(&mut rest, n_values * size_of::<f32>())?);
        // Values that were counted no call are means already.
        let counts = vec![n_calls.max(1.0)];
        imatrix.entries.insert(name, ImatrixEntry { sums, counts });
    }
    if !rest.is_empty() {
        imatrix.chunk_count = take_count(&mut rest)? as u32;
    }
    if !rest.is_empty() {
        imatrix.datasets.push(take_string(&mut rest)?);
    }
    Ok(imatrix)
}

fn take<'a>(rest: &mut &'a [u8], n_bytes: usize) -> Result<&'a [u8], GgufError> {
    rest.split_off(..n_bytes).ok_or_else(|| {
        bad("it is neither a GGUF file nor a whole file of the older form (.dat)".into())
    })
}

/// A number that is not negative.
fn take_count(rest: &mut &[u8]) -> Result<usize, GgufError> {
    let mut raw = [0; 4];
    raw.copy_from_slice(take(rest, 4)?);
    let count = i32::from_le_bytes(raw);
    usize::try_from(count).map_err(|_| bad(format!("a count is {count}")))
}

fn take_string(rest: &mut &[u8]) -> Result<String, GgufError> {
    let length = take_count(rest)?;
    Ok(String::from_utf8_lossy(take(rest, length)?).into_owned())
}
