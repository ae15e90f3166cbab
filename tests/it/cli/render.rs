//! What the views look like.

use btcr2_agent::agent::control::PeerText;
use btcr2_agent::agent::control::views::{
    AdvertServedView, AlarmView, BeaconType, BindingStage, ChainView, CohortDeliveryView,
    CounterView, DemoAgent, DemoReport, DemoResolved, DemoRound, DemoTraffic, DepositStage,
    DidBindingView, DidKind, DidListView, DidView, DiscoverView, FlawedAdvertView, KeptView,
    KindProbeView, MissingAtView, OutboxView, ProbeView, RelayAnswerView, RelayHealthView,
    RelayProbeView, RelaySource, RelayState, RelayView, RouteView, StatusView, UpdateStage,
    UpdateView,
};
use btcr2_agent::cli::progress::{TimelineEvent, line};
use btcr2_agent::cli::render::{Page, Render, short_npub};
use btcr2_agent::hash::{CohortId, SignalBytes, UpdateHash};
use btcr2_agent::network::Network;
use btcr2_agent::nostr::information::RelayLimits;
use btcr2_agent::protocol::Round;
use btcr2_agent::time::UnixTime;
use serde_json::json;

use super::daemon::{advert, cohort_view, key};

const NOW: UnixTime = UnixTime(1_800_000_000);

fn page(view: &impl Render) -> String {
    let mut page = Page::new(NOW);
    view.render(&mut page);
    page.as_str().to_owned()
}

fn assert_shows(page: &str, texts: &[&str]) {
    for text in texts {
        assert!(page.contains(text), "{text:?} in\n{page}");
    }
}

#[test]
fn the_demo_closes_with_two_tables() {
    let txid = "11".repeat(32);
    let traffic = |relay: &str, events, bytes| DemoTraffic {
        relay: relay.to_owned(),
        events,
        bytes,
    };
    let report = DemoReport {
        beacon: BeaconType::Smt,
        address: "bcrt1p".to_owned(),
        took_ms: 4321,
        rounds: vec![DemoRound {
            round: Round(1),
            txid: txid.parse().unwrap(),
            signal: SignalBytes::from_bytes([0x22; 32]),
            vsize: 154,
            fee_sat: 1540,
            took_ms: 87,
        }],
        agents: vec![
            DemoAgent {
                actor: "aggregator".to_owned(),
                dids: 0,
                announced: 0,
                declined: 0,
                proved: 0,
                relays: vec![traffic("ws://a/", 12, 34_567), traffic("ws://b/", 3, 4)],
            },
            DemoAgent {
                actor: "member 1".to_owned(),
                dids: 2,
                announced: 1,
                declined: 1,
                proved: 2,
                relays: Vec::new(),
            },
        ],
        dids: vec![
            DemoResolved {
                did: "did:btcr2:x1q".to_owned(),
                controller: "member 1".to_owned(),
                version: 3,
                deactivated: true,
                confirmations: 6,
                services: vec!["#files".to_owned()],
                signals: 2,
                sidecar_bytes: 4_018,
            },
            DemoResolved {
                did: "did:btcr2:x1p".to_owned(),
                controller: "member 1".to_owned(),
                version: 1,
                deactivated: false,
                confirmations: 0,
                services: Vec::new(),
                signals: 2,
                sidecar_bytes: 950,
            },
        ],
    };
    let signal = "22".repeat(32);
    let expected = format!(
        "smt beacon bcrt1p, 1 members, 1 rounds in 4.321 s\n\
         \x20 round  {:<64}  {:<64}    size        fee  opening to broadcast\n\
         \x20     1  {txid}  {signal}  154 vB  1,540 sat               0.087 s\n\
         \n\
         Agents\n\
         \x20 agent       DIDs  announced  declined  proved  relay    events   bytes\n\
         \x20 aggregator     0          0         0       0  ws://a/      12  34,567\n\
         \x20                                                ws://b/       3       4\n\
         \x20 member 1       2          1         1       2                0       0\n\
         \n\
         DIDs, resolved from the chain and their sidecars\n\
         \x20 DID            controller  version  confirmations  signals explained  sidecar  what its updates did\n\
         \x20 did:btcr2:x1q  member 1          3              6                  2  4,018 B  added #files, deactivated\n\
         \x20 did:btcr2:x1p  member 1          1              0                  2    950 B  -\n",
        "transaction", "signal bytes"
    );
    assert_eq!(page(&report), expected);
}

