//! Ends before the end: members that leave, seats that are released, cohorts that are cancelled.

use btcr2_core::protocol::aggregator::{AggregatorInput, Phase};
use btcr2_core::protocol::effect::Outcome;
use btcr2_core::protocol::message::Message;
use btcr2_core::protocol::participant::{MemberPhase, ParticipantInput};

use super::config::Family;
use super::extras::Departure;
use super::process::Input;
use super::world::{Crashed, World};

impl World {
    /// Somebody goes, or the operator ends it.
    pub fn depart(&mut self) -> Result<(), Crashed> {
        let Some((departure, at)) = self.config.departs else {
            return Ok(());
        };
        if self.now < at {
            return Ok(());
        }
        match departure {
            Departure::Leave(who) => {
                if self.processes[who].up {
                    self.config.departs = None;
                    self.left = true;
                    self.count("members that leave");
                    self.handle(who, |world| {
                        let leave = ParticipantInput::Leave {
                            even_if_frozen: world.now % 2 == 0,
                        };
                        world.feed(who, Input::Member(leave)).map(drop)
                    });
                }
            }
            Departure::Release(who) => {
                self.config.departs = None;
                let member = self.processes[who].public();
                let release = AggregatorInput::Release {
                    member,
                    reason: "no reason".into(),
                };
                let outcome = self.feed(0, Input::Aggregator(release))?;
                if outcome == Outcome::Accepted {
                    self.left = true;
                    self.count("seats released");
                }
            }
            Departure::Cancel => {
                let has_partials = self.has_partials();
                let cancel = Input::Aggregator(AggregatorInput::Cancel);
                let outcome = match self.feed(0, cancel) {
                    Ok(outcome) => outcome,
                    // It may have been stored before the process died.
                    Err(crashed) => {
                        self.left = true;
                        return Err(crashed);
                    }
                };
                match outcome {
                    Outcome::Accepted => {
                        self.config.departs = None;
                        self.left = true;
                        self.count("cohorts cancelled");
                        // Bad ones do not count.
                        if has_partials && self.config.family == Family::Faults {
                            let why = "cancelled after a partial signature came";
                            self.broken(0, "cancel", why);
                        }
                    }
                    _ if has_partials => self.count("cancels refused"),
                    _ => self.config.departs = None,
                }
            }
        }
        Ok(())
    }

    /// Whether a partial signature of the round that is open came to the aggregator, and counted.
    fn has_partials(&self) -> bool {
        let open = self.processes[0].core.aggregator().open_round_progress();
        let Some((round, ..)) = open else {
            return false;
        };
        let log = self.processes[0].disk.log.iter();
        log.map(|(_, input)| input).any(|input| match input {
            Input::Aggregator(AggregatorInput::Message { message, .. }) => match message {
                Message::PartialSignature(signed) => signed.content.round == round,
                Message::FallbackSignature(signed) => signed.content.round == round,
                _ => false,
            },
            _ => false,
        })
    }

    /// Where everybody is honest and there, everybody knows at the end that it is over.
    pub fn check_told(&mut self) {
        let ended = matches!(self.processes[0].core.aggregator().phase(), Phase::Ended(_));
        if !ended || !self.left || self.config.family != Family::Faults {
            return;
        }
        if !self.is_done() {
            return;
        }
        for i in 1..self.processes.len() {
            let phase = self.processes[i].core.member().phase().clone();
            let over = matches!(
                phase,
                MemberPhase::Ended(_)
                    | MemberPhase::Released
                    // Its opt-in came too late; the advert, which is not simulated, says that it is closed.
                    | MemberPhase::Asked
                    | MemberPhase::Refused(_)
                    | MemberPhase::New
            );
            if !over {
                let why = format!("the cohort ended, and it is {phase:?}");
                self.broken(i, "leaving", &why);
            }
        }
    }
}
