//! One aggregator and n participants around an in-memory mail queue and a chain model, in one thread.
//!
//! The harness does what the runtime will do: it carries out effects, signs evidence, holds the signers
//! and the artifacts. What it checks by itself, in every test that uses it:
//!
//! - every message survives its JSON form;
//! - rule 1: no public nonce is signed for twice;
//! - rule 5: what a member needs is saved before its partial signature leaves, and the signed transaction
//!   before it is broadcast;
//! - every transaction the chain takes is verified by libbitcoinconsensus (see `chain`);
//! - a deadline that was acted on is not named again;
//! - at the end, feeding the recorded inputs to fresh cores gives the recorded steps (determinism).

use std::collections::BTreeSet;

use bitcoin::{ScriptBuf, Transaction};
use btcr2_agent::beacon::address::{beacon_address, beacon_script};
use btcr2_agent::beacon::cas::CasAnnouncement;
use btcr2_agent::beacon::smt::Leaf;
use btcr2_agent::did::Did;
use btcr2_agent::did::document::BeaconKind;
use btcr2_agent::did::genesis::GenesisDocument;
use btcr2_agent::did::initial::KeyAddress;
use btcr2_agent::hash::{CohortId, SmtIndex, SmtNonce, UpdateHash, sha256};
use btcr2_agent::keys::{NonceSlot, NostrKey, OwnKey, Signer};
use btcr2_agent::network::Network;
use btcr2_agent::protocol::aggregator::{Aggregator, AggregatorInput, Phase};
use btcr2_agent::protocol::effect::{
    AdvertStatus, Artifact, Effect, Outcome, Prepared, Report, SignOrder, Step, To,
};
use btcr2_agent::protocol::evidence::{Evidence, Signed};
use btcr2_agent::protocol::history;
use btcr2_agent::protocol::message::{Message, Opening, RawJson, RegisterItem};
use btcr2_agent::protocol::participant::{
    BindingState, Decline, MemberPhase, Participant, ParticipantInput, SignedSession, SigningPolicy,
};
use btcr2_agent::protocol::registration::registration_digest;
use btcr2_agent::protocol::terms::{CohortBeacon, Salt, Terms};
use btcr2_agent::protocol::{Label, Round, SessionId};
use btcr2_agent::time::UnixTime;

use super::chain::Chain;

pub const START: UnixTime = UnixTime(1_800_000_000);
pub const HOUR: u64 = 3_600;

/// A fixed key by name.
pub fn key(name: &str) -> OwnKey {
    OwnKey::from_bytes(&sha256(name.as_bytes())).unwrap()
}

/// A fixed update hash by name.
pub fn update(name: &str) -> UpdateHash {
    UpdateHash::from_bytes(sha256(format!("update {name}").as_bytes()))
}

/// What a net is made of.
pub struct Setup {
    pub terms: Terms,
    n: usize,
    dids: Vec<usize>,
    pub policy: SigningPolicy,
    /// Off for benches: no log, no extra checks.
    pub record: bool,
}

impl Setup {
    pub fn new(beacon: CohortBeacon, n: usize) -> Self {
        let mut terms = Terms::with_defaults(
            key("aggregator").public(),
            Network::Regtest,
            beacon,
            Salt::from_bytes([3; 16]),
            START.plus(HOUR),
        );
        terms.seats_max = u16::try_from(n).unwrap();
        terms.seats_min = terms.seats_max.min(2);
        Self {
            terms,
            n,
            dids: vec![1; n],
            policy: SigningPolicy {
                max_fee_rate: 50,
                decline: Decline::NoUpdate,
            },
            record: true,
        }
    }

    pub fn smt(n: usize) -> Self {
        Self::new(CohortBeacon::Smt, n)
    }

    pub fn cas(n: usize) -> Self {
        Self::new(CohortBeacon::Cas, n)
    }

    /// How many DIDs each member has.
    pub fn dids(mut self, dids: &[usize]) -> Self {
        self.dids = dids.to_vec();
        self
    }

