//! The server as a tower service: one HTTP request in, one response out.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures::StreamExt as _;
use http::{
    HeaderValue, Method, Request, Response,
    header::{CONTENT_TYPE, RETRY_AFTER, USER_AGENT, WARNING},
    request::Parts,
};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Body, Frame};
use serde_json::{Value, json};

use super::{
    discovery,
    faults::{Call, Fault, WatchFault},
    kinds::Kind,
    refusal::{Answered, Refusal},
    request::{DeleteOptions, Query, Target, Verb, shape},
    selector::Selector,
    server::{FakeKube, Shared},
    show,
    watch::Watch,
    write::{Change, Writing, key_of},
};

pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;
/// The body of an answer.
pub(crate) type AnswerBody = UnsyncBoxBody<Bytes, BoxError>;

/// The server, as one client sees it.
#[derive(Clone)]
pub(crate) struct Service {
    shared: Arc<Shared>,
    client: Arc<str>,
}

impl Service {
    pub fn new(server: &FakeKube, client: &str) -> Self {
        Self {
            shared: Arc::clone(&server.0),
            client: client.into(),
        }
    }

    /// Answers a request; an error is a broken connection.
    pub async fn answer<B>(self, request: Request<B>) -> Result<Response<AnswerBody>, BoxError>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map_err(Into::into)?.to_bytes();
        let query = Query::of(&parts.uri);
        let target = Target::of(parts.uri.path());
        let call = call(&parts, target.as_ref(), &query);
        let fault = self.shared.admit(&self.client, call);
        match fault {
            Fault::Hang => return std::future::pending().await,
            Fault::Drop => return Err("the connection is broken".into()),
            Fault::Refuse {
                code,
                reason,
                retry_after,
            } => {
                let mut refusal =
                    Refusal::new(code, reason, format!("refused on purpose: {reason}"));
                refusal.retry_after = retry_after;
                return Ok(refused(&refusal));
            }
            Fault::Delay(time) => tokio::time::sleep(time).await,
            _ => {}
        }
        let answer = self.handle(&parts, target, &query, &body, &fault);
        match fault {
            Fault::HangAfterCommit => std::future::pending().await,
            Fault::DropAfterCommit => Err("the connection is broken".into()),
            Fault::RefuseAfterCommit { code } => {
                let message = "the server was unable to return a response in the time allotted, but may still be processing the request";
                Ok(refused(&Refusal::new(code, "Timeout", message)))
            }
            _ => Ok(answer.unwrap_or_else(|refusal| refused(&refusal))),
        }
    }

    fn handle(
        &self,
        parts: &Parts,
        target: Option<Target>,
        query: &Query,
        body: &[u8],
        fault: &Fault,
    ) -> Answered<Response<AnswerBody>> {
        let Some(target) = target else {
            return discovery::answer(&self.shared, parts);
        };
        let kind = self.shared.state().kind(&target);
        let Some(kind) = kind else {
            let known = self
                .shared
                .state()
                .kinds()
                .any(|kind| kind.group == target.group && kind.version == target.version);
            return if known {
                Err(Refusal::no_such_resource())
            } else {
                Ok(page_not_found())
            };
        };
        let verb = target
            .verb(&parts.method, query)
            .ok_or_else(Refusal::method_not_allowed)?;
        let scoped = target.namespace.is_some()
            || !kind.namespaced
            || (target.name.is_none() && !verb.writes());
        if !scoped || (target.namespace.is_some() && !kind.namespaced) {
            return Err(Refusal::no_such_resource());
        }
        check_subresource(&kind, &target, verb)?;
        if matches!(verb, Verb::Create | Verb::Update) {
            speaks_json(parts)?;
        }
        let body = read_body(body, &kind)?;
        let shape = shape(parts);
        let now = self.shared.now();
        let namespace = target.namespace.as_deref();
        let name = target.name.as_deref().unwrap_or_default();
        let how = self.how(parts, query, &body);
        let written = |written: Answered<super::write::Written>| {
            let written = written?;
            let object = show::shaped(&kind, written.object, shape, true, now);
            let mut response = json_response(written.code, &object);
            warn(&mut response, &written.warnings);
            Ok(response)
        };
        match verb {
            Verb::Get => {
                let key = key_of(&kind, namespace, name);
                let state = self.shared.state();
                let stored = state
                    .store
                    .get(&key)
                    .ok_or_else(|| Refusal::not_found(&kind, name))?;
                Ok(json_response(
                    200,
                    &show::object(&kind, stored, shape, true, now),
                ))
            }
            Verb::List => {
                let selector = selector(&kind, query)?;
                let behind = if let Fault::Stale(writes) = fault {
                    *writes
                } else {
                    0
                };
                let page = self
                    .shared
                    .state()
                    .list(&kind, namespace, &selector, query, behind)?;
                Ok(json_response(200, &show::page(&kind, &page, shape, now)))
            }
            Verb::Watch => {
                let mut selector = selector(&kind, query)?;
                if !name.is_empty() {
                    selector = Selector::parse(
                        &kind,
                        query.get("labelSelector"),
                        &format!("metadata.name={name}"),
                    )?;
                }
                let fault = if let Fault::Watch(fault) = fault {
                    fault.clone()
                } else {
                    WatchFault::default()
                };
                let watch = Watch::new(
                    &self.shared,
                    &kind,
                    namespace,
                    selector,
                    query,
                    shape,
                    fault,
                )?;
                let events = watch
                    .events()
                    .map(|event| Ok::<_, BoxError>(Frame::data(event)));
                Ok(response(200, StreamBody::new(events).boxed_unsync()))
            }
            Verb::Create if target.subresource.is_some() => {
                self.shared
                    .write(|state| state.bind(&kind, namespace, name, &body, &how))?;
                let answer = json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201 });
                Ok(json_response(201, &answer))
            }
            Verb::Create => written(
                self.shared
                    .write(|state| state.create(&kind, namespace, body, &how)),
            ),
            Verb::Update => written(self.shared.write(|state| {
                let change = Change::Put(body);
                state.change(
                    &kind,
                    namespace,
                    name,
                    target.subresource.as_deref(),
                    change,
                    &how,
                )
            })),
            Verb::Patch => {
                let change = patch(parts, &body)?;
                let sub = target.subresource.as_deref();
                written(
                    self.shared
                        .write(|state| state.change(&kind, namespace, name, sub, change, &how)),
                )
            }
            Verb::Delete => {
                let options = DeleteOptions::of(query, &body);
                let (object, gone) = self
                    .shared
                    .write(|state| state.delete(&kind, namespace, name, &options, now))?;
                Ok(json_response(200, &deleted(&kind, object, gone)))
            }
            Verb::DeleteCollection => {
                let options = DeleteOptions::of(query, &body);
                let selector = selector(&kind, query)?;
                let page = self.shared.write(|state| -> Answered<_> {
                    let page = state.list(&kind, namespace, &selector, query, 0)?;
                    for object in &page.items {
                        let name = object["metadata"]["name"].as_str().unwrap_or_default();
                        state.delete(&kind, namespace, name, &options, now)?;
                    }
                    Ok(page)
                })?;
                Ok(json_response(200, &show::page(&kind, &page, shape, now)))
            }
        }
    }

    fn how(&self, parts: &Parts, query: &Query, body: &Value) -> Writing {
        let agent = parts
            .headers
            .get(USER_AGENT)
            .and_then(|value| value.to_str().ok());
        let manager = match query.get("fieldManager") {
            "" => agent
                .unwrap_or("unknown")
                .split('/')
                .next()
                .unwrap_or_default(),
            manager => manager,
        };
        let dry_run = body["dryRun"].as_array().is_some_and(|all| !all.is_empty());
        Writing {
            now: self.shared.now(),
            manager: manager.to_owned(),
            validation: match query.get("fieldValidation") {
                "" => "Warn".to_owned(),
                given => given.to_owned(),
            },
            dry_run: dry_run || !query.get("dryRun").is_empty(),
            force: query.is_set("force"),
        }
    }
}

