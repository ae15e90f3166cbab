//! What members do not sign through the leaf, and what the aggregator does not take: the cheat is the other side.

use bitcoin::{Amount, OutPoint, Transaction};
use btcr2_agent::beacon::cas::CasAnnouncement;
use btcr2_agent::beacon::smt::SmtTree;
use btcr2_agent::hash::{LeafValue, SchnorrSignature, SignalBytes, SmtIndex};
use btcr2_agent::protocol::deposit::{Deposited, DepositedItem};
use btcr2_agent::protocol::effect::{Artifact, Ignored, Outcome, Report};
use btcr2_agent::protocol::evidence::{BlameError, Sighash};
use btcr2_agent::protocol::message::{
    Announced, Entries, FallbackRequest, FallbackSignature, Message, RefusalCode, RoundResult,
};
use btcr2_agent::protocol::participant::{Decline, ParticipantInput};
use btcr2_agent::protocol::terms::{CohortBeacon, Deposits, OutputPolicy};

use super::deposits::Life;
use super::fallback::{BEACONS, leave, setup};
use super::net::{Dest, Net, Setup};
use super::node::{key, update};

/// Two of four sign; member 3 is away, and the request to member 0 is kept back.
fn at_request(beacon: CohortBeacon) -> (Net, FallbackRequest) {
    at_request_with(beacon, 0)
}

/// The same where the members before `first` have nothing to announce.
fn at_request_with(beacon: CohortBeacon, first: usize) -> (Net, FallbackRequest) {
    let mut net = Net::ready(setup(beacon, 4, 3).decline(Decline::NoUpdate));
    for i in first..3 {
        net.queue(i, 0, &format!("{i}"));
    }
    leave(&mut net, &[3]);
    net.open();
    net.hold = Some("fallback_request");
    net.advance(61);
    let kept = net.keep_back(Dest::Member(0));
    let Message::FallbackRequest(request) = kept.message else {
        unreachable!()
    };
    assert_eq!(net.agg.signals_signed(), 0, "two of three");
    (net, request)
}

/// Puts the 32 bytes of other contents into the transaction.
fn announce(request: &mut FallbackRequest, announced: Announced) {
    let signal = match &announced {
        Announced::Smt(leaves) => SmtTree::new(leaves.iter().copied()).unwrap().root(),
        Announced::Cas(text) => SignalBytes::from_bytes(btcr2_agent::hash::sha256(text.as_bytes())),
    };
    let last = request.tx.0.output.last_mut().unwrap();
    last.script_pubkey = bitcoin::ScriptBuf::new_op_return(signal.as_bytes());
    request.announced = announced;
}

/// The same without the entry of an index, and with another value in its place if there is one.
fn with(net: &Net, announced: &Announced, of: usize, value: Option<[u8; 32]>) -> Announced {
    let did = &net.nodes[of].dids[0];
    match announced {
        Announced::Smt(leaves) => {
            let mut leaves: Vec<(SmtIndex, LeafValue)> = leaves.clone();
            leaves.retain(|(index, _)| *index != did.index);
            leaves.extend(value.map(|value| (did.index, LeafValue::from_bytes(value))));
            Announced::Smt(leaves)
        }
        Announced::Cas(text) => {
            let map = CasAnnouncement::parse_canonical(text.as_bytes(), |_| true).unwrap();
            let others = map.iter().filter(|(known, _)| *known != did.did.as_str());
            let mut all: Vec<_> = others
                .map(|(did, update)| (did.to_owned(), update))
                .collect();
            let value = value.map(btcr2_agent::hash::UpdateHash::from_bytes);
            all.extend(value.map(|value| (did.did.to_string(), value)));
            let map = CasAnnouncement::new(all, |_| true).unwrap();
            Announced::Cas(String::from_utf8(map.canonical_bytes()).unwrap())
        }
    }
}

