//! Peers that send whatever their keys can sign.
//!
//! A bad peer runs the real machine, and lies on top of it: it alters what it sends, says something else to each
//! reader, repeats what it heard (also bodies that others signed), and makes things up. Alterations are made on the
//! JSON of a message, at a random place, and by a list of those that are worth something to a thief. Public nonces
//! are replaced out of a fixed pool, so that nothing that follows depends on the value of a real one.

use std::collections::BTreeMap;
use std::rc::Rc;

use bitcoin::{Amount, OutPoint, ScriptBuf, Sequence, Transaction, Witness};
use btcr2_core::beacon::address::beacon_script;
use btcr2_core::hash::{sha256, to_hex};
use btcr2_core::keys::NostrKey;
use btcr2_core::protocol::aggregator::{AggregatorInput, Phase};
use btcr2_core::protocol::evidence::{Blame, Fault, LabelContext, Sighash};
use btcr2_core::protocol::message::{
    EndCause, Ended, History, Leave, Message, RoundCause, RoundFailed, RoundOpen, RoundRequest,
    SignRequest,
};
use btcr2_core::protocol::participant::ParticipantInput;
use btcr2_core::protocol::{Round, Seat};
use btcr2_core::time::UnixTime;
use serde_json::Value;

use super::check::difference;
use super::config::{Config, DAY};
use super::extras::Extra;
use super::fallback::alter_fallback;
use super::members::key;
use super::post::Payload;
use super::process::Input;
use super::rng::Rng;
use super::signing::sign_evidence;
use super::world::World;

/// Messages remembered to be sent again.
const ARCHIVE: usize = 400;

pub struct Adversary {
    pub rng: Rng,
    alters: u64,
    invents: u64,
    archive: Vec<Rc<Message>>,
    nonces: Vec<String>,
    script: ScriptBuf,
    /// Lies about what a replacement announces, and hardly before.
    replaces: bool,
}

impl Adversary {
    pub fn new(rng: Rng, config: &Config) -> Self {
        let point = |n: usize| format!("02{}", key(&format!("point {n}")).public());
        let bad = config.peers.iter().any(|peer| peer.bad);
        Self {
            rng,
            alters: config.alters,
            invents: config.invents,
            archive: Vec::new(),
            nonces: if bad {
                (0..4).map(|n| point(n) + &point(n + 1)).collect()
            } else {
                Vec::new()
            },
            script: beacon_script(key("thief").keypair().x_only_public_key().0),
            replaces: config.extras.contains(&Extra::Stuck),
        }
    }

    fn remember(&mut self, message: &Rc<Message>) {
        if self.archive.len() == ARCHIVE {
            let at = self.rng.index(ARCHIVE);
            self.archive.swap_remove(at);
        }
        self.archive.push(Rc::clone(message));
    }

    /// Whether a signal of this round was signed by all, and the run is about that.
    fn is_replacement(&self, request: &SignRequest) -> bool {
        let signed = |message: &Rc<Message>| {
            matches!(&**message, Message::RoundResult(result)
                if result.round == request.round && result.tx.is_some())
        };
        self.replaces && self.archive.iter().any(signed)
    }

    pub fn alter_or_drop(&mut self, message: Message) -> Option<Message> {
        if !self.rng.permille(self.alters) {
            return Some(message);
        }
        if self.rng.one_in(4) {
            return None;
        }
        Some(self.alter(&message).unwrap_or(message))
    }

    /// Another message of the same type.
    fn alter(&mut self, message: &Message) -> Option<Message> {
        if let Message::SignRequest(request) = message
            && self.rng.permille(700)
        {
            let mut request = request.clone();
            self.alter_request(&mut request);
            return Some(Message::SignRequest(request));
        }
        if let Message::FallbackRequest(request) = message
            && self.rng.permille(700)
        {
            let mut request = request.clone();
            alter_fallback(&mut self.rng, &self.script, &mut request);
            return Some(Message::FallbackRequest(request));
        }
        if let Message::CohortSet(set) = message
            && self.rng.one_in(2)
        {
            // Refunds to somebody else.
            let mut set = set.clone();
            let keys: Vec<NostrKey> = set.payees.keys().copied().collect();
            let who = (!keys.is_empty()).then(|| *self.rng.pick(&keys))?;
            set.payees.insert(who, self.script.clone());
            return Some(Message::CohortSet(set));
        }
        if let Message::RoundResult(result) = message
            && self.rng.permille(700)
        {
            let mut result = result.clone();
            self.alter_witness(&mut result.tx.as_mut()?.0);
            return Some(Message::RoundResult(result));
        }
        if let Message::History(history) = message
            && self.rng.permille(700)
        {
            let mut history = history.clone();
            self.alter_history(&mut history)?;
            return Some(Message::History(history));
        }
        let body = message.body().ok()?;
        for _ in 0..6 {
            let mut value: Value = serde_json::from_str(body.get()).ok()?;
            for _ in 0..self.rng.range(1, 2) {
                self.alter_json(&mut value);
            }
            let text = serde_json::value::to_raw_value(&value).ok()?;
            if let Ok(altered) = Message::parse(message.type_name(), &text)
                && altered != *message
            {
                return Some(altered);
            }
        }
        None
    }

