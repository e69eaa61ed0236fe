//! Multi-head latent attention over a compressed cache.

use zinc_backend::DeviceError;
use zinc_plan::LatentAttention;

use super::{Placement, dot, softmax};
use crate::exec::Matrix;
use crate::storage::State;

pub(crate) fn latent_attention(
    attention: &LatentAttention,
    [q, q_rope]: [&Matrix; 2],
    [cache, cache_rope]: [&State; 2],
    place: &Placement<'_>,
) -> Result<Matrix, DeviceError> {
    let (latent_dim, rope_dim) = (attention.latent_dim as usize, attention.rope_dim as usize);
    let n_heads = attention.n_heads as usize;
    let mut y = Matrix::zeros(place.positions.len(), n_heads * latent_dim);
    for (token, y_row) in y.rows_mut().enumerate() {
        let n_keys = place.positions[token] as usize + 1;
        let mut latents = Vec::with_capacity(n_keys);
        let mut rotated = Vec::with_capacity(n_keys);
        for j in 0..n_keys {
            let row = place.cache_row(token, j);
            latents.push(cache.read(row)?);
            rotated.push(cache_rope.read(row)?);
        }
        let heads = y_row.chunks_exact_mut(latent_dim);
        for (head, y_head) in heads.enumerate() {
            let query = &q.row(token)[head * latent_dim..][..latent_dim];
            let query_rope = &q_rope.row(token)[head * rope_dim..][..rope_dim];
            let keys = latents.iter().zip(&rotated);
            let mut scores: Vec<f32> =
                keys.map(|(c, r)| (dot(query, c) + dot(query_rope, r)) * attention.scale).collect();
            softmax(&mut scores, None);
            for (col, y) in y_head.iter_mut().enumerate() {
                let weighted = scores.iter().zip(&latents);
                let sum: f64 =
                    weighted.map(|(score, c)| f64::from(*score) * f64::from(c[col])).sum();
                *y = sum as f32;
            }
        }
    }
    Ok(y)
}
