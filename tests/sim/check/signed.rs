//! What honest members sign: rules 2, 3, 4, 5, 10 and 13.

use super::*;

impl World {
    /// Rule 10: one update per DID until the one before is settled.
    pub fn check_response(&mut self, i: usize, response: &Response) {
        let updates = self.updates_in(i, response);
        for (did, update) in &updates {
            let said = self.checker.said.entry((i, *did)).or_default();
            said.insert(*update);
        }
        self.check_shown(i, response);
        self.check_answers(i, response.round, &updates);
        // Who came back with an old disk may say what it does not sign then, where that takes its signature.
        let all_sign = self.config.terms.output_policy == OutputPolicy::Musig2KeyPath;
        let harmless = all_sign && self.processes[i].lives > 0;
        for (did, update) in updates {
            if harmless {
                break;
            }
            if let Some(other) = self.conflicting(i, did, response.round, &update) {
                self.broken(
                    i,
                    "rule 10",
                    &format!("a second update while {other:?} lives"),
                );
            }
        }
    }

    /// Where k members can sign without the others, what was said in a round may come to the chain until a signal of
    /// that round or of a later one is final: no other update of the DID is said before.
    fn check_answers(&mut self, i: usize, round: Round, updates: &BTreeMap<usize, UpdateHash>) {
        if self.config.terms.output_policy == OutputPolicy::Musig2KeyPath {
            return;
        }
        let Some(saw) = self.processes[i].saw.clone() else {
            return;
        };
        let deep = |height| saw.view.confirmations(height) >= FINAL_DEPTH;
        let seen = saw.view.signals.values();
        let last_final: Option<Round> = seen
            .filter(|seen| seen.height.is_some_and(deep))
            .filter_map(|seen| self.checker.rounds_of.get(&seen.signal.to_bytes()).copied())
            .max();
        let before = self.checker.answered.get(&i).cloned().unwrap_or_default();
        let version = |update: &UpdateHash| self.checker.versions.get(update).copied();
        // What is final in another signal may be said again: it changes nothing any more.
        let other = |(did, update): (&usize, &UpdateHash)| {
            let differs = |now: &UpdateHash| now != update && version(now) >= version(update);
            updates.get(did).is_some_and(differs) && !self.is_final_update(i, *did, update)
        };
        let lives = before.iter().find(|(earlier, said)| {
            *earlier < round
                && last_final.is_none_or(|last| last < *earlier)
                && said.iter().any(other)
        });
        let lives = lives.map(|(round, _)| *round);
        let answered = self.checker.answered.entry(i).or_default();
        answered.push((round, updates.clone()));
        if let Some(earlier) = lives {
            let why = format!(
                "round {round} says other updates than round {earlier}, which others may still sign"
            );
            self.broken(i, "rule 10", &why);
        }
    }

    /// The updates that a response announces, by the number of the DID.
    pub fn updates_in(&self, i: usize, response: &Response) -> BTreeMap<usize, UpdateHash> {
        use super::super::members::smt_nonce;
        let process = &self.processes[i];
        let mut found = BTreeMap::new();
        for (number, did) in process.dids.iter().enumerate() {
            let made = self.updates_of(i, &did.index);
            match &response.entries {
                Entries::Cas(entries) => {
                    let entry = entries.iter().find(|entry| entry.did == did.did);
                    if let Some(update) = entry.and_then(|entry| entry.update) {
                        found.insert(number, update);
                    }
                }
                Entries::Smt(entries) => {
                    let entry = entries.iter().find(|entry| entry.index == did.index);
                    let Some(leaf) = entry.and_then(|entry| entry.leaf) else {
                        continue;
                    };
                    let nonce = smt_nonce(process.public(), response.round, &did.index);
                    let hidden = sha256(nonce.as_bytes());
                    let of = |update: &UpdateHash| {
                        let with = sha256(&[hidden, update.to_bytes()].concat());
                        with == leaf.to_bytes()
                    };
                    if let Some(update) = made.into_iter().find(of) {
                        found.insert(number, update);
                    }
                }
            }
        }
        found
    }

    /// Whether an update is in a signal that this member signed or was told of, and that is final.
    pub fn is_final_update(&self, i: usize, did: usize, update: &UpdateHash) -> bool {
        let Some(saw) = self.processes[i].saw.as_ref() else {
            return false;
        };
        let signed = [&self.checker.signed, &self.checker.told];
        let mut signed = signed.iter().flat_map(|of| of.get(&i)).flatten();
        signed.any(|signed| {
            let mut seen = saw.view.signals.values();
            let deep = |height| saw.view.confirmations(height) >= FINAL_DEPTH;
            signed.updates.get(&did) == Some(update)
                && seen.any(|seen| {
                    seen.signal.to_bytes() == signed.signal && seen.height.is_some_and(deep)
                })
        })
    }