/// Member 0 signs nothing, says why, and tells the aggregator.
fn refuses(net: &mut Net, request: FallbackRequest, words: &str) {
    net.tell(0, Message::FallbackRequest(request));
    let refusals = net.nodes[0].refusals();
    let reason = *refusals.last().unwrap_or(&"");
    assert!(reason.contains(words), "{reason:?} is not about {words:?}");
    assert!(net.nodes[0].core.given().is_empty(), "nothing was signed");
    let me = net.nodes[0].me();
    net.run();
    assert!(net.agg_reports.contains(&Report::RequestRefused {
        member: me,
        code: RefusalCode::WillNotSign
    }));
}

/// Member 0 takes it for a contradiction; the request as it should be is signed after all.
fn contradicts(mut net: Net, bad: FallbackRequest, good: FallbackRequest, words: &str) {
    let outcome = net.tell(0, Message::FallbackRequest(bad));
    let Outcome::Ignored(Ignored::Contradiction(text)) = outcome else {
        panic!("{words}: {outcome:?}")
    };
    assert!(text.contains(words), "{text:?} is not about {words:?}");
    assert_eq!(net.nodes[0].alarms().len(), 1);
    net.tell(0, Message::FallbackRequest(good));
    net.run();
    assert_eq!(net.agg.signals_signed(), 1, "{:?}", net.nodes[0].refusals());
    net.mine(1);
    assert_eq!(net.proved(0, 0), [Some(Some(update("0")))]);
}

#[test]
fn what_is_published_must_hash_to_the_signal() {
    for beacon in BEACONS {
        let (net, good) = at_request(beacon);
        let mut bad = good.clone();
        bad.announced = with(&net, &good.announced, 1, None);
        contradicts(net, bad, good, "does not hash");

        let (net, good) = at_request(beacon);
        let mut bad = good.clone();
        bad.announced = match beacon {
            CohortBeacon::Smt => Announced::Cas("{}".into()),
            CohortBeacon::Cas => Announced::Smt(Vec::new()),
        };
        contradicts(net, bad, good, "another beacon type");

        let (net, good) = at_request(beacon);
        let mut bad = good.clone();
        bad.prevouts.clear();
        contradicts(net, bad, good, "does not say what it spends");
    }
    let (net, good) = at_request(CohortBeacon::Smt);
    let mut bad = good.clone();
    if let Announced::Smt(leaves) = &mut bad.announced {
        leaves.push(leaves[0]);
    }
    contradicts(net, bad, good, "no tree");
    let (net, good) = at_request(CohortBeacon::Smt);
    let mut bad = good.clone();
    if let Announced::Smt(leaves) = &mut bad.announced {
        let value = leaves[0].1;
        let more = (0..40).map(|n| (SmtIndex::from_bytes([n; 32]), value));
        leaves.extend(more);
    }
    contradicts(net, bad, good, "more than the 32");
    let (net, good) = at_request(CohortBeacon::Cas);
    let mut bad = good.clone();
    bad.announced = Announced::Cas("{ }".into());
    contradicts(net, bad, good, "canonical");
}

