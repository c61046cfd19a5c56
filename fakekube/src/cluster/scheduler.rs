//! The scheduler's decision: the node for a pod, or why there is none. Pure, in the words of Kubernetes' scheduler.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::{
    api::core::v1::{Container, Node, NodeSelectorTerm, Pod, PodAffinityTerm, Taint, Toleration},
    apimachinery::pkg::api::resource::Quantity,
};

use super::{
    pod::has_ended,
    selector::{Labels, meets, selects, thousandths},
};

/// A node, and the pods on it.
#[derive(Clone, Debug)]
pub struct Place<'a> {
    /// The node.
    pub node: &'a Node,
    /// The pods that were given to it.
    pub pods: Vec<&'a Pod>,
}

/// The node for a pod: of those that it fits, the one with the fewest pods. `missing` are its claims that do not exist.
///
/// # Errors
/// The message of the condition `PodScheduled`.
pub fn place(pod: &Pod, places: &[Place<'_>], missing: &[String]) -> Result<String, String> {
    if places.is_empty() {
        return Err("no nodes available to schedule pods".into());
    }
    if let Some(claim) = missing.first() {
        return Err(format!(
            "0/{} nodes are available: persistentvolumeclaim \"{claim}\" not found.",
            places.len()
        ));
    }
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    let mut best: Option<(usize, &str)> = None;
    for place in places {
        let against = objections(pod, place, places);
        if against.is_empty() {
            let name = place.node.metadata.name.as_deref().unwrap_or_default();
            let rank = (running(place).count(), name);
            best = Some(best.map_or(rank, |best| best.min(rank)));
        }
        for reason in against {
            *reasons.entry(reason).or_default() += 1;
        }
    }
    if let Some((_, name)) = best {
        return Ok(name.to_owned());
    }
    let reasons: BTreeSet<String> = reasons
        .into_iter()
        .map(|(reason, count)| format!("{count} {reason}"))
        .collect();
    let reasons: Vec<String> = reasons.into_iter().collect();
    Err(format!(
        "0/{} nodes are available: {}.",
        places.len(),
        reasons.join(", ")
    ))
}

fn running<'a>(place: &'a Place<'a>) -> impl Iterator<Item = &'a Pod> {
    place.pods.iter().copied().filter(|pod| !has_ended(pod))
}

/// The objections to a node. Its properties come first; only where they fit is there a look at its room.
fn objections(pod: &Pod, place: &Place<'_>, places: &[Place<'_>]) -> Vec<String> {
    let node = place.node;
    let spec = node.spec.clone().unwrap_or_default();
    let tolerations = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.tolerations.as_deref())
        .unwrap_or_default();
    if spec.unschedulable == Some(true) {
        return vec!["node(s) were unschedulable".into()];
    }
    let taints = spec.taints.unwrap_or_default();
    let untolerated = taints
        .iter()
        .filter(|taint| taint.effect != "PreferNoSchedule")
        .find(|taint| {
            !tolerations
                .iter()
                .any(|toleration| tolerates(toleration, taint))
        });
    if let Some(taint) = untolerated {
        let value = taint.value.as_deref().unwrap_or_default();
        return vec![format!(
            "node(s) had untolerated taint {{{}: {value}}}",
            taint.key
        )];
    }
    if !is_selected(pod, node) {
        return vec!["node(s) didn't match Pod's node affinity/selector".into()];
    }
    let lacking = lacking(pod, place);
    if !lacking.is_empty() {
        return lacking;
    }
    if anti_affinity(pod)
        .iter()
        .any(|term| is_near(pod, term, place, places))
    {
        return vec!["node(s) didn't match pod anti-affinity rules".into()];
    }
    if is_kept_away(pod, place, places) {
        return vec!["node(s) didn't satisfy existing pods anti-affinity rules".into()];
    }
    Vec::new()
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let effect = toleration.effect.as_deref().unwrap_or_default();
    let key = toleration.key.as_deref().unwrap_or_default();
    let exists = toleration.operator.as_deref() == Some("Exists");
    (effect.is_empty() || effect == taint.effect)
        && (key == taint.key || (key.is_empty() && exists))
        && (exists
            || toleration.value.as_deref().unwrap_or_default()
                == taint.value.as_deref().unwrap_or_default())
}