    /// Another update of the DID in a signal that this member signed in an earlier round, and that is neither dead
    /// nor final.
    pub fn conflicting(
        &self,
        i: usize,
        did: usize,
        round: Round,
        update: &UpdateHash,
    ) -> Option<UpdateHash> {
        let saw = self.processes[i].saw.as_ref()?;
        let signed = [&self.checker.signed, &self.checker.told];
        let signed = || signed.iter().flat_map(|of| of.get(&i)).flatten();
        let is_final = |signal: &[u8; 32]| {
            saw.view.signals.values().any(|seen| {
                let deep = |height| saw.view.confirmations(height) >= FINAL_DEPTH;
                seen.signal.to_bytes() == *signal && seen.height.is_some_and(deep)
            })
        };
        // The same update may have been announced twice: final once is final.
        let settled: BTreeSet<UpdateHash> = signed()
            .filter(|signed| is_final(&signed.signal))
            .filter_map(|signed| signed.updates.get(&did).copied())
            .collect();
        let version = |update: &UpdateHash| self.checker.versions.get(update).copied();
        // Who came back with an old disk knows of the former life what the chain shows. What is not there spends the
        // same output as what is signed now, and one of the two at most confirms.
        let shown = |signal: &[u8; 32]| {
            let mut seen = saw.view.signals.values();
            seen.any(|seen| seen.signal.to_bytes() == *signal)
        };
        let anew = self.processes[i].lives > 0;
        let is_dead = |signed: &SignedSignal| {
            let chain = &self.chain;
            chain.is_impossible(&signed.input, &saw.view, FINAL_DEPTH)
                || saw.view.spends.get(&signed.input).is_some_and(|spend| {
                    let ours = saw.view.signals.get(&spend.by);
                    let deep = |height| saw.view.confirmations(height) >= FINAL_DEPTH;
                    ours.is_none_or(|seen| seen.signal.to_bytes() != signed.signal)
                        && spend.height.is_some_and(deep)
                })
        };
        let before = || {
            signed()
                .filter(|signed| signed.round < round)
                .filter(|signed| !anew || shown(&signed.signal))
                .filter(|signed| !is_dead(signed))
                .filter_map(|signed| signed.updates.get(&did).copied())
        };
        // Also when one is final: a second one for its version ends the DID.
        let twice = |other: &UpdateHash| other != update && version(other) == version(update);
        if let Some(other) = before().find(twice) {
            return Some(other);
        }
        before()
            // Who came back with an old disk may say again what was announced before: the same bytes.
            .filter(|other| version(other) < version(update))
            .find(|other| !settled.contains(other))
    }

    pub fn check_partials(&mut self, i: usize, content: &Partials) -> Result<(), String> {
        let (round, attempt) = (content.round, content.attempt);
        let text = serde_json::to_string(content).map_err(|error| error.to_string())?;
        if let Some(before) = self.checker.sent.insert((i, round, attempt), text.clone())
            && before != text
        {
            return Err("rule 1: another partial signature for the same session".into());
        }
        let process = &self.processes[i];
        let core = process.core.member();
        let (set, keys) = core.set().ok_or("it knows no set")?;
        let response = self.checker.responses.get(&(i, round));
        let response = response.ok_or("it never responded in that round")?;
        let replaces = process.heard.iter().any(|message| {
            matches!(&**message, Message::RoundResult(result)
                if result.round == round && result.tx.is_some())
        });
        let known = Knowledge {
            terms: &self.config.terms,
            policy: self.config.policies[i - 1],
            script: beacon_script(keys.output_key()),
            payees: set.refund_scripts(&self.config.terms),
            keys: {
                let mut sorted: Vec<[u8; 32]> = set.keys.iter().map(|k| k.to_bytes()).collect();
                sorted.sort_unstable();
                sorted
            },
            output_key: keys.output_key().serialize(),
            response,
            inputs_before: self.checker.inputs.get(&(i, round)).cloned(),
            replaces,
        };
        let found = recheck(process, &known, content)?;
        for (label, nonce) in &content.nonces {
            let used = self.checker.nonces.get(&nonce.to_bytes());
            let used = used.ok_or("a nonce that the signer did not use")?;
            if used.0 != found.sighashes[label] {
                return Err(format!("{label} was signed for another digest"));
            }
        }
        self.check_durable(i, round, &found.signal, response)?;
        self.check_lineage(i, round, &found.inputs, &found.signal)?;
        self.check_protected(i, content, &found.inputs)?;
        let response = response.clone();
        for (did, update) in self.updates_in(i, &response) {
            if let Some(other) = self.conflicting(i, did, round, &update) {
                return Err(format!("rule 10: a second update while {other:?} lives"));
            }
        }
        let given = self.processes[i].core.member().given().iter();
        for txid in given.map(|given| given.txid).collect::<Vec<_>>() {
            self.checker.sign(i, txid);
        }
        let tip = found.inputs[0];
        self.checker
            .inputs
            .entry((i, round))
            .or_insert(found.inputs);
        self.note_signed(i, round, found.signal, tip, &response);
        Ok(())
    }

