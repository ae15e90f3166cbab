//! Esplora servers that limit how often they are asked.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};

use axum::http::{HeaderMap, StatusCode};

use super::*;

/// What is said to a request: a status, and how long to wait, in seconds or until a date.
type Refusal = (u16, Option<&'static str>);

/// The time of the server, which is behind everybody else's.
const SERVER_TIME: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

/// A server that passes requests on to `server` after it has refused so many, and counts all.
async fn limiting(server: &RegtestServer, refusals: &[Refusal]) -> (ChainBackend, Arc<AtomicU32>) {
    let upstream = server.url();
    let asked = Arc::new(AtomicU32::new(0));
    let refusals = Arc::new(Mutex::new(VecDeque::from(refusals.to_vec())));
    let counter = Arc::clone(&asked);
    let app = axum::Router::new().fallback(move |request: axum::extract::Request| {
        let (upstream, counter) = (upstream.clone(), Arc::clone(&counter));
        let refusals = Arc::clone(&refusals);
        async move {
            counter.fetch_add(1, Ordering::SeqCst);
            let refusal = refusals.lock().unwrap().pop_front();
            let mut headers = HeaderMap::new();
            match refusal {
                Some((status, wait)) => {
                    if let Some(wait) = wait {
                        headers.insert("retry-after", wait.parse().unwrap());
                    }
                    headers.insert("date", SERVER_TIME.parse().unwrap());
                    let status = StatusCode::from_u16(status).unwrap();
                    (status, headers, "slow down".to_owned())
                }
                None => {
                    let path = request.uri().path().to_owned();
                    let body = http("GET", &format!("{upstream}{path}")).await;
                    (StatusCode::OK, headers, body)
                }
            }
        }
    });
    let listener = tokio::net::TcpListener::bind(LOCALHOST).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    let backend = ChainBackend::esplora(&url, Duration::from_secs(10)).unwrap();
    (backend, asked)
}

#[tokio::test]
async fn a_short_wait_is_waited_and_the_question_is_answered() {
    let (server, direct) = serve(ServerSettings::default()).await;
    let tip = direct.block_hash(0).await.unwrap();
    for refusals in [
        &[(429, Some("0")), (503, Some("0"))][..],
        &[(429, None)],
        &[(500, None)],
        // A second later by the server's clock; and in its past, which says no word of time.
        &[(429, Some("Sun, 06 Nov 1994 08:49:38 GMT"))],
        &[(503, Some("Sun, 06 Nov 1994 08:49:36 GMT"))],
    ] {
        let (backend, asked) = limiting(&server, refusals).await;
        assert_eq!(backend.block_hash(0).await.unwrap(), tip);
        let expected = u32::try_from(refusals.len()).unwrap() + 1;
        assert_eq!(asked.load(Ordering::SeqCst), expected);
    }
    server.shutdown().await;
}

/// A server that asks for an hour is not asked again before it is over, by nobody: also not by a clone, and not for
/// another question. What is said then names the time.
#[tokio::test]
async fn a_server_that_asks_for_patience_is_left_alone() {
    // In seconds, and as a date an hour after the server's own.
    for wait in ["3600", "Sun, 06 Nov 1994 09:49:37 GMT"] {
        left_alone(wait).await;
    }
}

async fn left_alone(wait: &'static str) {
    let (server, _) = serve(ServerSettings::default()).await;
    let (backend, asked) = limiting(&server, &[(429, Some(wait))]).await;
    let error = backend.block_hash(0).await.unwrap_err();
    assert!(
        matches!(error, ChainError::Refused { status: 429, .. }),
        "{error}"
    );
    let other = backend.clone();
    let address = Wallet::new(71).address();
    for error in [
        backend.tip().await.unwrap_err(),
        other.address_history(&address).await.unwrap_err(),
        other.fee_rate(6).await.unwrap_err(),
    ] {
        let ChainError::RateLimited { seconds, .. } = error else {
            panic!("{error}");
        };
        assert!((3_500..=3_600).contains(&seconds), "{seconds}");
        assert!(error.is_transient());
        assert!(error.to_string().contains("use your own server"));
    }
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    server.shutdown().await;
}

/// A server that says no and not for how long is asked less and less.
#[tokio::test]
async fn a_server_that_says_no_word_of_time_is_asked_less_and_less() {
    let (server, _) = serve(ServerSettings::default()).await;
    let (backend, asked) = limiting(&server, &[(429, None); 64]).await;
    backend.block_hash(0).await.unwrap_err();
    assert_eq!(asked.load(Ordering::SeqCst), 3, "two retries");
    backend.block_hash(0).await.unwrap_err();
    assert_eq!(
        asked.load(Ordering::SeqCst),
        4,
        "one after the wait, none with it"
    );
    let error = backend.block_hash(0).await.unwrap_err();
    assert!(matches!(error, ChainError::RateLimited { .. }), "{error}");
    assert_eq!(asked.load(Ordering::SeqCst), 4);
    server.shutdown().await;
}
