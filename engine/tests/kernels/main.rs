//! The CUDA kernels without a GPU: NVRTC compiles each of their variants, for old and new GPUs, and they compute what
//! they are to, by running their source on the CPU. With a GPU, `src/ops/cuda/tests.rs`.

mod nvrtc;

use std::{
    path::{Path, PathBuf},
    process::Command,
};

const KERNELS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/ops/cuda/kernels.cu");
const FLASH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/ops/cuda/flash.cu");

/// Query heads to a key/value head, and their size: the smallest and the largest of each that there are kernels for,
/// and those of models.
const ATTENTION: [(usize, usize); 8] = [
    (1, 8),
    (8, 8),
    (1, 64),
    (3, 64),
    (4, 64),
    (1, 128),
    (4, 128),
    (8, 256),
];

#[test]
fn nvrtc_compiles_every_variant() {
    let Some(nvrtc) = nvrtc::Nvrtc::open() else {
        eprintln!(
            "skipped: there is no libnvrtc.so.13 or .12; scripts/install-cuda brings one, LD_LIBRARY_PATH names its folder"
        );
        return;
    };
    let source = std::fs::read_to_string(KERNELS).unwrap();
    let flash = std::fs::read_to_string(FLASH).unwrap();
    // The kernels that the launches name.
    let names = [
        "embed",
        "add_bias",
        "silu_mul",
        "row_product",
        "step_product",
        "add_rms_norm",
        "add_layer_norm",
        "softmax_causal",
        "softmax_causal_8",
        "rope_append",
        "rope_append_8",
        "decode_combine",
        "best_logit",
        "take_best",
        "read_1",
        "read_4",
        "read_8",
    ];
    for capability in ["compute_80", "compute_90"] {
        for store in 0..3 {
            let options = [
                format!("--gpu-architecture={capability}"),
                format!("-DSTORE={store}"),
            ];
            let ptx = nvrtc.compile(&source, &options).unwrap();
            for name in names {
                let entry = format!(".entry {name}(");
                assert!(ptx.contains(&entry), "{name} is no kernel of {options:?}");
            }
            for (group, head_dim) in ATTENTION {
                let mut options = options.to_vec();
                options.extend([format!("-DG={group}"), format!("-DD={head_dim}")]);
                let ptx = nvrtc.compile(&source, &options).unwrap();
                assert!(ptx.contains(".entry decode_attention("), "{options:?}");
                let whole = ptx.contains(".entry step_attention(");
                assert_eq!(whole, head_dim >= 16, "{options:?}");
                if store == 0 || ![64, 128].contains(&head_dim) {
                    continue;
                }
                let ptx = nvrtc.compile(&flash, &options).unwrap();
                for name in ["flash_attention", "flash_attention_64", "flash_decode"] {
                    let entry = format!(".entry {name}(");
                    assert!(ptx.contains(&entry), "{name} is no kernel of {options:?}");
                }
            }
        }
    }
    let wrong = nvrtc.compile(&source, &["-DSTORE=0".into(), "-DG=one".into()]);
    assert!(wrong.unwrap_err().contains("error"));
}

#[test]
fn run_on_the_cpu_they_are_what_their_definitions_say() {
    let Some(compiler) = ["c++", "g++", "clang++"].into_iter().find(|compiler| {
        let version = Command::new(compiler).arg("--version").output();
        version.is_ok_and(|output| output.status.success())
    }) else {
        eprintln!("skipped: there is no C++ compiler");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    for (store, group, head_dim) in [(0, 3, 64), (1, 3, 64), (1, 1, 64), (1, 4, 128)] {
        let program = emulator(compiler, folder.path(), (store, group, head_dim));
        let output = Command::new(program).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{said}");
    }
}

fn emulator(
    compiler: &str,
    folder: &Path,
    (store, group, head_dim): (usize, usize, usize),
) -> PathBuf {
    let program = folder.join(format!("emulate-{store}-{group}-{head_dim}"));
    let output = Command::new(compiler)
        .args(["-std=c++20", "-O1", "-w"])
        .arg(format!("-DSTORE={store}"))
        .arg(format!("-DHEADS={group}"))
        .arg(format!("-DWIDTH={head_dim}"))
        .arg(format!("-DKERNELS=\"{KERNELS}\""))
        .arg(format!("-DFLASH=\"{FLASH}\""))
        .arg(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/kernels/emulate.cpp"
        ))
        .arg("-o")
        .arg(&program)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    program
}
