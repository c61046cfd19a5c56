//! An API server to ask, the double or a real one, and ways to ask it.

#![allow(dead_code, reason = "not every test needs all of it")]

use std::{
    fmt,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use http::{Method, Request};
use http_body_util::BodyExt as _;
use inferbench_fakekube::FakeKube;
use kube::{Client, client::Body};
use serde_json::{Value, json};

/// The longest that anything may take that happens by itself.
const PATIENCE: Duration = Duration::from_secs(90);

/// A server with a namespace of this test's own.
pub struct World {
    pub client: Client,
    pub namespace: String,
    /// The double; none where a real server is asked.
    pub fake: Option<FakeKube>,
    /// Whether anyone collects garbage.
    pub has_controllers: bool,
}

/// The answer of a server.
pub struct Answer {
    pub code: u16,
    pub body: Value,
    pub warnings: Vec<String>,
    asked: String,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {}: {:#}", self.asked, self.code, self.body)
    }
}

impl Answer {
    /// The body of a success.
    #[track_caller]
    pub fn ok(self) -> Value {
        assert!(matches!(self.code, 200..=202), "{self}");
        self.body
    }

    /// A refusal with this code and reason; its message.
    #[track_caller]
    pub fn refused(&self, code: u16, reason: &str) -> String {
        assert_eq!(
            (self.code, text(&self.body, "/reason")),
            (code, reason),
            "{self}"
        );
        text(&self.body, "/message").to_owned()
    }

    /// A refusal of an object with these faults, in any order; each a field, a reason and the beginning of a message.
    #[track_caller]
    pub fn invalid(&self, causes: &[(&str, &str, &str)]) {
        self.refused(422, "Invalid");
        let found: Vec<(&str, &str, &str)> = self.body["details"]["causes"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|cause| {
                (
                    text(cause, "/field"),
                    text(cause, "/reason"),
                    text(cause, "/message"),
                )
            })
            .filter(|(field, _, _)| *field != "<nil>")
            .collect();
        for (field, reason, message) in causes {
            let there = found.iter().any(|cause| {
                cause.0 == *field && cause.1 == *reason && cause.2.starts_with(message)
            });
            assert!(there, "no {field}: {reason}: {message} in {found:#?}");
        }
        for (field, reason, _) in &found {
            let expected = causes
                .iter()
                .any(|cause| cause.0 == *field && cause.1 == *reason);
            assert!(expected, "{field}: {reason} was not expected: {found:#?}");
        }
    }
}

/// The string at a pointer.
pub fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// The version of an object.
pub fn version(object: &Value) -> String {
    text(object, "/metadata/resourceVersion").to_owned()
}

/// The definition of the resource.
pub fn definition() -> Value {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../crds/inferencebenchmarks.inferbench.dev.yaml"
    );
    let yaml = std::fs::read_to_string(path).expect("the definition");
    serde_saphyr::from_str(&yaml).expect("YAML")
}

/// A Job that does little.
pub fn job(name: &str) -> Value {
    json!({
        "metadata": { "name": name },
        "spec": {
            "template": { "spec": { "restartPolicy": "Never", "containers": [{ "name": "c", "image": "i:1" }] } },
        },
    })
}

/// A resource that asks for little.
pub fn benchmark(name: &str) -> Value {
    json!({
        "apiVersion": "inferbench.dev/v1alpha1",
        "kind": "InferenceBenchmark",
        "metadata": { "name": name },
        "spec": {
            "design": { "factors": { "model": [{ "name": "g", "source": { "random": { "preset": "gpt2" } } }] } },
            "results": { "store": { "url": "s3://b" } },
        },
    })
}

pub fn config_map(name: &str) -> Value {
    json!({ "metadata": { "name": name }, "data": { "a": "b" } })
}

pub const JOBS: &str = "/apis/batch/v1/namespaces/{ns}/jobs";
pub const PODS: &str = "/api/v1/namespaces/{ns}/pods";
pub const MAPS: &str = "/api/v1/namespaces/{ns}/configmaps";
pub const BENCHMARKS: &str = "/apis/inferbench.dev/v1alpha1/namespaces/{ns}/inferencebenchmarks";

impl World {
    /// The double, with the resource's definition.
    pub async fn fake() -> Self {
        let fake = FakeKube::new();
        fake.install_crd(&definition()).expect("a definition");
        fake.spawn_garbage_collector(Duration::from_millis(1));
        let client = fake.client("test");
        Self::begin(client, "test".into(), Some(fake)).await
    }

