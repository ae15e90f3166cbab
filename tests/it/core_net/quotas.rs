//! Nobody can fill a log: every type of message has a bound, and what is beyond it is neither logged nor answered
//! (`protocol::quota`).

use std::collections::BTreeMap;

use bitcoin::{OutPoint, Txid, hashes::Hash as _};
use btcr2_agent::hash::SmtIndex;
use btcr2_agent::keys::NostrKey;
use btcr2_agent::protocol::aggregator::{AggregatorInput, Phase};
use btcr2_agent::protocol::effect::{Ignored, Outcome, Report};
use btcr2_agent::protocol::message::{
    Frozen, IndexChallenge, IndexOpening, Invite, Leave, Message, NonceUpdate, OptIn, Partials,
    Reform, RefusalCode, Refused, Register, Registered, RegisteredItem, Relays, Response,
    RoundCause, RoundFailed, RoundOpen, RoundRequest, RoundResult, SeatRequest, TxHex,
};
use btcr2_agent::protocol::participant::ParticipantInput;
use btcr2_agent::protocol::quota::{
    Bound, MAX_REQUESTED_ROUNDS, Quota, WINDOW_SECONDS, of_aggregator, of_member,
};
use btcr2_agent::protocol::reform::LeftOut;
use btcr2_agent::protocol::refund_message::RefundOpen;
use btcr2_agent::protocol::terms::{CohortBeacon, Salt, Terms};
use btcr2_agent::protocol::{Round, Seat};

use super::net::{Dest, HOUR, Net, Setup};
use super::node::key;
use crate::protocol_doc;

const BEGIN: &str = "<!-- quotas -->\n";
const END: &str = "<!-- end of quotas -->";

/// The table of docs/architecture.md, as the code has it.
fn table() -> String {
    let samples: BTreeMap<&str, Message> = protocol_doc::messages()
        .into_iter()
        .map(|(_, message)| (message.type_name(), message))
        .collect();
    let mut table = String::from("| type | from a member | from the aggregator |\n|---|---|---|\n");
    for kind in Message::TYPES {
        let sample = samples
            .get(kind)
            .unwrap_or_else(|| panic!("no sample of {kind}"));
        let (member, aggregator) = (of_member(sample), of_aggregator(sample));
        // A follower has no cohort: `limits.subscribers` bounds how many there are.
        let neither = member == Bound::NotTaken && aggregator == Bound::NotTaken;
        assert_eq!(neither, *kind == "subscribe", "{kind} is bounded nowhere");
        table.push_str(&format!("| `{kind}` | {member} | {aggregator} |\n"));
    }
    table
}

#[test]
fn every_type_has_a_bound_and_the_table_says_which() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/architecture.md");
    let document = std::fs::read_to_string(path).unwrap();
    let (before, rest) = document.split_once(BEGIN).expect("the table begins");
    let (shown, after) = rest.split_once(END).expect("the table ends");
    let table = table();
    if std::env::var_os("UPDATE_DOCS").is_some_and(|value| value == "1") {
        let written = format!("{before}{BEGIN}{table}{END}{after}");
        std::fs::write(path, written).unwrap();
        return;
    }
    assert_eq!(
        shown, table,
        "run UPDATE_DOCS=1 cargo test --test it quotas"
    );
}

/// What one sender got out of saying something again and again.
struct Flood {
    logged: u32,
    /// What was sent because of it.
    answers: usize,
    last: Outcome,
}

fn flood(net: &mut Net, from: NostrKey, to: Dest, mut say: impl FnMut(u32) -> Message) -> Flood {
    let mut flood = Flood {
        logged: 0,
        answers: 0,
        last: Outcome::Accepted,
    };
    for n in 0..3_000 {
        let message = say(n);
        let kind = message.type_name();
        let before = net.mail.len() + net.elsewhere.len();
        let step = match to {
            Dest::Aggregator => net
                .agg
                .handle(net.now, AggregatorInput::Message { from, message }),
            Dest::Member(i) => net.nodes[i]
                .core
                .handle(net.now, ParticipantInput::Message { from, message }),
        };
        if step.is_logged(kind) {
            flood.logged += 1;
            flood.answers += step.effects.len();
        }
        flood.last = step.outcome;
        assert_eq!(net.mail.len() + net.elsewhere.len(), before);
    }
    flood
}

