//! Golden Jobs, and what holds for every one of them.

use inferbench_crds::{
    contract::{API_KEY_VARIABLE, PROGRAM},
    design::Trial,
};
use k8s_openapi::api::{batch::v1::Job, core::v1::Container};

use super::*;
use crate::controller::fixtures::{fresh, sweep};

const CPU: &str = "
design:
  factors:
    model: [{name: tiny, source: {random: {preset: tiny-llama}}}]
    batchSize: [1, 4]
    inputLength: [32]
    outputLength: [16]
    gpus: [0]
  replicates: 2
runner:
  resources: {requests: {cpu: '2', memory: 4Gi}}
  serviceAccountName: bench
results: {store: {persistentVolumeClaim: {claimName: results, path: runs/first/}}}
";

const S3: &str = "
design:
  factors:
    model: [{name: gpt2, source: {huggingFace: {repo: openai-community/gpt2}}}]
    gpus: [1]
runner:
  image: ghcr.io/example/runner:1.2.3
  huggingFaceTokenSecretRef: {name: hf, key: token}
  env: [{name: HTTPS_PROXY, value: 'http://proxy:3128'}]
results:
  store:
    url: s3://bucket/prefix/
    endpoint: http://minio.storage:9000
    region: eu-north-1
    credentialsSecretRef: {name: bucket}
";

const EIGHT: &str = "
design:
  factors:
    model:
      - {name: gpt2, source: {huggingFace: {repo: openai-community/gpt2}}}
      - {name: llama3-8b, source: {random: {preset: llama3-8b}}}
    batchSize: [1, 2]
    inputLength: [128]
    outputLength: [64, 128]
    gpus: [1, 8]
    dtype: [bf16]
runner:
  gpuResource: nvidia.com/gpu.shared
  modelCache: {persistentVolumeClaim: {claimName: models, path: cache}}
  runtimeClassName: nvidia
  priorityClassName: batch
  nodeSelector: {pool: h100}
  tolerations: [{key: nvidia.com/gpu, operator: Exists, effect: NoSchedule}]
  affinity:
    podAntiAffinity:
      requiredDuringSchedulingIgnoredDuringExecution:
        - {topologyKey: rack, labelSelector: {matchLabels: {app: noisy}}}
  resources: {limits: {memory: 256Gi}}
results: {store: {url: 'gs://bucket'}}
execution: {trialsPerJob: 3, trialTimeout: 1500ms, startupTimeout: 10m, retries: 5}
measurement: {warmupDuration: 100ms, minDuration: 1s}
retention: {ttlSecondsAfterFinished: 7200}
";

const KUEUE: &str = "
design:
  factors:
    model: [{name: gpt2, source: {random: {preset: gpt2}}}]
    gpus: [2]
runner: {queueName: research}
results: {store: {url: 'az://container/prefix'}}
execution: {colocation: Allow}
";

const OVERRIDES: &str = "
design:
  factors:
    model: [{name: gpt2, source: {path: /weights/gpt2}}]
    gpus: [1]
runner:
  podOverrides:
    metadata:
      labels: {team: research}
      annotations: {cluster-autoscaler.kubernetes.io/safe-to-evict: 'false'}
    spec:
      schedulerName: binpack
      hostUsers: false
      imagePullSecrets: [{name: registry}]
      securityContext: {runAsUser: 1000}
      affinity:
        podAntiAffinity:
          requiredDuringSchedulingIgnoredDuringExecution:
            - {topologyKey: rack, labelSelector: {matchLabels: {app: noisy}}}
      containers:
        - name: runner
          imagePullPolicy: Always
          env: [{name: RUST_LOG, value: debug}]
          resources: {requests: {cpu: '8'}}
          volumeMounts: [{name: weights, mountPath: /weights, readOnly: true}]
      initContainers:
        - {name: warm, image: 'busybox:1.37', command: [ls, /weights], securityContext: {readOnlyRootFilesystem: false}}
      volumes:
        - {name: weights, persistentVolumeClaim: {claimName: weights}}
results: {store: {url: 's3://bucket'}}
";