#[test]
fn status_shows_what_needs_a_person_and_where_messages_are() {
    let cohort = cohort_view(CohortId::from_bytes([0xab; 32]));
    let status = StatusView {
        version: "0.1.0".to_owned(),
        pid: 42,
        now: NOW,
        started_at: NOW.minus(7260),
        home: "/home/ann/agent".to_owned(),
        identity: key(1),
        chains: vec![
            ChainView {
                network: Network::Signet,
                backend: "https://esplora.example".to_owned(),
                height: Some(234_567),
                seen_at: Some(NOW),
                problem: None,
            },
            ChainView {
                network: Network::Regtest,
                backend: "http://127.0.0.1:3002".to_owned(),
                height: Some(1),
                seen_at: None,
                problem: Some(PeerText::new("another chain")),
            },
        ],
        relays: vec![RelayView {
            url: "wss://b.example/".to_owned(),
            read: true,
            write: false,
            networks: vec![Network::Signet],
            source: RelaySource::Configured,
            state: RelayState::CatchingUp,
            since: Some(NOW.minus(5)),
            accepted: 1234,
            refused: 2,
            silent: 0,
            received: 99,
            answer_ms: Some(45),
            clock_ahead_s: Some(1),
            limits: None,
            budget: None,
            health: Some(RelayHealthView {
                counted_since: Some(NOW.minus(86_400)),
                last_worked: Some(NOW.minus(300)),
                last_failed: Some(NOW.minus(60)),
                failures_in_row: 3,
                failure: Some(PeerText::new("no route")),
            }),
            reason: Some(PeerText::new("rate-limited: \u{1b}[5mslow down")),
        }],
        delivery: vec![CohortDeliveryView {
            cohort: cohort.summary.cohort,
            messages: cohort.delivery,
        }],
        cohorts: vec![cohort.summary],
        outbox: OutboxView {
            unpublished: 1,
            unacknowledged: 2,
            oldest_at: Some(NOW.minus(90)),
        },
        ignored: vec![CounterView {
            reason: "bad_signature".to_owned(),
            count: 1500,
        }],
        adverts: vec![AdvertServedView {
            cohort: CohortId::from_bytes([0xab; 32]),
            checked_at: Some(NOW.minus(60)),
            served: 3,
            relays: 4,
            missing: vec![MissingAtView {
                url: "wss://c.example".to_owned(),
                reason: PeerText::new("restricted: \u{1b}[2Jmembers"),
            }],
        }],
        alarms: vec![AlarmView {
            at: NOW.minus(60),
            code: "foreign_incarnation".to_owned(),
            text: PeerText::new("this seat's key is used elsewhere"),
            remedy: Some("stop the other copy".to_owned()),
        }],
    };
    let page = page(&status);
    assert_shows(
        &page,
        &[
            "btcr2-agent 0.1.0, process 42\n",
            "  running since     2027-01-15 05:59:00 UTC (2 h 1 min ago)\n",
            "  chain             signet https://esplora.example: block 234,567\n",
            "  chain             regtest http://127.0.0.1:3002: unusable: another chain\n",
            "  outbox            1 to publish, 2 to be acknowledged, the oldest sent 1 min 30 s ago\n",
            "  ignored           1,500 × bad_signature\n",
            "\nNeeds you\n  ALARM foreign_incarnation since 2027-01-15 07:59:00 UTC: this seat's key is used elsewhere\n    stop the other copy\n",
            "  wss://b.example/  read  signet    configured  catching up  5 s ago  5 min ago, 3 failures since  1,234        2       0        99       45 ms  right  rate-limited: [5mslow down\n",
            "\nAdverts, as strangers are served them\n  cohort abababab: served by 3 of 4 relays, read back 1 min ago\n    not by wss://c.example: restricted: [2Jmembers\n",
            "waiting for seat 1\n",
            "\nDelivery in cohort abababab\n",
            "  message   about    to          sent      relays  acknowledged\n",
            "  response  round 7  aggregator  30 s ago  1/2 ok  0/1\n",
            "  wss://b.example/ refused: blocked: [31mgo away\n",
        ],
    );
}

#[test]
fn discover_numbers_what_counts_and_says_why_the_rest_does_not() {
    let first = CohortId::from_bytes([1; 32]);
    let second = CohortId::from_bytes([2; 32]);
    let mut expired = advert(second);
    expired.expired = true;
    expired.followed = true;
    let found = DiscoverView {
        at: NOW,
        adverts: vec![advert(first), expired],
        flawed: vec![FlawedAdvertView {
            event: "ff".repeat(32),
            author: key(5),
            flaw: "d is not the hash of the terms".to_owned(),
            served_by: Vec::new(),
        }],
        relays: vec![
            RelayAnswerView {
                url: "wss://a.example/".to_owned(),
                complete: true,
                events: 3,
                reason: None,
            },
            RelayAnswerView {
                url: "wss://b.example/".to_owned(),
                complete: false,
                events: 0,
                reason: Some(PeerText::new("closed: \u{202e}go away")),
            },
        ],
    };
    let page = page(&found);
    let author = short_npub(key(5));
    assert_shows(
        &page,
        &[
            "\n  1  01010101  gar[2J",
            "\n  2  02020202  gar[2J",
            "  2 of 2-5  open",
            "  2 of 2-5  expired, followed  ",
            "  every 7 d    2.5     1/3  ",
            "\n1 adverts do not count\n",
            &format!("  ffffffff  {author}  d is not the hash of the terms\n"),
            "\nRelays that did not answer completely\n  wss://b.example/: closed: go away\n",
            "\nAsked 2 relays at 2027-01-15 08:00:00 UTC.\nJoin one with",
        ],
    );
}

