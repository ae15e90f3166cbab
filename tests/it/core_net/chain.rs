//! A chain model for the core: outputs of any script, a mempool, blocks, reorgs. What it accepts was
//! verified by Bitcoin Core's own script code, and a changed byte of the same transaction refused.

use std::collections::BTreeMap;

use bitcoin::consensus::encode::serialize;
use bitcoin::hashes::Hash as _;
use bitcoin::{Amount, OutPoint, Script, ScriptBuf, Transaction, TxIn, TxOut, Txid, Witness};
use btcr2_agent::beacon::history::{AddressHistory, AddressTx};
use btcr2_agent::protocol::chain_view::ChainView;

const FLAGS: u32 = bitcoinconsensus::VERIFY_ALL_PRE_TAPROOT | bitcoinconsensus::VERIFY_TAPROOT;

/// One chain, with everything ever said about it.
#[derive(Default)]
pub struct Chain {
    pub height: u32,
    pub fee_rate: Option<u32>,
    /// What the mempool asks at least, in sat/vB.
    pub min_fee_rate: u64,
    txs: BTreeMap<Txid, (Transaction, Option<u32>)>,
    funded: u32,
    /// Transactions whose scripts were verified.
    pub verified: usize,
}

impl Chain {
    pub fn new() -> Self {
        Self {
            height: 100,
            fee_rate: Some(5),
            ..Self::default()
        }
    }

    /// Pays to a script out of nowhere; unconfirmed.
    pub fn fund(&mut self, script: &Script, sat: u64) -> OutPoint {
        self.funded += 1;
        let source = OutPoint::new(Txid::from_byte_array([0xfd; 32]), self.funded);
        let tx = Transaction {
            version: bitcoin::transaction::Version::TWO,
            lock_time: bitcoin::absolute::LockTime::ZERO,
            input: vec![TxIn {
                previous_output: source,
                script_sig: ScriptBuf::new(),
                sequence: bitcoin::Sequence::MAX,
                witness: Witness::new(),
            }],
            output: vec![TxOut {
                value: Amount::from_sat(sat),
                script_pubkey: script.to_owned(),
            }],
        };
        let txid = tx.compute_txid();
        self.txs.insert(txid, (tx, None));
        OutPoint::new(txid, 0)
    }

    /// Puts a transaction into the mempool whatever it spends: how a compromised key would show itself.
    pub fn force(&mut self, tx: Transaction) {
        self.txs.insert(tx.compute_txid(), (tx, None));
    }

    /// What a node does with a transaction: verifies its script, refuses conflicts, keeps it.
    pub fn accept(&mut self, tx: &Transaction) -> Result<(), String> {
        let txid = tx.compute_txid();
        if self.txs.contains_key(&txid) {
            return Ok(());
        }
        self.verify(tx)?;
        if self.fee(tx) < self.min_fee_rate * tx.vsize() as u64 {
            return Err("mempool min fee not met".into());
        }
        self.make_way(tx)?;
        self.txs.insert(txid, (tx.clone(), None));
        Ok(())
    }

    /// BIP-125: what conflicts with a transaction goes if it is unconfirmed and signals that it may, and the new
    /// one pays for its own relay besides.
    fn make_way(&mut self, tx: &Transaction) -> Result<(), String> {
        let rivals: std::collections::BTreeSet<Txid> = tx
            .input
            .iter()
            .filter_map(|input| self.spender(&input.previous_output))
            .collect();
        let mut paid = 0;
        for rival in &rivals {
            let (other, height) = &self.txs[rival];
            let replaceable = other.input.iter().all(|input| input.sequence.is_rbf());
            if height.is_some() || !replaceable {
                return Err(format!("conflicts with {rival}"));
            }
            paid += self.fee(other);
        }
        if !rivals.is_empty() && self.fee(tx) < paid + tx.vsize() as u64 {
            return Err(format!("insufficient fee, conflicts with {rivals:?}"));
        }
        self.txs.retain(|txid, _| !rivals.contains(txid));
        Ok(())
    }

    fn fee(&self, tx: &Transaction) -> u64 {
        let spent = tx
            .input
            .iter()
            .map(|input| self.output(&input.previous_output));
        let spent: u64 = spent
            .map(|output| output.map_or(0, |o| o.value.to_sat()))
            .sum();
        spent
            - tx.output
                .iter()
                .map(|output| output.value.to_sat())
                .sum::<u64>()
    }