    fn alter_json(&mut self, value: &mut Value) {
        match value {
            Value::Object(map) if !map.is_empty() => {
                let names: Vec<String> = map.keys().cloned().collect();
                let name = self.rng.pick(&names).clone();
                match self.rng.below(12) {
                    0 => {
                        map.remove(&name);
                    }
                    1 => {
                        let other = self.rng.pick(&names).clone();
                        let (a, b) = (map[&name].clone(), map[&other].clone());
                        map.insert(name, b);
                        map.insert(other, a);
                    }
                    _ => {
                        if let Some(inner) = map.get_mut(&name) {
                            self.alter_json(inner);
                        }
                    }
                }
            }
            Value::Array(items) if !items.is_empty() => {
                let at = self.rng.index(items.len());
                match self.rng.below(8) {
                    0 => {
                        items.remove(at);
                    }
                    1 => items.push(items[at].clone()),
                    2 => {
                        let other = self.rng.index(items.len());
                        items.swap(at, other);
                    }
                    _ => self.alter_json(&mut items[at]),
                }
            }
            Value::Number(number) => {
                let now = number.as_u64().unwrap_or(0);
                let other = match self.rng.below(5) {
                    0 => now.wrapping_add(1),
                    1 => now.saturating_sub(1),
                    2 => 0,
                    3 => now.saturating_mul(2),
                    _ => self.rng.below(10),
                };
                *value = other.into();
            }
            Value::Bool(is) => *value = (!*is).into(),
            Value::String(text) => *value = self.alter_text(text).into(),
            _ => *value = Value::from(self.rng.below(3)),
        }
    }

    fn alter_text(&mut self, text: &str) -> String {
        if text.len() == 132 {
            return self.rng.pick(&self.nonces).clone();
        }
        let mut bytes = text.as_bytes().to_vec();
        if bytes.is_empty() {
            return "x".into();
        }
        let at = self.rng.index(bytes.len());
        // Stays in the alphabet of hex, and of base64url.
        bytes[at] = match bytes[at] {
            b'0' => b'1',
            b'1'..=b'9' | b'b'..=b'f' => bytes[at] - 1,
            b'a' => b'9',
            other => other ^ 1,
        };
        String::from_utf8(bytes).unwrap_or_default()
    }

