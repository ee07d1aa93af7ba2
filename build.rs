//! Compiles the contract (`proto/`) to Rust: messages, services, their JSON, and the descriptors that reflection serves.
//! `protox` compiles it, so no `protoc` is needed. With the feature `cuda`, it also compiles the kernels (`kernels/`) for
//! GPUs, which needs `nvcc`.

use prost::Message;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, error::Error, fs};

/// The contract's package, and the stem of the files that are generated from it.
const PACKAGE: &str = "raisonne.v1";

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
        .compile_fds(descriptors.clone())?;
    let own = descriptors.file.iter().filter(|file| file.package() == PACKAGE);
    let enums: Vec<_> = own.flat_map(|file| &file.enum_type).collect();
    pbjson_build::Builder::new()
        .register_descriptors(&encoded)?
        .btree_map(["."])
        .emit_fields()
        .exclude(enums.iter().map(|listed| format!(".{PACKAGE}.{}", listed.name())))
        .build(&[format!(".{PACKAGE}")])?;
    let json = out.join(PACKAGE).with_added_extension("serde.rs");
    fs::write(&json, null_is_absent(fs::read_to_string(&json)?)?)?;
    let enums = enums.iter().map(|listed| {
        let values = listed.value.iter().map(|value| (value.name(), value.number()));
        enum_json(listed.name(), &values.collect::<Vec<_>>())
    });
    let enums: String = enums.collect();
    fs::write(out.join(PACKAGE).with_added_extension("enums.rs"), enums)?;
    Ok(())
}

/// Lets the generated code read `null` as an absent field, as JSON of proto3 demands. `pbjson-build` does so for
/// messages and optional fields only.
fn null_is_absent(mut code: String) -> Result<String, Box<dyn Error>> {
    const NUMBER: &str = "::pbjson::private::NumberDeserialize<_>";
    const MAP: &str = "std::collections::BTreeMap<_, _>";
    let reads = [
        (
            "Some(map_.next_value()?)".to_owned(),
            "map_.next_value::<::std::option::Option<_>>()?".to_owned(),
        ),
        (
            format!("Some(map_.next_value::<{NUMBER}>()?.0)"),
            format!("map_.next_value::<::std::option::Option<{NUMBER}>>()?.map(|x| x.0)"),
        ),
        (
            format!("map_.next_value::<{MAP}>()?"),
            format!("map_.next_value::<::std::option::Option<{MAP}>>()?.unwrap_or_default()"),
        ),
    ];
    for (given, wanted) in reads {
        if !code.contains(&given) {
            return Err(format!("pbjson-build no longer writes `{given}`").into());
        }
        code = code.replace(&given, &wanted);
    }
    Ok(code)
}

/// The JSON of an enum: written with its prefix, read as `api/enum_names.rs` says.
fn enum_json(name: &str, values: &[(&str, i32)]) -> String {
    format!(
        "impl serde::Serialize for {name} {{
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {{
        serializer.serialize_str(self.as_str_name())
    }}
}}
impl<'de> serde::Deserialize<'de> for {name} {{
    fn deserialize<D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> std::result::Result<Self, D::Error> {{
        let number = super::enum_names::number(deserializer, &{values:?})?;
        Ok(Self::try_from(number).unwrap_or_default())
    }}
}}
"
    )
}
