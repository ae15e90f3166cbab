//! What happened in a cohort, for people: rounds, ends, alarms, who was heard when.
//!
//! It is derived from the inputs and effects of the core, so that replaying the log rebuilds it. Nothing
//! depends on it.

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};

use bitcoin::Txid;

use crate::hash::SignalBytes;
use crate::keys::NostrKey;
use crate::protocol::effect::{Effect, Outcome, Report, Step};
use crate::protocol::ids::Round;
use crate::protocol::message::{EndCause, RefusalCode, RoundCause};
use crate::time::UnixTime;
use serde::{Deserialize, Serialize};

/// Rounds remembered: years of daily ones. The store keeps the transactions of all.
const MAX_ROUNDS: usize = 2_000;

/// Alarms remembered.
const MAX_ALARMS: usize = 32;

/// Members blamed in one round that are remembered.
const MAX_BLAMED: usize = 16;

/// Keys whose last message is remembered; a set has at most 1 000 members.
const MAX_HEARD: usize = 2_000;

/// The story of one cohort in one role.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Journal {
    pub(super) rounds: BTreeMap<Round, RoundRecord>,
    pub(super) heard: BTreeMap<NostrKey, UnixTime>,
    pub(super) alarms: VecDeque<Alarm>,
    pub(super) end: Option<(UnixTime, End)>,
}

/// How it ended for this agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum End {
    Ended(EndCause),
    Refused(RefusalCode),
    Rejected(String),
    Released(String),
}

/// Something that needs a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Alarm {
    pub(super) at: UnixTime,
    pub(super) code: Cow<'static, str>,
    pub(super) text: String,
    /// The round it is about, if it goes away by itself once that is well.
    round: Option<Round>,
    /// Whether the user has seen it.
    seen: bool,
}

/// The code of the alarm over a spend of the beacon that was not signed here.
pub(super) const UNKNOWN_SPEND: &str = "unknown_spend";

/// What is known of one round.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RoundRecord {
    pub(super) opened: UnixTime,
    /// Aggregator: responses that came. Member: 1 once its own was made.
    pub(super) responses: u16,
    pub(super) partials: u16,
    /// Member: updates in its own response.
    pub(super) updates: Option<u32>,
    pub(super) attempt: u32,
    pub(super) signal: Option<SignalBytes>,
    pub(super) txid: Option<Txid>,
    pub(super) fee_sat: Option<u64>,
    pub(super) vsize: Option<u64>,
    pub(super) signed: bool,
    pub(super) broadcast: Option<UnixTime>,
    pub(super) confirmed: Option<u32>,
    pub(super) empty: bool,
    pub(super) failed: Option<(UnixTime, RoundCause)>,
    /// Who sent something invalid: key, name of the fault, whether it was proved here.
    pub(super) blamed: Vec<(NostrKey, Cow<'static, str>, bool)>,
}

impl Journal {
    /// Notes one step of the core.
    pub(super) fn note(&mut self, now: UnixTime, from: Option<NostrKey>, step: &Step) {
        if let (Some(from), Outcome::Accepted) = (from, &step.outcome)
            && (self.heard.len() < MAX_HEARD || self.heard.contains_key(&from))
        {
            self.heard.insert(from, now);
        }
        for effect in &step.effects {
            if let Effect::Report(report) = effect {
                self.report(now, report);
            }
        }
    }

    fn round(&mut self, now: UnixTime, round: Round) -> &mut RoundRecord {
        while self.rounds.len() >= MAX_ROUNDS && !self.rounds.contains_key(&round) {
            self.rounds.pop_first();
        }
        self.rounds.entry(round).or_insert_with(|| RoundRecord {
            opened: now,
            ..RoundRecord::default()
        })
    }

    /// Alarms that the user has not acknowledged, oldest first.
    pub(super) fn open_alarms(&self) -> impl Iterator<Item = &Alarm> {
        self.alarms.iter().filter(|alarm| !alarm.seen)
    }

    /// The user has seen all of them.
    pub(super) fn acknowledge(&mut self) {
        for alarm in &mut self.alarms {
            alarm.seen = true;
        }
    }

    fn alarm(&mut self, at: UnixTime, code: &'static str, text: String) {
        self.alarm_of(None, at, code, text);
    }

