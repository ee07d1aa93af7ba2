//! Rust and the kernels agree: `kernels/interface.h` is what `nn/cuda/interface.rs` says, and each kernel in
//! `kernels/` has the name and the parameters there. It reads sources only, so it needs neither nvcc nor a GPU.

#![expect(clippy::unwrap_used, reason = "a test's helper fails as a test does")]

#[path = "../src/nn/cuda/interface.rs"]
#[expect(
    dead_code,
    clippy::struct_field_names,
    reason = "only the tables are read here, and names are those of the kernels"
)]
mod interface;

use interface::{
    CONSTANTS, HEAD_SHAPES, KERNELS, Parameter, ParameterKind, RECORDS, STRUCTS, Signature,
    WEIGHT_DTYPES,
};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::{env, fs};

const HEADER: &str = "kernels/interface.h";
/// If set, the header is written before it is compared.
const UPDATE: &str = "UPDATE_INTERFACE";

/// A parameter as C declares it: its type without spaces, and its name.
type Declared = (String, String);

/// What a parameter is declared as in a kernel of this name.
fn declared(parameter: &Parameter, kernel: &str) -> Declared {
    let c = match parameter.c {
        "KV" if kernel.contains("float8") => "float8",
        "KV" => "bf16",
        c => c,
    };
    let c = match parameter.kind {
        ParameterKind::Value => c.to_owned(),
        ParameterKind::Read => format!("const {c}*"),
        ParameterKind::Write => format!("{c}*"),
    };
    (c, parameter.name.to_owned())
}

fn header() -> String {
    let mut out = String::from(
        "// Generated from `src/nn/cuda/interface.rs`: `UPDATE_INTERFACE=1 cargo test --test kernels` writes it, and\n\
         // without the variable that test compares it. Don't edit.\n#pragma once\n\n",
    );
    for (name, value) in CONSTANTS {
        match value {
            &u32::MAX => writeln!(out, "static const u32 {name} = 0xffffffffu;").unwrap(),
            value => writeln!(out, "static const u32 {name} = {value};").unwrap(),
        }
    }
    writeln!(out, "\nenum WeightDtype : u32 {{ {} }};", WEIGHT_DTYPES.join(", ")).unwrap();
    for (name, fields) in STRUCTS.iter().chain(RECORDS) {
        writeln!(out, "\nstruct {name} {{").unwrap();
        for field in *fields {
            let (c, field) = declared(field, "");
            let space = if c.ends_with('*') { "" } else { " " };
            writeln!(out, "  {}{space}{field};", c.replace('*', " *")).unwrap();
        }
        out.push_str("};\n");
    }
    out.push_str(
        "\n// Head dimensions, and query heads per KV head, that attention is compiled for.\n",
    );
    out.push_str("#define FOR_EACH_HEAD_SHAPE(DO)");
    for (dim, groups) in HEAD_SHAPES {
        out.push_str(" \\\n ");
        (1..=groups).for_each(|group| write!(out, " DO({dim}, {group})").unwrap());
    }
    out.push_str("\n\n// Kernels that are compiled once.\n#define FOR_EACH_KERNEL(DO)");
    for name in KERNELS.iter().flat_map(|kernel| kernel.names) {
        if !name.contains("DIM") {
            write!(out, " \\\n  DO({name})").unwrap();
        }
    }
    out.push('\n');
    out
}

/// The sources of the kernels, without comments and with every line that a backslash continues joined to the next.
fn sources() -> String {
    let files = fs::read_dir("kernels").unwrap().map(|file| file.unwrap().path());
    let is_source = |path: &Path| path.extension().is_some_and(|ext| ext == "h" || ext == "cu");
    let mut files: Vec<_> = files.filter(|path| is_source(path)).collect();
    files.sort();
    let text: String = files.iter().map(|path| fs::read_to_string(path).unwrap()).collect();
    let lines = text.lines().map(|line| line.split("//").next().unwrap_or_default().trim_end());
    lines.collect::<Vec<_>>().join("\n").replace("\\\n", " ")
}

/// The text with each call of a macro of kernels replaced by its body, whose pasted names keep `DIM` and `GROUP`.
fn expanded(text: &str, name: &str) -> String {
    let define = format!("#define {name}(");
    let begin = text.find(&define).expect("the macro is defined");
    let end = begin + text[begin..].find('\n').expect("a macro ends with its line");
    let (parameters, body) = text[begin + define.len()..end].split_once(')').unwrap();
    let rest = format!("{}{}", &text[..begin], &text[end..]);
    let mut kernels = String::new();
    for (at, call) in rest.match_indices(&format!("{name}(")) {
        let arguments = rest[at + call.len()..].split(')').next().unwrap();
        let mut of_call = body.replace("##", "");
        for (parameter, argument) in parameters.split(',').zip(arguments.split(',')) {
            of_call = of_call.replace(parameter.trim(), argument.trim());
        }
        kernels.push_str(&of_call);
        kernels.push('\n');
    }
    rest + &kernels
}

