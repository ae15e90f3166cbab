//! Rules 2 and 3: a member signs one form of transaction, over 32 bytes that it checked. The cheat is the
//! aggregator; the member refuses, and signs as soon as it gets what was agreed.

use bitcoin::hashes::Hash as _;
use bitcoin::{Amount, OutPoint, ScriptBuf, Sequence, Transaction, TxOut, Txid};
use btcr2_agent::beacon::smt::{EMPTY_LEAF, SmtTree};
use btcr2_agent::hash::{LeafValue, SmtIndex, sha256};
use btcr2_agent::network::Network;
use btcr2_agent::protocol::aggregator::AggregatorInput;
use btcr2_agent::protocol::effect::{Artifact, Ignored, Outcome, Report};
use btcr2_agent::protocol::message::{
    Message, Proofs, RefusalCode, Registered, RegisteredItem, SignRequest,
};
use btcr2_agent::protocol::participant::BindingState;
use btcr2_agent::protocol::terms::CohortBeacon;
use btcr2_agent::protocol::{Label, Round};

use super::net::{Dest, Net, Setup};
use super::node::{MyDid, update};

/// A round of three whose request to member 0 is kept back; everybody else has signed.
fn at_request(setup: Setup) -> (Net, SignRequest) {
    let mut net = Net::ready(setup);
    for i in 0..3 {
        net.queue(i, 0, &format!("{i}"));
    }
    net.hold = Some("sign_request");
    net.open();
    let kept = net.keep_back(Dest::Member(0));
    let Message::SignRequest(request) = kept.message else {
        unreachable!()
    };
    (net, request)
}

fn tx_of(request: &mut SignRequest) -> &mut Transaction {
    &mut request.rungs[0].tx.0
}

/// Member 0 does not sign this, says why, and tells the aggregator.
fn refuses(net: &mut Net, request: SignRequest, words: &str) {
    let outcome = net.tell(0, Message::SignRequest(request));
    let Outcome::Ignored(Ignored::WillNotSign(reason)) = outcome else {
        panic!("{words}: {outcome:?}")
    };
    assert!(reason.contains(words), "{reason:?} is not about {words:?}");
    assert!(net.nodes[0].core.given().is_empty(), "nothing was signed");
    assert!(net.nodes[0].saved.is_empty());
    net.run();
    let me = net.nodes[0].me();
    assert!(net.agg_reports.contains(&Report::RequestRefused {
        member: me,
        code: RefusalCode::WillNotSign
    }));
}

/// Member 0 waits with what may become right.
fn waits(net: &mut Net, request: SignRequest, words: &str) {
    let outcome = net.tell(0, Message::SignRequest(request));
    assert_eq!(outcome, Outcome::Accepted);
    let reason = *net.nodes[0].refusals().last().unwrap();
    assert!(reason.contains(words), "{reason:?} is not about {words:?}");
    assert!(net.nodes[0].core.given().is_empty(), "nothing was signed");
}

/// What was agreed comes after all: the round completes, and the next one works.
fn signs_after_all(mut net: Net, request: SignRequest) {
    let outcome = net.tell(0, Message::SignRequest(request));
    assert_eq!(outcome, Outcome::Accepted, "{:?}", net.nodes[0].refusals());
    net.finish();
}