    fn alarm_of(&mut self, round: Option<Round>, at: UnixTime, code: &'static str, text: String) {
        // What is tried again and again is one alarm, since it was first wrong.
        let same = |known: &Alarm| !known.seen && known.code == code && known.text == text;
        if self.alarms.iter().any(same) {
            return;
        }
        if self.alarms.len() >= MAX_ALARMS {
            // The gravest stays as long as anything else can go.
            let other = |alarm: &Alarm| alarm.seen || alarm.code != UNKNOWN_SPEND;
            let place = self.alarms.iter().position(other).unwrap_or(0);
            self.alarms.remove(place);
        }
        self.alarms.push_back(Alarm {
            at,
            code: code.into(),
            text,
            round,
            seen: false,
        });
    }

    /// The round's transaction is where it should be: what was wrong with it is past.
    fn settle(&mut self, round: Round) {
        self.alarms.retain(|alarm| alarm.round != Some(round));
    }

    fn report(&mut self, now: UnixTime, report: &Report) {
        match report {
            Report::RoundOpened { round, .. } => {
                self.round(now, *round).opened = now;
            }
            Report::ResponseReceived {
                round, responses, ..
            } => self.round(now, *round).responses = *responses,
            Report::Responded { round, updates, .. } => {
                let record = self.round(now, *round);
                record.responses = 1;
                record.updates = Some(u32::from(*updates));
            }
            Report::SignalFixed {
                round,
                attempt,
                signal,
                txid,
                fee_sat,
            } => {
                let record = self.round(now, *round);
                record.attempt = *attempt;
                record.signal = Some(*signal);
                record.txid = Some(*txid);
                record.fee_sat = Some(*fee_sat);
            }
            Report::PartialReceived {
                round, partials, ..
            } => self.round(now, *round).partials = *partials,
            Report::SessionLost { round, attempt }
            | Report::ReplacementOpened { round, attempt, .. } => {
                let record = self.round(now, *round);
                record.attempt = *attempt;
                record.partials = 0;
            }
            Report::SignalSigned {
                round, txid, vsize, ..
            } => {
                let record = self.round(now, *round);
                record.signed = true;
                record.txid = Some(*txid);
                record.vsize = Some(*vsize);
            }
            Report::SignalBumped {
                round,
                txid,
                vsize,
                fee_sat,
            } => {
                let record = self.round(now, *round);
                record.txid = Some(*txid);
                record.vsize = Some(*vsize);
                record.fee_sat = Some(*fee_sat);
            }
            Report::SignalBroadcast { round, .. } => {
                let record = self.round(now, *round);
                record.broadcast.get_or_insert(now);
                self.settle(*round);
            }
            Report::SignalConfirmed {
                round,
                txid,
                height,
            } => {
                let record = self.round(now, *round);
                record.confirmed = Some(*height);
                record.txid = Some(*txid);
                record.signed = true;
                self.settle(*round);
            }
            // Rule 9: back to where the chain says it is.
            Report::SignalReorganised { round, .. } => self.round(now, *round).confirmed = None,
            Report::RoundEmpty { round } => self.round(now, *round).empty = true,
            Report::RoundFailed { round, why } => {
                self.round(now, *round).failed = Some((now, why.clone()));
            }
            Report::BroadcastFailed { round, reason } => {
                let text = format!("the signal of round {round} was not taken: {reason}");
                self.alarm_of(Some(*round), now, "broadcast_failed", text);
            }
            Report::BumpHeld {
                round,
                fee_sat,
                max_sat,
            } => {
                let text = super::timeline::bump_held(*round, *fee_sat, *max_sat);
                self.alarm_of(Some(*round), now, "bump_held", text);
            }
            Report::UnknownSpend { txid } => {
                let text = format!("THE BEACON WAS SPENT by {txid}, which this agent did not sign");
                self.alarm(now, UNKNOWN_SPEND, text);
            }
            Report::SignalUnexplained { txid, lacking } => {
                let text = super::timeline::unexplained(txid, lacking);
                self.alarm(now, "unexplained_signal", text);
            }
            Report::Alarm { text } => self.alarm(now, "alarm", text.clone()),
            Report::MemberBlamed { blame, proved } => {
                let how = if *proved { "proved" } else { "claimed" };
                let text = format!(
                    "member {} sent {} ({how})",
                    blame.member.short(),
                    blame.fault.told()
                );
                // A claim may name any round: only what was opened is noted.
                let round = blame.fault.round();
                if let Some(record) = round.and_then(|round| self.rounds.get_mut(&round)) {
                    let blamed = &mut record.blamed;
                    if blamed.len() < MAX_BLAMED {
                        blamed.push((blame.member, blame.fault.name().into(), *proved));
                        blamed.sort_unstable();
                        blamed.dedup();
                    }
                }
                self.alarm(now, "member_blamed", text);
            }
            Report::MyRequestRefused { of, code } if of == "opt_in" => {
                self.end = Some((now, End::Refused(*code)));
            }
            Report::Rejected { reason } => {
                self.end = Some((now, End::Rejected(reason.clone())));
            }
            // The refusal is past: the aggregator has not answered this one yet, or has given a seat.
            Report::AskedAgain => self.end = None,
            Report::Released { reason } => {
                self.end = Some((now, End::Released(reason.clone())));
            }
            Report::Ended { why } => self.end = Some((now, End::Ended(why.clone()))),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(journal: &mut Journal, at: u64, report: Report) {
        let step = Step::with(vec![Effect::Report(report)]);
        journal.note(UnixTime(at), None, &step);
    }

    #[test]
    fn a_round_is_followed_to_the_block_and_back() {
        let mut journal = Journal::default();
        let round = Round(3);
        let txid: Txid = "11".repeat(32).parse().unwrap();
        note(&mut journal, 10, Report::RoundOpened { round, indexes: 2 });
        note(
            &mut journal,
            12,
            Report::SignalFixed {
                round,
                attempt: 1,
                signal: SignalBytes::from_bytes([7; 32]),
                txid,
                fee_sat: 308,
            },
        );
        note(&mut journal, 15, Report::SignalBroadcast { round, txid });
        note(&mut journal, 16, Report::SignalBroadcast { round, txid });
        let height = 112;
        note(
            &mut journal,
            20,
            Report::SignalConfirmed {
                round,
                txid,
                height,
            },
        );
        let record = &journal.rounds[&round];
        assert_eq!(record.opened, UnixTime(10));
        assert_eq!(record.broadcast, Some(UnixTime(15)));
        assert_eq!((record.confirmed, record.fee_sat), (Some(112), Some(308)));
        note(&mut journal, 30, Report::SignalReorganised { round, txid });
        assert_eq!(journal.rounds[&round].confirmed, None);
    }

    #[test]
    fn memory_is_bounded() {
        let mut journal = Journal::default();
        for n in 0..3_000 {
            let round = Round(n);
            note(&mut journal, n.into(), Report::RoundEmpty { round });
            let text = n.to_string();
            note(&mut journal, n.into(), Report::Alarm { text });
        }
        assert_eq!(journal.rounds.len(), MAX_ROUNDS);
        assert!(journal.rounds.contains_key(&Round(2_999)));
        assert_eq!(journal.alarms.len(), MAX_ALARMS);
        assert_eq!(journal.alarms.back().unwrap().text, "2999");
    }

    fn codes(journal: &Journal) -> Vec<&str> {
        journal.open_alarms().map(|alarm| &*alarm.code).collect()
    }

    #[test]
    fn an_alarm_is_shown_until_it_is_acknowledged() {
        let mut journal = Journal::default();
        let txid: Txid = "11".repeat(32).parse().unwrap();
        note(&mut journal, 1, Report::UnknownSpend { txid });
        // Nothing that comes later pushes it out.
        for n in 0..100 {
            let text = n.to_string();
            note(&mut journal, 2, Report::Alarm { text });
        }
        assert_eq!(codes(&journal)[0], UNKNOWN_SPEND);
        assert_eq!(journal.alarms.len(), MAX_ALARMS);
        journal.acknowledge();
        assert_eq!(codes(&journal), [""; 0]);
        // Another one is news, and what was seen makes room for it.
        let txid: Txid = "22".repeat(32).parse().unwrap();
        note(&mut journal, 3, Report::UnknownSpend { txid });
        assert_eq!(codes(&journal), [UNKNOWN_SPEND]);
        assert_eq!(journal.alarms.len(), MAX_ALARMS);
    }

    #[test]
    fn a_failed_broadcast_is_one_alarm_and_over_when_the_chain_takes_it() {
        let mut journal = Journal::default();
        let txid: Txid = "11".repeat(32).parse().unwrap();
        let failed = |round| Report::BroadcastFailed {
            round: Round(round),
            reason: "min relay fee not met".to_owned(),
        };
        for at in 1..50 {
            note(&mut journal, at, failed(1));
        }
        note(&mut journal, 50, failed(2));
        assert_eq!(codes(&journal), ["broadcast_failed"; 2]);
        assert_eq!(journal.alarms[0].at, UnixTime(1));
        let round = Round(1);
        note(&mut journal, 60, Report::SignalBroadcast { round, txid });
        assert_eq!(codes(&journal), ["broadcast_failed"]);
        let (round, height) = (Round(2), 7);
        let confirmed = Report::SignalConfirmed {
            round,
            txid,
            height,
        };
        note(&mut journal, 70, confirmed);
        assert_eq!(codes(&journal), [""; 0]);
    }
}
