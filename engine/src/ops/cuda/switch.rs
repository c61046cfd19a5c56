//! Parts of the GPU's work that can be left to what they replace, so that one run measures with and without.

use std::collections::BTreeSet;
use std::sync::LazyLock;

/// The names in `INFERBENCH_GPU_WITHOUT`, between commas.
static WITHOUT: LazyLock<BTreeSet<String>> = LazyLock::new(|| {
    let names = std::env::var("INFERBENCH_GPU_WITHOUT").unwrap_or_default();
    names.split(',').map(str::to_owned).collect()
});

/// Whether the part of this name is switched off for the whole process: `flash` (attention of prompts by one kernel),
/// `tensor-decode` (that of steps on tensor cores), `fused` (a step by few kernels), `overlap` (kernels that start before
/// the one before has ended).
pub(crate) fn off(part: &str) -> bool {
    WITHOUT.contains(part)
}
