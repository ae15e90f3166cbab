//! What the aggregator takes from members: responses and registrations. The cheat is a member.

use btcr2_agent::beacon::smt::EMPTY_LEAF;
use btcr2_agent::hash::LeafValue;
use btcr2_agent::network::Network;
use btcr2_agent::protocol::effect::{Ignored, Outcome, Report};
use btcr2_agent::protocol::evidence::Signed;
use btcr2_agent::protocol::message::{
    CasEntry, Entries, IndexOpening, Message, MessageError, RefusalCode, Register, RegisterItem,
    Response, SmtEntry,
};
use btcr2_agent::protocol::participant::{BindingState, IndexState};
use btcr2_agent::protocol::terms::CohortBeacon;
use btcr2_agent::protocol::{Label, Round};

use super::net::{Dest, Net, Setup};
use super::node::{MyDid, update};

fn refused(code: RefusalCode) -> Outcome {
    Outcome::Ignored(Ignored::Refused(code))
}

/// A round whose response of member 1 is kept back; the others have answered.
fn at_response(setup: Setup) -> (Net, Response) {
    let mut net = Net::ready(setup);
    for i in 0..3 {
        net.queue(i, 0, &format!("{i}"));
    }
    net.hold = Some("response");
    net.open();
    let from = net.nodes[1].me();
    let at = net.held.iter().position(|mail| mail.from == from).unwrap();
    let kept = net.held.remove(at);
    net.release();
    let Message::Response(signed) = kept.message else {
        unreachable!()
    };
    (net, signed.content)
}

fn respond(net: &mut Net, response: Response) -> Outcome {
    let signed = net.signed(1, response);
    net.say(1, Message::Response(signed))
}

fn smt(response: &mut Response) -> &mut Vec<SmtEntry> {
    match &mut response.entries {
        Entries::Smt(entries) => entries,
        Entries::Cas(_) => unreachable!(),
    }
}

fn cas(response: &mut Response) -> &mut Vec<CasEntry> {
    match &mut response.entries {
        Entries::Cas(entries) => entries,
        Entries::Smt(_) => unreachable!(),
    }
}

/// Refused with this code and told so; the honest response then counts, and another round works.
fn is_refused(net: &mut Net, response: Response, code: RefusalCode) {
    assert_eq!(respond(net, response), refused(code));
    net.run();
    let told = Report::MyRequestRefused {
        of: "response".into(),
        code,
    };
    assert!(net.nodes[1].reports.contains(&told));
    assert_eq!(net.agg.open_round_progress().unwrap().1, 2);
}

#[test]
fn smt_entries_that_are_not_exactly_the_seats_indexes() {
    let (mut net, good) = at_response(Setup::smt(3).dids(&[1, 2, 1]));
    assert_eq!(smt(&mut good.clone()).len(), 2);
    let foreign_index = net.nodes[0].dids[0].index;
    let unknown = MyDid::k1(Network::Regtest, "unknown").index;
    type Change = Box<dyn Fn(&mut Vec<SmtEntry>)>;
    let cases: [(RefusalCode, Change); 6] = [
        (
            RefusalCode::WrongEntries,
            Box::new(move |entries| entries[0].index = foreign_index),
        ),
        (
            RefusalCode::WrongEntries,
            Box::new(move |entries| entries[0].index = unknown),
        ),
        (
            RefusalCode::WrongEntries,
            Box::new(|entries| entries[0] = entries[1].clone()),
        ),
        (
            RefusalCode::WrongEntries,
            Box::new(|entries| entries.push(entries[0].clone())),
        ),
        (
            RefusalCode::WrongEntries,
            Box::new(|entries| {
                entries.pop();
            }),
        ),
        // A leaf that equals Z[0] would make the neighbours' proofs non-canonical.
        (
            RefusalCode::EmptyLeaf,
            Box::new(|entries| entries[1].leaf = Some(EMPTY_LEAF)),
        ),
    ];
    for (code, change) in cases {
        let mut bad = good.clone();
        change(smt(&mut bad));
        is_refused(&mut net, bad, code);
    }
    let mut other_type = good.clone();
    other_type.entries = Entries::Cas(Vec::new());
    is_refused(&mut net, other_type, RefusalCode::WrongEntries);
    assert_eq!(respond(&mut net, good), Outcome::Accepted);
    net.finish();
}