const VLLM: &str = "
design:
  factors:
    engine:
      - name: vllm
        server:
          preset: vllm
          image: vllm/vllm-openai:v0.25.1
          args: ['--max-num-batched-tokens=8192']
          env: [{name: VLLM_ATTENTION_BACKEND, value: FLASH_ATTN}]
          startupTimeout: 10m
    parameters: [{name: maxNumSeqs, levels: [64], flag: --max-num-seqs}]
    model: [{name: llama, source: {huggingFace: {repo: meta-llama/Meta-Llama-3-8B}}}]
    concurrency: [1, 32]
    gpus: [2]
runner:
  resources: {requests: {cpu: '16', memory: 64Gi}, limits: {cpu: '16', memory: 64Gi}}
  queueName: research
  env: [{name: HTTPS_PROXY, value: 'http://proxy:3128'}]
  podOverrides:
    spec:
      containers: [{name: runner, env: [{name: RUST_LOG, value: debug}]}]
      initContainers: [{name: warm, image: 'busybox:1.37', command: [ls]}]
results: {store: {url: 's3://bucket', credentialsSecretRef: {name: bucket}}}
execution: {trialsPerJob: 4, colocation: Allow, trialTimeout: 20m, startupTimeout: 30m}
measurement: {remeasureInvalid: 1}
";

const LLAMA_CPP: &str = "
design:
  factors:
    engine:
      - name: llama.cpp
        server: {preset: llamaCpp, image: 'ghcr.io/ggml-org/llama.cpp:server', command: [/app/llama-server]}
    model: [{name: smol, source: {path: /weights/smol.gguf}}]
    requestRate: [0.5, 4]
    gpus: [0]
    dtype: [bf16]
runner:
  resources: {requests: {cpu: '4', memory: 8Gi}}
results: {store: {persistentVolumeClaim: {claimName: results}}}
";

const ENDPOINT: &str = "
design:
  factors:
    engine:
      - {name: own, endpoint: {url: 'http://llama.prod.svc:8000', preset: vllm, model: llama}}
      - name: gateway
        endpoint: {url: 'https://llm.example.com', apiKeySecretRef: {name: gateway, key: token}}
    model: [{name: llama3-8b, source: {huggingFace: {repo: meta-llama/Meta-Llama-3-8B}}}]
    concurrency: [1, 8]
    gpus: [0]
results: {store: {url: 's3://bucket'}}
";

const ALL: [&str; 8] = [CPU, S3, EIGHT, KUEUE, OVERRIDES, VLLM, LLAMA_CPP, ENDPOINT];

fn yaml(job: &Job) -> String {
    serde_saphyr::to_string(job).expect("YAML")
}

fn first(spec: &str, gpus: u32, count: usize) -> Job {
    let sweep = sweep(spec);
    let chosen: Vec<Trial> = sweep
        .expansion
        .trials()
        .filter(|trial| trial.combination.gpus == gpus)
        .filter(|trial| trial.combination.model.name != "llama3-8b")
        .take(count)
        .collect();
    assert_eq!(chosen.len(), count);
    trials(&sweep, &chosen)
}

#[test]
fn golden_trial_on_cpu_with_a_claim() {
    insta::assert_snapshot!(yaml(&first(CPU, 0, 1)));
}

#[test]
fn golden_trial_with_s3() {
    insta::assert_snapshot!(yaml(&first(S3, 1, 1)));
}

#[test]
fn golden_trials_on_eight_gpus() {
    insta::assert_snapshot!(yaml(&first(EIGHT, 8, 3)));
}

#[test]
fn golden_trial_with_kueue() {
    insta::assert_snapshot!(yaml(&first(KUEUE, 2, 1)));
}

#[test]
fn golden_trial_with_overrides() {
    insta::assert_snapshot!(yaml(&first(OVERRIDES, 1, 1)));
}

#[test]
fn golden_trials_of_a_server_on_two_gpus() {
    insta::assert_snapshot!(yaml(&first(VLLM, 2, 2)));
}

#[test]
fn golden_trial_of_a_server_on_cpu() {
    insta::assert_snapshot!(yaml(&first(LLAMA_CPP, 0, 1)));
}