#[test]
fn transactions_of_any_other_form() {
    type Change = fn(&mut Transaction);
    let cases: [(&str, Change); 16] = [
        ("version", |tx| {
            tx.version = bitcoin::transaction::Version::ONE
        }),
        ("lock time", |tx| {
            tx.lock_time = bitcoin::absolute::LockTime::from_consensus(1);
        }),
        ("no input", |tx| tx.input.clear()),
        ("5 inputs", |tx| {
            for n in 1..=4 {
                let mut extra = tx.input[0].clone();
                extra.previous_output = OutPoint::new(Txid::from_byte_array([n; 32]), 0);
                tx.input.push(extra);
            }
        }),
        ("sequence", |tx| tx.input[0].sequence = Sequence::MAX),
        ("not unsigned", |tx| {
            tx.input[0].script_sig = ScriptBuf::from_bytes(vec![0x51]);
        }),
        ("OP_RETURN", |tx| tx.output.swap(0, 1)),
        ("OP_RETURN", |tx| {
            tx.output.pop();
        }),
        ("OP_RETURN", |tx| tx.output.clear()),
        // A second push would be another signal to some and none to others.
        ("OP_RETURN", |tx| {
            let script = tx.output[1].script_pubkey.to_bytes();
            tx.output[1].script_pubkey = ScriptBuf::from_bytes([&script[..], &[0x01, 7]].concat());
        }),
        ("value", |tx| tx.output[1].value = Amount::from_sat(1)),
        ("outputs", |tx| {
            let to = ScriptBuf::from_bytes([&[0, 20][..], &[1; 20]].concat());
            let extra = TxOut {
                value: Amount::from_sat(400),
                script_pubkey: to,
            };
            tx.output.insert(1, extra);
        }),
        ("change does not go to the beacon", |tx| {
            tx.output[0].script_pubkey =
                ScriptBuf::from_bytes([&[0x51, 0x20][..], &[2; 32]].concat());
        }),
        ("no change", |tx| {
            tx.output.remove(0);
        }),
        // 51 sat/vB, one more than the terms allow.
        ("fee", |tx| {
            tx.output[0].value = Amount::from_sat(100_000 - 154 * 51)
        }),
        ("more than the 0.00100000 BTC spent", |tx| {
            tx.output[0].value = Amount::from_sat(100_001)
        }),
    ];
    for beacon in [CohortBeacon::Smt, CohortBeacon::Cas] {
        // The member's own policy would allow more than the terms do.
        let mut setup = Setup::new(beacon, 3);
        setup.policy.max_fee_rate = 100;
        let (mut net, good) = at_request(setup);
        for (words, change) in &cases {
            let mut bad = good.clone();
            change(tx_of(&mut bad));
            refuses(&mut net, bad, words);
        }
        signs_after_all(net, good);
    }
}

#[test]
fn a_fee_above_my_own_policy_but_within_the_terms() {
    let mut setup = Setup::smt(3).terms(|terms| {
        terms.max_fee_rate = 200;
        terms.fee_ladder = vec![1, 2];
    });
    setup.policy.max_fee_rate = 9;
    let (mut net, good) = at_request(setup);
    // The chain asks 5 sat/vB: the second rung pays 10.
    refuses(&mut net, good, "rung 2: the fee");
    net.advance(86_401);
    assert!(matches!(
        net.agg_reports.last(),
        Some(Report::RoundFailed { .. })
    ));
    net.chain.fee_rate = Some(4);
    net.sync();
    net.next_round_works();
}

#[test]
fn a_signal_that_does_not_spend_the_tip() {
    for beacon in [CohortBeacon::Smt, CohortBeacon::Cas] {
        let (mut net, good) = at_request(Setup::new(beacon, 3));
        // Other money at the very address: not the tip, so it could confirm beside another signal.
        let script = net.script();
        let other = net.chain.fund(&script, 100_000);
        net.mine(1);
        let mut bad = good.clone();
        tx_of(&mut bad).input[0].previous_output = other;
        waits(&mut net, bad, "the tip is");
        signs_after_all(net, good);
    }
}

#[test]
fn prevouts_are_claims_and_change_nothing() {
    let (mut net, good) = at_request(Setup::smt(3));
    let mut lying = good;
    lying.prevouts[0].value_sat = 1;
    lying.prevouts[0].script = ScriptBuf::new();
    // The sighash is computed from the own chain's tip; the partial signature fits all the same.
    let outcome = net.tell(0, Message::SignRequest(lying));
    assert_eq!(outcome, Outcome::Accepted);
    net.finish();
}