#[test]
fn cas_entries_that_are_not_exactly_the_seats_dids() {
    let (mut net, good) = at_response(Setup::cas(3).dids(&[1, 2, 1]));
    let foreign = net.nodes[0].dids[0].did.clone();
    let unknown = MyDid::k1(Network::Regtest, "unknown").did;
    let mut cases = Vec::new();
    for did in [foreign, unknown] {
        let mut bad = good.clone();
        cas(&mut bad)[0].did = did;
        cases.push(bad);
    }
    let mut repeated = good.clone();
    cas(&mut repeated)[0] = cas(&mut repeated)[1].clone();
    cases.push(repeated);
    let mut one_more = good.clone();
    let again = cas(&mut one_more)[0].clone();
    cas(&mut one_more).push(again);
    cases.push(one_more);
    let mut missing = good.clone();
    cas(&mut missing).pop();
    cases.push(missing);
    let mut other_type = good.clone();
    other_type.entries = Entries::Smt(Vec::new());
    cases.push(other_type);
    for bad in cases {
        is_refused(&mut net, bad, RefusalCode::WrongEntries);
    }
    assert_eq!(respond(&mut net, good), Outcome::Accepted);
    net.finish();
}

/// Who says "idle" for an entry that has an update would let a round be skipped with it.
#[test]
fn cas_an_update_that_calls_itself_idle_is_announced() {
    let mut net =
        Net::ready(Setup::cas(2).decline(btcr2_agent::protocol::participant::Decline::Idle));
    net.queue(1, 0, "b");
    net.hold = Some("response");
    net.open();
    let from = net.nodes[1].me();
    let at = net.held.iter().position(|mail| mail.from == from).unwrap();
    let Message::Response(mut signed) = net.held.remove(at).message else {
        unreachable!()
    };
    cas(&mut signed.content)[0].idle = true;
    assert_eq!(respond(&mut net, signed.content), Outcome::Accepted);
    net.release();
    net.mine(1);
    assert_eq!(net.proved(1, 0), [Some(Some(update("b")))]);
}

#[test]
fn one_public_nonce_offered_in_two_sessions() {
    // In two rounds.
    let (mut net, first) = at_response(Setup::smt(3));
    assert_eq!(respond(&mut net, first.clone()), Outcome::Accepted);
    net.finish();
    net.hold = Some("response");
    net.open();
    let from = net.nodes[1].me();
    let at = net.held.iter().position(|mail| mail.from == from).unwrap();
    let Message::Response(good) = net.held.remove(at).message else {
        unreachable!()
    };
    let mut reused = good.content.clone();
    reused.nonces = first.nonces;
    assert_eq!(respond(&mut net, reused), refused(RefusalCode::NonceReused));

    // By two members in one session: the second one copies.
    let copied = net.held.iter().find_map(|mail| match &mail.message {
        Message::Response(other) => Some(other.content.nonces.clone()),
        _ => None,
    });
    let mut copy = good.content.clone();
    copy.nonces = copied.unwrap();
    let (first_held, rest) = (net.held.remove(0), net.held.split_off(0));
    net.deliver(first_held.from, first_held.to, first_held.message);
    net.held = rest;
    assert_eq!(respond(&mut net, copy), refused(RefusalCode::NonceReused));

    // As a spare of its own.
    assert_eq!(
        net.say(1, Message::Response(good)),
        Outcome::Accepted,
        "an honest nonce still counts"
    );
    net.release();
    assert_eq!(net.agg.signals_signed(), 3);
}

#[test]
fn a_response_without_nonces_is_malformed() {
    let (mut net, good) = at_response(Setup::smt(3));
    let mut bad = good.clone();
    bad.nonces.clear();
    is_refused(&mut net, bad, RefusalCode::Malformed);
    assert_eq!(respond(&mut net, good), Outcome::Accepted);
    net.finish();
}