/// A response that the aggregator refused over its deposits was said all the same: others can still announce it. So its
/// update stays what it is, and what they would announce is kept, and not signed.
#[test]
fn what_i_said_first_and_the_aggregator_refused() {
    for beacon in BEACONS {
        for is_told in [false, true] {
            let setup = setup(beacon, 4, 3).decline(Decline::NoUpdate);
            let mut net = Net::ready(setup.terms(|terms| terms.deposits = Deposits::Required));
            let life = Life::k1(&net, 0, 0);
            let index = life.did.index;
            // The member is told that its deposit was taken, and it was lost.
            net.hold = Some("update_deposit");
            let hash = net.deposit(0, life.deposit(&life.update("two").0));
            net.run();
            let item = DepositedItem {
                index,
                update: hash,
                anchored: Some(true),
                refused: None,
            };
            net.tell(0, Message::Deposited(Deposited { items: vec![item] }));
            leave(&mut net, &[3]);
            net.open();
            let me = net.nodes[0].me();
            let mut said = net.archive.iter().filter_map(|mail| match &mail.message {
                Message::Response(signed) if mail.from == me => Some(&signed.content.entries),
                _ => None,
            });
            let value = match said.next().unwrap() {
                Entries::Smt(entries) => entries[0].leaf.unwrap().to_bytes(),
                Entries::Cas(entries) => entries[0].update.unwrap().to_bytes(),
            };
            assert_eq!(said.count(), 1, "and another one without it");
            net.hold = Some("fallback_request");
            net.advance(61);
            let Message::FallbackRequest(mut request) = net.keep_back(Dest::Member(0)).message
            else {
                unreachable!()
            };
            if is_told {
                let announced = with(&net, &request.announced, 0, Some(value));
                announce(&mut request, announced);
                refuses(&mut net, request, "was refused");
                assert_eq!(net.nodes[0].alarms(), [""; 0], "I did submit it");
                let mut saved = net.nodes[0].saved.iter();
                let kept = saved.any(|artifact| match artifact {
                    Artifact::SmtProof { update, .. } => *update == Some(hash),
                    Artifact::Announcement { announcement, .. } => {
                        announcement.contains(&hash.to_string())
                    }
                    _ => false,
                });
                assert!(
                    kept,
                    "{beacon:?}: if it comes to the chain, it can be explained"
                );
            }
            net.advance(70);
            assert_eq!(net.nodes[0].core.open_round(), None);
            let other = life.deposit(&life.update("other").0);
            let outcome = net.input(0, ParticipantInput::Deposit(Box::new(other)));
            let Outcome::Ignored(Ignored::Contradiction(why)) = outcome else {
                panic!("another update of the same version is taken");
            };
            assert!(why.contains("not final"), "{why}");
        }
    }
}

/// Rule 3: what I submitted, nothing else, nothing less; nothing at all where I am called absent.
#[test]
fn an_index_of_mine_that_is_not_as_i_said() {
    for beacon in BEACONS {
        let (mut net, good) = at_request(beacon);
        let mut bad = good.clone();
        announce(&mut bad, with(&net, &good.announced, 0, Some([9; 32])));
        refuses(&mut net, bad, "did not submit");
        assert_eq!(
            net.nodes[0].alarms().len(),
            1,
            "it could make my DID unresolvable"
        );

        let (mut net, good) = at_request(beacon);
        let mut bad = good.clone();
        announce(&mut bad, with(&net, &good.announced, 0, None));
        refuses(&mut net, bad, "leaves out");

        let (mut net, good) = at_request(beacon);
        let mut bad = good.clone();
        let (set, _) = net.agg.set().unwrap();
        bad.absent.push(set.seat_of(&net.nodes[0].me()).unwrap());
        refuses(&mut net, bad, "absent");

        // One that is called absent and left out can sign: its response may have been lost.
        let (mut net, good) = at_request(beacon);
        let mut left_out = good.clone();
        announce(&mut left_out, with(&net, &good.announced, 0, None));
        let (set, _) = net.agg.set().unwrap();
        left_out
            .absent
            .push(set.seat_of(&net.nodes[0].me()).unwrap());
        net.tell(0, Message::FallbackRequest(left_out));
        assert_eq!(
            net.nodes[0].core.given().len(),
            1,
            "{:?}",
            net.nodes[0].refusals()
        );
    }
}

/// A leaf without an update is a leaf: who is called absent has none.
#[test]
fn a_leaf_of_mine_where_i_am_called_absent() {
    let (mut net, good) = at_request_with(CohortBeacon::Smt, 1);
    let mut bad = good.clone();
    let (set, _) = net.agg.set().unwrap();
    bad.absent.push(set.seat_of(&net.nodes[0].me()).unwrap());
    refuses(&mut net, bad, "absent");
    assert!(net.nodes[0].alarms().is_empty(), "it is what I said");

    let (mut net, good) = at_request_with(CohortBeacon::Smt, 1);
    net.tell(0, Message::FallbackRequest(good));
    assert_eq!(net.nodes[0].core.given().len(), 1, "and as it is I sign it");
}

