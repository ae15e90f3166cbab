//! Clients that send or want too much, or take their time.

use std::io::ErrorKind;

use super::*;

fn settings(change: impl FnOnce(&mut ServeSettings)) -> ServeSettings {
    let mut settings = lenient();
    change(&mut settings);
    settings
}

#[tokio::test]
async fn bodies_have_a_longest_length() {
    let settings = settings(|settings| settings.max_body = 2000);
    let server = serve(Lookup::new(recording()), settings).await;
    let did = did_of(&set(UPDATED));
    let body = |length: usize| format!("{{}}{}", " ".repeat(length - 2));
    let of_length = |length| bitreq::post(at(&server, &did)).with_body(body(length));
    let fits = send(of_length(2000)).await;
    assert_eq!(fits.error(), "MISSING_UPDATE_DATA");
    let answer = send(of_length(2001)).await;
    assert_eq!(answer.status, 413);
    assert!(answer.is_problem(), "{answer:?}");

    // It is enough to announce it.
    let head = format!("POST /1.0/identifiers/{did} HTTP/1.1\r\nHost: x\r\n");
    let announced = format!("{head}Content-Length: 999999999999\r\n\r\n");
    let answer = exchange(&server, announced.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    // In chunks, whose sum is not announced; the client would go on.
    let chunk = format!("400\r\n{}\r\n", " ".repeat(0x400));
    let chunked = format!(
        "{head}Transfer-Encoding: chunked\r\n\r\n{}",
        chunk.repeat(3)
    );
    let answer = exchange(&server, chunked.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
}

#[tokio::test]
async fn only_so_many_resolutions_are_under_way() {
    let mut chain = SilentChain::start().await;
    let settings = settings(|settings| settings.max_resolutions = 2);
    let server = serve(chain.lookup(), settings).await;
    let did = did_of(&set(UPDATED));
    let url = at(&server, &did);
    let first = tokio::spawn(send(bitreq::get(url.clone())));
    chain.asked().await;
    // A body that is on its way takes a place, too.
    let mut second = TcpStream::connect(server.address()).await.unwrap();
    let head = format!(
        "POST /1.0/identifiers/{did} HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\
         Expect: 100-continue\r\n\r\n"
    );
    second.write_all(head.as_bytes()).await.unwrap();
    let mut begun = [0; 25];
    second.read_exact(&mut begun).await.unwrap();
    assert_eq!(&begun, b"HTTP/1.1 100 Continue\r\n\r\n");

    for request in [
        bitreq::get(url.clone()),
        bitreq::post(url.clone()).with_body("{}"),
    ] {
        let answer = send(request).await;
        assert_eq!(answer.status, 503);
        assert!(answer.is_problem(), "{answer:?}");
        assert_eq!(answer.header("retry-after"), "2");
    }
    // What costs nothing is answered, and so are wrong requests.
    let health = send(bitreq::get(format!("{}/health", server.url()))).await;
    assert_eq!(health.status, 200);
    assert_eq!(get(&server, "garbage").await.status, 400);

    // A client that goes away gives its place back; so does one that was answered.
    drop(second);
    chain.refuse().await;
    assert_eq!(first.await.unwrap().status, 502);
    let next = tokio::spawn(send(bitreq::get(url)));
    chain.asked().await;
    chain.refuse().await;
    assert_eq!(next.await.unwrap().status, 502);
}

#[tokio::test]
async fn a_slow_resolution_does_not_hold_up_the_next() {
    let mut chain = SilentChain::start().await;
    let lookups = BTreeMap::from([(Network::Regtest, vec![chain.lookup(), chain.lookup()])]);
    let server = ResolverServer::start(ANY_PORT, lookups, lenient())
        .await
        .unwrap();
    let url = at(&server, &did_of(&set(UPDATED)));
    let first = tokio::spawn(send(bitreq::get(url.clone())));
    chain.asked().await;
    // Over a connection of its own: the first is still waited for.
    let second = tokio::spawn(send(bitreq::get(url)));
    chain.asked().await;
    chain.refuse().await;
    assert_eq!(first.await.unwrap().status, 502);
    assert_eq!(second.await.unwrap().status, 502);
}

#[tokio::test]
async fn a_chain_that_says_nothing_is_not_waited_for() {
    let chain = SilentChain::start().await;
    let settings = settings(|settings| settings.request_time = Duration::from_secs(1));
    let server = serve(chain.lookup(), settings).await;
    let answer = get(&server, &did_of(&set(UPDATED))).await;
    assert_eq!(answer.status, 504);
    assert!(answer.is_problem(), "{answer:?}");
}

#[tokio::test]
async fn a_body_that_does_not_arrive_is_not_waited_for() {
    let settings = settings(|settings| {
        settings.request_time = Duration::from_secs(1);
        settings.header_time = Duration::from_secs(1);
    });
    let server = serve(Lookup::new(recording()), settings).await;
    let did = did_of(&set(UPDATED));
    let head = format!("POST /1.0/identifiers/{did} HTTP/1.1\r\nHost: x\r\n");
    let answer = exchange(
        &server,
        format!("{head}Content-Length: 10\r\n\r\n{{").as_bytes(),
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    // Nor are headers, nor a next request.
    assert_eq!(exchange(&server, head.as_bytes()).await, "");
    assert_eq!(exchange(&server, b"").await, "");
    let answer = exchange(&server, b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[tokio::test]
async fn headers_have_a_longest_length_and_nonsense_ends_the_connection() {
    let server = recorded().await;
    let long = format!(
        "GET /health HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n",
        "x".repeat(50_000)
    );
    let answer = exchange(&server, long.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    let answer = exchange(&server, b"\x16\x03\x01 nonsense\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
}

#[tokio::test]
async fn connections_wait_for_a_place() {
    const HEALTH: &[u8] = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n";
    let settings = settings(|settings| settings.max_connections = 1);
    let server = serve(Lookup::new(recording()), settings).await;
    let mut first = TcpStream::connect(server.address()).await.unwrap();
    let mut second = TcpStream::connect(server.address()).await.unwrap();
    second.write_all(HEALTH).await.unwrap();
    let mut buffer = [0; 4096];
    // Long enough for the second to be answered, if it were to be.
    for _ in 0..50 {
        first.write_all(HEALTH).await.unwrap();
        let read = first.read(&mut buffer).await.unwrap();
        assert!(buffer[..read].starts_with(b"HTTP/1.1 200 "));
    }
    let nothing = second.try_read(&mut buffer).unwrap_err();
    assert_eq!(nothing.kind(), ErrorKind::WouldBlock);
    drop(first);
    let read = second.read(&mut buffer).await.unwrap();
    assert!(buffer[..read].starts_with(b"HTTP/1.1 200 "));
}

#[tokio::test]
async fn a_connection_ends_after_its_time() {
    let settings = settings(|settings| {
        settings.connection_time = Duration::from_secs(1);
        settings.header_time = Duration::from_secs(60);
    });
    let server = serve(Lookup::new(recording()), settings).await;
    assert_eq!(exchange(&server, b"").await, "");
}

#[tokio::test]
async fn a_shutdown_finishes_what_is_under_way() {
    let mut chain = SilentChain::start().await;
    let server = serve(chain.lookup(), lenient()).await;
    let address = server.address();
    let url = at(&server, &did_of(&set(UPDATED)));
    let idle = TcpStream::connect(address).await.unwrap();
    let request = tokio::spawn(send(bitreq::get(url)));
    chain.asked().await;
    let stopping = tokio::spawn(server.shutdown());
    // The port is closed while the request goes on.
    while TcpStream::connect(address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    assert!(!request.is_finished());
    chain.refuse().await;
    assert_eq!(request.await.unwrap().status, 502);
    stopping.await.unwrap();
    drop(idle);
}
