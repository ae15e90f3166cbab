//! Reading from gateways.

use std::time::Duration;

use btcr2_agent::cas::{CasError, CasReader};
use btcr2_agent::did::json::cid;
use btcr2_agent::hash::sha256;

use super::ipfs::{Fault, Ipfs};
use super::vector;

const LIMIT: usize = 40_960;

fn reader(gateways: &[&str]) -> CasReader {
    CasReader::new(gateways, Duration::from_secs(10)).unwrap()
}

#[tokio::test]
async fn objects_are_found_by_the_address_of_the_vector() {
    let ipfs = Ipfs::start().await;
    let reader = reader(&[&format!("{}/", ipfs.url())]);
    for (content, cid) in vector() {
        assert_eq!(reader.get(&sha256(&content), LIMIT).await, Ok(None));
        assert_eq!(ipfs.put(&content), cid);
        let found = reader.get(&sha256(&content), LIMIT).await.unwrap();
        assert_eq!(found.as_deref(), Some(&content[..]));
        assert_eq!(
            ipfs.seen().last().unwrap(),
            &format!("GET /ipfs/{cid}?format=raw")
        );
        // Exactly as long as allowed, and one byte longer.
        let found = reader.get(&sha256(&content), content.len()).await.unwrap();
        assert_eq!(found.unwrap(), content);
        let error = reader.get(&sha256(&content), content.len() - 1).await;
        assert!(matches!(error, Err(CasError::TooLarge { .. })), "{error:?}");
    }
}

#[tokio::test]
async fn bytes_that_hash_to_something_else_are_refused() {
    let ipfs = Ipfs::start().await;
    let cid = ipfs.put(b"{}");
    ipfs.set(Fault::Lies);
    assert_eq!(
        reader(&[&ipfs.url()]).get(&sha256(b"{}"), LIMIT).await,
        Err(CasError::WrongBytes {
            host: format!("127.0.0.1:{}", ipfs.port()),
            cid
        })
    );
}

#[tokio::test]
async fn a_gateway_that_never_stops_is_cut_off() {
    let ipfs = Ipfs::start().await;
    ipfs.set(Fault::Endless);
    let error = reader(&[&ipfs.url()]).get(&[7; 32], 1000).await;
    assert_eq!(
        error,
        Err(CasError::TooLarge {
            host: format!("127.0.0.1:{}", ipfs.port()),
            cid: btcr2_agent::did::json::cid_of_hash(&[7; 32]),
            limit: 1000
        })
    );
}

