//! The examples of docs/protocol.md: one coherent cohort of fixed keys, one of every message type.
//!
//! Each fenced block that follows a `<!-- example: NAME -->` line in the document is compared with what
//! the library makes, and read back. `UPDATE_DOCS=1 cargo test --test it protocol_doc` rewrites them.

mod fallback;
mod refunds;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bitcoin::hashes::Hash as _;
use bitcoin::{Amount, FeeRate, OutPoint, Txid};
use btcr2_agent::beacon::address::beacon_script;
use btcr2_agent::beacon::cas::CasAnnouncement;
use btcr2_agent::beacon::signal::{
    BeaconOutput, DUST_LIMIT, MAX_INPUTS, WEIGHT_OF_INPUT, WEIGHT_WITH_CHANGE,
    WEIGHT_WITHOUT_CHANGE,
};
use btcr2_agent::beacon::smt::{EMPTY_LEAF, Leaf, SmtTree};
use btcr2_agent::did::json::MAX_DEPTH;
use btcr2_agent::did::{
    BeaconKind, Did, DocumentPatch, GenesisDocument, KeyAddress, UnsignedUpdate,
    initial_key_document,
};
use btcr2_agent::hash::{
    CohortId, SchnorrSignature, SmtIndex, SmtNonce, UpdateHash, sha256, to_base64url, to_hex,
};
use btcr2_agent::keys::musig::{
    KeySet, PartialSignature, PublicNonce, aggregate_nonces, aggregate_partials, verify_partial,
};
use btcr2_agent::keys::{InviteCode, NostrKey, OwnKey};
use btcr2_agent::network::Network;
use btcr2_agent::nostr::advert::{AdvertDraft, AdvertStatus, ShareLink};
use btcr2_agent::nostr::chunks::{CHUNK, CHUNK_BYTES, MAX_TOTAL, MAX_WHOLE};
use btcr2_agent::nostr::envelope::{ACK, Ack, AckOf, Envelope, Incarnation, MAX_ACKS, MAX_ALSO};
use btcr2_agent::nostr::event::{Event, KIND_DIRECTED, MAX_RECEIVED_BYTES, MAX_SENT_BYTES};
use btcr2_agent::nostr::lanes::{MAX_LANES, WINDOW};
use btcr2_agent::nostr::seal::{ChannelKey, ConversationKeys, MAX_PLAINTEXT};
use btcr2_agent::nostr::{RelayUrl, VerifiedEvent, advert, envelope};
use btcr2_agent::protocol::admission::{self, Ticket, Vouch, VouchAs, vouch_digest};
use btcr2_agent::protocol::deposit::{
    DepositCode, DepositFault, Deposited, DepositedItem, MAX_DEPOSIT_BYTES, UpdateDeposit,
    verify_deposit,
};
use btcr2_agent::protocol::evidence::{
    Blame, Evidence, Fault, LabelContext, Signed, commitment, evidence_digest,
};
use btcr2_agent::protocol::ladder::{Ground, Ladder, SignedRung, rates};
use btcr2_agent::protocol::message::{
    Accept, CasEntry, CohortAck, EndCause, Ended, Entries, Frozen, History, HistoryItem,
    HistoryRequest, IndexChallenge, IndexOpening, IndexProof, Invite, KeptProof, KeptProofs,
    KeptSignal, Leave, LostSession, MAX_RAW_DEPTH, Message, NonceRequest, NonceUpdate, Nonces,
    Opening, OptIn, Partials, PrevoutInfo, ProofRequest, Proofs, RawJson, RefusalCode, Refused,
    Register, RegisterItem, Registered, RegisteredItem, Rejected, Relays, Release, Response,
    RoundCause, RoundFailed, RoundOpen, RoundRequest, RoundResult, SeatRequest, SeatState,
    SignRequest, SmtEntry, Subscribe, TxHex, Waiting,
};
use btcr2_agent::protocol::reform::{LeftOut, Reform};
use btcr2_agent::protocol::registration::{MAX_GENESIS_BYTES, registration_digest, verify_opening};
use btcr2_agent::protocol::set::CohortSet;
use btcr2_agent::protocol::terms::{CohortBeacon, MAX_TERMS_BYTES, Salt, Terms};
use btcr2_agent::protocol::{Label, Round, Seat};
use btcr2_agent::time::UnixTime;
use nostr::nips::nip44::v2;
use serde_json::json;

/// When everything in the examples happens.
const NOW: UnixTime = UnixTime(1_800_000_000);

/// Types that the runtime adds to [`Message::TYPES`]: they never reach the core.
const CARRIER_TYPES: [&str; 4] = ["channel_key", "parts", CHUNK, ACK];

fn secret(name: &str) -> [u8; 32] {
    sha256(format!("btcr2 example {name}").as_bytes())
}

fn key(name: &str) -> OwnKey {
    OwnKey::from_bytes(&secret(name)).unwrap()
}

/// BIP-340 with 32 zero bytes of auxiliary randomness: the same signature every time.
fn sign(key: &OwnKey, digest: &[u8; 32]) -> SchnorrSignature {
    let message = secp256k1::Message::from_digest(*digest);
    let signature =
        secp256k1::SECP256K1.sign_schnorr_with_aux_rand(&message, key.keypair(), &[0; 32]);
    SchnorrSignature::from_bytes(signature.serialize())
}

fn signed<T: Evidence>(cohort: &CohortId, key: &OwnKey, content: T) -> Signed<T> {
    let mut signed = Signed::unsigned(content);
    signed.sign_with(cohort, |digest| sign(key, digest));
    assert!(signed.verifies(cohort, key.public()));
    signed
}

