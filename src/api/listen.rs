//! The listeners: TCP, behind its door, and the unix socket of the state folder.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use axum::middleware::{from_fn, from_fn_with_state};
use axum::serve::ListenerExt as _;
use axum::{Extension, Router};
use larder_jobs::Reason;
use rustix::net::sockopt;
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio_util::sync::CancellationToken;

use super::connections;
use super::events::Closing;
use super::guard::{self, Door};
use crate::error::{Error, Result};

/// Longest path that fits into a socket address (`sun_path` of Linux, less the final NUL).
const MAX_SOCKET_PATH: usize = 107;
/// Most connections at a time over TCP, and over the unix socket, so that the one cannot starve the other.
const MAX_TCP: usize = 256;
const MAX_UNIX: usize = 128;
/// After so many milliseconds without an acknowledgement a peer is taken for gone, also one that reads nothing.
const PEER_GONE: u32 = 60_000;

/// The bound listeners.
#[derive(Debug)]
pub struct Listeners {
    unix: UnixListener,
    socket: PathBuf,
    tcp: Option<(TcpListener, Door)>,
}

impl Listeners {
    /// Binds the unix socket, and TCP if there is an address, behind its door. The caller owns the state folder, so a socket
    /// file that is there is a dead one.
    ///
    /// # Errors
    /// `io_error` if an address is taken or the path is too long.
    pub async fn bind(socket: &Path, tcp: Option<(SocketAddr, Door)>) -> Result<Self> {
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
        let tcp = match tcp {
            Some((address, door)) => {
                let listener = TcpListener::bind(address).await.map_err(|error| {
                    Error::new(
                        Reason::IoError,
                        format!("cannot listen on {address}: {error}"),
                        "stop what uses that port, or set api.listen (empty: unix socket only)",
                    )
                })?;
                Some((listener, door))
            }
            None => None,
        };
        Ok(Self { unix, socket: socket.to_owned(), tcp })
    }

    /// The TCP address, with the port that the system chose for port 0.
    pub fn address(&self) -> Option<SocketAddr> {
        self.tcp.as_ref().and_then(|(tcp, _)| tcp.local_addr().ok())
    }

    /// The door of the TCP listener, to read its files again.
    pub fn door(&self) -> Option<Door> {
        self.tcp.as_ref().map(|(_, door)| door.clone())
    }
}

/// Serves until `stop`, then lets the running requests end.
pub async fn serve(listeners: Listeners, router: Router, stop: CancellationToken) {
    let Listeners { unix, socket, tcp } = listeners;
    let router = router.layer(Extension(Closing(stop.clone())));
    let behind_socket = router.clone().layer(from_fn(guard::over_socket));
    let on_unix = connections::serve(unix, behind_socket, None, MAX_UNIX, stop.clone());
    let on_tcp = async {
        if let Some((tcp, door)) = tcp {
            let tls = door.tls();
            let behind_door = router.layer(from_fn_with_state(door, guard::over_tcp));
            connections::serve(tcp.tap_io(tune), behind_door, tls, MAX_TCP, stop).await;
        }
    };
    tokio::join!(on_unix, on_tcp);
    let _ = std::fs::remove_file(socket);
}

/// At best: without it a dead peer only holds its slot for longer.
fn tune(stream: &mut TcpStream) {
    let _ = stream.set_nodelay(true);
    let _ = sockopt::set_tcp_user_timeout(stream, PEER_GONE);
}