fn call(parts: &Parts, target: Option<&Target>, query: &Query) -> Call {
    let verb = target.and_then(|target| target.verb(&parts.method, query));
    let resource = target.map(|target| match &target.subresource {
        Some(subresource) => format!("{}/{subresource}", target.plural),
        None => target.plural.clone(),
    });
    let of = |part: Option<&Option<String>>| part.cloned().flatten().unwrap_or_default();
    Call {
        verb: verb.unwrap_or(Verb::Get),
        resource: resource.unwrap_or_default(),
        namespace: of(target.map(|target| &target.namespace)),
        name: of(target.map(|target| &target.name)),
        nth: 0,
        version: query.get("resourceVersion").to_owned(),
    }
}

fn check_subresource(kind: &Kind, target: &Target, verb: Verb) -> Answered<()> {
    let Some(subresource) = target.subresource.as_deref() else {
        return Ok(());
    };
    let known = match subresource {
        "status" => kind.status,
        "finalize" => kind.is_namespace(),
        "binding" => kind.is_pod(),
        _ => false,
    };
    if !known {
        return Err(Refusal::no_such_resource());
    }
    match verb {
        Verb::Create => Ok(()),
        Verb::Get | Verb::Update | Verb::Patch if subresource != "binding" => Ok(()),
        _ => Err(Refusal::method_not_allowed()),
    }
}

