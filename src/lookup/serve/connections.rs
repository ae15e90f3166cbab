//! Connections, and how long they may last.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::ServeSettings;

/// How long a shutdown waits for what is under way.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(10);

/// How long to wait when the system gives no more connections, mostly for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);

/// Longest header of a request, in bytes.
const MAX_HEADER: usize = 32 * 1024;

/// Accepts connections until it is told to stop. No more are open than the settings say: the rest wait
/// in the system's queue, where they cost nothing.
pub(super) async fn accept(
    listener: TcpListener,
    app: Router,
    settings: ServeSettings,
    stop: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(settings.max_connections));
    let mut open = JoinSet::new();
    let next = async || {
        // Only a closed semaphore refuses, and nobody closes this one.
        let place = Arc::clone(&places).acquire_owned().await.ok();
        (place, listener.accept().await)
    };
    loop {
        let (place, accepted) = tokio::select! {
            () = stop.cancelled() => break,
            next = next() => next,
        };
        while open.try_join_next().is_some() {}
        match accepted {
            Ok((socket, _)) => {
                let (app, stop) = (app.clone(), stop.clone());
                open.spawn(async move {
                    serve(socket, app, settings, stop).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection was not accepted");
                drop(place);
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    let finished = async { while open.join_next().await.is_some() {} };
    // Whoever has not finished by then is cut off when the set is dropped.
    let _ = timeout(SHUTDOWN_GRACE, finished).await;
}

async fn serve(socket: TcpStream, app: Router, settings: ServeSettings, stop: CancellationToken) {
    // Small answers must not wait for the client's delayed acknowledgement.
    let _ = socket.set_nodelay(true);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(settings.header_time)
        .max_buf_size(MAX_HEADER)
        .serve_connection(TokioIo::new(socket), TowerToHyperService::new(app));
    let mut connection = pin!(connection);
    tokio::select! {
        _ = connection.as_mut() => return,
        () = stop.cancelled() => {}
        () = sleep(settings.connection_time) => {}
    }
    connection.as_mut().graceful_shutdown();
    // Long enough for a request that has just begun; a client that does not read its answer is cut off.
    let last_request = settings
        .request_time
        .saturating_mul(2)
        .saturating_add(settings.header_time);
    let _ = timeout(last_request, connection).await;
}
