//! Documents and results, in every form they can be asked for.

use serde_json::{Value, json};

use super::*;

const PROFILED: &str = "application/ld+json;profile=\"https://w3id.org/did-resolution\"";

#[tokio::test]
async fn a_get_gives_the_result_or_the_document_as_accepted() {
    let server = recorded().await;
    let did = fresh_did();
    let result = get(&server, &did).await;
    assert_eq!((result.status, result.content_type()), (200, RESULT));
    let result = result.json();
    assert_eq!(result["didDocument"]["id"], json!(did));
    assert_eq!(
        result["didDocumentMetadata"],
        json!({"versionId": "1", "confirmations": 0, "deactivated": false})
    );
    assert_eq!(
        result["didResolutionMetadata"],
        json!({"contentType": "application/did"})
    );
    for (accept, content_type, wanted) in [
        ("*/*", RESULT, &result),
        (RESULT, RESULT, &result),
        ("application/json", "application/json", &result),
        (PROFILED, PROFILED, &result),
        (
            "application/did-resolution,application/did",
            RESULT,
            &result,
        ),
        ("application/did", "application/did", &result["didDocument"]),
        (
            "application/did+json",
            "application/did+json",
            &result["didDocument"],
        ),
        (
            "application/did+ld+json;q=0.3",
            "application/did+ld+json",
            &result["didDocument"],
        ),
        (
            "application/ld+json",
            "application/ld+json",
            &result["didDocument"],
        ),
    ] {
        let answer = accepting(&server, &did, accept).await;
        assert_eq!(answer.status, 200, "{accept}");
        assert_eq!(answer.content_type(), content_type, "{accept}");
        assert_eq!(&answer.json(), wanted, "{accept}");
        assert_eq!(answer.header("vary"), "Accept");
        assert_eq!(answer.header("cache-control"), "no-store");
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
    }
    for accept in [
        "text/html",
        "application/did+cbor",
        "application/did-url-dereferencing",
    ] {
        let answer = accepting(&server, &did, accept).await;
        assert_eq!(answer.status, 406, "{accept}");
        assert_eq!(answer.error(), "REPRESENTATION_NOT_SUPPORTED");
        assert!(
            answer
                .body
                .windows(15)
                .any(|part| part == b"application/did")
        );
    }
}

/// A k1 DID that is on no chain.
fn fresh_did() -> String {
    let key = btcr2_agent::keys::OwnKey::from_bytes(&[7; 32]).unwrap();
    btcr2_agent::did::Did::from_key(Network::Regtest, &key.public().even_point()).to_string()
}

#[tokio::test]
async fn dids_may_be_percent_encoded() {
    let server = recorded().await;
    let did = fresh_did();
    let encoded = did.replace(':', "%3A");
    let scrambled: String = did.bytes().map(|byte| format!("%{byte:02x}")).collect();
    for identifier in [encoded, scrambled] {
        let answer = get(&server, &identifier).await;
        assert_eq!(answer.status, 200, "{identifier}");
        assert_eq!(answer.json()["didDocument"]["id"], json!(did));
    }
}

#[tokio::test]
async fn a_post_brings_the_sidecar() {
    let server = recorded().await;
    for name in [UPDATED, CAS, SMT] {
        let set = set(name);
        let did = did_of(&set);
        let sidecar = sidecar_of(&set);
        // The options alone, wrapped, and the upstream suite's whole input.
        for body in [
            json!({ "sidecar": sidecar }),
            json!({ "resolutionOptions": { "sidecar": sidecar } }),
            set["resolveInput"].clone(),
        ] {
            let answer = post(&server, &did, &body).await;
            assert_eq!(answer.status, 200, "{name}: {answer:?}");
            let result = answer.json();
            assert_eq!(
                result["didDocument"], set["expect"]["didDocument"],
                "{name}"
            );
            assert_eq!(result["didDocumentMetadata"]["versionId"], json!("2"));
        }
        let request = bitreq::post(at(&server, &did))
            .with_header("Accept", "application/did")
            .with_header("Content-Type", "application/x-www-form-urlencoded")
            .with_body(set["resolveInput"].to_string());
        let document = send(request).await;
        assert_eq!(document.content_type(), "application/did");
        assert_eq!(document.json(), set["expect"]["didDocument"]);
    }
    // Without a body it is a GET.
    let did = fresh_did();
    let answer = send(bitreq::post(at(&server, &did))).await;
    assert_eq!(answer.json(), get(&server, &did).await.json());
}

