//! The RoPE table on a device.

use super::device::{CudaError, Device, DeviceBuffer};
use super::interface::RopeAngle;
use crate::nn::decoder::DecoderConfig;

/// Uploads the cosine and the sine of each pair of a head's numbers, at each position: (positions, head_dim / 2, 2).
pub(super) fn upload_rope(
    device: &Device,
    config: &DecoderConfig,
    positions: usize,
) -> Result<DeviceBuffer<RopeAngle>, CudaError> {
    let (frequencies, scale) = config.inverse_frequencies();
    let angle = |position: usize, frequency: f32| {
        let (sine, cosine) = (position as f32 * frequency).sin_cos();
        [cosine * scale, sine * scale]
    };
    let at = |position| frequencies.iter().flat_map(move |&frequency| angle(position, frequency));
    device.upload::<RopeAngle>(&(0..positions).flat_map(at).collect::<Vec<f32>>())
}
