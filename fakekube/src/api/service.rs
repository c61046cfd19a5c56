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
    HeaderValue, Request, Response,
    header::{ACCEPT, CONTENT_TYPE, RETRY_AFTER, USER_AGENT, WARNING},
    request::Parts,
};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Body, Frame};
use serde_json::{Value, json};

use super::{
    faults::{Call, Fault, WatchFault},
    json::to_text,
    kinds::Kind,
    refusal::{Answered, Refusal},
    request::{DeleteOptions, Query, Target, Verb},
    selector::Selector,
    shared::Shared,
    show::Shown,
    state::key_of,
    watch::Watch,
    write::{Change, Options, UnknownFields, Written},
};

pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;
/// The body of an answer.
pub(crate) type AnswerBody = UnsyncBoxBody<Bytes, BoxError>;

/// The content type of the only patches that the server takes.
const MERGE_PATCH: &str = "application/merge-patch+json";

/// The server, as one client sees it.
#[derive(Clone)]
pub(crate) struct Service {
    shared: Arc<Shared>,
    client: Arc<str>,
}

impl Service {
    pub fn new(shared: &Arc<Shared>, client: &str) -> Self {
        Self {
            shared: Arc::clone(shared),
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
        let call = call(&parts, target.as_ref(), &query, &body);
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
        let answer = match &target {
            Some(target) => self.handle(&parts, target, &query, &body, &fault),
            None => Ok(page_not_found()),
        };
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
        target: &Target,
        query: &Query,
        body: &[u8],
        fault: &Fault,
    ) -> Answered<Response<AnswerBody>> {
        let kind = self.shared.state().kind(target);
        let Some(kind) = kind else {
            let state = self.shared.state();
            let is_known =
                |kind: &Arc<Kind>| kind.group == target.group && kind.version == target.version;
            return if state.kinds().any(is_known) {
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
        check_subresource(&kind, target, verb)?;
        let shown = check_shape(parts, query, verb)?;
        let body = read_body(body, &kind)?;
        let options = self.options(parts, query);
        let namespace = target.namespace.as_deref();
        let name = target.name.as_deref().unwrap_or_default();
        let subresource = target.subresource.as_deref();
        match verb {
            Verb::Get => {
                let state = self.shared.state();
                let stored = state.store.get(&key_of(&kind, namespace, name));
                let stored = stored.ok_or_else(|| Refusal::not_found(&kind, name))?;
                Ok(json_response(200, &shown.object(stored)))
            }
            Verb::List => {
                let selector = Selector::parse(query.get("labelSelector"))?;
                let behind = if let Fault::Stale(writes) = fault {
                    *writes
                } else {
                    0
                };
                let state = self.shared.state();
                let page = state.list(&kind, namespace, &selector, query, behind)?;
                drop(state);
                Ok(json_response(200, &page.body(&kind, shown)))
            }
            Verb::Watch => {
                let selector = Selector::parse(query.get("labelSelector"))?;
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
                    shown,
                    fault,
                )?;
                let events = watch
                    .events()
                    .map(|event| Ok::<_, BoxError>(Frame::data(event)));
                Ok(response(200, StreamBody::new(events).boxed_unsync()))
            }
            Verb::Create if subresource.is_some() => {
                self.shared
                    .write(|state| state.bind(&kind, namespace, name, &body, &options))?;
                let answer = json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201 });
                Ok(json_response(201, &answer))
            }
            Verb::Create => self
                .shared
                .write(|state| state.create(&kind, namespace, body, &options))
                .map(written),
            Verb::Update | Verb::Patch => {
                let change = if verb == Verb::Update {
                    Change::Put(body)
                } else {
                    Change::Merge(&body)
                };
                self.shared
                    .write(|state| {
                        state.change(&kind, namespace, name, subresource, change, &options)
                    })
                    .map(written)
            }
            Verb::Delete => {
                let deletion = DeleteOptions::of(&body)?;
                let (object, gone) = self
                    .shared
                    .write(|state| state.delete(&kind, namespace, name, &deletion, options.now))?;
                Ok(json_response(200, &deleted(&kind, object, gone)))
            }
        }
    }

    fn options(&self, parts: &Parts, query: &Query) -> Options {
        let agent = header(parts, USER_AGENT);
        let manager = match query.get("fieldManager") {
            "" if agent.is_empty() => "unknown",
            "" => agent.split('/').next().unwrap_or_default(),
            manager => manager,
        };
        Options {
            now: self.shared.now(),
            manager: manager.to_owned(),
            unknown_fields: UnknownFields::of(query.get("fieldValidation")),
        }
    }
}

fn header(parts: &Parts, name: http::HeaderName) -> &str {
    let value = parts.headers.get(name);
    value
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
}

fn call(parts: &Parts, target: Option<&Target>, query: &Query, body: &Bytes) -> Call {
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
        body: body.clone(),
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

/// Refuses requests that a real server would understand and this one does not, rather than answer something else.
fn check_shape(parts: &Parts, query: &Query, verb: Verb) -> Answered<Shown> {
    if let Some((name, value)) = query.unknown() {
        let message = format!("query parameter {name}={value}: fakekube does not know it");
        return Err(Refusal::bad_request(message));
    }
    let shown = Shown::of(header(parts, ACCEPT))?;
    if shown == Shown::Metadata && verb.writes() {
        let message = format!("{verb:?} answers with whole objects only");
        return Err(Refusal::new(406, "NotAcceptable", message));
    }
    let content = header(parts, CONTENT_TYPE);
    let content = content.split(';').next().unwrap_or_default();
    let allowed = match verb {
        Verb::Patch => MERGE_PATCH,
        _ if content.is_empty() => return Ok(shown),
        _ => "application/json",
    };
    if content == allowed {
        Ok(shown)
    } else {
        Err(Refusal::unsupported_media_type(content, allowed))
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

/// The answer to a deletion: some kinds are shown once more as they go, of others only a status is sent.
fn deleted(kind: &Kind, object: Value, gone: bool) -> Value {
    let is_shown = matches!(
        kind.plural.as_str(),
        "pods" | "persistentvolumeclaims" | "resourcequotas"
    );
    if !gone || (is_shown && !kind.is_custom()) {
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

fn written(written: Written) -> Response<AnswerBody> {
    let mut response = json_response(written.code, &written.object);
    for warning in &written.warnings {
        let text = format!("299 - {warning:?}");
        if let Ok(value) = HeaderValue::from_str(&text) {
            response.headers_mut().append(WARNING, value);
        }
    }
    response
}

fn response(code: u16, body: AnswerBody) -> Response<AnswerBody> {
    let mut response = Response::new(body);
    *response.status_mut() =
        http::StatusCode::from_u16(code).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

fn json_response(code: u16, value: &Value) -> Response<AnswerBody> {
    response(code, full(to_text(value)))
}

fn full(text: String) -> AnswerBody {
    let body = Full::new(Bytes::from(text));
    body.map_err(|error: Infallible| match error {})
        .boxed_unsync()
}

fn page_not_found() -> Response<AnswerBody> {
    let mut response = response(404, full("404 page not found\n".into()));
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, plain);
    response
}

fn refused(refusal: &Refusal) -> Response<AnswerBody> {
    let mut response = json_response(refusal.code, &refusal.body());
    if let Some(seconds) = refusal.retry_after {
        response.headers_mut().insert(RETRY_AFTER, seconds.into());
    }
    response
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
