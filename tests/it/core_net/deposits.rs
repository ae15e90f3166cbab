//! Deposits: members that show the aggregator what they announce, beside members that do not.

use btcr2_agent::beacon::smt::Leaf;
use btcr2_agent::did::{
    Document, DocumentPatch, SignedUpdate, UnsignedUpdate, initial_key_document,
};
use btcr2_agent::hash::UpdateHash;
use btcr2_agent::protocol::Round;
use btcr2_agent::protocol::aggregator::{Aggregator, AggregatorInput};
use btcr2_agent::protocol::deposit::{DepositCode, DepositRefused, UpdateDeposit};
use btcr2_agent::protocol::effect::{Artifact, Ignored, Outcome, Report};
use btcr2_agent::protocol::message::{Entries, Message, RefusalCode, Refused, Response};
use btcr2_agent::protocol::participant::{Decline, DepositState, ParticipantInput};
use btcr2_agent::protocol::terms::{CohortBeacon, Deposits};

use super::net::{Dest, Net, Setup};
use super::node::{MyDid, update};

pub const BEACONS: [CohortBeacon; 2] = [CohortBeacon::Smt, CohortBeacon::Cas];

/// A DID of a member with its documents and updates so far.
pub struct Life {
    pub did: MyDid,
    pub document: Document,
    pub version: u64,
}

impl Life {
    /// The k1 DID that a member of the net has by number.
    pub fn k1(net: &Net, i: usize, j: usize) -> Self {
        let did = MyDid::k1(net.agg.terms().network, &format!("did {i} {j}"));
        let document = initial_key_document(&did.did).unwrap();
        Self {
            did,
            document,
            version: 1,
        }
    }

    /// A new x1 DID that lists the beacon.
    pub fn x1(net: &Net, name: &str) -> Self {
        let did = MyDid::x1(net, name);
        let genesis = did.genesis.as_ref().unwrap();
        let document = genesis.document(did.did.network()).unwrap();
        Self {
            did,
            document,
            version: 1,
        }
    }

    /// Signs an update that adds a service.
    pub fn update(&self, name: &str) -> (SignedUpdate, Document) {
        let service = serde_json::json!({
            "id": format!("{}#{name}", self.did.did),
            "type": "Example",
            "serviceEndpoint": format!("https://example.com/{name}"),
        });
        let patch = serde_json::json!([{ "op": "add", "path": "/service/-", "value": service }]);
        self.patched(&patch)
    }

    pub fn patched(&self, patch: &serde_json::Value) -> (SignedUpdate, Document) {
        let patch = DocumentPatch::from_value(patch).unwrap();
        let unsigned = UnsignedUpdate::new(&self.document, self.version, &patch).unwrap();
        let target = unsigned.target().clone();
        let method = self.document.invocation_methods().next().unwrap();
        (unsigned.sign(&self.did.key, &method.id).unwrap(), target)
    }

    pub fn deposit(&self, update: &SignedUpdate) -> UpdateDeposit {
        UpdateDeposit::new(update, &self.document, self.did.genesis.as_ref()).unwrap()
    }

    /// The update is announced: the DID goes on from there.
    pub fn goes_on(&mut self, target: Document) {
        self.document = target;
        self.version += 1;
    }
}

/// Terms under which deposits are taken.
pub fn taking(beacon: CohortBeacon, n: usize, deposits: Deposits) -> Setup {
    Setup::new(beacon, n).terms(|terms| terms.deposits = deposits)
}

impl Net {
    /// Deposits and queues an update; nothing is delivered yet.
    pub fn deposit(&mut self, i: usize, deposit: UpdateDeposit) -> UpdateHash {
        let (index, update) = (deposit.did.smt_index(), deposit.hash);
        let input = ParticipantInput::Deposit(Box::new(deposit));
        assert_eq!(self.input(i, input), Outcome::Accepted);
        let queue = ParticipantInput::Queue { index, update };
        assert_eq!(self.input(i, queue), Outcome::Accepted);
        update
    }

