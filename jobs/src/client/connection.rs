//! The way to Redis: one multiplexed connection, made when it is needed and made again when it broke.
//!
//! `redis::aio::ConnectionManager` is not used: it keeps a connection whose answers time out (a peer that
//! vanished behind a firewall), answers the first command after an outage with the old error, and asks a new
//! server nothing. Every step of the queue may be repeated (see `lua/`), so a step that met a broken
//! connection is sent again, for a second or two.

use std::sync::Arc;
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable as _};
use futures_util::StreamExt as _;
use redis::aio::{MultiplexedConnection, PubSubSink, PubSubStream};
use redis::{AsyncConnectionConfig, ErrorKind, RedisError, Script, ServerErrorKind, Value};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use super::address::Address;
use super::error::{self, Error, Result};
use super::server::Server;

/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(5);
/// How long an answer may take; a Redis that saves or is swapped in can be silent for seconds.
const ANSWER: Duration = Duration::from_secs(8);
/// A quiet subscription is asked whether it still lives.
const QUIET: Duration = Duration::from_secs(15);
/// Pauses before a step is sent again over a new connection; together about a second and a half.
const AGAIN: Duration = Duration::from_millis(50);
const AGAIN_TIMES: usize = 5;

/// The steps of the queue.
const SCRIPT: &str = concat!(
    include_str!("lua/records.lua"),
    include_str!("lua/rules.lua"),
    include_str!("lua/steps.lua"),
    include_str!("lua/fleet.lua")
);

/// One step: a verb of `lua/steps.lua` and its arguments.
#[derive(Debug, Clone)]
pub struct Step(Vec<Vec<u8>>);

impl Step {
    /// A step without arguments.
    pub fn new(verb: &str) -> Self {
        Self(vec![verb.into()])
    }

    /// With one more argument.
    #[must_use]
    pub fn arg(mut self, value: impl ToString) -> Self {
        self.0.push(value.to_string().into_bytes());
        self
    }

    /// With one more argument, empty if there is none.
    #[must_use]
    pub fn maybe(self, value: Option<impl ToString>) -> Self {
        let text = value.map(|value| value.to_string());
        self.arg(text.unwrap_or_default())
    }
}

/// A way to the queue that any number of tasks share.
#[derive(Clone)]
pub struct Connection {
    inner: Arc<Inner>,
}

struct Inner {
    address: Address,
    script: Script,
    current: Mutex<Current>,
}

#[derive(Default)]
struct Current {
    /// Tells a connection from the one before.
    number: u64,
    open: Option<(MultiplexedConnection, Server)>,
    /// The last attempt that failed, and when: whoever waited for it need not wait for one of his own.
    failed: Option<(Instant, Fault)>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("address", &self.inner.address).finish_non_exhaustive()
    }
}

impl Connection {
    /// A way to the queue at `address`. Nothing is sent yet.
    pub fn new(address: Address) -> Self {
        Self::with_script(address, SCRIPT)
    }

    /// The same with steps of another kind; a test puts its own clock in.
    #[doc(hidden)]
    pub fn with_script(address: Address, script: &str) -> Self {
        let script = Script::new(script);
        Self { inner: Arc::new(Inner { address, script, current: Mutex::default() }) }
    }