#[test]
fn nothing_is_signed_while_my_chain_shows_no_tip() {
    let mut net = Net::new(Setup::cas(2));
    net.form();
    net.nodes[0].sees_chain = false;
    net.fund(20_000);
    net.register_all();
    net.queue(1, 0, "b");
    net.open();
    assert_eq!(net.agg.signals_signed(), 0);
    assert!(net.nodes[0].refusals()[0].contains("no spendable tip"));
    net.nodes[0].sees_chain = true;
    net.sync();
    net.run();
    assert_eq!(net.agg.signals_signed(), 1, "it signs when it sees the tip");
    net.mine(1);
    net.next_round_works();
}

#[test]
fn a_tip_with_too_few_confirmations_in_my_view() {
    let mut net = Net::new(Setup::smt(2).terms(|terms| terms.depth = 2));
    net.form();
    net.fund(20_000);
    net.register_all();
    net.nodes[1].sees_chain = false;
    net.mine(1);
    net.open();
    assert!(net.nodes[1].refusals()[0].contains("enough confirmations"));
    assert!(net.nodes[1].core.given().is_empty());
    net.nodes[1].sees_chain = true;
    net.sync();
    net.run();
    assert_eq!(net.agg.signals_signed(), 1);
}

/// Puts other 32 bytes into the transaction.
fn with_signal(request: &SignRequest, signal: &[u8; 32]) -> SignRequest {
    let mut request = request.clone();
    let script = [&[0x6a, 0x20][..], signal].concat();
    for rung in &mut request.rungs {
        rung.tx.0.output.last_mut().unwrap().script_pubkey = ScriptBuf::from_bytes(script.clone());
    }
    request
}

fn with_announcement(request: &SignRequest, text: &str) -> SignRequest {
    let mut request = with_signal(request, &sha256(text.as_bytes()));
    request.announcement = Some(text.to_owned());
    request
}

/// A canonical announcement of these entries.
fn map(entries: &[(&MyDid, &str)]) -> String {
    let mut entries: Vec<String> = entries
        .iter()
        .map(|(did, name)| format!("\"{}\":\"{}\"", did.did, update(name)))
        .collect();
    entries.sort();
    format!("{{{}}}", entries.join(","))
}

#[test]
fn cas_the_announcement_is_missing_or_not_what_the_signal_commits_to() {
    let (mut net, good) = at_request(Setup::cas(3));
    let mut missing = good.clone();
    missing.announcement = None;
    refuses(&mut net, missing, "announcement is missing");
    refuses(
        &mut net,
        with_signal(&good, &[7; 32]),
        "does not hash to the signal",
    );
    let mut other = good.clone();
    other.announcement = Some(map(&[(&net.nodes[0].dids[0], "0")]));
    refuses(&mut net, other, "does not hash to the signal");
    signs_after_all(net, good);
}

#[test]
fn cas_my_entry_is_absent_changed_or_made_up() {
    let (mut net, good) = at_request(Setup::cas(3).dids(&[2, 1, 1]));
    let dids: Vec<&MyDid> = net.nodes.iter().flat_map(|node| &node.dids).collect();
    let [mine, idle, other, _] = dids[..] else {
        unreachable!()
    };
    let absent = map(&[(other, "1")]);
    let changed = map(&[(mine, "evil"), (other, "1")]);
    let swapped = map(&[(mine, "1"), (other, "0")]);
    // My second DID said "no update".
    let made_up = map(&[(mine, "0"), (idle, "evil"), (other, "1")]);
    for text in [absent, changed, swapped, made_up] {
        let bad = with_announcement(&good, &text);
        refuses(&mut net, bad, "not what I said for");
    }
    signs_after_all(net, good);
}