/// An event signed without randomness.
fn event(key: &OwnKey, mut event: Event) -> VerifiedEvent {
    event.id = event.computed_id();
    event.sig = sign(key, event.id.as_bytes());
    event.verify().unwrap()
}

/// NIP-44 with a fixed nonce. Never outside an example.
fn seal(own: &OwnKey, peer: NostrKey, plaintext: &[u8], nonce: &str) -> String {
    struct Fixed([u8; 32]);
    impl rand::RngCore for Fixed {
        fn next_u32(&mut self) -> u32 {
            unreachable!()
        }
        fn next_u64(&mut self) -> u64 {
            unreachable!()
        }
        fn fill_bytes(&mut self, bytes: &mut [u8]) {
            bytes.copy_from_slice(&self.0);
        }
        fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), rand::Error> {
            self.fill_bytes(bytes);
            Ok(())
        }
    }
    let conversation = v2::ConversationKey::derive(
        &nostr::SecretKey::from(own.keypair().secret_key()),
        &nostr::PublicKey::from(peer.x_only()),
    )
    .unwrap();
    let payload =
        v2::encrypt_to_bytes_with_rng(&mut Fixed(secret(nonce)), &conversation, plaintext).unwrap();
    STANDARD.encode(payload)
}

/// A secret nonce of the examples: BIP-327 NonceGen with a seed anybody can compute. Never outside one.
fn secret_nonce(member: usize, attempt: u32, label: Label) -> musig2::SecNonce {
    let seed = secret(&format!(
        "nonce of member {member}, session {attempt}, {label}"
    ));
    let own = key(&format!("member {member}"));
    musig2::SecNonce::build_with_seckey(seed, scalar(&own)).build()
}

/// A secret as the `musig2` crate has it, which stands on another version of `secp256k1`.
fn scalar(own: &OwnKey) -> musig2::secp::Scalar {
    musig2::secp::Scalar::from_slice(&own.keypair().secret_bytes()).unwrap()
}

fn point(key: &NostrKey) -> musig2::secp::Point {
    musig2::secp::Point::from_slice(&key.even_point().serialize()).unwrap()
}

fn nonces(member: usize, attempt: u32) -> Nonces {
    let public = |label| {
        let nonce = secret_nonce(member, attempt, label).public_nonce();
        (label, PublicNonce::from_bytes(&nonce.serialize()).unwrap())
    };
    Label::of_round(3, 1, true)
        .into_iter()
        .map(public)
        .collect()
}

/// One cohort of two members, up to its first signal.
struct Cohort {
    terms: Terms,
    id: CohortId,
    set: CohortSet,
    keys: KeySet,
    ladder: Ladder,
    contexts: BTreeMap<Label, LabelContext>,
    tree: SmtTree,
    announcement: String,
}

/// Terms of a cohort in the place of another.
fn others(cohort: &Cohort) -> Terms {
    Terms {
        salt: Salt::from_bytes(secret("another salt")[..16].try_into().unwrap()),
        seats_min: 1,
        seats_max: 1,
        invite_only: true,
        ..cohort.terms.clone()
    }
}

/// The work of member 0's opt-in: the least number that shows 16 bits.
fn work() -> u64 {
    let cohort = Cohort::new(CohortBeacon::Smt).id;
    admission::mine(&cohort, key("member 0").public(), 16).unwrap()
}

fn code() -> InviteCode {
    InviteCode::from_bytes(secret("code")[..16].try_into().unwrap())
}

/// The word of a code for member 0's key.
fn code_vouch(cohort: &CohortId) -> Vouch {
    let (code, seat) = (code().key_in(cohort), key("member 0").public());
    let sig = sign(&code, &vouch_digest(VouchAs::Code, cohort, seat));
    let vouch = Vouch {
        key: code.public(),
        sig,
    };
    assert!(vouch.verifies(VouchAs::Code, cohort, seat));
    vouch
}

fn update() -> UpdateHash {
    UpdateHash::from_bytes(secret("signed update of did 0"))
}

fn smt_nonce(member: usize) -> SmtNonce {
    SmtNonce::from_bytes(secret(&format!("SMT nonce of did {member}, round 1")))
}

fn leaf(member: usize) -> Leaf {
    Leaf {
        nonce: Some(smt_nonce(member)),
        update: (member == 0).then(update),
    }
}

fn did(member: usize) -> Did {
    Did::from_key(
        Network::Regtest,
        &key(&format!("did {member}")).public().even_point(),
    )
}

fn announcement() -> CasAnnouncement {
    CasAnnouncement::new([(did(0).to_string(), update())], |_| true).unwrap()
}

/// A signed update of did 0, deposited. Not the one that the other examples announce.
fn deposit() -> UpdateDeposit {
    let source = initial_key_document(&did(0)).unwrap();
    let patch = json!([{
        "op": "add",
        "path": "/service/-",
        "value": {
            "id": format!("{}#files", did(0)),
            "type": "LinkedDomains",
            "serviceEndpoint": "https://example.com",
        },
    }]);
    let patch = DocumentPatch::from_value(&patch).unwrap();
    let update = UnsignedUpdate::new(&source, 1, &patch)
        .unwrap()
        .sign_with_aux(key("did 0").keypair(), "#initialKey", &[0; 32])
        .unwrap();
    let deposit = UpdateDeposit::new(&update, &source, None).unwrap();
    verify_deposit(Network::Regtest, NOW, &deposit).unwrap();
    deposit
}