fn most(terms: &Terms, bound: Bound, rounds: u32, refunds: u32) -> u32 {
    match bound {
        Bound::Quota(quota) => quota.most(terms, rounds, refunds),
        _ => panic!("{bound:?} is no quota"),
    }
}

type Say<'a> = Box<dyn FnMut(u32) -> Message + 'a>;

/// A seated member that says everything it can, again and again, in the middle of a round.
#[test]
fn a_member_that_repeats_itself_is_heard_so_often_and_the_round_goes_on() {
    let mut net = Net::ready(Setup::smt(3).refunds());
    net.record = false;
    net.queue(0, 0, "a");
    net.hold = Some("response");
    net.open();
    let round = Round(1);
    let Message::Response(response) = net.held[1].message.clone() else {
        unreachable!()
    };
    let nonces = response.content.nonces.clone();
    let did = &net.nodes[2].dids[0];
    let (index, opening) = (did.index, did.opening(&net.agg.cohort(), net.nodes[2].me()));
    let item = net.item(2, 0);
    let late = net.signed(
        2,
        Response {
            round: Round(9),
            ..response.content
        },
    );
    let update = |net: &Net, round, nonces| {
        net.signed(
            2,
            NonceUpdate {
                round,
                attempt: 1,
                nonces,
                lost: false,
            },
        )
    };
    let elsewhere = update(&net, Round(9), nonces);
    let floods: Vec<(&str, Say<'_>)> = vec![
        (
            "leave",
            Box::new(|_| {
                Message::Leave(Leave {
                    even_if_frozen: false,
                })
            }),
        ),
        (
            "register",
            Box::new(move |_| {
                Message::Register(Register {
                    items: vec![item.clone()],
                })
            }),
        ),
        (
            "register of nothing",
            Box::new(|n| {
                let mut bytes = [9; 32];
                bytes[..4].copy_from_slice(&n.to_be_bytes());
                let item = btcr2_agent::protocol::message::RegisterItem {
                    index: SmtIndex::from_bytes(bytes),
                    opening: None,
                };
                Message::Register(Register { items: vec![item] })
            }),
        ),
        (
            "index_opening",
            Box::new(move |_| {
                Message::IndexOpening(IndexOpening {
                    index,
                    opening: opening.clone(),
                })
            }),
        ),
        (
            "round_request",
            Box::new(|n| {
                Message::RoundRequest(RoundRequest {
                    pending: u16::try_from(n % 9).unwrap(),
                })
            }),
        ),
        (
            "response",
            Box::new(move |_| Message::Response(late.clone())),
        ),
        (
            "nonce_update",
            Box::new(move |_| Message::NonceUpdate(elsewhere.clone())),
        ),
        (
            "refused",
            Box::new(move |_| {
                Message::Refused(Refused {
                    of: "sign_request".into(),
                    code: RefusalCode::WillNotSign,
                    round: Some(round),
                })
            }),
        ),
    ];
    let from = net.nodes[2].me();
    let terms = net.agg.terms().clone();
    let mut spent: BTreeMap<&'static str, u32> = BTreeMap::new();
    for (what, mut say) in floods {
        let sample = say(0);
        let (kind, bound) = (sample.type_name(), of_member(&sample));
        let flood = flood(&mut net, from, Dest::Aggregator, say);
        let spent = spent.entry(kind).or_default();
        *spent += flood.logged;
        // One registration was there before.
        let most = most(&terms, bound, 1, 1);
        assert!(
            (most - 1..=most).contains(spent),
            "{what}: {spent} of {most}"
        );
        assert_eq!(flood.last, Outcome::Ignored(Ignored::OverQuota), "{what}");
    }
    // What is answered and not logged changes nothing, however often it is asked.
    let before = format!("{:?}", net.agg);
    let asked = flood(&mut net, from, Dest::Aggregator, |_| {
        Message::SeatRequest(SeatRequest {})
    });
    let again = flood(&mut net, from, Dest::Aggregator, |_| {
        Message::OptIn(OptIn {
            terms: terms.cohort_id(),
            tos: None,
            payee: None,
            ticket: None,
        })
    });
    assert_eq!((asked.logged, again.logged), (0, 0));
    assert_eq!(format!("{:?}", net.agg), before);
    // The others are not kept from anything. What this member says of the round does not count in this window any more.
    for i in 0..2 {
        let outcome = net.say(i, Message::RoundRequest(RoundRequest { pending: 7 }));
        assert_eq!(outcome, Outcome::Accepted);
    }
    net.hold = None;
    let responses = std::mem::take(&mut net.held);
    for mail in responses {
        let outcome = net.deliver(mail.from, mail.to, mail.message);
        if mail.from == from {
            assert_eq!(outcome, Outcome::Ignored(Ignored::OverQuota));
        } else {
            assert_eq!(outcome, Outcome::Accepted);
        }
    }
    // It named itself: it is who was not there.
    net.advance(terms.response_seconds.into());
    net.advance(2);
    assert!(net.agg_reports.iter().any(|report| matches!(
        report,
        Report::RoundFailed { why: RoundCause::NoResponse { absent }, .. } if absent == &[Seat(2)]
    )));
    // The window is over, and everybody counts again.
    net.next_round_works();
}