    pub fn terms(mut self, change: impl FnOnce(&mut Terms)) -> Self {
        change(&mut self.terms);
        self.terms.validate().unwrap();
        self
    }

    pub fn decline(mut self, decline: Decline) -> Self {
        self.policy.decline = decline;
        self
    }

    pub fn quiet(mut self) -> Self {
        self.record = false;
        self
    }
}

/// A DID and its key.
pub struct MyDid {
    pub did: Did,
    pub index: SmtIndex,
    key: OwnKey,
    genesis: Option<GenesisDocument>,
}

impl MyDid {
    /// A k1 DID by name.
    pub fn k1(network: Network, name: &str) -> Self {
        let key = key(name);
        let did = Did::from_key(network, &key.keypair().public_key());
        Self {
            index: did.smt_index(),
            did,
            key,
            genesis: None,
        }
    }

    /// An x1 DID whose genesis document lists the beacon.
    pub fn x1(net: &Net, name: &str) -> Self {
        let key = key(name);
        let terms = net.agg.terms();
        let (_, keys) = net.agg.set().unwrap();
        let kind = match terms.beacon {
            CohortBeacon::Smt => BeaconKind::Smt,
            CohortBeacon::Cas => BeaconKind::Cas,
        };
        let genesis = GenesisDocument::for_cohort(
            terms.network,
            &key.keypair().public_key(),
            kind,
            &beacon_address(keys.output_key(), terms.network),
            KeyAddress::P2wpkh,
        )
        .unwrap();
        let did = genesis.did(terms.network);
        Self {
            index: did.smt_index(),
            did,
            key,
            genesis: Some(genesis),
        }
    }

    /// Shows that `seat` speaks for the DID.
    pub fn opening(&self, cohort: &CohortId, seat: NostrKey) -> Opening {
        let digest = registration_digest(cohort, seat, &self.index);
        Opening {
            did: self.did.clone(),
            key: self.key.public(),
            genesis: self.genesis.as_ref().map(|genesis| {
                let text = String::from_utf8(genesis.canonical_bytes()).unwrap();
                Box::new(RawJson(
                    serde_json::value::RawValue::from_string(text).unwrap(),
                ))
            }),
            sig: self.key.sign_digest(&digest),
        }
    }
}

/// One participant with what its runtime holds.
pub struct Node {
    pub key: OwnKey,
    pub signer: Signer,
    pub core: Participant,
    pub dids: Vec<MyDid>,
    pub saved: Vec<Artifact>,
    pub reports: Vec<Report>,
    /// What became of each message, with its type.
    pub outcomes: Vec<(&'static str, Outcome)>,
    /// Whether it sees the chain move.
    pub sees_chain: bool,
    /// Whether it binds a DID as soon as it may.
    pub binds: bool,
    /// Whether the process dies instead of carrying out the next order to sign (or to prepare).
    pub dies_at_sign: bool,
    pub dies_at_prepare: bool,
    /// Whether it does not get to carrying out the next order to prepare.
    pub hangs_at_prepare: bool,
    /// Whether it has the channel's secret.
    pub in_channel: bool,
    policy: SigningPolicy,
    used_nonces: BTreeSet<[u8; 66]>,
    log: Vec<(UnixTime, ParticipantInput, Step)>,
}

impl Node {
    pub fn me(&self) -> NostrKey {
        self.key.public()
    }

    pub fn alarms(&self) -> Vec<&str> {
        self.reports
            .iter()
            .filter_map(|report| match report {
                Report::Alarm { text } => Some(text.as_str()),
                _ => None,
            })
            .collect()
    }

    /// Reasons for which it did not sign.
    pub fn refusals(&self) -> Vec<&str> {
        self.reports
            .iter()
            .filter_map(|report| match report {
                Report::SignRefused { reason, .. } => Some(reason.as_str()),
                _ => None,
            })
            .collect()
    }
}

/// Where a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dest {
    Aggregator,
    Member(usize),
}