/// Rule 2: one form of transaction, on the tip that the own chain shows, at no higher price.
#[test]
fn transactions_of_any_other_form() {
    type Change = fn(&mut Transaction);
    let cases: [(&str, Change); 6] = [
        ("lock time", |tx| {
            tx.lock_time = bitcoin::absolute::LockTime::from_consensus(1);
        }),
        ("sequence", |tx| {
            tx.input[0].sequence = bitcoin::Sequence::MAX
        }),
        ("own script", |tx| {
            tx.output[0].script_pubkey = bitcoin::ScriptBuf::new_op_return([0; 32]);
        }),
        ("fee of", |tx| tx.output[0].value = Amount::from_sat(1_000)),
        ("not unsigned", |tx| {
            tx.input[0].witness = bitcoin::Witness::from_slice(&[[0; 64]]);
        }),
        ("outputs", |tx| tx.output.insert(0, tx.output[0].clone())),
    ];
    for (words, change) in cases {
        let (mut net, good) = at_request(CohortBeacon::Smt);
        let mut bad = good.clone();
        change(&mut bad.tx.0);
        refuses(&mut net, bad, words);
    }
    // Another input than the tip may become the tip: it waits, and never signs while it is not.
    let (mut net, good) = at_request(CohortBeacon::Smt);
    let mut bad = good;
    bad.tx.0.input[0].previous_output = OutPoint::null();
    net.tell(0, Message::FallbackRequest(bad));
    assert!(net.nodes[0].refusals()[0].contains("the tip is"));
    assert!(net.nodes[0].core.given().is_empty());
}

/// The sighash comes from the own chain: what the request says of the prevouts changes nothing.
#[test]
fn prevouts_are_claims() {
    let (mut net, good) = at_request(CohortBeacon::Cas);
    let mut lying = good;
    lying.prevouts[0].value_sat = 1;
    net.tell(0, Message::FallbackRequest(lying));
    net.run();
    assert_eq!(net.agg.signals_signed(), 1);
    net.mine(1);
    assert_eq!(net.proved(0, 0), [Some(Some(update("0")))]);
}

/// Rule 4: one 32-byte value per round. Whoever signed a session of it signs no other bytes through the leaf, and
/// the other way round.
#[test]
fn other_bytes_in_the_same_round() {
    for beacon in BEACONS {
        let mut net = Net::ready(setup(beacon, 3, 2));
        for i in 0..3 {
            net.queue(i, 0, &format!("{i}"));
        }
        // Everybody has signed; the aggregator loses one partial signature, and says that the seat was absent.
        net.hold = Some("partial_signature");
        net.open();
        net.held.remove(2);
        net.release();
        net.hold = Some("fallback_request");
        net.advance(61);
        let kept = net.keep_back(Dest::Member(0));
        let Message::FallbackRequest(mut request) = kept.message else {
            unreachable!()
        };
        let announced = request.announced.clone();
        announce(&mut request, with(&net, &announced, 2, None));
        let before = net.nodes[0].core.given().len();
        net.tell(0, Message::FallbackRequest(request));
        let refusals = net.nodes[0].refusals();
        assert!(
            refusals.last().unwrap().contains("other bytes"),
            "{refusals:?}"
        );
        assert_eq!(net.nodes[0].core.given().len(), before);
    }
}