#[test]
fn dids_show_how_far_binding_and_update_are() {
    let cohort = CohortId::from_bytes([0xab; 32]);
    let did = DidView {
        did: Some("did:btcr2:x1qexample".to_owned()),
        kind: DidKind::X1,
        network: Network::Regtest,
        version: 3,
        deactivated: false,
        bindings: vec![DidBindingView {
            cohort,
            stage: BindingStage::Bound,
            covered: 6,
            signals: 7,
        }],
        beacons: Vec::new(),
        pending: Some(UpdateView {
            to_version: 4,
            hash: UpdateHash::from_bytes([3; 32]),
            stage: UpdateStage::Broadcast,
            route: Some(RouteView::Cohort(cohort)),
            round: Some(Round(7)),
            txid: Some("22".repeat(32).parse().unwrap()),
            height: None,
            confirmations: 0,
            needed: 6,
            deposit: Some(DepositStage::VerifiedNotAnchored),
            reason: None,
            created: UnixTime(1),
        }),
        document: Some(json!({ "id": "did:btcr2:x1qexample", "note": "a\u{9b}31mb\u{202e}c" })),
        next_step: None,
    };
    assert_shows(
        &page(&did),
        &[
            "did:btcr2:x1qexample\n  kind              x1\n",
            "  state             version 3\n",
            "  cohort            abababab: bound, proofs for 6 of 7 signals\n",
            "  pending           version 4: broadcast in round 7, 0 of 6 confirmations\n",
            "deposit         verified by the aggregator, which can not know",
            "\nDocument\n  {\n    \"id\": \"did:btcr2:x1qexample\",\n    \"note\": \"a31mbc\"\n  }\n",
        ],
    );
    let mut unborn = did.clone();
    unborn.did = None;
    unborn.pending = None;
    let list = page(&DidListView {
        dids: vec![did, unborn],
    });
    assert_shows(
        &list,
        &[
            "abababab bound  version 4: broadcast in round 7, 0 of 6 confirmations\n",
            "  (not created yet)     x1    regtest  registered  abababab bound\n",
        ],
    );
    assert_shows(&page(&DidListView { dids: Vec::new() }), &["No DIDs."]);
}

#[test]
fn a_probe_tells_no_from_not_tried() {
    let probe = |url: &str, connect_ms, wrote, notes: &[&str]| ProbeView {
        url: url.to_owned(),
        connect_ms,
        name: None,
        software: None,
        wrote,
        read_back: None,
        answer_ms: None,
        kinds: Vec::new(),
        limits: None,
        clock_ahead_s: None,
        kept: None,
        wants_auth: false,
        wants_pow: 20,
        before: None,
        notes: notes.iter().map(|note| PeerText::new(note)).collect(),
    };
    let mut known = probe("wss://a/", Some(1234), Some(true), &[]);
    known.read_back = Some(true);
    known.answer_ms = Some(45);
    known.kinds = [(8327, 700, true), (8327, 55_000, false)]
        .map(|(kind, bytes, taken)| KindProbeView {
            kind,
            bytes,
            taken: Some(taken),
            served: taken.then_some(true),
        })
        .into();
    known.limits = Some(RelayLimits {
        message_bytes: Some(131_072),
        ..RelayLimits::default()
    });
    known.clock_ahead_s = Some(7_200);
    known.kept = Some(KeptView {
        since: NOW.minus(7_260),
        served: true,
    });
    let view = RelayProbeView {
        now: NOW,
        relays: vec![
            known,
            probe("wss://b/", None, None, &["connection refused"]),
            probe("wss://c/", Some(5), Some(false), &["blocked: \u{1b}c"]),
        ],
    };
    assert_shows(
        &page(&view),
        &[
            "  relay     connected  answers in  wrote      read back  largest      takes          clock  kept since               worked before",
            "  wss://a/   1,234 ms       45 ms  yes        yes        no       131,072 B  7,200 s ahead  2027-01-15 05:59:00 UTC                 no    20 bits\n",
            "  wss://b/         no              not tried  not tried",
            "  wss://c/       5 ms              no         not tried",
            "  wss://b/: connection refused\n  wss://c/: blocked: c\n",
        ],
    );
}

#[test]
fn an_event_from_the_socket_is_a_line() {
    let event: TimelineEvent = serde_json::from_value(json!({
        "at_ms": 61_005, "actor": "mem\u{1b}ber 3", "step": "signed", "text": "signs\u{7} round 2",
        "cohort": CohortId::from_bytes([1; 32]), "data": { "round": 2 },
    }))
    .unwrap();
    assert_eq!(line(&event), "  61.005  member 3     signs round 2");
}