    /// The text of the steps.
    #[doc(hidden)]
    pub fn script() -> &'static str {
        SCRIPT
    }

    /// Where the queue is.
    pub fn address(&self) -> &Address {
        &self.inner.address
    }

    /// What the server says of itself; connects if need be.
    ///
    /// # Errors
    /// `queue_unavailable` while the server cannot be reached or will not do, `unsupported_version` if a newer
    /// larder keeps its queue there.
    pub async fn server(&self) -> Result<Server> {
        self.open().await.map(|(_, _, server)| server).map_err(|fault| fault.0)
    }

    /// Runs one step.
    ///
    /// # Errors
    /// As [`Connection::server`].
    pub async fn run(&self, step: &Step) -> Result<Value> {
        let mut command = self.inner.script.key(self.inner.address.prefix());
        for argument in &step.0 {
            command.arg(argument);
        }
        let command = &command;
        self.send(|mut connection| async move { command.invoke_async(&mut connection).await }).await
    }

    /// Runs one plain command that may be repeated.
    ///
    /// # Errors
    /// As [`Connection::server`].
    pub async fn command(&self, command: &redis::Cmd) -> Result<Value> {
        self.send(|mut connection| async move { command.query_async(&mut connection).await }).await
    }

    /// Asks over the connection in use; over a new one if that broke.
    async fn send<F>(&self, ask: impl Fn(MultiplexedConnection) -> F) -> Result<Value>
    where
        F: Future<Output = Result<Value, RedisError>>,
    {
        let once = || async {
            let (number, connection, _) = self.open().await?;
            match timeout(ANSWER + CONNECT, ask(connection)).await {
                Ok(Ok(value)) => Ok(value),
                Ok(Err(error)) => Err(self.broken(number, &error).await),
                Err(_) => Err(Fault(self.silent(number).await, false)),
            }
        };
        let pauses = ExponentialBuilder::default().with_min_delay(AGAIN).with_max_times(AGAIN_TIMES);
        once.retry(pauses).when(|fault: &Fault| fault.1).await.map_err(|fault| fault.0)
    }

    /// Listens to `channels` (without the prefix) over a connection of its own.
    ///
    /// # Errors
    /// As [`Connection::server`].
    pub async fn listen(&self, channels: &[String]) -> Result<Messages> {
        let address = &self.inner.address;
        let explain = |error: RedisError| error::explain(address, &error);
        let client = address.client().map_err(explain)?;
        let open = async {
            let (mut sink, stream) = client.get_async_pubsub().await?.split();
            let channels: Vec<_> =
                channels.iter().map(|name| format!("{}{name}", address.prefix())).collect();
            sink.subscribe(channels).await?;
            Ok((sink, stream))
        };
        let (sink, stream) = timeout(CONNECT, open)
            .await
            .map_err(|_| error::silent(address, CONNECT.as_secs()))?
            .map_err(explain)?;
        Ok(Messages { sink, stream, address: address.clone() })
    }

    /// The connection in use, or a new one.
    async fn open(&self) -> Result<(u64, MultiplexedConnection, Server), Fault> {
        let asked = Instant::now();
        let mut current = self.inner.current.lock().await;
        if let Some((connection, server)) = &current.open {
            return Ok((current.number, connection.clone(), server.clone()));
        }
        if let Some((at, fault)) = &current.failed
            && *at >= asked
        {
            return Err(fault.clone());
        }
        match self.connect().await {
            Ok((connection, server)) => {
                current.number += 1;
                current.open = Some((connection.clone(), server.clone()));
                Ok((current.number, connection, server))
            }
            Err(fault) => {
                current.failed = Some((Instant::now(), fault.clone()));
                Err(fault)
            }
        }
    }

    async fn connect(&self) -> Result<(MultiplexedConnection, Server), Fault> {
        let address = &self.inner.address;
        let explain = |error: RedisError| Fault(error::explain(address, &error), passes(&error));
        let client = address.client().map_err(explain)?;
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT))
            .set_response_timeout(Some(ANSWER));
        let greet = async {
            let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
            let server = Server::ask(&mut connection, address.prefix()).await?;
            Ok((connection, server))
        };
        let (connection, server) = timeout(ANSWER, greet)
            .await
            .map_err(|_| Fault(error::silent(address, ANSWER.as_secs()), false))?
            .map_err(explain)?;
        server.check(address.place()).map_err(|error| Fault(error, false))?;
        Ok((connection, server))
    }

    /// What a step that failed means; a connection that is of no more use is given up.
    async fn broken(&self, number: u64, error: &RedisError) -> Fault {
        let address = &self.inner.address;
        if error.is_timeout() {
            return Fault(self.silent(number).await, false);
        }
        let replaced = error.is_unrecoverable_error()
            || error.is_io_error()
            // It was made a replica: ask again who it is.
            || error.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly);
        if replaced {
            self.give_up(number).await;
        }
        Fault(error::explain(address, error), passes(error))
    }

    async fn silent(&self, number: u64) -> Error {
        self.give_up(number).await;
        error::silent(&self.inner.address, ANSWER.as_secs())
    }

    async fn give_up(&self, number: u64) {
        let mut current = self.inner.current.lock().await;
        if current.number == number {
            current.open = None;
        }
    }
}

/// A failed step, and whether the next moment may bring a better answer.
#[derive(Clone)]
struct Fault(Error, bool);

fn passes(error: &RedisError) -> bool {
    error.is_connection_dropped() || error.kind() == ErrorKind::Server(ServerErrorKind::BusyLoading)
}

/// What was said on the channels that are listened to, from now on.
pub struct Messages {
    sink: PubSubSink,
    stream: PubSubStream,
    address: Address,
}

impl std::fmt::Debug for Messages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Messages").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Messages {
    /// The next message.
    ///
    /// # Errors
    /// `queue_unavailable` when the connection broke; what was said meanwhile is lost.
    pub async fn next(&mut self) -> Result<String> {
        let address = &self.address;
        loop {
            match timeout(QUIET, self.stream.next()).await {
                Ok(Some(message)) => {
                    return Ok(String::from_utf8_lossy(message.get_payload_bytes()).into_owned());
                }
                Ok(None) => {
                    let hint = "see whether it restarts";
                    return Err(error::unavailable(address.place(), "closed the connection", hint));
                }
                Err(_) => {
                    timeout(ANSWER, self.sink.ping::<Value>())
                        .await
                        .map_err(|_| error::silent(address, ANSWER.as_secs()))?
                        .map_err(|error| error::explain(address, &error))?;
                }
            }
        }
    }
}