fn selector(kind: &Kind, query: &Query) -> Answered<Selector> {
    Selector::parse(kind, query.get("labelSelector"), query.get("fieldSelector"))
}

/// Protobuf, in which some of kubectl's commands send built-in kinds, is not understood here.
fn speaks_json(parts: &Parts) -> Answered<()> {
    let content = parts
        .headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    match content {
        Some(other) if !other.starts_with("application/json") => {
            Err(Refusal::unsupported_media_type(other, "application/json"))
        }
        _ => Ok(()),
    }
}

fn read_body(body: &[u8], kind: &Kind) -> Answered<Value> {
    if body.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(body).map_err(|error| {
        let shown = String::from_utf8_lossy(&body[..body.len().min(100)]).into_owned();
        Refusal::bad_request(format!(
            "the object provided is unrecognized (must be of type {}): couldn't get version/kind; json parse error: {error} ({shown})",
            kind.kind
        ))
    })
}

fn patch<'a>(parts: &Parts, body: &'a Value) -> Answered<Change<'a>> {
    let content = parts
        .headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    match content
        .unwrap_or_default()
        .split(';')
        .next()
        .unwrap_or_default()
    {
        "application/merge-patch+json" => Ok(Change::Merge(body)),
        "application/json-patch+json" => Ok(Change::Json(body)),
        "application/strategic-merge-patch+json" => Ok(Change::Strategic(body)),
        "application/apply-patch+yaml" => Ok(Change::Apply(body)),
        other => Err(Refusal::unsupported_media_type(
            other,
            "application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, application/apply-patch+yaml",
        )),
    }
}

/// Some kinds are shown once more as they go, others are told of.
fn deleted(kind: &Kind, object: Value, gone: bool) -> Value {
    let shows = matches!(
        kind.plural.as_str(),
        "pods" | "persistentvolumeclaims" | "serviceaccounts" | "resourcequotas"
    );
    if !gone || (shows && kind.custom.is_none()) {
        return object;
    }
    let mut details = json!({
        "name": object["metadata"]["name"],
        "kind": kind.plural,
        "uid": object["metadata"]["uid"],
    });
    if !kind.group.is_empty() {
        details["group"] = kind.group.clone().into();
    }
    json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details })
}

fn response(code: u16, body: AnswerBody) -> Response<AnswerBody> {
    let mut response = Response::new(body);
    *response.status_mut() =
        http::StatusCode::from_u16(code).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

pub(crate) fn json_response(code: u16, value: &Value) -> Response<AnswerBody> {
    response(code, full(text_of(value)))
}

/// JSON as text; much faster than by way of `Display`. A value always has a text.
pub(crate) fn text_of(value: &Value) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// An answer in plain text.
pub(crate) fn text_response(code: u16, text: &str) -> Response<AnswerBody> {
    let mut response = response(code, full(text.to_owned()));
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, plain);
    response
}

fn full(text: String) -> AnswerBody {
    let body = Full::new(Bytes::from(text));
    body.map_err(|error: Infallible| match error {})
        .boxed_unsync()
}

pub(crate) fn page_not_found() -> Response<AnswerBody> {
    text_response(404, "404 page not found\n")
}

pub(crate) fn refused(refusal: &Refusal) -> Response<AnswerBody> {
    let mut response = json_response(refusal.code, &refusal.body());
    if let Some(seconds) = refusal.retry_after {
        response.headers_mut().insert(RETRY_AFTER, seconds.into());
    }
    response
}

fn warn(response: &mut Response<AnswerBody>, warnings: &[String]) {
    for warning in warnings {
        let text = format!("299 - {warning:?}");
        if let Ok(value) = HeaderValue::from_str(&text) {
            response.headers_mut().append(WARNING, value);
        }
    }
}

impl<B> tower::Service<Request<B>> for Service
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<AnswerBody>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        Box::pin(self.clone().answer(request))
    }
}

/// Whether a request only reads: `GET` and `HEAD`.
pub(crate) fn reads(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

/// In which shape an answer to discovery is wanted: of all groups at once, or of one.
pub(crate) fn wants(parts: &Parts, what: &str) -> bool {
    let accept = parts.headers.get(http::header::ACCEPT);
    accept
        .and_then(|value| value.to_str().ok())
        .is_some_and(|accept| accept.contains(what))
}
