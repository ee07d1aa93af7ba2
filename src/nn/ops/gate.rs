//! `silu(gate) · up` in one pass over memory each way (SwiGLU).

use super::widened::apply2;
use super::{TASK_NUMBERS, is_fast, numbers, read};
use crate::nn::simd::{exp, vectorised};
use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};
use candle_nn::ops::silu;
use rayon::prelude::*;

struct SiluGateOp;

/// `silu(gate) · up`
pub fn gate(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    if is_fast(gate) && is_fast(up) {
        return apply2(&gate.contiguous()?, &up.contiguous()?, SiluGateOp);
    }
    composed(gate, up)
}

fn composed(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    silu(gate)? * up
}

impl CustomOp2 for SiluGateOp {
    fn name(&self) -> &'static str {
        "gate"
    }

    fn cpu_fwd(
        &self,
        gate: &CpuStorage,
        gate_layout: &Layout,
        up: &CpuStorage,
        up_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (gate, up) = (numbers(gate, gate_layout)?, numbers(up, up_layout)?);
        let mut out = vec![0.0; gate.len()];
        let inputs = gate.par_chunks(TASK_NUMBERS).zip(up.par_chunks(TASK_NUMBERS));
        out.par_chunks_mut(TASK_NUMBERS).zip(inputs).for_each(|(out, (gate, up))| {
            vectorised(|| {
                for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
                    *out = gate * up / (1.0 + exp(-gate));
                }
            });
        });
        Ok((CpuStorage::F32(out), gate_layout.shape().clone()))
    }

    fn bwd(
        &self,
        gate: &Tensor,
        up: &Tensor,
        _out: &Tensor,
        upstream: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (to_gate, to_up) = read([gate, up, upstream], |[gate, up, upstream]| {
            let (mut to_gate, mut to_up) = (vec![0.0; gate.len()], vec![0.0; gate.len()]);
            let outputs =
                to_gate.par_chunks_mut(TASK_NUMBERS).zip(to_up.par_chunks_mut(TASK_NUMBERS));
            let inputs = gate.par_chunks(TASK_NUMBERS).zip(up.par_chunks(TASK_NUMBERS));
            let inputs = inputs.zip(upstream.par_chunks(TASK_NUMBERS));
            outputs.zip(inputs).for_each(|((to_gate, to_up), ((gate, up), upstream))| {
                vectorised(|| {
                    let outputs = to_gate.iter_mut().zip(to_up);
                    for ((outputs, inputs), upstream) in
                        outputs.zip(gate.iter().zip(up)).zip(upstream)
                    {
                        let ((to_gate, to_up), (gate, up)) = (outputs, inputs);
                        let open = 1.0 / (1.0 + exp(-gate));
                        *to_gate = upstream * up * open * (1.0 + gate * (1.0 - open));
                        *to_up = upstream * gate * open;
                    }
                });
            });
            (to_gate, to_up)
        })?;
        let tensor = |values| Tensor::from_vec(values, gate.shape(), gate.device());
        Ok((Some(tensor(to_gate)?), Some(tensor(to_up)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{assert_twins, tensor};
    use super::*;

    #[test]
    fn the_gate_is_candles() {
        let wide = |salt| (tensor(&[3, 7, 1001], salt) * 9.0).unwrap();
        let fast = |[g, u]: &[Tensor; 2]| gate(g, u);
        assert_twins([wide(1), wide(2)], fast, |[g, u]| composed(g, u), 1e-5);
    }
}
