//! The listeners: TCP on loopback, where the Host header must name it, and the unix socket of the state folder.

use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use axum::Router;
use axum::extract::Request;
use axum::http::header;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse as _, Response};
use larder_jobs::Reason;
use tokio::net::{TcpListener, UnixListener};
use tokio_util::sync::CancellationToken;

use super::problem::Failure;
use crate::error::{Error, Result};

/// Longest path that fits into a socket address (`sun_path` of Linux, less the final NUL).
const MAX_SOCKET_PATH: usize = 107;

/// The bound listeners.
#[derive(Debug)]
pub struct Listeners {
    unix: UnixListener,
    socket: PathBuf,
    tcp: Option<TcpListener>,
}

impl Listeners {
    /// Binds the unix socket, and TCP if there is an address. The caller owns the state folder, so a socket
    /// file that is there is a dead one.
    ///
    /// # Errors
    /// `io_error` if an address is taken or the path is too long.
    pub async fn bind(socket: &Path, address: Option<SocketAddr>) -> Result<Self> {
        if socket.as_os_str().len() > MAX_SOCKET_PATH {
            return Err(Error::new(
                Reason::InvalidRequest,
                format!(
                    "{} is too long for a unix socket ({MAX_SOCKET_PATH} bytes at most)",
                    socket.display()
                ),
                "set state.path to a shorter folder",
            ));
        }
        let _ = std::fs::remove_file(socket);
        let unix = UnixListener::bind(socket).map_err(|error| Error::io("listen on", socket, &error))?;
        // Whoever may connect may order downloads with our token: the owner only.
        std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600))
            .map_err(|error| Error::io("protect", socket, &error))?;
        let tcp = match address {
            Some(address) => Some(TcpListener::bind(address).await.map_err(|error| {
                Error::new(
                    Reason::IoError,
                    format!("cannot listen on {address}: {error}"),
                    "stop what uses that port, or set api.listen (empty: unix socket only)",
                )
            })?),
            None => None,
        };
        Ok(Self { unix, socket: socket.to_owned(), tcp })
    }

    /// The TCP address, with the port that the system chose for port 0.
    pub fn address(&self) -> Option<SocketAddr> {
        self.tcp.as_ref().and_then(|tcp| tcp.local_addr().ok())
    }
}

/// Serves until `stop`, then lets the running requests end.
pub async fn serve(listeners: Listeners, router: Router, stop: CancellationToken) {
    let Listeners { unix, socket, tcp } = listeners;
    let on_unix = axum::serve(unix, router.clone()).with_graceful_shutdown(stop.clone().cancelled_owned());
    let on_tcp = async {
        match tcp {
            Some(tcp) => {
                let guarded = router.layer(from_fn(loopback_host));
                axum::serve(tcp, guarded).with_graceful_shutdown(stop.cancelled_owned()).await
            }
            None => Ok(()),
        }
    };
    let (on_unix, on_tcp) = tokio::join!(on_unix, on_tcp);
    for (what, result) in [("unix socket", on_unix), ("TCP", on_tcp)] {
        if let Err(error) = result {
            tracing::error!(%error, "the API on {what} ended early");
        }
    }
    let _ = std::fs::remove_file(socket);
}

/// A page of another site may reach us through a name that it resolves to 127.0.0.1 (DNS rebinding); its
/// requests carry that name.
async fn loopback_host(request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("");
    let name = host
        .rsplit_once(':')
        .filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()))
        .map_or(host, |(n, _)| n);
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    if name.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback()) {
        return next.run(request).await;
    }
    Failure::new(
        Reason::Unauthorized,
        "the Host header does not name this machine's loopback",
        "ask for http://127.0.0.1 or http://localhost",
    )
    .into_response()
}
