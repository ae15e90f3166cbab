//! Paths and methods.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, HttpBody as _};
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use futures_util::StreamExt as _;
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::ServeSettings;
use super::answer::{Refusal, Unsupported, body_of, problem, resolved};
use super::asked;
use super::negotiate::{Representation, choose, media_types};
use crate::did::{Did, ErrorCode};
use crate::lookup::Lookup;
use crate::network::Network;
use crate::resolver::{Failure, ResolutionOptions, Sidecar};

/// How much longer than the lookup its request may take: the lookup stops by itself.
const MARGIN: Duration = Duration::from_secs(5);

/// The lookups of the networks.
type Lines = BTreeMap<Network, Vec<Line>>;

/// One of the lookups of a network.
struct Line {
    lookup: Lookup,
    /// A place for every resolution there could be: those that are taken are under way on this line.
    free: Semaphore,
}

struct Shared {
    lines: Lines,
    settings: ServeSettings,
    places: Semaphore,
}

type Ctx = State<Arc<Shared>>;
type Identifier = Result<Path<String>, PathRejection>;

pub(super) fn router(lookups: BTreeMap<Network, Vec<Lookup>>, settings: ServeSettings) -> Router {
    let line = |lookup: Lookup| Line {
        lookup: lookup.with_deadline(settings.request_time),
        free: Semaphore::new(settings.max_resolutions),
    };
    let lines = lookups
        .into_iter()
        .filter(|(_, lookups)| !lookups.is_empty())
        .map(|(network, lookups)| (network, lookups.into_iter().map(line).collect()));
    let shared = Arc::new(Shared {
        lines: lines.collect(),
        places: Semaphore::new(settings.max_resolutions),
        settings,
    });
    let fixed = |route: MethodRouter<Arc<Shared>>| route.options(preflight_get);
    Router::new()
        // The rest of the path, because a DID URL may have slashes.
        .route(
            "/1.0/identifiers/{*identifier}",
            get(asked_by_get)
                .post(asked_by_post)
                .options(preflight_identifier),
        )
        .route("/1.0/methods", fixed(get(methods)))
        .route("/1.0/properties", fixed(get(properties)))
        .route("/health", fixed(get(health)))
        .fallback(async || problem(StatusCode::NOT_FOUND, "there is nothing at this path"))
        .method_not_allowed_fallback(async || {
            problem(
                StatusCode::METHOD_NOT_ALLOWED,
                "this path does not know this method",
            )
        })
        .layer(map_response(mark))
        .with_state(shared)
}

