//! An IPFS node's gateway and RPC on loopback, with faults.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use btcr2_agent::did::json::cid;
use serde_json::json;

/// What the server does instead of what it should.
#[derive(Debug, Clone, Default)]
pub enum Fault {
    #[default]
    None,
    /// The gateway sends other bytes; the RPC names another object.
    Lies,
    /// The gateway never stops sending.
    Endless,
    /// Nothing is ever answered.
    Silent,
    /// This status, with this body.
    Status(u16, String),
    /// This status and `Location`, whatever was asked for.
    Redirects(u16, String),
    /// Redirects to a subdomain, as Kubo does for `localhost`, unless it is called by address.
    RedirectsLocalhost,
    /// The RPC cuts objects into small blocks, whatever it was asked for.
    SmallBlocks,
    /// The RPC names two objects.
    NamesTwo,
}

#[derive(Default)]
struct Shared {
    blocks: Mutex<BTreeMap<String, Vec<u8>>>,
    pinned: Mutex<Vec<String>>,
    fault: Mutex<Fault>,
    /// `METHOD path?query` of every request.
    seen: Mutex<Vec<String>>,
    /// The `Authorization` header the RPC wants.
    wanted: Mutex<Option<String>>,
}

/// The node. It serves until the test's runtime ends.
#[derive(Clone)]
pub struct Ipfs {
    port: u16,
    shared: Arc<Shared>,
}

impl Ipfs {
    pub async fn start() -> Self {
        let shared = Arc::<Shared>::default();
        let app = axum::Router::new()
            .fallback(answer)
            .with_state(Arc::clone(&shared));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { port, shared }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn localhost_url(&self) -> String {
        format!("http://localhost:{}", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn set(&self, fault: Fault) {
        *self.shared.fault.lock().unwrap() = fault;
    }

    pub fn want_authorization(&self, header: &str) {
        *self.shared.wanted.lock().unwrap() = Some(header.to_owned());
    }

    /// Puts an object there, and says under which address.
    pub fn put(&self, bytes: &[u8]) -> String {
        let cid = cid(bytes);
        let mut blocks = self.shared.blocks.lock().unwrap();
        blocks.insert(cid.clone(), bytes.to_vec());
        cid
    }

    pub fn pinned(&self) -> Vec<String> {
        self.shared.pinned.lock().unwrap().clone()
    }

    pub fn block(&self, cid: &str) -> Option<Vec<u8>> {
        self.shared.blocks.lock().unwrap().get(cid).cloned()
    }

    pub fn seen(&self) -> Vec<String> {
        self.shared.seen.lock().unwrap().clone()
    }
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (method, uri) = (request.method().clone(), request.uri().clone());
    shared.seen.lock().unwrap().push(format!("{method} {uri}"));
    let fault = shared.fault.lock().unwrap().clone();
    let host = request.headers()[header::HOST].to_str().unwrap().to_owned();
    match fault {
        Fault::Silent => return std::future::pending().await,
        Fault::Status(status, body) => {
            return (StatusCode::from_u16(status).unwrap(), body).into_response();
        }
        Fault::Redirects(status, location) => return redirect(status, &location),
        Fault::RedirectsLocalhost if host.starts_with("localhost") => {
            return redirect(301, &format!("http://bafk.ipfs.{host}/"));
        }
        _ => {}
    }
    match (method, uri.path()) {
        (Method::GET, path) if path.starts_with("/ipfs/") => gateway(&shared, &request, &fault),
        (Method::POST, "/api/v0/add") => add(&shared, request, &fault).await,
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

fn redirect(status: u16, location: &str) -> Response {
    let status = StatusCode::from_u16(status).unwrap();
    (status, [(header::LOCATION, location)]).into_response()
}

fn gateway(shared: &Shared, request: &Request, fault: &Fault) -> Response {
    let cid = request.uri().path().trim_start_matches("/ipfs/");
    // Without both the answer would be a web page's.
    assert_eq!(request.uri().query(), Some("format=raw"));
    assert_eq!(
        request.headers()[header::ACCEPT],
        "application/vnd.ipld.raw"
    );
    if matches!(fault, Fault::Endless) {
        let endless =
            futures_util::stream::repeat_with(|| Ok::<_, std::io::Error>(vec![b'x'; 8192]));
        return Body::from_stream(endless).into_response();
    }
    let blocks = shared.blocks.lock().unwrap();
    match (blocks.get(cid), fault) {
        (Some(_), Fault::Lies) => b"other bytes".into_response(),
        (Some(bytes), _) => bytes.clone().into_response(),
        (None, _) => (StatusCode::NOT_FOUND, "block not found").into_response(),
    }
}

async fn add(shared: &Shared, request: Request, fault: &Fault) -> Response {
    let given = request.headers().get(header::AUTHORIZATION).cloned();
    let wanted = shared.wanted.lock().unwrap().clone();
    if wanted.is_some() && given.as_ref().and_then(|h| h.to_str().ok()) != wanted.as_deref() {
        return (StatusCode::FORBIDDEN, "Forbidden").into_response();
    }
    let options = options(request.uri());
    let content_type = request.headers()[header::CONTENT_TYPE].to_str().unwrap();
    let boundary = content_type
        .strip_prefix("multipart/form-data; boundary=")
        .unwrap()
        .to_owned();
    let body = to_bytes(request.into_body(), 4 << 20).await.unwrap();
    let bytes = one_file(&body, &boundary);

    let option = |key: &str| options.get(key).map(String::as_str);
    let chunk: usize = option("chunker")
        .and_then(|chunker| chunker.strip_prefix("size-"))
        .map_or(262_144, |size| size.parse().unwrap());
    let one_raw_block = option("cid-version") == Some("1")
        && option("raw-leaves") == Some("true")
        && option("wrap-with-directory") != Some("true")
        && bytes.len() <= chunk
        && !matches!(fault, Fault::SmallBlocks);
    let hash = match fault {
        Fault::Lies => cid(b"another object"),
        _ if one_raw_block => cid(&bytes),
        _ => "bafybeidskjjd4zmr7oh6ku6wp72vvbxyibcli2r6if3ocdcy7jjjusvl2u".to_owned(),
    };
    shared
        .blocks
        .lock()
        .unwrap()
        .insert(hash.clone(), bytes.clone());
    if option("pin") == Some("true") {
        shared.pinned.lock().unwrap().push(hash.clone());
    }
    let line = json!({ "Name": hash, "Hash": hash, "Size": bytes.len().to_string() });
    let lines = match fault {
        Fault::NamesTwo => format!("{line}\n{line}\n"),
        _ => format!("{line}\n"),
    };
    ([(header::CONTENT_TYPE, "application/json")], lines).into_response()
}

fn options(uri: &Uri) -> BTreeMap<String, String> {
    url::form_urlencoded::parse(uri.query().unwrap_or("").as_bytes())
        .into_owned()
        .collect()
}

/// The content of a form's only part.
fn one_file(body: &[u8], boundary: &str) -> Vec<u8> {
    let find = |needle: &[u8]| {
        body.windows(needle.len())
            .position(|window| window == needle)
    };
    assert!(body.starts_with(format!("--{boundary}\r\n").as_bytes()));
    let start = find(b"\r\n\r\n").unwrap() + 4;
    let end = find(format!("\r\n--{boundary}--\r\n").as_bytes()).unwrap();
    let head = std::str::from_utf8(&body[..start]).unwrap();
    assert!(head.contains("name=\"file\""), "{head}");
    body[start..end].to_vec()
}