#[tokio::test]
async fn versions_are_chosen_by_number_and_by_time() {
    let server = recorded().await;
    let set = set(UPDATED);
    let (did, sidecar) = (did_of(&set), sidecar_of(&set));
    // The update's block: header 2026-09-16T15:01:28Z, median 14:58:58Z.
    for (options, version, updated) in [
        (json!({}), "2", json!("2026-09-16T15:01:28Z")),
        (json!({"versionId": "1"}), "1", Value::Null),
        (
            json!({"versionId": "2"}),
            "2",
            json!("2026-09-16T15:01:28Z"),
        ),
        (
            json!({"versionTime": "2026-09-16T14:58:57Z"}),
            "1",
            Value::Null,
        ),
        (
            json!({"versionTime": "2026-09-16T14:58:58Z"}),
            "2",
            json!("2026-09-16T15:01:28Z"),
        ),
        // Block 283 of a chain of 601: 319 confirmations.
        (json!({"minConf": 319}), "2", json!("2026-09-16T15:01:28Z")),
        (json!({"minConf": 320}), "1", Value::Null),
    ] {
        let mut body = options.clone();
        body["sidecar"] = sidecar.clone();
        let answer = post(&server, &did, &body).await;
        assert_eq!(answer.status, 200, "{options}: {answer:?}");
        let metadata = answer.json()["didDocumentMetadata"].clone();
        assert_eq!(metadata["versionId"], json!(version), "{options}");
        assert_eq!(metadata["updated"], updated, "{options}");
    }
    // The same options in a query, on a DID that needs no sidecar.
    let did = fresh_did();
    for (query, status) in [
        ("versionId=1", 200),
        ("versionId=2", 404),
        ("versionTime=2026-09-16T14:58:57Z", 200),
        (
            "versionTime=2026-09-16T14%3A58%3A57Z&minConf=3&noCache=true",
            200,
        ),
    ] {
        let answer = get(&server, &format!("{did}?{query}")).await;
        assert_eq!(answer.status, status, "{query}");
    }
}

#[tokio::test]
async fn head_and_options_are_answered_and_pages_may_ask() {
    let server = recorded().await;
    let did = fresh_did();
    let full = get(&server, &did).await;
    assert_eq!(full.header("access-control-allow-origin"), "*");
    let head = send(bitreq::head(at(&server, &did))).await;
    assert_eq!((head.status, head.body.len()), (200, 0));
    for name in ["content-type", "content-length", "vary"] {
        assert_eq!(head.header(name), full.header(name), "{name}");
    }
    let preflight = bitreq::Request::new(bitreq::Method::Options, at(&server, &did))
        .with_header("Origin", "https://example.org")
        .with_header("Access-Control-Request-Method", "POST")
        .with_header("Access-Control-Request-Headers", "content-type");
    let preflight = send(preflight).await;
    assert_eq!(preflight.status, 204);
    assert_eq!(preflight.header("access-control-allow-origin"), "*");
    assert_eq!(preflight.header("allow"), "GET, HEAD, POST, OPTIONS");
    assert_eq!(
        preflight.header("access-control-allow-methods"),
        "GET, HEAD, POST, OPTIONS"
    );
    assert!(
        preflight
            .header("access-control-allow-credentials")
            .is_empty()
    );
    for method in [
        bitreq::Method::Put,
        bitreq::Method::Delete,
        bitreq::Method::Custom("PURGE".to_owned()),
    ] {
        let answer = send(bitreq::Request::new(method, at(&server, &did))).await;
        assert_eq!(answer.status, 405);
        assert!(answer.is_problem(), "{answer:?}");
        assert_eq!(answer.header("access-control-allow-origin"), "*");
        assert!(answer.header("allow").contains("POST"), "{answer:?}");
    }
}

#[tokio::test]
async fn it_says_what_it_is() {
    let server = recorded().await;
    let ask = |path: &str| send(bitreq::get(format!("{}{path}", server.url())));
    let health = ask("/health").await;
    assert_eq!(health.status, 200);
    assert_eq!(health.json()["status"], json!("ok"));
    assert_eq!(ask("/1.0/methods").await.json(), json!(["btcr2"]));
    assert_eq!(
        ask("/1.0/properties").await.json(),
        json!({"btcr2": {
            "networks": ["regtest"],
            "maxBodyBytes": 4_194_304,
            "requestSeconds": 30,
            "requireInvocationTarget": false,
        }})
    );
    for path in [
        "/",
        "/1.0",
        "/1.0/identifiers",
        "/1.0/identifiers/",
        "/2.0/identifiers/did:btcr2:k1",
        "/../etc/passwd",
        "/%2e%2e/%00",
    ] {
        let answer = ask(path).await;
        assert_eq!(answer.status, 404, "{path}");
        assert!(answer.is_problem(), "{path}: {answer:?}");
    }
}