/// A message on its way, with its verified author.
#[derive(Debug, Clone)]
pub struct Mail {
    pub from: NostrKey,
    pub to: Dest,
    pub message: Message,
}

type Hook = Box<dyn FnMut(Mail) -> Vec<Mail>>;

pub struct Net {
    pub now: UnixTime,
    pub agg: Aggregator,
    pub agg_key: OwnKey,
    pub agg_saved: Vec<Artifact>,
    pub agg_reports: Vec<Report>,
    pub agg_outcomes: Vec<(&'static str, Outcome)>,
    pub adverts: Vec<AdvertStatus>,
    pub nodes: Vec<Node>,
    pub chain: Chain,
    pub mail: Vec<Mail>,
    /// Everything that was ever on its way.
    pub archive: Vec<Mail>,
    /// Sees each mail as it is delivered, and says what arrives instead.
    pub hook: Option<Hook>,
    /// Mail of this type is kept back.
    pub hold: Option<&'static str>,
    pub held: Vec<Mail>,
    /// Every mail arrives twice.
    pub duplicate: bool,
    /// Deliveries are in random order when set.
    pub shuffle: Option<u64>,
    /// Whether the aggregator's transactions reach the chain.
    pub broadcasts: bool,
    pub history_bytes: usize,
    /// Mail to keys that are no node.
    pub elsewhere: Vec<(NostrKey, Message)>,
    record: bool,
    agg_log: Vec<(UnixTime, AggregatorInput, Step)>,
}

impl Net {
    pub fn new(setup: Setup) -> Self {
        let Setup {
            terms,
            n,
            dids,
            policy,
            record,
        } = setup;
        let nodes = (0..n)
            .map(|i| {
                let name = format!("member {i}");
                let mut signer = Signer::new();
                signer.add_seat(key(&name));
                Node {
                    core: Participant::new(terms.clone(), key(&name).public(), policy),
                    key: key(&name),
                    signer,
                    dids: (0..dids[i])
                        .map(|j| MyDid::k1(terms.network, &format!("did {i} {j}")))
                        .collect(),
                    saved: Vec::new(),
                    reports: Vec::new(),
                    outcomes: Vec::new(),
                    sees_chain: true,
                    binds: true,
                    dies_at_sign: false,
                    dies_at_prepare: false,
                    hangs_at_prepare: false,
                    in_channel: false,
                    policy,
                    used_nonces: BTreeSet::new(),
                    log: Vec::new(),
                }
            })
            .collect();
        Self {
            now: START,
            agg: Aggregator::new(terms),
            agg_key: key("aggregator"),
            agg_saved: Vec::new(),
            agg_reports: Vec::new(),
            agg_outcomes: Vec::new(),
            adverts: Vec::new(),
            nodes,
            chain: Chain::new(),
            mail: Vec::new(),
            archive: Vec::new(),
            hook: None,
            hold: None,
            held: Vec::new(),
            duplicate: false,
            shuffle: None,
            broadcasts: true,
            history_bytes: history::MAX_ANSWER_BYTES,
            elsewhere: Vec::new(),
            record,
            agg_log: Vec::new(),
        }
    }

    // ---- whole phases -------------------------------------------------------------------------------------

    /// Formed, funded, every DID registered and bound.
    pub fn ready(setup: Setup) -> Self {
        let mut net = Self::new(setup);
        net.get_ready();
        net
    }

    pub fn get_ready(&mut self) {
        self.form();
        self.fund(100_000);
        self.register_all();
    }

    pub fn form(&mut self) {
        self.advertise();
        for i in 0..self.nodes.len() {
            self.input(i, ParticipantInput::Join { payee: None });
        }
        self.run();
        assert_eq!(*self.agg.phase(), Phase::Active);
        for node in &self.nodes {
            assert_eq!(*node.core.phase(), MemberPhase::Active);
        }
    }

    pub fn advertise(&mut self) {
        self.agg_input(AggregatorInput::Advertise {
            invited: Vec::new(),
            relays: Vec::new(),
        });
    }

