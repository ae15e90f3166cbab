//! `psbt inspect`: what a PSBT says, how much of it is so, and whether it is one that is known here.
//!
//! Nothing is signed and nothing is sent: whoever wants to know what other tools are given, or give back, looks here.

use std::sync::Arc;

use bitcoin::{OutPoint, TxOut};

use super::AgentBackend;
use super::decoding::Known;
use super::delivery::number;
use super::lone_tx::explain_alone;
use crate::agent::control::views as v;
use crate::agent::control::{ErrorCode, Failure, request as r};
use crate::beacon::psbt::{CheckedInput, InputFault, Packet, Signing};
use crate::hash::to_hex;
use crate::keys::musig::KeySet;

/// Says what a PSBT says by itself, without an agent: its transaction, and whether keys, nonces and signatures in it fit
/// together. `content` is a file's: the bytes of the PSBT, or their base64.
pub fn inspect_alone(content: &[u8]) -> Result<v::PsbtInspectView, Failure> {
    let packet = read(content)?;
    let spent = claimed(&packet);
    let tx = explain_alone(&packet.extracted(), &spent);
    Ok(Findings::of(&packet).view(&packet, tx, None))
}

impl AgentBackend {
    /// The same, and what the running agent knows of it.
    pub(super) async fn inspect(
        &self,
        args: r::InspectPsbt,
    ) -> Result<v::PsbtInspectView, Failure> {
        // Verifying what a stranger put together takes a while; the agent goes on meanwhile.
        let work = tokio::task::spawn_blocking(move || {
            let packet = read(args.psbt.as_bytes())?;
            let findings = Findings::of(&packet);
            Ok::<_, Failure>((packet, findings))
        });
        let (packet, findings) = work
            .await
            .map_err(|error| Failure::new(ErrorCode::Internal, error.to_string()))??;
        let packet = Arc::new(packet);
        self.with(move |agent| {
            let spent = claimed(&packet);
            let tx = packet.extracted();
            let known = agent.known_of(&tx, &spent)?;
            let view = agent.explain(&tx, &known, &spent)?;
            Ok(findings.view(&packet, view, Some(&known)))
        })
        .await
    }
}

fn read(content: &[u8]) -> Result<Packet, Failure> {
    Packet::from_file(content)
        .map_err(|fault| Failure::new(ErrorCode::InvalidValue, fault.to_string()))
}

/// What a PSBT says it spends.
fn claimed(packet: &Packet) -> Vec<Option<TxOut>> {
    let prevouts = packet.prevouts().into_iter();
    prevouts.map(Option::<&TxOut>::cloned).collect()
}

/// What came of checking each input.
struct Findings(Vec<Result<CheckedInput, InputFault>>);

impl Findings {
    fn of(packet: &Packet) -> Self {
        Self(packet.check())
    }

    fn view(
        &self,
        packet: &Packet,
        mut tx: v::TxView,
        known: Option<&Known<'_>>,
    ) -> v::PsbtInspectView {
        let mut problems = Vec::new();
        let outpoints = packet.tx().input.iter().map(|input| input.previous_output);
        let known = known.filter(|known| known.spends_beacon);
        let mut inputs = Vec::new();
        for (place, (outpoint, checked)) in outpoints.zip(&self.0).enumerate() {
            let mut wrong = |what: String| problems.push(format!("input {place}: {what}"));
            let cohort_keys = known.and_then(|known| known.node?.key_set());
            match checked {
                Ok(checked) => {
                    if let Some(what) = known.and_then(|known| contradiction(known, checked)) {
                        wrong(what);
                    }
                    inputs.push(input_view(checked, cohort_keys));
                }
                Err(fault) => {
                    wrong(fault.to_string());
                    inputs.push(faulty_view(outpoint));
                }
            }
        }
        if packet.is_modifiable() {
            tx.warnings.push(
                "inputs or outputs can still be added to it: its id is not final (BIP-370)"
                    .to_owned(),
            );
        }
        // Complete signatures that wait in the PSBT are no part of its transaction yet.
        tx.signed = !self.0.is_empty()
            && self.0.iter().all(|checked| {
                checked
                    .as_ref()
                    .is_ok_and(|checked| checked.signing != Signing::Open)
            });
        let known = known.and_then(|known| {
            let recognised = known.recognised.as_ref();
            Some(v::PsbtKnownView {
                cohort: known.node?.id.0,
                identical: recognised.is_some(),
                round: recognised.and_then(|recognised| recognised.round),
                rung: recognised.and_then(|recognised| recognised.rung),
                signed_here: recognised.is_some_and(|recognised| recognised.signed_here),
            })
        });
        v::PsbtInspectView {
            version: packet.version(),
            tx,
            known,
            inputs,
            problems,
        }
    }
}

/// What the agent knows better of an output than the PSBT.
fn contradiction(known: &Known<'_>, checked: &CheckedInput) -> Option<String> {
    let node = known.node?;
    let there = known.seen.get(&checked.outpoint)?;
    let claim = checked.prevout.as_ref()?;
    if claim.value != there.value {
        return Some(format!(
            "it says that {} holds {}, and it holds {}",
            checked.outpoint, claim.value, there.value
        ));
    }
    let of_beacon =
        node.address().map(|address| address.to_string()) == Some(there.address.clone());
    (of_beacon && node.script() != Some(claim.script_pubkey.clone())).then(|| {
        format!(
            "it says that {} is at another address than the beacon's, where it is",
            checked.outpoint
        )
    })
}

fn input_view(checked: &CheckedInput, cohort: Option<&KeySet>) -> v::PsbtInputView {
    let keys = checked.keys.as_ref();
    let count = keys.map_or(0, |keys| number(keys.len()));
    let tally = |have: usize| v::Tally {
        have: number(have),
        of: count,
    };
    v::PsbtInputView {
        outpoint: checked.outpoint.to_string(),
        value_sat: checked.prevout.as_ref().map(|spent| spent.value.to_sat()),
        keys: match (keys, cohort) {
            (None, _) => v::PsbtKeys::NotListed,
            (Some(keys), Some(cohort)) if keys == cohort => v::PsbtKeys::Cohort,
            (Some(_), _) => v::PsbtKeys::AddUp,
        },
        participants: count,
        internal_key: keys.map(KeySet::internal_key),
        script_root: keys.and_then(KeySet::script_root).map(|root| to_hex(&root)),
        nonces: tally(checked.nonces.len()),
        partials: tally(checked.partials.len()),
        unverified: number(checked.unverified.len()),
        signing: match checked.signing {
            Signing::Open => v::PsbtSigning::Open,
            Signing::AddsUp(_) => v::PsbtSigning::AddsUp,
            Signing::KeyPath(_) => v::PsbtSigning::KeyPath,
            Signing::Leaf(k) => v::PsbtSigning::Leaf(k),
            Signing::Unverified => v::PsbtSigning::Unverified,
        },
        foreign_fields: u32::try_from(checked.foreign_fields).unwrap_or(u32::MAX),
    }
}

/// An input of which nothing is taken over but what it spends.
fn faulty_view(outpoint: OutPoint) -> v::PsbtInputView {
    v::PsbtInputView {
        outpoint: outpoint.to_string(),
        value_sat: None,
        keys: v::PsbtKeys::Wrong,
        participants: 0,
        internal_key: None,
        script_root: None,
        nonces: v::Tally::default(),
        partials: v::Tally::default(),
        unverified: 0,
        signing: v::PsbtSigning::Open,
        foreign_fields: 0,
    }
}