#[test]
fn a_second_fallback_and_one_without_the_term() {
    let (mut net, good) = at_request(CohortBeacon::Smt);
    net.tell(0, Message::FallbackRequest(good.clone()));
    assert_eq!(
        net.tell(0, Message::FallbackRequest(good.clone())),
        Outcome::Ignored(Ignored::Duplicate)
    );
    let mut second = good.clone();
    let others = with(&net, &good.announced, 1, None);
    announce(&mut second, others);
    let outcome = net.tell(0, Message::FallbackRequest(second));
    assert!(matches!(
        outcome,
        Outcome::Ignored(Ignored::Contradiction(text)) if text.contains("second")
    ));

    let mut plain = Net::ready(Setup::smt(3));
    plain.open();
    let outcome = plain.tell(0, Message::FallbackRequest(good));
    assert!(matches!(
        outcome,
        Outcome::Ignored(Ignored::Contradiction(text)) if text.contains("do not have")
    ));
    assert!(plain.nodes[0].saved.iter().all(|artifact| {
        !matches!(
            artifact,
            btcr2_agent::protocol::effect::Artifact::LeafSet { .. }
        )
    }));
}

/// A request of a round that is over, or after its deadline, is kept and not signed.
#[test]
fn a_request_that_comes_too_late() {
    for beacon in BEACONS {
        let (mut net, good) = at_request(beacon);
        net.advance(61);
        assert_eq!(net.agg.open_round_progress(), None, "too few signed");
        net.tell(0, Message::FallbackRequest(good));
        assert!(net.nodes[0].core.given().is_empty());
        assert_eq!(net.nodes[0].refusals(), [""; 0]);
        net.hook = None;
        net.nodes[3].sees_chain = true;
        net.sync();
        net.next_round_works();
    }
}

/// A result whose signatures do not verify, or are too few, is no result.
#[test]
fn a_result_that_is_wrong() {
    for beacon in BEACONS {
        let (mut net, good) = at_request(beacon);
        net.hold = Some("round_result");
        net.tell(0, Message::FallbackRequest(good));
        net.run();
        let Message::RoundResult(result) = net.held[0].message.clone() else {
            unreachable!()
        };
        let tx = result.tx.clone().unwrap().0;
        let with = |change: &dyn Fn(&mut Vec<Vec<u8>>)| {
            let mut tx = tx.clone();
            let mut witness = tx.input[0].witness.to_vec();
            change(&mut witness);
            tx.input[0].witness = bitcoin::Witness::from_slice(&witness);
            RoundResult {
                tx: Some(btcr2_agent::protocol::message::TxHex(tx)),
                ..result.clone()
            }
        };
        let signature = tx.input[0].witness.iter().position(|e| e.len() == 64);
        let signature = signature.unwrap();
        for bad in [
            with(&|witness| witness[signature][7] ^= 1),
            with(&|witness| witness[signature].clear()),
            with(&|witness| {
                witness.pop();
            }),
        ] {
            let outcome = net.tell(0, Message::RoundResult(bad));
            assert!(
                matches!(&outcome, Outcome::Ignored(Ignored::Contradiction(text)) if text.contains("do not verify")),
                "{outcome:?}"
            );
        }
        // The good one is taken, and member 3, to whom all mail was lost, asks for what it needs.
        net.hook = None;
        net.nodes[3].sees_chain = true;
        net.release();
        net.mine(1);
        assert_eq!(net.proved(0, 0), [Some(Some(update("0")))]);
        net.next_round_works();
    }
}

