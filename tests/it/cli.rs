//! The command line, by the real binary; the control socket, in this process.

use std::ffi::OsStr;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use btcr2_agent::agent::control::request::{
    Advertise, CohortRef, DidChange, Discover, ListCohorts, NoArgs, OneCohort, Subscribe,
};
use btcr2_agent::agent::control::views::{
    AdvertStatus, AdvertView, BeaconType, BeaconView, CohortPhase, CohortSummaryView, CohortView,
    DeliveryView, DiscoverView, EmptyRounds, FeeRate, FundState, FundView, MemberState, MemberView,
    Recipient, RelayReceipt, RelayReceiptView, Role, RoundState, RoundView, Span, Tally, TermsView,
};
use btcr2_agent::agent::control::{
    Backend as _, BindError, ControlClient, ControlServer, ErrorCode, Failure, Handler,
    MAX_REQUEST_BYTES, PeerText, Request, Response, SOCKET_FILE,
};
use btcr2_agent::cli::args::Cli;
use btcr2_agent::hash::CohortId;
use btcr2_agent::keys::{NostrKey, OwnKey};
use btcr2_agent::network::Network;
use btcr2_agent::protocol::{Round, Seat};
use btcr2_agent::time::UnixTime;
use clap::CommandFactory as _;
use serde_json::{Value, json};
use tokio::sync::{broadcast, oneshot};

// ---------------------------------------------------------------------------------------------
// The binary, without a daemon

/// The binary with a home directory and nothing else from the environment.
fn binary(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_btcr2-agent"));
    command
        .env_clear()
        .env("BTCR2_AGENT_HOME", home)
        .stdin(Stdio::null());
    command
}

fn run<I, S>(home: &Path, args: I) -> Output
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    binary(home).args(args).output().unwrap()
}

fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split_whitespace()
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

fn home() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn the_command_tree_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn wrong_command_lines_exit_with_2() {
    let home = home();
    let id = "ab".repeat(32);
    for line in [
        "nonsense".to_owned(),
        "cohort".to_owned(),
        "cohort nonsense".to_owned(),
        "cohort join".to_owned(),
        "cohort join npub1qqqqqqqq".to_owned(),
        "cohort join 0".to_owned(),
        "cohort show zz".to_owned(),
        "cohort fund abcd --rounds 0".to_owned(),
        "cohort fund abcd --fee-rate 0".to_owned(),
        "cohort advertise --seats 5-2".to_owned(),
        "cohort advertise --network mainnet".to_owned(),
        "cohort advertise --beacon map".to_owned(),
        "cohort advertise --cadence 7".to_owned(),
        "cohort advertise --tos-link https://example.org".to_owned(),
        format!("cohort advertise --tos-sha256 {id}"),
        "did register --cohort abcd".to_owned(),
        "did register did:btcr2:k1q --new --cohort abcd".to_owned(),
        "did update did:btcr2:k1q".to_owned(),
        "did update did:key:z --deactivate".to_owned(),
        "did update did:btcr2:k1q --deactivate --patch p.json".to_owned(),
        "relay add https://relay.example".to_owned(),
        "relay add wss://r.example --read-only --write-only".to_owned(),
        "init --no-passphrase --passphrase-file f".to_owned(),
        "init --import-nsec --import-words f".to_owned(),
        "demo --members 1".to_owned(),
        "demo --rounds 0".to_owned(),
        "follow nsec1qqqqqqqq".to_owned(),
        "status --no-such-flag".to_owned(),
    ] {
        let text = run(home.path(), words(&line));
        assert_eq!(text.status.code(), Some(2), "{line}");
        assert!(text.stdout.is_empty(), "{line}");
        assert!(
            stderr(&text).contains("--help"),
            "{line}: {}",
            stderr(&text)
        );

        let json = run(home.path(), words(&line).chain(["--json"]));
        assert_eq!(json.status.code(), Some(2), "{line}");
        assert!(json.stderr.is_empty(), "{line}: {}", stderr(&json));
        let object: Value = serde_json::from_slice(&json.stdout).unwrap();
        assert_eq!(object["ok"], json!(false), "{line}");
        assert_eq!(object["error"]["code"], json!("usage"), "{line}");
        let message = object["error"]["message"].as_str().unwrap();
        assert!(
            message.len() > 10 && !message.contains('\n'),
            "{line}: {message}"
        );
    }
    assert_eq!(run(home.path(), [""; 0]).status.code(), Some(2));
}