/// What every answer carries: it is for any web page, for now only, and what it says it is.
async fn mark(mut response: Response) -> Response {
    let headers = response.headers_mut();
    for (name, value) in [
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        (header::CACHE_CONTROL, "no-store"),
        (header::VARY, "Accept"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

async fn asked_by_get(
    State(shared): Ctx,
    identifier: Identifier,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let form = form(&headers)?;
    let did = did(identifier)?;
    let options = asked::query(query.as_deref().unwrap_or(""))?;
    let lines = shared.lines(&did)?;
    let _place = shared.places.try_acquire().map_err(|_| Refusal::busy())?;
    shared
        .resolve(lines, &did, options, Sidecar::default(), form)
        .await
}

async fn asked_by_post(
    State(shared): Ctx,
    identifier: Identifier,
    RawQuery(query): RawQuery,
    request: Request,
) -> Result<Response, Refusal> {
    let form = form(request.headers())?;
    let did = did(identifier)?;
    if query.is_some_and(|query| !query.is_empty()) {
        return Err(Failure::new(
            ErrorCode::InvalidOptions,
            "the options of a POST are in its body, not in the query",
        )
        .into());
    }
    let lines = shared.lines(&did)?;
    // Before a byte of the body is read: what bodies take is bounded by the places there are.
    let _place = shared.places.try_acquire().map_err(|_| Refusal::busy())?;
    let bytes = shared.read(request.into_body()).await?;
    let (options, sidecar) = asked::body(&bytes, &did)?;
    drop(bytes);
    shared.resolve(lines, &did, options, sidecar, form).await
}

impl Shared {
    fn lines(&self, did: &Did) -> Result<&[Line], Refusal> {
        let network = did.network();
        self.lines.get(&network).map(Vec::as_slice).ok_or_else(|| {
            Refusal::Unsupported(
                Unsupported::Feature,
                format!("this server does not read the chain of {network}"),
            )
        })
    }

    async fn read(&self, body: Body) -> Result<Vec<u8>, Refusal> {
        const TOO_LARGE: Refusal = Refusal::Problem(
            StatusCode::PAYLOAD_TOO_LARGE,
            "the body is longer than this server reads; send only what this DID needs",
        );
        let limit = self.settings.max_body;
        if body.size_hint().lower() > limit as u64 {
            return Err(TOO_LARGE);
        }
        let reading = async {
            let mut chunks = body.into_data_stream();
            let mut bytes = Vec::new();
            while let Some(chunk) = chunks.next().await {
                let chunk = chunk.map_err(|_| {
                    Refusal::Problem(
                        StatusCode::BAD_REQUEST,
                        "the body could not be read to its end",
                    )
                })?;
                if chunk.len() > limit.saturating_sub(bytes.len()) {
                    return Err(TOO_LARGE);
                }
                bytes.extend_from_slice(&chunk);
            }
            Ok(bytes)
        };
        timeout(self.settings.request_time, reading)
            .await
            .unwrap_or(Err(Refusal::Problem(
                StatusCode::REQUEST_TIMEOUT,
                "the body did not arrive in time",
            )))
    }

    async fn resolve(
        &self,
        lines: &[Line],
        did: &Did,
        options: ResolutionOptions,
        sidecar: Sidecar,
        form: Representation,
    ) -> Result<Response, Refusal> {
        let strictness = self.settings.strictness;
        let quietest = |line: &&Line| Reverse(line.free.available_permits());
        let line = lines.iter().min_by_key(quietest).ok_or(Refusal::busy())?;
        let _turn = line.free.try_acquire();
        let work = line.lookup.resolve(did, options, sidecar, strictness);
        let resolution = timeout(self.settings.request_time.saturating_add(MARGIN), work)
            .await
            .map_err(|_| {
                Refusal::Problem(
                    StatusCode::GATEWAY_TIMEOUT,
                    "the DID was not resolved in the time a request may take; try again later",
                )
            })??;
        tracing::debug!(%did, ok = resolution.outcome.is_ok(), "resolved");
        Ok(resolved(resolution, form))
    }
}

fn did(identifier: Identifier) -> Result<Did, Refusal> {
    match identifier {
        Ok(Path(text)) => asked::identifier(&text),
        // Percent-encoded bytes that are no text.
        Err(_) => Err(Failure::new(ErrorCode::InvalidDid, "the DID is not UTF-8").into()),
    }
}

fn form(headers: &HeaderMap) -> Result<Representation, Refusal> {
    let given: Vec<&str> = headers
        .get_all(header::ACCEPT)
        .iter()
        .map(|value| value.to_str().unwrap_or("unreadable"))
        .collect();
    let accept = (!given.is_empty()).then(|| given.join(","));
    choose(accept.as_deref()).ok_or_else(|| {
        Refusal::Unsupported(
            Unsupported::Representation,
            format!("use one of these in Accept: {}", media_types()),
        )
    })
}

/// The methods this resolver knows, as the Universal Resolver lists them.
async fn methods() -> Response {
    body_of(StatusCode::OK, "application/json", &json!(["btcr2"]))
}

/// What this resolver is set to, as the Universal Resolver shows it. No addresses: they are nobody's
/// business.
async fn properties(State(shared): Ctx) -> Response {
    let networks: Vec<&str> = shared.lines.keys().map(|network| network.name()).collect();
    let settings = &shared.settings;
    let properties = json!({
        "btcr2": {
            "networks": networks,
            "maxBodyBytes": settings.max_body,
            "requestSeconds": settings.request_time.as_secs(),
            "requireInvocationTarget": settings.strictness.verify.require_invocation_target,
        }
    });
    body_of(StatusCode::OK, "application/json", &properties)
}

/// That this process answers. It says nothing about the chain servers behind it: whoever asks often
/// should not make this server ask them.
async fn health() -> Response {
    let health = json!({ "status": "ok", "version": env!("CARGO_PKG_VERSION") });
    body_of(StatusCode::OK, "application/json", &health)
}

async fn preflight_identifier() -> Response {
    preflight("GET, HEAD, POST, OPTIONS")
}

async fn preflight_get() -> Response {
    preflight("GET, HEAD, OPTIONS")
}

/// The answer to OPTIONS, also as browsers ask before they let a page ask (CORS).
fn preflight(methods: &'static str) -> Response {
    let headers = [
        (header::ALLOW, methods),
        (header::ACCESS_CONTROL_ALLOW_METHODS, methods),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, "Accept, Content-Type"),
        (header::ACCESS_CONTROL_MAX_AGE, "86400"),
    ];
    (StatusCode::NO_CONTENT, headers).into_response()
}
