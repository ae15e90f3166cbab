//! Every outcome's status.

use super::*;

#[tokio::test]
async fn identifiers_that_are_not_resolved_here() {
    let server = recorded().await;
    let did = did_of(&set(UPDATED));
    let mut mistyped = did.clone();
    mistyped.pop();
    mistyped.push('q');
    for (identifier, status, error) in [
        ("garbage".to_owned(), 400, "INVALID_DID"),
        ("did:".to_owned(), 400, "INVALID_DID"),
        ("did:btcr2".to_owned(), 400, "INVALID_DID"),
        (mistyped, 400, "INVALID_DID"),
        (did.to_uppercase(), 400, "INVALID_DID"),
        ("%ff%fe".to_owned(), 400, "INVALID_DID"),
        ("%00".to_owned(), 400, "INVALID_DID"),
        ("did:btcr2:k1%2F..%2F..".to_owned(), 400, "INVALID_DID"),
        ("x".repeat(8000), 400, "INVALID_DID"),
        (
            "did:key:z6MkhaXgBZD".to_owned(),
            501,
            "METHOD_NOT_SUPPORTED",
        ),
        (format!("{did}%23initialKey"), 501, "FEATURE_NOT_SUPPORTED"),
        (format!("{did}/path/more"), 501, "FEATURE_NOT_SUPPORTED"),
        (format!("{did}?service=files"), 501, "FEATURE_NOT_SUPPORTED"),
        // A DID of the first vectors, on mainnet, which this server does not read.
        (
            "did:btcr2:k1q5p27vtztzx8sc4aqgkhfpu45wq28kkgh8cz7lsxf4qf3hmfylj2zfgq08ltl".to_owned(),
            501,
            "FEATURE_NOT_SUPPORTED",
        ),
    ] {
        let answer = get(&server, &identifier).await;
        assert_eq!(answer.status, status, "{identifier:.90}");
        assert_eq!(answer.error(), error, "{identifier:.90}");
    }
}

#[tokio::test]
async fn options_that_are_not_understood() {
    let server = recorded().await;
    let did = did_of(&set(UPDATED));
    for query in [
        "versionId=two",
        "versionId=1&versionTime=2026-09-16T14:58:57Z",
        "versionTime=yesterday",
        "minConf=0",
        "minConf=1&minConf=1",
        "versionID=1",
        "sidecar=%7B%7D",
        "&&=%ff",
    ] {
        let answer = get(&server, &format!("{did}?{query}")).await;
        assert_eq!(answer.status, 400, "{query}");
        assert_eq!(answer.error(), "INVALID_OPTIONS", "{query}");
    }
    let twice = r#"{"versionId":"1","versionId":"2"}"#.to_owned();
    let deep = format!(r#"{{"sidecar":{{"updates":[{}]}}}}"#, "[".repeat(100_000));
    for body in [
        "not json".to_owned(),
        "[]".to_owned(),
        "\u{0}".to_owned(),
        twice,
        deep,
        r#"{"versionId":1}"#.to_owned(),
        r#"{"sidecar":[]}"#.to_owned(),
        r#"{"sidecar":{"updates":[{"a":1,"a":1}]}}"#.to_owned(),
        r#"{"did":"did:btcr2:k1","resolutionOptions":{}}"#.to_owned(),
    ] {
        let request = bitreq::post(at(&server, &did)).with_body(body.clone());
        let answer = send(request).await;
        assert_eq!(answer.status, 400, "{body:.60}");
        assert_eq!(answer.error(), "INVALID_OPTIONS", "{body:.60}");
    }
    let both = bitreq::post(format!("{}?versionId=1", at(&server, &did)));
    let answer = send(both).await;
    assert_eq!(
        (answer.status, answer.error().as_str()),
        (400, "INVALID_OPTIONS")
    );
}

#[tokio::test]
async fn what_resolving_finds() {
    let server = recorded().await;
    let [updated, deactivated, tampered] = [UPDATED, DEACTIVATED, TAMPERED].map(set);

    // Deactivated: the document is there, and it is gone.
    let answer = post(&server, &did_of(&deactivated), &deactivated["resolveInput"]).await;
    assert_eq!((answer.status, answer.content_type()), (410, RESULT));
    let result = answer.json();
    assert_eq!(result["didDocument"], deactivated["expect"]["didDocument"]);
    assert_eq!(result["didDocumentMetadata"]["deactivated"], json!(true));

    let (did, sidecar) = (did_of(&updated), sidecar_of(&updated));
    let at_nine = json!({"versionId": "9", "sidecar": sidecar});
    let foreign = json!({"sidecar": sidecar_of(&deactivated)});
    for (did, body, status, error) in [
        (did.clone(), at_nine, 404, "NOT_FOUND"),
        (did.clone(), json!({}), 500, "MISSING_UPDATE_DATA"),
        (did, foreign, 500, "MISSING_UPDATE_DATA"),
        (
            did_of(&tampered),
            tampered["resolveInput"].clone(),
            500,
            "INVALID_SIGNAL_DATA",
        ),
    ] {
        // The form of a failure does not follow the header: there is no document to send.
        let request = bitreq::post(at(&server, &did))
            .with_header("Accept", "application/did")
            .with_body(body.to_string());
        let answer = send(request).await;
        assert_eq!(answer.status, status, "{error}: {answer:?}");
        assert_eq!(answer.error(), error);
    }

    // An x1 DID without its genesis document.
    let answer = get(&server, &did_of(&set(SMT))).await;
    assert_eq!(answer.status, 404, "{answer:?}");
    assert_eq!(answer.error(), "NOT_FOUND");

    // Without the switch, updates of September are not valid.
    let strict = serve(Lookup::new(recording()), ServeSettings::default()).await;
    let answer = post(&strict, &did_of(&updated), &updated["resolveInput"]).await;
    assert_eq!(
        (answer.status, answer.error().as_str()),
        (500, "INVALID_DID_UPDATE")
    );
}