impl Cohort {
    fn new(beacon: CohortBeacon) -> Self {
        let mut terms = Terms::with_defaults(
            key("aggregator").public(),
            Network::Regtest,
            beacon,
            Salt::from_bytes(secret("salt")[..16].try_into().unwrap()),
            NOW.plus(86_400),
        );
        terms.name = "garden".into();
        let members: Vec<_> = (0..2)
            .map(|i| (key(&format!("member {i}")).public(), None))
            .collect();
        let payee = beacon_script(key("payee").public().x_only());
        let (set, keys) = CohortSet::build(&terms, &members, Some(&payee)).unwrap();
        let tree = SmtTree::new((0..2).map(|i| (did(i).smt_index(), leaf(i).value()))).unwrap();
        let announcement = announcement();
        let signal = match beacon {
            CohortBeacon::Smt => tree.root(),
            CohortBeacon::Cas => announcement.signal_bytes(),
        };
        let tip = BeaconOutput {
            outpoint: OutPoint::new(Txid::from_byte_array(secret("funding")), 1),
            value: Amount::from_sat(100_000),
            height: None,
        };
        let vb = |rate| FeeRate::from_sat_per_vb(rate).unwrap();
        let ground = Ground {
            script: &beacon_script(keys.output_key()),
            lock_blocks: terms.refund_blocks,
            payees: &set.refund_scripts(&terms),
        };
        let rates = rates(vb(2), &terms.fee_ladder, vb(terms.max_fee_rate.into()));
        assert_eq!(rates, [vb(2), vb(6), vb(20)]);
        let ladder = Ladder::build(vec![tip], signal, &rates, &ground).unwrap();
        let context = |(label, sighash)| {
            let offered: Vec<PublicNonce> = (0..2).map(|i| nonces(i, 1)[&label]).collect();
            let context = LabelContext {
                aggregate_nonce: aggregate_nonces(&offered).unwrap(),
                sighash,
            };
            (label, context)
        };
        Self {
            id: terms.cohort_id(),
            contexts: ladder.digests().into_iter().map(context).collect(),
            announcement: String::from_utf8(announcement.canonical_bytes()).unwrap(),
            terms,
            set,
            keys,
            ladder,
            tree,
        }
    }

    fn all_partials(&self, member: usize) -> BTreeMap<Label, PartialSignature> {
        let labels = self.contexts.keys();
        labels
            .map(|label| (*label, self.partial(member, *label)))
            .collect()
    }

    fn partial(&self, member: usize, label: Label) -> PartialSignature {
        let signed = self.contexts[&label];
        let points = self.keys.keys().iter().map(point);
        let context = musig2::KeyAggContext::new(points)
            .unwrap()
            .with_unspendable_taproot_tweak()
            .unwrap();
        let own = key(&format!("member {member}"));
        let partial: musig2::PartialSignature = musig2::sign_partial(
            &context,
            scalar(&own),
            secret_nonce(member, 1, label),
            &musig2::AggNonce::from_bytes(&signed.aggregate_nonce.to_bytes()).unwrap(),
            signed.sighash.as_bytes(),
        )
        .unwrap();
        let partial = PartialSignature::from_bytes(&partial.serialize()).unwrap();
        verify_partial(
            &self.keys,
            &own.public(),
            &nonces(member, 1)[&label],
            &signed.aggregate_nonce,
            signed.sighash.as_bytes(),
            &partial,
        )
        .unwrap();
        partial
    }

    fn partials(
        &self,
        member: usize,
        partials: BTreeMap<Label, PartialSignature>,
    ) -> Signed<Partials> {
        let content = Partials {
            round: Round(1),
            attempt: 1,
            session_hash: commitment(&self.keys, &nonces(member, 1), &self.contexts).unwrap(),
            nonces: nonces(member, 1),
            partials,
            spares: nonces(member, 2),
        };
        signed(&self.id, &key(&format!("member {member}")), content)
    }

    /// Every rung, signed by both.
    fn signed(&self) -> Vec<SignedRung> {
        let signature = |(label, context): (&Label, &LabelContext)| {
            let signature = aggregate_partials(
                &self.keys,
                &context.aggregate_nonce,
                context.sighash.as_bytes(),
                (0..2).map(|i| self.partial(i, *label)),
            );
            (*label, signature.unwrap())
        };
        let signatures = self.contexts.iter().map(signature).collect();
        self.ladder.complete(&signatures).unwrap()
    }

    fn final_transaction(&self) -> TxHex {
        TxHex(self.signed()[0].tx.clone())
    }

    fn sign_request(&self) -> SignRequest {
        let aggregate_nonces = self.contexts.iter();
        SignRequest {
            round: Round(1),
            attempt: 1,
            sign_by: NOW.plus(90_000),
            rungs: self.ladder.to_sign(),
            prevouts: vec![PrevoutInfo {
                value_sat: self.ladder.inputs[0].value.to_sat(),
                script: beacon_script(self.keys.output_key()),
            }],
            aggregate_nonces: aggregate_nonces
                .map(|(label, context)| (*label, context.aggregate_nonce))
                .collect(),
            announcement: (self.terms.beacon == CohortBeacon::Cas)
                .then(|| self.announcement.clone()),
        }
    }

    fn opening(&self, seat: usize, did: Did, own: &OwnKey, genesis: Option<String>) -> Opening {
        let seat = key(&format!("member {seat}")).public();
        let index = did.smt_index();
        let digest = registration_digest(&self.id, seat, &index);
        let raw = genesis.map(|text| serde_json::value::RawValue::from_string(text).unwrap());
        let opening = Opening {
            did,
            key: own.public(),
            genesis: raw.map(|raw| Box::new(RawJson(raw))),
            sig: sign(own, &digest),
        };
        verify_opening(&self.id, Network::Regtest, seat, &index, &opening).unwrap();
        opening
    }