    /// Registers a further DID of a member, whose net is ready.
    pub fn add_did(&mut self, i: usize, life: &Life) -> usize {
        let mut did = MyDid::k1(life.did.did.network(), "any");
        did.did = life.did.did.clone();
        did.index = life.did.index;
        did.key = btcr2_agent::keys::OwnKey::from_bytes(
            &life.did.key.keypair().secret_key().secret_bytes(),
        )
        .unwrap();
        did.genesis.clone_from(&life.did.genesis);
        self.nodes[i].dids.push(did);
        let j = self.nodes[i].dids.len() - 1;
        self.register(i, &[j]);
        self.run();
        j
    }

    pub fn deposit_state(&self, i: usize, update: UpdateHash) -> Option<DepositState> {
        let node = &self.nodes[i];
        let of = |did: &MyDid| node.core.deposit_of(&did.index, update).cloned();
        node.dids.iter().find_map(of)
    }

    /// The last response of a member.
    pub fn response_of(&self, i: usize) -> Response {
        let me = self.nodes[i].me();
        let mut all = self.archive.iter().rev();
        all.find_map(|mail| match &mail.message {
            Message::Response(signed) if mail.from == me => Some(signed.content.clone()),
            _ => None,
        })
        .unwrap()
    }

    /// What the last response of a member says for one of its DIDs, and whether it shows what the leaf is
    /// made of.
    fn said(&self, i: usize, j: usize) -> (Option<UpdateHash>, bool) {
        let did = &self.nodes[i].dids[j];
        let response = self.response_of(i);
        match response.entries {
            Entries::Cas(entries) => {
                let entry = entries.iter().find(|entry| entry.did == did.did).unwrap();
                (entry.update, false)
            }
            Entries::Smt(entries) => {
                let entry = entries
                    .iter()
                    .find(|entry| entry.index == did.index)
                    .unwrap();
                let round = self.nodes[i].core.open_round_now().unwrap();
                let said = round.said.iter().find(|(index, ..)| *index == did.index);
                let update = said.unwrap().1;
                let nonce = super::node::smt_nonce(self.nodes[i].me(), round.round, &did.index);
                let leaf = Leaf {
                    nonce: Some(nonce),
                    update,
                };
                assert_eq!(entry.leaf, Some(leaf.value()));
                if let Some(opened) = entry.opened {
                    assert_eq!((opened.nonce, opened.update), (Some(nonce), update));
                }
                (update, entry.opened.is_some())
            }
        }
    }

    fn taken(&self) -> Vec<(UpdateHash, u64, bool)> {
        let reports = self.agg_reports.iter();
        reports
            .filter_map(|report| match report {
                Report::DepositTaken {
                    update,
                    version,
                    anchored,
                    ..
                } => Some((*update, *version, *anchored)),
                _ => None,
            })
            .collect()
    }
}

fn refused_with(net: &Net, i: usize) -> Vec<DepositCode> {
    let reports = net.nodes[i].reports.iter();
    reports
        .filter_map(|report| match report {
            Report::MyDepositRefused { code, .. } => Some(*code),
            _ => None,
        })
        .collect()
}

