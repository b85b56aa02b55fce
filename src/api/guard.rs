//! The door in front of the routes: who comes in over which listener, and, for what changes something, one line in the
//! log of who asked for what and what became of it.

use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use larder_jobs::Reason;

use super::access::{Access, Caller, Role};
use super::body;
use super::config::Config;
use super::problem::Failure;
use super::routes::{self, Route};
use super::tls::Tls;
use crate::error::Result;

/// Somebody who is not let in, as far as that one is known.
struct Refused {
    who: Arc<str>,
    answer: Box<Response>,
}

impl Refused {
    fn stranger(answer: Response) -> Self {
        Self { who: "nobody".into(), answer: Box::new(answer) }
    }
}

/// Who is let in over TCP, and how. A clone is the same door.
#[derive(Debug, Clone, Default)]
pub struct Door {
    access: Access,
    tls: Option<Tls>,
    /// Whether probes and scrapes need no token.
    public: Arc<RwLock<bool>>,
    /// Paths that show nothing of this host by themselves, and need no token.
    pages: Vec<&'static str>,
}

impl Door {
    /// Reads tokens and certificate.
    ///
    /// # Errors
    /// `io_error` or `invalid_request` for a file that is of no use.
    pub fn open(config: &Config) -> Result<Self> {
        let access = Access::open(&config.tokens)?;
        let tls = if config.tls.is_on() { Some(Tls::open(&config.tls)?) } else { None };
        let is_far = config.address()?.is_some_and(|address| !address.ip().is_loopback());
        if is_far && tls.is_none() {
            tracing::warn!(
                "tokens travel in clear text; set api.tls, or put a proxy with TLS in front of larder"
            );
        }
        Ok(Self { access, tls, public: Arc::new(RwLock::new(config.public_metrics)), pages: Vec::new() })
    }

    /// The same door, past which everybody may look at these paths: files that are the same on every host.
    #[must_use]
    pub fn with_pages(self, pages: impl IntoIterator<Item = &'static str>) -> Self {
        Self { pages: pages.into_iter().collect(), ..self }
    }

    /// Reads the files again. What cannot be read leaves everything as it was.
    ///
    /// # Errors
    /// As [`Door::open`]; `invalid_request` if TLS or the tokens were turned on or off, which needs a new start.
    pub fn reload(&self, config: &Config) -> Result<()> {
        if config.tokens.is_empty() != self.access.is_empty() || config.tls.is_on() != self.tls.is_some() {
            return Err(crate::error::Error::new(
                Reason::InvalidRequest,
                "api.tokens or api.tls was turned on or off",
                "start larder again; until then everybody comes in as before",
            ));
        }
        // Checked before anything is replaced.
        let certificate = self.tls.as_ref().map(|_| Tls::open(&config.tls)).transpose()?;
        self.access.replace(&config.tokens)?;
        if let (Some(tls), Some(new)) = (&self.tls, certificate) {
            tls.replace(&new);
        }
        *self.public.write().unwrap_or_else(PoisonError::into_inner) = config.public_metrics;
        Ok(())
    }

    /// The certificate, if there is one.
    pub(super) fn tls(&self) -> Option<Tls> {
        self.tls.clone()
    }

    fn is_public(&self) -> bool {
        *self.public.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who asks, if that one may.
    fn admit(&self, route: Option<&Route>, request: &Request) -> std::result::Result<Caller, Refused> {
        let headers = request.headers();
        if self.access.is_empty() {
            let is_safe = [Method::GET, Method::HEAD].contains(request.method());
            loopback_host(headers)?;
            return if is_safe { Ok(()) } else { own_page(headers) }.map(|()| Caller::admin("loopback"));
        }
        let is_probe = self.is_public() && route.is_some_and(|route| route.is_probe);
        if is_probe || self.pages.contains(&request.uri().path()) {
            return Ok(Caller { name: "public".into(), role: Role::Read });
        }
        let Some(token) = bearer(headers) else {
            return Err(Refused::stranger(challenge(
                "Bearer realm=\"larder\"",
                Failure::new(
                    Reason::Unauthorized,
                    "this larder wants a token",
                    "send it as `Authorization: Bearer …`; commands read it from api.token_file",
                ),
            )));
        };
        let Some(caller) = self.access.whose(token) else {
            return Err(Refused::stranger(challenge(
                "Bearer realm=\"larder\", error=\"invalid_token\"",
                Failure::new(
                    Reason::Unauthorized,
                    "this larder does not know that token",
                    "ask its operator for a new one, or for a SIGHUP if the token is new",
                ),
            )));
        };
        // What is no route is told to everybody who may look.
        let needed = route.map_or(Role::Read, |route| route.role);
        if caller.role < needed {
            let answer = Box::new(forbidden(&caller, needed));
            return Err(Refused { who: caller.name, answer });
        }
        Ok(caller)
    }
}

/// The answer to somebody whose role is not enough.
pub(super) fn forbidden(caller: &Caller, needed: Role) -> Response {
    let (needed, has) = (needed.word(), caller.role.word());
    let scope = format!("Bearer realm=\"larder\", error=\"insufficient_scope\", scope=\"{needed}\"");
    challenge(
        &scope,
        Failure::new(
            Reason::Unauthorized,
            format!("that needs the role {needed}, and the token of {} has {has}", caller.name),
            "use another token, or ask its operator for that role",
        )
        .status(StatusCode::FORBIDDEN),
    )
}

fn challenge(how: &str, failure: Failure) -> Response {
    let mut response = failure.into_response();
    if let Ok(how) = HeaderValue::from_str(how) {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, how);
    }
    response
}