    /// What somebody who wants money, or wants DIDs to die, would ask to have signed.
    fn alter_request(&mut self, request: &mut SignRequest) {
        let rung = self.rng.index(request.rungs.len());
        let refunds = request.rungs.iter().any(|signed| signed.refund.is_some());
        let kind = if refunds && self.rng.one_in(3) {
            self.rng.range(8, 9)
        } else if self.is_replacement(request) && self.rng.one_in(2) {
            14
        } else {
            self.rng.below(16)
        };
        let pool = self.nonces.clone();
        let nonce = self.rng.pick(&pool).clone();
        let byte = self.rng.below(256) as u8;
        let thief = self.script.clone();
        let sat = self.rng.range(1, 60_000);
        // The same lie on every rung, or on one only.
        let all = self.rng.one_in(2);
        for (at, signed) in request.rungs.iter_mut().enumerate() {
            if !all && at != rung {
                continue;
            }
            let tx = &mut signed.tx.0;
            match kind {
                0 => tx.output[0].script_pubkey = thief.clone(),
                1 => tx.output.reverse(),
                2 => {
                    let value = tx.output[0].value.to_sat();
                    tx.output[0].value = Amount::from_sat(value.saturating_sub(sat));
                }
                3 => {
                    if let Some(last) = tx.output.last_mut() {
                        last.script_pubkey = op_return(&sha256(&[byte]));
                    }
                }
                4 => tx.input[0].sequence = Sequence(0xffff_fffe),
                5 => tx.lock_time = bitcoin::absolute::LockTime::from_consensus(1 + byte as u32),
                6 => tx.version = bitcoin::transaction::Version::ONE,
                7 => tx.input[0].previous_output = OutPoint::new(tx.compute_txid(), 0),
                8 => {
                    if let Some(refund) = &mut signed.refund {
                        refund.0.output[0].script_pubkey = thief.clone();
                    }
                }
                9 => {
                    if let Some(refund) = &mut signed.refund {
                        refund.0.input[0].sequence = Sequence(1);
                    }
                }
                10 => {
                    let more = bitcoin::TxOut {
                        value: Amount::from_sat(1_000),
                        script_pubkey: thief.clone(),
                    };
                    tx.output.insert(1, more);
                }
                11 => {
                    if let Some(last) = tx.output.last_mut() {
                        last.value = Amount::from_sat(sat);
                    }
                }
                _ => {}
            }
        }
        match kind {
            12 => {
                for aggregate in request.aggregate_nonces.values_mut() {
                    if let Ok(other) = serde_json::from_value(Value::from(nonce.clone())) {
                        *aggregate = other;
                    }
                }
            }
            13 => request.attempt += 1,
            14 | 15 => self.alter_announcement(request),
            _ => {}
        }
        // The refund spends what the altered transaction makes, or it would be noticed by that alone.
        if !(8..=9).contains(&kind) {
            for signed in &mut request.rungs {
                let txid = signed.tx.0.compute_txid();
                if let Some(refund) = &mut signed.refund
                    && let Some(input) = refund.0.input.first_mut()
                {
                    input.previous_output.txid = txid;
                }
            }
        }
    }

    /// The same transaction, signed by nobody: its id is that of what everybody signed.
    fn alter_witness(&mut self, tx: &mut Transaction) {
        let at = self.rng.index(tx.input.len());
        let Some(input) = tx.input.get_mut(at) else {
            return;
        };
        let mut items = input.witness.to_vec();
        match self.rng.below(4) {
            0 => items.clear(),
            1 => items.push(vec![0x50]),
            2 => items = vec![vec![7; 64]],
            _ => {
                if let Some(byte) = items.first_mut().and_then(|item| item.get_mut(40)) {
                    *byte ^= 1;
                }
            }
        }
        input.witness = Witness::from_slice(&items);
    }

    /// Proofs of the past that prove something else, or of another round.
    fn alter_history(&mut self, history: &mut History) -> Option<()> {
        let items = history.items.len();
        let at = (items > 0).then(|| self.rng.index(items))?;
        let other = history.items[self.rng.index(items)].clone();
        let item = &mut history.items[at];
        match self.rng.below(6) {
            0 => item.leaf = None,
            1 => item.announcement = Some("{}".into()),
            2 => item.path = other.path,
            3 => item.signal = other.signal,
            _ => {
                let path = item.path.as_mut()?;
                let hash = self.rng.index(path.hashes.len().max(1));
                match path.hashes.get_mut(hash) {
                    Some(hash) => hash[0] ^= 1,
                    None => path.collapsed[0] ^= 1,
                }
            }
        }
        Some(())
    }

    /// Announces something else, with a transaction that matches.
    fn alter_announcement(&mut self, request: &mut SignRequest) {
        let Some(text) = &mut request.announcement else {
            return;
        };
        let Ok(mut map) = serde_json::from_str::<BTreeMap<String, String>>(text) else {
            return;
        };
        let dids: Vec<String> = map.keys().cloned().collect();
        if let Some(did) = (!dids.is_empty()).then(|| self.rng.pick(&dids).clone()) {
            match self.rng.below(3) {
                0 => {
                    map.remove(&did);
                }
                _ => {
                    let other = btcr2_core::hash::UpdateHash::from_bytes(sha256(did.as_bytes()));
                    map.insert(did, other.to_string());
                }
            }
        }
        *text = serde_json::to_string(&map).unwrap_or_default();
        let hash = sha256(text.as_bytes());
        for signed in &mut request.rungs {
            if let Some(last) = signed.tx.0.output.last_mut() {
                last.script_pubkey = op_return(&hash);
            }
        }
    }
}