/// Member 0 deposits for a k1 and an x1 DID, member 1 announces a hash, member 2 nothing; over three versions.
#[test]
fn deposited_updates_and_bare_hashes_are_announced_together() {
    for beacon in BEACONS {
        let mut net = Net::ready(taking(beacon, 3, Deposits::Accepted));
        let mut key = Life::k1(&net, 0, 0);
        let mut external = Life::x1(&net, "external");
        let j = net.add_did(0, &external);
        let mut announced = Vec::new();
        for version in 2..=4_u64 {
            let name = format!("v{version}");
            let (first, first_target) = key.update(&name);
            let (second, second_target) = external.update(&name);
            let a = net.deposit(0, key.deposit(&first));
            let b = net.deposit(0, external.deposit(&second));
            net.queue(1, 0, &name);
            net.run();
            // Verified before any round opens.
            assert_eq!(net.agg.deposits_waiting(), 2);
            for hash in [a, b] {
                let accepted = DepositState::Accepted { anchored: true };
                assert_eq!(net.deposit_state(0, hash), Some(accepted));
            }
            net.hold = Some("sign_request");
            net.open();
            let is_smt = beacon == CohortBeacon::Smt;
            assert_eq!(net.said(0, 0), (Some(a), is_smt));
            assert_eq!(net.said(0, j), (Some(b), is_smt));
            // What was not deposited is not disclosed.
            assert_eq!(net.said(1, 0), (Some(update(&name)), false));
            assert_eq!(net.said(2, 0), (None, false));
            net.release();
            net.mine(6);
            announced.push((a, b, update(&name)));
            assert_eq!(net.agg.deposits_waiting(), 0);
            assert_eq!(
                net.taken().split_off(net.taken().len() - 2),
                [(a, version, true), (b, version, true)]
            );
            // The bytes that hash to what is on the chain are kept.
            for signed in [&first, &second] {
                let text = String::from_utf8(signed.canonical_bytes()).unwrap();
                assert!(net.agg_saved.iter().any(|artifact| matches!(
                    artifact,
                    Artifact::Deposit { hash, update, .. }
                        if *hash == signed.hash() && *update == text
                )));
            }
            key.goes_on(first_target);
            external.goes_on(second_target);
        }
        assert_eq!(net.agg.signals_signed(), 3);
        let of = |pick: fn(&(UpdateHash, UpdateHash, UpdateHash)) -> UpdateHash| {
            let proved = announced.iter().map(pick);
            proved.map(|hash| Some(Some(hash))).collect::<Vec<_>>()
        };
        assert_eq!(net.proved(0, 0), of(|all| all.0));
        assert_eq!(net.proved(0, j), of(|all| all.1));
        assert_eq!(net.proved(1, 0), of(|all| all.2));
        // The genesis document came along once, with the first update.
        let genesis: Vec<_> = net
            .agg_saved
            .iter()
            .filter_map(|artifact| match artifact {
                Artifact::Deposit { genesis, .. } => genesis.clone(),
                _ => None,
            })
            .collect();
        let document = external.did.genesis.as_ref().unwrap();
        let text = String::from_utf8(document.canonical_bytes()).unwrap();
        assert_eq!(genesis, [(external.did.did.clone(), text)]);
        net.next_round_works();
    }
}

/// What the aggregator has not seen the beginning of, it can not anchor: it says so, and takes it.
#[test]
fn a_source_that_the_aggregator_can_not_know_is_taken_and_said_to_be_so() {
    for beacon in BEACONS {
        let mut net = Net::ready(taking(beacon, 2, Deposits::Accepted));
        let mut life = Life::k1(&net, 0, 0);
        // Version 2 was announced by its hash alone.
        let (second, target) = life.update("two");
        let (index, update) = (life.did.index, second.hash());
        net.input(0, ParticipantInput::Queue { index, update });
        net.round();
        net.mine(6);
        life.goes_on(target);
        for (name, anchored) in [("three", false), ("four", true)] {
            let (signed, target) = life.update(name);
            let hash = net.deposit(0, life.deposit(&signed));
            net.run();
            let accepted = DepositState::Accepted { anchored };
            assert_eq!(net.deposit_state(0, hash), Some(accepted));
            assert_eq!(net.taken().last().unwrap().2, anchored);
            net.round();
            net.mine(6);
            life.goes_on(target);
        }
        assert_eq!(net.agg.signals_signed(), 3);
    }
}

