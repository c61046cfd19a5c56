//! The only place that talks to the API server. Every call is bounded in time; nothing is read from a cache, so that a
//! reconcile decides on what is there.

use std::{collections::BTreeMap, future::Future, time::Duration};

use inferbench_crds::{InferenceBenchmark, InferenceBenchmarkStatus};
use k8s_openapi::{
    api::{batch::v1::Job, core::v1::Pod},
    apimachinery::pkg::apis::meta::v1::ListMeta,
};
use kube::{
    Api, Client, Resource,
    api::{
        DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions, PropagationPolicy,
    },
    core::{DeserializeGuard, Request, Status},
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::json;
use thiserror::Error;
use tracing::{Instrument as _, debug_span, warn};

use super::{
    events, names,
    observe::{JobView, SeenJob, SeenPod},
    patch,
};

/// Objects in one answer to a list.
const PAGE: u32 = 500;

/// Why a reconcile failed.
#[derive(Debug, Error)]
pub enum ApplyError {
    /// The API server has not answered in time.
    #[error("{call}: no answer within {} s", .limit.as_secs())]
    TimedOut {
        /// The call.
        call: String,
        /// How long it may take.
        limit: Duration,
    },
    /// The API server refuses, or cannot be reached.
    #[error("{call}: {source}")]
    Refused {
        /// The call.
        call: String,
        /// Why not.
        source: Box<kube::Error>,
    },
    /// The resource has changed since it was read: what was decided is void.
    #[error("the resource has changed since it was read")]
    Conflict,
    /// A Job that the resource does not own has the name of one to create, or one of its own is still going.
    #[error("there is a Job {name} that is not this resource's, or is being deleted")]
    Taken {
        /// The Job.
        name: String,
    },
    /// Another replica leads.
    #[error("another replica leads")]
    Deposed,
}

impl ApplyError {
    /// One word for metrics.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::TimedOut { .. } => "timeout",
            Self::Refused { .. } => "refused",
            Self::Conflict => "conflict",
            Self::Taken { .. } => "taken",
            Self::Deposed => "deposed",
        }
    }
}

/// How a creation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Created {
    /// The Job is there: made now, or by an earlier try whose answer was lost.
    There,
    /// A quota leaves no room for it, or an admission rule does not want it: wait. In the API server's words.
    Refused(String),
    /// Its namespace is being deleted, and takes nothing new any more.
    NamespaceGoes,
}

/// Codes by which the API server refuses what may be taken another time: once there is room, or a rule has changed.
const REFUSALS: [u16; 4] = [400, 403, 413, 422];

/// The cause by which it refuses whatever would be new in a namespace that is being deleted.
const NAMESPACE_GOES: &str = "NamespaceTerminating";

/// The longest that an event may take: nothing depends on it, and the reconcile waits for it.
const EVENT_LIMIT: Duration = Duration::from_secs(5);
/// The most characters of an event's `reportingInstance`.
const INSTANCE_CHARS: usize = 128;

/// The API server.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    limit: Duration,
    recorder: Recorder,
}

impl Cluster {
    /// Through this client, each call within `limit`. The client must not retry by itself: a request that is sent
    /// again after its answer was lost is for the next reconcile to sort out.
    #[must_use]
    pub fn new(client: Client, limit: Duration) -> Self {
        let recorder = Recorder::new(client.clone(), reporter(None));
        Self {
            client,
            limit,
            recorder,
        }
    }

    /// With events that say which replica they come from.
    #[must_use]
    pub fn reporting_as(self, identity: &str) -> Self {
        // One for all reconciles: it counts repetitions, and makes names that differ.
        let recorder = Recorder::new(self.client.clone(), reporter(Some(identity)));
        Self { recorder, ..self }
    }