/// A nonce or partial signature that is no point, or no scalar, does not become a message at all.
#[test]
fn a_bad_nonce_and_a_bad_scalar_do_not_parse() {
    let (mut net, good) = at_response(Setup::smt(3));
    let signed = net.signed(1, good.clone());
    let nonce = good.nonces[&Label::SIGNAL].to_string();
    let text = Message::Response(signed).body().unwrap().get().to_owned();
    let off_curve = format!("02{}", "ff".repeat(32));
    let infinity = "00".repeat(33);
    for half in [off_curve, infinity, "04".repeat(33), "zz".repeat(33)] {
        for bad in [
            format!("{half}{}", &nonce[66..]),
            format!("{}{half}", &nonce[..66]),
        ] {
            let body = text.replace(&nonce, &bad);
            assert_ne!(body, text);
            let raw = serde_json::value::RawValue::from_string(body).unwrap();
            assert!(matches!(
                Message::parse("response", &raw),
                Err(MessageError::Malformed("response", _))
            ));
        }
    }
    net.hold = Some("partial_signature");
    assert_eq!(respond(&mut net, good), Outcome::Accepted);
    net.run();
    let Message::PartialSignature(partials) = &net.held[0].message else {
        unreachable!()
    };
    let partial = partials.content.partials[&Label::SIGNAL].to_string();
    let text = net.held[0].message.body().unwrap().get().to_owned();
    // The order of the curve and beyond.
    let order = "fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141";
    for bad in [order.to_owned(), "ff".repeat(32), "00".repeat(31)] {
        let raw = serde_json::value::RawValue::from_string(text.replace(&partial, &bad)).unwrap();
        assert!(matches!(
            Message::parse("partial_signature", &raw),
            Err(MessageError::Malformed("partial_signature", _))
        ));
    }
    net.finish();
}

#[test]
fn a_second_response_does_not_replace_the_first() {
    let (mut net, good) = at_response(Setup::smt(3));
    net.hold = Some("response");
    // Member 0's response is in; another one, freshly signed, comes after it.
    let first = net.archive.iter().find_map(|mail| match &mail.message {
        Message::Response(signed) if mail.from == net.nodes[0].me() => Some(signed.content.clone()),
        _ => None,
    });
    let mut second = first.unwrap();
    smt(&mut second)[0].leaf = Some(LeafValue::from_bytes([7; 32]));
    let signed: Signed<Response> = net.signed(0, second);
    assert_eq!(
        net.say(0, Message::Response(signed)),
        Outcome::Ignored(Ignored::Duplicate)
    );
    assert_eq!(respond(&mut net, good), Outcome::Accepted);
    net.finish();
}

// ---- registrations ------------------------------------------------------------------------------------------

fn register(
    net: &mut Net,
    i: usize,
    index: btcr2_agent::hash::SmtIndex,
    item: RegisterItem,
) -> Option<RefusalCode> {
    assert_eq!(item.index, index);
    net.say(i, Message::Register(Register { items: vec![item] }));
    let sent = net.last_sent("registered");
    assert_eq!(sent.to, Dest::Member(i));
    let Message::Registered(registered) = sent.message else {
        unreachable!()
    };
    assert_eq!(registered.items.len(), 1);
    registered.items[0].refused
}

#[test]
fn cas_another_members_did() {
    let mut net = Net::new(Setup::cas(3).dids(&[1, 0, 1]));
    net.form();
    net.fund(20_000);
    let cohort = net.agg.cohort();
    let mallory = net.nodes[1].me();
    let victim = MyDid::k1(Network::Regtest, "did 0 0");
    let index = victim.index;
    let signet = MyDid::k1(Network::Signet, "did 0 0");
    let without_proof = None;
    let own_key = {
        let mut opening = MyDid::k1(Network::Regtest, "mallory").opening(&cohort, mallory);
        opening.did = victim.did.clone();
        Some(opening)
    };
    let for_the_victims_seat = Some(victim.opening(&cohort, net.nodes[0].me()));
    let other_network = Some(signet.opening(&cohort, mallory));
    let another_did = Some(MyDid::k1(Network::Regtest, "mallory").opening(&cohort, mallory));
    for opening in [
        without_proof,
        own_key,
        for_the_victims_seat,
        other_network,
        another_did,
    ] {
        let item = RegisterItem { index, opening };
        assert_eq!(
            register(&mut net, 1, index, item),
            Some(RefusalCode::BadRegistration)
        );
    }
    assert_eq!(net.agg.registered(), 0);
    net.register_all();
    // Now it is taken; whoever holds the DID's key in two seats keeps the first.
    let item = RegisterItem {
        index,
        opening: Some(victim.opening(&cohort, mallory)),
    };
    assert_eq!(
        register(&mut net, 1, index, item),
        Some(RefusalCode::IndexTaken)
    );
    net.queue(0, 0, "a");
    net.round();
    assert_eq!(net.proved(0, 0), [Some(Some(update("a")))]);
}

