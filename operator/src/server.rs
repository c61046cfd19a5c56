//! `/healthz`, `/readyz` and `/metrics` over HTTP: three pages, which need no framework.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::timeout,
};

use crate::{controller::bounds::Bounds, lease::Lead, metrics::Metrics};

/// The longest that one request may take.
const LIMIT: Duration = Duration::from_secs(5);
/// The most bytes of a request.
const REQUEST_BYTES: usize = 8_192;
/// Requests at a time; others wait.
const CONNECTIONS: usize = 64;

/// What the pages tell of.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What is known of live Jobs.
    pub bounds: Arc<Bounds>,
    /// Whether this replica leads.
    pub lead: Lead,
}

/// Serves until it is dropped.
///
/// # Errors
/// Where the socket is of no use any more.
pub async fn serve(listener: TcpListener, told: Told) -> io::Result<()> {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&room).acquire_owned().await else {
            return Ok(());
        };
        let (stream, _) = listener.accept().await?;
        let told = told.clone();
        tokio::spawn(async move {
            // Whoever asks and does not listen is let go.
            let _ = timeout(LIMIT, answer(stream, &told)).await;
            drop(place);
        });
    }
}

async fn answer(mut stream: TcpStream, told: &Told) -> io::Result<()> {
    let mut request = Vec::new();
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        let mut buffer = [0; 1_024];
        let count = stream.read(&mut buffer).await?;
        if count == 0 || request.len() + count > REQUEST_BYTES {
            return Ok(());
        }
        request.extend(buffer.iter().take(count));
    }
    let text = String::from_utf8_lossy(&request);
    let (status, kind, body) = page(&text, told);
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await
}

fn page(request: &str, told: &Told) -> (&'static str, &'static str, String) {
    const TEXT: &str = "text/plain; charset=utf-8";
    let mut words = request.split_ascii_whitespace();
    let (method, target) = (words.next(), words.next().unwrap_or_default());
    let path = target.split('?').next().unwrap_or_default();
    match (method, path) {
        // A replica that waits for the lead is as ready as can be.
        (Some("GET"), "/healthz" | "/readyz") => ("200 OK", TEXT, "ok\n".into()),
        (Some("GET"), "/metrics") => (
            "200 OK",
            "text/plain; version=0.0.4; charset=utf-8",
            told.metrics.text(told.lead.holds(), &told.bounds.live()),
        ),
        (Some("GET"), _) => ("404 Not Found", TEXT, "not found\n".into()),
        _ => ("405 Method Not Allowed", TEXT, "GET only\n".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn get(address: std::net::SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.expect("a server");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("an answer");
        answer
    }

    #[tokio::test]
    async fn the_three_pages_are_served() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(serve(listener, Told::default()));
        let ask = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
        for path in ["/healthz", "/readyz?verbose"] {
            let answer = get(address, &ask(path)).await;
            assert!(
                answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nok\n"),
                "{answer}"
            );
        }
        let metrics = get(address, &ask("/metrics")).await;
        assert!(
            metrics.contains("inferbench_operator_leader 0"),
            "{metrics}"
        );
        assert!(
            get(address, &ask("/else"))
                .await
                .starts_with("HTTP/1.1 404 ")
        );
        assert!(
            get(address, "POST /metrics HTTP/1.1\r\n\r\n")
                .await
                .starts_with("HTTP/1.1 405 ")
        );
        let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(9_000));
        let mut stream = TcpStream::connect(address).await.expect("a server");
        let _ = stream.write_all(long.as_bytes()).await;
    }
}
