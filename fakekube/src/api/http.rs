//! A listener on loopback, so that other processes can talk to the server.

use std::net::{Ipv4Addr, SocketAddr};

use http::Request;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpListener, task::JoinSet};

use super::{server::FakeKube, service::Service};

/// A server that listens, until this is dropped.
pub struct Listening {
    /// Its address: `http://127.0.0.1:…`.
    pub url: String,
    _tasks: JoinSet<()>,
}

impl FakeKube {
    /// Listens on loopback, on a free port. All who connect are one client, `http`, to counters and faults.
    ///
    /// # Errors
    /// Where no port is free.
    pub async fn listen(&self) -> std::io::Result<Listening> {
        let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await?;
        let url = format!("http://{}", listener.local_addr()?);
        let service = Service::new(&self.0, "http");
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        if let Ok((stream, _)) = accepted {
                            let service = service.clone();
                            connections.spawn(async move {
                                let answer = service_fn(move |request: Request<Incoming>| service.clone().answer(request));
                                // A connection that breaks is for the client to notice.
                                let _ = http1::Builder::new()
                                    .timer(TokioTimer::new())
                                    .serve_connection(TokioIo::new(stream), answer)
                                    .await;
                            });
                        }
                    }
                    Some(_) = connections.join_next() => {}
                }
            }
        });
        Ok(Listening { url, _tasks: tasks })
    }
}
