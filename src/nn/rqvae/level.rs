//! One level of codes in training: assignment, updates and resets of dead codes.

use super::codebook::Codebook;
use super::config::RqVaeConfig;
use candle_core::{D, Device, Result, Tensor, Var};
use candle_nn::ops;
use rand_chacha::ChaCha8Rng;

/// A level in training.
pub(super) struct QuantizerLevel {
    codebook: Codebook,
    /// The codes (codes, width) as a variable, if they follow a gradient.
    variable: Option<Var>,
    /// Batches since each code last had a row.
    idle: Vec<usize>,
}

/// The codes that a level assigned to a batch.
pub(super) struct Assigned {
    /// The input residuals (batch, width).
    rows: Vec<f32>,
    /// The code of each, and its squared distance.
    nearest: Vec<(usize, f32)>,
}

// === impl QuantizerLevel ===

impl QuantizerLevel {
    /// Initialises a level on residuals, and leaves their remainders in place.
    pub fn new(residuals: &mut [f32], plan: &RqVaeConfig, rng: &mut ChaCha8Rng) -> Result<Self> {
        let (codes, width) = (plan.codes, plan.width);
        let codebook = if plan.techniques.kmeans {
            Codebook::of(residuals, codes, width, rng)
        } else {
            Codebook::random(codes, width, rng)
        };
        let nearest = codebook.assign(residuals);
        for (row, (code, _)) in residuals.chunks_exact_mut(width).zip(nearest) {
            codebook.subtract(code, row);
        }
        let variable = || Var::from_slice(codebook.values(), (codes, width), &Device::Cpu);
        let variable = (!plan.techniques.ema).then(variable).transpose()?;
        Ok(Self { codebook, variable, idle: vec![0; codes] })
    }

    pub fn codebook(&self) -> &Codebook {
        &self.codebook
    }

    /// The codebook as a variable, if it follows a gradient.
    pub fn variable(&self) -> Option<&Var> {
        self.variable.as_ref()
    }

    /// The nearest code of each residual (batch, width).
    pub fn assign(&self, residual: &Tensor) -> Result<Assigned> {
        let rows: Vec<f32> = residual.flatten_all()?.to_vec1()?;
        let nearest = self.codebook.assign(&rows);
        Ok(Assigned { rows, nearest })
    }

    /// (batch, width): the vector of each row's code.
    pub fn vectors(&self, held: &Assigned) -> Result<Tensor> {
        if let Some(variable) = &self.variable {
            return rows(variable, &held.nearest.iter().map(|n| n.0 as u32).collect::<Vec<_>>());
        }
        let values = held.nearest.iter().flat_map(|&(code, _)| self.codebook.row(code));
        let shape = (held.nearest.len(), held.rows.len() / held.nearest.len());
        Tensor::from_vec(values.copied().collect(), shape, &Device::Cpu)
    }

    /// C · Σ_j p_j², where p is the mean soft assignment: 1 if all codes are used alike, C if only one is.
    pub fn unevenness(&self, residual: &Tensor) -> Result<Tensor> {
        let codes = if let Some(variable) = &self.variable {
            variable.as_tensor().clone()
        } else {
            let shape = (self.codebook.len(), residual.dim(1)?);
            Tensor::from_slice(self.codebook.values(), shape, &Device::Cpu)?
        };
        // −|r − e|² without |r|², which is the same for all codes of a row.
        let products = (residual.matmul(&codes.t()?)? * 2.0)?;
        let nearness = products.broadcast_sub(&codes.sqr()?.sum(D::Minus1)?)?;
        let shares = ops::softmax(&nearness, D::Minus1)?.mean(0)?;
        shares.sqr()?.sum_all()? * self.codebook.len() as f64
    }

    /// Updates the codes after a batch, and resets dead ones.
    pub fn follow(&mut self, held: &Assigned, plan: &RqVaeConfig) -> Result<()> {
        let codes: Vec<usize> = held.nearest.iter().map(|&(code, _)| code).collect();
        if let Some(variable) = &self.variable {
            let values = variable.flatten_all()?.to_vec1()?;
            self.codebook = Codebook::new(values, variable.dim(1)?);
        } else {
            self.codebook.move_to_means(&held.rows, &codes, plan.decay);
        }
        for idle in &mut self.idle {
            *idle += 1;
        }
        for code in codes {
            self.idle[code] = 0;
        }
        if plan.techniques.reset
            && self.reset(held, plan.reset_after)
            && let Some(variable) = &self.variable
        {
            variable.set(&Tensor::from_slice(
                self.codebook.values(),
                variable.shape(),
                &Device::Cpu,
            )?)?;
        }
        Ok(())
    }

    /// Resets each dead code to a residual of its own, the farthest from its code first. Returns whether there was any.
    fn reset(&mut self, held: &Assigned, after: usize) -> bool {
        let dead: Vec<usize> =
            (0..self.idle.len()).filter(|&code| self.idle[code] >= after).collect();
        if dead.is_empty() {
            return false;
        }
        let width = held.rows.len() / held.nearest.len();
        let mut hardest: Vec<usize> = (0..held.nearest.len()).collect();
        hardest.sort_by(|&a, &b| held.nearest[b].1.total_cmp(&held.nearest[a].1));
        for (&code, row) in dead.iter().zip(hardest) {
            self.codebook.put(code, &held.rows[row * width..][..width]);
            self.idle[code] = 0;
        }
        true
    }
}

/// Selected rows of a table.
pub(super) fn rows(table: &Tensor, chosen: &[u32]) -> Result<Tensor> {
    table.index_select(&Tensor::from_slice(chosen, chosen.len(), &Device::Cpu)?, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_code_is_reset_to_the_worst_residual() {
        let mut level = QuantizerLevel {
            codebook: Codebook::new(vec![0.0, 50.0, 60.0], 1),
            variable: None,
            idle: vec![0, 3, 2],
        };
        let held = Assigned { rows: vec![1.0, -4.0], nearest: vec![(0, 1.0), (0, 16.0)] };
        assert!(level.reset(&held, 3));
        assert_eq!(level.codebook, Codebook::new(vec![0.0, -4.0, 60.0], 1));
        assert_eq!(level.idle, [0, 0, 2]);
        assert!(!level.reset(&held, 3));
    }
}