    pub fn fund(&mut self, sat: u64) {
        let script = self.script();
        self.chain.fund(&script, sat);
        self.mine(1);
    }

    pub fn register_all(&mut self) {
        for i in 0..self.nodes.len() {
            let dids: Vec<usize> = (0..self.nodes[i].dids.len()).collect();
            if !dids.is_empty() {
                self.register(i, &dids);
            }
        }
        self.run();
    }

    /// Registers DIDs of a member; nothing is delivered yet.
    pub fn register(&mut self, i: usize, dids: &[usize]) {
        let items = dids.iter().map(|j| self.item(i, *j)).collect();
        let outcome = self.input(i, ParticipantInput::Register { items });
        assert_eq!(outcome, Outcome::Accepted);
    }

    pub fn item(&self, i: usize, j: usize) -> RegisterItem {
        let (node, did) = (&self.nodes[i], &self.nodes[i].dids[j]);
        RegisterItem {
            index: did.index,
            opening: (self.agg.terms().beacon == CohortBeacon::Cas)
                .then(|| did.opening(&self.agg.cohort(), node.me())),
        }
    }

    /// Queues an update of a member's DID.
    pub fn queue(&mut self, i: usize, j: usize, name: &str) -> Outcome {
        let index = self.nodes[i].dids[j].index;
        let update = update(name);
        self.input(i, ParticipantInput::Queue { index, update })
    }

    /// Opens a round and delivers until nothing is on its way.
    pub fn open(&mut self) {
        assert_eq!(self.agg.open_refusal(), None);
        let outcome = self.agg_input(AggregatorInput::OpenRound);
        assert_eq!(outcome, Outcome::Accepted);
        self.run();
    }

    /// A whole round that must be signed and confirmed.
    pub fn round(&mut self) -> Transaction {
        let before = self.agg.signals_signed();
        self.open();
        assert_eq!(self.agg.signals_signed(), before + 1, "the round is signed");
        let tx = self.signed_txs().last().unwrap().1.clone();
        self.mine(1);
        assert!(self.chain.height_of(&tx.compute_txid()).is_some());
        tx
    }

    pub fn mine(&mut self, blocks: u32) {
        self.chain.mine(blocks);
        self.sync();
        self.run();
    }

    /// Lets everybody who looks see the chain.
    pub fn sync(&mut self) {
        if self.agg.set().is_none() {
            return;
        }
        let view = self.chain.view(&self.script());
        if let Some(update) = self.agg.chain().diff(&view) {
            self.agg_input(AggregatorInput::Chain(update));
        }
        for i in 0..self.nodes.len() {
            let node = &self.nodes[i];
            if !node.sees_chain || node.core.set().is_none() {
                continue;
            }
            if let Some(update) = node.core.chain().diff(&view) {
                self.input(i, ParticipantInput::Chain(update));
            }
        }
    }

    /// Lets time pass: ticks at every deadline on the way.
    pub fn advance(&mut self, seconds: u64) {
        let until = self.now.plus(seconds);
        while let Some(at) = self.agg.deadline().filter(|at| *at <= until) {
            self.now = self.now.max(at);
            self.agg_input(AggregatorInput::Tick);
            let next = self.agg.deadline();
            assert!(
                next.is_none_or(|next| next > self.now),
                "the deadline {at} was acted on, and the next is {next:?}"
            );
            self.run();
        }
        self.now = until;
    }

    // ---- single inputs --------------------------------------------------------------------------------------

    pub fn agg_input(&mut self, input: AggregatorInput) -> Outcome {
        let step = self.agg.handle(self.now, input.clone());
        let outcome = step.outcome.clone();
        if self.record {
            self.agg_log.push((self.now, input, step.clone()));
        }
        for effect in step.effects {
            self.agg_effect(effect);
        }
        outcome
    }

    pub fn input(&mut self, i: usize, input: ParticipantInput) -> Outcome {
        let now = self.now;
        let record = self.record;
        let node = &mut self.nodes[i];
        let step = node.core.handle(now, input.clone());
        let outcome = step.outcome.clone();
        if record {
            node.log.push((now, input, step.clone()));
        }
        for effect in step.effects {
            self.member_effect(i, effect);
        }
        outcome
    }