/// The kernels that a text declares, with their parameters.
fn kernels_of(text: &str) -> BTreeMap<String, Vec<Declared>> {
    const GLOBAL: &str = "extern \"C\" __global__ void";
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut found = BTreeMap::new();
    for (at, _) in words.match_indices(GLOBAL) {
        let mut rest = words[at + GLOBAL.len()..].trim_start();
        if let Some(bounds) = rest.strip_prefix("__launch_bounds__(") {
            rest = bounds[bounds.find(')').unwrap() + 1..].trim_start();
        }
        let (name, rest) = rest.split_once('(').unwrap();
        let parameters = rest.split(')').next().unwrap().split(',');
        let parameters = parameters.map(|parameter| {
            let parameter = parameter.trim();
            let name = parameter.rsplit([' ', '*']).next().unwrap();
            let c = parameter[..parameter.len() - name.len()].replace(" *", "*");
            (c.trim().to_owned(), name.to_owned())
        });
        let before = found.insert(name.trim().to_owned(), parameters.collect());
        assert!(before.is_none(), "`{name}` is declared twice");
    }
    found
}

/// Where kernels differ from their signatures; nothing, if they agree.
fn differences(
    mut found: BTreeMap<String, Vec<Declared>>,
    signatures: &[Signature],
) -> Vec<String> {
    let mut all = Vec::new();
    for signature in signatures {
        for name in signature.names {
            let right: Vec<Declared> =
                signature.parameters.iter().map(|parameter| declared(parameter, name)).collect();
            match found.remove(*name) {
                None => all.push(format!("`{name}` is no kernel")),
                Some(parameters) if parameters.len() != right.len() => {
                    let [c, rust] = [parameters.len(), right.len()];
                    all.push(format!("`{name}` has {c} parameters in C, and {rust} in Rust"));
                }
                Some(parameters) => {
                    let pairs = parameters.into_iter().zip(right);
                    all.extend(pairs.filter(|(c, rust)| c != rust).map(|(c, rust)| {
                        format!(
                            "`{name}` has `{} {}` in C, and `{} {}` in Rust",
                            c.0, c.1, rust.0, rust.1
                        )
                    }));
                }
            }
        }
    }
    all.extend(found.into_keys().map(|name| format!("`{name}` is not in the interface")));
    all
}

#[test]
fn the_header_says_what_rust_says() {
    if env::var_os(UPDATE).is_some() {
        fs::write(HEADER, header()).unwrap();
    }
    let found = fs::read_to_string(HEADER).unwrap();
    assert!(found == header(), "{HEADER} is not what Rust says: {UPDATE}=1 writes it");
}

#[test]
fn every_kernel_has_the_parameters_that_rust_passes() {
    let found = kernels_of(&expanded(&sources(), "ATTEND_TO"));
    assert_eq!(differences(found, KERNELS), Vec::<String>::new());
}

#[test]
fn a_kernel_that_differs_is_found() {
    let signature = KERNELS.iter().find(|kernel| kernel.names == ["embed"]).unwrap();
    let says = |source: &str| differences(kernels_of(source), &[*signature]);
    let right = "extern \"C\" __global__ void __launch_bounds__(8, 2) embed(float *stream, const bf16 *table,\n\
                 const u32 *tokens, u32 width) {";
    assert!(says(right).is_empty());
    for (from, to, expected) in [
        ("const u32 *tokens, u32 width", "u32 width, const u32 *tokens", "`u32 width` in C"),
        ("float *stream", "float *rows", "`float* rows` in C"),
        ("const bf16 *table", "bf16 *table", "`bf16* table` in C"),
        ("const u32 *tokens", "const int *tokens", "`const int* tokens` in C"),
        (", u32 width", "", "has 3 parameters in C, and 4 in Rust"),
        ("embed(", "gather(", "`embed` is no kernel"),
    ] {
        let said = says(&right.replace(from, to));
        assert!(said.iter().any(|line| line.contains(expected)), "{said:?}");
    }
    assert!(differences(kernels_of(right), &[])[0].contains("not in the interface"));
}
