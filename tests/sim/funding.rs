//! Members that fund: what they are going to pay gets its refund signed by all before they pay it, and nothing is
//! signed that spends an output whose refund nobody holds.

use bitcoin::hashes::Hash as _;
use bitcoin::{Amount, OutPoint, ScriptBuf, Transaction, TxIn, TxOut, Txid, Witness};
use btcr2_core::beacon::address::beacon_script;
use btcr2_core::protocol::aggregator::AggregatorInput;
use btcr2_core::protocol::effect::Outcome;
use btcr2_core::protocol::message::{Message, Partials};
use btcr2_core::protocol::refund_message::{RefundOpen, RefundPartial, RefundRequest};
use btcr2_core::protocol::terms::Funding;

use super::chain::verify_scripts;
use super::process::Input;
use super::recheck::{check_refund, known_values};
use super::world::{Crashed, World};

/// An output of less may be too small for a refund: nobody waits for one.
const SURELY_REFUNDABLE: u64 = 6_000;

impl World {
    /// The members agree on a transaction that pays all their shares, have its refunds signed, and only then send it.
    pub fn fund_by_members(&mut self) -> Result<(), Crashed> {
        if self.funded {
            return Ok(());
        }
        let core = self.processes[0].core.aggregator();
        let Some(script) = core.set().map(|(_, keys)| beacon_script(keys.output_key())) else {
            return Ok(());
        };
        let tx = self.funding.get_or_insert_with(|| {
            let members = self.config.members as u64;
            let share = self.config.funds / members;
            // One output for all of them, or one for each.
            let values = match self.luck.below(2) {
                0 => vec![share * members],
                _ => vec![share; members as usize],
            };
            funding_tx(&script, &values)
        });
        let txid = tx.compute_txid();
        let outputs: Vec<(OutPoint, u64)> = (0..)
            .zip(&tx.output)
            .map(|(vout, output)| (OutPoint::new(txid, vout), output.value.to_sat()))
            .collect();
        let core = self.processes[0].core.aggregator();
        let open: Vec<(OutPoint, u64)> = outputs
            .into_iter()
            .filter(|(at, _)| core.refund_of(at).is_none())
            .collect();
        if open.is_empty() {
            let tx = tx.clone();
            self.chain.script = Some(script);
            self.chain.pay(tx);
            self.funded = true;
            self.count("fundings by members");
            self.line(13, 0, 0, || "the members fund the beacon".into());
            self.chain_changed();
            return Ok(());
        }
        let waits = open.iter().all(|(at, _)| core.refund_is_awaited(at));
        if !waits {
            let protect = AggregatorInput::Protect { outputs: open };
            let outcome = self.feed(0, Input::Aggregator(protect))?;
            if let Outcome::Ignored(why) = outcome {
                // Too small at today's fees: another day.
                self.line(42, 0, 0, || format!("no refunds: {why:?}"));
            }
        }
        Ok(())
    }

    /// A partial signature for the refund of one output leaves an honest member: rule 2, the second form.
    pub fn check_refund_partial(&mut self, i: usize, content: &RefundPartial) {
        self.count("refunds signed");
        let process = &self.processes[i];
        let opens = |message: &Message| match message {
            Message::RefundOpen(open) if open.deposit == content.deposit => Some(open.clone()),
            _ => None,
        };
        let requests = |message: &Message| match message {
            Message::RefundRequest(request)
                if request.deposit == content.deposit && request.attempt == content.attempt =>
            {
                Some(request.clone())
            }
            _ => None,
        };
        let opens: Vec<RefundOpen> = process.heard.iter().filter_map(|m| opens(m)).collect();
        let asked: Vec<RefundRequest> = process.heard.iter().filter_map(|m| requests(m)).collect();
        let Some((set, keys)) = process.core.member().set() else {
            return self.broken(i, "signed unchecked", "a refund without a set");
        };
        let script = beacon_script(keys.output_key());
        let payees = set.refund_scripts(&self.config.terms);
        let known = known_values(process);
        let lock = self.config.terms.refund_blocks;
        let fits = |open: &RefundOpen, request: &RefundRequest| {
            // The own chain counts; what is not there yet is claimed, and the digest commits to the claim.
            let value = known.get(&open.outpoint).copied().unwrap_or(open.value_sat);
            let spent = TxOut {
                value: Amount::from_sat(value),
                script_pubkey: script.clone(),
            };
            check_refund(&request.tx.0, open.outpoint, &spent, &payees, lock)
        };
        let mut why = "it was never asked for that refund".to_owned();
        for (open, request) in opens
            .iter()
            .flat_map(|open| asked.iter().map(move |request| (open, request)))
        {
            match fits(open, request) {
                Ok(()) => return,
                Err(error) => why = error,
            }
        }
        self.broken(i, "signed unchecked", &why);
    }

    /// Where members fund, a member that signs holds the complete refund of everything that is spent.
    pub fn check_protected(
        &self,
        i: usize,
        content: &Partials,
        inputs: &[OutPoint],
    ) -> Result<(), String> {
        if self.config.terms.funding != Funding::Members || content.attempt > 1 {
            return Ok(());
        }
        let process = &self.processes[i];
        let known = known_values(process);
        let core = process.core.member();
        let (_, keys) = core.set().ok_or("it knows no set")?;
        let script = beacon_script(keys.output_key());
        for at in inputs {
            let Some(value) = known.get(at).filter(|value| **value >= SURELY_REFUNDABLE) else {
                continue;
            };
            let spent = TxOut {
                value: Amount::from_sat(*value),
                script_pubkey: script.clone(),
            };
            let holds = process.heard.iter().any(|message| match &**message {
                Message::RefundComplete(complete) => {
                    let spends = complete
                        .tx
                        .0
                        .input
                        .iter()
                        .map(|input| input.previous_output);
                    spends.eq([*at])
                        && verify_scripts(&complete.tx.0, std::slice::from_ref(&spent)).is_ok()
                }
                _ => false,
            });
            if !holds {
                return Err(format!("{at} is spent, and its refund is not complete"));
            }
        }
        Ok(())
    }
}

/// A transaction out of nowhere that pays these values to the beacon.
fn funding_tx(script: &ScriptBuf, values: &[u64]) -> Transaction {
    let output = |value: &u64| TxOut {
        value: Amount::from_sat(*value),
        script_pubkey: script.clone(),
    };
    Transaction {
        version: bitcoin::transaction::Version::TWO,
        lock_time: bitcoin::absolute::LockTime::ZERO,
        input: vec![TxIn {
            previous_output: OutPoint::new(Txid::from_byte_array([0xfc; 32]), 0),
            script_sig: ScriptBuf::new(),
            sequence: bitcoin::Sequence::MAX,
            witness: Witness::new(),
        }],
        output: values.iter().map(output).collect(),
    }
}
