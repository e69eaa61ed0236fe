//! Builder methods of elementwise operations and of operations on heads.

use zinc_quant::GgmlType;

use super::Builder;
use crate::PlanError;
use crate::op::{HeadMatMul, HeadSlice, L2Norm, LatentAttention, Op, Scale, Softcap};
use crate::plan::{Dim, InputKind, Shape, TensorId, TensorInfo, TensorKind};

impl Builder {
    /// Product of two values, or of a value and a row or number. See [`Op::Mul`].
    ///
    /// # Errors
    /// Operands that do not fit; so for every method below.
    pub fn mul(&mut self, label: &str, a: TensorId, b: TensorId) -> Result<TensorId, PlanError> {
        self.node(label, Op::Mul, vec![a, b])
    }

    /// The step's hidden states of `cols` elements each: [`InputKind::Hidden`].
    ///
    /// # Errors
    /// Asked for twice.
    pub fn hidden_input(&mut self, cols: u32) -> Result<TensorId, PlanError> {
        let kind = InputKind::Hidden;
        self.add_tensor(TensorInfo {
            name: kind.name().into(),
            dtype: GgmlType::F32,
            shape: Shape::new(Dim::Tokens, cols),
            kind: TensorKind::Input(kind),
        })
    }

    /// The columns of a, then those of b. See [`Op::Concat`].
    ///
    /// # Errors
    /// Operands that do not fit.
    pub fn concat(&mut self, label: &str, a: TensorId, b: TensorId) -> Result<TensorId, PlanError> {
        self.node(label, Op::Concat, vec![a, b])
    }

    /// x * factor. See [`Op::Scale`].
    ///
    /// # Errors
    /// Operands that do not fit.
    pub fn scale(&mut self, label: &str, x: TensorId, factor: f32) -> Result<TensorId, PlanError> {
        self.node(label, Op::Scale(Scale { factor }), vec![x])
    }

    /// cap * tanh(x / cap). See [`Op::Softcap`].
    ///
    /// # Errors
    /// Operands that do not fit.
    pub fn softcap(&mut self, label: &str, x: TensorId, cap: f32) -> Result<TensorId, PlanError> {
        self.node(label, Op::Softcap(Softcap { cap }), vec![x])
    }

    /// x * sigmoid(gate). See [`Op::SigmoidGate`].
    ///
    /// # Errors
    /// Operands that do not fit.
    pub fn sigmoid_gate(
        &mut self,
        label: &str,
        x: TensorId,
        gate: TensorId,
    ) -> Result<TensorId, PlanError> {
        self.node(label, Op::SigmoidGate, vec![x, gate])
    }

    /// Some columns of each head. See [`Op::HeadSlice`].
    ///
    /// # Errors
    /// Operands that do not fit.
    pub fn head_slice(
        &mut self,
        label: &str,
        attributes: HeadSlice,
        x: TensorId,
    ) -> Result<TensorId, PlanError> {
        self.node(label, Op::HeadSlice(attributes), vec![x])
    }

    /// A matrix product for each head. See [`Op::HeadMatMul`].
    ///
    /// # Errors
    /// Operands that do not fit.
    pub fn head_matmul(
        &mut self,
        label: &str,
        attributes: HeadMatMul,
        weight: TensorId,
        x: TensorId,
    ) -> Result<TensorId, PlanError> {
        self.node(label, Op::HeadMatMul(attributes), vec![weight, x])
    }

    /// x / |x| in each group of columns. See [`Op::L2Norm`].
    ///
    /// # Errors
    /// Operands that do not fit.
    pub fn l2_norm(
        &mut self,
        label: &str,
        attributes: L2Norm,
        x: TensorId,
    ) -> Result<TensorId, PlanError> {
        self.node(label, Op::L2Norm(attributes), vec![x])
    }

    /// Attention over a compressed cache and its rotated part. See [`Op::LatentAttention`].
    ///
    /// # Errors
    /// Operands that do not fit.
    pub fn latent_attention(
        &mut self,
        label: &str,
        attributes: LatentAttention,
        [q, q_rope]: [TensorId; 2],
        [cache, cache_rope]: [TensorId; 2],
    ) -> Result<TensorId, PlanError> {
        let positions = self.input(InputKind::Positions)?;
        let seq_of = self.input(InputKind::SeqOf)?;
        let pages = self.input(InputKind::Pages)?;
        let reads = vec![q, q_rope, cache, cache_rope, positions, seq_of, pages];
        self.node(label, Op::LatentAttention(attributes), reads)
    }
}