#[test]
fn golden_trial_of_an_endpoint() {
    let sweep = sweep(ENDPOINT);
    let trial = sweep
        .expansion
        .trials()
        .find(|trial| trial.combination.engine.name == "gateway");
    insta::assert_snapshot!(yaml(&trials(&sweep, &[trial.expect("a trial")])));
}

#[test]
fn golden_preflight() {
    insta::assert_snapshot!(yaml(&preflight(&fresh(S3), 1)));
}

#[test]
fn golden_collector() {
    insta::assert_snapshot!(yaml(&collector(&sweep(CPU), "KQg=", 1, 2)));
}

/// Every kind of Job of every spec.
fn every() -> Vec<(Job, Role)> {
    let mut jobs = Vec::new();
    for spec in ALL {
        let sweep = sweep(spec);
        let group: Vec<Trial> = sweep.expansion.trials().take(1).collect();
        jobs.push((preflight(&sweep, 1), Role::Preflight));
        jobs.push((trials(&sweep, &group), Role::Trial));
        jobs.push((collector(&sweep, "", 0, 1), Role::Collector));
    }
    jobs
}

#[test]
fn every_job_is_ours_and_kept_within_the_restricted_standard() {
    for (job, role) in every() {
        let owner = &job.metadata.owner_references.as_ref().expect("an owner")[0];
        assert_eq!(
            (owner.controller, owner.block_owner_deletion),
            (Some(true), None)
        );
        let labels = job.metadata.labels.as_ref().expect("labels");
        assert_eq!(labels[names::MANAGED_BY], names::MANAGER);
        assert_eq!(labels[names::COMPONENT], role.as_str());
        let spec = job.spec.as_ref().expect("a spec");
        assert_eq!(spec.suspend, None, "suspend is Kueue's");
        assert_eq!(
            spec.active_deadline_seconds, None,
            "it would count time in a queue"
        );
        assert_eq!(spec.parallelism, Some(1));
        let pod_labels = spec
            .template
            .metadata
            .as_ref()
            .and_then(|data| data.labels.as_ref());
        for (key, value) in labels {
            assert_eq!(
                pod_labels.and_then(|labels| labels.get(key)),
                Some(value),
                "{key}"
            );
        }
        let pod = spec.template.spec.as_ref().expect("a pod");
        assert_eq!(pod.automount_service_account_token, Some(false));
        assert_eq!(pod.restart_policy.as_deref(), Some("Never"));
        assert_eq!(
            (pod.host_network, pod.host_pid, pod.host_ipc),
            (None, None, None)
        );
        let security = pod.security_context.as_ref().expect("a security context");
        assert_eq!(security.run_as_non_root, Some(true));
        assert_eq!(
            security
                .seccomp_profile
                .as_ref()
                .map(|it| it.type_.as_str()),
            Some("RuntimeDefault")
        );
        for container in pod
            .containers
            .iter()
            .chain(pod.init_containers.iter().flatten())
        {
            let security = container
                .security_context
                .as_ref()
                .expect("a security context");
            assert_eq!(security.allow_privilege_escalation, Some(false));
            assert!(
                container
                    .image
                    .as_ref()
                    .is_some_and(|image| !image.is_empty())
            );
            if container.name != "warm" {
                assert_eq!(security.read_only_root_filesystem, Some(true));
            }
            let drop = security
                .capabilities
                .as_ref()
                .and_then(|it| it.drop.clone());
            assert_eq!(drop, Some(vec!["ALL".to_owned()]));
        }
    }
}