    /// An opening of an x1 DID whose genesis document lists this cohort's beacon.
    fn external_opening(&self) -> (SmtIndex, Opening) {
        let own = key("did 1");
        let kind = match self.terms.beacon {
            CohortBeacon::Smt => BeaconKind::Smt,
            CohortBeacon::Cas => BeaconKind::Cas,
        };
        let address = self.set.address.parse::<bitcoin::Address<_>>().unwrap();
        let genesis = GenesisDocument::for_cohort(
            Network::Regtest,
            &own.public().even_point(),
            kind,
            &address.assume_checked(),
            KeyAddress::P2tr,
        )
        .unwrap();
        let did = genesis.did(Network::Regtest);
        let text = String::from_utf8(genesis.canonical_bytes()).unwrap();
        (did.smt_index(), self.opening(1, did, &own, Some(text)))
    }
}

/// The messages, by name: the type, or `type:variant`.
#[allow(clippy::too_many_lines)] // a list
pub fn messages() -> Vec<(&'static str, Message)> {
    let mut messages = of_cohorts();
    messages.extend(fallback::messages(CohortBeacon::Smt));
    messages.extend(fallback::messages(CohortBeacon::Cas));
    messages.extend(refunds::messages(&Cohort::new(CohortBeacon::Smt)));
    messages
}