    /// Delivers a message at once, whatever else is on its way.
    pub fn deliver(&mut self, from: NostrKey, to: Dest, message: Message) -> Outcome {
        if self.record {
            let body = message.body().unwrap();
            let parsed = Message::parse(message.type_name(), &body).unwrap();
            assert_eq!(parsed, message);
        }
        let name = message.type_name();
        match to {
            Dest::Aggregator => {
                let outcome = self.agg_input(AggregatorInput::Message { from, message });
                self.agg_outcomes.push((name, outcome.clone()));
                outcome
            }
            Dest::Member(i) => {
                let outcome = self.input(i, ParticipantInput::Message { from, message });
                self.nodes[i].outcomes.push((name, outcome.clone()));
                outcome
            }
        }
    }

    /// A message of the aggregator to one member.
    pub fn tell(&mut self, i: usize, message: Message) -> Outcome {
        self.deliver(self.agg_key.public(), Dest::Member(i), message)
    }

    /// A message of a member to the aggregator.
    pub fn say(&mut self, i: usize, message: Message) -> Outcome {
        self.deliver(self.nodes[i].me(), Dest::Aggregator, message)
    }

    /// Delivers one mail; false when there is none.
    pub fn step(&mut self) -> bool {
        if self.mail.is_empty() {
            return false;
        }
        let at = match &mut self.shuffle {
            None => 0,
            Some(state) => {
                // Knuth's MMIX generator: order is all that is asked of it.
                *state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                usize::try_from(*state >> 33).unwrap() % self.mail.len()
            }
        };
        let mail = self.mail.remove(at);
        if self.hold == Some(mail.message.type_name()) {
            self.held.push(mail);
            return true;
        }
        let arriving = match &mut self.hook {
            None => vec![mail],
            Some(hook) => hook(mail),
        };
        for Mail { from, to, message } in arriving {
            self.deliver(from, to, message);
        }
        true
    }

    pub fn run(&mut self) {
        while self.step() {}
    }

    /// Lets go what was kept back.
    pub fn release(&mut self) {
        self.hold = None;
        self.mail.append(&mut self.held);
        self.run();
    }

    /// Keeps back what this member is told in mail of the held type, and lets the rest go.
    pub fn keep_back(&mut self, to: Dest) -> Mail {
        let at = self.held.iter().position(|mail| mail.to == to).unwrap();
        let kept = self.held.remove(at);
        self.release();
        kept
    }

    /// The open round ends signed, and another one works.
    pub fn finish(&mut self) {
        self.release();
        assert_eq!(self.agg.signals_signed(), 1, "the round is signed");
        self.mine(1);
        self.next_round_works();
    }

    /// A further round is signed by all and explained to all.
    pub fn next_round_works(&mut self) {
        self.round();
        for i in 0..self.nodes.len() {
            for j in 0..self.nodes[i].dids.len() {
                let index = self.nodes[i].dids[j].index;
                if self.nodes[i].core.binding_state(&index) == Some(BindingState::Bound) {
                    let proved = self.proved(i, j);
                    assert!(proved.iter().all(Option::is_some), "{i} {j}: {proved:?}");
                }
            }
        }
    }

    /// The process of a member dies and starts again: secret nonces are gone.
    pub fn restart(&mut self, i: usize) {
        let mut signer = Signer::new();
        signer.add_seat(key(&format!("member {i}")));
        self.nodes[i].signer = signer;
        self.input(i, ParticipantInput::Restarted);
    }

    /// Signs a body as a member's runtime would.
    pub fn signed<T: Evidence>(&self, i: usize, content: T) -> Signed<T> {
        let mut signed = Signed::unsigned(content);
        let key = &self.nodes[i].key;
        signed.sign_with(&self.agg.cohort(), |digest| key.sign_digest(digest));
        signed
    }