/// Where the terms require deposits, leaves without an update are opened too: unopened, an update could hide.
#[test]
fn required_deposits() {
    for beacon in BEACONS {
        let mut net = Net::ready(taking(beacon, 2, Deposits::Required));
        let life = Life::k1(&net, 0, 0);
        let (signed, _) = life.update("two");
        let (index, update) = (life.did.index, signed.hash());
        let outcome = net.input(0, ParticipantInput::Queue { index, update });
        let Outcome::Ignored(Ignored::Contradiction(why)) = outcome else {
            panic!("{outcome:?}")
        };
        assert!(why.contains("require"), "{why}");
        let hash = net.deposit(0, life.deposit(&signed));
        net.run();
        net.hold = Some("sign_request");
        net.open();
        let is_smt = beacon == CohortBeacon::Smt;
        assert_eq!(net.said(0, 0), (Some(hash), is_smt));
        assert_eq!(net.said(1, 0), (None, is_smt));
        net.finish();
        assert_eq!(net.proved(0, 0), [Some(Some(hash)), Some(None)]);
    }
}

/// The deposit is on its way when the round opens: the response waits for the verdict, not for long.
#[test]
fn a_response_waits_for_the_verdict() {
    for beacon in BEACONS {
        let mut net = Net::ready(taking(beacon, 2, Deposits::Accepted));
        let life = Life::k1(&net, 0, 0);
        let hash = net.deposit(0, life.deposit(&life.update("two").0));
        net.hold = Some("update_deposit");
        net.open();
        assert_eq!(net.agg.open_round_progress().unwrap().1, 1);
        assert_eq!(net.nodes[0].core.deadline(), Some(net.now.plus(121)));
        net.advance(100);
        assert_eq!(net.agg.open_round_progress().unwrap().1, 1);
        net.release();
        assert_eq!(net.agg.signals_signed(), 1);
        assert_eq!(net.nodes[0].core.deadline(), None);
        net.mine(1);
        assert_eq!(net.proved(0, 0), [Some(Some(hash))]);
    }
}

#[test]
fn without_a_verdict_the_response_goes_out_without_the_update() {
    for beacon in BEACONS {
        for (response, patience) in [(43_200, 120), (60, 30)] {
            let setup = taking(beacon, 2, Deposits::Accepted);
            let mut net = Net::ready(setup.terms(|terms| terms.response_seconds = response));
            let life = Life::k1(&net, 0, 0);
            let hash = net.deposit(0, life.deposit(&life.update("two").0));
            net.hold = Some("update_deposit");
            net.open();
            net.advance(patience);
            assert_eq!(net.agg.signals_signed(), 0);
            net.advance(1);
            assert_eq!(
                net.agg.signals_signed(),
                1,
                "the round did not wait any longer"
            );
            // It stays queued, and is announced as soon as the verdict is there.
            net.release();
            net.mine(1);
            assert_eq!(net.nodes[0].core.waiting_updates(), 1);
            net.round();
            assert_eq!(net.proved(0, 0), [Some(None), Some(Some(hash))]);
        }
    }
}

/// Restarts of a member, whose nonces are lost, at each point of the way.
#[test]
fn a_member_that_restarts_announces_what_it_deposited() {
    for beacon in BEACONS {
        for held in ["update_deposit", "deposited", "response", "sign_request"] {
            let mut net = Net::ready(taking(beacon, 2, Deposits::Accepted));
            let life = Life::k1(&net, 0, 0);
            let hash = net.deposit(0, life.deposit(&life.update("two").0));
            net.hold = Some(held);
            net.open();
            net.restart(0);
            net.run();
            net.release();
            assert_eq!(net.agg.signals_signed(), 1, "{held}");
            net.mine(1);
            assert_eq!(net.proved(0, 0), [Some(Some(hash))], "{held}");
        }
    }
}