#[test]
fn partial_signatures_that_do_not_verify_are_evidence_so_often_and_then_nothing() {
    let mut net = Net::ready(Setup::smt(3));
    net.record = false;
    net.queue(0, 0, "a");
    net.hold = Some("partial_signature");
    net.open();
    let of = |net: &Net, i: usize| {
        let mut held = net.held.iter();
        let mail = held.find(|mail| mail.from == net.nodes[i].me()).unwrap();
        match &mail.message {
            Message::PartialSignature(signed) => signed.content.clone(),
            _ => unreachable!(),
        }
    };
    let bad = Partials {
        partials: of(&net, 1).partials,
        ..of(&net, 2)
    };
    let bad = Message::PartialSignature(net.signed(2, bad));
    let (from, terms) = (net.nodes[2].me(), net.agg.terms().clone());
    let bound = of_member(&bad);
    let flood = flood(&mut net, from, Dest::Aggregator, |_| bad.clone());
    assert_eq!(flood.logged, most(&terms, bound, 1, 0));
    assert_eq!(flood.last, Outcome::Ignored(Ignored::OverQuota));
    let conduct = net.agg.conduct().of(Seat(2)).unwrap();
    assert_eq!(conduct.offences.len(), 1, "one piece of evidence is enough");
}

/// Before the set is made a seat that asks again is told again, and nothing grows.
#[test]
fn who_is_seated_can_not_fill_the_log_by_asking_again() {
    let mut net = Net::new(Setup::smt(3));
    net.record = false;
    net.advertise();
    net.input(0, ParticipantInput::Join { payee: None });
    net.run();
    let (from, cohort) = (net.nodes[0].me(), net.agg.cohort());
    let before = format!("{:?}", net.agg);
    let again = flood(&mut net, from, Dest::Aggregator, |_| {
        Message::OptIn(OptIn {
            terms: cohort,
            tos: None,
            payee: None,
            ticket: None,
        })
    });
    assert_eq!(again.logged, 0);
    assert_eq!(format!("{:?}", net.agg), before);
    // It is told, as often as the driver answers: the acceptance may be lost.
    net.nodes[0].outcomes.clear();
    let outcome = net.say(
        0,
        Message::OptIn(OptIn {
            terms: cohort,
            tos: None,
            payee: None,
            ticket: None,
        }),
    );
    assert_eq!(outcome, Outcome::Ignored(Ignored::Duplicate));
    net.run();
    assert_eq!(net.nodes[0].outcomes.len(), 1, "accept came again");
}

/// Questions that are answered and not logged do nothing that is due: a replay of the log would not know of it.
#[test]
fn a_question_does_not_do_what_is_due() {
    for question in [
        Message::SeatRequest(SeatRequest {}),
        Message::HistoryRequest(btcr2_agent::protocol::message::HistoryRequest {
            index: SmtIndex::from_bytes([1; 32]),
            from_round: Round(1),
        }),
        Message::OptIn(OptIn {
            terms: btcr2_agent::hash::CohortId::from_bytes([9; 32]),
            tos: None,
            payee: None,
            ticket: None,
        }),
    ] {
        let mut net = Net::new(Setup::smt(3));
        net.advertise();
        for i in 0..2 {
            net.input(i, ParticipantInput::Join { payee: None });
        }
        net.run();
        net.now = net.agg.terms().join_by.plus(5);
        let before = format!("{:?}", net.agg);
        net.deliver(key("stranger").public(), Dest::Aggregator, question);
        assert_eq!(format!("{:?}", net.agg), before);
        net.agg_input(AggregatorInput::Tick);
        assert!(matches!(net.agg.phase(), Phase::Forming { .. }));
    }
}