    // ---- what can be asked ----------------------------------------------------------------------------------

    pub fn script(&self) -> ScriptBuf {
        beacon_script(self.agg.set().unwrap().1.output_key())
    }

    /// The transactions the aggregator kept, oldest first.
    pub fn signed_txs(&self) -> Vec<(Round, Transaction)> {
        self.agg_saved
            .iter()
            .filter_map(|artifact| match artifact {
                Artifact::SignedTransaction { round, tx, .. } => Some((*round, tx.clone())),
                _ => None,
            })
            .collect()
    }

    /// For every confirmed signal, oldest first: the update that the member's own artifacts prove for its DID
    /// (`Some(None)`: proved that there is none; `None`: nothing is proved).
    pub fn proved(&self, i: usize, j: usize) -> Vec<Option<Option<UpdateHash>>> {
        let mut signals: Vec<_> = self
            .chain
            .view(&self.script())
            .signals
            .into_values()
            .filter_map(|seen| Some((seen.height?, seen.signal)))
            .collect();
        signals.sort();
        let did = &self.nodes[i].dids[j];
        signals
            .into_iter()
            .map(|(_, on_chain)| {
                self.nodes[i]
                    .saved
                    .iter()
                    .find_map(|artifact| match artifact {
                        Artifact::SmtProof {
                            index,
                            signal,
                            nonce,
                            update,
                            path,
                            ..
                        } if *index == did.index && *signal == on_chain => {
                            let leaf = Leaf {
                                nonce: *nonce,
                                update: *update,
                            };
                            path.verify_leaf_value(index, &leaf.value(), signal)
                                .unwrap();
                            Some(*update)
                        }
                        Artifact::Announcement {
                            signal,
                            announcement,
                            ..
                        } if *signal == on_chain => {
                            assert_eq!(sha256(announcement.as_bytes()), signal.to_bytes());
                            let map =
                                CasAnnouncement::parse_canonical(announcement.as_bytes(), |_| true)
                                    .unwrap();
                            Some(map.update_of(did.did.as_str()))
                        }
                        _ => None,
                    })
            })
            .collect()
    }

    /// The mail of a type that is on its way now.
    pub fn on_its_way(&self, type_name: &str) -> Option<&Mail> {
        self.mail
            .iter()
            .find(|mail| mail.message.type_name() == type_name)
    }

    /// The last mail of a type that was ever sent.
    pub fn last_sent(&self, type_name: &str) -> Mail {
        let mut all = self.archive.iter().rev();
        all.find(|mail| mail.message.type_name() == type_name)
            .unwrap()
            .clone()
    }

    /// Runs until a mail of this type is the next to be delivered.
    pub fn run_until(&mut self, type_name: &str) {
        while self.on_its_way(type_name).is_none() {
            assert!(self.step(), "no {type_name} was ever sent");
        }
    }

    // ---- effects --------------------------------------------------------------------------------------------

    fn agg_effect(&mut self, effect: Effect) {
        let from = self.agg_key.public();
        match effect {
            Effect::Send { to, message } => self.send(from, to, message),
            Effect::SendParts(parts) => {
                for (key, message) in parts {
                    self.send(from, To::Key(key), message);
                }
            }
            Effect::GrantChannel(keys) => {
                for node in &mut self.nodes {
                    node.in_channel |= keys.contains(&node.key.public());
                }
            }
            Effect::Advertise(status) => self.adverts.push(status),
            Effect::Save(artifact) => self.agg_saved.push(stored(artifact)),
            Effect::Broadcast(tx) => {
                assert!(
                    self.signed_txs().iter().any(|(_, kept)| *kept == tx),
                    "rule 5: kept before it is broadcast"
                );
                if self.broadcasts {
                    let error = self.chain.accept(&tx).err();
                    let txid = tx.compute_txid();
                    self.agg_input(AggregatorInput::Broadcast { txid, error });
                    self.sync();
                }
            }
            Effect::AnswerHistory { to, request } => {
                let answer = history::answer(&request, &self.agg_saved, self.history_bytes);
                self.send(from, To::Key(to), Message::History(answer));
            }
            Effect::Report(report) => self.agg_reports.push(report),
            other => panic!("not an effect of an aggregator: {other:?}"),
        }
    }