    /// An honest member signed what announces this.
    pub fn note_signed(
        &mut self,
        i: usize,
        round: Round,
        signal: [u8; 32],
        input: OutPoint,
        response: &Response,
    ) {
        let updates = self.updates_in(i, response);
        self.checker.rounds_of.insert(signal, round);
        let signed = SignedSignal {
            round,
            signal,
            input,
            updates,
        };
        self.checker.signed.entry(i).or_default().push(signed);
    }

    /// A member was told of a signal through the leaf. Others can sign it: what it announces of this member's DIDs may
    /// confirm.
    pub fn note_told(&mut self, i: usize, request: &FallbackRequest) {
        let round = request.round;
        let tx = &request.tx.0;
        let (Some(signal), Some(input)) = (signal_of(tx), tx.input.first()) else {
            return;
        };
        let input = input.previous_output;
        let said = self.checker.responses.get(&(i, round)).cloned();
        let Some(said) = said.filter(|_| !self.is_bad(i)) else {
            return;
        };
        let announces = |did: &super::super::members::MyDid| match &request.announced {
            Announced::Smt(leaves) => leaves.iter().any(|(index, _)| *index == did.index),
            Announced::Cas(text) => text.contains(did.did.as_str()),
        };
        let mut updates = self.updates_in(i, &said);
        updates.retain(|number, _| announces(&self.processes[i].dids[*number]));
        let signed = SignedSignal {
            round,
            signal,
            input,
            updates,
        };
        self.checker.told.entry(i).or_default().push(signed);
    }

    /// Rules 5 and 13: what explains this signal, and every one before it, is on the disk.
    pub fn check_durable(
        &self,
        i: usize,
        round: Round,
        signal: &[u8; 32],
        response: &Response,
    ) -> Result<(), String> {
        let process = &self.processes[i];
        let core = process.core.member();
        for did in &process.dids {
            let listed = match &response.entries {
                Entries::Smt(entries) => entries.iter().any(|entry| entry.index == did.index),
                Entries::Cas(entries) => entries.iter().any(|entry| entry.did == did.did),
            };
            let bound = core.binding_state(&did.index) == Some(BindingState::Bound);
            if (listed || bound) && !self.explains(i, &did.index, signal) {
                return Err(format!(
                    "rule 5: round {round}, nothing on the disk explains it for {}",
                    did.did
                ));
            }
            let Some(saw) = process.saw.as_ref().filter(|_| bound) else {
                continue;
            };
            for seen in saw.view.signals.values() {
                if !self.explains(i, &did.index, &seen.signal.to_bytes()) {
                    return Err(format!(
                        "rule 13: {} can not explain {}",
                        did.did, seen.signal
                    ));
                }
            }
        }
        Ok(())
    }

    /// Whether an artifact on the disk of `i` explains a signal for an index.
    pub fn explains(&self, i: usize, of: &SmtIndex, signal: &[u8; 32]) -> bool {
        let artifacts = &self.processes[i].disk.artifacts;
        artifacts.iter().any(|artifact| match artifact {
            Artifact::SmtProof {
                index, signal: s, ..
            } => index == of && s.to_bytes() == *signal,
            Artifact::Announcement { signal: s, .. } => s.to_bytes() == *signal,
            _ => false,
        })
    }

    /// Rule 4: what may still confirm spends the same output; a round has one value.
    pub fn check_lineage(
        &self,
        i: usize,
        round: Round,
        inputs: &[OutPoint],
        signal: &[u8; 32],
    ) -> Result<(), String> {
        let Some(signed) = self.checker.signed.get(&i) else {
            return Ok(());
        };
        let saw = self.processes[i].saw.as_ref().ok_or("it saw no chain")?;
        for other in signed {
            if other.round == round && other.signal != *signal {
                return Err("rule 4: two values in one round".into());
            }
            let spend = saw.view.spends.get(&other.input);
            let depth = u32::from(self.config.terms.depth);
            let settled = spend.is_some_and(|spend| {
                let deep = spend
                    .height
                    .is_some_and(|height| saw.view.confirmations(height) >= depth);
                let itself = saw.view.signals.get(&spend.by);
                let itself = itself.is_some_and(|seen| seen.signal.to_bytes() == other.signal);
                deep || (itself && spend.height.is_some())
            });
            let settled = settled || self.chain.is_impossible(&other.input, &saw.view, depth);
            if !settled && other.input != inputs[0] {
                return Err(format!(
                    "rule 4: the signal of round {} may still confirm beside it",
                    other.round
                ));
            }
        }
        Ok(())
    }
}