fn is_selected(pod: &Pod, node: &Node) -> bool {
    let none = Labels::new();
    let labels = node.metadata.labels.as_ref().unwrap_or(&none);
    let Some(spec) = &pod.spec else {
        return true;
    };
    let selector = spec.node_selector.iter().flatten();
    let required = spec
        .affinity
        .as_ref()
        .and_then(|affinity| affinity.node_affinity.as_ref())
        .and_then(|affinity| {
            affinity
                .required_during_scheduling_ignored_during_execution
                .as_ref()
        });
    let matches = |term: &NodeSelectorTerm| {
        let rules = term.match_expressions.as_deref().unwrap_or_default();
        rules.iter().all(|rule| meets(rule, labels))
    };
    selector
        .into_iter()
        .all(|(key, value)| labels.get(key) == Some(value))
        && required.is_none_or(|required| required.node_selector_terms.iter().any(matches))
}

/// The resources that a node has too little of.
fn lacking(pod: &Pod, place: &Place<'_>) -> Vec<String> {
    let status = place.node.status.as_ref();
    let capacity =
        status.and_then(|status| status.allocatable.as_ref().or(status.capacity.as_ref()));
    let mut wanted = requests(pod);
    wanted.insert("pods".into(), 1_000);
    let mut lacking = Vec::new();
    for (resource, wanted) in wanted {
        let there = capacity.and_then(|capacity| capacity.get(&resource));
        let there = match there {
            Some(amount) => thousandths(&amount.0).unwrap_or(0),
            // A node has enough of a resource that it does not name, unless only some nodes have it at all.
            None if resource == "pods" || !resource.contains('/') => continue,
            None => 0,
        };
        let used: i128 = running(place)
            .map(|other| match resource.as_str() {
                "pods" => 1_000,
                name => requests(other).get(name).copied().unwrap_or(0),
            })
            .sum();
        if used + wanted > there {
            lacking.push(match resource.as_str() {
                "pods" => "Too many pods".into(),
                name => format!("Insufficient {name}"),
            });
        }
    }
    lacking
}

/// The requests of a pod, in thousandths: the sum over its containers, or the largest of an init container.
#[must_use]
pub fn requests(pod: &Pod) -> BTreeMap<String, i128> {
    let Some(spec) = &pod.spec else {
        return BTreeMap::new();
    };
    let mut all = BTreeMap::new();
    for container in &spec.containers {
        for (resource, amount) in of_container(container) {
            *all.entry(resource).or_insert(0) += amount;
        }
    }
    for container in spec.init_containers.iter().flatten() {
        for (resource, amount) in of_container(container) {
            let most = all.entry(resource).or_insert(0);
            *most = amount.max(*most);
        }
    }
    all
}

/// Where only a limit is given, it is the request too.
fn of_container(container: &Container) -> BTreeMap<String, i128> {
    let resources = container.resources.clone().unwrap_or_default();
    let mut amounts: BTreeMap<String, Quantity> = resources.limits.unwrap_or_default();
    amounts.extend(resources.requests.unwrap_or_default());
    amounts
        .into_iter()
        .filter_map(|(resource, amount)| Some((resource, thousandths(&amount.0)?)))
        .collect()
}

fn anti_affinity(pod: &Pod) -> Vec<&PodAffinityTerm> {
    let affinity = pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref());
    let apart = affinity.and_then(|affinity| affinity.pod_anti_affinity.as_ref());
    let terms = apart.and_then(|apart| {
        apart
            .required_during_scheduling_ignored_during_execution
            .as_ref()
    });
    terms.into_iter().flatten().collect()
}

