//! Refusals and their texts.

use super::*;

fn refused(yaml: &str) -> Vec<String> {
    refused_of(yaml, false)
}

fn refused_of(yaml: &str, servers: bool) -> Vec<String> {
    let value: Value = serde_saphyr::from_str(yaml).expect("YAML");
    check(&value, None, servers)
        .iter()
        .map(ToString::to_string)
        .collect()
}

#[test]
fn what_is_harmless_passes() {
    let fine = "
metadata: {labels: {team: a}, annotations: {a.b/c: d}}
spec:
  hostUsers: false
  dnsPolicy: ClusterFirst
  terminationGracePeriodSeconds: 60
  securityContext: {runAsUser: 1000, fsGroup: 1000, runAsNonRoot: true}
  volumes: [{name: x, emptyDir: {}}]
  containers:
    - name: runner
      env: [{name: A, value: b}]
      resources: {limits: {memory: 1Gi}}
      volumeMounts: [{name: x, mountPath: /tmp/x}, {name: x, mountPath: /var/cache/inferbench/x}]
      securityContext: {readOnlyRootFilesystem: false}
    - {name: sidecar, image: a, command: [b]}
";
    assert_eq!(refused(fine), [""; 0]);
    assert_eq!(refused("{}"), [""; 0]);
}

#[test]
fn what_is_no_pod_template_is_refused_with_its_field() {
    assert_eq!(
        refused("spec: {containerz: [], containers: [{name: runner, imagePullPolice: Never}]}"),
        [
            "spec.runner.podOverrides.spec.containers[0].imagePullPolice: is not a field of a pod template",
            "spec.runner.podOverrides.spec.containerz: is not a field of a pod template",
        ]
    );
    let wrong = refused("spec: {containers: 3}");
    assert!(
        wrong[0].starts_with("spec.runner.podOverrides: is no patch of a pod template: "),
        "{wrong:?}"
    );
    assert_eq!(
        refused("spec: {affinity: null}"),
        [
            "spec.runner.podOverrides.spec.affinity: is null: an override adds or replaces, it cannot remove"
        ]
    );
    assert_eq!(
        refused("[]"),
        ["spec.runner.podOverrides: is not an object"]
    );
}