/// An aggregator that says everything it can, again and again.
#[test]
fn an_aggregator_that_repeats_itself_is_heard_so_often() {
    let mut net = Net::ready(Setup::smt(3).refunds());
    net.record = false;
    net.round();
    let (_, tx) = net.signed_txs().pop().unwrap();
    let mut forged = tx.clone();
    forged.input[0].previous_output = OutPoint::new(Txid::from_byte_array([7; 32]), 0);
    let index = net.nodes[1].dids[0].index;
    let Message::CohortSet(mut set) = net.last_sent("cohort_set").message else {
        unreachable!()
    };
    set.payees.clear();
    let set_hash = set.hash(&net.agg.cohort());
    let terms = net.agg.terms().clone();
    let other = move |n: u32| {
        let mut terms = terms.clone();
        let mut salt = [5; 16];
        salt[..4].copy_from_slice(&n.to_be_bytes());
        terms.salt = Salt::from_bytes(salt);
        terms.canonical()
    };
    let (offered, invited) = (other.clone(), other);
    let respond_by = net.now.plus(60);
    let floods: Vec<(&str, Say<'_>)> = vec![
        (
            "registered",
            Box::new(move |_| {
                Message::Registered(Registered {
                    items: vec![RegisteredItem {
                        index,
                        from_round: None,
                        refused: Some(RefusalCode::IndexTaken),
                    }],
                    last_round: 1,
                })
            }),
        ),
        (
            "refused",
            Box::new(|_| {
                Message::Refused(Refused {
                    of: "register".into(),
                    code: RefusalCode::TooManyDids,
                    round: None,
                })
            }),
        ),
        (
            "index_challenge",
            Box::new(move |_| {
                Message::IndexChallenge(IndexChallenge {
                    index,
                    until: respond_by,
                })
            }),
        ),
        (
            "cohort_set",
            Box::new(move |_| Message::CohortSet(set.clone())),
        ),
        (
            "relays",
            Box::new(|n| {
                Message::Relays(Relays {
                    relays: vec![format!("wss://relay{n}.example.com")],
                })
            }),
        ),
        (
            "invite",
            Box::new(move |n| {
                Message::Invite(Invite {
                    terms: invited(n),
                    relays: Vec::new(),
                })
            }),
        ),
        (
            "reform",
            Box::new(move |n| {
                Message::Reform(Reform {
                    terms: offered(n),
                    relays: Vec::new(),
                    without: vec![LeftOut {
                        seat: Seat(2),
                        missed: 1,
                        blamed: Vec::new(),
                    }],
                    reason: String::new(),
                })
            }),
        ),
        (
            "round_open",
            Box::new(move |n| {
                Message::RoundOpen(RoundOpen {
                    round: Round(2 + n),
                    respond_by,
                    indexes: BTreeMap::from([(Seat(0), 1), (Seat(1), 1), (Seat(2), 1)]),
                    inputs: 1,
                })
            }),
        ),
        (
            "refund_open",
            Box::new(move |n| {
                Message::RefundOpen(RefundOpen {
                    deposit: 100 + n,
                    attempt: 1,
                    outpoint: OutPoint::new(Txid::from_byte_array([8; 32]), n),
                    value_sat: 50_000,
                    until: respond_by,
                })
            }),
        ),
    ];
    let from = net.agg_key.public();
    let terms = net.agg.terms().clone();
    for (what, mut say) in floods {
        let bound = of_aggregator(&say(0));
        let flood = flood(&mut net, from, Dest::Member(1), say);
        // A round or two of the window, as far as it counts them.
        let (few, many) = (most(&terms, bound, 0, 0), most(&terms, bound, 2, 2));
        assert!(
            (few..=many).contains(&flood.logged),
            "{what}: {}",
            flood.logged
        );
        assert_eq!(flood.last, Outcome::Ignored(Ignored::OverQuota), "{what}");
    }
    // Said with nothing that it is about: not even logged, or shown so often.
    let results = flood(&mut net, from, Dest::Member(1), |_| {
        Message::RoundResult(RoundResult {
            round: Round(2),
            tx: Some(TxHex(forged.clone())),
        })
    });
    let bound = of_aggregator(&Message::RoundResult(RoundResult {
        round: Round(2),
        tx: None,
    }));
    let opened = most(
        &terms,
        of_aggregator(&Message::RoundOpen(RoundOpen {
            round: Round(2),
            respond_by,
            indexes: BTreeMap::new(),
            inputs: 1,
        })),
        0,
        0,
    );
    assert!(results.logged <= most(&terms, bound, opened, 0));
    for message in [
        Message::RoundFailed(RoundFailed {
            round: Round(1),
            why: RoundCause::Operator,
            blamed: Vec::new(),
        }),
        Message::Frozen(Frozen {
            set: set_hash,
            acks: Vec::new(),
        }),
    ] {
        let told = flood(&mut net, from, Dest::Member(1), |_| message.clone());
        assert_eq!(told.logged, 0, "{}", message.type_name());
    }
}