/// Whether a pod that a term means runs in the same domain as this place.
fn is_near(owner: &Pod, term: &PodAffinityTerm, place: &Place<'_>, places: &[Place<'_>]) -> bool {
    let Some(domain) = domain(place.node, &term.topology_key) else {
        return false;
    };
    places
        .iter()
        .filter(|other| self::domain(other.node, &term.topology_key) == Some(domain))
        .flat_map(running)
        .any(|other| is_meant(owner, term, other))
}

/// Whether a pod that runs wants none like this one in the domain of this place.
fn is_kept_away(pod: &Pod, place: &Place<'_>, places: &[Place<'_>]) -> bool {
    places.iter().any(|other| {
        running(other).any(|there| {
            anti_affinity(there).iter().any(|term| {
                let here = domain(place.node, &term.topology_key);
                here.is_some()
                    && here == domain(other.node, &term.topology_key)
                    && is_meant(there, term, pod)
            })
        })
    })
}

/// A node's value of a topology key. Every node is a host of its own, whether it is labelled so or not.
fn domain<'a>(node: &'a Node, key: &str) -> Option<&'a str> {
    let labels = node.metadata.labels.as_ref();
    let value = labels
        .and_then(|labels| labels.get(key))
        .map(String::as_str);
    value.or_else(|| {
        let name = node.metadata.name.as_deref();
        name.filter(|_| key == "kubernetes.io/hostname")
    })
}