    fn member_effect(&mut self, i: usize, effect: Effect) {
        match effect {
            Effect::Send { to, mut message } => {
                assert_eq!(to, To::Key(self.agg_key.public()));
                let cohort = self.agg.cohort();
                let node = &self.nodes[i];
                sign_evidence(&node.key, &cohort, &mut message);
                if let Message::PartialSignature(partials) = &message {
                    self.check_rule_5(i, partials.content.round);
                }
                let from = self.nodes[i].me();
                self.send(from, to, message);
            }
            Effect::Prepare { session, indexes } => self.prepare(i, session, &indexes),
            Effect::Sign(order) => self.sign(i, &order),
            Effect::OpenIndex(index) => {
                let node = &self.nodes[i];
                if let Some(did) = node.dids.iter().find(|did| did.index == index) {
                    let opening = did.opening(&self.agg.cohort(), node.me());
                    self.input(i, ParticipantInput::Open { index, opening });
                }
            }
            Effect::Save(artifact) => self.nodes[i].saved.push(stored(artifact)),
            Effect::Report(report) => {
                let binds = self.nodes[i].binds;
                self.nodes[i].reports.push(report.clone());
                if let Report::MayBind { index, .. } = report
                    && binds
                {
                    let outcome = self.input(i, ParticipantInput::Bound { index });
                    assert_eq!(outcome, Outcome::Accepted);
                }
            }
            other => panic!("not an effect of a member: {other:?}"),
        }
    }

    fn prepare(&mut self, i: usize, session: SessionId, indexes: &[SmtIndex]) {
        let now = self.now;
        let node = &mut self.nodes[i];
        if std::mem::take(&mut node.hangs_at_prepare) {
            return;
        }
        if std::mem::take(&mut node.dies_at_prepare) {
            return self.restart(i);
        }
        let seat = node.key.public();
        let nonces = Label::ALL
            .into_iter()
            .map(|label| {
                let slot = NonceSlot {
                    seat,
                    session,
                    label,
                };
                (label, node.signer.new_nonces(slot, now).unwrap())
            })
            .collect();
        let smt_nonces = indexes
            .iter()
            .map(|index| (*index, smt_nonce(seat, session.round, index)))
            .collect();
        let prepared = Prepared {
            session,
            nonces,
            smt_nonces,
        };
        self.input(i, ParticipantInput::Prepared(prepared));
    }

    fn sign(&mut self, i: usize, order: &SignOrder) {
        let now = self.now;
        let node = &mut self.nodes[i];
        if std::mem::take(&mut node.dies_at_sign) {
            return self.restart(i);
        }
        let seat = node.key.public();
        let (_, keys) = node.core.set().unwrap();
        let keys = keys.clone();
        let session = order.session;
        let mut partials = std::collections::BTreeMap::new();
        for label in &order.labels {
            let slot = NonceSlot {
                seat,
                session,
                label: label.label,
            };
            let signed = node.signer.sign(
                slot,
                &label.nonce,
                &keys,
                &label.aggregate_nonce,
                label.sighash.as_bytes(),
            );
            let Ok(partial) = signed else {
                self.input(i, ParticipantInput::SignFailed { session });
                return;
            };
            assert!(
                node.used_nonces.insert(label.nonce.to_bytes()),
                "rule 1: a nonce signs once"
            );
            partials.insert(label.label, partial);
        }
        let next = SessionId {
            attempt: session.attempt + 1,
            ..session
        };
        let spares = Label::ALL
            .into_iter()
            .map(|label| {
                let slot = NonceSlot {
                    seat,
                    session: next,
                    label,
                };
                (label, node.signer.new_nonces(slot, now).unwrap())
            })
            .collect();
        let signed = SignedSession {
            session,
            partials,
            spares,
        };
        self.input(i, ParticipantInput::Signed(signed));
    }

