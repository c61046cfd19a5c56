//! Whether a resource may run: the rules of `inferbench_crds`, which the API server keeps to as well, and those that
//! only the operator can check.

use inferbench_crds::{
    InferenceBenchmark, Scope, Violation, contract::RESERVED_PREFIX, design::Expansion,
    ledger::MAX_TEXT, status::PinnedPlan, validate as validate_spec, violation::Found,
};

use super::{
    build::GPU_RESOURCE,
    overrides,
    request::{self, MOST_BYTES},
    sweep::{Defaults, Sweep},
};

/// A sweep of a resource, or every rule that it breaks. Values that the status has pinned stay as they are, however the
/// operator's defaults have changed since.
///
/// # Errors
/// The rules that it breaks, by field; at least one.
pub fn validate(
    resource: &InferenceBenchmark,
    defaults: &Defaults,
) -> Result<Sweep, Vec<Violation>> {
    let mut found = Found::default();
    found.extend(validate_spec(resource, Scope::Cluster));
    let spec = &resource.spec;
    let runner = &spec.runner;
    let gpu_resource = runner.gpu_resource.as_deref();
    let engines = &spec.design.factors.engine;
    let servers = engines.iter().any(|engine| engine.server.is_some());
    if let Some(patch) = &runner.pod_overrides {
        found.extend(overrides::check(patch, gpu_resource, servers));
    }
    for (index, env) in runner.env.iter().enumerate() {
        // Names that begin with INFERBENCH_ are found already.
        if overrides::is_reserved_env(&env.name, servers) && !env.name.starts_with(RESERVED_PREFIX)
        {
            let advice = match env.name.as_str() {
                "HF_TOKEN" => ": use runner.huggingFaceTokenSecretRef",
                "HF_HUB_CACHE" => ": use runner.modelCache",
                _ if servers => ": the env of an engine's server sets it for that process",
                _ => "",
            };
            found.add(
                format!("spec.runner.env[{index}].name"),
                format!("{:?} is set by the operator{advice}", env.name),
            );
        }
    }
    let gpu = gpu_resource.unwrap_or(GPU_RESOURCE);
    let resources = runner.resources.as_ref();
    let sides = [
        ("limits", resources.and_then(|all| all.limits.as_ref())),
        ("requests", resources.and_then(|all| all.requests.as_ref())),
    ];
    for (side, _) in sides
        .into_iter()
        .filter(|(_, amounts)| amounts.is_some_and(|amounts| amounts.contains_key(gpu)))
    {
        found.add(
            format!("spec.runner.resources.{side}[{gpu}]"),
            "is not allowed: GPUs come from design.factors.gpus",
        );
    }
    if !found.is_empty() {
        return Err(found.all());
    }
    let sweep = sweep(resource, defaults);
    let bytes = request::of_sweep(&sweep, None).len() + MAX_TEXT;
    if bytes > MOST_BYTES {
        let most = MOST_BYTES - MAX_TEXT;
        found.add(
            "spec",
            format!(
                "has {} bytes without runner, and at most {most} can be handed to a pod: write fewer or shorter \
                 entries of design.exclude, arguments of servers, or expectations",
                bytes - MAX_TEXT
            ),
        );
        return Err(found.all());
    }
    Ok(sweep)
}

fn sweep(resource: &InferenceBenchmark, defaults: &Defaults) -> Sweep {
    let spec = resource.spec.clone();
    let expansion = Expansion::new(&spec.design);
    let pinned = resource
        .status
        .as_ref()
        .and_then(|status| status.plan.as_ref())
        .filter(|plan| plan.image.is_some());
    let plan: PinnedPlan = match pinned {
        Some(plan) => plan.clone(),
        None => {
            let image = spec.runner.image.as_ref().unwrap_or(&defaults.image);
            Sweep::pin(&spec, &expansion, image.clone(), Vec::new())
        }
    };
    let metadata = &resource.metadata;
    Sweep {
        name: metadata.name.clone().unwrap_or_default(),
        namespace: metadata.namespace.clone().unwrap_or_default(),
        uid: metadata.uid.clone().unwrap_or_default(),
        generation: metadata.generation.unwrap_or_default(),
        spec,
        plan,
        expansion,
        user: defaults.user,
        light: defaults.light.clone(),
    }
}

#[cfg(test)]
mod tests;
