//! Updates that are shown to the aggregator: real ones, with documents, and what may follow from a deposit.

use std::collections::BTreeMap;

use bitcoin::Transaction;
use btcr2_core::did::{DocumentPatch, UnsignedUpdate, initial_key_document};
use btcr2_core::hash::{UpdateHash, sha256};
use btcr2_core::protocol::aggregator::FINAL_DEPTH;
use btcr2_core::protocol::deposit::UpdateDeposit;
use btcr2_core::protocol::effect::Artifact;
use btcr2_core::protocol::message::{Entries, Message, Response};
use btcr2_core::protocol::participant::ParticipantInput;
use btcr2_core::protocol::terms::Deposits;

use super::process::Input;
use super::recheck::{canonical_map, signal_of};
use super::world::{Crashed, World};

impl World {
    /// The highest version of a DID that is final, as its controller sees the chain; 1 for one that was never updated.
    pub fn final_version(&self, i: usize, did: usize) -> (u32, Option<UpdateHash>) {
        let made = self.processes[i].disk.updates.get(&did).into_iter();
        let is_final = |update: &&UpdateHash| self.is_final_update(i, did, update);
        let last = made.flatten().filter(is_final).max_by_key(|update| {
            // Of those for one version one at most is announced.
            self.checker.versions.get(*update).copied()
        });
        match last {
            Some(last) => (self.checker.versions[last], Some(*last)),
            None => (1, None),
        }
    }

    /// The user makes an update that leads to a version, and shows it to the aggregator if that is drawn or has to be.
    pub fn make_real_update(
        &mut self,
        i: usize,
        did: usize,
        (before, source): (u32, Option<UpdateHash>),
    ) -> Result<UpdateHash, Crashed> {
        let number = self.processes[i].disk.updates.get(&did).map_or(0, Vec::len);
        let mine = &self.processes[i].dids[did];
        let source = match source.and_then(|source| self.processes[i].disk.documents.get(&source)) {
            Some(document) => document.clone(),
            None => initial_key_document(&mine.did).expect("a k1 DID"),
        };
        let life = self.processes[i].lives;
        let service = serde_json::json!({
            "id": format!("{}#service-{life}-{number}", mine.did),
            "type": "Example",
            "serviceEndpoint": "https://example.com/",
        });
        let patch = serde_json::json!([{ "op": "add", "path": "/service/-", "value": service }]);
        let patch = DocumentPatch::from_value(&patch).expect("a patch");
        let unsigned =
            UnsignedUpdate::new(&source, before.into(), &patch).expect("it applies to its source");
        let target = unsigned.target().clone();
        let method = source.invocation_methods().next().expect("a method");
        let signed = unsigned
            .sign_with_aux(mine.key.keypair(), &method.id, &[0; 32])
            .expect("its own key");
        let update = signed.hash();
        let deposit = UpdateDeposit::new(&signed, &source, None).expect("a small update");
        self.processes[i].disk.documents.insert(update, target);
        let shows = match self.config.terms.deposits {
            Deposits::None => false,
            Deposits::Accepted => self.luck.one_in(2),
            Deposits::Required => true,
        };
        if shows {
            self.checker.shown.insert(update);
            self.count("updates shown");
            let deposit = ParticipantInput::Deposit(Box::new(deposit));
            self.feed(i, Input::Member(deposit))?;
        }
        Ok(update)
    }