fn of_cohorts() -> Vec<(&'static str, Message)> {
    let smt = Cohort::new(CohortBeacon::Smt);
    let cas = Cohort::new(CohortBeacon::Cas);
    let member = |i: usize| key(&format!("member {i}"));
    let index = |i: usize| did(i).smt_index();
    let set_hash = smt.set.hash(&smt.id);
    let ack = |i: usize| signed(&smt.id, &member(i), CohortAck { set: set_hash });
    let relays = vec!["wss://relay.example.com".to_owned()];
    let (external, external_opening) = cas.external_opening();

    let mut bad = smt.all_partials(1);
    bad.insert(
        Label::SIGNAL,
        PartialSignature::from_bytes(&[1; 32]).unwrap(),
    );
    let blame = Blame {
        member: member(1).public(),
        fault: Fault::BadPartial {
            partials: Box::new(smt.partials(1, bad)),
            label: Label::SIGNAL,
            session: smt.contexts.clone(),
        },
    };
    blame.verify(&smt.id, &smt.keys).unwrap();

    // A third DID, which had no leaf in round 1.
    let late = did(2).smt_index();
    assert_eq!(smt.tree.value_at(&late), EMPTY_LEAF);
    let past = HistoryItem {
        round: Round(1),
        signal: smt.ladder.signal,
        txid: smt.ladder.rungs[0].txid,
        path: Some(smt.tree.prove(&late)),
        leaf: None,
        announcement: None,
    };
    let response = Response {
        round: Round(1),
        entries: Entries::Smt(vec![SmtEntry {
            index: index(0),
            leaf: Some(leaf(0).value()),
            idle: false,
            opened: None,
        }]),
        nonces: nonces(0, 1),
    };
    let deposit = deposit();
    let shown = Leaf {
        nonce: Some(smt_nonce(0)),
        update: Some(deposit.hash),
    };
    let opened_response = Response {
        round: Round(1),
        entries: Entries::Smt(vec![SmtEntry {
            index: index(0),
            leaf: Some(shown.value()),
            idle: false,
            opened: Some(shown.into()),
        }]),
        nonces: nonces(0, 1),
    };
    let fault = DepositFault::NotCurrent { version: 2 };
    let deposited = |anchored, refused| {
        Message::Deposited(Deposited {
            items: vec![DepositedItem {
                index: index(0),
                update: deposit.hash,
                anchored,
                refused,
            }],
        })
    };
    let cas_response = Response {
        round: Round(1),
        entries: Entries::Cas(vec![CasEntry {
            did: did(0),
            update: Some(update()),
            idle: false,
        }]),
        nonces: nonces(0, 1),
    };
    vec![
        (
            "opt_in",
            Message::OptIn(OptIn {
                terms: smt.id,
                tos: None,
                payee: None,
                ticket: None,
            }),
        ),
        (
            "opt_in:work",
            Message::OptIn(OptIn {
                terms: smt.id,
                tos: None,
                payee: None,
                ticket: Some(Ticket::Work(work())),
            }),
        ),
        (
            "opt_in:code",
            Message::OptIn(OptIn {
                terms: smt.id,
                tos: None,
                payee: None,
                ticket: Some(Ticket::Code(code_vouch(&smt.id))),
            }),
        ),
        (
            "reform",
            Message::Reform(Reform {
                terms: others(&smt).canonical(),
                relays: vec!["wss://relay.example.com".into()],
                without: vec![LeftOut {
                    seat: Seat(1),
                    missed: 3,
                    blamed: Vec::new(),
                }],
                reason: "away since May".into(),
            }),
        ),
        (
            "waiting",
            Message::Waiting(Waiting {
                until: smt.terms.join_by,
            }),
        ),
        (
            "rejected",
            Message::Rejected(Rejected {
                reason: "not one of ours".into(),
            }),
        ),
        ("accept", Message::Accept(Accept { seat: Seat(0) })),
        (
            "refused",
            Message::Refused(Refused {
                of: "response".into(),
                code: RefusalCode::WrongEntries,
                round: Some(Round(1)),
            }),
        ),
        ("cohort_set", Message::CohortSet(smt.set.clone())),
        ("cohort_ack", Message::CohortAck(ack(0))),
        (
            "frozen",
            Message::Frozen(Frozen {
                set: set_hash,
                acks: (0..2).map(|i| ack(i).sig.unwrap()).collect(),
            }),
        ),
        (
            "register",
            Message::Register(Register {
                items: vec![RegisterItem {
                    index: index(0),
                    opening: None,
                }],
            }),
        ),
        (
            "register:cas",
            Message::Register(Register {
                items: vec![RegisterItem {
                    index: external,
                    opening: Some(external_opening),
                }],
            }),
        ),
        (
            "registered",
            Message::Registered(Registered {
                items: vec![RegisteredItem {
                    index: index(0),
                    from_round: Some(Round(1)),
                    refused: None,
                }],
                last_round: 0,
            }),
        ),
        (
            "index_challenge",
            Message::IndexChallenge(IndexChallenge {
                index: index(0),
                until: NOW.plus(86_400),
            }),
        ),
        (
            "index_opening",
            Message::IndexOpening(IndexOpening {
                index: index(0),
                opening: smt.opening(0, did(0), &key("did 0"), None),
            }),
        ),
        (
            "round_request",
            Message::RoundRequest(RoundRequest { pending: 1 }),
        ),
        (
            "round_open",
            Message::RoundOpen(RoundOpen {
                round: Round(1),
                respond_by: NOW.plus(86_400),
                indexes: BTreeMap::from([(Seat(0), 1), (Seat(1), 1)]),
                inputs: 1,
            }),
        ),
        (
            "response",
            Message::Response(signed(&smt.id, &member(0), response)),
        ),
        (
            "response:opened",
            Message::Response(signed(&smt.id, &member(0), opened_response)),
        ),
        ("update_deposit", Message::UpdateDeposit(deposit.clone())),
        ("deposited", deposited(Some(true), None)),
        ("deposited:refused", deposited(None, Some(fault.refused()))),
        (
            "response:cas",
            Message::Response(signed(&cas.id, &member(0), cas_response)),
        ),
        (
            "nonce_update",
            Message::NonceUpdate(signed(
                &smt.id,
                &member(1),
                NonceUpdate {
                    round: Round(1),
                    attempt: 2,
                    nonces: nonces(1, 2),
                    lost: true,
                },
            )),
        ),
        (
            "nonce_request",
            Message::NonceRequest(NonceRequest {
                round: Round(1),
                attempt: 2,
                seats: vec![Seat(0)],
                until: NOW.plus(90_000),
            }),
        ),
        ("sign_request", Message::SignRequest(smt.sign_request())),
        ("sign_request:cas", Message::SignRequest(cas.sign_request())),
        (
            "proofs",
            Message::Proofs(Proofs {
                round: Round(1),
                proofs: vec![IndexProof {
                    index: index(0),
                    path: smt.tree.prove(&index(0)),
                }],
            }),
        ),
        (
            "partial_signature",
            Message::PartialSignature(smt.partials(0, smt.all_partials(0))),
        ),
        (
            "round_result",
            Message::RoundResult(RoundResult {
                round: Round(1),
                tx: Some(smt.final_transaction()),
            }),
        ),
        (
            "round_failed",
            Message::RoundFailed(RoundFailed {
                round: Round(1),
                why: RoundCause::NoSignature {
                    absent: vec![Seat(1)],
                },
                blamed: vec![blame],
            }),
        ),
        (
            "round_failed:sessions",
            Message::RoundFailed(RoundFailed {
                round: Round(1),
                why: RoundCause::SessionsUsedUp {
                    lost: vec![LostSession {
                        attempt: 2,
                        seat: Seat(1),
                        shown: None,
                    }],
                },
                blamed: Vec::new(),
            }),
        ),
        (
            "history_request",
            Message::HistoryRequest(HistoryRequest {
                index: late,
                from_round: Round(1),
            }),
        ),
        (
            "history",
            Message::History(History {
                index: late,
                items: vec![past],
                next: None,
            }),
        ),
        (
            "proof_request",
            Message::ProofRequest(ProofRequest {
                signals: vec![smt.tree.root()],
            }),
        ),
        (
            "kept_proofs",
            Message::KeptProofs(KeptProofs {
                items: vec![KeptSignal {
                    signal: smt.tree.root(),
                    round: Some(Round(1)),
                    proofs: vec![KeptProof {
                        index: index(0),
                        leaf: Some(smt.tree.value_at(&index(0))),
                        path: smt.tree.prove(&index(0)),
                    }],
                    announcement: None,
                }],
            }),
        ),
        ("seat_request", Message::SeatRequest(SeatRequest {})),
        (
            "seat_state",
            Message::SeatState(SeatState {
                set: smt.set.clone(),
                acks: (0..2).map(|i| ack(i).sig.unwrap()).collect(),
                items: vec![RegisteredItem {
                    index: index(0),
                    from_round: Some(Round(1)),
                    refused: None,
                }],
                last_round: 1,
                ended: None,
            }),
        ),
        (
            "leave",
            Message::Leave(Leave {
                even_if_frozen: false,
            }),
        ),
        (
            "release",
            Message::Release(Release {
                seat: Seat(1),
                reason: "asked for by mail".into(),
            }),
        ),
        (
            "ended",
            Message::Ended(Ended {
                why: EndCause::MemberLeft { seat: Seat(1) },
            }),
        ),
        (
            "relays",
            Message::Relays(Relays {
                relays: relays.clone(),
            }),
        ),
        (
            "invite",
            Message::Invite(Invite {
                terms: smt.terms.canonical(),
                relays,
            }),
        ),
        ("subscribe", Message::Subscribe(Subscribe { on: true })),
    ]
}

fn pretty<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string_pretty(value).unwrap()
}

fn inner(message: &Message) -> envelope::Message {
    envelope::Message {
        kind: message.type_name().to_owned(),
        body: message.body().unwrap(),
    }
}

