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

/// Code for GPUs from Ampere on: as it is for Ampere and Hopper, and in a form that drivers translate for others. Or, as
/// CMake has it, for those that `CUDAARCHS` names (`90`, or `80;90`), which takes less time.
fn kernels(out: &Path) -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-env-changed=CUDAARCHS");
    println!("cargo:rerun-if-env-changed=NVCC");
    println!("cargo:rerun-if-env-changed=CUDA_PATH");
    for header in ["attention", "backprop", "draw", "few", "heads", "rows", "tensor", "warp"] {
        println!("cargo:rerun-if-changed=kernels/{header}.h");
    }
    let of_path = env::var_os("CUDA_PATH").map(|path| Path::new(&path).join("bin/nvcc"));
    let nvcc = env::var_os("NVCC").map(PathBuf::from).or(of_path).unwrap_or("nvcc".into());
    let wanted = env::var("CUDAARCHS").unwrap_or_else(|_| "80;90".into());
    let wanted: Vec<&str> = wanted.split(';').collect();
    let mut codes: Vec<String> =
        wanted.iter().map(|arch| format!("-gencode=arch=compute_{arch},code=sm_{arch}")).collect();
    codes.push(format!("-gencode=arch=compute_{0},code=compute_{0}", wanted[0]));
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
                "{} can't be run ({error}): `scripts/cuda-toolchain` lays one out",
                nvcc.display()
            )
        })?;
        if !compiled.status.success() {
            let said = String::from_utf8_lossy(&compiled.stderr);
            return Err(format!("{} failed: {}\n{said}", nvcc.display(), compiled.status).into());
        }
        // What each kernel takes of a GPU, which `scripts/cuda-check` reads.
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