    async fn call<T>(
        &self,
        call: impl Into<String>,
        answer: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, ApplyError> {
        let call = call.into();
        let span = debug_span!("call", call);
        let answer = tokio::time::timeout(self.limit, answer.instrument(span));
        match answer.await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(source)) => Err(ApplyError::Refused {
                call,
                source: Box::new(source),
            }),
            Err(_) => Err(ApplyError::TimedOut {
                call,
                limit: self.limit,
            }),
        }
    }

    /// The resource as it is now; none where it is gone. Inside, why it cannot be read.
    ///
    /// # Errors
    /// Where the API server does not say.
    pub async fn resource(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Result<InferenceBenchmark, String>>, ApplyError> {
        let api: Api<DeserializeGuard<InferenceBenchmark>> =
            Api::namespaced(self.client.clone(), namespace);
        let found = self.call("get resource", api.get_opt(name)).await?;
        Ok(found.map(|guard| guard.0.map_err(|invalid| invalid.error)))
    }

    /// The Jobs of the resource with this uid, as they are now.
    ///
    /// # Errors
    /// Where the API server does not say.
    pub async fn jobs(&self, namespace: &str, uid: &str) -> Result<Vec<SeenJob>, ApplyError> {
        self.list::<Job, _>("list Jobs", Some(namespace), &of_resource(uid))
            .await
    }

    /// The Jobs of all resources in a namespace, or in all.
    ///
    /// # Errors
    /// Where the API server does not say.
    pub async fn all_jobs(&self, namespace: Option<&str>) -> Result<Vec<SeenJob>, ApplyError> {
        self.list::<Job, _>("list all Jobs", namespace, &ours())
            .await
    }

    /// The pods of the resource with this uid, as they are now.
    ///
    /// # Errors
    /// Where the API server does not say.
    pub async fn pods(&self, namespace: &str, uid: &str) -> Result<Vec<SeenPod>, ApplyError> {
        self.list::<Pod, _>("list pods", Some(namespace), &of_resource(uid))
            .await
    }

    /// All objects of a kind `K` that a selector means, by pages, as far as they are read.
    async fn list<K, T>(
        &self,
        call: &str,
        namespace: Option<&str>,
        selector: &str,
    ) -> Result<Vec<T>, ApplyError>
    where
        K: Resource<DynamicType = ()>,
        T: DeserializeOwned,
    {
        let request = Request::new(K::url_path(&(), namespace));
        let mut params = ListParams::default().labels(selector).limit(PAGE);
        let mut items = Vec::new();
        loop {
            let list = request.list(&params).map_err(kube::Error::BuildRequest);
            let page = async {
                let mut list = list?;
                // For the count of requests.
                list.extensions_mut().insert("list");
                self.client.request::<Page<T>>(list).await
            };
            let page = self.call(call, page).await?;
            items.extend(page.items.into_iter().flatten());
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => return Ok(items),
            }
        }
    }

    /// Writes what has changed in the status, if the resource is still the one that was read. Says whether anything
    /// was written.
    ///
    /// # Errors
    /// [`ApplyError::Conflict`] where the resource has changed or is gone: whatever else was decided is void. Else,
    /// where the API server does not take it.
    pub async fn patch_status(
        &self,
        resource: &InferenceBenchmark,
        status: &InferenceBenchmarkStatus,
    ) -> Result<bool, ApplyError> {
        let old = resource.status.clone().unwrap_or_default();
        // Plain data with string keys always serializes.
        let [old, new] =
            [&old, status].map(|status| serde_json::to_value(status).unwrap_or_default());
        let Some(changes) = patch::diff(&old, &new) else {
            return Ok(false);
        };
        let metadata = &resource.metadata;
        let body = json!({
            "metadata": { "resourceVersion": metadata.resource_version, "uid": metadata.uid },
            "status": changes,
        });
        let namespace = metadata.namespace.as_deref().unwrap_or_default();
        let name = metadata.name.as_deref().unwrap_or_default();
        let api: Api<DeserializeGuard<InferenceBenchmark>> =
            Api::namespaced(self.client.clone(), namespace);
        let params = PatchParams {
            field_manager: Some(names::MANAGER.into()),
            ..PatchParams::default()
        };
        let body = Patch::Merge(&body);
        match self
            .call("patch status", api.patch_status(name, &params, &body))
            .await
        {
            Ok(_) => Ok(true),
            Err(error) if matches!(code(&error), Some(404 | 409)) => Err(ApplyError::Conflict),
            Err(error) => Err(error),
        }
    }

    /// Posts events. They are for people alone: one that cannot be posted is only logged.
    pub async fn post_events(&self, resource: &InferenceBenchmark, events: &[events::Event]) {
        let mut regarding = resource.object_ref(&());
        // The same resource at another time is the same resource: its events are one series.
        regarding.resource_version = None;
        for event in events {
            let note = Event {
                type_: if event.warning {
                    EventType::Warning
                } else {
                    EventType::Normal
                },
                reason: event.reason.clone(),
                note: Some(event.note.clone()),
                action: event.action.into(),
                secondary: None,
            };
            let posted = self.recorder.publish(&note, &regarding);
            let why = match tokio::time::timeout(EVENT_LIMIT.min(self.limit), posted).await {
                Ok(Ok(())) => continue,
                Ok(Err(error)) => error.to_string(),
                Err(_) => "no answer".to_owned(),
            };
            warn!(why, reason = event.reason, "an event could not be posted");
        }
    }

    /// Deletes a Job, if it is still the one with this uid. While it is active its pods go first, and it stays until
    /// they have; Kubernetes' default would leave them running.
    ///
    /// # Errors
    /// Where the API server does not take it.
    pub async fn delete_job(
        &self,
        namespace: &str,
        name: &str,
        uid: &str,
        active: bool,
    ) -> Result<(), ApplyError> {
        let api: Api<Job> = Api::namespaced(self.client.clone(), namespace);
        let propagation = if active {
            PropagationPolicy::Foreground
        } else {
            PropagationPolicy::Background
        };
        let params = DeleteParams {
            propagation_policy: Some(propagation),
            preconditions: Some(Preconditions {
                uid: Some(uid.to_owned()),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        match self
            .call(format!("delete Job {name}"), api.delete(name, &params))
            .await
        {
            Ok(_) => Ok(()),
            // Gone, another one, or going already: the next look will show.
            Err(error) if matches!(code(&error), Some(404 | 409)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Creates a Job of the resource with this uid.
    ///
    /// # Errors
    /// [`ApplyError::Taken`], or where the API server does not take it.
    pub async fn create_job(
        &self,
        namespace: &str,
        job: &Job,
        owner: &str,
    ) -> Result<Created, ApplyError> {
        let api: Api<Job> = Api::namespaced(self.client.clone(), namespace);
        let name = job.metadata.name.as_deref().unwrap_or_default();
        let params = PostParams {
            field_manager: Some(names::MANAGER.into()),
            ..PostParams::default()
        };
        match self
            .call(format!("create Job {name}"), api.create(&params, job))
            .await
        {
            Ok(_) => Ok(Created::There),
            Err(error) if code(&error) == Some(409) => {
                let found = self
                    .call(format!("get Job {name}"), api.get_opt(name))
                    .await?;
                let plan = |annotations: Option<&BTreeMap<String, String>>| {
                    annotations.and_then(|all| all.get(names::PLAN).cloned())
                };
                let wanted = plan(job.metadata.annotations.as_ref());
                let is_ours = |found: SeenJob| {
                    plan(Some(&found.metadata.annotations)) == wanted
                        && JobView::of(&found, owner).is_some_and(|view| !view.deleting)
                };
                if found.map(SeenJob::from).is_some_and(is_ours) {
                    Ok(Created::There)
                } else {
                    let name = name.to_owned();
                    Err(ApplyError::Taken { name })
                }
            }
            Err(error) => match refusal(&error) {
                Some(why) if is_of_namespace_that_goes(why) => Ok(Created::NamespaceGoes),
                Some(why) if REFUSALS.contains(&why.code) => {
                    Ok(Created::Refused(why.message.clone()))
                }
                _ => Err(error),
            },
        }
    }
}

/// A page of a list.
#[derive(Deserialize)]
struct Page<T> {
    #[serde(default)]
    metadata: ListMeta,
    items: Option<Vec<T>>,
}

/// Selects what the operator has made.
fn ours() -> String {
    format!("{}={}", names::MANAGED_BY, names::MANAGER)
}

/// Selects what it has made for the resource with this uid.
fn of_resource(uid: &str) -> String {
    format!("{},{}={uid}", ours(), names::UID)
}

/// Who an event comes from.
fn reporter(identity: Option<&str>) -> Reporter {
    Reporter {
        controller: names::MANAGER.into(),
        instance: identity.map(|name| name.chars().take(INSTANCE_CHARS).collect()),
    }
}

/// The API server's answer to a request that it refuses.
fn refusal(error: &ApplyError) -> Option<&Status> {
    match error {
        ApplyError::Refused { source, .. } => match &**source {
            kube::Error::Api(status) => Some(status),
            _ => None,
        },
        _ => None,
    }
}

/// Whether a refusal is that of a namespace that is being deleted. Its message is for people, its cause for programs.
fn is_of_namespace_that_goes(refusal: &Status) -> bool {
    let causes = refusal.details.iter().flat_map(|details| &details.causes);
    causes
        .into_iter()
        .any(|cause| cause.reason == NAMESPACE_GOES)
}

/// The HTTP code of a refusal.
fn code(error: &ApplyError) -> Option<u16> {
    refusal(error).map(|status| status.code)
}
