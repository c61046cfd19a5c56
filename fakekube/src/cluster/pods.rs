//! Pods: lets the scheduler, a kubelet or the pods' garbage collector act on each, whichever is responsible.

use kube::ResourceExt as _;
use tokio::time::Instant;

use super::{
    cache::Key,
    pod::{has_ended, node_of},
    world::{Due, HICCUP, World},
};

impl World {
    /// Lets the part of the cluster that is responsible for a pod act.
    pub async fn pod(&mut self, key: Key) {
        let Some(pod) = self.pods.get(&key).cloned() else {
            self.unplaced.remove(&key);
            self.retries.remove(&key);
            if let Some(run) = self.runs.remove(&key) {
                run.abort();
                self.containers.forget(&run.uid);
            }
            return;
        };
        let uid = pod.uid().unwrap_or_default();
        if let Some(run) = self.runs.get(&key)
            && run.uid != uid
        {
            run.abort();
            let gone = run.uid.clone();
            self.runs.remove(&key);
            self.containers.forget(&gone);
        }
        if self.is_orphan(&pod).await && self.release(&key.namespace, &key.name).await.is_none() {
            self.look_after(HICCUP, Due::Pod(key.clone()));
        }
        let Some(node) = node_of(&pod) else {
            if pod.metadata.deletion_timestamp.is_some() {
                self.give_up(&key, &pod, false).await;
            } else if !has_ended(&pod) && self.unplaced.insert(key) {
                self.look(Due::Unplaced);
            }
            return;
        };
        self.unplaced.remove(&key);
        let named = Key::new("", node);
        if self.nodes.get(&named).is_none() {
            let since = *self
                .gone
                .entry(node.to_owned())
                .or_insert_with(Instant::now);
            let end = since + self.settings.quarantine;
            if Instant::now() >= end {
                self.give_up(&key, &pod, true).await;
            } else {
                self.look_at(end, Due::Pod(key));
            }
            return;
        }
        match self.silent.get(node).copied() {
            Some(None) => return,
            Some(Some(until)) if Instant::now() < until => {
                self.look_at(until, Due::Pod(key));
                return;
            }
            _ => {}
        }
        self.sync(key, pod).await;
    }
}
