//! The signing of a refund: nonces, partial signatures, and what is bad of them.

use std::collections::BTreeMap;

use crate::beacon::address::beacon_script;
use crate::beacon::refund::{build_refund, finalize};
use crate::keys::NostrKey;
use crate::keys::musig::{aggregate_nonces, aggregate_partials, verify_partial};
use crate::protocol::aggregator::{Aggregator, refuse};
use crate::protocol::effect::{Effect, Ignored, Outcome, Report, Step, To};
use crate::protocol::evidence::{Blame, Fault, LabelContext, Sighash, Signed, commitment};
use crate::protocol::ids::{Label, Seat};
use crate::protocol::message::{Message, Nonces, RefusalCode, TxHex};
use crate::protocol::refund_message::{RefundNonces, RefundPartial, RefundRequest};
use crate::time::UnixTime;

impl Aggregator {
    pub(in crate::protocol::aggregator) fn refund_nonces(
        &mut self,
        now: UnixTime,
        from: NostrKey,
        signed: &Signed<RefundNonces>,
    ) -> Step {
        let Some(seat) = self.seat_of(&from) else {
            return Step::ignored(Ignored::NotAMember);
        };
        if !signed.verifies(&self.cohort, from) {
            return Step::ignored(Ignored::BadEvidence);
        }
        let RefundNonces {
            deposit,
            attempt,
            nonces,
        } = &signed.content;
        let Some(session) = &self.refunds.session else {
            return Step::ignored(Ignored::WrongSession);
        };
        if session.deposit != *deposit {
            return Step::ignored(Ignored::WrongSession);
        }
        if !is_for_refund(nonces) {
            return refuse(from, "refund_nonces", RefusalCode::Malformed, None);
        }
        let asked = session.context.is_some();
        let current = *attempt == session.attempt;
        let lost = asked && *attempt == session.attempt.saturating_add(1);
        if current && session.nonces.get(&seat) == Some(nonces) {
            return Step::ignored(Ignored::Duplicate);
        }
        if !current && !lost {
            return Step::ignored(Ignored::WrongSession);
        }
        if !self.seen_nonces.insert_new(nonces) {
            return refuse(from, "refund_nonces", RefusalCode::NonceReused, None);
        }
        // It replaced its nonces (after a restart) too late for this attempt: it can sign the next one.
        if asked {
            let next = session.attempt.saturating_add(1);
            let offered = lost.then(|| (seat, nonces.clone()));
            return Step::with(self.renew_refund(now, next, offered));
        }
        if let Some(session) = &mut self.refunds.session {
            session.nonces.insert(seat, nonces.clone());
        }
        Step::with(self.request_refund(now))
    }

    /// A member can not sign this attempt: opens the next one.
    fn renew_refund(
        &mut self,
        now: UnixTime,
        attempt: u32,
        offered: Option<(Seat, Nonces)>,
    ) -> Vec<Effect> {
        if attempt > u32::from(self.terms.sessions_max) {
            return self.fail_refund(now);
        }
        let until = now.plus(self.terms.signing_seconds.into());
        let Some(session) = &mut self.refunds.session else {
            return Vec::new();
        };
        session.attempt = attempt;
        session.until = until;
        session.context = None;
        session.partials.clear();
        session.nonces = offered.into_iter().collect();
        let mut effects = vec![Effect::Send {
            to: To::Channel,
            message: Message::RefundOpen(session.open()),
        }];
        effects.extend(self.request_refund(now));
        effects
    }

    /// Asks for partial signatures once all nonces are in.
    fn request_refund(&mut self, now: UnixTime) -> Vec<Effect> {
        let members = self.member_count();
        let until = now.plus(self.terms.signing_seconds.into());
        let (scripts, rate, lock) = (
            self.refund_scripts(),
            self.fee_rate(),
            self.terms.refund_blocks,
        );
        let (Some(session), Some((_, keys))) = (&mut self.refunds.session, &self.set) else {
            return Vec::new();
        };
        if !session.waiting_for(members).is_empty() {
            return Vec::new();
        }
        let offered: Option<Vec<_>> = session
            .nonces
            .values()
            .map(|nonces| nonces.get(&Label::REFUND).copied())
            .collect();
        let aggregate = offered.and_then(|offered| aggregate_nonces(&offered).ok());
        let script = beacon_script(keys.output_key());
        let built = match session.built.take() {
            Some(built) => Some(built),
            None => build_refund(&session.output(), &script, lock, &scripts, rate).ok(),
        };
        // The fee may have risen since the output was looked at: what it would leave is dust.
        let (Some(aggregate_nonce), Some(built)) = (aggregate, built) else {
            return self.fail_refund(now);
        };
        session.until = until;
        session.context = Some(LabelContext {
            aggregate_nonce,
            sighash: Sighash::from_bytes(built.sighash()),
        });
        let txid = built.tx.compute_txid();
        self.refunds.known.insert(txid);
        self.watch.expect(txid);
        let request = RefundRequest {
            deposit: session.deposit,
            attempt: session.attempt,
            tx: TxHex(built.tx.clone()),
            aggregate_nonce,
            until,
        };
        session.built = Some(built);
        vec![Effect::Send {
            to: To::Channel,
            message: Message::RefundRequest(request),
        }]
    }