#[test]
fn cas_a_bogus_entry_for_a_did_of_mine_that_this_round_does_not_cover() {
    let mut net = Net::ready(Setup::cas(3));
    net.queue(1, 0, "b");
    net.agg_input(AggregatorInput::OpenRound);
    net.run_until("response");
    // Registered while the round is open: covered from the next one on.
    let late = MyDid::k1(Network::Regtest, "late");
    net.nodes[0].dids.push(late);
    net.register(0, &[1]);
    net.hold = Some("sign_request");
    net.run();
    let Message::SignRequest(good) = net.keep_back(Dest::Member(0)).message else {
        unreachable!()
    };
    let (mine, other) = (&net.nodes[0].dids[1], &net.nodes[1].dids[0]);
    let bad = with_announcement(&good, &map(&[(mine, "evil"), (other, "b")]));
    refuses(&mut net, bad, "not what I said for");
    signs_after_all(net, good);
}

#[test]
fn cas_announcements_that_are_not_canonical_maps_of_dids() {
    let (mut net, good) = at_request(Setup::cas(3));
    let text = good.announcement.clone().unwrap();
    let mine = &net.nodes[0].dids[0].did;
    let (mine0, evil) = (update("0"), update("evil"));
    let twice = text.replacen('{', &format!("{{\"{mine}\":\"{evil}\","), 1);
    let spaced = text.replacen("\":\"", "\": \"", 1);
    let cut = text[..text.len() - 1].to_owned();
    let foreign_network = MyDid::k1(Network::Signet, "x").did;
    let foreign = text.replacen('{', &format!("{{\"{foreign_network}\":\"{evil}\","), 1);
    let no_did = text.replacen('{', &format!("{{\"did:web:a\":\"{evil}\","), 1);
    let short = text.replacen(&mine0.to_string(), "AAAA", 1);
    let number = text.replacen(&format!("\"{mine0}\""), "7", 1);
    let escaped = text.replacen("did:btcr2", "did:\\u0062tcr2", 1);
    let upper = text.replacen(&mine.to_string(), &mine.to_string().to_uppercase(), 1);
    for (text, words) in [
        (twice, "given twice"),
        (spaced, "not canonical"),
        (cut, "not a map"),
        (foreign, "not a DID"),
        (no_did, "not a DID"),
        (short, "not a map"),
        (number, "not a map"),
        (escaped, "not canonical"),
        (upper, "not a DID"),
        ("[]".to_owned(), "not a map"),
        (String::new(), "not a map"),
    ] {
        let bad = with_announcement(&good, &text);
        refuses(&mut net, bad, words);
    }
    signs_after_all(net, good);
}

#[test]
fn an_announcement_in_an_smt_cohort() {
    let (mut net, good) = at_request(Setup::smt(3));
    let mut bad = good.clone();
    bad.announcement = Some("{}".into());
    refuses(&mut net, bad, "announcement in an SMT cohort");
    signs_after_all(net, good);
}

#[test]
fn an_smt_root_that_my_proof_does_not_lead_to() {
    let (mut net, good) = at_request(Setup::smt(3));
    refuses(&mut net, with_signal(&good, &[7; 32]), "proof of my index");
    // My proofs stay as they came; the root they lead to is still good.
    signs_after_all(net, good);
}

/// The leaves of the round that is open.
fn leaves(net: &Net) -> Vec<(SmtIndex, LeafValue)> {
    match net.agg_saved.last() {
        Some(Artifact::LeafSet { leaves, .. }) => leaves.clone(),
        other => panic!("{other:?}"),
    }
}