/// Everything around the messages: terms, events, envelopes, hashes.
fn carriers() -> Vec<(&'static str, String)> {
    let smt = Cohort::new(CohortBeacon::Smt);
    let aggregator = key("aggregator");
    let member = key("member 0");
    let channel = ChannelKey::from_secret(&secret("channel")).unwrap();

    let relay = [RelayUrl::parse("wss://relay.example.com").unwrap()];
    let content = smt.terms.canonical();
    let draft = AdvertDraft {
        content: &content,
        network: smt.terms.network,
        status: AdvertStatus::Open,
        relays: &relay,
        created_at: NOW,
        expiration: NOW.plus(30 * 86_400),
    };
    let advert_event = advert::encode(&draft, &aggregator).unwrap().into_inner();
    let advert_event = event(&aggregator, advert_event);
    assert_eq!(advert::decode(&advert_event, false).unwrap().cohort, smt.id);
    let link = ShareLink {
        cohort: smt.id,
        author: aggregator.public(),
        relays: relay.to_vec(),
    };

    let named = messages();
    let by_name = |name: &str| {
        let (_, message) = named.iter().find(|(known, _)| *known == name).unwrap();
        inner(message)
    };
    let ack_of = |of, upto, also: &[u64]| Ack {
        of,
        inc: Incarnation(1_799_990_000),
        upto,
        also: also.to_vec(),
    };
    let inc = Incarnation(1_799_980_000);
    let acks = vec![
        ack_of(AckOf::Direct, 2, &[]),
        ack_of(AckOf::Channel, 3, &[5]),
    ];
    let mut envelope = Envelope::new(smt.id, inc, 3, acks.clone(), by_name("register"));
    let plaintext = envelope.encode().unwrap();
    let empty = envelope::Message::new(ACK, &json!({})).unwrap();
    let ack_only = Envelope::new(smt.id, inc, 0, acks, empty);

    let tags = vec![
        vec!["p".to_owned(), aggregator.public().to_string()],
        vec!["expiration".to_owned(), NOW.plus(365 * 86_400).to_string()],
    ];
    let directed = event(
        &member,
        Event {
            id: btcr2_agent::nostr::EventId::from_bytes([0; 32]),
            author: member.public(),
            created_at: NOW,
            kind: KIND_DIRECTED,
            tags,
            content: seal(&member, aggregator.public(), &plaintext, "NIP-44 nonce"),
            sig: SchnorrSignature::from_bytes([0; 64]),
        },
    );
    let opened = ConversationKeys::new()
        .open_directed(&aggregator, &directed)
        .unwrap();
    assert_eq!(opened, plaintext);

    let part_json = by_name("proofs").to_json().unwrap();
    let part = seal(
        &aggregator,
        member.public(),
        part_json.as_bytes(),
        "NIP-44 nonce of a part",
    );
    let opened = ConversationKeys::new()
        .open_part(&member, aggregator.public(), &part)
        .unwrap();
    assert_eq!(opened, part_json.as_bytes());
    let parts = envelope::Message::new(
        "parts",
        &json!({ "parts": { member.public().to_string(): part } }),
    )
    .unwrap();
    let grant = envelope::Message::new(
        "channel_key",
        &json!({ "secret": to_hex(&*channel.expose_secret()) }),
    )
    .unwrap();

    let large =
        envelope::Message::new("invite", &json!({ "terms": "x".repeat(MAX_WHOLE) })).unwrap();
    let mut chunk: serde_json::Value = btcr2_agent::nostr::chunks::split(large)
        .unwrap()
        .first()
        .unwrap()
        .body()
        .unwrap();
    let data = chunk["data"].as_str().unwrap().to_owned();
    chunk["data"] = json!(format!("{}…", &data[..32]));
    let chunk = json!({ "type": CHUNK, "body": chunk });

    vec![
        ("terms", content.clone()),
        ("advert", pretty(&*advert_event)),
        ("share link", link.encode().unwrap()),
        ("envelope", pretty(&envelope)),
        ("event", pretty(&*directed)),
        (ACK, pretty(&ack_only)),
        ("channel_key", pretty(&grant)),
        ("parts", pretty(&parts)),
        (CHUNK, pretty(&chunk)),
        ("hashes", hashes()),
    ]
}

/// Intermediate values, for who implements a peer.
fn hashes() -> String {
    let smt = Cohort::new(CohortBeacon::Smt);
    let cas = Cohort::new(CohortBeacon::Cas);
    let tx = smt.final_transaction();
    let digest = |bytes: [u8; 32]| to_hex(&bytes);
    let set = smt.set.hash(&smt.id);
    let seat = key("member 0").public();
    let rows = [
        ("aggregator key", key("aggregator").public().to_string()),
        ("member 0 key", seat.to_string()),
        ("member 1 key", key("member 1").public().to_string()),
        ("cohort id, smt", smt.id.to_string()),
        ("cohort id, cas", cas.id.to_string()),
        ("output key", smt.keys.output_key().to_string()),
        ("beacon address", smt.set.address.clone()),
        ("set hash", set.to_string()),
        (
            "evidence hash of member 0's cohort_ack",
            digest(evidence_digest(&smt.id, &CohortAck { set })),
        ),
        ("did 0", did(0).to_string()),
        ("did 1", did(1).to_string()),
        ("index of did 0", did(0).smt_index().to_string()),
        (
            "registration digest of member 0 for did 0",
            digest(registration_digest(&smt.id, seat, &did(0).smt_index())),
        ),
        ("update of did 0", update().to_string()),
        ("SMT nonce of did 0", smt_nonce(0).to_string()),
        ("leaf of did 0, an update", leaf(0).value().to_string()),
        ("leaf of did 1, no update", leaf(1).value().to_string()),
        ("empty leaf", EMPTY_LEAF.to_string()),
        ("signal, smt", smt.ladder.signal.to_string()),
        ("signal, cas", cas.ladder.signal.to_string()),
        (
            "sighash of signal/1, smt",
            smt.contexts[&Label::SIGNAL].sighash.to_string(),
        ),
        (
            "sighash of refund/1, smt",
            smt.contexts[&Label::REFUND].sighash.to_string(),
        ),
        (
            "session hash of member 0",
            commitment(&smt.keys, &nonces(0, 1), &smt.contexts)
                .unwrap()
                .to_string(),
        ),
        ("invite code", code().expose_text().to_string()),
        (
            "key of the code, smt",
            code().key_in(&smt.id).public().to_string(),
        ),
        ("work of member 0, 16 bits", work().to_string()),
        ("txid of signal/1", tx.0.compute_txid().to_string()),
        ("txid of signal/3", smt.ladder.rungs[2].txid.to_string()),
    ];
    let mut text = String::new();
    for (name, value) in rows {
        text.push_str(&format!("{name:<42} {value}\n"));
    }
    text.trim_end().to_owned()
}

