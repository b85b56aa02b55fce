//! A port of this machine that stays with its owner, whether or not somebody listens on it.

use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpSocket};

const BACKLOG: u32 = 1024;

/// A held port of 127.0.0.1. Whoever sets `SO_REUSEADDR`, as servers do, can listen on it; nobody else is given it.
#[derive(Debug)]
pub(crate) struct Port {
    address: SocketAddr,
    /// Bound and not listening: keeps the kernel from handing out the port while nobody listens.
    _holder: TcpSocket,
}

impl Port {
    /// Some free one.
    pub(crate) fn free() -> Self {
        let holder = bind(([127, 0, 0, 1], 0).into());
        let address = holder.local_addr().expect("a bound socket");
        Self { address, _holder: holder }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn number(&self) -> u16 {
        self.address.port()
    }

    /// Listens; must be called on a runtime.
    pub(crate) fn listen(&self) -> TcpListener {
        bind(self.address).listen(BACKLOG).expect("the socket listens")
    }
}

fn bind(address: SocketAddr) -> TcpSocket {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_reuseaddr(true).expect("the option is set");
    socket.bind(address).expect("the port is free");
    socket
}