/// The token of the one `Authorization` header, if there is one.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut all = headers.get_all(header::AUTHORIZATION).iter();
    let (one, none) = (all.next()?, all.next());
    let (scheme, token) = one.to_str().ok()?.split_once(' ')?;
    (none.is_none() && scheme.eq_ignore_ascii_case("bearer")).then(|| token.trim())
}

/// Says whether a browser asks for one of our pages, for that of another site, or for nobody's.
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// A page of another site may reach us through a name that it resolves to 127.0.0.1 (DNS rebinding); its
/// requests carry that name.
fn loopback_host(headers: &HeaderMap) -> std::result::Result<(), Refused> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = hosts.next().and_then(|host| host.to_str().ok()).unwrap_or("");
    let name = host
        .rsplit_once(':')
        .filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()))
        .map_or(host, |(n, _)| n);
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    let is_ours =
        name.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback());
    if is_ours && hosts.next().is_none() {
        return Ok(());
    }
    Err(foreign(
        "the Host header does not name this machine's loopback",
        "ask for http://127.0.0.1 or http://localhost, or set api.tokens if larder is behind a proxy",
    ))
}

/// A page of another site may send a form here without asking first (CSRF), and a browser says whose page it is. No
/// program that is no browser sends these headers.
fn own_page(headers: &HeaderMap) -> std::result::Result<(), Refused> {
    let text = |name| headers.get(name).map(|value: &HeaderValue| value.to_str().unwrap_or(""));
    let host = text(header::HOST).unwrap_or("");
    let is_own =
        |origin: &str| origin.split_once("://").is_some_and(|(_, place)| place.eq_ignore_ascii_case(host));
    if text(header::ORIGIN).is_none_or(is_own)
        && text(SEC_FETCH_SITE).is_none_or(|site| ["same-origin", "none"].contains(&site))
    {
        return Ok(());
    }
    Err(foreign(
        "a page of another site may not change anything here",
        "ask from a program, or set api.tokens and send one of them",
    ))
}

fn foreign(what: &str, hint: &str) -> Refused {
    let failure = Failure::new(Reason::Unauthorized, what, hint).status(StatusCode::FORBIDDEN);
    Refused::stranger(failure.into_response())
}

/// What a request is about, for the audit log; handlers add what the path does not say.
#[derive(Debug, Clone, Default)]
pub(super) struct Subject {
    pub(super) job: Option<String>,
    pub(super) kind: Option<&'static str>,
    pub(super) model: Option<String>,
    pub(super) host: Option<String>,
    /// What a batch is called.
    pub(super) name: Option<String>,
}

impl Subject {
    /// What the path says.
    fn of(route: &Route, path: &str) -> Self {
        let mut subject = Self::default();
        let parts: Vec<&str> = path.split('/').collect();
        if route.path.starts_with("/v1/jobs/{id}") {
            subject.job = parts.get(3).map(|id| shown(id));
        } else if route.path.starts_with("/v1/models/{owner}/{name}") && parts.len() > 4 {
            subject.model = Some(shown(&format!("{}/{}", parts[3], parts[4])));
        } else if route.path.starts_with("/v1/hosts/{host}") {
            subject.host = parts.get(3).map(|host| shown(host));
        }
        subject
    }
}

/// At most so much of what somebody wrote into a path.
fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(128).collect()
}

/// Over TCP.
pub(super) async fn over_tcp(State(door): State<Door>, request: Request, next: Next) -> Response {
    let route = route_of(&request);
    match door.admit(route, &request) {
        Ok(caller) => pass(route, caller, request, next).await,
        Err(Refused { who, answer }) => {
            if let Some(route) = route.filter(|route| route.changes) {
                audit(route, &who, &Subject::of(route, request.uri().path()), &answer);
            }
            body::unread(request, *answer).await
        }
    }
}

/// Over the unix socket, which only the owner of the state folder may open.
pub(super) async fn over_socket(request: Request, next: Next) -> Response {
    let route = route_of(&request);
    pass(route, Caller::admin("socket"), request, next).await
}

pub(super) fn route_of(request: &Request) -> Option<&'static Route> {
    let path = request.extensions().get::<MatchedPath>()?;
    routes::find(request.method(), path.as_str())
}

async fn pass(route: Option<&'static Route>, caller: Caller, mut request: Request, next: Next) -> Response {
    let name = Arc::clone(&caller.name);
    let subject = route.filter(|route| route.changes).map(|route| Subject::of(route, request.uri().path()));
    request.extensions_mut().insert(caller);
    let response = next.run(request).await;
    if let (Some(route), Some(subject)) = (route, subject) {
        audit(route, &name, response.extensions().get::<Subject>().unwrap_or(&subject), &response);
    }
    response
}

fn audit(route: &Route, who: &str, subject: &Subject, response: &Response) {
    let status = response.status();
    let reason = response.extensions().get::<Reason>().map(|reason| reason.word());
    let outcome = if status.is_success() { "done" } else { "refused" };
    tracing::info!(
        target: "audit",
        who,
        what = route.name,
        job = subject.job,
        kind = subject.kind,
        model = subject.model,
        host = subject.host,
        name = subject.name,
        outcome,
        status = status.as_u16(),
        reason,
        "somebody asked for a change"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[&str]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for value in pairs {
            map.append(header::AUTHORIZATION, HeaderValue::from_str(value).expect("a header"));
        }
        map
    }

    #[test]
    fn a_token_is_taken_from_one_bearer_header_and_from_nothing_else() {
        assert_eq!(bearer(&headers(&["Bearer abc"])), Some("abc"));
        assert_eq!(bearer(&headers(&["bearer  abc "])), Some("abc"));
        for other in [&[][..], &["abc"], &["Basic abc"], &["Bearer"], &["Bearer abc", "Bearer abd"]] {
            assert_eq!(bearer(&headers(other)), None, "{other:?}");
        }
    }
}
