//! Money around a cohort, as people read it: funding in each state, what is protected, what can be recovered, what a
//! k-of-n leaf means, what a bump did.

use btcr2_agent::agent::control::views::{
    CohortPhase, CohortView, FeeRate, FundPsbtView, FundState, FundView, OutputView, Payer,
    Protection, RefundItem, RefundState, RefundsView, Role, RoundState, SignedTxView,
};
use btcr2_agent::agent::control::{ErrorCode, Failure, Request, Response};
use btcr2_agent::cli::render::{FundWithoutQr, Page, Render};
use btcr2_agent::hash::CohortId;
use btcr2_agent::network::Network;
use btcr2_agent::protocol::Seat;
use btcr2_agent::protocol::confirmation::WatchState;
use btcr2_agent::time::UnixTime;
use serde_json::json;

use super::daemon::{advert, cohort_view};
use super::{Daemon, done, home, run, stderr, stdout};

const NOW: UnixTime = UnixTime(1_800_000_000);

fn page(view: &impl Render) -> String {
    let mut page = Page::new(NOW);
    view.render(&mut page);
    page.as_str().to_owned()
}

fn cohort() -> CohortId {
    CohortId::from_bytes([0xab; 32])
}

fn fund() -> FundView {
    FundView {
        cohort: cohort(),
        network: Network::Regtest,
        address: "bcrt1pexample".to_owned(),
        state: FundState::Awaiting,
        balance_sat: 0,
        unconfirmed_sat: 0,
        rounds: 10,
        fee_rate: FeeRate(2_000),
        signal_vsize: 154,
        fee_per_round_sat: 308,
        needed_sat: 3_102,
        runway: 0,
        payer: Payer::Aggregator,
        share_sat: None,
        send_sat: 3_102,
        uri: "bitcoin:bcrt1pexample".to_owned(),
        warnings: Vec::new(),
    }
}

/// Each state has its words; what is to be sent is said or why nothing is.
#[test]
fn funding_is_told_in_each_state() {
    type Change = fn(&mut FundView);
    let cases: [(Change, &[&str]); 7] = [
        (
            |_| (),
            &[
                "state             awaiting\n",
                "to send           3,102 sat\n",
            ],
        ),
        (
            |fund| {
                fund.state = FundState::Seen;
                fund.unconfirmed_sat = 5_000;
            },
            &[
                "state             seen, not confirmed\n",
                "unconfirmed       5,000 sat\n",
            ],
        ),
        (
            |fund| {
                fund.state = FundState::Short;
                (fund.balance_sat, fund.send_sat) = (120, 2_982);
            },
            &[
                "state             too small for a signal\n",
                "balance           120 sat\n",
                "2,982 sat",
            ],
        ),
        (
            |fund| {
                fund.state = FundState::Confirmed;
                (fund.balance_sat, fund.runway, fund.send_sat) = (99_000, 300, 0);
            },
            &[
                "state             funded\n",
                "pays for          300 rounds\n",
                "to send           nothing: the balance is enough\n",
            ],
        ),
        (
            |fund| fund.state = FundState::Spent,
            &["state             spent\n", "to send           3,102 sat\n"],
        ),
        (
            |fund| fund.state = FundState::Lapsed,
            &["state             gone: what was seen was replaced, or forgotten by nodes\n"],
        ),
        (
            |fund| {
                fund.payer = Payer::Members;
                (fund.share_sat, fund.send_sat) = (Some(1_034), 0);
            },
            &[
                "paid by           the members, in equal shares\n",
                "a share           1,034 sat\n",
                "to send           nothing: others pay\n",
            ],
        ),
    ];
    for (change, expected) in cases {
        let mut fund = fund();
        change(&mut fund);
        let shown = page(&FundWithoutQr(&fund));
        assert!(shown.starts_with("Funding of cohort abababab\n"), "{shown}");
        for text in expected {
            assert!(shown.contains(text), "{text:?} in\n{shown}");
        }
        // A code to pay with, where there is something to pay.
        assert_eq!(
            page(&fund).contains('█'),
            fund.send_sat > 0,
            "{:?}",
            fund.state
        );
    }
}

