//! Independent random streams.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// The purpose of a stream. Streams of different purposes are independent.
#[derive(Clone, Copy, Debug)]
pub enum Purpose {
    /// Collections and products.
    Catalogue = 1,
    /// A shopper's persona.
    Persona = 2,
    /// The events of one visit.
    Visit = 3,
    /// Which products are on sale in a week.
    Sale = 4,
}

/// The stream of `purpose` for the pair (`who`, `when`). All four numbers are ChaCha's key, so any stream
/// can be opened at any time. Nothing has to be stored.
pub fn stream(seed: u64, purpose: Purpose, who: u64, when: u64) -> ChaCha8Rng {
    let mut key = [0; 32];
    for (bytes, word) in key.chunks_exact_mut(8).zip([seed, purpose as u64, who, when]) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    ChaCha8Rng::from_seed(key)
}

/// One of `options`, which is not empty.
pub fn one<T: Copy>(rng: &mut impl Rng, options: &[T]) -> T {
    options[rng.random_range(0..options.len())]
}

/// An index drawn in proportion to `weights` (each ≥ 0), or `None` when all are zero.
pub fn weighted(rng: &mut impl Rng, weights: &[f32]) -> Option<usize> {
    let total: f32 = weights.iter().sum();
    let mut left = rng.random::<f32>() * total;
    for (index, &weight) in weights.iter().enumerate() {
        if weight > 0.0 && left < weight {
            return Some(index);
        }
        left -= weight;
    }
    // By rounding, the loop may end without a choice.
    weights.iter().rposition(|&weight| weight > 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_repeat_and_differ() {
        let first = |who, when| stream(7, Purpose::Visit, who, when).random::<u64>();
        assert_eq!(first(1, 2), first(1, 2));
        assert_ne!(first(1, 2), first(2, 1));
        assert_ne!(first(1, 2), stream(8, Purpose::Visit, 1, 2).random::<u64>());
    }

    #[test]
    fn a_draw_follows_its_weights() {
        let mut rng = stream(1, Purpose::Visit, 0, 0);
        let mut counts = [0; 3];
        for _ in 0..3_000 {
            counts[weighted(&mut rng, &[1.0, 0.0, 2.0]).unwrap()] += 1;
        }
        assert_eq!(counts[1], 0);
        assert!((900..1_100).contains(&counts[0]), "{counts:?}");
        assert_eq!(weighted(&mut rng, &[0.0, 0.0]), None);
    }
}
