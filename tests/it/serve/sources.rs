//! Chain servers and gateways behind the interface.

use btcr2_agent::cas::{CasReader, DEFAULT_TIMEOUT};
use btcr2_agent::chain::{RegtestChain, RegtestServer, ServerSettings, stepping_clock};
use btcr2_agent::did::Did;
use btcr2_agent::did::json::canonicalize;
use btcr2_agent::keys::OwnKey;
use btcr2_agent::time::UnixTime;

use super::*;
use crate::cas::ipfs::{Fault, Ipfs};

async fn chain() -> RegtestServer {
    let chain = RegtestChain::new(stepping_clock(UnixTime(1_760_000_000), 30));
    RegtestServer::serve(ANY_PORT, chain, ServerSettings::default())
        .await
        .unwrap()
}

fn reading(url: &str) -> Lookup {
    Lookup::new(ChainBackend::esplora(url, Duration::from_secs(10)).unwrap())
}

fn own_did(network: Network) -> String {
    let key = OwnKey::from_bytes(&[9; 32]).unwrap();
    Did::from_key(network, &key.public().even_point()).to_string()
}

#[tokio::test]
async fn each_did_is_resolved_on_its_own_chain() {
    let chain = chain().await;
    let lookups = BTreeMap::from([
        (Network::Regtest, vec![reading(&chain.url())]),
        // Set to the wrong server: its answers must not count.
        (Network::Signet, vec![reading(&chain.url())]),
        (Network::Testnet4, Vec::new()),
    ]);
    let server = ResolverServer::start(ANY_PORT, lookups, ServeSettings::default())
        .await
        .unwrap();
    let did = own_did(Network::Regtest);
    let answer = get(&server, &did).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json()["didDocument"]["id"], json!(did));

    let answer = get(&server, &own_did(Network::Signet)).await;
    assert_eq!(answer.status, 502);
    assert!(answer.is_problem(), "{answer:?}");
    let answer = get(&server, &own_did(Network::Testnet4)).await;
    assert_eq!(
        (answer.status, answer.error().as_str()),
        (501, "FEATURE_NOT_SUPPORTED")
    );

    // Servers behind this one are nobody's business.
    let gone = chain.url();
    chain.shutdown().await;
    let answer = get(&server, &did).await;
    assert_eq!(answer.status, 502);
    assert!(answer.is_problem(), "{answer:?}");
    let text = String::from_utf8(answer.body).unwrap();
    let port = gone.rsplit(':').next().unwrap();
    assert!(
        !text.contains(port) && !text.contains("127.0.0.1"),
        "{text}"
    );
}

#[tokio::test]
async fn a_server_without_any_chain_does_not_start() {
    let error = ResolverServer::start(ANY_PORT, BTreeMap::new(), ServeSettings::default())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("no chain is served"), "{error}");
    let taken = recorded().await;
    let lookups = BTreeMap::from([(Network::Regtest, vec![Lookup::new(recording())])]);
    let error = ResolverServer::start(taken.address(), lookups, ServeSettings::default())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("cannot listen on"), "{error}");
}

#[tokio::test]
async fn what_a_sidecar_lacks_is_read_from_a_gateway() {
    let ipfs = Ipfs::start().await;
    let set = set(CAS);
    let (did, sidecar) = (did_of(&set), sidecar_of(&set));
    let reader = CasReader::new([ipfs.url()], DEFAULT_TIMEOUT).unwrap();
    let server = serve(Lookup::new(recording()).with_cas(reader), lenient()).await;

    // Nothing there, and one thing after the other.
    let answer = get(&server, &did).await;
    assert_eq!((answer.status, answer.error().as_str()), (404, "NOT_FOUND"));
    for (name, error) in [
        ("genesisDocument", "MISSING_UPDATE_DATA"),
        ("casUpdates", "MISSING_UPDATE_DATA"),
        ("updates", ""),
    ] {
        let objects = match &sidecar[name] {
            serde_json::Value::Array(items) => items.clone(),
            one => vec![one.clone()],
        };
        for object in objects {
            ipfs.put(&canonicalize(&object).unwrap());
        }
        let answer = get(&server, &did).await;
        if error.is_empty() {
            assert_eq!(answer.status, 200, "{answer:?}");
            assert_eq!(answer.json()["didDocument"], set["expect"]["didDocument"]);
        } else {
            assert_eq!(
                (answer.status, answer.error().as_str()),
                (500, error),
                "{name}"
            );
        }
    }
    // What is in the sidecar is not asked for.
    let asked = ipfs.seen().len();
    let answer = post(&server, &did, &set["resolveInput"]).await;
    assert_eq!((answer.status, ipfs.seen().len()), (200, asked));
    // A gateway that fails proves nothing missing.
    ipfs.set(Fault::Lies);
    let answer = get(&server, &did).await;
    assert_eq!(answer.status, 502);
    assert!(answer.is_problem(), "{answer:?}");
    assert!(
        !String::from_utf8(answer.body)
            .unwrap()
            .contains("127.0.0.1")
    );
}
