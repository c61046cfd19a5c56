//! The settings of a cluster: its nodes, and how fast its controllers are.

use std::{sync::Arc, time::Duration};

use k8s_openapi::{
    api::core::v1::{Node, NodeStatus},
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::ObjectMeta},
    jiff::Timestamp,
};

/// How long the replacement of a failed pod waits: twice as long after every further failure in a row.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    /// After the first.
    pub first: Duration,
    /// At most.
    pub longest: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            first: Duration::from_secs(10),
            longest: Duration::from_secs(600),
        }
    }
}

/// The settings of a cluster.
#[derive(Clone)]
pub struct Settings {
    /// Its nodes; they are created.
    pub nodes: Vec<Node>,
    /// How long replacements of failed pods wait.
    pub backoff: Backoff,
    /// How long the kubelet and the scheduler wait before they try again.
    pub retry: Duration,
    /// How long a node is gone before its pods are given up.
    pub quarantine: Duration,
    /// The time now, by the API server's clock.
    pub now: Arc<dyn Fn() -> Timestamp + Send + Sync>,
}

impl Settings {
    /// These nodes, with the times that Kubernetes keeps.
    #[must_use]
    pub fn new(nodes: Vec<Node>) -> Self {
        Self {
            nodes,
            backoff: Backoff::default(),
            retry: Duration::from_secs(10),
            quarantine: Duration::from_secs(40),
            now: Arc::new(Timestamp::now),
        }
    }
}

/// A node with these resources: name and amount.
#[must_use]
pub fn node(name: &str, resources: &[(&str, &str)]) -> Node {
    let resources = resources
        .iter()
        .map(|(resource, amount)| ((*resource).to_owned(), Quantity((*amount).to_owned())));
    let labels = [("kubernetes.io/hostname".to_owned(), name.to_owned())];
    Node {
        metadata: ObjectMeta {
            name: Some(name.into()),
            labels: Some(labels.into()),
            ..ObjectMeta::default()
        },
        spec: None,
        status: Some(NodeStatus {
            allocatable: Some(resources.clone().collect()),
            capacity: Some(resources.collect()),
            ..NodeStatus::default()
        }),
    }
}