pub fn op_return(bytes: &[u8; 32]) -> ScriptBuf {
    ScriptBuf::from_hex(&format!("6a20{}", to_hex(bytes))).unwrap_or_default()
}

impl World {
    /// A bad peer's machine wants to send this.
    pub fn send_badly(&mut self, i: usize, to: NostrKey, message: Message) {
        let honest = Rc::new(message);
        self.adversary.remember(&honest);
        // There are few of these in a run, and nothing else is worth as much.
        let worth = match &*honest {
            Message::SignRequest(request) if self.adversary.is_replacement(request) => 40,
            Message::SignRequest(_) | Message::FallbackRequest(_) | Message::History(_) => 4,
            Message::PartialSignature(_)
            | Message::FallbackSignature(_)
            | Message::UpdateDeposit(_)
            | Message::RefundRequest(_)
            | Message::RoundResult(_)
            | Message::CohortSet(_) => 2,
            _ => 1,
        };
        let altered = self.adversary.alters * worth;
        if !self.adversary.rng.permille(altered.min(800)) {
            self.post(i, to, Payload::Core(honest), BTreeMap::new());
            return;
        }
        let kind = self.adversary.rng.below(10);
        if kind == 0 {
            self.line(20, i, 0, || format!("keeps back {}", honest.type_name()));
            return;
        }
        let Some(mut altered) = self.adversary.alter(&honest) else {
            self.post(i, to, Payload::Core(honest), BTreeMap::new());
            return;
        };
        // Mostly it stands by what it says; sometimes the signature is of something else.
        let stands = match &altered {
            Message::PartialSignature(_) => self.adversary.rng.one_in(2),
            _ => !self.adversary.rng.one_in(8),
        };
        if stands {
            sign_evidence(self, i, &mut altered);
        }
        let altered = Rc::new(altered);
        self.line(21, i, kind, || {
            let body = altered.body().map(|body| body.get().to_owned());
            format!(
                "alters {}: {}",
                altered.type_name(),
                body.unwrap_or_default()
            )
        });
        if i == 0 && to == self.channel && kind < 7 {
            // To some the truth, to others other lies.
            let mut instead = BTreeMap::new();
            for member in 1..self.processes.len() {
                match self.adversary.rng.below(4) {
                    0 => {}
                    1 => {
                        instead.insert(member, Rc::clone(&altered));
                    }
                    _ => {
                        let other = self.adversary.alter(&honest).map(Rc::new);
                        instead.insert(member, other.unwrap_or_else(|| Rc::clone(&altered)));
                    }
                }
            }
            self.post(i, to, Payload::Core(honest), instead);
            return;
        }
        self.post(i, to, Payload::Core(altered), BTreeMap::new());
        if kind >= 7 {
            // And then the truth.
            self.post(i, to, Payload::Core(honest), BTreeMap::new());
        }
    }

    /// A bad peer says something out of the blue.
    pub fn invent(&mut self, i: usize) {
        if !self.adversary.rng.permille(self.adversary.invents * 2) {
            return;
        }
        // What it heard is as good as what it said.
        let heard = self.processes[i].heard.len();
        for _ in 0..heard.min(3) {
            let at = self.adversary.rng.index(heard);
            let message = Rc::clone(&self.processes[i].heard[at]);
            self.adversary.remember(&message);
        }
        if i > 0 {
            self.stranger_speaks();
        }
        if self.adversary.archive.is_empty() {
            return;
        }
        let at = self.adversary.rng.index(self.adversary.archive.len());
        let mut message = (*self.adversary.archive[at]).clone();
        if i == 0 && self.adversary.rng.one_in(5) {
            message = self.forged_blame().unwrap_or(message);
        } else if self.adversary.rng.one_in(2) {
            message = self.adversary.alter(&message).unwrap_or(message);
            if self.adversary.rng.one_in(2) {
                sign_evidence(self, i, &mut message);
            }
        }
        let to = match (i, self.adversary.rng.below(3)) {
            (0, 0 | 1) => self.channel,
            (0, _) => {
                let who = self.adversary.rng.range(1, self.config.members as u64);
                self.processes[who as usize].public()
            }
            _ => self.processes[0].public(),
        };
        let name = message.type_name();
        self.line(22, i, at as u64, || format!("makes up a {name}"));
        self.post(i, to, Payload::Core(Rc::new(message)), BTreeMap::new());
    }