#[tokio::test]
async fn absence_is_told_from_failure() {
    let ipfs = Ipfs::start().await;
    ipfs.put(b"{}");
    let reader = reader(&[&ipfs.url()]);
    // Pages of any length, also longer than the object may be.
    for status in [404, 410, 451, 504] {
        ipfs.set(Fault::Status(status, "x".repeat(5000)));
        assert_eq!(reader.get(&sha256(b"{}"), 100).await, Ok(None), "{status}");
    }
    for status in [400, 401, 403, 429, 500, 502, 503] {
        ipfs.set(Fault::Status(status, "\u{1b}[2Jno\nmore".to_owned()));
        let Err(error) = reader.get(&sha256(b"{}"), 100).await else {
            panic!("{status}");
        };
        assert_eq!(
            error,
            CasError::Refused {
                host: format!("127.0.0.1:{}", ipfs.port()),
                status,
                detail: "[2Jno more".to_owned()
            }
        );
    }
    // Something else than the object, though "successful".
    ipfs.set(Fault::Status(206, "{}".to_owned()));
    let error = reader.get(&sha256(b"{}"), 100).await;
    assert!(
        matches!(error, Err(CasError::Refused { status: 206, .. })),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_silent_gateway_is_given_up() {
    let ipfs = Ipfs::start().await;
    ipfs.set(Fault::Silent);
    let reader = CasReader::new([ipfs.url()], Duration::from_millis(1)).unwrap();
    assert_eq!(
        reader.get(&[0; 32], LIMIT).await,
        Err(CasError::TimedOut {
            host: format!("127.0.0.1:{}", ipfs.port()),
            seconds: 1
        })
    );
}

#[tokio::test]
async fn gateways_are_tried_in_order_until_one_has_it() {
    let (lying, empty, full) = (
        Ipfs::start().await,
        Ipfs::start().await,
        Ipfs::start().await,
    );
    for ipfs in [&lying, &full] {
        ipfs.put(b"[1]");
    }
    lying.set(Fault::Lies);
    let all = reader(&[&lying.url(), &empty.url(), &full.url()]);
    let found = all.get(&sha256(b"[1]"), LIMIT).await.unwrap();
    assert_eq!(found.unwrap(), b"[1]");
    for ipfs in [&lying, &empty, &full] {
        assert_eq!(ipfs.seen().len(), 1);
    }
    // The first that has it is enough.
    let found = reader(&[&full.url(), &empty.url()])
        .get(&sha256(b"[1]"), LIMIT)
        .await
        .unwrap();
    assert_eq!((found.unwrap(), empty.seen().len()), (b"[1]".to_vec(), 1));
    // A liar proves no absence, and is named although a later gateway answered.
    let error = reader(&[&lying.url(), &empty.url()])
        .get(&sha256(b"[1]"), LIMIT)
        .await;
    assert!(
        matches!(&error, Err(CasError::WrongBytes { host, .. }) if host.ends_with(&lying.port().to_string())),
        "{error:?}"
    );
}

#[tokio::test]
async fn no_gateway_means_nothing_is_asked_and_nothing_found() {
    let none = reader(&[]);
    assert!(none.is_empty());
    assert_eq!(none.get(&sha256(b"{}"), LIMIT).await, Ok(None));
}

#[tokio::test]
async fn a_gateway_that_is_gone_is_named() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let error = reader(&[&format!("http://127.0.0.1:{port}/secret")])
        .get(&[0; 32], LIMIT)
        .await
        .unwrap_err();
    let CasError::Unreachable { host, .. } = &error else {
        panic!("{error:?}");
    };
    assert_eq!(host, &format!("127.0.0.1:{port}"));
    assert!(!error.to_string().contains("secret"));
}

#[tokio::test]
async fn redirects_are_not_followed_to_where_a_server_says() {
    let (ipfs, target) = (Ipfs::start().await, Ipfs::start().await);
    target.put(b"{}");
    for status in [301, 302, 303, 307, 308] {
        for location in [
            format!("{}/ipfs/{}?format=raw", target.url(), cid(b"{}")),
            format!("/ipfs/{}?format=raw", cid(b"{}")),
            "http://169.254.169.254/latest/meta-data".to_owned(),
            "nonsense://".to_owned(),
        ] {
            ipfs.set(Fault::Redirects(status, location.clone()));
            let found = reader(&[&ipfs.url()]).get(&sha256(b"{}"), LIMIT).await;
            assert!(found.is_err(), "{status} {location}");
        }
    }
    assert_eq!(target.seen(), [""; 0], "nothing arrived there");
    ipfs.set(Fault::Redirects(301, target.url()));
    assert_eq!(
        reader(&[&ipfs.url()]).get(&sha256(b"{}"), LIMIT).await,
        Err(CasError::Redirected {
            host: format!("127.0.0.1:{}", ipfs.port())
        })
    );
}

#[tokio::test]
async fn a_local_node_that_redirects_from_localhost_is_read_by_its_address() {
    let ipfs = Ipfs::start().await;
    ipfs.put(b"{}");
    ipfs.set(Fault::RedirectsLocalhost);
    let found = reader(&[&ipfs.localhost_url()])
        .get(&sha256(b"{}"), LIMIT)
        .await;
    assert_eq!(found, Ok(Some(b"{}".to_vec())));
    // Once: a node that goes on redirecting is given up.
    let asked = ipfs.seen().len();
    ipfs.set(Fault::Redirects(301, "/".to_owned()));
    let error = reader(&[&ipfs.localhost_url()])
        .get(&sha256(b"{}"), LIMIT)
        .await;
    assert!(
        matches!(error, Err(CasError::Redirected { .. })),
        "{error:?}"
    );
    assert_eq!(ipfs.seen().len(), asked + 2);
}