#[test]
fn an_x1_did_opens_with_its_genesis_document_only() {
    let mut net = Net::new(Setup::cas(2));
    net.form();
    let cohort = net.agg.cohort();
    let me = net.nodes[0].me();
    let did = MyDid::x1(&net, "external");
    let other = MyDid::x1(&net, "another");
    let index = did.index;
    let good = did.opening(&cohort, me);
    let mut missing = good.clone();
    missing.genesis = None;
    let mut foreign = good.clone();
    foreign.genesis = other.opening(&cohort, me).genesis;
    let mut foreign_key = good.clone();
    let stranger = other.opening(&cohort, me);
    foreign_key.key = stranger.key;
    foreign_key.sig = stranger.sig;
    for bad in [missing, foreign, foreign_key] {
        let item = RegisterItem {
            index,
            opening: Some(bad),
        };
        assert_eq!(
            register(&mut net, 0, index, item),
            Some(RefusalCode::BadRegistration)
        );
    }
    let item = RegisterItem {
        index,
        opening: Some(good),
    };
    assert_eq!(register(&mut net, 0, index, item), None);
}

#[test]
fn more_dids_than_the_terms_allow() {
    for beacon in [CohortBeacon::Smt, CohortBeacon::Cas] {
        let mut net = Net::new(
            Setup::new(beacon, 2)
                .dids(&[3, 1])
                .terms(|terms| terms.dids_max = 2),
        );
        net.form();
        net.fund(20_000);
        net.register_all();
        assert_eq!(net.agg.registered(), 3);
        let states: Vec<_> = net.nodes[0]
            .dids
            .iter()
            .map(|did| net.nodes[0].core.index_state(&did.index).unwrap())
            .collect();
        assert_eq!(
            states,
            [
                IndexState::Covered(Round(1)),
                IndexState::Covered(Round(1)),
                IndexState::Refused(RefusalCode::TooManyDids)
            ]
        );
        net.next_round_works();
    }
}

/// Member 1 claims the index of member 0's DID. `opens` says who can show that it speaks for it.
fn smt_conflict(holder_opens: bool, claimant_opens: bool) -> Net {
    smt_conflict_in(holder_opens, claimant_opens, |_| {})
}

fn smt_conflict_in(
    holder_opens: bool,
    claimant_opens: bool,
    prepare: impl FnOnce(&mut Net),
) -> Net {
    let mut net = Net::new(Setup::smt(3).dids(&[1, 0, 1]));
    net.form();
    net.fund(20_000);
    net.register_all();
    let index = net.nodes[0].dids[0].index;
    if claimant_opens {
        let same = MyDid::k1(Network::Regtest, "did 0 0");
        net.nodes[1].dids.push(same);
    }
    if !holder_opens {
        net.nodes[0].dids.clear();
    }
    prepare(&mut net);
    let item = RegisterItem {
        index,
        opening: None,
    };
    net.input(
        1,
        btcr2_agent::protocol::participant::ParticipantInput::Register { items: vec![item] },
    );
    net.run();
    net.advance(90_000);
    net
}

fn states(net: &Net) -> [Option<IndexState>; 2] {
    let index = MyDid::k1(Network::Regtest, "did 0 0").index;
    [0, 1].map(|i| net.nodes[i].core.index_state(&index))
}

#[test]
fn smt_an_index_in_conflict_that_the_holder_opens() {
    for claimant_opens in [false, true] {
        let mut net = smt_conflict(true, claimant_opens);
        assert_eq!(
            states(&net),
            [
                Some(IndexState::Covered(Round(1))),
                Some(IndexState::Refused(RefusalCode::IndexTaken))
            ]
        );
        // Opened once, the index can not be put in question again.
        let index = MyDid::k1(Network::Regtest, "did 0 0").index;
        let item = RegisterItem {
            index,
            opening: None,
        };
        assert_eq!(
            register(&mut net, 1, index, item),
            Some(RefusalCode::IndexTaken)
        );
        net.next_round_works();
    }
}