    /// Every index of the member that the round covers has its proof or announcement saved.
    fn check_rule_5(&self, i: usize, of: Round) {
        let node = &self.nodes[i];
        for did in &node.dids {
            let covered = matches!(
                node.core.index_state(&did.index),
                Some(btcr2_agent::protocol::participant::IndexState::Covered(from)) if from <= of
            );
            let saved = node.saved.iter().any(|artifact| match artifact {
                Artifact::SmtProof { round, index, .. } => *round == of && *index == did.index,
                Artifact::Announcement { round, .. } => *round == of,
                _ => false,
            });
            assert!(saved || !covered, "rule 5: saved before the partial leaves");
        }
    }

    fn send(&mut self, from: NostrKey, to: To, message: Message) {
        let aggregator = self.agg_key.public();
        let dests: Vec<Dest> = match to {
            To::Key(key) if key == aggregator => vec![Dest::Aggregator],
            To::Key(key) => match self.nodes.iter().position(|node| node.key.public() == key) {
                Some(i) => vec![Dest::Member(i)],
                None => {
                    self.elsewhere.push((key, message.clone()));
                    Vec::new()
                }
            },
            To::Channel => (0..self.nodes.len())
                .filter(|i| self.nodes[*i].in_channel)
                .map(Dest::Member)
                .collect(),
        };
        for to in dests {
            let mail = Mail {
                from,
                to,
                message: message.clone(),
            };
            if self.record {
                self.archive.push(mail.clone());
            }
            if self.duplicate {
                self.mail.push(mail.clone());
            }
            self.mail.push(mail);
        }
    }

    /// Feeds the recorded inputs to fresh cores.
    fn replay(&self) {
        let mut agg = Aggregator::new(self.agg.terms().clone());
        for (at, input, step) in &self.agg_log {
            // The log is stored as JSON.
            let text = serde_json::to_string(input).unwrap();
            let input = serde_json::from_str(&text).unwrap();
            assert_eq!(agg.handle(*at, input), *step, "replayed: {text}");
        }
        assert_eq!(format!("{agg:?}"), format!("{:?}", self.agg));
        for node in &self.nodes {
            let mut core = Participant::new(node.core.terms().clone(), node.me(), node.policy);
            for (at, input, step) in &node.log {
                let text = serde_json::to_string(input).unwrap();
                let input = serde_json::from_str(&text).unwrap();
                assert_eq!(core.handle(*at, input), *step, "replayed: {text}");
            }
            assert_eq!(format!("{core:?}"), format!("{:?}", node.core));
        }
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        if self.record && !std::thread::panicking() {
            self.replay();
        }
    }
}

/// The SMT nonce of a member's index in a round.
pub fn smt_nonce(seat: NostrKey, round: Round, index: &SmtIndex) -> SmtNonce {
    let mut text = seat.to_bytes().to_vec();
    text.extend_from_slice(&round.0.to_be_bytes());
    text.extend_from_slice(index.as_bytes());
    SmtNonce::from_bytes(sha256(&text))
}

/// As it comes back from a store.
fn stored(artifact: Artifact) -> Artifact {
    let text = serde_json::to_string(&artifact).unwrap();
    let read: Artifact = serde_json::from_str(&text).unwrap();
    assert_eq!(read, artifact);
    read
}

fn sign_evidence(key: &OwnKey, cohort: &CohortId, message: &mut Message) {
    fn sign<T: Evidence>(key: &OwnKey, cohort: &CohortId, body: &mut Signed<T>) {
        assert!(body.sig.is_none());
        body.sign_with(cohort, |digest| key.sign_digest(digest));
    }
    match message {
        Message::CohortAck(body) => sign(key, cohort, body),
        Message::Response(body) => sign(key, cohort, body),
        Message::NonceUpdate(body) => sign(key, cohort, body),
        Message::PartialSignature(body) => sign(key, cohort, body),
        _ => {}
    }
}