    /// The server of `KUBECONFIG`; none unless `INFERBENCH_E2E=1` asks for it.
    pub async fn real() -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        if std::env::var("INFERBENCH_E2E").as_deref() != Ok("1") {
            return None;
        }
        // A build of the whole workspace has several, and none is chosen by itself; once chosen, it stays.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut config = kube::Config::infer().await.expect("KUBECONFIG");
        // Each answer counts, refusals too.
        config.default_retry = false;
        let client = Client::try_from(config).expect("a client");
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .expect("a time");
        let nth = COUNT.fetch_add(1, Ordering::Relaxed);
        Some(
            Self::begin(
                client,
                format!("fakekube-{}-{nth}", since.as_millis()),
                None,
            )
            .await,
        )
    }

    async fn begin(client: Client, namespace: String, fake: Option<FakeKube>) -> Self {
        let mut world = Self {
            client,
            namespace,
            has_controllers: fake.is_some(),
            fake,
        };
        let name = world.namespace.clone();
        world
            .post(
                "/api/v1/namespaces",
                json!({ "metadata": { "name": name } }),
            )
            .await
            .ok();
        if world.fake.is_none() {
            let crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
            let created = world.post(crds, definition()).await;
            assert!(matches!(created.code, 201 | 409), "{created}");
            for _ in 0..100 {
                if world.get(BENCHMARKS).await.code == 200 {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            // A control plane's controllers give every namespace this account.
            let account = "/api/v1/namespaces/{ns}/serviceaccounts/default";
            for _ in 0..20 {
                world.has_controllers = world.get(account).await.code == 200;
                if world.has_controllers {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            if !world.has_controllers {
                let account = json!({ "metadata": { "name": "default" } });
                world
                    .post("/api/v1/namespaces/{ns}/serviceaccounts", account)
                    .await
                    .ok();
            }
        }
        world
    }

    pub async fn end(self) {
        if self.fake.is_none() {
            self.delete("/api/v1/namespaces/{ns}", Value::Null)
                .await
                .ok();
        }
    }

    pub async fn ask(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Value,
    ) -> Answer {
        let path = path.replace("{ns}", &self.namespace);
        let asked = format!("{method} {path}");
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = if body.is_null() {
            Body::empty()
        } else {
            Body::from(body.to_string().into_bytes())
        };
        let request = request.body(body).expect("a request");
        let answer = tokio::time::timeout(PATIENCE, self.client.send(request));
        let response = answer.await.expect("an answer in time").expect("an answer");
        let code = response.status().as_u16();
        let warnings = response.headers().get_all("warning").iter();
        let warnings = warnings
            .map(|value| value.to_str().unwrap_or_default().to_owned())
            .collect();
        let bytes = response
            .into_body()
            .collect()
            .await
            .expect("a body")
            .to_bytes();
        let body = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| json!(String::from_utf8_lossy(&bytes)));
        Answer {
            code,
            body,
            warnings,
            asked,
        }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.ask(Method::GET, path, &[], Value::Null).await
    }

    pub async fn get_as(&self, path: &str, accept: &str) -> Answer {
        self.ask(Method::GET, path, &[("accept", accept)], Value::Null)
            .await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.ask(
            Method::POST,
            path,
            &[("content-type", "application/json")],
            body,
        )
        .await
    }

    pub async fn put(&self, path: &str, body: Value) -> Answer {
        self.ask(
            Method::PUT,
            path,
            &[("content-type", "application/json")],
            body,
        )
        .await
    }

    pub async fn delete(&self, path: &str, body: Value) -> Answer {
        self.ask(
            Method::DELETE,
            path,
            &[("content-type", "application/json")],
            body,
        )
        .await
    }

    /// A merge patch.
    pub async fn patch(&self, path: &str, body: Value) -> Answer {
        self.patch_as(path, "application/merge-patch+json", body)
            .await
    }

    pub async fn patch_as(&self, path: &str, content: &str, body: Value) -> Answer {
        self.ask(Method::PATCH, path, &[("content-type", content)], body)
            .await
    }

    /// Waits until an object is gone.
    pub async fn gone(&self, path: &str) {
        for _ in 0..300 {
            if self.get(path).await.code == 404 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{path} is still there");
    }

    /// Begins a watch.
    pub async fn watch(&self, path: &str, query: &str) -> Events {
        self.watch_as(path, query, "application/json").await
    }

    pub async fn watch_as(&self, path: &str, query: &str, accept: &str) -> Events {
        let path = path.replace("{ns}", &self.namespace);
        let request = Request::builder()
            .uri(format!("{path}?watch=true&{query}"))
            .header("accept", accept);
        let response = self
            .client
            .send(request.body(Body::empty()).expect("a request"))
            .await;
        let response = response.expect("an answer");
        assert_eq!(response.status(), 200);
        Events {
            body: response.into_body(),
            text: Vec::new(),
        }
    }
}

/// A watch.
pub struct Events {
    body: Body,
    text: Vec<u8>,
}

impl Events {
    /// The next event: its type and its object. None where the watch has ended.
    pub async fn next(&mut self) -> Option<(String, Value)> {
        loop {
            if let Some(end) = self.text.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.text.drain(..=end).collect();
                let event: Value = serde_json::from_slice(&line).expect("JSON");
                return Some((text(&event, "/type").to_owned(), event["object"].clone()));
            }
            let frame = tokio::time::timeout(PATIENCE, self.body.frame())
                .await
                .expect("an event in time")?;
            self.text
                .extend(frame.expect("a frame").into_data().expect("data"));
        }
    }

    /// The next event: its type and the name of its object.
    pub async fn name(&mut self) -> (String, String) {
        let (what, object) = self.next().await.expect("an event");
        (what, text(&object, "/metadata/name").to_owned())
    }

    #[track_caller]
    pub fn expect(&mut self, what: &str, name: &str) -> impl Future<Output = ()> {
        let (what, name) = (what.to_owned(), name.to_owned());
        async move { assert_eq!(self.name().await, (what, name)) }
    }
}
