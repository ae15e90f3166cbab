//! The resolver's HTTP interface, on a real listener on loopback.

mod binary;
mod forms;
mod limits;
mod sources;
mod statuses;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use btcr2_agent::chain::ChainBackend;
use btcr2_agent::lookup::serve::{ResolverServer, ServeSettings};
use btcr2_agent::lookup::{Lookup, Recording};
use btcr2_agent::network::Network;
use btcr2_agent::resolver::Strictness;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

const ANY_PORT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

const RESULT: &str = "application/did-resolution";

/// A set of the upstream suite.
fn set(name: &str) -> Value {
    let sets: Value =
        serde_json::from_str(include_str!("../vectors/regtest-upstream-2026-09.json")).unwrap();
    sets[name].clone()
}

const UPDATED: &str = "02-k1-sidecar-update";
const DEACTIVATED: &str = "07-k1-sidecar-deactivate";
const CAS: &str = "10a-x1-sidecar-update-cas-announcement";
const SMT: &str = "12a-x1-sidecar-update-smt-proof";
const TAMPERED: &str = "n29-x1-smt-proof-hash";

fn did_of(set: &Value) -> String {
    set["resolveInput"]["did"].as_str().unwrap().to_owned()
}

fn sidecar_of(set: &Value) -> Value {
    set["resolveInput"]["resolutionOptions"]["sidecar"].clone()
}

/// The chain on which all sets happened, at height 601.
fn recording() -> Recording {
    let mut signals = Vec::new();
    for name in [UPDATED, DEACTIVATED, CAS, SMT, TAMPERED] {
        let set = set(name);
        signals.extend(set["signals"].as_array().cloned().unwrap_or_default());
        signals.extend(set.get("signal").cloned());
    }
    let file = json!(signals).to_string();
    Recording::from_signals(file.as_bytes(), Network::Regtest)
        .unwrap()
        .at_height(601)
}

/// As the sets of September need it.
fn lenient() -> ServeSettings {
    ServeSettings {
        strictness: Strictness::before_october_2026(),
        ..ServeSettings::default()
    }
}

async fn serve(lookup: Lookup, settings: ServeSettings) -> ResolverServer {
    let lookups = BTreeMap::from([(Network::Regtest, vec![lookup])]);
    ResolverServer::start(ANY_PORT, lookups, settings)
        .await
        .unwrap()
}

/// A server of the recorded chain.
async fn recorded() -> ResolverServer {
    serve(Lookup::new(recording()), lenient()).await
}

/// What came back.
#[derive(Debug)]
struct Answer {
    status: i32,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    fn content_type(&self) -> &str {
        self.header("content-type")
    }

    /// The error code of a DID Resolution result that has no document.
    fn error(&self) -> String {
        assert_eq!(self.content_type(), RESULT, "{self:?}");
        let result = self.json();
        assert_eq!(result["didDocument"], Value::Null);
        assert_eq!(result["didDocumentMetadata"], json!({}));
        let metadata = &result["didResolutionMetadata"];
        assert!(metadata["errorMessage"].as_str().unwrap().len() > 10);
        metadata["error"].as_str().unwrap().to_owned()
    }

    /// A problem report (RFC 9457), which says nothing about a DID.
    fn is_problem(&self) -> bool {
        self.content_type() == "application/problem+json" && {
            let problem = self.json();
            problem["status"] == json!(self.status)
                && problem["title"].is_string()
                && problem["detail"]
                    .as_str()
                    .is_some_and(|detail| detail.len() > 10)
        }
    }
}

async fn send(request: bitreq::Request) -> Answer {
    let response = request.with_timeout(60).send_async().await.unwrap();
    Answer {
        status: response.status_code,
        headers: response.headers.clone(),
        body: response.into_bytes(),
    }
}

fn at(server: &ResolverServer, identifier: &str) -> String {
    format!("{}/1.0/identifiers/{identifier}", server.url())
}

async fn get(server: &ResolverServer, identifier: &str) -> Answer {
    send(bitreq::get(at(server, identifier))).await
}

async fn accepting(server: &ResolverServer, did: &str, accept: &str) -> Answer {
    send(bitreq::get(at(server, did)).with_header("Accept", accept)).await
}

async fn post(server: &ResolverServer, did: &str, body: &Value) -> Answer {
    send(bitreq::post(at(server, did)).with_body(body.to_string())).await
}

/// Sends bytes as they are and reads until the server closes.
async fn exchange(server: &ResolverServer, bytes: &[u8]) -> String {
    let mut socket = TcpStream::connect(server.address()).await.unwrap();
    socket.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    // A server that closes with unread input resets the connection: what it said before counts.
    let _ = socket.read_to_end(&mut answer).await;
    String::from_utf8(answer).unwrap()
}

/// A chain server that takes requests and says nothing until its listener is dropped.
struct SilentChain {
    listener: TcpListener,
    held: Vec<TcpStream>,
}

impl SilentChain {
    async fn start() -> Self {
        Self {
            listener: TcpListener::bind(ANY_PORT).await.unwrap(),
            held: Vec::new(),
        }
    }

    fn lookup(&self) -> Lookup {
        let url = format!("http://{}", self.listener.local_addr().unwrap());
        Lookup::new(ChainBackend::esplora(&url, Duration::from_secs(60)).unwrap())
    }

    /// Waits until a resolution asks.
    async fn asked(&mut self) {
        self.held.push(self.listener.accept().await.unwrap().0);
    }

    /// Refuses what was asked.
    async fn refuse(&mut self) {
        for mut socket in self.held.drain(..) {
            let answer = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\n\r\nno";
            socket.write_all(answer).await.unwrap();
        }
    }
}