fn examples() -> BTreeMap<String, String> {
    messages()
        .iter()
        .map(|(name, message)| (format!("message {name}"), pretty(message)))
        .chain(
            carriers()
                .into_iter()
                .map(|(name, text)| (name.to_owned(), text)),
        )
        .collect()
}

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/protocol.md")
}

fn document() -> String {
    std::fs::read_to_string(path()).unwrap()
}

/// The document cut at its examples: text before, name, block without its fences.
struct Cut {
    text: String,
    blocks: Vec<(String, String)>,
}

/// Cuts the examples out; in the text a `\u{0}` stands where each was.
fn cut(document: &str) -> Cut {
    let mut text = String::new();
    let mut blocks = Vec::new();
    let mut lines = document.lines();
    while let Some(line) = lines.next() {
        text.push_str(line);
        text.push('\n');
        let name = line
            .strip_prefix("<!-- example: ")
            .and_then(|rest| rest.strip_suffix(" -->"));
        let Some(name) = name else { continue };
        let fence = lines.next().unwrap_or_default();
        assert!(fence.starts_with("```"), "{name}: no fenced block follows");
        let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        blocks.push((name.to_owned(), block.join("\n")));
        text.push_str(&format!("{fence}\n\u{0}\n```\n"));
    }
    Cut { text, blocks }
}

/// The document's examples, by name.
pub fn shown() -> Vec<(String, String)> {
    cut(&document()).blocks
}

#[test]
fn the_examples_are_what_the_library_makes() {
    let examples = examples();
    let found = cut(&document());
    for (name, _) in &found.blocks {
        assert!(examples.contains_key(name), "nobody makes example {name:?}");
    }
    if std::env::var_os("UPDATE_DOCS").is_some_and(|value| value == "1") {
        let mut parts = found.text.split('\u{0}');
        let mut text = parts.next().unwrap().to_owned();
        for ((name, _), rest) in found.blocks.iter().zip(parts) {
            text.push_str(&examples[name]);
            text.push_str(rest);
        }
        std::fs::write(path(), text).unwrap();
        return;
    }
    for (name, block) in &found.blocks {
        assert!(
            *block == examples[name],
            "docs/protocol.md: example {name:?} is stale; run UPDATE_DOCS=1 cargo test --test it protocol_doc"
        );
    }
    let shown: BTreeSet<&String> = found.blocks.iter().map(|(name, _)| name).collect();
    for name in examples.keys() {
        assert!(
            shown.contains(name),
            "docs/protocol.md lacks example {name:?}"
        );
    }
    assert_eq!(shown.len(), found.blocks.len(), "an example stands twice");
}

#[test]
fn every_message_type_has_an_example_that_reads_back() {
    let made = messages();
    let shown: BTreeMap<String, String> = cut(&document()).blocks.into_iter().collect();
    for name in Message::TYPES {
        assert!(
            shown.contains_key(&format!("message {name}")),
            "docs/protocol.md has no example of message type {name:?}"
        );
    }
    for (name, message) in &made {
        let block = &shown[&format!("message {name}")];
        let read = envelope::Message::from_json(block.as_bytes()).unwrap();
        assert_eq!(read.kind, message.type_name(), "{name}");
        assert_eq!(Message::parse(&read.kind, &read.body).unwrap(), *message);
    }
    for name in CARRIER_TYPES {
        assert!(shown.contains_key(name), "no example of {name:?}");
    }
    let mut read = Envelope::decode(shown["envelope"].as_bytes()).unwrap();
    let sealed = Event::from_json(&shown["event"]).unwrap().verify().unwrap();
    let plaintext = ConversationKeys::new()
        .open_directed(&key("aggregator"), &sealed)
        .unwrap();
    // The event carries the envelope shown, written without white space.
    let carried = Envelope::decode(&plaintext).unwrap();
    assert_eq!(carried.acks, read.acks);
    assert_eq!((carried.seq, carried.kind), (read.seq, read.kind.clone()));
    read.body = carried.body;
    assert_eq!(read.encode().unwrap(), plaintext);
}

