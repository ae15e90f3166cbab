//! What agents say of it: rules 7 and 9, and who is named.

use super::*;

impl World {
    pub fn check_report(&mut self, i: usize, report: &Report) {
        if self.is_bad(i) {
            return;
        }
        self.line(14, i, 0, || {
            format!("says {report:?}").chars().take(200).collect()
        });
        match report {
            Report::SetAcknowledged { .. } => self.check_set(i),
            Report::SignalConfirmed { txid, .. } => {
                let seen = self.in_block(i, txid);
                self.checker
                    .says_confirmed
                    .entry(i)
                    .or_default()
                    .insert(*txid);
                if !seen {
                    self.broken(i, "rule 9", "called confirmed what its chain does not show");
                }
            }
            Report::SignalReorganised { txid, .. } => {
                self.checker
                    .says_confirmed
                    .entry(i)
                    .or_default()
                    .remove(txid);
            }
            Report::SignalBroadcast { txid, .. } if !self.checker.taken.contains(txid) => {
                self.broken(i, "rule 9", "called broadcast what no node took");
            }
            Report::MemberBlamed { blame, proved } => {
                self.check_blame(i, blame.member, *proved);
                if let Fault::BadPartial { partials, .. } = &blame.fault
                    && *proved
                    && !partials.verifies(&self.cohort, blame.member)
                {
                    self.broken(i, "rule 7", "the evidence is not signed by the accused");
                }
                if let Fault::BadFallbackSignature { signature, .. } = &blame.fault
                    && *proved
                {
                    self.count("blames through the leaf");
                    if !signature.verifies(&self.cohort, blame.member) {
                        self.broken(i, "rule 7", "the evidence is not signed by the accused");
                    }
                }
            }
            // Who came back with an old disk may be told of what it did and does not know.
            Report::Alarm { text }
                if self.config.family == Family::Faults && self.processes[i].lives == 0 =>
            {
                self.broken(i, "rule 7", &format!("alarm among the honest: {text}"));
            }
            Report::FallbackOpened { .. } if i == 0 => self.count("fallbacks opened"),
            Report::FallbackOpened { .. } => self.count("fallbacks told"),
            Report::ReplacementOpened { .. } if i > 0 => self.count("replacements told"),
            _ => {}
        }
        if i == 0 {
            self.check_round_report(report);
        }
    }

    pub fn check_round_report(&mut self, report: &Report) {
        match report {
            Report::RoundEmpty { round } => {
                self.checker.fates.entry(*round).or_default().empty = true;
            }
            Report::SignalConfirmed { round, txid, .. } => {
                let fate = self.checker.fates.entry(*round).or_default();
                fate.confirmed = Some(*txid);
            }
            Report::SignalReorganised { round, .. } => {
                self.checker.fates.entry(*round).or_default().confirmed = None;
            }
            Report::RoundFailed { round, why } => {
                self.checker.fates.entry(*round).or_default().failed = Some(why.clone());
                let settled = self.settled_rounds().contains(round);
                let lost = settled && self.is_anything_lost();
                if self.config.family == Family::Faults && settled && !lost && !self.left {
                    self.broken(0, "liveness", &format!("round {round} failed: {why:?}"));
                }
                let meant = self.processes[0].lives > 0 || self.is_stopped_once(0);
                if *why == RoundCause::Operator && !meant {
                    // Nobody ends a round by hand here: the machine gave up, and named nobody.
                    self.broken(0, "rule 7", &format!("round {round} was killed"));
                }
                self.check_named(why);
            }
            _ => {}
        }
    }

    /// Where everything but some members works, a round that fails names them and nobody else.
    pub fn check_named(&mut self, why: &RoundCause) {
        if !self.config.calm || self.config.family != Family::BadMembers {
            return;
        }
        let (RoundCause::NoResponse { absent } | RoundCause::NoSignature { absent }) = why else {
            return;
        };
        let set = self.processes[0].core.aggregator().set();
        let Some(keys) = set.map(|(set, _)| set.keys.clone()) else {
            return;
        };
        let honest: Vec<&Seat> = absent
            .iter()
            .filter(|seat| {
                let key = keys.get(usize::from(seat.0));
                let who = self.processes.iter().position(|p| Some(&p.public()) == key);
                who.is_none_or(|who| !self.checker.bad.contains(&who))
            })
            .collect();
        if absent.is_empty() || !honest.is_empty() {
            let why = format!("{why:?} names {honest:?}, who answered in time");
            self.broken(0, "names the culprit", &why);
        }
    }

    pub fn in_block(&self, i: usize, txid: &Txid) -> bool {
        let saw = self.processes[i].saw.as_ref();
        saw.and_then(|saw| saw.view.signals.get(txid))
            .is_some_and(|seen| seen.height.is_some())
    }

    /// Rule 9, after it looked at the chain: what it says is confirmed is what the chain shows.
    pub fn check_confirmations(&mut self, i: usize) {
        if self.is_bad(i) {
            return;
        }
        let says = self.checker.says_confirmed.get(&i).cloned();
        for txid in says.unwrap_or_default() {
            if !self.in_block(i, &txid) && !self.is_final(&txid) {
                self.broken(
                    i,
                    "rule 9",
                    &format!("{txid} left the chain, and nothing was said"),
                );
            }
        }
    }
}
