//! Connections: accepting them, their limits, and their orderly end.

mod guarded;
mod peer;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Router;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

use crate::app::App;
use guarded::Guarded;
pub use peer::Peer;

/// How long the last bytes of the last answers may take to leave.
const FLUSH: Duration = Duration::from_secs(5);

/// Serves until `stop` says that the server ends, then lets open connections finish what they write.
pub async fn serve(
    listener: TcpListener,
    app: Arc<App>,
    router: Router,
    stop: watch::Receiver<bool>,
) {
    let limits = &app.options.limits;
    let permits = Arc::new(Semaphore::new(limits.connections));
    let mut stopping = stop.clone();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = told(&mut stopping) => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of file descriptors, most likely: others have to close first.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        match Arc::clone(&permits).try_acquire_owned() {
            Ok(permit) => {
                let (app, router, stop) = (Arc::clone(&app), router.clone(), stop.clone());
                tokio::spawn(async move {
                    app.metrics.connections.fetch_add(1, Ordering::Relaxed);
                    connection(stream, &app, router, stop).await;
                    app.metrics.connections.fetch_sub(1, Ordering::Relaxed);
                    drop(permit);
                });
            }
            Err(_) => drop(tokio::spawn(turn_away(stream))),
        }
    }
    drop(listener);
    let all = limits.connections as u32;
    let _ = tokio::time::timeout(FLUSH, permits.acquire_many(all)).await;
}

/// One connection until it ends. A client that closes its sending side may still read, so its response
/// is written to the end; a write that fails drops the response in work, which cancels the answer.
/// Requests carry their [`Peer`] for those whose first write comes too late to tell.
async fn connection(stream: TcpStream, app: &App, router: Router, mut stop: watch::Receiver<bool>) {
    let limits = &app.options.limits;
    // Tokens are small and each should leave at once.
    let _ = stream.set_nodelay(true);
    let stream = Arc::new(stream);
    let peer = Peer::new(Arc::clone(&stream));
    let io = TokioIo::new(Guarded::new(stream, limits.write_timeout));
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer.clone());
        router.call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_buf_size(limits.header_bytes)
        .half_close(true)
        .serve_connection(io, service);
    tokio::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = told(&mut stop) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "connection ended");
    }
}

/// Tells a client that there are too many.
async fn turn_away(mut stream: TcpStream) {
    const BODY: &str = r#"{"error":{"message":"too many connections; try again later","type":"service_unavailable_error","param":null,"code":"too_many_connections"}}"#;
    let response = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
         retry-after: 1\r\nconnection: close\r\n\r\n{BODY}",
        BODY.len(),
    );
    let write = async {
        let _ = stream.write_all(response.as_bytes()).await;
        let _ = stream.shutdown().await;
    };
    let _ = tokio::time::timeout(Duration::from_secs(1), write).await;
}

/// Waits until `stop` says so.
async fn told(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}
