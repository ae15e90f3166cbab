//! `cohort applicants`, `approve`, `reject`, `code`; and the work that an opt-in shows.

use super::AgentBackend;
use super::delivery::number;
use super::parse_key;
use crate::agent::admitting::{APPROVAL_WORK_BITS, Shown};
use crate::agent::control::views as v;
use crate::agent::control::{ErrorCode, Failure, request as r};
use crate::agent::node::{Machine, NodeInput};
use crate::agent::runtime::Agent;
use crate::config::Config;
use crate::keys::names::npub;
use crate::keys::{InviteCode, NostrKey};
use crate::protocol::admission::{Admission, MAX_WORK_BITS, mine};
use crate::protocol::aggregator::{Aggregator, AggregatorInput, Decision, MAX_WAITING};
use crate::protocol::terms::Terms;
use crate::store::Role;

impl AgentBackend {
    /// What an opt-in shows under these terms: does the work, outside of the agent's task.
    pub(super) async fn shown(
        &self,
        terms: &Terms,
        seat: NostrKey,
        args: &r::Join,
    ) -> Result<Shown, Failure> {
        if let Some(code) = &args.code {
            if terms.admission != Admission::Code {
                return Err(Failure::new(
                    ErrorCode::InvalidValue,
                    format!(
                        "this cohort takes no codes: its admission is {}",
                        terms.admission
                    ),
                )
                .remedy("leave --code out"));
            }
            let code = InviteCode::parse(&code.0);
            return code.map(Shown::Code).map_err(|error| {
                Failure::new(ErrorCode::InvalidValue, error.to_string())
                    .remedy("ask the aggregator for another one, if this is all of it")
            });
        }
        if terms.admission == Admission::Code && !terms.invite_only {
            return Err(Failure::new(
                ErrorCode::InvalidValue,
                "this cohort seats who has an invite code",
            )
            .remedy("give --code; its aggregator hands codes out"));
        }
        let Some(bits) = work_for(terms, args.work, self.config())? else {
            return Ok(Shown::Asked);
        };
        let cohort = terms.cohort_id();
        let work = tokio::task::spawn_blocking(move || mine(&cohort, seat, bits)).await;
        work.ok().flatten().map(Shown::Work).ok_or_else(|| {
            Failure::new(
                ErrorCode::Internal,
                format!("no work of {bits} bits was found"),
            )
            .remedy("ask again")
        })
    }

    pub(super) async fn codes(&self, args: r::Codes) -> Result<v::CodesView, Failure> {
        let mut secret = [0; 16];
        rand::RngCore::fill_bytes(&mut rand::rngs::OsRng, &mut secret);
        let code = InviteCode::from_bytes(secret);
        zeroize::Zeroize::zeroize(&mut secret);
        self.with(move |agent| agent.codes(&args, &code)).await
    }
}

/// How much work is done for a seat; `None` if none is asked for.
fn work_for(terms: &Terms, asked: Option<u8>, config: &Config) -> Result<Option<u8>, Failure> {
    let cap = u8::try_from(config.limits.pow_bits).unwrap_or(MAX_WORK_BITS);
    let bits = match terms.admission {
        _ if terms.invite_only => return Ok(None),
        Admission::Open | Admission::Code => return Ok(None),
        Admission::Pow(bits) => bits.max(asked.unwrap_or(0)),
        Admission::Approval => asked.unwrap_or_else(|| APPROVAL_WORK_BITS.min(cap)),
    };
    // Whoever names a number has decided.
    if asked.is_none() && bits > cap {
        return Err(Failure::new(
            ErrorCode::RefusedByPolicy,
            format!("the terms ask for {bits} bits of work, limits.pow_bits is {cap}"),
        )
        .remedy(format!(
            "do it all the same with `--work {bits}`, or raise the setting"
        )));
    }
    Ok(Some(bits.min(MAX_WORK_BITS)))
}

impl Agent {
    pub(super) fn applicants(
        &self,
        cohort: &r::CohortRef,
        decided: Option<String>,
    ) -> Result<v::ApplicantsView, Failure> {
        let id = self.find_cohort(cohort, Some(Role::Aggregator))?;
        let machine = self.aggregator(id)?;
        let terms = machine.terms();
        Ok(v::ApplicantsView {
            now: self.now(),
            cohort: id.0,
            admission: terms.admission,
            until: terms.join_by,
            seats_taken: number(machine.members().len()),
            seats: terms.seats_max,
            waiting: machine
                .waiting_opt_ins()
                .map(|waiting| v::ApplicantView {
                    key: waiting.key,
                    asked_at: waiting.asked,
                    work_bits: waiting.work,
                })
                .collect(),
            waiting_max: number(MAX_WAITING),
            decided,
        })
    }

    pub(super) fn decide_seat(
        &mut self,
        args: &r::DecideSeat,
    ) -> Result<v::ApplicantsView, Failure> {
        let id = self.find_cohort(&args.cohort, Some(Role::Aggregator))?;
        let (key, _) = parse_key(&args.key)?;
        let machine = self.aggregator(id)?;
        let waited = machine.waiting_opt_ins().any(|waiting| waiting.key == key);
        let seated = machine.members().contains(&key);
        let who = npub(&key);
        let (decision, what, told) = if args.approve {
            let told = match (waited, seated) {
                (_, true) => format!("{who} has a seat already"),
                (true, _) => format!("{who} has a seat"),
                (false, _) => format!("{who} gets a seat when it asks"),
            };
            (Decision::Approve { key }, "approve", told)
        } else {
            let reason = args.reason.clone().unwrap_or_default();
            let told = match (waited, seated) {
                (_, true) => format!("{who} has lost its seat, and gets none"),
                (true, _) => format!("{who} gets no seat, and was told"),
                (false, _) => format!("{who} gets no seat when it asks"),
            };
            (Decision::Reject { key, reason }, "reject", told)
        };
        let input = AggregatorInput::Decide(decision);
        self.command(id, NodeInput::Aggregator(input), what)?;
        self.applicants(&args.cohort, Some(told))
    }

    fn codes(&mut self, args: &r::Codes, code: &InviteCode) -> Result<v::CodesView, Failure> {
        let id = self.find_cohort(&args.cohort, Some(Role::Aggregator))?;
        let admission = self.aggregator(id)?.terms().admission;
        if admission != Admission::Code {
            return Err(Failure::new(
                ErrorCode::WrongPhase,
                format!("this cohort takes no codes: its admission is {admission}"),
            )
            .remedy("the terms are fixed; advertise another one with `--admission code`"));
        }
        if let Some(uses) = args.uses {
            let key = code.key_in(&id.0).public();
            let input = AggregatorInput::Decide(Decision::Code { key, uses });
            self.command(id, NodeInput::Aggregator(input), "make a code")?;
        }
        let codes = self.aggregator(id)?.codes().iter();
        let codes = codes
            .map(|(key, known)| v::CodeView {
                key: *key,
                uses: known.uses,
                used_by: known.used.iter().copied().collect(),
            })
            .collect();
        Ok(v::CodesView {
            cohort: id.0,
            naddr: self.cohort_view(id, 0)?.naddr,
            code: args.uses.map(|_| code.expose_text().to_string()),
            codes,
        })
    }

    pub(super) fn aggregator(
        &self,
        id: crate::agent::node::NodeId,
    ) -> Result<&Aggregator, Failure> {
        match &self.node(id)?.machine {
            Machine::Aggregator(machine) => Ok(machine),
            Machine::Participant(_) => Err(Failure::new(
                ErrorCode::WrongRole,
                format!("only the aggregator of {} may do this", id.0.short()),
            )),
        }
    }
}
