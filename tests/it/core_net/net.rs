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

use std::collections::VecDeque;

use bitcoin::{ScriptBuf, Transaction};
use btcr2_agent::beacon::address::beacon_script;
use btcr2_agent::beacon::cas::CasAnnouncement;
use btcr2_agent::beacon::smt::Leaf;
use btcr2_agent::hash::{UpdateHash, sha256};
use btcr2_agent::keys::{NostrKey, OwnKey, Signer};
use btcr2_agent::network::Network;
use btcr2_agent::protocol::Round;
use btcr2_agent::protocol::aggregator::{Aggregator, AggregatorInput, Phase};
use btcr2_agent::protocol::effect::{AdvertStatus, Artifact, Outcome, Report, Step};
use btcr2_agent::protocol::evidence::{Evidence, Signed};
use btcr2_agent::protocol::history;
use btcr2_agent::protocol::message::{Message, RegisterItem};
use btcr2_agent::protocol::participant::{
    BindingState, Decline, MemberPhase, ParticipantInput, SigningPolicy,
};
use btcr2_agent::protocol::terms::{CohortBeacon, Salt, Terms};
use btcr2_agent::time::UnixTime;

use super::chain::Chain;
use super::node::{Node, key, update};

pub const START: UnixTime = UnixTime(1_800_000_000);
pub const HOUR: u64 = 3_600;

/// What a net is made of.
pub struct Setup {
    pub terms: Terms,
    n: usize,
    dids: Vec<usize>,
    pub policy: SigningPolicy,
    /// Whether everybody names a payee.
    payees: bool,
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
                max_fee_sat: 50_000,
                decline: Decline::NoUpdate,
            },
            payees: false,
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

    /// Everybody names a payee, so that there are refunds.
    pub fn refunds(mut self) -> Self {
        self.payees = true;
        self
    }

    pub fn decline(mut self, decline: Decline) -> Self {
        self.policy.decline = decline;
        self
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
    pub mail: VecDeque<Mail>,
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
    payees: bool,
    pub record: bool,
    pub agg_log: Vec<(UnixTime, AggregatorInput, Step)>,
}

impl Net {
    pub fn new(setup: Setup) -> Self {
        let Setup {
            terms,
            n,
            dids,
            policy,
            payees,
            record,
        } = setup;
        let nodes = (0..n)
            .map(|i| Node::new(&terms, i, dids[i], policy))
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
            mail: VecDeque::new(),
            archive: Vec::new(),
            hook: None,
            hold: None,
            held: Vec::new(),
            duplicate: false,
            shuffle: None,
            broadcasts: true,
            history_bytes: history::MAX_ANSWER_BYTES,
            elsewhere: Vec::new(),
            payees,
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
            let payee = self.payee(&format!("member {i}"));
            self.input(i, ParticipantInput::Join { payee });
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
            payee: self.payee("aggregator"),
        });
    }

    /// Where refunds to somebody go.
    pub fn payee(&self, name: &str) -> Option<ScriptBuf> {
        let payee = key(&format!("payee of {name}"));
        let (x_only, _) = payee.keypair().x_only_public_key();
        self.payees.then(|| beacon_script(x_only))
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
        self.nodes[i].updates.push(update);
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
        let script = self.script();
        let view = self.chain.view(&script);
        if let Some(update) = self.agg.chain().diff(&view) {
            self.agg_input(AggregatorInput::Chain(update));
        }
        for i in 0..self.nodes.len() {
            let node = &self.nodes[i];
            if !node.sees_chain || node.core.set().is_none() {
                continue;
            }
            // Anew for each: the one before may have sent something.
            let view = self.chain.view(&script);
            if let Some(update) = node.core.chain().diff(&view) {
                self.input(i, ParticipantInput::Chain(update));
            }
        }
    }

    /// Lets time pass: ticks at every deadline on the way.
    pub fn advance(&mut self, seconds: u64) {
        let until = self.now.plus(seconds);
        loop {
            let members = self.nodes.iter().map(|node| node.core.deadline());
            let deadlines: Vec<_> = [self.agg.deadline()].into_iter().chain(members).collect();
            let next = deadlines
                .iter()
                .enumerate()
                .filter_map(|(who, at)| Some(((*at)?, who)));
            let Some((at, who)) = next.min().filter(|(at, _)| *at <= until) else {
                break;
            };
            self.now = self.now.max(at);
            let next = if let Some(i) = who.checked_sub(1) {
                self.input(i, ParticipantInput::Tick);
                self.nodes[i].core.deadline()
            } else {
                self.agg_input(AggregatorInput::Tick);
                self.agg.deadline()
            };
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
        let mail = self.mail.remove(at).unwrap();
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
        self.mail.extend(self.held.drain(..));
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
}