#[test]
fn every_command_has_help_with_an_example() {
    fn walk(command: &clap::Command, path: &[String], all: &mut Vec<Vec<String>>) {
        all.push(path.to_vec());
        for inner in command.get_subcommands() {
            let path = [path, &[inner.get_name().to_owned()]].concat();
            walk(inner, &path, all);
        }
    }
    let mut all = Vec::new();
    walk(&Cli::command(), &[], &mut all);
    assert!(all.len() >= 41, "{}", all.len());
    let home = home();
    for path in all {
        let output = run(
            home.path(),
            path.iter().map(String::as_str).chain(["--help"]),
        );
        assert_eq!(output.status.code(), Some(0), "{path:?}");
        let help = stdout(&output);
        assert!(help.contains("Example"), "{path:?}: {help}");
        assert!(
            help.contains("--json") && help.contains("--home"),
            "{path:?}"
        );
        let call = format!("btcr2-agent {}", path.join(" "));
        let examples = help.split("Example").nth(1).unwrap();
        assert!(examples.contains(call.trim()), "{path:?}: {examples}");
    }
    let root = run(home.path(), ["--help"]);
    for status in ["0  done", "1  refused or failed", "2  usage"] {
        assert!(stdout(&root).contains(status), "{status}");
    }
}

#[test]
fn without_a_daemon_commands_fail_with_the_remedy() {
    let home = home();
    for line in [
        "status",
        "cohort list",
        "cohort show abcd",
        "cohort join naddr1qqqqqqqq --yes",
        "did list",
        "followed",
        "subscribers",
    ] {
        let output = run(home.path(), words(line));
        assert_eq!(output.status.code(), Some(1), "{line}");
        assert!(output.stdout.is_empty(), "{line}");
        assert_eq!(
            stderr(&output),
            format!(
                "error: no daemon is running in {}\nhint: start it with `btcr2-agent run`\n",
                home.path().display()
            ),
            "{line}"
        );
    }
}

#[test]
fn json_and_home_are_accepted_anywhere() {
    let named = home();
    let other = home();
    let flag = named.path().to_str().unwrap();
    let expected = json!({
        "ok": false,
        "error": {
            "code": "not_running",
            "message": format!("no daemon is running in {flag}"),
            "remedy": "start it with `btcr2-agent run`",
        }
    });
    for args in [
        vec!["--json", "--home", flag, "cohort", "list"],
        vec!["cohort", "--json", "list", "--home", flag],
        vec!["cohort", "list", "--home", flag, "--json", "-v"],
    ] {
        let output = run(other.path(), &args);
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        assert!(output.stderr.is_empty(), "{args:?}: {}", stderr(&output));
        let object: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(object, expected, "{args:?}");
    }
}

#[test]
fn a_closed_stdout_is_no_failure() {
    let home = home();
    let mut child = binary(home.path())
        .args(["completions", "bash"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut complaint = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut complaint)
        .unwrap();
    assert_eq!(complaint, "");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_full_disk_is_a_failure() {
    let Ok(full) = std::fs::OpenOptions::new().write(true).open("/dev/full") else {
        return;
    };
    let home = home();
    let output = binary(home.path())
        .args(["completions", "zsh"])
        .stdout(full)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).starts_with("error: stdout can not be written"));
}

#[test]
fn completions_name_the_commands() {
    let home = home();
    for shell in ["bash", "zsh", "fish"] {
        let output = run(home.path(), ["completions", shell]);
        assert_eq!(output.status.code(), Some(0));
        assert!(stdout(&output).contains("advertise"), "{shell}");
    }
}

