//! The binary against a fake daemon.

use btcr2_agent::agent::control::request::{DidChange, Discover};
use btcr2_agent::agent::control::views::{
    AdvertStatus, AdvertView, BeaconType, BeaconView, CohortPhase, CohortSummaryView, CohortView,
    DeliveryView, Deposits, DiscoverView, EmptyRounds, ExitPlanView, ExitState, ExitingDidView,
    FeeRate, FundBy, FundState, FundView, MemberState, MemberView, Payer, Recipient, RelayReceipt,
    RelayReceiptView, Role, RoundState, RoundView, RouteView, Span, Tally, TermsView,
};
use btcr2_agent::agent::control::{ErrorCode, Failure, PeerText, Request, Response};
use btcr2_agent::hash::CohortId;
use btcr2_agent::keys::{NostrKey, OwnKey};
use btcr2_agent::network::Network;
use btcr2_agent::protocol::admission::Admission;
use btcr2_agent::protocol::{Round, Seat};
use btcr2_agent::time::UnixTime;
use serde_json::{Value, json};

use super::{Daemon, done, run, stderr, stdout, words};

pub(super) fn key(n: u8) -> NostrKey {
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
        fee_ladder: vec![1, 4],
        threshold: None,
        risk: None,
        fund_by: FundBy::Members,
        refund_blocks: Some(2_016),
        empty_rounds: EmptyRounds::Skip,
        deposits: Deposits::Required,
        admission: Admission::Pow(4),
        cost_enrolment_sat: Some(12_345),
        cost_announcement_sat: None,
        tos: None,
        opt_in_until: UnixTime(4_000_000_000),
        relays: vec![PeerText::new("wss://relay.example/")],
    }
}

pub(super) fn advert(cohort: CohortId) -> AdvertView {
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

pub(super) fn cohort_view(cohort: CohortId) -> CohortView {
    let now = UnixTime(1_800_000_000);
    CohortView {
        reform: None,
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
        alarms: Vec::new(),
        aggregator: key(1),
        naddr: Some("naddr1qqqqqqqq".to_owned()),
        advert: None,
        next_round_at: None,
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
                waits_for: Some("response to round 7".to_owned()),
                missed_rounds: 2,
                faults: Vec::new(),
            })
            .collect(),
        beacon: Some(BeaconView {
            address: "tb1pexample".to_owned(),
            balance_sat: 1_234_567,
            unconfirmed_sat: 0,
            outputs: Vec::new(),
            tip: None,
            funding: Some(FundState::Confirmed),
            rounds_left: Some(80),
            dust_sat: 0,
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
            signed: Vec::new(),
            took_ms: None,
            end: None,
        }),
        past_rounds: Vec::new(),
        delivery: vec![DeliveryView {
            message: "response".to_owned(),
            round: Some(Round(7)),
            deposit: None,
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
        "1x, 4x",
        "the members, in equal shares",
        "2016 blocks after",
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
        runway: 0,
        payer: Payer::Aggregator,
        share_sat: None,
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
            "code": null,
            "work": null,
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
    let plan = ExitPlanView {
        cohort: id,
        ends_for_all: true,
        members: 3,
        dids: vec![ExitingDidView {
            did: "did:btcr2:x1qexample".to_owned(),
            version: 2,
            state: ExitState::Listed,
            services: vec!["did:btcr2:x1qexample#cohortBeacon".to_owned()],
            route: Some(RouteView::Cohort(id)),
            reason: None,
        }],
        keep: vec!["the proofs".to_owned()],
    };
    let daemon = Daemon::start(move |request| match request {
        Request::CohortExitPlan(_) => done(&plan),
        _ => done(&cohort_view(id)),
    });
    // Whoever is asked has seen what leaving means, for others and for the own DIDs.
    let asked = daemon.run("cohort leave abab").await;
    let told = stderr(&asked);
    for text in [
        "the beacon ends for all 3 members",
        "did:btcr2:x1qexample        2  lists the beacon  cohort abababab",
        "--remove-beacons",
        "Keep afterwards\n  the proofs",
    ] {
        assert!(told.contains(text), "{text:?} in {told}");
    }
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
            .all(|r| matches!(r, Request::CohortShow(_) | Request::CohortExitPlan(_)))
    );
    let planned = daemon.run("cohort leave abab --plan").await;
    assert!(stdout(&planned).contains("lists the beacon"));
    daemon.run("cohort leave abab --remove-beacons").await;
    assert!(matches!(
        daemon.seen().last(),
        Some(Request::CohortRemoveBeacons(_))
    ));
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
             --fee-ladder 1,4,9 --fund-by members --refund-blocks 2200 \
             --output-policy k-of-n --threshold 2 --refund-to bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080 \
             --deposits accepted --admission pow:20 \
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
            "fee_ladder": [1, 4, 9],
            "fund_by": "members",
            "refund_blocks": 2200,
            "output_policy": "k-of-n",
            "threshold": 2,
            "refund_to": "bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080",
            "empty_rounds": "signal",
            "deposits": "accepted",
            "cost_enrolment_sat": 1000,
            "cost_announcement_sat": 21,
            "tos": { "sha256": tos, "link": "https://example.org/tos" },
            "opt_in_s": 259_200,
            "invite_only": true,
            "admission": { "pow": 20 },
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