/// Rule 7: a bad signature is blamed on its sender with evidence, and does not end the round; nobody is framed.
#[test]
fn a_bad_signature_through_the_leaf() {
    for beacon in BEACONS {
        let (mut net, good) = at_request(beacon);
        net.hold = Some("fallback_signature");
        net.tell(0, Message::FallbackRequest(good));
        net.run();
        let mail = net.held.pop().unwrap();
        let Message::FallbackSignature(honest) = mail.message.clone() else {
            unreachable!()
        };
        let send = |net: &mut Net, content: FallbackSignature| {
            let signed = net.signed(0, content);
            net.say(0, Message::FallbackSignature(signed))
        };
        // For something else, or of another length: not evidence against anybody.
        let mut other = honest.content.clone();
        other.sighashes[0] = Sighash::from_bytes([1; 32]);
        assert_eq!(
            send(&mut net, other),
            Outcome::Ignored(Ignored::WrongSession)
        );
        let mut short = honest.content.clone();
        short.signatures.clear();
        assert_eq!(
            send(&mut net, short),
            Outcome::Ignored(Ignored::Refused(RefusalCode::Malformed))
        );
        let mut unsigned = honest.clone();
        unsigned.sig = Some(SchnorrSignature::from_bytes([5; 64]));
        assert_eq!(
            net.say(0, Message::FallbackSignature(unsigned)),
            Outcome::Ignored(Ignored::BadEvidence)
        );
        assert_eq!(
            net.deliver(
                key("stranger").public(),
                Dest::Aggregator,
                Message::FallbackSignature(honest.clone())
            ),
            Outcome::Ignored(Ignored::NotAMember)
        );
        // Bad for what it names itself: evidence.
        let mut bad = honest.content.clone();
        bad.signatures[0] = SchnorrSignature::from_bytes([7; 64]);
        let member = net.nodes[0].me();
        assert_eq!(send(&mut net, bad), Outcome::Blamed(member));
        let blame = net.agg_reports.iter().find_map(|report| match report {
            Report::MemberBlamed { blame, .. } => Some(blame.clone()),
            _ => None,
        });
        let blame = blame.unwrap();
        let (cohort, keys) = (net.agg.cohort(), net.agg.set().unwrap().1.clone());
        assert_eq!(blame.verify(&cohort, &keys), Ok(()));
        // The honest one is no evidence, whoever says so.
        let mut framed = blame.clone();
        if let btcr2_agent::protocol::evidence::Fault::BadFallbackSignature { signature, .. } =
            &mut framed.fault
        {
            **signature = honest.clone();
        }
        assert_eq!(framed.verify(&cohort, &keys), Err(BlameError::Valid));
        framed.member = net.nodes[1].me();
        assert_eq!(framed.verify(&cohort, &keys), Err(BlameError::NotSigned));
        // It may still send a good one, and the round ends well.
        assert_eq!(send(&mut net, honest.content.clone()), Outcome::Accepted);
        assert_eq!(
            send(&mut net, honest.content),
            Outcome::Ignored(Ignored::WrongRound),
            "the round is signed"
        );
        net.release();
        net.mine(1);
        assert_eq!(net.proved(0, 0), [Some(Some(update("0")))]);
    }
}

/// The policy is part of the address: a set whose address lacks the leaf, or has another, is not acknowledged.
#[test]
fn the_address_commits_to_the_leaf() {
    use btcr2_agent::protocol::set::{CohortSet, SetFault, fallback_leaf, key_set};
    let net = Net::ready(setup(CohortBeacon::Smt, 5, 2));
    let terms = net.agg.terms().clone();
    let (set, keys) = net.agg.set().unwrap();
    let (leaf, seats) = (fallback_leaf(&terms, keys).unwrap(), set.keys.clone());
    assert_eq!(leaf.output_key(keys.internal_key()).0, keys.output_key());
    assert_eq!(keys.script_root(), Some(leaf.merkle_root()));
    let mut addresses = vec![set.address.clone()];
    for policy in [
        OutputPolicy::Musig2KeyPath,
        OutputPolicy::KOfN(1),
        OutputPolicy::KOfN(3),
    ] {
        let mut other = terms.clone();
        other.output_policy = policy;
        let members: Vec<_> = seats.iter().map(|key| (*key, None)).collect();
        let (other_set, _) = CohortSet::build(&other, &members, None).unwrap();
        let own = net.nodes[0].me();
        assert!(matches!(
            other_set.verify(&terms, own, None),
            Err(SetFault::Address { .. })
        ));
        assert!(!addresses.contains(&other_set.address));
        addresses.push(other_set.address);
    }
    // No leaf of more signatures than there are seats.
    let mut greedy = terms;
    greedy.output_policy = OutputPolicy::KOfN(6);
    assert!(matches!(key_set(&greedy, &seats), Err(SetFault::Leaf(_))));
}