/// A member that asks for rounds, and has nothing to announce, makes so many of them.
#[test]
fn rounds_that_members_ask_for_are_so_many_in_a_window() {
    let setup = Setup::smt(2).terms(|terms| {
        terms.pending_trigger = 1;
        terms.dids_max = 1_000;
    });
    let mut net = Net::ready(setup.decline(btcr2_agent::protocol::participant::Decline::Idle));
    let ask = |net: &mut Net| {
        net.say(1, Message::RoundRequest(RoundRequest { pending: 1 }));
        net.run();
        net.agg.last_round()
    };
    let rounds = (0..MAX_REQUESTED_ROUNDS * 2).map(|_| ask(&mut net)).last();
    assert_eq!(rounds, Some(MAX_REQUESTED_ROUNDS), "each of them empty");
    // The operator's own are not held up by it, nor is the next window.
    assert_eq!(net.agg.open_refusal(), None);
    net.open();
    assert_eq!(net.agg.last_round(), MAX_REQUESTED_ROUNDS + 1);
    net.advance(WINDOW_SECONDS);
    assert_eq!(ask(&mut net), MAX_REQUESTED_ROUNDS + 2);
}

/// Signals that confirm take blocks and fees: as many rounds as they come with are followed, within one hour.
#[test]
fn rounds_that_are_signed_and_confirmed_are_followed_however_many() {
    let mut net = Net::new(Setup::new(CohortBeacon::Cas, 2));
    net.record = false;
    net.form();
    net.fund(50_000_000);
    net.register_all();
    let begun = net.now;
    // More than are opened in an hour without.
    for n in 0..MAX_REQUESTED_ROUNDS * 3 + 9 {
        net.queue(0, 0, &format!("update {n}"));
        net.round();
    }
    assert!(net.now.since(begun) < HOUR);
}

/// A member that was away hears of hundreds of rounds at once. What it is told then is not too much, and above all not
/// the opening of the round that is open now.
#[test]
fn who_was_away_for_weeks_hears_all_of_it_and_takes_part_in_the_next_round() {
    let setup = Setup::smt(2).terms(|terms| terms.response_seconds = 60);
    let mut net = Net::ready(setup);
    net.record = false;
    net.round();
    let kept = super::fallback::leave(&mut net, &[1]);
    let away = 400;
    for _ in 0..away {
        net.agg_input(AggregatorInput::OpenRound);
        net.run();
        net.advance(HOUR);
    }
    assert_eq!(net.agg.last_round(), away + 1);
    super::fallback::come_back(&mut net, &[1], &kept);
    let told = net.nodes[1].reports.iter();
    let missed = told.filter(|report| matches!(report, Report::RoundMissed { .. }));
    assert_eq!(missed.count(), usize::try_from(away).unwrap());
    net.queue(1, 0, "back");
    net.next_round_works();
}

#[test]
fn a_quota_is_what_its_parts_say() {
    let mut terms = Setup::smt(2).terms;
    terms.dids_max = 8;
    terms.sessions_max = 4;
    let quota = |message: &Message| match of_member(message) {
        Bound::Quota(quota) => quota,
        other => panic!("{other:?}"),
    };
    let request = Message::RoundRequest(RoundRequest { pending: 1 });
    assert_eq!(quota(&request).most(&terms, 5, 5), 16 + 2 * 8);
    let refused = Message::Refused(Refused {
        of: String::new(),
        code: RefusalCode::Malformed,
        round: None,
    });
    assert_eq!(
        quota(&refused).most(&terms, 2, 1),
        16 + 2 * 5 * 3 + 2 * 5 * 2
    );
    terms.cadence_seconds = 7;
    let by_cadence = Quota {
        by_cadence: true,
        ..Quota::default()
    };
    assert_eq!(by_cadence.most(&terms, 0, 0), 515);
}
