//! Logs, and with the feature `otlp` traces: each reconcile of a resource is a span, with each call to the API server
//! in it.

use tracing::Subscriber;
use tracing_subscriber::{
    EnvFilter, Layer, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

/// How logs are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Logs {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// Sends what is left when it is dropped.
#[must_use]
#[derive(Debug, Default)]
pub struct Traces {
    #[cfg(feature = "otlp")]
    provider: Option<opentelemetry_sdk::trace::SdkTracerProvider>,
}

/// From now on, this process logs to standard output as `RUST_LOG` says, and, where the environment names a receiver
/// (`OTEL_EXPORTER_OTLP_ENDPOINT`), sends traces to it. To be called once, inside of a Tokio runtime.
///
/// # Errors
/// Where the receiver's address is of no use.
pub fn init(logs: Logs, identity: &str) -> Result<Traces, String> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let registry = tracing_subscriber::registry();
    let fmt = tracing_subscriber::fmt::layer();
    let fmt = match logs {
        // The library's own spans say no more than this one.
        Logs::Json => {
            let json = fmt.json().flatten_event(true).with_span_list(false);
            json.with_filter(filter).boxed()
        }
        Logs::Text => fmt.with_filter(filter).boxed(),
    };
    let (sender, traces) = sender(identity)?;
    registry.with(fmt).with(sender).init();
    Ok(traces)
}

/// A layer that sends nothing.
#[cfg(not(feature = "otlp"))]
fn sender<S: Subscriber>(_: &str) -> Result<(Option<impl Layer<S>>, Traces), String> {
    Ok((
        None::<tracing_subscriber::layer::Identity>,
        Traces::default(),
    ))
}

#[cfg(feature = "otlp")]
use otlp::sender;

#[cfg(feature = "otlp")]
mod otlp {
    use std::time::Duration;

    use http::{Request, Response, Uri, uri::PathAndQuery};
    use kube::{
        Client, Config,
        client::{Body, ClientBuilder},
    };
    use opentelemetry::trace::TracerProvider as _;
    use opentelemetry_http::{Bytes, HttpClient, HttpError};
    use opentelemetry_otlp::{SpanExporter, WithExportConfig as _, WithHttpConfig as _};
    use opentelemetry_sdk::{Resource, trace::SdkTracerProvider};
    use tokio::runtime::Handle;
    use tracing::{Level, Metadata};
    use tracing_subscriber::{filter::filter_fn, registry::LookupSpan};

    use super::{Layer, Subscriber, Traces};

    /// The longest that the receiver may take.
    const LIMIT: Duration = Duration::from_secs(10);

    impl Drop for Traces {
        fn drop(&mut self) {
            if let Some(provider) = &self.provider {
                // Spans that cannot be sent any more are lost, and nothing depends on them.
                let _ = provider.shutdown_with_timeout(LIMIT);
            }
        }
    }

