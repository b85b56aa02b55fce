//! Connections, and what each of them may take: slots, time for the handshake, time for each request's head.
//!
//! Whoever sends a byte now and then, or nothing at all, loses the connection and has held one slot meanwhile. Bodies
//! have bounds of their own (`body`), as have answers (the time-outs in front of the routes).

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::tls::Tls;

/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long the head of a request may take from its first chance on; so also how long a connection may rest.
const HEAD: Duration = Duration::from_secs(15);
/// Most bytes of a request's head.
const MAX_HEAD: usize = 32 << 10;

/// Serves what `listener` accepts, at most `most` connections at a time, until `stop`; then lets running requests end.
/// Further connections wait with the kernel.
pub(super) async fn serve<L: Listener>(
    mut listener: L,
    router: Router,
    tls: Option<Tls>,
    most: usize,
    stop: CancellationToken,
) {
    let (slots, connections) = (Arc::new(Semaphore::new(most)), TaskTracker::new());
    loop {
        let next = async {
            let slot = Arc::clone(&slots).acquire_owned().await;
            (slot, listener.accept().await.0)
        };
        let (slot, io) = tokio::select! {
            () = stop.cancelled() => break,
            (slot, io) = next => (slot, io),
        };
        // Nobody closes the semaphore.
        let Ok(slot) = slot else { break };
        let (router, tls, stop) = (router.clone(), tls.clone(), stop.clone());
        connections.spawn(async move { connection(io, router, tls, &stop, slot).await });
    }
    connections.close();
    connections.wait().await;
}

async fn connection<I: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    io: I,
    router: Router,
    tls: Option<Tls>,
    stop: &CancellationToken,
    _slot: OwnedSemaphorePermit,
) {
    let Some(tls) = tls else { return talk(io, router, stop).await };
    match tokio::time::timeout(HANDSHAKE, tls.acceptor().accept(io)).await {
        Ok(Ok(io)) => talk(io, router, stop).await,
        Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
        Err(_) => tracing::debug!("a TLS handshake took too long"),
    }
}

async fn talk<I: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    io: I,
    router: Router,
    stop: &CancellationToken,
) {
    let talk = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(io), TowerToHyperService::new(router));
    let mut talk = std::pin::pin!(talk);
    let ended = tokio::select! {
        ended = talk.as_mut() => ended,
        () = stop.cancelled() => {
            talk.as_mut().graceful_shutdown();
            talk.await
        }
    };
    if let Err(error) = ended {
        // Whoever leaves in the middle, or was cut.
        tracing::debug!(%error, "a connection ended early");
    }
}
