//! `/healthz`, `/readyz` and `/metrics` over HTTP.

use std::{convert::Infallible, io, sync::Arc, time::Duration};

use http::{
    HeaderValue, Method, Request, Response, StatusCode,
    header::{ALLOW, CONTENT_TYPE},
};
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpListener, sync::Semaphore, time::timeout};

use crate::{
    controller::bounds::Bounds,
    lease::Lead,
    metrics::{self, Metrics},
};

/// The longest that a connection may take, which is for one request.
const LIMIT: Duration = Duration::from_secs(5);
/// The most bytes of a request's head.
const HEAD_BYTES: usize = 8_192;
/// Connections at a time; others wait.
const CONNECTIONS: usize = 64;

/// The sources of the pages.
#[derive(Clone, Debug, Default)]
pub struct Shown {
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// The live Jobs, as far as they are known.
    pub bounds: Arc<Bounds>,
    /// Whether this replica leads.
    pub lead: Lead,
}

/// Serves until it is dropped.
///
/// # Errors
/// Where the socket is of no use any more.
pub async fn serve(listener: TcpListener, shown: Shown) -> io::Result<()> {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .keep_alive(false)
        .max_buf_size(HEAD_BYTES);
    loop {
        let Ok(place) = Arc::clone(&room).acquire_owned().await else {
            return Ok(());
        };
        let (stream, _) = listener.accept().await?;
        let shown = shown.clone();
        let answer = service_fn(move |request| {
            let page = page(&request, &shown);
            async move { Ok::<_, Infallible>(page) }
        });
        let connection = http.serve_connection(TokioIo::new(stream), answer);
        tokio::spawn(async move {
            // Whoever asks and does not listen is let go.
            let _ = timeout(LIMIT, connection).await;
            drop(place);
        });
    }
}

fn page<B>(request: &Request<B>, shown: &Shown) -> Response<String> {
    const TEXT: &str = "text/plain; charset=utf-8";
    let (status, kind, body) = match (request.method(), request.uri().path()) {
        // A replica that waits for the lead is as ready as can be.
        (&Method::GET, "/healthz" | "/readyz") => (StatusCode::OK, TEXT, "ok\n".to_owned()),
        (&Method::GET, "/metrics") => (
            StatusCode::OK,
            metrics::CONTENT_TYPE,
            shown.metrics.text(shown.lead.holds(), &shown.bounds.live()),
        ),
        (&Method::GET, _) => (StatusCode::NOT_FOUND, TEXT, "not found\n".to_owned()),
        _ => (
            StatusCode::METHOD_NOT_ALLOWED,
            TEXT,
            "GET only\n".to_owned(),
        ),
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    if status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(ALLOW, HeaderValue::from_static("GET"));
    }
    response
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpStream,
        time::Instant,
    };

    use super::*;

    async fn server() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(serve(listener, Shown::default()));
        address
    }

    /// All that the server answers until it closes the connection.
    async fn get(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.expect("a server");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("an answer");
        answer
    }

    /// The status line, the headers and the body of an answer to one request.
    async fn ask(address: SocketAddr, method: &str, path: &str) -> (String, String, String) {
        let request = format!("{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n");
        let answer = get(address, &request).await;
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        let (status, headers) = head.split_once("\r\n").expect("headers");
        (
            status.into(),
            format!("{}\r\n", headers.to_lowercase()),
            body.into(),
        )
    }

    #[tokio::test]
    async fn the_three_pages_are_served() {
        let address = server().await;
        for path in ["/healthz", "/readyz?verbose"] {
            let (status, headers, body) = ask(address, "GET", path).await;
            assert_eq!(
                (status.as_str(), body.as_str()),
                ("HTTP/1.1 200 OK", "ok\n")
            );
            for line in [
                "content-type: text/plain; charset=utf-8\r\n",
                "content-length: 3\r\n",
                "connection: close\r\n",
            ] {
                assert!(headers.contains(line), "{line:?}: {headers}");
            }
        }
        let (status, headers, body) = ask(address, "GET", "/metrics").await;
        assert_eq!(status, "HTTP/1.1 200 OK");
        assert!(
            headers.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"),
            "{headers}"
        );
        assert!(body.contains("\ninferbench_operator_leader 0\n"), "{body}");
    }

    #[tokio::test]
    async fn other_paths_are_not_found() {
        let address = server().await;
        for path in ["/", "/else", "/metrics/", "/healthz/x", "//metrics"] {
            let (status, _, body) = ask(address, "GET", path).await;
            assert_eq!(
                (status.as_str(), body.as_str()),
                ("HTTP/1.1 404 Not Found", "not found\n"),
                "{path}"
            );
        }
    }

    #[tokio::test]
    async fn other_methods_are_not_allowed() {
        let address = server().await;
        for method in ["POST", "PUT", "DELETE", "OPTIONS", "HEAD"] {
            let (status, headers, body) = ask(address, method, "/metrics").await;
            assert_eq!(status, "HTTP/1.1 405 Method Not Allowed", "{method}");
            assert!(headers.contains("allow: get\r\n"), "{method}: {headers}");
            // The answer to HEAD never has a body.
            let wanted = if method == "HEAD" { "" } else { "GET only\n" };
            assert_eq!(body, wanted, "{method}");
        }
        assert!(
            get(address, "POST /metrics HTTP/1.1\r\n\r\n")
                .await
                .starts_with("HTTP/1.1 405 ")
        );
    }

    #[tokio::test]
    async fn a_connection_is_for_one_request() {
        let address = server().await;
        let twice = "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n".repeat(2);
        let answer = get(address, &twice).await;
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
    }

    #[tokio::test]
    async fn what_is_no_request_is_refused() {
        let address = server().await;
        let answer = get(address, "good day\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(9_000));
        let mut stream = TcpStream::connect(address).await.expect("a server");
        let _ = stream.write_all(long.as_bytes()).await;
        let mut answer = Vec::new();
        // Bytes that it has not read may reset the connection.
        let _ = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8_lossy(&answer);
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 4"),
            "{answer}"
        );
        assert_eq!(ask(address, "GET", "/healthz").await.2, "ok\n");
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_is_half_sent_is_let_go_and_holds_up_no_other() {
        let address = server().await;
        let begun = Instant::now();
        let mut half = TcpStream::connect(address).await.expect("a server");
        half.write_all(b"GET /metrics HTTP/1.1\r\nHost:")
            .await
            .expect("sent");
        assert_eq!(ask(address, "GET", "/healthz").await.2, "ok\n");
        let mut answer = Vec::new();
        half.read_to_end(&mut answer).await.expect("the end");
        assert_eq!(String::from_utf8_lossy(&answer), "");
        assert!(begun.elapsed() >= LIMIT, "{:?}", begun.elapsed());
    }
}