/// What was asked for before a crash is done after it: else the index, and the DID with it, would be somebody else's.
#[test]
fn smt_an_index_in_conflict_is_opened_after_a_restart() {
    let mut net = smt_conflict_in(true, true, |net| net.nodes[0].dies_at_open = true);
    assert!(!net.nodes[0].dies_at_open);
    assert_eq!(
        states(&net),
        [
            Some(IndexState::Covered(Round(1))),
            Some(IndexState::Refused(RefusalCode::IndexTaken))
        ]
    );
    net.next_round_works();
}

#[test]
fn smt_an_index_in_conflict_that_only_the_claimant_opens() {
    let mut net = smt_conflict(false, true);
    let [holder, claimant] = states(&net);
    assert_eq!(claimant, Some(IndexState::Covered(Round(1))));
    // The holder has bound a DID that it can not open: it hears an alarm, and goes on refusing rounds
    // that do not cover it.
    assert_eq!(holder, Some(IndexState::Covered(Round(1))));
    assert!(net.nodes[0].alarms()[0].contains("no longer covers"));
    net.open();
    assert_eq!(net.agg.signals_signed(), 0);
    assert!(net.nodes[0].alarms()[1].contains("covers 0 of my 1 indexes"));
}

#[test]
fn smt_an_index_in_conflict_that_nobody_opens_belongs_to_nobody() {
    let mut net = Net::new(Setup::smt(3).dids(&[0, 0, 1]));
    net.form();
    net.fund(20_000);
    net.register_all();
    let index = MyDid::k1(Network::Regtest, "did 0 0").index;
    for i in [0, 1] {
        net.nodes[i].binds = false;
        let item = RegisterItem {
            index,
            opening: None,
        };
        net.input(
            i,
            btcr2_agent::protocol::participant::ParticipantInput::Register { items: vec![item] },
        );
        net.run();
    }
    net.advance(90_000);
    let lost = Some(IndexState::Refused(RefusalCode::BadRegistration));
    assert_eq!(states(&net), [lost, lost]);
    assert_eq!(net.agg.registered(), 1);
    net.round();
    assert_eq!(
        net.nodes[2].core.binding_state(&net.nodes[2].dids[0].index),
        Some(BindingState::Bound)
    );
}

#[test]
fn an_opening_that_shows_nothing_is_refused() {
    let mut net = Net::ready(Setup::smt(3));
    let did = MyDid::k1(Network::Regtest, "did 0 0");
    let opening = did.opening(&net.agg.cohort(), net.nodes[0].me());
    let message = IndexOpening {
        index: did.index,
        opening,
    };
    // The holder's own opening, from another seat.
    assert_eq!(
        net.say(1, Message::IndexOpening(message)),
        refused(RefusalCode::BadRegistration)
    );
    // A good one that nobody asked for.
    let did = MyDid::k1(Network::Regtest, "unasked");
    let opening = did.opening(&net.agg.cohort(), net.nodes[1].me());
    let message = IndexOpening {
        index: did.index,
        opening,
    };
    assert_eq!(
        net.say(1, Message::IndexOpening(message)),
        Outcome::Ignored(Ignored::Unasked)
    );
    net.run();
    net.next_round_works();
}

/// The message that takes an index away is overtaken by the opening that no longer counts it.
#[test]
fn an_index_that_is_taken_away_while_a_round_opens() {
    let mut net = Net::new(Setup::smt(3).dids(&[1, 0, 1]));
    net.form();
    net.fund(20_000);
    net.nodes[0].binds = false;
    net.register_all();
    net.nodes[0].dids.clear();
    let same = MyDid::k1(Network::Regtest, "did 0 0");
    let index = same.index;
    net.nodes[1].dids.push(same);
    net.nodes[1].binds = false;
    let item = RegisterItem {
        index,
        opening: None,
    };
    net.input(
        1,
        btcr2_agent::protocol::participant::ParticipantInput::Register { items: vec![item] },
    );
    net.run();
    net.hold = Some("registered");
    net.advance(90_000);
    net.open();
    assert_eq!(net.agg.signals_signed(), 0);
    net.release();
    assert_eq!(net.agg.signals_signed(), 1);
    assert_eq!(
        net.nodes[0].core.index_state(&index),
        Some(IndexState::Refused(RefusalCode::BadRegistration))
    );
}
