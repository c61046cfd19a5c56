//! Has the linker compress the line tables of a release's program: they are more than half of it. By zlib, which the
//! standard library reads: a panic's backtrace still has files and lines, where by zstd it has neither.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let is = |name: &str, value: &str| env::var(name).is_ok_and(|found| found == value);
    if is("PROFILE", "release") && is("CARGO_CFG_TARGET_OS", "linux") {
        println!("cargo::rustc-link-arg-bins=-Wl,--compress-debug-sections=zlib");
    }
}
