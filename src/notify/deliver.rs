//! One delivery over HTTP. What a name resolves to is checked, and the connection goes to what was checked; nothing is
//! followed elsewhere, no proxy is asked, and of the answer only the status is read.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{CONTENT_TYPE, HeaderValue};
use reqwest::{Client, StatusCode};

use super::address::{check, is_public};
use super::sign::signature;
use crate::secret::Secret;

/// How long a delivery may take in all, and until it is connected.
const TIMEOUT: Duration = Duration::from_secs(10);
const CONNECT: Duration = Duration::from_secs(5);

/// What became of a delivery.
pub(super) enum Outcome {
    /// Somebody took it: any status from 200 to 299.
    Delivered,
    /// It never goes there.
    Refused(String),
    /// It may be taken later.
    Failed(String),
}

/// A name that resolves to nothing but addresses that notices do not go to.
#[derive(Debug, thiserror::Error)]
#[error("its name resolves to {0}, which is not on the public internet (notify.allow_private)")]
struct Private(String);

/// Resolves names as the system does, and leaves out where notices do not go.
struct Checked {
    allow_private: bool,
}

impl Resolve for Checked {
    fn resolve(&self, name: Name) -> Resolving {
        let allow_private = self.allow_private;
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let fine: Vec<_> =
                found.iter().copied().filter(|to| allow_private || is_public(to.ip())).collect();
            if let (Some(first), true) = (found.first(), fine.is_empty()) {
                return Err(Box::new(Private(first.ip().to_string())) as _);
            }
            Ok(Box::new(fine.into_iter()) as Addrs)
        })
    }
}

/// Delivers. A clone shares its connections.
#[derive(Clone)]
pub(super) struct Courier {
    allow_private: bool,
    /// Reading the system's certificates takes a moment, so only who delivers does it.
    client: Arc<OnceLock<Result<Client, String>>>,
}

impl Courier {
    pub(super) fn new(allow_private: bool) -> Self {
        Self { allow_private, client: Arc::default() }
    }

    fn client(&self) -> Result<&Client, String> {
        let build = || {
            Client::builder()
                .user_agent(concat!("larder/", env!("CARGO_PKG_VERSION")))
                .dns_resolver(Arc::new(Checked { allow_private: self.allow_private }))
                .redirect(reqwest::redirect::Policy::none())
                .no_proxy()
                .connect_timeout(CONNECT)
                .timeout(TIMEOUT)
                .build()
                .map_err(|error| format!("there is no HTTP client: {error}"))
        };
        self.client.get_or_init(build).as_ref().map_err(Clone::clone)
    }

    pub(super) async fn deliver(&self, url: &str, number: &str, body: &str, secrets: &[Secret]) -> Outcome {
        let url = match check(url, self.allow_private) {
            Ok(url) => url,
            Err(invalid) => return Outcome::Refused(invalid.to_string()),
        };
        if secrets.is_empty() {
            return Outcome::Refused("this larder has no notify.secret_file to sign it with".into());
        }
        let client = match self.client() {
            Ok(client) => client,
            Err(why) => return Outcome::Failed(why),
        };
        let signature = signature(secrets, jiff::Timestamp::now().as_second(), body);
        let request = client
            .post(url)
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .header("larder-delivery", number)
            .header("larder-signature", signature)
            .body(body.to_owned());
        match request.send().await {
            Ok(answer) if answer.status().is_success() => Outcome::Delivered,
            Ok(answer) if answer.status() == StatusCode::GONE => {
                Outcome::Refused("the answer was 410 Gone".into())
            }
            Ok(answer) => Outcome::Failed(format!("the answer was {}", answer.status())),
            Err(error) => failed(error),
        }
    }
}

/// Without the address, whose path may hold a secret.
fn failed(error: reqwest::Error) -> Outcome {
    let error = error.without_url();
    let (mut why, mut source) = (error.to_string(), std::error::Error::source(&error));
    while let Some(cause) = source {
        if let Some(private) = cause.downcast_ref::<Private>() {
            return Outcome::Refused(private.to_string());
        }
        why = cause.to_string();
        source = cause.source();
    }
    Outcome::Failed(why)
}