/// The aggregator's process dies between deposit and announcement: its log brings everything back.
#[test]
fn an_aggregator_that_restarts_knows_the_deposits() {
    for beacon in BEACONS {
        let mut net = Net::ready(taking(beacon, 2, Deposits::Required));
        let life = Life::k1(&net, 0, 0);
        let hash = net.deposit(0, life.deposit(&life.update("two").0));
        net.run();
        let mut again = Aggregator::new(net.agg.terms().clone());
        for (at, input, _) in &net.agg_log {
            let text = serde_json::to_string(input).unwrap();
            let input: AggregatorInput = serde_json::from_str(&text).unwrap();
            let _ = again.handle(*at, input);
        }
        net.agg = again;
        net.round();
        assert_eq!(net.proved(0, 0), [Some(Some(hash))]);
    }
}

/// The aggregator lost a deposit that it took: the member is told, responds without it, and deposits again.
#[test]
fn an_aggregator_that_lost_a_deposit_gets_it_again() {
    for beacon in BEACONS {
        let mut net = Net::ready(taking(beacon, 3, Deposits::Required));
        let life = Life::k1(&net, 0, 0);
        net.hold = Some("update_deposit");
        let hash = net.deposit(0, life.deposit(&life.update("two").0));
        net.run();
        // As if it had been taken by a store that was lost since.
        let item = btcr2_agent::protocol::deposit::DepositedItem {
            index: life.did.index,
            update: hash,
            anchored: Some(true),
            refused: None,
        };
        let deposited = btcr2_agent::protocol::deposit::Deposited { items: vec![item] };
        net.tell(0, Message::Deposited(deposited));
        net.held.clear();
        net.hold = None;
        net.open();
        // The round did not wait for anybody.
        assert_eq!(net.agg.signals_signed(), 1);
        assert!(net.nodes[0].reports.contains(&Report::MyRequestRefused {
            of: "response".into(),
            code: RefusalCode::DepositRequired,
        }));
        net.mine(1);
        assert_eq!(
            net.deposit_state(0, hash),
            Some(DepositState::Accepted { anchored: true })
        );
        net.round();
        assert_eq!(net.proved(0, 0), [Some(None), Some(Some(hash))]);
    }
}

/// A deposit that is refused after the response with it was taken, and signed all the same: what was signed
/// stays what it is (rule 10).
#[test]
fn an_update_that_was_signed_is_not_given_back() {
    for beacon in BEACONS {
        let mut net = Net::ready(taking(beacon, 2, Deposits::Accepted));
        let life = Life::k1(&net, 0, 0);
        let index = life.did.index;
        let hash = net.deposit(0, life.deposit(&life.update("two").0));
        net.run();
        net.hold = Some("sign_request");
        net.open();
        let refused = DepositRefused {
            code: DepositCode::BadSignature,
            reason: "no".into(),
        };
        let item = btcr2_agent::protocol::deposit::DepositedItem {
            index,
            update: hash,
            anchored: None,
            refused: Some(refused),
        };
        let deposited = btcr2_agent::protocol::deposit::Deposited { items: vec![item] };
        net.tell(0, Message::Deposited(deposited));
        let state = net.nodes[0].core.update_state(&index);
        assert_eq!(
            state,
            Some((hash, false)),
            "the aggregator holds a response"
        );
        net.release();
        assert_eq!(net.agg.signals_signed(), 1);
        // Signed for: no other update to the version is queued until this is final.
        let (other, _) = life.update("other");
        let update = other.hash();
        let outcome = net.input(0, ParticipantInput::Queue { index, update });
        assert!(matches!(
            outcome,
            Outcome::Ignored(Ignored::Contradiction(_))
        ));
        net.mine(1);
        assert_eq!(net.nodes[0].core.update_state(&index), Some((hash, true)));
        assert_eq!(net.proved(0, 0), [Some(Some(hash))]);
    }
}