    /// What a response discloses and announces is what its user showed, and the aggregator verified.
    pub fn check_shown(&mut self, i: usize, response: &Response) {
        let term = self.config.terms.deposits;
        let updates = self.updates_in(i, response);
        if let Entries::Smt(entries) = &response.entries {
            for entry in entries {
                let Some(opened) = &entry.opened else {
                    continue;
                };
                let shown = opened
                    .update
                    .is_some_and(|update| self.checker.shown.contains(&update));
                let may = match term {
                    Deposits::None => false,
                    Deposits::Accepted => shown,
                    Deposits::Required => true,
                };
                if !may {
                    self.broken(i, "deposits", "a leaf is opened that nobody asked to show");
                }
            }
        }
        let verified = |update: &UpdateHash| {
            self.processes[i].heard.iter().any(|message| {
                let Message::Deposited(deposited) = &**message else {
                    return false;
                };
                deposited
                    .items
                    .iter()
                    .any(|item| item.update == *update && item.anchored.is_some())
            })
        };
        let unverified = updates.values().find(|update| !verified(update)).copied();
        if let (Deposits::Required, Some(update)) = (term, unverified) {
            let why = format!("{update} is announced before it was verified");
            self.broken(i, "deposits", &why);
        }
        let deposited = updates.values().any(|u| self.checker.shown.contains(u));
        if deposited && term != Deposits::None {
            self.count("responses with deposits");
        }
    }

    /// What an aggregator announces under terms that require deposits was deposited, and no version twice.
    pub fn check_deposited(&mut self, tx: &Transaction) {
        if self.config.terms.deposits != Deposits::Required {
            return;
        }
        let Some(signal) = signal_of(tx) else {
            return;
        };
        let artifacts = self.processes[0].disk.artifacts.clone();
        let deposits: BTreeMap<UpdateHash, &str> = artifacts
            .iter()
            .filter_map(|artifact| match artifact {
                Artifact::Deposit { hash, update, .. } => Some((*hash, update.as_str())),
                _ => None,
            })
            .collect();
        let mut announced: Vec<UpdateHash> = Vec::new();
        for signed in self.checker.all_signed() {
            if signed.signal == signal {
                announced.extend(signed.updates.values());
            }
        }
        let maps = artifacts.iter().filter_map(|artifact| match artifact {
            Artifact::Announcement {
                signal,
                announcement,
                ..
            } => Some((signal.to_bytes(), canonical_map(announcement).ok()?)),
            _ => None,
        });
        let maps: Vec<_> = maps.collect();
        let mine = maps.iter().filter(|(of, _)| *of == signal);
        for update in mine.flat_map(|(_, map)| map.values()) {
            match update.parse() {
                Ok(update) => announced.push(update),
                Err(_) => return self.broken(0, "deposits", "announces what is no hash"),
            }
        }
        if let Some(missing) = announced.iter().find(|u| !deposits.contains_key(*u)) {
            let why = format!("{missing} is announced and was never deposited");
            return self.broken(0, "deposits", &why);
        }
        self.check_versions(&signal, &maps, &deposits);
    }

    /// No DID gets two updates to one version in signals that are on the chain.
    fn check_versions(
        &mut self,
        signal: &[u8; 32],
        maps: &[([u8; 32], BTreeMap<String, String>)],
        deposits: &BTreeMap<UpdateHash, &str>,
    ) {
        let version = |update: &str| {
            let deposit = deposits.get(&update.parse().ok()?)?;
            let json: serde_json::Value = serde_json::from_str(deposit).ok()?;
            json.get("targetVersionId")?.as_u64()
        };
        let deep = |of: &[u8; 32]| {
            self.chain.txs.values().any(|placed| {
                let deep = placed
                    .height
                    .is_some_and(|height| self.chain.height + 1 - height >= FINAL_DEPTH);
                deep && signal_of(&placed.tx) == Some(*of)
            })
        };
        let Some((_, now)) = maps.iter().find(|(of, _)| of == signal) else {
            return;
        };
        for (of, before) in maps.iter().filter(|(of, _)| of != signal && deep(of)) {
            for (did, update) in now {
                let Some(other) = before.get(did).filter(|other| *other != update) else {
                    continue;
                };
                if version(other).is_some() && version(other) == version(update) {
                    let why = format!("{did} gets two updates to one version ({of:?})");
                    return self.broken(0, "deposits", &why);
                }
            }
        }
    }
}

/// Whether a kept deposit is what its hash says.
pub fn is_what_it_says(hash: &UpdateHash, update: &str) -> bool {
    sha256(update.as_bytes()) == hash.to_bytes()
}