/// A cheating aggregator's proofs and root for member 0, consistent with each other. The round has to end
/// without a signature; the next one works.
fn smt_cheat(words: &str, change: impl FnOnce(&Net, &mut Proofs) -> Option<SmtTree>) {
    let mut net = Net::ready(Setup::smt(3).dids(&[2, 1, 1]));
    for i in 0..3 {
        net.queue(i, 0, &format!("{i}"));
    }
    net.hold = Some("proofs");
    net.open();
    let Message::SignRequest(mut request) = net.last_sent("sign_request").message else {
        unreachable!()
    };
    let at = net.held.iter().position(|mail| mail.to == Dest::Member(0));
    let Message::Proofs(mut proofs) = net.held.remove(at.unwrap()).message else {
        unreachable!()
    };
    assert_eq!(proofs.proofs.len(), 2);
    let tree = change(&net, &mut proofs);
    if let Some(tree) = tree {
        request = with_signal(&request, tree.root().as_bytes());
    }
    // The member has the honest request without proofs, and waits.
    let outcome = net.tell(0, Message::SignRequest(request));
    assert_eq!(outcome, Outcome::Accepted, "still waiting for proofs");
    let outcome = net.tell(0, Message::Proofs(proofs));
    let Outcome::Ignored(Ignored::WillNotSign(reason)) = outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!(net.nodes[0].refusals(), [reason.as_str()]);
    assert!(reason.contains(words), "{reason:?} is not about {words:?}");
    assert!(net.nodes[0].core.given().is_empty());
    net.release();
    assert_eq!(net.agg.signals_signed(), 0);
    net.advance(86_401);
    assert!(matches!(
        net.agg_reports.last(),
        Some(Report::RoundFailed { .. })
    ));
    net.next_round_works();
}

#[test]
fn smt_the_proof_of_another_did() {
    smt_cheat("proof of my index", |net, proofs| {
        let tree = SmtTree::new(leaves(net)).unwrap();
        let other = net.nodes[1].dids[0].index;
        proofs.proofs[0].path = tree.prove(&other);
        None
    });
}

#[test]
fn smt_my_two_proofs_swapped() {
    smt_cheat("proof of my index", |_, proofs| {
        let first = proofs.proofs[0].path.clone();
        proofs.proofs[0].path = proofs.proofs[1].path.clone();
        proofs.proofs[1].path = first;
        None
    });
}

#[test]
fn smt_a_proof_for_one_of_my_dids_is_missing() {
    smt_cheat("no proof for my index", |_, proofs| {
        proofs.proofs.pop();
        None
    });
}

#[test]
fn smt_my_leaf_replaced_by_another_update() {
    smt_cheat("proof of my index", |net, proofs| {
        let mine = proofs.proofs[1].index;
        let mut leaves = leaves(net);
        for (index, value) in &mut leaves {
            if *index == mine {
                *value = LeafValue::from_bytes(update("evil").to_bytes());
            }
        }
        let tree = SmtTree::new(leaves).unwrap();
        for proof in &mut proofs.proofs {
            proof.path = tree.prove(&proof.index);
        }
        Some(tree)
    });
}

#[test]
fn smt_my_leaf_left_out() {
    smt_cheat("proof of my index", |net, proofs| {
        let mine = proofs.proofs[0].index;
        let mut leaves = leaves(net);
        leaves.retain(|(index, _)| *index != mine);
        let tree = SmtTree::new(leaves).unwrap();
        for proof in &mut proofs.proofs {
            proof.path = tree.prove(&proof.index);
        }
        Some(tree)
    });
}

/// A neighbour's leaf that equals Z[0] would have to be written as a hash into my proof, which is not canonical.
#[test]
fn smt_a_proof_that_writes_an_empty_sibling_as_a_hash() {
    smt_cheat("not canonical", |_, proofs| {
        let path = &mut proofs.proofs[0].path;
        // Bit 255 - n of `collapsed` belongs to level n: make the sibling at level 0 explicit.
        assert_eq!(path.collapsed[31] & 1, 1);
        path.collapsed[31] &= !1;
        path.hashes.insert(0, EMPTY_LEAF.to_bytes());
        None
    });
}

