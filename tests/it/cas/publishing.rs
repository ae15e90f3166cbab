//! Storing at a node.

use btcr2_agent::cas::{
    CasError, CasPublisher, CasReader, DEFAULT_TIMEOUT, MAX_BLOCK_BYTES, RpcAuth,
};
use btcr2_agent::did::json::cid;
use btcr2_agent::hash::sha256;

use super::ipfs::{Fault, Ipfs};
use super::vector;

fn publisher(ipfs: &Ipfs) -> CasPublisher {
    CasPublisher::new(&ipfs.url(), None).unwrap()
}

#[tokio::test]
async fn what_is_published_is_one_pinned_block_that_gateways_serve() {
    let ipfs = Ipfs::start().await;
    let publisher = publisher(&ipfs);
    let reader = CasReader::new([ipfs.url()], DEFAULT_TIMEOUT).unwrap();
    for (content, expected) in vector() {
        assert_eq!(publisher.publish(&content).await, Ok(expected.clone()));
        assert_eq!(ipfs.block(&expected).as_deref(), Some(&content[..]));
        assert_eq!(ipfs.pinned().last(), Some(&expected));
        let found = reader.get(&sha256(&content), 40_960).await.unwrap();
        assert_eq!(found.unwrap(), content);
        // Again is harmless.
        assert_eq!(publisher.publish(&content).await, Ok(expected));
    }
    let added = ipfs.seen();
    assert!(
        added
            .iter()
            .filter(|line| line.starts_with("POST"))
            .all(|line| line.starts_with("POST /api/v0/add?") && line.contains("pin=true")),
        "{added:?}"
    );
}

#[tokio::test]
async fn objects_up_to_one_block_are_sent_and_larger_ones_are_not() {
    let ipfs = Ipfs::start().await;
    let largest = vec![b'x'; MAX_BLOCK_BYTES];
    assert_eq!(publisher(&ipfs).publish(&largest).await, Ok(cid(&largest)));
    let asked = ipfs.seen().len();
    let error = publisher(&ipfs)
        .publish(&vec![b'x'; MAX_BLOCK_BYTES + 1])
        .await;
    assert_eq!(
        error,
        Err(CasError::BlockTooLarge {
            bytes: MAX_BLOCK_BYTES + 1
        })
    );
    assert_eq!(ipfs.seen().len(), asked, "nothing was sent");
}

#[tokio::test]
async fn bytes_that_look_like_a_form_arrive_as_they_are() {
    let ipfs = Ipfs::start().await;
    let tricky = b"\r\n--btcr2-\r\nContent-Disposition: form-data\r\n\r\n\0\xff--\r\n";
    let cid = publisher(&ipfs).publish(tricky).await.unwrap();
    assert_eq!(ipfs.block(&cid).unwrap(), tricky);
}

#[tokio::test]
async fn another_address_than_the_computed_one_is_an_error() {
    let ipfs = Ipfs::start().await;
    for fault in [Fault::Lies, Fault::SmallBlocks] {
        ipfs.set(fault.clone());
        let error = publisher(&ipfs).publish(b"{}").await.unwrap_err();
        let CasError::WrongCid {
            expected, returned, ..
        } = error
        else {
            panic!("{fault:?}: {error:?}");
        };
        assert_eq!(expected, cid(b"{}"));
        assert_ne!(returned, expected);
    }
    for fault in [
        Fault::NamesTwo,
        Fault::Status(200, String::new()),
        Fault::Status(200, "<html>".to_owned()),
        Fault::Status(200, "{\"Name\":\"x\"}".to_owned()),
        Fault::Status(200, "x".repeat(100_000)),
    ] {
        ipfs.set(fault.clone());
        let error = publisher(&ipfs).publish(b"{}").await.unwrap_err();
        assert!(
            matches!(error, CasError::BadAnswer { .. }),
            "{fault:?}: {error:?}"
        );
    }
}

#[tokio::test]
async fn refusals_are_passed_on_in_the_nodes_words() {
    let ipfs = Ipfs::start().await;
    let explained = r#"{"Message":"disk full","Code":0,"Type":"error"}"#;
    ipfs.set(Fault::Status(500, explained.to_owned()));
    assert_eq!(
        publisher(&ipfs).publish(b"{}").await,
        Err(CasError::Refused {
            host: format!("127.0.0.1:{}", ipfs.port()),
            status: 500,
            detail: "disk full".to_owned()
        })
    );
    let target = Ipfs::start().await;
    ipfs.set(Fault::Redirects(
        307,
        format!("{}/api/v0/add", target.url()),
    ));
    let error = publisher(&ipfs).publish(b"{}").await;
    assert!(
        matches!(error, Err(CasError::Redirected { .. })),
        "{error:?}"
    );
    assert_eq!(target.seen(), [""; 0]);
}

#[tokio::test]
async fn credentials_are_sent_when_there_are_some() {
    let ipfs = Ipfs::start().await;
    for (given, header) in [
        ("bearer:t0ken", "Bearer t0ken"),
        ("basic:alice:hunter2", "Basic YWxpY2U6aHVudGVyMg=="),
    ] {
        ipfs.want_authorization(header);
        let auth = RpcAuth::parse(given).unwrap();
        let with = CasPublisher::new(&ipfs.url(), Some(auth)).unwrap();
        assert_eq!(with.publish(b"{}").await, Ok(cid(b"{}")));
        let error = publisher(&ipfs).publish(b"{}").await.unwrap_err();
        assert!(
            matches!(error, CasError::Refused { status: 403, .. }),
            "{error:?}"
        );
        assert!(error.to_string().contains("check the credentials"));
    }
}