fn output(protection: Protection) -> OutputView {
    OutputView {
        outpoint: "aa:1".to_owned(),
        value_sat: 50_000,
        confirmations: 3,
        protection,
        refund: None,
        blocks_missing: None,
        absent: Vec::new(),
    }
}

#[test]
fn outputs_say_whether_they_come_back() {
    let mut ripe = output(Protection::Protected);
    ripe.blocks_missing = Some(0);
    let mut locked = output(Protection::Protected);
    locked.blocks_missing = Some(1_005);
    let mut open = output(Protection::Unprotected);
    open.absent = vec![Seat(1), Seat(4)];
    let mut view = cohort_view(cohort());
    view.beacon.as_mut().unwrap().outputs = vec![
        ripe,
        locked,
        output(Protection::Protected),
        output(Protection::WithPayees),
        output(Protection::Signing),
        open,
        output(Protection::TooSmall),
        output(Protection::NoRefunds),
    ];
    let shown = page(&view);
    assert!(
        shown.contains("  output       value  confirmations  if a member vanishes\n"),
        "{shown}"
    );
    for fate in [
        "protected: `cohort recover` sends its refund",
        "protected: its refund can be sent in 1005 blocks",
        "protected",
        "the payees hold its refund",
        "being signed",
        "UNPROTECTED: no answer from seats 1 and 4",
        "too small for a refund",
        "no refunds in this cohort",
    ] {
        let line = format!("  aa:1    50,000 sat              3  {fate}\n");
        assert!(shown.contains(&line), "{line:?} in\n{shown}");
    }
}

#[test]
fn refunds_say_when_they_can_be_sent() {
    let item = |state, missing, reason: Option<&str>| RefundItem {
        outpoint: "aa:1".to_owned(),
        value_sat: 50_000,
        txid: "11".repeat(32).parse().unwrap(),
        tx: "02".to_owned(),
        pays_sat: 49_889,
        fee_sat: 111,
        matures_at: Some(1_109),
        blocks_missing: missing,
        state,
        reason: reason.map(str::to_owned),
    };
    let mut view = RefundsView {
        cohort: cohort(),
        network: Network::Regtest,
        address: "bcrt1pexample".to_owned(),
        height: 104,
        refunds: vec![
            item(RefundState::NotConfirmed, None, None),
            item(RefundState::Locked, Some(1_004), None),
            item(RefundState::Ready, Some(0), None),
            item(RefundState::Sent, Some(0), None),
            item(RefundState::Refused, Some(0), Some("non-BIP68-final")),
        ],
        without_refund_sat: 7_000,
    };
    let shown = page(&view);
    let states: Vec<&str> = shown
        .lines()
        .filter_map(|line| line.strip_prefix("  state             "))
        .collect();
    assert_eq!(
        states,
        [
            "its output is not confirmed",
            "locked for 1004 more blocks: block 1109 may hold it",
            "can be sent",
            "sent",
            "refused",
        ]
    );
    for text in [
        "Refunds of cohort abababab\n",
        "pays              49,889 sat\n",
        "fee               111 sat\n",
        "reason            non-BIP68-final\n",
        "without refund here 7,000 sat\n",
    ] {
        assert!(shown.contains(text), "{text:?} in\n{shown}");
    }
    view.refunds.clear();
    view.without_refund_sat = 0;
    let shown = page(&view);
    assert!(
        shown.contains("This agent holds no refund of what lies there.\n"),
        "{shown}"
    );
    assert!(!shown.contains("without refund here"));
}

