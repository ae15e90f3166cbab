//! What is stored: rules 5, 8, 12 and 13.

use super::*;

impl World {
    /// Whatever is kept for the life of a DID has to be right.
    pub fn check_artifact(&mut self, i: usize, artifact: &Artifact) {
        if self.is_bad(i) {
            return;
        }
        match artifact {
            Artifact::SmtProof {
                index,
                signal,
                nonce,
                update,
                path,
                ..
            } => {
                let hidden = nonce.as_ref().map(|nonce| sha256(nonce.as_bytes()));
                let leaf = match (hidden, update) {
                    (None, None) => sha256(&[0; 64]),
                    (None, Some(update)) => update.to_bytes(),
                    (Some(hidden), None) => sha256(&hidden),
                    (Some(hidden), Some(update)) => sha256(&[hidden, update.to_bytes()].concat()),
                };
                if fold(path, index.as_bytes(), leaf) != Some(signal.to_bytes()) {
                    self.broken(i, "rule 5", "a proof is kept that proves something else");
                }
            }
            Artifact::Announcement {
                signal,
                announcement,
                ..
            } if sha256(announcement.as_bytes()) != signal.to_bytes() => {
                self.broken(i, "rule 5", "an announcement of another signal is kept");
            }
            Artifact::Deposit { hash, update, .. } => {
                self.count("deposits taken");
                if !super::super::deposits::is_what_it_says(hash, update) {
                    self.broken(i, "deposits", "a deposit is kept that has another hash");
                }
            }
            Artifact::SignedTransaction { tx, .. } => self.check_signed(i, tx),
            _ => {}
        }
    }

    /// What is kept as signed is: a node would take it.
    pub fn check_signed(&mut self, i: usize, tx: &Transaction) {
        let inputs = tx.input.iter();
        let spent: Option<Vec<_>> = inputs
            .map(|input| self.chain.output(&input.previous_output).cloned())
            .collect();
        if let Some(spent) = spent
            && let Err(why) = self.chain.verify(tx, &spent)
        {
            self.broken(i, "rule 7", &format!("a bad signature was taken: {why}"));
        }
    }

    /// Rule 13: a DID lists the beacon only once all there is can be explained.
    pub fn check_bound(&mut self, i: usize, input: &Input) {
        let Input::Member(ParticipantInput::Bound { index }) = input else {
            return;
        };
        if self.is_bad(i) || !self.is_bound(i, index) {
            return;
        }
        let saw = self.processes[i].saw.as_ref();
        let seen = saw.map(|saw| saw.view.signals.values().map(|seen| seen.signal.to_bytes()));
        let unexplained = seen
            .into_iter()
            .flatten()
            .any(|signal| !self.explains(i, index, &signal));
        if unexplained {
            self.broken(
                i,
                "rule 13",
                "a DID was bound before its history was complete",
            );
        }
    }

    pub fn is_bound(&self, i: usize, index: &SmtIndex) -> bool {
        self.processes[i].core.member().binding_state(index) == Some(BindingState::Bound)
    }

    /// What a member acknowledges: its key once, its payee as it said, a count within the terms.
    pub fn check_set(&mut self, i: usize) {
        let process = &self.processes[i];
        let Some((set, _)) = process.core.member().set() else {
            return self.broken(i, "formation", "acknowledged no set");
        };
        let me = process.public();
        let mine = set.keys.iter().filter(|key| **key == me).count();
        let mut distinct = set.keys.clone();
        distinct.sort_unstable();
        distinct.dedup();
        let payee = self.config.payees.then(|| {
            let payee = super::super::members::key(&format!("payee of member {i}"));
            beacon_script(payee.keypair().x_only_public_key().0)
        });
        let count = set.keys.len() == usize::from(self.config.terms.seats_max);
        let own = set.payees.get(&me) == payee.as_ref();
        let odd = set
            .payees
            .values()
            .any(|script| script.as_bytes().first() == Some(&0x6a));
        if mine != 1 || distinct.len() != set.keys.len() || !count || !own || odd {
            self.broken(
                i,
                "formation",
                "acknowledged a set that is not what it agreed to",
            );
        }
    }

    /// Rule 8, at the end of a run: a process that never died again could have.
    pub fn check_logs(&mut self) {
        let silent = self.config.peers.iter().any(|p| p.silent_from.is_some());
        if !silent && !self.luck.one_in(4) {
            return;
        }
        for i in 0..self.processes.len() {
            if self.processes[i].up {
                let before = self.processes[i].core.state();
                let policy = i.checked_sub(1).map(|m| self.config.policies[m]);
                let after = self.processes[i].replayed(&self.config.terms, policy);
                self.checker.state_at_crash.insert(i, Some(before));
                self.check_state(i, &after);
            }
        }
    }

    /// Rule 8: what a replay of the log gives is what was in memory.
    pub fn check_replay(&mut self, i: usize) {
        if matches!(self.checker.state_at_crash.get(&i), Some(Some(_))) {
            let after = self.processes[i].core.state();
            self.check_state(i, &after);
        }
    }

    fn check_state(&mut self, i: usize, after: &str) {
        let Some(Some(before)) = self.checker.state_at_crash.remove(&i) else {
            return;
        };
        // Rule 12: neither state nor log ever holds the seat's secret.
        let secret = btcr2_core::hash::to_hex(&self.processes[i].own.keypair().secret_bytes());
        let log = format!("{:?}", self.processes[i].disk.log.last());
        if after.contains(&secret) || log.contains(&secret) {
            self.broken(i, "rule 12", "the secret of a seat is in state or log");
        }
        if before != after {
            let why = difference(&before, after);
            self.broken(i, "rule 8", &why);
        }
    }
}
