//! The one task of a cluster: sees changes, and lets the Job controller, the scheduler and the kubelets act on them one
//! after the other, so that a simulation in tokio's paused time always goes the same way.

use std::pin::pin;

use futures::{FutureExt as _, StreamExt as _};
use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{Node, Pod},
};
use kube::{
    Api, ResourceExt as _,
    api::{Patch, PatchParams, PostParams},
    runtime::{
        WatchStreamExt as _,
        watcher::{self, watcher},
    },
};
use serde_json::json;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinError,
    time::sleep_until,
};

use super::{
    cache::Key,
    containers::Exit,
    orders::Order,
    world::{Due, World},
};

impl World {
    /// Runs until nobody can give orders any more.
    pub async fn run(
        mut self,
        mut orders: mpsc::UnboundedReceiver<(Order, oneshot::Sender<bool>)>,
    ) {
        self.create_nodes().await;
        let config = watcher::Config::default;
        let jobs: Api<Job> = Api::all(self.client.clone());
        let pods: Api<Pod> = Api::all(self.client.clone());
        let nodes: Api<Node> = Api::all(self.client.clone());
        let mut jobs = pin!(watcher(jobs, config()).default_backoff());
        let mut pods = pin!(watcher(pods, config()).default_backoff());
        let mut nodes = pin!(watcher(nodes, config()).default_backoff());
        // Nothing is decided before all three lists are complete.
        let mut lists = 0;
        loop {
            let timer = self.next_timer();
            let wake = async {
                match timer {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                Some(event) = jobs.next() => lists += u32::from(self.see_job(event)),
                Some(event) = pods.next() => lists += u32::from(self.see_pod(event)),
                Some(event) = nodes.next() => lists += u32::from(self.see_node(event)),
                Some(ended) = self.tasks.join_next(), if !self.tasks.is_empty() => self.ended(ended),
                order = orders.recv() => match order {
                    Some((order, done)) => {
                        let found = self.obey(order).await;
                        let _ = done.send(found);
                    }
                    None => return,
                },
                () = wake => {}
            }
            // Events that have come meanwhile are taken in together.
            while let Some(Some(event)) = jobs.next().now_or_never() {
                lists += u32::from(self.see_job(event));
            }
            while let Some(Some(event)) = pods.next().now_or_never() {
                lists += u32::from(self.see_pod(event));
            }
            self.wake();
            if lists >= 3 {
                while let Some(due) = self.next_due() {
                    match due {
                        Due::Job(key) => self.job(key).await,
                        Due::Pod(key) => self.pod(key).await,
                        Due::Unplaced => self.place().await,
                    }
                }
            }
        }
    }

    async fn create_nodes(&self) {
        let api: Api<Node> = Api::all(self.client.clone());
        for node in &self.settings.nodes {
            let params = PostParams::default();
            let created = api.create(&params, node);
            if self.call("create node", created).await.is_some() {
                // A create may leave out the status.
                let patch = json!({ "status": node.status });
                let patch = Patch::Merge(&patch);
                let (name, params) = (node.name_any(), PatchParams::default());
                let patched = api.patch_status(&name, &params, &patch);
                self.call("set up node", patched).await;
            }
        }
    }

    fn ended(&mut self, ended: Result<(Key, String, Exit), JoinError>) {
        // Aborted ones are not waited for.
        let Ok((key, uid, exit)) = ended else {
            return;
        };
        if let Some(run) = self.runs.get_mut(&key)
            && run.uid == uid
        {
            run.exit = Some(exit);
            self.look(Due::Pod(key));
        }
    }
}
