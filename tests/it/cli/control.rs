//! The control socket, with a fake agent behind it.

use std::io::Write as _;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

use btcr2_agent::agent::control::request::{
    Advertise, CohortRef, ListCohorts, NoArgs, OneCohort, ShowCohort, Subscribe,
};
use btcr2_agent::agent::control::{
    Backend as _, BindError, ControlClient, ControlServer, ErrorCode, Failure, MAX_REQUEST_BYTES,
    Request, Response, SOCKET_FILE,
};
use btcr2_agent::hash::CohortId;
use btcr2_agent::time::UnixTime;
use serde_json::{Value, json};
use tokio::sync::broadcast;

use super::{Daemon, Fake, done, home};

/// A raw connection: what is written and read is bytes.
fn exchange_raw(socket: &Path, bytes: &[u8], answers: usize) -> Vec<Value> {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.write_all(bytes).unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(stream));
    (0..answers)
        .map(|_| serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_and_answers_have_the_documented_form() {
    let daemon = Daemon::start(|request| match request {
        Request::CohortList(_) => Response::Done(json!({ "now": 5, "cohorts": [] })),
        _ => Response::Failed(Failure::new(ErrorCode::NotFound, "m").remedy("r")),
    });
    let socket = daemon.socket();
    let answers = tokio::task::spawn_blocking(move || {
        exchange_raw(
            &socket,
            b"{\"cmd\":\"cohort_list\",\"all\":true}\n\
              {\"cmd\":\"cohort_show\",\"cohort\":\"abcd\"}\n\
              {\"cmd\":\"cohort_show\",\"cohort\":\"ABCD\"}\n\
              {\"cmd\":\"cohort_list\",\"surprise\":1}\n\
              {\"cmd\":\"launch\"}\n\
              not json\n\
              {\"cmd\":\"status\"}\n",
            7,
        )
    })
    .await
    .unwrap();
    assert_eq!(
        answers[0],
        json!({"ok": true, "result": {"now": 5, "cohorts": []}})
    );
    let failed =
        json!({"ok": false, "error": {"code": "not_found", "message": "m", "remedy": "r"}});
    assert_eq!(answers[1], failed);
    for answer in &answers[2..6] {
        assert_eq!(answer["ok"], json!(false), "{answer}");
        assert_eq!(answer["error"]["code"], json!("bad_request"), "{answer}");
    }
    assert_eq!(answers[6], failed);
    assert_eq!(
        daemon.seen(),
        [
            Request::CohortList(ListCohorts { all: true }),
            Request::CohortShow(ShowCohort {
                cohort: "abcd".parse().unwrap(),
                rounds: None,
            }),
            Request::Status(NoArgs {}),
        ],
        "what does not parse never reaches the agent"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_oversized_line_is_refused_and_the_connection_goes_on() {
    let daemon = Daemon::start(|_| done(&json!({ "now": 1, "cohorts": [] })));
    let socket = daemon.socket();
    let answers = tokio::task::spawn_blocking(move || {
        let mut bytes = vec![b'x'; MAX_REQUEST_BYTES + 1];
        bytes.extend_from_slice(b"\n{\"cmd\":\"cohort_list\"}\n");
        exchange_raw(&socket, &bytes, 2)
    })
    .await
    .unwrap();
    assert_eq!(answers[0]["error"]["code"], json!("too_large"));
    assert_eq!(answers[1]["ok"], json!(true));
    // The client does not even send such a line.
    let request = Request::CohortAdvertise(Advertise {
        name: Some("x".repeat(MAX_REQUEST_BYTES)),
        ..Advertise::default()
    });
    let client = daemon.client().await;
    let failure = client.call::<Value>(&request).await.unwrap_err();
    assert_eq!(failure.code, ErrorCode::TooLarge);
    assert_eq!(daemon.seen().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn several_clients_are_served_at_once() {
    let (release, gate) = std::sync::mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let daemon = Daemon::start(move |request| {
        if matches!(request, Request::CohortAnnounce(_)) {
            gate.lock().unwrap().recv().unwrap();
            return Response::Failed(Failure::new(ErrorCode::WrongPhase, "late"));
        }
        done(&json!({ "now": 1, "cohorts": [] }))
    });
    let slow = daemon.client().await;
    let announce = tokio::spawn(async move {
        let cohort: CohortRef = "abcd".parse().unwrap();
        slow.cohort_announce(OneCohort { cohort }).await
    });
    for _ in 0..10 {
        let client = daemon.client().await;
        for _ in 0..3 {
            let list = client.cohort_list(ListCohorts::default()).await.unwrap();
            assert_eq!(list.now, UnixTime(1));
        }
    }
    release.send(()).unwrap();
    assert_eq!(
        announce.await.unwrap().unwrap_err().code,
        ErrorCode::WrongPhase
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_under_way_is_answered_before_the_daemon_stops() {
    let (started, at_work) = std::sync::mpsc::channel::<()>();
    let (release, gate) = std::sync::mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let mut daemon = Daemon::start(move |_| {
        started.send(()).unwrap();
        gate.lock().unwrap().recv().unwrap();
        done(&json!({ "now": 9, "cohorts": [] }))
    });
    let idle = daemon.client().await;
    let busy = daemon.client().await;
    let answer = tokio::spawn(async move { busy.cohort_list(ListCohorts::default()).await });
    tokio::task::spawn_blocking(move || at_work.recv().unwrap())
        .await
        .unwrap();
    drop(daemon.stop.take());
    release.send(()).unwrap();
    assert_eq!(answer.await.unwrap().unwrap().now, UnixTime(9));
    daemon.stop().await;
    let failure = idle.status(NoArgs {}).await.unwrap_err();
    assert_eq!(failure.code, ErrorCode::NotRunning);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_that_panics_is_an_internal_error() {
    let daemon = Daemon::start(|request| match request {
        Request::DidList(_) => panic!("a defect, on purpose"),
        _ => done(&json!({ "now": 1, "cohorts": [] })),
    });
    let client = daemon.client().await;
    let failure = client.did_list(NoArgs {}).await.unwrap_err();
    assert_eq!(failure.code, ErrorCode::Internal);
    client.cohort_list(ListCohorts::default()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_gets_events_of_its_cohort_and_is_told_what_it_missed() {
    let daemon = Daemon::start(|_| panic!("no request is expected"));
    let mine = CohortId::from_bytes([1; 32]);
    let other = CohortId::from_bytes([2; 32]);
    let mut events = daemon
        .client()
        .await
        .subscribe(Subscribe { cohort: Some(mine) })
        .await
        .unwrap();
    let event = |cohort: CohortId, n: u32| json!({ "cohort": cohort, "n": n });
    daemon.events.send(event(other, 1)).unwrap();
    daemon.events.send(event(mine, 2)).unwrap();
    daemon.events.send(json!({ "n": 3 })).unwrap();
    assert_eq!(events.next().await.unwrap(), Some(event(mine, 2)));
    assert_eq!(events.next().await.unwrap(), Some(json!({ "n": 3 })));

    // Far more than the socket and the broadcast channel hold, while nobody reads.
    let long = "x".repeat(1 << 20);
    for n in 0..8 {
        daemon
            .events
            .send(json!({ "cohort": mine, "n": n, "long": long }))
            .unwrap();
    }
    let mut missed = 0;
    let mut last = 0;
    while last < 7 {
        let event = events.next().await.unwrap().unwrap();
        missed += event["missed"].as_u64().unwrap_or(0);
        last = event["n"].as_u64().unwrap_or(last);
    }
    assert!((1..8).contains(&missed), "{missed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_socket_is_private_and_goes_with_the_daemon() {
    let mut daemon = Daemon::start(|_| panic!("no request is expected"));
    let socket = daemon.socket();
    let metadata = std::fs::metadata(&socket).unwrap();
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    let events = daemon
        .client()
        .await
        .subscribe(Subscribe::default())
        .await
        .unwrap();
    daemon.stop().await;
    assert!(!socket.exists());
    let mut events = events;
    assert_eq!(events.next().await.unwrap(), None);
    let failure = ControlClient::connect(&socket).await.unwrap_err();
    assert_eq!(failure.code, ErrorCode::NotRunning);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_dead_daemons_socket_is_replaced() {
    fn fake() -> Fake {
        Fake {
            answer: Box::new(|_| panic!("no request is expected")),
            seen: Arc::default(),
            events: broadcast::Sender::new(1),
        }
    }
    let home = home();
    let socket = home.path().join(SOCKET_FILE);

    // A listener that is dropped leaves its file behind, as a killed daemon does.
    drop(UnixListener::bind(&socket).unwrap());
    assert!(socket.exists());
    let failure = ControlClient::connect(&socket).await.unwrap_err();
    assert_eq!(failure.code, ErrorCode::NotRunning);
    let first = ControlServer::bind(&socket, fake()).unwrap();

    assert!(matches!(
        ControlServer::bind(&socket, fake()),
        Err(BindError::AlreadyRunning(_))
    ));
    assert!(socket.exists(), "a living daemon keeps its socket");
    drop(first);
    assert!(!socket.exists());

    std::fs::write(&socket, b"precious").unwrap();
    assert!(matches!(
        ControlServer::bind(&socket, fake()),
        Err(BindError::NotASocket(_))
    ));
    assert_eq!(std::fs::read(&socket).unwrap(), b"precious");

    let long = home.path().join("d".repeat(120)).join(SOCKET_FILE);
    let Err(error) = ControlServer::bind(&long, fake()) else {
        panic!("a path of more than 108 bytes can not be bound");
    };
    let failure = Failure::from(error);
    assert!(failure.remedy.unwrap().contains("shorter path"));
}