#[test]
fn a_funding_transaction_is_given_back_with_what_to_do() {
    let mut view = FundPsbtView {
        cohort: cohort(),
        network: Network::Regtest,
        txid: "11".repeat(32).parse().unwrap(),
        outputs: vec![output(Protection::Protected)],
        replaceable: true,
        signed: false,
        psbt: "cHNidP8=".to_owned(),
        sent: false,
    };
    let shown = page(&view);
    for text in [
        "all members signed its refund: it may be signed and sent\n",
        "do not raise its fee: the replacement would have no refund\n",
        "\ncHNidP8=\n",
    ] {
        assert!(shown.contains(text), "{text:?} in\n{shown}");
    }
    // Whole, however long it is, and nothing but base64.
    view.psbt = format!("{}\u{1b}[2J==", "cHNi".repeat(5_000));
    assert!(page(&view).contains(&format!("\n{}2J==\n", "cHNi".repeat(5_000))));
    view.psbt = "cHNidP8=".to_owned();
    view.signed = true;
    assert!(page(&view).contains("all members signed its refund: it may be sent\n"));
    view.sent = true;
    let shown = page(&view);
    assert!(shown.contains("  state             sent\n"), "{shown}");
    assert!(!shown.contains("cHNidP8=") && !shown.contains("do not raise"));
}