    /// A layer that sends the operator's own spans, where there is a receiver.
    pub fn sender<S>(identity: &str) -> Result<(Option<impl Layer<S>>, Traces), String>
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        let variable = |name: &str| std::env::var(name).ok();
        let Some(endpoint) = endpoint(&variable) else {
            return Ok((None, Traces::default()));
        };
        let provider = provider(&endpoint, identity)?;
        let layer = tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("inferbench-operator"))
            // Not those of the client that sends them: each would bring forth the next.
            .with_filter(filter_fn(|metadata: &Metadata<'_>| {
                metadata.target().starts_with("inferbench_operator")
                    && *metadata.level() <= Level::DEBUG
            }));
        let provider = Some(provider);
        Ok((Some(layer), Traces { provider }))
    }

    /// Where traces go, by OpenTelemetry's conventions: the one variable has the whole address, the other that of a
    /// receiver of everything.
    fn endpoint(variable: &dyn Fn(&str) -> Option<String>) -> Option<String> {
        let given = |name| variable(name).filter(|value| !value.is_empty());
        given("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT").or_else(|| {
            let all = given("OTEL_EXPORTER_OTLP_ENDPOINT")?;
            Some(format!("{}/v1/traces", all.trim_end_matches('/')))
        })
    }

    fn provider(endpoint: &str, identity: &str) -> Result<SdkTracerProvider, String> {
        let wrong =
            |error: &dyn std::fmt::Display| format!("the receiver of traces, {endpoint}: {error}");
        let uri: Uri = endpoint.parse().map_err(|error| wrong(&error))?;
        let mut base = uri.into_parts();
        base.path_and_query = Some(PathAndQuery::from_static("/"));
        let base = Uri::from_parts(base).map_err(|error| wrong(&error))?;
        let mut config = Config::new(base);
        config.default_retry = false;
        crate::client::choose_cryptography();
        let client = ClientBuilder::try_from(config).map_err(|error| wrong(&error))?;
        let exporter = SpanExporter::builder()
            .with_http()
            .with_endpoint(endpoint)
            .with_http_client(Sender {
                client: client.build(),
                runtime: Handle::current(),
            })
            .build()
            .map_err(|error| wrong(&error))?;
        let resource = Resource::builder()
            .with_service_name("inferbench-operator")
            .with_attribute(opentelemetry::KeyValue::new(
                "service.instance.id",
                identity.to_owned(),
            ))
            .with_attribute(opentelemetry::KeyValue::new(
                "service.version",
                env!("CARGO_PKG_VERSION"),
            ))
            .build();
        Ok(SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_resource(resource)
            .build())
    }

    /// Sends by the HTTP client that the API server is asked by, so that there is but one in this program. The exporter
    /// has a thread of its own, without a runtime: requests go to this one's.
    struct Sender {
        client: Client,
        runtime: Handle,
    }

    impl std::fmt::Debug for Sender {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.debug_struct("Sender").finish_non_exhaustive()
        }
    }

    #[async_trait::async_trait]
    impl HttpClient for Sender {
        async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
            let client = self.client.clone();
            let sent = self
                .runtime
                .spawn(async move { tokio::time::timeout(LIMIT, send(&client, request)).await });
            sent.await??
        }
    }

    async fn send(client: &Client, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (mut head, body) = request.into_parts();
        // The client knows whom to ask.
        let path = head.uri.path_and_query().cloned();
        head.uri = path.map_or_else(Uri::default, Uri::from);
        let answer = client
            .send(Request::from_parts(head, Body::from(body.to_vec())))
            .await?;
        let (head, body) = answer.into_parts();
        let body = body.collect_bytes().await?;
        Ok(Response::from_parts(head, body))
    }

    #[cfg(test)]
    mod tests {
        use tokio::{
            io::{AsyncReadExt as _, AsyncWriteExt as _},
            net::TcpListener,
        };
        use tracing_subscriber::layer::SubscriberExt as _;

        use super::*;

        #[test]
        fn the_environment_names_the_receiver() {
            let find = |set: &[(&str, &str)]| {
                endpoint(&|name| {
                    let found = set.iter().find(|(key, _)| *key == name);
                    found.map(|(_, value)| (*value).to_owned())
                })
            };
            let all = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://otel:4318/");
            let traces = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://tempo/spans");
            assert_eq!(find(&[]), None);
            assert_eq!(find(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "")]), None);
            assert_eq!(find(&[all]).as_deref(), Some("http://otel:4318/v1/traces"));
            assert_eq!(find(&[all, traces]).as_deref(), Some("http://tempo/spans"));
        }

        #[tokio::test(flavor = "multi_thread")]
        async fn a_span_reaches_the_receiver() {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let address = listener.local_addr().expect("an address");
            let receiver = tokio::spawn(async move {
                let (mut stream, _) = listener.accept().await.expect("a request");
                let mut request = Vec::new();
                while !String::from_utf8_lossy(&request).contains("thesis") {
                    let mut buffer = [0; 4_096];
                    let count = stream.read(&mut buffer).await.expect("a request");
                    assert!(count > 0, "{}", String::from_utf8_lossy(&request));
                    request.extend(buffer.iter().take(count));
                }
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
                stream.write_all(answer).await.expect("sent");
                String::from_utf8_lossy(&request).into_owned()
            });
            let provider =
                provider(&format!("http://{address}/v1/traces"), "operator-0").expect("a provider");
            let tracer = provider.tracer("test");
            let subscriber = tracing_subscriber::registry()
                .with(tracing_opentelemetry::layer().with_tracer(tracer));
            tracing::subscriber::with_default(subscriber, || {
                tracing::info_span!("reconcile", name = "thesis").in_scope(|| {});
            });
            let flushed = tokio::task::spawn_blocking(move || provider.force_flush());
            flushed.await.expect("no panic").expect("sent");
            let request = receiver.await.expect("received");
            assert!(
                request.starts_with("POST /v1/traces HTTP/1.1\r\n"),
                "{request}"
            );
            assert!(
                request.contains("reconcile") && request.contains("operator-0"),
                "{request}"
            );
        }
    }
}