#[test]
fn the_table_of_terms_names_every_term_and_its_default() {
    let text = document();
    let terms = Terms::with_defaults(
        key("aggregator").public(),
        Network::Regtest,
        CohortBeacon::Smt,
        Salt::from_bytes([0; 16]),
        NOW,
    );
    let value = serde_json::to_value(&terms).unwrap();
    let (_, section) = text.split_once("\n## Advert and terms\n").unwrap();
    let row = |name: &str| -> Vec<&str> {
        let row = section
            .lines()
            .find(|line| line.starts_with(&format!("| `{name}` |")));
        let row = row.unwrap_or_else(|| panic!("term {name} has no row"));
        row.split('|').map(str::trim).collect()
    };
    for (name, default) in value.as_object().unwrap() {
        let cells = row(name);
        let chosen = ["aggregator", "salt", "network", "beacon", "join_by"];
        let expected = if chosen.contains(&name.as_str()) {
            "chosen".to_owned()
        } else {
            format!("`{default}`")
        };
        assert_eq!(cells[4], expected, "default of {name}");
    }
    // A term that is absent has this value.
    assert!(value.get("deposits").is_none());
    let cells = row("deposits");
    assert_eq!(cells[4], format!("`\"{}\"`", terms.deposits));
    assert!(value.get("admission").is_none());
    let cells = row("admission");
    assert_eq!(cells[4], format!("`\"{}\"`", terms.admission));
    // Ranges written as two numbers are the ones that are enforced.
    let valid_with = |name: &str, number: u64| {
        let mut changed = value.clone();
        changed["seats_max"] = json!(1_000);
        // No lock is twice a cadence of a year.
        changed["refund_blocks"] = json!(0);
        changed[name] = json!(number);
        Terms::parse(&serde_json_canonicalizer::to_string(&changed).unwrap()).is_ok()
    };
    let mut checked = 0;
    for name in value.as_object().unwrap().keys() {
        let cells = row(name);
        let Some((low, high)) = cells[3].split_once(" to ") else {
            continue;
        };
        let (Ok(low), Ok(high)) = (low.parse::<u64>(), high.parse::<u64>()) else {
            continue;
        };
        assert!(valid_with(name, low) && valid_with(name, high), "{name}");
        assert!(!valid_with(name, high + 1), "{name} above");
        assert!(low == 0 || !valid_with(name, low - 1), "{name} below");
        checked += 1;
    }
    assert_eq!(checked, 10, "ranges of two numbers");
}

#[test]
fn the_tables_of_codes_and_limits_agree_with_the_library() {
    use RefusalCode as Code;
    let text = document();
    let codes = [
        Code::WrongTerms,
        Code::TosNotAccepted,
        Code::Full,
        Code::Closed,
        Code::NotInvited,
        Code::WorkRequired,
        Code::BadCode,
        Code::CodeUsedUp,
        Code::Rejected,
        Code::AlreadyAsked,
        Code::BadPayee,
        Code::PayeeRequired,
        Code::Malformed,
        Code::IndexTaken,
        Code::TooManyDids,
        Code::BadRegistration,
        Code::WrongEntries,
        Code::EmptyLeaf,
        Code::NonceReused,
        Code::NoSuchRound,
        Code::TooMany,
        Code::WillNotSign,
        Code::DepositRequired,
        Code::WrongLeaf,
    ];
    let deposit_codes = [
        DepositCode::NotTaken,
        DepositCode::TooMany,
        DepositCode::TooLarge,
        DepositCode::NotRegistered,
        DepositCode::OtherNetwork,
        DepositCode::BadUpdate,
        DepositCode::OtherHash,
        DepositCode::BadSource,
        DepositCode::NotInitial,
        DepositCode::NotCurrent,
        DepositCode::VersionTaken,
        DepositCode::Deactivated,
        DepositCode::SourceHash,
        DepositCode::BadProof,
        DepositCode::NotAuthorized,
        DepositCode::BadSignature,
        DepositCode::BadTimes,
        DepositCode::BadPatch,
        DepositCode::IdChanged,
        DepositCode::BadTarget,
        DepositCode::TargetHash,
        DepositCode::NotDeposited,
        DepositCode::WrongLeaf,
    ];
    let names = codes.iter().map(|code| serde_json::to_value(code).unwrap());
    let deposit_names = deposit_codes.map(|code| serde_json::to_value(code).unwrap());
    for name in names.chain(deposit_names) {
        let row = format!("| `{}` |", name.as_str().unwrap());
        assert!(text.contains(&row), "no row for {name}");
    }
    for (name, value) in [
        ("event sent, bytes of JSON", MAX_SENT_BYTES as u64),
        ("event read, bytes of JSON", MAX_RECEIVED_BYTES as u64),
        ("plaintext, bytes", MAX_PLAINTEXT as u64),
        ("message that travels whole, bytes", MAX_WHOLE as u64),
        ("chunk, bytes before base64url", CHUNK_BYTES as u64),
        ("message in chunks, bytes", MAX_TOTAL as u64),
        ("acknowledgements in one envelope", MAX_ACKS as u64),
        ("numbers in `also`", MAX_ALSO as u64),
        ("numbers above the first gap", WINDOW),
        ("lanes remembered", MAX_LANES as u64),
        ("terms, bytes", MAX_TERMS_BYTES as u64),
        (
            "genesis document in an opening, bytes",
            MAX_GENESIS_BYTES as u64,
        ),
        (
            "update and source document of a deposit, bytes",
            MAX_DEPOSIT_BYTES as u64,
        ),
        (
            "levels of nesting in an update or document",
            MAX_DEPTH as u64,
        ),
        (
            "levels of nesting in a message that carries one",
            MAX_RAW_DEPTH as u64,
        ),
        ("dust, sat", DUST_LIMIT.to_sat()),
        (
            "weight of a signed signal with change",
            WEIGHT_WITH_CHANGE.to_wu(),
        ),
        ("weight without change", WEIGHT_WITHOUT_CHANGE.to_wu()),
        ("weight of each further input", WEIGHT_OF_INPUT.to_wu()),
        ("inputs of a signal", MAX_INPUTS as u64),
    ] {
        let row = format!("| {name} | {value} |");
        assert!(text.contains(&row), "docs/protocol.md lacks the row {row}");
    }
}

#[test]
fn the_table_of_encodings_shows_one_value_in_both_forms() {
    // The encodings section shows one value in each form.
    let text = document();
    let bytes: Vec<u8> = (0..32).collect();
    assert!(text.contains(&to_hex(&bytes)));
    assert!(text.contains(&to_base64url(&bytes)));
}
