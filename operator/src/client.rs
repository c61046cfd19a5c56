//! The client of the API server, and the count of what it is asked.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use http::{Request, Response};
use kube::{
    Client, Config,
    client::{Body, ClientBuilder},
};
use tower::{Layer, Service};

use crate::metrics::Metrics;

/// The longest silence of a connection. Reconciles have a much shorter limit of their own; this is for the first list
/// of a watch, which has none, and without which nothing would ever be reconciled. Watches end a little sooner by
/// themselves.
pub const READ_TIMEOUT: Duration = Duration::from_secs(295);

/// A client that never sends a request again by itself, and counts every one.
///
/// # Errors
/// Where the configuration is of no use, such as a certificate that cannot be read.
pub fn client(mut config: Config, metrics: Arc<Metrics>) -> kube::Result<Client> {
    // A request that is sent again after its answer was lost is for the next reconcile to sort out.
    config.default_retry = false;
    config.read_timeout.get_or_insert(READ_TIMEOUT);
    // Counted from the request: a connection may have been idle before.
    config.reset_reader_on_write = true;
    choose_cryptography();
    let builder = ClientBuilder::try_from(config)?;
    Ok(builder.with_layer(&Counting(metrics)).build())
}

/// Settles what TLS is made with: where several are built in, as in a build of the whole workspace, none is chosen by
/// itself. Once chosen, it stays.
pub(crate) fn choose_cryptography() {
    // An error says that there is a choice already.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// Counts the requests that go through a service.
#[derive(Clone, Debug)]
pub struct Counting(pub Arc<Metrics>);

impl<S> Layer<S> for Counting {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        let metrics = Arc::clone(&self.0);
        Counted { inner, metrics }
    }
}

/// A service whose requests are counted.
#[derive(Clone, Debug)]
pub struct Counted<S> {
    inner: S,
    metrics: Arc<Metrics>,
}

impl<S, B> Service<Request<Body>> for Counted<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Future: Send + 'static,
    S::Error: 'static,
    B: 'static,
{
    type Response = Response<B>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<B>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        // `Cluster` says what a list is; any other request goes by its method.
        let verb = request.extensions().get::<&'static str>().copied();
        let verb = verb.unwrap_or_else(|| method(request.method()));
        let count = Count {
            metrics: Arc::clone(&self.metrics),
            verb,
            began: Instant::now(),
            code: None,
        };
        let answer = self.inner.call(request);
        Box::pin(async move {
            let mut count = count;
            let answer = answer.await;
            count.code = answer.as_ref().ok().map(|answer| answer.status().as_u16());
            answer
        })
    }
}

/// Counts when it is dropped, so that a request that nobody waits for any more is counted as well.
struct Count {
    metrics: Arc<Metrics>,
    verb: &'static str,
    began: Instant,
    code: Option<u16>,
}

impl Drop for Count {
    fn drop(&mut self) {
        let took = self.began.elapsed();
        match self.code {
            Some(code) => self.metrics.requested(self.verb, code, took),
            None => self.metrics.requested(self.verb, "<error>", took),
        }
    }
}

/// A method, from a set that is known beforehand.
fn method(method: &http::Method) -> &'static str {
    match method.as_str() {
        "GET" => "get",
        "POST" => "create",
        "PUT" => "replace",
        "PATCH" => "patch",
        "DELETE" => "delete",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::batch::v1::Job;
    use kube::{Api, api::ListParams};
    use tower::service_fn;

    use super::*;
    use crate::controller::bounds::Live;

    fn counted(metrics: &Arc<Metrics>, code: Option<u16>) -> Client {
        let server = service_fn(move |_: Request<Body>| async move {
            let Some(code) = code else {
                return std::future::pending().await;
            };
            let body = Body::from(br#"{"metadata": {}, "items": []}"#.to_vec());
            let response = Response::builder().status(code).body(body);
            Ok::<_, std::convert::Infallible>(response.expect("a response"))
        });
        ClientBuilder::new(server, "bench")
            .with_layer(&Counting(Arc::clone(metrics)))
            .build()
    }

    #[tokio::test]
    async fn requests_are_counted_by_verb_and_code() {
        let metrics = Arc::new(Metrics::default());
        for (code, times) in [(Some(200), 2), (Some(503), 1), (None, 1)] {
            let jobs: Api<Job> = Api::all(counted(&metrics, code));
            for _ in 0..times {
                let all = ListParams::default();
                let _ = tokio::time::timeout(Duration::from_millis(20), jobs.list(&all)).await;
            }
        }
        let text = metrics.text(false, &Live::new());
        for (code, count) in [("200", 2), ("503", 1), ("<error>", 1)] {
            let line = format!(
                "inferbench_operator_api_requests_total{{verb=\"list\",code=\"{code}\"}} {count}"
            );
            assert!(text.contains(&line), "{line}\n{text}");
        }
    }
}