#[test]
fn only_trials_ask_for_gpus_and_shun_each_other() {
    for (job, role) in every() {
        let pod = job.spec.expect("a spec").template.spec.expect("a pod");
        let asks = |container: &Container| {
            let limits = container.resources.as_ref()?.limits.as_ref()?;
            let mut names = limits.keys();
            names.find(|name| name.starts_with("nvidia.com/")).cloned()
        };
        let gpus = pod.containers.iter().find_map(asks).is_some();
        let first = pod.init_containers.iter().flatten().find_map(asks);
        assert_eq!(first, None, "GPUs are for the container that measures");
        if role != Role::Trial {
            assert!(!gpus);
            assert_eq!(pod.runtime_class_name, None);
        }
        let terms = pod
            .affinity
            .and_then(|affinity| affinity.pod_anti_affinity)
            .and_then(|apart| apart.required_during_scheduling_ignored_during_execution)
            .unwrap_or_default();
        let ours = terms
            .iter()
            .filter(|term| {
                term.topology_key == "kubernetes.io/hostname" && term.namespace_selector.is_some()
            })
            .count();
        let queued = job
            .metadata
            .labels
            .expect("labels")
            .contains_key(names::QUEUE);
        // Of these specs, those with a queue allow neighbours.
        assert_eq!(ours, usize::from(role == Role::Trial && !queued));
    }
}

#[test]
fn credentials_are_only_referred_to() {
    let text = yaml(&first(S3, 1, 1));
    assert!(text.contains("secretKeyRef") && text.contains("secretRef"));
    let pod = first(S3, 1, 1)
        .spec
        .expect("a spec")
        .template
        .spec
        .expect("a pod");
    let token = pod.containers[0]
        .env
        .iter()
        .flatten()
        .find(|env| env.name == "HF_TOKEN");
    assert_eq!(token.and_then(|token| token.value.clone()), None);
}

#[test]
fn a_jobs_annotations_hold_the_largest_group() {
    let wide = CPU
        .replace("replicates: 2", "replicates: 20")
        .replace("[1, 4]", &format!("{:?}", (1..=60).collect::<Vec<_>>()))
        + "execution: {trialsPerJob: 1000}\n";
    let sweep = sweep(&wide);
    let most = request::trials_per_job(&sweep);
    assert!((100..1_000).contains(&most), "{most}");
    let group: Vec<Trial> = sweep.expansion.trials().take(most).collect();
    let requests = request::of_trials(&sweep, &group);
    assert!(requests.len() <= request::MOST_BYTES, "{}", requests.len());
    assert_eq!(requests.lines().count(), most);
    assert_eq!(
        request::trials_per_job(&fresh(&wide)),
        most,
        "pinning changes nothing"
    );
}

#[test]
fn the_number_of_chunks_follows_the_design() {
    assert_eq!(chunks(&sweep(S3), 0), 2);
    assert!(chunks(&sweep(EIGHT), 0) <= 3);
    let levels: Vec<u32> = (1..=64).collect();
    let wide = S3.replace(
        "gpus: [1]",
        &format!("gpus: [1]\n    inputLength: {levels:?}\n    outputLength: {levels:?}"),
    );
    let widest = chunks(&sweep(&wide), 0);
    assert!((3..=8).contains(&widest), "{widest}");
    assert!(chunks(&sweep(&wide), 4_096) > widest);
}

#[test]
fn the_same_sweep_makes_the_same_job() {
    for spec in ALL {
        assert_eq!(preflight(&sweep(spec), 1), preflight(&sweep(spec), 1));
    }
}

#[test]
fn the_platform_may_choose_the_user() {
    let mut sweep = sweep(CPU);
    sweep.user = None;
    let trial = sweep.expansion.trials().next().expect("a trial");
    for job in [
        preflight(&sweep, 1),
        trials(&sweep, &[trial]),
        collector(&sweep, "", 0, 1),
    ] {
        let pod = job.spec.expect("a spec").template.spec.expect("a pod");
        let security = pod.security_context.expect("a security context");
        assert_eq!(
            (
                security.run_as_user,
                security.run_as_group,
                security.fs_group
            ),
            (None, None, None)
        );
        assert_eq!(security.run_as_non_root, Some(true));
    }
}

fn runner_and_installer(job: Job) -> (Container, Option<Container>) {
    let pod = job.spec.expect("a spec").template.spec.expect("a pod");
    let mut containers = pod.containers.into_iter();
    let mut before = pod.init_containers.into_iter().flatten();
    (
        containers
            .find(|container| container.name == names::CONTAINER)
            .expect("a runner"),
        before.find(|container| container.name == names::INSTALLER),
    )
}