    /// A blame of an honest member, with a real signed body of it and a session that it never signed in.
    fn forged_blame(&mut self) -> Option<Message> {
        let signed: Vec<_> = self.processes[0]
            .disk
            .log
            .iter()
            .filter_map(|(_, input)| match input {
                Input::Aggregator(AggregatorInput::Message {
                    from,
                    message: Message::PartialSignature(signed),
                }) => Some((*from, signed.clone())),
                _ => None,
            })
            .collect();
        if signed.is_empty() {
            return None;
        }
        let (member, partials) = self.adversary.rng.pick(&signed).clone();
        let pool = self.adversary.nonces.clone();
        let aggregate = self.adversary.rng.pick(&pool).clone();
        let aggregate_nonce = serde_json::from_value(Value::from(aggregate)).ok()?;
        let labels = partials.content.nonces.keys();
        let session = labels
            .map(|label| {
                let context = LabelContext {
                    aggregate_nonce,
                    sighash: Sighash::from_bytes([7; 32]),
                };
                (*label, context)
            })
            .collect();
        let label = *partials.content.nonces.keys().next()?;
        let round = partials.content.round;
        Some(Message::RoundFailed(RoundFailed {
            round: Round(round.0 + self.adversary.rng.below(2) as u32),
            why: RoundCause::NoSignature {
                absent: vec![Seat(0)],
            },
            blamed: vec![Blame {
                member,
                fault: Fault::BadPartial {
                    partials: Box::new(partials),
                    label,
                    session,
                },
            }],
        }))
    }

    /// Rule 6: what a stranger says to the aggregator, or to a member, changes nothing.
    fn stranger_speaks(&mut self) {
        if self.adversary.archive.is_empty() {
            return;
        }
        let to = self.adversary.rng.index(self.processes.len());
        let open = self.processes[0].core.aggregator().phase() == &Phase::Open;
        if !self.processes[to].up || self.is_bad(to) || (to == 0 && open) {
            return;
        }
        let now = self.clock(to);
        // Beside the timers, which run with every input.
        let due = self.processes[to].core_due();
        if due.is_some_and(|at| at <= now) {
            return;
        }
        let from = key("a stranger").public();
        let before = self.processes[to].core.state();
        let mut said = Vec::new();
        for number in 0..7 {
            let at = self.adversary.rng.index(self.adversary.archive.len());
            let mut message = (*self.adversary.archive[at]).clone();
            if number == 6 {
                message = self.order(to, now);
            } else if matches!(message, Message::OptIn(_) | Message::HistoryRequest(_)) {
                continue;
            }
            // What was said before is known; something like it would be news.
            if number < 6 && self.adversary.rng.one_in(2) {
                message = self.adversary.alter(&message).unwrap_or(message);
            }
            let name = message.type_name();
            let input = match to {
                0 => Input::Aggregator(AggregatorInput::Message { from, message }),
                _ => Input::Member(ParticipantInput::Message { from, message }),
            };
            let step = self.processes[to].step(now, input);
            said.push((name, step));
        }
        let after = self.processes[to].core.state();
        if after != before {
            let part = difference(&before, &after);
            self.fail(format!(
                "rule 6: a stranger changed process {to}: {said:?}, {part}"
            ));
        }
    }

    /// What ends or moves something, if whoever says it is believed.
    fn order(&mut self, to: usize, now: UnixTime) -> Message {
        let rng = &mut self.adversary.rng;
        let last = self.rounds_opened.last().map_or(0, |(round, _)| round.0);
        let seat = Seat(rng.below(self.config.members as u64) as u16);
        match (to, rng.below(4)) {
            (0, 0) => Message::RoundRequest(RoundRequest { pending: 1 }),
            (0, _) => Message::Leave(Leave {
                even_if_frozen: true,
            }),
            (_, 0) => Message::Ended(Ended {
                why: EndCause::MemberLeft { seat },
            }),
            (_, 1) => Message::RoundOpen(RoundOpen {
                round: Round(last + 1),
                respond_by: now.plus(DAY),
                indexes: BTreeMap::new(),
                inputs: 1,
            }),
            (_, 2) => Message::RoundFailed(RoundFailed {
                round: Round(last),
                why: RoundCause::NoSignature { absent: vec![seat] },
                blamed: Vec::new(),
            }),
            _ => Message::Ended(Ended {
                why: EndCause::Cancelled,
            }),
        }
    }
}