    /// Replaces what conflicts with it in the mempool, as a miner may.
    pub fn replace(&mut self, tx: &Transaction) -> Result<(), String> {
        self.verify(tx)?;
        let spends: Vec<OutPoint> = tx.input.iter().map(|input| input.previous_output).collect();
        self.txs.retain(|_, (other, height)| {
            height.is_some()
                || !other
                    .input
                    .iter()
                    .any(|input| spends.contains(&input.previous_output))
        });
        self.txs.insert(tx.compute_txid(), (tx.clone(), None));
        Ok(())
    }

    /// Script verification against the prevouts, and that it is not vacuous.
    pub fn verify(&mut self, tx: &Transaction) -> Result<(), String> {
        let spent: Vec<TxOut> = tx
            .input
            .iter()
            .map(|input| self.output(&input.previous_output))
            .collect::<Option<_>>()
            .ok_or("a spent output does not exist")?;
        verify_scripts(tx, &spent)?;
        for at in 0..tx.input.len() {
            let mut flipped = tx.clone();
            let mut witness = flipped.input[at].witness.to_vec();
            // Through a k-of-n leaf, who did not sign leaves an empty element.
            let signature = witness.iter_mut().find(|element| !element.is_empty());
            let signature = signature.unwrap();
            assert_eq!(signature.len(), 64, "SIGHASH_DEFAULT");
            signature[40] ^= 1;
            flipped.input[at].witness = Witness::from_slice(&witness);
            assert!(
                verify_scripts(&flipped, &spent).is_err(),
                "a flipped byte must be refused"
            );
        }
        self.verified += 1;
        Ok(())
    }

    pub fn output(&self, outpoint: &OutPoint) -> Option<TxOut> {
        let (tx, _) = self.txs.get(&outpoint.txid)?;
        tx.output.get(usize::try_from(outpoint.vout).ok()?).cloned()
    }

    fn spender(&self, outpoint: &OutPoint) -> Option<Txid> {
        self.txs
            .iter()
            .find(|(_, (tx, _))| {
                tx.input
                    .iter()
                    .any(|input| input.previous_output == *outpoint)
            })
            .map(|(txid, _)| *txid)
    }

    pub fn height_of(&self, txid: &Txid) -> Option<u32> {
        self.txs.get(txid).and_then(|(_, height)| *height)
    }

    pub fn contains(&self, txid: &Txid) -> bool {
        self.txs.contains_key(txid)
    }

    /// Mines blocks; the first takes the whole mempool.
    pub fn mine(&mut self, blocks: u32) {
        for _ in 0..blocks {
            self.height += 1;
            for (_, height) in self.txs.values_mut() {
                height.get_or_insert(self.height);
            }
        }
    }

    /// Mines blocks that take nothing of the mempool.
    pub fn mine_empty(&mut self, blocks: u32) {
        self.height += blocks;
    }

    /// Takes the last blocks back; what they held is in the mempool again, the new chain is as long.
    pub fn reorg(&mut self, blocks: u32) {
        let first = self.height - blocks + 1;
        for (_, height) in self.txs.values_mut() {
            if height.is_some_and(|height| height >= first) {
                *height = None;
            }
        }
    }

    /// Forgets an unconfirmed transaction.
    pub fn drop_tx(&mut self, txid: &Txid) {
        let (_, height) = self.txs.remove(txid).unwrap();
        assert!(height.is_none());
    }

    /// What a chain backend tells the core about an address.
    pub fn view(&self, script: &Script) -> ChainView {
        let history = AddressHistory::new(
            script.to_owned(),
            self.height,
            self.txs.values().map(|(tx, height)| AddressTx {
                tx: tx.clone().into(),
                height: *height,
            }),
        );
        ChainView::of(&history, Amount::from_sat(1_000), self.fee_rate)
    }
}

/// libbitcoinconsensus on every input.
pub fn verify_scripts(tx: &Transaction, spent: &[TxOut]) -> Result<(), String> {
    let raw = serialize(tx);
    let utxos: Vec<bitcoinconsensus::Utxo> = spent
        .iter()
        .map(|output| bitcoinconsensus::Utxo {
            script_pubkey: output.script_pubkey.as_bytes().as_ptr(),
            script_pubkey_len: u32::try_from(output.script_pubkey.len()).unwrap(),
            value: i64::try_from(output.value.to_sat()).unwrap(),
        })
        .collect();
    for (at, output) in spent.iter().enumerate() {
        bitcoinconsensus::verify_with_flags(
            output.script_pubkey.as_bytes(),
            output.value.to_sat(),
            &raw,
            Some(&utxos),
            at,
            FLAGS,
        )
        .map_err(|error| format!("{error:?}"))?;
    }
    Ok(())
}