/// A refusal of the response over deposits that has no ground is answered once, and nothing comes of it.
#[test]
fn a_response_is_made_anew_once() {
    let mut net = Net::ready(taking(CohortBeacon::Smt, 2, Deposits::Accepted));
    let life = Life::k1(&net, 0, 0);
    let hash = net.deposit(0, life.deposit(&life.update("two").0));
    net.run();
    net.hold = Some("response");
    net.open();
    let refused = Message::Refused(Refused {
        of: "response".into(),
        code: RefusalCode::DepositRequired,
        round: Some(Round(1)),
    });
    let responses = |net: &Net| {
        let me = net.nodes[0].me();
        let sent = net.archive.iter().filter(|mail| mail.from == me);
        sent.filter(|mail| mail.message.type_name() == "response")
            .count()
    };
    assert_eq!(responses(&net), 1);
    let late = Message::Refused(Refused {
        of: "response".into(),
        code: RefusalCode::DepositRequired,
        round: Some(Round(7)),
    });
    net.tell(0, late);
    assert_eq!(responses(&net), 1, "another round");
    net.tell(0, refused.clone());
    assert_eq!(responses(&net), 2);
    net.tell(0, refused);
    assert_eq!(responses(&net), 2);
    // The aggregator takes the first, which announces; the member stands by the second, and does not sign.
    net.run();
    net.release();
    assert_eq!(net.agg.signals_signed(), 0);
    assert_eq!(net.nodes[0].refusals().len(), 1);
    net.advance(100_000);
    // Nothing was signed: it is announced in the next round.
    net.round();
    assert_eq!(net.proved(0, 0), [Some(Some(hash))]);
}

/// A withdrawn deposit is announced by nobody; another update takes its place.
#[test]
fn the_choice_is_per_update() {
    for beacon in BEACONS {
        let mut net = Net::ready(taking(beacon, 2, Deposits::Accepted).decline(Decline::Idle));
        let life = Life::k1(&net, 0, 0);
        let index = life.did.index;
        let deposited = net.deposit(0, life.deposit(&life.update("shown").0));
        net.run();
        assert_eq!(
            net.input(0, ParticipantInput::Withdraw { index }),
            Outcome::Accepted
        );
        let (hidden, _) = life.update("hidden");
        let update = hidden.hash();
        net.input(0, ParticipantInput::Queue { index, update });
        net.hold = Some("sign_request");
        net.open();
        assert_eq!(net.said(0, 0), (Some(update), false));
        net.finish_without_next();
        assert_eq!(net.proved(0, 0), [Some(Some(update))]);
        assert_ne!(deposited, update);
        assert_eq!(refused_with(&net, 0), []);
    }
}

impl Net {
    fn finish_without_next(&mut self) {
        self.release();
        assert_eq!(self.agg.signals_signed(), 1);
        self.mine(1);
    }
}

/// Mail in any order, everything twice.
#[test]
fn in_any_order_and_twice() {
    for beacon in BEACONS {
        for seed in 0..12 {
            let mut net = Net::ready(taking(beacon, 3, Deposits::Required));
            net.duplicate = true;
            net.shuffle = Some(seed);
            let hashes: Vec<UpdateHash> = (0..2)
                .map(|i| {
                    let life = Life::k1(&net, i, 0);
                    net.deposit(i, life.deposit(&life.update("two").0))
                })
                .collect();
            net.open();
            assert_eq!(net.agg.signals_signed(), 1, "{seed}");
            net.mine(1);
            for (i, hash) in hashes.into_iter().enumerate() {
                assert_eq!(net.proved(i, 0), [Some(Some(hash))], "{seed}");
            }
        }
    }
}

/// A deposit reaches the aggregator only; others learn nothing of it.
#[test]
fn only_the_aggregator_sees_a_deposit() {
    let mut net = Net::ready(taking(CohortBeacon::Smt, 3, Deposits::Accepted));
    let life = Life::k1(&net, 0, 0);
    let (signed, _) = life.update("two");
    let secret = signed.hash().to_string();
    net.deposit(0, life.deposit(&signed));
    net.round();
    for mail in &net.archive {
        if !matches!(mail.to, Dest::Aggregator | Dest::Member(0)) {
            let body = mail.message.body().unwrap();
            assert!(!body.get().contains(&secret));
            assert!(!body.get().contains(life.did.did.as_str()));
        }
    }
}