    pub(in crate::protocol::aggregator) fn refund_partial(
        &mut self,
        now: UnixTime,
        from: NostrKey,
        signed: Signed<RefundPartial>,
    ) -> Step {
        let Some(seat) = self.seat_of(&from) else {
            return Step::ignored(Ignored::NotAMember);
        };
        if !signed.verifies(&self.cohort, from) {
            return Step::ignored(Ignored::BadEvidence);
        }
        let content = &signed.content;
        let members = self.member_count();
        let (Some(session), Some((_, keys))) = (&mut self.refunds.session, &self.set) else {
            return Step::ignored(Ignored::WrongSession);
        };
        let this = (session.deposit, session.attempt) == (content.deposit, content.attempt);
        let (Some(context), true) = (session.context, this) else {
            return Step::ignored(Ignored::WrongSession);
        };
        if session.partials.contains_key(&seat) {
            return Step::ignored(Ignored::Duplicate);
        }
        if session.nonces.get(&seat) != Some(&content.nonces) {
            // It replaced its nonces (after a restart) too late for this attempt: it can sign the next one.
            let next = session.attempt.saturating_add(1);
            return Step::with(self.renew_refund(now, next, None));
        }
        // The session hash says which session the member believes it signed. Another one is no fault of
        // anybody that could be shown; it simply is not a signature for this session.
        let contexts = BTreeMap::from([(Label::REFUND, context)]);
        let (Some(nonce), Some(partial), true) = (
            content.nonces.get(&Label::REFUND),
            content.partials.get(&Label::REFUND),
            commitment(keys, &content.nonces, &contexts) == Some(content.session_hash)
                && content.partials.len() == 1,
        ) else {
            return Step::ignored(Ignored::WrongSession);
        };
        let verdict = verify_partial(
            keys,
            &from,
            nonce,
            &context.aggregate_nonce,
            context.sighash.as_bytes(),
            partial,
        );
        if verdict.is_err() {
            let blame = Blame {
                member: from,
                fault: Fault::BadRefundPartial {
                    partial: Box::new(signed.clone()),
                    session: contexts,
                },
            };
            return Step {
                outcome: Outcome::Blamed(from),
                effects: vec![Effect::Report(Report::MemberBlamed {
                    blame,
                    proved: true,
                })],
            };
        }
        session.partials.insert(seat, signed.content);
        if !session.waiting_for(members).is_empty() {
            return Step::accepted();
        }
        Step::with(self.finish_refund(now))
    }

    /// Adds up the partial signatures and keeps the refund.
    fn finish_refund(&mut self, now: UnixTime) -> Vec<Effect> {
        let (Some(session), Some((_, keys))) = (&self.refunds.session, &self.set) else {
            return Vec::new();
        };
        let (Some(built), Some(context)) = (&session.built, session.context) else {
            return Vec::new();
        };
        let partials = session.partials.values();
        let signature = aggregate_partials(
            keys,
            &context.aggregate_nonce,
            context.sighash.as_bytes(),
            partials.filter_map(|content| content.partials.get(&Label::REFUND).copied()),
        );
        let Ok(signature) = signature else {
            // Each partial verified, so their sum does; if not, this machine miscalculates.
            return self.fail_refund(now);
        };
        let tx = finalize(built.tx.clone(), &signature);
        let output = session.output();
        self.refunds.session = None;
        self.keep_refund(&output, tx)
    }
}

/// Exactly one nonce, for the label of a refund session.
fn is_for_refund(nonces: &Nonces) -> bool {
    nonces.keys().eq(std::iter::once(&Label::REFUND))
}
