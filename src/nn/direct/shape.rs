//! The sizes of the direct path, and the names and dimensions of its tensors.

use crate::nn::shape::Tensors;
use crate::nn::{Weights, WeightsError};
use serde::{Deserialize, Serialize};

/// Inputs of a direct path, at most.
const INPUTS_MAX: usize = 512;
/// Width of its hidden layer, at most.
const HIDDEN_MAX: usize = 1_024;
/// Its members, at most.
const MEMBERS_MAX: usize = 16;

/// The sizes of a direct path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DirectShape {
    /// Features of a candidate (F). Each is read twice: standardised, and z-scored within its slate.
    pub inputs: usize,
    /// Width of the hidden layer (H).
    pub hidden: usize,
    /// Networks whose logits are averaged.
    pub members: usize,
}

// === impl DirectShape ===

impl DirectShape {
    /// Checks the sizes; the error names the one that is wrong.
    pub fn check(&self) -> Result<(), WeightsError> {
        let sizes = [
            ("inputs", self.inputs, INPUTS_MAX),
            ("hidden", self.hidden, HIDDEN_MAX),
            ("members", self.members, MEMBERS_MAX),
        ];
        for (name, size, most) in sizes {
            if size == 0 || size > most {
                let why = format!("`{name}` of the direct path is {size}, not 1 to {most}");
                return Err(WeightsError::Shape(why));
            }
        }
        Ok(())
    }

    /// The names and dimensions of all tensors.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let mut all = vec![("mean".into(), vec![self.inputs])];
        all.push(("deviation".into(), vec![self.inputs]));
        for member in 0..self.members {
            let named = |(name, dims)| (format!("{}.{name}", Self::member(member)), dims);
            all.extend(self.member_tensors().into_iter().map(named));
        }
        all
    }

    /// The prefix of a member's tensors.
    pub fn member(index: usize) -> String {
        format!("members.{index}")
    }

    /// The names and dimensions of one member's tensors.
    pub fn member_tensors(&self) -> Vec<(String, Vec<usize>)> {
        let mut all = Tensors(vec![("linear.weight".into(), vec![1, 2 * self.inputs])]);
        all.linear("hidden", 2 * self.inputs, self.hidden);
        all.norm("norm", self.hidden);
        all.linear("out", self.hidden, 1);
        all.0
    }

    /// Initial weights of every member, with a mean of 0 and a deviation of 1 of each feature.
    pub fn random(&self, seed: u64) -> Weights {
        let mut weights = Weights::default();
        weights.insert("mean", &[self.inputs], vec![0.0; self.inputs]);
        weights.insert("deviation", &[self.inputs], vec![1.0; self.inputs]);
        for member in 0..self.members {
            weights.insert_all(&Self::member(member), &self.random_member(seed + member as u64));
        }
        weights
    }

    /// Initial weights of one member: the same seed gives the same weights on every machine.
    pub fn random_member(&self, seed: u64) -> Weights {
        Weights::drawn(&self.member_tensors(), seed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_that_do_not_fit_are_named() {
        let good = DirectShape { inputs: 3, hidden: 4, members: 2 };
        good.check().unwrap();
        for (wrong, says) in [
            (DirectShape { inputs: 0, ..good }, "`inputs` of the direct path is 0, not 1 to 512"),
            (
                DirectShape { inputs: 513, ..good },
                "`inputs` of the direct path is 513, not 1 to 512",
            ),
            (DirectShape { hidden: 0, ..good }, "`hidden` of the direct path is 0, not 1 to 1024"),
            (
                DirectShape { members: 17, ..good },
                "`members` of the direct path is 17, not 1 to 16",
            ),
        ] {
            assert_eq!(wrong.check().unwrap_err().to_string(), says);
        }
    }

    #[test]
    fn members_have_tensors_of_their_own() {
        let names = |members| -> Vec<String> {
            let shape = DirectShape { inputs: 3, hidden: 4, members };
            shape.tensors().into_iter().map(|(name, _)| name).collect()
        };
        assert_eq!(names(2).len(), 2 + 2 * 7);
        assert!(names(2).contains(&"members.1.norm.weight".to_owned()));
    }
}