#[test]
fn a_second_transaction_for_the_same_round() {
    for beacon in [CohortBeacon::Smt, CohortBeacon::Cas] {
        let (mut net, good) = at_request(Setup::new(beacon, 3));
        // Member 0 approves the first, loses its nonce, and is asked to sign another in the next session.
        net.nodes[0].dies_at_sign = true;
        net.hold = Some("sign_request");
        assert_eq!(
            net.tell(0, Message::SignRequest(good.clone())),
            Outcome::Accepted
        );
        net.run();
        let Message::SignRequest(second) = net.keep_back(Dest::Member(0)).message else {
            unreachable!()
        };
        assert_eq!(second.attempt, 2);
        let mut bad = second.clone();
        // One satoshi more of fee: in itself as good as the first.
        tx_of(&mut bad).output[0].value -= Amount::ONE_SAT;
        let outcome = net.tell(0, Message::SignRequest(bad));
        let Outcome::Ignored(Ignored::WillNotSign(reason)) = outcome else {
            panic!("{outcome:?}")
        };
        assert!(
            reason.contains("other transactions for the same round"),
            "{reason}"
        );
        assert!(net.nodes[0].core.given().is_empty());
        signs_after_all(net, second);
    }
}

/// An aggregator that acknowledges an index for a round that is open without it: the DID binds, and the
/// signal would have no proof for it.
#[test]
fn smt_a_bound_index_that_the_round_does_not_cover() {
    let mut net = Net::ready(Setup::smt(2));
    net.hold = Some("sign_request");
    net.open();
    let late = MyDid::k1(Network::Regtest, "late");
    let index = late.index;
    net.nodes[0].dids.push(late);
    net.register(0, &[1]);
    let registered = Registered {
        items: vec![RegisteredItem {
            index,
            from_round: Some(Round(1)),
            refused: None,
        }],
        last_round: 0,
    };
    net.tell(0, Message::Registered(registered));
    assert_eq!(
        net.nodes[0].core.binding_state(&index),
        Some(BindingState::Bound)
    );
    let Message::SignRequest(request) = net.keep_back(Dest::Member(0)).message else {
        unreachable!()
    };
    refuses(&mut net, request, "is not in this round");
}

#[test]
fn a_request_for_a_round_or_session_that_was_not_offered() {
    let (mut net, good) = at_request(Setup::smt(3));
    let mut round = good.clone();
    round.round = Round(2);
    assert_eq!(
        net.tell(0, Message::SignRequest(round)),
        Outcome::Ignored(Ignored::WrongRound)
    );
    let mut beyond = good.clone();
    beyond.attempt = 1_000;
    refuses(&mut net, beyond, "no nonces were offered");
    let mut zero = good.clone();
    zero.attempt = 0;
    assert_eq!(
        net.tell(0, Message::SignRequest(zero)),
        Outcome::Ignored(Ignored::WrongSession)
    );
    let mut unlabelled = good.clone();
    unlabelled.aggregate_nonces.clear();
    refuses(&mut net, unlabelled, "its transactions and nothing else");
    let mut fewer = good.clone();
    fewer.aggregate_nonces.pop_last();
    refuses(&mut net, fewer, "its transactions and nothing else");
    let mut more = good.clone();
    let nonce = more.aggregate_nonces[&Label::SIGNAL];
    more.aggregate_nonces.insert(Label::REFUND, nonce);
    refuses(&mut net, more, "its transactions and nothing else");
    signs_after_all(net, good);
}

#[test]
fn what_is_signed_is_not_signed_again() {
    let (mut net, good) = at_request(Setup::smt(3));
    assert_eq!(
        net.tell(0, Message::SignRequest(good.clone())),
        Outcome::Accepted
    );
    // The harness would see a nonce that signs twice; the core does not even ask for it.
    assert_eq!(
        net.tell(0, Message::SignRequest(good.clone())),
        Outcome::Ignored(Ignored::Duplicate)
    );
    let mut other = good;
    tx_of(&mut other).output[0].value -= Amount::ONE_SAT;
    assert_eq!(
        net.tell(0, Message::SignRequest(other)),
        Outcome::Ignored(Ignored::Duplicate)
    );
    assert_eq!(net.nodes[0].rounds_signed(), 1);
    net.finish();
}