#[test]
fn only_the_pods_of_servers_have_another_image() {
    for spec in [VLLM, LLAMA_CPP] {
        let sweep = sweep(spec);
        let trial = sweep.expansion.trials().next().expect("a trial");
        let server = trial.combination.engine.server.clone().expect("a server");
        let (runner, installer) = runner_and_installer(trials(&sweep, &[trial]));
        let installer = installer.expect("one that installs");
        assert_eq!(runner.image, server.image);
        assert_eq!(installer.image.as_deref(), Some(sweep.image()));
        assert_eq!(runner.command.as_deref(), Some(&[PROGRAM.to_owned()][..]));
        assert_eq!(
            installer.args.as_deref(),
            Some(&["install".to_owned(), PROGRAM.to_owned()][..])
        );
        let env = installer.env.iter().flatten();
        let names: Vec<&str> = env.map(|env| env.name.as_str()).collect();
        assert_eq!(names, ["NVIDIA_VISIBLE_DEVICES"]);
        assert_eq!(installer.env_from, None, "it needs no credentials");
        // The class Guaranteed is a matter of all containers.
        let without_gpus = |mut container: Container| {
            let resources = container.resources.as_mut()?;
            resources.limits.as_mut()?.remove(GPU_RESOURCE);
            container.resources
        };
        assert_eq!(
            without_gpus(runner).unwrap_or_default().limits,
            installer.resources.unwrap_or_default().limits
        );
        for job in [preflight(&sweep, 1), collector(&sweep, "", 0, 1)] {
            let (runner, installer) = runner_and_installer(job);
            assert_eq!(runner.image.as_deref(), Some(sweep.image()));
            assert_eq!(installer, None);
        }
    }
}

#[test]
fn a_preflight_has_the_keys_of_all_endpoints_and_a_trial_that_of_its_own() {
    let sweep = sweep(ENDPOINT);
    let keys = |job: Job| -> Vec<String> {
        let env = runner_and_installer(job).0.env.expect("variables");
        let names = env.into_iter().map(|env| env.name);
        names
            .filter(|name| name.starts_with(API_KEY_VARIABLE))
            .collect()
    };
    assert_eq!(keys(preflight(&sweep, 1)), ["INFERBENCH_API_KEY_1"]);
    assert!(keys(collector(&sweep, "", 0, 1)).is_empty());
    for trial in sweep.expansion.trials() {
        let own: &[&str] = match trial.combination.engine.name.as_str() {
            "gateway" => &[API_KEY_VARIABLE],
            _ => &[],
        };
        assert_eq!(keys(trials(&sweep, &[trial])), own);
    }
}

#[test]
fn the_deadline_leaves_time_for_the_starts_of_servers() {
    let deadline = |isolation: &str| {
        let measurement = format!("measurement: {{remeasureInvalid: 1, isolation: {isolation}}}");
        let spec = VLLM.replace("measurement: {remeasureInvalid: 1}", &measurement);
        let job = first(&spec, 2, 2);
        let pod = job.spec.expect("a spec").template.spec.expect("a pod");
        pod.active_deadline_seconds
    };
    let others = 1_800 + 2 * 4 * 1_200;
    assert_eq!(deadline("Process"), Some(others + 2 * 4 * 600));
    assert_eq!(deadline("Pod"), Some(others + 2 * 600));
    assert_eq!(deadline("null"), deadline("Pod"), "the default of servers");
}

#[test]
fn the_deadline_leaves_time_for_every_attempt() {
    let deadline = |remeasure: u32| {
        let spec = CPU.to_owned()
            + "execution: {trialTimeout: 10m, startupTimeout: 1h, trialsPerJob: 4}\n"
            + &format!("measurement: {{remeasureInvalid: {remeasure}}}\n");
        let job = first(&spec, 0, 1);
        let pod = job.spec.expect("a spec").template.spec.expect("a pod");
        pod.active_deadline_seconds
    };
    assert_eq!(deadline(0), Some(3_600 + 4 * 600));
    assert_eq!(deadline(2), Some(3_600 + 3 * 4 * 600));
}