#[test]
fn each_forbidden_field_is_named() {
    let cases = [
        ("metadata: {name: x}", "metadata.name"),
        (
            "metadata: {labels: {inferbench.dev/uid: x}}",
            "metadata.labels[inferbench.dev/uid]",
        ),
        (
            "metadata: {labels: {app.kubernetes.io/managed-by: x}}",
            "metadata.labels[app.kubernetes.io/managed-by]",
        ),
        (
            "metadata: {annotations: {inferbench.dev/requests: x}}",
            "metadata.annotations[inferbench.dev/requests]",
        ),
        (
            "metadata: {labels: {kueue.x-k8s.io/queue-name: x}}",
            "metadata.labels[kueue.x-k8s.io/queue-name]",
        ),
        ("spec: {hostNetwork: true}", "spec.hostNetwork"),
        ("spec: {hostPID: true}", "spec.hostPID"),
        ("spec: {hostIPC: true}", "spec.hostIPC"),
        ("spec: {hostUsers: true}", "spec.hostUsers"),
        ("spec: {restartPolicy: OnFailure}", "spec.restartPolicy"),
        (
            "spec: {activeDeadlineSeconds: 1}",
            "spec.activeDeadlineSeconds",
        ),
        ("spec: {nodeName: a}", "spec.nodeName"),
        ("spec: {serviceAccountName: a}", "spec.serviceAccountName"),
        (
            "spec: {volumes: [{name: a, hostPath: {path: /}}]}",
            "spec.volumes[0].hostPath",
        ),
        (
            "spec: {volumes: [{name: inferbench-tmp, emptyDir: {}}]}",
            "spec.volumes[0].name",
        ),
        ("spec: {volumes: [{emptyDir: {}}]}", "spec.volumes[0].name"),
        (
            "spec: {securityContext: {runAsUser: 0}}",
            "spec.securityContext.runAsUser",
        ),
        (
            "spec: {securityContext: {runAsNonRoot: false}}",
            "spec.securityContext.runAsNonRoot",
        ),
        (
            "spec: {securityContext: {supplementalGroups: [0]}}",
            "spec.securityContext.supplementalGroups",
        ),
        (
            "spec: {securityContext: {seccompProfile: {type: Unconfined}}}",
            "spec.securityContext.seccompProfile.type",
        ),
        (
            "spec: {securityContext: {sysctls: [{name: a, value: b}]}}",
            "spec.securityContext.sysctls",
        ),
        (
            "spec: {containers: [{image: a}]}",
            "spec.containers[0].name",
        ),
        (
            "spec: {containers: [{name: runner, image: a}]}",
            "spec.containers[0].image",
        ),
        (
            "spec: {containers: [{name: runner, command: [a]}]}",
            "spec.containers[0].command",
        ),
        (
            "spec: {containers: [{name: runner, args: [a]}]}",
            "spec.containers[0].args",
        ),
        (
            "spec: {containers: [{name: runner, envFrom: [{secretRef: {name: a}}]}]}",
            "spec.containers[0].envFrom",
        ),
        (
            "spec: {containers: [{name: runner, env: [{name: INFERBENCH_X, value: a}]}]}",
            "spec.containers[0].env[0].name",
        ),
        (
            "spec: {containers: [{name: runner, env: [{name: HF_TOKEN, value: a}]}]}",
            "spec.containers[0].env[0].name",
        ),
        (
            "spec: {containers: [{name: runner, terminationMessagePath: /x}]}",
            "spec.containers[0].terminationMessagePath",
        ),
        (
            "spec: {containers: [{name: a, securityContext: {privileged: true}}]}",
            "spec.containers[0].securityContext.privileged",
        ),
        (
            "spec: {initContainers: [{name: a, securityContext: {allowPrivilegeEscalation: true}}]}",
            "spec.initContainers[0].securityContext.allowPrivilegeEscalation",
        ),
        (
            "spec: {containers: [{name: runner, securityContext: {capabilities: {add: [SYS_ADMIN]}}}]}",
            "spec.containers[0].securityContext.capabilities",
        ),
        (
            "spec: {containers: [{name: runner, securityContext: {procMount: Unmasked}}]}",
            "spec.containers[0].securityContext.procMount",
        ),
        (
            "spec: {containers: [{name: a, ports: [{containerPort: 1, hostPort: 1}]}]}",
            "spec.containers[0].ports[0].hostPort",
        ),
        (
            "spec: {containers: [{name: a, resources: {limits: {nvidia.com/gpu: '1'}}}]}",
            "spec.containers[0].resources.limits[nvidia.com/gpu]",
        ),
        (
            "spec: {initContainers: [{name: runner}]}",
            "spec.initContainers[0].name",
        ),
    ];
    for (yaml, field) in cases {
        let found = refused(yaml);
        let start = format!("spec.runner.podOverrides.{field}: ");
        assert!(
            found.len() == 1 && found[0].starts_with(&start),
            "{yaml}: {found:?}"
        );
    }
}

#[test]
fn the_pods_of_servers_have_more_that_is_the_operators() {
    let cases = [
        "spec: {initContainers: [{name: inferbench-install, image: a}]}",
        "spec: {containers: [{name: inferbench-install, image: a}]}",
        "spec: {containers: [{name: runner, env: [{name: VLLM_CACHE_ROOT, value: /a}]}]}",
        "spec: {containers: [{name: runner, volumeMounts: [{name: a, mountPath: /opt}]}]}",
        "spec: {containers: [{name: runner, volumeMounts: [{name: a, mountPath: /opt/inferbench/inferbench}]}]}",
        "spec: {containers: [{name: runner, volumeMounts: [{name: a, mountPath: /var/cache/engine}]}]}",
    ];
    for yaml in cases {
        assert_eq!(refused_of(yaml, true).len(), 1, "{yaml}");
        assert_eq!(refused_of(yaml, false), [""; 0], "{yaml}");
    }
    let kept = "spec: {containers: [{name: runner, volumeMounts: [{name: a, mountPath: /var/cache/engine/vllm}]}]}";
    assert_eq!(refused_of(kept, true), [""; 0]);
}

#[test]
fn nothing_is_mounted_over_what_the_operator_mounts() {
    for path in [
        "/",
        "/tmp",
        "/tmp/",
        "//tmp",
        "/var",
        "/var/run/inferbench/x",
        "/dev/shm",
        "/a/../tmp",
    ] {
        let yaml = format!(
            "spec: {{containers: [{{name: runner, volumeMounts: [{{name: a, mountPath: {path}}}]}}]}}"
        );
        assert_eq!(refused(&yaml).len(), 1, "{path}");
    }
}
