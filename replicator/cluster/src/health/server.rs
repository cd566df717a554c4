//! The answering side: one request a connection, few connections, little time for each.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::{HealthState, Look};

/// Connections at a time. One more ends the oldest: who asks honestly is done in a millisecond.
pub(super) const CONNECTIONS_MAX: usize = 64;
/// Longest time for a request's head.
const HEAD_LIMIT: Duration = Duration::from_secs(2);
/// Longest life of a connection.
const CONNECTION_LIMIT: Duration = Duration::from_secs(5);
/// Largest head of a request.
pub(super) const HEAD_BYTES_MAX: usize = 8 << 10;
const HEADERS_MAX: usize = 64;
/// Pause after accept(2) failed, so that a lack of descriptors does not become a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const PATH: &str = "/health";

/// Serve whoever connects. The connections end with the returned future.
pub(super) async fn accept(listener: TcpListener, look: Arc<Look>) {
    let mut connections = JoinSet::new();
    let mut oldest_first = std::collections::VecDeque::new();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                while connections.try_join_next().is_some() {}
                oldest_first.retain(|handle: &tokio::task::AbortHandle| !handle.is_finished());
                if oldest_first.len() >= CONNECTIONS_MAX
                    && let Some(oldest) = oldest_first.pop_front()
                {
                    oldest.abort();
                }
                oldest_first.push_back(connections.spawn(converse(stream, look.clone())));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a health check");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn converse(stream: TcpStream, look: Arc<Look>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let response = answer(request.method(), request.uri().path(), &*look);
        async { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    match timeout(CONNECTION_LIMIT, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a health check was not understood, or left"),
        Err(_) => tracing::debug!("a health check took too long"),
    }
}

fn answer(method: &Method, path: &str, look: &Look) -> Response<Full<Bytes>> {
    if method != Method::GET && method != Method::HEAD {
        let mut response = respond(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    let module = match path.strip_prefix(PATH) {
        Some("") => Some(""),
        Some(rest) => rest.strip_prefix('/'),
        None => None,
    };
    match module.and_then(look) {
        Some(HealthState { serving: true, word }) => respond(StatusCode::OK, &word),
        Some(HealthState { serving: false, word }) => respond(StatusCode::SERVICE_UNAVAILABLE, &word),
        None => respond(StatusCode::NOT_FOUND, "unknown"),
    }
}

fn respond(status: StatusCode, word: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(format!("{word}\n"))));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    // An answer that somebody kept would send clients to a node that has stopped.
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
