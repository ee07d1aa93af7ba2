//! Turns the contract (`proto/`) into Rust: messages, services, their JSON, and the descriptors
//! that reflection serves. `protox` compiles it, so no `protoc` is needed. And, with the feature `cuda`, the
//! kernels (`kernels/`) into what a GPU runs; that needs `nvcc`.

use prost::Message;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, error::Error, fs};

fn main() -> Result<(), Box<dyn Error>> {
    let out = PathBuf::from(env::var("OUT_DIR")?);
    contract(&out)?;
    if env::var_os("CARGO_FEATURE_CUDA").is_some() {
        kernels(&out)?;
    }
    Ok(())
}

/// Code for GPUs from Ampere on: as it is for Ampere and Hopper, and in a form that drivers translate for others.
fn kernels(out: &Path) -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-env-changed=NVCC");
    println!("cargo:rerun-if-env-changed=CUDA_PATH");
    for header in ["attention", "backprop", "draw", "few", "rows", "tensor", "warp"] {
        println!("cargo:rerun-if-changed=kernels/{header}.h");
    }
    let of_path = env::var_os("CUDA_PATH").map(|path| Path::new(&path).join("bin/nvcc"));
    let nvcc = env::var_os("NVCC").map(PathBuf::from).or(of_path).unwrap_or("nvcc".into());
    for name in ["decoder", "scorer"] {
        let source = format!("kernels/{name}.cu");
        println!("cargo:rerun-if-changed={source}");
        let status = Command::new(&nvcc)
            .args(["-std=c++17", "-O3", "-fatbin"])
            .arg("-gencode=arch=compute_90,code=sm_90")
            .arg("-gencode=arch=compute_80,code=[sm_80,compute_80]")
            .arg("-o")
            .arg(out.join(name).with_extension("fatbin"))
            .arg(source)
            .status();
        let status = status.map_err(|error| {
            format!(
                "{} can't be run ({error}): `scripts/cuda-toolchain` lays one out",
                nvcc.display()
            )
        })?;
        if !status.success() {
            return Err(format!("{} failed: {status}", nvcc.display()).into());
        }
    }
    Ok(())
}

fn contract(out: &Path) -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(["proto/raisonne/v1/rerank.proto"], ["proto"])?;
    let encoded = descriptors.encode_to_vec();
    fs::write(out.join("descriptors.bin"), &encoded)?;
    // Sorted maps: the attributes of an item must reach the models in one order.
    tonic_prost_build::configure()
        .btree_map(".")
        .compile_well_known_types(true)
        .extern_path(".google.protobuf", "::pbjson_types")
        .compile_fds(descriptors)?;
    pbjson_build::Builder::new()
        .register_descriptors(&encoded)?
        .btree_map(["."])
        .emit_fields()
        .build(&[".raisonne.v1"])?;
    Ok(())
}