/// What is signed for a round, after a bump: the first rung was sent, the second is on its way, the third is held back.
fn bumped() -> CohortView {
    let mut view = cohort_view(cohort());
    view.summary.role = Role::Aggregator;
    view.summary.phase = CohortPhase::Idle;
    let mut round = view.round.take().unwrap();
    round.state = RoundState::Broadcast;
    round.signed = [
        (Some(1), 0x11, true),
        (Some(2), 0x22, true),
        (None, 0x33, false),
    ]
    .map(|(rung, byte, complete)| SignedTxView {
        rung,
        through_leaf: rung.is_none(),
        txid: format!("{byte:x}").repeat(32).parse().unwrap(),
        complete,
        state: WatchState::Broadcast,
    })
    .into();
    view.past_rounds = vec![round];
    view
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bump_says_what_is_sent_now_or_why_nothing_is() {
    let daemon = Daemon::start(|request| match request {
        Request::CohortBump(bump) if bump.cohort.as_str() == "abab" => done(&bumped()),
        Request::CohortBump(bump) if bump.cohort.as_str() == "cdcd" => Response::Failed(
            Failure::new(
                ErrorCode::WrongPhase,
                "nothing to replace: no signal waits for a confirmation",
            )
            .remedy("`btcr2-agent cohort show` says what became of the last signal"),
        ),
        _ => Response::Failed(
            Failure::new(
                ErrorCode::WrongRole,
                "only the aggregator of efefefef may do this",
            )
            .remedy("this agent is a member of it"),
        ),
    });
    let output = daemon.run("cohort bump abab").await;
    assert!(output.status.success(), "{}", stderr(&output));
    for (rung, byte, fate) in [
        ("rung 1", "11", "to be sent by this agent"),
        ("rung 2", "22", "to be sent by this agent"),
        ("through the leaf", "33", "held back, or not whole here"),
    ] {
        let txid = byte.repeat(32);
        let line = format!("  round 7, {rung}, {txid}: broadcast, {fate}\n");
        assert!(
            stdout(&output).contains(&line),
            "{line:?} in {}",
            stdout(&output)
        );
    }
    for (cohort, error, hint) in [
        ("cdcd", "nothing to replace: no signal waits", "cohort show"),
        (
            "efef",
            "only the aggregator of efefefef",
            "this agent is a member of it",
        ),
    ] {
        let output = daemon.run(&format!("cohort bump {cohort}")).await;
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(stdout(&output), "");
        let lines: Vec<&str> = stderr(&output).lines().collect();
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(
            lines[0].starts_with(&format!("error: {error}")),
            "{lines:?}"
        );
        assert!(
            lines[1].starts_with("hint: ") && lines[1].contains(hint),
            "{lines:?}"
        );
    }
}

/// `--output-policy` and `--threshold`: what they send, and combinations that are refused before anything runs.
#[tokio::test(flavor = "multi_thread")]
async fn a_leaf_is_asked_for_with_its_threshold() {
    let daemon = Daemon::start(|_| done(&cohort_view(cohort())));
    let sent = async |args: &str| {
        let output = daemon.run(&format!("cohort advertise {args}")).await;
        assert!(output.status.success(), "{args}: {}", stderr(&output));
        let Some(Request::CohortAdvertise(terms)) = daemon.seen().pop() else {
            panic!("{:?}", daemon.seen());
        };
        let terms = serde_json::to_value(&terms).unwrap();
        (terms["output_policy"].clone(), terms["threshold"].clone())
    };
    assert_eq!(sent("--seats 3-5").await, (json!(null), json!(null)));
    assert_eq!(
        sent("--output-policy musig2-key-path").await,
        (json!("musig2-key-path"), json!(null))
    );
    assert_eq!(
        sent("--seats 5 --output-policy k-of-n --threshold 3").await,
        (json!("k-of-n"), json!(3))
    );
    let asked = daemon.seen().len();
    for (args, words) in [
        ("--threshold 2", "--output-policy"),
        ("--output-policy k-of-n --threshold 0", "0 is not in 1.."),
        ("--output-policy k-of-n --threshold two", "invalid digit"),
        ("--output-policy 2-of-3", "k-of-n"),
        ("--output-policy k-of-n --threshold 65536", "65536"),
    ] {
        let output = daemon.run(&format!("cohort advertise {args}")).await;
        assert_eq!(output.status.code(), Some(2), "{args}");
        assert!(
            stderr(&output).contains(words),
            "{words:?} in {}",
            stderr(&output)
        );
    }
    assert_eq!(daemon.seen().len(), asked, "nothing reached the daemon");
}

const RISK: &str = "any 2 seats, which the aggregator may own, can make every DID that ever listed this beacon \
                    unresolvable, and a round that they sign without the others publishes the keys of all seats";

/// The risk of a leaf stands in one sentence where it is agreed to and where it is looked at; without one there is none.
#[tokio::test(flavor = "multi_thread")]
async fn join_and_show_state_the_risk_of_a_leaf() {
    let with = |threshold: Option<u16>| {
        let (mut offered, mut shown) = (advert(cohort()), cohort_view(cohort()));
        for terms in [&mut offered.terms, &mut shown.terms] {
            terms.threshold = threshold;
            terms.risk = threshold.map(|_| RISK.to_owned());
        }
        Daemon::start(move |request| match request {
            Request::CohortTerms(_) => done(&offered),
            _ => done(&shown),
        })
    };
    let daemon = with(Some(2));
    let target = cohort().to_string();
    let join = daemon.run(&format!("cohort join {target} --yes")).await;
    assert!(join.status.success(), "{}", stderr(&join));
    let show = daemon.run("cohort show abab").await;
    // Terms are read on stderr before joining; the result is on stdout.
    for page in [stderr(&join), stdout(&show)] {
        assert!(
            page.contains(&format!("  risk              {RISK}\n")),
            "{page}"
        );
        let members = "2-5 (all of them sign a round, 2 of them one that has stalled)";
        assert!(page.contains(members), "{page}");
    }
    let daemon = with(None);
    let join = daemon.run(&format!("cohort join {target} --yes")).await;
    let show = daemon.run("cohort show abab").await;
    for page in [stderr(&join), stdout(&show)] {
        assert!(!page.contains("risk"), "{page}");
        assert!(
            page.contains("2-5 (all of them must sign every round)"),
            "{page}"
        );
    }
    // Without a daemon nothing is asked either.
    let dir = home();
    let output = run(dir.path(), ["cohort", "bump", "abab"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("no daemon is running"),
        "{}",
        stderr(&output)
    );
}
