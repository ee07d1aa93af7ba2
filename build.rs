//! Compiles the contract (`proto/`) to Rust: messages, services, their JSON, and the descriptors that reflection serves.
//! `protox` compiles it, so no `protoc` is needed. With the feature `cuda`, it also compiles the kernels (`kernels/`) for
//! GPUs, which needs `nvcc`.

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

/// Compiles the kernels for Ampere and Hopper, and as PTX, which drivers compile for later GPUs. `CUDAARCHS`, as in CMake,
/// names other architectures (`90`, or `80;90`).
fn kernels(out: &Path) -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-env-changed=CUDAARCHS");
    println!("cargo:rerun-if-env-changed=NVCC");
    println!("cargo:rerun-if-env-changed=CUDA_PATH");
    for header in
        ["attention", "backprop", "draw", "few", "heads", "interface", "rows", "tensor", "warp"]
    {
        println!("cargo:rerun-if-changed=kernels/{header}.h");
    }
    let in_toolkit = env::var_os("CUDA_PATH").map(|path| Path::new(&path).join("bin/nvcc"));
    let nvcc = env::var_os("NVCC").map(PathBuf::from).or(in_toolkit).unwrap_or("nvcc".into());
    let archs = env::var("CUDAARCHS").unwrap_or_else(|_| "80;90".into());
    let archs: Vec<&str> = archs.split(';').collect();
    let mut codes: Vec<String> =
        archs.iter().map(|arch| format!("-gencode=arch=compute_{arch},code=sm_{arch}")).collect();
    codes.push(format!("-gencode=arch=compute_{0},code=compute_{0}", archs[0]));
    for name in ["decoder", "scorer"] {
        let source = format!("kernels/{name}.cu");
        println!("cargo:rerun-if-changed={source}");
        let compiled = Command::new(&nvcc)
            .args(["-std=c++17", "-O3", "-fatbin", "--threads=0", "-Xptxas=-v"])
            .args(&codes)
            .arg("-o")
            .arg(out.join(name).with_extension("fatbin"))
            .arg(source)
            .output();
        let compiled = compiled.map_err(|error| {
            format!(
                "{} can't be run ({error}): `scripts/cuda-toolchain` installs one",
                nvcc.display()
            )
        })?;
        if !compiled.status.success() {
            let stderr = String::from_utf8_lossy(&compiled.stderr);
            return Err(format!("{} failed: {}\n{stderr}", nvcc.display(), compiled.status).into());
        }
        // Registers and spills of each kernel, which `scripts/cuda-check` reads.
        fs::write(out.join(name).with_extension("ptxas"), compiled.stderr)?;
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