#[test]
fn a_wrong_patch_is_refused_before_anything_is_sent() {
    let home = home();
    let patch = home.path().join("patch.json");
    for (text, why) in [
        ("", "not an RFC 6902 patch"),
        ("{}", "not an RFC 6902 patch"),
        ("[]", "no operations"),
        (r#"[{"op":"explode","path":"/a"}]"#, "not an RFC 6902 patch"),
        (r#"[{"op":"add","path":"/a"}]"#, "not an RFC 6902 patch"),
    ] {
        std::fs::write(&patch, text).unwrap();
        let args = ["did", "update", "did:btcr2:k1q", "--patch"];
        let output = run(
            home.path(),
            args.map(OsStr::new).into_iter().chain([patch.as_os_str()]),
        );
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(stderr(&output).contains(why), "{text}: {}", stderr(&output));
    }
}

// ---------------------------------------------------------------------------------------------
// The control socket

/// Answers with what the test says and keeps the requests.
struct Fake {
    answer: Box<dyn Fn(&Request) -> Response + Send + Sync>,
    seen: Arc<Mutex<Vec<Request>>>,
    events: broadcast::Sender<Value>,
}

impl Handler for Fake {
    async fn handle(&self, request: Request) -> Response {
        self.seen.lock().unwrap().push(request.clone());
        (self.answer)(&request)
    }

    fn events(&self) -> broadcast::Receiver<Value> {
        self.events.subscribe()
    }
}

/// A fake daemon in a home directory; it stops when dropped.
struct Daemon {
    home: tempfile::TempDir,
    seen: Arc<Mutex<Vec<Request>>>,
    events: broadcast::Sender<Value>,
    stop: Option<oneshot::Sender<()>>,
    running: Option<tokio::task::JoinHandle<()>>,
}

impl Daemon {
    fn start(answer: impl Fn(&Request) -> Response + Send + Sync + 'static) -> Self {
        let home = home();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let events = broadcast::Sender::new(4);
        let fake = Fake {
            answer: Box::new(answer),
            seen: Arc::clone(&seen),
            events: events.clone(),
        };
        let server = ControlServer::bind(&home.path().join(SOCKET_FILE), fake).unwrap();
        let (stop, stopped) = oneshot::channel();
        let running = tokio::spawn(server.run(async {
            let _ = stopped.await;
        }));
        Self {
            home,
            seen,
            events,
            stop: Some(stop),
            running: Some(running),
        }
    }

    fn socket(&self) -> PathBuf {
        self.home.path().join(SOCKET_FILE)
    }

    async fn client(&self) -> ControlClient {
        ControlClient::connect(&self.socket()).await.unwrap()
    }

    fn seen(&self) -> Vec<Request> {
        self.seen.lock().unwrap().clone()
    }

    async fn stop(&mut self) {
        drop(self.stop.take());
        if let Some(running) = self.running.take() {
            running.await.unwrap();
        }
    }

    /// Runs the binary against this daemon, away from the runtime's threads.
    async fn run(&self, line: &str) -> Output {
        let home = self.home.path().to_owned();
        let line = line.to_owned();
        tokio::task::spawn_blocking(move || run(&home, words(&line)))
            .await
            .unwrap()
    }
}

fn done(value: &impl serde::Serialize) -> Response {
    Response::Done(serde_json::to_value(value).unwrap())
}

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
            Request::CohortShow(btcr2_agent::agent::control::request::ShowCohort {
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

// ---------------------------------------------------------------------------------------------
// The binary against a daemon

fn key(n: u8) -> NostrKey {
    OwnKey::from_bytes(&[n; 32]).unwrap().public()
}

/// A name with everything in it that must not reach a terminal.
const HOSTILE: &str =
    "gar\u{1b}[2J\u{1b}]0;owned\u{7}den \u{202e}nedrag\u{200b}\r\nerror: faked\u{9b}1m";

fn terms() -> TermsView {
    TermsView {
        name: Some(PeerText::new(HOSTILE)),
        network: Network::Signet,
        beacon: BeaconType::Cas,
        seats: Span { min: 2, max: 5 },
        dids_per_seat: Span { min: 1, max: 4 },
        cadence_s: Some(604_800),
        pending_trigger: Some(3),
        response_deadline_s: 21_600,
        sign_deadline_s: 3600,
        depth: 1,
        max_fee_rate: FeeRate(2500),
        empty_rounds: EmptyRounds::Skip,
        cost_enrolment_sat: Some(12_345),
        cost_announcement_sat: None,
        tos: None,
        opt_in_until: UnixTime(4_000_000_000),
        relays: vec![PeerText::new("wss://relay.example/")],
    }
}

fn advert(cohort: CohortId) -> AdvertView {
    AdvertView {
        cohort,
        aggregator: key(1),
        naddr: "naddr1qqqqqqqq".to_owned(),
        status: AdvertStatus::Open,
        expired: false,
        followed: false,
        joined: false,
        invitation: false,
        terms: terms(),
        seats_taken: Some(2),
        published_at: UnixTime(1_790_000_000),
        served_by: vec!["wss://relay.example/".to_owned()],
        relays_asked: 3,
        policy_objections: Vec::new(),
    }
}

fn cohort_view(cohort: CohortId) -> CohortView {
    let now = UnixTime(1_800_000_000);
    CohortView {
        now,
        summary: CohortSummaryView {
            cohort,
            name: Some(PeerText::new(HOSTILE)),
            role: Role::Participant,
            network: Network::Signet,
            beacon: BeaconType::Cas,
            phase: CohortPhase::Round,
            members: Tally { have: 2, of: 2 },
            round: Some(Round(7)),
            deadline: Some(now.plus(3600)),
            waiting_for: vec![Seat(1)],
            next_step: None,
        },
        aggregator: key(1),
        naddr: Some("naddr1qqqqqqqq".to_owned()),
        terms: terms(),
        own_seat: Some(Seat(0)),
        own_key: Some(key(2)),
        members: (0..2)
            .map(|n| MemberView {
                seat: Seat(n),
                key: key(2 + n as u8),
                dids: n + 1,
                acknowledged_set: true,
                last_heard_at: Some(now.minus(60)),
                state: MemberState::Awaited,
            })
            .collect(),
        beacon: Some(BeaconView {
            address: "tb1pexample".to_owned(),
            balance_sat: 1_234_567,
            unconfirmed_sat: 0,
            tip: None,
            rounds_left: Some(80),
        }),
        round: Some(RoundView {
            round: Round(7),
            state: RoundState::Responding,
            opened_at: now.minus(7200),
            deadline: Some(now.plus(3600)),
            attempt: 1,
            responses: Tally { have: 1, of: 2 },
            partials: Tally { have: 0, of: 2 },
            waiting_for: vec![Seat(1)],
            updates: None,
            own: Vec::new(),
            signal: None,
            txid: None,
            vsize: None,
            fee_sat: None,
            confirmations: 0,
            took_ms: None,
            end: None,
        }),
        past_rounds: Vec::new(),
        delivery: vec![DeliveryView {
            message: "response".to_owned(),
            round: Some(Round(7)),
            to: Recipient::Aggregator(key(1)),
            sent_at: now.minus(30),
            relays: vec![
                RelayReceiptView {
                    relay: "wss://a.example/".to_owned(),
                    receipt: RelayReceipt::Ok,
                    reason: None,
                },
                RelayReceiptView {
                    relay: "wss://b.example/".to_owned(),
                    receipt: RelayReceipt::Refused,
                    reason: Some(PeerText::new("blocked: \u{1b}[31mgo away")),
                },
            ],
            acknowledged: Tally { have: 0, of: 1 },
            waiting_for: Vec::new(),
            attempts: 2,
        }],
        end: None,
    }
}

fn assert_harmless(text: &str) {
    for c in text.chars() {
        assert!(
            c == '\n' || !(c.is_control() || "\u{202e}\u{200b}".contains(c)),
            "{c:?} in {text}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_peers_wrote_can_not_touch_the_terminal() {
    let id = CohortId::from_bytes([0xab; 32]);
    // Sent as raw JSON, as a daemon with a defect might: the client cleans again.
    let mut view = serde_json::to_value(cohort_view(id)).unwrap();
    view["summary"]["name"] = json!(HOSTILE);
    view["terms"]["name"] = json!(HOSTILE);
    view["beacon"]["address"] = json!("tb1p\u{1b}[8m");
    view["summary"]["next_step"] = json!("step\u{1b}[0m\nerror: faked");
    let daemon = Daemon::start(move |request| match request {
        Request::CohortShow(_) => Response::Done(view.clone()),
        _ => Response::Failed(Failure::new(
            ErrorCode::RefusedByPeer,
            format!("said {HOSTILE}"),
        )),
    });
    let text = daemon.run("cohort show abab").await;
    assert_eq!(text.status.code(), Some(0), "{}", stderr(&text));
    let page = stdout(&text);
    assert_harmless(page);
    for expected in [
        "gar[2J]0;ownedden nedrag",
        "1,234,567 sat",
        "80 rounds",
        "at most 2.5 sat/vB",
        "every 7 d, or at 3 pending updates",
        "waiting for       seat 1",
        "wss://b.example/ refused: blocked: [31mgo away",
        "1/2 ok",
        "2027-01-15 09:00:00 UTC (in 1 h)",
    ] {
        assert!(page.contains(expected), "{expected:?} in {page}");
    }
    assert!(!page.lines().any(|line| line.starts_with("error:")));

    let json = daemon.run("cohort show abab --json").await;
    assert_eq!(json.status.code(), Some(0));
    assert_eq!(stdout(&json).lines().count(), 1);
    let object: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(object["ok"], json!(true));
    assert_eq!(
        object["result"]["summary"]["cohort"],
        json!("ab".repeat(32))
    );
    assert_harmless(object["result"]["summary"]["name"].as_str().unwrap());

    let failed = daemon.run("cohort list").await;
    assert_eq!(failed.status.code(), Some(1));
    assert_harmless(stderr(&failed));
    assert_eq!(stderr(&failed).lines().count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_are_aligned() {
    let summary = cohort_view(CohortId::from_bytes([1; 32])).summary;
    let daemon = Daemon::start(move |_| {
        let mut short = summary.clone();
        short.name = Some(PeerText::new("日本"));
        short.phase = CohortPhase::Acknowledging;
        short.members = Tally { have: 3, of: 100 };
        let mut none = summary.clone();
        none.name = None;
        done(&json!({ "now": 1_800_000_000, "cohorts": [summary, short, none] }))
    });
    let output = daemon.run("cohort list").await;
    let lines: Vec<&str> = stdout(&output).lines().collect();
    assert_eq!(lines.len(), 4);
    // Columns begin at the same place on screen in every line: CJK characters are two wide.
    let column = |line: &str, text: &str| {
        unicode_width::UnicodeWidthStr::width(line.split(text).next().unwrap())
    };
    for (text, head) in [
        ("participant", "role"),
        ("signet", "network"),
        ("waiting", "next"),
    ] {
        for line in &lines[1..] {
            assert_eq!(column(line, text), column(lines[0], head), "{text}: {line}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fund_shows_address_uri_and_a_qr_code() {
    let id = CohortId::from_bytes([0xab; 32]);
    let fund = FundView {
        cohort: id,
        network: Network::Regtest,
        address: "bcrt1pexample".to_owned(),
        state: FundState::Awaiting,
        balance_sat: 0,
        unconfirmed_sat: 0,
        rounds: 52,
        fee_rate: FeeRate(1500),
        signal_vsize: 154,
        fee_per_round_sat: 231,
        needed_sat: 12_342,
        send_sat: 12_342,
        uri: FundView::bip21("bcrt1pexample", 12_342, ""),
        warnings: vec!["Pay only after every member acknowledged the set".to_owned()],
    };
    let daemon = Daemon::start(move |_| done(&fund));
    let output = daemon.run("cohort fund abab --rounds 52").await;
    let page = stdout(&output);
    for expected in [
        "bcrt1pexample",
        "bitcoin:bcrt1pexample?amount=0.00012342",
        "52 rounds need    12,342 sat",
        "231 sat (154 vB at 1.5 sat/vB)",
        "██████",
        "Pay only after",
    ] {
        assert!(page.contains(expected), "{expected:?} in {page}");
    }
    let plain = daemon.run("cohort fund abab --no-qr").await;
    assert!(stdout(&plain).contains("bcrt1pexample") && !stdout(&plain).contains('█'));
    let json = daemon.run("cohort fund abab --json").await;
    let object: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(object["result"]["send_sat"], json!(12_342));
}

/// A daemon on which two cohorts can be found and joined.
fn joinable() -> (Daemon, [CohortId; 2]) {
    let ids = [CohortId::from_bytes([1; 32]), CohortId::from_bytes([2; 32])];
    let daemon = Daemon::start(move |request| match request {
        Request::CohortDiscover(_) => {
            let mut adverts = ids.map(advert).to_vec();
            // The second is known by its id only.
            adverts[1].naddr = String::new();
            done(&DiscoverView {
                at: UnixTime(1_800_000_000),
                adverts,
                flawed: Vec::new(),
                relays: Vec::new(),
            })
        }
        Request::CohortTerms(_) => done(&advert(ids[1])),
        Request::CohortJoin(join) => done(&cohort_view(join.cohort)),
        _ => Response::Failed(Failure::new(ErrorCode::Internal, "unexpected")),
    });
    (daemon, ids)
}

#[tokio::test(flavor = "multi_thread")]
async fn join_takes_a_pick_and_commits_to_the_terms_it_showed() {
    let (daemon, ids) = joinable();
    let early = daemon.run("cohort join 2 --yes").await;
    assert_eq!(early.status.code(), Some(1));
    assert!(stderr(&early).contains("hint: run `btcr2-agent cohort discover`"));

    let found = daemon
        .run("cohort discover --network signet --min-seats 2")
        .await;
    assert_eq!(found.status.code(), Some(0), "{}", stderr(&found));
    assert_harmless(stdout(&found));
    assert!(stdout(&found).contains(&ids[1].short()));

    let joined = daemon.run("cohort join 2 --yes --seat identity").await;
    assert_eq!(joined.status.code(), Some(0), "{}", stderr(&joined));
    assert_harmless(stderr(&joined));
    assert!(
        stderr(&joined).contains("12,345 sat"),
        "the terms are shown"
    );
    let seen = daemon.seen();
    assert_eq!(
        seen[0],
        Request::CohortDiscover(Discover {
            network: Some(Network::Signet),
            min_seats: Some(2),
            ..Discover::default()
        })
    );
    let wire = serde_json::to_value(seen.last().unwrap()).unwrap();
    assert_eq!(
        wire,
        json!({
            "cmd": "cohort_join",
            "cohort": ids[1],
            "target": { "cohort": ids[1] },
            "seat": "identity",
            "payee": null,
        })
    );

    // The first pick has a link; what is served for it is another cohort.
    let swapped = daemon.run("cohort join 1 --yes --json").await;
    assert_eq!(swapped.status.code(), Some(1));
    let object: Value = serde_json::from_slice(&swapped.stdout).unwrap();
    assert_eq!(object["error"]["code"], json!("bad_advert"));
    assert_eq!(
        daemon
            .seen()
            .iter()
            .filter(|r| matches!(r, Request::CohortJoin(_)))
            .count(),
        1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_terminal_and_without_yes_nothing_is_joined_or_ended() {
    let (daemon, ids) = joinable();
    let refused = daemon.run(&format!("cohort join {}", ids[1])).await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(refused.stdout.is_empty());
    assert!(
        stderr(&refused).contains("hint: add --yes"),
        "{}",
        stderr(&refused)
    );
    assert!(
        !daemon
            .seen()
            .iter()
            .any(|r| matches!(r, Request::CohortJoin(_)))
    );

    let id = CohortId::from_bytes([0xab; 32]);
    let daemon = Daemon::start(move |_| done(&cohort_view(id)));
    for line in ["cohort leave abab", "cohort cancel abab"] {
        let refused = daemon.run(&format!("{line} --json")).await;
        assert_eq!(refused.status.code(), Some(1), "{line}");
        let object: Value = serde_json::from_slice(&refused.stdout).unwrap();
        assert_eq!(object["error"]["code"], json!("confirmation_needed"));
    }
    assert!(
        daemon
            .seen()
            .iter()
            .all(|r| matches!(r, Request::CohortShow(_)))
    );
    assert_eq!(
        daemon.run("cohort leave abab --yes").await.status.code(),
        Some(0)
    );
    assert!(matches!(
        daemon.seen().last(),
        Some(Request::CohortLeave(_))
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_cohort_is_refused_before_asking() {
    let id = CohortId::from_bytes([5; 32]);
    for (change, code) in [
        (json!({ "status": "full" }), "wrong_phase"),
        (json!({ "expired": true }), "bad_advert"),
        (json!({ "joined": true }), "wrong_phase"),
    ] {
        let mut view = serde_json::to_value(advert(id)).unwrap();
        for (field, value) in change.as_object().unwrap() {
            view[field] = value.clone();
        }
        let daemon = Daemon::start(move |_| Response::Done(view.clone()));
        let output = daemon.run("cohort join naddr1qqqqqqqq --yes --json").await;
        assert_eq!(output.status.code(), Some(1), "{change}");
        let object: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(object["error"]["code"], json!(code), "{change}");
        assert_eq!(daemon.seen().len(), 1, "no opt-in is sent");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_term_and_change_reaches_the_daemon() {
    let daemon =
        Daemon::start(|_| Response::Failed(Failure::new(ErrorCode::RefusedByPolicy, "no")));
    let npub = btcr2_agent::cli::render::npub(key(9));
    let tos = "cd".repeat(32);
    daemon
        .run(&format!(
            "cohort advertise --name garden --network regtest --beacon cas --seats 3-10 \
             --dids-per-seat 2 --cadence 7d --pending-trigger 4 --response-deadline 6h \
             --sign-deadline 30m --depth 2 --max-fee-rate 2.5 --empty-rounds signal \
             --cost-enrolment 1000 --cost-announcement 21 --tos-sha256 {tos} \
             --tos-link https://example.org/tos --opt-in-deadline 3d --invite {npub}"
        ))
        .await;
    let patch = daemon.home.path().join("patch.json");
    std::fs::write(&patch, r#"[{"op":"remove","path":"/service/0"}]"#).unwrap();
    daemon
        .run(&format!(
            "did update did:btcr2:k1q --add-service files,LinkedDomains,https://example.org/a,b \
             --remove-service old --patch {} --cohort abcd",
            patch.display()
        ))
        .await;
    let seen = daemon.seen();
    assert_eq!(
        serde_json::to_value(&seen[0]).unwrap(),
        json!({
            "cmd": "cohort_advertise",
            "name": "garden",
            "network": "regtest",
            "beacon": "cas",
            "seats": { "min": 3, "max": 10 },
            "dids_per_seat": { "min": 2, "max": 2 },
            "cadence_s": 604_800,
            "pending_trigger": 4,
            "response_deadline_s": 21_600,
            "sign_deadline_s": 1800,
            "depth": 2,
            "max_fee_rate": 2500,
            "empty_rounds": "signal",
            "cost_enrolment_sat": 1000,
            "cost_announcement_sat": 21,
            "tos": { "sha256": tos, "link": "https://example.org/tos" },
            "opt_in_s": 259_200,
            "invite_only": true,
            "invite": [npub],
        })
    );
    let Request::DidUpdate(update) = &seen[1] else {
        panic!("{:?}", seen[1]);
    };
    assert_eq!(
        update.changes,
        [
            DidChange::Patch(vec![json!({"op": "remove", "path": "/service/0"})]),
            DidChange::RemoveService {
                id: "old".to_owned()
            },
            DidChange::AddService {
                id: "files".to_owned(),
                service_type: "LinkedDomains".to_owned(),
                endpoint: "https://example.org/a,b".to_owned(),
            },
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn following_prints_events_until_the_daemon_stops() {
    let id = CohortId::from_bytes([0xab; 32]);
    for (flag, lines) in [
        (
            "",
            [
                "  12.034  chain        block 7",
                "{\"step\":\"of_tomorrow\"}",
            ],
        ),
        (
            " --json",
            [
                r#"{"actor":"chain","at_ms":12034,"step":"mined","text":"block 7"}"#,
                r#"{"step":"of_tomorrow"}"#,
            ],
        ),
    ] {
        let mut daemon = Daemon::start(move |_| done(&cohort_view(id)));
        let home = daemon.home.path().to_owned();
        let following = tokio::task::spawn_blocking(move || {
            run(&home, words(&format!("cohort show abab --follow{flag}")))
        });
        // A send succeeds once there is a subscriber.
        let event = json!({ "at_ms": 12034, "actor": "chain", "step": "mined", "text": "block 7" });
        while daemon.events.send(event.clone()).is_err() {
            tokio::task::yield_now().await;
        }
        daemon
            .events
            .send(json!({ "step": "of_tomorrow" }))
            .unwrap();
        daemon.stop().await;
        let output = following.await.unwrap();
        assert_eq!(output.status.code(), Some(1));
        let text = stdout(&output);
        let at = text.find(lines[0]).unwrap_or_else(|| panic!("{text}"));
        let told: Vec<&str> = text[at..].lines().collect();
        assert_eq!(told[..2], lines);
        let end = if flag.is_empty() {
            stderr(&output)
        } else {
            told[2]
        };
        assert!(end.contains("the daemon has stopped"), "{end}");
    }
}