/// Whether the term of a pod means another pod.
fn is_meant(owner: &Pod, term: &PodAffinityTerm, other: &Pod) -> bool {
    let namespace = |pod: &Pod| pod.metadata.namespace.clone().unwrap_or_default();
    let there = namespace(other);
    let named = term.namespaces.as_deref().unwrap_or_default();
    let in_scope = match &term.namespace_selector {
        // Labels of namespaces are not looked at: a selector that is not empty means none of them.
        Some(selector) => *selector == Default::default() || named.contains(&there),
        None if named.is_empty() => there == namespace(owner),
        None => named.contains(&there),
    };
    let none = Labels::new();
    let labels = other.metadata.labels.as_ref().unwrap_or(&none);
    in_scope
        && term
            .label_selector
            .as_ref()
            .is_some_and(|selector| selects(selector, labels))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn node(name: &str, resources: Value) -> Node {
        serde_json::from_value(json!({
            "metadata": {"name": name, "labels": {"zone": &name[..1]}},
            "status": {"allocatable": resources},
        }))
        .expect("a node")
    }

    fn pod(name: &str, spec: &Value) -> Pod {
        let mut pod = json!({
            "metadata": {"name": name, "namespace": "bench", "labels": {"measures": "yes"}},
            "spec": {"containers": [{"name": "runner"}]},
        });
        for (key, value) in spec.as_object().expect("a spec") {
            pod["spec"][key] = value.clone();
        }
        serde_json::from_value(pod).expect("a pod")
    }

    fn asks(limits: &Value) -> Value {
        json!({"containers": [{"name": "runner", "resources": {"limits": limits}}]})
    }

    fn empty(nodes: &[Node]) -> Vec<Place<'_>> {
        let place = |node| Place {
            node,
            pods: Vec::new(),
        };
        nodes.iter().map(place).collect()
    }

    #[test]
    fn a_pod_goes_where_there_is_room() {
        let nodes = [
            node("a", json!({"nvidia.com/gpu": "1", "cpu": "4"})),
            node("b", json!({"nvidia.com/gpu": "8", "cpu": "4"})),
        ];
        let four = pod("four", &asks(&json!({"nvidia.com/gpu": "4"})));
        assert_eq!(place(&four, &empty(&nodes), &[]), Ok("b".into()));
        let mut places = empty(&nodes);
        places[1].pods = vec![&four, &four];
        assert_eq!(
            place(&four, &places, &[]),
            Err("0/2 nodes are available: 2 Insufficient nvidia.com/gpu.".into())
        );
        // A pod that has ended takes no room.
        let mut ended = four.clone();
        ended.status = serde_json::from_value(json!({"phase": "Failed"})).expect("a status");
        places[1].pods = vec![&four, &ended];
        assert_eq!(place(&four, &places, &[]), Ok("b".into()));
        // Several reasons, each with the number of nodes that it holds for.
        let cores = pod("cores", &asks(&json!({"cpu": "5", "nvidia.com/gpu": "2"})));
        assert_eq!(
            place(&cores, &empty(&nodes), &[]),
            Err(
                "0/2 nodes are available: 1 Insufficient nvidia.com/gpu, 2 Insufficient cpu."
                    .into()
            )
        );
        assert_eq!(
            place(&four, &[], &[]),
            Err("no nodes available to schedule pods".into())
        );
        assert_eq!(
            place(&four, &empty(&nodes), &["models".into()]),
            Err("0/2 nodes are available: persistentvolumeclaim \"models\" not found.".into())
        );
    }

    #[test]
    fn pods_that_want_to_be_alone_are_kept_apart_across_namespaces() {
        let apart = json!({"affinity": {"podAntiAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": [{
                "topologyKey": "kubernetes.io/hostname",
                "labelSelector": {"matchLabels": {"measures": "yes"}},
                "namespaceSelector": {},
            }],
        }}});
        let nodes = [node("a", json!({})), node("b", json!({}))];
        let lonely = pod("lonely", &apart);
        let mut other = pod("other", &json!({}));
        other.metadata.namespace = Some("elsewhere".into());
        let mut places = empty(&nodes);
        places[0].pods = vec![&other];
        assert_eq!(place(&lonely, &places, &[]), Ok("b".into()));
        places[1].pods = vec![&other];
        assert_eq!(
            place(&lonely, &places, &[]),
            Err("0/2 nodes are available: 2 node(s) didn't match pod anti-affinity rules.".into())
        );
        // The other way round it holds as well.
        places[1].pods = Vec::new();
        places[0].pods = vec![&lonely];
        assert_eq!(place(&other, &places, &[]), Ok("b".into()));
        places[1].pods = vec![&lonely];
        assert_eq!(
            place(&other, &places, &[]),
            Err(
                "0/2 nodes are available: 2 node(s) didn't satisfy existing pods anti-affinity rules."
                    .into()
            )
        );
        // Without a word on namespaces, only its own counts.
        let mut homely = apart.clone();
        let term = &mut homely["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
            [0];
        term.as_object_mut()
            .expect("a term")
            .remove("namespaceSelector");
        let homely = pod("homely", &homely);
        places[0].pods = vec![&other];
        places[1].pods = vec![&other];
        assert!(place(&homely, &places, &[]).is_ok());
    }

    #[test]
    fn nodes_are_chosen_and_tainted() {
        let mut nodes = vec![node("a", json!({})), node("b", json!({}))];
        let picky = pod("picky", &json!({"nodeSelector": {"zone": "b"}}));
        assert_eq!(place(&picky, &empty(&nodes), &[]), Ok("b".into()));
        let nowhere = pod("nowhere", &json!({"nodeSelector": {"zone": "c"}}));
        assert_eq!(
            place(&nowhere, &empty(&nodes), &[]),
            Err(
                "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector."
                    .into()
            )
        );
        nodes[1].spec = serde_json::from_value(json!({
            "taints": [{"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}],
        }))
        .expect("a spec");
        nodes.remove(0);
        let plain = pod("plain", &json!({}));
        assert_eq!(
            place(&plain, &empty(&nodes), &[]),
            Err(
                "0/1 nodes are available: 1 node(s) had untolerated taint {nvidia.com/gpu: present}."
                    .into()
            )
        );
        for toleration in [
            json!({"key": "nvidia.com/gpu", "operator": "Exists"}),
            json!({"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}),
            json!({"operator": "Exists"}),
        ] {
            let pod = pod("tolerant", &json!({"tolerations": [toleration]}));
            assert_eq!(place(&pod, &empty(&nodes), &[]), Ok("b".into()));
        }
    }
}
